"""Gates of scans as expressions of what they are made of: the rate of a write, what erases, the logarithm of a decay.

Where such a number is element by element of values that are there anyway, a record has its expression instead of a name
(``nlc/passes/plan/made.py``), and a backend can make it where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from nlc.ir.coupled import coupling, factored
from nlc.ir.expr import Expr, walk
from nlc.ir.ops import leaf, make
from nlc.ir.scan import Record
from nlc.ir.types import TOKEN, Type

ORDER = ("log_a", "w", "b")  # of gates: the first gives its name to what it is made of
WEIGHED = (
    "coupled",
    "signed",
)  # kinds of records whose kernels take numbers as weights (`Coupling`)
ARITHMETIC = ("neg", "add", "sub", "mul", "div")
ELEMENTWISE = (
    *("exp", "log", "sqrt", "abs", "sigmoid", "softplus", "tanh", "relu", "maximum", "minimum"),
    *("clip", "pow"),
)
NUMBER = Type((), True, TOKEN)  # of a head and token


@dataclass(frozen=True)
class Gates:
    """Gates by name, each over variables: ``raw_…``, one number for each token, ``head_…``, one for each head,
    ``fixed_…``, one for all.

    ``slopes`` are statements that give ``slope_…`` by each from ``d_…`` by the gates; ``decay`` is the logarithm of the
    decay alone, as reads take it. ``together`` are statements that give all gates at once.
    """

    values: tuple[tuple[str, Expr], ...]
    slopes: tuple[tuple[str, Expr], ...] = ()
    decay: Gates | None = None
    together: tuple[tuple[str, Expr], ...] = ()

    def only(self, *names: str) -> Gates:
        """Some of the gates, without slopes."""
        return Gates(tuple((n, e) for n, e in self.values if n in names))

    def __getitem__(self, gate: str) -> Expr:
        return dict(self.values)[gate]

    @cached_property
    def given(self) -> list[str]:
        """Its variables: those of tokens, of heads, then of all."""
        found = dict.fromkeys(n for _, e in self.values for n in variables(e))
        return sorted(found, key=lambda n: ("raw", "head", "fixed").index(n.partition("_")[0]))

    def kind(self, kind: str) -> list[str]:
        """Its variables of a kind."""
        return [n for n in self.given if n.startswith(kind)]

    @property
    def tensors(self) -> list[str]:
        return self.kind("raw") + self.kind("head")

    @property
    def fixed(self) -> list[str]:
        return self.kind("fixed")


def variables(e: Expr) -> list[str]:
    return [str(n.attr) for n in walk(e) if n.op == "var"]


def number(e: Expr) -> bool:
    """Whether it is a number of Python."""
    return all(n.args or n.op in ("num", "hyper", "size") for n in walk(e))


def inside(e: Expr) -> bool:
    """Whether it can be made of its operands where it is used: element by element, of numbers or vectors."""
    square = e.op != "pow" or (e.args[1].op, e.args[1].attr) == ("num", 2)
    return e.op in (*ARITHMETIC, *ELEMENTWISE) and square and e.type.rank <= 1


def own(e: Expr) -> Iterable[Expr]:
    """The nodes that are made, and their leaves."""
    yield e
    if inside(e) and not number(e):
        for a in e.args:
            yield from own(a)


def leaves(e: Expr) -> list[Expr]:
    """What it is made of, but for numbers that are written out."""
    return [n for n in own(e) if n.op != "num" and (number(n) or not inside(n))]


def rate(r: Record) -> tuple[Expr, Expr] | None:
    """The number and the vector that a write is made of; not where terms of a state's start are part of it, nor where
    numbers are weights of a coupling."""
    write = r.write[0] if r.kind not in WEIGHED else None
    toward = r.erases and r.start and r.start[0] is not None
    if write is None or write.type.rank == 0 or (toward and not r.answered):
        return None
    number, vector = factored(write)
    bare = number.args[0] if number.op == "neg" else number
    return None if bare.op == "num" else (number, vector)


def parts(r: Record) -> dict[str, Expr]:
    """The gates of a record by their names in kernels."""
    if r.kind in WEIGHED:
        return coupling(r).gates
    found = {"log_a": r.log, "b": r.erase[0] if r.source is not None else None}
    if (pair := rate(r)) is not None:
        found["w"] = pair[0]
    return {n: found[n] for n in ORDER if found.get(n) is not None}  # type: ignore[misc]


def named(gates: dict[str, Expr]) -> tuple[Gates, dict[str, Expr]]:
    """Gates over variables, and what these stand for."""
    names: dict[Expr, str] = {}
    values = []
    for gate, e in gates.items():
        for x in leaves(e):
            if x not in names:
                kind = "fixed" if number(x) else "raw" if x.type.clock.batched else "head"
                name, n = f"{kind}_{gate.removeprefix('log_')}", 2
                while name in names.values():
                    name, n = f"{kind}_{gate.removeprefix('log_')}{n}", n + 1
                names[x] = name
        values.append((gate, _plain(e, names)))
    return Gates(tuple(values)), {n: x for x, n in names.items()}


def _plain(e: Expr, names: dict[Expr, str]) -> Expr:
    """An expression over variables, each a number of a token."""
    if e in names:
        return leaf("var", names[e], NUMBER)
    if not e.args:
        return e
    return make(e.op, *(_plain(a, names) for a in e.args), attr=e.attr)
