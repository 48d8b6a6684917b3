"""The value of an expression of a system, by recursion: half of the interpreter, ``runtime/interpreter`` is the other.

An expression has a value at a ``Place``: a tick, the clock of who reads it, and names that mean something there alone.
What reads other ticks, ``prev`` or a sum over a period, is evaluated in those ticks, so that nothing need be carried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nlc.ir.expr import Expr
from nlc.ir.system import System
from nlc.ir.types import STEP, TOKEN, Clock, Dim, Dims, Like, Number
from nlc.runtime.operations import OPERATIONS, aligned

States = dict[str, Tensor]
Name = tuple[str, object]  # (op, attr) of a leaf that a place gives a value
Input = tuple[float, Tensor | None]  # how often z stands in `W @ z`, and z; None for a bias


@dataclass(eq=False)
class Tick:
    """One token or step: what came in, the states before it, at their last boundaries, and after it."""

    number: int  # from 1 at the start of the stream
    given: dict[str, Tensor]
    before: States
    boundary: States
    previous: Tick | None
    after: States = field(default_factory=dict)  # filled as states are asked for
    places: dict[Clock, Place] = field(default_factory=dict)

    def back(self) -> Iterator[Tick]:
        """This tick and those before it, newest first."""
        tick: Tick | None = self
        while tick is not None:
            yield tick
            tick = tick.previous

    def read_by(self, clock: Clock) -> Place:
        """Where a reader of this clock stands."""
        return self.places.setdefault(clock, Place(self, clock))


@dataclass(eq=False)
class Place:
    """Where an expression is evaluated; ``values`` holds what has been evaluated here."""

    tick: Tick
    clock: Clock
    bound: dict[Name, Tensor] = field(default_factory=dict)
    values: dict[Expr, Tensor] = field(default_factory=dict)
    inputs: dict[str, list[Input]] = field(default_factory=dict)  # of each weight of an objective
    share: float = 1.0  # of a tick in the mean that is being taken

    def where(self, time: str, states: States) -> Place:
        """The same place, where states read at ``time`` are these."""
        here = {("state", (name, time)): value for name, value in states.items()}
        return Place(self.tick, self.clock, {**self.bound, **here})

    def at(self, tick: Tick, clock: Clock, share: float) -> Place:
        """Another tick, with the same names bound."""
        return Place(tick, clock, self.bound, inputs=self.inputs, share=self.share * share)


class Expressions:
    """The value of any expression of a system, at any place.

    Args:
        system: typed, as ``Spec.system``.
        hypers: all of them by name; a list's as ``name[i]`` too.
        weights: slow weights by the spec's paths, learned starts as ``S.init``.
        sizes: sizes that are no hypers, ``rows(W)`` say.
    """

    def __init__(
        self,
        system: System,
        hypers: Mapping[str, Number],
        weights: Mapping[str, Tensor],
        sizes: Mapping[str, int] | None = None,
    ):
        self.system, self.hypers, self.weights = system, hypers, weights
        self.sizes = {
            **{k: v for k, v in hypers.items() if not isinstance(v, list)},
            **(sizes or {}),
        }
        self.tokens = system.context == "tokens"
        self.base = TOKEN if self.tokens else STEP
        self.lead = 2 if self.tokens else 0
        self.start: States = {}
        self.now: Tick | None = None

    # ---------------------------------------------------------------------------------------- expressions

    def value(self, e: Expr, at: Place) -> Tensor:
        """An expression here."""
        if e not in at.values:
            bound = at.bound.get((e.op, e.attr)) if not e.args else None
            at.values[e] = bound if bound is not None else self._value(e, at)
        return at.values[e]

    def _value(self, e: Expr, at: Place) -> Tensor:
        if e.op in LEAVES:
            return LEAVES[e.op](self, e, at)
        args = [self.value(a, at) for a in e.args]
        for weight, x in zip(e.args, [*args[1:], None]):
            if weight.op == "state" and weight.attr[1] == "var" and e.op in ("matmul", "add"):
                known = at.inputs.setdefault(weight.attr[0], [])
                known.append((at.share, x if e.op == "matmul" else None))
        if e.op in AXES:
            return AXES[e.op](self, e, *args)
        out = OPERATIONS[e.op](self.lead, *args)
        return out.squeeze(-1) if e.op == "linear" and e.type.dims == () else out

    def like(self, x: Tensor, state: Tensor) -> Tensor:
        """A value that fills a state: a number stands for all of its elements."""
        return aligned(self.lead, x, state)[0].expand(state.shape)

    def number(self, value: Number) -> Tensor:
        return torch.full([1] * self.lead, float(value), dtype=torch.float64)

    def shape(self, dims: Dims) -> list[int]:
        """A value's own axes."""
        if any(isinstance(d, Like) for d in dims):
            return list(
                self.start[next(s.name for s in self.system.states.values() if s.trained)].shape
            )
        return [self.size(d) for d in dims]

    @property
    def heads(self) -> int:
        return int(self.hypers.get("heads", 1))

    def weight(self, path: str, head: bool) -> Tensor:
        w = self.weights[path]
        return w[None] if head else w[None, None]

    # ---------------------------------------------------------------------------------------- leaves

    def _state(self, e: Expr, at: Place) -> Tensor:
        """``now``: its new value of this tick, or the held one if its level is slower than the reader."""
        name, time = e.attr
        level = self.system.levels[self.system.states[name].level]
        if time == "anchor":
            return at.tick.boundary[name]
        if time == "prev" or (time == "now" and at.clock.faster(level.clock)):
            return at.tick.before[name]
        assert time == "now", f"`{name}` has no {time} here"
        return self.after(name, at.tick)

    def _total(self, e: Expr, at: Place) -> Tensor:
        """``sum``, ``mean`` or ``last`` of an expression over its own ticks within the period."""
        (kind, clock), inner = e.attr, e.args[0]
        own = inner.type.clock
        ticks = [t for t in self.period(clock, at.tick) if self.ticks(own, t.number)]
        if kind == "last":
            return self.value(inner, at.at(ticks[-1], own, 1.0))
        share = 1 / len(ticks) if kind == "mean" else 1.0
        return share * sum(self.value(inner, at.at(tick, own, share)) for tick in ticks)

    def _index(self, e: Expr, at: Place) -> Tensor:
        """``head``; ``t``, the level's own ticks from 1; ``pos``, tokens from 0."""
        what, level = e.attr
        if what == "head":
            return torch.arange(self.heads, dtype=torch.float64)[None]
        if what == "pos":
            return self.number(at.tick.number - 1)
        period = self.size(self.system.levels[level].clock.count) if level else 1
        return self.number(-(-at.tick.number // period))

    def _grad(self, e: Expr, at: Place) -> Tensor:
        """``grad(e, P)``: the slope of e by what stands for P in it."""
        inner, value = e.args
        point = variable(self.value(value, at))
        here = Place(at.tick, at.clock, {**at.bound, ("variable", e.attr): point})
        return torch.autograd.grad(self.value(inner, here).sum(), point, create_graph=True)[0]

    def _delay(self, e: Expr, at: Place) -> Tensor:
        """The value one tick of its clock earlier, at first ``init``."""
        inner, init = e.args
        past = (
            t for t in at.tick.back() if t is not at.tick and self.ticks(inner.type.clock, t.number)
        )
        tick = next(past, None)
        if tick is not None:
            return self.value(inner, tick.read_by(at.clock))
        start = self.value(init, at)
        own = [*start.shape[: self.lead], *self.shape(e.type.dims)]
        return self.like(start, torch.empty(own, dtype=start.dtype))

    def _conv(self, e: Expr, at: Place) -> Tensor:
        """Σ w_i x_{t - taps + 1 + i}, channel by channel; before the first token x is 0."""
        x, weight, *bias = e.args
        w = self.value(weight, at)
        now = self.value(x, at)
        w = w if now.ndim > self.lead else w.squeeze(-2)
        total = torch.zeros_like(now)
        for age, tick in zip(range(w.shape[-1]), at.tick.back()):
            total = total + w[..., w.shape[-1] - 1 - age] * self.value(x, tick.read_by(at.clock))
        for b in bias:
            total = total + (
                self.value(b, at) if now.ndim > self.lead else self.value(b, at)[..., 0]
            )
        return total

    def _attend(self, e: Expr, at: Place) -> Tensor:
        """Softmax attention over this token and those before it."""
        q, key, value = e.args
        level, window = e.attr
        ticks = list(at.tick.back())[: self.size(window) if window is not None else None]
        keys, values = (
            torch.stack([self.value(x, t.read_by(at.clock)) for t in ticks], self.lead)
            for x in (key, value)
        )
        scale = self.system.levels[level].memory.options.get("scale")
        factor = self.value(scale, at) if scale is not None else keys.shape[-1] ** -0.5
        scores = (self.value(q, at)[:, :, None] * keys).sum(-1)
        weights = OPERATIONS["mul"](self.lead, torch.as_tensor(factor), scores).softmax(-1)
        return (weights[..., None] * values).sum(-2)

    # ---------------------------------------------------------------------------------------- axes

    def _split(self, e: Expr, x: Tensor) -> Tensor:
        return x[:, 0].reshape(x.shape[0], self.heads, *map(self.size, e.type.dims))

    def _merge(self, e: Expr, x: Tensor) -> Tensor:
        return x.flatten(1)[:, None]

    def _slice(self, e: Expr, x: Tensor) -> Tensor:
        start, stop = map(self.size, e.attr)
        return x[..., start:stop]

    def after(self, name: str, tick: Tick) -> Tensor:
        """A state after a tick, before resets."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------- clocks and sizes

    def ticks(self, clock: Clock, number: int) -> bool:
        """Whether a clock ticks in this tick of the base clock."""
        return clock.kind != "every" or number % self.size(clock.count) == 0

    def period(self, clock: Clock, tick: Tick) -> list[Tick]:
        """The ticks of a period that ends here, oldest first."""
        ticks = [t for t, _ in zip(tick.back(), range(self.size(clock.count)))]
        return ticks[::-1]

    def size(self, dim: Dim) -> int:
        return int(dim.evaluate(self.sizes))


def variable(x: Tensor) -> Tensor:
    """A tensor of its own to differentiate by, through which the outer gradient still passes."""
    return x.clone() if x.requires_grad else x.clone().requires_grad_()


AXES = {"split": Expressions._split, "merge": Expressions._merge, "slice": Expressions._slice}
LEAVES: dict[str, Callable[[Expressions, Expr, Place], Tensor]] = {
    "num": lambda self, e, at: self.number(e.attr),
    "hyper": lambda self, e, at: self.number(self.hypers[e.attr]),
    "input": lambda self, e, at: at.tick.given[e.attr],
    "g": lambda self, e, at: at.tick.given["g"],
    "flow": lambda self, e, at: self.value(
        self.system.flows[e.attr].expr, at.tick.read_by(at.clock)
    ),
    "weight": lambda self, e, at: self.weight(e.attr, e.type.head),
    "initial": lambda self, e, at: self.start[e.attr],
    "state": Expressions._state,
    "total": Expressions._total,
    "index": Expressions._index,
    "grad": Expressions._grad,
    "delay": Expressions._delay,
    "conv": Expressions._conv,
    "attend": Expressions._attend,
}
