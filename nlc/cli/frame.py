"""What every verb does alike: reading a spec, saying mistakes, writing a product, the exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from nlc.base.diagnostics import BadFeature, BadHelpers, BadPlan, NotFused, SpecError
from nlc.tools.sizes import BadHyper


def tell(error: SpecError, format: str | None, beside: bool = False) -> None:
    """Mistakes on stdout if they are data and there is no product ``beside`` them, else on stderr."""
    from nlc.base import render

    if not error.report.diagnostics:
        return
    if format == "json":
        click.echo(render.render_json(error.report), err=beside)
    elif format == "github":
        click.echo(render.render_github(error.report), err=beside)
    else:
        click.echo(render.render_report(error.report, color=_color(sys.stderr)), err=True)


def _color(stream: Any) -> bool:
    import os

    return stream.isatty() and not os.environ.get("NO_COLOR")


def verb(f: Callable) -> Callable:
    """A spec's mistakes end in a report and exit code 1, bugs of ours in a short message and 3."""

    @wraps(f)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            f(*args, **kwargs)
        except SpecError as error:
            tell(error, kwargs.get("format", "text"))
            sys.exit(1)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except (BadHyper, BadPlan, BadFeature, BadHelpers, NotFused) as error:
            raise click.BadParameter(str(error), param_hint=error.option) from None
        except OSError as error:
            place = kwargs.get("output") or kwargs.get("path") or error.filename or ""
            click.echo(f"error: {error.strerror or error}: {place}".rstrip(": "), err=True)
            sys.exit(1)
        except Exception as error:
            if click.get_current_context().find_root().params.get("debug"):
                raise
            click.echo(
                f"internal error[NLC901]: {type(error).__name__}: {error}\n"
                "This is a bug in nlc; please report it with the spec. `nlc --debug …` shows where.",
                err=True,
            )
            sys.exit(3)

    return run


def warn(spec: Any) -> None:
    """Warnings do not stop a verb; they are said on stderr."""
    format = click.get_current_context().params.get("format", "text")
    tell(SpecError(spec.report), format, beside=True)


def load(name: str, **kwargs: Any) -> Any:
    from nlc import pipeline

    if name == "-":
        return pipeline.loads(sys.stdin.buffer.read(), "<stdin>", **kwargs)
    return pipeline.load(name, **kwargs)


def put(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text.rstrip("\n"))
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        click.echo(f"wrote {output}", err=True)


def progress() -> Callable[[str], None] | None:
    """One line that is written over, for people who wait."""
    if not sys.stderr.isatty():
        return None
    return lambda text: click.echo(f"\r{text:<60}\r", nl=False, err=True)
