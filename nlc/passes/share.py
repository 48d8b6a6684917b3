"""Lets -> Lets: what is computed twice gets a name and is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from nlc.ir.expr import Expr, substitute, walk
from nlc.ir.ops import leaf
from nlc.ir.program import Let
from nlc.passes.naming import Names, describe

_CHEAP = {"neg", "T", "ones", "per_key", "per_value", "numel", "split", "merge", "fill"}


def share(lets: Sequence[Let], names: Names, also: Iterable[Expr] = ()) -> list[Let]:
    """``also`` are expressions that read the same values after these statements; they keep their own copies."""
    lets = list(lets)
    while True:
        repeated = _largest(lets)
        if repeated is None:
            return lets
        name = names(describe(repeated))
        value = leaf("var", name, repeated.type)
        first = next(i for i, x in enumerate(lets) if any(n == repeated for n in walk(x.expr)))
        rewritten = [replace(x, expr=substitute(x.expr, {repeated: value})) for x in lets[first:]]
        lets = [*lets[:first], Let((name,), repeated), *rewritten]


def _largest(lets: list[Let]) -> Expr | None:
    """The largest expression that stands twice where its variables have the same values."""
    count: Counter[Expr] = Counter()
    for x in lets:
        stack = [x.expr]
        while stack:
            node = stack.pop()
            count[node] += 1
            stack.extend(node.args)
    best, best_size = None, 0
    for node, n in count.items():
        if (
            n < 2
            or not node.args
            or node.op in _CHEAP
            or _is_number(node)
            or not _stable(node, lets)
        ):
            continue
        size = sum(1 for _ in walk(node))
        if size > best_size:
            best, best_size = node, size
    return best


def _is_number(node: Expr) -> bool:
    """Arithmetic of hypers and counts costs nothing."""
    return all(
        n.args or n.op in ("num", "bool", "hyper") or (n.op == "var" and n.type.dtype == "int")
        for n in walk(node)
    )


def _stable(node: Expr, lets: list[Let]) -> bool:
    """Whether no variable of it is assigned between its first and its last use."""
    uses = [i for i, x in enumerate(lets) if any(n == node for n in walk(x.expr))]
    inside = {n.attr for n in walk(node) if n.op == "var"}
    return not any(inside & set(x.names) for x in lets[uses[0] : uses[-1]])
