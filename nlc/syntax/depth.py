"""A line that stands deeper or less deep than its neighbours, where only their depth can be meant."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nlc.base.diagnostics import Fix, Label, Report
from nlc.base.span import Source, Span
from nlc.syntax.schema import Level, Spec, keys_of
from nlc.syntax.yamlplace import content, cut, line_at

_OF_LEVELS = frozenset(keys_of(Level)) - frozenset(keys_of(Spec))  # what stands in a level alone
_ENTRY = re.compile(r"(?P<indent>[ \t]*)(?P<key>\w+):(?:[ ]+(?P<value>\S.*))?$")


@dataclass(frozen=True)
class _Line:
    start: int
    indent: str
    key: str
    value: str

    @property
    def own(self) -> bool:
        """Whether it is a key of levels, and of nothing else."""
        return self.key in _OF_LEVELS


@dataclass(frozen=True)
class Shifted:
    """A line whose indentation is wrong, and one of its neighbours."""

    source: Source
    line: _Line
    beside: _Line

    @property
    def fix(self) -> Fix:
        at = self.line.start
        return Fix(Span(self.source, at, at + len(self.line.indent)), self.beside.indent)

    def report(self, report: Report) -> None:
        found, beside = self.line, self.beside
        at = found.start + len(found.indent)
        place = beside.start + len(beside.indent)
        message = f"`{cut(found.key)}` does not stand in the column of its neighbours"
        report.add(
            "NLC003",
            message,
            Span(self.source, at, at + len(found.key)),
            f"indented by {spaces(len(found.indent))}",
            related=[
                Label(
                    Span(self.source, place, place + len(beside.key)),
                    f"and this by {spaces(len(beside.indent))}",
                )
            ],
            helps=["keys of one mapping stand in one column"],
            fix=self.fix,
        )


def spaces(count: int) -> str:
    return f"{count} space{'s' * (count != 1)}"


def shifted(source: Source, start: int) -> Shifted | None:
    """The line at ``start``, if its neighbours say where it belongs: the one above has a value, so nothing is below it.

    What stands beneath must be as deep as that, unless both are keys of a level and the level ends there.
    """
    line, above = _read(source, start), _next(source, start, -1)
    if line is None or not line.value or above is None or not above.value or "\t" in above.indent:
        return None
    if line.indent == above.indent:
        return None
    below = _next(source, start, 1)
    level = line.own and above.own
    if below is not None and (below.own if level else True) and below.indent != above.indent:
        return None
    return Shifted(source, line, above) if level or below is not None else None


def _read(source: Source, start: int) -> _Line | None:
    text = line_at(source.text, start)
    match = _ENTRY.match(text) if len(text) < 1000 else None
    if match is None:
        return None
    return _Line(start, match["indent"], match["key"], content(match["value"] or ""))


def _next(source: Source, start: int, way: int) -> _Line | None:
    """The nearest line with content in one direction, if it is ``key: value``."""
    number = source.position(start)[0] + way
    while 1 <= number <= len(source.line_starts):
        at = source.line_starts[number - 1]
        if content(line_at(source.text, at)):
            return _read(source, at)
        number += way
    return None


def sure_key(span: Span, key: str) -> bool:
    """Whether a line that begins with one of our keys is that, and no text that goes on from the line above."""
    above = _next(span.source, span.source.line_starts[span.line - 1], -1)
    prose = above is None or above.key in ("doc", "ref")
    return key in {*keys_of(Level), *keys_of(Spec)} and not prose
