"""How warnings name amounts, states, and step sizes that would be sound."""

from __future__ import annotations

from math import isfinite

from nlc.ir.expr import Expr
from nlc.ir.types import Range


def listed(names: frozenset[str], order: list[str]) -> str:
    """``W1`` and ``W2``, in the order of the spec."""
    quoted = [f"`{name}`" for name in order if name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def between(bounds: Range, what: str) -> str:
    low, high = bounds.low, bounds.high
    if low == high:
        return f"{what} {number(low)} of it"
    if not isfinite(low) and not isfinite(high):
        return "nothing bounds it"
    if not isfinite(high):
        return f"{what} {number(low)} of it or any amount more"
    return f"{what} up to {number(high)} of it" + (
        f", and as little as {number(low)}" if isfinite(low) else ", or any amount less"
    )


def number(value: float) -> str:
    return "any amount" if not isfinite(value) else f"{value:.4g}"


def scaled(lr: Expr, factor: float) -> str:
    if lr.op == "num":
        return f"lr={_down(factor * lr.attr):.3g}"
    return f"lr={_down(factor):.3g} * {_operand(lr)}"


def _down(value: float) -> float:
    """Rounded towards safety; half a unit of the last digit is the machine's."""
    return int(value * 1000 + 1e-6) / 1000 or value


def over(lr: Expr, count: str, dividend: bool = False) -> str:
    """``dividend``: whether ``count`` divides in place of what the step is divided by already."""
    if dividend:
        lr = lr.args[0]
    bare = count.isidentifier() or count.isdigit()
    return f"lr={_operand(lr)} / {count if bare else f'({count})'}"


def _operand(e: Expr) -> str:
    text = e.span.text
    return f"({text})" if e.op in ("add", "sub", "neg", "div", "mul") and e.args else text
