"""Eq. 29 for people: the gradient of each weight is its error δ times its key x, and both get names.

In a memory of several weights the key of one is a function of another, so written out every line would hold the whole
network. With names, the step of each weight reads like that of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable

from nlc.ir.expr import Expr, contains, substitute
from nlc.ir.ops import leaf
from nlc.ir.update import Named, Update
from nlc.passes.simplify import simplify


def factors(update: Update, op: str = "param") -> list[Named]:
    """Names for the keys and errors of a memory of several weights, each over those before it; else none.

    ``op`` is that of the leaves that stand for them.
    """
    matrices = [s for s, e in update.gradient.items() if _outer(e) is not None]
    if len(matrices) < 2:
        return []
    found: list[Named] = []
    for what, letter, index in (("key", "x", 1), ("error", "delta", 0)):
        for state in matrices:
            e = named(_outer(update.gradient[state]).args[index], found)
            if contains(e, lambda n: n.op == "state"):
                name = f"{letter}_{_number(state, update)}"
                symbol = leaf(op, name if op == "param" else f"{update.level}.{name}", e.type)
                found.append(Named(state, what, symbol, e))
    return found


def named(e: Expr, names: Iterable[Named]) -> Expr:
    """An expression with the names put in."""
    for name in names:
        e = substitute(e, {name.expr: name.symbol})
    return e


def _outer(e: Expr) -> Expr | None:
    """The outer product that a gradient is, apart from factors and the sum over a period."""
    e = simplify(e)
    while e.op in ("mul", "neg", "total"):
        e = e.args[-1]
    return e if e.op == "outer" else None


def _number(state: str, update: Update) -> str:
    """``W1`` is 1; a weight without a number of its own has that of its place."""
    digits = "".join(c for c in state.rpartition(".")[2] if c.isdigit())
    return digits or str(list(update.new).index(state) + 1)
