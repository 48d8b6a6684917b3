"""A token system as an ``nn.Module`` whose scans are kernels: the torch backend's file with other functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from nlc.backends.precedence import ATOM, SUM
from nlc.backends.printed import Printed
from nlc.backends.reference.file import class_name, closed, open_file, place
from nlc.backends.torch.helpers import defined
from nlc.backends.torch.module import TorchModule
from nlc.backends.torch.rows import of_tokens
from nlc.backends.torch.scanned import Scanned, all_nodes, assigned, reads
from nlc.backends.torch.scans import Form
from nlc.backends.triton import configs
from nlc.backends.triton.coupled_calls import CoupledCalls
from nlc.backends.triton.decays import KernelPrinter
from nlc.backends.triton.forms import KernelForm
from nlc.backends.triton.gate_operators import operator
from nlc.backends.triton.gates import ending
from nlc.backends.triton.keys import groups, lengths, narrow
from nlc.backends.triton.legend import legend
from nlc.backends.triton.packing import unpackable
from nlc.backends.triton.texts import TEXTS, of_form, texts
from nlc.backends.writer import WIDTH, Header, Writer
from nlc.ir.coupled import coupling
from nlc.ir.expr import Expr, walk
from nlc.ir.gates import WEIGHED, Gates, named, parts, rate
from nlc.ir.program import Let, Loop, Parallel, Program
from nlc.ir.scan import Record, Scan


def emit_module(program: Program, header: Header) -> Printed:
    """The file."""
    file, body = Writer(), Writer()
    open_file(file, program.system, header, program.about)
    emitter = _written(program, header, body)
    program = emitter.program
    asked = {"CHUNK": program.tile or program.channel_tile}
    made = {n: operator(n, gates) for gates, n in emitter.row.operators.items()}
    every = texts(emitter.apart is None, emitter.several) | made | emitter.made
    helpers = emitter.printer.helpers
    found = defined(helpers, program, asked, every)
    own = configs.tables(configs.launched(found))
    own["flow"] = "\n" + legend("\n".join(found)) + every["flow"].lstrip("\n")
    parts = defined(helpers, program, asked, every | own)
    return closed(file, parts, body, header, class_name(program.system))


@dataclass(frozen=True)
class Kernels:
    """What a file does with kernels: the states that one kernel can scan and read, where no slopes are wanted, and
    why packed sequences do not run as one, None if they do."""

    fused: set[str]
    apart: str | None


def in_kernels(program: Program, header: Header) -> Kernels:
    """What the file of a program has."""
    emitter = _written(program, header, Writer())
    return Kernels(emitter.fused, emitter.apart)


def _written(program: Program, header: Header, body: Writer) -> TritonModule:
    program, brought = lengths(program)
    program, sharing = groups(program)
    emitter = TritonModule(program, header, body)
    emitter.lengths, emitter.sharing = brought, sharing
    emitter.write()
    return emitter


FUSED = ("none", "scalar", "channel")  # kinds of records that have a kernel for a scan and its read


class TritonModule(CoupledCalls, TorchModule):
    """Scans of matrices call kernels. Where nothing else multiplies, flows stay in the dtype that they come in.

    ``lengths``: the scans whose kernels bring keys and queries to length one, by their states, and with which eps.
    ``sharing``: those that take one key for several heads. ``made``: the texts of operators, by name. ``fused``: the
    states of scans whose read is part of the same kernel. ``apart``: why packed sequences do not run as one.
    """

    ROWS = KernelPrinter
    OUTSIDE = TorchModule.OUTSIDE | frozenset(TEXTS)
    lengths: dict[str, Expr]
    sharing: set[str]

    def __init__(self, program: Program, header: Header, w: Writer):
        super().__init__(program, header, w)
        self.made: dict[str, str] = {}
        self.fused: set[str] = set()
        self.read_already: set[str] = set()  # what is read by the kernel of a scan
        self.raw: dict[str, list[Gates]] = {}  # what scans and reads of a name make
        self.row.taken = program.names
        self.coupled, self.weighed = {}, (None, {})
        self.negatives: tuple[object, dict[str, str]] = (None, {})  # names in a body
        self.apart = unpackable(program)
        self.several = any(x.read for b in program.body for x in _scans(b))
        if self.apart is None:
            self.STREAMS, self.beside_flows = "packed_streams", ("within: Packing | None = None",)
            self.plain.within = self.row.within = "within"

    @property
    def _file(self) -> dict[str, bool]:
        """What is the same for all forms of the file."""
        return dict(cut=self.apart is None, seen=self.several)

    def form(self, r: Record, read: bool) -> Form:
        f = super().form(r, True)
        if f.kind not in ("none", "scalar"):
            shares = r.states[0] in self.sharing
            return KernelForm(f.kind, f.erase, grouped=shares, decayed=r.decayed, **self._file)
        unit, grouped = r.states[0] in self.lengths, r.states[0] in self.sharing
        found = KernelForm(f.kind, f.erase, f.probe, unit=unit, grouped=grouped)
        found = replace(found, rate=rate(r) is not None, **self._file)
        if r.gates is None:
            return found
        found = replace(found, gates=r.gates)
        behind = self._behind(found.scan, found.gates), self._behind("read", found.decay_gates)
        found = replace(found, raw=behind[0], raw_decay=behind[1])
        if found.scan not in self.made:
            self.made |= of_form(found)
        return found

    def _behind(self, name: str, gates: Gates | None) -> str:
        """What is behind a name where it is what makes gates."""
        if gates is None:
            return ""
        known = self.raw.setdefault(name, [])
        if gates not in known:
            known.append(gates)
        return ending(known.index(gates), self.row.taken)

    def constructed(self) -> list[str]:
        widths: dict[str, str] = {}  # of keys, and a memory that has them
        for x in (x for b in self.program.body for x in _scans(b)):
            r = x.record
            if r.rank == 2 and r.key is not None and (x.read or r.erases or r.kind != "none"):
                held = self.keys.get(r.states[0], x.name)
                widths.setdefault(self.printer.size(r.key.type.dims[0]), held)
        check = self.printer.use("keys_fit") if widths else ""
        return [f'{check}(self, "{n}", {w})' for w, n in widths.items()] + super().constructed()

    def _last(self, r: Record, read: bool = True) -> list[str]:
        eps, given = self.lengths.get(r.states[0]), []
        if r.gates is not None:
            gates, meant = r.gates.only("log_a") if read else r.gates, named(parts(r))[1]
            given += [self.row(meant[n]) for n in gates.fixed]
        given += [self.row(eps)] if eps is not None else []
        return given + self._within

    def _gates(self, r: Record, f: Form, at: Callable[..., str], read: bool = False) -> list[str]:
        if not isinstance(f, KernelForm):
            return super()._gates(r, f, at, read)
        if f.gates is None:
            more = [self._rate(r, at)] if f.rate and not read else []
            return super()._gates(r, f, at, read) + more
        gates, meant = f.gates.only("log_a") if read else f.gates, named(parts(r))[1]
        return [self.row(meant[n]) if n.startswith("head") else at(meant[n]) for n in gates.tensors]

    def _rate(self, r: Record, at: Callable[..., str]) -> str:
        """What a write is multiplied by; what is erased, with another sign, has a name for all scans of a body."""
        number = of_tokens(rate(r)[0])  # type: ignore[index]
        text = at(number, SUM)
        if not text.removeprefix("-").isidentifier() or text.isidentifier():
            return text
        if self.negatives[0] is not self.around:
            self.negatives = self.around, {}
        if text not in self.negatives[1]:
            name = self.parts(f"minus_{text[1:]}")
            self.negatives[1][text] = name
            self.w(f"{name} = {text}")
        return self.negatives[1][text]

    def _write(self, s: Scan, f: Form, at: Callable[..., str]) -> str:
        rated = isinstance(f, KernelForm) and f.rate
        if not rated:
            return super()._write(s, f, at)
        return at(of_tokens(rate(s.record)[1]), SUM)  # type: ignore[index]

    def _written(self, s: Scan, j: int, at: Callable[..., str]) -> str:
        """u of a state; what its T answers at the probe on a line of its own, where it decays towards one."""
        r = s.record
        if r.answered:
            return at(r.write[j], SUM)
        if r.source is None or r.erase[j] is None or not self._towards(s, r.source):
            return super()._written(s, j, at)
        answer = at(r.probe or r.key)
        names = [self.parts(f"{s.name}_{x}") for x in ("begun", "since")]
        self.w(f"{names[0]} = {answer} @ {self._towards(s, r.source)}.mT")
        up = "" if r.rank < 2 else "[..., None]"
        self.w(f"{names[1]} = {at(r.write[j], SUM)} - {at(r.erase[j])}{up} * {names[0]}")
        return names[1]

    def _nonnegative(self, name: str) -> None:
        """To look at the values would wait for the device; their logarithms are NaN, which shows."""

    def _parallel(self, s: Parallel) -> None:
        start = len(self.w.lines)
        super()._parallel(s)
        written = self.w.lines[start:]
        if sum("dtype" in line.replace(f"{self.first}.dtype", "") for line in written) == 1:
            at = next(i for i, x in enumerate(written) if x.strip().startswith("dtype = "))
            note = written.pop(at).partition("  # ")[2]
            if note and "  # " not in written[at] and len(written[at]) + len(note) + 4 <= WIDTH:
                written[at] += f"  # {note}"
            elif note:
                pad = len(written[at]) - len(written[at].lstrip())
                written.insert(at, f"{' ' * pad}# {note}")
            self.w.lines[start:] = written

    def _scan(self, s: Scan) -> None:
        """A scan, and what reads it as one where that is all that reads it."""
        let, read = self._one_read(s, FUSED) or (None, None)
        if let is None or read is None:
            super()._scan(s)
            return
        r, p = s.record, self.row
        self.fused |= {*r.states}
        self.w.at(place(self.header, s.span))
        at, f, state = self._at(s), self.form(r, True), p.place(r.states[0])
        args = [state, at(r.key), self._write(s, f, at), *self._gates(r, f, at)]
        args += [at(r.probe or r.key)] if f.probe or (f.kind == "channel" and f.erase) else []
        args += [self._query(read.args[0], self._headed(s)), *self._last(r, False)]
        out = self._read_as(s, let, read)
        self._call([state, p.place(out)], p.use(f.fused(read.attr.when)), args, s)
        self.scans[s.name] = Scanned(None, r, values={0: p.place(out)}, starts={0: p.place(out)})

    def _running(self, s: Scan, state: str, at: Callable[..., str]) -> None:
        """A vector or a number is a matrix of one column, with a key of 1; it is summed in float32."""
        r, w, f = s.record, self.w, self.form(s.record, True)
        write = of_tokens(rate(r)[1]) if f.rate else r.write[0]  # type: ignore[index, attr-defined]
        u = at(write) if r.rank else f"{at(write, ATOM)}.unsqueeze(-1)"
        end, rows, starts, one = (
            self.parts(f"{s.name}_{x}") for x in ("end", "rows", "starts", "one")
        )
        if not u.isidentifier():
            text, u = u, self.parts(f"{s.name}_writes")
            w(f"{u} = {text}")
        w(f"{one} = torch.ones_like({u}[..., :1], dtype={self.row.dtype})")
        begun = f"{state}.unsqueeze(-1)" if r.rank else f"{state}[..., None, None]"
        args = [begun, one, u, *self._gates(r, f, at), *self._last(r, False)]
        given = [end, rows, starts] if s.read else [end, *["*_"] * self.several]
        self._call(given, self.row.use(f.scan), args, s)
        w(f"{state} = {end}.squeeze(-1)" if r.rank else f"{state} = {end}[..., 0, 0]")
        seen = [one, rows, starts, *self._gates(r, f, at, True), *self._last(r)]
        self.scans[s.name] = Scanned(f, r, tuple(seen), one, self._headed(s))

    def _read_as(self, s: Scan, let: Let, read: Expr) -> str:
        """The name of what a scan's kernel reads: that of a statement that does nothing else, which is done by it."""
        if let.expr != read:
            return self.parts(f"{s.name}_read")
        self.read_already.add(let.names[0])
        return let.names[0]

    def _one_read(self, s: Scan, kinds: Collection[str]) -> tuple[Let, Expr] | None:
        """The statement and the node that alone read a scan of some kinds, whose query is there before it."""
        r, f = s.record, self.form(s.record, s.read)
        if r.rank != 2 or not s.read or not isinstance(f, KernelForm) or f.kind not in kinds:
            return None
        shifted = any(r.start) and f.kind != "coupled"  # a coupled one's end is made apart
        if r.transposed or self._lifted(s) or shifted or len(found := [*self._reads(s)]) != 1:
            return None
        (read,), head = found, self._headed(s)
        if not read.args or read.attr.transposed or read.type.head != head:
            return None
        body = self.around or next(x.body for x in self.program.body if isinstance(x, Parallel))
        statements = [*body]
        same = (i for i, x in enumerate(statements) if isinstance(x, Scan) and x.name == s.name)
        at = next(same, None)
        behind = statements[at + 1 :] if at is not None else []
        let = next((x for x in behind if any(n is read for n in all_nodes(x))), None)
        if not isinstance(let, Let):
            return None
        since = set().union(*(assigned(x) for x in behind[: behind.index(let)]), {s.name}, r.states)
        return None if since & reads(Let((), read.args[0])) else (let, read)

    def _let(self, let: Let) -> None:
        if not self.read_already & {*let.names}:
            super()._let(let)

    def takes(self, s: Scan) -> bool:
        return rate(s.record) is not None and not s.product

    def _to_rows(self, s: Parallel) -> None:
        heads, raw = self._heads(s), self._raw(s)
        if not all(narrow(x) for x in s.body):
            super()._to_rows(replace(s, slices={o: i for o, i in s.slices.items() if i not in raw}))
            for outer, inner in s.slices.items():
                if inner in raw and heads[inner]:
                    self.w(f"{inner} = {outer}.transpose(1, 2)")
                elif inner in raw and outer != inner:
                    self.w(f"{inner} = {outer}")
            return
        gates = _gates(s)
        ranks = {str(n.attr): n.type.rank for x in s.body for n in all_nodes(x) if n.op == "var"}
        for outer, inner in s.slices.items():
            text = f"{outer}.transpose(1, 2)" if heads[inner] else outer
            text += (
                "" if inner in raw or (ranks.get(inner) and inner not in gates) else ".to(dtype)"
            )
            if text != inner:
                self.w(f"{inner} = {text}")

    def _raw(self, s: Parallel) -> set[str]:
        """The flows that gates are made of in kernels, and nothing else: they come as they are."""
        others: list[Expr] = []
        mine: set[str] = set()
        for x in _within(s):
            if isinstance(x, Scan) and x.record.gates is not None:
                gates = [*parts(x.record).values()]
                mine |= {str(n.attr) for e in gates for n in walk(e) if n.op == "var"}
                r = x.record
                others += [e for e in (r.key, r.probe, *r.start, *_vectors(r)) if e is not None]
            elif isinstance(x, Let) and x.expr.op == "made":
                mine |= {str(n.attr) for n in all_nodes(x) if n.op == "var"}
            else:
                others += [*all_nodes(x)]
        return mine - {str(n.attr) for e in others for n in walk(e) if n.op == "var"}


def _within(s: Parallel | Loop) -> Iterable[Let | Scan]:
    """The statements in a loop, and those of loops in it."""
    for x in (*s.first, *s.body):
        if isinstance(x, Loop):
            yield from _within(x)
        else:
            yield x


def _vectors(r: Record) -> Iterable[Expr | None]:
    """What a scan writes beside its gates."""
    if r.kind in WEIGHED:
        return coupling(r).vectors
    pair = rate(r)
    return [pair[1]] if pair else r.write


def _scans(x: object) -> Iterable[Scan]:
    """The scans in a statement."""
    if isinstance(x, Scan):
        yield x
    elif isinstance(x, Parallel | Loop):
        for y in x.body:
            yield from _scans(y)


def _gates(s: Parallel) -> set[str]:
    """The variables that decays are made of."""
    read = lambda e: {str(n.attr) for n in walk(e) if n.op == "var"}  # noqa: E731
    found = set().union(
        *(read(x.record.log) for x in s.body if isinstance(x, Scan) and x.record.log)
    )
    for x in reversed(s.body):
        if isinstance(x, Let) and found & {*x.names}:
            found |= read(x.expr)
    return found
