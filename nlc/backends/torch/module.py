"""A token system as an ``nn.Module`` without a loop over tokens, but where the plan has one.

``forward`` keeps what the stream carries in a copy of ``state``. What belongs to a component whose values change at
boundaries is a method of its own, which ``tiles`` runs from boundary to boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby

from nlc.backends.precedence import ATOM
from nlc.backends.reference.file import attribute_path, class_name, close_file, open_file, ticks_now
from nlc.backends.reference.module import ModuleWriter
from nlc.backends.torch.helpers import defined
from nlc.backends.torch.rows import RowPrinter
from nlc.backends.torch.scans import Form, form
from nlc.backends.writer import WIDTH, Header, Writer
from nlc.ir.expr import Expr, walk
from nlc.ir.program import Let, Loop, Parallel, Program, Return
from nlc.ir.scan import Read, Record, Scan
from nlc.ir.types import TOKEN, Type

_IMPORTS = ["import torch", "import torch.nn.functional as F", "from torch import Tensor, nn"]


def emit_module(program: Program, header: Header) -> str:
    """The whole file."""
    file, body = Writer(), Writer()
    open_file(file, program.system, header, program.about)
    emitter = TorchModule(program, header, body)
    emitter.write()
    texts = defined(emitter.printer.helpers, program.tile, program.channel_tile)
    return close_file(file, texts, body, _IMPORTS, class_name(program.system))


@dataclass
class _Scanned:
    """What reads of a scan are printed with."""

    form: Form | None  # None: its values at every token are there already
    record: Record
    arguments: str = ""
    one: str = ""  # a key of 1 for each token, where there is no other
    values: dict[int, str] = field(default_factory=dict)
    starts: dict[int, str] = field(default_factory=dict)


class TorchModule(ModuleWriter):
    """The reference's writer with scans, tiles and statements for all tokens at once."""

    def __init__(self, program: Program, header: Header, w: Writer):
        super().__init__(program, header, w)
        self.slots = {s.var: f'state["{s.key}"]' for s in program.slots}
        self.keys = {s.var: s.key for s in program.slots}
        self.plain, self.methods = self.printer, []
        self.row = RowPrinter(
            self.system, self._hyper, attribute_path, self.plain.helpers, self.first
        )
        self.row.numbers, self.row.reader = self.plain.numbers, self._read
        self.scans: dict[str, _Scanned] = {}
        self.inside = False  # of what takes the place of the loop over tokens

    # -------------------------------------------------------------------------------------------- forward

    def _open_state(self) -> None:
        """The caller's state stays as it is."""
        w = self.w
        if not any(isinstance(s, Parallel) for s in self.program.body):
            super()._open_state()
            return
        with w.block("if state is None:"):
            w(f"state = self.initial_state({self.first})")
        with w.block(f"elif state.keys() != {self._keys() if self._few_keys else 'self.STATE'}:"):
            w(
                'raise ValueError(f"state has the keys {sorted(state)}, which are not this system\'s")'
            )
        w("state = dict(state)")
        self.plain.places = self.row.places = self.slots

    def close_state(self, statement: Return) -> None:
        if not self.plain.places:
            super().close_state(statement)

    def statement(self, s: Let | Loop | Parallel | Return) -> None:
        if isinstance(s, Parallel):
            self._parallel(s)
        else:
            super().statement(s)

    def _parallel(self, s: Parallel) -> None:
        w = self.w
        with w.block(f"with torch.autocast({self.first}.device.type, enabled=False):"):
            w(f"dtype = {self._dtype()}")
            held = next((x.var for x in self.program.slots if x.kind == "level"), None)
            self.row.like = self.plain.place(held) if held else self.first
            self._to_rows(s)
            self._as_rows([*s.first, *s.body], f"{self.first}.shape[1]")
            for x in s.first:
                self._let(x)
            for x in s.body:
                self._inner(x)
            self._as_tokens()
        heads = self._heads(s)
        for outer, inner in s.collects.items():
            text = self.row.place(inner) + (".transpose(1, 2)" if heads[inner] else "")
            w(f"{outer} = {text}.to({self.first}.dtype)")

    def _dtype(self) -> str:
        held = next((s.var for s in self.program.slots if s.kind == "level"), None)
        return f"{self.printer.place(held)}.dtype" if held else super()._dtype()

    def _as_rows(self, statements: Iterable[Let | Scan | Loop], count: str) -> None:
        self.printer, self.inside = self.row, True
        self.row.tokens, self.row.cast = count, {}
        self.row.cast = self._cast(statements)

    def _as_tokens(self) -> None:
        self.printer, self.inside = self.plain, False

    def _cast(self, loop: Loop | Iterable[Let | Scan | Loop]) -> dict[str, str]:
        if isinstance(loop, Loop):
            return super()._cast(loop)
        out: dict[str, str] = {}
        for e in (n for x in loop for n in _own_nodes(x) if n.op in ("weight", "initial")):
            path = str(e.attr) + ".init" * (e.op == "initial")
            if path not in out:
                out[path] = self.parts(path.replace(".", "_"), e)
                self.w(f"{out[path]} = {attribute_path(path)}.to(dtype)")
        return out

    def _to_rows(self, s: Parallel) -> None:
        """Every flow that comes in, with its heads before its tokens."""
        heads = self._heads(s)
        turned = [(o, i) for o, i in s.slices.items() if heads[i]]
        for outer, inner in s.slices.items():
            if not heads[inner]:
                self.w(f"{inner} = {outer}.to(dtype)")
        if turned:
            targets = ", ".join(i for _, i in turned) + ("," if len(turned) == 1 else "")
            self.plain.use("rows")
            self.w.call(f"{targets} = rows(", ["dtype", *(o for o, _ in turned)], ")")

    def _heads(self, s: Parallel) -> dict[str, bool]:
        """Which variables have a head axis."""
        out: dict[str, bool] = {}
        for x in s.body:
            out |= {n.attr: n.type.head for n in _all_nodes(x) if n.op == "var"}
            out |= {n: let.expr.type.head for let in _lets(x) for n in let.names}
            for loop in _loops(x):
                out |= {o: out[i] for o, i in loop.collects.items() if i in out}
                out |= {o: out[i] for o, i in loop.slices.items() if i in out}
        return out

    def _inner(self, x: Let | Scan | Loop) -> None:
        """A statement of what takes the place of the loop."""
        if isinstance(x, Let):
            self._let(x)
        elif isinstance(x, Scan):
            self._scan(x)
        else:
            self._component(x)

    def _let(self, let: Let) -> None:
        if self.inside and let.expr.op in ("conv", "delay"):
            super()._let(let)
            if let.expr.type.head:
                name = let.names[0]
                self.w(f"{name} = {name}.transpose(1, 2)")
            return
        super()._let(let)

    # -------------------------------------------------------------------------------------------- components

    def _component(self, loop: Loop) -> None:
        """The call that runs a loop's body, and later the method that the body is."""
        w = self.w
        heads_ranks = self._types(loop)
        name = self._method_name(loop)
        slots = [v for v in loop.carries if v in self.keys or v in loop.stacks]
        held = [v for v in loop.carries if v not in self.keys and v not in loop.stacks]
        flows = [f"({o}, {-1 - heads_ranks[i].rank})" for o, i in loop.slices.items()]
        axes = [str(-1 - heads_ranks[i].rank) for i in loop.collects.values()]
        keys = [
            _tuple([f'"{self.keys[m]}"' for m in loop.stacks[v]])
            if v in loop.stacks
            else f'"{self.keys[v]}"'
            for v in slots
        ]
        args = [f"self.{name}", "state", _tuple(keys)]
        if loop.periods:
            args.append(_tuple([self.plain.size(p) for p in loop.periods]))
        args += [_tuple(flows), _tuple(axes)]
        args += [_tuple(held)] if held else []
        helper = self.plain.use("tiles" if loop.periods else "tokens")
        names = list(loop.collects)
        targets = ", ".join(names) if len(names) > 1 else f"({''.join(names)},)"
        start = f"{targets} = {helper}(" if names else f"{helper}("
        w.call(start, args, ")")
        self.methods.append((name, loop, [*held, *slots]))

    def _method_name(self, loop: Loop) -> str:
        """After the first level that the component is."""
        levels = {s.var: s.key.partition(".")[0] for s in self.program.slots if s.kind == "level"}
        first = next((levels[v] for v in _members(loop) if v in levels), "flows")
        taken = {m[0] for m in self.methods}
        name, n = f"_{first}", 2
        while name in taken:
            name, n = f"_{first}_{n}", n + 1
        return name

    def _types(self, loop: Loop) -> dict[str, Type]:
        out: dict[str, Type] = {}
        for x in loop.body:
            for n in _own_nodes(x):
                if n.op == "var":
                    out.setdefault(str(n.attr), n.type)
            if isinstance(x, Let):
                out |= dict.fromkeys(
                    x.names if x.expr.op not in _WINDOWED else x.names[:1], x.expr.type
                )
        return out

    def beside_forward(self) -> None:
        for name, loop, carried in self.methods:
            self.w()
            self._method(name, loop, carried)
        self.plain.places = self.row.places = {}

    def _method(self, name: str, loop: Loop, carried: list[str]) -> None:
        w = self.w
        tiled = bool(loop.periods)
        flows = list(loop.slices.values())
        args = ["self", *(["start: int", "stop: int"] if tiled else ["stop: int"])]
        args += ["carried: list[Tensor]", *(f"{f}: Tensor" for f in flows)]
        w.define(name, args, "tuple[list[Tensor], list[Tensor]]")
        w.depth += 1
        what = ", ".join(
            dict.fromkeys(self.keys[v].partition(".")[0] for v in _members(loop) if v in self.keys)
        )
        periods = ", ".join(f"{p}" for p in loop.periods)
        w(f'"""{what}: {f"between boundaries of {periods} tokens" if tiled else "one token"}."""')
        w.targets(carried, "carried")
        self.plain.places = self.row.places = {}
        like = next((v for v in carried), self.first)
        self.plain.like, self.row.like = like, like
        if self._casts(loop):
            w(f"dtype = {like}.dtype")
        if tiled:
            self._as_rows(loop.body, "stop - start")
        else:
            self.plain.cast = {}
            self.plain.cast = self._cast(list(loop.body))
        if loop.counter:
            self.plain.numbers.add(loop.counter)
            self.plain.places = self.row.places = {loop.counter: "stop"}
        self._guarded(loop, tiled)
        if tiled:
            self._as_tokens()
        self.plain.cast = None
        self.plain.like = self.row.like = self.first
        w.collection("return [", carried, "], [" + ", ".join(loop.collects.values()) + "]")
        w.depth -= 1

    def _casts(self, loop: Loop) -> bool:
        return any(n.op in ("weight", "initial") for x in loop.body for n in _own_nodes(x))

    def _guarded(self, loop: Loop, tiled: bool) -> None:
        """The statements, those of a boundary where it is one."""
        w = self.w
        key = lambda x: x.when if isinstance(x, Let) else None  # noqa: E731
        for when, part in groupby(loop.body, key=key):
            if when is None:
                for x in part:
                    self._inner(x)
                continue
            counter = ("stop" if when.phase == "end" else "start + 1") if tiled else "stop"
            condition = ticks_now(when, counter, self.printer)
            condition = condition.replace("(start + 1 - 1)", "start")
            if loop.counter:
                place = f"({counter})" if " " in counter else counter
                self.plain.places = self.row.places = {loop.counter: place}
            with w.block(f"if {condition}:"):
                for x in part:
                    self._inner(x)

    # -------------------------------------------------------------------------------------------- scans

    def _scan(self, s: Scan) -> None:
        r, p = s.record, self.row
        head = any(e.type.head for e in r.parts) or self._state_head(r)
        at = lambda e, binds=ATOM: p.aligned(e, Type(e.type.dims, head, TOKEN), binds)  # noqa: E731
        states = [p.place(x) for x in r.states]
        if r.rank < 2 and r.kind in ("none", "scalar"):
            self._running(s, states[0], at)
            return
        f = form(r, s.read)
        if r.rank == 2 and f == Form("none") and not s.read:
            u, k = at(r.write[0]), at(r.key)
            u, k = (k, u) if r.transposed else (u, k)
            self._assign([states[0]], f"{states[0]} + {u}.mT @ {k}", s)
            return
        if f.kind == "coupled":
            self._coupled(s, states, at, f)
            return
        if f.end:
            self._end(s, states[0], at, f)
            return
        args = [self._begun(r, 0, states[0]), at(r.key), self._written(r, 0, at)]
        args += [at(r.erase[0])] if f.erase else []
        args += [at(r.log)] if r.log is not None else []
        args += [at(r.probe or r.key)] if f.probe or (f.kind == "channel" and f.erase) else []
        new = self.parts(f"{s.name}_end", r.parts[0]) if self._shifted(r, 0) else states[0]
        rows, starts = (self.parts(f"{s.name}_{x}", r.parts[0]) for x in ("rows", "starts"))
        call = f"{p.use(f.scan)}{f.call.removeprefix(f.scan)}"
        self._call([new, rows, starts] if s.read else [f"{new}, *_"], call, args, s)
        self._ended(r, 0, states[0], new)
        seen = [args[1], rows, starts] + ([at(r.log)] if r.log is not None else [])
        self.scans[s.name] = _Scanned(f, r, ", ".join(seen))

    def _end(self, s: Scan, state: str, at: Callable[..., str], f: Form) -> None:
        """A scan of which only the last state is wanted."""
        r, turned = s.record, ".mT" if s.record.transposed else ""
        args = [f"{state}{turned}", at(r.key), at(r.write[0]), at(r.erase[0])]
        args += [at(r.log)] if r.log is not None else []
        args += [at(r.probe)] if f.probe else []
        args += [self.row(r.start[0])] if f.toward else []
        self._call([state], self.row.use(f.scan), args, s, turned)

    def _written(self, r: Record, j: int, at: Callable[..., str]) -> str:
        """u of a state, less what its T answers at the probe, where the scan runs on the distance to T."""
        text = at(r.write[j])
        if r.source is None or r.erase[j] is None or not r.start or r.start[r.source] is None:
            return text
        answer = f"{at(r.probe or r.key)} @ {self.row.at(r.start[r.source], ATOM)}.mT"
        up = "" if r.rank < 2 else "[..., None]"
        return f"{text} - {at(r.erase[j])}{up} * ({answer})"

    def _state_head(self, r: Record) -> bool:
        slot = next((s for s in self.program.slots if s.var == r.states[0]), None)
        return slot is not None and slot.type.head

    def _shifted(self, r: Record, j: int) -> bool:
        return r.transposed or bool(r.start and r.start[j] is not None)

    def _begun(self, r: Record, j: int, state: str) -> str:
        """What the scan starts from."""
        text = f"{state}.mT" if r.transposed else state
        if r.start and r.start[j] is not None:
            text += f" - {self.row.at(r.start[j], ATOM)}"
        return text

    def _ended(self, r: Record, j: int, state: str, new: str) -> None:
        """The state from what the scan ended with."""
        text = (
            f"{new} + {self.row.at(r.start[j], ATOM)}"
            if r.start and r.start[j] is not None
            else new
        )
        if r.transposed:
            text = f"({text}).mT" if " " in text else f"{text}.mT"
        if text != state:
            self.w(f"{state} = {text}")

    def _running(self, s: Scan, state: str, at) -> None:
        """A vector or a number, at every token where something reads it."""
        r, p, w = s.record, self.row, self.w
        u = at(r.write[0])
        if r.kind == "none" and not s.read:
            self._assign([state], f"{state} + {u}.sum({-1 - r.rank})", s)
            return
        values = self.parts(f"{s.name}_all", r.parts[0])
        x = state if r.rank else f"{state}.unsqueeze(-1)"
        args = [x, u if r.rank else f"{u}.unsqueeze(-1)"]
        args += [at(r.log)] if r.log is not None else []
        self._call([values], p.use("running" if r.log is None else "gated_running"), args, s)
        if not r.rank:
            w(f"{values} = {values}.squeeze(-1)")
        axis = -1 - r.rank
        found = _Scanned(None, r, one=f"{state}.unsqueeze({axis})")
        if s.read:
            before = self.parts(f"{s.name}_before", r.parts[0])
            found.starts[0] = before
            found.arguments = f"torch.cat([{state}.unsqueeze({axis}), {values}.narrow({axis}, 0, {values}.shape[{axis}] - 1)], {axis})"
            if self._read_before(s):
                w(f"{before} = {found.arguments}")
        found.values[0] = values
        self.scans[s.name] = found
        w(f"{state} = {values}[..., -1{', :' * r.rank}]")

    def _read_before(self, s: Scan) -> bool:
        return any(
            n.op == "read" and n.attr.scan == s.name and n.attr.when == "before"
            for x in self.program.body
            for n in _all_nodes(x)
        )

    def _coupled(self, s: Scan, states: list[str], at, f: Form) -> None:
        r, p, w = s.record, self.row, self.w
        up = {2: "", 1: ".unsqueeze(-1)", 0: "[..., None, None]"}[r.rank]
        row = "" if r.rank else ".unsqueeze(-1)"
        like = next(e for e in (*r.write, r.key) if e is not None)
        written = next(e for e in r.write if e is not None)
        number = f"{at(written)}" + ("[..., 0]" if r.rank else "")
        begun = [
            f"({b}){up}" if " " in (b := self._begun(r, j, x)) and up else f"{b}{up}"
            for j, x in enumerate(states)
        ]
        table = [
            "("
            + ", ".join("0.0" if a is None else at(a) for a in line)
            + ("," if len(line) == 1 else "")
            + ")"
            for line in r.decay
        ]
        X, A, u = (self.parts(f"{s.name}_{x}", like) for x in ("states", "keeps", "writes"))
        w.call(f"{X} = torch.stack([", begun, "], -3)") if len(", ".join(begun)) < 60 else w.call(
            f"{X} = torch.stack(", ["[" + ", ".join(begun) + "]", "-3"], ")"
        )
        w.call(f"{A} = coupling(", [number, *table], ")")
        rows = []
        for j, e in enumerate(r.write):
            text = f"torch.zeros_like({at(written)})" if e is None else self._written(r, j, at)
            rows.append((f"({text})" if row and " " in text else text) + row)
        w.call(f"{u} = torch.stack(", ["[" + ", ".join(rows) + "]", "-2"], ")")
        found = _Scanned(f, r)
        if r.key is None:
            found.one = self.parts(f"{s.name}_one", like)
            w(f"{found.one} = torch.ones_like({u}[..., 0, :1])")
        key = found.one or at(r.key)
        args = [X, A, key, u]
        if f.erase:
            zero = f"torch.zeros_like({number})"
            erases = [zero if e is None else at(e) for e in r.erase]
            args += [f"torch.stack([{', '.join(erases)}], -1)", at(r.probe or r.key), str(r.source)]
        found.arguments = f"*{self.parts(f'{s.name}_scan', like)}"
        self._call([X, found.arguments[1:] if s.read else "_"], p.use(f.scan), args, s)
        down = {2: "", 1: ".squeeze(-1)", 0: "[..., 0, 0]"}[r.rank]
        for j, x in enumerate(states):
            self._ended(r, j, x, f"{X}[..., {j}, :, :]{down}")
        self.scans[s.name] = found

    def _read(self, e: Expr) -> str:
        """What a read of a state at every token is printed as."""
        how: Read = e.attr  # type: ignore[assignment]
        s = self.scans[how.scan]
        if s.form is None:
            return s.values[how.state] if how.when == "after" else s.starts[how.state]
        r = s.record
        head = self._state_head(r) or any(x.type.head for x in r.parts)
        query = (
            self.row.aligned(e.args[0], Type(e.args[0].type.dims, head, TOKEN), ATOM)
            if e.args
            else s.one
        )
        args = [query]
        if s.form.kind == "coupled":
            args.append(str(how.state))
        given = s.arguments
        if how.transposed:
            key, rows, starts, *rest = given.split(", ")
            given = ", ".join([rows, key, f"{starts}.mT", *rest])
        text = f"{self.row.use(s.form.read(how.when))}({', '.join([*args, given])})"
        return text + (".squeeze(-1)" if not e.args and r.rank == 0 else "")

    def _call(
        self, targets: list[str], function: str, args: list[str], s: Scan, behind: str = ""
    ) -> None:
        start, end = f"{', '.join(targets)} = {function}(", f"){behind}"
        line = f"{start}{', '.join(args)}{end}"
        if s.note and 4 * self.w.depth + len(line) + 4 + len(s.note) <= WIDTH:
            self.w(line, s.note)
            return
        if s.note:
            self.w.comment(s.note)
        self.w.call(start, args, end)

    def _assign(self, targets: list[str], text: str, s: Scan) -> None:
        self.w(f"{', '.join(targets)} = {text}", s.note)


_WINDOWED = ("conv", "delay")  # these also return what they carry on


def _members(loop: Loop) -> Iterable[str]:
    """What it carries, variable by variable."""
    for v in loop.carries:
        yield from loop.stacks.get(v, (v,))


def _tuple(items: list[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _own_nodes(x: Let | Scan | Loop) -> Iterable[Expr]:
    """The nodes of a statement, but not of a loop's body."""
    exprs = [x.expr] if isinstance(x, Let) else x.record.parts if isinstance(x, Scan) else []
    for e in exprs:
        yield from walk(e)


def _all_nodes(x: object) -> Iterable[Expr]:
    if isinstance(x, Loop | Parallel):
        for y in (*x.first, *x.body):
            yield from _all_nodes(y)
    elif isinstance(x, Let | Scan):
        yield from _own_nodes(x)


def _lets(x: object) -> Iterable[Let]:
    if isinstance(x, Let):
        yield x
    elif isinstance(x, Loop):
        for y in x.body:
            yield from _lets(y)


def _loops(x: object) -> Iterable[Loop]:
    if isinstance(x, Loop):
        yield x
        for y in x.body:
            yield from _loops(y)
