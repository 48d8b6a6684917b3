"""A spec's meaning, tick by tick: language §2 and §3 written plainly, to be held against what was compiled.

It walks the typed ``System`` and uses neither derivation nor lowering: inner gradients are autograd's of the objective,
a minimum is a linear solve, the past is evaluated again where it is read. Slow on purpose; float64, batch and head are
the first two axes of every value of a token system.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nlc.ir.expr import Expr, part, walk
from nlc.ir.system import Level, State
from nlc.runtime.expressions import Expressions, variable
from nlc.runtime.operations import OPERATIONS, matmul
from nlc.runtime.ticks import Inputs, Place, States, Tick


class Interpreter(Expressions):
    """Runs a system, tick by tick; ``observe`` is told of every inner gradient, where and what it is."""

    observe: Callable[[Level, Place, States], None] | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.around: dict[
            str, Level
        ] = {}  # of a step inside a rule: the level or step whose rule it is
        for level in self.system.levels.values():
            self.steps |= {s.name: level for s in level.states}
            self._inside(level)

    def _inside(self, outer: Level) -> None:
        for step in outer.inner:
            self.steps[step.name], self.around[step.name] = step, outer
            self._inside(step)

    # ---------------------------------------------------------------------------------------- the order of ticks

    def begin(self, batch: int = 1, **trained: Tensor) -> States:
        """The states before the first tick."""
        self.start, self.now = dict(trained), None
        for s in self.system.states.values():
            self._first(s, batch)
        return dict(self.start)

    def tick(self, given: dict[str, Tensor], states: States) -> tuple[dict[str, Tensor], States]:
        """One tick: (1) levels and flows of every tick, (2) levels whose period ends, (3) resets."""
        tick = self.now = self._next(self.now, given, states)
        read = tick.read_by(self.base)
        outputs = {name: self.value(e, read) for name, e in self.system.output.items()}
        levels = sorted(self.system.levels.values(), key=lambda level: level.clock.order)
        new = {s.name: self.after(s.name, tick) for level in levels for s in level.states}
        return outputs, self._reset(tick, new)

    def evaluated(self, states: States) -> Tensor:
        """What takes the place of the trained tensor behind the last tick, which left these states."""
        return self.value(self.system.eval_at, Place(self.now, self.base).where("now", states))

    def _next(self, last: Tick | None, given: dict[str, Tensor], states: States) -> Tick:
        number = 1 if last is None else last.number + 1
        boundary = dict(states if last is None else last.boundary)
        for s in self.system.states.values():
            if last is None or self._begins(self.system.levels[s.level], last):
                boundary[s.name] = states[s.name]
        return Tick(number, given, states, boundary, last)

    def _begins(self, level: Level, last: Tick) -> bool:
        """Whether a level's boundary is behind the last tick: a period ended, or something new began."""
        reset = level.reset.every if level.reset is not None and level.reset.every.name else None
        return level.anchor is not None and any(
            self.ticks(clock, last) for clock in (level.anchor, reset) if clock is not None
        )

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
        elif s.drawn:
            args = [
                float(self.value(a, Place(Tick(0, {}, {}, {}, None), self.base)).item())
                for a in s.init.args
            ]
            draw = zeros.normal_ if s.init.op == "normal" else zeros.uniform_
            value = draw(*([0.0, *args] if s.init.op == "normal" else args))
        elif s.init is not None:
            read = {n.attr[0] for n in walk(s.init) if n.op == "state"}
            states = {n: self._first(self.system.states[n], batch) for n in sorted(read)}
            place = Place(Tick(0, {}, {}, {}, None), self.base).where("now", states)
            value = self.value(s.init, place)
        self.start[s.name] = self.like(value, zeros)
        return self.start[s.name]

    def _reset(self, tick: Tick, states: States) -> States:
        """Slowest first, so that a faster level is reset to what a slower one was reset to."""
        resets = [level for level in self.system.levels.values() if level.reset]
        for level in sorted(resets, key=lambda x: x.reset.every.order, reverse=True):
            if not self.ticks(level.reset.every, tick):
                continue
            to = {s.name: self.start[s.name] for s in level.states}
            if level.reset.to is not None:
                to = self.each(level, level.reset.to, tick.read_by(self.base).where("now", states))
            states = {**states, **{n: self.like(x, states[n]) for n, x in to.items()}}
        return states

    # ---------------------------------------------------------------------------------------- one step

    def after(self, name: str, tick: Tick) -> Tensor:
        """A state after this tick, before resets; its level steps when this is first asked."""
        if name not in tick.after:
            level = self.system.levels[self.system.states[name].level]
            if (level.rule or level.update) is not None and self.ticks(level.clock, tick):
                M = self.step(level, tick)
                M = M if level.backprop else {n: x.detach() for n, x in M.items()}
            else:
                M = {s.name: tick.before[s.name] for s in level.states}
            tick.after |= M
        return tick.after[name]

    def step(self, level: Level, tick: Tick) -> States:
        """The new state of a level; or of its one state, for a step inside its rule."""
        B, at = self.base_of(level, tick), self.place(level, tick)
        if level.update is not None:
            M = {n: self.value(level.update[n], at) if n in level.update else B[n] for n in B}
        elif level.inner:
            M = {n: x for inner in level.inner for n, x in self.step(inner, tick).items()}
        else:
            M = RULES[level.rule.name](self, level, at, B)
        M = {n: self.like(x, B[n]) for n, x in M.items()}
        if level.project is not None:
            M = self.each(level, level.project, at.where("base", M))
        return {n: self.like(x, B[n]) for n, x in M.items()}

    def place(self, level: Level, tick: Tick) -> Place:
        """Where the arguments of a level's rule stand: its own name means B."""
        owner = level.states[0].level
        return Place(tick, level.clock, owner).where("base", self.base_of(level, tick))

    def base_of(self, step: Level, tick: Tick) -> States:
        """B, where a step starts."""
        return self._start(step, tick)[1]

    def _start(self, step: Level, tick: Tick) -> tuple[States, States]:
        """T, and B = T + retain ∘ (M_prev − T); inside a rule, M_prev is the B of the level whose rule it is."""
        if step.name not in tick.starts:
            outer = self.around.get(step.name)
            held = self.base_of(outer, tick) if outer is not None else tick.before
            if step.source is None:
                before = {s.name: held[s.name] for s in step.states}
            else:
                before = self.each(step, step.source, Place(tick, step.clock))
            at = Place(tick, step.clock, step.states[0].level).where("base", before)
            T = self.target(step, at, before)
            kept = step.retain is not None
            B = self.scaled(self.each(step, step.retain, at), before, T) if kept else before
            tick.starts[step.name] = T, B
        return tick.starts[step.name]

    def each(self, level: Level, e: Expr, at: Place) -> States:
        """What an expression comes to for each state of a level: its part of a bundle, or the one value for all."""
        return {s.name: self.value(part(e, i), at) for i, s in enumerate(level.states)}

    def target(self, level: Level, at: Place, before: States) -> States:
        """T, to which retain and decay lead."""
        if level.toward is None:
            return {n: torch.zeros_like(x) for n, x in before.items()}
        if level.toward.op == "initial":
            return {n: self.start[n] for n in before}
        return {n: self.like(x, before[n]) for n, x in self.each(level, level.toward, at).items()}

    def scaled(self, factor: States, states: States, T: States) -> States:
        """T + factor ∘ (M − T)"""
        apply = OPERATIONS["mul"]
        return {n: T[n] + apply(self.lead, factor[n], x - T[n]) for n, x in states.items()}

    def argument(self, level: Level, name: str, at: Place) -> States:
        return self.each(level, level.rule.args[name], at)

    def decayed(self, level: Level, at: Place, B: States) -> States:
        """T + decay ∘ (B − T)"""
        if level.rule.args.get("decay") is None:
            return B
        T, _ = self._start(level, at.tick)
        return self.scaled(self.argument(level, "decay", at), B, T)

    def slopes_of(self, step: Level, tick: Tick) -> States:
        """∇ℓ(P): P is the state at the last boundary if the level has boundaries, else B."""
        return self._sloped(step, tick)[0]

    def _sloped(self, step: Level, tick: Tick) -> tuple[States, Inputs]:
        """The gradient by autograd, and the inputs that its weights have there."""
        if step.name not in tick.slopes:
            at = self.place(step, tick)
            slopes, inputs = self.gradient(step, at, self.point_of(step, tick))
            tick.slopes[step.name] = slopes, inputs
            if self.observe is not None:
                self.observe(step, at, slopes)
        return tick.slopes[step.name]

    def gradient(self, level: Level, at: Place, point: States) -> tuple[States, Inputs]:
        variables = {n: variable(x) for n, x in point.items()}
        here = at.where("var", variables)
        loss = self.value(level.objective, here).sum()
        slopes = _slopes(loss, list(variables.values()))
        return dict(zip(variables, slopes)), here.inputs

    def point_of(self, level: Level, tick: Tick) -> States:
        """P, where a level's gradient is taken."""
        B = self.base_of(level, tick)
        return {n: tick.boundary[n] for n in B} if level.anchor is not None else B

    def objective(self, level: Level, tick: Tick, point: States) -> Tensor:
        """A level's objective in a tick, at any point."""
        return self.value(level.objective, self.place(level, tick).where("var", point))

    def again(self, level: Level, at: Place, ticks: list[Tick]) -> Tensor:
        """``sum(B.objective)`` with ``through: B``: the period again, started from the variable (eq. 72)."""
        other, first = self.system.levels[level.through], ticks[0]
        variables = {s.name: at.bound["state", (s.name, "var")] for s in level.states}
        states, total = {**first.before, **variables}, torch.zeros(())
        resets = [x for x in self.system.levels.values() if x.reset and x.reset.to is not None]
        moved = set(variables)
        for x in sorted(resets, key=lambda x: x.reset.every.order, reverse=True):
            reads = {n.attr[0] for n in walk(x.reset.to) if n.op == "state"}
            if reads & moved and (first.number - 1) % self.size(x.reset.every.count) == 0:
                here = Place(first, self.base).where("now", states)
                states = {**states, **self.each(x, x.reset.to, here)}
                moved |= {s.name for s in x.states}
        states, last = {**states, **{n: first.before[n] for n in variables}}, first.previous
        for old in ticks:
            tick = self._next(last, old.given, states)
            if self.ticks(other.clock, tick):
                total = total + self.objective(other, tick, self.point_of(other, tick))
            if old is not ticks[-1]:
                states = self._reset(tick, {n: self.after(n, tick) for n in states})
            last = tick
        return total

    def gd(self, level: Level, at: Place, B: States) -> States:
        slopes = self.slopes_of(level, at.tick)
        lr, kept = self.argument(level, "lr", at), self.decayed(level, at, B)
        return {n: kept[n] - OPERATIONS["mul"](self.lead, lr[n], slopes[n]) for n in B}

    def dgd(self, level: Level, at: Place, B: States) -> States:
        """As gd, and − lr (B_w x_w) x_wᵀ for each weight and each input x_w that it has; a bias has x = 1."""
        slopes, inputs = self._sloped(level, at.tick)
        lr, kept = self.argument(level, "lr", at), self.decayed(level, at, B)
        exact = level.rule.args.get("exact")
        if exact is not None and exact.attr is True and max(map(len, inputs.values())) > 1:
            return self._towards(B, kept, slopes, inputs, lr)
        M = {}
        for n in B:
            erased = torch.zeros_like(B[n])
            for often, x in inputs.get(n, []):
                if exact is not None and exact.attr is True:
                    lr[n] = lr[n] / (1 + lr[n] * (1.0 if x is None else x.square().sum(-1)))
                held = (
                    B[n] if x is None else matmul(self.lead, B[n], x)[..., None] * x[..., None, :]
                )
                erased = erased + often * held
            M[n] = kept[n] - OPERATIONS["mul"](self.lead, lr[n], slopes[n] + erased)
        return M

    def _towards(
        self, B: States, kept: States, slopes: States, inputs: Inputs, lr: States
    ) -> States:
        """T + decay ∘ (B − T), and the way from B to argmin_Φ ⟨∇ℓ(P), Φ⟩ + ½ Σ ‖Φ x‖² + ½‖Φ − B‖²/lr."""

        def loss(M: States) -> Tensor:
            total = sum((slopes[n].detach() * x).sum() for n, x in M.items())
            for n, found in inputs.items():
                for often, x in found:
                    held = M[n] if x is None else matmul(self.lead, M[n], x.detach())
                    total = total + 0.5 * often * held.square().sum()
            return total

        least = self._nearest(B, lr, loss)
        return {n: kept[n] + least[n] - B[n] for n in B}

    def prox(self, level: Level, at: Place, B: States) -> States:
        """argmin_Φ ℓ(Φ) + ½‖(Φ − D)/√lr‖², D = decay ∘ B: Newton's one step, exact for a quadratic."""
        D, lr = self.decayed(level, at, B), self.argument(level, "lr", at)

        def loss(point: States) -> Tensor:
            return self.value(level.objective, at.where("var", point)).sum()

        def seen(slopes: States) -> None:
            if self.observe is not None:
                self.observe(level, at.where("base", D), slopes)

        return self._nearest(D, lr, loss, seen)

    def _nearest(
        self,
        D: States,
        lr: States,
        loss: Callable[[States], Tensor],
        seen: Callable[[States], None] = lambda slopes: None,
    ) -> States:
        """argmin_Φ of a quadratic loss and ½‖(Φ − D)/√lr‖²; ``seen`` is told of the slopes at D."""
        near = {
            n: OPERATIONS["div"](self.lead, torch.ones_like(x), lr[n]).flatten(self.lead)
            for n, x in D.items()
        }
        point = {n: variable(x) for n, x in D.items()}
        slopes = _slopes(loss(point), list(point.values()))
        seen(dict(zip(point, slopes)))
        flat = torch.cat([g.flatten(self.lead) for g in slopes], -1)
        rows = []
        for i in range(flat.shape[-1]):
            row = _slopes(flat[..., i].sum(), list(point.values()))
            rows.append(torch.cat([g.flatten(self.lead) for g in row], -1))
        hessian = torch.stack(rows, -2) + torch.diag_embed(torch.cat(list(near.values()), -1))
        change = torch.linalg.solve(hessian, -flat[..., None])[..., 0]
        parts = change.split([x.flatten(self.lead).shape[-1] for x in D.values()], -1)
        return {n: D[n] + part.reshape(D[n].shape) for n, part in zip(D, parts)}


def _slopes(e: Tensor, variables: list[Tensor]) -> list[Tensor]:
    """∂e by each variable, 0 where it does not depend on one; differentiable once more."""
    if not e.requires_grad:
        return [torch.zeros_like(x) for x in variables]
    found = torch.autograd.grad(e, variables, create_graph=True, materialize_grads=True)
    return list(found)


RULES = {"gd": Interpreter.gd, "dgd": Interpreter.dgd, "prox": Interpreter.prox}
