"""The kernels of the backend `triton` against flash-linear-attention's, the backend `torch` and what bytes alone cost.

    python benchmarks/kernels.py --out benchmarks/results/kernels.md

Sides take turns in each round on one GPU; times are CUDA events. A side is timed only where its outputs and gradients
agree with `torch` in float32; a row that breaks says how, as each rule runs in a process of its own, which starts again
behind a crash. The file is written after every row. Ends with 1 if fla is faster somewhere, or our side is wrong or
fails. `--quick` tries the script at sizes that say nothing; without a GPU it needs TRITON_INTERPRET=1.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import click
import torch
import triton
from kernel_rules import CHUNK, DECAYS, MODES, RULES, SHIFT, Flows, Row, rows_of, spec_of
from kernel_table import ABOUT, CUDA, NONE, SIDES, TUNING, cell, missed, table, where
from torch import Tensor

from nlc.runtime.trials import patched
from nlc.tools.sizes import settled

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if CUDA else "cpu"
LIMIT = 150  # seconds of a side in a row

# ------------------------------------------------------------------------------------------------ one side


@dataclass
class Side:
    """``kernel`` takes flows as ``prepare`` makes them, which is not timed."""

    kernel: Callable[[Flows], Tensor]
    prepare: Callable[[Flows], Flows] = dict
    weights: list[Tensor] = field(default_factory=list)
    flows: Flows = field(default_factory=dict)
    slope: Tensor | None = None  # of the outputs, in the mode with a backward

    def begin(self, flows: Flows, mode: str) -> None:
        """What is timed from now on."""
        backward = mode == "forward+backward"
        with torch.no_grad():
            self.flows = {n: x.detach() for n, x in self.prepare(flows).items()}
        for x in self.flows.values():
            x.requires_grad_(backward)
        for _ in range(2):
            with torch.set_grad_enabled(backward):
                y = self.kernel(self.flows)
        self.slope = torch.randn_like(y) if backward else None
        if mode == MODES[3]:
            graph = torch.cuda.CUDAGraph()
            with torch.no_grad(), torch.cuda.graph(graph):
                y = self.kernel(self.flows)
            self.kernel = lambda _: graph.replay() or y
        self.once()

    def once(self, mark: Callable[[], object] = lambda: None) -> None:
        """A call; ``mark`` is told of its beginning, the end of its forward and its end."""
        mark()
        with torch.set_grad_enabled(self.slope is not None):
            y = self.kernel(self.flows)
        mark()
        if self.slope is not None:
            given = [*self.flows.values(), *self.weights]
            torch.autograd.grad(y, given, self.slope, allow_unused=True)
            mark()

    def seconds(self, calls: int) -> list[list[float]]:
        """Between the marks of each call; caches are emptied before each, and calls are queued as in training."""
        out: list[list[Any]] = []

        def mark() -> None:
            out[-1].append(torch.cuda.Event(enable_timing=True) if CUDA else time.perf_counter())
            if CUDA:
                out[-1][-1].record()

        for _ in range(calls):
            if CUDA:
                _flush().zero_()
            out.append([])
            self.once(mark)
        if CUDA:
            torch.cuda.synchronize()
            return [[a.elapsed_time(b) / 1e3 for a, b in pairwise(x)] for x in out]
        return [[b - a for a, b in pairwise(x)] for x in out]


@cache
def _flush() -> Tensor:
    return torch.empty(256 << 20, dtype=torch.uint8, device=DEVICE)


@cache
def bandwidth() -> float:
    """Bytes/s of a copy, read and written."""
    x, y = torch.empty(2, 1 << (30 if CUDA else 20), dtype=torch.uint8, device=DEVICE)
    copy = Side(lambda _: y.copy_(x))
    copy.once()
    return 2 * x.numel() / statistics.median(t[0] for t in copy.seconds(10))


@cache
def _net(rule: str, heads: int, n: int, backend: str, dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    return spec_of(rule).compile(backend)(**RULES[rule].hypers(heads, n)).to(DEVICE, dtype)


def drawn(row: Row, batch: int, length: int) -> Flows:
    """Random flows, the same ones for every side."""
    system = spec_of(row.rule).system
    values = settled(system, RULES[row.rule].hypers(row.heads, row.n))
    sizes = {k: v for k, v in values.items() if not isinstance(v, list)}
    torch.manual_seed(0)
    out = {}
    for name, i in system.inputs.items():
        shape = [sizes["heads"]] * i.head + [int(x.evaluate(sizes)) for x in i.dims]
        x = torch.randn(batch, length, *shape, device=DEVICE)
        if name in SHIFT:
            x = (x + SHIFT[name]).sigmoid()
        elif name in ("q", "k", "C"):
            x = torch.nn.functional.normalize(x.unflatten(-1, (-1, row.n)), dim=-1).flatten(-2)
        out[name] = x if name in DECAYS else x.bfloat16()
    return out


_do_bench = triton.testing.do_bench


@cache
def _state(rule: str, batch: int, heads: int, n: int) -> Flows:
    """Float32, after some tokens."""
    row = Row(rule, batch, heads, 64, n, "")
    flows = {k: x.float() for k, x in drawn(row, batch, 64).items()}
    with torch.no_grad():
        return _net(rule, heads, n, "torch", torch.float32)(**flows)[1]


def made(kind: str, row: Row, batch: int, dtype: torch.dtype = torch.bfloat16) -> Side:
    """A side; RuntimeError where it has no kernel."""
    rule, step = RULES[row.rule], row.mode.startswith("step")
    state = _state(row.rule, batch, row.heads, row.n) if step else {}
    packed: Callable[[Flows], Flows] = dict
    cut: dict[str, Tensor] = {}
    if rule.packed:
        packed, cut = _in_one, dict(cu_seqlens=_cuts(batch, row.length))
    if kind != "fla":
        net = _net(row.rule, row.heads, row.n, kind, dtype)
        if step:
            one = partial(net.step, state=state)
            return Side(lambda f: one(**f)[0], lambda f: {n: x[:, 0] for n, x in f.items()})
        return Side(lambda f: net(**f, **cut)[0], packed, list(net.parameters()))
    if not rule.fla:
        raise RuntimeError("has no kernel for it")
    if not CUDA:
        raise RuntimeError(NONE)
    start = "fused_recurrent" if step else "chunk"
    triton.testing.do_bench = partial(_do_bench, **TUNING)
    # it would refuse, and says nothing of gradients that are right
    importlib.import_module("fla.ops.common.chunk_o").TRITON_ABOVE_3_7_1 = True  # type: ignore[attr-defined]
    kernel = getattr(importlib.import_module(f"fla.ops.{rule.fla}"), f"{start}_{rule.fla}")
    fixed: dict[str, Any] = dict(scale=1.0) | cut
    if rule.fla == "linear_attn":
        fixed["normalize"] = False
    if step:
        fixed |= dict(initial_state=state["S"].mT.contiguous(), output_final_state=True)
    g = "gk" if step and rule.fla == "gla" else "g"  # the same under another name
    return Side(
        lambda f: kernel(**f, **fixed)[0],
        lambda f: packed({g if n == "g" else n: x for n, x in rule.given(f).items()}),
    )


def _fused(kind: str, row: Row, dtype: torch.dtype) -> AbstractContextManager[None]:
    """A scan and its read are one kernel also at sizes too small for that."""
    net = _net(row.rule, row.heads, row.n, kind, dtype) if kind == "triton" else None
    module = sys.modules[type(net).__module__]
    if not hasattr(module, "in_one"):
        return nullcontext()
    return patched(module, in_one=lambda *_: True)


def _in_one(flows: Flows) -> Flows:
    """The sequences of a batch one behind the other."""
    return {n: x.flatten(0, 1)[None] for n, x in flows.items()}


def _cuts(batch: int, length: int) -> Tensor:
    """As many sequences, half and one and a half times as long in turn."""
    sizes = [length + (length // 2) * (-1) ** i for i in range(batch - batch % 2)]
    ends = torch.tensor([0, *sizes, *[length] * (batch % 2)]).cumsum(0)
    return ends.to(DEVICE)


# ------------------------------------------------------------------------------------------------ right or wrong


def _answers(kind: str, row: Row, dtype: torch.dtype = torch.bfloat16) -> Flows:
    """Outputs and gradients on a small input, whose gates and vectors are those of every side."""
    step, backward = row.mode.startswith("step"), row.mode == "forward+backward"
    length = 1 if step else row.length
    flows = {n: x if n in DECAYS else x.to(dtype) for n, x in drawn(row, 2, length).items()}
    flows = {n: x.requires_grad_(backward) for n, x in flows.items()}
    side = made(kind, row, 2, dtype)
    with torch.set_grad_enabled(backward), _fused(kind, row, dtype):
        y = side.kernel(side.prepare(flows))
    torch.manual_seed(1)
    y = y[:, 0] if step and kind == "fla" else y
    out = {"y": y.detach()}
    if backward:
        slope = torch.randn(y.shape, device=DEVICE).bfloat16().to(y.dtype)
        slopes = torch.autograd.grad(y, list(flows.values()), slope)
        out |= {f"d{n}": x for n, x in zip(flows, slopes)}
    return out


@cache
def _exact(row: Row) -> Flows:
    return _answers("torch", row, torch.float32)


@cache
def _errors(kind: str, row: Row) -> dict[str, float]:
    """The RMS of errors relative to that of the values."""
    exact, found = _exact(row), _answers(kind, row)
    away = {n: (found[n].float() - x).square().mean().sqrt() for n, x in exact.items()}
    return {n: float(a / exact[n].square().mean().sqrt()) for n, a in away.items()}


def wrong(kind: str, row: Row) -> str:
    """What is further off than fla's tolerances; of a block, than twice what `torch` in bfloat16 is, too."""
    row = Row(row.rule, 2, row.heads, min(row.length, 256), row.n, row.mode.partition(" ")[0])
    rule, off = RULES[row.rule], []
    for n, error in _errors(kind, row).items():
        outputs, vectors, gates = rule.most
        most = outputs if n == "y" else gates if n[1:] in SHIFT else vectors
        most *= 1 if CUDA else 3  # the interpreter does not round to bfloat16, but cuts
        if not rule.operator:
            most = max(most, 2 * _errors("torch", row)[n])
        if not error <= most:
            off.append(f"{n} is {error:.2g} off, more than {most:.2g}")
    return f"wrong: {', '.join(off)}" if off else ""


# ------------------------------------------------------------------------------------------------ what it must cost


def floor(row: Row) -> tuple[float, float]:
    """Bytes that must move, and flops of the chunk algebra."""
    C, n, erases = CHUNK, row.n, RULES[row.rule].erases
    given, y = sum(x.nbytes for x in drawn(row, 1, 1).values()), row.heads * row.n * 2
    if row.mode.startswith("step"):
        held = sum(x.nbytes for x in _state(row.rule, row.batch, row.heads, n).values())
        return 2 * held + row.batch * (given + y), (4 + 2 * erases) * row.batch * row.heads * n * n
    row_, state = 2 * C * C * n, 2 * C * n * n  # a chunk times itself, times the state
    moved, flops = given + y, (2 + 2 * erases) * row_ + (2 + erases) * state
    if row.mode == "forward+backward":
        moved += 2 * given + y
        flops += 11 * row_ + 7 * state if erases else 5 * row_ + 4 * state
    tokens = row.batch * row.length
    return tokens * moved, tokens * row.heads / C * flops


# ------------------------------------------------------------------------------------------------ a child


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _why(error: BaseException) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    first = (str(error).strip().splitlines() or [""])[0][:160].replace("|", "/")
    return first if first == NONE or first.startswith("has no") else f"{type(error).__name__}: {first}"  # fmt: skip


def measured(row: Row, skip: str, rounds: int) -> dict[str, Any]:
    """Figures of a row by side: seconds, spread and those of the backward, or why there are none."""
    sides: dict[str, Side] = {}
    said: dict[str, Any] = {}
    times: dict[str, list[list[float]]] = {}
    calls: dict[str, int] = {}

    def tried(kind: str, what: Callable[[str], None]) -> None:
        _say(at=kind)
        try:
            return what(kind)
        except Exception as error:
            said[kind] = _why(error)
        sides.pop(kind, None)
        try:
            if CUDA:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
        except Exception:  # nothing runs in this process any more
            _say(at=kind, why=said[kind])
            os._exit(3)

    def ready(kind: str) -> None:
        if rounds:  # before the check, whose small input would choose the configurations of fla
            side = made(kind, row, row.batch)
            length = 1 if row.mode.startswith("step") else row.length
            side.begin(drawn(row, row.batch, length), row.mode)
            last = sum(side.seconds(1)[0])
            calls[kind], times[kind] = max(1, min(10, int(0.05 / last))), []
        if why := wrong(kind, row):
            said[kind] = why
        elif rounds:
            sides[kind] = side

    def timed(kind: str) -> None:
        times[kind] += sides[kind].seconds(calls[kind])

    for kind in SIDES:
        if kind not in skip:
            tried(kind, ready)
    for _ in range(rounds):
        for kind in list(sides):
            tried(kind, timed)
    for kind in sides if rounds else ():
        each = [sum(t) for t in times[kind]]
        low, middle, high = statistics.quantiles(each * 2, n=4, method="inclusive")
        behind = statistics.median(t[1] for t in times[kind]) if len(times[kind][0]) > 1 else None
        said[kind] = dict(seconds=middle, spread=(high - low) / middle, backward=behind)
    cost = floor(row) if RULES[row.rule].operator and rounds and CUDA else None
    return dict(sides=said, floor=cost, bandwidth=bandwidth() if cost else None)


def child(rows: list[Row], skip: dict[str, str], rounds: int) -> None:
    """A line of JSON for each row."""
    torch.set_num_threads(1)
    if not rounds:  # what fla finds fastest beside other processes does not count
        os.environ["FLA_CACHE_RESULTS"] = "0"
    for row in rows:
        if row.mode == MODES[3] and not CUDA:
            result: dict[str, Any] = dict(sides=dict.fromkeys(SIDES, NONE))
        else:
            result = measured(row, skip[row.name], rounds)
        _say(result=result)
        gc.collect()


# ------------------------------------------------------------------------------------------------ the parent


def results(
    rows: list[Row], words: list[str], limit: float = LIMIT, without: Iterable[str] = ()
) -> Iterator[Any]:
    """Pairs of row and figures as they come; a new child goes on where one ends, without the side that ended it."""
    skip: dict[str, dict[str, str]] = {row.name: dict.fromkeys(without, "") for row in rows}
    left = list(rows)
    while left:
        asked = [w for x in left for w in ("--row", f"{x.name}:{','.join(skip[x.name])}")]
        command = [sys.executable, __file__, *words, *asked]
        at = why = ""
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            for line in _lines(process, limit):
                event = json.loads(line)
                at, why = event.get("at", at), event.get("why", "")
                if "result" in event:
                    row = left.pop(0)
                    sides = skip[row.name] | event["result"]["sides"]
                    yield row, event["result"] | {"sides": sides}
            errors.seek(0)
            last = (errors.read().strip().splitlines() or [f"ended by {process.wait()}"])[-1]
            if process.wait() == -signal.SIGKILL:
                last = f"killed, as happens after {limit:.0f} s without a word"
        why = why or last[:160].replace("|", "/")
        if not at:  # it does not even start
            yield from ((row, {"sides": dict.fromkeys(SIDES, why)}) for row in left)
            return
        if left:
            skip[left[0].name][at] = why


def _lines(process: subprocess.Popen[str], limit: float) -> Iterator[str]:
    """What it says; it is killed if it is silent for ``limit`` seconds."""
    line = "."
    while line and process.stdout is not None:
        timer = threading.Timer(limit, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        if line.startswith("{"):  # a library may say something, too
            yield line


def warmed(rows: list[Row], words: list[str]) -> None:
    """Compiles what will be timed, a process a core; what fails here fails again where it shows."""
    kinds = {(x.rule, x.n, x.mode): x for x in reversed(rows) if x.mode in (MODES[1], MODES[2])}
    first = sorted(kinds.values(), key=rows.index)
    groups = [list(g) for _, g in groupby(first, lambda x: (x.rule, x.n))]
    jobs = [(g, ("triton", "torch")) for g in groups if RULES[g[0].rule].fla]
    jobs += [(g, ("fla", "torch")) for g in groups]
    quiet = [*words, "--rounds", "0"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: list(results(job[0], quiet, 2 * LIMIT, job[1])), jobs))


@click.command()
@click.option("--rounds", type=int, default=7, show_default=True, help="0 only compiles.")
@click.option("--only", type=click.Choice(list(RULES)), multiple=True, help="These rules alone.")
@click.option(
    "--sweep",
    type=click.Choice(["none", "one", "all"]),
    default="one",
    show_default=True,
    help="Rules with other lengths and widths.",
)
@click.option("--quick", is_flag=True, help="Tiny sizes, to try the script.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write it here.")
@click.option("--row", "asked", multiple=True, help="NAME[:SIDE,…]: as JSON, without these sides.")
def main(
    rounds: int, only: tuple[str, ...], sweep: str, quick: bool, out: Path | None, asked: tuple[str]
) -> None:
    """Generated kernels against fla's, `torch` and the floor."""
    words = ["--rounds", str(rounds), *["--quick"] * quick, "--sweep", sweep]
    rows = rows_of(quick, sweep, only)
    if asked:
        names = {x.partition(":")[0]: x.partition(":")[2] for x in asked}
        child([x for x in rows if x.name in names], names, rounds)
        return
    found: dict[Row, dict[str, Any]] = {}
    here = where()

    def write() -> str:
        speeds = [x["bandwidth"] for x in found.values() if x.get("bandwidth")]
        copies = f", a copy moves {statistics.median(speeds) / 1e12:.2f} TB/s" if speeds else ""
        said = ["# Generated kernels", here + copies, ABOUT.format(rounds=rounds)]
        said.append(table(rows, found))
        if quick:
            said.append("A trial of the script at tiny sizes: no number here says anything.")
        text = "\n\n".join(said) + "\n"
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text, encoding="utf-8")
        return text

    if CUDA:
        warmed(rows, words)
    groups = [list(g) for _, g in groupby(rows, lambda x: x.rule)]
    for group in groups if CUDA or (quick and INTERPRETED) else ():
        for row, result in results(group, words):
            found[row] = result
            said = "; ".join(f"{x} {cell(result['sides'][x])}" for x in SIDES)
            click.echo(f"{row.name}: {said}", err=True)
            write()
    click.echo(write())
    sys.exit(not quick and any(missed(x["sides"]) for x in found.values()))


if __name__ == "__main__":
    main()
