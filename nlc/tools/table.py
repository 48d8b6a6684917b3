"""Rows of text -> lines of a table that is at most ``WIDTH`` columns wide."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from nlc.tools.layout import cells, wrap

WIDTH = 100
INDENT = "   "
_LEAST = 16


def table(rows: list[list[str]], gaps: tuple[int, ...], right: set[int]) -> list[list[str]]:
    """The lines of each row. If the table is too wide, its widest columns give way and wrap."""
    rows = [[cell or "–" for cell in row] for row in rows]
    columns = zip(*rows, strict=True)
    widths = [max(cells(line) for cell in col for line in cell.split("\n")) for col in columns]
    spare = WIDTH - len(INDENT) - sum(gaps)
    while sum(widths) > spare and max(widths) > _LEAST:
        widths[max(range(len(widths)), key=lambda i: (widths[i], -i))] -= 1

    def laid(row: list[str]) -> Iterator[str]:
        split = [_hang(cell, width) for cell, width in zip(row, widths, strict=True)]
        for texts in zip_longest(*split, fillvalue=""):
            line = INDENT
            for i, text in enumerate(texts):
                pad = " " * (widths[i] - cells(text))
                line += (pad + text if i in right else text + pad) + " " * (*gaps, 0)[i]
            yield line

    return [list(laid(row)) for row in rows]


def _hang(cell: str, width: int) -> list[str]:
    """A cell as lines; what a law says hangs behind its ``min`` or ``by``."""
    out = []
    for part in cell.split("\n"):
        word = part[:4] if part[:4] in ("min ", "by  ") else ""
        lines = wrap(part[len(word) :], width - len(word))
        out += [(word if k == 0 else " " * len(word)) + line for k, line in enumerate(lines)]
    return out
