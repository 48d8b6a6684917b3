"""Expr -> PyTorch text for many tokens at once: ``[B, (H,) T, *dims]``, where a map of tokens is a product of rows.

What is the same for all tokens of a tile has no token axis; its type has a clock slower than tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nlc.backends.precedence import ATOM, PRODUCT, SUM
from nlc.backends.torch_printer import TorchPrinter
from nlc.ir.expr import Expr, walk
from nlc.ir.ops import mul, neg
from nlc.ir.shapes import parts
from nlc.ir.types import TOKEN, Type


def _learned(e: Expr) -> bool:
    """Whether it is made of learned starts alone, which have no axis for the batch."""
    return all(n.args or n.op in ("initial", "num") for n in walk(e))


def bare(e: Expr) -> bool:
    """Whether it has no axis for the batch: a slow weight, or a learned start."""
    return not e.type.clock.batched or _learned(e)


def of_tokens(e: Expr) -> Expr:
    """A value for each token, also where all of them share it, as a weight is."""
    return e if e.type.clock == TOKEN else Expr("spread", (e,), None, e.type.at(TOKEN))


@dataclass
class RowPrinter(TorchPrinter):
    """``tokens`` is how many there are, as text; ``reader`` prints what reads a scan."""

    tokens: str = ""
    reader: Callable[[Expr], str] = str

    def aligned(self, e: Expr, to: Type, binds: int, rank: int | None = None) -> str:
        t: Type = e.type
        if self.is_number(e) or not (t.clock.batched or t.head):
            return self.at(e, binds)
        heads = to.head and not t.head and t.clock.batched and not _learned(e)
        tokens = to.clock == TOKEN and t.clock != TOKEN
        behind = max((to.rank if rank is None else rank) - t.rank, 0)
        if not (heads or tokens or behind):
            return self.at(e, binds)
        index = [":", "None"] if heads else []
        index += ["..."] if tokens or behind else []
        index += ["None", *[":"] * t.rank] if tokens else []
        index += ["None"] * behind
        return f"{self.at(e, ATOM)}[{', '.join(index)}]"

    def headed(self, e: Expr, head: bool) -> str:
        return self.aligned(e, Type(e.type.dims, head, e.type.clock), ATOM)

    def weight(self, e: Expr, to: Type) -> str:
        """A weight beside a value: where it has heads, these stand before the tokens."""
        return self.aligned(e, to, SUM, rank=1)

    # -------------------------------------------------------------------------------------------- products

    def infix(self, e: Expr) -> tuple[str, int]:
        """A gradient times the slope of silu is one operation, with its own derivative."""
        for g, slope in (e.args, e.args[::-1]) if e.op == "mul" else ():
            if slope.op == "slope" and slope.attr == "silu" and g.type.rank == e.type.rank:
                args = [self.aligned(x, e.type, SUM) for x in (g, slope.args[0])]
                return f"{self.use('SiluBack')}.apply({', '.join(args)})", ATOM
        return super().infix(e)

    def op_neg(self, e: Expr) -> tuple[str, int]:
        """Of a vector times a number, the number has the sign: it is smaller."""
        (inner,) = e.args
        if inner.op == "mul" and inner.args[0].type.rank < inner.type.rank:
            return self.write(mul(neg(inner.args[0]), inner.args[1]))
        return super().op_neg(e)

    def op_matmul(self, e: Expr) -> tuple[str, int]:
        a, b = e.args
        if e.type.rank == 1 and e.type.clock == TOKEN:
            matrix, rows, turned = (a, b, True) if b.type.rank == 1 else (b, a, False)
            if matrix.op == "T":
                matrix, turned = matrix.args[0], not turned
            if matrix.type.clock == TOKEN:
                return super().op_matmul(e)
            if matrix.op == "weight" and not matrix.type.head and turned:
                return f"F.linear({self(rows)}, {self(matrix)})", ATOM
            right = self.headed(matrix, e.type.head)
            if turned and matrix.op == "var" and matrix.type.clock.batched:
                left = self.aligned(rows, Type(rows.type.dims, e.type.head, rows.type.clock), SUM)
                return f"{self.use('through')}({left}, {right})", ATOM
            left = self.headed(rows, e.type.head)
            return f"{left} @ {right}{'.mT' if turned else ''}", PRODUCT
        return super().op_matmul(e)

    def op_dot(self, e: Expr) -> tuple[str, int]:
        a, b = e.args
        head = a.type.head or b.type.head
        left, right = (
            self.aligned(x, Type(x.type.dims, head, e.type.clock), PRODUCT) for x in (a, b)
        )
        product = f"{left} * {right}"
        return (
            (product, PRODUCT) if a.type.rank == 0 else (f"({product}).sum({self.reduce(a)})", ATOM)
        )

    # -------------------------------------------------------------------------------------------- modules, heads

    def op_linear(self, e: Expr) -> tuple[str, int]:
        x, weight, *bias = e.args
        module = self.system.modules[e.attr]
        if not module.head or e.type.clock != TOKEN:
            return super().op_linear(e)
        text = f"{self.headed(x, True)} @ {self.at(weight, ATOM)}.mT"
        if bias:
            text, binds = f"{text} + {self.weight(bias[0], e.type)}", SUM
        else:
            binds = PRODUCT
        return (text, binds) if module.outer is not None else (f"({text}).squeeze(-1)", ATOM)

    def _norm(self, e: Expr, name: str) -> tuple[str, int]:
        x, *weights = e.args
        args = [self(x), *(self.weight(w, e.type) for w in weights)]
        return f"{self.use(name)}({', '.join(args)})", ATOM

    def op_rmsnorm(self, e: Expr) -> tuple[str, int]:
        return self._norm(e, "rmsnorm")

    def op_layernorm(self, e: Expr) -> tuple[str, int]:
        return self._norm(e, "layernorm")

    def op_split(self, e: Expr) -> tuple[str, int]:
        if e.type.clock != TOKEN:
            return super().op_split(e)
        x = self.at(e.args[0], ATOM)
        if e.type.rank == 0:
            return f"{x}.mT{self.repeated(e, -2)}", ATOM
        x = f"{x}.unflatten(-1, ({self.size(parts(e))}, -1)).transpose(1, 2)"
        return f"{x}{self.repeated(e, 1)}", ATOM

    def op_merge(self, e: Expr) -> tuple[str, int]:
        if e.type.clock != TOKEN:
            return super().op_merge(e)
        x = self.at(e.args[0], ATOM)
        return (f"{x}.mT" if e.args[0].type.rank == 0 else f"{x}.transpose(1, 2).flatten(-2)"), ATOM

    # -------------------------------------------------------------------------------------------- tokens

    def operands(self, e: Expr) -> list[str]:
        first, *rest = super().operands(e)
        x = e.args[0]
        return [f"{self.at(x, ATOM)}.transpose(1, 2)" if x.type.head else first, *rest]

    def op_first_token(self, e: Expr) -> tuple[str, int]:
        return self._token(e, "0")

    def op_last_token(self, e: Expr) -> tuple[str, int]:
        return self._token(e, "-1")

    def _token(self, e: Expr, index: str) -> tuple[str, int]:
        behind = ", :" * e.type.rank
        return f"{self.at(e.args[0], ATOM)}[..., {index}{behind}]", ATOM

    def op_spread(self, e: Expr) -> tuple[str, int]:
        """One value for all tokens, for each of them."""
        (x,) = e.args
        if self.is_number(x):
            shape = [self.tokens, *map(self.size, e.type.dims)]
            return (
                f"{self.like}.new_full(({', '.join(shape)}{',' * (len(shape) == 1)}), {self(x)})",
                ATOM,
            )
        text = self.at(x, ATOM) if bare(x) else self(x)
        one = f"{text}[None]" if bare(x) else text  # flows of one batch for all have its axis
        return f"{self.use('spread')}({one}, {-1 - x.type.rank}, {self.tokens})", ATOM

    def op_lane(self, e: Expr) -> tuple[str, int]:
        """One of several that are stacked."""
        return f"{self.at(e.args[0], ATOM)}[{e.attr}]", ATOM

    def op_stack(self, e: Expr) -> tuple[str, int]:
        """Starts of several memories as one, with an axis for the batch."""
        paths = [self.attribute(f"{a.attr}.init") for a in e.args]
        return f'{self.use("as_one")}(state["{e.args[0].attr}"], {", ".join(paths)})', ATOM

    def op_read(self, e: Expr) -> tuple[str, int]:
        return self.reader(e), ATOM
