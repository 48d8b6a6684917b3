"""System -> System: the recurrent core alone, its state-free flows as inputs and its reads as outputs.

What a state needs of the outside is exactly what the loop over tokens slices, so any token system has an operator form:
``gated_delta_net`` becomes S over q, k, v, beta, alpha.
"""

from __future__ import annotations

from dataclasses import replace

from nlc.base.diagnostics import Report
from nlc.ir.expr import Expr, walk
from nlc.ir.notation import Notation
from nlc.ir.ops import leaf
from nlc.ir.system import Flow, Input, Level, System
from nlc.ir.types import Dim
from nlc.ir.update import Update
from nlc.passes.naming import Names, describe
from nlc.passes.recurrence import Recurrence


def operator(system: System, updates: dict[str, Update], report: Report) -> System:
    """NLC404 for a system that has no core: a gradient system, or one without memories."""
    if system.context != "tokens" or not system.levels:
        report.add(
            "NLC404",
            f"`{system.name}` has no operator form",
            system.span,
            "only token systems with memories have one",
        )
        return system
    return _Operator(system, updates).system_()


class _Operator:
    def __init__(self, system: System, updates: dict[str, Update]):
        self.system, self.recurrence = system, Recurrence(system, updates)
        self.inputs: dict[Expr, Input] = {}
        self.names = Names(frozenset(system.hypers))
        self.flows: dict[str, Flow] = {}

    def system_(self) -> System:
        system = self.system
        outputs = self._reads()
        levels = {name: self._level(name, level) for name, level in system.levels.items()}
        for name, level in levels.items():
            if level.memory.kind == "cache":
                for key in ("key", "value"):
                    self._cached(f"{name}.{key}")
        for clock in system.declared.values():
            flow = system.flows[clock.marks]
            self.flows[flow.name] = replace(flow, expr=self._cut(flow.expr, clock.name))
        taken = Names()
        output = {
            taken("y" if len(outputs) == 1 else describe(e)): self._cut(e, "y") for e in outputs
        }
        inputs = {i.name: i for i in self._ordered()}
        cut = replace(
            system,
            inputs=inputs,
            outputs={},
            output=output,
            levels=self._zero_starts(levels),
            flows=self.flows,
            operator=True,
        )
        return self._owned(cut)

    def _reads(self) -> dict[Expr, None]:
        """What the outputs read, directly or through flows; what is read to ask or to step a memory is inside."""
        flows = self.system.flows
        out: dict[Expr, None] = {}
        seen: set[object] = set()
        stack = [*reversed(self.system.output.values())]
        while stack:
            e = stack.pop()
            key = e.attr if e.op == "flow" else id(e)
            if key in seen:
                continue
            seen.add(key)
            if self._answers(e):
                out[e] = None
            else:
                stack += [flows[e.attr].expr] if e.op == "flow" else reversed(e.args)
        return out

    def _answers(self, e: Expr) -> bool:
        """Whether it is a read, or one with what it was asked added, as an MLP answers."""
        if e.op != "add":
            return self._is_read(e)
        asked = [a for a in e.args if a.op in ("flow", "input")]
        reads = [a for a in e.args if self._is_read(a)]
        beside = len(asked) == len(reads) == 1 and asked[0] in set(walk(reads[0]))
        return beside or self._is_read(e)

    def _owned(self, system: System) -> System:
        """Only the slow weights that stand inside the loop, as the linear map of a recurrent flow does."""
        kept: set[str] = set()

        def note(e: Expr) -> Expr:
            kept.update(n.attr for n in walk(e) if n.op == "weight")
            return e

        replace(system, weights={}).map(note)
        modules = {
            path: module
            for path, module in system.modules.items()
            if any(f"{path}.{tensor}" in kept for tensor in module.shapes)
        }
        weights = {path: weight for path, weight in system.weights.items() if path in kept}
        return replace(system, modules=modules, weights=weights)

    def _level(self, name: str, level: Level) -> Level:
        """Cut everywhere, also in the optimizer that is its rule; ``name`` is the level of the text."""
        part = lambda e, key: e and self._cut(e, f"{name}.{key}")  # noqa: E731
        rule, update, reset = level.rule, level.update, level.reset
        return replace(
            level,
            objective=part(level.objective, "objective"),
            retain=part(level.retain, "retain"),
            toward=part(level.toward, "toward"),
            project=part(level.project, "project"),
            rule=rule and replace(rule, args={k: part(e, k) for k, e in rule.args.items()}),
            update=update and {k: part(e, "update") for k, e in update.items()},
            reset=reset and replace(reset, to=part(reset.to, "reset")),
            inner=tuple(self._level(name, inner) for inner in level.inner),
        )

    def _zero_starts(self, levels: dict) -> dict:
        """Learned starts come in by ``state``."""
        return {
            name: replace(
                level,
                memory=replace(
                    level.memory,
                    states=tuple(
                        replace(
                            s, learned=False, given=s.learned, init=None if s.learned else s.init
                        )
                        for s in level.states
                    ),
                ),
            )
            for name, level in levels.items()
        }

    def _ordered(self) -> list[Input]:
        order = {"q": 0, "k": 1, "v": 2}
        return sorted(self.inputs.values(), key=lambda i: order.get(i.name, 3))

    def _is_read(self, e: Expr) -> bool:
        return e.op == "attend" or (
            e.op != "flow"
            and e.op != "state"
            and self.recurrence.recurrent(e)
            and self.recurrence.reads_state(e)
        )

    def _cut(self, e: Expr, where: str) -> Expr:
        """Maximal state-free parts become inputs, recurrent flows come along."""
        recurrent = self.recurrence.recurrent
        if e.op == "attend":
            return e.with_args((self._cut(e.args[0], "q"), *(self._keep(a) for a in e.args[1:])))
        if not recurrent(e):
            return self._input(e, where)
        done: dict[int, Expr] = {}
        for node in walk(e):
            if node.op == "flow" and recurrent(node):
                self._bring(node.attr)
            if node.op == "attend":
                done[id(node)] = self._cut(node, where)
            elif recurrent(node):
                args = tuple(
                    done[id(a)] if recurrent(a) or a.op == "attend" else self._input(a, where)
                    for a in node.args
                )
                done[id(node)] = node.with_args(args)
        return done[id(e)]

    def _keep(self, e: Expr) -> Expr:
        return e

    def _cached(self, name: str) -> None:
        """What joins a cache stays a flow: of an input, or with what it is computed from if that reads a state."""
        flow = self.system.flows[name]
        whole = leaf("flow", name, flow.expr.type)
        if self.recurrence.recurrent(whole):
            self._bring(name)
        else:
            self.flows[name] = replace(flow, expr=self._cut(whole, name))

    def _bring(self, name: str) -> None:
        if name not in self.flows:
            flow = self.system.flows[name]
            self.flows[name] = flow
            self.flows[name] = replace(flow, expr=self._cut(flow.expr, name))

    def _counts(self, e: Expr) -> bool:
        """Whether it depends on how often a level has ticked, which the core knows itself."""
        return any(
            (n.op == "index" and n.attr[1] is not None)
            or (n.op == "flow" and self._counts(self.system.flows[n.attr].expr))
            for n in walk(e)
            if n.op != "flow" or not self.recurrence.flow(n.attr)
        )

    def _input(self, e: Expr, where: str) -> Expr:
        """A named flow by its symbol, an unnamed one by where it stands; constants and arithmetic of inputs stay."""
        counts = self._counts(e)
        if not e.type.clock.batched or (counts and e.op == "flow"):
            for n in walk(e):
                if n.op == "flow":
                    self._bring(n.attr)
            return e
        makes = any(n.op in ("weight", "conv", "split", "merge", "delay") for n in walk(e))
        if e.op not in ("flow", "input") and (counts or not makes):
            return e.with_args(tuple(self._input(a, where) for a in e.args)) if e.args else e
        meant = e
        while meant.op == "flow" and self.system.flows[meant.attr].expr.op in ("flow", "input"):
            meant = self.system.flows[meant.attr].expr  # it is another name of that
        if meant not in self.inputs:
            wanted = str(e.attr) if e.op in ("flow", "input") else where
            level, _, inner = wanted.rpartition(".")
            plain = (
                Notation(self.system).symbol(wanted)
                if inner in ("key", "value")
                else inner
                if level
                else wanted
            )
            name = self.names(plain)
            named = {"flow": self.system.flows, "input": self.system.inputs}.get(e.op, {})
            span = named[e.attr].span if e.attr in named else e.span or self.system.span
            groups = self._groups(e) if e.type.head else None
            dims = e.type.dims
            if groups is not None:  # its heads come from a vector of the groups
                dims = (dims[0] * groups if dims else groups,)
            head = e.type.head and groups is None
            self.inputs[meant] = Input(name, dims, head, span, e.type.range)
        found = self.inputs[meant]
        if found.head == e.type.head:
            return leaf("input", found.name, replace(e.type), e.span)
        whole = leaf("input", found.name, replace(e.type, dims=found.dims, head=False), e.span)
        return Expr("split", (whole,), self._groups(e), e.type, e.span)

    def _groups(self, e: Expr) -> Dim | None:
        """Into how many groups heads fall where those of a group have the same value; None where each has its own."""
        found: set[Dim | None] = set()
        for n in walk(e):
            if n.type is None or not n.type.head:
                continue
            if n.op == "flow":
                found.add(self._groups(self.system.flows[n.attr].expr))
            elif n.op == "split" or not n.args:
                found.add(n.attr if n.op == "split" else None)
        return found.pop() if len(found) == 1 else None
