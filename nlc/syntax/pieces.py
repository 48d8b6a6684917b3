"""An expression as written -> its tokens in canonical spelling and spacing: ASCII, as ``show`` prints.

What the user chose stays: brackets, the spelling of numbers, where lines break. A piece knows where
it comes from, so that whoever puts the pieces together sees the line breaks between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lark import Token, Tree

from nlc.syntax.clock import words
from nlc.syntax.math import grammar
from nlc.syntax.symbols import ascii_name, fraction, superscript
from nlc.syntax.yamlnodes import Scalar

NONE, AROUND, AFTER = range(3)  # no space, one around an operator, one behind a comma or a word


@dataclass(frozen=True)
class Piece:
    """A token; ``start`` and ``end`` are places in the source, ``space`` what stands before it."""

    text: str
    start: int
    end: int
    space: int = NONE


@dataclass(frozen=True)
class _Run:
    """The pieces of a part; ``loose``: what stands behind it would bind tighter than it does."""

    pieces: tuple[Piece, ...]
    loose: bool = False


def expression(scalar: Scalar) -> list[Piece]:
    """The pieces of an expression that has no mistake."""
    done: dict[int, _Run | Token] = {}
    tree = grammar().parse(scalar.text)
    for node in tree.iter_subtrees():  # operands first, so that depth costs no recursion
        children = [c if isinstance(c, Token) else done[id(c)] for c in node.children]
        done[id(node)] = _Writer(scalar).node(node, children)
    root = done[id(tree)]
    assert isinstance(root, _Run)
    return list(root.pieces)


def clock(scalar: Scalar) -> list[Piece]:
    """The pieces of a clock or a period that has no mistake."""
    out: list[Piece] = []
    for word, is_count in words(scalar):
        made = expression(word) if is_count else [_whole(word)]
        out += _spaced(made, AFTER) if out else made
    return out


def word(scalar: Scalar) -> list[Piece]:
    """A text of one piece, without the white space around it; a Greek letter by its name."""
    text = scalar.text
    start = len(text) - len(text.lstrip())
    return [_whole(scalar.part(start, len(text.rstrip())))]


def joined(pieces: list[Piece]) -> str:
    """All of it on one line."""
    return "".join(" " * bool(p.space and i) + p.text for i, p in enumerate(pieces))


def _whole(scalar: Scalar) -> Piece:
    span = scalar.span_of(0, len(scalar.text))
    return Piece(ascii_name(scalar.text), span.start, span.end)


def _spaced(pieces: list[Piece] | tuple[Piece, ...], space: int) -> list[Piece]:
    return [replace(pieces[0], space=space), *pieces[1:]]


_SPELLED = {"≠": "!=", "≤": "<=", "≥": ">=", "−": "-", "⊙": "*", "∞": "inf"}
_CALLED = {"norm": "norm", "sqnorm": "sqnorm", "inner": "dot"}
_OPERATORS = ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "div", "matmul")

_Child = Token | _Run


@dataclass(frozen=True)
class _Writer:
    scalar: Scalar

    def node(self, tree: Tree, children: list[_Child]) -> _Run:
        rule = str(tree.data)
        if rule in _OPERATORS:
            return _Run((*self._of(children[0]), *self._then(AROUND, *children[1:])))
        return _FORMS.get(rule, _Writer._together)(self, rule, children)

    def _of(self, child: _Child) -> tuple[Piece, ...]:
        if isinstance(child, _Run):
            return child.pieces
        return (self._piece(child, _SPELLED.get(str(child), str(child))),)

    def _piece(self, token: Token, text: str) -> Piece:
        span = self.scalar.span_of(token.start_pos, token.end_pos)
        return Piece(text, span.start, span.end)

    def _then(self, space: int, *children: _Child) -> list[Piece]:
        return [p for child in children for p in _spaced(self._of(child), space)]

    def _together(self, rule: str, children: list[_Child]) -> _Run:
        return _Run(tuple(p for child in children for p in self._of(child)))

    def _name(self, rule: str, children: list[_Child]) -> _Run:
        return _Run((self._piece(children[0], ascii_name(str(children[0]))),))

    def _number(self, rule: str, children: list[_Child]) -> _Run:
        return _Run(self._of(children[0]), loose=True)

    def _fraction(self, rule: str, children: list[_Child]) -> _Run:
        return _Run((self._piece(children[0], repr(fraction(children[0]))),), loose=True)

    def _closed(self, child: _Child) -> tuple[Piece, ...]:
        """The pieces in brackets if what stands behind them needs it: ``(2).T``, ``(x**2).T``."""
        pieces = self._of(child)
        if isinstance(child, Token) or not child.loose:
            return pieces
        first, last = pieces[0], pieces[-1]
        return (
            Piece("(", first.start, first.start),
            *pieces,
            Piece(")", last.end, last.end),
        )

    def _power(self, rule: str, children: list[_Child]) -> _Run:
        base = children[0]
        is_number = isinstance(base, _Run) and len(base.pieces) == 1
        start = self._of(base) if is_number else self._closed(base)  # `2**x` needs no brackets
        return _Run((*start, *(p for c in children[1:] for p in self._of(c))))

    def _superscript(self, rule: str, children: list[_Child]) -> _Run:
        power, token = self._power(rule, children[:1]), children[1]
        mark = self._piece(token, "**")
        exponent = replace(mark, text=str(superscript(token)), start=mark.end)
        return _Run((*power.pieces, mark, exponent), loose=True)

    def _transpose(self, rule: str, children: list[_Child]) -> _Run:
        mark = self._piece(children[1], ".T")
        return _Run((*self._closed(children[0]), mark))

    def _attribute(self, rule: str, children: list[_Child]) -> _Run:
        base, dot, name = children
        return _Run((*self._closed(base), *self._of(dot), *self._name(rule, [name]).pieces))

    def _named_call(self, rule: str, children: list[_Child]) -> _Run:
        """``‖x‖`` and its like by the name of the function."""
        opening = self._piece(children[0], _CALLED[rule])
        bracket = Piece("(", opening.end, opening.end)
        inside = self._listed(rule, children[1:-1]).pieces
        return _Run((opening, bracket, *inside, self._piece(children[-1], ")")))

    def _listed(self, rule: str, children: list[_Child]) -> _Run:
        out = list(self._of(children[0]))
        for comma, item in zip(children[1::2], children[2::2], strict=True):
            out += [*self._of(comma), *self._then(AFTER, item)]
        return _Run(tuple(out))

    def _keyword(self, rule: str, children: list[_Child]) -> _Run:
        name, equals, value = children
        return _Run((*self._name(rule, [name]).pieces, *self._of(equals), *self._of(value)))

    def _fold(self, rule: str, children: list[_Child]) -> _Run:
        function, bracket, body, word, index, end = children
        running = self._name(rule, [index])
        start = self._together(rule, [function, bracket, body]).pieces
        return _Run((*start, *self._then(AFTER, word, running), *self._of(end)))

    def _index(self, rule: str, children: list[_Child]) -> _Run:
        """What stands in an index is near: ``h[i-1]``."""
        base, bracket, items, end = children
        near = (replace(p, space=NONE) if p.space == AROUND else p for p in self._of(items))
        return _Run((*self._of(base), *self._of(bracket), *near, *self._of(end)))


_FORMS: dict[str, Callable[[_Writer, str, list[_Child]], _Run]] = {
    "name": _Writer._name,
    "num": _Writer._number,
    "fraction": _Writer._fraction,
    "pow": _Writer._power,
    "superscript": _Writer._superscript,
    "transpose": _Writer._transpose,
    "attr": _Writer._attribute,
    "norm": _Writer._named_call,
    "sqnorm": _Writer._named_call,
    "inner": _Writer._named_call,
    "items": _Writer._listed,
    "arguments": _Writer._listed,
    "keyword": _Writer._keyword,
    "fold": _Writer._fold,
    "index": _Writer._index,
}
