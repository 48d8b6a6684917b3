"""docs/zoo.md: what `nlc explain` and `nlc derive` know of every shipped token system, and what it is held against."""

from __future__ import annotations

import re
from collections.abc import Mapping

import nlc
from nlc.pipeline import shipped
from nlc.tools.derivation import update_lines
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
    "gated_delta_net": ("the paper's layer, written out, and fla's", "test_modules", "1e-12"),
    "gla": (FLA, "test_gated", "1e-10"),
    "hope": (WRITTEN, "test_hope", "1e-10"),
    "hope_attention": ("attention and the chain by themselves", "test_hope", "1e-12"),
    "hope_literal": (WRITTEN, "test_hope", "1e-10"),
    "hope_slow": (WRITTEN, "test_hope", "1e-10"),
    "linear_attention": (FLA, "test_operators", "1e-10"),
    "mamba2": (FLA, "test_gated", "1e-10"),
    "retnet": (FLA, "test_gated", "1e-10"),
    "titans": (WRITTEN, "test_titans", "1e-10"),
    "ttt_linear": (WRITTEN, "test_titans", "1e-10"),
    "ttt_mlp": (WRITTEN, "test_titans", "1e-10"),
}
START = """\
# The zoo: published token systems as specs

Each system below is one file of `specs/` and nothing else: the compiler knows none of their names. `nlc explain` says
how it runs and what that costs, `nlc derive` how its step follows from its objective. All are held against an
interpreter of the language by `nlc verify`, and against what the papers write in plain PyTorch and float64: outputs,
states, and the gradients by the input and by every slow weight. An error is the largest difference, relative to the
largest element of its tensor. fla is the naive code of flash-linear-attention, which computes in float32.

`pytest tests/test_zoo.py --update-golden` writes this page.

"""
HEAD = (
    "| system | class | plan | flops a token | held against | error |\n|---|---|---|---|---|---|\n"
)


def tokens() -> list[str]:
    """The shipped token systems."""
    return [n for n in sorted(shipped()) if nlc.load(n).tree.context.text == "tokens"]


def measured(page: str) -> dict[str, str]:
    """The errors that a page shows, by system."""
    return dict(re.findall(r"^\| \[(\w+)\].*\| (\S+) \|$", page, re.M))


def page(held: Mapping[str, str], errors: Mapping[str, str]) -> str:
    """The page. ``held`` says what systems of the zoo are compared with, ``errors`` how far apart they are."""
    rows, entries = [], []
    for name in tokens():
        spec = nlc.load(name)
        told = spec.explain()
        facts = [f for part in told.levels for f in part]
        kinds = ", ".join(dict.fromkeys(f.kind for f in facts))
        plans = ", ".join(dict.fromkeys(f.plan for f in facts))
        what, error = held.get(name, ""), errors.get(name, "–")
        if name in ELSEWHERE:
            what, where, limit = ELSEWHERE[name]
            what, error = f"{what} (`tests/{where}.py`)", f"<{limit}"
        flops = count(told.total.flops)
        rows.append(f"| [{name}](#{name}) | {kinds} | {plans} | {flops} | {what} | {error} |")
        lines = [x for u in spec.updates.values() for x in update_lines(spec.system, u)]
        entries.append(
            f"## {name}\n\n{' '.join(spec.system.doc.split())}\n\n*{spec.system.ref}*\n\n"
            f"```yaml\n{spec.source.text.rstrip()}\n```\n\n"
            + (f"```text\n{_lines(lines)}\n```\n\n" if lines else "")
            + f"```text\n{_lines(str(told).splitlines())}\n```\n"
        )
    return START + HEAD + "\n".join(rows) + "\n\n" + "\n".join(entries)


def _lines(lines: list[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).strip()
