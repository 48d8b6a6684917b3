"""The body of a loop as a graph: who reads whom, within a tick and from the tick before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import networkx as nx

from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.program import Let, Loop
from nlc.ir.types import TOKEN


@dataclass(eq=False)
class Node:
    """A statement of the tick; in ``expr`` what the loop carries are ``carry`` leaves ``(name, prev | new)``."""

    index: int
    let: Let
    expr: Expr
    _known: tuple[Expr | None, dict[str, tuple]] = field(default=(None, {}), init=False, repr=False)

    @property
    def guarded(self) -> bool:
        return self.let.when is not None

    def carries(self) -> tuple[tuple[str, str], ...]:
        """What it reads of the carried variables, and of which tick."""
        return self._leaves("carry")

    def reads(self) -> tuple[str, ...]:
        """The plain variables that it reads."""
        return self._leaves("var")

    def _leaves(self, op: str) -> tuple:
        """Found once for an expression, since every statement asks every other."""
        if self._known[0] is not self.expr:
            leaves = [n for n in walk(self.expr) if not n.args]
            found = {x: tuple(n.attr for n in leaves if n.op == x) for x in ("carry", "var")}
            self._known = self.expr, found
        return self._known[1][op]


@dataclass(frozen=True)
class Blocked:
    """Why some carried variables cannot leave the loop over tokens, and the expression that is the reason."""

    why: str
    expr: Expr | None = None
    linear: bool = False  # the step is linear in what is carried, all the same


@dataclass
class Body:
    """``steps``: the statement that gives a carried variable its value each tick; without one it is ``steady``:
    it changes at boundaries alone. ``blocked``: what is carried and cannot be computed for many tokens at once.
    """

    loop: Loop
    nodes: list[Node] = field(default_factory=list)
    assigns: dict[str, list[Node]] = field(default_factory=dict)
    steps: dict[str, Node] = field(default_factory=dict)
    carried: dict[str, Expr] = field(default_factory=dict)  # its leaf, for its type
    inlined: dict[str, Expr] = field(
        default_factory=dict
    )  # matrices of a tick, which are never stored
    token: dict[str, bool] = field(
        default_factory=dict
    )  # by variable: has it a value for each token?
    blocked: dict[str, Blocked] = field(default_factory=dict)
    together: set[str] = field(default_factory=set)  # what reads these stands with them
    derived: set[str] = field(default_factory=set)  # variables made on the way
    shifted: dict[str, Expr] = field(
        default_factory=dict
    )  # of a value for the next tick: the one before
    collected: dict[str, str] = field(
        default_factory=dict
    )  # states of loops, where each tick's is kept

    def __post_init__(self) -> None:
        firsts = {n for x in self.loop.first for n in x.names}
        assigned = {n for x in self.loop.body for n in x.names}
        names = {*self.loop.carries, *(firsts & assigned)}
        self._parse(names)
        self._steady(names)
        self._inline()

    def _parse(self, names: set[str]) -> None:
        seen: set[str] = set()
        for i, let in enumerate(self.loop.body):
            late = frozenset(seen)

            def rule(n: Expr, late: frozenset[str] = late) -> Expr | None:
                if n.op != "var" or n.attr not in names:
                    return None
                self.carried.setdefault(n.attr, n)
                return replace(n, op="carry", attr=(n.attr, "new" if n.attr in late else "prev"))

            node = Node(i, let, rewrite(let.expr, rule))
            self.nodes.append(node)
            for name in let.names:
                if name in names:
                    self.assigns.setdefault(name, []).append(node)
                    if not node.guarded:
                        if name in self.steps:
                            self.block(name, "it changes more than once a tick", let.expr)
                        self.steps[name] = node
                        seen.add(name)

    def _steady(self, names: set[str]) -> None:
        """What changes at boundaries alone must be read in between them only, what else, in the order of the tick."""
        for name, nodes in self.assigns.items():
            starts = [n.index for n in nodes if n.guarded and n.let.when.phase == "start"]
            ends = [n.index for n in nodes if n.guarded and n.let.when.phase == "end"]
            step = self.steps[name].index if name in self.steps else None
            if step is not None and (any(i > step for i in starts) or any(i < step for i in ends)):
                self.block(name, "its boundary is not at the end of the tick", nodes[0].let.expr)
            for reader in self.nodes:
                if name not in {c for c, _ in reader.carries()}:
                    continue
                i = reader.index
                early = reader.guarded and reader.let.when.phase == "start"
                late = reader.guarded and not early
                wrong = (
                    (late and step is not None and i < step)
                    or (early and step is not None and i > step)
                    or (not reader.guarded and any(i < j for j in starts))
                    or (not reader.guarded and any(i > j for j in ends))
                )
                if wrong:
                    self.block(name, "what reads it sees both sides of a boundary", reader.let.expr)
        for node in self.nodes:  # the number of the tick is known at boundaries alone
            counts = self.loop.counter in set(node.reads()) if self.loop.counter else False
            if counts and not node.guarded:
                for name in self._behind(node):
                    self.block(name, "it counts tokens", node.let.expr)

    def _behind(self, node: Node) -> Iterable[str]:
        """The carried variables that a statement is a part of."""
        mine = [n for n in node.let.names if n in self.carried or n in self.assigns]
        return mine or [c for c, _ in node.carries()] or list(self.assigns)

    def _inline(self) -> None:
        self.token = {inner: True for inner in self.loop.slices.values()}
        self.token |= {name: False for name in self.loop.carries if name not in self.assigns}
        for node in self.nodes:
            names = node.let.names
            if any(n in self.assigns for n in names):
                for n in names:
                    self.token.setdefault(
                        n, n in self.steps or (n not in self.assigns and not node.guarded)
                    )
                if not node.guarded and len(names) == 1:
                    node.expr = self.written_out(node.expr)
                continue
            node.expr = self.written_out(node.expr)
            moves = self.moving(node.expr) and not node.guarded
            for n in names:
                self.token[n] = moves
            collected = names[0] in self.loop.collects.values()
            if moves and node.let.expr.type.rank >= 2 and len(names) == 1 and not collected:
                self.inlined[names[0]] = node.expr

    def written_out(self, e: Expr) -> Expr:
        """``e`` with the matrices of the tick written out."""
        return rewrite(e, lambda n: self.inlined.get(n.attr) if n.op == "var" else None)

    def moving(self, e: Expr) -> bool:
        """Whether it has a value for each token, and not one for all of a tile."""
        return any(
            (
                n.op == "var"
                and self.token.get(n.attr, n.type.clock == TOKEN and n.type.dtype != "int")
            )
            or (n.op == "carry" and n.attr[0] in self.steps)
            or n.op in ("read", "spread")
            for n in walk(e)
        )

    def block(self, name: str, why: str, e: Expr | None = None, linear: bool = False) -> None:
        """The first reason stays."""
        self.blocked.setdefault(name, Blocked(why, e, linear))

    def whole(self, e: Expr) -> list[str]:
        """Running matrices that it reads other than at a vector."""
        held: set[int] = set()
        for n in walk(e):
            if n.op == "matmul":
                a, b = n.args
                for state, other in ((a, b), (b, a)):
                    inner = state.args[0] if state.op == "T" else state
                    if inner.op == "carry" and other.type.rank == 1:
                        held.add(id(inner))
        carried = (n for n in walk(e) if n.op == "carry" and n.type.rank >= 2)
        return [n.attr[0] for n in carried if n.attr[0] in self.steps and id(n) not in held]

    def read_outside(self, part: list[Node]) -> set[str]:
        """The variables that other statements read, or what comes after the loop."""
        inside = {x.index for x in part}
        out = set(self.loop.collects.values())
        for x in self.kept:
            if x.index not in inside:
                out |= set(x.reads())
        return out

    # -------------------------------------------------------------------------------------------- components

    @property
    def kept(self) -> list[Node]:
        """The statements that are not written into others."""
        return [n for n in self.nodes if n.let.names[0] not in self.inlined]

    def components(self) -> list[list[Node]]:
        """Statements that must stand together, each group after those that it reads."""
        graph = nx.DiGraph()
        nodes = self.kept
        graph.add_nodes_from(n.index for n in nodes)
        made = {name: n for n in nodes for name in n.let.names if name not in self.assigns}
        for n in nodes:
            together: list[Node] = []
            for name in n.reads():
                if name in made and made[name] is not n:
                    graph.add_edge(made[name].index, n.index)
                    if n.guarded and not self.token[name]:
                        together.append(made[name])
            for name, _ in n.carries():
                owners = self.assigns.get(name, [])  # none: it never changes
                graph.add_edges_from((o.index, n.index) for o in owners)
                steady = name not in self.steps
                stuck = name in self.blocked or name in self.together
                if n.guarded or steady or stuck:
                    together += owners
            for name in n.let.names:
                together += self.assigns.get(name, ())
            if any(name in self.steps for name in n.let.names):  # as weights read their momentum
                together += (x for name in self.whole(n.expr) for x in self.assigns[name])
            for other in together:
                graph.add_edge(n.index, other.index)
                graph.add_edge(other.index, n.index)
        return _ordered(graph, {n.index: n for n in nodes})


def _ordered(graph: nx.DiGraph, nodes: dict[int, Node]) -> list[list[Node]]:
    """Strongly connected parts, each after those that it reads, in the order of the tick where they are free."""
    whole = nx.condensation(graph)
    first = {c: min(whole.nodes[c]["members"]) for c in whole}
    order = nx.lexicographical_topological_sort(whole, key=lambda c: first[c])
    return [[nodes[i] for i in sorted(whole.nodes[c]["members"])] for c in order]


def inner_components(
    nodes: list[Node], body: Body, also: Iterable[tuple[int, int]]
) -> list[list[Node]]:
    """The same inside a tile, where what is steady is known; ``also`` are pairs that stand together."""
    graph = nx.DiGraph()
    graph.add_nodes_from(n.index for n in nodes)
    made = {name: n for n in nodes for name in n.let.names if name not in body.assigns}
    mine = {n.index for n in nodes}
    for n in nodes:
        for name in n.reads():
            if name in made and made[name] is not n:
                graph.add_edge(made[name].index, n.index)
        for name, _ in n.carries():
            if name in body.steps and body.steps[name].index in mine:
                graph.add_edge(body.steps[name].index, n.index)
    for a, b in also:
        graph.add_edge(a, b)
        graph.add_edge(b, a)
    return _ordered(graph, {n.index: n for n in nodes})
