"""What a benchmark found: a row for each backend, mode and length; as text, JSON or CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from typing import Any

from nlc.tools.html import pre, table

_HEADINGS = {"step": "step, after T tokens"}


@dataclass(frozen=True)
class Cell:
    """One backend in one mode at one length.

    ``seconds`` is the median of ``runs`` calls on [B, T, …], in the mode ``step`` of single tokens; ``spread`` what
    lies between their quartiles, relative to it. ``peak`` is in bytes. ``status`` is measured, skipped or failed, and
    ``note`` says why.
    """

    backend: str
    mode: str
    tokens: int
    status: str = "measured"
    seconds: float | None = None
    runs: int = 0
    spread: float | None = None
    peak: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """``hypers`` are all of them, with their values; ``machine`` is what the numbers are worth nothing without."""

    system: str
    operator: bool
    hypers: dict[str, Any]
    batch: int
    dtype: str
    device: str
    threads: int
    seed: int
    seconds: float
    machine: str
    notes: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def failed(self) -> bool:
        """Whether something broke; what was skipped did not."""
        return any(c.status == "failed" for c in self.cells)

    @property
    def backends(self) -> list[str]:
        return list(dict.fromkeys(c.backend for c in self.cells))

    @property
    def modes(self) -> list[str]:
        return list(dict.fromkeys(c.mode for c in self.cells))

    def speed(self, cell: Cell) -> float | None:
        """Tokens a second, those of all sequences."""
        if cell.seconds is None:
            return None
        return self.batch * (1 if cell.mode == "step" else cell.tokens) / cell.seconds

    def ratio(self, cell: Cell) -> float | None:
        """How many times as fast as the first backend in the same mode at the same length."""
        first = self.backends[0]
        for other in self.cells:
            if (other.backend, other.mode, other.tokens) == (first, cell.mode, cell.tokens):
                mine, its = self.speed(cell), self.speed(other)
                return mine / its if mine and its else None
        return None

    def rows(self) -> list[dict[str, Any]]:
        """For programs: one flat mapping a cell, None where there is nothing."""
        return [
            {
                "backend": c.backend,
                "mode": c.mode,
                "tokens": c.tokens,
                "batch": self.batch,
                "status": c.status,
                "seconds": c.seconds,
                "tokens_per_second": self.speed(c),
                "ratio": self.ratio(c),
                "spread": c.spread,
                "runs": c.runs,
                "peak_bytes": c.peak,
                "note": c.note,
            }
            for c in self.cells
        ]

    def asdict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "cells": self.rows()}

    def csv(self) -> str:
        """A line a cell, under a line of names."""
        out = io.StringIO()
        rows = [{"system": self.system, **row} for row in self.rows()]
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def __str__(self) -> str:
        """A table for each mode: lengths, and the backends at each of them."""
        wide = max(map(len, self.backends))
        lines = self._head()
        for mode in self.modes:
            lines += ["", *self._table(mode, wide)]
        return "\n".join([*lines, "", *self.notes])

    def _repr_html_(self) -> str:
        """The same for a notebook, in one table."""
        rows = []
        for cell in self.cells:
            measured = cell.status == "measured"
            found = self._found(cell) if measured else ("",) * len(_HEADS)
            named = (_HEADINGS.get(cell.mode, cell.mode), f"{cell.tokens:,}", cell.backend)
            rows.append((*named, *found, self._note(cell)))
        head = ("mode", "T", "backend", *_HEADS, "")
        right = {1, *range(3, 3 + len(_HEADS))}
        return table(head, rows, right, "\n".join(self._head())) + pre("\n".join(self.notes))

    def _head(self) -> list[str]:
        """What was measured, and on what."""
        at = ", ".join(f"{k}={v}" for k, v in self.hypers.items())
        name = (
            f"{self.system}{' as an operator' if self.operator else ''}{f' at {at}' if at else ''}"
        )
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" * (self.device == "cpu")
        return [
            f"{name}; batch {self.batch}, {self.dtype} on {self.device}{threads}; seed {self.seed}",
            self.machine,
        ]

    def _table(self, mode: str, wide: int) -> list[str]:
        left = 12 + wide
        heading = f"{_HEADINGS.get(mode, mode):<{left}}"
        lines = [heading + "".join(f"  {h:>{w}}" for h, w in zip(_HEADS, _WIDTHS))]
        last = None
        for cell in (c for c in self.cells if c.mode == mode):
            length = "" if cell.tokens == last else f"{cell.tokens:,}"
            last = cell.tokens
            line = f"{length:>10}  {cell.backend:<{wide}}"
            if cell.status == "measured":
                line += "".join(f"  {x:>{w}}" for x, w in zip(self._found(cell), _WIDTHS))
            lines.append(f"{line}  {self._note(cell)}".rstrip())
        return lines

    @staticmethod
    def _note(cell: Cell) -> str:
        return f"{cell.status}: {cell.note}" if cell.status != "measured" else cell.note

    def _found(self, cell: Cell) -> tuple[str, ...]:
        speed, ratio = self.speed(cell), self.ratio(cell)
        return (
            f"{speed:,.0f}",
            f"{ratio:.2f}" if ratio is not None and cell.backend != self.backends[0] else "",
            f"{cell.spread:.0%}" if cell.spread is not None else "",
            str(cell.runs),
            f"{cell.peak / 2**20:,.1f} MiB" if cell.peak is not None else "",
        )


_HEADS = ("tokens/s", "ratio", "spread", "runs", "memory")
_WIDTHS = (11, 7, 6, 4, 13)
