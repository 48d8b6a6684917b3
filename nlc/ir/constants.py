"""Arithmetic of constants: what the defaults of hypers are made of, its meaning and how Python writes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

FUNCTIONS: dict[str, Callable] = {
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "sqrt": math.sqrt,
    "abs": abs,
    "tanh": math.tanh,
}
BINARY: dict[str, Callable] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
}


def written(function: str) -> str:
    """``math.exp``, or ``abs``, which Python has without asking."""
    return f"math.{function}" if hasattr(math, function) else function


def decimal(value: Fraction) -> str:
    """A size as people write it, to six digits where it is not whole; it may exceed any float."""
    text = f"{Decimal(value.numerator) / Decimal(value.denominator):.6g}"
    digits, e, exponent = text.partition("e")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + e + exponent
