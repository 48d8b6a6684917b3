"""Reads over leading axes: ``M(Z)`` reads with every row of Z, and gradients add up over the rows (language §5)."""

from __future__ import annotations

import pytest

import nlc

ROWS = """
nlc: 1
system: rows
context: tokens
hyper: {d: 3, s: 4}
inputs: {w: [s], k: [d], v: [d], q: [d]}
let:
  Z: outer(w, k)
  V: outer(w, v)
levels:
  M:
    frequency: every token
    memory: MEMORY
    objective: 0.5 * sqnorm(M(Z) - V)
    rule: RULE
    init: learned(normal(0.5))
outputs: {rows: [s, d], one: [d]}
output:
  rows: M(outer(w, q))
  one: M(q)
"""


def read(W: list, z, bias: bool):
    """z + W1 silu(W2 z + b2) + b1 with a vector z, of one weight W z."""
    from torch.nn import functional as F

    if len(W) == 1:
        return W[0] @ z
    hidden = F.silu(W[1] @ z + (W[3] if bias else 0))
    return z + W[0] @ hidden + (W[2] if bias else 0)


@pytest.mark.parametrize(
    ("memory", "names", "rule"),
    [
        ("matrix(d, d)", ["M"], "gd(lr=0.1)"),
        ("matrix(d, d)", ["M"], "dgd(lr=0.1, decay=0.9)"),
        ("mlp(d, 2)", ["M.W1", "M.W2"], "gd(lr=0.1, decay=0.9)"),
        ("mlp(d, 2)", ["M.W1", "M.W2"], "dgd(lr=0.1)"),
        ("mlp(d, 2, bias=true)", ["M.W1", "M.W2", "M.b1", "M.b2"], "gd(lr=0.1)"),
    ],
)
def test_each_row_is_a_sample(memory: str, names: list[str], rule: str) -> None:
    """Against a loop over sequences, tokens and rows, its gradients by autograd."""
    import torch
    from torch.nn import functional as F

    net = nlc.loads(ROWS.replace("MEMORY", memory).replace("RULE", rule)).compile()().double()
    torch.manual_seed(0)
    w = torch.randn(2, 5, 4, dtype=torch.float64)
    k, v, q = torch.randn(3, 2, 5, 3, dtype=torch.float64) * 0.5
    y, state = net(w, k, v, q)
    starts = [net.get_parameter(f"{n}.init").detach() for n in names]
    bias, decay = "bias" in memory, 0.9 if "decay" in rule else 1.0
    for b in range(2):
        W = list(starts)
        for t in range(5):
            with torch.enable_grad():
                P = [x.clone().requires_grad_() for x in W]
                samples = [(w[b, t, i] * k[b, t], w[b, t, i] * v[b, t]) for i in range(4)]
                loss = sum(0.5 * (read(P, z, bias) - u).square().sum() for z, u in samples)
                g = torch.autograd.grad(loss, P)
            new = [decay * x - 0.1 * d for x, d in zip(W, g)]
            if rule.startswith("dgd"):
                for z, _ in samples:
                    keys = [z] if len(W) == 1 else [F.silu(W[1] @ z), z]
                    new = [n - 0.1 * torch.outer(x @ c, c) for n, x, c in zip(new, W, keys)]
            W = new
            torch.testing.assert_close(y["one"][b, t], read(W, q[b, t], bias), rtol=0, atol=1e-10)
            rows = torch.stack([read(W, w[b, t, i] * q[b, t], bias) for i in range(4)])
            torch.testing.assert_close(y["rows"][b, t], rows, rtol=0, atol=1e-10)
        for n, x in zip(names, W):
            torch.testing.assert_close(state[n][b], x, rtol=0, atol=1e-10)


DEEP = """
nlc: 1
system: deep
context: gradients
doc: Momentum that is an MLP over the rows of the gradient, eq. 50.
hyper: {lr: 0.1, eta: 0.05, alpha: 0.9}
levels:
  m:
    frequency: every step
    memory: mlp(ncols(W), 2, bias=true)
    objective: 0.5 * sqnorm(m(g) - g)
    rule: gd(lr=eta, decay=alpha)
    toward: init
    init: normal(0.1)
  W:
    frequency: every step
    objective: dot(W, m(g))
    rule: gd(lr=lr)
"""


def test_deep_momentum_is_a_memory_of_the_rows_of_the_gradient() -> None:
    import torch

    made = nlc.loads(DEEP).compile()
    torch.manual_seed(0)
    W = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    optimizer = made([W])
    mine, state, starts = W.detach().clone(), None, None
    for _ in range(6):
        g = torch.randn(4, 3, dtype=torch.float64)
        W.grad = g
        if state is None:  # what the first step draws
            torch.manual_seed(1)
            first = made.initial_state(W)
            state = starts = [first[f"m.{n}"] for n in ("W1", "W2", "b1", "b2")]
            torch.manual_seed(1)
        optimizer.step()
        P = [x.clone().requires_grad_() for x in state]
        with torch.enable_grad():
            loss = sum(0.5 * (read(P, row, True) - row).square().sum() for row in g)
            slopes = torch.autograd.grad(loss, P)
        state = [s + 0.9 * (x - s) - 0.05 * d for s, x, d in zip(starts, state, slopes)]
        mine = mine - 0.1 * torch.stack([read(state, row, True) for row in g])
        torch.testing.assert_close(W.detach(), mine, rtol=0, atol=1e-10)
    saved = optimizer.state_dict()["state"][0]
    for n, x in zip(("W1", "W2", "b1", "b2"), state):
        torch.testing.assert_close(saved[f"m.{n}"], x, rtol=0, atol=1e-10)


def test_a_random_start_is_drawn_once_and_kept() -> None:
    import torch

    made = nlc.loads(DEEP).compile()
    first = made.initial_state(torch.zeros(5, 2))
    assert first["m.W1"].shape == (2, 4) and 0 < first["m.W1"].std() < 1
    assert torch.equal(first["m.W1"], first["m.W1.start"])
    with pytest.raises(ValueError, match="takes matrices"):
        made.initial_state(torch.zeros(5))


def test_a_vector_beside_columns_is_written_as_one() -> None:
    text = nlc.loads(DEEP).derive("m")
    assert "W₂ gᵀ + b₂ 1ᵀ" in text and "Diag" not in text


def test_the_interpreter_agrees() -> None:
    rows = ROWS.replace("MEMORY", "mlp(d, 2, bias=true)").replace("RULE", "gd(lr=0.1, decay=0.9)")
    for text in (rows, DEEP):
        result = nlc.loads(text).verify(tokens=64)
        assert all(c.passed is not False for c in result.checks if not c.life), str(result)
