"""Times the kernels of one kind as candidates say, each checked first, in a process of its own.

A kernel that was compiled wrongly can take the CUDA context with it, or never end: the candidate that was at work is
then left out, and a new process goes on with the rest.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nlc.runtime.bench.cases import Ask, Case

RUNS = 10  # of a candidate; the median counts
SPILLS = 64  # words of a thread, above which a candidate is not timed
PATIENCE = 300.0  # seconds in which a process must say something

Config = tuple[int, int, int]  # channels of dv, warps, stages
Target = tuple[str, int, int]  # kind, dk, dv
Found = tuple[Target, Config, float | str]  # seconds, or why a candidate does not count
# Does a launch of some sizes; what it returns says how many seconds that took, once all is done.
Clock = Callable[[Callable[[], None], Mapping[str, Any]], Callable[[], float]]


class NotTunable(ValueError):
    """A system or a machine that there is nothing to tune for."""


class _Discarded(Exception):
    """A candidate that does not count, and why."""


@dataclass(frozen=True)
class Job:
    """What a process does: candidates, timed in a mode of a case."""

    ask: Ask
    mode: str
    tokens: int
    clock: Clock
    work: tuple[tuple[Target, Config], ...]


def apart(job: Job) -> Iterator[Found]:
    """``here`` in a process, and in another where that ends before it is done."""
    context = multiprocessing.get_context("spawn")
    left = list(job.work)
    while left:
        mine, its = context.Pipe(duplex=False)
        args, before = (its, replace(job, work=tuple(left))), len(left)
        process = context.Process(target=_serve, args=args, daemon=True)
        process.start()
        its.close()
        try:
            said = _next(mine)
            if said != "ready":
                raise NotTunable(f"the spec does not run at these sizes: {said or _end(process)}")
            while left and (said := _next(mine)):
                left.remove(said[:2])
                yield said
            if left and ((how := _end(process)) or len(left) == before):
                yield *left.pop(0), f"its process {how or 'ended'}"
        finally:
            process.kill()
            process.join()
            mine.close()


def _next(pipe: Any) -> Any:
    """What a process says, None if it has ended or takes too long."""
    with suppress(EOFError):
        return pipe.recv() if pipe.poll(PATIENCE) else None


def _end(process: Any) -> str:
    """How it ended; nothing if it wanted to."""
    process.join(5)
    code = process.exitcode
    return (
        f"took more than {PATIENCE:.0f} s" if code is None else f"ended with {code}" * (code != 0)
    )


def _serve(pipe: Any, job: Job) -> None:
    try:
        trial = _Trial(job)
    except Exception as error:
        pipe.send(_line(error))
        return
    pipe.send("ready")
    for found in trial.all():
        pipe.send(found)


def here(job: Job) -> Iterator[Found]:
    """What each candidate comes to, in this process; the last is the one after which the GPU does nothing more."""
    yield from _Trial(job).all()


class _Trial:
    """A case of which the launches of one kind are timed and checked."""

    def __init__(self, job: Job):
        torch.set_num_threads(job.ask.threads)
        spec = job.ask.spec()
        made = spec.compile("triton")
        self.module = sys.modules[made.__module__]
        self.case = Case(spec, made, job.ask, job.mode, job.tokens)
        self.job, self.clock = job, job.clock
        self.usual, self.launched = self.module.configured, self.module.launch
        self.forced: dict[Target, Config] = {}
        self.times: list[Callable[[], float]] | None = None  # None where nothing is timed
        self.checks: dict[tuple[str, int, int, int], tuple] = {}  # of operators that the case runs
        self.compiled: list[Any] = []

    def all(self) -> Iterator[Found]:
        names = {n: getattr(self, n) for n in ("configured", "launch", "checked")}
        with patched(self.module, sizes_of=saying(self.module), **names):
            for target, config in self.job.work:
                lost = False
                try:
                    found: float | str = self.seconds(target, config)
                except _Discarded as error:
                    found = str(error)
                except Exception as error:
                    found, lost = _line(error), self._lost()
                yield target, config, found
                if lost:
                    return

    def _lost(self) -> bool:
        """Whether the GPU does nothing more for this process."""
        with suppress(RuntimeError):
            if self.case.device.type == "cuda":
                torch.cuda.synchronize()
            return False
        return True

    def seconds(self, target: Target, config: Config) -> float:
        """Of a launch, the mean of a run and the median of runs."""
        self.forced, self.times = {target: config}, None
        self.compiled.clear()
        if self.case.state is None:
            self.case.begin()
        self.case.seconds()
        spills = max((getattr(x, "n_spills", None) or 0 for x in self.compiled), default=0)
        if spills > SPILLS and config != fitting(self.module, target, self.usual(*target)):
            raise _Discarded(f"spills {spills} words of a thread")
        same = [(*x, y) for x, y in self.checks.items() if x[1:3] == target[1:]]
        for _, _, dv, C, packed, (operator, meaning, k, axes) in same:
            cuts = [True] * packed  # a file that has no such sequences does not ask for them
            if wrong := self.module.differs(operator, meaning, k, dv, C, *cuts, **axes):
                raise _Discarded(wrong)
        found = []
        for _ in range(RUNS):
            self.times = []
            self.case.seconds()
            found.append(statistics.fmean(took() for took in self.times))
        return statistics.median(found)

    def configured(self, *target: Any) -> Config:
        return self.forced.get(target) or self.usual(*target)

    def checked(
        self,
        operator: Any,
        meaning: Any,
        k: Tensor,
        dv: int,
        T: int,
        packed: bool = False,
        /,
        **axes: str | int,
    ) -> None:
        """Instead of the file's own, whose verdicts end the run: which operators there are to check."""
        dk = k.shape[-1]
        C = 1 if T == 1 and not packed else self.module.chunk_of(dk, dv, T, k.dtype)
        self.checks[str(operator), dk, dv, C, packed] = operator, meaning, k.new_empty(1, dk), axes

    def launch(self, kernel: Any, *args: Any, KIND: Target | None = None, **sizes: Any) -> None:
        if KIND not in self.forced:
            self.launched(kernel, *args, **sizes)
            return

        def run() -> None:
            self.launched(_Kept(kernel, self.compiled), *args, **sizes)

        if self.times is None:
            run()
        else:
            self.times.append(self.clock(run, {**sizes, "KIND": KIND}))


class _Kept:
    """A kernel, of which is kept what was compiled."""

    def __init__(self, kernel: Any, compiled: list[Any]):
        self.kernel, self.compiled, self.fn = kernel, compiled, kernel.fn

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **named: self.compiled.append(self.kernel[grid](*args, **named))


def saying(module: ModuleType) -> Callable[..., dict[str, Any]]:
    """``sizes_of`` of a generated file, which also says of what the sizes are."""
    whole = module.sizes_of

    def sizes_of(kind: str, dk: int, dv: int, T: int, dtype: torch.dtype) -> dict[str, Any]:
        sizes = whole(kind, dk, dv, T, dtype)
        return sizes | {"KIND": (module.kind_of(kind, dtype), dk, dv)}

    return sizes_of


def fitting(module: ModuleType, target: Target, config: Config) -> Config:
    """A configuration with the channels that there are."""
    return module.width(max(target[1:]), config[0]), *config[1:]


@contextmanager
def patched(module: ModuleType, **names: Any) -> Iterator[None]:
    """A module with other things under some names."""
    kept = {n: getattr(module, n) for n in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(kept)


class Events:
    """The clock of a GPU, whose caches are cleared before: that also hides what a launch costs the CPU."""

    cleared: Tensor | None = None

    def __call__(self, launch: Callable[[], None], sizes: Mapping[str, Any]) -> Callable[[], float]:
        if self.cleared is None:
            self.cleared = torch.empty(2**28, dtype=torch.int8, device="cuda")
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.cleared.zero_()
        start.record()
        launch()
        end.record()
        return lambda: start.elapsed_time(end) / 1e3


def wall(launch: Callable[[], None], sizes: Mapping[str, Any]) -> Callable[[], float]:
    """The clock of a CPU."""
    start = time.perf_counter()
    launch()
    took = time.perf_counter() - start
    return lambda: took


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
