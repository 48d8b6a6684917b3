"""Hope against the paper's equations, token by token and chunk by chunk, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transcriptions import MLP, chain, chunks, compare, drawn, near, short_conv, unit

import nlc

BIAS = 3.0
SMALL = dict(d=6, heads=2, expand=2, gate_bias=BIAS)
PERIODS = (2, 6, 18)
CONTEXT = ("k", "v", "eta", "alpha")
State = dict[str, Tensor]


def inputs(length: int, d: int = 6, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, length, d, generator=generator, dtype=torch.float64)


def start_of(weights: State, name: str, batch: int) -> MLP:
    """The learned start of a memory, one for each sequence: [B, H, ...]."""
    return MLP(*(weights[f"M_{name}.{w}.init"].expand(batch, -1, -1, -1) for w in ("W1", "W2")))


def queries(weights: State, x: Tensor) -> tuple[Tensor, Tensor]:
    """z and q [B, T, H, n]: a short convolution, and the only fixed projection."""
    u = short_conv(x, weights["u.conv.weight"])
    q = F.linear(u, weights["q.linear.weight"])
    return u.unflatten(-1, (2, -1)), unit(q.unflatten(-1, (2, -1)))


def gates(memories: dict[str, MLP], z: Tensor) -> tuple[Tensor, ...]:
    """k, v, η, α of eqs. 83 and 90."""
    k, v = unit(memories["k"](z)), unit(memories["v"](z))
    return k, v, memories["eta"](z).sigmoid(), (memories["alpha"](z) + BIAS).sigmoid()


# eqs. 83-88


def recurrence(toward: bool, cms_lr: float = 0.1):
    """Every memory from its own state one token before: M ← T + (M − T) α − M η x xᵀ − η ∇ℓ for each weight."""

    def run(weights: State, x: Tensor) -> tuple[Tensor, State]:
        z, q = queries(weights, x)
        M = {s: start_of(weights, s, x.shape[0]) for s in (*CONTEXT, "memory")}
        T = {s: MLP(*(w if toward else 0 * w for w in M[s])) for s in M}
        out = []
        for t in range(x.shape[1]):
            k, v, eta, alpha = gates(M, z[:, t])
            eta, alpha = eta[..., None], alpha[..., None]
            out.append(M["memory"](q[:, t]))  # eq. 86: read before write
            for s, memory in M.items():
                target = memory(v)  # eq. 84
                moved = []
                for w, w0, slope, key in zip(
                    memory, T[s], memory.slopes(k, target), memory.keys(k)
                ):
                    eye = torch.eye(key.shape[-1], dtype=x.dtype)
                    erase = alpha * eye - eta * key[..., :, None] * key[..., None, :]
                    moved.append(w @ erase + (1 - alpha) * w0 - eta * slope)  # eq. 88
                M[s] = MLP(*moved)
        o = torch.stack(out, 1).flatten(-2)
        y, state = chain(weights, o, PERIODS, cms_lr, "cms.")
        return y, state | {f"M_{s}.W{i}": w for s in M for i, w in enumerate(M[s], 1)}

    return run


@pytest.mark.parametrize("name", ["hope", "hope_literal"])
@pytest.mark.parametrize("length", [1, 37])
def test_with_chunks_of_one_token_it_is_the_exact_recurrence(name: str, length: int) -> None:
    module = nlc.compile(name)(**SMALL, chunk=1, memory_chunk=1, periods=PERIODS)
    drawn(module)
    compare(module, recurrence(name == "hope"), inputs(length))


# eqs. 90-97


def anchored(memory: MLP, T: MLP, flows: tuple[Tensor, ...], size: int) -> tuple[MLP, list[MLP]]:
    """Eqs. 91-93 for one memory over one chunk: all gradients at its start, then the running product.

    flows: keys and values [B, C, H, n], η and α [B, C, H, 1].
    """
    k, v, eta, alpha = flows
    seen = MLP(*(w[:, None] for w in memory))
    target = seen(v)
    eta = eta / size
    moved = []
    for w, w0, slope, key in zip(memory, T, seen.slopes(k, target), seen.keys(k)):
        written = eta[..., None] * slope
        for t in range(k.shape[1]):
            a, b, x = alpha[:, t, ..., None], eta[:, t, ..., None], key[:, t]
            erased = (w @ x[..., None]) * b * x[..., None, :]
            w = w0 + a * (w - w0) - erased - written[:, t]
        moved.append(w)
    return MLP(*moved)


def chunkwise(chunk: int, memory_chunk: int, toward: bool, cms_lr: float | None = 0.1):
    """The memories that make keys, values and gates over the whole stream; then the one that is read; then the CMS."""

    def run(weights: State, x: Tensor) -> tuple[Tensor, State]:
        batch, length = x.shape[:2]
        z, q = queries(weights, x)
        M = {s: start_of(weights, s, batch) for s in (*CONTEXT, "memory")}
        T = {s: MLP(*(w if toward else torch.zeros_like(w) for w in M[s])) for s in M}
        state, made = {}, []
        for part in chunks(length, chunk):
            at = {s: MLP(*(w[:, None] for w in M[s])) for s in CONTEXT}
            made.append(gates(at, z[:, part]))  # eq. 90
            state |= boundary({s: M[s] for s in CONTEXT})
            M |= {s: anchored(M[s], T[s], made[-1], chunk) for s in CONTEXT}
        flows = [torch.cat(parts, 1) for parts in zip(*made)]
        out = []
        for part in chunks(length, memory_chunk):
            here = M["memory"]
            out.append(MLP(*(w[:, None] for w in here))(q[:, part]))
            state |= boundary({"memory": here})
            flow = tuple(f[:, part] for f in flows)
            M["memory"] = anchored(here, T["memory"], flow, memory_chunk)
        o = torch.cat(out, 1).flatten(-2)
        state |= {f"M_{s}.W{i}": w for s in M for i, w in enumerate(M[s], 1)}
        if cms_lr is None:  # hope_slow: the chain holds still
            for i in (1, 2, 3):
                o = MLP(weights[f"C_{i}.W1"], weights[f"C_{i}.W2"])(o)
            return o, state
        y, rest = chain(weights, o, PERIODS, cms_lr, "cms.")
        return y, state | rest

    return run


def boundary(memories: dict[str, MLP]) -> State:
    return {f"M_{s}.W{i}.anchor": w for s, m in memories.items() for i, w in enumerate(m, 1)}


@pytest.mark.parametrize("name", ["hope", "hope_literal", "hope_slow"])
@pytest.mark.parametrize("sizes", [(5, 3), (4, 8), (7, 1), (64, 64)])
def test_with_longer_chunks_it_is_the_paper_s_chunked_form(
    name: str, sizes: tuple[int, int]
) -> None:
    """37 tokens: a multiple of no chunk and no period."""
    chunk, memory_chunk = sizes
    more = {} if name == "hope_slow" else {"periods": PERIODS, "cms_lr": 0.3}
    module = nlc.compile(name)(**SMALL, chunk=chunk, memory_chunk=memory_chunk, **more)
    drawn(module)
    lr = more.get("cms_lr")
    written = chunkwise(chunk, memory_chunk, name != "hope_literal", lr)
    compare(module, written, inputs(37))


MATRICES = """
nlc: 1
system: matrices
context: tokens
hyper: {d: 6, n: d / heads, chunk: 5, memory_chunk: 3}
heads: 2
inputs: {x: [d]}
outputs: {y: [d]}
let:
  z: split(x)
  q: l2norm(split(linear(x)))
  k: l2norm(anchor(M[k])(z))
  v: l2norm(anchor(M[v])(z))
  eta: sigmoid(sum(anchor(M[eta])(z)))
  alpha: sigmoid(sum(anchor(M[alpha])(z)) + 4)
levels:
  M[s]:
    for: {s: [k, v, eta, alpha, memory], out: [n, n, 1, 1, n], size: [chunk, chunk, chunk, chunk, memory_chunk]}
    frequency: every token
    anchor: every size tokens
    memory: matrix(out, n)
    key: k
    value: anchor(M[s])(v)
    objective: OBJECTIVE
    rule: dgd(lr=eta / size, decay=alpha)
    init: learned
output: merge(anchor(M[memory])(q))
"""


@pytest.mark.parametrize(
    ("objective", "error"),
    [
        ("-dot(M[s](key), value)", lambda memory, k, v: -memory @ v),
        ("0.5 * sqnorm(M[s](key) - value)", lambda memory, k, v: memory @ k - memory @ v),
    ],
)
@pytest.mark.parametrize("sizes", [(1, 1), (5, 3)])
def test_matrix_memories_follow_eqs_92_and_93(
    objective: str, error, sizes: tuple[int, int]
) -> None:
    """M_t = M_{t−1}(α I − η k kᵀ) + η v̂ kᵀ, or − η (M_b k − v̂) kᵀ, with v̂ = M_b v."""
    made = nlc.loads(MATRICES.replace("OBJECTIVE", objective)).compile()
    module = made(chunk=sizes[0], memory_chunk=sizes[1])
    drawn(module)

    def run(weights: State, x: Tensor) -> tuple[Tensor, State]:
        z = x.unflatten(-1, (2, 3))
        q = unit(F.linear(x, weights["q.linear.weight"]).unflatten(-1, (2, 3)))
        size = dict.fromkeys(CONTEXT, sizes[0]) | {"memory": sizes[1]}
        M = {s: weights[f"M_{s}.init"].expand(2, -1, -1, -1) for s in size}
        start, out, eye = dict(M), [], torch.eye(3, dtype=x.dtype)
        for t in range(x.shape[1]):
            start |= {s: M[s] for s in M if t % size[s] == 0}
            read = {s: start[s] @ z[:, t, ..., None] for s in CONTEXT}
            k, v = (unit(read[s].mT).mT for s in ("k", "v"))
            eta, alpha = read["eta"].sigmoid(), (read["alpha"] + 4).sigmoid()
            out.append((start["memory"] @ q[:, t, ..., None]).flatten(1))
            for s in M:
                step = eta / size[s]
                M[s] = M[s] @ (alpha * eye - step * k * k.mT) - step * error(start[s], k, v) * k.mT
        return torch.stack(out, 1), {f"M_{s}": M[s] for s in M}

    compare(module, run, inputs(17))


# gradients


def tiny(length: int = 5):
    module = nlc.compile("hope")(
        d=2,
        heads=1,
        expand=1,
        chunk=2,
        memory_chunk=1,
        periods=(1, 2, 4),
        gate_bias=1.0,
        cms_lr=0.3,
    )
    weights = drawn(module)
    x = inputs(length, d=2)[:1]
    values = [p.detach().clone().requires_grad_() for p in weights.values()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(weights, values)), (x,))[0]

    return run, x.requires_grad_(), dict(zip(weights, values))


def test_gradcheck_through_two_chunks_for_x_and_every_slow_weight() -> None:
    run, x, weights = tiny()
    assert torch.autograd.gradcheck(run, (x, *weights.values()), atol=1e-7)


def test_the_outer_loss_reaches_every_start() -> None:
    """Two chunks on, the last token's loss has a gradient in each initial state, the one of finite differences.

    The size of a gradient is relative: what 100 % of the start would change, in terms of the loss.
    """
    run, x, weights = tiny(8)
    loss = lambda: run(x, *weights.values())[:, -1].square().sum()  # noqa: E731
    starts = {key: w for key, w in weights.items() if key.endswith(".init")}
    assert len(starts) == 16
    slopes = torch.autograd.grad(loss(), list(starts.values()))
    for (key, w), slope in zip(starts.items(), slopes):
        assert slope.norm() * w.norm() > 1e-6 * loss(), key
        along, width = slope / slope.norm(), 1e-4
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                w += sign * width * along
                ends.append(loss())
                w -= sign * width * along
        difference = (ends[0] - ends[1]) / (2 * width)
        near({key: (difference, slope.norm())}, 1e-6)


# the variants


def test_hope_attention_is_attention_and_then_the_chain() -> None:
    sizes = dict(d=8, expand=2, periods=PERIODS, lr=0.3)
    both = nlc.compile("hope_attention")(heads=2, **sizes)
    attention = nlc.compile("attention")(d=8, heads=2).double()
    memory = nlc.compile("cms_sequential")(**sizes).double()
    weights = drawn(both)
    renamed = {"y.linear.weight": "cms.linear.weight"}
    with torch.no_grad():
        for key, p in attention.named_parameters():
            p.copy_(weights.pop(renamed.get(key, key)))
        for key, p in memory.named_parameters():
            p.copy_(weights.pop(f"cms.{key}"))
    assert not weights
    x = inputs(37, d=8)
    expected, end = memory(attention(x)[0])
    y, state = both(x)
    near(
        {"y": (y, expected)} | {key: (state[f"cms.{key}"], end[key]) for key in memory_states(end)},
        1e-12,
    )


def memory_states(state: State) -> list[str]:
    return [key for key in state if key.startswith("C_")]


def test_hope_slow_hands_its_chain_to_the_optimizer_with_periods() -> None:
    """Each group steps at the end of its own period, on the sum of that period's gradients."""
    made = nlc.compile("hope_slow")
    modules = [
        made(d=4, heads=2, expand=1, chunk=2, memory_chunk=2, periods=(1, 2, 4)) for _ in "ab"
    ]
    drawn(modules[0])
    modules[1].double().load_state_dict(modules[0].state_dict())
    groups = modules[0].param_groups()
    names = {id(p): key for key, p in modules[0].named_parameters()}
    chained = [[f"C_{i}.W1", f"C_{i}.W2"] for i in (1, 2, 3)]
    assert [[names[id(p)] for p in group["params"]] for group in groups[1:]] == chained
    assert [group.get("period", 1) for group in groups] == [1, 1, 2, 4]
    assert sum(len(group["params"]) for group in groups) == len(names)

    mine = nlc.compile("adamw")(groups, lr=0.01)
    weights = dict(modules[1].named_parameters())
    own = {key: period for keys, period in zip(chained, (1, 2, 4)) for key in keys}
    theirs = {}  # one of torch's for each period; gradients add up until they are set to zero
    for period in (1, 2, 4):
        members = [w for key, w in weights.items() if own.get(key, 1) == period]
        theirs[period] = torch.optim.AdamW(members, lr=0.01)
    before = {key: w.detach().clone() for key, w in weights.items()}
    for step in range(1, 10):
        x = inputs(6, d=4, seed=step)
        for module in modules:
            module(x)[0].square().sum().backward()
        mine.step()
        mine.zero_grad()
        for period, optimizer in theirs.items():
            if step % period == 0:
                optimizer.step()
                optimizer.zero_grad()
        found = dict(modules[0].named_parameters())
        near({key: (found[key].detach(), weights[key].detach()) for key in weights}, 1e-10)
        moved = {key for key in own if not torch.equal(found[key], before[key])}
        assert moved == {key for key, period in own.items() if step >= period}
