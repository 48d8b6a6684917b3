"""System -> the gradient systems that its generated file has beside it, and the groups of weights that they train.

An optimizer with ``applies_to`` has a rule for each route, a module one for each level on the outer loss that
says its rule.
"""

from __future__ import annotations

from dataclasses import replace

from nlc.ir.expr import Expr
from nlc.ir.program import Group
from nlc.ir.system import Level, Memory, Rule, System
from nlc.ir.types import STEP, Like
from nlc.passes.instance import Instance


def rules(system: System) -> dict[str, System]:
    """Systems by the name of the route (``applies_to``), or by that of the rule (levels on the outer loss)."""
    if system.trains:
        return {
            route.name: _route(system, route.name, route.rule)
            for route in system.routes
            if route.rule is not None
        }
    named = [level.rule for level in system.outer.values() if level.rule is not None]
    return {rule.name: rule.system for rule in named if rule.system is not None}


def groups(system: System) -> tuple[Group, ...]:
    """The weights of levels on the outer loss, with their periods, rules and the rules' hypers."""
    return tuple(_group(system, level) for level in system.outer.values())


def _route(system: System, name: str, rule: Rule) -> System:
    """The same hypers, and one level: the trained tensor, of any shape, with another rule."""
    trained = next(x for x in system.levels.values() if x.memory.kind == "trained")
    states = tuple(replace(s, dims=(Like(trained.name),)) for s in trained.states)
    memory = Memory("trained", states, text="the trained tensor")
    variable = Expr("state", (), (trained.name, "var"), None, rule.span)
    gradient = Expr("g", (), None, None, rule.span)
    level = Level(
        trained.name,
        rule.span,
        STEP,
        memory,
        objective=Expr("dot", (variable, gradient), None, None, rule.span),
        rule=rule,
    )
    return replace(
        system,
        context="gradients",
        inputs={},
        eval_at=None,
        name=f"{system.name}_{name}",
        doc=f"What {system.name} does to {name}: {rule.name}.",
        ref="",
        flows={},
        levels={trained.name: level},
        routes=(),
    )


def _group(system: System, level: Level) -> Group:
    states, rule = tuple(s.name for s in level.states), level.rule
    if rule is None or rule.system is None:
        return Group(level.name, states, level.clock.count, None, {})
    instance = Instance(rule.system, "", rule.args, rule.sizes, (), system.sizes, rule.span)
    values = {name: instance.hyper(name) for name in rule.system.hypers}
    return Group(level.name, states, level.clock.count, rule.name, values)
