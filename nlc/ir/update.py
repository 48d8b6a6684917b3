"""What derivation makes of a level: the gradient of its objective and the step that follows from its rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nlc.ir.expr import Expr, rewrite


@dataclass(frozen=True)
class Step:
    """One line of a derivation: ``name = left = right``, and why."""

    why: str
    left: Expr | None
    right: Expr | None


@dataclass(frozen=True)
class Named:
    """``what`` (key or error) of weight ``state`` is ``expr``, which is called ``symbol`` from here on."""

    state: str
    what: str
    symbol: Expr
    expr: Expr


@dataclass(frozen=True)
class Update:
    """The step of one level, by state name.

    ``base`` is B of language §3 over the state before the tick; ``gradient`` is ∇ℓ at P, over ``state(s, base)`` leaves
    (or ``anchor``), and that of every step inside its rule, by name; ``new`` is the new state over those and
    ``gradient`` leaves.
    """

    level: str
    base: dict[str, Expr]
    gradient: dict[str, Expr]
    new: dict[str, Expr]
    steps: dict[str, tuple[Step, ...]]
    factors: tuple[Named, ...] = ()  # what gradients and new states read by name

    @property
    def expressions(self) -> Iterator[Expr]:
        """Everything that the step computes."""
        yield from self.base.values()
        yield from (x.expr for x in self.factors)
        yield from self.gradient.values()
        yield from self.new.values()

    def expanded(self, state: str) -> Expr:
        """The new state over the state before the tick alone, every intermediate written out."""

        def fill(e: Expr) -> Expr | None:
            if e.op == "gradient" and e.attr in self.gradient:
                return self.started(rewrite(self.gradient[e.attr], fill))
            return None

        return self.started(rewrite(self.new[state], fill))

    def started(self, e: Expr) -> Expr:
        """An expression over the states before the tick in place of those that the step starts from."""

        def fill(n: Expr) -> Expr | None:
            return self.base.get(n.attr[0]) if n.op == "state" and n.attr[1] == "base" else None

        return rewrite(e, fill)
