"""The study of memories of gradients: its landscape, its runs, its shares, its pages."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import gradient_memories as study
import pytest
import torch
from click.testing import CliRunner

RESULTS = Path(__file__).parent.parent / "examples" / "results" / "gradient_memories"
KEPT = (RESULTS / "gradient_memories.md").read_text(encoding="utf-8")


def test_momentum_goes_down_the_landscape_as_it_is_written() -> None:
    plan, lr = replace(study.FULL, steps=40), 0.01
    run = study.descend("momentum", lr, plan, 4.0)
    (r, theta), m = study.START, [0.0, 0.0]
    for step in range(41):
        gap = r - theta + math.sin(2 * r)
        assert run.losses[step] == pytest.approx(r * r + 4 * gap * gap, rel=1e-10)
        slopes = (2 * r + 8 * gap * (1 + 2 * math.cos(2 * r)), -8 * gap)
        m = [0.9 * a + s for a, s in zip(m, slopes)]
        r, theta = r - lr * m[0], theta - lr * m[1]


def test_a_run_that_leaves_ends_at_infinity_and_never_arrives() -> None:
    run = study.descend("sgd", 10.0, study.FULL, 4.0)
    assert run.losses[-1] == math.inf and len(run.losses) == study.FULL.steps + 1
    assert run.arrived is None and study.best([run]) is run
    down = replace(run, losses=(1.0, 1e-4, 1.0, 1e-4, 1e-5))
    assert down.arrived == 3 and study.best([run, down]) is down


@pytest.mark.parametrize("beta", [0.8, 0.9])
def test_the_share_of_a_gradient_falls_by_beta_a_step(beta: float) -> None:
    parts = torch.tensor(study.shares("momentum", {"beta": beta}, "m", 300))
    expected = (1 - beta) * beta ** torch.arange(300.0)
    torch.testing.assert_close(parts, expected, rtol=1e-5, atol=1e-12)


def test_half_of_a_momentum_is_in_seven_gradients() -> None:
    """The paper says 6 and 43, which hold 47 % and 98.9 %."""
    parts = study.shares("momentum", {"beta": 0.9}, "m", 300)
    assert (study.needed(parts, 0.5), study.needed(parts, 0.99)) == (7, 44)
    assert f"{sum(parts[:6]):.1%} | 7 | {sum(parts[:43]):.1%} | 44 |" in KEPT


def test_a_slow_memory_holds_the_gradients_of_a_period_alike() -> None:
    parts = study.shares("m3_ema", {"beta3": 0.5, "f": 4}, "M2", 64)
    assert parts[:8] == pytest.approx([1 / 8] * 4 + [1 / 16] * 4, rel=1e-4)


@pytest.mark.parametrize("name", study.OPTIMIZERS)
def test_the_kept_page_has_what_comes_out(name: str) -> None:
    """The rate that is said to be an optimizer's own, run again."""
    section = KEPT.partition("## κ = 1\n")[2].partition("\n## ")[0]
    row = next(r for r in section.splitlines() if r.startswith(f"| `{name}`"))
    _, _, rate, _, half, _, arrived, _, _ = (cell.strip() for cell in row.split("|"))
    exact = min(study.FULL.rates, key=lambda x: abs(x - float(rate)))
    run = study.descend(name, exact, study.FULL, 1.0)
    assert run.losses[100] == pytest.approx(float(half), rel=0.06)
    assert arrived == ("–" if run.arrived is None else str(run.arrived))


def test_the_readme_has_the_steps_of_the_page() -> None:
    readme = (RESULTS.parents[2] / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("## What memories of gradients do")[2].partition("\n## ")[0]
    for name in study.OPTIMIZERS.keys() - {"sgd"}:
        rows = [r.split("|") for r in KEPT.splitlines() if r.startswith(f"| `{name}` |")]
        steps = " | ".join(row[6].strip() for row in rows)
        assert len(rows) == 3 and f"| `{name}` | {steps} |" in shown
    assert {r.split("|")[6] for r in KEPT.splitlines() if r.startswith("| `sgd` |")} == {" – "}


def test_a_quick_run_writes_a_page_and_two_pictures(tmp_path: Path) -> None:
    result = CliRunner().invoke(study.main, ["--quick", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "gradient_memories.md").read_text(encoding="utf-8")
    for name in ("gradient_memories.svg", "shares.svg"):
        assert f"![]({name})" in page and (tmp_path / name).stat().st_size > 1000
        assert (RESULTS / name).exists() and f"![]({name})" in KEPT
    assert page.count("| `sgd` |") == 2 * len(study.STEEPNESS)
