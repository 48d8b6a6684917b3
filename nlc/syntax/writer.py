"""The tree of a spec's YAML -> its canonical text, with what the source has between its tokens.

Blocks are written key by key in their order. Between two tokens stand comments and blank lines, and
those are written between the same two again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nlc.base.span import Source
from nlc.syntax import scalars
from nlc.syntax.lines import APART, COMMENT, Line, aligned, between, column, laid
from nlc.syntax.pieces import AFTER, Piece
from nlc.syntax.schema import Spec, Takes, keys_of, takes
from nlc.syntax.yamlnodes import Mapping, Node, Scalar, Sequence

WIDTH = 100  # a value below its key stays there if one line would be longer
STEP = 2  # spaces of an indentation
_EXPRESSION = Takes("expression")


def written(source: Source, root: Mapping) -> str:
    """The canonical text of a spec without mistakes; its line breaks are ``\\n``."""
    return _Writer(source).document(root)


@dataclass(frozen=True)
class _Frame:
    """An open block: where its keys stand in the source, and where they are written."""

    column: int
    indent: int


@dataclass
class _Writer:
    """``at`` is the end of what is written; ``trail`` are the blocks that the last line is in."""

    source: Source
    lines: list[Line] = field(default_factory=list)
    frames: list[_Frame] = field(default_factory=list)
    trail: list[_Frame] = field(default_factory=list)
    at: int = 0
    hoisted: set[int] = field(default_factory=set)  # places of comments that are written already

    def document(self, root: Mapping) -> str:
        top = _Frame(column(self.source, _start(root)), 0)
        self._entries(root, top, Takes(block=Spec))
        self.frames.append(top)
        self._between(len(self.source.text) + 1)
        while not self.lines[-1].text:
            self.lines.pop()
        return "".join(f"{line}\n" for line in aligned(self.lines))

    # --------------------------------------------------------------------------------------- blocks

    def _entries(self, node: Mapping, frame: _Frame, kind: Takes) -> None:
        self.frames.append(frame)
        for key, value in node.entries:
            self._between(key.span.start)
            self._line(f"{_key(key, kind)}:", key.span.end)
            self._value(value, column(self.source, key.span.start), _behind(kind, key))
        self.frames.pop()

    def _items(self, node: Sequence, frame: _Frame) -> None:
        self.frames.append(frame)
        for item in node.items:
            self._between(item.span.start)
            self._line("-", item.span.start)
            self._value(item, frame.column, _EXPRESSION)
        self.frames.pop()

    def _value(self, node: Node, start: int, kind: Takes) -> None:
        """What stands behind the key of the last line, which is in the column ``start``."""
        below = _Frame(column(self.source, _start(node)), self.frames[-1].indent + STEP)
        if isinstance(node, Mapping) and not _on_one_line(node, kind):
            self._hoist(node)
            self._entries(node, below, kind)
        elif isinstance(node, Sequence) and not node.flow:
            self._items(node, below)
        elif isinstance(node, Scalar) and node.style in ("|", ">"):
            self._block(node, kind)
        elif isinstance(node, Scalar) and kind.text == "prose":
            self._put(node, [Line(below.indent, text) for text in scalars.prose(node)])
        else:
            self._inline(node, start, kind)

    def _inline(self, node: Node, start: int, kind: Takes) -> None:
        indent = self.frames[-1].indent
        pieces = _pieces(node, kind, flow=False)
        self._put(node, laid(self.source, pieces, indent, start, indent + STEP))

    def _block(self, node: Scalar, kind: Takes) -> None:
        """A block of text; an expression has one only if it needs it for its lines."""
        indent = self.frames[-1].indent + STEP
        mark, comment = scalars.header(node)
        kept = "+" in mark  # the blank lines behind it are part of the text
        if kind.text == "prose":
            lines = [Line(indent, mark), *(Line(indent, text) for text in scalars.content(node))]
        else:
            pieces = _pieces(node, kind, flow=False)
            start = column(self.source, pieces[0].start)
            lines = laid(self.source, pieces, indent, start, indent)
            if len(lines) > 1:
                bare = pieces[1:-1] if pieces[0].text == '"' else pieces
                lines = [Line(indent, "|"), *laid(self.source, bare, indent, start, indent)]
        if comment:
            lines[0].comment = comment
            lines[0].column = column(self.source, self.source.text.index("#", node.span.start))
        self._put(node, lines)
        text = node.span.text
        self.at -= text.endswith("\n") if kept else len(text) - len(text.rstrip(" \t\n"))

    def _put(self, node: Node, lines: list[Line]) -> None:
        """Lines of a value: from behind its key on, or below it if they were and are long."""
        gap = self.source.text[self.at : node.span.start]
        key = self.lines.pop()
        self.lines += [Line(key.indent, comment) for comment, _ in between(gap, self.at)]
        too_long = len(lines) > 1 or key.width + 1 + len(lines[0].text) > WIDTH
        if "\n" in gap and too_long and not lines[0].text.startswith(("|", ">")):
            self.lines.append(key)
        else:
            lines[0] = replace(lines[0], indent=key.indent, text=f"{key.text} {lines[0].text}")
        self.lines += lines
        self.at = node.span.end

    def _hoist(self, node: Mapping) -> None:
        """A comment behind a mapping on one line goes with the key of the mapping."""
        end = node.span.end
        behind = self.source.text[end:].partition("\n")[0].strip()
        if node.flow and "\n" not in node.span.text and behind.startswith("#"):
            key = self.lines[-1]
            key.comment, key.column = behind, key.width + APART
            self.hoisted.add(self.source.text.index("#", end))

    def _line(self, text: str, end: int) -> None:
        self.lines.append(Line(self.frames[-1].indent, text))
        self.trail, self.at = list(self.frames), end

    # ------------------------------------------------------------------------------- between tokens

    def _between(self, until: int) -> None:
        """Writes the comments and blank lines from where we are to a token."""
        at, lines = self.at, self.source.text[self.at : until].split("\n")
        for i, line in enumerate(lines):
            found = COMMENT.search(line)
            place = at + found.start() if found else at
            if found and place not in self.hoisted:
                if i == 0 and self.lines:
                    self._comment_behind(found.group().rstrip(), place)
                else:
                    self._comment(found.group().rstrip(), place)
            elif not line.strip() and 0 < i < len(lines) - 1 and self.lines:
                self._blank()
            at += len(line) + 1
        self.at = until

    def _comment_behind(self, text: str, at: int) -> None:
        self.lines[-1].comment, self.lines[-1].column = text, column(self.source, at)

    def _comment(self, text: str, at: int) -> None:
        """A comment on its own line is in the innermost block that starts no further right."""
        inner = reversed(self.trail[len(self.frames) - 1 :])
        fitting = (frame for frame in inner if frame.column <= column(self.source, at))
        self.lines.append(Line(next(fitting, self.frames[-1]).indent, text))

    def _blank(self) -> None:
        if self.lines[-1].text:
            self.lines.append(Line(0, ""))


def _behind(kind: Takes, key: Scalar) -> Takes:
    if kind.block is not None:
        return takes(kind.block, key.text)
    return kind.members or _EXPRESSION


def _key(key: Scalar, kind: Takes, flow: bool = False) -> str:
    own = kind.block is not None and key.text in keys_of(kind.block)
    return scalars.key(key, is_name=not own, flow=flow)


def _start(node: Node) -> int:
    """Where the first token in it stands."""
    if isinstance(node, Mapping) and node.entries:
        return node.entries[0][0].span.start
    return node.span.start


def _on_one_line(node: Mapping, kind: Takes) -> bool:
    """Whether a mapping keeps its brackets: an empty one, or a small one on one line."""
    return node.flow and (not node.entries or (kind.small and "\n" not in node.span.text))


def _pieces(node: Node, kind: Takes, flow: bool) -> list[Piece]:
    """The pieces of what stands behind a key; ``flow``: within brackets of YAML."""
    if isinstance(node, Scalar):
        return scalars.words(node, kind.text, flow)
    if isinstance(node, Sequence):
        return _bracketed(node, "[]", [_pieces(item, kind, True) for item in node.items])
    items = []
    for key, value in node.entries:
        name = Piece(f"{_key(key, kind, flow=True)}:", key.span.start, key.span.end)
        first, *rest = _pieces(value, _behind(kind, key), True)
        items.append([name, replace(first, space=AFTER), *rest])
    return _bracketed(node, "{}", items)


def _bracketed(node: Mapping | Sequence, brackets: str, items: list[list[Piece]]) -> list[Piece]:
    start, end = node.span.start, node.span.end
    out = [Piece(brackets[0], start, start + node.flow)]
    for i, item in enumerate(items):
        if i:
            last = out[-1].end
            out.append(Piece(",", last, last))
            item = [replace(item[0], space=AFTER), *item[1:]]
        out += item
    return [*out, Piece(brackets[1], end - node.flow, end)]
