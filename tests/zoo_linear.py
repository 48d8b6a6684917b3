"""The systems of the zoo whose steps are linear in their states, as their papers write them, token by token.

Each function takes the slow weights by name and the inputs, and gives the output and the states at the end.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transcriptions import short_conv, unit
from zoo_layers import (
    EPS,
    Found,
    H,
    State,
    closed,
    each,
    empty,
    gate,
    in_heads,
    linear,
    mixed,
    normed,
    outer,
    read,
    turned,
)


def mlstm(w: State, x: Tensor) -> Found:
    """C_t = f C + e^i v kᵀ, n_t = f n + e^i k, h = C q / max(|n·q|, 1): no read changes by the stabiliser."""
    q, v = in_heads(w, "q", x), in_heads(w, "C.objective", x)
    k = in_heads(w, "k", x) / q.shape[-1] ** 0.5
    i, f = gate(w, "i", x), F.logsigmoid(gate(w, "f", x) + 4)
    C, n, m = empty(x, v.shape[-1], k.shape[-1]), empty(x, k.shape[-1]), empty(x)
    reads = []
    for t in range(x.shape[1]):
        C = each(f[:, t].exp()) * C + each(i[:, t].exp()) * outer(v[:, t], k[:, t])
        n = f[:, t].exp()[..., None] * n + i[:, t].exp()[..., None] * k[:, t]
        m = torch.maximum(f[:, t] + m, i[:, t])
        below = (n * q[:, t]).sum(-1).abs().clamp(min=1)
        reads.append(read(C, q[:, t]) / below[..., None])
    y = normed(torch.stack(reads, 1), w["y.rmsnorm.weight"]).flatten(2)
    y = linear(w, "y.linear_2", y * linear(w, "y.linear", x).sigmoid())
    small = (-m).exp()
    return y, {"C": each(small) * C, "n": small[..., None] * n, "m": m}


def oja(w: State, x: Tensor) -> Found:
    """S_t = α S + η v (k − Sᵀ v)ᵀ (eqs. 66-67)."""
    q, v, k = unit(mixed(w, "q", x)), unit(mixed(w, "S.value", x)), mixed(w, "S.key", x)
    eta, alpha = gate(w, "eta", x).sigmoid(), (gate(w, "alpha", x) + 4).sigmoid()
    S, reads = empty(x, v.shape[-1], k.shape[-1]), []
    for t in range(x.shape[1]):
        residual = k[:, t] - read(S.mT, v[:, t])
        S = each(alpha[:, t]) * S + each(eta[:, t]) * outer(v[:, t], residual)
        reads.append(read(S, q[:, t]))
    return closed(w, reads, x), {"S": S}


def rwkv7_flows(w: State, x: Tensor) -> dict[str, Tensor]:
    """r, k̃, v, the decay w, κ̂ and a of the paper's time mixing, and the gate of its output."""
    before = F.pad(x[:, :-1], (0, 0, 1, 0))
    u = x + w["mix"] * (before - x)

    def low(name: str, f: Callable[[Tensor], Tensor] = lambda z: z) -> Tensor:
        return linear(w, f"{name}.linear_2", f(linear(w, f"{name}.linear", u)))

    k, a = in_heads(w, "k", u), low("a").sigmoid().unflatten(-1, (H, -1))
    decay = torch.exp(
        -torch.exp(torch.tensor(-0.5, dtype=x.dtype)) * (low("w", torch.tanh) - 4).sigmoid()
    )
    return dict(
        r=in_heads(w, "r", u),
        k=k * (1 + w["renewal"] * (a - 1)),
        v=in_heads(w, "v", u),
        decay=decay.unflatten(-1, (H, -1)),
        kap=unit(k * w["removal"]),
        a=a,
        gate=low("gate", torch.sigmoid),
    )


def rwkv7_output(w: State, f: dict[str, Tensor], reads: Tensor) -> Tensor:
    """Each head standardised, the bonus of the own token beside it, gated, projected."""
    bonus = (f["r"] * w["bonus"] * f["k"]).sum(-1, keepdim=True) * f["v"]
    return linear(w, "y.linear", (standardised(w, reads) + bonus).flatten(2) * f["gate"])


def rwkv7(w: State, x: Tensor) -> Found:
    """S_t = S (diag(w) − κ̂ (a ∘ κ̂)ᵀ) + v k̃ᵀ."""
    f = rwkv7_flows(w, x)
    S, reads = empty(x, f["v"].shape[-1], f["k"].shape[-1]), []
    for t in range(x.shape[1]):
        now = {n: z[:, t] for n, z in f.items()}
        transition = torch.diag_embed(now["decay"]) - outer(now["kap"], now["a"] * now["kap"])
        S = S @ transition + outer(now["v"], now["k"])
        reads.append(read(S, now["r"]))
    return rwkv7_output(w, f, torch.stack(reads, 1)), {"S": S}


def linear_transformer(w: State, x: Tensor) -> Found:
    """The parallel form: Σ_{s≤t} φ(q_t)·φ(k_s) v_s over the sum of the weights, φ = elu + 1."""
    q, k = (F.elu(in_heads(w, name, x)) + 1 for name in ("qx", "kx"))
    v = in_heads(w, "S.value", x)
    scores = torch.einsum("bthi,bshi->bhts", q, k).tril()
    reads = torch.einsum("bhts,bshj->bthj", scores, v) / (scores.sum(-1).mT[..., None] + EPS)
    end = {"S": torch.einsum("bshj,bshi->bhji", v, k), "n": k.sum(1)}
    return linear(w, "y.linear", reads.flatten(2)), end


def attended(w: State, x: Tensor, window: int | None = None) -> Tensor:
    """Softmax attention with rotary positions over all tokens before, or the last ``window``; in heads."""
    q, k, v = (
        turned(in_heads(w, "q", x)),
        turned(in_heads(w, "A.key", x)),
        in_heads(w, "A.value", x),
    )
    scores = torch.einsum("bthi,bshi->bhts", q, k) / q.shape[-1] ** 0.5
    t = torch.arange(x.shape[1])
    age = t[:, None] - t
    scores = scores.masked_fill((age < 0) | (age >= (window or x.shape[1])), -torch.inf)
    return torch.einsum("bhts,bshj->bthj", scores.softmax(-1), v)


def sliding_attention(window: int) -> Callable[[State, Tensor], Found]:
    return lambda w, x: (linear(w, "y.linear", attended(w, x, window).flatten(2)), {})


def kda_flows(w: State, x: Tensor) -> State:
    """q, k of length 1, v, β, and the logarithm of the gate of each key channel."""
    low = linear(w, "alpha.linear_2", linear(w, "alpha.linear", x)).unflatten(-1, (H, -1))
    return dict(
        q=unit(mixed(w, "q", x)),
        k=unit(mixed(w, "S.key", x)),
        v=mixed(w, "S.value", x),
        g=-w["A_log"].exp()[:, None] * F.softplus(low + w["dt_bias"]),
        beta=gate(w, "beta", x).sigmoid(),
    )


def kda(w: State, x: Tensor) -> Found:
    """S_t = S diag(α) (I − β k kᵀ) + β v kᵀ."""
    f = kda_flows(w, x)
    S, reads = empty(x, f["v"].shape[-1], f["k"].shape[-1]), []
    for t in range(x.shape[1]):
        q, k, v, g, beta = (f[n][:, t] for n in ("q", "k", "v", "g", "beta"))
        S = S * g.exp()[..., None, :]
        S = S - each(beta) * outer(read(S, k) - v, k)
        reads.append(read(S, q))
    y = normed(torch.stack(reads, 1), w["y.rmsnorm.weight"]) * in_heads(w, "y", x).sigmoid()
    return linear(w, "y.linear_2", y.flatten(2)), {"S": S}


def gated_delta_net2_flows(w: State, x: Tensor) -> State:
    gates = {n: in_heads(w, n, x).sigmoid() for n in ("b", "w")}
    flows = dict(q=unit(mixed(w, "q", x)), k=unit(mixed(w, "S.key", x)), v=mixed(w, "S.value", x))
    return flows | gates | {"alpha": (in_heads(w, "alpha", x) + 4).sigmoid()}


def gated_delta_net2(w: State, x: Tensor) -> Found:
    """S_t = S diag(α) (I − (b ∘ k) kᵀ) + (w ∘ v) kᵀ."""
    f = gated_delta_net2_flows(w, x)
    S, reads = empty(x, f["v"].shape[-1], f["k"].shape[-1]), []
    eye = torch.eye(f["k"].shape[-1], dtype=x.dtype)
    for t in range(x.shape[1]):
        q, k, v, b, write, alpha = (f[n][:, t] for n in ("q", "k", "v", "b", "w", "alpha"))
        S = S @ torch.diag_embed(alpha) @ (eye - outer(b * k, k)) + outer(write * v, k)
        reads.append(read(S, q))
    return closed(w, reads, x), {"S": S}


def comba_flows(w: State, x: Tensor) -> State:
    k = unit(mixed(w, "k", x))
    return dict(
        q=unit(mixed(w, "q", x)) - w["correction"][:, None] * k,
        k=k,
        v=mixed(w, "S.value", x),
        p=w["weaker"].sigmoid()[:, None] * k,
        alpha=(gate(w, "alpha", x) + 4).sigmoid(),
        beta=gate(w, "beta", x).sigmoid(),
    )


def comba(w: State, x: Tensor) -> Found:
    """S_t = S (α I − β p kᵀ) + β v kᵀ, with p a weakened k."""
    f = comba_flows(w, x)
    S, reads = empty(x, f["v"].shape[-1], f["k"].shape[-1]), []
    for t in range(x.shape[1]):
        q, k, v, p, alpha, beta = (f[n][:, t] for n in ("q", "k", "v", "p", "alpha", "beta"))
        S = each(alpha) * S - each(beta) * outer(read(S, p), k) + each(beta) * outer(v, k)
        reads.append(read(S, q))
    return closed(w, reads, x), {"S": S}


def longhorn(w: State, x: Tensor) -> Found:
    """Each row of S by itself: S_i ← S_i (I − ε_i k kᵀ) + ε_i v_i kᵀ with ε_i = β_i / (1 + β_i ‖k‖²)."""
    q, k, v = mixed(w, "q", x), mixed(w, "S.key", x), mixed(w, "S.value", x)
    beta = in_heads(w, "beta", x).sigmoid()
    rate = beta / (1 + beta * k.square().sum(-1, keepdim=True))
    S, reads = empty(x, v.shape[-1], k.shape[-1]), []
    for t in range(x.shape[1]):
        S = S + outer(rate[:, t] * (v[:, t] - read(S, k[:, t])), k[:, t])
        reads.append(read(S, q[:, t]))
    return closed(w, reads, x), {"S": S}


def hgrn2_flows(w: State, x: Tensor) -> State:
    q, v = F.silu(in_heads(w, "q", x)), in_heads(w, "S.value", x)
    return dict(q=q, v=v, forget=(in_heads(w, "z", x) + 3).sigmoid())


def hgrn2_output(w: State, reads: Tensor) -> Tensor:
    return linear(w, "y.linear", normed(reads, w["y.rmsnorm.weight"]).flatten(2))


def hgrn2(w: State, x: Tensor) -> Found:
    """S_t = S diag(f) + v (1 − f)ᵀ."""
    q, v, forget = hgrn2_flows(w, x).values()
    S, reads = empty(x, v.shape[-1], forget.shape[-1]), []
    for t in range(x.shape[1]):
        S = S * forget[:, t, :, None] + outer(v[:, t], 1 - forget[:, t])
        reads.append(read(S, q[:, t]))
    return hgrn2_output(w, torch.stack(reads, 1)), {"S": S}


def mamba(w: State, x: Tensor) -> Found:
    """h_t[i, j] = e^{Δ_i A_ij} h[i, j] + Δ_i u_i B_j, y_i = Σ_j h[i, j] C_j + D_i u_i, A = −e^{A_log}."""
    u = short_conv(linear(w, "u.linear", x), w["u.conv.weight"]) + w["u.conv.bias"]
    u = F.silu(u)
    dt = F.softplus(linear(w, "dt.linear_2", linear(w, "dt.linear", u)) + w["dt_bias"])
    B, C, A = linear(w, "B.linear", u), linear(w, "C.linear", u), -w["A_log"].exp()
    h, out = torch.zeros(x.shape[0], *A.shape, dtype=x.dtype), []
    for t in range(x.shape[1]):
        h = (dt[:, t, :, None] * A).exp() * h + outer(dt[:, t] * u[:, t], B[:, t])
        out.append(read(h, C[:, t]) + w["D"] * u[:, t])
    y = torch.stack(out, 1) * F.silu(linear(w, "y.linear", x))
    return linear(w, "y.linear_2", y), {"S": h}


def standardised(w: State, x: Tensor) -> Tensor:
    """Each head over its channels, with a weight and a bias."""
    c = x - x.mean(-1, keepdim=True)
    c = c / torch.sqrt((c * c).mean(-1, keepdim=True) + EPS)
    return c * w["y.layernorm.weight"] + w["y.layernorm.bias"]


def rwkv6_flows(w: State, x: Tensor) -> State:
    """The shifted input u, r, k, v, and the logarithm of the decay of each key channel."""
    u = x + w["mix"] * (F.pad(x[:, :-1], (0, 0, 1, 0)) - x)
    low = linear(w, "w.linear_2", linear(w, "w.linear", u).tanh()).unflatten(-1, (H, -1))
    return dict(u=u, **{n: in_heads(w, n, u) for n in "rkv"}, log=-torch.exp(low - 4))


def rwkv6_output(w: State, u: Tensor, reads: Tensor) -> Tensor:
    y = standardised(w, reads).flatten(2)
    return linear(w, "y.linear_2", y * F.silu(linear(w, "y.linear", u)))


def rwkv6(w: State, x: Tensor) -> Found:
    """o_t = (S_{t−1} + v (u ∘ k)ᵀ) r, S_t = S_{t−1} diag(w) + v kᵀ."""
    u, r, k, v, log = rwkv6_flows(w, x).values()
    S, out = empty(x, v.shape[-1], k.shape[-1]), []
    for t in range(x.shape[1]):
        out.append(read(S + outer(v[:, t], w["bonus"] * k[:, t]), r[:, t]))
        S = S * log[:, t].exp()[..., None, :] + outer(v[:, t], k[:, t])
    return rwkv6_output(w, u, torch.stack(out, 1)), {"S": S}


def delta_product_flows(w: State, x: Tensor, substeps: int) -> State:
    """q and α [B, T, H, …]; k, v and β of each sub-step [B, T, n, H, …], parts of one projection of a head."""

    def parts(z: Tensor) -> Tensor:
        return z.unflatten(-1, (substeps, -1)).transpose(2, 3)

    beta = 2 * linear(w, "S.lr.linear", x).sigmoid()
    return dict(
        q=unit(mixed(w, "q", x)),
        k=unit(parts(mixed(w, "S.key", x))),
        v=parts(mixed(w, "S.value", x)),
        beta=parts(beta.unflatten(-1, (H, -1))).squeeze(-1),
        alpha=(gate(w, "alpha", x) + 4).sigmoid(),
    )


def delta_product(substeps: int) -> Callable[[State, Tensor], Found]:
    """S ← α S, then for each of the sub-steps S ← S (I − β k kᵀ) + β v kᵀ; read behind the last."""

    def run(w: State, x: Tensor) -> Found:
        f = delta_product_flows(w, x, substeps)
        S, reads = empty(x, f["v"].shape[-1], f["k"].shape[-1]), []
        for t in range(x.shape[1]):
            S = each(f["alpha"][:, t]) * S
            for j in range(substeps):
                k, v, beta = (f[name][:, t, j] for name in ("k", "v", "beta"))
                S = S - each(beta) * outer(read(S, k) - v, k)
            reads.append(read(S, f["q"][:, t]))
        return closed(w, reads, x), {"S": S}

    return run
