"""System -> typed System: shapes and widths, heads, clocks and ranges of every expression.

Shapes are solved first (``shapes``, ``solver``), since a use may say the width of what it reads; types then
follow bottom-up (``types``).
"""

from __future__ import annotations

from nlc.base.diagnostics import Report
from nlc.ir.system import System
from nlc.passes.infer.shapes import ShapesOf
from nlc.passes.infer.types import TypesOf


def infer(system: System, report: Report) -> System:
    """The same system with a type on every expression; partial where the report has errors."""
    shapes = ShapesOf(system, report)
    shapes.run()
    return system if report.has_errors else TypesOf(system, shapes, report).run()
