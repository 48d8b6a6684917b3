"""Calls, lists and signatures on as few lines as they need."""

from __future__ import annotations

import re

from nlc.backends.writer import WIDTH, filled


def packed(start: str, args: list[str], end: str, depth: int = 0) -> str:
    """A call or a signature on one line, or its arguments on as few as they need."""
    pad = "    " * depth
    one = f"{pad}{start}{', '.join(args)}{end}"
    if len(one) <= WIDTH:
        return one
    lines = filled([f"{a}," for a in args], WIDTH - 4 * depth - 4)
    return "\n".join(
        [f"{pad}{start}", *(f"{pad}    {x}" for x in lines), f"{pad}{end}  # fmt: skip"]
    )


def laid(text: str) -> str:
    """Calls, lists and signatures that the text has over lines, on as few as they need."""
    out, lines = [], iter(text.split("\n"))
    for line in lines:
        bare = line.lstrip()
        depth = (len(line) - len(bare)) // 4
        if bare.endswith(("(", "[")) and not bare.startswith(("#", '"')):
            inner, pad = [], "    " * depth
            while not (end := next(lines)).startswith((f"{pad})", f"{pad}]")):
                inner.append(end.strip())
            args = [x.strip() for x in " ".join(inner).split(",") if x.strip()]
            line = packed(bare, args, end.strip(), depth)
        elif len(line) > WIDTH and (call := _call(bare, WIDTH - 4 * depth)):
            start, inner, end = call
            if 4 * depth + 4 + len(inner) > WIDTH:
                line = packed(start, inner.split(", "), end, depth)
            else:
                pad = "    " * depth
                line = f"{pad}{start}\n{pad}    {inner}\n{pad}{end}"
        out.append(line)
    return "\n".join(out)


def _call(text: str, room: int) -> tuple[str, str, str] | None:
    """A call of a statement, what stands before its arguments, these, and what is behind them: the last one, as formatters
    have it, or the first where what is before that is too long."""
    found = re.match(r"(?:\w[\w., ]* [-+*]?= )?\w[\w.]*\(", text)
    if found is None or not text.endswith(")"):
        return None
    opened: list[int] = []
    pairs = {}
    for i, ch in enumerate(text):
        if ch in "([{":
            opened.append(i)
        elif ch in ")]}" and opened:
            pairs[i] = opened.pop()
    last, first = pairs[len(text) - 1], found.end() - 1
    at = last if last < room else first
    end = next(i for i, start in pairs.items() if start == at)
    return text[: at + 1], text[at + 1 : end], text[end:]
