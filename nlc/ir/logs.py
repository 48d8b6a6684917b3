"""The logarithm of a decay, as scans take it: cut where what is left is less than float64 resolves."""

from __future__ import annotations

import math

from nlc.ir.expr import Expr
from nlc.ir.ops import make, num

FLOOR = -30.0  # of log a: e^-30 beside what is written


def log_at(e: Expr) -> Expr:
    """log e as it is computed where nothing better is known."""
    return make("log", make("maximum", e, num(math.exp(FLOOR))))


def logged(e: Expr) -> Expr | None:
    """What ``log_at`` takes the logarithm of, None for another expression."""
    if e.op != "log" or e.args[0].op != "maximum":
        return None
    return next((x for x in e.args[0].args if e == log_at(x)), None)
