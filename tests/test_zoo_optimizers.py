"""Published optimizers as specs: each equals its paper, written out in float64, and the libraries that have it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from published_matrices import SEED
from published_optimizers import PAPERS
from torch import Tensor
from torch.optim import Optimizer

import nlc
from nlc.pipeline import EXACT

STEPS, SAME = 25, 1e-10

OTHERS: dict[str, list[dict[str, Any]]] = {  # hypers beside the defaults
    "momentum": [{"beta": 0.8, "rate": 0.5, "weight_decay": 0.1}],
    "adam": [{"beta2": 0.9, "weight_decay": 0.1}],
    "amsgrad": [{"beta2": 0.9, "weight_decay": 0.1}],
    "lion": [{"weight_decay": 0.1}],
    "lookahead": [{"lr": 0.02, "a": 0.3, "k": 4}],
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
    "muon": [{"nesterov": False, "match_rms": True}],
    "m3": [{"f": 4, "lr": 1e-3}, {"eps_inside": False}],
    "m3_ema": [{"f": 4, "beta2": 0.9, "beta3": 0.6, "alpha": 0.7, "weight_decay": 0.1}],
    "cautious_adamw": [{"weight_decay": 0.1}],
    "mars": [{"gamma": 0.1, "weight_decay": 0.1}],
    "adafactor": [{"lr": 0.3, "clip": 0.5, "weight_decay": 0.1}],
    "adafactor_unfactored": [{"eps2": 10.0, "weight_decay": 0.1}],
    "soap": [{"f": 1}, {"f": 3, "weight_decay": 0.1}],
    "normuon": [{"weight_decay": 0.1}],
    "schedule_free": [{"lr": 0.1, "beta1": 0.7, "weight_decay": 0.1}],
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


def test_what_schedule_free_evaluates_is_the_mean() -> None:
    W = torch.nn.Parameter(_weights())
    optimizer, gradient = nlc.compile("schedule_free")([W], lr=0.05), _gradients(W)
    other = _weights()
    written = PAPERS["schedule_free"](other, _gradients(other), lr=0.05)
    for _ in range(STEPS):
        W.grad = gradient()
        optimizer.step()
        x = next(written)
    optimizer.eval()
    assert _apart(W.detach(), x) < SAME < _apart(other, x)


def _apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize(
    ("name", "hypers"), CASES, ids=[f"{n}-{'-'.join(h) or 'defaults'}" for n, h in CASES]
)
def test_the_spec_is_the_paper(name: str, hypers: dict[str, Any], backend: str) -> None:
    assert _apart(_written(name, **hypers), _weights()) > 1e-4, "nothing was trained"
    assert _from_paper(name, hypers, backend) < SAME


def _from_paper(name: str, hypers: dict[str, Any], backend: str) -> float:
    """How far; a spec that multiplies matrices in float32 does so in float64 here."""
    made = nlc.compile(name, backend=backend)
    options = inspect.signature(made).parameters
    exact = {"matrix_dtype": torch.float64} if "matrix_dtype" in options else {}
    return _apart(_trained(made, **exact, **hypers), _written(name, **hypers))


def _library(name: str, **fixed: Any) -> Callable[..., Optimizer]:
    """A class of pytorch-optimizer, in float64 and one tensor at a time."""
    import pytorch_optimizer

    return partial(getattr(pytorch_optimizer, name), foreach=False, **fixed)


def _lookahead(params: list[Tensor], **hypers: Any) -> Optimizer:
    import pytorch_optimizer

    return pytorch_optimizer.Lookahead(torch.optim.AdamW(params, lr=0.02), **hypers)


@dataclass(frozen=True)
class Library:
    """A library's class, by the name that the page gives it, with what it takes in its own words."""

    name: str
    made: Callable[[], Callable[..., Optimizer]]
    mine: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] | None = None  # as ours, if unsaid

    @property
    def theirs(self) -> dict[str, Any]:
        return self.mine if self.given is None else self.given


def _torch(name: str, mine: dict | None = None, given: dict | None = None) -> Library:
    return Library(f"torch.optim.{name}", lambda: getattr(torch.optim, name), mine or {}, given)


def _other(name: str, mine: dict, given: dict | None = None, **fixed: Any) -> Library:
    return Library(f"pytorch_optimizer.{name}", lambda: _library(name, **fixed), mine, given)


DECAY = {"weight_decay": 0.1}
LIBRARIES: dict[str, list[Library]] = {
    "sgd": [_torch("SGD", DECAY)],
    "momentum": [_torch("SGD", DECAY, {**DECAY, "momentum": 0.9})],
    "adam": [_torch("Adam"), _torch("Adam", DECAY)],
    "adamw": [_torch("AdamW"), _torch("AdamW", DECAY)],
    "amsgrad": [_torch("Adam", DECAY, {**DECAY, "amsgrad": True})],
    "nesterov": [_torch("SGD", {"beta": 0.8}, {"momentum": 0.8, "nesterov": True, "lr": 1e-3})],
    "adagrad": [
        _torch("Adagrad", {"lr_decay": 0.1}),
        _torch("Adagrad", {"start": 0.1}, {"initial_accumulator_value": 0.1}),
    ],
    "rmsprop": [
        _torch("RMSprop"),
        _torch("RMSprop", {"centered": True, "beta": 0.5}, {"centered": True, "momentum": 0.5}),
    ],
    "nadam": [_torch("NAdam", DECAY)],
    "radam": [_torch("RAdam", DECAY)],
    "adamax": [_torch("Adamax", DECAY)],
    "ademamix": [_other("AdEMAMix", {"warm": 10}, {"t_alpha_beta3": 10})],
    "adan": [_other("Adan", DECAY)],
    "adabelief": [_other("AdaBelief", DECAY, rectify=False)],
    "lion": [_other("Lion", DECAY)],
    "signum": [_other("SignSGD", DECAY | {"lr": 1e-3, "beta": 0.9}, DECAY | {"lr": 1e-3, "momentum": 0.9})],
    "shampoo": [
        _other("Shampoo", {"f": 1, "eps": 1e-12}, {"lr": 0.05, "matrix_eps": 1e-12})  # bounds that do not bind
    ],
    "cautious_adamw": [_other("AdEMAMix", {}, alpha=0.0, cautious=True, weight_decay=0.0)],
    "mars": [_other("MARS", {"eps": 1e-30}, weight_decay=0.0)],
    "adafactor": [_torch("Adafactor", DECAY)],
    "soap": [
        # as long as the basis stays: when it turns they also put the second moments in another order
        _other("SOAP", {"f": 1000, "eps": 1e-30}, {"precondition_frequency": 1000, "eps": 1e-30}, weight_decay=0.0)
    ],
    "schedule_free": [_other("ScheduleFreeAdamW", DECAY)],
    "lookahead": [
        Library(
            "pytorch_optimizer.Lookahead",
            lambda: _lookahead,
            {"lr": 0.02, "a": 0.3, "k": 4},
            {"alpha": 0.3, "k": 4},
        )
    ],
}  # fmt: skip
NOTES = {  # of classes that do another thing, or not to that precision
    "adamuon": "`pytorch_optimizer.AdaMuon` orthogonalises the momentum, not its sign",
    "lamb": "`pytorch_optimizer.Lamb` scales the step by the bias of the first moment after its length is set",
    "muon": "`torch.optim.Muon`, which iterates in bfloat16, to 1e-2 of the way",
}


def library_errors(name: str) -> list[float]:
    """How far each library's optimizer goes another way than ours."""
    made, out = nlc.compile(name), []
    for x in LIBRARIES.get(name, ()):
        out.append(_apart(_trained(made, **x.mine), _trained(x.made(), **x.theirs)))
    return out


def paper_error(name: str) -> float:
    """The same of the paper's steps, at most, over the backends and the hypers of ``CASES``."""
    return max(_from_paper(name, h, b) for n, h in CASES if n == name for b in EXACT)


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_spec_is_the_library_s(name: str) -> None:
    errors = library_errors(name)
    assert errors and max(errors) < SAME


def test_classes_of_the_same_name_that_do_another_thing() -> None:
    """If a new version does the same, it is an oracle."""
    import pytorch_optimizer as others

    pairs = {
        "adamuon": lambda p: others.AdaMuon([{"params": p, "use_muon": True}], lr=1e-3, weight_decay=0.1),
        "lamb": lambda p: others.Lamb(p, lr=1e-3, weight_decay=0.01, eps=1e-6, pre_norm=False),
    }  # fmt: skip
    for name, theirs in pairs.items():
        assert name in NOTES and _apart(_trained(nlc.compile(name)), _trained(theirs)) > 1e-3
    moved = [_trained(made) - _weights() for made in (nlc.compile("muon"), torch.optim.Muon)]
    assert _apart(*moved) < 1e-2


def test_what_the_gradient_is_at_nothing_moves() -> None:
    """Directions of a gradient of 0 are no numbers unless a spec sees to it."""
    for name in PAPERS:
        W = torch.nn.Parameter(_weights())
        optimizer = nlc.compile(name)([W])
        for _ in range(3):
            W.grad = torch.zeros_like(W)
            optimizer.step()
        assert W.isfinite().all(), name
