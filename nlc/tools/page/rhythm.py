"""Clocks of a system -> what the page needs to draw and to change them: counts over hypers, periods, what must fit."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from nlc.ir.expr import walk
from nlc.ir.system import Level, System
from nlc.ir.types import Clock
from nlc.tools.page.model import Count, Fit, Period, Tick

_LEAST, _STEPS = 16, 4  # tokens and steps that the raster shows at least


class Rhythm:
    """The clocks of one system. ``part`` keeps its hypers apart from those of a system beside it."""

    def __init__(self, system: System, part: int):
        self.system, self.part = system, part
        self.used: dict[
            str, None
        ] = {}  # hypers that counts read, in the order in which they are met

    def tick(self, clock: Clock) -> Tick:
        """Counts go back to hypers that are given: ``chunk: d / 4`` is a quarter of d."""
        count = clock.count
        derived = {n: h.size for n, h in self.system.hypers.items() if h.derived and h.size}
        while count.symbols & derived.keys():
            count = count.substitute(derived)
        self.used |= dict.fromkeys(sorted(count.symbols))
        terms = tuple(
            (c.numerator, c.denominator, tuple((self._key(s), e) for s, e in monomial))
            for monomial, c in count.terms
        )
        fixed = clock.count.constant is not None
        return Tick(
            clock.kind,
            clock.unit,
            Count(str(clock.count), fixed, terms),
            clock.phase,
            clock.name,
        )

    def _key(self, symbol: str) -> str:
        return f"{self.part}:{symbol}"

    def periods(self) -> Iterator[Period]:
        """The hypers that ``tick`` has met."""
        sizes = self.system.sizes
        for name in self.used:
            yield Period(self._key(name), name, int(sizes[name]), self.system.name)

    def fits(self) -> Iterator[Fit]:
        """What ``passes/clocks`` refuses: periods that are no multiples of what they gather or of what is reset."""
        for level in self.system.levels.values():
            for other in _gathered(self.system, level):
                said = f"{level.name} gathers {other.name}"
                yield from self._fit(level.clock, other.clock, said)
            if level.reset is not None:
                yield from self._fit(level.reset.every, level.clock, f"the reset of {level.name}")

    def _fit(self, whole: Clock, part: Clock, said: str) -> Iterator[Fit]:
        timed = all(c.kind == "every" and not c.name for c in (whole, part))
        if timed and whole.unit == part.unit:
            yield Fit(self.tick(whole), self.tick(part), said, "NLC402")


def _gathered(system: System, level: Level) -> list[Level]:
    """The levels of which it adds up something over its period."""
    states, found = system.states, {}
    for e in level.expressions:
        for total in (n for n in walk(e) if n.op == "total"):
            for n in walk(total):
                if n.op == "state" and states[n.attr[0]].level != level.name:
                    found[states[n.attr[0]].level] = None
    return [system.levels[name] for name in found]


def scale(clocks: list[Clock]) -> tuple[int, int, tuple[str, ...]]:
    """Tokens of a step and ticks of the fastest unit at which the slowest of these clocks is seen at work."""

    def longest(unit: str) -> int:
        counts = [c.default for c in clocks if c.kind == "every" and c.unit == unit]
        return int(max(counts, default=Fraction(1)))

    units = {c.unit for c in clocks if c.unit}
    if any(c.kind == "infinite" for c in clocks):
        units |= {"token"}
    ordered = tuple(u for u in ("token", "step") if u in units) or ("token",)
    tokens, steps = 2 * longest("token"), 2 * longest("step")
    step = max(_LEAST, tokens) if "token" in units else 1
    span = step * max(_STEPS, steps) if "step" in units else max(2 * _LEAST, 2 * tokens)
    return step, max(span, 2 * _LEAST), ordered
