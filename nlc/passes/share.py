"""Lets -> Lets: what is computed twice gets a name and is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from nlc.ir.expr import Expr, substitute, walk
from nlc.ir.ops import leaf
from nlc.ir.program import Guard, Let
from nlc.passes.naming import Names, describe

CHEAP = {"neg", "T", "ones", "zeros", "per_key", "per_value", "numel", "split", "merge", "fill"}


def share(lets: Sequence[Let], names: Names, also: Iterable[Expr] = ()) -> list[Let]:
    """``also`` are expressions that read the same values after these statements; they keep their own copies."""
    lets = list(lets)
    for when in dict.fromkeys(x.when for x in lets):
        while (repeated := _largest(lets, when)) is not None:
            first = next(i for i, x in enumerate(lets) if x.when == when and _holds(x, repeated))
            name = names(describe(repeated, of=lets[first].names[0]))
            value = leaf("var", name, repeated.type)
            rest = [
                replace(x, expr=substitute(x.expr, {repeated: value})) if x.when == when else x
                for x in lets[first:]
            ]
            lets = [*lets[:first], Let((name,), repeated, when=when), *rest]
    return lets


def _holds(let: Let, e: Expr) -> bool:
    return any(n == e for n in walk(let.expr))


def _largest(lets: list[Let], when: Guard | None) -> Expr | None:
    """The largest expression that stands twice in the same ticks while its variables keep their values."""
    count: Counter[Expr] = Counter()
    for x in lets:
        stack = [x.expr] if x.when == when else []
        while stack:
            node = stack.pop()
            count[node] += 1
            stack.extend(node.args)
    best, best_size = None, 0
    for node, n in count.items():
        if n < 2 or not node.args or node.op in CHEAP or _is_number(node):
            continue
        size = len([*walk(node)])
        if size > best_size and _stable(node, lets, when):
            best, best_size = node, size
    return best


def _is_number(node: Expr) -> bool:
    """Arithmetic of hypers and counts costs nothing."""
    return all(
        n.args
        or n.op in ("num", "bool", "hyper", "size")
        or (n.op == "var" and n.type.dtype == "int")
        for n in walk(node)
    )


def _stable(node: Expr, lets: list[Let], when: Guard | None) -> bool:
    """Whether no variable of it is assigned between its first and its last use."""
    uses = [i for i, x in enumerate(lets) if x.when == when and _holds(x, node)]
    inside = {n.attr for n in walk(node) if n.op == "var"}
    return not any(inside & set(x.names) for x in lets[uses[0] : uses[-1]])
