"""Program -> one readable PyTorch file whose memories run in chunks of tokens, forward and backward.

The program comes from ``passes/plan``: scans as chunk algebra, tiles between boundaries, and a loop over tokens only
where a step is not linear in its state. An optimizer changes its tensors in place, in as few passes as there are.
"""

from __future__ import annotations

from nlc.backends import reference
from nlc.backends.printed import Printed
from nlc.backends.torch.helpers import TEXTS
from nlc.backends.torch.module import emit_module
from nlc.backends.torch.optimizer import emit_optimizer
from nlc.backends.writer import Header
from nlc.ir.program import Program

NAME = "torch"
CONTEXTS = ("tokens", "gradients", "layers")  # of the systems that it has a form of
TILES: tuple[int, ...] | None = None  # that can be asked for; None: any
GATES = False  # whether it makes gates where they are used
LEAVES_OUT: tuple[str, ...] = reference.LEAVES_OUT  # what its files of token systems can do without
FUSES = True  # whether its files can compile what runs between boundaries
RESERVED = (
    reference.RESERVED
    | frozenset(TEXTS)
    | frozenset(
        "CHUNK CHANNEL_CHUNK flows fixed level partial start stop carried body Sequence propagation earlier".split()
    )
    | frozenset(
        "coupling channel_scores fused advance tensors numbers rooms given APART ROWS SPARE most symmetric".split()
    )
)


def emit(program: Program, header: Header) -> Printed:
    """The file; the same program and header give the same bytes."""
    trains = program.system.trains
    return emit_optimizer(program, header) if trains else emit_module(program, header)


def refusal(program: Program) -> str | None:
    """Why it has no form of the system; None where it has one."""
    context = program.system.context
    return None if context in CONTEXTS else f"a system over {context}"
