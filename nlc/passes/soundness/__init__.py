"""System, Updates -> warnings: steps that can blow a memory up, and memories that can never learn.

Each check reads the derived step, never the name of a rule, and warns only of what certainly can happen:
bounds are those of the types, and ``reach`` says whether they are met. Where the rule is a system, the step is
that of the level and the rule's levels written into one another (``joint``).
"""

from __future__ import annotations

from math import inf, isfinite

from nlc.base.diagnostics import Label, Report
from nlc.base.span import Span
from nlc.ir.expr import Expr, contains, part
from nlc.ir.notation import Notation
from nlc.ir.system import State, System
from nlc.ir.types import Range
from nlc.ir.update import Update
from nlc.passes.affine import NotAffine, affine
from nlc.passes.collect import collect
from nlc.passes.simplify import simplify
from nlc.passes.soundness.carried import adds_up
from nlc.passes.soundness.dead import Lifeless
from nlc.passes.soundness.divided import FirstTick
from nlc.passes.soundness.joint import Joint
from nlc.passes.soundness.judge import SLACK
from nlc.passes.soundness.reach import Reach, Reaches, point
from nlc.passes.soundness.step import Linear, linear, strength, without_stops
from nlc.passes.soundness.words import between, number, over, scaled
from nlc.passes.soundness.zeros import states_of_flows

_UNIT = Reach(Range(0.0, 1.0))


def soundness(system: System, updates: dict[str, Update], report: Report) -> None:
    """Warns of every level whose step the ranges show to be unsound."""
    reaches, reads = Reaches(system), states_of_flows(system)
    between = []
    for name, update in updates.items():
        level, found = system.levels[name], Report()
        joint = Joint(system, updates, level)
        _Level(system, level, update, joint, reaches, reads, found).check()
        if any(s.passing for s in level.states):
            between += found.diagnostics
        else:
            report.take(found)
    said = {
        (d.code, d.span) for d in report.diagnostics
    }  # of a sub-step what is not true of the last
    report.take(Report([d for d in between if (d.code, d.span) not in said]))


class _Level(Lifeless, FirstTick):
    """The checks of one level; each fact is said once."""

    def check(self) -> None:
        sound = self._gates()
        for s in self.level.states:
            e = simplify(self.joint.written(s.name))
            running = linear(e, lambda n, s=s: self._reads(n, s, "prev"), self.reaches)
            bound = linear(e, lambda n, s=s: self._reads(n, s, "anchor"), self.reaches)
            if running is not None:
                sound = sound and self._kept(running, e, s)
            if any(self._long_key(x, e, s) for x in (running, bound) if x is not None):
                continue
            if running is not None and self._erased(running, e, s, sound):
                continue
            if self._chunk(running, bound, s):
                break
        self._dead()
        self._divides()

    def _reads(self, n: Expr, s: State, time: str) -> bool:
        """Whether a node is the state at that time; with boundaries at every tick both are one."""
        if time == "prev" and self.level.source is not None:
            return n == part(self.level.source, self.level.states.index(s))
        if n.op != "state" or n.attr[0] != s.name:
            return False
        at = "prev" if n.attr[1] == "anchor" and self.period == 1 else n.attr[1]
        return at == time

    # -------------------------------------------------------------------------------------------- retention

    def _gates(self) -> bool:
        """``retain`` and ``decay`` stay within [0, 1]."""
        sound = True
        for key, e in self._retentions():
            sound = self._unit(self.reaches.of(e), self._place(e, key)) and sound
        return sound

    def _kept(self, step: Linear, e: Expr, s: State) -> bool:
        """What the step leaves of the state beside what it erases at the key.

        Under a rule this includes the curvature of an objective such as ``sqnorm(h - value)``, which may
        overshoot as an erase may.
        """
        kept = step.scale.times(step.kept)
        if self.level.update is not None:
            return self._unit(kept, self._place(self.level.update.get(s.name), "update"))
        if not kept.known or not self._too_low(kept.range.low):
            return True
        self._overshoots(kept.range.low, None, None, e, s)
        return False

    def _unit(self, kept: Reach, place: Span) -> bool:
        if not kept.known or kept.range.within(-SLACK, 1 + SLACK):
            return True
        low, high = kept.range.low, kept.range.high
        facts = []
        if high > 1 + SLACK:
            facts.append("a factor above 1 makes the memory grow with every tick")
        if low < -SLACK:
            facts.append("a factor below 0 turns the sign of all that the memory holds")
        self.report.add(
            "NLC802",
            f"what level `{self.level.name}` keeps of its memory can leave [0, 1]",
            place,
            between(kept.range, "it keeps"),
            notes=facts,
            helps=[
                "choose the hypers so that it stays between 0 and 1"
                if low == high
                else "keep it between 0 and 1, for instance by `sigmoid(…)` or `exp(-softplus(…))`"
            ],
        )
        return False

    # -------------------------------------------------------------------------------------------- erase

    def _long_key(self, step: Linear, e: Expr, s: State) -> bool:
        """Whether it was said that the key by which the step erases has no bound."""
        if not self._chosen(step.key):
            return False
        length = self.reaches.norm(step.key)
        erased = step.scale.times(step.erased)
        certain = erased.times(length).known and erased.range.magnitude > 0
        if length.range.high == inf and certain:
            self._unnormalised(step.key, e, s)
            return True
        return False

    def _erased(self, step: Linear, e: Expr, s: State, sound: bool) -> bool:
        """Whether it was said that the factor along the key, a − b‖x‖², can be below −1, or b is never positive.

        ``sound``: whether what is kept stays within [0, 1]; where it was said that it does not, b alone is to
        blame here.
        """
        if not self._chosen(step.key):
            return False
        length = self.reaches.norm(step.key)
        square = self._square(step.key)
        erased = step.erased.times(square)
        left = step.scale.times(step.kept.minus(erased))
        if not left.known:
            return False
        if sound and left.range.high > 1 + SLACK and self._climbs(step.scale.times(erased), e, s):
            return True
        alone = left if sound else _UNIT.times(_UNIT.minus(erased))
        if not self._too_low(left.range.low) or not self._too_low(alone.range.low):
            return False
        # scale · (factor · most − kept) = 1 where that is largest
        most = step.erased.times(square).range.high
        scale, known = step.scale.range.high, isfinite(most)
        factor = (1 / scale + step.kept.range.low) / most if known and scale and most else None
        long = step.key if length.range.high > 1 + SLACK else None
        self._overshoots(left.range.low, factor, long, e, s)
        return True

    def _too_low(self, factor: float) -> bool:
        """Whether a factor of one tick makes the memory grow.

        What a rule remembers may answer at the next tick: heavy-ball momentum of factor β holds a step up to
        2 (1 + β) in check. Only a step without a bound grows whatever the rule remembers.
        """
        return factor == -inf if self.joint.inner else factor < -1 - SLACK

    def _climbs(self, erased: Reach, e: Expr, s: State) -> bool:
        """Whether it was said that each step adds at the key to what the memory holds, as one up a square does."""
        added = erased.range
        if not (added.high <= 0 and added.low < -SLACK):
            return False
        lr = self._step_size()
        helps = ["turn the sign of what the step reads of the memory"]
        if self.level.rule is not None:
            helps = ["turn the sign of the objective, or of the step size"]
        if lr is not None and lr.span.text.startswith("-") and lr.op in ("neg", "num"):
            turned = lr.span.text[1:].strip()
            helps = [f"write `{turned}`: a step of positive size lowers the objective"]
        self.report.add(
            "NLC802",
            f"every step of level `{self.level.name}` adds at the key to what it holds",
            self._place(lr, "rule" if self.level.rule else "update"),
            f"at the key it adds up to {number(-added.low)} times what `{s.name}` holds"
            if isfinite(added.low)
            else f"at the key it adds any amount of what `{s.name}` holds",
            notes=[*self._equation(e, s), "a factor above 1 makes the memory grow with every tick"],
            helps=helps,
        )
        return True

    def _chosen(self, key: Expr | None) -> bool:
        """Whether there is a key, and the spec's: what an MLP computes inside is not the user's to bound."""
        return key is not None and not contains(key, self._own)

    def _own(self, n: Expr) -> bool:
        return n.op == "state" and n.attr[0] in self.names

    def _overshoots(
        self, low: float, factor: float | None, long: Expr | None, e: Expr, s: State
    ) -> None:
        """``factor``: times which the step would be small enough, if known; ``long``: a key longer than 1."""
        lr = self._step_size()
        helps = ["bound the step size, for instance by `sigmoid(…)`"]
        if isfinite(low):
            helps = ["make the step smaller"]
            if factor is not None and lr is not None:
                helps = [f"make the step smaller: `{scaled(lr, factor)}`"]
            if long is not None:
                helps.append("or give the key length 1 by `l2norm(…)`")
        self.report.add(
            "NLC801",
            f"a step of level `{self.level.name}` can erase more than `{s.name}` holds",
            self._place(lr, "rule" if self.level.rule else "update"),
            f"it multiplies what `{s.name}` holds at the key by as little as {low:.4g}"
            if isfinite(low)
            else "nothing bounds what it erases",
            notes=[*self._equation(e, s), "below -1 the memory grows with every such step"],
            helps=helps,
        )

    def _unnormalised(self, key: Expr, e: Expr, s: State) -> None:
        source = self.system.flows[key.attr].expr if key.op == "flow" else key
        place = self._place(source, "key")
        whole = source.span is place and "\n" not in place.text
        self.report.add(
            "NLC803",
            f"nothing bounds the norm of the key by which level `{self.level.name}` erases",
            place,
            "it can be of any length",
            notes=[
                *self._equation(e, s),
                f"a long key erases more than `{s.name}` holds, and the memory grows",
            ],
            helps=[f"write `l2norm({place.text})`" if whole else "put `l2norm(…)` around the key"],
        )

    def _equation(self, e: Expr, s: State) -> list[str]:
        n = Notation(
            self.system, own=self.level.name, plain_base=True, marked=False
        )  # as `nlc derive` writes it
        text = collect(e, s.name, n)
        return [f"{n.symbol(s.name)} ← {text}"] if text and len(text) <= 80 else []

    # -------------------------------------------------------------------------------------------- boundaries

    def _chunk(self, running: Linear | None, bound: Linear | None, s: State) -> bool:
        """Steps that all follow the gradient at one boundary add up to at most one; True if it was said that not."""
        found = self.update.gradient.get(s.name)
        if self.level.anchor is None or self.period <= 1 or found is None:
            return False
        try:
            words = affine(found, self._own)
            curved = len(self.names) > 1
        except NotAffine:
            words, curved = [], True
        if not curved:
            if not any(w.linear for w in words):
                return False  # the gradient does not read the state: nothing to overshoot
            if running is not None and running.key is not None and running.erased.range.high > 0:
                return False  # each step also erases by the state as it is, which holds the rest in check
            if bound is None or bound.key is None:
                return False
            step = bound.scale.times(bound.erased).times(self._square(bound.key))
        else:
            new = without_stops(self.joint.written(s.name, frozenset(self.names)))
            size = strength(new, lambda n: n.op == "gradient" and n.attr == s.name, self.reaches)
            if size is None:
                return False
            step = point(-1.0).times(size)
            name = f"{self.level.name}.key"
            if name in self.system.flows:
                square = self._square(_flow(self.system, name))
                if isfinite(square.range.high):
                    step = step.times(square)
        total = point(self.period).times(step)
        if not total.known or total.range.high <= 1 + SLACK:
            return False
        if not adds_up(self.joint, s.name, self.reaches):
            return False
        lr, every = self._step_size(), str(self.level.anchor.count)
        instead = lr is not None and lr.op == "div" and lr.args[1].type is not None
        if instead:  # by less than the period: then another divisor is enough
            divisor = lr.args[1].type.range
            instead = divisor.low == divisor.high and step.range.high * divisor.high <= 1 + SLACK
        keys = self.level.keys
        self.report.add(
            "NLC804",
            f"the steps of level `{self.level.name}` between two boundaries can add up to more than 1",
            self._place(lr, "rule"),
            f"{number(self.period)} steps of up to {number(step.range.high)}",
            related=[Label(keys["anchor"], "all of them follow the gradient at one boundary")]
            if "anchor" in keys
            else [],
            helps=[
                f"divide the step by the number of ticks: `{over(lr, every, instead)}`"
                if lr is not None and isfinite(step.range.high)
                else "divide the step size by the number of ticks"
                if isfinite(step.range.high)
                else "bound the step size, for instance by `sigmoid(…)`, and divide it by the number of ticks"
            ],
        )
        return True

    def _square(self, key: Expr) -> Reach:
        length = self.reaches.norm(key)
        return Reach(Range(0.0, length.range.high**2), length.sources)


def _flow(system: System, name: str) -> Expr:
    expr = system.flows[name].expr
    return Expr("flow", (), name, expr.type, expr.span)
