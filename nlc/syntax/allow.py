"""``# nlc: allow NLC210`` in a spec: warnings that its author knows of and does not want to hear.

Behind a line the comment is about that line, alone on a line about the next one with content, and
above the first key about the whole file. Words behind the codes are the author's reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from nlc.base.codes import CODES
from nlc.base.diagnostics import Diagnostic, Report, certain, nearest
from nlc.base.span import Source, Span

_COMMENT = re.compile(r"(?:^|(?<=[ \t]))#[ \t]*nlc:[ \t]*(?P<words>.*?)[ \t\r]*$", re.MULTILINE)
_WORDS = re.compile(r"allow\b[ \t]*(?P<codes>[A-Za-z]+\d\w*(?:[ \t,]+NLC\d\w*)*)?")
_CODE = re.compile(r"[A-Za-z]+\d\w*")


@dataclass(frozen=True)
class _Allow:
    """A code that a comment names, and the lines that it is about; no line: all of them."""

    code: str
    span: Span
    line: int | None

    def covers(self, d: Diagnostic) -> bool:
        return (
            d.code == self.code
            and d.span.source is self.span.source
            and self.line in (None, d.span.line)
        )


def silenced(source: Source, report: Report) -> None:
    """Takes the allowed warnings out of the report; an allow that silences nothing is a warning itself."""
    allows = list(_allows(source, report))
    if not allows:
        return
    used = {a for a in allows for d in report.diagnostics if a.covers(d)}
    report.drop(lambda d: any(a.covers(d) for a in allows))
    if report.has_errors:
        return  # what would be warned of may not have been looked for
    for allow in allows:
        if allow not in used:
            where = "in this file" if allow.line is None else f"on line {allow.line}"
            report.add(
                "NLC008",
                f"nothing {where} is warned of with {allow.code}",
                allow.span,
                "this silences nothing",
                helps=["remove it"],
            )


def _allows(source: Source, report: Report) -> Iterator[_Allow]:
    found = list(_COMMENT.finditer(source.text))
    if not found:
        return
    texts, first = _scalars(source.text)
    for match in found:
        at = match.start()
        if any(start <= at < end for start, end in texts):
            continue
        words = _WORDS.match(source.text, match.start("words"), match.end("words"))
        if words is None or not words["codes"]:
            report.add(
                "NLC008",
                "this comment to nlc is not understood",
                Span(source, match.start(), match.end("words")),
                "expected `# nlc: allow` and codes",
                helps=["for example `# nlc: allow NLC210`, then a reason if you like"],
            )
            continue
        line = None if at < first else _line(source, at)
        for code in _CODE.finditer(source.text, words.start("codes"), words.end("codes")):
            span = Span(source, *code.span())
            if _silences(code.group(), span, report):
                yield _Allow(code.group(), span, line)


def _silences(code: str, span: Span, report: Report) -> bool:
    """Whether it is the code of a warning."""
    known = CODES.get(code)
    if known is not None and known.severity == "warning":
        return True
    if known is not None:
        message, label = f"the error {code} cannot be silenced", "only warnings can"
        report.add("NLC008", message, span, label, helps=[f"`nlc explain {code}` shows a way out"])
        return False
    close = nearest(code, CODES)
    report.add(
        "NLC008",
        f"there is no code {code}",
        span,
        f"did you mean {close}?" if close else "not a code of nlc",
        helps=["`nlc list codes` shows all of them"],
        fix=certain(span, code, CODES),
    )
    return False


def _line(source: Source, at: int) -> int:
    """The line that a comment is about: its own, or the next with content if it has none."""
    line, column = source.position(at)
    if source.line(line)[: column - 1].strip():
        return line
    for number in range(line + 1, len(source.line_starts) + 1):
        text = source.line(number).strip()
        if text and not text.startswith("#"):
            return number
    return line


def _scalars(text: str) -> tuple[list[tuple[int, int]], int]:
    """Where quoted texts and blocks stand, which hold no comments, and where the first key does."""
    spans, first = [], len(text)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.NodeEvent):
                first = min(first, event.start_mark.index)
            if isinstance(event, yaml.ScalarEvent) and event.style:
                spans.append((event.start_mark.index, event.end_mark.index))
    except yaml.YAMLError:
        return [(0, len(text))], first  # broken: its mistakes are said, and no warning
    return spans, first
