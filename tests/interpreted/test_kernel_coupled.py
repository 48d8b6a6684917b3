"""Coupled states, as momentum has them, with and without erasing, against the recurrence in float64."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from recurrences import Tensors, error, module, slopes
from torch import Tensor

MOST = 3e-5  # of float32 against float64
READS = ("read", "read_before", "turned_read", "turned_read_before")


def inputs(erase: bool, T: int, dk: int, dv: int, states: int = 2) -> Tensors:
    """A is any matrix, with signs and zeros, of which long products stay bounded."""
    torch.manual_seed(0)
    draw = lambda *shape: torch.randn(1, 2, *shape, dtype=torch.float64)  # noqa: E731
    given = {"X": draw(states, dv, dk), "A": 0.5 * draw(T, states, states)}
    given["A"] = given["A"] * (given["A"].abs() > 0.1)
    given |= {"k": F.normalize(draw(T, dk), dim=-1), "u": draw(T, states, dv)}
    if erase:
        given |= {"b": draw(T, states).sigmoid(), "p": F.normalize(draw(T, dk), dim=-1)}
    return given | {"q": draw(T, dk), "v": draw(T, dv)}


def expected(x: Tensors, source: int) -> Tensors:
    """States after the last token, and every read of each, token by token."""
    X, states = x["X"], x["X"].shape[-3]
    out: dict[str, list[Tensor]] = {f"{n} {s}": [] for n in READS for s in range(states)}
    for t in range(x["k"].shape[-2]):
        before, row = X, x["u"][..., t, :, :]
        if "b" in x:
            z = X[..., source, :, :] @ x["p"][..., t, :, None]
            row = row - x["b"][..., t, :, None] * z.mT
        X = torch.einsum("...sl,...lvk->...svk", x["A"][..., t, :, :], X)
        X = X + row[..., None] * x["k"][..., t, None, None, :]
        for s in range(states):
            for n in READS:
                Y = (before if n.endswith("before") else X)[..., s, :, :]
                turned = n.startswith("turned")
                read = Y.mT @ x["v"][..., t, :, None] if turned else Y @ x["q"][..., t, :, None]
                out[f"{n} {s}"].append(read.squeeze(-1))
    return {"end": X} | {n: torch.stack(each, -2) for n, each in out.items()}


def weights(kernels: ModuleType, x: Tensors) -> tuple[Tensor, Tensor]:
    """What of rows, each written to a state of its own, and of states before a chunk is in states."""
    states, T = x["X"].shape[-3], x["k"].shape[-2]
    w = torch.eye(states).expand(*x["A"].shape[:2], T, -1, -1)
    if "b" in x:
        w = torch.cat([w.expand(*x["b"].shape[:2], -1, -1, -1), -x["b"][..., None]], -1)
    return kernels.weighed(x["A"], w)


def found(folder: Path, x: Tensors, source: int) -> Tensors:
    scan = "coupled_delta_scan" if "b" in x else "coupled_scan"
    kernels = module(folder, [scan, "weighed", *(f"coupled_{n}" for n in READS)])
    args = [x["X"], *weights(kernels, x), *(x[n] for n in ("k", "u", "p") if n in x)]
    end, seen = getattr(kernels, scan)(*args, *([source] if "b" in x else []))
    out = {"end": end}
    for n in READS:
        first = x["v"] if n.startswith("turned") else x["q"]
        for s in range(x["X"].shape[-3]):
            out[f"{n} {s}"] = getattr(kernels, f"coupled_{n}")(first, s, *seen)
    return out


def check(x: Tensors, folder: Path, source: int = 0, most: float = MOST) -> None:
    """Values and slopes, none of them missing."""
    exact = {n: y.detach().requires_grad_() for n, y in x.items()}
    given = {n: y.detach().float().requires_grad_() for n, y in x.items()}
    right, got = expected(exact, source), found(folder, given, source)
    for n in right:
        assert got[n].shape == right[n].shape and error(got[n], right[n]) < most, n
    wanted, slope = slopes(right, exact), slopes(got, given)
    for n in wanted:
        assert error(slope[n], wanted[n]) < most * 5, f"slope by {n}"


@pytest.mark.parametrize("erase", (False, True))
@pytest.mark.parametrize("T", (1, 33, pytest.param(70, marks=pytest.mark.long)))
def test_of_any_length(T: int, erase: bool, tmp_path: Path) -> None:
    check(inputs(erase, T, 20, 9), tmp_path)


@pytest.mark.parametrize("erase", (False, True))
def test_long_keys_are_taken_in_parts(erase: bool, tmp_path: Path) -> None:
    check(inputs(erase, 20, 70, 80), tmp_path)


@pytest.mark.parametrize("erase", (False, True))
@pytest.mark.parametrize("states", (1, pytest.param(3, marks=pytest.mark.long)))
def test_of_any_number_of_states(states: int, erase: bool, tmp_path: Path) -> None:
    check(inputs(erase, 40, 16, 16, states), tmp_path, source=states - 1)


@pytest.mark.parametrize("when", ("", "_before"))
@pytest.mark.parametrize("erase", (False, True))
@pytest.mark.parametrize("T", (1, 5))
def test_a_token_and_its_read_in_one(T: int, erase: bool, when: str, tmp_path: Path) -> None:
    """One kernel, where no slopes are wanted; more tokens are a scan and a read."""
    x, source, state = inputs(erase, T, 20, 9), 1, 0
    name = f"coupled_{'delta_' * erase}scan_read{when}"
    kernels, launched = module(tmp_path, [name, "weighed"]), []
    launch = kernels.launch
    kernels.launch = lambda kernel, *rest, **kw: (
        launched.append(kernel.fn.__name__) or launch(kernel, *rest, **kw)
    )
    given = {n: y.float() for n, y in x.items()}
    args = [given["X"], *weights(kernels, given), *(given[n] for n in ("k", "u", "p") if n in x)]
    args += [*[source] * erase, given["q"], state]
    end, out = getattr(kernels, name)(*args)
    right = expected(x, source)
    assert error(end, right["end"]) < MOST and error(out, right[f"read{when} {state}"]) < MOST
    assert (launched == [f"{name}_step"]) is (T == 1)
    args[0].requires_grad_()
    launched.clear()
    getattr(kernels, name)(*args)
    assert f"{name}_step" not in launched
    forward, meaning = (getattr(kernels, f"{name}_{x}") for x in ("forward", "meaning"))
    of = dict(X="states dv dk", u="T given dv", kept="chunks states written C C")
    of |= dict(begun="chunks states states C", states=2, written=2 + erase, given=2, C=16)
    check = forward, meaning, torch.zeros(1, 2, 1, 16), 16, 1, False
    assert kernels.differs(*check, **of) == ""
    kernels.launch = lambda *_, **__: None
    assert kernels.differs(*check, **of) == f"the kernels of {name} are wrong"


def test_momentum_that_decays_below_what_it_moves(tmp_path: Path) -> None:
    """M_t = a M_{t-1} + e m_{t-1} + w, m_t = e m_{t-1} + w: a triangle of coefficients."""
    x = inputs(False, 70, 16, 16)
    x["A"] = x["A"].abs().clamp(max=1).triu()
    check(x, tmp_path)


def test_what_is_the_same_for_all_is_given_once(tmp_path: Path) -> None:
    x = inputs(True, 40, 16, 8)
    x["X"], x["A"] = x["X"][:, :1], x["A"][:, :1]
    x["b"] = x["b"][:, :1]
    check(x, tmp_path)
