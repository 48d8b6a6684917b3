"""Newton-Schulz with fewer multiplications beside its definition, over sizes, formats and spectra."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

import nlc

QUINTIC, CUBIC = (3.4445, -4.775, 2.0315), (1.5, -0.5, 0.0)


def defined(name: str, backend: str) -> ModuleType:
    return sys.modules[nlc.load(name).compile(backend).__module__]


@pytest.fixture(scope="module")
def fast() -> Callable[..., Tensor]:
    return defined("muon", "torch").newton_schulz


@pytest.fixture(scope="module")
def plain() -> Callable[..., Tensor]:
    return defined("muon", "reference").newton_schulz


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("coefficients", [QUINTIC, CUBIC], ids=["quintic", "cubic"])
@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize(
    "shape", [(3, 4), (300, 310), (310, 300), (300, 500), (500, 300), (2, 260, 400), (3, 7, 4)]
)
def test_it_is_the_same(
    fast: Callable, plain: Callable, shape: tuple, steps: int, coefficients: tuple
) -> None:
    A = drawn(*shape)
    expected, given = plain(A, steps, coefficients), A.clone()
    torch.testing.assert_close(fast(A, steps, coefficients), expected, rtol=0, atol=1e-11)
    assert torch.equal(A, given)
    rows = fast(A.mT.contiguous().mT, steps, coefficients)  # that lie in memory the other way
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-11)


def spectra(m: int, n: int) -> dict[str, Tensor]:
    """Matrices whose singular values fall in different ways."""
    sides = [torch.linalg.qr(drawn(k, m))[0] for k in (m, n)]
    made = {f"to {low}": torch.logspace(0, low, m, dtype=torch.float64) for low in (-3, -6)}
    out = {name: (sides[0] * values) @ sides[1].mT for name, values in made.items()}
    low = drawn(m, 8) @ drawn(8, n)
    return out | {"noise": drawn(m, n), "rank 8": low, "rank 8 and noise": low + 1e-3 * drawn(m, n)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", spectra(2, 3))
def test_it_is_as_exact_as_the_definition(
    fast: Callable, plain: Callable, name: str, dtype: torch.dtype
) -> None:
    A = spectra(128, 512)[name]
    exact = plain(A, 5, QUINTIC)
    errors = [(f(A.to(dtype), 5, QUINTIC).double() - exact).norm() for f in (fast, plain)]
    assert errors[0] <= 3 * errors[1]


def test_five_iterations_together_would_not_be(
    fast: Callable, plain: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fast.__globals__, "TOGETHER", 5)
    A = spectra(128, 512)["to -3"]
    exact = plain(A, 5, QUINTIC)
    errors = [(f(A.float(), 5, QUINTIC).double() - exact).norm() for f in (fast, plain)]
    assert errors[0] > 10 * errors[1]


def test_gradients_pass_through(fast: Callable, plain: Callable) -> None:
    found = []
    for f in (fast, plain):
        A = drawn(300, 500).requires_grad_()
        f(A, 2, QUINTIC).square().sum().backward()
        found.append(A.grad)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
