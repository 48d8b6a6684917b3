"""Calls: reads of memories (``M(z)``), functions of the library, ``prev`` and ``grad``."""

from __future__ import annotations

from dataclasses import replace

from nlc.base.diagnostics import Label
from nlc.base.span import Span
from nlc.ir.expr import Expr, rewrite, substitute, walk
from nlc.lib.functions import FUNCTIONS, REQUIRED, Function
from nlc.passes.resolve import names
from nlc.passes.resolve.arguments import bind
from nlc.passes.resolve.bundles import bundle, each, one
from nlc.passes.resolve.choices import CONSTANTS
from nlc.passes.resolve.miscalled import axis, not_called, unknown_function
from nlc.passes.resolve.owned import module_of
from nlc.passes.resolve.scope import error
from nlc.passes.resolve.sizes import size
from nlc.passes.resolve.terms import Place, Terms, quoted
from nlc.passes.resolve.use import call_use
from nlc.syntax.math import parse_text


def call(terms: Terms, e: Expr, at: Place) -> Expr:
    scope, fn = terms.scope, e.args[0]
    if fn.op == "name" and fn.attr in names.PAST:
        return names.past(terms, e, fn.attr, at)
    target, when, label = fn, None, None
    if fn.op == "call" and fn.args[0].op == "name" and fn.args[0].attr in names.PAST:
        target, when = fn.args[1] if len(fn.args) == 2 else fn, fn.args[0].attr
    if fn.op == "index" and fn.args[0].op == "name" and fn.args[0].attr in FUNCTIONS:
        target, label = fn.args[0], fn
    if target.op == "name" and target.attr in scope.levels:
        bound = dict(at.bound).get(target.attr) if when is None else None  # by `grad(e, M)`
        return _read(terms, target.attr, when, e, at, held=bound)
    if target.op == "name" and target.attr in scope.uses:
        return call_use(terms, target.attr, e, at)
    if target.op == "name" and when is None and (through := _level_of_let(terms, target, at)):
        return _read(terms, through, None, e, at, held=names.name(terms, target, at))
    if fn.op == "error":
        return error(e.span)
    if target.op != "name":
        return not_called(terms, e, at)
    if target.attr == "grad":
        return _grad(terms, e, at)
    function = FUNCTIONS.get(target.attr)
    if function is not None and "last" in (e.attr or ()) and target.attr in ("sum", "mean"):
        return _recent(terms, target.attr, e, at)
    if function is None:
        return _unknown(terms, e, target, at)
    if function.init_only and at.key != "init":
        label = "nothing random happens in a tick"
        return terms.say("NLC202", f"`{target.attr}` is for initial values only", target, label)
    return _function(terms, function, e, label, at)


def _unknown(terms: Terms, call: Expr, target: Expr, at: Place) -> Expr:
    """A call of a name, or of its past, that is neither a function nor a memory."""
    scope, name = terms.scope, target.attr
    if scope.is_lost(name):
        return error(target.span)
    if _is_broken(terms, name, at):
        return error(target.span)
    own = at.names is not None and scope.own(at.names, name) is not None
    if name in scope.spans or own or name in (n for n, _ in at.bound):
        return terms.say(
            "NLC202",
            f"`{name}` is not a function",
            target,
            "a value takes no arguments",
            helps=[_product(terms, str(name), call)],
            causes=[("no state", name)],
        )
    return unknown_function(terms, target)


def _is_broken(terms: Terms, name: str, at: Place) -> bool:
    """Whether a let of this name has a mistake that is reported."""
    scope = terms.scope
    written = scope.own(at.names, name) if at.names else None
    if written is None and name in scope.lets:
        written = scope.lets[name].expr
    return written is not None and any(n.op == "error" for n in walk(written))


def _product(terms: Terms, name: str, call: Expr) -> str:
    """What is meant by a value that is called: a weight that is a matrix maps, anything else scales."""
    weight = terms.scope.weights.get(name)
    matrix = weight is not None and weight.shape.op == "list" and len(weight.shape.args) == 2
    if not matrix or len(call.args) != 2:
        return "write `*` for a product"
    given = quoted(call.args[1])
    return (
        f"write `{name} @ {given if call.args[1].op in ('name', 'call', 'attr') else f'({given})'}`"
    )


# ---------------------------------------------------------------------------------------------------- memories


def _level_of_let(
    terms: Terms, target: Expr, at: Place, within: frozenset[object] = frozenset()
) -> str | None:
    """The level whose state a let is made of, so that ``P(q)`` reads through it (language §3).

    ``within`` are the lets that are being looked into: one that reads its own past is made of no state by that.
    """
    scope = terms.scope
    bound = dict(at.bound).get(target.attr)
    if bound is not None:
        first = bound.args[0] if bound.op == "bundle" else bound
        return str(first.attr).partition(".")[0] if first.op == "variable" else None
    written = scope.own(at.names, target.attr) if at.names else None
    let = scope.lets.get(target.attr)
    written = written if written is not None else let.expr if let is not None else None
    if written is None:
        return None
    called = {n.args[0].attr for n in walk(written) if n.op == "call" and n.args[0].op == "name"}
    read = {n.attr: n for n in walk(written) if n.op == "name" and n.attr not in called}
    within |= {target.attr}
    made_of = {n for n in read if n in scope.levels}
    for n, e in read.items():
        if n not in scope.levels and n not in within:
            made_of.add(_level_of_let(terms, e, at, within))
    made_of.discard(None)
    return str(made_of.pop()) if len(made_of) == 1 else None


def _read(
    terms: Terms, level: str, when: str | None, e: Expr, at: Place, held: Expr | None = None
) -> Expr:
    """``M(z)``; ``held`` stands in for the state."""
    scope, given = terms.scope, e.args[1:]
    if level != at.level:
        scope.read(level, at.reader)
    args = [one(terms, terms.resolve(a, at)) for a in given]
    memory = terms.memories.get(level)
    if memory is None or any(a.op == "error" for a in args):
        return error(e.span)
    if memory.kind == "cache":
        if scope.levels[level].of_a_state:
            return error(e.span)  # reported there
        if len(args) != 1 or e.attr or when:
            message = f"reading `{level}` takes one query"
            return terms.say("NLC204", message, e, f"write `{level}(q)`")
        flows = [Expr("flow", (), f"{level}.{k}", None, e.span) for k in ("key", "value")]
        if level == at.level and at.mode == "own":
            return names.state(terms, level, None, e, at)
        window = memory.options.get("window")
        return Expr("attend", (args[0], *flows), (level, window), None, e.span)
    if memory.read is None:
        if level in terms.unreadable:
            return error(e.span)  # one memory, wrong for all its reads
        terms.unreadable.add(level)
        label = f"{memory.text} is a value: write `{level}`"
        place = scope.levels[level].keys.get("memory")
        related = (
            [Label(place, "what answers a query is for example `matrix(m, n)`")] if place else []
        )
        message = f"`{level}` cannot be read with an argument"
        said = scope.levels[level].memory
        causes = [("query", place), *(said.causes if said is not None else ())]
        return terms.say("NLC202", message, e, label, related=related, causes=causes)
    if len(args) != len(memory.params) or e.attr:
        params = ", ".join(memory.params)
        count = f"{len(memory.params)} argument{'s' * (len(memory.params) != 1)}"
        message = f"reading `{level}` takes {count}"
        return terms.say("NLC204", message, e, f"it is read as `{level}({params})`")
    mapping = {
        Expr("param", (), p): Expr("query", (a,), None, None, a.span)
        for p, a in zip(memory.params, args)
    }
    time = names.past_time(terms, level, when) if when else None
    for i, s in enumerate(memory.states):
        inner = s.name.split(".")[1] if "." in s.name else None
        value = held if held is not None else names.state(terms, level, inner, e, at, time)
        if value.op == "error":
            return error(e.span)
        mapping[Expr("self", (), s.name)] = value.args[i] if value.op == "bundle" else value
    return Expr("answer", (substitute(memory.read, mapping).at(e.span),), None, None, e.span)


def _grad(terms: Terms, e: Expr, at: Place) -> Expr:
    """``grad(e, P)``: P is a level or a let of a level's state, a variable inside e and a value outside."""
    if len(e.args) != 3 or e.attr or e.args[2].op != "name":
        label, helps = "write `grad(e, M)`", []
        if len(e.args) == 3 and e.args[2].op == "call" and e.args[2].args[0].attr in names.PAST:
            point = quoted(e.args[2])
            inside = quoted(e.args[1]).replace(point, "P")
            helps = [f"name the point: `let: {{P: {point}}}`, and write `grad({inside}, P)`"]
        message = "`grad` takes an expression and a name"
        return terms.say("NLC204", message, e, label, helps=helps)
    if at.key != "update":
        return terms.later("`grad` outside an `update`", e, "write it in the `update` of a level")
    target = e.args[2]
    level = target.attr if target.attr in terms.scope.levels else None
    level = level or _level_of_let(terms, target, at)
    value = terms.resolve(target, at)
    if value.op == "error" or _is_broken(terms, target.attr, at):
        return error(target.span)
    if level is None:
        label = "differentiate by a level, or by a let of its state"
        message = f"`{target.attr}` is not made of a level's state"
        return terms.say("NLC204", message, target, label, causes=[("no state", target.attr)])
    states = [s.name for s in terms.memories[level].states]
    values = value.args if value.op == "bundle" else (value,)
    leaves = [Expr("variable", (), s, None, target.span) for s in states[: len(values)]]
    variable = leaves[0] if len(leaves) == 1 else bundle(leaves, target.span)
    inside = terms.resolve(e.args[1], replace(at, bound=(*at.bound, (target.attr, variable))))
    inside = one(terms, inside)
    if inside.op == "error":
        return inside
    found = []  # each by one state, the others being where they are
    for x, v in zip(leaves, values):
        others = {y: w for y, w in zip(leaves, values) if y is not x}
        found.append(Expr("grad", (substitute(inside, others), v), x.attr, None, e.span))
    return found[0] if len(found) == 1 else bundle(found, e.span)


# ---------------------------------------------------------------------------------------------------- functions


def _function(terms: Terms, f: Function, e: Expr, label: Expr | None, at: Place) -> Expr:
    bound = bind(terms.scope.report, f.params, e, f.name, elsewhere=lambda key: axis(f, e, key))
    if bound is None:
        return error(e.span)
    values = {
        k: terms.resolve(v, at) for k, v in bound.items() if k not in f.static and v is not None
    }
    if any(v.op == "error" for v in values.values()):
        return error(e.span)
    if f.is_:
        body = terms.resolve(parse_text(f.is_), Place(at.path, bound=tuple(values.items())))
        return _placed(body, values, e.span)
    if f.name in ("split", "merge") and terms.scope.tree.heads is None:
        message, label = f"`{f.name}` needs a system with heads", "no `heads:` is declared"
        terms.scope.without_heads(message, e.span, label)
        return error(e.span)
    operands = tuple(values.values())
    if f.name in ("max", "min") and len(operands) == 1:
        return each(terms, Expr("a" + f.name, operands, None, None, e.span))
    if label is not None and not f.weights:
        message = f"`{f.name}` has no weights to name"
        return terms.say("NLC204", message, label, "a label names weights, as in `linear[gate](x)`")
    attr: object = None
    if f.name in CONSTANTS and any(bound[k] is not None for k in f.static):
        attr = CONSTANTS[f.name](terms, bound)
        if attr is None:
            return error(e.span)
    if f.weights:
        module = module_of(terms, f, e, bound, label, at)
        if module is None:
            return error(e.span)
        attr = module.path
        owned = [w for w in f.weights if w != "bias" or module.bias or "bias" not in f.params]
        operands += tuple(Expr("weight", (), f"{attr}.{w}", None, e.span) for w in owned)
    return each(terms, Expr(f.op, operands, attr, None, e.span))


def _recent(terms: Terms, name: str, e: Expr, at: Place) -> Expr:
    """``sum(e, last=c)``: over the last c ticks of the level, ``age`` 0 in the newest."""
    if terms.scope.gradients:
        return terms.later(f"`{name}` over a window of ticks in a gradient system", e)
    bound = bind(terms.scope.report, {"x": REQUIRED, "last": REQUIRED}, e, name)
    ticks = size(terms.scope, bound["last"], "a window") if bound else None
    if ticks is None:
        return error(e.span)
    age = Expr("index", (), ("age", at.level))
    inside = terms.resolve(bound["x"], replace(at, bound=(("age", age), *at.bound)))
    if inside.op == "error":
        return inside
    attr = (ticks, None)  # whose ticks: ``clocks`` says so
    found = Expr("recent", (inside,), attr, None, e.span)
    if name == "sum":
        return found
    one = Expr("num", (), 1.0, None, e.span)
    return Expr("div", (found, Expr("recent", (one,), attr, None, e.span)), None, None, e.span)


def _placed(body: Expr, values: dict[str, Expr], span: Span | None) -> Expr:
    """The body of a library function, every part of it at the place of the call, the arguments at their own."""
    given = {id(n) for v in values.values() for n in walk(v)}
    return rewrite(body, lambda n: None if id(n) in given else n.at(span))
