"""What is known of a value: named dimensions, head axis, clock, range, dtype. Batch and time never appear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import inf

Monomial = tuple[tuple[str, int], ...]  # sorted (symbol, exponent), exponents may be negative
Number = int | float


@dataclass(frozen=True)
class Dim:
    """An exact size: a polynomial with rational coefficients over hypers, in which symbols may divide.

    ``d / heads * heads`` is ``d``, so equal sizes are equal values.
    """

    terms: tuple[tuple[Monomial, Fraction], ...]

    @staticmethod
    def of(value: int | str | Dim | Fraction) -> Dim:
        if isinstance(value, Dim):
            return value
        if isinstance(value, str):
            return Dim(((((value, 1),), Fraction(1)),))
        return Dim._collect({(): Fraction(value)})

    @staticmethod
    def _collect(terms: Mapping[Monomial, Fraction]) -> Dim:
        return Dim(tuple(sorted((m, c) for m, c in terms.items() if c)))

    def __add__(self, other: Dim | int) -> Dim:
        terms = dict(self.terms)
        for monomial, coefficient in Dim.of(other).terms:
            terms[monomial] = terms.get(monomial, Fraction(0)) + coefficient
        return Dim._collect(terms)

    def __neg__(self) -> Dim:
        return Dim(tuple((m, -c) for m, c in self.terms))

    def __sub__(self, other: Dim | int) -> Dim:
        return self + -Dim.of(other)

    def __mul__(self, other: Dim | int) -> Dim:
        terms: dict[Monomial, Fraction] = {}
        for m1, c1 in self.terms:
            for m2, c2 in Dim.of(other).terms:
                powers = dict(m1)
                for symbol, exponent in m2:
                    powers[symbol] = powers.get(symbol, 0) + exponent
                monomial = tuple(sorted((s, e) for s, e in powers.items() if e))
                terms[monomial] = terms.get(monomial, Fraction(0)) + c1 * c2
        return Dim._collect(terms)

    def __truediv__(self, other: Dim | int) -> Dim:
        """Exact division; the divisor must be one term (``d / heads``, not ``d / (a + b)``)."""
        divisor = Dim.of(other).terms
        if len(divisor) != 1:
            raise ZeroDivisionError if not divisor else ValueError("a size is divided by one term")
        (monomial, coefficient) = divisor[0]
        inverse = Dim(((tuple((s, -e) for s, e in monomial), 1 / coefficient),))
        return self * inverse

    @property
    def symbols(self) -> set[str]:
        return {s for monomial, _ in self.terms for s, _ in monomial}

    @property
    def constant(self) -> Fraction | None:
        """The number, if it is one."""
        if not self.terms:
            return Fraction(0)
        if len(self.terms) == 1 and not self.terms[0][0]:
            return self.terms[0][1]
        return None

    def substitute(self, values: Mapping[str, Dim]) -> Dim:
        if not self.symbols & values.keys():
            return self
        total = Dim(())
        for monomial, coefficient in self.terms:
            term = Dim.of(coefficient)
            for symbol, exponent in monomial:
                factor = values.get(symbol, Dim.of(symbol))
                for _ in range(abs(exponent)):
                    term = term * factor if exponent > 0 else term / factor
            total = total + term
        return total

    def evaluate(self, values: Mapping[str, Number]) -> Fraction:
        """The size at given hypers; KeyError if one is missing, ZeroDivisionError if one divides and is 0."""
        total = Fraction(0)
        for monomial, coefficient in self.terms:
            term = coefficient
            for symbol, exponent in monomial:
                term *= Fraction(values[symbol]) ** exponent
            total += term
        return total

    def __str__(self) -> str:
        """As a person writes it: ``d``, ``heads*dk``, ``d/heads``, ``4*n + 1``."""
        return self._text("*", "/") or "0"

    @property
    def python(self) -> str:
        """As an integer expression of Python over the same names."""
        return self._text(" * ", " // ") or "0"

    def _text(self, times: str, over: str) -> str:
        out = ""
        for monomial, coefficient in sorted(self.terms, key=lambda t: (t[0] == (), t[0])):
            up = [s for s, e in monomial for _ in range(max(e, 0))]
            down = [s for s, e in monomial for _ in range(max(-e, 0))]
            up = (
                [str(abs(coefficient.numerator))]
                if abs(coefficient.numerator) != 1 or not up
                else []
            ) + up
            down = down + ([str(coefficient.denominator)] if coefficient.denominator != 1 else [])
            text = times.join(up)
            if down:
                below = times.join(down) if len(down) == 1 else f"({times.join(down)})"
                text = (
                    f"({text}){over}{below}"
                    if len(up) > 1 and over == " // "
                    else f"{text}{over}{below}"
                )
            sign = "-" if coefficient < 0 else "+"
            out += f" {sign} {text}" if out else (f"-{text}" if sign == "-" else text)
        return out


ONE = Dim.of(1)


@dataclass(frozen=True)
class Like:
    """All the axes of a tensor that a gradient system trains, whatever they are."""

    name: str

    def __str__(self) -> str:
        return f"like({self.name})"


Dims = tuple[Dim | Like, ...]


@dataclass(frozen=True)
class Clock:
    """When a thing is computed anew.

    ``kind`` is ``infinite`` (non-parametric), ``per`` (``count`` times a unit), ``every`` (once in ``count`` units) or
    ``never`` (constants). ``phase`` says whether that is at the ``end`` of a period or at its ``start``. A declared
    clock has a ``name`` and ticks in those units for which its flow, ``marks``, is positive. ``order`` sorts clocks
    fastest first, with symbolic counts at their default and declared clocks behind every period of their unit; a count
    that is 1 by default may be more, so it is behind each unit.
    """

    kind: str
    unit: str = ""
    count: Dim = ONE
    default: Fraction = field(default=Fraction(1), compare=False)
    phase: str = "end"
    name: str = ""

    @property
    def order(self) -> tuple[int, float, bool]:
        if self.kind == "infinite":
            return (0, 0, False)
        if self.kind == "never":
            return (9, 0, False)
        unit = {"token": 1, "sample": 2, "step": 3}[self.unit]
        if self.name:
            return (unit, inf, True)
        return (unit, self.default if self.kind == "every" else 1 / self.default, self.slow)

    @property
    def marks(self) -> str:
        """The flow that says when a declared clock ticks."""
        return f"every {self.name}"

    @property
    def slow(self) -> bool:
        """Whether it leaves out some ticks of its unit."""
        return self.kind == "every" and (bool(self.name) or self.count != ONE)

    @property
    def late(self) -> bool:
        """Whether it ticks behind all that happens in the tick: slow, and not of phase ``start``."""
        return self.slow and self.phase == "end"

    def faster(self, other: Clock) -> bool:
        """Def. 2: strictly higher update frequency."""
        return self.order < other.order

    def held_for(self, reader: Clock) -> bool:
        """Whether a reader of this tick sees what was there before it."""
        return self.late and (reader.faster(self) or not reader.late)

    @property
    def batched(self) -> bool:
        """Whether values of this clock belong to a sequence of the batch (else to the whole module)."""
        return self.kind == "infinite" or (self.kind in ("every", "per") and self.unit != "step")

    def __str__(self) -> str:
        if self.kind in ("infinite", "never"):
            return self.kind
        if self.kind == "per":
            return f"{self.count} per {self.unit}"
        if self.name:
            return f"every {self.name}"
        if self.count == ONE:
            return f"every {self.unit}"
        return f"every {self.count} {self.unit}s" + (", at the start" * (self.phase == "start"))

    @property
    def valued(self) -> str:
        """The same with the value of a symbolic count at its default: ``every 64 tokens (chunk)``."""
        if self.count.constant is not None or self.kind not in ("per", "every"):
            return str(self)
        return f"{replace(self, count=Dim.of(self.default))} ({self.count})"


INFINITE = Clock("infinite")
NEVER = Clock("never")
TOKEN = Clock("every", "token")
SAMPLE = Clock("every", "sample")  # of a layer: the vectors that went into it in one step
STEP = Clock("every", "step")
BASES = {
    "tokens": TOKEN,
    "gradients": STEP,
    "layers": SAMPLE,
}  # by context: the fastest that there is


def fastest(clocks: Iterable[Clock]) -> Clock:
    return min(clocks, key=lambda c: c.order, default=NEVER)


@dataclass(frozen=True)
class Range:
    """Bounds that hold at the default hypers: of every element, and of the Euclidean norm."""

    low: float = -inf
    high: float = inf
    norm: float = inf

    @staticmethod
    def point(value: float) -> Range:
        return Range(value, value, abs(value))

    @property
    def magnitude(self) -> float:
        return max(abs(self.low), abs(self.high))

    def within(self, low: float, high: float) -> bool:
        return low <= self.low and self.high <= high


ANY = Range()


@dataclass(frozen=True)
class Type:
    """The type of an expression. ``dims`` are the trailing axes: ``[B, T, (H,) *dims]`` in a module's forward."""

    dims: Dims = ()
    head: bool = False
    clock: Clock = NEVER
    range: Range = ANY
    dtype: str = "float"  # float, int or bool

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def like(self) -> bool:
        return any(isinstance(d, Like) for d in self.dims)

    def at(self, clock: Clock) -> Type:
        return replace(self, clock=clock)

    def shape(self) -> str:
        """``[heads, dv, dk]``, ``[]``, ``like(W)``."""
        if self.like:
            return str(self.dims[0])
        return "[" + ", ".join((["heads"] if self.head else []) + [str(d) for d in self.dims]) + "]"

    def __str__(self) -> str:
        return f"{self.shape()} {self.clock}" + ("" if self.dtype == "float" else f" {self.dtype}")


def show_dims(dims: Dims) -> str:
    """For messages: ``[dv, dk]``, ``like(W)``, ``a scalar``."""
    if not dims:
        return "a scalar"
    return str(dims[0]) if isinstance(dims[0], Like) else f"[{', '.join(map(str, dims))}]"
