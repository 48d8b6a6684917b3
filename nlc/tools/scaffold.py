"""A new spec from a shipped one: its own name, its own line about itself."""

from __future__ import annotations

import re


def scaffold(text: str, name: str) -> str:
    """The text of ``like`` under a new name; everything else is kept, comments too."""
    safe = re.sub(r"\W+", "_", name).strip("_") or "system"
    safe = safe if safe[0].isalpha() else f"s_{safe}"
    text = re.sub(r"^system:.*$", f"system: {safe}", text, count=1, flags=re.M)
    text = re.sub(
        r"^doc:.*$", "doc: What this system is, in a sentence.", text, count=1, flags=re.M
    )
    return re.sub(r"^ref:.*\n", "", text, count=1, flags=re.M)
