"""The Pygments lexer: nothing is lost, specs have no error token, words are what the compiler takes them for."""

from __future__ import annotations

import importlib
import random
import time
import tomllib
from pathlib import Path

import pytest
from mutants import SEEDS, edited
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.token import Comment, Error, Keyword, Name, Number, Operator, Punctuation, String
from test_docs import DOCUMENTS, _blocks
from test_fmt import SPECS, noisy

from nlc.lib.functions import FUNCTIONS
from nlc.lib.memories import MEMORIES
from nlc.lib.rules import RULES
from nlc.syntax.schema import Level, Reset, Spec, Weight, keys_of
from nlc.tools.lexer import NlcLexer

ROOT = Path(__file__).parent.parent
LEXER = NlcLexer(stripnl=False, ensurenl=False)


def tokens(text: str) -> list[tuple[object, str]]:
    """Without white space; every character of the text is in one of them."""
    found = list(LEXER.get_tokens(text))
    assert "".join(value for _, value in found) == text.replace("\r\n", "\n").replace("\r", "\n")
    return [(kind, value) for kind, value in found if value.strip()]


def kinds(text: str, word: str) -> set[object]:
    return {kind for kind, value in tokens(text) if value == word}


def no_error(text: str, where: str) -> None:
    assert [value for kind, value in tokens(text) if kind in Error] == [], where


def test_it_is_an_entry_point_of_pygments() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    module, _, name = points["pygments.lexers"]["nlc"].partition(":")
    assert getattr(importlib.import_module(module), name) is NlcLexer
    assert NlcLexer.aliases == ["nlc"]


@pytest.mark.parametrize("name", SPECS)
def test_specs_have_no_error_token(name: str) -> None:
    no_error(SPECS[name], name)
    no_error(noisy(random.Random(name), SPECS[name]), name)
    assert NlcLexer.analyse_text(SPECS[name]) == 1


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_specs_of_the_documents_have_no_error_token(document: Path) -> None:
    for block in _blocks(document):
        if block.kind == "yaml" and block.text.startswith("nlc:"):
            no_error(block.text, f"{document.name}:{block.line}")


def test_keys_of_the_language() -> None:
    for block in (Spec, Level, Weight, Reset):
        for key in keys_of(block):
            if key not in ("nlc", "context"):  # of which only some words make sense
                assert Name.Tag in kinds(f"  {key}: x\n", key), key


@pytest.mark.parametrize(
    ("names", "kind"),
    [(FUNCTIONS, Name.Builtin), (MEMORIES, Name.Class), (RULES, Name.Function)],
)
def test_names_of_the_tables(names: dict[str, object], kind: object) -> None:
    for name in names:
        assert kinds(f"a: {name}(x)\n", name) == {kind}, name


def test_an_expression_token_by_token() -> None:
    text = "    objective: ½ * ‖M[k](key) − v‖² + gd(lr=1e-3)**α₁ <= inf  # why\n"
    assert tokens(text) == [
        (Name.Tag, "objective"), (Punctuation, ":"), (Number, "½"), (Operator, "*"),
        (Operator, "‖"), (Name, "M"), (Punctuation, "["), (Name, "k"), (Punctuation, "]"),
        (Punctuation, "("), (Name, "key"), (Punctuation, ")"), (Operator, "−"), (Name, "v"),
        (Operator, "‖²"), (Operator, "+"), (Name.Function, "gd"), (Punctuation, "("),
        (Name.Attribute, "lr"), (Operator, "="), (Number, "1e-3"), (Punctuation, ")"),
        (Operator, "**"), (Name, "α₁"), (Operator, "<="), (Number, "inf"), (Comment.Single, "# why"),
    ]  # fmt: skip


def test_clocks_choices_prose_and_families() -> None:
    clock = "  frequency: every 2 * n tokens\n  reset: {every: k steps, to: every}\n"
    assert kinds(clock, "every") >= {Keyword, Name.Tag}
    assert kinds(clock, "tokens") == kinds(clock, "steps") == {Keyword}
    assert kinds(clock, "n") == {Name}
    assert kinds("context: tokens\n", "tokens") == {Keyword.Constant}
    assert kinds("context: token\n", "token") == {Error}
    prose = "doc: >-\n  It's: a {text},\n\n  and #more\nhyper:\n  d: 1\n"
    assert [kind for kind, value in tokens(prose) if "It's" in value or "more" in value] == [String]
    assert kinds(prose, "d") == {Name.Variable}
    assert kinds("doc: some  # why\n", "# why") == {Comment.Single}
    assert kinds("let:\n  h[i-1]: x\n", "h") == {Name.Variable}
    assert kinds("y: sum(h[i] for i)\n", "for") == {Keyword}
    line = "# yaml-language-server: $schema=nlc.schema.json"
    assert kinds(f"{line}\nnlc: 1\n", line) == {Comment.Special}


def test_what_is_no_token_is_an_error() -> None:
    assert kinds("a: x ^ 2\n", "^") == {Error}
    assert kinds("a: x && y\n", "&") == {Error}


def test_any_text_is_lexed_and_soon() -> None:
    rng = random.Random(5)
    for _ in range(200):
        tokens(edited(rng, rng.choice(SEEDS)))
    for text in ("a" * 50_000, "(" * 50_000, "doc: x\n" * 5000, "x: " * 20_000, " " * 50_000 + "#"):
        started = time.process_time()
        tokens(text)
        assert time.process_time() - started < 5, text[:10]


def test_markup_cannot_break_out() -> None:
    made = highlight("doc: </span><script>\nx: a  # </pre>\n", LEXER, HtmlFormatter())
    assert "<script>" not in made and made.count("</pre>") == 1
