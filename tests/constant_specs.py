"""Systems in which what no token changes is a key, a value, a query or a gate."""

from __future__ import annotations

SPEC = """
nlc: 1
system: constant_flows
context: tokens
hyper: {d: 8, n: d / heads}
heads: 2
inputs: {x: [d]}
outputs: {y: [d]}
weights:
  c: {shape: [n]PER, init: "uniform(-0.5, 0.5)"}
  s: {shape: []PER, init: "uniform(-0.5, 0.5)"}
let:
  u: l2norm(split(linear(x)))
levels:
  S:
    MEMORY
    frequency: every token
    STEP
output:
  y: linear(merge(READ))
"""

LEARNED = "objective: 0.5 * sqnorm(S(key) - value)"
STEPS = {  # what is constant, and how it gets into the recurrence
    "value": ["update: S * sigmoid(pos) + outer(c, u)"],
    "key": ["update: S * 0.9 + outer(u, c * sigmoid(pos))"],
    "both": ["update: S * sigmoid(s) + outer(c, c * sigmoid(pos))"],
    "count": ["update: S * 0.9 + outer(c / t, u)"],
    "erased": ["key: c", "value: 2 * c", LEARNED, "rule: gd(lr=0.1, decay=sigmoid(s))"],
    "gated": ["key: u", "value: c", LEARNED, "rule: gd(lr=sigmoid(s), decay=0.9)"],
    "channels": [
        "key: u",
        "value: c",
        "objective: -dot(S(key), value)",
        "rule: gd(lr=1, decay=per_key(sigmoid(c * pos)))",
    ],
    "momentum": [
        "key: c",
        "value: u",
        LEARNED,
        "rule: momentum(lr=0.5, rate=sigmoid(s), beta=sigmoid(s), decay=sigmoid(pos))",
    ],
    "anchored": [
        "anchor: every 4 tokens",
        "key: u",
        "value: c",
        LEARNED,
        "rule: gd(lr=0.2 * sigmoid(s), decay=0.9)",
    ],
    "anchored key": [
        "anchor: every 4 tokens",
        "key: l2norm(c)",
        "value: u",
        LEARNED,
        "rule: gd(lr=0.2 * sigmoid(pos), decay=sigmoid(s))",
    ],
}
MLP = [
    "init: learned",
    "anchor: every 4 tokens",
    "key: c",
    "value: u",
    LEARNED,
    "rule: dgd(lr=0.02 / (pos + 1), decay=sigmoid(s + 4))",
]
READS = {"S(u)": "S(u) + u", "S(c)": "S(c) + u"}  # at a flow, and at what all tokens share


def constant(step: list[str], read: str, per: str = "", memory: str = "matrix(n, n)") -> str:
    """The system with these parts; ``per``: ", per: head" where each head has constants of its own."""
    parts = {"MEMORY": f"memory: {memory}", "READ": read, "PER": per, "STEP": "\n    ".join(step)}
    text = SPEC
    for name, part in parts.items():
        text = text.replace(name, part)
    return text
