"""Small hypers for a spec: large enough to show a mistake, small enough for a slow check.

Widths are halved while every size stays whole, every constraint holds and what was more than one stays so. Periods keep
their order and who is a multiple of whom: 16, 64, 256, 1024 become 2, 4, 8, 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from nlc.base.diagnostics import nearest
from nlc.ir.constants import BINARY, FUNCTIONS
from nlc.ir.expr import Expr, walk
from nlc.ir.shapes import HEADS
from nlc.ir.system import Hyper, System
from nlc.ir.types import Clock, Dim, Number

Values = dict[str, Number | bool | list[Number]]


class BadHyper(ValueError):
    """A hyper that the spec has not, or a value that it cannot have."""

    option = "--set"  # of the command line


class BadPeer(BadHyper):
    """A class to compare with that is not there, or an argument that it has not."""

    option = "--against"


def settled(system: System, given: Mapping[str, object]) -> Values:
    """All hypers by name, the derived ones computed; a list's elements as ``name[i]`` too."""
    for n in given:
        if n not in system.hypers:
            close = nearest(n, system.hypers)
            hint = f"did you mean `{close}`?" if close else f"there are: {', '.join(system.hypers)}"
            raise BadHyper(f"`{system.name}` has no hyper `{n}`; {hint}")
    out: Values = {}

    def settle(h: Hyper) -> None:
        if h.name in out:
            return
        if h.name in given or not h.derived:
            out[h.name] = given.get(h.name, h.value)  # type: ignore[assignment]
        else:
            for n in walk(h.default):
                if n.op == "hyper":
                    settle(system.hypers[str(n.attr).partition("[")[0]])
            out[h.name] = constant(h.default, out, isinstance(h.value, int))
        if isinstance(out[h.name], list):
            out.update({f"{h.name}[{i}]": v for i, v in enumerate(out[h.name])})

    try:
        for h in system.hypers.values():
            settle(h)
    except ZeroDivisionError:
        raise BadHyper("a hyper that divides is 0") from None
    return out


def constant(e: Expr, hypers: Values, whole: bool) -> Number:
    """What a derived hyper comes to; a size divides exactly."""
    if e.op in ("num", "bool"):
        return e.attr
    if e.op == "hyper":
        return hypers[e.attr]
    args = [constant(a, hypers, whole) for a in e.args]
    if e.op == "neg":
        return -args[0]
    if e.op == "list":
        return args
    if e.op == "div":
        ratio = Fraction(args[0]) / Fraction(args[1]) if whole else args[0] / args[1]
        return int(ratio) if whole and ratio.denominator == 1 else ratio
    return FUNCTIONS[e.op](*args) if e.op in FUNCTIONS else BINARY[e.op](*args)


def small(system: System, fixed: Mapping[str, object], width: int, periods: bool = True) -> Values:
    """Hypers to construct with: ``fixed`` as given, widths at most ``width`` where they can be.

    ``periods``: whether those shrink too. Only what differs from the spec's defaults is named.
    """
    chosen: Values = dict(fixed)  # type: ignore[arg-type]
    clocks = _clocks(system)
    timed = {s for c in clocks for s in c.count.symbols}
    shaped = {s for d in _dims(system) for s in d.symbols}
    if periods:
        _shrink_periods(system, chosen, clocks, timed - shaped)
    sound = _Sound(system)
    names = [
        h.name for h in system.hypers.values() if _free(h, fixed) and h.name not in timed - shaped
    ]
    progress = True
    while progress:
        progress = False
        now = settled(system, chosen)
        for name in sorted(names, key=lambda n: (n != "heads", -now[n])):
            least = 2 if name == "heads" else width
            smaller = {**chosen, name: now[name] // 2}
            if now[name] % 2 == 0 and now[name] // 2 >= least and sound(smaller):
                chosen, progress = smaller, True
                break
    return chosen


def longest(system: System, hypers: Values) -> int:
    """The longest period of a level, in ticks of the base clock."""
    sizes = {k: v for k, v in hypers.items() if not isinstance(v, list)}
    return max((int(c.count.evaluate(sizes)) for c in _clocks(system)), default=1)


def _free(h: Hyper, fixed: Mapping[str, object]) -> bool:
    whole = isinstance(h.value, int) and not isinstance(h.value, bool)
    return h.static and whole and not h.derived and h.name not in fixed


def _clocks(system: System) -> list[Clock]:
    out = []
    for level in system.levels.values():
        out += [level.clock, level.anchor, level.reset.every if level.reset else None]
    return [c for c in out if c is not None and c.kind == "every"]


def _shrink_periods(system: System, chosen: Values, clocks: list[Clock], names: set[str]) -> None:
    """Smallest first, each to the least number that keeps the order and what divides what."""
    now = settled(system, chosen)
    free = {n for n in names if _free(system.hypers[n.partition("[")[0]], chosen) or "[" in n}
    free = {n for n in free if n.partition("[")[0] not in chosen and isinstance(now[n], int)}
    constants = {int(c.count.constant) for c in clocks if c.count.constant is not None}
    new = {v: v for v in constants}
    for old in sorted({now[n] for n in free} - constants):
        below = [v for v in new if v < old]
        least = max([1, *(new[v] for v in below)]) + 1 if old > 1 else 1

        def keeps(candidate: int, old: int = old) -> bool:
            return all(
                (old % v or candidate % w == 0) and (v % old or w % candidate == 0)
                for v, w in new.items()
            )

        new[old] = next((c for c in range(least, old) if keeps(c)), old)
    for n in sorted(free):
        base, bracket, _ = n.partition("[")
        if bracket:
            chosen[base] = [new.get(v, v) for v in now[base]]
        elif new[now[n]] != now[n]:
            chosen[n] = new[now[n]]


def _dims(system: System) -> list[Dim]:
    exprs = [*(f.expr for f in system.flows.values()), *system.output.values()]
    exprs += [e for level in system.levels.values() for e in level.expressions]
    out = [n.type.dims for e in exprs for n in walk(e) if n.type is not None]
    out += [(HEADS / n.attr,) for e in exprs for n in walk(e) if n.op == "split" and n.attr]
    out += [s.dims for s in system.states.values()]
    out += [dims for m in system.modules.values() for dims in m.shapes.values()]
    out += [i.dims for i in system.inputs.values()]
    dims = dict.fromkeys(d for each in out for d in each if isinstance(d, Dim))
    return [*dims, *([HEADS] if system.heads is not None else [])]


class _Sound:
    """Whether a system can be built at given hypers and still shows what it is."""

    def __init__(self, system: System):
        self.system, self.dims = system, _dims(system)
        sizes = system.sizes
        self.plural = [d for d in self.dims if _known(d, sizes) and d.evaluate(sizes) > 1]
        exprs = [*(f.expr for f in system.flows.values()), *system.output.values()]
        nodes = [n for e in exprs for n in walk(e) if n.op == "rotary"]
        self.even = [n.args[0].type.dims[0] for n in nodes]

    def __call__(self, chosen: Values) -> bool:
        sizes = {k: v for k, v in settled(self.system, chosen).items() if not isinstance(v, list)}
        if any(isinstance(v, Fraction) for v in sizes.values()):
            return False
        known = [d for d in self.dims if _known(d, sizes)]
        values = {d: d.evaluate(sizes) for d in known}
        return (
            all(v.denominator == 1 and v >= 1 for v in values.values())
            and all(values[d] > 1 for d in self.plural)
            and all(d.evaluate(sizes) % 2 == 0 for d in self.even)
            and all(
                a.evaluate(sizes) == b.evaluate(sizes)
                for a, b, _ in self.system.constraints
                if _known(a, sizes) and _known(b, sizes)
            )
        )


def _known(d: Dim, sizes: Mapping[str, Number]) -> bool:
    return d.symbols <= sizes.keys()
