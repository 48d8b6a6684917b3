"""Levels of `n per token`: n steps a token, each with flows of its own, against loops in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from test_custom_specs import HEAD, State, _check
from torch import Tensor

import nlc

outer = torch.outer


def test_three_steps_that_read_the_state_before_them_and_count() -> None:
    """`prev(S)` in a flow of the level is the state before the sub-step, `t` counts sub-steps, `lr` is one a step."""
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [3 * dk], v: [dv], eta: [3], alpha: []}
levels:
  S:
    frequency: 3 per token
    memory: matrix(dv, dk)
    key: l2norm(substeps(k))
    value: v - 0.5 * prev(S)(key) / t
    objective: 0.5 * sqnorm(S(key) - value)
    retain: where(substep < 1, alpha, 1)
    rule: gd(lr=substeps(eta), decay=where(substep == 2, 0.9, 1))
  z:
    frequency: every token
    memory: vector(dv)
    objective: -dot(z, S(q))
    rule: gd(lr=0.5, decay=0.5)
output: S(q) + z + S(S.key)
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        S = s["S"]
        for j, (k, eta) in enumerate(zip(f.k.unflatten(-1, (3, 4)), f.eta, strict=True)):
            k = k / (k.square().sum() + 1e-6).sqrt()
            v = f.v - 0.5 * (S @ k) / (3 * (f.t - 1) + j + 1)
            S = f.alpha * S if j == 0 else S
            S = (0.9 if j == 2 else 1) * S - eta * outer(S @ k - v, k)
        z = 0.5 * s["z"] + 0.5 * (S @ f.q)
        return {"S": S, "z": z}, S @ f.q + z + S @ k

    _check(text, tick, fresh=True)


def test_two_levels_share_a_flow_and_one_has_several_states() -> None:
    """Explicit updates of two states by a flow with a value for each sub-step, beside a level of other sub-steps."""
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [2 * dk], v: [dv], eta: [2]}
let:
  key: tanh(substeps(k)) + substep
levels:
  A:
    frequency: 2 per token
    memory: {W: [dv, dk], b: [dv], read(z): W @ z + b}
    objective: 0.5 * sqnorm(A(key) - v)
    rule: gd(lr=0.1 * substeps(eta))
  B:
    frequency: 2 per token
    memory: vector(dk)
    update: 0.5 * B + key * dot(A.b, v)
output: A(q) + dot(B, q)
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        W, b, B = s["A.W"], s["A.b"], s["B"]
        keys = [k.tanh() + j for j, k in enumerate(f.k.unflatten(-1, (2, 4)))]
        for k, eta in zip(keys, f.eta, strict=True):
            error = 0.1 * eta * (W @ k + b - f.v)
            W, b = W - outer(error, k), b - error
        for k in keys:
            B = 0.5 * B + k * (b @ f.v)
        return {"A.W": W, "A.b": b, "B": B}, W @ f.q + b + B @ f.q

    _check(text, tick, fresh=True)


LEVEL = """
nlc: 1
system: wrong
context: tokens
hyper: {d: 4, n: 2}
inputs: {k: [2 * d], v: [d]}
outputs: {y: [d]}
levels:
  S:
    frequency: 2 per token
    memory: matrix(d, d)
    key: substeps(k)
    objective: 0.5 * sqnorm(S(key) - v)
    rule: gd(lr=0.1)
output: S(v)
"""


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        ("2 per", "n per", "NLC701", "no number"),
        ("2 per token", "every token", "NLC404", "has no sub-steps"),
        ("output: S(v)", "output: S(v) + substep", "NLC404", "has no sub-steps"),
        ("substeps(k)", "prev(substeps(k))", "NLC404", "one value a token"),
        ("substeps(k)", "conv(substeps(k), 3)", "NLC404", "one value a token"),
        ("substeps(k)", "substeps(substeps(concat(k, k)))", "NLC404", "one value a token"),
        ("0.1)", "0.1)\n    anchor: every 4 tokens", "NLC701", "anchor"),
        ("gd(lr=0.1)", "adamw(lr=0.1)", "NLC701", "rule"),
        ("2 per", "5 per", "NLC301", "do not match"),
    ],
)
def test_what_has_no_meaning_is_said(old: str, new: str, code: str, says: str) -> None:
    text = LEVEL.replace(old, new)
    assert text != LEVEL
    found = nlc.loads(text).check().diagnostics
    assert [d.code for d in found if d.severity == "error"] == [code]
    error = next(d for d in found if d.severity == "error")
    assert says in f"{error.message} {error.label}"


def test_a_step_between_two_starts_at_zero_and_is_no_slow_weight() -> None:
    text = LEVEL.replace("    rule:", "    init: learned\n    rule:")
    module = nlc.loads(text).compile()()
    assert [n for n, _ in module.named_parameters()] == ["S.init"]


GATED = """
nlc: 1
system: gated
context: tokens
hyper: {d: 8}
inputs: {x: [d]}
levels:
  S:
    frequency: 2 per token
    memory: matrix(d, d)
    key: l2norm(substeps(linear(x, 2 * d)))
    objective: 0.5 * sqnorm(S(key) - linear(x))
    retain: where(substep == 0, sigmoid(linear(x)), 1)
    rule: gd(lr=substeps(sigmoid(linear(x))))
output: S(linear(x))
"""


@pytest.mark.parametrize(
    ("old", "new", "code", "who"),
    [
        ("l2norm(substeps(linear(x, 2 * d)))", "substeps(linear(x, 2 * d))", "NLC803", "`S`"),
        ("== 0, sigmoid", "== 0, 2 * sigmoid", "NLC802", "`S_1`"),
    ],
)
def test_a_step_that_can_grow_is_warned_of_once(old: str, new: str, code: str, who: str) -> None:
    assert not nlc.loads(GATED).check().diagnostics
    assert old in GATED
    found = nlc.loads(GATED.replace(old, new)).check().diagnostics
    assert [(d.code, who in d.message) for d in found] == [(code, True)]
