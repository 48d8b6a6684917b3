"""A level's ``rule:``: a step formula of the language, or a gradient system with arguments for its hypers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nlc.base.diagnostics import Report, certain, nearest
from nlc.ir.expr import Expr, walk
from nlc.ir.show import show
from nlc.ir.system import Hyper, Rule, System
from nlc.ir.types import Dim
from nlc.lib.functions import usage
from nlc.lib.rules import RULES
from nlc.passes.resolve.arguments import Bound, bind
from nlc.passes.resolve.bundles import fitted
from nlc.passes.resolve.scope import CONTEXTS, Scope
from nlc.passes.resolve.sizes import size
from nlc.passes.resolve.terms import Place, Terms, quoted
from nlc.syntax.tree import LevelTree


def resolve_rule(level: LevelTree, terms: Terms) -> Rule | None:
    """The rule of a level; None if it has none, or after a mistake."""
    e = level.rule
    if e is None or e.op == "error":
        return None
    at = Place(level.name, level.name, "rule", key="rule")
    return rule_of(e, terms, at, whole=is_loss(level))


def is_loss(level: LevelTree) -> bool:
    """Whether a level's objective is the outer loss."""
    e = level.objective
    return e is not None and e.op == "name" and e.attr == "loss"


def right_objectives(scope: Scope) -> None:
    """A level that counts in steps or takes no step of its own is on the outer loss, if it nearly says so.

    A bare name may misspell `loss`, an expression have it in it, and what counts in steps without a rule can be nothing
    else. The keys around are then judged as those of such a level.
    """
    for name, level in () if scope.gradients else scope.levels.items():
        e, steps = level.objective, level.frequency is not None and level.frequency.unit == "step"
        without = {"rule", "update"}.isdisjoint(level.keys)
        if is_loss(level) or not (steps or without):
            continue
        known = ["loss", *scope.flows(name), *(n for n in scope.spans if "." not in n)]
        inside = [n for n in walk(e) if n.op == "name" and n.attr == "loss"] if e else []
        if e is not None and e.op == "name" and e.attr not in known:
            fix = certain(e.span, str(e.attr), known)
            if not (steps and without) and (fix is None or fix.replacement != "loss"):
                continue
            scope.not_defined(str(e.attr), e.span, known, name)
        elif inside:
            scope.report.add(
                "NLC208",
                "`loss` is not a value here",
                inside[0].span or level.span,
                "the outer loss stands alone: what it is, the training loop says",
                helps=["write `objective: loss`"],
            )
        elif not (steps and without):
            continue
        elif e.op != "error" if e else "objective" not in level.keys:
            scope.report.add(
                "NLC404",
                f"level `{name}` counts in steps, as those on the outer loss",
                e.span or level.span if e else level.keys["frequency"],
                "its objective is `loss`",
                helps=["write `objective: loss`, or count in tokens and give it a `rule`"],
            )
        at = e.span if e else level.span
        scope.levels[name] = replace(level, objective=Expr("name", (), "loss", None, at))


def rule_of(e: Expr, terms: Terms, at: Place, whole: bool = False) -> Rule | None:
    """``gd(lr=beta)`` or ``momentum(lr=1, decay=alpha)``, its arguments resolved where they stand.

    ``whole``: a step formula is wanted as a system too.
    """
    named = e.args[0] if e.op == "call" else e
    if named.op != "name":
        label = "for example `gd(lr=beta)`"
        terms.say("NLC202", f"`{quoted(e)}` is not a rule", e, label, notes=_rules())
        return None
    name = named.attr
    if name in RULES and not whole:
        return _formula(name, e, terms, at)
    if name in RULES and name not in terms.library.names and RULES[name].keyed:
        _no_key(terms, name, e)
        return None
    if name in terms.library.names or name in RULES:
        system = terms.library.system(name, named.span, terms.scope.report)
        return None if system is None else _system(system, e, terms, at, whole)
    close = nearest(name, [*RULES, *terms.library.names])
    if close is not None and close not in RULES:
        system = terms.library.system(close, named.span, Report())
        close = close if system is not None and system.context == "gradients" else None
    terms.say(
        "NLC202",
        f"there is no rule `{name}`",
        named,
        f"did you mean `{close}`?" if close else "not a rule",
        notes=_rules(),
        fix=certain(named.span, name, [*RULES, *terms.library.names]) if close else None,
    )
    return None


def _no_key(terms: Terms, name: str, e: Expr) -> None:
    terms.say(
        "NLC503",
        f"`{name}` has no key here",
        e,
        "what arrives is the gradient of the outer loss alone",
        helps=["write `gd(lr=…)`, or a gradient system that `nlc list` shows"],
    )


def _rules() -> list[str]:
    return [
        f"rules: {', '.join(RULES)}, and every gradient system that `nlc list` shows",
        "one of your own is looked for beside this spec, and in the folders of NLC_PATH",
    ]


def _formula(name: str, e: Expr, terms: Terms, at: Place) -> Rule | None:
    elsewhere = partial(_own_rule, terms, e)
    bound = bind(terms.scope.report, RULES[name].params, e, name, "rule", elsewhere=elsewhere)
    if bound is None:
        return None
    exact = bound.get("exact")
    if exact is not None and exact.op != "bool":
        terms.not_a_switch("exact", exact)
        return None
    args = {k: _argument(terms, v, k, at) for k, v in bound.items() if v is not None}
    return Rule(name, args, e.span)


def _defaults(system: System) -> dict[str, object]:
    return {h.name: show(h.default) for h in system.hypers.values()}


def _own_rule(terms: Terms, e: Expr, key: str) -> str:
    """What is an argument of other optimizers may be an optimizer here: ``momentum=0.9``."""
    if key not in terms.library.names:
        return ""
    system = terms.library.system(key, e.span, Report())
    if system is None or system.context != "gradients":
        return ""
    written = usage(key, _defaults(system))
    return f"`{key}` is a rule of its own, `{written}`: see `nlc explain {key}`"


def _argument(terms: Terms, e: Expr, key: str, at: Place) -> Expr:
    place = Place(f"{at.path}.{key}", at.level, at.mode, key=at.key)
    return fitted(terms, terms.resolve(e, place), at.level)


def _system(system: System, e: Expr, terms: Terms, at: Place, whole: bool) -> Rule | None:
    """A gradient system as a rule: its hypers are the parameters, and every inner rule takes ``decay``."""
    if system.context != "gradients":
        return _refused(
            terms,
            e,
            f"`{system.name}` is a {CONTEXTS[system.context]} system, which is no rule",
            "a rule is a step formula or a gradient system",
        )
    if system.eval_at is not None:
        return _refused(
            terms,
            e,
            f"`{system.name}` has `eval_at`, so it is no rule of another system",
            "the optimizer alone is told of evaluation; `nlc.route` trains one model by several",
        )
    shown = _defaults(system)
    if not whole:
        shown.setdefault("decay", "1")
    params, elsewhere = dict.fromkeys(shown), partial(_own_rule, terms, e)
    bound = bind(terms.scope.report, params, e, system.name, "rule", shown, elsewhere)
    if bound is None:
        return None
    found = given(system, bound, terms, at)
    for key, value in found[0].items() if found is not None and whole else ():
        changing = next((n for n in walk(value) if n.op in _CHANGING), None)
        if changing is not None:
            terms.say(
                "NLC206",
                f"`{key}` of a rule that trains weights is not a constant",
                changing if changing.span else value,
                "it is fixed when the optimizer is made",
                helps=["arguments are numbers and hypers"],
            )
            return None
    return None if found is None else Rule(system.name, found[0], e.span, system, found[1])


def _list(hyper: Hyper, value: Expr, system: System, terms: Terms) -> tuple[Expr, ...] | None:
    """The members of an argument that is a list: as many as the system's families run over."""
    members: tuple[Expr, ...] | None = value.args if value.op == "list" else None
    mine = terms.scope.hypers.get(str(value.attr)) if value.op == "name" else None
    if mine is not None and isinstance(mine.value, list):
        terms.scope.read(mine.name, "")
        numbers = [Expr("num", (), i) for i in range(len(mine.value))]
        members = tuple(Expr("index", (value, n), None, None, value.span) for n in numbers)
    if members is not None and len(members) == len(hyper.value):
        return members
    refused = mine is not None and mine.value is None
    if refused or any(n.op == "error" for n in walk(value if mine is None else mine.default)):
        return None  # reported there
    if value.op == "name" and value.attr not in terms.scope.spans:
        terms.scope.not_defined(str(value.attr), value.span, list(terms.scope.hypers), sure=False)
        return None
    terms.say(
        "NLC204",
        f"`{hyper.name}` of `{system.name}` is a list of {len(hyper.value)}",
        value,
        f"this has {len(members)}" if members is not None else "this is no list",
        notes=[f"by default it is {show(hyper.default)}"],
    )
    return None


_CHANGING = ("flow", "input", "state", "weight", "index", "g", "delay", "attend")


def given(
    system: System, bound: Bound, terms: Terms, at: Place
) -> tuple[dict[str, Expr], dict[str, Dim]] | None:
    """The arguments for a system's hypers as expressions, and as sizes where it fixes them at construction."""
    args: dict[str, Expr] = {}
    sizes: dict[str, Dim] = {}
    for key, value in bound.items():
        if value is None:
            continue
        hyper = system.hypers.get(key)
        if hyper is not None and isinstance(hyper.value, list):
            members = _list(hyper, value, system, terms)
            if members is None:
                return None
            for i, member in enumerate(members):
                whole = size(terms.scope, member, f"`{key}[{i}]`") if hyper.static else None
                if whole is None and hyper.static:
                    return None
                sizes |= {f"{key}[{i}]": whole} if whole is not None else {}
            resolved = tuple(_argument(terms, m, key, at) for m in members)
            args[key] = Expr("list", resolved, None, None, value.span)
            continue
        if hyper is not None and hyper.static:
            whole = size(terms.scope, value, f"`{key}` of `{system.name}`")
            if whole is None:
                return None
            sizes[key] = whole
        args[key] = _argument(terms, value, key, at)
    return args, sizes


def _refused(terms: Terms, e: Expr, message: str, label: str, **more) -> None:
    terms.say("NLC404", message, e, label, **more)
