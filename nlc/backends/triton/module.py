"""A token system as an ``nn.Module`` whose scans are kernels: the torch backend's file with other functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nlc.backends.reference.file import class_name, close_file, open_file
from nlc.backends.torch.helpers import defined
from nlc.backends.torch.module import TorchModule
from nlc.backends.torch.scanned import all_nodes
from nlc.backends.torch.scans import Form
from nlc.backends.triton.decays import KernelPrinter
from nlc.backends.triton.forms import KernelForm
from nlc.backends.triton.keys import groups, lengths, narrow
from nlc.backends.triton.packing import packable
from nlc.backends.triton.texts import TEXTS
from nlc.backends.writer import Header, Writer
from nlc.ir.expr import Expr, walk
from nlc.ir.program import Let, Loop, Parallel, Program
from nlc.ir.scan import Record, Scan

_IMPORTS = [
    "import torch",
    "import torch.nn.functional as F",
    "import triton",
    "import triton.language as tl",
    "from torch import Tensor, nn",
]


def emit_module(program: Program, header: Header) -> str:
    """The whole file."""
    file, body = Writer(), Writer()
    open_file(file, program.system, header, program.about)
    program, brought = lengths(program)
    program, sharing = groups(program)
    emitter = TritonModule(program, header, body)
    emitter.lengths, emitter.sharing = brought, sharing
    emitter.write()
    asked = {"CHUNK": program.tile or program.channel_tile}
    texts = defined(emitter.printer.helpers, program, asked, TEXTS)
    return close_file(file, texts, body, _IMPORTS, class_name(program.system))


class TritonModule(TorchModule):
    """Scans of matrices call kernels. Where nothing else multiplies, flows stay in the dtype that they come in.

    ``lengths``: the scans whose kernels bring keys and queries to length one, by their states, and with which eps.
    ``sharing``: those that take one key for several heads.
    """

    ROWS = KernelPrinter
    lengths: dict[str, Expr]
    sharing: set[str]

    def __init__(self, program: Program, header: Header, w: Writer):
        super().__init__(program, header, w)
        if packable(program):
            self.STREAMS, self.beside_flows = "packed_streams", ("within: Packing | None = None",)

    def form(self, r: Record, read: bool) -> Form:
        f = super().form(r, True)
        if f.kind not in ("none", "scalar"):
            return f
        unit, grouped = r.states[0] in self.lengths, r.states[0] in self.sharing
        rate = _rate(r) is not None
        return KernelForm(f.kind, f.erase, f.probe, rate=rate, unit=unit, grouped=grouped)

    def constructed(self) -> list[str]:
        widths: dict[str, str] = {}  # of keys, and a memory that has them
        for x in (x for b in self.program.body for x in _scans(b)):
            r = x.record
            if r.rank == 2 and r.key is not None and (x.read or r.erases or r.kind != "none"):
                held = self.keys.get(r.states[0], x.name)
                widths.setdefault(self.printer.size(r.key.type.dims[0]), held)
        check = self.printer.use("keys_fit") if widths else ""
        return [f'{check}(self, "{n}", {w})' for w, n in widths.items()] + super().constructed()

    def _last(self, r: Record) -> list[str]:
        eps = self.lengths.get(r.states[0])
        given = [self.row(eps)] if eps is not None else []
        return given + ["within"] * (self.STREAMS == "packed_streams")

    def _rated(self, r: Record, f: Form, args: list[str], at: Callable[..., str]) -> list[str]:
        found = _rate(r)
        if not isinstance(f, KernelForm) or found is None:
            return []
        factor, value = found
        args[2] = at(value)
        return [at(factor)]

    def _written(self, s: Scan, j: int, at: Callable[..., str]) -> str:
        """u of a state; what its T answers at the probe on a line of its own, where it decays towards one."""
        r = s.record
        if r.source is None or r.erase[j] is None or not self._towards(s, r.source):
            return super()._written(s, j, at)
        like, answer = r.write[j] or r.parts[0], at(r.probe or r.key)
        names = [self.parts(f"{s.name}_{x}", like) for x in ("begun", "since")]
        self.w(f"{names[0]} = {answer} @ {self._towards(s, r.source)}.mT")
        up = "" if r.rank < 2 else "[..., None]"
        self.w(f"{names[1]} = {at(r.write[j])} - {at(r.erase[j])}{up} * {names[0]}")
        return names[1]

    def _nonnegative(self, name: str) -> None:
        """To look at the values would wait for the device; their logarithms are NaN, which shows."""

    def _parallel(self, s: Parallel) -> None:
        start = len(self.w.lines)
        super()._parallel(s)
        written = self.w.lines[start:]
        if sum("dtype" in line.replace(f"{self.first}.dtype", "") for line in written) == 1:
            self.w.lines[start:] = [x for x in written if not x.strip().startswith("dtype = ")]

    def takes(self, s: Scan) -> bool:
        return _rate(s.record) is not None

    def _to_rows(self, s: Parallel) -> None:
        if not all(narrow(x) for x in s.body):
            super()._to_rows(s)
            return
        heads, gates = self._heads(s), _gates(s)
        ranks = {str(n.attr): n.type.rank for x in s.body for n in all_nodes(x) if n.op == "var"}
        for outer, inner in s.slices.items():
            text = f"{outer}.transpose(1, 2)" if heads[inner] else outer
            text += "" if ranks.get(inner) and inner not in gates else ".to(dtype)"
            if text != inner:
                self.w(f"{inner} = {text}")


def _scans(x: object) -> Iterable[Scan]:
    """The scans in a statement."""
    if isinstance(x, Scan):
        yield x
    elif isinstance(x, Parallel | Loop):
        for y in x.body:
            yield from _scans(y)


def _rate(r: Record) -> tuple[Expr, Expr] | None:
    """The number and the vector that a write is made of, where the states are matrices that are erased."""
    write = r.write[0]
    if (
        r.source is None
        or write is None
        or write.op != "mul"
        or (r.start and r.start[0] is not None)
    ):
        return None
    a, b = write.args
    pairs = [(x, y) for x, y in ((a, b), (b, a)) if x.type.rank == 0 and y.type.rank == 1]
    return pairs[0] if pairs and pairs[0][0].op != "num" else None


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
