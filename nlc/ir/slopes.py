"""The gradients of operators: vector-Jacobian products as expressions, which the table of operators names."""

from __future__ import annotations

import math
from collections.abc import Callable

from nlc.ir.expr import Expr
from nlc.ir.nodes import NotDifferentiable, Vjp, add, div, fit, make, mul, neg, num, power, sub
from nlc.ir.types import Dim


def fits(f: Vjp) -> Vjp:
    """Elementwise rules: each adjoint is brought to the shape of its operand."""

    def vjp(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
        return tuple(x and fit(x, a) for x, a in zip(f(node, g), node.args))

    return vjp


def unary(derivative: Callable[[Expr, Expr], Expr]) -> Vjp:
    """``derivative(x, y)`` of an elementwise function ``y = f(x)``."""
    return lambda node, g: (mul(g, derivative(node.args[0], node)),)


def pow(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    a, b = node.args
    return (mul(g, mul(b, power(a, sub(b, num(1))))), mul(g, mul(node, make("log", a))))


def matmul(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    a, b = node.args
    rank = lambda x: 2 if x.type.like else x.type.rank  # noqa: E731
    if rank(b) == 1:
        return make("outer", g, b), make("matmul", make("T", a), g)
    if rank(a) == 1:
        return make("matmul", b, g), make("outer", a, g)
    return make("matmul", g, make("T", b)), make("matmul", make("T", a), g)


def norm(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    x, p = node.args
    safe = make("maximum", node, num(1e-30))  # the subgradient at 0 is 0
    if p.op == "num" and p.attr == 2:
        return mul(g, div(x, safe)), None
    raised = mul(make("sign", x), power(make("abs", x), sub(p, num(1))))
    return mul(g, mul(raised, power(safe, sub(num(1), p)))), None


def extremum(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    """Ties share the adjoint, as in torch."""
    x = node.args[0]
    mask = make("where", make("eq", x, node), num(1.0), num(0.0))
    return (mul(div(g, make("sum", mask)), mask),)


def dot_of_rows(a: Expr, b: Expr) -> Expr:
    """The inner product of two vectors; of two matrices that of each row, as a factor for its row."""
    if a.type.rank == 2:
        return make("per_value", make("sum_cols", mul(a, b)))
    return make("dot", a, b)


def l2norm(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    x, eps = node.args
    square = dot_of_rows(x, x) if x.type.rank == 2 else make("sqnorm", x)
    length = make("sqrt", add(square, eps))
    return div(sub(g, mul(node, dot_of_rows(node, g))), length), None


def concat_vjp(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    (n,), (m,) = (a.type.dims for a in node.args)
    return make("slice", g, attr=(Dim.of(0), n)), make("slice", g, attr=(n, n + m))


def slice_vjp(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    """The adjoint among zeros for the other channels."""
    (x,), (start, stop) = node.args, node.attr
    (n,) = x.type.dims
    if start != Dim.of(0):
        g = make("concat", make("zeros", make("slice", x, attr=(Dim.of(0), start))), g)
    if stop != n:
        g = make("concat", g, make("zeros", make("slice", x, attr=(stop, n))))
    return (g,)


def rmsnorm(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    x, w = node.args
    scale = power(add(make("mean", mul(x, x)), num(EPS)), -0.5)
    u = mul(w, g)
    normed = mul(x, scale)
    return mul(scale, sub(u, mul(normed, make("mean", mul(normed, u))))), mul(g, normed)


def layernorm(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    x, w, _ = node.args
    centred = sub(x, make("mean", x))
    scale = power(add(make("mean", mul(centred, centred)), num(EPS)), -0.5)
    normed, u = mul(centred, scale), mul(w, g)
    dx = mul(scale, sub(sub(u, make("mean", u)), mul(normed, make("mean", mul(normed, u)))))
    return dx, mul(g, normed), g


def silu_curvature(x: Expr) -> Expr:
    s = make("sigmoid", x)
    bend = add(num(2.0), mul(x, sub(num(1.0), mul(num(2.0), s))))
    return mul(mul(s, sub(num(1.0), s)), bend)


def gelu_curvature(x: Expr) -> Expr:
    square = mul(x, x)
    pdf = mul(num(1 / math.sqrt(2 * math.pi)), make("exp", mul(num(-0.5), square)))
    return mul(pdf, sub(num(2.0), square))


# the second derivatives of functions whose first is an operator, ``slope``
CURVATURES: dict[str, Callable[[Expr], Expr]] = {"silu": silu_curvature, "gelu": gelu_curvature}


def linear_vjp(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    """By the input and, where the output is a vector, by the weights; a scalar's weight is one row."""
    x, w, *bias = node.args
    if node.type.dims == ():
        return mul(g, make("sum_rows", w)), None, *(None for _ in bias)
    return make("matmul", make("T", w), g), make("outer", g, x), *(g for _ in bias)


def solve(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    """With A x = b and Aᵀ y = g: y by b, and −y xᵀ by A."""
    A, b = node.args
    if node.attr is not None:
        raise NotDifferentiable(node, "steps of conjugate gradients have no gradient rule")
    y = make("solve", make("T", A), g)
    vector = b.type.rank == 1 and not b.type.like
    by_A = make("outer", y, node) if vector else make("matmul", y, make("T", node))
    return neg(by_A), y


EPS = 1e-6  # of rmsnorm, layernorm and l2norm, inside the root

ge = lambda a, b: make("ge", a, b)  # noqa: E731
where = lambda c, a, b: make("where", c, a, b)  # noqa: E731
zero = num(0.0)
