"""Kernels of files that cut no packed sequences, and of those whose scans nothing reads on the way: they give what the
others give, to the last bit, of less that they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from recurrences import EPS, TESTED, Tensors, found, inputs, module, names, slopes
from torch import Tensor

from nlc.backends.triton.forms import KernelForm

LATER = pytest.mark.long
CHOSEN = ("additive_memory", "gated_delta_rated_unit", "gated_delta_at_rated_grouped")
FORMS = [pytest.param(f, marks=[LATER] * (f.scan not in CHOSEN), id=f.scan) for f in TESTED]
OTHERS = (
    "channel_delta_scan_decayed",
    "channel_delta_scan_grouped",
    "coupled_delta_scan_grouped",
    *(pytest.param(n, marks=LATER) for n in ("channel_scan", "coupled_scan")),
)
READS = ("read", "read_before", "turned_read", "turned_read_before")


def same(ways: Iterable[Callable[[Tensors], Tensors]], x: Tensors) -> None:
    """Values, and slopes by what they are made of, are equal."""
    results = []
    for way in ways:
        given = {n: y.detach().float().requires_grad_() for n, y in x.items()}
        out = way(given)
        results.append(out | {f"slope by {n}": y for n, y in slopes(out, given).items()})
    one, other = results
    assert one.keys() == other.keys()
    assert [n for n, y in one.items() if not torch.equal(y, other[n])] == []


def other_inputs(scan: str, T: int) -> Tensors:
    """Of a decay by channel, or of coupled states, two heads with keys of their own or the same."""
    torch.manual_seed(0)
    draw = lambda *shape: torch.randn(1, 2, *shape)  # noqa: E731
    keys = lambda one: F.normalize(draw(T, 20)[:, : 1 if one else 2], dim=-1)  # noqa: E731
    grouped, erase = scan.endswith("_grouped"), "delta" in scan
    if scan.startswith("coupled"):
        given = {"X": draw(2, 9, 20), "A": 0.5 * draw(T, 2, 2), "w": draw(T, 2, 1 + erase)}
        given |= {"k": keys(grouped), "u": draw(T, 1, 9)}
        return given | ({"p": keys(grouped)} if erase else {})
    given = {"S": draw(9, 20), "k": keys(grouped), "u": draw(T, 9)}
    given |= {"b": draw(T).sigmoid()} if erase else {}
    given["log_a"] = -torch.rand(1, 2, T, 20)
    return given | ({"p": keys(False)} if erase else {})


def scanned(kernels: ModuleType, scan: str, x: Tensors) -> tuple:
    """What a scan returns, and what its reads take last."""
    call = getattr(kernels, scan)
    if scan.startswith("channel"):
        return call(*x.values()), [x["log_a"]]
    weights = kernels.weighed(x["A"], x["w"])
    return call(x["X"], *weights, *(x[n] for n in ("k", "u", "p") if n in x), *[0] * ("p" in x)), []


def read(kernels: ModuleType, scan: str, x: Tensors) -> Tensors:
    """What it ends with, and what every read of it gives."""
    (end, *kept), more = scanned(kernels, scan, x)
    out, kind = {"end": end}, scan.partition("_")[0]
    for n in READS:
        first = x["u"].reshape(1, 2, -1, 9) if n.startswith("turned") else x["k"]
        name = f"{kind}_{n}{'_grouped' * scan.endswith('_grouped')}"
        if not hasattr(kernels, name):  # a transpose is read with all heads
            continue
        given = [0, *kept[0]] if kind == "coupled" else [x["k"], *kept, *more]
        out[n] = getattr(kernels, name)(first, *given)
    return out


def needed(scan: str) -> list[str]:
    kind, grouped = scan.partition("_")[0], scan.endswith("_grouped")
    reads = [n for n in READS if not (grouped and n.startswith("turned"))]
    own = [f"{kind}_{n}{'_grouped' * grouped}" for n in reads]
    return [scan, *own, *["weighed"] * (kind == "coupled")]


@pytest.mark.parametrize("T", (1, 40))
@pytest.mark.parametrize("form", FORMS)
def test_kernels_that_cut_nothing(form: KernelForm, T: int, tmp_path: Path) -> None:
    ways = [module(tmp_path, names(form), cut=cut) for cut in (True, False)]
    assert [hasattr(kernels, "Packing") for kernels in ways] == [True, False]
    same([lambda x, k=k: found(k, form, x) for k in ways], inputs(form, T, 20, 9))


@pytest.mark.parametrize("form", [f for f in FORMS if not f.values[0].probe or f.marks])
def test_scans_with_their_reads_that_cut_nothing(form: KernelForm, tmp_path: Path) -> None:
    """As one kernel, where no slopes are wanted."""
    x = {n: y.float() for n, y in inputs(form, 40, 20, 9).items() if n != "v"}
    more, results = [EPS] * form.unit, []
    for cut in (True, False):
        kernels = module(tmp_path, [form.fused(w) for w in ("after", "before")], cut=cut)
        kernels.in_one = lambda *_: True
        calls = [getattr(kernels, form.fused(when)) for when in ("after", "before")]
        order = [n for n in ("S", "k", "u", "b", "log_a", "w", "p", "q") if n in x]
        results.append([y for call in calls for y in call(*(x[n] for n in order), *more)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("T", (1, 40))
@pytest.mark.parametrize("scan", OTHERS)
def test_other_kernels_that_cut_nothing(scan: str, T: int, tmp_path: Path) -> None:
    ways = [module(tmp_path, needed(scan), cut=cut) for cut in (True, False)]
    same([lambda x, k=k: read(k, scan, x) for k in ways], other_inputs(scan, T))


def ends(kernels: ModuleType, form: KernelForm, x: Tensors) -> Tensors:
    args = [x[n] for n in ("S", "k", "u", "b", "log_a", "w", "p") if n in x]
    end = getattr(kernels, form.scan)(*args, *[EPS] * form.unit)
    return {"end": end if isinstance(end, Tensor) else end[0]}


def other_ends(kernels: ModuleType, scan: str, x: Tensors) -> Tensors:
    end, _ = scanned(kernels, scan, x)
    return {"end": end if isinstance(end, Tensor) else end[0]}


@pytest.mark.parametrize("T", (1, 40))
@pytest.mark.parametrize("form", FORMS)
def test_scans_that_nothing_reads(form: KernelForm, T: int, tmp_path: Path) -> None:
    """Slopes come from the last state alone; those that are not there were zeros."""
    ways = [module(tmp_path, [form.scan], cut=seen, seen=seen) for seen in (True, False)]
    x = {n: y for n, y in inputs(form, T, 20, 9).items() if n not in ("q", "v")}
    same([lambda x, k=k: ends(k, form, x) for k in ways], x)


@pytest.mark.parametrize("T", (1, 40))
@pytest.mark.parametrize("scan", OTHERS)
def test_other_scans_that_nothing_reads(scan: str, T: int, tmp_path: Path) -> None:
    own = [scan, *["weighed"] * scan.startswith("coupled")]
    ways = [module(tmp_path, own, cut=seen, seen=seen) for seen in (True, False)]
    same([lambda x, k=k: other_ends(k, scan, x) for k in ways], other_inputs(scan, T))


@pytest.mark.parametrize(
    "scan",
    ("gated_delta_rated", "coupled_delta_scan", pytest.param("channel_delta_scan", marks=LATER)),
)
def test_a_first_launch_checks_scans_that_nothing_reads(scan: str, tmp_path: Path) -> None:
    """Right kernels, and those of a way back that do nothing."""
    kernels = module(tmp_path, [scan, "weighed"], cut=False, seen=False)
    whole, asked, idle = kernels.launch, [], []
    kernels.checked = lambda *given, **axes: asked.append((given, axes))
    form = next((f for f in TESTED if f.scan == scan), None)
    if form is not None:
        ends(kernels, form, {n: y.float() for n, y in inputs(form, 40, 16, 16).items()})
    else:
        scanned(kernels, scan, other_inputs(scan, 40))
    (forward, meaning, k, dv, T), axes = asked[-1]
    kernels.launch = lambda kernel, *rest, **kw: kernel in idle or whole(kernel, *rest, **kw)
    given = forward, meaning, k.detach(), dv, min(T, 32)
    assert kernels.differs(*given, **axes) == ""
    idle.append(getattr(kernels, f"{scan}{'_scan_back' if form else '_back'}"))
    assert scan in kernels.differs(*given, **axes)


class NoSlope(torch.autograd.Function):
    """What is computed on, whose slope is None."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> None:
        return None


@pytest.mark.parametrize("seen", (False, True))
@pytest.mark.parametrize(
    "scan", ("gated_delta_rated", "additive_memory", "coupled_delta_scan", "channel_scan")
)
def test_where_a_last_state_has_no_slope(scan: str, seen: bool, tmp_path: Path) -> None:
    """What a user's own function leaves out is 0, whether others read states on the way or not."""
    kernels = module(tmp_path, [scan, "weighed"], cut=False, seen=seen)
    form = next((f for f in TESTED if f.scan == scan), None)
    x = inputs(form, 40, 20, 9) if form else other_inputs(scan, 40)
    x = {n: y.float().requires_grad_() for n, y in x.items() if n not in ("q", "v")}
    end = (ends(kernels, form, x) if form else other_ends(kernels, scan, x))["end"]
    slopes = torch.autograd.grad(NoSlope.apply(end).sum(), list(x.values()), allow_unused=True)
    assert [n for n, y in zip(x, slopes, strict=True) if y is not None and y.any()] == []
