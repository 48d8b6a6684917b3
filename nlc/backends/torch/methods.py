"""Loops of one form as one method: which loops do the same on other variables, and what they differ in."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, replace

from nlc.ir.expr import Expr, rewrite
from nlc.ir.program import Let, Loop
from nlc.ir.scan import Scan
from nlc.ir.types import Dim


@dataclass(frozen=True)
class Method:
    """A loop's body as a method: ``loop`` under the names of the method, which stands for the levels ``levels``.

    ``parameters`` are what stands inside for hypers that differ from call to call, ``short`` what variables are called
    that begin with the name of the one level, ``whose``, that the method is about.
    """

    name: str
    loop: Loop
    carried: tuple[str, ...]
    levels: tuple[str, ...]
    parameters: tuple[str, ...]
    whose: str
    short: dict[str, str]


@dataclass(frozen=True)
class Form:
    """A loop without the names of its variables and the elements of lists that it reads."""

    text: Hashable
    variables: tuple[str, ...]
    hypers: tuple[str, ...]


def form(loop: Loop) -> Form:
    """What loops that can share a method have in common."""
    names: dict[str, int] = {}
    hypers: dict[str, int] = {}
    number = lambda n: names.setdefault(n, len(names))  # noqa: E731
    index = lambda h: hypers.setdefault(h, len(hypers))  # noqa: E731

    def dim(d: Dim) -> Dim:
        return d.substitute({s: Dim.of(f"?{index(s)}") for s in sorted(d.symbols) if "[" in s})

    def bare(e: Expr) -> Expr:
        def rule(n: Expr) -> Expr | None:
            if n.op == "var":
                return replace(n, op="own", attr=(number(n.attr), n.type.dims, n.type.head))
            if n.op == "hyper" and "[" in str(n.attr):
                return replace(n, attr=f"?{index(str(n.attr))}")
            if isinstance(n.attr, Dim):
                return replace(n, attr=dim(n.attr))
            return replace(n, attr=replace(n.attr, scan="")) if n.op == "read" else None

        return rewrite(e, rule)

    text: list[Hashable] = [len(loop.carries), tuple(map(dim, loop.periods)), bool(loop.counter)]
    for x in loop.body:
        if isinstance(x, Let):
            when = x.when and replace(x.when, period=dim(x.when.period))
            text.append((bare(x.expr), tuple(map(number, x.names)), when))
        elif isinstance(x, Scan):
            record = replace(x.record.map(bare), states=())
            text.append((record, tuple(map(number, x.record.states)), x.read))
    ends = (loop.carries, loop.slices.values(), loop.collects.values(), *loop.stacks.values())
    text += [tuple(map(number, group)) for group in ends[:3]]
    text.append(tuple((number(k), len(v)) for k, v in loop.stacks.items()))
    return Form(tuple(text), tuple(names), tuple(hypers))


def shared_names(groups: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """For each variable of the first of several loops the name that fits all: what their names begin and end with."""
    out: dict[str, str] = {}
    taken: set[str] = set()
    for names in groups:
        name = _common(names)
        while name in taken:
            name += "_"
        taken.add(name)
        out[names[0]] = name
    return out


def owner_of(levels: list[str]) -> str:
    """What levels are called together: the one, or what all their names begin with; "" where that is nothing."""
    return "_".join(_same([x.split("_") for x in levels])) if levels else ""


def without_owner(names: Collection[str], whose: str, taken: Collection[str]) -> dict[str, str]:
    """Names that begin with whose they are as what is left of them, where that is no other name."""
    out: dict[str, str] = {}
    for n in names:
        left = n.removeprefix(f"{whose}_")
        left += "_" * (left in taken)
        if left != n and left.isidentifier() and left not in {*names, *out.values(), *taken}:
            out[n] = left
    return out


def _common(names: tuple[str, ...]) -> str:
    """``C_1_W1`` and ``C_2_W1`` as ``C_W1``, ``h_0`` and ``h_1`` as ``h``."""
    if len(set(names)) == 1:
        return names[0]
    words = [n.split("_") for n in names]
    start = _same(words)
    rest = [w[len(start) :] for w in words]
    end = _same([w[::-1] for w in rest])[::-1]
    return "_".join([*start, *end]) or names[0]


def _same(words: list[list[str]]) -> list[str]:
    out = []
    for w in zip(*words):
        if len(set(w)) > 1:
            break
        out.append(w[0])
    return out


def renamed_hypers(loop: Loop, names: dict[str, str]) -> Loop:
    """A loop whose elements of lists are parameters of its method."""
    dims = {old: Dim.of(new) for old, new in names.items()}

    def each(e: Expr) -> Expr:
        def rule(n: Expr) -> Expr | None:
            if n.op == "hyper" and n.attr in names:
                return replace(n, attr=names[n.attr])
            return replace(n, attr=n.attr.substitute(dims)) if isinstance(n.attr, Dim) else None

        return rewrite(e, rule)

    def note(text: str) -> str:
        for old, new in names.items():
            text = text.replace(old, new)
        return text

    body = []
    for x in loop.body:
        if isinstance(x, Let):
            when = x.when and replace(x.when, period=x.when.period.substitute(dims))
            body.append(replace(x, expr=each(x.expr), note=note(x.note), when=when))
        elif isinstance(x, Scan):
            body.append(replace(x, record=x.record.map(each), note=note(x.note)))
    return replace(loop, body=tuple(body), periods=tuple(p.substitute(dims) for p in loop.periods))


def under_names(loop: Loop, names: dict[str, str]) -> Loop:
    """A loop under other names, inside and outside."""
    if not names:
        return loop

    def each(e: Expr) -> Expr:
        def rule(n: Expr) -> Expr | None:
            if n.op == "var" and n.attr in names:
                return replace(n, attr=names[n.attr])
            if n.op == "read" and n.attr.scan in names:
                return replace(n, attr=replace(n.attr, scan=names[n.attr.scan]))
            return None

        return rewrite(e, rule)

    new = lambda v: names.get(v, v)  # noqa: E731
    body = []
    for x in loop.body:
        if isinstance(x, Let):
            body.append(replace(x, names=tuple(map(new, x.names)), expr=each(x.expr)))
        elif isinstance(x, Scan):
            states = tuple(map(new, x.record.states))
            record = replace(x.record.map(each), states=states)
            body.append(replace(x, record=record, name=new(x.name)))
    pairs = lambda d: {new(o): new(i) for o, i in d.items()}  # noqa: E731
    return replace(
        loop,
        body=tuple(body),
        carries=tuple(map(new, loop.carries)),
        slices=pairs(loop.slices),
        collects=pairs(loop.collects),
        stacks={new(k): v for k, v in loop.stacks.items()},
    )
