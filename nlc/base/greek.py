"""The small Greek letters by their English names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator


def _letters() -> Iterator[tuple[str, str]]:
    for code in range(ord("α"), ord("ω") + 1):
        name = unicodedata.name(chr(code)).removeprefix("GREEK SMALL LETTER ").lower()
        if not name.startswith("final "):
            yield {"lamda": "lambda"}.get(name, name), chr(code)


GREEK = dict(_letters())
