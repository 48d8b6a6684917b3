"""System -> bounds of what its hypers may be, told from the steps that they are read in.

A rate keeps the sign that it has at the defaults, since with the other one a level climbs the objective that it is
there to descend; a retention that is within [0, 1] at the defaults stays below 1, since beyond it a memory grows with
every tick, and above 0 if it is a hyper; one that is computed may turn the sign, as `1 - lr * weight_decay` does under
a large rate. Both are asked of sums and products of hypers, which have a value whatever those are; of a rate that is
more, of its factors of that kind, where the others cannot be negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf

from nlc.ir.expr import Expr, walk
from nlc.ir.ops import mul, num
from nlc.ir.program import Bound
from nlc.ir.ranges import UNIT
from nlc.ir.system import Level, System
from nlc.lib.rules import RULES

_POSITIVE = frozenset(
    "sqrt exp abs sigmoid softplus relu sqnorm norm size numel nrows ncols index ticks".split()
)
_ALL_OF = frozenset({"add", "mul", "div", "minimum", "sum", "mean", "stop"})
_TOTAL = frozenset({"num", "hyper", "add", "sub", "mul", "neg"})  # what no number is wrong for


def bounds(system: System) -> tuple[Bound, ...]:
    """Those of a hyper alone come first, as what is read of them is plain; then retentions."""
    steps = [x for level in system.levels.values() for x in (level.inner or (level,)) if x.rule]
    found = [*_retentions(steps), *_rates(system, [x for x in steps if x.rule.name in RULES])]
    out: dict[Expr, Bound] = {}
    for x in found:
        known = out.setdefault(x.expr, x)
        low, high = max(known.low, x.low), min(known.high, x.high)
        out[x.expr] = replace(known, low=low, high=high)
    within = {x.expr for x in out.values() if (x.low, x.high) == (0, 1)}
    needed = [x for x in out.values() if x.high == 1 or not _rest_of(x.expr, within)]
    return tuple(sorted(needed, key=lambda x: bool(x.expr.args)))


def _rest_of(e: Expr, within: set[Expr]) -> bool:
    """Whether it is 1 less what is within [0, 1], and so too."""
    return e.op == "sub" and e.args[0] == num(1) and e.args[1] in within


def _retentions(steps: list[Level]) -> Iterator[Bound]:
    for level in steps:
        for e in (level.retain, level.rule.args.get("decay")):
            if e is not None and _of_hypers(e) and e.type.range.within(UNIT.low, UNIT.high):
                low = 0.0 if e.op == "hyper" else -inf
                yield Bound(e, low, 1.0, e.span or level.rule.span)


def _rates(system: System, steps: list[Level]) -> Iterator[Bound]:
    for level in steps:
        rate = level.rule.args.get("lr")
        if rate is None:
            continue
        factors, positive = [], True
        for e in _factors(rate):
            if _of_hypers(e):
                factors.append(e)
            elif any(n.op != "num" for n in walk(e)):
                positive = positive and _nonnegative(system, e)
        if not factors or not positive:
            continue
        whole = factors[0]
        for e in factors[1:]:
            whole = mul(whole, e)
        known = whole.type.range
        if known.low == known.high != 0:
            low, high = (0.0, inf) if known.low > 0 else (-inf, 0.0)
            yield Bound(whole, low, high, rate.span or level.rule.span)


def _factors(e: Expr) -> list[Expr]:
    """What is multiplied, or divided by; its sign is theirs."""
    if e.op in ("mul", "div"):
        return [x for a in e.args for x in _factors(a)]
    return _factors(e.args[0]) if e.op == "neg" else [e]


def _of_hypers(e: Expr) -> bool:
    ops = {n.op for n in walk(e)}
    return ops <= _TOTAL and "hyper" in ops


def _nonnegative(system: System, e: Expr) -> bool:
    """Whether it is so whatever the hypers are."""
    if e.op == "num":
        return e.attr >= 0
    if e.op == "flow":
        return _nonnegative(system, system.flows[e.attr].expr)
    if e.op == "where":
        return all(_nonnegative(system, x) for x in e.args[1:])
    if e.op == "maximum":
        return any(_nonnegative(system, x) for x in e.args)
    return e.op in _POSITIVE or (e.op in _ALL_OF and all(_nonnegative(system, x) for x in e.args))
