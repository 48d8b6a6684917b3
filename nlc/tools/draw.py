"""A level graph -> text that shows it: ``text``, ``mermaid``, ``dot``, ``svg`` or ``json``.

The graph is a ``networkx.DiGraph``; an edge ``u -> v`` says that v reads u. Every attribute is
optional.

``graph.graph``
    ``system``: what the picture is of, "gated_delta_net trained by adamw"; ``context``: "tokens";
    ``levels``: names of the components by level, fastest first, ``[["S"], ["m", "v"], ["W"]]``;
    ``renamed``: of a gradient system that trains a token system, its components' names here.
node attributes
    ``clock``: "every token", "every 16 tokens", "every 64 tokens (chunk)", "every step", "infinite";
    ``level``: 1-based int, fastest first (used for nodes that ``levels`` leaves out);
    ``kind``: "memory", "cache", "weights" or "trained";
    ``shape``: symbolic text, "[heads, dv, dk]";
    ``size``: values at the default hypers, per batch element for token levels; None if it depends
    on the trained tensors;
    ``objective``, ``rule``: text or None, "gd(lr=beta), retain alpha"; ``doc``: text.
edge attributes
    ``reads``: some of "same-tick", "previous-tick", "held";
    ``transfer``: some of "conditioning", "backpropagation", "non-parametric", "initialisation",
    "generation".

Equal graphs give equal text, whatever the order in which nodes and edges were added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from nlc.tools.bundle import bundles
from nlc.tools.layout import cells, wrap
from nlc.tools.svg import svg
from nlc.tools.table import INDENT, WIDTH, table

if TYPE_CHECKING:
    import networkx as nx

# When B reads A, and what passes from A to B (knowledge transfer, eqs. 24-28).
READS = {
    "same-tick": "B reads A's state after the update of the same tick, so A comes first",
    "previous-tick": "B reads A's state of before: from the last tick, or from A's last boundary",
    "held": "A ticks less often than B, which reads the value that A holds in between",
}
TRANSFERS = {
    "conditioning": "B computes with A's state or with what A answers (eqs. 24, 25)",
    "backpropagation": "B learns by gradients that pass through A's steps",
    "non-parametric": "B reads a cache: the tokens of A's context, not a summary of them (eq. 27)",
    "initialisation": "B learns where A starts (eq. 28)",
    "generation": "A makes what B compresses, its keys or its values",
}
_ARROW = "A → B: B reads A"
_ARROWS = "A → B: each B reads each A"


@dataclass(frozen=True, eq=False)
class Component:
    """One node; compared by identity, since two names may print alike."""

    name: str
    level: int
    clock: str
    kind: str
    shape: str
    size: int | None
    objective: str | None
    rule: str | None
    doc: str


@dataclass(frozen=True, eq=False)
class Edge:
    """``target`` reads ``source``."""

    source: Component
    target: Component
    reads: tuple[str, ...]
    transfer: tuple[str, ...]


@dataclass(frozen=True)
class System:
    """What all formats draw: components by level, edges in reading order."""

    name: str
    context: str
    levels: tuple[tuple[Component, ...], ...]
    edges: tuple[Edge, ...]

    def order(self, level: int) -> str | None:
        """Why ``levels[level]`` ≻ ``levels[level + 1]``; None if the graph does not say."""
        upper, lower = self.levels[level], self.levels[level + 1]
        if not {c.clock for c in upper} & {c.clock for c in lower}:
            return "ticks more often"
        needs = [
            e
            for e in self.edges
            if "same-tick" in e.reads and e.source in upper and e.target in lower
        ]
        if not needs:
            return None
        read, readers = {e.source for e in needs}, {e.target for e in needs}
        ends = [", ".join(c.name for c in upper if c in read)]
        ends += [", ".join(c.name for c in lower if c in readers)]
        return f"same clock; same-tick {' → '.join(ends)}"


def draw(graph: nx.DiGraph, format: str = "text") -> str:
    """The picture of ``graph`` in one of ``FORMATS``, ending in a line break."""
    if format not in FORMATS:
        raise ValueError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    if format == "json":
        return _json(_system(graph, str))
    return FORMATS[format](drawn(graph))


def drawn(graph: nx.DiGraph) -> System:
    """What the formats draw, names as they print."""
    return _system(graph, _printable)


def _system(graph: nx.DiGraph, text: Callable[[Any], str]) -> System:
    listed = [list(level) for level in graph.graph.get("levels", ())]
    where = {node: i for i, level in enumerate(listed) for node in level if node in graph}
    below = len(listed) + 1
    for node in sorted(set(graph) - set(where), key=str):
        where[node] = max(int(graph.nodes[node].get("level") or below), 1) - 1
        listed += [[] for _ in range(where[node] + 1 - len(listed))]
        listed[where[node]].append(node)

    def component(node: Any, level: int) -> Component:
        data = graph.nodes[node]
        words = {key: text(data.get(key) or "") for key in ("clock", "kind", "shape", "doc")}
        maybe = {key: text(data[key]) if data.get(key) else None for key in ("objective", "rule")}
        return Component(name=text(node), level=level, size=data.get("size"), **words, **maybe)

    levels = [
        [n for n in dict.fromkeys(level) if where.get(n) == i] for i, level in enumerate(listed)
    ]
    levels = [level for level in levels if level]
    made = {n: component(n, i) for i, level in enumerate(levels, 1) for n in level}
    rank = {n: i for i, n in enumerate(made)}
    edges = tuple(
        Edge(
            made[u],
            made[v],
            _ordered(d.get("reads"), READS),
            _ordered(d.get("transfer"), TRANSFERS),
        )
        for u, v, d in sorted(graph.edges(data=True), key=lambda e: (rank[e[0]], rank[e[1]]))
    )
    return System(
        name=text(graph.graph.get("system") or ""),
        context=text(graph.graph.get("context") or ""),
        levels=tuple(tuple(made[n] for n in level) for level in levels),
        edges=edges,
    )


def _ordered(words: Iterable[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    rank = {word: i for i, word in enumerate(known)}
    return tuple(sorted(set(words or ()), key=lambda w: (rank.get(w, len(known)), w)))


# Controls break every format, surrogates and non-characters break XML, and the marks that turn the
# direction of writing let a name rearrange the line it stands in.
_UNPRINTABLE = re.compile(
    "[\0-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def _printable(value: Any) -> str:
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", " ".join(str(value).split()))


# ---------------------------------------------------------------- text


def _text(system: System) -> str:
    count = len(system.levels)
    facts = [f"context: {system.context}"] if system.context else []
    facts.append(
        "no components" if not count else f"{count} level{'s' * (count > 1)}, fastest first"
    )
    out = [*wrap(system.name, WIDTH), *wrap(" · ".join(facts), WIDTH)]
    if not count:
        return "\n".join(out) + "\n"

    shown = [c for level in system.levels for c in level]
    rows = [["component", "kind", "shape", "size", "min objective\nby  rule"], *map(_facts, shown)]
    rows = [list(row) for row in zip(*filter(_told, zip(*rows, strict=True)), strict=True)]
    right = {i for i, title in enumerate(rows[0]) if title == "size"}
    head, *lines = table(rows, (2,) * (len(rows[0]) - 1), right)
    body = dict(zip(shown, lines, strict=True))
    out += ["", *head]
    for i, level in enumerate(system.levels):
        first, *more = wrap(_clocks(level), WIDTH - 8) or [""]
        title = f"{i + 1:<2} {first} " if first else f"{i + 1:<2} "
        out += [title + "─" * (WIDTH - cells(title)), *(INDENT + line for line in more)]
        out += [line for c in level for line in body[c]]
        if i + 1 < count:
            why = wrap(system.order(i) or "", WIDTH - 3)
            out += [("≻  " if k == 0 else INDENT) + line for k, line in enumerate(why)] or [""]
    if system.edges:
        pairs = [
            [_names(a), "→", _names(b), ", ".join(e.reads), ", ".join(e.transfer)]
            for a, b, e in bundles(system.edges)
        ]
        out += ["", _ARROW if len(pairs) == len(system.edges) else _ARROWS]
        out += [line for row in table(pairs, (1, 1, 3, 3), set()) for line in row]
    return "\n".join(line.rstrip() for line in out) + "\n"


def _facts(c: Component) -> list[str]:
    size = "" if c.size is None else f"{c.size:,}"
    law = [word + text for word, text in (("min ", c.objective), ("by  ", c.rule)) if text]
    return [c.name, c.kind, c.shape.replace("], [", "]\n["), size, "\n".join(law)]


def _names(components: Iterable[Component]) -> str:
    return ", ".join(c.name for c in components)


def _told(column: tuple[str, ...]) -> bool:
    return column[0] == "component" or any(column[1:])


# ---------------------------------------------------------------- mermaid, dot, json


def _clocks(level: tuple[Component, ...]) -> str:
    return ", ".join(dict.fromkeys(c.clock for c in level if c.clock))


def _ids(system: System) -> dict[Component, str]:
    return {c: f"n{i}" for i, c in enumerate(c for level in system.levels for c in level)}


def _label(c: Component) -> list[str]:
    size = "" if c.size is None else f"{c.size:,} values"
    return [
        line for line in (c.name, " · ".join(filter(None, (c.shape, size))), c.objective) if line
    ]


_MERMAID_ARROWS = {"same-tick": "-->", "previous-tick": "-.->", "held": "==>"}


def _mermaid(system: System) -> str:
    # Mermaid reads markdown, HTML, entities and comments inside quoted labels: all but letters,
    # digits and the plainest signs go in as character codes. It reads `\n` and `$$` even then; a
    # space of no width parts them.
    def quoted(*lines: str) -> str:
        def code(found: re.Match[str]) -> str:
            return f"#{ord(found[0])};" + ("#8203;" if found[0] in "\\$" else "")

        return '"' + "<br/>".join(re.sub(r"[^\w ,=()]|_", code, line) for line in lines) + '"'

    ids = _ids(system)
    out = ["flowchart TB"]
    if not ids:
        return 'flowchart TB\n  empty["no components"]\n'
    for i, level in enumerate(system.levels, 1):
        out.append(
            f"  subgraph level{i} [{quoted(' · '.join(filter(None, (str(i), _clocks(level)))))}]"
        )
        out += [f"    {ids[c]}[{quoted(*_label(c))}]" for c in level]
        out.append("  end")
    if len(ids) > 1:
        # an invisible chain from top to bottom: without it edges that point up turn levels over
        out.append("  " + " ~~~ ".join(ids.values()))
    for edge in system.edges:
        label = f"|{quoted(', '.join(edge.transfer))}|" if edge.transfer else ""
        for kind in edge.reads or ("same-tick",):
            arrow = _MERMAID_ARROWS.get(kind, "-->")
            out.append(f"  {ids[edge.source]} {arrow}{label} {ids[edge.target]}")
    return "\n".join(out) + "\n"


_DOT_STYLES = {"same-tick": "solid", "previous-tick": "dashed", "held": "bold"}


def _dot(system: System) -> str:
    def quoted(*lines: str) -> str:
        text = "\n".join(lines).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
        return '"' + text.replace("\n", "\\n") + '"'

    ids = _ids(system)
    out = [
        "digraph levels {",
        f"  label={quoted(system.name)} labelloc=t rankdir=TB",
        '  graph [fontname="sans-serif"] edge [fontname="sans-serif" fontsize=10]',
        '  node [shape=box style=rounded fontname="sans-serif" fontsize=11]',
    ]
    for i, level in enumerate(system.levels, 1):
        out += [
            f"  subgraph cluster_{i} {{",
            f"    label={quoted(f'{i} · {_clocks(level)}')} labeljust=l",
        ]
        out += [f"    {ids[c]} [label={quoted(*_label(c))}]" for c in level]
        out.append("  }")
    for upper, lower in pairwise(system.levels):
        out.append(f"  {ids[upper[0]]} -> {ids[lower[0]]} [style=invis]")
    for edge in system.edges:
        # edges within a level leave its members side by side; those that point up are written
        # from the top, so that graphviz keeps the order of the levels
        ends, way = [ids[edge.source], ids[edge.target]], ""
        if edge.source.level == edge.target.level:
            way = " constraint=false"
        elif edge.source.level > edge.target.level:
            ends, way = ends[::-1], " dir=back"
        label = f" label={quoted(', '.join(edge.transfer))}" if edge.transfer else ""
        for kind in edge.reads or ("same-tick",):
            style = _DOT_STYLES.get(kind, "solid")
            out.append(f"  {' -> '.join(ends)} [style={style}{way}{label}]")
    return "\n".join([*out, "}"]) + "\n"


def _json(system: System) -> str:
    parts = [vars(c) for level in system.levels for c in level]
    edges = [vars(e) | {"source": e.source.name, "target": e.target.name} for e in system.edges]
    levels = [[c.name for c in level] for level in system.levels]
    value = {
        "system": system.name,
        "context": system.context,
        "levels": levels,
        "components": parts,
        "edges": edges,
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[System], str]] = {
    "text": _text,
    "mermaid": _mermaid,
    "dot": _dot,
    "svg": svg,
    "json": _json,
}
