"""A new spec from a shipped one: its own name, its own line about itself, its keys known to editors."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from nlc.library import shipped
from nlc.pipeline import load
from nlc.runtime.loader import write_atomically
from nlc.syntax.schema import MARK, schema_text

# A name, and not the address of the installed schema: it is good on every machine, without a net,
# and in every version of Python. A copy of the schema stands beside the spec and goes with it.
SCHEMA = "nlc.schema.json"
_LINE = re.compile(r"^# yaml-language-server:.*\n", re.M)


def simplest() -> str:
    """The shipped token system that says a memory and its objective in the fewest words."""
    texts = {}
    for name in shipped():
        tree = load(name).tree
        if tree.context.text == "tokens" and any(level.objective for level in tree.levels):
            texts[name] = tree.source.text
    return min(texts, key=lambda name: len(texts[name]))


def scaffold(text: str, name: str) -> str:
    """The text of ``like`` under a new name; everything else is kept, comments too."""
    safe = re.sub(r"\W+", "_", name).strip("_") or "system"
    safe = safe if safe[0].isalpha() else f"s_{safe}"
    text = re.sub(r"^system:.*$", f"system: {safe}", text, count=1, flags=re.M)
    about = "doc: What this system is, in a sentence.\n"
    text = re.sub(_field("doc"), about, text, count=1, flags=re.M)
    text = re.sub(_field("ref"), "", text, count=1, flags=re.M)
    return f"# yaml-language-server: $schema={SCHEMA}\n{_LINE.sub('', text)}"


def put_schema(folder: Path) -> str:
    """The schema that new specs name, in their folder; an older copy is renewed, another file kept.

    Its name if it was written, otherwise nothing.
    """
    path, text = folder / SCHEMA, schema_text()
    known = ""
    with suppress(FileNotFoundError):
        known = path.read_text(encoding="utf-8")
    if known != text and (not known or MARK in known):
        write_atomically(path, text)
        return SCHEMA
    return ""


def _field(key: str) -> str:
    """A key at the top level with its value, which may go on in indented lines."""
    return rf"^{key}:.*\n(?:[ \t]+\S.*\n)*"
