"""What of a rule is done element by element, before, between and after what is not.

``newton_schulz(beta * m + (1 - beta) * g)`` is a sum of elements, which is put into a tensor of its own, and a function
of whole matrices. A *region* is what lies between two such functions: steps in place of tensors of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from nlc.backends.torch.regions import steps
from nlc.backends.torch.terms import Numeric
from nlc.ir.expr import Expr, walk
from nlc.ir.ops import elementwise, leaf, pointwise
from nlc.ir.program import Guard, Let, Program
from nlc.ir.shapes import as_matrix
from nlc.ir.types import Type

VIEWS = ("T", "squeeze", "unsqueeze", "slice", "flatten", "unflatten", "diagonal", "split", "merge")
SIZES = ("size", "numel", "nrows", "ncols")


@dataclass(frozen=True)
class Region:
    """Steps, the tensors that they change or make, those that they read, and tensors of one element.

    ``when``: the only ticks in which there is what they read.
    """

    lets: list[Let]
    changed: list[str]
    read: list[str]
    single: list[str]
    when: Guard | None = None

    @property
    def names(self) -> set[str]:
        """All that it reads or changes."""
        return {*self.changed, *self.read, *self.single}


Parts = list[Region | Let]
Cut = tuple[list[Let], Parts]  # the numbers of a rule, and its regions and other statements


def parted(
    program: Program,
    like: Type,
    held: set[str],
    numeric: Numeric,
    fresh: Callable[[str, Expr], str],
) -> Cut | None:
    """A rule cut to regions; None where none of them changes a tensor, or one must not be changed in place.

    ``like`` is the type of the trained tensor, ``held`` the variables of it and of the memories.
    """
    lets = list(program.lets())
    own = {n for x in lets if x.when is not None for n in x.names} - held
    beside = any(_variables(x.expr) & own for x in lets if x.when is None)
    if beside or any(len(x.names) > 1 for x in lets):
        return None
    cut = _Cutter(like, numeric, fresh)
    for x in lets:
        cut.let(x)
    elements = lambda x: cut.region(x.expr)  # noqa: E731
    found = steps(cut.out, held, numeric, elements)
    numbers = [x for x in found if numeric(x.expr)]
    found = [x for x in found if not numeric(x.expr)]
    parts: Parts = []
    done = 0
    kinds = zip(map(elements, found), _bound(found, held, elements), found, strict=True)
    for (inside, when), group in groupby(kinds, key=lambda x: x[:2]):
        some = [x for *_, x in group]
        done += len(some)
        later = {n for x in found[done:] for n in _variables(x.expr)}
        made = replace(_region(some, held | later, like, numeric), when=when) if inside else None
        parts += [made] if made is not None else some
    changed = {n for p in parts if isinstance(p, Region) for n in p.changed}
    if not changed & held or any(_shows(p, changed & held) for p in parts):
        return None
    return numbers, parts


def _bound(
    lets: list[Let], held: set[str], elements: Callable[[Let], bool]
) -> Iterator[Guard | None]:
    """For each statement its guard, if it reads what is made under a guard alone."""
    sometimes: set[str] = set()
    for x in lets:
        bound = x.when is not None and bool(_variables(x.expr) & sometimes)
        if x.when is not None and (bound or not elements(x)):
            sometimes |= {*x.names} - held
        yield x.when if bound else None


def _region(lets: list[Let], wanted: set[str], like: Type, numeric: Numeric) -> Region:
    made = list(dict.fromkeys(x.names[0] for x in lets))
    leaves = [n for x in lets for n in walk(x.expr) if n.op in ("var", "g") and not numeric(n)]
    read = {str(n.attr or "g"): n.type for n in leaves}
    others = [n for n in read if n not in made]
    whole = [n for n in others if _whole(read[n], like)]
    return Region(
        lets, [n for n in made if n in wanted], whole, [n for n in others if n not in whole]
    )


def _shows(part: Region | Let, changed: set[str]) -> bool:
    """Whether a statement's value is a memory seen in another way, which a change in place would change too."""
    if isinstance(part, Region):
        return False
    e = part.expr
    while e.op in VIEWS:
        e = e.args[0]
    return e.op == "var" and e.attr in changed


def _whole(t: Type | None, like: Type) -> bool:
    """Whether a value has the shape of the trained tensor, also where it is known as that of a matrix."""
    return t is not None and t.dims in (like.dims, as_matrix(like.dims))


def _single(t: Type | None) -> bool:
    return t is not None and not t.dims


def _variables(e: Expr) -> set[str]:
    return {str(n.attr) for n in walk(e) if n.op == "var"}


@dataclass
class _Cutter:
    """Statements whose parts are each done by elements, or none of them."""

    like: Type
    numeric: Numeric
    fresh: Callable[[str, Expr], str]

    def __post_init__(self) -> None:
        self.out: list[Let] = []
        self.known: dict[tuple[Expr, Guard | None], Expr] = {}

    def let(self, x: Let) -> None:
        self.x = x
        inside = self.region(x.expr)
        expr = (
            x.expr if self.numeric(x.expr) else (self._inside if inside else self._outside)(x.expr)
        )
        self.out.append(replace(x, expr=expr))
        self.known = {k: y for k, y in self.known.items() if x.names[0] not in _variables(k[0])}

    def region(self, e: Expr) -> bool:
        """Whether a value has the shape of the trained tensor, and each element is of elements in its place."""
        if not _whole(e.type, self.like) or self.numeric(e):
            return False
        return e.op in ("var", "g") or self._alike(e)

    def _alike(self, e: Expr) -> bool:
        if not (e.op in ("neg", "zeros") or pointwise(e.op) or elementwise(e.op)):
            return False
        return all(self.numeric(a) or _single(a.type) or _whole(a.type, self.like) for a in e.args)

    def _inside(self, e: Expr) -> Expr:
        """A value by elements; what is not stands before it."""
        if self.numeric(e):  # sizes are those of the whole, so they stand before the blocks
            return self._before(e, e) if any(n.op in SIZES for n in walk(e)) else e
        if self.region(e):
            return e.with_args(tuple(map(self._inside, e.args)))
        if not e.args:
            return e
        return self._before(e, self._outside(e))

    def _outside(self, e: Expr) -> Expr:
        """A function of whole tensors; what is computed of them by elements stands before it."""

        def argument(a: Expr) -> Expr:
            if self.region(a) and a.args:
                return self._before(a, self._inside(a))
            return self._outside(a)

        return e.with_args(tuple(map(argument, e.args)))

    def _before(self, e: Expr, value: Expr) -> Expr:
        key = e, self.x.when
        if key not in self.known:
            name = self.fresh(self.x.names[0], e)
            self.out.append(Let((name,), value, "", self.x.span, self.x.when))
            self.known[key] = leaf("var", name, e.type)
        return self.known[key]
