"""Derived gradients beside autograd's, at the states and flows of a run of the interpreter."""

from __future__ import annotations

import io
from typing import Any

import torch

from nlc.ir.expr import Expr, walk
from nlc.ir.system import Level
from nlc.ir.update import Update
from nlc.runtime.interpreter import Interpreter
from nlc.runtime.ticks import Place, States
from nlc.runtime.verify.report import EXACT, Check, compared, difference

MOST = 100  # ticks that are interpreted: each costs milliseconds


class Derived:
    """Watches runs of the interpreter and evaluates the compiler's gradient wherever autograd's is taken."""

    def __init__(self, updates: dict[str, Update]):
        self.updates = updates
        self.errors: dict[str, float] = {}

    def watch(self, run: Interpreter) -> Interpreter:
        """``run`` with every gradient that it takes compared with the derived one."""

        def observe(step: Level, at: Place, slopes: States) -> None:
            derived = self._derived(step)
            if derived:
                zero = {n: torch.zeros_like(x) for n, x in slopes.items() if n not in derived}
                found = {n: run.like(run.value(e, at), slopes[n]) for n, e in derived.items()}
                error = difference({**zero, **found}, slopes)
                self.errors[step.name] = max(error, self.errors.get(step.name, 0.0))

        run.observe = observe
        return run

    def _derived(self, step: Level) -> dict[str, Expr]:
        """The compiler's gradient of a level's objective by its states; of a step inside a rule, if it names one."""
        states = [s.name for s in step.states]
        known = self.updates[step.states[0].level].gradient
        if _is_autograds(self.updates[step.states[0].level]):
            return {}
        if step.name in self.updates:
            return {n: known[n] for n in states if n in known}
        return {states[0]: known[step.name]} if step.name in known else {}

    def checks(self, of: str = "") -> list[Check]:
        """``of``: what the levels belong to, where there are several systems."""
        out, prefix = [], f"{of}: " if of else ""
        for name, update in self.updates.items():
            inner = [n for n in update.gradient if n not in update.new]
            for n in ([name] if len(update.gradient) > len(inner) else []) + inner:
                what = f"{prefix}{n}: the derived gradient = autograd's"
                if n in self.errors:
                    out.append(compared(what, self.errors[n], EXACT))
                elif _is_autograds(update):
                    out.append(
                        Check(what, note="it is autograd's, through the updates of a period")
                    )
                else:
                    note = f"not seen: its period is longer than {MOST} ticks"
                    out.append(Check(what, note=note))
        return out


def _is_autograds(update: Update) -> bool:
    return any(n.op == "through" for e in update.gradient.values() for n in walk(e))


def through_a_file(x: Any) -> Any:
    """Saved and loaded, as users do."""
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
