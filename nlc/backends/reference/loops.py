"""Statements that say the same of several names, as loops over the names.

A layer of many memories declares, draws and starts each of them alike. People write that as a loop over the
memories, so the writers of those functions give their statements here and print what comes back.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

from nlc.backends.reference.file import ending_call
from nlc.backends.writer import WIDTH, Writer

_WORD = re.compile(r"[\w.]+|\W")
_SIZE = re.compile(r"\d+|(self\.)?(?!True\b|False\b)[^\W\d]\w*")
_ATTRIBUTE = re.compile(r"self\.\$(?!\.init\b)")  # of a name that is a string in a loop
_BODY = 12  # statements of a loop at most
_VARYING = "size"  # what a loop calls the one size that its names differ in


@dataclass(frozen=True)
class Said:
    """A statement about a path. ``$`` stands for it: ``"$"`` as a string, ``self.$`` as an attribute."""

    path: str
    text: str

    @cached_property
    def words(self) -> list[str]:
        return _WORD.findall(self.text)

    @property
    def plain(self) -> str:
        """The statement by itself."""
        return self.text.replace("$", self.path)


@dataclass(frozen=True)
class Looped:
    """``body`` for every name, whose paths continue the name; ``sizes`` are what it differs in, if in anything."""

    names: tuple[str, ...]
    sizes: tuple[str, ...]
    body: tuple[Said, ...]

    def head(self, strings: bool) -> str:
        """The loop's first line, over strings or over attributes of ``self``."""
        if not strings:
            return f"for part in ({', '.join(f'self.{n}' for n in self.names)}):"
        if not self.sizes:
            return f"for name in ({', '.join(map(_quoted, self.names))}):"
        pairs = list(zip(self.names, self.sizes))
        if all(n.isidentifier() and not keyword.iskeyword(n) for n in self.names):
            table = f"dict({', '.join(f'{n}={x}' for n, x in pairs)})"
        else:
            table = f"{{{', '.join(f'{_quoted(n)}: {x}' for n, x in pairs)}}}"
        return f"for name, {_VARYING} in {table}.items():"


def _quoted(name: str) -> str:
    return f'"{name}"'


def write_all(w: Writer, said: list[Said], strings: bool = True) -> None:
    """Every statement in order, in loops where these are shorter."""
    for x in _rolled(said, strings, WIDTH - 4 * w.depth):
        if isinstance(x, Said):
            write_statement(w, x.plain)
            continue
        with w.block(x.head(strings)):
            for inner in x.body:
                write_statement(w, _inside(inner, strings))


def write_statement(w: Writer, text: str) -> None:
    """A statement; a call that it ends with takes the lines that it needs."""
    if 4 * w.depth + len(text) <= WIDTH or (ending := ending_call(text)) is None:
        w(text)
        return
    target, equals, value = text.partition(" = ")
    if equals and value.count(").") > 1 and 4 * w.depth + 4 + len(value) <= WIDTH:
        w(f"{target} = (")  # calls of what calls return stand together
        w(f"    {value}")
        w(")")
    else:
        w.call(ending[0], ending[1], ")")


def _inside(x: Said, strings: bool) -> str:
    """A statement of a loop's body: its path continues the loop's variable."""
    rest = f".{x.path}" if x.path else ""
    if not strings:
        return x.text.replace("self.$", f"part{rest}")
    text = x.text.replace("self.$.init", 'self.get_submodule("$").init')

    def string(found: re.Match) -> str:
        tail = rest + found[1]
        return f'f"{{name}}{tail}"' if tail else "name"

    return re.sub(r'"\$([^"]*)"', string, text)


def _rolled(said: list[Said], strings: bool, room: int) -> list[Said | Looped]:
    """As few lines as loops make of it; a loop that saves a single line is not worth it."""
    best: list[tuple[int, tuple[Said | Looped, ...]]] = [(0, ())]  # of what follows, from the end
    for i in range(len(said) - 1, -1, -1):
        lines, parts = best[-1]
        options = [(1 + lines, (said[i], *parts))]
        for size in range(1, min(_BODY, (len(said) - i) // 2) + 1):
            for loop in _loops(said, i, size, strings, room):
                taken = size * len(loop.names)
                if taken - size - 1 > 1:
                    lines, parts = best[-taken]
                    options.append((size + 1 + lines, (loop, *parts)))
        best.append(min(options, key=lambda x: x[0]))
    return list(best[-1][1])


def _loops(said: list[Said], start: int, size: int, strings: bool, room: int) -> Iterator[Looped]:
    """The loops over two, three, … blocks of ``size`` statements that leave no part of a name's block outside."""
    for end in range(start + 2 * size, len(said) + 1, size):
        blocks = [said[i : i + size] for i in range(start, end, size)]
        loop = _loop(blocks, strings)
        if loop is None or len(loop.head(strings)) > room:
            return
        before = start > 0 and said[start - 1].path.startswith(f"{loop.names[0]}.")
        after = end < len(said) and said[end].path.startswith(f"{loop.names[-1]}.")
        if not before and not after:
            yield loop


def _loop(blocks: list[list[Said]], strings: bool) -> Looped | None:
    """Blocks of statements that differ in the start of their paths and, over strings, in at most one size."""
    paths = [[x.path.split(".") for x in block] for block in blocks]
    if len(blocks[0]) == 1:
        flat = [p[0] for p in paths]
        same = _common([p[:0:-1] for p in flat])  # the name keeps one part at least
        cuts = [len(p) - same for p in flat]
    else:
        cuts = [_common(block) for block in paths]
    names = tuple(".".join(p[0][:cut]) for p, cut in zip(paths, cuts))
    rests = [tuple(".".join(x[cut:]) for x in block) for block, cut in zip(paths, cuts)]
    if len(set(rests)) > 1 or any(f"{a}.".startswith(f"{b}.") for a, b in permutations(names, 2)):
        return None
    if not all(names) or (strings and any(_ATTRIBUTE.search(x.text) for x in blocks[0])):
        return None
    texts, sizes = [], {}
    for row in zip(*blocks):
        if len({len(x.words) for x in row}) > 1:
            return None
        merged = []
        for column in zip(*(x.words for x in row)):
            merged.append(column[0] if len(set(column)) == 1 else _VARYING)
            if len(set(column)) > 1:
                sizes[column] = None
        texts.append("".join(merged))
    if len(sizes) > strings or not all(_SIZE.fullmatch(x) for column in sizes for x in column):
        return None
    body = tuple(Said(path, text) for path, text in zip(rests[0], texts))
    return Looped(names, next(iter(sizes), ()), body)


def _common(lists: list[list[str]]) -> int:
    """How many leading parts are the same in all."""
    count = 0
    for column in zip(*lists):
        if len(set(column)) > 1:
            break
        count += 1
    return count
