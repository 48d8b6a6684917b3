"""The one expression node. Surface text, typed mathematics and generated statements are all trees of it.

``op`` says what the node is, ``args`` are its operands, ``attr`` is whatever else it needs (a number, a name, a
keyword). ``type`` and ``span`` ride along and take no part in equality, so two expressions are equal iff they say
the same. Operators of the surface (as parsed): ``num`` ``name`` ``call`` ``index`` ``attr`` ``list`` ``fold`` and the
arithmetic ones; what a name means is settled by ``passes/resolve``, which leaves only operators of ``ir/ops``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from operator import is_
from typing import TYPE_CHECKING

from nlc.base.span import Span

if TYPE_CHECKING:
    from nlc.ir.types import Type


@dataclass(frozen=True, slots=True, eq=False)
class Expr:
    """``op(args; attr)``, immutable, compared by structure."""

    op: str
    args: tuple[Expr, ...] = ()
    attr: Hashable = None
    type: Type | None = None
    span: Span | None = None
    _hash: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.op, self.args, self.attr)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Expr)
            and self._hash == other._hash
            and self.op == other.op
            and self.attr == other.attr
            and type(self.attr) is type(other.attr)
            and self.args == other.args
        )

    def __repr__(self) -> str:
        inside = [repr(a) for a in self.args]
        if self.attr is not None:
            inside.append(f"{self.attr!r}")
        return f"{self.op}({', '.join(inside)})"

    def with_args(self, args: tuple[Expr, ...]) -> Expr:
        """This node over other operands; the same object if they are the same."""
        if len(args) == len(self.args) and all(map(is_, args, self.args)):
            return self
        return Expr(self.op, args, self.attr, self.type, self.span)

    def with_type(self, type: Type | None) -> Expr:
        if self.type is type:
            return self
        return Expr(self.op, self.args, self.attr, type, self.span)

    def at(self, span: Span | None) -> Expr:
        return Expr(self.op, self.args, self.attr, self.type, span)


def walk(expr: Expr) -> Iterator[Expr]:
    """Every distinct node once, operands before the node that reads them."""
    seen: set[int] = set()
    stack: list[Expr | None] = [
        expr
    ]  # above None stands what is done with, below it whose operands were
    while stack:
        node = stack.pop()
        if node is None:
            yield stack.pop()
        elif id(node) not in seen:
            seen.add(id(node))
            if node.args:
                stack += (node, None)
                stack += node.args[::-1]
            else:
                yield node


def rewrite(expr: Expr, rule: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuilds bottom-up; ``rule`` sees each node over its new operands and returns a replacement or None."""
    done: dict[int, Expr] = {}
    for node in walk(expr):
        new = _over(node, done)
        done[id(node)] = rule(new) or new
    return done[id(expr)]


def substitute(expr: Expr, mapping: dict[Expr, Expr]) -> Expr:
    """Replaces every occurrence of the keys; what is put in is not searched again."""
    if not mapping:
        return expr
    done: dict[int, Expr] = {}
    for node in walk(expr):
        done[id(node)] = mapping[node] if node in mapping else _over(node, done)
    return done[id(expr)]


def _over(node: Expr, done: dict[int, Expr]) -> Expr:
    """A node over what has become of its operands."""
    return node.with_args(tuple([done[id(a)] for a in node.args])) if node.args else node


def part(expr: Expr, index: int) -> Expr:
    """What a value is for one state of a memory: its part of a bundle, else the value itself."""
    return expr.args[index] if expr.op == "bundle" else expr


def contains(expr: Expr, wanted: Callable[[Expr], bool]) -> bool:
    return any(wanted(node) for node in walk(expr))
