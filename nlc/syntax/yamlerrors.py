"""A mistake of YAML -> the same in our words, at the place that causes it.

YAML's own messages speak of its scanner. Nearly always an expression needs quotes, or a line is
indented by the wrong number of spaces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from nlc.base.diagnostics import Fix, Label, Report
from nlc.base.span import Source, Span

_ENTRY = re.compile(
    r"""(?P<lead>[ ]*(?:-[ ]+)*)
        (?P<key>"[^"\n]*"|'[^'\n]*'|[^\s#:"'{}&*!|>%@`,?-][^#"'\n]*?)
        [ ]*:[ ]+(?P<value>\S.*?)[ \r]*$""",
    re.VERBOSE,
)
_ENTRIES = re.compile(r"\w+: [^,:(]+(?:, *\w+: [^,:(]+)+")  # without brackets, which have commas
_ARGUMENT = re.compile(r"([(,] *)(\w+): +(?=\S)")
_EQUALS = re.compile(r"(\w[\w\[\]]*) *= *(?!=)(\S.*)")
_NO_SPACE = re.compile(r"(\w[\w\[\]]*):(\S.*)")
_NO_COLON = re.compile(r"(\w[\w\[\]]*) +(\w.*)")
_HEADER = re.compile(r"[|>][-+0-9]{0,2}(?:\s+#.*)?$")
_COMMENT = re.compile(r"\s#")
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
_PAIRS = {"{": "}", "[": "]"}

Region = tuple[int, int]


_LONG = 64
_LONGEST = 4000  # a longer line is not looked into


def balance(text: str) -> int:
    """How many brackets of a text stay open."""
    return sum(map(text.count, "([{")) - sum(map(text.count, ")]}"))


def cut(text: str) -> str:
    """A text of the user's short enough to stand in a message."""
    return text if len(text) <= _LONG else text[:_LONG] + "…"


def quoted(text: str) -> str:
    """The text in the quotes of YAML that need no escape in it."""
    if '"' not in text and "\\" not in text:
        return f'"{text}"'
    return "'" + text.replace("'", "''") + "'"


def cut_by_comment(expression: Span, comment: int, report: Report) -> None:
    """An expression with an open bracket that ends at ` #`."""
    report.add(
        "NLC005",
        "YAML cuts this expression at ` #`",
        Span(expression.source, comment, comment + 1),
        "a comment starts here",
        related=[Label(expression, "this has an open bracket")],
        helps=["quote the whole expression, or move the comment behind it"],
    )


@dataclass(frozen=True)
class _Entry:
    """A line ``key: value``; ``start`` and ``end`` are where the value stands."""

    key: str
    value: str
    start: int
    end: int


@dataclass(frozen=True)
class _Place:
    """Where YAML stopped: the line, what stands on it, and the line with content above it."""

    source: Source
    at: int
    line: str
    line_start: int
    entry: _Entry | None
    above: str
    above_start: int
    context: int | None

    def span(self, start: int, end: int) -> Span:
        return Span(self.source, start, min(max(start, end), len(self.source.text)))

    @property
    def rest(self) -> Span:
        """From where YAML stopped to the end of the line."""
        end = self.line_start + len(self.line.rstrip())
        return self.span(self.at, max(end, self.at + 1))

    @property
    def value(self) -> Span:
        assert self.entry is not None
        return self.span(self.entry.start, self.entry.end)


def explain(
    source: Source, text: str, error: yaml.MarkedYAMLError, report: Report
) -> Region | None:
    """Reports the mistake; returns the value to leave out so that the rest can be read, or None."""
    place = _place(source, text, error)
    problem = error.problem or ""
    if (
        "end of stream" in problem
        and "quoted" in (error.context or "")
        and place.context is not None
    ):
        return _open_quote(place, text, report)
    if place.entry is not None:
        region = _value(place, problem, report)
        if region is not None:
            return region
    _structure(place, problem, report)
    return None


# ------------------------------------------------------------------------------------------ where


def _place(source: Source, text: str, error: yaml.MarkedYAMLError) -> _Place:
    mark = error.problem_mark or error.context_mark
    at = min(mark.index if mark else 0, len(text))
    start = text.rfind("\n", 0, at) + 1
    line = _line(text, start)
    above, above_start = "", start
    while above_start > 0 and not _content(above):
        above_start = text.rfind("\n", 0, above_start - 1) + 1
        above = _line(text, above_start)
    context = error.context_mark.index if error.context_mark else None
    entry = _entry(line, start)
    return _Place(source, at, line, start, entry, above, above_start, context)


def _line(text: str, start: int) -> str:
    end = text.find("\n", start)
    return (text[start:] if end < 0 else text[start:end]).rstrip("\r")


def _content(line: str) -> str:
    """A line without its indentation and its comment."""
    comment = _COMMENT.search(" " + line)
    return (line[: comment.start()] if comment else line).strip()


def _entry(line: str, start: int) -> _Entry | None:
    found = _ENTRY.match(line) if len(line) <= _LONGEST else None
    if not found:
        return None
    value = found["value"]
    comment = _COMMENT.search(value)
    if comment and value[0] not in "\"'":
        value = value[: comment.start()].rstrip()
    at = start + found.start("value")
    return _Entry(found["key"], value, at, at + len(value))


# ----------------------------------------------------------------------------------------- values


def _value(place: _Place, problem: str, report: Report) -> Region | None:
    """A mistake within the value of a line ``key: value``."""
    entry = place.entry
    assert entry is not None
    first = entry.value[0]
    if "escape" in problem:
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
    elif first in _PAIRS and _closes_at_end(entry.value):
        report.add(
            "NLC005",
            f"an expression inside `{first} {_PAIRS[first]}` needs quotes",
            place.span(place.at, place.at + 1),
            "YAML does not read on from here",
            helps=["quote the expression that has brackets, or write one `key: value` a line"],
        )
    elif first in _STARTS and not _HEADER.match(entry.value):
        _needs_quotes(place, _STARTS[first], report)
    elif "mapping values" in problem and entry.start <= place.at < entry.end:
        _second_colon(place, report)
    else:
        return None
    return entry.start, max(entry.end, entry.start + 1)


def _second_colon(place: _Place, report: Report) -> None:
    """``: `` in a value: entries on one line, an argument written as a key, or an expression."""
    entry = place.entry
    assert entry is not None
    arguments = _ARGUMENT.findall(entry.value)
    if entry.value.startswith("lambda "):
        report.add(
            "NLC013",
            "`lambda` is not an operator",
            place.span(entry.start, entry.start + len("lambda")),
            "there are no functions but those of the language",
            helps=["name an expression with `let`, or write a memory with `read(z)`"],
        )
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


def _closes_at_end(value: str) -> bool:
    """Whether the bracket that a text starts with is closed by its last character."""
    depth = 0
    for i, ch in enumerate(value):
        depth += (ch in "([{") - (ch in ")]}")
        if depth == 0:
            return i == len(value) - 1
    return False


def _needs_quotes(place: _Place, why: str, report: Report) -> None:
    entry = place.entry
    assert entry is not None
    whole = quoted(entry.value)
    begins = entry.value[0] in "-[" and ": " not in entry.value  # so may an expression
    report.add(
        "NLC005",
        "this expression needs quotes",
        place.value,
        f"in YAML, {why}",
        helps=[f"quote this expression: `{entry.key}: {whole}`"],
        fix=Fix(place.value, whole) if begins else None,
    )


def _open_quote(place: _Place, text: str, report: Report) -> Region | None:
    assert place.context is not None
    start = text.rfind("\n", 0, place.context) + 1
    line = _line(text, start)
    report.add(
        "NLC003",
        "this quote is never closed",
        place.span(place.context, place.context + 1),
        "the text ends before the closing quote",
        helps=[f"put {text[place.context]} at the end of the value"],
    )
    entry = _entry(line, start)
    if entry is None or entry.start != place.context:
        return None
    return entry.start, start + len(line)


# -------------------------------------------------------------------------------------- structure


def _structure(place: _Place, problem: str, report: Report) -> None:
    """A mistake in how the lines fit together."""
    above = _content(place.above)
    above_span = place.span(
        place.above_start + len(place.above) - len(place.above.lstrip()),
        place.above_start + len(place.above.rstrip()),
    )
    indent = place.line_start + len(place.line) - len(place.line.lstrip())
    here = place.span(indent, place.line_start + len(place.line.rstrip()))
    said = _entry(place.above, place.above_start)
    if _COMMENT.search(place.above) and said and balance(said.value) > 0:
        comment = place.above_start + place.above.index("#", said.end - place.above_start)
        cut_by_comment(place.span(said.start, said.end), comment, report)
    elif "could not find expected ':'" in problem or (
        "mapping values" in problem and not (said or above.endswith(":") or not above)
    ):
        span = above_span if "mapping values" in problem else here
        if place.context is not None and "could not" in problem:
            line_end = place.source.text.find("\n", place.context)
            span = place.span(place.context, line_end if line_end >= 0 else place.context + 1)
        _no_key(span, report)
    elif "mapping values" in problem:
        report.add(
            "NLC003",
            "a key cannot stand here",
            here,
            "indented as part of the value above",
            related=[Label(above_span, "this already has a value")] if said else [],
            helps=["indent it like its neighbours, or quote the value above"],
        )
    elif place.line.lstrip().startswith("- ") and said and balance(said.value) > 0:
        report.add(
            "NLC005",
            "this expression needs quotes",
            here,
            "in YAML, a line with `- ` is an item of a list",
            related=[Label(place.span(said.start, said.end), "this has an open bracket")],
            helps=["write the expression on one line, or quote all of it"],
        )
    elif place.line.lstrip().startswith("- ") and place.at <= indent + 1:
        report.add(
            "NLC003",
            "a list item cannot stand here",
            here,
            "keys stand beside it",
            helps=["write `key: value`, or indent the list under its key"],
        )
    elif place.at == indent and place.context is not None:
        report.add(
            "NLC003",
            "the indentation of this line fits none above it",
            here,
            f"indented by {indent - place.line_start} spaces",
            helps=["keys of one mapping stand in one column"],
        )
    else:
        opened = place.context
        if opened is not None and _never_closed(place, opened, problem, report):
            return
        related = []
        if (
            opened is not None
            and opened != place.at
            and place.source.text[opened : opened + 1] in "{["
        ):
            related = [Label(place.span(opened, opened + 1), "opened here")]
        report.add(
            "NLC003",
            "YAML cannot read this",
            place.rest,
            "",
            related=related,
            helps=["quote the expression, or write one `key: value` a line"],
        )


def _no_key(span: Span, report: Report) -> None:
    """A line without a key: written with `=`, or without the space or the colon that YAML wants."""
    text, fix = span.text.strip(), None
    if match := _EQUALS.fullmatch(text):
        label, fix = "YAML gives a value by `: `", f"{match[1]}: {match[2]}"
    elif match := _NO_SPACE.fullmatch(text):
        label, fix = "a space is missing behind the `:`", f"{match[1]}: {match[2]}"
    else:
        label = "expected a key"
    help = f"write `{cut(fix)}`" if fix else "write `key: value`"
    if fix is None and (match := _NO_COLON.fullmatch(text)):
        help = f"write `{match[1]}: {cut(match[2])}`"
    elif fix is None and re.fullmatch(r"\w+", text):
        help = f"write `{text}:`"
    whole = Span(span.source, span.start, span.start + len(span.text.rstrip()))
    report.add(
        "NLC003",
        "this line is no `key: value`",
        span,
        label,
        helps=[help],
        fix=Fix(whole, fix) if fix else None,
    )


def _never_closed(place: _Place, opened: int, problem: str, report: Report) -> bool:
    """Says so if the line of an opening bracket ends before it is closed."""
    bracket = place.source.text[opened]
    if bracket not in _PAIRS or f"or '{_PAIRS[bracket]}'" not in problem:
        return False
    start = place.source.text.rfind("\n", 0, opened) + 1
    line = _line(place.source.text, start)
    if start == place.line_start or balance(line) != 1:
        return False
    end = start + len(line.rstrip())
    comment = _COMMENT.search(line)
    if comment:
        end = start + len(line[: comment.start()].rstrip())
    closing = _PAIRS[bracket]
    report.add(
        "NLC003",
        f"`{bracket}` is never closed",
        place.span(opened, opened + 1),
        f"expected `{closing}` on this line",
        helps=[f"write `{cut(place.source.text[start:end].strip())}{closing}`"],
        fix=Fix(place.span(end, end), closing),
    )
    return True
