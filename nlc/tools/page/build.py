"""Specs -> the page's data: what each component is, where it stands, when it ticks, how it is derived and compiled."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import networkx as nx

from nlc.base.span import Source
from nlc.ir.system import Level
from nlc.ir.types import STEP, Clock, Type
from nlc.passes.link import slow_weights
from nlc.tools import draw
from nlc.tools.derivation import rows, update_lines
from nlc.tools.explain.facts import Explanation, Fact
from nlc.tools.explain.text import count, size, steps
from nlc.tools.page.model import Arrow, Card, Code, Detail, File, Lane, Page, Row
from nlc.tools.page.owners import owned
from nlc.tools.page.rhythm import Rhythm, scale

if TYPE_CHECKING:
    from nlc.pipeline import Spec

_NONE: tuple[Code, ...] = ()


def build(spec: Spec, optimizer: Spec | None) -> Page:
    """Of a system, or of a token system trained by a gradient system; SpecError for a spec with mistakes."""
    graph = spec.combined(optimizer) if optimizer is not None else spec.graph
    return _Builder(graph, [s for s in (spec, optimizer) if s is not None]).page()


class _Files:
    """The files that the page shows, each once."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], int] = {}

    def number(self, name: str, text: str) -> int:
        return self.files.setdefault((name, text), len(self.files))

    def all(self) -> tuple[File, ...]:
        return tuple(File(name, tuple(text.splitlines())) for name, text in self.files)


class _Part:
    """One of the systems: its explanation, generated file and rhythm."""

    def __init__(self, spec: Spec, number: int, files: _Files):
        self.spec, self.system, self.files = spec, spec.system, files
        self.rhythm = Rhythm(self.system, number)
        self.explained: Explanation = spec.explain()
        self.facts = {f.name: f for level in self.explained.levels for f in level}
        backend = spec.backend()
        text, reserved = spec.source_text(), importlib.import_module(f"nlc.backends.{backend}")
        self.code = files.number(f"{self.system.name}.py", text)
        self.owned = owned(text, spec.program(), reserved.RESERVED)

    def level(self, name: str) -> Level | None:
        return self.system.levels.get(name) or self.system.outer.get(name)

    def clock(self, name: str) -> Clock:
        level = self.level(name)
        return level.clock if level is not None else STEP


class _Builder:
    def __init__(self, graph: nx.DiGraph, specs: list[Spec]):
        self.graph, self.files = graph, _Files()
        self.parts = [_Part(spec, i, self.files) for i, spec in enumerate(specs)]
        self.drawn = draw.drawn(graph)
        self.nodes = [n for level in graph.graph["levels"] for n in level]
        # where a component of the picture is from, and what it is called there
        renamed = {new: old for old, new in graph.graph.get("renamed", {}).items()}
        self.origin = {n: (1, renamed[n]) if n in renamed else (0, n) for n in self.nodes}
        self.whole = [c for level in self.drawn.levels for c in level]

    def page(self) -> Page:
        place = {c: i for i, c in enumerate(self.whole)}
        together = self._rows()  # first: sliders are in the order in which rows need them
        cards = tuple(self._card(n, c) for n, c in zip(self.nodes, self.whole))
        lanes = [
            Lane(tuple(place[c] for c in level), self._order(i))
            for i, level in enumerate(self.drawn.levels)
        ]
        edges = self.drawn.edges
        arrows = [Arrow(place[e.source], place[e.target], e.reads, e.transfer) for e in edges]
        clocks = [c for n in self.nodes for c in self._clocks(n)]
        step, span, units = scale(clocks)
        fits = tuple(f for part in self.parts for f in part.rhythm.fits())
        return Page(
            name=self.drawn.name,
            docs=tuple(filter(None, (_first(p.system.doc) for p in self.parts))),
            facts=self._facts(),
            cards=cards,
            lanes=tuple(lanes),
            arrows=tuple(arrows),
            rows=together,
            periods=tuple(p for part in self.parts for p in part.rhythm.periods()),
            fits=fits,
            units=units,
            step=step,
            span=span,
            files=self.files.all(),
        )

    def _order(self, i: int) -> str:
        return (self.drawn.order(i) or "") if i + 1 < len(self.drawn.levels) else ""

    def _facts(self) -> tuple[str, ...]:
        levels, edges = len(self.drawn.levels), len(self.drawn.edges)
        return (
            f"context: {self.drawn.context}",
            _several(levels, "level"),
            _several(len(self.whole), "component"),
            _several(edges, "edge"),
        )

    # ---------------------------------------------------------------- time

    def _clocks(self, node: str) -> tuple[Clock, ...]:
        number, name = self.origin[node]
        level = self.parts[number].level(name)
        return level.clocks if level is not None else (STEP,)

    def _rows(self) -> tuple[Row, ...]:
        found: dict[tuple, list[str]] = {}
        for n in self.nodes:
            number, name = self.origin[n]
            level = self.parts[number].level(name)
            anchor = level.boundary if level else None
            reset = level.reset.every if level is not None and level.reset else None
            key = (
                self.graph.nodes[n]["level"],
                number,
                self.parts[number].clock(name),
                anchor,
                reset,
            )
            found.setdefault(key, []).append(n)
        at = {n: i for i, n in enumerate(self.nodes)}
        made = []
        for (_, number, *clocks), members in found.items():
            tick, *more = (c and self.parts[number].rhythm.tick(c) for c in clocks)
            made.append(Row(tuple(at[n] for n in members), tick, *more))
        return tuple(made)

    # ---------------------------------------------------------------- components

    def _card(self, node: str, c: draw.Component) -> Card:
        number, name = self.origin[node]
        part = self.parts[number]
        law = tuple((w, t) for w, t in (("min", c.objective), ("by", c.rule)) if t)
        tick = part.rhythm.tick(part.clock(name))
        detail = self._detail(part, name, c)
        return Card(c.name, c.kind, c.shape, self._size(part, name, c), law, c.doc, tick, detail)

    def _size(self, part: _Part, name: str, c: draw.Component) -> str:
        """Values, and the bytes of state that the generated program keeps: of these, of anchors, of sums."""
        values = [] if c.size is None else [_several(c.size, "value")]
        fact = part.facts.get(name)
        if fact is not None and fact.cost.state:
            if part.explained.matrix is None:
                grows = f" at {part.explained.tokens:,} tokens" if c.kind == "cache" else ""
                values.append(f"{size(fact.cost.state)} of state{grows}")
            elif c.shape.startswith("like(") and not (c.kind == "trained" and part.system.routes):
                # of what routes train each keeps its own
                each = fact.cost.state / (part.explained.matrix[0] * part.explained.matrix[1])
                values.append(
                    size(each * c.size) if c.size is not None else f"{size(each)} for each weight"
                )
        elif c.size is not None and fact is None:
            values.append(size(4 * c.size))  # slow weights, in float32
        return " · ".join(values)

    def _detail(self, part: _Part, name: str, c: draw.Component) -> Detail:
        level, fact, update = part.level(name), part.facts.get(name), part.spec.updates.get(name)
        spec, lines = self._written(level) if level is not None else (None, _NONE)
        code = part.owned.get(name, _NONE)
        return Detail(
            update=tuple(update_lines(part.system, update)) if update is not None else (),
            derivation=tuple(
                (f"{left} {rel} {right}", why)
                for left, rel, right, why in (
                    rows(part.system, part.spec.updates, name) if update else ()
                )
            ),
            notes=_notes(fact, part.explained) if fact is not None else (),
            costs=_costs(fact, part.explained) if fact is not None else (),
            faster=fact.faster if fact is not None else (),
            parts=tuple(self._weights()) if level is None or c.kind == "trained" else (),
            spec=spec,
            spec_lines=lines,
            code=part.code if code else None,
            code_lines=code,
        )

    def _weights(self) -> list[tuple[str, str]]:
        """The slow weights of the token system, which all that trains is about."""
        system = self.parts[0].system
        if system.context != "tokens":
            return []
        return [(w.path, Type(w.dims, w.head).shape()) for w in slow_weights(system)]

    def _written(self, level: Level) -> tuple[int, tuple[Code, ...]]:
        """The lines of the spec that are the level, down to the next key beside it."""
        source = level.span.source
        lines, first = source.text.splitlines(), level.span.line
        deep = _indent(lines[first - 1])
        last = first
        for i in range(first, len(lines)):
            if lines[i].strip() and _indent(lines[i]) <= deep:
                break
            if lines[i].strip() and not lines[i].lstrip().startswith("#"):
                last = i + 1
        return self.files.number(_name(source), source.text), (Code(first, last),)


def _notes(f: Fact, e: Explanation) -> tuple[tuple[str, str], ...]:
    plan = f.plan if f.tile is None else f"{f.plan}({f.tile})"
    between = f", between boundaries every {', '.join(f.periods)} tokens" if f.periods else ""
    notes = [("class", f.kind), ("plan", "" if e.matrix else plan + between), ("why", f.why)]
    if f.place is not None and f.quote:
        notes.append(("where", f"{_name(f.place.source)}:{f.placed}  {f.quote}"))
    return tuple((k, v) for k, v in notes if v)


def _costs(f: Fact, e: Explanation) -> tuple[tuple[str, str], ...]:
    cost = f.cost
    if e.matrix:
        each = e.matrix[0] * e.matrix[1]
        of = f"for each weight of a matrix [{e.matrix[0]:,}, {e.matrix[1]:,}]"
        numbers = (cost.flops / each, cost.moved / each, cost.state / each)
        names = ("flops a step", "bytes moved a step", "bytes of state")
        return (*zip(names, map(count, numbers)), ("", of))
    return (
        ("flops a token", count(cost.flops)),
        ("moved a token", size(cost.moved)),
        ("state of a sequence", size(cost.state)),
        ("steps in turn", steps(cost.steps, e.tokens)),
        ("", f"forward in float32, T = {e.tokens:,} tokens, by {e.backend}"),
    )


def _several(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _first(doc: str) -> str:
    """The first sentence."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(doc.split()), maxsplit=1)[0]


def _name(source: Source) -> str:
    return Path(source.name).name


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
