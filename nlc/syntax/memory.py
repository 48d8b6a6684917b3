"""The key ``memory`` of a level -> its tree: a call such as ``matrix(dv, dk)``, or states written out with a read."""

from __future__ import annotations

import re
from dataclasses import replace

from nlc.base.diagnostics import Fix, Label, Report, nearest
from nlc.ir.expr import Expr
from nlc.syntax.foreign import READS
from nlc.syntax.schema import InlineMemory, choices_of
from nlc.syntax.tree import MemoryTree
from nlc.syntax.values import Entry, choice, expression, is_map, name, named, size
from nlc.syntax.yamlnodes import Scalar, Sequence
from nlc.syntax.yamlplace import cut

_FORWARD = re.compile(r"_*(\w+?)_*\(.*\)")
_READ = re.compile(r"\s*read\s*(?:\((?P<params>.*)\))?\s*", re.DOTALL)


def memory(entry: Entry, report: Report) -> MemoryTree | None:
    """A call, or the states and the read written out; None if it cannot be read."""
    if isinstance(entry.node, Sequence) and entry.node.flow:
        return _sizes_alone(entry, report)
    if not is_map(entry):
        call = expression(entry, report)
        return None if call is None else MemoryTree(entry.node.span, call)
    where = f"the memory of {entry.where}"
    items = [Entry(key, node, where) for key, node in entry.node.entries]
    reads = [item for item in items if _READ.fullmatch(item.key.text)]
    if not reads and (other := next(filter(_reads, items), None)):
        items.remove(other)
        reads = [_forward(other, report)]
    keys = {item.key.text: item for item in items if item.key.text == "dtype"}
    states = [item for item in items if item not in reads and item.key.text not in keys]
    fields = named(states, report, lambda entry, given: size(entry, given, report))
    params, read = _read(reads, entry, where, report)
    dtype = None
    if "dtype" in keys:
        dtype = choice(keys["dtype"], choices_of(InlineMemory, "dtype"), report)
    return MemoryTree(entry.node.span, None, fields, params, read, dtype)


def _forward(entry: Entry, report: Report) -> Entry:
    """``forward(z)`` for ``read(z)``."""
    start = entry.key.text.index("(")
    meant = f"read{entry.key.text[start:]}"
    report.add(
        "NLC101",
        f"unknown key `{cut(entry.key.text)}` in {entry.where}",
        entry.key.span,
        f"did you mean `{meant}`?",
        fix=Fix(entry.key.span, meant),
    )
    return Entry(replace(entry.key, text=meant), entry.node, entry.where)


def _sizes_alone(entry: Entry, report: Report) -> None:
    """``memory: [dv, dk]``: which memory has these sizes?"""
    if any(d.span.start == entry.node.span.start for d in report.diagnostics):
        return  # it has a tag, say
    items = entry.node.items if isinstance(entry.node, Sequence) else ()
    sizes = [item.text for item in items if isinstance(item, Scalar)]
    kind = {1: "vector", 2: "matrix"}.get(len(sizes) if len(sizes) == len(items) else 0)
    meant = f"{kind}({', '.join(sizes)})" if kind else None
    report.add(
        "NLC103",
        f"{entry.called} takes a memory, not sizes alone",
        entry.node.span,
        f"did you mean `{meant}`?" if meant else "this is a list",
        helps=[
            "for example `matrix(dv, dk)`, or states written out: `{W: [n, n], read(z): W @ z}`"
        ],
        fix=Fix(entry.node.span, meant) if meant else None,
    )


def _read(
    reads: list[Entry], memory: Entry, where: str, report: Report
) -> tuple[tuple[str, ...], Expr | None]:
    """``read(z): e``: the names it binds, and e."""
    if not reads:
        help = "add `read(z)`: what the memory answers to z"
        report.add("NLC102", f"{where} has no `read(z)`", memory.key.span, helps=[help])
        return (), None
    for again in reads[1:]:
        first = Label(reads[0].key.span, "first said here")
        report.add(
            "NLC002", f"{where} has two reads", again.key.span, "again here", related=[first]
        )
    key = reads[0].key
    match = _READ.fullmatch(key.text)
    if not match or not (match["params"] or "").strip():
        help = "write `read(z): …`, where z is what the memory is asked with"
        report.add("NLC103", "`read` does not name what it is asked", key.span, helps=[help])
        return (), None
    params, at = [], match.start("params")
    for written in match["params"].split(","):
        blank = len(written) - len(written.lstrip())
        piece = key.part(at + blank, at + max(blank, len(written.rstrip())))
        params.append(name(piece, report))
        at += len(written) + 1
    known = tuple(p.name for p in params if p is not None)
    return known, expression(reads[0], report)


def _reads(entry: Entry) -> bool:
    """Whether a key of a memory stands for ``read(z)``: ``forward(z)``, ``raed(z)``."""
    match = _FORWARD.fullmatch(entry.key.text)
    return match is not None and (match[1] in READS or nearest(match[1], ["read"]) is not None)
