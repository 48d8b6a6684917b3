"""The study of optimizers on digits: grids that grow, an honest ranking, and a page with a picture at the end."""

from __future__ import annotations

import math
from pathlib import Path

import digits
import digits_runs
import pytest
import torch
from click.testing import CliRunner
from digits_runs import CONTENDERS, QUICK, Data, Row, Run, search

import nlc


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are drawn here stand in for scikit-learn's."""
    noise = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 10
    x = torch.rand(10, 64, generator=noise)[y] + 0.3 * torch.rand(120, 64, generator=noise)
    monkeypatch.setattr(digits_runs.Data, "load", lambda: Data(x[:100], y[:100], x[100:], y[100:]))


def row(quarter: int, *reached: float, test: float = 1.0, ms: float = 1.0) -> Row:
    runs = tuple(Run(0.1, test, 0.9, steps, ms, (1.0,) * 20) for steps in reached)
    return Row(quarter, runs)


@pytest.mark.parametrize("best, start", [(-9, range(-4, 0)), (5, range(-4, 0)), (-2, range(-4, 0))])
def test_a_grid_grows_until_its_best_is_inside(best: int, start: range) -> None:
    asked: list[int] = []

    def measure(quarter: int) -> Row:
        asked.append(quarter)
        return row(quarter, 10 + abs(quarter - best), test=abs(quarter - 1))

    rows = search(measure, start, grow=8)
    assert len(asked) == len(set(asked)) and [r.quarter for r in rows] == sorted(asked)
    for quarter in (best, 1):  # of the fewest steps, of the least test loss
        assert rows[0].quarter < quarter < rows[-1].quarter


def test_a_best_that_stays_at_the_edge_is_said() -> None:
    rows = search(lambda q: row(q, 1000 - q), range(3), grow=2, wanted=["reached"])
    assert [r.quarter for r in rows] == [0, 1, 2, 3, 4]
    assert digits.rate_said(rows[-1], rows).endswith("(edge)")
    said = digits.grids_said(digits_runs.Measured({"a": rows}, {}, {}))
    assert said.startswith("At the edge of its grid is the best rate of a (plain, 10)")


def test_a_ranking_counts_seeds_and_time() -> None:
    results = {
        "slow": [row(0, 50, 60, 70), row(1, 20, 30, math.inf)],
        "fast": [row(0, 40, 65, 60, ms=9.0), row(1, 80, 80, 80, ms=9.0)],
    }
    head, first, second = digits.ranking(results)
    told = dict(zip(head, first, strict=True))
    assert (told["optimizer"], told["steps to target"]) == ("fast", "55 (40–65)")
    assert told["sooner than the next"] == "2 of 3 seeds"
    assert (told["CPU s to target"], told["by time"]) == ("0.49", 2)
    assert second[:4] == [2, "slow", "1 (edge)"[:1] + " (edge)", "60 (50–70)"]


def test_hidden_matrices_are_the_contender_s_and_adamw_has_the_rest() -> None:
    net = digits_runs.network(8)
    opt = CONTENDERS["Muon"].made(net, 0.1)
    trained = {g["route"]: (g["lr"], g["param_names"]) for g in opt.param_groups}
    rest = ["0.bias", "2.bias", "4.weight", "4.bias"]
    assert trained == {"muon": (0.1, ["0.weight", "2.weight"]), "adamw": (digits_runs.REST, rest)}
    assert isinstance(CONTENDERS["AdamW"].made(net, 0.1).parts[0].optimizer, nlc.compile("adamw"))


def test_a_short_study_writes_a_page_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "version", lambda _: "0")
    line = f"--quick --workers 1 --grow 0 --seeds 1 --only AdamW --only M3 --out {tmp_path}"
    result = CliRunner().invoke(digits.main, line.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "digits.md").read_text()
    every = page.partition("## At every rate")[2].strip().splitlines()[2:]
    assert len(every) == sum(len(CONTENDERS[n].quarters) for n in ("AdamW", "M3"))
    assert "12 steps of batch 16" in page and QUICK.steps == 12
    assert "![](digits.svg)" in page and (tmp_path / "digits.svg").stat().st_size > 1000
