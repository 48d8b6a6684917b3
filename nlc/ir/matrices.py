"""Matrix functions: what they are told beside their operands, and their shape rules.

Every one works on the last two axes of its operand, so leading axes are a batch of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

from nlc.ir.expr import Expr
from nlc.ir.shapes import ShapeError, Shapes
from nlc.ir.types import ONE, Dim, Dims, Like, show_dims

# (a, b, c) of O ← a O + b (O Oᵀ) O + c (O Oᵀ)² O by name. The cubic converges (eqs. 43-44). The quintic of
# Jordan et al. 2024 is steeper at 0 and does not: in five steps it brings singular values above a hundredth of the
# norm between 0.68 and 1.21, where they stay.
COEFFICIENTS: dict[str, tuple[float, float, float]] = {
    "cubic": (1.5, -0.5, 0.0),
    "quintic": (3.4445, -4.775, 2.0315),
}
DTYPES = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class NewtonSchulz:
    """How a matrix is brought towards its polar factor; ``dtype`` None: in its own."""

    steps: Dim
    coefficients: tuple[float, float, float]
    dtype: str | None = None

    def __str__(self) -> str:
        """As arguments of a call in the language."""
        listed = ", ".join(map(repr, self.coefficients))
        name = next((n for n, c in COEFFICIENTS.items() if c == self.coefficients), f"[{listed}]")
        return f"{self.steps}, {name}" + (f", {self.dtype}" if self.dtype else "")


def matrix(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    """Of a matrix of any shape, the same shape."""
    s.matrix(dims[0], 0)
    return dims[0]


def number(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    """Of a matrix, a number."""
    s.matrix(dims[0], 0)
    return ()


def root(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    """Of a square matrix and numbers, the matrix's shape."""
    square(s, dims[0])
    for operand in range(1, len(dims)):
        s.scalar(dims[operand], operand)
    return dims[0]


def diag(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    """Of a vector [n], [n, n]."""
    n = s.vector(dims[0], 0)
    return (n, n)


def diagonal(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    """Of a square matrix [n, n], [n]."""
    return (square(s, dims[0]),)


def solution(s: Shapes, dims: list[Dims], e: Expr) -> Dims:
    """Of ``A`` [m, m] and ``b`` [m] or [m, k], the shape of ``b``."""
    m = square(s, dims[0])
    several = s.known(dims[1]) and len(s.as_matrix(s.view(dims[1]))) == 2
    rows = s.matrix(dims[1], 1)[0] if several else s.vector(dims[1], 1)
    if not s.same_dim(rows, m):
        raise ShapeError(f"the matrix has {m} rows, this has {rows}", 1)
    return dims[1]


def numel(dims: Dims) -> Dim | None:
    """How many elements; None for a trained tensor, which may have any rank."""
    total = ONE
    for dim in dims:
        if isinstance(dim, Like):
            return None
        total = total * dim
    return total


def square(s: Shapes, dims: Dims) -> Dim:
    """The side of the square matrix that is the first operand."""
    m, n = s.matrix(dims, 0)
    if not s.same_dim(m, n):
        raise ShapeError(f"a square matrix is needed, this is {show_dims((m, n))}", 0)
    return m
