"""System -> System: the inputs that count the rows of embeddings, which are whole numbers and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nlc.base.diagnostics import Label, Report
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.system import System
from nlc.ir.types import show_dims
from nlc.passes.resolve.terms import quoted


def indices(system: System, report: Report) -> System:
    """Every embedding reads an input itself, also where the text names it otherwise; NLC307 where it cannot.

    Half precision has no whole numbers above 256, so an index is not a number anywhere else.
    """
    if not any(m.function == "embedding" for m in system.modules.values()):
        return system
    return _Indices(system, report).run()


class _Indices:
    def __init__(self, system: System, report: Report):
        self.system, self.report = system, report
        self.found: dict[str, Expr] = {}  # the first embedding by each input

    def run(self) -> System:
        system = self.system.map(self._direct)
        names = {n: e.attr for n in system.flows if (e := _named(self.system, n)) is not None}
        names = {n: i for n, i in names.items() if i in self.found}
        flows = {n: f for n, f in system.flows.items() if n not in names}
        system = replace(system, flows=flows)
        for node in _read(system):
            name = node.attr if node.op == "input" else names.get(node.attr)
            if node.op in ("input", "flow") and name in self.found:
                self._wrong(
                    f"`{name}` is an index, and no number",
                    node,
                    "a value is read here",
                    self.found[name],
                    [
                        f"read a row that it counts, or give the number as another input, `{name}_2: []`"
                    ],
                )
        inputs = dict(system.inputs)
        for name, node in self.found.items():
            item, rows = inputs[name], system.modules[node.attr].rows
            if item.dims:
                self.report.add(
                    "NLC307",
                    f"the index `{name}` is one number a token",
                    item.span,
                    f"this is {show_dims(item.dims)}",
                    related=[Label(node.span, "it is read here")] if node.span else [],
                    helps=[f"declare it as `{name}: []`"],
                )
            inputs[name] = replace(item, dims=(), head=False, rows=rows)
        if len(inputs) - len(self.found) < 2:  # what is left is no operator's (language §4)
            inputs = {n: replace(item, head=False) for n, item in inputs.items()}
        return replace(system, inputs=inputs)

    def _direct(self, e: Expr) -> Expr:
        return rewrite(e, self._embedding)

    def _embedding(self, node: Expr) -> Expr | None:
        if node.op != "embedding" or node.attr not in self.system.modules:
            return None
        index = _index(self.system, node)
        if index.op != "input":
            self._wrong(
                f"`embedding` reads an input, not `{quoted(node.args[0])}`",
                node.args[0],
                "whole numbers come from outside",
                None,
                [
                    "declare one, as `i: []` under `inputs`, and compute with what the embedding gives"
                ],
            )
            return None
        first = self.found.setdefault(index.attr, node)
        rows = [self.system.modules[n.attr].rows for n in (first, node)]
        if rows[0] != rows[1]:
            self._wrong(
                f"`{index.attr}` counts {rows[0]} rows and {rows[1]} rows",
                node,
                "an index has one limit",
                first,
                ["give both embeddings as many rows, or one of them an input of its own"],
            )
        return node.with_args((index.at(node.args[0].span), *node.args[1:]))

    def _wrong(
        self, message: str, node: Expr, label: str, other: Expr | None, helps: list[str]
    ) -> None:
        related = [Label(other.span, "it is read here")] if other is not None and other.span else []
        span = node.span or self.system.span
        self.report.add("NLC307", message, span, label, related=related, helps=helps)


def counted(system: System) -> set[str]:
    """The inputs that embeddings read."""
    found: set[str] = set()

    def note(e: Expr) -> Expr:
        indices = [_index(system, n) for n in walk(e) if n.op == "embedding"]
        found.update(str(i.attr) for i in indices if i.op == "input")
        return e

    system.map(note)
    return found


def _index(system: System, embedding: Expr) -> Expr:
    """What an embedding reads, under its own name."""
    index = embedding.args[0]
    return (_named(system, index.attr) or index) if index.op == "flow" else index


def _named(system: System, flow: str) -> Expr | None:
    """The input that a flow is another name of."""
    seen: set[str] = set()
    while flow in system.flows and flow not in seen:
        seen.add(flow)
        item = system.flows[flow]
        if item.level is not None:
            return None
        if item.expr.op == "input":
            return item.expr
        flow = item.expr.attr if item.expr.op == "flow" else ""
    return None


def _read(system: System) -> Iterator[Expr]:
    """Every node of every expression, but for what embeddings read."""
    found: list[Expr] = []

    def note(e: Expr) -> Expr:
        found.append(e)
        return e

    system.map(note)
    for e in found:
        inside = {id(n.args[0]) for n in walk(e) if n.op == "embedding"}
        yield from (n for n in walk(e) if id(n) not in inside)
