"""What changes less often than it is read is computed once a tick of its own clock, and held in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from nlc.ir.expr import Expr, substitute, walk
from nlc.ir.ops import leaf
from nlc.ir.program import Let
from nlc.ir.system import Level, System
from nlc.ir.types import Clock, Dim, Type
from nlc.passes.naming import Names, describe
from nlc.passes.share import CHEAP


class Held:
    """Finds what can be held, and says when it is renewed; ``Lowering`` translates expressions."""

    system: System
    names: Names
    vars: dict[Expr, Expr]
    holds: dict[Expr, str]
    reader: Clock  # the clock of what is being translated
    var: Callable[[str, Type], Expr]
    program_expr: Callable[[Expr], Expr]
    during: Callable[[Clock, Iterable[Let]], list[Let]]

    def hold(self, e: Expr) -> Expr:
        """Parts that change less often than their reader ticks are computed once a tick of their own clock."""
        done: dict[int, Expr] = {}

        def go(n: Expr) -> Expr:
            if id(n) not in done:
                slower = (
                    n.args and self.reader.faster(n.type.clock) and n.type.clock.kind == "every"
                )
                whole = self._worth(n) if slower else None
                done[id(n)] = self._held(whole) if whole else n.with_args(tuple(map(go, n.args)))
            return done[id(n)]

        return go(e)

    def _worth(self, e: Expr) -> Expr | None:
        """A slow expression over states alone, its flows written out; None if it is not that, or costs nothing."""
        whole = self._written_out(e)
        if whole is None or not any(n.args and n.op not in CHEAP for n in walk(whole)):
            return None
        return whole

    def _written_out(self, e: Expr) -> Expr | None:
        mixed = ("conv", "delay", "attend", "gathered", "gradient", "total", "recent", "ticks")
        flows: dict[Expr, Expr] = {}
        for n in walk(e):
            if n.op in mixed or (n.op == "state" and not self._is_held(n)):
                return None
            if n.op == "flow" and n not in flows:
                inner = self._written_out(self.system.flows[n.attr].expr)
                if inner is None:
                    return None
                flows[n] = inner
            if n.op == "index" and n.attr[0] == "t":
                flows[n] = leaf("ticks", (n.attr[1], "held"), n.type)
        whole = substitute(e, flows)
        return whole if any(n.op == "state" for n in walk(whole)) else None

    def _is_held(self, n: Expr) -> bool:
        """Whether a read changes only where its state is replaced: the value before a tick changes one tick later."""
        _, time = n.attr
        return time in ("now", "anchor") or (time == "prev" and self._level(n).clock.late)

    def _level(self, n: Expr) -> Level:
        return self.system.levels[self.system.states[n.attr[0]].level]

    def _held(self, e: Expr) -> Expr:
        value = leaf("held", None, e.type)
        for known, name in self.holds.items():
            if known == e:
                return replace(value, attr=name)
        self.holds[e] = name = self.hold_name(e)
        held = replace(value, attr=name)
        self.vars[held] = self.var(name, e.type)
        return held

    def hold_name(self, e: Expr) -> str:
        """The variable that holds an expression over slow states."""
        return self.names(describe(self.program_expr(e)) + "_held")

    def holding(self) -> list[Let]:
        """What is held, from the states as they are."""
        return [Let((name,), self.program_expr(e), "held") for e, name in self.holds.items()]

    def _renewals(self, e: Expr) -> tuple[set[str], set[Clock], list[Clock]]:
        """Where a held value changes: behind the steps of which levels, at which boundaries, behind which ticks."""
        steps: set[str] = set()
        boundaries: set[Clock] = set()
        ends: list[Clock] = []
        for level, time in {(self._level(n).name, n.attr[1]) for n in walk(e) if n.op == "state"}:
            level = self.system.levels[level]
            every = level.reset.every if level.reset else None
            if time == "anchor":
                (ends.append if level.boundary.name else boundaries.add)(level.boundary)
                ends += [every] if every is not None and every.name else []
                continue
            if level.clock.late:
                ends.append(level.clock)
            else:
                steps.add(level.name)
            ends += [every] if every is not None else []
        return steps, boundaries, sorted(set(ends), key=lambda c: (c.order, c.name))

    def renewed_by(self, level: Level) -> list[Let]:
        """What is computed anew behind the step of a level whose new state is read in the same tick."""
        held = [
            let for let, e in zip(self.holding(), self.holds) if level.name in self._renewals(e)[0]
        ]
        return self.during(level.clock, held)

    def renewed_at_boundaries(self) -> list[Let]:
        """What is computed anew where anchors have moved."""
        out: list[Let] = []
        for let, e in zip(self.holding(), self.holds):
            for clock in sorted(self._renewals(e)[1], key=lambda c: c.order):
                out += self.during(clock, [let])
        return sorted(out, key=lambda x: str(x.when))

    def renewed(self) -> list[Let]:
        """What is computed anew behind the ticks of slow levels and behind resets."""
        out: dict[Clock, list[Let]] = {}
        for let, e in zip(self.holding(), self.holds):
            ends = self._renewals(e)[2]
            for clock in ends:
                if not any(clock is not other and _ends_too(clock, other) for other in ends):
                    out.setdefault(clock, []).append(let)
        return [x for clock, lets in out.items() for x in self.during(clock, lets)]


def _ends_too(p: Clock, q: Clock) -> bool:
    """Whether every end of a period ``p`` is one of ``q`` too, whatever the hypers."""
    return not p.name and not q.name and p.phase == q.phase and _multiple(p.count, q.count)


def _multiple(p: Dim, q: Dim) -> bool:
    factor = (p / q).constant if len(q.terms) == 1 else None
    return factor is not None and factor.denominator == 1
