"""Exact sizes and clocks, made of whole numbers and hypers."""

from __future__ import annotations

import math
from fractions import Fraction

from nlc.base.diagnostics import Label, place
from nlc.ir.constants import decimal
from nlc.ir.expr import Expr, walk
from nlc.ir.show import show
from nlc.ir.types import ONE, Clock, Dim, Number
from nlc.passes.resolve.constants import LARGEST, as_whole, is_member, no_hyper, values_of
from nlc.passes.resolve.scope import TRAINED, Scope
from nlc.syntax.tree import ClockTree

_TERMS = 64  # of a size, multiplied out


def size(scope: Scope, e: Expr, what: str, help: str = "") -> Dim | None:
    """An expression over hypers as an exact size, at least 1 and whole at the defaults."""
    dim = _dim(scope, e, what)
    if dim is None:
        return None
    value = at_defaults(scope, dim)
    if any(Dim.of(symbol) in scope.blamed for symbol in dim.symbols):
        return None
    if value is None or (value.denominator == 1 and 1 <= value <= LARGEST):
        return None if _factor(scope, e, dim, what) else dim
    said = decimal(value)
    if e.op == "name":  # every use of the hyper has the same cause
        if e.attr in scope.hypers and (cause := _cause(scope, e.attr)) is not None:
            size(scope, Expr("name", (), cause, None, e.span), what)
            scope.blamed.add(dim)
            return None
        hyper = scope.hypers[e.attr]
        scope.report.add(
            "NLC305",
            f"hyper `{e.attr}` must be a whole number of at least 1: it is a size",
            hyper.default.span or hyper.span,
            f"this is {said}",
            related=[Label(e.span, f"{what} is made of it here")] if e.span else [],
            helps=_divided(hyper.default, value),
        )
    elif dim not in scope.blamed:
        scope.report.add(
            "NLC305",
            f"{what} must be a whole number of at least 1",
            e.span or scope.tree.system.span,
            f"this is {said}" + ("" if dim.constant is not None else " at the default hypers"),
            notes=values_of(scope, dim.symbols),
            helps=[*_divided(e, value), *([help] if help else [])],
        )
    scope.blamed.add(dim)
    return None


def _factor(scope: Scope, e: Expr, dim: Dim, what: str) -> bool:
    """Whether a number that is not whole makes a whole size, which then is only so at the defaults."""
    for symbol in sorted(dim.symbols):
        hyper = scope.hypers.get(symbol)
        if hyper is None or not isinstance(hyper.value, float) or hyper.value.is_integer():
            continue
        scope.report.add(
            "NLC305",
            f"hyper `{symbol}` must be a whole number of at least 1: a size is made of it",
            hyper.default.span or hyper.span,
            f"this is {decimal(Fraction(hyper.value))}",
            related=[Label(e.span, f"{what} is made of it here")] if e.span else [],
            helps=["divide by a whole number, such as `d / 2`"],
        )
        scope.blamed.add(Dim.of(symbol))
        return True
    return False


def _divided(e: Expr, value: Fraction) -> list[str]:
    """What a quotient that is not whole asks of its parts."""
    if e.op != "div" or value < 1:
        return []
    return [f"`{show(e.args[0])}` must be a multiple of `{show(e.args[1])}`"]


def _cause(scope: Scope, name: str) -> str | None:
    """The hyper that a hyper is made of and that is below 1 itself: it is to be blamed."""
    for n in walk(scope.hypers[name].default):
        value = scope.hypers[n.attr].value if n.op == "hyper" and n.attr in scope.hypers else None
        if isinstance(value, int | float) and value < 1:
            return str(n.attr)
    return None


def at_defaults(scope: Scope, dim: Dim) -> Fraction | None:
    """A size at the default hypers."""
    values: dict[str, Number] = {}
    for symbol in dim.symbols:
        base, _, index = symbol.partition("[")
        value = scope.hypers[base].value if base in scope.hypers else None
        if index and isinstance(value, list):
            value = value[int(index[:-1])]
        if not isinstance(value, int | float) or abs(value) == math.inf:
            return None
        values[symbol] = value
    try:
        return dim.evaluate(values)
    except ZeroDivisionError:
        return None


def _dim(scope: Scope, e: Expr, what: str) -> Dim | None:
    if e.op == "num" and isinstance(e.attr, int):
        return Dim.of(e.attr)
    if e.op == "name" and e.attr in scope.hypers:
        return _symbol(scope, e, e.attr, None, what)
    if is_member(e) and e.args[0].attr in scope.hypers:
        return _symbol(scope, e, e.args[0].attr, e.args[1].attr, what)
    if scope.gradients and (side := _side(e)) is not None:
        return side
    if e.op in ("add", "sub", "mul", "div"):
        a, b = (_dim(scope, x, what) for x in e.args)
        return None if a is None or b is None else _joined(scope, e, a, b, what)
    if is_member(e) and e.args[0].attr not in scope.spans:
        no_hyper(scope, e.args[0], list(scope.hypers), what)
    elif e.op == "name":
        no_hyper(scope, e, list(scope.hypers), what)
    elif e.op != "error":
        number = e.op == "num" or (e.op == "neg" and e.args[0].op == "num")
        scope.report.add(
            "NLC305" if number else "NLC206",
            f"{what} must be a whole number of at least 1"
            if number
            else f"{what} is not a constant",
            e.span or scope.tree.system.span,
            f"this is {show(e)}" if number else "sizes are whole numbers and hypers with + - * /",
            causes=[place(e.args[0].span)] if e.op == "call" and e.args[0].span else [],
        )
    return None


def _side(e: Expr) -> Dim | None:
    """``nrows(W)`` and ``ncols(W)``: the sides of the trained matrix."""
    sides = {"nrows": "rows", "ncols": "cols"}
    if e.op != "call" or len(e.args) != 2 or e.attr or any(a.op != "name" for a in e.args):
        return None
    function, target = (str(a.attr) for a in e.args)
    known = function in sides and target == TRAINED
    return Dim.of(f"{sides[function]}({TRAINED})") if known else None


def _joined(scope: Scope, e: Expr, a: Dim, b: Dim, what: str) -> Dim | None:
    span = e.span or scope.tree.system.span
    if len(a.terms) * len(b.terms) > _TERMS:
        scope.report.add("NLC007", f"{what} has more than {_TERMS} terms", span, "multiplied out")
        return None
    if e.op == "div" and len(b.terms) != 1:
        message = f"{what} divides by zero" if not b.terms else f"{what} divides by a sum"
        helps = ["name the sum as a hyper of its own"] if b.terms else []
        label = "no size" if not b.terms else "exact division is by one term"
        scope.report.add("NLC206", message, e.args[1].span or span, label, helps=helps)
        return None
    return {"add": a.__add__, "sub": a.__sub__, "mul": a.__mul__, "div": a.__truediv__}[e.op](b)


def _symbol(scope: Scope, e: Expr, name: str, index: object, what: str) -> Dim | None:
    """A hyper, or a member of a list-valued one, as a size."""
    scope.read(name, "")
    scope.static.add(name)
    hyper = scope.hypers[name]
    value = hyper.value
    if index is not None and isinstance(value, list):
        value = value[index] if isinstance(index, int) and index < len(value) else ()
        if value == ():
            no_member(scope, e, name)
            return None
    elif index is not None and value is not None:
        no_member(scope, e, name)
        return None
    if isinstance(value, bool | list) or (isinstance(value, float) and abs(value) == math.inf):
        kind = "a list" if isinstance(value, list) else "no finite number"
        scope.report.add(
            "NLC206",
            f"{what} is one whole number",
            e.span or scope.tree.system.span,
            f"`{name}` is {'a switch' if isinstance(value, bool) else kind}",
            related=[Label(hyper.span, f"`{name}` is defined here")],
            causes=[("kind", name)],
        )
        return None
    if isinstance(value, float) and value.is_integer() and not as_whole(scope, name, index):
        scope.report.add(
            "NLC305",
            f"hyper `{name}` must be a whole number of at least 1: it is a size",
            hyper.default.span or hyper.span,
            f"this is {value!r}, computed as a decimal number",
            helps=["compute sizes from whole numbers with + - * /, such as `d / 2`"],
        )
        return None
    return Dim.of(name if index is None else f"{name}[{index}]")


def no_member(scope: Scope, e: Expr, name: str) -> None:
    """``periods[7]`` of a hyper that has no such member."""
    value = scope.hypers[name].value
    known = isinstance(value, list)
    scope.report.add(
        "NLC205",
        f"`{show(e)}` is not a member of hyper `{name}`",
        e.span or scope.tree.system.span,
        f"it has {len(value)}, the first is `{name}[0]`" if known else f"`{name}` is no list",
        related=[Label(scope.hypers[name].span, f"`{name}` is defined here")],
    )


# ---------------------------------------------------------------------------------------------------- clocks


def clock(scope: Scope, tree: ClockTree | None) -> Clock | None:
    if tree is None:
        return None
    if tree.kind in ("infinite", "never"):
        return Clock(tree.kind)
    if tree.unit not in ("token", "step"):  # a declared clock, which has no counts
        base = "step" if scope.gradients else "token"
        known = tree.count is None and tree.unit in scope.clocks
        return Clock("every", base, name=tree.unit) if known else None
    count = ONE if tree.count is None else size(scope, tree.count, "a period")
    if count is None:
        return None
    default = at_defaults(scope, count)
    if default is None and scope.report.has_errors:
        return None  # a mistake in the hyper
    return Clock(tree.kind, tree.unit, count, default or Fraction(1))
