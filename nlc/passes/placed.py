"""Program -> Program: every statement with the place in a spec that it stems from.

Messages at run time name that place, so no statement may be without one. What a stage has made on the way stands for
what reads it: a part of a key is that key.
"""

from __future__ import annotations

from dataclasses import replace

from nlc.base.span import Span
from nlc.ir.expr import Expr, walk
from nlc.ir.program import Let, Loop, Parallel, Program, Return
from nlc.ir.scan import Scan

Statement = Let | Scan | Loop | Parallel | Return


def placed(program: Program) -> Program:
    """The same statements; one that no spec's text made, as the count of tokens, stays without a place."""
    return _Places(program).program()


class _Places:
    """Statements are gone through from the last to the first, so that readers are known before what they read."""

    def __init__(self, original: Program):
        self.original = original
        system, levels = original.system, original.system.levels
        self.source = system.source
        self.readers: dict[str, Span] = {}  # where the statement stands that reads a variable next
        self.owners: dict[str, Span] = {}  # of the variables of the state
        for slot in original.slots:
            path, name = slot.key.split("."), ""
            while path and not name:
                name = ".".join(path) if ".".join(path) in {*levels, *system.flows} else ""
                path.pop()
            if name:
                found = levels[name].span if name in levels else system.flows[name].span
                if self._written(found):
                    self.owners[slot.var] = found

    def program(self) -> Program:
        body = self._all(self.original.body)
        return replace(self.original, body=body)  # type: ignore[arg-type]

    def _all(self, statements: tuple) -> tuple:
        return tuple([self._one(x) for x in reversed(statements)][::-1])

    def _one(self, x: Statement) -> Statement:
        if isinstance(x, Return):
            for e in x.outputs.values():
                self._read(e, self._of(e))
            return x
        if isinstance(x, Loop | Parallel):
            for outer, inner in x.collects.items():  # what goes out is read behind
                if outer in self.readers:
                    self.readers.setdefault(inner, self.readers[outer])
            if isinstance(x, Loop):
                for stack, members in x.stacks.items():
                    found = next((self.owners[m] for m in members if m in self.owners), None)
                    if found is not None:
                        self.owners.setdefault(stack, found)
            body = self._all(x.body)
            for outer, inner in x.slices.items():
                if inner in self.readers:
                    self.readers.setdefault(outer, self.readers[inner])
            return replace(x, body=body, first=self._all(x.first))
        names = x.names if isinstance(x, Let) else x.record.states
        parts = (x.expr,) if isinstance(x, Let) else x.record.parts
        span = x.span if self._written(x.span) else None
        for way in (self.readers, self.owners):
            span = span or next((way[n] for n in names if n in way), None)
        span = span or next(filter(None, map(self._of, parts)), None)
        for e in parts:
            self._read(e, span)
        return replace(x, span=span)

    def _read(self, e: Expr, span: Span | None) -> None:
        if span is not None:
            self.readers |= {str(n.attr): span for n in walk(e) if n.op == "var"}

    def _of(self, e: Expr) -> Span | None:
        """The place of an expression: its own, or that of a part."""
        own = [n.span for n in (e, *walk(e)) if self._written(n.span)]
        return own[0] if own else None

    def _written(self, span: Span | None) -> bool:
        """Whether a place is in a file that somebody wrote, not in a formula of the library."""
        if span is None:
            return False
        return span.source is self.source or not span.source.name.startswith("<")
