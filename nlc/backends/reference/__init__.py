"""Program -> one readable PyTorch file: an ``nn.Module`` for tokens, a ``torch.optim.Optimizer`` for gradients.

The reference is the meaning of a spec: every statement of the program is a line, every expression is computed once a
tick of its clock, the loop over tokens is a loop, and all of it is differentiable to any order.
"""

from __future__ import annotations

from nlc.backends.features import FEATURES
from nlc.backends.printed import Printed
from nlc.backends.reference.module import emit_module
from nlc.backends.reference.optimizer import emit_optimizer
from nlc.backends.words import RESERVED
from nlc.backends.writer import Header
from nlc.ir.program import Program

NAME = "reference"
CONTEXTS = ("tokens", "gradients", "layers")  # of the systems that it has a form of
TILES: tuple[int, ...] | None = None  # that can be asked for; None: any
GATES = False  # whether it makes gates where they are used
FUSES = False  # whether its files can compile what runs between boundaries
LEAVES_OUT: tuple[str, ...] = tuple(FEATURES)  # what its files of token systems can do without


def emit(program: Program, header: Header) -> Printed:
    """The file; the same program and header give the same bytes."""
    trains = program.system.trains
    return emit_optimizer(program, header) if trains else emit_module(program, header)


def refusal(program: Program) -> str | None:
    """Why it has no form of the system; None where it has one."""
    context = program.system.context
    return None if context in CONTEXTS else f"a system over {context}"


__all__ = [
    "CONTEXTS",
    "FUSES",
    "GATES",
    "LEAVES_OUT",
    "NAME",
    "RESERVED",
    "TILES",
    "emit",
    "refusal",
]
