"""For each code the smallest edit of a sound spec that makes the mistake, and one that does not.

The compiler itself says what is wrong with them, when asked: a message shown here cannot drift.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nlc.base.diagnostics import Report, SpecError
from nlc.base.render import render_report
from nlc.pipeline import load, shipped
from nlc.syntax.tree import SpecTree

NAME = "example.yaml"

TOKENS = """\
nlc: 1
system: example
context: tokens
hyper:
  d: 64
inputs:
  x: [d]
let:
  q: l2norm(linear(x, d))
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    key: l2norm(linear(x, d))
    value: linear(x, d)
    objective: 0.5 * sqnorm(S(key) - value)
    rule: gd(lr=0.5)
output: S(q)
"""

GRADIENTS = """\
nlc: 1
system: descent
context: gradients
hyper:
  lr: 0.1
levels:
  W:
    frequency: every step
    objective: dot(W, g)
    rule: gd(lr=lr)
"""

Edits = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Example:
    """``bad`` and ``good`` are edits of ``base``, each (old, new); without ``good`` the base is.

    ``plan`` and ``backends`` are what is asked for beside the spec: of the bad and of the good one.
    """

    bad: Edits
    good: Edits = ()
    base: str = TOKENS
    plan: dict[str, str] = field(default_factory=dict)
    backends: tuple[str, str] | None = None

    @property
    def bad_text(self) -> str:
        return _edited(self.base, self.bad)

    @property
    def good_text(self) -> str:
        return _edited(self.base, self.good)

    def of_bad(self) -> tuple[Report, str]:
        """What the compiler says of the bad one: the report, and as text."""
        return said(self.bad_text, self.plan, self.backends and self.backends[0])

    def of_good(self) -> tuple[Report, str]:
        """What the compiler says of the good one: nothing."""
        return said(self.good_text, self.plan, self.backends and self.backends[1])


def _edited(text: str, edits: Edits) -> str:
    for old, new in edits:
        if text.count(old) != 1:
            raise ValueError(f"{old!r} stands {text.count(old)} times in the spec to edit")
        text = text.replace(old, new)
    return text


def of(old: str, bad: str, good: str | None = None, base: str = TOKENS) -> Example:
    """One edit; without ``good`` the old text is right."""
    return Example(((old, bad),), () if good is None else ((old, good),), base)


def _first(fits: Callable[[SpecTree], bool]) -> str:
    """The name of the first shipped spec of a kind, for an example that needs one that exists."""
    return next(name for name in sorted(shipped()) if fits(load(name).tree))


USABLE = _first(lambda s: s.context.text == "tokens" and [x.name for x in s.inputs] == ["x"])
ROUTED = _first(lambda s: bool(s.applies_to))  # picks its rule by kind of tensor
KEY = "key: l2norm(linear(x, d))"
VALUE = "value: linear(x, d)"
OBJECTIVE = "objective: 0.5 * sqnorm(S(key) - value)"
RULE = "rule: gd(lr=0.5)"
MEMORY = "memory: matrix(d, d)"
Q = "q: l2norm(linear(x, d))"
CLOCK = "frequency: every token"
STEP = "rule: gd(lr=lr)"
MLP = "W1: [d, d]\n      W2: [d, d]\n      read(z): z + W1 @ silu(W2 @ z)"
USED = ("output: S(q)", "output: S(q) + mem(x)")
DEEP = (MEMORY, f"memory:\n      {MLP}")
SLOW = (
    "levels:\n  W:\n    frequency: every step\n    objective: dot(W, g)",
    "levels:\n  V:\n    frequency: every 5 steps\n    memory: like(W)\n    objective: -dot(V, mean(g * g))\n"
    "    rule: gd(lr=0.1, decay=0.9)\n  W:\n    frequency: every step\n    objective: dot(W, g / (sqrt(V) + 1e-8))",
)

EXAMPLES: dict[str, Example] = {
    # 0 the text
    "NLC001": of(f"    {RULE}", f"\t{RULE}"),
    "NLC002": of(f"    {VALUE}\n", f"    {VALUE}\n    value: x\n"),
    "NLC003": of(RULE, 'rule: "gd(lr=0.5)'),
    "NLC004": of(KEY, f"key: &k {KEY[5:]}", KEY),
    "NLC005": of(
        f"let:\n  {Q}",
        "let: {q: l2norm(linear(x, d))}",
        'let: {q: "l2norm(linear(x, d))"}',
    ),
    "NLC006": of("system: example", "system: example\x07"),
    "NLC007": of("d: 64", "d: 64e9999"),
    "NLC008": of(f"  {Q}\n", f"  {Q}  # nlc: allow NLC210\n"),
    "NLC010": of("d: 64", "d: 4 * (8 + 8"),
    "NLC011": of(RULE, "rule: gd(lr=0.5))"),
    "NLC012": of(OBJECTIVE, "objective: 0.5 sqnorm(S(key) - value)"),
    "NLC013": of(
        OBJECTIVE,
        "objective: 0.5 * sum((S(key) - value)^2)",
        "objective: 0.5 * sum((S(key) - value)**2)",
    ),
    "NLC014": of(CLOCK, "frequency: evry token"),
    # 1 the keys
    "NLC101": of(OBJECTIVE, OBJECTIVE.replace("objective", "objectve")),
    "NLC102": of(f"    {RULE}\n", ""),
    "NLC103": of("hyper:\n  d: 64", "hyper:\n  - 64"),
    "NLC104": of("context: tokens", "context: token"),
    "NLC105": of(
        f"    {RULE}\n", f"    {RULE}\n    update: S + outer(value, key)\n", f"    {RULE}\n"
    ),
    "NLC106": of(f"  {Q}", f"  {Q}\n  t: q", f"  {Q}"),
}
EXAMPLES.update(
    {
        # 2 names and arguments
        "NLC201": of(OBJECTIVE, OBJECTIVE.replace("- value", "- vlaue")),
        "NLC202": of(Q, Q.replace("l2norm", "l2nrm")),
        "NLC203": of(f"  {Q}\n", f"  {Q}\n  d: 3\n"),
        "NLC204": of(RULE, "rule: gd(lrr=0.5)"),
        "NLC205": of(
            "output: S(q)",
            "output: S(q[0])",
        ),
        "NLC206": of(MEMORY, "memory: matrix(d, q)"),
        "NLC207": Example(
            bad=((f"let:\n  {Q}", f"heads: 4\nuse:\n  mem: {USABLE}s(d=d)\nlet:\n  {Q}"), USED),
            good=((f"let:\n  {Q}", f"heads: 4\nuse:\n  mem: {USABLE}(d=d)\nlet:\n  {Q}"), USED),
        ),
        "NLC208": of("output: S(q)", "output: S(q) * silu", "output: S(q) * silu(q)"),
        "NLC209": of("  d: 64\n", "  d: 2 * n\n  n: d / 2\n", "  d: 2 * n\n  n: 32\n"),
        "NLC210": of("  d: 64\n", "  d: 64\n  n: 32\n"),
        "NLC211": of(
            "objective: dot(W, g)",
            "objective: dot(W, g * norm(W))",
            "objective: dot(W, g * norm(prev(W)))",
            base=GRADIENTS,
        ),
        "NLC212": of(STEP, "rule: example(lr=lr)", base=GRADIENTS),
        "NLC213": of(
            f"    {STEP}\n",
            f"    rule: {ROUTED}(lr=lr)\n",
            f"    rule: {ROUTED}(lr=lr)\napplies_to:\n  matrices: self\n",
            base=GRADIENTS,
        ),
        "NLC215": of(
            f"    {STEP}\n",
            f"    {STEP}\napplies_to:\n  rest: self\n  head: {{names: head.*, rule: gd(lr=lr)}}\n",
            f"    {STEP}\napplies_to:\n  head: {{names: head.*, rule: gd(lr=lr)}}\n  rest: self\n",
            base=GRADIENTS,
        ),
        "NLC216": of(
            f"    {STEP}\n",
            f"    {STEP}\napplies_to:\n  vectors: {{where: nrows(W) > 64, rule: self}}\n  rest: gd(lr=lr)\n",
            f"    {STEP}\napplies_to:\n  vectors: {{where: numel(W) > 64, rule: self}}\n  rest: gd(lr=lr)\n",
            base=GRADIENTS,
        ),
        "NLC214": of(
            "q: l2norm(linear(x, d))", "q: linear(x, d) / (d - 64)", "q: linear(x, d) / d"
        ),
        # 3 shapes and heads
        "NLC301": of(VALUE, "value: linear(x, 2 * d)"),
        "NLC302": of(OBJECTIVE, "objective: S(key) - value"),
        "NLC303": of(
            "output: S(q)",
            "output: S(q) * sqnorm(linear(x))",
            "output: S(q) * sqnorm(linear(x, d))",
        ),
        "NLC304": of(
            f"let:\n  {Q}",
            "let:\n  q: l2norm(merge(split(linear(x, d))))",
            "heads: 4\nlet:\n  q: l2norm(merge(split(linear(x, d))))",
        ),
        "NLC305": of("  d: 64\n", "  d: 64.5\n"),
        "NLC306": of(
            RULE,
            "rule: gd(lr=sigmoid(linear(x, d)))",
            "rule: gd(lr=per_key(sigmoid(linear(x, d))))",
        ),
        "NLC307": Example(
            bad=(("x: [d]", "x: [d]\n  i: []"), (VALUE, "value: x + embedding(i + 1, 100, d)")),
            good=(("x: [d]", "x: [d]\n  i: []"), (VALUE, "value: x + embedding(i, 100, d)")),
        ),
        "NLC308": Example(
            bad=((MEMORY, "memory: mlp(d, 4 * d)"), (RULE, "rule: gd(lr=0.01)\n    init: learned")),
            good=((MEMORY, "memory: mlp(d, 4)"), (RULE, "rule: gd(lr=0.01)\n    init: learned")),
        ),
        # 4 time
        "NLC401": of(VALUE, "value: x - S(key)", "value: x - prev(S)(key)"),
        "NLC402": Example(
            bad=(
                (CLOCK, "frequency: every 16 tokens\n    reset: every 40 tokens"),
                (OBJECTIVE, "objective: sum(0.5 * sqnorm(S(key) - value))"),
                (RULE, "rule: gd(lr=0.5 / 16)"),
            ),
            good=(
                (CLOCK, "frequency: every 16 tokens\n    reset: every 48 tokens"),
                (OBJECTIVE, "objective: sum(0.5 * sqnorm(S(key) - value))"),
                (RULE, "rule: gd(lr=0.5 / 16)"),
            ),
        ),
        "NLC403": of(
            Q,
            "q: l2norm(linear(x, d) + u)\n  u: tanh(q)",
            "q: l2norm(linear(x, d) + u)\n  u: tanh(prev(q))",
        ),
        "NLC404": of(
            f"{CLOCK}\n",
            "frequency: every 4 steps\n",
        ),
        "NLC405": Example(
            bad=((CLOCK, "frequency: every 16 tokens"), (RULE, "rule: gd(lr=0.5 / 16)")),
            good=(
                (CLOCK, "frequency: every 16 tokens"),
                (OBJECTIVE, "objective: sum(0.5 * sqnorm(S(key) - value))"),
                (RULE, "rule: gd(lr=0.5 / 16)"),
            ),
        ),
        # 5 derivation
        "NLC501": of(
            OBJECTIVE,
            "objective: 0.5 * sqnorm(conv(S(key), 4) - value)",
            "objective: 0.5 * sqnorm(S(key) - conv(value, 4))",
        ),
        "NLC502": of(OBJECTIVE, "objective: 0.5 * sqnorm(key - value)"),
        "NLC503": Example(
            bad=(
                (OBJECTIVE, "objective: 0.5 * sqnorm(S(key) - S(q) - value)"),
                (RULE, "rule: dgd(lr=0.5)"),
            ),
            good=((RULE, "rule: dgd(lr=0.5)"),),
        ),
        "NLC504": Example(
            bad=(
                (OBJECTIVE, "objective: 0.5 * sqnorm(tanh(S(key)) - value)"),
                (RULE, "rule: prox(lr=0.5)"),
            ),
            good=((RULE, "rule: prox(lr=0.5)"),),
        ),
        # 6 plans, 7 backends
        "NLC601": Example(
            bad=((OBJECTIVE, "objective: 0.5 * sqnorm(tanh(S(key)) - value)"),),
            plan={"S": "chunked"},
        ),
        "NLC701": of("levels:", "grad_at: W\nlevels:", base=GRADIENTS),
        "NLC702": Example(
            bad=(("dot(W, g)", "dot(W, g / (1 + norm(g)))"),),
            base=GRADIENTS,
            backends=("triton", "torch"),
        ),
        # 8 soundness of a step
        "NLC801": of(RULE, "rule: gd(lr=3)"),
        "NLC802": of(RULE, "rule: gd(lr=0.5, decay=1.01)", "rule: gd(lr=0.5, decay=0.99)"),
        "NLC803": of(KEY, "key: linear(x, d)"),
        "NLC804": of(
            RULE,
            f"anchor: every 16 tokens\n    {RULE}",
            "anchor: every 16 tokens\n    rule: gd(lr=0.5 / 16)",
        ),
        "NLC805": Example(
            bad=(DEEP, (RULE, "rule: gd(lr=0.5, decay=0.9)\n    init: learned")),
            good=(DEEP, (RULE, "rule: gd(lr=0.5, decay=0.9)\n    init: learned\n    toward: init")),
        ),
        "NLC806": Example(bad=(DEEP,), good=(DEEP, (RULE, f"{RULE}\n    init: learned"))),
        "NLC807": Example(
            bad=(SLOW,),
            good=(SLOW, ("every 5 steps", "every 5 steps\n    phase: start")),
            base=GRADIENTS,
        ),
    }
)


def said(text: str, plan: dict[str, str], backend: str | None = None) -> tuple[Report, str]:
    """What the compiler says of a spec that stands alone in a folder, as ``example.yaml``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, NAME)
        path.write_text(text, encoding="utf-8")
        try:
            spec = load(path)
            report = spec.check()
            if not report.has_errors and (plan or backend):
                spec.source_text(backend or "auto", plan)
        except SpecError as error:
            report = error.report
        return report, render_report(report).replace(f"{folder}{os.sep}", "")
