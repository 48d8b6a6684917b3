"""The step formulas of language §3, by name: their arguments and what they say.

M is the new state, B the base from which the step starts (``retain`` and ``toward`` make it), T the target that it
decays towards, P the point of the gradient. ``passes/derive`` has the derivation of each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RuleKind:
    """``params`` as in ``Function``; ``formula`` and ``latex`` with {T}, {B}, {P} for what they are called."""

    name: str
    params: dict[str, object]
    doc: str
    formula: str
    latex: str


_TABLE = [
    RuleKind(
        "gd",
        {"lr": "1", "decay": None},
        "M = T + decay ∘ (B − T) − lr ∘ ∇ℓ(P): one step of gradient descent from the base B",
        "{T}decay ∘ {B} − lr ∘ ∇ℓ({P})",
        r"{T}\mathrm{decay} \circ {B} - \mathrm{lr} \circ \nabla\ell({P})",
    ),
    RuleKind(
        "dgd",
        {"lr": "1", "decay": None, "exact": "false"},
        "as gd, and erases what each weight holds at its own input x: − lr (B x) xᵀ (eqs. 56, 88, 113)",
        "{T}decay ∘ {B} − lr ∘ ∇ℓ({P}) − lr {B} x xᵀ, x the input of the weight",
        r"{T}\mathrm{decay} \circ {B} - \mathrm{lr} \circ \nabla\ell({P}) - \mathrm{lr}\,{B}\, x x^\top",
    ),
    RuleKind(
        "prox",
        {"lr": "1", "decay": None},
        "M = argmin_Φ ℓ(Φ) + ½‖(Φ − decay ∘ B) / √lr‖², in closed form for a quadratic objective",
        "argmin_Φ ℓ(Φ) + ½‖(Φ − decay ∘ {B}) / √lr‖²",
        r"\arg\min_\Phi \ell(\Phi) + \tfrac12 \lVert (\Phi - \mathrm{decay} \circ {B}) / \sqrt{\mathrm{lr}} \rVert^2",
    ),
]

RULES: dict[str, RuleKind] = {r.name: r for r in _TABLE}
