"""Verbs that make and run the generated file: compile, verify, bench."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from nlc.backends import BACKENDS
from nlc.cli import beside, options
from nlc.cli.frame import load, progress, verb, warn


@click.command()
@click.argument("spec")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to a file; standard output without it.",
)
@click.option(
    "--helpers",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Put what the class calls into a file of its own beside --output, which imports it: as"
    " `.NAME` where the folder has an `__init__.py`, else as `NAME`.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", *BACKENDS]),
    default="auto",
    show_default=True,
    help="Who prints the program; auto: the fastest that can.",
)
@options.PLAN
@options.WITHOUT
@click.option(
    "--fused",
    is_flag=True,
    help="What runs between two boundaries goes through torch.compile, once for all of them.",
)
@options.OPERATOR
@options.MISTAKES
@verb
def compile(
    spec: str,
    output: Path | None,
    helpers: Path | None,
    backend: str,
    plans: tuple[str, ...],
    without: tuple[str, ...],
    fused: bool,
    operator: bool,
    format: str,
) -> None:
    """Write the generated PyTorch file."""
    module = beside.module(output, helpers) if helpers is not None else ""
    loaded = load(spec, operator=operator)
    asked = (backend, dict(map(options.plan, plans)), without, fused)
    if helpers is None or output is None:
        files = {output: loaded.source_text(*asked)}
    else:
        text, other = loaded.source_files(output.name, module, *asked)
        beside.free(helpers, other)
        files = {helpers: other, output: text}  # the one that imports comes last
    warn(loaded)
    if output is None or str(output) == "-":
        click.echo(files[output], nl=False)
        return
    from nlc.runtime.loader import write_atomically

    for path, text in files.items():
        write_atomically(path, text)
        what = loaded.system.name if path == output else f"what {output} imports"
        click.echo(f"wrote {path}: {what}, {len(text.splitlines())} lines", err=True)
    if backend == "triton" and not any("import triton\n" in text for text in files.values()):
        why = f"`nlc explain {spec} --backend triton` says why"
        click.echo(f"nothing in it runs as a kernel, it is the file of `torch`; {why}", err=True)


@click.command()
@click.argument("spec")
@options.OPERATOR
@click.option(
    "--set",
    "settings",
    metavar="HYPER=VALUE",
    multiple=True,
    help="A hyper to keep as given; widths and periods are made small otherwise.",
)
@click.option("--seed", default=0, show_default=True, help="Of the random inputs and weights.")
@click.option(
    "--tokens",
    type=click.IntRange(2),
    default=2000,
    show_default=True,
    help="How long the memories of a token system are watched.",
)
@options.AGAINST
@options.PEER
@options.FORMAT
@verb
def verify(
    spec: str,
    operator: bool,
    settings: tuple[str, ...],
    seed: int,
    tokens: int,
    against: str | None,
    peers: tuple[str, ...],
    format: str,
) -> None:
    """Compare what is compiled with the spec itself, on random inputs.

    Then watch the memories of a token system over many tokens. "The last output depends on the token ... back"
    passes where it does. Where it does not, it fails if some memory starts away from zero and steps within that time;
    else it has no verdict, as a memory may forget by its gates, and the number behind it says what is left.
    """
    loaded = load(spec, operator=operator)
    warn(loaded)
    hypers = dict(map(options.setting, settings))
    peer = dict(map(options.setting, peers))
    result = loaded.verify(seed=seed, tokens=tokens, hypers=hypers, against=against, peer=peer)
    if format == "json":
        click.echo(json.dumps(result.asdict(), ensure_ascii=False, indent=2))
    else:
        click.echo(str(result))
    if not result.passed:
        sys.exit(1)


@click.command()
@click.argument("spec")
@options.measured
@verb
def bench(
    spec: str,
    operator: bool,
    settings: tuple[str, ...],
    format: str,
    plot: Path | None,
    **asked: Any,
) -> None:
    """Measure tokens a second and peak memory against T, of every backend.

    Forward, forward and backward, and steps token by token, at the spec's own hypers.
    """
    from nlc.runtime.bench import NotMeasurable
    from nlc.runtime.bench import plot as picture

    loaded = load(spec, operator=operator)
    warn(loaded)
    try:
        if plot is not None:
            picture.ready(plot)
        result = loaded.bench(
            hypers=dict(map(options.setting, settings)), progress=progress(), **asked
        )
    except NotMeasurable as error:
        raise click.UsageError(str(error)) from None
    except picture.CannotPlot as error:
        raise click.ClickException(str(error)) from None
    if format == "json":
        click.echo(json.dumps(result.asdict(), ensure_ascii=False, indent=2))
    else:
        click.echo(result.csv().rstrip() if format == "csv" else str(result))
    if plot is not None:
        picture.plot(result, plot)
    if result.failed:
        sys.exit(1)
