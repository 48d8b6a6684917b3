"""What both kinds of system share: variables for names, and the statements of a level's step."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from nlc.base.span import Span
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.notation import Notation
from nlc.ir.ops import leaf
from nlc.ir.program import Let, Slot
from nlc.ir.system import Level, System
from nlc.ir.types import STEP, TOKEN, Type
from nlc.ir.update import Update
from nlc.passes.factors import factors, named
from nlc.passes.lower.periods import Periods, state_leaf, state_type
from nlc.passes.lower.schedule import Item
from nlc.passes.naming import Names
from nlc.passes.simplify import simplify


class Lowering(Periods):
    """What both kinds of system share: variables for flows and states, and the statements of a level's step."""

    def __init__(self, system: System, updates: dict[str, Update], reserved: frozenset[str]):
        self.system = system
        self.base = self.reader = STEP if system.trains else TOKEN
        self.totals: dict[str, tuple[Expr, Level]] = {}
        self.given = updates
        self.updates = {
            name: self._gathering(self._at_own_clock(u), system.levels[name])
            for name, u in updates.items()
        }
        self.updates = {name: _by_name(u) for name, u in self.updates.items()}
        self.watch()
        self.names = Names(reserved | frozenset(system.hypers))
        self.slots: list[Slot] = []
        self.vars: dict[Expr, Expr] = {}
        self.inputs = {name: self.names(name) for name in system.inputs}
        self.state_vars = {s.name: self.names(s.name) for s in system.states.values()}
        self.flow_vars = {name: self.names(name) for name in system.flows}
        self.kept: dict[str, str] = {}
        self.holds: dict[Expr, str] = {}
        self.starts: list[Let] = []  # what a tick needs of its beginning
        kind = Type((), False, self.base, dtype="bool")
        self.masks = {name: leaf("var", self.names(f"at_{name}"), kind) for name in system.declared}
        self._memories()
        self.watched_slots()

    @property
    def carried(self) -> set[str]:
        """The variables that live from tick to tick."""
        slots = {s.var for s in (*self.timed, *self.slots)}
        return {*self.state_vars.values(), *self.holds.values(), *slots}

    def windows_type(self, var: str) -> Type:
        return next(s.type for s in (*self.timed, *self.slots) if s.var == var)

    def clock_items(self) -> dict[str, Item]:
        """The declared clocks as things to schedule."""
        flows = self.system.flows
        out = {}
        for name, clock in self.system.declared.items():
            e = leaf("flow", clock.marks, flows[clock.marks].expr.type)
            out[f"clock {name}"] = Item(f"clock {name}", [e], self.base)
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

    def level_items(self) -> dict[str, Item]:
        """What the levels compute in a tick: ``step L``, and before it ``gradient L`` where a rule's levels read it."""
        items = {}
        shared = self._shared_gradients
        for level in self.system.levels.values():
            if (update := self.updates.get(level.name)) is None:
                continue
            steps = {s.name for s in level.states}
            own = [x.expr for x in update.factors]
            own += [self.watched[level.name]] if level.through else []
            own += [e for name, e in update.gradient.items() if name in steps]
            apart = level.name in shared
            parts = {f"gradient {level.name}": [*update.base.values(), *own]} if apart else {}
            for name, e in update.gradient.items():
                if name not in steps:
                    parts[f"gradient {name}"] = [e]
            before = [] if apart else [*update.base.values(), *own]
            parts[f"step {level.name}"] = [*before, *update.new.values()]
            waits = []
            if level.clock.name:
                waits = [leaf("clock", level.clock.name, self.masks[level.clock.name].type)]
            items |= {name: Item(name, [*e, *waits], level.clock) for name, e in parts.items()}
        return items

    @cached_property
    def _shared_gradients(self) -> set[str]:
        """The levels whose gradients are read by others: by the levels of their rules, or for their objectives."""
        known = self.system.gradients
        readers = {name: list(u.expressions) for name, u in self.updates.items()}
        for total, level in self.totals.values():
            readers[level.name].append(total)
        read = {
            (known[n.attr].level, name)
            for name, exprs in readers.items()
            for e in exprs
            for n in walk(e)
            if n.op == "gradient" and n.attr in known
        }
        return {level for level, name in read if level != name} | {
            level.name for level in self.system.levels.values() if level.inner
        }

    def statements(self, item: Item) -> list[Let]:
        """The statements of an item of a level, with the mathematics as comments."""
        kind, _, name = item.name.partition(" ")
        if kind == "gather":
            return self.gather(name)
        if kind == "clock":
            return [self.mask_item(name)]
        owner = name if name in self.system.levels else self.system.gradients[name].level
        level = self.system.levels[owner]
        self.reader = level.clock
        if kind == "gradient":
            lets = self.gradients(level) if name == owner else self.inner_gradient(level, name)
            return self.during(level.clock, lets)
        lets = [] if level.name in self._shared_gradients else self.gradients(level)
        ticked = [] if level.clock.late else self.counted(level)
        return self.during(level.clock, [*lets, *self.step(level)]) + ticked

    def inner_gradient(self, level: Level, name: str) -> list[Let]:
        """The gradient that a rule inside a level's rule takes."""
        lets: list[Let] = []
        e = self.updates[level.name].gradient[name]
        var = self.names(f"{name}_grad")
        lets.append(Let((var,), self.translate(e, level.name, lets), "what its rule is given"))
        self.vars[leaf("gradient", name, e.type)] = self.var(var, e.type)
        return lets

    def _notation(self, level: Level) -> Notation:
        base = self.updates[level.name].base
        plain = all(base[s.name] == state_leaf(s, level, "prev") for s in level.states)
        return Notation(self.system, own=level.name, plain_base=plain)

    def gradients(self, level: Level) -> list[Let]:
        """The points from which a level's step starts, and the gradients of its objective."""
        update, n = self.updates[level.name], self._notation(level)
        lets: list[Let] = []

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
        lets += self.slopes(level)
        for x in update.factors:
            name = self.names(f"{x.state}_{x.what}")
            note = f"the {x.what} of {n.symbol(x.state)}, eq. 29"
            lets.append(let(name, x.expr, note, level.objective.span))
            self.vars[x.symbol] = self.var(name, x.expr.type)
        for s in level.states:
            if s.name in update.gradient:
                name = self.names(f"{s.name}_grad")
                note = f"∇ {n.text(simplify(level.objective))}"
                lets.append(let(name, update.gradient[s.name], note, level.objective.span))
                kind = state_type(s, level)  # which may have heads where the gradient has none
                self.vars[leaf("gradient", s.name, kind)] = self.var(
                    name, replace(kind, head=lets[-1].expr.type.head)
                )
        return lets

    def step(self, level: Level) -> list[Let]:
        """The new states of a level."""
        update, n = self.updates[level.name], self._notation(level)
        lets: list[Let] = []

        def let(name: str, e: Expr, note: str, span: Span | None) -> Let:
            return Let((name,), self.translate(e, level.name, lets), note, span)

        note, where = "update", level.keys.get("update")
        if level.rule is not None:
            args = ", ".join(
                f"{k}={n.text(a)}" for k, a in level.rule.args.items() if k != "exact" or a.attr
            )
            note, where = f"{level.rule.name}({args})", level.rule.span
        news = [let(self.state_vars[s.name], update.new[s.name], note, where) for s in level.states]
        kept = [
            x for x in news if x.expr.op != "var" or x.expr.attr != x.names[0]
        ]  # as a rate of 0
        return lets + _together(kept, self.names)


def _by_name(update: Update) -> Update:
    """The step of a memory of several weights over the keys and errors of its weights."""
    names = factors(update, "gradient")
    return replace(
        update,
        gradient={k: named(e, names) for k, e in update.gradient.items()},
        new={k: named(e, names) for k, e in update.new.items()},
        factors=tuple(names),
    )


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
