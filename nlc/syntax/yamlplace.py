"""Where YAML stopped: the line, what stands on it, and the line with content above it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from nlc.base.diagnostics import Label, Report
from nlc.base.span import Source, Span

ENTRY = re.compile(
    r"""(?P<lead>[ ]*(?:-[ ]+)*)
        (?P<key>"[^"\n]*"|'[^'\n]*'|[^\s#:"'{}&*!|>%@`,?-][^#"'\n]*?)
        [ ]*:[ ]+(?P<value>[^\s\#].*?)[ \r]*$""",
    re.VERBOSE,
)
COMMENT = re.compile(r"\s#")
PAIRS = {"{": "}", "[": "]"}
LONGEST = 4000  # characters of a line that is looked into
_LONG = 64


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
class Entry:
    """A line ``key: value``; ``start`` and ``end`` are where the value stands."""

    key: str
    value: str
    start: int
    end: int


@dataclass(frozen=True)
class Place:
    """Where YAML stopped: the line, what stands on it, and the line with content above it."""

    source: Source
    at: int
    line: str
    line_start: int
    entry: Entry | None
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


def place_of(source: Source, text: str, error: yaml.MarkedYAMLError) -> Place:
    mark = error.problem_mark or error.context_mark
    at = min(mark.index if mark else 0, len(text))
    start = text.rfind("\n", 0, at) + 1
    line = line_at(text, start)
    above, above_start = "", start
    while above_start > 0 and not content(above):
        above_start = text.rfind("\n", 0, above_start - 1) + 1
        above = line_at(text, above_start)
    context = error.context_mark.index if error.context_mark else None
    entry = entry_of(line, start)
    return Place(source, at, line, start, entry, above, above_start, context)


def line_at(text: str, start: int) -> str:
    end = text.find("\n", start)
    return (text[start:] if end < 0 else text[start:end]).rstrip("\r")


def content(line: str) -> str:
    """A line without its indentation and its comment."""
    comment = COMMENT.search(" " + line)
    return (line[: comment.start()] if comment else line).strip()


def entry_of(line: str, start: int) -> Entry | None:
    found = ENTRY.match(line) if len(line) <= LONGEST else None
    if not found:
        return None
    value = found["value"]
    comment = COMMENT.search(value)
    if comment and value[0] not in "\"'":
        value = value[: comment.start()].rstrip()
    at = start + found.start("value")
    return Entry(found["key"], value, at, at + len(value))
