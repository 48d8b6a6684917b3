"""One level: its flows, objective, rule or update, and where it starts."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from nlc.base.diagnostics import certain, nearest
from nlc.ir.expr import Expr, part, walk
from nlc.ir.ops import OPS
from nlc.ir.system import Flow, Level, Memory, Reset, State
from nlc.ir.types import STEP, TOKEN
from nlc.passes.resolve.bundles import fitted, one
from nlc.passes.resolve.names import several
from nlc.passes.resolve.rule import is_loss, resolve_rule
from nlc.passes.resolve.sizes import clock
from nlc.passes.resolve.terms import Place, Terms, quoted, unchanging
from nlc.syntax.tree import LetTree, LevelTree


def resolve_level(level: LevelTree, terms: Terms, flows: dict[str, Flow]) -> Level | None:
    """None after a mistake in what the level is; its flows are added to ``flows``."""
    name, memory = level.name, terms.memories.get(level.name)
    ticks = clock(terms.scope, level.frequency)
    other = "token" if terms.scope.gradients else "step"
    if ticks is not None and ticks.unit == other and not is_loss(level):
        usual = STEP if terms.scope.gradients else TOKEN  # reported; what follows goes on with it
        ticks = replace(ticks, unit=usual.unit) if ticks.kind == "every" else usual
    if ticks is not None and ticks.slow and level.phase is not None:
        ticks = replace(ticks, phase=level.phase.text)

    def own(key: str, mode: str) -> Expr | None:
        e = getattr(level, key)
        return None if e is None else terms.resolve(e, Place(f"{name}.{key}", name, mode, key=key))

    for key in ("key", "value"):
        if (e := getattr(level, key)) is not None:
            full = f"{name}.{key}"
            at = Place(full, name, "own", reader=full, key=key)
            flow = one(terms, terms.resolve(e, at))
            flows[full] = Flow(full, flow, level.keys.get(key, level.span), name)
    for let in level.let:
        full = f"{name}.{let.name}"
        place = Place(full, name, "flow", reader=full)
        flows |= flows_of(terms, let, place, name)
    rule, update = resolve_rule(level, terms), _update(level, terms)
    objective = None if is_loss(level) else own("objective", "objective")
    retain, project = (fitted(terms, own(key, "rule"), name) for key in ("retain", "project"))
    toward = _toward(level, terms)
    if memory is None or ticks is None:
        return None
    if objective is not None:
        objective = one(terms, objective)
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
        outer=is_loss(level),
        through=_through(level, terms),
        backprop=not (level.backprop and level.backprop.text == "none"),
        doc=level.doc.text if level.doc else "",
        keys=level.keys,
    )


def flows_of(terms: Terms, let: LetTree, place: Place, level: str | None = None) -> dict[str, Flow]:
    """What a let is: one flow, or one for each state of a memory that it maps over."""
    value, names = terms.resolve(let.expr, place), several(terms, place.path)
    if value.op == "bundle" and names:
        return {n: Flow(n, part, let.span, level) for n, part in zip(names, value.args)}
    return {place.path: Flow(place.path, one(terms, value), let.span, level)}


def _reset(level: LevelTree, terms: Terms) -> Reset | None:
    """Where the memory returns to: another level's state, an expression, or its own start."""
    tree = level.reset
    every = clock(terms.scope, tree.every) if tree is not None else None
    if every is None:
        return None
    to = None
    if tree.to is not None:
        place = Place(f"{level.name}.reset", level.name, "flow", key="reset")
        to = fitted(terms, terms.resolve(tree.to, place), level.name)
    return Reset(every, to, tree.span, tree.rule)


def _through(level: LevelTree, terms: Terms) -> str | None:
    """The level through whose updates the gradient passes: one that starts over from this level."""
    e, scope = level.through, terms.scope
    if e is None or e.op == "error":
        return None
    if e.op != "name" or e.attr not in scope.levels or e.attr == level.name:
        others = [n for n in scope.levels if n != level.name]
        close = nearest(str(e.attr), others) if e.op == "name" else None
        label = f"did you mean `{close}`?" if close else "`through` names a faster level"
        notes = [f"levels: {', '.join(others)}"] if others else []
        terms.say("NLC201", f"`{quoted(e)}` is no other level", e, label, notes=notes)
        return None
    other = scope.levels[e.attr]
    to = other.reset.to if other.reset is not None else None
    mine = to is not None and to.op == "name" and to.attr == level.name
    again = clock(scope, other.reset.every) if mine else None
    if not mine or again != clock(scope, level.frequency):
        period = level.frequency.span.text if level.frequency is not None else "…"
        terms.say(
            "NLC402",
            f"level `{e.attr}` does not start over from `{level.name}` with each of its periods",
            e,
            f"so no gradient passes from `{e.attr}` to `{level.name}`",
            helps=[
                f"give `{e.attr}` the key `reset: {{every: {period.removeprefix('every ')}, to: {level.name}}}`"
            ],
        )
        return None
    return e.attr


def _toward(level: LevelTree, terms: Terms) -> Expr | None:
    e = level.toward
    if e is None:
        return None
    if e.op == "name" and e.attr == "init":
        return Expr("initial", (), level.name, None, e.span)
    place = Place(f"{level.name}.toward", level.name, "rule", key="toward")
    return fitted(terms, terms.resolve(e, place), level.name)


# ---------------------------------------------------------------------------------------------------- init


def _init(state: State, level: LevelTree, terms: Terms) -> State:
    """``zeros`` | ``learned`` | ``learned(e)`` | an expression | another level."""
    e = level.init
    if e is None and is_loss(level):
        return replace(state, learned=True, init=_usual(state, terms))
    if e is None or (e.op == "name" and e.attr == "zeros"):
        return state
    called = e.args[0] if e.op == "call" else e
    if terms.scope.gradients and called.op == "name" and called.attr == "learned":
        terms.say(
            "NLC404",
            "a gradient system learns no starts",
            e,
            "nothing trains the optimizer itself",
            helps=[
                "write where it starts, for example `init: normal(0.02)`, drawn for each tensor"
            ],
        )
        return state
    if e.op == "name" and e.attr == "learned":
        return replace(state, learned=True, init=_usual(state, terms))
    place = Place(f"{state.name}.init", level.name, "own", key="init")
    if e.op == "call" and e.args[0].op == "name" and e.args[0].attr == "learned":
        if len(e.args) != 2 or e.attr:
            terms.say("NLC204", "`learned` takes one argument", e, "the value it starts from")
            return state
        start = _of_state(initial(terms, e.args[1], place), state, terms)
        return replace(state, learned=True, init=start)
    start = _of_state(initial(terms, e, place), state, terms)
    drawn = next((n for n in walk(start) if n.op in ("uniform", "normal")), None)
    if drawn is not None and not (terms.scope.gradients and drawn is start):
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


def _usual(state: State, terms: Terms) -> Expr | None:
    """Where a learned start begins: at 0 if the read is linear in the states, else matrices at normal(fan_in^-½).

    Matrices that are multiplied with one another would keep each other's gradients at 0 if they started there, and
    the first step of a matrix under a layernorm, whose slope at 0 is 1,000, would be that much too long.
    """
    memory = terms.memories[state.level]
    matrices = [s for s in memory.states if len(s.dims) == 2]
    linear = len(matrices) < 2 if memory.read is None else _degree(memory.read) <= 1
    if linear or state not in matrices:
        return None
    fan_in = Expr("size", (), state.dims[1], None, state.span)
    power = Expr("pow", (fan_in, Expr("num", (), -0.5)), None, None, state.span)
    return Expr("normal", (power,), None, None, state.span)


_LINEAR = frozenset("neg T sum mean split merge slice stop squeeze div linear".split())


def _degree(read: Expr) -> float:
    """Of a read as a polynomial of the states; infinite if it is none."""
    degree: dict[int, float] = {}
    for n in walk(read):
        inside = [degree[id(a)] for a in n.args]
        if n.op == "self" or not any(inside):
            found = float(n.op == "self")
        elif n.op in ("add", "sub"):
            found = max(inside)
        elif n.op in ("mul", "matmul", "dot", "outer"):
            found = sum(inside)
        else:
            found = inside[0] if n.op in _LINEAR and not any(inside[1:]) else inf
        degree[id(n)] = found
    return degree[id(read)]


def _of_state(e: Expr, state: State, terms: Terms) -> Expr:
    """The part of a bundle that belongs to one state: that of its position in the memory."""
    e = fitted(terms, e, state.level)
    names = [s.name for s in terms.memories[state.level].states]
    return part(e, names.index(state.name))


def initial(terms: Terms, e: Expr, at: Place) -> Expr:
    """An expression for a first value, which nothing of a tick can be part of; ``zeros`` is 0."""
    if e.op == "name" and e.attr == "zeros":
        return Expr("num", (), 0, None, e.span)
    return unchanging(terms, terms.resolve(e, at), e)


# ---------------------------------------------------------------------------------------------------- steps


def _update(level: LevelTree, terms: Terms) -> dict[str, Expr] | None:
    if level.update is None:
        return None
    memory = terms.memories.get(level.name)
    place = Place(f"{level.name}.update", level.name, "rule", key="update")
    if isinstance(level.update, Expr):
        e = terms.resolve(level.update, place)
        if memory is None or not memory.states:
            return None
        if e.op == "bundle" and len(e.args) == len(memory.states):
            return {s.name: part for s, part in zip(memory.states, e.args)}
        if e.op == "error":
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
        e = one(terms, terms.resolve(item.expr, place))
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
                fix=certain(item.span, item.name, known),
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
    linear = {
        "add",
        "sub",
        "neg",
        "T",
        "sum",
        "mean",
        "matmul",
        "mul",
        "state",
        "dot",
        "query",
        "answer",
    }
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
