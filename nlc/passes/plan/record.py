"""The record of a scan, read off the steps of the states by linearity (design §2.6).

A step is written as a sum of words (``nlc/passes/affine.py``). Each must be a state times a number, a state read at a
key, or a write at a key. What else stands there is the reason why the states need a loop over tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce

from nlc.ir.expr import Expr, substitute, walk
from nlc.ir.ops import add, leaf, make, mul, neg, num
from nlc.ir.scan import Record
from nlc.ir.types import TOKEN, Dim, Type
from nlc.passes.affine import Factor, NotAffine, Word, affine
from nlc.passes.simplify import simplify


class NotLinear(Exception):
    """``why`` in words, and the expression that is the reason; ``linear``: it is, but no record says it."""

    def __init__(self, why: str, expr: Expr | None = None, linear: bool = False):
        super().__init__(why)
        self.why, self.expr, self.linear = why, expr, linear


@dataclass(frozen=True)
class _Term:
    """One word of a step in normal form: ``scale · X^state``, with ``probe`` and ``key`` if it is read and written."""

    scale: Expr
    words: tuple[float, tuple[Expr, ...]]
    state: int | None = None
    column: Expr | None = None  # what stands left of the key: u, or the key that a state is read at
    row: Expr | None = None
    diagonal: Expr | None = None
    constant: Expr | None = None


def record(
    names: tuple[str, ...],
    steps: dict[str, Expr],
    steady: Callable[[Expr], bool],
    defined: Mapping[str, Expr],
) -> Record:
    """The record of states that step as given, over ``carry(name, prev)`` leaves; NotLinear if there is none.

    ``steady``: whether a matrix is the same for all tokens. ``defined``: what variables stand for.
    """
    types = [steps[n].type for n in names]
    rank = types[0].rank
    if any(t.rank != rank for t in types) or any(t.dims != types[0].dims for t in types):
        raise NotLinear("states of different shapes depend on each other", steps[names[0]])
    hidden = _Hidden(names)
    words = {}
    for n in names:
        e = hidden(steps[n])
        try:
            words[n] = affine(e, lambda x: _is_state(x, names))
        except NotAffine as error:
            raise NotLinear(
                "the step is not linear in the state", hidden.shown(error.node)
            ) from None
    try:
        return _of_words(names, words, types[0], steady, defined, hidden)
    except NotLinear as error:
        raise NotLinear(error.why, error.expr, linear=True) from None


def _of_words(
    names: tuple[str, ...],
    words: dict[str, list[Word]],
    kind: Type,
    steady: Callable[[Expr], bool],
    defined: Mapping[str, Expr],
    hidden: _Hidden,
) -> Record:
    """The record of steps that are sums of words, each linear in the states."""
    rank = kind.rank
    flip = rank == 2 and _stands_last(words)
    terms = [
        [_term(w.flipped() if flip else w, names, rank, hidden) for w in words[n]] for n in names
    ]
    if rank == 2 and not flip and _shares_columns(terms):
        flip = True
        terms = [[_term(w.flipped(), names, rank, hidden) for w in words[n]] for n in names]
    terms = _named_alike(terms, defined)
    wide = kind.dims[-1 if flip else 0] if rank == 2 else None
    return _assemble(names, rank, terms, flip, wide, steady)


def _is_state(e: Expr, names: tuple[str, ...]) -> bool:
    return e.op == "carry" and e.attr[0] in names and e.attr[1] == "prev"


class _Hidden:
    """Vectors and numbers that read no state become single symbols, so that sums in them stay whole."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self.known: dict[Expr, Expr] = {}
        self.meant: dict[Expr, Expr] = {}

    def __call__(self, e: Expr) -> Expr:
        e = simplify(e)
        holds: dict[int, bool] = {}
        done: dict[int, Expr] = {}
        for n in walk(e):
            holds[id(n)] = _is_state(n, self.names) or any(holds[id(a)] for a in n.args)
            new = n.with_args(tuple(done[id(a)] for a in n.args))
            plain = n.type.rank <= 1 and not holds[id(n)] and n.op not in ("num", "neg", "mul")
            done[id(n)] = self._symbol(n) if plain and n.args else new
        return done[id(e)]

    def _symbol(self, e: Expr) -> Expr:
        if e not in self.known:
            symbol = leaf("hidden", len(self.known), e.type)
            self.known[e] = symbol
            self.meant[symbol] = e
        return self.known[e]

    def shown(self, e: Expr) -> Expr:
        """What the symbols stand for put back."""
        return substitute(e, self.meant)


def _stands_last(words: dict[str, list[Word]]) -> bool:
    """Whether states stand behind what they are read with, as in ``k kᵀ S``."""
    found = [w for ws in words.values() for w in ws if w.linear and len(w.factors) > 1]
    if not found:
        return False
    last = [w for w in found if w.factors[-1].kind == "state"]
    return bool(last) and not any(w.factors[0].kind == "state" for w in found)


def _shares_columns(terms: list[list[_Term]]) -> bool:
    """Whether writes that have several rows have one column: then that is the key."""
    writes = [t for ts in terms for t in ts if t.state is None and t.column is not None]
    reads = [t for ts in terms for t in ts if t.state is not None and t.column is not None]
    rows, columns = {t.row for t in writes}, {t.column for t in writes}
    return not reads and len(rows) > 1 and len(columns) == 1


def _term(w: Word, names: tuple[str, ...], rank: int, hidden: _Hidden) -> _Term:
    scalars = list(w.scalars)
    factors = list(w.factors)
    changed = True
    while changed:  # neighbours that make a vector or a number become one
        changed = False
        for i in range(len(factors) - 1):
            merged = _merge(factors[i], factors[i + 1])
            if merged is None:
                continue
            factors[i : i + 2] = [merged] if isinstance(merged, Factor) else []
            if not isinstance(merged, Factor):
                scalars.append(merged)
            changed = True
            break
    shown = [replace(f, expr=hidden.shown(f.expr)) for f in factors]
    meant = tuple(hidden.shown(s) for s in scalars)
    scale = reduce(mul, meant, num(w.number)) if w.number != 1 or not meant else reduce(mul, meant)
    term = _Term(simplify(scale), (w.number, tuple(sorted(meant, key=str))))
    kinds = tuple(f.kind for f in shown)
    turned = any(f.kind == "state" and f.transposed for f in shown) and rank == 2
    state = next((names.index(f.expr.attr[0]) for f in shown if f.kind == "state"), None)
    if rank < 2:
        if kinds in (("state",), ()) or (kinds == ("column",)):
            column = shown[0].expr if kinds == ("column",) else None
            return replace(term, state=state, column=column)
        if kinds == ("diagonal", "state"):
            raise NotLinear("each channel of the state decays at its own rate", shown[0].expr)
        raise NotLinear("the state is multiplied by a matrix", shown[0].expr)
    if kinds == ("state",):
        if not w.factors[0].transposed == turned:
            raise NotLinear("the state is transposed in its own step", shown[0].expr)
        return replace(term, state=state)
    if kinds == ("state", "diagonal"):
        return replace(term, state=state, diagonal=shown[1].expr)
    if kinds == ("state", "column", "row"):
        return replace(term, state=state, column=shown[1].expr, row=shown[2].expr)
    if kinds == ("column", "row"):
        return replace(term, column=shown[0].expr, row=shown[1].expr)
    if kinds == ("matrix",):
        constant = make("T", shown[0].expr) if shown[0].transposed else shown[0].expr
        return replace(term, constant=constant)
    if "state" in kinds and "matrix" in kinds:
        raise NotLinear("the state is multiplied by a matrix", shown[kinds.index("matrix")].expr)
    raise NotLinear("the step is not a decay, reads and writes at a key", shown[0].expr)


def _merge(a: Factor, b: Factor) -> Factor | Expr | None:
    """Two neighbours as one: a vector (row or column), or a number."""
    matrix = lambda f: make("T", f.expr) if f.transposed else f.expr  # noqa: E731
    match a.kind, b.kind:
        case "row", "column":
            return make("dot", a.expr, b.expr)
        case "diagonal", "column":
            return Factor("column", mul(a.expr, b.expr))
        case "row", "diagonal":
            return Factor("row", mul(a.expr, b.expr))
        case "diagonal", "diagonal":
            return Factor("diagonal", mul(a.expr, b.expr))
        case "matrix", "column":
            return Factor("column", make("matmul", matrix(a), b.expr))
        case "row", "matrix":
            back = b.expr if b.transposed else make("T", b.expr)
            return Factor("row", make("matmul", back, a.expr))
    return None


# ---------------------------------------------------------------------------------------------- assembly


def _assemble(
    names: tuple[str, ...],
    rank: int,
    terms: list[list[_Term]],
    flip: bool,
    wide: Dim | None,
    steady: Callable[[Expr], bool],
) -> Record:
    """``wide``: how many channels a write has."""
    p = len(names)
    rows = {t.row for ts in terms for t in ts if t.row is not None}
    if len(rows) > 1:
        raise NotLinear("it is written at several keys in one step", sorted(rows, key=str)[1])
    key = next(iter(rows), None)
    start = _starts(names, terms, steady)
    own = [[[t for t in ts if t.state == i and t.row is None] for i in range(p)] for ts in terms]
    diagonal = next((t for line in own for ts in line for t in ts if t.diagonal is not None), None)
    if diagonal is not None and p > 1:
        raise NotLinear("coupled states decay by channel", diagonal.diagonal)
    decay = [tuple(_factor(ts) for ts in line) for line in own]
    sources = {t.state for ts in terms for t in ts if t.state is not None and t.row is not None}
    probes = {t.column for ts in terms for t in ts if t.state is not None and t.row is not None}
    if len(sources) > 1:
        raise NotLinear("its gradient reads several states", sorted(probes, key=str)[0])
    source, probe = next(iter(sources), None), next(iter(probes), None)
    erase: tuple[Expr | None, ...] = tuple(
        _negated([t.scale for t in ts if t.state is not None and t.row is not None]) for ts in terms
    )
    if len(probes) > 1 and p > 1:
        raise NotLinear("it is read at several keys in one step", sorted(probes, key=str)[1])
    if len(probes) > 1:  # what it answers at each of them is what it answers at their sum
        reads = [t for t in terms[0] if t.state is not None and t.row is not None]
        probe = _negated([_scaled(t.scale, t.column) for t in reads])
        erase = (num(1),)
    write = tuple(
        _sum([_write(t, rank) for t in ts if t.state is None and t.constant is None])
        for ts in terms
    )
    if all(w is None for w in write) or (rank == 2 and key is None):
        if key is None or p > 1:
            raise NotLinear("nothing is written to it")
        write = (Expr("num", (), 0, Type((wide,), False, TOKEN)),)  # it only erases
    return Record(
        names,
        rank,
        key,
        tuple(decay),
        write,
        erase,
        source,
        None if probe == key else probe,
        start,
        channel=diagonal is not None,
        transposed=flip,
    )


def _named_alike(terms: list[list[_Term]], defined: Mapping[str, Expr]) -> list[list[_Term]]:
    """Vectors that come to the same, one by its name and one written out, as one."""
    first: dict[Expr, Expr] = {}

    def one(e: Expr | None) -> Expr | None:
        return None if e is None else first.setdefault(_written_out(e, defined), e)

    return [[replace(t, column=one(t.column), row=one(t.row)) for t in ts] for ts in terms]


def _written_out(e: Expr, defined: Mapping[str, Expr]) -> Expr:
    """A product with its variables written out, in one order."""
    if e.op == "var" and e.attr in defined and defined[e.attr].op in ("mul", "var"):
        return _written_out(defined[e.attr], defined)
    if e.op != "mul":
        return e
    factors = sorted(_factors(e, defined), key=str)
    return reduce(lambda a, b: Expr("mul", (a, b), None, e.type), factors)


def _factors(e: Expr, defined: Mapping[str, Expr]) -> list[Expr]:
    if e.op == "mul":
        return [f for a in e.args for f in _factors(_written_out(a, defined), defined)]
    return [e]


def _factor(own: list[_Term]) -> Expr | None:
    """What a state is multiplied by: a number, or one for each channel."""
    parts: dict[Expr | None, list[Expr]] = {}
    for t in own:
        parts.setdefault(t.diagonal, []).append(t.scale)
    sums = {d: _sum(scales) for d, scales in parts.items()}
    whole = [s if d is None else _scaled(s, d) for d, s in sums.items() if s is not None]
    return simplify(reduce(add, whole)) if whole else None


def _write(t: _Term, rank: int) -> Expr:
    if t.column is None:
        return t.scale
    return t.column if t.scale.op == "num" and t.scale.attr == 1 else _scaled(t.scale, t.column)


def _scaled(scale: Expr, e: Expr) -> Expr:
    if scale.op == "num" and abs(scale.attr) == 1:
        return e if scale.attr == 1 else neg(e)
    return mul(scale, e)


def _starts(
    names: tuple[str, ...], terms: list[list[_Term]], steady: Callable[[Expr], bool]
) -> tuple[Expr | None, ...]:
    """T of states that decay towards a constant matrix: those whose factor and that of the state add up to one."""
    out: list[Expr | None] = []
    for i, ts in enumerate(terms):
        constants = {t.constant for t in ts if t.constant is not None}
        if not constants:
            out.append(None)
            continue
        constant = next(iter(constants))
        if len(constants) > 1 or not steady(constant):
            raise NotLinear("it adds a matrix that is no product of a value and a key", constant)
        total: Counter[tuple[Expr, ...]] = Counter()
        for t in ts:
            own = t.state is not None and t.row is None
            if (own and t.state == i) or t.constant is not None:
                total[t.words[1]] += t.words[0]
        if {k: v for k, v in total.items() if v} != {(): 1.0}:
            raise NotLinear("what is added does not make up for the decay", constant)
        out.append(constant)
    for j, ts in enumerate(terms):  # who reads another state as a whole would see T too
        for t in ts:
            if t.state not in (None, j) and t.row is None and out[t.state] is not None:
                raise NotLinear("what decays towards a matrix is read as a whole", out[t.state])
    return tuple(out) if any(out) else ()


def _sum(parts: list[Expr]) -> Expr | None:
    return simplify(reduce(add, parts)) if parts else None


def _negated(parts: list[Expr]) -> Expr | None:
    whole = _sum(parts)
    return simplify(neg(whole)) if whole is not None else None
