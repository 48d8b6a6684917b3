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
        outputs: dict[Expr, None] = {}
        for e in (*system.output.values(), *(f.expr for f in system.flows.values())):
            for node in walk(e):
                for a in (node, *node.args):
                    if self._is_read(a) and (a is e or not self._is_read(node)):
                        outputs[a] = None
        levels = {name: self._level(level, name) for name, level in system.levels.items()}
        for name, level in levels.items():
            if level.memory.kind == "cache":
                for key in ("key", "value"):
                    flow = system.flows[f"{name}.{key}"]
                    self.flows[flow.name] = replace(
                        flow, expr=self._cut(leaf("flow", flow.name, flow.expr.type), flow.name)
                    )
        taken = Names()
        output = {
            taken("y" if len(outputs) == 1 else describe(e)): self._cut(e, "y") for e in outputs
        }
        inputs = {i.name: i for i in self._ordered()}
        used = self._applied(levels, output)
        return replace(
            system,
            inputs=inputs,
            outputs={},
            output=output,
            levels=self._zero_starts(levels),
            flows=self.flows,
            modules={path: m for path, m in system.modules.items() if path in used},
            weights={path: w for path, w in system.weights.items() if path in used},
            operator=True,
        )

    def _level(self, level: Level, name: str) -> Level:
        """A level, and the steps inside its rule, over inputs."""
        return replace(
            level,
            objective=level.objective and self._cut(level.objective, f"{name}.objective"),
            retain=level.retain and self._cut(level.retain, f"{name}.retain"),
            toward=level.toward and self._cut(level.toward, f"{name}.toward"),
            project=level.project and self._cut(level.project, f"{name}.project"),
            rule=level.rule
            and replace(
                level.rule,
                args={k: self._cut(e, f"{name}.{k}") for k, e in level.rule.args.items()},
            ),
            update=level.update
            and {k: self._cut(e, f"{name}.update") for k, e in level.update.items()},
            inner=tuple(self._level(step, name) for step in level.inner),
        )

    def _applied(self, levels: dict[str, Level], output: dict[str, Expr]) -> set[str]:
        """The slow weights, and the modules that own them, which the loop itself applies to what it computes."""
        exprs = [e for level in levels.values() for e in level.expressions]
        exprs += [*output.values(), *(f.expr for f in self.flows.values())]
        return {str(n.attr) for e in exprs for n in walk(e) if isinstance(n.attr, str)}

    def _zero_starts(self, levels: dict[str, Level]) -> dict[str, Level]:
        """Learned starts come in by ``state``, but for those that a level returns to later."""
        return {
            name: level if self._returns(level) else _zero_start(level)
            for name, level in levels.items()
        }

    def _returns(self, level: Level) -> bool:
        """Whether it decays towards its start, or is reset to it."""
        resets = level.reset is not None and level.reset.to is None
        parts = [*level.expressions, *(step.toward for step in level.inner)]
        return resets or any(n.op == "initial" for e in parts if e is not None for n in walk(e))

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

    def _bring(self, name: str) -> None:
        if name not in self.flows:
            flow = self.system.flows[name]
            self.flows[name] = flow
            self.flows[name] = replace(flow, expr=self._cut(flow.expr, name))

    def _input(self, e: Expr, where: str) -> Expr:
        """A named flow by its symbol, an unnamed one by where it stands; constants and arithmetic of inputs stay."""
        if not e.type.clock.batched:
            return e
        if e.op not in ("flow", "input") and not any(
            n.op in ("weight", "conv", "split", "merge", "delay") for n in walk(e)
        ):
            return e.with_args(tuple(self._input(a, where) for a in e.args)) if e.args else e
        if e not in self.inputs:
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
            self.inputs[e] = Input(name, e.type.dims, e.type.head, e.span or self.system.span)
        found = self.inputs[e]
        return leaf("input", found.name, replace(e.type), e.span)


def _zero_start(level: Level) -> Level:
    states = tuple(
        replace(s, learned=False, init=None if s.learned else s.init) for s in level.states
    )
    return replace(
        level,
        memory=replace(level.memory, states=states),
        inner=tuple(_zero_start(step) for step in level.inner),
    )
