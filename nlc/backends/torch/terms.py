"""Sums of terms, each a number times factors over divisors: how a value is written with the fewest operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from nlc.ir.expr import Expr
from nlc.ir.ops import add, div, make, mul, neg, num, sub

Numeric = Callable[[Expr], bool]
LINEAR = ("add", "sub", "neg", "mul", "div")
ONE, MINUSONE = num(1), num(-1)


@dataclass(frozen=True)
class Term:
    """A number, times factors, over divisors."""

    number: Expr
    up: tuple[Expr, ...] = ()
    down: tuple[Expr, ...] = ()


def terms(e: Expr, numeric: Numeric) -> list[Term]:
    """The sum that a value is; what is no sum or product is a factor."""
    if numeric(e):
        return [Term(e)]
    if e.op not in LINEAR:
        return [Term(ONE, (e,))]
    if e.op == "neg":
        return [replace(t, number=negated(t.number)) for t in terms(e.args[0], numeric)]
    a, b = (terms(x, numeric) for x in e.args)
    if e.op in ("add", "sub"):
        b = [replace(t, number=negated(t.number)) for t in b] if e.op == "sub" else b
        return _collected([*a, *b])
    left, right = e.args
    if e.op == "mul" and numeric(left):
        a, b, left, right = b, a, right, left
    if len(a) > 1 and not numeric(right):
        a = [Term(ONE, (left,))]
    (y,) = b if len(b) == 1 else [Term(ONE, (right,))]
    if e.op == "mul":
        return [Term(times(x.number, y.number), x.up + y.up, x.down + y.down) for x in a]
    return [Term(over(x.number, y.number), x.up + y.down, x.down + y.up) for x in a]


def _collected(found: list[Term]) -> list[Term]:
    """Terms of the same factors as one."""
    out: dict[tuple, Term] = {}
    for t in found:
        key = t.up, t.down
        out[key] = replace(t, number=plus(out[key].number, t.number)) if key in out else t
    return [*out.values()]


def negated(e: Expr) -> Expr:
    match e.op:
        case "num":
            return num(-e.attr)
        case "neg":
            return e.args[0]
        case "sub":
            return make("sub", e.args[1], e.args[0])
        case "mul" | "div":
            return make(e.op, negated(e.args[0]), e.args[1])
    return neg(e)


def plus(a: Expr, b: Expr) -> Expr:
    if a.op == "num" and b.op == "num":
        return num(a.attr + b.attr)
    if b.op == "sub" and b.args[1] == a:
        return b.args[0]
    first = b
    while first.op in ("mul", "div"):
        first = first.args[0]
    return (
        sub(a, negated(b))
        if first.op == "neg" or (first.op == "num" and first.attr < 0)
        else add(a, b)
    )


def times(a: Expr, b: Expr) -> Expr:
    if a.op == "num" and b.op == "num":
        return num(a.attr * b.attr)
    for x, y in ((a, b), (b, a)):
        if x == ONE:
            return y
        if x == MINUSONE:
            return negated(y)
        if x.op == "neg":
            return negated(times(x.args[0], y))
        if x.op == "div" and x.args[0] == ONE:
            return over(y, x.args[1])
    return mul(a, b)


def over(a: Expr, b: Expr) -> Expr:
    return a if b == ONE else div(a, b)


def with_numbers(e: Expr, numeric: Numeric, name: Callable[[Expr], str]) -> Expr:
    """A value as a sum of terms whose numbers are variables, where they are more than a literal."""

    def number(x: Expr) -> Expr:
        return x if x.op == "num" else Expr("var", (), name(x), x.type)

    if numeric(e):
        return number(e)
    if e.op not in LINEAR:
        args = tuple(with_numbers(a, numeric, name) for a in e.args)
        return replace(e, args=args) if args else e
    total = None
    for t in terms(e, numeric):
        minus = t.number.op == "num" and t.number.attr < 0
        size = negated(t.number) if minus else t.number
        value = None if t.up and size == ONE else number(size)
        for x in (with_numbers(f, numeric, name) for f in t.up):
            value = x if value is None else mul(value, x)
        for x in (with_numbers(f, numeric, name) for f in t.down):
            value = div(value, x)
        if total is None:
            total = neg(value) if minus else value
        else:
            total = sub(total, value) if minus else add(total, value)
    assert total is not None
    return total
