"""What the papers of the zoo write, token by token in plain torch and float64. Nothing here knows nlc.

Each function takes the slow weights by name and the inputs, and gives the output and the states at the end. Streams are
[B, T, …], flows in heads [B, T, H, n], memories [B, H, m, n].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transcriptions import MLP, chain, chunks, period_of_steps, short_conv, unit

State = dict[str, Tensor]
Found = tuple[Tensor, State]
H = 2  # heads
EPS = 1e-6


def linear(w: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def in_heads(w: State, name: str, x: Tensor) -> Tensor:
    """A projection in heads: [B, T, H, n]."""
    return linear(w, f"{name}.linear", x).unflatten(-1, (H, -1))


def gate(w: State, name: str, x: Tensor) -> Tensor:
    """A projection to one number for each head: [B, T, H]."""
    return linear(w, f"{name}.linear", x)


def mixed(w: State, name: str, x: Tensor) -> Tensor:
    """A projection, its short convolution, silu; in heads."""
    z = short_conv(linear(w, f"{name}.linear", x), w[f"{name}.conv.weight"].flatten(0, 1))
    return F.silu(z).unflatten(-1, (H, -1))


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * weight


def closed(w: State, reads: list[Tensor], x: Tensor) -> Tensor:
    """The reads of all tokens, each head normalised, times a silu gate, projected."""
    y = normed(torch.stack(reads, 1), w["y.rmsnorm.weight"]) * F.silu(in_heads(w, "y", x))
    return linear(w, "y.linear_2", y.flatten(2))


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]


def read(S: Tensor, q: Tensor) -> Tensor:
    return (S * q[..., None, :]).sum(-1)


def each(a: Tensor) -> Tensor:
    """A number for each head, as a factor of memories."""
    return a[..., None, None]


def empty(x: Tensor, *shape: int) -> Tensor:
    return torch.zeros(x.shape[0], H, *shape, dtype=x.dtype)


def turned(x: Tensor) -> Tensor:
    """Rotary positions: the channels i and i + n/2 are one complex number."""
    real, imaginary = x.chunk(2, -1)
    half = real.shape[-1]
    theta = 10000.0 ** -(torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None, None] * theta
    z = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], -1)


def started(w: State, name: str, batch: int) -> MLP:
    return MLP(*(w[f"{name}.{part}.init"].expand(batch, -1, -1, -1) for part in ("W1", "W2")))


# ------------------------------------------------------------------------------------------ linear in the state


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


def hgrn2(w: State, x: Tensor) -> Found:
    """S_t = S diag(f) + v (1 − f)ᵀ."""
    forget, v = 0.9 + 0.1 * in_heads(w, "f", x).sigmoid(), in_heads(w, "S.value", x)
    q = F.silu(in_heads(w, "q", x))
    S, reads = empty(x, v.shape[-1], forget.shape[-1]), []
    for t in range(x.shape[1]):
        S = S * forget[:, t, :, None] + outer(v[:, t], 1 - forget[:, t])
        reads.append(read(S, q[:, t]))
    y = normed(torch.stack(reads, 1), w["y.rmsnorm.weight"]).flatten(2)
    return linear(w, "y.linear", y), {"S": S}


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


def rwkv6(w: State, x: Tensor) -> Found:
    """o_t = (S_{t−1} + v (u ∘ k)ᵀ) r, S_t = S_{t−1} diag(w) + v kᵀ."""
    u = x + w["mix"] * (F.pad(x[:, :-1], (0, 0, 1, 0)) - x)
    r, k, v = (in_heads(w, n, u) for n in "rkv")
    low = linear(w, "w.linear_2", linear(w, "w.linear", u).tanh()).unflatten(-1, (H, -1))
    decay = torch.exp(-torch.exp(low - 4))
    S, out = empty(x, v.shape[-1], k.shape[-1]), []
    for t in range(x.shape[1]):
        out.append(read(S + outer(v[:, t], w["bonus"] * k[:, t]), r[:, t]))
        S = S * decay[:, t, :, None] + outer(v[:, t], k[:, t])
    y = standardised(w, torch.stack(out, 1)).flatten(2)
    return linear(w, "y.linear_2", y * F.silu(linear(w, "y.linear", u))), {"S": S}


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


# ------------------------------------------------------------------------------------------ self-made memories


def srwm(w: State, x: Tensor) -> Found:
    """y, k, q, β = W φ(x); W ← W + σ(β) ∘ (W φ(q) − W φ(k)) φ(k)ᵀ, a rate for each of the four blocks, φ = softmax."""
    z = in_heads(w, "z", x).softmax(-1)
    n = z.shape[-1]
    names, sizes = ("y", "k", "q", "rate"), (n, n, n, 4)
    W = torch.cat([w[f"W_{s}.init"] for s in names], -2).expand(x.shape[0], -1, -1, -1)
    block = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    out = []
    for t in range(x.shape[1]):
        y, k, q, rate = read(W, z[:, t]).split(sizes, -1)
        k, q = k.softmax(-1), q.softmax(-1)
        written = rate.sigmoid()[..., block] * (read(W, q) - read(W, k))
        W = W + outer(written, k)
        out.append(y)
    end = {f"W_{s}": part for s, part in zip(names, W.split(sizes, -2))}
    return linear(w, "y.linear", torch.stack(out, 1).flatten(2)), end


def ada_transformer(chunk: int, lr: float) -> Callable[[State, Tensor], Found]:
    """Attention and its residual; then one MLP of a continuum memory (eqs. 70-71 with k = 1)."""

    def run(w: State, x: Tensor) -> Found:
        h = x + linear(w, "h.linear", attended(w, x).flatten(2))
        h = normed(h, w["h.rmsnorm.weight"])
        start = MLP(w["M.W1.init"], w["M.W2.init"])
        y, M, _ = period_of_steps(start, h, linear(w, "M.value.linear", h), chunk, lr)
        return y, {"M.W1": M.W1, "M.W2": M.W2}

    return run


MAKERS = ("q", "k", "v", "eta", "alpha")


def hope_query(
    chunk: int, memory_chunk: int, bias: float, periods: tuple[int, ...], cms_lr: float
) -> Callable[[State, Tensor], Found]:
    """Eqs. 79-93 with a memory for q too; eq. 90: whatever a chunk needs is made from the states at its start."""

    def moved(M: MLP, T: MLP, k: Tensor, v: Tensor, eta: Tensor, alpha: Tensor, size: int) -> MLP:
        seen = MLP(*(part[:, None] for part in M))
        slopes, keys, out = seen.slopes(k, seen(v)), seen.keys(k), []
        for W, W0, slope, key in zip(M, T, slopes, keys):
            for t in range(k.shape[1]):
                a, b, z = alpha[:, t, :, None], eta[:, t, :, None] / size, key[:, t]
                W = W0 + a * (W - W0) - b * outer(read(W, z), z) - b * slope[:, t]
            out.append(W)
        return MLP(*out)

    def run(w: State, x: Tensor) -> Found:
        z = short_conv(x, w["z.conv.weight"]).unflatten(-1, (H, -1))
        M = {s: started(w, f"M_{s}", x.shape[0]) for s in (*MAKERS, "memory")}
        T, made = dict(M), []
        for part in chunks(x.shape[1], chunk):
            q, k, v, eta, alpha = (MLP(*(p[:, None] for p in M[s]))(z[:, part]) for s in MAKERS)
            q, k, v, eta, alpha = unit(q), unit(k), unit(v), eta.sigmoid(), (alpha + bias).sigmoid()
            made.append((q, k, v, eta, alpha))
            M |= {s: moved(M[s], T[s], k, v, eta, alpha, chunk) for s in MAKERS}
        q, *flows = (torch.cat(parts, 1) for parts in zip(*made))
        out = []
        for part in chunks(x.shape[1], memory_chunk):
            out.append(MLP(*(p[:, None] for p in M["memory"]))(q[:, part]))
            here = (f[:, part] for f in flows)
            M["memory"] = moved(M["memory"], T["memory"], *here, memory_chunk)
        o = torch.cat(out, 1).flatten(2)
        y, rest = chain(w, o, periods, cms_lr, prefix="cms.")
        return y, {f"M_{s}.W{i}": W for s in M for i, W in enumerate(M[s], 1)} | rest

    return run


# ------------------------------------------------------------------------------------------ other objectives and steps


def deep(w: State, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor, MLP]:
    """q, k of length 1, v, and the learned start of a deep memory."""
    q, k = unit(mixed(w, "q", x)), unit(mixed(w, f"{name}.key", x))
    return q, k, mixed(w, f"{name}.value", x), started(w, name, x.shape[0])


def omega(c: int) -> Callable[[State, Tensor], Found]:
    """Eq. 68: M_t = α M − η Σ_{i = t−c+1..t} γ_i ∇‖M(k_i) − v_i‖², here from the start on."""

    def run(w: State, x: Tensor) -> Found:
        q, k, v, M = deep(w, "M", x)
        gamma, eta = gate(w, "gamma", x).sigmoid(), (gate(w, "eta", x) - 4).sigmoid() / c
        alpha, T, reads = (gate(w, "alpha", x) + 7).sigmoid(), M, []
        for t in range(x.shape[1]):
            total = [torch.zeros_like(W) for W in M]
            for i in range(max(0, t - c + 1), t + 1):
                slopes = M.slopes(k[:, i], v[:, i])
                total = [s + 2 * each(gamma[:, i]) * g for s, g in zip(total, slopes)]
            a, b = each(alpha[:, t]), each(eta[:, t])
            M = MLP(*(W0 + a * (W - W0) - b * g for W, W0, g in zip(M, T, total)))
            reads.append(M(q[:, t]))
        return closed(w, reads, x), {"M.W1": M.W1, "M.W2": M.W2}

    return run


def towards_orthogonal(G: Tensor, steps: int = 5) -> Tensor:
    """Newton–Schulz by the usual quintic: X ← a X + (b A + c A²) X with A = X Xᵀ, from G / ‖G‖."""
    X = G / torch.linalg.matrix_norm(G, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        A = X @ X.mT
        X = 3.4445 * X + (-4.775 * A + 2.0315 * A @ A) @ X
    return X


def products(k: Tensor) -> Tensor:
    """k and all products of two of its channels."""
    return torch.cat([k, outer(k, k).flatten(-2)], -1)


def atlas(c: int, rate: float) -> Callable[[State, Tensor], Found]:
    """S_t = θ S + (1 − θ) Σ γ_i ∇‖M φ(k_i) − v_i‖², M_t = α M − η NS(S_t)."""

    def run(w: State, x: Tensor) -> Found:
        q, k = (products(unit(mixed(w, name, x))) for name in ("q", "k"))
        v = mixed(w, "M.value", x)
        gamma, theta = gate(w, "gamma", x).sigmoid(), (gate(w, "theta", x) + 2).sigmoid()
        eta, alpha = rate * (gate(w, "eta", x) - 4).sigmoid(), (gate(w, "alpha", x) + 4).sigmoid()
        M = S = empty(x, v.shape[-1], k.shape[-1])
        reads = []
        for t in range(x.shape[1]):
            G = torch.zeros_like(M)
            for i in range(max(0, t - c + 1), t + 1):
                G = G + 2 * each(gamma[:, i]) * outer(read(M, k[:, i]) - v[:, i], k[:, i])
            S = each(theta[:, t]) * S + each(1 - theta[:, t]) * G
            M = each(alpha[:, t]) * M - each(eta[:, t]) * towards_orthogonal(S)
            reads.append(read(M, q[:, t]))
        return closed(w, reads, x), {"M": M, "M.m": S}

    return run


def moneta(p: int, r: int) -> Callable[[State, Tensor], Found]:
    """A_t = α A − η ∇ℓ_p(W), W = A / ‖A‖_r^(r − 2) over all weights of the memory; reads by W."""

    def run(w: State, x: Tensor) -> Found:
        q, k, v, A = deep(w, "A", x)
        eta, alpha = (gate(w, "eta", x) - 4).sigmoid(), (gate(w, "alpha", x) + 7).sigmoid()

        def kept(A: MLP) -> MLP:
            size = sum((P.abs() ** r).sum((-2, -1)) for P in A) ** ((r - 2) / r)
            return MLP(*(P / each(size) for P in A))

        reads = []
        for t in range(x.shape[1]):
            W = kept(A)
            error = W(k[:, t]) - v[:, t]
            slope = p * error.abs() ** (p - 1) * error.sign()
            slopes = W.slopes(k[:, t], W(k[:, t]) - slope)  # of ½‖·‖² with this error
            A = MLP(*(each(alpha[:, t]) * P - each(eta[:, t]) * g for P, g in zip(A, slopes)))
            reads.append(kept(A)(q[:, t]))
        return closed(w, reads, x), {"A.W1": A.W1, "A.W2": A.W2}

    return run


def yaad(w: State, x: Tensor) -> Found:
    """Steps on Huber's loss, whose slope is the error kept within [−δ_t, δ_t]."""
    q, k, v, M = deep(w, "M", x)
    delta = F.softplus(in_heads(w, "delta", x))
    eta, alpha = (gate(w, "eta", x) - 4).sigmoid(), (gate(w, "alpha", x) + 7).sigmoid()
    T, reads = M, []
    for t in range(x.shape[1]):
        found = M(k[:, t])
        error = torch.maximum(torch.minimum(found - v[:, t], delta[:, t]), -delta[:, t])
        slopes = M.slopes(k[:, t], found - error)
        a, b = each(alpha[:, t]), each(eta[:, t])
        M = MLP(*(W0 + a * (W - W0) - b * g for W, W0, g in zip(M, T, slopes)))
        reads.append(M(q[:, t]))
    return closed(w, reads, x), {"M.W1": M.W1, "M.W2": M.W2}


def memora(w: State, x: Tensor) -> Found:
    """W_t = softmax(α log W − η (W k − v) kᵀ), row by row, from equal weights on."""
    q, k, v = unit(mixed(w, "q", x)), unit(mixed(w, "W.key", x)), mixed(w, "W.value", x)
    eta, alpha = gate(w, "eta", x).sigmoid(), (gate(w, "alpha", x) + 4).sigmoid()
    W, reads = empty(x, v.shape[-1], k.shape[-1]) + 1 / k.shape[-1], []
    for t in range(x.shape[1]):
        slope = outer(read(W, k[:, t]) - v[:, t], k[:, t])
        W = (each(alpha[:, t]) * W.log() - each(eta[:, t]) * slope).softmax(-1)
        reads.append(read(W, q[:, t]))
    return closed(w, reads, x), {"W": W}


def lact(chunk: int, rate: float) -> Callable[[State, Tensor], Found]:
    """A chunk reads f(z) = W2 (silu(W1 z) ∘ W3 z) and writes −Σ η ⟨f(k), v⟩ by Muon; rows are kept at length 1."""

    def run(w: State, x: Tensor) -> Found:
        q, k = (unit(F.silu(in_heads(w, name, x))) for name in ("q", "M.key"))
        v, eta = F.silu(in_heads(w, "M.value", x)), F.softplus(gate(w, "eta", x))
        names = ("W1", "W2", "W3")
        W = [w[f"M.{n}.init"].expand(x.shape[0], -1, -1, -1) for n in names]
        out = []
        for part in chunks(x.shape[1], chunk):
            W1, W2, W3 = (P[:, None] for P in W)
            out.append(read(W2, F.silu(read(W1, q[:, part])) * read(W3, q[:, part])))
            if part.stop - part.start < chunk:
                break
            z, back = k[:, part], -eta[:, part, :, None] * v[:, part]
            pre, up = read(W1, z), read(W3, z)
            s = pre.sigmoid()
            inner = read(W2.mT, back)
            G = (
                outer(inner * up * (s + pre * s * (1 - s)), z).sum(1),
                outer(back, F.silu(pre) * up).sum(1),
                outer(inner * F.silu(pre), z).sum(1),
            )
            for i, g in enumerate(G):
                tall = max(1, g.shape[-2] / g.shape[-1]) ** 0.5
                step = towards_orthogonal(g.mT).mT if tall > 1 else towards_orthogonal(g)
                W[i] = unit(W[i] - rate * tall * step)
        y = normed(torch.cat(out, 1), w["y.rmsnorm.weight"])
        return linear(w, "y.linear", y.flatten(2)), {f"M.{n}": P for n, P in zip(names, W)}

    return run


def surprise(n: int, lr: float, discount: float) -> Callable[..., Found]:
    """Temporal differences for one sequence after the other, since each has episodes of its own."""

    def run(w: State, x: Tensor, reward: Tensor, done: Tensor) -> Found:
        z = unit(linear(w, "z.linear", x))
        rows, ends = [], []
        for b in range(x.shape[0]):
            V, mood, temperament = torch.zeros_like(z[b, 0]), x.new_zeros(()), x.new_zeros(())
            recent, episode, values, before = [], [], [], torch.zeros_like(V)
            for t in range(x.shape[1]):
                goes_on = t == 0 or done[b, t - 1] <= 0
                target = reward[b, t] + (discount * (V @ z[b, t]) if goes_on else 0)
                shock = torch.tanh((target - V @ before).abs())
                rate = lr * (shock + mood + temperament)
                V = V - rate * (V @ before - target) * before
                values.append(V @ z[b, t])
                before = z[b, t]
                recent.append(shock)
                episode.append(shock)
                if len(recent) == n:
                    mood, recent = mood + 0.5 * (sum(recent) / n - mood), []
                if done[b, t] > 0:
                    mean = sum(episode) / len(episode)
                    temperament, episode = temperament + 0.1 * (mean - temperament), []
            rows.append(torch.stack(values))
            ends.append((V, mood, temperament))
        states = zip(("V", "mood", "temperament"), zip(*ends))
        return torch.stack(rows), {name: torch.stack(parts) for name, parts in states}

    return run
