"""Which part of a token system must run token by token, and which can be computed for all tokens at once.

An expression is *recurrent* if it depends on a memory's state or on its own past. What reads a state directly, and
what a state's step needs back, runs in the loop over tokens; the rest before it or after it (design §2.3: one
mechanism for everything that can be hoisted).
"""

from __future__ import annotations

from collections.abc import Iterable

import networkx as nx

from nlc.ir.expr import Expr, walk
from nlc.ir.system import System
from nlc.ir.update import Update

_CARRIED = frozenset("state gradient through variable gathered held ticks recent windowed".split())


class Recurrence:
    """Answers for one system; expressions are typed and read flows by name."""

    def __init__(self, system: System, updates: dict[str, Update], gathered: Iterable[Expr] = ()):
        self.system, self.gathered = system, list(gathered)
        self.loops = _loops_of_flows(system)
        self._flow: dict[str, bool] = {}
        self._node: dict[int, bool] = {}
        self._alive: list[Expr] = []
        self.feedback = self._feedback(updates)

    def recurrent(self, e: Expr) -> bool:
        """Whether ``e`` depends on a state or on its own past."""
        if id(e) in self._node:
            return self._node[id(e)]
        self._alive.append(e)
        for node in walk(e):
            if id(node) not in self._node:
                self._node[id(node)] = (
                    node.op in _CARRIED
                    or (node.op == "index" and self._counted(node))
                    or (node.op == "flow" and self.flow(node.attr))
                    or any(self._node[id(a)] for a in node.args)
                )
        return self._node[id(e)]

    def _counted(self, node: Expr) -> bool:
        """Whether it is a count that differs from sequence to sequence: ``t`` of a declared clock."""
        level = node.attr[1]
        return (
            node.attr[0] == "t" and level is not None and bool(self.system.levels[level].clock.name)
        )

    def flow(self, name: str) -> bool:
        if name not in self._flow:
            self._flow[name] = name in self.loops
            if not self._flow[name]:
                self._flow[name] = self.recurrent(self.system.flows[name].expr)
        return self._flow[name]

    def reads_state(self, e: Expr) -> bool:
        """Whether this node must stand where the state stands: it takes a state, or a matrix made of one."""
        return any(
            a.op in ("state", "gathered") or (self._inside(a) and a.type.rank >= 2) for a in e.args
        )

    def _inside(self, e: Expr) -> bool:
        return e.op != "flow" and self.recurrent(e) and self.reads_state(e)

    def needed(self, e: Expr) -> set[str]:
        """Recurrent flows that ``e`` reads, directly or through others."""
        out: set[str] = set()
        stack = [e]
        while stack:
            for node in walk(stack.pop()):
                if node.op == "flow" and node.attr not in out and self.flow(node.attr):
                    out.add(node.attr)
                    stack.append(self.system.flows[node.attr].expr)
        return out

    def _feedback(self, updates: dict[str, Update]) -> set[str]:
        """Recurrent flows that a step or a read of a state needs, so that they cannot wait until after the loop."""
        out = set(self.loops)
        for name in self.loops:
            out |= self.needed(self.system.flows[name].expr)
        for update in updates.values():
            for e in update.expressions:
                out |= self.needed(e)
        for e in self.gathered:
            out |= self.needed(e)
        written = [f.expr for f in self.system.flows.values()] + list(self.system.output.values())
        for e in written:
            for node in walk(e):
                if node.op != "flow" and self.recurrent(node) and self.reads_state(node):
                    out |= self.needed(node)
        return out


def _loops_of_flows(system: System) -> set[str]:
    """Flows that read their own past: ``h: tanh(prev(h) + x)``."""
    graph = nx.DiGraph()
    for name, flow in system.flows.items():
        graph.add_node(name)
        for node in walk(flow.expr):
            if node.op == "flow":
                graph.add_edge(node.attr, name)
    return {
        n
        for part in nx.strongly_connected_components(graph)
        for n in part
        if len(part) > 1 or graph.has_edge(n, n)
    }
