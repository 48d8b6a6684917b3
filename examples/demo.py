"""The demonstration of `make demo`: a compiled memory against a Transformer, on equal terms.

Both are the same language model with the same number of parameters, trained by the same compiled
AdamW on the same bytes in the same order; only the spec of the mixing layers differs.
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
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from train_text import pick_device
from training import Run, RunError, Settings, train

import nlc

SPEC, BASELINE = "gated_delta_net", "attention"
NAMES = {SPEC: "gated_delta_net", BASELINE: "attention (a Transformer)"}
PROMPT = b"def "
STRETCH = 8  # times the length of the windows that the models were trained on
SETTINGS = Settings(spec=SPEC, optimizer="adamw")


def _runs(corpus: Corpus, steps: int, out: Path, device: str) -> dict[str, Run]:
    """The two runs; the Transformer's MLPs are widened to the same number of parameters."""
    ours = replace(SETTINGS, steps=steps)
    run = Run(ours, corpus, out / f"{SPEC}.pt", device)
    mix = mixing(nlc.compile(BASELINE), ours.d, ours.heads)
    hidden = hidden_for(parameter_count(run.model), mix, ours.d, ours.layers)
    theirs = replace(ours, spec=BASELINE, hidden=hidden)
    return {SPEC: run, BASELINE: Run(theirs, corpus, out / f"{BASELINE}.pt", device)}


def _bits(value: float) -> str:
    return f"[bold]{value:.3f}[/] bits/byte"


def _table(runs: dict[str, Run]) -> Table:
    """What the two came to, side by side."""
    table = Table(title="the same bytes in the same order, as many parameters, the same optimizer")
    table.add_column()
    rows: dict[str, list[str]] = {}

    def row(name: str, value: str) -> None:
        rows.setdefault(name, []).append(value)

    for spec, run in runs.items():
        table.add_column(NAMES[spec], justify="right")
        row("parameters", f"{parameter_count(run.model):,}")
        row("training, bytes", f"{run.step * run.tokens_a_step:,}")
        row(f"held out, {run.settings.length}-byte windows", _bits(run.held_out_bits(1024)))
        stretch = STRETCH * run.settings.length
        row(f"held out, {stretch:,}-byte streams", _bits(run.held_out_bits(64, STRETCH)))
        row("training, seconds", f"{run.seconds:.0f}")
        row("tokens a second", f"{run.tokens_a_second:,.0f}")
        for length in (100, 1000):
            stream = Stream(run.model, PROMPT)
            stream.take(length - len(PROMPT))
            row(f"state after {length:,} bytes", f"{stream.state_bytes / 1024:,.0f} KiB")
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True
)
@click.option("--steps", type=click.IntRange(min=1), default=SETTINGS.steps, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--restart", is_flag=True, help="Begin anew; finished results are overwritten.")
def main(out: Path, steps: int, device: str, threads: int, restart: bool) -> None:
    """Train the compiled gated_delta_net and a Transformer of the same size, and compare them.

    Ctrl-C saves; the next run goes on from there. A run that has finished just shows its result.
    """
    console = Console()
    torch.set_num_threads(threads)
    try:
        corpus = standard_library()
        runs = _runs(corpus, steps, out, pick_device(device))
        if not restart:
            for run in runs.values():
                run.resume()
        console.print(
            f"\ntext: {corpus.name}, {len(corpus.train) / 1e6:.1f} MB to learn from and "
            f"{len(corpus.held_out) / 1e6:.1f} MB held out",
            soft_wrap=True,
        )
        for spec, run in runs.items():
            if run.finished:
                console.print(f"{spec}: trained before; `make demo ARGS=--restart` begins anew")
                continue
            if run.step:
                console.print(f"{spec}: goes on after step {run.step}")
            with progress(console, f"{spec:15}", run) as show:
                train(run, show, console.print)
            if not run.finished:
                console.print(f"stopped after step {run.step}, saved; `make demo` goes on there")
                sys.exit(130)
    except (CorpusError, RunError) as error:
        raise click.ClickException(str(error)) from None
    with console.status("reading the held-out text, writing a sample"):
        draw({NAMES[spec]: run for spec, run in runs.items()}, out / "loss.png")
        table = _table(runs)
        text = PROMPT + Stream(runs[SPEC].model, PROMPT).take(500)
    console.print(table)
    title = f"{SPEC} goes on from {PROMPT.decode()!r}, one `layer.step` a byte"
    console.print(Panel(Text(readable(text)), title=title))
    console.print(f"loss curves: {out / 'loss.png'}; generated sources: {out}/*.py", soft_wrap=True)


if __name__ == "__main__":
    main()
