"""The first half of inference: the shape of every expression, with unknowns that uses decide."""

from __future__ import annotations

from nlc.base.diagnostics import Label, Report
from nlc.base.span import Span
from nlc.ir.expr import Expr, part, walk
from nlc.ir.ops import OPS, elementwise, rowwise
from nlc.ir.shapes import ShapeError, as_matrix, parts
from nlc.ir.system import Level, State, System
from nlc.ir.types import ONE, Dim, Dims, Like
from nlc.lib.functions import FUNCTIONS, WEIGHTED
from nlc.passes.infer.misfits import ShapeMessages, quoted
from nlc.passes.infer.solver import Solver, Unknown


def never_learns(level: Level, report: Report, gradients: bool = False) -> None:
    """The objective does not depend on the state."""
    name = level.name
    example = f"`dot({name}, g)`" if gradients else f"`0.5 * sqnorm({name}(key) - value)`"
    report.add(
        "NLC502",
        f"level `{level.name}` can never learn: its objective does not depend on `{level.name}`",
        level.objective.span or level.span,
        f"d(objective)/d{level.name} = 0",
        related=[Label(level.keys.get("memory", level.span), "the state this level updates")],
        helps=[
            f"use the state, for example {example}"
            if gradients
            else f"use the state in the prediction, for example {example}"
        ],
    )


class ShapesOf(ShapeMessages):
    """Walks every expression once, in an order in which flows come before their readers."""

    def __init__(self, system: System, report: Report):
        self.system, self.report = system, report
        derived = {n: h.size for n, h in system.hypers.items() if h.derived and h.size is not None}
        self.solver = Solver(derived=derived)
        self.shape: dict[int, object] = {}
        self.flow: dict[str, object] = {}
        self.module: dict[str, tuple[Dim | None, object]] = {}
        self.failed: set[int] = set()
        self._classes: dict[Dim, Dim] | None = None
        self.objectives: list[tuple[Level, object]] = []
        self.gates: list[
            tuple[Level, str, Expr, object, State]
        ] = []  # beside a vector, not known yet
        self.stacked: set[int] = set()  # inside reads with a matrix, whose rows stand as columns
        self.assumed: list[tuple[Dim, Dim, Span]] = []
        self.states, self.gradients = system.states, system.gradients

    def run(self) -> None:
        for name in self.system.flows:
            self._flow(name)
        for level in self.system.levels.values():
            self._level(level)
        for weight in self.system.weights.values():
            if weight.init is not None and (shape := self._of(weight.init)) not in (None, ()):
                self._expect(weight.init, shape, weight.dims, f"weight `{weight.path}` is {{}}")
        e, trained = self.system.eval_at, self.system.trained
        if e is not None and trained is not None and (shape := self._of(e)) is not None:
            self._expect(e, shape, trained.dims, f"the tensor `{trained.name}`", trained.span)
        for name, clock in self.system.declared.items():
            e = self.system.flows[clock.marks].expr
            if (shape := self._of(e)) is not None:
                self._clock(name, e, shape)
        for name, e in self.system.output.items():
            declared = self.system.outputs.get(name)
            if (
                declared is None
                and not self.system.outputs
                and self.system.inputs
                and not self.system.operator
            ):
                first = next(iter(self.system.inputs.values()))
                bare = not first.head and first.rows is None
                declared = first.dims if self._of(e) is not None and bare else None
            shape = self._of(e)
            if declared is not None and shape is not None:
                self._expect(e, shape, declared, f"output `{name}`", output=name)
        self.solver.solve(self._blame)
        for gate in self.gates:
            self._gate(*gate)
        for level, shape in self.objectives:
            self._objective(level, shape)
        if self.report.has_errors:
            return  # an open width may follow from a mistake
        for path, (_, shape) in self.module.items():
            module = self.system.modules[path]
            open_ = isinstance(self.solver.view(shape), Unknown) or self._open(shape)
            if (
                open_ and "width" in FUNCTIONS[module.function].params
            ):  # others are as wide as what they read
                self._no_width(module)

    def final(self, e: Expr) -> Dims:
        return self.canonical(self.solver.view(self.shape[id(e)]))

    def canonical(self, dims: Dims) -> Dims:
        """Sizes that were taken as equal are one size from here on."""
        return tuple(d if isinstance(d, Like) else self._one(self.solver.settle(d)) for d in dims)

    def _one(self, dim: Dim) -> Dim:
        if self._classes is None:
            self._classes = {}
            for a, b, _ in self.assumed:
                first, second = (self._root(self.solver.settle(x)) for x in (a, b))
                if first != second:
                    simple, other = sorted((first, second), key=lambda d: (len(str(d)), str(d)))
                    self._classes[other] = simple
        return self._root(dim)

    def _root(self, dim: Dim) -> Dim:
        while dim in self._classes:
            dim = self._classes[dim]
        return dim

    # -------------------------------------------------------------------------------------------- walking

    def _flow(self, name: str):
        if name not in self.flow:
            self.flow[name] = Unknown()  # a flow may read its own past, through others too
            flow = self.system.flows[name]
            shape = self._of(flow.expr)
            if shape is not None and flow.dims is not None:
                self._expect(flow.expr, shape, flow.dims, f"`{name}`", flow.span)
            if shape is None:
                self.flow[name] = None
            else:
                try:
                    self.solver.same(self.flow[name], shape)
                except ShapeError as mistake:  # it reads its own past in another shape
                    self._blame(self.system.flows[name].expr, mistake)
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
        if node.op == "gradient":
            return self.gradients[node.attr].dims
        if node.op == "variable":
            return self.states[node.attr].dims if node.attr in self.states else None
        if node.op == "initial":
            level = system.levels.get(node.attr)
            return level.states[0].dims if level and level.states else None
        if node.op in ("size", "bundle", "objective"):
            return ()
        if node.op == "g":
            return system.trained.dims if system.trained is not None else (Like("W"),)
        if node.op == "weight":
            weight = system.weights.get(node.attr)
            return weight.dims if weight else ()  # a module's own are settled with the module
        if node.op == "grad":
            return self.shape[id(node.args[1])]
        if node.op in ("uniform", "normal"):
            return ()
        args = [self.shape[id(a)] for a in node.args]
        if node.op == "part":  # attr: which of how many equal parts
            return self.solver.split(args[0], parts(node))
        if node.op in ("query", "answer"):
            return self._leading(node, self.solver.view(args[0]))
        if any(id(a) in self.stacked for a in node.args):
            self.stacked.add(id(node))
            if elementwise(node.op):  # a vector stands beside every column
                views = [self.solver.view(a) for a in args]
                args = [(*v, ONE) if self._beside(v) else a for v, a in zip(views, args)]
            if rowwise(node.op):  # whose rows are no vectors of the reader
                self.solver.vector(args[0], 0)
        if node.attr in system.modules and node.op in WEIGHTED:
            return self._module(node, args)
        return OPS[node.op].shape(self.solver, args, node)

    def _module(self, node: Expr, args: list):
        module, solver = self.system.modules[node.attr], self.solver
        if node.op in ("linear", "embedding"):
            inner = solver.vector(args[0], 0) if node.op == "linear" else None
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

    def _level(self, level: Level) -> None:
        if level.objective is not None and (shape := self._of(level.objective)) is not None:
            self.objectives.append((level, shape))
        parts = [("retain", level.retain), ("toward", level.toward), ("project", level.project)]
        parts += list(level.rule.args.items()) if level.rule else []
        for key, e in parts:
            if e is None or self._of(e) is None or key == "exact" or e.op == "initial":
                continue  # a mistake, a switch, each state's own
            for i, state in enumerate(level.states):
                own = part(e, i)
                if (shape := self._of(own)) is None:
                    continue
                if self.solver.beside_a_vector(shape):
                    self.gates.append((level, key, own, shape, state))
                else:
                    self._gate(level, key, own, shape, state)
        if level.source is not None:
            self._of(level.source)
        if level.reset is not None and level.reset.to is not None:
            self._of(level.reset.to)
            for i, state in enumerate(level.states):
                to = part(level.reset.to, i)
                if (shape := self._of(to)) is not None and self.solver.view(shape) != ():
                    self._expect(to, shape, state.dims, f"state `{state.name}`", state.span)
        for state in level.states:
            e = (level.update or {}).get(state.name)
            if (
                e is not None
                and (shape := self._of(e)) is not None
                and self.solver.view(shape) != ()
            ):
                self._expect(e, shape, state.dims, f"state `{state.name}`", state.span)
            if (
                state.init is not None
                and (shape := self._of(state.init)) is not None
                and self.solver.view(shape) != ()
            ):
                what = f"state `{state.name}`"
                self._expect(state.init, shape, state.dims, what, state.span)
        for step in level.inner:  # after what the level itself says, as it is told in its words
            self._level(step)

    def _objective(self, level, shape) -> None:
        try:
            self.solver.scalar(shape, 0)
        except ShapeError:
            e, dims = level.objective, self.solver.view(shape)
            name = level.name
            help = f"`0.5 * sqnorm({name}(key) - value)` (delta rule) or `-dot({name}(key), value)` (Hebbian)"
            if self.system.trains:
                help = f"`dot({name}, e)` for a step of `-lr * e`"
            self.report.add(
                "NLC302",
                f"the objective of level `{level.name}` must be a scalar",
                e.span,
                f"this has shape {self.sized(dims)}",
                notes=[
                    f"in a slow level `{n.attr[0]}` runs over the ticks of a period, each a scalar"
                    for n in walk(e)
                    if n.op == "total"
                ][:1],
                helps=[f"reduce it: {help}"],
            )
            return
        read = (n for n in walk(level.objective) if n.op in ("objective", "state"))
        if level.memory.kind != "cache" and not any(
            n.op == "objective" or n.attr[1] == "var" for n in read
        ):
            never_learns(level, self.report, self.system.trains)

    def _clock(self, name: str, e: Expr, shape) -> None:
        """A declared clock ticks where one number is positive."""
        try:
            self.solver.scalar(shape, 0)
        except ShapeError:
            self.report.add(
                "NLC301",
                f"clock `{name}` must be a scalar: it ticks where this is positive",
                e.span or self.system.span,
                f"this is {self.sized(self.solver.view(shape))}",
                helps=["for example an input `mask: []`, or `norm(x) > 1`"],
            )

    def _gate(self, level: Level, key: str, e: Expr, shape, of: State) -> None:
        """A scalar, ``per_key``/``per_value`` or memory-shaped (language §3); what is open becomes a scalar."""
        solver, state = self.solver, of.dims
        if not solver.known(shape):
            solver.bind(shape, ())
        dims, before = solver.view(shape), len(solver.assumed)
        try:
            if dims and as_matrix(solver.elementwise([state, dims])) != as_matrix(
                solver.view(state)
            ):
                raise ShapeError("larger than the state")
            if dims and len(dims) == 1 == len(state) and key != "toward" and dims != state:
                raise ShapeError("not the state's shape")
        except ShapeError:
            self._misfit(level, key, e, dims, of)
        self._assume(before, e)

    def _expect(
        self,
        e: Expr,
        shape,
        wanted: Dims,
        what: str,
        declared: Span | None = None,
        output: str | None = None,
    ) -> None:
        """``what`` is declared with a shape, at ``declared`` if that is a place of its own; ``output`` is its name."""
        before = len(self.solver.assumed)
        try:
            self.solver.same(shape, wanted)
        except ShapeError:
            if self._broken(shape) or self._broken(wanted):
                return
            said, helps = f"{what} is {self.sized(wanted)}", []
            if e.op == "state" and (
                read := self.system.levels[self.states[e.attr[0]].level].memory.read
            ):
                helps = [f"read it with a query: `{e.span.quote()}(q)`"] if read and e.span else []
            notes = []
            if declared is None and not helps and not self._open(shape):
                helps = [self._mapped(e, self.solver.view(shape), wanted, output)]
            if declared is None and not self.system.outputs:
                notes = ["without `outputs`, the output has the shape of the first input"]
            self.report.add(
                "NLC301",
                f"`{quoted(e)}` does not have the shape of {what}",
                e.span or self.system.span,
                f"this is {self.sized(self.solver.view(shape))}"
                + ("" if declared else f", but {said}"),
                related=[Label(declared, said)] if declared else [],
                notes=notes,
                helps=helps,
                causes=[
                    *self._causes([e], [self.solver.view(shape), wanted]),
                    *([("shape", declared)] if declared else []),
                ],
            )
        self._assume(before, e)

    def _assume(self, before: int, e: Expr) -> None:
        """Sizes that are equal at these hypers alone are so from here on, because of ``e``."""
        for a, b in self.solver.assumed[before:]:
            self.assumed.append((a, b, e.span))

    def _leading(self, node: Expr, shape):
        """``M(z)`` for a z of several rows reads with each of them: the body works on columns, the answer has rows."""
        rows = not isinstance(shape, Unknown) and len(as_matrix(shape)) == 2
        if node.op == "query" and rows:
            self.stacked.add(id(node))
        if rows and (node.op == "query" or id(node.args[0]) in self.stacked):
            return tuple(reversed(as_matrix(shape)))
        return shape

    @staticmethod
    def _beside(shape) -> bool:
        return not isinstance(shape, Unknown) and len(as_matrix(shape)) == 1
