"""Program -> one file of PyTorch and Triton: the plan of the torch backend, its scans as generated kernels.

The rest of the file is what the torch backend prints. A vector or a number that is scanned is a matrix of one column.
"""

from __future__ import annotations

import re

from nlc.backends import torch
from nlc.backends.printed import Printed
from nlc.backends.triton import elements
from nlc.backends.triton.module import emit_module
from nlc.backends.triton.optimizer import emit_optimizer, has_kernels, unlike
from nlc.backends.triton.texts import TEXTS
from nlc.backends.writer import Header
from nlc.ir.program import Program
from nlc.lib.rules import KINDS

NAME = "triton"
CONTEXTS = ("tokens", "gradients")  # of the systems that it has a form of
TILES: tuple[int, ...] | None = (16, 32, 64)  # that can be asked for; None: any
GATES = True  # whether it makes gates where they are used
FUSES = False  # whether its files can compile what runs between boundaries
LEAVES_OUT: tuple[str, ...] = ()  # what its files of token systems can do without
_DEFINED = re.compile(r"^(?:def (\w+)\(|([A-Z]\w+) = |([A-Z]\w+): )", re.MULTILINE)
_TAKEN = "within triton tl functools hashlib inspect json os re warnings ThreadPoolExecutor Path"
RESERVED = (
    torch.RESERVED
    | frozenset(TEXTS)
    | frozenset(elements.TEXTS)
    | frozenset(f"{kind}_elements" for kind in KINDS)
    | frozenset(
        "elements KERNEL KEPT CAPTURED NARROW launches launched noted table_of on step_of as_float aligned".split()
    )
    | frozenset(n for text in TEXTS.values() for ns in _DEFINED.findall(text) for n in ns if n)
    | frozenset(_TAKEN.split())
)


def emit(program: Program, header: Header) -> Printed:
    """The file; the same program and header give the same bytes."""
    tokens = program.system.context == "tokens"
    return emit_module(program, header) if tokens else emit_optimizer(program, header)


def refusal(program: Program) -> str | None:
    """Why it has no form of the system, None where it has: an optimizer needs a rule that treats all elements alike."""
    return None if program.system.context == "tokens" or has_kernels(program) else unlike(program)
