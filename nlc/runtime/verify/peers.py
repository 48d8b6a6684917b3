"""What a generated optimizer does otherwise than a class that the user names, such as ``torch.optim.AdamW``.

Both get the same parameters and gradients. Hypers of one name are given to both; ``betas`` of the peer are ``beta1``,
``beta2``, … of the spec. Nothing here is a verdict: a difference is a fact about two optimizers.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nlc.base.diagnostics import nearest
from nlc.runtime.verify.feeds import Trained, samples
from nlc.runtime.verify.report import Comparison
from nlc.tools.sizes import BadPeer

STEPS = 40
SAME = 1e-11  # of what the weights have moved, in float64


@dataclass(frozen=True)
class Scenario:
    """What differs from plain training: a shape, gradients, hypers of both."""

    name: str
    shape: tuple[int, ...] = (4, 3)
    gradient: Callable[[Tensor, int], Tensor | None] = lambda g, tick: g
    hypers: tuple[tuple[str, Any], ...] = ()
    dtype: torch.dtype = torch.float64


SCENARIOS = (
    Scenario("a matrix"),
    Scenario("a vector", shape=(5,)),
    Scenario("a scalar", shape=()),
    Scenario("a stack of matrices", shape=(2, 3, 2)),
    Scenario("every third gradient missing", gradient=lambda g, t: None if t % 3 == 2 else g),
    Scenario("gradients of 0 after ten steps", gradient=lambda g, t: g if t < 10 else 0 * g),
    Scenario("gradients times 1e-6", gradient=lambda g, t: 1e-6 * g),
    Scenario("gradients times 1e6", gradient=lambda g, t: 1e6 * g),
    Scenario("maximize=True", hypers=(("maximize", True),)),
    Scenario("parameters in float32", dtype=torch.float32),
    Scenario("parameters in bfloat16", dtype=torch.bfloat16),
)


def peer_class(path: str) -> type:
    """The class of that path. BadPeer where there is none."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None) if module else None
    except ImportError as error:
        raise BadPeer(f"`{path}`: {error}") from None
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        names = vars(importlib.import_module(module)) if module else {}
        close = nearest(name, [n for n, x in names.items() if isinstance(x, type)])
        hint = f"; did you mean `{module}.{close}`?" if close else ""
        raise BadPeer(f"`{path}` is no class of optimizers{hint}")
    return found


@dataclass(frozen=True)
class Pair:
    """Ours and the peer, and which hypers of ours each argument of the peer is made of."""

    ours: type
    peer: type
    mine: dict[str, Any]
    theirs: dict[str, Any]
    shared: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, ours: type, peer: type, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Pair:
        """BadPeer for an argument that the peer has not."""
        params = inspect.signature(peer.__init__).parameters
        for name in theirs:
            if name not in params:
                close = nearest(name, params)
                hint = f"; did you mean `{close}`?" if close else ""
                raise BadPeer(f"{peer.__name__} takes no `{name}`{hint}")
        own = inspect.signature(ours.__init__).parameters
        hypers = [n for n in own if n in ours.HYPERS]
        shared = {}
        for name in params:
            several = [n for n in hypers if re.fullmatch(rf"{re.escape(name[:-1])}\d+", n)]
            if name in hypers:
                shared[name] = (name,)
            elif name.endswith("s") and several:
                shared[name] = tuple(several)
        shared = {name: x for name, x in shared.items() if name not in theirs}
        return cls(
            ours, peer, {n: own[n].default for n in hypers} | dict(mine), dict(theirs), shared
        )

    @property
    def layers(self) -> bool:
        """Whether ours takes samples of a linear layer: then both train its weight."""
        return hasattr(self.ours, "watch")

    def both(self, more: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments of either."""
        mine = {n: x for n, x in {**self.mine, **more}.items() if x is not None}
        theirs = dict(self.theirs)
        for name, parts in self.shared.items():
            values = tuple(mine[n] for n in parts)
            theirs[name] = values if parts != (name,) else values[0]
        theirs |= {n: x for n, x in more.items() if n not in self.ours.HYPERS}
        return mine, theirs

    def comparison(self) -> Comparison:
        """A row for each scenario, then for each hyper that both have."""
        mine, theirs = self.both({})
        known = {y for x in self.shared.values() for y in x}
        params = inspect.signature(self.peer.__init__).parameters
        own = {n: x.default for n, x in params.items() if n not in theirs}
        own = {n: x for n, x in own.items() if x not in (None, False, inspect.Parameter.empty)}
        rows = {x.name: self.compare(x) for x in (*SCENARIOS, *self._hypers())}
        path = f"{self.peer.__module__}.{self.peer.__name__}"
        path = re.sub(r"(?<=\.)(_?[a-z]\w*)\.(?=\w+$)", self._public, path)
        return Comparison(path, theirs, tuple(n for n in mine if n not in known), own, rows)

    def _public(self, found: re.Match) -> str:
        """Without the module where the one above it has the class too."""
        outer = importlib.import_module(found.string[: found.start() - 1])
        return "" if getattr(outer, self.peer.__name__, None) is self.peer else found[0]

    def _hypers(self) -> Iterator[Scenario]:
        mine, _ = self.both({})
        for name in (n for parts in self.shared.values() for n in parts):
            value = mine[name]
            if isinstance(value, bool):
                other: Any = not value
            elif isinstance(value, int) and self.ours.HYPERS[name] is int:
                other = value + 1
            elif isinstance(value, (int, float)):
                other = 0.1 if value == 0 else value / 2
            else:
                continue
            yield replace(SCENARIOS[0], name=f"{name}={other}", hypers=((name, other),))

    def compare(self, x: Scenario) -> str:
        """``same``, or from which step on and by how much of what the weights have moved."""
        mine, theirs = self.both(dict(x.hypers))
        try:
            b = _run(self.peer, theirs, x, self.layers)
        except Exception as error:  # whatever a peer does not take is a difference
            return f"the peer refuses: {_line(error)}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of routes that take no tensor: there is but one
                a = _run(self.ours, mine, x, self.layers, name="W")
        except Exception as error:
            return f"ours refuses: {_line(error)}"
        rounded = x.dtype == torch.float32  # of half precision every difference counts
        tolerance = 8 * torch.finfo(x.dtype).eps if rounded else SAME
        noise = torch.Generator().manual_seed(0)
        W = torch.randn(x.shape, generator=noise, dtype=torch.float64).to(x.dtype).double()
        off, moved = (y.reshape(STEPS, -1).norm(dim=1) for y in (a - b, b - W))
        size = moved + W.norm() if rounded else moved
        share = off / size.clamp(min=torch.finfo(torch.float64).tiny)
        if not share.isfinite().all():
            return "not finite"
        if share.max() <= tolerance:
            return "same but for rounding" if rounded else "same"
        first = int((share > tolerance).nonzero()[0]) + 1
        return f"from step {first}, by up to {(off.max() / moved.max()).item():.0e} of the way"


def _run(made: type, hypers: dict[str, Any], x: Scenario, layer: bool, name: str = "") -> Tensor:
    """The weights after every step; ``layer``: of a linear layer, where they are a matrix."""
    noise = torch.Generator().manual_seed(0)
    W = torch.randn(x.shape, generator=noise, dtype=torch.float64).to(x.dtype)
    trained, out = Trained(made, W, layer and len(x.shape) == 2, hypers, name=name), []
    for tick in range(STEPS):
        noise = torch.Generator().manual_seed(1 + tick)
        if trained.layer is None:
            given = {"g": torch.randn(x.shape, generator=noise, dtype=torch.float64)}
        else:
            (given,) = samples(x.shape, 1, noise)
        came = {n: x.gradient(z, tick) if n != "x" else z for n, z in given.items()}
        if came["g"] is None:
            trained.parameter.grad = None
            trained.optimizer.step()
        else:
            trained.step({n: z.to(x.dtype) for n, z in came.items()})
        out.append(trained.parameter.detach().double().clone())  # the parameter goes on
    return torch.stack(out)


def _line(error: Exception) -> str:
    return textwrap.shorten(str(error), 64, placeholder=" …") or type(error).__name__
