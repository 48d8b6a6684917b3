"""`nlc verify` passes what is right and names what is not: a mistake put into the compiler fails its check."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner, Result
from random_systems import random_system
from shipped_specs import TRAINERS, load
from test_custom_specs import MATRICES
from test_time import CMS, HELD, SLOW, flows, loop

import nlc
import nlc.lib.rules
from nlc import cli, pipeline
from nlc.ir import ops
from nlc.passes.lower.periods import Periods
from nlc.pipeline import shipped
from nlc.tools.sizes import longest, settled, small

TOKENS = 60  # enough for every check to run; how memories live is tested below


def failed(spec: nlc.Spec, **options: object) -> list[str]:
    result = spec.verify(**{"tokens": TOKENS, **options})
    assert result.passed == all(c.passed is not False for c in result.checks)
    return [c.what for c in result.checks if c.passed is False]


# what is right


# tests/test_conformance.py verifies the optimizers, whose trajectories it keeps
SPECS = [
    pytest.param(name, marks=[pytest.mark.long] * (name in TRAINERS)) for name in sorted(shipped())
]


@pytest.mark.parametrize("name", SPECS)
def test_every_shipped_spec_passes(name: str) -> None:
    spec = load(name)
    result = spec.verify(tokens=400)
    assert [c.what for c in result.checks if c.passed is False and not c.life] == [], str(result)
    assert result.passed or name in DIES, str(result)
    said = {c.what for c in result.checks}
    for level, update in spec.updates.items():
        assert any(f"{level}: the derived gradient = autograd's" in w for w in said) == bool(
            update.gradient
        )
    parts = ["outputs", "gradients"] if spec.system.context == "tokens" else ["weights"]
    assert all(any(f"the {part}" in what for what in said) for part in parts)


DIES = ("hope_literal",)  # as its doc says


@pytest.mark.parametrize("name", DIES)
def test_what_dies_fails_by_its_memories_alone(name: str) -> None:
    spec = load(name)
    result = spec.verify(tokens=400)
    dead = {s.name for s in spec.system.states.values() if s.level.startswith("M_")}
    assert {c.what.split()[0] for c in result.checks if c.passed is False} == dead
    assert not result.passed
    assert str(result).endswith("is what the spec says, but its memories do not live")


@pytest.mark.parametrize("name", ["delta_net", "gated_delta_net", "linear_attention"])
def test_operators_pass(name: str) -> None:
    assert failed(load(name, operator=True)) == []


@pytest.mark.parametrize("text", [CMS, SLOW, HELD], ids=["cms", "slow", "held"])
@pytest.mark.parametrize("seed", [0, 1])
def test_periods_boundaries_and_resets_pass(text: str, seed: int) -> None:
    assert failed(nlc.loads(text), seed=seed) == []


def test_a_loop_that_gives_more_than_a_line_of_flows_passes() -> None:
    """Its call stands behind lines that name what it is given, and its targets are one a line."""
    spec = nlc.loads(MANY)
    assert "        ) = tokens(self._memory, state, seen, carried, flows)\n" in spec.source_text(
        "torch"
    )
    assert failed(spec) == []


MANY = """
nlc: 1
system: many
context: tokens
hyper: {d: 3}
inputs: {a_long_key: [d], a_long_value: [d], a_long_query: [d]}
levels:
  memory:
    frequency: every token
    anchor: every 4 tokens
    memory: mlp(d, 2, bias=true)
    key: a_long_key
    value: a_long_value
    objective: 0.5 * sqnorm(memory(key) - value)
    rule: gd(lr=0.1)
    init: learned
  other:
    frequency: every token
    memory: matrix(d, d)
    objective: 0.5 * sqnorm(other(tanh(memory(a_long_key))) - anchor(memory)(a_long_value))
    rule: gd(lr=0.1 * sqnorm(memory.W1) / (1 + sqnorm(memory.b1) + sqnorm(memory.W2) + sqnorm(memory.b2)))
output: memory(a_long_query) + other(a_long_query) + memory(a_long_value) + anchor(memory)(a_long_query)
"""


def test_systems_that_exist_only_in_tests_pass() -> None:
    for name, (text, _) in MATRICES.items():
        assert failed(nlc.loads(textwrap.dedent(text))) == [], name


def _check_random(seeds: range) -> int:
    """How many of them were sound; the outer gradient need not reach what nobody reads."""
    sound = 0
    for seed in seeds:
        spec = nlc.loads(random_system(seed))
        if not spec.check().has_errors:
            sound += 1
            whats = failed(
                spec, tokens=4
            )  # what has no numbers, as √0 has no slope, has none in both
            wrong = [w for w in whats if _is_equality(w) and "stay below" not in w]
            assert wrong == [], (seed, spec.source.text)
    return sound


def test_random_systems_pass() -> None:
    assert _check_random(range(25)) > 6


@pytest.mark.long
def test_more_random_systems_pass() -> None:
    assert _check_random(range(25, 2000)) > 500


def _is_equality(what: str) -> bool:
    """Not how long memories live, which these are not made for."""
    return " = " in what or "saved" in what or "stay below" in what


BASE = """
nlc: 1
system: timed
context: tokens
hyper: {d: 3}
inputs: {k: [d], v: [d], q: [d], a: []}
let:
  f: A(q)
  u: sqrt(sqnorm(B) + 1)
levels:
  A:
    frequency: every token
    memory: matrix(d, d)
    objective: 0.5 * sqnorm(A(k) - v)
    rule: gd(lr=0.1)
  B:
    frequency: every 2 tokens
    memory: matrix(d, d)
    objective: sum(0.5 * sqnorm(B(k) - v))
    rule: gd(lr=0.1)
  C:
    frequency: every 4 tokens
    memory: matrix(d, d)
    objective: sum(0.5 * sqnorm(C(k) - v))
    rule: gd(lr=0.1)
output: A(q) + B(q) + C(q) / u
"""
FAST, MIDDLE, SLOWEST = (
    f"sqnorm({x}(k) - v){')' * (x != 'A')}\n    rule: gd(lr=0.1)" for x in "ABC"
)
# Found by random systems and minimised: an edit of BASE each.
FOUND = {
    "a_flow_read_in_and_after_the_loop": ("+ B(q)", "+ B(f) + a * f"),
    "mean_of_a_flow_of_a_slow_state": (SLOWEST, SLOWEST.replace("0.1", "0.1 * mean(u)")),
    "last_of_a_flow_of_a_slow_state": (SLOWEST, SLOWEST.replace("0.1", "0.1 * last(u)")),
    "a_flow_of_a_state_of_the_same_clock": (
        SLOWEST,
        SLOWEST.replace("0.1", "0.1 / w")
        + "\n  D:\n    frequency: every 4 tokens\n    memory: matrix(d, d)\n"
        "    objective: sum(-dot(D(k), v))\n    rule: gd(lr=1)",
    ),
    "prox_decays_at_its_base": (
        FAST,
        FAST.replace("gd(lr=0.1)", "prox(lr=0.1, decay=1 / (1 + 0.1 * sqnorm(A)))\n    retain: a"),
    ),
    "prox_is_near_its_base": (FAST, FAST.replace("gd", "prox") + "\n    anchor: every 3 tokens"),
    "a_reset_to_a_number": (MIDDLE, MIDDLE + "\n    reset: {every: 4 tokens, to: 0.1}"),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_random_systems_have_found_stays_right(name: str) -> None:
    text = BASE.replace(*FOUND[name], 1)
    text = text.replace("let:", "let:\n  w: sqrt(sqnorm(D) + 1)") if "/ w" in text else text
    assert text != BASE
    assert [w for w in failed(nlc.loads(text)) if _is_equality(w)] == []


MATRIX = "matrix(d, d)"
PAIR = "{W: [d, d], b: [d], read(z): W @ z + b}"


def level(name: str, frequency: str, rule: str, memory: str = MATRIX, **more: str) -> str:
    """A level that learns v at k, and whatever else is said of it."""
    gathers = "sum({})" if frequency != "every token" else "{}"
    fields = {
        "frequency": frequency,
        "memory": memory,
        "objective": gathers.format(f"0.5 * sqnorm({name}(k) - v)"),
        "rule": rule,
        **more,
    }
    return f"  {name}:\n" + "".join(f"    {k}: {v}\n" for k, v in fields.items())


EPISODE = "every episode"
PERIOD = "every 2 tokens"
# Found by random systems of more kinds and minimised: the levels, and what is read of them.
ALSO_FOUND = {
    "the_rate_of_a_rule_reads_the_count_of_its_level": (
        level("A", PERIOD, "momentum(lr=0.1, rate=1 / t, beta=0.8)"), "A(q)"),
    "a_rule_counts_the_ticks_of_a_declared_clock": (level("A", EPISODE, "adamw(lr=0.1)"), "A(q)"),
    "a_rule_of_a_declared_clock_at_the_start": (
        level("A", EPISODE, "momentum(lr=0.1, rate=1 / t, beta=0.8)", phase="start"), "A(q)"),
    "a_flow_of_a_slow_gradient": (level("A", PERIOD, "adam(lr=0.1)"), "A(q)"),
    "a_base_that_counts": (level("A", PERIOD, "gd(lr=0.1)", retain="1 / t", toward="0.2"), "A(q)"),
    "several_states_are_projected_together": (
        level("A", "every token", "gd(lr=0.1)", PAIR, project="A / max(norm(A), 1)"), "A(q)"),
    "the_norm_of_several_states_at_zero": (
        level("A", PERIOD, "gd(lr=0.1)", PAIR, project="A / max(norm(A), 1)",
              reset="every 4 tokens"), "A(q)"),
    "a_reset_behind_the_tick_of_phase_start": (
        level("A", PERIOD, "gd(lr=0.1)", phase="start", reset="every 4 tokens"), "A(q)"),
    "a_reset_within_an_episode": (
        level("A", EPISODE, "gd(lr=0.1)", reset="every 4 tokens", init="learned"), "A(q)"),
    "counts_of_sums_that_start_anew_at_different_times": (
        level("A", PERIOD, "gd(lr=0.1 * mean(a))", phase="start", reset="every 4 tokens")
        + level("B", PERIOD, "gd(lr=0.1 * mean(b))", phase="start"), "A(q) + B(q)"),
    "an_anchor_moves_within_what_is_gathered": (
        level("A", PERIOD, "gd(lr=0.1)", phase="start", anchor="every 4 tokens"), "A(q)"),
    "a_bias_is_erased_once_for_each_key": (level("A", PERIOD, "dgd(lr=0.1)", PAIR), "A(q)"),
    "a_sum_of_what_does_not_change_in_it": (
        level("B", PERIOD, "gd(lr=0.1)", init="learned")
        + level("A", "every 4 tokens", "gd(lr=0.1)", PAIR,
                objective="sum(sum(A.W) + a) + mean(0.1 * sqnorm(A.b) + a)"), "A(q) + B(q)"),
    "a_ratio_of_sums_is_no_mean": (
        level("A", "every token", "dgd(lr=0.1)",
              objective="sum(0.5 * sqnorm(A(k) - v), last=2) / sum(1 + a, last=2)"), "A(q)"),
    "prox_reads_its_rate_at_the_base": (
        level("A", "every token", "prox(lr=0.1 * u, decay=a)"), "A(q)"),
    "a_flow_of_its_own_past_beside_a_count": (
        level("A", PERIOD, "gd(lr=0.1 * mean(h) / t)"), "A(q)"),
    "prev_of_what_a_late_level_was": (
        level("A", PERIOD, "gd(lr=0.1)", objective="sum(0.5 * sqnorm(A(e) - v))"), "A(q)"),
    "prev_of_a_state_before_the_last_tick": (
        level("A", "every token", "gd(lr=0.1 / (1 + prev(sqnorm(prev(A)))))"), "A(q)"),
    "prev_as_a_level_of_the_same_clock_sees_it": (
        level("A", PERIOD, "gd(lr=0.1)") + level("B", PERIOD, "gd(lr=0.1 / (1 + prev(u)))"),
        "B(q) + prev(u) * q"),
    "prev_before_a_reset": (
        level("A", "every token", "gd(lr=0.1 / (1 + prev(sqnorm(A))))",
              reset="every 3 tokens"), "A(q)"),
    "a_slow_flow_in_an_output": (level("B", PERIOD, "gd(lr=0.1)"), "w.T @ q"),
    "levels_of_one_clock_that_read_each_other_as_held": (
        level("A", PERIOD, "gd(lr=0.1)", objective="sum(0.5 * sqnorm(A(k) - B(k)))")
        + level("B", PERIOD, "gd(lr=0.1)", objective="0.5 * sqnorm(B - A)", init="learned"),
        "A(q) + B(q)"),
    "dgd_at_every_key_that_a_slow_level_gathers": (level("A", PERIOD, "dgd(lr=0.1)"), "A(q)"),
    "a_gathered_gradient_at_the_retained_state": (
        level("A", PERIOD, "gd(lr=0.1)", retain="0.9"), "A(q)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALSO_FOUND)
def test_what_more_random_systems_have_found_stays_right(name: str) -> None:
    levels, read = ALSO_FOUND[name]
    flows = {
        "u": "sqrt(sqnorm(A) + 1)",
        "h": "0.5 * prev(h) + a",
        "e": "prev(A(k))",
        "w": "-B",
    }
    used = {n: e for n, e in flows.items() if re.search(rf"\b{n}\b", levels + read)}
    lets = "let:\n" + "".join(f"  {n}: {e}\n" for n, e in used.items()) if used else ""
    text = (
        "nlc: 1\nsystem: found\ncontext: tokens\nhyper: {d: 3}\n"
        "inputs: {k: [d], v: [d], q: [d], a: [], b: []}\n"
        + "clocks: {episode: a - 0.6}\n" * ("episode" in levels)
        + f"{lets}levels:\n{levels}output: {read} + b * q\n"
    )
    assert [w for w in failed(nlc.loads(text)) if _is_equality(w)] == [], text


def test_slopes_by_a_let_of_the_state_pass() -> None:
    text = BASE.replace("let:", "let:\n  P: A / norm(A, p=4)**2")
    update = "    update: 0.9 * A - 0.1 * grad(lp(P(k) - v, 3), P)\n"
    start = text.index("    objective: 0.5 * sqnorm(A")
    text = text[:start] + update + text[text.index("  B:") :]
    assert [w for w in failed(nlc.loads(text)) if _is_equality(w)] == []


def test_the_interpreter_itself_is_a_loop_written_out() -> None:
    """It is trusted elsewhere, so it is held here against the plain transcription of the tests."""
    import torch

    from nlc.runtime.interpreter import Interpreter

    system = nlc.loads(CMS).system
    noise = torch.Generator().manual_seed(2)
    starts = [torch.randn(3, 3, generator=noise, dtype=torch.float64) for _ in "AS"]
    x = flows(26)
    run = Interpreter(system, settled(system, {}), dict(zip(("A.init", "S.init"), starts)))
    states, out = run.begin(batch=2), {n: [] for n in system.output}
    for t in range(26):
        y, states = run.tick({n: f[:, t, None] for n, f in x.items()}, states)
        for n in out:
            out[n].append(y[n][:, 0])
    for n, expected in loop(x, *starts).items():
        torch.testing.assert_close(torch.stack(out[n], 1), expected, rtol=0, atol=1e-12)


# what is wrong


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``sources(old, new)`` changes what one backend generates."""

    def change(old: str, new: str, of: str = "reference") -> None:
        emitted = nlc.Spec.source_text

        def source_text(self: nlc.Spec, backend: str = "auto", *more: object) -> str:
            text = emitted(self, backend, *more)
            if self.backend(backend) != of:
                return text
            assert old in text
            return text.replace(old, new)

        monkeypatch.setattr(nlc.Spec, "source_text", source_text)

    return change


def test_a_wrong_derivative_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.OPS["sqnorm"]
    wrong = replace(right, vjp=lambda n, g: (ops.mul(g, ops.mul(ops.num(2.001), n.args[0])),))
    monkeypatch.setitem(ops.OPS, "sqnorm", wrong)
    whats = failed(nlc.load("gated_delta_net"))
    assert whats == [
        "S: the derived gradient = autograd's",
        *(
            f"{backend}: {what} = the interpreter's"
            for backend in pipeline.EXACT
            for what in ("the outputs", "the states at the end", "the gradients of the outputs")
        ),
    ]


def test_a_wrong_step_fails_though_its_gradient_is_right(sources: Callable) -> None:
    sources("S = S - beta_t", "S = S + beta_t")
    whats = failed(nlc.load("delta_net"))
    assert [w.partition(" = ")[0] for w in whats[:3]] == [
        "reference: the outputs",
        "reference: the states at the end",
        "reference: the gradients of the outputs",
    ]
    assert not any("derived" in w or "pieces" in w for w in whats)


def test_a_wrong_line_of_one_backend_fails_there_alone(sources: Callable) -> None:
    sources("dk.addcmul_(b, d_probe)", "dk.addcmul_(b, -d_probe)", of="torch")
    assert failed(nlc.load("delta_net")) == [
        "torch: the gradients of the outputs = the interpreter's"
    ]


def test_an_outer_gradient_that_is_cut_fails(sources: Callable) -> None:
    sources(
        "S = S - beta_t[..., None, None] * S_grad",
        "S = S - (beta_t[..., None, None] * S_grad).detach()",
    )
    assert failed(nlc.load("delta_net")) == [
        "reference: the gradients of the outputs = the interpreter's"
    ]


def test_a_reset_that_is_left_out_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closing = Periods.closing
    keep = lambda self: [x for x in closing(self) if x.note != "reset"]  # noqa: E731
    monkeypatch.setattr(Periods, "closing", keep)
    whats = failed(nlc.loads(CMS))
    assert "reference: the states at the end = the interpreter's" in whats
    assert not any("derived" in w or "pieces" in w for w in whats)


def test_a_boundary_in_the_wrong_place_fails(sources: Callable) -> None:
    sources("if (count - 1) % self.chunk == 0:", "if count % self.chunk == 0:")
    assert "reference: the outputs = the interpreter's" in failed(nlc.loads(CMS))


def test_a_sum_that_the_stream_does_not_carry_fails(sources: Callable) -> None:
    sources('"B.sum": B_sum', '"B.sum": torch.zeros_like(B_sum)')
    whats = failed(nlc.loads(CMS))
    assert whats == [
        "reference: a stream in pieces = one call",
        "reference: token by token = one call",
    ]


def test_a_state_that_does_not_survive_a_file_fails(sources: Callable) -> None:
    sources(
        "    @torch.no_grad()\n    def step",
        "    def load_state_dict(self, state):\n        pass\n\n    @torch.no_grad()\n    def step",
    )
    assert failed(nlc.load("adamw")) == [
        "reference: saved and loaded after every step",
        "reference: a period of 3 gradients = one of their sum",
    ]


def test_a_wrong_line_of_an_optimizer_fails(sources: Callable) -> None:
    sources("1 - beta2**t", "1 - beta2")
    assert failed(nlc.load("adamw")) == [
        "reference: the changes of the weights = the interpreter's",
        "reference: the trajectory = the interpreter's",
    ]


@pytest.mark.parametrize("phase, fails", [("end", True), ("start", False)])
def test_an_optimizer_that_blows_up_what_it_trains_fails(phase: str, fails: bool) -> None:
    """A slow memory of squares is 0 for k - 1 steps, and what is divided by its root as large as 1 / eps."""
    text = nlc.load("momentum").source.text.replace("hyper:", "hyper:\n  k: 5")
    text = text.replace("  W:\n", SQUARES.format(phase)).replace(
        "dot(W, m", "dot(W, m / (sqrt(v) + 1e-8)"
    )
    found = nlc.loads(text).verify()
    what = "no step makes the loss 10,000 times as large as it was, of 16"
    (check,) = [c for c in found.checks if c.what == what]
    assert (check.passed, found.passed) == (not fails, not fails)
    assert ("its steps blow up what they train" in str(found)) == fails


def test_a_large_step_alone_blows_nothing_up() -> None:
    """It diverges on what is curved more than 2, which is no fault of the optimizer."""
    found = nlc.load("sgd").verify(hypers={"lr": 1.0})
    assert found.passed, str(found)


SQUARES = """\
  v:
    frequency: every k steps
    phase: {}
    memory: like(W)
    objective: -dot(v, mean(g * g))
    rule: gd(lr=0.1, decay=0.9)
  W:
"""

ROUTED = """
nlc: 1
system: routed
context: gradients
hyper: {lr: 0.01, steps: 3}
applies_to: {square: "momentum(lr=lr, beta=0.5)", matrices: self, rest: gd(lr=lr)}
levels:
  m:
    frequency: every step
    memory: like(W)
    objective: -dot(m, g)
    rule: gd(lr=0.1, decay=0.9)
  W:
    frequency: every step
    objective: dot(W, newton_schulz(m, steps))
    rule: gd(lr=lr * sqrt(nrows(W)))
"""


def test_each_kind_of_tensor_has_its_own_rule(sources: Callable) -> None:
    result = nlc.loads(ROUTED).verify()
    assert result.passed
    said = [c.what for c in result.checks if "derived" in c.what]
    assert [w.partition(":")[0] for w in said] == [
        "square",
        "square",
        "matrices",
        "matrices",
        "rest",
    ]
    changes = next(c for c in result.checks if "changes" in c.what)
    assert all(s in changes.note for s in ("[]", "[5]", "[4, 3]", "[3, 3]", "[2, 3, 2]"))
    sources('"rest": RoutedRest', '"rest": RoutedSquare')
    assert "reference: the changes of the weights = the interpreter's" in failed(nlc.loads(ROUTED))


def test_routes_by_name_and_views_are_verified() -> None:
    """Each part of a view is the interpreter's, with memories of its own."""
    asked = (
        'applies_to: {qkv: {names: "*.qkv", view: "split(0, steps)", rule: self},'
        " stacks: {view: flatten(1:), rule: self}, thin: {kinds: matrices, where: ncols(W) < 3,"
        " rule: gd(lr=lr)}, rest: gd(lr=lr)}"
    )
    text = re.sub("applies_to: .*", asked, ROUTED)
    result = nlc.loads(text).verify()
    assert result.passed
    changes = next(c for c in result.checks if "changes" in c.what)
    assert "[6, 3]" in changes.note and "[2, 3, 2]" in changes.note
    memories = next(c for c in result.checks if "memories" in c.what)
    assert memories.error is not None and memories.error < 1e-12


GROUPED = """
nlc: 1
system: grouped
context: tokens
hyper: {d: 4, fast: 0.1}
inputs: {x: [d]}
levels:
  C:
    frequency: every 3 steps
    memory: mlp(d, 2)
    objective: loss
    rule: momentum(lr=fast, beta=0.5)
output: C(x)
"""


def test_the_rule_of_a_group_is_verified(sources: Callable) -> None:
    what = "reference: the rule momentum of a group = the interpreter's"
    assert what in {c.what for c in nlc.loads(GROUPED).verify(tokens=TOKENS).checks}
    assert failed(nlc.loads(GROUPED)) == []
    sources("beta * m", "beta * beta * m")
    assert failed(nlc.loads(GROUPED)) == [what]


def test_a_period_that_forgets_a_gradient_fails(sources: Callable) -> None:
    sources("g.clone() if total is None else total + g", "g.clone()")
    assert failed(nlc.load("adamw")) == ["reference: a period of 3 gradients = one of their sum"]


def test_a_small_step_is_not_hidden_behind_the_weight() -> None:
    """A change of 1e-9 that is one percent off is one percent off."""
    text = """
nlc: 1
system: slow
context: gradients
hyper: {lr: 1e-9}
levels:
  W:
    frequency: every step
    objective: dot(W, g)
    rule: gd(lr=lr)
"""
    check = next(c for c in nlc.loads(text).verify().checks if "changes" in c.what)
    assert check.passed and check.tolerance < 1e-4  # what float64 leaves of it


def test_a_step_in_another_format_has_the_limit_of_that_format(sources: Callable) -> None:
    text = """
nlc: 1
system: rounded
context: gradients
levels:
  W:
    frequency: every step
    objective: dot(W, newton_schulz(g, 5, quintic, float32))
    rule: gd(lr=0.25)
"""
    what = "reference: the changes of the weights = the interpreter's"
    check = next(c for c in nlc.loads(text).verify().checks if c.what == what)
    assert check.passed and check.error > 1e-10 and "newton_schulz in float32" in check.note
    sources("0.25 *", "0.2525 *")
    assert what in failed(nlc.loads(text))


def test_a_short_format_may_be_off_as_far_as_rounding_moves_what_comes_out() -> None:
    """Steps as long as the rows themselves enlarge what is lost within the iteration."""
    text = nlc.load("lact").source.text.replace("rate: 0.01", "rate: -1.01")
    result = nlc.loads(text, "lact.yaml").verify(tokens=2)
    slopes = [c for c in result.checks if "gradients of the outputs" in c.what]
    assert slopes and all(c.passed and 1e-4 < c.error < c.tolerance < 1e-1 for c in slopes), slopes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nlc.runtime.verify.tokens.ENLARGED", 0.0)
        again = nlc.loads(text, "lact.yaml").verify(tokens=2)
    assert [c.passed for c in again.checks if "gradients of the outputs" in c.what] == [False] * 2


def test_what_grows_out_of_hand_is_not_compared() -> None:
    grows = BASE.replace(FAST, FAST.replace("0.1", "1e9"))
    result = nlc.loads(grows).verify(tokens=TOKENS)
    large = [c for c in result.checks if "stay below" in c.what]
    assert [c.passed for c in large] == [False] * len(pipeline.EXACT)
    assert not any(" = " in c.what for c in result.checks)


def test_a_rule_inside_a_rule_is_seen() -> None:
    text = BASE.replace(FAST, FAST.replace("gd(lr=0.1)", "lookahead(lr=0.1, k=2)"))
    assert [w for w in failed(nlc.loads(text)) if _is_equality(w)] == []
    said = {c.what for c in nlc.loads(text).verify(tokens=TOKENS).checks}
    assert {f"{n}: the derived gradient = autograd's" for n in ("A", "A.W", "A.W.m")} <= said


# how memories live

LIVES = """
nlc: 1
system: lives
context: tokens
hyper: {d: 4}
inputs: {x: [d]}
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    init: learned(0.5)
    update: STEP
output: S(x) + x
"""


@pytest.mark.parametrize(
    ("step", "what"),
    [
        ("S", None),
        ("0.99 * S", "S keeps its norm within [0.1, 10] of its start"),
        ("1.01 * S", "S keeps its norm within [0.1, 10] of its start"),
        ("2 * S", "2,000 random and correlated tokens in float32 stay finite"),
    ],
)
def test_a_memory_that_dies_or_grows_fails(step: str, what: str | None) -> None:
    whats = failed(nlc.loads(LIVES.replace("STEP", step)), tokens=2000)
    forgets = "the last output depends on the token 1,000 back"
    assert forgets in whats  # a memory that starts learned and takes in nothing
    assert (what in whats) if what else whats == [forgets]


def test_a_memory_that_takes_in_what_it_sees_remembers() -> None:
    """0.99 per token leaves 4e-5 after a thousand; decay towards the start keeps the norm."""
    step = "0.99 * S + 0.01 * (0.5 + 0.1 * outer(x, x))"
    assert failed(nlc.loads(LIVES.replace("STEP", step)), tokens=2000) == []


def test_what_starts_at_zero_is_a_fact() -> None:
    result = nlc.load("linear_attention").verify(tokens=2000)
    fact = next(c for c in result.checks if "starts at 0" in c.what)
    assert fact.passed is None and result.passed
    low, high = map(float, fact.note.split(" to "))
    assert 100 < low < high


FROM_ZERO = """
nlc: 1
system: from_zero
context: tokens
hyper: {d: 32, n: 4}
inputs: {x: [d]}
levels:
  S:
    frequency: every token
    memory: MEMORY
    key: l2norm(linear(x, n))
    value: linear(x, n)
    objective: 0.5 * sqnorm(S(key) - value)
    rule: RULE
output: linear(S(l2norm(linear(x, n))))
"""


def test_a_running_maximum_starts_empty() -> None:
    """At -inf, as a sum starts at 0: its norm afterwards is a fact, and no part of its start."""
    text = FROM_ZERO.replace("MEMORY", "vector(n)").replace("S(l2norm(linear(x, n)))", "S")
    step = text[text.index("    objective") : text.index("output")]
    result = nlc.loads(
        text.replace(step, "    init: -inf\n    update: max(0.9 * S, abs(linear(x, n)))\n")
    ).verify(tokens=400)
    assert result.passed and [c.passed for c in result.checks if "S starts at -inf" in c.what] == [
        None
    ]


def from_zero(rule: str, memory: str = "matrix(n, n)") -> nlc.Spec:
    return nlc.loads(FROM_ZERO.replace("MEMORY", memory).replace("RULE", rule))


@pytest.mark.parametrize("tokens", [400, 1000, 2000])
def test_a_memory_from_zero_that_explodes_fails(tokens: int) -> None:
    """Momentum that is written too strongly: finite in float32, or infinite, or no number, at these lengths."""
    whats = failed(from_zero("momentum(lr=1, rate=0.5, beta=1.02)"), tokens=tokens)
    norms = {f"{s} starts at 0: its norm after {tokens:,} tokens" for s in ("S", "S.m")}
    assert norms <= set(whats)
    assert failed(from_zero("momentum(lr=1, rate=0.05, beta=0.9)"), tokens=tokens) == []


def test_norms_are_finite_where_their_squares_are_not() -> None:
    """Elements of 1e30 are finite in float32 and their norm is too; what is no number never passes."""
    from nlc.runtime.verify.alive import _norms

    s = next(iter(from_zero("gd(lr=1)").system.states.values()))
    assert _norms(s, torch.full((1, 4, 4), 1e30)).item() == pytest.approx(4e30)


@pytest.mark.parametrize("rule", ["gd(lr=0.1)", "momentum(lr=0.1)"])
def test_a_memory_that_never_leaves_zero_fails(rule: str) -> None:
    whats = failed(from_zero(rule, "mlp(n, 2)"), tokens=400)
    norms = {f"S.{w} starts at 0: its norm after 400 tokens" for w in ("W1", "W2")}
    assert norms <= set(whats)


def test_a_memory_that_was_just_reset_is_not_dead() -> None:
    spec = from_zero("gd(lr=1)\n    reset: every 100 tokens")
    result = spec.verify(tokens=400)
    fact = next(c for c in result.checks if "starts at 0" in c.what)
    assert fact.passed is None and fact.note == "0"


def test_a_start_that_no_gradient_reaches_fails() -> None:
    cut = LIVES.replace("STEP", "S").replace("S(x) + x", "stop(S) @ x + linear(x)")
    whats = failed(nlc.loads(cut))
    assert "reference: the outer gradient reaches the start of S" in whats
    reached = failed(nlc.loads(LIVES.replace("STEP", "S").replace("+ x", "+ linear(x)")))
    assert not any("outer gradient" in w for w in reached)


# sizes

FAMILY = """
nlc: 1
system: family
context: tokens
hyper: {d: 256, n: d / heads, chunk: 64, memory_chunk: 16, periods: [64, 256, 1024]}
heads: 4
inputs: {x: [d]}
let:
  k: l2norm(split(linear(x)))
levels:
  M:
    frequency: every token
    anchor: every memory_chunk tokens
    memory: matrix(n, n)
    objective: 0.5 * sqnorm(M(k) - anchor(M)(k))
    rule: gd(lr=0.1)
    init: learned
  C[i]:
    for: {i: [1, 2, 3], period: periods}
    frequency: every period tokens
    reset: every 1024 tokens
    memory: matrix(n, n)
    objective: sum(0.5 * sqnorm(C[i](k) - k))
    rule: gd(lr=0.1 / chunk)
output: merge(M(k) + sum(C[i](k) for i))
"""


def test_small_sizes_keep_their_order_and_what_divides_what() -> None:
    system = nlc.loads(FAMILY.replace("    reset: every 1024 tokens\n", "")).system
    chosen = small(system, {}, 8)
    assert chosen == {"memory_chunk": 2, "periods": [4, 8, 16], "heads": 2, "d": 8}
    assert longest(system, settled(system, chosen)) == 16
    assert small(system, {"periods": [6, 12, 24], "d": 64}, 8) == {
        "periods": [6, 12, 24], "d": 64, "memory_chunk": 2, "heads": 2,
    }  # fmt: skip
    assert small(system, {}, 32, periods=False) == {"heads": 2, "d": 32}
    literal = nlc.loads(FAMILY).system  # 1024 is written out, and what it is a multiple of stays so
    chosen = small(literal, {}, 8)
    assert chosen["periods"] == [4, 8, 1024]


def test_what_is_not_seen_is_said() -> None:
    """A period written out as a number cannot shrink: its level is not judged, and that is said."""
    result = nlc.loads(FAMILY).verify(tokens=TOKENS)
    line = next(c for c in result.checks if c.what.startswith("C_3: the derived"))
    assert line.passed is None and "period" in line.note and result.passed


# the command line


def run(line: str) -> Result:
    return CliRunner().invoke(cli.main, line.split(), prog_name="nlc")


def test_the_table_and_the_json_say_the_same() -> None:
    text, made = (run(f"verify delta_net --tokens 60 --seed 3{f}") for f in ("", " --format json"))
    assert (text.exit_code, made.exit_code, text.stderr) == (0, 0, "")
    data = json.loads(made.stdout)
    assert data["passed"] and data["seed"] == 3 and data["hypers"] == {"heads": 2, "d": 8}
    lines = text.stdout.splitlines()
    assert lines[0] == "delta_net at heads=2, d=8; seed 3"
    assert [c["what"] for c in data["checks"]] == [x[6:].partition("  ")[0] for x in lines[1:-1]]
    assert lines[-1] == f"{sum(c['passed'] is True for c in data['checks'])} checks passed"


def test_a_failure_is_exit_code_1_and_marked(sources: Callable) -> None:
    sources("S = S - beta_t", "S = S + beta_t")
    result = run("verify delta_net --tokens 60")
    assert result.exit_code == 1
    assert "FAIL  reference: the outputs = the interpreter's" in result.stdout
    assert "checks failed" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("delta_net --set head=2", "has no hyper `head`; did you mean `heads`?"),
        ("delta_net --set heads=3", "d = 256 is not divisible by heads = 3"),
        ("delta_net --set heads=0", "divides is 0"),
        ("delta_net --set d", "is not HYPER=VALUE"),
        ("adamw --set lr=fast", "is not HYPER=VALUE"),
        ("adamw --tokens 1", "--tokens"),
    ],
)
def test_hypers_that_cannot_be_are_refused(options: str, said: str) -> None:
    result = run(f"verify {options}")
    assert result.exit_code == 2 and said in result.stderr


def test_hypers_are_kept_as_given() -> None:
    result = run("verify adam --set weight_decay=0.1 --format json")
    assert json.loads(result.stdout)["hypers"] == {"weight_decay": 0.1}
    assert run("verify delta_net --set d=32 --tokens 60").stdout.startswith("delta_net at d=32, ")


def test_each_backend_is_verified() -> None:
    """A second backend has checks of its own; what is derived is checked once."""
    for name in ("delta_net", "adamw"):
        whats = [c.what for c in load(name).verify(tokens=TOKENS).checks]
        own = [sum(w.startswith(f"{b}: ") for w in whats) for b in pipeline.EXACT]
        assert own[0] == own[1] > 2
        assert len(set(whats)) == len(whats)


def test_the_interpreter_knows_every_operator() -> None:
    from nlc.runtime.expressions import LEAVES, TOLD
    from nlc.runtime.interpreter import RULES
    from nlc.runtime.operations import OPERATIONS

    lowered = {
        "over_samples",
        "outer_over_samples",
    }  # made of what specs say, which the interpreter goes by
    assert ops.OPS.keys() - lowered <= {*OPERATIONS, *TOLD, *LEAVES}
    assert RULES.keys() == nlc.lib.rules.RULES.keys()


def test_a_memory_starts_at_a_number_for_each_head() -> None:
    text = (
        "nlc: 1\nsystem: apart\ncontext: tokens\nhyper: {n: 4}\nheads: 2\ninputs: {x: [n * heads]}\n"
        "levels:\n  S:\n    frequency: every token\n    memory: MEMORY\n    key: l2norm(split(x))\n"
        "    init: (1 + head) / 4\n    objective: sqnorm(S(key) - key)\n    rule: gd(lr=0.2)\n"
        "output: {y: merge(S(S.key))}\n"
    )
    for memory in ("mlp(n, 2)", "matrix(n, n)"):
        found = nlc.loads(text.replace("MEMORY", memory)).verify(tokens=9)
        assert not [c for c in found.checks if c.passed is False and not c.life], str(found)
        made = nlc.loads(text.replace("MEMORY", memory)).compile()()
        first = next(iter(made.initial_state(torch.zeros(3, 8)).values()))
        assert (
            first.shape[:2] == (3, 2) and (first[:, 0] == 0.25).all() and (first[:, 1] == 0.5).all()
        )


def test_a_period_that_is_one_by_default_may_be_longer() -> None:
    """What its level gathers, and what its rule reads after a step, is as in any other period."""
    text = re.sub(r"(?m)^  chunk: \d+", "  chunk: 1", nlc.load("lact").source.text)
    assert "chunk: 1\n" in text
    for hypers in ({}, {"chunk": 3}):
        found = nlc.loads(text).verify(tokens=9, hypers=hypers)
        assert not [c for c in found.checks if c.passed is False and not c.life], str(found)


@pytest.mark.parametrize(
    ("name", "slip", "says"),
    (
        ("adamw", ("v / (1 - beta2**t)", "v / (1 - t**t)"), "division by zero, while computing"),
        ("shampoo", ("inv_root(last(R), 4, eps)", "inv_root(last(R), 1e-320, eps)"), "linalg.eigh"),
    ),
)
def test_what_has_no_numbers_fails_and_says_why(name: str, slip: tuple, says: str) -> None:
    text = load(name).source.text
    assert slip[0] in text
    found = nlc.loads(text.replace(*slip)).verify()
    assert any(says in c.note for c in found.checks if c.passed is False), str(found)
