"""What the processor does for a call of the backend `triton` and of flash-linear-attention: kernels that nothing runs.

    python benchmarks/launches.py --out benchmarks/results/launches.md

A GPU waits for a processor that launches too late, as both sides' short calls and single tokens do. This needs no
GPU: a driver that launches nothing takes the place of CUDA's, kernels are compiled for a Hopper GPU, and a call is
timed with all that Python does for it, at sizes at which PyTorch's own operations take next to nothing. What CUDA
itself takes for each launch is not in it, so launches are counted, too.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # or Triton warns

import click
import kernels
import torch
import triton
from chunked import Median, surroundings
from kernel_rules import MODES, RULES, Row
from triton.backends.compiler import GPUTarget

TIMED = MODES[:3]
CALLS = 50  # of a side in a round
SIDES = ("triton", "fla")


@dataclass
class Idle:
    """A driver of Triton that loads and launches nothing; ``launches`` counts."""

    launches: int = 0
    binary_ext: str = "cubin"
    utils: Any = field(init=False)
    launcher_cls: Any = field(init=False)

    def __post_init__(self) -> None:
        loaded = 1, 1, 32, 0, 1024  # module, function, registers, spills, threads at most
        limits = dict(max_shared_mem=232448, multiprocessor_count=132, warpSize=32, max_num_regs=65536)  # fmt: skip
        self.utils = SimpleNamespace(
            load_binary=lambda *_: loaded,
            get_device_properties=lambda _: limits,
            unload_module=lambda *_: None,
        )
        self.launcher_cls = lambda *_: self.launched

    def launched(self, *_: Any, **__: Any) -> None:
        self.launches += 1

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Callable[..., list[float]]:
        """For fla, which tries configurations: each is as fast as any."""

        def tried(run: Callable[[], Any], quantiles: Any = None, **_: Any) -> list[float]:
            run()
            return [1.0] * len(quantiles or [0])

        return tried


def without_a_gpu() -> Idle:
    """The driver in its place, and what fla asks of the GPU answered as an H200 does."""
    driver = Idle()
    triton.runtime.driver.set_active(driver)
    gpu = SimpleNamespace(
        name="NVIDIA H200", major=9, minor=0, multi_processor_count=132, total_memory=141 << 30
    )
    torch.cuda.get_device_properties = lambda *_: gpu  # type: ignore[assignment]
    torch.cuda.get_device_capability = lambda *_: (9, 0)  # type: ignore[assignment]
    torch.cuda.get_device_name = lambda *_: gpu.name  # type: ignore[assignment]
    kernels.CUDA, kernels.DEVICE = True, "cpu"
    return driver


def side(kind: str, row: Row) -> kernels.Side:
    """A side at a row, which has been called before."""
    made = kernels.made(kind, row, row.batch)
    if kind == "triton":
        net = kernels._net(row.rule, row.heads, row.n, kind, torch.bfloat16)
        module: Any = sys.modules[type(net).__module__]
        module.on_gpu = module.checked = lambda *_, **__: None
        if hasattr(module, "in_one"):  # as where programs fill a GPU
            module.in_one = lambda *_: True
    made.begin(kernels.drawn(row, row.batch, row.length), row.mode)
    return made


def measured(row: Row, driver: Idle, rounds: int) -> dict[str, tuple[Median, int] | str]:
    """By side: seconds of the processor for a call, and its launches; or why there are none."""
    sides: dict[str, kernels.Side] = {}
    out: dict[str, tuple[Median, int] | str] = {}
    for kind in SIDES:
        try:
            sides[kind] = side(kind, row)
        except (ImportError, RuntimeError) as error:
            out[kind] = str(error).splitlines()[0]
    times: dict[str, list[float]] = {kind: [] for kind in sides}
    counts = {}
    for _ in range(rounds):
        for kind, one in sides.items():
            begun, start = driver.launches, time.process_time()
            for _ in range(CALLS):
                one.once()
            times[kind].append((time.process_time() - start) / CALLS)
            counts[kind] = (driver.launches - begun) // CALLS
    for kind, each in times.items():
        both = each * 2  # a single round has quartiles, too
        low, middle, high = statistics.quantiles(both, n=4, method="inclusive")
        out[kind] = Median(middle, (high - low) / middle), counts[kind]
    return out


def table(found: dict[Row, dict[str, tuple[Median, int] | str]]) -> str:
    """Markdown."""
    lines = [
        "| rule | mode | `triton` | launches | fla | launches | fla / `triton` |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row, sides in found.items():
        cells, medians = [RULES[row.rule].title, row.mode], []
        for kind in SIDES:
            figure = sides[kind]
            if isinstance(figure, str):
                cells += [figure, ""]
                continue
            median, count = figure
            medians.append(median.seconds)
            cells += [f"{median.seconds * 1e6:,.0f} µs ± {median.spread / 2:.0%}", str(count)]
        cells.append(f"{medians[1] / medians[0]:.2f}" if len(medians) == 2 else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


ABOUT = """\
What the processor does for a call, when a driver that launches nothing takes the place of CUDA's and kernels are \
compiled for sm_90: checks of arguments, views, allocations, Triton's own binding of arguments, and autograd. One \
sequence of 128 tokens, 2 heads of 16 channels, bfloat16. Medians of {rounds} rounds of {calls} calls in which sides \
take turns, in the processor's time, ± half of what lies between the quartiles. Forward and step want no slopes; a \
step has a state. Ours is the module that a spec compiles to, with its checks of shapes and of the state; fla's the \
function of its `ops`."""


@click.command()
@click.option("--rounds", default=9, show_default=True)
@click.option("--only", type=click.Choice(list(RULES)), multiple=True, help="These rules alone.")
@click.option("--mode", "modes", type=click.Choice(TIMED), multiple=True, help="These modes alone.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write it here.")
def main(rounds: int, only: tuple[str, ...], modes: tuple[str, ...], out: Path | None) -> None:
    """What Python takes for a call, in microseconds."""
    torch.set_num_threads(1)
    driver = without_a_gpu()
    rules = [r for r in (only or RULES) if RULES[r].operator and not RULES[r].packed]
    found = {}
    for row in (Row(r, 1, 2, 128, 16, mode) for r in rules for mode in modes or TIMED):
        found[row] = measured(row, driver, rounds)
    about = ABOUT.format(rounds=rounds, calls=CALLS)
    head = f"{surroundings()}, Triton {triton.__version__}"
    text = "\n\n".join(["# Launches", head, about, table(found)]) + "\n"
    click.echo(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
