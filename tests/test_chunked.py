"""`torch` is `reference`: outputs, states and every gradient in float64, of what is shipped and of small systems."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch
from agreement import Both
from shipped_specs import TOKENS, load

import nlc

SEVERAL = 150  # tokens, in chunks of at most 64
FEW = 12
HEAD = """
nlc: 1
system: small
context: tokens
hyper: {dk: 3, dv: 2, d: 4}
"""


def token_specs() -> list[tuple[str, bool]]:
    """Every shipped token system, and its operator where it has memories."""
    return [(n, operator) for n in TOKENS for operator in (False, True)]


def _several(both: Both) -> int:
    """A loop over tokens has no chunks, and what it does not bound grows or dies under gates drawn at random."""
    return SEVERAL if {*both.plans.values()} != {"sequential"} else FEW


@pytest.mark.parametrize(("name", "operator"), token_specs())
def test_what_is_shipped(name: str, operator: bool) -> None:
    """One token; below, at and across boundaries of tiles, from within a period too; several chunks without tiles."""
    both = Both(load(name, operator=operator))
    p, several = both.period, _several(both)
    cases = [(1, 0), (p - 1, 0), (p, p), (p + 2, p // 2 + 1)] if p > 1 else [(1, 0), (several, 2)]
    for length, before in cases:
        assert both.apart(length, before) == {}, (length, before)


@pytest.mark.long
@pytest.mark.parametrize(("name", "operator"), token_specs())
def test_what_is_shipped_at_its_own_periods(name: str, operator: bool) -> None:
    both = Both(load(name, operator=operator), periods=False)
    p, several = both.period, _several(both)
    length = several if p == 1 else min(2 * p + 3, several)
    assert both.apart(length, before=5, batch=1) == {}


@pytest.mark.parametrize("name", ["hope", "hope_literal", "hope_query"])
def test_tiles_are_cut_where_they_are_longer_than_a_solve(name: str) -> None:
    """Within a period too, where the state is no longer what its anchor was."""
    both = Both(load(name), {"chunk": 7, "memory_chunk": 5}, tile=3)
    for length, before in ((6, 0), (16, 5)):
        assert both.apart(length, before) == {}, (length, before)


def test_gradients_by_matrices_that_are_read_lie_as_these_do() -> None:
    """Those by reads and by scans are added up; laid out otherwise, that takes several times as long."""
    through = sys.modules[nlc.compile("hope").__module__].through
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    W = torch.randn(5, 2, 6, 4, dtype=torch.float64, requires_grad=True)  # of five memories
    found = through(x, W)
    torch.testing.assert_close(found, x @ W.mT)
    found.square().sum().backward()
    assert W.grad.stride() == W.stride()
    assert torch.autograd.gradcheck(through, (x, W)) and torch.autograd.gradgradcheck(
        through, (x, W)
    )


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
    "a sum of a number of a scan and one of a tile": """
        inputs: {a: []}
        levels:
          A:
            frequency: every token
            memory: scalar
            update: A + a
          C:
            frequency: every token
            memory: scalar
            update: C + a
            reset: every 12 tokens
        output: A + C
    """,
    "an anchor that every token is": """
        inputs: {k: [dk], v: [dv], a: []}
        outputs: {y: [dv]}
        levels:
          A:
            frequency: every token
            anchor: every 1 tokens
            memory: {W: [dv, dk], b: [dv], read(z): W @ z + b}
            objective: -dot(A(k), v)
            rule: gd(lr=a)
        output: A(k)
    """,
    "a state transposed whose channels decay": """
        inputs: {k: [dk], w: [dk], v: [dv], a: []}
        outputs: {z: [dk]}
        levels:
          A:
            frequency: every token
            memory: matrix(dv, dk)
            key: k
            value: v
            update: A * per_key(sigmoid(w)) - a * outer(A(key), key) + outer(value, key)
        output: A.T @ v + prev(A).T @ v
    """,
    "states transposed whose gates may be negative": """
        inputs: {k: [dk], v: [dv], a: []}
        outputs: {z: [dk]}
        levels:
          A:
            frequency: every token
            memory: matrix(dv, dk)
            objective: 0.5 * sqnorm(A(k) - v)
            rule: momentum(lr=a, rate=a, beta=a - 0.5)
          B:
            frequency: every token
            memory: matrix(dv, dk)
            update: (a - 0.5) * B + outer(v, k - B.T @ v)
        output: A.T @ v + prev(A).T @ v + B.T @ v
    """,
    "a recurrent flow that is read": """
        inputs: {k: [dk], q: [dk], a: []}
        let:
          f: prev(f) * 0.5 + k * dot(A, A)
        levels:
          A:
            frequency: every token
            memory: vector(dk)
            update: a * A + k
          B:
            frequency: every token
            memory: mlp(dk, 2)
            anchor: every 4 tokens
            objective: -dot(B(k), q)
            rule: gd(lr=0.5)
            init: learned
        output: anchor(B)(f) + f
    """,
    "an output that a level has for its value": """
        inputs: {k: [dk], v: [dv]}
        outputs: {y: [dv]}
        levels:
          B:
            frequency: every 8 tokens
            memory: {W: [dv, dk], b: [dv], read(z): W @ z + b}
            objective: last(sqnorm(B(k) - v))
            rule: dgd(lr=0.1)
          C:
            frequency: every 8 tokens
            memory: matrix(dv, dk)
            key: k
            value: B(k)
            objective: mean(sqnorm(C(key) - value))
            rule: gd(lr=0.1)
        output: B(k)
    """,
    "a number of hypers in a tile": """
        inputs: {q: [dk], k: [dk], v: [dv]}
        outputs: {y: [dv]}
        levels:
          S:
            frequency: every 4 tokens
            memory: matrix(dv, dk)
            objective: mean(0.5 * sqnorm(S(k) - v))
            rule: muon(lr=0.1)
        output: S(q)
    """,
    "a matrix that is itself an output": """
        inputs: {k: [dk], v: [dv]}
        outputs: {y: [dv, dk]}
        levels:
          S:
            frequency: every token
            memory: matrix(dv, dk)
            objective: 0.5 * sqnorm(S(k) - v)
            rule: gd(lr=0.1)
        output: S
    """,
    "coupled states, one with a rate of its own for each token": """
        inputs: {q: [dk], k: [dk], v: [dv], a: []}
        outputs: {y: [dv], n: []}
        levels:
          S:
            frequency: every token
            memory: matrix(dv, dk)
            objective: 0.5 * sqnorm(S(k) - v)
            rule: momentum(lr=a, rate=0.2, beta=0.5)
          c:
            frequency: every token
            memory: scalar
            update: (a - 0.5) * c + 0.1
        output: {y: S(q), n: c}
    """,
    "a memory that only erases": """
        inputs: {q: [dk], k: [dk], p: [dk], a: []}
        levels:
          S:
            frequency: every token
            memory: matrix(dk, dk)
            key: k
            value: prev(S)(p)
            objective: 0.5 * sqnorm(S(key) - value)
            rule: gd(lr=0.5 * a, decay=0.9)
            init: learned
        output: S(q)
    """,
    "a key that has a name and is written out": """
        inputs: {q: [dk], k: [dk], v: [dv], w: [dk]}
        outputs: {y: [dv]}
        levels:
          S:
            frequency: every token
            memory: matrix(dv, dk)
            objective: 0.5 * sqnorm(S(k) - v)
            rule: prox(lr=per_key(sigmoid(w)))
        output: S(q)
    """,
    "a state transposed whose key has no heads": """
        heads: 2
        inputs: {x: [d]}
        outputs: {y: [heads * dk]}
        let:
          k: linear(x, dk)
          v: split(linear(x, heads * dv))
        levels:
          A:
            frequency: every token
            memory: matrix(dv, dk)
            objective: 0.5 * sqnorm(A(k) - v)
            rule: gd(lr=0.2)
        output: merge(A.T @ v)
    """,
    "a gradient that has no heads where its rate has": """
        heads: 2
        inputs: {x: [d]}
        outputs: {y: [heads * dk]}
        let:
          k: linear(x, dk)
          a: sigmoid(split(linear(x, heads)))
        levels:
          A:
            frequency: every token
            memory: matrix(dk, dk)
            objective: -dot(A(k), k)
            rule: dgd(lr=a)
        output: merge(A(k))
    """,
    "a condition that no state enters": """
        inputs: {q: [dk], k: [dk], v: [dv], a: []}
        outputs: {y: [dv]}
        levels:
          A:
            frequency: every token
            memory: matrix(dv, dk)
            update: where(a > 0.5, A, outer(v, k))
        output: A(q)
    """,
    "memories of all heads, read by each": """
        heads: 2
        inputs: {x: [d]}
        outputs: {y: [heads * dv]}
        let:
          k: linear(x, dk)
          v: linear(x, dv)
          a: sigmoid(sum(linear(x, 2)))
          q: split(linear(x, heads * dk))
          u: split(linear(x, heads * dv))
        levels:
          A:
            frequency: every token
            memory: matrix(dv, dk)
            objective: 0.5 * sqnorm(A(k) - v)
            rule: gd(lr=0.3 * a, decay=a)
            init: learned
            toward: init
          B[i]:
            for: {i: [e, f]}
            frequency: every token
            anchor: every 4 tokens
            memory: matrix(dv, dk)
            objective: 0.5 * sqnorm(B[i](k) - v)
            rule: momentum(lr=a, rate=0.3, beta=a - 0.5)
            init: learned
        output: merge(A(q) + prev(A)(k) + A(A.T @ u) + B[e](q) + prev(B[f])(q))
    """,
    "a method of two loops that keeps what was before a token": """
        inputs: {k: [dk], a: []}
        levels:
          A[i]:
            for: {i: [e, f]}
            frequency: every token
            memory: vector(dk)
            objective: -dot(A[i], k)
            rule: gd(lr=0.2 * a)
            reset: every 6 tokens
        output: prev(A[e]) + prev(A[f]) * a
    """,
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_what_random_systems_have_found(what: str) -> None:
    both = Both(nlc.loads(HEAD + textwrap.dedent(FOUND[what])))
    p = both.period
    for length, before in ((1, 0), (p + 1, 0), (2 * p + 3, p // 2 + 1), (SEVERAL // 2, 2)):
        assert both.apart(length, before) == {}, (length, before)
