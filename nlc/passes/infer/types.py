"""The second half of inference: heads, clocks, ranges and dtypes bottom-up, once shapes are known."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from nlc.base.diagnostics import Report
from nlc.ir.constants import decimal
from nlc.ir.expr import Expr, walk
from nlc.ir.ops import OPS, elementwise, make, mul, with_dims
from nlc.ir.shapes import as_matrix, parts
from nlc.ir.system import Level, Module, System
from nlc.ir.types import ANY, BASES, NEVER, ONE, STEP, TOKEN, Dim, Dims, Like, Range, Type
from nlc.lib.functions import WEIGHTED
from nlc.passes.infer.shapes import ShapesOf
from nlc.passes.infer.valued import valued


class TypesOf:
    """Heads by a fixpoint over levels (a level has heads iff something it reads has), then types bottom-up."""

    def __init__(self, system: System, shapes: ShapesOf, report: Report):
        self.system, self.shapes, self.report = system, shapes, report
        self.heads: dict[str, bool] = dict.fromkeys(system.levels, False)
        self.flows: dict[str, Type] = {}
        self.done: dict[int, Expr] = {}
        self.modules: dict[str, Module] = {}
        self.alive: list[Expr] = []
        self.owner = {s.name: s.level for s in system.states.values()}
        self.gradients = {name: s.level for name, s in system.gradients.items()}

    def run(self) -> System:
        typed = self._pass()
        while (heads := {n: self._has_head(typed, n) for n in typed.levels}) != self.heads:
            self.heads = heads
            typed = self._pass()
        typed = replace(
            typed,
            modules={p: self.modules.get(p, m) for p, m in self.system.modules.items()},
            levels={n: self._level(n, level) for n, level in typed.levels.items()},
            constraints=tuple(dict.fromkeys(self.shapes.assumed)),
        )
        self._whole_sizes(typed)
        self._declared(typed)
        valued(typed, self.report)
        for name, e in typed.output.items():
            if not e.type.clock.batched:
                self.report.add(
                    "NLC404",
                    f"output `{name}` is the same for every token",
                    e.span or typed.span,
                    "nothing in it changes"
                    if e.type.clock == NEVER
                    else f"it is computed {e.type.clock}",
                    helps=["an output reads an input or a level"],
                )
        return typed

    def _level(self, name: str, level: Level) -> Level:
        states = tuple(replace(s, dims=self.shapes.canonical(s.dims)) for s in level.states)
        memory = replace(level.memory, states=states)
        inner = tuple(self._level(name, step) for step in level.inner)
        return replace(level, head=self.heads[name], memory=memory, inner=inner)

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
        if node.op in ("query", "answer"):
            rows = id(old if node.op == "query" else old.args[0]) in self.shapes.stacked
            inner = node.args[0]
            return make("T", inner) if rows and len(as_matrix(inner.type.dims)) == 2 else inner
        if id(old) in self.shapes.stacked and elementwise(node.op):
            beside = lambda a: len(as_matrix(a.type.dims)) == 1  # noqa: E731
            node = node.with_args(
                tuple(make("per_value", a) if beside(a) else a for a in node.args)
            )
        if node.op in WEIGHTED and node.attr in self.system.modules:
            return self._weighted(old, node)
        dims = self.shapes.final(old)
        if node.op == "part":
            return _part(node, dims)
        if node.op == "concat":
            node = _channels(node)
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
            clock = STEP if system.trains and not base.static else NEVER
            kind = (
                "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
            )
            return Type((), False, clock, Range.point(value) if value is not None else ANY, kind)
        if node.op == "flow":
            return replace(self.flows[node.attr], dims=dims)
        if node.op == "input":
            item = system.inputs[node.attr]
            kind = "float" if item.rows is None else "int"
            return Type(dims, item.head, BASES[system.context], dtype=kind)
        if node.op == "state":
            level = system.levels[self.owner[node.attr[0]]]
            return Type(dims, self.heads[level.name], level.read_at(node.attr[1]))
        if node.op == "gradient":
            level = system.levels[self.gradients[node.attr]]
            return Type(dims, self.heads[level.name], level.clock)
        if node.op in ("variable", "grad"):
            level = system.levels[self.owner[node.attr]]
            return Type(dims, self.heads[level.name], level.clock)
        if node.op == "objective":
            return Type((), self.heads[node.attr], system.levels[node.attr].clock)
        if node.op == "initial":
            level = system.levels[node.attr]
            return Type(dims, self.heads[level.name], level.clock)
        if node.op == "size":
            return Type((), False, NEVER, self._size(node.attr), "int")
        if node.op == "weight":
            weight = system.weights.get(node.attr)
            return Type(dims, weight.head if weight else False, STEP)
        if node.op == "g":
            return Type(dims, False, STEP)
        if node.op == "index":
            if node.attr[0] == "head":
                return Type((), True, NEVER, Range(0.0, self._last_head()), "int")
            ticks = STEP if system.trains else TOKEN
            if node.attr[1] is not None:  # a level counts its own
                ticks = system.levels[node.attr[1]].clock
            low = 1.0 if node.attr[0] == "t" else 0.0
            return Type((), False, ticks, Range(low, float("inf")), "int")
        return Type(dims)  # uniform, normal, a bundle

    def _size(self, dim: Dim) -> Range:
        try:
            return Range.point(float(dim.evaluate(self.system.sizes)))
        except (KeyError, ArithmeticError, TypeError):
            return Range(1.0, float("inf"))

    def _last_head(self) -> float:
        """The largest index of a head at the default hypers."""
        if self.system.heads is None:
            return float("inf")
        try:
            return float(self.system.heads.evaluate(self.system.sizes)) - 1
        except (KeyError, TypeError, ArithmeticError):
            return float("inf")

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
            "embedding": ((module.rows or ONE, one),),
        }
        weights = tuple(
            w.with_type(Type(shape, head, STEP)) for w, shape in zip(node.args[1:], shapes[node.op])
        )
        return with_dims(node.with_args((node.args[0], *weights)), dims)

    def _declared(self, system: System) -> None:
        """A declared clock ticks for a whole sequence, and not in every token or none."""
        for name, clock in system.declared.items():
            flow = system.flows[clock.marks]
            kind = flow.expr.type
            if kind.head:
                self.report.add(
                    "NLC304",
                    f"clock `{name}` ticks for a whole sequence",
                    flow.expr.span or flow.span,
                    "this is a value for each head",
                    helps=["compute it without `split`"],
                )
            elif not kind.clock.batched and not system.trains:
                self.report.add(
                    "NLC404",
                    f"clock `{name}` is the same for every token",
                    flow.expr.span or flow.span,
                    "nothing in it comes from the tokens",
                    helps=["a declared clock reads an input, such as `mask: []`"],
                )

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
                    except (KeyError, ArithmeticError, TypeError):
                        continue
                    if value.denominator != 1 or value < 1:
                        self.report.add(
                            "NLC305",
                            f"`{d}` is not a whole size",
                            node.span or span,
                            f"it is {decimal(value)} at the default hypers",
                            helps=_multiple(node, value),
                        )


def _channels(node: Expr) -> Expr:
    """``concat`` with a number in it: the number as a vector of one channel."""
    if all(a.type.dims for a in node.args):
        return node
    beside = next(a for a in node.args if a.type.dims)
    one = make("ones", make("slice", beside, attr=(Dim.of(0), ONE)))
    plain = {"num", "hyper", "size"}
    return node.with_args(
        tuple(
            a
            if a.type.dims
            else mul(a, one)
            if all(n.op in plain for n in walk(a) if not n.args)
            else make("unsqueeze", a)
            for a in node.args
        )
    )


def _multiple(node: Expr, value: Fraction) -> list[str]:
    """What ``split`` asks of what it is given, where its parts are not whole."""
    if node.op != "split" or value < 1:
        return []
    return [f"`{node.args[0].type.dims[0]}` must be a multiple of `{parts(node)}`"]


def _part(node: Expr, dims: Dims) -> Expr:
    """One of the equal parts of a vector: so many channels of it, or one number."""
    (x,), (i, _) = node.args, node.attr
    size = dims[0] if dims else ONE
    found = make("slice", x, attr=(size * i, size * (i + 1)), span=node.span)
    return found if dims else make("squeeze", found, span=node.span)
