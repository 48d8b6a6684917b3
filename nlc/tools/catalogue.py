"""What there is to use, from the tables that the compiler itself uses: specs, functions, memories, rules, codes."""

from __future__ import annotations

import re

from nlc.base.codes import CODES
from nlc.lib.functions import FUNCTIONS, REQUIRED
from nlc.lib.memories import MEMORIES
from nlc.lib.rules import RULES
from nlc.pipeline import load, shipped


def catalogue(what: str) -> list[tuple[str, str]]:
    """Rows of name and one line of text."""
    if what == "specs":
        return [(name, _doc(name)) for name in sorted(shipped())]
    if what == "functions":
        return [(_call(f.name, f.params), f.doc) for f in FUNCTIONS.values()]
    if what == "memories":
        return [(_call(m.name, m.params), m.doc) for m in MEMORIES.values()]
    if what == "rules":
        return [(_call(r.name, r.params), r.doc) for r in RULES.values()]
    return [(code, f"{c.title}: {c.text}") for code, c in CODES.items()]


def _call(name: str, params: dict[str, object]) -> str:
    if not params:
        return name
    return f"{name}({', '.join(p if d is REQUIRED else f'{p}={d or chr(8230)}' for p, d in params.items())})"


def _doc(name: str) -> str:
    """The first sentence of what a spec says of itself."""
    tree = load(name).tree
    return re.split(r"(?<=\.)\s", tree.doc.text)[0] if tree.doc else ""
