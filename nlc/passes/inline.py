"""System -> System: a gradient system that is the rule of a level becomes levels of its own (language §3).

For ``rule: name(hyper=e)`` on level L, the other levels of the system become ``L.m``, ``L.v`` with L's clock, one for
each state of L; ``g`` is L's gradient and ``W`` its base. What the system does to its trained tensor stays with L, as
``Level.inner``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from nlc.base.diagnostics import Label, Report
from nlc.ir.expr import Expr, part, rewrite, substitute
from nlc.ir.system import Flow, Hyper, Level, Memory, Reset, Rule, State, System
from nlc.ir.types import Clock, Dim, Dims, Like


def inline(system: System, report: Report) -> System:
    """Every rule that is a system written out; a rule on the outer loss keeps its system."""
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

    def _level(self, level: Level) -> None:
        """A level, after the levels that its rule brings."""
        if level.rule is None or level.rule.system is None:
            self.levels[level.name] = level
            return
        inner = []
        for state in level.states:
            step, others = _Copy(self, level, state, state.name).made()
            for other in others:
                self._level(other)
            if step.reset is not None:
                if level.reset is not None:
                    self._two_resets(level, step)
                level = replace(level, reset=step.reset)
                step = replace(step, reset=None)
            inner.append(self._nested(step))
        self.levels[level.name] = replace(level, inner=tuple(inner))

    def _nested(self, step: Level) -> Level:
        """A step whose own rule is a system again."""
        if step.rule is None or step.rule.system is None:
            return step
        inner, others = _Copy(self, step, step.states[0], step.name).made()
        for other in others:
            self._level(other)
        return replace(step, inner=(self._nested(inner),))

    def _two_resets(self, level: Level, step: Level) -> None:
        self.report.add(
            "NLC105",
            f"level `{level.name}` is reset by itself and by its rule",
            level.reset.span,
            "this one",
            related=[Label(step.reset.span, "and this one")],
            helps=["remove one of them"],
        )


class _Copy:
    """One system made the rule of one state; ``gradient`` names the leaves that are its ``g``."""

    def __init__(self, inline: _Inline, level: Level, state: State, gradient: str):
        self.inline, self.level, self.state, self.gradient = inline, level, state, gradient
        rule = _routed(level.rule, state)
        self.rule, self.system = rule, rule.system
        self.args = {k: part(e, level.states.index(state)) for k, e in rule.args.items()}
        self.prefix = level.name if len(level.states) == 1 else state.name
        self.trained = next(
            x for x in self.system.levels.values() if x.memory.kind == "trained"
        )
        self.names = self._fresh_names()
        self.hypers = self._hypers()
        self.sizes = self._sizes()

    def made(self) -> tuple[Level, list[Level]]:
        """The step of the trained tensor, and the other levels."""
        for flow in self.system.flows.values():
            owner = flow.level and self.names[flow.level]
            if flow.level == self.trained.name:
                owner = self.level.name
            self.inline.flows[self.names[flow.name]] = Flow(
                self.names[flow.name], self.expr(flow.expr), flow.span, owner
            )
        others = [
            self._other(level) for level in self.system.levels.values() if level is not self.trained
        ]
        return self._step(), others

    # -------------------------------------------------------------------------------------------- names

    def _fresh_names(self) -> dict[str, str]:
        """A name for every level and flow; those of the trained tensor lose its name."""
        taken = set(self.inline.flows) | set(self.inline.levels) | set(self.inline.system.levels)
        taken |= set(self.inline.system.states)
        out: dict[str, str] = {}
        for name in (*self.system.levels, *self.system.flows):
            own = name.removeprefix(f"{self.trained.name}.")
            wanted, n = f"{self.prefix}.{own}", 2
            while wanted in taken:
                wanted, n = f"{self.prefix}.{own}_{n}", n + 1
            taken.add(wanted)
            out[name] = wanted
        return out

    def _state(self, name: str) -> str:
        """The name of a state of one of its levels; the trained tensor's is the state itself."""
        state = self.system.states[name]
        if state.level == self.trained.name:
            return self.state.name
        return self.names[state.level] + name.removeprefix(state.level)

    # -------------------------------------------------------------------------------------------- hypers

    def _hypers(self) -> dict[str, Expr]:
        """What each hyper is here: its argument, else its default over the others."""
        out: dict[str, Expr] = {}

        def settle(hyper: Hyper) -> Expr:
            if hyper.name not in out:
                given = self.args.get(hyper.name)
                out[hyper.name] = rewrite(hyper.default, fill) if given is None else given
            return out[hyper.name]

        def fill(n: Expr) -> Expr | None:
            return self._member(n, settle) if n.op == "hyper" else None

        for hyper in self.system.hypers.values():
            settle(hyper)
        return out

    def _member(self, n: Expr, settle: Callable[[Hyper], Expr]) -> Expr:
        base, _, index = str(n.attr).partition("[")
        value = settle(self.system.hypers[base])
        return value.args[int(index[:-1])] if index else value

    def _sizes(self) -> dict[str, Dim]:
        """The same for hypers in sizes and periods, and the sides of the trained matrix."""
        out: dict[str, Dim] = {}
        for hyper in self.system.hypers.values():
            if isinstance(hyper.value, list):
                out |= {f"{hyper.name}[{i}]": Dim.of(v) for i, v in enumerate(hyper.value) if _whole(v)}
            elif hyper.name in self.rule.sizes:
                out[hyper.name] = self.rule.sizes[hyper.name]
            elif _whole(hyper.value):
                out[hyper.name] = Dim.of(hyper.value)
        dims = self.state.dims
        if len(dims) == 2:
            out |= {f"{side}({self.trained.name})": d for side, d in zip(("rows", "cols"), dims)}
        return out

    # -------------------------------------------------------------------------------------------- parts

    def expr(self, e: Expr) -> Expr:
        """An expression of the system in the caller's terms."""

        def rule(n: Expr) -> Expr | None:
            if n.op == "hyper":
                return self._member(n, lambda h: self.hypers[h.name])
            if n.op == "g":
                return Expr("gradient", (), self.gradient, None, n.span)
            if n.op == "flow":
                return replace(n, attr=self.names[n.attr])
            if n.op == "state":
                name, time = n.attr
                full = self._state(name)
                base = full == self.state.name and time == "prev"  # W is B
                return replace(n, attr=(full, "base" if base else time))
            if n.op in ("variable", "grad"):
                return replace(n, attr=self._state(str(n.attr)))
            if n.op == "initial":
                own = n.attr == self.trained.name
                return replace(n, attr=self.level.name if own else self.names[n.attr])
            if n.op == "index" and n.attr[0] == "t":
                own = n.attr[1] in (None, self.trained.name)
                ticks = self.level.name if own else self.names[n.attr[1]]
                return replace(n, attr=("t", ticks))
            return replace(n, attr=_sized(n.attr, self.sizes)) if n.attr is not None else None

        return rewrite(e, rule)

    def _dims(self, dims: Dims) -> Dims:
        out: list = []
        for d in dims:
            out += self.state.dims if isinstance(d, Like) else [d.substitute(self.sizes)]
        return tuple(out)

    def _clock(self, clock: Clock) -> Clock:
        """``every k steps`` of the system is every k ticks of the level."""
        mine = self.level.clock
        if clock.kind != "every":
            return clock
        count = clock.count.substitute(self.sizes)
        value = count.evaluate(self.inline.system.sizes)
        return Clock("every", mine.unit, mine.count * count, mine.default * value)

    def _other(self, level: Level) -> Level:
        """One of the system's other levels, in the caller's terms."""
        name = self.names[level.name]
        states = tuple(
            replace(s, name=self._state(s.name), level=name, dims=self._dims(s.dims))
            for s in level.states
        )
        mapped = level.map(self.expr)
        states = tuple(
            replace(s, init=old.init) for s, old in zip(states, mapped.states, strict=True)
        )
        return replace(
            mapped,
            name=name,
            clock=self._clock(level.clock),
            memory=replace(level.memory, states=states, text=self._text(level)),
            update=mapped.update and {self._state(k): e for k, e in mapped.update.items()},
            rule=self._rule(mapped.rule),
            anchor=level.anchor and self._clock(level.anchor),
            reset=self._reset(mapped),
            backprop=self.level.backprop and level.backprop,
        )

    def _text(self, level: Level) -> str:
        """The memory as it is called, the trained tensor by the name of the state."""
        return re.sub(rf"\b{self.trained.name}\b", self.state.name, level.memory.text)

    def _rule(self, rule: Rule | None) -> Rule | None:
        if rule is None:
            return None
        return replace(rule, sizes={k: d.substitute(self.sizes) for k, d in rule.sizes.items()})

    def _reset(self, level: Level) -> Reset | None:
        """Its own reset, or with L's where that takes the states of the rule along."""
        if level.reset is not None:
            return replace(level.reset, every=self._clock(level.reset.every))
        outer = self.level.reset
        return replace(outer, to=None) if outer is not None and outer.rule else None

    def _step(self) -> Level:
        """What the system does to its trained tensor, as a step of the state."""
        mapped = self.trained.map(self.expr)
        decay = self.args.get("decay") if "decay" not in self.system.hypers else None
        rule, update = self._rule(mapped.rule), mapped.update
        if decay is not None and rule is not None:
            own = rule.args.get("decay")
            both = decay if own is None else Expr("mul", (decay, own), None, None, decay.span)
            rule = replace(rule, args={**rule.args, "decay": both})
        if update is not None:
            base = Expr("state", (), (self.state.name, "base"))
            kept = base if decay is None else Expr("mul", (decay, base), None, None, decay.span)
            update = {self.state.name: substitute(e, {base: kept}) for e in update.values()}
        return replace(
            mapped,
            name=self.names[self.trained.name],
            clock=self.level.clock,
            memory=Memory("trained", (self.state,), text=self.level.memory.text),
            rule=rule,
            update=update,
            toward=mapped.toward if mapped.toward is not None else self._toward(),
            reset=mapped.reset
            and replace(mapped.reset, every=self._clock(mapped.reset.every)),
            backprop=True,
        )

    def _toward(self) -> Expr | None:
        toward = self.level.toward
        return None if toward is None else part(toward, self.level.states.index(self.state))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _sized(attr: object, sizes: dict[str, Dim]) -> object:
    """The sizes that an operator carries, in the caller's terms."""
    if isinstance(attr, Dim):
        return attr.substitute(sizes)
    if isinstance(attr, tuple):
        return tuple(_sized(a, sizes) for a in attr)
    return attr


def _routed(rule: Rule, state: State) -> Rule:
    """The rule for a tensor of this shape."""
    return rule
