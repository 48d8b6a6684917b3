"""A gradient system as a ``torch.optim.Optimizer``: one state per tensor, hypers per parameter group."""

from __future__ import annotations

from collections.abc import Sequence

from nlc.backends.reference import hypers
from nlc.backends.reference.contract import GROUPS, LAYERS, MATRICES, OPTIONS, STEP, WATCHED
from nlc.backends.reference.file import (
    class_name,
    close_file,
    declarations,
    open_file,
    reference_helpers,
    title,
)
from nlc.backends.reference.rule import RuleWriter
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.writer import WIDTH, Header, Writer, wrap
from nlc.ir.program import Program
from nlc.lib.rules import ROUTES

_IMPORTS = [
    "import torch",
    "import torch.nn.functional as F",
    "from torch import Tensor",
    "from torch.optim import Optimizer",
]


def emit_optimizer(
    program: Program, header: Header, writer: type[OptimizerWriter] | None = None
) -> str:
    """The whole file; ``writer`` writes the class."""
    writer = writer or OptimizerWriter
    file, body = Writer(), Writer()
    open_file(file, program.system, header, program.about)
    emitter = writer(program, header, body)
    emitter.write()
    imports = list(emitter.IMPORTS)
    if emitter.layers:
        imports = [x + ", nn" if x == "from torch import Tensor" else x for x in imports]
    return close_file(file, emitter.texts(), body, imports, class_name(program.system))


class OptimizerWriter:
    """Writes the class of an optimizer and, before it, those of its other rules."""

    RULE = RuleWriter
    IMPORTS: Sequence[str] = _IMPORTS

    def __init__(self, program: Program, header: Header, w: Writer):
        self.program, self.w = program, w
        self.system, self.name = program.system, class_name(program.system)
        self.rule = self.RULE(program, header, w, self.name)
        self.printer: TorchPrinter = self.rule.printer
        self.routes = {
            kind: self.RULE(other, header, w, self.name + kind.capitalize())
            for kind, other in program.rules.items()
        }
        for rule in (self.rule, *self.routes.values()):
            rule.printer.free = True

    def write(self) -> None:
        w = self.w
        for other in self.routes.values():
            other.whole_class()
            self.printer.helpers |= other.printer.helpers
            w()
            w()
        with w.block(f"class {self.name}(Optimizer):"):
            self._doc()
            w()
            w("error_if_nonfinite: bool = False  # FloatingPointError with the memory; slow")
            w()
            declarations(w, self.system, self.program.slots)
            w()
            self.rule.hypers()
            w()
            self._init()
            w()
            self._text(GROUPS)
            w()
            self._rule_of()
            w()
            self._text(self.step_text())
            w()
            if self.layers:
                self._text(LAYERS)
                w()
            self.rule.initial_state()
            w()
            self.rule.update()

    def step_text(self) -> str:
        """What a step is; the rules say what it does to a tensor."""
        return STEP

    def texts(self) -> list[str]:
        """The functions that what was written calls."""
        return reference_helpers(self.printer)

    def _doc(self) -> None:
        w, system = self.w, self.system
        for i, line in enumerate(wrap(title(system), WIDTH - 8)):
            w(('"""' if i == 0 else "") + line)
        w()
        w("Args:")
        groups = (
            "params: tensors to train, or groups of them with hypers of their own, as ``param_groups()`` of a"
            " generated module gives them. A group's ``period`` is how many gradients are added up for one step,"
            " its ``rule`` what updates it in place of this optimizer."
        )
        for i, line in enumerate(wrap(groups, WIDTH - 16)):
            w(f"    {'    ' if i else ''}{line}")
        if self.layers:
            for i, line in enumerate(wrap(f"layers: {WATCHED[1]}", WIDTH - 16)):
                w(f"    {'    ' if i else ''}{line}")
        for h in system.hypers.values():
            w(f"    {h.name}: {hypers.default_text(h)} by default.")
        for name, (_, said) in self.options().items():
            for i, line in enumerate(wrap(f"{name}: {said}", WIDTH - 16)):
                w(f"    {'    ' if i else ''}{line}")
        if system.routes:
            w()
            said = [
                f"{kind} by {rule.name if rule else 'this optimizer'}"
                for kind, rule in system.routes
            ]
            text = (
                f"By kind of tensor: {', '.join(said)}; a group's ``rule`` may name another kind."
            )
            for line in wrap(text, WIDTH - 8):
                w(line)
        w()
        refused = ["complex parameters", "sparse gradients"]
        refused += ["parameters that are not matrices"] if self._only_matrices else []
        refused += ["tensors of other kinds"] if self._partial else []
        said = f"Raises RuntimeError for {', '.join(refused[:-1])} and {refused[-1]}."
        if self.layers:
            said += " ValueError for parameters that nothing here trains."
        for line in wrap(said, WIDTH - 4 * w.depth):
            w(line)
        w('"""')

    def options(self) -> dict[str, tuple[str, str]]:
        """Arguments that are no hypers, each with its type and default, and what they say."""
        chosen = any(x.chooses for x in (self.rule, *self.routes.values()))
        return OPTIONS | ({"matrix_dtype": MATRICES} if chosen else {})

    kernels = False  # whether one of its rules is a kernel

    @property
    def joins(self) -> bool:
        """Whether one of its rules can take several tensors as one."""
        return any(x.stacks is not None for x in (self.rule, *self.routes.values()))

    @property
    def _only_matrices(self) -> bool:
        return self.program.matrices and not self.system.routes and not self.layers

    @property
    def layers(self) -> bool:
        """Whether it captures samples of linear layers, in variables of the spec's names."""
        return self.system.context == "layers"

    @property
    def _partial(self) -> bool:
        """Whether some kind of tensor has no rule."""
        routes = dict(self.system.routes)
        return bool(routes) and "rest" not in routes and not self.layers

    def _init(self) -> None:
        w, system = self.w, self.system
        flags = [f"{n}: {kind}" for n, (kind, _) in self.options().items()]
        watched = [f"layers: {WATCHED[0]}"] if self.layers else []
        args = ["self", "params", *watched, *hypers.signature(system), "*", *flags]
        w.define("__init__", args, "None")
        w.depth += 1
        hypers.settle(w, system, self.printer.use)
        names = [f"{n}={n}" for n in (*system.hypers, *self.options())]
        w.call("defaults = dict(", [*names, "period=1", "rule=None"], ")")
        own = {kind: "type(self)" for kind, rule in system.routes if rule is None}
        own |= {kind: other.name for kind, other in self.routes.items()}
        pairs = ["None: type(self)"] if not system.routes else []
        w.collection("self.rules = {", [*pairs, *(f'"{k}": {v}' for k, v in own.items())], "}")
        if not self.layers:
            w("super().__init__(params, defaults)")
            w.depth -= 1
            return
        w(f"layers = {self.printer.use('several')}(layers)")
        w("self.names = {p: name for root in layers for name, p in root.named_parameters()}")
        w("self.samples, self.hooks = {}, {}", "by weight, by layer")
        w("self.watch(layers)")
        with w.block("try:"):
            w("super().__init__(params, defaults)")
        with w.block("except Exception:"):
            w("self.unwatch()")
            w("raise")
        w.depth -= 1

    def _text(self, text: str) -> None:
        """Members that all optimizers have."""
        there = {"fused": "fused" in self.options(), "joins": self.joins, "kernels": self.kernels}
        there |= {"layers": self.layers, "plain": not self.layers}
        there["alone"] = self.layers and "rest" not in dict(self.system.routes)
        for line in text.strip("\n").split("\n"):
            kind, _, kept = line.partition(":")
            if not there.get(kind, True):
                continue
            self.w((kept if kind in there else line).replace("CLASS", self.name))
        self.printer.helpers |= {
            x
            for x in ("gathered", "widened", "rounded", "following", "declared", "all_finite")
            if f"{x}(" in text
        }
        if self.layers and "so_far(" in text:
            self.printer.helpers.add("so_far")
        if "fused" in self.options() and "fused:" in text:
            self.printer.helpers |= {"on_device", "one_pass", "out_of_place"}
        if self.joins and "joins:" in text:
            self.printer.helpers |= {"joined"}

    def _rule_of(self) -> None:
        w, W = self.w, self.rule.trained.var
        answer = "type | None" if self.layers else "type"
        with w.block(f"def rule_of(self, {W}: Tensor, group: dict) -> {answer}:"):
            w('"""What updates a tensor: the rule of its group, else the one for its kind."""')
            if self.layers and not self.system.routes:
                with w.block(f'if group["rule"] is not None or {W} in self.samples:'):
                    w('return self.rules[group["rule"]]')
                w("return None")
                return
            if not self.system.routes:
                w('return self.rules[group["rule"]]')
                return
            with w.block('if group["rule"] is not None:'):
                w('return self.rules[group["rule"]]')
            for kind, rule in self.system.routes:
                answer = self.routes[kind].name if rule else "type(self)"
                if ROUTES[kind].test:
                    with w.block(f"if {ROUTES[kind].test.format(W=W)}:"):
                        w(f"return {answer}")
                else:
                    w(f"return {answer}")
            if self.layers and "rest" not in dict(self.system.routes):
                w("return None")
            if self._partial:
                kinds = " and ".join(kind for kind, _ in self.system.routes)
                found = f"takes {kinds}, found a parameter of shape {{list({W}.shape)}}"
                w.call("raise RuntimeError(", [f'f"{self.name} {found}"'], ")")
