"""docs/zoo.md: what `nlc explain` and `nlc derive` know of every shipped system, and what it is held against."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from math import prod

from shipped_specs import load

from nlc.pipeline import Spec, shipped
from nlc.tools.costs import FLOAT
from nlc.tools.derivation import update_lines
from nlc.tools.explain.facts import Explanation
from nlc.tools.explain.text import count

WRITTEN = "the paper's recurrence, written out"
FLA = f"{WRITTEN}, and fla's"
# By name: what a system is compared with, where, and the limit of that test.
ELSEWHERE = {
    "attention": ("torch's scaled_dot_product_attention", "test_modules", "1e-12"),
    "cms_independent": (WRITTEN, "test_cms", "1e-10"),
    "cms_nested": (WRITTEN, "test_cms", "1e-10"),
    "cms_sequential": (WRITTEN, "test_cms", "1e-10"),
    "delta_net": (FLA, "test_operators", "1e-10"),
    "delta_gradient_descent": ("eq. 56 as least squares", "test_layer_systems", "1e-10"),
    "gated_delta_net": ("the paper's layer, written out, and fla's", "test_modules", "1e-12"),
    "gla": (FLA, "test_gated", "1e-10"),
    "hope": (WRITTEN, "test_hope", "1e-10"),
    "hope_attention": ("attention and the chain by themselves", "test_hope", "1e-12"),
    "hope_literal": (WRITTEN, "test_hope", "1e-10"),
    "hope_slow": (WRITTEN, "test_hope", "1e-10"),
    "kfac": (WRITTEN, "test_layer_systems", "1e-10"),
    "linear_attention": (FLA, "test_operators", "1e-10"),
    "mamba2": (FLA, "test_gated", "1e-10"),
    "retnet": (FLA, "test_gated", "1e-10"),
    "titans": (WRITTEN, "test_titans", "1e-10"),
    "ttt_linear": (WRITTEN, "test_titans", "1e-10"),
    "ttt_mlp": (WRITTEN, "test_titans", "1e-10"),
}
START = """\
# The zoo: published systems as specs

Each system below is one file in a folder of `specs/` and nothing else: the compiler knows none of their names.
`nlc explain` says how it runs and what that costs, `nlc derive` how its step follows from its objective. All are held
against an interpreter of the language by `nlc verify`, and against what the papers write in plain PyTorch and float64;
where a library has the system, against the library too. An error is the largest of all comparisons.

`pytest tests/test_zoo.py --update-golden` writes this page.

"""
TOKENS = """\
## Systems over tokens

Compared are outputs, states, and the gradients by the input and by every slow weight, each difference relative to the
largest element of its tensor. fla is the naive code of flash-linear-attention, which computes in float32; errors are
those of the recurrences. Its naive TTT and Titans are other systems: the first adds W q to what it reads where the
paper adds q, the second takes another gradient than autograd's.

| system | class | plan | flops a token | held against | error |
|---|---|---|---|---|---|
"""
GRADIENTS = """
## Systems over gradients and layers

A step in float32, for each weight of a matrix of 1,024 rows and columns: its flops, the bytes moved, and the bytes kept
from step to step beside the weight. Elementwise steps take every number by itself, the others need products of matrices
or a norm of the tensor; flows are what several levels need. A layer has 1,024 samples. Compared are the weights after
25 steps, the difference relative to their norm.

| system | steps | at a slower clock | flops | bytes moved | bytes kept | held against | error |
|---|---|---|---|---|---|---|---|
"""
ALONE = "the interpreter alone"


@cache
def systems() -> dict[str, tuple[Spec, Explanation]]:
    """Every shipped spec with its explanation."""
    return {n: (spec := load(n), spec.explain()) for n in sorted(shipped())}


def measured(page: str) -> dict[str, str]:
    """The errors that a page shows, by system."""
    return dict(re.findall(r"^\| \[(\w+)\].*\| (\S+) \|$", page, re.M))


def page(held: Mapping[str, str], errors: Mapping[str, str]) -> str:
    """The page. ``held`` says what systems of the zoo are compared with, ``errors`` how far apart they are."""
    tokens, others, entries = [], [], []
    for name, (spec, told) in systems().items():
        what, error = held.get(name, ALONE), errors.get(name, "–")
        if name in ELSEWHERE:
            what, where, limit = ELSEWHERE[name]
            what, error = f"{what} (`tests/{where}.py`)", f"<{limit}"
        over_tokens = told.context == "tokens"
        cells = (_token_cells if over_tokens else _step_cells)(told)
        row = " | ".join((f"[{name}](#{name})", *cells, what, error))
        (tokens if over_tokens else others).append(f"| {row} |\n")
        entries.append(_entry(spec, told))
    return (
        START + TOKENS + "".join(tokens) + GRADIENTS + "".join(others) + "\n" + "\n".join(entries)
    )


def _token_cells(told: Explanation) -> tuple[str, ...]:
    facts = [f for part in told.levels for f in part]
    kinds, plans = (", ".join(dict.fromkeys(x)) for x in zip(*((f.kind, f.plan) for f in facts)))
    return kinds, plans, count(told.total.flops)


def _step_cells(told: Explanation) -> tuple[str, ...]:
    """What steps together, one column for each thing that a user pays for."""
    facts = [f for part in told.levels for f in part]
    kinds: dict[str, list[str]] = {}
    for f in facts:
        kinds.setdefault(f.kind, []).append(f.name)
    if told.flows.flops:
        kinds.setdefault(told.flows_kind, []).append("flows")
    slow = [f"{f.name} {f.clock}" for f in facts if f.clock != facts[0].clock]
    steps = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items())
    total, weights = told.total, prod(told.matrix)
    costs = (total.flops / weights, total.moved / weights, total.state / weights - FLOAT)
    return (steps, ", ".join(slow) or "–", *map(count, costs))


def _entry(spec: Spec, told: Explanation) -> str:
    """A system by itself. The steps of an optimizer stand in its explanation, those of a module before it."""
    over_tokens = told.context == "tokens"
    lines = [x for u in spec.updates.values() if over_tokens for x in update_lines(spec.system, u)]
    return (
        f"## {spec.system.name}\n\n{' '.join(spec.system.doc.split())}\n\n*{spec.system.ref}*\n\n"
        f"```yaml\n{spec.source.text.rstrip()}\n```\n\n"
        + (f"```text\n{_lines(lines)}\n```\n\n" if lines else "")
        + f"```text\n{_lines(str(told).splitlines())}\n```\n"
    )


def _lines(lines: list[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).strip()
