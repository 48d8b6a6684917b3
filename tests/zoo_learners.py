"""The systems of the zoo that make their own keys or learn by other objectives, as their papers write them.

Each function takes the slow weights by name and the inputs, and gives the output and the states at the end.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transcriptions import MLP, chain, chunks, period_of_steps, short_conv, unit
from zoo_layers import (
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
    started,
)
from zoo_linear import attended


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
