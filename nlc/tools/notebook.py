"""What notebooks show of a spec, of its level graph and of its derivation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import networkx as nx

from nlc.base.render import render_report
from nlc.tools import html

if TYPE_CHECKING:
    from nlc.pipeline import Spec


class LevelGraph(nx.DiGraph):
    """A level graph (``tools/draw`` documents it) that notebooks draw."""

    def _repr_svg_(self) -> str:
        from nlc.tools.draw import draw

        return draw(self, "svg")

    def _repr_html_(self) -> str:
        return html.image(
            self._repr_svg_(), f"the levels of {self.graph.get('system', 'a system')}"
        )

    def _repr_latex_(self) -> str:
        """The order alone, the clock under each level: S ≻ m, v ≻ W."""
        levels = []
        for names in self.graph["levels"]:
            names = [n for n in names if "clock" in self.nodes[n]]
            said = r",\, ".join(rf"\mathrm{{{_escaped(n)}}}" for n in names)
            clock = _escaped(self.nodes[names[0]]["clock"]) if names else ""
            levels.append(rf"\underset{{\text{{{clock}}}}}{{{said}}}")
        return "$" + r" \;\succ\; ".join(levels) + "$"


class Derivation(str):
    """A derivation as text, or as LaTeX where that was asked for; notebooks typeset it."""

    latex: str  # what `nlc derive --format latex` prints

    def __new__(cls, text: str, latex: str) -> Derivation:
        made = super().__new__(cls, text)
        made.latex = latex
        return made

    def __getnewargs__(self) -> tuple[str, str]:
        return str(self), self.latex

    def _repr_latex_(self) -> str:
        return self.latex


def spec_html(spec: Spec) -> str:
    """The text in colours, then what is wrong with it, or its levels with their updates."""
    report = spec.check()
    parts = [html.folded(spec.source.name, highlighted(spec.source.text))]
    if report.diagnostics:
        parts.append(html.pre(render_report(report)))
    if not report.has_errors:
        system = spec.system
        doc = f": {system.doc}" if system.doc else ""
        head = html.paragraph(f"{system.name}, a system over {system.context}{doc}")
        columns = ["", "level", "clock", "shape", "objective", "rule", "update"]
        parts = [head, *parts, html.table(columns, _rows(spec))]
    return f"<div>{''.join(parts)}</div>"


def spec_latex(spec: Spec) -> str | None:
    """Every update, fastest first, beside its level and clock, ≻ between; None of a spec with mistakes."""
    from nlc.tools.derivation import equations

    if spec.check().has_errors:
        return None
    graph, updates = spec.graph, spec.updates
    blocks = []
    for names in graph.graph["levels"]:
        lines = []
        for name in (n for n in names if n in updates):
            said = rf" && \text{{{_escaped(name)}, {_escaped(graph.nodes[name]['clock'])}}}"
            for left, relation, right in equations(spec.system, updates[name], latex=True):
                lines.append(f"  {left} &{relation} {right}{said}")
                said = ""
        if lines:
            blocks.append(" \\\\\n".join(lines))
    if not blocks:
        return None
    body = " \\\\\n  &\\;\\succ \\\\\n".join(blocks)
    return f"\\begin{{align*}}\n{body}\n\\end{{align*}}"


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%")


def highlighted(text: str) -> str:
    """A spec in colours, as markup that needs no style sheet."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter

    from nlc.tools.lexer import NlcLexer, NlcStyle

    formatter = HtmlFormatter(style=NlcStyle, noclasses=True, nobackground=True)
    return highlight(text, NlcLexer(stripnl=False), formatter)


def _rows(spec: Spec) -> Iterator[list[str]]:
    """A row for each component, fastest first."""
    from nlc.tools.derivation import update_lines

    graph, updates = spec.graph, spec.updates
    for number, names in enumerate(graph.graph["levels"], 1):
        for name in names:
            node = graph.nodes[name]
            said = [node.get(key) or "" for key in ("clock", "shape", "objective", "rule")]
            update = update_lines(spec.system, updates[name]) if name in updates else []
            yield [str(number), name, *said, "\n".join(update)]
