"""nlc, a compiler for nested learning: specs of associative memories in, PyTorch modules and optimizers out.

    Net = nlc.compile("gated_delta_net")    # -> torch.nn.Module subclass
    AdamW = nlc.compile("adamw")            # -> torch.optim.Optimizer subclass
    spec = nlc.load("my.yaml")              # -> Spec: spec.graph, spec.derive(), spec.source_text()

Importing nlc imports no torch; ``compile`` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nlc.base.diagnostics import Diagnostic, SpecError
from nlc.pipeline import Spec, load, loads
from nlc.runtime import loader as _loader  # noqa: F401  instances of generated classes unpickle
from nlc.runtime.routes import Route
from nlc.version import __version__


def compile(
    spec: str | os.PathLike[str] | Spec,
    backend: str = "auto",
    plan: Mapping[str, str] | None = None,
    *,
    operator: bool = False,
    without: Iterable[str] = (),
    fused: bool = False,
) -> Any:
    """The class that a spec describes.

    Args:
        spec: a shipped name, a path to a YAML file, or what ``load`` gave.
        backend: ``reference``, ``torch``, or ``auto`` for the fastest that can do it.
        plan: how levels run, where nlc should not choose: ``{"S": "sequential"}``, ``chunked``, ``anchored``, or with
            the tokens of one triangular solve ``chunked(32)``. It never changes what the spec means.
        operator: the recurrent core alone, its flows as inputs and its reads as outputs, without slow weights:
            ``compile("delta_net", operator=True)`` takes q, k, v [B, T, H, n] and beta [B, T, H].
        without: parts that the file of a token system is to leave out: ``checks`` of hypers, inputs and states,
            ``packed`` sequences, ``pieces``, which are ``checkpoint``, ``truncate`` and ``error_if_nonfinite``.
        fused: what runs between two boundaries of an anchor or a slow level goes through ``torch.compile``, once for
            all tiles: fewer passes, no second derivatives, and a first call that takes a minute or more.

    Returns:
        A ``torch.nn.Module`` subclass (tokens) or a ``torch.optim.Optimizer`` subclass (gradients), whose constructor
        takes the spec's hypers by keyword. ``__source_file__`` is the generated file.

    Raises:
        SpecError: the spec has mistakes, or a plan does not hold; the message shows all of them with their places.
        ValueError: there is no such backend, level or plan, or it does not leave that out, or fuses nothing.
    """
    made = spec if isinstance(spec, Spec) else load(spec)
    if operator and not made.as_operator:
        made = Spec(made.source, as_operator=True)
    return made.compile(backend, plan, without, fused)


def route(
    model: Any, *routes: Any, rest: Any = None, tell: Callable[[str], None] | None = print
) -> Any:
    """One optimizer of a model's parameters, each trained by the first route that takes it.

        optimizer = nlc.route(model, nlc.Route("adamw", modules=nn.Embedding), "muon", rest="adamw")

    Args:
        model: its ``named_parameters`` are routed; those that need no gradient are left out.
        routes: each a ``Route``, or what a Route's ``system`` is.
        rest: the same, for all that no route takes.
        tell: is given the table of what went where; None for silence.

    Returns:
        A ``torch.optim.Optimizer`` with a group for each route, which has that system's hypers.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: no route takes a parameter; a pattern, a class or a route finds none; a system lacks a hyper.
        SpecError: a spec has mistakes.
    """
    from nlc.runtime.routed import routed

    return routed(model, *routes, rest=rest, tell=tell)


__all__ = [
    "Diagnostic",
    "Route",
    "Spec",
    "SpecError",
    "__version__",
    "compile",
    "load",
    "loads",
    "route",
]


def __dir__() -> list[str]:
    """What is for users: notebooks complete these."""
    return sorted(__all__)
