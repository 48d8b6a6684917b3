"""Tables and texts as HTML, for notebooks: everything is escaped here and nowhere else."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Iterable, Sequence
from html import escape

_RIGHT = ' style="text-align: right"'
_LEFT = ' style="text-align: left"'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Collection[int] = (),
    caption: str = "",
) -> str:
    """Rows of texts under a head; the columns ``right`` are numbers. A cell keeps its lines."""
    said = f"<caption{_LEFT}>{_lines(caption)}</caption>" if caption else ""
    body = "".join(f"<tr>{_cells('td', row, right)}</tr>" for row in rows)
    top = f"<thead><tr>{_cells('th', head, right)}</tr></thead>"
    return f"<table>{said}{top}<tbody>{body}</tbody></table>"


def _cells(tag: str, row: Sequence[str], right: Collection[int]) -> str:
    sides = (_RIGHT if i in right else _LEFT for i in range(len(row)))
    return "".join(f"<{tag}{side}>{_lines(cell)}</{tag}>" for cell, side in zip(row, sides))


def _lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def pre(text: str) -> str:
    """A text as it is."""
    return f"<pre>{escape(text)}</pre>"


def paragraph(text: str) -> str:
    return f"<p>{_lines(text)}</p>"


def folded(title: str, inside: str) -> str:
    """Markup that a click folds away."""
    return f"<details open><summary>{escape(title)}</summary>{inside}</details>"


def image(svg: str, alt: str) -> str:
    """A picture that the style of the page does not reach, nor that of the picture the page."""
    data = b64encode(svg.encode()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return f'<img src="{source}" alt="{escape(alt)}" style="max-width: 100%">'
