"""Where the parts of a level graph's picture stand: levels are lanes, fastest at the top.

Boxes stand on a grid. Edges run only between them, along channels between rows and gaps between
columns, each on a track of its own, so no line crosses a box or covers another line. Edges of one
read kind that enter a component from the same channel form a net: they join on the way and share
one arrowhead.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nlc.tools.draw import Component, Edge, System

_COLUMNS = 5
BOX, INSET, GUTTER, MARGIN = 248, 12, 138, 20
_ROOMY, _PORT = 350, 18.0
TRACK = 10
SIZES = {
    "title": 18,
    "number": 22,
    "order": 22,
    "name": 14,
    "kind": 10,
    "plain": 11,
    "code": 11,
    "rule": 11,
    "tag": 10,
}
SHORT = {
    "conditioning": "cond",
    "backpropagation": "bp",
    "non-parametric": "np",
    "initialisation": "init",
    "generation": "gen",
}


def cells(text: str) -> int:
    """Columns that ``text`` takes in a terminal."""
    return sum(
        0 if unicodedata.combining(ch) else 2 if unicodedata.east_asian_width(ch) in "WF" else 1
        for ch in text
    )


def wrap(text: str, limit: float, measure: Callable[[str], float] = cells) -> list[str]:
    """``text`` in lines of at most ``limit``, broken inside a word only if it must be."""
    lines: list[str] = []
    for word in text.split():
        if lines and measure(f"{lines[-1]} {word}") <= limit:
            lines[-1] += " " + word
            continue
        lines.append("")
        for ch in word:
            if lines[-1] and measure(lines[-1] + ch) > limit:
                lines.append("")
            lines[-1] += ch
    return lines


def pixels(text: str, style: str) -> float:
    """Width of ``text``, on the wide side: the reader's fonts are not known."""

    def em(ch: str) -> float:
        if unicodedata.combining(ch):
            return 0
        if unicodedata.east_asian_width(ch) in "WF" or ord(ch) > 0xFFFF:
            return 1.3
        if style in ("code", "rule"):
            return 0.61
        if ch in "iljtfrI.,:;'|!()[] -":
            return 0.4
        return 1 if ch in "mwMW@%—→" or ord(ch) > 0x2E7F else 0.75 if ch.isupper() else 0.62

    return sum(map(em, text)) * SIZES[style]


def fitted(text: str, style: str, width: float, lines: int = 1) -> list[str]:
    """``text`` wrapped to ``lines`` lines, with an ellipsis where more would follow."""
    found = wrap(text, width, lambda t: pixels(t, style))
    if len(found) <= lines:
        return found
    last = " ".join(found[lines - 1 :])
    while pixels(last + "…", style) > width:
        last = last[:-1]
    return [*found[: lines - 1], last.rstrip() + "…"]


def box_lines(c: Component, width: float) -> list[tuple[str, str]]:
    """What a box says below its name: (style, line)."""
    size = "" if c.size is None else f"{c.size:,} values"
    texts = [
        ("plain", " · ".join(filter(None, (c.clock, size))), 1),
        ("code", c.shape, 2),
        ("code", f"min {c.objective}" if c.objective else "", 2),
        ("rule", c.rule or "", 2),
    ]
    return [(style, line) for style, text, n in texts for line in fitted(text, style, width, n)]


@dataclass(eq=False)
class Net:
    """Edges that end in one arrowhead; ``sources`` has each with the channel where it starts."""

    target: Component
    kind: str
    channel: int
    sources: list[tuple[int, Edge]] = field(default_factory=list)
    gap: int | None = None
    track: int = 0
    heights: dict[int, float] = field(default_factory=dict)

    @property
    def span(self) -> tuple[int, int]:
        channels = [self.channel, *(c for c, _ in self.sources)]
        return min(channels), max(channels)


class Layout:
    """Where everything stands. Channel c is above row c, gap g is left of column g."""

    def __init__(self, system: System, full_words: bool):
        self.system, self.full_words, self.crowded = system, full_words, False
        self.rows: list[list[Component]] = []
        self.lanes: list[range] = []
        self.slot: dict[Component, tuple[int, int]] = {}
        self._place()
        self.loops = [e for e in system.edges if e.source is e.target]
        self.nets = self._nets()
        self.ports: dict[tuple[Net, Edge | None], float] = {}
        self._columns()
        self._channels()

    def tags(self, edge: Edge) -> list[str]:
        """The lines of an edge's label."""
        if self.full_words:
            return list(edge.transfer)
        words = " ".join(SHORT.get(t, t[:4]) for t in edge.transfer)
        return [words] if words else []

    def _tag_width(self, edge: Edge) -> float:
        return max((pixels(t, "tag") for t in self.tags(edge)), default=0)

    # -- rows and columns

    def _place(self) -> None:
        levels = self.system.levels
        self.columns = min(_COLUMNS, max(map(len, levels)))
        for level in levels:
            count = -(-len(level) // self.columns)
            size = -(-len(level) // count)
            start = len(self.rows)
            self.rows += [list(level[i : i + size]) for i in range(0, len(level), size)]
            self.lanes.append(range(start, len(self.rows)))
        for r, row in enumerate(self.rows):
            self.slot |= {c: (r, k + (self.columns - len(row)) // 2) for k, c in enumerate(row)}
        near: dict[Component, list[Component]] = defaultdict(list)
        for e in self.system.edges:
            near[e.source].append(e.target)
            near[e.target].append(e.source)
        before: dict[Component, tuple[int, int]] = {}
        for _ in range(8):
            if before == self.slot:
                break
            before = dict(self.slot)
            for r, row in enumerate(self.rows):
                self.slot |= min(self._rows_of(r, row), key=lambda s: self._cost(s, row, near))

    def _rows_of(self, r: int, row: list[Component]) -> Iterator[dict[Component, tuple[int, int]]]:
        for order in permutations(range(self.columns), len(row)):
            yield {c: (r, k) for c, k in zip(row, order, strict=True)}

    def _cost(
        self,
        slots: dict[Component, tuple[int, int]],
        row: list[Component],
        near: dict[Component, list[Component]],
    ) -> tuple[float, ...]:
        at = [slots[c][1] for c in row]
        length = sum(abs(slots[c][1] - slots.get(n, self.slot[n])[1]) for c in row for n in near[c])
        turned = sum(a > b for a, b in combinations(at, 2))
        middle = (self.columns - 1) / 2
        return length, turned, max(at) - min(at), abs(sum(at) / len(at) - middle), sum(at)

    # -- nets

    def _nets(self) -> list[Net]:
        nets: dict[tuple[Component, str, int], Net] = {}
        for e in self.system.edges:
            if e.source is e.target:
                continue
            here, there = self.slot[e.source][0], self.slot[e.target][0]
            leave, enter = here + (here < there), there + (here > there)
            for kind in e.reads or ("",):
                net = nets.setdefault((e.target, kind, enter), Net(e.target, kind, enter))
                net.sources.append((leave, e))
        busy: dict[int, list[Net]] = defaultdict(list)
        for net in nets.values():
            far = [self.slot[e.source][1] + 0.5 for c, e in net.sources if c != net.channel]
            if far:
                ends = [*far, self.slot[net.target][1] + 0.5]
                net.gap = min(
                    range(self.columns + 1),
                    key=lambda g: (sum(abs(x - g) for x in ends) + 0.1 * len(busy[g]), g),
                )
                busy[net.gap].append(net)
        for gap in busy.values():
            taken: list[Net] = []
            for net in sorted(gap, key=lambda n: n.span):
                clash = {
                    n.track for n in taken if n.span[1] >= net.span[0] and n.span[0] <= net.span[1]
                }
                net.track = next(t for t in range(len(gap)) if t not in clash)
                taken.append(net)
        return list(nets.values())

    # -- x

    def _columns(self) -> None:
        sides = {
            (c, k): self._side(c, k) for c in range(len(self.rows) + 1) for k in range(self.columns)
        }
        need = {at: sum(width for _, width, _ in items) for at, items in sides.items()}
        most = _ROOMY if self.columns <= 3 else BOX
        self.crowded = any(total > most - 2 * INSET for total in need.values())
        self.box_width = [
            max(BOX, *(need[c, k] + 2 * INSET for c in range(len(self.rows) + 1)))
            for k in range(self.columns)
        ]
        self.column_x: list[float] = []
        self.gap_x: list[float] = []
        x: float = MARGIN + GUTTER
        for g in range(self.columns + 1):
            tracks = max((n.track + 1 for n in self.nets if n.gap == g), default=0)
            room = [30 + self._tag_width(e) for e in self.loops if self.slot[e.source][1] == g - 1]
            x += max(room, default=0)
            self.gap_x.append(x + 16)
            x += max(16 + tracks * TRACK + 6, 16 if g in (0, self.columns) else 32)
            if g < self.columns:
                self.column_x.append(x)
                x += self.box_width[g]
        self.width = max(x + MARGIN, 640)
        for (_, k), items in sides.items():
            spare = (self.box_width[k] - 2 * INSET - sum(w for _, w, _ in items)) / (len(items) + 1)
            at = self.column_x[k] + INSET
            for _, width, keys in items:
                at += spare
                self.ports |= {key: at + min(width, _PORT) / 2 for key in keys}
                at += width

    def _side(
        self, channel: int, column: int
    ) -> list[tuple[float, float, list[tuple[Net, Edge | None]]]]:
        """The ports of the two boxes that face each other across a channel, left to right: where
        each heads, its width, its keys. They share one set of places: no two verticals meet."""
        items = []
        for net in self.nets:
            trunk = net.gap
            enter = self.slot[net.target][1]
            keys: list[tuple[Net, Edge | None]] = []
            if net.channel == channel and enter == column:
                heads = [self.slot[e.source][1] + 0.5 for c, e in net.sources if c == channel]
                heads += [trunk] if trunk is not None else []
                keys, width = [(net, None)], _PORT
                to = sum(heads) / len(heads)
            for c, e in net.sources:
                row, k = self.slot[e.source]
                if c != channel or k != column:
                    continue
                room = max(_PORT, self._tag_width(e) + 14)
                if keys and net.channel == channel and row != self.slot[net.target][0]:
                    keys.append((net, e))
                    width = max(width, room)
                else:
                    goal = enter + 0.5 if c == net.channel or trunk is None else trunk
                    items.append((goal, room, [(net, e)]))
            if keys:
                items.append((to, width, keys))
        return sorted(items, key=lambda item: item[0])

    def trunk_x(self, net: Net) -> float:
        return self.gap_x[net.gap or 0] + net.track * TRACK

    def exit_x(self, net: Net, channel: int) -> float:
        """Where the net's line leaves a channel: into its target or into its trunk."""
        return self.ports[net, None] if channel == net.channel else self.trunk_x(net)

    # -- y

    def _channels(self) -> None:
        self.row_y: list[float] = []
        self.row_height = [max(self._height(c) for c in row) for row in self.rows]
        starts = {lane.start for lane in self.lanes}
        self.title = wrap(self.system.name, self.width - 2 * MARGIN, lambda t: pixels(t, "title"))
        y = 30.0 + 23 * len(self.title) + 18
        for channel in range(len(self.rows) + 1):
            tracks = self._tracks(channel)
            over, under = 10, 14
            for net in self.nets:
                for c, e in net.sources:
                    lines = 8 + 11 * len(self.tags(e))
                    if c == channel and self.slot[e.source][0] == channel:
                        under = max(under, lines)
                    elif c == channel:
                        over = max(over, lines)
            rows = max(tracks.values(), default=-1) + 1
            edge = channel in (0, len(self.rows))
            least = 22 if edge else 52 if channel in starts else 24
            height = max(over + max(rows - 1, 0) * TRACK + under, least) if rows else least
            start = y + over + (height - over - under - max(rows - 1, 0) * TRACK) / 2
            for net, track in tracks.items():
                net.heights[channel] = start + track * TRACK
            y += height
            if channel < len(self.rows):
                self.row_y.append(y)
                y += self.row_height[channel]
        self.bottom = y

    def _height(self, c: Component) -> float:
        loops = [
            max(26, 8 + 11 * len(self.tags(e)))
            for e in self.loops
            if e.source is c
            for _ in e.reads or " "
        ]
        return max(INSET + 18 + 15 * len(box_lines(c, BOX - 2 * INSET)) + 6, 16 + sum(loops))

    def _tracks(self, channel: int) -> dict[Net, int]:
        """Nets of a channel -> tracks, top to bottom, in an order with few crossings."""
        spans, ups, downs = {}, {}, {}
        for net in self.nets:
            if not net.span[0] <= channel <= net.span[1]:
                continue
            up, down = [], []
            for c, e in net.sources:
                if c == channel:
                    (down if self.slot[e.source][0] == channel else up).append(self.ports[net, e])
            if net.channel == channel:
                side = down if self.slot[net.target][0] == channel else up
                side.append(self.ports[net, None])
            if net.gap is not None and (up or down):
                up += [self.trunk_x(net)] * (net.span[0] < channel)
                down += [self.trunk_x(net)] * (net.span[1] > channel)
            if up or down:
                spans[net], ups[net], downs[net] = (min(up + down), max(up + down)), up, down

        def crossings(a: Net, b: Net) -> int:
            """with a above b"""
            inside = [spans[b][0] <= x <= spans[b][1] for x in downs[a]]
            return sum(inside) + sum(spans[a][0] <= x <= spans[a][1] for x in ups[b])

        order = sorted(spans, key=lambda n: (len(downs[n]) - len(ups[n]), spans[n]))
        for _ in order:
            for i in range(len(order) - 1):
                a, b = order[i : i + 2]
                if crossings(b, a) < crossings(a, b):
                    order[i : i + 2] = b, a
        tracks: dict[Net, int] = {}
        for net in order:
            lo, hi = spans[net]
            meets = [
                t for n, t in tracks.items() if spans[n][0] <= hi + 6 and lo <= spans[n][1] + 6
            ]
            tracks[net] = max(meets, default=-1) + 1
        return tracks
