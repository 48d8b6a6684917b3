"""What a level would be by its own step, whatever else reads its states: its class, where it runs sequentially."""

from __future__ import annotations

from dataclasses import replace

from nlc.ir.program import Loop, Program
from nlc.passes.plan.build import Builder, Choice
from nlc.passes.plan.statements import reads


def alone(program: Program, reserved: frozenset[str], level: str) -> Choice | None:
    """The choice for a level in a loop that computes nothing but its states; None where there is no such loop."""
    loop = next((s for s in program.body if isinstance(s, Loop)), None)
    states = {n for n, s in program.system.states.items() if s.level == level}
    mine = {s.var for s in program.slots if (s.of or s.key) in states}
    if loop is None or not mine:
        return None
    needed, size = set(mine), -1
    while size != len(needed):
        size = len(needed)
        for x in loop.body:
            if needed & set(x.names):
                needed |= reads(x) | set(x.names)
    kept = tuple(x for x in loop.body if needed & set(x.names))
    carries = tuple(n for n in loop.carries if n in needed)
    bare = replace(loop, body=kept, carries=carries, collects={})
    before = program.body[: program.body.index(loop)]
    _, choices = Builder(replace(program, body=(*before, bare)), reserved, {}).build()
    return next((c for c in choices if c.level == level), None)
