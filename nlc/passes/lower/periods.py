"""What happens at boundaries: anchors are taken, slow levels gather and step, sums start anew, levels are reset.

The order of a boundary is that of language §2: fast levels and flows, then slow levels, fastest first, then resets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nlc.ir.expr import Expr, part, rewrite, substitute, walk
from nlc.ir.ops import add, div, leaf, make, num
from nlc.ir.program import Let, Slot
from nlc.ir.system import Level, State, System
from nlc.ir.types import Clock, Type
from nlc.ir.update import Update
from nlc.passes.lower.held import Held
from nlc.passes.lower.samples import count, mean_over_samples, of_samples, over_samples
from nlc.passes.lower.through import Through
from nlc.passes.lower.ticks import Ticks
from nlc.passes.naming import Names
from nlc.passes.simplify import simplify

Wanted = Callable[[Expr], bool]


class Periods(Held, Ticks, Through):
    """The slots and statements that time needs; ``Lowering`` has the variables and translates expressions."""

    system: System
    names: Names
    vars: dict[Expr, Expr]
    totals: dict[str, tuple[Expr, Level]]
    given: dict[str, Update]  # as derived
    state_vars: dict[str, str]
    reader: Clock  # the clock of what is being translated

    def _at_own_clock(self, update: Update) -> Update:
        """Flows of slow states written out in a step: there they are what the states have just become.

        So are those of slow gradients, which there are in the ticks of their level alone, and those of counts, which
        a step sees as its own.
        """

        def wanted(n: Expr) -> bool:
            if n.op == "index" and n.attr[0] == "t" and n.attr[1] is not None:
                return self.system.levels[n.attr[1]].clock.slow
            return n.op == "gradient" and n.type.clock.slow

        def rule(n: Expr) -> Expr | None:
            slow = n.op == "flow" and self.base.faster(n.type.clock) and n.type.clock.batched
            return self._written_out(n) if slow else None

        def each(parts: dict[str, Expr]) -> dict[str, Expr]:
            opened = {k: self._opened(e, wanted) for k, e in parts.items()}
            return {k: rewrite(e, rule) for k, e in opened.items()}

        return replace(
            update,
            base=each(update.base),
            gradient=each(update.gradient),
            new=each(update.new),
        )

    def _as_gathered(self, e: Expr, level: Level) -> Expr:
        """An expression of a level's step with its sums as they are when it comes."""
        bare = Update(level.name, {level.name: e}, {}, {}, {})
        return self._gathering(self._at_own_clock(bare), level).base[level.name]

    def inside(self, e: Expr) -> Expr:
        """``e`` for the loop, with slow flows written out: they are known where something reads them, and held."""
        slow = lambda n: n.op == "state" and n.type.clock.slow  # noqa: E731
        return self._opened(e, slow, lambda n: self.base.faster(n.type.clock))

    def _opened(self, e: Expr, wanted: Wanted, among: Wanted = lambda n: True) -> Expr:
        """``e`` with the flows written out in which something is wanted; a flow may read its own past."""
        within: list[str] = []

        def rule(n: Expr) -> Expr | None:
            if n.op != "flow" or n.attr in within or not among(n):
                return None
            within.append(n.attr)
            inner = rewrite(self.system.flows[n.attr].expr, rule)
            within.pop()
            return inner if any(wanted(x) for x in walk(inner)) else None

        return rewrite(e, rule)

    def _gathering(self, update: Update, level: Level) -> Update:
        """``total`` nodes of a step replaced by what has been gathered when it comes, its ``t`` by its own count."""

        def ticks(e: Expr, moment: str, reader: Clock) -> Expr:
            """Counts as the step sees them: its own, and those of levels that tick no later than it reads."""
            now: dict[Expr, Expr] = {}
            for n in walk(e):
                if n.op != "index" or n.attr[0] != "t" or n.attr[1] is None:
                    continue
                other = self.system.levels[n.attr[1]]
                if other.clock.slow and (other is level or not other.clock.held_for(reader)):
                    mine = other is level or self._steps_before(level, other)
                    when = moment if mine else "now"
                    now[n] = leaf("ticks", (other.name, when), n.type)
            return substitute(e, now)

        def rule(n: Expr) -> Expr | None:
            if n.op != "total":
                return None
            if of_samples(n) and not level.clock.slow:  # all of them are there
                of = mean_over_samples if n.attr[0] == "mean" else over_samples
                return simplify(of(n.args[0]))
            total = n.with_args((ticks(n.args[0], "gather", n.args[0].type.clock),))
            if total.attr[0] != "mean":
                return self._gathered(total, level)
            clock = total.attr[1]
            summed = self._gathered(replace(total, attr=("sum", clock)), level)
            inner = n.args[0].type.clock
            whole = clock.phase == "end" and not clock.name and not inner.name
            whole = whole and not of_samples(n)
            if whole and len(_ends(level)) == 1:  # as many in each
                return div(summed, leaf("size", clock.count / inner.count, SIZE))
            seen = self._gathered(replace(total, attr=("count", clock)), level)
            return div(summed, make("maximum", seen, num(1.0)))

        def each(e: Expr) -> Expr:
            return ticks(rewrite(e, rule), "step", level.clock)

        return replace(
            update,
            base={k: each(e) for k, e in update.base.items()},
            gradient={k: each(e) for k, e in update.gradient.items()},
            new={k: each(e) for k, e in update.new.items()},
        )

    def _steps_before(self, level: Level, other: Level) -> bool:
        """Whether another level's step reads what this one's makes in the same tick, as a level of its rule does."""
        own = {s.name for s in level.states}
        stack, seen = [*self.given[other.name].new.values()], set()
        while stack:
            for n in walk(stack.pop()):
                if n.op == "state" and n.attr[0] in own and n.attr[1] == "now":
                    return True
                if n.op == "flow" and n.attr not in seen:
                    seen.add(n.attr)
                    stack.append(self.system.flows[n.attr].expr)
        return False

    def _gathered(self, total: Expr, level: Level) -> Expr:
        """What one sum comes to; counts of ticks are shared where the ticks are the same."""
        kind = total.attr[0]
        kind_of = total.type if kind != "count" else replace(total.type, dims=(), head=False)
        for key, (known, of) in self.totals.items():
            ticks = known.args[0].type.clock == total.args[0].type.clock
            same = known == total or (kind == "count" and known.attr == total.attr)
            if same and ticks and _ends(of) == _ends(level):
                return leaf("gathered", key, kind_of)
        base, i = f"{level.name}.{kind}", 2
        key = base
        while key in self.totals:
            key, i = f"{base}_{i}", i + 1
        self.totals[key] = (total.with_type(kind_of), level)
        return leaf("gathered", key, kind_of)

    def _memories(self) -> None:
        """Slots for what time needs: states at their last boundary, what is gathered so far."""
        self.anchors = [
            s for s in self.system.states.values() if self.system.levels[s.level].anchor
        ]
        self.timed: list[Slot] = []
        for s in self.anchors:
            level = self.system.levels[s.level]
            name = self.names(f"{s.name}_anchor")
            self.timed.append(
                Slot(
                    f"{s.name}.anchor",
                    name,
                    "anchor",
                    state_type(s, level),
                    s.init,
                    s.learned,
                    of=s.name,
                )
            )
            self.vars[state_leaf(s, level, "anchor")] = self.var(name, state_type(s, level))
        for level in self.system.levels.values():
            wanted = (level.toward is not None and level.toward.op == "initial") or (
                level.reset is not None and level.reset.to is None
            )
            for s in level.states if wanted else ():
                if s.borrowed:
                    name, kind = self.names(f"{s.name}_start"), state_type(s, level)
                    own = leaf("state", (s.name, "now"), kind)
                    origin = None if s.given else own if s.drawn else s.init or own
                    self.timed.append(Slot(f"{s.name}.start", name, "start", kind, origin))
                    self.vars[leaf("initial", s.name, kind)] = self.var(name, kind)
        for key, (total, _) in self.totals.items():
            name, kind = self.names(key), total.type
            self.timed.append(Slot(key, name, "gathered", kind))
            self.vars[leaf("gathered", key, kind)] = self.var(name, kind)

    def opening(self) -> list[Let]:
        """At the start of a period, a state becomes its own anchor."""
        out = []
        for s in self.anchors:
            level = self.system.levels[s.level]
            if not level.boundary.name:
                out += self.during(level.boundary, [self._anchored(s, level)])
        return out + self.begun() + self.renewed_at_boundaries()

    def _anchored(self, s: State, level: Level) -> Let:
        held = self.var(self.state_vars[s.name], state_type(s, level))
        anchor = self.vars[state_leaf(s, level, "anchor")]
        return Let((str(anchor.attr),), held, "the boundary", level.keys.get("anchor"))

    def gather(self, key: str) -> list[Let]:
        """One tick's contribution to what a slow level gathers."""
        total, level = self.totals[key]
        kind, inner = total.attr[0], total.args[0]
        lets: list[Let] = []
        self.reader = level.clock
        for s in level.states:  # a slow state is constant inside its period, and so is its base
            start = rewrite(self.updates[level.name].base[s.name], _coming)
            base = self.translate(start, level.name, lets)
            self.vars.setdefault(state_leaf(s, level, "base"), base)
        self.reader = ticks = inner.type.clock
        if of_samples(total):
            inner = count() if kind == "count" else simplify(over_samples(inner))
            value = self.translate(inner, key, lets)
        else:
            value = num(1.0) if kind == "count" else self.translate(inner, key, lets)
        sofar = self.vars[leaf("gathered", key, total.type)]
        if kind == "last":  # what holds when the level ticks, be it as old as it may
            ticks = level.clock if ticks.slow else ticks
        else:
            value = add(sofar, value)
        return self.during(
            ticks, [*lets, Let((str(sofar.attr),), value, f"over {level.clock}", total.span)]
        )

    def as_read(self, e: Expr) -> Expr:
        """``e`` for the end of a tick: states that its reader sees as they were before the tick are kept for it."""

        def was(n: Expr) -> Expr | None:
            if n.op != "state" or self.system.states[n.attr[0]].level not in self.updates:
                return None
            name, time = n.attr
            level = self.system.levels[self.system.states[name].level]
            if time != "prev" and (time != "now" or not level.clock.held_for(self.reader)):
                return None
            kept = leaf("state", (name, "was"), n.type)
            if kept not in self.vars:
                state = self.var(self.state_vars[name], n.type)
                if name not in self.kept:
                    self.kept[name] = self.names(f"{name}_prev")
                    self.starts.append(Let((self.kept[name],), state))
                self.vars[kept] = self.var(self.kept[name], n.type)
            return kept

        return rewrite(e, was)

    def seen_late(self, e: Expr) -> frozenset[str]:
        """The states of late levels in ``e`` that the reader sees as they have become."""
        levels = self.system.levels
        now = {n.attr[0] for n in walk(e) if n.op == "state" and n.attr[1] == "now"}
        clocks = {n: levels[self.system.states[n].level].clock for n in now}
        return frozenset(n for n, c in clocks.items() if c.late and not c.held_for(self.reader))

    def closing(self) -> list[Let]:
        """At the end of a period: sums start anew, and levels are reset, slowest first."""
        out: list[Let] = []
        for key, (total, level) in self.totals.items():
            if total.attr[0] != "last":
                sofar = self.vars[leaf("gathered", key, total.type)]
                for clock in _ends(level):
                    out += self.during(clock, [Let((str(sofar.attr),), make("zeros", sofar))])
        for level in self.system.levels.values():
            out += self.counted(level) if level.clock.late else []
        resets = [level for level in self.system.levels.values() if level.reset]
        for level in sorted(resets, key=lambda x: x.reset.every.order, reverse=True):
            out += self.during(level.reset.every, [self._start(s, level) for s in level.states])
        for s in self.anchors:  # a declared clock begins something new: the boundary is there
            level = self.system.levels[s.level]
            every = level.reset.every if level.reset else None
            for clock in dict.fromkeys(c for c in (every, level.boundary) if c and c.name):
                out += self.during(clock, [self._anchored(s, level)])
        return out + self.renewed()

    def _start(self, s: State, level: Level) -> Let:
        """A state returns to where its reset says, or to where it started."""
        held = self.var(self.state_vars[s.name], state_type(s, level))
        if level.reset.to is not None:
            value = self.program_expr(part(level.reset.to, level.states.index(s)))
            value = value if value.type.dims == s.dims else add(make("zeros", held), value)
        elif s.learned or s.init is not None or s.borrowed:
            kept = s.learned or s.borrowed
            start = leaf("initial", s.name, state_type(s, level)) if kept else s.init
            value = add(make("zeros", held), self.program_expr(start))
        else:
            value = make("zeros", held)
        return Let((str(held.attr),), value, "reset", level.reset.span)

    @property
    def guarded(self) -> bool:
        """Whether anything happens in some ticks of the base clock only, which must be counted."""
        clocks = [c for level in self.system.levels.values() for c in level.clocks]
        return any(c.slow and not c.name for c in clocks)


SIZE = Type((), dtype="int")


def _coming(n: Expr) -> Expr | None:
    """The count of a step, in the ticks before it."""
    return replace(n, attr=(n.attr[0], "gather")) if n.op == "ticks" else None


def state_leaf(s: State, level: Level, time: str) -> Expr:
    return leaf("state", (s.name, time), state_type(s, level))


def state_type(s: State, level: Level) -> Type:
    return Type(s.dims, level.head, level.clock)


def _ends(level: Level) -> list[Clock]:
    """Where what a level gathers starts anew: behind its tick, and where it is reset in between."""
    reset = level.reset.every if level.reset is not None else None
    together = reset is None or (
        reset == level.clock if reset.name else level.clock.phase == "end" and not level.clock.name
    )
    return [level.clock, *([] if together else [reset])]
