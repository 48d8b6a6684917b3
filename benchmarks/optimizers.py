"""Generated optimizers against torch.optim's and pytorch-optimizer's, and against what moving the bytes takes.

    pip install -e ".[bench]"
    python benchmarks/optimizers.py --out benchmarks/results/optimizers.md

34 million parameters in 100 tensors of float32, as in a small GPT-2. All sides of a kind share parameters and
gradients and take turns, so that load hits them alike; the median of the rounds counts.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import click
import torch
from chunked import surroundings
from torch import Tensor, nn
from torch.optim import Optimizer

import nlc

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYERS, WIDE, VOCABULARY, CONTEXT = 8, 512, 16384, 1024

TWO_MOMENTS = """
nlc: 1
system: two_moments
context: gradients
doc: Adam with a fast and a slow first moment, as AdEMAMix without its schedules.
ref: Pagliardini, Ablin and Grangier 2024 (arXiv 2409.03137)
hyper: {lr: 1e-3, beta1: 0.9, beta2: 0.999, beta3: 0.9999, alpha: 5, eps: 1e-8, weight_decay: 0.01}
levels:
  m:
    frequency: every step
    memory: like(W)
    objective: -dot(m, g)
    rule: gd(lr=1 - beta1, decay=beta1)
  slow:
    frequency: every step
    memory: like(W)
    objective: -dot(slow, g)
    rule: gd(lr=1 - beta3, decay=beta3)
  v:
    frequency: every step
    memory: like(W)
    objective: -dot(v, g * g)
    rule: gd(lr=1 - beta2, decay=beta2)
  W:
    frequency: every step
    let:
      ahead: m / (1 - beta1**t) + alpha * slow
    objective: dot(W, ahead / (sqrt(v / (1 - beta2**t)) + eps))
    rule: gd(lr=lr, decay=1 - lr * weight_decay)
"""


def shapes() -> list[tuple[int, ...]]:
    """Of 100 tensors: embeddings, and of each layer attention, an MLP and norms."""
    layer = [(3 * WIDE, WIDE), (3 * WIDE,), (WIDE, WIDE), (WIDE,), (4 * WIDE, WIDE), (4 * WIDE,)]
    layer += [(WIDE, 4 * WIDE), (WIDE,), *[(WIDE,)] * 4]
    return [(VOCABULARY, WIDE), (CONTEXT, WIDE), *layer * LAYERS, (WIDE,), (WIDE,)]


@dataclass(frozen=True)
class Side:
    """``make`` takes parameters; ``ours``: eager or fused, else a peer."""

    name: str
    make: Callable[[list[Tensor]], Optimizer]
    ours: str = ""


@dataclass(frozen=True)
class Kind:
    """Sides that do the same; ``passes`` over a tensor are the least: each memory read and written."""

    name: str
    sides: tuple[Side, ...]
    passes: int


def ours(spec: str, **hypers: object) -> tuple[Side, ...]:
    load = nlc.loads if "\n" in spec else nlc.load
    made = load(spec).compile("torch")
    return (
        Side("nlc", partial(made, **hypers), "eager"),
        Side("nlc, fused", partial(made, fused=True, **hypers), "fused"),
    )


def theirs(kind: type, **given: object) -> tuple[Side, ...]:
    name = f"torch {kind.__name__}"
    how = {
        "for-loop": dict(foreach=False),
        "foreach": dict(foreach=True),
        "fused": dict(fused=True),
    }
    return tuple(Side(f"{name}, {n}", partial(kind, **given, **x)) for n, x in how.items())


def zoo(name: str, **given: object) -> tuple[Side, ...]:
    """Of pytorch-optimizer, where it is installed."""
    try:
        kind = getattr(import_module("pytorch_optimizer"), name)
    except ImportError:
        return ()
    return (Side(f"pytorch-optimizer {name}", partial(kind, **given)),)


def kinds() -> list[Kind]:
    adam = dict(lr=1e-3)
    return [
        Kind("AdamW", (*ours("adamw"), *theirs(torch.optim.AdamW, **adam)), 7),
        Kind(
            "SGD with momentum",
            (*ours("momentum", lr=1e-3, beta=0.9), *theirs(torch.optim.SGD, lr=1e-3, momentum=0.9)),
            5,
        ),
        Kind("AMSGrad", (*ours("amsgrad"), *theirs(torch.optim.Adam, amsgrad=True, **adam)), 9),
        Kind("Lion", (*ours("lion"), *zoo("Lion", lr=1e-4)), 5),
        Kind(
            "Adam with two first moments",
            (*ours(TWO_MOMENTS), *zoo("AdEMAMix", weight_decay=0.01)),
            9,
        ),
    ]


def seconds(run: Callable[[], object]) -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measured(kind: Kind, of: Iterable[tuple[int, ...]], rounds: int) -> dict[str, float]:
    """The median step of each side, and of a copy of all parameters."""
    noise = torch.Generator(DEVICE).manual_seed(0)
    draw = partial(torch.randn, generator=noise, device=DEVICE)
    params = [nn.Parameter(0.02 * draw(s)) for s in of]
    for p in params:
        p.grad = 1e-3 * draw(p.shape)
    sides = {side.name: side.make(params) for side in kind.sides}
    for opt in sides.values():
        for _ in range(3):
            opt.step()
    other = [torch.empty_like(p) for p in params]
    runs: dict[str, Callable] = {n: opt.step for n, opt in sides.items()}
    runs["copy"] = lambda: torch._foreach_copy_(other, [p.detach() for p in params])
    times: dict[str, list[float]] = {n: [] for n in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {n: statistics.median(x) for n, x in times.items()}


def line(kind: Kind, threads: int, found: dict[str, float]) -> list[str]:
    """Rows of the table."""
    mine = {s.name for s in kind.sides if s.ours}
    best = min((x for n, x in found.items() if n not in {*mine, "copy"}), default=None)
    floor = found["copy"] / 2 * kind.passes
    out = []
    for side in kind.sides:
        took = found[side.name]
        ratio = f"{took / best:.2f}" if best and side.ours else ""
        cells = (
            kind.name,
            str(threads),
            side.name,
            f"{took * 1e3:,.1f}",
            f"{took / floor:.1f}",
            ratio,
        )
        out.append(f"| {' | '.join(cells)} |")
    return out


ABOUT = """\
{tensors} tensors, {million:.1f} million parameters in float32 on {device}. Milliseconds of a step, the median of \
{rounds} rounds in which the sides of a kind take turns on the same parameters and gradients. The floor is what \
reading and writing each parameter, gradient and memory once takes at the speed of a copy in the same rounds. Last \
column: our time over that of the fastest peer."""


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option(
    "--threads", multiple=True, type=int, help="Of torch, repeatable.  [default: 1 and all]"
)
@click.option("--quick", is_flag=True, help="Tiny sizes, to try the script.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write it here.")
def main(rounds: int, threads: tuple[int, ...], quick: bool, out: Path | None) -> None:
    """Steps of generated optimizers and of their peers."""
    sizes = [(64, 32), (32,)] if quick else shapes()
    counts = threads or tuple(dict.fromkeys((1, os.cpu_count() or 1)))
    count = sum(torch.Size(s).numel() for s in sizes)
    said = ABOUT.format(tensors=len(sizes), million=count / 1e6, device=DEVICE, rounds=rounds)
    rows = [
        "| optimizer | threads | step | ms | times the floor | of the best peer |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for n in counts if DEVICE == "cpu" else counts[:1]:
        torch.set_num_threads(n)
        for kind in kinds():
            found = measured(kind, sizes, rounds)
            rows += line(kind, n, found)
            click.echo("\n".join(rows[-len(kind.sides) :]), err=True)
    text = "\n\n".join(["# Optimizers", surroundings(), said, "\n".join(rows)]) + "\n"
    if quick:
        text += "\nA trial of the script at tiny sizes: no number here says anything.\n"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
