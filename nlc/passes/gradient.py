"""Expression -> expressions: its slopes, by reverse mode over the typed IR."""

from __future__ import annotations

from collections.abc import Iterable

from nlc.ir.expr import Expr, walk
from nlc.ir.ops import OPS, NotDifferentiable, add, make, mul, num
from nlc.ir.update import Step
from nlc.passes.simplify import simplify


def gradient(
    e: Expr, variables: Iterable[Expr], steps: list[Step] | None = None
) -> dict[Expr, Expr]:
    """∂e/∂v for a scalar ``e``, v by v; a variable that e does not depend on is left out.

    Raises NotDifferentiable where the way to a variable passes an operator without a gradient.
    """
    wanted = set(variables)
    nodes = list(walk(e))
    depends: dict[int, bool] = {}
    for node in nodes:
        depends[id(node)] = node in wanted or any(depends[id(a)] for a in node.args)
    if not depends[id(e)]:
        return {}
    adjoint: dict[int, Expr] = {id(e): num(1)}
    found: dict[Expr, Expr] = {}
    for node in reversed(nodes):
        g = adjoint.get(id(node))
        if g is None or not depends[id(node)]:
            continue
        if node in wanted:
            found[node] = simplify(add(found[node], g)) if node in found else g
            continue
        if node.op in ("total", "recent") and node.type.dims == ():
            for v, inner in gradient(node.args[0], wanted).items():
                gathered = simplify(mul(g, gathered_as(node, inner)))
                found[v] = simplify(add(found[v], gathered)) if v in found else gathered
            continue
        if node.op not in OPS or OPS[node.op].vjp is None:
            raise NotDifferentiable(
                node, OPS[node.op].why if node.op in OPS else "it has no gradient"
            )
        if steps is not None and node is not e:
            steps.append(Step("chain rule", node, g))
        for arg, grad in zip(node.args, OPS[node.op].vjp(node, g)):
            if grad is None or not depends[id(arg)]:
                continue
            grad = simplify(grad)
            known = adjoint.get(id(arg))
            adjoint[id(arg)] = grad if known is None else simplify(add(known, grad))
    return found


def gathered_as(node: Expr, e: Expr) -> Expr:
    """``e`` gathered over the ticks of another ``total`` or ``recent``, of which it may not change in each."""
    return make(node.op, e.with_type(e.type.at(node.args[0].type.clock)), attr=node.attr)
