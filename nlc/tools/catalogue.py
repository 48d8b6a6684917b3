"""What there is to use, from the tables that the compiler itself uses."""

from __future__ import annotations

import re

from nlc.base.codes import CODES
from nlc.lib.functions import FUNCTIONS, REQUIRED
from nlc.lib.memories import MEMORIES
from nlc.lib.rules import ROUTES, RULES
from nlc.pipeline import load, shipped
from nlc.tools.layout import wrap
from nlc.tools.table import WIDTH


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


def is_code(text: str) -> bool:
    """Whether a text looks like the code of a diagnostic."""
    return re.fullmatch(r"NLC\d+", text, re.IGNORECASE) is not None


def code(text: str) -> dict[str, str] | None:
    """What a code means; None if there is none of it."""
    found = CODES.get(text.upper())
    if found is None:
        return None
    said = "\n".join(
        [f"{found.severity}[{text.upper()}]: {found.title}", "", *wrap(found.text, WIDTH)]
    )
    facts = {"code": text.upper(), "severity": found.severity, "title": found.title}
    return {**facts, "text": found.text, "said": said}
