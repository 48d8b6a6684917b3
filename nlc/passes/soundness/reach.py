"""Which values an expression can certainly take: the other side of a ``Range``.

A range says what a value never leaves, a reach what it comes to (or as near as one likes) for some
weights and some tokens. A warning needs the second: ``a / (a + b)`` has no bound that intervals know, and
still never leaves [0, 1]. A range is reached where its operands vary independently, so a reach carries the
names of what it varies with, and two reaches that share a name make one that is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nlc.ir import ranges as r
from nlc.ir.expr import Expr
from nlc.ir.ops import rowwise
from nlc.ir.system import System
from nlc.ir.types import Range
from nlc.lib.functions import WEIGHTED

Sources = frozenset[str] | None  # None: the bounds may be loose
FIXED: frozenset[str] = frozenset()


def together(parts: Iterable[Sources]) -> Sources:
    """What independent parts vary with; None if one is not known or two share a source."""
    out = FIXED
    for part in parts:
        if part is None or out & part:
            return None
        out |= part
    return out


@dataclass(frozen=True)
class Reach:
    """A number (or each element of a value) within ``range``, and with what its ends are reached."""

    range: Range
    sources: Sources = FIXED

    @property
    def known(self) -> bool:
        return self.sources is not None

    def times(self, other: Reach) -> Reach:
        return Reach(r.mul(self.range, other.range), together((self.sources, other.sources)))

    def plus(self, other: Reach) -> Reach:
        return Reach(r.add(self.range, other.range), together((self.sources, other.sources)))

    def minus(self, other: Reach) -> Reach:
        return Reach(r.sub(self.range, other.range), together((self.sources, other.sources)))


def point(value: float) -> Reach:
    return Reach(Range.point(value))


# Continuous functions of one value: the image of an interval is the interval that the range states.
_IMAGE = frozenset(
    "neg exp expm1 log sqrt abs sigmoid tanh silu gelu relu softplus erf"
    " split merge slice stop T per_key per_value squeeze unsqueeze flatten unflatten diagonal".split()
)
_PAIRS = frozenset({"add", "sub", "mul", "div", "maximum", "minimum", "pow", "clip", "delay"})
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})


class Reaches:
    """Reaches of the expressions of one system, each node once."""

    def __init__(self, system: System):
        self.system = system
        # Several inputs, or one with heads, are flows that the caller computes, and bounds as it likes.
        self.given = len(system.inputs) > 1 or any(i.head for i in system.inputs.values())
        self.flows: dict[str, Sources] = {}
        self.norms: dict[str, Reach] = {}
        self.done: dict[
            int, tuple[Expr, Sources]
        ] = {}  # the node too, so that its id stays its own

    def of(self, e: Expr) -> Reach:
        """Of every element."""
        return Reach(e.type.range, self.sources(e))

    def sources(self, e: Expr) -> Sources:
        """With what the ends of the elements' range are reached."""
        if id(e) not in self.done:
            self.done[id(e)] = (e, self._sources(e))
        return self.done[id(e)][1]

    def _sources(self, e: Expr) -> Sources:
        op, args = e.op, e.args
        if op in ("num", "ones", "zeros"):
            return FIXED
        if op == "hyper":  # at its default
            return FIXED if e.type.range.low == e.type.range.high else None
        if op == "flow":
            return self._flow(e.attr)
        if op == "input":
            return None if self.given else frozenset({f"input {e.attr}"})
        if op in ("weight", "g", "index"):
            return frozenset({f"{op} {e.attr}"})
        if op == "state":
            return self._state(*e.attr)
        if op in WEIGHTED:  # the weights alone reach everything, whatever they are applied to
            return None if self._nothing(args[0]) else frozenset({f"weights {e.attr}"})
        if op in _IMAGE:
            return self.sources(args[0])
        if op in _PAIRS:
            return together(map(self.sources, args))
        if op == "where":
            free = self.sources(args[0])
            return together(map(self.sources, args)) if free else None
        if op in _COMPARISONS:
            a, b = (x.type.range for x in args)
            both = a.low < b.high and b.low < a.high
            return together(map(self.sources, args)) if both else None
        if op == "matmul":
            return self._matmul(*args)
        if op == "sum":
            everything = args[0].type.range == Range()
            return self.sources(args[0]) if everything else None
        if op == "sqnorm" or (op == "norm" and args[1].op == "num" and args[1].attr == 2):
            return self.norm(args[0]).sources
        if op in ("l2norm", "softmax"):
            return self.sources(args[0]) if args[0].type.range.magnitude == math.inf else None
        if op == "rotary":
            return self.norm(args[0]).sources
        return None

    def _flow(self, name: str) -> Sources:
        if name not in self.flows:
            self.flows[name] = None  # what reads its own past is not known
            self.flows[name] = self.sources(self.system.flows[name].expr)
        return self.flows[name]

    def _state(self, name: str, time: str) -> Sources:
        """A learned start may be anything. What is gathered from zero on has bounds that nobody states here."""
        state = self.system.states[name]
        if state.trained:
            return frozenset({f"state {name}"})
        bounded = time == "now" and self.system.levels[state.level].project is not None
        return frozenset({f"state {name}"}) if state.learned and not bounded else None

    def _matmul(self, a: Expr, b: Expr) -> Sources:
        """A matrix that may be anything takes what is not zero anywhere, as the weights of `linear` do."""
        for matrix, other in ((a, b), (b, a)):
            if matrix.op in ("state", "weight") and not self._nothing(other):
                return self.sources(matrix)
        return None

    def _nothing(self, e: Expr) -> bool:
        return e.type.range.magnitude == 0 or e.type.range.norm == 0

    # -------------------------------------------------------------------------------------------- norms

    def norm(self, e: Expr) -> Reach:
        """Of the Euclidean norm of a vector or a matrix."""
        op, args = e.op, e.args
        bounds = e.type.range
        if op == "flow":
            if e.attr not in self.norms:
                self.norms[e.attr] = Reach(Range(0.0, bounds.norm), None)
                self.norms[e.attr] = self.norm(self.system.flows[e.attr].expr)
            return self.norms[e.attr]
        if e.type.dims == () or bounds.magnitude == math.inf:
            return Reach(Range(0.0, bounds.norm), self.sources(e))
        if self._spread(e):
            return Reach(Range(0.0, self._longest(e)), self.sources(e))
        if op in ("neg", "stop", "split", "T", "per_key", "per_value", "rotary"):
            return self.norm(args[0])
        if e.type.rank == 2 and rowwise(op):
            return Reach(Range(0.0, self._longest(e)), None)
        if op == "l2norm":
            inner = self.norm(args[0])
            longest = r.unit(Range(norm=inner.range.high), args[1].type.range).norm
            return Reach(Range(0.0, longest), inner.sources)
        if op == "softmax":
            return Reach(Range(0.0, bounds.norm), self.sources(e))
        if op in ("mul", "div"):
            for factor, vector in ((args[0], args[1]), (args[1], args[0])):
                if factor.type.dims == () and (op == "mul" or factor is args[1]):
                    inner, scale = self.norm(vector), self.of(factor)
                    ends = scale.range if op == "mul" else r.reciprocal(scale.range)
                    high = r.times(ends.magnitude, inner.range.high)
                    return Reach(Range(0.0, high), together((inner.sources, scale.sources)))
        return Reach(Range(0.0, self._longest(e)), None)

    def _longest(self, e: Expr) -> float:
        bounds = e.type.range
        return min(bounds.norm, r.times(bounds.magnitude, math.sqrt(self._size(e))))

    def _size(self, e: Expr) -> float:
        """The number of elements at the default hypers."""
        try:
            return float(math.prod(d.evaluate(self.system.sizes) for d in e.type.dims))
        except (AttributeError, KeyError, TypeError, ZeroDivisionError, OverflowError):
            return math.inf

    def _spread(self, e: Expr) -> bool:
        """Whether the elements vary each by itself, so that all reach their bound together."""
        while e.op in _IMAGE or e.op == "flow":
            e = self.system.flows[e.attr].expr if e.op == "flow" else e.args[0]
        return e.op in WEIGHTED or e.op in ("input", "weight")
