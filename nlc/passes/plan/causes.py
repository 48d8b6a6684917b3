"""Choice -> the place in the spec that keeps a level in a loop over tokens."""

from __future__ import annotations

from dataclasses import dataclass

from nlc.base.span import Span
from nlc.ir.expr import Expr, walk
from nlc.ir.ops import pointwise
from nlc.ir.system import System
from nlc.passes.plan.build import Choice

# Linear in each operand that may hold the state; of those with several operands only one may.
_LINEAR = frozenset(
    "neg T squeeze unsqueeze sum mean per_key per_value sum_rows sum_cols split merge stop lift".split()
)
_BILINEAR = frozenset(("mul", "matmul", "outer", "dot", "linear", "recent"))


@dataclass(frozen=True)
class Cause:
    """``place`` is in the spec, ``label`` what is to be seen there."""

    place: Span
    label: str


def cause(choice: Choice, system: System) -> Cause:
    """What stands against a plan without a loop over tokens. Derived nodes have no place of their own, so the first one
    inside that has is taken: where the state is bent, else where it is read."""
    level = choice.beside or choice.level
    found = _bent(choice.cause, system) if choice.cause is not None else None
    if found is not None:
        node, bends = found
        name = f"`{node.op}`" if bends and pointwise(node.op) else "this"
        return Cause(node.span, f"{name} makes the step nonlinear in `{level}`")
    keys = system.levels[level].keys if level in system.levels else {}
    place = _place(choice.cause, system) if choice.cause is not None else None
    place = place or next((keys[k] for k in ("update", "objective", "rule") if k in keys), None)
    return Cause(place or system.levels[choice.level].span, "this takes one token at a time")


def _bent(e: Expr, system: System) -> tuple[Expr, bool] | None:
    """The innermost expression of the spec that is not linear in a state, and whether that is by its own operator."""
    holds: dict[int, bool] = {}
    bent: dict[int, bool] = {}
    for n in walk(e):
        inside = [holds[id(a)] for a in n.args]
        holds[id(n)] = n.op in ("carry", "running") or any(inside)
        own = any(inside) and not _is_linear(n.op, inside)
        bent[id(n)] = own or any(bent[id(a)] for a in n.args)
        if bent[id(n)] and _stands_in(n, system):
            return n, own
    return None


def _is_linear(op: str, inside: list[bool]) -> bool:
    if op in ("add", "sub") or op in _LINEAR:
        return True
    if op in _BILINEAR:
        return sum(inside) == 1
    return op == "div" and not inside[1]


def _place(e: Expr, system: System) -> Span | None:
    if _stands_in(e, system):
        return e.span
    return next((n.span for n in walk(e) if n.args and _stands_in(n, system)), None)


def _stands_in(n: Expr, system: System) -> bool:
    """A memory of the library has a text of its own, in which a user finds nothing."""
    return n.span is not None and n.span.source is system.source
