"""The constructor of a generated module and its slow weights, named by where they stand in the spec."""

from __future__ import annotations

from dataclasses import dataclass, field

from nlc.backends.reference import hypers
from nlc.backends.reference.file import attribute_name, attribute_path
from nlc.backends.reference.loops import Said, write_all, write_statement
from nlc.backends.torch_helpers import HELPERS
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.writer import WIDTH, Writer
from nlc.base.span import Span
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.ops import leaf
from nlc.ir.program import Program
from nlc.ir.system import Module, State
from nlc.ir.types import Type

_RANDOM = ("uniform", "normal")
_MANY = 5  # learned starts from which on a table of their names makes the file shorter


@dataclass
class _Part:
    """What stands under a name of the module: its own tensors, then other parts."""

    tensors: list[str] = field(default_factory=list)
    parts: dict[str, _Part] = field(default_factory=dict)

    def at(self, path: str) -> _Part:
        part = self
        for name in path.split(".") if path else ():
            part = part.parts.setdefault(name, _Part())
        return part

    def paths(self, before: str = "") -> list[str]:
        """The paths of tensors and layers, in the order in which torch lists them."""
        out = [f"{before}{name}" for name in self.tensors]
        for name, part in self.parts.items():
            empty = not part.tensors and not part.parts
            out += [f"{before}{name}"] if empty else part.paths(f"{before}{name}.")
        return out


class Weights:
    """Writes ``__init__`` and ``reset_parameters``."""

    def __init__(self, program: Program, printer: TorchPrinter, w: Writer, checked: bool):
        self.checked = checked  # whether the constructor says what is wrong with its hypers
        self.system, self.printer, self.w = program.system, printer, w
        self.learned = [s for s in self.system.states.values() if s.learned]
        carried = [s.key for s in program.slots if s.learned and s.kind == "level"]
        self.starts = [s.name for s in self.learned] if self._alike(carried) else []

    def span(self, path: str) -> Span | None:
        """Where the spec has the weight of a path, or the function whose weight it is."""
        found = self.system.modules.get(path.rpartition(".")[0]) or self.system.weights.get(path)
        return found.span if found is not None else None

    @property
    def any(self) -> bool:
        """Whether the system has slow weights."""
        return bool(self.system.modules or self.system.weights or self.learned)

    def _alike(self, carried: list[str]) -> bool:
        """Whether one table of names says where all learned starts are and how they are drawn."""
        names = [s.name for s in self.learned]
        plain = all(attribute_path(name) == f"self.{name}" for name in names)
        return (
            plain
            and carried == names
            and len(names) >= _MANY
            and all(map(self._by_fan, self.learned))
        )

    def _by_fan(self, s: State) -> bool:
        """Whether a learned start is drawn with 1/√n of its last axis."""
        if s.init is None or s.init.op != "normal" or not s.dims:
            return False
        spread = s.init.args[0]
        fan = [(n.op, n.attr) for n in spread.args]
        return spread.op == "pow" and fan == [("size", s.dims[-1]), ("num", -0.5)]

    # -------------------------------------------------------------------------------------------- the constructor

    def table(self) -> None:
        """``LEARNED``, the names of learned starts, where several functions go through them."""
        if self.starts:
            self.w.words("LEARNED = ", self.starts)
            self.w()

    def init(self, ending: list[str]) -> None:
        """``__init__``: hypers settled and checked, submodules and parameters declared, then ``ending``."""
        w, system = self.w, self.system
        factory = ["device: torch.device | str | None = None", "dtype: torch.dtype | None = None"]
        args = ["self", "*", *hypers.signature(system), *(factory if self.any else [])]
        w.define("__init__", args, "None")
        w.depth += 1
        w("super().__init__()")
        if self.checked:
            hypers.settle(w, system, self.printer.use)
            hypers.check(w, system)
        else:
            hypers.derive(w, system)
        hypers.keep(w, [(f"self.{attribute_name(name)}", name) for name in system.hypers])
        if self.any:
            w('factory = {"device": device, "dtype": dtype}')
            self._declare()
            w("self.reset_parameters()")
        for line in ending:
            w(line)
        w.depth -= 1

    def _declare(self) -> None:
        """Every slow weight under its path, in the order of ``parameters()``: by attributes, or by ``place``."""
        values = self._values()
        parts = _Part()
        for path in self._containers():
            parts.at(path)
        for path, value in values.items():
            outer, _, name = path.rpartition(".")
            if value.startswith("torch."):
                parts.at(outer).tensors.append(name)
            else:
                parts.at(path)
        said = [Said(path, _placed(path, values[path])) for path in parts.paths()]
        placed = self.w.tried(lambda: write_all(self.w, said))
        plain = self.w.tried(lambda: self._by_attributes(values))
        held = any("= Part()" in line for line in plain)
        helpers = ["place"] if held else ["Part", "place"]  # that the shorter way needs beside
        if len(placed) + sum(HELPERS[n].count("\n") + 2 for n in helpers) < len(plain):
            held, plain = True, placed
            self.printer.use("place")
        if held:
            self.printer.use("Part")
        self.w.lines += plain

    def _by_attributes(self, values: dict[str, str]) -> None:
        holders = {p.rpartition(".")[0] for p, x in values.items() if x.startswith("torch.")}
        for path in self._containers():
            self.w(f"self.{path} = {'Part' if path in holders else 'nn.Module'}()")
        for path, value in values.items():
            write_statement(self.w, f"self.{path} = {_member(value)}")

    def _values(self) -> dict[str, str]:
        """What is declared, by path: layers and tensors in the order of the spec."""
        system, out = self.system, {}
        for m in system.modules.values():
            path = _escaped(m.path)
            if self._is_layer(m):
                outer = m.outer.python if m.outer is not None else "1"
                bias = "" if m.bias else ", bias=False"
                out[path] = f"nn.Linear({m.inner.python}, {outer}{bias}, **factory)"
                if m.function == "embedding":
                    out[path] = f"nn.Embedding({m.rows.python}, {outer}, **factory)"
                continue
            out |= {f"{path}.{n}": self._empty(Type(d, m.head)) for n, d in m.shapes.items()}
        for x in system.weights.values():
            out[_escaped(x.path)] = self._empty(Type(x.dims, x.head))
        for s in self.learned:
            out[f"{_escaped(s.name)}.init"] = self._empty(Type(s.dims, system.levels[s.level].head))
        return out

    def _containers(self) -> list[str]:
        """Submodules that only hold others, outermost first."""
        out: dict[str, None] = {}
        leaves = {m.path for m in self.system.modules.values() if self._is_layer(m)}
        paths = [
            m.path if not self._is_layer(m) else m.path.rpartition(".")[0]
            for m in self.system.modules.values()
        ]
        paths += [s.name for s in self.learned]
        paths += [x.path.rpartition(".")[0] for x in self.system.weights.values()]
        for path in paths:
            parts = path.split(".") if path else []
            for i in range(len(parts)):
                out[".".join(parts[: i + 1])] = None
        return [_escaped(p) for p in out if p not in leaves]

    @staticmethod
    def _is_layer(m: Module) -> bool:
        """Whether it is one of torch's layers, which draws its own weights."""
        return m.function == "embedding" or (m.function == "linear" and not m.head)

    def _empty(self, t: Type) -> str:
        sizes = (["heads"] if t.head else []) + [d.python for d in t.dims]
        return f"torch.empty({', '.join(sizes) or '()'}, **factory)"

    # -------------------------------------------------------------------------------------------- first values

    def reset(self) -> None:
        """``reset_parameters``: every slow weight's first value."""
        w = self.w
        w("@torch.no_grad()")
        with w.block("def reset_parameters(self) -> None:"):
            w(
                '"""Draws all slow weights anew: uniform within 1/√fan_in for maps, ones for norms."""'
            )
            said = [x for m in self.system.modules.values() for x in self._drawn(m)]
            for x in self.system.weights.values():
                said += self._start(_escaped(x.path), x.init)
            if not self.starts:
                said += [
                    x for s in self.learned for x in self._start(f"{_escaped(s.name)}.init", s.init)
                ]
            write_all(w, said, strings=False)
            if self.starts:
                with w.block("for part in map(self.get_submodule, self.LEARNED):"):
                    w("part.init.normal_(0.0, part.init.shape[-1] ** -0.5)")

    def _drawn(self, m: Module) -> list[Said]:
        path = _escaped(m.path)
        if self._is_layer(m):
            return [Said(path, "self.$.reset_parameters()")]
        if m.function in ("linear", "conv"):
            fan = m.inner if m.function == "linear" else m.width
            bound = self.printer.size(fan)
            bound = f"({bound}) ** -0.5" if " " in bound else f"{bound}**-0.5"
            return [Said(f"{path}.{n}", f"self.$.uniform_(-({bound}), {bound})") for n in m.shapes]
        ones = Said(f"{path}.weight", "self.$.fill_(1.0)")
        zeros = Said(f"{path}.bias", "self.$.zero_()")
        return [ones, zeros] if m.function == "layernorm" else [ones]

    def _start(self, path: str, init: Expr | None) -> list[Said]:
        if init is None:
            return [Said(path, "self.$.zero_()")]
        if init.op == "num":
            return [Said(path, f"self.$.fill_({self.printer(init)})")]
        if init.op in _RANDOM:
            args = [self.printer(a) for a in init.args]
            args = ["0.0", *args] if init.op == "normal" else args
            return [Said(path, f"self.$.{init.op}_({', '.join(args)})")]
        printer = _Initial(self.system, self.printer.hyper, attribute_path, target="self.$")
        drawn: list[Said] = []
        if len(path) + len(printer(init)) > WIDTH - 20:
            init = self._drawn_first(path, init, printer, drawn)
        return [*drawn, Said(path, f"self.$.copy_({printer(init)})")]

    def _drawn_first(self, path: str, init: Expr, printer: _Initial, drawn: list[Said]) -> Expr:
        """Random numbers get names, where an expression of them is too long for a line."""

        def name(e: Expr) -> Expr | None:
            if e.op not in _RANDOM:
                return None
            var = leaf("var", f"draw_{len(drawn) + 1}" if drawn else "draw", e.type)
            drawn.append(Said(path, f"{var.attr} = {printer(e)}"))
            return var

        return rewrite(init, name)


def _placed(path: str, value: str) -> str:
    return f'place(self, "$", {value})' if "." in path else f"self.$ = {_member(value)}"


def _member(value: str) -> str:
    """A tensor as a parameter, a layer as it is."""
    return f"nn.Parameter({value})" if value.startswith("torch.") else value


def _escaped(path: str) -> str:
    """A path of the spec as attributes of the module."""
    return attribute_path(path).removeprefix("self.")


class _Initial(TorchPrinter):
    """Prints the initial value of a weight: random functions draw a tensor like it."""

    def __init__(self, *args, target: str):
        super().__init__(*args)
        self.target = target

    def write(self, e: Expr) -> tuple[str, int]:
        if e.op in ("uniform", "normal"):
            args = ", ".join(self(a) for a in e.args)
            draw = f"uniform_({args})" if e.op == "uniform" else f"normal_(0.0, {args})"
            return f"torch.empty_like({self.target}).{draw}", 6
        return super().write(e)

    def is_number(self, e: Expr) -> bool:
        return not any(n.op in ("uniform", "normal") for n in walk(e)) and super().is_number(e)
