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
