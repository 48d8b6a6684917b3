"""A token system as an ``nn.Module`` without a loop over tokens, but where the plan has one.

``forward`` keeps what the stream carries in a copy of ``state``. What belongs to a component whose values change at
boundaries is a method of its own, which ``tiles`` runs from boundary to boundary.
"""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Iterable

from nlc.backends.printed import IMPORTED, Printed
from nlc.backends.reference.file import (
    attribute_path,
    class_name,
    closed,
    first_span,
    open_file,
    place,
)
from nlc.backends.reference.module import ModuleWriter
from nlc.backends.torch.components import Components
from nlc.backends.torch.helpers import TEXTS, defined
from nlc.backends.torch.rows import RowPrinter
from nlc.backends.torch.scanned import Scanned, Scans, all_nodes
from nlc.backends.torch.writes import factored
from nlc.backends.writer import Header, Writer
from nlc.ir.program import Let, Loop, Parallel, Program, Return
from nlc.ir.scan import Scan


def emit_module(program: Program, header: Header) -> Printed:
    """The file."""
    file, body = Writer(), Writer()
    open_file(file, program.system, header, program.about)
    emitter = TorchModule(program, header, body)
    emitter.write()
    asked = {"CHUNK": program.tile, "CHANNEL_CHUNK": program.channel_tile}
    texts = defined(emitter.printer.helpers, program, asked, without=header.without)
    return closed(file, texts, body, header, class_name(program.system))


_OWN = ("self", "start", "stop", "carried", "flows", "fixed", "dtype")  # of a method's text


class TorchModule(Scans, Components, ModuleWriter):
    """The reference's writer with scans, tiles and statements for all tokens at once."""

    ROWS = RowPrinter
    OUTSIDE = frozenset((*keyword.kwlist, *dir(builtins), *TEXTS, *IMPORTED, *_OWN))

    def __init__(self, program: Program, header: Header, w: Writer):
        super().__init__(program, header, w)
        self.slots = {s.var: f'state["{s.key}"]' for s in program.slots}
        self.keys = {s.var: s.key for s in program.slots}
        self.plain, self.methods = self.printer, {}
        self.called, self.looped = {}, ""
        self.row = self.ROWS(
            self.system, self._hyper, attribute_path, self.plain.helpers, self.first
        )
        self.row.numbers, self.row.reader = self.plain.numbers, self._read
        self.scans: dict[str, Scanned] = {}
        self.around: tuple[Let | Scan, ...] = ()
        self.stacks: dict[str, tuple[str, ...]] = {}
        self.inside = False  # of what takes the place of the loop over tokens

    # -------------------------------------------------------------------------------------------- forward

    def _open_state(self) -> None:
        """The caller's state stays as it is."""
        w = self.w
        for n in self.program.nonnegative if self.header.has("checks") else ():
            self._nonnegative(n)
        if not self._parallels():
            super()._open_state()
            return
        if not self.whole:
            w("state = dict(state)")
        if self.program.counted and not self.whole:
            start = next(s for s in self.program.slots if s.kind == "tick")
            w(
                f'seen = int(state["{start.key}"]) if seen is None else seen',
                "tokens that came before",
            )
        self.plain.places = self.row.places = self.slots

    def _parallels(self) -> bool:
        return any(isinstance(s, Parallel) for s in self.program.body)

    def _going_on(self, state: str) -> str:
        return f"dict({state})" if self.whole and self._parallels() else state

    def _nonnegative(self, name: str) -> None:
        """What is done about an input that is negative where its logarithm is taken."""
        w, given = self.w, self.flows[name]
        with w.block(f"if not torch.compiler.is_compiling() and ({given} < 0).any():"):
            said = f'f"{name} must not be negative: its logarithm is taken ({{declared(self, {name!r})}})"'
            w.call("raise ValueError(", [said], ")")

    def close_state(self, statement: Return) -> None:
        if not self._parallels():
            super().close_state(statement)

    def statement(self, s: Let | Loop | Parallel | Return) -> None:
        if isinstance(s, Parallel):
            tiles = [x for x in s.body if isinstance(x, Loop) and x.periods]
            self.tiled = frozenset(y.name for x in tiles for y in x.body if isinstance(y, Scan))
            self._parallel(factored(s, self.takes))
        else:
            super().statement(s)

    def takes(self, s: Scan) -> bool:
        """Whether a scan takes the factors of what it writes."""
        return self.ends_alone(s)

    def _parallel(self, s: Parallel) -> None:
        w = self.w
        with w.block(f"with torch.autocast({self.first}.device.type, enabled=False):"):
            w.at(place(self.header, first_span((*s.first, *s.body))))
            w(f"dtype = {self._dtype()}")
            held = next((x.var for x in self.program.slots if x.kind == "level"), None)
            self.row.like = self.plain.place(held) if held else self.first
            self._to_rows(s)
            self.row.dtype = self.plain.dtype = "dtype"
            self._as_rows(f"{self.first}.shape[1]")
            self.plan_methods(s.body)
            for x in s.first:
                self._let(x)
            self.in_order(s.body, s.collects.values())
            self._as_tokens()
            self.row.dtype = self.plain.dtype = None
        heads = self._heads(s)
        for outer, inner in s.collects.items():
            text = self.row.place(inner) + (".transpose(1, 2)" if heads[inner] else "")
            self._named(outer)
            w.call(f"{self.plain.place(outer)} = {text}.to(", [f"{self.first}.dtype"], ")")

    def _named(self, variable: str) -> None:
        """What a later statement only gives another name has that name at once."""
        for x in self.program.body:
            if not isinstance(x, Let) or x.expr.op != "var" or x.expr.attr != variable:
                continue
            if x.when is None and x.names[0] not in self.keys:
                self.w.at(place(self.header, x.span))
                self.plain.places = self.row.places = {**self.plain.places, variable: x.names[0]}
                return

    def _dtype(self) -> str:
        held = next((s.var for s in self.program.slots if s.kind == "level"), None)
        return f"{self.printer.place(held)}.dtype" if held else super()._dtype()

    def _as_rows(self, count: str) -> None:
        self.printer, self.inside = self.row, True
        self.row.tokens = count

    def _as_tokens(self) -> None:
        self.printer, self.inside = self.plain, False

    def beside_forward(self) -> None:
        self.write_methods()

    def _to_rows(self, s: Parallel) -> None:
        """Every flow that comes in, with its heads before its tokens."""
        heads = self._heads(s)
        turned = [(o, i) for o, i in s.slices.items() if heads[i]]
        for outer, inner in s.slices.items():
            if not heads[inner]:
                self.w(f"{inner} = {outer}.to(dtype)")
        if turned:
            targets = ", ".join(i for _, i in turned)
            targets = f"({targets},)" if len(turned) == 1 else targets
            self.plain.use("rows")
            self.w.call(f"{targets} = rows(", ["dtype", *(o for o, _ in turned)], ")")

    def _heads(self, s: Parallel) -> dict[str, bool]:
        """Which variables have a head axis."""
        out: dict[str, bool] = {}
        for x in s.body:
            out |= {n.attr: n.type.head for n in all_nodes(x) if n.op == "var"}
            out |= {n: let.expr.type.head for let in _lets(x) for n in let.names}
            for loop in _loops(x):
                out |= {o: out[i] for o, i in loop.collects.items() if i in out}
                out |= {o: out[i] for o, i in loop.slices.items() if i in out}
        return out

    def _inner(self, x: Let | Scan | Loop) -> None:
        """A statement of what takes the place of the loop."""
        if isinstance(x, Let):
            self._let(x)
        elif isinstance(x, Scan):
            self._scan(x)
        else:
            self.component(x)

    def _let(self, let: Let) -> None:
        if self.inside and let.expr.op in ("conv", "delay"):
            super()._let(let)
            if let.expr.type.head:
                name = self.printer.place(let.names[0])
                self.w(f"{name} = {name}.transpose(1, 2)")
            return
        super()._let(let)


def _lets(x: object) -> Iterable[Let]:
    if isinstance(x, Let):
        yield x
    elif isinstance(x, Loop):
        for y in x.body:
            yield from _lets(y)


def _loops(x: object) -> Iterable[Loop]:
    if isinstance(x, Loop):
        yield x
        for y in x.body:
            yield from _loops(y)
