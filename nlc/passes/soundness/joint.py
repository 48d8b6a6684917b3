"""The step of a level together with those of the levels inside its rule, where that is a system.

Under ``momentum`` the step of M reads the rule's memory m, and m reads the gradient at M: apart, neither step shows
what M does to itself. Written into one another they do, as far as one tick goes; m before the tick stays a leaf.
"""

from __future__ import annotations

from nlc.ir.expr import Expr, part, rewrite, walk
from nlc.ir.system import Level, State, System
from nlc.ir.update import Update


class Joint:
    """``states`` are the level's own and ``inner`` those of its rule, which have levels of their own."""

    def __init__(self, system: System, updates: dict[str, Update], level: Level):
        own = {f"{level.name}.", *(f"{s.name}." for s in level.states)}
        inside = [
            system.levels[name]
            for name in updates
            if level.inner and name != level.name and name.startswith(tuple(own))
        ]
        self.system, self.states = system, level.states
        self.levels = inside
        self.inner: tuple[State, ...] = tuple(s for x in inside for s in x.states)
        self._rules = {s.name for s in self.inner}
        self._updates = {s.name: updates[s.level] for s in (*self.states, *self.inner)}
        # A rule's level that ticks more seldom is read as it was left, and not stepped with the level.
        self.stepped = {s.name for x in inside if x.clock == level.clock for s in x.states}
        self._gradients = {n: e for u in self._updates.values() for n, e in u.gradient.items()}
        self._flows: dict[str, Expr | None] = {}
        self._base = {n: e for u in self._updates.values() for n, e in u.base.items()}

    @property
    def all(self) -> tuple[State, ...]:
        return (*self.states, *self.inner)

    def written(self, state: str, keep: frozenset[str] = frozenset()) -> Expr:
        """The new state over all states before the tick; gradients named in ``keep`` stay leaves."""
        done: dict[Expr, Expr] = {}

        def fill(n: Expr) -> Expr | None:
            if n not in done:
                found = None
                if n.op == "gradient" and n.attr not in keep:
                    found = self._gradients.get(n.attr)
                elif n.op == "flow":
                    found = self._opened(n.attr)
                elif n.op == "state":
                    name, time = n.attr
                    if time == "now" and name in self.stepped:
                        found = self._updates[name].new[name]
                    elif time == "base":
                        return self._base.get(name)
                done[n] = n if found is None else rewrite(found, fill)
            return done[n]

        return rewrite(self._updates[state].new[state], fill)

    def steps(self) -> dict[str, tuple[Expr, ...]]:
        """What each state may become: its step, and what a reset makes of it."""
        out = {}
        for s in self.all:
            level = self.system.levels[s.level]
            to = level.reset.to if level.reset is not None else None
            reset = () if to is None else (part(to, level.states.index(s)),)
            out[s.name] = (self.written(s.name), *reset)
        return out

    def _opened(self, name: str) -> Expr | None:
        """A flow of the rule, where a gradient or a state of the rule stands in it; others stay names."""
        if not self.inner:
            return None
        if name not in self._flows:
            self._flows[name] = None  # in a circle through `prev`
            e = self.system.flows[name].expr
            if any(self._inside(n) for n in walk(e)):
                self._flows[name] = e
        return self._flows[name]

    def _inside(self, n: Expr) -> bool:
        if n.op == "flow":
            return self._opened(n.attr) is not None
        return n.op == "gradient" or (n.op == "state" and n.attr[0] in self._rules)
