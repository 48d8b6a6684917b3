"""Random memories whose scans are kernels, against the backend `torch` in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from linear_systems import linear_systems, picked, self_modifying, self_modifying_systems
from recurrences import error
from torch import Tensor, nn

import nlc
from nlc.runtime.verify.draws import draw
from nlc.tools.sizes import settled, small

LENGTH = 19  # tokens
MOST = 1e-3  # of float32; where `torch` itself is off in float32, 50 times that
LARGE = 1e3


def run(net: nn.Module, flows: dict[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Outputs, states, and slopes by inputs and weights, 0 for those that do not matter."""
    leaves = {n: (0.5 * x.detach()).to(dtype).requires_grad_() for n, x in flows.items()}
    outputs, state = net(**leaves)
    found = [*outputs.values()] if isinstance(outputs, dict) else [outputs]
    found += [x for x in state.values() if x.is_floating_point()]
    loss = sum(x.sin().sum() for x in found if x.requires_grad)
    of = [*leaves.values(), *net.parameters()]
    slopes = torch.autograd.grad(loss, of, allow_unused=True)
    return [x.detach() for x in (*found, *(torch.zeros(1) if s is None else s for s in slopes))]


def sure(holds: bool) -> None:
    assert holds


def check(text: str, holds: Callable[[bool], object] = assume) -> None:
    spec = nlc.loads(text, "random.yaml")
    holds(not spec.check().has_errors)
    holds("launch(" in spec.source_text("triton"))
    sizes = small(spec.system, {}, 8)
    torch.manual_seed(0)
    exact, kernels, plain = (spec.compile(b)(**sizes) for b in ("torch", "triton", "torch"))
    for net in (kernels, plain):
        net.load_state_dict(exact.state_dict())
    flows = draw(spec.system, settled(spec.system, sizes), 2, LENGTH)
    wanted = run(exact.double(), flows, torch.float64)
    holds(all(x.isfinite().all() and x.abs().max() < LARGE for x in wanted))
    found, rounded = (run(net, flows, torch.float32) for net in (kernels, plain))
    for a, b, c in zip(found, rounded, wanted, strict=True):
        assert error(a, c) < max(MOST, 50 * error(b, c))


@pytest.mark.parametrize("examples", (1, pytest.param(40, marks=pytest.mark.long)))
@pytest.mark.parametrize("strategy", (linear_systems(), self_modifying_systems()), ids=str)
def test_random_memories_with_kernels_are_those_without(
    strategy: st.SearchStrategy[str], examples: int
) -> None:
    @seed(examples)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(strategy)
    def holds(text: str) -> None:
        check(text)

    holds()


SAME = "[3, 3, 3, 3]"  # tokens between boundaries, of all memories


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(
            (
                *("mlp(n, 1, out=out, act=tanh)", SAME, "anchor(M[memory])"),
                "momentum(lr=1, rate=0.1 * a, beta=0.5, decay=alpha)",
            ),
            id="two memories that run as one share no weights with one that runs alone",
        ),
        pytest.param(
            (
                *("matrix(out, n)", SAME, "anchor(M[s])(v)", "a", "prev(M[memory])"),
                "gd(lr=0.2 * a, decay=a)",
            ),
            id="a decay of either sign, of a write that erases nothing",
        ),
    ],
)
def test_weights_of_coupled_states(wanted: tuple[str, ...]) -> None:
    check(self_modifying(picked(*wanted)), sure)
