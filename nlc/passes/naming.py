"""Names of program variables: from the spec where there is one, else saying what the value is."""

from __future__ import annotations

import keyword
import re

from nlc.ir.expr import Expr
from nlc.ir.ops import OPS
from nlc.lib.functions import WEIGHTED

_WORDS = {
    "matmul": "{0}_{1}",
    "sub": "{0}_minus_{1}",
    "add": "{0}_plus_{1}",
    "mul": "{0}_times_{1}",
    "outer": "{0}_outer_{1}",
    "div": "{0}_over_{1}",
    "dot": "{0}_dot_{1}",
    "outer_over_samples": "{0}_{1}",
}


class Names:
    """Hands out identifiers, each once; ``reserved`` are those that generated text uses itself."""

    def __init__(self, reserved: frozenset[str] = frozenset()):
        self.reserved = set(reserved) | set(keyword.kwlist)
        self.taken = set(self.reserved)

    def __call__(self, wanted: str) -> str:
        base = re.sub(r"\W+", "_", wanted).strip("_") or "value"
        if base[0].isdigit():
            base = f"n{base}"
        name, n = (f"{base}_" if base in self.reserved else base), 2
        while name in self.taken:
            name, n = f"{base}_{n}", n + 1
        self.taken.add(name)
        return name


_PARTS = {
    "mul": "product",
    "matmul": "product",
    "outer": "product",
    "sub": "difference",
    "add": "total",
    "div": "ratio",
}


def _whole(name: str) -> str:
    """What a part was named after, so that parts of parts do not pile up words."""
    words = name.split("_")
    while len(words) > 1 and (words[-1].isdigit() or words[-1] in {*_PARTS.values(), *OPS}):
        words.pop()
    return "_".join(words)


def describe(e: Expr, of: str = "") -> str:
    """A short name for an unnamed value: ``S_k`` for ``S @ k``, ``exp_dt`` for ``exp(dt)``.

    ``of``: what it is part of, which names it where its own text would be long.
    """
    if e.op in ("var", "hyper", "flow", "weight"):
        return str(e.attr).replace(".", "_")
    if e.op in WEIGHTED:
        return str(e.attr).replace(".", "_")
    if e.op in ("num", "bool") or not e.args:
        return e.op
    if e.op == "div" and e.args[1].op == "size":  # a mean
        return describe(e.args[0], of)
    if e.op == "over_samples":
        return describe(e.args[0], of)
    parts = [describe(a) for a in e.args if a.op != "num"]
    text = (
        _WORDS[e.op].format(*parts)
        if e.op in _WORDS and len(parts) == 2
        else "_".join([e.op, *parts[:1]])
    )
    if len(text) <= 20:
        return text
    if of:
        return f"{_whole(of)}_{_PARTS.get(e.op, e.op)}"
    return "_".join(filter(None, [e.op, parts[0].split("_")[0] if parts else ""]))
