"""The command line: each verb parses its flags, calls one function of the pipeline and prints. No logic here.

Products go to stdout, diagnostics to stderr. Exit codes: 0 fine, 1 the user's mistake, 2 usage, 3 ours.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from nlc.base.codes import CODES
from nlc.base.diagnostics import BadPlan, SpecError, nearest
from nlc.pipeline import BACKENDS
from nlc.tools import options
from nlc.tools.sizes import BadHyper
from nlc.version import __version__

FORMATS = click.Choice(["text", "json", "github"])
_MISTAKES = click.option(
    "--format", type=FORMATS, default="text", show_default=True, help="How mistakes are said."
)


def _tell(error: SpecError, format: str, beside: bool = False) -> None:
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


def _verb(f: Callable) -> Callable:
    """A spec's mistakes end in a report and exit code 1, bugs of ours in a short message and 3."""

    @wraps(f)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            f(*args, **kwargs)
        except SpecError as error:
            _tell(error, kwargs.get("format", "text"))
            sys.exit(1)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except (BadHyper, BadPlan) as error:
            hint = error.option if isinstance(error, BadHyper) else "--plan"
            raise click.BadParameter(str(error), param_hint=hint) from None
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


def _warn(spec: Any) -> None:
    """Warnings do not stop a verb; they are said on stderr."""
    format = click.get_current_context().params.get("format", "text")
    _tell(SpecError(spec.report), format, beside=True)


def _load(name: str, **kwargs: Any) -> Any:
    from nlc import pipeline

    if name == "-":
        return pipeline.loads(sys.stdin.buffer.read(), "<stdin>", **kwargs)
    return pipeline.load(name, **kwargs)


@click.group(cls=options.Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nlc")
@click.option("--debug", is_flag=True, help="Show tracebacks of bugs in nlc.")
def main(debug: bool) -> None:
    """A compiler for nested learning: specs of associative memories to PyTorch.

    SPEC is a shipped name (`nlc list`), a path to a YAML file, or - for standard input.
    """


@main.command()
@click.argument("specs", nargs=-1, required=True, metavar="SPEC...")
@options.checked
@_verb
def check(specs: tuple[str, ...], format: str, fix: bool) -> None:
    """Find every mistake in a spec, all at once."""
    failed = False
    for name in specs:
        try:
            spec = _fixed(name, format) if fix else _load(name)
        except SpecError as error:
            _tell(error, format)
            failed = True
            continue
        report = spec.check()
        if report.diagnostics:
            _tell(SpecError(report), format, beside=fix and name == "-")
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


@main.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Write nothing; show what would change.")
@_MISTAKES
@_verb
def fmt(files: tuple[str, ...], check: bool, diff: bool, format: str) -> None:
    """Write specs in canonical form: comments stay, and what they mean. - goes to standard output."""
    from nlc.tools.formatting import NotAFile, format_files

    failed = False
    try:
        for made in format_files(files):
            if isinstance(made, SpecError):
                _tell(made, format)
            elif diff:
                click.echo(made.diff, nl=False)
            elif check and made.changed and format == "text":
                click.echo(f"{made.source.name} would change")
            elif check:
                _tell(SpecError(made.report), format)
            elif made.path is None:
                click.echo(made.text.encode(), nl=False)
            elif made.write():
                click.echo(f"formatted {made.path}", err=True)
            failed |= isinstance(made, SpecError) or (check and made.changed)
    except NotAFile as error:
        raise click.UsageError(str(error)) from None
    if failed:
        sys.exit(1)


@main.command()
@click.argument("spec")
@click.option(
    "--format",
    type=click.Choice(["text", "mermaid", "dot", "svg", "html", "json", "github"]),
    default="text",
    show_default=True,
    help="How it is drawn; html: a page with every level's update and lines; github: mistakes as annotations.",
)
@click.option(
    "--optimizer", metavar="SPEC", help="The gradient system that trains this token system."
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file."
)
@_verb
def graph(spec: str, format: str, optimizer: str | None, output: Path | None) -> None:
    """Show the levels, ordered by ≻, and who reads whom."""
    from nlc.tools.draw import draw

    loaded = _load(spec)
    made, trainer = loaded.graph, None
    if optimizer:
        trainer = _load(optimizer)
        if loaded.system.context != "tokens" or trainer.system.context != "gradients":
            which, context = (
                (spec, loaded) if loaded.system.context != "tokens" else (optimizer, trainer)
            )
            raise click.UsageError(
                f"--optimizer combines a token system with a gradient system; `{which}` has the context "
                f"{context.system.context}"
            )
        made = loaded.combined(trainer)
    _warn(loaded)
    if format == "html":
        _put(loaded.page(trainer), output)
    else:
        _put(draw(made, "text" if format == "github" else format), output)


@main.command()
@click.argument("spec")
@click.argument("level", required=False)
@click.option(
    "--format",
    type=click.Choice(["text", "latex", "markdown", "json", "github"]),
    default="text",
    show_default=True,
    help="How it is written; github: mistakes as annotations.",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file."
)
@_verb
def derive(spec: str, level: str | None, format: str, output: Path | None) -> None:
    """Derive each level's update from its objective, step by step."""
    loaded = _load(spec)
    updates = loaded.updates
    if level is not None and level not in updates:
        close = nearest(level, updates)
        hint = f"did you mean {close!r}?" if close else f"there are: {', '.join(updates) or 'none'}"
        raise click.BadParameter(f"no level {level!r} has an update; {hint}", param_hint="LEVEL")
    _warn(loaded)
    if format == "json":
        found = {name: loaded.derive(name) for name in ([level] if level else updates)}
        _put(json.dumps(found, ensure_ascii=False, indent=2), output)
    else:
        _put(loaded.derive(level, format if format in ("latex", "markdown") else "text"), output)


@main.command()
@click.argument("spec")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to a file; standard output without it.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", *BACKENDS]),
    default="auto",
    show_default=True,
    help="Who prints the program; auto: the fastest that can.",
)
@options.PLAN
@options.OPERATOR
@_MISTAKES
@_verb
def compile(
    spec: str,
    output: Path | None,
    backend: str,
    plans: tuple[str, ...],
    operator: bool,
    format: str,
) -> None:
    """Write the generated PyTorch file."""
    loaded = _load(spec, operator=operator)
    text = loaded.source_text(backend, dict(map(options.plan, plans)))
    _warn(loaded)
    if output is None or str(output) == "-":
        click.echo(text, nl=False)
    else:
        from nlc.runtime.loader import write_atomically

        write_atomically(output, text)
        click.echo(
            f"wrote {output}: {loaded.system.name}, {len(text.splitlines())} lines", err=True
        )


@main.command()
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
@_verb
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
    loaded = _load(spec, operator=operator)
    _warn(loaded)
    hypers = dict(map(options.setting, settings))
    peer = dict(map(options.setting, peers))
    result = loaded.verify(seed=seed, tokens=tokens, hypers=hypers, against=against, peer=peer)
    if format == "json":
        click.echo(json.dumps(result.asdict(), ensure_ascii=False, indent=2))
    else:
        click.echo(str(result))
    if not result.passed:
        sys.exit(1)


@main.command()
@click.argument("spec", metavar="SPEC|CODE|WORD")
@options.explained
@_verb
def explain(
    spec: str,
    backend: str,
    plans: tuple[str, ...],
    settings: tuple[str, ...],
    tokens: int,
    format: str,
) -> None:
    """Say how each level runs, why, what it costs, and what would make it faster; or what a code means.

    WORD is a word of the language: a function, a memory, a rule, a key, a clock, a class, an operator.
    """
    from nlc.tools import mistakes

    if mistakes.is_code(spec):
        if spec.upper() not in CODES:
            close = nearest(spec.upper(), CODES)
            hint = f"did you mean {close}?" if close else "`nlc list codes` shows them"
            raise click.BadParameter(f"there is no code {spec}; {hint}", param_hint="CODE")
        if format == "json":
            click.echo(json.dumps(mistakes.code(spec), ensure_ascii=False, indent=2))
        else:
            click.echo(mistakes.said(spec))
        return
    if _is_word(spec, format):
        return
    loaded = _load(spec)
    hypers = dict(map(options.setting, settings))
    made = loaded.explain(backend, dict(map(options.plan, plans)), hypers=hypers, tokens=tokens)
    _warn(loaded)
    as_json = format == "json"
    click.echo(json.dumps(made.asdict(), ensure_ascii=False, indent=2) if as_json else str(made))


def _is_word(text: str, format: str) -> bool:
    """Says what a text means in the language, unless it is, or is nearly, a spec."""
    from nlc.pipeline import search
    from nlc.tools import reference

    specs = search()
    if text == "-" or text in specs or Path(text).suffix:
        return False
    if words := reference.find(text):
        as_json = format == "json"
        told = [reference.asdict(w) if as_json else reference.said(w) for w in words]
        click.echo(json.dumps(told, ensure_ascii=False, indent=2) if as_json else "\n\n".join(told))
        return True
    if nearest(text, specs) or Path(text).exists():
        return False
    close = reference.meant(text)
    listed = "`nlc list` shows the specs, `nlc list --help` the tables of words"
    way = f"did you mean {close}?" if close else listed
    hint = f"`{text}` is no spec and no word of the language; {way}"
    raise click.BadParameter(hint, param_hint="WORD")


@main.command()
@click.argument("spec")
@options.ahead
@_verb
def kernels(
    spec: str, operator: bool, settings: tuple[str, ...], format: str, **asked: Any
) -> None:
    """Compile the Triton kernels of a spec ahead of time, without a GPU, and say what they take.

    Registers and spills of a thread, shared memory of a program, at the spec's own hypers.
    """
    from nlc.runtime.ahead import NotAhead, ahead, table

    loaded = _load(spec, operator=operator)
    _warn(loaded)
    try:
        found = ahead(loaded, hypers=dict(map(options.setting, settings)), **asked)
    except NotAhead as error:
        raise click.ClickException(str(error)) from None
    as_json = format == "json"
    click.echo(json.dumps([k.asdict() for k in found], indent=2) if as_json else table(found))


@main.command()
@click.argument("spec")
@options.tuned
@_verb
def tune(spec: str, operator: bool, settings: tuple[str, ...], format: str, **asked: Any) -> None:
    """Find out how the Triton kernels of a spec run fastest on this GPU, and keep that for all files.

    Compiled files read it in ~/.cache/nlc/kernels, or $NLC_CACHE_DIR/kernels, and check it before use.
    """
    from nlc.runtime.tune import NotTunable, table
    from nlc.runtime.tune import tune as tuned

    loaded = _load(spec, operator=operator)
    _warn(loaded)
    try:
        hypers = dict(map(options.setting, settings))
        rows = tuned(loaded, hypers=hypers, progress=_progress(), **asked)
    except NotTunable as error:
        raise click.UsageError(str(error)) from None
    as_json = format == "json"
    click.echo(json.dumps([r.asdict() for r in rows], indent=2) if as_json else table(rows))


@main.command()
@click.argument("spec")
@options.measured
@_verb
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

    loaded = _load(spec, operator=operator)
    _warn(loaded)
    try:
        if plot is not None:
            picture.ready(plot)
        result = loaded.bench(
            hypers=dict(map(options.setting, settings)), progress=_progress(), **asked
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


def _progress() -> Callable[[str], None] | None:
    """One line that is written over, for people who wait."""
    if not sys.stderr.isatty():
        return None
    return lambda text: click.echo(f"\r{text:<60}\r", nl=False, err=True)


@main.command(name="list")
@click.argument(
    "what",
    type=click.Choice(options.TABLES),
    default="specs",
)
@click.option(
    "--format",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    show_default=True,
    help="How the rows are written; codes in Markdown are a page with examples.",
)
@_verb
def list_(what: str, format: str) -> None:
    """List the shipped specs, or the words of one table of the language."""
    from nlc.tools.catalogue import catalogue, markdown

    if format == "markdown":
        click.echo(markdown(what).rstrip("\n"))
        return
    rows = catalogue(what)
    if format == "json":
        click.echo(
            json.dumps(
                [{"name": name, "doc": doc} for name, doc in rows], ensure_ascii=False, indent=2
            )
        )
        return
    wide = max((len(name) for name, _ in rows), default=0)
    for name, doc in rows:
        click.echo(f"{name:<{wide}}  {doc}".rstrip())


@main.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--like", metavar="SPEC", help="The spec to start from; without it, the simplest there is."
)
@_MISTAKES
@_verb
def new(path: Path, like: str | None, format: str) -> None:
    """Start a spec of your own from a copy of another."""
    from nlc.tools.scaffold import put_schema, scaffold, simplest

    if path.suffix not in (".yaml", ".yml"):
        path = path.with_name(path.name + ".yaml")
    if path.exists():
        raise click.BadParameter(f"{path} exists; nothing was overwritten", param_hint="PATH")
    text = scaffold(_load(like or simplest()).source.text, path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    beside = put_schema(path.parent)
    wrote = f"{path}, and {beside} beside it for editors" if beside else f"{path}"
    click.echo(f"wrote {wrote}; next: nlc check {path}")


@main.command()
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file."
)
@_verb
def schema(output: Path | None) -> None:
    """Print the JSON Schema of a spec, for editors."""
    from nlc.syntax.schema import schema_text

    _put(schema_text(), output)


def _put(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text.rstrip("\n"))
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        click.echo(f"wrote {output}", err=True)


if __name__ == "__main__":
    main()
