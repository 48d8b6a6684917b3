"""A gradient or layer system as straight-line statements for one tensor and step."""

from __future__ import annotations

from nlc.ir.expr import Expr, substitute, walk
from nlc.ir.ops import num, sub
from nlc.ir.program import Let, Program, Return, Slot
from nlc.ir.system import System
from nlc.ir.types import STEP, Type
from nlc.ir.update import Update
from nlc.passes.bounds import bounds
from nlc.passes.lower.periods import state_type
from nlc.passes.lower.schedule import Item, schedule
from nlc.passes.lower.step import Lowering
from nlc.passes.share import share


class Gradients(Lowering):
    """The statements in the order of one tick; what they need of the step before is carried in slots."""

    def __init__(self, system: System, updates: dict[str, Update], reserved: frozenset[str]):
        super().__init__(system, updates, reserved)
        self.past: list[Slot] = []
        self.ends: list[Let] = []
        self.delayed: dict[tuple[Expr, frozenset[str]], Expr] = {}

    def program(self) -> Program:
        system = self.system
        ticks = self._ticks()
        items = {n: Item(n, [f.expr], STEP) for n, f in system.flows.items() if n in self._needed()}
        items |= self.level_items() | self.clock_items()
        for key, (total, _) in self.totals.items():
            items[f"gather {key}"] = Item(
                f"gather {key}", [total.args[0]], total.args[0].type.clock
            )
        ordered, kept = schedule(items, system)
        body: list[Let] = []
        for state in sorted(kept):
            self.kept[state] = self.names(f"{state}_prev")
            level = system.levels[system.states[state].level]
            body.append(
                Let(
                    (self.kept[state],),
                    self.var(self.state_vars[state], state_type(system.states[state], level)),
                )
            )
        parts: list[tuple[Item, list[Let]]] = []
        for item in ordered:
            parts.append((item, lets := []))
            if item.name.partition(" ")[0] in ("step", "gradient", "gather", "clock"):
                lets += self.statements(item)
            else:
                self.reader = self.base
                flow, name = system.flows[item.name], self.flow_vars[item.name]
                value = self.translate(flow.expr, item.name, lets)
                if value != self.var(name, value.type):  # else it is held under its own name
                    lets.append(Let((name,), value, "", flow.span))
        for item, lets in parts:
            body += lets
            if item.name.startswith("step "):
                body += self.renewed_by(system.levels[item.name[5:]])
        slots = [
            Slot(s.name, self.state_vars[s.name], "level", state_type(s, level), s.init, s.learned)
            for level in system.levels.values()
            for s in level.states
        ]
        lets = share(
            [*self.opening(), *self.starts, *body, *self.ends, *self.closing()], self.names
        )
        held = [
            Slot(f"{x.names[0]}", x.names[0], "held", x.expr.type, x.expr) for x in self.holding()
        ]
        return Program(
            system,
            (*slots, *self.timed, *self.past, *held, *ticks),
            (*lets, Return({}, {})),
            self.inputs,
            bounds=bounds(system),
            eval_at=system.eval_at and self.program_expr(system.eval_at),
        )

    def translate(self, e: Expr, where: str, lets: list[Let]) -> Expr:
        """``prev(f)`` of a flow is a state of its own: last step's value, replaced at the end of the step."""
        e = self.hold(e)
        return self.program_expr(substitute(e, {n: self._delayed(n, where) for n in _delays(e)}))

    def _delayed(self, n: Expr, where: str) -> Expr:
        inner, init = n.args
        inner = self.inside(inner)
        known = (n, self.seen_late(inner))
        if known not in self.delayed:
            taken = {s.key for s in self.past}
            key = f"{where}.prev"
            key = key if key not in taken else f"{key}_{len(taken) + 1}"
            first = None if init.op == "num" and init.attr == 0 else self.program_expr(init)
            slot = Slot(key, self.names(key), "prev", n.type, first)
            self.past.append(slot)
            self.delayed[known] = self.var(slot.var, n.type)
            lets: list[Let] = []
            value = self.translate(self.as_read(inner), where, lets)
            lets.append(Let((slot.var,), value, "for the next step"))
            self.ends += self.during(inner.type.clock, lets)
        return self.delayed[known]

    def hold_name(self, e: Expr) -> str:
        """A flow that is held as a whole keeps its name."""
        flows = self.system.flows
        named = (n for n, f in flows.items() if f.expr.args and self._written_out(f.expr) == e)
        name = next(named, None)
        return super().hold_name(e) if name is None else self.flow_vars[name]

    def _ticks(self) -> list[Slot]:
        used = any(n.op in ("index", "ticks") for e in self._all() for n in walk(e))
        if not used and not self.guarded:
            return []
        name = self.names("t")
        kind = Type((), False, STEP, dtype="int")
        self.count = self.var(name, kind)
        self.counting(self.system.levels)
        before = sub(self.count, num(1))
        for level in (None, *self.system.levels.values()):
            slow = level is not None and level.clock.slow
            read = self.seen(level, before) if slow else self.count
            self.vars[Expr("index", (), ("t", level and level.name))] = read
        return [Slot("t", name, "tick", kind)]

    def _all(self) -> list[Expr]:
        out = [f.expr for f in self.system.flows.values()]
        out += [total.args[0] for total, _ in self.totals.values()]
        for u in self.updates.values():
            out += u.expressions
        return out + [self.system.eval_at] * (self.system.eval_at is not None)

    def _needed(self) -> set[str]:
        seen: set[str] = set()
        stack = [e for u in self.updates.values() for e in u.expressions]
        stack += [total.args[0] for total, _ in self.totals.values()]
        stack += [e for item in self.clock_items().values() for e in item.exprs]
        while stack:
            for n in walk(stack.pop()):
                if n.op == "flow" and n.attr not in seen:
                    seen.add(n.attr)
                    stack.append(self.system.flows[n.attr].expr)
        return seen


def _delays(e: Expr) -> list[Expr]:
    """The ``prev`` of flows in an expression, but for those inside another."""
    found, stack = [], [e]
    while stack:
        n = stack.pop()
        if n.op == "delay":
            found.append(n)
        else:
            stack.extend(n.args)
    return found
