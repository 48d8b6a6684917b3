"""Loop -> Loop: what reads several states becomes several statements, so that each can stand with its own."""

from __future__ import annotations

from dataclasses import replace

from nlc.ir.expr import Expr, walk
from nlc.ir.program import Let, Loop
from nlc.passes.naming import Names, describe


def apart(loop: Loop, names: Names) -> Loop:
    """Vectors and numbers that are made of some of the states that a statement reads get a statement of their own.

    A state that is collected is read by a statement too.
    """
    assigned = {n for x in loop.body for n in x.names}
    carried = {*loop.carries, *(n for x in loop.first for n in x.names if n in assigned)}
    body: list[Let] = []
    for let in loop.body:
        body += _pieces(let, carried, names)
    collects = dict(loop.collects)
    for outer, inner in loop.collects.items():
        if inner in carried:
            step = next(x for x in loop.body if inner in x.names)
            collects[outer] = names(f"{inner}_t")
            body.append(Let((collects[outer],), Expr("var", (), inner, step.expr.type)))
    return replace(loop, body=tuple(body), collects=collects)


def _pieces(let: Let, carried: set[str], names: Names) -> list[Let]:
    """A statement behind those that it is split into; what its own state stands in stays whole."""
    if let.when is not None or len(let.names) > 1:
        return [let]
    read: dict[int, frozenset[str]] = {}
    for n in walk(let.expr):
        own = {n.attr} & carried if n.op == "var" else set()
        read[id(n)] = frozenset(own.union(*(read[id(a)] for a in n.args)))
    mine = read[id(let.expr)] & set(let.names)
    out: list[Let] = []
    done: dict[int, Expr] = {}

    def part(e: Expr, whole: frozenset[str]) -> Expr:
        if id(e) in done:
            return done[id(e)]
        inside = read[id(e)]
        new = e
        if len(inside) > 1 or inside & mine:
            new = e.with_args(tuple(part(a, inside) for a in e.args))
        if inside and inside != whole and e.args and e.type.rank <= 1 and not inside & mine:
            name = names(describe(e, let.names[0]))
            out.append(Let((name,), new, "", e.span or let.span))
            new = Expr("var", (), name, e.type)
        done[id(e)] = new
        return new

    expr = part(let.expr, read[id(let.expr)])
    return [*out, replace(let, expr=expr)]
