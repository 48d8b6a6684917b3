"""What a spec says, before any name is looked up: the keys of the language with their expressions parsed.

``syntax/parse`` builds it, ``passes/resolve`` reads it. Every part knows where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nlc.base.span import Source, Span
from nlc.ir.expr import Expr


@dataclass(frozen=True)
class Word:
    """A scalar that is a label or prose, not mathematics."""

    text: str
    span: Span


@dataclass(frozen=True)
class Field:
    """``name: expression``; ``span`` is that of the name."""

    name: str
    span: Span
    expr: Expr


@dataclass(frozen=True)
class ForTree:
    """``for: {i: [1, 2], period: periods}``: the names zip; each takes a list or a list-valued hyper."""

    span: Span
    names: tuple[Field, ...]


@dataclass(frozen=True)
class ClockTree:
    """``every [count] unit`` | ``count per unit`` | ``infinite`` | ``never``.

    ``kind`` is ``every``, ``per``, ``infinite`` or ``never``; ``unit`` is ``token``, ``step`` or a declared clock.
    """

    kind: str
    count: Expr | None
    unit: str | None
    span: Span


@dataclass(frozen=True)
class LetTree:
    """``name: e``, or one of a family: ``h[0]: e`` and ``h[i]: {for: …, is: e}``."""

    name: str
    index: Expr | None
    span: Span
    expr: Expr
    over: ForTree | None = None


@dataclass(frozen=True)
class WeightTree:
    """A free slow weight: ``A_log: {shape: [], per: head, init: e}``."""

    name: str
    span: Span
    shape: Expr
    per: Word | None = None
    init: Expr | None = None


@dataclass(frozen=True)
class MemoryTree:
    """``matrix(m, n)`` (``call``), or inline: ``fields`` name the states' shapes, ``read`` is their read."""

    span: Span
    call: Expr | None = None
    fields: tuple[Field, ...] = ()
    read_params: tuple[str, ...] = ()
    read: Expr | None = None
    dtype: Word | None = None

    @property
    def causes(self) -> tuple[tuple[str, Span | None], ...]:
        """What is wrong where it is another memory than its readers take it for: the shapes of its states."""
        places = [f.span for f in self.fields] if self.call is None else [self.call.span]
        return tuple(("shape", place) for place in places)


@dataclass(frozen=True)
class ResetTree:
    """``reset: every n tokens`` or ``reset: {every: …, to: e, rule: true}``."""

    span: Span
    every: ClockTree
    to: Expr | None = None
    rule: bool = False


@dataclass(frozen=True)
class ViewTree:
    """``view: split(0, heads)``: its steps, and the expressions that say how many parts ``split`` makes."""

    text: str
    span: Span
    steps: tuple[tuple[str, int | None, int | None], ...] = ()
    counts: tuple[Expr | None, ...] = ()


@dataclass(frozen=True)
class RouteTree:
    """One entry of ``applies_to``; a rule alone is a route by the kind that its name says."""

    name: str
    span: Span
    rule: Expr
    kinds: tuple[Word, ...] = ()
    names: tuple[Word, ...] = ()
    modules: tuple[Word, ...] = ()
    where: tuple[Expr, ...] = ()
    view: ViewTree | None = None
    keys: dict[str, Span] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class LevelTree:
    """One entry of ``levels``; the fields are the keys of language §1."""

    name: str
    index: Expr | None
    span: Span
    over: ForTree | None = None
    frequency: ClockTree | None = None
    memory: MemoryTree | None = None
    key: Expr | None = None
    value: Expr | None = None
    let: tuple[LetTree, ...] = ()
    objective: Expr | None = None
    rule: Expr | None = None
    update: Expr | tuple[Field, ...] | None = None
    retain: Expr | None = None
    toward: Expr | None = None
    project: Expr | None = None
    anchor: ClockTree | None = None
    phase: Word | None = None
    init: Expr | None = None
    reset: ResetTree | None = None
    through: Expr | None = None
    backprop: Word | None = None
    doc: Word | None = None
    keys: dict[str, Span] = field(default_factory=dict, compare=False)  # where each key stands

    @property
    def is_cache(self) -> bool:
        """Whether a cache is meant, with or without a mistake in it."""
        call = self.memory.call if self.memory is not None else None
        named = call.args[0] if call is not None and call.op == "call" else call
        return named is not None and named.op == "name" and named.attr == "cache"

    @property
    def of_a_state(self) -> list[str]:
        """The keys that it has and that only a level with a state may have."""
        keys = ("objective", "rule", "update", "retain", "toward", "project", "init")
        return [key for key in keys if key in self.keys]


@dataclass(frozen=True)
class SpecTree:
    """A whole spec; the fields are the top-level keys of language §1."""

    source: Source
    system: Word
    context: Word
    version: int = 1
    doc: Word | None = None
    ref: Word | None = None
    hyper: tuple[Field, ...] = ()
    heads: Expr | None = None
    inputs: tuple[Field, ...] = ()  # each expr is a `list` of dims
    outputs: tuple[Field, ...] = ()
    weights: tuple[WeightTree, ...] = ()
    clocks: tuple[Field, ...] = ()
    use: tuple[Field, ...] = ()
    let: tuple[LetTree, ...] = ()
    levels: tuple[LevelTree, ...] = ()
    output: tuple[Field, ...] = ()  # `output: e` is one field named ""
    applies_to: tuple[RouteTree, ...] = ()
    grad_at: Expr | None = None
    eval_at: Expr | None = None
    lost: frozenset[str] = frozenset()  # names that a reported mistake keeps from being declared
    partial: bool = False  # whether a mistake hides names that cannot be told
    keys: dict[str, Span] = field(
        default_factory=dict, compare=False
    )  # where each top-level key stands
