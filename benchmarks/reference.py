"""Shows that the reference backend is linear in T: time and memory, forward and backward, at T and at 2T.

    python benchmarks/reference.py --out benchmarks/results/reference.md

Time is the median over rounds that visit every length in turn; memory is how far a fresh process grows. A ratio of two
is linear; the aim is to stay under 2.4 (short lengths may grow less, for part of the cost does not depend on T).
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import torch

import nlc

AIM = 2.4


class Case:
    """The gated delta rule as an operator or as a whole layer, with inputs for one length."""

    def __init__(self, kind: str, length: int, batch: int, d: int, heads: int) -> None:
        torch.manual_seed(0)
        operator = kind == "operator"
        self.module = nlc.compile("gated_delta_net", "reference", operator=operator)(
            d=d, heads=heads
        )
        if operator:
            q, k, v = torch.randn(3, batch, length, heads, d // heads)
            gates = torch.rand(2, batch, length, heads)
            k = torch.nn.functional.normalize(k, dim=-1)
            self.inputs = dict(q=q, k=k, v=v, alpha=gates[0], beta=gates[1])
        else:
            self.inputs = dict(x=torch.randn(batch, length, d))
        for flow in self.inputs.values():
            flow.requires_grad_()

    def run(self) -> None:
        y, _ = self.module(**self.inputs)
        y.square().mean().backward()

    def seconds(self) -> float:
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start


def _resident(field: str) -> int:
    """Bytes resident now (``VmRSS``) or at most so far (``VmHWM``); Linux only."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


def peak(kind: str, length: int, sizes: tuple[int, int, int], threads: int) -> int:
    """Bytes by which this process grows at its peak; meant for a process that did nothing before."""
    torch.set_num_threads(threads)
    Case(kind, 8, *sizes).run()  # what the first use of anything costs
    case = Case(kind, length, *sizes)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peaks so far
    case.run()
    return _resident("VmHWM") - before


def measure(
    kind: str, lengths: list[int], sizes: tuple[int, int, int], rounds: int, threads: int
) -> list[tuple[int, float, int]]:
    """(T, seconds, bytes) for every length."""
    torch.set_num_threads(threads)
    cases = [Case(kind, length, *sizes) for length in lengths]
    cases[0].run()
    times = [[case.seconds() for case in cases] for _ in range(rounds)]
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        tasks = [[pool.submit(peak, kind, n, sizes, threads) for n in lengths] for _ in range(3)]
        peaks = [[task.result() for task in row] for row in tasks]
    medians = [
        [statistics.median(column) for column in zip(*x, strict=True)] for x in (times, peaks)
    ]
    return list(zip(lengths, *medians, strict=True))


def table(rows: list[tuple[int, float, int]]) -> str:
    """Markdown; each ratio is to the row above."""
    lines = ["| T | time | ratio | memory | ratio |", "|---:|---:|---:|---:|---:|"]
    last: tuple[int, float, int] | None = None
    for length, seconds, size in rows:
        grown = ["", ""] if last is None else [f"{seconds / last[1]:.2f}", f"{size / last[2]:.2f}"]
        cells = [length, f"{seconds * 1e3:.0f} ms", grown[0], f"{size / 2**20:.0f} MiB", grown[1]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
        last = (length, seconds, size)
    return "\n".join(lines)


def worst(rows: list[tuple[int, float, int]]) -> float:
    """The largest ratio of a row to the one before."""
    return max(max(b[1] / a[1], b[2] / a[2]) for a, b in itertools.pairwise(rows))


def surroundings(threads: int) -> str:
    """Machine, versions and commit, as the results are worth nothing without them."""
    info = Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if "model name" in x] if info.exists() else []
    cpu = names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    return (
        f"{cpu}, {os.cpu_count()} cores, {threads} thread{'s' * (threads != 1)}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, nlc {nlc.__version__}, commit {commit}"
    )


@click.command()
@click.option(
    "--lengths", default="256,512,1024,2048", show_default=True, help="T, each twice the last."
)
@click.option("--batch", default=1, show_default=True)
@click.option(
    "--d", default=128, show_default=True, help="Channels of the layer, all heads together."
)
@click.option("--heads", default=2, show_default=True)
@click.option(
    "--rounds", default=15, show_default=True, help="Runs of each length; the median counts."
)
@click.option("--threads", default=1, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write it here.")
def main(
    lengths: str, batch: int, d: int, heads: int, rounds: int, threads: int, out: Path | None
) -> None:
    """Time and memory of the reference backend over T, forward and backward."""
    parts = [
        "# The reference backend is linear in T",
        f"`gated_delta_net`, forward and backward, float32, batch {batch}, d {d}, {heads} heads. "
        f"Median of {rounds} runs; memory is the growth of a fresh process, median of 3. Aim: ratios under {AIM}.",
        surroundings(threads),
    ]
    found = []
    for kind in ("operator", "layer"):
        rows = measure(
            kind, [int(n) for n in lengths.split(",")], (batch, d, heads), rounds, threads
        )
        parts += [f"## {kind.capitalize()}", table(rows)]
        found.append(worst(rows))
    parts.append(f"Largest ratio: {max(found):.2f}.")
    text = "\n\n".join(parts) + "\n"
    click.echo(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
    sys.exit(max(found) >= AIM)


if __name__ == "__main__":
    main()
