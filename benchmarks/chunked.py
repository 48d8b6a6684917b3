"""What computing chunks at once is worth: the backend `torch` against `reference`, itself at length, and its peers.

    python benchmarks/chunked.py --out benchmarks/results/chunked.md

Every row is float32, forward and backward, its two sides in turns; times are medians over the rounds, with
`--threads 1` of the processor's time. Where something is missing (titans-pytorch, a CUDA device) the row says so. Ends
with 1 if an aim is missed. `--quick` tries the script at sizes that say nothing, and judges nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import click
import torch
from torch import Tensor

import nlc
from nlc.pipeline import BACKENDS
from nlc.runtime.bench.cases import Ask, Case
from nlc.runtime.bench.machine import machine

FAST, SLOW = "torch", "reference"
WARM = 2  # runs that do not count: the first of titans-pytorch takes ten times as long as the third
LONG = 3  # rounds at most of the longest rows
REPRODUCTION = 153  # tokens/s


class Timed(Protocol):
    """One side of a row."""

    def seconds(self) -> float:
        """Of one run, forward and backward."""


@dataclass(frozen=True)
class Sizes:
    """T, channels and heads of the rows; ``chunk`` is Hope's and that of titans-pytorch."""

    length: int
    operator: tuple[int, int]  # heads, channels of one head
    layer: tuple[int, int]  # heads, channels
    hope_length: int
    hope: int
    chunk: int
    lengths: tuple[int, int]
    batch: int = 2


FULL = Sizes(2048, (4, 64), (4, 256), 1024, 128, 64, (1024, 16384))
LARGE = (4, 8192, (16, 128))  # B, T, heads and channels of one on CUDA
QUICK = Sizes(32, (2, 8), (2, 16), 32, 8, 8, (16, 64))


@dataclass(frozen=True)
class Median:
    """Seconds, and what lies between the quartiles relative to them."""

    seconds: float
    spread: float

    def __str__(self) -> str:
        ms = self.seconds * 1e3
        return f"{ms:,.{0 if ms >= 100 else 1 if ms >= 10 else 2}f} ms ± {self.spread / 2:.0%}"


@dataclass(frozen=True)
class Row:
    """``ratio`` is to be at least or at most ``aim``; None where something is missing, and ``note`` says what."""

    what: str
    left: str = ""
    right: str = ""
    ratio: float | None = None
    aim: float | None = None
    most: bool = False
    note: str = ""

    def missed(self) -> bool:
        """Whether there is an aim, and the ratio does not reach it."""
        if self.ratio is None or self.aim is None:
            return False
        return self.ratio > self.aim if self.most else self.ratio < self.aim


# ------------------------------------------------------------------------------------------------ what is timed


def compiled(
    name: str,
    backend: str,
    length: int,
    batch: int,
    operator: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
    mode: str = "forward+backward",
    fused: bool = False,
    **hypers: Any,
) -> Case:
    """A generated module with random inputs."""
    spec = nlc.load(name, operator=operator)
    threads = torch.get_num_threads()
    source = spec.source
    ask = Ask(source.text, source.name, operator, hypers, batch, dtype, device, threads, seed=0)
    return Case(spec, spec.compile(backend, fused=fused), ask, mode, length)


class Titans:
    """One memory of titans-pytorch: an MLP of two layers as wide as the input, gradients at each chunk's start."""

    def __init__(self, length: int, batch: int, d: int, chunk: int, device: str = "cpu"):
        from titans_pytorch import NeuralMemory

        torch.manual_seed(0)
        mlp = dict(depth=2, expansion_factor=1.0)
        self.net = NeuralMemory(
            dim=d, chunk_size=chunk, batch_size=chunk, momentum=False, default_model_kwargs=mlp
        ).to(device)
        self.x = torch.randn(batch, length, d, device=device, requires_grad=True)

    def seconds(self) -> float:
        self.net.zero_grad(set_to_none=True)
        self.x.grad = None
        _finish()
        start = time.perf_counter()
        y, _ = self.net(self.x)
        y.square().mean().backward()
        _finish()
        return time.perf_counter() - start


class Fla:
    """fla's kernel on the inputs of the compiled operator, with or without its backward."""

    def __init__(self, flows: dict[str, Tensor], backward: bool):
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        self.kernel = chunk_gated_delta_rule
        given = {n: x.detach() for n, x in flows.items()}
        given["g"] = given.pop("alpha").float().log()
        self.flows = {n: x.requires_grad_(backward) for n, x in given.items()}
        self.backward = backward

    def seconds(self) -> float:
        for x in self.flows.values():
            x.grad = None
        _finish()
        start = time.perf_counter()
        y, _ = self.kernel(**self.flows, scale=1.0)
        if self.backward:
            y.square().mean().backward()
        _finish()
        return time.perf_counter() - start


def _finish() -> None:
    """Waits for the device, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def turns(left: Timed, right: Timed, rounds: int, warm: int = WARM) -> tuple[Median, Median]:
    """Both, one after the other in each round, so that what else the machine does slows both."""
    for _ in range(warm):
        left.seconds(), right.seconds()
    times = [(_spent(left), _spent(right)) for _ in range(rounds)]
    return _median([a for a, _ in times]), _median([b for _, b in times])


def _spent(side: Timed) -> float:
    """Of one thread the seconds of the processor, which other work on the machine hardly changes."""
    if torch.cuda.is_available() or torch.get_num_threads() > 1:
        return side.seconds()
    start = time.process_time()
    side.seconds()
    return time.process_time() - start


def _median(times: list[float]) -> Median:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return Median(middle, (high - low) / middle)


# ------------------------------------------------------------------------------------------------ the rows


def against_reference(fast: str, s: Sizes, rounds: int) -> Iterator[Row]:
    """The gated delta rule, as an operator and as a layer."""
    heads, n = s.operator
    kinds = [
        (f"gated delta operator, H {heads}, {n} channels each", True, heads, heads * n, 10.0),
        (f"layer `gated_delta_net`, d {s.layer[1]}", False, *s.layer, 5.0),
    ]
    for what, operator, heads, d, aim in kinds:
        given = (s.length, s.batch, operator)
        sides = [compiled("gated_delta_net", b, *given, d=d, heads=heads) for b in (fast, SLOW)]
        ours, theirs = turns(*sides, rounds)
        what = f"{what}, B {s.batch}, T {s.length:,}"
        ratio = theirs.seconds / ours.seconds
        yield Row(what, f"`{fast}`: {ours}", f"`{SLOW}`: {theirs}", ratio, aim)


def against_peers(fast: str, s: Sizes, rounds: int) -> Iterator[Row]:
    """Hope, five memories that modify themselves and three slower MLPs, against one memory, and against five."""
    hope = compiled("hope", fast, s.hope_length, s.batch, **_hope(s))
    tokens = s.batch * s.hope_length
    what = f"`hope`, d {s.hope}, chunk {s.chunk}, B {s.batch}, T {s.hope_length:,}"
    try:
        peer: Timed = Titans(s.hope_length, s.batch, s.hope, s.chunk)
    except ImportError:
        ours, _ = turns(hope, hope, rounds)
        missing = 'titans-pytorch is not installed: `pip install -e ".[bench]"`'
        yield Row(what, _speed(fast, tokens, ours), aim=0.65, note=missing)
    else:
        ours, theirs = turns(hope, peer, rounds)
        name = f"titans-pytorch {version('titans-pytorch')}, one memory"
        ratio = theirs.seconds / ours.seconds
        yield Row(what, _speed(fast, tokens, ours), _speed(name, tokens, theirs), ratio, 0.65)
        fused = compiled("hope", fast, s.hope_length, s.batch, fused=True, **_hope(s))
        quick, theirs = turns(fused, peer, rounds)
        ratio, said = theirs.seconds / quick.seconds, f"{fast}, fused"
        both = (_speed(said, tokens, quick), _speed(name, tokens, theirs))
        yield Row("the same, its tiles through `torch.compile`", *both, ratio, 0.65)
    other = (
        f"a public reproduction's update pass, without backward: {REPRODUCTION} tokens/s at d 128, T 1,024,"
        " measured separately, on another machine that was quiet"
    )
    ratio = tokens / ours.seconds / REPRODUCTION
    yield Row("the same", _speed(fast, tokens, ours), other, ratio, 20.0)


def over_length(fast: str, s: Sizes, rounds: int) -> Iterator[Row]:
    """How time grows with T. A long run takes many seconds, so there are fewer of them."""
    short, long = s.lengths
    for name, hypers in (
        ("gated_delta_net", dict(d=s.layer[1], heads=s.layer[0])),
        ("hope", _hope(s)),
    ):
        sides = [compiled(name, fast, n, 1, **hypers) for n in (long, short)]
        slow, quick = turns(*sides, min(rounds, LONG), warm=1)
        what = f"`{name}`, d {hypers['d']}, B 1, T {long:,} against {short:,}"
        ratio = slow.seconds / quick.seconds
        yield Row(what, f"`{fast}`: {slow}", f"`{fast}`: {quick}", ratio, 18.0, most=True)


def on_cuda(fast: str, s: Sizes, rounds: int) -> Iterator[Row]:
    """fla's kernel in bfloat16, as it takes no float32, at this size and at a larger one; titans-pytorch in float32."""
    cuda = torch.cuda.is_available()
    for batch, length, (heads, n) in ((s.batch, s.length, s.operator), LARGE):
        what = f"gated delta operator, H {heads}, {n} channels each, B {batch}, T {length:,}, CUDA, bfloat16"
        if not cuda:
            yield Row(what, note="no CUDA device, which fla's kernels need")
            continue
        try:
            mode, note = _fla_mode(batch, length, heads, n)
        except ImportError:
            yield Row(what, note="fla is not installed: `pip install fla-core`")
            continue
        sizes = dict(d=heads * n, heads=heads)
        given = (length, batch, True, "cuda", "bfloat16", mode)
        ours = compiled("gated_delta_net", fast, *given, **sizes)
        mine, theirs = turns(ours, Fla(ours.inputs, mode != "forward"), rounds)
        name = f"fla-core {version('fla-core')}"
        ratio = theirs.seconds / mine.seconds
        yield Row(f"{what}, {mode}", f"`{fast}`: {mine}", f"{name}: {theirs}", ratio, note=note)
    if not cuda:
        return
    hope = compiled("hope", fast, s.hope_length, s.batch, device="cuda", **_hope(s))
    tokens = s.batch * s.hope_length
    what = f"`hope`, d {s.hope}, chunk {s.chunk}, B {s.batch}, T {s.hope_length:,}, CUDA, float32"
    try:
        peer: Timed = Titans(s.hope_length, s.batch, s.hope, s.chunk, "cuda")
    except ImportError:
        yield Row(what, note='titans-pytorch is not installed: `pip install -e ".[bench]"`')
        return
    ours, theirs = turns(hope, peer, rounds)
    name = f"titans-pytorch {version('titans-pytorch')}, one memory"
    sides = (_speed(fast, tokens, ours), _speed(name, tokens, theirs))
    yield Row(what, *sides, theirs.seconds / ours.seconds)


def _fla_mode(batch: int, length: int, heads: int, n: int) -> tuple[str, str]:
    """What can be compared, and why no more: fla's backward refuses some versions of Triton on some GPUs."""
    flows = {x: torch.zeros(batch, length, heads, n) for x in ("q", "k", "v")}
    flows |= {x: torch.full((batch, length, heads), 0.5) for x in ("alpha", "beta")}
    flows = {x: y.to("cuda", torch.bfloat16) for x, y in flows.items()}
    try:
        Fla(flows, backward=True).seconds()
    except RuntimeError as e:
        return "forward", f"fla's backward refuses: {str(e).split('. ')[0]}"
    return "forward+backward", ""


def _hope(s: Sizes) -> dict[str, int]:
    return dict(d=s.hope, heads=1, expand=1, chunk=s.chunk, memory_chunk=s.chunk)


def _speed(who: str, tokens: int, time: Median) -> str:
    who = f"`{who}`" if who in BACKENDS else who
    return f"{who}: {time}, {tokens / time.seconds:,.0f} tokens/s"


# ------------------------------------------------------------------------------------------------ the table


def table(rows: list[Row], judged: bool) -> str:
    """Markdown."""
    lines = ["| what | | against | ratio | aim | |", "|---|---|---|---:|---|---|"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        aim = "" if row.aim is None else f"{'≤' if row.most else '≥'} {row.aim:g}"
        verdict = row.note
        if ratio and aim and judged:
            verdict = "missed" if row.missed() else "met"
        lines.append(f"| {row.what} | {row.left} | {row.right} | {ratio} | {aim} | {verdict} |")
    return "\n".join(lines)


def surroundings() -> str:
    """Machine, threads, versions and commit, as the results are worth nothing without them."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    found = [f"{n} {v}" for n in ("titans-pytorch", "fla-core") if (v := _version(n))]
    threads = torch.get_num_threads()
    parts = [f"{threads} thread{'s' * (threads != 1)}", *found, f"commit {commit or 'unknown'}"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"{machine(device)}; {', '.join(parts)}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


PARTS = {
    "reference": against_reference,
    "peers": against_peers,
    "length": over_length,
    "cuda": on_cuda,
}


@click.command()
@click.option(
    "--rounds", type=click.IntRange(2), default=7, show_default=True, help="The median counts."
)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="These rows alone.")
@click.option("--quick", is_flag=True, help="Tiny sizes, to try the script.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write it here.")
def main(rounds: int, threads: int, only: tuple[str, ...], quick: bool, out: Path | None) -> None:
    """The backend `torch` against `reference`, titans-pytorch and fla, and over T."""
    fast = FAST if FAST in BACKENDS else SLOW
    if fast == SLOW and not quick:
        raise click.ClickException(
            f"there is no backend `{FAST}`; `--quick` tries the script with `{SLOW}` in its place"
        )
    torch.set_num_threads(threads)
    sizes = QUICK if quick else FULL
    where = surroundings()
    rows = []
    for part in only or PARTS:
        for row in PARTS[part](fast, sizes, rounds):
            click.echo(
                f"{row.what}: {row.left}; {row.right or row.note}", err=True
            )  # a run is minutes
            rows.append(row)
    said = [
        "# Chunks at once",
        f"Forward and backward, float32 but where it says otherwise. Medians of {rounds} rounds in which both"
        f" sides take turns (the rows over T: at most {LONG}), ± half of what lies between the quartiles."
        + " One thread, in the processor's time."
        * (threads == 1 and not torch.cuda.is_available()),
        where,
        table(rows, judged=not quick),
    ]
    if quick:
        instead = f", with `{SLOW}` in the place of `{FAST}`" if fast == SLOW else ""
        said.append(f"A trial of the script at tiny sizes{instead}: no number here says anything.")
    text = "\n\n".join(said) + "\n"
    click.echo(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    sys.exit(not quick and any(row.missed() for row in rows))


if __name__ == "__main__":
    main()
