"""What a system and its levels must have, must not have, and have in vain."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace

from nlc.base.diagnostics import Fix, Label, Report, place
from nlc.base.span import Span
from nlc.ir.expr import walk
from nlc.ir.system import Flow, Level, Memory, System
from nlc.passes.circles import circles
from nlc.passes.resolve.rule import is_loss
from nlc.passes.resolve.scope import CONTEXTS, SAMPLES, TRAINED, Scope
from nlc.passes.resolve.sizes import clock
from nlc.syntax.tree import ClockTree, LevelTree, SpecTree


def check_level(level: LevelTree, memory: Memory | None, scope: Scope) -> None:
    """The keys of a level that need each other or exclude each other."""
    cache = level.is_cache
    if cache and scope.gradients:
        return  # reported with the memory
    if "frequency" not in level.keys:
        usual = "infinite" if cache else "every step" if scope.gradients else "every token"
        _missing(
            level, scope, "frequency", "when does it tick?", f"for example `frequency: {usual}`"
        )
    _phase(level, scope)
    for part in (level.anchor, level.reset.every if level.reset is not None else None):
        if part is not None:
            _unit(part, scope, "step" if scope.gradients else "token")
    said = level.of_a_state if cache else []
    kind = "cache" if cache else "state" if memory is not None else ""
    _clock(level, "" if said else kind, scope)
    if cache:
        if said:
            never = level.frequency is None or level.frequency.kind == "infinite"
            remove = "remove this key" if len(said) == 1 else "remove these keys"
            scope.report.add(
                "NLC105",
                f"level `{level.name}` is a cache, which has no {_listed(said, 'and no')}",
                level.keys[said[0]],
                "it stores every key and value as they are",
                related=[_memory_label(level)],
                helps=[remove if never else f"{remove}, and write `frequency: infinite`"],
            )
        return
    if is_loss(level):
        _check_loss(level, scope)
        return
    if memory is None and "memory" in level.keys and not level.of_a_state:
        return  # it may be meant as a cache
    never = level.frequency is not None and level.frequency.kind == "infinite"  # reported above
    given = {"rule", "update"} & level.keys.keys()
    if not given and not never and not _may_be_loss(level):
        help = "for example `rule: gd(lr=0.1)`, or `update: e` for what is no gradient step"
        _missing(level, scope, "rule", "it would never change", help)
    if "rule" in level.keys and "objective" not in level.keys:
        s = level.name
        example = f"-dot({s}, g)" if scope.gradients else f"0.5 * sqnorm({s}(key) - value)"
        span, help = level.keys["rule"], f"for example `objective: {example}`"
        _missing(level, scope, "objective", "a rule descends an objective", help, span)
    if "toward" in level.keys and not _decays(level):
        scope.report.add(
            "NLC210",
            f"`toward` of level `{level.name}` is never used",
            level.keys["toward"],
            "neither `retain` nor `decay` leads there",
            helps=["remove it, or give the level a `retain`"],
        )
    if "update" in level.keys and "objective" in level.keys and not level.keys.get("rule"):
        scope.report.add(
            "NLC210",
            f"the objective of level `{level.name}` is never used",
            level.keys["objective"],
            "`update` is the whole step",
            related=[Label(level.keys["update"], "this makes the new state")],
            helps=["remove it, or write `rule:` in place of `update:`"],
        )


def _listed(keys: list[str], word: str) -> str:
    *most, last = (f"`{key}`" for key in keys)
    return f"{', '.join(most)} {word} {last}" if most else last


def _check_loss(level: LevelTree, scope: Scope) -> None:
    """A level on the outer loss: its states are slow weights, trained in steps."""
    if scope.gradients:
        label = "a gradient system is what trains it"
        _misplaced(scope, "`objective: loss` belongs to token systems", level.objective.span, label)
    for key in ("update", "retain", "toward", "project", "anchor", "phase", "reset", "through"):
        if key in level.keys:
            scope.report.add(
                "NLC105",
                f"level `{level.name}` is trained by the outer loss, and has no `{key}`",
                level.keys[key],
                "its states are slow weights",
                related=[Label(level.objective.span, "this is why")],
                helps=["remove this key, or give the level an objective of its own"],
            )


def _may_be_loss(level: LevelTree) -> bool:
    """Whether what it is trained by cannot be read."""
    return "objective" in level.keys and (level.objective is None or level.objective.op == "error")


def _decays(level: LevelTree) -> bool:
    rule = level.rule
    return "retain" in level.keys or (
        rule is None or rule.op != "call" or "decay" in (rule.attr or ()) or len(rule.args) > 2
    )


def _memory_label(level: LevelTree) -> Label:
    return Label(level.keys.get("memory", level.span), "this is why")


def _missing(
    level: LevelTree, scope: Scope, key: str, label: str, help: str, span: Span | None = None
) -> None:
    scope.report.add(
        "NLC102",
        f"level `{level.name}` has no `{key}`, which is required",
        span or level.span,
        label,
        helps=[help],
        causes=[("meant", place(level.span))],
    )


def _clock(level: LevelTree, kind: str, scope: Scope) -> None:
    """The clock of a level: one that its context has, and that its memory (cache, state or unknown) can have."""
    tree, ticks = level.frequency, clock(scope, level.frequency)
    if tree is None:
        return
    unit = "step" if scope.gradients or is_loss(level) else "token"
    if ticks is None or (tree.unit == "step" and _may_be_loss(level)):
        return
    if not _unit(tree, scope, unit, [("unit", level.span)]):
        return
    if kind == "cache":
        if ticks.kind != "infinite":
            label = "it keeps everything, so it never updates"
            message = f"level `{level.name}` is a cache, whose frequency is `infinite`"
            _misplaced(scope, message, tree.span, label, "write `frequency: infinite`")
    elif ticks.kind == "infinite" and kind:
        message = f"level `{level.name}` has a state, which no `infinite` frequency updates"
        label = "only a cache has it"
        causes = level.memory.causes if level.memory is not None else ()
        _misplaced(scope, message, tree.span, label, f"write `frequency: every {unit}`", causes)
    elif ticks.kind == "never":
        label = "declare it under `weights`"
        _misplaced(scope, "a level that never ticks is a weight", tree.span, label)
    elif ticks.kind == "per" and scope.gradients:
        scope.later(f"`frequency: {_shown(tree)}`", tree.span)


def _phase(level: LevelTree, scope: Scope) -> None:
    """Only a period has a start and an end."""
    ticks = clock(scope, level.frequency)
    if level.phase is None or ticks is None or ticks.slow:
        return
    scope.report.add(
        "NLC210",
        f"`phase` of level `{level.name}` has no effect",
        level.keys["phase"],
        f"`{_shown(level.frequency)}` has no period",
        helps=["remove it, or silence this with `# nlc: allow NLC210`"],
    )


def _unused_clocks(scope: Scope) -> None:
    """A declared clock drives a level's frequency, anchor or reset, or it is in vain."""
    used = set()
    for level in scope.tree.levels:
        reset = level.reset.every if level.reset is not None else None
        used |= {tree.unit for tree in (level.frequency, level.anchor, reset) if tree is not None}
    for name, item in scope.clocks.items():
        if name not in used and not scope.tree.partial and "levels" not in scope.tree.lost:
            scope.report.add(
                "NLC210",
                f"clock `{name}` is never used",
                item.span,
                "no level ticks or starts over by it",
                helps=[f"remove it, or write for example `reset: every {name}` in a level"],
            )


def _unit(tree: ClockTree, scope: Scope, unit: str, causes: Iterable[Hashable] = ()) -> bool:
    """Whether a clock counts what is counted here."""
    if tree.count is not None and tree.unit in scope.clocks:
        message = f"`{_shown(tree)}` counts the ticks of a declared clock"
        _misplaced(
            scope,
            message,
            tree.span,
            f"`{tree.unit}` ticks where the data says, in no period",
            f"write `every {tree.unit}`, or declare a clock that ticks less often",
        )
        return False
    if tree.unit in ("token", "step") and tree.unit != unit:
        here = scope.context if (unit == "step") == scope.gradients else "`objective: loss`"
        message = f"{here} has no `{_shown(tree)}`"
        usual = f"write `every {unit}` or `every n {unit}s`"
        if tree.count is not None:
            usual = f"write `{_shown(tree).removesuffix('s').removesuffix(tree.unit)}{unit}s`"
        _misplaced(scope, message, tree.span, f"it counts in {unit}s", usual, causes)
        return False
    return True


def _shown(tree: ClockTree) -> str:
    return " ".join(tree.span.text.split())


def _misplaced(
    scope: Scope,
    message: str,
    span: Span,
    label: str,
    help: str = "",
    causes: Iterable[Hashable] = (),
) -> None:
    helps = [help] if help else []
    scope.report.add("NLC404", message, span, label, helps=helps, causes=causes)


# ---------------------------------------------------------------------------------------------------- the whole


def right_context(tree: SpecTree, report: Report) -> SpecTree:
    """The spec, read as a token system where it plainly is one and says otherwise."""
    of_tokens = [key for key in ("inputs", "output") if key in tree.keys]
    trained = TRAINED in tree.lost or any(
        level.name == TRAINED and "memory" not in level.keys for level in tree.levels
    )
    if tree.context.text == "tokens" or len(of_tokens) < 2 or trained or tree.partial:
        return tree
    system = f"a {CONTEXTS[tree.context.text]} system"
    report.add(
        "NLC105",
        f"{system} has no {_listed(of_tokens, 'and no')}",
        tree.context.span,
        "did you mean `tokens`?",
        related=[Label(tree.keys[key], "a token system has this") for key in of_tokens],
        notes=[f"{system} has a level `{TRAINED}`, the trained tensor, which is its result"],
        fix=Fix(tree.context.span, "tokens"),
    )
    return replace(tree, context=replace(tree.context, text="tokens"))


def check_whole(scope: Scope) -> None:
    """What a system of this context must have, and what this version does not build."""
    tree, report = scope.tree, scope.report
    if "grad_at" in tree.keys:
        help = (
            f"make `{TRAINED}` the point itself, by its `update`, and evaluate another at `eval_at`"
        )
        scope.later("`grad_at`", tree.keys["grad_at"], help if scope.gradients else "")
    misplaced = {
        "applies_to": "it says which tensors an optimizer trains",
        "eval_at": "it takes the place of a tensor that an optimizer trains",
    }
    if scope.gradients:
        misplaced = {"use": "token systems are used in token systems"}
    for key in misplaced.keys() & tree.keys.keys():
        report.add(
            "NLC105",
            f"{scope.context} has no `{key}`",
            tree.keys[key],
            misplaced[key],
            helps=["remove this key"],
        )
    _unused_clocks(scope)
    if scope.gradients:
        _check_gradients(scope)
        return
    wanted = {
        "inputs": ("what does the module take?", "for example `inputs: {x: [d]}`"),
        "output": ("what does the module return?", "for example `output: S(q)`"),
    }
    for key, (label, help) in wanted.items():
        missing = ("missing", key)
        if key not in tree.keys and not report.again(None, missing):
            report.add(
                "NLC102",
                f"a {CONTEXTS[tree.context.text]} system has no `{key}`, which is required",
                tree.context.span,
                label,
                helps=[help],
                causes=[missing],
            )


def check_starts(levels: dict[str, Level], scope: Scope) -> None:
    """No level starts where another does that starts where it does."""
    leads: dict[str, list[str]] = {}
    for level in levels.values():
        for s in level.states:
            nodes = walk(s.init) if s.init is not None and not s.learned else ()
            starts = {n.attr[0].partition(".")[0] for n in nodes if n.op == "state"}
            leads.setdefault(level.name, []).extend(sorted(starts - {level.name}))
    for circle in circles(leads):
        following = dict(zip(circle, [*circle[1:], circle[0]], strict=True))
        spans = [levels[n].keys.get("init", levels[n].span) for n in circle]
        scope.report.add(
            "NLC209",
            f"level `{circle[0]}` starts where it starts itself",
            spans[0],
            f"`{circle[0]}` starts from `{following[circle[0]]}`",
            related=[
                Label(span, f"`{n}` starts from `{following[n]}`")
                for n, span in zip(circle[1:], spans[1:], strict=True)
            ],
            notes=[f"circle: {' -> '.join([*circle, circle[0]])}"],
            helps=["give one of them a start of its own, such as `init: learned`"],
        )


def _check_gradients(scope: Scope) -> None:
    tree, report = scope.tree, scope.report
    if "inputs" in tree.keys:
        scope.later(f"`inputs` of {scope.context}", tree.keys["inputs"])
    if TRAINED not in scope.levels and not scope.tree.partial and TRAINED not in scope.tree.lost:
        slip = scope.trained
        example = f"mean(dot({TRAINED}(x), delta))" if scope.layers else f"dot({TRAINED}, g)"
        span = scope.levels[slip].span if slip else tree.keys.get("levels", tree.context.span)
        report.add(
            "NLC102",
            f"{scope.context} has no level `{TRAINED}`, which is required",
            span,
            f"did you mean `{TRAINED}`?" if slip else f"`{TRAINED}` is the trained tensor itself",
            fix=Fix(span, TRAINED) if slip and slip.upper() == TRAINED else None,
            helps=[f"for example `{TRAINED}:` with `objective: {example}` and `rule: gd(lr=lr)`"],
        )
    for key, why in (
        ("output", f"its result is `{TRAINED}`"),
        ("outputs", f"its result is `{TRAINED}`"),
        ("heads", "a tensor that it trains has no heads of its own"),
    ):
        if key in tree.keys:
            report.add(
                "NLC105",
                f"{scope.context} has no `{key}`",
                tree.keys[key],
                why,
                helps=["remove this key, or write `context: tokens`"],
            )


# ---------------------------------------------------------------------------------------------------- in vain


def unread(scope: Scope) -> list[str]:
    """The names that nothing reads but itself."""
    out = []
    for name in scope.spans:
        readers = scope.readers.get(name, set())
        if readers - {name} or name == "heads" or (name == TRAINED and scope.gradients):
            continue
        if scope.layers and name in SAMPLES:
            continue  # not declared by the spec
        if "." in name and not _is_flow(scope, name):
            continue
        out.append(name)
    return out


def _is_flow(scope: Scope, full: str) -> bool:
    level, _, own = full.partition(".")
    return scope.own(level, own) is not None


def warn_unused(scope: Scope, names: list[str]) -> None:
    for name in names:
        level, _, own = name.rpartition(".")
        what = f"`{own}` of level `{level}`" if level else f"{scope.kind(name)} `{name}`"
        scope.report.add(
            "NLC210",
            f"{what} is never used",
            scope.spans[name],
            "nothing reads it",
            helps=["remove it, or silence this with `# nlc: allow NLC210`"],
        )


def without_unread(system: System, scope: Scope, names: list[str]) -> System:
    """The system without flows that only unread flows read: what they leave open is no mistake."""
    dead = {n for n in names if n in system.flows}
    more = True
    while more:
        more = {
            n
            for n in system.flows
            if n not in dead and scope.readers.get(n, set()) - {n} <= dead and scope.readers.get(n)
        }
        dead |= more
    flows: dict[str, Flow] = {n: f for n, f in system.flows.items() if n not in dead}
    live = [f.expr for f in flows.values()] + list(system.output.values())
    live += [e for used in system.uses.values() for e in used.inputs.values()]
    for level in system.levels.values():
        live += level.expressions
        live += [s.init for s in level.states if s.init is not None]
        live += [level.memory.read] if level.memory.read is not None else []
    used = {n.attr for e in live for n in walk(e) if isinstance(n.attr, str)}
    modules = {path: m for path, m in system.modules.items() if path in used}
    return replace(system, flows=flows, modules=modules)
