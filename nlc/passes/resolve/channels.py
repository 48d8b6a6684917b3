"""How many channels a flow has as far as its text says, for examples in messages: sizes are inferred later."""

from __future__ import annotations

from nlc.ir.expr import Expr
from nlc.ir.show import show
from nlc.passes.resolve.scope import Scope

_STEPS = 100  # names and calls that are followed


def channels(e: Expr | None, level: str, scope: Scope) -> str | None:
    """``dk`` of ``l2norm(linear(x, dk))``, the size of the input of ``silu(x)``; None where the text does not say."""
    parts = None  # that `split` makes
    for _ in range(_STEPS):
        if e is None:
            return None
        if e.op == "name":
            sizes = _input(str(e.attr), scope)
            if sizes is not None:
                return _part(sizes, parts, scope)
            let = scope.lets.get(str(e.attr))
            e = scope.own(level, str(e.attr)) or (let.expr if let else None)
        elif e.op == "call" and e.args[0].op == "name" and len(e.args) > 1:
            if e.args[0].attr == "split":
                parts = show(e.args[2]) if len(e.args) > 2 else "heads"
            if (width := _width(e)) is not None:
                return _part(show(width), parts, scope)
            e = e.args[1]
        else:
            e = e.args[0] if e.args else None
    return None


def _width(e: Expr) -> Expr | None:
    """What ``linear(x, n)`` and ``linear(x, width=n)`` give."""
    if e.args[0].attr != "linear":
        return None
    keywords = e.attr or ()
    if "width" in keywords:
        return e.args[len(e.args) - len(keywords) + keywords.index("width")]
    return e.args[2] if len(e.args) - len(keywords) > 2 else None


def _input(name: str, scope: Scope) -> str | None:
    found = next((i.expr for i in scope.tree.inputs if i.name == name), None)
    return show(found.args[-1]) if found is not None and found.op == "list" and found.args else None


def _part(size: str, parts: str | None, scope: Scope) -> str:
    """The share of one of the parts, if it is split, by the hyper that is declared as it."""
    if parts is None:
        return size
    share = f"{size} / {parts}"
    return next((h.name for h in scope.tree.hyper if show(h.expr) == share), share)


def any_channels(scope: Scope) -> str:
    """A size that the spec has: that of its first input with one."""
    return next((s for i in scope.tree.inputs if (s := _input(i.name, scope))), "64")
