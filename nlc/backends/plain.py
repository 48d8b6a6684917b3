"""Operators on Python numbers: what a generated file computes of hypers and counts alone."""

from __future__ import annotations

import re

from nlc.backends.precedence import CONDITIONAL, POWER

# {0}, {1}, … are the operands, each safe to stand beside any operator where it is not `closed`.
PLAIN: dict[str, str] = {
    **{name: f"math.{name}({{0}})" for name in ("exp", "expm1", "log", "sqrt", "tanh", "erf")},
    "abs": "abs({0})",
    "sign": "(({0} > 0) - ({0} < 0))",
    "sigmoid": "(1 / (1 + math.exp(-{0})))",
    "silu": "({0} / (1 + math.exp(-{0})))",
    "gelu": "(0.5 * {0} * (1 + math.erf({0} / math.sqrt(2))))",
    "relu": "max({0}, 0.0)",
    "softplus": "math.log1p(math.exp({0}))",
    "maximum": "max({0}, {1})",
    "minimum": "min({0}, {1})",
    "clip": "min(max({0}, {1}), {2})",
    "where": "{1} if {0} else {2}",
    **{name: "{0}" for name in ("sum", "mean", "amax", "amin", "stop")},
    "sqnorm": "{0} ** 2",
    "norm": "abs({0})",
    "numel": "1",
    "ones": "1.0",
}

# How tightly the text binds, where it is no atom.
BINDS = {"sqnorm": POWER, "where": CONDITIONAL}


def closed(text: str, operand: int) -> bool:
    """Whether the operand always stands as an argument of its own, so that it needs no brackets."""
    slot = f"{{{operand}}}"
    return text.count(slot) == len(
        re.findall(rf"(?<=[(,]){re.escape(slot)}(?=[,)])", text.replace(", ", ","))
    )
