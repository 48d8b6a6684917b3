"""A scalar -> how it is written: as plain text where YAML reads that back, else in quotes or a block."""

from __future__ import annotations

import re

import yaml
from lark import UnexpectedInput

from nlc.syntax import pieces
from nlc.syntax.pieces import Piece
from nlc.syntax.yamlnodes import Scalar
from nlc.syntax.yamlplace import quoted

_BLANKS = " \t"  # of YAML; a no-break space is text
_INDENT = 2  # spaces of an indentation
_READERS = {
    "expression": pieces.expression,
    "clock": pieces.clock,
    "choice": pieces.word,
    "name": pieces.word,
    "word": pieces.word,
}
_RESOLVER = yaml.resolver.Resolver()
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BLANK = re.compile(r"[ \t]+$")
_TRAILING = re.compile(r"(?<!\\)[ \t]+$")  # an escaped blank is part of the text
_HEADER = re.compile(r"(?P<style>[|>])(?P<marks>[-+0-9]*)[^#\n]*(?P<comment>#[^\n]*)?")


def key(scalar: Scalar, is_name: bool, flow: bool = False) -> str:
    """A key; one that is a name, ``M[s]`` or ``read(z)`` is written as expressions are."""
    text = scalar.text.strip()
    if is_name:
        try:
            text = pieces.joined(pieces.expression(scalar))
        except UnexpectedInput:  # a word of ours, such as `for`, that names an output
            text = pieces.joined(pieces.word(scalar))
    plain = f"{{{text}: x}}" if flow else f"{text}: x"
    return text if _texts(plain) == [text, "x"] else quoted(text)


def words(scalar: Scalar, kind: str, flow: bool) -> list[Piece]:
    """The pieces of a scalar that is no prose, in quotes if it needs them."""
    out = _READERS[kind](scalar)
    text = pieces.joined(out)
    plain = f"{{k: {text}}}" if flow else f"k: {text}"
    if _texts(plain) == ["k", text] and text != "null":
        return out
    first, last = out[0], out[-1]
    return [Piece('"', first.start, first.start), *out, Piece('"', last.end, last.end)]


def prose(scalar: Scalar) -> list[str]:
    """The lines of a text behind a key that is no block: those that it has, without their indentation."""
    written, text = scalar.span.text, scalar.text.strip()
    if "\n" in written:
        trailing = _TRAILING if scalar.style == '"' else _BLANK
        return [trailing.sub("", line.lstrip(" \t")) for line in written.split("\n")]
    if not scalar.style or not text.isprintable():
        return [written]
    if _texts(f"k: {text}") == ["k", text] and _is_text(text):
        return [text]
    return [quoted(text)]


def header(scalar: Scalar) -> tuple[str, str]:
    """``|-`` or the like of a block of text, and the comment behind it."""
    found = _HEADER.match(scalar.span.text)
    assert found is not None
    indented = "" if not _first(scalar.text).startswith(" ") else str(_INDENT)
    chomp = re.sub(r"\d", "", found["marks"])
    return found["style"] + indented + chomp, (found["comment"] or "").rstrip()


def content(scalar: Scalar) -> list[str]:
    """The lines of a block of text without their indentation; blank ones at its end count if kept."""
    lines = scalar.span.text.removesuffix("\n").split("\n")[1:]
    base = _depth(_first(*lines)) - _depth(_first(scalar.text))
    out = [line[base:] for line in lines]
    if scalar.style == "|" or all(line.strip(_BLANKS) or not line for line in out):
        out = [
            line.rstrip(_BLANKS) for line in out
        ]  # a folded line of blanks says where not to fold
    while out and not out[-1] and "+" not in header(scalar)[0]:
        out.pop()
    return out


def _first(*texts: str) -> str:
    """The first line that is not blank."""
    lines = (line for text in texts for line in text.split("\n"))
    return next((line for line in lines if line.strip(_BLANKS)), "")


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _texts(document: str) -> list[str] | None:
    """What YAML reads in a document of plain scalars; None if it is not one."""
    out = []
    try:
        for event in yaml.parse(document, Loader=_LOADER):
            if (
                isinstance(event, yaml.ScalarEvent)
                and event.style in (None, "")
                and not (event.anchor or event.tag)
            ):
                out.append(event.value)
            elif isinstance(event, yaml.AliasEvent | yaml.ScalarEvent | yaml.SequenceStartEvent):
                return None
    except yaml.MarkedYAMLError:
        return None
    return out


def _is_text(text: str) -> bool:
    """Whether YAML takes a plain scalar for text: our reader does always, others do not."""
    return _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)).endswith(":str")
