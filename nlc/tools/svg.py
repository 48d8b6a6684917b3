"""A level graph -> self-contained SVG: no fonts, no scripts, light or dark as the reader likes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from html import escape
from typing import TYPE_CHECKING

from nlc.tools.layout import (
    GUTTER,
    INSET,
    MARGIN,
    SHORT,
    SIZES,
    Layout,
    Net,
    box_lines,
    fitted,
    pixels,
)

if TYPE_CHECKING:
    from nlc.tools.draw import Component, Edge, System

_JOIN, _ROUND, _TIP = 9, 6, 8
_LINES = ("same-tick", "previous-tick", "held")
_KINDS = ("memory", "cache", "weights", "trained")
_Point = tuple[float, float]

# selector: (declarations for light pages, for dark ones)
_STYLE = {
    "text": (
        "fill:#1b2430;font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif",
        "fill:#e6edf3",
    ),
    ".title,.name,.number": ("font-weight:600", ""),
    ".kind,.plain,.order,.tag,.rule": ("fill:#566273", "fill:#9aa7b5"),
    ".code,.rule": ("font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace", ""),
    ".tag": ("font-weight:500", ""),
    ".page": ("fill:#ffffff", "fill:#0d1117"),
    ".lane": ("fill:#f4f6f9;stroke:#e1e6ee", "fill:#161b22;stroke:#2a323d"),
    ".box": ("fill:#ffffff;stroke:#8a96a6", "fill:#1d242e;stroke:#7d8998"),
    ".memory": ("fill:#e6effd;stroke:#4a78c8", "fill:#14284a;stroke:#5b8fe0"),
    ".cache": ("fill:#efe9fb;stroke:#7d5bc4", "fill:#2a2046;stroke:#9d7de0"),
    ".weights": ("fill:#eaedf1;stroke:#7a8699", "fill:#262f3b;stroke:#8593a6"),
    ".trained": ("fill:#e2f4e8;stroke:#3a9460", "fill:#12301f;stroke:#4fb57a"),
    ".line": ("fill:none;stroke:#8a96a6;stroke-width:1.2;stroke-dasharray:1 3", "stroke:#7d8998"),
    ".same-tick": ("stroke:#334155;stroke-width:1.6;stroke-dasharray:none", "stroke:#c3cedb"),
    ".previous-tick": ("stroke:#0b7f86;stroke-width:1.6;stroke-dasharray:6 4", "stroke:#3fc1c9"),
    ".held": ("stroke:#c2691c;stroke-width:2.8;stroke-dasharray:none", "stroke:#e8964a"),
    ".tip": ("fill:#8a96a6", "fill:#7d8998"),
    ".tip.same-tick": ("fill:#334155;stroke:none", "fill:#c3cedb"),
    ".tip.previous-tick": ("fill:#0b7f86;stroke:none", "fill:#3fc1c9"),
    ".tip.held": ("fill:#c2691c;stroke:none", "fill:#e8964a"),
}


def svg(system: System) -> str:
    """The picture; hovering over a box or a line says all that the graph knows of it."""
    if not system.levels:
        return _page(
            640,
            100,
            system,
            [_text("title", 20, 40, system.name), _text("plain", 20, 64, "no components")],
        )
    plan = Layout(system, full_words=True)
    if plan.crowded:
        plan = Layout(system, full_words=False)
    parts = [_text("title", MARGIN, 38 + 23 * i, line) for i, line in enumerate(plan.title)]
    count = len(system.levels)
    facts = [f"context: {system.context}"] if system.context else []
    facts += [f"{count} level{'s' * (count > 1)}, fastest first"]
    facts += ["A → B: B reads A"] if system.edges else []
    parts.append(
        _text(
            "plain", MARGIN, 36 + 23 * len(plan.title), " · ".join(facts), 2 * MARGIN - plan.width
        )
    )
    parts += _lanes(plan)
    # boxes go over lines, and words over all
    parts += [part for net in plan.nets for part in _net(plan, net)]
    parts += [_box(plan, c) for c in plan.slot]
    parts += _loops(plan)
    parts += [tag for net in plan.nets for tag in _net_tags(plan, net)]
    legend, bottom = _legend(plan)
    return _page(plan.width, bottom, system, [*parts, *legend])


def _page(width: float, height: float, system: System, parts: Iterable[str]) -> str:
    def rules(which: int) -> str:
        out = []
        for selectors, both in _STYLE.items():
            names = ",".join(f".nlc-graph {s}" for s in selectors.split(","))
            out += [f"{names}{{{both[which]}}}"] if both[which] else []
        return "\n".join(out)

    sizes = "\n".join(f".nlc-graph .{name}{{font-size:{size}px}}" for name, size in SIZES.items())
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="nlc-graph" role="img" {size}>',
        f"<title>{escape(system.name)}</title>",
        f"<style>\n{rules(0)}\n{sizes}\n@media (prefers-color-scheme:dark){{\n{rules(1)}\n}}",
        "</style>",
        f'<rect class="page" width="{width:g}" height="{height:g}"/>',
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def _text(style: str, x: float, y: float, text: str, room: float = 0, anchor: str = "start") -> str:
    """One line; ``room`` is the width at which it is cut."""
    if room:
        text = "".join(fitted(text, style, abs(room)))
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{style}" x="{x:g}" y="{y:g}"{where}>{escape(text)}</text>'


def _lanes(plan: Layout) -> Iterator[str]:
    edges = []
    for lane in plan.lanes:
        last = lane.stop - 1
        edges.append((plan.row_y[lane.start] - 12, plan.row_y[last] + plan.row_height[last] + 12))
    for i, (level, (top, bottom)) in enumerate(zip(plan.system.levels, edges, strict=True)):
        size = f'width="{plan.width - MARGIN:g}" height="{bottom - top:g}"'
        yield f'<g class="level" data-level="{i + 1}">'
        yield f'<rect class="lane" x="{MARGIN / 2:g}" y="{top:g}" {size} rx="10"/>'
        clocks = ", ".join(dict.fromkeys(c.clock for c in level if c.clock))
        lines = fitted(clocks, "plain", GUTTER - 24, 2)
        y = (top + bottom) / 2 - 7 * len(lines) + 8
        yield _text("number", MARGIN, y, str(i + 1))
        for k, line in enumerate(lines):
            yield _text("plain", MARGIN, y + 17 + 14 * k, line)
        yield "</g>"
        why = plan.system.order(i) if i + 1 < len(edges) else None
        if why:
            middle = (bottom + edges[i + 1][0]) / 2 + 8
            order = _text("order", MARGIN, middle, "≻")
            yield f"<g><title>{escape(why)}</title>{order}</g>"


def _box(plan: Layout, c: Component) -> str:
    row, column = plan.slot[c]
    x, y = plan.column_x[column], plan.row_y[row]
    width, height = plan.box_width[column], plan.row_height[row]
    kind = c.kind if c.kind in _KINDS else ""
    inner = width - 2 * INSET
    beside = pixels(c.kind, "kind") if pixels(c.kind, "kind") < inner / 2 else 0
    values = "" if c.size is None else f"{c.size:,} values"
    told = [c.name, c.kind, c.clock, c.shape, values, c.objective and f"objective: {c.objective}"]
    told += [c.rule and f"rule: {c.rule}", c.doc]
    size = f'width="{width:g}" height="{height:g}"'
    out = [
        f'<g class="component" data-level="{c.level}">',
        f"<title>{escape(chr(10).join(filter(None, told)))}</title>",
        f'<rect class="box {kind}" x="{x:g}" y="{y:g}" {size} rx="8"/>',
        _text("name", x + INSET, y + 21, c.name, inner - (beside and beside + 10)),
    ]
    if beside:
        out.append(_text("kind", x + width - INSET, y + 20, c.kind, anchor="end"))
    for i, (style, line) in enumerate(box_lines(c, inner)):
        out.append(_text(style, x + INSET, y + 39 + 15 * i, line))
    return "".join([*out, "</g>"])


# ---------------------------------------------------------------- lines


def _class(kind: str) -> str:
    return kind if kind in _LINES else ""


def _says(edge: Edge, kind: str) -> str:
    how = ", ".join(filter(None, (kind, *edge.transfer)))
    return f"<title>{escape(f'{edge.source.name} → {edge.target.name}: {how}')}</title>"


def _path(points: list[_Point]) -> str:
    """Straight lines with rounded corners."""
    kept: list[_Point] = []
    for p in points:
        if kept and abs(p[0] - kept[-1][0]) + abs(p[1] - kept[-1][1]) < 0.01:
            continue
        straight = len(kept) > 1 and any(
            abs(p[i] - kept[-1][i]) + abs(p[i] - kept[-2][i]) < 0.01 for i in (0, 1)
        )
        if straight:
            kept.pop()
        kept.append(p)
    out = f"M{kept[0][0]:g} {kept[0][1]:g}"
    for a, b, c in zip(kept, kept[1:], kept[2:], strict=False):
        near = _toward(b, a, min(_ROUND, _far(a, b) / 2))
        past = _toward(b, c, min(_ROUND, _far(b, c) / 2))
        out += f"L{near[0]:g} {near[1]:g}Q{b[0]:g} {b[1]:g} {past[0]:g} {past[1]:g}"
    return f"{out}L{kept[-1][0]:g} {kept[-1][1]:g}"


def _far(a: _Point, b: _Point) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _toward(a: _Point, b: _Point, length: float) -> _Point:
    """The point ``length`` from a on the way to b; a and b share a coordinate."""
    share = min(1.0, length / (_far(a, b) or 1))
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


def _side(plan: Layout, c: Component, channel: int) -> float:
    """y of the side of a box that faces a channel"""
    row = plan.slot[c][0]
    return plan.row_y[row] + (plan.row_height[row] if channel > row else 0)


def _net(plan: Layout, net: Net) -> Iterator[str]:
    """The farthest edge draws its whole way; a later one ends soon after it meets what is drawn."""
    kind = _class(net.kind)
    end_x, end_y = plan.ports[net, None], _side(plan, net.target, net.channel)
    back = _TIP if net.channel == plan.slot[net.target][0] else -_TIP
    finish = [(end_x, net.heights[net.channel]), (end_x, end_y - back * 0.75)]
    reach: dict[int, list[float]] = {}

    def key(item: tuple[int, Edge]) -> tuple[float, float]:
        channel, edge = item
        x = plan.ports[net, edge]
        return -abs(channel - net.channel), -abs(x - plan.exit_x(net, channel))

    for channel, edge in sorted(net.sources, key=key):
        x, y, out = plan.ports[net, edge], net.heights[channel], plan.exit_x(net, channel)
        way = [(x, _side(plan, edge.source, channel)), (x, y)]
        drawn = channel in reach
        low, high = reach.get(channel, (out, out))
        if drawn and low <= x <= high:
            on = (
                [_toward((x, y), (out, y), _JOIN)]
                if x != out
                else [_toward((x, y), finish[1], _JOIN)]
            )
        elif drawn and (x < low < out or x > high > out):
            edge_x = low if x < low else high
            on = [_toward((edge_x, y), (out, y), _JOIN)]
        elif channel != net.channel:
            trunk = (out, net.heights[net.channel])
            on = (
                [(out, y), _toward((out, y), trunk, _JOIN)] if reach else [(out, y), trunk, *finish]
            )
        else:
            on = [(out, y), _toward((out, y), finish[1], _JOIN)] if reach else [(out, y), *finish]
        reach[channel] = [min(low, x), max(high, x)]
        if channel != net.channel and net.channel not in reach:
            ends = sorted((plan.trunk_x(net), end_x))
            reach[net.channel] = ends
        yield f'<g>{_says(edge, net.kind)}<path class="line {kind}" d="{_path(way + on)}"/></g>'
    d = f"M{end_x:g} {end_y:g}l-4.5 {-back:g}h9z"
    yield f'<path class="tip {kind}" d="{d}"/>'


def _net_tags(plan: Layout, net: Net) -> Iterator[str]:
    for channel, edge in net.sources:
        x, y = plan.ports[net, edge] + 5, _side(plan, edge.source, channel)
        lines = plan.tags(edge)
        below = channel > plan.slot[edge.source][0]
        for i, line in enumerate(lines):
            at = y + 11 + 11 * i if below else y - 5 - 11 * (len(lines) - 1 - i)
            yield _text("tag", x, at, line)


def _loops(plan: Layout) -> Iterator[str]:
    room: dict[Component, float] = defaultdict(lambda: 16.0)
    for edge in plan.loops:
        row, column = plan.slot[edge.source]
        for kind in edge.reads or ("",):
            lines = plan.tags(edge)
            x = plan.column_x[column] + plan.box_width[column]
            y = plan.row_y[row] + room[edge.source]
            room[edge.source] += max(26, 8 + 11 * len(lines))
            curve = f"M{x:g} {y:g}h8a7 7 0 0 1 0 14h-2"
            yield f'<g>{_says(edge, kind)}<path class="line {_class(kind)}" d="{curve}"/>'
            yield f'<path class="tip {_class(kind)}" d="M{x:g} {y + 14:g}l8 -4.5v9z"/></g>'
            for i, line in enumerate(lines):
                yield _text("tag", x + 20, y + 10.5 + 11 * i - 5.5 * (len(lines) - 1), line)


def _legend(plan: Layout) -> tuple[list[str], float]:
    """Only what the picture uses, in lines below it."""
    system, out = plan.system, []
    edges = system.edges
    reads = [k for k in _LINES if any(k in e.reads for e in edges)]
    reads += [""] if any(not _class(k) for e in edges for k in e.reads or ("",)) else []
    kinds = [k for k in _KINDS if any(c.kind == k for level in system.levels for c in level)]
    used = [] if plan.full_words else [t for t in SHORT if any(t in e.transfer for e in edges)]
    groups = [[("line", k, f"reads {k}" if k else "other") for k in reads]]
    groups += [[("box", k, k) for k in kinds], [("tag", SHORT[t], t) for t in used]]
    y = plan.bottom + 22
    for group in filter(None, groups):
        x: float = MARGIN
        for mark, key, words in group:
            wide = {"line": 34, "box": 24, "tag": 30}[mark]
            if x > MARGIN and x + wide + pixels(words, "plain") > plan.width - MARGIN:
                x, y = MARGIN, y + 20
            if mark == "line":
                out.append(f'<path class="line {key}" d="M{x:g} {y - 4:g}h26"/>')
            elif mark == "box":
                size = 'width="17" height="13" rx="3"'
                out.append(f'<rect class="swatch {key}" x="{x:g}" y="{y - 11:g}" {size}/>')
            else:
                out.append(_text("tag", x, y, key))
            out.append(_text("plain", x + wide, y, words))
            x += wide + pixels(words, "plain") + 22
        y += 20
    return out, y
