"""``sum(e, last=c)``: a window of the last values of what e reads, over which e is computed anew in every tick.

The level's own state in e is the current one (the Omega rule). All operators work on trailing axes, so e is
computed for the whole window at once, along an axis behind the batch.
"""

from __future__ import annotations

from collections.abc import Callable

from nlc.ir.expr import Expr, walk
from nlc.ir.ops import leaf, make, num
from nlc.ir.program import Let, Slot
from nlc.ir.system import Level, System
from nlc.ir.types import Clock, Dim, Type
from nlc.passes.naming import Names


class Windows:
    """Slots for windows, and the sums over them; ``Tokens`` translates what joins a window."""

    system: System
    names: Names
    base: Clock
    vars: dict[Expr, Expr]
    slots: list[Slot]
    carries: list[str]
    first: list[Let]
    var: Callable[[str, Type], Expr]
    program_expr: Callable[[Expr], Expr]
    translate: Callable[[Expr, str, list[Let]], Expr]

    def recent(self, e: Expr, level: Level, lets: list[Let]) -> Expr:
        """``e`` with each sum over a window replaced by a variable, its statements added to ``lets``."""
        found = {n: self._summed(n, level, lets) for n in walk(e) if n.op == "recent"}
        done: dict[int, Expr] = {}
        for n in walk(e):
            args = tuple(done[id(a)] for a in n.args)
            done[id(n)] = found[n] if n in found else n.with_args(args)
        return done[id(e)]

    def _summed(self, n: Expr, level: Level, lets: list[Let]) -> Expr:
        value = leaf("windowed", n, n.type)
        if value in self.vars:
            return value
        size, own = n.attr[0], {s.name for s in level.states}
        seen = self._window(num(1.0), f"{level.name}.seen", size, level, lets)
        moves: dict[int, bool] = {}
        for x in walk(n.args[0]):
            mine = (x.op == "state" and x.attr[0] in own) or _is_age(x)
            moves[id(x)] = mine or any(moves[id(a)] for a in x.args)
        spread = False  # whether something has the axis of the window

        def over(x: Expr) -> Expr:
            nonlocal spread
            if _is_age(x):
                return self._ages(size, seen)
            if moves[id(x)] and not x.args:
                spread = True
                return Expr("lift", (self.program_expr(x),), None, x.type)
            if not moves[id(x)] and not x.type.clock.batched:
                return self.program_expr(x)
            apart = x.args and (x.type.rank >= 2 or x.op in ("ones", "zeros", "numel"))
            if moves[id(x)] or apart:  # T matrices would not fit, nor would c
                return x.with_args(tuple(over(a) for a in x.args))
            spread = True
            name = str(x.attr) if x.op in ("flow", "input") else level.name
            return self._window(x, f"{name}.recent", size, level, lets)

        inner = over(n.args[0])
        if not spread:
            one = inner.op == "num" and inner.attr == 1
            inner = seen if one else make("mul", seen, inner)
        name = self.names(f"{level.name}_recent")
        lets.append(Let((name,), Expr("recent", (inner, seen), None, n.type), "", n.span))
        self.vars[value] = self.var(name, n.type)
        return value

    def _window(self, e: Expr, wanted: str, size: Dim, level: Level, lets: list[Let]) -> Expr:
        """The last values of ``e``, those of this tick with them; once for each, however often it is read."""
        known = leaf("window", (e, size, level.name), e.type)
        if known not in self.vars:
            keys, key, i = {s.key for s in self.slots}, wanted, 2
            while key in keys:
                key, i = f"{wanted}_{i}", i + 1
            kind = Type(e.type.dims, e.type.head, self.base)
            slot = Slot(key, self.names(key), "recent", kind, window=size)
            self.slots.append(slot)
            self.carries.append(slot.var)
            window = self.var(slot.var, kind)
            value = e if e.op == "num" else self.translate(e, level.name, lets)
            pushed = Expr("push", (window, value), None, kind)
            lets.append(Let((slot.var,), pushed, f"the last {size} ticks"))
            self.vars[known] = window
        return self.vars[known]

    def _ages(self, size: Dim, seen: Expr) -> Expr:
        """0 for the newest."""
        known = leaf("window", ("age", size), seen.type)
        if known not in self.vars:
            ages = self.var(self.names("age"), Type((), False, self.base))
            self.first.append(Let((str(ages.attr),), Expr("ages", (seen,), size, ages.type)))
            self.vars[known] = ages
        return self.vars[known]


def _is_age(e: Expr) -> bool:
    return e.op == "index" and e.attr[0] == "age"
