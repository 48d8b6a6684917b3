"""Specs -> one HTML file that shows the level graph and lets a reader explore it; it loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from nlc.tools import draw
from nlc.tools.page.build import build
from nlc.tools.page.model import Page

if TYPE_CHECKING:
    from nlc.pipeline import Spec

_SCRIPTS = (
    "time.js",
    "edges.js",
    "panel.js",
    "raster.js",
    "page.js",
)  # in the order in which they run


def page(spec: Spec, optimizer: Spec | None = None) -> str:
    """The file's text, the same bytes for the same specs. Raises SpecError for a spec with mistakes."""
    graph = spec.combined(optimizer) if optimizer is not None else spec.graph
    return html(build(spec, optimizer), draw.draw(graph))


def html(page: Page, text: str) -> str:
    """``text`` is for readers without scripts."""
    style = _asset("page.css")
    # a scope of its own: nothing of the page is a global name
    script = "\n".join(["(() => {", '"use strict";', *map(_asset, _SCRIPTS), "})();"])
    return Template(_asset("page.html")).substitute(
        policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'",
        title=escape(page.name),
        style=style,
        text=escape(text),
        data=_json(page),
        script=script,
    )


def _json(page: Page) -> str:
    """Data as a script holds it: no text in it can end the element, or open a comment in it."""
    data = json.dumps(asdict(page), ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return data


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


__all__ = ["page"]
