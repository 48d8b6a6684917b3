"""Expr -> PyTorch text. Every operator works on trailing axes, so one line serves [B, H, n] and [B, T, H, n] alike.

A tensor is ``[batch axes, (H,) *dims]``; where operands differ in head axis or rank, the printer inserts axes by
indexing. Operators that need more than an expression call a function of ``torch_helpers``, which the
file then defines.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from nlc.backends.plain import BINDS, PLAIN, closed
from nlc.backends.precedence import ATOM, COMPARE, CONDITIONAL, POWER, PRODUCT, SUM, UNARY
from nlc.backends.torch_matrices import MatrixFunctions
from nlc.base.diagnostics import InternalError
from nlc.ir.expr import Expr
from nlc.ir.ops import add, make, neg, sub
from nlc.ir.shapes import HEADS, parts
from nlc.ir.system import System
from nlc.ir.types import Dim, Type

_UNARY = {
    "exp": "exp",
    "expm1": "expm1",
    "log": "log",
    "sqrt": "sqrt",
    "abs": "abs",
    "tanh": "tanh",
    "erf": "erf",
    "sign": "sign",
}
_TORCH = {
    **{k: f"torch.{v}" for k, v in _UNARY.items()},
    "sigmoid": "torch.sigmoid",
    "silu": "F.silu",
    "gelu": "F.gelu",
    "relu": "F.relu",
}
_INFIX = {
    "add": (" + ", SUM),
    "sub": (" - ", SUM),
    "mul": (" * ", PRODUCT),
    "div": (" / ", PRODUCT),
}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@dataclass
class TorchPrinter(MatrixFunctions):
    """Prints expressions of one program. ``hyper`` says how a hyper is written where the text stands."""

    system: System
    hyper: Callable[[str], str]
    attribute: Callable[[str], str]
    helpers: set[str] = field(default_factory=set)
    like: str = "x"  # a tensor whose device and dtype new tensors take
    numbers: set[str] = field(default_factory=set)  # variables that hold Python numbers
    cast: dict[str, str] | None = None  # in the loop: weights by path, in the states' dtype
    dtype: str | None = None  # in the loop: that dtype
    places: dict[str, str] = field(default_factory=dict)  # variables that stand in a container
    within: str = ""  # the variable that says where packed sequences are cut, if there is one

    # -------------------------------------------------------------------------------------------- entry

    def __call__(self, e: Expr) -> str:
        return self.write(e)[0]

    def at(self, e: Expr, binds: int) -> str:
        text, own = self.write(e)
        return text if own >= binds else f"({text})"

    def place(self, name: str) -> str:
        """How a variable is written."""
        return self.places.get(name, name)

    def stored(self, path: str) -> str:
        """A slow weight, in the dtype that is computed in."""
        if self.cast is not None and path in self.cast:
            return self.cast[path]
        return self.attribute(path) + (
            f".to({self.dtype})" if self.dtype and self.cast is None else ""
        )

    def use(self, helper: str) -> str:
        self.helpers.add(helper)
        return helper

    def write(self, e: Expr) -> tuple[str, int]:
        op = e.op
        if op == "num":
            return self.number(e.attr)
        if op == "bool":
            return str(e.attr), ATOM
        if op == "hyper":
            return self.hyper(str(e.attr)), ATOM
        if op == "var":
            return self.place(str(e.attr)), ATOM
        if op == "weight":
            return self.stored(str(e.attr)), ATOM
        if op == "initial":
            return self.stored(f"{e.attr}.init"), ATOM
        if op in _INFIX:
            return self.infix(e)
        if op in _COMPARE:
            a, b = (self.aligned(x, e.type, SUM) for x in e.args)
            return f"{a} {_COMPARE[op]} {b}", COMPARE
        if op in PLAIN and all(self.is_number(a) for a in e.args):
            text = PLAIN[op]
            args = [
                self.at(a, CONDITIONAL if closed(text, i) else ATOM) for i, a in enumerate(e.args)
            ]
            return text.format(*args), BINDS.get(op, ATOM)
        if op in _TORCH:
            return f"{_TORCH[op]}({self(e.args[0])})", ATOM
        writer = getattr(self, f"op_{op}", None)
        if writer is None:
            raise InternalError(f"no printer for `{op}`")
        return writer(e)

    def number(self, value: object) -> tuple[str, int]:
        if value in (float("inf"), float("-inf")):
            return ("math.inf", ATOM) if value > 0 else ("-math.inf", UNARY)
        return re.sub(r"e([-+])0", r"e\1", repr(value)), ATOM if value >= 0 else UNARY

    def is_number(self, e: Expr) -> bool:
        """Whether the generated text computes it as a Python number."""
        if not e.args:
            return e.op in ("num", "bool", "hyper", "size") or (
                e.op == "var" and e.attr in self.numbers
            )
        return e.op == "numel" or all(self.is_number(a) for a in e.args)

    # -------------------------------------------------------------------------------------------- axes

    def axes(self, e: Expr, head: bool, rank: int) -> str:
        """The index that brings a value to a head axis and a number of trailing axes; "" if it has them."""
        t: Type = e.type
        if self.is_number(e) or t.like or not (t.clock.batched or t.head):
            return ""
        missing_head = head and not t.head and t.clock.batched
        behind = max(rank - t.rank, 0)
        if not missing_head and not behind:
            return ""
        index = ["None"] * missing_head + [":"] * t.rank + ["None"] * behind
        return f"[..., {', '.join(index)}]"

    def aligned(self, e: Expr, to: Type, binds: int, rank: int | None = None) -> str:
        """An operand brought to the axes of the result."""
        index = self.axes(e, to.head, (to.rank if not to.like else 0) if rank is None else rank)
        return f"{self.at(e, ATOM)}{index}" if index else self.at(e, binds)

    def headed(self, e: Expr, head: bool) -> str:
        return self.aligned(e, Type(e.type.dims, head), ATOM)

    def reduce(self, e: Expr) -> str:
        """The axes that a reduction of this value runs over."""
        if e.type.like:
            return ""
        return {0: "", 1: "-1", 2: "(-2, -1)"}[e.type.rank]

    # -------------------------------------------------------------------------------------------- arithmetic

    def infix(self, e: Expr) -> tuple[str, int]:
        """Left-associative, so a right operand of the same kind keeps its brackets: the order of the spec."""
        glyph, binds = _INFIX[e.op]
        a, b = e.args
        return f"{self.aligned(a, e.type, binds)}{glyph}{self.aligned(b, e.type, binds + 1)}", binds

    def op_neg(self, e: Expr) -> tuple[str, int]:
        (inner,) = e.args
        if inner.op == "softplus" and not self.is_number(inner):
            return f"F.logsigmoid({self(_negative(inner.args[0]))})", ATOM
        return f"-{self.at(inner, ATOM if inner.op == 'pow' else UNARY)}", UNARY

    def op_pow(self, e: Expr) -> tuple[str, int]:
        a, b = e.args
        if b.op == "num" and b.attr == 2 and not self.is_number(a):
            return f"{self.at(a, ATOM)}.square()", ATOM
        base, power = self.aligned(a, e.type, ATOM), self.aligned(b, e.type, UNARY)
        return f"{base}**{power}" if _tight(a, b) else f"{base} ** {power}", POWER

    def _extremum(self, e: Expr, side: str, name: str) -> tuple[str, int]:
        a, b = e.args
        for x, y in ((a, b), (b, a)):
            if self.is_number(y):
                return f"{self.at(x, ATOM)}.clamp({side}={self(y)})", ATOM
        return (
            f"torch.{name}imum({self.aligned(a, e.type, SUM)}, {self.aligned(b, e.type, SUM)})",
            ATOM,
        )

    def op_maximum(self, e: Expr) -> tuple[str, int]:
        return self._extremum(e, "min", "max")

    def op_minimum(self, e: Expr) -> tuple[str, int]:
        return self._extremum(e, "max", "min")

    def op_clip(self, e: Expr) -> tuple[str, int]:
        x, low, high = e.args
        return (
            f"{self.at(x, ATOM)}.clamp({self.aligned(low, e.type, SUM)}, {self.aligned(high, e.type, SUM)})",
            ATOM,
        )

    def op_where(self, e: Expr) -> tuple[str, int]:
        c, a, b = e.args
        numbers = self.is_number(a), self.is_number(b)
        texts = [self.aligned(x, e.type, COMPARE) for x in (a, b)]
        if self.is_number(c):
            if any(numbers):  # a number beside a tensor becomes a tensor like it
                k = numbers.index(True)
                texts[k] = f"torch.full_like({texts[1 - k]}, {texts[k]})"
            return f"{texts[0]} if {self.at(c, COMPARE)} else {texts[1]}", CONDITIONAL
        if all(numbers):  # two numbers alone would have the default dtype
            like = next(
                (x for x in c.args if not self.is_number(x) and x.type.dtype == "float"), None
            )
            texts[0] = (
                f"torch.full_like({self.aligned(like, e.type, COMPARE)}, {texts[0]})"
                if like is not None
                else f"{self.like}.new_tensor({texts[0]})"
            )
        condition = self.aligned(c, e.type, COMPARE)
        if c.op == "var":  # the loop has it in the dtype of its states
            condition = f"{condition} != 0"
        return f"torch.where({condition}, {', '.join(texts)})", ATOM

    def op_softplus(self, e: Expr) -> tuple[str, int]:
        return f"F.softplus({self(e.args[0])}, threshold=50)", ATOM

    def op_slope(self, e: Expr) -> tuple[str, int]:
        return f"{self.use(f'{e.attr}_slope')}({self(e.args[0])})", ATOM

    def op_stop(self, e: Expr) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}.detach()", ATOM

    # -------------------------------------------------------------------------------------------- reductions

    def _reduced(self, e: Expr, name: str) -> tuple[str, int]:
        x = e.args[0]
        if x.type.rank == 0 and not x.type.like:
            return self.write(x)
        return f"{self.at(x, ATOM)}.{name}({self.reduce(x)})", ATOM

    def op_sum(self, e: Expr) -> tuple[str, int]:
        return self._reduced(e, "sum")

    def op_mean(self, e: Expr) -> tuple[str, int]:
        return self._reduced(e, "mean")

    def op_amax(self, e: Expr) -> tuple[str, int]:
        return self._reduced(e, "amax")

    def op_amin(self, e: Expr) -> tuple[str, int]:
        return self._reduced(e, "amin")

    def op_numel(self, e: Expr) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}.numel()", ATOM

    def size(self, dim) -> str:
        """A dimension as Python text, its hypers written as they are here."""
        text = dim.python
        for symbol in sorted(dim.symbols, key=len, reverse=True):
            text = _replace_name(text, symbol, self.hyper(symbol))
        return text

    def op_dot(self, e: Expr) -> tuple[str, int]:
        a, b = e.args
        head = a.type.head or b.type.head
        left, right = (self.aligned(x, Type(x.type.dims, head), PRODUCT) for x in (a, b))
        product = f"{left} * {right}"
        if a.type.rank == 0:
            return product, PRODUCT
        return f"({product}).sum({self.reduce(a)})", ATOM

    def op_sqnorm(self, e: Expr) -> tuple[str, int]:
        x = e.args[0]
        if x.type.rank == 0:
            return f"{self.at(x, ATOM)}.square()", ATOM
        return f"{self.at(x, ATOM)}.square().sum({self.reduce(x)})", ATOM

    def op_norm(self, e: Expr) -> tuple[str, int]:
        x, p = e.args
        if x.type.rank == 0:
            return f"{self.at(x, ATOM)}.abs()", ATOM
        axes = self.reduce(x)
        kind = "" if p.op == "num" and p.attr == 2 else f", {self(p)}"
        return f"torch.linalg.vector_norm({self(x)}{kind}{f', dim={axes}' if axes else ''})", ATOM

    def op_ones(self, e: Expr) -> tuple[str, int]:
        return f"torch.ones_like({self(e.args[0])})", ATOM

    # -------------------------------------------------------------------------------------------- matrices

    def op_matmul(self, e: Expr) -> tuple[str, int]:
        a, b = e.args
        if b.type.rank == 1 and not b.type.like:
            if a.op == "weight" and not a.type.head:  # one matrix for all tokens
                return f"F.linear({self(b)}, {self(a)})", ATOM
            if _one_for_all(a, b):
                return f"{self.at(b, PRODUCT)} @ {self.at(make('T', a), PRODUCT + 1)}", PRODUCT
            return (
                f"{self.use('matvec')}({self.headed(a, e.type.head)}, {self.headed(b, e.type.head)})",
                ATOM,
            )
        if a.type.rank == 1 and not a.type.like:
            if _one_for_all(b, a):
                return f"{self.at(a, PRODUCT)} @ {self.at(b, PRODUCT + 1)}", PRODUCT
            return (
                f"{self.use('matvec')}({self.headed(b, e.type.head)}.mT, {self.headed(a, e.type.head)})",
                ATOM,
            )
        return f"{self.headed(a, e.type.head)} @ {self.headed(b, e.type.head)}", PRODUCT

    def op_T(self, e: Expr) -> tuple[str, int]:
        if e.args[0].op == "T":
            return self.write(e.args[0].args[0])
        return f"{self.at(e.args[0], ATOM)}.mT", ATOM

    def op_over_samples(self, e: Expr) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}.sum(0)", ATOM

    def op_outer_over_samples(self, e: Expr) -> tuple[str, int]:
        a, b = e.args
        return f"{self.at(a, ATOM)}.mT @ {self.at(b, PRODUCT + 1)}", PRODUCT

    def op_outer(self, e: Expr) -> tuple[str, int]:
        a, b = (self.aligned(x, Type(x.type.dims, e.type.head), COMPARE) for x in e.args)
        return f"{self.use('outer')}({a}, {b})", ATOM

    def _factor(self, e: Expr, index: str) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}[{index}]", ATOM

    def op_per_key(self, e: Expr) -> tuple[str, int]:
        return self._factor(e, "..., None, :")

    def op_per_value(self, e: Expr) -> tuple[str, int]:
        return self._factor(e, "..., :, None")

    def op_sum_rows(self, e: Expr) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}.sum(-2)", ATOM

    def op_sum_cols(self, e: Expr) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}.sum(-1)", ATOM

    def op_squeeze(self, e: Expr) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}.squeeze(-1)", ATOM

    def op_unsqueeze(self, e: Expr) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}.unsqueeze(-1)", ATOM

    def op_watch(self, e: Expr) -> tuple[str, int]:
        return f"{self.use('watched')}({self(e.args[0])})", ATOM

    def op_slopes(self, e: Expr) -> tuple[str, int]:
        points = ", ".join(self(a) for a in e.args[1:])
        text = f"{self.use('slopes')}({self(e.args[0])}, [{points}])"
        return text if len(e.args) > 2 else f"{text}[0]", ATOM

    def op_settle(self, e: Expr) -> tuple[str, int]:
        x = self(e.args[0])
        return f"{x} if graph else {x}.detach()", COMPARE

    def op_softmax(self, e: Expr) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}.softmax(-1)", ATOM

    def op_l2norm(self, e: Expr) -> tuple[str, int]:
        return f"{self.use('l2norm')}({self(e.args[0])}, {self(e.args[1])})", ATOM

    def op_rmsnorm(self, e: Expr) -> tuple[str, int]:
        return f"{self.use('rmsnorm')}({', '.join(self(a) for a in e.args)})", ATOM

    def op_layernorm(self, e: Expr) -> tuple[str, int]:
        return f"{self.use('layernorm')}({', '.join(self(a) for a in e.args)})", ATOM

    def op_rotary(self, e: Expr) -> tuple[str, int]:
        x, position, base = e.args
        at = self.aligned(position, e.type, SUM, rank=1)
        if self.is_number(position):
            at = f"{self.like}.new_tensor({at})"
        return f"{self.use('rotary')}({self(x)}, {at}, {self(base)})", ATOM

    def op_concat(self, e: Expr) -> tuple[str, int]:
        parts = ", ".join(self.headed(a, e.type.head) for a in e.args)
        return f"{self.use('concat')}({parts})", ATOM

    def op_flatten(self, e: Expr) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}.flatten(-2)", ATOM

    def op_unflatten(self, e: Expr) -> tuple[str, int]:
        sides = ", ".join(self.size(d) for d in e.attr)
        return f"{self.at(e.args[0], ATOM)}.unflatten(-1, ({sides}))", ATOM

    def op_slice(self, e: Expr) -> tuple[str, int]:
        start, stop = (self.size(d) for d in e.attr)
        start = start if start != "0" else ""
        plain = all(not x or x.isidentifier() or x.isdigit() for x in (start, stop))
        bounds = f"{start}:{stop}" if plain else f"{start} : {stop}".strip()
        return f"{self.at(e.args[0], ATOM)}[..., {bounds}]", ATOM

    # -------------------------------------------------------------------------------------------- modules, heads

    def op_linear(self, e: Expr) -> tuple[str, int]:
        x, weight, *bias = e.args
        module = self.system.modules[e.attr]
        if module.head:
            text = f"{self.use('matvec')}({self(weight)}, {self(x)})"
            text, binds = (f"{text} + {self(bias[0])}", SUM) if bias else (text, ATOM)
        elif self.cast is not None or self.dtype:
            text, binds = f"F.linear({', '.join(self(a) for a in e.args)})", ATOM
        else:
            text, binds = f"{self.attribute(module.path)}({self(x)})", ATOM
        if module.outer is not None:
            return text, binds
        return f"{text if binds == ATOM else f'({text})'}.squeeze(-1)", ATOM

    def op_split(self, e: Expr) -> tuple[str, int]:
        x = self.at(e.args[0], ATOM)
        if e.type.rank:
            x = f"{x}.unflatten(-1, ({self.size(parts(e))}, -1))"
        elif e.attr is None:
            return self.write(e.args[0])  # the channels are the heads
        return f"{x}{self.repeated(e, -1 - e.type.rank)}", ATOM

    def op_groups(self, e: Expr) -> tuple[str, int]:
        """What ``split`` makes for groups, each once."""
        x = self.at(e.args[0], ATOM)
        return (f"{x}.unflatten(-1, ({self.size(e.attr)}, -1))" if e.type.rank else x), ATOM

    def repeated(self, e: Expr, axis: int) -> str:
        """What gives each head of a group its part, where ``split`` makes parts for groups."""
        count = self.size(HEADS / e.attr) if e.attr is not None else "1"
        return f".repeat_interleave({count}, {axis})" if count != "1" else ""

    def op_merge(self, e: Expr) -> tuple[str, int]:
        return (
            self.write(e.args[0])
            if e.args[0].type.rank == 0
            else (f"{self.at(e.args[0], ATOM)}.flatten(-2)", ATOM)
        )

    def op_index(self, e: Expr) -> tuple[str, int]:
        dtype = self.dtype or f"{self.like}.dtype"
        heads = self.hyper("heads")
        return f"torch.arange({heads}, device={self.like}.device, dtype={dtype})", ATOM

    # -------------------------------------------------------------------------------------------- time

    def streaming(self, helper: str, *args: str) -> tuple[str, int]:
        """A call of what looks back from token to token, which has another form for packed sequences."""
        if self.within:
            helper, args = f"{helper}_within", (*args, self.within)
        return f"{self.use(helper)}({', '.join(args)})", ATOM

    def op_positions(self, e: Expr) -> tuple[str, int]:
        return self.streaming("positions", self(e.args[0]), self.like)

    def op_advance(self, e: Expr) -> tuple[str, int]:
        if self.within:
            return self.streaming("advanced", self(e.args[0]), self.like)
        return f"{self(e.args[0])} + {self.like}.shape[1]", SUM

    def op_periods(self, e: Expr) -> tuple[str, int]:
        size = self.size(e.attr)
        return f"{self.at(e.args[0], PRODUCT)} // {f'({size})' if ' ' in size else size}", PRODUCT

    def op_filled(self, e: Expr) -> tuple[str, int]:
        return f"torch.full_like({self(e.args[0])}, {self(e.args[1])})", ATOM

    def op_lift(self, e: Expr) -> tuple[str, int]:
        return f"{self.at(e.args[0], ATOM)}[:, None]", ATOM

    def op_push(self, e: Expr) -> tuple[str, int]:
        window, value = (self(x) for x in e.args)
        if self.is_number(e.args[1]):
            value = f"{window}.new_tensor({value})"
        return f"{self.use('push')}({window}, {value})", ATOM

    def op_recent(self, e: Expr) -> tuple[str, int]:
        return f"{self.use('recent')}({', '.join(self(x) for x in e.args)})", ATOM

    def op_ages(self, e: Expr) -> tuple[str, int]:
        like = self(e.args[0])
        oldest = self.size(e.attr - 1)
        return f"torch.arange({oldest}, -1, -1, device={like}.device, dtype={like}.dtype)", ATOM

    def op_size(self, e: Expr) -> tuple[str, int]:
        text = self.size(e.attr)
        return text, SUM if " + " in text or " - " in text else PRODUCT if " " in text else ATOM

    def op_zeros(self, e: Expr) -> tuple[str, int]:
        return f"torch.zeros_like({self(e.args[0])})", ATOM

    def _conv_weight(self, e: Expr) -> str:
        weight = self(e.args[1])
        return f"{weight}.squeeze(-2)" if e.args[0].type.rank == 0 else weight

    def operands(self, e: Expr) -> list[str]:
        """The arguments of a call of a streaming helper."""
        weight = [self._conv_weight(e)] if e.op == "conv" else []
        return [self(e.args[0]), *weight, self(e.args[-1])]

    def op_conv(self, e: Expr) -> tuple[str, int]:
        return self.streaming("causal_conv", *self.operands(e))

    def op_delay(self, e: Expr) -> tuple[str, int]:
        return self.streaming("shifted", *self.operands(e))

    def op_extend(self, e: Expr) -> tuple[str, int]:
        return f"torch.cat([{self(e.args[0])}, {self(e.args[1])}], 1)", ATOM

    def op_extend_step(self, e: Expr) -> tuple[str, int]:
        return f"torch.cat([{self(e.args[0])}, {self.at(e.args[1], ATOM)}.unsqueeze(1)], 1)", ATOM

    def _attend(self, e: Expr, step: bool) -> str:
        q, keys, values = e.args
        level, window = e.attr
        head = e.type.head
        texts = []
        for x in (q, keys, values):
            text = self.aligned(x, Type(x.type.dims, True), ATOM)
            texts.append(f"{text}.unsqueeze(1)" if step and x is q else text)
        options = self.system.levels[level].memory.options
        scale = (
            self(options["scale"]) if "scale" in options else self._inverse_root(keys.type.dims[0])
        )
        limit = f", {self.size(window)}" if window is not None else ""
        text = f"{self.use('causal_attention')}({', '.join(texts)}, {scale}{limit})"
        text += "[:, 0]" if step else ""
        return text if head else f"{text}.squeeze(-2)"

    def _inverse_root(self, dim: Dim) -> str:
        text = self.size(dim)
        return f"{text}**-0.5" if " " not in text else f"({text}) ** -0.5"

    def op_attend(self, e: Expr) -> tuple[str, int]:
        return self._attend(e, False), ATOM

    def op_attend_step(self, e: Expr) -> tuple[str, int]:
        return self._attend(e, True), ATOM


def _one_for_all(matrix: Expr, vector: Expr) -> bool:
    """Whether one matrix is multiplied with the vectors of all samples, which are the rows of another."""
    return vector.type.clock.unit == "sample" != matrix.type.clock.unit


def _negative(e: Expr) -> Expr:
    """-e, with a sign less where there is one."""
    if e.op == "neg":
        return e.args[0]
    if e.op == "sub":
        a, b = e.args
        return add(b, a.args[0]) if a.op == "neg" else sub(b, a)
    return neg(e)


def _tight(a: Expr, b: Expr) -> bool:
    """Formatters hug ``**`` between simple operands."""

    def simple(e: Expr) -> bool:
        if e.op == "size":
            return e.attr.python.isidentifier() or e.attr.python.isdigit()
        return e.op in ("var", "num", "hyper", "weight") or (e.op == "neg" and simple(e.args[0]))

    return simple(a) and simple(b)


def _replace_name(text: str, name: str, by: str) -> str:
    return re.sub(rf"(?<![\w.\]]){re.escape(name)}(?![\w\[])", by, text)
