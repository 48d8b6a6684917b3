"""Generated optimizers do what torch.optim's do, or what is printed in the paper, and what users expect of one."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import nlc


class Lion(Optimizer):
    """Program 1 of Chen et al. 2023, line by line."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple = (0.9, 0.99),
        weight_decay: float = 0,
        maximize: bool = False,
    ):
        given = dict(lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize)
        super().__init__(params, given)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (one, two), lr, decay = group["betas"], group["lr"], group["weight_decay"]
            for p in (p for p in group["params"] if p.grad is not None):
                g = -p.grad if group["maximize"] else p.grad
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                update = (one * m + (1 - one) * g).sign()
                m.copy_(two * m + (1 - two) * g)
                p.copy_(p - lr * (update + decay * p))
        return loss


THEIRS: dict[str, Callable] = {
    "sgd": torch.optim.SGD,
    "momentum": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "amsgrad": partial(torch.optim.Adam, amsgrad=True),
    "lion": Lion,
}
SHAPES = [(), (5,), (4, 3), (2, 3, 4)]
every = pytest.mark.parametrize("name", THEIRS)


def _hypers(name: str, lr: float, decay: float, beta: float = 0.8) -> tuple[dict, dict]:
    """The same hypers as ours takes them and as torch does."""
    both = {"lr": lr, "weight_decay": decay}
    if name == "sgd":
        return both, both
    if name == "momentum":
        return {**both, "beta": beta}, {**both, "momentum": beta}
    second = 1 - (1 - beta) / 10
    eps = {} if name == "lion" else {"eps": 1e-7}
    mine = {**both, "beta1": beta, "beta2": second, **eps}
    return mine, {**both, "betas": (beta, second), **eps}


def _tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    """The same parameters at every call."""
    noise = torch.Generator().manual_seed(0)
    shapes = shapes or tuple(SHAPES)
    return [torch.randn(s, generator=noise).double().requires_grad_() for s in shapes]


def _train(
    optimizer: Optimizer,
    params: list[Tensor],
    ticks: range,
    skips: Callable[[int, int], bool] = lambda tick, i: False,
    schedule: LambdaLR | None = None,
) -> None:
    """Steps on gradients that depend on the tick and on the parameter itself."""
    for tick in ticks:
        for i, p in enumerate(params):
            noise = torch.Generator().manual_seed(100 * tick + i)
            g = torch.randn(p.shape, generator=noise).double() + 0.3 * p.detach()
            p.grad = None if skips(tick, i) else g
        optimizer.step()
        if schedule is not None:
            schedule.step()


def _distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative difference over the tensors."""
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True))


def _both(
    name: str, groups: Callable[[list[Tensor], int], list[dict]], **more: Any
) -> list[tuple[Optimizer, list[Tensor]]]:
    """Ours and torch's over equal parameters; ``groups(params, 0 or 1)`` gives hypers of ours or torch's."""
    out = []
    for i, made in enumerate((nlc.compile(name), THEIRS[name])):
        params = _tensors()
        out.append((made(groups(params, i), **more), params))
    return out


@every
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
def test_a_hundred_steps_equal_torch(name: str, decay: float, maximize: bool) -> None:
    hypers = _hypers(name, 0.02, decay)
    pair = _both(name, lambda p, i: [{"params": p, **hypers[i]}], maximize=maximize)
    for optimizer, params in pair:
        _train(optimizer, params, range(100))
    (_, mine), (_, theirs) = pair
    assert _distance(theirs, _tensors()) > 0.1
    assert _distance(mine, theirs) < 1e-12


@every
def test_defaults_are_torch_s(name: str) -> None:
    given = {"momentum": 0.9} if name == "momentum" else {}
    mine, theirs = _tensors(), _tensors()
    _train(nlc.compile(name)(mine), mine, range(20))
    _train(THEIRS[name](theirs, **given), theirs, range(20))
    assert _distance(mine, theirs) < 1e-12


@every
def test_groups_with_hypers_of_their_own_follow_a_schedule(name: str) -> None:
    first, second = _hypers(name, 0.02, 0.1), _hypers(name, 0.005, 0.0, beta=0.6)

    def groups(p: list[Tensor], i: int) -> list[dict]:
        return [{"params": p[:2], **first[i]}, {"params": p[2:], **second[i]}]

    pair = _both(name, groups)
    for optimizer, params in pair:
        falling = LambdaLR(optimizer, [lambda n: 0.97**n, lambda n: 1 / (1 + n)])
        _train(optimizer, params, range(100), schedule=falling)
    (_, mine), (_, theirs) = pair
    assert _distance(mine, theirs) < 1e-12


@every
def test_a_parameter_without_gradient_is_skipped_and_keeps_its_own_count(name: str) -> None:
    hypers = _hypers(name, 0.02, 0.1)
    pair = _both(name, lambda p, i: [{"params": p, **hypers[i]}])
    for optimizer, params in pair:
        _train(optimizer, params, range(30), skips=lambda tick, i: (tick + i) % (i + 2) == 0)
    (optimizer, mine), (_, theirs) = pair
    assert _distance(mine, theirs) < 1e-12
    if name.startswith("adam"):
        counts = [optimizer.state[p]["t"] for p in mine]
        assert counts == [sum((n + i) % (i + 2) != 0 for n in range(30)) for i in range(4)]


@every
def test_a_group_can_join_later(name: str) -> None:
    first, second = _hypers(name, 0.02, 0.1), _hypers(name, 0.01, 0.0, beta=0.5)
    pair = _both(name, lambda p, i: [{"params": p[:2], **first[i]}])
    for i, (optimizer, params) in enumerate(pair):
        _train(optimizer, params[:2], range(5))
        optimizer.add_param_group({"params": params[2:], **second[i]})
        _train(optimizer, params, range(5, 20))
    (_, mine), (_, theirs) = pair
    assert _distance(mine, theirs) < 1e-12


@every
def test_the_closure_computes_the_loss_with_gradients_and_it_comes_back(name: str) -> None:
    (p,) = _tensors((3,))
    optimizer = nlc.compile(name)([p], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    before = p.detach().square().sum()
    assert torch.equal(optimizer.step(closure), before)
    assert p.detach().square().sum() < before
    assert optimizer.step() is None


@every
@pytest.mark.parametrize("saved", ["deepcopy", "file"])
def test_a_fresh_optimizer_goes_on_bit_by_bit_from_a_state_dict(name: str, saved: str) -> None:
    made, (hypers, _) = nlc.compile(name), _hypers(name, 0.02, 0.1)
    whole, parts = _tensors(), _tensors()
    _train(made(whole, **hypers), whole, range(20))

    first = made(parts, **hypers)
    _train(first, parts, range(7))
    kept = copy.deepcopy(first.state_dict())
    if saved == "file":
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        kept = torch.load(file, weights_only=True)
    second = made(parts, lr=99.0)  # the hypers are in the state dict too
    second.load_state_dict(kept)
    _train(second, parts, range(7, 20))
    assert all(map(torch.equal, parts, whole))


@every
def test_a_step_leaves_the_gradient_as_it_was(name: str) -> None:
    params = _tensors()
    optimizer = nlc.compile(name)(params, lr=0.1, weight_decay=0.1, maximize=True)
    for p in params:
        p.grad = torch.ones_like(p)
    kept = [p.grad for p in params]
    for _ in range(3):
        optimizer.step()
    assert all(p.grad is g and (g == 1).all() for p, g in zip(params, kept, strict=True))


@every
def test_complex_parameters_and_sparse_gradients_are_refused(name: str) -> None:
    made = nlc.compile(name)
    p = torch.ones(3, dtype=torch.complex128, requires_grad=True)
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=f"{made.__name__}.*complex"):
        made([p]).step()
    (p,) = _tensors((3, 2))
    p.grad = torch.ones_like(p).to_sparse()
    with pytest.raises(RuntimeError, match=f"{made.__name__}.*sparse"):
        made([p]).step()


def test_instances_unpickle_in_a_fresh_process_that_imports_nlc(tmp_path: Path) -> None:
    expected = []
    for name in THEIRS:
        params = _tensors((3,))
        optimizer = nlc.compile(name)(params, lr=0.1)
        _train(optimizer, params, range(3))
        (tmp_path / name).write_bytes(pickle.dumps((optimizer, params)))
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
        expected.append(params[0].tolist())
    code = """
import pickle, sys, nlc, torch
for name in sys.argv[1:]:
    optimizer, params = pickle.load(open(name, "rb"))
    params = optimizer.param_groups[0]["params"]
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    print(params[0].tolist())
"""
    command = [sys.executable, "-c", code, *THEIRS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == list(map(str, expected)), done.stderr
