"""Diagnostics -> text with excerpts for people; JSON lines and GitHub annotations for programs."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from nlc.base.diagnostics import Diagnostic, Label, Report
from nlc.base.span import Source, Span

WIDTH = 160  # columns of an excerpt; longer lines are cut around the caret
RELATED = 2  # related places that are shown

_COLORS = {"error": "1;31", "warning": "1;33", "related": "1;34", "gutter": "34", "strong": "1"}


# ------------------------------------------------------------------------------------------- text


def render_report(report: Report, color: bool = False) -> str:
    """Every diagnostic in the order of the text, and a line of counts if there are several."""
    blocks = [render_diagnostic(d, color) for d in report.ordered]
    if len(blocks) > 1:
        blocks.append(summary(report))
    return "\n\n".join(blocks)


def summary(report: Report) -> str:
    """``2 errors and 1 warning in specs/delta.yaml``."""
    severities = [d.severity for d in report.diagnostics]
    counts = []
    for severity in dict.fromkeys(("error", "warning", *severities)):
        if n := severities.count(severity):
            counts.append(f"{n} {severity}" + ("s" if n > 1 else ""))
    files = dict.fromkeys(escape(d.span.source.name) for d in report.ordered)
    more = "; more are not looked for" if report.full else ""
    return f"{' and '.join(counts) or 'no errors'} in {', '.join(files)}{more}"


def render_diagnostic(diagnostic: Diagnostic, color: bool = False) -> str:
    """``severity[code]: message``, the place, the excerpt, the notes and helps."""
    paint = _Paint(color)
    severity, span = diagnostic.severity, diagnostic.span
    labels = [
        _Mark(Label(span, diagnostic.label), "^", severity),
        *(_Mark(label, "-", "related") for label in diagnostic.related[:RELATED]),
    ]
    width = max(len(str(mark.line)) for mark in labels)
    gutter = paint("gutter", " " * (width + 1) + "|")
    out = [
        paint(severity, f"{severity}[{diagnostic.code}]")
        + paint("strong", f": {escape(diagnostic.message)}"),
    ]
    if span.source.name:  # a name that was given stands in no file
        out.append(f"{' ' * width}{paint('gutter', '-->')} {escape(str(span))}")
    out.append(gutter)
    here = [m for m in labels if m.source is span.source]
    out += _excerpt(here, width, paint)
    for mark in labels:
        if mark.source is not span.source:
            place = escape(str(mark.label.span))
            out += [f"{' ' * width}{paint('gutter', ':::')} {place}", gutter]
            out += _excerpt([mark], width, paint)
    remarks = [("note", n) for n in diagnostic.notes] + [("help", h) for h in diagnostic.helps]
    if remarks:
        out.append(gutter)
    equals = " " * (width + 1) + paint("gutter", "=")
    out += [f"{equals} {paint('strong', kind)}: {escape(text)}" for kind, text in remarks]
    return "\n".join(out)


@dataclass(frozen=True)
class _Paint:
    on: bool

    def __call__(self, role: str, text: str) -> str:
        return f"\x1b[{_COLORS[role]}m{text}\x1b[0m" if self.on and text else text


@dataclass(frozen=True)
class _Mark:
    """A label, the character that underlines it and its colour."""

    label: Label
    char: str
    role: str

    @property
    def source(self) -> Source:
        return self.label.span.source

    @property
    def line(self) -> int:
        return self.label.span.line


def _excerpt(marks: list[_Mark], width: int, paint: _Paint) -> Iterator[str]:
    """The lines that the marks stand on, each with its underlines; ``...`` for what is left out."""
    previous = None
    for number in sorted({mark.line for mark in marks}):
        if previous is not None and number > previous + 1:
            yield "..."
        previous = number
        here = sorted((m for m in marks if m.line == number), key=lambda m: m.label.span.start)
        strongest = min(here, key=lambda m: m.char != "^")
        line = _Line.around(strongest.label.span)
        yield f"{paint('gutter', f'{number:>{width}} |')} {line.text}".rstrip()
        for mark in here:
            start, end = line.columns(mark.label.span)
            under = paint(
                mark.role, f"{mark.char * (end - start)} {escape(mark.label.text)}".rstrip()
            )
            yield f"{paint('gutter', ' ' * (width + 1) + '|')} {' ' * start}{under}"


@dataclass(frozen=True)
class _Line:
    """A line as it is shown, with the display column of each of its characters (and of its end)."""

    text: str
    first: int  # the offset that the first of the columns belongs to
    at: tuple[int, ...]

    @classmethod
    def around(cls, span: Span) -> _Line:
        whole = span.source.line(span.line).removesuffix("\r")
        start = span.source.line_starts[span.line - 1]
        caret = min(span.start - start, len(whole))
        begin = max(0, caret - 2 * WIDTH) if len(whole) > 4 * WIDTH else 0
        raw = whole[begin : begin + 4 * WIDTH]
        shown = [_shown(ch) for ch in raw]
        at = [0]
        for piece in shown:
            at.append(at[-1] + _width(piece))
        if len(raw) == len(whole) and at[-1] <= WIDTH:
            return cls("".join(shown), start, tuple(at))
        low = max(0, min(at[caret - begin] - WIDTH // 2, at[-1] - WIDTH))
        inside = [i for i in range(len(raw)) if at[i] >= low and at[i + 1] <= low + WIDTH]
        left = "…" if begin + inside[0] > 0 else ""
        right = "…" if begin + inside[-1] < len(whole) - 1 else ""
        shift, last = at[inside[0]] - len(left), at[inside[-1] + 1]
        return cls(
            left + "".join(shown[i] for i in inside) + right,
            start + begin,
            tuple(min(max(c, shift + len(left)), last) - shift for c in at),
        )

    def columns(self, span: Span) -> tuple[int, int]:
        """Where the span is underlined: at least one column, at most to the end of the line."""
        start, end = (
            self.at[min(max(offset - self.first, 0), len(self.at) - 1)]
            for offset in (span.start, span.end)
        )
        return start, max(end, start + 1)


def escape(text: str) -> str:
    """``text`` on one line, control characters spelled out: nothing may drive the terminal."""
    return "".join(_shown(ch) for ch in text)


def _shown(ch: str) -> str:
    if ch == "\t":
        return "→"
    if unicodedata.category(ch)[0] == "C" or ch in "\u2028\u2029":
        return ch.encode("unicode_escape").decode("ascii")
    return ch


def _width(piece: str) -> int:
    if len(piece) != 1:
        return len(piece)
    if unicodedata.category(piece) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(piece) in ("W", "F") else 1


# --------------------------------------------------------------------------------------- programs


def render_json(report: Report) -> str:
    """One JSON object a line."""
    return "\n".join(
        json.dumps(to_json(d), ensure_ascii=False, separators=(",", ":")) for d in report.ordered
    )


def to_json(diagnostic: Diagnostic) -> dict[str, object]:
    """The fields of style §5; positions are those of the language server protocol."""
    fix = diagnostic.fix
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "file": diagnostic.span.source.name,
        "range": _range(diagnostic.span),
        "message": diagnostic.message,
        "related": [_related(label, diagnostic.span.source) for label in diagnostic.related],
        "help": list(diagnostic.helps),
        "fix": None if fix is None else {"range": _range(fix.span), "replacement": fix.replacement},
    }


def _related(label: Label, source: Source) -> dict[str, object]:
    place: dict[str, object] = {**_position(label.span.source, label.span.start)}
    if label.span.source is not source:
        place["file"] = label.span.source.name
    return {**place, "message": label.text}


def _range(span: Span) -> dict[str, dict[str, int]]:
    return {
        "start": _position(span.source, span.start),
        "end": _position(span.source, span.end),
    }


def _position(source: Source, offset: int) -> dict[str, int]:
    """0-based, in UTF-16 code units as the protocol counts them."""
    line, column = source.position(offset)
    before = source.line(line)[: column - 1]
    return {"line": line - 1, "character": column - 1 + sum(ord(ch) > 0xFFFF for ch in before)}


def render_github(report: Report) -> str:
    """Workflow commands, which GitHub draws beside the lines of a pull request."""
    return "\n".join(_annotation(d) for d in report.ordered)


def _annotation(d: Diagnostic) -> str:
    line, column = d.span.source.position(d.span.start)
    last_line, last_column = d.span.source.position(max(d.span.end, d.span.start + 1))
    places = [("file", d.span.source.name), ("line", line), ("endLine", last_line), ("col", column)]
    if last_line == line:  # GitHub reads endColumn only within one line
        places.append(("endColumn", last_column))
    places.append(("title", f"{d.code}"))
    properties = ",".join(f"{name}={_command(str(value), ':,')}" for name, value in places)
    text = [d.message + (f": {d.label}" if d.label else "")]
    text += [f"note: {n}" for n in d.notes] + [f"help: {h}" for h in d.helps]
    command = "error" if d.severity == "error" else "warning"
    return f"::{command} {properties}::{_command(chr(10).join(text))}"


def _command(text: str, also: str = "") -> str:
    return "".join(f"%{ord(ch):02X}" if ch in "%\r\n" + also else ch for ch in text)
