"""What notebooks show: sound markup, nothing of the user's taken for markup, LaTeX that can be set."""

from __future__ import annotations

import copy
import pickle
import re
import xml.etree.ElementTree as ET
from base64 import b64decode
from html.parser import HTMLParser

import networkx as nx
import pytest
from matplotlib.mathtext import MathTextParser
from shipped_specs import load
from test_fmt import SPECS

import nlc
from nlc.runtime.bench.report import Benchmark, Cell
from nlc.runtime.verify.report import Check, Verification
from nlc.tools import html
from nlc.tools.notebook import Derivation, LevelGraph

HOSTILE = "<script>alert('x')</script>&amp;\"</pre></td>"
NAMES = sorted(SPECS)


class Markup(HTMLParser):
    """Checks that every element is closed by its own tag, and keeps what a reader reads."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("br", "img"):
            self.open.append(tag)
        assert all(not name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


# ------------------------------------------------------------------------------------------- specs


@pytest.mark.parametrize("name", NAMES)
def test_a_spec(name: str) -> None:
    spec = nlc.loads(SPECS[name], f"{name}.yaml")
    made = Markup(spec._repr_html_())
    assert SPECS[name].strip() in made.text, "the text, to the letter"
    for level in spec.graph.nodes:
        assert level in made.text
    for update in spec.updates.values():
        assert all(state in spec.system.states for state in update.new)
    assert made.text.count("←") >= len(spec.updates)


def test_a_spec_with_mistakes_says_them() -> None:
    text = SPECS["sgd"].replace("gd(", "gdd(")
    made = Markup(nlc.loads(text, "wrong.yaml")._repr_html_())
    assert "error[NLC" in made.text and "table" not in made.tags
    assert "no keys" in Markup(nlc.loads("", "empty.yaml")._repr_html_()).text


def test_nothing_of_the_user_is_markup() -> None:
    text = SPECS["sgd"] + f"# {HOSTILE}\n"
    text = re.sub(r"^doc: .*$", lambda _: f"doc: {HOSTILE}", text, flags=re.M)
    for name in (HOSTILE, "a.yaml"):
        for source in (text, text + f"\nhyper: {HOSTILE}"):
            made = Markup(nlc.loads(source, name)._repr_html_())
            assert "script" not in made.tags and HOSTILE in made.text
    head, rows = ["a", HOSTILE], [[HOSTILE, "two\nlines"]]
    made = Markup(html.table(head, rows, {1}, HOSTILE))
    assert made.text.count(HOSTILE) == 3 and made.tags.count("br") == 1
    assert Markup(html.folded(HOSTILE, html.pre(HOSTILE))).text == 2 * HOSTILE
    assert Markup(html.paragraph(HOSTILE)).text == HOSTILE
    assert Markup(html.image("<svg/>", HOSTILE)).tags == ["img"]


# ------------------------------------------------------------------------------------------ graphs


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_drawn(name: str) -> None:
    graph = nlc.loads(SPECS[name]).graph
    svg = graph._repr_svg_()
    assert ET.fromstring(svg).tag.endswith("svg")
    made = graph._repr_html_()
    assert Markup(made).tags == ["img"], "the style of a picture must not reach the page"
    data = re.search(r"base64,([^\"]*)", made)
    assert data is not None and b64decode(data[1]).decode() == svg


def test_a_graph_is_a_digraph_to_all_others() -> None:
    spec = nlc.load("gated_delta_net")
    graph = spec.graph
    assert spec.graph is graph and type(graph) is LevelGraph and isinstance(graph, nx.DiGraph)
    plain = nx.DiGraph(graph)
    assert nx.utils.graphs_equal(graph, plain) and graph.graph == plain.graph
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph)), graph.copy()):
        assert nx.utils.graphs_equal(graph, other) and other._repr_svg_() == graph._repr_svg_()
    assert isinstance(graph.subgraph(["S"]), nx.DiGraph)
    assert set(nx.ancestors(graph, "S")) == {"weights"}
    both = spec.combined(nlc.load("adamw"))
    assert set(both.nodes) == {"S", "m", "v", "W"} and "trained by adamw" in both._repr_svg_()


# ------------------------------------------------------------------------------------- mathematics

COMMANDS = frozenset(
    "begin end text mathrm operatorname underset succ leftarrow left right tfrac frac sqrt hat top"
    " gamma delta theta mu rho sigma tau omega lVert rVert langle rangle odot circ cdot sum nabla ell"
    " alpha beta epsilon eta gamma lambda phi"
    " in le ge neq".split()
)


def typeset(text: str) -> str:
    """What LaTeX takes: braces and brackets in pairs, commands that it has, no sign that it lacks."""
    plain = text.replace("\\\\", " ")
    assert plain.isascii(), plain
    assert set(re.findall(r"\\([A-Za-z]+)", plain)) <= COMMANDS, plain
    for left, right in (
        (r"(?<!\\){", r"(?<!\\)}"),
        (r"\\left\b", r"\\right\b"),
        (r"\\begin", r"\\end"),
    ):
        assert len(re.findall(left, plain)) == len(re.findall(right, plain)), plain
    assert not re.search(r"(?<!\\)[%#]", plain), plain
    return text


@pytest.mark.parametrize("name", ["gated_delta_net", "titans", "adamw", "muon", "hope"])
def test_a_system_and_its_order_are_typeset(name: str) -> None:
    spec = load(name)
    made, order = typeset(spec._repr_latex_()), typeset(spec.graph._repr_latex_())
    lines = made.split("\n")[1:-1]
    assert all(line.count("&") in (1, 3) for line in lines if line.strip() != r"&\;\succ \\")
    assert made.count(r"\leftarrow") >= len(spec.updates) and r"every" in made
    assert order.count(r"\succ") == len(spec.graph.graph["levels"]) - 1


def test_what_is_typeset_is_what_is_derived() -> None:
    spec = nlc.load("gated_delta_net")
    step = r"S &\leftarrow \alpha S\left(I - \beta k k^\top\right) + \beta v k^\top"
    assert step in spec._repr_latex_() and step in spec.derive(format="latex")
    assert spec.graph._repr_latex_().startswith(
        r"$\underset{\text{every token}}{\mathrm{S}} \;\succ"
    )
    assert nlc.load("attention")._repr_latex_() is None, "it has no update"
    assert nlc.loads("nlc: 1", "wrong.yaml")._repr_latex_() is None


# ------------------------------------------------------------------------------------- derivations


def test_a_derivation_is_a_text() -> None:
    spec = nlc.load("gated_delta_net")
    made, latex = spec.derive(), spec.derive(format="latex")
    assert isinstance(made, str) and made.startswith("S, every token") and "\n" in made
    assert made + "" == str(made) and hash(made) == hash(str(made))
    assert made._repr_latex_() == latex == latex._repr_latex_()
    assert not hasattr(made, "_repr_html_"), "notebooks would show it in place of the LaTeX"
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(other) is Derivation and (other, other.latex) == (made, made.latex)
    assert spec.derive("S").latex == spec.derive("S", "latex")


_PARSER = MathTextParser("agg")
_PLAIN = {r"\lVert": r"\Vert", r"\rVert": r"\Vert", r"\tfrac": r"\frac"}


def formulas(latex: str) -> list[str]:
    """Each side of each line of the derivation, and the mathematics within its words."""
    out = []
    for line in latex.splitlines():
        if line.startswith(("%", r"\begin", r"\end")) or not line.strip():
            continue
        left, right, *why = line.strip().removesuffix(r"\\").split("&")
        out += [left, right, *re.findall(r"\$([^$]*)\$", " ".join(why))]
    return out


@pytest.mark.parametrize("name", NAMES)
def test_latex_can_be_set(name: str) -> None:
    """By matplotlib, which knows the same rules: braces, commands, no second script on one symbol."""
    spec = nlc.loads(SPECS[name])
    found = formulas(spec.derive().latex) if spec.updates else []
    assert bool(found) == bool(spec.updates)
    for formula in found:
        text = re.sub(r"\\(left|right)(?![a-z])", "", formula.strip())
        for command, known in _PLAIN.items():
            text = text.replace(command, known)
        _PARSER.parse(f"${text}$")


# ----------------------------------------------------------------------------------------- reports


@pytest.mark.parametrize("name", ["hope", "attention", "adamw"])
def test_an_explanation(name: str) -> None:
    made = load(name).explain()
    shown = Markup(made._repr_html_())
    rows = [f for level in made.levels for f in level]
    assert shown.tags.count("tr") > len(rows)
    assert all(f.name in shown.text and f.kind in shown.text for f in rows)
    words = [word for word in str(made).split() if "─" not in word]
    assert all(word in shown.text for word in words)


def test_a_verification() -> None:
    checks = (
        Check(HOSTILE, 1e-12, 1e-10, True),
        Check("b", 1.0, 1e-10, False),
        Check("c", note="n"),
    )
    made = Verification("a", 0, {"d": HOSTILE}, checks)
    shown = Markup(made._repr_html_())
    assert shown.tags.count("tr") == 4 and "script" not in shown.tags
    for word in str(made).split():
        assert word in shown.text


def test_a_benchmark() -> None:
    cells = (
        Cell("reference", "forward", 16, seconds=1.0, runs=3, spread=0.1, peak=1 << 20),
        Cell("torch", "forward", 16, seconds=0.5, runs=3, note=HOSTILE),
        Cell("torch", "step", 16, status="skipped", note="too long"),
    )
    made = Benchmark(
        "a", False, {"d": 4}, 2, "float32", "cpu", 1, 0, 1.0, HOSTILE, ("a note",), cells
    )
    shown = Markup(made._repr_html_())
    assert shown.tags.count("tr") == 4 and "script" not in shown.tags
    for word in str(made).split():
        assert word in shown.text
