"""Which ticks a statement belongs to, and how many there have been: guards, masks of declared clocks, ``t``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from nlc.ir.expr import Expr
from nlc.ir.ops import add, leaf, make, num, sub
from nlc.ir.program import Guard, Let, Slot
from nlc.ir.system import Level, System
from nlc.ir.types import NEVER, Clock, Type
from nlc.passes.naming import Names

COUNTED = Type((), False, NEVER, dtype="int")  # the ticks of the base clock so far: a number


class Ticks:
    """Restricts statements to the ticks of a clock: a period by a guard, a declared clock sequence by sequence."""

    system: System
    names: Names
    base: Clock
    vars: dict[Expr, Expr]
    timed: list[Slot]
    masks: dict[str, Expr]  # of each declared clock: where it ticks, a variable of the tick
    count: Expr  # the number of this tick of the base clock, from 1
    carried: set[str]  # variables that live from tick to tick
    windows_type: Callable[[str], Type]
    program_expr: Callable[[Expr], Expr]

    def during(self, clock: Clock, lets: Iterable[Let]) -> list[Let]:
        """``lets`` in the ticks of ``clock`` alone; what they assign keeps its value in the others."""
        if not clock.slow:
            return list(lets)
        if not clock.name:
            return [replace(x, when=Guard(clock.count, clock.phase)) for x in lets]
        return [part for x in lets for part in self._masked(x, self.masks[clock.name])]

    def _masked(self, let: Let, mask: Expr) -> list[Let]:
        """Everywhere computed, and kept where the mask is set: only what is carried has a value to keep."""
        if len(let.names) == 1 and let.names[0] in self.carried:
            old = leaf("var", let.names[0], let.expr.type)
            if let.expr.op == "push":  # a window has an axis of its own
                mask = Expr("lift", (mask,), None, mask.type)
            return [replace(let, expr=make("where", mask, let.expr, old))]
        kept = [n for n in let.names if n in self.carried]
        fresh = {n: self.names(f"{n}_next") for n in kept}
        back = []
        for n in kept:  # an operator that gives its window beside its value
            new, old = (leaf("var", v, self.windows_type(n)) for v in (fresh[n], n))
            lifted = Expr("lift", (mask,), None, mask.type)
            back.append(Let((n,), make("where", lifted, new, old)))
        return [replace(let, names=tuple(fresh.get(n, n) for n in let.names)), *back]

    def mask_item(self, name: str) -> Let:
        """Where a declared clock ticks in this tick."""
        flow = self.system.flows[self.system.declared[name].marks]
        value = self.program_expr(leaf("flow", flow.name, flow.expr.type))
        mask = make("gt", value, num(0))
        return Let((str(self.masks[name].attr),), mask, f"every {name}", flow.span)

    # -------------------------------------------------------------------------------------------- t

    def counting(self, levels: Iterable[str]) -> None:
        """``t`` of the levels that read it, as their steps, their sums, held values and readers see it."""
        for name in levels:
            level = self.system.levels[name]
            if level.clock.slow:
                forms = self._declared(level) if level.clock.name else self._periodic(level)
                for moment, form in forms.items():
                    self.vars[leaf("ticks", (name, moment), Type((), False, level.clock))] = form

    def seen(self, level: Level, before: Expr) -> Expr:
        """A slow level's ``t`` as others see it in a tick; ``before`` counts the ticks before this one."""
        if level.clock.name:
            return self.vars[leaf("ticks", (level.name, "held"), COUNTED)]
        over = make("periods", before, attr=level.clock.count)
        return make("maximum", over, num(1)) if level.clock.late else add(over, num(1))

    def _periodic(self, level: Level) -> dict[str, Expr]:
        """Ticks are numbered from 1: before the first, ``t`` is that of the first."""
        n, count = level.clock.count, self.count
        one, rest = num(1), leaf("size", n - 2, COUNTED)
        over = lambda e: make("periods", e, attr=n)  # noqa: E731
        if level.clock.phase == "start":
            after = add(over(sub(count, one)), one)
            return {
                "step": after,
                "now": after,
                "gather": add(over(add(count, rest)), one),
                "held": add(over(sub(make("maximum", count, one), one)), one),
            }
        return {
            "step": over(count),
            "now": over(count),
            "gather": add(over(sub(count, one)), one),
            "held": make("maximum", over(count), one),
        }

    def _declared(self, level: Level) -> dict[str, Expr]:
        """A count for each sequence."""
        kind = Type((), False, self.base)
        slot = Slot(f"{level.name}.t", self.names(f"{level.name}_t"), "gathered", kind)
        self.timed.append(slot)
        ticks, one = leaf("var", slot.var, kind), num(1)
        coming, past = add(ticks, one), make("maximum", ticks, one)
        now = past
        if level.clock.late:  # counted when the tick is over
            now = make("maximum", make("where", self.masks[level.clock.name], coming, ticks), one)
        return {"step": coming, "now": now, "gather": coming, "held": past}

    def counted(self, level: Level) -> list[Let]:
        """One more tick of a level whose clock is declared."""
        slot = next((s for s in self.timed if s.key == f"{level.name}.t"), None)
        if slot is None:
            return []
        one_more = add(leaf("var", slot.var, slot.type), num(1))
        return self.during(level.clock, [Let((slot.var,), one_more)])
