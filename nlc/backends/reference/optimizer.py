"""A gradient system as a ``torch.optim.Optimizer``: one state per tensor, hypers per parameter group."""

from __future__ import annotations

from itertools import groupby

from nlc.backends.reference import hypers
from nlc.backends.reference.file import (
    PartNames,
    class_name,
    close_file,
    open_file,
    title,
    write_let,
)
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.writer import WIDTH, Header, Writer, wrap
from nlc.ir.program import Let, Program, Slot
from nlc.ir.types import Dim, Type

_IMPORTS = [
    "import torch",
    "import torch.nn.functional as F",
    "from torch import Tensor",
    "from torch.optim import Optimizer",
]


def emit_optimizer(program: Program, header: Header) -> str:
    """The whole file."""
    file, body = Writer(), Writer()
    open_file(file, program.system, header, program.about)
    emitter = _Optimizer(program, header, body)
    emitter.write()
    return close_file(file, emitter.printer, body, _IMPORTS, class_name(program.system))


class _Optimizer:
    def __init__(self, program: Program, header: Header, w: Writer):
        self.program, self.header, self.w = program, header, w
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
        names = {n for let in program.lets() for n in let.names}
        self.parts = PartNames(names | set(self.system.hypers))

    def write(self) -> None:
        w = self.w
        with w.block(f"class {class_name(self.system)}(Optimizer):"):
            self._doc()
            w()
            self._init()
            w()
            self._step()
            if self.kept:
                w()
                self._initial_state()
            w()
            self._update()

    def _doc(self) -> None:
        w, system = self.w, self.system
        for i, line in enumerate(wrap(title(system), WIDTH - 8)):
            w(('"""' if i == 0 else "") + line)
        w()
        w("Args:")
        w(
            "    params: tensors to train, or groups of them, each with hypers of its own if it likes."
        )
        for h in system.hypers.values():
            w(f"    {h.name}: {hypers.default_text(h)} by default.")
        w("    maximize: climb the loss instead of descending it.")
        w()
        refused = ["complex parameters", "sparse gradients"]
        refused += ["parameters that are not matrices"] if self.program.matrices else []
        said = f"Raises RuntimeError for {', '.join(refused[:-1])} and {refused[-1]}."
        for line in wrap(said, WIDTH - 4 * w.depth):
            w(line)
        w('"""')

    def _init(self) -> None:
        w, system = self.w, self.system
        args = ["self", "params", *hypers.signature(system), "*", "maximize: bool = False"]
        w.define("__init__", args, "None")
        w.depth += 1
        hypers.settle(w, system)
        names = [*system.hypers, "maximize"]
        w.call("defaults = dict(", [f"{n}={n}" for n in names], ")")
        w("super().__init__(params, defaults)")
        w.depth -= 1

    def _step(self) -> None:
        w = self.w
        W = self.trained.var
        w("@torch.no_grad()")
        with w.block("def step(self, closure: Callable[[], float] | None = None) -> float | None:"):
            w(
                '"""One step of every tensor that has a gradient; ``closure`` computes the loss anew."""'
            )
            w("loss = None")
            with w.block("if closure is not None:"), w.block("with torch.enable_grad():"):
                w("loss = closure()")
            with w.block("for group in self.param_groups:"):
                self._hypers_of_group()
                with w.block(f'for {W} in group["params"]:'):
                    with w.block(f"if {W}.grad is None:"):
                        w("continue")
                    with w.block(f"if {W}.is_complex() or {W}.grad.is_sparse:"):
                        w(
                            f'kind = "complex parameters" if {W}.is_complex() else "sparse gradients"'
                        )
                        w(
                            f'raise RuntimeError(f"{class_name(self.system)} does not take {{kind}}")'
                        )
                    if self.program.matrices:
                        with w.block(f"if {W}.dim() != 2:"):
                            found = (
                                f"takes matrices, found a parameter of shape {{list({W}.shape)}}"
                            )
                            text = f'f"{class_name(self.system)} {found}"'
                            w.call("raise RuntimeError(", [text], ")")
                    g = f'-{W}.grad if group["maximize"] else {W}.grad'
                    if self.kept:
                        w(f"state = self.state[{W}]")
                        with w.block("if not state:"):
                            w(f"state.update(self.initial_state({W}))")
                        w(f"self.update({W}, {g}, state, **hypers)")
                    else:
                        w(f"self.update({W}, {g}, **hypers)")
            w("return loss")

    def _hypers_of_group(self) -> None:
        w, names = self.w, [f'"{n}"' for n in self.system.hypers]
        keys = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
        one = f"hypers = {{key: group[key] for key in {keys}}}"
        if 4 * w.depth + len(one) <= WIDTH:
            w(one)
            return
        with w.block("hypers = {"):
            w("key: group[key]")
            if 4 * (w.depth + 2) + len(keys) <= WIDTH:
                w(f"for key in {keys}")
            else:
                with w.block("for key in ("):
                    for name in names:
                        w(f"{name},")
                w(")")
        w("}")

    def _initial_state(self) -> None:
        w, W = self.w, self.trained.var
        w("@staticmethod")
        with w.block(f"def initial_state({W}: Tensor) -> dict[str, Tensor | int]:"):
            w('"""The memories of one tensor before its first step."""')
            pairs = [f'"{s.key}": {self._fresh(s)}' for s in self.kept if s.kind != "held"]
            w.call("return {", pairs, "}")

    def _fresh(self, s: Slot) -> str:
        W = self.trained.var
        if s.kind == "tick":
            return "0"
        shape = self._shape(s.type)
        if s.init is None:
            return f"torch.zeros_like({W})" if s.type.like else f"{W}.new_zeros({shape})"
        if s.init.op == "state":  # starts where another starts
            origin = next(x for x in self.program.slots if x.key == s.init.attr[0])
            return f"{W}.detach().clone()" if origin is self.trained else self._fresh(origin)
        value = self.printer(s.init)
        return (
            f"torch.full_like({W}, {value})" if s.type.like else f"{W}.new_full({shape}, {value})"
        )

    def _shape(self, t: Type) -> str:
        """``(W.shape[-2],)``: sizes of the trained matrix are those of its last axes."""
        sizes = [self.printer.size(d) for d in t.dims if isinstance(d, Dim)]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    def _update(self) -> None:
        w, W = self.w, self.trained.var
        args = [
            f"{W}: Tensor",
            "g: Tensor",
            *(["state: dict"] if self.kept else []),
            "*",
            *(f"{h.name}: {hypers.kind(h)}" for h in self.system.hypers.values()),
        ]
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
            size = self.printer.size(when.period)
            with w.block(f"if {tick if when.phase == 'end' else f'({tick} - 1)'} % {size} == 0:"):
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
        if let.names == (self.trained.var,):
            expr = let.expr
            name = f"{self.trained.var}_next"
            write_let(
                self.w,
                Let((name,), expr, let.note, let.span),
                self.printer,
                self.header,
                self.parts,
            )
            self.w(f"{self.trained.var}.copy_({name})")
            return
        write_let(self.w, let, self.printer, self.header, self.parts)
