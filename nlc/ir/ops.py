"""The operators: for each its shape, the range of its result, and its gradient (a vector-Jacobian product).

To add an operator, add a record here and a printer in each backend.
"""

from __future__ import annotations

import math
from dataclasses import replace

from nlc.ir import matrices, shape_rules, slopes
from nlc.ir import ranges as r
from nlc.ir.nodes import (
    OPS,
    NotDifferentiable,
    Op,
    add,
    div,
    elementwise,
    fill,
    leaf,
    make,
    mul,
    neg,
    num,
    pointwise,
    rowwise,
    sub,
    with_dims,
)
from nlc.ir.shapes import as_matrix, parts
from nlc.ir.types import ONE, Range

__all__ = [
    "OPS",
    "NotDifferentiable",
    "Op",
    "add",
    "div",
    "elementwise",
    "fill",
    "leaf",
    "make",
    "mul",
    "neg",
    "num",
    "pointwise",
    "rowwise",
    "sub",
    "with_dims",
]

_TIME = "it mixes tokens, and an inner step sees one"
_COMPARISON = Op(
    shape_rules.elementwise, slopes.fits(lambda n, g: (None, None)), lambda a, b: r.UNIT, "bool"
)

OPS |= {
    # arithmetic
    "neg": Op(shape_rules.same, lambda n, g: (neg(g),), r.neg, "same"),
    "add": Op(shape_rules.elementwise, slopes.fits(lambda n, g: (g, g)), r.add, "same"),
    "sub": Op(shape_rules.elementwise, slopes.fits(lambda n, g: (g, neg(g))), r.sub, "same"),
    "mul": Op(
        shape_rules.elementwise,
        slopes.fits(lambda n, g: (mul(g, n.args[1]), mul(g, n.args[0]))),
        r.mul,
        "same",
    ),
    "div": Op(
        shape_rules.elementwise,
        slopes.fits(lambda n, g: (div(g, n.args[1]), neg(div(mul(g, n), n.args[1])))),
        r.div,
    ),
    "pow": Op(shape_rules.elementwise, slopes.fits(slopes.pow), r.power),
    # elementwise functions
    "exp": Op(shape_rules.same, slopes.unary(lambda x, y: y), r.monotone(math.exp, 0.0, math.inf)),
    "expm1": Op(
        shape_rules.same,
        slopes.unary(lambda x, y: add(y, num(1.0))),
        r.monotone(math.expm1, -1.0, math.inf),
    ),
    "log": Op(
        shape_rules.same,
        slopes.unary(lambda x, y: div(num(1.0), x)),
        r.monotone(math.log, -math.inf, math.inf),
    ),
    "sqrt": Op(
        shape_rules.same,
        slopes.unary(lambda x, y: div(num(0.5), y)),
        r.monotone(math.sqrt, 0.0, math.inf),
    ),
    "abs": Op(shape_rules.same, slopes.unary(lambda x, y: make("sign", x)), r.absolute, "same"),
    "sign": Op(
        shape_rules.same,
        lambda n, g: (None,),
        lambda a: Range(float((a.low > 0) - (a.low < 0)), float((a.high > 0) - (a.high < 0))),
    ),
    "sigmoid": Op(
        shape_rules.same,
        slopes.unary(lambda x, y: mul(y, sub(num(1.0), y))),
        r.monotone(r.sigmoid, 0.0, 1.0),
    ),
    "tanh": Op(
        shape_rules.same,
        slopes.unary(lambda x, y: sub(num(1.0), mul(y, y))),
        r.shrinking(r.monotone(math.tanh, -1.0, 1.0)),
    ),
    "silu": Op(
        shape_rules.same,
        slopes.unary(lambda x, y: make("slope", x, attr="silu")),
        r.shrinking(r.dip(r.silu, -1.2784645427610738)),
    ),
    "gelu": Op(
        shape_rules.same,
        slopes.unary(lambda x, y: make("slope", x, attr="gelu")),
        r.shrinking(r.dip(r.gelu, -0.7517915246935645)),
    ),
    "slope": Op(shape_rules.same, lambda n, g: (mul(g, slopes.CURVATURES[n.attr](n.args[0])),)),
    "relu": Op(
        shape_rules.same,
        lambda n, g: (slopes.where(slopes.ge(slopes.zero, n.args[0]), slopes.zero, g),),
        lambda a: Range(max(a.low, 0.0), max(a.high, 0.0), a.norm),
    ),
    "softplus": Op(
        shape_rules.same,
        slopes.unary(lambda x, y: make("sigmoid", x)),
        r.monotone(r.softplus, 0.0, math.inf),
    ),
    "erf": Op(
        shape_rules.same,
        slopes.unary(lambda x, y: mul(num(2 / math.sqrt(math.pi)), make("exp", neg(mul(x, x))))),
        r.monotone(math.erf, -1.0, 1.0),
    ),
    "maximum": Op(
        shape_rules.elementwise,
        slopes.fits(
            lambda n, g: (
                slopes.where(slopes.ge(*n.args), g, slopes.zero),
                slopes.where(slopes.ge(*n.args), slopes.zero, g),
            )
        ),
        lambda a, b: Range(max(a.low, b.low), max(a.high, b.high), math.hypot(a.norm, b.norm)),
        "same",
    ),
    "minimum": Op(
        shape_rules.elementwise,
        slopes.fits(
            lambda n, g: (
                slopes.where(slopes.ge(*n.args), slopes.zero, g),
                slopes.where(slopes.ge(*n.args), g, slopes.zero),
            )
        ),
        lambda a, b: Range(min(a.low, b.low), min(a.high, b.high), math.hypot(a.norm, b.norm)),
        "same",
    ),
    "clip": Op(
        shape_rules.elementwise,
        slopes.fits(
            lambda n, g: (
                slopes.where(
                    slopes.ge(n.args[0], n.args[1]),
                    slopes.where(slopes.ge(n.args[2], n.args[0]), g, slopes.zero),
                    slopes.zero,
                ),
                None,
                None,
            )
        ),
        r.clip,
    ),
    "where": Op(
        shape_rules.elementwise,
        slopes.fits(
            lambda n, g: (
                None,
                slopes.where(n.args[0], g, slopes.zero),
                slopes.where(n.args[0], slopes.zero, g),
            )
        ),
        lambda c, a, b: r.either(a, b),
    ),
    **{name: _COMPARISON for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    # reductions over all axes of a value
    "sum": Op(shape_rules.to_scalar, lambda n, g: (fill(g, n.args[0]),), r.total),
    "mean": Op(
        shape_rules.to_scalar,
        lambda n, g: (fill(div(g, make("numel", n.args[0])), n.args[0]),),
        lambda a: Range(a.low, a.high),
    ),
    "numel": Op(
        shape_rules.to_scalar, lambda n, g: (None,), lambda a: r.AT_LEAST_ONE, size=matrices.numel
    ),
    "nrows": Op(matrices.number, None, lambda a: r.AT_LEAST_ONE, size=lambda d: as_matrix(d)[0]),
    "ncols": Op(matrices.number, None, lambda a: r.AT_LEAST_ONE, size=lambda d: as_matrix(d)[1]),
    "amax": Op(shape_rules.to_scalar, slopes.extremum, lambda a: Range(a.low, a.high)),
    "amin": Op(shape_rules.to_scalar, slopes.extremum, lambda a: Range(a.low, a.high)),
    "dot": Op(
        shape_rules.pair_to_scalar,
        lambda n, g: (mul(g, n.args[1]), mul(g, n.args[0])),
        lambda a, b: (lambda m: Range(-m, m))(r.times(a.norm, b.norm)),
    ),
    "sqnorm": Op(
        shape_rules.to_scalar,
        lambda n, g: (mul(g, mul(num(2), n.args[0])),),
        lambda a: Range(0.0, r.times(a.norm, a.norm)),
    ),
    "norm": Op(  # the p-norm is at most the Euclidean one for p ≥ 2
        shape_rules.to_scalar,
        slopes.norm,
        lambda a, p: Range(0.0, a.norm if p.low >= 2 else math.inf),
    ),
    "zeros": Op(shape_rules.same, lambda n, g: (None,), lambda a: Range(0.0, 0.0)),
    "ones": Op(shape_rules.same, lambda n, g: (None,), lambda a: Range(1.0, 1.0)),
    # vectors and matrices
    "matmul": Op(lambda s, d, e: s.matmul(d[0], d[1]), slopes.matmul, r.contract),
    "T": Op(shape_rules.transpose, lambda n, g: (make("T", g),), lambda a: a),
    "squeeze": Op(shape_rules.squeeze, lambda n, g: (make("unsqueeze", g),), lambda a: a),
    "unsqueeze": Op(shape_rules.unsqueeze, lambda n, g: (make("squeeze", g),), lambda a: a),
    "outer": Op(
        shape_rules.outer,
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
        shape_rules.rows,
        lambda n, g: (mul(n, sub(g, slopes.dot_of_rows(g, n))),),
        lambda a: Range(0.0, 1.0, 1.0),
    ),
    "l2norm": Op(shape_rules.rows, slopes.l2norm, r.unit),
    "rmsnorm": Op(shape_rules.norm_with_weights, slopes.rmsnorm),
    "layernorm": Op(shape_rules.norm_with_weights, slopes.layernorm),
    "rotary": Op(
        shape_rules.vector_first,
        lambda n, g: (make("rotary", g, neg(n.args[1]), n.args[2]), None, None),
        lambda a, pos, base: Range(-a.norm, a.norm, a.norm),
    ),
    "slice": Op(shape_rules.slice, slopes.slice_vjp, lambda a: a),
    "concat": Op(shape_rules.concat, slopes.concat_vjp, r.either),
    "flatten": Op(
        shape_rules.flatten,
        lambda n, g: (make("unflatten", g, attr=n.args[0].type.dims),),
        lambda a: a,
    ),
    "unflatten": Op(shape_rules.unflatten, lambda n, g: (make("flatten", g),), lambda a: a),
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
    "solve": Op(matrices.solution, slopes.solve),
    "identity": Op(matrices.root, lambda n, g: (None,), lambda a: r.UNIT),
    # with slow weights
    "linear": Op(shape_rules.linear, slopes.linear_vjp),
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
    "delay": Op(shape_rules.delay, None, r.union, why=_TIME),
    "attend": Op(shape_rules.attend, None, lambda q, k, v: Range(v.low, v.high, v.norm), why=_TIME),
    "total": Op(
        shape_rules.same,
        None,
        why="over a period, only a scalar is differentiated: sum(…) of a number",
    ),
    "recent": Op(
        shape_rules.same,
        None,
        why="over a window, only a scalar is differentiated: sum(…) of a number",
    ),
    "periods": Op(shape_rules.same, None, lambda a: Range(0.0, math.inf), "same", "it is a count"),
    # over the samples of a step: Σ x, and Σ a bᵀ as one product of matrices
    "over_samples": Op(shape_rules.same),
    "outer_over_samples": Op(shape_rules.outer),
    # another level's objective as one's own, first order: attr has its gradients, one a state (eq. 72)
    "objective": Op(shape_rules.to_scalar, lambda n, g: tuple(mul(g, x) for x in n.attr)),
    "stop": Op(shape_rules.same, lambda n, g: (None,), lambda a: a, "same"),
}
