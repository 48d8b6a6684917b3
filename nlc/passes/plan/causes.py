"""Choice -> the place in the spec that keeps a level in a loop over tokens."""

from __future__ import annotations

from dataclasses import dataclass

from nlc.base.span import Span
from nlc.ir.expr import Expr, contains, walk
from nlc.ir.ops import elementwise, pointwise
from nlc.ir.system import System
from nlc.passes.plan.build import Choice

# Linear in each operand that may hold the state; of those with several operands only one may.
_LINEAR = frozenset(
    "neg T squeeze unsqueeze sum mean per_key per_value sum_rows sum_cols split merge stop lift".split()
)
_BILINEAR = frozenset(("mul", "matmul", "outer", "dot", "linear", "recent"))


@dataclass(frozen=True)
class Cause:
    """``place`` in the spec, ``label`` what is to be seen there; ``why`` and ``kind`` as in the choice, or nearer.

    ``function``: the one that bends the state, if it is one.
    """

    place: Span
    label: str
    why: str
    kind: str
    function: str = ""


def cause(choice: Choice, system: System) -> Cause:
    """What stands against a plan without a loop over tokens.

    Derived nodes have no place of their own, so the first one inside that has is taken: where the state is bent, else
    where it is read.
    """
    level, why, kind, e = choice.beside or choice.level, choice.why, choice.kind, choice.cause
    found = _bent(e, system) if e is not None else None
    if found is not None and found[0] is not None:
        node, bends = found
        function = node.op if bends and pointwise(node.op) else ""
        name = f"`{function}`" if function else "this"
        label = f"{name} makes the step nonlinear in `{level}`"
        return Cause(node.span, label, why, kind, function)
    if found is None and kind == "nonlinear" and e is not None and _holds(e):
        kind = "elementwise" if e.type.rank < 2 and _elementwise(e) else "affine"
        why = "the step is linear, but no decay, reads and writes at a key"
    keys = system.levels[level].keys if level in system.levels else {}
    place = _place(e, system) if e is not None else None
    place = place or next((keys[k] for k in ("update", "objective", "rule") if k in keys), None)
    place = place or system.levels[choice.level].span
    return Cause(place, "this takes one token at a time", why, kind)


def whole(choice: Choice, system: System) -> str | None:
    """The function that bends a matrix as a whole, before anything is read of it, where that is the cause."""
    found = _bent(choice.cause, system) if choice.cause is not None else None
    node = found[0] if found is not None else None
    matrix = node is not None and pointwise(node.op) and node.args[0].type.rank == 2
    return node.op if matrix else None


def _holds(e: Expr) -> bool:
    return contains(e, lambda n: n.op in ("carry", "running"))


def _elementwise(e: Expr) -> bool:
    return all(not n.args or n.op == "neg" or pointwise(n.op) or elementwise(n.op) for n in walk(e))


def _bent(e: Expr, system: System) -> tuple[Expr | None, bool] | None:
    """The innermost expression of the spec that is not linear in a state, and whether that is by its own operator.

    None if it is linear; a node of None if the spec does not say where.
    """
    holds: dict[int, bool] = {}
    bent: dict[int, bool] = {}
    for n in walk(e):
        inside = [holds[id(a)] for a in n.args]
        holds[id(n)] = n.op in ("carry", "running") or any(inside)
        own = any(inside) and not _is_linear(n.op, inside)
        bent[id(n)] = own or any(bent[id(a)] for a in n.args)
        if bent[id(n)] and _stands_in(n, system):
            return n, own
    return (None, False) if bent[id(e)] else None


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
