"""Trajectories that are kept beside the specs, and what optimizers do otherwise than a class that the user names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from shipped_specs import TRAINERS, load
from torch.optim import Optimizer

import nlc
from nlc.cli import main
from nlc.runtime.verify.trajectories import slope, start
from nlc.tools.sizes import BadHyper


def verified(name: str, *more: str) -> Any:
    return CliRunner().invoke(main, ["verify", name, *more])


@pytest.mark.parametrize("name", TRAINERS)
def test_the_trajectory_is_the_one_that_is_kept(name: str, golden: Callable[..., None]) -> None:
    result = load(name).verify()
    assert result.passed
    golden(f"trajectory_{name}.txt", "\n\n".join(map(str, result.trajectories)) + "\n")
    periods = [x for x in ("f", "k") if x in load(name).system.hypers]
    for x in periods:
        value = load(name).system.hypers[x].value
        assert result.trajectories[0].steps[-1] >= 2 * value


def test_the_trajectory_is_torch_s() -> None:
    """The problem is written down, so that anyone can run it."""
    found = nlc.load("adamw").verify(hypers={"lr": 0.01}).trajectories[0]
    p = torch.nn.Parameter(start((2, 3)))
    c = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]).double()
    b = torch.tensor([[-0.5, 1.0, 0.0], [-1.0, 0.5, -0.5]]).double()
    assert p.tolist() == [[0.0, -0.5, 0.75], [0.25, -0.25, -0.75]]
    torch.testing.assert_close(slope(p.detach()), c * (p.detach() - b))
    opt, rows = torch.optim.AdamW([p], lr=0.01), [p.detach().clone()]
    for _ in range(8):
        opt.zero_grad()
        (0.5 * c * (p - b).square()).sum().backward()
        opt.step()
        rows.append(p.detach().clone())
    expected = [tuple(f"{x + 0.0:.9f}" for x in rows[i].flatten().tolist()) for i in found.steps]
    assert list(found.rows) == expected


def test_another_rule_has_another_digest() -> None:
    spec = nlc.load("adamw")
    one = spec.verify().trajectories[0].digest
    assert spec.verify(seed=3).trajectories[0].digest == one
    assert spec.verify(hypers={"beta1": 0.89}).trajectories[0].digest != one
    moved = nlc.loads(spec.source.text.replace("m / (1 - beta1**t)", "m"))
    assert moved.verify().trajectories[0].digest != one


SAME = {
    "sgd": ("torch.optim.SGD", []),
    "momentum": ("torch.optim.SGD", ["--peer", "momentum=0.9"]),
    "adam": ("torch.optim.Adam", []),
    "adamw": ("torch.optim.AdamW", []),
    "amsgrad": ("torch.optim.Adam", ["--peer", "amsgrad=1"]),
}


@pytest.mark.parametrize("name", SAME)
def test_nothing_differs_in_float64(name: str) -> None:
    peer, more = SAME[name]
    done = verified(name, "--against", peer, *more, "--format", "json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["peer"]
    assert found["peer"] == peer
    rows = {k: x for k, x in found["rows"].items() if k != "parameters in bfloat16"}
    assert {*rows.values()} == {"same", "same but for rounding"} and len(rows) >= 12
    assert rows["lr=0.0005"] == "same"


def test_memories_in_half_precision_are_a_difference() -> None:
    found = nlc.load("adamw").verify(against=torch.optim.AdamW).peer.rows
    assert found["parameters in bfloat16"].startswith("from step")


class Forgetful(Optimizer):
    """As SGD with momentum, but that weights decay in the first four steps alone."""

    def __init__(
        self, params: Any, lr: float = 1e-3, weight_decay: float = 0, momentum: float = 0.9
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.ndim > 2:
                    raise RuntimeError("no tensors of three axes\nor more")
                state = self.state[p]
                count = state["count"] = state.get("count", 0) + 1
                g = p.grad + (group["weight_decay"] * p if count <= 4 else 0)
                m = state.get("m", torch.zeros_like(p))
                state["m"] = group["momentum"] * m + g
                p.sub_(group["lr"] * state["m"])


def test_where_a_difference_starts_is_said() -> None:
    found = nlc.load("momentum").verify(against=Forgetful, peer={"momentum": 0.9}).peer
    assert found.rows["a matrix"] == "same"
    assert found.rows["weight_decay=0.1"].startswith("from step 5, by up to ")
    assert found.rows["a stack of matrices"] == "the peer refuses: no tensors of three axes or more"
    assert found.rows["maximize=True"].startswith("the peer refuses: ")
    assert found.alone == ("rate", "beta") and found.told["momentum"] == 0.9
    text = str(found)
    assert text.startswith("differs from ") and "it was not told of rate, beta" in text


def test_hypers_are_told_by_name() -> None:
    found = nlc.load("adamw").verify(against="torch.optim.AdamW", hypers={"beta2": 0.9}).peer
    assert (
        found.told["betas"] == (0.9, 0.9) and not found.alone and found.rows["beta2=0.45"] == "same"
    )
    muon = nlc.load("muon").verify(against="torch.optim.Muon").peer
    assert muon.own["momentum"] == 0.95 and "beta" in muon.alone
    assert muon.rows["a vector"].startswith("the peer refuses")


def test_routes_by_name_are_compared_by_a_name_that_no_pattern_means(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """The tensor goes where its kind sends it; that the other route takes nothing is no news here."""
    routes = 'applies_to:\n  heads: {names: "head.*", rule: adamw(lr=lr)}\n  rest: self\n'
    found = nlc.loads(nlc.load("sgd").source.text + routes).verify(against="torch.optim.SGD").peer
    rows = {k: x for k, x in found.rows.items() if k != "parameters in bfloat16"}
    assert {*rows.values()} == {"same", "same but for rounding"} and len(rows) >= 11
    assert not [x for x in recwarn if "takes no parameter" in str(x.message)]


WRONG = {
    ("adam", "torch.optim.AdmW"): "did you mean `torch.optim.AdamW`",
    ("adam", "torh.Adam"): "No module named 'torh'",
    ("adam", "torch.nn.Linear"): "is no class of optimizers",
    ("adam", "Adam"): "is no class of optimizers",
    ("adam", "torch.optim.Adam", "--peer", "amsgrd=1"): "did you mean `amsgrad`",
    ("delta_net", "torch.optim.Adam"): "is a system over tokens",
}


@pytest.mark.parametrize("asked", WRONG)
def test_mistakes_are_said(asked: tuple[str, ...]) -> None:
    name, peer, *more = asked
    done = verified(name, "--tokens", "4", "--against", peer, *more)
    assert done.exit_code == 2 and WRONG[asked] in done.output
    assert "--against" in done.output


def test_a_mistake_from_python_is_one_of_a_hyper() -> None:
    with pytest.raises(BadHyper):
        nlc.load("adam").verify(against="torch.optim.AdmW")
