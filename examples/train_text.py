"""Trains a small language model on any text, its layers and its optimizer compiled from specs.

python examples/train_text.py FILE --spec gated_delta_net --optimizer adamw --steps 1000
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import click
import torch
from corpus import CorpusError, from_file
from display import draw, progress
from generation import Stream, readable
from language_model import parameter_count
from rich.console import Console
from rich.text import Text
from training import Run, RunError, Settings, train

import nlc

DEFAULTS = Settings()


def pick_device(name: str) -> str:
    """``auto`` is a GPU where torch sees one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise click.ClickException(f"there is no device {name} here: {reason}") from None
    return name


def _pairs(_ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=VALUE`` texts as a dictionary of Python values."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.isidentifier() and equals and value):
            raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE")
        try:
            pairs[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise click.BadParameter(f"the value of {text!r} is not a number") from None
    return pairs


def _sizes(command: Any) -> Any:
    """The options that say how large the model and its batches are."""
    positive = click.IntRange(min=1)
    for name, text in reversed(
        {
            "d": "Width of the model.",
            "heads": "Heads of a mixing layer.",
            "layers": "Blocks, each a mixing layer and an MLP.",
            "batch": "Windows a step.",
            "length": "Bytes a window.",
            "steps": "Steps in all.",
        }.items()
    ):
        default = getattr(DEFAULTS, name)
        command = click.option(
            f"--{name}", type=positive, default=default, show_default=True, help=text
        )(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--spec",
    default=DEFAULTS.spec,
    show_default=True,
    metavar="NAME|PATH",
    help="The token system that mixes the tokens: a shipped spec or a file.",
)
@click.option(
    "--optimizer",
    default=DEFAULTS.optimizer,
    show_default=True,
    metavar="NAME|PATH",
    help="The gradient system that trains the weights.",
)
@_sizes
@click.option("--hidden", type=click.IntRange(min=1), help="Width of the MLPs.  [default: 4 d]")
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    help="Highest learning rate.  [default: 4e-3 for adamw, else the optimizer's own]",
)
@click.option(
    "--hyper",
    multiple=True,
    callback=_pairs,
    metavar="NAME=VALUE",
    help="A hyper of the spec; repeatable.",
)
@click.option(
    "--optimizer-hyper",
    multiple=True,
    callback=_pairs,
    metavar="NAME=VALUE",
    help="A hyper of the optimizer; repeatable.",
)
@click.option("--seed", type=int, default=DEFAULTS.seed, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: torch's]")
@click.option("--prompt", default="\n", help="What the sample begins with.  [default: a new line]")
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=400,
    show_default=True,
    help="Bytes of generated text to show at the end.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the checkpoint and the picture go.  [default: runs/FILE-SPEC]",
)
@click.option("--restart", is_flag=True, help="Begin anew; a checkpoint there is overwritten.")
def main(
    file: Path,
    spec: str,
    optimizer: str,
    hidden: int | None,
    lr: float | None,
    device: str,
    threads: int | None,
    prompt: str,
    sample: int,
    out: Path | None,
    restart: bool,
    **sizes: Any,
) -> None:
    """Train a byte-level language model on FILE, whose last twentieth is held out.

    The layers between the bytes are compiled from one spec, the optimizer from another. Ctrl-C
    saves; the same command goes on from there, exactly as if it had never stopped.
    """
    console = Console()
    if threads:
        torch.set_num_threads(threads)
    settings = Settings(
        spec=spec,
        optimizer=optimizer,
        hidden=hidden or 4 * sizes["d"],
        lr=lr or (DEFAULTS.lr if optimizer == DEFAULTS.optimizer else None),
        **sizes,
    )
    out = out or Path("runs") / f"{file.stem}-{Path(spec).stem}"
    try:
        run = Run(settings, from_file(file), out / "checkpoint.pt", pick_device(device))
        if not restart:
            run.resume()
        console.print(
            f"{Path(spec).stem} trained by {Path(optimizer).stem} on {file}: "
            f"{parameter_count(run.model):,} parameters, {len(run.corpus.train):,} bytes, "
            f"{settings.steps:,} steps of {run.tokens_a_step:,}",
            soft_wrap=True,
        )
        if run.finished:
            console.print("trained before; --restart begins anew")
        elif run.step:
            console.print(f"goes on after step {run.step}")
        with progress(console, Path(spec).stem, run) as show:
            finished = train(run, show, console.print)
    except (CorpusError, RunError) as error:
        raise click.ClickException(str(error)) from None
    except nlc.SpecError as error:
        raise click.ClickException(str(error).strip()) from None
    if not finished:
        console.print(f"stopped after step {run.step}, saved; the same command goes on from there")
        sys.exit(130)
    draw({Path(spec).stem: run}, out / "loss.png")
    console.print(
        f"{run.held_out_bits(1024):.4f} bits per byte on the held-out text, "
        f"{run.seconds:,.0f} s of training; see {out / 'loss.png'}",
        soft_wrap=True,
    )
    if sample:
        text = Stream(run.model, prompt.encode() or b"\n").take(sample)
        console.print(Text(readable(prompt.encode() + text)))


if __name__ == "__main__":
    main()
