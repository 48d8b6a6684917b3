"""Plans on request: ``{"S": "chunked(32)"}`` read, and compared with what the levels became (NLC601).

A plan never changes what a spec means, so it stands in no spec. One that does not hold points at what in the spec is
in its way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from nlc.base.diagnostics import BadPlan, Report, nearest
from nlc.base.span import Span
from nlc.ir.program import Program
from nlc.ir.system import Level, System
from nlc.passes.plan import Choice, plan
from nlc.passes.plan.causes import cause

REQUESTS = ("sequential", "chunked", "anchored")  # of all plans, nlc/ir/classes.py
_FORM = re.compile(r"\s*(\w+)\s*(?:\(\s*(-?\d+)\s*\)\s*)?")
LONGEST = 4096  # tokens of one triangular solve, whose matrix has that many rows


@dataclass(frozen=True)
class Asked:
    """``plan``, and ``tile``: how many tokens one triangular solve takes."""

    plan: str
    tile: int | None = None

    def __str__(self) -> str:
        return self.plan if self.tile is None else f"{self.plan}({self.tile})"


Said = Callable[[str], tuple[list[str], list[str]]]  # of a level: its steps, and ways out


def requested(
    program: Program,
    reserved: frozenset[str],
    plans: Mapping[str, str],
    loops: bool = False,
    said: Said = lambda level: ([], []),
    stack: bool = True,
) -> tuple[Program, tuple[Choice, ...]]:
    """``plan`` with requests as text, all of which hold; ``loops``: every level keeps its loop over tokens.

    Raises BadPlan for what is no request, SpecError with NLC601 for one that does not hold.
    """
    requests = asked(plans, program.system)
    words = {level: a.plan for level, a in requests.items()}
    if loops:
        if wanted := next((n for n, p in words.items() if p != "sequential"), None):
            raise BadPlan(f"`reference` is sequential; `{wanted}={requests[wanted]}` needs `torch`")
        words = dict.fromkeys(program.system.levels, "sequential")
    planned, choices = plan(program, reserved, words, stack)
    report = Report()
    _refuse(requests, choices, program.system, report, said)
    report.raise_if_errors()
    tile, channel_tile = (_tile(requests, choices, channel) for channel in (False, True))
    return replace(planned, tile=tile, channel_tile=channel_tile), choices


def asked(plans: Mapping[str, str], system: System) -> dict[str, Asked]:
    """The requests by level; BadPlan for what names no level or no plan."""
    if plans and system.context != "tokens":
        raise BadPlan(f"`{system.name}` has no loop over tokens, so there is nothing to plan")
    return {level: _read(level, text, system) for level, text in plans.items()}


def _read(level: str, text: str, system: System) -> Asked:
    if level not in system.levels and level not in system.outer:
        close = nearest(level, system.levels)
        hint = f"did you mean `{close}`?" if close else f"levels: {', '.join(system.levels)}"
        raise BadPlan(f"`{system.name}` has no level `{level}`; {hint}")
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    plan = match[1] if match else str(text)
    if plan not in REQUESTS:
        close = nearest(plan, REQUESTS)
        hint = f"did you mean `{close}`?" if close else f"plans: {', '.join(REQUESTS)}"
        raise BadPlan(f"there is no plan `{plan}`; {hint}")
    if match[2] is None:
        return Asked(plan)
    tile = int(match[2])
    if plan == "sequential":
        raise BadPlan("`sequential` takes one token at a time; it has no tile")
    if not 1 <= tile <= LONGEST:
        raise BadPlan(f"a chunk has from 1 to {LONGEST} tokens, not {tile}")
    return Asked(plan, tile)


def _tile(requests: Mapping[str, Asked], choices: Iterable[Choice], channel: bool) -> int | None:
    """The tile of the file, for decays by key channel or for all others; BadPlan if two are asked for."""
    found = {c.level: c.record is not None and c.record.channel for c in choices}
    wanted = {n: a.tile for n, a in requests.items() if a.tile and found.get(n, False) == channel}
    if len(set(wanted.values())) > 1:
        said = ", ".join(f"`{n}={requests[n]}`" for n in wanted)
        raise BadPlan(f"one file has one tile for all its levels: {said}")
    return next(iter(wanted.values()), None)


def _refuse(
    requests: Mapping[str, Asked],
    choices: Iterable[Choice],
    system: System,
    report: Report,
    said: Said,
) -> None:
    """Reports every request that does not hold."""
    became = {c.level: c for c in choices}
    for name, wanted in requests.items():
        level = system.levels.get(name) or system.outer[name]
        choice = became.get(name)
        if choice is None:
            _without_steps(level, wanted, report)
        elif choice.plan != wanted.plan:
            why, place, label, ways = _reason(level, wanted, choice, system, requests)
            message = f"level `{name}` cannot run as `{wanted}`: {why}"
            steps, others = said(name)
            ways += others if choice.plan != "anchored" else []
            report.add(
                "NLC601",
                message,
                place,
                label,
                notes=steps,
                helps=ways,
                causes=[("plan", name)],  # of a family all members stand at one place
            )


def _without_steps(level: Level, wanted: Asked, report: Report) -> None:
    """Caches, and slow weights that the outer loss trains."""
    kept = "the outer loss trains it" if level.outer else "it keeps what comes and takes no steps"
    report.add(
        "NLC601",
        f"level `{level.name}` cannot run as `{wanted}`: {kept}",
        level.keys.get("objective" if level.outer else "memory", level.span),
        "no step of it depends on the token before",
        helps=["ask for no plan of it"],
        causes=[("plan", level.name)],
    )


Reason = tuple[str, Span, str, list[str]]


def _reason(
    level: Level,
    wanted: Asked,
    choice: Choice,
    system: System,
    requests: Mapping[str, Asked],
) -> Reason:
    clock = level.keys.get("frequency", level.span)
    if choice.plan == "anchored":
        boundary = next((k for k in ("anchor", "reset") if k in level.keys), "frequency")
        return (
            "its step changes at boundaries",
            level.keys.get(boundary, level.span),
            f"a boundary every {' and every '.join(map(str, choice.periods))} tokens",
            [f"ask for `{Asked('anchored', wanted.tile)}`: chunks between boundaries, exact too"],
        )
    if choice.plan == "chunked":
        return (
            "it has no boundary",
            clock,
            "nothing that its step reads is held from here to a boundary",
            [f"ask for `{Asked('chunked', wanted.tile)}`, which is exact"],
        )
    others = [n for n, a in requests.items() if a.plan == "sequential" and n != level.name]
    if choice.beside and choice.beside in others:
        label = "one loop over tokens for both"
        return (
            f"it needs `{choice.beside}` token by token",
            clock,
            label,
            [f"ask for no plan of `{choice.beside}`"],
        )
    found = cause(choice, system)
    stay = "ask for `sequential`, one token at a time, or for no plan"
    return found.why, found.place, found.label, [stay]
