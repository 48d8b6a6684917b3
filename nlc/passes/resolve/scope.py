"""The names of a spec: who declares what, what the constants are worth, and which names were ever read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

from nlc.base.diagnostics import Fix, Label, Report, nearest
from nlc.base.span import Span
from nlc.ir.expr import Expr
from nlc.ir.show import show
from nlc.ir.system import Hyper
from nlc.ir.types import ONE, Clock, Dim, Number
from nlc.syntax.tree import ClockTree, LetTree, LevelTree, SpecTree, WeightTree

RESERVED = ("t", "pos", "head", "g", "substep", "age")
_MATH = {"exp": math.exp, "log": math.log, "sqrt": math.sqrt, "abs": abs, "tanh": math.tanh}
_BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
}
LARGEST = 2**40  # a size beyond it is a slip, and sizes must stay printable


def error(span: Span | None) -> Expr:
    """What stands where a mistake was reported; later stages pass over it."""
    return Expr("error", (), None, None, span)


@dataclass
class Scope:
    """The tables that expressions are resolved against."""

    tree: SpecTree
    report: Report
    hypers: dict[str, Hyper] = field(default_factory=dict)
    lets: dict[str, LetTree] = field(default_factory=dict)
    levels: dict[str, LevelTree] = field(default_factory=dict)
    weights: dict[str, WeightTree] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    static: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        tree = self.tree
        for item in tree.hyper:
            self._declare(item.name, item.span)
        if tree.heads is not None:
            self._declare("heads", tree.keys.get("heads", tree.system.span))
        for item in (*tree.inputs, *tree.weights, *tree.let, *tree.levels):
            if self._declare(item.name, item.span):
                if isinstance(item, LetTree):
                    self.lets[item.name] = item
                elif isinstance(item, LevelTree):
                    self.levels[item.name] = item
                elif isinstance(item, WeightTree):
                    self.weights[item.name] = item
        self.inputs = {item.name for item in tree.inputs}
        self._hypers()

    @property
    def gradients(self) -> bool:
        return self.tree.context.text != "tokens"

    def _declare(self, name: str, span: Span) -> bool:
        if name in self.spans:
            self.report.add(
                "NLC203",
                f"`{name}` is defined twice",
                span,
                "defined again here",
                related=[Label(self.spans[name], f"`{name}` is defined here")],
                helps=["hypers, inputs, weights, lets and levels share one space of names"],
            )
            return False
        self.spans[name] = span
        return True

    # -------------------------------------------------------------------------------------------- constants

    def _hypers(self) -> None:
        fields = {f.name: f for f in self.tree.hyper}
        pending: list[str] = []

        def settle(name: str) -> Hyper | None:
            if name in self.hypers:
                return self.hypers[name]
            if name in pending:
                cycle = " -> ".join([*pending[pending.index(name) :], name])
                self.report.add(
                    "NLC403", f"hyper `{name}` is defined by itself", fields[name].span, cycle
                )
                return None
            pending.append(name)
            item = fields[name]
            default = self._constant(item.expr, settle, fields)
            value = self._value(default)
            self.hypers[name] = Hyper(name, default, value, item.span)
            pending.pop()
            return self.hypers[name]

        if self.tree.heads is not None and "heads" not in fields:
            from nlc.syntax.tree import Field

            span = self.spans["heads"]
            fields["heads"] = Field("heads", span, self.tree.heads)
            self.static.add("heads")
        for name in fields:
            settle(name)

    def _constant(self, e: Expr, settle, fields) -> Expr:
        if e.op == "name":
            if e.attr in fields:
                settle(e.attr)
                self.used.add(e.attr)
                return Expr("hyper", (), e.attr, None, e.span)
            self.not_defined(
                e.attr, e.span, list(fields), "a hyper's default reads numbers and hypers"
            )
            return error(e.span)
        if (
            e.op == "call"
            and e.args[0].op == "name"
            and e.args[0].attr in _MATH
            and len(e.args) == 2
        ):
            return Expr(
                e.args[0].attr, (self._constant(e.args[1], settle, fields),), None, None, e.span
            )
        if e.op in ("num", "bool"):
            return e
        if e.op in (*_BINARY, "neg", "list"):
            return Expr(
                e.op, tuple(self._constant(a, settle, fields) for a in e.args), e.attr, None, e.span
            )
        if e.op == "index" and e.args[0].op == "name" and e.args[1].op == "num":
            name = f"{e.args[0].attr}[{e.args[1].attr}]"
            self.used.add(e.args[0].attr)
            return Expr("hyper", (), name, None, e.span)
        self.report.add(
            "NLC206",
            f"`{show(e)}` is not a constant",
            e.span,
            "a hyper is a number, a switch or a list of numbers",
        )
        return error(e.span)

    def _value(self, e: Expr):
        """What a constant comes to at the defaults; None if it cannot be said."""
        try:
            return self._evaluate(e)
        except (ArithmeticError, ValueError, TypeError, KeyError):
            if all(n.op != "error" for n in (e, *e.args)):
                self.report.add(
                    "NLC206", f"`{show(e)}` has no value", e.span, "undefined at the defaults"
                )
            return None

    def _evaluate(self, e: Expr):
        if e.op in ("num", "bool"):
            return e.attr
        if e.op == "hyper":
            base, _, index = str(e.attr).partition("[")
            value = self.hypers[base].value
            return value[int(index[:-1])] if index else value
        if e.op == "error":
            raise KeyError(e)
        args = [self._evaluate(a) for a in e.args]
        if e.op == "list":
            return args
        if e.op == "neg":
            return -args[0]
        if e.op == "pow" and (abs(args[1]) > 64 or abs(args[0]) > LARGEST):
            raise ArithmeticError("out of range")
        value = _MATH[e.op](*args) if e.op in _MATH else _BINARY[e.op](*args)
        return (
            int(value)
            if e.op == "div" and value == int(value) and isinstance(args[0], int)
            else value
        )

    def default(self, dim: Dim) -> Fraction | None:
        """A size at the default hypers."""
        values = {}
        for symbol in dim.symbols:
            base, _, index = symbol.partition("[")
            hyper = self.hypers.get(base)
            value = hyper.value if hyper else None
            if index and isinstance(value, list):
                value = value[int(index[:-1])]
            if not isinstance(value, int | float) or isinstance(value, bool):
                return None
            values[symbol] = value
        try:
            return dim.evaluate(values)
        except ZeroDivisionError:
            return None

    def size(self, e: Expr, what: str) -> Dim | None:
        """An expression over hypers as an exact size, at least 1 and whole at the defaults."""
        dim = self._dim(e, what)
        if dim is None:
            return None
        value = self.default(dim)
        if value is not None and (value.denominator != 1 or not 1 <= value <= LARGEST):
            said = f"{dim} = {float(value):g}" if dim.constant is None else f"{float(value):g}"
            self.report.add(
                "NLC305",
                f"{what} must be a whole number of at least 1",
                e.span,
                f"this is {said} at the default hypers",
            )
            return None
        return dim

    def _dim(self, e: Expr, what: str) -> Dim | None:
        if e.op == "num" and isinstance(e.attr, int):
            return Dim.of(e.attr)
        if e.op == "name" and (e.attr in self.hypers):
            self.used.add(e.attr)
            self.static.add(e.attr)
            return Dim.of(e.attr)
        if (
            e.op == "index"
            and e.args[0].op == "name"
            and e.args[0].attr in self.hypers
            and e.args[1].op == "num"
        ):
            self.used.add(e.args[0].attr)
            self.static.add(e.args[0].attr)
            return Dim.of(f"{e.args[0].attr}[{e.args[1].attr}]")
        if e.op in ("add", "sub", "mul", "div"):
            a, b = (self._dim(x, what) for x in e.args)
            if a is None or b is None:
                return None
            try:
                return {"add": a.__add__, "sub": a.__sub__, "mul": a.__mul__, "div": a.__truediv__}[
                    e.op
                ](b)
            except (ZeroDivisionError, ValueError):
                self.report.add(
                    "NLC206", f"{what} divides by more than one term", e.span, "not exact"
                )
                return None
        if e.op == "name":
            self.not_defined(
                e.attr, e.span, list(self.hypers), f"{what} is made of numbers and hypers"
            )
        elif e.op != "error":
            self.report.add(
                "NLC206",
                f"{what} is not a constant",
                e.span,
                "sizes are made of whole numbers and hypers",
            )
        return None

    def clock(self, tree: ClockTree | None) -> Clock | None:
        if tree is None:
            return None
        if tree.kind in ("infinite", "never"):
            return Clock(tree.kind)
        count = ONE if tree.count is None else self.size(tree.count, "a period")
        if count is None:
            return None
        expected = "step" if self.gradients else "token"
        if tree.unit not in ("token", "step"):
            names = [f.name for f in self.tree.clocks]
            if tree.unit in names:
                self.later("a declared clock", tree.span)
            else:
                close = nearest(tree.unit or "", [*names, "token", "step"])
                self.report.add(
                    "NLC014",
                    f"`{tree.unit}` is not a clock",
                    tree.span,
                    f"did you mean `{close}`?" if close else "a clock ticks in tokens or steps",
                )
            return None
        if self.gradients and tree.unit == "token":
            self.report.add(
                "NLC404",
                "a gradient system has no tokens",
                tree.span,
                f"its clocks count in `{expected}`s",
            )
            return None
        return Clock(tree.kind, tree.unit, count, self.default(count) or Fraction(1))

    # -------------------------------------------------------------------------------------------- messages

    def not_defined(self, name: str, span: Span | None, visible: list[str], note: str = "") -> None:
        close = nearest(name, visible)
        shown = ", ".join(visible[:16]) + (", …" if len(visible) > 16 else "")
        related = (
            [Label(self.spans[close], f"`{close}` is defined here")] if close in self.spans else []
        )
        self.report.add(
            "NLC201",
            f"`{name}` is not defined",
            span,
            f"did you mean `{close}`?" if close else "nothing of this name is visible here",
            related=related,
            notes=[note] if note else [f"visible here: {shown}"] if visible else [],
            fix=Fix(span, close) if close and span else None,
        )

    def later(self, what: str, span: Span, help: str = "") -> None:
        """The language has it, this version of the compiler does not: said plainly, never half done."""
        self.report.add(
            "NLC701",
            f"{what} is not in this version of nlc",
            span,
            "part of the language, not built yet",
            helps=[help] if help else [],
        )

    def number(self, name: str) -> Number | None:
        value = self.hypers[name].value if name in self.hypers else None
        return value if isinstance(value, int | float) else None
