"""How large a system may be, so that no text makes the compiler run for long."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nlc.base.diagnostics import Report
from nlc.ir.expr import walk
from nlc.ir.system import Level, System
from nlc.passes.expand import LEVELS

DEEPEST = 200  # operations inside one another
STATES = 200  # of a system


def limits(system: System, report: Report) -> None:
    """What lets within lets come to is bounded, as the depth of one expression is, and what used systems do."""
    if (count := _levels(system)) > LEVELS:
        report.add(
            "NLC007",
            f"a system has at most {LEVELS} levels",
            next((u.span for u in system.uses.values()), system.span),
            f"{count} with those of the systems that it uses",
        )
        report.raise_if_errors()
    exprs = [e for level in system.levels.values() for e in level.expressions]
    for e in (*exprs, *(f.expr for f in system.flows.values()), *system.output.values()):
        depth: dict[int, int] = {}
        for node in walk(e):
            depth[id(node)] = 1 + max((depth[id(a)] for a in node.args), default=0)
        if depth[id(e)] > DEEPEST:
            report.add(
                "NLC007",
                f"this expression is more than {DEEPEST} operations deep",
                e.span or system.span,
                "with what it reads written out",
                helps=["split it, with a level or a flow that stands on its own in between"],
            )


def few_states(system: System, report: Report) -> None:
    """What the rules of levels remember counts too."""
    counts = {name: _states(level) for name, level in system.levels.items()}
    if sum(counts.values()) > STATES:
        largest = system.levels[max(counts, key=lambda name: counts[name])]
        report.add(
            "NLC007",
            f"a system has at most {STATES} states, those of the rules of its levels with them",
            largest.span,
            f"{counts[largest.name]} of {sum(counts.values())} are of this level",
        )
        report.raise_if_errors()


def _levels(system: System) -> int:
    """How many levels it has once those that it uses are written out."""
    return len(system.levels) + sum(_levels(u.system) for u in system.uses.values())


def _states(level: Level) -> int:
    return len(level.states) + sum(map(_states, level.inner))


@contextmanager
def deep() -> Iterator[None]:
    """Room for recursion over expressions: derived gradients are deeper than what they derive from."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 100 * DEEPEST))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
