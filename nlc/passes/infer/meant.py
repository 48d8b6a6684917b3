"""What to write for a product, a sum or a transpose whose shapes do not fit, from the shapes that are there."""

from __future__ import annotations

from collections.abc import Iterator

from nlc.ir.expr import Expr, walk
from nlc.ir.shapes import as_matrix
from nlc.ir.show import show
from nlc.ir.system import System
from nlc.ir.types import BASES, ONE, SAMPLE, Dim, Dims, Like
from nlc.passes.infer.solver import Solver, Unknown


class Meant:
    """The help of a mistake in shapes, "" where none is sure to fit."""

    system: System
    solver: Solver
    shape: dict[int, object]

    def _instead(self, node: Expr) -> str:
        ways = (self._gathered, self._outer, self._turned, self._reading, self._sides, self._factor)
        return next((said for way in ways if (said := way(node))), "")

    def _seen(self, e: Expr) -> Dims | None:
        """The shape of an expression as far as it is known, None where nothing is."""
        shape = self.shape.get(id(e))
        dims = None if shape is None else self.solver.view(shape)
        return None if isinstance(dims, Unknown) else dims

    def _gathered(self, node: Expr) -> str:
        """``dot(m, mean(g))`` in a level as fast as g, where a mean is over the elements, not over time."""
        for a in node.args:
            others = [self._seen(b) for b in node.args if b is not a]
            if a.op not in ("sum", "mean") or (inside := self._seen(a.args[0])) is None:
                continue
            if inside and any(o and as_matrix(o) == as_matrix(inside) for o in others):
                base, of = BASES[self.system.context], quoted(a.args[0])
                over = "" if base == SAMPLE else f"; only a level of `every n {base.unit}s` gathers"
                what = f" {of if of.isidentifier() else 'it'} over its period" if over else ""
                return f"write `{of}`: `{a.op}` is over its elements here{over}{what}"
        return ""

    def _outer(self, node: Expr) -> str:
        """``v @ k``, ``v @ k.T``, ``v * k.T`` and ``S + v * k`` where two vectors make a matrix."""
        if node.op == "T":
            reader = next((n for n in self._readers(node)), None)
            if self._vector(node.args[0]) is None:
                return ""
            if reader is None or reader.op not in ("matmul", "mul"):
                return "a vector has no transpose: `outer(a, b)` is a bᵀ, `dot(a, b)` is aᵀ b"
            left, right = (a.args[0] if a is node else a for a in reader.args)
            turned = reader.args[0] is node  # aᵀ b
            both = f"{quoted(left)}, {quoted(right)}"
            return f"write `dot({both})`" if turned else f"write `outer({both})`"
        if node.op not in ("matmul", "mul", "add", "sub"):
            return ""
        if node.op in ("add", "sub"):
            for a, b in (node.args, reversed(node.args)):
                whole = self._seen(b)
                if whole is not None and len(as_matrix(whole)) == 2 and (said := self._both(a)):
                    return f"write `{said}` for a matrix"
            return ""
        vectors = [self._vector(a) for a in node.args]
        if None in vectors or ("(" in quoted(node.args[0]) and node.args[0].op == "state"):
            return ""  # `S(key)` of a state that is no matrix
        left, right = (quoted(a) for a in node.args)
        if node.op == "matmul":
            return (
                f"write `outer({left}, {right})` for a matrix, `dot({left}, {right})` for a number"
            )
        states = [as_matrix(s.dims) for s in self.system.states.values()]
        if tuple(vectors) in states:
            return f"write `outer({left}, {right})` for a matrix"
        return (
            f"write `outer({right}, {left})` for a matrix" if tuple(vectors[::-1]) in states else ""
        )

    def _both(self, e: Expr) -> str:
        """``outer(b * v, k)`` for ``b * v * k``; "" for what is no product of two vectors."""
        while e.op == "neg":
            e = e.args[0]
        if e.op != "mul" or any(self._vector(a) is None for a in e.args):
            return ""
        return f"outer({quoted(e.args[0])}, {quoted(e.args[1])})"

    def _vector(self, e: Expr) -> Dim | None:
        dims = self._seen(e)
        return dims[0] if dims and len(dims) == 1 and not isinstance(dims[0], Like) else None

    def _readers(self, node: Expr) -> Iterator[Expr]:
        """What a node is an operand of."""
        system = self.system
        roots = [flow.expr for flow in system.flows.values()]
        roots += [e for level in system.levels.values() for e in level.expressions]
        for e in (*roots, *system.output.values()):
            yield from (n for n in walk(e) if any(a is node for a in n.args))

    def _turned(self, node: Expr) -> str:
        """``key @ S`` for ``S @ key``: what to write."""
        if node.op != "matmul":
            return ""
        vector, matrix = (self._seen(a) for a in node.args)
        if vector is None or matrix is None or (len(vector), len(matrix)) != (1, 2):
            return ""
        if matrix[1] != vector[0]:
            return ""
        left, right = (quoted(a) for a in node.args)
        return f"write `{right} @ {left}`: a matrix stands before the vector"

    def _reading(self, node: Expr) -> str:
        """``S(key)`` for a memory that stands beside a vector as it is: it was meant to be read."""
        if node.op not in ("add", "sub", "mul"):
            return ""
        for a, b in (node.args, node.args[::-1]):
            if a.op != "state" or ((dims := self._seen(b)) is not None and len(dims) > 1):
                continue
            level = self.system.levels[self.system.states[a.attr[0]].level]
            if not level.memory.read:
                continue
            if node.op == "mul":
                return f"write `{a.attr[0]}({quoted(b)})` to read the memory"
            asked = "key" if "key" in level.keys else "…"
            return f"write `{a.attr[0]}({asked})` to read the memory"
        return ""

    def _sides(self, node: Expr) -> str:
        """``sum(per_value(R) * A)`` for a ``dot`` of a vector, or a factor of rows or columns, and a matrix."""
        views = [self._seen(a) for a in node.args]
        if node.op != "dot" or any(not v for v in views):
            return ""
        sides = [(a, as_matrix(v)) for a, v in zip(node.args, views)]
        (vector, own), (matrix, whole) = sorted(sides, key=lambda s: (len(s[1]), ONE not in s[1]))
        if len(whole) != 2 or (len(own) == 2 and ONE not in own):
            return ""
        text, rows = quoted(vector), own in (whole[:1], (whole[0], ONE))
        if len(own) == 1:
            if own[0] not in whole:
                return ""
            text = f"per_value({text})" if rows else f"per_key({text})"
        side = "row" if rows else "column"
        return f"write `sum({text} * ({quoted(matrix)}))`, whose gradient is the sum of each {side}"

    def _factor(self, node: Expr) -> str:
        """``per_value(v)`` for a vector beside a matrix that has as many rows, and not as many columns."""
        views = [(a, self._seen(a)) for a in node.args]
        vector = next((a for a, _ in views if self._vector(a) is not None), None)
        whole = next(
            (m for _, v in views if v and len(m := as_matrix(v)) == 2 and ONE not in m), None
        )
        if node.op not in ("add", "sub", "mul", "div") or vector is None or whole is None:
            return ""
        size, text = self._vector(vector), quoted(vector)
        fits = [f"{name}({text})" for name, d in zip(("per_value", "per_key"), whole) if d == size]
        if len(fits) != 1:
            return ""
        return f"write `{fits[0]}`"


def quoted(e: Expr) -> str:
    return (e.span.quote() if e.span is not None else "") or show(e)
