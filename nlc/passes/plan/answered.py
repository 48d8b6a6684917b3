"""What is written to what decays towards a T, less what is erased of T's answer, as a number times a vector.

A state runs on its distance D to T: D_t = a D_{t−1} + (u − b T p − b D_{t−1} p) kᵀ. The u of a rule has terms of T p
of its own, most of which cancel: of a delta rule w (v − T k) is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isclose

from nlc.ir.expr import Expr
from nlc.ir.ops import add, make, mul, neg, num, sub
from nlc.ir.scan import Record

Poly = dict[tuple[Expr, ...], float]  # a sum of products of numbers of tokens


def answered(r: Record, defined: Callable[[Expr], Expr | None]) -> Record:
    """The record with such a write, if its terms have one number in common; else as it is.

    ``defined``: what a variable stands for, None where it has no definition that holds at the scan.
    """
    write, at = r.write[0], r.probe or r.key
    if r.rank != 2 or not (r.start and r.start[0]) or None in (write, at, r.erase[0]):
        return r
    answer = make("matmul", r.start[0], at)  # type: ignore[arg-type]
    terms = _Terms(defined, answer)
    terms.vector(write, {(): 1.0})  # type: ignore[arg-type]
    terms.vector(answer, _times(terms.number(r.erase[0]), {(): -1.0}))  # type: ignore[arg-type]
    found = {v: poly for v, poly in terms.found.items() if poly}
    if not found:
        return r
    positive = (p for p in found.values() if next(iter(p.values())) > 0)
    base = next(positive, next(iter(found.values())))
    shares = {v: _ratio(poly, base) for v, poly in found.items()}
    if None in shares.values():
        return r
    return replace(r, write=(mul(_expr(base), _total(shares)),), answered=True)  # type: ignore[arg-type]


@dataclass
class _Terms:
    """Vectors, each with the number that it is multiplied by."""

    defined: Callable[[Expr], Expr | None]
    answer: Expr

    def __post_init__(self) -> None:
        self.found: dict[Expr, Poly] = {}

    def vector(self, e: Expr, times: Poly) -> None:
        """Adds an expression so many times."""
        if e.op == "neg":
            self.vector(e.args[0], _times(times, {(): -1.0}))
        elif e.op in ("add", "sub") and all(a.type.rank == 1 for a in e.args):
            self.vector(e.args[0], times)
            self.vector(e.args[1], times if e.op == "add" else _times(times, {(): -1.0}))
        elif e.op == "mul" and {a.type.rank for a in e.args} == {0, 1}:
            number, vector = sorted(e.args, key=lambda a: a.type.rank)
            self.vector(vector, _times(times, self.number(number)))
        elif e != self.answer and e.op == "var" and (value := self.defined(e)) is not None:
            if value.op in ("neg", "add", "sub", "mul", "var") or value == self.answer:
                self.vector(value, times)
            else:
                self._add(e, times)
        else:
            self._add(e, times)

    def _add(self, e: Expr, times: Poly) -> None:
        self.found[e] = _plus(self.found.get(e, {}), times)

    def number(self, e: Expr) -> Poly:
        """A number as a sum of products."""
        if e.op == "num":
            return {(): float(e.attr)}  # type: ignore[arg-type]
        if e.op == "neg":
            return _times(self.number(e.args[0]), {(): -1.0})
        if e.op in ("add", "sub"):
            left, right = map(self.number, e.args)
            return _plus(left, right if e.op == "add" else _times(right, {(): -1.0}))
        if e.op == "mul":
            return _times(*map(self.number, e.args))
        if e.op == "spread":
            return self.number(e.args[0])
        value = self.defined(e) if e.op == "var" else None
        sums = ("neg", "add", "sub", "mul", "var", "spread")
        return {(e,): 1.0} if value is None or value.op not in sums else self.number(value)


def _plus(a: Poly, b: Poly) -> Poly:
    total = {m: a.get(m, 0.0) + b.get(m, 0.0) for m in (*a, *b)}
    return {m: c for m, c in total.items() if c}


def _times(a: Poly, b: Poly) -> Poly:
    out: Poly = {}
    for m, c in a.items():
        for n, d in b.items():
            out = _plus(out, {tuple(sorted((*m, *n), key=str)): c * d})
    return out


def _ratio(a: Poly, b: Poly) -> float | None:
    """How many times b a is."""
    if a.keys() != b.keys():
        return None
    ratios = [a[m] / b[m] for m in a]
    return ratios[0] if all(isclose(x, ratios[0]) for x in ratios) else None


def _scaled(c: float, e: Expr | None) -> Expr:
    if e is None:
        return num(c)
    return e if c == 1 else neg(e) if c == -1 else mul(num(c), e)


def _expr(poly: Poly) -> Expr:
    """A sum of products as an expression."""
    out: Expr | None = None
    for m, c in poly.items():
        product: Expr | None = None
        for x in m:
            product = x if product is None else mul(product, x)
        term = _scaled(c, product)
        out = term if out is None else add(out, term)
    return out  # type: ignore[return-value]


def _total(shares: dict[Expr, float]) -> Expr:
    """The sum of vectors, what is added first."""
    out: Expr | None = None
    for v, share in sorted(shares.items(), key=lambda x: x[1] < 0):
        if out is None:
            out = _scaled(share, v)
        else:
            term = _scaled(abs(share), v)
            out = add(out, term) if share > 0 else sub(out, term)
    return out  # type: ignore[return-value]
