"""The benchmark of kernels: without a GPU, of tiny shapes in the interpreter, and with a side that crashes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_benchmarks import ROOT, _run

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
CRASHES = """
import json, os, sys
for asked in sys.argv[1:]:
    name, _, without = asked.partition(":")
    if asked.startswith("linear"):
        for side in ("triton", "fla", "torch"):
            if side not in without.split(","):
                print(json.dumps({"at": side}), flush=True)
                if side == "fla":
                    print("an illegal access", file=sys.stderr, flush=True)
                    os.abort()
        print(json.dumps({"result": {"sides": {x: x for x in ("triton", "torch")}}}), flush=True)
"""


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import kernels

    return kernels


def _rows(text: str) -> list[list[str]]:
    lines = [x for x in text.splitlines() if x.startswith("|")]
    return [[c.strip() for c in line.split("|")[1:-1]] for line in lines[2:]]


@NO_GPU
def test_without_a_gpu_every_figure_is_missing(tmp_path: Path, kernels: Any) -> None:
    file = tmp_path / "made" / "kernels.md"
    made = _run("kernels.py", "--out", str(file))
    assert made.returncode == 0, made.stderr
    assert file.read_text(encoding="utf-8").strip() == made.stdout.strip()
    rows = _rows(made.stdout)
    assert len(rows) == len(kernels.rows_of(quick=False, sweep="one"))
    for row in rows:
        assert row[3:9] == [kernels.NONE] * 4 + ["", ""]
    assert {"forward", "forward+backward", "step"} < {row[2] for row in rows}
    assert re.search(r"torch \S+, nlc .*commit \w+.*Triton \d.*driver none", made.stdout)


@NO_GPU
def test_quick_measures_in_the_interpreter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernels: Any
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    file = tmp_path / "kernels.md"
    made = _run("kernels.py", "--quick", "--rounds", "2", "--only", "linear", "--out", str(file))
    assert made.returncode == 0, made.stderr
    rows = _rows(file.read_text(encoding="utf-8"))
    for _, shape, mode, ours, fla, torch_, floor, *ratios, _ in rows[:3]:
        assert shape == "B 2, H 2, T 80, n 16" and fla == floor == kernels.NONE
        for side in (ours, torch_):
            assert re.match(r"[\d,.]+ ms ± \d+%", side)
            assert ("backward" in side) == (mode == "forward+backward")
        assert ratios[0] == "" and re.fullmatch(r"\d+\.\d\d", ratios[1])
    assert len(rows) == 4 and rows[3][3:6] == [kernels.NONE] * 3


def test_a_crash_costs_one_side_of_a_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernels: Any
) -> None:
    script = tmp_path / "crashes.py"
    script.write_text(CRASHES)
    monkeypatch.setattr(kernels, "__file__", str(script))
    rows = kernels.rows_of(quick=True, sweep="one", only=["linear"])[:2]
    found = dict(kernels.results(rows, []))
    lost = {"triton": "triton", "fla": "an illegal access", "torch": "torch"}
    assert found == {row: {"sides": lost} for row in rows}


SILENT = """
import json, sys, time
_, _, without = sys.argv[2].partition(":")
if "AT" and "AT" not in without.split(","):
    print(json.dumps({"at": "AT"}), flush=True)
if without != "AT" or not "AT":
    time.sleep(60)
print(json.dumps({"result": {"sides": {}}}), flush=True)
"""


@pytest.mark.parametrize(("at", "lost"), (("fla", {"fla"}), ("", {"triton", "fla", "torch"})))
def test_silence_is_no_patience(
    at: str, lost: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernels: Any
) -> None:
    """A side that hangs is lost as one that crashes; so are all where nothing even starts."""
    script = tmp_path / "silent.py"
    script.write_text(SILENT.replace("AT", at))
    monkeypatch.setattr(kernels, "__file__", str(script))
    row = kernels.rows_of(quick=True, sweep="one", only=["linear"])[0]
    ((_, found),) = kernels.results([row], [], limit=1)
    assert {x for x, said in found["sides"].items() if "without a word" in said} == lost


def test_what_is_timed_is_compiled_before(monkeypatch: pytest.MonkeyPatch, kernels: Any) -> None:
    """Gradients and steps of each rule and width, once by our side and once by fla's where it has the rule."""
    asked: list[tuple[Any, set[str]]] = []

    def results(rows: Any, words: Any, limit: float, without: Any) -> list[Any]:
        assert words[-2:] == ["--rounds", "0"]
        asked.extend((row, {"triton", "fla", "torch"} - {*without}) for row in rows)
        return []

    monkeypatch.setattr(kernels, "results", results)
    rows = kernels.rows_of(quick=False, sweep="one")
    kernels.warmed(rows, [])
    wanted = {(x.rule, x.n, x.mode) for x in rows if x.mode in ("forward+backward", "step")}
    for side, rules in (
        ("triton", kernels.RULES),
        ("fla", {n for n, r in kernels.RULES.items() if r.fla}),
    ):
        found = [(x.rule, x.n, x.mode) for x, of in asked if side in of]
        assert sorted(found) == sorted(x for x in wanted if x[0] in rules)


def test_wrong_gradients_are_said_and_missed(monkeypatch: pytest.MonkeyPatch, kernels: Any) -> None:
    row = kernels.Row("linear", 2, 2, 16, 8, "forward+backward")
    assert kernels.wrong("torch", row) == ""
    right = kernels._errors
    monkeypatch.setattr(kernels, "_errors", lambda *x: right(*x) | {"dk": float("nan")})
    text = kernels.wrong("torch", row)
    assert text.startswith("wrong: dk is nan off")
    assert kernels.missed({"triton": text}) and not kernels.missed({"triton": kernels.NONE})
    times = {"triton": dict(seconds=2.0, backward=None), "fla": dict(seconds=1.0, backward=None)}
    assert kernels.missed(times)
    from kernel_table import verdict

    assert "missed" in verdict(row, times)


LAUNCHES = {"step": "1", "forward": "2", "forward+backward": "5"}  # of linear attention


@pytest.mark.parametrize("modes", (["step"], pytest.param([*LAUNCHES], marks=pytest.mark.long)))
def test_launches_are_counted_and_timed_without_running_any(
    modes: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "launches.md"
    asked = [word for mode in modes for word in ("--mode", mode)]
    made = _run("launches.py", "--rounds", "1", "--only", "linear", *asked, "--out", str(file))
    assert made.returncode == 0, made.stderr
    assert file.read_text(encoding="utf-8").strip() == made.stdout.strip()
    rows = _rows(made.stdout)
    found = {mode: launches for _, mode, _, launches, *_ in rows}
    assert found == {mode: LAUNCHES[mode] for mode in modes}
    assert all(re.fullmatch(r"[\d,]+ µs ± \d+%", row[2]) for row in rows)
