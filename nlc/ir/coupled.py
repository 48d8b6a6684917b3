"""Coupled states as kernels take them: the vectors that are written, and how much of each is in each state.

    X^s_t = Σ_l a_sl X^l_{t−1} + (Σ_j w_sj v^j_t − b_s z_t) k_tᵀ

Writes that are numbers times one vector are that vector once, with a weight for each state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nlc.ir.expr import Expr
from nlc.ir.ops import mul, neg, num
from nlc.ir.scan import Record


@dataclass(frozen=True)
class Coupling:
    """``vectors``: v, None for what T of the source answers at the probe, which is erased as z is.

    ``decay`` and ``weights``: by state, of each state and of each row, the name of its gate, a number as text, or "" if
    there is none; the last row is z where the record erases. ``gates``: what the names stand for.
    """

    vectors: tuple[Expr | None, ...]
    decay: tuple[tuple[str, ...], ...]
    weights: tuple[tuple[str, ...], ...]
    gates: dict[str, Expr]


def factored(e: Expr) -> tuple[Expr, Expr]:
    """A number and what it multiplies, as far as a write is a product."""
    if e.op == "neg":
        number, vector = factored(e.args[0])
        return neg(number), vector
    if e.op == "mul":
        for x, y in (e.args, e.args[::-1]):
            if x.type.rank == 0 and y.type.rank > 0:
                number, vector = factored(y)
                return x if number == num(1) else mul(x, number), vector
    return num(1), e


def coupling(r: Record) -> Coupling:
    """What the kernels of coupled states make of a record."""
    gates: dict[str, Expr] = {}

    def named(name: str, e: Expr | None) -> str:
        if e is None:
            return ""
        minus, inner = ("-", e.args[0]) if e.op == "neg" else ("", e)
        if inner.op == "num":
            return f"{minus}{float(inner.attr)}"
        gates[name] = e
        return name

    pairs = [None if e is None else factored(e) for e in r.write]
    vectors: list[Expr | None] = [*dict.fromkeys(p[1] for p in pairs if p)]
    states = range(len(r.states))
    wide = "_" if len(r.states) > 9 else ""
    decay = tuple(
        tuple(named(f"a{s + 1}{wide}{j + 1}", a) for j, a in enumerate(line))
        for s, line in enumerate(r.decay)
    )
    weights = [
        [
            named(f"w{s + 1}{wide}{j + 1}", pairs[s][0]) if pairs[s] and pairs[s][1] == v else ""
            for j, v in enumerate(vectors)
        ]
        for s in states
    ]
    if r.source is not None:
        columns = 1
        if r.start and r.start[r.source] is not None:
            vectors, columns = [*vectors, None], 2
        for s in states:
            erase = named(f"b{s + 1}", r.erase[s])
            minus = erase[1:] if erase.startswith("-") else f"-{erase}" if erase else ""
            weights[s] += [minus] * columns
    return Coupling(tuple(vectors), decay, tuple(map(tuple, weights)), gates)


def with_numbers(r: Record, gates: dict[str, Expr]) -> Record:
    """The record with other expressions for its gates, by their names."""
    found = coupling(r)
    decay = tuple(
        tuple(gates.get(name, a) for name, a in zip(names, line, strict=True))
        for names, line in zip(found.decay, r.decay, strict=True)
    )
    write = []
    for s, e in enumerate(r.write):
        vector = None if e is None else factored(e)[1]
        j = next((j for j, v in enumerate(found.vectors) if v == vector), 0)
        name = found.weights[s][j] if found.weights[s] else ""
        written = name in gates and vector is not None and vector.type.rank > 0
        write.append(mul(gates[name], vector) if written else e)  # type: ignore[arg-type]
    erase = tuple(gates.get(f"b{s + 1}", b) for s, b in enumerate(r.erase))
    return replace(r, decay=decay, write=tuple(write), erase=erase)
