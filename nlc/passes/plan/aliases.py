"""Statements -> statements: second names for the same value taken out.

What remains of a program when scans and tiles have been taken out of it is short, and is read by people.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nlc.ir.expr import Expr, rewrite, substitute, walk
from nlc.ir.program import Let, Loop
from nlc.passes.plan.statements import Statement, assigned, reads, renamed


def pulled(after: list[object], loop: Loop) -> tuple[list[object], Loop]:
    """What comes behind the loop and is computed in it as well is collected instead."""
    inner = {**loop.slices, **loop.collects}
    inside = {n for x in loop.body if x.when is None for n in walk(x.expr)}
    rest: list[object] = []
    body, collects = list(loop.body), dict(loop.collects)
    for s in after:
        if isinstance(s, Let) and len(s.names) == 1 and s.expr.args:
            mapped = rewrite(
                s.expr,
                lambda n: (
                    replace(n, attr=inner[n.attr]) if n.op == "var" and n.attr in inner else None
                ),
            )
            plain = {n.attr for n in walk(s.expr) if n.op == "var"} <= set(inner)
            if plain and mapped in inside:
                name = f"{s.names[0]}_t"
                at = next(i for i, x in enumerate(body) if mapped in set(walk(x.expr)))
                value = {mapped: Expr("var", (), name, mapped.type)}
                behind = [replace(x, expr=substitute(x.expr, value)) for x in body[at:]]
                body = [*body[:at], replace(s, names=(name,), expr=mapped), *behind]
                collects[s.names[0]] = name
                continue
        rest.append(s)
    read = {name for s in rest for name in reads(s)}
    kept = {o: i for o, i in collects.items() if o in read or o not in loop.collects}
    for name in set(loop.collects.values()) - set(kept.values()):
        body = _inlined(body, name)
    return rest, replace(loop, body=tuple(body), collects=kept)


def without_numbers(before: Iterable[object], loop: Loop) -> Loop:
    """The loop with numbers that are made of hypers and sizes written out: its parts are methods of their own."""
    numbers: dict[Expr, Expr] = {}
    for x in before:
        if isinstance(x, Let) and len(x.names) == 1:
            e = substitute(x.expr, numbers)
            if all(n.args or n.op in ("num", "bool", "hyper", "size") for n in walk(e)):
                numbers[Expr("var", (), x.names[0])] = e
    return replace(
        loop, body=tuple(replace(x, expr=substitute(x.expr, numbers)) for x in loop.body)
    )


def _inlined(body: list[Let], name: str) -> list[Let]:
    """A value that had a name only to be collected, put in where it is used once in the same tick."""
    makers = [x for x in body if name in x.names]
    uses = [n for x in body for n in _tree(x.expr) if n.op == "var" and n.attr == name]
    if len(makers) != 1 or len(uses) != 1 or makers[0].when is not None or len(makers[0].names) > 1:
        return body
    user = next(x for x in body if name in reads(x))
    between = body[body.index(makers[0]) + 1 : body.index(user)]
    moved = any(assigned(x) & reads(makers[0]) for x in between)
    if moved or user.when is not None or body.index(user) < body.index(makers[0]):
        return body
    swap = {Expr("var", (), name): makers[0].expr}
    put = replace(user, expr=substitute(user.expr, swap))
    return [put if x is user else x for x in body if x is not makers[0]]


def _tree(e: Expr) -> Iterable[Expr]:
    """Every occurrence of every node."""
    yield e
    for a in e.args:
        yield from _tree(a)


def without_copies(statements: Iterable[Let], wanted: set[str]) -> list[Let]:
    """Boundary statements whose names for what is there already are taken out; ``wanted`` are read elsewhere."""
    out = list(statements)
    i = 0
    while i < len(out):
        shorter = _without(out, i, wanted)
        i, out = (i + 1, out) if shorter is None else (i, shorter)
    return out


def _without(out: list[Let], i: int, wanted: set[str]) -> list[Let] | None:
    """The statements without the i-th, if that is a copy which nothing else needs."""
    let = out[i]
    if not isinstance(let, Let) or let.when is None or let.expr.op != "var":
        return None
    (name,), source, behind = let.names, str(let.expr.attr), out[i + 1 :]
    uses = [j for j, x in enumerate(behind) if name in reads(x)]
    moved = next((j for j, x in enumerate(behind) if source in assigned(x)), len(behind))
    same = all(isinstance(behind[j], Let) and behind[j].when == let.when for j in uses)
    once = sum(name in assigned(x) for x in out) == 1
    if name in wanted or not once or not same or any(j > moved for j in uses):
        return None
    swap = {Expr("var", (), name): let.expr}
    done = [
        replace(x, expr=substitute(x.expr, swap)) if j in uses else x for j, x in enumerate(behind)
    ]
    return [*out[:i], *done]


def without_aliases(statements: Iterable[Statement], fixed: set[str]) -> list[Statement]:
    """A value that the spec names has that name where it is made, unless it has a ``fixed`` one."""
    out = list(statements)
    i = 0
    while i < len(out):
        s = out[i]
        i += 1
        if not isinstance(s, Let) or s.when is not None or s.expr.op != "var" or len(s.names) > 1:
            continue
        name, made = s.names[0], str(s.expr.attr)
        makers = [x for x in out if isinstance(x, Loop) and made in x.collects]
        once = sum(made in assigned(x) for x in out) == len(makers) == 1
        if once and made not in fixed:
            i -= 1
            out = [renamed(x, {made: name}) for x in out if x is not s]
    return out
