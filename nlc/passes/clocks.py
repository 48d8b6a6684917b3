"""System -> System: what a slow level gathers over its period, and whether periods fit (language §2).

``sum(e)`` of something that ticks faster than the level that reads it runs over time, not over elements;
only clocks can tell the two apart, so this comes before shapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nlc.base.diagnostics import Label, Report
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.system import Level, System
from nlc.ir.types import NEVER, STEP, TOKEN, Clock, fastest


def clocks(system: System, report: Report) -> System:
    """The same system with every gathering marked ``total``; levels whose periods do not fit are reported."""
    return _Clocks(system, report).run()


class _Clocks:
    def __init__(self, system: System, report: Report):
        self.system, self.report = system, report
        self.base = TOKEN if system.context == "tokens" else STEP
        self.owner = {s.name: s.level for s in system.states.values()}
        self.gradients = {name: s.level for name, s in system.gradients.items()}
        self.flows: dict[str, Clock] = {}

    def run(self) -> System:
        levels = {}
        for name, level in self.system.levels.items():
            slow = self.base.faster(level.clock) and level.memory.kind != "cache"
            levels[name] = self._gathered(level) if slow else level
            if not slow:
                self._misplaced(level.expressions)
        self._misplaced(
            [*(f.expr for f in self.system.flows.values()), *self.system.output.values()]
        )
        return replace(self.system, levels=levels)

    def _misplaced(self, exprs: Iterable[Expr]) -> None:
        """``last`` says which value of a period is meant; what ticks every time has one."""
        for node in (n for e in exprs for n in walk(e) if n.op == "total"):
            self.report.add(
                "NLC404",
                "`last` reads over the period of a slower level",
                node.span or self.system.span,
                "this is computed in every tick",
                helps=["write the value itself, or `prev(…)` for the one before"],
            )

    def clock(self, e: Expr) -> Clock:
        """The fastest of what an expression reads."""
        return fastest(self._leaf(n) for n in walk(e) if not n.args)

    def _leaf(self, n: Expr) -> Clock:
        if n.op == "flow":
            return self._flow(n.attr)
        if n.op == "state":
            level = self.system.levels.get(self.owner.get(n.attr[0], ""))
            return (
                NEVER if level is None else level.clock
            )  # None: it has a mistake that is reported
        if n.op == "gradient":
            return self.system.levels[self.gradients[n.attr]].clock
        if n.op in ("input", "g") or (n.op == "index" and n.attr[0] != "head"):
            return self.base
        return STEP if n.op == "weight" else NEVER

    def _flow(self, name: str) -> Clock:
        if name not in self.system.flows:
            return NEVER  # as above
        if name not in self.flows:
            self.flows[name] = NEVER  # while it is being looked at: a flow may read its own past
            self.flows[name] = self.clock(self.system.flows[name].expr)
        return self.flows[name]

    def _gathered(self, level: Level) -> Level:
        def each(e: Expr) -> Expr:
            marked = rewrite(e, lambda n: self._mark(n, level))
            self._loose(marked, level)
            return marked

        ticking = replace(level, memory=replace(level.memory, states=()), reset=None)
        return replace(ticking.map(each), memory=level.memory, reset=level.reset)

    def _mark(self, n: Expr, level: Level) -> Expr | None:
        """``sum`` and ``mean`` of something faster, and ``last``, run over the level's period."""
        kind = "last" if n.op == "total" else n.op
        if kind not in ("sum", "mean", "last") or (
            n.op != "total" and not self.clock(n.args[0]).faster(level.clock)
        ):
            return None
        for leaf in walk(n.args[0]):
            other = (
                self.system.levels.get(self.owner.get(leaf.attr[0], ""))
                if leaf.op == "state"
                else None
            )
            if other is not None and other.name != level.name:
                self._fits(level, other, n)
        return Expr("total", n.args, (kind, level.clock), None, n.span)

    def _fits(self, level: Level, other: Level, n: Expr) -> None:
        """A level that gathers another has a multiple of its period."""
        if other.clock.kind != "every" or other.clock.unit != level.clock.unit:
            return
        if (level.clock.default / other.clock.default).denominator != 1:
            self.report.add(
                "NLC402",
                f"level `{level.name}` ({level.clock}) is not a multiple of `{other.name}` ({other.clock})",
                level.keys.get("frequency", level.span),
                f"{level.clock.default} is not a multiple of {other.clock.default}",
                related=[
                    Label(other.keys.get("frequency", other.span), "the faster level it gathers"),
                    Label(n.span or level.span, f"`{level.name}` gathers `{other.name}` here"),
                ],
                helps=[
                    f"use {' or '.join(map(str, _multiples(level.clock, other.clock)))} {level.clock.unit}s"
                ],
                notes=[f"`{level.name}` would tick in the middle of a period of `{other.name}`"],
            )

    def _loose(self, e: Expr, level: Level) -> None:
        """Something faster must be gathered: which of its values is meant?"""
        stack = [e]
        while stack:
            n = stack.pop()
            if n.op == "total":
                continue
            if (
                not n.args
                and n.op in ("flow", "input", "state", "g", "gradient", "index")
                and self._leaf(n).faster(level.clock)
            ):
                name = (
                    "g"
                    if n.op in ("g", "gradient")
                    else str(n.attr[0] if isinstance(n.attr, tuple) else n.attr)
                )
                self.report.add(
                    "NLC405",
                    f"`{name}` ticks faster than level `{level.name}` ({level.clock})",
                    n.span or level.span,
                    "which of its values in a period is meant?",
                    helps=[
                        f"write `last({name})`, `mean({name})`, or `sum(…)` around what is to be added up"
                    ],
                )
            stack.extend(n.args)


def _multiples(clock: Clock, other: Clock) -> list[int]:
    """Periods near ``clock``'s that are multiples of ``other``'s."""
    step = other.default
    below = int(clock.default / step)
    return [int(step * n) for n in (below, below + 1) if n > 0]
