"""Which system trains which parameters of a model, and as what it sees them: the record of a route, and its views."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from nlc.base.diagnostics import nearest
from nlc.ir.types import Dim
from nlc.lib.rules import LAYERS, ROUTES

if TYPE_CHECKING:
    from torch import Tensor

    from nlc.pipeline import Spec

System = "str | os.PathLike[str] | Spec | type"


KINDS = [name for name, kind in ROUTES.items() if not kind.context]


class NoAxis(ValueError):
    """A tensor has fewer axes than a view speaks of: the view is not for it."""


@dataclass(frozen=True)
class View:
    """A parameter as other tensors over the same numbers, one after the other: steps of a name and numbers."""

    text: str
    steps: tuple[tuple[str, tuple[int | None, ...]], ...]

    @classmethod
    def of(cls, text: str) -> View:
        """``flatten(1:)`` joins axes, ``split(0, 8)`` cuts one into so many parts, ``each(0)`` takes it apart; several
        one after the other. ValueError for other text."""
        steps, rest = [], text.strip()
        while rest:
            found = _STEP.match(rest)
            if found is None:
                known = "`flatten(1:)`, `split(0, 8)` and `each(0)`, one after the other"
                raise ValueError(f"the view {text!r} is none; views are {known}")
            name = next(n for n in ("flatten", "split", "each") if found[n] is not None)
            numbers = [None if not x.strip() else int(x) for x in re.split("[:,]", found[name])]
            steps.append((name, tuple(numbers)))
            rest = rest[found.end() :].strip()
        return cls(text, tuple(steps))

    def __call__(self, x: Tensor) -> list[Tensor]:
        """What it makes of a tensor. NoAxis where it has no such axis, ValueError where an axis does not divide."""
        found = [x]
        for name, numbers in self.steps:
            found = [y for z in found for y in self._step(name, numbers, z)]
        return found

    def _step(self, name: str, numbers: tuple, x: Tensor) -> Sequence[Tensor]:
        first = numbers[0] or 0
        if not -x.ndim <= first < x.ndim:
            raise NoAxis(f"{self.text}: a tensor of shape {list(x.shape)} has no axis {first}")
        if name == "flatten":
            last = x.ndim if numbers[1] is None else numbers[1]
            return [x.flatten(first, last - 1 if last > 0 else x.ndim + last - 1)]
        if name == "each":
            return x.unbind(first)
        if numbers[1] is None or numbers[1] < 1 or x.shape[first] % numbers[1]:
            size = x.shape[first]
            raise ValueError(f"{self.text}: {size} is not divisible into {numbers[1]} parts")
        return x.chunk(numbers[1], first)


_NUMBER = r"\s*-?\d+\s*"
_STEP = re.compile(
    rf"flatten\((?P<flatten>(?:{_NUMBER})?:(?:{_NUMBER})?)\)"
    rf"|split\((?P<split>{_NUMBER},{_NUMBER})\)|each\((?P<each>{_NUMBER})\)"
)


class Route:
    """Parameters that one system trains: those that meet all that is asked, and that the system takes as it sees them.

    Args:
        system: a shipped name, a path, a Spec, or a class of optimizers.
        names: patterns with ``*``, of the parameter's whole name; one of them must match.
        modules: classes, one of which must own the parameter.
        kinds: of tensors, as in ``applies_to``: ``matrices``, ``stacks``, …
        where: any other condition on the name and the parameter.
        view: what the system sees: ``flatten(1:)`` makes a matrix of a convolution's kernel, ``split(0, heads)`` one of
            each head, ``each(0)`` one of each expert. Every part has memories and a step of its own.
        hypers: for its constructor, such as ``lr``.

    Raises ValueError for an unknown kind or view.
    """

    def __init__(
        self,
        system: System,
        *,
        names: str | Sequence[str] = (),
        modules: type | Sequence[type] = (),
        kinds: str | Sequence[str] = (),
        where: Callable[[str, Tensor], bool] | None = None,
        view: str = "",
        **hypers: Any,
    ):
        self.system, self.where, self.hypers = system, where, hypers
        self.names, self.modules, self.kinds = _several(names), _several(modules), _several(kinds)
        self.view = View.of(view)
        for kind in self.kinds:
            if kind not in KINDS:
                close = nearest(kind, KINDS)
                hint = f"did you mean {close!r}?" if close else f"there are {', '.join(KINDS)}"
                raise ValueError(f"there is no kind of tensors {kind!r}; {hint}")

    def meets(self, name: str, p: Tensor, owners: Sequence[type]) -> bool:
        """Whether a parameter is what is asked for."""
        return (
            (not self.names or any(fnmatchcase(name, x) for x in self.names))
            and (not self.modules or any(issubclass(x, self.modules) for x in owners))
            and (not self.kinds or any(ROUTES[x].takes(_dims(p)) for x in self.kinds))
            and (self.where is None or self.where(name, p))
        )


def _several(x: Any) -> tuple:
    return (x,) if isinstance(x, str | type) else tuple(x)


def _dims(x: Tensor) -> tuple[Dim, ...]:
    return tuple(map(Dim.of, x.shape))


@dataclass(frozen=True)
class Trainer:
    """A system as a class that trains tensors, and which of them it takes by itself."""

    name: str
    made: type
    spec: Spec | None

    @classmethod
    def of(cls, system: Any) -> Trainer:
        """ValueError for a system that trains no tensors."""
        if isinstance(system, type):
            return cls(system.__name__, system, None)
        from nlc.pipeline import Spec, load

        spec = system if isinstance(system, Spec) else load(system)
        if not spec.system.trains:
            raise ValueError(f"{spec.system.name} is a system over tokens, which trains no tensors")
        return cls(spec.system.name, spec.compile(), spec)

    @property
    def watches(self) -> bool:
        """Whether it takes samples of linear layers."""
        return hasattr(self.made, "watch")

    def takes(self, x: Tensor, whole: bool = False, layer: bool = False) -> bool:
        """Whether its own rule is for such a tensor; ``whole``: or any rule that its spec names for a kind.

        ``layer``: it is the weight of a linear layer.
        """
        if self.spec is None:
            return layer or whole or not self.watches
        routes = self.spec.system.routes
        if routes:
            kinds = {k: ROUTES[k].takes(_dims(x)) for k, _ in routes} | {LAYERS: layer}
            rules = [rule for kind, rule in routes if kinds[kind]]
            return bool(rules) and (whole or rules[0] is None)
        if self.watches:
            return layer
        return x.ndim == 2 or not self.spec.program().matrices
