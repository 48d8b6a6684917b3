"""SpecTree -> System: every name is looked up, every read of a state gets its time, every call its operator.

What a level's name reads is decided in ``names`` and nowhere else (language §2): inside its own objective the variable,
inside its own rule the base, in its own key and value nothing (an error), elsewhere the new state of the tick.
"""

from __future__ import annotations

from dataclasses import replace

from nlc.base.diagnostics import Report
from nlc.ir.expr import Expr, walk
from nlc.ir.system import Flow, Input, Level, Memory, System, Weight
from nlc.ir.types import Clock, Dim, Dims
from nlc.passes.resolve.bundles import one
from nlc.passes.resolve.checks import (
    check_level,
    check_starts,
    check_whole,
    right_context,
    unread,
    warn_unused,
    without_unread,
)
from nlc.passes.resolve.constants import settle
from nlc.passes.resolve.level import flows_of, initial, resolve_level
from nlc.passes.resolve.library import Empty, Library
from nlc.passes.resolve.memory import dims_of, resolve_memory
from nlc.passes.resolve.routes import resolve_routes
from nlc.passes.resolve.rule import right_objectives
from nlc.passes.resolve.scope import SAMPLES, Scope, error
from nlc.passes.resolve.sizes import size
from nlc.passes.resolve.terms import Place, Terms
from nlc.passes.resolve.use import resolve_uses
from nlc.syntax.tree import SpecTree


def resolve(tree: SpecTree, report: Report, library: Library | None = None) -> System:
    """``library`` has the systems that the spec may name as a rule or in ``use``."""
    tree = right_context(tree, report)
    scope = Scope(tree, report)
    number = tree.heads is not None and all(n.op in ("num", "neg") for n in walk(tree.heads))
    if number and size(scope, tree.heads, "the number of heads") is None:
        tree = replace(tree, heads=error(tree.heads.span))
        scope = Scope(tree, report)  # what is made of it is not judged
    right_objectives(scope)
    settle(scope)
    heads = None
    if tree.heads is not None:
        heads = size(scope, tree.heads, "the number of heads")
        if heads is None:
            scope.blamed.add(Dim.of("heads"))
    memories: dict[str, Memory] = {}
    terms = Terms(scope, memories, library or Empty())
    for level in scope.levels.values():
        if (memory := resolve_memory(level, terms)) is not None:
            memories[level.name] = memory
    shapes = {name: _dims(item.shape, terms) for name, item in scope.weights.items()}
    scope.shapeless = {name for name, dims in shapes.items() if dims is None}
    check_whole(scope)
    resolve_uses(terms)
    flows: dict[str, Flow] = {}
    for name, let in scope.lets.items():
        flows |= flows_of(terms, let, Place(name, reader=name))
    unit = "step" if scope.gradients else "token"
    for name, item in scope.clocks.items():
        marks = Clock("every", unit, name=name).marks
        flow = one(terms, terms.resolve(item.expr, Place(f"clocks.{name}")))
        flows[marks] = Flow(marks, flow, item.span)
    levels: dict[str, Level] = {}
    for name, level in scope.levels.items():
        check_level(level, memories.get(name), scope)
        resolved = resolve_level(level, terms, flows)
        if resolved is not None:
            levels[name] = resolved
    check_starts(levels, scope)
    system = System(
        source=tree.source,
        name=tree.system.text,
        context=tree.context.text,
        span=tree.system.span,
        hypers=scope.hypers,
        heads=heads,
        inputs=_inputs(terms),
        outputs={f.name: _dims(f.expr, terms) for f in tree.outputs},
        weights=_weights(terms, shapes),
        modules=terms.modules,
        flows=_ordered(flows),
        levels=levels,
        output=_output(terms),
        eval_at=_eval_at(terms),
        doc=tree.doc.text if tree.doc else "",
        ref=tree.ref.text if tree.ref else "",
        routes=resolve_routes(terms) if scope.gradients else (),
        uses=terms.uses,
    )
    hypers = {n: replace(h, static=n in scope.static) for n, h in scope.hypers.items()}
    system = replace(system, hypers=hypers)
    if report.has_errors:
        return system  # what is unused may be so for a mistake
    names = unread(scope)
    warn_unused(scope, names)
    return without_unread(system, scope, names)


def _ordered(flows: dict[str, Flow]) -> dict[str, Flow]:
    """The flows in the order of the text, but each after those that it reads, if there is such an order."""
    reads = {
        name: [n.attr for n in walk(flow.expr) if n.op == "flow" and n.attr in flows]
        for name, flow in flows.items()
    }
    out: dict[str, Flow] = {}
    seen: set[str] = set()
    stack = [(name, False) for name in reversed(flows)]
    while stack:
        name, ready = stack.pop()
        if ready:
            out[name] = flows[name]
        elif name not in seen:
            seen.add(name)
            stack.append((name, True))
            stack += [(other, False) for other in reversed(reads[name])]
    return out


def _eval_at(terms: Terms) -> Expr | None:
    e = terms.scope.tree.eval_at
    if e is None or not terms.scope.gradients:
        return None
    return one(terms, terms.resolve(e, Place("eval_at")))


def _output(terms: Terms) -> dict[str, Expr]:
    tree, out = terms.scope.tree, {}
    names = {f.name: f.span for f in tree.outputs}
    for item in tree.output:
        name = item.name or next(iter(names), "y")
        out[name] = one(terms, terms.resolve(item.expr, Place(name)))
    missing = [n for n in names if n not in out]
    if tree.output and missing:
        terms.scope.report.add(
            "NLC102",
            f"`output` has no `{missing[0]}`, which `outputs` declares",
            names[missing[0]],
            "declared here",
            helps=[f"add `{missing[0]}: e` to `output`"],
        )
    return out


def _dims(e: Expr, terms: Terms) -> Dims | None:
    if e.op in ("list", "error"):
        return dims_of(terms, e.args) if e.op == "list" else None
    terms.say("NLC103", "sizes of a flow are a list", e, "write a list such as `[d]`")
    return None


def _inputs(terms: Terms) -> dict[str, Input]:
    """Several inputs in a system with heads are those of an operator: [B, T, H, n] (language §4)."""
    tree, scope = terms.scope.tree, terms.scope
    if scope.layers:
        return {n: Input(n, (d,), False, tree.context.span) for n, d in SAMPLES.items()}
    head = tree.heads is not None and len(tree.inputs) > 1
    found = {item.name: (item, _dims(item.expr, terms)) for item in tree.inputs}
    return {n: Input(n, dims, head, i.span) for n, (i, dims) in found.items() if dims is not None}


def _weights(terms: Terms, shapes: dict[str, Dims | None]) -> dict[str, Weight]:
    scope, out = terms.scope, {}
    for name, item in scope.weights.items():
        dims = shapes[name]
        place = Place(f"{name}.init", key="init")
        usual = item.init is None or (item.init.op, item.init.attr) == ("name", "learned")
        init = None if usual else initial(terms, item.init, place)
        head = item.per is not None and item.per.text == "head"
        if head and scope.tree.heads is None:
            message = "a weight per head needs a system with heads"
            scope.without_heads(message, item.per.span, "no `heads:` is declared")
        if dims is not None:
            out[name] = Weight(name, item.span, dims, head, init)
    return out
