"""Decays as logarithms: ``sigmoid(x)`` is ``exp(−softplus(−x))``, which keeps its precision near 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nlc.ir.expr import Expr
from nlc.ir.logs import FLOOR, log_at, logged
from nlc.ir.ops import add, make, mul, neg, num

Definitions = Mapping[str, Expr]
Outside = Callable[[Expr], Expr | None]


def log_of(e: Expr, defined: Definitions, outside: Outside) -> Expr | None:
    """log e where e is positive whatever the hypers are, else None.

    ``defined`` are definitions of variables. ``outside`` gives the logarithm of a variable that is defined where
    values have another layout, None for others.
    """
    if not positive(e, defined):
        return None
    log = _log(e, defined, outside)
    floored = log.op == "var" or logged(log) is not None
    return log if floored else make("maximum", log, num(FLOOR))


def positive(e: Expr, defined: Definitions) -> bool:
    """Whether e ≥ 0 for all tokens, weights and hypers."""
    match e.op:
        case (
            "nonnegative"
            | "sigmoid"
            | "exp"
            | "softplus"
            | "relu"
            | "abs"
            | "sqnorm"
            | "norm"
            | "softmax"
        ):
            return True
        case "num":
            return e.attr >= 0
        case "var":
            return e.attr in defined and positive(defined[e.attr], defined)
        case "mul" | "div" | "add" | "maximum":
            return all(positive(a, defined) for a in e.args)
        case "pow":
            return positive(e.args[0], defined) or (
                e.args[1].op == "num" and e.args[1].attr % 2 == 0
            )
        case "sub":
            return e.args[0].op == "num" and e.args[0].attr >= 1 and _below_one(e.args[1], defined)
        case "split" | "merge" | "per_key" | "per_value" | "spread":
            return positive(e.args[0], defined)
        case "index":
            return True
    return False


def _below_one(e: Expr, defined: Definitions) -> bool:
    """Whether 0 ≤ e ≤ 1 always."""
    match e.op:
        case "sigmoid" | "softmax":
            return True
        case "num":
            return 0 <= e.attr <= 1
        case "var":
            return e.attr in defined and _below_one(defined[e.attr], defined)
        case "mul" | "split" | "merge":
            return all(_below_one(a, defined) for a in e.args)
        case "exp":
            return e.args[0].op == "neg" and positive(e.args[0].args[0], defined)
        case "pow":
            base, power = e.args
            if base.op == "num" and base.attr >= 1:
                return _not_positive(power, defined)
            return _below_one(base, defined) and positive(power, defined)
        case "sub":
            return _is_one(e.args[0]) and _below_one(e.args[1], defined)
    return False


def _not_positive(e: Expr, defined: Definitions) -> bool:
    """Whether e ≤ 0 always."""
    match e.op:
        case "num":
            return e.attr <= 0
        case "neg":
            return positive(e.args[0], defined)
        case "sub":
            return _not_positive(e.args[0], defined) and positive(e.args[1], defined)
    return False


def _log(e: Expr, defined: Definitions, outside: Outside) -> Expr:
    match e.op:
        case "sigmoid":
            return neg(make("softplus", neg(e.args[0])))
        case "exp":
            return e.args[0]
        case "mul":
            return add(*(_log(a, defined, outside) for a in e.args))
        case "pow":
            return mul(e.args[1], _log(e.args[0], defined, outside))
        case "sub" if _is_one(e.args[0]) and e.args[1].op == "sigmoid":
            return neg(make("softplus", e.args[1].args[0]))
        case "var":
            inner = defined[e.attr]
            if inner.op in ("sigmoid", "exp", "pow", "var", "split", "sub"):
                return outside(e) or _log(inner, defined, outside)
    return log_at(e)


def _is_one(e: Expr) -> bool:
    return e.op == "num" and e.attr == 1
