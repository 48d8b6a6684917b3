"""What there is to use, from the tables that the compiler itself uses."""

from __future__ import annotations

import re

from nlc.base.codes import CODES
from nlc.tools import reference
from nlc.tools.layout import wrap
from nlc.tools.table import WIDTH

TABLES = (*reference.TABLES, "codes")


def catalogue(what: str) -> list[tuple[str, str]]:
    """Rows of name and one line of text."""
    if what == "codes":
        return [(code, f"{c.title}: {c.text}") for code, c in CODES.items()]
    return [(e.usage, e.doc) for e in reference.entries(what)]


def markdown(what: str) -> str:
    """The rows as a table, as the documents have it."""
    if what == "codes":
        rows = [f"| `{name}` | {doc} |" for name, doc in catalogue(what)]
        return "\n".join(["| code | |", "| --- | --- |", *rows])
    return reference.markdown(what)


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
