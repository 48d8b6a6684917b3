"""Verbs that say what a spec means: graph, derive, explain, list."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nlc.base.codes import CODES
from nlc.base.diagnostics import nearest
from nlc.cli import options
from nlc.cli.frame import load, put, verb, warn

_PLAIN = {".txt": "text", ".json": "json"}
_DRAWN = {".svg": "svg", ".html": "html", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid", **_PLAIN}
_DERIVED = {".tex": "latex", ".md": "markdown", **_PLAIN}


@click.command()
@click.argument("spec")
@click.option(
    "--format",
    type=click.Choice(["text", "mermaid", "dot", "svg", "html", "json", "github"]),
    help="How it is drawn; html: a page with every level's update and lines; github: mistakes as annotations."
    " Without it as the file's ending says, else text.",
)
@click.option(
    "--optimizer", metavar="SPEC", help="The gradient system that trains this token system."
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file."
)
@verb
def graph(spec: str, format: str | None, optimizer: str | None, output: Path | None) -> None:
    """Show the levels, ordered by ≻, and who reads whom."""
    from nlc.tools.draw import draw

    format = options.by_ending(format, output, _DRAWN)
    loaded = load(spec)
    made, trainer = loaded.graph, None
    if optimizer:
        trainer = load(optimizer)
        if loaded.system.context != "tokens" or not trainer.system.trains:
            which, context = (
                (spec, loaded) if loaded.system.context != "tokens" else (optimizer, trainer)
            )
            raise click.UsageError(
                "--optimizer combines a token system with a gradient or layer system;"
                f" `{which}` has the context "
                f"{context.system.context}"
            )
        made = loaded.combined(trainer)
    warn(loaded)
    if format == "html":
        put(loaded.page(trainer), output)
    else:
        put(draw(made, "text" if format == "github" else format), output)


@click.command()
@click.argument("spec")
@click.argument("level", required=False)
@click.option(
    "--format",
    type=click.Choice(["text", "latex", "markdown", "json", "github"]),
    help="How it is written; github: mistakes as annotations. Without it as the file's ending says, else text.",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file."
)
@verb
def derive(spec: str, level: str | None, format: str | None, output: Path | None) -> None:
    """Derive each level's update from its objective, step by step."""
    from nlc.tools.derivation import chosen_by

    format = options.by_ending(format, output, _DERIVED)
    loaded = load(spec)
    updates = loaded.updates
    chosen = chosen_by(level, loaded.system, updates)
    if level is not None and not chosen:
        close = nearest(level, updates)
        hint = f"did you mean {close!r}?" if close else f"there are: {', '.join(updates) or 'none'}"
        raise click.BadParameter(f"no level {level!r} has an update; {hint}", param_hint="LEVEL")
    warn(loaded)
    if format == "json":
        found = {name: loaded.derive(name) for name in chosen}
        put(json.dumps(found, ensure_ascii=False, indent=2), output)
    else:
        put(loaded.derive(level, format if format in ("latex", "markdown") else "text"), output)


@click.command()
@click.argument("specs", metavar="SPEC|CODE|WORD...", nargs=-1, required=True)
@options.explained
@verb
def explain(
    specs: tuple[str, ...],
    backend: str,
    plans: tuple[str, ...],
    settings: tuple[str, ...],
    tokens: int,
    format: str,
) -> None:
    """Say how each level runs, why, what it costs, and what would make it faster; or what a code means.

    WORD is a word of the language: a function, a memory, a rule, an argument, a key, a clock. Of several, each
    is explained, with an empty line between them; in JSON they are a list.
    """
    found, as_json = [], format == "json"
    for i, spec in enumerate(specs):
        said = _explained(spec, backend, plans, settings, tokens, as_json)
        if as_json:
            found.append(said)
        else:
            click.echo(f"\n{said}" if i else said)
    if as_json:
        shown = found if found[1:] else found[0]
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2))


def _explained(
    spec: str,
    backend: str,
    plans: tuple[str, ...],
    settings: tuple[str, ...],
    tokens: int,
    as_json: bool,
) -> object:
    """The text, or what JSON holds."""
    from nlc.tools import mistakes

    if mistakes.is_code(spec):
        if spec.upper() not in CODES:
            close = nearest(spec.upper(), CODES)
            hint = f"did you mean {close}?" if close else "`nlc list codes` shows them"
            raise click.BadParameter(f"there is no code {spec}; {hint}", param_hint="CODE")
        return mistakes.code(spec) if as_json else mistakes.said(spec)
    if (words := _word(spec, as_json)) is not None:
        return words
    loaded = load(spec)
    hypers = dict(map(options.setting, settings))
    made = loaded.explain(backend, dict(map(options.plan, plans)), hypers=hypers, tokens=tokens)
    warn(loaded)
    return made.asdict() if as_json else str(made)


def _word(text: str, as_json: bool) -> object | None:
    """What a text means in the language, unless it is, or is nearly, a spec."""
    from nlc.pipeline import search
    from nlc.tools import reference

    specs = search()
    if text == "-" or text in specs or Path(text).suffix:
        return None
    if words := reference.find(text):
        told = [reference.asdict(w) if as_json else reference.said(w) for w in words]
        return told if as_json else "\n\n".join(told)
    if nearest(text, specs) or Path(text).exists():
        return None
    close = reference.meant(text)
    listed = "`nlc list` shows the specs, `nlc list --help` the tables of words"
    way = f"did you mean {close}?" if close else listed
    hint = f"`{text}` is no spec and no word of the language; {way}"
    raise click.BadParameter(hint, param_hint="WORD")


@click.command(name="list")
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
@verb
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
