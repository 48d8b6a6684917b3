"""What a gradient system does to one tensor: ``HYPERS``, ``initial_state(W, …)`` and ``update(W, g, state, …)``.

A generated optimizer is such a rule itself. Others stand beside it, for kinds of tensors and for the levels of a module
that are trained by a rule of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from math import isfinite
from pathlib import Path

from nlc.backends.plain import BINDS, PLAIN, closed
from nlc.backends.precedence import ATOM, CONDITIONAL
from nlc.backends.reference import hypers
from nlc.backends.reference.file import PartNames, declarations, place, ticks_now, title, write_let
from nlc.backends.reference.states import started
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.writer import WIDTH, Header, Writer, tupled, wrap
from nlc.ir.expr import Expr, walk
from nlc.ir.matrices import NewtonSchulz
from nlc.ir.ops import leaf, sub
from nlc.ir.program import Guard, Let, Program, Slot
from nlc.ir.types import Dim, Type

NUMBER = Type(())


@dataclass
class RulePrinter(TorchPrinter):
    """Numbers of a rule may be tensors: a rate that is learned, a count that the device keeps."""

    free: bool = False  # whether the user may choose in which format matrices are multiplied
    decided: bool = False  # where Python may ask a number, as steps in place do

    def op_g(self, e: Expr) -> tuple[str, int]:
        return "g", ATOM

    def op_newton_schulz(self, e: Expr) -> tuple[str, int]:
        text, binds = super().op_newton_schulz(e)
        if not self.free:
            return text, binds
        how: NewtonSchulz = e.attr  # type: ignore[assignment]
        said = f", torch.{how.dtype}" if how.dtype else ""
        own = f", matrix_dtype or torch.{how.dtype}" if how.dtype else ", matrix_dtype"
        return f"{text[:-1].removesuffix(said)}{own})", binds

    def moves(self, e: Expr) -> bool:
        """Whether a number is computed of such as may be tensors."""
        return any(self._may_be_tensor(n) for n in walk(e))

    def _may_be_tensor(self, n: Expr) -> bool:
        if n.op != "hyper":
            return n.op == "var" and n.attr in self.numbers
        h = self.system.hypers.get(str(n.attr).partition("[")[0])
        return h is not None and hypers.kind(h) == "float"

    def write(self, e: Expr) -> tuple[str, int]:
        asks = e.op == "where" and self.is_number(e.args[0]) and self.moves(e.args[0])
        if asks and not self.decided:
            c, a, b = map(self, e.args)
            return f"{self.use('either')}({c}, lambda: {a}, lambda: {b})", ATOM
        if e.op == "sqrt" and not self.is_number(e):
            return f"{self.use('sqrt')}({self(e.args[0])})", ATOM
        text, binds = super().write(e)
        if e.op in PLAIN and e.args and self.is_number(e) and self.moves(e):
            own = re.sub(r"(?<![\w.])(?:math\.(\w+)|(max|min))\(", self._of, PLAIN[e.op])
            args = [
                self.at(a, CONDITIONAL if closed(own, i) else ATOM) for i, a in enumerate(e.args)
            ]
            return own.format(*args), BINDS.get(e.op, ATOM)
        if "torch.full_like(" in text and self.moves(e):
            text = text.replace("torch.full_like(", f"{self.use('filled')}(")
        return text, binds

    def _of(self, found: re.Match) -> str:
        return f'{self.use("of")}("{found[1] or found[2]}", '


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
        if program.inputs:
            sides["samples"] = f"len({next(iter(program.inputs.values()))})"
        self.printer = RulePrinter(
            self.system, lambda name: sides.get(name, name), lambda path: path, like=W
        )
        self.kept = [s for s in program.slots if s is not self.trained]
        self.parts = PartNames(program.names | set(self.system.hypers))
        self.held = {s.var for s in program.slots}

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
        self.check_hypers()
        self.initial_state()
        self.w()
        self.update()
        self.evaluated()

    def hypers(self) -> None:
        """The hypers that ``update`` takes, as they stand in a parameter group; floats may be tensors."""
        named = [f'"{h.name}": {hypers.sort(h)}' for h in self.system.hypers.values()]
        named += ['"matrix_dtype": torch.dtype'] if self.chooses else []
        self.w.collection("HYPERS = {", named, "}")
        if self.picky:
            self.w("MATRICES = True  # it takes no other tensors")
        if self.lasting:
            names = [f'"{n}"' for n in self.lasting]
            self.w(f"LASTING = {tupled(names)}", "sizes and periods of what it remembers")
        if self.stacks is not None:
            how = "a stack of them" if self.stacks else "all their elements in a row"
            self.w(f"STACKS = {self.stacks}  # tensors that make a step as one: {how}")
            if self.stacks:
                names = [json.dumps(x) if x else "None" for x in self.whole]
                self.w.comment("What it needs as a stack even where copies cost more than calls.")
                self.w.collection("WHOLE = [", names, "]")
            self.w(f"KEEPS = {bool(self.kept)}  # whether it remembers something")

    def check_hypers(self) -> None:
        """What hypers must be, as the steps say that read them."""
        w, found = self.w, self.program.bounds
        if not found:
            return
        read = {str(n.attr).partition("[")[0] for x in found for n in walk(x.expr) if not n.args}
        args = [
            f"{h.name}: {hypers.kind(h)}" for h in self.system.hypers.values() if h.name in read
        ]
        w("@staticmethod")
        w.define("check_hypers", ["*", *args, "**hypers: object"], "None")
        w.depth += 1
        w('"""ValueError for numbers by which a level climbs, or keeps more than it has."""')
        for x in found:
            text, where = self.printer(x.expr), f"{Path(x.span.source.name).name}:{x.span.line}"
            if x.span.quote() != text:
                where = f"in {x.span.quote()}, {where}"
            ends = [f"{x:g}" if isfinite(x) else "None" for x in (x.low, x.high)]
            given = [json.dumps(text), text, *ends, json.dumps(where)]
            w.call(f"{self.printer.use('in_bounds')}(", given, ")")
        w.depth -= 1
        w()

    @property
    def picky(self) -> bool:
        """Whether it takes matrices alone."""
        return self.program.matrices and self.system.context != "layers"

    @property
    def lasting(self) -> list[str]:
        """The hypers in sizes of memories and in periods: another value is no step of what has begun."""
        sizes = [d for s in self.kept for d in s.type.dims if isinstance(d, Dim)]
        sizes += [x.when.period for x in self.program.lets() if x.when is not None]
        sizes += [Dim.of(s.window) for s in self.kept if s.kind == "recent"]
        read = {x.partition("[")[0] for d in sizes for x in d.symbols}
        return [n for n in self.system.hypers if n in read]

    @property
    def stacks(self) -> bool | None:
        """Whether tensors can make a step as a stack, as all their elements in a row, or each by itself alone."""
        return None

    @property
    def whole(self) -> list[str | None]:
        """Of matrices that make a step together, the keys of those that it needs as a stack; None is the trained."""
        return []

    def initial_state(self) -> None:
        w, W = self.w, self.trained.var
        w("@staticmethod")
        read = self._read_at_first()
        args = [f"{W}: Tensor", *(["*", *read] if read else []), "**hypers: object"]
        w.define("initial_state", args, "dict[str, Tensor | int]")
        w.depth += 1
        self._first()
        w.depth -= 1

    def _read_at_first(self) -> list[str]:
        """The hypers of which memories are made before the first step, in value or size, as arguments."""
        made = [s for s in self.kept if s.kind != "held"]
        nodes = [n for s in made if s.init is not None for n in walk(s.init)]
        read = {str(n.attr) for n in nodes if n.op == "hyper"}
        types = [s.type for s in made] + [n.type for n in nodes if n.type is not None]
        read |= {x for t in types for d in t.dims if isinstance(d, Dim) for x in d.symbols}
        plain = {x.partition("[")[0] for x in read}
        found = [h for h in self.system.hypers.values() if h.name in plain]
        return [f"{h.name}: {hypers.kind(h)}" for h in found]

    def _first(self) -> None:
        w, W = self.w, self.trained.var
        w('"""The memories of one tensor before its first step."""')
        if self.picky:
            with w.block(f"if {W}.ndim != 2:"):
                found = f"takes matrices, found a parameter of shape {{list({W}.shape)}}"
                w.call("raise ValueError(", [f'f"{self.name} {found}"'], ")")
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
        shape, dtype = self._shape(s.type), self._dtype(s)
        if s.init is None:
            zeros = "torch.zeros_like({W}{d})" if s.type.like else "{W}.new_zeros({s}{d})"
            return zeros.format(W=W, s=shape, d=f", {dtype}" if dtype else "")
        if s.init.op == "state":  # starts where another starts
            copied = self._copy(next(x for x in self.program.slots if x.key == s.init.attr[0]))
            return f"{copied}.to({dtype})" if dtype else copied
        if s.init.op in ("normal", "uniform"):
            empty = "torch.empty_like({W}{d})" if s.type.like else "{W}.new_empty({s}{d})"
            empty = empty.format(W=W, s=shape, d=f", {dtype}" if dtype else "")
            return f"{empty}.{self._drawn(s.init)}"
        slots = {x.key: x for x in self.program.slots}
        value = started(s.init, self.printer, lambda name: self._copy(slots[name]))
        if s.init.type.dims == s.type.dims and s.init.type.dims:
            return f"{value}.to({dtype})" if dtype else value
        full = "torch.full_like({W}, {x}{d})" if s.type.like else "{W}.new_full({s}, {x}{d})"
        if self.printer.moves(s.init):
            zeros = "torch.zeros_like({W}{d})" if s.type.like else "{W}.new_zeros({s}{d})"
            full = f"{zeros}.add_({{x}})"
        return full.format(W=W, s=shape, x=value, d=f", {dtype}" if dtype else "")

    def _drawn(self, init: Expr) -> str:
        """The method that draws; numbers that may be tensors come after, so that none is asked for."""
        how = f"{init.op}_"
        if not self.printer.moves(init):
            bounds = [self.printer(a) for a in init.args]
            return f"{how}({', '.join(['0.0', *bounds] if init.op == 'normal' else bounds)})"
        if init.op == "normal":
            return f"{how}().mul_({self.printer(init.args[0])})"
        low, high = init.args
        if (low.op, low.attr) == ("num", 0):
            return f"{how}().mul_({self.printer(high)})"
        return f"{how}().mul_({self.printer(sub(high, low))}).add_({self.printer(low)})"

    def _dtype(self, s: Slot) -> str:
        """``dtype=torch.bfloat16`` for a memory that says its format."""
        state = self.system.states.get(s.key)
        return f"dtype=torch.{state.dtype}" if state is not None and state.dtype else ""

    def _copy(self, s: Slot) -> str:
        """What another tensor starts as."""
        return f"{self.trained.var}.clone()" if s is self.trained else self._fresh(s)

    def _shape(self, t: Type) -> str:
        """``(W.shape[-2],)``: sizes of the trained matrix are those of its last axes."""
        sizes = [self.printer.size(d) for d in t.dims if isinstance(d, Dim)]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    def update(self) -> None:
        w, W = self.w, self.trained.var
        w("@staticmethod")
        w.define("update", self.arguments(), "Tensor")
        w.depth += 1
        self.update_doc(f"``state`` gets what it remembers; neither {W} nor ``g`` is changed")
        self.begin()
        for when, lets in groupby(self.program.lets(), key=lambda x: x.when):
            with self.at(when) if when is not None else nullcontext("") as due:
                for let in lets:
                    self._let(let, due if self.held & {*let.names} else "")
        self.end()
        w.depth -= 1

    def begin(self) -> None:
        """What it remembers, in variables of their names."""
        w = self.w
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

    @contextmanager
    def at(self, when: Guard) -> Iterator[str]:
        """The block of what is done in some steps; gives the variable that says whether it is one."""
        tick = next((s.var for s in self.kept if s.kind == "tick"), "")
        due = self._name("due")
        self.w(f"{due} = {ticks_now(when, tick, self.printer)}")
        with self.w.block(f"if {due} is not False:"):
            yield due

    def end(self) -> None:
        """What is to be remembered, and the tensor."""
        for s in self.kept:
            self.w(f'state["{s.key}"] = {s.var}')
        self.w(f"return {self.trained.var}")

    def evaluated(self) -> None:
        """``evaluated``: what takes the place of the trained tensor between steps."""
        w, e, W = self.w, self.program.eval_at, self.trained.var
        if e is None:
            return
        w()
        w("@staticmethod")
        w.define("evaluated", [x for x in self.arguments() if x != "g: Tensor"], "Tensor")
        w.depth += 1
        w(f'"""What takes the place of {W} in evaluation."""')
        read = {str(n.attr) for n in walk(e) if n.op == "var"}
        for s in (s for s in self.kept if s.var in read):
            w(f'{s.var} = state["{s.key}"]')
        w(f"return {self.printer(e)}", place(self.header, e.span))
        w.depth -= 1

    def arguments(self) -> list[str]:
        """Of ``update``: the tensor, its gradient, its memories, and the hypers."""
        args = [f"{self.trained.var}: Tensor", "g: Tensor", "state: dict", "*"]
        args += [f"{x}: Tensor" for x in self.program.inputs.values()]
        args += [f"{h.name}: {hypers.kind(h)}" for h in self.system.hypers.values()]
        return args + (["matrix_dtype: torch.dtype | None"] if self.chooses else [])

    @property
    def chooses(self) -> bool:
        """Whether the user chooses in which format its matrices are multiplied."""
        exprs = [x.expr for x in self.program.lets()]
        exprs += [s.init for s in self.program.slots if s.init is not None]
        return self.printer.free and any(n.op == "newton_schulz" for e in exprs for n in walk(e))

    def update_doc(self, how: str) -> None:
        said = f'"""One tensor after one step with the gradient ``g``; {how}."""'
        if self.program.inputs:
            x, delta = self.program.inputs.values()
            said = f'"""A layer\'s weight after one step with ``{x}`` [N, in] and ``{delta}`` [N, out]; {how}."""'
        for line in wrap(said, WIDTH - 8):
            self.w(line)

    def _let(self, let: Let, due: str = "") -> None:
        """A statement; in a period it holds where that is ``due``, which the device may know alone."""
        given = let.expr.op == "g" or (let.expr.op == "var" and let.expr.attr in self.held)
        if given and let.names != (self.trained.var,):
            value = f"{self.printer(let.expr)}.clone()"  # what is given may be changed in place
            self.w.at(place(self.header, let.span))
            self._say(let.names[0], value, due, let.note)
            return
        if not due:
            write_let(self.w, let, self.printer, self.header, self.parts)
            return
        (name,) = let.names
        text = self.printer(let.expr)
        if 4 * self.w.depth + len(f"{name} = {self._chosen(due, text, name)}") <= WIDTH:
            self.w.at(place(self.header, let.span))
            self._say(name, text, due, let.note)
            return
        new = self._name(f"{name}_next")
        write_let(self.w, replace(let, names=(new,)), self.printer, self.header, self.parts)
        self._say(name, new, due)

    def _name(self, base: str) -> str:
        return self.parts(base, leaf("var", base, NUMBER))

    def _chosen(self, due: str, new: str, old: str) -> str:
        return f"{self.printer.use('chosen')}({due}, {new}, {old})" if due else new

    def _say(self, name: str, text: str, due: str, note: str = "") -> None:
        self.w(f"{name} = {self._chosen(due, text, name)}", note)
