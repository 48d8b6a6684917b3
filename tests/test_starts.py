"""Memories of optimizers that start from hypers: as numbers, drawn, on the device, with gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import nlc

SPEC = """
nlc: 1
system: begun
context: gradients
hyper: {lr: 0.1, start: 0.1, spread: 0.2}
levels:
  a: {frequency: every step, memory: like(W), init: start, objective: "-dot(a, g * g)", rule: gd(lr=1)}
  b: {frequency: every step, memory: scalar, init: 2 * start, update: 0.5 * b}
  c: {frequency: every step, memory: like(W), init: "uniform(-spread, spread)", update: 0.5 * c}
  n: {frequency: every step, memory: like(W), init: normal(spread), update: 0.5 * n}
  e: {frequency: every step, memory: like(W), init: W * start, update: 0.5 * e}
  W: {frequency: every step, objective: "dot(W, g / sqrt(a) + b * g + c + n + e)", rule: gd(lr=lr)}
"""
BACKENDS = ("reference", "torch")
backends = pytest.mark.parametrize("backend", BACKENDS)


def weights() -> Tensor:
    return torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)


def steps(backend: str, count: int = 3, **given: object) -> Tensor:
    """The weights after some steps of the generated class, as a function of its hypers."""
    W = weights() if given.get("differentiable") else nn.Parameter(weights())
    opt = nlc.loads(SPEC).compile(backend)([W], **given)
    torch.manual_seed(0)
    for _ in range(count):
        (group,) = opt.param_groups
        (now,) = group["params"]
        now.grad = torch.cos(now if group["differentiable"] else now.detach())
        opt.step()
    return opt.param_groups[0]["params"][0]


def by_hand(lr: float = 0.1, start: float = 0.1, spread: float = 0.2, count: int = 3) -> Tensor:
    """The spec's equations."""
    W = weights()
    torch.manual_seed(0)
    a, b, e = torch.full_like(W, start), 2 * start, W * start
    c = (torch.rand_like(W) * 2 - 1) * spread
    n = torch.randn_like(W) * spread
    for _ in range(count):
        g = torch.cos(W)
        a, b, c, n, e = a + g * g, 0.5 * b, 0.5 * c, 0.5 * n, 0.5 * e
        W = W - lr * (g / a.sqrt() + b * g + c + n + e)
    return W


@backends
@pytest.mark.parametrize("given", [{}, {"start": 0.3}, {"spread": 0.5, "start": 0.0}])
def test_memories_start_as_the_hypers_say(backend: str, given: dict) -> None:
    torch.testing.assert_close(steps(backend, **given).detach(), by_hand(**given))
    assert not torch.allclose(by_hand(**given), by_hand(start=0.7))


@backends
def test_each_group_has_its_own(backend: str) -> None:
    one, two = nn.Parameter(weights()), nn.Parameter(weights())
    opt = nlc.loads(SPEC).compile(backend)([{"params": [one]}, {"params": [two], "start": 0.6}])
    one.grad = two.grad = torch.zeros_like(weights())
    opt.step()
    assert [opt.state[p]["a"][0, 0].item() for p in (one, two)] == [0.1, 0.6]


class NoSync(TorchDispatchMode):
    """Refuses to bring a number from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func is not torch.ops.aten._local_scalar_dense.default, "a number was asked for"
        return func(*args, **(kwargs or {}))


@backends
def test_none_of_it_asks_the_device(backend: str) -> None:
    with NoSync():
        found = steps(backend, capturable=True)
    torch.testing.assert_close(found.detach(), by_hand())


@backends
def test_gradients_reach_what_memories_start_from(backend: str) -> None:
    given = {
        n: torch.tensor(x, requires_grad=True).double()
        for n, x in (("start", 0.1), ("spread", 0.2))
    }
    for x in given.values():
        x.retain_grad()
    steps(backend, differentiable=True, **given).sum().backward()
    for name, x in given.items():
        value = x.item()
        up, down = (by_hand(**{name: value + h}).sum().item() for h in (1e-6, -1e-6))
        assert x.grad.item() == pytest.approx((up - down) / 2e-6, rel=1e-5), name


@backends
def test_a_rule_that_is_called_starts_from_its_arguments(backend: str) -> None:
    """As a constant, and as a hyper of the system that calls it."""
    text = """
    nlc: 1
    system: calls
    context: gradients
    hyper: {lr: 0.1, first: 0.3}
    levels:
      W: {frequency: every step, objective: "dot(W, g)", rule: "adagrad(lr=lr, start=START)"}
    """
    for said in ("0.3", "first"):
        found, expected = nn.Parameter(weights()), nn.Parameter(weights())
        ours = nlc.loads(text.replace("START", said)).compile(backend)([found])
        theirs = torch.optim.Adagrad([expected], lr=0.1, initial_accumulator_value=0.3)
        for _ in range(3):
            for p, opt in ((found, ours), (expected, theirs)):
                p.grad = torch.cos(p.detach())
                opt.step()
        torch.testing.assert_close(found, expected)
    assert nlc.loads(text.replace("START", "first")).verify().passed


def test_it_is_verified() -> None:
    assert nlc.loads(SPEC).verify().passed
