"""Whether a value has a head axis, told from what it reads alone: for messages on systems whose types are not known."""

from __future__ import annotations

from nlc.ir.expr import Expr, walk
from nlc.ir.system import System

_OF_LEVEL = ("objective", "initial")
_OF_STATE = ("variable", "grad")


def headed(e: Expr, system: System) -> bool:
    """``split`` makes the axis, ``merge`` ends it; a level has one where anything that it reads does."""
    owner = {s.name: s.level for s in system.states.values()}
    stack, seen = [e], set()
    while stack:
        n = stack.pop()
        if id(n) in seen or n.op == "merge":
            continue
        seen.add(id(n))
        if n.op == "split" or (n.op == "index" and n.attr[0] == "head"):
            return True
        if n.op == "input" and system.inputs[n.attr].head:
            return True
        if n.op == "weight" and n.attr in system.weights and system.weights[n.attr].head:
            return True
        stack += n.args
        if n.op == "flow" and n.attr in system.flows:
            stack.append(system.flows[n.attr].expr)
        name = str(n.attr) if n.op in _OF_LEVEL else ""
        if n.op == "state":
            name = owner.get(n.attr[0], "")
        elif n.op in _OF_STATE:
            name = owner.get(n.attr, "")
        if name in system.levels:
            own = [*system.levels[name].expressions]
            own += [f.expr for f in system.flows.values() if f.level == name]
            stack += [x for part in own for x in walk(part)]
    return False
