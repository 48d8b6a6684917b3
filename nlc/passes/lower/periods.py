"""What happens at boundaries: anchors are taken, slow levels gather and step, sums start anew, levels are reset.

The order of a boundary is that of language §2: fast levels and flows, then slow levels, fastest first, then resets.
"""

from __future__ import annotations

from dataclasses import replace

from nlc.ir.expr import Expr, part, rewrite, walk
from nlc.ir.ops import leaf, make
from nlc.ir.program import Guard, Let, Slot
from nlc.ir.system import Level, State, System
from nlc.ir.types import ONE, Clock, Dim, Type
from nlc.ir.update import Update
from nlc.passes.naming import Names, describe


class Periods:
    """The slots and statements that time needs; ``Lowering`` has the variables and translates expressions."""

    system: System
    names: Names
    vars: dict[Expr, Expr]
    totals: dict[str, tuple[Expr, Level]]
    state_vars: dict[str, str]
    holds: dict[Expr, str]
    reader: Clock  # the clock of what is being translated

    def _gathering(self, update: Update, level: Level) -> Update:
        """``total`` nodes of a slow step replaced by what has been gathered when it comes."""

        def rule(n: Expr) -> Expr | None:
            if n.op != "total":
                return None
            key = next((k for k, (e, _) in self.totals.items() if e == n), None)
            if key is None:
                base, i = f"{level.name}.{n.attr[0]}", 2
                key = base
                while key in self.totals:
                    key, i = f"{base}_{i}", i + 1
                self.totals[key] = (n, level)
            return leaf("gathered", key, n.type)

        return replace(
            update,
            base={k: rewrite(e, rule) for k, e in update.base.items()},
            gradient={k: rewrite(e, rule) for k, e in update.gradient.items()},
            new={k: rewrite(e, rule) for k, e in update.new.items()},
        )

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
                    origin = None if s.given else s.init or leaf("state", (s.name, "now"), kind)
                    self.timed.append(Slot(f"{s.name}.start", name, "start", kind, origin))
                    self.vars[leaf("initial", s.name, kind)] = self.var(name, kind)
        for key, (total, _) in self.totals.items():
            name, kind = self.names(key), total.type
            self.timed.append(Slot(key, name, "gathered", kind))
            self.vars[leaf("gathered", key, kind)] = self.var(name, kind)

    def hold(self, e: Expr) -> Expr:
        """Parts that change less often than their reader ticks are computed once a tick of their own clock."""
        done: dict[int, Expr] = {}

        def go(n: Expr) -> Expr:
            if id(n) not in done:
                slower = (
                    n.args and self.reader.faster(n.type.clock) and n.type.clock.kind == "every"
                )
                whole = self._written_out(n) if slower else None
                done[id(n)] = self._held(whole) if whole else n.with_args(tuple(map(go, n.args)))
            return done[id(n)]

        return go(e)

    def _written_out(self, e: Expr) -> Expr | None:
        """A slow expression over states alone, its flows written out; None if it is not made of states."""

        def rule(n: Expr) -> Expr | None:
            return self._written_out(self.system.flows[n.attr].expr) if n.op == "flow" else None

        if any(
            n.op in ("conv", "delay", "attend", "gathered", "gradient", "total") for n in walk(e)
        ):
            return None
        whole = rewrite(e, rule)
        times = {n.attr[1] for n in walk(whole) if n.op == "state"}
        return whole if times and times <= {"now", "prev"} else None

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

    def _renewed(self) -> list[Let]:
        """What is held is computed anew where a state that it reads has changed, period by period."""
        out: dict[Dim, list[Let]] = {}
        for let, e in zip(self.holding(), self.holds):
            owners = {self.system.states[n.attr[0]].level for n in walk(e) if n.op == "state"}
            levels = [level for name, level in self.system.levels.items() if name in owners]
            periods = [level.clock.count for level in levels]
            periods += [level.reset.every.count for level in levels if level.reset]
            for p in dict.fromkeys(periods):
                if not any(p != q and _multiple(p, q) for q in periods):
                    out.setdefault(p, []).append(replace(let, when=Guard(p)))
        return [let for lets in out.values() for let in lets]

    @property
    def guarded(self) -> bool:
        """Whether anything happens in some ticks only."""
        return bool(
            self.anchors
            or self.totals
            or any(self._guard(level) or level.reset for level in self.system.levels.values())
        )

    def _guard(self, level: Level) -> Guard | None:
        slow = level.clock.kind == "every" and level.clock.count != ONE
        return Guard(level.clock.count) if slow else None

    def opening(self) -> list[Let]:
        """At the start of a period, a state becomes its own anchor."""
        out = []
        for s in self.anchors:
            level = self.system.levels[s.level]
            held = self.var(self.state_vars[s.name], state_type(s, level))
            anchor = self.vars[state_leaf(s, level, "anchor")]
            out.append(
                Let(
                    (str(anchor.attr),),
                    held,
                    "the boundary",
                    level.keys.get("anchor"),
                    Guard(level.anchor.count, "start"),
                )
            )
        return out

    def gather(self, key: str) -> list[Let]:
        """One tick's contribution to what a slow level gathers."""
        total, level = self.totals[key]
        kind, inner = total.attr[0], total.args[0]
        lets: list[Let] = []
        for s in level.states:  # a slow state is constant inside its period
            self.vars.setdefault(
                state_leaf(s, level, "base"),
                self.var(self.state_vars[s.name], state_type(s, level)),
            )
        self.reader = inner.type.clock
        value = self.translate(inner, key, lets)
        sofar = self.vars[leaf("gathered", key, total.type)]
        faster = any(n.op in ("state", "gradient") for n in walk(inner))
        when = (
            None if inner.type.clock.count == ONE or not faster else Guard(inner.type.clock.count)
        )
        if kind == "mean":
            ticks = level.clock.count / inner.type.clock.count
            value = make("div", value, leaf("size", ticks, Type((), dtype="int")))
        if kind != "last":
            value = make("add", sofar, value)
        note = f"over {level.clock}"
        return [
            *(replace(x, when=when) for x in lets),
            Let((str(sofar.attr),), value, note, total.span, when),
        ]

    def closing(self) -> list[Let]:
        """At the end of a period: sums start anew, and levels are reset, slowest first."""
        out = []
        for key, (total, level) in self.totals.items():
            if total.attr[0] != "last":
                sofar = self.vars[leaf("gathered", key, total.type)]
                out.append(
                    Let((str(sofar.attr),), make("zeros", sofar), "", None, self._guard(level))
                )
        resets = [level for level in self.system.levels.values() if level.reset]
        for level in sorted(resets, key=lambda x: x.reset.every.order, reverse=True):
            for s in level.states:
                held = self.var(self.state_vars[s.name], state_type(s, level))
                if level.reset.to is not None:
                    value = self.program_expr(part(level.reset.to, level.states.index(s)))
                elif s.learned or s.init is not None or s.borrowed:
                    kept = s.learned or s.borrowed
                    start = leaf("initial", s.name, state_type(s, level)) if kept else s.init
                    value = make("add", make("zeros", held), self.program_expr(start))
                else:
                    value = make("zeros", held)
                out.append(
                    Let(
                        (str(held.attr),),
                        value,
                        "reset",
                        level.reset.span,
                        Guard(level.reset.every.count),
                    )
                )
        return out + self._renewed()


def state_leaf(s: State, level: Level, time: str) -> Expr:
    return leaf("state", (s.name, time), state_type(s, level))


def state_type(s: State, level: Level) -> Type:
    return Type(s.dims, level.head, level.clock)


def _multiple(p: Dim, q: Dim) -> bool:
    """Whether every end of a period ``p`` is one of ``q`` too, whatever the hypers."""
    factor = (p / q).constant if len(q.terms) == 1 else None
    return factor is not None and factor.denominator == 1
