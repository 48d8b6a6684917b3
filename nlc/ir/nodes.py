"""Typed nodes: ``make`` is the only way to build one, by the record of its operator.

The records stand in ``ops``, which is to be imported; here is what they are made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from nlc.base.span import Span
from nlc.ir import ranges as r
from nlc.ir import shape_rules
from nlc.ir.expr import Expr
from nlc.ir.shapes import Shapes
from nlc.ir.types import ANY, NEVER, Dim, Dims, Range, Type, fastest

ShapeRule = Callable[[Shapes, list[Dims], Expr], Dims]
Vjp = Callable[[Expr, Expr], tuple[Expr | None, ...]]


@dataclass(frozen=True)
class Op:
    """``vjp(node, g)`` gives the adjoint of each operand, None where it is zero; no ``vjp``: not differentiable."""

    shape: ShapeRule
    vjp: Vjp | None = None
    range: Callable[..., Range] = lambda *a: ANY
    dtype: str = "float"  # "same": int stays int
    why: str = ""  # what to tell a user who differentiates it
    size: Callable[[Dims], Dim | None] | None = (
        None  # a number that the operand's shape says, if it is known
    )


class NotDifferentiable(Exception):
    """``node`` cannot be differentiated; ``reason`` and ``help`` are for the user."""

    def __init__(self, node: Expr, reason: str, help: str = ""):
        super().__init__(reason)
        self.node, self.reason = node, reason
        self.help = (
            help or "move it into a flow outside the objective, or write `stop(…)` around it"
        )


OPS: dict[str, Op] = {}  # ``ops`` fills it
STRICT = Shapes()


def make(op: str, *args: Expr, attr: object = None, span: Span | None = None) -> Expr:
    """A typed node over typed operands; ShapeError if they do not fit."""
    bare = Expr(op, args, attr, None, span)
    rule = OPS[op]
    dims = rule.shape(STRICT, [a.type.dims for a in args], bare)
    return with_dims(bare, dims)


def with_dims(node: Expr, dims: Dims) -> Expr:
    """``node`` with the type that follows from its operands' types, given its shape."""
    rule, types = OPS[node.op], [a.type for a in node.args]
    head = {"split": True, "merge": False}.get(node.op, any(t.head for t in types))
    dtype = rule.dtype
    if dtype == "same":
        dtype = "int" if types and all(t.dtype == "int" for t in types) else "float"
    bounds = rule.range(*(t.range for t in types)) if types else ANY
    if rule.shape is shape_rules.elementwise and any(t.dims != dims for t in types):
        bounds = replace(bounds, norm=_broadcast_norm(node.op, types))
    if rowwise(node.op) and len(dims) == 2:
        bounds = replace(bounds, norm=math.inf)  # what is known is the norm of a row
    if dims == ():
        bounds = replace(bounds, norm=bounds.magnitude)
    if rule.size is not None:
        known, kind = rule.size(types[0].dims), Type((), False, NEVER, bounds, "int")
        return node.with_type(kind) if known is None else leaf("size", known, kind, node.span)
    # what is gathered is known once a tick of who gathers it: attr is (sum | mean | last, or how many; that clock)
    gathers = node.op in ("total", "recent")
    clock = node.attr[1] if gathers else fastest(t.clock for t in types)
    return node.with_type(Type(dims, head, clock, bounds, dtype))


def _broadcast_norm(op: str, types: list[Type]) -> float:
    """A scalar scales a norm; spread over a vector in any other way it has none that is known."""
    scalars = [t for t in types if t.dims == ()]
    others = [t for t in types if t.dims != ()]
    if (
        op in ("mul", "div")
        and len(scalars) == len(others) == 1
        and (op == "mul" or types[1] is scalars[0])
    ):
        factor = scalars[0].range if op == "mul" else r.reciprocal(scalars[0].range)
        return r.times(factor.magnitude, others[0].range.norm)
    return math.inf


def leaf(op: str, attr: object, type: Type, span: Span | None = None) -> Expr:
    return Expr(op, (), attr, type, span)


def num(value: int | float, span: Span | None = None) -> Expr:
    dtype = "int" if isinstance(value, int) else "float"
    return Expr("num", (), value, Type((), False, NEVER, Range.point(value), dtype), span)


def add(a: Expr, b: Expr) -> Expr:
    return make("add", a, b)


def sub(a: Expr, b: Expr) -> Expr:
    return make("sub", a, b)


def mul(a: Expr, b: Expr) -> Expr:
    return make("mul", a, b)


def div(a: Expr, b: Expr) -> Expr:
    return make("div", a, b)


def neg(a: Expr) -> Expr:
    return make("neg", a)


def power(a: Expr, b: Expr | float) -> Expr:
    return make("pow", a, b if isinstance(b, Expr) else num(b))


def fill(value: Expr, like: Expr) -> Expr:
    """A scalar spread over the shape of another value."""
    return mul(value, make("ones", like)) if like.type.dims else value


def fit(g: Expr, node: Expr) -> Expr:
    """An adjoint brought to the shape of its node: summed where the node was broadcast."""
    if node.type.dims == () and g.type.dims != ():
        return make("sum", g)
    if g.type.dims == () and node.type.dims != ():
        return fill(g, node)
    return g


def pointwise(op: str) -> bool:
    """Whether an operator maps one value element by element."""
    return (
        op in OPS
        and OPS[op].shape is shape_rules.same
        and op not in ("neg", "zeros", "ones", "total")
    )


def elementwise(op: str) -> bool:
    """Whether an operator maps several values element by element."""
    return op in OPS and OPS[op].shape is shape_rules.elementwise


def rowwise(op: str) -> bool:
    """Whether an operator maps a vector, and a matrix row by row."""
    return op in OPS and OPS[op].shape is shape_rules.rows
