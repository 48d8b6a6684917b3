"""The operators: for each its shape, the range of its result, and its gradient (a vector-Jacobian product).

``make`` is the only way to build a typed node. To add an operator, add a record here and a printer in each backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from nlc.base.span import Span
from nlc.ir import matrices
from nlc.ir import ranges as r
from nlc.ir.expr import Expr
from nlc.ir.shapes import ShapeError, Shapes, as_matrix, parts
from nlc.ir.types import ANY, NEVER, ONE, Dim, Dims, Like, Range, Type, fastest

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


# ------------------------------------------------------------------------------------------------ building

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
    if rule.shape is _elementwise and any(t.dims != dims for t in types):
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


# ------------------------------------------------------------------------------------------------ shapes


def _elementwise(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    return s.elementwise(dims)


def _same(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    return dims[0]


def _to_scalar(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    return ()


def _pair_to_scalar(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    s.same(dims[0], dims[1])
    return ()


def _vector_first(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    s.vector(dims[0], 0)
    return dims[0]


def _rows(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    """Of a vector; of a matrix row by row, over its key channels."""
    view = s.view(dims[0])
    if s.known(dims[0]) and len(view) == 2:
        return view
    return _vector_first(s, dims, e)


def _concat(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    if all(s.view(d) == () for d in dims):
        s.vector(dims[0], 0)
    return (s.channels(dims[0], 0) + s.channels(dims[1], 1),)


def _flatten(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    m, n = s.matrix(dims[0], 0)
    return (m * n,)


def _unflatten(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    m, n = e.attr
    if not s.same_dim(s.vector(dims[0], 0), m * n):
        raise ShapeError(f"[{m}, {n}] is needed", 0)
    return (m, n)


def _norm_with_weights(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    n = s.vector(dims[0], 0)
    for operand, weight in enumerate(dims[1:], 1):
        if not s.same_dim(n, s.vector(weight, operand)):
            raise ShapeError(f"the weight is not [{n}]", operand)
    return dims[0]


def _transpose(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    m, n = s.matrix(dims[0], 0)
    return (n, m)


def _outer(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    return (s.vector(dims[0], 0), s.vector(dims[1], 1))


def _squeeze(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    if not s.same_dim(s.vector(dims[0], 0), ONE):
        raise ShapeError("a single channel is needed", 0)
    return ()


def _unsqueeze(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    s.scalar(dims[0], 0)
    return (ONE,)


def _linear(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    m, n = s.matrix(dims[1], 1)
    if not s.same_dim(s.vector(dims[0], 0), n):
        raise ShapeError(f"the weight takes [{n}], this is [{s.vector(dims[0], 0)}]", 0)
    return () if m == ONE else (m,)


def _slice(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    s.vector(dims[0], 0)
    start, stop = e.attr
    return (stop - start,)


def _attend(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    query, key = s.vector(dims[0], 0), s.vector(dims[1], 1)
    if not s.same_dim(query, key):
        raise ShapeError(f"the query is [{query}], the key [{key}]", 0)
    return (s.vector(dims[2], 2),)


def _delay(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    if s.view(dims[1]) != ():
        s.same(dims[0], dims[1])
    return dims[0]


# ------------------------------------------------------------------------------------------------ gradients


def _fits(f: Vjp) -> Vjp:
    """Elementwise rules: each adjoint is brought to the shape of its operand."""

    def vjp(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
        return tuple(x and fit(x, a) for x, a in zip(f(node, g), node.args))

    return vjp


def _unary(derivative: Callable[[Expr, Expr], Expr]) -> Vjp:
    """``derivative(x, y)`` of an elementwise function ``y = f(x)``."""
    return lambda node, g: (mul(g, derivative(node.args[0], node)),)


def _pow(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    a, b = node.args
    return (mul(g, mul(b, power(a, sub(b, num(1))))), mul(g, mul(node, make("log", a))))


def _matmul(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    a, b = node.args
    rank = lambda x: 2 if x.type.like else x.type.rank  # noqa: E731
    if rank(b) == 1:
        return make("outer", g, b), make("matmul", make("T", a), g)
    if rank(a) == 1:
        return make("matmul", b, g), make("outer", a, g)
    return make("matmul", g, make("T", b)), make("matmul", make("T", a), g)


def _norm(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    x, p = node.args
    safe = make("maximum", node, num(1e-30))  # the subgradient at 0 is 0
    if p.op == "num" and p.attr == 2:
        return mul(g, div(x, safe)), None
    raised = mul(make("sign", x), power(make("abs", x), sub(p, num(1))))
    return mul(g, mul(raised, power(safe, sub(num(1), p)))), None


def _extremum(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    """Ties share the adjoint, as in torch."""
    x = node.args[0]
    mask = make("where", make("eq", x, node), num(1.0), num(0.0))
    return (mul(div(g, make("sum", mask)), mask),)


def _dot_of_rows(a: Expr, b: Expr) -> Expr:
    """The inner product of two vectors; of two matrices that of each row, as a factor for its row."""
    if a.type.rank == 2:
        return make("per_value", make("sum_cols", mul(a, b)))
    return make("dot", a, b)


def _l2norm(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    x, eps = node.args
    square = _dot_of_rows(x, x) if x.type.rank == 2 else make("sqnorm", x)
    length = make("sqrt", add(square, eps))
    return div(sub(g, mul(node, _dot_of_rows(node, g))), length), None


def _concat_vjp(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    (n,), (m,) = (a.type.dims for a in node.args)
    return make("slice", g, attr=(Dim.of(0), n)), make("slice", g, attr=(n, n + m))


def _slice_vjp(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    """The adjoint among zeros for the other channels."""
    (x,), (start, stop) = node.args, node.attr
    (n,) = x.type.dims
    if start != Dim.of(0):
        g = make("concat", make("zeros", make("slice", x, attr=(Dim.of(0), start))), g)
    if stop != n:
        g = make("concat", g, make("zeros", make("slice", x, attr=(stop, n))))
    return (g,)


def _rmsnorm(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    x, w = node.args
    scale = power(add(make("mean", mul(x, x)), num(EPS)), -0.5)
    u = mul(w, g)
    normed = mul(x, scale)
    return mul(scale, sub(u, mul(normed, make("mean", mul(normed, u))))), mul(g, normed)


def _layernorm(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    x, w, _ = node.args
    centred = sub(x, make("mean", x))
    scale = power(add(make("mean", mul(centred, centred)), num(EPS)), -0.5)
    normed, u = mul(centred, scale), mul(w, g)
    dx = mul(scale, sub(sub(u, make("mean", u)), mul(normed, make("mean", mul(normed, u)))))
    return dx, mul(g, normed), g


def _silu_curvature(x: Expr) -> Expr:
    s = make("sigmoid", x)
    bend = add(num(2.0), mul(x, sub(num(1.0), mul(num(2.0), s))))
    return mul(mul(s, sub(num(1.0), s)), bend)


def _gelu_curvature(x: Expr) -> Expr:
    square = mul(x, x)
    pdf = mul(num(1 / math.sqrt(2 * math.pi)), make("exp", mul(num(-0.5), square)))
    return mul(pdf, sub(num(2.0), square))


# the second derivatives of functions whose first is an operator, ``slope``
CURVATURES: dict[str, Callable[[Expr], Expr]] = {"silu": _silu_curvature, "gelu": _gelu_curvature}


def _linear_vjp(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    """By the input and, where the output is a vector, by the weights; a scalar's weight is one row."""
    x, w, *bias = node.args
    if node.type.dims == ():
        return mul(g, make("sum_rows", w)), None, *(None for _ in bias)
    return make("matmul", make("T", w), g), make("outer", g, x), *(g for _ in bias)


def _solve(node: Expr, g: Expr) -> tuple[Expr | None, ...]:
    """With A x = b and Aᵀ y = g: y by b, and −y xᵀ by A."""
    A, b = node.args
    if node.attr is not None:
        raise NotDifferentiable(node, "steps of conjugate gradients have no gradient rule")
    y = make("solve", make("T", A), g)
    vector = b.type.rank == 1 and not b.type.like
    by_A = make("outer", y, node) if vector else make("matmul", y, make("T", node))
    return neg(by_A), y


EPS = 1e-6  # of rmsnorm, layernorm and l2norm, inside the root

_ge = lambda a, b: make("ge", a, b)  # noqa: E731
_where = lambda c, a, b: make("where", c, a, b)  # noqa: E731
_zero = num(0.0)

# ------------------------------------------------------------------------------------------------ the table

_TIME = "it mixes tokens, and an inner step sees one"
_COMPARISON = Op(_elementwise, _fits(lambda n, g: (None, None)), lambda a, b: r.UNIT, "bool")

OPS: dict[str, Op] = {
    # arithmetic
    "neg": Op(_same, lambda n, g: (neg(g),), r.neg, "same"),
    "add": Op(_elementwise, _fits(lambda n, g: (g, g)), r.add, "same"),
    "sub": Op(_elementwise, _fits(lambda n, g: (g, neg(g))), r.sub, "same"),
    "mul": Op(
        _elementwise, _fits(lambda n, g: (mul(g, n.args[1]), mul(g, n.args[0]))), r.mul, "same"
    ),
    "div": Op(
        _elementwise,
        _fits(lambda n, g: (div(g, n.args[1]), neg(div(mul(g, n), n.args[1])))),
        r.div,
    ),
    "pow": Op(_elementwise, _fits(_pow), r.power),
    # elementwise functions
    "exp": Op(_same, _unary(lambda x, y: y), r.monotone(math.exp, 0.0, math.inf)),
    "expm1": Op(
        _same, _unary(lambda x, y: add(y, num(1.0))), r.monotone(math.expm1, -1.0, math.inf)
    ),
    "log": Op(
        _same, _unary(lambda x, y: div(num(1.0), x)), r.monotone(math.log, -math.inf, math.inf)
    ),
    "sqrt": Op(_same, _unary(lambda x, y: div(num(0.5), y)), r.monotone(math.sqrt, 0.0, math.inf)),
    "abs": Op(_same, _unary(lambda x, y: make("sign", x)), r.absolute, "same"),
    "sign": Op(
        _same,
        lambda n, g: (None,),
        lambda a: Range(float((a.low > 0) - (a.low < 0)), float((a.high > 0) - (a.high < 0))),
    ),
    "sigmoid": Op(
        _same, _unary(lambda x, y: mul(y, sub(num(1.0), y))), r.monotone(r.sigmoid, 0.0, 1.0)
    ),
    "tanh": Op(
        _same,
        _unary(lambda x, y: sub(num(1.0), mul(y, y))),
        r.shrinking(r.monotone(math.tanh, -1.0, 1.0)),
    ),
    "silu": Op(
        _same,
        _unary(lambda x, y: make("slope", x, attr="silu")),
        r.shrinking(r.dip(r.silu, -1.2784645427610738)),
    ),
    "gelu": Op(
        _same,
        _unary(lambda x, y: make("slope", x, attr="gelu")),
        r.shrinking(r.dip(r.gelu, -0.7517915246935645)),
    ),
    "slope": Op(_same, lambda n, g: (mul(g, CURVATURES[n.attr](n.args[0])),)),
    "relu": Op(
        _same,
        lambda n, g: (_where(_ge(_zero, n.args[0]), _zero, g),),
        lambda a: Range(max(a.low, 0.0), max(a.high, 0.0), a.norm),
    ),
    "softplus": Op(
        _same, _unary(lambda x, y: make("sigmoid", x)), r.monotone(r.softplus, 0.0, math.inf)
    ),
    "erf": Op(
        _same,
        _unary(lambda x, y: mul(num(2 / math.sqrt(math.pi)), make("exp", neg(mul(x, x))))),
        r.monotone(math.erf, -1.0, 1.0),
    ),
    "maximum": Op(
        _elementwise,
        _fits(
            lambda n, g: (
                _where(_ge(*n.args), g, _zero),
                _where(_ge(*n.args), _zero, g),
            )
        ),
        lambda a, b: Range(max(a.low, b.low), max(a.high, b.high), math.hypot(a.norm, b.norm)),
        "same",
    ),
    "minimum": Op(
        _elementwise,
        _fits(
            lambda n, g: (
                _where(_ge(*n.args), _zero, g),
                _where(_ge(*n.args), g, _zero),
            )
        ),
        lambda a, b: Range(min(a.low, b.low), min(a.high, b.high), math.hypot(a.norm, b.norm)),
        "same",
    ),
    "clip": Op(
        _elementwise,
        _fits(
            lambda n, g: (
                _where(
                    _ge(n.args[0], n.args[1]),
                    _where(_ge(n.args[2], n.args[0]), g, _zero),
                    _zero,
                ),
                None,
                None,
            )
        ),
        r.clip,
    ),
    "where": Op(
        _elementwise,
        _fits(
            lambda n, g: (
                None,
                _where(n.args[0], g, _zero),
                _where(n.args[0], _zero, g),
            )
        ),
        lambda c, a, b: r.either(a, b),
    ),
    **{name: _COMPARISON for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    # reductions over all axes of a value
    "sum": Op(_to_scalar, lambda n, g: (fill(g, n.args[0]),), r.total),
    "mean": Op(
        _to_scalar,
        lambda n, g: (fill(div(g, make("numel", n.args[0])), n.args[0]),),
        lambda a: Range(a.low, a.high),
    ),
    "numel": Op(_to_scalar, lambda n, g: (None,), lambda a: r.AT_LEAST_ONE, size=matrices.numel),
    "nrows": Op(matrices.number, None, lambda a: r.AT_LEAST_ONE, size=lambda d: as_matrix(d)[0]),
    "ncols": Op(matrices.number, None, lambda a: r.AT_LEAST_ONE, size=lambda d: as_matrix(d)[1]),
    "amax": Op(_to_scalar, _extremum, lambda a: Range(a.low, a.high)),
    "amin": Op(_to_scalar, _extremum, lambda a: Range(a.low, a.high)),
    "dot": Op(
        _pair_to_scalar,
        lambda n, g: (mul(g, n.args[1]), mul(g, n.args[0])),
        lambda a, b: (lambda m: Range(-m, m))(r.times(a.norm, b.norm)),
    ),
    "sqnorm": Op(
        _to_scalar,
        lambda n, g: (mul(g, mul(num(2), n.args[0])),),
        lambda a: Range(0.0, r.times(a.norm, a.norm)),
    ),
    "norm": Op(  # the p-norm is at most the Euclidean one for p ≥ 2
        _to_scalar, _norm, lambda a, p: Range(0.0, a.norm if p.low >= 2 else math.inf)
    ),
    "zeros": Op(_same, lambda n, g: (None,), lambda a: Range(0.0, 0.0)),
    "ones": Op(_same, lambda n, g: (None,), lambda a: Range(1.0, 1.0)),
    # vectors and matrices
    "matmul": Op(lambda s, d, e: s.matmul(d[0], d[1]), _matmul, r.contract),
    "T": Op(_transpose, lambda n, g: (make("T", g),), lambda a: a),
    "squeeze": Op(_squeeze, lambda n, g: (make("unsqueeze", g),), lambda a: a),
    "unsqueeze": Op(_unsqueeze, lambda n, g: (make("squeeze", g),), lambda a: a),
    "outer": Op(
        _outer,
        lambda n, g: (make("matmul", g, n.args[1]), make("matmul", make("T", g), n.args[0])),
        lambda a, b: replace(r.mul(a, b), norm=r.times(a.norm, b.norm)),
    ),
    "per_key": Op(
        lambda s, d, e: (ONE, s.vector(d[0], 0)), lambda n, g: (make("sum_rows", g),), lambda a: a
    ),
    "per_value": Op(
        lambda s, d, e: (s.vector(d[0], 0), ONE), lambda n, g: (make("sum_cols", g),), lambda a: a
    ),
    "sum_rows": Op(
        lambda s, d, e: (s.matrix(d[0], 0)[1],),
        lambda n, g: (mul(make("ones", n.args[0]), make("per_key", g)),),
    ),
    "sum_cols": Op(
        lambda s, d, e: (s.matrix(d[0], 0)[0],),
        lambda n, g: (mul(make("ones", n.args[0]), make("per_value", g)),),
    ),
    "softmax": Op(
        _rows,
        lambda n, g: (mul(n, sub(g, _dot_of_rows(g, n))),),
        lambda a: Range(0.0, 1.0, 1.0),
    ),
    "l2norm": Op(_rows, _l2norm, r.unit),
    "rmsnorm": Op(_norm_with_weights, _rmsnorm),
    "layernorm": Op(_norm_with_weights, _layernorm),
    "rotary": Op(
        _vector_first,
        lambda n, g: (make("rotary", g, neg(n.args[1]), n.args[2]), None, None),
        lambda a, pos, base: Range(-a.norm, a.norm, a.norm),
    ),
    "slice": Op(_slice, _slice_vjp, lambda a: a),
    "concat": Op(_concat, _concat_vjp, r.either),
    "flatten": Op(
        _flatten, lambda n, g: (make("unflatten", g, attr=n.args[0].type.dims),), lambda a: a
    ),
    "unflatten": Op(_unflatten, lambda n, g: (make("flatten", g),), lambda a: a),
    "diag": Op(
        matrices.diag,
        lambda n, g: (make("diagonal", g),),
        lambda a: Range(min(a.low, 0.0), max(a.high, 0.0), a.norm),
    ),
    "diagonal": Op(matrices.diagonal, lambda n, g: (make("diag", g),), lambda a: a),
    # functions of matrices
    "newton_schulz": Op(matrices.matrix, why="its iteration has no gradient rule"),
    "inv_root": Op(matrices.root, why="a root of a matrix has no gradient rule"),
    "eigh_basis": Op(
        matrices.root,
        range=lambda a: Range(-1.0, 1.0),
        why="eigenvectors have no gradient rule",
    ),
    "qr": Op(
        matrices.matrix,
        range=lambda a: Range(-1.0, 1.0),
        why="a decomposition has no gradient rule",
    ),
    "solve": Op(matrices.solution, _solve),
    "identity": Op(matrices.root, lambda n, g: (None,), lambda a: r.UNIT),
    # with slow weights
    "linear": Op(_linear, _linear_vjp),
    "conv": Op(lambda s, d, e: d[0], None, why=_TIME),
    "embedding": Op(lambda s, d, e: d[1][1:], lambda n, g: (None, None)),  # no state is an input
    # heads
    "split": Op(
        lambda s, d, e: s.split(d[0], parts(e)),
        None,
        lambda a: a,
        "same",
        why="it changes the heads",
    ),
    "merge": Op(
        lambda s, d, e: s.merge(d[0]),
        None,
        lambda a: Range(a.low, a.high),
        why="it changes the heads",
    ),
    # time
    "delay": Op(_delay, None, r.union, why=_TIME),
    "attend": Op(_attend, None, lambda q, k, v: Range(v.low, v.high, v.norm), why=_TIME),
    "total": Op(
        _same, None, why="over a period, only a scalar is differentiated: sum(…) of a number"
    ),
    "recent": Op(
        _same, None, why="over a window, only a scalar is differentiated: sum(…) of a number"
    ),
    "periods": Op(_same, None, lambda a: Range(0.0, math.inf), "same", "it is a count"),
    # over the samples of a step: Σ x, and Σ a bᵀ as one product of matrices
    "over_samples": Op(_same),
    "outer_over_samples": Op(_outer),
    # another level's objective as one's own, first order: attr has its gradients, one a state (eq. 72)
    "objective": Op(_to_scalar, lambda n, g: tuple(mul(g, x) for x in n.attr)),
    "stop": Op(_same, lambda n, g: (None,), lambda a: a, "same"),
}


def pointwise(op: str) -> bool:
    """Whether an operator maps one value element by element."""
    return op in OPS and OPS[op].shape is _same and op not in ("neg", "zeros", "ones", "total")


def elementwise(op: str) -> bool:
    """Whether an operator maps several values element by element."""
    return op in OPS and OPS[op].shape is _elementwise


def rowwise(op: str) -> bool:
    """Whether an operator maps a vector, and a matrix row by row."""
    return op in OPS and OPS[op].shape is _rows


def like_type(name: str, **kwargs: object) -> Type:
    """The type of a trained tensor of any rank."""
    return Type((Like(name),), **kwargs)  # type: ignore[arg-type]
