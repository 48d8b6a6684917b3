"""What there is to use, from the tables that the compiler itself uses."""

from __future__ import annotations

import re

from nlc.base.codes import CODES
from nlc.lib.functions import FUNCTIONS, REQUIRED
from nlc.lib.memories import MEMORIES
from nlc.lib.rules import ROUTES, RULES
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
        formulas = [(_call(r.name, r.params), r.doc) for r in RULES.values()]
        return formulas + [_rule(name) for name in sorted(shipped()) if _is_rule(name)]
    if what == "tensors":
        return [(r.name, r.doc) for r in ROUTES.values()]
    return [(code, f"{c.title}: {c.text}") for code, c in CODES.items()]


def markdown(what: str) -> str:
    """The rows as a table; codes are a page with an example for each."""
    if what == "codes":
        from nlc.tools.mistakes import document

        return document()
    rows = [f"| `{name}` | {doc.replace('|', chr(92) + '|')} |" for name, doc in catalogue(what)]
    return "\n".join(["| name | |", "| --- | --- |", *rows])


def _call(name: str, params: dict[str, object]) -> str:
    if not params:
        return name
    return f"{name}({', '.join(p if d is REQUIRED else f'{p}={d or chr(8230)}' for p, d in params.items())})"


def _is_rule(name: str) -> bool:
    return load(name).tree.context.text == "gradients"


def _rule(name: str) -> tuple[str, str]:
    """A gradient system as the rule that it is too: its hypers are the arguments."""
    hypers = ", ".join(h.name for h in load(name).tree.hyper)
    return f"{name}({hypers})", _doc(name)


def _doc(name: str) -> str:
    """The first sentence of what a spec says of itself."""
    tree = load(name).tree
    return re.split(r"(?<=\.)\s", tree.doc.text)[0] if tree.doc else ""
