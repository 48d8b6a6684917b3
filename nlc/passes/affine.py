"""Expr -> sum of words: an expression as a polynomial of matrix products, linear in the state where it is affine.

A word is a product of factors, vectors standing as columns and rows, so that ``outer(S @ k, k)`` is ``S · k · kᵀ``. The
coefficients by which a step is affine in its state can be read off it (closed forms now, classes later).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from nlc.ir.expr import Expr, walk

Test = Callable[[Expr], bool]
MOST = 1000  # words that a step is written in; products of sums have no end of them


@dataclass(frozen=True)
class Factor:
    """``kind``: ``state``, ``matrix``, ``column``, ``row`` or ``diagonal``; a transposed state or matrix says so."""

    kind: str
    expr: Expr
    transposed: bool = False

    def flipped(self) -> Factor:
        if self.kind in ("column", "row"):
            return replace(self, kind="row" if self.kind == "column" else "column")
        return self if self.kind == "diagonal" else replace(self, transposed=not self.transposed)


@dataclass(frozen=True)
class Word:
    """``number · Π scalars · Π factors``."""

    number: float
    scalars: tuple[Expr, ...]
    factors: tuple[Factor, ...]

    def times(self, other: Word) -> Word:
        return Word(
            self.number * other.number, self.scalars + other.scalars, self.factors + other.factors
        )

    def flipped(self) -> Word:
        return replace(self, factors=tuple(f.flipped() for f in reversed(self.factors)))

    @property
    def linear(self) -> bool:
        return any(f.kind == "state" for f in self.factors)


class NotAffine(Exception):
    """``node`` makes the expression a non-linear (or not matrix-linear) function of the state."""

    def __init__(self, node: Expr):
        super().__init__(node.op)
        self.node = node


def affine(e: Expr, is_state: Test) -> list[Word]:
    """The words of ``e``; NotAffine if a state stands where the expression is not linear in it, or if
    there are more than ``MOST``. A number that reads no state is one scalar, also where it is a sum.
    """
    reach: dict[int, bool] = {}
    count: dict[int, int] = {}
    for node in walk(e):
        reach[id(node)] = is_state(node) or any(reach[id(a)] for a in node.args)
        inside = [count[id(a)] for a in node.args]
        size = 1
        if node.op in ("add", "sub") and (node.type.dims != () or reach[id(node)]):
            size = sum(inside)
        elif node.op in ("mul", "matmul", "outer", "dot"):
            size = prod(inside)
        elif node.op in ("neg", "T", "div"):
            size = inside[0]
        count[id(node)] = min(size, MOST + 1)
    if count[id(e)] > MOST:
        raise NotAffine(e)
    words = _words(e, is_state, lambda x: reach[id(x)])
    for w in words:
        if sum(f.kind == "state" for f in w.factors) > 1:
            raise NotAffine(e)
    merged: dict[tuple, float] = {}
    for w in words:
        key = (tuple(sorted(w.scalars, key=lambda s: (hash(s), s.op))), w.factors)
        merged[key] = merged.get(key, 0.0) + w.number
    out, seen = [], set()
    for w in words:
        key = (tuple(sorted(w.scalars, key=lambda s: (hash(s), s.op))), w.factors)
        if key not in seen and merged[key] != 0:
            out.append(replace(w, number=merged[key]))
        seen.add(key)
    return out


def _words(e: Expr, is_state: Test, holds: Test) -> list[Word]:
    """``holds`` says of a node whether a state stands in it."""
    if is_state(e):
        return [Word(1.0, (), (Factor("state", e),))]
    if e.op == "neg":
        return [replace(w, number=-w.number) for w in _words(e.args[0], is_state, holds)]
    if e.op in ("add", "sub"):
        if any(a.type.dims != e.type.dims for a in e.args) or (e.type.dims == () and not holds(e)):
            if holds(e):
                raise NotAffine(e)
            return [_atom(e)]
        sign = 1 if e.op == "add" else -1
        right = [replace(w, number=sign * w.number) for w in _words(e.args[1], is_state, holds)]
        return _words(e.args[0], is_state, holds) + right
    if e.op == "num":
        return [Word(float(e.attr), (), ())]
    if e.op == "mul":
        return _product(e, is_state, holds)
    if e.op == "matmul":
        a, b = e.args
        left, right = _words(a, is_state, holds), _words(b, is_state, holds)
        if (
            a.type.rank == 1 and not a.type.like
        ):  # a vector on the left is a row; the result is a column again
            return [x.flipped().times(y).flipped() for x in left for y in right]
        return [x.times(y) for x in left for y in right]
    if e.op == "outer":
        left, right = _words(e.args[0], is_state, holds), _words(e.args[1], is_state, holds)
        return [x.times(y.flipped()) for x in left for y in right]
    if e.op == "dot" and holds(e) and e.args[0].type.rank == 1 and not e.args[0].type.like:
        left, right = (_words(a, is_state, holds) for a in e.args)
        products = [x.flipped().times(y) for x in left for y in right]
        upright = [not any(f.kind == "state" and f.transposed for f in p.factors) for p in products]
        return [p if up else p.flipped() for p, up in zip(products, upright)]  # aᵀb = bᵀa
    if e.op == "T":
        return [w.flipped() for w in _words(e.args[0], is_state, holds)]
    if e.type.dims == () and e.op == "div" and not holds(e):
        return [_atom(e)]
    if e.op == "div" and e.args[1].type.dims == () and not holds(e.args[1]):
        inverse = Expr("div", (Expr("num", (), 1, e.args[1].type), e.args[1]), None, e.args[1].type)
        return [
            replace(w, scalars=(*w.scalars, inverse)) for w in _words(e.args[0], is_state, holds)
        ]
    if holds(e):
        raise NotAffine(e)
    return [_atom(e)]


def _product(e: Expr, is_state: Test, holds: Test) -> list[Word]:
    a, b = e.args
    for x, y in ((a, b), (b, a)):
        if x.type.dims == ():
            if holds(x) and y.type.dims != ():
                if y.type.rank != 1 or y.type.like or holds(y):
                    raise NotAffine(e)
                return [
                    w.times(u)
                    for w in _words(y, is_state, holds)
                    for u in _words(x, is_state, holds)
                ]
            return [
                u.times(w) for u in _words(x, is_state, holds) for w in _words(y, is_state, holds)
            ]
        if x.op in ("per_key", "per_value") and not holds(x):
            diagonal = Word(1.0, (), (Factor("diagonal", x.args[0]),))
            words = _words(y, is_state, holds)
            return [w.times(diagonal) if x.op == "per_key" else diagonal.times(w) for w in words]
    if holds(e):
        raise NotAffine(e)
    return [_atom(e)]


def _atom(e: Expr) -> Word:
    if e.type.dims == ():
        return Word(1.0, (e,), ())
    kind = "column" if e.type.rank == 1 and not e.type.like else "matrix"
    return Word(1.0, (), (Factor(kind, e),))
