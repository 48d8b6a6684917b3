"""Which tensors a rule trains, and as what it sees them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nlc.base.span import Span
from nlc.ir.expr import Expr
from nlc.ir.types import Dim

if TYPE_CHECKING:
    from nlc.ir.system import Rule

_AXIS = r"\s*(?:-?\d+)?\s*"
_STEP = re.compile(
    rf"\s*(?P<name>flatten|batch)\s*\(\s*(?P<first>{_AXIS}):(?P<last>{_AXIS})\)"
    r"|\s*(?P<cut>split)\s*\(\s*(?P<axis>-?\d+)\s*,(?P<count>[^,]+?)\)(?=\s*(?:flatten|batch|split|$))"
)
STEPS = ("flatten", "batch", "split")


@dataclass(frozen=True)
class View:
    """A tensor as others over the same numbers: ``flatten(1:)``, ``split(0, heads)``, ``batch(:-2)``, several in a row.

    ``steps`` are those of ``nlc/runtime/views.py``; in a spec the number of parts that ``split`` makes is a Dim.
    """

    text: str = ""
    steps: tuple[tuple[str, int | None, int | Dim | None], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)

    def at(self, values: dict[str, object]) -> tuple:
        """The steps in numbers."""
        return tuple(
            (name, first, int(last.evaluate(values)) if isinstance(last, Dim) else last)
            for name, first, last in self.steps
        )


def pieces(text: str) -> list[tuple[str, int | None, int | None, tuple[int, int] | None]]:
    """The steps of a view's text, and from where to where a count of parts stands. ValueError for other text."""
    out, at = [], 0
    while text[at:].strip():
        found = _STEP.match(text, at)
        if found is None:
            raise ValueError(text)
        if found["cut"]:
            out.append(("split", int(found["axis"]), None, found.span("count")))
        else:
            first, last = (int(x) if (x := found[k].strip()) else None for k in ("first", "last"))
            out.append((found["name"], first, last, None))
        at = found.end()
    return out


@dataclass(frozen=True)
class Route:
    """Tensors that one rule trains: those that meet all that is asked, unless an earlier route takes them.

    ``kinds`` are those of ``nlc/lib/rules.py``, ``names`` patterns of whole names with ``*``, ``modules`` names of
    classes that may own the tensor; of each of these one is enough. ``where`` are conditions on its sizes. ``rule``
    is None for the system itself.
    """

    name: str
    span: Span
    rule: Rule | None
    kinds: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    where: tuple[Expr, ...] = ()
    view: View = View()

    @property
    def by_kind(self) -> bool:
        """Whether the kind of a tensor decides."""
        return not (self.names or self.modules or self.where)

    @property
    def plain(self) -> bool:
        """Whether the kind of a tensor decides, and the rule sees it as it is."""
        return self.by_kind and not self.view
