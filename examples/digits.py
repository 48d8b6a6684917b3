"""Optimizers on handwritten digits: what they reach, at which learning rates, after how many steps and how long.

    pip install -e ".[demo]"
    python examples/digits.py --out examples/results/digits

The question is what M3 is worth beside Muon and AdamW tuned equally, and how narrow the window is in which M3 as
printed trains. A grid of rates grows until the best rate has worse ones on both sides.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import study
from digits_runs import (
    CONTENDERS,
    FULL,
    NEAR,
    QUICK,
    REST,
    SCALES,
    TARGET,
    TURN,
    WANTED,
    WINDOW,
    Data,
    Measured,
    Results,
    Row,
    Study,
    at_edge,
    best,
    measured,
    running,
    steps_said,
    window,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TITLE = "Optimizers on handwritten digits"
FLOOR = 1e-9  # the least loss in the picture

Cells = list[list[object]]


def rate_said(row: Row, rows: Sequence[Row]) -> str:
    return f"{row.rate:g}" + " (edge)" * at_edge(row, rows)


def step_ms(rows: Sequence[Row]) -> float:
    """The time of a step where nothing disturbed it: the least of all runs."""
    return min(ms for row in rows for ms in row.each("step_ms"))


def ranking(results: Results) -> Cells:
    """By steps to the target, with the rank by time to it."""
    tops = {name: best(rows) for name, rows in results.items()}
    ms = {name: step_ms(rows) for name, rows in results.items()}
    seconds = {n: ms[n] * row.mean("reached") / 1e3 for n, row in tops.items()}
    order = sorted(tops, key=lambda n: (tops[n].mean("reached"), tops[n].mean("train")))
    by_time = sorted(tops, key=lambda n: (seconds[n], ms[n]))
    head = ["", "optimizer", "best lr", "steps to target", "lr window", "sooner than the next"]
    lines: Cells = [[*head, "CPU ms a step", "CPU s to target", "by time"]]
    for i, name in enumerate(order):
        row, span = tops[name], window(results[name])
        wide = "none" if span is None else f"{span[0]:g} to {span[1]:g}"
        sooner = ""
        if i + 1 < len(order):
            pairs = zip(row.each("reached"), tops[order[i + 1]].each("reached"), strict=True)
            sooner = f"{sum(a < b for a, b in pairs)} of {len(row.runs)} seeds"
        took = f"{seconds[name]:.2f}" if math.isfinite(seconds[name]) else "–"
        cells = [i + 1, name, rate_said(row, results[name]), steps_said(row), wide, sooner]
        lines.append([*cells, f"{ms[name]:.1f}", took, by_time.index(name) + 1])
    return lines


def losses(results: Results) -> Cells:
    """Losses and accuracy at the rate of the fewest steps and at that of the least test loss."""
    what = ["train loss", "test loss", "test accuracy"]
    lines: Cells = [
        ["optimizer", "lr of the fewest steps", *what, "lr of the least test loss", *what]
    ]
    for name, rows in results.items():
        cells: list[object] = [name]
        for row in (best(rows), best(rows, "test")):
            accuracy = study.spread(row.each("accuracy"), 3)
            numbers = [f"{row.mean('train'):.1e}", f"{row.mean('test'):.3g}", accuracy]
            cells += [rate_said(row, rows), *numbers]
        lines.append(cells)
    return lines


def every_rate(results: Results) -> Cells:
    lines: Cells = [
        ["optimizer", "lr", "steps to target", "train loss", "test loss", "test accuracy"]
    ]
    for name, rows in results.items():
        for row in rows:
            numbers = [f"{row.mean('train'):.1e}", f"{row.mean('test'):.3g}"]
            accuracy = f"{row.mean('accuracy'):.4f}"
            lines.append([name, f"{row.rate:g}", steps_said(row), *numbers, accuracy])
    return lines


def multiplied(found: Measured) -> Cells:
    """Steps and training loss at the best rate where the loss is multiplied by 1 and by each of SCALES."""
    lines: Cells = [["optimizer", "lr", "loss × 1", *(f"× 2^{math.log2(s):g}" for s in SCALES)]]
    for name, rows in found.plain.items():
        three = [best(rows), *found.scaled[name]]
        told = [f"{steps_said(row)}; {row.mean('train'):.1e}" for row in three]
        lines.append([name, f"{three[0].rate:g}", *told])
    return lines


def in_turns(results: Results) -> Cells:
    lines: Cells = [["optimizer", "best lr", "train loss", "test loss", "test accuracy"]]
    for name, rows in results.items():
        row = best(rows, "test")
        numbers = [f"{row.mean(what):.2g}" for what in ("train", "test")]
        accuracy = study.spread(row.each("accuracy"), 3)
        lines.append([name, rate_said(row, rows), *numbers, accuracy])
    return lines


def grids_said(found: Measured) -> str:
    """Whether a best rate is at an edge."""
    edges = [
        f"{name} ({where}, {best(rows, what).rate:g})"
        for where, results, wanted in (
            ("plain", found.plain, WANTED),
            ("turns", found.turns, ["test"]),
        )
        for name, rows in results.items()
        for what in wanted
        if at_edge(best(rows, what), rows)
    ]
    if edges:
        return f"At the edge of its grid is the best rate of {', '.join(dict.fromkeys(edges))}."
    return "Every best rate has worse ones on both sides."


def describe(plan: Study) -> str:
    """The task and what the columns mean."""
    data = Data.load()
    return (
        f"scikit-learn's `load_digits`, {len(data.x)} images to train on and {len(data.x_test)} to test; an MLP "
        f"64-{plan.width}-{plan.width}-10 with ReLU, {plan.steps} steps of batch {plan.batch}, rates that fall "
        f"linearly to 0, no weight decay, {plan.seeds} seeds; means, with least–greatest. All optimizers are "
        f"compiled specs. Muon, M3 and delta momentum train the two hidden matrices (all but the last layer's), AdamW "
        f"at {REST:g} the rest; SGD and AdamW train everything. The target is a batch loss of {TARGET:g}, mean of "
        f"{WINDOW} steps. The best rate needs the fewest steps; the window is the rates around it that need at most "
        f"{NEAR:g} times as many. Sooner than the next: in how many seeds, each with one network and the same "
        f"batches. Time is that of the process, of the fastest run."
    )


def picture(results: Results) -> Figure:
    """Losses and accuracy over rates, and the loss over steps and over time at the rate of the fewest steps."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    (loss, accuracy), (steps, seconds) = figure.subplots(2, 2)
    for number, (name, rows) in enumerate(results.items()):
        draw = {"color": f"C{number}", "linewidth": 1.4, "label": name}
        rates = [row.rate for row in rows]
        _over_rates(loss, rates, [[max(x, FLOOR) for x in row.each("test")] for row in rows], draw)
        _over_rates(accuracy, rates, [row.each("accuracy") for row in rows], draw)
        means = [running(r.losses) for r in best(rows).runs]
        xs = list(range(WINDOW, WINDOW + len(means[0])))
        for axes, scale in ((steps, 1.0), (seconds, step_ms(rows) / 1e3)):
            _over_rates(axes, [scale * x for x in xs], list(zip(*means, strict=True)), draw, "")
    for axes in (steps, seconds):
        axes.axhline(TARGET, color="0.5", linestyle=":", linewidth=1)
        axes.set(yscale="log", ylim=(1e-5, 4), ylabel=f"loss of the batches, mean of {WINDOW}")
    seconds.set(xscale="log")
    loss.set(
        xscale="log", yscale="log", ylim=(0.04, 20), xlabel="lr", ylabel="test loss at the end"
    )
    accuracy.set(xscale="log", ylim=(0.9, 1), xlabel="lr", ylabel="test accuracy at the end")
    steps.set(xlabel="steps, at the lr of the fewest to the target (dotted)")
    seconds.set(xlabel="CPU seconds, at the same lr")
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    accuracy.legend(frameon=False, fontsize="small", loc="lower left")
    return figure


def _over_rates(
    axes: Axes, xs: list[float], ys: list[Sequence[float]], draw: dict[str, Any], marker: str = "."
) -> None:
    """The middle seed in a band from the least to the greatest."""
    axes.plot(xs, [statistics.median(y) for y in ys], marker=marker, **draw)
    lows, highs = [min(y) for y in ys], [max(y) for y in ys]
    axes.fill_between(xs, lows, highs, color=draw["color"], alpha=0.15, linewidth=0)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--only", multiple=True, type=click.Choice(list(CONTENDERS)), help="Repeatable.")
@study.options(FULL)
@study.running("runs/digits")
def main(only: tuple[str, ...], quick: bool, workers: int, out: Path, **sizes: object) -> None:
    """SGD, AdamW, Muon, M3 and delta momentum on handwritten digits, over learning rates and seeds."""
    plan = study.plan(QUICK if quick else FULL, sizes)
    with study.workers(workers) as each:
        found = measured(plan, only or tuple(CONTENDERS), each)
    versions = study.surroundings().replace(
        "; one", f", scikit-learn {version('scikit-learn')}; one"
    )
    parts = [f"# {TITLE}", describe(plan), grids_said(found), versions]
    tables = {
        "By steps and by time": ranking(found.plain),
        "At the end": losses(found.plain),
        "The loss multiplied": multiplied(found),
        f"Digits 0 to 4 and 5 to 9 in turns of {TURN} steps": in_turns(found.turns),
        "At every rate": every_rate(found.plain),
    }
    for title, cells in tables.items():
        parts += [f"## {title}", study.markdown(cells)]
    study.write(out, "digits", parts, picture(found.plain))
    for part in parts[:-2]:
        click.echo(f"\n{part}")
    click.echo(f"\nevery rate: {out}/digits.md; picture: {out}/digits.svg")


if __name__ == "__main__":
    main()
