"""What the tutorial says its specs are: each against the recurrence that the text names, written out here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import nlc

DOCS = Path(__file__).parent.parent / "docs"
STEPS = 20


def spec(name: str, page: str = "tutorial.md") -> nlc.Spec:
    text = (DOCS / page).read_text(encoding="utf-8")
    for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S):
        if f"\nsystem: {name}\n" in block:
            return nlc.loads(block)
    raise AssertionError(f"{page} has no spec {name}")


def flows(**shapes: int) -> dict[str, Tensor]:
    """One sequence of vectors, or numbers within (0, 1) where the size is 0."""
    torch.manual_seed(0)
    drawn = {}
    for name, n in shapes.items():
        x = torch.randn(1, STEPS, *([n] if n else []), dtype=torch.float64)
        drawn[name] = x if n else x.sigmoid()
    return drawn


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum() + 1e-6).sqrt()


def run(name: str, step, **shapes: int) -> None:
    """``step(S, m, flow)`` gives the next S and m and the answer; the compiled module gives the same."""
    module = spec(name).compile()().double()
    given = flows(k=16, v=16, q=16, **shapes)
    y, state = module(**given)
    S, m, answers = torch.zeros(16, 16, dtype=torch.float64), torch.zeros(()), []
    for t in range(STEPS):
        S, m, answer = step(S, m, {key: x[0, t] for key, x in given.items()})
        answers.append(answer)
    torch.testing.assert_close(y[0], torch.stack(answers), atol=1e-10, rtol=0)
    torch.testing.assert_close(state["S"][0].double(), S, atol=1e-10, rtol=0)


def test_step_1_adds() -> None:
    def step(S, m, f):
        S = S + torch.outer(f["v"], f["k"])
        return S, m, S @ f["q"]

    run("additive", step)


def test_step_2_erases_what_it_held_at_the_key() -> None:
    def step(S, m, f):
        k = unit(f["k"])
        S = S - torch.outer(S @ k - f["v"], k)
        return S, m, S @ unit(f["q"])

    run("corrective", step)


def test_step_2_exercise_is_the_minimum_of_loss_and_distance() -> None:
    def step(S, m, f):
        A = torch.eye(16, dtype=torch.float64) + torch.outer(f["k"], f["k"])
        S = torch.linalg.solve(A, S + torch.outer(f["v"], f["k"]), left=False)
        return S, m, S @ f["q"]

    run("implicit", step)


def test_step_3_fades_before_it_corrects() -> None:
    def step(S, m, f):
        k, S = unit(f["k"]), f["alpha"] * S
        S = S - torch.outer(S @ k - f["v"], k)
        return S, m, S @ unit(f["q"])

    run("forgetful", step, alpha=0)


def test_step_4_is_a_delta_rule_with_momentum_and_a_forget_gate() -> None:
    def step(S, m, f):
        k, B = unit(f["k"]), f["alpha"] * S
        m = f["eta"] * m + f["theta"] * torch.outer(B @ k - f["v"], k)
        return B - m, m, (B - m) @ unit(f["q"])

    run("titan_matrix", step, alpha=0, theta=0, eta=0)


def test_step_4_exercise_is_titans_on_a_matrix() -> None:
    def step(S, m, f):
        k = unit(f["k"])
        m = f["eta"] * m + f["theta"] * torch.outer(S @ k - f["v"], k)
        S = (1 - f["alpha"]) * S - m
        return S, m, S @ unit(f["q"])

    run("titans_matrix", step, alpha=0, theta=0, eta=0)


def test_step_3_as_a_layer_is_gated_delta_net() -> None:
    mine, shipped = (
        spec("forgetful_layer").compile()(),
        nlc.compile("gated_delta_net")(d=32, heads=2),
    )
    assert dict(mine.named_parameters()).keys() == dict(shipped.named_parameters()).keys()
    shipped.load_state_dict(mine.state_dict())
    x = torch.randn(2, 70, 32)
    torch.testing.assert_close(mine(x)[0], shipped(x)[0])


@pytest.mark.parametrize(
    ("page", "name"),
    [("tutorial.md", "titan_layer"), ("language.md", "delta_momentum_gate")],
)
def test_a_layer_with_momentum_and_a_gate_is_what_its_projections_make_of_the_memory(
    page: str, name: str
) -> None:
    """In float64, head by head, with the projections taken from the module."""
    module = spec(name, page).compile()().double()
    weights = dict(module.named_parameters())
    linear = lambda path, x: F.linear(  # noqa: E731
        x, weights[f"{path}.weight"], weights.get(f"{path}.bias")
    )
    x = torch.randn(1, STEPS, module.d, dtype=torch.float64)
    n, heads = module.d // module.heads, module.heads
    split = lambda path: linear(path, x[0]).unflatten(-1, (heads, -1))  # noqa: E731
    q, k, v = split("q.linear"), split("S.key.linear"), split("S.value.linear")
    alpha, eta = (split("alpha.linear") + 4).sigmoid(), split("eta.linear")
    eta = (eta + (4 if page == "tutorial.md" else 2)).sigmoid()
    theta = (1 - eta) * split("theta.linear").sigmoid()
    answers = []
    S = torch.zeros(heads, n, n, dtype=torch.float64)
    m = torch.zeros_like(S)
    for t in range(STEPS):
        row = []
        for h in range(heads):
            key, B = unit(k[t, h]), alpha[t, h] * S[h]
            m[h] = eta[t, h] * m[h] + theta[t, h] * torch.outer(B @ key - v[t, h], key)
            S[h] = B - m[h]
            row.append(S[h] @ unit(q[t, h]))
        answers.append(torch.cat(row))
    expected = linear("y.linear", torch.stack(answers))
    torch.testing.assert_close(module(x)[0][0], expected, atol=1e-10, rtol=0)
