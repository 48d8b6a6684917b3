"""The record of a scan: how states of one shape come from token to token where that is linear (design §2.6).

    X^j_t = Σ_l A^{jl}_t X^l_{t−1} + (u^j_t − c^j_t z_t) k_tᵀ,   z_t = X^s_{t−1} p_t

Additive, gated, delta, DGD, momentum and decay towards an initial state are settings of it. A state [m, n] has keys
[n] and writes [m]; a vector or a number is a matrix of one column, with k = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nlc.base.span import Span
from nlc.ir.expr import Expr

if TYPE_CHECKING:
    from nlc.ir.gates import Gates


@dataclass(frozen=True)
class Record:
    """``states`` are the variables X¹ … Xᵖ; what is absent is None, and a coefficient may be a number.

    ``decay``: A, row by row. ``log``: log A where p = 1 and A is known to be positive, by key channel if ``channel``.
    ``write``: u. ``erase``: c, and ``source`` s whose read at ``probe`` is z. ``start``: T of each state that decays
    towards one, A acting on X − T. ``transposed``: it runs on Xᵀ. ``gates``: what its
    numbers are made of, where they are written out. ``answered``: the write is less what of the answer of T is erased.
    ``decayed``: z_t = X^s_{t−1} Diag(a_t) p_t, the answer of what has decayed by channel.
    """

    states: tuple[str, ...]
    rank: int
    key: Expr | None
    decay: tuple[tuple[Expr | None, ...], ...]
    write: tuple[Expr | None, ...]
    erase: tuple[Expr | None, ...]
    source: int | None = None
    probe: Expr | None = None
    start: tuple[Expr | None, ...] = ()
    log: Expr | None = None
    channel: bool = False
    transposed: bool = False
    gates: Gates | None = None
    answered: bool = False
    decayed: bool = False

    @property
    def erases(self) -> bool:
        return self.source is not None

    @property
    def kind(self) -> str:
        """How it decays: ``none``, ``scalar`` or ``channel`` (both by logs), ``signed``; ``coupled`` states."""
        if len(self.states) > 1:
            return "coupled"
        if self.log is not None:
            return "channel" if self.channel else "scalar"
        return "none" if _is_one(self.decay[0][0]) else "signed"

    @property
    def name(self) -> str:
        """The class of the recurrence, as users know it."""
        if self.kind == "coupled":
            return "coupled"
        if self.erases:
            return "rank-1 affine"
        return "additive" if self.kind == "none" else "gated"

    def map(self, rule: Callable[[Expr], Expr]) -> Record:
        """Every expression rewritten."""

        def each(e: Expr | None) -> Expr | None:
            return None if e is None else rule(e)

        return replace(
            self,
            key=each(self.key),
            probe=each(self.probe),
            log=each(self.log),
            decay=tuple(tuple(map(each, row)) for row in self.decay),
            write=tuple(map(each, self.write)),
            erase=tuple(map(each, self.erase)),
            start=tuple(map(each, self.start)),
        )

    @property
    def parts(self) -> tuple[Expr, ...]:
        """Everything that is computed for it, token by token; of a decay whose logarithm is there, that alone."""
        flat = [a for row in self.decay for a in row] if self.log is None else []
        every = [self.key, self.probe, self.log, *self.write, *self.erase, *self.start, *flat]
        return tuple(e for e in every if e is not None)


@dataclass(frozen=True)
class Scan:
    """A statement: the states of a record after the last token, and where ``read`` what reads at each token need."""

    record: Record
    name: str
    read: bool
    note: str = ""
    span: Span | None = None

    @property
    def product(self) -> bool:
        """Whether it adds one product of all tokens' writes and keys to a matrix, and no more is asked of it."""
        r = self.record
        return r.rank == 2 and r.kind == "none" and not (r.erases or self.read)


@dataclass(frozen=True)
class Read:
    """The attribute of a ``read`` node: state ``state`` of a scan at each token, ``after`` or ``before`` its write."""

    scan: str
    state: int
    when: str
    transposed: bool = False

    def __str__(self) -> str:
        turned = ", transposed" if self.transposed else ""
        return f"{self.scan}[{self.state}], {self.when}{turned}"


def _is_one(e: Expr | None) -> bool:
    return e is not None and e.op == "num" and e.attr == 1
