"""What a person sees of a run: progress in the terminal, and the loss curves as a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from training import Run

MEMORY = 0.97  # of the running mean of the loss


def smooth(bits: Sequence[float]) -> list[float]:
    """A running mean, unbiased from its first value on."""
    sums = accumulate(bits, lambda old, new: MEMORY * old + (1 - MEMORY) * new, initial=0.0)
    return [total / (1 - MEMORY**n) for n, total in enumerate(sums) if n]


@contextmanager
def progress(console: Console, name: str, run: Run) -> Iterator[Callable[[Run], None]]:
    """A bar with the loss, the speed and the time left; what it gives is called after each step."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("[cyan]{task.fields[bits]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        expand=True,
        speed_estimate_period=60,
    )
    task = bar.add_task(name, total=run.settings.steps, completed=run.step, bits="", speed="")

    def show(run: Run) -> None:
        bar.update(
            task,
            completed=run.step,
            bits=f"{smooth(run.history.bits[-200:])[-1]:.3f} bits/byte",
            speed=f"{run.tokens_a_second:,.0f} tok/s",
        )

    with bar:
        yield show


def draw(runs: Mapping[str, Run], path: Path) -> None:
    """Loss curves against tokens and against seconds; dots are the held-out text."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    by_tokens, by_seconds = figure.subplots(1, 2, sharey=True)
    for number, (name, run) in enumerate(runs.items()):
        tokens = [step * run.tokens_a_step / 1e6 for step in range(1, run.step + 1)]
        _curve(by_tokens, tokens, run, name, f"C{number}")
        _curve(by_seconds, run.history.seconds, run, name, f"C{number}")
    for axes, label in (by_tokens, "million tokens (bytes)"), (by_seconds, "seconds of training"):
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    by_tokens.set_ylabel("bits per byte")
    by_tokens.set_ylim(top=min(by_tokens.get_ylim()[1], 4.5))
    by_tokens.legend(title="lines: training, dots: held out", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _curve(axes: Axes, xs: Sequence[float], run: Run, name: str, color: str) -> None:
    axes.plot(xs, smooth(run.history.bits), color=color, label=name, linewidth=1.4)
    steps, bits = zip(*run.history.looks, strict=True) if run.history.looks else ((), ())
    axes.plot([xs[step - 1] for step in steps], bits, "o", color=color, markersize=4)
