"""What is tried, kept and used of configurations: in the interpreter, by clocks that say what they are told to."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
from recurrences import inputs, module, names
from torch import Tensor

import nlc
from nlc.backends.triton.texts import forms
from nlc.pipeline import Spec
from nlc.runtime import trials
from nlc.runtime import tune as tuning
from nlc.runtime.tune import Row, table, tune, wall

GPU = "some GPU"
SCAN = ("scan", 16, 16)
SIZES: dict[str, Any] = dict(hypers=dict(d=32, heads=2), dtype="bfloat16", tokens=16, batch=1)
DELTA = next(f for f in forms() if f.scan == "delta")
USUAL, FAST, WRONG = (16, 4, 2), (16, 2, 2), (16, 1, 2)


def told(launch: Callable[[], None], sizes: Mapping[str, Any]) -> Callable[[], float]:
    """A clock to which fewer warps are faster."""
    launch()
    return lambda: float(sizes["num_warps"])


def ends(launch: Callable[[], None], sizes: Mapping[str, Any]) -> Callable[[], float]:
    """A clock that one warp takes the process from."""
    if sizes["num_warps"] == 1:
        os._exit(7)
    return told(launch, sizes)


def leaves(launch: Callable[[], None], sizes: Mapping[str, Any]) -> Callable[[], float]:
    """A clock with which one warp ends the process as if all were done."""
    if sizes["num_warps"] == 1:
        os._exit(0)
    return told(launch, sizes)


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spec:
    """One of which one kind of kernel is tuned, with three candidates."""
    monkeypatch.setenv("NLC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(trials, "RUNS", 1)
    monkeypatch.setattr(tuning, "_targets", lambda *_: {SCAN: ("forward+backward", True)})
    monkeypatch.setattr(tuning, "candidates", lambda *_: [USUAL, WRONG, FAST])
    return nlc.load("gated_delta_net", operator=True)


def kept(folder: Path) -> Any:
    return json.loads((folder / "kernels" / "tuned.json").read_text())


def spoiled(kernels: ModuleType, output: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of a module that gives something else where it runs with one warp."""
    whole, bad = kernels.launch, getattr(kernels, kernel)

    def launch(kernel: Any, grid: tuple, args: list, dtype: torch.dtype, **sizes: Any) -> None:
        whole(kernel, grid, args, dtype, **sizes)
        if sizes["num_warps"] == 1 and getattr(kernel, "kernel", kernel) is bad:
            args[bad.arg_names.index(output)].mul_(2)

    monkeypatch.setattr(kernels, "launch", launch)


def test_the_fastest_that_is_right_is_kept_beside_what_is_there(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = sys.modules[spec.compile("triton").__module__]
    spoiled(kernels, "end", "gated_delta_rated_raw_scan", monkeypatch)
    path = tmp_path / "kernels" / "tuned.json"
    path.parent.mkdir()
    path.write_text('{"1.0": {"x": {"out 8 8": [16, 1, 1]}}}')
    said: list[str] = []
    (row,) = tune(spec, **SIZES, clock=told, spawn=False, progress=said.append)
    assert (row.before, row.after) == (USUAL, FAST)
    assert (row.seconds_before, row.seconds_after, row.tried) == (4, 2, 3)
    assert len(row.discarded) == 1 and "16/1/2: the kernels of " in row.discarded[0]
    assert kept(tmp_path) == {
        "1.0": {"x": {"out 8 8": [16, 1, 1]}},
        triton.__version__: {"cpu": {"scan 16 16": [16, 2, 2]}},
    }
    assert "16/4/2" in table([row]) and "left out, scan at dk = 16" in table([row])
    assert any(text.startswith("scan: 4 of 4") for text in said)
    assert (
        kernels.sizes_of("scan", 16, 16, 64, torch.bfloat16)["num_warps"] == 4
    )  # the module is as it was


def test_what_is_about_as_fast_changes_nothing() -> None:
    times: dict[Any, float | str] = {USUAL: 1.0, FAST: 0.99}
    assert tuning._row(SCAN, times).after == USUAL
    assert tuning._row(SCAN, times | {FAST: 0.9}).after == FAST
    assert tuning._row(SCAN, {USUAL: "wrong", FAST: 2.0}).after == FAST
    none = tuning._row(SCAN, {USUAL: "wrong"})
    assert (none.after, none.seconds_after) == (USUAL, None)


def test_where_nothing_runs_nothing_is_written(tmp_path: Path) -> None:
    tuning._keep(tmp_path / "tuned.json", GPU, [Row(*SCAN, USUAL, USUAL, None, None, 1, ())])
    assert json.loads((tmp_path / "tuned.json").read_text()) == {triton.__version__: {GPU: {}}}


@pytest.mark.long
@pytest.mark.parametrize(("clock", "how"), ((ends, "ended with 7"), (leaves, "ended")))
def test_a_candidate_that_ends_its_process_is_left_out(
    clock: trials.Clock, how: str, spec: Spec, tmp_path: Path
) -> None:
    (row,) = tune(spec, **SIZES, clock=clock)
    assert row.after == FAST and row.discarded == (f"16/1/2: its process {how}",)
    assert kept(tmp_path)[triton.__version__]["cpu"] == {"scan 16 16": [16, 2, 2]}


def test_what_does_not_fit_is_said_once(spec: Spec) -> None:
    with pytest.raises(trials.NotTunable, match="does not run at these sizes: ValueError: d = 33"):
        tune(spec, **SIZES | dict(hypers=dict(d=33, heads=2)), clock=wall)


def test_every_kind_of_a_spec_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With candidates around the table, what is in force first."""
    tried: list[trials.Job] = []
    monkeypatch.setenv("NLC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuning, "here", lambda job: tried.append(job) or ())
    monkeypatch.setattr(tuning, "_row", lambda *_: Row(*SCAN, USUAL, USUAL, None, None, 1, ()))
    hypers = dict(d=32, heads=2, dv=64)
    spec = nlc.load("gated_delta_net", operator=True)
    tune(spec, **SIZES | dict(hypers=hypers), clock=wall, spawn=False)
    work = {job.work[0][0]: [c for _, c in job.work] for job in tried}
    kinds = {"solve", "scan", "scan_read", "out", "scan_back", "out_back", "grads", "step"}
    assert {*work} == {(kind, 16, 64) for kind in kinds}
    assert [job.mode for job in tried if job.work[0][0][0] == "step"] == ["step"]
    assert work["solve", 16, 64] == [(16, 4, 1), (16, 2, 1), (16, 8, 1), (16, 4, 1)]
    scans = set(work["scan", 16, 64])
    assert {(32, 4, 2), (16, 4, 2), (64, 8, 2), (32, 4, 3), (32, 4, 1)} < scans
    assert work["scan", 16, 64][0] == work["scan", 16, 64][-1] == (32, 4, 2)
    assert all(b >= 16 and 1 <= w <= 8 for b, w, _ in scans)


def test_kernels_of_coupled_states_are_tuned_as_all_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under kinds of their own, each candidate checked with the states that the operator has."""
    monkeypatch.setenv("NLC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(trials, "RUNS", 1)
    monkeypatch.setattr(tuning, "candidates", lambda *_: [FAST])
    target, spec = ("coupled_scan", 16, 16), nlc.load("titans", operator=True)
    monkeypatch.setattr(tuning, "_targets", lambda *_: {target: ("forward+backward", True)})
    kernels = sys.modules[spec.compile("triton").__module__]
    spoiled(kernels, "end", "coupled_scan_chunks", monkeypatch)
    sizes = SIZES | dict(hypers=dict(d=16, heads=1, expand=1))
    (row,) = tune(spec, **sizes, clock=told, spawn=False)
    assert (row.after, row.discarded) == (FAST, ())
    monkeypatch.setattr(tuning, "candidates", lambda *_: [WRONG])
    (row,) = tune(spec, **sizes, clock=told, spawn=False)
    assert "16/1/2: the kernels of " in row.discarded[0]
    assert kept(tmp_path)[triton.__version__]["cpu"] == {"coupled_scan 16 16": [16, 2, 2]}


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Kernels of a scan that take this machine for one with a GPU."""
    made = module(tmp_path, names(DELTA))
    monkeypatch.setenv("NLC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: GPU)
    made.INTERPRETED, made.supported = False, lambda x: x.dtype
    return made


def write(folder: Path, text: str) -> Path:
    path = folder / "kernels" / "tuned.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def warps(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, tokens: int = 16) -> set[int]:
    """With how many the scan ran, its check included."""
    found, whole = set(), kernels.launch

    def launch(kernel: Any, *args: Any, **sizes: Any) -> None:
        if kernel in (kernels.delta_scan, kernels.delta_step):
            found.add(sizes["num_warps"])
        whole(kernel, *args, **sizes)

    x: dict[str, Tensor] = inputs(DELTA, tokens, 16, 16)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "launch", launch)
        kernels.delta(*(x[n].float() for n in ("S", "k", "u", "b")))
    return found


def test_what_was_tuned_is_used_at_the_next_launch(
    kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read then, once, not before; each configuration has a verdict of its own."""
    folder = tmp_path / "kernels"
    entry = lambda n: json.dumps({triton.__version__: {GPU: {"scan_float32 16 16": [16, n, 2]}}})  # noqa: E731
    write(tmp_path, entry(2))
    assert warps(kernels, monkeypatch) == {2}
    verdicts = {*folder.iterdir()}
    write(tmp_path, entry(8))
    assert warps(kernels, monkeypatch) == {2} and {*folder.iterdir()} == verdicts
    kernels.tuned.cache_clear(), kernels.VERDICTS.clear()  # as another process
    assert warps(kernels, monkeypatch) == {8} and {*folder.iterdir()} > verdicts
    kernels.tuned.cache_clear()
    write(tmp_path, "{}")
    assert warps(kernels, monkeypatch) == {4}


def test_nothing_is_read_where_kernels_are_interpreted(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels.INTERPRETED = True
    warps(kernels, monkeypatch)
    assert kernels.tuned.cache_info().misses == 0


@pytest.mark.parametrize(
    ("version", "gpu"), [("3.0.0", GPU), (triton.__version__, "another"), (None, "")]
)
def test_what_was_tuned_elsewhere_is_not_used(
    version: str | None, gpu: str, kernels: ModuleType, tmp_path: Path
) -> None:
    if version:
        write(tmp_path, json.dumps({version: {gpu: {"scan 16 16": [16, 2, 2]}}}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.configured(*SCAN) == (32, 4, 2)


@pytest.mark.parametrize(
    "text",
    (
        "{",
        "[]",
        '"x"',
        "\0",
        json.dumps({triton.__version__: {GPU: {"scan": [16, 2, 2]}}}),
        json.dumps({triton.__version__: {GPU: {"scan 16 16": [16, 2]}}}),
        json.dumps({triton.__version__: {GPU: {"scan 16 16": None}}}),
        json.dumps({triton.__version__: [GPU]}),
    ),
)
def test_a_file_that_cannot_be_read_is_said_once_and_not_used(
    text: str, kernels: ModuleType, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    with pytest.warns(UserWarning, match="is not used") as said:
        for _ in range(2):
            assert kernels.configured(*SCAN) == (32, 4, 2)
    assert len(said) == 1 and str(path) in str(said[0].message)


@pytest.mark.parametrize("config", ([16, 1, 2], [48, 2, 2]), ids=("wrong", "does not compile"))
def test_what_was_tuned_and_is_wrong_is_dropped(
    config: list[int], kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(kernels, "end", "delta_scan", monkeypatch)
    entry = {
        "scan_float32 16 16": config,
        "scan_float32 16 64": config,
        "scan_float32 32 32": config,
    }
    write(tmp_path, json.dumps({triton.__version__: {GPU: entry}}))
    x = inputs(DELTA, 16, 16, 64)
    given = [x[n].float() for n in ("S", "k", "u", "b")]
    with pytest.warns(UserWarning, match="tuned for dk = 16 and dv = 64 is not used: the kernels"):
        end, *_ = kernels.delta(*given)
    assert {*kernels.tuned()} == {("scan_float32", 16, 16), ("scan_float32", 32, 32)}
    kernels.INTERPRETED = True
    torch.testing.assert_close(end, kernels.delta(*given)[0])


def test_the_kernel_of_one_token_is_checked(
    kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(kernels, "end", "delta_step", monkeypatch)
    write(tmp_path, json.dumps({triton.__version__: {GPU: {"step 16 16": [16, 1, 1]}}}))
    with pytest.warns(UserWarning, match="is not used: the kernels of delta.* are wrong"):
        assert warps(kernels, monkeypatch, tokens=1) == {1, 4}
