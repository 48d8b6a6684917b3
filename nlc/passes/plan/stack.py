"""Loop -> Loop: memories of one shape that step alike are one memory with an axis in front.

What a level computes of its own states is its *lane*. Lanes whose statements differ in nothing but the names of their
own variables become one, over the states stacked; what others read of them is taken apart again. Operators work on
trailing axes, so that a stacked statement is printed as it was.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import networkx as nx

from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.program import Let, Loop, Program
from nlc.ir.scan import Read, Scan
from nlc.ir.system import System
from nlc.passes.naming import Names
from nlc.passes.plan.statements import mapped, nodes, reads

_AXES = frozenset(
    {"split", "merge", "conv", "delay", "attend", "linear"}
)  # know where the batch is
Statement = Let | Scan


@dataclass
class _Lane:
    """One level: the statements of its own, the values that others read of it, and the names of all its variables."""

    level: str
    own: list[int] = field(default_factory=list)
    exported: list[int] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)  # in the order in which they occur


def stacked(loop: Loop, program: Program, names: Names) -> tuple[list[Let], Loop]:
    """The loop with lanes stacked, and what must stand before it: constants of the lanes as one."""
    return _Stack(loop, program, names).run()


class _Stack:
    def __init__(self, loop: Loop, program: Program, names: Names):
        self.loop, self.names = loop, names
        self.body: list[Statement] = list(loop.body)  # type: ignore[arg-type]
        self.lane_of = {v: lane for v, lane in _levels(program) if v in loop.carries}
        self.label: dict[str, str] = dict(self.lane_of)
        self.exported: set[str] = set()

    def run(self) -> tuple[list[Let], Loop]:
        if len(set(self.lane_of.values())) < 2:
            return [], self.loop
        mixed = self._label()
        lanes = [lane for lane in self._lanes() if lane.level not in mixed and lane.own]
        groups: dict[Hashable, list[_Lane]] = {}
        for lane in lanes:
            groups.setdefault(self._canonical(lane), []).append(lane)
        before: list[Let] = []
        loop = self.loop
        for group in groups.values():
            if len(group) > 1:
                made = _Merge(loop, group, self.names, self.label).run()
                if made is not None:
                    before += made[0]
                    loop = made[1]
                    return before + (rest := stacked_rest(loop, self, before))[0], rest[1]
        return before, loop

    # -------------------------------------------------------------------------------------------- lanes

    def _label(self) -> set[str]:
        """Whose every variable is; the levels that read others' states in a step of their own.

        A value that others read is nobody's: of the lanes that meet in a statement, the one whose states it reads or
        steps is at home there, and the values of the others are found to be exported.
        """
        while True:
            self.label = dict(self.lane_of)
            mixed: set[str] = set()
            more: set[str] = set()
            unclear: set[str] = set()
            tainted: set[str] = set()  # of several lanes, as it seems so far
            for x in self.body:
                read = {v: self.label[v] for v in reads(x) if v in self.label}
                owners = {self.lane_of[t] for t in _targets(x) if t in self.lane_of}
                states = {self.lane_of[v] for v in read if v in self.lane_of}
                if owners and states - owners:
                    mixed |= states | owners
                lanes = set(read.values()) | owners
                home = owners or states
                fresh = [t for t in _targets(x) if t not in self.exported and t not in self.lane_of]
                if len(home) == 1:
                    more |= {v for v, lane in read.items() if lane not in home}
                elif len(lanes) > 1 and not tainted & reads(x):
                    unclear |= set(read)
                if len(lanes) > 1 or tainted & reads(x):
                    tainted |= set(fresh)
                elif lanes:
                    self.label.update(dict.fromkeys(fresh, next(iter(lanes))))
                    more |= {t for t in fresh if t in self.loop.collects.values()}
            more = {v for v in more if v not in self.lane_of} - self.exported
            more = more or ({v for v in unclear if v not in self.lane_of} - self.exported)
            if not more:
                return mixed
            self.exported |= more

    def _lanes(self) -> Iterable[_Lane]:
        lanes: dict[str, _Lane] = {}
        for i, x in enumerate(self.body):
            used = {self.label[v] for v in (*reads(x), *_targets(x)) if v in self.label}
            if len(used) != 1:
                continue
            lane = lanes.setdefault(next(iter(used)), _Lane(next(iter(used))))
            own = all(t in self.label for t in _targets(x))
            (lane.own if own else lane.exported).append(i)
        for lane in lanes.values():
            self._needed(lane)
            for i in lane.own:
                for n in _occurring(self.body[i]):
                    if self.label.get(n) == lane.level:
                        lane.names.setdefault(n, len(lane.names))
        return lanes.values()

    def _needed(self, lane: _Lane) -> None:
        """What is no part of a step of the lane is a read of it."""
        live = set(self.lane_of)
        own: list[int] = []
        for i in reversed(lane.own):
            x = self.body[i]
            if live & set(_targets(x)):
                own.append(i)
                live |= reads(x)
        lane.exported = sorted({*lane.exported, *lane.own} - {*own})
        lane.own = own[::-1]

    def _canonical(self, lane: _Lane) -> Hashable:
        """The statements of a lane with its own names taken out."""
        out: list[Hashable] = []
        for i in lane.own:
            x = self.body[i]
            if any(n.op in _AXES and _has(n, lane.names) for n in nodes(x)):
                return object()  # like no other
            x = mapped(x, lambda e: _bare(e, lane.names, lane.level))
            if isinstance(x, Let):
                out.append(
                    (tuple(lane.names[n] for n in x.names), x.expr, x.expr.type.dims, x.when)
                )
            else:
                states = tuple(lane.names[n] for n in x.record.states)
                out.append((states, replace(x.record, states=()), x.read))
        return tuple(out)


def stacked_rest(loop: Loop, stack: _Stack, before: list[Let]) -> tuple[list[Let], Loop]:
    """The other groups of the same loop."""
    again = _Stack.__new__(_Stack)
    again.loop, again.names, again.body = loop, stack.names, list(loop.body)
    again.lane_of = {v: lane for v, lane in stack.lane_of.items() if v in loop.carries}
    again.label, again.exported = dict(again.lane_of), set()
    return again.run()


class _Merge:
    """One group of lanes as one."""

    def __init__(self, loop: Loop, group: list[_Lane], names: Names, label: dict[str, str]):
        self.loop, self.group, self.names = loop, group, names
        self.body: list[Statement] = list(loop.body)  # type: ignore[arg-type]
        self.carried = set(loop.carries)
        self.prefix = _together([lane.level for lane in group])
        self.members: dict[str, tuple[str, ...]] = {}  # of a stacked variable
        self.renamed: dict[str, str] = {}  # the first lane's variable -> the stacked one
        self.constants: dict[Expr, Let] = {}
        for k, n in enumerate(group[0].names):
            new = names(self._name(n))
            self.renamed[n] = new
            self.members[new] = tuple(list(lane.names)[k] for lane in group)
        self.place = {m: (s, i) for s, ms in self.members.items() for i, m in enumerate(ms)}

    def _name(self, n: str) -> str:
        first = self.group[0].level.replace(".", "_")
        return n.replace(first, self.prefix, 1) if first in n else f"{self.prefix}_{n}"

    def run(self) -> tuple[list[Let], Loop] | None:
        units: list[tuple[list[int], Statement]] = []
        taken: set[int] = set()
        for indices in zip(*(lane.own for lane in self.group)):
            units.append((list(indices), self._as_one(self.body[indices[0]])))
            taken |= set(indices)
        for indices, let in self._reads():
            units.append((indices, let))
        for i, x in enumerate(self.body):
            if i not in taken:
                units.append(([i], self._apart(x)))
        ordered = _ordered(units, self.body)
        if ordered is None:
            return None
        inner = {m for ms in self.members.values() for m in ms}
        carries = [n for n in self.loop.carries if n not in inner]
        carries = [*self.constants_names(), *self._stacks(), *carries]
        stacks = {**self.loop.stacks, **{s: self.members[s] for s in self._stacks()}}
        loop = replace(self.loop, body=tuple(ordered), carries=tuple(carries), stacks=stacks)
        return list(self.constants.values()), loop

    def constants_names(self) -> list[str]:
        return [let.names[0] for let in self.constants.values()]

    def _stacks(self) -> list[str]:
        order = {n: i for i, n in enumerate(self.loop.carries)}
        found = [s for s, ms in self.members.items() if ms[0] in self.carried]
        return sorted(found, key=lambda s: order[self.members[s][0]])

    def _as_one(self, x: Statement) -> Statement:
        x = mapped(x, lambda e: rewrite(e, self._packed))
        if isinstance(x, Let):
            return replace(x, names=tuple(self.renamed[n] for n in x.names))
        states = tuple(self.renamed[n] for n in x.record.states)
        return replace(x, record=replace(x.record, states=states), name=self.renamed[x.name])

    def _packed(self, n: Expr) -> Expr | None:
        """A leaf of the first lane as that of all of them."""
        first = self.group[0]
        if n.op == "var" and n.attr in first.names:
            return replace(n, attr=self.renamed[n.attr])
        if n.op == "read" and n.attr.scan in first.names:
            return replace(n, attr=replace(n.attr, scan=self.renamed[n.attr.scan]))
        if n.op == "initial" and _within(n.attr, first.level):
            if n not in self.constants:
                starts = [
                    replace(n, attr=lane.level + str(n.attr)[len(first.level) :])
                    for lane in self.group
                ]
                name = self.names(self._name(f"{n.attr}_start".replace(".", "_")))
                self.constants[n] = Let((name,), Expr("stack", tuple(starts), None, n.type))
            return Expr("var", (), self.constants[n].names[0], n.type)
        return None

    def _reads(self) -> list[tuple[list[int], Statement]]:
        """What others read of the lanes: what they have in common is computed once, and taken apart."""
        found: dict[Expr, list[list[tuple[int, Expr]]]] = {}
        for k, lane in enumerate(self.group):
            for i in lane.exported:
                x = self.body[i]
                if not isinstance(x, Let) or x.when is not None:
                    continue
                for n in walk(x.expr):
                    if n.args and _has(n, lane.names) and not any(m.op in _AXES for m in walk(n)):
                        key = _bare(n, lane.names, lane.level)
                        slots = found.setdefault(key, [[] for _ in self.group])
                        slots[k].append((i, n))
        common = {k: s for k, s in found.items() if all(s)}
        inner = {n for k in common for n in walk(k) if n is not k and n in common}
        out: list[tuple[list[int], Statement]] = []
        self.replaced: dict[int, dict[Expr, Expr]] = {}
        for key, slots in common.items():
            if key in inner:  # a part of another
                continue
            targets = []
            for slot in slots:
                i, n = slot[0]
                x = self.body[i]
                whole = x.expr is n and len(slot) == 1
                name = x.names[0] if whole else self.names(f"{x.names[0]}_read")
                targets.append(name)
                for j, m in slot:
                    self.replaced.setdefault(j, {})[m] = Expr("var", (), name, m.type)
            let = self.body[slots[0][0][0]]
            packed = rewrite(slots[0][0][1], self._packed)
            out.append(
                (
                    [i for s in slots for i, _ in s[:1]],
                    replace(let, names=tuple(targets), expr=packed),
                )
            )
        return out

    def _apart(self, x: Statement) -> Statement | None:
        """A statement outside of the lanes; None where nothing of it is left."""
        i = next(j for j, y in enumerate(self.body) if y is x)
        swaps = getattr(self, "replaced", {}).get(i, {})

        def rule(n: Expr) -> Expr | None:
            if n.op == "var" and n.attr in self.place:
                stack, lane = self.place[n.attr]
                return Expr("lane", (replace(n, attr=stack),), lane, n.type)
            if n.op == "read" and n.attr.scan in self.place:
                stack, lane = self.place[n.attr.scan]
                how: Read = replace(n.attr, scan=stack)
                return Expr("lane", (replace(n, attr=how),), lane, n.type)
            return None

        def each(e: Expr) -> Expr:
            done: dict[int, Expr] = {}
            for n in walk(e):
                new = swaps.get(n)
                if new is None:
                    new = n.with_args(tuple(done[id(a)] for a in n.args))
                    new = rule(new) or new
                done[id(n)] = new
            return done[id(e)]

        x = mapped(x, each)
        if isinstance(x, Let) and x.expr.op == "var" and x.names == (x.expr.attr,):
            return None
        return x


def _levels(program: Program) -> Iterable[tuple[str, str]]:
    """The variables of slots, and which level each belongs to; a rule's levels belong to the level that it is of."""
    system: System = program.system
    for s in program.slots:
        key = s.of or s.key
        state = system.states.get(key) or system.states.get(key.rpartition(".")[0])
        level = state.level if state is not None else key.rpartition(".")[0]
        parts = level.split(".")
        for i in range(1, len(parts) + 1):
            if ".".join(parts[:i]) in system.levels:
                yield s.var, ".".join(parts[:i])
                break


def _targets(x: Statement) -> tuple[str, ...]:
    return x.names if isinstance(x, Let) else x.record.states


def _occurring(x: Statement) -> Iterable[str]:
    for n in nodes(x):
        if n.op == "var":
            yield str(n.attr)
        elif n.op == "read":
            yield n.attr.scan
    yield from _targets(x)


def _has(e: Expr, names: Iterable[str]) -> bool:
    return any(
        (n.op == "var" and n.attr in names) or (n.op == "read" and n.attr.scan in names)
        for n in walk(e)
    )


def _within(path: object, level: str) -> bool:
    return str(path) == level or str(path).startswith(f"{level}.")


def _bare(e: Expr, names: dict[str, int], level: str) -> Expr:
    """``e`` with a lane's own names as numbers."""

    def rule(n: Expr) -> Expr | None:
        if n.op == "var" and n.attr in names:
            return replace(n, op="own", attr=(names[n.attr], n.type.dims, n.type.head))
        if n.op == "read" and n.attr.scan in names:
            return replace(n, attr=replace(n.attr, scan=str(names[n.attr.scan])))
        if n.op == "initial" and _within(n.attr, level):
            return replace(n, attr=("own", str(n.attr)[len(level) :]))
        return None

    return rewrite(e, rule)


def _together(levels: list[str]) -> str:
    """``M_k`` and ``M_v`` as ``M_kv``, ``M_eta`` and ``M_alpha`` as ``M_ea``."""
    flat = [name.replace(".", "_") for name in levels]
    start = ""
    for letters in zip(*flat):
        if len(set(letters)) > 1:
            break
        start += letters[0]
    start = start[: start.rfind("_") + 1]
    ends = [name[len(start) :] for name in flat]
    initials = [e[:1] for e in ends]
    return start + ("".join(initials) if len(set(initials)) == len(ends) else "_".join(ends))


def _ordered(
    units: list[tuple[list[int], Statement | None]], body: list[Statement]
) -> list[Statement] | None:
    """Units in an order in which each finds the values that its statements found; None if there is none."""
    unit_of: dict[int, list[int]] = {}
    for u, (indices, _) in enumerate(units):
        for i in indices:
            unit_of.setdefault(i, []).append(u)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(units)))
    last: dict[str, int] = {}
    readers: dict[str, list[int]] = {}

    def edge(i: int, j: int) -> None:
        for a in unit_of[i]:
            for b in unit_of[j]:
                if a != b and i != j:
                    graph.add_edge(a, b)

    for i, x in enumerate(body):
        for n in dict.fromkeys(_occurring_reads(x)):
            if n in last:
                edge(last[n], i)
            readers.setdefault(n, []).append(i)
        for n in (*_targets(x), *([f"scan {x.name}"] if isinstance(x, Scan) else [])):
            for r in readers.get(n, []):
                if r != i:
                    edge(r, i)
            if n in last:
                edge(last[n], i)
            last[n], readers[n] = i, []
    for us in unit_of.values():  # a value taken apart stands before the statement that has it
        for a, b in pairwise(us):
            graph.add_edge(a, b)
    if not nx.is_directed_acyclic_graph(graph):
        return None
    first = {u: min(indices) for u, (indices, _) in enumerate(units)}
    order = nx.lexicographical_topological_sort(graph, key=lambda u: (first[u], u))
    return [s for u in order if (s := units[u][1]) is not None]


def _occurring_reads(x: Statement) -> Iterable[str]:
    for n in nodes(x):
        if n.op == "var":
            yield str(n.attr)
        elif n.op == "read":
            yield f"scan {n.attr.scan}"
    if isinstance(x, Scan):
        yield from x.record.states
