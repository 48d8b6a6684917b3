"""Layer 5: Program -> source text. Backends see the program and the IR, never the text of a spec or a pass.

A folder here is a backend: it has ``NAME``, ``RESERVED``, ``CONTEXTS``, ``TILES``, ``GATES``, ``LEAVES_OUT``,
``FUSES``, ``refusal`` and ``emit``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from nlc.base.diagnostics import BadPlan, nearest
from nlc.ir.program import Program

BACKENDS = tuple(sorted(p.parent.name for p in Path(__file__).parent.glob("*/__init__.py")))
EXACT = ("reference", "torch")  # those that have float64 and need no device of their own


def backend_module(name: str) -> ModuleType:
    """The backend of a name. Raises TypeError, or ValueError with the nearest name."""
    if not isinstance(name, str):
        raise TypeError(f"a backend is a name, as 'torch', not {type(name).__name__}")
    if name not in BACKENDS:
        close = nearest(name, BACKENDS)
        raise ValueError(
            f"there is no backend {name!r}"
            + (f"; did you mean {close!r}?" if close else f"; backends: {', '.join(BACKENDS)}")
        )
    return importlib.import_module(f"nlc.backends.{name}")


def known_tiles(name: str, program: Program) -> None:
    """BadPlan for a tile that the backend cannot have."""
    tiles = backend_module(name).TILES
    asked = {tile for tile in (program.tile, program.channel_tile) if tile is not None}
    if tiles is None:
        return
    for tile in asked.difference(tiles):
        known = ", ".join(map(str, tiles))
        raise BadPlan(f"the backend {name} has tiles of {known} tokens, not of {tile}")
    if len(asked) > 1:
        raise BadPlan(f"the backend {name} has one tile for all levels, not {sorted(asked)}")
