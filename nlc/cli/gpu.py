"""Verbs about the Triton kernels of a spec: kernels, tune."""

from __future__ import annotations

import json
from typing import Any

import click

from nlc.cli import options
from nlc.cli.frame import load, progress, verb, warn


@click.command()
@click.argument("spec")
@options.ahead
@verb
def kernels(
    spec: str, operator: bool, settings: tuple[str, ...], format: str, **asked: Any
) -> None:
    """Compile the Triton kernels of a spec ahead of time, without a GPU, and say what they take.

    Registers and spills of a thread, shared memory of a program, at the spec's own hypers.
    """
    from nlc.runtime.ahead import NotAhead, ahead, table

    loaded = load(spec, operator=operator)
    warn(loaded)
    try:
        found = ahead(loaded, hypers=dict(map(options.setting, settings)), **asked)
    except NotAhead as error:
        raise click.ClickException(str(error)) from None
    as_json = format == "json"
    click.echo(json.dumps([k.asdict() for k in found], indent=2) if as_json else table(found))


@click.command()
@click.argument("spec")
@options.tuned
@verb
def tune(spec: str, operator: bool, settings: tuple[str, ...], format: str, **asked: Any) -> None:
    """Find out how the Triton kernels of a spec run fastest on this GPU, and keep that for all files.

    Compiled files read it in ~/.cache/nlc/kernels, or $NLC_CACHE_DIR/kernels, and check it before use.
    """
    from nlc.runtime.tune import NotTunable, table
    from nlc.runtime.tune import tune as tuned

    loaded = load(spec, operator=operator)
    warn(loaded)
    try:
        hypers = dict(map(options.setting, settings))
        rows = tuned(loaded, hypers=hypers, progress=progress(), **asked)
    except NotTunable as error:
        raise click.UsageError(str(error)) from None
    as_json = format == "json"
    click.echo(json.dumps([r.asdict() for r in rows], indent=2) if as_json else table(rows))
