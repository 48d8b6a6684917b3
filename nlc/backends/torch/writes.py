"""Writes that are products, for scans that take the factors: the product itself is never stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace

from nlc.backends.torch.scanned import all_nodes, assigned, reads
from nlc.ir.expr import Expr
from nlc.ir.program import Let, Loop, Parallel
from nlc.ir.scan import Scan

Takes = Callable[[Scan], bool]


def factored(s: Parallel, takes: Takes) -> Parallel:
    """Writes that nothing else reads stand in their scans, where these take such."""
    return replace(s, body=_within(s.body, {*s.collects.values()}, takes))


def _within(
    body: tuple[Let | Scan | Loop, ...], kept: Collection[str], takes: Takes
) -> tuple[Let | Scan | Loop, ...]:
    uses = Counter(str(n.attr) for x in body for n in all_nodes(x) if n.op == "var")
    found: dict[str, Let] = {}  # writes, as long as nothing that they read has another value
    out: list[Let | Scan | Loop] = []
    gone: set[str] = set()
    for x in body:
        new = assigned(x)
        if isinstance(x, Let) and _product(x.expr) and x.when is None and uses[x.names[0]] == 1:
            found[x.names[0]] = x
        if isinstance(x, Loop):
            inner = {*x.collects.values(), *x.carries}
            x = replace(x, body=_within(x.body, inner, takes))  # type: ignore[arg-type]
        elif isinstance(x, Scan) and len(x.record.states) == 1:
            write = x.record.write[0]
            name = str(write.attr) if write is not None and write.op == "var" else ""
            if name in found and name not in kept:
                whole = replace(x, record=replace(x.record, write=(found[name].expr,)))
                if takes(whole):
                    x, gone = whole, gone | {name}
        found = {n: let for n, let in found.items() if not new & reads(let)}
        out.append(x)
    return tuple(x for x in out if not (isinstance(x, Let) and x.names[0] in gone))


def _product(e: Expr) -> bool:
    return (e.args[0] if e.op == "neg" else e).op == "mul"
