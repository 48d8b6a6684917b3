"""The demonstration of `make demo`: compiled memories and optimizers side by side, on equal terms.

All are the same language model with the same number of parameters, trained on the same bytes in the
same order; only the spec of the mixing layer and that of the optimizer differ.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click
import torch
from corpus import Corpus, CorpusError, standard_library
from display import draw, progress
from generation import Stream, readable
from language_model import hidden_for, mixing, parameter_count
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from train_text import pick_device
from training import Run, RunError, Settings, train

import nlc

PROMPT = b"def "
STRETCH = 8  # times the length of the windows that the models were trained on
WINDOWS = 256  # of the held-out text that the models are measured on
LONG = 1000  # bytes of a stream after which its state is measured

# Chunks of tokens are products of small matrices: a second thread gains little, and waits long for a
# core that is taken. All levels of hope tick within a window, the slowest twice.
SIZE = Settings(d=128, heads=4, layers=2, hidden=256, batch=8, length=256, steps=300)
IN_CONTEXT = {"expand": 1, "chunk": 32, "memory_chunk": 32, "periods": (32, 64, 128)}
M3 = {
    "optimizer": str(Path(__file__).with_name("m3_with_adamw.yaml")),
    "lr": 0.05,
    "optimizer_hyper": {"rest_lr": 1e-2},
}

# the first decides how many parameters all have; it writes the sample
CONTENDERS = {
    "hope-m3": replace(SIZE, spec="hope", hyper=IN_CONTEXT, **M3),
    "gated_delta_net-m3": replace(SIZE, spec="gated_delta_net", **M3),
    "gated_delta_net-adamw": replace(SIZE, spec="gated_delta_net", optimizer="adamw", lr=1e-2),
    "attention-adamw": replace(SIZE, spec="attention", optimizer="adamw", lr=5e-3),
}


def contend(
    contenders: dict[str, Settings], corpus: Corpus, out: Path, device: str
) -> dict[str, Run]:
    """A run of each; MLPs are widened or narrowed until all have the first one's parameters."""
    runs: dict[str, Run] = {}
    for name, wanted in contenders.items():
        if runs:
            mix = mixing(nlc.compile(wanted.spec), wanted.d, wanted.heads, **wanted.hyper)
            count = parameter_count(next(iter(runs.values())).model)
            wanted = replace(wanted, hidden=hidden_for(count, mix, wanted.d, wanted.layers))
        runs[name] = Run(wanted, corpus, out / f"{name}.pt", device)
    return runs


def results(runs: dict[str, Run]) -> Table:
    """What each came to, a row each."""
    some = next(iter(runs.values()))
    length = some.settings.length
    title = f"after {some.step * some.tokens_a_step:,} bytes, the same for all"
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("memory\nby optimizer", no_wrap=True)
    for column in (
        "parameters",
        f"bits/byte,\n{length}-byte\nwindows",
        f"bits/byte,\n{STRETCH * length:,}-byte\nstreams",
        "seconds\na step",
        f"state after\n{LONG:,} bytes",
    ):
        table.add_column(column, justify="right")
    for run in runs.values():
        stream = Stream(run.model, PROMPT)
        stream.take(LONG - len(PROMPT))
        table.add_row(
            f"{Path(run.settings.spec).stem}\n[dim]by {Path(run.settings.optimizer).stem}[/]",
            f"{parameter_count(run.model):,}",
            f"[bold]{run.held_out_bits(WINDOWS):.3f}[/]",
            f"[bold]{run.held_out_bits(WINDOWS // 16, STRETCH):.3f}[/]",
            f"{run.seconds / run.step:.2f}",
            f"{stream.state_bytes / 1024:,.0f} KiB",
        )
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True
)
@click.option("--steps", type=click.IntRange(min=1), default=SIZE.steps, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--restart", is_flag=True, help="Begin anew; finished results are overwritten.")
def main(out: Path, steps: int, device: str, threads: int, restart: bool) -> None:
    """Train a small compiled Hope and memories of the same size beside it, and compare them.

    Ctrl-C saves; the next run goes on from there. A run that has finished just shows its result.
    """
    console = Console()
    torch.set_num_threads(threads)
    contenders = {name: replace(wanted, steps=steps) for name, wanted in CONTENDERS.items()}
    try:
        corpus = standard_library()
        runs = contend(contenders, corpus, out, pick_device(device))
        if not restart:
            for run in runs.values():
                run.resume()
        console.print(
            f"\ntext: {corpus.name}, {len(corpus.train) / 1e6:.1f} MB to learn from and "
            f"{len(corpus.held_out) / 1e6:.1f} MB held out",
            soft_wrap=True,
        )
        for name, run in runs.items():
            if run.finished:
                console.print(f"{name}: trained before; `make demo ARGS=--restart` begins anew")
                continue
            if run.step:
                console.print(f"{name}: goes on after step {run.step}")
            torch.set_num_threads(threads)
            with progress(console, f"{name:{max(map(len, runs))}}", run) as show:
                train(run, show, console.print)
            if not run.finished:
                console.print(f"stopped after step {run.step}, saved; `make demo` goes on there")
                sys.exit(130)
    except (CorpusError, RunError) as error:
        raise click.ClickException(str(error)) from None
    with console.status("reading the held-out text, writing a sample"):
        draw(runs, out / "loss.png")
        table = results(runs)
        first, run = next(iter(runs.items()))
        text = PROMPT + Stream(run.model, PROMPT).take(500)
    console.print(table)
    title = f"{first} goes on from {PROMPT.decode()!r}, one `layer.step` a byte"
    console.print(Panel(Text(readable(text)), title=title))
    console.print(f"loss curves: {out / 'loss.png'}; generated sources: {out}/*.py", soft_wrap=True)


if __name__ == "__main__":
    main()
