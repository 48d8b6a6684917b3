"""Program -> whose every statement is: a level's, if only its step or its states need the result, else the system's.

Names of slots are settled by the system, so nothing here reads a name: a statement that gives a level's state its value
is that level's, and so is what is read by its statements alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nlc.ir.expr import Expr, walk
from nlc.ir.program import Let, Loop, Parallel, Program, Return
from nlc.ir.scan import Scan
from nlc.ir.types import Dim, Type

SYSTEM = ""  # the owner of what several levels need, or an output


@dataclass(frozen=True, eq=False)
class Piece:
    """Statements that run once a trip: a whole sequence, a tile between ``periods``, or a token."""

    body: tuple[Let | Scan, ...]
    kind: str  # "outside" of all loops, "whole", "tiles" or "tokens"; "step" of a gradient system
    periods: tuple[Dim, ...] = ()


def pieces(program: Program) -> list[Piece]:
    """In the order in which they run; what stands outside of loops is one piece."""
    outside: list[Let | Scan] = []
    out: list[Piece] = []
    for s in program.body:
        if isinstance(s, Let):
            outside.append(s)
        elif isinstance(s, Loop):
            out.append(Piece(s.body, "tokens"))
        elif isinstance(s, Parallel):
            out.append(Piece(tuple(x for x in s.body if not isinstance(x, Loop)), "whole"))
            for x in s.body:
                if isinstance(x, Loop):
                    out.append(Piece(x.body, "tiles" if x.periods else "tokens", x.periods))
        elif isinstance(s, Return):
            outside += [Let((f"output {n}",), e) for n, e in s.outputs.items()]
    if program.system.trains:
        return [Piece((), "outside"), Piece(tuple(outside), "step")]
    return [Piece(tuple(outside), "outside"), *out]


class Owners:
    """``states``: the level of each variable that holds a state of one, now or at its last boundary; of a cache too."""

    def __init__(self, program: Program, parts: list[Piece]):
        self.program = program
        self.alias = dict(self._aliases(program.body))
        self.types: dict[str, Type] = {s.var: s.type for s in program.slots}
        self.statements = [x for p in parts for x in p.body]
        self.states = self._states()
        system = program.system
        self.weights = {s.name: n for n, level in system.outer.items() for s in level.states}
        self.made: dict[str, list[int]] = {}
        for i, x in enumerate(self.statements):
            for n in made(x):
                self.made.setdefault(self.canonical(n), []).append(i)
            for e in exprs(x):
                for n in walk(e):
                    if n.op == "var":
                        self.types.setdefault(str(n.attr), n.type)
        outside = {id(x) for x in parts[0].body}
        self.owner = self._settled(outside)
        self.by_statement = {id(x): o for x, o in zip(self.statements, self.owner)}

    def _states(self) -> dict[str, str]:
        known, out = self.program.system.states, {}
        for s in self.program.slots:
            name = s.of if s.kind == "anchor" else s.key
            if s.kind in ("level", "anchor") and name in known:
                out[s.var] = known[name].level
        for n in (n for x in self.statements for e in exprs(x) for n in walk(e)):
            if n.op == "attend":
                out |= {str(a.attr): n.attr[0] for a in n.args[1:] if a.op == "var"}
        return out

    def _aliases(self, body: tuple) -> Iterator[tuple[str, str]]:
        """The names inside of a loop of what comes in, the names outside of what goes out."""
        for s in body:
            if isinstance(s, Loop | Parallel):
                yield from ((i, o) for o, i in s.slices.items() if i != o)
                yield from ((o, i) for o, i in s.collects.items() if i != o)
                yield from self._aliases(s.body)

    def canonical(self, name: str) -> str:
        seen = set()
        while name in self.alias and name not in seen:
            seen.add(name)
            name = self.alias[name]
        return name

    def _settled(self, outside: set[int]) -> list[frozenset[str]]:
        """Backwards from states and outputs to all that they need."""
        out: list[frozenset[str]] = []
        fixed: list[bool] = []
        for x in self.statements:
            mine = frozenset(self.states[n] for n in made(x) if n in self.states)
            stays = bool(mine) or id(x) in outside
            out.append(frozenset({SYSTEM}) if id(x) in outside else mine)
            fixed.append(stays)
        todo = list(range(len(out)))
        while todo:
            i = todo.pop()
            for name in reads(self.statements[i]):
                for j in self.made.get(self.canonical(name), ()):
                    if not fixed[j] and not out[i] <= out[j]:
                        out[j] |= out[i]
                        todo.append(j)
        return out

    def of(self, x: Let | Scan) -> str:
        """The one level whose a statement is."""
        owner = self.by_statement[id(x)]
        return next(iter(owner)) if len(owner) == 1 else SYSTEM

    def reader(self, node: Expr) -> str | None:
        """The level that a node reads a state of, or its start."""
        for a in node.args:
            inner = a.args[0] if a.op == "T" else a
            if inner.op == "var" and inner.attr in self.states and inner.type.rank == 2:
                return self.states[str(inner.attr)]
            if inner.op == "weight" and inner.attr in self.weights:
                return self.weights[str(inner.attr)]
            if inner.op == "initial":
                return self.program.system.states[str(inner.attr)].level
        return None


def made(x: Let | Scan) -> tuple[str, ...]:
    """The variables that a statement gives a value."""
    return x.names if isinstance(x, Let) else (*dict.fromkeys((*x.record.states, x.name)),)


def exprs(x: Let | Scan) -> tuple[Expr, ...]:
    return (x.expr,) if isinstance(x, Let) else x.record.parts


def reads(x: Let | Scan) -> set[str]:
    """The variables that a statement needs, those of the scans that it reads among them."""
    out = set(x.record.states) if isinstance(x, Scan) else set()
    for e in exprs(x):
        for n in walk(e):
            if n.op == "var":
                out.add(str(n.attr))
            elif n.op == "read":
                out.add(n.attr.scan)
    return out
