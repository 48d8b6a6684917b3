"""Floating-point operations of an expression's nodes and of a scan, from their sizes alone.

A multiply-add counts as two, any other operation on a number as one, also ``exp`` and its like. What moves or views
values counts as nothing; so does the gradient through updates of ``through``, which is autograd's.

A scan of states [m, n] in chunks of C tokens takes for a token and head, p being how many states are coupled:

    write        2 m n (and n where it decays)
    erase        scores 2 C n, the solve C², its products 2 C (m + n), the states read and written 4 m n
    read         2 m n of the chunk's start, scores 2 C n, rows 2 C m (and 4 C for decays)
    by channel   scores are sums, 5 C n
    coupled      the kept C² p³, written 2 p² m + 2 p m n, carried 2 p² m n / C; its erase the same p times over
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from nlc.ir.expr import Expr
from nlc.ir.scan import Record
from nlc.ir.types import SAMPLE, Like, Number, Type
from nlc.tools.sizes import BadHyper

_FREE = frozenset(
    "var num bool hyper input weight initial g size numel nrows ncols zeros ones T split merge squeeze unsqueeze"
    " per_key per_value slice concat flatten unflatten diag diagonal"
    " spread first_token last_token lift push extend advance positions"
    " index ages filled stack stop settle watch identity slopes delay read".split()
)
_PER_OPERAND = {
    "sum": 1,
    "mean": 1,
    "amax": 1,
    "amin": 1,
    "sum_rows": 1,
    "sum_cols": 1,
    "over_samples": 1,
}
_PER_OPERAND |= {"dot": 2, "sqnorm": 2, "norm": 2}
_PER_RESULT = {"l2norm": 3, "rotary": 3, "softmax": 4, "rmsnorm": 4, "slope": 4, "layernorm": 7}
ROOT = 10  # times n³: eigenvectors, and a root by them


class Sizes:
    """Elements of a value at given hypers, heads included."""

    def __init__(self, sizes: Mapping[str, Number]):
        self.sizes = sizes

    def of(self, dim: object) -> float:
        if isinstance(dim, Like):
            rows, cols = (self.sizes[f"{side}({dim.name})"] for side in ("rows", "cols"))
            return float(rows * cols)
        try:
            size = dim.evaluate(self.sizes)
        except KeyError as missing:
            raise BadHyper(f"`{missing.args[0]}` has no value") from None
        except ZeroDivisionError:
            size = Fraction(0)
        if size.denominator != 1 or size < 1:
            raise BadHyper(f"the size {dim} is {size}, no whole number of at least 1")
        return float(size)

    def elements(self, t: Type) -> float:
        out = float(self.sizes["heads"]) if t.head else 1.0
        out *= float(self.sizes["samples"]) if t.clock == SAMPLE else 1.0
        for d in t.dims:
            out *= self.of(d)
        return out

    def sides(self, t: Type) -> tuple[float, float]:
        """A value as a matrix: a vector is one column."""
        if t.like:
            name = t.dims[0].name
            return float(self.sizes[f"rows({name})"]), float(self.sizes[f"cols({name})"])
        dims = [self.of(d) for d in t.dims]
        return (*dims, 1.0, 1.0)[:2]

    def heads(self, t: Type) -> float:
        return float(self.sizes["heads"]) if t.head else 1.0


def flops(e: Expr, s: Sizes) -> float:
    """Of one node, its operands being there."""
    if e.op in _FREE or (not e.args and e.op not in ("attend",)):
        return 0.0
    n = s.elements(e.type)
    first = e.args[0].type
    if e.op == "matmul":
        rows, cols = s.sides(first)
        return 2 * n * (cols if first.rank == 2 or first.like else rows)
    if e.op == "linear":
        return 2 * n * s.sides(first)[0] + (n if len(e.args) > 2 else 0)
    if e.op in ("conv", "conv_step"):
        return 2 * n * s.sides(e.args[1].type)[1]
    if e.op == "outer_over_samples":
        return 2 * n * float(s.sizes["samples"])
    if e.op in _PER_OPERAND:
        return _PER_OPERAND[e.op] * s.elements(first)
    if e.op == "newton_schulz":
        m, k = sorted(s.sides(first))
        step = 4 * m * m * k + 2 * m**3 + 3 * m * m + 2 * m * k
        return s.heads(first) * s.of(e.attr.steps) * step
    if e.op in ("inv_root", "eigh_basis"):
        return s.heads(first) * ROOT * s.sides(first)[0] ** 3
    if e.op == "qr":  # by reflections: R, then Q from them
        k, m = sorted(s.sides(first))
        return s.heads(first) * (4 * m * k * k - 4 / 3 * k**3)
    if e.op == "solve":
        m, (_, k) = s.sides(first)[0], s.sides(e.args[1].type)
        step = 2 / 3 * m**3 + 2 * m * m * k
        return s.heads(e.type) * (step if e.attr is None else s.of(e.attr) * (2 * m + 10) * m * k)
    return _PER_RESULT.get(e.op, 1) * n


def attention(e: Expr, s: Sizes, seen: float) -> float:
    """Of one query over ``seen`` keys on average: scores, softmax, values."""
    q, _, v = (a.type for a in e.args)
    heads = max(s.heads(a.type) for a in e.args)
    return heads * seen * (2 * s.of(q.dims[0]) + 2 * s.of(v.dims[0]) + 5)


def scan(r: Record, m: float, n: float, c: float, read: bool) -> float:
    """Of a token and head; ``read``: whether something reads its states on the way."""
    p = len(r.states)
    decays = r.kind != "none"
    if r.rank < 2 and p == 1 and r.kind in ("none", "scalar"):
        return 2 * c * n * m + 3 * c if decays else m * n
    if r.kind == "channel":
        erase = 5 * c * n + c * c + 2 * c * (m + n) + 4 * m * n
        return n + (erase if r.erases else 2 * m * n)
    if p == 1 and r.kind != "signed":
        erase = 2 * c * n + c * c + 2 * c * (m + n) + 4 * m * n + (3 * c if decays else 0)
        return erase if r.erases else 2 * m * n + (n if decays else 0)
    out = c * c * p**3 + 2 * p * p * m + 2 * p * m * n + 2 * p * p * m * n / c
    if r.erases:
        out += 2 * c * n + 3 * c * p + c * c + 2 * c * m * (p + 1) + p * (2 * c * n + 2 * m * n)
    return out


def reading(r: Record, m: float, n: float, c: float) -> float:
    """Of a query at every token, for a head."""
    p = len(r.states)
    if r.rank < 2 and p == 1 and r.kind in ("none", "scalar"):
        return 0.0
    if r.kind == "channel":
        return 2 * m * n + 5 * c * n + 2 * c * m
    if p == 1 and r.kind != "signed":
        return 2 * m * n + 2 * c * (n + m) + (4 * c if r.kind == "scalar" else 0)
    return 2 * p * m * n + 2 * c * n + c * p + 2 * c * p * m + 2 * p * m
