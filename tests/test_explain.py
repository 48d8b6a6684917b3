"""`nlc explain`: class, plan and reason of every level, costs counted by hand, and a table that fits a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from click.testing import CliRunner
from shipped_specs import load
from test_plans import system

import nlc
from nlc import cli
from nlc.base.codes import CODES
from nlc.ir import classes
from nlc.passes.plan.asked import REQUESTS, BadPlan
from nlc.pipeline import shipped
from nlc.tools.explain import Explanation
from nlc.tools.explain.facts import Fact
from nlc.tools.layout import cells
from nlc.tools.sizes import BadHyper


def fact(made: Explanation, name: str = "S") -> Fact:
    return next(f for level in made.levels for f in level if f.name == name)


def of(text: str, **options: object) -> Fact:
    return fact(nlc.loads(text).explain(**options))


# ---------------------------------------------------------------------------------------------- every spec


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_spec_is_explained(name: str) -> None:
    spec = load(name)
    made = spec.explain()
    named = {f.name for level in made.levels for f in level}
    assert named == {*spec.system.levels, *spec.system.outer}
    for level in made.levels:
        for f in level:
            assert f.cost.flops >= 0 and f.kind and f.plan
            assert f.why or made.context != "tokens"
            assert f.place is None or f.quote
    assert made.total.flops > 0
    assert all(cells(line) <= 100 for line in str(made).splitlines())
    assert json.loads(json.dumps(made.asdict()))["system"] == name


@pytest.mark.parametrize("name", ["hope", "gated_delta_net", "attention", "m3"])
def test_the_table(name: str, golden: Callable[..., None]) -> None:
    golden(f"explain_{name}.txt", f"{load(name).explain()}\n")


# ---------------------------------------------------------------------------------------------- classes, reasons

CLASSES = {
    "additive": ("-dot(S(key), value)", "", "chunked", "what it adds"),
    "gated": ("-dot(S(key), value)", "    retain: sigmoid(linear(x))\n", "chunked", "logarithms"),
    "rank-1 affine": ("0.5 * sqnorm(S(key) - value)", "", "chunked", "one key"),
    "nonlinear": ("0.5 * sqnorm(tanh(S) @ key - value)", "", "sequential", "not linear"),
}


@pytest.mark.parametrize(("kind", "case"), CLASSES.items(), ids=lambda x: str(x)[:12])
def test_classes(kind: str, case: tuple[str, str, str, str]) -> None:
    objective, more, plan, why = case
    f = of(system(objective, more=more))
    assert (f.kind, f.plan) == (kind, plan) and why in f.why


def test_a_nonlinear_step_points_at_what_bends_it() -> None:
    f = of(system("0.5 * sqnorm(tanh(S) @ key - value)"))
    assert (f.kind, f.plan, f.quote) == ("nonlinear", "sequential", "tanh(S)")
    assert (f.place.line, f.place.column) == (16, 29) and "`tanh`" in f.why
    assert f.cost.steps == 2048 and f.tile is None
    assert f.faster == (
        "`tanh` of a read at a key, with `anchor: every 64 tokens`, would be anchored (another system)",
    )


def test_a_way_to_be_faster_is_one_that_was_tried() -> None:
    (tried,) = of(system("0.5 * sqnorm(tanh(S(key)) - value)")).faster
    assert tried.startswith("`anchor: every 64 tokens` makes it anchored")
    f = of(system("0.5 * sqnorm(tanh(S(key)) - value)", more="    anchor: every 64 tokens\n"))
    assert (f.kind, f.plan, f.cost.steps, f.quote) == (
        "additive", "anchored", 32, "anchor: every 64 tokens",
    )  # fmt: skip
    assert of(system("0.5 * sqnorm(S(key) - value)")).faster == ()


def test_what_reads_a_state_as_a_whole_is_the_place() -> None:
    f = of(system(output="tanh(S) @ q"))
    assert (f.kind, f.plan) == ("rank-1 affine", "sequential")
    assert f.quote == "tanh(S) @ q" and f.faster == ("reads at a key, as `S(q)`, make it chunked",)


def test_a_decay_with_a_sign_goes_by_products() -> None:
    f = of(system(more="    retain: tanh(linear(x))\n"))
    assert (f.kind, f.plan) == ("rank-1 affine", "chunked")
    assert "products" in f.why and "logarithm" in f.faster[0]


def test_requests_and_backends_are_reasons_too() -> None:
    asked = of(system(), plan={"S": "sequential"})
    assert (asked.kind, asked.plan) == ("rank-1 affine", "sequential")
    assert asked.why == "it was asked for" and "chunked" in asked.faster[0]
    slow = of(system(), backend="reference")
    assert slow.plan == "sequential" and "`reference`" in slow.why and "`torch`" in slow.faster[0]
    assert of(system(), plan={"S": "chunked(16)"}).tile == 16


def test_a_level_in_one_loop_with_another_names_it() -> None:
    made = nlc.load("hope").explain(plan={"M_k": "sequential"})
    assert fact(made, "M_v").why == "it needs `M_k` token by token"
    assert fact(made, "M_memory").plan == "anchored"


def test_boundaries_are_those_of_the_hypers_given() -> None:
    f = fact(nlc.load("titans").explain(hypers={"chunk": 128}), "M")
    assert (f.plan, f.periods, f.tile, f.cost.steps) == ("anchored", ("128 (chunk)",), 64, 32)
    f = fact(nlc.load("cms_sequential").explain(hypers={"periods": [4, 8, 16]}), "C_2")
    assert (f.clock, f.cost.steps) == ("every 8 tokens (periods[1])", 256)


def test_the_boundaries_of_a_level_are_its_own() -> None:
    """Those of another one in its tiles are not to be moved in this one."""
    made = nlc.load("cms_nested").explain(hypers={"periods": [6, 9, 27]})
    told = [fact(made, name) for name in "CBA"]
    ticks = ["6 (periods[0])", "9 (periods[1])", "27 (periods[2])"]
    assert [[*f.periods] for f in told] == [ticks[:2], ticks[1:], ticks[2:]]  # C and B are reset
    assert [*told[2].faster] == [
        "boundaries further apart than 27 tokens (another system): fewer steps"
    ]


def test_slow_weights_and_caches_take_no_steps() -> None:
    made = nlc.load("hope_slow").explain()
    assert (fact(made, "C_1").kind, fact(made, "C_1").plan) == ("constant", "held")
    f = fact(nlc.load("attention").explain(), "A")
    assert (f.kind, f.plan, f.cost.steps) == ("non-parametric", "parallel", 1)


# ---------------------------------------------------------------------------------------------- costs


def test_flops_of_the_gated_delta_rule_are_those_of_its_products() -> None:
    """A chunk of C tokens: Q S, W S and the state, 6 C m n; five products of C × C with keys or values; the solve."""
    m = n = 128
    spec, hypers = nlc.load("gated_delta_net"), {"heads": 1, "d": 128}
    made = spec.explain(hypers=hypers)
    for c in (64, 32):
        f = fact(spec.explain(plan={"S": f"chunked({c})"}, hypers=hypers))
        chunk = 6 * c * m * n + 2 * c * c * (3 * n + 2 * m) + c**3
        assert f.cost.flops * c == pytest.approx(chunk, rel=0.01)
    assert fact(made).cost.flops * 64 == pytest.approx(
        11.7e6, rel=0.02
    )  # as published kernels take


def test_flops_of_a_loop_are_those_of_its_lines() -> None:
    """S k − v, the outer product, β times it, S minus that; then S q."""
    d = 6
    f = of(system(), backend="reference")
    assert f.cost.flops == (2 * d * d + d) + d * d + d * d + d * d + 2 * d * d
    projections = nlc.loads(system()).explain().projections
    assert projections.flops == 3 * 2 * d * d


def test_states_and_what_moves() -> None:
    d = 6
    chunked = of(system(), plan={"S": "chunked(64)"})
    assert chunked.cost.state == 4 * d * d
    flows = 4 * (d + d + d + d)  # key, value, query, what is read
    assert chunked.cost.moved == flows + 2 * 4 * d * d / 64
    assert of(system(), backend="reference").cost.moved >= 2 * 4 * d * d
    made = nlc.load("attention").explain(tokens=512)
    assert fact(made, "A").cost.state == 512 * 2 * 256 * 4


def test_costs_of_attention_grow_with_the_stream_and_others_do_not() -> None:
    at = lambda name, t: load(name).explain(tokens=t).total.flops  # noqa: E731
    assert at("attention", 4096) > 1.5 * at("attention", 1024)
    assert at("delta_net", 4096) == pytest.approx(at("delta_net", 1024), rel=0.01)


def test_every_flop_belongs_to_someone() -> None:
    made = nlc.load("hope").explain()
    parts = [f.cost for level in made.levels for f in level] + [made.projections, made.flows]
    assert sum(c.flops for c in parts) == pytest.approx(made.total.flops)
    assert made.total.steps == sum(fact(made, n).cost.steps for n in ("M_k", "M_memory", *CMS))


CMS = ("cms.C_1", "cms.C_2", "cms.C_3")


def test_boundaries_that_periods_share_are_one() -> None:
    made = nlc.load("cms_nested").explain(hypers={"periods": [6, 9, 27]}, tokens=100)
    ends = {e for p in (6, 9, 27) for e in range(p, 100, p)} | {100}
    assert made.total.steps == len(ends)


def test_an_optimizer_costs_so_much_for_each_weight() -> None:
    made = nlc.load("adamw").explain()
    each = made.matrix[0] * made.matrix[1]
    assert fact(made, "m").kind == "elementwise" and round(made.total.state / each) == 12
    assert made.total.flops / each == pytest.approx(17, abs=0.01)
    assert fact(nlc.load("muon").explain(), "W").kind == "matrix"


def test_an_optimizer_is_explained_with_its_update() -> None:
    made = nlc.load("momentum").explain()
    lines = ["m ← β m + rate·(g + weight_decay·W⁻)", "W ← W − lr·m"]
    assert [line for level in made.levels for f in level for line in f.updates] == lines
    assert str(made).endswith("\n\n" + "\n".join(lines))
    assert fact(nlc.load("delta_net").explain()).updates == ()


# ---------------------------------------------------------------------------------------------- command line


def run(line: str, text: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.main, line.split(), input=text, prog_name="nlc")
    return result.exit_code, result.stdout, result.stderr


def test_the_verb_prints_what_the_method_gives() -> None:
    code, text, _ = run("explain titans --plan M=anchored(8) --set chunk=16 --tokens 64")
    made = nlc.load("titans").explain(plan={"M": "anchored(8)"}, hypers={"chunk": 16}, tokens=64)
    assert (code, text) == (0, f"{made}\n")
    code, text, _ = run("explain titans --backend reference --format json")
    assert (code, json.loads(text)) == (0, nlc.load("titans").explain("reference").asdict())


def test_a_code_is_explained_too() -> None:
    code, text, _ = run("explain nlc601")
    assert code == 0 and text.startswith("error[NLC601]: plan that does not hold\n")
    assert CODES["NLC601"].text in " ".join(text.split())
    code, text, _ = run("explain NLC210 --format json")
    assert code == 0 and json.loads(text)["severity"] == "warning"
    code, both, _ = run("explain NLC601 mean")
    assert code == 0 and both == f"{run('explain NLC601')[1]}\n{run('explain mean')[1]}"
    code, _, said = run("explain NLC999")
    assert code == 2 and "there is no code NLC999" in said


WRONG = {
    "explain nosuch": (2, "no spec and no word of the language"),
    "explain delta_net --plan S=anchored": (1, "NLC601"),
    "explain delta_net --plan S=chunkd": (2, "did you mean `chunked`?"),
    "explain delta_net --set e=1": (2, "has no hyper `e`"),
    "explain hope --set d=30": (2, "the size n is 15/2"),
    "explain hope --set chunk=0": (2, "the size chunk is 0"),
    "explain cms_sequential --set periods=2": (2, "`periods[0]` has no value"),
    "explain delta_net --tokens 0": (2, "--tokens"),
}


@pytest.mark.parametrize(("line", "expected"), WRONG.items(), ids=lambda x: str(x))
def test_what_cannot_be_is_said(line: str, expected: tuple[int, str]) -> None:
    code, text, said = run(line)
    assert (code, text) == (expected[0], "") and expected[1] in " ".join(said.split())


def test_the_method_raises_what_the_verb_says() -> None:
    spec = nlc.load("delta_net")
    with pytest.raises(BadHyper):
        spec.explain(hypers={"e": 1})
    with pytest.raises(BadPlan):
        spec.explain(plan={"T": "chunked"})
    with pytest.raises(nlc.SpecError, match="NLC601"):
        spec.explain(plan={"S": "anchored"})


def test_explain_says_what_runs_in_kernels() -> None:
    said = " ".join(str(nlc.load("gated_delta_net").explain("triton")).split())
    kept = "64 KiB for each 64 tokens, or each `checkpoint`"  # four heads of 64 by 64 float32
    assert f"; in kernels, whose backward pass needs {kept}" in said
    assert "kernels" not in str(nlc.load("gated_delta_net").explain("torch"))
    for d, chunk, said in ((256, 64, ""), (800, 32, ""), (1200, 32, "at most, not 300")):
        found = nlc.load("gated_delta_net").explain("triton", hypers={"d": d, "heads": 4})
        assert found.levels[0][0].tile == chunk and said in " ".join(str(found).split())


def test_explain_says_whether_a_scan_and_its_read_are_one_kernel() -> None:
    """As the generated file has it: one read that is all there is, two of one memory, coupled states."""
    one, two = "without gradients one kernel scans and reads", "; a kernel scans and another reads"
    for name, said in (("gated_delta_net", one), ("gla", one), ("mesa_net", two), ("titans", two)):
        spec = load(name)
        assert said in " ".join(str(spec.explain("triton")).split()), name
        called = re.search(r'state\["\w+"\], \w+ = \w+_read\(', spec.source_text("triton"))
        assert (called is not None) is (said == one), name
    assert "reads" not in str(nlc.load("gla").explain("torch"))


def test_explain_says_how_packed_sequences_run() -> None:
    """As the generated file has it, with the reason where they do not run at once."""
    reasons = {
        "gated_delta_net": "all at once",
        "retnet": "all at once",
        "attention": "`A.key` has as many rows",
        "linear_transformer": "all at once",
        "titans": "something changes every chunk tokens",
        "yaad": "it takes one token after the other",
    }
    for name, why in reasons.items():
        spec = load(name)
        found = spec.explain("triton")
        assert why in found.streams and why in " ".join(str(found).split()), name
        assert found.asdict()["streams"] == found.streams
        at_once = "= packed_streams(" in spec.source_text("triton")
        assert at_once is (why == "all at once"), name
    assert "streams" not in nlc.load("gla").explain("torch").asdict()


def test_every_class_and_plan_that_is_printed_is_explained() -> None:
    """And none is explained that no shipped spec shows."""
    kinds, plans = set(), set()
    for name in shipped():
        spec = load(name)
        facts = [f for part in spec.explain().levels for f in part]
        kinds |= {f.kind for f in facts}
        plans |= {f.plan for f in facts if spec.system.context == "tokens"}
    assert kinds == classes.CLASSES.keys()
    assert plans == classes.PLANS.keys() >= set(REQUESTS)


def test_several_are_one_document_of_json() -> None:
    code, text, _ = run("explain NLC210 anchor adamw --format json")
    alone = [
        json.loads(run(f"explain {x} --format json")[1]) for x in ("NLC210", "anchor", "adamw")
    ]
    assert (code, json.loads(text)) == (0, alone)


@pytest.mark.parametrize("tokens", [1, 63, 100_000, 1_000_003])
def test_the_steps_of_one_level_are_those_of_all(tokens: int) -> None:
    made = nlc.load("gated_delta_net").explain(tokens=tokens)
    ((fact,),) = made.levels
    assert fact.cost.steps == made.total.steps == -(-tokens // 64)
