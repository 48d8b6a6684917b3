"""The shapes of operators: from the dims of the operands to those of the result."""

from __future__ import annotations

from nlc.ir.expr import Expr
from nlc.ir.shapes import ShapeError, Shapes
from nlc.ir.types import ONE, Dims


def elementwise(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    return s.elementwise(dims)


def same(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    return dims[0]


def to_scalar(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    return ()


def pair_to_scalar(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    s.same(dims[0], dims[1])
    return ()


def vector_first(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    s.vector(dims[0], 0)
    return dims[0]


def rows(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    """Of a vector; of a matrix row by row, over its key channels."""
    view = s.view(dims[0])
    if s.known(dims[0]) and len(view) == 2:
        return view
    return vector_first(s, dims, e)


def concat(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    if all(s.view(d) == () for d in dims):
        s.vector(dims[0], 0)
    return (s.channels(dims[0], 0) + s.channels(dims[1], 1),)


def flatten(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    m, n = s.matrix(dims[0], 0)
    return (m * n,)


def unflatten(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    m, n = e.attr
    if not s.same_dim(s.vector(dims[0], 0), m * n):
        raise ShapeError(f"[{m}, {n}] is needed", 0)
    return (m, n)


def norm_with_weights(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    n = s.vector(dims[0], 0)
    for operand, weight in enumerate(dims[1:], 1):
        if not s.same_dim(n, s.vector(weight, operand)):
            raise ShapeError(f"the weight is not [{n}]", operand)
    return dims[0]


def transpose(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    m, n = s.matrix(dims[0], 0)
    return (n, m)


def outer(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    return (s.vector(dims[0], 0), s.vector(dims[1], 1))


def squeeze(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    if not s.same_dim(s.vector(dims[0], 0), ONE):
        raise ShapeError("a single channel is needed", 0)
    return ()


def unsqueeze(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    s.scalar(dims[0], 0)
    return (ONE,)


def linear(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    m, n = s.matrix(dims[1], 1)
    if not s.same_dim(s.vector(dims[0], 0), n):
        raise ShapeError(f"the weight takes [{n}], this is [{s.vector(dims[0], 0)}]", 0)
    return () if m == ONE else (m,)


def slice(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    s.vector(dims[0], 0)
    start, stop = e.attr
    return (stop - start,)


def attend(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    query, key = s.vector(dims[0], 0), s.vector(dims[1], 1)
    if not s.same_dim(query, key):
        raise ShapeError(f"the query is [{query}], the key [{key}]", 0)
    return (s.vector(dims[2], 2),)


def delay(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    if s.view(dims[1]) != ():
        s.same(dims[0], dims[1])
    return dims[0]
