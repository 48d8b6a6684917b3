"""System and Updates -> Program.

A token system becomes: what needs no state, for all tokens at once; one loop over tokens that carries the states; what
remains, for all tokens at once. A gradient system becomes straight-line statements for one tensor and step.
"""

from __future__ import annotations

from dataclasses import replace

from nlc.ir.program import Program
from nlc.ir.system import System
from nlc.ir.update import Update
from nlc.passes.lower.embedded import embedded
from nlc.passes.lower.gradients import Gradients
from nlc.passes.lower.tokens import Tokens


def lower(
    system: System, updates: dict[str, Update], reserved: frozenset[str] = frozenset()
) -> Program:
    """``reserved`` are identifiers that the backend's own text uses."""
    if system.trains:
        return Gradients(system, updates, reserved).program()
    inner, updates, indices = embedded(system, updates)
    program = Tokens(inner, updates, reserved).program()
    counted = {n: v for n, v in program.inputs.items() if n in indices.values()}
    flows = {n: v for n, v in program.inputs.items() if n not in counted}
    return replace(program, system=system, inputs=flows, indices=counted, embedded=indices)
