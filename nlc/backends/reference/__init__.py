"""Program -> one readable PyTorch file: an ``nn.Module`` for tokens, a ``torch.optim.Optimizer`` for gradients.

The reference is the meaning of a spec: every statement of the program is a line, every expression is computed once a
tick of its clock, the loop over tokens is a loop, and all of it is differentiable to any order.
"""

from __future__ import annotations

from nlc.backends.reference.contract import OPTIONS
from nlc.backends.reference.module import emit_module
from nlc.backends.reference.optimizer import emit_optimizer
from nlc.backends.writer import Header
from nlc.ir.program import Program

NAME = "reference"
CONTEXTS = ("tokens", "gradients")  # of the systems that it has a form of
TILES: tuple[int, ...] | None = None  # that can be asked for; None: any

# Identifiers that the generated text uses itself; programs get their variables around them.
RESERVED = frozenset(
    """
    torch nn F math Tensor Iterator Callable Optimizer self state batch device dtype factory size
    ticks flows positions zip range len cls super matvec outer l2norm rmsnorm layernorm rotary causal_conv
    shifted push recent watched slopes graph causal_attention newton_schulz inv_root solve conjugate_gradients
    silu_slope gelu_slope closure loss group groups params hypers kind step update forward
    add_param_group load_state_dict check_group rule_of HYPERS
    initial_state param_groups reset_parameters defaults maximize g grad sum float int bool tuple
    list dict sorted type isinstance rules rule_of gathered param_group add_param_group missing
    functools blocks one_pass as_tensors compiled BLOCK in_place on_device out_of_place of either filled chosen
    widened rounded sqrt due new old memory given advance run dtype settle stepped tensors numbers
    abs max min like name value unknown piece pieces streams cu_seqlens checkpoint place set
    """.split()
)

# What a parameter group holds beside the hypers of its optimizer.
GROUP = frozenset({"params", "param_names", "period", "rule", "fused", "matrix_dtype", *OPTIONS})


def emit(program: Program, header: Header) -> str:
    """The text of the file; the same program and header give the same bytes."""
    tokens = program.system.context == "tokens"
    return emit_module(program, header) if tokens else emit_optimizer(program, header)
