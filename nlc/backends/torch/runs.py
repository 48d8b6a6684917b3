"""How ``forward`` runs the components of a plan: whose state goes along, the call, chains as loops over levels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

from nlc.backends.reference.file import PartNames, attribute_path, first_span, place
from nlc.backends.torch.chains import WINDOWED, Chain, chained
from nlc.backends.torch.methods import Method
from nlc.backends.torch.rows import RowPrinter
from nlc.backends.torch.scanned import own_nodes, tuple_of
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.writer import WIDTH, Header, Writer
from nlc.ir.program import Let, Loop, Program
from nlc.ir.scan import Scan
from nlc.ir.types import Type


class Runs:
    """The part of the writer that prints calls of components."""

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
    looped: str  # the level that such a loop begins with, "" outside
    _statements: Callable[[Iterable[object]], None]
    ends_alone: Callable[[Scan], bool]

    def _levels(self, loop: Loop) -> list[str]:
        levels = self.program.system.levels
        found = (self.keys[v] for v in members(loop) if v in self.keys)
        names = [k.rpartition(".")[0] if k not in levels else k for k in found]
        return list(
            dict.fromkeys(
                n.partition(".")[0] if n.partition(".")[0] in levels else n for n in names
            )
        )

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
        begun = []
        if 4 * w.depth + len(start) > WIDTH:
            begun, start = ["(", *(f"    {n}," for n in names)], f") = {helper}("
        w.shortest(start, arguments, parts, begun)
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
        alike = groupby(parts, lambda x: (x if self.looped else "", " ".join(parts[x])))
        items = [f'{self._owned_by([*owners])}: "{names}"' for (_, names), owners in alike]
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


def members(loop: Loop) -> Iterable[str]:
    """What it carries, variable by variable."""
    for v in loop.carries:
        yield from loop.stacks.get(v, (v,))


def _listed(value: object) -> bool:
    return isinstance(value, list | tuple)
