"""Scans as calls of the functions that a generated file defines for them, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile

from nlc.backends.precedence import ATOM, SUM
from nlc.backends.reference.file import PartNames, place
from nlc.backends.torch.rows import RowPrinter
from nlc.backends.torch.scans import Form, error, form
from nlc.backends.writer import WIDTH, Header, Writer
from nlc.ir.expr import Expr, walk
from nlc.ir.ops import leaf
from nlc.ir.program import Let, Loop, Parallel, Program
from nlc.ir.scan import Read, Record, Scan
from nlc.ir.types import TOKEN, Type


@dataclass
class Scanned:
    """What reads of a scan are printed with."""

    form: Form | None  # None: its values at every token are there already
    record: Record
    arguments: tuple[str, ...] = ()
    one: str = ""  # a key of 1 for each token, where there is no other
    head: bool = False  # whether it has an axis for heads
    values: dict[int, str] = field(default_factory=dict)
    starts: dict[int, str] = field(default_factory=dict)


class Scans:
    """The part of the writer that prints scans, over its printer of rows."""

    program: Program
    header: Header
    w: Writer
    row: RowPrinter
    parts: PartNames
    scans: dict[str, Scanned]
    around: tuple[Let | Scan, ...]  # the body of the method that is printed
    stacks: dict[str, tuple[str, ...]]  # of its variables, what each is of
    tiled: frozenset[str]  # scans of tiles
    several = True  # whether scans return more than the last state where nothing reads another
    _inner: Callable[[object], None]
    _readers: tuple[object, dict[str, list[Expr]]] = (None, {})  # of a body, by scan

    def form(self, r: Record, read: bool) -> Form:
        """What of the algebra a record needs."""
        return form(r, read)

    def _gates(self, r: Record, f: Form, at: Callable[..., str], read: bool = False) -> list[str]:
        """What a scan erases and decays by, or a read decays by."""
        erases = [at(r.erase[0])] if f.erase and not read else []
        return [*erases, *([at(r.log)] if r.log is not None else [])]

    def _write(self, s: Scan, f: Form, at: Callable[..., str]) -> str:
        """What is written, without the factors that are arguments of their own."""
        return self._written(s, 0, at)

    def _last(self, r: Record, read: bool = True) -> list[str]:
        """What scans and reads are told at the end."""
        return []

    def _statements(self, body: Iterable[Let | Scan | Loop]) -> None:
        """Statements in order; scans of which only the last states are wanted wait for others with their gates."""
        waiting: dict[object, list[Scan]] = {}

        def print_waiting(x: Let | Scan | Loop) -> None:
            """Those that must stand before a statement."""
            for gates, scans in [*waiting.items()]:
                if any(reads(x) & assigned(s) or assigned(x) & reads(s) for s in scans):
                    self._ends(waiting.pop(gates))

        for x in body:
            print_waiting(x)
            if isinstance(x, Scan) and self.ends_alone(x):
                r = x.record
                waiting.setdefault((self.form(r, False), r.erase, r.log), []).append(x)
            else:
                self._inner(x)
        for scans in waiting.values():
            self._ends(scans)

    def ends_alone(self, s: Scan) -> bool:
        """Whether only what a scan of a tile ends with is wanted, and its writes are errors times its erase."""
        r = s.record
        return r.rank == 2 and not s.read and s.name in self.tiled and self.form(r, False).end

    def _scan(self, s: Scan) -> None:
        r, p = s.record, self.row
        self.w.at(place(self.header, s.span))
        head, at = self._headed(s), self._at(s)
        states = [p.place(x) for x in r.states]
        if r.rank < 2 and r.kind in ("none", "scalar"):
            self._running(s, states[0], at)
            return
        f = self.form(r, True)
        if s.product:
            u, k = at(r.write[0]), at(r.key)
            u, k = (k, u) if r.transposed else (u, k)
            self._assign([states[0]], f"{states[0]} + {u}.mT @ {k}", s)
            return
        if f.kind == "coupled":
            self._coupled(s, states, at, f)
            return
        args = [self._begun(s, 0, states[0]), at(r.key), self._write(s, f, at)]
        args += self._gates(r, f, at)
        args += [at(r.probe or r.key)] if f.probe or (f.kind == "channel" and f.erase) else []
        args += self._last(r, False)
        new = self.parts(f"{s.name}_end") if self._shifted(s, 0) else states[0]
        rows, starts = (self.parts(f"{s.name}_{x}") for x in ("rows", "starts"))
        call = f"{p.use(f.scan)}{f.call.removeprefix(f.scan)}"
        others = [rows, starts] if s.read else ["*_"] * self.several
        self._call([new, *others], call, args, s)
        self._ended(s, 0, states[0], new)
        seen = [args[1], rows, starts, *self._gates(r, f, at, True), *self._last(r)]
        self.scans[s.name] = Scanned(f, r, tuple(seen), head=head)

    def _ends(self, scans: list[Scan]) -> None:
        """Scans of which only the last states are wanted, those with the same gates as one call."""
        first, f = scans[0].record, self.form(scans[0].record, False)
        targets, memories = [], []
        for s in scans:
            r, at = s.record, self._at(s)
            state, turned = self.row.place(r.states[0]), ".mT" * r.transposed
            parts = [f"{state}{turned}", at(r.key), at(error(r))]
            parts += [at(r.probe)] if f.probe else []
            parts += [self.row(r.start[0])] if f.toward else []
            targets.append(state)
            memories.append(self._tuple(parts, self._answered(r, at), s))
        self.w.at(place(self.header, scans[0].span))
        for note in dict.fromkeys(s.note for s in scans):
            self.w.comment(note)
        at = self._at(scans[0])
        gates = [at(first.erase[0]), *([at(first.log)] if first.log is not None else [])]
        several = ", ".join(targets) if len(targets) > 1 else f"({targets[0]},)"
        self.w.call(f"{several} = {self.row.use(f.scan)}(", [*gates, *memories], ")")
        for s, state in zip(scans, targets, strict=True):
            if s.record.transposed:
                self.w(f"{state} = {state}.mT")

    def _tuple(self, parts: list[str], known: list[str], s: Scan) -> str:
        """A tuple among the arguments of a call, on one line if it fits when what is known has a name, else broken."""
        pad = "    " * (self.w.depth + 1)
        fits = lambda *items: len(pad) + len(f"({', '.join(items)})") < WIDTH  # noqa: E731
        if known and not fits(*parts, *known):
            name = self.parts(f"{s.name}_known")
            self.w(f"{name} = {', '.join(known)}", "at a boundary")
            known = [f"*{name}"]
        if fits(*parts, *known):
            return f"({', '.join([*parts, *known])})"
        return "\n".join(["(", *(f"{pad}    {x}," for x in [*parts, *known]), f"{pad})"])

    def _answered(self, r: Record, at: Callable[..., str]) -> list[str]:
        """An anchor of a scan's state and what it answers at the probe, where that has a name before the scan.

        Behind a boundary the anchor is the state, which the file finds out."""
        lets = takewhile(lambda x: isinstance(x, Let) or x.record is not r, self.around)
        anchors: set[str] = set()
        for x in lets if not r.transposed else ():
            if not isinstance(x, Let):
                continue
            if x.when is not None and x.expr.op == "var" and x.expr.attr in r.states:
                anchors |= {*x.names}
            elif x.when is None and x.expr.op == "matmul":
                matrix, rows = x.expr.args
                if matrix.op == "var" and matrix.attr in anchors and rows == (r.probe or r.key):
                    answer = leaf("var", x.names[0], x.expr.type)
                    return [self.row.place(str(matrix.attr)), at(answer)]
        return []

    def _at(self, s: Scan) -> Callable[..., str]:
        """How what goes into a scan is written: with an axis for heads where it has one."""
        head = self._headed(s)
        return lambda e, binds=ATOM: self.row.aligned(e, Type(e.type.dims, head, TOKEN), binds)

    def _written(self, s: Scan, j: int, at: Callable[..., str]) -> str:
        """u of a state, less what its T answers at the probe, where the scan runs on the distance to T."""
        r = s.record
        text = at(r.write[j], SUM)
        if r.source is None or r.erase[j] is None or not r.start or r.start[r.source] is None:
            return text
        answer = f"{at(r.probe or r.key)} @ {self._towards(s, r.source)}.mT"
        up = "" if r.rank < 2 else "[..., None]"
        return f"{text} - {at(r.erase[j])}{up} * ({answer})"

    def _state_head(self, r: Record) -> bool:
        slot = next((s for s in self.program.slots if s.var == r.states[0]), None)
        return slot is not None and slot.type.head

    def _headed(self, s: Scan) -> bool:
        """Whether the scan has an axis for heads."""
        return self._own_head(s.record) or self._lifted(s)

    def _own_head(self, r: Record) -> bool:
        return any(e.type.head for e in r.parts) or self._state_head(r)

    def _lifted(self, s: Scan) -> bool:
        """Whether a state that all heads share is read by each: then the scan has an axis for them, of length 1."""
        if s.record.rank < 2 or self._own_head(s.record):
            return False
        return any(a.type.head for n in self._reads(s) for a in n.args)

    def _reads(self, s: Scan) -> Iterable[Expr]:
        """The nodes that read it, where it is printed."""
        body = self.around or self.program.body
        if self._readers[0] is not body:
            found: dict[str, list[Expr]] = {}
            for n in (n for x in body for n in all_nodes(x) if n.op == "read"):
                found.setdefault(n.attr.scan, []).append(n)
            self._readers = body, found
        return self._readers[1].get(s.name, [])

    def _shifted(self, s: Scan, j: int) -> bool:
        r = s.record
        return r.transposed or bool(r.start and r.start[j] is not None) or self._lifted(s)

    def _towards(self, s: Scan, j: int) -> str:
        """T of a state, "" where that is 0."""
        e = s.record.start[j] if s.record.start else None
        return self.row.headed(e, self._lifted(s)) if e is not None else ""

    def _begun(self, s: Scan, j: int, state: str) -> str:
        """What the scan starts from."""
        text = f"{state}[:, None]" if self._lifted(s) else state
        text = f"{text}.mT" if s.record.transposed else text
        start = self._towards(s, j)
        return f"{text} - {start}" if start else text

    def _ended(self, s: Scan, j: int, state: str, new: str) -> None:
        """The state from what the scan ended with."""
        start = self._towards(s, j)
        text = f"{new} + {start}" if start else new
        for then in [".mT"] * s.record.transposed + ["[:, 0]"] * self._lifted(s):
            text = f"({text}){then}" if " " in text else f"{text}{then}"
        if text != state:
            self.w(f"{state} = {text}")

    def _running(self, s: Scan, state: str, at) -> None:
        """A vector or a number, at every token where something reads it."""
        r, p, w = s.record, self.row, self.w
        u = at(r.write[0])
        if r.kind == "none" and not s.read:
            self._assign([state], f"{state} + {u}.sum({-1 - r.rank})", s)
            return
        values = self.parts(f"{s.name}_all")
        x = state if r.rank else f"{state}.unsqueeze(-1)"
        args = [x, u if r.rank else f"{u}.unsqueeze(-1)"]
        args += [at(r.log)] if r.log is not None else []
        self._call([values], p.use("running" if r.log is None else "gated_running"), args, s)
        if not r.rank:
            w(f"{values} = {values}.squeeze(-1)")
        axis = -1 - r.rank
        found = Scanned(None, r, one=f"{state}.unsqueeze({axis})")
        if self._read_before(s):
            found.starts[0] = self.parts(f"{s.name}_before")
            earlier = f"{values}.narrow({axis}, 0, {values}.shape[{axis}] - 1)"
            text = f"torch.cat([{state}.unsqueeze({axis}), {earlier}], {axis})"
            w(f"{found.starts[0]} = {text}")
        found.values[0] = values
        self.scans[s.name] = found
        w(f"{state} = {values}[..., -1{', :' * r.rank}]")

    def _read_before(self, s: Scan) -> bool:
        return any(n.attr.when == "before" for n in self._reads(s))

    def _coupled(self, s: Scan, states: list[str], at, f: Form) -> None:
        r, p, w = s.record, self.row, self.w
        up = {2: "", 1: ".unsqueeze(-1)", 0: "[..., None, None]"}[r.rank]
        row = "" if r.rank else ".unsqueeze(-1)"
        written = next(e for e in r.write if e is not None)
        number = f"{at(written)}" + ("[..., 0]" if r.rank else "")
        begun = [
            f"({b}){up}" if " " in (b := self._begun(s, j, x)) and up else f"{b}{up}"
            for j, x in enumerate(states)
        ]
        table = [
            "("
            + ", ".join("0.0" if a is None else at(a) for a in line)
            + ("," if len(line) == 1 else "")
            + ")"
            for line in r.decay
        ]
        X, A, u = (self.parts(f"{s.name}_{x}") for x in ("states", "keeps", "writes"))
        w.call(f"{X} = torch.stack([", begun, "], -3)") if len(", ".join(begun)) < 60 else w.call(
            f"{X} = torch.stack(", ["[" + ", ".join(begun) + "]", "-3"], ")"
        )
        w.call(f"{A} = {p.use('coupling')}(", [number, *table], ")")
        rows = []
        for j, e in enumerate(r.write):
            text = f"torch.zeros_like({at(written)})" if e is None else self._written(s, j, at)
            rows.append((f"({text})" if row and " " in text else text) + row)
        several = sum(e is not None for e in r.write) > 1
        w.call(f"{u} = torch.stack(", [alike(rows) if several else _listed(rows), "-2"], ")")
        found = Scanned(f, r, head=self._headed(s))
        if r.key is None:
            found.one = self.parts(f"{s.name}_one")
            w(f"{found.one} = torch.ones_like({u}[..., 0, :1])")
        key = found.one or at(r.key)
        args = [X, A, key, u]
        if f.erase:
            zero = f"torch.zeros_like({number})"
            erases = [zero if e is None else at(e) for e in r.erase]
            args += [f"torch.stack({alike(erases)}, -1)", at(r.probe or r.key), str(r.source)]
        seen = self.parts(f"{s.name}_scan")
        args += self._last(r)
        found.arguments = (f"*{seen}", *(f"{x}={x}" for x in self._last(r)))
        self._call([X, seen if s.read else "_"], p.use(f.scan), args, s)
        down = {2: "", 1: ".squeeze(-1)", 0: "[..., 0, 0]"}[r.rank]
        for j, x in enumerate(states):
            self._ended(s, j, x, f"{X}[..., {j}, :, :]{down}")
        self.scans[s.name] = found

    def _read(self, e: Expr) -> str:
        """What a read of a state at every token is printed as."""
        how: Read = e.attr  # type: ignore[assignment]
        s = self.scans[how.scan]
        if s.form is None:
            return s.values[how.state] if how.when == "after" else s.starts[how.state]
        r = s.record
        args = [self._query(e.args[0], s.head) if e.args else s.one]
        if s.form.kind == "coupled":
            args.append(str(how.state))
        given = s.arguments
        if how.transposed and s.form.symmetric:  # rows for keys
            key, rows, starts, *rest = given
            given = (rows, key, f"{starts}.mT", *rest)
        text = (
            f"{self.row.use(s.form.read(how.when, how.transposed))}({', '.join([*args, *given])})"
        )
        shared = s.head and not e.type.head  # the axis for heads is of length 1
        return text + ".squeeze(1)" * shared + ".squeeze(-1)" * (not e.args and r.rank == 0)

    def _query(self, q: Expr, head: bool) -> str:
        """What a state is read at, for every token, as a read finds by it how many there are."""
        if q.type.clock != TOKEN:
            q = Expr("spread", (q,), None, q.type.at(TOKEN))
        return self.row.aligned(q, Type(q.type.dims, head, TOKEN), ATOM)

    def _call(
        self, targets: list[str], function: str, args: list[str], s: Scan, behind: str = ""
    ) -> None:
        start, end = f"{', '.join(targets)} = {function}(", f"){behind}"
        line = f"{start}{', '.join(args)}{end}"
        if 4 * self.w.depth + len(line) <= WIDTH:
            self.w(line, s.note)
            return
        self.w.comment(s.note)
        self.w.call(start, args, end)

    def _assign(self, targets: list[str], text: str, s: Scan) -> None:
        self.w(f"{', '.join(targets)} = {text}", s.note)


def tuple_of(items: list[str]) -> str:
    """The text of a tuple."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def own_nodes(x: Let | Scan | Loop) -> Iterable[Expr]:
    """The nodes of a statement, but not of a loop's body."""
    exprs = [x.expr] if isinstance(x, Let) else x.record.parts if isinstance(x, Scan) else []
    for e in exprs:
        yield from walk(e)


def all_nodes(x: object) -> Iterable[Expr]:
    if isinstance(x, Loop | Parallel):
        for y in (*x.first, *x.body):
            yield from all_nodes(y)
    elif isinstance(x, Let | Scan):
        yield from own_nodes(x)


def reads(x: Let | Scan | Loop) -> set[str]:
    """The variables whose values a statement needs."""
    nodes = list(all_nodes(x))
    out = {str(n.attr) for n in nodes if n.op == "var"}
    out |= {n.attr.scan for n in nodes if n.op == "read"}
    if isinstance(x, Loop):
        return out | {*x.carries, *x.slices}
    return out | {*x.record.states} if isinstance(x, Scan) else out


def assigned(x: Let | Scan | Loop) -> set[str]:
    """The variables that have another value behind a statement."""
    if isinstance(x, Loop):
        return {*x.carries, *x.collects}
    return {*x.names} if isinstance(x, Let) else {*x.record.states}


def _listed(parts: list[str]) -> str:
    return f"[{', '.join(parts)}]"


def alike(parts: list[str]) -> str:
    """A list of one shape: what is the same for all sequences has no batch axis."""
    return f"torch.broadcast_tensors({', '.join(parts)})" if len(parts) > 1 else _listed(parts)
