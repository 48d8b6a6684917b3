"""What a rule that is a system carries from tick to tick, as far as warnings must know it.

Both questions are about the rule alone, so gradients at the level's states stay leaves. Answers are on the safe
side: what is not linear, or linear in a way that is not understood, is answered no.
"""

from __future__ import annotations

from nlc.ir.expr import Expr, walk
from nlc.passes.affine import NotAffine, affine
from nlc.passes.simplify import simplify
from nlc.passes.soundness.joint import Joint
from nlc.passes.soundness.reach import Reaches
from nlc.passes.soundness.step import linear, strength, without_stops

SLACK = 1e-9


def forgets(joint: Joint, reaches: Reaches) -> bool:
    """Whether what the rule remembers is linear in the gradients and fades, so that nothing holds the level up.

    A step that divides by what it remembers, as Adam's, does not become small with the gradient.
    """
    own, inner = {s.name for s in joint.states}, {s.name for s in joint.inner}

    def part(n: Expr) -> bool:
        return (n.op == "gradient" and n.attr in own) or (n.op == "state" and n.attr[0] in inner)

    for s in joint.all if inner else ():
        e = simplify(without_stops(joint.written(s.name, frozenset(own))))
        try:
            affine(e, part)
        except NotAffine:
            return False
        if s.name in own or not _reads(e, s.name):
            continue
        itself = linear(e, lambda n, s=s: n.op == "state" and n.attr[0] == s.name, reaches)
        if itself is None or itself.key is not None:
            return False
        kept = itself.scale.times(itself.kept).range
        if not (-1 - SLACK <= kept.low < 1 - SLACK and kept.high <= 1 + SLACK):
            return False
    return True


def adds_up(joint: Joint, state: str, reaches: Reaches) -> bool:
    """Whether steps along one gradient add up to no less than without what the rule remembers of it.

    They do where each memory of the rule keeps a share of itself that is not negative, and moves the level
    the way that the gradient itself does.
    """
    keep = frozenset(s.name for s in joint.states)
    step = simplify(without_stops(joint.written(state, keep)))
    read = {s.name for s in joint.inner if _reads(step, s.name)}
    for name in read:
        own = simplify(without_stops(joint.written(name, keep)))
        others = {s.name for s in joint.all} - {name}
        if name not in joint.stepped or any(_reads(own, s) for s in others):
            return False
        gives = strength(step, lambda n, s=name: n.op == "state" and n.attr[0] == s, reaches)
        takes = strength(own, lambda n: n.op == "gradient" and n.attr == state, reaches)
        if gives is None or takes is None or gives.times(takes).range.high > 0:
            return False
        if _reads(own, name):
            kept = strength(own, lambda n, s=name: n.op == "state" and n.attr[0] == s, reaches)
            if kept is None or kept.range.low < 0:
                return False
    return True


def _reads(e: Expr, state: str) -> bool:
    return any(n.op == "state" and n.attr[0] == state for n in walk(e))
