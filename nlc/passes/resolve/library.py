"""Other systems that a spec names: as a rule, or in ``use``."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

from nlc.base.diagnostics import Report
from nlc.base.span import Span
from nlc.ir.system import System


class Library(Protocol):
    """Where systems are found by name."""

    @property
    def names(self) -> Set[str]:
        """The systems that there are."""

    def system(self, name: str, span: Span, report: Report) -> System | None:
        """One of them with its names resolved; None after a mistake, reported at ``span`` or in its own text."""


class Empty:
    """No other systems."""

    names: Set[str] = frozenset()

    def system(self, name: str, span: Span, report: Report) -> System | None:
        return None
