"""Calls, lists and signatures on as few lines as they need."""

from __future__ import annotations

import re

from nlc.backends.writer import WIDTH, filled, wrap

_DOCSTRING = re.compile(r'(?m)^( *)"""((?:(?!""").)*(?:\n(?:(?!""").)*)+)"""$')


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
    """Calls, lists and signatures that the text has over lines, on as few as they need; its prose, too."""
    out, lines = [], iter(_DOCSTRING.sub(_wrapped, text).split("\n"))
    for line in lines:
        bare = line.lstrip()
        depth = (len(line) - len(bare)) // 4
        if bare.endswith(("(", "[")) and not bare.startswith(("#", '"')):
            inner, pad = [], "    " * depth
            while not (end := next(lines)).startswith((f"{pad})", f"{pad}]")):
                inner.append(end.strip())
            args = [x.strip() for x in " ".join(inner).split(",") if x.strip()]
            line = packed(bare, args, end.strip(), depth)
        else:
            line = shortened(line)
        out.append(line)
    return "\n".join(out)


def shortened(line: str) -> str:
    """A line; if it is too long and ends in a call, with the arguments of that on lines of their own."""
    bare = line.lstrip()
    depth = (len(line) - len(bare)) // 4
    if len(line) <= WIDTH or not (call := _call(bare, WIDTH - 4 * depth)):
        return line
    (start, inner, end), pad = call, "    " * depth
    if 4 * depth + 4 + len(inner) > WIDTH:
        return packed(start, inner.split(", "), end, depth)
    return f"{pad}{start}\n{pad}    {inner}\n{pad}{end}"


def _wrapped(found: re.Match[str]) -> str:
    """A docstring, each paragraph of which is as wide as it can be."""
    pad, prose = found.groups()
    alone = "\n" + pad if prose.endswith(f"\n{pad}") else ""  # the quotes have a line of their own
    parts = [" ".join(x.split()) for x in prose.split("\n\n")]
    parts[0] = f'"""{parts[0]}'
    parts[-1] += '"""' * (not alone)
    lines = [wrap(x, WIDTH - len(pad)) for x in parts]
    text = "\n\n".join("\n".join(f"{pad}{x}" for x in ls) for ls in lines)
    return text + (f'{alone}"""' if alone else "")


def _call(text: str, room: int) -> tuple[str, str, str] | None:
    """A call of a statement, what stands before its arguments, these, and what is behind them: the last one, as formatters
    have it, or the first where what is before that is too long."""
    found = re.match(r"(?:\w[\w.,* ]* [-+*]?= )*\w[\w.]*\(", text)
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
