"""The readers by themselves: mathematics from random tokens, and places of what YAML reads."""

from __future__ import annotations

import random

import pytest
from judge import check_report
from mutants import GOOD, SEEDS, edited, text_of, tree_of

from nlc.base.diagnostics import Report
from nlc.base.span import Source, Span
from nlc.ir.expr import Expr, walk
from nlc.ir.show import show
from nlc.syntax.math import parse_expr, parse_text
from nlc.syntax.yamlnodes import Mapping, Node, Scalar, Sequence
from nlc.syntax.yamltree import parse_yaml

TOKENS = (
    "x y S W f key 1 2 0.5 1e3 .5 ½ ² ⁻¹ ᵀ .T ∞ inf true false for ( ) [ ] ⟨ ⟩ ‖ ‖² + - − * ⊙ / @ ** = == != ≠ <"
    " <= ≥ , . : ; ^ & | ! ? $ # % ~ ` ' \" \\ { } é 🦆 α β_1 ₂ __class__ lambda \t \n"
).split(" ")


def parsed(text: str) -> tuple[Expr | None, Report]:
    report = Report()
    source = Source("text", text)
    return parse_expr(Scalar(text, Span(source, 0, len(text))), report), report


@pytest.mark.parametrize("seed", range(20))
def test_random_tokens_are_an_expression_or_a_mistake_at_a_place(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        words = rng.choices(TOKENS, k=rng.choice([1, 3, 6, 12]))
        text = rng.choice(["", " "]).join(words)
        e, report = parsed(text)
        check_report(report, "text")
        assert (e is None) == report.has_errors, text
        for node in walk(e) if e is not None else ():
            assert 0 <= node.span.start <= node.span.end <= len(text)


def drawn(rng: random.Random, depth: int) -> str:
    """The text of a random expression."""
    if depth == 0:
        return rng.choice(["x", "S", "alpha", "2", "0.5", "1e-3", "inf"])
    a, b = (drawn(rng, rng.randrange(depth)) for _ in range(2))
    forms = "({a}) + ({b})|({a}) - ({b})|({a}) * ({b})|({a}) / ({b})|({a}) @ ({b})|({a})**({b})|-({a})|f({a}, {b})"
    forms += "|S({a})|({a}).T|f({a}, k={b})|[{a}, {b}]|({a}) < ({b})|sum({a} for i)|h[{a}]|({a})²|‖{a}‖|⟨{a}, {b}⟩"
    return rng.choice(forms.split("|")).format(a=a, b=b)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_shown_reads_as_the_same(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        text = drawn(rng, 5)
        e, report = parsed(text)
        if not report.has_errors:
            assert e is not None and parse_text(show(e)) == e, text


def nodes(node: Node) -> list[Node]:
    if isinstance(node, Mapping):
        return [node, *(n for key, value in node.entries for n in (key, *nodes(value)))]
    return (
        [node, *(n for item in node.items for n in nodes(item))]
        if isinstance(node, Sequence)
        else [node]
    )


@pytest.mark.parametrize("seed", range(20))
def test_texts_stand_where_yaml_reads_them(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20):
        text = rng.choice(SEEDS)
        for _ in range(rng.choice([0, 1, 2])):
            text = edited(rng, text)
        source, report = Source("text", text), Report()
        root = parse_yaml(source, report)
        check_report(report, "text")
        for node in nodes(root) if root is not None else ():
            assert 0 <= node.span.start <= node.span.end <= len(text)
            if isinstance(node, Scalar) and not node.style and "\n" not in node.span.text:
                assert node.broken or node.span.text == node.text
            for i in range(len(node.text)) if isinstance(node, Scalar) and not node.broken else ():
                place = node.span_of(i, i + 1)
                assert node.span.start <= place.start <= place.end <= node.span.end


def test_trees_are_read_as_they_are_written() -> None:
    for text in GOOD:
        tree = tree_of(text)
        root = parse_yaml(Source("text", text_of(tree)), Report())
        assert [key.text for key, _ in root.entries] == [*tree]
