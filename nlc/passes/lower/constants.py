"""What no token changes: the loop's own copies of it, computed in what the loop computes in.

In bfloat16 a decay of 0.998 is 1, and nothing is forgotten; so what the loop reads is not rounded to what its inputs
come in. Outside the loop such a value is a statement like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from nlc.ir.expr import Expr, rewrite, substitute, walk
from nlc.ir.program import Let, Loop
from nlc.ir.system import System
from nlc.ir.types import Type
from nlc.passes.naming import Names, describe


class Constants:
    """Finds expressions of slow weights and head indices; ``Tokens`` asks where a step or a read needs one."""

    system: System
    names: Names
    flow_vars: dict[str, str]
    wanted: dict[Expr, str]
    constants: dict[Expr, Expr]
    before: list[Let]
    after: list[Let]
    first: list[Let]
    var: Callable[[str, Type], Expr]
    program_expr: Callable[[Expr], Expr]

    def fixed(self, e: Expr) -> Expr | None:
        """Such an expression with its flows written out; None if it is another, or a leaf that is no flow."""
        if e.type.clock.batched:
            return None
        whole = self._written(e)
        return whole if (whole.args or e.op == "flow") and _made_of_weights(whole) else None

    def _written(self, e: Expr) -> Expr:
        flows = {n for n in walk(e) if n.op == "flow"}
        return substitute(e, {n: self._written(self.system.flows[n.attr].expr) for n in flows})

    def constant(self, e: Expr, whole: Expr, where: str) -> Expr:
        """The variable that holds it in the loop; a flow that is but a weight's other name is the weight."""
        if not whole.args:
            return self.program_expr(whole)
        if e not in self.constants:
            new = self.program_expr(whole)
            flow = self.system.flows[e.attr] if e.op == "flow" else None
            wanted = self.flow_vars[flow.name] if flow else self.wanted.get(e)
            name = self.names(wanted or describe(new, of=where.replace(".", "_")))
            self.first.append(Let((name,), new, "", flow.span if flow else e.span))
            self.constants[e] = self.var(name, e.type)
        return self.constants[e]

    def without_copies(self, loop: Loop, outputs: list[Expr]) -> Loop:
        """A flow that only the loop reads is not computed before it, and keeps its name there."""
        flows = self.system.flows
        slow = {n: f.expr for n, f in flows.items() if not f.expr.type.clock.batched}
        fixed = {self.flow_vars[n] for n, e in slow.items() if _made_of_weights(self._written(e))}
        read = [*outputs, *(x.expr for x in (*self.after, *loop.first, *loop.body))]
        asked, dropped = _variables(read), set()
        for let in reversed(self.before):
            if let.names[0] in fixed - asked:
                self.before.remove(let)
                dropped.add(let.names[0])
            else:
                asked |= _variables([let.expr])
        own = {
            str(value.attr): self.flow_vars[e.attr]
            for e, value in self.constants.items()
            if e.op == "flow" and self.flow_vars[e.attr] in dropped
        }
        first, body = (tuple(_renamed(x, own) for x in lets) for lets in (loop.first, loop.body))
        return replace(loop, first=first, body=body)


def _made_of_weights(whole: Expr) -> bool:
    """Whether slow weights or head indices are in it, and nothing that is carried."""
    ops = {n.op for n in walk(whole)}
    return bool(ops & {"weight", "index"}) and not ops & {"delay", "conv", "attend"}


def _variables(exprs: Iterable[Expr]) -> set[str]:
    return {str(n.attr) for e in exprs for n in walk(e) if n.op == "var"}


def _renamed(let: Let, names: dict[str, str]) -> Let:
    def rule(n: Expr) -> Expr | None:
        return replace(n, attr=names[n.attr]) if n.op == "var" and n.attr in names else None

    return replace(
        let, names=tuple(names.get(n, n) for n in let.names), expr=rewrite(let.expr, rule)
    )
