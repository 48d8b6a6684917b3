"""Program -> what it costs for a token: operations, bytes moved and carried, steps that wait for one another.

Everything is counted from the statements that a backend prints, at given hypers, forward, in float32. ``moved`` takes a
level for one kernel: what it needs and gives for a token, and its state in and out once a step. ``flops`` are in
``flops.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import ceil, lcm

from nlc.backends.torch.coupled_texts import CHANNEL_CHUNK
from nlc.backends.torch.scan_texts import CHUNK
from nlc.ir.expr import Expr, walk
from nlc.ir.program import Let, Program
from nlc.ir.scan import Read, Scan
from nlc.ir.types import Number, Type
from nlc.tools.costs.flops import Sizes, attention, flops, reading, scan
from nlc.tools.costs.owners import SYSTEM, Owners, Piece, exprs, made, pieces, reads

FLOAT = 4  # bytes
PROJECTIONS = ("linear", "conv", "conv_step")
NOTHING = Type()


@dataclass
class Cost:
    """``flops`` and ``moved`` (bytes) for a token, ``state`` in bytes for a sequence, ``steps`` for all tokens."""

    flops: float = 0.0
    moved: float = 0.0
    state: float = 0.0
    steps: int = 0


class Costs:
    """``levels`` by name, ``projections`` (``linear`` and ``conv`` outside of levels), and the ``rest``.

    ``chunks``: the tokens of a chunk, by the kind of a record, the channels of its keys and values, how many tokens
    there are, and how many are asked for; without it, as many as the backend `torch` takes.
    """

    def __init__(
        self,
        program: Program,
        sizes: Mapping[str, Number],
        tokens: int,
        chunks: Callable[[str, int, int, int, int | None], int] | None = None,
    ):
        self.program, self.sizes, self.tokens = program, Sizes(sizes), tokens
        self.chunks = chunks
        self.parts = pieces(program)
        self.owners = Owners(program, self.parts)
        self.scans = {x.name: (x, p) for p in self.parts for x in p.body if isinstance(x, Scan)}
        self.read = {
            n.attr.scan for p in self.parts for x in p.body for e in exprs(x) for n in walk(e)
            if n.op == "read"
        }  # fmt: skip
        self.levels = {n: Cost() for n in (*program.system.levels, *program.system.outer)}
        self.projections, self.rest = Cost(), Cost()
        self.tiles: dict[str, int] = {}  # tokens of one solve, by level
        for piece in self.parts:
            for x in piece.body:
                self._statement(x, piece)
        self._states()
        self._flows()
        self.steps = sum(self._steps(p) for p in self.parts if p.kind != "outside" and p.body)

    @property
    def total(self) -> Cost:
        every = [*self.levels.values(), self.projections, self.rest]
        sums = (sum(getattr(c, f) for c in every) for f in ("flops", "moved", "state"))
        return Cost(*sums, self.steps)

    def _of(self, owner: str) -> Cost:
        return self.levels.get(owner, self.rest)

    # -------------------------------------------------------------------------------------------- how often

    def trips(self, piece: Piece) -> int:
        """How often its statements run for all tokens."""
        if piece.kind == "tokens":
            return self.tokens
        if piece.kind != "tiles":
            return 1
        periods = {int(self.sizes.of(p)) for p in piece.periods}
        least = [p for p in periods if not any(q < p and p % q == 0 for q in periods)]
        inside, last = 0, self.tokens - 1
        for k in range(1, len(least) + 1):  # boundaries that several periods share are one
            inside -= (-1) ** k * sum(last // lcm(*some) for some in combinations(least, k))
        return inside + 1

    def _often(self, t: Type, x: Let | Scan, piece: Piece) -> float:
        """How often for a token: what has a value for each token, once."""
        if isinstance(x, Let) and x.when is not None:
            return 1 / self.sizes.of(x.when.period)
        if piece.kind in ("tokens", "step"):
            return 1.0
        token = t.clock.batched and (piece.kind == "outside" or not t.clock.slow)
        return 1.0 if token else self.trips(piece) / self.tokens

    def chunk(self, s: Scan, piece: Piece) -> int:
        """The tokens of one triangular solve, as even as they come."""
        channel = s.record.kind == "channel"
        own = self.program.channel_tile if channel else self.program.tile
        most = own or (CHANNEL_CHUNK if channel else CHUNK)
        length = ceil(self.tokens / self.trips(piece))
        if self.chunks is not None and s.record.rank == 2:
            m, n, _ = self._sides(s)
            return self.chunks(s.record.kind, int(n), int(m), length, own)
        return ceil(length / ceil(length / most))

    def _steps(self, piece: Piece) -> int:
        """Steps that wait for one another."""
        trips = self.trips(piece)
        if piece.kind == "tokens":
            return trips
        scans = [x for x in piece.body if isinstance(x, Scan)]
        if piece.kind == "whole" and not scans:
            return 0
        serial = [1]
        for s in scans:
            once = s.record.kind == "none" and (s.record.rank < 2 or s.name not in self.read)
            if not (once and not s.record.erases):
                serial.append(ceil(ceil(self.tokens / trips) / self.chunk(s, piece)))
        return trips * max(serial)

    # -------------------------------------------------------------------------------------------- operations

    def _statement(self, x: Let | Scan, piece: Piece) -> None:
        owner = self.owners.of(x)
        if isinstance(x, Scan):
            self._scan(x, piece)
        window = self._window(x)
        for e in exprs(x):
            for n in walk(e):
                if n.op == "read":
                    self._reading(n)
                    continue
                if n.op.startswith("attend"):
                    self._of(n.attr[0]).flops += attention(n, self.sizes, self._seen(n))
                    continue
                count = flops(n, self.sizes)
                if count:
                    count *= window * self._often(n.type, x, piece)
                    self._whose(n, owner).flops += count

    def _whose(self, n: Expr, owner: str) -> Cost:
        if n.op in PROJECTIONS and owner == SYSTEM:
            return self.projections
        return self._of(self.owners.reader(n) or owner)

    def _window(self, x: Let | Scan) -> float:
        """A sum over the last ticks is computed anew for all of them."""
        if not isinstance(x, Let) or x.expr.op != "recent":
            return 1.0
        seen = {n.attr for n in walk(x.expr) if n.op == "var"}
        sizes = [s.window for s in self.program.slots if s.kind == "recent" and s.var in seen]
        return max((self.sizes.of(w) for w in sizes), default=1.0)

    def _sides(self, s: Scan) -> tuple[float, float, float]:
        """Rows, columns and heads of its states."""
        kind = self.owners.types[s.record.states[0]]
        m, n = self.sizes.sides(kind)
        heads = kind.head or any(e.type.head for e in s.record.parts)
        m, n = (n, m) if s.record.transposed else (m, n)
        return m, n, float(self.sizes.sizes["heads"]) if heads else 1.0

    def _scan(self, s: Scan, piece: Piece) -> None:
        m, n, heads = self._sides(s)
        c = self.chunk(s, piece)
        count = heads * scan(s.record, m, n, c, s.name in self.read)
        owners = sorted(self.owners.by_statement[id(s)]) or [SYSTEM]
        for owner in owners:  # coupled states of several levels share it
            self._of(owner).flops += count / len(owners)
            if s.record.kind != "none" or s.record.erases or s.name in self.read:
                self.tiles[owner] = max(c, self.tiles.get(owner, 0))

    def _reading(self, node: Expr) -> None:
        how: Read = node.attr  # type: ignore[assignment]
        s, piece = self.scans[how.scan]
        m, n, heads = self._sides(s)
        if how.transposed != s.record.transposed:
            m, n = n, m
        level = self.owners.states.get(s.record.states[how.state])
        cost = self._of(level or self.owners.of(s))
        cost.flops += heads * reading(s.record, m, n, self.chunk(s, piece))
        cost.moved += FLOAT * sum(self.sizes.elements(t.type) for t in (node, *node.args))

    def _seen(self, node: Expr) -> float:
        """Keys that a query sees on average."""
        window = node.attr[1]
        most = self.tokens if window is None else min(self.sizes.of(window), self.tokens)
        return most * (1 - (most - 1) / (2 * self.tokens))

    # -------------------------------------------------------------------------------------------- bytes

    def _states(self) -> None:
        for s in self.program.slots:
            owner = self.owners.states.get(s.var)
            if owner is None:
                inside = [x for p in self.parts[1:] for x in p.body if s.var in made(x)]
                owner = self.owners.of(inside[0]) if inside else SYSTEM
            size = 2 * FLOAT if s.type.dtype == "int" else FLOAT * self.sizes.elements(s.type)
            if s.kind == "cache":
                size *= (
                    self.tokens if s.window is None else min(self.sizes.of(s.window), self.tokens)
                )
            elif s.kind == "recent":
                size *= self.sizes.of(s.window)
            elif s.kind == "window":
                size *= max(self.sizes.of(s.window) - 1, 1)
            self._of(owner).state += size
        for name, often in self._touched().items():
            cost = self.levels[name]
            cost.steps = ceil(round(often * self.tokens, 6))  # a share of the tokens, in floats
            cost.moved += 2 * cost.state * often
        for name, level in self.program.system.levels.items():
            if level.memory.kind == "cache":  # what it holds on average, once a chunk of queries
                cost = self.levels[name]
                cost.steps = 1
                cost.moved += cost.state / 2 / CHUNK

    def _touched(self) -> dict[str, float]:
        """How often for a token a level's state goes in and out."""
        out: dict[str, float] = {}
        for piece in self.parts[1:]:
            steps = 1.0 if piece.kind == "step" else self._steps(piece) / self.tokens
            for x in piece.body:
                guarded = isinstance(x, Let) and x.when is not None
                often = self._often(NOTHING, x, piece) if guarded else steps
                for n in {*made(x), *reads(x)} & self.owners.states.keys():
                    level = self.owners.states[n]
                    out[level] = max(often, out.get(level, 0.0))
        return out

    def _flows(self) -> None:
        """What goes in and out of a level, and of the rest of a piece, as if each were one kernel."""
        groups: dict[int, tuple[str, int]] = {}
        readers: dict[str, set[tuple[str, int]]] = {}
        for i, piece in enumerate(self.parts):
            for x in piece.body:
                groups[id(x)] = group = (self.owners.of(x), i)
                for name in reads(x):
                    readers.setdefault(self.owners.canonical(name), set()).add(group)
        seen: set[tuple] = set()
        for piece in self.parts:
            for x in piece.body:
                group = groups[id(x)]
                makers = self.owners.made
                for name in filter(self._is_flow, reads(x)):
                    known = self.owners.canonical(name)
                    by = {groups[id(self.owners.statements[k])] for k in makers.get(known, ())}
                    if by != {group} and (group, known) not in seen:
                        seen.add((group, known))
                        self._of(group[0]).moved += self._bytes(name, x, piece)
                for name in filter(self._is_flow, made(x)):
                    known = self.owners.canonical(name)
                    if readers.get(known, set()) - {group} or known.startswith("output "):
                        kind = x.expr.type if isinstance(x, Let) else None
                        self._of(group[0]).moved += self._bytes(name, x, piece, kind)

    def _is_flow(self, name: str) -> bool:
        return name not in {s.var for s in self.program.slots} and name not in self.scans

    def _bytes(self, name: str, x: Let | Scan, piece: Piece, t: Type | None = None) -> float:
        t = t or self.owners.types.get(name)
        if t is None or not (t.clock.batched or piece.kind == "step"):
            return 0.0
        return FLOAT * self.sizes.elements(t) * self._often(t, x, piece)
