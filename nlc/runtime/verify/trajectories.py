"""The first steps of a gradient system on one fixed problem: figures to keep beside a spec, the same on every machine.

The loss is ½ Σ c (W − b)², of a layer the mean of ½ Σ c (W x − b)² over three inputs; its numbers and the start are
small fractions that float64 holds exactly, so that nothing is drawn. The interpreter makes the steps; what is compiled
is compared with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nlc.runtime.interpreter import Interpreter
from nlc.runtime.verify.feeds import Given, Trained, of_samples
from nlc.runtime.verify.gradients import begun, interpreted_tick, kinds, sides
from nlc.runtime.verify.report import (
    EXACT,
    NO_NUMBERS,
    Check,
    Trajectory,
    compared,
    difference,
    limit,
    refused,
)
from nlc.tools.sizes import Values, longest, settled

if TYPE_CHECKING:
    from nlc.pipeline import Spec

SHAPES = ((2, 3), (3,), (), (2, 2), (2, 2, 2))  # of a kind the first that its system takes
MOST = 64
SAMPLES = 3  # of a layer
GROWN = 1e4  # times the largest loss before, in one step: by its size alone one of 34 would do it, as (1 − 3 lr)²
DECIMALS, ROUGH = 9, 5  # printed; fewer where a function asks for a shorter format


def trajectories(
    spec: Spec, backends: Iterable[str], fixed: Mapping[str, Any]
) -> tuple[list[Trajectory], list[Check]]:
    """One of each kind of tensor, at the spec's own hypers but for those given; steps 1, 2, 4, … past two periods."""
    found, lives, errors = [], [], dict.fromkeys(backends, 0.0)
    failed: dict[str, Exception] = {}
    tolerance = EXACT
    for kind in (k for k in kinds(spec, SHAPES) if not k.view):
        hypers = settled(kind.system, fixed)
        least = min(max(8, 2 * longest(kind.system, hypers)), MOST)
        marks = [2**i for i in range(MOST.bit_length()) if 2**i < 2 * least]
        W = start(kind.shapes[0])
        try:
            expected = _interpreted(kind.system, hypers, W, marks[-1])
        except NO_NUMBERS as error:
            failed |= dict.fromkeys(errors, error)
            continue
        wanted, _ = limit([kind.system])
        tolerance = max(tolerance, wanted)
        decimals = DECIMALS if wanted == EXACT else ROUGH
        shown = [W, *(expected[m - 1] for m in marks)]
        lives.append(_bounded(kind.name, kind.system.context == "layers", [W, *expected]))
        rows = tuple(
            tuple(f"{x:.{decimals}f}" for x in (w + 0.0).flatten().tolist()) for w in shown
        )
        digest = hashlib.sha256("\n".join(map(" ".join, rows)).encode()).hexdigest()[:16]
        found.append(Trajectory(kind.name, tuple(W.shape), (0, *marks), rows, digest))
        for name in errors:
            layer = kind.system.context == "layers"
            try:
                got = _compiled(spec.compile(name), fixed, W, marks[-1], layer, kind.group)
            except NO_NUMBERS as error:
                failed[name] = error
                continue
            changes = [{"": x.diff(dim=0, prepend=W[None])} for x in (got, expected)]
            errors[name] = max(errors[name], difference(*changes))
    what = "{}: the trajectory = the interpreter's"
    checks = [
        refused(what.format(n), failed[n])
        if n in failed
        else compared(what.format(n), e, max(tolerance, 1e-8))
        for n, e in errors.items()
    ]
    return found, checks + lives


def _bounded(kind: str, layer: bool, passed: list[Tensor]) -> Check:
    """Whether no step throws away what is trained."""
    of = f" of {kind}" if kind else ""
    what = f"no step makes the loss{of} {GROWN:,.0f} times as large as it was, of {len(passed) - 1}"
    losses = torch.stack([loss(W, layer) for W in passed]).nan_to_num(torch.inf)
    worst = (losses[1:] / losses.cummax(0).values[:-1]).nan_to_num(torch.inf).max().item()
    return Check(what, passed=worst < GROWN, note=f"{worst:.2g} times at most", life=True)


def loss(W: Tensor, layer: bool) -> Tensor:
    """What ``slope`` is the slope of: ½ Σ c (W − b)², of a layer the mean over its inputs."""
    if layer:
        W = start((SAMPLES, W.shape[1])) @ W.mT
    k = torch.arange(W.numel(), dtype=W.dtype).reshape(W.shape)
    found = ((1 + k % 3) * (W - ((3 * k + 1) % 5 - 2) / 2).square()).sum() / 2
    return found / SAMPLES if layer else found


def start(shape: tuple[int, ...]) -> Tensor:
    """(5 k + 3 mod 7 − 3) / 4 for the k-th number."""
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (((5 * k + 3) % 7 - 3) / 4).reshape(shape)


def slope(W: Tensor) -> Tensor:
    """c (W − b), c = 1 + k mod 3 and b = (3 k + 1 mod 5 − 2) / 2 for the k-th number."""
    k = torch.arange(W.numel(), dtype=torch.float64).reshape(W.shape)
    return (1 + k % 3) * (W - ((3 * k + 1) % 5 - 2) / 2)


def _given(W: Tensor, layer: bool) -> Given:
    """The gradient at W, with the samples of a layer."""
    if not layer:
        return {"g": slope(W)}
    x = start((SAMPLES, W.shape[1]))
    return of_samples(x, slope(x @ W.mT))


def _interpreted(system: Any, hypers: Values, W: Tensor, steps: int) -> Tensor:
    run = Interpreter(system, hypers, {}, sides(system, tuple(W.shape)))
    trained, states = begun(run, W)
    out = []
    for _ in range(steps):
        given = _given(states[trained], system.context == "layers")
        states = interpreted_tick(run, states, given)
        out.append(states[trained])
    return torch.stack(out)


def _compiled(
    made: type,
    fixed: Mapping[str, Any],
    W: Tensor,
    steps: int,
    layer: bool,
    group: Mapping[str, object],
) -> Tensor:
    trained, out = Trained(made, W, layer, fixed, group), []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU alone draws
        for _ in range(steps):
            out.append(trained.step(_given(trained.parameter.detach(), layer)))
    return torch.stack(out)
