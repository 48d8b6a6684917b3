"""A gradient system as straight-line statements for one tensor and step."""

from __future__ import annotations

from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.program import Let, Program, Return, Slot
from nlc.ir.system import System
from nlc.ir.types import STEP, Type
from nlc.ir.update import Update
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
        self.delayed: dict[Expr, Expr] = {}

    def program(self) -> Program:
        system = self.system
        ticks = self._ticks()
        items = {n: Item(n, [f.expr], STEP) for n, f in system.flows.items() if n in self._needed()}
        for level in system.levels.values():
            update = self.updates[level.name]
            items[f"step {level.name}"] = Item(
                f"step {level.name}",
                [*update.base.values(), *update.gradient.values(), *update.new.values()],
                level.clock,
            )
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
        for item in ordered:
            if item.name.startswith("step "):
                body += self.step(system.levels[item.name[5:]])
            elif item.name.startswith("gather "):
                body += self.gather(item.name[7:])
            else:
                self.reader = self.base
                flow, name = system.flows[item.name], self.flow_vars[item.name]
                value = self.translate(flow.expr, item.name, body)
                if value != self.var(name, value.type):  # else it is held under its own name
                    body.append(Let((name,), value, "", flow.span))
        slots = [
            Slot(s.name, self.state_vars[s.name], "level", state_type(s, level), s.init, s.learned)
            for level in system.levels.values()
            for s in level.states
        ]
        lets = share([*self.opening(), *body, *self.ends, *self.closing()], self.names)
        held = [
            Slot(f"{x.names[0]}", x.names[0], "held", x.expr.type, x.expr) for x in self.holding()
        ]
        return Program(
            system,
            (*slots, *self.timed, *self.past, *held, *ticks),
            (*lets, Return({}, {})),
            self.inputs,
        )

    def translate(self, e: Expr, where: str, lets: list[Let]) -> Expr:
        """``prev(f)`` of a flow is a state of its own: last step's value, replaced at the end of the step."""

        def remember(n: Expr) -> Expr | None:
            if n.op != "delay":
                return None
            if n not in self.delayed:
                taken = {s.key for s in self.past}
                key = (
                    f"{where}.prev"
                    if f"{where}.prev" not in taken
                    else f"{where}.prev_{len(taken) + 1}"
                )
                init = None if n.args[1].op == "num" and n.args[1].attr == 0 else n.args[1]
                slot = Slot(key, self.names(key), "prev", n.type, init)
                self.past.append(slot)
                self.ends.append(Let((slot.var,), n.args[0], "for the next step"))
                self.delayed[n] = self.var(slot.var, n.type)
            return self.delayed[n]

        return rewrite(self.program_expr(self.hold(e)), remember)

    def hold_name(self, e: Expr) -> str:
        """A flow that is held as a whole keeps its name."""
        flows = self.system.flows
        named = (n for n, f in flows.items() if f.expr.args and self._written_out(f.expr) == e)
        name = next(named, None)
        return super().hold_name(e) if name is None else self.flow_vars[name]

    def _ticks(self) -> list[Slot]:
        used = any(n.op == "index" for e in self._all() for n in walk(e))
        if not used and not self.guarded:
            return []
        name = self.names("t")
        kind = Type((), False, STEP, dtype="int")
        for level in (None, *self.system.levels):
            self.vars[Expr("index", (), ("t", level))] = self.var(name, kind)
        return [Slot("t", name, "tick", kind)]

    def _all(self) -> list[Expr]:
        out = [f.expr for f in self.system.flows.values()]
        out += [total.args[0] for total, _ in self.totals.values()]
        for u in self.updates.values():
            out += [*u.base.values(), *u.gradient.values(), *u.new.values()]
        return out

    def _needed(self) -> set[str]:
        seen: set[str] = set()
        stack = [
            e
            for u in self.updates.values()
            for e in (*u.base.values(), *u.gradient.values(), *u.new.values())
        ]
        stack += [total.args[0] for total, _ in self.totals.values()]
        while stack:
            for n in walk(stack.pop()):
                if n.op == "flow" and n.attr not in seen:
                    seen.add(n.attr)
                    stack.append(self.system.flows[n.attr].expr)
        return seen
