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
from nlc.ir.system import Level, State, System
from nlc.ir.types import Range
from nlc.ir.update import Update
from nlc.passes.affine import NotAffine, affine
from nlc.passes.collect import collect
from nlc.passes.simplify import simplify
from nlc.passes.soundness.carried import adds_up, forgets
from nlc.passes.soundness.divided import Divided, divided, zero_start
from nlc.passes.soundness.joint import Joint
from nlc.passes.soundness.reach import Reach, Reaches, point
from nlc.passes.soundness.step import Linear, linear, strength, without_stops
from nlc.passes.soundness.words import between, listed, number, over, scaled
from nlc.passes.soundness.zeros import Reads, states_of_flows, stuck

SLACK = 1e-9  # rounding of bounds: 1 / n * n
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


class _Level:
    """The checks of one level; each fact is said once."""

    def __init__(
        self,
        system: System,
        level: Level,
        update: Update,
        joint: Joint,
        reaches: Reaches,
        reads: Reads,
        report: Report,
    ):
        self.system, self.level, self.update, self.joint = system, level, update, joint
        self.reaches, self.reads, self.report = reaches, reads, report
        self.names = {s.name for s in level.states}
        self.period = float(level.anchor.default) if level.anchor is not None else 1.0

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
        for s in self.level.states:
            if (found := divided(self.system, self.level, self.joint.written(s.name))) is not None:
                self._blown(found)
                break

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

    def _retentions(self) -> list[tuple[str, Expr]]:
        rule = self.level.rule
        fields = (("retain", self.level.retain), ("rule", rule and rule.args.get("decay")))
        return [(key, e) for key, e in fields if e is not None]

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

    # -------------------------------------------------------------------------------------------- dead memories

    def _dead(self) -> None:
        """A memory that is zero, or decays to it, where its own step is zero."""
        level, fresh = self.level, self._fresh()
        steps = self.joint.steps()
        stays = self._stuck(steps, fresh)
        if stays:
            many = len(stays) > 1
            who = f"level `{level.name}`" if stays == self.names else listed(stays, self._order())
            self.report.add(
                "NLC806",
                f"{who} can never learn",
                level.keys.get("init") or level.keys.get("memory") or level.span,
                f"{listed(stays, self._order())} {'start' if many else 'starts'} at 0, where every step is 0",
                notes=[
                    "every term of the step has a factor that is 0 there",
                    *self._too("starts at 0 as well"),
                ],
                helps=["write `init: learned`"],
            )
            return
        falling = [(k, e) for k, e in self._retentions() if e.type.range.low < 1 - SLACK]
        if not falling or level.update is not None or not forgets(self.joint, self.reaches):
            return
        stays = self._stuck(steps, {s.name for s in self.joint.all})
        if stays:
            key, e = falling[0]
            self.report.add(
                "NLC805",
                f"level `{level.name}` decays towards 0, where it can no longer learn",
                self._place(e, key),
                f"{listed(stays, self._order())} fade{'' if len(stays) > 1 else 's'} to 0",
                notes=[
                    "every term of the step has a factor that is 0 there",
                    *self._too("fades too"),
                ],
                helps=["write `toward: init`, so that it decays to where it started"],
            )

    def _fresh(self) -> set[str]:
        """The states that start at 0; what its rule remembers may start as a copy of them."""
        own = {s.name for s in self.level.states if zero_start(s)}
        copies = {s.name for s in self.joint.inner if _copied(s) in own}
        return own | copies | {s.name for s in self.joint.inner if zero_start(s)}

    def _stuck(self, steps: dict[str, tuple[Expr, ...]], zero: set[str]) -> frozenset[str]:
        """Which of its own states never leave 0."""
        found = stuck(self.system, self.reads, steps, zero) if zero & self.names else frozenset()
        return found & self.names

    def _too(self, what: str) -> list[str]:
        """Of a rule that remembers."""
        rule = self.level.rule
        return (
            [f"what its rule `{rule.name}` remembers {what}"] if rule and self.joint.inner else []
        )

    def _order(self) -> list[str]:
        return [s.name for s in self.level.states]

    # -------------------------------------------------------------------------------------------- first ticks

    def _blown(self, found: Divided) -> None:
        """A step that is as long as a divisor is small, before what it divides by has ticked."""
        name, other = found.state.name, self.system.levels[found.state.level]
        held = other.clock.held_for(self.level.clock)
        late = f"first ticks at the end of {other.clock.valued.removeprefix('every ')}"
        foreign = other.span.source is not self.level.span.source
        where = f"`{other.name.rpartition('.')[2]}`" + (
            f" of `{self.level.rule.name}`" if foreign and self.level.rule else ""
        )
        self.report.add(
            "NLC807",
            f"the first step of level `{self.level.name}` divides by next to nothing",
            self._place(found.by, "rule" if self.level.rule else "update"),
            f"what it divides by is {number(found.left)} while `{name}` is 0",
            notes=[f"`{name}` starts at 0, and {late if held else 'is read before it ticks'}"],
            helps=[
                f"write `phase: start` in level {where}, so that it ticks first"
                if held
                else f"read `{name}` as it is behind its tick, or start it elsewhere by `init:`"
            ],
        )

    # -------------------------------------------------------------------------------------------- places

    def _step_size(self) -> Expr | None:
        """``lr`` as the spec writes it."""
        lr = self.level.rule.args.get("lr") if self.level.rule else None
        return lr if lr is not None and self._written(lr) else None

    def _written(self, e: Expr) -> bool:
        return e.span is not None and e.span.source is self.level.span.source

    def _place(self, e: Expr | None, key: str) -> Span:
        """Where an expression stands in the spec, else the key of the level under which it stands."""
        if e is not None and self._written(e):
            return e.span
        return self.level.keys.get(key) or self.level.span


def _flow(system: System, name: str) -> Expr:
    expr = system.flows[name].expr
    return Expr("flow", (), name, expr.type, expr.span)


def _copied(s: State) -> str | None:
    """The state whose start is also the start of ``s``."""
    return s.init.attr[0] if s.init is not None and s.init.op == "state" and not s.learned else None
