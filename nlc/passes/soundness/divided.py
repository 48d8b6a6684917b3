"""Steps that divide by a memory while it is 0 still: a slow one up to its first tick, any one before it.

In ``m / (sqrt(P) + eps)`` of a P that first ticks at step 5 the divisor is eps for four steps. What a step is at its
level's first tick is told from the numbers in it: states that are 0 there, hypers at their defaults, and t. Nothing is
said of a quotient whose size the step does not have: one that is clipped, made orthogonal or multiplied by 0, or by
which something is divided.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt

from nlc.ir.expr import Expr, walk
from nlc.ir.system import Level, State, System
from nlc.ir.types import ONE
from nlc.passes.soundness.judge import Judge, zero_start
from nlc.passes.soundness.words import number
from nlc.passes.soundness.zeros import ALONE, ANY, COMPARED

LEAST = 1e-3  # a constant below is an eps, which keeps a quotient finite but bounds nothing
_THROUGH = frozenset("T per_key per_value stop mean".split())  # of one number, the same
# Whose size is not that of what they take; others that bound have a range that says so.
_RESIZED = frozenset("exp expm1 log l2norm rmsnorm layernorm newton_schulz eigh_basis qr".split())
_NUMBERS: dict[str, Callable[..., float]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
    "maximum": max,
    "minimum": min,
    "neg": operator.neg,
    "abs": abs,
    "sqrt": sqrt,
    **COMPARED,
}
_INVERTED = {"div": 1, "inv_root": 0, "solve": 0}  # which operand must not be near 0


@dataclass(frozen=True)
class Divided:
    """``by`` is no more than ``left`` at the first tick, since ``state`` is 0 there."""

    by: Expr
    left: float
    state: State


def divided(system: System, level: Level, step: Expr) -> Divided | None:
    """The first quotient of a level's step whose divisor is next to nothing at the level's first tick."""
    return next(_First(system, level).quotients(step), None)


class _First:
    """The numbers of expressions at the first tick of a level."""

    def __init__(self, system: System, level: Level):
        self.system, self.level = system, level
        self.known: dict[Expr, float | None] = {}
        self.flows: dict[str, float | None] = {}
        self.seen: set[str] = set()  # flows that were looked through

    def quotients(self, e: Expr) -> Iterator[Divided]:
        """Those that certainly are computed, and whose size is that of the step."""
        made_up = {
            n
            for node in self._through(e, set())
            if (by := self._divisor(node)) is not None
            for n in self._through(by, set())
        }
        stack = [e]
        while stack:
            node = stack.pop()
            if node.op == "flow" and node.attr not in self.seen:
                self.seen.add(node.attr)
                stack.append(self.system.flows[node.attr].expr)
            if node.op == "where":
                holds = self.of(node.args[0])
                if holds is not None:
                    stack.append(node.args[1 if holds else 2])
                continue  # nothing is said of what may be passed over
            if self._bounded(node):
                continue
            by = self._divisor(node)
            if by is not None and node not in made_up:
                yield from self._quotient(node, by)
            stack += [a for a in reversed(node.args) if a is not by]

    def _bounded(self, node: Expr) -> bool:
        """Whether a value is no larger than over a divisor that bounds, whatever is in it."""
        most = [a.type.range.high for a in node.args if a.type] if node.op == "minimum" else []
        known = self.of(node)
        sizes = [node.type.range.magnitude] if node.type else []
        sizes += [abs(known)] if known is not None else []
        return node.op in _RESIZED or any(x <= 1 / LEAST for x in (*most, *sizes))

    def _divisor(self, node: Expr) -> Expr | None:
        if node.op == "pow":
            return node.args[0] if (self.of(node.args[1]) or 0) < 0 else None
        return node.args[_INVERTED[node.op]] if node.op in _INVERTED else None

    def _quotient(self, node: Expr, by: Expr) -> Iterator[Divided]:
        left = self.of(by)
        if left is None or abs(left) >= LEAST:
            return
        state = next((s for s in map(self._zero, self._leaves(by)) if s is not None), None)
        if state is not None:
            yield Divided(by, abs(left), state)

    def _leaves(self, e: Expr) -> Iterator[Expr]:
        """The states in an expression, through flows."""
        return (n for n in self._through(e, set()) if n.op == "state")

    def _through(self, e: Expr, passed: set[str]) -> Iterator[Expr]:
        """All that is in an expression, and in the flows that it reads."""
        for n in walk(e):
            yield n
            if n.op == "flow" and n.attr not in passed:
                passed.add(n.attr)
                yield from self._through(self.system.flows[n.attr].expr, passed)

    def of(self, e: Expr) -> float | None:
        """What all elements of a value are; None where they differ or are not known."""
        for node in walk(e):
            if node not in self.known:
                self.known[node] = self._of(node)
        return self.known[e]

    def _of(self, node: Expr) -> float | None:
        args = [self.known[a] for a in node.args]
        if node.op in ANY and 0 in args:
            return 0.0
        if node.op == "where":
            return None if args[0] is None else args[1 if args[0] else 2]
        if not args:
            return self._leaf(node)
        if node.op in ALONE and args[0] == 0:
            return 0.0
        if None in args:
            return None
        if node.op in _THROUGH or (node.op == "total" and node.attr[0] != "sum"):
            return args[0]
        try:
            return float(_NUMBERS[node.op](*args)) if node.op in _NUMBERS else None
        except (ArithmeticError, ValueError, TypeError):
            return None

    def _leaf(self, node: Expr) -> float | None:
        if node.op == "num":
            return float(node.attr)
        if node.op == "zeros" or (node.op == "state" and self._zero(node) is not None):
            return 0.0
        if node.op == "hyper" and node.type is not None:
            known = node.type.range
            return known.low if known.low == known.high else None
        if node.op == "index" and node.attr[0] == "t":
            clock, other = self.level.clock, node.attr[1]
            counted = clock if other is None else self.system.levels[other].clock
            return 1.0 if counted == clock and (other or clock.count == ONE) else None
        if node.op == "flow" and node.attr not in self.flows:
            self.flows[node.attr] = None  # in a circle through `prev`
            self.flows[node.attr] = self.of(self.system.flows[node.attr].expr)
        return self.flows.get(node.attr) if node.op == "flow" else None

    def _zero(self, node: Expr) -> State | None:
        """The state of a read that gives 0: one that starts there, before its first tick."""
        name, time = node.attr
        s = self.system.states[name]
        clock = self.system.levels[s.level].clock
        before = not clock.faster(self.level.clock) if time != "now" else False
        held = time == "now" and clock.held_for(self.level.clock)
        return s if (before or held) and zero_start(s) else None


class FirstTick(Judge):
    """NLC807."""

    def _divides(self) -> None:
        """A step that is as long as a divisor is small, before what it divides by has ticked."""
        steps = (divided(self.system, self.level, self.joint.written(n)) for n in self._order())
        found = next((x for x in steps if x is not None), None)
        if found is not None:
            self._blown(found)

    def _blown(self, found: Divided) -> None:
        name, other = found.state.name, self.system.levels[found.state.level]
        held = other.clock.held_for(self.level.clock)
        late = f"first ticks at the end of {other.clock.valued.removeprefix('every ')}"
        foreign = other.span.source is not self.level.span.source
        where = f"`{other.name.rpartition('.')[2]}`" + (
            f" of `{self.level.rule.name}`" if foreign and self.level.rule else ""
        )
        self.report.add(
            "NLC807",
            f"the first step of level `{self.level.name}` divides by next to nothing",
            self._place(found.by, "rule" if self.level.rule else "update"),
            f"what it divides by is {number(found.left)} while `{name}` is 0",
            notes=[f"`{name}` starts at 0, and {late if held else 'is read before it ticks'}"],
            helps=[
                f"write `phase: start` in level {where}, so that it ticks first",
                "or divide by more than an eps: where its first values are 0, they hold up to the next tick",
            ]
            if held
            else [f"read `{name}` as it is behind its tick, or start it elsewhere by `init:`"],
        )
