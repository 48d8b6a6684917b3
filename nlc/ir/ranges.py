"""Interval arithmetic for ``Range``: what an operator's result is bounded by, given its operands' bounds.

Bounds are sound, not tight: ``inf`` where nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import inf

from nlc.ir.types import ANY, Range

UNIT = Range(0.0, 1.0)
POSITIVE = Range(0.0, inf)
AT_LEAST_ONE = Range(1.0, inf)


def _finite(f: Callable[[], float], otherwise: float) -> float:
    try:
        value = f()
    except (OverflowError, ValueError, ZeroDivisionError):
        return otherwise
    return otherwise if math.isnan(value) else value


def times(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y


def add(a: Range, b: Range) -> Range:
    return Range(
        _finite(lambda: a.low + b.low, -inf), _finite(lambda: a.high + b.high, inf), a.norm + b.norm
    )


def neg(a: Range) -> Range:
    return Range(-a.high, -a.low, a.norm)


def sub(a: Range, b: Range) -> Range:
    return add(a, neg(b))


def mul(a: Range, b: Range) -> Range:
    corners = [times(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    norm = min(times(a.norm, b.magnitude), times(a.magnitude, b.norm))
    return Range(min(corners), max(corners), norm)


def reciprocal(a: Range) -> Range:
    if a.low > 0 or a.high < 0:
        return Range(1 / a.high if a.high else -inf, 1 / a.low if a.low else inf)
    return ANY if a.low < 0 else POSITIVE


def div(a: Range, b: Range) -> Range:
    return mul(a, reciprocal(b))


def power(a: Range, b: Range) -> Range:
    if b.low == b.high and b.low == int(b.low) if math.isfinite(b.low) else False:
        exponent = int(b.low)
        corners = [_finite(lambda x=x: x**exponent, inf) for x in (a.low, a.high)]
        if exponent % 2 == 0:
            inside = a.low <= 0 <= a.high
            return Range(
                0.0 if inside and exponent > 0 else min(corners),
                inf if inside and exponent < 0 else max(corners),
            )
        return Range(min(corners), max(corners)) if exponent > 0 else ANY
    if a.low < 0:
        return ANY
    corners = [
        _finite(lambda x=x, y=y: x**y, inf if x > 1 or y < 0 else 0.0)
        for x in (a.low, a.high)
        for y in (b.low, b.high)
    ]
    return Range(min(corners), max(corners))


def clip(a: Range, low: Range, high: Range) -> Range:
    """Between ``low`` and ``high``; where they cross, ``high`` wins, as in torch."""
    bottom, top = max(a.low, low.low), max(a.high, low.high)
    return Range(min(bottom, high.low), min(top, high.high))


def monotone(f: Callable[[float], float], low: float, high: float) -> Callable[[Range], Range]:
    """An increasing function with the given limits at −∞ and ∞."""

    def bounded(a: Range) -> Range:
        at_low = low if a.low == -inf else _finite(lambda: f(a.low), low)
        at_high = high if a.high == inf else _finite(lambda: f(a.high), high)
        return Range(at_low, at_high)

    return bounded


def absolute(a: Range) -> Range:
    return Range(0.0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high)), a.magnitude, a.norm)


def union(*ranges: Range) -> Range:
    return Range(
        min(r.low for r in ranges), max(r.high for r in ranges), max(r.norm for r in ranges)
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))
