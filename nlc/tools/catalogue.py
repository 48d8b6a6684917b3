"""What there is to use, from the tables that the compiler itself uses."""

from __future__ import annotations

from nlc.base.codes import CODES
from nlc.tools import reference

TABLES = (*reference.TABLES, "codes")


def catalogue(what: str) -> list[tuple[str, str]]:
    """Rows of name and one line of text."""
    if what == "codes":
        return [(code, f"{c.title}: {c.text}") for code, c in CODES.items()]
    return [(e.usage, e.doc) for e in reference.entries(what)]


def markdown(what: str) -> str:
    """The rows as a table, as the documents have it; codes are a page with an example for each."""
    if what == "codes":
        from nlc.tools.mistakes import document

        return document()
    return reference.markdown(what)
