"""What both kinds of system share: variables for names, and the statements of a level's step."""

from __future__ import annotations

from dataclasses import replace

from nlc.base.span import Span
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.notation import Notation
from nlc.ir.ops import leaf
from nlc.ir.program import Let, Slot
from nlc.ir.system import Level, System
from nlc.ir.types import STEP, TOKEN, Type
from nlc.ir.update import Update
from nlc.passes.lower.periods import Periods, state_leaf, state_type
from nlc.passes.naming import Names


class Lowering(Periods):
    """What both kinds of system share: variables for flows and states, and the statements of a level's step."""

    def __init__(self, system: System, updates: dict[str, Update], reserved: frozenset[str]):
        self.system = system
        self.base = self.reader = TOKEN if system.context == "tokens" else STEP
        self.totals: dict[str, tuple[Expr, Level]] = {}
        self.updates = {
            name: self._gathering(self._at_own_clock(u), system.levels[name])
            for name, u in updates.items()
        }
        self.names = Names(reserved | frozenset(system.hypers))
        self.slots: list[Slot] = []
        self.vars: dict[Expr, Expr] = {}
        self.inputs = {name: self.names(name) for name in system.inputs}
        self.state_vars = {s.name: self.names(s.name) for s in system.states.values()}
        self.flow_vars = {name: self.names(name) for name in system.flows}
        self.kept: dict[str, str] = {}
        self.holds: dict[Expr, str] = {}
        self._memories()

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
        self.reader = level.clock
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
