"""A spec's meaning, tick by tick: language §2 and §3 written plainly, to be held against what was compiled.

It walks the typed ``System`` and uses neither derivation nor lowering: inner gradients are autograd's of the objective,
a minimum is a linear solve, the past is evaluated again where it is read. Slow on purpose; float64, batch and head are
the first two axes of every value of a token system.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nlc.ir.expr import walk
from nlc.ir.system import Level, State
from nlc.runtime.expressions import Expressions, Place, States, Tick, variable
from nlc.runtime.operations import OPERATIONS, matmul


class Interpreter(Expressions):
    """Runs a system, tick by tick; ``observe`` is told of every inner gradient, where and what it is."""

    observe: Callable[[Level, Place, States], None] | None = None

    # ---------------------------------------------------------------------------------------- the order of ticks

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

    # ---------------------------------------------------------------------------------------- one step

    def after(self, name: str, tick: Tick) -> Tensor:
        """A state after this tick, before resets; its level steps when this is first asked."""
        if name not in tick.after:
            level = self.system.levels[self.system.states[name].level]
            steps = (level.rule is not None or level.update is not None) and self.ticks(
                level.clock, tick.number
            )
            tick.after |= (
                self.step(level, tick)
                if steps
                else {s.name: tick.before[s.name] for s in level.states}
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
        variables = {n: variable(x) for n, x in point.items()}
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
                held = (
                    B[n] if x is None else matmul(self.lead, B[n], x)[..., None] * x[..., None, :]
                )
                erased = erased + often * held
            M[n] = kept[n] - multiply(self.lead, lr, slopes[n] + erased)
        return M

    def prox(self, level: Level, at: Place, B: States, T: States) -> States:
        """argmin_Φ ℓ(Φ) + ½‖(Φ − D)/√lr‖², D = decay ∘ B: Newton's one step, exact for a quadratic."""
        D, lr = self.decayed(level, at, B, T), self.value(level.rule.args["lr"], at)
        near = {
            n: OPERATIONS["div"](self.lead, torch.ones_like(D[n]), lr).flatten(self.lead) for n in D
        }
        point = {n: variable(x) for n, x in D.items()}
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
            row = (
                torch.autograd.grad(
                    flat[..., i].sum(),
                    list(point.values()),
                    create_graph=True,
                    materialize_grads=True,
                )
                if flat.requires_grad
                else [torch.zeros_like(x) for x in point.values()]
            )
            rows.append(torch.cat([g.flatten(self.lead) for g in row], -1))
        hessian = torch.stack(rows, -2) + torch.diag_embed(torch.cat(list(near.values()), -1))
        change = torch.linalg.solve(hessian, -flat[..., None])[..., 0]
        parts = change.split([x.flatten(self.lead).shape[-1] for x in D.values()], -1)
        return {n: D[n] + part.reshape(D[n].shape) for n, part in zip(D, parts)}


RULES = {"gd": Interpreter.gd, "dgd": Interpreter.dgd, "prox": Interpreter.prox}
