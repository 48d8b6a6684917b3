"""A mistake of YAML -> the same in our words, at the place that causes it.

YAML's own messages speak of its scanner. Nearly always an expression needs quotes, or a line is
indented by the wrong number of spaces.
"""

from __future__ import annotations

import re
from functools import cache

import yaml

from nlc.base.diagnostics import Fix, Label, Report
from nlc.base.span import Source
from nlc.syntax.foreign import LAMBDA, no_lambda
from nlc.syntax.schema import Level, Spec, keys_of, takes
from nlc.syntax.yamlplace import PAIRS, Place, balance, entry_of, line_at, place_of, quoted
from nlc.syntax.yamlstructure import never_closed, no_key, structure, without_colon

_ENTRIES = re.compile(r"\w+: [^,:(]+(?:, *\w+: [^,:(]+)+")  # without brackets, which have commas
_ARGUMENT = re.compile(r"([(,] *)(\w+): +(?=\S)")
_HEADER = re.compile(r"[|>][-+0-9]{0,2}(?:\s+#.*)?$")
_STARTS = {
    "-": "`- ` starts a list",
    "|": "`|` starts a block of text",
    ">": "`>` starts a block of text",
    "*": "`*` names an alias",
    "@": "`@` is reserved",
    "`": "this character is reserved",
    "%": "`%` starts a directive",
    "?": "`? ` starts a key",
    "{": "`{` starts a mapping",
    "[": "`[` starts a list",
    "&": "`&` names an anchor",
    "!": "`!` names a tag",
    ",": "`,` separates entries",
    "}": "`}` closes a mapping",
    "]": "`]` closes a list",
}

Region = tuple[int, int]


def explain(
    source: Source, text: str, error: yaml.MarkedYAMLError, report: Report
) -> Region | None:
    """Reports the mistake; returns the value to leave out so that the rest can be read, or None."""
    place = place_of(source, text, error)
    problem = error.problem or ""
    if (
        "end of stream" in problem
        and "quoted" in (error.context or "")
        and place.context is not None
    ):
        return _open_quote(place, text, report)
    if place.context is not None and never_closed(place, place.context, problem, report):
        return None
    mark = error.context_mark if "simple key" in (error.context or "") else None
    above = (
        mark is not None and error.problem_mark is not None and mark.line < error.problem_mark.line
    )
    if (
        place.entry is not None and not above
    ):  # a line above that is no key is no mistake of this value
        region = _value(place, problem, report)
        if region is not None:
            return region
    structure(place, problem, report)
    return None


# ----------------------------------------------------------------------------------------- values


def _value(place: Place, problem: str, report: Report) -> Region | None:
    """A mistake within the value of a line ``key: value``."""
    entry = place.entry
    assert entry is not None
    first = entry.value[0]
    inside = entry.start <= place.at < entry.end
    if without_colon(entry.key):
        start = place.line_start + len(place.line) - len(place.line.lstrip())
        no_key(place.span(start, entry.end), report)
    elif entry.key in _prose() and first not in "\"'" and inside and not _HEADER.match(entry.value):
        why = _STARTS.get(first) or "`: ` starts a value"
        _needs_quotes(place, why, report, "text")
    elif "escape" in problem:
        report.add(
            "NLC003",
            "double quotes read `\\` as an escape, and this is none",
            place.span(place.source.text.rfind("\\", 0, place.at + 1), place.at + 1),
            helps=["use single quotes, which take every character as it is"],
        )
    elif first in "\"'":
        report.add(
            "NLC003",
            "text stands behind the closing quote",
            place.rest,
            "the quoted text has ended before this",
            helps=[
                "quote the whole value; in single quotes a quote is written twice: `'it''s'`",
            ],
        )
    elif (
        first in PAIRS
        and place.source.text[place.at : place.at + 1] in "}])"
        and place.at == entry.end - 1
    ):
        closing, opened = (
            place.source.text[place.at],
            _innermost(place.source.text, entry.start, place.at),
        )
        inner = place.source.text[opened]
        report.add(
            "NLC003",
            f"`{closing}` cannot close `{inner}`",
            place.span(place.at, place.at + 1),
            f"expected `{PAIRS.get(inner, ')')}`",
            related=[Label(place.span(opened, opened + 1), f"`{inner}` is opened here")],
        )
    elif (
        first in PAIRS
        and _closes_at_end(entry.value)
        and place.source.text[place.at : place.at + 1] == ":"
    ):
        report.add(
            "NLC003",
            "a `,` is missing before this entry",
            place.span(place.at, place.at + 1),
            "the value before it goes on to here",
            helps=["separate entries by `,`, or write one `key: value` a line"],
        )
    elif first in PAIRS and _closes_at_end(entry.value):
        report.add(
            "NLC005",
            f"an expression inside `{first} {PAIRS[first]}` needs quotes",
            place.span(place.at, place.at + 1),
            "YAML does not read on from here",
            helps=["quote the expression that has brackets, or write one `key: value` a line"],
        )
    elif first in _STARTS and not _HEADER.match(entry.value):
        _needs_quotes(place, _STARTS[first], report)
    elif "mapping values" in problem and inside:
        _second_colon(place, report)
    else:
        return None
    return entry.start, max(entry.end, entry.start + 1)


def _second_colon(place: Place, report: Report) -> None:
    """``: `` in a value: entries on one line, an argument written as a key, or an expression."""
    entry = place.entry
    assert entry is not None
    arguments = _ARGUMENT.findall(entry.value)
    if (found := LAMBDA.search(entry.value)) is not None:
        start = entry.start + found.start()
        no_lambda(place.span(start, start + len("lambda")), report)
    elif _ENTRIES.fullmatch(f"{entry.key}: {entry.value}"):
        indent = "\n" + " " * (len(place.line) - len(place.line.lstrip()))
        lines = re.sub(r", *(?=\w+: )", indent, entry.value)
        report.add(
            "NLC005",
            "several keys stand on one line",
            place.value,
            "in YAML, all of this is one value",
            helps=["write one `key: value` a line, or `{` and `}` around all of them"],
            fix=Fix(place.value, lines),
        )
    elif arguments and len(arguments) == entry.value.count(": ") and balance(entry.value) == 0:
        written = _ARGUMENT.sub(r"\1\2=", entry.value)
        report.add(
            "NLC005",
            "an argument is given by `=`",
            place.span(place.at, place.at + 1),
            "in YAML, `: ` starts a value",
            helps=[f"write `{entry.key}: {written}`"],
            fix=Fix(place.value, written),
        )
    else:
        _needs_quotes(place, "`: ` starts a value", report)


def _innermost(text: str, start: int, end: int) -> int:
    """Where the bracket is opened that is innermost at ``end``."""
    opened = [start]
    for i in range(start + 1, end):
        if text[i] in "([{":
            opened.append(i)
        elif text[i] in ")]}" and len(opened) > 1:
            opened.pop()
    return opened[-1]


def _closes_at_end(value: str) -> bool:
    """Whether the bracket that a text starts with is closed by its last character."""
    depth = 0
    for i, ch in enumerate(value):
        depth += (ch in "([{") - (ch in ")]}")
        if depth == 0:
            return i == len(value) - 1
    return False


def _needs_quotes(place: Place, why: str, report: Report, what: str = "expression") -> None:
    entry = place.entry
    assert entry is not None
    whole = quoted(entry.value)
    help = f"quote this {what}: `{entry.key}: {whole}`"
    if what == "expression":
        certain = entry.value[0] == "-" and ": " not in entry.value  # as an expression may
        certain = certain and entry.key not in ("rule", "memory")  # which are calls
    else:
        certain = not _goes_on(place)
        help = (
            help if certain else f"write `{entry.key}: >`, and all of the text on the lines below"
        )
    report.add(
        "NLC005",
        f"this {what} needs quotes",
        place.value,
        f"in YAML, {why}",
        helps=[help],
        fix=Fix(place.value, whole) if certain else None,
    )


def _goes_on(place: Place) -> bool:
    """Whether the lines below belong to the value of this one."""
    text, entry = place.source.text, place.entry
    start = text.find("\n", entry.end if entry else place.at) + 1
    below = line_at(text, start) if start else ""
    return bool(below.strip()) and _indent(below) > _indent(place.line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


@cache
def _prose() -> frozenset[str]:
    """The keys that take text for people."""
    models = (Spec, Level)
    return frozenset(k for m in models for k in keys_of(m) if takes(m, k).text == "prose")


def _open_quote(place: Place, text: str, report: Report) -> Region | None:
    assert place.context is not None
    start = text.rfind("\n", 0, place.context) + 1
    line = line_at(text, start)
    report.add(
        "NLC003",
        "this quote is never closed",
        place.span(place.context, place.context + 1),
        "the text ends before the closing quote",
        helps=[f"put {text[place.context]} at the end of the value"],
    )
    entry = entry_of(line, start)
    if entry is None or entry.start != place.context:
        return None
    return entry.start, start + len(line)
