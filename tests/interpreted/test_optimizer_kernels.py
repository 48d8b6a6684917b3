"""Steps of many tensors as one launch, interpreted, beside the torch backend's."""

from __future__ import annotations

import copy
import functools
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nlc
from nlc.pipeline import shipped

load = functools.cache(nlc.load)
SHAPES = [
    (40, 33),
    (3,),
    (),
    (1024,),
    (16, 64),
]  # more than a program takes, fewer, one, and whole ones
PERIODS = {"f": 3, "k": 2}


@functools.cache
def made(name: str, backend: str) -> type:
    return load(name).compile(backend)


def with_kernels() -> list[str]:
    """The shipped optimizers that kernels do, or one of their rules."""
    found = [n for n in shipped() if load(n).system.context == "gradients"]
    out = []
    for name in found:
        try:
            load(name).source_text("triton")
        except nlc.SpecError as error:
            assert "NLC702" in str(error)
            continue
        out.append(name)
    return out


NAMES = with_kernels()


def params(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    noise = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=noise).to(dtype)) for s in SHAPES]


class Counted:
    """Launches of a module's kernels, which go on as they were."""

    def __init__(self, module: Any, patch: pytest.MonkeyPatch):
        self.count, self.launch = 0, module.launch
        patch.setattr(module, "launch", self)

    def __call__(self, *args: Any, **sizes: Any) -> None:
        self.count += 1
        self.launch(*args, **sizes)


def run(
    cls: type, dtype: torch.dtype = torch.float32, steps: int = 5, **given: Any
) -> tuple[list[Tensor], dict]:
    ps = params(dtype)
    hypers = {n: x for n, x in PERIODS.items() if n in cls.HYPERS}
    opt = cls(ps, **{**hypers, **given})
    opt.register_step_pre_hook(lambda *_: torch.manual_seed(0) and None)  # starts may be drawn
    noise = torch.Generator().manual_seed(1)
    for tick in range(steps):
        for i, p in enumerate(ps):
            g = torch.randn(p.shape, generator=noise).to(dtype)
            p.grad = None if (tick, i) == (2, 1) else g  # counts differ from here on
        if "lr" in cls.HYPERS:
            opt.param_groups[0]["lr"] = given.get("lr", 0.01) * (1 - 0.1 * tick)
        opt.step()
    return [p.detach().float() for p in ps], opt.state_dict()["state"]


def close(found: tuple, expected: tuple, tolerance: float) -> None:
    for a, b in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for a, b in zip(found[1].values(), expected[1].values(), strict=True):
        assert {*a} == {*b}
        for key, x in a.items():
            if isinstance(x, Tensor):
                torch.testing.assert_close(
                    x.float(), b[key].float(), rtol=tolerance, atol=tolerance
                )
            elif key != "seed":
                assert x == b[key]


def test_most_optimizers_have_kernels() -> None:
    assert {"adamw", "amsgrad", "lion", "lookahead", "momentum", "muon", "radam"} <= {*NAMES}
    assert "lamb" not in NAMES  # it needs the length of a tensor


@pytest.mark.parametrize("name", NAMES)
def test_one_launch_is_the_steps_of_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = made(name, "triton")
    launches = Counted(sys.modules[cls.__module__], monkeypatch)
    close(run(cls), run(made(name, "torch")), 2e-5)
    assert launches.count


@pytest.mark.parametrize("name", ("adamw", "lookahead"))
@pytest.mark.parametrize(
    "given", ({"maximize": True}, {"capturable": True}, {"lr": torch.tensor(0.01)}), ids=str
)
def test_numbers_may_be_the_device_s(name: str, given: dict) -> None:
    found, expected = (run(made(name, b), **copy.deepcopy(given)) for b in ("triton", "torch"))
    close(found, expected, 2e-5)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("state", (None, torch.bfloat16))
def test_half_precision_is_widened_by_the_kernel(dtype: torch.dtype, state: Any) -> None:
    given = dict(dtype=dtype, state_dtype=state)
    found, expected = (run(made("adamw", b), **given) for b in ("triton", "torch"))
    close(found, expected, 4e-2)  # the interpreter cuts off what does not fit into bfloat16


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_rounding_by_chance_is_right_on_average(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.ones(4096, dtype=dtype))
    opt = made("sgd", "triton")([p], lr=3e-5, rounding_seed=0)
    drawn = set()
    for _ in range(20):
        p.grad = torch.ones_like(p)
        opt.step()
        drawn.add(opt.state[p].get("seed"))
    assert len(drawn) == 20
    assert p.float().mean().item() == pytest.approx(1 - 20 * 3e-5, abs=1e-4)
    assert p.float().unique().numel() > 1


def test_what_a_kernel_does_not_take_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = made("adamw", "triton")
    launches = Counted(sys.modules[cls.__module__], monkeypatch)
    close(run(cls, torch.float64), run(made("adamw", "torch"), torch.float64), 1e-12)
    assert not launches.count


def test_tables_follow_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that lie elsewhere, and what joins later, are seen."""
    cls = made("momentum", "triton")
    launches = Counted(sys.modules[cls.__module__], monkeypatch)
    ends = []
    for backend in ("triton", "torch"):
        ps = params()
        opt = made("momentum", backend)(ps[:2], lr=0.1)
        keep = []
        for tick in range(4):
            if tick == 2:
                opt.add_param_group({"params": ps[2:]})
            for i, p in enumerate(ps):
                p.grad = torch.full_like(p, 0.1 * tick + i)
                keep.append(p.grad)
            opt.step()
        ends.append([p.detach() for p in ps])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b)
    assert launches.count >= 4


ROUTED = """
nlc: 1
system: routed
context: gradients
hyper: {lr: 0.02, beta: 0.9}
applies_to:
  first: {names: "a.*", rule: adamw(lr=lr)}
  seen: {kinds: matrices, where: nrows(W) > 8, view: "split(0, 2)", rule: lion(lr=lr / 10)}
  rest: self
levels:
  m:
    frequency: every step
    memory: like(W)
    objective: -dot(m, g)
    rule: gd(lr=1 - beta, decay=beta)
  W:
    frequency: every step
    objective: dot(W, m)
    rule: gd(lr=lr)
"""


def test_routes_by_name_have_launches_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"a.w": (3, 4), "a.b": (5,), "b.w": (16, 4), "c.w": (3, 4), "c.b": (5,)}
    found, noise = [], torch.Generator().manual_seed(0)
    start = {n: torch.randn(s, generator=noise) for n, s in shapes.items()}
    slopes = [{n: torch.randn(s, generator=noise) for n, s in shapes.items()} for _ in range(3)]
    for backend in ("torch", "triton"):
        cls = nlc.loads(ROUTED, "routed.yaml").compile(backend)
        ps = {n: nn.Parameter(x.clone()) for n, x in start.items()}
        opt = cls(ps.items())
        for g in slopes:
            for n, p in ps.items():
                p.grad = g[n].clone()
            if g is slopes[-1] and backend == "triton":
                counted = Counted(sys.modules[cls.__module__], monkeypatch)
            opt.step()
        found.append([p.detach() for p in ps.values()])
    assert counted.count == 2  # of the first and of the rest: a view goes part by part
    torch.testing.assert_close(*found)
