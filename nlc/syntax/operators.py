"""The operators of expressions, as the grammar has them: how tightly they bind, and every way to write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nlc.syntax.math import grammar

# By alternative of ``math.lark``: what it means, and an example.
_MEANING = {
    "eq": ("whether two numbers are equal", "x == y"),
    "ne": ("whether they differ", "x != y"),
    "lt": ("less", "x < y"),
    "le": ("less or equal", "x <= y"),
    "gt": ("greater", "x > y"),
    "ge": ("greater or equal", "x >= y"),
    "add": ("sum", "x + y"),
    "sub": ("difference", "x - y"),
    "mul": ("product, element by element", "x * y"),
    "div": ("quotient, element by element", "x / y"),
    "matmul": (
        "product of matrices, or of a matrix and a vector; `x @ A` of a vector x is `A.T @ x`",
        "A @ x",
    ),
    "neg": ("sign", "-x"),
    "pow": ("power; binds tighter than a sign before it", "-x**2"),
    "call": ("a function, or a read of a memory", "S(k)"),
    "fold": ("a sum over the members of a family", "sum(h[i] for i)"),
    "index": ("a member of a family, or of a hyper that is a list; the label of a weight", "C[i]"),
    "attr": ("a flow or a state of a level; `.T` is the transpose", "S.key"),
    "transpose": ("the transpose", "Aᵀ"),
    "superscript": ("a power that is a whole number", "x⁻¹"),
    "name": ("a name; Greek letters are their names, lowered digits are digits", "β₁"),
    "num": ("a number", "1e-3"),
    "fraction": ("a fraction", "½"),
    "inf": ("infinity", "∞"),
    "true": ("a switch that is on", "true"),
    "false": ("a switch that is off", "false"),
    "group": ("brackets", "(x + y) * z"),
    "list": ("sizes, or a list of numbers", "[n, n]"),
    "norm": ("Euclidean norm", "‖x‖"),
    "sqnorm": ("squared norm", "‖x‖²"),
    "inner": ("inner product", "⟨x, y⟩"),
}


@dataclass(frozen=True)
class Operator:
    """``binds``: the rule of the grammar, operators of one rule bind alike; ``symbols``: its ways of writing."""

    name: str
    binds: str
    symbols: tuple[str, ...]
    doc: str
    example: str


def operators() -> list[Operator]:
    """From loose to tight, as the grammar lists them."""
    terminals = {t.name: tuple(_spellings(t.pattern.to_regexp())) for t in grammar().terminals}
    found: dict[str, Operator] = {}
    for rule in grammar().rules:
        if rule.alias is None or rule.alias == "keyword":
            continue
        signs = [terminals[s.name] for s in rule.expansion if s.is_term]
        doc, example = _MEANING[rule.alias]
        symbols = signs[0] if len(signs) == 1 else ()  # brackets are in the example
        known = found[rule.alias].symbols if rule.alias in found else ()
        found[rule.alias] = Operator(
            rule.alias, str(rule.origin.name), (*known, *symbols), doc, example
        )
    return list(found.values())


def _spellings(pattern: str) -> Iterator[str]:
    """``(?:!=|≠)`` is two ways of writing; a class of characters has too many to list."""
    for part in [] if "[" in pattern else pattern.removeprefix("(?:").removesuffix(")").split("|"):
        yield re.sub(r"\\(.)", r"\1", part)
