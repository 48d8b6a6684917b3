"""The tree of a YAML document: texts, mappings and sequences that know where they stand."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from functools import cached_property

from nlc.base.span import Span
from nlc.syntax.offsets import offsets

__all__ = ["Mapping", "Node", "Scalar", "Sequence"]


@dataclass(frozen=True, eq=False)
class Scalar:
    """A text; ``broken``: an error about it is already reported, so nothing more need be said."""

    text: str
    span: Span
    style: str = ""
    broken: bool = False
    at: tuple[Items[int], Items[int]] | None = field(default=None, repr=False)

    @cached_property
    def _offsets(self) -> tuple[Items[int], Items[int]]:
        if self.at is not None:
            return self.at
        return offsets(self.text, self.span.source.text, self.span.start, self.span.end, self.style)

    def span_of(self, start: int, end: int) -> Span:
        """Where the characters ``[start, end)`` of the text stand in the source."""
        starts, ends = self._offsets
        if not self.text:
            return self.span
        if start < end:
            return Span(self.span.source, starts[start], ends[end - 1])
        here = ends[start - 1] if start else starts[0]
        return Span(self.span.source, here, here)

    def part(self, start: int, end: int) -> Scalar:
        """A piece of the text as a scalar of its own."""
        starts, ends = self._offsets
        pieces = (starts[start:end], ends[start:end])
        return Scalar(
            self.text[start:end], self.span_of(start, end), self.style, self.broken, pieces
        )


@dataclass(frozen=True, eq=False)
class Mapping:
    """``again`` has the entries whose key was said before, which are reported."""

    entries: tuple[tuple[Scalar, Node], ...]
    span: Span
    flow: bool = False
    again: tuple[tuple[Scalar, Node], ...] = ()


@dataclass(frozen=True, eq=False)
class Sequence:
    items: tuple[Node, ...]
    span: Span
    flow: bool = False


Node = Scalar | Mapping | Sequence
