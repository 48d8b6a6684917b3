"""A spec -> its canonical text: block style, one field a line, ASCII mathematics, every comment kept.

``writer`` writes it. Here it is checked before it is given: it says the same, no comment is lost,
and it is its own canonical text.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from nlc.base.diagnostics import InternalError, Report
from nlc.base.span import Source, Span
from nlc.ir.expr import Expr
from nlc.syntax.lines import between
from nlc.syntax.parse import parse
from nlc.syntax.tree import Word
from nlc.syntax.writer import written
from nlc.syntax.yamlnodes import Mapping, Node, Scalar, Sequence
from nlc.syntax.yamltree import parse_yaml


def formatted(source: Source, report: Report) -> str | None:
    """The canonical text, or None if the spec cannot be read; the report says why.

    What is wrong with what it means, names and sizes, is no matter here. Line breaks are ``\\r\\n``
    if the first one is. Raises InternalError rather than give a text that would say something else.
    """
    tree = parse(source, report)
    if tree is None or report.has_errors:
        return None
    plain = Source(source.name, source.text.replace("\r\n", "\n"))
    made = Source(source.name, written(plain, _root(plain)))
    again = parse(made, Report())
    if again is None or _said(again) != _said(tree):
        raise InternalError(f"formatting would change what {source.name} says")
    if _comments(made) != _comments(plain):
        raise InternalError(f"formatting would lose a comment of {source.name}")
    if written(made, _root(made)) != made.text:
        raise InternalError(f"formatting {source.name} twice would change it twice")
    windows = source.text.partition("\n")[0].endswith("\r")
    return made.text.replace("\n", "\r\n") if windows else made.text


def _root(source: Source) -> Mapping:
    root = parse_yaml(source, Report())
    assert root is not None
    return root


def _said(part: object) -> object:
    """What a tree says: all of it but places, and how much white space stands in prose."""
    if isinstance(part, Word):
        return [line.split() for line in part.text.split("\n")]
    if is_dataclass(part) and not isinstance(part, Expr):
        said = (getattr(part, f.name) for f in fields(part) if f.compare)
        return type(part), [_said(x) for x in said if not isinstance(x, Span | Source)]
    return [_said(x) for x in part] if isinstance(part, tuple) else part


def _comments(source: Source) -> list[str]:
    """Every comment, in the order of the alphabet: formatting may move one above a key."""
    out, at = [], 0
    for scalar in _scalars(_root(source)):
        out += between(source.text[at : scalar.span.start], at)
        at = scalar.span.end
        if scalar.style in ("|", ">"):
            out += between(scalar.span.text.partition("\n")[0], scalar.span.start)
    out += between(source.text[at:], at)
    return sorted(comment for comment, _ in out)


def _scalars(node: Node) -> list[Scalar]:
    """In the order of the text."""
    if isinstance(node, Scalar):
        return [node]
    parts = node.items if isinstance(node, Sequence) else [n for e in node.entries for n in e]
    return [scalar for part in parts for scalar in _scalars(part)]
