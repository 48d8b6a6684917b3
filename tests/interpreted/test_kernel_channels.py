"""Decay by channel, with and without erasing, against the recurrence in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from recurrences import Tensors, error, module, slopes
from torch import Tensor

MOST = 3e-5  # of float32 against float64
READS = ("read", "read_before", "turned_read", "turned_read_before")
PLAIN, ERASED, AFTER = "channel_scan", "channel_delta_scan", "channel_delta_scan_decayed"
SCANS = (pytest.param(PLAIN, marks=pytest.mark.long), ERASED, AFTER)
STRENGTHS = {"none": 0.0, "strong": -30.0}  # and -1, which all others have


def inputs(scan: str, T: int, dk: int, dv: int, strength: float = -1.0) -> Tensors:
    erase = scan != PLAIN
    torch.manual_seed(0)
    draw = lambda *shape: torch.randn(1, 2, *shape, dtype=torch.float64)  # noqa: E731
    given = {"S": draw(dv, dk), "k": F.normalize(draw(T, dk), dim=-1), "u": draw(T, dv)}
    given |= {"b": draw(T).sigmoid()} if erase else {}
    given["log_a"] = strength * torch.rand(1, 2, T, dk, dtype=torch.float64)
    given |= {"p": F.normalize(draw(T, dk), dim=-1)} if erase else {}
    return given | {"q": draw(T, dk), "v": draw(T, dv)}


def expected(scan: str, x: Tensors) -> Tensors:
    """S after the last token, and every read, token by token."""
    S, out = x["S"], {n: [] for n in READS}
    q, v = (x[n][..., None] for n in ("q", "v"))
    for t in range(x["k"].shape[-2]):
        before = S
        row, kept = x["u"][..., t, :], x["log_a"][..., t, None, :].exp() * S
        if scan != PLAIN:
            answer = (kept if scan == AFTER else S) @ x["p"][..., t, :, None]
            row = row - x["b"][..., t, None] * answer.squeeze(-1)
        S = kept + row[..., None] * x["k"][..., t, None, :]
        for name in READS:
            X = before if name.endswith("before") else S
            read = X.mT @ v[..., t, :, :] if name.startswith("turned") else X @ q[..., t, :, :]
            out[name].append(read.squeeze(-1))
    return {"end": S} | {n: torch.stack(each, -2) for n, each in out.items()}


def found(scan: str, folder: Path, x: Tensors) -> Tensors:
    kernels = module(folder, [scan, *(f"channel_{n}" for n in READS)])
    args = [x[n] for n in ("S", "k", "u", "b", "log_a", "p") if n in x]
    end, rows, starts = getattr(kernels, scan)(*args)

    def read(name: str) -> Tensor:
        first = x["v"] if name.startswith("turned") else x["q"]
        return getattr(kernels, f"channel_{name}")(first, x["k"], rows, starts, x["log_a"])

    return {"end": end} | {n: read(n) for n in READS}


def check(
    scan: str, x: Tensors, folder: Path, dtype: torch.dtype = torch.float32, most: float = MOST
) -> None:
    """Values and slopes, none of them missing."""
    exact = {n: y.detach().requires_grad_() for n, y in x.items()}
    wide = ("S", "b", "log_a")
    given = {
        n: y.detach().to(torch.float32 if n in wide else dtype).requires_grad_()
        for n, y in x.items()
    }
    right, got = expected(scan, exact), found(scan, folder, given)
    for n in right:
        assert got[n].shape == right[n].shape and error(got[n], right[n]) < most, n
    wanted, slope = slopes(right, exact), slopes(got, given)
    for n in wanted:
        assert error(slope[n], wanted[n]) < most * 5, f"slope by {n}"


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("T", (1, 65, pytest.param(100, marks=pytest.mark.long)))
def test_of_any_length(T: int, scan: str, tmp_path: Path) -> None:
    check(scan, inputs(scan, T, 20, 9), tmp_path)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_of_any_strength(strength: str, scan: str, tmp_path: Path) -> None:
    """Logs are summed between two tokens, so that strong decays stay exact."""
    check(scan, inputs(scan, 70, 16, 16, STRENGTHS[strength]), tmp_path)


@pytest.mark.parametrize("scan", [SCANS[0], ERASED, pytest.param(AFTER, marks=pytest.mark.long)])
def test_rows_too_long_for_whole_chunks(scan: str, tmp_path: Path) -> None:
    check(scan, inputs(scan, 33, 130, 16), tmp_path)


@pytest.mark.parametrize("when", ("", "_before"))
@pytest.mark.parametrize("scan", (PLAIN, ERASED, AFTER))
@pytest.mark.parametrize(
    ("T", "dk"), ((70, 20), (1, 20), pytest.param(40, 130, marks=pytest.mark.long))
)
def test_a_scan_and_its_read_in_one(scan: str, when: str, T: int, dk: int, tmp_path: Path) -> None:
    x = inputs(scan, T, dk, 9)
    name = f"{scan}_read{when}"
    kernels, launched = module(tmp_path, [name]), []
    kernels.in_one = lambda *_: True
    launch = kernels.launch
    kernels.launch = lambda kernel, *rest, **kw: (
        launched.append(kernel.fn.__name__) or launch(kernel, *rest, **kw)
    )
    args = [x[n].float() for n in ("S", "k", "u", "b", "log_a", "p", "q") if n in x]
    end, out = getattr(kernels, name)(*args)
    right = expected(scan, x)
    assert launched[-1] == f"{name}_{'chunks' if T > 1 else 'step'}"
    assert T > 1 or len(launched) == 1
    assert error(end, right["end"]) < MOST and error(out, right[f"read{when}"]) < MOST
    forward, meaning = (getattr(kernels, f"{name}_{x}") for x in ("forward", "meaning"))
    given = torch.zeros(1, 2, 20, 16), 16, min(T, 16)
    assert kernels.differs(forward, meaning, *given, log_a="T dk") == ""


def test_half_precision(tmp_path: Path) -> None:
    x = {n: y.bfloat16().double() for n, y in inputs(AFTER, 40, 16, 16).items()}
    check(AFTER, x, tmp_path, torch.bfloat16, 0.03)


def test_what_is_the_same_for_all_is_given_once(tmp_path: Path) -> None:
    x = inputs(AFTER, 40, 16, 8)
    x["S"], x["log_a"] = x["S"][:, :1], x["log_a"][:, :1]
    check(AFTER, x, tmp_path)
