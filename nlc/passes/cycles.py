"""Typed System -> what in it needs itself: levels and flows that wait for each other in the same tick."""

from __future__ import annotations

from nlc.base.diagnostics import Label, Report
from nlc.base.span import Span
from nlc.ir.expr import Expr
from nlc.ir.system import System
from nlc.ir.types import STEP, TOKEN, Clock
from nlc.passes.circles import circles

WAYS = 4  # to break a cycle that a message lists


def cycles(system: System, report: Report) -> None:
    """Reports flows and levels that need each other's new value in one tick."""
    leads: dict[str, list[str]] = {}
    places: dict[tuple[str, str], object] = {}

    def note(reader: str, e: Expr, clock: Clock) -> None:
        stack = [(e, clock)]
        while stack:
            node, clock = stack.pop()
            if node.op == "delay":
                stack.append((node.args[1], clock))
                continue
            source = None
            if node.op == "flow":
                source = f"flow {node.attr}"
            elif node.op == "state" and node.attr[1] == "now":
                source = f"level {level_of(system, node.attr[0])}"
            if source and not _slower(system, source, clock):
                leads.setdefault(source, []).append(reader)
                places.setdefault((source, reader), node.span)
            stack.extend((a, within(node, clock)) for a in node.args)

    base = STEP if system.trains else TOKEN
    asked = {c.marks for c in system.declared.values()}  # in every tick
    for name, flow in system.flows.items():
        note(f"flow {name}", flow.expr, base if name in asked else flow.expr.type.clock)
    for name, level in system.levels.items():
        for e in level.expressions:
            note(f"level {name}", e, level.clock)
        if level.clock.name:
            marks = Expr("flow", (), level.clock.marks, None, level.keys["frequency"])
            note(f"level {name}", marks, base)
    for cycle in circles(leads):
        _report_cycle(system, cycle, places, report)


def _slower(system: System, source: str, clock: Clock) -> bool:
    """Whether a reader of this clock sees what a level held before the tick."""
    kind, name = source.split(" ", 1)
    return kind == "level" and system.levels[name].clock.held_for(clock)


def _report_cycle(system: System, cycle: list[str], places: dict, report: Report) -> None:
    names = [c.split(" ", 1)[1] for c in cycle]
    levels = [c.split(" ", 1)[1] for c in cycle if c.startswith("level ")]
    edges = [
        (places[pair], *(p.split(" ", 1)[1] for p in pair))
        for pair in zip(cycle, [*cycle[1:], cycle[0]], strict=True)
        if places.get(pair) is not None
    ]
    if not edges:
        return
    edges.sort(key=lambda edge: (edge[1] in levels, edge[0].start))
    span, source, reader = (
        edges.pop()
    )  # a read of a state, where there is one: it has a previous value
    shown = levels or names
    who = " and ".join(f"`{n}`" for n in shown[:3])
    kind = "level" if levels else "flow"
    subject = f"{kind}s {who} need each other" if len(shown) > 1 else f"{kind} {who} needs itself"
    unit = "step" if system.trains else "token"
    ways = sorted([*edges, (span, source, reader)], key=lambda edge: edge[0].start)
    ways = [way for way in ways if way[1] in levels] or ways
    report.add(
        "NLC403",
        f"{subject} in the same {unit}",
        span,
        f"`{reader}` reads `{source}`",
        related=[Label(s, f"`{b}` reads `{a}`") for s, a, b in reversed(edges)],
        notes=[f"cycle: {' -> '.join([*names, names[0]])}"] if len(names) > 1 else [],
        helps=_breaks(ways, unit),
    )


def _breaks(ways: list[tuple[Span, str, str]], unit: str) -> list[str]:
    """Where a ``prev`` breaks a cycle, and what each of them means."""
    if len(ways) == 1:
        past = _past(*ways[0][:2])
        return [f"break the cycle by reading the value before this {unit}: {past}"]
    return [
        f"{'or' if i else 'break the cycle'} with {_past(span, source)}: `{reader}` then reads"
        f" `{source}` of the {unit} before"
        for i, (span, source, reader) in enumerate(ways[:WAYS])
    ]


def _past(span: Span, source: str) -> str:
    """How the value before is read where the new one is."""
    past = f"prev({source})"
    if span.text.startswith(f"{source}("):
        past += span.text[len(source) :]
    return f"`{past}`" if len(past) <= 48 else f"`prev({source})`"


def within(node: Expr, clock: Clock) -> Clock:
    """The clock at which the operands of a node are read by a reader of ``clock``."""
    return node.args[0].type.clock if node.op == "total" else clock


def level_of(system: System, state: str) -> str:
    """The level of a state."""
    return system.states[state].level
