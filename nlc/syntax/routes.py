"""An entry of ``applies_to`` -> a route: the rule, what is asked of a tensor, and as what it is seen."""

from __future__ import annotations

from nlc.base.diagnostics import Report, nearest
from nlc.ir.expr import Expr
from nlc.ir.routes import STEPS, pieces
from nlc.syntax.blocks import block
from nlc.syntax.math import parse_expr
from nlc.syntax.schema import Route
from nlc.syntax.tree import RouteTree, ViewTree
from nlc.syntax.values import Entry, Named, error, expression, without, word, words
from nlc.syntax.yamlnodes import Mapping, Scalar
from nlc.syntax.yamlplace import cut


def route(entry: Entry, given: Named, report: Report) -> RouteTree:
    """A rule alone is a route by the kind of tensor that its name says."""
    if not isinstance(entry.node, Mapping):
        rule = expression(entry, report)
        return RouteTree(given.name, given.span, rule or error(given.span))
    where = f"route `{cut(entry.key.text)}`"
    found = block(entry.node, Route, where, "a route", given.span, report)
    said = {key: words(found[key], report) for key in ("kinds", "names", "modules") if key in found}
    rule = expression(found["rule"], report) if "rule" in found else None
    return RouteTree(
        given.name,
        given.span,
        rule or error(given.span),
        where=_conditions(found["where"], report) if "where" in found else (),
        view=_view(found["view"], report) if "view" in found else None,
        keys={key: e.key.span for key, e in found.items()},
        **said,
    )


def _conditions(entry: Entry, report: Report) -> tuple[Expr, ...]:
    e = expression(entry, report, lists=True)
    if e is not None and e.op == "list" and not e.args:
        without(entry, entry.node.span, "list", report)
    return () if e is None else e.args if e.op == "list" else (e,)


def _view(entry: Entry, report: Report) -> ViewTree | None:
    """``view: split(0, heads) flatten(1:)``."""
    if word(entry, report) is None or not isinstance(entry.node, Scalar):
        return None
    text = entry.node.text
    if not text.strip():
        without(entry, entry.node.span, "text", report)
        return None
    try:
        parts = pieces(text)
    except ValueError:
        near = nearest(text.partition("(")[0].strip(), STEPS)
        report.add(
            "NLC104",
            f"{entry.called} cannot be `{cut(text)}`",
            entry.node.span,
            f"did you mean `{near}(…)`?" if near else "this is no view",
            helps=["views are `flatten(1:)`, `split(0, heads)`, `batch(:-2)`, one after the other"],
        )
        return None
    counts = [parse_expr(entry.node.part(*at), report) if at else None for *_, at in parts]
    steps = tuple((name, first, last) for name, first, last, _ in parts)
    return ViewTree(text.strip(), entry.node.span, steps, tuple(counts))
