"""The text of a clock -> ClockTree: ``every 16 tokens``, ``2 per token``, ``infinite``."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nlc.base.diagnostics import Fix, Report, certain, nearest
from nlc.base.span import Source, Span
from nlc.syntax.math import parse_expr
from nlc.syntax.tree import ClockTree
from nlc.syntax.yamlnodes import Scalar

_LONGEST = 200  # characters of a clock
_UNITS = {"token": "token", "tokens": "token", "step": "step", "steps": "step"}
_FIRST_WORDS = ("every", "infinite", "never")
WORDS = (*_FIRST_WORDS, "per", *_UNITS)  # that mean something in a clock
_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_EVERY = re.compile(rf"\s*every\b\s*(?P<count>.*?)\s*\b(?P<unit>{_NAME})\s*", re.DOTALL)
_PERIOD = re.compile(rf"\s*(?P<count>.*?)\s*\b(?P<unit>{_NAME})\s*", re.DOTALL)
_PER = re.compile(rf"\s*(?P<count>\S.*?)\s+per\s+(?P<unit>{_NAME})\s*", re.DOTALL)
# What others count in, and what is counted here.
_COUNTED = {
    **dict.fromkeys("word frame position sample timestep element char character".split(), "token"),
    **dict.fromkeys("batch update iteration iter minibatch optimizer".split(), "step"),
}

# The forms of a clock, fastest first.
FORMS = {
    "infinite": "solved anew for every query: a cache",
    "n per token": "n times in every token",
    "every token": "once a token",
    "every n tokens": "once in n tokens, behind the last of them; n is a number or hypers",
    "every NAME": "in the tokens where the declared clock NAME is positive, in each sequence by itself",
    "every step": "once a step of the optimizer",
    "every n steps": "once in n steps, behind the last of them",
    "never": "slow weights, between the steps of the optimizer",
}
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_ORDINALS = {"other": 2, "second": 2, "third": 3, "fourth": 4, "eighth": 8, "tenth": 10}
_WRITE = (
    "a clock is `every token`, `every n tokens`, `n per token`, `every step`, `every n steps`,"
    " `infinite` or `never`"
)


@dataclass(frozen=True)
class Known:
    """What a clock of a spec may be made of: its declared clocks, its hypers, and what its context counts in."""

    clocks: Collection[str]
    hypers: Collection[str]
    unit: str  # `token` or `step`


NOTHING = Known((), (), "token")


def parse_clock(scalar: Scalar, report: Report, known: Known | None = None) -> ClockTree | None:
    """The clock of a scalar, or None after a mistake.

    ``known`` are the names of the spec; without them any name passes as a unit.
    """
    word = scalar.text.strip()
    if scalar.broken or not _readable(scalar, report):
        return None
    if word in ("infinite", "never"):
        return ClockTree(word, None, None, scalar.span)
    for kind, form in (("every", _EVERY), ("per", _PER)):
        match = form.fullmatch(scalar.text)
        if match and match["count"] != "once" and not _two_words(match["count"], match["unit"]):
            return _clock(scalar, kind, match, report, known)
    _unreadable(scalar, report, known)
    return None


def form_of(text: str) -> str | None:
    """Which of the forms a clock has: that of ``every 4 tokens`` is ``every n tokens``. None for what is no clock."""
    found = _shape(text)
    return next((f for f in FORMS if found is not None and _shape(f) == found), None)


def _shape(text: str) -> tuple[str, str | None, bool] | None:
    """Its kind, its unit if that is the language's own, and whether it counts."""
    report = Report()
    tree = parse_clock(Scalar(text, Span(Source("<clock>", text), 0, len(text))), report)
    if tree is None or report.diagnostics:
        return None
    return tree.kind, tree.unit if tree.unit in _UNITS else None, tree.count is not None


def parse_period(scalar: Scalar, report: Report, known: Known | None = None) -> ClockTree | None:
    """``4096 tokens``, ``k steps``, ``episode``: what stands behind a key called ``every``."""
    if scalar.broken or not _readable(scalar, report):
        return None
    match = _EVERY.fullmatch(scalar.text) or _PERIOD.fullmatch(scalar.text)
    word = scalar.text.strip()
    if match is None or match["count"].endswith("per") or word in _FIRST_WORDS:
        report.add(
            "NLC014",
            f"`{word}` is no period",
            scalar.span,
            "expected `n tokens`, `n steps` or a declared clock",
        )
        return None
    return _clock(scalar, "every", match, report, known)


def words(scalar: Scalar) -> list[tuple[Scalar, bool]]:
    """The words of a clock or a period that has no mistake, and whether each is the count."""
    for form in (_EVERY, _PER, _PERIOD):
        if match := form.fullmatch(scalar.text):
            break
    else:
        return [(_stripped(scalar, 0, len(scalar.text)), False)]
    count, unit = match.span("count"), match.span("unit")
    parts = [((0, count[0]), False), (count, True), ((count[1], unit[0]), False), (unit, False)]
    pieces = [(_stripped(scalar, *place), is_count) for place, is_count in parts]
    return [(piece, is_count) for piece, is_count in pieces if piece.text]


def _stripped(scalar: Scalar, start: int, end: int) -> Scalar:
    """A part without the white space around it."""
    text = scalar.text[start:end]
    start += len(text) - len(text.lstrip())
    return scalar.part(start, max(start, start + len(text.strip())))


def _readable(scalar: Scalar, report: Report) -> bool:
    if scalar.text.strip() and len(scalar.text) <= _LONGEST:
        return True
    report.add("NLC014", "this is no clock", scalar.span, "expected a clock", helps=[_WRITE])
    return False


def _clock(
    scalar: Scalar,
    kind: str,
    match: re.Match[str],
    report: Report,
    known: Known | None,
) -> ClockTree | None:
    written = match["unit"]
    unit = _UNITS.get(written, written)
    if (times := _ordinal(match["count"], known)) is not None:
        one = match["unit"].removesuffix("s") if unit != written else written
        _no_clock(scalar, f"every {times} {one}s" if unit in _UNITS else None, report)
        return None
    if known is not None and written not in _UNITS and written not in known.clocks:
        names = [*_UNITS, *known.clocks]
        span = scalar.span_of(match.start("unit"), match.end("unit"))
        near, fix = nearest(written, names) or _counted(written), certain(span, written, names)
        if written in known.hypers and kind == "every" and _counts(match["count"]):
            near = f"{scalar.text[match.start('count') : match.end('unit')].strip()} {known.unit}s"
            fix = Fix(span, f"{written} {known.unit}s")
        report.add(
            "NLC014",
            f"there is no clock `{written}`",
            span,
            f"did you mean `{near}`?" if near else "expected `token`, `step` or a declared clock",
            helps=["declare it in `clocks`"] if not near else [],
            fix=fix,
        )
        return None
    if not match["count"]:
        return ClockTree(kind, None, unit, scalar.span)
    count = parse_expr(scalar.part(match.start("count"), match.end("count")), report)
    return None if count is None else ClockTree(kind, count, unit, scalar.span)


def _counts(count: str) -> bool:
    """Whether what stands before a hyper leaves it a number, as in ``every chunk`` and ``every 2 * chunk``."""
    return not count or count[-1] in "+-*/("


def _ordinal(count: str, known: Known | None) -> int | None:
    """``64th`` and ``third`` as numbers."""
    if known is not None and count in known.hypers:
        return None
    match = _ORDINAL.fullmatch(count)
    return int(match[1]) if match else _ORDINALS.get(count)


def _unreadable(scalar: Scalar, report: Report, known: Known | None) -> None:
    words = _words(scalar.text)
    meant = _meant(words, known)
    if meant and meant.count("(") != meant.count(")"):
        meant = None  # a bracket went with the misspelt word
    helps = []
    if words[-1].isdigit() and len(words) <= 2 and words[0] in ("every", words[-1]):
        unit = known.unit if known is not None else "token"
        every = f"every {unit}" if words[-1] == "1" else f"every {words[-1]} {unit}s"
        helps = [f"say of what: `{every}`"]
    _no_clock(scalar, meant, report, helps)


def _no_clock(scalar: Scalar, meant: str | None, report: Report, helps: Sequence[str] = ()) -> None:
    report.add(
        "NLC014",
        f"`{' '.join(scalar.text.split())}` is no clock",
        scalar.span,
        f"did you mean `{meant}`?" if meant else "of what?" if helps else "",
        helps=helps or ([] if meant else [_WRITE]),
        fix=Fix(scalar.span, meant) if meant and not scalar.style else None,
    )


def _two_words(count: str, unit: str) -> bool:
    """``time step`` and its like: words in place of a unit."""
    return count in ("time", "training", "gradient", "optimizer") and unit in ("step", "steps")


def _counted(unit: str) -> str | None:
    """Our unit of what others count in."""
    one = unit.lower()
    if one in _COUNTED:
        return _COUNTED[one]
    many = _COUNTED.get(one.removesuffix("s")) or _COUNTED.get(one.removesuffix("es"))
    return f"{many}s" if many else None


def _words(text: str) -> list[str]:
    """The words of a clock, or of one in brackets: those of the language in small letters and apart from numbers."""
    known = {*_UNITS, *_FIRST_WORDS, "each", "per", "once"}
    apart = re.sub(r"(?<=\d)(?=(?:tokens?|steps?)\b)", " ", text, flags=re.IGNORECASE)
    apart = apart.strip().rstrip(".,; \n")
    words = re.sub(r"^\((.*)\)$", r"\1", apart, flags=re.DOTALL).split()
    return [w.lower() if w.lower() in known else w for w in words or text.split()]


def _meant(words: list[str], known: Known | None) -> str | None:
    """The clock that was probably meant, if one is near."""
    first, last = words[0], words[-1]
    declared = known.clocks if known is not None else ()
    if known is not None and last in known.hypers and _counts("".join(words[:-1])):
        return " ".join(["every", *words, f"{known.unit}s"])
    if len(words) == 3 and first == "every" and _two_words(*words[1:]):
        return f"every {'token' if words[1] == 'time' else 'step'}"
    if len(words) == 3 and first == "once" and words[1] in ("per", "a", "every", "each"):
        words = [first, last]
    if last in _UNITS or last in declared:
        if first in ("each", "per", "once"):
            return " ".join(["every", *words[1:]])
        if len(words) == 1:
            return f"every {_UNITS.get(last, last)}"
    near = first if first in _FIRST_WORDS else nearest(first, _FIRST_WORDS)
    if near is None:
        return " ".join(["every", *words]) if last in _UNITS else None
    meant = " ".join([near, *words[1:]])
    whole = near in ("infinite", "never") and len(words) == 1
    return meant if whole or (near == "every" and _EVERY.fullmatch(meant)) else None
