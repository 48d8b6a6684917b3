"""System -> typed System: shapes and widths, heads, clocks and ranges of every expression.

Shapes are solved first (``solver``), since a use may say the width of what it reads; types then follow bottom-up.
"""

from __future__ import annotations

from dataclasses import replace

from nlc.base.diagnostics import Label, Report
from nlc.base.span import Span
from nlc.ir.expr import Expr, contains, walk
from nlc.ir.ops import OPS, with_dims
from nlc.ir.shapes import ShapeError
from nlc.ir.show import show
from nlc.ir.system import Module, System
from nlc.ir.types import (
    ANY,
    INFINITE,
    NEVER,
    ONE,
    STEP,
    TOKEN,
    Clock,
    Dim,
    Dims,
    Like,
    Range,
    Type,
    show_dims,
)
from nlc.passes.infer.solver import Solver, Unknown


def infer(system: System, report: Report) -> System:
    """The same system with a type on every expression; partial where the report has errors."""
    shapes = _Shapes(system, report)
    shapes.run()
    if report.has_errors:
        return system
    return _Types(system, shapes, report).run()


class _Shapes:
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
            elif isinstance(self.flow[name], Unknown) and self.flow[name].bound is None:
                self.flow[name] = shape if not isinstance(shape, Unknown) else shape
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
                raise ShapeError(
                    f"`{node.op}` with this label takes [{solver.settle(known_inner)}], this is [{solver.settle(inner)}]",
                    0,
                )
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
            if shape is not None and key != "exact":  # a switch, not a factor
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


class _Types:
    """Heads by a fixpoint over levels (a level has heads iff something it reads has), then types bottom-up."""

    def __init__(self, system: System, shapes: _Shapes, report: Report):
        self.system, self.shapes, self.report = system, shapes, report
        self.heads: dict[str, bool] = dict.fromkeys(system.levels, False)
        self.flows: dict[str, Type] = {}
        self.done: dict[int, Expr] = {}
        self.modules: dict[str, Module] = {}
        self.alive: list[Expr] = []
        self.owner = {s.name: s.level for s in system.states.values()}

    def run(self) -> System:
        typed = self._pass()
        while (heads := {n: self._has_head(typed, n) for n in typed.levels}) != self.heads:
            self.heads = heads
            typed = self._pass()
        typed = replace(
            typed,
            modules={p: self.modules.get(p, m) for p, m in self.system.modules.items()},
            levels={n: replace(level, head=self.heads[n]) for n, level in typed.levels.items()},
            constraints=tuple(dict.fromkeys(self.shapes.assumed)),
        )
        self._whole_sizes(typed)
        return typed

    def _pass(self) -> System:
        self.done, previous, self.flows = {}, self.flows, {}
        for _ in range(2):  # flows that read their own past settle in the second round
            self.done = {}
            for name in self.system.flows:
                self._flow(name, previous)
            previous, self.flows = self.flows, {}
        self.flows = previous
        return self.system.map(self._type)

    def _flow(self, name: str, previous: dict[str, Type]) -> Type:
        if name not in self.flows:
            dims = self.shapes.solver.view(self.shapes.flow[name])
            self.flows[name] = previous.get(
                name, Type(dims)
            )  # while its own expression is being typed
            for node in walk(self.system.flows[name].expr):
                if node.op == "flow":
                    self._flow(node.attr, previous)
            self.flows[name] = self._type(self.system.flows[name].expr).type
        return self.flows[name]

    def _has_head(self, typed: System, name: str) -> bool:
        level = typed.levels[name]
        parts = list(level.expressions)
        parts += [f.expr for f in typed.flows.values() if f.level == name]
        return any(n.type is not None and n.type.head for e in parts for n in walk(e))

    def _type(self, e: Expr) -> Expr:
        self.alive.append(e)
        for node in walk(e):
            if id(node) not in self.done:
                args = tuple(self.done[id(a)] for a in node.args)
                self.done[id(node)] = self._node(node, node.with_args(args))
        return self.done[id(e)]

    def _node(self, old: Expr, node: Expr) -> Expr:
        if (
            node.op in ("linear", "conv", "rmsnorm", "layernorm")
            and node.attr in self.system.modules
        ):
            return self._weighted(old, node)
        dims = self.shapes.final(old)
        if node.args and node.op in OPS:
            return with_dims(node, dims)
        return node.with_type(self._leaf(node, dims))

    def _leaf(self, node: Expr, dims: Dims) -> Type:
        system = self.system
        if node.op == "num":
            return Type(
                (),
                False,
                NEVER,
                Range.point(node.attr),
                "int" if isinstance(node.attr, int) else "float",
            )
        if node.op == "bool":
            return Type((), dtype="bool")
        if node.op == "hyper":
            value = system.sizes.get(node.attr)
            base = system.hypers[str(node.attr).partition("[")[0]]
            clock = STEP if system.context != "tokens" and not base.static else NEVER
            kind = (
                "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
            )
            return Type((), False, clock, Range.point(value) if value is not None else ANY, kind)
        if node.op == "flow":
            return replace(self.flows[node.attr], dims=dims)
        if node.op == "input":
            return Type(dims, system.inputs[node.attr].head, TOKEN)
        if node.op == "state":
            level = system.levels[self.owner[node.attr[0]]]
            return Type(dims, self.heads[level.name], level.clock)
        if node.op in ("variable", "initial", "grad"):
            level = system.levels[node.attr]
            return Type(dims, self.heads[level.name], level.clock)
        if node.op == "weight":
            weight = system.weights.get(node.attr)
            return Type(dims, weight.head if weight else False, STEP)
        if node.op == "g":
            return Type(dims, False, STEP)
        if node.op == "index":
            if node.attr[0] == "head":
                return Type((), True, NEVER, Range(0.0, float("inf")), "int")
            base = TOKEN if system.context == "tokens" else STEP
            low = 1.0 if node.attr[0] == "t" else 0.0
            return Type((), False, base, Range(low, float("inf")), "int")
        return Type(dims)  # uniform, normal

    def _weighted(self, old: Expr, node: Expr) -> Expr:
        """Settles the module: its channels, and one set of weights a head unless shared."""
        x, module = node.args[0].type, self.system.modules[node.attr]
        dims = self.shapes.final(old)
        head = x.head and not module.shared
        outer = dims[0] if dims else None
        inner = x.dims[0] if x.dims else ONE
        self.modules[node.attr] = replace(module, inner=inner, outer=outer, head=head)
        one = outer if outer is not None else ONE
        shapes: dict[str, tuple[Dims, ...]] = {
            "linear": ((one, inner), (one,)),
            "conv": ((one, module.width or ONE), (one,)),
            "rmsnorm": ((inner,),),
            "layernorm": ((inner,), (inner,)),
        }
        weights = tuple(
            w.with_type(Type(shape, head, STEP)) for w, shape in zip(node.args[1:], shapes[node.op])
        )
        return with_dims(node.with_args((node.args[0], *weights)), dims)

    def _whole_sizes(self, system: System) -> None:
        """Every size is whole at the default hypers: ``d / heads`` must divide."""
        sizes, seen = system.sizes, set()
        parts = [(f.expr, f.span) for f in system.flows.values()] + [
            (e, e.span) for e in system.output.values()
        ]
        for e, span in parts:
            for node in walk(e):
                for d in node.type.dims if node.type else ():
                    if isinstance(d, Like) or d in seen:
                        continue
                    seen.add(d)
                    try:
                        value = d.evaluate(sizes)
                    except (KeyError, ZeroDivisionError, TypeError):
                        continue
                    if value.denominator != 1 or value < 1:
                        self.report.add(
                            "NLC305",
                            f"`{d}` is not a whole size",
                            node.span or span,
                            f"it is {float(value):g} at the default hypers",
                        )


__all__ = ["infer", "INFINITE", "Clock", "contains"]
