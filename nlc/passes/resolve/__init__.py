"""SpecTree -> System: every name is looked up, every read of a state gets its time, every call its operator.

What a level's name reads is decided here and nowhere else (language §2): inside its own objective the variable, inside
its own rule the base, in its own key and value nothing (an error), elsewhere the new state of the tick.
"""

from __future__ import annotations

from dataclasses import replace

from nlc.base.diagnostics import Fix, Report, nearest
from nlc.ir.expr import Expr, walk
from nlc.ir.system import Flow, Input, Level, Memory, Rule, System, Weight
from nlc.ir.types import NEVER, STEP, TOKEN
from nlc.passes.resolve.memory import TRAINED, resolve_memory
from nlc.passes.resolve.scope import Scope
from nlc.passes.resolve.terms import Place, Terms
from nlc.syntax.tree import LevelTree, SpecTree

# The step formulas of language §3 and their arguments.
RULES: dict[str, dict[str, object]] = {
    "gd": {"lr": "1", "decay": None},
    "dgd": {"lr": "1", "decay": None, "exact": "false"},
    "prox": {"lr": "1", "decay": None},
}


def resolve(tree: SpecTree, report: Report, known_rules: frozenset[str] = frozenset()) -> System:
    """``known_rules`` are the systems that ``rule:`` could name, for better messages."""
    scope = Scope(tree, report)
    memories: dict[str, Memory] = {}
    terms = Terms(scope, memories)
    for level in scope.levels.values():
        if (memory := resolve_memory(level, terms)) is not None:
            memories[level.name] = memory
    _not_yet(tree, scope)
    flows: dict[str, Flow] = {}
    for name, let in scope.lets.items():
        if let.expr is not None:
            flows[name] = Flow(name, terms.resolve(let.expr, Place(name)), let.span)
    levels: dict[str, Level] = {}
    for name, level in scope.levels.items():
        resolved = _level(level, terms, flows, known_rules)
        if resolved is not None:
            levels[name] = resolved
    output = {}
    for item in tree.output:
        name = item.name or next(iter([f.name for f in tree.outputs]), "y")
        output[name] = terms.resolve(item.expr, Place(name))
    system = System(
        source=tree.source,
        name=tree.system.text,
        context=tree.context.text,
        span=tree.system.span,
        hypers=scope.hypers,
        heads=scope.size(tree.heads, "the number of heads") if tree.heads is not None else None,
        inputs=_inputs(tree, scope),
        outputs={f.name: _dims(f.expr, scope) for f in tree.outputs},
        weights=_weights(scope, terms),
        modules=terms.modules,
        flows=flows,
        levels=levels,
        output=output,
        doc=tree.doc.text if tree.doc else "",
        ref=tree.ref.text if tree.ref else "",
    )
    _whole(system, tree, report)
    _unused(scope, report)
    static = {n: replace(h, static=n in scope.static) for n, h in scope.hypers.items()}
    return replace(system, hypers=static)


def _level(
    level: LevelTree, terms: Terms, flows: dict[str, Flow], known: frozenset[str]
) -> Level | None:
    scope, name, memory = terms.scope, level.name, terms.memories.get(level.name)
    clock = scope.clock(level.frequency)
    if level.frequency is None and "frequency" not in level.keys:
        scope.report.add(
            "NLC102",
            f"level `{name}` has no `frequency`",
            level.span,
            "required here",
            helps=[f"for example `frequency: every {'step' if scope.gradients else 'token'}`"],
        )

    def own(key: str, e: Expr | None, mode: str) -> Expr | None:
        return None if e is None else terms.resolve(e, Place(f"{name}.{key}", name, mode))

    for key in ("key", "value"):
        written = getattr(level, key)
        if written is not None:
            flows[f"{name}.{key}"] = Flow(
                f"{name}.{key}", own(key, written, "own"), level.keys.get(key, level.span), name
            )
    for let in level.let:
        if let.expr is not None:
            flow = terms.resolve(let.expr, Place(f"{name}.{let.name}", name, "flow"))
            flows[f"{name}.{let.name}"] = Flow(f"{name}.{let.name}", flow, let.span, name)
    rule, update = _rule(level, terms, known), _update(level, terms)
    objective = own("objective", level.objective, "objective")
    if memory is None or clock is None:
        return None
    parametric = memory.kind != "cache"
    if (
        parametric
        and rule is None
        and update is None
        and not {"rule", "update"} & level.keys.keys()
    ):
        scope.report.add(
            "NLC102",
            f"level `{name}` has no `rule`",
            level.span,
            "it would never change",
            helps=["for example `rule: gd(lr=beta)`, or `update: e` for what is no gradient step"],
        )
    if rule is not None and level.objective is None and "objective" not in level.keys:
        scope.report.add(
            "NLC102",
            f"level `{name}` has a rule but no `objective`",
            level.keys.get("rule", level.span),
            "a rule descends an objective",
        )
    states = tuple(_init(s, level, terms) for s in memory.states)
    return Level(
        name=name,
        span=level.span,
        clock=clock,
        memory=replace(memory, states=states),
        objective=objective,
        rule=rule,
        update=update,
        retain=own("retain", level.retain, "rule"),
        toward=_toward(level, terms),
        project=own("project", level.project, "rule"),
        backprop=not (level.backprop and level.backprop.text == "none"),
        doc=level.doc.text if level.doc else "",
        keys=level.keys,
    )


def _toward(level: LevelTree, terms: Terms) -> Expr | None:
    if level.toward is None:
        return None
    if level.toward.op == "name" and level.toward.attr == "init":
        return Expr("initial", (), level.name, None, level.toward.span)
    return terms.resolve(level.toward, Place(f"{level.name}.toward", level.name, "rule"))


def _init(state, level: LevelTree, terms: Terms):
    """``zeros`` | ``learned`` | ``learned(e)`` | an expression | another level."""
    e = level.init
    if e is None or (e.op == "name" and e.attr == "zeros"):
        return state
    if e.op == "name" and e.attr == "learned":
        return replace(state, learned=True)
    place = Place(f"{state.name}.init", level.name, "own")
    if (
        e.op == "call"
        and e.args[0].op == "name"
        and e.args[0].attr == "learned"
        and len(e.args) == 2
    ):
        return replace(state, learned=True, init=terms.resolve(e.args[1], place))
    return replace(state, init=terms.resolve(e, place))


def _rule(level: LevelTree, terms: Terms, known: frozenset[str]) -> Rule | None:
    scope, e = terms.scope, level.rule
    if e is None or e.op == "error":
        return None
    if e.op == "name":
        e = Expr("call", (e,), (), None, e.span)
    if e.op != "call" or e.args[0].op != "name":
        scope.report.add("NLC202", "a rule is a call", e.span, "for example `gd(lr=beta)`")
        return None
    name = e.args[0].attr
    if name not in RULES:
        if name in known:
            scope.later(
                f"an optimizer as an inner rule (`{name}`)",
                e.args[0].span,
                "write its levels out, or use gd, dgd or prox",
            )
            return None
        close = nearest(name, [*RULES, *known])
        scope.report.add(
            "NLC202",
            f"there is no rule `{name}`",
            e.args[0].span,
            f"did you mean `{close}`?" if close else "not a rule",
            notes=[f"rules: {', '.join(RULES)}"],
            fix=Fix(e.args[0].span, close) if close else None,
        )
        return None
    bound = terms.bind(RULES[name], e.args[1:], e.attr or (), e, name)
    if bound is None:
        return None
    args = {
        key: terms.resolve(value, Place(f"{level.name}.{key}", level.name, "rule"))
        for key, value in bound.items()
        if value is not None
    }
    return Rule(name, args, e.span)


def _update(level: LevelTree, terms: Terms) -> dict[str, Expr] | None:
    if level.update is None:
        return None
    memory = terms.memories.get(level.name)
    place = Place(f"{level.name}.update", level.name, "rule")
    if isinstance(level.update, Expr):
        e = terms.resolve(level.update, place)
        if memory is None:
            return None
        if len(memory.states) != 1:
            terms.scope.report.add(
                "NLC103",
                f"level `{level.name}` has several states",
                level.update.span,
                "give a map, one expression a state",
            )
            return None
        return {memory.states[0].name: e}
    out = {}
    known = [s.name for s in memory.states] if memory else []
    for item in level.update:
        full = f"{level.name}.{item.name}"
        e = terms.resolve(item.expr, place)
        if memory and full not in known:
            close = nearest(item.name, [k.split(".")[-1] for k in known])
            terms.scope.report.add(
                "NLC201",
                f"level `{level.name}` has no state `{item.name}`",
                item.span,
                f"did you mean `{close}`?" if close else "not a state of its memory",
            )
            continue
        out[full] = e
    return out


def _dims(e: Expr, scope: Scope):
    if e.op != "list":
        return None
    dims = tuple(scope.size(a, "a size") for a in e.args)
    return None if None in dims else dims


def _inputs(tree: SpecTree, scope: Scope) -> dict[str, Input]:
    """Several inputs in a system with heads are those of an operator: [B, T, H, n] (language §4)."""
    head = tree.heads is not None and len(tree.inputs) > 1
    out = {}
    for item in tree.inputs:
        dims = _dims(item.expr, scope)
        if dims is not None:
            out[item.name] = Input(item.name, dims, head, item.span)
    return out


def _weights(scope: Scope, terms: Terms) -> dict[str, Weight]:
    out = {}
    for name, item in scope.weights.items():
        dims = _dims(item.shape, scope)
        init = terms.resolve(item.init, Place(f"{name}.init")) if item.init is not None else None
        if item.per is not None and item.per.text == "head" and scope.tree.heads is None:
            scope.report.add(
                "NLC304",
                "a weight per head needs a system with heads",
                item.per.span,
                "no `heads:` is declared",
            )
        if dims is not None:
            out[name] = Weight(
                name, item.span, dims, item.per is not None and item.per.text == "head", init
            )
    return out


def _whole(system: System, tree: SpecTree, report: Report) -> None:
    """What a system of this context must have."""
    span = tree.context.span
    if system.context == "tokens":
        if not tree.output and "output" not in tree.keys:
            report.add(
                "NLC102",
                "a token system has an `output`",
                span,
                "what the module returns",
                helps=["for example `output: S(q)`"],
            )
        if not tree.inputs and "inputs" not in tree.keys:
            report.add(
                "NLC102",
                "a token system has `inputs`",
                span,
                "what the module takes",
                helps=["for example `inputs: {x: [d]}`"],
            )
    elif system.context == "gradients":
        if TRAINED not in {level.name for level in tree.levels}:
            report.add(
                "NLC102",
                f"a gradient system has a level `{TRAINED}`",
                span,
                "the trained tensor itself",
            )
        if "output" in tree.keys:
            report.add(
                "NLC105",
                "a gradient system has no `output`",
                tree.keys["output"],
                f"its result is `{TRAINED}`",
            )


def _not_yet(tree: SpecTree, scope: Scope) -> None:
    """What the language has and this version has not: refused by name, never ignored."""
    if tree.context.text == "layers":
        scope.later("`context: layers`", tree.context.span)
    for key in ("clocks", "use", "applies_to", "grad_at", "eval_at"):
        if key in tree.keys:
            scope.later(f"`{key}`", tree.keys[key])
    if scope.gradients and tree.inputs:
        scope.later("`inputs` of a gradient system", tree.keys["inputs"])
    for level in tree.levels:
        for key in ("anchor", "phase", "reset", "through"):
            if key in level.keys:
                scope.later(f"`{key}`", level.keys[key])
        if (
            level.objective is not None
            and level.objective.op == "name"
            and level.objective.attr == "loss"
        ):
            scope.later("`objective: loss`", level.objective.span)
        clock = scope.clock(level.frequency)
        if clock is not None and clock not in (TOKEN, STEP) and clock.kind != "infinite":
            if clock != NEVER:
                scope.later(f"`frequency: {clock}`", level.frequency.span)
            else:
                scope.report.add(
                    "NLC404",
                    "a level that never ticks is a weight",
                    level.frequency.span,
                    "declare it under `weights`",
                )
        if (
            clock is not None
            and clock.kind == "every"
            and (clock.unit == "step") != scope.gradients
        ):
            scope.report.add(
                "NLC404",
                f"`{clock}` in a {tree.context.text} system",
                level.frequency.span,
                "levels of a token system tick in tokens",
            )


def _unused(scope: Scope, report: Report) -> None:
    if report.has_errors:
        return
    for name, span in scope.spans.items():
        if name in scope.used or name == "heads" or (scope.gradients and name in scope.levels):
            continue
        what = (
            "level"
            if name in scope.levels
            else "hyper"
            if name in scope.hypers
            else "input"
            if name in scope.inputs
            else "weight"
            if name in scope.weights
            else "let"
        )
        report.add(
            "NLC210", f"{what} `{name}` is never used", span, "declared here", helps=["remove it"]
        )


def reads(e: Expr, op: str) -> set:
    """The names that leaves of a kind carry."""
    return {n.attr for n in walk(e) if n.op == op}
