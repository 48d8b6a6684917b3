"""A gradient system as a ``torch.optim.Optimizer``: one state per tensor, hypers per parameter group."""

from __future__ import annotations

from nlc.backends.reference import hypers
from nlc.backends.reference.file import (
    class_name,
    close_file,
    declarations,
    open_file,
    quoted,
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
    return close_file(
        file, reference_helpers(emitter.printer), body, _IMPORTS, class_name(program.system)
    )


class OptimizerWriter:
    """Writes the class of an optimizer and, before it, those of its other rules."""

    RULE = RuleWriter

    def __init__(self, program: Program, header: Header, w: Writer):
        self.program, self.w = program, w
        self.system, self.name = program.system, class_name(program.system)
        self.rule = self.RULE(program, header, w, self.name)
        self.printer: TorchPrinter = self.rule.printer
        self.routes = {
            kind: self.RULE(other, header, w, self.name + kind.capitalize())
            for kind, other in program.rules.items()
        }

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
            self._add_param_group()
            w()
            self._getstate()
            w()
            self._rule_of()
            w()
            self._step()
            w()
            self.rule.initial_state()
            w()
            self.rule.update()

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
        for h in system.hypers.values():
            w(f"    {h.name}: {hypers.default_text(h)} by default.")
        for name, said in self.options().items():
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
        for line in wrap(said, WIDTH - 4 * w.depth):
            w(line)
        w('"""')

    def options(self) -> dict[str, str]:
        """Arguments that are no hypers, False by default, and what they say."""
        return {"maximize": "climb the loss instead of descending it."}

    @property
    def _only_matrices(self) -> bool:
        return self.program.matrices and not self.system.routes

    @property
    def _partial(self) -> bool:
        """Whether some kind of tensor has no rule."""
        return bool(self.system.routes) and "rest" not in dict(self.system.routes)

    def _init(self) -> None:
        w, system = self.w, self.system
        flags = [f"{n}: bool = False" for n in self.options()]
        args = ["self", "params", *hypers.signature(system), "*", *flags]
        w.define("__init__", args, "None")
        w.depth += 1
        hypers.settle(w, system, self.printer.use)
        names = [f"{n}={n}" for n in (*system.hypers, *self.options())]
        w.call("defaults = dict(", [*names, "period=1", "rule=None"], ")")
        own = {kind: "type(self)" for kind, rule in system.routes if rule is None}
        own |= {kind: other.name for kind, other in self.routes.items()}
        pairs = ["None: type(self)"] if not system.routes else []
        w.collection("self.rules = {", [*pairs, *(f'"{k}": {v}' for k, v in own.items())], "}")
        w("super().__init__(params, defaults)")
        w.depth -= 1

    def _add_param_group(self) -> None:
        w = self.w
        with w.block("def add_param_group(self, param_group: dict) -> None:"):
            w(
                '"""Adds a group. ValueError for an unknown rule, hypers that it lacks, a wrong period."""'
            )
            w('rule = param_group.get("rule")')
            with w.block("if isinstance(rule, type):"):
                w('name = f"{rule.__module__}.{rule.__qualname__}"', "state_dict holds names only")
                w("self.rules[name] = rule")
                w('param_group = {**param_group, "rule": name}')
                w(
                    "missing = [key for key in rule.HYPERS if key not in {**self.defaults, **param_group}]"
                )
                with w.block("if missing:"):
                    w('raise ValueError(f"the rule {name} needs {missing} in its group")')
            w("self.check_group(param_group)")
            w("super().add_param_group(param_group)")
        w()
        with w.block("def load_state_dict(self, state_dict: dict) -> None:"):
            w(
                '"""As torch\'s. ValueError for a rule that no group of this optimizer has brought."""'
            )
            with w.block('for group in state_dict["param_groups"]:'):
                w("self.check_group(group)")
            w("super().load_state_dict(state_dict)")
        w()
        with w.block("def check_group(self, group: dict) -> None:"):
            w('rule, period = group.get("rule"), group.get("period", 1)')
            with w.block("if rule is not None and rule not in self.rules:"):
                w(
                    'raise ValueError(f"there is no rule {rule!r} among {[*filter(None, self.rules)]}")'
                )
            with w.block("if not isinstance(period, int) or period < 1:"):
                w('raise ValueError(f"period = {period} must be a whole number, at least 1")')

    def _getstate(self) -> None:
        with self.w.block("def __getstate__(self) -> dict:"):
            self.w('return {**super().__getstate__(), "rules": self.rules}')

    def _rule_of(self) -> None:
        w, W = self.w, self.rule.trained.var
        with w.block(f"def rule_of(self, {W}: Tensor, group: dict) -> type:"):
            w('"""What updates a tensor: the rule of its group, else the one for its kind."""')
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
            if self._partial:
                kinds = " and ".join(kind for kind, _ in self.system.routes)
                found = f"takes {kinds}, found a parameter of shape {{list({W}.shape)}}"
                w.call("raise RuntimeError(", [f'f"{self.name} {found}"'], ")")

    def call_rule(self) -> None:
        """What is done with a gradient."""
        W = self.rule.trained.var
        self.w(f"rule.update({W}, g, state, **{{key: group[key] for key in rule.HYPERS}})")

    def _finite(self, tensors: str) -> None:
        """The test that users may ask for, before and behind a step."""
        with self.w.block("if self.error_if_nonfinite:"):
            self.w(f"{self.printer.use('all_finite')}(rule, {tensors})")

    def _step(self) -> None:
        w, W = self.w, self.rule.trained.var
        w("@torch.no_grad()")
        with w.block("def step(self, closure: Callable[[], float] | None = None) -> float | None:"):
            w(
                '"""One step of every tensor that has a gradient; ``closure`` computes the loss anew."""'
            )
            w("loss = None")
            with w.block("if closure is not None:"), w.block("with torch.enable_grad():"):
                w("loss = closure()")
            with (
                w.block("for group in self.param_groups:"),
                w.block(f'for {W} in group["params"]:'),
            ):
                with w.block(f"if {W}.grad is None:"):
                    w("continue")
                with w.block(f"if {W}.is_complex() or {W}.grad.is_sparse:"):
                    w(f'kind = "complex parameters" if {W}.is_complex() else "sparse gradients"')
                    w(f"where = {self.printer.use('declared')}(self, {quoted(W)})")
                    w(f'raise RuntimeError(f"{self.name} does not take {{kind}} ({{where}})")')
                w(f"rule, state = self.rule_of({W}, group), self.state[{W}]")
                with w.block("if not state:"):
                    w(f"state.update(rule.initial_state({W}))")
                w(f'g = -{W}.grad if group["maximize"] else {W}.grad')
                with w.block('if group["period"] > 1:'):
                    w(f'g = {self.printer.use("gathered")}(g, state, group["period"])')
                with w.block("if g is not None:"):
                    self._finite("g=g")
                    self.call_rule()
                    self._finite(f"**state, {W}={W}")
            w("return loss")
