"""The runs of ``digits.py``: the task, the optimizers, and the search over learning rates."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import click
import study
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import nlc

TRAINED_ON = 1400  # of 1797 images
TARGET = 0.05  # the loss of a batch, averaged over
WINDOW = 10  # steps
NEAR = 1.5  # a rate is in the window if it needs at most so many times the steps of the best
REST = 3e-3  # the rate of AdamW on what is no hidden matrix
SCALES = (2**-10, 2**10)  # what the loss is multiplied by; powers of 2 leave its digits alone
TURN = 30  # steps in which only one half of the digits is shown


@dataclass(frozen=True)
class Study:
    """How long and how often a run is done."""

    steps: int = field(default=300, metadata={"help": "Steps of a run."})
    batch: int = field(default=128, metadata={"help": "Images in a step."})
    width: int = field(default=256, metadata={"help": "Hidden units of both layers."})
    seeds: int = field(default=5, metadata={"help": "Networks at every rate."})
    grow: int = field(default=8, metadata={"help": "By how many rates a grid may grow."})
    scale: float = field(default=1.0, metadata={"help": "What multiplies the loss."})
    turn: int = field(default=0, metadata={"help": "Steps with one half of the digits; 0: all."})


FULL = Study()
QUICK = Study(steps=12, batch=16, width=8, seeds=2, grow=1)


@dataclass(frozen=True)
class Contender:
    """A compiled optimizer, the quarters of a decade that its rates begin with, and whether it is for matrices."""

    system: str
    quarters: range
    hidden: bool = True
    hypers: tuple[tuple[str, Any], ...] = ()

    def made(self, net: nn.Sequential, rate: float) -> Optimizer:
        """Of all, or of the hidden matrices and AdamW of the rest; hidden are those whose outputs are hidden units."""
        system = partial(nlc.Route, self.system, lr=rate, **dict(self.hypers))
        if not self.hidden:
            return nlc.route(net, system(), tell=None)
        matrices = [n for n, p in net.named_parameters() if p.ndim == 2][:-1]
        rest = nlc.Route("adamw", lr=REST, weight_decay=0)
        return nlc.route(net, system(names=matrices), rest=rest, tell=None)


_PLAIN = (("weight_decay", 0),)
CONTENDERS = {
    "SGD, momentum 0.9": Contender("momentum", range(-5, 0), hidden=False),
    "AdamW": Contender("adamw", range(-11, -4), hidden=False, hypers=_PLAIN),
    "Muon": Contender("muon", range(-9, -2), hypers=_PLAIN),
    "Muon, beta = 0.8": Contender("muon", range(-8, 0), hypers=(*_PLAIN, ("beta", 0.8))),
    "M3": Contender("m3", range(-21, -14)),
    "M3-EMA": Contender("m3_ema", range(-9, -2)),
    "M3-EMA, alpha = 0": Contender("m3_ema", range(-9, -1), hypers=(("alpha", 0.0),)),
    "Delta momentum": Contender("delta_momentum", range(-8, -1)),
}


def rate_of(quarter: int) -> float:
    """10^(quarter / 4), to two digits."""
    return float(f"{10 ** (quarter / 4):.2g}")


# ------------------------------------------------------------------------------------------------ one run


@dataclass(frozen=True)
class Data:
    """Images and digits to train on, and those to test on; pixels between 0 and 1."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    @classmethod
    @cache
    def load(cls) -> Data:
        from sklearn.datasets import load_digits

        found = load_digits()
        x, y = torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        x, y = x[order], y[order]
        return cls(x[:TRAINED_ON], y[:TRAINED_ON], x[TRAINED_ON:], y[TRAINED_ON:])

    def shown(self, step: int, turn: int) -> Tensor:
        """Indices of the images that step 1, 2, … may draw: with turns, the digits 0 to 4, then 5 to 9, and so on."""
        if not turn:
            return torch.arange(len(self.x))
        small = self.y < 5
        return (small if (step - 1) // turn % 2 == 0 else ~small).nonzero().flatten()


@dataclass(frozen=True)
class Run:
    """What one run came to; ``reached`` is infinite where the target was not. ``losses`` are those of the batches."""

    train: float
    test: float
    accuracy: float
    reached: float
    step_ms: float
    losses: tuple[float, ...]


def network(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise((64, width, width, 10)):
        layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def run(plan: Study, job: tuple[str, float, int]) -> Run:
    """Trains a contender at a rate from a seed, which fixes the network and the batches; rates fall linearly to 0."""
    name, rate, seed = job
    torch.manual_seed(seed)
    net, data = network(plan.width), Data.load()
    optimizer = CONTENDERS[name].made(net, rate)
    falling = LambdaLR(optimizer, lambda i: 1 - i / plan.steps)
    losses: list[float] = []
    start = time.process_time()
    for step in range(1, plan.steps + 1):
        shown = data.shown(step, plan.turn)
        chosen = shown[torch.randint(len(shown), (plan.batch,))]
        loss = cross_entropy(net(data.x[chosen]), data.y[chosen])
        optimizer.zero_grad()
        (plan.scale * loss).backward()
        optimizer.step()
        falling.step()
        losses.append(loss.item())
    seconds = time.process_time() - start
    means = running(losses)
    reached = next((i + WINDOW for i, x in enumerate(means) if x <= TARGET), math.inf)
    with torch.no_grad():
        train = study.finite(cross_entropy(net(data.x), data.y).item())
        logits = net(data.x_test)
        test = study.finite(cross_entropy(logits, data.y_test).item())
        accuracy = (logits.argmax(1) == data.y_test).double().mean().item()
    return Run(train, test, accuracy, reached, 1e3 * seconds / plan.steps, tuple(losses))


def running(losses: Sequence[float]) -> list[float]:
    """Means of WINDOW losses, the first after WINDOW steps."""
    return [
        study.finite(sum(losses[i - WINDOW : i]) / WINDOW) for i in range(WINDOW, len(losses) + 1)
    ]


# ------------------------------------------------------------------------------------------------ over rates


@dataclass(frozen=True)
class Row:
    """The runs at one rate, one for each seed."""

    quarter: int
    runs: tuple[Run, ...]

    @property
    def rate(self) -> float:
        return rate_of(self.quarter)

    def each(self, what: str) -> list[float]:
        return [getattr(r, what) for r in self.runs]

    def mean(self, what: str) -> float:
        return sum(self.each(what)) / len(self.runs)


Measure = Callable[[int], Row]  # of a quarter
WANTED = ("reached", "test")


def best(rows: Sequence[Row], what: str = "reached") -> Row:
    """The row of the smallest mean, the smaller training loss if several are equal."""
    return min(rows, key=lambda row: (row.mean(what), row.mean("train")))


def search(measure: Measure, start: range, grow: int, wanted: Sequence[str] = WANTED) -> list[Row]:
    """Rows at the rates of ``start`` and, while the best of any wanted is at an edge, at further ones beyond it.

    A grid that has grown by ``grow`` rates on one side stays as it is; ``at_edge`` says so of its best.
    """
    rows = {q: measure(q) for q in start}
    while True:
        low, high = min(rows), max(rows)
        tops = {best(list(rows.values()), what).quarter for what in wanted}
        below = low in tops and start[0] - low < grow
        above = high in tops and high - start[-1] < grow
        if not below and not above:
            return [rows[q] for q in sorted(rows)]
        for q in [low - 1] * below + [high + 1] * above:
            rows[q] = measure(q)


def at_edge(row: Row, rows: Sequence[Row]) -> bool:
    """Whether there is no further rate on some side."""
    return row in (rows[0], rows[-1])


def window(rows: Sequence[Row]) -> tuple[float, float] | None:
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


Results = dict[str, list[Row]]


def steps_said(row: Row) -> str:
    """The mean with its spread, or how many seeds reached the target."""
    found = [x for x in row.each("reached") if math.isfinite(x)]
    if len(found) < len(row.runs):
        return f"{len(found)} of {len(row.runs)} seeds"
    return study.spread(found, 0)


@dataclass(frozen=True)
class Measured:
    """Rows by contender: as they are, with the loss multiplied by each of SCALES at the best rate, and in turns."""

    plain: Results
    scaled: dict[str, list[Row]]
    turns: Results


def measured(plan: Study, names: Sequence[str], each: study.Each = map) -> Measured:
    """All runs; each rate is told as it ends."""

    def row(name: str, quarter: int, plan: Study) -> Row:
        jobs = [(name, rate_of(quarter), seed) for seed in range(plan.seeds)]
        made = Row(quarter, tuple(each(partial(run, plan), jobs)))
        also = f", loss × {plan.scale:g}" * (plan.scale != 1) + ", in turns" * (plan.turn > 0)
        click.echo(
            f"{name:18} lr {made.rate:<8g} steps {steps_said(made):18} test loss {made.mean('test'):.3g}{also}"
        )
        return made

    def grids(plan: Study, wanted: Sequence[str], starts: dict[str, range]) -> Results:
        return {n: search(lambda q: row(n, q, plan), starts[n], plan.grow, wanted) for n in names}  # noqa: B023

    plain = grids(plan, WANTED, {n: CONTENDERS[n].quarters for n in names})
    tops = {n: best(rows).quarter for n, rows in plain.items()}
    multiplied = [replace(plan, scale=s) for s in SCALES]
    scaled = {n: [row(n, q, p) for p in multiplied] for n, q in tops.items()}
    calm = {n: best(rows, "test").quarter for n, rows in plain.items()}
    around = {n: range(q - 1, q + 2) for n, q in calm.items()}
    return Measured(plain, scaled, grids(replace(plan, turn=TURN), ("test",), around))
