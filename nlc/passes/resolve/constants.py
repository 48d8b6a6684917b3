"""The values of hypers, in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from nlc.base.diagnostics import Label, certain, nearest
from nlc.ir.constants import BINARY, FUNCTIONS
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.show import show
from nlc.ir.system import Hyper
from nlc.ir.types import Number
from nlc.passes.resolve.scope import Scope, error
from nlc.syntax.math import LARGEST_WHOLE
from nlc.syntax.tree import Field

LARGEST = 2**40  # a size beyond it is a slip, and sizes must stay printable


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
    scope.order = _ordered(reads, scope, fields)
    for name in scope.order:
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
        no_hyper(scope, e, list(fields), "a hyper's default")
        return error(e.span)
    if e.op in ("num", "bool", "error"):
        return e
    if e.op in (*BINARY, "neg", "list"):
        args = tuple(_constant(scope, a, reader, fields) for a in e.args)
        return Expr(e.op, args, e.attr, None, e.span)
    if e.op == "call" and e.args[0].op == "name" and len(e.args) == 2 and not e.attr:
        function = e.args[0]
        if function.attr in FUNCTIONS:
            inner = _constant(scope, e.args[1], reader, fields)
            return Expr(function.attr, (inner,), None, None, e.span)
        close = nearest(function.attr, FUNCTIONS)
        scope.report.add(
            "NLC206",
            f"`{function.attr}` cannot stand in a hyper's default",
            function.span,
            f"did you mean `{close}`?" if close else "no function of constants",
            notes=[f"functions of constants: {', '.join(FUNCTIONS)}"],
            fix=certain(function.span, str(function.attr), FUNCTIONS),
        )
        return error(e.span)
    if is_member(e) and e.args[0].attr in fields:
        scope.read(e.args[0].attr, reader)
        return Expr("hyper", (), f"{e.args[0].attr}[{e.args[1].attr}]", None, e.span)
    scope.report.add(
        "NLC206",
        f"`{show(e)}` is not a constant",
        e.span,
        "a hyper is a number, a switch or a list of numbers",
    )
    return error(e.span)


def is_member(e: Expr) -> bool:
    """``periods[0]``"""
    return e.op == "index" and len(e.args) == 2 and e.args[0].op == "name" and e.args[1].op == "num"


def _value(scope: Scope, e: Expr) -> Number | bool | list | None:
    """What a constant comes to at the defaults; None if it cannot be said."""
    try:
        return _evaluate(scope, e)
    except _NoValue:
        return None
    except (ArithmeticError, ValueError, TypeError, LookupError) as mistake:
        read = dict.fromkeys(str(n.attr) for n in walk(e) if n.op == "hyper")
        lists = [n for n in read if n in scope.hypers and isinstance(scope.hypers[n].value, list)]
        scope.report.add(
            "NLC206",
            f"`{show(e)}` has no value",
            e.span or scope.tree.system.span,
            f"`{lists[0]}` is a list" if lists else _why(mistake, e),
            causes=[("kind", n) for n in lists],
            notes=values_of(scope, {str(n.attr) for n in walk(e) if n.op == "hyper"}),
        )
        return None


def values_of(scope: Scope, names: set[str]) -> list[str]:
    """``at the defaults d = 64 and heads = 5``, for the facts of a message."""
    known = {n: scope.hypers[n].value for n in sorted(names) if n in scope.hypers}
    said = [f"{n} = {v:g}" for n, v in known.items() if isinstance(v, int | float)]
    return [f"at the defaults {', '.join(said)}"] if said else []


def _why(mistake: Exception, e: Expr) -> str:
    if isinstance(mistake, ZeroDivisionError):
        return "it divides by zero at the defaults"
    if isinstance(mistake, LookupError):
        return "the list has no such member; the first is [0]"
    if isinstance(mistake, TypeError):
        return "a list holds numbers" if e.op == "list" else "arithmetic is for numbers"
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
    value = FUNCTIONS[e.op](*args) if e.op in FUNCTIONS else BINARY[e.op](*args)
    if isinstance(value, complex) or value != value:
        raise ValueError("no real number")
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise OverflowError
    whole = e.op == "div" and all(isinstance(a, int) for a in args)
    return int(value) if whole and value == int(value) else value


def as_whole(scope: Scope, name: str, index: int | None = None) -> bool:
    """Makes `64.0` and `1e3` the whole numbers that sizes are made of, and says whether the hyper comes out whole.

    ``index``: of the member that is asked for, if the hyper is a list.
    """
    wanted: set[str] = set()
    stack = [name]
    while stack:
        if (hyper := stack.pop()) not in wanted:
            wanted.add(hyper)
            reads = walk(scope.hypers[hyper].default)
            stack += [str(n.attr).partition("[")[0] for n in reads if n.op == "hyper"]
    for each in scope.order:
        hyper = scope.hypers[each]
        if each in wanted and hyper.value is not None:
            literal = all(n.op in ("num", "list") for n in walk(hyper.default))
            default = rewrite(hyper.default, _whole) if literal else hyper.default
            with suppress(ArithmeticError):
                value = _evaluate(scope, default)
                scope.hypers[each] = replace(hyper, default=default, value=value)
    value = scope.hypers[name].value
    return not isinstance(value[index] if isinstance(value, list) else value, float)


def _whole(n: Expr) -> Expr | None:
    whole = n.op == "num" and isinstance(n.attr, float) and n.attr.is_integer()
    return Expr("num", (), int(n.attr), None, n.span) if whole else None  # type: ignore[call-overload]


# ---------------------------------------------------------------------------------------------------- messages


def no_hyper(scope: Scope, e: Expr, hypers: list[str], what: str) -> None:
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
