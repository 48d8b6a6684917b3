"""The memories of the language: which tensors a call stands for, and how ``M(z)`` reads them.

To add one: a record here. Shapes and reads are text of the language over the memory's parameters; ``self`` is the
state of a memory that has only one. ``{switch: text}`` stands only where the switch is on; a state whose shape
comes out empty is not there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nlc.lib.functions import REQUIRED


@dataclass(frozen=True)
class MemoryKind:
    """``params`` as in ``Function``; ``states`` maps suffixes to shapes, "" for the level's own name.

    ``example`` is the text of a level M over the names of ``tools/reference``. ``dtype`` among the parameters names the
    number format of the states. ``switches`` are parameters that are on or off, ``functions`` those that name an
    elementwise function. ``out`` is the parameter that says the size of what is read: a scalar where it is 1.
    ``factor`` is a parameter that is a factor of another, not a size, with that other.
    """

    name: str
    params: dict[str, object]
    doc: str
    example: str
    states: dict[str, str] = field(default_factory=dict)
    read: str = ""
    context: str = ""  # "tokens" or "gradients" where it makes sense in one only
    out: str = ""
    switches: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    factor: tuple[str, str] | None = None


def _level(memory: str, law: str, frequency: str = "every token") -> str:
    lines = [f"frequency: {frequency}", f"memory: {memory}", *law.split("; ")]
    return "\n".join(lines)


_TABLE = [
    MemoryKind("matrix", {"m": REQUIRED, "n": REQUIRED}, "a linear map from n to m channels",
               _level("matrix(n, n)", "objective: 0.5 * sqnorm(M(k) - v); rule: gd(lr=b)"),
               {"": "[m, n]"}, "self @ z"),
    MemoryKind("mlp", {"in": REQUIRED, "expand": REQUIRED, "out": "in", "act": "silu", "bias": "false",
                       "residual": "out == in"},
               "two layers, `expand` times as wide inside: z + W1 act(W2 z), eq. 89",
               _level("mlp(n, 2)", "objective: 0.5 * sqnorm(M(k) - v); rule: gd(lr=b / 4); init: learned"),
               {"W1": "[out, expand * in]", "W2": "[expand * in, in]",
                "b1": "{bias: [out]}", "b2": "{bias: [expand * in]}"},
               "{residual: z + }W1 @ act(W2 @ z{bias:  + b2}){bias:  + b1}",
               out="out", switches=("bias", "residual"), functions=("act",), factor=("expand", "in")),
    MemoryKind("vector", {"n": REQUIRED}, "n numbers",
               _level("vector(n)", "objective: 0.5 * sqnorm(M - v); rule: gd(lr=b)"), {"": "[n]"}),
    MemoryKind("scalar", {}, "one number",
               _level("scalar", "update: max(M, b)"), {"": "[]"}),
    MemoryKind("like", {"W": REQUIRED, "dtype": None}, "a tensor like the trained one",
               _level("like(W)", "objective: -dot(M, g); rule: gd(lr=0.1, decay=0.9)", "every step"),
               {"": "like(W)"}, context="gradients"),
    MemoryKind("rows", {"W": REQUIRED, "dtype": None}, "one number for each row of the trained matrix",
               _level("rows(W)", "objective: 0.5 * sqnorm(per_value(M) * g - g); rule: gd(lr=0.1)", "every step"),
               {"": "rows(W)"}, context="gradients"),
    MemoryKind("cols", {"W": REQUIRED, "dtype": None}, "one number for each column of the trained matrix",
               _level("cols(W)", "objective: 0.5 * sqnorm(per_key(M) * g - g); rule: gd(lr=0.1)", "every step"),
               {"": "cols(W)"}, context="gradients"),
    MemoryKind("gram", {"W": REQUIRED, "side": REQUIRED, "dtype": None},
               "a square matrix for the rows (`left`) or the columns (`right`) of the trained matrix",
               _level("gram(W, left)", "objective: -dot(M, g @ g.T); rule: gd(lr=1)", "every step"),
               {"": "gram(W, side)"}, context="gradients"),
    MemoryKind("cache", {"window": None, "scale": None},
               "every key and value, read by softmax attention",
               _level("cache", "key: k; value: v", "infinite"), context="tokens"),
]  # fmt: skip

MEMORIES: dict[str, MemoryKind] = {m.name: m for m in _TABLE}
