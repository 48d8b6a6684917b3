"""System -> System: a gradient system that is the rule of a level becomes levels of its own (language §3).

For ``rule: name(hyper=e)`` on level L, the other levels of the system become ``L.m``, ``L.v`` with L's clock, one for
each state of L; ``g`` is L's gradient and ``W`` its base. What the system does to its trained tensor stays with L, as
``Level.inner``.
"""

from __future__ import annotations

import re
from dataclasses import replace

from nlc.base.diagnostics import Label, Report
from nlc.ir.expr import Expr, part, substitute
from nlc.ir.routes import Route
from nlc.ir.system import Flow, Level, Memory, Reset, Rule, State, System
from nlc.ir.types import Clock, Dims, Like
from nlc.lib.rules import KINDS, shapes_of
from nlc.passes.instance import Instance


def inline(system: System, report: Report) -> System:
    """Every rule that is a system written out."""
    return _Inline(system, report).run()


class _Inline:
    def __init__(self, system: System, report: Report):
        self.system, self.report = system, report
        self.levels: dict[str, Level] = {}
        self.flows = dict(system.flows)

    def run(self) -> System:
        for level in self.system.levels.values():
            self._level(level)
        return replace(self.system, levels=self.levels, flows=self.flows)

    @property
    def taken(self) -> set[str]:
        return {*self.flows, *self.levels, *self.system.levels, *self.system.states}

    def _level(self, level: Level) -> None:
        """A level, after the levels that its rule brings."""
        if level.rule is None or level.rule.system is None:
            self.levels[level.name] = level
            return
        inner: list[Level] = []
        for state in level.states:
            step = self._nested(level, state, state.name)
            if step is None:
                self.levels[level.name] = replace(level, rule=None)  # reported
                return
            inner.append(step)
        reset = self._together(level, inner)
        steps = tuple(replace(step, reset=None) for step in inner)
        self.levels[level.name] = replace(level, inner=steps, reset=reset)

    def _nested(self, level: Level, state: State, gradient: str) -> Level | None:
        """The step of one state by its rule, which may have a rule again; its reset is that of the state."""
        step = self._made(level, state, gradient)
        if step is None or step.rule is None or step.rule.system is None:
            return step
        inner = self._nested(step, step.states[0], step.name)
        if inner is None:
            return None
        reset = self._together(step, [inner])
        return replace(step, reset=reset, inner=(replace(inner, reset=None),))

    def _together(self, level: Level, steps: list[Level]) -> Reset | None:
        """One reset of all states: that of the level, or those that its rules bring."""
        found = [step.reset for step in steps if step.reset is not None]
        if not found:
            return level.reset
        first, times = found[0], {reset.every for reset in found}
        if level.reset is not None or len(times) > 1:
            self._two_resets(level, first)
            return level.reset
        if len(steps) == 1:
            return first
        # a state whose rule brings none stays as it is
        to = [
            step.reset.to
            if step.reset is not None
            else Expr("state", (), (step.states[0].name, "now"), None, step.span)
            for step in steps
        ]
        return replace(first, to=Expr("bundle", tuple(to), None, None, first.span))

    def _made(self, level: Level, state: State, gradient: str) -> Level | None:
        """The step of one state by its rule; the rule's other levels join the system."""
        rule = self._routed(level, state)
        if rule is None:
            return None
        if rule.system is None:  # a step formula
            return replace(
                level, name=f"{state.name}.step", memory=Memory("trained", (state,)), rule=rule
            )
        copy = _Copy(self, level, state, rule, gradient)
        self.flows |= copy.flows()
        for other in copy.others():
            self._level(other)
        return copy.step()

    def _routed(self, level: Level, state: State) -> Rule | None:
        """The rule for a tensor of this shape, where the system says which tensors it takes."""
        rule = level.rule
        any_shape = state.trained and any(isinstance(d, Like) for d in state.dims)
        if any_shape and rule.system.routes and not self._kinds:
            return self._unknown_kind(rule, state)
        shapes = shapes_of(self._kinds)
        for route in rule.system.routes:
            if route.names or route.modules:
                continue  # a memory has no such name and belongs to no module
            if any_shape:
                takes = shapes <= shapes_of(route.kinds)
                if not takes and shapes & shapes_of(route.kinds):
                    return self._unknown_kind(rule, state)
            else:
                kinds = [KINDS[kind] for kind in route.kinds]
                takes = not kinds or any(kind.takes(state.dims) for kind in kinds)
            if not takes:
                continue
            if not route.plain:
                return self._asks_more(rule, route, state)
            other = route.rule
            if other is None:
                return rule
            outer = Instance(
                rule.system, "", rule.args, rule.sizes, (), self.system.sizes, rule.span
            )
            args = {k: outer.expr(e) for k, e in other.args.items()}
            if "decay" in rule.args and "decay" not in rule.system.hypers:
                args.setdefault("decay", rule.args["decay"])
            sizes = {k: d.substitute(outer.sizes) for k, d in other.sizes.items()}
            return replace(other, args=args, sizes=sizes, span=rule.span)
        if not rule.system.routes:
            return rule
        self.report.add(
            "NLC213",
            f"rule `{rule.name}` takes no tensor of the shape of `{state.name}`",
            rule.span,
            f"its `applies_to` has {', '.join(route.name for route in rule.system.routes)}",
            related=[Label(state.span, f"`{state.name}` is declared here")],
            helps=["add `rest:` to its `applies_to`, or choose another rule"],
        )
        return None

    @property
    def _kinds(self) -> tuple[str, ...]:
        """The kinds of tensors that this system trains itself, where it says some."""
        own = [route for route in self.system.routes if route.rule is None]
        return own[0].kinds if len(own) == 1 and not own[0].view else ()

    def _asks_more(self, rule: Rule, route: Route, state: State) -> None:
        self.report.add(
            "NLC213",
            f"rule `{rule.name}` asks more of a tensor than `{state.name}` says",
            rule.span,
            f"its route `{route.name}` has a {'view' if route.view else 'condition'}",
            related=[Label(state.span, f"`{state.name}` is declared here")],
            helps=["choose a rule that goes by kinds of tensors alone"],
        )

    def _unknown_kind(self, rule: Rule, state: State) -> None:
        self.report.add(
            "NLC213",
            f"rule `{rule.name}` chooses by kind of tensor, and `{state.name}` may be of any",
            rule.span,
            f"its `applies_to` has {', '.join(route.name for route in rule.system.routes)}",
            helps=["say what this system trains, for example `applies_to: {matrices: self}`"],
        )

    def _two_resets(self, level: Level, reset: Reset) -> None:
        own = level.reset
        self.report.add(
            "NLC105",
            f"level `{level.name}` is reset by itself and by its rule"
            if own is not None
            else f"the rules of level `{level.name}` reset it at different times",
            (own or reset).span,
            "by itself" if own is not None else "its states have rules of their own, by their kind",
            related=[Label(reset.span, "by this rule")] if own is not None else [],
            helps=[
                "remove one of them"
                if own is not None
                else "choose a rule that resets all states together"
            ],
        )


class _Copy(Instance):
    """One system made the rule of one state; ``gradient`` names the leaves that are its ``g``."""

    def __init__(self, inline: _Inline, level: Level, state: State, rule: Rule, gradient: str):
        self.caller, self.target, self.gradient = level, state, gradient
        system = rule.system
        self.trained = next(x for x in system.levels.values() if x.memory.kind == "trained")
        index = level.states.index(state)
        args = {k: part(e, index) for k, e in rule.args.items()}
        prefix = level.name if len(level.states) == 1 else state.name
        super().__init__(
            system, prefix, args, rule.sizes, inline.taken, inline.system.sizes, rule.span
        )
        if len(state.dims) == 2:
            name = self.trained.name
            self.sizes |= {f"rows({name})": state.dims[0], f"cols({name})": state.dims[1]}

    def own(self, name: str) -> str:
        """Names of the trained tensor's level lose its name: they are the caller's own."""
        return name.removeprefix(f"{self.trained.name}.")

    def state(self, name: str) -> str:
        """The trained tensor's state is the caller's."""
        own = self.system.states[name].level == self.trained.name
        return self.target.name if own else super().state(name)

    def leaf(self, n: Expr) -> Expr | None:
        if n.op == "g":
            return Expr("gradient", (), self.gradient, None, n.span)
        if n.op == "initial" and n.attr == self.trained.name:
            return replace(n, attr=self.target.level)
        if n.op == "index" and n.attr[1] in (None, self.trained.name):
            return replace(n, attr=(n.attr[0], self.target.level))
        new = super().leaf(n)
        if n.op == "state" and new.attr == (self.target.name, "prev"):
            return replace(new, attr=(self.target.name, "base"))  # W is B
        return new

    def dims(self, dims: Dims) -> Dims:
        out: list = []
        for d in super().dims(dims):
            out += self.target.dims if isinstance(d, Like) else [d]
        return tuple(out)

    def clock(self, clock: Clock) -> Clock:
        """``every k steps`` of the system is every k ticks of the level."""
        mine, own = self.caller.clock, super().clock(clock)
        if clock.kind != "every":
            return own
        return replace(
            mine,
            count=mine.count * own.count,
            default=mine.default * own.default,
            phase=own.phase if mine.phase == "end" else mine.phase,
        )

    def flows(self) -> dict[str, Flow]:
        """The system's flows; those of its trained tensor are the caller's."""
        out = {}
        for flow in self.system.flows.values():
            owner = flow.level and self.names[flow.level]
            owner = self.target.level if flow.level == self.trained.name else owner
            name = self.names[flow.name]
            out[name] = Flow(name, self.expr(flow.expr), self.span, owner)
        return out

    def others(self) -> list[Level]:
        """The system's other levels."""
        out = []
        for level in self.system.levels.values():
            if level is self.trained:
                continue
            text = re.sub(rf"\b{self.trained.name}\b", self.target.name, level.memory.text)
            made = self.level(level)
            out.append(
                replace(
                    made,
                    memory=replace(made.memory, text=text),
                    reset=made.reset or self._reset(),
                    backprop=self.caller.backprop and level.backprop,
                )
            )
        return out

    def _reset(self) -> Reset | None:
        """With the caller's, where that takes the states of the rule along."""
        outer = self.caller.reset
        return replace(outer, to=None) if outer is not None and outer.rule else None

    def step(self) -> Level:
        """What the system does to its trained tensor, as a step of the state."""
        made = replace(self.level(self.trained), name=self.names[self.trained.name])
        decay = self.args.get("decay") if "decay" not in self.system.hypers else None
        rule, update = made.rule, made.update
        if decay is not None and rule is not None:
            own = rule.args.get("decay")
            both = decay if own is None else Expr("mul", (decay, own), None, None, decay.span)
            rule = replace(rule, args={**rule.args, "decay": both})
        if update is not None:
            base = Expr("state", (), (self.target.name, "base"))
            kept = base if decay is None else Expr("mul", (decay, base), None, None, decay.span)
            (e,) = update.values()
            update = {self.target.name: substitute(e, {base: kept})}
        toward = self.caller.toward and part(
            self.caller.toward, self.caller.states.index(self.target)
        )
        return replace(
            made,
            clock=self.caller.clock,
            memory=Memory("trained", (self.target,), text=self.caller.memory.text),
            rule=rule,
            update=update,
            toward=made.toward if made.toward is not None else toward,
            backprop=True,
        )
