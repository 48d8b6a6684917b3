"""The slow weights that functions own: ``linear(x)`` has its own wherever it stands, ``linear[gate](x)`` named ones."""

from __future__ import annotations

from dataclasses import replace

from nlc.base.diagnostics import Label
from nlc.ir.expr import Expr
from nlc.ir.system import Module
from nlc.lib.functions import Function
from nlc.passes.resolve.arguments import Bound
from nlc.passes.resolve.sizes import size
from nlc.passes.resolve.terms import Place, Terms, quoted


def module_of(
    terms: Terms, f: Function, e: Expr, bound: Bound, label: Expr | None, at: Place
) -> Module | None:
    """The module of one call; None after a mistake."""
    sizes = {}
    for key, what in (("width", "a width"), ("rows", "the number of rows")):
        sizes[key] = None
        if bound.get(key) is not None:
            sizes[key] = size(terms.scope, bound[key], what)
            if sizes[key] is None:
                return None
    switches = {}
    for key in ("bias", "shared"):
        value = bound.get(key)
        if value is not None and value.op != "bool":
            terms.not_a_switch(key, value)
            return None
        switches[key] = value is not None and bool(value.attr)
    path = _path(terms, at.path, f.name, e) if label is None else _label(terms, label)
    if path is None:
        return None
    module = Module(path, f.name, e.span, **sizes, **switches)
    known = terms.modules.setdefault(path, module)
    if replace(known, span=e.span) != module:
        terms.say(
            "NLC204",
            f"`{quoted(label)}` is used in two ways"
            if label is not None
            else f"`{path}` is used twice",
            e,
            "the same label is the same weights",
            related=[Label(known.span, "first used here")],
            helps=["call both in the same way, or give them two labels"],
        )
        return None
    return known


def _label(terms: Terms, fn: Expr) -> str | None:
    label = fn.args[1]
    if len(fn.args) != 2 or label.op != "name":
        terms.say(
            "NLC204",
            f"`{quoted(label)}` is no label",
            label,
            "a label is a name, as in `linear[gate](x)`",
        )
        return None
    if label.attr in terms.scope.spans:
        terms.say(
            "NLC203",
            f"the label `{label.attr}` is also a name",
            label,
            "weights of this label would share it",
            related=[Label(terms.scope.spans[label.attr], f"`{label.attr}` is defined here")],
            helps=[f"choose another label, such as `{label.attr}_1`"],
        )
        return None
    return label.attr


def _path(terms: Terms, where: str, function: str, e: Expr) -> str:
    """``S.key.linear``, then ``S.key.linear_2``: one name for each place in the text."""
    key = (where, id(e))
    if key not in terms.paths:
        terms.alive.append(e)
        base = f"{where}.{function}"
        n = terms.counts[base] = terms.counts.get(base, 0) + 1
        terms.paths[key] = base if n == 1 else f"{base}_{n}"
    return terms.paths[key]
