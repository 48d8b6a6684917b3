"""Random memories whose scans are kernels, against the backend `torch` in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from linear_systems import linear_systems, picked, self_modifying, self_modifying_systems
from recurrences import error
from ways import Way, run, run_alone, ways

import nlc
from nlc.ir.system import System
from nlc.pipeline import Spec
from nlc.runtime.verify.draws import draw
from nlc.tools.sizes import settled, small

MOST = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
TIMES = {torch.float32: 50, torch.float16: 4, torch.bfloat16: 4}  # what `torch` itself is off
LARGE = 1e3
LAUNCHES = 100  # an example with more takes the interpreter long
WHOLE = Way([[8, 8]])
EXAMPLES = 4  # the first is always the simplest one


def check(spec: Spec, way: Way, holds: Callable[[bool], object]) -> None:
    holds("launch(" in spec.source_text("triton"))
    fixed = {n: v for n, v in way.hypers.items() if n in spec.system.hypers}
    sizes = small(spec.system, fixed, 8)
    torch.manual_seed(0)
    exact, kernels, plain = (spec.compile(b)(**sizes) for b in ("torch", "triton", "torch"))
    exact.to(way.dtype)
    for net in (kernels, plain):
        net.to(way.dtype).load_state_dict(exact.state_dict())
    lengths = way.lengths
    flows = draw(spec.system, settled(spec.system, sizes), len(lengths), max(lengths))
    wanted = run_alone(exact.double(), flows, way)
    holds(all(x.isfinite().all() and x.abs().max() < LARGE for x in wanted.values()))
    found, rounded = (run(net, flows, way, way.dtype) for net in (kernels, plain))
    assert found.keys() == wanted.keys()
    for n, x in wanted.items():
        most = max(MOST[way.dtype], TIMES[way.dtype] * error(rounded[n], x))
        assert error(found[n], x) < most, n


def launches(system: System, way: Way) -> int:
    """About how many programs run: of each tensor and head, for each chunk or piece between boundaries."""
    out = 0
    for level in system.levels.values():
        clocks = [level.clock, level.anchor, level.reset and level.reset.every]
        cuts = [int(c.count.constant) for c in clocks if c and c.kind == "every"]
        piece = min(n for n in (*cuts, way.checkpoint, way.truncate, 16) if n and n > 1)
        out += sum(-(-n // piece) for n in way.lengths) * len(level.states)
    return out * way.hypers.get("heads", 2)


@pytest.mark.parametrize("examples", (EXAMPLES, pytest.param(40, marks=pytest.mark.long)))
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
    @given(strategy, ways())
    def holds(text: str, way: Way) -> None:
        spec = nlc.loads(text, "random.yaml")
        assume(not spec.check().has_errors)
        assume(launches(spec.system, way) <= LAUNCHES)
        check(spec, way, assume)

    holds()


def sure(holds: bool) -> None:
    assert holds


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
    check(nlc.loads(self_modifying(picked(*wanted)), "modifying.yaml"), WHOLE, sure)
