"""Typed System -> level graph: components, what each reads and when, and the order ≻ (paper, Def. 2).

Nodes are components (levels, and the slow weights of a token system), edges say who reads whom: the same tick's new
state, the state before the tick, or the held state of something slower. ``tools/draw`` documents the attributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod

import networkx as nx

from nlc.ir.expr import Expr, walk
from nlc.ir.notation import Notation
from nlc.ir.routes import Route
from nlc.ir.shapes import HEADS
from nlc.ir.system import Level, Rule, System
from nlc.ir.types import STEP, TOKEN, Clock, Dim, Dims, Like
from nlc.lib.rules import is_asked
from nlc.passes.cycles import level_of, within
from nlc.passes.simplify import simplify

SLOW = "weights"


@dataclass
class Reads:
    """What an expression needs of others, through flows: level -> {same-tick, previous-tick, held}."""

    levels: dict[str, set[str]] = field(default_factory=dict)
    weights: bool = False
    gradient: bool = False
    outer: set[str] = field(default_factory=set)  # levels on the outer loss

    def note(self, level: str, when: str) -> None:
        self.levels.setdefault(level, set()).add(when)

    def merge(self, other: Reads, delayed: bool = False) -> None:
        for level, whens in other.levels.items():
            for when in whens:
                self.note(level, "previous-tick" if delayed and when == "same-tick" else when)
        self.weights |= other.weights
        self.outer |= other.outer
        self.gradient |= other.gradient


@dataclass(frozen=True)
class Weight:
    """A slow weight: its name in the module, its axes as written and in numbers, and whether a linear layer's."""

    path: str
    dims: Dims
    head: bool
    sizes: tuple[int, ...] | None
    linear: bool = False


def values(weights: Iterable[Weight] | None) -> int | None:
    """How many numbers they are; None where one's sizes are not known."""
    return None if weights is None else _sum([w.sizes for w in weights])


def link(system: System) -> nx.DiGraph:
    """The level graph of a system without cycles."""
    graph = nx.DiGraph(system=system.name, context=system.context, levels=[], routes=system.routes)
    reads = {name: level_reads(system, level) for name, level in system.levels.items()}
    for name, level in system.levels.items():
        graph.add_node(name, **_component(system, level))
    taken = {*system.levels, *system.outer}
    slow = SLOW if SLOW not in taken else f"slow {SLOW}"
    if system.context == "tokens" and (
        system.modules
        or len(system.weights) > sum(len(level.states) for level in system.outer.values())
        or any(s.learned for s in system.states.values())
    ):
        graph.add_node(slow, **_slow_weights(system))
        for name in system.levels:
            graph.add_edge(name, slow, reads=("same-tick",), transfer=("backpropagation",))
    for name, level in system.outer.items():
        graph.add_node(name, **_outer(system, level))
        for other in system.levels:
            graph.add_edge(other, name, reads=("same-tick",), transfer=("backpropagation",))
    for name, level in system.levels.items():
        for weight in reads[name].outer:
            graph.add_edge(weight, name, reads=("held",), transfer=("generation",))
        for other, whens in reads[name].levels.items():
            if other != name:
                _edge(graph, system, other, name, whens)
        transfer = ["generation"] if reads[name].weights else []
        transfer += ["initialisation"] if any(s.learned for s in level.states) else []
        if transfer and slow in graph:
            graph.add_edge(slow, name, reads=("held",), transfer=tuple(transfer))
    graph.graph["slow"] = slow if slow in graph else None
    order(graph)
    return graph


def combine(tokens: nx.DiGraph, gradients: nx.DiGraph) -> nx.DiGraph:
    """A token system trained by a gradient or layer system: its slow weights are the tensor that the other trains.

    Memories like the tensor are of the weights that the system itself trains; what its other routes train has none.
    """
    slow = tokens.graph["slow"]
    weights = tokens.nodes[slow]["weights"] if slow else ()
    own = _own(gradients.graph["routes"], weights)
    clash = (set(tokens) - {slow}) & set(gradients)
    rename = {n: f"{gradients.graph['system']}.{n}" if n in clash else n for n in gradients}
    trained = next(n for n, d in gradients.nodes(data=True) if d["kind"] == "trained")
    graph = nx.DiGraph(
        system=f"{tokens.graph['system']} trained by {gradients.graph['system']}",
        context="tokens",
        levels=[],
        renamed=rename,
    )
    for n, data in tokens.nodes(data=True):
        if n != slow:
            graph.add_node(n, **data)
    for n, data in gradients.nodes(data=True):
        size = data["size"]
        if slow and data["kind"] == "trained":
            size = tokens.nodes[slow]["size"]
        elif slow and data["shape"].startswith("like("):
            size = values(own)
        graph.add_node(rename[n], **{**data, "size": size})
    for a, b, data in tokens.edges(data=True):
        if slow not in (a, b):
            graph.add_edge(a, b, **data)
        elif a == slow:
            graph.add_edge(rename[trained], b, **data)
    for a, b, data in gradients.edges(data=True):
        graph.add_edge(rename[a], rename[b], **data)
    for n, data in gradients.nodes(data=True):
        if data.get("reads_gradient"):
            for a in tokens.predecessors(slow) if slow else ():
                graph.add_edge(
                    a, rename[n], reads=("same-tick",), transfer=("backpropagation", "generation")
                )
    order(graph)
    return graph


def _own(routes: tuple[Route, ...], weights: tuple[Weight, ...]) -> tuple[Weight, ...] | None:
    """Those of the weights that a system itself trains; None where that hangs on more than sizes and names."""
    if not routes:
        return weights
    own = []
    for weight in weights:
        for route in routes:
            takes = _takes(route, weight)
            if takes is None:
                return None
            if takes:
                own += [weight] if route.rule is None else []
                break  # the first that takes it; what none takes nothing trains
    return tuple(own)


def _takes(route: Route, weight: Weight) -> bool | None:
    if route.modules or route.where or weight.sizes is None:
        return None
    dims = tuple(map(Dim.of, weight.sizes))
    return is_asked(weight.path, dims, route.names, route.kinds, weight.linear)


def order(graph: nx.DiGraph) -> None:
    """Numbers the levels, fastest first: by frequency, then by who needs whose state in the same tick."""
    depth: dict[str, int] = {}
    same = nx.DiGraph()
    same.add_nodes_from(graph)
    for a, b, data in graph.edges(data=True):
        if "same-tick" in data["reads"] and graph.nodes[a]["order"] == graph.nodes[b]["order"]:
            same.add_edge(a, b)
    for n in nx.topological_sort(same):
        depth[n] = max((depth[p] + 1 for p in same.predecessors(n)), default=0)
    keys = sorted({(graph.nodes[n]["order"], depth[n]) for n in graph})
    graph.graph["levels"] = [
        [n for n in graph if (graph.nodes[n]["order"], depth[n]) == key] for key in keys
    ]
    for number, members in enumerate(graph.graph["levels"], 1):
        for n in members:
            graph.nodes[n]["level"] = number


# ---------------------------------------------------------------------------------------------------- reads


def level_reads(system: System, level: Level) -> Reads:
    """What one tick of a level needs."""
    seen: Seen = {}
    total, base = Reads(), STEP if system.trains else TOKEN
    for e in level.expressions:
        total.merge(_reads(system, e, level.clock, seen))
    for clock in level.clocks:
        if clock.name:  # asked in every tick
            total.merge(_flow_reads(system, clock.marks, base, seen))
    if level.memory.kind == "cache":
        for key in ("key", "value"):
            total.merge(_flow_reads(system, f"{level.name}.{key}", base, seen))
    for state in level.states:
        if state.init is not None and not state.learned:
            for node in walk(state.init):
                if node.op == "state":
                    owner = level_of(system, node.attr[0])
                    held = system.levels[owner].clock.held_for(level.clock)
                    total.note(owner, "held" if held else "previous-tick")
    return total


Seen = dict[tuple[str, Clock], Reads]


def _flow_reads(system: System, name: str, clock: Clock, seen: Seen) -> Reads:
    if (name, clock) not in seen:
        seen[name, clock] = Reads()  # a flow that reads its own past adds nothing to itself
        seen[name, clock] = _reads(system, system.flows[name].expr, clock, seen)
    return seen[name, clock]


def _reads(system: System, e: Expr, clock: Clock, seen: Seen) -> Reads:
    """``clock``: the reader's; what is gathered over a period is read as it ticks."""
    out = Reads()
    stack = [(e, clock, False)]
    while stack:
        node, clock, delayed = stack.pop()
        if node.op == "state" and node.attr[1] not in ("var", "base"):
            owner = level_of(system, node.attr[0])
            when = "same-tick" if node.attr[1] == "now" and not delayed else "previous-tick"
            out.note(owner, "held" if system.levels[owner].clock.held_for(clock) else when)
        elif node.op == "attend":
            out.note(node.attr[0], "same-tick")
        elif node.op == "flow":
            out.merge(_flow_reads(system, node.attr, clock, seen), delayed)
        elif node.op == "weight":
            owner = next(
                (n for n, x in system.outer.items() if node.attr in (s.name for s in x.states)),
                None,
            )
            out.weights |= owner is None
            out.outer |= {owner} if owner else set()
        elif node.op == "gradient":
            out.note(system.gradients[node.attr].level, "previous-tick")
        elif node.op == "g" or (node.op == "input" and system.trains):
            out.gradient = True  # or what a layer's samples bring with it
        inside = within(node, clock)
        stack.extend((a, inside, delayed or node.op == "delay") for a in node.args)
    return out


def _edge(graph: nx.DiGraph, system: System, source: str, reader: str, whens: set[str]) -> None:
    reads, base = tuple(sorted(whens, reverse=True)), TOKEN
    if system.levels[source].memory.kind == "cache":
        transfer = "non-parametric"
    else:
        data = [f"{reader}.{k}" for k in ("key", "value") if f"{reader}.{k}" in system.flows]
        makes = any(source in _flow_reads(system, name, base, {}).levels for name in data)
        transfer = "generation" if makes else "conditioning"
    graph.add_edge(source, reader, reads=reads, transfer=(transfer,))


# ---------------------------------------------------------------------------------------------------- nodes


def _route(route: Route) -> str:
    """Its name, and as what it sees a tensor."""
    return f"{route.name} as {route.view.text}" if route.view else route.name


def _component(system: System, level: Level) -> dict:
    kind = {"cache": "cache", "trained": "trained"}.get(level.memory.kind, "memory")
    shapes = [_shape(s.dims, level.head) for s in level.states]
    n = Notation(system, own=level.name, plain_base=True)
    rule = None
    if level.rule is not None:
        rule = _called(level.rule, n)
        rule = f"{rule}, retain {n.text(level.retain)}" if level.retain is not None else rule
    elif level.update is not None:
        rule = "explicit update"
    if kind == "trained" and system.routes:
        plain = Notation(system)
        routes = [(r, _called(r.rule, plain) if r.rule else rule) for r in system.routes]
        rule = "; ".join(f"{_route(r)}: {called}" for r, called in routes)
    return {
        "clock": level.clock.valued,
        "order": level.clock.order,
        "kind": kind,
        "shape": ", ".join(shapes) if kind != "cache" else level.memory.text,
        "size": _total(system, [(s.dims, level.head) for s in level.states])
        if kind != "cache"
        else None,
        "objective": n.text(simplify(level.objective)) if level.objective is not None else None,
        "rule": rule,
        "doc": level.doc,
        "reads_gradient": level_reads(system, level).gradient,
    }


def _called(rule: Rule, n: Notation) -> str:
    """``gd(lr=β)``."""
    args = (f"{k}={n.text(e)}" for k, e in rule.args.items() if k != "exact" or e.attr)
    return f"{rule.name}({', '.join(args)})"


def _outer(system: System, level: Level) -> dict:
    """A level on the outer loss: slow weights with a period, and perhaps a rule, of their own."""
    rule = level.rule
    called = rule and _called(rule, Notation(system))
    return {
        "clock": level.clock.valued,
        "order": level.clock.order,
        "kind": "weights",
        "shape": ", ".join(_shape(s.dims, False) for s in level.states),
        "size": _total(system, [(s.dims, False) for s in level.states]),
        "objective": "loss",
        "rule": called or "an optimizer outside the spec",
        "doc": level.doc,
        "reads_gradient": True,
    }


def _slow_weights(system: System) -> dict:
    own = {s.name for level in system.outer.values() for s in level.states}
    starts = [s for s in system.states.values() if s.learned]
    modules = len({m.path for m in system.modules.values()}) + len(system.weights) - len(own)
    counted = ((modules, "module"), (len(starts), "start"))
    weights = slow_weights(system)
    return {
        "clock": str(STEP),
        "order": STEP.order,
        "kind": "weights",
        "shape": ", ".join(f"{n} {what}{'s' * (n > 1)}" for n, what in counted if n),
        "size": values(weights),
        "objective": "loss",
        "rule": "an optimizer outside the spec",
        "doc": "",
        "reads_gradient": True,
        "weights": weights,
    }


def slow_weights(system: System) -> tuple[Weight, ...]:
    """Those of modules, of the spec's own, and what memories start from, without levels on the outer loss."""
    modules = {m.path: m for m in system.modules.values()}  # some are used twice
    found = [
        (f"{m.path}.{name}", dims, m.head, m.function == "linear" and not m.head)
        for m in modules.values()
        for name, dims in m.shapes.items()
    ]
    own = {s.name for level in system.outer.values() for s in level.states}
    found += [(w.path, w.dims, w.head, False) for w in system.weights.values() if w.path not in own]
    found += [
        (f"{s.name}.init", s.dims, system.levels[s.level].head, False)
        for s in system.states.values()
        if s.learned
    ]
    return tuple(
        Weight(path, dims, head, _sizes(system, dims, head), linear)
        for path, dims, head, linear in found
    )


def _shape(dims: Dims, head: bool) -> str:
    if dims and isinstance(dims[0], Like):
        return str(dims[0])
    return "[" + ", ".join((["heads"] if head else []) + [str(d) for d in dims]) + "]"


def _total(system: System, parts: list[tuple[Dims, bool]]) -> int | None:
    return _sum([_sizes(system, dims, head) for dims, head in parts])


def _sizes(system: System, dims: Dims, head: bool) -> tuple[int, ...] | None:
    """In numbers, heads first, at the spec's hypers; None where they are a trained tensor's, or hang on no hyper."""
    every = ((HEADS,) if head else ()) + dims
    if any(isinstance(d, Like) for d in every):
        return None
    try:
        return tuple(int(d.evaluate(system.sizes)) for d in every)
    except (KeyError, ArithmeticError):
        return None


def _sum(shapes: list[tuple[int, ...] | None]) -> int | None:
    return None if None in shapes else sum(map(prod, shapes))
