"""What the benchmark of kernels measures: rules, the same ones of flash-linear-attention, and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

import nlc
from nlc.pipeline import Spec

Flows = dict[str, Tensor]
MODES = ("forward", "forward+backward", "step", "step in a CUDA graph")
CHUNK = 64  # tokens, for the products of the floor
SHIFT = {"alpha": 4, "decay": 4, "mu": 2, "beta": 0, "eta": -2}  # gates: sigmoids of normal numbers
DECAYS = ("alpha", "decay", "mu")  # near 1, so in float32 for all sides

MATRIX = """
nlc: 1
system: matrix_memory
context: tokens
hyper: {d: 256, n: d / heads}
heads: 4
inputs: {x: [d]}
let:
  q: l2norm(split(linear(x)))
  eta: 0.5 * sigmoid(split(linear(x)) - 2)
  alpha: sigmoid(split(linear(x)) + 4)
levels:
  S:
    frequency: every token
    memory: matrix(n, n)
    key: l2norm(split(linear(x)))
    value: split(linear(x))
    objective: 0.5 * sqnorm(S(key) - value)
    rule: RULE
output:
  y: linear(merge(S(q)))
"""
DGD = MATRIX.replace("RULE", "dgd(lr=eta, decay=alpha)")
ANCHORED = DGD.replace("    memory", f"    anchor: every {CHUNK} tokens\n    memory")
MOMENTUM = MATRIX.replace("RULE", "momentum(lr=1, rate=eta, beta=mu, decay=alpha)").replace(
    "  alpha", "  mu: sigmoid(split(linear(x)) + 2)\n  alpha"
)
GROUPED = MATRIX.replace("{d: 256", "{d: 256, key_heads: 2").replace("0.5 * sigmoid", "sigmoid")
GROUPED = GROUPED.replace("l2norm(split(linear(x)))", "l2norm(split(linear(x), key_heads))")
GROUPED = GROUPED.replace("RULE", "gd(lr=eta)\n    retain: alpha")


@dataclass(frozen=True)
class Rule:
    """``given`` makes fla's arguments of the operator's; ``most``: errors of outputs, slopes of vectors, of gates.

    ``packed``: the sequences of the batch are one, cut by ``cu_seqlens`` into short and long ones.
    """

    title: str
    spec: str
    fla: str = ""  # module and kernel of fla.ops
    given: Callable[[Flows], Flows] = dict
    hypers: Callable[[int, int], dict[str, Any]] = lambda heads, n: dict(d=heads * n, heads=heads)
    most: tuple[float, float, float] = (0.005, 0.008, 0.02)
    erases: bool = True
    note: str = ""
    packed: bool = False

    @property
    def operator(self) -> bool:
        return self.spec != "hope"


def logged(flows: Flows) -> Flows:
    """A decay as its logarithm ``g``, rates and queries by fla's names."""
    names = {"eta": "beta", "C": "q"}
    return {
        "g" if n in DECAYS else names.get(n, n): x.log() if n in DECAYS else x
        for n, x in flows.items()
    }


def shared(flows: Flows) -> Flows:
    """Mamba-2's keys and queries, written out for each head."""
    out, shape = logged(flows), flows["v"].shape[:3]
    return out | {n: out[n][:, :, None].expand(*shape, -1).contiguous() for n in ("q", "k")}


def parted(flows: Flows) -> Flows:
    """Keys and queries of groups with an axis for them; as many channels as values have."""
    out, n = logged(flows), flows["v"].shape[-1]
    return out | {name: out[name].unflatten(-1, (-1, n)) for name in ("q", "k")}


def doubled(flows: Flows) -> Flows:
    """DGD erases by twice its rate: S (alpha - 2 eta k kᵀ) + eta v kᵀ."""
    return logged(flows) | {"p": 2 * flows["k"]}


SUM: dict[str, Any] = dict(most=(0.005,) * 3, erases=False)
RULES = {
    "gated_delta": Rule("gated delta rule", "gated_delta_net", "gated_delta_rule", logged),
    "gated_delta_packed": Rule(
        "gated delta rule, packed", "gated_delta_net", "gated_delta_rule", logged, packed=True,
        note="as many tokens, in sequences half and one and a half times as long",
    ),
    "gated_delta_grouped": Rule(
        "gated delta rule, two heads a key", GROUPED, "gated_delta_rule", parted,
        lambda h, n: dict(d=h * n, heads=h, key_heads=h // 2),
    ),
    "delta": Rule("delta rule", "delta_net", "delta_rule", most=(0.006, 0.008, 0.008)),
    "linear": Rule("linear attention", "linear_attention", "linear_attn", **SUM),
    "retnet": Rule("RetNet", "retnet", "retention", dict, lambda h, n: dict(d=h * n, heads=h, dv=n), **SUM),
    "gla": Rule("GLA", "gla", "gla", logged, lambda h, n: dict(d=h * n, heads=h, dk=n), **SUM),
    "kda": Rule("KDA, the gated delta rule by channel", "kda", "kda", logged),
    "mamba2": Rule(
        "Mamba-2", "mamba2", "simple_gla", shared, lambda h, n: dict(d=h * n, expand=1, p=n, n=n), **SUM,
        note="fla: keys and queries written out for each head before",
    ),
    "dgd": Rule("Hope's DGD, a matrix", DGD, "comba", doubled, note="fla: `comba` with p = 2 k"),
    "dgd_anchored": Rule(f"the same, anchored every {CHUNK} tokens", ANCHORED),
    "titans": Rule("Titans' momentum, a matrix", MOMENTUM, note="fla: in PyTorch alone"),
    "hope": Rule("block `hope`", "hope"),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One rule at one shape in one mode; ``n`` channels a head."""

    rule: str
    batch: int
    heads: int
    length: int
    n: int
    mode: str

    @property
    def name(self) -> str:
        return f"{self.rule}-B{self.batch}-H{self.heads}-T{self.length}-n{self.n}-{self.mode.replace(' ', '_')}"

    @property
    def shape(self) -> str:
        size = f"n {self.n}" if RULES[self.rule].operator else f"d {self.heads * self.n:,}"
        return f"B {self.batch}, H {self.heads}, T {self.length:,}, {size}"


def rows_of(quick: bool, sweep: str, only: Iterable[str] = ()) -> list[Row]:
    """Every rule at the first shape, Hope, then other lengths and widths."""
    chosen = [r for r in (only or RULES) if RULES[r].operator]
    heads, length, n = (2, 80, 16) if quick else (16, 4096, 128)
    tokens = 2 * length if quick else 8 * length
    shapes = [(r, tokens // length, length, n) for r in chosen]
    swept = {"all": chosen, "one": [r for r in chosen if r == "gated_delta"], "none": []}[sweep]
    for rule in () if quick else swept:
        shapes += [(rule, max(1, tokens // t), t, n) for t in (2048, 8192, 16384, 65536)]
        shapes += [(rule, 8, length, wide) for wide in (64, 256)]
    modes = {r: MODES[:2] if RULES[r].packed else MODES for r in chosen}
    rows = [Row(r, b, heads, t, w, m) for r, b, t, w in shapes for m in modes[r]]
    if "hope" in (only or RULES):
        hope = ("hope", 1, 2, 64, 8) if quick else ("hope", 1, 16, 8192, 64)
        rows[sum(map(len, modes.values())) : 0] = [Row(*hope, m) for m in MODES[:2]]
    return rows


@cache
def spec_of(rule: str) -> Spec:
    """A rule as it is measured: the operator of a spec, but all of the block `hope`."""
    r = RULES[rule]
    load = nlc.loads if "\n" in r.spec else nlc.load
    return load(r.spec, operator=r.operator)


@cache
def has_kernels(rule: str) -> bool:
    """Whether the backend `triton` has any for it."""
    return "@triton.jit" in spec_of(rule).source_text("triton")
