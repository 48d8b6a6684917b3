"""``use: {mem: titans(d=d)}``: another token system as a function, so that ``mem(x)`` is a flow (language §4)."""

from __future__ import annotations

from dataclasses import replace

from nlc.base.diagnostics import Label, nearest
from nlc.ir.expr import Expr
from nlc.ir.show import show
from nlc.ir.system import Use
from nlc.lib.functions import REQUIRED
from nlc.passes.resolve.arguments import bind
from nlc.passes.resolve.bundles import one
from nlc.passes.resolve.rule import given
from nlc.passes.resolve.scope import CONTEXTS, error
from nlc.passes.resolve.terms import Place, Terms, quoted
from nlc.syntax.tree import Field


def resolve_uses(terms: Terms) -> None:
    """Fills ``terms.uses``; what stands for their inputs comes with their calls."""
    if terms.scope.gradients:
        return  # reported with the key
    for item in terms.scope.tree.use:
        if item.name in terms.scope.uses and (use := _use(item, terms)) is not None:
            terms.uses[item.name] = use


def _use(item: Field, terms: Terms) -> Use | None:
    e, scope = item.expr, terms.scope
    if e.op == "error":
        return None
    named = e.args[0] if e.op == "call" else e
    if named.op != "name" or named.attr not in terms.library.names:
        close = nearest(str(named.attr), terms.library.names) if named.op == "name" else None
        scope.report.add(
            "NLC207",
            f"there is no spec `{quoted(named)}`",
            named.span or item.span,
            f"did you mean `{close}`?" if close else "not found",
            helps=["name a token system that `nlc list` shows, or one beside this spec"],
        )
        return None
    system = terms.library.system(named.attr, named.span, scope.report)
    if system is None:
        return None
    if system.context != "tokens":
        terms.say(
            "NLC404",
            "only token systems can be used",
            e,
            f"`{system.name}` is a {CONTEXTS[system.context]} system",
            helps=[f"as the rule of a level it is `rule: {system.name}(…)`"],
        )
        return None
    if len(system.output) != 1:
        outputs = ", ".join(f"`{n}`" for n in system.output)
        label = "as a function it has one value"
        helps = ["use a spec with one output"]
        terms.say("NLC404", f"`{system.name}` has the outputs {outputs}", e, label, helps=helps)
        return None
    if "heads" in system.hypers and scope.tree.heads is None:
        message = f"`{system.name}` needs a system with heads"
        scope.without_heads(message, e.span, "a used system has the heads of the one that uses it")
        return None
    shown = {n: show(h.default) for n, h in system.hypers.items() if n != "heads"}
    bound = bind(scope.report, dict.fromkeys(shown), e, system.name, "", shown)
    if bound is None:
        return None
    found = given(system, bound, terms, Place(item.name))
    if found is None:
        return None
    args, sizes = found
    if "heads" in system.hypers:
        sizes["heads"] = scope.hypers["heads"].symbol
        args["heads"] = Expr("hyper", (), "heads", None, e.span)
    return Use(item.name, system, args, sizes, {}, item.span)


def call_use(terms: Terms, name: str, e: Expr, at: Place) -> Expr:
    """``mem(x)``: one stream; all calls of one name are the same."""
    use = terms.uses.get(name)
    terms.scope.read(name, at.reader)
    if use is None:
        return error(e.span)
    bound = bind(terms.scope.report, dict.fromkeys(use.system.inputs, REQUIRED), e, name)
    if bound is None:
        return error(e.span)
    inputs = {k: one(terms, terms.resolve(v, replace(at, path=name))) for k, v in bound.items()}
    if any(v.op == "error" for v in inputs.values()):
        return error(e.span)
    if use.inputs and use.inputs != inputs:
        first = next(iter(use.inputs.values())).span
        return terms.say(
            "NLC204",
            f"`{name}` is called in two ways",
            e,
            "one name is one stream of data",
            related=[Label(first, "first called here")] if first else [],
            helps=["use the system a second time, under another name"],
        )
    terms.uses[name] = replace(use, inputs=inputs)
    return Expr("flow", (), name, None, e.span)
