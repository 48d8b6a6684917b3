"""The classes of recurrences and the plans by which levels run, as users know them: what each word says.

``nlc explain SPEC`` prints one of each for a level. What decides is ``nlc/ir/scan.py`` and ``nlc/passes/plan``.
"""

from __future__ import annotations

# How the step of a level depends on its own state; then, of a gradient system, what a step takes at once.
CLASSES = {
    "additive": "linear: what a token adds does not depend on the state, and nothing is forgotten",
    "gated": "additive, and the state is multiplied by a number, or by one for each key channel, that does not"
    " depend on it",
    "rank-1 affine": "linear, and what is read at one key is erased and written at one key, M(aI − b k kᵀ) + b v kᵀ:"
    " delta rules",
    "coupled": "several states that are linear in one another and share a key, such as a memory and its momentum",
    "affine": "linear in the state, but no decay, read and write at one key: several keys a token, or a rate for each"
    " entry",
    "elementwise": "every number of the state takes its step without the others",
    "nonlinear": "the state passes through a function that is not linear before it is stepped",
    "constant": "the state stands still from token to token; it changes at boundaries, or between calls",
    "non-parametric": "no state of fixed size: all keys and values are kept, as in attention",
    "matrix": "of an optimizer: a step needs whole matrices, for products, roots or sums of rows",
    "whole tensor": "of an optimizer: a step needs a sum over the whole tensor, such as its norm",
}

# How a level runs over the tokens of a call; what is computed is the same in all of them.
PLANS = {
    "sequential": "one token after another, in a loop",
    "chunked": "all tokens of a chunk at once, and one chunk after another; chunked(64) has 64 tokens a chunk",
    "anchored": "all tokens between two boundaries at once, as the gradient is taken at a state that is held there",
    "parallel": "all tokens of the call at once: nothing is carried from token to token but what is kept of them",
    "held": "no step in a call: the state is that of a slow weight",
}
