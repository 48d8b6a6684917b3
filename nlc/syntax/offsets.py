"""A YAML scalar -> where each character of its value stands in the text that it was read from."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BLANK = " \t\r\n"
_AT_LINE_END = re.compile(r"[ \t]*(?:[\r\n]|$)")
_ESCAPES = {
    "x": 4,
    "u": 6,
    "U": 10,
}  # source characters of `\xNN` and its like; any other escape has 2


def offsets(
    value: str, text: str, start: int, end: int, style: str
) -> tuple[Sequence[int], Sequence[int]]:
    """Start and end in ``text`` of each character of ``value``, exact for all but white space.

    ``text[start:end]`` is the scalar as written; ``style`` is "" for plain, or its first character.
    """
    first = start + (style in ("'", '"') and style != "")
    if (
        style not in ("|", ">")
        and text.startswith(value, first)
        and first + len(value) == end - (first - start)
    ):
        return range(first, first + len(value)), range(first + 1, first + 1 + len(value))
    if style in ("|", ">"):
        first = text.index("\n", start)  # the header line: `|-`, `>2 # note`
    starts: list[int] = []
    ends: list[int] = []
    i = first
    for ch in value:
        if style == '"':
            i = _after_line_continuation(text, i)
        escaped = style == '"' and text[i] == "\\"
        if ch in _BLANK and not escaped:  # folded or literal white space
            starts.append(i)
            if ch == text[i : i + 1] and not _AT_LINE_END.match(text, i, end):
                i += 1
            ends.append(i)
            continue
        if not escaped:
            i = _skip_blank(text, i, end)
        escaped = style == '"' and text[i] == "\\"
        starts.append(i)
        if escaped:
            i += _ESCAPES.get(text[i + 1], 2)
        elif style == "'" and ch == "'":
            i += 2
        else:
            i += 1
        ends.append(i)
    return starts, ends


def _skip_blank(text: str, i: int, end: int) -> int:
    while i < end and text[i] in _BLANK:
        i += 1
    return i


def _after_line_continuation(text: str, i: int) -> int:
    r"""Past a ``\`` at the end of a line in double quotes, which joins the lines."""
    while text.startswith(("\\\n", "\\\r\n"), i):
        i = _skip_blank(text, i + 1, len(text))
    return i
