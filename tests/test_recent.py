"""``sum(e, last=c)``: the current state on what the last c ticks brought, against loops over lists in float64."""

from __future__ import annotations

import pytest
from test_clocks import agree, flows, outer, read

import nlc

OMEGA = """
nlc: 1
system: omega
context: tokens
hyper: {d: 3, c: 4}
inputs: {k: [d], v: [d], mask: []}
levels:
  M:
    frequency: every token
    memory: {W: [d, d], b: [d], read(z): W @ tanh(z + b) + b}
    key: k
    value: v
    let:
      gamma: sigmoid(mask + 1)
    objective: sum(gamma * 0.9**age * 0.5 * sqnorm(M(key) - value), last=c)
    rule: gd(lr=0.1, decay=0.95)
    init: learned
output: M(k)
"""


def omega(x, net, c: int = 4):
    import torch

    W, b = net.M.W.init.expand(2, 3, 3), net.M.b.init.expand(2, 3)
    out = []
    for i in range(x["k"].shape[1]):
        dW, db = torch.zeros_like(W), torch.zeros_like(b)
        for age in range(min(c, i + 1)):
            k, v, m = (x[n][:, i - age] for n in ("k", "v", "mask"))
            h = (k + b).tanh()
            error = (0.9**age * (m + 1).sigmoid())[:, None] * (read(W, h) + b - v)
            dW = dW + outer(error, h)
            db = db + error + read(W.mT, error) * (1 - h.square())
        W, b = 0.95 * W - 0.1 * dW, 0.95 * b - 0.1 * db
        out.append(read(W, (x["k"][:, i] + b).tanh()) + b)
    return {"y": torch.stack(out, 1)}


@pytest.mark.parametrize("c", [1, 4, 7])
def test_the_omega_rule(c: int) -> None:
    """Before the start of the stream there was nothing: a bias has a gradient at a key of zeros too."""
    agree(OMEGA.replace("c: 4", f"c: {c}"), lambda x, net: omega(x, net, c), flows("kv", 24))


def test_a_window_of_one_is_the_plain_objective() -> None:
    plain = OMEGA.replace("sum(gamma * 0.9**age *", "(gamma *").replace(", last=c)", ")")
    plain = plain.replace("hyper: {d: 3, c: 4}", "hyper: {d: 3}")
    agree(plain, lambda x, net: omega(x, net, 1), flows("kv", 24))


MORE = """
nlc: 1
system: more
context: tokens
hyper: {d: 3, c: 3}
inputs: {k: [d], v: [d], mask: []}
clocks: {episode: mask}
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    update: 0.9 * S + mean(outer(v, k), last=c) - 0.1 * sum(S * exp(-age), last=2)
    init: learned
  B:
    frequency: every 2 tokens
    memory: matrix(d, d)
    let:
      rate: 0.3
    objective: sum(0.5 * sqnorm(B @ last(k) - last(S) @ last(v)) / (1 + age), last=c)
    rule: gd(lr=rate / sum(1, last=c))
    init: learned
  E:
    frequency: every episode
    memory: matrix(d, d)
    objective: mean(0.5 * sqnorm(E(mean(k)) - last(v)), last=c)
    rule: gd(lr=0.1)
    init: learned
output: {s: S @ k, b: B @ k, e: E @ k}
"""


def more(x, net):
    import torch

    S, B, E = (net.get_submodule(n).init.expand(2, 3, 3) for n in "SBE")
    out: dict[str, list] = {n: [] for n in "sbe"}
    pairs: list = []
    gathered: list = [[], []]
    ends: list = [[], []]
    for i in range(x["k"].shape[1]):
        k, v = x["k"][:, i], x["v"][:, i]
        recent = [outer(x["v"][:, j], x["k"][:, j]) for j in range(max(0, i - 2), i + 1)]
        ages = sum(torch.exp(torch.tensor(-float(a), dtype=k.dtype)) for a in range(min(2, i + 1)))
        S = 0.9 * S + sum(recent) / len(recent) - 0.1 * S * ages
        out["s"].append(read(S, k))
        out["b"].append(read(B, k))
        out["e"].append(read(E, k))
        if (i + 1) % 2 == 0:
            pairs = [(k, read(S, v)), *pairs][:3]
            gradient = sum(outer(read(B, a) - b, a) / (1 + age) for age, (a, b) in enumerate(pairs))
            B = B - 0.3 / len(pairs) * gradient
        rows = []
        for n in range(2):
            gathered[n].append(k[n])
            row = E[n]
            if x["mask"][n, i] > 0:
                ends[n] = [(sum(gathered[n]) / len(gathered[n]), v[n]), *ends[n]][:3]
                gathered[n] = []
                row = row - 0.1 * sum(outer(read(row, a) - b, a) for a, b in ends[n]) / len(ends[n])
            rows.append(row)
        E = torch.stack(rows)
    return {n: torch.stack(o, 1) for n, o in out.items()}


def test_windows_of_slow_levels_of_declared_clocks_and_of_updates() -> None:
    agree(MORE, more, flows("kv", 24))


HEADS = """
nlc: 1
system: headed
context: tokens
hyper: {n: 3, d: n * heads}
heads: 2
inputs: {x: [d]}
let:
  k: l2norm(split(linear(x)))
  gate: sigmoid(dot(slice(x, 0, 1), slice(x, 1, 2)))
levels:
  S:
    frequency: every token
    memory: matrix(n, n)
    objective: sum(gate * sigmoid(split(linear(x, heads))) * 0.5 * sqnorm(S(k) - slice(x, 0, n)), last=3)
    rule: gd(lr=0.5)
output: merge(S(k))
outputs: {y: [n * heads]}
"""


def headed(x, net):
    import torch
    from torch.nn.functional import linear

    weights = dict(net.named_parameters())
    to_k = next(w for n, w in weights.items() if n.startswith("k."))
    gate = next(w for n, w in weights.items() if n.startswith("S."))
    x = x["x"]
    k = linear(x, to_k).unflatten(-1, (2, 3))
    k = k / (k.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    rate = (x[..., :1] * x[..., 1:2]).sigmoid() * linear(x, gate).sigmoid()
    v = x[..., None, :3]
    S, out = torch.zeros(2, 2, 3, 3, dtype=torch.float64), []
    for i in range(13):
        gradient = 0
        for j in range(max(0, i - 2), i + 1):
            error = read(S, k[:, j]) - v[:, j]
            gradient = gradient + rate[:, j, :, None, None] * outer(error, k[:, j])
        S = S - 0.5 * gradient
        out.append(read(S, k[:, i]).flatten(-2))
    return {"y": torch.stack(out, 1)}


def test_a_window_of_heads() -> None:
    import torch

    x = flows("ab", 13)
    agree(HEADS, headed, {"x": torch.cat([x["a"], x["b"]], -1)}, stops=(1, 4, 9))


GATHERED = """
nlc: 1
system: gathered
context: tokens
hyper: {d: 3}
inputs: {k: [d], v: [d], mask: []}
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    objective: mean(0.5 * sqnorm(S(k) - v), last=3) + mask
    rule: dgd(lr=0.1, decay=0.9)
    init: learned
  B:
    frequency: every 4 tokens
    memory: matrix(d, d)
    objective: sum(0.5 * sqnorm(B(k) - v))
    retain: 0.8
    rule: dgd(lr=0.02)
    init: learned
output: {s: S @ k, b: B @ k}
"""


def test_what_dgd_erases_is_summed_over_the_same_ticks() -> None:
    """And a gradient that is gathered is taken at B, what ``retain`` leaves of the state."""
    import torch

    def loop(x, net):
        S, B = (net.get_submodule(n).init.expand(2, 3, 3) for n in "SB")
        out: dict[str, list] = {"s": [], "b": []}
        both = torch.zeros_like(B)
        for i in range(x["k"].shape[1]):
            k, v = x["k"][:, i], x["v"][:, i]
            terms = []
            for j in range(max(0, i - 2), i + 1):
                a, b = x["k"][:, j], x["v"][:, j]
                terms.append(outer(read(S, a) - b, a) + outer(read(S, a), a))
            S = 0.9 * S - 0.1 * sum(terms) / len(terms)
            out["s"].append(read(S, k))
            out["b"].append(read(B, k))
            kept = 0.8 * B
            both = both + outer(read(kept, k) - v, k) + outer(read(kept, k), k)
            if (i + 1) % 4 == 0:
                B, both = kept - 0.02 * both, torch.zeros_like(both)
        return {n: torch.stack(o, 1) for n, o in out.items()}

    agree(GATHERED, loop, flows("kv", 22))


def test_a_window_holds_vectors_and_each_once() -> None:
    """Not c matrices of outer products, and no second window for what is read twice."""
    net = nlc.loads(OMEGA).compile()()
    import torch

    x = {n: f.float() for n, f in flows("kv", 2).items()}
    _, state = net(**x)
    windows = {n: list(s.shape[1:]) for n, s in state.items() if "recent" in n or "seen" in n}
    assert windows == {
        "M.seen": [4],
        "M.gamma.recent": [4],
        "M.key.recent": [4, 3],
        "M.value.recent": [4, 3],
    }
    assert torch.equal(state["M.seen"], torch.tensor([[0.0, 0, 1, 1]] * 2))


def test_the_derivation_shows_the_window() -> None:
    lines = nlc.loads(OMEGA).derive()
    assert "Σ_{age<c}" in lines
    assert r"\sum_{\mathrm{age} < c}" in nlc.loads(OMEGA).derive(format="latex")
