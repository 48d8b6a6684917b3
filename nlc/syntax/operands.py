"""The operand that ends, or starts, at a place of a text that need not be an expression: ``S(key)``, ``(a - b)``.

Papers write products by standing side by side, so what a sign of theirs takes is found without the grammar.
"""

from __future__ import annotations

import re

_NAME_BEFORE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*$")
_NUMBER_BEFORE = re.compile(r"(?<!\w)\d[\d.]*$")
_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*|\d[\d.]*")
_PAIRS = {")": "(", "]": "[", "⟩": "⟨"}
SHOWN = 72  # characters of a rewritten expression in a help
_OPENS = {opened: closed for closed, opened in _PAIRS.items()}


def before(text: str, end: int) -> str:
    """The operand that ends there, white space left out; "" if there is none."""
    end = len(text[:end].rstrip())
    at = end
    while at and text[at - 1] in _PAIRS:
        opened = _opening(text, at - 1)
        if opened is None:
            return ""
        at = opened
    match = _NAME_BEFORE.search(text, 0, at) or (
        _NUMBER_BEFORE.search(text, 0, at) if at == end else None
    )
    return text[match.start() if match else at : end]


def after(text: str, start: int) -> str:
    """The operand that starts there, white space left out; "" if there is none."""
    start += len(text[start:]) - len(text[start:].lstrip())
    match = _NAME.match(text, start)
    at = match.end() if match else start
    while at < len(text) and text[at] in _OPENS:
        closed = _closing(text, at)
        if closed is None:
            return ""
        at = closed + 1
    return text[start:at]


def bare(operand: str) -> str:
    """Without brackets around all of it, as an argument is written."""
    whole = operand[:1] == "(" and _closing(operand, 0) == len(operand) - 1
    return operand[1:-1].strip() if whole else operand


def around(text: str, at: int) -> tuple[int, int]:
    """From where to where the brackets or commas around a place leave it alone."""
    start, depth = at, 0
    while start and not (depth == 0 and text[start - 1] in "([⟨,"):
        start -= 1
        depth += (text[start] in _PAIRS) - (text[start] in _OPENS)
    end, depth = at, 0
    while end < len(text) and not (depth == 0 and text[end] in ")]⟩,"):
        depth += (text[end] in _OPENS) - (text[end] in _PAIRS)
        end += 1
    return start, end


def outer(text: str, at: int, end: int, left: str, right: str) -> str:
    """What to write for a product of two vectors: the text with it, from the left one before ``at`` up to ``end``."""
    both = f"outer({bare(left)}, {bare(right)})"
    new = " ".join(f"{text[: text.rindex(left, 0, at)]}{both}{text[end:]}".split())
    return f"write `{new if len(new) <= SHOWN else both}`"


def _opening(text: str, at: int) -> int | None:
    depth = 0
    for i in range(at, -1, -1):
        depth += (text[i] in _PAIRS) - (text[i] in _OPENS)
        if depth == 0:
            return i
    return None


def _closing(text: str, at: int) -> int | None:
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] in _OPENS) - (text[i] in _PAIRS)
        if depth == 0:
            return i
    return None
