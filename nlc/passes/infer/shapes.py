"""The first half of inference: the shape of every expression, with unknowns that uses decide."""

from __future__ import annotations

from nlc.base.diagnostics import Label, Report
from nlc.base.span import Span
from nlc.ir.expr import Expr, walk
from nlc.ir.ops import OPS
from nlc.ir.shapes import ShapeError
from nlc.ir.show import show
from nlc.ir.system import Module, System
from nlc.ir.types import ONE, Dim, Dims, Like, show_dims
from nlc.passes.infer.solver import Solver, Unknown


class ShapesOf:
    """Walks every expression once, in an order in which flows come before their readers."""

    def __init__(self, system: System, report: Report):
        self.system, self.report = system, report
        derived = {
            n: d
            for n, h in system.hypers.items()
            if h.derived and (d := _polynomial(h.default)) is not None
        }
        self.solver = Solver(derived=derived)
        self.shape: dict[int, object] = {}
        self.flow: dict[str, object] = {}
        self.module: dict[str, tuple[Dim | None, object]] = {}
        self.failed: set[int] = set()
        self.assumed: list[tuple[Dim, Dim, Span]] = []
        self.states = system.states

    def run(self) -> None:
        for name in self.system.flows:
            self._flow(name)
        for level in self.system.levels.values():
            self._level(level)
        for name, e in self.system.output.items():
            declared = self.system.outputs.get(name)
            if (
                declared is None
                and not self.system.outputs
                and self.system.inputs
                and not self.system.operator
            ):
                first = next(iter(self.system.inputs.values()))
                declared = first.dims if self._of(e) is not None and not first.head else None
            shape = self._of(e)
            if declared is not None and shape is not None:
                self._expect(e, shape, declared, f"output `{name}` is {{}}")
        self.solver.solve(self._blame)
        for path, (_, shape) in self.module.items():
            if isinstance(self.solver.view(shape), Unknown) or self._open(shape):
                self._no_width(self.system.modules[path])

    def final(self, e: Expr) -> Dims:
        return self.solver.view(self.shape[id(e)])

    # -------------------------------------------------------------------------------------------- walking

    def _flow(self, name: str):
        if name not in self.flow:
            self.flow[name] = Unknown()  # a flow may read its own past
            shape = self._of(self.system.flows[name].expr)
            if shape is None:
                self.flow[name] = None
            elif self.flow[name].bound is None:
                self.flow[name] = shape
            else:
                self.solver.same(self.flow[name], shape)
        return self.flow[name]

    def _of(self, e: Expr):
        """The shape of an expression; None where it holds a mistake already reported."""
        for node in walk(e):
            if id(node) not in self.shape and id(node) not in self.failed:
                if any(id(a) in self.failed for a in node.args) or node.op == "error":
                    self.failed.add(id(node))
                    continue
                self.solver.node = node
                before = len(self.solver.assumed)
                try:
                    shape = self._node(node)
                except ShapeError as mistake:
                    self._blame(node, mistake)
                    shape = None
                for a, b in self.solver.assumed[before:]:
                    self.assumed.append((a, b, node.span))
                if shape is None:
                    self.failed.add(id(node))
                else:
                    self.shape[id(node)] = shape
        return self.shape.get(id(e))

    def _node(self, node: Expr):
        system = self.system
        if node.op in ("num", "bool", "hyper", "index"):
            return ()
        if node.op == "input":
            return system.inputs[node.attr].dims if node.attr in system.inputs else None
        if node.op == "flow":
            return self._flow(node.attr) if node.attr in system.flows else None
        if node.op == "state":
            return self.states[node.attr[0]].dims if node.attr[0] in self.states else None
        if node.op in ("variable", "initial"):
            level = system.levels.get(node.attr)
            return level.states[0].dims if level else None
        if node.op == "g":
            return (Like("W"),)
        if node.op == "weight":
            weight = system.weights.get(node.attr)
            return weight.dims if weight else ()  # a module's own are settled with the module
        if node.op == "grad":
            return self.shape[id(node.args[1])]
        if node.op in ("uniform", "normal"):
            return ()
        args = [self.shape[id(a)] for a in node.args]
        if node.attr in system.modules and node.op in ("linear", "conv", "rmsnorm", "layernorm"):
            return self._module(node, args)
        return OPS[node.op].shape(self.solver, args, node)

    def _module(self, node: Expr, args: list):
        module, solver = self.system.modules[node.attr], self.solver
        if node.op == "linear":
            inner = solver.vector(args[0], 0)
            outer: object = (
                Unknown()
                if module.width is None
                else ()
                if module.width == ONE
                else (module.width,)
            )
        else:
            inner = None if node.op == "conv" else solver.vector(args[0], 0)
            outer = args[0]
        if node.attr in self.module:
            known_inner, known = self.module[node.attr]
            if inner is not None and not solver.same_dim(inner, known_inner):
                takes, given = solver.settle(known_inner), solver.settle(inner)
                raise ShapeError(f"`{node.op}` of this label takes [{takes}], this is [{given}]", 0)
            solver.same(outer, known)
            return known
        self.module[node.attr] = (inner, outer)
        return outer

    # -------------------------------------------------------------------------------------------- levels

    def _level(self, level) -> None:
        if level.objective is not None and (shape := self._of(level.objective)) is not None:
            self._objective(level, shape)
        parts = [("retain", level.retain), ("toward", level.toward), ("project", level.project)]
        parts += list(level.rule.args.items()) if level.rule else []
        for key, e in parts:
            shape = self._of(e) if e is not None else None
            if shape is not None and key != "exact" and e.op != "initial":  # a switch, each state's own
                for state in level.states:
                    self._gate(key, e, shape, state.dims)
        for state in level.states:
            e = (level.update or {}).get(state.name)
            if (
                e is not None
                and (shape := self._of(e)) is not None
                and self.solver.view(shape) != ()
            ):
                self._expect(e, shape, state.dims, f"state `{state.name}` is {{}}")
            if (
                state.init is not None
                and (shape := self._of(state.init)) is not None
                and self.solver.view(shape) != ()
            ):
                self._expect(state.init, shape, state.dims, f"state `{state.name}` is {{}}")

    def _objective(self, level, shape) -> None:
        try:
            self.solver.scalar(shape, 0)
        except ShapeError:
            e, dims = level.objective, self.solver.view(shape)
            self.report.add(
                "NLC302",
                f"the objective of level `{level.name}` must be a scalar",
                e.span,
                f"this has shape {self.sized(dims)}",
                helps=[
                    "reduce it: `0.5 * sqnorm(S(key) - value)` (delta rule) or `-dot(S(key), value)` (Hebbian)"
                ],
            )

    def _gate(self, key: str, e: Expr, shape, state: Dims) -> None:
        """A scalar, ``per_key``/``per_value`` or memory-shaped (language §3); what is open becomes a scalar."""
        solver = self.solver
        if not solver.known(shape):
            solver.bind(shape, ())
        dims = solver.view(shape)
        try:
            if dims and solver.elementwise([state, dims]) != solver.view(state):
                raise ShapeError("larger than the state")
            if dims and len(dims) == 1 == len(state) and key != "toward" and dims != state:
                raise ShapeError("not the state's shape")
        except ShapeError:
            helps = (
                [
                    "write `per_key(…)` for a factor a key channel, `per_value(…)` for one a value channel"
                ]
                if len(dims) == 1
                else []
            )
            self.report.add(
                "NLC306",
                f"`{key}` does not fit the state",
                e.span,
                f"this is {self.sized(dims)}, the state is {self.sized(state)}",
                helps=helps,
            )

    def _expect(self, e: Expr, shape, wanted: Dims, text: str) -> None:
        before = len(self.solver.assumed)
        try:
            self.solver.same(shape, wanted)
        except ShapeError:
            self.report.add(
                "NLC301",
                "shapes do not match",
                e.span,
                f"this is {self.sized(self.solver.view(shape))}, but {text.format(self.sized(wanted))}",
            )
        for a, b in self.solver.assumed[before:]:
            self.assumed.append((a, b, e.span))

    # -------------------------------------------------------------------------------------------- messages

    def sized(self, dims) -> str:
        """``[e, d] = [32, 64]``: names and sizes."""
        if isinstance(dims, Unknown):
            return "a shape not known yet"
        text, sizes = show_dims(dims), []
        for d in dims:
            try:
                value = d.evaluate(self.system.sizes)
                sizes.append(
                    str(value.numerator) if value.denominator == 1 else f"{float(value):g}"
                )
            except (KeyError, AttributeError, ZeroDivisionError, TypeError):
                return "".join(text.replace("?", "width "))
        return (
            text
            if not dims or text == f"[{', '.join(sizes)}]"
            else f"{text} = [{', '.join(sizes)}]"
        )

    def _blame(self, node: Expr, mistake: ShapeError) -> None:
        at = (
            node.args[mistake.operand]
            if mistake.operand is not None and mistake.operand < len(node.args)
            else node
        )
        facts = []
        for a in node.args:
            shape = self.shape.get(id(a))
            if shape is not None and a.span and a.op not in ("num",):
                facts.append(f"`{show(a)}` is {self.sized(self.solver.view(shape))}")
        related = [
            Label(
                flow.span, f"`{flow.name}` is {self.sized(self.solver.view(self.flow[flow.name]))}"
            )
            for a in node.args
            if a.op == "flow" and (flow := self.system.flows.get(a.attr)) and a.attr in self.flow
        ]
        self.report.add(
            "NLC301",
            f"shapes do not match in `{show(node)}`",
            at.span or node.span or self.system.span,
            mistake.message,
            related=related[:2],
            notes=facts,
            helps=[mistake.help] if mistake.help else [],
        )

    def _open(self, shape) -> bool:
        dims = self.solver.view(shape)
        return any(
            not isinstance(d, Like) and any(s.startswith("?") for s in d.symbols) for d in dims
        )

    def _no_width(self, module: Module) -> None:
        self.report.add(
            "NLC303",
            f"the width of `{module.function}` cannot be inferred",
            module.span,
            f"nothing that reads `{module.path.rsplit('.', 1)[0]}` fixes it",
            helps=["state it: `linear(x, n)`"],
        )


def _polynomial(e: Expr) -> Dim | None:
    """A hyper's default as a size, where it is one."""
    if e.op == "num" and isinstance(e.attr, int):
        return Dim.of(e.attr)
    if e.op == "hyper":
        return Dim.of(e.attr)
    if e.op in ("add", "sub", "mul", "div"):
        a, b = (_polynomial(x) for x in e.args)
        if a is None or b is None:
            return None
        try:
            return {"add": a.__add__, "sub": a.__sub__, "mul": a.__mul__, "div": a.__truediv__}[
                e.op
            ](b)
        except (ValueError, ZeroDivisionError):
            return None
    return None
