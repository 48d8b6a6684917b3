"""A new spec from a shipped one: its own name, its own line about itself."""

from __future__ import annotations

import re

from nlc.pipeline import load, shipped


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
    return re.sub(_field("ref"), "", text, count=1, flags=re.M)


def _field(key: str) -> str:
    """A key at the top level with its value, which may go on in indented lines."""
    return rf"^{key}:.*\n(?:[ \t]+\S.*\n)*"
