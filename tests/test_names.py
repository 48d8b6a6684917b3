"""No source of the compiler knows a shipped system by its name, but for two words that the language has itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import nlc
from nlc.pipeline import shipped

FILES = sorted(Path(nlc.__file__).parent.rglob("*.py"))
WORDS = {"momentum", "attention"}  # of rules and hypers, and of what a cache does
NAMES = shipped().keys() - WORDS
SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _named(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each identifier and each word of a text that the program holds, with its line; docstrings are comments."""
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, SCOPES) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from ((line, w) for w in re.findall(r"\w+", node.value) if id(node) not in prose)
        for field in ("id", "attr", "name", "arg", "asname", "module", "rest"):
            word = getattr(node, field, None)
            if isinstance(word, str):
                yield from ((line, part) for part in word.split("."))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(FILES[0].parent)))
def test_no_source_knows_a_shipped_system(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known = [f"{path}:{line}: {word}" for line, word in _named(tree) if word in NAMES]
    assert not known, "\n".join(known)


def test_names_are_seen_wherever_they_stand() -> None:
    text = '"""lion"""\nimport lion as x\nx.lion\ndef lion(lion): "lion"\nf(lion=f"a lion {lion}", y="lion-like")'
    lines = [line for line, word in _named(ast.parse(text)) if word == "lion"]
    assert sorted(lines) == [2, 3, 4, 4, 5, 5, 5, 5]
