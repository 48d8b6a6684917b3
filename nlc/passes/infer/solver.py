"""Unknown shapes and widths, solved by unification.

A width that the text leaves open is a symbol ``?n`` in a ``Dim``; a shape whose rank is open too
(``linear(x)`` may be a gate or a vector) is an ``Unknown``. Elementwise operators, ``split`` and
``merge`` over unknowns wait until one side is known; only then do defaults apply: an unknown beside a
vector is such a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nlc.ir.expr import Expr
from nlc.ir.shapes import HEADS, ShapeError, Shapes, as_matrix, parts
from nlc.ir.types import ONE, Dim, Dims, Like, show_dims


@dataclass(eq=False)
class Unknown:
    """A shape of rank 0 or 1 that is not known yet."""

    bound: object = None  # Dims or another Unknown


@dataclass
class Waiting:
    """A constraint over unknowns: ``kind`` is elementwise, split or merge."""

    kind: str
    args: tuple[object, ...]
    result: Unknown
    node: Expr


@dataclass
class Solver(Shapes):
    """``derived`` maps hypers to the sizes that their defaults say, for equalities that hold by default only."""

    derived: dict[str, Dim] = field(default_factory=dict)
    widths: dict[str, Dim] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)
    assumed: list[tuple[Dim, Dim]] = field(default_factory=list)
    node: Expr | None = None
    _count: int = 0

    # -------------------------------------------------------------------------------------------- unknowns

    def width(self) -> Dim:
        self._count += 1
        return Dim.of(f"?{self._count}")

    def settle(self, dim: Dim) -> Dim:
        while any(s in self.widths for s in dim.symbols):
            dim = dim.substitute(self.widths)
        return dim

    def view(self, dims):
        while isinstance(dims, Unknown) and dims.bound is not None:
            dims = dims.bound
        if isinstance(dims, Unknown):
            return dims
        return tuple(d if isinstance(d, Like) else self.settle(d) for d in dims)

    def known(self, dims) -> bool:
        return not isinstance(self.view(dims), Unknown)

    def bind(self, unknown, dims) -> None:
        unknown, dims = self.view(unknown), self.view(dims)
        if unknown is not dims:
            unknown.bound = dims

    # -------------------------------------------------------------------------------------------- the rules

    def same_dim(self, a: Dim, b: Dim) -> bool:
        a, b = self.settle(a), self.settle(b)
        if a == b:
            return True
        for symbol in sorted(s for s in (a - b).symbols if s.startswith("?")):
            if self._solve(a - b, symbol):
                return True
        if any(s.startswith("?") for s in (a - b).symbols):
            return False
        if self._by_default(a) == self._by_default(b):
            self.assumed.append((a, b))
            return True
        return False

    def equal(self, a: Dim, b: Dim) -> bool:
        """Whether two sizes are one whatever the hypers are, as far as is known; nothing is assumed."""
        a, b = self.settle(a), self.settle(b)
        return a == b or self._by_default(a) == self._by_default(b)

    def _solve(self, difference: Dim, symbol: str) -> bool:
        """c·x + rest = 0 for the width x, where it stands in one term to the power one."""
        own = [(m, c) for m, c in difference.terms if any(s == symbol for s, _ in m)]
        if len(own) != 1 or dict(own[0][0])[symbol] != 1:
            return False
        rest = Dim(tuple(t for t in difference.terms if t != own[0]))
        factor = Dim(((tuple(x for x in own[0][0] if x[0] != symbol), own[0][1]),))
        self.widths[symbol] = -rest / factor
        return True

    def _by_default(self, dim: Dim) -> Dim:
        for _ in range(len(self.derived) + 1):
            try:
                dim = dim.substitute(self.derived)
            except (ValueError, ZeroDivisionError):  # divided by what is no single term
                break
        return dim

    def same(self, a, b):
        a, b = self.view(a), self.view(b)
        if isinstance(a, Unknown):
            self.bind(a, b)
            return b
        if isinstance(b, Unknown):
            self.bind(b, a)
            return a
        return super().same(a, b)

    def scalar(self, dims, operand: int) -> None:
        if not self.known(dims):
            self.bind(dims, ())
        super().scalar(dims, operand)

    def vector(self, dims, operand: int) -> Dim:
        if not self.known(dims):
            self.bind(dims, (self.width(),))
        return super().vector(dims, operand)

    def channels(self, dims, operand: int) -> Dim:
        return ONE if self.view(dims) == () else self.vector(dims, operand)

    def matrix(self, dims, operand: int):
        if not self.known(dims):
            self.bind(dims, (self.width(),))
        return super().matrix(dims, operand)

    def matmul(self, a, b) -> Dims:
        for operand, each in enumerate((a, b)):
            if not self.known(each):
                self.vector(each, operand)
        return super().matmul(a, b)

    def elementwise(self, dims: Sequence) -> Dims:
        if all(self.known(d) for d in dims):
            return super().elementwise(dims)
        return self._wait("elementwise", dims)

    def split(self, dims, count: Dim = HEADS) -> Dims:
        return super().split(dims, count) if self.known(dims) else self._wait("split", [dims])

    def merge(self, dims) -> Dims:
        return super().merge(dims) if self.known(dims) else self._wait("merge", [dims])

    def _wait(self, kind: str, args: Sequence):
        result = Unknown()
        self.waiting.append(Waiting(kind, tuple(args), result, self.node))
        return result

    def beside_a_vector(self, dims) -> bool:
        """Whether what is not known yet is made of a vector too, and will be one if nothing else is said of it."""
        todo, seen = [self.view(dims)], set()
        while todo:
            shape = todo.pop()
            if not isinstance(shape, Unknown):
                if len(shape) == 1 and not isinstance(shape[0], Like) and seen:
                    return True
            elif id(shape) not in seen:
                seen.add(id(shape))
                made = (w for w in self.waiting if w.kind == "elementwise")
                todo += [self.view(a) for w in made if self.view(w.result) is shape for a in w.args]
        return False

    # -------------------------------------------------------------------------------------------- solving

    def solve(self, blame: Callable[[Expr, ShapeError], None]) -> None:
        """Works off what waits: first what is certain, then one default at a time."""
        steps = (self._certain, self._beside_a_vector, self._alike, self._open)
        progress = True
        while progress and self.waiting:
            progress = False
            for step in steps:
                for w in list(self.waiting):
                    try:
                        moved = step(w)
                    except ShapeError as e:
                        self.waiting.remove(w)
                        blame(w.node, e)
                        moved = True
                    if moved:
                        progress = True
                        if step is not self._certain:
                            break
                if progress:
                    break

    def _done(self, w: Waiting) -> bool:
        self.waiting.remove(w)
        return True

    def _certain(self, w: Waiting) -> bool:
        open_args = [a for a in w.args if not self.known(a)]
        if not open_args:
            rule = {
                "elementwise": super().elementwise,
                "split": lambda a: Shapes.split(self, a[0], parts(w.node)),
                "merge": lambda a: Shapes.merge(self, a[0]),
            }
            self.same(w.result, rule[w.kind](w.args))
            return self._done(w)
        if w.kind == "elementwise":
            return self._certain_elementwise(w, open_args)
        if not self.known(w.result):
            return False
        out = self.view(w.result)
        if w.kind == "split":
            count = parts(w.node)
            self.same(w.args[0], (count,) if out == () else (self.vector(out, 0) * count,))
        else:
            n = self.vector(out, 0) / HEADS
            self.same(w.args[0], () if n == ONE else (n,))
        return self._done(w)

    def _certain_elementwise(self, w: Waiting, open_args: list) -> bool:
        if self.known(w.result) and self.view(w.result) == ():
            for a in open_args:
                self.bind(a, ())
            return True
        others_scalar = all(self.view(a) == () for a in w.args if self.known(a))
        if len({id(self.view(a)) for a in open_args}) == 1 and others_scalar:
            if self.view(w.result) is not self.view(open_args[0]):
                self.same(w.result, open_args[0])
            return self._done(w)
        return False

    def _beside_a_vector(self, w: Waiting) -> bool:
        """Beside a vector a width is the vector's; beside a matrix it can only be a gate."""
        shapes, moved = self._beside(w), False
        vector = all(len(s) == 1 and not isinstance(s[0], Like) for s in shapes)
        for a in w.args if shapes else ():
            if not self.known(a) and (vector or self._gate(w, a, shapes[0])):
                self.bind(a, shapes[0] if vector else ())
                moved = True
        return moved

    def _open(self, w: Waiting) -> bool:
        """What is left beside a matrix is neither a gate nor a matrix."""
        if shapes := self._beside(w):
            i = next(i for i, a in enumerate(w.args) if not self.known(a))
            said = f"a number or a vector, and beside it stands {show_dims(shapes[0])}"
            help = "state its width: `linear(x, n)`, or `linear(x, 1)` for a number"
            raise ShapeError(said, i, help)
        return False

    def _gate(self, w: Waiting, unknown: object, shape: Dims) -> bool:
        """Whether it is no mere term of a sum: a factor here or elsewhere, or beside one of rows or columns."""
        sums = ("add", "sub")
        others = [x for x in self.waiting if x.kind == "elementwise" and x.node.op not in sums]
        elsewhere = any(self.view(a) is self.view(unknown) for x in others for a in x.args)
        return w.node.op not in sums or ONE in as_matrix(shape) or elsewhere

    def _beside(self, w: Waiting) -> list[Dims]:
        """The shapes that elementwise unknowns stand beside, but for numbers."""
        if w.kind != "elementwise":
            return []
        return [self.view(a) for a in (*w.args, w.result) if self.known(a) and self.view(a) != ()]

    def _alike(self, w: Waiting) -> bool:
        if w.kind != "elementwise":
            return False
        first, *rest = [a for a in w.args if not self.known(a)]
        moved = False
        for other in rest:
            if self.view(other) is not self.view(first):
                self.bind(other, first)
                moved = True
        return moved
