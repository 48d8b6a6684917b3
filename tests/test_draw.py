"""Pictures of level graphs: components once, in their lanes; no overlaps; any text is safe."""

from __future__ import annotations

import json
import random
import re
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise

import networkx as nx
import pytest

from nlc.tools.bundle import bundles
from nlc.tools.draw import FORMATS, READS, TRANSFERS, Component, Edge, draw
from nlc.tools.layout import SIZES, cells, pixels, wrap

SVG = "{http://www.w3.org/2000/svg}"
NAMES = [
    'a"b',
    "<b>&amp;</b>",
    "x\\n",
    "naïve ≻ 日本語",
    "end",
    "1. item",
    "`tick`",
    "a;b#c",
    "style: #x;",
    "",
    "\x00\x1b[31m",
    "-->|x|",
    "%%{init}%%",
    "long_name_" * 15,
    "{curly}[sq](r)",
    "*a* _b_ $$x$$",
    "\u202egnp",
    "two\nlines",
]


def graph(levels: list[list[str]], clocks: list[str], **name: str) -> nx.DiGraph:
    g = nx.DiGraph(system="test", context="tokens", levels=levels, **name)
    for i, level in enumerate(levels):
        for n in level:
            g.add_node(n, clock=clocks[i], level=i + 1, kind="memory", shape="[n, n]", size=4096)
    return g


def small() -> nx.DiGraph:
    g = graph([["S"], ["m", "v"], ["W"]], ["every token", "every step", "every step"])
    g.graph["system"] = "gated_delta_net trained by adamw"
    laws = {
        "S": ("0.5 * sqnorm(S(key) - value)", "gd(lr=beta), retain alpha"),
        "m": ("0.5 * sqnorm(m - g)", "gd(lr=1 - beta1, decay=beta1)"),
        "v": ("0.5 * sqnorm(v - g**2)", "gd(lr=1 - beta2, decay=beta2)"),
        "W": ("dot(W, m / (sqrt(v) + eps))", "gd(lr=lr, decay=1 - lr * wd)"),
    }
    for n, (objective, rule) in laws.items():
        g.nodes[n].update(objective=objective, rule=rule, shape="like(W)", size=None)
    g.nodes["S"].update(shape="[heads, dv, dk]", size=16384, doc="what the tokens taught")
    g.nodes["W"].update(kind="trained", shape="as the tensor")
    g.add_edge("S", "S", reads=("previous-tick",), transfer=())
    g.add_edge("W", "S", reads=("held",), transfer=("initialisation", "backpropagation"))
    for n in ("m", "v"):
        g.add_edge(n, "W", reads=("same-tick",), transfer=("conditioning",))
        g.add_edge("W", n, reads=("previous-tick",), transfer=("generation",))
    return g


def many(seed: int, sizes: tuple[int, ...] = (8, 6, 1, 9, 5, 1), edges: int = 50) -> nx.DiGraph:
    """Random edges of every kind, in both directions: cycles, loops, a hub that all read."""
    draw_from = random.Random(seed)
    names = [f"memory_{i}" for i in range(sum(sizes))]
    rest = iter(names)
    levels = [[next(rest) for _ in range(size)] for size in sizes]
    g = graph(levels, [f"every {4**i} tokens" for i in range(len(sizes))])
    for _ in range(edges):
        u, v = draw_from.choice(names), draw_from.choice(names)
        reads = draw_from.sample(list(READS), draw_from.choice([1, 1, 2]))
        g.add_edge(
            u, v, reads=reads, transfer=draw_from.sample(list(TRANSFERS), draw_from.randint(0, 2))
        )
    for n in names[:-1]:
        g.add_edge(n, names[-1], reads=("held",), transfer=("backpropagation",))
    return g


def nasty() -> nx.DiGraph:
    g = graph([NAMES[:9], NAMES[9:]], ['every "<n>" tokens', "every & step"])
    g.graph["system"] = 'a "<system>" & ]]> -->'
    for i, n in enumerate(NAMES):
        g.nodes[n].update(objective='a < b && "c" ' * i, rule="<script>x</script>", kind='"><x')
        g.add_edge(
            n, NAMES[(i * 7 + 3) % len(NAMES)], reads=("held", 'odd"read'), transfer=("<t>",)
        )
    return g


GRAPHS = {
    "small": small(),
    "many": many(1),
    "wide": many(2, (30,)),
    "deep": many(3, (1,) * 12),
    "nasty": nasty(),
    "one": graph([["S"]], ["every token"]),
    "bare": nx.DiGraph([("a", "b"), ("b", "a")]),
    "empty": nx.DiGraph(),
}
each = pytest.mark.parametrize("g", GRAPHS.values(), ids=GRAPHS)

GOLDEN = """\
gated_delta_net trained by adamw
context: tokens · 3 levels, fastest first

   component  kind     shape              size  min objective
                                                by  rule
1  every token ─────────────────────────────────────────────────────────────────────────────────────
   S          memory   [heads, dv, dk]  16,384  min 0.5 * sqnorm(S(key) - value)
                                                by  gd(lr=beta), retain alpha
≻  ticks more often
2  every step ──────────────────────────────────────────────────────────────────────────────────────
   m          memory   like(W)               –  min 0.5 * sqnorm(m - g)
                                                by  gd(lr=1 - beta1, decay=beta1)
   v          memory   like(W)               –  min 0.5 * sqnorm(v - g**2)
                                                by  gd(lr=1 - beta2, decay=beta2)
≻  same clock; same-tick m, v → W
3  every step ──────────────────────────────────────────────────────────────────────────────────────
   W          trained  as the tensor         –  min dot(W, m / (sqrt(v) + eps))
                                                by  gd(lr=lr, decay=1 - lr * wd)

A → B: each B reads each A
   S    → S      previous-tick   –
   m, v → W      same-tick       conditioning
   W    → S      held            backpropagation, initialisation
   W    → m, v   previous-tick   generation
"""


# ---------------------------------------------------------------- all formats


@each
@pytest.mark.parametrize("form", FORMATS)
def test_deterministic_in_the_order_of_insertion(g: nx.DiGraph, form: str) -> None:
    again = nx.DiGraph(**g.graph)
    again.add_nodes_from(reversed(list(g.nodes(data=True))))
    again.add_edges_from(reversed(list(g.edges(data=True))))
    assert draw(g, form) == draw(again, form)
    assert draw(g, form).endswith("\n")


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="text, mermaid, dot, svg, json"):
        draw(small(), "png")


@pytest.mark.parametrize("form", FORMATS)
def test_nodes_missing_from_levels_are_drawn(form: str) -> None:
    g = small()
    g.graph["levels"] = [["S"], ["gone"]]
    assert all(n in draw(g, form) for n in g)
    assert json.loads(draw(g, "json"))["levels"] == [["S"], ["m", "v"], ["W"]]


# ---------------------------------------------------------------- text


def test_text_golden() -> None:
    assert draw(small()) == GOLDEN


@each
def test_text_keeps_to_the_width(g: nx.DiGraph) -> None:
    text = draw(g)
    assert all(cells(line) <= 100 and line == line.rstrip() for line in text.splitlines())
    assert not re.search("[\0-\x09\x0b-\x1f\u202e]", text)


def test_text_has_every_component_in_its_level() -> None:
    body = draw(many(1)).split("\n\nA → B")[0]
    parts = re.split(r"^\d ", body, flags=re.M)[1:]
    found = [re.findall(r"^   (memory_\d+) ", part, flags=re.M) for part in parts]
    assert found == many(1).graph["levels"]


def test_order_is_claimed_only_where_the_graph_shows_it() -> None:
    g = graph([["a"], ["b"]], ["every step", "every step"])
    assert "≻" not in draw(g) and "≻" not in draw(g, "svg")
    g.add_edge("a", "b", reads=("previous-tick",))
    assert "≻" not in draw(g)
    g.edges["a", "b"]["reads"] = ("same-tick",)
    assert "≻  same clock; same-tick a → b" in draw(g)


def test_bundles_hold_every_edge_once() -> None:
    for g in (small(), many(1), many(2, (30,)), many(7)):
        nodes = {n: Component(n, 1, "", "", "", None, None, None, "") for n in g}
        edges = [
            Edge(nodes[u], nodes[v], tuple(sorted(d["reads"])), tuple(sorted(d["transfer"])))
            for u, v, d in g.edges(data=True)
        ]
        found = bundles(tuple(edges))
        told = [
            (a.name, b.name, e.reads, e.transfer) for us, vs, e in found for a in us for b in vs
        ]
        assert sorted(told) == sorted(
            (e.source.name, e.target.name, e.reads, e.transfer) for e in edges
        )
        assert len(found) < len(edges)


def test_bundles_are_as_large_as_can_be() -> None:
    g = graph([["a", "b", "c"], ["x", "y", "z"]], ["every token", "every step"])
    pairs = [(u, v) for u in "abc" for v in "xy"] + [("c", "z")]
    g.add_edges_from(pairs, reads=("same-tick",), transfer=())
    lines = draw(g).split("each A\n")[1].splitlines()
    assert lines == [
        "   a, b, c → x, y   same-tick   –",
        "   c       → z      same-tick   –",
    ]


def test_shapes_stand_one_below_the_other() -> None:
    g = graph([["a"]], ["every token"])
    g.nodes["a"]["shape"] = "[heads, n, m], [heads, m, n]"
    body = draw(g).splitlines()[-2:]
    assert body[0].split()[2:5] == ["[heads,", "n,", "m]"] and body[1].strip() == "[heads, m, n]"


def test_wrap() -> None:
    assert wrap("one two three", 7) == ["one two", "three"]
    assert wrap("abcdefgh i", 3) == ["abc", "def", "gh", "i"]
    assert wrap("日本語", 4) == ["日本", "語"]
    assert wrap("", 4) == []


# ---------------------------------------------------------------- mermaid, dot, json


@each
def test_mermaid(g: nx.DiGraph) -> None:
    lines = draw(g, "mermaid").splitlines()
    label = r'"(?:[\w ,=()]|#\d+;|<br/>)*"'
    forms = (
        rf"  subgraph level\d+ \[{label}\]|  end|    n\d+\[{label}\]|  n\d+(?: ~~~ n\d+)+"
        rf'|  n\d+ (?:-->|-\.->|==>)(?:\|{label}\|)? n\d+|  empty\["no components"\]'
    )
    assert lines[0] == "flowchart TB"
    assert [line for line in lines[1:] if not re.fullmatch(forms, line)] == []
    boxes = [line for line in lines if re.match(r"    n\d+\[", line)]
    assert len(boxes) == len(g)
    assert len([x for x in lines if x.startswith("  subgraph")]) == len(_levels(g))


def test_mermaid_styles() -> None:
    text = draw(small(), "mermaid")
    assert '  n3 ==>|"backpropagation, initialisation"| n0\n' in text
    assert '  n1 -->|"conditioning"| n3\n' in text and "  n0 -.-> n0\n" in text


@each
def test_dot(g: nx.DiGraph) -> None:
    text = draw(g, "dot")
    bare = re.sub(r'"(?:[^"\\]|\\["\\n])*"', '""', text)
    assert '"' not in bare.replace('""', "") and bare.count("{") == bare.count("}")
    assert bare.count("subgraph cluster_") == len(_levels(g))
    assert len(re.findall(r"^    n\d+ \[", bare, flags=re.M)) == len(g)


def test_dot_writes_upward_edges_from_the_top() -> None:
    text = draw(small(), "dot")
    assert '  n0 -> n3 [style=bold dir=back label="backpropagation, initialisation"]\n' in text
    assert '  n1 -> n3 [style=solid label="conditioning"]\n' in text


@each
def test_json(g: nx.DiGraph) -> None:
    value = json.loads(draw(g, "json"))
    assert list(value) == ["system", "context", "levels", "components", "edges"]
    assert value["levels"] == _levels(g)
    names = [c["name"] for c in value["components"]]
    assert names == [n for level in value["levels"] for n in level]
    assert {(e["source"], e["target"]) for e in value["edges"]} == set(g.edges)
    for c in value["components"]:
        given = g.nodes[c["name"]]
        assert {k: c[k] for k in given if given[k]} == {k: v for k, v in given.items() if v}


def _levels(g: nx.DiGraph) -> list[list[str]]:
    return g.graph.get("levels", [sorted(g)] if len(g) else [])


# ---------------------------------------------------------------- svg


def test_svg_lanes() -> None:
    for g in (small(), many(1), many(2, (30,))):
        root = ET.fromstring(draw(g, "svg"))
        lanes = [_rect(e.find(f"{SVG}rect")) for e in _groups(root, "level")]
        assert all(a[3] < b[1] for a, b in pairwise(lanes))
        found: dict[int, list[str]] = {}
        for box in _groups(root, "component"):
            level = int(box.get("data-level", 0))
            found.setdefault(level, []).append(box.find(f"{SVG}title").text.split("\n")[0])
            x0, y0, x1, y1 = _rect(box.find(f"{SVG}rect"))
            lane = lanes[level - 1]
            assert lane[0] < x0 and lane[1] < y0 and x1 < lane[2] and y1 < lane[3]
        assert [sorted(found[i + 1]) for i in range(len(lanes))] == [
            sorted(level) for level in g.graph["levels"]
        ]


@each
def test_svg_is_whole(g: nx.DiGraph) -> None:
    text = draw(g, "svg")
    root = ET.fromstring(text)
    assert len(_groups(root, "component")) == len(g)
    told = "".join(t.text or "" for t in root.iter(f"{SVG}title"))
    for u, v in g.edges:
        assert f"{_shown(u)} → {_shown(v)}" in told
    assert "script" not in {e.tag.removeprefix(SVG) for e in root.iter()}
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme:dark" in text


def _shown(name: str) -> str:
    return re.sub("[\0-\x1f\u202e]", "\ufffd", " ".join(name.split()))


@pytest.mark.parametrize(
    "g", [*GRAPHS.values(), *(many(s, edges=30 + 3 * s) for s in range(4, 16))]
)
def test_svg_overlaps_nothing(g: nx.DiGraph) -> None:
    root = ET.fromstring(draw(g, "svg"))
    page = 0, 0, float(root.get("width", 0)), float(root.get("height", 0))
    texts = [_text_box(t) for t in root.iter(f"{SVG}text") if t.text]
    boxes = [_rect(b.find(f"{SVG}rect")) for b in _groups(root, "component")]
    for t in texts:
        assert page[0] <= t[0] and t[2] <= page[2] and t[3] <= page[3]
    assert not any(_meet(a, b) for a, b in combinations(texts, 2))
    assert not any(_meet(a, b) for a, b in combinations(boxes, 2))

    lines = [p for p in root.iter(f"{SVG}path") if "line" in p.get("class", "")]
    lines = [p for p in lines if "a7" not in p.get("d", "") and "h26" not in p.get("d", "")]
    tags = [_text_box(t) for t in root.iter(f"{SVG}text") if t.get("class") == "tag" and t.text]
    straight = [s for p in lines for s in _segments(p.get("d", ""))]
    for box in [*boxes, *tags]:
        inside = box[0] + 0.5, box[1] + 0.5, box[2] - 0.5, box[3] - 0.5
        assert not any(_meet(s, inside) for s in straight)


@pytest.mark.parametrize("g", [small(), *(many(s) for s in range(1, 10))])
def test_svg_lines_of_different_nets_never_run_along_each_other(g: nx.DiGraph) -> None:
    root = ET.fromstring(draw(g, "svg"))
    nets: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for group in root.iter(f"{SVG}g"):
        line, title = group.find(f"{SVG}path"), group.find(f"{SVG}title")
        if line is not None and title is not None and "a7" not in line.get("d", ""):
            target = title.text.split(" → ")[1].split(":")[0]
            net = target, line.get("class", "")
            nets.setdefault(net, []).extend(_segments(line.get("d", "")))
    for a, b in combinations(nets, 2):
        for s in nets[a]:
            for t in nets[b]:
                flat = (
                    0
                    if s[1] == s[3] and t[1] == t[3]
                    else 1
                    if s[0] == s[2] and t[0] == t[2]
                    else 2
                )
                if flat < 2 and abs(s[1 - flat] - t[1 - flat]) < 2:
                    assert min(s[2 + flat], t[2 + flat]) - max(s[flat], t[flat]) < 2, (a, b, s, t)


def _groups(root: ET.Element, kind: str) -> list[ET.Element]:
    return [e for e in root.iter(f"{SVG}g") if e.get("class") == kind]


def _rect(e: ET.Element | None) -> tuple[float, float, float, float]:
    assert e is not None
    x, y, width, height = (float(e.get(k, 0)) for k in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def _text_box(e: ET.Element) -> tuple[float, float, float, float]:
    style, x, y = e.get("class", ""), float(e.get("x", 0)), float(e.get("y", 0))
    width = pixels(e.text or "", style)
    x -= width if e.get("text-anchor") == "end" else 0
    return x, y - 0.75 * SIZES[style], x + width, y + 0.2 * SIZES[style]


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _segments(d: str) -> list[tuple[float, float, float, float]]:
    """The straight parts of a path, as rectangles without width."""
    out = []
    at = (0.0, 0.0)
    for command, numbers in re.findall(r"([MLQ])([^MLQ]*)", d):
        values = [float(n) for n in numbers.split()]
        end = values[-2], values[-1]
        if command == "L":
            out.append((*map(min, at, end), *map(max, at, end)))
        at = end
    return out
