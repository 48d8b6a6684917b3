"""Letters that no name has -> the name that was meant: ``аlpha`` with a Cyrillic first letter, ``μ̂`` for ``mu_hat``."""

from __future__ import annotations

import unicodedata

from nlc.syntax.symbols import ascii_name, letters

# Letters of other alphabets that look like a Latin one; those of full width and of mathematics Unicode itself maps.
_LIKE = dict(
    zip(
        "аеорсухіјѕԁһԛԝАВЕКМНОРСТУХІЈЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧο",
        "aeopcyxijsdhqwABEKMHOPCTYXIJSABEZHIKMNOPTYXo",
    )
)
_MARKS = {
    "\u0302": "_hat",
    "\u0303": "_tilde",
    "\u0304": "_bar",
    "\u0305": "_bar",
    "\u0307": "_dot",
}
_OURS = letters()


def word_at(text: str, at: int) -> tuple[int, int]:
    """Where the word around a character starts and ends, with its marks."""
    start = end = at
    while start and _of_a_word(text[start - 1]):
        start -= 1
    while end < len(text) and _of_a_word(text[end]):
        end += 1
    return start, max(end, at + 1)


def _of_a_word(ch: str) -> bool:
    return ch.isalnum() or ch == "_" or bool(unicodedata.combining(ch))


def strange(text: str) -> tuple[str, str, bool] | None:
    """What is wrong with the first letter of a word that no name has, and the name that was meant; None if unknown.

    It is certain where letters only look alike: ``q̂`` may be a ``q_hat`` that is not there.
    """
    found, out, marks = "", "", ""
    for ch in unicodedata.normalize("NFD", text):
        if (mark := _MARKS.get(ch)) is not None:
            marks += mark
            found = found or f"the mark U+{ord(ch):04X} has no meaning in a name"
            continue
        plain = ch if ch in _OURS else ascii_name(ch)
        look = plain if plain.isascii() or plain in _OURS else _look(ch)
        if look is None:
            return None
        if look != plain:
            found = (
                found or f"`{ch}` is a {unicodedata.name(ch, 'letter')}, not the letter `{look}`"
            )
        out += look
    return (found, ascii_name(out) + marks, not marks) if found else None


def _look(ch: str) -> str | None:
    plain = _LIKE.get(ch) or unicodedata.normalize("NFKC", ch)
    one = len(plain) == 1 and ch.isalpha() and plain.isalpha()
    return plain if one and (plain.isascii() or plain in _OURS) else None
