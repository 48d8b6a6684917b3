"""Shows that what was compiled is what the spec says, on random inputs, by means that share little with the compiler.

The measure is ``runtime/interpreter``: the spec itself, tick by tick. Sizes are small and everything is float64, so
that a difference is a mistake and not rounding; memories are then watched over many tokens in float32, as users run them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nlc.runtime.verify.alive import alive
from nlc.runtime.verify.gradients import optimizer_checks
from nlc.runtime.verify.report import Check, Verification
from nlc.runtime.verify.tokens import module_checks
from nlc.tools.sizes import small

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
) -> Verification:
    """All checks of a spec; ``hypers`` are kept as given, the others are made small.

    Raises SpecError for a spec with mistakes, UnknownHyper for a hyper that it has not, ValueError for hypers that the
    generated constructor refuses.
    """
    fixed, backends = dict(hypers or {}), list(backends)
    chosen = small(spec.system, fixed, WIDTH)
    if spec.system.context == "tokens":
        checks = module_checks(spec, backends, chosen, seed)
        checks += alive(spec, fixed, seed, tokens)
    else:
        checks = optimizer_checks(spec, backends, chosen, seed)
    return Verification(spec.system.name, seed, chosen, tuple(checks))


__all__ = ["Check", "Verification", "verify"]
