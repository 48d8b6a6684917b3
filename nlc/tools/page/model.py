"""What the page shows, as data: all that is knowledge of the compiler is settled here, the page lays it out.

Everything is a dataclass of numbers, text, tuples and dicts, so ``dataclasses.asdict`` is the JSON that the page reads.
"""

from __future__ import annotations

from dataclasses import dataclass

Term = tuple[int, int, tuple[tuple[str, int], ...]]  # numerator, denominator, hypers with exponents


@dataclass(frozen=True)
class Count:
    """A length in ticks: ``text`` as the spec writes it, ``terms`` over the hypers that the page can change."""

    text: str
    fixed: bool
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Tick:
    """A clock (``ir/types: Clock``) whose count follows the hypers that the page can change."""

    kind: str
    unit: str
    count: Count
    phase: str
    name: str


@dataclass(frozen=True)
class Code:
    """Lines ``[first, last]`` of a file; ``others`` are the components that these lines also belong to."""

    first: int
    last: int
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Detail:
    """What the panel says of a component. ``derivation`` has a line and why it holds.

    ``notes`` and ``costs`` are pairs of a label and a text, ``parts`` of a name and a shape.
    ``spec`` and ``code`` number the files of the page; ``spec_lines`` and ``code_lines`` are the component's in them.
    """

    update: tuple[str, ...]
    derivation: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]
    costs: tuple[tuple[str, str], ...]
    faster: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    spec: int | None
    spec_lines: tuple[Code, ...]
    code: int | None
    code_lines: tuple[Code, ...]


@dataclass(frozen=True)
class Card:
    """A component. ``law`` has its objective and its rule, each with the word before it."""

    name: str
    kind: str
    shape: str
    size: str
    law: tuple[tuple[str, str], ...]
    doc: str
    tick: Tick
    detail: Detail


@dataclass(frozen=True)
class Lane:
    """A level; ``order`` says why it stands before the next one, where the graph says so."""

    cards: tuple[int, ...]
    order: str


@dataclass(frozen=True)
class Arrow:
    """The card ``target`` reads the card ``source``."""

    source: int
    target: int
    reads: tuple[str, ...]
    transfer: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """Components of one level that tick, move their anchor and are reset together."""

    cards: tuple[int, ...]
    tick: Tick
    anchor: Tick | None
    reset: Tick | None


@dataclass(frozen=True)
class Period:
    """A hyper that a clock counts with. ``key`` is its name in the terms of counts."""

    key: str
    name: str
    value: int
    of: str


@dataclass(frozen=True)
class Fit:
    """``whole`` must be a multiple of ``part``, or nlc refuses the spec with ``code``."""

    whole: Tick
    part: Tick
    said: str
    code: str


@dataclass(frozen=True)
class File:
    """A spec or a generated file."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """``units`` are those that clocks count in, the fastest first; ``span`` and ``step`` where the sliders start."""

    name: str
    docs: tuple[str, ...]
    facts: tuple[str, ...]
    cards: tuple[Card, ...]
    lanes: tuple[Lane, ...]
    arrows: tuple[Arrow, ...]
    rows: tuple[Row, ...]
    periods: tuple[Period, ...]
    fits: tuple[Fit, ...]
    units: tuple[str, ...]
    step: int
    span: int
    files: tuple[File, ...]
