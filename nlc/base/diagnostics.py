"""What the compiler says to its user: facts with a code and a place, collected and never raised one by one.

A stage adds to a ``Report`` and goes on with what is sound; the driver raises ``SpecError`` once, with all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from itertools import islice

from nlc.base.codes import CODES
from nlc.base.span import Span


@dataclass(frozen=True)
class Label:
    """A place that the message refers to, and what is to be seen there."""

    span: Span
    text: str


@dataclass(frozen=True)
class Fix:
    """An edit that is certainly what was meant (a misspelt name, ``^`` for ``**``)."""

    span: Span
    replacement: str


@dataclass(frozen=True)
class Diagnostic:
    """One mistake: ``severity[code]: message`` at ``span``, where ``label`` stands under the caret."""

    code: str
    message: str
    span: Span
    label: str = ""
    related: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()
    fix: Fix | None = None

    @property
    def severity(self) -> str:
        return CODES[self.code].severity


class SpecError(Exception):
    """The spec cannot be compiled; ``report`` says why, every mistake once, in the order of the text."""

    def __init__(self, report: Report):
        self.report = report
        super().__init__(report)

    def __str__(self) -> str:
        from nlc.base.render import render_report

        return "\n" + render_report(self.report)


class BadPlan(ValueError):
    """A level that there is not, or a word that is no plan."""

    option = "--plan"  # of the command line


class BadFeature(ValueError):
    """What a generated file was asked to leave out, and cannot."""

    option = "--without"


class NotFused(ValueError):
    """A file of which nothing runs piece by piece was asked to compile its pieces."""

    option = "--fused"


class BadHelpers(ValueError):
    """A file that cannot be that of a model's helpers."""

    option = "--helpers"


class InternalError(Exception):
    """A bug of ours, never a mistake of the user's."""


SHOWN = 16  # places that a message lists
MANY = 200  # diagnostics that one report takes; nobody reads more, and a hostile text has no end of them
GUESSED = 300  # names that a misspelt one is compared with
_DIGITS = re.compile(r"\d")
_TWICE = re.compile(r"([a-z])\1")


@dataclass
class _Said:
    """A mistake that is reported, as it was at first and as it stands in the report, and where else it shows."""

    first: Diagnostic
    now: Diagnostic
    spans: list[Span] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def also(self, span: Span, other: Diagnostic | None = None) -> Diagnostic:
        """The diagnostic with one more place, unless its line says enough; ``other`` says another thing of it."""
        at = self.first.span
        lines = [(s.line, s.quote()) for s in (at, *self.spans)]
        new = (span.line, span.quote())
        far = span.source is at.source and (span.line != at.line or new[1] != at.quote())
        if other is not None and other.code != self.first.code:
            said = f"see also line {span.line}: {other.message}"
            if far and said not in self.others and len(self.others) < SHOWN:
                self.others.append(said)
        elif far and new not in lines and len(self.spans) < SHOWN:
            self.spans.append(span)
        same = [_elsewhere(at, self.spans)] if self.spans else []
        self.now = replace(self.now, notes=(*self.first.notes, *same, *self.others))
        return self.now


def _elsewhere(at: Span, spans: list[Span]) -> str:
    """``the same goes for lines 14, 19``; what stands there is quoted where it is something else."""
    lines = sorted({s.line for s in spans if s.quote() in ("", at.quote())})
    texts: dict[int, list[str]] = {}
    for s in sorted(spans, key=lambda s: s.start):
        if s.quote() not in ("", at.quote()):
            texts.setdefault(s.line, []).append(f"`{s.quote()}`")
    said = [f"line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines))}"] if lines else []
    said += [f"{', '.join(quoted)} on line {line}" for line, quoted in texts.items()]
    return f"the same goes for {'; '.join(said)}"


def place(span: Span) -> tuple[str, int, int]:
    """The cause of what is wrong there."""
    return span.source.name, span.start, span.end


@dataclass
class Report:
    """The diagnostics of one compilation: one for each mistake, however often it shows."""

    diagnostics: list[Diagnostic] = field(default_factory=list)
    _said: dict[Hashable, _Said] = field(default_factory=dict, repr=False)

    def add(
        self,
        code: str,
        message: str,
        span: Span,
        label: str = "",
        *,
        related: Iterable[Label] = (),
        notes: Iterable[str] = (),
        helps: Iterable[str] = (),
        fix: Fix | None = None,
        causes: Iterable[Hashable] = (),
    ) -> None:
        """Adds a diagnostic, unless what it stems from is reported already: then that one also names this place.

        ``causes`` are what may be wrong, any hashable values; so is the place itself of an error.
        """
        if code not in CODES:
            raise InternalError(f"no such code: {code}")
        self._add(
            Diagnostic(code, message, span, label, tuple(related), tuple(notes), tuple(helps), fix),
            list(causes),
        )

    def again(self, span: Span | None, *causes: Hashable, other: Diagnostic | None = None) -> bool:
        """Whether a mistake of one of these causes is reported; it then names ``span``, and ``other``, too."""
        said = next((s for c in causes if (s := self._said.get(c)) is not None), None)
        if said is None or said.now not in self.diagnostics:
            return False
        for cause in causes:
            self._said.setdefault(cause, said)
        if span is not None:
            at = self.diagnostics.index(said.now)
            self.diagnostics[at] = said.also(span, other)
        return True

    def take(self, other: Report, wanted: Callable[[Diagnostic], bool] = lambda d: True) -> None:
        """Adds the diagnostics of another report, with their causes."""
        for diagnostic in filter(wanted, other.diagnostics):
            causes = [cause for cause, said in other._said.items() if said.now is diagnostic]
            self._add(diagnostic, causes)

    def drop(self, silenced: Callable[[Diagnostic], bool]) -> None:
        """Takes diagnostics out again."""
        self.diagnostics[:] = [d for d in self.diagnostics if not silenced(d)]

    def _add(self, new: Diagnostic, causes: list[Hashable]) -> None:
        at = place(new.span)
        if not CODES[new.code].asked:
            causes = [*causes, at] if new.severity == "error" else causes or [(new.code, *at)]
        causes = [*causes, (new.code, new.message, *at)]
        if self.full or self.again(new.span, *causes, other=new):
            return
        said = _Said(new, new)
        self._said.update(dict.fromkeys(causes, said))
        self.diagnostics.append(new)

    @property
    def full(self) -> bool:
        return len(self.diagnostics) >= MANY

    def has(self, severity: str) -> bool:
        return any(d.severity == severity for d in self.diagnostics)

    @property
    def has_errors(self) -> bool:
        return self.has("error")

    @property
    def ordered(self) -> list[Diagnostic]:
        """In the order of the text, file by file in the order of first mention."""
        files = list(dict.fromkeys(d.span.source.name for d in self.diagnostics))
        return sorted(
            self.diagnostics, key=lambda d: (files.index(d.span.source.name), d.span.start)
        )

    def raise_if_errors(self) -> None:
        if self.has_errors:
            raise SpecError(self)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that ``name`` most likely misspells, or None: the bound keeps unlike names apart.

    Of names that are equally near the first wins. A beginning of one candidate alone means that (``freq``),
    and so does a short name that one slip makes of one candidate alone.
    """
    candidates = list(islice(candidates, GUESSED))
    best, best_score = None, 0.72
    matcher = SequenceMatcher(None, b=name.lower())  # what is set once is searched for fast
    for candidate in candidates:
        if candidate == name:
            return None
        head = 0.05 if name[:1] == candidate[:1] else 0.0
        shorter, longer = sorted((len(name), len(candidate)))
        if 2 * shorter < (best_score - head) * (shorter + longer):
            continue  # too unlike in length to come near
        matcher.set_seq1(candidate.lower())
        if matcher.quick_ratio() + head < best_score:
            continue
        score = matcher.ratio() + head
        if len(name) > 2 and sorted(name.lower()) == sorted(candidate.lower()):
            score += 0.2  # letters in another order
        if score >= 0.72 and (best is None or score > best_score):
            best, best_score = candidate, score
    if best is None and 3 < len(name) <= 2 * max(map(len, candidates), default=0):
        heard = _sound(name)
        alike = [c for c in candidates if _sound(c) == heard]
        best = alike[0] if len(alike) == 1 else None
    if best is None and len(name) > 2:
        begun = [c for c in candidates if c.lower().startswith(name.lower())]
        near = begun or [c for c in candidates if _slip(name, c)]
        return near[0] if len(near) == 1 else None
    return best


def certain(
    span: Span | None, name: str, candidates: Iterable[str], form: str = "{}"
) -> Fix | None:
    """The fix of a misspelt name at ``span``, if one candidate alone is one slip of the hand away.

    A slip is a letter too many, missing, wrong or in another place, or the wrong case. A digit is
    no slip: ``h1`` is not ``h2``; nor are one or two letters, which have too many neighbours.
    ``form`` is how the name is written at the place.
    """
    if span is None or len(name) < 3 or not span.text.endswith(name):
        return None  # what stands there is another name for it
    known = list(islice(dict.fromkeys(candidates), GUESSED))
    near = [c for c in known if _slip(name, c)]
    if len(near) != 1 or near[0] != nearest(name, known):
        return None
    return Fix(span, form.format(near[0]))


_SPELLINGS = (("ph", "f"), ("ck", "k"), ("c", "k"), ("q", "k"), ("z", "s"), ("y", "i"))


def _sound(name: str) -> str:
    """A name as it is heard: ``alfa`` and ``alpha`` are one."""
    heard = name.lower()
    for written, sound in _SPELLINGS:
        heard = heard.replace(written, sound)
    return _TWICE.sub(r"\1", heard)


def _slip(name: str, meant: str) -> bool:
    """Whether one slip turns ``meant`` into ``name``; a long name has room for two letters."""
    most = 1 if min(len(name), len(meant)) < 7 else 2
    if name == meant or len(meant) < 2 or abs(len(name) - len(meant)) > most:
        return False
    one, other = name.lower(), meant.lower()
    if one == other:
        return True
    if _DIGITS.findall(one) != _DIGITS.findall(other):
        return False
    return distance(one, other, most) <= most


def distance(one: str, other: str, most: int) -> int:
    """Letters inserted, deleted, replaced or exchanged with their neighbour; above ``most`` anything."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row, earlier = row, [i], before
        for j, b in enumerate(other, 1):
            best = min(last[j] + 1, row[-1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                best = min(best, earlier[j - 2] + 1)
            row.append(best)
        before = last
        if min(row) > most:
            return most + 1
    return row[-1]
