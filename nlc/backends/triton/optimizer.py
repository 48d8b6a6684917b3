"""A gradient system whose rules without matrix functions or sums are kernels: one launch for all tensors of a group.

The class is the torch backend's, which does what the kernels do not take: first steps, float64, tensors with gaps, and
rules that multiply matrices.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import groupby
from typing import ClassVar

from nlc.backends.precedence import ATOM, UNARY
from nlc.backends.printed import Printed
from nlc.backends.reference.file import ticks_now, write_let
from nlc.backends.reference.optimizer import emit_optimizer as reference
from nlc.backends.torch.optimizer import ElementRule, TorchOptimizer
from nlc.backends.torch.regions import alike
from nlc.backends.torch.terms import with_numbers
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.triton.elements import FUNCTIONS, METHODS, TEXTS
from nlc.backends.writer import Header, Writer
from nlc.ir.expr import Expr, walk
from nlc.ir.program import Guard, Let, Program
from nlc.ir.show import show

_OWN = ("table", "owner", "seed", "n", "row", "at", "there")  # what a kernel has beside its rule
_FLAGS = ("ON_DEVICE", "MAXIMIZE", "MANTISSA", "LEAST", "ALIGNED", "CHUNK")
_NEEDED = ("place", "cells", "number", "by_chance", "owners")
_LEAVES = ("num", "bool", "var", "g")
_ARITHMETIC = ("neg", "add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge")


def emit_optimizer(program: Program, header: Header) -> Printed:
    """The file."""
    return reference(program, header, TritonOptimizer)


def has_kernels(program: Program) -> bool:
    """Whether one of its rules is a kernel."""
    return TritonOptimizer(program, Header("", 1, "", "", ""), Writer()).kernels


def unlike(program: Program) -> str:
    """What keeps a rule from being a kernel: the first operation that does not take each element by itself."""
    if program.inputs:
        return "its rules read the samples of a layer"
    for x in program.lets():
        for n in walk(x.expr):
            if n.op in ("size", "zeros") and x.when is not None:
                return "a slow level gathers the gradients of a period, which no kernel does"
            of_elements = bool(n.type.dims) or any(a.type.dims for a in n.args)
            if n.op == "size" or (of_elements and not (alike(n) and prints(n))):
                text = (n.span.quote() if n.span is not None else "") or show(n)
                return f"`{text}` does not take each element by itself"
    return "no rule of it treats all elements alike"


class ElementPrinter(TorchPrinter):
    """Expressions of blocks of elements and of numbers, as Triton has them."""

    def write(self, e: Expr) -> tuple[str, int]:
        if e.op == "g":
            return "g", ATOM
        if e.op == "where":
            condition, *values = e.args
            asked = f"{self(condition)} != 0" if condition.op == "var" else self(condition)
            return f"tl.where({asked}, {', '.join(map(self, values))})", ATOM
        if e.op == "pow":
            return f"{self.use('square')}({self(e.args[0])})", ATOM
        if e.op in FUNCTIONS:
            text = FUNCTIONS[e.op]
            if text.partition("(")[0] in TEXTS:
                self.use(text.partition("(")[0])
            return text.format(*map(self, e.args)), ATOM
        return super().write(e)

    def op_neg(self, e: Expr) -> tuple[str, int]:
        return f"-{self.at(e.args[0], UNARY)}", UNARY

    def number(self, value: object) -> tuple[str, int]:
        if value in (float("inf"), float("-inf")):
            return f'float("{value}")', ATOM
        return super().number(value)


def prints(e: Expr) -> bool:
    """Whether a kernel can compute it."""
    if e.op == "pow":
        return (e.args[1].op, e.args[1].attr) == ("num", 2)
    return e.op in (*_LEAVES, *_ARITHMETIC, "where") or e.op in FUNCTIONS


class KernelRule(ElementRule):
    """The members of a rule; ``kernel`` where a kernel does its step, which is called ``function``."""

    function = "elements"

    @cached_property
    def kernel(self) -> bool:
        if self.stacks is not False:
            return False
        found = [self._numbered(x) for x in self.elements.lets]
        return all(prints(n) for e in found for n in walk(e))

    def hypers(self) -> None:
        super().hypers()
        if self.kernel:
            self.w(f"KERNEL = {self.function}")
            kept = [f'"{s.key}"' for s in self.kept if s.kind != "tick"]
            self.w.collection("KEPT = (", kept, ")")  # the tensors of a launch, behind W and g

    def _numbered(self, x: Let) -> Expr:
        """Its value, the numbers of which have names."""
        numbers = self._numbers(self.elements.lets)
        return with_numbers(x.expr, self.printer.is_number, lambda e: self._number(e, numbers))

    def write_kernel(self) -> None:
        """The function that Triton compiles."""
        w, (lets, _, names, tick, _) = self.w, self.elements
        printer = ElementPrinter(self.system, str, str)
        numbers, due = self._numbers(lets), self._whens(lets)
        made = [*numbers.values(), *due.values()]
        taken = {*names, *made, *(x.names[0] for x in lets)}
        table, owner, seed, n, row, at, there = (_free(x, taken) for x in _OWN)
        roles = {name: i for i, name in enumerate(names)}
        late = {x: guard for guard in {x.when for x in lets} - {None} for x in self._only(guard)}

        def mask(x: str) -> str:
            if x not in late:
                return there
            return f"tl.where({due[ticks_now(late[x], tick, self.printer)]} != 0, {there}, False)"

        w(f'@triton.jit(do_not_specialize=["{seed}"])')
        w(f"def {self.function}(")
        given = [table, owner, *names, *made, seed, *(f"{x}: tl.constexpr" for x in _FLAGS)]
        for x in given:
            w(f"    {x},")
        w("):")
        w.depth += 1
        w('"""A step of some elements of one tensor; whatever their formats, in float32."""')
        w(f"{n}, {row}, {at}, {there} = place({table}, {owner}, {len(names)}, CHUNK, ALIGNED)")
        for x in made:
            w(f"{x} = number({x}, {n}, ON_DEVICE)")
        for x, role in roles.items():
            w(f"{x}_at = cells({row}, {role}, {x}, {at}, ALIGNED)")
            w(f"{x} = tl.load({x}_at, mask={mask(x)}).to(tl.float32)")
        with w.block("if MAXIMIZE:"):
            w("g = -g")
        for guard, some in groupby(lets, key=lambda x: x.when):
            if guard is None:
                self._statements(some, printer)
                continue
            self._statements(some, printer, due[ticks_now(guard, tick, self.printer)])
        with w.block("if MANTISSA:"):
            w(f"{names[0]} = by_chance({names[0]}, {seed}, CHUNK, MANTISSA, LEAST)")
        for x in (x for x in names if x != "g"):
            w(f"tl.store({x}_at, {x}, mask={mask(x)})")
        w.depth -= 1
        self.printer.helpers |= printer.helpers | {*_NEEDED}

    def _statements(self, lets: Iterable[Let], printer: ElementPrinter, due: str = "") -> None:
        """What is due in a period alone is chosen: a branch would keep more in registers."""
        for x in lets:
            (name,), value = x.names, self._numbered(x)
            if due and name in self.elements.names:
                asked, old = (Expr("var", (), v, value.type) for v in (due, name))
                value = Expr("where", (asked, value, old), None, value.type)
            let = Let((name,), value, "", x.span)
            write_let(self.w, let, printer, self.header, self.parts)

    def _only(self, guard: Guard) -> set[str]:
        """The memories that are read and written in a period alone."""

        def touched(some: Iterable[Let]) -> set[str]:
            named = [x.names[0] for x in some]
            return {*named, *(str(n.attr) for x in some for n in walk(x.expr) if n.op == "var")}

        inside = touched([x for x in self.elements.lets if x.when == guard])
        others = touched([x for x in self.elements.lets if x.when != guard])
        return (inside - others) & {*self.elements.names[2:]}


def _free(name: str, taken: set[str]) -> str:
    """A name that nothing of the rule has."""
    while name in taken or f"{name}_at" in taken:
        name += "_"
    return name


class TritonOptimizer(TorchOptimizer):
    """The class and its rules, the kernels before them."""

    RULE = KernelRule
    rule: KernelRule
    routes: dict[str, KernelRule]

    @property
    def kernels(self) -> bool:
        return any(x.kernel for x in self._rules)

    @property
    def _rules(self) -> tuple[KernelRule, ...]:
        return *self.routes.values(), self.rule

    def write(self) -> None:
        for kind, rule in self.routes.items():
            rule.function = f"{kind}_elements"
        for rule in self._rules:
            if rule.kernel:
                rule.write_kernel()
                self.w()
                self.w()
        super().write()

    def step_text(self) -> str:
        return f"{super().step_text()}\n{METHODS}" if self.kernels else super().step_text()

    TEXTS: ClassVar = TorchOptimizer.TEXTS | TEXTS
