"""Lines of generated source: indentation, comments, the header that says where it is from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations

WIDTH = 100


@dataclass(frozen=True)
class Header:
    """What the first lines of a generated file state. No date: the same input gives the same bytes."""

    version: str
    language: int
    backend: str
    spec: str  # the spec's file name
    digest: str  # sha256 of its text
    without: frozenset[str] = frozenset()  # of `features.FEATURES`
    fused: bool = False  # whether what runs between boundaries is compiled

    def has(self, feature: str) -> bool:
        """Whether the file has a feature that it could do without."""
        return feature not in self.without


def select(text: str, **flags: bool) -> str:
    """``<flag:text>`` stands where the flag is on, ``<!flag:text>`` where it is off; so does ``line  #? flag``."""

    def inline(m: re.Match[str]) -> str:
        name, shown = m.group(1), m.group(2)
        return shown if flags[name.lstrip("!")] != name.startswith("!") else ""

    out = []
    for line in text.split("\n"):
        line, _, condition = line.partition("  #? ")
        if all(flags[c.lstrip("!")] != c.startswith("!") for c in condition.split()):
            while (shown := re.sub(r"<(!?\w+):([^<>]*)>", inline, line)) != line:
                line = shown
            out.append(line)
    return "\n".join(out)


def listed(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def tupled(parts: Sequence[str]) -> str:
    """``(a,)`` or ``(a, b)``."""
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


@dataclass
class Writer:
    """Collects lines at the current indentation."""

    lines: list[str] = field(default_factory=list)
    depth: int = 0
    place: str = ""  # the spec's line that was named last, in this function
    coming: str = ""  # what the next line has to name

    def at(self, place: str) -> None:
        """The next line stems from this place of the spec, and says so where the line before it did not."""
        self.coming = place if place != self.place else ""
        self.place = place or self.place

    def __call__(self, line: str = "", note: str = "") -> None:
        """One line; ``note`` becomes a comment behind it, or above it where it would not fit or the line is a part."""
        pad = "    " * self.depth
        if line.startswith("def "):
            self.place = self.coming = ""
        said = "; ".join(filter(None, (note, self.coming)))
        if said and (line[-1:] in "([{" or len(pad) + len(line) + 4 + len(said) > WIDTH):
            self.comment(note)
            said = ""
        text = f"{pad}{line}  # {said}" if said else f"{pad}{line}"
        self.coming = ""
        self.lines.append(text.rstrip())

    def comment(self, note: str = "") -> None:
        """A line of its own, if there is something to say; the note is cut where it would be too long."""
        place, self.coming = self.coming, ""
        room = WIDTH - 4 * self.depth - 2 - (len(place) + 2 if place and note else 0)
        note = note if len(note) <= room else note[: room - 1].rstrip() + "…"
        if note or place:
            self.lines.append(f"{'    ' * self.depth}# {'; '.join(filter(None, (note, place)))}")

    @contextmanager
    def block(self, line: str) -> Iterator[None]:
        self(line)
        self.depth += 1
        yield
        self.depth -= 1

    @contextmanager
    def condition(self, parts: list[str], word: str = "or") -> Iterator[None]:
        """``if a or b:``, one part a line where they do not fit on one."""
        one = f"if {f' {word} '.join(parts)}:"
        if 4 * self.depth + len(one) <= WIDTH:
            self(one)
        else:
            self("if (")
            for i, part in enumerate(parts):
                self(f"    {f'{word} ' if i else ''}{part}")
            self("):")
        self.depth += 1
        yield
        self.depth -= 1

    def call(self, start: str, args: list[str], end: str) -> None:
        """``start(args)end`` on one line if it fits, else one argument a line, as formatters do."""
        one = f"{start}{', '.join(args)}{end}"
        if 4 * self.depth + len(one) <= WIDTH:
            self(one)
            return
        self(start)
        self.depth += 1
        inner = ", ".join(args)
        if 4 * self.depth + len(inner) <= WIDTH and not any(a.startswith("*") for a in args):
            self(inner)
        else:
            for a in args:
                self(f"{a},")
        self.depth -= 1
        self(end)

    def calls(self, start: str, args: list[str], end: str) -> None:
        """``start(args)end`` as often as it takes, each on one line with as many arguments as fit."""
        room = WIDTH - 4 * self.depth - len(start) - len(end)
        parts: list[str] = []
        for arg in args:
            if parts and len(parts[-1]) + 2 + len(arg) <= room:
                parts[-1] += f", {arg}"
            else:
                parts.append(arg)
        for part in parts:
            self.call(start, [part], end)

    def collection(self, start: str, items: list[str], end: str) -> None:
        """``start items end`` on one line if it fits, else one item a line, as formatters do for literals."""
        comma = "," if len(items) == 1 and start.endswith("(") else ""
        one = f"{start}{', '.join(items)}{comma}{end}"
        if 4 * self.depth + len(one) <= WIDTH:
            self(one)
            return
        self(start)
        self.depth += 1
        for item in items:
            self(f"{item},")
        self.depth -= 1
        self(end)

    def nested(self, start: str, args: list[str], end: str) -> None:
        """A call whose arguments may be tuples that need several lines themselves, as formatters break them."""
        inner = ", ".join(args)
        if 4 * self.depth + len(start) + len(inner) + len(end) <= WIDTH:
            self(start + inner + end)
            return
        self(start)
        self.depth += 1
        if 4 * self.depth + len(inner) <= WIDTH:
            self(inner)
        else:
            for a in args:
                if 4 * self.depth + len(a) + 1 <= WIDTH:
                    self(f"{a},")
                elif a[0] in "({":
                    self.nested_items(a[0], elements(a), f"{a[-1]},")
                else:
                    head, _, rest = a.partition("(")
                    self.nested_items(f"{head}(", elements(f"({rest}"), "),")
        self.depth -= 1
        self(end)

    def shortest(
        self,
        start: str,
        arguments: Callable[[dict[str, str]], list[str]],
        parts: dict[str, str],
        begun: Sequence[str] = (),
    ) -> None:
        """A call of ``arguments(parts)``, where it gets shorter with lines before it that name some of the parts.

        ``begun``: lines of the statement before ``start``.
        """
        named = [n for n, text in parts.items() if text]
        choices = (chosen for k in range(len(named) + 1) for chosen in combinations(named, k))

        def write(chosen: Sequence[str]) -> None:
            for n in chosen:
                text, items = parts[n], elements(parts[n])
                one = ", ".join(items) if text[0] == "(" and len(items) > 1 else text
                if 4 * self.depth + len(f"{n} = {one}") <= WIDTH:
                    self(f"{n} = {one}")
                else:
                    self.collection(f"{n} = {text[0]}", items, text[-1])
            for line in begun:
                self(line)
            self.nested(start, arguments(parts | {n: n for n in chosen}), ")")

        coming = self.coming

        def lines(chosen: Sequence[str]) -> int:
            count = len(self.tried(lambda: write(chosen)))
            self.coming = coming
            return count

        write(min(choices, key=lines))

    def nested_items(self, start: str, items: list[str], end: str) -> None:
        """One item a line."""
        self(start)
        for item in items:
            self(f"    {item},")
        self(end)

    def words(self, start: str, words: list[str], plain: bool = False) -> None:
        """``start`` and a tuple of words, or what splits them from a text where they do not fit on a line.

        ``plain``: the text itself.
        """
        one = f"{start}({', '.join(f'{chr(34)}{word}{chr(34)}' for word in words)})"
        one = f'{start}"{" ".join(words)}"' if plain else one
        if 4 * self.depth + len(one) <= WIDTH:
            self(one)
            return
        self(f"{start}(")
        text = " ".join(words)
        alone = len(text) <= WIDTH - 4 * self.depth - 6
        for i, line in enumerate([text] if alone else wrap(text, WIDTH - 4 * self.depth - 7)):
            self(f'    "{" " if i else ""}{line}"')
        self(")" if plain else ").split()")

    def imported(self, module: str, names: list[str]) -> None:
        """``from module import names``, one a line where they do not fit on one."""
        one = f"from {module} import {', '.join(names)}"
        if len(one) <= WIDTH:
            self(one)
        else:
            self.collection(f"from {module} import (", names, ")")

    def targets(self, names: list[str], value: str) -> None:
        """``a, b = value``, one name a line where they do not fit on one."""
        one = f"{', '.join(names)}{',' if len(names) == 1 else ''} = {value}"
        if 4 * self.depth + len(one) <= WIDTH:
            self(one)
            return
        self("(")
        for name in names:
            self(f"    {name},")
        self(f") = {value}")

    def define(self, name: str, args: list[str], returns: str) -> None:
        """The first line of a function, over as many lines as its arguments need."""
        args = args[:-1] if args[-1] == "*" else args
        start, end = f"def {name}(", f") -> {returns}:"
        if 4 * self.depth + len(start) + len(", ".join(args)) + len(end) <= WIDTH:
            self(f"{start}{', '.join(args)}{end}")
            return
        self(start)
        self.depth += 1
        inner = ", ".join(args)
        for line in [inner] if 4 * self.depth + len(inner) <= WIDTH else [f"{a}," for a in args]:
            self(line)
        self.depth -= 1
        self(end)

    def tried(self, write: Callable[[], None]) -> list[str]:
        """The lines that something writes here, not kept."""
        count = len(self.lines)
        write()
        lines = self.lines[count:]
        del self.lines[count:]
        return lines

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def elements(text: str) -> list[str]:
    """The elements of the text of a tuple or a dict."""
    out, depth, start, quoted = [], 0, 1, False
    for i, ch in enumerate(text):
        quoted ^= ch == '"'
        if quoted:
            continue
        depth += (ch in "([{") - (ch in ")]}")
        if (ch == "," and depth == 1) or (ch in ")}" and depth == 0):
            out.append(text[start:i].strip())
            start = i + 1
    return [x for x in out if x]


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Prose broken at spaces, but not inside a shape."""
    lines, current = [], ""
    for word in re.findall(r"(?:\[[^][]{0,40}\]|\S)+", text):
        if current and len(current) + 1 + len(word) > width:
            lines.append(current)
            current = indent + word
        else:
            current = f"{current} {word}" if current else word
    return [*lines, current] if current else lines


def filled(parts: list[str], width: int) -> list[str]:
    """As many parts on each line as fit; one that fits on no line is broken at spaces."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += f" {part}"
        else:
            lines += wrap(part, width, "  ")
    return lines
