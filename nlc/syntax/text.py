"""A file -> Source, refusing what no spec needs: other encodings, control characters, tabs."""

from __future__ import annotations

import re
from pathlib import Path

from nlc.base.diagnostics import Report
from nlc.base.span import Source, Span
from nlc.syntax.depth import shifted

MAX_BYTES = 1 << 20

# All but what YAML allows, less odd line breaks and the marks that make a line read as another.
CONTROL = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
    "|\r(?!\n)|[\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_TAB = re.compile(r"^[ ]*(\t)", re.MULTILINE)


def read_source(path: str | Path, report: Report) -> Source | None:
    """The text of a file, or None if it is none; a file that cannot be opened raises OSError."""
    with open(path, "rb") as file:
        return decoded(file.read(MAX_BYTES + 1), str(path), report)


def decoded(data: bytes, name: str, report: Report) -> Source | None:
    """The text of the bytes of a file, less a byte order mark; None if they are none."""
    if len(data) > MAX_BYTES:
        _too_large(Source(name, ""), report)
        return None
    try:
        source = Source(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        source = Source(name, before + data[error.start :].decode("utf-8", "replace"))
        report.add(
            "NLC006",
            "this file is not UTF-8",
            Span(source, len(before), len(before) + 1),
            f"the byte 0x{data[error.start]:02x} is no part of a character",
            helps=["save it as UTF-8"],
        )
        return None
    return source if readable(source, report) else None


def readable(source: Source, report: Report) -> bool:
    """Whether the text is of bounded size, without control characters and tabs to indent."""
    if len(source.text) > MAX_BYTES:
        _too_large(source, report)
        return False
    if control := CONTROL.search(source.text):
        at, ch = control.start(), control.group()
        report.add(
            "NLC006",
            f"the character U+{ord(ch):04X} cannot stand in a spec",
            Span(source, at, at + 1),
            "a line break of old systems" if ch == "\r" else "a control character",
            helps=["remove it"],
        )
        return False
    tabs = list(_TAB.finditer(source.text))
    if tabs:
        first = tabs[0]
        at = first.start(1)
        found = shifted(source, first.start())
        report.add(
            "NLC001",
            "a tab cannot indent YAML",
            Span(source, at, at + 1),
            "this line starts with a tab" if at == first.start() else "a tab in the indentation",
            notes=[f"{len(tabs)} lines have one"] if len(tabs) > 1 else [],
            helps=["replace it with spaces, as many as its neighbours have"],
            fix=None if found is None else found.fix,
        )
    return not tabs


def _too_large(source: Source, report: Report) -> None:
    report.add(
        "NLC007", "this file is larger than 1 MiB", Span(source, 0, 0), "a spec is a page or two"
    )
