"""Titans and TTT against their papers' recurrences, token by token, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transcriptions import MLP, compare, drawn, short_conv, unit

import nlc
from nlc.pipeline import shipped

SMALL = dict(d=6, heads=2, expand=2)
State = dict[str, Tensor]


def inputs(length: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, length, 6, generator=generator, dtype=torch.float64)


def heads_of(x: Tensor, weights: State, name: str) -> Tensor:
    """A projection in heads: [B, T, H, n]."""
    return F.linear(x, weights[f"{name}.linear.weight"]).unflatten(-1, (2, -1))


def mixed(x: Tensor, weights: State, name: str) -> Tensor:
    """A projection, its short convolution, silu."""
    z = F.linear(x, weights[f"{name}.linear.weight"])
    return F.silu(short_conv(z, weights[f"{name}.conv.weight"].flatten(0, 1))).unflatten(
        -1, (2, -1)
    )


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight


def bias(name: str) -> float:
    """The constant in a gate of the shipped spec: the one number that a recurrence cannot say."""
    line = next(
        r for r in shipped()["titans"].read_text().splitlines() if r.strip().startswith(name)
    )
    sign, number = line.split("linear(x))")[1].split(")")[0].split()
    return float(sign + number)


def titans(chunk: int, toward: bool):
    """S ← η S − θ ∇ℓ, M ← T + (1 − α)(M − T) + S, then the read; ∇ℓ of ‖M(k) − v‖² at the start of the chunk."""

    def run(weights: State, x: Tensor) -> tuple[Tensor, State]:
        q, k = (unit(mixed(x, weights, name)) for name in ("q", "M.key"))
        v = mixed(x, weights, "M.value")
        theta, eta, alpha = (
            (heads_of(x, weights, name) + bias(name)).sigmoid()[..., None]
            for name in ("theta", "eta", "alpha")
        )
        theta = theta / chunk
        start = [weights[f"M.{w}.init"].expand(2, -1, -1, -1) for w in ("W1", "W2")]
        T = [w if toward else torch.zeros_like(w) for w in start]
        M = here = MLP(*start)
        S = [torch.zeros_like(w) for w in M]
        out = []
        for t in range(x.shape[1]):
            if t % chunk == 0:
                here = M
            slopes = [2 * g for g in here.slopes(k[:, t], v[:, t])]
            S = [eta[:, t] * s - theta[:, t] * g for s, g in zip(S, slopes)]
            M = MLP(*(w0 + (1 - alpha[:, t]) * (w - w0) + s for w, w0, s in zip(M, T, S)))
            out.append(M(q[:, t]))
        reads = normed(torch.stack(out, 1), weights["y.rmsnorm.weight"])
        gated = reads * F.silu(heads_of(x, weights, "y"))
        y = F.linear(gated.flatten(2), weights["y.linear_2.weight"])
        # our momentum memory holds −S
        states = {"M.W1": M.W1, "M.W2": M.W2, "M.W1.m": -S[0], "M.W2.m": -S[1]}
        states |= {"M.W1.anchor": here.W1, "M.W2.anchor": here.W2}
        return y, states

    return run


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("toward", [True, False])
def test_titans_is_its_paper_s_recurrence(chunk: int, toward: bool) -> None:
    """With chunks of one token and no `toward`, to the letter; 23 tokens are a multiple of no chunk."""
    text = shipped()["titans"].read_text()
    literal = text.replace("    toward: init\n", "")
    assert literal != text
    made = nlc.load("titans") if toward else nlc.loads(literal)
    module = made.compile()(**SMALL, chunk=chunk)
    drawn(module)
    compare(module, titans(chunk, toward), inputs(23))


def ttt(chunk: int, rate: float):
    """W ← W − η/C ∇ℓ(W at the start of the mini-batch), the gradient by autograd; read after the write."""

    def read(M: list[Tensor], z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        W1, W2, b1, b2 = M
        hidden = F.gelu((W2 @ z[..., None])[..., 0] + b2)
        out = (W1 @ hidden[..., None])[..., 0] + b1
        return z + F.layer_norm(out, out.shape[-1:], eps=1e-6) * scale + shift

    def run(weights: State, x: Tensor) -> tuple[Tensor, State]:
        q, k = (unit(heads_of(x, weights, name)) for name in ("q", "M.key"))
        v = heads_of(x, weights, "M.value")
        eta = rate * heads_of(x, weights, "eta").sigmoid() / chunk
        norm = [weights[f"M.read.layernorm.{name}"] for name in ("weight", "bias")]
        names = ("W1", "W2", "b1", "b2")
        M = [
            weights[f"M.{name}.init"].expand(2, *weights[f"M.{name}.init"].shape) for name in names
        ]
        here, out = M, []
        for t in range(x.shape[1]):
            if t % chunk == 0:
                here = M
            error = read(here, k[:, t], *norm) - v[:, t]
            slopes = torch.autograd.grad(0.5 * (error * error).sum(), here, create_graph=True)
            steps = [eta[:, t].reshape(2, 2, *[1] * (g.ndim - 2)) * g for g in slopes]
            M = [w - step for w, step in zip(M, steps)]
            out.append(read(M, q[:, t], *norm))
        reads = normed(torch.stack(out, 1), weights["y.rmsnorm.weight"])
        y = F.linear(reads.flatten(2), weights["y.linear.weight"])
        return y, {f"M.{name}": w for name, w in zip(names, M)}

    return run


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_ttt_mlp_is_gradient_descent_on_its_own_read(chunk: int) -> None:
    module = nlc.compile("ttt_mlp")(**SMALL, chunk=chunk, rate=0.5)
    drawn(module)
    compare(module, ttt(chunk, 0.5), inputs(17))


def ttt_linear(chunk: int):
    """W ← W − η/(C n) δ kᵀ and b ← b − η/(C n) δ, δ backpropagated by hand from ½‖k + LN(W k + b) − v‖²."""

    def read(W: Tensor, b: Tensor, z: Tensor) -> Tensor:
        return torch.einsum("bhij,bhj->bhi", W, z) + b

    def run(weights: State, x: Tensor) -> tuple[Tensor, State]:
        q, k = (unit(heads_of(x, weights, name)) for name in ("q", "M.key"))
        v = heads_of(x, weights, "M.value")
        scale, shift = (weights[f"M.read.layernorm.{name}"] for name in ("weight", "bias"))
        rate = (heads_of(x, weights, "eta")[..., 0] + weights["eta.linear.bias"]).sigmoid()
        rate = rate / (chunk * 3)
        W, b = (weights[f"M.{name}.init"].expand(2, *[-1] * n) for name, n in (("W", 3), ("b", 2)))
        out = []
        for t in range(x.shape[1]):
            if t % chunk == 0:
                here = W, b
            z = read(*here, k[:, t])
            sigma = torch.sqrt(z.var(-1, unbiased=False, keepdim=True) + 1e-6)
            hat = (z - z.mean(-1, keepdim=True)) / sigma
            back = scale * (k[:, t] + scale * hat + shift - v[:, t])
            along = hat * (back * hat).mean(-1, keepdim=True)
            step = rate[:, t, :, None] * (back - back.mean(-1, keepdim=True) - along) / sigma
            W, b = W - step[..., None] * k[:, t, :, None], b - step
            z = read(W, b, q[:, t])
            out.append(q[:, t] + F.layer_norm(z, (3,), eps=1e-6) * scale + shift)
        norm = (weights[f"y.layernorm.{name}"] for name in ("weight", "bias"))
        y = F.layer_norm(torch.stack(out, 1).flatten(2), (6,), *norm, eps=1e-6)
        states = {"M.W": W, "M.b": b, "M.W.anchor": here[0], "M.b.anchor": here[1]}
        return F.linear(y, weights["y.linear.weight"]), states

    return run


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_ttt_linear_is_gradient_descent_on_its_own_read(chunk: int) -> None:
    module = nlc.compile("ttt_linear")(d=6, heads=2, chunk=chunk)
    drawn(module)
    compare(module, ttt_linear(chunk), inputs(17))


def test_the_operator_decays_to_the_start_that_its_state_brings() -> None:
    """The core of Titans over q, k, v and gates: with the learned start in its state it moves as the module does."""
    module = nlc.compile("titans")(**SMALL, chunk=5)
    weights = drawn(module)
    operator = nlc.compile("titans", operator=True)(heads=2, n=3, expand=2, chunk=5).double()
    assert not list(operator.parameters())
    x = inputs(13)
    q, k = (unit(mixed(x, weights, name)) for name in ("q", "M.key"))
    gates = {
        name: (heads_of(x, weights, name) + bias(name)).sigmoid()[..., 0]
        for name in ("theta", "eta", "alpha")
    }
    gates["theta"] = gates["theta"] / 5
    state = operator.initial_state(q)
    begun = module.initial_state(x)
    for name in ("M.W1", "M.W2"):
        state |= {key: begun[name] for key in (name, f"{name}.anchor", f"{name}.start")}
    _, end = operator(q=q, k=k, v=mixed(x, weights, "M.value"), **gates, state=state)
    expected = module(x)[1]
    for name in ("M.W1", "M.W2", "M.W1.m", "M.W2.m"):
        torch.testing.assert_close(end[name], expected[name], rtol=1e-10, atol=1e-12)
