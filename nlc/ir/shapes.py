"""The shape rules of the operators, written once against ``Shapes``.

``Shapes`` itself only compares, for expressions whose types are known; ``passes/infer`` subclasses it with unknowns
that it solves for, so inference and checking cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence

from nlc.ir.expr import Expr
from nlc.ir.types import ONE, Dim, Dims, Like, show_dims

HEADS = Dim.of("heads")


def parts(node: Expr) -> Dim:
    """Into how many parts ``split`` or ``part`` takes its operand."""
    return Dim.of(node.attr[1]) if node.op == "part" else node.attr or HEADS


class ShapeError(Exception):
    """``message`` says what is wrong; ``operand`` is the index of the operand to blame, if one is."""

    def __init__(self, message: str, operand: int | None = None, help: str = ""):
        super().__init__(message)
        self.message, self.operand, self.help = message, operand, help


def as_matrix(dims: Dims) -> Dims:
    """A trained tensor where a matrix must stand: ``[rows(W), cols(W)]``."""
    if len(dims) == 1 and isinstance(dims[0], Like):
        name = dims[0].name
        return (Dim.of(f"rows({name})"), Dim.of(f"cols({name})"))
    return dims


class Shapes:
    """Strict: every dimension is known."""

    def view(self, dims: Dims) -> Dims:
        """What is known of a shape by now."""
        return dims

    def known(self, dims: Dims) -> bool:
        return True

    def as_matrix(self, dims: Dims) -> Dims:
        """A trained tensor taken apart where a matrix must stand; other shapes as they are."""
        return as_matrix(dims)

    def same_dim(self, a: Dim, b: Dim) -> bool:
        return a == b

    def same(self, a: Dims, b: Dims) -> Dims:
        a, b = self.view(a), self.view(b)
        if a == b:
            return a
        if {*a, *b} & {d for d in (*a, *b) if isinstance(d, Like)}:
            a, b = self.as_matrix(a), self.as_matrix(b)
        if len(a) != len(b) or not all(self.same_dim(x, y) for x, y in zip(a, b)):
            raise ShapeError(f"{show_dims(a)} is not {show_dims(b)}")
        return a

    def scalar(self, dims: Dims, operand: int) -> None:
        dims = self.view(dims)
        if dims:
            raise ShapeError(f"a scalar is needed, this is {show_dims(dims)}", operand)

    def vector(self, dims: Dims, operand: int) -> Dim:
        dims = self.view(dims)
        if len(dims) != 1 or isinstance(dims[0], Like):
            raise ShapeError(f"a vector is needed, this is {show_dims(dims)}", operand)
        return dims[0]

    def channels(self, dims: Dims, operand: int) -> Dim:
        """How many a part of ``concat`` has; inference takes a number for one, and makes it a vector."""
        return self.vector(dims, operand)

    def matrix(self, dims: Dims, operand: int) -> tuple[Dim, Dim]:
        dims = self.as_matrix(self.view(dims))
        if len(dims) != 2:
            raise ShapeError(f"a matrix is needed, this is {show_dims(dims)}", operand)
        return dims[0], dims[1]

    def elementwise(self, dims: Sequence[Dims]) -> Dims:
        """Scalars fit everything; ``per_key``/``per_value`` factors fit a matrix; else shapes must be equal."""
        out: Dims = ()
        for operand, each in enumerate(dims):
            each = self.view(each)
            if not each or each == out:
                continue
            if not out:
                out = each
                continue
            a, b = self.as_matrix(out), self.as_matrix(each)
            if len(a) == len(b) == 2 and ONE in (*a, *b):
                joined = []
                for x, y in zip(a, b):
                    if x != ONE and y != ONE and not self.same_dim(x, y):
                        raise ShapeError(
                            f"{show_dims(each)} does not fit {show_dims(out)}", operand
                        )
                    joined.append(y if x == ONE else x)
                out = tuple(joined)
                continue
            try:
                out = self.same(out, each)
            except ShapeError:
                hint = "write `per_key(…)` or `per_value(…)`" if {len(a), len(b)} == {1, 2} else ""
                raise ShapeError(
                    f"{show_dims(each)} does not fit {show_dims(out)}", operand, hint
                ) from None
        return out

    def split(self, dims: Dims, count: Dim = HEADS) -> Dims:
        """[h·n] → n per head, or for each of another number of parts; exactly as many give a scalar for each."""
        n = self.vector(dims, 0) / count
        return () if n == ONE else (n,)

    def merge(self, dims: Dims) -> Dims:
        dims = self.view(dims)
        return (HEADS,) if not dims else (self.vector(dims, 0) * HEADS,)

    def matmul(self, a: Dims, b: Dims) -> Dims:
        left, right = self.view(a), self.view(b)
        if len(as_matrix(left)) == 1 and len(as_matrix(right)) == 2:
            m, n = self.matrix(right, 1)
            self._inner(self.vector(left, 0), m, 0)
            return (n,)
        m, n = self.matrix(left, 0)
        if len(as_matrix(right)) == 2:
            k, p = self.matrix(right, 1)
            self._inner(k, n, 1)
            return (m, p)
        self._inner(self.vector(right, 1), n, 1)
        return (m,)

    def _inner(self, found: Dim, needed: Dim, operand: int) -> None:
        if not self.same_dim(found, needed):
            raise ShapeError(f"`@` needs {needed}, this is {found}", operand)


class MatrixUse(Shapes):
    """Strict, and notes whether a trained tensor, which may have any rank, stood where only a matrix may."""

    found = False

    def as_matrix(self, dims: Dims) -> Dims:
        self.found |= any(isinstance(d, Like) for d in dims)
        return super().as_matrix(dims)
