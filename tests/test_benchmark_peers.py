"""What the benchmark of kernels gives those of flash-linear-attention, read by that library's code in PyTorch."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
import torch
from test_benchmarks import ROOT
from torch import Tensor

sys.path.insert(0, str(ROOT / "benchmarks"))
from kernel_rules import MODES, RULES

NAIVE = {
    "gated_delta_rule": "naive_recurrent_gated_delta_rule",
    "delta_rule": "delta_rule_recurrence",
    "linear_attn": "naive_recurrent_linear_attn",
    "retention": "naive_retention",
    "gla": "naive_recurrent_gla",
    "kda": "naive_recurrent_kda",
    "simple_gla": "naive_recurrent_simple_gla",
    "comba": "naive_chunk_comba",  # token by token it is of another system
}
HEADS_FIRST = ("delta_rule", "retention")
STATELESS = ("retention",)  # their code in PyTorch begins at none


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as if there were a device, so that it calls fla; what it sets there is undone."""
    pytest.importorskip("fla")
    import kernels

    monkeypatch.setattr(kernels, "CUDA", True)
    monkeypatch.setattr(import_module("fla.ops.common.chunk_o"), "TRITON_ABOVE_3_7_1", False)
    monkeypatch.setattr(kernels.triton.testing, "do_bench", None)
    kernels._errors.cache_clear()
    return kernels


def _naive(fla: str, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Their recurrence, of what their kernel is given: each sequence, heads that share keys, a scale, its names."""
    run = getattr(import_module(f"fla.ops.{fla}.naive"), NAIVE[fla])
    asked = inspect.signature(run).parameters
    given = dict(given)
    cuts = given.pop("cu_seqlens", None)
    if cuts is not None:
        flows = {n: x for n, x in given.items() if isinstance(x, Tensor)}
        parts = [
            _naive(fla, given | {n: x[:, a:b] for n, x in flows.items()})[0]
            for a, b in pairwise(cuts.tolist())
        ]
        return torch.cat(parts, 1), None
    for n in "qk":
        given[n] = given[n].repeat_interleave(given["v"].shape[2] // given[n].shape[2], 2)
    if "scale" not in asked:
        given["q"] = given["q"] * (given["q"].shape[-1] ** 0.5 * given.pop("scale"))
    if fla == "gla":
        given["gk"] = given.pop("gk", given.pop("g", None))
    if fla not in HEADS_FIRST:
        return run(**given)
    assert fla not in STATELESS or "initial_state" not in given
    turned = [given.pop(n).transpose(1, 2) for n in ("q", "k", "v", "beta") if n in given]
    found = run(*turned, **given)
    y, state = found if isinstance(found, tuple) else (found, None)
    return y.transpose(1, 2), state


def _modes(rule: str) -> tuple[str, ...]:
    """Steps are one by one, from a state."""
    return MODES[:2] if RULES[rule].packed or RULES[rule].fla in STATELESS else MODES[:3]


@pytest.mark.parametrize(
    ("rule", "mode"), [(n, mode) for n, r in RULES.items() if r.fla for mode in _modes(n)]
)
def test_fla_is_given_the_same_rule(
    rule: str, mode: str, kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel knows every argument, and its code in PyTorch makes of them what `torch` says, with slopes."""
    fla = RULES[rule].fla
    name = f"{'fused_recurrent' if mode == 'step' else 'chunk'}_{fla}"
    module = import_module(f"fla.ops.{fla}")
    known = inspect.signature(getattr(module, name)).parameters
    asked: list[dict[str, Any]] = []

    def kernel(**given: Any) -> tuple[Tensor, Tensor | None]:
        assert given.keys() <= known.keys()
        asked.append(given)
        return _naive(fla, given)

    monkeypatch.setattr(module, name, kernel)
    assert kernels.wrong("fla", kernels.Row(rule, 2, 2, 20, 8, mode)) == ""
    assert asked


def test_the_floor_is_what_must_move(kernels: Any) -> None:
    """Of a decay by channel: in float32 beside vectors in bfloat16, and slopes as wide as what they are of."""
    batch, heads, length, n = 3, 2, 64, 8
    token = heads * (3 * 2 * n + 4 * n + 2)
    y = heads * 2 * n
    row = lambda mode: kernels.Row("kda", batch, heads, length, n, mode)  # noqa: E731
    moved = {mode: kernels.floor(row(mode))[0] for mode in MODES}
    assert moved["forward"] == batch * length * (token + y)
    assert moved["forward+backward"] == batch * length * (3 * token + 2 * y)
    assert moved["step"] == batch * (2 * heads * n * n * 4 + token + y)
    assert moved["step in a CUDA graph"] == moved["step"]
    products = {r: kernels.floor(kernels.Row(r, 1, 1, 64, n, "forward"))[1] for r in ("gla", "kda")}
    chunk, state = 2 * 64 * 64 * n, 2 * 64 * n * n
    assert products == {"gla": 2 * chunk + 2 * state, "kda": 4 * chunk + 3 * state}
