"""Lines of a spec that is written: pieces laid out where the source breaks them, comments in columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from nlc.base.span import Source
from nlc.syntax.pieces import Piece

COMMENT = re.compile(r"#[^\n]*")
APART = 2  # spaces before a comment, at least


@dataclass
class Line:
    """``column`` is where the comment behind the text stood in the source."""

    indent: int
    text: str
    comment: str = ""
    column: int = 0

    @property
    def width(self) -> int:
        return self.indent + len(self.text)


def column(source: Source, at: int) -> int:
    """How far right a place stands, from 0; a tab goes to the next multiple of 8."""
    start = source.text.rfind("\n", 0, at) + 1
    return len(source.text[start:at].expandtabs())


def between(text: str, at: int) -> Iterator[tuple[str, int]]:
    """The comments of what stands at ``at`` between two tokens, and where each starts."""
    for found in COMMENT.finditer(text):
        yield found.group().rstrip(), at + found.start()


def laid(source: Source, pieces: list[Piece], indent: int, start: int, least: int) -> list[Line]:
    """Pieces on the lines that the source has them on, with the comments between them.

    ``indent`` is for what stood at the column ``start``, and no line but the first is left of
    ``least``.
    """
    lines = [Line(least, pieces[0].text)]
    for before, piece in pairwise(pieces):
        gap = source.text[before.end : piece.start]
        first, *more = gap.split("\n")
        if not more:
            lines[-1].text += " " * bool(piece.space) + piece.text
            continue
        for comment, at in between(first, before.end):
            lines[-1].comment, lines[-1].column = comment, column(source, at)
        for line in more[:-1]:
            found = COMMENT.search(line)
            if found or (not line.strip() and lines[-1].text):
                lines.append(Line(least if found else 0, found.group().rstrip() if found else ""))
        lines.append(Line(max(least, indent + column(source, piece.start) - start), piece.text))
    return lines


def aligned(lines: list[Line]) -> list[str]:
    """The text of lines. Comments that stood in one column still do, further right if they must."""
    columns: dict[int, int] = {}
    for line in lines:
        if line.comment:
            right = max(line.column, line.width + APART)
            columns[line.column] = max(columns.get(line.column, 0), right)
    out = []
    for line in lines:
        text = " " * line.indent + line.text if line.text else ""
        if line.comment:
            text = text.ljust(columns[line.column]) + line.comment
        out.append(text)
    return out
