"""A benchmark as a picture: tokens a second and peak memory against T, both axes logarithmic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlc.runtime.bench.report import Benchmark

_LINES = {"forward": "-", "forward+backward": "--", "step": ":"}


class CannotPlot(Exception):
    """What is missing for a picture, and the way out."""


def ready(path: Path) -> None:
    """Raises CannotPlot now rather than after everything was measured."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise CannotPlot(
            "a plot needs matplotlib: `pip install matplotlib`, or take the numbers by `--format csv`"
        ) from None
    kinds = sorted(FigureCanvasAgg.filetypes)
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise CannotPlot(f"a plot is written as one of {', '.join(kinds)}, not as `{path.name}`")


def plot(result: Benchmark, path: Path) -> None:
    """Writes the picture; what was not measured has no point in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    speed, memory = figure.subplots(1, 2)
    _draw(speed, result, "tokens/s", result.speed)
    _draw(memory, result, "peak memory, MiB", lambda c: c.peak / 2**20 if c.peak else None)
    if speed.lines:
        speed.legend(fontsize="small")
    name = f"{result.system}{' as an operator' if result.operator else ''}"
    figure.suptitle(f"{name}, batch {result.batch}, {result.dtype} on {result.device}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw(axes: Any, result: Benchmark, label: str, value: Any) -> None:
    lengths = sorted({c.tokens for c in result.cells})
    for number, backend in enumerate(result.backends):
        for mode in result.modes:
            cells = [c for c in result.cells if (c.backend, c.mode) == (backend, mode)]
            points = [(c.tokens, y) for c in cells if (y := value(c)) is not None]
            if points:
                style = {"color": f"C{number}", "linestyle": _LINES.get(mode, "-"), "marker": "."}
                axes.plot(*zip(*points), label=f"{backend}, {mode}", **style)
    axes.set(xscale="log", yscale="log", xlabel="T", ylabel=label)
    axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
