"""Interval arithmetic for ``Range``: what an operator's result is bounded by, given its operands' bounds.

Bounds are sound, not tight: ``inf`` where nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
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
        return Range(1 / a.high, 1 / a.low)
    if a.low == 0 < a.high:
        return Range(1 / a.high, inf)
    return Range(-inf, 1 / a.low) if a.low < 0 == a.high else ANY


def div(a: Range, b: Range) -> Range:
    return mul(a, reciprocal(b))


def power(a: Range, b: Range) -> Range:
    if b.low == b.high and b.low == int(b.low) if math.isfinite(b.low) else False:
        exponent = int(b.low)
        corners = [_finite(lambda x=x: float(x) ** exponent, inf) for x in (a.low, a.high)]
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
        _finite(lambda x=x, y=y: float(x) ** y, inf if x > 1 or y < 0 else 0.0)
        for x in (a.low, a.high)
        for y in (b.low, b.high)
    ]
    return Range(min(corners), max(corners))


def clip(a: Range, low: Range, high: Range) -> Range:
    """Between ``low`` and ``high``; where they cross, ``high`` wins, as in torch."""
    bottom, top = max(a.low, low.low), max(a.high, low.high)
    norm = a.norm if low.high <= 0 <= high.low else inf  # no element leaves 0 by it
    return Range(min(bottom, high.low), min(top, high.high), norm)


def monotone(f: Callable[[float], float], low: float, high: float) -> Callable[[Range], Range]:
    """An increasing function with the given limits at −∞ and ∞."""

    def bounded(a: Range) -> Range:
        at_low = low if a.low == -inf else _finite(lambda: f(a.low), low)
        at_high = high if a.high == inf else _finite(lambda: f(a.high), high)
        return Range(at_low, at_high)

    return bounded


def shrinking(bounded: Callable[[Range], Range]) -> Callable[[Range], Range]:
    """``bounded`` of a function with |f(x)| ≤ |x|: the norm does not grow either."""
    return lambda a: replace(bounded(a), norm=a.norm)


def dip(f: Callable[[float], float], lowest: float) -> Callable[[Range], Range]:
    """A function that falls from 0 at −∞ to its minimum at ``lowest`` and rises to ∞ from there."""

    def bounded(a: Range) -> Range:
        left = 0.0 if a.low == -inf else _finite(lambda: f(a.low), 0.0)
        right = inf if a.high == inf else _finite(lambda: f(a.high), 0.0)
        inside = a.low <= lowest <= a.high
        return Range(f(lowest) if inside else min(left, right), max(left, right))

    return bounded


def absolute(a: Range) -> Range:
    return Range(0.0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high)), a.magnitude, a.norm)


def union(*ranges: Range) -> Range:
    return Range(
        min(r.low for r in ranges), max(r.high for r in ranges), max(r.norm for r in ranges)
    )


def either(a: Range, b: Range) -> Range:
    """Each element from one of the two."""
    return replace(union(a, b), norm=math.hypot(a.norm, b.norm))


def contract(a: Range, b: Range) -> Range:
    """A matrix product: the Euclidean norm is submultiplicative and bounds every element."""
    norm = times(a.norm, b.norm)
    return Range(-norm, norm, norm)


def total(a: Range) -> Range:
    """A sum over a number of elements that is not known here."""
    return Range(0.0 if a.low >= 0 else -inf, 0.0 if a.high <= 0 else inf)


def unit(a: Range, eps: Range) -> Range:
    """x / √(‖x‖² + ε)."""
    longest = (
        1.0
        if a.norm == inf
        else _finite(lambda: a.norm / math.hypot(a.norm, math.sqrt(eps.low)), 1.0)
    )
    return Range(0.0 if a.low >= 0 else -longest, 0.0 if a.high <= 0 else longest, longest)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def silu(x: float) -> float:
    return x * sigmoid(x)


def gelu(x: float) -> float:
    return x * 0.5 * math.erfc(-x / math.sqrt(2))
