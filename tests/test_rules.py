"""Optimizers as the rules of memories, against loops over tokens written out here, in float64.

The oracle of a rule is a function ``step(kept, t, B, g, **args)`` of plain torch that returns the new state and keeps
its own states in ``kept``; gradients of the objective are autograd's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nlc

SPEC = """
nlc: 1
system: ruled
context: tokens
hyper: {d: 3}
inputs: {k: [d], v: [d], q: [d], a: []}
let:
  rate: 0.1 * sigmoid(a)
levels:
  M:
    frequency: FREQUENCY
    memory: MEMORY
    objective: OBJECTIVE
    rule: RULE
    init: learnedMORE
output:
  y: READ
"""

# A memory: how it is declared, what it stores, how it is read; the same in torch over its states.
MEMORIES: dict[str, tuple[str, str, str]] = {
    "matrix": ("matrix(d, d)", "0.5 * sqnorm(M(k) - v)", "M(q)"),
    "vector": ("vector(d)", "0.5 * sqnorm(M * k - v)", "M * q"),
    "mlp": ("mlp(d, 2)", "0.5 * sqnorm(M(k) - v)", "M(q)"),
}


def matvec(W: Tensor, z: Tensor) -> Tensor:
    return (W @ z.unsqueeze(-1)).squeeze(-1)


READS: dict[str, Callable[[dict[str, Tensor], Tensor], Tensor]] = {
    "matrix": lambda M, z: matvec(M["M"], z),
    "vector": lambda M, z: M["M"] * z,
    "mlp": lambda M, z: z + matvec(M["M.W1"], torch.nn.functional.silu(matvec(M["M.W2"], z))),
}


# ------------------------------------------------------------------------------------------ the rules in torch


def gd(kept: dict, t: int, B: Tensor, g: Tensor, *, lr: Any) -> Tensor:
    return B - lr * g


def momentum(
    kept: dict, t: int, B: Tensor, g: Tensor, *, lr=1e-3, rate=1.0, beta=0.9, weight_decay=0.0
) -> Tensor:
    kept["m"] = beta * kept.get("m", 0) + rate * (g + weight_decay * B)
    return B - lr * kept["m"]


def adamw(
    kept: dict, t: int, B: Tensor, g: Tensor, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8,
    weight_decay=0.01,
) -> Tensor:  # fmt: skip
    kept["m"] = beta1 * kept.get("m", 0) + (1 - beta1) * g
    kept["v"] = beta2 * kept.get("v", 0) + (1 - beta2) * g * g
    m_hat, v_hat = kept["m"] / (1 - beta1**t), kept["v"] / (1 - beta2**t)
    return B - lr * weight_decay * B - lr * m_hat / (v_hat.sqrt() + eps)


def orthogonal(A: Tensor, steps: int, abc: tuple[float, float, float]) -> Tensor:
    a, b, c = abc
    X = A / A.square().sum((-2, -1), keepdim=True).sqrt().clamp(min=1e-7)
    for _ in range(steps):
        G = X @ X.mT
        X = a * X + b * G @ X + c * G @ G @ X
    return X


QUINTIC = (3.4445, -4.775, 2.0315)


def muon(kept: dict, t: int, B: Tensor, g: Tensor, *, lr, beta, weight_decay) -> Tensor:
    kept["m"] = beta * kept.get("m", 0) + (1 - beta) * g
    ahead = beta * kept["m"] + (1 - beta) * g
    X = orthogonal(ahead.float(), 5, QUINTIC).to(g.dtype)
    scale = math.sqrt(max(1, g.shape[-2] / g.shape[-1]))
    return B - lr * weight_decay * B - lr * scale * X


def m3(kept: dict, t: int, B: Tensor, g: Tensor, *, lr, beta1, beta2, beta3, f) -> Tensor:
    """Algorithm 1: a sum of all gradients and one of those of complete periods of f."""
    kept["m1"] = kept.get("m1", 0) + beta1 * g
    kept["v"] = kept.get("v", 0) + beta2 * g * g
    m2 = kept.setdefault("m2", torch.zeros_like(g))
    step = orthogonal(kept["m1"], 5, QUINTIC) + 0.5 * orthogonal(m2, 5, QUINTIC)
    kept["sum"] = kept.get("sum", 0) + g
    if t % f == 0:
        kept["m2"], kept["sum"] = m2 + beta3 * kept["sum"], 0
    return B - lr * step / (kept["v"] + 1e-8).sqrt()


# ------------------------------------------------------------------------------------------ the oracle


def made(
    memory: str, rule: str, more: str = "", objective: str = "", frequency: str = "every token"
) -> nlc.Spec:
    declared, stored, read = MEMORIES[memory]
    text = SPEC
    for word, value in {
        "FREQUENCY": frequency,
        "MEMORY": declared,
        "OBJECTIVE": objective or stored,
        "RULE": rule,
        "READ": read,
        "MORE": "".join(f"\n    {line}" for line in more.splitlines()),
    }.items():
        text = text.replace(word, value)
    return nlc.loads(text)


def net(spec: nlc.Spec, seed: int = 1) -> torch.nn.Module:
    module = spec.compile()().double()
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=noise, dtype=torch.float64))
    return module


def flows(T: int, batch: int = 2) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(0)
    draw = lambda *s: torch.randn(batch, T, *s, generator=noise, dtype=torch.float64)  # noqa: E731
    return {"k": draw(3), "v": draw(3), "q": draw(3), "a": draw()}


def starts(module: torch.nn.Module, batch: int = 2) -> dict[str, Tensor]:
    learned = {n.removesuffix(".init"): p for n, p in module.named_parameters()}
    return {n: p.expand(batch, *p.shape) for n, p in learned.items()}


def like(x: Any, W: Tensor) -> Any:
    """Numbers of a batch as factors of a state."""
    return x.reshape(-1, *[1] * (W.ndim - 1)) if isinstance(x, Tensor) else x


def loop(
    memory: str,
    start: dict[str, Tensor],
    x: dict[str, Tensor],
    step: Callable[..., Tensor],
    args: Callable[[dict[str, Tensor]], dict[str, Any]] = lambda token: {},
    *,
    retain: Any = 1.0,
    toward: dict[str, Tensor] | None = None,
    project: Callable[[Tensor], Tensor] = lambda W: W,
    every: int = 1,
    reset: int = 0,
    resets_rule: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What is read after each token, and the states at the end. ``decay`` among the arguments multiplies B."""
    states, kept, out, t = dict(start), {n: {} for n in start}, [], 0
    gathered = {n: torch.zeros_like(W) for n, W in start.items()}
    target = toward or {n: torch.zeros_like(W) for n, W in start.items()}
    for i in range(x["k"].shape[1]):
        token = {n: f[:, i] for n, f in x.items()}
        if every > 1:  # readers see the held state, also at the boundary
            out.append(READS[memory](states, token["q"]))
        based = {n: target[n] + retain * (W - target[n]) for n, W in states.items()}
        with torch.enable_grad():
            point = {
                n: B if B.requires_grad else B.detach().requires_grad_() for n, B in based.items()
            }
            loss = 0.5 * (READS[memory](point, token["k"]) - token["v"]).square().sum()
            found = torch.autograd.grad(loss, list(point.values()), create_graph=True)
        if not any(B.requires_grad for B in based.values()):
            found = [g.detach() for g in found]
        gathered = {n: gathered[n] + g for n, g in zip(states, found)}
        if (i + 1) % every == 0:
            t += 1
            given = args(token)
            decay = given.pop("decay", 1.0)
            new = {}
            for n, B in based.items():
                own = {key: like(value, B) for key, value in given.items()}
                stepped = step(kept[n], t, B, gathered[n], **own)
                new[n] = project(stepped - (1 - like(decay, B)) * (B - target[n]))
            states, gathered = new, {n: torch.zeros_like(W) for n, W in new.items()}
        if every == 1:
            out.append(READS[memory](states, token["q"]))
        states = {n: kept[n].pop("reset", W) for n, W in states.items()}
        if reset and (i + 1) % reset == 0:
            states = dict(start)
            if resets_rule:
                kept, t = {n: {} for n in start}, 0
    return torch.stack(out, 1), states


def agree(spec: nlc.Spec, memory: str, T: int, step: Callable, args: Callable, **how: Any) -> None:
    """The generated module over T tokens, whole and in two pieces, is the loop."""
    module, x = net(spec), flows(T)
    start = starts(module)
    if how.get("toward") == "init":
        how["toward"] = start
    expected, states = loop(memory, start, x, step, args, **how)
    with torch.no_grad():
        y, state = module(**x)
        cut = T // 2 + 1
        first, half = module(**{n: f[:, :cut] for n, f in x.items()})
        second, end = module(**{n: f[:, cut:] for n, f in x.items()}, state=half)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=0, atol=1e-12)
    for n, W in states.items():
        torch.testing.assert_close(state[n], W, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(end[n], W, rtol=1e-9, atol=1e-10)
        assert (W - start[n]).norm() > 1e-2 * W.norm(), "nothing happened"


rate = lambda token: 0.1 * torch.sigmoid(token["a"])  # noqa: E731
kinds = pytest.mark.parametrize("memory", MEMORIES)


# ------------------------------------------------------------------------------------------ tests


@kinds
def test_momentum_with_rates_of_each_token(memory: str) -> None:
    spec = made(memory, "momentum(lr=1, rate=rate, beta=0.8 * sigmoid(a), weight_decay=0.1)")
    agree(
        spec, memory, 9, momentum,
        lambda x: {"lr": 1.0, "rate": rate(x), "beta": 8 * rate(x), "weight_decay": 0.1},
    )  # fmt: skip


@kinds
def test_adamw_corrects_by_the_ticks_of_its_level(memory: str) -> None:
    spec = made(memory, "adamw(lr=rate, beta1=0.7, beta2=0.9, weight_decay=0.2)")
    agree(
        spec, memory, 9, adamw,
        lambda x: {"lr": rate(x), "beta1": 0.7, "beta2": 0.9, "weight_decay": 0.2},
    )  # fmt: skip


@kinds
def test_defaults_are_those_of_the_spec(memory: str) -> None:
    agree(made(memory, "adamw(lr=0.1)"), memory, 5, adamw, lambda x: {"lr": 0.1})
    agree(made(memory, "momentum(lr=0.1)"), memory, 5, momentum, lambda x: {"lr": 0.1})


@pytest.mark.parametrize("memory", ["matrix", "mlp"])
def test_muon_on_each_matrix_of_each_sequence(memory: str) -> None:
    spec = made(memory, "muon(lr=rate, beta=0.8, weight_decay=0.3)")
    module, x = net(spec), flows(7)
    args = lambda x: {"lr": rate(x), "beta": 0.8, "weight_decay": 0.3}  # noqa: E731
    expected, _ = loop(memory, starts(module), x, muon, args)
    y, _ = module(**x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)  # newton_schulz in float32
    alone, _ = module(**{n: f[1:] for n, f in x.items()})
    torch.testing.assert_close(alone, y[1:], rtol=1e-5, atol=1e-6)  # sequences do not mix


@pytest.mark.parametrize("memory", ["matrix", "mlp"])
def test_the_slow_momentum_of_m3_has_its_period_in_ticks_of_the_level(memory: str) -> None:
    given = {"beta1": 0.1, "beta2": 0.3, "beta3": 0.2, "f": 3}
    spec = made(memory, "m3(lr=rate, beta1=0.1, beta2=0.3, beta3=0.2, f=3)")
    agree(spec, memory, 8, m3, lambda x: {"lr": rate(x), **given})
    clocks = [str(level.clock) for level in spec.system.levels.values()]
    assert clocks.count("every 3 tokens") == (1 if memory == "matrix" else 2)


RULES: list[tuple[str, Callable, dict]] = [
    ("momentum(lr=0.1, beta=0.8, weight_decay=0.1, decay=D)", momentum,
     {"lr": 0.1, "beta": 0.8, "weight_decay": 0.1}),
    ("adamw(lr=0.1, beta1=0.8, beta2=0.9, weight_decay=0, decay=D)", adamw,
     {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.0}),
    ("sgd(lr=0.1, decay=D)", gd, {"lr": 0.1}),
    ("m3(lr=0.01, beta1=0.1, beta2=0.3, beta3=0.2, f=2, decay=D)", m3,
     {"lr": 0.01, "beta1": 0.1, "beta2": 0.3, "beta3": 0.2, "f": 2}),
]  # fmt: skip
each_rule = pytest.mark.parametrize(
    ("rule", "step", "given"), RULES, ids=[r[0].partition("(")[0] for r in RULES]
)


@each_rule
@pytest.mark.parametrize("memory", ["matrix", "mlp"])
def test_decay_multiplies_what_retain_left_and_leads_to_the_target(
    rule: str, step: Callable, given: dict, memory: str
) -> None:
    """retain before the rule, which reads its base as ``W``; project after it."""
    rule = rule.replace("D", "1 - rate")
    spec = made(memory, rule, "retain: 0.9\nproject: tanh(M)\ntoward: init")
    agree(
        spec, memory, 6, step, lambda x: {**given, "decay": 1 - rate(x)},
        retain=0.9, toward="init", project=torch.tanh,
    )  # fmt: skip


@each_rule
def test_without_a_target_it_decays_to_zero(rule: str, step: Callable, given: dict) -> None:
    spec = made("matrix", rule.replace("D", "0.9"), "retain: 0.9")
    agree(spec, "matrix", 6, step, lambda x: {**given, "decay": 0.9}, retain=0.9)


def test_the_decay_of_the_rule_itself_leads_to_the_target_too() -> None:
    spec = made("matrix", "adamw(lr=0.1, weight_decay=2)", "toward: init")
    module, x = net(spec), flows(6)
    start = starts(module)

    def step(kept: dict, t: int, B: Tensor, g: Tensor) -> Tensor:
        plain = adamw(kept, t, B, g, lr=0.1, weight_decay=0.0)
        return plain - 0.2 * (B - start["M"])

    expected, _ = loop("matrix", start, x, step)
    torch.testing.assert_close(module(**x)[0], expected, rtol=1e-9, atol=1e-10)


@kinds
@pytest.mark.parametrize(
    ("rule", "step", "given"),
    [
        ("momentum(lr=0.2, beta=0.8, weight_decay=0.1, decay=0.9)", momentum,
         {"lr": 0.2, "beta": 0.8, "weight_decay": 0.1, "decay": 0.9}),
        ("adamw(lr=0.2, beta1=0.7, beta2=0.9)", adamw, {"lr": 0.2, "beta1": 0.7, "beta2": 0.9}),
    ],
)  # fmt: skip
def test_a_slow_level_has_a_slow_rule(memory: str, rule: str, step: Callable, given: dict) -> None:
    """Moments and bias corrections go by the ticks of the level, not by tokens."""
    objective = f"sum({MEMORIES[memory][1]})"
    spec = made(memory, rule, objective=objective, frequency="every 4 tokens")
    agree(spec, memory, 14, step, lambda x: dict(given), every=4)


@pytest.mark.parametrize("rule", [False, True])
def test_a_reset_takes_the_states_of_the_rule_along_where_it_says_so(rule: bool) -> None:
    said = "true" if rule else "false"
    spec = made(
        "mlp", "momentum(lr=0.1, beta=0.8)", f"reset: {{every: 3 tokens, rule: {said}}}"
    )  # fmt: skip
    how = {"reset": 3, "resets_rule": rule}
    agree(spec, "mlp", 8, momentum, lambda x: {"lr": 0.1, "beta": 0.8}, **how)


def test_heads_have_states_of_the_rule_of_their_own() -> None:
    """Two heads of one stream are two streams of one head."""
    spec = made("matrix", "muon(lr=rate, beta=0.8)")
    text = spec.source.text.replace("inputs:", "heads: 2\ninputs:")
    both = nlc.loads(text).compile()().double()
    one = net(spec)
    x = flows(5, batch=4)
    with torch.no_grad():
        both.M.init.copy_(one.M.init)
    expected, _ = one(**x)
    split = {n: f.unflatten(0, (2, 2)).transpose(1, 2) for n, f in x.items()}  # [B, T, H, …]
    y, _ = both(**split)
    torch.testing.assert_close(y.transpose(1, 2).flatten(0, 1), expected, rtol=1e-5, atol=1e-6)


ROUTED = """
nlc: 1
system: routed
context: gradients
hyper: {lr: 0.1, beta: 0.9, slow: 0.01}
applies_to: {vectors: sgd(lr=slow), matrices: self}
levels:
  m:
    frequency: every step
    memory: like(W)
    objective: -dot(m, g)
    rule: gd(lr=1, decay=beta)
  W:
    frequency: every step
    objective: dot(W, m)
    rule: gd(lr=lr)
"""
BIASED = """
nlc: 1
system: biased
context: tokens
hyper: {d: 3}
inputs: {k: [d], v: [d], q: [d], a: []}
levels:
  M:
    frequency: every token
    memory: mlp(d, 2, bias=true)
    objective: 0.5 * sqnorm(M(k) - v)
    rule: RULE
    init: learned
output:
  y: M(q)
"""


@pytest.fixture
def beside(tmp_path: Path) -> Callable[[str], nlc.Spec]:
    """A spec whose rule stands beside it."""
    (tmp_path / "routed.yaml").write_text(ROUTED)

    def load(rule: str) -> nlc.Spec:
        (tmp_path / "biased.yaml").write_text(BIASED.replace("RULE", rule))
        return nlc.load(tmp_path / "biased.yaml")

    return load


def test_states_are_routed_by_their_shape(beside: Callable[..., nlc.Spec]) -> None:
    """Matrices by momentum, biases by plain steps at the rate that ``applies_to`` says; decay reaches both."""
    spec = beside("routed(lr=0.05, slow=0.2, decay=0.9)")
    module, x = net(spec), flows(6)
    y, state = module(**x)
    assert set(state) >= {"M.W1.m", "M.W2.m"} and not {"M.b1.m", "M.b2.m"} & set(state)
    M = {n: W.detach() for n, W in starts(module).items()}
    kept: dict[str, dict] = {n: {} for n in M}

    def read(M: dict[str, Tensor], z: Tensor) -> Tensor:
        inside = torch.nn.functional.silu(matvec(M["M.W2"], z) + M["M.b2"])
        return z + matvec(M["M.W1"], inside) + M["M.b1"]

    for i in range(6):
        k, v, q = (x[n][:, i] for n in "kvq")
        M = {n: W.detach().requires_grad_() for n, W in M.items()}
        loss = 0.5 * (read(M, k) - v).square().sum()
        found = dict(zip(M, torch.autograd.grad(loss, list(M.values()))))
        for n in M:
            if n.startswith("M.W"):
                kept[n]["m"] = 0.9 * kept[n].get("m", 0) + found[n]
            step = 0.05 * kept[n]["m"] if n.startswith("M.W") else 0.2 * found[n]
            M[n] = 0.9 * M[n].detach() - step
        torch.testing.assert_close(y[:, i], read(M, q), rtol=1e-9, atol=1e-10)


def test_muon_trains_the_matrices_of_a_memory_and_adamw_its_biases() -> None:
    spec = nlc.loads(BIASED.replace("RULE", "muon(lr=0.1, rest_lr=0.05, weight_decay=0)"))
    module, x = net(spec), flows(1)
    _, state = module(**x)
    start = starts(module)
    for n in ("M.b1", "M.b2"):  # the first step of AdamW is its rate
        torch.testing.assert_close(
            (state[n] - start[n]).abs(), torch.full_like(state[n], 0.05), rtol=1e-3, atol=0
        )
    assert {n.rpartition(".")[2] for n in state if n.startswith("M.b1.")} == {"m", "v"}
    assert {n.rpartition(".")[2] for n in state if n.startswith("M.W1.")} == {"m"}


# ------------------------------------------------------------------------------------------ rules in rules


def lookahead(kept: dict, t: int, B: Tensor, g: Tensor, *, lr: float, a: float, k: int) -> Tensor:
    fast = kept.setdefault("fast", {})
    slow = kept.setdefault("slow", kept.get("start", B))
    W = adamw(fast, t, B, g, lr=lr)
    if t % k == 0:
        kept["slow"] = kept["reset"] = slow + a * (W - slow)
    return W  # what is read in this token; its reset comes behind


@kinds
def test_a_rule_may_have_a_rule(memory: str) -> None:
    """Lookahead's slow weights, its reset, and the moments of the AdamW in it, for each state of a memory."""
    spec = made(memory, "lookahead(lr=0.1, a=0.4, k=3)")
    agree(spec, memory, 8, lookahead, lambda x: {"lr": 0.1, "a": 0.4, "k": 3})


def test_lookahead_is_torch_s_adamw_that_starts_over_from_slow_weights() -> None:
    noise = torch.Generator().manual_seed(0)
    first = [torch.randn(s, generator=noise).double() for s in ((3, 4), (5,), ())]
    mine = [p.clone().requires_grad_() for p in first]
    theirs = [p.clone().requires_grad_() for p in first]
    optimizer = nlc.compile("lookahead")(mine, lr=0.02, a=0.3, k=4)
    inner = torch.optim.AdamW(theirs, lr=0.02)
    slow = [p.detach().clone() for p in theirs]
    for tick in range(1, 23):
        for p in (*mine, *theirs):
            p.grad = torch.sin(tick + p.detach()) + 0.3 * p.detach()
        optimizer.step()
        inner.step()
        if tick % 4 == 0:
            for s, p in zip(slow, theirs, strict=True):
                s += 0.3 * (p.detach() - s)
                p.data.copy_(s)
    for a, b, p in zip(mine, theirs, first, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert (a - p).norm() > 0.03


# ------------------------------------------------------------------------------------------ outer gradients


@pytest.mark.parametrize(
    ("memory", "rule"),
    [
        ("matrix", "momentum(lr=1, rate=rate, beta=0.8, decay=1 - rate)"),
        ("matrix", "adamw(lr=rate, beta1=0.7, beta2=0.9, eps=0.1)"),
        ("vector", "lookahead(lr=0.1, a=0.4, k=2)"),
        ("mlp", "momentum(lr=1, rate=rate, beta=0.8)"),
        ("matrix", "m3(lr=rate, beta1=0.1, beta2=0.3, beta3=0.2, f=2, eps=0.1)"),
    ],
)
def test_the_outer_gradient_passes_through_the_rule(memory: str, rule: str) -> None:
    module, x = net(made(memory, rule)), flows(3, batch=1)
    names, tensors = zip(*module.named_parameters())
    k, a = (x[n].requires_grad_() for n in ("k", "a"))

    def run(k: Tensor, a: Tensor, *params: Tensor) -> Tensor:
        given = {**x, "k": k, "a": a}
        return torch.func.functional_call(module, dict(zip(names, params)), (), given)[0]

    assert torch.autograd.gradcheck(run, (k, a, *tensors))
