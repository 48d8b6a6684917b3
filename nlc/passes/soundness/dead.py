"""Memories that never learn: weights that are 0, or decay to it, where their own step is 0."""

from __future__ import annotations

from nlc.ir.expr import Expr
from nlc.ir.system import State
from nlc.passes.soundness.carried import forgets
from nlc.passes.soundness.judge import SLACK, Judge, zero_start
from nlc.passes.soundness.words import listed
from nlc.passes.soundness.zeros import stuck


class Lifeless(Judge):
    """NLC805 and NLC806."""

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


def _copied(s: State) -> str | None:
    """The state whose start is also the start of ``s``."""
    return s.init.attr[0] if s.init is not None and s.init.op == "state" and not s.learned else None
