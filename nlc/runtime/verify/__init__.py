"""Shows that what was compiled is what the spec says, on random inputs, by means that share little with the compiler.

The measure is ``runtime/interpreter``: the spec itself, tick by tick. Sizes are small and everything is float64, so
that a difference is a mistake and not rounding; memories are then watched over many tokens in float32, as users run
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from nlc.runtime.verify.alive import alive
from nlc.runtime.verify.feeds import Trained
from nlc.runtime.verify.gradients import optimizer_checks
from nlc.runtime.verify.peers import Pair, peer_class
from nlc.runtime.verify.report import Check, Comparison, Verification
from nlc.runtime.verify.tokens import module_checks
from nlc.runtime.verify.trajectories import trajectories
from nlc.tools.sizes import BadHyper, BadPeer, Values, small

if TYPE_CHECKING:
    from nlc.pipeline import Spec

WIDTH = 8  # sizes are halved to this: enough for a wrong axis to show


def verify(
    spec: Spec,
    backends: Iterable[str],
    *,
    seed: int = 0,
    tokens: int = 2000,
    hypers: Mapping[str, Any] | None = None,
    against: type | str | None = None,
    peer: Mapping[str, Any] | None = None,
) -> Verification:
    """All checks of a spec; ``hypers`` are kept as given, the others are made small.

    ``against``: a class of optimizers, or its path, that a gradient system is compared with at its own hypers, and
    ``peer`` the arguments of that class that are no hypers of the spec by their names.

    Raises SpecError for a spec with mistakes, BadHyper for a hyper that it has not or a value that it cannot have.
    """
    with _alone():
        given = dict(hypers or {})
        found = _verify(spec, list(backends), seed, tokens, given)
        if against is None:
            return found
        return replace(found, peer=_against(spec, against, given, dict(peer or {})))


def _against(
    spec: Spec, against: type | str, hypers: dict[str, Any], peer: dict[str, Any]
) -> Comparison:
    if not spec.system.trains:
        raise BadPeer(f"`{spec.system.name}` is a system over tokens, which no optimizer is like")
    cls = peer_class(against) if isinstance(against, str) else against
    return Pair.of(spec.compile(), cls, hypers, peer).comparison()


@contextmanager
def _alone() -> Iterator[None]:
    """In one thread: several would wait for each other longer than they work on tensors this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _verify(
    spec: Spec, backends: list[str], seed: int, tokens: int, fixed: dict[str, Any]
) -> Verification:
    chosen = _sound(spec, small(spec.system, fixed, WIDTH))
    if not spec.system.trains:
        checks = module_checks(spec, backends, chosen, seed)
        checks += alive(spec, fixed, seed, tokens)
        return Verification(spec.system.name, seed, chosen, tuple(checks))
    checks = optimizer_checks(spec, backends, chosen, seed)
    paths, same = trajectories(spec, backends, fixed)
    return Verification(spec.system.name, seed, chosen, (*checks, *same), tuple(paths))


def _sound(spec: Spec, chosen: Values) -> Values:
    """Hypers that the generated constructor takes."""
    made = spec.compile()
    try:
        if spec.system.trains:
            W = torch.zeros([2, 2])
            # a group that names its route needs no name of a parameter
            routes = spec.system.routes
            group = {"rule": routes[0].name} if routes else {}
            Trained(made, W, spec.system.context == "layers", chosen, group)
        else:
            made(**chosen)
    except ValueError as error:
        raise BadHyper(str(error)) from None
    return chosen


__all__ = ["Check", "Verification", "verify"]
