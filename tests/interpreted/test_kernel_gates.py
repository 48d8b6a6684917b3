"""Gates that kernels make of what they are made of, beside the backend `torch` in float64."""

from __future__ import annotations

import inspect
import sys

import pytest
import torch
from test_kernel_modules import pair, run, same

import nlc

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
    assert "_raw(" in called and "softplus" not in called
    same(run(kernels, given, torch.float32), run(exact, given, torch.float64))
    one = {n: x[:, :1] for n, x in given.items()}
    same(run(kernels, one, torch.float32), run(exact, one, torch.float64))


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
