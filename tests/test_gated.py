"""RetNet, GLA and Mamba-2 against their papers' layers, token by token, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transcriptions import Run, compare, drawn, short_conv

import nlc

State = dict[str, Tensor]


def inputs(length: int, d: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, length, d, generator=generator, dtype=torch.float64)


def linear(weights: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def in_heads(weights: State, name: str, x: Tensor, heads: int) -> Tensor:
    """A projection in heads: [B, T, H, n]."""
    return linear(weights, name, x).unflatten(-1, (heads, -1))


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight


def recurrence(decay: Tensor, k: Tensor, v: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """S_t = decay_t ∘ S_{t−1} + v_t k_tᵀ, read as S_t q_t; all [B, T, H, n], n = 1 for one decay of a head."""
    S, out = torch.zeros(*v[:, 0].shape, k.shape[-1], dtype=k.dtype), []
    for t in range(k.shape[1]):
        S = S * decay[:, t, :, None] + v[:, t, ..., None] * k[:, t, :, None]
        out.append((S * q[:, t, :, None]).sum(-1))
    return torch.stack(out, 1), S


def gated(weights: State, reads: Tensor, x: Tensor) -> Tensor:
    """Each head normalised by itself, times swish of a projection, projected."""
    gate = F.silu(in_heads(weights, "y.linear", x, reads.shape[2]))
    mixed = normed(reads, weights["y.rmsnorm.weight"]) * gate
    return linear(weights, "y.linear_2", mixed.flatten(2))


# RetNet


def turned(x: Tensor) -> Tensor:
    """x e^{inθ} (eq. 5 of the paper): the channels i and i + n/2 are one complex number."""
    real, imaginary = x.chunk(2, -1)
    half = real.shape[-1]
    theta = 10000.0 ** -(torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None, None] * theta
    turned = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def retnet(weights: State, x: Tensor) -> tuple[Tensor, State]:
    """Three heads of width 4."""
    q, k = (turned(in_heads(weights, f"{name}.linear", x, 3)) for name in ("q", "S.key"))
    v = in_heads(weights, "S.value.linear", x, 3)
    gamma = torch.tensor([31 / 32, 63 / 64, 127 / 128], dtype=x.dtype)
    decay = gamma.expand(*x.shape[:2], 3)[..., None]
    reads, S = recurrence(decay, k, v, q / 2)
    return gated(weights, reads, x), {"S": S}


def retained(weights: State, x: Tensor) -> tuple[Tensor, State]:
    """The parallel form, (Q Kᵀ ⊙ D) V with D_nm = γ^(n − m) for n ≥ m."""
    q, k = (turned(in_heads(weights, f"{name}.linear", x, 3)) for name in ("q", "S.key"))
    v = in_heads(weights, "S.value.linear", x, 3)
    gamma = 1 - 2.0 ** (-5 - torch.arange(3, dtype=x.dtype))
    n = torch.arange(x.shape[1])
    D = (gamma[:, None, None] ** (n[:, None] - n)).tril()
    scores = torch.einsum("bnhi,bmhi->bhnm", q, k) / 2
    return gated(weights, torch.einsum("bhnm,bmhj->bnhj", scores * D, v), x), {}


@pytest.mark.parametrize("written", [retnet, retained])
def test_retnet_is_its_paper_s_recurrence_and_its_parallel_form(written: Run) -> None:
    module = nlc.compile("retnet")(d=12, heads=3)
    drawn(module)
    compare(module, written, inputs(21, 12))


# GLA


def gla(weights: State, x: Tensor) -> tuple[Tensor, State]:
    """Two heads, keys of width 2, values of 4; α of each key channel through a bottleneck of 3, its 16th root."""
    q, k, v = (in_heads(weights, f"{name}.linear", x, 2) for name in ("q", "S.key", "S.value"))
    low = linear(weights, "alpha.linear", x)
    alpha = in_heads(weights, "alpha.linear_2", low, 2).sigmoid() ** (1 / 16)
    reads, S = recurrence(alpha, k, v, q / 2**0.5)
    return gated(weights, reads, x), {"S": S}


def test_gla_is_its_paper_s_recurrence() -> None:
    module = nlc.compile("gla")(d=8, heads=2, rank=3)
    weights = drawn(module)
    assert {n for n in weights if n.endswith("bias")} == {"alpha.linear_2.bias", "y.linear.bias"}
    compare(module, gla, inputs(21, 8))


# Mamba-2


def mamba2(weights: State, x: Tensor) -> tuple[Tensor, State]:
    """h_t = exp(Δ A) h_{t−1} + Δ x_t B_tᵀ, y_t = h_t C_t + D x_t with A = −exp(A_log): four heads of 4, states of 5."""

    def conv(name: str) -> Tensor:
        z = short_conv(linear(weights, f"{name}.linear", x), weights[f"{name}.conv.weight"])
        return F.silu(z + weights[f"{name}.conv.bias"])

    u = conv("u").unflatten(-1, (4, -1))
    B, C = (conv(name)[:, :, None].expand(-1, -1, 4, -1) for name in ("B", "C"))
    dt = F.softplus(linear(weights, "dt.linear", x) + weights["dt_bias"])[..., None]
    A = -torch.exp(weights["A_log"])[:, None]
    reads, S = recurrence(torch.exp(dt * A), B, dt * u, C)
    y = (reads + weights["D"][:, None] * u).flatten(2)
    y = normed(y * F.silu(linear(weights, "z.linear", x)), weights["y.rmsnorm.weight"])
    return linear(weights, "y.linear", y), {"S": S}


def test_mamba2_is_its_paper_s_recurrence() -> None:
    module = nlc.compile("mamba2")(d=8, p=4, n=5)
    drawn(module)
    compare(module, mamba2, inputs(21, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mamba2_starts_where_its_code_does(dtype: torch.dtype) -> None:
    """Δ log-uniform in [0.001, 0.1] for a token of zeros, A in [−16, −1], D at 1."""
    module = nlc.compile("mamba2")(d=64, p=1, n=2, dtype=dtype)
    dt, A = F.softplus(module.dt_bias.float()), module.A_log.float().exp()
    assert dt.shape == A.shape == (128,)
    assert 0.98e-3 < dt.min() < 2e-3 and 0.05 < dt.max() < 0.102
    assert 0.98 < A.min() < 2 and 14 < A.max() < 16.3 and (module.D == 1).all()
