"""Matrix functions as calls of what a generated file defines for itself."""

from __future__ import annotations

from collections.abc import Callable

from nlc.backends.precedence import ATOM, CONDITIONAL, SUM
from nlc.ir.expr import Expr
from nlc.ir.matrices import NewtonSchulz
from nlc.ir.types import Dim, Type


class MatrixFunctions:
    """The part of ``TorchPrinter`` that prints them, over its other methods."""

    use: Callable[[str], str]
    size: Callable[[Dim], str]
    at: Callable[[Expr, int], str]
    headed: Callable[[Expr, bool], str]
    aligned: Callable[..., str]

    def op_newton_schulz(self, e: Expr) -> tuple[str, int]:
        how: NewtonSchulz = e.attr  # type: ignore[assignment]
        args = [self.at(e.args[0], CONDITIONAL), self.size(how.steps), repr(how.coefficients)]
        args += [f"torch.{how.dtype}"] if how.dtype else []
        return f"{self.use('newton_schulz')}({', '.join(args)})", ATOM

    def op_inv_root(self, e: Expr) -> tuple[str, int]:
        """The exponent and eps scale eigenvalues, which are a vector."""
        matrix, *numbers = e.args
        args = [self.aligned(x, e.type, SUM, rank=1) for x in numbers]
        return (
            f"{self.use('inv_root')}({', '.join([self.headed(matrix, e.type.head), *args])})",
            ATOM,
        )

    def op_eigh_basis(self, e: Expr) -> tuple[str, int]:
        return f"{self.use('eigh_basis')}({self.at(e.args[0], CONDITIONAL)})", ATOM

    def op_qr(self, e: Expr) -> tuple[str, int]:
        return f"{self.use('qr')}({self.at(e.args[0], CONDITIONAL)})", ATOM

    def op_diag(self, e: Expr) -> tuple[str, int]:
        return f"torch.diag_embed({self.at(e.args[0], CONDITIONAL)})", ATOM

    def op_diagonal(self, e: Expr) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}.diagonal(dim1=-2, dim2=-1)", ATOM

    def op_identity(self, e: Expr) -> tuple[str, int]:
        return f"{self.use('identity')}({self.at(e.args[0], CONDITIONAL)})", ATOM

    def op_solve(self, e: Expr) -> tuple[str, int]:
        """A vector is solved for as a matrix of one column."""
        vector = e.type.rank == 1 and not e.type.like
        binds = (CONDITIONAL, ATOM if vector else CONDITIONAL)
        A, b = (
            self.aligned(x, Type(x.type.dims, e.type.head), how) for x, how in zip(e.args, binds)
        )
        b = f"{b}.unsqueeze(-1)" if vector else b
        steps = f", {self.size(e.attr)}" if e.attr is not None else ""  # type: ignore[arg-type]
        function = self.use("conjugate_gradients" if steps else "solve")
        return f"{function}({A}, {b}{steps})" + (".squeeze(-1)" if vector else ""), ATOM
