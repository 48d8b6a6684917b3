"""Which weights of a memory never leave zero: the step from zero is zero.

In ``W1 @ silu(W2 @ z)`` each weight's gradient has the other as a factor, so two that are zero stay so.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable

from nlc.ir.expr import Expr, walk
from nlc.ir.system import System

# f(0, …) = 0, whatever the other operands are; all operands 0; one operand 0.
ALONE = frozenset(
    "neg abs sign sqrt expm1 tanh silu gelu relu erf sum mean sqnorm norm T per_key per_value sum_rows sum_cols"
    " split merge slice flatten unflatten diag diagonal stop total l2norm rmsnorm rotary newton_schulz".split()
)
_ALL = frozenset({"add", "sub", "maximum", "minimum", "concat", "delay"})
_SINGULAR = {"div": 1, "log": 0, "l2norm": 1}  # the operand that must not be 0
ANY = frozenset({"mul", "dot", "matmul", "outer"})
COMPARED = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}

Found = bool | None  # of a value: it is zero, it may be any number, it may be none (0 / 0)

Reads = dict[str, frozenset[str]]


def states_of_flows(system: System) -> Reads:
    """For each flow the states that it reads, through other flows too."""
    out: Reads = {}

    def reads(name: str) -> frozenset[str]:
        if name not in out:
            out[name] = frozenset()  # in a circle through `prev`: known once the circle is closed
            nodes = list(walk(system.flows[name].expr))
            own = {n.attr[0] for n in nodes if n.op == "state"}
            inner = [reads(n.attr) for n in nodes if n.op == "flow"]
            out[name] = frozenset(own).union(*inner)
        return out[name]

    for name in system.flows:
        reads(name)
    return out


def stuck(
    system: System, reads: Reads, steps: dict[str, tuple[Expr, ...]], states: Iterable[str]
) -> frozenset[str]:
    """The largest set of ``states`` that stays zero once all of it is, whatever all else is.

    ``steps``: for each state all that it may become.
    """
    zero = frozenset(states)
    while zero:
        test = _Zero(system, reads, zero)
        left = frozenset(name for name in zero if all(map(test.certain, steps[name])))
        if left == zero:
            break
        zero = left
    return zero


def _holds(condition: Expr, found: dict[int, Found]) -> bool | None:
    """Whether a comparison of numbers holds; None if they are not known."""
    compared = COMPARED.get(condition.op)
    if compared is None or not all(x.op == "num" or found[id(x)] for x in condition.args):
        return None
    return compared(*(x.attr if x.op == "num" else 0 for x in condition.args))


class _Zero:
    """Tests expressions while the states of a set are zero."""

    def __init__(self, system: System, reads: Reads, states: frozenset[str]):
        self.system, self.reads, self.states = system, reads, states
        self.flows: dict[str, Found] = {}
        self.open: set[str] = set()  # flows that are being tested

    def certain(self, e: Expr) -> bool:
        """Whether ``e`` is zero, and nothing that counts in it may be infinite there."""
        return self._found(e) is True

    def _found(self, e: Expr) -> Found:
        found: dict[int, Found] = {}
        for node in walk(e):
            found[id(node)] = self._of(node, found)
        return found[id(e)]

    def _of(self, node: Expr, found: dict[int, Found]) -> Found:
        """Of a node, all of whose operands are found."""
        args = [found[id(a)] for a in node.args]
        if node.op == "where" and (chosen := _holds(node.args[0], found)) is not None:
            return args[1 if chosen else 2]  # what the other comes to does not matter
        if None in args or (node.op in _SINGULAR and args[_SINGULAR[node.op]]):
            return None
        if node.op == "flow":
            return self._flow(node.attr)
        return self._zero(node, [bool(a) for a in args])

    def _zero(self, node: Expr, args: list[bool]) -> bool:
        if node.op == "num":
            return node.attr == 0
        if node.op == "zeros":
            return True
        if node.op == "state":
            return node.attr[0] in self.states
        if node.op in ALONE or node.op == "div":
            return args[0]
        if node.op in ("linear", "conv"):  # without a bias
            return args[0] and len(args) == 2
        if node.op in _ALL:
            return all(args)
        if node.op in ANY:
            return any(args)
        if node.op == "pow":
            return args[0] and node.args[1].op == "num" and node.args[1].attr > 0
        return node.op == "where" and all(args[1:])

    def _flow(self, name: str) -> Found:
        if name in self.open or not self.reads[name] & self.states:
            return False
        if name not in self.flows:
            self.open.add(name)
            self.flows[name] = self._found(self.system.flows[name].expr)
            self.open.discard(name)
        return self.flows[name]
