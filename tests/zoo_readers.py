"""The systems of the zoo that read by more than a product, as their papers write them, token by token.

A softmax between two memories, a bias that fades, a system of equations, gates that read the last output.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transcriptions import unit
from zoo_layers import (
    Found,
    H,
    State,
    each,
    empty,
    gate,
    in_heads,
    linear,
    mixed,
    normed,
    outer,
    read,
)


def gsa_flows(w: State, x: Tensor, damping: float) -> State:
    """q, k, v after silu, and how much of each slot is kept."""
    q, k, v = (F.silu(in_heads(w, name, x)) for name in ("q", "K.key", "V.value"))
    return dict(q=q, k=k, v=v, alpha=in_heads(w, "alpha", x).sigmoid() ** (1 / damping))


def gsa_output(w: State, reads: Tensor) -> Tensor:
    return linear(w, "y.linear", F.silu(normed(reads, w["y.rmsnorm.weight"]).flatten(2)))


def gsa(w: State, x: Tensor) -> Found:
    """K_t = Diag(α) K + (1 − α) kᵀ, V_t = Diag(α) V + (1 − α) vᵀ, o = Vᵀ softmax(K q); V is kept transposed here."""
    f = gsa_flows(w, x, 8)
    alpha = f["alpha"]
    slots, reads = alpha.shape[-1], []
    K, V = empty(x, slots, f["k"].shape[-1]), empty(x, slots, f["v"].shape[-1])
    for t in range(x.shape[1]):
        kept, written = alpha[:, t, :, :, None], 1 - alpha[:, t]
        K = kept * K + outer(written, f["k"][:, t])
        V = kept * V + outer(written, f["v"][:, t])
        reads.append(read(V.mT, read(K, f["q"][:, t]).softmax(-1)))
    return gsa_output(w, torch.stack(reads, 1)), {"K": K, "V": V.mT}


def forgetting_flows(w: State, x: Tensor) -> State:
    """q, k, v, and the logarithm of the gate of each token."""
    q, k, v = (
        linear(w, name, x).unflatten(-1, (H, -1))
        for name in ("q.linear", "A.key.linear", "A.value.linear")
    )
    return dict(q=q, k=k, v=v, f=F.logsigmoid(gate(w, "forget", x)))


def forgetting_transformer(w: State, x: Tensor) -> Found:
    """The scores q_i·k_j/√n + Σ_{j<l≤i} log f_l, each sum by itself."""
    flows = forgetting_flows(w, x)
    q, k, f = flows["q"], flows["k"], flows["f"]
    scores = torch.einsum("bthi,bshi->bhts", q, k) / q.shape[-1] ** 0.5
    T = x.shape[1]
    l = torch.arange(T)
    between = (l > l[:, None]) & (l <= l[:, None, None])  # [i, j, l]
    scores = scores + torch.einsum("ijl,blh->bhij", between.to(f.dtype), f)
    scores = scores.masked_fill(l > l[:, None], -torch.inf)
    reads = torch.einsum("bhts,bshj->bthj", scores.softmax(-1), flows["v"])
    return linear(w, "y.linear", reads.flatten(2)), {"c": f.sum(1)}


def mesa_net_flows(w: State, x: Tensor) -> State:
    """q and k of length 1, v, β, γ, and Λ."""
    return dict(
        q=unit(mixed(w, "q", x)),
        k=unit(mixed(w, "k", x)),
        v=mixed(w, "G.value", x),
        beta=gate(w, "beta", x).sigmoid(),
        gamma=(gate(w, "gamma", x) + 4).sigmoid(),
        ridge=F.softplus(w["ridge"]) + 0.25,
    )


def mesa_net_output(w: State, reads: Tensor) -> Tensor:
    return linear(w, "y.linear", normed(reads, w["y.rmsnorm.weight"]).flatten(2))


def mesa_net(w: State, x: Tensor) -> Found:
    """G_t = γ G + β v kᵀ, H_t = γ H + β k kᵀ, o = G (H + Λ)⁻¹ q."""
    f = mesa_net_flows(w, x)
    n = f["k"].shape[-1]
    G, S, reads = empty(x, f["v"].shape[-1], n), empty(x, n, n), []
    for t in range(x.shape[1]):
        k, kept, written = f["k"][:, t], each(f["gamma"][:, t]), each(f["beta"][:, t])
        G = kept * G + written * outer(f["v"][:, t], k)
        S = kept * S + written * outer(k, k)
        inverse = torch.linalg.inv(S + torch.diag_embed(f["ridge"]))
        reads.append(read(G, read(inverse, f["q"][:, t])))
    return mesa_net_output(w, torch.stack(reads, 1)), {"G": G, "H": S}


def slstm(w: State, x: Tensor) -> Found:
    """c_t = f c + i z, n_t = f n + i, h = o c / n with i = exp(ĩ): by the paper's equations without a stabiliser."""
    n = x.shape[-1] // H
    c, weight, h = (empty(x, n) for _ in range(3))
    m = torch.full_like(c, -torch.inf)
    said = []

    def gates(name: str, t: int) -> Tensor:
        """The own part of the token, and the last output by a matrix for each head."""
        own = linear(w, f"{name}.linear", x[:, t]).unflatten(-1, (H, -1))
        return own + torch.einsum("hij,bhj->bhi", w[f"{name}.linear_2.weight"], h)

    for t in range(x.shape[1]):
        z, o = gates("z", t).tanh(), gates("o", t).sigmoid()
        i, f = gates("i", t), F.logsigmoid(gates("f", t))
        c = f.exp() * c + i.exp() * z
        weight = f.exp() * weight + i.exp()
        m = torch.maximum(f + m, i)
        h = o * c / weight
        said.append(h)
    y = normed(torch.stack(said, 1), w["y.rmsnorm.weight"]).flatten(2)
    small = (-m).exp()
    return linear(w, "y.linear", y), {"c": small * c, "weight": small * weight, "m": m}
