"""An affine step as a person writes it: ``αS(I − β k kᵀ) + β v kᵀ``.

The words of the step that hold the state are gathered behind (or before) it, and what they share is taken out.
"""

from __future__ import annotations

from collections import Counter
from functools import reduce
from operator import and_

from nlc.ir.expr import Expr
from nlc.ir.notation import ATOM, MUL, POW, Notation
from nlc.passes.affine import Factor, NotAffine, Word, affine


def collect(e: Expr, state: str, notation: Notation) -> str | None:
    """The expanded step in collected form, or None where that says no more (elementwise, not affine)."""
    if e.type.like or e.type.rank == 0:
        return None
    try:
        words = affine(e, lambda n: n.op == "state" and n.attr == (state, "prev"))
    except NotAffine:
        return None
    if not all(_matrix_like(w) for w in words if w.linear):
        return None
    if all(len(w.factors) == 1 for w in words if w.linear):
        return None  # only scaled: the step as derived says it already
    linear = [w for w in words if w.linear]
    rest = [w for w in words if not w.linear]
    head = _gather(linear, notation) if linear else ""
    return _sum(([head] if head else []) + [_word(w, notation) for w in rest])


def _matrix_like(w: Word) -> bool:
    return sum(f.kind == "state" for f in w.factors) == 1 and not any(
        f.kind == "state" and f.transposed for f in w.factors
    )


def _gather(words: list[Word], n: Notation) -> str:
    """All words that hold the state: ``common · S (c₀ I + …)``, or the plain sum where S stands inside."""
    if len(words) == 1:
        return _word(words[0], n)
    after = all(w.factors[0].kind == "state" for w in words)
    before = all(w.factors[-1].kind == "state" for w in words)
    if not after and not before:
        return _sum([_word(w, n) for w in words])
    state = words[0].factors[0 if after else -1]
    common = list(reduce(and_, (Counter(w.scalars) for w in words)).elements())
    inner = []
    for w in words:
        scalars = list(w.scalars)
        for s in common:
            scalars.remove(s)
        factors = tuple(f for f in w.factors if f.kind != "state")
        inner.append(_word(Word(w.number, tuple(scalars), factors), n, identity=not factors))
    inner.sort(key=lambda t: "I" not in t)
    bracket = rf"\left({_sum(inner)}\right)" if n.latex else f"({_sum(inner)})"
    outside = _scalars(tuple(common), n)
    symbol = n.text(state.expr)
    gap = n.beside(outside, symbol, " " if outside and n.latex else "")
    return f"{outside}{gap}{symbol}{bracket}" if after else f"{outside}{gap}{bracket}{symbol}"


def _scalars(scalars: tuple[Expr, ...], n: Notation) -> str:
    return _product([n.inside(s, MUL) for s in scalars], "", n)


def _product(scalars: list[str], rest: str, n: Notation) -> str:
    """Numbers before what they multiply."""
    for s in reversed(scalars):
        rest = f"{s}{n.beside(s, rest, ' ')}{rest}" if rest else s
    return rest


def _word(w: Word, n: Notation, identity: bool = False) -> str:
    sign = n.minus if w.number < 0 else ""
    size = float(f"{abs(w.number):.12g}")  # a product of numbers, without what rounding left of it
    parts = [n.number(int(size) if float(size).is_integer() else size)] if size != 1 else []
    parts += [n.inside(s, MUL) for s in w.scalars]
    factors = [_factor(f, n) for f in w.factors] + (["I"] if identity else [])
    if parts and factors and (identity or w.factors[0].kind == "state") and not n.latex:
        last = parts.pop()
        factors[0] = last + n.beside(last, factors[0], "") + factors[0]
    return sign + (_product(parts, " ".join(factors), n) or "1")


def _factor(f: Factor, n: Notation) -> str:
    if f.kind == "row":
        return n.inside(f.expr, ATOM) + (r"^\top" if n.latex else "ᵀ")
    if f.kind == "diagonal":
        return (r"\operatorname{Diag}" if n.latex else "Diag") + f"({n.text(f.expr)})"
    text = n.inside(f.expr, POW)
    return text + ((r"^\top" if n.latex else "ᵀ") if f.transposed else "")


def _sum(parts: list[str]) -> str:
    out = parts[0] if parts else "0"
    for part in parts[1:]:
        out += f" {part[0]} {part[1:]}" if part[0] in "-−" else f" + {part}"
    return out
