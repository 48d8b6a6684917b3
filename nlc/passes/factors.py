"""Eq. 29 for people: the gradient of each weight is its error δ times its key x, and both get names.

In a memory of several weights the key of one is a function of another, so written out every line would hold the whole
network. With names, the step of each weight reads like that of a matrix. Derivations name what else a long gradient
repeats, as that of a layernorm does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from nlc.ir.expr import Expr, contains, substitute, walk
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


LONG = 40  # nodes of a gradient that is read more easily in parts
PART = 5  # nodes of the least part that gets a name


def parts(update: Update, names: list[Named]) -> list[Named]:
    """``names`` and others, u_1, u_2, …, for what long gradients say more than once, each over those before it."""
    roots = [x.expr for x in names] + [named(e, names) for e in update.gradient.values()]
    nodes = dict.fromkeys(n for e in roots for n in walk(e))
    uses = Counter([*(a for n in nodes for a in n.args), *roots])
    length: dict[Expr, int] = {}
    for n in nodes:
        length[n] = 1 + sum(length[a] for a in n.args)
    if max((length[e] for e in roots), default=0) < LONG:
        return names
    out: list[Named] = []
    new: dict[Expr, Expr] = {}
    own = {x.expr for x in names}
    for i, root in enumerate(roots):
        for n in walk(root):
            if n in new:
                continue
            new[n] = n.with_args(tuple(new[a] for a in n.args))
            if uses[n] > 1 and n not in own and sum(1 for _ in walk(new[n])) >= PART:
                before = sum(x.what == "part" for x in out)
                symbol = leaf("param", f"u_{before + 1}", n.type)
                out.append(Named("", "part", symbol, new[n]))
                new[n] = symbol
        if i < len(names):
            out.append(replace(names[i], expr=new[root]))
    return out


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
