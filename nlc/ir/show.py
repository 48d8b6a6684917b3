"""Expr -> text: one canonical form, in the grammar that is parsed, with the fewest brackets.

``parse_text(show(e)) == e`` for every expression of the surface. To print another operator in its
own way, add a row to a table below; one without a row is printed ``op(operands, attribute)``.
"""

from __future__ import annotations

from collections.abc import Callable

from nlc.ir.expr import Expr, walk

# How tightly an expression binds, as in Python.
_LOOSE, _COMPARE, _SUM, _PRODUCT, _SIGN, _POWER, _POSTFIX, _ATOM = range(8)

# op -> (symbol, its own binding, what the left operand needs, what the right one needs)
_INFIX: dict[str, tuple[str, int, int, int]] = {
    "eq": ("==", _COMPARE, _SUM, _SUM),
    "ne": ("!=", _COMPARE, _SUM, _SUM),
    "lt": ("<", _COMPARE, _SUM, _SUM),
    "le": ("<=", _COMPARE, _SUM, _SUM),
    "gt": (">", _COMPARE, _SUM, _SUM),
    "ge": (">=", _COMPARE, _SUM, _SUM),
    "add": ("+", _SUM, _SUM, _PRODUCT),
    "sub": ("-", _SUM, _SUM, _PRODUCT),
    "mul": ("*", _PRODUCT, _PRODUCT, _SIGN),
    "div": ("/", _PRODUCT, _PRODUCT, _SIGN),
    "matmul": ("@", _PRODUCT, _PRODUCT, _SIGN),
    "pow": ("**", _POWER, _POSTFIX, _SIGN),
}

_NAMED = (
    "name",
    "hyper",
    "flow",
    "input",
    "weight",
    "let",
    "var",
)  # their attr is what they are called

_Shown = tuple[str, int]  # the text and how tightly it binds


def show(e: Expr) -> str:
    """The canonical text of an expression."""
    done: dict[int, _Shown] = {}
    for node in walk(e):  # operands first, so that depth costs no recursion
        args = [done[id(a)] for a in node.args]
        if node.op in _INFIX and len(args) == 2:
            done[id(node)] = _infix(node, args)
        elif node.op in _FORMS:
            done[id(node)] = _FORMS[node.op](node, args)
        else:
            done[id(node)] = _function(node, args)
    return done[id(e)][0]


def _in(shown: _Shown, needed: int) -> str:
    text, binding = shown
    return text if binding >= needed else f"({text})"


def _list(args: list[_Shown]) -> str:
    return ", ".join(text for text, _ in args)


def _infix(e: Expr, args: list[_Shown]) -> _Shown:
    symbol, binding, left, right = _INFIX[e.op]
    space = "" if e.op == "pow" else " "
    return f"{_in(args[0], left)}{space}{symbol}{space}{_in(args[1], right)}", binding


def _function(e: Expr, args: list[_Shown]) -> _Shown:
    inside = [text for text, _ in args]
    if e.attr is not None:
        inside.append(str(e.attr))
    return f"{e.op}({', '.join(inside)})", _POSTFIX


def _num(e: Expr, args: list[_Shown]) -> _Shown:
    text = repr(e.attr)  # the shortest that reads back
    return text, _SIGN if text.startswith("-") else _ATOM


def _called(e: Expr, args: list[_Shown]) -> _Shown:
    return str(e.attr), _ATOM


def _state(e: Expr, args: list[_Shown]) -> _Shown:
    """A read of a state, with its time where that is not the present."""
    name, time = e.attr  # type: ignore[misc]
    return (
        (name, _ATOM)
        if time in ("now", "var", "base")
        else (f"{'prev' if time == 'prev' else time}({name})", _POSTFIX)
    )


def _index(e: Expr, args: list[_Shown]) -> _Shown:
    """``M[k]`` of the surface, or a count such as ``t`` once it is resolved."""
    return _after(e, args[:1], f"[{_list(args[1:])}]") if args else (str(e.attr[0]), _ATOM)  # type: ignore[index]


def _call(e: Expr, args: list[_Shown]) -> _Shown:
    keywords: tuple[str, ...] = e.attr or ()  # type: ignore[assignment]
    positional = len(args) - len(keywords)
    inside = [text for text, _ in args[1:positional]]
    inside += [
        f"{name}={text}" for name, (text, _) in zip(keywords, args[positional:], strict=True)
    ]
    return f"{_in(args[0], _POSTFIX)}({', '.join(inside)})", _POSTFIX


def _after(e: Expr, args: list[_Shown], text: str) -> _Shown:
    base = (
        f"({args[0][0]})" if e.args[0].op == "num" else _in(args[0], _POSTFIX)
    )  # `2.T` is a number
    return base + text, _POSTFIX


def _fold(e: Expr, args: list[_Shown]) -> _Shown:
    function, index = e.attr  # type: ignore[misc]
    return f"{function}({args[0][0]} for {index})", _POSTFIX


_FORMS: dict[str, Callable[[Expr, list[_Shown]], _Shown]] = {
    "num": _num,
    "bool": lambda e, args: ("true" if e.attr else "false", _ATOM),
    "neg": lambda e, args: (f"-{_in(args[0], _SIGN)}", _SIGN),
    "T": lambda e, args: _after(e, args, ".T"),
    "attr": lambda e, args: _after(e, args, f".{e.attr}"),
    "list": lambda e, args: (f"[{_list(args)}]", _ATOM),
    "call": _call,
    "fold": _fold,
    "state": _state,
    "index": _index,
    **dict.fromkeys(_NAMED, _called),
}
