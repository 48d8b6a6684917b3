"""Keys and queries as kernels take them: what is done to them on the way in, and heads that share them.

Both are read off the program: what a scan and its reads take, and nothing else, need not be made before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from nlc.backends.torch.scanned import all_nodes
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.ops import elementwise, pointwise, rowwise
from nlc.ir.program import Let, Loop, Parallel, Program, Return
from nlc.ir.scan import Scan
from nlc.ir.types import Dim


def lengths(program: Program) -> tuple[Program, dict[str, Expr]]:
    """The program with what its kernels bring to length one as it is before, and the scans that do, by their states.

    The keys of a scan and the queries of all its reads must be of length one for nothing else, with the same eps.
    """
    at = next((i for i, x in enumerate(program.body) if isinstance(x, Parallel)), None)
    if at is None:
        return program, {}
    parallel: Parallel = program.body[at]  # type: ignore[assignment]
    if not all(narrow(x) for x in parallel.body):
        return program, {}
    norms = {
        x.names[0]: x.expr
        for x in program.body[:at]
        if isinstance(x, Let) and x.expr.op == "l2norm" and x.expr.args[1].op == "num"
    }
    elsewhere = read_by((*program.body[:at], *parallel.first, *program.body[at + 1 :]))
    norms = {n: e for n, e in norms.items() if n not in elsewhere}
    kept = {*parallel.collects.values()}
    inner = {i: norms[o] for o, i in parallel.slices.items() if o in norms and i not in kept}
    uses = Counter(str(n.attr) for x in parallel.body for n in all_nodes(x) if n.op == "var")
    eps: dict[str, Expr] = {}
    gone: set[str] = set()
    for x in parallel.body:
        if isinstance(x, Scan) and (found := _brought(x, parallel, inner, uses)):
            eps[x.record.states[0]] = found[0]
            gone |= {o for o, i in parallel.slices.items() if i in found[1]}
    body = [
        replace(x, expr=x.expr.args[0]) if isinstance(x, Let) and x.names[0] in gone else x
        for x in program.body
    ]
    return replace(program, body=tuple(body)), eps


def read_by(statements: Iterable[object]) -> set[str]:
    """The variables that statements read."""
    found: set[str] = set()
    for x in statements:
        exprs = [x.expr] if isinstance(x, Let) else []
        if isinstance(x, Return):
            exprs = [*x.outputs.values()]
            found |= {*x.slots.values()}
        elif isinstance(x, Loop | Parallel):
            found |= {*x.slices, *getattr(x, "carries", ())} | read_by((*x.first, *x.body))
        elif isinstance(x, Scan):
            exprs = [*x.record.parts]
        found |= {str(n.attr) for e in exprs for n in walk(e) if n.op == "var"}
    return found


def _brought(
    scan: Scan, parallel: Parallel, inner: dict[str, Expr], uses: Counter[str]
) -> tuple[Expr, set[str]] | None:
    """The eps and the variables that the kernels of a scan can bring to length one, if all can be."""
    r = scan.record
    reads = [n for x in parallel.body for n in all_nodes(x) if n.op == "read"]
    mine = [n for n in reads if n.attr.scan == scan.name]
    vectors = [r.key, *(n.args[0] if n.args else None for n in mine)]
    if (
        r.kind not in ("none", "scalar")
        or r.probe is not None
        or any(n.attr.transposed for n in mine)
    ):
        return None
    if any(e is None or e.op != "var" or e.attr not in inner for e in vectors):
        return None
    names = Counter(str(e.attr) for e in vectors if e is not None)
    eps = {inner[n].args[1] for n in names}
    if len(eps) != 1 or any(uses[n] != count for n, count in names.items()):
        return None
    return eps.pop(), set(names)


def groups(program: Program) -> tuple[Program, set[str]]:
    """The program with keys and queries that heads of a group share made once a group, and the scans that take them so,
    by their states.

    They are vectors that ``split`` makes for groups, and what is made of them alone, vector by vector. All that a scan
    and its reads take must be so, with as many groups.
    """
    at = next((i for i, x in enumerate(program.body) if isinstance(x, Parallel)), None)
    if at is None:
        return program, set()
    parallel: Parallel = program.body[at]  # type: ignore[assignment]
    lets = [x for x in program.body[:at] if isinstance(x, Let)]
    apart = [x for x in program.body[:at] if not isinstance(x, Let)]
    never = read_by((*apart, *parallel.first, *program.body[at + 1 :]))
    never |= {o for o, i in parallel.slices.items() if i in parallel.collects.values()}
    while True:
        found: dict[str, Dim] = {}
        for x in lets:
            if (count := _grouped(x.expr, found)) is not None and x.names[0] not in never:
                found[x.names[0]] = count
        inner = {i: found[o] for o, i in parallel.slices.items() if o in found}
        states, taken = _sharing(parallel, inner)
        kept = {o for o, i in parallel.slices.items() if i in inner and i not in taken}
        for x in lets:
            if x.names[0] not in found:
                kept |= read_by([x]) & found.keys()
        if not kept:
            break
        never |= kept
    once = lambda n: replace(n, op="groups") if n.op == "split" and n.attr is not None else None  # noqa: E731
    body = [
        replace(x, expr=rewrite(x.expr, once)) if isinstance(x, Let) and x.names[0] in found else x
        for x in program.body
    ]
    return replace(program, body=tuple(body)), states


def _grouped(e: Expr, found: dict[str, Dim]) -> Dim | None:
    """How many groups share what an expression gives vector by vector; None where heads have their own."""
    counts: set[Dim | None] = set()
    for n in walk(e):
        if not n.type.head:
            continue
        if n.op == "split":
            counts.add(n.attr)  # type: ignore[arg-type]
        elif n.op == "var":
            counts.add(found.get(str(n.attr)))
        elif not n.args or not (elementwise(n.op) or pointwise(n.op) or rowwise(n.op)):
            counts.add(None)
    return counts.pop() if len(counts) == 1 else None


def _sharing(parallel: Parallel, inner: dict[str, Dim]) -> tuple[set[str], set[str]]:
    """The states of scans all of whose keys and queries are ``inner``, and those that nothing else takes."""
    uses = Counter(str(n.attr) for x in parallel.body for n in all_nodes(x) if n.op == "var")
    reads = [n for x in parallel.body for n in all_nodes(x) if n.op == "read"]
    states: set[str] = set()
    taken: Counter[str] = Counter()
    for x in parallel.body:
        if not isinstance(x, Scan) or x.record.rank != 2:
            continue
        r, mine = x.record, [n for n in reads if n.attr.scan == x.name]
        if r.kind == "channel" and r.erases and r.probe is None:
            continue  # where a decay by channel is no part of what is erased, probes have all heads
        probed = r.probe is not None and (r.kind != "channel" or r.decayed)
        vectors = [r.key, *[r.probe] * probed, *(n.args[0] for n in mine if n.args)]
        names = [str(e.attr) if e is not None and e.op == "var" else "" for e in vectors]
        alike = len({inner.get(n) for n in names}) == 1 and names[0] in inner
        if alike and all(n.args and not n.attr.transposed for n in mine):
            states.add(r.states[0])
            taken.update(names)
    return states, {n for n in inner if uses[n] == taken[n]}


def narrow(x: Let | Scan | Loop) -> bool:
    """Whether a statement does nothing to vectors in half precision that a kernel does not sum in float32."""
    if isinstance(x, Scan):
        r = x.record
        return r.rank == 2 and r.kind in ("none", "scalar", "channel") and not any(r.start)
    if not isinstance(x, Let):
        return False
    return x.expr.op == "made" or all(_plain(n) for n in walk(x.expr))


def _plain(n: Expr) -> bool:
    return (
        n.op in ("var", "num", "hyper", "read", "clip", "spread")
        or elementwise(n.op)
        or pointwise(n.op)
    )
