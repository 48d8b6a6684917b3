"""The constructor's hypers: keyword arguments with the spec's defaults, derived ones computed, sizes checked."""

from __future__ import annotations

from nlc.backends.writer import Writer
from nlc.ir.expr import Expr, walk
from nlc.ir.system import Hyper, System
from nlc.ir.types import Dim, Like

_BINARY = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**"}


def signature(system: System) -> list[str]:
    """``d: int = 256``, ``dk: int | None = None``."""
    return [
        f"{h.name}: {kind(h)}{' | None' if h.derived else ''} = {_default(h)}"
        for h in system.hypers.values()
    ]


def kind(h: Hyper) -> str:
    """The type of a hyper, as an annotation."""
    if isinstance(h.value, list):
        return f"tuple[{'int' if all(isinstance(v, int) for v in h.value) else 'float'}, ...]"
    return (
        "bool"
        if isinstance(h.value, bool)
        else "int"
        if isinstance(h.value, int) and h.static
        else "float"
    )


def _default(h: Hyper) -> str:
    if h.derived:
        return "None"
    if isinstance(h.value, list):
        return f"({', '.join(map(repr, h.value))}{',' if len(h.value) == 1 else ''})"
    return _number(h.value)


def default_text(h: Hyper) -> str:
    """A hyper's default as documentation says it."""
    return constant(h.default, isinstance(h.value, int)) if h.derived else _default(h)


def _number(value: object) -> str:
    if value in (float("inf"), float("-inf")):
        return 'float("inf")' if value > 0 else '-float("inf")'
    return repr(value)


def settle(w: Writer, system: System) -> None:
    """Derived hypers at their defaults, each after those that it reads; ValueError for sizes below 1."""
    _at_least_one(w, [h.name for h in system.hypers.values() if _is_size(h) and not h.derived])
    done = {n for n, h in system.hypers.items() if not h.derived}
    waiting = [h for h in system.hypers.values() if h.derived]
    derived = [h.name for h in waiting if _is_size(h)]
    while waiting:
        h = next(h for h in waiting if _reads(h.default) <= done)
        waiting.remove(h)
        done.add(h.name)
        whole = isinstance(h.value, int)
        for n in walk(h.default) if whole else ():
            if n.op == "div":
                _divides(
                    w,
                    constant(n.args[0], True),
                    constant(n.args[1], True),
                    f"{h.name} is None and ",
                )
        w(f"{h.name} = {constant(h.default, whole)} if {h.name} is None else {h.name}")
    _at_least_one(w, derived)


def _is_size(h: Hyper) -> bool:
    return h.static and isinstance(h.value, int) and not isinstance(h.value, bool)


def _at_least_one(w: Writer, names: list[str]) -> None:
    for name in names:
        with w.block(f"if {name} < 1:"):
            w(f'raise ValueError(f"{name} = {{{name}}} must be at least 1")')


def _reads(e: Expr) -> set[str]:
    return {str(n.attr).partition("[")[0] for n in walk(e) if n.op == "hyper"}


def constant(e: Expr, whole: bool, binds: int = 0) -> str:
    """A hyper's default as Python text; whole numbers divide exactly (checked)."""
    if e.op in ("num", "bool"):
        return _number(e.attr)
    if e.op == "hyper":
        return str(e.attr)
    if e.op == "neg":
        return f"-{constant(e.args[0], whole, 3)}"
    if e.op in _BINARY:
        rank = {"add": 1, "sub": 1, "mul": 2, "div": 2, "pow": 4}[e.op]
        glyph = "//" if e.op == "div" and whole else _BINARY[e.op]
        text = f"{constant(e.args[0], whole, rank)} {glyph} {constant(e.args[1], whole, rank + 1)}"
        return f"({text})" if rank < binds else text
    return f"math.{e.op}({constant(e.args[0], False)})"


def check(w: Writer, system: System) -> None:
    """Sizes must come out whole, and what is equal only by default must still be equal: ValueError otherwise."""
    for numerator, denominator in _divisions(system):
        _divides(w, numerator, denominator)
    seen = set()
    for a, b, _ in system.constraints:
        if any(s.startswith("?") for s in (a - b).symbols) or (a, b) in seen or (b, a) in seen:
            continue
        seen.add((a, b))
        with w.block(f"if {a.python} != {b.python}:"):
            w(
                f'raise ValueError(f"{a} = {{{a.python}}} and {b} = {{{b.python}}} must be equal here")'
            )


def _divides(w: Writer, numerator: str, denominator: str, only: str = "") -> None:
    """ValueError where the one is not a multiple of the other."""
    plain = [x if " " not in x else f"({x})" for x in (numerator, denominator)]
    with w.block(f"if {only}{plain[0]} % {plain[1]}:"):
        said = (
            f"{numerator} = {{{numerator}}} is not divisible by {denominator} = {{{denominator}}}"
        )
        w.call("raise ValueError(", [f'f"{said}"'], ")")


def _divisions(system: System) -> list[tuple[str, str]]:
    """What is divided by what in sizes."""
    dims: list[Dim] = []
    exprs = [f.expr for f in system.flows.values()] + list(system.output.values())
    for e in exprs:
        for node in walk(e):
            dims += [d for d in (node.type.dims if node.type else ()) if not isinstance(d, Like)]
    for s in system.states.values():
        dims += [d for d in s.dims if not isinstance(d, Like)]
    out: dict[tuple[str, str], None] = {}
    for d in dims:
        for monomial, c in d.terms:
            down = [s for s, x in monomial for _ in range(max(-x, 0))]
            down += [str(c.denominator)] if c.denominator != 1 else []
            if down and not any("(" in s or s.startswith("?") for s, _ in monomial):
                up = [s for s, x in monomial for _ in range(max(x, 0))]
                up = ([str(c.numerator)] if c.numerator != 1 or not up else []) + up
                out[" * ".join(up), " * ".join(down)] = None
    return list(out)
