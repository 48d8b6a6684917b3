"""Expressions of the surface to expressions over operators: the way in, and what all of it shares.

``names`` resolves names and reads of states, ``calls`` reads of memories and functions, ``owned`` the slow weights
that functions own.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from nlc.base.diagnostics import Fix, certain, nearest
from nlc.base.span import Span
from nlc.ir.expr import Expr, walk
from nlc.ir.show import show
from nlc.ir.system import Memory, Module, Use
from nlc.passes.resolve.library import Library
from nlc.passes.resolve.scope import Scope, error
from nlc.syntax.foreign import NAMES

PLAIN = frozenset("add sub mul div matmul pow neg T eq ne lt le gt ge".split())
_LARGEST = 20_000  # operations of one expression, the lets written out


@dataclass(frozen=True)
class Place:
    """Where an expression stands: ``path`` names the weights it owns, ``mode`` decides what the own name reads.

    Modes: ``objective`` (the variable), ``rule`` (the base), ``own`` (key, value and init: an error), ``flow``.
    ``reader`` is the flow that the expression is, "" for what is computed in any case; ``key`` is the level's key.
    ``outside``: a let of the system that a level's expression is written out with, which sees no name of the level.
    """

    path: str
    level: str | None = None
    mode: str = "flow"
    bound: tuple[
        tuple[str, Expr], ...
    ] = ()  # parameters of a read or a function, variables of grad
    reader: str = ""
    key: str = ""
    outside: bool = False

    @property
    def names(self) -> str | None:
        """The level whose own names are visible."""
        return None if self.outside else self.level


@dataclass
class Terms:
    """Resolves expressions; collects the slow weights that their functions own."""

    scope: Scope
    memories: dict[str, Memory]
    library: Library
    uses: dict[str, Use] = field(default_factory=dict)
    modules: dict[str, Module] = field(default_factory=dict)
    paths: dict[tuple[str, int], str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    alive: list[Expr] = field(default_factory=list)  # ids in `paths` stay unique while these live
    sizes: dict[int, int] = field(default_factory=dict)  # of expressions, with repetitions
    written: dict[Hashable, Expr] = field(default_factory=dict)  # flows written out for a reader
    opened: list[Hashable] = field(default_factory=list)  # those that are being written out
    reads: dict[str, set[str]] = field(default_factory=dict)  # what flows read, but for the past
    bare_flows: dict[str, set[str]] = field(default_factory=dict)  # by level: what is written out
    unreadable: set[str] = field(default_factory=set)  # levels of which a read is reported
    several: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of lets of several states
    bare: list[Span] = field(default_factory=list)  # where objectives read their own state by name

    def resolve(self, e: Expr, at: Place) -> Expr:
        from nlc.passes.resolve import bundles, calls, names

        if e.op in ("num", "bool", "error"):
            return e
        if e.op == "name":
            return names.name(self, e, at)
        if e.op == "call":
            return calls.call(self, e, at)
        if e.op == "attr":
            return names.attribute(self, e, at)
        if e.op == "index":
            return names.member(self, e, at)
        if e.op in PLAIN:
            args = tuple(self.resolve(a, at) for a in e.args)
            if any(a.op == "error" for a in args):
                return error(e.span)
            return bundles.each(self, Expr(e.op, args, None, None, e.span))
        self.wrong(e, "a list stands only for sizes" if e.op == "list" else "no value of its own")
        return error(e.span)

    def bounded(self, e: Expr, text: Expr) -> Expr:
        """The expression, or a mistake where it is too large to be worked with."""
        sizes, stack = self.sizes, [e]
        while stack:  # each node once, however many lets are made of it
            node = stack[-1]
            waiting = [a for a in node.args if id(a) not in sizes]
            if waiting:
                stack += waiting
                continue
            if id(node) not in sizes:
                sizes[id(node)] = 1 + sum(sizes[id(a)] for a in node.args)
                self.alive.append(node)
            stack.pop()
        if sizes[id(e)] <= _LARGEST:
            return e
        self.scope.report.add(
            "NLC007",
            f"this expression has more than {_LARGEST} operations once its lets are written out",
            text.span or self.scope.tree.system.span,
            helps=["let it read fewer lets that read the level's own state"],
        )
        return error(e.span)

    # -------------------------------------------------------------------------------------------- messages

    def say(self, code: str, message: str, e: Expr, label: str, **more) -> Expr:
        """Reports a mistake at an expression, which an error then stands for."""
        span = e.span or self.scope.tree.system.span
        self.scope.report.add(code, message, span, label, **more)
        return error(e.span)

    def wrong(self, e: Expr, label: str, **more) -> Expr:
        return self.say("NLC208", f"`{quoted(e)}` is not a value here", e, label, **more)

    def not_a_switch(self, key: str, e: Expr) -> Expr:
        """``True`` is Python's way to write one."""
        word, switches = str(e.attr) if e.op == "name" else "", ("true", "false")
        meant = NAMES.get(word) or nearest(word, switches)
        return self.say(
            "NLC204",
            f"`{key}` is `true` or `false`",
            e,
            f"did you mean `{meant}`?" if meant else "a switch is needed",
            fix=Fix(e.span, meant)
            if word in NAMES and meant and e.span
            else certain(e.span, word, switches),
        )

    def later(self, what: str, e: Expr, help: str = "") -> Expr:
        self.scope.later(what, e.span, help)
        return error(e.span)


def quoted(e: Expr) -> str:
    """An expression as the user wrote it, on one line."""
    return (e.span.quote() if e.span is not None else "") or show(e)


def unchanging(terms: Terms, value: Expr, written: Expr) -> Expr:
    """A first value, if nothing of a tick is part of it."""
    for node in () if value.op == "error" else walk(value):
        counts = node.op == "index" and node.attr[0] != "head"
        if node.op in ("input", "flow", "g", "attend", "delay") or counts:
            shown = f"`{quoted(node)}`" if node.span is not None else "a flow"
            return terms.say(
                "NLC208",
                f"an initial value cannot read {shown}",
                node if node.span is not None else written,
                "it changes from tick to tick",
                helps=["initial values are made of numbers, hypers and levels"],
            )
    return value
