"""What embeddings give, as flows that come in: a program is given rows of tables, and no index.

So all of a stream that a module carries, cuts and recomputes holds floating-point numbers, and the first flow says in
which format it computes.
"""

from __future__ import annotations

from dataclasses import replace

from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.ops import leaf
from nlc.ir.system import Input, System
from nlc.ir.update import Update


def embedded(
    system: System, updates: dict[str, Update]
) -> tuple[System, dict[str, Update], dict[str, str]]:
    """The same with an input for each embedding, by its path, behind the index that it reads; the index of each."""
    found: dict[str, Expr] = {}

    def rule(n: Expr) -> Expr | None:
        if n.op != "embedding":
            return None
        found.setdefault(n.attr, n)
        return leaf("input", n.attr, n.type, n.span)

    def within(e: Expr) -> Expr:
        return rewrite(e, rule) if any(n.op == "embedding" for n in walk(e)) else e

    def all_within(es: dict[str, Expr]) -> dict[str, Expr]:
        return {k: within(e) for k, e in es.items()}

    inner = system.map(within)
    updates = {
        name: replace(
            u,
            base=all_within(u.base),
            gradient=all_within(u.gradient),
            new=all_within(u.new),
            factors=tuple(replace(x, expr=within(x.expr)) for x in u.factors),
        )
        for name, u in updates.items()
    }
    indices = {path: str(n.args[0].attr) for path, n in found.items()}
    inputs: dict[str, Input] = {}
    for name, item in system.inputs.items():
        inputs[name] = item
        for path in (p for p, index in indices.items() if index == name):
            inputs[path] = Input(path, found[path].type.dims, False, item.span)
    return replace(inner, inputs=inputs), updates, indices
