"""System -> Updates: gradients of objectives (``passes/gradient``), then steps along them (``passes/formulas``)."""

from __future__ import annotations

import re
from dataclasses import replace

from nlc.base.diagnostics import Report
from nlc.ir.expr import Expr, rewrite, substitute, walk
from nlc.ir.ops import NotDifferentiable, div, fill, leaf, make
from nlc.ir.system import Level, State, System
from nlc.ir.types import Type, fastest
from nlc.ir.update import Step, Update
from nlc.passes.formulas import Formulas
from nlc.passes.gradient import gradient
from nlc.passes.infer.shapes import never_learns
from nlc.passes.simplify import simplify

LONGEST = 72  # characters of an objective that a help writes out


def derive(system: System, report: Report) -> dict[str, Update]:
    """The update of every level that has a state of its own."""
    updates = {}
    for level in system.levels.values():
        if level.rule is not None or level.update is not None:
            update = _Level(system, level, report).update()
            if update is not None:
                updates[level.name] = update
    return updates


def _as_often(e: Expr) -> Expr:
    """``e`` with the clocks of what now stands in it: a boundary is read less often than the variable moves.

    What is gathered has as many terms as before.
    """
    done: dict[int, Expr] = {}
    for n in walk(e):
        new = n.with_args(tuple(done[id(a)] for a in n.args))
        if n.op in ("total", "recent"):
            (inner,) = new.args
            new = new.with_args((inner.with_type(inner.type.at(n.args[0].type.clock)),))
        elif n.args:
            new = new.with_type(new.type.at(fastest(a.type.clock for a in new.args)))
        done[id(n)] = new
    return done[id(e)]


class _Level(Formulas):
    """One level's derivation."""

    def update(self) -> Update | None:
        level = self.level
        base = {s.name: self._base(s) for s in level.states}
        steps: dict[str, list[Step]] = {s.name: [] for s in level.states}
        if level.rule is None:
            new = {s.name: self._explicit(s) for s in level.states}
            if any(e is None for e in new.values()):
                return None
            return self._done(base, {}, new, steps)
        if level.objective is None:
            return None
        gradients = self._gradients(steps)
        if gradients is None:
            return None
        if level.inner:
            stepped = {
                s.name: self._stepped(i, gradients) for s, i in zip(level.states, level.inner)
            }
            if None in stepped.values():
                return None
            return self._done(base, gradients, stepped, steps)
        new = self._ruled(base, gradients)
        return None if new is None else self._done(base, gradients, new, steps)

    def _stepped(self, step: Level, gradients: dict[str, Expr]) -> Expr | None:
        """One state after a rule that is a system; a step inside it names its own gradient in ``gradients``."""
        inner, s = _Level(self.system, step, self.report, step=True), step.states[0]
        base = {s.name: inner._base(s)}
        if step.rule is None:
            new = inner._explicit(s)
        else:
            found = inner._gradients({s.name: []})
            if found is None:
                return None
            own = found.get(s.name)
            if step.inner:
                gradients[step.name] = own
                new = inner._stepped(step.inner[0], gradients)
            else:
                ruled = inner._ruled(base, found)
                new = ruled and ruled[s.name]
                if new is not None and own is not None:
                    new = substitute(new, {inner._gradient(s): own})
        if new is None:
            return None
        started = substitute(base[s.name], {self._prev(s): self._leaf(s, "base")})
        return substitute(inner._projected({s.name: new})[s.name], {self._leaf(s, "base"): started})

    def _done(self, base, gradients, new, steps) -> Update:
        new = self._projected(new)
        if not self.level.backprop:  # the outer gradient may not pass this level's updates
            new = {name: make("stop", e) for name, e in new.items()}
        return Update(
            self.level.name,
            {k: simplify(e) for k, e in base.items()},
            gradients,
            {k: simplify(e) for k, e in new.items()},
            {k: tuple(v) for k, v in steps.items()},
        )

    # -------------------------------------------------------------------------------------------- gradient

    def _gradients(self, steps: dict[str, list[Step]]) -> dict[str, Expr] | None:
        """∇ℓ at P for every state; a mistake where the objective depends on none of them."""
        level = self.level
        variables = {self._leaf(s, "var"): s for s in level.states}
        trace: list[Step] = []
        try:
            objective = simplify(self._inner_grads(self._borrowed(level.objective)))
            found = gradient(objective, variables, trace)
        except NotDifferentiable as e:
            self.report.add(
                "NLC501",
                f"the objective of level `{level.name}` cannot be differentiated",
                e.node.span or level.objective.span,
                e.reason,
                helps=[e.help],
            )
            return None
        if not found:
            never_learns(level, self.report)
            return None
        proximal = (
            level.rule.name == "prox"
        )  # its minimum is near the base, wherever boundaries are
        at = "anchor" if level.anchor is not None and not proximal else "base"
        point = {v: self._leaf(s, at) for v, s in variables.items()}
        out = {}
        for v, s in variables.items():
            if v in found:
                steps[s.name].extend(trace)
                out[s.name] = simplify(_as_often(substitute(found[v], point)))
        return out

    def _borrowed(self, e: Expr) -> Expr:
        """``B.objective`` with B's gradients for those by one's own states: first order in where B starts."""
        mine = tuple(self._leaf(s, "var") for s in self.level.states)

        def rule(n: Expr) -> Expr | None:
            if n.op == "total" and n.args[0].op == "objective" and not n.args[0].args:
                return self._through(n, mine)
            if n.op != "objective" or n.attr == self.level.through:
                return None
            other = self._alike(n)
            slopes = tuple(
                leaf("gradient", s.name, Type(s.dims, other.head, other.clock))
                for s in other.states
            )
            return replace(n, args=mine, attr=slopes)

        whole = rewrite(e, rule)
        for n in walk(whole):
            if n.op == "objective" and not n.args:
                help = f"write `sum({n.attr}.objective)`, with factors outside of the sum"
                raise NotDifferentiable(n, f"`through` takes `sum({n.attr}.objective)` alone", help)
        return whole

    def _through(self, n: Expr, mine: tuple[Expr, ...]) -> Expr:
        """``sum(B.objective)`` as it depends on where B started, through all of its updates."""
        other = self._alike(n.args[0])
        slopes = [
            leaf("through", (s.name, other.name), Type(s.dims, self.level.head, self.level.clock))
            for s in self.level.states
        ]
        if n.attr[0] == "mean":
            ticks = self.level.clock.count / other.clock.count
            slopes = [div(x, leaf("size", ticks, Type((), dtype="int"))) for x in slopes]
        return replace(n.with_type(n.type), op="objective", args=mine, attr=tuple(slopes))

    def _alike(self, n: Expr) -> Level:
        other = self.system.levels[n.attr]
        if [s.dims for s in other.states] != [s.dims for s in self.level.states]:
            help = "give both levels the same memory, so that one can start from the other"
            if (text := _written_out(other, self.system)) is not None:
                help += f"; where only its number is meant, write that out: `{text}`"
            raise NotDifferentiable(
                n, f"`{other.name}` has states unlike those of this level", help
            )
        return other

    def _inner_grads(self, e: Expr) -> Expr:
        """``grad(e, P)`` replaced by its derivative at P's value."""

        def rule(n: Expr) -> Expr | None:
            if n.op != "grad":
                return None
            inner, value = n.args
            variable = next(
                (x for x in walk(inner) if x.op == "variable" and x.attr == n.attr), None
            )
            found = gradient(inner, [variable]) if variable is not None else {}
            if not found:
                raise NotDifferentiable(n, "it does not depend on what it is differentiated by")
            return simplify(substitute(found[variable], {variable: value}))

        return rewrite(e, rule)

    def _explicit(self, s: State) -> Expr | None:
        e = (self.level.update or {}).get(s.name)
        if e is None:
            return self._leaf(s, "base")
        try:
            e = self._inner_grads(e)
            return fill(e, self._prev(s)) if e.type.dims == () else e
        except NotDifferentiable as mistake:
            self.report.add(
                "NLC501",
                f"the update of level `{self.level.name}` cannot be differentiated",
                mistake.node.span or e.span,
                mistake.reason,
            )
            return None

    def _projected(self, new: dict[str, Expr]) -> dict[str, Expr]:
        """``project`` reads the stepped states under the level's name."""
        if self.level.project is None:
            return new
        return {
            s.name: self._at_base(self._own(self.level.project, s), new) for s in self.level.states
        }


def _written_out(level: Level, system: System) -> str | None:
    """The text of a level's objective as it is written outside of the level: its own names with the level's."""
    text = level.objective.span.quote() if level.objective.span is not None else ""
    own = [n.rpartition(".")[2] for n, f in system.flows.items() if f.level == level.name]
    if not text or len(text) > LONGEST:
        return None
    if own:
        text = re.sub(rf"(?<![\w.])({'|'.join(own)})(?!\w)", rf"{level.name}.\1", text)
    return text
