"""A spec's meaning, tick by tick: language §2 and §3 written plainly, to be held against what was compiled.

It walks the typed ``System``, one expression at a time by recursion, and uses neither derivation nor lowering: inner
gradients are autograd's of the objective, a minimum is a linear solve, the past is evaluated again where it is read.
An expression has a value at a ``Place``: a tick, the clock of who reads it, and names that mean something there alone.
Slow on purpose; float64, batch and head are the first two axes of every value of a token system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nlc.ir.expr import Expr, walk
from nlc.ir.system import Level, State, System
from nlc.ir.types import STEP, TOKEN, Clock, Dim, Dims, Like, Number
from nlc.runtime.operations import OPERATIONS, aligned, matmul

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


class Interpreter:
    """Runs a system.

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
        self.sizes = {**{k: v for k, v in hypers.items() if not isinstance(v, list)}, **(sizes or {})}
        self.tokens = system.context == "tokens"
        self.base = TOKEN if self.tokens else STEP
        self.lead = 2 if self.tokens else 0
        self.start: States = {}
        self.now: Tick | None = None
        self.observe: Callable[[Level, Place, States], None] | None = None

    # -------------------------------------------------------------------------------------------- the order of ticks

    def begin(self, batch: int = 1, **trained: Tensor) -> States:
        """The states before the first tick."""
        self.start, self.now = dict(trained), None
        for s in self.system.states.values():
            self._first(s, batch)
        return dict(self.start)

    def tick(self, given: dict[str, Tensor], states: States) -> tuple[dict[str, Tensor], States]:
        """One tick: (1) levels and flows of every tick, (2) levels whose period ends, (3) resets."""
        last = self.now
        number = 1 if last is None else last.number + 1
        boundary = dict(states if last is None else last.boundary)
        for s in self.system.states.values():
            anchor = self.system.levels[s.level].anchor
            if anchor is not None and (number - 1) % self.size(anchor.count) == 0:
                boundary[s.name] = states[s.name]
        tick = self.now = Tick(number, given, states, boundary, last)
        read = tick.read_by(self.base)
        outputs = {name: self.value(e, read) for name, e in self.system.output.items()}
        levels = sorted(self.system.levels.values(), key=lambda level: level.clock.order)
        new = {s.name: self.after(s.name, tick) for level in levels for s in level.states}
        return outputs, self._reset(tick, new)

    def _reset(self, tick: Tick, states: States) -> States:
        """Slowest first, so that a faster level is reset to what a slower one was reset to."""
        resets = [level for level in self.system.levels.values() if level.reset]
        for level in sorted(resets, key=lambda x: x.reset.every.order, reverse=True):
            if tick.number % self.size(level.reset.every.count):
                continue
            for s in level.states:
                value = self.start[s.name]
                if level.reset.to is not None:
                    value = self.value(level.reset.to, tick.read_by(self.base).where("now", states))
                states = {**states, s.name: self.like(value, states[s.name])}
        return states

    def ticks(self, clock: Clock, number: int) -> bool:
        """Whether a clock ticks in this tick of the base clock."""
        return clock.kind != "every" or number % self.size(clock.count) == 0

    def period(self, clock: Clock, tick: Tick) -> list[Tick]:
        """The ticks of a period that ends here, oldest first."""
        ticks = [t for t, _ in zip(tick.back(), range(self.size(clock.count)))]
        return ticks[::-1]

    def size(self, dim: Dim) -> int:
        return int(dim.evaluate(self.sizes))

    # -------------------------------------------------------------------------------------------- one step (language §3)

    def after(self, name: str, tick: Tick) -> Tensor:
        """A state after this tick, before resets; its level steps when this is first asked."""
        if name not in tick.after:
            level = self.system.levels[self.system.states[name].level]
            steps = (level.rule is not None or level.update is not None) and self.ticks(
                level.clock, tick.number
            )
            tick.after |= (
                self.step(level, tick) if steps else {s.name: tick.before[s.name] for s in level.states}
            )
        return tick.after[name]

    def step(self, level: Level, tick: Tick) -> States:
        here = tick.read_by(level.clock)
        before = {s.name: tick.before[s.name] for s in level.states}
        T = self.target(level, here.where("base", before))
        B = before
        if level.retain is not None:
            B = self.scaled(self.value(level.retain, here.where("base", before)), before, T)
        at = here.where("base", B)
        if level.update is not None:
            M = {n: self.value(level.update[n], at) if n in level.update else B[n] for n in B}
        else:
            M = RULES[level.rule.name](self, level, at, B, T)
        if level.project is not None:
            M = {n: self.value(level.project, here.where("base", M)) for n in M}
        M = {n: self.like(M[n], before[n]) for n in M}
        return M if level.backprop else {n: x.detach() for n, x in M.items()}

    def target(self, level: Level, at: Place) -> States:
        """T, to which retain and decay lead."""
        if level.toward is None:
            return {s.name: torch.zeros_like(at.tick.before[s.name]) for s in level.states}
        if level.toward.op == "initial":
            return {s.name: self.start[s.name] for s in level.states}
        return {s.name: self.value(level.toward, at) for s in level.states}

    def scaled(self, factor: Tensor, states: States, T: States) -> States:
        """T + factor ∘ (M − T)"""
        apply = OPERATIONS["mul"]
        return {n: T[n] + apply(self.lead, factor, x - T[n]) for n, x in states.items()}

    def decayed(self, level: Level, at: Place, B: States, T: States) -> States:
        decay = level.rule.args.get("decay")
        return B if decay is None else self.scaled(self.value(decay, at), B, T)

    def gradient(self, level: Level, at: Place, point: States) -> tuple[States, dict]:
        """∇ℓ at a point by autograd, and the inputs of the weights there."""
        variables = {n: _variable(x) for n, x in point.items()}
        here = at.where("var", variables)
        loss = self.value(level.objective, here)
        slopes = torch.autograd.grad(
            loss.sum(), list(variables.values()), create_graph=True, materialize_grads=True
        )
        return dict(zip(variables, slopes)), here.inputs

    def gradient_at_point(self, level: Level, at: Place, B: States) -> tuple[States, dict]:
        """∇ℓ(P): P is the state at the last boundary if the level has boundaries, else B."""
        P = {n: at.tick.boundary[n] for n in B} if level.anchor is not None else B
        slopes, inputs = self.gradient(level, at, P)
        if self.observe is not None:
            self.observe(level, at, slopes)
        return slopes, inputs

    def gd(self, level: Level, at: Place, B: States, T: States) -> States:
        slopes, _ = self.gradient_at_point(level, at, B)
        lr = self.value(level.rule.args["lr"], at)
        kept = self.decayed(level, at, B, T)
        return {n: kept[n] - OPERATIONS["mul"](self.lead, lr, slopes[n]) for n in B}

    def dgd(self, level: Level, at: Place, B: States, T: States) -> States:
        """As gd, and − lr (B_w x_w) x_wᵀ for each weight and each input x_w that it has; a bias has x = 1."""
        slopes, inputs = self.gradient_at_point(level, at, B)
        kept, multiply = self.decayed(level, at, B, T), OPERATIONS["mul"]
        exact = level.rule.args.get("exact")
        M = {}
        for n in B:
            lr = self.value(level.rule.args["lr"], at)
            erased = torch.zeros_like(B[n])
            for often, x in inputs.get(n, []):
                if exact is not None and exact.attr is True:
                    lr = lr / (1 + lr * (1.0 if x is None else x.square().sum(-1)))
                held = B[n] if x is None else matmul(self.lead, B[n], x)[..., None] * x[..., None, :]
                erased = erased + often * held
            M[n] = kept[n] - multiply(self.lead, lr, slopes[n] + erased)
        return M

    def prox(self, level: Level, at: Place, B: States, T: States) -> States:
        """argmin_Φ ℓ(Φ) + ½‖(Φ − D)/√lr‖², D = decay ∘ B: Newton's one step, exact for a quadratic."""
        D, lr = self.decayed(level, at, B, T), self.value(level.rule.args["lr"], at)
        near = {n: OPERATIONS["div"](self.lead, torch.ones_like(D[n]), lr).flatten(self.lead) for n in D}
        point = {n: _variable(x) for n, x in D.items()}
        here = at.where("var", point)
        loss = self.value(level.objective, here).sum()
        slopes = torch.autograd.grad(
            loss, list(point.values()), create_graph=True, materialize_grads=True
        )
        if self.observe is not None:
            self.observe(level, at.where("base", D), dict(zip(point, slopes)))
        flat = torch.cat([g.flatten(self.lead) for g in slopes], -1)
        rows = []
        for i in range(flat.shape[-1]):
            row = torch.autograd.grad(
                flat[..., i].sum(), list(point.values()), create_graph=True, materialize_grads=True
            ) if flat.requires_grad else [torch.zeros_like(x) for x in point.values()]
            rows.append(torch.cat([g.flatten(self.lead) for g in row], -1))
        hessian = torch.stack(rows, -2) + torch.diag_embed(torch.cat(list(near.values()), -1))
        change = torch.linalg.solve(hessian, -flat[..., None])[..., 0]
        parts = change.split([x.flatten(self.lead).shape[-1] for x in D.values()], -1)
        return {n: D[n] + part.reshape(D[n].shape) for n, part in zip(D, parts)}

    # -------------------------------------------------------------------------------------------- expressions

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

    def _first(self, s: State, batch: int) -> Tensor:
        """Where a state starts; it may be where another does."""
        if s.name in self.start:
            return self.start[s.name]
        level = self.system.levels[s.level]
        lead = [batch, self.heads if level.head else 1] if self.tokens else []
        zeros = torch.zeros([*lead, *self.shape(s.dims)], dtype=torch.float64)
        value = zeros
        if s.learned:
            value = self.weight(f"{s.name}.init", level.head)
        elif s.init is not None:
            read = {n.attr[0] for n in walk(s.init) if n.op == "state"}
            states = {n: self._first(self.system.states[n], batch) for n in sorted(read)}
            place = Place(Tick(0, {}, {}, {}, None), self.base).where("now", states)
            value = self.value(s.init, place)
        self.start[s.name] = self.like(value, zeros)
        return self.start[s.name]

    def shape(self, dims: Dims) -> list[int]:
        """A value's own axes."""
        if any(isinstance(d, Like) for d in dims):
            return list(self.start[next(s.name for s in self.system.states.values() if s.trained)].shape)
        return [self.size(d) for d in dims]

    @property
    def heads(self) -> int:
        return int(self.hypers.get("heads", 1))

    def weight(self, path: str, head: bool) -> Tensor:
        w = self.weights[path]
        return w[None] if head else w[None, None]

    # -------------------------------------------------------------------------------------------- leaves

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
        variable = _variable(self.value(value, at))
        here = Place(at.tick, at.clock, {**at.bound, ("variable", e.attr): variable})
        return torch.autograd.grad(self.value(inner, here).sum(), variable, create_graph=True)[0]

    def _delay(self, e: Expr, at: Place) -> Tensor:
        """The value one tick of its clock earlier, at first ``init``."""
        inner, init = e.args
        past = (t for t in at.tick.back() if t is not at.tick and self.ticks(inner.type.clock, t.number))
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
            total = total + (self.value(b, at) if now.ndim > self.lead else self.value(b, at)[..., 0])
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

    # -------------------------------------------------------------------------------------------- axes

    def _split(self, e: Expr, x: Tensor) -> Tensor:
        return x[:, 0].reshape(x.shape[0], self.heads, *map(self.size, e.type.dims))

    def _merge(self, e: Expr, x: Tensor) -> Tensor:
        return x.flatten(1)[:, None]

    def _slice(self, e: Expr, x: Tensor) -> Tensor:
        start, stop = map(self.size, e.attr)
        return x[..., start:stop]


def _variable(x: Tensor) -> Tensor:
    """A tensor of its own to differentiate by, through which the outer gradient still passes."""
    return x.clone() if x.requires_grad else x.clone().requires_grad_()


RULES = {"gd": Interpreter.gd, "dgd": Interpreter.dgd, "prox": Interpreter.prox}
AXES = {"split": Interpreter._split, "merge": Interpreter._merge, "slice": Interpreter._slice}
LEAVES: dict[str, Callable[[Interpreter, Expr, Place], Tensor]] = {
    "num": lambda self, e, at: self.number(e.attr),
    "hyper": lambda self, e, at: self.number(self.hypers[e.attr]),
    "input": lambda self, e, at: at.tick.given[e.attr],
    "g": lambda self, e, at: at.tick.given["g"],
    "flow": lambda self, e, at: self.value(
        self.system.flows[e.attr].expr, at.tick.read_by(at.clock)
    ),
    "weight": lambda self, e, at: self.weight(e.attr, e.type.head),
    "initial": lambda self, e, at: self.start[e.attr],
    "state": Interpreter._state,
    "total": Interpreter._total,
    "index": Interpreter._index,
    "grad": Interpreter._grad,
    "delay": Interpreter._delay,
    "conv": Interpreter._conv,
    "attend": Interpreter._attend,
}
