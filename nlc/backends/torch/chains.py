"""Stretches of statements that do the same for one level after another, as a loop over the levels.

Each ends with the call that runs its level's tiles. What one stretch makes of the tokens is what the next one reads:
a continuum memory is a chain of such levels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from nlc.backends.torch.methods import form, shared_names
from nlc.backends.torch.scanned import all_nodes, assigned
from nlc.ir.expr import Expr, rewrite
from nlc.ir.program import Let, Loop
from nlc.ir.scan import Scan

Statement = Let | Scan | Loop
WINDOWED = ("conv", "delay")  # these also return what they carry on


@dataclass(frozen=True)
class Chain:
    """``first`` for each of ``levels``, under the names that a loop has for its variables and hypers.

    ``enters``: what a variable of the loop starts as; ``leaves``: what is read behind the loop, by its variables.
    ``over``: the part of each list that the loop goes over, as the text of a slice.
    """

    first: tuple[Let | Loop, ...]
    levels: tuple[str, ...]
    names: dict[str, str]
    enters: dict[str, str]
    leaves: dict[str, str]
    hypers: dict[str, str]
    over: dict[str, str]


@dataclass(frozen=True)
class _Stretch:
    """What a loop over levels has instead of names, and the variables and hypers that it has them for."""

    text: tuple[object, ...]
    variables: tuple[str, ...]
    hypers: tuple[str, ...]


def chained(
    body: Iterable[Statement],
    level: Callable[[Loop], str | None],
    lists: Mapping[str, int],
    keys: Mapping[str, str],
    kept: Iterable[str],
    taken: Collection[str],
) -> Iterator[Statement | Chain]:
    """The statements in order, those of a chain as one.

    ``level``: whose tiles a loop runs, where it is one level's. ``lists``: how long hypers are that are lists.
    ``keys``: of the variables of slots. ``kept``: what is read behind the body. ``taken``: all variables.
    """
    left = list(body)
    while left:
        found = _chain(left, level, lists, keys, {*kept}, {*taken})
        if found is None:
            yield left.pop(0)
            continue
        chain, size = found
        yield chain
        del left[:size]


def _chain(
    body: list[Statement],
    level: Callable[[Loop], str | None],
    lists: Mapping[str, int],
    keys: Mapping[str, str],
    kept: set[str],
    taken: set[str],
) -> tuple[Chain, int] | None:
    """The chain that statements begin with, and how many of them it takes."""
    size = next((i for i, x in enumerate(body, 1) if not isinstance(x, Let)), None)
    if size is None:
        return None
    stretches: list[list[Let | Loop]] = []
    for i in range(0, len(body) - size + 1, size):
        part = body[i : i + size]
        if not all(isinstance(x, Let) for x in part[:-1]) or not isinstance(part[-1], Loop):
            break
        stretches.append(part)  # type: ignore[arg-type]
    levels = [level(s[-1]) for s in stretches]  # type: ignore[arg-type]
    read = [_stretch(s, x) for s, x in zip(stretches, levels)]
    count = next((i for i, x in enumerate(read) if x is None or x.text != read[0].text), len(read))
    if count < 2 or len(set(levels[:count])) < count:
        return None
    behind = kept.union(*(_reads(x) for x in body[count * size :]))
    chain = _named(stretches[:count], levels[:count], read[:count], lists, keys, behind, taken)  # type: ignore[arg-type]
    return None if chain is None else (chain, count * size)


def _reads(x: Statement) -> set[str]:
    """The variables that a statement reads; of a loop those that come in."""
    if isinstance(x, Loop):
        return {*x.slices, *x.carries}
    return {str(n.attr) for n in all_nodes(x) if n.op == "var"}


def _stretch(part: list[Let | Loop], level: str | None) -> _Stretch | None:
    """None for what must be written out: a window has a key of its own in the state."""
    if level is None:
        return None
    names: dict[str, int] = {}
    hypers: dict[str, int] = {}
    number = lambda n: names.setdefault(n, len(names))  # noqa: E731
    index = lambda h: hypers.setdefault(h, len(hypers))  # noqa: E731

    def bare(n: Expr) -> Expr | None:
        if n.op == "var":
            return replace(n, op="own", attr=(number(n.attr), n.type.dims, n.type.head))
        if n.op == "hyper" and "[" in str(n.attr):
            return replace(n, attr=f"?{index(str(n.attr))}")
        if isinstance(n.attr, str) and n.attr.startswith(f"{level}."):
            return replace(n, attr=f"?{n.attr.removeprefix(level)}")
        return None

    text: list[object] = []
    for x in part:
        if isinstance(x, Let):
            if x.when is not None or len(x.names) > 1 or x.expr.op in WINDOWED:
                return None
            text.append((rewrite(x.expr, bare), tuple(map(number, x.names))))
            continue
        same = [n == o for o, n in (*x.slices.items(), *x.collects.items())]
        if x.stacks or not all(same):
            return None
        found = form(x)
        text += [found.text, tuple(map(number, found.variables)), tuple(map(index, found.hypers))]
    return _Stretch(tuple(text), tuple(names), tuple(hypers))


def _named(
    stretches: list[list[Let | Loop]],
    levels: list[str],
    read: list[_Stretch],
    lists: Mapping[str, int],
    keys: Mapping[str, str],
    behind: set[str],
    taken: set[str],
) -> Chain | None:
    """The chain, where what goes from stretch to stretch is what a loop can hand on."""
    columns = [*zip(*(r.variables for r in read))]
    inner = [{v for x in s[-1:] for y in x.body for v in assigned(y)} for s in stretches]  # type: ignore[union-attr]
    made = [{v for x in s for v in assigned(x)} - {*keys} for s in stretches]
    new = [c for c in columns if all(v in m for v, m in zip(c, made))]
    called = {c[0]: n for c, n in zip(new, shared_names(new).values())}
    names, enters = dict(called), {}
    for c in columns:
        if c in new or len(set(c)) == 1:
            continue
        if all(v in keys for v in c):
            own = {keys[v].removeprefix(f"{x}.") for v, x in zip(c, levels)}
            if len(own) > 1:
                return None
            continue
        source = next((s for s in new if s[:-1] == c[1:]), None)
        if source is not None:
            names[c[0]] = called[source[0]]
            enters[called[source[0]]] = c[0]
        elif not all(v in within for v, within in zip(c, inner)):
            return None
    if {v for c in new for v in c[:-1]} & behind:
        return None
    if any(called[c[0]] in taken - {*c} for c in new):
        return None
    hypers: dict[str, str] = {}
    over: dict[str, str] = {}
    for row in zip(*(r.hypers for r in read)):
        base = row[0].partition("[")[0]
        if len(set(row)) == 1:
            continue
        start, length = int(row[0].partition("[")[2].rstrip("]")), lists.get(base, 0)
        stop = start + len(row)
        if [*row] != [f"{base}[{i}]" for i in range(start, stop)]:
            return None
        hypers[row[0]] = base.removesuffix("s")
        part = f"[{start or ''}:{stop if stop < length else ''}]"
        over[base] = "" if part == "[:]" else part
    if taken & {*hypers.values()} or len(over) < len(hypers):
        return None
    leaves = {c[-1]: called[c[0]] for c in new if c[-1] in behind}
    return Chain(tuple(stretches[0]), tuple(levels), names, enters, leaves, hypers, over)
