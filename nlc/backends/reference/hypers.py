"""The constructor's hypers: keyword arguments with the spec's defaults, derived ones computed, sizes checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from nlc.backends.writer import WIDTH, Writer
from nlc.ir.constants import written
from nlc.ir.expr import Expr, walk
from nlc.ir.shapes import HEADS
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


def sort(h: Hyper) -> str:
    """The type of a hyper, as a class."""
    return "tuple" if isinstance(h.value, list) else kind(h)


def _default(h: Hyper) -> str:
    if h.derived:
        return "None"
    if isinstance(h.value, list):
        return f"({', '.join(map(repr, h.value))}{',' if len(h.value) == 1 else ''})"
    return _number(h.value)


def default_text(h: Hyper) -> str:
    """A hyper's default as documentation says it."""
    return constant(h.default, _is_whole(h)) if h.derived else _default(h)


def _number(value: object) -> str:
    if value in (float("inf"), float("-inf")):
        return 'float("inf")' if value > 0 else '-float("inf")'
    return repr(value)


Use = Callable[[str], str]  # a helper of the file, which is to be in it


def settle(w: Writer, system: System, use: Use) -> None:
    """Sizes and numbers checked, and derived hypers at their defaults, each after those that it reads.

    An optimizer that derives none checks them as those of a group, which each group may have others of.
    """
    sizes = {h.name: h for h in system.hypers.values() if _is_size(h)}
    sound = [name for name in sizes if _stays_positive(name, sizes)]
    grouped = system.trains and not any(h.derived for h in system.hypers.values())
    _sound(w, use, [] if grouped else list(sizes), [h for h in _lists(system) if not h.derived])
    if not grouped:
        _plain(w, use, [h for h in system.hypers.values() if not h.derived])
    given = {n for n, h in system.hypers.items() if not h.derived}
    for numerator, denominator, symbols in _divisions(system):
        if symbols <= given:
            _divides(w, system, numerator, denominator)
    derived = _in_order(system)
    divided = _divided_defaults(
        [h for h in system.hypers.values() if h.derived],
        [x[:2] for x in _divisions(system) if x[2] <= given],
    )
    for h in derived:
        for pair in [p for p, names in divided.items() if h.name in names]:
            names = divided.pop(pair)
            only = f"{names[0]} is None" if len(names) == 1 else f"None in ({', '.join(names)})"
            _divides(w, system, *pair, f"{only} and ")
        _derived(w, h)
    late = [name for name in sizes if name not in sound]
    _sound(w, use, late, [h for h in _lists(system) if h.derived])
    _plain(w, use, [h for h in system.hypers.values() if h.derived])


def derive(w: Writer, system: System) -> None:
    """Derived hypers at their defaults; nothing is checked."""
    for h in _in_order(system):
        _derived(w, h)


def _in_order(system: System) -> list[Hyper]:
    """Derived hypers, each after those that it reads."""
    done = {n for n, h in system.hypers.items() if not h.derived}
    waiting, out = [h for h in system.hypers.values() if h.derived], []
    while waiting:
        out.append(next(h for h in waiting if _reads(h.default) <= done))
        waiting.remove(out[-1])
        done.add(out[-1].name)
    return out


def _derived(w: Writer, h: Hyper) -> None:
    w(f"{h.name} = {constant(h.default, _is_whole(h))} if {h.name} is None else {h.name}")


def _plain(w: Writer, use: Use, some: list[Hyper]) -> None:
    """TypeError for what is no number."""
    if numbers := [f"{h.name}={h.name}" for h in some if kind(h) == "float"]:
        w.calls(f"{use('plain_numbers')}(self, ", numbers, ")")


def _is_whole(h: Hyper) -> bool:
    """Whether it comes out whole at the defaults, or all its members do."""
    return all(isinstance(v, int) for v in (h.value if isinstance(h.value, list) else [h.value]))


def _lists(system: System) -> list[Hyper]:
    return [h for h in system.hypers.values() if isinstance(h.value, list) and h.static]


def _is_size(h: Hyper) -> bool:
    return h.static and isinstance(h.value, int) and not isinstance(h.value, bool)


def _stays_positive(name: str, sizes: dict[str, Hyper]) -> bool:
    """Whether a size is at least 1 if those that are given are: its default adds, multiplies and divides evenly."""
    if name not in sizes or not sizes[name].derived:
        return name in sizes
    return all(
        _stays_positive(str(n.attr), sizes)
        if n.op == "hyper"
        else n.op in ("add", "mul", "div")
        or (n.op == "num" and isinstance(n.attr, int) and n.attr >= 1)
        for n in walk(sizes[name].default)
    )


def _divided_defaults(
    derived: list[Hyper], known: list[tuple[str, str]]
) -> dict[tuple[str, str], list[str]]:
    """What must be divisible where a hyper is left at its default: numerator and denominator, and which hypers."""
    out: dict[tuple[str, str], list[str]] = {}
    for h in derived:
        for n in walk(h.default) if isinstance(h.value, int) else ():
            pair = tuple(constant(x, True) for x in n.args) if n.op == "div" else None
            if pair is not None and pair not in known and h.name not in out.get(pair, ()):
                out.setdefault(pair, []).append(h.name)
    return out


def _sound(w: Writer, use: Use, names: list[str], lists: list[Hyper]) -> None:
    """ValueError for sizes that are no whole numbers or below 1, and for lists of another length."""
    names = names + [h.name for h in lists]
    if names:
        w.calls(f"{use('whole_sizes')}(self, ", [f"{n}={n}" for n in names], ")")
    for h in lists:
        with w.block(f"if len({h.name}) != {len(h.value)}:"):
            said = f"{h.name} = {{{h.name}}} must have {len(h.value)} entries ({where(h)})"
            w.call("raise ValueError(", [f'f"{said}"'], ")")


def where(h: Hyper) -> str:
    """``titans.yaml:9``, inside an f-string."""
    name = Path(h.span.source.name).name
    return json.dumps(f"{name}:{h.span.line}")[1:-1].replace("{", "{{").replace("}", "}}")


def keep(w: Writer, pairs: list[tuple[str, str]]) -> None:
    """``self.d, self.heads = d, heads``: targets and values, as many on a line as fit."""
    while pairs:
        count, length = 0, 4 * w.depth + len(" = ")
        for target, value in pairs:
            length += len(target) + len(value) + (2 * len(", ") if count else 0)
            if count and length > WIDTH:
                break
            count += 1
        targets, values = (", ".join(x) for x in zip(*pairs[:count]))
        w(f"{targets} = {values}")
        pairs = pairs[count:]


def _reads(e: Expr) -> set[str]:
    return {str(n.attr).partition("[")[0] for n in walk(e) if n.op == "hyper"}


def constant(e: Expr, whole: bool, binds: int = 0) -> str:
    """A hyper's default as Python text; whole numbers divide exactly (checked)."""
    if e.op in ("num", "bool"):
        return _number(e.attr)
    if e.op == "hyper":
        return str(e.attr)
    if e.op == "list":
        items = [constant(a, whole) for a in e.args]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if e.op == "neg":
        text = f"-{constant(e.args[0], whole, 4)}"
        return f"({text})" if binds > 3 else text
    if e.op in _BINARY:
        rank = {"add": 1, "sub": 1, "mul": 2, "div": 2, "pow": 4}[e.op]
        glyph = "//" if e.op == "div" and whole else _BINARY[e.op]
        left, right = (rank + 1, rank) if e.op == "pow" else (rank, rank + 1)
        text = f"{constant(e.args[0], whole, left)} {glyph} {constant(e.args[1], whole, right)}"
        return f"({text})" if rank < binds else text
    return f"{written(e.op)}({constant(e.args[0], False)})"


def check(w: Writer, system: System) -> None:
    """Sizes must come out whole, and what is equal only by default must still be equal: ValueError otherwise."""
    given = {n for n, h in system.hypers.items() if not h.derived}
    for numerator, denominator, symbols in _divisions(system):
        if not symbols <= given:
            _divides(w, system, numerator, denominator)
    for a, b in _equal(system):
        with w.block(f"if {a.python} != {b.python}:"):
            said = f"{a} = {{{a.python}}} and {b} = {{{b.python}}} must be equal here"
            names = (s.partition("[")[0] for d in (a, b) for s in sorted(d.symbols))
            at = next((f" ({where(system.hypers[n])})" for n in names if n in system.hypers), "")
            w.call("raise ValueError(", [f'f"{said}{at}"'], ")")


def _equal(system: System) -> list[tuple[Dim, Dim]]:
    """What must be equal, each equation once: ``heads*n = d`` also says that ``d/heads = n``."""
    out: dict[Dim, tuple[Dim, Dim]] = {}
    for a, b, _ in system.constraints:
        if any(s.startswith("?") for s in (a - b).symbols):
            continue
        key = _undivided(a - b)
        key = -key if -key in out else key
        if key not in out or (_divisors(*out[key]) and not _divisors(a, b)):
            out[key] = a, b
    return list(out.values())


def _undivided(d: Dim) -> Dim:
    """A size times all that it is divided by."""
    while found := _divisors(d):
        d = d * found[0]
    return d


def _divisors(*sizes: Dim) -> list[Dim]:
    terms = [term for d in sizes for term in d.terms]
    out = [Dim.of(s) for monomial, _ in terms for s, x in monomial if x < 0]
    return out + [Dim.of(c.denominator) for _, c in terms if c.denominator != 1]


def _divides(w: Writer, system: System, numerator: str, denominator: str, only: str = "") -> None:
    """ValueError where the one is not a multiple of the other."""
    plain = [x if " " not in x else f"({x})" for x in (numerator, denominator)]
    with w.block(f"if {only}{plain[0]} % {plain[1]}:"):
        said = (
            f"{numerator} = {{{numerator}}} is not divisible by {denominator} = {{{denominator}}}"
        )
        names = re.findall(r"[^\W\d]\w*", f"{numerator} {denominator}")
        at = next((f" ({where(system.hypers[n])})" for n in names if n in system.hypers), "")
        w.call("raise ValueError(", [f'f"{said}{at}"'], ")")


def _divisions(system: System) -> list[tuple[str, str, set[str]]]:
    """What is divided by what in sizes, and the hypers of both."""
    dims: list[Dim] = []
    exprs = [f.expr for f in system.flows.values()] + list(system.output.values())
    for e in exprs:
        for node in walk(e):
            dims += [d for d in (node.type.dims if node.type else ()) if not isinstance(d, Like)]
            dims += [HEADS / node.attr] if node.op == "split" and node.attr is not None else []
    for s in system.states.values():
        dims += [d for d in s.dims if not isinstance(d, Like)]
    out: dict[tuple[str, str], set[str]] = {}
    for d in dims:
        for monomial, c in d.terms:
            down = [s for s, x in monomial for _ in range(max(-x, 0))]
            down += [str(c.denominator)] if c.denominator != 1 else []
            if down and not any("(" in s or s.startswith("?") for s, _ in monomial):
                up = [s for s, x in monomial for _ in range(max(x, 0))]
                up = ([str(c.numerator)] if c.numerator != 1 or not up else []) + up
                symbols = {s.partition("[")[0] for s, _ in monomial}
                out[" * ".join(up), " * ".join(down)] = symbols
    return [(up, down, symbols) for (up, down), symbols in out.items()]
