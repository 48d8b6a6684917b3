"""Entries below a block's line that was forgotten: they belong to the block above, to YAML.

What they mean is plain where they cannot stand there, and where the spec has no block of the other name: so they are
reported once, and read as if the line stood there.
"""

from __future__ import annotations

import re
from dataclasses import replace

from nlc.base.diagnostics import Fix, Report, nearest
from nlc.base.span import Span
from nlc.ir.constants import FUNCTIONS
from nlc.syntax.yamlnodes import Mapping, Node, Scalar
from nlc.syntax.yamlplace import cut

Entries = list[tuple[Scalar, Node]]

_LET, _ROUTES, _WEIGHTS = "let", "applies_to", "weights"
_SIZES, _CALLS = ("inputs", "outputs", _WEIGHTS), ("use", _ROUTES)  # what is written above these
_ABOVE = ("hyper", *_SIZES, *_CALLS)
_WHAT = {_LET: "an expression", _ROUTES: "a route", _WEIGHTS: "a weight"}
_CALLED = re.compile(r"\(.*\)", re.DOTALL)
_CALL = re.compile(r"([^\W\d]\w*)\s*\(")
_NUMBER = re.compile(r"\b\d[\d.]*(?:e[-+]?\d+)?\b")
_NAME = re.compile(r"[^\W\d]\w*")
_OF_NAMES = re.compile(r"[^\W\d]\w*\s*\(\s*[^\W\d][^=]*\)")  # not `gd(lr=1)`, `gd(1)`
_ARITHMETIC = re.compile(r"[-+*/@]")
_RULE = re.compile(r"self|[^\W\d]\w*\s*\(\s*(?:[^\W\d]\w*\s*=[^=].*)?\)", re.DOTALL)


def headed(root: Mapping, report: Report) -> Mapping:
    """The document with such entries in a block of their own."""
    given = {key.text: node for key, node in root.entries}
    trains = isinstance(given.get("context"), Scalar) and given["context"].text != "tokens"
    hypers = _names(given.get("hyper"))
    missing = [name for name in (_WEIGHTS, _ROUTES, _LET) if name not in given]
    if not trains:
        missing = [name for name in missing if name != _ROUTES]
    for name in missing:
        entries: Entries = []
        for key, node in root.entries:
            at = _first(key.text, node, name, hypers) if name not in given else None
            if at is None or not isinstance(node, Mapping):
                entries.append((key, node))
                continue
            inside, below = node.entries[:at], node.entries[at:]
            _say(name, key, list(below), report)
            start, end = below[0][0].span, below[-1][1].span
            span = Span(start.source, start.start, max(start.end, end.end))
            block = Mapping(below, span)
            entries += [(key, replace(node, entries=inside))] if inside else []
            entries.append((Scalar(name, replace(start, end=start.start)), block))
            given[name] = block
        root = replace(root, entries=tuple(entries))
    return root


def _names(node: Node | None) -> set[str]:
    return {key.text for key, _ in node.entries} if isinstance(node, Mapping) else set()


def _first(block: str, node: Node, name: str, hypers: set[str]) -> int | None:
    """The first entry of a block that plainly stands in one called ``name``."""
    if block not in _ABOVE or not isinstance(node, Mapping) or node.flow:
        return None
    for i, (key, value) in enumerate(node.entries):
        if name == _WEIGHTS and "shape" in _names(value):
            return i
        if name == _LET and "[" in key.text and block not in _CALLS and not _is_constant(value):
            return i  # a let of each member
        if not isinstance(value, Scalar) or value.style or value.broken:
            continue
        text = value.text.strip()
        slipped = text[:1].isdigit() or any(_is_constant(n) for _, n in node.entries[i:])
        if block == "hyper" and slipped:
            continue  # a number with a slip in it, or hypers stand behind
        if name == _ROUTES and _is_route(block, text):
            return i
        alone = i == 0 and block in ("outputs", *_CALLS)  # `outputs` with expressions is `output`
        if name == _LET and not alone and _is_let(block, text, hypers):
            return i
    return None


def _is_constant(node: Node) -> bool:
    return not isinstance(node, Scalar) or not _NAME.search(_NUMBER.sub("", node.text))


def _is_route(block: str, text: str) -> bool:
    return block == "hyper" and bool(_RULE.fullmatch(text)) and not _of_constants(text)


def _is_let(block: str, text: str, hypers: set[str]) -> bool:
    """Whether it computes what no hyper, size, shape, system or route is."""
    called = set(_CALL.findall(text))
    flows = set(_NAME.findall(_NUMBER.sub("", text))) - hypers - called
    if block in _CALLS:
        of_flows = flows and _OF_NAMES.fullmatch(text)  # `adamw(rest_lr)` is a rule
        return bool(of_flows or _ARITHMETIC.search(_CALLED.sub("", text)))
    if not flows:
        return False  # of hypers alone, as sizes and defaults are: `ceil(d / 4)`
    if block in _SIZES:
        return bool(called or _ARITHMETIC.search(text))
    return bool(called) and not _of_constants(text)


def _of_constants(text: str) -> bool:
    """Whether a call in it is a function of constants, perhaps misspelt, as hypers may have."""
    return any(called in FUNCTIONS or nearest(called, FUNCTIONS) for called in _CALL.findall(text))


def _say(name: str, above: Scalar, below: Entries, report: Report) -> None:
    first, others = below[0][0], [cut(key.text) for key, _ in below[1:]]
    line = first.span.source.line_starts[first.span.line - 1]
    head = Span(first.span.source, line, line)
    report.add(
        "NLC103",
        f"`{cut(first.text)}` is {_WHAT[name]}, and stands in `{above.text}`",
        first.span,
        f"a line `{name}:` may be missing above this",
        notes=[f"so do {', '.join(f'`{other}`' for other in others)}"] if others else [],
        fix=Fix(head, f"{name}:\n"),
    )
