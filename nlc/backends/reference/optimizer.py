"""A gradient system as a ``torch.optim.Optimizer``: one state per tensor, hypers per parameter group."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from nlc.backends.printed import Printed
from nlc.backends.reference import hypers
from nlc.backends.reference.contract import (
    EVALUATION,
    GROUPS,
    LAYERS,
    MATRICES,
    MODULES,
    NAMES,
    OPTIONS,
    STEP,
    WATCHED,
)
from nlc.backends.reference.file import (
    class_name,
    closed,
    declarations,
    open_file,
    reference_helpers,
    title,
)
from nlc.backends.reference.rule import NUMBER, RuleWriter
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.writer import WIDTH, Header, Writer, wrap
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.program import Program
from nlc.ir.routes import Route
from nlc.ir.system import System
from nlc.ir.types import Dim
from nlc.lib.rules import KINDS, SIZES, shapes_of
from nlc.lib.rules import LAYERS as LAYER_KIND


def emit_optimizer(
    program: Program, header: Header, writer: type[OptimizerWriter] | None = None
) -> Printed:
    """The file; ``writer`` writes the class."""
    writer = writer or OptimizerWriter
    file, body = Writer(), Writer()
    open_file(file, program.system, header, program.about)
    emitter = writer(program, header, body)
    emitter.write()
    return closed(file, emitter.texts(), body, header, class_name(program.system))


class OptimizerWriter:
    """Writes the class of an optimizer and, beside it, those of its other rules."""

    RULE = RuleWriter

    def __init__(self, program: Program, header: Header, w: Writer):
        self.program, self.w = program, w
        self.system, self.name = program.system, class_name(program.system)
        self.header = header
        self.rule = self.RULE(program, header, w, self.name)
        self.printer: TorchPrinter = self.rule.printer
        self.routes = {
            route.name: self.RULE(program.rules[route.name], header, w, name)
            for route, name in zip(self.system.routes, rule_classes(self.system), strict=True)
            if route.rule is not None
        }
        self.classes = self._classes()
        for rule in (self.rule, *self.routes.values()):
            rule.printer.free = True

    def _classes(self) -> dict[str, str]:
        """By route the class that trains its tensors; the class itself is ``type(self)``."""
        out = {}
        for route in self.system.routes:
            own = self.routes[route.name].name if route.rule is not None else "type(self)"
            out[route.name] = seen_class(self.system, route) if route.view else own
        return out

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
            if self._by:
                self._checks()
                w()
            self._rule_of()
            w()
            self._text(self.step_text())
            w()
            if self.program.eval_at is not None:
                self._text(EVALUATION)
                w()
            if self.layers:
                self._text(LAYERS)
                w()
            self.rule.check_hypers()
            self.rule.initial_state()
            w()
            self.rule.update()
            self.rule.evaluated()
        for route in self.system.routes:
            if route.view:
                w()
                w()
                self._seen(route)

    def _seen(self, route: Route) -> None:
        """The class of a route that sees tensors in another way."""
        w, rule = self.w, self.routes.get(route.name, self.rule)
        whose = f"{rule.name} does" if route.rule is not None else f"{self.name} does"
        with w.block(f"class {self.classes[route.name]}({self.printer.use('Seen')}):"):
            said = f'"""What {whose} to each part that `{route.view.text}` shows of a tensor."""'
            for line in wrap(said, WIDTH - 8):
                w(line)
            w()
            names = ["RULE", "SPEC", "LINES", "HYPERS"] + ["advance"] * self._advances(rule)
            names += ["LASTING"] if rule.lasting else []
            names += ["check_hypers"] if rule.program.bounds else []
            for name in names:
                w(f"{name} = {rule.name}" + ("" if name == "RULE" else f".{name}"))
            w()
            w("@staticmethod")
            read = self._kwargs(self._read_by(route))
            w.define("view", [*(["*", *read] if read else []), "**hypers: object"], "tuple")
            w(f"    return {self._view(route)}")
        self.printer.helpers |= {"shown", "rejoined"}

    def _advances(self, rule: RuleWriter) -> bool:
        """Whether a step may be computed as new tensors by one function."""
        return False

    def _view(self, route: Route) -> str:
        size = lambda x: self.printer.size(x) if isinstance(x, Dim) else repr(x)  # noqa: E731
        steps = [f'("{name}", {a!r}, {size(b)})' for name, a, b in route.view.steps]
        return f"({', '.join(steps)},)"

    def _read_by(self, route: Route) -> set[str]:
        """The hypers that a view is made of."""
        return {x for *_, last in route.view.steps if isinstance(last, Dim) for x in last.symbols}

    def _kwargs(self, names: set[str]) -> list[str]:
        found = [h for h in self.system.hypers.values() if h.name in names]
        return [f"{h.name}: {hypers.kind(h)}" for h in found]

    @property
    def _by(self) -> str:
        """What routes ask for that a tensor does not show: ``modules``, ``names`` or nothing."""
        asked = [x for x in ("modules", "names") if any(getattr(r, x) for r in self.system.routes)]
        return next(iter(asked), "")

    def _checks(self) -> None:
        """What is asked of groups where routes go by more than the tensor."""
        found = [r for r in self.system.routes if getattr(r, self._by)]
        span = found[0].span
        where = f"route {found[0].name} of {self.name} ({Path(span.source.name).name}:{span.line})"
        text = (MODULES if self._by == "modules" else NAMES).replace("WHERE", where)
        self._text(text.replace("ROUTES", json.dumps([r.name for r in found])))

    def step_text(self) -> str:
        """What a step is; the rules say what it does to a tensor."""
        return STEP

    def texts(self) -> list[str]:
        """The functions that what was written calls."""
        return reference_helpers(self.printer, self.program)

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
                f"{r.name} by {r.rule.name if r.rule else 'this optimizer'}"
                + (f" as `{r.view.text}`" if r.view else "")
                for r in system.routes
            ]
            text = f"By route: {', '.join(said)}; a group's ``rule`` may name another route."
            for line in wrap(text, WIDTH - 8):
                w(line)
        w()
        refused = ["complex parameters", "sparse gradients"]
        said = f"Raises RuntimeError for {' and '.join(refused)}."
        said += " ValueError for parameters that are not matrices." if self._only_matrices else ""
        said += " ValueError for tensors of other kinds." if self._partial else ""
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
    def apart(self) -> bool:
        """Whether one of its rules takes matrices together, which need be a stack only where they are multiplied."""
        return any(x.stacks for x in (self.rule, *self.routes.values()))

    @property
    def _only_matrices(self) -> bool:
        return self.program.matrices and not self.system.routes and not self.layers

    @property
    def _picky(self) -> bool:
        """Whether some tensors are taken by no rule, which is told when they are given."""
        return self._only_matrices or self._partial

    @property
    def layers(self) -> bool:
        """Whether it captures samples of linear layers, in variables of the spec's names."""
        return self.system.context == "layers"

    @property
    def _partial(self) -> bool:
        """Whether some tensor may have no route."""
        return bool(self.system.routes) and not self._whole and not self.layers

    @property
    def _whole(self) -> bool:
        """Whether a route takes all that others leave."""
        return any(r.plain and shapes_of(r.kinds) == shapes_of(()) for r in self.system.routes)

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
        pairs = ["None: type(self)"] if not system.routes else []
        pairs += [f'"{name}": {made}' for name, made in self.classes.items()]
        w.collection("self.rules = {", pairs, "}")
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
        kinds = {hypers.sort(h) for h in self.system.hypers.values()}
        there = {
            "evaluated": self.program.eval_at is not None,
            "fused": "fused" in self.options(),
            "joins": self.joins,
            "apart": self.apart,
            "rows": not self.apart,
            "kernels": self.kernels,
            "asked": bool(self._by),
            "guarded": bool(self._by) or self._picky,
            "lasting": any(x.lasting for x in (self.rule, *self.routes.values())),
            "picky": self._picky,
            "bounded": any(x.program.bounds for x in (self.rule, *self.routes.values())),
            "named": self._by == "names",
            "layers": self.layers,
            "plain": not self.layers,
            "alone": self.layers and not self._whole,
            "sizes": "int" in kinds,
            "numbers": "float" in kinds,
        }
        for line in text.strip("\n").split("\n"):
            wanted = True
            while (found := line.partition(":"))[0] in there:
                wanted, line = wanted and there[found[0]], found[2]
            if wanted:
                self.w(line.replace("CLASS", self.name))
        self.printer.helpers |= {
            x
            for x in (
                "gathered",
                "computed_in",
                "widened",
                "rounded",
                "following",
                "declared",
                "all_finite",
            )
            if f"{x}(" in text
        }
        if "def check_group(" in text:
            self.printer.helpers |= {"whole_sizes"} if there["sizes"] else set()
            self.printer.helpers |= {"plain_numbers"} if there["numbers"] else set()
        if self.layers and "so_far(" in text:
            self.printer.helpers.add("so_far")
        if "fused" in self.options() and "fused:" in text:
            self.printer.helpers |= {"on_device", "one_pass", "out_of_place"}
        if self.joins and "joins:" in text:
            self.printer.helpers |= {"joined"}

    def _rule_of(self) -> None:
        w, system = self.w, self.system
        answer = "type | None" if self.layers and not self._whole else "type"
        with w.block(f"def rule_of(self, i: int, group: dict) -> {answer}:"):
            if not system.routes:
                w('"""What updates the i-th tensor of a group: its rule, else this optimizer."""')
                if self.layers:
                    w('known = group["rule"] is not None or group["params"][i] in self.samples')
                    w('return self.rules[group["rule"]] if known else None')
                else:
                    w('return self.rules[group["rule"]]')
                return
            w(
                '"""What updates the i-th tensor of a group: its rule, else that of the tensor\'s route."""'
            )
            known = 'group["routes"][i]'  # told once: patterns are no work for a step
            found = known if self._by == "names" else "self.route_in(i, group)"
            w(f'route = group["rule"] or {found}')
            if self.layers and not self._whole:
                w("return None if route is None else self.rules[route]")
            elif self._partial:
                with w.block("if route is None:"):
                    w('shape = list(group["params"][i].shape)')
                    names = " and ".join(r.name for r in system.routes)
                    found = f"takes {names}, found a parameter of shape {{shape}}"
                    w.call("raise ValueError(", [f'f"{self.name} {found}"'], ")")
                w("return self.rules[route]")
            else:
                w("return self.rules[route]")
        w()
        with w.block("def route_in(self, i: int, group: dict) -> str | None:"):
            w('"""The route of the i-th tensor of a group; None where none takes it."""')
            given = [f'{n}=group["{n}"]' for n in self._asked()]
            name = ['group["param_names"][i]'] if self._by == "names" else []
            layer = ['layer=group["params"][i] in self.samples'] if self._by_layers else []
            args = ['group["params"][i]', *name, *layer, *given]
            with w.block("try:") if name else nullcontext():
                w.call("return self.route_of(", args, ")")
            if name:
                with w.block("except ValueError as error:"):
                    w("raise ValueError(f\"{group['param_names'][i]}: {error}\") from None")
        w()
        self._route_of()

    def _asked(self) -> list[str]:
        """The hypers that decide on a route."""
        conditions = [n for r in self.system.routes for e in r.where for n in walk(e)]
        read = {str(n.attr) for n in conditions if n.op == "hyper"}
        for r in self.system.routes:
            read |= self._read_by(r) if self._looks(r) else set()
        return [n for n in self.system.hypers if n in read]

    @property
    def _by_layers(self) -> bool:
        """Whether a route asks if a tensor is the weight of a linear layer that is watched."""
        return any(LAYER_KIND in r.kinds for r in self.system.routes)

    def _looks(self, route: Route) -> bool:
        """Whether it asks what the rule would see: a bias beside a matrix of one name is not meant by its pattern."""
        return bool(route.view) or (self._matrices(route) and not route.kinds)

    def _matrices(self, route: Route) -> bool:
        return self.program.rules.get(route.name, self.program).matrices

    def _route_of(self) -> None:
        w, W = self.w, self.rule.trained.var
        given = ["layer: bool = False"] if self._by_layers else []
        given += self._kwargs({*self._asked()})
        args = [f"{W}: Tensor", 'name: str = ""', "modules: tuple[type, ...] = ()"]
        w("@staticmethod")
        w.define("route_of", [*args, *(["*", *given] if given else [])], "str | None")
        w.depth += 1
        self._tests()
        w.depth -= 1

    def _tests(self) -> None:
        w = self.w
        w('"""Which route takes a tensor, by what it is, its name and the classes that own it."""')
        for route in self.system.routes:
            asked = self._conditions(route)
            if not asked:
                w(f'return "{route.name}"')
                return
            with w.condition(asked, "and"):
                w(f'return "{route.name}"')
        w("return None")

    def _conditions(self, route: Route) -> list[str]:
        """What a tensor must meet, in Python."""
        W = self.rule.trained.var
        kinds = [] if "rest" in route.kinds else [KINDS[k].test.format(W=W) for k in route.kinds]
        names = [f"fnmatchcase(name, {json.dumps(x)})" for x in route.names]
        known = f"{{{', '.join(json.dumps(x) for x in route.modules)}}}"
        modules = [f"any({known} & {{x.__name__ for x in m.__mro__}} for m in modules)"]
        out = [_any(kinds), _any(names), *(modules if route.modules else [])]
        out += [self._condition(e) for e in route.where]
        if self._looks(route):
            self.printer.helpers.add("shown")
            view = self._view(route) if route.view else "()"
            out.append(f"{self.printer.use('suits')}({W}, {view}, {self._matrices(route)})")
        return [x for x in out if x]

    def _condition(self, e: Expr) -> str:
        W = self.rule.trained.var

        def said(n: Expr) -> Expr:
            if n.op != "sizeof":
                return replace(n, type=NUMBER)
            text = SIZES[str(n.attr)].format(W=W)
            self.printer.numbers.add(text)
            return Expr("var", (), text, NUMBER, n.span)

        return self.printer(rewrite(e, said))


def _any(tests: list[str]) -> str:
    """One of several, beside others."""
    if len(tests) < 2:
        return "".join(tests)
    return f"({' or '.join(f'({x})' if ' and ' in x else x for x in tests)})"


def rule_classes(system: System) -> list[str]:
    """By route the name of the class of its own rule; what sees a tensor in another way stands before it."""
    return [seen_class(system, route) + ("Part" if route.view else "") for route in system.routes]


def seen_class(system: System, route: Route) -> str:
    """The name of the class that trains the tensors of a route."""
    return class_name(replace(system, name=f"{system.name}_{route.name}"))
