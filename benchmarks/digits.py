"""Trains a small network on handwritten digits with several optimizers, over learning rates and seeds.

    pip install -e ".[bench]"
    python benchmarks/digits.py --out benchmarks/results/digits.md

The question is what `m3_ema` is worth beside Muon and AdamW tuned equally, and how narrow the window is in which M3 as
printed trains. Every optimizer is shown at the rate that reaches the target in the fewest steps.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
import sklearn
import torch
from reference import surroundings
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

import nlc

WIDTHS = (64, 256, 256, 10)
TRAINED_ON = 1400  # of 1797 images
TARGET = 0.05  # the loss of a batch, averaged over
WINDOW = 10  # steps
SCALES = (2**-10, 2**10)  # what the loss is multiplied by; powers of 2 leave its digits alone
TURN = 30  # steps
NEAR = 1.5  # a rate is in the window if it needs at most so many times the steps of the best
REST = 3e-3  # the rate of AdamW on what is no hidden matrix

Make = Callable[..., Optimizer]


@dataclass(frozen=True)
class Contender:
    """An optimizer, the rates to try, and whether it takes the hidden matrices only."""

    name: str
    make: Make
    rates: tuple[float, ...]
    hidden: bool = True


def quarters(low: int, high: int) -> tuple[float, ...]:
    """Four rates a decade, from 10^(low/4) to 10^(high/4)."""
    return tuple(float(f"{10 ** (i / 4):.2g}") for i in range(low, high + 1))


def contenders() -> list[Contender]:
    """Torch's and ours; what orthogonalises the step is tried at the same rates."""
    m3, m3_ema = nlc.compile("m3"), nlc.compile("m3_ema")
    muon = partial(nlc.compile("muon"), weight_decay=0)
    torch_muon = partial(torch.optim.Muon, weight_decay=0)
    orthogonal = quarters(-9, -2)
    return [
        Contender(
            "torch SGD, momentum 0.9",
            partial(torch.optim.SGD, momentum=0.9),
            quarters(-6, 1),
            hidden=False,
        ),
        Contender(
            "torch AdamW",
            partial(torch.optim.AdamW, weight_decay=0),
            quarters(-12, -4),
            hidden=False,
        ),
        Contender("torch Muon (bfloat16)", torch_muon, orthogonal),
        Contender("`muon`", muon, orthogonal),
        Contender("`muon`, beta = 0.8", partial(muon, beta=0.8), orthogonal),
        Contender("`m3`", m3, quarters(-20, -12)),
        Contender("`m3_ema`", m3_ema, orthogonal),
        Contender("`m3_ema`, alpha = 0", partial(m3_ema, alpha=0.0), orthogonal),
    ]


@dataclass(frozen=True)
class Data:
    """Images and digits to train on, and those to test on; pixels between 0 and 1."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    @classmethod
    def load(cls) -> Data:
        found = load_digits()
        x, y = torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        x, y = x[order], y[order]
        return cls(x[:TRAINED_ON], y[:TRAINED_ON], x[TRAINED_ON:], y[TRAINED_ON:])


@dataclass(frozen=True)
class Task:
    """How long and on what a run trains.

    ``scale`` multiplies the loss before the gradient is taken. ``turn`` is for how many steps only the digits 0 to 4
    are shown, then only 5 to 9, and so on; 0: all of them at every step.
    """

    data: Data
    steps: int = 300
    batch: int = 128
    scale: float = 1
    turn: int = 0

    def shown(self, step: int) -> Tensor:
        """Indices of the images that step 1, 2, … may draw."""
        if not self.turn:
            return torch.arange(len(self.data.x))
        small = self.data.y < 5
        return (small if (step - 1) // self.turn % 2 == 0 else ~small).nonzero().flatten()


@dataclass(frozen=True)
class Run:
    """What one run came to; ``reached`` is infinite where the target was not."""

    train: float
    test: float
    accuracy: float
    reached: float
    step_ms: float


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def optimizers(contender: Contender, net: nn.Sequential, rate: float) -> list[Optimizer]:
    """The contender, and AdamW for the rest where it takes hidden matrices only.

    Hidden are the matrices whose outputs are hidden units: all but the last layer's.
    """
    if not contender.hidden:
        return [contender.make(net.parameters(), lr=rate)]
    matrices = [m.weight for m in net if isinstance(m, nn.Linear)][:-1]
    rest = [p for p in net.parameters() if all(p is not w for w in matrices)]
    return [contender.make(matrices, lr=rate), torch.optim.AdamW(rest, lr=REST, weight_decay=0)]


def run(contender: Contender, rate: float, seed: int, task: Task) -> Run:
    """Trains from one seed; rates fall linearly to 0. A seed fixes the network and the batches."""
    torch.manual_seed(seed)
    net, data = network(), task.data
    steppers = optimizers(contender, net, rate)
    falling = [torch.optim.lr_scheduler.LambdaLR(o, lambda i: 1 - i / task.steps) for o in steppers]
    losses: list[float] = []
    reached, start = math.inf, time.process_time()
    for step in range(1, task.steps + 1):
        shown = task.shown(step)
        chosen = shown[torch.randint(len(shown), (task.batch,))]
        loss = cross_entropy(net(data.x[chosen]), data.y[chosen])
        net.zero_grad()
        (task.scale * loss).backward()
        for optimizer in steppers:
            optimizer.step()
        for schedule in falling:
            schedule.step()
        losses.append(loss.item())
        if reached == math.inf and step >= WINDOW and statistics.mean(losses[-WINDOW:]) <= TARGET:
            reached = step
    seconds = time.process_time() - start
    with torch.no_grad():
        train = cross_entropy(net(data.x), data.y).item()
        logits = net(data.x_test)
        test = cross_entropy(logits, data.y_test).item()
        accuracy = (logits.argmax(1) == data.y_test).double().mean().item()
    return Run(train, test, accuracy, reached, 1e3 * seconds / task.steps)


@dataclass(frozen=True)
class Row:
    """The runs of one contender at one rate, one for each seed."""

    rate: float
    runs: tuple[Run, ...]

    def mean(self, field: str) -> float:
        """Over the seeds; not a number and infinity stay what they are."""
        return sum(getattr(r, field) for r in self.runs) / len(self.runs)


def row(contender: Contender, rate: float, task: Task, seeds: int) -> Row:
    return Row(rate, tuple(run(contender, rate, seed, task) for seed in range(seeds)))


def best(rows: list[Row], field: str = "reached") -> Row:
    """The row of the smallest mean, the smaller training loss if several are equal; nan is the worst."""

    def order(row: Row) -> tuple[float, float]:
        means = (row.mean(field), row.mean("train"))
        return tuple(math.inf if math.isnan(m) else m for m in means)  # type: ignore[return-value]

    return min(rows, key=order)


def window(rows: list[Row]) -> tuple[float, float] | None:
    """Least and greatest rate around the best that reach the target in ``NEAR`` times its steps."""
    top = best(rows)
    limit = NEAR * top.mean("reached")
    if math.isinf(limit):
        return None
    good = [row.mean("reached") <= limit for row in rows]
    low = high = rows.index(top)
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(rows) and good[high + 1]:
        high += 1
    return rows[low].rate, rows[high].rate


def shown_steps(row: Row) -> str:
    """The mean, or how many seeds reached the target."""
    reached = sum(math.isfinite(r.reached) for r in row.runs)
    if reached < len(row.runs):
        return f"{reached} of {len(row.runs)} seeds"
    return f"{row.mean('reached'):.0f}"


Cells = list[list[str]]  # the first line is the head
SUMMARY = (
    "optimizer",
    "best lr",
    "steps to target",
    "lr window",
    "train loss",
    "test loss",
    "test accuracy",
    "best test loss (its lr)",
    "CPU ms a step",
)


def summary(results: dict[str, list[Row]]) -> Cells:
    """One line for each contender at its best rate; `edge` marks a best rate at an end of its grid."""
    lines = [list(SUMMARY)]
    for name, rows in results.items():
        row, tested, span = best(rows), best(rows, "test"), window(rows)
        edge = " (edge)" if row in (rows[0], rows[-1]) else ""
        wide = "none" if span is None else f"{span[0]:g} to {span[1]:g}"
        lines.append(
            [
                name,
                f"{row.rate:g}{edge}",
                shown_steps(row),
                wide,
                f"{row.mean('train'):.1e}",
                f"{row.mean('test'):.3g}",
                f"{row.mean('accuracy'):.4f}",
                f"{tested.mean('test'):.3f} ({tested.rate:g})",
                f"{row.mean('step_ms'):.1f}",
            ]
        )
    return lines


def every_rate(results: dict[str, list[Row]]) -> Cells:
    """Steps to the target, training loss, test loss and accuracy at each rate."""
    lines = [["optimizer", "lr", "steps to target", "train loss", "test loss", "test accuracy"]]
    for name, rows in results.items():
        for row in rows:
            lines.append(
                [
                    name,
                    f"{row.rate:g}",
                    shown_steps(row),
                    f"{row.mean('train'):.1e}",
                    f"{row.mean('test'):.3g}",
                    f"{row.mean('accuracy'):.4f}",
                ]
            )
    return lines


def scaled(results: dict[str, list[Row]], scales: list[list[Row]]) -> Cells:
    """Steps and training loss at the best rate where the loss is multiplied by 1 and by each of SCALES."""
    lines = [["optimizer", "lr", "loss × 1", *(f"× 2^{math.log2(s):g}" for s in SCALES)]]
    for (name, plain), rows in zip(results.items(), scales, strict=True):
        told = [f"{shown_steps(row)}; {row.mean('train'):.1e}" for row in (best(plain), *rows)]
        lines.append([name, f"{rows[0].rate:g}", *told])
    return lines


def in_turns(results: dict[str, list[Row]]) -> Cells:
    """Losses and accuracy at the rate of the smallest test loss."""
    lines = [["optimizer", "best lr", "train loss", "test loss", "test accuracy"]]
    for name, rows in results.items():
        row = best(rows, "test")
        edge = " (edge)" if row in (rows[0], rows[-1]) else ""
        losses = [f"{row.mean(field):.2g}" for field in ("train", "test")]
        lines.append([name, f"{row.rate:g}{edge}", *losses, f"{row.mean('accuracy'):.4f}"])
    return lines


def describe(task: Task, seeds: int) -> str:
    """The task and what the columns mean."""
    n, held_out = len(task.data.x), len(task.data.x_test)
    return (
        f"scikit-learn's `load_digits`, {n} images to train on and {held_out} to test; an MLP "
        f"{'-'.join(map(str, WIDTHS))} with ReLU, {task.steps} steps of batch {task.batch}, rates that fall linearly "
        f"to 0, no weight decay; means over {seeds} seeds. Muon and M3 train the two hidden matrices (all but the last "
        f"layer's), AdamW at {REST:g} the rest; SGD and AdamW train everything. The target is a batch loss of "
        f"{TARGET:g}, mean of {WINDOW} steps. The best rate needs the fewest steps; the window is the rates around it "
        f"that need at most {NEAR:g} times as many. Losses and accuracy are those after the last step, at the best "
        f"rate where no other is named."
    )


def versions(threads: int) -> str:
    return f"{surroundings(threads)}, scikit-learn {sklearn.__version__}"


def markdown(cells: Cells) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([rows[0], "|---" + "|---:" * (len(cells[0]) - 1) + "|", *rows[1:]])


def drawn(cells: Cells, title: str) -> Table:
    table = Table(title=title)
    for i, name in enumerate(cells[0]):
        table.add_column(name, justify="right" if i else "left", no_wrap=not i)
    for line in cells[1:]:
        table.add_row(*line)
    return table


@click.command()
@click.option("--steps", default=300, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--only", default="", help="Run the optimizers with this in their name.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write it here.")
def main(steps: int, batch: int, seeds: int, threads: int, only: str, out: Path | None) -> None:
    """Optimizers on handwritten digits: steps to a target, losses, and how wide their windows are."""
    torch.set_num_threads(threads)
    task = Task(Data.load(), steps, batch)
    multiplied = [replace(task, scale=scale) for scale in SCALES]
    chosen = [c for c in contenders() if only in c.name]
    results = {}
    for contender in track(chosen, "training"):
        results[contender.name] = [row(contender, rate, task, seeds) for rate in contender.rates]
    scales = [[row(c, best(results[c.name]).rate, t, seeds) for t in multiplied] for c in chosen]
    in_turn = replace(task, turn=TURN)
    turns = {c.name: [row(c, rate, in_turn, seeds) for rate in c.rates[::2]] for c in chosen}
    tables = {
        "At the best rate": summary(results),
        "The loss multiplied": scaled(results, scales),
        f"Digits 0 to 4 and 5 to 9 in turns of {TURN} steps": in_turns(turns),
        "At every rate": every_rate(results),
    }
    for title, cells in tables.items():
        Console().print(drawn(cells, title))
    if out is not None:
        parts = ["# Optimizers on handwritten digits", describe(task, seeds), versions(threads)]
        for title, cells in tables.items():
            parts += [f"## {title}", markdown(cells)]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
