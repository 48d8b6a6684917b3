r"""Slips of the hand and habits of other languages, each in a sound spec: what is said of it, where, and what to do.

slips.txt has one slip in two lines: ``SPEC: old ⇒ new``, then ``CODE ⇒ place ⇒ words`` of the one message, with
``⇒ fixed`` where ``nlc check --fix`` makes the spec sound again, or ``sound`` where it is no mistake. A ``\n`` is a
line break. The words stand in the label or in a help.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import nlc
from nlc.base.render import render_report

TABLE = Path(__file__).parent / "slips.txt"

SPECS = {
    "tokens": """\
nlc: 1
system: slips
context: tokens
hyper:
  d: 64
  dk: 64
  dv: 32
inputs:
  x: [d]
outputs:
  y: [dv]
let:
  q: l2norm(linear(x, dk))
  gate: sigmoid(linear(x))
levels:
  S:
    frequency: every token
    memory: matrix(dv, dk)
    key: l2norm(linear(x, dk))
    value: linear(x, dv)
    objective: 0.5 * sqnorm(S(key) - value)
    rule: gd(lr=gate)
output:
  y: S(q)
""",
    "gradients": """\
nlc: 1
system: slips
context: gradients
hyper:
  lr: 1e-3
  beta: 0.9
levels:
  m:
    frequency: every step
    memory: like(W)
    objective: -dot(m, g)
    rule: gd(lr=1 - beta, decay=beta)
  W:
    frequency: every step
    objective: dot(W, m)
    rule: gd(lr=lr)
""",
    "families": """\
nlc: 1
system: heads
context: tokens
hyper: {d: 64, n: d / heads, periods: [4, 8]}
heads: 4
inputs: {x: [d]}
outputs: {y: [d]}
let:
  q: l2norm(split(linear(x)))
  alpha: sigmoid(split(linear(x)))
levels:
  S:
    frequency: every token
    memory: matrix(n, n)
    key: l2norm(split(linear(x)))
    value: split(linear(x))
    objective: 0.5 * sqnorm(S(key) - value)
    retain: alpha
    rule: gd(lr=0.5)
  C[i]:
    for: {i: [1, 2], period: periods}
    frequency: every period tokens
    memory: matrix(d, d)
    objective: sum(-dot(C[i](x), x))
    rule: gd(lr=0.1 / period)
output:
  y: linear(merge(S(q))) + C[1](x) + C[2](x)
""",
}


def _table() -> dict[str, list[str]]:
    """Each slip as it stands in the table, and what is expected of it."""
    lines = [
        line for line in TABLE.read_text(encoding="utf-8").split("\n") if line and line[0] != "#"
    ]
    return {
        edit: said.strip().split(" ⇒ ") for edit, said in zip(lines[::2], lines[1::2], strict=True)
    }


SLIPS = _table()
FIXED = [edit for edit, said in SLIPS.items() if said[-1] == "fixed"]


def _plain(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")


def slip(edit: str) -> str:
    """The spec with the slip in it."""
    which, _, change = edit.partition(": ")
    old, new = (_plain(part) for part in change.split(" ⇒ "))
    assert old in SPECS[which], f"{old!r} is not in the spec"
    return SPECS[which].replace(old, new, 1)


@pytest.mark.parametrize("which", SPECS)
def test_the_specs_are_sound(which: str) -> None:
    assert not nlc.loads(SPECS[which]).check().diagnostics


def test_there_are_many() -> None:
    assert len(SLIPS) > 400 and len(FIXED) > 100
    assert all(len(said) in (1, 3, 4) for said in SLIPS.values())


@pytest.mark.parametrize("edit", SLIPS)
def test_a_slip_is_one_message(edit: str) -> None:
    report = nlc.loads(slip(edit), "spec.yaml").check()
    text = render_report(report)
    if SLIPS[edit] == ["sound"]:
        assert not report.diagnostics, text
        return
    code, place, words = SLIPS[edit][:3]
    assert len(report.diagnostics) == 1, text
    (found,) = report.diagnostics
    assert found.code == code, text
    if place.endswith("…"):
        assert found.span.text.startswith(_plain(place[:-1])), text
    else:
        assert found.span.text == _plain(place), text
    assert words in (found.label, *found.helps), text
    if SLIPS[edit][-1] == "fixed":
        assert found.fix is not None, text


def test_a_gate_beside_an_objective_to_be_summed_goes_into_the_rule() -> None:
    """What is offered for both at once can be followed at once."""
    text = SPECS["families"].replace("frequency: every token", "frequency: every 4 tokens")
    (said,) = nlc.loads(text, "spec.yaml").check().ordered
    objective, gate = said.helps
    assert "around the whole objective" in objective
    assert "alpha" in [label.span.text for label in said.related] and "`decay=last(alpha)`" in gate
    text = text.replace("0.5 * sqnorm(S(key) - value)", "sum(0.5 * sqnorm(S(key) - value))")
    text = text.replace("    retain: alpha\n", "").replace("lr=0.5", "lr=0.5, decay=last(alpha)")
    assert not nlc.loads(text).check().diagnostics
