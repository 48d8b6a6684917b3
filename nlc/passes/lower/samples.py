"""What a layer's level sums over the samples of a step, as products of whole matrices.

A value of the sample clock is a tensor with the samples in front, [N, n]; its sum over them has the step's clock. Sums
go inside as far as they can: Σ_s (a_s b_sᵀ + c M) is AᵀB + N c M, so that no matrix for each sample is ever made.
"""

from __future__ import annotations

from nlc.ir.expr import Expr
from nlc.ir.ops import add, div, leaf, make, mul, neg, sub
from nlc.ir.types import SAMPLE, STEP, Dim, Type

COUNT = Dim.of("samples")  # of this layer, in this step


def count() -> Expr:
    """How many samples there are."""
    return leaf("size", COUNT, Type((), dtype="int"))


def of_samples(total: Expr) -> bool:
    """Whether a ``total`` runs over samples."""
    return total.args[0].type.clock == SAMPLE


def over_samples(e: Expr) -> Expr:
    """Σ_s e."""
    if not _varies(e):
        return mul(count(), e)
    if not e.args:
        return _of_step(make("over_samples", e))
    a, *more = e.args
    if e.op in ("add", "sub") and all(x.type.dims == e.type.dims for x in e.args):
        return (add if e.op == "add" else sub)(over_samples(a), over_samples(more[0]))
    if e.op == "neg":
        return neg(over_samples(a))
    if e.op == "T":
        return make("T", over_samples(a))
    if e.op == "div" and not _varies(more[0]):
        return div(over_samples(a), more[0])
    if e.op in ("mul", "matmul"):
        build = mul if e.op == "mul" else lambda x, y: make("matmul", x, y)
        (b,) = more
        if not _varies(a) and b.type.dims == e.type.dims:
            return build(a, over_samples(b))
        if not _varies(b) and (e.op == "matmul" or a.type.dims == e.type.dims):
            return build(over_samples(a), b)
        if e.op == "mul" and b.op == "outer" and a.type.dims == ():
            return over_samples(make("outer", mul(a, b.args[0]), b.args[1]))
    if e.op == "outer":
        return _outer(*e.args)
    return _of_step(make("over_samples", e))


def mean_over_samples(e: Expr) -> Expr:
    """What is the same for every sample is its own mean."""
    return div(over_samples(e), count()) if _varies(e) else e


def _outer(a: Expr, b: Expr) -> Expr:
    """Σ_s a bᵀ; a side that is the same for all of them stands outside."""
    if not _varies(a):
        return make("outer", a, over_samples(b))
    if not _varies(b):
        return make("outer", over_samples(a), b)
    return _of_step(make("outer_over_samples", a, b))


def _of_step(e: Expr) -> Expr:
    return e.with_type(e.type.at(STEP))


def _varies(e: Expr) -> bool:
    """Whether it is another value for each sample: what is summed already is not."""
    stack = [e]
    while stack:
        n = stack.pop()
        if n.op in ("over_samples", "outer_over_samples", "total"):
            continue
        if not n.args and n.type.clock == SAMPLE:
            return True
        stack.extend(n.args)
    return False
