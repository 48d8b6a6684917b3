"""The value of an expression of a system, by recursion: half of the interpreter, ``runtime/interpreter`` is the other.

An expression has a value at a ``Place``: a tick, the clock of who reads it, and names that mean something there alone.
What reads other ticks, ``prev`` or a sum over a period, is evaluated in those ticks, so that nothing need be carried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from nlc.ir.expr import Expr
from nlc.ir.shapes import parts
from nlc.ir.system import Level, System
from nlc.ir.types import SAMPLE, STEP, TOKEN, Clock, Dim, Dims, Like, Number
from nlc.runtime.operations import OPERATIONS, SLOPES, aligned
from nlc.runtime.ticks import Place, States, Tick


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
        self.steps: dict[str, Level] = {}  # levels by state, steps inside rules by name
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
        if (
            e.op == "div" and e.args[0].op == "recent" and _is_count(e.args[1])
        ):  # a mean over a window: each tick has a share
            count = self.value(e.args[1], at)
            return self._recent(e.args[0], at, 1 / count.item()) / count
        args = [self.value(a, at) for a in e.args]
        for weight, x in zip(e.args, [*args[1:], None]):
            if weight.op == "state" and weight.attr[1] == "var" and e.op in ("matmul", "add"):
                known = at.inputs.setdefault(weight.attr[0], [])
                known.append((at.share, x if e.op == "matmul" else None))
        if e.op in TOLD:
            return TOLD[e.op](self, e, *args)
        out = OPERATIONS[e.op](self.lead, *args)
        return out.squeeze(-1) if e.op in ("linear", "embedding") and e.type.dims == () else out

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
        """``now``: its new value of this tick, or the held one if its level ticks behind the reader."""
        name, time = e.attr
        level = self.system.levels[self.system.states[name].level]
        if time == "anchor":
            return at.tick.boundary[name]
        if time == "base":  # read by a level of its rule
            return self.base_of(level, at.tick)[name]
        if time == "prev" or (time == "now" and level.clock.held_for(at.clock)):
            return at.tick.before[name]
        assert time == "now", f"`{name}` has no {time} here"
        return self.after(name, at.tick)

    def _total(self, e: Expr, at: Place) -> Tensor:
        """``sum`` or ``mean`` over the operand's own ticks within the period, or ``last``, as it is when it ends."""
        (kind, clock), inner = e.attr, e.args[0]
        own = inner.type.clock
        if kind == "last":
            return self.value(inner, at.at(at.tick, own, 1.0))
        level = self.system.levels[at.level]
        resets = level.reset
        period = self.period(clock, at.tick, resets.every if resets is not None else None)
        if own == SAMPLE:
            found = list(at.samples(kind == "mean", period))
            share = 1 / len(found) if kind == "mean" else 1.0
            return share * sum(self.value(inner, place) for place in found)
        ticks = [t for t in period if self.ticks(own, t)]
        share = 1 / max(len(ticks), 1) if kind == "mean" else 1.0
        if inner.op == "objective" and inner.attr == level.through:
            return share * self.again(level, at, period)
        none = torch.zeros([*[1] * self.lead, *self.shape(e.type.dims)], dtype=torch.float64)
        there = (self._of_then(at.at(t, own, share), at.tick) for t in ticks)
        return share * sum((self.value(inner, place) for place in there), none)

    def _of_then(self, at: Place, now: Tick) -> Place:
        """A gradient that is gathered is taken where the boundary was in each tick, if it has moved since."""
        moved = {
            attr[0]: x + (at.tick.boundary[attr[0]] - now.boundary[attr[0]])
            for (op, attr), x in at.bound.items()
            if op == "state" and attr[1] == "var"
        }
        level = self.system.levels[at.level]
        if level.anchor is None or not moved:
            return at
        there = at.where("var", moved)
        there.inputs, there.share = at.inputs, at.share
        return there

    def _objective(self, e: Expr, at: Place) -> Tensor:
        """``B.objective``, which depends on one's own states as on B's: first order in where B starts."""
        other, mine = self.system.levels[e.attr], self.system.levels[at.level].states
        point = {n: variable(x) for n, x in self.point_of(other, at.tick).items()}
        loss = self.objective(other, at.tick, point)
        slopes = torch.autograd.grad(loss.sum(), list(point.values()), create_graph=True)
        loss = loss.detach()
        for slope, s in zip(slopes, mine):
            own = at.bound["state", (s.name, "var")]
            loss = loss + (slope * (own - own.detach())).flatten(self.lead).sum(-1)
        return loss

    def _recent(self, e: Expr, at: Place, share: float = 1.0) -> Tensor:
        """A sum over the last ticks of a level: what its own state is now, on what those ticks brought."""
        (size, clock), inner = e.attr, e.args[0]
        own = [s.name for s in self.system.levels[at.level].states]
        bound = dict(at.bound)
        for n in own:
            bound["state", (n, "prev")] = at.tick.before[n]
            bound["state", (n, "anchor")] = at.tick.boundary[n]
        ticks = islice((t for t in at.tick.back() if self.ticks(clock, t)), self.size(size))
        parts = []
        for age, tick in enumerate(ticks):
            aged = {**bound, ("index", ("age", at.level)): self.number(age)}
            there = Place(tick, at.clock, at.level, aged, inputs=at.inputs, share=at.share * share)
            parts.append(self.value(inner, there))
        return sum(parts)

    def _flow(self, e: Expr, at: Place) -> Tensor:
        """A flow as its reader's tick has it; of a sample, as that sample does."""
        inner, there = self.system.flows[e.attr].expr, at.tick.read_by(at.clock, at.level)
        if e.type.clock == SAMPLE:
            own = {name: x for name, x in at.bound.items() if name[0] == "input"}
            there = replace(there, bound=own, values={})
        return self.value(inner, there)

    def _index(self, e: Expr, at: Place) -> Tensor:
        """``head``; ``pos``, tokens from 0; ``t``, a level's own ticks from 1: in its step, of the tick that comes."""
        what, level = e.attr
        if what == "head":
            return torch.arange(self.heads, dtype=torch.float64)[None]
        if what == "pos":
            return self.number(at.tick.number - 1)
        clock = self.system.levels[level].clock if level else self.base
        if not clock.slow:
            return self.number(at.tick.number)
        done = sum(self.ticks(clock, t) for t in islice(at.tick.back(), 1, None))
        if at.level == level:
            return self.number(done + 1)
        seen = done if clock.held_for(at.clock) else done + self.ticks(clock, at.tick)
        return self.number(max(seen, 1))

    def _gradient(self, e: Expr, at: Place) -> Tensor:
        """``g`` of a rule: the slope of the objective of the level, or of the step, that it is the rule of."""
        level = self.steps[e.attr]
        return self.slopes_of(level, at.tick)[
            level.states[0].name if e.attr == level.name else e.attr
        ]

    def _grad(self, e: Expr, at: Place) -> Tensor:
        """``grad(e, P)``: the slope of e by what stands for P in it."""
        inner, value = e.args
        point = variable(self.value(value, at))
        bound = {**at.bound, ("variable", e.attr): point}
        here = Place(at.tick, at.clock, at.level, bound)
        return torch.autograd.grad(self.value(inner, here).sum(), point, create_graph=True)[0]

    def _delay(self, e: Expr, at: Place) -> Tensor:
        """The value one tick of its clock earlier, at first ``init``."""
        inner, init = e.args
        tick = next(self.earlier(inner.type.clock, at.tick), None)
        if tick is not None:
            return self.value(inner, tick.read_by(at.clock, at.level))
        start = self.value(init, at)
        own = [*start.shape[: self.lead], *self.shape(e.type.dims)]
        return self.like(start, torch.empty(own, dtype=start.dtype))

    def _conv(self, e: Expr, at: Place) -> Tensor:
        """Σ w_i x_{t - taps + 1 + i}, channel by channel, over x's own ticks; before the first x is 0."""
        x, weight, *bias = e.args
        w = self.value(weight, at)
        now = self.value(x, at)
        w = w if now.ndim > self.lead else w.squeeze(-2)
        total = w[..., -1] * now
        for age, tick in zip(range(1, w.shape[-1]), self.earlier(x.type.clock, at.tick)):
            past = self.value(x, tick.read_by(at.clock, at.level))
            total = total + w[..., w.shape[-1] - 1 - age] * past
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
            torch.stack([self.value(x, t.read_by(at.clock, at.level)) for t in ticks], self.lead)
            for x in (key, value)
        )
        scale = self.system.levels[level].memory.options.get("scale")
        factor = self.value(scale, at) if scale is not None else keys.shape[-1] ** -0.5
        scores = (self.value(q, at)[:, :, None] * keys).sum(-1)
        weights = OPERATIONS["mul"](
            self.lead, torch.as_tensor(factor, dtype=scores.dtype), scores
        ).softmax(-1)
        return (weights[..., None] * values).sum(-2)

    # ---------------------------------------------------------------------------------------- told more

    def _split(self, e: Expr, x: Tensor) -> Tensor:
        each = x[:, 0].reshape(x.shape[0], self.size(parts(e)), *map(self.size, e.type.dims))
        return each.repeat_interleave(self.heads // each.shape[1], 1)

    def _merge(self, e: Expr, x: Tensor) -> Tensor:
        return x.flatten(1)[:, None]

    def _slice(self, e: Expr, x: Tensor) -> Tensor:
        start, stop = map(self.size, e.attr)
        return x[..., start:stop]

    def _newton_schulz(self, e: Expr, A: Tensor) -> Tensor:
        """O ← a O + b (O Oᵀ) O + c (O Oᵀ)² O from A / ‖A‖."""
        a, b, c = e.attr.coefficients
        norm = A.square().sum((-2, -1), keepdim=True).sqrt()
        O = (A / norm.clamp(min=1e-7)).to(getattr(torch, e.attr.dtype or "float64"))
        for _ in range(self.size(e.attr.steps)):
            G = O @ O.mT
            O = a * O + b * G @ O + c * G @ G @ O
        return O.to(A.dtype)

    def _solve(self, e: Expr, A: Tensor, b: Tensor) -> Tensor:
        """x with A x = b; or ``steps`` of conjugate gradients from 0, fewer where they have arrived."""
        vector = b.ndim - self.lead == 1
        b = b[..., None] if vector else b
        if e.attr is None:
            x = torch.linalg.inv(A) @ b
            return x[..., 0] if vector else x
        x, r = torch.zeros_like(b), b
        p, start = r, b.square().sum(-2, keepdim=True)
        for _ in range(self.size(e.attr)):
            rr = r.square().sum(-2, keepdim=True)
            going = rr > start * torch.finfo(b.dtype).eps ** 2
            rate = rr / (p * (A @ p)).sum(-2, keepdim=True)
            x = torch.where(going, x + rate * p, x)
            r = torch.where(going, r - rate * (A @ p), r)
            p = torch.where(going, r + r.square().sum(-2, keepdim=True) / rr * p, p)
        return x[..., 0] if vector else x

    # ---------------------------------------------------------------------------------------- levels

    def after(self, name: str, tick: Tick) -> Tensor:
        """A state after a tick, before resets."""
        raise NotImplementedError

    def base_of(self, step: Level, tick: Tick) -> States:
        """B, from which a level or a step inside its rule starts in a tick."""
        raise NotImplementedError

    def point_of(self, level: Level, tick: Tick) -> States:
        """Where the gradient of a level's objective is taken."""
        raise NotImplementedError

    def objective(self, level: Level, tick: Tick, point: States) -> Tensor:
        """A level's objective in a tick, at any point."""
        raise NotImplementedError

    def again(self, level: Level, at: Place, ticks: list[Tick]) -> Tensor:
        """The objectives of a period of the level that ``through`` names, started from the variable."""
        raise NotImplementedError

    def slopes_of(self, step: Level, tick: Tick) -> States:
        """The gradient of its objective in a tick."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------- clocks and sizes

    def ticks(self, clock: Clock, tick: Tick) -> bool:
        """Whether a clock ticks in this tick of the base clock; a declared one, in the only sequence that there is."""
        if clock.name:
            marks = self.system.flows[clock.marks].expr
            return bool(self.value(marks, tick.read_by(self.base)) > 0)
        if clock.kind != "every":
            return True
        return (tick.number - (clock.phase == "start")) % self.size(clock.count) == 0

    def earlier(self, clock: Clock, tick: Tick) -> Iterator[Tick]:
        """The ticks of a clock before this one, newest first."""
        return (t for t in islice(tick.back(), 1, None) if self.ticks(clock, t))

    def period(self, clock: Clock, tick: Tick, reset: Clock | None) -> list[Tick]:
        """The ticks of a period that ends with this one, oldest first; a reset within it starts it anew."""
        out = [tick]
        for t in islice(tick.back(), 1, None):
            if self.ticks(clock, t) or (reset is not None and self.ticks(reset, t)):
                break
            out.append(t)
        return out[::-1]

    def size(self, dim: Dim) -> int:
        return int(dim.evaluate(self.sizes))


def _is_count(e: Expr) -> bool:
    """Whether it is how many ticks there are in a window."""
    return e.op == "recent" and e.args[0].op == "num" and e.args[0].attr == 1


def variable(x: Tensor) -> Tensor:
    """A tensor of its own to differentiate by, through which the outer gradient still passes."""
    return x.clone() if x.requires_grad else x.clone().requires_grad_()


# operators that are told more than their operands: sizes and words
TOLD: dict[str, Callable[..., Tensor]] = {
    "split": Expressions._split,
    "merge": Expressions._merge,
    "slice": Expressions._slice,
    "unflatten": lambda self, e, x: x.unflatten(-1, self.shape(e.attr)),
    "newton_schulz": Expressions._newton_schulz,
    "solve": Expressions._solve,
    "periods": lambda self, e, x: (x / self.size(e.attr)).floor(),
    "slope": lambda self, e, x: SLOPES[e.attr](x),
}
LEAVES: dict[str, Callable[[Expressions, Expr, Place], Tensor]] = {
    "num": lambda self, e, at: self.number(e.attr),
    "bool": lambda self, e, at: self.number(e.attr),
    "hyper": lambda self, e, at: self.number(self.hypers[e.attr]),
    "size": lambda self, e, at: self.number(self.size(e.attr)),
    "input": lambda self, e, at: at.tick.given[e.attr],
    "g": lambda self, e, at: at.tick.given["g"],
    "flow": Expressions._flow,
    "weight": lambda self, e, at: self.weight(e.attr, e.type.head),
    "initial": lambda self, e, at: self.start[e.attr],
    "state": Expressions._state,
    "gradient": Expressions._gradient,
    "total": Expressions._total,
    "recent": Expressions._recent,
    "objective": Expressions._objective,
    "index": Expressions._index,
    "grad": Expressions._grad,
    "delay": Expressions._delay,
    "conv": Expressions._conv,
    "attend": Expressions._attend,
}
