"""A gradient system as an optimizer whose steps, where they are the same for every element, pass over memory few times.

Eagerly a step is done in place, in blocks that stay in the cache; ``fused=True`` compiles it to one pass. What is not
done element by element is the reference's text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from string import ascii_lowercase
from typing import ClassVar, NamedTuple

from nlc.backends.printed import Printed
from nlc.backends.reference.file import PartNames, ending_call, place, ticks_now, write_let
from nlc.backends.reference.optimizer import OptimizerWriter
from nlc.backends.reference.optimizer import emit_optimizer as reference
from nlc.backends.reference.rule import RuleWriter
from nlc.backends.torch import polar
from nlc.backends.torch.between import Cut, Region, parted
from nlc.backends.torch.regions import InPlace, by_elements, calls, steps
from nlc.backends.torch.terms import with_numbers
from nlc.backends.torch_helpers import HELPERS, for_program
from nlc.backends.writer import WIDTH, Header, select, tupled
from nlc.ir.expr import Expr, walk
from nlc.ir.program import Let, Program


def emit_optimizer(program: Program, header: Header) -> Printed:
    """The file."""
    return reference(program, header, TorchOptimizer)


class Elements(NamedTuple):
    """Statements of tensors and of numbers, the tensors in the order of a call, the count by name and key."""

    lets: list[Let]
    scalars: list[Let]
    names: list[str]
    tick: str
    key: str


class ElementRule(RuleWriter):
    """The members of a rule; ``fusible`` where all elements are treated alike."""

    @property
    def fusible(self) -> bool:
        """Whether it is one region, whatever the shape of a tensor."""
        sized = any(n.op == "size" for x in self.program.lets() for n in walk(x.expr))
        return not self.program.inputs and not sized and by_elements(self.program)

    @property
    def advances(self) -> bool:
        """Whether some of it is done by elements, and may be compiled."""
        return self.fusible or self.cut is not None

    @property
    def stacks(self) -> bool | None:
        """A stack, where it does to each matrix what operators on the last two axes do."""
        if self.program.inputs:
            return None  # a layer has samples of its own
        if self.fusible:
            return False
        nodes = [n for x in self.program.lets() for n in walk(x.expr)]
        return True if self.program.matrices and all(map(_of_matrices, nodes)) else None

    @cached_property
    def whole(self) -> list[str | None]:
        """What is read by more than regions, sizes, and ``newton_schulz``, which makes a stack itself."""
        kept = [s for s in self.kept if s.kind != "tick"]
        named = {self.trained.var: None, "g": "g"} | {s.var: s.key for s in kept}
        if self.cut is None:
            return [*named.values()]
        read = [x.expr for part in self.cut for x in part if isinstance(x, Let)]
        read += [s.init for s in kept if s.kind == "held"]
        text = "; ".join(map(self.printer, read))
        text = re.sub(r"\b(newton_schulz\()\w+(?=[,)])|\b\w+\.shape\b", r"\1", text)
        return [key for n, key in named.items() if re.search(rf"\b{n}\b", text)]

    def update(self) -> None:
        if not self.advances:
            super().update()
            return
        w = self.w
        self.regions: dict[str, Region] = {}
        w("@staticmethod")
        w.define("update", [*self.arguments(), "run: Callable | None = None"], "Tensor")
        w.depth += 1
        self.update_doc("in place, in blocks, unless ``run`` runs ``advance``")
        if self.fusible:
            self._whole()
        else:
            self._parts()
        w.depth -= 1
        for name, region in self.regions.items():
            w()
            self._advance(name, region)

    @cached_property
    def cut(self) -> Cut | None:
        """The rule as regions and what is between them; None without a region that changes something."""
        if self.program.inputs or any(not s.type.dims for s in self.kept if s.kind != "tick"):
            return None
        self.printer.numbers.update(s.var for s in self.kept if s.kind == "tick")
        for x in self.program.lets():
            if self.printer.is_number(x.expr):
                self.printer.numbers.update({*x.names} - self.held)
        names = PartNames(self.parts.taken)

        def fresh(base: str, e: Expr) -> str:
            name = names(base, e)
            if self.printer.is_number(e):
                self.printer.numbers.add(name)
            return name

        found = parted(self.program, self.trained.type, self.held, self.printer.is_number, fresh)
        if found is not None:
            self.parts = names
        return found

    @cached_property
    def elements(self) -> Elements:
        """The rule as steps of the tensors that it holds, and the numbers that are computed before."""
        kept = [s for s in self.kept if s.kind != "tick"]
        tick = next((s for s in self.kept if s.kind == "tick"), None)
        held = {self.trained.var, *(s.var for s in kept)}
        if tick is not None:
            self.printer.numbers.add(tick.var)
        numeric = self.printer.is_number
        for x in self.program.lets():  # in order, since numbers are made of numbers
            if numeric(x.expr):
                self.printer.numbers.update({*x.names} - held)
        lets = steps(list(self.program.lets()), held, numeric)
        scalars = [x for x in lets if numeric(x.expr)]
        lets = [x for x in lets if x not in scalars]
        names = [self.trained.var, "g", *(s.var for s in kept)]
        count = (tick.var, tick.key) if tick else ("", "")
        return Elements(lets, scalars, names, *count)

    def _open(self, scalars: list[Let], tick: str, key: str) -> None:
        w = self.w
        for s in self.kept:
            if s.kind != "tick":
                w(f'{s.var} = state["{s.key}"]')
        if tick:
            w(f'{tick} = state["{key}"] = state["{key}"] + 1')
        for x in scalars:
            write_let(w, replace(x, note=""), self.printer, self.header, self.parts)

    def _whole(self) -> None:
        """A rule that is one region."""
        w, (lets, scalars, names, tick, key) = self.w, self.elements
        self._open(scalars, tick, key)
        region = self._named(Region(lets, [n for n in names if n != "g"], ["g"], []))
        with w.block("if run is not None:"):
            kept = [s for s in self.kept if s.kind != "tick"]
            self._run(region, [self.trained.var, *(f'state["{s.key}"]' for s in kept)])
            w(f"return {self.trained.var}")
        self._blocks(region)
        w("return tensors[0][0]")

    def _parts(self) -> None:
        """Regions, and functions of whole tensors between them."""
        w = self.w
        assert self.cut is not None
        numbers, parts = self.cut
        self.begin()
        for x in numbers:
            write_let(w, replace(x, note=""), self.printer, self.header, self.parts)
        left = list(parts)
        for when, group in groupby(parts, key=lambda x: x.when):
            with self.at(when) if when is not None else nullcontext("") as due:
                for x in group:
                    left = left[1:]
                    if isinstance(x, Let):
                        self._let(x, due if self.held & {*x.names} else "")
                    else:
                        self._region(x, {n for y in left for n in _names(y)})
        self.end()

    def _region(self, region: Region, later: set[str]) -> None:
        """Changes memories, and makes what a function of the whole reads."""
        w = self.w
        for n in region.changed:
            if n not in self.held:
                room = self.printer.use("room_for") if self.stacks else "torch.empty_like"
                w(f"{n} = {room}({self.trained.var})")
        name = self._named(region)
        with w.block("if run is not None:"):
            self._run(name, region.changed)
        with w.block("else:"):
            self._blocks(name)
            later |= self.held
            for i, names in enumerate((region.changed, region.read)):
                if later & {*names}:
                    left = ", ".join(names) if len(names) > 1 else f"({names[0]},)"
                    w(f"{left} = tensors[{i}]", "" if len(self.regions) > 1 or i else "whole again")

    def _named(self, region: Region) -> str:
        """The name of the function of a region, which has its tensors."""
        name = f"advance_{len(self.regions) + 1}" if self.regions else "advance"
        self.regions[name] = region
        both = tupled(region.changed), tupled(region.read)
        if 4 * self.w.depth + len(f"tensors = {', '.join(both)}") <= WIDTH:
            self.w(f"tensors = {', '.join(both)}")
        else:
            self.w.collection("tensors = (", [*both], ")")
        return name

    @property
    def _tick(self) -> str:
        return next((s.var for s in self.kept if s.kind == "tick"), "")

    def _run(self, name: str, targets: list[str]) -> None:
        region = self.regions[name]
        numbers, whens = self._numbers(region.lets), self._whens(region.lets)
        if numbers:
            self.w.collection("numbers = (", list(numbers), ")")
        tensors = ["*tensors"]
        if region.single:
            tensors = ["tensors[0]", f"(*tensors[1], {', '.join(region.single)})"]
        args = [f"{self.name}.{name}", *tensors, "numbers" if numbers else "()", *whens]
        if 4 * self.w.depth + 4 + len(", ".join(args)) <= WIDTH:
            args = [", ".join(args)]
        self.w.call(f"{_unpacked(targets)} = run(", args, ")")

    def _blocks(self, name: str) -> None:
        """The steps of a region, in place."""
        w, region = self.w, self.regions[name]
        names = [*region.changed, *region.read]
        taken = {*self.parts.taken, *names}
        self.printer.decided = True
        rooms = InPlace(self.printer, (x for x in ascii_lowercase if x not in taken))
        body: list[tuple[str, Let | None, str]] = []
        for n, x in enumerate(region.lets):
            lines = rooms.step(x, {*region.changed}, region.lets[n + 1 :])
            asked = (
                x.when is not None and region.when is None
            )  # or all of it stands behind the guard
            guard = ticks_now(x.when, self._tick, self.printer) if asked else ""
            body += [(line, None if i else x, guard) for i, line in enumerate(lines)]
        self.printer.decided = False
        for x in region.lets:
            self.printer.places.pop(x.names[0], None)
        read = {x for line, *_ in body for x in re.findall(r"\w+", line)}
        used = [x for x in rooms.used if x in read]
        room = f", rooms={len(used)}" if used else ""
        with self._loop([*names, *used], f"*tensors{room}"):
            for guard, group in groupby(body, key=lambda x: x[2]):
                if guard:
                    with w.block(f"if {guard}:"):
                        self._lines(list(group))
                else:
                    self._lines(list(group))

    @contextmanager
    def _loop(self, names: list[str], args: str) -> Iterator[None]:
        """``for … in blocks(…):``, as formatters break it."""
        w, call = self.w, f"{self.printer.use('blocks')}("
        start = f"for {_unpacked(names)} in {call}"
        if 4 * w.depth + len(f"{start}{args}):") <= WIDTH:
            w(f"{start}{args}):")
        elif 4 * w.depth + len(start) <= WIDTH:
            w(start)
            w(f"    {args}")
            w("):")
        else:
            w("for (")
            for n in names:
                w(f"    {n},")
            w(f") in {call}{args}):")
        w.depth += 1
        yield
        w.depth -= 1

    def _lines(self, body: list[tuple[str, Let | None, str]]) -> None:
        """Lines of statements; each names where its statement stands in the spec."""
        for line, let, _ in body:
            if let is not None:
                self.w.at(place(self.header, let.span))
            self._line(line, let.note if let is not None else "")

    def _line(self, line: str, note: str) -> None:
        text = line.lstrip()
        deeper = (len(line) - len(text)) // 4  # it stands behind an if
        self.w.depth += deeper
        if 4 * self.w.depth + len(text) <= WIDTH:
            self.w(text, note)
        else:
            self.w.comment(note)
            for part in calls(text):
                start, args = ending_call(part) or (part, [])
                if args:
                    self.w.call(start, args, ")")
                else:
                    self.w(part)
        self.w.depth -= deeper

    def _numbers(self, lets: list[Let]) -> dict[str, str]:
        """Texts of the numbers that a step needs, and what the compiled step calls them."""
        found: dict[str, str] = {}
        for x in lets:
            with_numbers(x.expr, self.printer.is_number, lambda e: self._number(e, found))
        return found

    def _number(self, e: Expr, found: dict[str, str]) -> str:
        return found.setdefault(self.printer(e), f"c{len(found) + 1}")

    def _whens(self, lets: list[Let]) -> dict[str, str]:
        found: dict[str, str] = {}
        for x in lets:
            if x.when is not None:
                found.setdefault(
                    ticks_now(x.when, self._tick, self.printer), f"due{len(found) + 1}"
                )
        return found

    def _advance(self, function: str, region: Region) -> None:
        w, lets, names = self.w, region.lets, region.changed
        numbers, whens = self._numbers(lets), self._whens(lets)
        w("@staticmethod")
        tensors = (*region.changed, *region.read, *region.single)
        args = [f"{n}: Tensor" for n in (*tensors, *numbers.values())]
        flags = [f"{n}: bool | Tensor" for n in whens.values()]
        w.define(function, [*args, *flags], "tuple[Tensor, ...]")
        w.depth += 1
        w('"""The same as new tensors; numbers are tensors too, lest new ones be compiled anew."""')
        for guard, group in groupby(lets, key=lambda x: x.when):
            due = whens[ticks_now(guard, self._tick, self.printer)] if guard is not None else ""
            if due:
                w(f"if {due} is not False:")
                w.depth += 1
            for x in group:
                e = with_numbers(x.expr, self.printer.is_number, lambda e: self._number(e, numbers))
                (name,) = x.names
                now = due if name in names else ""
                value = self.printer(e)
                if e.op in ("var", "g"):
                    value = f"{value}.clone()"  # what is given may be changed in place
                text = f"{name} = {self._chosen(now, value, name)}"
                w.at(place(self.header, x.span))
                if 4 * w.depth + len(text) <= WIDTH:
                    w(text)
                    continue
                new = self._name(f"{name}_next") if now else name
                write_let(w, Let((new,), e, "", x.span), self.printer, self.header, self.parts)
                if now:
                    self._say(name, new, now)
            if due:
                w.depth -= 1
        w(f"return {', '.join(names)}" if len(names) > 1 else f"return ({names[0]},)")
        w.depth -= 1


def _names(part: Region | Let) -> set[str]:
    """What a part of a rule reads or changes."""
    if isinstance(part, Region):
        return part.names
    nodes = [n for n in walk(part.expr) if n.op in ("var", "g")]
    return {str(n.attr or "g") for n in nodes}


def _unpacked(names: list[str]) -> str:
    """Names that take the parts of a tuple."""
    return ", ".join(names) if len(names) > 1 else tupled(names)


def _of_matrices(e: Expr) -> bool:
    """Whether a value is a number, or a matrix whose operands are such too."""
    if not e.type.dims and not e.type.like:
        return not any(a.type.dims or a.type.like for a in e.args)
    return e.type.like or e.type.rank == 2


class TorchOptimizer(OptimizerWriter):
    """The class and its rules."""

    RULE = ElementRule

    def _advances(self, rule: RuleWriter) -> bool:
        return isinstance(rule, ElementRule) and rule.advances

    @property
    def fusible(self) -> bool:
        """Whether something in one of its rules is done element by element."""
        return any(map(self._advances, (self.rule, *self.routes.values())))

    TEXTS: ClassVar = {
        name: text for name, text in HELPERS.items() if name not in polar.TEXTS
    } | polar.TEXTS

    def texts(self) -> list[str]:
        asked = self.printer.helpers
        asked |= {"symmetric"} if "newton_schulz" in asked else set()
        texts = for_program([t for name, t in self.TEXTS.items() if name in asked], self.program)
        return [select(t, apart=self.apart) if "apart" in t else t for t in texts]

    def options(self) -> dict[str, tuple[str, str]]:
        said = (
            "compile what is done element by element to one pass over memory, but for small tensors;"
            " takes some seconds at the first step."
        )
        return super().options() | ({"fused": ("bool = False", said)} if self.fusible else {})
