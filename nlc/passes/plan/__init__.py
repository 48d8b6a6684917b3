"""Program -> Program: the loop over tokens taken apart into scans, tiles and statements for all tokens at once.

What is not recurrent is computed for all tokens. States that are linear in themselves, with everything else known,
become a ``Scan`` over the sequence (*chunked*). Where values change at boundaries alone (anchors, slow levels), the
sequence is cut into tiles between boundaries, and inside a tile the same holds again (*anchored*). What remains keeps
its loop over tokens (*sequential*), with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping

from nlc.ir.program import Loop, Program
from nlc.passes.plan.build import Builder, Choice

__all__ = ["Choice", "plan"]


def plan(
    program: Program,
    reserved: frozenset[str],
    plans: Mapping[str, str] | None = None,
    stack: bool = True,
) -> tuple[Program, tuple[Choice, ...]]:
    """The program for backends without a loop over tokens, and what was chosen for each level.

    ``plans`` asks for a plan level by level (``sequential``, ``chunked``, ``anchored``); a choice that differs from
    what was asked says why. ``stack``: whether memories that step alike become one.
    """
    if not any(isinstance(s, Loop) for s in program.body):
        return program, ()
    return Builder(program, reserved, plans or {}, stack).build()
