"""Once types are known: what is split twice, a truth value as a number, what has no value at the defaults."""

from __future__ import annotations

import sys
from math import inf, log

from nlc.base.diagnostics import Label, Report
from nlc.base.span import Span
from nlc.ir.expr import Expr, walk
from nlc.ir.system import System
from nlc.ir.types import SAMPLE
from nlc.syntax.math import LARGEST_WHOLE

_SPLIT = "`split` makes the axis where a vector is made, as in `split(linear(x))`"
LARGEST_EXPONENT = log(sys.float_info.max)


def valued(system: System, report: Report) -> None:
    """Every expression is a number, for each head where it is said to be."""
    steps = [e for level in system.levels.values() for e in level.expressions]
    roots = [*steps, *system.output.values()]
    starts = [w.init for w in system.weights.values()] + [s.init for s in system.states.values()]
    for e in roots:
        if _is_truth(e) and e.op != "bool":  # a switch of a rule
            _no_number(e, system, report)
    every = [*(f.expr for f in system.flows.values()), *roots, *filter(None, starts)]
    twice: list[Expr] = []
    headed = any(i.head for i in (*system.inputs.values(), *system.weights.values()))
    merged: list[Expr] = []
    for node in (n for e in every for n in walk(e)):
        headed = headed or (node.type is not None and node.type.head)
        if node.op == "split" and node.args[0].type.head:
            twice.append(node)
        if node.op == "merge" and not node.args[0].type.head:
            merged.append(node)
        if node.op == "delay" and not system.trains:
            _delayed(node, system, report)
        if node.op == "delay" and node.args[0].type.clock == SAMPLE:
            report.add(
                "NLC404",
                "`prev` of what is another in every sample",
                node.args[0].span or node.span or system.span,
                "samples of two steps do not belong together",
                helps=["sum over the samples first, in a level with a memory"],
            )
        for truth in _truths(node):
            _no_number(truth, system, report)
        if (why := _undefined(node)) is not None:
            report.add(
                "NLC214",
                "this has no value",
                node.span or system.span,
                why,
                notes=_defaults(node, system),
                helps=["change the expression, or the defaults that it is made of"],
            )
    for level in system.levels.values():
        if level.reset is not None and level.reset.to is not None:
            _one_a_step(level.reset.to, f"`{level.name}` is reset", level.reset.span, report)
        for s in level.states:
            if s.init is not None:
                _one_a_step(s.init, f"`{s.name}` starts", s.span, report)
    for clock in system.declared.values():
        flow = system.flows[clock.marks]
        _one_a_step(flow.expr, f"clock `{clock.name}` ticks", flow.span, report)
    _split(twice, system, report)
    for node in merged:
        _merge(node, headed, system, report)
    if system.heads is not None and not (headed or merged):
        _headless(system, report)
    _drawn(system, report)
    if not any(i.head for i in system.inputs.values()):  # as an operator's, which has it throughout
        for name, e in system.output.items():
            if e.type.head and e.type.dims:
                _unmerged(name, e, system, report)


def _one_a_step(e: Expr, what: str, span: Span, report: Report) -> None:
    """What happens to a level once a step follows from no single sample."""
    if e.type.clock == SAMPLE:
        report.add(
            "NLC404",
            f"{what} by what is another in every sample",
            e.span or span,
            "there are many of them in a step",
            helps=["let a level gather it, with `mean(…)` in its objective, and read that level"],
        )


def _drawn(system: System, report: Report) -> None:
    """Optimizers draw where a memory starts; the streams of a token system start alike."""
    for s in system.states.values():
        random = s.init is not None and any(n.op in ("normal", "uniform") for n in walk(s.init))
        if not system.trains and random and not s.learned:
            level = system.levels.get(s.level)
            report.add(
                "NLC701",
                "a memory that starts at random in a token system is not in this version of nlc",
                level.span if level is not None else system.span,
                f"`{s.name}` is drawn anew for every stream",
                helps=["choose a rule whose memories start at numbers, or `init: learned`"],
            )


def _unmerged(name: str, e: Expr, system: System, report: Report) -> None:
    """What has no heads at first has none in the end."""
    report.add(
        "NLC304",
        f"output `{name}` has a head axis, which no input has",
        e.span or system.span,
        "a value for each head",
        helps=["`merge(…)` joins the heads; a `linear` behind it mixes them"],
    )


def _split(twice: list[Expr], system: System, report: Report) -> None:
    """What is split has no head axis yet; where all inputs have one that is one mistake, made in one place."""
    inputs = [i for i in system.inputs.values() if i.head]
    for node in twice[:1] if inputs else twice:
        lines = sorted(
            {n.span.line for n in twice if n.span} - {node.span.line if node.span else 0}
        )
        more = f"so it is in line {', '.join(map(str, lines))}" if lines else ""
        several = "several inputs of a system with heads have a head axis each"
        report.add(
            "NLC304",
            "this has a head axis already",
            node.args[0].span or node.span or system.span,
            "what `split` is given",
            related=[
                Label(i.span, f"`{i.name}` is one of {len(inputs)} inputs") for i in inputs[1:2]
            ],
            notes=[x for x in (several, more) if x] if inputs else [],
            helps=["leave out the `split`"],
        )


def _merge(node: Expr, headed: bool, system: System, report: Report) -> None:
    """What is merged has a head axis; ``headed``: whether anything in the system has one."""
    without = "`merge`" if headed else "`merge` and `heads:`"
    report.add(
        "NLC304",
        "this has no head axis to merge",
        node.args[0].span or node.span or system.span,
        "what `merge` is given",
        helps=[_SPLIT, f"where no heads are meant, leave out {without}"],
    )


def _headless(system: System, report: Report) -> None:
    """Heads that are declared are those of something."""
    declared = system.hypers.get("heads")
    report.add(
        "NLC210",
        "`heads` is declared, but nothing has a head axis",
        declared.span if declared is not None else system.span,
        "the system is that of one head",
        helps=[_SPLIT],
    )


def _delayed(node: Expr, system: System, report: Report) -> None:
    """What has a value before is another one in each token."""
    value = node.args[0]
    if not value.type.clock.batched:
        report.add(
            "NLC404",
            "`prev` of what is the same for every token",
            value.span or node.span or system.span,
            "nothing in it comes from the tokens",
            helps=["leave out the `prev`"],
        )


def _truths(node: Expr) -> list[Expr]:
    """Operands that are true or false where a number is due: not to choose by, not two that are compared."""
    truths = [a for a in node.args[node.op == "where" :] if _is_truth(a)]
    return [] if node.op in ("eq", "ne") and len(truths) == len(node.args) else truths


def _is_truth(e: Expr) -> bool:
    return e.type is not None and e.type.dtype == "bool"


def _no_number(e: Expr, system: System, report: Report) -> None:
    report.add(
        "NLC208",
        "a truth value is not a number",
        e.span or system.span,
        "true or false",
        helps=["write `where(condition, 1, 0)` for a number"],
    )


def _undefined(node: Expr) -> str | None:
    """Why it has no value, whatever the inputs are."""
    ranges = [a.type.range for a in node.args if a.type is not None]
    if node.type is None or len(ranges) < len(node.args):
        return None
    own = node.type.range
    if node.op == "div" and ranges[1].low == ranges[1].high == 0:
        return "it divides by zero"
    if node.op == "uniform" and ranges[0].low > ranges[1].high:
        return "its upper bound is below the lower one"
    if node.op == "sqrt" and ranges[0].low < 0 >= ranges[0].high:
        return "the root of what is never positive"
    if node.op == "log" and ranges[0].high <= 0:
        return "the logarithm of what is never positive"
    if node.op == "pow" and ranges[0].low == ranges[0].high == 0 and ranges[1].high < 0:
        return "it divides by zero"
    whole = node.type.dtype == "int" and max(-own.high, own.low) > LARGEST_WHOLE
    grown = node.op == "pow" and own.low == inf and ranges[1].high < inf
    grown = grown or (node.op in ("exp", "expm1") and ranges[0].low > LARGEST_EXPONENT)
    return "too large a number" if whole or grown else None


def _defaults(node: Expr, system: System) -> list[str]:
    read = {str(n.attr) for n in walk(node) if n.op == "hyper"}
    said = [f"{n} = {system.sizes[n]:g}" for n in sorted(read) if n in system.sizes]
    return [f"at the defaults {', '.join(said)}"] if said else []
