"""A gradient system as an optimizer whose steps, where they are the same for every element, pass over memory few times.

Eagerly a step is done in place, in blocks that stay in the cache; ``fused=True`` compiles it to one pass. What is not
done element by element is the reference's text.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from itertools import groupby
from string import ascii_lowercase
from typing import ClassVar, NamedTuple

from nlc.backends.reference.file import place, ticks_now, write_let
from nlc.backends.reference.optimizer import OptimizerWriter
from nlc.backends.reference.optimizer import emit_optimizer as reference
from nlc.backends.reference.rule import RuleWriter
from nlc.backends.torch import polar
from nlc.backends.torch.regions import InPlace, by_elements, steps
from nlc.backends.torch.terms import with_numbers
from nlc.backends.torch_helpers import HELPERS, for_program
from nlc.backends.writer import WIDTH, Header
from nlc.ir.expr import Expr, walk
from nlc.ir.program import Let, Program


def emit_optimizer(program: Program, header: Header) -> str:
    """The whole file."""
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
        return not self.program.inputs and by_elements(self.program)

    @property
    def stacks(self) -> bool | None:
        """A stack, where it does to each matrix what operators on the last two axes do."""
        if self.program.inputs:
            return None  # a layer has samples of its own
        nodes = [n for x in self.program.lets() for n in walk(x.expr)]
        if self.fusible and not any(n.op == "size" for n in nodes):
            return False
        return True if self.program.matrices and all(map(_of_matrices, nodes)) else None

    def update(self) -> None:
        if not self.fusible:
            super().update()
            return
        self._update(*self.elements)
        self.w()
        self._advance(self.elements.lets, self.elements.names, self.elements.tick)

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
        lets = steps(self.program, held, numeric)
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

    def _update(
        self, lets: list[Let], scalars: list[Let], names: list[str], tick: str, key: str
    ) -> None:
        w, kept = self.w, [s for s in self.kept if s.kind != "tick"]
        w("@staticmethod")
        w.define("update", [*self.arguments(), "run: Callable | None = None"], "Tensor")
        w.depth += 1
        self.update_doc("in place, in blocks, unless ``run`` runs ``advance``")
        self._open(scalars, tick, key)
        numbers, whens = self._numbers(lets), self._whens(lets, tick)
        w(f"tensors = ({', '.join(names)})")
        with w.block("if run is not None:"):
            w.collection("numbers = (", list(numbers), ")")
            targets = [self.trained.var, *(f'state["{s.key}"]' for s in kept)]
            run = [f"{self.name}.advance", "tensors", "numbers", *whens]
            if kept:
                w.call(f"{', '.join(targets)} = run(", run, ")")
            else:
                w.call(f"({targets[0]},) = run(", run, ")")
            w(f"return {self.trained.var}")
        taken = {*self.parts.taken, *names}
        self.printer.decided = True
        rooms = InPlace(self.printer, (x for x in ascii_lowercase if x not in taken))
        body: list[tuple[str, Let | None, str]] = []
        for n, x in enumerate(lets):
            lines = rooms.step(x, {*names}, lets[n + 1 :])
            guard = ticks_now(x.when, tick, self.printer) if x.when is not None else ""
            body += [(line, None if i else x, guard) for i, line in enumerate(lines)]
        self.printer.decided = False
        for x in lets:
            self.printer.places.pop(x.names[0], None)
        room = f", rooms={len(rooms.used)}" if rooms.used else ""
        targets = ", ".join([*names, *rooms.used])
        with w.block(f"for {targets} in {self.printer.use('blocks')}(tensors{room}):"):
            for guard, group in groupby(body, key=lambda x: x[2]):
                if guard:
                    with w.block(f"if {guard}:"):
                        self._lines(list(group))
                else:
                    self._lines(list(group))
        w("return tensors[0]")
        w.depth -= 1

    def _lines(self, body: list[tuple[str, Let | None, str]]) -> None:
        """Lines of statements; each names where its statement stands in the spec."""
        for line, let, _ in body:
            if let is not None:
                self.w.at(place(self.header, let.span))
            note = let.note if let is not None else ""
            if 4 * self.w.depth + len(line) <= WIDTH:
                self.w(line, note)
                continue
            self.w.comment(note)
            for part in _calls(line):
                self.w(part)

    def _numbers(self, lets: list[Let]) -> dict[str, str]:
        """Texts of the numbers that a step needs, and what the compiled step calls them."""
        found: dict[str, str] = {}
        for x in lets:
            with_numbers(x.expr, self.printer.is_number, lambda e: self._number(e, found))
        return found

    def _number(self, e: Expr, found: dict[str, str]) -> str:
        return found.setdefault(self.printer(e), f"c{len(found) + 1}")

    def _whens(self, lets: list[Let], tick: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for x in lets:
            if x.when is not None:
                found.setdefault(ticks_now(x.when, tick, self.printer), f"due{len(found) + 1}")
        return found

    def _advance(self, lets: list[Let], names: list[str], tick: str) -> None:
        w = self.w
        numbers, whens = self._numbers(lets), self._whens(lets, tick)
        w("@staticmethod")
        args = [f"{n}: Tensor" for n in (*names, *numbers.values())]
        flags = [f"{n}: bool | Tensor" for n in whens.values()]
        w.define("advance", [*args, *flags], "tuple[Tensor, ...]")
        w.depth += 1
        w('"""The same as new tensors; numbers are tensors too, lest new ones be compiled anew."""')
        for guard, group in groupby(lets, key=lambda x: x.when):
            due = whens[ticks_now(guard, tick, self.printer)] if guard is not None else ""
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
        results = [n for n in names if n != "g"]
        w(f"return {', '.join(results)}" if len(results) > 1 else f"return ({results[0]},)")
        w.depth -= 1


def _of_matrices(e: Expr) -> bool:
    """Whether a value is a number, or a matrix whose operands are such too."""
    if not e.type.dims and not e.type.like:
        return not any(a.type.dims or a.type.like for a in e.args)
    return e.type.like or e.type.rank == 2


def _calls(line: str) -> list[str]:
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


class TorchOptimizer(OptimizerWriter):
    """The class and its rules."""

    RULE = ElementRule

    def _advances(self, rule: RuleWriter) -> bool:
        return isinstance(rule, ElementRule) and rule.fusible

    @property
    def fusible(self) -> bool:
        """Whether any of its rules is done element by element."""
        rules = (self.rule, *self.routes.values())
        return any(isinstance(x, ElementRule) and x.fusible for x in rules)

    TEXTS: ClassVar = {
        name: text for name, text in HELPERS.items() if name not in polar.TEXTS
    } | polar.TEXTS

    def texts(self) -> list[str]:
        asked = self.printer.helpers
        asked |= {"symmetric"} if "newton_schulz" in asked else set()
        return for_program([t for name, t in self.TEXTS.items() if name in asked], self.program)

    def options(self) -> dict[str, tuple[str, str]]:
        said = (
            "compile what is done element by element to one pass over memory, but for small tensors;"
            " takes some seconds at the first step."
        )
        return super().options() | ({"fused": ("bool = False", said)} if self.fusible else {})
