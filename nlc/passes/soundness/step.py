"""What a derived step does to the state that it starts from, where that is linear in it.

``M ← scale · (kept − erased · x xᵀ) M + …`` (or from the right): the coefficients are read off the words of
the written-out step, so ``gd``, ``dgd``, ``retain``, ``decay`` and ``update:`` are all one case. Numbers and
diagonals (``per_key``, ``per_value``) that all words share are ``scale``: taken out, they are not counted twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from nlc.ir.expr import Expr, rewrite
from nlc.ir.nodes import mul, num
from nlc.ir.types import Range
from nlc.passes.affine import Factor, NotAffine, Word, affine
from nlc.passes.soundness.reach import Reach, Reaches, point


@dataclass(frozen=True)
class Linear:
    """``key`` is x, None where nothing is erased. ``words`` are the words that hold the state."""

    scale: Reach
    kept: Reach
    erased: Reach
    key: Expr | None
    words: tuple[Word, ...]


def linear(e: Expr, is_state: Callable[[Expr], bool], reaches: Reaches) -> Linear | None:
    """The coefficients of ``e``; None where it is not of this form."""
    try:
        words = [w for w in affine(at_alike(without_stops(e)), is_state) if w.linear]
    except NotAffine:
        return None
    if not words:
        return None
    if any(w.factors[-1].kind == "state" and w.factors[0].kind == "column" for w in words):
        words = [w.flipped() for w in words]  # x xᵀ M is Mᵀ x xᵀ
    left = _shared([w.factors[: _place(w)] for w in words])
    right = _shared([w.factors[_place(w) + 1 :] for w in words])
    shared = _common([w.scalars for w in words])
    scale = _product(1.0, shared, (*left, *right), reaches)
    kept, erased, key = None, None, None
    for w in words:
        before, after = w.factors[len(left) : _place(w)], w.factors[_place(w) + 1 + len(right) :]
        inside = [f.kind for f in after]
        scalars = _without(w.scalars, shared)
        if before or scale is None:
            return None
        if inside in ([], ["diagonal"]):
            part = _product(w.number, scalars, after, reaches)
            kept = part if kept is None else kept.plus(part)
        elif inside == ["column", "row"] and after[0].expr == after[1].expr:
            if key is not None and key != after[0].expr:
                return None
            key = after[0].expr
            part = _product(-w.number, scalars, (), reaches)
            erased = part if erased is None else erased.plus(part)
        else:
            return None
    return Linear(scale, kept or point(0.0), erased or point(0.0), key, tuple(words))


def without_stops(e: Expr) -> Expr:
    """``stop`` changes gradients, not values."""
    return rewrite(e, lambda n: n.args[0] if n.op == "stop" else None)


def at_alike(e: Expr) -> Expr:
    """What a slow level gathers, where all ticks of its period are alike: their mean is one, their sum so many."""

    def fill(n: Expr) -> Expr | None:
        if n.op != "total" or n.attr[0] not in ("mean", "sum") or n.args[0].type is None:
            return None
        inside, outer, inner = at_alike(n.args[0]), n.attr[1], n.args[0].type.clock
        if n.attr[0] == "mean":
            return inside
        if outer.name or inner.name or outer.unit != inner.unit:
            return None
        return mul(num(float(outer.default) / float(inner.default)), inside)

    return rewrite(e, fill)


def _place(w: Word) -> int:
    return next(i for i, f in enumerate(w.factors) if f.kind == "state")


def _shared(parts: list[tuple[Factor, ...]]) -> tuple[Factor, ...]:
    """The diagonals with which all parts begin."""
    out: list[Factor] = []
    for same in zip(*parts):
        if same[0].kind != "diagonal" or any(f != same[0] for f in same):
            break
        out.append(same[0])
    return tuple(out)


def _common(scalars: list[tuple[Expr, ...]]) -> tuple[Expr, ...]:
    """What stands in every product, as often as it does."""
    first, *rest = scalars
    out = []
    for s in first:
        if all(s in r for r in rest):
            out.append(s)
            rest = [_without(r, (s,)) for r in rest]
    return tuple(out)


def _without(scalars: tuple[Expr, ...], taken: tuple[Expr, ...]) -> tuple[Expr, ...]:
    left = list(scalars)
    for s in taken:
        left.remove(s)
    return tuple(left)


def _product(
    number: float, scalars: tuple[Expr, ...], diagonals: tuple[Factor, ...], reaches: Reaches
) -> Reach:
    out = point(number)
    for e in (*scalars, *(f.expr for f in diagonals)):
        out = out.times(reaches.of(e))
    return out if out.known else replace(out, range=Range())


def strength(e: Expr, is_part: Callable[[Expr], bool], reaches: Reaches) -> Reach | None:
    """The coefficient of a part in which ``e`` is linear, a number or a diagonal; None where it is another."""
    found = linear(e, is_part, reaches)
    if found is None or found.key is not None:
        return None
    return found.scale.times(found.kept)
