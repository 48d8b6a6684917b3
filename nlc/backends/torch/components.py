"""Components of a plan as methods: one tile (or one token), what it carries on, what it collects.

Loops that do the same with other variables share a method. ``forward`` calls ``tiles``, which runs a method from
boundary to boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

from nlc.backends.reference.file import (
    MODULE_INTERNALS,
    PartNames,
    attribute_path,
    first_span,
    place,
    ticks_now,
)
from nlc.backends.torch.chains import WINDOWED, Chain, chained
from nlc.backends.torch.methods import (
    Method,
    form,
    owner_of,
    renamed_hypers,
    shared_names,
    under_names,
    without_owner,
)
from nlc.backends.torch.rows import RowPrinter
from nlc.backends.torch.scanned import assigned, own_nodes, tuple_of
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.writer import WIDTH, Header, Writer
from nlc.ir.program import Let, Loop, Program
from nlc.ir.scan import Scan
from nlc.ir.types import Type


class Components:
    """The part of the writer that prints loops."""

    OUTSIDE: frozenset[str]  # names of Python and of the file that a method may use
    program: Program
    header: Header
    w: Writer
    plain: TorchPrinter
    row: RowPrinter
    printer: TorchPrinter
    keys: dict[str, str]  # of the variables of slots
    parts: PartNames
    first: str
    methods: dict[int, tuple[Method, list[str]]]  # of each loop, and what its call gives the method
    called: dict[str, str]  # variables that a loop over levels has under another name
    said: dict[str, str]  # levels that are the variable of such a loop
    _statements: Callable[[Iterable[object]], None]
    ends_alone: Callable[[Scan], bool]
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

    def _levels(self, loop: Loop) -> list[str]:
        levels = self.program.system.levels
        found = (self.keys[v] for v in members(loop) if v in self.keys)
        names = [k.rpartition(".")[0] if k not in levels else k for k in found]
        return list(
            dict.fromkeys(
                n.partition(".")[0] if n.partition(".")[0] in levels else n for n in names
            )
        )

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

    def _carried(self, loop: Loop) -> list[str]:
        """What goes from tile to tile, in one row what has one owner."""
        fixed = self._fixed(loop)
        found = [v for v in loop.carries if v not in fixed]
        order = {o: i for i, o in enumerate(dict.fromkeys(self._owner(v, loop) for v in found))}
        return sorted(found, key=lambda v: order[self._owner(v, loop)])

    def _owner(self, v: str, loop: Loop) -> str:
        """The levels whose state a variable is, or what they carry; "" where it is of none."""
        levels = self.program.system.levels
        out = []
        for key in (self._key(m) for m in loop.stacks.get(v, (v,))):
            words = key.split(".")
            starts = (".".join(words[:n]) for n in range(len(words), 0, -1))
            out.append(next((o for o in starts if o in levels), ""))
        return " ".join(out)

    def _fixed(self, loop: Loop) -> list[str]:
        """What is no slot and stays as it is: constants of several memories as one."""
        moved = {n for x in loop.body for n in (x.names if isinstance(x, Let) else x.record.states)}
        kept = {*self.keys, *loop.stacks}
        return [v for v in loop.carries if v not in kept and v not in moved]

    # -------------------------------------------------------------------------------------------- calls

    def component(self, loop: Loop) -> None:
        """The call that runs a loop."""
        w, (method, values) = self.w, self.methods[id(loop)]
        types = self._types(loop)
        axis = lambda v: str(-1 - types[v].rank)  # noqa: E731
        carried = self._carried(loop)
        held = [v for v in carried if v not in self.keys and v not in loop.stacks]
        for v in held:
            w(f'state["held:{v}"] = {v}')
        fixed = self._fixed(loop)
        called = lambda v: self.called.get(v, v)  # noqa: E731
        parts = {
            "fixed": tuple_of(fixed) if fixed else "",
            "carried": self._carries(loop)
            if loop.periods
            else tuple_of([f'"{self._key(v)}"' for v in carried]),
            "flows": tuple_of([f"({called(o)}, {axis(i)})" for o, i in loop.slices.items()]),
        }
        before = "seen" if loop.periods or loop.counter else "0"
        cuts = [tuple_of(self._cuts(loop))] if loop.periods else []

        def arguments(said: dict[str, str]) -> list[str]:
            given = ", ".join([f"self.{method.name}", *values, *filter(None, [said["fixed"]])])
            body = f"partial({given})" if "," in given else given
            return [body, "state", before, said["carried"], *cuts, said["flows"]]

        w.at(place(self.header, first_span(loop.body)))
        helper = self.plain.use("tiles" if loop.periods else "tokens")
        names = [called(o) for o in loop.collects]
        targets = ", ".join(names) if len(names) > 1 else f"({''.join(names)},)"
        start = f"{targets} = {helper}(" if names else f"{helper}("
        if 4 * w.depth + len(start) > WIDTH:
            w("(")
            for n in names:
                w(f"    {n},")
            start = f") = {helper}("
        w.shortest(start, arguments, parts)
        for v in held:
            w(f'{v} = state.pop("held:{v}")')

    def _cuts(self, loop: Loop) -> list[str]:
        """The periods whose boundaries end a tile; scans of ends take as many tokens as one triangular solve."""
        scans = [x for x in loop.body if isinstance(x, Scan) and self.ends_alone(x)]
        most = [self.plain.use("CHUNK")] if scans else []
        return [*map(self.plain.size, loop.periods), *most]

    def _key(self, v: str) -> str:
        return self.keys.get(v, f"held:{v}")

    def _carries(self, loop: Loop) -> str:
        """The keys of what it carries, by owner; a level's own state is its "."."""
        parts: dict[str, list[str]] = {}
        for v in self._carried(loop):
            owner = self._owner(v, loop)
            key = self._key(loop.stacks.get(v, (v,))[0])
            own = key.removeprefix(owner.split(" ")[0]).lstrip(".")
            parts.setdefault(owner, []).append(own or ".")
        groups: dict[tuple[str, str], list[str]] = {}  # owners in a row that carry the same
        for owner, names in parts.items():
            own = owner if self.looped else ""
            groups.setdefault((own, " ".join(names)), []).append(owner)
        items = [f'{self._owned_by(owners)}: "{names}"' for (_, names), owners in groups.items()]
        return f"{{{', '.join(items)}}}"

    def _owned_by(self, owners: list[str]) -> str:
        """Owners of state as text; of what belongs to the level that a loop is at through its name."""
        if self.looped and f"{owners[0]}.".startswith(f"{self.looped}."):
            (owner,) = owners
            inner = owner.removeprefix(self.looped)
            return f'f"{{name}}{inner}"' if inner else "name"
        return f'"{", ".join(owners)}"'

    def _types(self, loop: Loop) -> dict[str, Type]:
        out: dict[str, Type] = {}
        for x in loop.body:
            for n in own_nodes(x):
                if n.op == "var":
                    out.setdefault(str(n.attr), n.type)
            if isinstance(x, Let):
                names = x.names if x.expr.op not in WINDOWED else x.names[:1]
                out |= dict.fromkeys(names, x.expr.type)
        return out

    def in_order(self, body: Iterable[Let | Scan | Loop], kept: Iterable[str]) -> None:
        """Statements, a chain of levels as a loop over them; ``kept``: what is read behind."""
        lists = {n: len(h.value) for n, h in self.program.system.hypers.items() if _listed(h.value)}
        found = chained(body, self._own_level, lists, self.keys, kept, self.program.names)
        for chain, part in groupby(found, key=lambda x: isinstance(x, Chain)):
            if not chain:
                self._statements(part)
                continue
            for x in part:
                self._chain(x)

    def _own_level(self, loop: Loop) -> str | None:
        """Whose tiles a loop runs, if it is one level's that is called in text as in code."""
        levels = self._levels(loop) if loop.periods and not self._fixed(loop) else []
        if len(levels) != 1 or any(v not in self.keys for v in loop.carries):
            return None
        (level,) = levels
        return level if attribute_path(level) == f"self.{level}" else None

    def _chain(self, c: Chain) -> None:
        w, row, plain = self.w, self.row, self.plain
        for name, start in c.enters.items():
            w(f"{name} = {row.place(start)}")
        hyper, attribute, places = plain.hyper, plain.attribute, row.places
        names = tuple_of([f'"{x}"' for x in c.levels])
        if c.hypers:
            lists = [f"{hyper(x)}{part}" for x, part in c.over.items()]
            head = f"for name, {', '.join(c.hypers.values())} in zip("
            w.nested(head, [names, *lists, "strict=True"], "):")
        else:
            w(f"for name in {names}:")
        w.depth += 1
        level = f"{c.levels[0]}."

        def owned(path: str) -> str:
            """What a level owns, through its name."""
            if not path.startswith(level):
                return attribute(path)
            return f"level.{attribute_path(path.removeprefix(level)).removeprefix('self.')}"

        given = {hyper(x): name for x, name in c.hypers.items()}
        loop = c.first[-1]
        method, values = self.methods[id(loop)]
        self.methods[id(loop)] = method, [given.get(v, v) for v in values]
        before = self.called
        self.called, self.looped = {**before, **c.names}, c.levels[0]
        plain.places = row.places = {**places, **c.names}
        plain.attribute = row.attribute = owned
        plain.hyper = row.hyper = lambda x: c.hypers.get(x) or hyper(x)
        if any(str(n.attr).startswith(level) for x in c.first[:-1] for n in own_nodes(x)):
            w("level = self.get_submodule(name)")
        self._statements(c.first)
        self.called, self.looped = {**before, **c.leaves}, ""
        plain.attribute = row.attribute = attribute
        plain.hyper = row.hyper = hyper
        plain.places = row.places = {**places, **c.leaves}
        self.methods[id(loop)] = method, values
        w.depth -= 1

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
        self.around = loop.body
        self._guarded(loop, tiled, m.short)
        self.around = ()
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


def members(loop: Loop) -> Iterable[str]:
    """What it carries, variable by variable."""
    for v in loop.carries:
        yield from loop.stacks.get(v, (v,))


def _listed(value: object) -> bool:
    return isinstance(value, list | tuple)


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
