"""Statements of a program as data: what they read, the same under other names, only those that are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.program import Let, Loop, Parallel, Return
from nlc.ir.scan import Scan
from nlc.ir.types import TOKEN, Clock
from nlc.passes.naming import Names
from nlc.passes.share import share

Statement = Let | Scan | Loop
SLOW: Clock = replace(  # stands for any clock slower than tokens
    TOKEN, count=TOKEN.count + TOKEN.count, default=2 * TOKEN.default
)


def expressions(s: object) -> Iterator[Expr]:
    """The expressions of a statement, and of those within it."""
    if isinstance(s, Let):
        yield s.expr
    elif isinstance(s, Scan):
        yield from s.record.parts
    elif isinstance(s, Loop | Parallel):
        for x in (*s.first, *s.body):
            yield from expressions(x)
    elif isinstance(s, Return):
        yield from s.outputs.values()


def nodes(s: object) -> Iterator[Expr]:
    """Every node of its expressions."""
    for e in expressions(s):
        yield from walk(e)


def reads(s: object) -> set[str]:
    """The variables that it reads."""
    out = set()
    for n in nodes(s):
        if n.op == "var":
            out.add(str(n.attr))
        elif n.op == "read":
            out.add(n.attr.scan)
    for x in _within(s):
        if isinstance(x, Scan):
            out |= set(x.record.states)
        elif isinstance(x, Loop | Parallel):
            out |= {*x.slices, *x.collects.values(), *getattr(x, "carries", ())}
        elif isinstance(x, Return):
            out |= set(x.slots.values())
    return out


def assigned(s: object) -> set[str]:
    """The variables that have another value behind it."""
    if isinstance(s, Let):
        return set(s.names)
    if isinstance(s, Scan):
        return {s.name, *s.record.states}
    return {*s.carries, *s.collects} if isinstance(s, Loop) else set()


def _within(s: object) -> Iterator[object]:
    yield s
    if isinstance(s, Loop | Parallel):
        for x in s.body:
            yield from _within(x)


def mapped(s: Statement, each: Callable[[Expr], Expr]) -> Statement:
    """The statement with every expression of its own rewritten."""
    if isinstance(s, Let):
        return replace(s, expr=each(s.expr))
    if isinstance(s, Scan):
        return replace(s, record=s.record.map(each))
    return replace(s, body=tuple(mapped(x, each) for x in s.body))


def renamed(s: Statement, names: Mapping[str, str]) -> Statement:
    """The statement under other names."""

    def each(e: Expr) -> Expr:
        named = lambda n: n.op == "var" and n.attr in names  # noqa: E731
        return rewrite(e, lambda n: replace(n, attr=names[n.attr]) if named(n) else None)

    if isinstance(s, Loop):  # inside and outside have the same names
        both = lambda pairs: {names.get(o, o): names.get(i, i) for o, i in pairs.items()}  # noqa: E731
        body = tuple(renamed(x, names) for x in s.body)
        return replace(s, slices=both(s.slices), collects=both(s.collects), body=body)
    s = mapped(s, each)
    return replace(s, names=tuple(names.get(n, n) for n in s.names)) if isinstance(s, Let) else s


def timed(e: Expr, moves: Callable[[Expr], bool]) -> Expr:
    """Types with the clock of tokens where there is a value for each token, and a slower one elsewhere."""
    token: dict[int, bool] = {}
    done: dict[int, Expr] = {}
    for n in walk(e):
        if n.op in ("first_token", "last_token"):
            token[id(n)] = False
        elif n.op in ("read", "spread", "unit_keys"):
            token[id(n)] = True
        elif n.op == "var":
            token[id(n)] = n.type.clock.batched and moves(n)
        else:
            token[id(n)] = any(token[id(a)] for a in n.args)
        new = n.with_args(tuple(done[id(a)] for a in n.args))
        kind = n.type
        if kind is not None and (kind.clock.batched or token[id(n)]):
            kind = kind.at(TOKEN if token[id(n)] else SLOW)
        done[id(n)] = new.with_type(kind)
    return done[id(e)]


def needed(statements: Iterable[Statement], wanted: set[str]) -> list[Statement]:
    """Without statements that nothing reads."""
    out: list[Statement] = []
    live = set(wanted)
    for s in reversed(list(statements)):
        if isinstance(s, Let) and not live & set(s.names):
            continue
        out.append(s)
        live |= reads(s)
    return out[::-1]


def shared(statements: Iterable[Statement], names: Names) -> list[Statement]:
    """What is computed twice between two scans or loops is named once."""
    out: list[Statement] = []
    run: list[Let] = []
    for s in statements:
        if isinstance(s, Let):
            run.append(s)
            continue
        out += share(run, names)
        run = []
        if isinstance(s, Loop) and s.periods:
            s = replace(s, body=tuple(shared(s.body, names)))
        out.append(s)
    return out + share(run, names)
