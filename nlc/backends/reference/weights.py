"""The constructor of a generated module and its slow weights, named by where they stand in the spec."""

from __future__ import annotations

from nlc.backends.reference import hypers
from nlc.backends.reference.file import attribute_name, attribute_path
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.writer import WIDTH, Writer
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.ops import leaf
from nlc.ir.system import Module, System
from nlc.ir.types import Type

_RANDOM = ("uniform", "normal")


class Weights:
    """Writes ``__init__`` and ``reset_parameters``."""

    def __init__(self, system: System, printer: TorchPrinter, w: Writer):
        self.system, self.printer, self.w = system, printer, w
        self.learned = [s for s in system.states.values() if s.learned]

    @property
    def any(self) -> bool:
        """Whether the system has slow weights."""
        return bool(self.system.modules or self.system.weights or self.learned)

    def init(self) -> None:
        """``__init__``: hypers settled and checked, submodules and parameters declared."""
        w, system = self.w, self.system
        factory = ["device: torch.device | str | None = None", "dtype: torch.dtype | None = None"]
        args = ["self", "*", *hypers.signature(system), *(factory if self.any else [])]
        self.w.define("__init__", args, "None")
        w.depth += 1
        w("super().__init__()")
        hypers.settle(w, system)
        hypers.check(w, system)
        for name in system.hypers:
            w(f"self.{attribute_name(name)} = {name}")
        if self.any:
            w('factory = {"device": device, "dtype": dtype}')
            for part in self._containers():
                w(f"{attribute_path(part)} = nn.Module()")
            for m in system.modules.values():
                self._declare(m)
            for x in system.weights.values():
                w(f"{attribute_path(x.path)} = nn.Parameter({self._empty(Type(x.dims, x.head))})")
            for s in self.learned:
                level = system.levels[s.level]
                w(
                    f"{attribute_path(s.name)}.init = nn.Parameter({self._empty(Type(s.dims, level.head))})"
                )
            w("self.reset_parameters()")
        w.depth -= 1

    def _containers(self) -> list[str]:
        """Submodules that only hold others, outermost first."""
        out: dict[str, None] = {}
        leaves = {m.path for m in self.system.modules.values() if self._is_linear(m)}
        paths = [
            m.path if not self._is_linear(m) else m.path.rpartition(".")[0]
            for m in self.system.modules.values()
        ]
        paths += [s.name for s in self.learned]
        paths += [x.path.rpartition(".")[0] for x in self.system.weights.values()]
        for path in paths:
            parts = path.split(".") if path else []
            for i in range(len(parts)):
                out[".".join(parts[: i + 1])] = None
        return [p for p in out if p not in leaves]

    @staticmethod
    def _is_linear(m: Module) -> bool:
        return m.function == "linear" and not m.head

    def _declare(self, m: Module) -> None:
        if self._is_linear(m):
            outer = m.outer.python if m.outer is not None else "1"
            bias = "" if m.bias else ", bias=False"
            self.w(
                f"{attribute_path(m.path)} = nn.Linear({m.inner.python}, {outer}{bias}, **factory)"
            )
            return
        for name, dims in m.shapes.items():
            self.w(
                f"{attribute_path(m.path)}.{name} = nn.Parameter({self._empty(Type(dims, m.head))})"
            )

    def _empty(self, t: Type) -> str:
        sizes = (["heads"] if t.head else []) + [d.python for d in t.dims]
        return f"torch.empty({', '.join(sizes) or '()'}, **factory)"

    def reset(self) -> None:
        """``reset_parameters``: every slow weight's first value."""
        w = self.w
        w("@torch.no_grad()")
        with w.block("def reset_parameters(self) -> None:"):
            w(
                '"""Draws all slow weights anew: uniform within 1/√fan_in for maps, ones for norms."""'
            )
            for m in self.system.modules.values():
                path = attribute_path(m.path)
                if self._is_linear(m):
                    w(f"{path}.reset_parameters()")
                elif m.function in ("linear", "conv"):
                    fan = m.inner if m.function == "linear" else m.width
                    bound = self.printer.size(fan)
                    bound = f"({bound}) ** -0.5" if " " in bound else f"{bound}**-0.5"
                    for name in m.shapes:
                        w(f"{path}.{name}.uniform_(-({bound}), {bound})")
                else:
                    w(f"{path}.weight.fill_(1.0)")
                    if m.function == "layernorm":
                        w(f"{path}.bias.zero_()")
            for x in self.system.weights.values():
                self._start(attribute_path(x.path), x.init)
            for s in self.learned:
                self._start(f"{attribute_path(s.name)}.init", s.init)

    def _start(self, target: str, init: Expr | None) -> None:
        if init is None:
            self.w(f"{target}.zero_()")
        elif init.op == "num":
            self.w(f"{target}.fill_({self.printer(init)})")
        elif init.op in _RANDOM:
            args = [self.printer(a) for a in init.args]
            args = ["0.0", *args] if init.op == "normal" else args
            self.w.call(f"{target}.{init.op}_(", args, ")")
        else:
            printer = _Initial(self.system, self.printer.hyper, attribute_path, target=target)
            if 4 * self.w.depth + 4 + len(printer(init)) > WIDTH:
                init = self._drawn_first(init, printer)
            self.w.call(f"{target}.copy_(", [printer(init)], ")")

    def _drawn_first(self, init: Expr, printer: _Initial) -> Expr:
        """Random numbers get names, where an expression of them is too long for a line."""
        taken = 0

        def name(e: Expr) -> Expr | None:
            nonlocal taken
            if e.op not in _RANDOM:
                return None
            taken += 1
            var = leaf("var", f"draw_{taken}" if taken > 1 else "draw", e.type)
            self.w(f"{var.attr} = {printer(e)}")
            return var

        return rewrite(init, name)


class _Initial(TorchPrinter):
    """Prints the initial value of a weight: random functions draw a tensor like it."""

    def __init__(self, *args, target: str):
        super().__init__(*args)
        self.target = target

    def write(self, e: Expr) -> tuple[str, int]:
        if e.op in _RANDOM:
            args = ", ".join(self(a) for a in e.args)
            draw = f"uniform_({args})" if e.op == "uniform" else f"normal_(0.0, {args})"
            return f"torch.empty_like({self.target}).{draw}", 6
        return super().write(e)

    def is_number(self, e: Expr) -> bool:
        return not any(n.op in _RANDOM for n in walk(e)) and super().is_number(e)
