"""Statements of a tile -> statements: a step of its own for what is read once, and one product where a sum has two.

``apart`` gives what reads each state a statement, so that each can stand with its own. What then came to stand in
one tile is one expression again: it reads as the spec has it, and memories that are read alike are found to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from nlc.ir.expr import Expr, rewrite, substitute, walk
from nlc.ir.ops import add, make, neg, sub
from nlc.ir.program import Let
from nlc.passes.plan.statements import Statement, assigned, nodes, reads

Signed = tuple[bool, Expr]  # a term of a sum, and whether it is taken from it


def joined(body: Iterable[Statement], apart: set[str], kept: set[str]) -> tuple[Statement, ...]:
    """The body of a loop; ``apart`` are names that may go, ``kept`` those that are read outside of it."""
    out = list(body)
    i = 0
    while i < len(out):
        x = out[i]
        if (user := _only_use(out, i, kept)) is not None:
            put = _put(out[user], x)
            if x.names[0] in apart or (put := _one_product(out[user], x)) is not None:
                out[user] = put
                del out[i]
                continue
        i += 1
    return tuple(out)


def _only_use(body: list[Statement], i: int, kept: set[str]) -> int | None:
    """The statement that alone reads what the i-th computes, once, while all that it is made of is as it was."""
    x = body[i]
    if not isinstance(x, Let) or x.when is not None or len(x.names) > 1 or x.names[0] in kept:
        return None
    name = x.names[0]
    if sum(name in assigned(s) for s in body) > 1:
        return None
    users = [j for j, s in enumerate(body) if name in reads(s)]
    if len(users) != 1 or users[0] < i:
        return None
    user = body[users[0]]
    if not isinstance(user, Let) or user.when is not None or _count(user.expr, name) != 1:
        return None
    moved = any(assigned(s) & reads(x) for s in body[i + 1 : users[0]])
    return None if moved else users[0]


def _count(e: Expr, name: str) -> int:
    own = e.op == "var" and e.attr == name
    return own + sum(_count(a, name) for a in e.args)


def _put(user: Statement, x: Let) -> Statement:
    (name,) = x.names
    named = next(n for n in nodes(user) if n.op == "var" and n.attr == name)
    return replace(user, expr=substitute(user.expr, {named: x.expr}))


# ---------------------------------------------------------------------------------------------- products


def _one_product(user: Statement, x: Let) -> Statement | None:
    """``W a - value`` with ``value = b + W c`` as ``W (a - c) - b``; None if they share no matrix."""
    put = _put(user, x)
    before = _products(user.expr) + _products(x.expr)
    expr = rewrite(put.expr, _collected)
    return replace(put, expr=expr) if _products(expr) < before else None


def _products(e: Expr) -> int:
    return sum(n.op == "matmul" for n in walk(e))


def _collected(e: Expr) -> Expr | None:
    """A sum in which what is multiplied with one matrix is added up before."""
    if e.op == "unsqueeze" and e.args[0].op == "squeeze":
        return e.args[0].args[0]
    if e.op not in ("add", "sub"):
        return None
    terms = list(_terms(e))
    matrices = Counter(m for _, t in terms if (m := _matrix(t)) is not None)
    shared = [m for m, n in matrices.items() if n > 1]
    if not shared:
        return None
    out: list[Signed] = []
    for matrix, group in groupby(
        sorted(terms, key=lambda t: _place(t[1], shared)), lambda t: _matrix(t[1])
    ):
        some = list(group)
        out += [_product(some)] if matrix in shared else some
    return _sum(out)


def _terms(e: Expr, minus: bool = False) -> Iterable[Signed]:
    """The terms of a sum of values of one shape."""
    if e.op == "neg":
        yield from _terms(e.args[0], not minus)
    elif e.op in ("add", "sub") and all(a.type.dims == e.type.dims for a in e.args):
        yield from _terms(e.args[0], minus)
        yield from _terms(e.args[1], minus != (e.op == "sub"))
    elif e.op in ("squeeze", "unsqueeze") and e.args[0].op in ("add", "sub", "neg"):
        for sign, t in _terms(e.args[0], minus):
            yield sign, make(e.op, t)
    else:
        yield minus, e


def _matrix(e: Expr) -> Expr | None:
    """The matrix whose product with a vector a term is."""
    e = e.args[0] if e.op == "squeeze" else e
    if e.op == "matmul" and e.args[0].type.rank == 2 and e.args[1].type.rank == 1:
        return e.args[0]
    return None


def _place(e: Expr, shared: list[Expr]) -> int:
    """Products with one matrix stand behind each other, after all other terms."""
    matrix = _matrix(e)
    return shared.index(matrix) if matrix in shared else -1


def _product(terms: list[Signed]) -> Signed:
    """Products with one matrix as one, with the sign of the first."""
    minus, first = terms[0]
    inner = first.args[0] if first.op == "squeeze" else first
    parts = [(t.args[0] if t.op == "squeeze" else t).args[1] for _, t in terms]
    vector = _sum([(sign != minus, v) for (sign, _), v in zip(terms, parts, strict=True)])
    whole = make("matmul", inner.args[0], vector)
    return minus, make("squeeze", whole) if first.op == "squeeze" else whole


def _sum(terms: list[Signed]) -> Expr:
    """The terms added up; one that is added stands first, if there is one."""
    terms = sorted(terms, key=lambda t: t[0]) if terms[0][0] else terms
    minus, total = terms[0]
    total = neg(total) if minus else total
    for sign, t in terms[1:]:
        total = sub(total, t) if sign else add(total, t)
    return total
