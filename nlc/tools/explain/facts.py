"""What an explanation says: for each level its class, plan, reason and cost, and the same as data for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nlc.base.span import Span
from nlc.tools.costs import Cost


@dataclass(frozen=True)
class Fact:
    """A level. ``kind`` is its class, ``place`` what in the spec is the reason, ``tile`` the tokens of one solve.

    ``faster`` are edits and requests that would make it so; those that change what the spec means say it. ``updates``
    are the derived steps of an optimizer's level.
    """

    name: str
    clock: str
    kind: str
    plan: str
    why: str
    place: Span | None
    quote: str
    tile: int | None
    periods: tuple[str, ...]
    cost: Cost
    faster: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()

    @property
    def placed(self) -> str:
        """``hope.yaml:12:5`` without the file, which the explanation names once."""
        return f"{self.place.line}:{self.place.column}" if self.place is not None else ""


@dataclass(frozen=True)
class Explanation:
    """``levels`` fastest first. Of a gradient system costs are for one tensor of ``matrix`` and one step.

    ``flows`` are what several levels need; of a gradient system ``flows_kind`` is their class. ``streams``: how packed
    sequences and ``checkpoint`` run, where kernels do.
    """

    system: str
    context: str
    backend: str
    file: str
    hypers: Mapping[str, Any]
    tokens: int
    matrix: tuple[int, int] | None
    levels: tuple[tuple[Fact, ...], ...]
    projections: Cost
    flows: Cost
    total: Cost
    flows_kind: str = ""
    streams: str = ""

    def asdict(self) -> dict[str, Any]:
        """For JSON."""
        facts = [
            {"level": number, **_fact(f)}
            for number, level in enumerate(self.levels, 1)
            for f in level
        ]
        scale = {"matrix": list(self.matrix)} if self.matrix else {"tokens": self.tokens}
        return {
            "system": self.system,
            "context": self.context,
            "backend": self.backend,
            "file": self.file,
            "hypers": dict(self.hypers),
            **scale,
            "levels": facts,
            "projections": _cost(self.projections),
            "flows": {
                **({"class": self.flows_kind} if self.flows_kind else {}),
                **_cost(self.flows),
            },
            "total": {**_cost(self.total), "steps": self.total.steps},
            **({"streams": self.streams} if self.streams else {}),
        }

    def __str__(self) -> str:
        from nlc.tools.explain.text import text

        return text(self)

    def _repr_html_(self) -> str:
        from nlc.tools.explain.text import html

        return html(self)


def _fact(f: Fact) -> dict[str, Any]:
    place = None
    if f.place is not None:
        place = {"line": f.place.line, "column": f.place.column, "text": f.quote}
    return {
        "name": f.name,
        "clock": f.clock,
        "class": f.kind,
        "plan": f.plan,
        "why": f.why,
        "place": place,
        "tile": f.tile,
        "periods": list(f.periods),
        **_cost(f.cost),
        "steps": f.cost.steps,
        "faster": list(f.faster),
        "updates": list(f.updates),
    }


def _cost(c: Cost) -> dict[str, float]:
    return {"flops": round(c.flops), "bytes": round(c.moved), "state_bytes": round(c.state)}
