"""What YAML splits at a comma and nobody meant so: ``{a: f(x, n)}``, ``[linear(x, n)]``, ``{p: 4, 8}``.

An item of a flow collection is one node of a list, or the key and the value of a mapping.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

from nlc.base.diagnostics import Fix, Report
from nlc.base.span import Span
from nlc.syntax.yamlnodes import Node, Scalar
from nlc.syntax.yamlplace import balance, cut, quoted

_PIECES = 64  # that an unquoted expression may have been split into
_TUPLE = re.compile(r"\(([^()\n]*,[^()\n]*)\)")
_NUMBER = re.compile(r"-?[\d.]+(?:e-?\d+)?")

Item = tuple[Node, ...]


def rejoined(items: list[Item], report: Report) -> Iterator[Item]:
    """Items of a flow collection, what YAML split at a comma made whole again."""
    i = 0
    while i < len(items):
        item = items[i]
        which, open_brackets = _last_text(item)
        until = i
        while open_brackets > 0 and until + 1 < len(items) and until - i < _PIECES:
            until += 1
            open_brackets += sum(balance(n.text) for n in items[until] if _plain(n))
        numbers = _numbers_behind(items, i)
        if numbers > i:
            yield item[0], _listed(_span(item[1], items[numbers]), report)
            i = numbers
        elif until > i and open_brackets == 0:
            joined = _joined(_span(item[which], items[until]), which < len(item) - 1, report)
            yield (*item[:which], joined, *item[which + 1 :])
            i = until
        else:
            yield item
        i += 1


def one_call(items: list[Item]) -> Span | None:
    """Of a list that is one call, split at its commas: the call."""
    if not 1 < len(items) <= _PIECES or not all(_plain(node) for node, *_ in items):
        return None
    depths = list(accumulate(balance(node.text) for node, *_ in items))
    span = _span(items[0][0], items[-1])
    whole = min(depths[:-1]) > 0 and depths[-1] == 0 and not span.text.startswith("(")
    return span if whole else None


def in_brackets(call: Span, span: Span, report: Report) -> Scalar:
    """``[linear(x, n)]``: whether a value or a list of one was meant is not known."""
    report.add(
        "NLC005",
        "YAML splits this expression at its comma",
        span,
        "in YAML, `[` starts a list",
        helps=[f"write `{cut(call.text)}` without the brackets, or quoted in them if it is a size"],
    )
    return Scalar(call.text, span, "", broken=True)


def _listed(span: Span, report: Report) -> Scalar:
    """``periods: 4, 8`` in a flow mapping."""
    fix = Fix(span, f"[{span.text}]")
    message, help = "YAML splits this list at its comma", f"write `{cut(fix.replacement)}`"
    report.add("NLC005", message, span, "brackets keep it whole", helps=[help], fix=fix)
    return Scalar(span.text, span, "", broken=True)


def _joined(span: Span, alone: bool, report: Report) -> Scalar:
    if tuple_ := _TUPLE.fullmatch(span.text):
        fix = Fix(span, f"[{tuple_[1]}]")
        label = f"a list is written `{fix.replacement}`"
        report.add("NLC011", "round brackets hold one value", span, label, fix=fix)
        return Scalar(span.text, span, "", broken=True)
    fix = Fix(span, quoted(span.text))
    report.add(
        "NLC005",
        "YAML splits this expression at its comma",
        span,
        "quote this expression",
        helps=[f"write `{fix.replacement}`"],
        fix=fix,
    )
    broken = alone or "\n" in span.text or ": " in span.text
    return Scalar(span.text, span, "", broken)


def _numbers_behind(items: list[Item], at: int) -> int:
    """The last of the numbers that stand as keys without a value behind a number."""
    pair, last = items[at], at
    if len(pair) < 2 or not _plain(pair[1]) or not _NUMBER.fullmatch(pair[1].text):
        return at
    while last + 1 < len(items):
        key, value = items[last + 1]
        if not (_plain(key) and _NUMBER.fullmatch(key.text) and _plain(value) and not value.text):
            break
        last += 1
    return last


def _plain(node: Node) -> bool:
    return isinstance(node, Scalar) and not node.style and not node.broken


def _last_text(item: Item) -> tuple[int, int]:
    """Which part of an item ends it (its value, or a key without one), and its open brackets."""
    which = len(item) - 1
    last = item[which]
    if which and isinstance(last, Scalar) and not last.text and not last.style:
        which, last = 0, item[0]
    return which, balance(last.text) if _plain(last) else 0


def _span(first: Node, last: Item) -> Span:
    return Span(first.span.source, first.span.start, max(node.span.end for node in last))
