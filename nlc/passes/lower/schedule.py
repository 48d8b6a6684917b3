"""The order of one tick: each thing after what it reads, reads of old states before the step that replaces them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx

from nlc.ir.expr import Expr
from nlc.ir.system import System
from nlc.ir.types import Clock


@dataclass(eq=False)
class Item:
    """Something to compute in one tick: a flow, a level's step (``step L``), its gradient where others read it
    (``gradient L``), what a slow level gathers (``gather …``), where a declared clock ticks (``clock …``), or a value
    to collect."""

    name: str
    exprs: list[Expr]
    clock: Clock  # when it happens: what it reads of something slower than that is held


def schedule(items: dict[str, Item], system: System) -> tuple[list[Item], set[str]]:
    """Items in an order in which each finds what it reads, and the states whose old value must be kept.

    Reading a state before the tick, or one that is held, asks to come before that state's step; where that cannot
    be, the value is kept.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(items)
    owner = {s.name: s.level for s in system.states.values()}
    gradients = {n: s.level if n in owner else n for n, s in system.gradients.items()}
    gradients = {n: g for n, g in gradients.items() if f"gradient {g}" in items}
    for name in items:
        if name.startswith("gradient "):
            level = name[9:] if name[9:] in system.levels else system.gradients[name[9:]].level
            graph.add_edge(name, f"step {level}")
    wishes: list[tuple[str, str, str]] = []
    for name, item in items.items():
        for e in item.exprs:
            for node in _tick(e):
                if node.op == "flow" and node.attr in items:
                    graph.add_edge(node.attr, name)
                elif node.op == "gradient" and node.attr in gradients:
                    graph.add_edge(f"gradient {gradients[node.attr]}", name)
                elif node.op == "gathered":
                    graph.add_edge(f"gather {node.attr}", name)
                elif node.op == "clock":
                    graph.add_edge(f"clock {node.attr}", name)
                elif node.op == "ticks" and node.attr[1] == "now":
                    clock, step = system.levels[node.attr[0]].clock, f"step {node.attr[0]}"
                    if clock.name:  # counted in its step, or known by its mask
                        graph.add_edge(f"clock {clock.name}" if clock.late else step, name)
                elif node.op == "index" and node.attr[0] == "t" and node.attr[1] is not None:
                    clock, step = system.levels[node.attr[1]].clock, f"step {node.attr[1]}"
                    if clock.name and not clock.late and step != name and step in items:
                        graph.add_edge(step, name)  # its count is carried, as a state is
                elif node.op == "state":
                    step = f"step {owner[node.attr[0]]}"
                    held = system.levels[owner[node.attr[0]]].clock.held_for(item.clock)
                    if node.attr[1] == "now" and step in items and step != name and not held:
                        graph.add_edge(step, name)
                    elif (node.attr[1] in ("prev", "base") or held) and step != name:
                        wishes.append((name, step, node.attr[0]))
    kept = set()
    for name, step, state in wishes:
        if step in items and not graph.has_edge(name, step):
            if nx.has_path(graph, step, name):
                kept.add(state)
            else:
                graph.add_edge(name, step)
    position = {name: i for i, name in enumerate(items)}
    ordered = nx.lexicographical_topological_sort(graph, key=lambda n: position[n])
    return [items[n] for n in ordered], kept


def _tick(e: Expr) -> Iterator[Expr]:
    """The nodes that are evaluated in this tick: a delayed expression was evaluated in the one before."""
    stack = [e]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.args[1:] if node.op == "delay" else node.args)
