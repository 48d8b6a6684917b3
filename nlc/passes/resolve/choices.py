"""Arguments that are fixed at construction: sizes, lists of numbers, one of a few words.

Each function of ``CONSTANTS`` gives the attribute of a library function's node; None after a mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from nlc.base.diagnostics import certain, nearest
from nlc.ir.expr import Expr
from nlc.ir.matrices import COEFFICIENTS, DTYPES, NewtonSchulz
from nlc.ir.shapes import HEADS
from nlc.ir.types import Dim
from nlc.passes.resolve.arguments import Bound
from nlc.passes.resolve.sizes import at_defaults, size
from nlc.passes.resolve.terms import Terms, quoted


def _channels(terms: Terms, bound: Bound) -> tuple[Dim, Dim] | None:
    """The bounds of a ``slice``: sizes, but that the first may be 0."""
    zero = bound["start"].op == "num" and bound["start"].attr == 0
    start = Dim.of(0) if zero else size(terms.scope, bound["start"], "a channel")
    stop = size(terms.scope, bound["stop"], "a channel")
    return None if start is None or stop is None else (start, stop)


_OF_SPLIT = "`split(x)` alone makes [heads * n] into n per head, whatever n is"


def _groups(terms: Terms, bound: Bound) -> Dim | None:
    """Into how many parts ``split`` takes channels; as many heads get each."""
    groups = bound["groups"]
    found = size(terms.scope, groups, "a number of groups")
    each = Expr(
        "div", (Expr("name", (), "heads", None, groups.span), groups), None, None, groups.span
    )
    count, heads = (at_defaults(terms.scope, x) for x in (found or HEADS, HEADS))
    help = _OF_SPLIT if None not in (count, heads) and count > heads else ""
    whole = found and size(terms.scope, each, "the number of heads in a group", help)
    return found if whole else None


def _steps(terms: Terms, bound: Bound) -> Dim | None:
    return size(terms.scope, bound["steps"], "a number of steps")


def _newton_schulz(terms: Terms, bound: Bound) -> NewtonSchulz | None:
    steps = _steps(terms, bound)
    coefficients = _coefficients(terms, bound["coefficients"])
    dtype = bound["dtype"]
    named = dtype is None or word(terms, dtype, "dtype", DTYPES)
    if steps is None or coefficients is None or not named:
        return None
    return NewtonSchulz(steps, coefficients, None if dtype is None else str(dtype.attr))


def _coefficients(terms: Terms, e: Expr) -> tuple[float, float, float] | None:
    if e.op != "list":
        known = word(terms, e, "coefficients", COEFFICIENTS, "a list of three numbers")
        return COEFFICIENTS[str(e.attr)] if known else None
    numbers = [_number(x) for x in e.args]
    if len(numbers) != 3 or None in numbers:
        wrong = next((x for x, n in zip(e.args, numbers) if n is None), e)
        label = "this is no number" if wrong is not e else f"this has {len(numbers)}"
        terms.say("NLC204", "`coefficients` are three numbers", wrong, label)
        return None
    return tuple(numbers)  # type: ignore[return-value]


def _number(e: Expr) -> float | None:
    if e.op == "neg":
        inner = _number(e.args[0])
        return None if inner is None else -inner
    return float(e.attr) if e.op == "num" else None  # type: ignore[arg-type]


def word(terms: Terms, e: Expr, key: str, words: Collection[str], other: str = "") -> bool:
    """Whether an argument is one of a few words; a mistake if not."""
    if e.op == "name" and e.attr in words:
        return True
    listed = ", ".join(f"`{w}`" for w in words)
    close = nearest(str(e.attr), words) if e.op == "name" else None
    terms.say(
        "NLC204",
        f"`{key}` cannot be `{quoted(e)}`",
        e,
        f"did you mean `{close}`?" if close else "not one of its words",
        notes=[f"`{key}` is one of {listed}" + (f", or {other}" if other else "")],
        fix=certain(e.span, str(e.attr), words) if close else None,
    )
    return False


CONSTANTS: dict[str, Callable[[Terms, Bound], object]] = {
    "slice": _channels,
    "newton_schulz": _newton_schulz,
    "solve": _steps,
    "split": _groups,
}
