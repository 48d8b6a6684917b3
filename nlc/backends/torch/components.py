"""Components of a plan as methods: one tile (or one token), what it carries on, what it collects.

Loops that do the same with other variables share a method. ``forward`` calls ``tiles``, which runs a method from
boundary to boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

from nlc.backends.reference.file import MODULE_INTERNALS, first_span, place, ticks_now
from nlc.backends.torch.methods import (
    Method,
    form,
    owner_of,
    renamed_hypers,
    shared_names,
    under_names,
    without_owner,
)
from nlc.backends.torch.runs import Runs
from nlc.backends.torch.scanned import assigned, own_nodes
from nlc.backends.writer import WIDTH
from nlc.ir.program import Let, Loop


class Components(Runs):
    """The part of the writer that prints loops."""

    OUTSIDE: frozenset[str]  # names of Python and of the file that a method may use
    _as_rows: Callable[..., None]
    _as_tokens: Callable[[], None]

    def plan_methods(self, body: Iterable[object]) -> None:
        """Which loops share which methods."""
        loops = [x for x in body if isinstance(x, Loop)]
        forms = {id(x): form(x) for x in loops}
        alike: dict[object, list[Loop]] = {}
        for x in loops:
            alike.setdefault(forms[id(x)].text, []).append(x)
        taken: set[str] = set()
        for group in alike.values():
            found = [forms[id(x)] for x in group]
            several = len(group) > 1
            names = shared_names(zip(*(f.variables for f in found))) if several else {}
            differ = [hs for hs in zip(*(f.hypers for f in found)) if len(set(hs)) > 1]
            inside = {hs[0]: _element(hs[0], len(differ) > 1) for hs in differ}
            loop = renamed_hypers(under_names(group[0], names), inside)
            levels = [self._levels(x) for x in group]
            name, n = self._method_name(levels), 2
            while name in taken or name in MODULE_INTERNALS:
                name, n = f"{name.rstrip('_0123456789')}_{n}", n + 1
            taken.add(name)
            carried = [names.get(v, v) for v in self._carried(group[0])]
            whole = tuple(dict.fromkeys(level for ls in levels for level in ls))
            whose = owner_of([level.replace(".", "_") for ls in levels for level in ls])
            given = [*inside.values()]
            short = self._short(loop, whose, given)
            method = Method(name, loop, tuple(carried), whole, tuple(given), whose, short)
            for i, x in enumerate(group):
                self.methods[id(x)] = (method, [self.plain.hyper(hs[i]) for hs in differ])

    def _short(self, loop: Loop, whose: str, given: list[str]) -> dict[str, str]:
        """Names that do not repeat whose they are, where no variable is called like the level itself."""
        names = {str(n.attr) for x in loop.body for n in own_nodes(x) if n.op == "var"}
        names |= {n for x in loop.body for n in assigned(x)} | {*loop.carries}
        names |= {*loop.slices.values(), *loop.collects.values()}
        if not whose or whose in loop.carries:
            return {}
        return without_owner(sorted(names), whose, {*given, *self.OUTSIDE})

    def _method_name(self, levels: list[list[str]]) -> str:
        """After what the component's levels are called."""
        first = [ls[0].replace(".", "_") for ls in levels if ls]
        if not first:
            return "_flows"
        return "_" + shared_names([tuple(first)])[first[0]].strip("_")

    # -------------------------------------------------------------------------------------------- methods

    def write_methods(self) -> None:
        """One method for every form."""
        for method in {id(m): m for m, _ in self.methods.values()}.values():
            self.w()
            with self.parts.inside(method.whose if method.short else "", method.short.values()):
                self._method(method)
        self.plain.places = self.row.places = {}

    def _method(self, m: Method) -> None:
        w, loop = self.w, m.loop
        called = lambda names: [m.short.get(n, n) for n in names]  # noqa: E731
        tiled, carried = bool(loop.periods), called(m.carried)
        flows, fixed = called(loop.slices.values()), called(self._fixed(loop))
        args = ["self", *(f"{n}: int" for n in m.parameters)]
        args += ["fixed: Sequence[Tensor]"] if fixed else []
        args += ["start: int", "stop: int"] if tiled else ["stop: int"]
        args += ["carried: list[Tensor]", *(["*flows: Tensor"] if flows else [])]
        if tiled and self.header.fused:
            w("@torch.compile  # once for all tiles, in the first call")
        w.define(m.name, args, self.plain.use("Tile"))
        w.depth += 1
        w(f'"""{self._said(m)}"""')
        self._taken(fixed, "fixed")
        self._taken(carried, "carried")
        self._taken(flows, "flows")
        self.plain.places = self.row.places = m.short
        self.plain.like = self.row.like = like = next(iter(carried), self.first)
        hyper = self.plain.hyper
        inside = lambda name: name if name in m.parameters else hyper(name)  # noqa: E731
        self.plain.hyper = self.row.hyper = inside
        self.row.dtype = self.plain.dtype = f"{like}.dtype"
        self.row.cast = self.plain.cast = self._weights(loop)
        if tiled:
            self._as_rows("stop - start")
        if loop.counter:
            self.plain.numbers.add(loop.counter)
            self.plain.places = self.row.places = {**m.short, loop.counter: "stop"}
        self.around, self.stacks = loop.body, loop.stacks
        self._guarded(loop, tiled, m.short)
        self.around, self.stacks = (), {}
        self._as_tokens()
        self.row.dtype = self.plain.dtype = self.row.cast = self.plain.cast = None
        self.plain.hyper = self.row.hyper = hyper
        self.plain.like = self.row.like = self.first
        types = self._types(loop)
        collected = [(n, -1 - types[n].rank) for n in loop.collects.values()]
        self._returned(carried, [f"({m.short.get(n, n)}, {axis})" for n, axis in collected])
        w.depth -= 1

    def _weights(self, loop: Loop) -> dict[str, str] | None:
        """Names for the weights that a method reads."""
        nodes = [n for x in loop.body for n in own_nodes(x) if n.op in ("weight", "initial")]
        paths = [f"{n.attr}.init" if n.op == "initial" else str(n.attr) for n in nodes]
        if not nodes:
            return None
        out = {}
        for path, n in dict(zip(paths, nodes)).items():
            text = self.plain.stored(path)
            out[path] = self.parts(path.replace(".", "_"), n)
            self.w.at(place(self.header, self.weights.span(path)))
            self.w(f"{out[path]} = {text}")
        return out

    def _said(self, m: Method) -> str:
        what = ", ".join(m.levels) or "flows"
        if not m.loop.periods:
            return f"{what}: one token."
        periods = ", ".join(x.removeprefix("self.") for x in self._cuts(m.loop))
        return f"{what}: tokens between two boundaries of {periods} tokens."

    def _taken(self, names: list[str], source: str) -> None:
        """Names for the elements of a list, on as many lines as they need."""
        if not names:
            return
        whole = f"{', '.join(names)} = {source}"
        fits = len(names) > 1 and 4 * self.w.depth + len(whole) <= WIDTH
        lines = [names] if fits else _lines(names, 4 * self.w.depth + len(source) + 12)
        start = 0
        for line in lines:
            stop = start + len(line)
            targets = ", ".join(line) if len(line) > 1 else f"({line[0]},)"
            part = "" if len(lines) == 1 else f"[{start or ''}:{stop if stop < len(names) else ''}]"
            self.w(f"{targets} = {source}{part}")
            start = stop

    def _returned(self, carried: list[str], collected: list[str]) -> None:
        one = f"return [{', '.join(carried)}], [{', '.join(collected)}]"
        if 4 * self.w.depth + len(one) <= WIDTH:
            self.w(one)
            return
        for i, line in enumerate(_lines(carried, 4 * self.w.depth + 14)):
            self.w(f"carried {'+=' if i else '='} [{', '.join(line)}]")
        self.w.collection("return carried, [", collected, "]")

    def _guarded(self, loop: Loop, tiled: bool, short: dict[str, str]) -> None:
        """The statements, those of a boundary where it is one."""
        w = self.w
        key = lambda x: x.when if isinstance(x, Let) else None  # noqa: E731
        for when, part in groupby(loop.body, key=key):
            if when is None:
                self._statements(part)
                continue
            counter = ("stop" if when.phase == "end" else "start + 1") if tiled else "stop"
            condition = ticks_now(when, counter, self.printer)
            condition = condition.replace("(start + 1 - 1)", "start")
            if loop.counter:
                place = f"({counter})" if " " in counter else counter
                self.plain.places = self.row.places = {**short, loop.counter: place}
            with w.block(f"if {condition}:"):
                self._at_boundary(list(part))

    def _at_boundary(self, part: list[Let]) -> None:
        """What is set at a boundary; values of other variables as many in a line as fit."""
        values = {n: str(x.expr.attr) for x in part if x.expr.op == "var" for n in x.names}
        if len(values) < len(part) or values.keys() & {*values.values()}:
            self._statements(part)
            return
        w, put, note = self.w, self.row.place, part[0].note
        w.at(place(self.header, first_span(part)))
        pairs = [f"{put(n)} = {put(v)}" for n, v in values.items()]  # as long as what is printed
        for line in _lines(pairs, 4 * w.depth + len(f"  # {note}; {w.coming}")):
            names, sources = zip(*(pair.split(" = ") for pair in line))
            w(f"{', '.join(names)} = {', '.join(sources)}", note)


def _element(name: str, several: bool) -> str:
    """The parameter that an element of a list is: ``periods[0]`` is a ``period``."""
    base, _, index = name.partition("[")
    return base.removesuffix("s") + (f"_{index.rstrip(']')}" if several else "")


def _lines(names: list[str], used: int) -> list[list[str]]:
    """Names in as few lines as they fit, as many in each where that is possible."""
    fits = lambda line: used + len(", ".join(line)) <= WIDTH  # noqa: E731
    out: list[list[str]] = [[]]
    for n in names:
        if out[-1] and not fits([*out[-1], n]):
            out.append([])
        out[-1].append(n)
    size = -(-len(names) // len(out))
    even = [names[i : i + size] for i in range(0, len(names), size)]
    return even if all(map(fits, even)) else out
