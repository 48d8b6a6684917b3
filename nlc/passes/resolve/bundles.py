"""Bundles: a memory of several states as one value, over which elementwise operations map (language §5).

``bundle(a, b)`` stands for the states of one memory in their order. An operator over bundles of equally many states
becomes one operator for each; a reduction becomes one number, as if the states were one long vector.
"""

from __future__ import annotations

from collections.abc import Iterable

from nlc.base.span import Span
from nlc.ir.expr import Expr, walk
from nlc.ir.ops import elementwise, pointwise, rowwise
from nlc.passes.resolve.scope import error
from nlc.passes.resolve.terms import Terms, quoted

_ADDED = ("sum", "dot", "sqnorm", "numel")  # of all states: the sum of theirs
TINY = 1e-38
_MAPPED = ("stop", "delay", "total", "neg")


def bundle(parts: Iterable[Expr], span: Span | None) -> Expr:
    return Expr("bundle", tuple(parts), None, None, span)


def maps(op: str) -> bool:
    """Whether an operator over a memory's states is one operator for each."""
    return op in _MAPPED or elementwise(op) or pointwise(op) or rowwise(op)


def each(terms: Terms, e: Expr) -> Expr:
    """An operator over operands of which some may be bundles; a mistake where it cannot be mapped."""
    bundles = [a for a in e.args if a.op == "bundle"]
    if not bundles:
        return e
    count = len(bundles[0].args)
    if any(len(b.args) != count for b in bundles):
        named = " and ".join(f"`{quoted(b)}`" for b in bundles[:2])
        label = "memories with other states"
        return terms.say("NLC301", f"{named} have not equally many states", e, label)
    if e.op == "mean":
        whole = [each(terms, Expr(op, e.args, None, None, e.span)) for op in ("sum", "numel")]
        return Expr("div", tuple(whole), None, None, e.span)
    if e.op == "norm" and e.args[1].op == "num" and e.args[1].attr == 2:
        square = each(terms, Expr("sqnorm", e.args[:1], None, None, e.span))
        tiny = Expr("num", (), TINY, None, e.span)  # its gradient at 0 is 0, as that of `norm`
        positive = Expr("maximum", (square, tiny), None, None, e.span)
        return Expr("sqrt", (positive,), None, None, e.span)
    if e.op == "norm":
        x, p = e.args
        power = Expr("pow", (Expr("abs", (x,), None, None, e.span), p), None, None, e.span)
        raised = each(terms, power.with_args((each(terms, power.args[0]), p)))
        total = each(terms, Expr("sum", (raised,), None, None, e.span))
        one_over = Expr("div", (Expr("num", (), 1, None, e.span), p), None, None, e.span)
        return Expr("pow", (total, one_over), None, None, e.span)
    mapped = maps(e.op)
    if not mapped and e.op not in _ADDED:
        at = bundles[0]
        return terms.say(
            "NLC208",
            f"`{quoted(at)}` has several states",
            at,
            "only elementwise operations and sums map over them",
            helps=[f"name one of its states, or read it: `{quoted(at)}(z)`"],
        )
    parts = [
        Expr(
            e.op, tuple(a.args[i] if a.op == "bundle" else a for a in e.args), e.attr, None, e.span
        )
        for i in range(count)
    ]
    if mapped:
        return bundle(parts, e.span)
    total = parts[0]
    for part in parts[1:]:
        total = Expr("add", (total, part), None, None, e.span)
    return total


def fitted(terms: Terms, e: Expr | None, level: str) -> Expr | None:
    """A value for each state of a level's memory, or one for all; a mistake where it has others."""
    memory = terms.memories.get(level)
    if e is None or e.op != "bundle" or memory is None or len(e.args) == len(memory.states):
        return e
    read = {n.attr[0].partition(".")[0] for n in walk(e) if n.op == "state"}
    said = (terms.scope.levels[name].memory for name in sorted(read | {level}))
    return terms.say(
        "NLC301",
        f"`{quoted(e)}` has not equally many states",
        e,
        f"it has {len(e.args)}, the memory of `{level}` {len(memory.states)}",
        helps=["name one of its states, or reduce it (`sqnorm(…)`)"],
        causes=[cause for memory in said if memory is not None for cause in memory.causes],
    )


def one(terms: Terms, e: Expr) -> Expr:
    """A value that has to be a single tensor; a mistake if it is a bundle."""
    if e.op != "bundle":
        return e
    terms.say(
        "NLC208",
        f"`{quoted(e)}` has several states",
        e,
        "one value is needed here",
        helps=["reduce it (`sqnorm(…)`), or name one of the states"],
    )
    return error(e.span)
