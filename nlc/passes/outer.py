"""System -> System: a level whose objective is the outer loss has slow weights for states (language §6)."""

from __future__ import annotations

from dataclasses import replace

from nlc.ir.expr import Expr, rewrite
from nlc.ir.system import System, Weight


def outer(system: System) -> System:
    """Their states become weights of the same names, read by everyone as the weights that they are."""
    found = {name: level for name, level in system.levels.items() if level.outer}
    if not found:
        return system
    states = {s.name: s for level in found.values() for s in level.states}

    def read(n: Expr) -> Expr | None:
        if n.op == "state" and n.attr[0] in states:
            return Expr("weight", (), n.attr[0], None, n.span)
        return None

    levels = {name: level for name, level in system.levels.items() if name not in found}
    weights = {s.name: Weight(s.name, s.span, s.dims, False, s.init) for s in states.values()}
    return replace(
        replace(system, levels=levels).map(lambda e: rewrite(e, read)),
        outer=found,
        weights={**system.weights, **weights},
    )
