"""``through: B``: the gradient of a slow level passes all updates that a faster one makes in a period (eq. 72).

The faster level starts every period from the slow one's state. That state is watched from there on, the objectives of
the period are added up, and at the end autograd says how their sum depends on where they started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from nlc.ir.expr import Expr, part, rewrite, substitute, walk
from nlc.ir.ops import leaf, make
from nlc.ir.program import Let, Slot
from nlc.ir.system import Level, State, System
from nlc.ir.types import Clock, Type
from nlc.ir.update import Update
from nlc.passes.naming import Names


class Through:
    """Slots and statements of levels with ``through``; ``Lowering`` translates expressions."""

    system: System
    names: Names
    vars: dict[Expr, Expr]
    updates: dict[str, Update]
    state_vars: dict[str, str]
    timed: list[Slot]
    watched: dict[str, Expr]  # by level, the objectives of its period so far
    var: Callable[[str, Type], Expr]
    program_expr: Callable[[Expr], Expr]
    during: Callable[[Clock, Iterable[Let]], list[Let]]
    _as_gathered: Callable[[Expr, Level], Expr]
    _gathered: Callable[[Expr, Level], Expr]

    @property
    def watching(self) -> list[Level]:
        """Slowest first: each starts from the one before."""
        levels = [level for level in self.system.levels.values() if level.through]
        return sorted(levels, key=lambda x: x.clock.order, reverse=True)

    def watch(self) -> None:
        """The sums of objectives that are gathered; before names are given."""
        self.watched = {}
        for level in self.watching:
            other = self.system.levels[level.through]
            value = self._as_gathered(self._value(other), other)
            total = make("total", value, attr=("sum", level.clock))
            self.watched[level.name] = self._gathered(total, level)

    def _value(self, level: Level) -> Expr:
        """A level's objective as a number: at the point of its gradient."""
        base = self.updates[level.name].base
        point = {
            _leaf(s, level, "var"): _leaf(s, level, "anchor") if level.anchor else base[s.name]
            for s in level.states
        }
        levels = self.system.levels
        return rewrite(
            substitute(level.objective, point),
            lambda n: self._value(levels[n.attr]) if n.op == "objective" else None,
        )

    def watched_slots(self) -> None:
        """Where the periods started from, as a stream carries it."""
        for level in self.watching:
            for s in level.states:
                name, kind = self.names(f"{s.name}_watched"), Type(s.dims, level.head, level.clock)
                key = f"{s.name}.watched"
                self.timed.append(Slot(key, name, "anchor", kind, s.init, s.learned, of=s.name))
                self.vars[leaf("watched", s.name, kind)] = self.var(name, kind)

    def begun(self) -> list[Let]:
        """At the start of a period: the state is watched, and the faster level starts from it."""
        out: list[Let] = []
        for level in self.watching:
            start = replace(level.clock, phase="start")
            lets = [
                Let(
                    (self._name(s, level),), Expr("watch", (self._now(s, level),), None, kind), note
                )
                for s in level.states
                for kind, note in [
                    (Type(s.dims, level.head, level.clock), "gradients are taken here")
                ]
            ]
            points = {
                _leaf(s, level, "now"): leaf(
                    "watched", s.name, Type(s.dims, level.head, level.clock)
                )
                for s in level.states
            }
            for other in self._started(level):
                for i, s in enumerate(other.states):
                    value = self.program_expr(substitute(part(other.reset.to, i), points))
                    lets.append(Let((self.state_vars[s.name],), value, f"from {level.name}"))
                points = {}
            out += self.during(start, lets)
        return out

    def _started(self, level: Level) -> list[Level]:
        """The levels that start over with a period of this one: from it, or from one that did, slowest first."""
        moved = [self.system.levels[level.through]]
        resets = [x for x in self.system.levels.values() if x.reset is not None and x.reset.to]
        for x in sorted(resets, key=lambda x: x.reset.every.order, reverse=True):
            known = {s.name for m in moved for s in m.states}
            reads = {n.attr[0] for n in walk(x.reset.to) if n.op == "state"}
            every = x.reset.every.count
            ratio = (level.clock.count / every).constant if len(every.terms) == 1 else None
            if x not in moved and reads & known and ratio is not None and ratio.denominator == 1:
                moved.append(x)
        return moved

    def slopes(self, level: Level) -> list[Let]:
        """How the objectives of the period depend on where they started."""
        if not level.through:
            return []
        names = tuple(self.names(f"{s.name}_slope") for s in level.states)
        for s, name in zip(level.states, names):
            kind = Type(s.dims, level.head, level.clock)
            self.vars[leaf("through", (s.name, level.through), kind)] = self.var(name, kind)
        points = [self.var(self._name(s, level), Type()) for s in level.states]
        total = self.program_expr(self.watched[level.name])
        e = Expr("slopes", (total, *points), None, Type())
        return [Let(names, e, f"through the updates of {level.through}", level.keys.get("through"))]

    def settled(self, carried: Iterable[tuple[str, Type]]) -> list[Let]:
        """Behind a period, what is carried lets go of it unless the outer gradient wants it."""
        slowest = max((x.clock for x in self.watching), key=lambda c: c.order, default=None)
        if slowest is None:
            return []
        lets = [Let((n,), Expr("settle", (self.var(n, t),), None, t)) for n, t in carried]
        return self.during(slowest, lets)

    def _name(self, s: State, level: Level) -> str:
        kind = Type(s.dims, level.head, level.clock)
        return str(self.vars[leaf("watched", s.name, kind)].attr)

    def _now(self, s: State, level: Level) -> Expr:
        return self.var(self.state_vars[s.name], Type(s.dims, level.head, level.clock))


def _leaf(s: State, level: Level, time: str) -> Expr:
    return leaf("state", (s.name, time), Type(s.dims, level.head, level.clock))
