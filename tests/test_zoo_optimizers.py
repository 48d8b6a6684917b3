"""Published optimizers as specs: each equals its paper, written out in float64, and the libraries that have it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from published_optimizers import PAPERS, SEED
from torch import Tensor
from torch.optim import Optimizer

import nlc

STEPS, SAME = 25, 1e-10

OTHERS: dict[str, list[dict[str, Any]]] = {  # hypers beside the defaults
    "nesterov": [{"beta": 0.8, "weight_decay": 0.1}],
    "adagrad": [{"lr_decay": 0.1, "weight_decay": 0.1}, {"start": 0.1}],
    "rmsprop": [{"centered": True, "beta": 0.5, "weight_decay": 0.1}],
    "nadam": [{"weight_decay": 0.1, "momentum_decay": 0.1}],
    "radam": [{"beta2": 0.9, "weight_decay": 0.1}],
    "adamax": [{"weight_decay": 0.1}],
    "adabelief": [{"weight_decay": 0.1}],
    "ademamix": [{"warm": 10, "weight_decay": 0.1}],
    "adan": [{"weight_decay": 0.1}],
    "lamb": [{"weight_decay": 0.0}],
    "signum": [{"weight_decay": 0.1}],
    "shampoo": [{"f": 3, "weight_decay": 0.1}],
    "delta_momentum": [{"clip": 0.3, "eta": 0.5}],
    "feature_momentum": [{"scale": 3.0, "weight_decay": 0.1}],
    "preconditioned_momentum": [{"weight_decay": 0.1}],
}
CASES = [(n, h) for n in PAPERS for h in ({}, *OTHERS.get(n, []))]


def _gradients(W: Tensor) -> Callable[[], Tensor]:
    """Gradients that depend on the step and on the weights, the same at every call of this."""
    noise = torch.Generator().manual_seed(3)
    return lambda: torch.randn(W.shape, generator=noise).double() + 0.3 * W.detach()


def _weights() -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(7)).double()


def _trained(made: Callable[..., Optimizer], **hypers: Any) -> Tensor:
    W = torch.nn.Parameter(_weights())
    optimizer, gradient = made([W], **hypers), _gradients(W)
    torch.manual_seed(SEED)
    for _ in range(STEPS):
        W.grad = gradient()
        optimizer.step()
    return W.detach()


def _written(name: str, **hypers: Any) -> Tensor:
    W = _weights()
    with torch.no_grad():
        steps = PAPERS[name](W, _gradients(W), **hypers)
        for _ in range(STEPS):
            next(steps)
    return W


def _apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(
    ("name", "hypers"), CASES, ids=[f"{n}-{'-'.join(h) or 'defaults'}" for n, h in CASES]
)
def test_the_spec_is_the_paper(name: str, hypers: dict[str, Any], backend: str) -> None:
    expected = _written(name, **hypers)
    assert _apart(expected, _weights()) > 1e-4, "nothing was trained"
    found = _trained(nlc.compile(name, backend=backend), **hypers)
    assert _apart(found, expected) < SAME


def _library(name: str, **fixed: Any) -> Callable[..., Optimizer]:
    """A class of pytorch-optimizer, in float64 and one tensor at a time."""
    import pytorch_optimizer

    return partial(getattr(pytorch_optimizer, name), foreach=False, **fixed)


O = torch.optim
LIBRARIES: list[tuple[str, Callable[[], Callable[..., Optimizer]], dict[str, Any], dict[str, Any]]] = [
    ("nesterov", lambda: O.SGD, {"beta": 0.8}, {"momentum": 0.8, "nesterov": True, "lr": 1e-3}),
    ("adagrad", lambda: O.Adagrad, {"lr_decay": 0.1}, {"lr_decay": 0.1}),
    ("adagrad", lambda: O.Adagrad, {"start": 0.1}, {"initial_accumulator_value": 0.1}),
    ("rmsprop", lambda: O.RMSprop, {}, {}),
    ("rmsprop", lambda: O.RMSprop, {"centered": True, "beta": 0.5}, {"centered": True, "momentum": 0.5}),
    ("nadam", lambda: O.NAdam, {"weight_decay": 0.1}, {"weight_decay": 0.1}),
    ("radam", lambda: O.RAdam, {"weight_decay": 0.1}, {"weight_decay": 0.1}),
    ("adamax", lambda: O.Adamax, {"weight_decay": 0.1}, {"weight_decay": 0.1}),
    ("ademamix", lambda: _library("AdEMAMix"), {"warm": 10}, {"t_alpha_beta3": 10}),
    ("adan", lambda: _library("Adan"), {"weight_decay": 0.1}, {"weight_decay": 0.1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "theirs", "mine", "given"), LIBRARIES, ids=[x[0] for x in LIBRARIES]
)
def test_the_spec_is_the_library_s(
    name: str, theirs: Callable[[], Callable[..., Optimizer]], mine: dict, given: dict
) -> None:
    assert _apart(_trained(nlc.compile(name), **mine), _trained(theirs(), **given)) < SAME


def test_what_the_gradient_is_at_nothing_moves() -> None:
    """Directions of a gradient of 0 are no numbers unless a spec sees to it."""
    for name in PAPERS:
        W = torch.nn.Parameter(_weights())
        optimizer = nlc.compile(name)([W])
        for _ in range(3):
            W.grad = torch.zeros_like(W)
            optimizer.step()
        assert W.isfinite().all(), name
