"""Every form of a scan and of a read, forward and backward, against the recurrence in float64."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from recurrences import TESTED, error, expected, found, inputs, module, names, slopes

from nlc.backends.triton.forms import MOST_KEYS, KernelForm, chunk

FORMS = {f.scan: f for f in TESTED}
FULL = KernelForm("scalar", True, True, rate=True)
MOST = 3e-5  # of float32 against float64
HALF = {torch.bfloat16: 0.02, torch.float16: 0.005}


@pytest.mark.parametrize("name", FORMS)
def test_a_scan_and_its_slopes_are_the_recurrence(name: str, tmp_path: Path) -> None:
    f = FORMS[name]
    compare(f, tmp_path, T=70, dk=20, dv=9)


@pytest.mark.parametrize("T", (1, 2, 16, 17, 63, 64, 65, 150))
def test_of_any_length(T: int, tmp_path: Path) -> None:
    compare(FULL, tmp_path, T=T, dk=16, dv=16)


@pytest.mark.parametrize("name", FORMS)
def test_one_token_is_a_step(name: str, tmp_path: Path) -> None:
    compare(FORMS[name], tmp_path, T=1, dk=20, dv=40)


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("dk", "dv"), ((3, 5), (33, 16), (16, 100), (130, 20), pytest.param(250, 190, marks=LONG))
)
def test_of_any_width(dk: int, dv: int, tmp_path: Path) -> None:
    compare(FULL, tmp_path, T=40, dk=dk, dv=dv)


PARTED = "additive_memory_unit", "delta_unit", "gated_delta_rated_unit_grouped"


@pytest.mark.parametrize(
    "name", [n if n in PARTED else pytest.param(n, marks=LONG) for n in FORMS if n != FULL.scan]
)
def test_long_keys_are_taken_in_parts(name: str, tmp_path: Path) -> None:
    """The last of three parts is no whole one."""
    compare(FORMS[name], tmp_path, T=20, dk=150, dv=20)


@pytest.mark.parametrize("chunk", (16, 32))
def test_of_the_chunks_that_are_asked_for(chunk: int, tmp_path: Path) -> None:
    compare(FULL, tmp_path, T=70, dk=16, dv=16, chunk=chunk)


def test_what_is_the_same_for_all_is_given_once(tmp_path: Path) -> None:
    """Axes in front broadcast: one start for all sequences, keys of two memories, one gate for all heads."""
    x = inputs(FULL, 40, 16, 8, lead=(2, 3, 2))
    x["S"], x["k"], x["b"] = x["S"][:, :1], x["k"][:1], x["b"][..., :1, :]
    check(FULL, x, tmp_path)


@pytest.mark.parametrize(("decay", "most"), ((0.0, MOST), (-30.0, 1e-3)))
def test_where_nothing_and_where_all_is_forgotten(
    decay: float, most: float, tmp_path: Path
) -> None:
    """Sums of -30 a token reach -1,800 in a chunk, of which float32 resolves 1e-4."""
    x = inputs(FULL, 40, 16, 16)
    x["log_a"] = torch.full_like(x["log_a"], decay)
    check(FULL, x, tmp_path, most=most)


def test_where_keys_are_alike_and_erased(tmp_path: Path) -> None:
    """The inverse is found by substitution; a series would have to cancel numbers that grow with the chunk."""
    x = inputs(FORMS["delta"], 130, 16, 16)
    k = x["k"][..., :1, :] + 0.3 * x["k"]
    x["k"], x["b"] = k / k.norm(dim=-1, keepdim=True), torch.full_like(x["b"], 0.95)
    check(FORMS["delta"], x, tmp_path)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_comes_in_and_goes_out(dtype: torch.dtype, tmp_path: Path) -> None:
    x = {n: y.to(dtype).double() for n, y in inputs(FULL, 40, 16, 16).items()}
    check(FULL, x, tmp_path, dtype=dtype, most=HALF[dtype])


def test_float64_and_a_missing_gpu_are_refused(tmp_path: Path) -> None:
    kernels, x = module(tmp_path, names(FORMS["delta"])), inputs(FORMS["delta"], 4, 16, 16)
    given = [x[n] for n in ("S", "k", "u", "b")]
    with pytest.raises(TypeError, match=r"float32, bfloat16 and float16, not torch\.float64"):
        kernels.delta(*given)
    kernels.INTERPRETED = False
    with pytest.raises(TypeError, match="need a GPU, not cpu; the backend `torch` does not"):
        kernels.delta(*(y.float() for y in given))


def compare(
    f: KernelForm, folder: Path, *, T: int, dk: int, dv: int, chunk: int | None = None
) -> None:
    check(f, inputs(f, T, dk, dv), folder, chunk=chunk)


def check(
    f: KernelForm,
    x: dict[str, torch.Tensor],
    folder: Path,
    *,
    chunk: int | None = None,
    dtype: torch.dtype = torch.float32,
    most: float = MOST,
) -> None:
    """Values and slopes, none of them missing."""
    exact = {n: y.detach().requires_grad_() for n, y in x.items()}
    narrow = ("k", "u", "p", "q", "v")
    given = {
        n: y.detach().to(dtype if n in narrow else torch.float32).requires_grad_()
        for n, y in x.items()
    }
    right, got = expected(f, exact), found(module(folder, names(f), chunk), f, given)
    assert {n: y.shape for n, y in got.items()} == {n: y.shape for n, y in right.items()}
    for n in right:
        assert error(got[n], right[n]) < most, n
    wanted, slope = slopes(right, exact), slopes(got, given)
    for n in wanted:
        assert error(slope[n], wanted[n]) < most * 5, f"slope by {n}"


@pytest.mark.parametrize("size", ((9, 16), (16, 9), (8, 16)))
def test_a_state_of_another_size_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    """A kernel would read and write beside it."""
    kernels, x = module(tmp_path, names(FORMS["delta"])), inputs(FORMS["delta"], 4, 16, 16)
    given = [x[n].float() for n in ("k", "u", "b")]
    with pytest.raises(ValueError, match=r"the state must be \[\.\.\., 16, 16\], not"):
        kernels.delta(torch.zeros(1, 2, *size), *given)


def test_chunks_are_as_long_as_is_said(tmp_path: Path) -> None:
    """`nlc explain` does not import Triton, and a generated file does not import nlc."""
    kernels = module(tmp_path, ["chunk_of", "coupled_chunk", "supported", "OPERATORS"])
    for dk, dv, tokens in product((16, 128, 130, 256), (16, 200), (1, 16, 17, 33, 500)):
        for dtype in (torch.bfloat16, torch.float32):
            said = chunk("scalar", dk, dv, tokens, half=dtype != torch.float32)
            assert kernels.chunk_of(dk, dv, tokens, dtype) == said
        assert kernels.coupled_chunk(tokens) == chunk("coupled", dk, dv, tokens)
    with pytest.raises(ValueError, match=f"keys of {MOST_KEYS} channels at most"):
        kernels.supported(torch.zeros(1, MOST_KEYS + 1))
