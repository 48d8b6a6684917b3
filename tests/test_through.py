"""Nested levels (eq. 72): a slow level learns where a faster one should start, first order or through its updates.

The oracles are loops in float64 that write the faster level's steps by hand and differentiate them with autograd.
"""

from __future__ import annotations

import pytest

import nlc

NESTED = """
nlc: 1
system: nested
context: tokens
hyper: {d: 3, lr: 0.2, meta: 0.3}
inputs: {k: [d], v: [d]}
levels:
  A:
    frequency: every 6 tokens
    memory: matrix(d, d)
    objective: OBJECTIVE
    through: B
    rule: gd(lr=meta)
    init: learned(normal(1))
  B:
    frequency: every 2 tokens
    reset: {every: 6 tokens, to: A}
    memory: matrix(d, d)
    objective: sum(0.5 * sqnorm(B(k) - v))
    rule: gd(lr=lr, decay=0.9)
    init: A
output: {b: B(k), a: A(k)}
"""
SUM, MEAN = "sum(B.objective)", "mean(B.objective) + 0.05 * sqnorm(A)"


def nested(objective: str = SUM, through: bool = True):
    text = NESTED.replace("OBJECTIVE", objective)
    return nlc.loads(text if through else text.replace("    through: B\n", ""))


def flows(T: int, seed: int = 0):
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(2, T, 3, generator=generator, dtype=torch.float64) for n in "kv"}


def net_of(spec):
    import torch

    torch.manual_seed(1)
    return spec.compile()().double()


def loop(x, A, mean: bool = False, through: bool = True):
    """A's step by autograd over the six tokens that B was trained on, or by the sum of B's gradients."""
    import torch

    matvec = lambda M, z: (M @ z[..., None])[..., 0]  # noqa: E731
    A = A.expand(2, 3, 3)
    B, out = A, {"b": [], "a": []}
    start, total, first, loss, slope = A, 0, torch.zeros_like(A), 0, torch.zeros_like(A)
    for t in range(x["k"].shape[1]):
        k, v = x["k"][:, t], x["v"][:, t]
        if t % 6 == 0:
            start = A.clone() if A.requires_grad else A.detach().requires_grad_()
            B, total, first = start, 0, torch.zeros_like(A)
        out["b"].append(matvec(B, k))
        out["a"].append(matvec(A, k))
        error = matvec(B, k) - v
        loss, slope = loss + 0.5 * error.square().sum(-1), slope + error[..., None] * k[:, None]
        if t % 2 == 1:
            total, first = total + loss, first + slope
            B = 0.9 * B - 0.2 * slope
            loss, slope = 0, torch.zeros_like(A)
        if t % 6 == 5:
            g = first
            if through:
                (g,) = torch.autograd.grad(total.sum(), start, create_graph=True)
            A = A - 0.3 * (g / 3 + 0.1 * A if mean else g)
            B = A
    return {n: torch.stack(o, 1) for n, o in out.items()}, A, B


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("mean", [True, False])
def test_a_level_learns_where_another_starts(through: bool, mean: bool) -> None:
    import torch

    net, x = net_of(nested(MEAN if mean else SUM, through)), flows(15)
    y, state = net(**x)
    expected, A, B = loop(x, net.A.init, mean, through)
    for n in y:
        torch.testing.assert_close(y[n], expected[n], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state["A"], A, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state["B"], B, rtol=1e-10, atol=1e-10)
    (mine,) = torch.autograd.grad(y["b"].square().sum() + state["B"].sum(), net.A.init)
    (other,) = torch.autograd.grad(expected["b"].square().sum() + B.sum(), net.A.init)
    torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


def test_the_two_orders_differ() -> None:
    import torch

    x = flows(12)
    ends = [net_of(nested(through=through))(**x)[1]["A"] for through in (True, False)]
    assert (ends[0] - ends[1]).abs().max() > 1e-2 and torch.isfinite(ends[0]).all()


def test_the_same_without_an_outer_gradient() -> None:
    """Updates are recorded for the inner gradient alone, and let go of behind each period."""
    import torch

    net, x = net_of(nested()), flows(18)
    y, state = net(**x)
    with torch.no_grad():
        plain, end = net(**x)
    for n in y:
        assert torch.equal(y[n], plain[n]) and not plain[n].requires_grad
    assert torch.equal(state["A"], end["A"]) and not end["A"].requires_grad
    assert not end["B"].requires_grad


@pytest.mark.parametrize("cut", [1, 4, 6, 9])
def test_a_stream_goes_on_inside_a_period(cut: int) -> None:
    import torch

    net, x = net_of(nested()), flows(14)
    whole, end = net(**x)
    first, state = net(**{n: f[:, :cut] for n, f in x.items()})
    second, state = net(**{n: f[:, cut:] for n, f in x.items()}, state=state)
    for n in whole:
        torch.testing.assert_close(
            torch.cat([first[n], second[n]], 1), whole[n], rtol=0, atol=1e-12
        )
    torch.testing.assert_close(state["A"], end["A"], rtol=0, atol=1e-12)


def test_a_graph_that_is_gone_is_said() -> None:
    import torch

    net, x = net_of(nested()), flows(14)
    _, state = net(**{n: f[:, :3] for n, f in x.items()})
    state = {k: s.detach() for k, s in state.items()}
    with pytest.raises(RuntimeError, match="neither detached nor saved"):
        net(**{n: f[:, 3:] for n, f in x.items()}, state=state)
    _, state = net(**{n: f[:, :6] for n, f in x.items()})  # at a boundary nothing is lost
    state = {k: s.detach() for k, s in state.items()}
    y, _ = net(**{n: f[:, 6:] for n, f in x.items()}, state=state)
    assert torch.isfinite(y["b"]).all()


DEEP = """
nlc: 1
system: deep
context: tokens
hyper: {d: 2, n: 2}
inputs: {x: [d], v: [d]}
levels:
  A:
    frequency: every 4 tokens
    memory: mlp(d, n)
    objective: sum(B.objective)
    through: B
    rule: gd(lr=0.1)
    init: learned
  B:
    frequency: every 2 tokens
    reset: {every: 4 tokens, to: A}
    memory: mlp(d, n)
    objective: sum(C.objective)
    through: C
    rule: gd(lr=0.1)
    init: A
  C:
    frequency: every token
    reset: {every: 2 tokens, to: B}
    memory: mlp(d, n)
    objective: 0.5 * sqnorm(C(x) - v)
    rule: gd(lr=0.1)
    init: B
output: C(x)
"""


def test_three_nested_levels_with_weights_of_an_mlp() -> None:
    """B's step is itself a gradient through C's, and A's passes both."""
    import torch
    from torch.nn import functional as F

    spec = nlc.loads(DEEP)
    net = net_of(spec)
    torch.manual_seed(2)
    x, v = torch.randn(2, 2, 9, 2, dtype=torch.float64)
    y, state = net(x, v)
    read = lambda W, z: z + (W[0] @ F.silu(W[1] @ z[..., None]))[..., 0]  # noqa: E731
    loss = lambda W, t: 0.5 * (read(W, x[:, t]) - v[:, t]).square().sum(-1)  # noqa: E731

    def step(W, objective, at):
        g = torch.autograd.grad(objective.sum(), at, create_graph=True)
        return [w - 0.1 * d for w, d in zip(W, g)]

    copy = lambda W: [w.clone() for w in W]  # noqa: E731
    A = [w.expand(2, *w.shape) for w in (net.A.W1.init, net.A.W2.init)]
    B = C = A
    out = []
    for t in range(9):
        if t % 4 == 0:
            a = copy(A)
            B, total_a = a, 0
        if t % 2 == 0:
            b = copy(B)
            C, total_b = b, 0
        objective = loss(C, t)
        total_b = total_b + objective
        C = step(C, objective, C)
        out.append(read(C, x[:, t]))
        if t % 2 == 1:
            total_a = total_a + total_b
            B = step(B, total_b, b)
            C = B
        if t % 4 == 3:
            A = step(A, total_a, a)
            B = C = A
    torch.testing.assert_close(y, torch.stack(out, 1), rtol=1e-10, atol=1e-10)
    for name, w in zip(("A.W1", "A.W2"), A):
        torch.testing.assert_close(state[name], w, rtol=1e-10, atol=1e-10)


def test_the_derivation_says_what_is_differentiated() -> None:
    text = nested().derive("A")
    assert "ℓ(A) = Σ_t ℓ(B)" in text and "∇ℓ(A) = d(Σ_t ℓ(B)) / dA" in text
    assert "∇ℓ(A) = Σ_t ∇_B" in nested(through=False).derive("A")


MIXED = """
nlc: 1
system: mixed
context: tokens
hyper: {d: 2}
inputs: {x: [d], v: [d]}
levels:
  A:
    frequency: every 8 tokens
    memory: matrix(d, d)
    objective: sum(B.objective)
    through: B
    rule: gd(lr=0.2)
    init: learned(normal(0.5))
  B:
    frequency: every 4 tokens
    reset: {every: 8 tokens, to: A}
    memory: matrix(d, d)
    objective: 0.5 * sqnorm(B - last(C))
    rule: gd(lr=0.3)
    init: A
  C:
    frequency: every 2 tokens
    reset: {every: 4 tokens, to: B}
    memory: matrix(d, d)
    objective: sum(0.5 * sqnorm(C(x) - v))
    rule: gd(lr=0.1)
    init: B
output: C(x)
"""


@pytest.mark.parametrize(
    "text",
    [NESTED.replace("OBJECTIVE", o) for o in (SUM, MEAN)]
    + [NESTED.replace("OBJECTIVE", SUM).replace("    through: B\n", ""), DEEP, MIXED],
    ids=["sum", "mean", "first-order", "deep", "a level between starts over too"],
)
def test_the_interpreter_agrees(text: str) -> None:
    """It runs a period again from the variable, and differentiates that."""
    result = nlc.loads(text).verify(tokens=64)
    assert result.passed, str(result)
