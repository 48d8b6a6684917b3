"""What a gradient system does to one tensor: ``HYPERS``, ``initial_state(W)`` and ``update(W, g, state, …)``.

A generated optimizer is such a rule itself. Others stand beside it, for kinds of tensors and for the levels of a module
that are trained by a rule of their own.
"""

from __future__ import annotations

from itertools import groupby

from nlc.backends.reference import hypers
from nlc.backends.reference.file import PartNames, declarations, ticks_now, title, write_let
from nlc.backends.reference.states import started
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.writer import WIDTH, Header, Writer, wrap
from nlc.ir.program import Let, Program, Slot
from nlc.ir.types import Dim, Type


class RuleWriter:
    """Writes the members of one rule; ``name`` is that of its class."""

    def __init__(self, program: Program, header: Header, w: Writer, name: str):
        self.program, self.header, self.w, self.name = program, header, w, name
        self.system = program.system
        self.trained = next(
            s
            for s in program.slots
            if self.system.levels.get(s.key) and self.system.levels[s.key].memory.kind == "trained"
        )
        key, W = self.trained.key, self.trained.var
        sides = {f"rows({key})": f"{W}.shape[-2]", f"cols({key})": f"{W}.shape[-1]"}
        self.printer = TorchPrinter(
            self.system, lambda name: sides.get(name, name), lambda path: path, like=W
        )
        self.printer.op_g = lambda e: ("g", 6)  # type: ignore[attr-defined]
        self.kept = [s for s in program.slots if s is not self.trained]
        self.parts = PartNames(program.names | set(self.system.hypers))

    def whole_class(self) -> None:
        """A class that only holds the rule."""
        w = self.w
        with w.block(f"class {self.name}:"):
            for line in wrap(f'"""{title(self.system)}"""', WIDTH - 8):
                w(line)
            w()
            self.members()

    def members(self) -> None:
        declarations(self.w, self.system, self.program.slots)
        self.w()
        self.hypers()
        self.w()
        self.initial_state()
        self.w()
        self.update()

    def hypers(self) -> None:
        """The names of the hypers that ``update`` takes, as they stand in a parameter group."""
        names = [f'"{n}"' for n in self.system.hypers]
        self.w.collection("HYPERS = (", names, ")")

    def initial_state(self) -> None:
        w, W = self.w, self.trained.var
        w("@staticmethod")
        with w.block(f"def initial_state({W}: Tensor) -> dict[str, Tensor | int]:"):
            w('"""The memories of one tensor before its first step."""')
            if self.program.matrices:
                with w.block(f"if {W}.ndim != 2:"):
                    found = f"takes matrices, found a parameter of shape {{list({W}.shape)}}"
                    w.call("raise RuntimeError(", [f'f"{self.name} {found}"'], ")")
            copies = {s.key: s.init.attr[0] for s in self.kept if self._copies(s)}
            made = [s for s in self.kept if s.kind != "held" and s.key not in copies]
            pairs = [f'"{s.key}": {self._fresh(s)}' for s in made]
            if not copies:
                w.collection("return {", pairs, "}")
                return
            w.collection("state = {", pairs, "}")
            for key, origin in copies.items():
                w(f'state["{key}"] = state["{origin}"].clone()')
            w("return state")

    def _copies(self, s: Slot) -> bool:
        """Whether it starts where another has been drawn."""
        if s.init is None or s.init.op != "state" or s.kind == "held":
            return False
        origin = self.system.states.get(s.init.attr[0])
        return origin is not None and origin.drawn

    def _fresh(self, s: Slot) -> str:
        W = self.trained.var
        if s.kind == "tick":
            return "0"
        shape = self._shape(s.type)
        if s.init is None:
            return f"torch.zeros_like({W})" if s.type.like else f"{W}.new_zeros({shape})"
        if s.init.op == "state":  # starts where another starts
            return self._copy(next(x for x in self.program.slots if x.key == s.init.attr[0]))
        if s.init.op in ("normal", "uniform"):
            args = [self.printer(a) for a in s.init.args]
            args = ["0.0", *args] if s.init.op == "normal" else args
            empty = f"torch.empty_like({W})" if s.type.like else f"{W}.new_empty({shape})"
            return f"{empty}.{s.init.op}_({', '.join(args)})"
        slots = {x.key: x for x in self.program.slots}
        value = started(s.init, self.printer, lambda name: self._copy(slots[name]))
        if s.init.type.dims == s.type.dims and s.init.type.dims:
            return value
        return (
            f"torch.full_like({W}, {value})" if s.type.like else f"{W}.new_full({shape}, {value})"
        )

    def _copy(self, s: Slot) -> str:
        """What another tensor starts as."""
        return f"{self.trained.var}.detach().clone()" if s is self.trained else self._fresh(s)

    def _shape(self, t: Type) -> str:
        """``(W.shape[-2],)``: sizes of the trained matrix are those of its last axes."""
        sizes = [self.printer.size(d) for d in t.dims if isinstance(d, Dim)]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    def update(self) -> None:
        w, W = self.w, self.trained.var
        args = [f"{W}: Tensor", "g: Tensor", "state: dict", "*"]
        args += [f"{h.name}: {hypers.kind(h)}" for h in self.system.hypers.values()]
        w("@staticmethod")
        w.define("update", args, "None")
        w.depth += 1
        w('"""One step of one tensor, in place; ``g`` is its gradient."""')
        for s in self.kept:
            if s.kind == "tick":
                w(f'{s.var} = state["{s.key}"] + 1')
                self.printer.numbers.add(s.var)
            elif s.kind != "held":
                w(f'{s.var} = state["{s.key}"]')
        for s in (s for s in self.kept if s.kind == "held"):
            with w.block(f'if "{s.key}" in state:'):
                w(f'{s.var} = state["{s.key}"]', "held")
            with w.block("else:"):
                self._let(Let((s.var,), s.init))
        tick = next((s.var for s in self.kept if s.kind == "tick"), "")
        for when, lets in groupby(self.program.lets(), key=lambda x: x.when):
            if when is None:
                for let in lets:
                    self._let(let)
                continue
            with w.block(f"if {ticks_now(when, tick, self.printer)}:"):
                for let in lets:
                    self._let(let)
        for s in self.kept:
            w(f'state["{s.key}"] = {s.var}')
        w.depth -= 1

    def _let(self, let: Let) -> None:
        W = self.trained.var
        if let.expr.op == "var" and let.expr.attr == W and let.names != (W,):
            self.w(f"{let.names[0]} = {W}.clone()", let.note)  # W itself is changed in place
            return
        if let.names == (W,):
            stepped = Let((f"{W}_next",), let.expr, let.note, let.span)
            write_let(self.w, stepped, self.printer, self.header, self.parts)
            self.w(f"{W}.copy_({W}_next)")
            return
        write_let(self.w, let, self.printer, self.header, self.parts)
