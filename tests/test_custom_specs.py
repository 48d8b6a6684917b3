"""Adding a system means writing one YAML text: systems that exist only here, each against a plain transcription."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import nlc

State = dict[str, Tensor]
Tick = Callable[[State, SimpleNamespace], tuple[State, Tensor]]

BATCH, LENGTH, SPLIT = 2, 7, 3
HEAD = """
nlc: 1
system: custom
context: tokens
hyper: {dk: 4, dv: 3}
heads: 2
"""
GATES = {"a", "b", "w"}  # vectors within (0, 1); other vectors as wide as keys have length one


def _draw(name: str, shape: list[int]) -> Tensor:
    """A flow that depends on its name alone."""
    noise = torch.Generator().manual_seed(sum(map(ord, name)))
    drawn = torch.randn(BATCH, LENGTH, *shape, generator=noise, dtype=torch.float64)
    if name in GATES or (len(shape) < 2 and name != "x"):
        drawn = drawn.sigmoid()
    elif shape[-1] == 4:
        drawn = drawn / drawn.norm(dim=-1, keepdim=True)
    return drawn.requires_grad_()


def _check(text: str, tick: Tick, fresh: bool = False) -> None:
    """Outputs, states and gradients of the compiled system equal those of ``tick``, head by head, token by token.

    ``tick`` gets the states and, as attributes, the flows of one token of one head, ``head``, ``t`` from 1 and the
    ``weights`` by name. Streams start at random states, unless ``fresh``. The second check is two pieces of a stream.
    """
    spec = nlc.loads(textwrap.dedent(text))
    torch.manual_seed(0)
    module = spec.compile()().double()
    flows = {}
    for name, given in spec.system.inputs.items():
        dims = [int(d.evaluate(vars(module))) for d in given.dims]
        flows[name] = _draw(name, [*([module.heads] if given.head else []), *dims])
    start = module.initial_state(next(iter(flows.values())))
    states = [key for key in spec.system.states if key in start]
    if not fresh:
        for key in states:
            start[key] = torch.randn_like(start[key]).requires_grad_()
    y, end = module(**flows, state=start)

    heads = range(module.heads) if spec.system.heads is not None else [None]
    weights = dict(module.named_parameters())
    rows, ends = [], {key: [] for key in states}
    for b in range(BATCH):
        for h in heads:
            at = (b,) if h is None else (b, h)
            state = {key: start[key][at] for key in states}
            outputs = []
            for t in range(LENGTH):
                now = {
                    key: f[b, t] if h is None or f.ndim < 3 else f[b, t, h]
                    for key, f in flows.items()
                }
                if h is not None:
                    headless = {k for k, i in spec.system.inputs.items() if not i.head}
                    now |= {key: flows[key][b, t] for key in headless}
                state, out = tick(state, SimpleNamespace(**now, head=h, t=t + 1, weights=weights))
                outputs.append(out)
            rows.append(torch.stack(outputs))
            for key in ends:
                ends[key].append(state[key])
    expected = torch.stack(rows).unflatten(0, (BATCH, -1)).transpose(1, 2)
    expected = expected.reshape(y.shape) if heads == [None] else expected
    _near(y, expected)
    for key in ends:
        _near(end[key], torch.stack(ends[key]).reshape(end[key].shape))

    leaves = [x for x in (*flows.values(), *start.values(), *weights.values()) if x.requires_grad]
    slopes = [
        torch.autograd.grad(z.square().sum(), leaves, allow_unused=True, materialize_grads=True)
        for z in (y, expected)
    ]
    for mine, theirs in zip(*slopes, strict=True):
        _near(mine, theirs)

    parts, state = [], start
    for part in (slice(0, SPLIT), slice(SPLIT, LENGTH)):
        z, state = module(**{key: f[:, part] for key, f in flows.items()}, state=state)
        parts.append(z)
    _near(torch.cat(parts, 1), y)


def _near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# one matrix memory

WIDTHS = dict(q="dk", k="dk", p="dk", a="dk", w="dk", v="dv", b="dv")
EYE = torch.eye(4, dtype=torch.float64)


def _matrix(inputs: str, *fields: str) -> str:
    """A spec with one memory S: matrix(dv, dk) that k and v are written to and q reads."""
    flows = ", ".join(f"{name}: [{WIDTHS.get(name, '')}]" for name in inputs.split())
    level = ["frequency: every token", "memory: matrix(dv, dk)", "key: k", "value: v", *fields]
    body = textwrap.indent("\n".join(level), "    ")
    return f"{HEAD}inputs: {{{flows}}}\noutput: S(q)\nlevels:\n  S:\n{body}\n"


def _solve(quadratic: Tensor, right: Tensor) -> Tensor:
    """Φ with Φ A = R."""
    return torch.linalg.solve(quadratic.mT, right.mT).mT


def _slope(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    return torch.autograd.grad(loss(at), at, create_graph=True)[0]


DOT, SQUARE = "objective: -dot(S(key), value)", "objective: 0.5 * sqnorm(S(key) - value)"
outer = torch.outer
MATRICES: dict[str, tuple[str, Callable[[Tensor, SimpleNamespace], Tensor]]] = {
    "retnet": (
        _matrix("q k v", DOT, "rule: gd(lr=1, decay=1 - 2**(-5 - head))"),
        lambda S, f: (1 - 2.0 ** (-5 - f.head)) * S + outer(f.v, f.k),
    ),
    "gla": (
        _matrix("q k v a", DOT, "rule: gd(lr=1, decay=per_key(a))"),
        lambda S, f: S @ f.a.diag() + outer(f.v, f.k),
    ),
    "value_gates": (
        _matrix("q k v b", DOT, "rule: gd(lr=1, decay=per_value(b))"),
        lambda S, f: f.b.diag() @ S + outer(f.v, f.k),
    ),
    "all_gates": (
        _matrix("q k v a b", SQUARE, "retain: outer(b, a)", "rule: gd(lr=1, decay=per_key(a))"),
        lambda S, f: (
            outer(f.b, f.a) * f.a * S - outer(outer(f.b, f.a) * S @ f.k - f.v, f.k)
        ),
    ),
    "oja": (
        _matrix(
            "q k v eta alpha",
            "objective: -dot(S(key), value) + 0.5 * sqnorm(S.T @ value)",
            "rule: gd(lr=eta, decay=alpha)",
        ),
        lambda S, f: f.alpha * S + f.eta * outer(f.v, f.k - S.T @ f.v),
    ),
    "kda": (
        _matrix("q k v a eta", SQUARE, "retain: per_key(a)", "rule: gd(lr=eta)"),
        lambda S, f: S @ f.a.diag() @ (EYE - f.eta * outer(f.k, f.k)) + f.eta * outer(f.v, f.k),
    ),
    "decay_beside_the_step": (
        _matrix("q k v eta alpha", SQUARE, "rule: gd(lr=eta, decay=alpha)"),
        lambda S, f: S @ (f.alpha * EYE - f.eta * outer(f.k, f.k)) + f.eta * outer(f.v, f.k),
    ),
    "erase_and_write_apart": (
        _matrix(
            "q k v c eta alpha",
            "objective: 0.5 * c * sqnorm(S(key)) - dot(S(key), value)",
            "rule: gd(lr=eta, decay=alpha)",
        ),
        lambda S, f: (
            S @ (f.alpha * EYE - f.eta * f.c * outer(f.k, f.k)) + f.eta * outer(f.v, f.k)
        ),
    ),
    "comba": (
        _matrix(
            "q k p v eta alpha",
            "objective: dot(S(key), prev(S)(p) - value)",
            "rule: gd(lr=eta, decay=alpha)",
        ),
        lambda S, f: S @ (f.alpha * EYE - f.eta * outer(f.p, f.k)) + f.eta * outer(f.v, f.k),
    ),
    "comba_after_retention": (
        _matrix(
            "q k p v eta alpha",
            "objective: dot(S(key), stop(S(p)) - value)",
            "retain: alpha",
            "rule: gd(lr=eta)",
        ),
        lambda S, f: (
            f.alpha * S - f.eta * outer((f.alpha * S @ f.p).detach() - f.v, f.k)
        ),
    ),
    "longhorn": (
        _matrix("q k v eta", SQUARE, "rule: prox(lr=eta)"),
        lambda S, f: _solve(outer(f.k, f.k) + EYE / f.eta, outer(f.v, f.k) + S / f.eta),
    ),
    "longhorn_per_key": (
        _matrix("q k v a alpha", SQUARE, "retain: alpha", "rule: prox(lr=per_key(a))"),
        lambda S, f: _solve(
            outer(f.k, f.k) + (1 / f.a).diag(), outer(f.v, f.k) + f.alpha * S / f.a
        ),
    ),
    "longhorn_per_value": (
        _matrix("q k v b alpha", SQUARE, "retain: alpha", "rule: prox(lr=per_value(b))"),
        lambda S, f: torch.stack([
            _solve(outer(f.k, f.k) + EYE / b, (v * f.k + f.alpha * row / b)[None])[0]
            for row, v, b in zip(S, f.v, f.b)
        ]),
    ),
    "prox_per_value_with_a_penalty": (
        _matrix(
            "q k v b",
            "objective: 0.5 * sqnorm(S(key) - value) + 1.5 * sqnorm(S)",
            "rule: prox(lr=per_value(b))",
        ),
        lambda S, f: torch.stack([
            _solve(outer(f.k, f.k) + (3 + 1 / b) * EYE, (v * f.k + row / b)[None])[0]
            for row, v, b in zip(S, f.v, f.b)
        ]),
    ),
    "prox_with_a_penalty": (
        _matrix(
            "q k v b eta alpha",
            "objective: 0.5 * sqnorm(S(key) - value) + 1.5 * sqnorm(S) - dot(S(q), value)",
            "rule: prox(lr=eta, decay=per_value(b))",
        ),
        lambda S, f: _solve(
            outer(f.k, f.k) + (3 + 1 / f.eta) * EYE,
            outer(f.v, f.k) + outer(f.v, f.q) + f.b.diag() @ S / f.eta,
        ),
    ),
    "prox_of_a_linear_objective": (
        _matrix("q k v eta", DOT, "rule: prox(lr=eta)"),
        lambda S, f: S + f.eta * outer(f.v, f.k),
    ),
    "dgd": (  # eq. 88
        _matrix("q k v eta alpha", SQUARE, "rule: dgd(lr=eta, decay=alpha)"),
        lambda S, f: (
            S @ (f.alpha * EYE - f.eta * outer(f.k, f.k)) - f.eta * outer(S @ f.k - f.v, f.k)
        ),
    ),
    "dgd_exact": (  # eqs. 56 and 113: the minimiser for the target u = -δ
        _matrix("q k v eta", DOT, "rule: dgd(lr=eta, exact=true)"),
        lambda S, f: _solve(outer(f.k, f.k) + EYE / f.eta, outer(f.v, f.k) + S / f.eta),
    ),
    "dgd_exact_of_an_error": (
        _matrix("q p v k eta", "objective: 0.5 * sqnorm(S(2 * key + p) - value)",
                "rule: dgd(lr=eta, exact=true)"),
        lambda S, f: (
            _solve(
                outer(2 * f.k + f.p, 2 * f.k + f.p) + EYE / f.eta,
                outer(f.v - S @ (2 * f.k + f.p), 2 * f.k + f.p) + S / f.eta,
            )
        ),
    ),
    "rwkv7": (
        _matrix("q k p v w eta", "update: S * per_key(w) - outer(S(p), eta * p) + outer(v, k)"),
        lambda S, f: S @ (f.w.diag() - f.eta * outer(f.p, f.p)) + outer(f.v, f.k),
    ),
    "projected": (
        _matrix("q k v eta", SQUARE, "rule: gd(lr=eta)", "project: S / max(norm(S), 1)"),
        lambda S, f: (
            (M := S - f.eta * outer(S @ f.k - f.v, f.k)) / M.norm().clamp(min=1)
        ),
    ),
    "towards_an_expression": (
        _matrix(
            "q k p v b eta alpha", SQUARE, "toward: outer(b, p)", "retain: alpha",
            "rule: gd(lr=eta, decay=0.9)",
        ),
        lambda S, f: (
            (T := outer(f.b, f.p))
            + 0.9 * f.alpha * (S - T)
            - f.eta * outer((T + f.alpha * (S - T)) @ f.k - f.v, f.k)
        ),
    ),
    "huber": (
        _matrix("q k v", "objective: huber(S(key) - value, 0.7)", "rule: gd(lr=0.5)"),
        lambda S, f: S - 0.5 * outer((S @ f.k - f.v).clamp(-0.7, 0.7), f.k),
    ),
    "steps_that_shrink": (
        _matrix("q k v eta", SQUARE, "rule: gd(lr=eta / t, decay=pos / (pos + 1))"),
        lambda S, f: (f.t - 1) / f.t * S - f.eta / f.t * outer(S @ f.k - f.v, f.k),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MATRICES)
def test_one_matrix(name: str) -> None:
    text, update = MATRICES[name]

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        S = update(s["S"], f)
        return {"S": S}, S @ f.q

    _check(text, tick)


# other memories


def test_moneta_differentiates_by_a_let_of_the_state() -> None:
    """P = A / ‖A‖ᵣ^(r-2) is read and differentiated by; A accumulates."""
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], v: [dv], eta: [], alpha: []}
let:
  P: A / norm(A, p=4)**2
levels:
  A:
    frequency: every token
    memory: matrix(dv, dk)
    key: k
    update: alpha * A - eta * grad(lp(P(key) - v, 3), P)
output: P(q)
"""
    )

    def read(A: Tensor) -> Tensor:
        return A / (A**4).sum() ** 0.5

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        slope = _slope(lambda P: ((P @ f.k - f.v).abs() ** 3).sum(), read(s["A"]))
        A = f.alpha * s["A"] - f.eta * slope
        return {"A": A}, read(A) @ f.q

    _check(text, tick)


def test_an_update_differentiates_by_its_own_level() -> None:
    """`grad(ℓ(S(k)), S)` in S's update is what `gd` does with ℓ for its objective."""
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], v: [dv], eta: []}
levels:
  S:
    frequency: every token
    memory: matrix(dv, dk)
    update: S - eta * grad(0.5 * sqnorm(S(k) - v), S)
output: S(q)
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        S = s["S"] - f.eta * torch.outer(s["S"] @ f.k - f.v, f.k)
        return {"S": S}, S @ f.q

    _check(text, tick)


def test_an_update_differentiates_by_every_state_of_its_memory() -> None:
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], eta: []}
levels:
  M:
    frequency: every token
    memory: mlp(dk, 2, act=tanh)
    update: M - eta * grad(0.5 * sqnorm(M(k) - q), M)
    init: learned
output: M(k)
"""
    )

    def read(W1: Tensor, W2: Tensor, k: Tensor) -> Tensor:
        return k + W1 @ torch.tanh(W2 @ k)

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        names = ("M.W1", "M.W2")
        W = [s[n] for n in names]
        slopes = [
            _slope(
                lambda w, i=i: (
                    0.5 * (read(*[w if j == i else W[j] for j in (0, 1)], f.k) - f.q).square().sum()
                ),
                W[i],
            )
            for i in (0, 1)
        ]
        new = [w - f.eta * slope for w, slope in zip(W, slopes)]
        return dict(zip(names, new)), read(*new, f.k)

    _check(text, tick)


def test_mlstm_is_three_levels_that_share_a_stabiliser() -> None:
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], v: [dv], i: [], f: []}
let:
  open: 3 * i
  keep: log(f)
levels:
  m:
    frequency: every token
    memory: scalar
    init: -inf
    update: max(keep + m, open)
  C:
    frequency: every token
    memory: matrix(dv, dk)
    key: k
    value: v
    objective: -dot(C(key), value)
    rule: gd(lr=exp(open - m), decay=exp(keep + prev(m) - m))
  n:
    frequency: every token
    memory: vector(dk)
    objective: -dot(n, k)
    rule: gd(lr=exp(open - m), decay=exp(keep + prev(m) - m))
output: C(q) / max(abs(dot(n, q)), exp(-m))
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        m = torch.maximum(f.f.log() + s["m"], 3 * f.i)
        write, keep = (3 * f.i - m).exp(), (f.f.log() + s["m"] - m).exp()
        C = keep * s["C"] + write * outer(f.v, f.k)
        n = keep * s["n"] + write * f.k
        return {"m": m, "C": C, "n": n}, C @ f.q / torch.maximum((n @ f.q).abs(), (-m).exp())

    _check(text, tick)
    _check(text, tick, fresh=True)


def test_a_memory_of_two_weights_learns_both() -> None:
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], p: [dk], eta: [], alpha: []}
levels:
  M:
    frequency: every token
    memory:
      W: [dk, dk]
      b: [dk]
      read(z): z + W @ z + b
    objective: 0.5 * sqnorm(M(k) - p)
    rule: gd(lr=eta, decay=alpha)
output: M(q)
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        W, b = s["M.W"], s["M.b"]
        error = f.k + W @ f.k + b - f.p
        W, b = f.alpha * W - f.eta * outer(error, f.k), f.alpha * b - f.eta * error
        return {"M.W": W, "M.b": b}, f.q + W @ f.q + b

    _check(text, tick)


def test_each_weight_of_an_mlp_memory_erases_at_its_own_key() -> None:
    """dgd on eq. 89's memory with decay towards its learned start; gradients by autograd."""
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], p: [dk], eta: [], alpha: []}
levels:
  M:
    frequency: every token
    memory:
      W1: [dk, 6]
      W2: [6, dk]
      read(z): z + W1 @ silu(W2 @ z)
    objective: 0.5 * sqnorm(M(k) - p)
    rule: dgd(lr=eta, decay=alpha)
    toward: init
    init: learned
output: M(q)
"""
    )

    def read(W1: Tensor, W2: Tensor, z: Tensor) -> Tensor:
        return z + W1 @ torch.nn.functional.silu(W2 @ z)

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        W = [s["M.W1"], s["M.W2"]]
        loss = 0.5 * (read(*W, f.k) - f.p).square().sum()
        slopes = torch.autograd.grad(loss, W, create_graph=True)
        keys = [torch.nn.functional.silu(W[1] @ f.k), f.k]
        starts = [f.weights[f"M.{n}.init"][f.head] for n in ("W1", "W2")]
        W = [
            T + f.alpha * (M - T) - f.eta * (g + outer(M @ x, x))
            for T, M, g, x in zip(starts, W, slopes, keys, strict=True)
        ]
        return {"M.W1": W[0], "M.W2": W[1]}, read(*W, f.q)

    _check(text, tick)
    _check(text, tick, fresh=True)


def test_ttt_reads_through_a_norm_with_slow_weights() -> None:
    """Gradients pass layernorm and rmsnorm, inner and outer; lets may be named like what is generated."""
    text = (
        HEAD.replace("dv: 3", "mix: 0.1")
        + """
inputs: {q: [dk], k: [dk], p: [dk], eta: []}
let:
  M_grad: 2 * p
  M_W_t: eta
levels:
  M:
    frequency: every token
    memory:
      W: [dk, dk]
      b: [dk]
      read(z): z + layernorm(W @ z + b)
    objective: huber(M(k) - M_grad) + mix * sum(rmsnorm(M.W @ q))
    rule: gd(lr=M_W_t)
    init: learned
output: M(q)
"""
    )
    norm, rms = torch.nn.functional.layer_norm, torch.nn.functional.rms_norm

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        def own(key: str) -> Tensor:
            return f.weights[key][f.head]

        def read(W: Tensor, b: Tensor, z: Tensor) -> Tensor:
            scale, shift = own("M.read.layernorm.weight"), own("M.read.layernorm.bias")
            return z + norm(W @ z + b, (4,), scale, shift, 1e-6)

        M = [s["M.W"], s["M.b"]]
        loss = torch.nn.functional.huber_loss(read(*M, f.k), 2 * f.p, reduction="sum")
        scale = own("M.objective.rmsnorm.weight")
        loss = loss + 0.1 * rms(M[0] @ f.q, (4,), scale, 1e-6).sum()
        slopes = torch.autograd.grad(loss, M, create_graph=True)
        M = [m - f.eta * g for m, g in zip(M, slopes, strict=True)]
        return {"M.W": M[0], "M.b": M[1]}, read(*M, f.q)

    _check(text, tick)


def test_vectors_and_numbers_are_memories_too() -> None:
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], e: [], eta: [], alpha: []}
levels:
  n:
    frequency: every token
    memory: vector(dk)
    objective: 0.5 * sqnorm(n - k) + 0.5 * (dot(n, q) - e)**2
    rule: gd(lr=eta, decay=q)
  s:
    frequency: every token
    memory: scalar
    objective: 0.5 * (s - dot(n, k))**2
    rule: gd(lr=alpha)
  x:
    frequency: every token
    memory: vector(dk)
    objective: 0.5 * (dot(x, k) - e)**2
    rule: prox(lr=eta)
output: s * n + x
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        n = f.q * s["n"] - f.eta * (s["n"] - f.k + (s["n"] @ f.q - f.e) * f.q)
        number = s["s"] - f.alpha * (s["s"] - n @ f.k)
        x = torch.linalg.solve(outer(f.k, f.k) + EYE / f.eta, f.e * f.k + s["x"] / f.eta)
        return {"n": n, "s": number, "x": x}, number * n + x

    _check(text, tick)


# levels that read each other


def test_two_levels_one_reads_the_new_state_and_one_the_old() -> None:
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], v: [dv], eta: [], alpha: []}
levels:
  B:
    frequency: every token
    memory: matrix(dv, dk)
    key: k
    value: v - A(k)
    objective: 0.5 * sqnorm(B(key) - value)
    rule: gd(lr=alpha)
  A:
    frequency: every token
    memory: matrix(dv, dk)
    key: k
    value: v - prev(B)(k)
    objective: 0.5 * sqnorm(A(key) - value)
    rule: gd(lr=eta)
output: A(q) + prev(A)(q) + B(q)
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        A = s["A"] - f.eta * outer(s["A"] @ f.k - f.v + s["B"] @ f.k, f.k)
        B = s["B"] - f.alpha * outer(s["B"] @ f.k - f.v + A @ f.k, f.k)
        return {"A": A, "B": B}, (A + s["A"] + B) @ f.q

    _check(text, tick)


def test_attention_joins_the_loop_where_a_memory_needs_it() -> None:
    """Keys come from one memory's past, and what attention reads within three tokens is written to it."""
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], v: [dv], p: [dk]}
levels:
  A:
    frequency: infinite
    memory: cache(window=3)
    key: k + prev(S).T @ v
    value: p
  S:
    frequency: every token
    memory: matrix(dv, dk)
    key: A(q)
    value: v
    objective: 0.5 * sqnorm(S(key) - value)
    rule: gd(lr=0.5)
output: S(A(q))
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        keys = [*s.get("keys", []), f.k + s["S"].T @ f.v][-3:]
        values = [*s.get("values", []), f.p][-3:]
        weights = (torch.stack(keys) @ f.q / 2).softmax(0)  # dk ** -0.5
        r = weights @ torch.stack(values)
        S = s["S"] - 0.5 * outer(s["S"] @ r - f.v, r)
        return {"S": S, "keys": keys, "values": values}, S @ r

    _check(text, tick)


def test_windows_of_what_a_memory_says_run_inside_the_loop() -> None:
    """A convolution and a delay of A's reads feed B."""
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], v: [dv], eta: []}
let:
  r: A(q)
levels:
  A:
    frequency: every token
    memory: matrix(dv, dk)
    key: k
    value: v
    objective: 0.5 * sqnorm(A(key) - value)
    rule: gd(lr=eta)
  B:
    frequency: every token
    memory: matrix(dv, dk)
    key: k
    value: silu(conv(r, 3)) + prev(r) - prev(B)(k)
    objective: -dot(B(key), value)
    rule: gd(lr=eta)
output: B(q) + prev(B(q), 0.5)
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        A = s["A"] - f.eta * outer(s["A"] @ f.k - f.v, f.k)
        none = torch.zeros(3, dtype=torch.float64)
        r = [*s.get("r", [none, none]), A @ f.q]
        kernel = f.weights["B.value.conv.weight"][f.head]
        mixed = sum(kernel[:, i] * r[i] for i in range(3))
        value = torch.nn.functional.silu(mixed) + r[1] - s["B"] @ f.k
        B = s["B"] + f.eta * outer(value, f.k)
        y = B @ f.q
        return {"A": A, "B": B, "r": r[1:], "y": y}, y + s.get("y", 0.5 + none)

    _check(text, tick)


def test_a_flow_may_read_its_own_past() -> None:
    text = """
    nlc: 1
    system: recurrent
    context: tokens
    hyper: {d: 4}
    inputs: {x: [d]}
    let:
      h: tanh(prev(h, 0.5) + linear(x))
    levels:
      S:
        frequency: every token
        memory: matrix(d, d)
        key: h
        value: x
        objective: -dot(S(key), value)
        rule: gd(lr=0.5, decay=1 / (1 + sqnorm(prev(h))))
    output: S(h) + h
    """

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        half = torch.full((4,), 0.5, dtype=torch.float64)
        past, zero = s.get("h", half), s.get("h", 0 * half)
        h = torch.tanh(past + f.weights["h.linear.weight"] @ f.x)
        S = s["S"] / (1 + zero @ zero) + 0.5 * outer(f.x, h)
        return {"S": S, "h": h}, S @ h + h

    _check(text, tick)


# families, heads


def test_a_family_is_one_level_for_each_member() -> None:
    """Members zip lists, and lists of hypers; labels and numbers name them; lets chain and sums fold."""
    text = (
        HEAD.replace("dv: 3", "dv: 3, rates: [0.9, 0.5, 0.1]")
        + """
inputs: {q: [dk], k: [dk], p: [dk], v: [dv]}
let:
  h[0]: q
  h[i]:
    for: {i: [1, 2]}
    is: h[i-1] * 2 + C[i](q)
levels:
  S[i]:
    for: {i: [1, 2, 3], rate: rates}
    frequency: every token
    memory: matrix(dv, dk)
    key: k
    value: v
    objective: -dot(S[i](key), value)
    rule: gd(lr=1, decay=rate)
  C[i]:
    for: {i: [1, 2], lr: [0.25, 0.75]}
    frequency: every token
    memory: matrix(dk, dk)
    key: h[i-1]
    value: p
    objective: 0.5 * sqnorm(C[i](key) - value)
    rule: gd(lr=lr)
  M[s]:
    for: {s: [k, v], out: [dk, dv]}
    frequency: every token
    memory: matrix(out, dk)
    key: k
    value: prev(M[s])(q)
    objective: -dot(M[s](key), value)
    rule: gd(lr=0.5, decay=0.5)
output: sum(S[i](q) for i) + S[2](M[k](h[2])) + M[v](q)
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        out = {
            f"S_{i}": r * s[f"S_{i}"] + outer(f.v, f.k) for i, r in zip((1, 2, 3), (0.9, 0.5, 0.1))
        }
        h = f.q
        for i, lr in ((1, 0.25), (2, 0.75)):
            C = s[f"C_{i}"]
            out[f"C_{i}"] = C = C - lr * outer(C @ h - f.p, h)
            h = h * 2 + C @ f.q
        for n in ("M_k", "M_v"):
            out[n] = 0.5 * s[n] + 0.5 * outer(s[n] @ f.q, f.k)
        total = out["S_1"] + out["S_2"] + out["S_3"]
        return out, total @ f.q + out["S_2"] @ out["M_k"] @ h + out["M_v"] @ f.q

    _check(text, tick)


def test_a_weight_of_each_head_starts_log_uniform_and_learns() -> None:
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], v: [dv], e: []}
weights:
  A_log: {shape: [], per: head, init: "log(uniform(1, 16))"}
  D: {shape: [dv], init: 1}
levels:
  S:
    frequency: every token
    memory: matrix(dv, dk)
    key: k
    value: v
    objective: -dot(S(key), value)
    rule: gd(lr=1, decay=exp(-exp(A_log) * e))
output: S(q) + D * v
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        decay = (-f.weights["A_log"][f.head].exp() * f.e).exp()
        S = decay * s["S"] + outer(f.v, f.k)
        return {"S": S}, S @ f.q + f.weights["D"] * f.v

    _check(text, tick)
    torch.manual_seed(0)
    module = nlc.loads(text).compile()(heads=1000)
    drawn = module.A_log.detach().exp()
    assert drawn.shape == (1000,) and drawn.min() >= 1 and drawn.max() <= 16
    assert abs(drawn.mean() - 8.5) < 0.5 and (module.D == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_step_sizes_are_drawn_also_where_exp_rounds_to_1(dtype: torch.dtype) -> None:
    text = f"{HEAD}inputs: {{x: [dk]}}\noutput: x * softplus(a)\nweights:\n"
    text += '  a: {shape: [dk], init: "inv_softplus(exp(uniform(log(1e-4), log(1e-3))))"}\n'
    steps = torch.nn.functional.softplus(nlc.loads(text).compile()(dk=1000, dtype=dtype).a)
    assert steps.min() > 0.98e-4 and steps.max() < 1.02e-3 and steps.std() > 1e-4


def test_what_no_token_changes_is_as_precise_as_the_states() -> None:
    """In bfloat16, 1 − 2⁻⁹ and sigmoid(6) are 1: rounded to it, some heads would not forget."""
    text = _matrix("q k v", DOT, "rule: gd(lr=1, decay=keep)").replace("heads: 2", "heads: 8")
    text = text.replace("output: S(q)", "output: gamma * S(q)")
    text += "weights:\n  A: {shape: [], per: head, init: 6}\n"
    text += "let:\n  gamma: 1 - 2**(-5 - head)\n  keep: gamma * sigmoid(A)\n"
    module, noise = nlc.loads(text).compile()().bfloat16(), torch.Generator().manual_seed(0)
    flows = {
        name: torch.randn(1, 200, 8, n, generator=noise).bfloat16()
        for name, n in dict(q=4, k=4, v=3).items()
    }
    y, end = module(**flows)
    assert y.dtype == torch.bfloat16

    _, k, v = (flow.double() for flow in flows.values())
    keep = (1 - 2.0 ** -(5 + torch.arange(8.0).double())) * module.A.double().sigmoid()
    S = torch.zeros(1, 8, 3, 4, dtype=torch.float64)
    for t in range(200):
        S = keep[:, None, None] * S + v[:, t, :, :, None] * k[:, t, :, None]
    assert (end["S"] - S).norm() < 1e-5 * S.norm()


def test_a_level_may_start_where_another_does() -> None:
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], v: [dv]}
levels:
  A:
    frequency: every token
    memory: matrix(dv, dk)
    init: learned(0.5)
    objective: 0.5 * sqnorm(A(k) - v)
    rule: gd(lr=0.5)
  B:
    frequency: every token
    memory: matrix(dv, dk)
    init: A
    objective: -dot(B(k), v)
    rule: gd(lr=1)
output: A(q) + 2 * B(q)
"""
    )

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        A = s["A"] + 0.5 * outer(f.v - s["A"] @ f.k, f.k)
        B = s["B"] + outer(f.v, f.k)
        return {"A": A, "B": B}, A @ f.q + 2 * B @ f.q

    _check(text, tick, fresh=True)


@pytest.mark.parametrize(
    "memory, drawn",
    [
        ("matrix(dk, dk)", False),
        ("{W: [dk, dk], b: [dk], read(z): z + W @ z + b}", False),
        ("{W: [dk, dk], U: [dk, dk], read(z): linear(W @ z) - 2 * (U @ z) / dk}", False),
        ("{W: [dk, dk], b: [dk], read(z): z + layernorm(W @ z + b)}", True),
        ("{W: [dk, dk], b: [dk], read(z): silu(W @ z + b)}", True),
        ("{W: [dk, dk], U: [dk, dk], read(z): W @ (U @ z)}", True),
        ("{W: [dk, dk], U: [dk, dk], read(z): (W @ z) * (U @ z)}", True),
    ],
)
def test_learned_matrices_start_at_zero_where_their_read_is_linear(
    memory: str, drawn: bool
) -> None:
    text = _matrix("q k", "objective: -dot(S(q), k)", "rule: gd(lr=1)", "init: learned")
    text = text.replace("matrix(dv, dk)", memory).replace("    key: k\n    value: v\n", "")
    starts = {n: p for n, p in nlc.loads(text).compile()().named_parameters() if "init" in n}
    for name, start in starts.items():
        of_fan_in = abs(start.std() - 0.5) < 0.25
        assert of_fan_in if drawn and start.ndim == 3 else not start.any(), name
    assert starts


def test_a_memory_decays_towards_its_start() -> None:
    fields = ["init: 0.5", "toward: init", "rule: gd(lr=eta, decay=alpha)"]

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        S = 0.5 + f.alpha * (s["S"] - 0.5) - f.eta * outer(s["S"] @ f.k - f.v, f.k)
        return {"S": S}, S @ f.q

    _check(_matrix("q k v eta alpha", SQUARE, *fields), tick)


def test_backprop_none_keeps_the_outer_gradient_out_of_the_writes() -> None:
    text = _matrix("q k v eta", SQUARE, "rule: gd(lr=eta)", "backprop: none")
    flows = {name: _draw(name, [2, *n]) for name, n in dict(q=[4], k=[4], v=[3], eta=[]).items()}
    y, _ = nlc.loads(text).compile()()(**flows)
    y.square().sum().backward()
    reached = {name for name, flow in flows.items() if flow.grad is not None and flow.grad.any()}
    assert y.any() and reached == {"q"}


@pytest.mark.parametrize("context", ["tokens", "gradients"])
def test_no_name_of_a_spec_breaks_the_file(context: str) -> None:
    """A hyper that Python or torch uses too is refused by name, or works."""
    for name in "x1 lambda self None dtype params maximize super dict nn".split():
        text = f"nlc: 1\nsystem: class\ncontext: {context}\nhyper: {{d: 4, {name}: 2}}\n"
        if context == "tokens":
            text += f"inputs: {{x: [d]}}\noutput: linear(x) * {name}\n"
        else:
            text += "levels:\n  W:\n    frequency: every step\n"
            text += f"    objective: dot(W, g) * d\n    rule: gd(lr={name})\n"
        try:
            made = nlc.loads(text).compile()
        except nlc.SpecError as refused:
            assert name != "x1" and f"`{name}`" in str(refused)
            continue
        if context == "tokens":
            module, x = made(**{name: 3}).double(), torch.ones(1, 1, 4, dtype=torch.float64)
            _near(module(x)[0], 3 * x @ next(module.parameters()).T)
        else:
            p = torch.ones(4, requires_grad=True)
            p.grad = torch.ones(4)
            made([p], **{name: 3}).step()
            assert (p == 1 - 4 * 3).all()


# gradient systems


def _gradients(levels: str, hypers: str = "lr: 0.05", let: str = "") -> type[torch.optim.Optimizer]:
    text = f"nlc: 1\nsystem: custom\ncontext: gradients\nhyper: {{{hypers}}}\n"
    text += f"let:\n{textwrap.indent(textwrap.dedent(let), '  ')}\n" if let else ""
    body = textwrap.dedent(levels).replace("@step", "frequency: every step")
    return nlc.loads(f"{text}levels:\n{textwrap.indent(body, '  ')}").compile()


def _descend(
    made: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int = 40
) -> list[Tensor]:
    """A scalar, a vector and a matrix after gradients that depend on the step and the weights."""
    noise = torch.Generator().manual_seed(3)
    shapes = [(), (5,), (4, 3)]
    params = [torch.randn(s, generator=noise).double().requires_grad_() for s in shapes]
    optimizer = made(params)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=noise).double() + 0.3 * p.detach()
        optimizer.step()
    return [p.detach() for p in params]


class _Written(torch.optim.Optimizer):
    """``line(W, g, s, t)`` gives the new W; ``s`` holds what it keeps and starts at zeros."""

    def __init__(self, params: list[Tensor], line: Callable[..., Tensor], **start: float) -> None:
        super().__init__(params, {"line": line, "start": start})

    @torch.no_grad()
    def step(self) -> None:
        for p in self.param_groups[0]["params"]:
            s = self.state[p]
            if not s:
                s.update(
                    {k: x * torch.ones_like(p) for k, x in self.defaults["start"].items()}, t=0
                )
            s["t"] += 1
            p.copy_(self.defaults["line"](p, p.grad, s, s["t"]))


def _equal(mine: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


MOMENTS = """
m:
  @step
  memory: like(W)
  objective: -dot(m, g)
  rule: gd(lr=1 - beta1, decay=beta1)
v:
  @step
  memory: like(W)
  objective: -dot(v, g * g)
  rule: gd(lr=1 - beta2, decay=beta2)
"""
ADAM = "lr: 0.05, beta1: 0.9, beta2: 0.98, eps: 1e-8"
BETAS = {"lr": 0.05, "betas": (0.9, 0.98)}


def test_nesterov_reads_ahead() -> None:
    made = _gradients("""
    m:
      @step
      memory: like(W)
      objective: -dot(m, g)
      rule: gd(lr=1, decay=0.8)
    W:
      @step
      objective: dot(W, g + 0.8 * m)
      rule: gd(lr=lr)
    """)
    _equal(_descend(made), _descend(lambda p: torch.optim.SGD(p, 0.05, 0.8, nesterov=True)))


def test_amsgrad_keeps_a_running_maximum() -> None:
    made = _gradients(MOMENTS + """
h:
  @step
  memory: like(W)
  update: max(h, v)
W:
  @step
  objective: dot(W, m / (1 - beta1**t) / (sqrt(h / (1 - beta2**t)) + eps))
  rule: gd(lr=lr)
""", ADAM)  # fmt: skip
    _equal(_descend(made), _descend(lambda p: torch.optim.Adam(p, **BETAS, amsgrad=True)))


def test_centred_rmsprop_with_momentum() -> None:
    made = _gradients("""
    a:
      @step
      memory: like(W)
      objective: 0.5 * sqnorm(a - g)
      rule: gd(lr=0.1)
    v:
      @step
      memory: like(W)
      objective: 0.5 * sqnorm(v - g**2)
      rule: gd(lr=0.1)
    b:
      @step
      memory: like(W)
      objective: -dot(b, g / (sqrt(v - a * a) + 1e-8))
      rule: gd(lr=1, decay=0.6)
    W:
      @step
      objective: dot(W, b)
      rule: gd(lr=lr)
    """)
    theirs = lambda p: torch.optim.RMSprop(p, 0.05, 0.9, centered=True, momentum=0.6)  # noqa: E731
    _equal(_descend(made), _descend(theirs))


def test_adagrad_shrinks_its_steps() -> None:
    made = _gradients("""
    v:
      @step
      memory: like(W)
      init: 0.5
      objective: -dot(v, g * g)
      rule: gd(lr=1)
    W:
      @step
      objective: dot(W, g / (sqrt(v) + 1e-10))
      rule: gd(lr=lr / (1 + 0.1 * (t - 1)))
    """)
    theirs = lambda p: torch.optim.Adagrad(p, 0.05, 0.1, initial_accumulator_value=0.5)  # noqa: E731
    _equal(_descend(made), _descend(theirs))


def test_nadam_multiplies_up_a_number() -> None:
    made = _gradients(
        MOMENTS + """
pi:
  @step
  memory: scalar
  init: 1
  update: pi * mu
W:
  @step
  let:
    ahead: beta1 * (1 - 0.5 * 0.96**(0.004 * (t + 1)))
    u: ahead * m / (1 - pi * ahead) + (1 - mu) * g / (1 - pi)
  objective: dot(W, u / (sqrt(v / (1 - beta2**t)) + eps))
  rule: gd(lr=lr)
""",
        ADAM,
        "mu: beta1 * (1 - 0.5 * 0.96**(0.004 * t))",
    )  # fmt: skip
    torch.set_default_dtype(torch.float64)  # torch keeps the product of its momenta in it
    try:
        _equal(_descend(made), _descend(lambda p: torch.optim.NAdam(p, **BETAS)))
    finally:
        torch.set_default_dtype(torch.float32)


def test_radam_switches_when_its_variance_is_known() -> None:
    made = _gradients(
        MOMENTS + """
W:
  @step
  let:
    r: sqrt(max((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho), 0))
    known: sqrt(1 - beta2**t) / (sqrt(v) + eps)
  objective: dot(W, m / (1 - beta1**t) * where(rho > 5, r * known, 1))
  rule: gd(lr=lr)
""",
        ADAM,
        """
        most: 2 / (1 - beta2) - 1
        rho: most - 2 * t * beta2**t / (1 - beta2**t)
        """,
    )  # fmt: skip
    _equal(_descend(made), _descend(lambda p: torch.optim.RAdam(p, **BETAS)))


def test_lion_reads_the_old_momentum() -> None:
    made = _gradients("""
    m:
      @step
      memory: like(W)
      objective: -dot(m, g)
      rule: gd(lr=0.01, decay=0.99)
    W:
      @step
      objective: dot(W, sign(0.9 * prev(m) + (1 - 0.9) * g))
      rule: gd(lr=lr, decay=1 - lr * 0.1)
    """)

    def line(W: Tensor, g: Tensor, s: dict, t: int) -> Tensor:
        step = torch.sign(0.9 * s["m"] + 0.1 * g)
        s["m"] = 0.99 * s["m"] + 0.01 * g
        return (1 - 0.05 * 0.1) * W - 0.05 * step

    _equal(_descend(made), _descend(lambda p: _Written(p, line, m=0.0)))


def test_adan_remembers_the_last_gradient_and_decays_by_prox() -> None:
    """W ← (W − lr u) / (1 + lr λ) is the minimiser of ⟨W, u⟩ + ½λ‖W‖² near W."""
    made = _gradients(
        """
        m:
          @step
          memory: like(W)
          objective: 0.5 * sqnorm(m - g)
          rule: gd(lr=0.02)
        d:
          @step
          memory: like(W)
          objective: 0.5 * sqnorm(d - change)
          rule: gd(lr=0.08)
        n:
          @step
          memory: like(W)
          objective: 0.5 * sqnorm(n - (g + 0.92 * change)**2)
          rule: gd(lr=0.01)
        W:
          @step
          let:
            u: (m / (1 - 0.98**t) + 0.92 * d / (1 - 0.92**t)) / (sqrt(n / (1 - 0.99**t)) + 1e-8)
          objective: dot(W, u) + 0.5 * decay * sqnorm(W)
          rule: prox(lr=lr)
        """,
        "lr: 0.05, decay: 0.3",
        "change: where(t == 1, 0, g - prev(g))",
    )

    def line(W: Tensor, g: Tensor, s: dict, t: int) -> Tensor:
        change = 0 * g if t == 1 else g - s["last"]
        s["last"] = g.clone()
        s["m"] = 0.98 * s["m"] + 0.02 * g
        s["d"] = 0.92 * s["d"] + 0.08 * change
        s["n"] = 0.99 * s["n"] + 0.01 * (g + 0.92 * change) ** 2
        u = s["m"] / (1 - 0.98**t) + 0.92 * s["d"] / (1 - 0.92**t)
        return (W - 0.05 * u / ((s["n"] / (1 - 0.99**t)).sqrt() + 1e-8)) / (1 + 0.05 * 0.3)

    _equal(_descend(made), _descend(lambda p: _Written(p, line, m=0.0, d=0.0, n=0.0)))


def test_a_heavy_number_normalises_by_the_length_of_past_gradients() -> None:
    """A heavy ball whose weight is one number for each tensor; LAMB's ratio of norms scales the step."""
    made = _gradients("""
    s:
      @step
      memory: scalar
      init: 0.1
      objective: -dot(s, sqnorm(g) / numel(g))
      rule: gd(lr=1, decay=0.9)
    W:
      @step
      let:
        u: g / sqrt(s) + 0.1 * prev(W)
      objective: dot(W, norm(prev(W)) / max(norm(u), 1e-9) * u)
      rule: gd(lr=lr)
    """)

    def line(W: Tensor, g: Tensor, s: dict, t: int) -> Tensor:
        s["s"] = 0.9 * s["s"] + g.square().mean()
        u = g / s["s"].sqrt() + 0.1 * W
        return W - 0.05 * W.norm() / u.norm() * u

    _equal(_descend(made), _descend(lambda p: _Written(p, line, s=0.1)))


def test_an_average_of_the_weights_starts_at_them_and_pulls_them_back() -> None:
    made = _gradients("""
    phi:
      @step
      memory: like(W)
      init: W
      objective: 0.5 * sqnorm(phi - prev(W))
      rule: gd(lr=0.1)
    W:
      @step
      objective: dot(W, g)
      rule: gd(lr=lr)
      toward: phi
      retain: 0.9
    """)

    def line(W: Tensor, g: Tensor, s: dict, t: int) -> Tensor:
        s["phi"] = (W if t == 1 else s["phi"]) * 0.9 + 0.1 * W
        return s["phi"] + 0.9 * (W - s["phi"]) - 0.05 * g

    _equal(_descend(made), _descend(lambda p: _Written(p, line)))


def test_weights_decay_towards_where_they_started() -> None:
    made = _gradients("""
    m:
      @step
      memory: like(W)
      init: 0.5
      toward: init
      objective: -dot(m, g)
      rule: gd(lr=0.1, decay=0.9)
    W:
      @step
      toward: init
      objective: dot(W, m)
      rule: gd(lr=lr, decay=0.9)
    """)

    def line(W: Tensor, g: Tensor, s: dict, t: int) -> Tensor:
        first = s.setdefault("first", W.clone())
        s["m"] = 0.5 + 0.9 * (s["m"] - 0.5) + 0.1 * g
        return first + 0.9 * (W - first) - 0.05 * s["m"]

    _equal(_descend(made), _descend(lambda p: _Written(p, line, m=0.5)))


def test_delta_momentum_corrects_what_it_holds_at_the_gradient() -> None:
    """m ← m(αI − η gᵀg) + η g on matrices (eq. 49 with P the identity's part)."""
    made = _gradients("""
    m:
      @step
      memory: like(W)
      objective: 0.5 * sqnorm(m @ g.T) - dot(m, g)
      rule: gd(lr=0.05, decay=0.9)
    W:
      @step
      objective: dot(W, m)
      rule: gd(lr=lr)
    """)
    noise = torch.Generator().manual_seed(4)
    W = torch.randn(4, 3, generator=noise, dtype=torch.float64, requires_grad=True)
    expected, m = W.detach().clone(), torch.zeros(4, 3, dtype=torch.float64)
    optimizer = made([W])
    for _ in range(30):
        W.grad = torch.randn(4, 3, generator=noise, dtype=torch.float64)
        m = m @ (0.9 * torch.eye(3).double() - 0.05 * W.grad.T @ W.grad) + 0.05 * W.grad
        expected -= 0.05 * m
        optimizer.step()
    _equal([W.detach()], [expected])
