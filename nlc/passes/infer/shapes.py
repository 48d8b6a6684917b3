"""The first half of inference: the shape of every expression, with unknowns that uses decide."""

from __future__ import annotations

from fractions import Fraction

from nlc.base.diagnostics import Label, Report
from nlc.base.span import Span
from nlc.ir.expr import Expr, part, walk
from nlc.ir.ops import OPS, elementwise, rowwise
from nlc.ir.shapes import HEADS, ShapeError, as_matrix
from nlc.ir.show import show
from nlc.ir.system import Level, Module, State, System
from nlc.ir.types import ONE, Dim, Dims, Like, show_dims
from nlc.lib.functions import FUNCTIONS
from nlc.passes.infer.heads import headed
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


class ShapesOf:
    """Walks every expression once, in an order in which flows come before their readers."""

    def __init__(self, system: System, report: Report):
        self.system, self.report = system, report
        derived = {n: h.size for n, h in system.hypers.items() if h.derived and h.size is not None}
        self.solver = Solver(derived=derived)
        self.shape: dict[int, object] = {}
        self.flow: dict[str, object] = {}
        self.module: dict[str, tuple[Dim | None, object]] = {}
        self.failed: set[int] = set()
        self.blamed: set[tuple[str, ...]] = set()
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
                declared = first.dims if self._of(e) is not None and not first.head else None
            shape = self._of(e)
            if declared is not None and shape is not None:
                self._expect(e, shape, declared, f"output `{name}`")
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
            return (Like("W"),)
        if node.op == "weight":
            weight = system.weights.get(node.attr)
            return weight.dims if weight else ()  # a module's own are settled with the module
        if node.op == "grad":
            return self.shape[id(node.args[1])]
        if node.op in ("uniform", "normal"):
            return ()
        args = [self.shape[id(a)] for a in node.args]
        if node.op == "part":  # attr: which of how many equal parts
            return self.solver.split(args[0], Dim.of(node.attr[1]))
        if node.op in ("query", "answer"):
            return self._leading(node, self.solver.view(args[0]))
        if any(id(a) in self.stacked for a in node.args):
            self.stacked.add(id(node))
            if elementwise(node.op):  # a vector stands beside every column
                views = [self.solver.view(a) for a in args]
                args = [(*v, ONE) if self._beside(v) else a for v, a in zip(views, args)]
            if rowwise(node.op):  # whose rows are no vectors of the reader
                self.solver.vector(args[0], 0)
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

    def _level(self, level: Level) -> None:
        for step in level.inner:
            self._level(step)
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

    def _objective(self, level, shape) -> None:
        try:
            self.solver.scalar(shape, 0)
        except ShapeError:
            e, dims = level.objective, self.solver.view(shape)
            name = level.name
            help = f"`0.5 * sqnorm({name}(key) - value)` (delta rule) or `-dot({name}(key), value)` (Hebbian)"
            if self.system.context == "gradients":
                help = f"`dot({name}, e)` for a step of `-lr * e`"
            self.report.add(
                "NLC302",
                f"the objective of level `{level.name}` must be a scalar",
                e.span,
                f"this has shape {self.sized(dims)}",
                helps=[f"reduce it: {help}"],
            )
            return
        read = (n for n in walk(level.objective) if n.op in ("objective", "state"))
        if level.memory.kind != "cache" and not any(
            n.op == "objective" or n.attr[1] == "var" for n in read
        ):
            never_learns(level, self.report, self.system.context == "gradients")

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

    def _misfit(self, level: Level, key: str, e: Expr, dims: Dims, of: State) -> None:
        helps = ["a bare gate is a scalar"]
        apart = [(d, s) for d, s in zip(dims, of.dims) if d != s]
        if len(dims) == len(of.dims) and all(
            self._number(d) == self._number(s) is not None for d, s in apart
        ):
            said = " and ".join(f"`{d}` and `{s}`" for d, s in apart)
            helps = [f"{said} are equal at these hypers only: write one of them in both places"]
        elif (split := self._for_each_head(e, dims, (ONE,))) is not None:
            helps = [split]
        elif len(of.dims) == 2:
            rows, columns = (self.sized((d,)) for d in of.dims)
            helps += [f"`per_key(…)` takes {columns}, `per_value(…)` takes {rows}"]
            if (split := self._for_each_head(e, dims, of.dims)) is not None:
                helps += [split]
        self.report.add(
            "NLC306",
            f"`{key}` does not fit the state of level `{level.name}`",
            e.span or level.span,
            f"this is {self.sized(dims)}",
            related=[Label(of.span, f"`{of.name}` is {self.sized(of.dims)}")],
            helps=helps,
        )

    def _expect(
        self, e: Expr, shape, wanted: Dims, what: str, declared: Span | None = None
    ) -> None:
        """``what`` is declared with a shape, at ``declared`` if that is a place of its own."""
        before = len(self.solver.assumed)
        try:
            self.solver.same(shape, wanted)
        except ShapeError:
            said, helps = f"{what} is {self.sized(wanted)}", []
            if e.op == "state" and (
                read := self.system.levels[self.states[e.attr[0]].level].memory.read
            ):
                helps = [f"read it with a query: `{e.span.quote()}(q)`"] if read and e.span else []
            notes = []
            if declared is None and not helps and not self._open(shape):
                helps = [self._mapped(e, self.solver.view(shape), wanted)]
            if declared is None and not self.system.outputs:
                notes = ["without `outputs`, the output has the shape of the first input"]
            self.report.add(
                "NLC301",
                f"`{_quoted(e)}` does not have the shape of {what}",
                e.span or self.system.span,
                f"this is {self.sized(self.solver.view(shape))}"
                + ("" if declared else f", but {said}"),
                related=[Label(declared, said)] if declared else [],
                notes=notes,
                helps=helps,
            )
        self._assume(before, e)

    def _assume(self, before: int, e: Expr) -> None:
        """Sizes that are equal at these hypers alone are so from here on, because of ``e``."""
        for a, b in self.solver.assumed[before:]:
            self.assumed.append((a, b, e.span))

    # -------------------------------------------------------------------------------------------- messages

    def _mapped(self, e: Expr, given: Dims, wanted: Dims) -> str:
        """How a value gets the shape that is wanted of it: without its head axis, with as many channels."""
        text, vectors = _quoted(e), len(given) == 1 == len(wanted)
        declare = f"declare it with {show_dims(given)}"
        if self.system.heads is None or not headed(e, self.system):
            return f"{declare}, or map it: `linear(…, {wanted[0]})`" if vectors else declare
        merged = f"merge({text})"
        if vectors and self._number(given[0] * self.system.heads) != self._number(wanted[0]):
            merged = f"linear({merged}, {wanted[0]})"
        return f"this is a value for each head; write `{merged}`" if vectors else declare

    def _number(self, d: Dim) -> Fraction | None:
        """A size at the default hypers, where it has one."""
        try:
            return d.evaluate(self.system.sizes)
        except (KeyError, AttributeError, ZeroDivisionError, TypeError):
            return None

    def sized(self, dims) -> str:
        """``[e, d] = [32, 64]``: names and sizes."""
        if isinstance(dims, Unknown):
            return "a shape not known yet"
        if not dims:
            return "a scalar"
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

    def _blame(self, node: Expr, mistake: ShapeError) -> None:
        bare = ("query", "answer")
        node = node.with_args(tuple(a.args[0] if a.op in bare else a for a in node.args))
        at = node
        if mistake.operand is not None and mistake.operand < len(node.args):
            at = node.args[mistake.operand]
        states = [str(a.attr[0]) for a in node.args if a.op == "state"]
        if not states and at.op in ("input", "flow"):
            states = [str(at.attr)]
        same = (node.op, *states[:1], mistake.message)
        if states and same in self.blamed:
            return  # one declaration, wrong for all its uses
        self.blamed.add(same)
        if any(self._broken(self.shape.get(id(a))) for a in node.args):
            return
        related, notes = [], []
        for a in node.args:
            shape = self.shape.get(id(a))
            if shape is None or a.span is None or a.op == "num":
                continue
            fact = f"`{self._called(a)}` is {self.sized(self.solver.view(shape))}"
            place = self._declared(a)
            if place is None and a is not at:
                notes.append(fact)
            elif place is None:
                continue  # the label says it
            elif all(label.text != fact for label in related):
                related.append(Label(place, fact))
        label, help = self._query(node) or (
            mistake.message,
            mistake.help or self._turned(node) or self._sides(node),
        )
        self.report.add(
            "NLC301",
            f"shapes do not match in `{_quoted(node)}`",
            at.span or node.span or self.system.span,
            label,
            related=related,
            notes=notes,
            helps=[h for h in (self._unsplit(node), help) if h],
        )

    def _unsplit(self, node: Expr) -> str | None:
        """What to say of an operand that is as wide as all heads together, beside one that is a head wide."""
        views = [(a, self.solver.view(self.shape.get(id(a), ()))) for a in node.args]
        known = [(a, dims) for a, dims in views if not isinstance(dims, Unknown)]
        for a, dims in known:
            beside = tuple(d for b, other in known if b is not a for d in other)
            if (said := self._for_each_head(a, dims, beside)) is not None:
                return said
        return None

    def _for_each_head(self, e: Expr, dims: Dims, wanted: Dims) -> str | None:
        """``split`` for a vector without a head axis whose share of each head has one of the sizes ``wanted``."""
        heads = self.system.heads
        if heads is None or len(dims) != 1 or isinstance(dims[0], Like) or headed(e, self.system):
            return None
        whole = [HEADS * d for d in wanted if not isinstance(d, Like)]
        if any(self.solver.equal(dims[0], d) for d in whole):
            return f"write `split({_quoted(e)})`, which gives one per head"
        size = self._number(dims[0])
        like = next((d for d in whole if size is not None and self._number(d) == size), None)
        return None if like is None else f"`split(…)` of [{like}] gives one per head"

    def _broken(self, shape: object) -> bool:
        """Whether a size is made of a hyper with a mistake, which may be why it does not fit."""
        dims = self.solver.view(shape) if shape is not None else ()
        if isinstance(dims, Unknown):
            return False
        bases = {s.partition("[")[0] for d in dims if not isinstance(d, Like) for s in d.symbols}
        hypers = self.system.hypers
        return any(base in hypers and hypers[base].value is None for base in bases)

    def _turned(self, node: Expr) -> str:
        """``key @ S`` for ``S @ key``: what to write."""
        vector, *matrix = (self.solver.view(self.shape.get(id(a), ())) for a in node.args)
        if node.op != "matmul" or isinstance(vector, Unknown) or isinstance(matrix[0], Unknown):
            return ""
        if len(vector) != 1 or len(matrix[0]) != 2 or matrix[0][1] != vector[0]:
            return ""
        left, right = (_quoted(a) for a in node.args)
        return f"write `{right} @ {left}`: a matrix stands before the vector"

    def _sides(self, node: Expr) -> str:
        """``sum(per_value(R) * A)`` for a ``dot`` of a vector, or a factor of rows or columns, and a matrix."""
        views = [self.solver.view(self.shape.get(id(a), ())) for a in node.args]
        if node.op != "dot" or any(isinstance(v, Unknown) for v in views):
            return ""
        sides = [(a, as_matrix(v)) for a, v in zip(node.args, views)]
        (vector, own), (matrix, whole) = sorted(sides, key=lambda s: (len(s[1]), ONE not in s[1]))
        if len(whole) != 2 or (len(own) == 2 and ONE not in own):
            return ""
        text, rows = _quoted(vector), own in (whole[:1], (whole[0], ONE))
        if len(own) == 1:
            if own[0] not in whole:
                return ""
            text = f"per_value({text})" if rows else f"per_key({text})"
        side = "row" if rows else "column"
        return (
            f"write `sum({text} * ({_quoted(matrix)}))`, whose gradient is the sum of each {side}"
        )

    def _query(self, node: Expr) -> tuple[str, str] | None:
        """What to say of a matrix that is read with a query of another size: label and help."""
        matrix, *query = (self.solver.view(self.shape.get(id(a), ())) for a in node.args)
        state = node.args[0] if node.op == "matmul" else None
        if state is None or state.op != "state" or len(matrix) != 2 or len(query[0]) != 1:
            return None
        name = state.attr[0]
        takes, given = self.sized(matrix[1:]), self.sized(query[0])
        label = f"`{name}` takes {takes}, this is {given}"
        if takes.rpartition(" = ")[2] == given.rpartition(" = ")[2] and " = " in takes + given:
            label += ": equal only at these hypers"
        if (
            matrix[0] != query[0][0]
            or self.system.levels[self.states[name].level].memory.kind != "matrix"
        ):
            return label, ""
        return (
            label,
            f"for keys of {self.sized(query[0])} declare `matrix({matrix[1]}, {matrix[0]})`",
        )

    def _declared(self, e: Expr) -> Span | None:
        """Where the shape of a name is said."""
        system = self.system
        if e.op == "flow" and e.attr in system.flows:
            return system.flows[e.attr].span
        if e.op == "state" and e.attr[0] in self.states:
            return self.states[e.attr[0]].span
        if e.op == "input" and e.attr in system.inputs:
            return system.inputs[e.attr].span
        return (
            system.weights[e.attr].span if e.op == "weight" and e.attr in system.weights else None
        )

    def _called(self, e: Expr) -> str:
        return str(e.attr[0]) if e.op == "state" else _quoted(e)

    def _open(self, shape) -> bool:
        dims = self.solver.view(shape)
        return any(
            not isinstance(d, Like) and any(s.startswith("?") for s in d.symbols) for d in dims
        )

    def _no_width(self, module: Module) -> None:
        owner = module.path.rpartition(".")[0]
        self.report.add(
            "NLC303",
            f"the width of `{module.function}` cannot be inferred",
            module.span,
            f"nothing that reads `{owner}` fixes it"
            if owner in self.system.flows
            else "its use fixes none",
            helps=[f"state it: `{module.function}(x, n)`"],
        )


def _quoted(e: Expr) -> str:
    return (e.span.quote() if e.span is not None else "") or show(e)
