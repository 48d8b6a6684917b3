"""A stream of task A, then B, then A again: what is left of A after B, with one, two or three levels.

    python examples/continual.py
    python examples/continual.py --quick

A task is a set of random pairs. A token shows a key, takes the answer, then tells the key's value,
with noise. What a memory learns in the stream it learns by its own inner steps; training on other
streams of the same kind decides only where the levels start and how long their steps are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import study
import torch
from language_model import parameter_count
from matplotlib.figure import Figure
from study import Job, Result
from torch import Tensor, nn
from training import Descent, Settings

import nlc

TITLE = "Levels of a continuum memory on a stream of two tasks"
VALIDATION, TEST = 10**9, 10**9 + 1  # seeds that no training batch has
FASTER = 10  # times the learning rate for the logarithms of inner rates, and for the shares

# Periods in tokens. All have the same three MLPs; NEVER makes one a plain MLP, which only training
# on other streams moves. 4·4·4 learns in as many weights as 4·16·64, at one frequency.
NEVER = 10**9
PERIODS = {
    "1 level: 4": (4, NEVER, NEVER),
    "2 levels: 4·16": (4, 16, NEVER),
    "3 levels: 4·16·64": (4, 16, 64),
    "3 alike: 4·4·4": (4, 4, 4),
    "slow first: 64·16·4": (64, 16, 4),
}
FIRST_TICK = 4
KINDS = {"chain": "cms_chain.yaml", "parallel": "cms_parallel.yaml"}
CONTENDERS = [(kind, levels) for kind in KINDS for levels in PERIODS]
CONTENDERS.remove(("parallel", "slow first: 64·16·4"))  # side by side there is no first


@dataclass(frozen=True)
class Study:
    """The sizes of the study; each is an option of the command."""

    d: int = field(default=16, metadata={"help": "Width of keys and values."})
    expand: int = field(default=2, metadata={"help": "Hidden units of an MLP for each of d."})
    pairs: int = field(default=8, metadata={"help": "Pairs of a task; a round shows each once."})
    first: int = field(default=16, metadata={"help": "Rounds of A."})
    second: int = field(default=8, metadata={"help": "Rounds of B after them."})
    again: int = field(default=8, metadata={"help": "Rounds of A at the end."})
    noise: float = field(default=1.0, metadata={"help": "Of the told values, which have size 1."})
    batch: int = field(default=16, metadata={"help": "Streams a step."})
    steps: int = field(default=200, metadata={"help": "Steps of training."})
    rates: tuple[float, ...] = field(
        default=(3e-3, 1e-2, 3e-2), metadata={"help": "Learning rates to choose from."}
    )
    seeds: int = field(default=3, metadata={"help": "Seeds at the chosen rate."})
    tests: int = field(default=256, metadata={"help": "Streams to try a memory on."})

    @property
    def length(self) -> int:
        return self.pairs * (self.first + self.second + self.again)

    def settings(self, kind: str, levels: str) -> Settings:
        return Settings(
            spec=str(Path(__file__).with_name(KINDS[kind])),
            d=self.d,
            batch=self.batch,
            length=self.length,
            steps=self.steps,
            hyper={"expand": self.expand, "periods": PERIODS[levels]},
        )


FULL = Study()
QUICK = Study(
    d=4, pairs=4, first=2, second=1, again=2, batch=2, steps=1, rates=(1e-2,), seeds=2, tests=4
)


def streams(plan: Study, count: int, seed: int, step: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, told values and true values, each ``[count, length, d]``; seed and step decide them."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + step)
    shape = count, plan.pairs, plan.d
    tasks = torch.randn(2, 2, *shape, generator=generator)  # of A and B, keys and values
    rounds = [0] * plan.first + [1] * plan.second + [0] * plan.again
    shown = []
    for task in rounds:
        order = torch.rand(shape[:2], generator=generator).argsort(1)[..., None].expand(shape)
        shown.append(tasks[task].gather(2, order.expand(2, *shape)))
    keys, values = torch.cat(shown, 2)
    noise = torch.randn(values.shape, generator=generator)
    return keys, values + plan.noise * noise, values


def errors(memory: nn.Module, keys: Tensor, told: Tensor, values: Tensor) -> Tensor:
    """Mean square error of each answer, ``[count, length]``; answering 0 gives 1."""
    return (memory(keys, told)[0] - values).square().mean(-1)


def run(plan: Study, job: Job) -> Result:
    """Trains one memory on streams, and tries it on others."""
    settings = job.settings
    torch.manual_seed(settings.seed)
    memory = nlc.compile(settings.spec)(d=settings.d, **settings.hyper)
    vectors = [p for p in memory.parameters() if p.ndim == 1]
    matrices = [p for p in memory.parameters() if p.ndim > 1]
    groups = [{"params": matrices}, {"params": vectors, "lr": FASTER * (settings.lr or 0)}]

    def batch_loss(step: int) -> Tensor:
        return errors(memory, *streams(plan, settings.batch, settings.seed, step)).mean()

    seconds, skipped = study.fit(Descent(settings, memory, groups), batch_loss)
    with torch.no_grad():
        validation = errors(memory, *streams(plan, plan.tests, VALIDATION)).mean().item()
        curve = errors(memory, *streams(plan, plan.tests, TEST)).mean(0).tolist()
    return Result(
        job, parameter_count(memory), study.finite(validation), tuple(curve), seconds, skipped
    )


def study_of(
    plan: Study, contenders: Sequence[tuple[str, str]] = CONTENDERS, each: study.Each = map
) -> list[Result]:
    """All runs; each is told as it ends."""
    return study.tuned(
        {f"{kind}, {levels}": plan.settings(kind, levels) for kind, levels in contenders},
        plan.rates,
        plan.seeds,
        partial(run, plan),
        each,
        lambda result: click.echo(study.told(result)),
    )


@dataclass(frozen=True)
class Marks:
    """Errors of one run at the turns of the stream."""

    all: float
    learned: float  # of A, in its last round before B
    other: float  # of B, in its last round
    kept: float  # of A after B, before any level has learned from it anew
    round: float  # of A in the second round of its return

    @property
    def retention(self) -> float:
        """The share of what was known of A that is left: 0 is nothing, 1 is all; nan of nothing."""
        return (1 - self.kept) / (1 - self.learned) if self.learned < 1 else math.nan


def marks(result: Result, plan: Study) -> Marks:
    """A mean over a few places for each mark."""
    turn, back = plan.pairs * plan.first, plan.pairs * (plan.first + plan.second)
    places = {
        "all": slice(None),
        "learned": slice(turn - plan.pairs, turn),
        "other": slice(back - plan.pairs, back),
        "kept": slice(back, back + FIRST_TICK),
        "round": slice(back + plan.pairs, back + 2 * plan.pairs),
    }
    return Marks(**{name: statistics.fmean(result.curve[at]) for name, at in places.items()})


def table(results: Sequence[Result], plan: Study) -> str:
    """A line for each contender at its best rate."""
    rows: list[list[object]] = [
        [
            *("memory", "lr", "A learned", "B learned", "A after B", "retention of A"),
            *("A, second round back", "whole stream", "CPU s a run"),
        ]
    ]
    for name, runs in study.chosen(results).items():
        found = [marks(one, plan) for one in runs]
        columns = ("learned", "other", "kept", "retention", "round", "all")
        rows.append(
            [
                name,
                f"{runs[0].job.settings.lr:g}",
                *(study.spread([getattr(m, c) for m in found], 3) for c in columns),
                f"{statistics.fmean(one.seconds for one in runs):.0f}",
            ]
        )
    return study.markdown(rows)


def every_run(results: Sequence[Result], plan: Study) -> str:
    rows: list[list[object]] = [
        ["memory", "lr", "seed", "validation", "A after B", "retention of A", "steps skipped"]
    ]
    for one in results:
        s, found = one.job.settings, marks(one, plan)
        scores = [f"{x:.4f}" for x in (one.validation, found.kept, found.retention)]
        rows.append([one.job.name, f"{s.lr:g}", s.seed, *scores, one.skipped])
    return study.markdown(rows)


def describe(plan: Study, parameters: int) -> str:
    return (
        f"Tasks of {plan.pairs} pairs of random vectors of {plan.d} numbers, fresh in each stream; "
        f"{plan.first} rounds of A, {plan.second} of B, {plan.again} of A, {plan.length} tokens. "
        f"A round shows each pair once, in random order; noise {plan.noise:g} is added to the value "
        f"that is told. Three MLPs of {plan.expand * plan.d} hidden units, {parameters:,} slow "
        "weights or fewer; periods are in tokens, and one that is not named never ends. Their starts "
        f"and rates are learned in {plan.steps} steps of {plan.batch} streams, AdamW, warm-up and "
        f"cosine, from the error over the whole stream; the same streams in the same order for "
        f"all. The learning rate is that of {', '.join(f'{rate:g}' for rate in plan.rates)} with the "
        f"least error on {plan.tests} fresh streams with seed 0; inner rates and shares move "
        f"{FASTER} times as fast. Mean square errors against the value without noise, where 1 is to "
        f"know nothing, over {plan.tests} other streams; mean over {plan.seeds} seeds "
        f"(least–greatest). *A after B* are the first {FIRST_TICK} tokens back, before any level has "
        "ticked; *retention* is the share of what was known of A that is left there."
    )


def picture(results: Sequence[Result], plan: Study) -> Figure:
    """The error along the stream."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    kinds = [k for k in KINDS if any(one.job.name.startswith(k) for one in results)]
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for name, runs in study.chosen(results).items():
            levels = name.removeprefix(f"{kind}, ")
            if levels != name:
                color = f"C{list(PERIODS).index(levels)}"
                study.band(axes, range(plan.length), runs, levels, color)
        for rounds in plan.first, plan.first + plan.second:
            axes.axvline(plan.pairs * rounds, color="0.5", linestyle="--", linewidth=1)
        axes.set(title=kind, xlabel="token: A, then B, then A again", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    panels[0].set_ylabel("mean square error")
    return figure


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--only", default="", help="Run the contenders with this in their name.")
@study.options(FULL)
@study.running("runs/continual")
def main(only: str, quick: bool, workers: int, out: Path, **sizes: object) -> None:
    """Continuum memories of one, two and three levels on a stream of two tasks."""
    plan = study.plan(QUICK if quick else FULL, sizes)
    some = [pair for pair in CONTENDERS if only in ", ".join(pair)]
    if not some:
        raise click.BadParameter(f"no contender has {only!r} in its name", param_hint="--only")
    with study.workers(workers) as each:
        results = study_of(plan, some, each)
    parts = [
        f"# {TITLE}",
        describe(plan, max(one.parameters for one in results)),
        study.surroundings(),
        table(results, plan),
        "## Every run",
        every_run(results, plan),
    ]
    study.write(out, "continual", parts, picture(results, plan))
    click.echo("\n" + "\n\n".join(parts[:-2]))
    click.echo(f"\nevery run: {out}/continual.md; picture: {out}/continual.svg")


if __name__ == "__main__":
    main()
