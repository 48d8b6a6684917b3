"""Gates that kernels make of what they are made of, beside the backend `torch` in float64."""

from __future__ import annotations

import inspect
import re
import sys

import pytest
import torch
from test_kernel_modules import forward, pair, run, same

import nlc
from nlc.backends.triton.gates import together
from nlc.backends.writer import WIDTH
from nlc.ir import gates
from nlc.ir.ops import add, leaf, mul, sub

# A decay and a rate of flows, weights of each head and a hyper; PER: whether it is one for each channel.
GATED = """
nlc: 1
system: gated
context: tokens
hyper: {d: 32, n: d / heads, tau: 3}
heads: 2
inputs: {x: [d]}
outputs: {y: [d]}
weights:
  a: {shape: [], per: head, init: "log(uniform(1, 4))"}
  bias: {shape: [WIDE], per: head, init: "uniform(-1, 1)"}
let:
  decay: exp(-exp(a) * softplus(split(linear(x, heads * WIDTH)) + bias) / tau)
  rate: sigmoid(split(linear(x)))
  q: split(linear(x))
levels:
  S:
    frequency: every token
    memory: matrix(n, n)
    key: l2norm(split(linear(x)))
    value: split(linear(x))
    objective: 0.5 * sqnorm(S(key) - value)
    retain: RETAIN
    rule: gd(lr=rate)
output: {y: merge(S(q))}
"""
NUMBER = GATED.replace("WIDTH", "1").replace("WIDE", "").replace("RETAIN", "decay")
CHANNEL = GATED.replace("WIDTH", "n").replace("WIDE", "n").replace("RETAIN", "per_key(decay)")
CHANNEL = CHANNEL.replace("0.5 * sqnorm(S(key) - value)", "-dot(S(key), value)")  # nothing erases
KINDS = pytest.mark.parametrize("text", (NUMBER, CHANNEL), ids=("number", "channel"))


@KINDS
def test_gates_are_made_in_kernels(text: str) -> None:
    """A piece of a stream and one token of it, with slopes by flows, by weights of heads and behind a hyper."""
    exact, kernels, given = pair(nlc.loads(text))
    called = inspect.getsource(type(kernels).piece)
    assert ("_raw(" in called or "_raw_read(" in called) and "softplus" not in called
    same(run(kernels, given, torch.float32), run(exact, given, torch.float64))
    one = {n: x[:, :1] for n, x in given.items()}
    same(run(kernels, one, torch.float32), run(exact, one, torch.float64))


# What writes are multiplied by: a flow, a weight of each head, a number.
RATED = """
nlc: 1
system: rated
context: tokens
hyper: {d: 32, n: d / heads, tau: 0.3}
heads: 2
inputs: {x: [d]}
outputs: {y: [d]}
weights: {a: {shape: [], per: head, init: "uniform(-1, 1)"}}
let: {q: split(linear(x)), rate: "sigmoid(split(linear(x, heads)))"}
levels:
  S:
    frequency: every token
    memory: matrix(n, n)
    ANCHOR
    key: l2norm(split(linear(x)))
    value: split(linear(x))
    objective: OBJECTIVE
    rule: gd(lr=RATE)
  m: {frequency: every token, memory: vector(n), update: m + RATE * split(linear(x))}
output: {y: merge(S(q) + m)}
"""
RATES = {"flow": "rate", "head": "sigmoid(a)", "number": "tau"}
OBJECTIVES = {"added": "-dot(S(key), value)", "erased": "0.5 * sqnorm(S(key) - value)"}


@pytest.mark.parametrize("of", RATES)
@pytest.mark.parametrize("how", (*OBJECTIVES, "anchored"))
def test_kernels_take_what_a_write_is_multiplied_by(how: str, of: str) -> None:
    """Of matrices and of vectors, with slopes by both, and by one kernel that reads, too."""
    anchor = "anchor: every 4 tokens" * (
        how == "anchored"
    )  # what is written is an error, and nothing erases
    text = RATED.replace("OBJECTIVE", OBJECTIVES.get(how, OBJECTIVES["erased"]))
    exact, kernels, given = pair(
        nlc.loads(text.replace("ANCHOR", anchor).replace("RATE", RATES[of]))
    )
    module = inspect.getsource(type(kernels))
    called = re.findall(r"\b(\w*(?:memory|delta)\w*)\(", module)
    assert len(called) == 2 and all("_rated" in n for n in called)
    assert "[..., None] *" not in module and ("within: Packing" in module) == (not anchor)
    wanted = run(exact, given, torch.float64)
    same(run(kernels, given, torch.float32), wanted)
    found = forward(kernels, given)
    same(found, {n: wanted[n] for n in found})


@pytest.mark.parametrize(
    "rule", ("gd(lr=rate)", "momentum(lr=1, rate=rate, beta=0.5)"), ids=("gd", "momentum")
)
@pytest.mark.parametrize("how", OBJECTIVES)
def test_kernels_take_a_weight_that_all_tokens_write(how: str, rule: str) -> None:
    """A number of each token times it: kernels have no product that would be one for each token."""
    text = RATED.replace("    ANCHOR\n", "").replace("OBJECTIVE", OBJECTIVES[how])
    text = text.replace("value: split(linear(x))", "value: b").replace("gd(lr=RATE)", rule)
    text = text.replace("RATE * split(linear(x))", "rate * b")
    text = text.replace("{a: {shape: [], per: head,", "{b: {shape: [n],")
    exact, kernels, given = pair(nlc.loads(text))
    same(run(kernels, given, torch.float32), run(exact, given, torch.float64))


def test_a_product_that_only_a_scan_reads_is_made_in_its_kernel() -> None:
    """Also where it is written out before, with what else the gates are made of."""
    _, kernels, _ = pair(nlc.load("mamba2"))
    piece = inspect.getsource(type(kernels).piece)
    assert "gated_memory_rated_raw_read(" in piece and "softplus" not in piece


def test_gates_come_in_half_precision() -> None:
    exact, kernels, given = pair(nlc.loads(NUMBER))
    kernels = kernels.to(torch.bfloat16)
    exact.load_state_dict({n: x.double() for n, x in kernels.state_dict().items()})
    given = {n: x.bfloat16() for n, x in given.items()}
    found = run(kernels, given, torch.bfloat16)
    same(found, run(exact, given, torch.float64), 0.05)
    assert found["slope by a"].dtype == torch.bfloat16


@pytest.mark.parametrize("packed", (False, True))
def test_a_first_launch_checks_gates(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _, net, _ = pair(nlc.loads(NUMBER))
    made = sys.modules[type(net).__module__]
    scan = next(n.removesuffix("_meaning") for n in dir(made) if n.endswith("raw_meaning"))
    forward, meaning = (getattr(made, f"{scan}_{x}") for x in ("forward", "meaning"))
    names = inspect.signature(meaning).parameters
    axes = {n: "T" if n.startswith("raw") else "heads" for n in names if n[:4] in ("raw_", "head")}
    assert any(x == "heads" for x in axes.values()) and "fixed_a" in names
    given = torch.zeros(1, 2, 20, 16), 16, 16, packed
    assert made.differs(forward, meaning, *given, **axes, fixed_a=0.3) == ""
    if not packed:
        monkeypatch.setattr(made.F, "softplus", lambda x, **kw: 1.1 * torch.log1p(x.exp()))
        assert scan in made.differs(forward, meaning, *given, **axes, fixed_a=0.3)


def test_the_logarithm_of_a_decay_near_one_is_exact() -> None:
    """There is no exp on the way, the logarithm of which would be 0 from 1 - 6e-8 on."""
    _, net, _ = pair(nlc.loads(CHANNEL))
    made = sys.modules[type(net).__module__]
    x = torch.linspace(-80, 30, 64)[None]
    zero = torch.zeros(64)
    found = made.log_decay_raw_forward(x, zero, zero, 1.0)
    wanted = -torch.nn.functional.softplus(x.double(), threshold=700).clamp(max=30)
    assert ((found.double() - wanted) / wanted).abs().max() < 1e-6


# Gates of coupled states: of flows, weights of heads and a hyper; of heads alone; of numbers alone; with a sign.
MOMENTA = {
    "flows": "momentum(lr=1, rate=rate, beta=sigmoid(split(linear(x)) + bias), decay=decay)",
    "added": "momentum(lr=rate, beta=decay)",
    "heads": "momentum(lr=0.1, beta=sigmoid(bias), decay=0.9)",
    "numbers": "momentum(lr=0.1, beta=1 / tau)",
}


def coupled(kind: str) -> str:
    """A spec of momentum whose gates are of a kind."""
    text = NUMBER.replace("    retain: decay\n", "")
    text = text.replace(
        "0.5 * sqnorm(S(key) - value)",
        "-dot(S(key), value)" if kind == "added" else "0.5 * sqnorm(S(key) - value)",
    )
    if kind == "signed":
        return text.replace(
            "rule: gd(lr=rate)", "retain: tanh(split(linear(x)))\n    rule: gd(lr=rate)"
        )
    if kind in ("heads", "numbers"):
        text = (
            text.replace("  rate: sigmoid(split(linear(x)))\n", "")
            .replace(
                "  decay: exp(-exp(a) * softplus(split(linear(x, heads * 1)) + bias) / tau)\n", ""
            )
            .replace('  a: {shape: [], per: head, init: "log(uniform(1, 4))"}\n', "")
        )
    if kind == "numbers":
        text = text.replace(
            'weights:\n  bias: {shape: [], per: head, init: "uniform(-1, 1)"}\n', ""
        )
    return text.replace("gd(lr=rate)", MOMENTA[kind])


KINDS_OF_COUPLED = pytest.mark.parametrize(
    "kind",
    (
        "flows",
        "heads",
        *(pytest.param(x, marks=pytest.mark.long) for x in ("added", "numbers", "signed")),
    ),
)


@KINDS_OF_COUPLED
def test_gates_of_coupled_states_are_made_once_in_a_kernel(kind: str) -> None:
    exact, kernels, given = pair(nlc.loads(coupled(kind)))
    called = inspect.getsource(type(kernels).piece)
    assert called.count("weights_raw(") == 1 and "coupling" not in called
    assert "torch.sigmoid" not in called.replace("torch.sigmoid(self.bias", "")
    same(run(kernels, given, torch.float32), run(exact, given, torch.float64))
    one = {n: x[:, :1] for n, x in given.items()}
    same(run(kernels, one, torch.float32), run(exact, one, torch.float64))


@pytest.mark.parametrize("kind", ("flows", pytest.param("heads", marks=pytest.mark.long)))
@pytest.mark.parametrize("packed", (False, True))
def test_a_first_launch_checks_weights_of_coupled_states(
    kind: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, net, given = pair(nlc.loads(coupled(kind)))
    made = sys.modules[type(net).__module__]
    asked: list[tuple] = []
    monkeypatch.setattr(made, "checked", lambda *given, **axes: asked.append((given, axes)))
    net(**{n: x[:, :12].float() for n, x in given.items()})
    (forward, meaning, k, dv, _, _), axes = asked[0]
    assert forward is made.weights_raw_forward
    assert made.differs(forward, meaning, k, dv, 16, packed, **axes) == ""
    monkeypatch.setattr(made, "launch", lambda kernel, *rest, **kw: None)
    assert "weights" in made.differs(forward, meaning, k, dv, 16, packed, **axes)


def test_weights_of_coupled_states_compile_without_a_break() -> None:
    _, net, given = pair(nlc.loads(coupled("flows")))
    given = {n: x[:, :12].float() for n, x in given.items()}
    found = torch.compile(net, backend="aot_eager", fullgraph=True)(**given)[0]
    assert (found - net(**given)[0]).abs().max() < 1e-5


def test_memories_whose_gates_are_the_same_share_what_is_made_of_them() -> None:
    text = nlc.load("titans").source_text("triton")
    module = text[text.index("class Titans") :]
    assert (
        module.count("= weights_raw(") == 1 and len(re.findall(r"= coupled_scan\w*\(", module)) == 2
    )
    assert "torch.sigmoid" not in module


# What T answers cancels but for one term: with gd, with the rule whose step erases twice as much, at a key of its own.
TOWARDS = {
    "gd": NUMBER.replace("    key:", "    init: learned\n    toward: init\n    key:"),
    "dgd": NUMBER.replace("    key:", "    init: learned\n    toward: init\n    key:")
    .replace("    retain: decay\n", "")
    .replace("gd(lr=rate)", "dgd(lr=rate / 2, decay=decay)"),
}


@pytest.mark.parametrize("kind", ("gd", pytest.param("dgd", marks=pytest.mark.long)))
def test_what_decays_towards_a_matrix_has_its_gates_made_in_kernels(kind: str) -> None:
    exact, kernels, given = pair(nlc.loads(TOWARDS[kind]))
    called = inspect.getsource(type(kernels).piece)
    assert "rated_raw(" in called and "softplus" not in called and "sigmoid" not in called
    same(run(kernels, given, torch.float32), run(exact, given, torch.float64))


def test_what_decays_towards_a_matrix_is_given_errors_and_a_rate() -> None:
    """No write is made of the two before, in tiles of hope; nor rates of the eta that a tile returns."""
    text = nlc.load("hope").source_text("triton")
    module = text[text.index("class Hope") :]
    assert module.count("= gated_delta_rated_raw(") == 6 and "_since" not in module
    assert "eta / " not in module and "log_alpha = F.logsigmoid(" in module


# With gradients at boundaries gd only decays and adds; what dgd erases is still its key's answer before each token.
BOUNDED = {
    "gd": NUMBER.replace("    key:", "    anchor: every 4 tokens\n    key:"),
    "dgd": NUMBER.replace("    key:", "    anchor: every 4 tokens\n    key:")
    .replace("    retain: decay\n", "")
    .replace("gd(lr=rate)", "dgd(lr=rate / 2, decay=decay)"),
}


@pytest.mark.parametrize("kind", BOUNDED)
def test_gates_between_boundaries_are_made_in_kernels(kind: str) -> None:
    exact, kernels, given = pair(nlc.loads(BOUNDED[kind]))
    module = inspect.getsource(type(kernels))
    assert "tiles(" in module and "softplus" not in module and "sigmoid" not in module
    assert f"gated_{'memory' if kind == 'gd' else 'delta'}_rated_raw" in module
    same(run(kernels, given, torch.float32), run(exact, given, torch.float64))
    one = {n: x[:, :1] for n, x in given.items()}
    same(run(kernels, one, torch.float32), run(exact, one, torch.float64))


def test_a_slope_of_many_terms_is_cut_into_lines() -> None:
    """Each of which gives the next one a name: the fiftieth name is no longer than the first."""
    x = [leaf("var", f"x{i}", gates.NUMBER) for i in range(50)]
    total = mul(x[0], x[1])
    for i in range(2, 50):
        total = (add, sub)[i % 2](total, mul(x[i], x[i - 1]))
    lines = together([("slope_raw_a112", total)])
    assert max(map(len, lines)) <= WIDTH - 4
    names = {f"x{i}": (-1.0) ** i * i for i in range(50)}
    signs = [1] + [-1 if i % 2 else 1 for i in range(2, 50)]
    exec("\n".join(lines), {}, names)
    assert names["slope_raw_a112"] == sum(
        sign * names[f"x{i}"] * names[f"x{i - 1}"] for i, sign in enumerate(signs, 1)
    )
