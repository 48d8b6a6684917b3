"""Specs in colours, by Pygments: the lexer ``nlc`` of documents and notebooks.

It knows no word of its own. Keys and what stands behind them come from ``syntax/schema``, tokens of
expressions from the grammar, names from the tables of functions, memories and rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from pygments.lexer import RegexLexer, include
from pygments.style import Style
from pygments.token import (
    Comment,
    Error,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Whitespace,
    _TokenType,
)

from nlc.lib.functions import FUNCTIONS
from nlc.lib.memories import MEMORIES
from nlc.lib.rules import RULES
from nlc.syntax.clock import WORDS
from nlc.syntax.math import grammar
from nlc.syntax.schema import (
    Block,
    Family,
    InlineMemory,
    Level,
    Reset,
    Route,
    Spec,
    Weight,
    choices_of,
    keys_of,
    takes,
)
from nlc.syntax.values import RESERVED

_Found = Iterator[tuple[int, _TokenType, str]]

# Of keys that several blocks have, the first says what stands behind it.
_BLOCKS: tuple[type[Block], ...] = (Spec, Level, Weight, Reset, Family, Route, InlineMemory)
_KEYS: dict[str, str] = {}
_CHOICES: dict[str, tuple[str, ...]] = {}
for _block in _BLOCKS:
    for _key in keys_of(_block):
        _KEYS.setdefault(_key, takes(_block, _key).text)
        _CHOICES.setdefault(_key, choices_of(_block, _key))

_NAMES: dict[str, _TokenType] = {
    **dict.fromkeys(RESERVED, Name.Builtin.Pseudo),
    **dict.fromkeys(FUNCTIONS, Name.Builtin),
    **dict.fromkeys(MEMORIES, Name.Class),
    **dict.fromkeys(RULES, Name.Function),
    **dict.fromkeys(["true", "false"], Keyword.Constant),
    "for": Keyword,
    "inf": Number,
}


class NlcStyle(Style):
    """Colours that can be read on white and on black."""

    styles: ClassVar = {
        Name.Tag: "bold #2f7dc0",
        Name.Variable: "#0f8f82",
        Name.Builtin: "#8a63d2",
        Name.Builtin.Pseudo: "#c2578c",
        Name.Class: "#b3721d",
        Name.Function: "#b3721d",
        Name.Attribute: "italic",
        Keyword: "#c2578c",
        Number: "#a8791a",
        String: "#4f8f3a",
        Comment: "italic #808890",
        Error: "underline #d04040",
    }


_KINDS = {
    "NUMBER": Number, "FRACTION": Number, "INFINITY": Number, "SUPERSCRIPT": Number,
    **dict.fromkeys("COMMA LPAR RPAR LSQB RSQB LANGLE RANGLE".split(), Punctuation),
}  # fmt: skip
_WORDS = {"FOR", "TRUE", "FALSE", "INF"}  # the names of ``_NAMES``, with their bounds


def _terminals() -> dict[str, str]:
    """The regular expression of each token of an expression, by its name; the longest first."""
    found = sorted(grammar().terminals, key=lambda t: -t.pattern.max_width)
    return {t.name: t.pattern.to_regexp() for t in found}


_TERMINALS = _terminals()
_NAME = _TERMINALS["NAME"]
_GIVEN = re.compile(r"[ \t]*=(?!=)")  # behind the name of an argument
_BEHIND = r"(?=[ \t]*(?:\[[^\]\n]*\]|\([^)\n]*\))?[ \t]*[\"']?:(?:\s|$))"


def _key_token(lexer: RegexLexer, match: re.Match[str]) -> _Found:
    name = match.group()
    yield match.start(), Name.Tag if name in _KEYS else Name.Variable, name


def _name_token(lexer: RegexLexer, match: re.Match[str]) -> _Found:
    name = match.group()
    plain = Name.Attribute if _GIVEN.match(match.string, match.end()) else Name
    yield match.start(), _NAMES.get(name, plain), name


def _prose(lexer: RegexLexer, match: re.Match[str]) -> _Found:
    """``doc: …`` with the lines that are indented below it."""
    kinds = (Whitespace, Name.Tag, Punctuation, Whitespace)
    for group, kind in enumerate(kinds, 1):
        if match[group]:
            yield match.start(group), kind, match[group]
    text, start = match[5], match.start(5)
    comment = None if text[:1] in "\"'" else re.search(r"(?:^|(?<=[ \t]))#[^\n]*", text)
    if comment and "\n" not in text[: comment.start()]:
        yield start, String, text[: comment.start()]
        yield start + comment.start(), Comment.Single, comment.group()
        text, start = text[comment.end() :], start + comment.end()
    if text:
        yield start, String, text


def _words(lexer: RegexLexer, match: re.Match[str]) -> _Found:
    """The key and texts that are no mathematics."""
    kinds = (Name.Tag, Punctuation, Whitespace, String)
    for group, kind in enumerate(kinds, 1):
        yield match.start(group), kind, match[group]


def _choice(lexer: RegexLexer, match: re.Match[str]) -> _Found:
    """The key and a word of those that it takes."""
    key, word = match[1], match[4]
    yield match.start(1), Name.Tag, key
    yield match.start(2), Punctuation, match[2]
    yield match.start(3), Whitespace, match[3]
    yield match.start(4), Keyword.Constant if word in _CHOICES[key] else Error, word


def _any(words: object) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


def _of(kind: str) -> str:
    return _any(key for key, text in _KEYS.items() if text == kind)


class NlcLexer(RegexLexer):
    """A spec of nlc, or a part of one."""

    name = "nlc"
    aliases: ClassVar = ["nlc"]
    filenames: ClassVar = []  # specs are .yaml, and not all YAML are specs
    flags = re.MULTILINE

    tokens: ClassVar = {
        "root": [
            (rf"^([ ]*)({_of('prose')})(:)([ \t]*)(.*(?:\n(?:\1[ ]+.*|[ \t]*(?=\n)))*)", _prose),
            (rf"\b({_of('choice')})(:)([ \t]+[\"']?)([\w.]+)", _choice),
            (
                rf"\b({_of('word')})(:)([ \t]+)(\[[^\]\n]*\]|\"[^\"\n]*\"|'[^'\n]*'|[^\s,}}#][^,}}#\n]*)",
                _words,
            ),
            (rf"\b(?:{_of('clock')})(?=:\s)", Name.Tag, "clock"),
            (rf"{_NAME}{_BEHIND}", _key_token),
            (r"^(?:---|\.\.\.)(?=\s|$)|^%YAML.*", Comment.Preproc),
            (r"(?<=:)([ \t]+)([|>][-+0-9]*)(?=[ \t]*(?:#|$))", Punctuation),
            include("expression"),
        ],
        "clock": [
            (r"(?=[\n,}{#])", Whitespace, "#pop"),
            (rf"\b(?:{_any(WORDS)})\b", Keyword),
            include("expression"),
        ],
        "expression": [
            (r"\n|[ \t\r\u00a0\u2009\u202f]+", Whitespace),
            (r"(?:^|(?<=\s))# yaml-language-server:.*", Comment.Special),
            (r"(?:^|(?<=\s))#.*", Comment.Single),
            (_NAME, _name_token),
            *(
                (pattern, _KINDS.get(name, Operator))
                for name, pattern in _TERMINALS.items()
                if name not in {*_WORDS, "NAME"} and not name.startswith("__")
            ),
            (r"[{}:\"']", Punctuation),  # of YAML
        ],
    }

    def analyse_text(text: str) -> float:  # Pygments makes it static
        return 1.0 if re.search(r"^nlc: *[\"']?1\b", text, re.MULTILINE) else 0.0
