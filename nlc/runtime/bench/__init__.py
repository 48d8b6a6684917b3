"""Tokens a second and peak memory of a token system against T: every backend, forward, with backward, step by step.

The backends take turns in every round, so that what else the machine does slows all of them. Each is as ``nlc compile``
gives it. Memory is measured first and by itself (``peak``): what does not fit is then known before this process tries.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from nlc.base.diagnostics import SpecError
from nlc.runtime.bench import peak
from nlc.runtime.bench.cases import MODES, Ask, Case
from nlc.runtime.bench.machine import machine
from nlc.runtime.bench.report import Benchmark, Cell
from nlc.tools.sizes import BadHyper, settled

if TYPE_CHECKING:
    from nlc.pipeline import Spec

PROBE = 128  # tokens of the run from which the time of the first length is foretold
MOST = 20  # runs of a cell
PEAKS = 3  # processes whose memory is looked at, where there is time: now and then one finds no use for what it freed


class NotMeasurable(ValueError):
    """A system or a device that this benchmark is not for."""


def bench(
    spec: Spec,
    backends: Iterable[str],
    *,
    every: bool,
    tokens: Sequence[int],
    batch: int,
    hypers: Mapping[str, Any],
    dtype: str,
    device: str,
    threads: int | None,
    seconds: float,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> Benchmark:
    """All cells; ``Spec.bench`` says what the arguments are.

    ``every``: a backend that refuses the spec is an error, not left out.
    """
    system = spec.system
    if system.context != "tokens":
        raise NotMeasurable(
            f"`bench` measures token systems, and `{system.name}` has the context {system.context};"
            " optimizers have benchmarks of their own, such as `examples/digits.py`"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise NotMeasurable("this torch has no CUDA device")
    values = settled(system, hypers)
    with _threads(threads) as count:
        ask = Ask(
            spec.source.text,
            spec.source.name,
            spec.as_operator,
            dict(hypers),
            batch,
            dtype,
            device,
            count,
            seed,
        )
        where = machine(device)  # before the load is our own
        made, refused = _compiled(spec, backends, every, dict(hypers))
        tell = progress or (lambda _: None)
        run = _Run(spec, made, ask, seconds, tell)
        cells = tuple(run.cells(tokens))
        tell("")
    return Benchmark(
        system.name,
        spec.as_operator,
        {n: values[n] for n in system.hypers},
        batch,
        dtype,
        device,
        count,
        seed,
        seconds,
        where,
        (*refused, *_notes(run, seconds)),
        cells,
    )


@contextmanager
def _threads(count: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)


def _compiled(
    spec: Spec, backends: Iterable[str], every: bool, hypers: dict[str, Any]
) -> tuple[dict[str, type], list[str]]:
    """The classes by backend, and a line for each backend that refuses the spec."""
    made: dict[str, type] = {}
    refused, error = [], None
    for name in dict.fromkeys(backends):
        try:
            made[name] = spec.compile(name)
        except SpecError as e:
            if every:
                raise
            error, first = e, e.report.ordered[0]
            refused.append(f"{name} cannot compile this: {first.message} ({first.code})")
            continue
        try:
            made[name](**hypers)
        except ValueError as e:
            raise BadHyper(str(e)) from None
    if not made and error is not None:
        raise error
    return made, refused


@dataclass(frozen=True)
class _Ready:
    """A case to time, the bytes of its peak, and what is to be said of it."""

    case: Case
    peak: int | None
    note: str


def _measured(cell: Cell, ready: _Ready, times: list[float]) -> Cell:
    each = [t / ready.case.parts for t in times]
    return replace(
        cell,
        seconds=statistics.median(each),
        runs=len(each),
        spread=_spread(each),
        peak=ready.peak,
        note=ready.note,
    )


class _Run:
    """The cells of a benchmark, one length of one mode after the other, its backends in turns."""

    def __init__(
        self,
        spec: Spec,
        made: dict[str, type],
        ask: Ask,
        seconds: float,
        progress: Callable[[str], None],
    ):
        self.spec, self.made, self.ask = spec, made, ask
        self.seconds, self.progress = seconds, progress
        self.rates: dict[tuple[str, str], float] = {}  # seconds a token, of the last length
        self.fresh = peak.Fresh(ask) if ask.device == "cpu" and peak.measurable() else None

    def cells(self, tokens: Sequence[int]) -> Iterator[Cell]:
        lengths = sorted(set(tokens))
        try:
            for mode in MODES:
                for length in lengths:
                    yield from self._row(mode, length, lengths[0])
        finally:
            if self.fresh:
                self.fresh.close()

    def _row(self, mode: str, length: int, least: int) -> list[Cell]:
        out: dict[str, Cell] = {}
        ready: dict[str, _Ready] = {}
        for name in self.made:
            self.progress(f"{name}, {mode}, T = {length:,}")
            try:
                self._probe(name, mode, least)
                if why := self._too_long(name, mode, length):
                    out[name] = Cell(name, mode, length, "skipped", note=why)
                else:
                    ready[name] = self._begun(name, mode, length)
            except (peak.Lost, RuntimeError, TypeError, ValueError) as error:
                # memory that runs out is a RuntimeError of torch; the others say what kernels do not take
                first = (str(error).splitlines() or [""])[0]
                kind = "" if isinstance(error, peak.Lost) else f"{type(error).__name__}: "
                out[name] = Cell(name, mode, length, "failed", note=f"{kind}{first}")
        for name, times in self._times({n: r.case for n, r in ready.items()}).items():
            self.rates[name, mode] = statistics.median(times) / length
            out[name] = _measured(Cell(name, mode, length), ready[name], times)
        return [out[name] for name in self.made]

    def _case(self, name: str, mode: str, length: int) -> Case:
        return Case(self.spec, self.made[name], self.ask, mode, length)

    def _probe(self, name: str, mode: str, least: int) -> None:
        """A short run, for what the first use of anything costs, and another that foretells the longer ones."""
        if (name, mode) not in self.rates:
            length = min(PROBE, least)
            case = self._case(name, mode, length)
            case.begin()
            case.run()
            self.rates[name, mode] = case.seconds() / length

    def _too_long(self, name: str, mode: str, length: int) -> str:
        """Why a cell is not measured; empty if it is. Time is taken to grow with T."""
        expected = self._expected(name, mode, length)
        if expected <= self.seconds:
            return ""
        what = f"the {length:,} tokens before" if mode == "step" else "a call"
        return f"{what} would take about {expected:.3g} s, and a cell has {self.seconds:g} s"

    def _expected(self, name: str, mode: str, length: int) -> float:
        """Seconds of a call; of what comes before the first step, which is longer than steps are."""
        return self.rates[name, "forward" if mode == "step" else mode] * length

    def _begun(self, name: str, mode: str, length: int) -> _Ready:
        """Its memory at the peak where it can be known, and the case after a first run at this length."""
        most: int | None = None
        if self.fresh:
            times = self.seconds / max(self._expected(name, mode, length), 1e-9)
            peaks = [
                self.fresh.peak(name, mode, length, limit=60 + 20 * self.seconds)
                for _ in range(PEAKS if times >= PEAKS else 1)
            ]
            most = statistics.median_low(peaks)
        case = self._case(name, mode, length)
        if case.device.type == "cuda":
            most = peak.on_cuda(case)
        else:
            case.begin()
        return _Ready(case, most, "" if case.finite() else "what comes out is not finite")

    def _times(self, cases: Mapping[str, Case]) -> dict[str, list[float]]:
        """Seconds of each run, in rounds that visit every case; each stops when its time is up."""
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(MOST):
            for name, case in cases.items():
                mine = times[name]
                if not mine or sum(mine) + mine[-1] <= self.seconds:
                    mine.append(case.seconds())
        return times


def _spread(times: list[float]) -> float | None:
    if len(times) < 3:
        return None
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / middle


def _notes(run: _Run, seconds: float) -> list[str]:
    first = next(iter(run.made))
    ratio = f"; the ratio is to {first}" if len(run.made) > 1 else ""
    if run.ask.device == "cpu" and not run.fresh:
        memory = "memory is not measured on this system, which does not say how large a process was"
    else:
        where = f"the median of up to {PEAKS} fresh processes" if run.fresh else "torch's count"
        memory = f"memory is the peak of a run beyond the weights and its inputs, by {where}"
    return [
        f"medians of up to {MOST} runs within {seconds:g} s a cell, the backends in turns{ratio}",
        memory,
        "each backend as `nlc compile` gives it: nothing is tuned to this machine",
    ]


__all__ = ["Benchmark", "Cell", "NotMeasurable", "bench"]
