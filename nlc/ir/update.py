"""What derivation makes of a level: the gradient of its objective and the step that follows from its rule."""

from __future__ import annotations

from dataclasses import dataclass

from nlc.ir.expr import Expr


@dataclass(frozen=True)
class Step:
    """One line of a derivation: ``name = left = right``, and why."""

    why: str
    left: Expr | None
    right: Expr | None


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

    def expanded(self, state: str) -> Expr:
        """The new state over the state before the tick alone, every intermediate written out."""
        from nlc.ir.expr import rewrite

        def fill(e: Expr) -> Expr | None:
            if e.op == "gradient" and e.attr in self.gradient:
                return rewrite(self.gradient[e.attr], fill)
            if e.op == "state" and e.attr[1] == "base" and e.attr[0] in self.base:
                return self.base[e.attr[0]]
            return None

        return rewrite(self.new[state], fill)
