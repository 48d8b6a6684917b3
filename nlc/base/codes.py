"""Every code that a diagnostic may carry: the first digit is the stage, a code is never used for another fact.

0 text · 1 keys · 2 names and arguments · 3 shapes and heads · 4 time · 5 derivation · 6 plans · 7 backends
8 soundness of a step · 9 ours
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """``title`` names the mistake; ``text`` says in a sentence or two why it is one and what to do."""

    title: str
    text: str
    severity: str = "error"
    asked: bool = False  # of a request beside the spec, so that several may fail at one place


CODES: dict[str, Code] = {
    # 0 the text
    "NLC001": Code(
        "tab in the indentation", "YAML indents with spaces; a tab has no defined width."
    ),
    "NLC002": Code(
        "duplicate key",
        "A mapping says each key once; YAML itself would keep only the last silently.",
    ),
    "NLC003": Code(
        "not YAML", "The text breaks a rule of YAML, most often because an expression needs quotes."
    ),
    "NLC004": Code(
        "YAML feature that nlc does not use",
        "Tags, anchors, aliases and merge keys are refused: a spec says what it means in place.",
    ),
    "NLC005": Code(
        "expression needs quotes",
        "YAML read part of this expression as its own punctuation; quotes keep it whole.",
    ),
    "NLC006": Code("unreadable text", "A spec is UTF-8 text without control characters."),
    "NLC007": Code(
        "too large", "Sizes, depths and numbers are bounded so that no input can hang the compiler."
    ),
    "NLC008": Code(
        "comment that silences nothing",
        "`# nlc: allow NLC210` behind a line, above it, or above the first key for the whole file takes"
        " back a warning that is given there; errors cannot be allowed.",
        "warning",
    ),
    "NLC010": Code(
        "expression cut short", "The expression ends where an operand or a bracket is still due."
    ),
    "NLC011": Code(
        "unexpected symbol in an expression",
        "The expression has a symbol where none of its kind can stand.",
    ),
    "NLC012": Code(
        "missing operator", "Two operands stand side by side; there is no implicit product."
    ),
    "NLC013": Code(
        "not an operator", "A symbol that other languages use; nlc writes it differently."
    ),
    "NLC014": Code(
        "unreadable clock",
        "A clock is `every token`, `every n tokens`, `n per token`, `every step`, `every n steps`,"
        " `infinite` or `never`.",
    ),
    "NLC015": Code(
        "not in canonical form",
        "`nlc fmt` writes this text in another way that says the same; `nlc fmt --check` found it.",
        "warning",
    ),
    # 1 the keys
    "NLC101": Code("unknown key", "This mapping has no such key."),
    "NLC102": Code("missing key", "A key that this mapping must have is not there."),
    "NLC103": Code(
        "wrong kind of value", "The key takes a value of another form (text, list or mapping)."
    ),
    "NLC104": Code("unknown choice", "The key takes one of a few words."),
    "NLC105": Code(
        "keys that exclude each other",
        "Both keys say the same thing differently, or one makes the other meaningless.",
    ),
    "NLC106": Code(
        "not a name",
        "A name is a letter followed by letters, digits and `_`, at most 64 characters, and none of"
        " the words of the language such as `g`, `t` or `loss`.",
    ),
}
CODES.update(
    {
        # 2 names and arguments
        "NLC201": Code("name not defined", "Nothing of this name is visible here."),
        "NLC202": Code(
            "unknown function", "The language has no function, level or rule of this name."
        ),
        "NLC203": Code(
            "name defined twice",
            "Hypers, inputs, weights, lets and levels share one space of names.",
        ),
        "NLC204": Code(
            "wrong argument", "The call has an argument that is not known, missing or one too many."
        ),
        "NLC205": Code(
            "family without members",
            "A `for` names lists of equal length, and an index is a label or an integer among them.",
        ),
        "NLC206": Code(
            "not a constant",
            "Sizes, periods and switches are fixed at construction: numbers and hypers only.",
        ),
        "NLC207": Code(
            "spec not found",
            "No spec of this name stands beside this one, in NLC_PATH or among the shipped ones.",
        ),
        "NLC208": Code(
            "not a value", "This name stands for something that has no value of its own."
        ),
        "NLC209": Code(
            "defined by itself",
            "A hyper's default reads other hypers, and a level starts where another does: never in a circle.",
        ),
        "NLC210": Code("never used", "Nothing reads this, so it has no effect.", "warning"),
        "NLC211": Code(
            "bare name where a constant may be meant",
            "Inside its own objective a level's bare name is what the gradient is taken by;"
            " a factor that should not be differentiated is `prev(W)`.",
            "warning",
        ),
        "NLC212": Code(
            "system within itself",
            "A system that is a rule, or used, of itself would never end.",
        ),
        "NLC213": Code(
            "tensor without a rule",
            "`applies_to` says which tensors a rule takes, and this is none of them.",
        ),
        "NLC214": Code(
            "expression without a value",
            "Whatever the inputs are, it divides by zero, takes a root or a logarithm of what is never"
            " positive, or is too large a number at the default hypers.",
        ),
        "NLC215": Code(
            "route that takes nothing",
            "The first route that takes a tensor trains it, and the routes before leave this one none.",
        ),
        "NLC216": Code(
            "no condition on a tensor",
            "`where` compares `ndim(W)`, `numel(W)` and, where only matrices are asked for, `nrows(W)` and"
            " `ncols(W)` with numbers and hypers.",
        ),
        # 3 shapes and heads
        "NLC301": Code(
            "shapes do not match", "The operands' sizes differ where they must be equal."
        ),
        "NLC302": Code(
            "objective is not a number", "A level's objective is one number a tick; reduce it."
        ),
        "NLC303": Code(
            "width cannot be inferred",
            "`linear(x)` takes its width from its use, and this use fixes none.",
        ),
        "NLC304": Code(
            "heads",
            "In a system with `heads`, `split` gives a value a head axis and `merge` takes it away: the memories of the"
            " heads are asked between the two. What has none cannot be merged, what has one cannot be split again, an"
            " output has none unless an input has, and a clock ticks for all heads at once.",
        ),
        "NLC305": Code(
            "not a whole size", "A size must be a whole number of at least 1 at the default hypers."
        ),
        "NLC306": Code(
            "gate of the wrong shape",
            "A bare gate is a scalar; a vector is written `per_key(…)` or `per_value(…)`.",
        ),
        "NLC307": Code(
            "not an index",
            "An embedding reads an input of whole numbers, one a token; nothing else reads that input.",
        ),
        "NLC308": Code(
            "factor where a width may be meant",
            "`expand` says how many times as wide as its input a memory is inside; where it has the size of the"
            " input in it, the width grows with the square of that.",
            "warning",
        ),
        # 4 time
        "NLC401": Code(
            "reading oneself",
            "A level's own key and value are settled before its step, so they read `prev(M)` or `anchor(M)`.",
        ),
        "NLC402": Code(
            "periods do not fit",
            "A level that sums over, resets or is reset with another has a multiple of its period.",
        ),
        "NLC403": Code(
            "same-tick cycle",
            "Each needs the other's new value in the same tick; one of them must read the previous one.",
        ),
        "NLC404": Code("clock out of place", "This clock has no meaning in this context."),
        "NLC405": Code(
            "faster than its reader",
            "A slow level sees many values of something faster in a period, so it says which:"
            " `last(e)`, `mean(e)` or `sum(e)`.",
        ),
        # 5 derivation
        "NLC501": Code(
            "not differentiable", "The objective passes through something without a gradient."
        ),
        "NLC502": Code(
            "level can never learn", "The objective does not depend on the level's own state."
        ),
        "NLC503": Code(
            "no key to erase",
            "`dgd` needs each weight once in the read, as `W @ z`, so that z is its key.",
        ),
        "NLC504": Code(
            "no closed form", "`prox` needs an objective quadratic in the state, with one key."
        ),
        # 6 plans
        "NLC601": Code(
            "plan that does not hold",
            "A level runs without a loop over tokens if its step is linear in its state (`chunked`), or"
            " between boundaries at which alone it changes (`anchored`). Everything can be `sequential`.",
            asked=True,
        ),
        # 7 backends and what is not built yet
        "NLC701": Code(
            "not in this version", "The language has it, this version of the compiler does not."
        ),
        "NLC702": Code(
            "backend without a form of this",
            "`reference` and `torch` print every system. `triton` prints the scans of token systems as"
            " kernels, and the rules of optimizers that treat all elements alike. An optimizer has no kernel"
            " if each of its rules takes a norm or a product of matrices, or gathers gradients over a period.",
        ),
        # 8 soundness: what the ranges of keys and gates allow a derived step to do
        "NLC801": Code(
            "step that can erase too much",
            "Along its key x the step multiplies the memory by a - b‖x‖², what it keeps less what it"
            " erases; below -1 the memory grows. The memory stays bounded if b‖x‖² <= 1 + a. A rule that is"
            " a system may answer a long step at the next tick, so under one only a step without a bound is"
            " warned of.",
            "warning",
        ),
        "NLC802": Code(
            "retention outside [0, 1]",
            "`retain` and `decay` say how much of the memory stays; a factor above 1 makes it grow"
            " with every tick, one below 0 turns its sign. A step that adds what it reads makes it grow at the key.",
            "warning",
        ),
        "NLC803": Code(
            "unbounded key",
            "A step that erases b (M x) xᵀ is stable only for keys of bounded length; `l2norm`"
            " gives them length 1.",
            "warning",
        ),
        "NLC804": Code(
            "steps of a chunk that add up to more than 1",
            "Between two boundaries every step follows the gradient at the first of them, so"
            " together they are one step of the sum of their sizes.",
            "warning",
        ),
        "NLC805": Code(
            "decay to where nothing is learned",
            "Weights that multiply each other have no gradient where they are 0; a memory that"
            " decays to 0 stays there. `toward: init` decays to where it started.",
            "warning",
        ),
        "NLC806": Code(
            "memory that never leaves 0",
            "Weights that multiply each other have no gradient where they are 0; they need another"
            " start, such as `init: learned`. A rule that is a system is no way out"
            " where what it remembers stays 0 too.",
            "warning",
        ),
        "NLC807": Code(
            "division by a memory that is 0 still",
            "Up to its first tick a memory is what it starts as. What is divided by one that starts at 0 becomes"
            " as large as the divisor is small there, 1e8 times as large over an eps of 1e-8: the first step throws"
            " away what is trained. `phase: start` lets a slow level tick at the first of its ticks.",
            "warning",
        ),
        # 9 ours
        "NLC901": Code("internal error", "A bug of nlc, not a mistake of yours."),
    }
)
