"""`torch` is `reference`: outputs, states and every gradient in float64, of what is shipped and of small systems."""

from __future__ import annotations

import textwrap

import pytest
from agreement import Both

import nlc
from nlc.pipeline import shipped

SEVERAL = 150  # tokens, in chunks of at most 64
HEAD = """
nlc: 1
system: small
context: tokens
hyper: {dk: 3, dv: 2, d: 4}
"""


def token_specs() -> list[tuple[str, bool]]:
    """Every shipped token system, and its operator where it has memories."""
    names = [n for n in shipped() if nlc.load(n).tree.context.text == "tokens"]
    return [(n, operator) for n in names for operator in (False, True)]


@pytest.mark.parametrize(("name", "operator"), token_specs())
def test_what_is_shipped(name: str, operator: bool) -> None:
    """One token; below, at and across boundaries of tiles, from within a period too; several chunks without tiles."""
    both = Both(nlc.load(name, operator=operator))
    p = both.period
    cases = [(1, 0), (p - 1, 0), (p, p), (p + 2, p // 2 + 1)] if p > 1 else [(1, 0), (SEVERAL, 2)]
    for length, before in cases:
        assert both.apart(length, before) == {}, (length, before)


@pytest.mark.long
@pytest.mark.parametrize(("name", "operator"), token_specs())
def test_what_is_shipped_at_its_own_periods(name: str, operator: bool) -> None:
    both = Both(nlc.load(name, operator=operator), periods=False)
    p = both.period
    length = SEVERAL if p == 1 else min(2 * p + 3, SEVERAL)
    assert both.apart(length, before=5, batch=1) == {}


FOUND = {
    "weights that read their momentum, number by number": """
        inputs: {a: []}
        levels:
          A:
            frequency: every token
            memory: scalar
            objective: -A * a
            rule: momentum(lr=1, rate=0.2, beta=a * exp(-a))
        output: prev(A) * a
    """,
    "a state that is itself an output": """
        inputs: {k: [dk], q: [dk], a: []}
        outputs: {y: [dk], n: []}
        levels:
          A:
            frequency: every token
            memory: vector(dk)
            update: exp(-a) * A + a * k
        output: {y: A, n: "dot(A, q)"}
    """,
    "a sum of what two loops know": """
        inputs: {k: [dk], q: [dk], a: []}
        levels:
          A:
            frequency: every token
            memory: mlp(dk, 1)
            key: k
            value: q
            anchor: every 4 tokens
            objective: 0.5 * sqnorm(A(key) - value)
            rule: dgd(lr=0.3)
            init: learned
          B:
            frequency: every token
            memory: vector(dk)
            objective: 0.5 * sqnorm(B - k)
            rule: momentum(lr=0.2, rate=0.5, beta=a, decay=0.9)
        output: anchor(A)(q) + prev(B)
    """,
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_what_random_systems_have_found(what: str) -> None:
    both = Both(nlc.loads(HEAD + textwrap.dedent(FOUND[what])))
    p = both.period
    for length, before in ((1, 0), (p + 1, 0), (2 * p + 3, p // 2 + 1), (SEVERAL // 2, 2)):
        assert both.apart(length, before) == {}, (length, before)
