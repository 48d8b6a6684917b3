"""One level: its flows, objective, rule or update, and where it starts."""

from __future__ import annotations

from dataclasses import replace

from nlc.base.diagnostics import Fix, nearest
from nlc.ir.expr import Expr, walk
from nlc.ir.ops import OPS
from nlc.ir.system import Flow, Level, Memory, Reset, Rule, State
from nlc.ir.types import STEP, TOKEN
from nlc.lib.rules import RULES
from nlc.passes.resolve.arguments import bind
from nlc.passes.resolve.sizes import clock
from nlc.passes.resolve.terms import Place, Terms, quoted
from nlc.syntax.tree import LevelTree


def resolve_level(
    level: LevelTree, terms: Terms, flows: dict[str, Flow], known: frozenset[str]
) -> Level | None:
    """None after a mistake in what the level is; its flows are added to ``flows``."""
    name, memory = level.name, terms.memories.get(level.name)
    ticks = clock(terms.scope, level.frequency)
    if ticks is not None and ticks.unit == ("token" if terms.scope.gradients else "step"):
        ticks = (
            STEP if terms.scope.gradients else TOKEN
        )  # reported; what follows goes on with the usual one

    def own(key: str, mode: str) -> Expr | None:
        e = getattr(level, key)
        return None if e is None else terms.resolve(e, Place(f"{name}.{key}", name, mode, key=key))

    for key in ("key", "value"):
        if (e := getattr(level, key)) is not None:
            full = f"{name}.{key}"
            at = Place(full, name, "own", reader=full, key=key)
            flows[full] = Flow(full, terms.resolve(e, at), level.keys.get(key, level.span), name)
    for let in level.let:
        full = f"{name}.{let.name}"
        flow = terms.resolve(let.expr, Place(full, name, "flow", reader=full))
        flows[full] = Flow(full, flow, let.span, name)
    rule, update = _rule(level, terms, known), _update(level, terms)
    objective = None if _is_loss(level) else own("objective", "objective")
    retain, project = own("retain", "rule"), own("project", "rule")
    toward = _toward(level, terms)
    if memory is None or ticks is None:
        return None
    if objective is not None:
        _bare_reads(level, objective, terms)
    return Level(
        name=name,
        span=level.span,
        clock=ticks,
        memory=replace(memory, states=tuple(_init(s, level, terms) for s in memory.states)),
        objective=objective,
        rule=rule,
        update=update,
        retain=retain,
        toward=toward,
        project=project,
        anchor=clock(terms.scope, level.anchor),
        reset=_reset(level, terms),
        backprop=not (level.backprop and level.backprop.text == "none"),
        doc=level.doc.text if level.doc else "",
        keys=level.keys,
    )


def _reset(level: LevelTree, terms: Terms) -> Reset | None:
    """Where the memory returns to: another level's state, an expression, or its own start."""
    tree = level.reset
    every = clock(terms.scope, tree.every) if tree is not None else None
    if every is None:
        return None
    to = None
    if tree.to is not None:
        to = terms.resolve(tree.to, Place(f"{level.name}.reset", level.name, "flow", key="reset"))
    return Reset(every, to, tree.span)


def _is_loss(level: LevelTree) -> bool:
    e = level.objective
    return e is not None and e.op == "name" and e.attr == "loss"


def _toward(level: LevelTree, terms: Terms) -> Expr | None:
    e = level.toward
    if e is None:
        return None
    if e.op == "name" and e.attr == "init":
        return Expr("initial", (), level.name, None, e.span)
    return terms.resolve(e, Place(f"{level.name}.toward", level.name, "rule", key="toward"))


# ---------------------------------------------------------------------------------------------------- init


def _init(state: State, level: LevelTree, terms: Terms) -> State:
    """``zeros`` | ``learned`` | ``learned(e)`` | an expression | another level."""
    e = level.init
    if e is None or (e.op == "name" and e.attr == "zeros"):
        return state
    if e.op == "name" and e.attr == "learned":
        return replace(state, learned=True)
    place = Place(f"{state.name}.init", level.name, "own", key="init")
    if e.op == "call" and e.args[0].op == "name" and e.args[0].attr == "learned":
        if len(e.args) != 2 or e.attr:
            terms.say("NLC204", "`learned` takes one argument", e, "the value it starts from")
            return state
        return replace(state, learned=True, init=initial(terms, e.args[1], place))
    start = initial(terms, e, place)
    drawn = next((n for n in walk(start) if n.op in ("uniform", "normal")), None)
    if drawn is not None:
        label = "it would be drawn anew for every stream"
        terms.say(
            "NLC208",
            "a random start is a slow weight",
            drawn,
            label,
            helps=[f"write `init: learned({quoted(e)})`"],
        )
        return state
    return replace(state, init=start)


def initial(terms: Terms, e: Expr, at: Place) -> Expr:
    """An expression for a first value, which nothing of a tick can be part of."""
    out = terms.resolve(e, at)
    if out.op == "error":
        return out
    for node in walk(out):
        if node.op in ("input", "flow", "g", "attend", "delay") or _counts(node):
            shown = f"`{quoted(node)}`" if node.span is not None else "a flow"
            return terms.say(
                "NLC208",
                f"an initial value cannot read {shown}",
                node if node.span is not None else e,
                "it changes from tick to tick",
                helps=["initial values are made of numbers, hypers and levels"],
            )
    return out


def _counts(node: Expr) -> bool:
    return node.op == "index" and node.attr[0] != "head"


# ---------------------------------------------------------------------------------------------------- steps


def _rule(level: LevelTree, terms: Terms, known: frozenset[str]) -> Rule | None:
    scope, e = terms.scope, level.rule
    if e is None or e.op == "error":
        return None
    named = e.args[0] if e.op == "call" else e
    if named.op != "name":
        label = "for example `gd(lr=beta)`"
        terms.say("NLC202", f"`{quoted(e)}` is not a rule", e, label, notes=_rules())
        return None
    name = named.attr
    if name not in RULES:
        if name in known:
            help = "write its levels out, or use gd, dgd or prox"
            scope.later(f"an optimizer as an inner rule (`{name}`)", named.span, help)
            return None
        close = nearest(name, [*RULES, *known])
        terms.say(
            "NLC202",
            f"there is no rule `{name}`",
            named,
            f"did you mean `{close}`?" if close else "not a rule",
            notes=_rules(),
            fix=Fix(named.span, close) if close and named.span else None,
        )
        return None
    bound = bind(scope.report, RULES[name].params, e, name, "rule")
    if bound is None:
        return None
    exact = bound.get("exact")
    if exact is not None and exact.op != "bool":
        terms.say("NLC204", "`exact` is `true` or `false`", exact, "a switch is needed")
        return None
    args = {
        key: terms.resolve(value, Place(f"{level.name}.{key}", level.name, "rule", key="rule"))
        for key, value in bound.items()
        if value is not None
    }
    return Rule(name, args, e.span)


def _rules() -> list[str]:
    return [f"rules: {', '.join(RULES)}"]


def _update(level: LevelTree, terms: Terms) -> dict[str, Expr] | None:
    if level.update is None:
        return None
    memory = terms.memories.get(level.name)
    place = Place(f"{level.name}.update", level.name, "rule", key="update")
    if isinstance(level.update, Expr):
        e = terms.resolve(level.update, place)
        if memory is None or not memory.states:
            return None
        if len(memory.states) > 1:
            names = " and ".join(_inner(s) for s in memory.states)
            message = f"level `{level.name}` has several states, {names}"
            terms.say("NLC103", message, level.update, "give a map, one expression a state")
            return None
        return {memory.states[0].name: e}
    out = {}
    known = [_inner(s) for s in memory.states] if memory else []
    for item in level.update:
        e = terms.resolve(item.expr, place)
        if item.name in known:
            out[_full(memory, item.name)] = e
        elif memory is not None:
            close = nearest(item.name, known)
            terms.scope.report.add(
                "NLC201",
                f"level `{level.name}` has no state `{item.name}`",
                item.span,
                f"did you mean `{close}`?" if close else "not a state of its memory",
                notes=[f"states of `{level.name}`: {', '.join(known)}"] if known else [],
                fix=Fix(item.span, close) if close else None,
            )
    return out


def _inner(s: State) -> str:
    return s.name.rpartition(".")[2]


def _full(memory: Memory, inner: str) -> str:
    return next(s.name for s in memory.states if _inner(s) == inner)


# ---------------------------------------------------------------------------------------------------- warnings


def _bare_reads(level: LevelTree, objective: Expr, terms: Terms) -> None:
    """Warns of a bare name beside another in a product: it is differentiated too, where a constant is meant.

    LAMB's ``norm(W)`` is silently wrong so (language §2).
    """
    bare = [s for s in terms.bare if s.text == level.name]
    depends: dict[int, bool] = {}
    for node in walk(objective):
        own = node.op == "state" and node.attr == (level.name, "var")
        depends[id(node)] = own or any(depends[id(a)] for a in _varying(node))
    for node in walk(objective):
        if node.op not in ("mul", "div", "dot") or not all(depends[id(a)] for a in node.args):
            continue
        for arg in node.args:
            if arg.op == "state" or not _curved(arg, level.name):
                continue
            span = next((n.span for n in walk(arg) if n.op == "state" and n.span in bare), None)
            if span is not None and node.args[0] != node.args[1]:
                terms.scope.report.add(
                    "NLC211",
                    f"the gradient of level `{level.name}` is also taken through this `{level.name}`",
                    span,
                    "as through every bare name of the level in its own objective",
                    helps=[f"write `prev({level.name})` if it is meant as a constant factor"],
                )
                return


def _curved(e: Expr, level: str) -> bool:
    """Whether a state passes an operator that is not linear on its way."""
    linear = {"add", "sub", "neg", "T", "sum", "mean", "matmul", "mul", "state", "dot"}
    reach: dict[int, bool] = {}
    for node in walk(e):
        own = node.op == "state" and node.attr == (level, "var")
        reach[id(node)] = own or any(reach[id(a)] for a in _varying(node))
        if node.op not in linear and any(reach[id(a)] for a in _varying(node)):
            return True
    return False


def _varying(e: Expr) -> tuple[Expr, ...]:
    """The operands that the value depends on: a size does not depend on what has it."""
    return () if e.op in OPS and OPS[e.op].size is not None else e.args
