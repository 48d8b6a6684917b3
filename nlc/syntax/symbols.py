"""Unicode mathematics -> ASCII: the letters, digits and fractions of expressions and names."""

from __future__ import annotations

import unicodedata

from nlc.base.greek import GREEK

_GREEK = {ch: name for name, ch in GREEK.items()}
_VARIANTS = {"ς": "σ", "ϑ": "θ", "ϕ": "φ", "ϱ": "ρ", "ϵ": "ε", "µ": "μ"}
_CAPITALS = "ΓΔΘΛΞΠΣΦΨΩ"  # those that do not look like a Latin letter


def letters() -> dict[str, str]:
    """Each letter that a name may have beside Latin ones, and the name that it stands for."""
    capitals = {ch: _GREEK[ch.lower()].capitalize() for ch in _CAPITALS}
    return _GREEK | {ch: _GREEK[plain] for ch, plain in _VARIANTS.items()} | capitals


_LETTERS = str.maketrans(letters() | {chr(0x2080 + digit): str(digit) for digit in range(10)})


NAMES_OF_LETTERS = frozenset(_GREEK.values())


def ascii_name(text: str) -> str:
    """``β₁`` -> ``beta1``; a name in ASCII stays as it is."""
    return text.translate(_LETTERS)


def fraction(symbol: str) -> float:
    """``½`` -> 0.5."""
    return unicodedata.numeric(symbol)


def superscript(text: str) -> int:
    """``⁻¹`` -> -1."""
    digits = "".join(str(unicodedata.digit(ch)) for ch in text.lstrip("⁻"))
    return -int(digits) if text[0] == "⁻" else int(digits)
