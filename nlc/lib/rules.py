"""The step formulas of language §3, by name: their arguments and what they say.

M is the new state, B the base from which the step starts (``retain`` and ``toward`` make it), T the target that it
decays towards, P the point of the gradient. ``passes/formulas`` has the formula of each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nlc.ir.types import Dim, Dims


@dataclass(frozen=True)
class RuleKind:
    """``params`` as in ``Function``; ``formula`` and ``latex`` with {T}, {B}, {P} for what they are called.

    ``keyed``: it asks for what a weight was multiplied with, which a gradient alone does not say.
    ``exact`` and ``exact_latex``: with ``exact=true``, {K} for the key's part of what is minimised.

    ``example`` is the ``rule:`` of a matrix with the objective ``0.5 * sqnorm(M(k) - v)``.
    """

    name: str
    params: dict[str, object]
    example: str
    doc: str
    formula: str
    latex: str
    exact: str = ""
    exact_latex: str = ""
    keyed: bool = False


_TABLE = [
    RuleKind(
        "gd",
        {"lr": "1", "decay": None},
        "gd(lr=b, decay=a)",
        "M = T + decay ∘ (B − T) − lr ∘ ∇ℓ(P): one step of gradient descent from the base B",
        "{T}decay ∘ {B} − lr ∘ ∇ℓ({P})",
        r"{T}\mathrm{decay} \circ {B} - \mathrm{lr} \circ \nabla\ell({P})",
    ),
    RuleKind(
        "dgd",
        {"lr": "1", "decay": None, "exact": "false"},
        "dgd(lr=b / 2, decay=a)",
        "as gd, and erases what each weight holds at its own input x: − lr (B x) xᵀ (eqs. 56, 88, 113)",
        "{T}decay ∘ {B} − lr ∘ ∇ℓ({P}) − lr {B} x xᵀ, x the input of the weight",
        r"{T}\mathrm{decay} \circ {B} - \mathrm{lr} \circ \nabla\ell({P}) - \mathrm{lr}\,{B}\, x x^\top",
        "{T}{D} + Φ − {B}, Φ = argmin_Φ ⟨∇ℓ({P}), Φ⟩ + ½{K} + ½‖Φ − {B}‖² / lr, x the input of the weight",
        r"{T}{D} + \Phi - {B},\ \Phi = \arg\min_\Phi \langle \nabla\ell({P}), \Phi \rangle"
        r" + \tfrac{1}{2} {K} + \tfrac{1}{2} \lVert \Phi - {B} \rVert^2 / \mathrm{lr}",
        keyed=True,
    ),
    RuleKind(
        "prox",
        {"lr": "1", "decay": None},
        "prox(lr=b)",
        "M = argmin_Φ ℓ(Φ) + ½‖(Φ − decay ∘ B) / √lr‖², in closed form for a quadratic objective",
        "argmin_Φ ℓ(Φ) + ½‖(Φ − decay ∘ {B}) / √lr‖²",
        r"\arg\min_\Phi \ell(\Phi)"
        r" + \tfrac{1}{2} \lVert (\Phi - \mathrm{decay} \circ {B}) / \sqrt{\mathrm{lr}} \rVert^2",
    ),
]

# A step formula as a system of its own, where one must stand: on the outer loss, for a kind of tensor.
SYSTEM = """\
nlc: 1
system: {name}
context: gradients
doc: One step by the rule {name}.
hyper:
  lr: 1
  decay: 1
levels:
  W:
    frequency: every step
    objective: dot(W, g)
    rule: {name}(lr=lr, decay=decay)
"""


@dataclass(frozen=True)
class Kind:
    """A kind of tensor that ``applies_to`` names: ``test`` in Python over the tensor, ``takes`` over sizes."""

    name: str
    doc: str
    test: str
    takes: Callable[[Dims], bool]
    context: str = ""  # "layers" where it is a kind in layer systems alone


def _sides(dims: Dims) -> tuple[Dim, Dim] | None:
    return (dims[0], dims[1]) if len(dims) == 2 else None  # type: ignore[return-value]


LAYERS = "layers"
_KINDS = [
    Kind(LAYERS, "weights of linear layers, in a layer system", "layer",
         lambda d: len(d) == 2, "layers"),
    Kind("scalars", "tensors without axes", "{W}.ndim == 0", lambda d: len(d) == 0),
    Kind("vectors", "tensors of one axis", "{W}.ndim == 1", lambda d: len(d) == 1),
    Kind("square", "matrices with as many rows as columns",
          "{W}.ndim == 2 and {W}.shape[0] == {W}.shape[1]",
          lambda d: (s := _sides(d)) is not None and s[0] == s[1]),
    Kind("matrices", "tensors of two axes", "{W}.ndim == 2", lambda d: len(d) == 2),
    Kind("stacks", "tensors of three axes or more", "{W}.ndim > 2", lambda d: len(d) > 2),
    Kind("rest", "all others", "", lambda d: True),
]  # fmt: skip

KINDS: dict[str, Kind] = {k.name: k for k in _KINDS}
_SHAPES = ((), (5,), (3, 3), (3, 4), (2, 3, 2))
# Of all that kinds differ by one tensor each: its sizes, and whether it is the weight of a linear layer.
_TENSORS: tuple[tuple[Dims, bool], ...] = tuple(
    (tuple(map(Dim.of, shape)), layer)
    for shape in _SHAPES
    for layer in (False, True)
    if len(shape) == 2 or not layer
)

# The sizes of a tensor that a condition may read, in Python over the tensor; those of a matrix only where it is one.
SIZES: dict[str, str] = {
    "ndim": "{W}.ndim",
    "numel": "{W}.numel()",
    "nrows": "{W}.shape[0]",
    "ncols": "{W}.shape[1]",
}
OF_MATRICES = ("nrows", "ncols")


def shapes_of(kinds: Iterable[str]) -> frozenset[int]:
    """Of every kind of tensor that these differ by, those that they take; without a kind all of them."""
    asked = tuple(kinds)
    return frozenset(i for i, (dims, layer) in enumerate(_TENSORS) if of_kind(asked, dims, layer))


def of_kind(kinds: Collection[str], dims: Dims, layer: bool = False) -> bool:
    """Whether a tensor is of one of these kinds, if there are any; ``layer``: it is the weight of a linear layer."""
    found = (KINDS[kind] for kind in kinds)
    return not kinds or any(k.takes(dims) and (layer or not k.context) for k in found)


def matches(pattern: str | re.Pattern, name: str) -> bool:
    """Whether it is a pattern of the whole name."""
    if isinstance(pattern, str):
        return fnmatchcase(name, pattern)
    return pattern.fullmatch(name) is not None


def is_asked(
    name: str,
    dims: Dims,
    names: Collection[str | re.Pattern],
    kinds: Collection[str],
    layer: bool = False,
) -> bool:
    """Whether a route takes a tensor by its name and kind, of each of which one that it asks for is enough."""
    return (not names or any(matches(x, name) for x in names)) and of_kind(kinds, dims, layer)


RULES: dict[str, RuleKind] = {r.name: r for r in _TABLE}
