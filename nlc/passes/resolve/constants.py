"""What is fixed at construction: the values of hypers, exact sizes, clocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

from nlc.base.diagnostics import Label, nearest
from nlc.ir.expr import Expr, walk
from nlc.ir.show import show
from nlc.ir.system import Hyper
from nlc.ir.types import ONE, Clock, Dim, Number
from nlc.passes.resolve.scope import Scope, error
from nlc.syntax.tree import ClockTree, Field

LARGEST = 2**40  # a size beyond it is a slip, and sizes must stay printable
_TERMS = 64  # of a size, multiplied out
_MATH: dict[str, Callable] = {
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "abs": abs,
    "tanh": math.tanh,
}
_BINARY: dict[str, Callable] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
}


class _NoValue(Exception):
    """What it reads has no value, for a reason that is reported already."""


# ---------------------------------------------------------------------------------------------------- hypers


def settle(scope: Scope) -> None:
    """Fills ``scope.hypers``, each after those that it reads."""
    tree = scope.tree
    fields: dict[str, Field] = {}
    for item in tree.hyper:
        fields.setdefault(item.name, item)
    if tree.heads is not None and "heads" not in fields:
        fields["heads"] = Field("heads", scope.spans["heads"], tree.heads)
        scope.static.add("heads")
    reads = {
        name: [n for n in dict.fromkeys(_names(item.expr)) if n in fields]
        for name, item in fields.items()
    }
    made: dict[str, Hyper] = {}
    scope.hypers = made
    for name in _ordered(reads, scope, fields):
        item = fields[name]
        default = error(item.expr.span)
        if name not in scope.circular:
            default = _constant(scope, item.expr, name, fields)
        made[name] = Hyper(name, default, _value(scope, default), item.span)
    scope.hypers = {name: made[name] for name in fields}


def _names(e: Expr) -> Iterator[str]:
    """The names that an expression reads; a function that it calls is none."""
    called = {id(n.args[0]) for n in walk(e) if n.op == "call"}
    return (str(n.attr) for n in walk(e) if n.op == "name" and id(n) not in called)


def _ordered(reads: dict[str, list[str]], scope: Scope, fields: dict[str, Field]) -> list[str]:
    """The hypers, each after those that it reads; what is defined by itself is reported."""
    order: list[str] = []
    state: dict[str, int] = {}  # 1: on the way, 2: done
    for first in reads:
        way = [(first, iter(reads[first]))] if first not in state else []
        state.setdefault(first, 1)
        while way:
            name, rest = way[-1]
            for other in rest:
                if other not in state:
                    state[other] = 1
                    way.append((other, iter(reads[other])))
                    break
                if state[other] == 1:
                    on = [n for n, _ in way]
                    _report_circle(scope, on[on.index(other) :], fields)
            else:
                way.pop()
                state[name] = 2
                order.append(name)
    return order


def _report_circle(scope: Scope, circle: list[str], fields: dict[str, Field]) -> None:
    if scope.circular & set(circle):
        return
    scope.circular |= set(circle)
    first = min(circle, key=lambda n: fields[n].span.start)
    start = circle.index(first)
    circle = [*circle[start:], *circle[:start]]
    reads = dict(zip(circle, [*circle[1:], first], strict=True))
    scope.report.add(
        "NLC209",
        f"hyper `{first}` is defined by itself",
        fields[first].expr.span or fields[first].span,
        f"`{first}` reads `{reads[first]}`",
        related=[
            Label(fields[n].expr.span or fields[n].span, f"`{n}` reads `{reads[n]}`")
            for n in circle[1:]
        ],
        notes=[f"circle: {' -> '.join([*circle, first])}"] if len(circle) > 1 else [],
        helps=["give one of them a number" if len(circle) > 1 else "give it a number"],
    )


def _constant(scope: Scope, e: Expr, reader: str, fields: dict[str, Field]) -> Expr:
    if e.op == "name":
        if e.attr in fields:
            scope.read(e.attr, reader)
            return Expr("hyper", (), e.attr, None, e.span)
        _no_hyper(scope, e, list(fields), "a hyper's default")
        return error(e.span)
    if e.op in ("num", "bool", "error"):
        return e
    if e.op in (*_BINARY, "neg", "list"):
        args = tuple(_constant(scope, a, reader, fields) for a in e.args)
        return Expr(e.op, args, e.attr, None, e.span)
    if e.op == "call" and e.args[0].op == "name" and len(e.args) == 2 and not e.attr:
        function = e.args[0]
        if function.attr in _MATH:
            inner = _constant(scope, e.args[1], reader, fields)
            return Expr(function.attr, (inner,), None, None, e.span)
        close = nearest(function.attr, _MATH)
        scope.report.add(
            "NLC206",
            f"`{function.attr}` cannot stand in a hyper's default",
            function.span,
            f"did you mean `{close}`?" if close else "no function of constants",
            notes=[f"functions of constants: {', '.join(_MATH)}"],
        )
        return error(e.span)
    if _is_member(e) and e.args[0].attr in fields:
        scope.read(e.args[0].attr, reader)
        return Expr("hyper", (), f"{e.args[0].attr}[{e.args[1].attr}]", None, e.span)
    scope.report.add(
        "NLC206",
        f"`{show(e)}` is not a constant",
        e.span,
        "a hyper is a number, a switch or a list of numbers",
    )
    return error(e.span)


def _is_member(e: Expr) -> bool:
    """``periods[0]``"""
    return e.op == "index" and len(e.args) == 2 and e.args[0].op == "name" and e.args[1].op == "num"


def _value(scope: Scope, e: Expr) -> Number | bool | list | None:
    """What a constant comes to at the defaults; None if it cannot be said."""
    try:
        return _evaluate(scope, e)
    except _NoValue:
        return None
    except (ArithmeticError, ValueError, TypeError, LookupError) as mistake:
        scope.report.add(
            "NLC206",
            f"`{show(e)}` has no value",
            e.span or scope.tree.system.span,
            _why(mistake),
            notes=_values(scope, {str(n.attr) for n in walk(e) if n.op == "hyper"}),
        )
        return None


def _values(scope: Scope, names: set[str]) -> list[str]:
    """``at the defaults d = 64 and heads = 5``, for the facts of a message."""
    known = {n: scope.hypers[n].value for n in sorted(names) if n in scope.hypers}
    said = [f"{n} = {v:g}" for n, v in known.items() if isinstance(v, int | float)]
    return [f"at the defaults {', '.join(said)}"] if said else []


def _why(mistake: Exception) -> str:
    if isinstance(mistake, ZeroDivisionError):
        return "it divides by zero at the defaults"
    if isinstance(mistake, LookupError):
        return "the list has no such member; the first is [0]"
    if isinstance(mistake, TypeError):
        return "arithmetic is for numbers"
    if isinstance(mistake, OverflowError):
        return "too large a number at the defaults"
    return "undefined at the defaults"


def _evaluate(scope: Scope, e: Expr) -> Number | bool | list:
    if e.op in ("num", "bool"):
        return e.attr  # type: ignore[return-value]
    if e.op == "hyper":
        base, _, index = str(e.attr).partition("[")
        value = scope.hypers[base].value
        if value is None:
            raise _NoValue
        if not index:
            return value
        if not isinstance(value, list):
            raise TypeError("no list")
        return value[int(index[:-1])]
    if e.op == "error":
        raise _NoValue
    args = [_evaluate(scope, a) for a in e.args]
    if e.op == "list":
        if any(isinstance(a, list) for a in args):
            raise TypeError("a list of lists")
        return args
    if any(isinstance(a, bool | list) for a in args):
        raise TypeError("no number")
    if e.op == "neg":
        return -args[0]  # type: ignore[operator]
    if e.op == "pow" and (abs(args[1]) > 64 or abs(args[0]) > LARGEST):  # type: ignore[arg-type]
        raise OverflowError
    value = _MATH[e.op](*args) if e.op in _MATH else _BINARY[e.op](*args)
    if isinstance(value, complex) or value != value:
        raise ValueError("no real number")
    if isinstance(value, int) and abs(value) > LARGEST**2:
        raise OverflowError
    whole = e.op == "div" and all(isinstance(a, int) for a in args)
    return int(value) if whole and value == int(value) else value


# ---------------------------------------------------------------------------------------------------- sizes


def size(scope: Scope, e: Expr, what: str) -> Dim | None:
    """An expression over hypers as an exact size, at least 1 and whole at the defaults."""
    dim = _dim(scope, e, what)
    if dim is None:
        return None
    value = at_defaults(scope, dim)
    if any(Dim.of(symbol) in scope.blamed for symbol in dim.symbols):
        return None
    if value is None or (value.denominator == 1 and 1 <= value <= LARGEST):
        return dim
    said = f"{float(value):g}"
    if e.op == "name":  # every use of the hyper has the same cause
        hyper = scope.hypers[e.attr]
        scope.report.add(
            "NLC305",
            f"hyper `{e.attr}` must be a whole number of at least 1: it is a size",
            hyper.default.span or hyper.span,
            f"this is {said}",
            related=[Label(e.span, f"{what} is made of it here")] if e.span else [],
        )
    elif dim not in scope.blamed:
        scope.report.add(
            "NLC305",
            f"{what} must be a whole number of at least 1",
            e.span or scope.tree.system.span,
            f"this is {said}" + ("" if dim.constant is not None else " at the default hypers"),
            notes=_values(scope, dim.symbols),
        )
    scope.blamed.add(dim)
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
    if _is_member(e) and e.args[0].attr in scope.hypers:
        return _symbol(scope, e, e.args[0].attr, e.args[1].attr, what)
    if e.op in ("add", "sub", "mul", "div"):
        a, b = (_dim(scope, x, what) for x in e.args)
        return None if a is None or b is None else _joined(scope, e, a, b, what)
    if e.op == "name":
        _no_hyper(scope, e, list(scope.hypers), what)
    elif e.op != "error":
        number = e.op == "num" or (e.op == "neg" and e.args[0].op == "num")
        scope.report.add(
            "NLC305" if number else "NLC206",
            f"{what} must be a whole number of at least 1"
            if number
            else f"{what} is not a constant",
            e.span or scope.tree.system.span,
            f"this is {show(e)}" if number else "sizes are whole numbers and hypers with + - * /",
        )
    return None


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


def _no_hyper(scope: Scope, e: Expr, hypers: list[str], what: str) -> None:
    """A name in a constant that is not a hyper's."""
    if e.attr not in scope.spans:
        scope.not_defined(e.attr, e.span, hypers)
        return
    scope.report.add(
        "NLC206",
        f"{what} cannot read `{e.attr}`",
        e.span,
        "constants are made of numbers and hypers",
        related=[Label(scope.spans[e.attr], f"`{e.attr}` is {_an(scope.kind(e.attr))}")],
    )


def _an(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


# ---------------------------------------------------------------------------------------------------- clocks


def clock(scope: Scope, tree: ClockTree | None) -> Clock | None:
    if tree is None:
        return None
    if tree.kind in ("infinite", "never"):
        return Clock(tree.kind)
    count = ONE if tree.count is None else size(scope, tree.count, "a period")
    if count is None or tree.unit not in (
        "token",
        "step",
    ):  # a declared clock: `clocks` is not built yet
        return None
    return Clock(tree.kind, tree.unit, count, at_defaults(scope, count) or Fraction(1))
