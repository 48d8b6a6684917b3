"""What the checks of one level share: its step, the bounds of what is in it, and where in the spec it stands."""

from __future__ import annotations

from nlc.base.diagnostics import Report
from nlc.base.span import Span
from nlc.ir.expr import Expr
from nlc.ir.system import Level, State, System
from nlc.ir.update import Update
from nlc.passes.soundness.joint import Joint
from nlc.passes.soundness.reach import Reaches
from nlc.passes.soundness.zeros import Reads

SLACK = 1e-9  # rounding of bounds: 1 / n * n


def zero_start(s: State) -> bool:
    """Whether a state starts at 0, and is not learned to start elsewhere."""
    if s.learned or s.borrowed:
        return False
    return s.init is None or (s.init.op == "num" and s.init.attr == 0)


class Judge:
    """One level, and what is reported of it."""

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

    def _retentions(self) -> list[tuple[str, Expr]]:
        rule = self.level.rule
        fields = (("retain", self.level.retain), ("rule", rule and rule.args.get("decay")))
        return [(key, e) for key, e in fields if e is not None]

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

    def _order(self) -> list[str]:
        return [s.name for s in self.level.states]
