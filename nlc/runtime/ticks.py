"""When and where an expression is evaluated: ticks that know those before them, and places that readers stand at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from nlc.ir.expr import Expr
from nlc.ir.types import SAMPLE, Clock

States = dict[str, Tensor]
Name = tuple[str, object]  # (op, attr) of a leaf that a place gives a value
Input = tuple[float, Tensor | None]  # how often z stands in `W @ z`, and z; None for a bias
Inputs = dict[str, list[Input]]


@dataclass(eq=False)
class Tick:
    """One token or step: what came in, the states before it, at their last boundaries, and after it."""

    number: int  # from 1 at the start of the stream
    given: dict[str, Tensor]
    before: States
    boundary: States
    previous: Tick | None
    after: States = field(default_factory=dict)  # filled as states are asked for
    starts: dict[str, tuple[States, States]] = field(
        default_factory=dict
    )  # T and B by level, so too
    slopes: dict[str, tuple[States, Inputs]] = field(default_factory=dict)  # of objectives, so too
    places: dict[tuple[Clock, str | None], Place] = field(default_factory=dict)

    def back(self) -> Iterator[Tick]:
        """This tick and those before it, newest first."""
        tick: Tick | None = self
        while tick is not None:
            yield tick
            tick = tick.previous

    def read_by(self, clock: Clock, level: str | None = None) -> Place:
        """Where a reader of this clock stands; ``level``: whose step it is, if it has a count of its own."""
        level = level if clock.slow else None
        return self.places.setdefault((clock, level), Place(self, clock, level))


@dataclass(eq=False)
class Place:
    """Where an expression is evaluated; ``values`` holds what has been evaluated here."""

    tick: Tick
    clock: Clock
    level: str | None = None  # in whose step
    bound: dict[Name, Tensor] = field(default_factory=dict)
    values: dict[Expr, Tensor] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=dict)  # of each weight of an objective
    share: float = 1.0  # of a tick in the mean that is being taken

    def where(self, time: str, states: States) -> Place:
        """The same place, where states read at ``time`` are these."""
        here = {("state", (name, time)): value for name, value in states.items()}
        return Place(self.tick, self.clock, self.level, {**self.bound, **here})

    def at(self, tick: Tick, clock: Clock, share: float) -> Place:
        """Another tick, with the same names bound."""
        share *= self.share
        return Place(tick, clock, self.level, self.bound, inputs=self.inputs, share=share)

    def samples(self, mean: bool, ticks: list[Tick]) -> Iterator[Place]:
        """One place for every sample of these ticks; what came in is that sample's there."""
        came = [{name: x for name, x in t.given.items() if name != "g"} for t in ticks]
        count = sum(len(next(iter(x.values()))) for x in came)
        for tick, whole in zip(ticks, came, strict=True):
            for values in zip(*whole.values(), strict=True):
                own = {("input", name): x for name, x in zip(whole, values, strict=True)}
                there = self.at(tick, SAMPLE, 1 / count if mean else 1.0)
                yield replace(there, bound={**self.bound, **own}, values={})
