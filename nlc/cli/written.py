"""Verbs for who writes a spec: check, fmt, new, schema."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from nlc.base.diagnostics import SpecError
from nlc.cli import options
from nlc.cli.frame import load, put, tell, verb


@click.command()
@click.argument("specs", nargs=-1, required=True, metavar="SPEC...")
@options.checked
@verb
def check(specs: tuple[str, ...], format: str, fix: bool) -> None:
    """Find every mistake in a spec, all at once."""
    failed = False
    for name in specs:
        try:
            spec = _fixed(name, format) if fix else load(name)
        except SpecError as error:
            tell(error, format)
            failed = True
            continue
        report = spec.check()
        if report.diagnostics:
            tell(SpecError(report), format, beside=fix and name == "-")
        if report.has_errors:
            failed = True
        elif format == "text" and not (fix and name == "-"):
            kind = spec.system.context.removesuffix("s")
            place = spec.source.name if name == "-" else name
            count = len(report.diagnostics)
            warned = f" with {count} warning{'s' if count > 1 else ''}" if count else ""
            sound = "a" if warned else "a sound"
            click.echo(f"{place}: {spec.system.name} is {sound} {kind} system{warned}")
    if failed:
        sys.exit(1)


def _fixed(name: str, format: str) -> Any:
    """The spec after what is certain was repaired; says each repair."""
    from nlc.tools import fix

    repaired = fix.stream(sys.stdin.read()) if name == "-" else fix.file(name)
    if name == "-":
        click.echo(repaired.spec.source.text, nl=False)
    click.echo(repaired.json() if format == "json" else str(repaired), nl=False, err=name == "-")
    return repaired.spec


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Write nothing; show what would change.")
@options.MISTAKES
@verb
def fmt(files: tuple[str, ...], check: bool, diff: bool, format: str) -> None:
    """Write specs in canonical form: comments stay, and what they mean. - goes to standard output."""
    from nlc.tools.formatting import NotAFile, format_files

    failed = False
    try:
        for made in format_files(files):
            if isinstance(made, SpecError):
                tell(made, format)
            elif diff:
                click.echo(made.diff, nl=False)
            elif check and made.changed and format == "text":
                click.echo(f"{made.source.name} would change")
            elif check:
                tell(SpecError(made.report), format)
            elif made.path is None:
                click.echo(made.text.encode(), nl=False)
            elif made.write():
                click.echo(f"formatted {made.path}", err=True)
            failed |= isinstance(made, SpecError) or (check and made.changed)
    except NotAFile as error:
        raise click.UsageError(str(error)) from None
    if failed:
        sys.exit(1)


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--like", metavar="SPEC", help="The spec to start from; without it, the simplest there is."
)
@options.MISTAKES
@verb
def new(path: Path, like: str | None, format: str) -> None:
    """Start a spec of your own from a copy of another."""
    from nlc.tools.scaffold import put_schema, scaffold, simplest

    if path.suffix not in (".yaml", ".yml"):
        path = path.with_name(path.name + ".yaml")
    if path.exists():
        raise click.BadParameter(f"{path} exists; nothing was overwritten", param_hint="PATH")
    text = scaffold(load(like or simplest()).source.text, path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    beside = put_schema(path.parent)
    wrote = f"{path}, and {beside} beside it for editors" if beside else f"{path}"
    click.echo(f"wrote {wrote}; next: nlc check {path}")


@click.command()
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file."
)
@verb
def schema(output: Path | None) -> None:
    """Print the JSON Schema of a spec, for editors."""
    from nlc.syntax.schema import schema_text

    put(schema_text(), output)
