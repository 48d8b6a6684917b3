"""`torch` is `reference` on the classes of memories that it takes out of the loop over tokens, and on random ones."""

from __future__ import annotations

import textwrap
from collections import Counter

import pytest
from agreement import Both, TooLarge
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from linear_systems import linear_systems, picked, self_modifying, self_modifying_systems

import nlc

HEAD = """
nlc: 1
system: classes
context: tokens
hyper: {dk: 4, dv: 3, m: 2}
heads: 2
inputs: {q: [dk], k: [dk], p: [dk], v: [dv], w: [dk], u: [dv], r: [m], a: [], b: [], s: []}
"""
LONG = 20  # tokens: a longer period is left out of random systems
DOT, SQUARE = "objective: -dot(S(k), v)", "objective: 0.5 * sqnorm(S(k) - v)"
PAIR = "{W: [dv, dk], b: [dv], read(z): W @ z + b}"


def matrix(
    *fields: str, output: str = "S(q)", shape: str = "[dv]", memory: str = "matrix(dv, dk)"
) -> str:
    """A system of one memory S."""
    lines = "\n".join(f"    {x}" for x in ("frequency: every token", f"memory: {memory}", *fields))
    return f"{HEAD}outputs: {{y: {shape}}}\nlevels:\n  S:\n{lines}\noutput: {output}\n"


def system(text: str) -> str:
    return HEAD + textwrap.dedent(text)


CLASSES: dict[tuple[str, str], dict[str, str]] = {  # by class and plan
    ("additive", "chunked"): {
        "linear attention": matrix(DOT, "rule: gd(lr=1)"),
        "written at rates": matrix(DOT, "rule: gd(lr=a)"),
    },
    ("gated", "chunked"): {
        "RetNet": matrix(DOT, "rule: gd(lr=1, decay=1 - 2**(-5 - head))"),
        "Mamba-2": matrix(DOT, "rule: gd(lr=b, decay=exp(-softplus(s)))"),
        "GLA": matrix(DOT, "rule: gd(lr=1, decay=per_key(sigmoid(w)))"),
        "gates of values": matrix(DOT, "rule: gd(lr=1, decay=per_value(sigmoid(u)))"),
        "a gate that may be negative": matrix(DOT, "rule: gd(lr=a, decay=tanh(s))"),
        "a count of tokens": matrix(DOT, "rule: gd(lr=1, decay=pos / (pos + 1))"),
        "towards its start": matrix(DOT, "rule: gd(lr=a, decay=b)", "init: learned", "toward: init"),
        "an inline memory with a bias": matrix(DOT, "rule: gd(lr=a, decay=b)", memory=PAIR),
        "a vector": matrix("objective: 0.5 * sqnorm(S - k)", "rule: gd(lr=a)", output="S * q",
                           shape="[dk]", memory="vector(dk)"),
        "a number": matrix("update: a * S + b", output="S", shape="[]", memory="scalar"),
        "gated slots": system("""
            outputs: {y: [dv]}
            levels:
              K:
                frequency: every token
                memory: matrix(m, dk)
                objective: -dot(K(k), 1 - sigmoid(r))
                rule: gd(lr=1, decay=per_value(sigmoid(r)))
              V:
                frequency: every token
                memory: matrix(dv, m)
                objective: -dot(V(1 - sigmoid(r)), v)
                rule: gd(lr=1, decay=per_key(sigmoid(r)))
            output: V(softmax(K(q)))
            """),
    },
    ("rank-1 affine", "chunked"): {
        "DeltaNet": matrix(SQUARE, "rule: gd(lr=a)"),
        "Gated DeltaNet": matrix(SQUARE, "retain: sigmoid(s)", "rule: gd(lr=a)"),
        "decay beside the step": matrix(SQUARE, "rule: gd(lr=a, decay=b)"),
        "DGD": matrix(SQUARE, "rule: dgd(lr=0.5 * a, decay=b)"),
        "exact DGD": matrix(DOT, "rule: dgd(lr=a, exact=true)"),
        "Longhorn": matrix(SQUARE, "rule: prox(lr=per_key(sigmoid(w)))"),
        "KDA": matrix(SQUARE, "retain: per_key(sigmoid(w))", "rule: gd(lr=a)"),
        "GDN-2": matrix("update: S * per_key(sigmoid(w)) - outer(S @ (sigmoid(w) * p * k), k) + outer(v, k)"),
        "Comba": matrix("objective: dot(S(k), prev(S)(p) - v)", "rule: gd(lr=a, decay=b)"),
        "Oja": matrix("objective: -dot(S(k), v) + 0.5 * sqnorm(S.T @ v)", "rule: gd(lr=0.3 * a, decay=b)"),
        "Oja written out": matrix("update: b * S + 0.3 * outer(v, k - S.T @ v)"),
        "rates by channel": matrix(SQUARE, "rule: gd(lr=per_key(sigmoid(w)))"),
        "a penalty": matrix("objective: 0.5 * sqnorm(S(k) - v) + 0.1 * sqnorm(S)", "rule: gd(lr=a)"),
        "a penalty after gates of channels": matrix(
            "objective: 0.5 * sqnorm(S(k) - v) + 0.1 * sqnorm(S)", "retain: per_key(sigmoid(w))",
            "rule: gd(lr=0.3 * sigmoid(s))",
        ),
        "towards its start": matrix(SQUARE, "retain: b", "rule: gd(lr=a)", "init: learned", "toward: init"),
        "its own answer for a value": matrix(
            "key: k", "value: prev(S)(p)", "objective: 0.5 * sqnorm(S(key) - value)",
            "rule: gd(lr=0.5 * a, decay=b)", "init: learned", memory="matrix(dk, dk)", shape="[dk]",
        ),
        "read transposed, before and after": matrix(SQUARE, "rule: gd(lr=a)", shape="[dk]",
                                                    output="S.T @ v + prev(S).T @ S(q)"),
        "keys of another memory": system("""
            outputs: {y: [dv]}
            levels:
              A:
                frequency: every token
                memory: matrix(dk, dk)
                objective: 0.5 * sqnorm(A(k) - p)
                rule: gd(lr=a)
              S:
                frequency: every token
                memory: matrix(dv, dk)
                key: l2norm(A(k))
                objective: 0.5 * sqnorm(S(key) - v)
                rule: gd(lr=b)
            output: S(l2norm(A(q)))
            """),
    },
    ("coupled", "chunked"): {
        "momentum": matrix(DOT, "rule: momentum(lr=a, rate=0.5, beta=b)"),
        "momentum that erases": matrix(SQUARE, "rule: momentum(lr=1, rate=0.3 * a, beta=b, decay=0.9)"),
        "momentum towards its start": matrix(
            SQUARE, "rule: momentum(lr=1, rate=0.3 * a, beta=b, decay=0.9)", "init: learned", "toward: init"
        ),
    },
    ("additive", "anchored"): {
        "steps from a boundary": matrix(SQUARE, "anchor: every 4 tokens", "rule: gd(lr=0.3 * a)"),
        "huber": matrix("objective: huber(S(k) - v)", "anchor: every 4 tokens", "rule: gd(lr=0.3 * a)"),
        "TTT-MLP": matrix("objective: 0.5 * sqnorm(S(k) - p)", "anchor: every 5 tokens", "init: learned",
                          "rule: gd(lr=0.2 * a)", memory="mlp(dk, 2)", shape="[dk]"),
        "TTT-Linear": matrix(
            "objective: 0.5 * sqnorm(S(k) - p)", "anchor: every 5 tokens", "rule: gd(lr=0.2 * a)", "init: learned",
            memory="{W: [dk, dk], b: [dk], read(z): z + layernorm(W @ z + b)}", shape="[dk]",
        ),
    },
    ("gated", "anchored"): {
        "decay beside steps from a boundary": matrix(
            SQUARE, "anchor: every 4 tokens", "rule: gd(lr=0.3 * a, decay=b)"
        ),
    },
    ("rank-1 affine", "anchored"): {
        "Hope's memory": matrix(
            "value: anchor(S)(p)", "key: k", "objective: 0.5 * sqnorm(S(key) - value)", "anchor: every 4 tokens",
            "rule: dgd(lr=0.3 * a, decay=b)", "init: learned", "toward: init", memory="mlp(dk, 2)", shape="[dk]",
        ),
        "a longer boundary than a chunk": matrix(SQUARE, "anchor: every 66 tokens", "rule: dgd(lr=0.01 * a, decay=b)"),
        "a reset": matrix(SQUARE, "rule: gd(lr=a)", "reset: every 6 tokens"),
    },
    ("coupled", "anchored"): {
        "Titans": matrix(
            "objective: sqnorm(S(k) - p)", "anchor: every 4 tokens", "init: learned", "toward: init",
            "rule: momentum(lr=1, rate=0.1 * a, beta=b, decay=0.9)", memory="mlp(dk, 2)", shape="[dk]",
        ),
    },
    ("constant", "anchored"): {
        "a slow MLP": matrix(
            "objective: mean(0.5 * sqnorm(S(k) - p))", "rule: gd(lr=0.1)", "init: learned",
            memory="mlp(dk, 2)", shape="[dk]",
        ).replace("every token", "every 4 tokens"),
        "the last token of a period": matrix(
            "objective: last(0.5 * sqnorm(S(k) - v))", "rule: gd(lr=0.5, decay=last(a))"
        ).replace("every token", "every 4 tokens"),
        "a slow memory by muon": matrix("objective: mean(0.5 * sqnorm(S(k) - v))", "rule: muon(lr=0.1)").replace(
            "every token", "every 4 tokens"
        ),
    },
}  # fmt: skip


def apart(both: Both, lengths: list[tuple[int, int]]) -> dict[tuple[int, int], dict[str, float]]:
    """What differs, by the length of the stream and of what was before it."""
    found = {case: both.apart(*case) for case in lengths}
    return {case: errors for case, errors in found.items() if errors}


@pytest.mark.parametrize(
    ("kind", "plan", "name"), [(*at, name) for at, found in CLASSES.items() for name in found]
)
def test_every_class_and_plan(kind: str, plan: str, name: str) -> None:
    spec = nlc.loads(CLASSES[kind, plan][name])
    both = Both(spec)
    assert {(c.kind, c.plan) for c in both.choices} == {(kind, plan)}
    p = both.period
    assert apart(both, [(1, 0), (2 * p + 3, p // 2), (70, 2)]) == {}


def test_a_chain_of_a_loop_and_scans() -> None:
    """mLSTM's stabiliser takes one token at a time; what it scales does not."""
    text = system("""
        outputs: {y: [dv]}
        levels:
          m:
            frequency: every token
            memory: scalar
            update: max(log(a) + m, s)
          S:
            frequency: every token
            memory: matrix(dv, dk)
            objective: -dot(S(k), v)
            rule: gd(lr=exp(s - m), decay=exp(log(a) + prev(m) - m))
          n:
            frequency: every token
            memory: vector(dk)
            objective: -dot(n, k)
            rule: gd(lr=exp(s - m), decay=exp(log(a) + prev(m) - m))
        output: S(q) / max(abs(dot(n, q)), exp(-m))
        """).replace(", m: 2}", "}").replace(", r: [m]", "")  # fmt: skip
    both = Both(nlc.loads(text))
    assert both.plans == {"m": "sequential", "S": "chunked", "n": "chunked"}
    assert apart(both, [(1, 0), (5, 3), (70, 2)]) == {}


# random ones


def check(strategy: st.SearchStrategy[str], examples: int) -> Counter[str]:
    """Holds the backends against each other on random systems; how many levels have which plan and which class."""
    seen: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[p for p in Phase if p is not Phase.explain],
    )
    @given(strategy)
    def run(text: str) -> None:
        spec = nlc.loads(text)
        assume(not spec.check().has_errors)
        both = Both(spec, tile=4)
        p = both.period if both.period < LONG else 4
        try:
            assert apart(both, [(1, 0), (2 * p + 3, p // 2 + 1)]) == {}
        except TooLarge:
            assume(False)
        seen.update(c.plan for c in both.choices)
        seen.update(c.kind for c in both.choices)

    run()
    return seen


FEWEST = 0.4  # at least, without a loop: of 300 drawn anew, 0.487 had none once


def without_a_loop(seen: Counter[str]) -> float:
    """The share of levels that need no loop over tokens."""
    plans = {n: seen[n] for n in ("chunked", "anchored", "sequential")}
    return 1 - plans["sequential"] / sum(plans.values())


def test_random_systems() -> None:
    seen = check(linear_systems(), 25)
    assert without_a_loop(seen) > FEWEST, seen
    assert all(seen[n] for n in ("chunked", "anchored", "gated", "rank-1 affine")), seen


def test_random_systems_that_modify_themselves() -> None:
    seen = check(self_modifying_systems(), 8)
    assert without_a_loop(seen) > FEWEST, seen


@pytest.mark.long
def test_more_random_systems() -> None:
    seen = check(linear_systems(), 300)
    assert without_a_loop(seen) > FEWEST, seen
    assert all(seen[kind] for kind, _ in CLASSES), seen


@pytest.mark.long
def test_more_random_systems_that_modify_themselves() -> None:
    assert without_a_loop(check(self_modifying_systems(), 60)) > FEWEST


def test_owners_that_carry_alike_keep_their_places() -> None:
    """Memories and their momenta take turns among what a tile carries."""
    rule = "momentum(lr=1, rate=0.1 * a, beta=0.5, decay=alpha)"
    text = self_modifying(picked("matrix(out, n)", "prev(M[s])(v)", rule))
    both = Both(nlc.loads(text), tile=4)
    assert apart(both, [(1, 0), (9, 3)]) == {}
