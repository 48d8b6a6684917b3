"""What a stream of a generated module starts from: ``initial_state``."""

from __future__ import annotations

from collections.abc import Callable

from nlc.backends.reference.file import attribute_path, ending_call
from nlc.backends.reference.loops import Said, write_all
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.writer import Writer
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.ops import leaf
from nlc.ir.program import Program, Slot
from nlc.ir.types import Type

_HELD = ("level", "anchor", "gathered", "prev", "recent")  # in float32 at least


class States:
    """Writes ``initial_state``; the first flow says which batch, device and dtype.

    ``starts`` are the memories that the module's table of learned starts names.
    """

    def __init__(
        self,
        program: Program,
        printer: TorchPrinter,
        w: Writer,
        sizes: Callable[[Type], list[str]],
        starts: list[str],
    ):
        self.slots, self.printer, self.w = program.slots, printer, w
        self.sizes, self.starts = sizes, starts
        name, self.first = next(iter(program.inputs.items()))
        self.embedding = attribute_path(name) if name in program.embedded else None
        if self.embedding is not None:
            self.first = program.indices[program.embedded[name]]

    def initial_state(self) -> None:
        """One entry a slot, or loops over the memories where they make it shorter."""
        w, first = self.w, self.first
        with w.block(f"def initial_state(self, {first}: Tensor) -> dict[str, Tensor]:"):
            w(
                f'"""Where a stream like ``{first}`` starts; memories are held in float32 at least."""'
            )
            if self.embedding is not None:
                with w.block(f"if not {first}.is_floating_point():"):
                    w(f"{first} = {self.embedding}.weight.new_empty(len({first}))", "like a row")
            short, long = (w.tried(write) for write in (self._in_loops, self._one_by_one))
            w.lines += short if len(short) + 2 < len(long) else long

    def _one_by_one(self) -> None:
        w, first = self.w, self.first
        if any(s.kind in _HELD for s in self.slots):
            w(f"dtype = torch.promote_types({first}.dtype, torch.float32)")
        if self.slots:
            w(f"batch = {first}.shape[0]")
        w("return {")
        w.depth += 1
        for s in self.slots:
            text = self._fresh(s)
            if (ending := ending_call(text)) is not None:
                w.call(f'"{s.key}": {ending[0]}', ending[1], "),")
            else:
                w(f'"{s.key}": {text},')
        w.depth -= 1
        w("}")

    def _in_loops(self) -> None:
        w, first, rest = self.w, self.first, list(self.slots)
        dtype = f"torch.promote_types({first}.dtype, torch.float32)"
        if any(s.kind in _HELD for s in rest):
            w(f"dtype, batch = {dtype}, {first}.shape[0]")
        else:
            w(f"batch = {first}.shape[0]")
        if not self.starts or [s.key for s in rest[: len(self.starts)]] != self.starts:
            w("state = {}")
        else:
            start = "self.get_submodule(name).init"
            w(f"starts = {{name: {start}.to(dtype) for name in self.LEARNED}}")
            w("state = {name: value.expand(batch, *value.shape) for name, value in starts.items()}")
            rest = rest[len(self.starts) :]
        write_all(w, [self._said(s) for s in rest])
        w("return state")

    def _said(self, s: Slot) -> Said:
        """The statement for one slot; what starts as a memory does is that memory's start."""
        base, _, tail = s.key.rpartition(".")
        origin = next((x for x in self.slots if x.key == base and x.kind == "level"), None)
        fresh = self._fresh(s)
        copied = origin is not None and s.kind in ("anchor", "start")
        if copied and fresh == self._fresh(origin):
            return Said(base, f'state["$.{tail}"] = state["$"]')
        if s.kind == "level" and s.learned and attribute_path(s.key) == f"self.{s.key}":
            fresh = fresh.replace(f"self.{s.key}.init", "self.$.init")
        return Said(s.key, f'state["$"] = {fresh}')

    def _fresh(self, s: Slot) -> str:
        """What a slot holds before the first token."""
        first, sizes = self.first, self.sizes(s.type)
        if s.kind == "tick":
            return f"torch.zeros((), dtype=torch.int64, device={first}.device)"
        if s.kind == "window":
            taps = s.window.constant
            past = str(int(taps) - 1) if taps is not None else f"{self.printer.size(s.window)} - 1"
            return f"{first}.new_zeros({', '.join(['batch', past, *sizes])})"
        if s.kind == "recent":
            shape = ", ".join(["batch", self.printer.size(s.window), *sizes])
            return f"{first}.new_zeros({shape}, dtype=dtype)"
        if s.kind == "cache":
            return f"{first}.new_zeros({', '.join(['batch', '0', *sizes])})"
        if s.init is not None and s.init.op == "state":  # starts where another level starts
            return self._fresh(next(x for x in self.slots if x.key == s.init.attr[0]))
        shape = ", ".join(["batch", *sizes])
        if s.learned:
            whole = ", ".join(["batch", *["-1"] * len(sizes)])
            return f"{attribute_path(s.of or s.key)}.init.to(dtype).expand({whole})"
        if s.init is None:
            return f"{first}.new_zeros({shape}, dtype=dtype)"
        if self.printer.is_number(s.init):
            shape = f"{shape}," if "," not in shape else shape
            return f"{first}.new_full(({shape}), {self.printer(s.init)}, dtype=dtype)"
        value = f"({self._started(s.init)})"
        if s.init.type.head and not s.init.type.dims and s.type.dims:  # a number for each head
            value = f"{value}[{', '.join([':', *['None'] * len(s.type.dims)])}]"
        return f"{value}.to(dtype).expand({shape})"

    def _started(self, e: Expr) -> str:
        """An expression of a first value."""
        slots = {x.key: x for x in self.slots}
        return started(e, self.printer, lambda name: self._fresh(slots[name]))


def started(e: Expr, printer: TorchPrinter, fresh: Callable[[str], str]) -> str:
    """An expression of a first value as text, where the states that it reads are what they start as, by name."""
    names = {n.attr[0]: f"{n.attr[0]} at first" for n in walk(e) if n.op == "state"}
    value = rewrite(e, lambda n: leaf("var", names[n.attr[0]], n.type) if n.op == "state" else None)
    before = printer.places
    printer.places = before | {named: fresh(name) for name, named in names.items()}
    text = printer(value)
    printer.places = before
    return text
