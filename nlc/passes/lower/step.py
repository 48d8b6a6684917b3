"""What both kinds of system share: variables for names, and the statements of a level's step."""

from __future__ import annotations

from dataclasses import replace

from nlc.base.span import Span
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.notation import Notation
from nlc.ir.ops import leaf, make
from nlc.ir.program import Guard, Let, Slot
from nlc.ir.system import Level, State, System
from nlc.ir.types import ONE, Type
from nlc.ir.update import Update
from nlc.passes.naming import Names


class Lowering:
    """What both kinds of system share: variables for flows and states, and the statements of a level's step."""

    def __init__(self, system: System, updates: dict[str, Update], reserved: frozenset[str]):
        self.system = system
        self.totals: dict[str, tuple[Expr, Level]] = {}
        self.updates = {
            name: self._gathering(u, system.levels[name]) for name, u in updates.items()
        }
        self.names = Names(reserved | frozenset(system.hypers))
        self.slots: list[Slot] = []
        self.vars: dict[Expr, Expr] = {}
        self.inputs = {name: self.names(name) for name in system.inputs}
        self.state_vars = {s.name: self.names(s.name) for s in system.states.values()}
        self.flow_vars = {name: self.names(name) for name in system.flows}
        self.kept: dict[str, str] = {}
        self._memories()

    # -------------------------------------------------------------------------------------------- time

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
                    origin = s.init or leaf("state", (s.name, "now"), kind)
                    self.timed.append(Slot(f"{s.name}.start", name, "start", kind, origin))
                    self.vars[leaf("initial", s.name, kind)] = self.var(name, kind)
        for key, (total, _) in self.totals.items():
            name, kind = self.names(key), total.type
            self.timed.append(Slot(key, name, "gathered", kind))
            self.vars[leaf("gathered", key, kind)] = self.var(name, kind)

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
        value = self.translate(inner, key, lets)
        sofar = self.vars[leaf("gathered", key, total.type)]
        faster = [
            self.system.levels[self.system.states[n.attr[0]].level]
            for n in walk(inner)
            if n.op == "state"
        ]
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
                    value = self.program_expr(level.reset.to)
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
        return out

    # -------------------------------------------------------------------------------------------- names

    def var(self, name: str, type: Type) -> Expr:
        return leaf("var", name, type)

    def program_expr(self, e: Expr) -> Expr:
        """Flow, input and state leaves replaced by the variables that hold them."""

        def rule(n: Expr) -> Expr | None:
            if n in self.vars:
                return self.vars[n]
            if n.op == "flow":
                return self.var(self.flow_vars[n.attr], n.type)
            if n.op == "input":
                return self.var(self.inputs[n.attr], n.type)
            if n.op == "state":
                name, time = n.attr
                if time == "prev" and name in self.kept:
                    return self.var(self.kept[name], n.type)
                return self.var(self.state_vars[name], n.type)
            return None

        return rewrite(e, rule)

    def translate(self, e: Expr, where: str, lets: list[Let]) -> Expr:
        """An expression of a tick over program variables; statements that it needs first go to ``lets``."""
        return self.program_expr(e)

    def step(self, level: Level) -> list[Let]:
        """The statements of one step, with the mathematics as comments."""
        update = self.updates[level.name]
        lets: list[Let] = []
        plain = all(update.base[s.name] == state_leaf(s, level, "prev") for s in level.states)
        n = Notation(self.system, own=level.name, plain_base=plain)

        def let(name: str, e: Expr, note: str, span: Span | None) -> Let:
            return Let((name,), self.translate(e, level.name, lets), note, span)

        for s in level.states:
            base, at = update.base[s.name], state_leaf(s, level, "base")
            if base.op == "state":
                self.vars[at] = self.program_expr(base)
                continue
            name = self.names(f"{s.name}_base")
            before = replace(n, marked=False)
            note = f"{n.state((s.name, 'base'))} = {before.text(base)}"
            lets.append(let(name, base, note, level.keys.get("retain") or level.keys.get("rule")))
            self.vars[at] = self.var(name, state_type(s, level))
        for s in level.states:
            if s.name in update.gradient:
                name = self.names(f"{s.name}_grad")
                note = f"∇ {n.text(level.objective)}"
                lets.append(let(name, update.gradient[s.name], note, level.objective.span))
                self.vars[leaf("gradient", s.name, state_type(s, level))] = self.var(
                    name, state_type(s, level)
                )
        note, where = "update", level.keys.get("update")
        if level.rule is not None:
            args = ", ".join(
                f"{k}={n.text(a)}" for k, a in level.rule.args.items() if k != "exact" or a.attr
            )
            note, where = f"{level.rule.name}({args})", level.rule.span
        news = [let(self.state_vars[s.name], update.new[s.name], note, where) for s in level.states]
        when = self._guard(level)
        return [replace(x, when=when) if when else x for x in lets + _together(news, self.names)]


def _together(lets: list[Let], names: Names) -> list[Let]:
    """Simultaneous assignments: none may see another's new value."""
    targets = {x.names[0] for x in lets}
    clash = any(
        n.op == "var" and n.attr in targets - {x.names[0]} for x in lets for n in walk(x.expr)
    )
    if not clash:
        return lets
    fresh = [replace(x, names=(names(f"{x.names[0]}_next"),)) for x in lets]
    back = [Let(x.names, leaf("var", f.names[0], f.expr.type)) for x, f in zip(lets, fresh)]
    return fresh + back


def state_leaf(s: State, level: Level, time: str) -> Expr:
    return leaf("state", (s.name, time), state_type(s, level))


def state_type(s: State, level: Level) -> Type:
    return Type(s.dims, level.head, level.clock)
