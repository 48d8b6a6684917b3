"""System -> System: a level of `n per token` is n levels in a row, each starting where the one before has ended.

The last one keeps the level's name, so a read of S is one behind the last sub-step; the others are S_1, S_2, … What
differs between sub-steps is written out once for each: the flows that read ``substep`` or ``substeps(e)``, and those of
the level that read its state before the sub-step. ``e`` itself is one flow, computed once a token.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import replace

from nlc.base.diagnostics import Label, Report
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.system import Flow, Level, State, System
from nlc.ir.types import TOKEN

_COMPARED = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_MIXES = (
    "delay",
    "conv",
)  # tokens: of what has a value for each sub-step, which one would that be?


def substeps(system: System, report: Report) -> System:
    """Every level that ticks several times a token written out; what is not possible is reported."""
    several = [level for level in system.levels.values() if level.clock.kind == "per"]
    varying: set[str] = set()
    refused = False
    for level in several:
        unrolled = _Unrolled(system, level, report)
        system, found = unrolled.run()
        varying |= found
        refused |= unrolled.refused
    system = _without(system, varying)
    if not refused:
        _outside(system, several, report)
    return system.map(lambda e: rewrite(e, _lost))


def _lost(n: Expr) -> Expr | None:
    """What is left of sub-steps is a mistake that is reported."""
    return Expr("error", (), None, None, n.span) if _varies(n) else None


def _without(system: System, varying: set[str]) -> System:
    """The system without those of the flows that nothing reads any more."""
    read: set[str] = set()
    stack = [*system.output.values(), *_expressions(system)]
    stack += [system.flows[c.marks].expr for c in system.declared.values()]
    stack += [f.expr for n, f in system.flows.items() if n not in varying]
    while stack:
        for n in walk(stack.pop()):
            if n.op == "flow" and n.attr in varying and n.attr not in read:
                read.add(n.attr)
                stack.append(system.flows[n.attr].expr)
    kept = {n: f for n, f in system.flows.items() if n not in varying or n in read}
    return replace(system, flows=kept)


def _expressions(system: System) -> Iterator[Expr]:
    return (e for level in system.levels.values() for e in level.expressions)


def _outside(system: System, several: list[Level], report: Report) -> None:
    """What has no sub-steps reads no part of them."""
    exprs = [
        *(f.expr for f in system.flows.values()),
        *system.output.values(),
        *_expressions(system),
    ]
    read: dict[Expr, list[Level]] = {}  # by the levels that have them, whose clock may be wrong
    for name, level in system.levels.items():
        own = [f.expr for n, f in system.flows.items() if n.startswith(f"{name}.")]
        for n in (n for e in (*level.expressions, *own) for n in walk(e) if _varies(n)):
            read.setdefault(n, []).append(level)
    for node in {n: n for e in exprs for n in walk(e) if _varies(n)}.values():
        what = "substeps(…)" if node.op == "substeps" else "substep"
        help = "read it in a level of several, such as `frequency: 2 per token`, and in its flows"
        if report.has_errors:
            return  # the level that has them may be one with a mistake
        report.add(
            "NLC404",
            f"`{what}` is read where a token has no sub-steps",
            node.span or system.span,
            "this has a value for each sub-step",
            related=[Label(x.keys.get("frequency", x.span), "these are") for x in several],
            helps=[help],
            causes=[("slow", level.span) for level in read.get(node, [])],
        )


def _varies(n: Expr) -> bool:
    return n.op == "substeps" or (n.op == "index" and n.attr[0] == "substep")


class _Unrolled:
    """One level of n sub-steps."""

    def __init__(self, system: System, level: Level, report: Report):
        self.system, self.level, self.report = system, level, report
        self.taken = {*system.flows, *system.levels, *system.inputs, *system.hypers}
        self.taken |= system.weights.keys()
        self.states = {s.name for s in level.states}
        self.t = Expr("index", (), ("t", level.name))
        self.whole: dict[Expr, Flow] = {}  # what `substeps` takes parts of
        self.refused = False

    def run(self) -> tuple[System, set[str]]:
        """The system with this level written out, and the flows that have a value for each sub-step."""
        count, name = self.level.clock.count.constant, self.level.name
        varying = self._varying()
        if count is None:
            self._later("a number of sub-steps that is no number", "frequency", "write the number")
        self.refused = count is None or self._refused(varying)
        if self.refused:
            once = {name: replace(self.level, clock=TOKEN)}  # reported; what follows goes on
            return replace(self.system, levels={**self.system.levels, **once}), set()
        self.count = int(count)
        names = [self._unused(f"{name}_{j}") for j in range(1, self.count)] + [name]
        copies: dict[str, list[Flow]] = {f: [] for f in self.system.flows if f in varying}
        levels = {n: self._level(j, n, names[j - 1], copies) for j, n in enumerate(names)}
        return self._replaced(levels, copies), varying - {f for f in varying if self._owns(f)}

    def _replaced(self, levels: dict[str, Level], copies: dict[str, list[Flow]]) -> System:
        """Copies of flows and of the level stand where they stood."""
        flows = {f.name: f for f in self.whole.values()}
        for name, flow in self.system.flows.items():
            flows |= {} if self._owns(name) and name in copies else {name: flow}
            flows |= {f.name: f for f in copies.get(name, ())}
        written: dict[str, Level] = {}
        for name, level in self.system.levels.items():
            written |= levels if name == self.level.name else {name: level}
        return replace(self.system, flows=flows, levels=written)

    def _owns(self, flow: str) -> bool:
        return self.system.flows[flow].level == self.level.name

    def _unused(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    # -------------------------------------------------------------------------------------------- what is refused

    def _refused(self, varying: set[str]) -> bool:
        level = self.level
        keys = {
            "anchor": level.anchor is not None,
            "rule": level.rule is not None and level.rule.system is not None,
            "through": level.through is not None,
            "toward": level.toward is not None and level.toward.op == "initial",
        }
        asked = [k for k, given in keys.items() if given]
        for key in asked:
            self._later(f"this `{key}` of a level with several sub-steps a token", key)
        exprs = [self.system.flows[f].expr for f in varying] + list(level.expressions)
        mixed = [n for e in exprs for n in walk(e) if n.op in _MIXES and self._reads(n, varying)]
        inside = [
            n for e in exprs for n in walk(e) if n.op == "substeps" and self._reads(n, varying)
        ]
        for n in (*mixed, *inside):
            self.report.add(
                "NLC404",
                "this reads what has a value for each sub-step",
                n.span or level.span,
                "it takes one value a token",
                helps=["write it inside `substeps(…)`, which takes the parts of one value"],
            )
        return bool(asked or mixed or inside)

    def _later(self, what: str, key: str, help: str = "") -> None:
        self.report.add(
            "NLC701",
            f"{what} is not in this version of nlc",
            self.level.keys.get(key, self.level.span),
            "part of the language, not built yet",
            helps=[help] if help else [],
        )

    # -------------------------------------------------------------------------------------------- what varies

    def _varying(self) -> set[str]:
        """The flows that have a value for each sub-step."""
        found: set[str] = set()
        while True:
            more = {f for f in self.system.flows if f not in found and self._varies_by(f, found)}
            if not more:
                return found
            found |= more

    def _varies_by(self, flow: str, found: set[str]) -> bool:
        for n in walk(self.system.flows[flow].expr):
            before = n.op == "state" and n.attr[0] in self.states and n.attr[1] == "prev"
            if _varies(n) or (n.op == "flow" and n.attr in found):
                return True
            if self._owns(flow) and (before or n == self.t):
                return True
        return False

    def _reads(self, node: Expr, varying: set[str]) -> bool:
        """Whether an operand has a value for each sub-step."""
        inner = (n for a in node.args for n in walk(a))
        return any(_varies(n) or (n.op == "flow" and n.attr in varying) for n in inner)

    # -------------------------------------------------------------------------------------------- one sub-step

    def _level(self, j: int, name: str, before: str, copies: dict[str, list[Flow]]) -> Level:
        """Sub-step j, whose flows join ``copies``; ``before``: the level that it starts from."""
        last = name == self.level.name
        named = {f: f if last and self._owns(f) else self._unused(f"{f}_{j + 1}") for f in copies}
        at: list[str] = []  # the flow that is rewritten

        def leaf(n: Expr) -> Expr | None:
            if n.op == "substeps":
                return Expr("part", (self._whole(n, at[-1]),), (j, self.count), None, n.span)
            if n.op == "index" and n.attr[0] == "substep":
                return Expr("num", (), j, None, n.span)
            if n.op in _COMPARED and all(a.op == "num" for a in n.args):
                a, b = (a.attr for a in n.args)
                return Expr("bool", (), _COMPARED[n.op](a, b), None, n.span)
            if n.op == "where" and n.args[0].op == "bool":
                return n.args[1 if n.args[0].attr else 2]
            if n == self.t:
                return self._tick(j, name, n)
            if n.op == "flow" and n.attr in named:
                return replace(n, attr=named[n.attr])
            if n.op == "state" and n.attr[0] in self.states:
                state, time = n.attr
                if time == "prev":
                    return replace(n, attr=self._before(state, before, j))
                return replace(n, attr=(self._state(state, name), time)) if time != "now" else None
            return None

        for f, found in copies.items():
            flow = self.system.flows[f]
            at.append(f)
            owner = name if self._owns(f) else flow.level
            found.append(replace(flow, name=named[f], expr=rewrite(flow.expr, leaf), level=owner))
        at.append(self.level.name)
        level = self.level.map(lambda e: rewrite(e, leaf))
        starts = [
            Expr("state", (), self._before(s.name, before, j), None, self.level.span)
            for s in self.level.states
        ]
        memory = replace(
            self.level.memory,
            states=tuple(self._copy(s, name, last) for s in self.level.states),
        )
        update = level.update and {self._state(s, name): e for s, e in level.update.items()}
        return replace(
            level,
            name=name,
            clock=TOKEN,
            memory=memory,
            update=update,
            source=starts[0] if len(starts) == 1 else Expr("bundle", tuple(starts)),
            retain=None if level.retain == Expr("num", (), 1) else level.retain,
            reset=level.reset if last else None,
        )

    def _before(self, state: str, level: str, j: int) -> tuple[str, str]:
        """The state that sub-step j starts from: of the sub-step before, the first of the token before."""
        return self._state(state, level), "now" if j else "prev"

    def _state(self, state: str, level: str) -> str:
        return level + state.removeprefix(self.level.name)

    def _copy(self, s: State, name: str, last: bool) -> State:
        """What is between two sub-steps has no start of its own."""
        if last:
            return s
        own = self._state(s.name, name)
        return replace(s, name=own, level=name, init=None, learned=False, passing=True)

    def _tick(self, j: int, name: str, n: Expr) -> Expr:
        """How many ticks of the level there were: t from 1 in its first sub-step of all."""
        one, count, own = (Expr("num", (), k, None, n.span) for k in (1, self.count, j + 1))
        tokens = Expr("sub", (replace(n, attr=("t", name)), one), None, None, n.span)
        return Expr(
            "add", (Expr("mul", (tokens, count), None, None, n.span), own), None, None, n.span
        )

    def _whole(self, n: Expr, where: str) -> Expr:
        (e,) = n.args
        if e not in self.whole:
            name = self._unused(f"{where}.whole")
            self.whole[e] = Flow(name, e, n.span or self.level.span)
        return Expr("flow", (), self.whole[e].name, None, n.span)
