"""Functions of kernels that make gates of what these are made of (``nlc/ir/gates.py``), and give the slopes by it.

Kernels take the values as they are in memory, one a token and head, [X, T, H], or one a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice

from nlc.backends.precedence import ATOM
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.triton.lines import packed
from nlc.backends.triton.optimizer import ElementPrinter
from nlc.backends.writer import WIDTH
from nlc.ir.expr import Expr, substitute
from nlc.ir.gates import NUMBER, Gates, variables
from nlc.ir.logs import logged
from nlc.ir.ops import leaf

ONE = {"n": "n", "t": "0", "T": "1", "H": "H", "stop": "1"}  # where the only token is


def ending(number: int, taken: set[str]) -> str:
    """What is in the names of functions that make gates, of the first, the second and so on; no variable has it."""
    several = (f"_raw_{i}" if i > 1 else "_raw" for i in count(1))
    free = (x for x in several if not any(f"{x}_" in f"{n}_" for n in taken))
    return next(islice(free, number, None))


def call(
    gates: Gates, name: str, gate: str, cut: bool, where: Mapping[str, str] | None = None
) -> str:
    """A gate of some tokens in a kernel of an operator; ``where``: what these are called there."""
    mine = gates.only(gate)
    at = [(where or {}).get(x, x) for x in _place_of(mine, cut)]
    return f"{name}_{gate}({', '.join([*mine.tensors, *at, *mine.fixed])})"


def _place(raw: bool, heads: bool, cut: bool) -> list[str]:
    """What says where tokens are, as far as it matters to what is theirs or their head's, and which are there."""
    own = raw or heads
    return [*["n"] * own, "t", *["T"] * (raw or not cut), *["H"] * own, *["stop"] * cut]


def _place_of(gates: Gates, cut: bool) -> list[str]:
    return _place(bool(gates.kind("raw")), bool(gates.kind("head")), cut)


def texts(gates: Gates, name: str, cut: bool) -> str:
    """The functions of kernels that make the gates, and what gives their slopes; ``cut``: of packed sequences, too."""
    made = [_value(gates, name, gate, cut) for gate, _ in gates.values]
    return "\n\n\n".join([*made, _back(gates, name, cut)]) + "\n"


def _loads(gates: Gates, asked: Iterable[Expr], cut: bool) -> list[str]:
    """What expressions are made of, and which tokens are there."""
    used = {n for e in asked for n in variables(e)}
    raw = gates.kind("raw")
    end = "stop" if cut else "T"
    at = f"at, there = (n // H * T + t) * H + n % H, t < {end}" if raw else f"there = t < {end}"
    lines = [
        f"{n} = tl.load({n} + at, mask=there, other=0.0).to(tl.float32)" for n in raw if n in used
    ]
    return [at, *lines, *(f"{n} = tl.load({n} + n % H)" for n in gates.kind("head") if n in used)]


def _value(gates: Gates, name: str, gate: str, cut: bool) -> str:
    mine = gates.only(gate)
    said = {"log_a": "log a", "w": "w, what a write is multiplied by", "b": "b, what erases"}
    lets, value = lines_of(gates[gate], "value", 32)
    of = "of tokens t" + " of the head n" * ("n" in _place_of(mine, cut))
    lines = [f'"""{said[gate]}, {of}."""', *_loads(mine, [gates[gate]], cut), *lets]
    lines.append(f"return tl.where(there, {value}, 0.0)")
    args = [*mine.tensors, *_place_of(mine, cut), *(f"{n}: tl.constexpr" for n in mine.fixed)]
    return _function(["@triton.jit", packed(f"def {name}_{gate}(", args, "):")], lines)


def _back(gates: Gates, name: str, cut: bool) -> str:
    """What sets the slopes by the variables from those by the gates; of heads a sum a chunk."""
    heads, said = gates.kind("head"), "Sets the slopes by what the gates of a chunk are made of"
    said += "; by what is a head's, their sum." if heads else "."
    loads = _loads(gates, [e for _, e in gates.slopes], cut)
    lines = [f'"""{said}"""', *loads, *slopes_of(gates)]
    for n in gates.kind("raw"):
        lines.append(f"tl.store(d_{n} + at, slope_{n}.to(d_{n}.dtype.element_ty), mask=there)")
    for n in heads:
        lines.append(f"tl.store(d_{n} + m, tl.sum(tl.where(there, slope_{n}, 0.0), 0))")
    args, fixed = _taken_back(gates, cut)
    args += [f"{n}: tl.constexpr" for n in fixed]
    return _function(["@triton.jit", packed(f"def {name}_gates_back(", args, "):")], lines)


def _taken_back(gates: Gates, cut: bool) -> tuple[list[str], list[str]]:
    """What it takes: what slopes are made of and where they go, where the chunk is, with its number where it has sums
    of its own; and what is fixed of that."""
    used = {n for _, e in gates.slopes for n in variables(e)}
    raw, heads = gates.kind("raw"), gates.kind("head")
    slopes = [*(f"d_{g}" for g, _ in gates.values), *(f"d_{n}" for n in gates.tensors)]
    place = [*["m"] * bool(heads), *_place(bool(raw), bool(used & {*heads}), cut)]
    taken = [*(n for n in gates.tensors if n in used), *slopes, *place]
    return taken, [n for n in gates.fixed if n in used]


def back(gates: Gates, name: str, cut: bool) -> str:
    """The call of it in a kernel."""
    args, fixed = _taken_back(gates, cut)
    return f"{name}_gates_back({', '.join([*args, *fixed])})"


def meant(gates: Gates, like: str) -> list[str]:
    """The gates as lines of PyTorch, of tensors [X, H, T] and [H]; ``like`` is as long as they are."""
    printer = TorchPrinter(None, str, str)  # type: ignore[arg-type]
    lines = [f"{n} = {n}[:, None]" for n in gates.kind("head")]
    for gate, e in gates.values:
        lets, value = _lines([(gate, e)], 40, printer=printer)
        long = any(n.startswith("raw") for n in variables(e))
        lines += [
            *lets,
            f"{gate} = {value}" + ("" if long else f" + torch.zeros_like({like}[..., 0])"),
        ]
    return lines


def together(lets: Iterable[tuple[str, Expr]]) -> list[str]:
    """Statements as lines of a kernel."""
    return _lines([*lets], 0, False)[0]


def meant_together(gates: Gates) -> list[str]:
    """All gates at once as lines of PyTorch."""
    return _lines(gates.together, 0, False, TorchPrinter(None, str, str))[0]  # type: ignore[arg-type]


def slopes_of(gates: Gates) -> list[str]:
    """Lines that make the slope by each variable of gates from those by the gates."""
    return together(gates.slopes)


def lines_of(e: Expr, name: str, beside: int) -> tuple[list[str], str]:
    """Lines before a value in a kernel, and the value."""
    return _lines([(name, e)], beside)


class _Printer(ElementPrinter):
    """Expressions of gates in kernels."""

    def write(self, e: Expr) -> tuple[str, int]:
        inner = logged(e)
        return super().write(e) if inner is None else (f"log_of({self(inner)})", ATOM)


def _function(head: list[str], lines: Iterable[str]) -> str:
    return "\n".join([*head, *(f"    {x}" for x in lines)])


def _lines(
    lets: Sequence[tuple[str, Expr]],
    beside: int,
    last: bool = True,
    printer: TorchPrinter | None = None,
) -> tuple[list[str], str]:
    """Statements, each on one line, the last as an expression with room for ``beside`` characters next to it."""
    printer = printer or _Printer(None, str, str)  # type: ignore[arg-type]
    out: list[str] = []
    for i, (name, e) in enumerate(lets):
        final, parts = last and i == len(lets) - 1, (f"{name}_{n}" for n in count(1))
        value = _fitted(e, beside if final else len(name) + 3, parts, printer, out)
        if final:
            return out, value
        out.append(f"{name} = {value}")
    return out, ""


def _fitted(
    e: Expr, beside: int, parts: Iterator[str], printer: TorchPrinter, out: list[str]
) -> str:
    """An expression short enough: as often as it is not, its longest operand gets a name, in lines before it.

    However deep that is, names do not get longer, or two of them would fill a line.
    """
    while len(printer(e)) > WIDTH - 4 - beside:
        longest = max((a for a in e.args if a.args), key=lambda a: len(printer(a)))
        part = next(parts)
        value = _fitted(longest, len(part) + 3, parts, printer, out)
        out.append(f"{part} = {value}")
        e = substitute(e, {longest: leaf("var", part, NUMBER)})
    return printer(e)
