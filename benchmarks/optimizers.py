"""Generated optimizers against torch.optim's and pytorch-optimizer's, and against what moving the bytes takes.

    pip install -e ".[bench]"
    python benchmarks/optimizers.py --out benchmarks/results/optimizers.md

34 million parameters in 100 tensors of float32, as in a small GPT-2. All sides of a kind share parameters and
gradients and take turns, so that load hits them alike; the median of the rounds counts. On a GPU there are sides with
one launch for all tensors beside those of the CPU, and Newton-Schulz is in bfloat16, as torch.optim.Muon has it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import get_context
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
    """``make`` takes parameters; ``ours`` is compared with the peers, or with the side that ``beside`` names.

    A time is the mean of ``steps``, for what does not do the same in each.
    """

    name: str
    make: Callable[[list[Tensor]], Optimizer | Plain | Several]
    ours: bool = False
    beside: str = ""
    steps: int = 1


@dataclass(frozen=True)
class Kind:
    """Sides that do the same; ``passes`` over a tensor are the least: each memory read and written.

    None where the step is not a matter of memory. ``every``: one round in so many.
    """

    name: str
    sides: tuple[Side, ...]
    passes: int | None
    every: int = 1


def ours(spec: str, **hypers: object) -> tuple[Side, ...]:
    load = nlc.loads if "\n" in spec else nlc.load
    made = load(spec).compile("torch")
    sides = (
        Side("nlc", partial(made, **hypers), ours=True),
        Side("nlc, fused", partial(made, fused=True, **hypers), ours=True),
    )
    if DEVICE != "cuda":
        return sides
    return *sides, Side(
        "nlc, one launch", partial(load(spec).compile("triton"), **hypers), ours=True
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


class Several:
    """Optimizers that step after each other."""

    def __init__(self, *parts: Optimizer):
        self.parts = parts

    def step(self) -> None:
        for part in self.parts:
            part.step()


class Plain:
    """Muon as a person would write it: one matrix after the other, or those of a shape as a batch."""

    def __init__(self, matrices: list[Tensor], batched: bool, dtype: torch.dtype, lr: float = 1e-3):
        by_shape: dict[tuple, list[Tensor]] = {}
        for i, p in enumerate(matrices):
            by_shape.setdefault((*p.shape, 0 if batched else i), []).append(p)
        self.groups = [(ps, [torch.zeros_like(p) for p in ps]) for ps in by_shape.values()]
        self.dtype, self.lr = dtype, lr

    @torch.no_grad()
    def step(self) -> None:
        for ps, ms in self.groups:
            ahead = []
            for p, m in zip(ps, ms, strict=True):
                m.lerp_(p.grad, 0.05)
                ahead.append(p.grad.lerp(m, 0.95))
            rows, columns = ps[0].shape
            update = self.orthogonal(torch.stack(ahead) if len(ps) > 1 else ahead[0])
            for p, u in zip(ps, update if len(ps) > 1 else [update], strict=True):
                p.mul_(1 - self.lr * 0.1).add_(u, alpha=-self.lr * max(1, rows / columns) ** 0.5)

    def orthogonal(self, A: Tensor) -> Tensor:
        a, b, c = 3.4445, -4.775, 2.0315
        tall = A.shape[-2] > A.shape[-1]
        X = (A.mT if tall else A).to(self.dtype)
        X = X / torch.linalg.matrix_norm(X, keepdim=True).clamp(min=1e-7)
        product = torch.addmm if X.ndim == 2 else torch.baddbmm
        for _ in range(5):
            G = X @ X.mT
            X = product(X, product(G, G, G, beta=b, alpha=c), X, beta=a)
        return (X.mT if tall else X).to(A.dtype)


def parted(params: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The hidden matrices, and what AdamW trains beside them: embeddings and vectors."""
    hidden = [p for p in params if p.ndim == 2 and p.shape[0] not in (VOCABULARY, CONTEXT)]
    return hidden, [p for p in params if not any(p is q for q in hidden)]


def with_adamw(make: Callable[[list[Tensor]], Optimizer]) -> Callable[[list[Tensor]], Several]:
    def both(params: list[Tensor]) -> Several:
        hidden, rest = parted(params)
        return Several(make(hidden), torch.optim.AdamW(rest, lr=3e-4, fused=True))

    return both


def matrices() -> Kind:
    """Muon and what it is compared with, and M3 with what it holds for eight steps beside Muon."""
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    backends = {"nlc": "torch"} | ({"nlc, one launch": "triton"} if DEVICE == "cuda" else {})

    def own(spec: str, backend: str, **given: object) -> Callable[[list[Tensor]], Optimizer]:
        made = nlc.load(spec).compile(backend)

        def make(params: list[Tensor]) -> Optimizer:
            hidden, rest = parted(params)
            groups = [{"params": hidden}, {"params": rest, "rule": "rest"}]
            return made(groups, matrix_dtype=dtype, **given)

        return make

    sides = [Side(f"{n} muon", own("muon", b), ours=True) for n, b in backends.items()]
    sides += [
        Side("nlc muon, fused", own("muon", "torch", fused=True), ours=True),
        Side("nlc m3, mean of 8", own("m3", "torch", f=8), beside="nlc muon", steps=8),
        Side("torch Muon, bfloat16", with_adamw(partial(torch.optim.Muon, lr=1e-3))),
        Side("a plain loop", with_adamw(partial(Plain, batched=False, dtype=dtype))),
        Side("a plain batch", with_adamw(partial(Plain, batched=True, dtype=dtype))),
    ]
    return Kind("Muon", tuple(sides), None, every=4)


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
        matrices(),
    ]


def seconds(run: Callable[[], object]) -> float:
    """Of one thread those of the processor, which other work on the machine hardly changes."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    clock = (
        time.process_time if DEVICE == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    )
    start = clock()
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measured(kind: Kind, of: Iterable[tuple[int, ...]], rounds: int) -> dict[str, float]:
    """The median step of each side, and of a copy of all parameters."""
    noise = torch.Generator(DEVICE).manual_seed(0)
    draw = partial(torch.randn, generator=noise, device=DEVICE)
    params = [nn.Parameter(0.02 * draw(s)) for s in of]
    slopes = [1e-3 * draw(p.shape) for p in params]

    def backward() -> None:
        """Gradients in new memory, from the last parameter to the first."""
        for p in params:
            p.grad = None
        for p, slope in zip(reversed(params), reversed(slopes), strict=True):
            p.grad = slope.clone()

    backward()
    sides = {side.name: side.make(params) for side in kind.sides}
    for opt in sides.values():
        for _ in range(3 if kind.every == 1 else 1):
            opt.step()
    other = [torch.empty_like(p) for p in params]
    runs: dict[str, Callable] = {n: opt.step for n, opt in sides.items()}
    runs["copy"] = lambda: torch._foreach_copy_(other, [p.detach() for p in params])
    times: dict[str, list[float]] = {n: [] for n in runs}
    steps = {side.name: side.steps for side in kind.sides}
    for _ in range(-(-rounds // kind.every)):
        for name, run in runs.items():
            took = []
            for _ in range(steps.get(name, 1)):
                backward()
                took.append(seconds(run))
            times[name].append(statistics.mean(took))
    return {n: statistics.median(x) for n, x in times.items()}


def table(name: str, threads: int, sizes: list[tuple[int, ...]], rounds: int) -> list[str]:
    """The rows of a kind, in a process of its own: what ran before decides which memory is at hand."""
    torch.set_num_threads(threads)
    kind = next(x for x in kinds() if x.name == name)
    found = measured(kind, sizes, rounds)
    mine = {s.name for s in kind.sides if s.ours or s.beside}
    best = min((x for n, x in found.items() if n not in {*mine, "copy"}), default=None)
    floor = found["copy"] / 2 * kind.passes if kind.passes else None
    out = []
    for side in kind.sides:
        took = found[side.name]
        other = found[side.beside] if side.beside else best if side.ours else None
        ratio = f"{took / other:.2f}" if other else ""
        ratio += f" of {side.beside}" if side.beside else ""
        cells = (
            kind.name,
            str(threads),
            side.name,
            f"{took * 1e3:,.1f}",
            f"{took / floor:.1f}" if floor else "",
            ratio,
        )
        out.append(f"| {' | '.join(cells)} |")
    return out


ABOUT = """\
{tensors} tensors, {million:.1f} million parameters in float32 on {device}. Milliseconds of a step, the median of \
{rounds} rounds in which the sides of a kind take turns on the same parameters and gradients; at one thread those of \
the processor. The floor is what reading and writing each parameter, gradient and memory once takes at the speed of \
a copy in the same rounds. Of the best peer: our time over that of the fastest. Of Muon, the {hidden} hidden \
matrices have its rule and the rest AdamW's, by torch's fused one beside the peers; rounds are a fourth as many. The \
plain loop and the plain batch of matrices of a shape are written out in `benchmarks/optimizers.py`, with the \
products in {matrices}.

Each kind has a process of its own, and before each step, outside of its time, all gradients are made anew, as a \
backward pass does. Else it is left to chance whether the C library has memory for the temporary tensors of a step or \
pages it in, on which the time of loops over tensors depends."""


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option(
    "--threads", multiple=True, type=int, help="Of torch, repeatable.  [default: 1 and all]"
)
@click.option("--kind", "only", multiple=True, help="Of optimizers, repeatable.  [default: all]")
@click.option("--quick", is_flag=True, help="Tiny sizes, to try the script.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write it here.")
def main(
    rounds: int, threads: tuple[int, ...], only: tuple[str, ...], quick: bool, out: Path | None
) -> None:
    """Steps of generated optimizers and of their peers."""
    sizes = [(64, 32), (32,)] if quick else shapes()
    counts = threads or tuple(dict.fromkeys((1, os.cpu_count() or 1)))
    count = sum(torch.Size(s).numel() for s in sizes)
    said = ABOUT.format(
        tensors=len(sizes),
        million=count / 1e6,
        device=DEVICE,
        rounds=rounds,
        hidden=len(parted([torch.empty(s, device="meta") for s in sizes])[0]),
        matrices="bfloat16" if DEVICE == "cuda" else "float32",
    )
    rows = [
        "| optimizer | threads | step | ms | times the floor | of the best peer |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for n in counts if DEVICE == "cpu" else counts[:1]:
        for name in (x.name for x in kinds() if not only or x.name in only):
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                rows += (found := alone.submit(table, name, n, sizes, rounds).result())
            click.echo("\n".join(found), err=True)
    text = "\n\n".join(["# Optimizers", surroundings(), said, "\n".join(rows)]) + "\n"
    if quick:
        text += "\nA trial of the script at tiny sizes: no number here says anything.\n"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
