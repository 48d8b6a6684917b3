"""The text of a clock -> ClockTree: ``every 16 tokens``, ``2 per token``, ``infinite``."""

from __future__ import annotations

import re
from collections.abc import Collection

from nlc.base.diagnostics import Fix, Report, nearest
from nlc.syntax.math import parse_expr
from nlc.syntax.tree import ClockTree
from nlc.syntax.yamltree import Scalar

_LONGEST = 200  # characters of a clock
_UNITS = {"token": "token", "tokens": "token", "step": "step", "steps": "step"}
_FIRST_WORDS = ("every", "infinite", "never")
_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_EVERY = re.compile(rf"\s*every\b\s*(?P<count>.*?)\s*\b(?P<unit>{_NAME})\s*", re.DOTALL)
_PERIOD = re.compile(rf"\s*(?P<count>.*?)\s*\b(?P<unit>{_NAME})\s*", re.DOTALL)
_PER = re.compile(rf"\s*(?P<count>\S.*?)\s+per\s+(?P<unit>{_NAME})\s*", re.DOTALL)

# The forms of a clock, fastest first.
FORMS = {
    "infinite": "solved anew for every query: a cache",
    "n per token": "n times in every token; not in this version",
    "every token": "once a token",
    "every n tokens": "once in n tokens, behind the last of them; n is a number or hypers",
    "every NAME": "in the tokens where the declared clock NAME is positive, in each sequence by itself",
    "every step": "once a step of the optimizer",
    "every n steps": "once in n steps, behind the last of them",
    "never": "slow weights, between the steps of the optimizer",
}
_WRITE = (
    "a clock is `every token`, `every n tokens`, `n per token`, `every step`, `every n steps`,"
    " `infinite` or `never`"
)


def parse_clock(
    scalar: Scalar, report: Report, declared: Collection[str] | None = None
) -> ClockTree | None:
    """The clock of a scalar, or None after a mistake.

    ``declared`` are the names of the spec's own clocks; without it any name passes as a unit.
    """
    word = scalar.text.strip()
    if scalar.broken or not _readable(scalar, report):
        return None
    if word in ("infinite", "never"):
        return ClockTree(word, None, None, scalar.span)
    for kind, form in (("every", _EVERY), ("per", _PER)):
        if match := form.fullmatch(scalar.text):
            return _clock(scalar, kind, match, report, declared)
    _unreadable(scalar, report, declared)
    return None


def parse_period(
    scalar: Scalar, report: Report, declared: Collection[str] | None = None
) -> ClockTree | None:
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
    return _clock(scalar, "every", match, report, declared)


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
    declared: Collection[str] | None,
) -> ClockTree | None:
    written = match["unit"]
    unit = _UNITS.get(written, written)
    if declared is not None and written not in _UNITS and written not in declared:
        span = scalar.span_of(match.start("unit"), match.end("unit"))
        near = nearest(written, [*_UNITS, *declared])
        report.add(
            "NLC014",
            f"there is no clock `{written}`",
            span,
            f"did you mean `{near}`?" if near else "expected `token`, `step` or a declared clock",
            helps=["declare it in `clocks`"] if not near else [],
            fix=Fix(span, near) if near else None,
        )
        return None
    if not match["count"]:
        return ClockTree(kind, None, unit, scalar.span)
    count = parse_expr(scalar.part(match.start("count"), match.end("count")), report)
    return None if count is None else ClockTree(kind, count, unit, scalar.span)


def _unreadable(scalar: Scalar, report: Report, declared: Collection[str] | None) -> None:
    meant = _meant(scalar.text.split(), declared or ())
    fix = None
    if meant and not scalar.style:
        fix = Fix(scalar.span, meant)
    report.add(
        "NLC014",
        f"`{' '.join(scalar.text.split())}` is no clock",
        scalar.span,
        f"did you mean `{meant}`?" if meant else "",
        helps=[] if meant else [_WRITE],
        fix=fix,
    )


def _meant(words: list[str], declared: Collection[str]) -> str | None:
    """The clock that was probably meant, if one is near."""
    first, last = words[0], words[-1]
    if last in _UNITS or last in declared:
        if first in ("each", "per"):
            return " ".join(["every", *words[1:]])
        if len(words) == 1:
            return f"every {_UNITS.get(last, last)}"
    near = first if first in _FIRST_WORDS else nearest(first, _FIRST_WORDS)
    if near is None:
        return " ".join(["every", *words]) if last in _UNITS else None
    meant = " ".join([near, *words[1:]])
    whole = near in ("infinite", "never") and len(words) == 1
    return meant if whole or (near == "every" and _EVERY.fullmatch(meant)) else None
