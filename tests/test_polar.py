"""Newton-Schulz with fewer multiplications beside its definition, over sizes, formats and spectra."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from shipped_specs import load
from torch import Tensor

QUINTIC, CUBIC = (3.4445, -4.775, 2.0315), (1.5, -0.5, 0.0)


def defined(name: str, backend: str) -> ModuleType:
    return sys.modules[load(name).compile(backend).__module__]


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
    "shape",
    [(3, 4), (300, 310), (310, 300), (300, 500), (500, 300), (2, 260, 400), (3, 7, 4), (0, 3)],
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


def errors(fast: Callable, plain: Callable, A: Tensor, dtype: torch.dtype) -> list[float]:
    """Of both in a format, the largest element off what the definition is in float64."""
    exact = plain(A, 5, QUINTIC)
    found = [f(A.to(dtype), 5, QUINTIC).double() for f in (fast, plain)]
    return [float((x - exact).abs().max()) for x in found]


@pytest.mark.parametrize("shape", [(128, 512), (300, 300)], ids=["long", "square"])
@pytest.mark.parametrize("name", spectra(2, 3))
def test_it_is_as_exact_as_the_definition(
    fast: Callable, plain: Callable, name: str, shape: tuple[int, int]
) -> None:
    """But for long matrices in float32, whose iterations are joined: some of the digits that bfloat16 has not."""
    A = spectra(*shape)[name]
    half = errors(fast, plain, A, torch.bfloat16)
    assert half[0] <= 3 * half[1]
    single = errors(fast, plain, A, torch.float32)
    assert single[0] <= (half[1] / 256 if shape[0] < shape[1] else 4 * single[1])


def test_joining_all_that_there_is_takes_more_digits(
    fast: Callable, plain: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So SPARE is what bounds the error: with less, iterations are not joined, and it is less."""
    A = spectra(128, 512)["to -3"]
    single = errors(fast, plain, A, torch.float32)
    assert single[0] > 3 * single[1]
    monkeypatch.setitem(fast.__globals__, "SPARE", 0)
    single = errors(fast, plain, A, torch.float32)
    assert single[0] <= 3 * single[1]


def test_an_early_coefficient_that_grows_more_joins_fewer(fast: Callable, plain: Callable) -> None:
    A, steep = spectra(128, 512)["to -3"], (8.2, -22.4, 15.8)
    exact = plain(A, 3, steep)
    found = fast(A.float(), 3, steep).double()
    assert (found - exact).abs().max() < 2**-8 * exact.abs().max()


@pytest.mark.parametrize("steps", [0, 12])
def test_any_number_of_iterations(fast: Callable, plain: Callable, steps: int) -> None:
    A = drawn(300, 500)
    torch.testing.assert_close(fast(A, steps, QUINTIC), plain(A, steps, QUINTIC), rtol=0, atol=1e-9)
    assert fast(A, steps, QUINTIC) is not A


@pytest.mark.parametrize("shape", [(3, 5), (300, 310), (300, 500), (2, 500, 300)])
def test_compiled_and_under_autocast(fast: Callable, plain: Callable, shape: tuple) -> None:
    A = drawn(*shape).float()
    expected = plain(A.double(), 5, QUINTIC)
    compiled = torch.compile(fast, backend="eager", fullgraph=True)
    assert (compiled(A, 5, QUINTIC) - expected).abs().max() < 1e-4
    with torch.autocast("cpu"):  # which multiplies in bfloat16
        half = fast(A, 5, QUINTIC)
    assert half.dtype == A.dtype and (half - expected).abs().max() < 0.1


def test_gradients_pass_through(fast: Callable, plain: Callable) -> None:
    found = []
    for f in (fast, plain):
        A = drawn(300, 500).requires_grad_()
        f(A, 2, QUINTIC).square().sum().backward()
        found.append(A.grad)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
