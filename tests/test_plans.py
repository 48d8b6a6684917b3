"""Plans on request: what holds gives the same numbers, what does not is NLC601, what is no plan is said."""

from __future__ import annotations

import re

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import nlc
from nlc import cli
from nlc.base.diagnostics import BadPlan
from nlc.ir.expr import walk
from nlc.ir.ops import add, leaf, make, sub
from nlc.ir.program import Let, Loop, Parallel
from nlc.ir.show import show
from nlc.ir.types import Dim, Type
from nlc.passes.plan.joined import joined
from nlc.passes.plan.made import holding
from nlc.passes.plan.statements import nodes

D = 6


def system(
    objective: str = "0.5 * sqnorm(S(key) - value)", output: str = "S(q)", more: str = ""
) -> str:
    return f"""\
nlc: 1
system: planned
context: tokens
hyper:
  d: {D}
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
    objective: {objective}
    rule: gd(lr=0.5)
{more}output:
  y: {output}
"""


def outputs(spec: nlc.Spec, plan: dict[str, str], backend: str = "auto") -> tuple[Tensor, dict]:
    torch.manual_seed(0)
    net = spec.compile(backend, plan)(**SIZES.get(spec.system.name, {})).double()
    width = net.d if hasattr(net, "d") else D
    return net(torch.randn(2, 37, width, dtype=torch.float64))


SIZES = {
    "gated_delta_net": {"d": 16, "heads": 2},
    "titans": {"d": 16, "heads": 2, "chunk": 8},
    "cms_sequential": {"d": 8, "periods": [2, 4, 8]},
}
HOLDS = [
    ("gated_delta_net", {"S": "sequential"}),
    ("gated_delta_net", {"S": "chunked"}),
    ("gated_delta_net", {"S": "chunked(1)"}),
    ("gated_delta_net", {"S": " chunked ( 5 ) "}),
    ("titans", {"M": "sequential"}),
    ("titans", {"M": "anchored(3)"}),
    ("cms_sequential", {"C_1": "anchored", "C_2": "sequential"}),
]


@pytest.mark.parametrize(("name", "plan"), HOLDS, ids=lambda x: str(x))
def test_a_plan_never_changes_what_a_spec_means(name: str, plan: dict[str, str]) -> None:
    spec = nlc.load(name)
    (y, state), (expected, last) = outputs(spec, plan), outputs(spec, {}, "reference")
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    for key, value in last.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=1e-10)
    became = {c.level: c.plan for c in spec.choices(plan=plan)}
    assert all(became[level] == asked.split("(")[0].strip() for level, asked in plan.items())


def test_a_plan_is_seen_in_the_file() -> None:
    spec = nlc.load("gated_delta_net")
    assert "GatedDelta" in spec.source_text() and "for k_t" not in spec.source_text()
    loop = spec.source_text(plan={"S": "sequential"})
    assert "GatedDelta.apply" not in loop and re.search(r"for \w+_t, ", loop)
    assert "CHUNK = 64 " in spec.source_text()
    assert "CHUNK = 24 " in spec.source_text(plan={"S": "chunked(24)"})


def test_the_tile_of_a_decay_by_channel_is_its_own() -> None:
    gates = system(more="    retain: per_key(sigmoid(linear(x, d)))\n")
    spec = nlc.loads(gates)
    assert spec.choices()[0].record.kind == "channel"
    text = spec.source_text(plan={"S": "chunked(8)"})
    assert re.findall(r"(?m)^(\w*CHUNK) = (\d+)", text)[-1] == ("CHANNEL_CHUNK", "8")


def test_auto_takes_chunks_for_tokens_and_passes_for_gradients() -> None:
    assert (nlc.load("delta_net").backend(), nlc.load("adamw").backend()) == ("torch", "torch")
    assert nlc.load("delta_net").source_text() == nlc.load("delta_net").source_text("torch")


def test_a_request_leaves_the_spec_as_it_was() -> None:
    spec = nlc.loads(system(output="tanh(S) @ q"))
    for _ in range(2):
        with pytest.raises(nlc.SpecError, match="NLC601"):
            spec.compile(plan={"S": "chunked"})
    assert not spec.check().diagnostics
    spec.compile(plan={"S": "sequential"})


def test_every_request_that_does_not_hold_is_said_at_once() -> None:
    spec = nlc.load("cms_sequential")
    with pytest.raises(nlc.SpecError) as error:
        spec.program(plan={"C_1": "chunked", "C_2": "chunked", "C_3": "anchored"})
    assert [d.code for d in error.value.report.diagnostics] == ["NLC601"] * 2


def test_what_is_proposed_in_place_of_a_plan_holds() -> None:
    """The two ways out of NLC601_nonlinear and NLC601_nonlinear_read."""
    bent = "0.5 * sqnorm(tanh(S) @ key - value)"
    assert nlc.loads(system(bent)).choices()[0].plan == "sequential"
    assert nlc.loads(system(bent, more=ANCHOR)).choices()[0].plan == "sequential"
    read = bent.replace("tanh(S) @ key", "tanh(S(key))")
    assert nlc.loads(system(read)).choices()[0].plan == "sequential"
    assert nlc.loads(system(read, more=ANCHOR)).choices(plan={"S": "anchored"})


ANCHOR = "    anchor: every 64 tokens\n"

NO_PLAN = {
    ("delta_net", "T=chunked"): "`delta_net` has no level `T`; levels: S",
    ("cms_sequential", "C1=anchored"): "no level `C1`; did you mean `C_1`?",
    ("delta_net", "S=chunkd"): "there is no plan `chunkd`; did you mean `chunked`?",
    ("delta_net", "S=fast"): "there is no plan `fast`; plans: sequential, chunked, anchored",
    ("delta_net", "S=chunked(32"): "there is no plan `chunked(32`",
    ("delta_net", "S=chunked(0)"): "a chunk has from 1 to 4096 tokens, not 0",
    ("delta_net", "S=chunked(-3)"): "a chunk has from 1 to 4096 tokens, not -3",
    ("delta_net", "S=sequential(4)"): "it has no tile",
    ("titans", "M=anchored(4) M.W1.m=anchored(8)"): "one file has one tile for all its levels",
    ("adamw", "m=chunked"): "`adamw` has no loop over tokens",
}


@pytest.mark.parametrize(("where", "said"), NO_PLAN.items(), ids=lambda x: str(x))
def test_what_is_no_plan_is_said(where: tuple[str, str], said: str) -> None:
    name, text = where
    plans = dict(part.split("=") for part in text.split())
    with pytest.raises(BadPlan, match=re.escape(said)):
        nlc.compile(name, plan=plans)
    line = ["compile", name, *(x for part in text.split() for x in ("--plan", part))]
    result = CliRunner().invoke(cli.main, line, prog_name="nlc")
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert said in " ".join(result.stderr.split())


def test_the_reference_has_one_plan() -> None:
    nlc.compile("delta_net", "reference", {"S": "sequential"})
    with pytest.raises(BadPlan, match="`reference` is sequential; `S=chunked` needs `torch`"):
        nlc.compile("delta_net", "reference", {"S": "chunked"})


def test_a_plan_that_does_not_hold_ends_with_one() -> None:
    line = ["compile", "-", "--plan", "S=chunked(16)"]
    text = system("sum(tanh(S(key) - value))")
    result = CliRunner().invoke(cli.main, line, input=text, prog_name="nlc")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error[NLC601]: level `S` cannot run as `chunked(16)`" in result.stderr
    assert "<stdin>:16:20" in result.stderr and "`tanh` makes the step nonlinear" in result.stderr


def test_a_target_of_the_memorys_own_is_no_second_product() -> None:
    """M(k) − M(v) is k − v + W₁ (silu(W₂ k) − silu(W₂ v)): in the tile of Hope's last memory three products with W₁ are
    left, of the error, of its way back to W₂ and of the read; and two that are read alike are read at once."""
    program = nlc.load("hope").program("torch")
    tiles = [
        s for p in program.body if isinstance(p, Parallel) for s in p.body if isinstance(s, Loop)
    ]
    (own,) = (t for t in tiles if "M_memory_W1" in t.carries)
    products = [n for s in own.body for n in nodes(s) if n.op == "matmul"]
    first = [n for n in products if "M_memory_W1_anchor" in {str(m.attr) for m in walk(n.args[0])}]
    assert len(first) == 3
    assert any(isinstance(s, Let) and s.names == ("k", "v") for s in tiles[0].body)


def test_sums_have_one_product_with_a_matrix() -> None:
    n, m = (Dim.of(x) for x in "nm")
    W, (a, c) = leaf("var", "W", Type((m, n))), (leaf("var", x, Type((n,))) for x in "ac")
    b, d = (leaf("var", x, Type((m,))) for x in "bd")
    value = Let(("value",), add(b, make("matmul", W, c)))
    error = Let(("error",), sub(add(d, make("matmul", W, a)), leaf("var", "value", Type((m,)))))
    (one,) = joined([value, error], apart=set(), kept={"error"})
    assert str(show(one.expr)) == "d - b + W @ (a - c)"
    moved = Let(("W",), W)  # another W behind it: the value stays
    assert len(joined([value, moved, error], apart=set(), kept={"error"})) == 3
    assert len(joined([value, error], apart=set(), kept={"error", "value"})) == 2


def test_a_definition_holds_until_what_it_is_made_of_has_another_value() -> None:
    """As an answer at a boundary does, until the state there is another."""
    n, number = Dim.of(4), Type((), True)
    M, k = leaf("var", "M", Type((n, n), True)), leaf("var", "k", Type((n,), True))
    lets = {"answer": make("matmul", M, k), "rate": leaf("var", "eta", number)}
    assert holding(lets, Let(("other",), k)) == lets
    assert holding(lets, Let(("M",), M)) == {"rate": lets["rate"]}
    assert holding(lets, Let(("eta",), lets["rate"])) == {"answer": lets["answer"]}
