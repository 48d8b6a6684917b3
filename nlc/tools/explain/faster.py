"""What would make a level faster, tried where it can be tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nlc.backends.torch.scan_texts import CHUNK
from nlc.ir.system import Level
from nlc.passes.plan import Choice
from nlc.passes.plan.alone import alone
from nlc.passes.plan.causes import whole

if TYPE_CHECKING:
    from nlc.pipeline import Spec

PERIOD = 64


def ways(spec: Spec, name: str) -> list[str]:
    """Other specs of a level that takes one token at a time, which do not; the first is tried by compiling it."""
    level = spec.system.levels.get(name)
    choice = next((c for c in spec.choices() if c.level == name), None)
    if level is None or choice is None or choice.plan == "anchored":
        return []
    line = f"anchor: every {PERIOD} tokens"
    if level.anchor is None and level.rule is not None and not level.clock.slow:
        changed = _with_line(spec, level, line)
        if changed is not None and not changed.check().has_errors:
            became = next((c for c in changed.choices() if c.level == name), None)
            if became is not None and became.plan == "anchored":
                return [
                    f"`{line}` makes it anchored (another system: gradients of the last boundary)"
                ]
    bent = whole(choice, spec.system)
    if bent is not None and level.rule is not None:
        return [f"`{bent}` of a read at a key, with `{line}`, would be anchored (another system)"]
    own = alone(spec.program("reference"), frozenset(), name)
    if choice.plan == "sequential" and own is not None and own.plan != "sequential":
        return [] if choice.beside else [f"reads at a key, as `{name}(q)`, make it {own.plan}"]
    return []


def _with_line(spec: Spec, level: Level, line: str) -> Spec | None:
    """The spec with one more key in a level that is written in block style."""
    key = level.keys.get("frequency")
    if key is None or key.source is not spec.source:
        return None
    text, start = spec.source.text, spec.source.line_starts[key.line - 1]
    indent = text[start : key.start]
    if indent.strip():
        return None
    return spec.variant(f"{text[:start]}{indent}{line}\n{text[start:]}")


def chunked(choice: Choice, periods: list[int]) -> list[str]:
    """What a scan could be spared, and what boundaries could be."""
    out, record = [], choice.record
    if record is not None and record.kind == "signed":
        out.append("a decay that is never negative, such as a sigmoid, goes by its logarithm")
    if record is not None and record.kind == "channel":
        out.append(
            "one decay a head instead of one a key channel: scores are products of matrices then"
        )
    if periods and min(periods) < CHUNK:
        out.append(
            f"boundaries further apart than {min(periods)} tokens (another system): fewer steps"
        )
    return out
