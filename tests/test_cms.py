"""Continuum memories against loops over periods, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transcriptions import MLP, chain, compare, drawn, period_of_steps

import nlc

SMALL = dict(d=4, expand=2)
State = dict[str, Tensor]
TIMES = [((2, 4, 8), 21), ((1, 3, 9), 18), ((5, 5, 5), 5), ((4, 16, 64), 13)]
periods_and_lengths = pytest.mark.parametrize(("periods", "length"), TIMES)


def inputs(length: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, length, 4, generator=generator, dtype=torch.float64)


@periods_and_lengths
def test_sequential_is_a_chain(periods: tuple[int, ...], length: int) -> None:
    module = nlc.compile("cms_sequential")(**SMALL, periods=periods, lr=0.5)
    drawn(module)
    compare(module, lambda weights, x: chain(weights, x, periods, 0.5), inputs(length))


@periods_and_lengths
def test_independent_adds_up_parallel_memories(periods: tuple[int, ...], length: int) -> None:
    module = nlc.compile("cms_independent")(**SMALL, periods=periods, lr=0.5)
    drawn(module)

    def run(weights: State, x: Tensor) -> tuple[Tensor, State]:
        shares = weights["mix"].exp() / weights["mix"].exp().sum()
        y, state = 0.0, {}
        for i, period in enumerate(periods, 1):
            start = MLP(weights[f"C_{i}.W1.init"], weights[f"C_{i}.W2.init"])
            values = F.linear(x, weights[f"C_{i}.value.linear.weight"])
            read, end, held = period_of_steps(start, x, values, period, 0.5)
            y = y + shares[i - 1] * read
            state |= {f"C_{i}.W1": end.W1, f"C_{i}.W2": end.W2}
            state |= {f"C_{i}.sum": held.W1, f"C_{i}.sum_2": held.W2}
        return y, state

    compare(module, run, inputs(length))


@pytest.mark.parametrize(
    ("periods", "length"),
    [((2, 4, 8), 1), ((2, 4, 8), 37), ((1, 3, 9), 31), ((3, 3, 3), 20), ((4, 4, 16), 50)],
)
def test_nested_levels_are_reset_to_slower_ones(periods: tuple[int, ...], length: int) -> None:
    """Where periods end, the steps go fastest first, then the resets slowest first (language §2)."""
    module = nlc.compile("cms_nested")(**SMALL, periods=periods, lr=0.5, meta_lr=0.3)
    weights = drawn(module)

    def run(weights: State, x: Tensor) -> tuple[Tensor, State]:
        target = F.linear(x, weights["target.linear.weight"])
        A = B = C = MLP(*(weights[f"A.{w}.init"].expand(2, -1, -1) for w in ("W1", "W2")))
        held = MLP(*(torch.zeros_like(w) for w in C))
        out = []
        for t in range(1, x.shape[1] + 1):
            now, goal = x[:, t - 1], target[:, t - 1]
            out.append(C(now))
            share = 1 / (1 + now.square().sum(-1))[:, None, None]
            held = MLP(*(h + share * g for h, g in zip(held, C.slopes(now, goal))))
            if t % periods[0] == 0:
                C = MLP(*(c - 0.5 / periods[0] * h for c, h in zip(C, held)))
                held = MLP(*(torch.zeros_like(w) for w in C))
            if t % periods[1] == 0:
                B = MLP(*(0.7 * b + 0.3 * c for b, c in zip(B, C)))
            if t % periods[2] == 0:
                A = MLP(*(0.7 * a + 0.3 * b for a, b in zip(A, B)))
                B = A
            if t % periods[1] == 0:
                C = B
        state = {f"{n}.{w}": getattr(M, w) for n, M in zip("ABC", (A, B, C)) for w in ("W1", "W2")}
        return torch.stack(out, 1), state | {"C.sum": held.W1, "C.sum_2": held.W2}

    assert sorted(weights) == ["A.W1.init", "A.W2.init", "target.linear.weight"]
    compare(module, run, inputs(length))


def test_the_operator_owns_the_maps_inside_its_loop() -> None:
    """What the second memory is trained on is a map of what the first one reads: it cannot come from outside."""
    module = nlc.compile("cms_sequential")(**SMALL, periods=(2, 4, 8))
    weights = drawn(module)
    made = nlc.compile("cms_sequential", operator=True)
    operator = made(**SMALL, periods=(2, 4, 8)).double()
    own = dict(operator.named_parameters())
    assert sorted(own) == ["C_2.value.linear.weight", "C_3.value.linear.weight"]
    operator.load_state_dict({key: weights[key] for key in own})
    x = inputs(21)
    value = F.linear(x, weights["C_1.value.linear.weight"])
    state = operator.initial_state(x) | {
        key: w for key, w in module.initial_state(x).items() if key[-2:] in ("W1", "W2")
    }
    expected = module(x)
    found = operator(k_C_1=x, v_C_1=value, state=state)  # the answer of the chain, as one output
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


CHAIN = """
nlc: 1
system: t
context: tokens
hyper: {d: 4, lengths: [2, 3, 5]}
heads: 1
inputs: {x: [d]}
use:
  first: linear_attention(d=d)
  cms: cms_sequential(d=d, expand=2, periods=lengths)
let:
  FLOW: linear(x)
  h: cms(first(FLOW))
output: {y: h + FLOW}
"""


@pytest.mark.parametrize(("flow", "rolled"), [("z", True), ("length", False)])
def test_levels_of_a_chain_are_a_loop_unless_its_variable_is_a_flow(
    flow: str, rolled: bool
) -> None:
    spec = nlc.loads(CHAIN.replace("FLOW", flow))
    torch.manual_seed(0)
    names = '("cms.C_1", "cms.C_2", "cms.C_3")'
    head = f"for name, length in zip({names}, self.lengths, strict=True):"
    assert (head in spec.source_text("torch")) == rolled
    modules = [spec.compile(b)(d=4).double() for b in ("torch", "reference")]
    modules[1].load_state_dict(modules[0].state_dict())
    x = inputs(13)
    found = []
    for module in modules:
        y, state = module(x[:, :7])
        rest, state = module(x[:, 7:], state=state)
        (torch.cat([y, rest], 1).square().sum() + state["cms.C_3.W1"].sum()).backward()
        found.append([y, rest, *state.values(), *(p.grad for p in module.parameters())])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


RULED = """
nlc: 1
system: ruled
context: tokens
hyper: {d: 4, periods: [2, 4, 8]}
inputs: {x: [d]}
weights: {class: {shape: [d], init: 1}}
let:
  h[0]: x * class
  h[i]: {for: {i: [1, 2, 3]}, is: "C[i](h[i-1])"}
levels:
  C[i]:
    for: {i: [1, 2, 3], period: periods}
    frequency: every period tokens
    memory: mlp(d, 2)
    key: h[i-1]
    value: linear(h[i-1]) * class
    objective: sum(0.5 * sqnorm(C[i](key) - value))
    rule: RULE
    init: learned
output: h[3]
"""


@pytest.mark.parametrize(
    "rule", ["adamw(lr=0.01)", "momentum(lr=0.01, beta=0.9)", "lookahead(lr=0)"]
)
def test_levels_of_a_chain_have_the_memories_of_their_rules(rule: str) -> None:
    """Each its own in the loop; a rule that leaves the weights alone; a weight that is called like a word of Python."""
    spec = nlc.loads(RULED.replace("RULE", rule))
    torch.manual_seed(0)
    modules = [spec.compile(b)().double() for b in ("torch", "reference")]
    modules[1].load_state_dict(modules[0].state_dict())
    x, found = inputs(19), []
    for module in modules:
        y, state = module(x[:, :7])
        rest, state = module(x[:, 7:], state=state)
        found.append([y, rest, *state.values()])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
