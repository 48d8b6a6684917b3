"""A system by two backends with the same weights, inputs and first states: how far apart what comes out is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import nlc
from nlc.runtime.verify.draws import draw, named, randomised
from nlc.tools.sizes import longest, settled, small

Tensors = dict[str, Tensor]

SAME = 1e-10  # in float64, of the largest element of a tensor
SMALL = 1e-3  # a tensor with no larger element is compared with this
LARGE = 1e6  # values stay below, since rounding grows with them
MOVED = 100  # times what the reference itself moves by, if its inputs are rounded differently


class TooLarge(Exception):
    """The system grows out of hand, so that there is nothing to compare."""


class Both:
    """The ``reference`` and the ``torch`` class of one spec, small, with the same random weights in float64.

    ``width`` is the most that a width is, ``hypers`` are kept as given, ``periods`` says whether those of the spec
    become small too, ``device`` is where ``torch`` computes, ``tile`` how many tokens one triangular solve takes there.
    """

    def __init__(
        self,
        spec: nlc.Spec,
        hypers: Mapping[str, object] | None = None,
        seed: int = 0,
        width: int = 8,
        periods: bool = True,
        device: str = "cpu",
        tile: int | None = None,
    ):
        torch.manual_seed(seed)
        chosen = small(spec.system, hypers or {}, width, periods)
        self.spec, self.hypers = spec, settled(spec.system, chosen)
        self.reference = randomised(spec.compile("reference")(**chosen))
        self.choices, levels = spec.choices("torch"), spec.system.levels
        self.plans = {c.level: c.plan for c in self.choices}
        tiled = {n: p for n, p in self.plans.items() if p != "sequential" and n in levels}
        plan = {n: f"{p}({tile})" for n, p in tiled.items()} if tile else None
        self.torch = spec.compile("torch", plan)(**chosen).double().to(device)
        self.torch.load_state_dict(self.reference.state_dict())
        self.device = device

    @property
    def period(self) -> int:
        """The longest period of a level, an anchor or a reset, in tokens."""
        return longest(self.spec.system, self.hypers)

    def apart(self, length: int, before: int = 0, batch: int = 3) -> dict[str, float]:
        """What differs by more than rounding, by name: outputs, states at the end, gradients by everything.

        The stream of ``length`` tokens starts anew, or ``before`` tokens into a stream. The gradients are those of a
        random projection of all outputs and states, by parameters, inputs and the states that come in.
        """
        given, state, expected = self._expected(length, before, batch)
        found = self._run(self.torch, given, state)
        out = {n: torch.inf for n in found.keys() ^ expected.keys()}
        errors = {n: error(found[n], x) for n, x in expected.items() if n in found}
        out |= {n: e for n, e in errors.items() if e > SAME}
        if out and max(out.values()) < SMALL:  # is it the system that makes rounding larger?
            given = {n: x * (1 + 1e-15 * torch.randn_like(x)) for n, x in given.items()}
            again = self._run(self.reference, given, state)
            out = {n: e for n, e in out.items() if e > MOVED * error(again[n], expected[n])}
        return out

    def _expected(
        self, length: int, before: int, batch: int
    ) -> tuple[Tensors, Tensors | None, Tensors]:
        """Inputs, the state that they meet and what the reference makes of them, as drawn or scaled down."""
        for scale in (1.0, 0.5, 0.25, 0.125):
            given = self._draw(batch, length, scale)
            state = self._start(given)
            if before:
                with torch.no_grad():
                    early = named(self._draw(batch, before, scale))
                    _, state = self.reference(**early, state=state)
            expected = self._run(self.reference, given, state)
            if all((x.abs() < LARGE).all() for x in expected.values()):
                return given, state, expected
        raise TooLarge

    def _start(self, given: Tensors) -> Tensors | None:
        """What is learned of an operator's start comes in with the state, and is not zero."""
        mine = [s.name for s in self.spec.system.states.values() if s.given]
        if not mine:
            return None
        state = self.reference.initial_state(next(iter(given.values())))
        begun = {n: torch.randn_like(state[n]) * state[n].shape[-1] ** -0.5 for n in mine}
        anchors = {f"{n}.anchor": x for n, x in begun.items() if f"{n}.anchor" in state}
        return state | begun | anchors

    def _draw(self, batch: int, length: int, scale: float) -> Tensors:
        given = draw(self.spec.system, self.hypers, batch, length)
        return {n: scale * x for n, x in given.items()}

    def _run(self, net: torch.nn.Module, given: Tensors, state: Tensors | None) -> Tensors:
        """Outputs as ``output y``, states by name, slopes as ``by …``; integers are as they are."""
        device = self.device if net is self.torch else "cpu"
        given = {n: x.to(device, copy=True).requires_grad_() for n, x in given.items()}
        leaves = {f"by input {n}": x for n, x in given.items()}
        leaves |= {f"by {n}": x for n, x in net.named_parameters()}
        if state is not None:
            state = {n: _watched(x.to(device)) for n, x in state.items()}
            leaves |= {f"by state {n}": x for n, x in state.items() if x.requires_grad}
        y, end = net(**named(given), state=state)
        outputs = y if isinstance(y, dict) else {"y": y}
        out = {f"output {n}": x for n, x in outputs.items()} | dict(end)
        noise = torch.Generator().manual_seed(1)
        loss = torch.zeros((), dtype=torch.float64, requires_grad=True, device=device) + sum(
            (x * torch.randn(x.shape, generator=noise, dtype=x.dtype).to(device)).sum()
            for _, x in sorted(out.items())
            if x.is_floating_point()
        )
        slopes = torch.autograd.grad(
            loss, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        found = {n: x.detach() for n, x in out.items()} | dict(zip(leaves, slopes))
        return {n: x.cpu() for n, x in found.items()}


def _watched(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_() if x.is_floating_point() else x


def error(found: Tensor, expected: Tensor, least: float = SMALL) -> float:
    """Relative to the largest element, or to ``least``; infinite if shapes differ or something is no number."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return torch.inf
    if not found.numel():
        return 0.0
    if not found.is_floating_point():
        return 0.0 if torch.equal(found, expected) else torch.inf
    if not (found.isfinite().all() and expected.isfinite().all()):
        return torch.inf
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=least)).item()
