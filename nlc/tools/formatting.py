"""Files -> their canonical text, which `nlc fmt` compares, shows or writes."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nlc.base.diagnostics import Fix, Report, SpecError
from nlc.base.span import Source, Span
from nlc.library import find
from nlc.runtime.loader import write_atomically
from nlc.syntax.fmt import formatted
from nlc.syntax.text import decoded


@dataclass(frozen=True)
class Formatted:
    """A spec as it is and as it should be; ``path`` is None for standard input."""

    source: Source
    data: bytes
    text: str
    path: Path | None

    @property
    def changed(self) -> bool:
        return self.text.encode() != self.data

    @property
    def report(self) -> Report:
        """That the text should change, with the lines that do as a fix."""
        report = Report()
        if self.changed:
            fix = self._fix()
            end = self.source.text.find("\n", fix.span.start)
            line = Span(self.source, fix.span.start, end if end >= 0 else len(self.source.text))
            place = self.path or "-"
            report.add(
                "NLC015",
                "this is not how `nlc fmt` writes it",
                line,
                "the first line that changes",
                helps=[f"run `nlc fmt {place}`"],
                fix=fix,
            )
        return report

    def _fix(self) -> Fix:
        """From the first line that changes to the last."""
        before, after = (_lines(text) for text in (self.source.text, self.text))
        start = _alike(before, after)
        end = _alike(before[start:][::-1], after[start:][::-1])
        kept, gone = "".join(before[:start]), "".join(before[start : len(before) - end])
        span = Span(self.source, len(kept), len(kept) + len(gone))
        return Fix(span, "".join(after[start : len(after) - end]))

    @property
    def diff(self) -> str:
        """What changes, as ``patch`` takes it; a byte order mark and line breaks do not show."""
        before, after = (_lines(t.replace("\r\n", "\n")) for t in (self.source.text, self.text))
        name = self.source.name
        lines = difflib.unified_diff(before, after, name, name)
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in lines
        )

    def write(self) -> bool:
        """Whether there was something to write. Raises OSError, and then the file is what it was."""
        assert self.path is not None
        if self.changed:
            write_atomically(self.path, self.text)
        return self.changed


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _alike(some: list[str], others: list[str]) -> int:
    """How many lines at the start are the same."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(some), len(others)))


class NotAFile(Exception):
    """The name of a spec in the library, shipped or in NLC_PATH, where a file is due."""


def format_files(names: Iterable[str]) -> Iterator[Formatted | SpecError]:
    """Each file (``-``: standard input) formatted, or the mistakes for which it is none.

    Raises NotAFile for the name of a spec in place of a path, OSError for a file that cannot be read.
    """
    for name in names:
        try:
            yield _formatted(name)
        except SpecError as error:
            yield error


def _formatted(name: str) -> Formatted:
    path = None if name == "-" else find(name)
    if path is not None and path != Path(name):
        raise NotAFile(f"`{name}` is the name of a spec; fmt changes files, so give a path")
    data = sys.stdin.buffer.read() if path is None else path.read_bytes()
    report = Report()
    source = decoded(data, "<stdin>" if path is None else name, report)
    text = formatted(source, report) if source is not None else None
    report.raise_if_errors()
    assert source is not None and text is not None
    return Formatted(source, data, text, path)
