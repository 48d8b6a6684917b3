"""The words of generated files that a spec's own names must keep clear of."""

from __future__ import annotations

import keyword
from collections.abc import Collection

from nlc.base.diagnostics import Report
from nlc.ir.system import System

# Identifiers that the generated text uses itself; programs get their variables around them.
RESERVED = frozenset(
    """
    torch nn F math Tensor Iterator Callable Optimizer self state batch device dtype factory size
    ticks flows positions zip range len cls super matvec outer concat l2norm rmsnorm layernorm rotary causal_conv
    shifted push recent watched slopes graph causal_attention newton_schulz inv_root solve conjugate_gradients
    eigh_basis qr
    silu_slope gelu_slope closure loss group groups params hypers kind step update forward
    add_param_group load_state_dict check_group rule_of HYPERS
    initial_state param_groups reset_parameters defaults maximize g grad sum float int bool tuple
    list dict sorted type isinstance rules rule_of gathered param_group add_param_group missing
    joined parted portions calls_are_cheap room_for Matrices WHOLE SMALL LARGE PLAIN together
    stepped_as_one joins following
    functools blocks one_pass as_tensor compiled BLOCK CALL SETS Passes in_passes spare
    in_place on_device out_of_place of either filled chosen
    computed_in runner widened rounded sqrt due new old memory given advance run dtype settle stepped tensors numbers
    abs max min like name value unknown piece pieces streams cu_seqlens checkpoint place set
    identity several so_far samples hooks names watch unwatch
    declared whole_sizes seen plain_numbers takes_flow state_layout started all_finite expect_finite Sequence
    MATRICES LASTING check_shapes check_lasting check_bounds check_hypers in_bounds
    route_of route_in check_routes unused shown rejoined suits fnmatchcase Seen Part
    """.split()
)

# What a parameter group holds beside the hypers of its optimizer.
GROUP = frozenset(
    """
    params param_names route routes modules view period rule fused matrix_dtype maximize capturable differentiable
    state_dtype rounding_seed lasting
    """.split()
)


# What `forward` and `step` of a module say themselves.
CALL = frozenset("self state cu_seqlens takes_flow streams packed_streams torch".split())


def arguments(inputs: Collection[str]) -> dict[str, str]:
    """What ``forward`` and ``step`` call each input, in every backend: its own name, if Python has not taken it."""
    found = {}
    for name in inputs:
        argument = name
        while argument in CALL or keyword.iskeyword(argument) or argument in {*inputs} - {name}:
            argument += "_"
        found[name] = argument
    return found


def free_names(system: System, report: Report) -> None:
    """Hypers are arguments of the generated constructor, under their own names."""
    taken = RESERVED | GROUP if system.trains else RESERVED
    taken |= {"layers", "layer"} if system.context == "layers" else set()
    for hyper in system.hypers.values():
        if hyper.name in taken or keyword.iskeyword(hyper.name):
            report.add(
                "NLC106",
                f"`{hyper.name}` cannot be a hyper",
                hyper.span,
                "Python or the generated file uses this name itself",
                helps=["choose another name"],
            )
    for flow in system.flows.values():
        start = flow.name.removesuffix(".init")
        if start != flow.name and any(
            s.learned for s in system.states.values() if s.level == start
        ):
            report.add(
                "NLC106",
                f"`init` cannot be a flow of level `{start}`",
                flow.span,
                f"`{start}.init` is the learned start",
                helps=["choose another name"],
            )
