"""Expr -> Expr: one table of algebraic rewrites, applied bottom-up until none fits.

It tidies what reverse mode leaves behind (products with one, double negation); it never changes a value by more than
rounding, and keeps the order in which a person wrote the factors. Numbers are computed where that is exact in decimals:
``1 - 0.9`` stays, since what floats make of it, 0.09999999999999998, is not what a person would write.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction

from nlc.ir.expr import Expr, rewrite
from nlc.ir.ops import add, div, make, mul, neg, num, sub
from nlc.ir.shapes import as_matrix

Rule = Callable[[Expr], Expr | None]


def simplify(e: Expr) -> Expr:
    """An equal expression with less in it."""
    return rewrite(e, _apply)


def _apply(e: Expr) -> Expr | None:
    current: Expr | None = None
    node = e
    for _ in range(20):
        new = RULES[node.op](node) if node.op in RULES else None
        if new is None:
            return current
        current = node = new
    return current


def _is(e: Expr, value: float) -> bool:
    return e.op == "num" and e.attr == value


def _is_zero(e: Expr) -> bool:
    return _is(e, 0) or e.op == "zeros" or (e.op == "mul" and any(_is_zero(a) for a in e.args))


def _number(e: Expr) -> float | None:
    if e.op == "num":
        return e.attr
    return -e.args[0].attr if e.op == "neg" and e.args[0].op == "num" else None


def _computed(how: Callable, a: Expr, b: Expr) -> Expr | None:
    """The number that two numbers make; None if floats make another of them than decimals do."""
    if not a.op == b.op == "num":
        return None
    value = how(a.attr, b.attr)
    if math.isfinite(value) and value != float(how(_exact(a), _exact(b))):
        return None
    return num(value)


def _numeric(e: Expr) -> bool:
    """Whether it is made of numbers alone, computed or not."""
    return e.op == "num" or (e.op in ("add", "sub", "mul") and all(map(_numeric, e.args)))


def _exact(e: Expr) -> Fraction:
    """A number as it is written."""
    return Fraction(repr(e.attr))


def _neg(e: Expr) -> Expr | None:
    (x,) = e.args
    if x.op == "neg":
        return x.args[0]
    if x.op == "num":
        return num(-x.attr, x.span)
    if x.op == "sub":
        return sub(x.args[1], x.args[0])
    return None


def _add(e: Expr) -> Expr | None:
    a, b = e.args
    if _is_zero(a) and b.type.dims == e.type.dims:
        return b
    if _is_zero(b) and a.type.dims == e.type.dims:
        return a
    if b.op == "neg":
        return sub(a, b.args[0])
    if a.op == "neg":
        return sub(b, a.args[0])
    return _computed(operator.add, a, b)


def _sub(e: Expr) -> Expr | None:
    a, b = e.args
    if _is_zero(b) and a.type.dims == e.type.dims:
        return a
    if _is_zero(a) and b.type.dims == e.type.dims:
        return neg(b)
    if b.op == "neg":
        return add(a, b.args[0])
    return _computed(operator.sub, a, b)


def _mul(e: Expr) -> Expr | None:
    a, b = e.args
    dims = e.type.dims
    if a.op == b.op == "num":
        return _computed(operator.mul, a, b)
    if _numeric(b) and not _numeric(a):
        return mul(b, a)
    if _is(a, 1) and b.type.dims == dims:
        return b
    if _is(a, -1):
        return neg(b)
    if a.op == "num" and a.attr < 0:
        return neg(mul(num(-a.attr), b))
    if a.op == "neg":
        return neg(mul(a.args[0], b))
    if b.op == "neg":
        return neg(mul(a, b.args[0]))
    if a.op == "num" and b.op == "mul" and b.args[0].op == "num":
        return mul(_computed(operator.mul, a, b.args[0]) or mul(a, b.args[0]), b.args[1])
    if a.op != "num" and b.op == "mul" and b.args[0].op == "num":
        return mul(b.args[0], mul(a, b.args[1]))
    if a.op == "mul" and a.args[0].op == "num" and a.args[1].op != "num":
        return mul(a.args[0], mul(a.args[1], b))
    if b.op == "ones" and as_matrix(a.type.dims) == as_matrix(dims):
        return a
    if a.op == "ones" and as_matrix(b.type.dims) == as_matrix(dims):
        return b
    for x, y in ((a, b), (b, a)):  # a number everywhere, times a matrix
        everywhere = x.op == "mul" and x.args[0].type.dims == () and x.args[1].op == "ones"
        if everywhere and as_matrix(y.type.dims) == as_matrix(dims):
            return mul(x.args[0], y)
    return None


def _div(e: Expr) -> Expr | None:
    a, b = e.args
    if _is(b, 1) and a.type.dtype == "float":
        return a
    if a.op == "neg":
        return neg(div(a.args[0], b))
    if a.op == "num" and a.attr < 0:
        return neg(div(num(-a.attr), b))
    return None


def _pow(e: Expr) -> Expr | None:
    a, b = e.args
    if _is(b, 1):
        return a
    if b.op == "sub":
        exponent = _computed(operator.sub, *b.args)
        return make("pow", a, exponent) if exponent is not None else None
    return None


def _scalar_out(e: Expr) -> Expr | None:
    """Signs and scalar factors leave products: ``outer(s * a, b)`` is ``s * outer(a, b)``."""
    a, b = e.args
    for x, rebuild in ((a, lambda y: make(e.op, y, b)), (b, lambda y: make(e.op, a, y))):
        if x.op == "neg":
            return neg(rebuild(x.args[0]))
        if x.op == "mul" and x.args[0].type.dims == () and x.args[1].type.dims != ():
            return mul(x.args[0], rebuild(x.args[1]))
    return None


def _scalar_out_of_sum(e: Expr) -> Expr | None:
    """``sum(s * A)`` is ``s * sum(A)``."""
    (x,) = e.args
    if x.op == "neg":
        return neg(make(e.op, x.args[0]))
    if x.op == "mul" and x.args[0].type.dims == () and x.args[1].type.dims != ():
        return mul(x.args[0], make(e.op, x.args[1]))
    return None


def _transpose(e: Expr) -> Expr | None:
    (x,) = e.args
    if x.op == "T":
        return x.args[0]
    if x.op == "outer":
        return make("outer", x.args[1], x.args[0])
    return neg(make("T", x.args[0])) if x.op == "neg" else None


def _ones(e: Expr) -> Expr | None:
    """The shape of a value is that of its first operand with the same axes."""
    (x,) = e.args
    for a in x.args:
        same = (a.type.dims, a.type.head, a.type.clock.batched)
        if same == (x.type.dims, x.type.head, x.type.clock.batched) and a.op != "num":
            return make("ones", a)
    return None


RULES: dict[str, Rule] = {
    "neg": _neg,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "outer": _scalar_out,
    "matmul": _scalar_out,
    "dot": _scalar_out,
    "T": _transpose,
    "ones": _ones,
    "sum": _scalar_out_of_sum,
    "sum_rows": _scalar_out_of_sum,
    "sum_cols": _scalar_out_of_sum,
}
