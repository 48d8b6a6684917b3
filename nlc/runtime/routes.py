"""Which system trains which parameters of a model, and as what it sees them: the record of a route, and its systems."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nlc.base.diagnostics import nearest
from nlc.ir.expr import Expr
from nlc.ir.routes import STEPS, View, pieces
from nlc.ir.types import Dim
from nlc.lib.rules import KINDS as ALL
from nlc.lib.rules import is_asked
from nlc.tools.sizes import constant, settled

if TYPE_CHECKING:
    from torch import Tensor

    from nlc.ir.routes import Route as SpecRoute
    from nlc.pipeline import Spec

System = "str | os.PathLike[str] | Spec | type"
Pattern = str | re.Pattern
KINDS = {name: kind for name, kind in ALL.items() if not kind.context}


def view_of(text: str) -> View:
    """``split(0, 8) flatten(1:)`` with numbers. ValueError for other text."""
    known = "`flatten(1:)`, `split(0, 8)` and `batch(:-2)`, one after the other"
    steps: list[tuple[str, int | None, int | None]] = []
    try:
        for name, first, last, at in pieces(text):
            steps.append((name, first, int(text[slice(*at)]) if at else last))
    except ValueError:
        near = nearest(text.partition("(")[0].strip(), STEPS)
        hint = f"; did you mean {near}(…)?" if near else ""
        raise ValueError(f"the view {text!r} is none{hint}; views are {known}") from None
    if any(name == "split" and (last or 0) < 1 for name, _, last in steps):
        raise ValueError(f"the view {text!r} makes no parts; views are {known}")
    return View(text, tuple(steps))


class Route:
    """Parameters that one system trains: those that meet all that is asked, and that the system takes as it sees them.

    Args:
        system: a shipped name, a path, a Spec, or a class of optimizers.
        names: patterns with ``*``, or compiled regular expressions, of the parameter's whole name; one of them must
            match.
        modules: classes or their names, one of which must own the parameter.
        kinds: of tensors, as in ``applies_to``: ``matrices``, ``stacks``, …
        where: any other condition on the name and the parameter.
        view: what the system sees: ``flatten(1:)`` makes a matrix of a convolution's kernel, ``split(0, heads)`` one of
            each head, ``batch(:-2)`` one of each expert. Every part has memories and a step of its own.
        hypers: for its constructor, such as ``lr``.

    Raises ValueError for an unknown kind or view.
    """

    def __init__(
        self,
        system: System,
        *,
        names: Pattern | Sequence[Pattern] = (),
        modules: type | str | Sequence[type | str] = (),
        kinds: str | Sequence[str] = (),
        where: Callable[[str, Tensor], bool] | None = None,
        view: str = "",
        **hypers: Any,
    ):
        self.system, self.where, self.hypers = system, where, hypers
        self.names, self.modules, self.kinds = _several(names), _several(modules), _several(kinds)
        self.view = view_of(view)
        for kind in self.kinds:
            if kind not in KINDS:
                close = nearest(kind, KINDS)
                hint = f"did you mean {close!r}?" if close else f"there are {', '.join(KINDS)}"
                raise ValueError(f"there is no kind of tensors {kind!r}; {hint}")

    def meets(self, name: str, p: Tensor, owners: Sequence[type]) -> bool:
        """Whether a parameter is what is asked for."""
        return (
            is_asked(name, tuple(map(Dim.of, p.shape)), self.names, self.kinds)
            and (not self.modules or any(owns(m, x) for m in self.modules for x in owners))
            and (self.where is None or self.where(name, p))
        )


def owns(module: type | str, owner: type) -> bool:
    """Whether an owner is of a class, which may be named."""
    if isinstance(module, str):
        return any(x.__name__ == module for x in owner.__mro__)
    return issubclass(owner, module)


def _several(x: Any) -> tuple:
    return (x,) if isinstance(x, str | type | re.Pattern) else tuple(x)


@dataclass(frozen=True)
class Trainer:
    """A system as a class that trains tensors, and which of them it takes by itself."""

    name: str
    made: type
    spec: Spec | None
    given: Mapping[str, Any]  # hypers, as the route says them

    @classmethod
    def of(cls, system: Any, given: Mapping[str, Any]) -> Trainer:
        """ValueError for a system that trains no tensors."""
        if isinstance(system, type):
            return cls(system.__name__, system, None, given)
        from nlc.pipeline import Spec, load

        spec = system if isinstance(system, Spec) else load(system)
        if not spec.system.trains:
            raise ValueError(f"{spec.system.name} is a system over tokens, which trains no tensors")
        return cls(spec.system.name, spec.compile(), spec, given)

    @property
    def routes(self) -> dict[str, SpecRoute]:
        """Those of its spec, by name."""
        return {} if self.spec is None else {r.name: r for r in self.spec.system.routes}

    @property
    def watches(self) -> bool:
        """Whether it takes samples of linear layers."""
        return hasattr(self.made, "watch")

    def route_of(
        self,
        x: Tensor,
        view: View,
        name: str,
        owners: Sequence[type],
        whole: bool,
        layer: bool = False,
    ) -> str | None:
        """By which route of its own it trains what a view shows of a parameter: "" if it has none, None if it does not.

        ``whole``: by those too that its spec leaves to other rules; ``layer``: it is the weight of a linear layer.
        IndexError and ValueError where the view is for other tensors.
        """
        from nlc.runtime.views import shown

        parts = shown(x, view.at({}))
        if self.spec is None:
            return "" if layer or whole or not self.watches else None
        if self.watches and not self.routes:
            return "" if layer else None
        if not self.routes:
            fits = not self.spec.program().matrices or all(part.ndim == 2 for part in parts)
            return "" if fits else None
        asked = [k for k in inspect.signature(self.made.route_of).parameters][3:]
        known = {**self._hypers, "layer": layer}
        hypers = {k: x for k, x in known.items() if k in asked}
        found = {self.made.route_of(part, name, tuple(owners), **hypers) for part in parts}
        route = found.pop() if len(found) == 1 else None
        return route if route is not None and (whole or self.routes[route].rule is None) else None

    @property
    def _hypers(self) -> Mapping[str, Any]:
        known = self.spec.system.hypers
        return settled(self.spec.system, {k: x for k, x in self.given.items() if k in known})

    def trains(self, route: str) -> tuple[str, type, dict[str, Any], View, str | None]:
        """What a route of its own comes to: label, class, hypers, view, and the rule that its groups name."""
        own, plain = self.routes.get(route), all(r.by_kind for r in self.routes.values())
        label = (
            self.name if own is None or (own.plain and own.rule is None) else f"{self.name}.{route}"
        )
        if own is None or own.rule is None:  # the tensors that it is given may lack names
            named = None if own is None or (plain and own.plain) else route
            return label, self.made, dict(self.given), View(), named
        from nlc.pipeline import Spec

        at, sizes = self._hypers, own.rule.sizes
        hypers = {
            key: int(sizes[key].evaluate(at)) if key in sizes else _value(e, at)
            for key, e in own.rule.args.items()
        }
        options = {k: x for k, x in self.given.items() if k not in self.spec.system.hypers}
        made = Spec(own.rule.system.source).compile()
        return label, made, {**hypers, **options}, View(own.view.text, own.view.at(at)), None


def _value(e: Expr, hypers: Mapping[str, Any]) -> Any:
    if e.op == "list":
        return [_value(x, hypers) for x in e.args]
    return constant(e, hypers, whole=False)
