"""System -> System: what takes the place of the trained tensor in evaluation, over what is there between two steps."""

from __future__ import annotations

from dataclasses import replace

from nlc.base.diagnostics import Report
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.system import System

_GONE = {  # what only a step has
    "g": "the gradient is gone",
    "gradient": "the gradient is gone",
    "delay": "what was before the last step is gone",
    "total": "sums belong to a step",
    "recent": "sums belong to a step",
    "input": "samples belong to a step",
}


def evaluated(system: System, report: Report) -> System:
    """``eval_at`` with its flows written out; NLC404 where it reads what is gone after a step."""
    if system.eval_at is None:
        return system

    def rule(n: Expr) -> Expr | None:
        return rewrite(system.flows[n.attr].expr, rule) if n.op == "flow" else None

    written = rewrite(system.eval_at, rule)
    for n in walk(written):
        why = _GONE.get(n.op)
        if n.op == "state" and n.attr[1] != "now":
            why = "what was before the last step is gone"
        if why is not None:
            report.add(
                "NLC404",
                "`eval_at` reads what is there between two steps",
                n.span or system.eval_at.span or system.span,
                why,
                helps=["read levels, hypers and `t`; a level can keep what a step has"],
            )
            break
    return replace(system, eval_at=written)
