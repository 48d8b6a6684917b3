"""Studies: contenders trained on equal terms over learning rates and seeds, and how they are told."""

from __future__ import annotations

import math
import multiprocessing
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from training import Descent, Settings

import nlc


@dataclass(frozen=True)
class Job:
    """A contender's name, and what decides its run."""

    name: str
    settings: Settings


@dataclass(frozen=True)
class Result:
    """What a run came to.

    ``validation`` is the loss that chooses the rate, infinite where it is no number. ``curve`` is
    what is measured along a test sequence. ``skipped`` steps had no finite gradient.
    """

    job: Job
    parameters: int
    validation: float
    curve: tuple[float, ...]
    seconds: float
    skipped: int


Train = Callable[[Job], Result]
Each = Callable[[Train, Iterable[Job]], Iterable[Result]]  # map, or what does as map does


def fit(descent: Descent, loss_at: Callable[[int], Tensor]) -> tuple[float, int]:
    """Trains to the last step: seconds of CPU, and how many steps were skipped."""
    begun = time.process_time()
    moved = sum(descent.step(n, loss_at(n)) for n in range(descent.settings.steps))
    return time.process_time() - begun, descent.settings.steps - moved


def tuned(
    contenders: Mapping[str, Settings],
    rates: Sequence[float],
    seeds: int,
    train: Train,
    each: Each = map,
    tell: Callable[[Result], object] = lambda result: None,
) -> list[Result]:
    """Each contender at every rate with seed 0, then at its best rate with the other seeds."""

    def done(jobs: list[Job]) -> list[Result]:
        results = []
        for result in each(train, jobs):
            tell(result)
            results.append(result)
        return results

    tried = done(
        [Job(name, replace(s, lr=lr, seed=0)) for name, s in contenders.items() for lr in rates]
    )
    best = [rows[0].job for rows in chosen(tried).values()]
    return tried + done(
        [Job(j.name, replace(j.settings, seed=seed)) for j in best for seed in range(1, seeds)]
    )


def chosen(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The runs of each contender at its best rate: that of the least validation loss with seed 0."""
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result.job.name, []).append(result)
    for name, runs in by_name.items():
        first = [run for run in runs if run.job.settings.seed == 0]
        best = min(first, key=lambda run: run.validation).job.settings.lr
        by_name[name] = [run for run in runs if run.job.settings.lr == best]
    return by_name


def finite(loss: float) -> float:
    """The loss, or infinity where it is not a number."""
    return math.inf if math.isnan(loss) else loss


@contextmanager
def workers(count: int) -> Iterator[Each]:
    """A ``map`` over so many processes of one thread each; in this process for one."""
    if count == 1:
        torch.set_num_threads(1)
        yield map
        return
    fresh = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(count, fresh, torch.set_num_threads, (1,)) as pool:
        yield pool.map


# what people read


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The mean, and the least and the greatest of several."""
    mean, low, high = (f"{f(values):.{digits}f}" for f in (statistics.fmean, min, max))
    return mean if low == high else f"{mean} ({low}–{high})"


def markdown(rows: Sequence[Sequence[object]]) -> str:
    """A table whose first row is its head."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|---" + "|---:" * (len(rows[0]) - 1) + "|", *lines[1:]])


def surroundings() -> str:
    """Versions and commit, as the results are worth nothing without them."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, nlc {nlc.__version__}, "
        f"commit {commit}; one thread a run."
    )


def band(axes: Axes, xs: Sequence[float], runs: Sequence[Result], name: str, color: str) -> None:
    """The mean curve of the runs in a band from the least to the greatest."""
    columns = list(zip(*(run.curve for run in runs), strict=True))
    axes.plot(xs, [statistics.fmean(c) for c in columns], color=color, label=name, linewidth=1.4)
    lows, highs = [min(c) for c in columns], [max(c) for c in columns]
    axes.fill_between(xs, lows, highs, color=color, alpha=0.15, linewidth=0)


def write(out: Path, name: str, parts: Sequence[str], figure: Figure) -> None:
    """The page and the picture, which the page shows."""
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.svg")
    title, *rest = parts
    page = "\n\n".join([title, f"![]({name}.svg)", *rest]) + "\n"
    (out / f"{name}.md").write_text(page)


def told(result: Result) -> str:
    """A finished run in one line."""
    s, name = result.job.settings, result.job.name
    return (
        f"{name:32} lr {s.lr:g}  seed {s.seed}  validation loss {result.validation:.4f}  "
        f"{result.seconds:.0f} s" + f"  {result.skipped} steps skipped" * bool(result.skipped)
    )


# the command line


def options(full: Any) -> Callable[[Any], Any]:
    """An option for each field of the study, whose metadata says what it is."""

    def numbers(_ctx: object, _param: object, text: str | None) -> tuple[float, ...] | None:
        return tuple(float(part) for part in text.split(",")) if text else None

    def decorate(command: Any) -> Any:
        for field in reversed(fields(full)):
            default, several = getattr(full, field.name), field.name == "rates"
            shown = ",".join(map(str, default)) if several else default
            command = click.option(
                f"--{field.name}",
                type=str if several else type(default),
                callback=numbers if several else None,
                help=f"{field.metadata['help']}  [default: {shown}]",
            )(command)
        return command

    return decorate


def plan(base: Any, sizes: Mapping[str, object]) -> Any:
    """The study with the sizes that were given."""
    return replace(base, **{name: value for name, value in sizes.items() if value is not None})


def running(out: str) -> Callable[[Any], Any]:
    """The options that say how a study runs."""

    def decorate(command: Any) -> Any:
        for add in (
            click.option("--out", type=click.Path(path_type=Path), default=out, show_default=True),
            click.option("--workers", default=2, show_default=True, help="Processes."),
            click.option("--quick", is_flag=True, help="Tiny sizes: shows that it runs."),
        ):
            command = add(command)
        return command

    return decorate
