"""Derived gradients beside autograd's, at the states and flows of a run of the interpreter."""

from __future__ import annotations

import io
from typing import Any

import torch

from nlc.ir.system import Level
from nlc.ir.update import Update
from nlc.runtime.expressions import Place, States
from nlc.runtime.interpreter import Interpreter
from nlc.runtime.verify.report import EXACT, Check, compared, difference

MOST = 100  # ticks that are interpreted: each costs milliseconds


class Derived:
    """Watches runs of the interpreter and evaluates the compiler's gradient wherever autograd's is taken."""

    def __init__(self, updates: dict[str, Update]):
        self.updates = updates
        self.errors: dict[str, float] = {}

    def watch(self, run: Interpreter) -> Interpreter:
        def observe(level: Level, at: Place, slopes: States) -> None:
            derived = self.updates[level.name].gradient
            zero = {n: torch.zeros_like(x) for n, x in slopes.items() if n not in derived}
            found = {n: run.like(run.value(e, at), slopes[n]) for n, e in derived.items()}
            error = difference({**zero, **found}, slopes)
            self.errors[level.name] = max(error, self.errors.get(level.name, 0.0))

        run.observe = observe
        return run

    def checks(self) -> list[Check]:
        out = []
        for n in (n for n, u in self.updates.items() if u.gradient):
            what = f"{n}: the derived gradient = autograd's"
            if n in self.errors:
                out.append(compared(what, self.errors[n], EXACT))
            else:
                out.append(Check(what, note=f"not seen: its period is longer than {MOST} ticks"))
        return out


def through_a_file(x: Any) -> Any:
    """Saved and loaded, as users do."""
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
