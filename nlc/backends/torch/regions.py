"""A rule that does the same to every element of a tensor, as steps of few passes over memory.

A value that is read once is written where it is read; then each step is a sum of terms, a number times factors over
divisors, which torch does in place: ``m.mul_(β).add_(g, alpha=1 - β)``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from nlc.backends.torch.terms import LINEAR, MINUSONE, ONE, Numeric, Term, terms
from nlc.backends.torch_printer import TorchPrinter
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.ops import elementwise, num, pointwise
from nlc.ir.program import Let, Program


def by_elements(program: Program) -> bool:
    """Whether the rule treats every element alike, its memories as large as the trained tensor."""
    lets = list(program.lets())
    held = {s.var for s in program.slots}
    own = {n for x in lets if x.when is not None for n in x.names} - held
    if any(s.kind == "held" or not (s.type.like or s.kind == "tick") for s in program.slots):
        return False
    if any(_variables(x.expr) & own for x in lets if x.when is None):
        return False
    return all(len(x.names) == 1 and all(map(alike, walk(x.expr))) for x in lets)


def alike(e: Expr) -> bool:
    """Whether an operation takes elements of the trained tensor apart from each other."""
    if not e.type.dims:
        return not any(a.type.dims for a in e.args)
    return not e.args or e.op == "neg" or pointwise(e.op) or elementwise(e.op)


def _variables(e: Expr) -> set[str]:
    return {str(n.attr) for n in walk(e) if n.op == "var"}


def steps(
    lets: list[Let],
    held: set[str],
    numeric: Numeric,
    inside: Callable[[Let], bool] = lambda x: True,
) -> list[Let]:
    """What is assigned to the memories, and to the values that more than one of them reads.

    Statements that are not ``inside`` a region stay as they are, and read what stands before them.
    """
    uses = Counter(n for x in lets for n in _read(x.expr))
    out: list[Let] = []
    waiting: dict[str, Let] = {}

    def within(e: Expr) -> Expr:
        def put(n: Expr) -> Expr:
            if n.op != "var" or n.attr not in waiting:
                return n
            return waiting[str(n.attr)].expr

        found = rewrite(e, put)
        for name in _variables(e) & {*waiting}:
            uses[name] -= sum(n == name for n in _read(e))
            if uses[name] <= 0:
                del waiting[name]
        return found

    for x in lets:
        (name,), apart = x.names, not numeric(x.expr) and not inside(x)
        if apart:
            out += [waiting.pop(n) for n in [*waiting] if n in _variables(x.expr)]
        expr = x.expr if apart else within(x.expr)
        plain = len(terms(expr, numeric)) == 1 and _plain(expr, numeric)
        once = uses[name] == 1 or plain
        if name not in held and not numeric(expr) and once and not apart:
            waiting[name] = replace(x, expr=expr)
            continue
        for other in [n for n, y in waiting.items() if name in _variables(y.expr)]:
            out.append(waiting.pop(other))  # it reads what is about to have another value
        if name in held or uses[name]:
            out.append(replace(x, expr=expr))
    return out


def _read(e: Expr) -> Iterator[str]:
    """A variable as often as it is written."""
    if e.op == "var":
        yield str(e.attr)
    for a in e.args:
        yield from _read(a)


def _plain(e: Expr, numeric: Numeric) -> bool:
    """Whether a value is another one, times a number."""
    (term,) = terms(e, numeric)
    return len(term.up) == 1 and not term.down and not term.up[0].args


# ------------------------------------------------------------------------------------------------ in place


Part = tuple[Expr, list[str], list[str]]  # of a sum: a number, names of factors, names of divisors


@dataclass
class InPlace:
    """Writes steps as calls that change tensors; ``rooms`` are the tensors beside, by name."""

    printer: TorchPrinter
    rooms: Iterator[str]
    free: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)  # rooms of values that are read later
    ending: set[str] = field(default_factory=set)  # those that a step reads for the last time
    used: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def step(self, x: Let, held: set[str], later: Iterable[Let]) -> list[str]:
        """The lines that a step is, before others."""
        self.lines = []
        (name,) = x.names
        read, wanted = Counter(_read(x.expr)), {n for y in later for n in _variables(y.expr)}
        self.ending = {n for n in {*self.kept} - wanted if read[n] == 1}
        if name in held:
            self._assign(name, x.expr)
        else:
            room = self._value(x.expr)
            self.kept[name] = self.printer.places[name] = room
            if room in self.free:  # it is read later
                self.free.remove(room)
        for n in {*self.kept} - wanted - {name}:
            room = self.kept.pop(n)
            self._done([room])
        return self.lines

    def _numeric(self, e: Expr) -> bool:
        return self.printer.is_number(e)

    def _assign(self, name: str, e: Expr) -> None:
        target = self.printer.place(name)
        if e.op == "zeros":
            self._say(target, [".zero_()"])
            return
        if e.op not in LINEAR and e.args and not self._numeric(e):
            self._call(e, target)
            return
        found = terms(e, self._numeric)
        mine = [
            t for t in found if not t.down and [(x.op, x.attr) for x in t.up] == [("var", name)]
        ]
        rest = [t for t in found if t not in mine]
        if any(name in _variables(f) for t in rest for f in (*t.up, *t.down)):
            room = self._value(e)
            self._say(target, [f".copy_({room})"])
            self._done([room])
            return
        parts = [self._parts(t) for t in rest]
        if mine:
            number = mine[0].number
            start, calls = target, [] if number == ONE else [f".mul_({self.printer(number)})"]
            more = parts
        else:
            start, calls, more = self._begin(parts, target)
        for part in more:
            calls += self._added(part)
        self._say(start, calls)
        for part in parts:
            self._done([*part[1], *part[2]])

    def _parts(self, t: Term) -> Part:
        """A term whose factors and divisors have names; two of each at most."""
        factors = sorted(t.up, key=lambda x: not x.type.dims)  # one element last
        up, down = [self._named(x) for x in factors], [self._named(x) for x in t.down]
        if (len(up) + len(down) <= 2 and up and len(down) < 2) or not (up or down):
            return t.number, up, down
        room = self._room()
        if up:
            start = f"torch.mul({up[0]}, {up[1]}, out={room})" if len(up) > 1 else ""
            start = start or f"torch.div({up[0]}, {down[0]}, out={room})"
            calls = [f".mul_({x})" for x in up[2:]]
            calls += [f".div_({x})" for x in (down if len(up) > 1 else down[1:])]
        else:
            start, calls = (
                f"torch.reciprocal({down[0]}, out={room})",
                [f".div_({x})" for x in down[1:]],
            )
        self._say(start, calls)
        self._done([*up, *down])
        return t.number, [room], []

    def _begin(self, parts: list[Part], room: str) -> tuple[str, list[str], list[Part]]:
        """The first term of a sum, or two where one call adds them; and the terms that are left."""
        (number, up, down), *more = parts
        said = [] if number == ONE else [f".mul_({self.printer(number)})"]
        if not up:
            return room, [f".fill_({self.printer(number)})"], more
        if down:
            return f"torch.div({up[0]}, {down[0]}, out={room})", said, more
        if len(up) == 2:
            return f"torch.mul({up[0]}, {up[1]}, out={room})", said, more
        if up[0] == room or self._moved(up[0], room):
            return room, said, more
        if number != ONE:
            return f"torch.mul({up[0]}, {self.printer(number)}, out={room})", [], more
        if more and len(more[0][1]) < 2 and not more[0][2]:
            return self._two(up[0], more[0], room), [], more[1:]
        return room, [f".copy_({up[0]})"], more

    def _two(self, first: str, part: Part, room: str) -> str:
        """A tensor and a term that is a number, or a number times a tensor, as a sum."""
        number, up, _ = part
        if not up:
            return f"torch.add({first}, {self.printer(number)}, out={room})"
        if number == MINUSONE:
            return f"torch.sub({first}, {up[0]}, out={room})"
        said = "" if number == ONE else f"alpha={self.printer(number)}, "
        return f"torch.add({first}, {up[0]}, {said}out={room})"

    def _moved(self, room: str, target: str) -> bool:
        """Whether what the last line has put into a room could be put into a tensor at once."""
        last = self.lines[-1] if self.lines else ""
        found = re.fullmatch(rf"torch\.\w+\((.*), out={room}\)((?:\.\w+\([^()]*\))*)", last)
        if not found or not self._own(room):
            return False
        if any(re.search(rf"\b{x}\b", found[1] + found[2]) for x in (room, target)):
            return False
        self.lines[-1] = last.replace(f", out={room})", f", out={target})")
        return True

    def _added(self, part: Part) -> list[str]:
        """A further one."""
        number, up, down = part
        if not up:
            return [f".add_({self.printer(number)})"]
        said = "" if number == ONE else f"={self.printer(number)}"
        if down or len(up) == 2:
            how = "addcdiv_" if down else "addcmul_"
            return [f".{how}({', '.join([*up, *down])}{said and f', value{said}'})"]
        return [f".add_({up[0]}{said and f', alpha{said}'})"]

    def _named(self, e: Expr) -> str:
        return self.printer(e) if not e.args else self._value(e)

    def _value(self, e: Expr, into: str = "") -> str:
        """The room that a value is put into, or the tensor that is given."""
        if e.op in LINEAR:
            parts = [self._parts(t) for t in terms(e, self._numeric)]
            parts.sort(key=lambda p: not (p[1] and self._own(p[1][0])))  # goes on where it is
            parts.sort(key=lambda p: not p[1])
            first = parts[0][1][:1] if parts[0][1] else []
            again = not into and first and self._own(first[0])
            room = into or (first[0] if again else self._room())
            start, calls, more = self._begin(parts, room)
            for part in more:
                calls += self._added(part)
            self._say(start, calls)
            self._done([x for p in parts for x in (*p[1], *p[2]) if x != room])
            return room
        return self._call(e, into)

    def _call(self, e: Expr, target: str = "") -> str:
        """A function of values, into a tensor or a room."""
        put = target if e.op == "where" and self._chooses(e, target) else ""
        args = [a if self._numeric(a) or not a.args else self._var(a, put) for a in e.args]
        names = [self.printer(a) for a in args]
        if e.op in _IN_PLACE and not target and self._own(names[0]):
            self._say(names[0], [f".{e.op}_()"])
            return names[0]
        if e.op == "pow" and e.args[1] == num(2):
            return self._into(f"torch.mul({names[0]}, {names[0]}, out=ROOM)", names, target)
        limit = {"maximum": "min", "minimum": "max"}.get(e.op)
        if limit and any(map(self._numeric, args)):
            x, bound = names if self._numeric(args[1]) else names[::-1]
            if not target and self._own(x):
                self._say(x, [f".clamp_({limit}={bound})"])
                return x
            return self._into(f"torch.clamp({x}, {limit}={bound}, out=ROOM)", [x], target)
        if e.op in _IN_PLACE or limit:
            return self._into(f"torch.{e.op}({', '.join(names)}, out=ROOM)", names, target)
        if e.op == "where" and self._numeric(args[0]):
            mine = [x for x in names[:0:-1] if (x == target if target else self._own(x))]
            if mine:
                return self._replaced(mine[0], args, names)
        text = self.printer(replace(e, args=tuple(args)))
        return self._into(f"ROOM.copy_({text})", names, target)

    def _replaced(self, room: str, args: list[Expr], names: list[str]) -> str:
        """One of two values stands in a room: it has the other where Python says so."""
        asked, first, second = names
        other = 1 if room == second else 2
        said = f"if {asked}:" if other == 1 else f"if not {asked}:"
        how = "fill_" if self._numeric(args[other]) else "copy_"
        self.lines += [said, f"    {room}.{how}({names[other]})"]
        self._done(x for x in (first, second) if x != room)
        return room

    def _chooses(self, e: Expr, target: str) -> bool:
        """Whether Python chooses between a value, which may stand in the target at once, and another tensor."""
        asked, *values = e.args
        computed = [x for x in values if x.args]
        read = {self.printer.place(n) for x in values for n in _variables(x)}
        return self._numeric(asked) and len(computed) == 1 and target not in read

    def _var(self, e: Expr, into: str = "") -> Expr:
        room = self._value(e, into)
        return Expr("var", (), room, e.type)

    def _into(self, text: str, read: Iterable[str], target: str) -> str:
        self._done(read)
        room = target or self._room()
        self._say(text.replace("ROOM", room), [])
        return room

    def _room(self) -> str:
        if not self.free:
            self.used.append(next(self.rooms))
            return self.used[-1]
        return self.free.pop()

    def _own(self, name: str) -> bool:
        """Whether it is a room that nothing reads later."""
        kept = {room for n, room in self.kept.items() if n not in self.ending}
        return name in self.used and name not in kept

    def _done(self, names: Iterable[str]) -> None:
        self.free += [x for x in dict.fromkeys(names) if self._own(x) and x not in self.free]

    def _say(self, start: str, calls: list[str]) -> None:
        """Calls on a tensor, after those on it that came just before."""
        if self.lines and start == _changed(self.lines[-1]):
            self.lines[-1] += "".join(calls)
        elif calls or "(" in start:
            self.lines.append(start + "".join(calls))


def _changed(line: str) -> str:
    """What a line writes into."""
    found = re.match(r"torch\.\w+\([^()]*(?:\([^()]*\)[^()]*)*, out=(\w+)\)", line)
    return found[1] if found else line.split(".")[0]


def calls(line: str) -> list[str]:
    """``x.f(…).g(…)`` as calls of their own."""
    depth, cuts = 0, []
    for i, char in enumerate(line):
        depth += (char in "([{") - (char in ")]}")
        if char == ")" and depth == 0:
            cuts.append(i + 1)
    pieces = [line[a:b] for a, b in zip([0, *cuts], cuts)]
    start = pieces[0]
    target = start.split("out=")[-1].rstrip(")") if "out=" in start else start.split(".")[0]
    return [start, *(f"{target}{p}" for p in pieces[1:])]


_IN_PLACE = ("sqrt", "exp", "expm1", "log", "abs", "sign", "tanh", "sigmoid", "erf")
