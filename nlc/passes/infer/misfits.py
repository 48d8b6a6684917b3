"""What inference says of shapes that do not fit: the places, the sizes, and what to write."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from fractions import Fraction

from nlc.base.diagnostics import Label, Report
from nlc.base.span import Span
from nlc.ir.constants import decimal
from nlc.ir.expr import Expr, walk
from nlc.ir.shapes import HEADS, ShapeError
from nlc.ir.system import Level, Module, State, System
from nlc.ir.types import ONE, Dim, Dims, Like, show_dims
from nlc.passes.infer.heads import headed
from nlc.passes.infer.meant import Meant, quoted
from nlc.passes.infer.solver import Solver, Unknown
from nlc.syntax.math import TEXT

_OPEN = re.compile(r"^\[\?\d+\]")


class ShapeMessages(Meant):
    """The part of ``ShapesOf`` that reports, over what the other part has found."""

    system: System
    report: Report
    solver: Solver
    states: dict[str, State]
    shape: dict[int, object]

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
            causes=[
                *[("shape", place) for place in (of.span, *self._sources(e))],
                *[("gate", self._declared(n)) for n in walk(e) if n.op == "flow"],
            ],
        )

    def _blame(self, node: Expr, mistake: ShapeError) -> None:
        bare = ("query", "answer")
        node = node.with_args(tuple(a.args[0] if a.op in bare else a for a in node.args))
        at = node
        if mistake.operand is not None and mistake.operand < len(node.args):
            at = node.args[mistake.operand]
        states = [str(a.attr[0]) for a in node.args if a.op == "state"]
        if not states and at.op in ("input", "flow"):
            states = [str(at.attr)]
        same = [(node.op, *states[:1], mistake.message)] if states else []
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
            _OPEN.sub("a vector of open width", mistake.message).replace("?", "width "),
            self._instead(node) or mistake.help,
        )
        shapes = [self.solver.view(self.shape.get(id(a), ())) for a in node.args]
        self.report.add(
            "NLC301",
            f"shapes do not match in `{quoted(node)}`",
            next((s for s in (at.span, node.span) if _of_a_spec(s)), self.system.span),
            label,
            related=related,
            notes=notes,
            helps=[h for h in (self._unsplit(node), help) if h],
            causes=[*same, *self._causes(node.args, shapes)],
        )

    def _causes(self, read: Sequence[Expr], shapes: Sequence[object]) -> list[Hashable]:
        """What may be wrong where these do not fit: a memory or a flow that is read, or one of the shapes elsewhere."""
        causes: list[Hashable] = [("shape", place) for a in read for place in self._sources(a)]
        known = [s for s in shapes if not isinstance(s, Unknown)]
        causes.append(("shapes", frozenset(map(show_dims, known))))
        last = [s[-1] for s in known if s and not isinstance(s[-1], Like)]
        if len(last) == 2 and all(len(d.terms) == 1 for d in last):
            causes += [("ratio", a / b) for a, b in (last, reversed(last))]
        return causes

    def _sources(self, e: Expr) -> list[Span | None]:
        """Where the shapes are said of the states and flows that a value is, in the end, made of."""
        places, seen, stack = [], set(), [e]
        while stack:
            n = stack.pop()
            if n.op not in ("state", "flow") or (n.op, n.attr) in seen:
                stack += n.args
                continue
            seen.add((n.op, n.attr))
            places.append(self._declared(n))
            if n.op == "flow" and n.attr in self.system.flows:
                stack.append(self.system.flows[n.attr].expr)
        return places

    def _no_width(self, module: Module) -> None:
        owner = module.path.rpartition(".")[0]
        self.report.add(
            "NLC303",
            f"the width of `{module.function}` cannot be inferred",
            module.span,
            f"nothing that reads `{owner}` fixes it"
            if owner in self.system.flows
            else "its use fixes none",
            notes=self._unlisted(module),
            helps=[f"state it: `{module.function}(x, n)`"],
            causes=["width"],
        )

    def _unlisted(self, module: Module) -> list[str]:
        """What to say of an output that `outputs` leaves out, if that leaves the width open."""
        missing = [
            name
            for name, e in self.system.output.items()
            if self.system.outputs and name not in self.system.outputs
            if any(n.attr == module.path for n in walk(e))
        ]
        return [f"`outputs` says the sizes of all outputs, and names no `{n}`" for n in missing]

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
                sizes.append(str(value.numerator) if value.denominator == 1 else decimal(value))
            except (KeyError, AttributeError, ArithmeticError, TypeError):
                return _OPEN.sub("a vector of open width", text).replace("?", "width ")
        return (
            text
            if not dims or text == f"[{', '.join(sizes)}]"
            else f"{text} = [{', '.join(sizes)}]"
        )

    def _number(self, d: Dim) -> Fraction | None:
        """A size at the default hypers, where it has one."""
        try:
            return d.evaluate(self.system.sizes)
        except (KeyError, AttributeError, ArithmeticError, TypeError):
            return None

    def _mapped(self, e: Expr, given: Dims, wanted: Dims, output: str | None) -> str:
        """How a value gets the shape that is wanted of it: without its head axis, with as many channels."""
        text, vectors = quoted(e), len(given) == 1 == len(wanted)
        declare = f"declare it with {show_dims(given)}"
        if output is not None:
            declare = f"declare it: `{self._outputs(output, given)}`"
        if self.system.heads is None or not headed(e, self.system):
            return f"{declare}, or map it: `linear(…, {wanted[0]})`" if vectors else declare
        merged = f"merge({text})"
        if vectors and self._number(given[0] * self.system.heads) != self._number(wanted[0]):
            merged = f"linear({merged}, {wanted[0]})"
        return f"this is a value for each head; write `{merged}`" if vectors else declare

    def _outputs(self, name: str, given: Dims) -> str:
        """The line that declares an output with the shape that it has, and the others as they are."""
        first = next((i.dims for i in self.system.inputs.values()), ())
        shapes = {n: self.system.outputs.get(n, first) for n in self.system.output} | {name: given}
        said = (f"{n}: {show_dims(dims) if dims else '[]'}" for n, dims in shapes.items())
        return f"outputs: {{{', '.join(said)}}}"

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
            return f"write `split({quoted(e)})`, which gives one per head"
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
        if e.op == "flow" and "(" in quoted(e):  # a cache is read: its key is not written here
            return str(e.attr)
        return str(e.attr[0]) if e.op == "state" else quoted(e)

    def _open(self, shape) -> bool:
        dims = self.solver.view(shape)
        return any(
            not isinstance(d, Like) and any(s.startswith("?") for s in d.symbols) for d in dims
        )


def _of_a_spec(span: Span | None) -> bool:
    """Whether a place is in a spec: what a memory reads with is text of the language's own."""
    return span is not None and span.source.name != TEXT
