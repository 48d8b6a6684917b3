"""Soundness warnings: for each a spec that triggers it and one that does not, and a check against numbers."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from language_specs import SPECS
from shipped_specs import GRADIENTS as OPTIMIZERS
from shipped_specs import load

import nlc
from nlc.passes.soundness.reach import Reaches
from nlc.pipeline import shipped

SPEC = """\
nlc: 1
system: one
context: tokens
hyper: {d: 16, n: 4, chunk: 16}
inputs: {x: [d]}
let:
  q: l2norm(linear(x, n))
  beta: sigmoid(linear(x))
  alpha: sigmoid(linear(x) + 4)
  a: sigmoid(linear(x, n))
  dt: softplus(linear(x))
  free: linear(x)
levels:
  S:
    frequency: every token
    memory: MEMORY
    key: KEY
    value: linear(x, n)
    objective: OBJECTIVE
    FIELDS
output: linear(S(q))
"""
SQUARE, DOT = "0.5 * sqnorm(S(key) - value)", "-dot(S(key), value)"
MLP = "{W1: [n, 2 * n], W2: [2 * n, n], read(z): z + W1 @ silu(W2 @ z)}"
GATED = "{W1: [n, n], W2: [n, n], read(z): silu(W1 @ z) * (W2 @ z)}"


def system(
    *fields: str, memory="matrix(n, n)", key="l2norm(linear(x, n))", objective=SQUARE
) -> str:
    text = (
        SPEC.replace("MEMORY", memory).replace("KEY", key).replace("FIELDS", "\n    ".join(fields))
    )
    if any(f.startswith("update") for f in fields):
        return text.replace("    objective: OBJECTIVE\n", "")
    return text.replace("OBJECTIVE", objective)


def slow(gather: str, lr: object, objective: str = SQUARE, **more: str) -> str:
    """A memory that steps once in a period by what it gathers over it."""
    text = system(f"rule: gd(lr={lr})", objective=f"{gather}({objective})", **more)
    return text.replace("frequency: every token", "frequency: every chunk tokens")


def optimizer(
    field="",
    clock="every k steps",
    memory="like(W)",
    value="g * g",
    step="g / (sqrt(v) + eps)",
    let="u: g",
) -> str:
    """One that divides by a memory v of squares."""
    squares = value if clock == "every step" else f"mean({value})"
    return f"""\
nlc: 1
system: divides
context: gradients
hyper: {{lr: 0.1, k: 5, eps: 1e-8}}
levels:
  v:
    frequency: {clock}
    memory: {memory}
    objective: -dot(v, {squares})
    rule: gd(lr=0.1, decay=0.9)
    {field}
  W:
    frequency: every step
    let:
      {let}
    objective: dot(W, {step})
    rule: gd(lr=lr)
"""


def said(text: str) -> list[str]:
    """The codes of the soundness warnings of a spec without mistakes."""
    report = nlc.loads(text, "spec.yaml").check()
    assert not report.has_errors, str(nlc.SpecError(report))
    return [d.code for d in report.diagnostics if d.code.startswith("NLC8")]


def pair(code: str, name: str, triggers: str, sound: str) -> list:
    return [
        pytest.param(triggers, [code], id=f"{code} {name}"),
        pytest.param(sound, [], id=f"{code} not: {name}"),
    ]


anchored = "anchor: every chunk tokens"
CASES = [
    *pair(
        "NLC801",
        "dgd with a gate erases twice",
        system("rule: dgd(lr=beta, decay=alpha)"),
        system("rule: dgd(lr=0.5 * beta, decay=alpha)"),
    ),
    *pair(
        "NLC801",
        "the same map: decay beside the erase, retain around it",
        system("rule: gd(lr=2 * beta, decay=alpha)"),
        system("retain: alpha", "rule: gd(lr=2 * beta)"),
    ),
    *pair(
        "NLC801",
        "three times by an objective without 1/2",
        system("rule: dgd(lr=beta)", objective="sqnorm(S(key) - value)"),
        system("rule: dgd(lr=0.5 * beta)", objective="sqnorm(S(key) - value)"),
    ),
    *pair(
        "NLC801",
        "per channel",
        system("rule: gd(lr=1.5 * beta, decay=per_key(a))"),
        system("rule: gd(lr=1.5 * beta, decay=per_key(0.5 + 0.5 * a))"),
    ),
    *pair(
        "NLC801",
        "channels of a bounded key add up",
        system("rule: gd(lr=beta)", key="tanh(linear(x, n))"),
        system("rule: gd(lr=beta)", key="tanh(linear(x, n)) / sqrt(n)"),
    ),
    *pair(
        "NLC801",
        "a step without a bound",
        system("rule: gd(lr=dt)"),
        system("rule: prox(lr=dt)"),
    ),
    *pair(
        "NLC801",
        "an explicit update",
        system("update: S - 3 * beta * outer(S @ key, key) + outer(value, key)"),
        system("update: S - 2 * beta * outer(S @ key, key) + outer(value, key)"),
    ),
    *pair(
        "NLC801",
        "keys that are rows: the erase stands left of the state",
        system("update: S - 3 * beta * outer(key, S.T @ key) + outer(key, value)"),
        system("update: S - beta * outer(key, S.T @ key) + outer(key, value)"),
    ),
    *pair(
        "NLC802",
        "decay by an unbounded flow",
        system("rule: gd(lr=beta, decay=free)", objective=DOT),
        system("rule: gd(lr=beta, decay=1 - sigmoid(free))", objective=DOT),
    ),
    *pair(
        "NLC802",
        "exp of something positive",
        system("rule: gd(lr=beta, decay=exp(dt))", objective=DOT),
        system("rule: gd(lr=beta, decay=exp(-exp(free) * dt))", objective=DOT),
    ),
    *pair(
        "NLC802",
        "retain",
        system("retain: per_key(2 * a)", "rule: gd(lr=beta)", objective=DOT),
        system("retain: per_key(clip(2 * a, 0, 1))", "rule: gd(lr=beta)", objective=DOT),
    ),
    *pair(
        "NLC802",
        "bounds that intervals do not know are not violations",
        system("rule: gd(lr=beta, decay=1 + dt)", objective=DOT),
        system("rule: gd(lr=beta, decay=dt / (1 + dt))", objective=DOT),
    ),
    *pair(
        "NLC803",
        "silu is no normalisation",
        system("rule: gd(lr=beta)", key="silu(linear(x, n))"),
        system("rule: gd(lr=beta)", key="l2norm(silu(linear(x, n)))"),
    ),
    *pair(
        "NLC803",
        "an input as it comes",
        system("rule: gd(lr=beta)", key="slice(x, 0, n)"),
        system("rule: gd(lr=beta)", key="slice(x, 0, n)", objective=DOT),
    ),
    *pair(
        "NLC803",
        "normalised by hand",
        system("rule: gd(lr=beta)", key="3 * linear(x, n)"),
        system("rule: gd(lr=beta)", key="a / norm(a)"),
    ),
    *pair(
        "NLC803",
        "dgd on a gradient without an erase of its own",
        system("rule: dgd(lr=beta)", key="linear(x, n)", objective=DOT),
        system("rule: dgd(lr=beta, exact=true)", key="linear(x, n)", objective=DOT),
    ),
    *pair(
        "NLC804",
        "an MLP",
        system(anchored, "rule: dgd(lr=beta)", "init: learned", memory=MLP),
        system(anchored, "rule: dgd(lr=beta / chunk)", "init: learned", memory=MLP),
    ),
    *pair(
        "NLC804",
        "gd on a matrix; dgd may",
        system(anchored, "rule: gd(lr=beta)"),
        system(anchored, "rule: dgd(lr=beta)"),
    ),
    *pair(
        "NLC804",
        "a gradient that does not read the memory adds up to nothing",
        system(anchored, "rule: gd(lr=beta)"),
        system(anchored, "rule: gd(lr=beta)", objective=DOT),
    ),
    *pair(
        "NLC804",
        "short keys",
        system("anchor: every 2 tokens", "rule: gd(lr=beta)"),
        system("anchor: every 2 tokens", "rule: gd(lr=beta)", key="0.7 * l2norm(linear(x, n))"),
    ),
    *pair(
        "NLC804",
        "a boundary at every tick is none",
        system("anchor: every 2 tokens", "rule: gd(lr=beta)"),
        system("anchor: every 1 tokens", "rule: gd(lr=beta)"),
    ),
    *pair(
        "NLC805",
        "an MLP",
        system("rule: gd(lr=0.1, decay=alpha)", "init: learned", memory=MLP),
        system("rule: gd(lr=0.1, decay=alpha)", "init: learned", "toward: init", memory=MLP),
    ),
    *pair(
        "NLC805",
        "by retain, and by gates that multiply; a matrix may",
        system("retain: alpha", "rule: gd(lr=0.1)", "init: learned", memory=GATED),
        system("retain: alpha", "rule: gd(lr=0.1)", "init: learned"),
    ),
    *pair(
        "NLC805",
        "a memory that is its own target",
        system(
            "rule: gd(lr=0.1, decay=alpha)",
            "init: learned",
            objective="sqnorm(S(key) - prev(S)(q))",
        ),
        system("rule: gd(lr=0.1)", "init: learned", objective="sqnorm(S(key) - prev(S)(q))"),
    ),
    *pair(
        "NLC806",
        "an MLP",
        system("rule: gd(lr=0.1)", memory=MLP),
        system("rule: gd(lr=0.1)", "init: learned", memory=MLP),
    ),
    *pair(
        "NLC806",
        "only products of weights",
        system("rule: gd(lr=0.1)", memory=GATED),
        system("rule: gd(lr=0.1)", memory="{W1: [n, n], b: [n], read(z): silu(W1 @ z + b)}"),
    ),
    *pair(
        "NLC801",
        "a step without a bound that momentum remembers",
        system("rule: momentum(lr=dt)"),
        system("rule: momentum(lr=1.5)"),  # up to 2 (1 + beta) heavy-ball holds it in check
    ),
    *pair(
        "NLC803",
        "the gradient goes through a memory of gradients",
        system("rule: momentum(lr=1, rate=beta, beta=alpha)", key="linear(x, n)"),
        system("rule: momentum(lr=1, rate=beta, beta=alpha)", key="linear(x, n)", objective=DOT),
    ),
    *pair(
        "NLC803",
        "Nesterov's look ahead, whose gradient is a flow; Adam's step is none in the state",
        system("rule: nesterov(lr=beta)", key="linear(x, n)"),
        system("rule: adamw(lr=0.1 * beta)", key="linear(x, n)"),
    ),
    *pair(
        "NLC804",
        "momentum only adds",
        system(anchored, "rule: momentum(lr=1, rate=beta, beta=alpha)"),
        system(anchored, "rule: momentum(lr=1, rate=beta / chunk, beta=alpha)"),
    ),
    *pair(
        "NLC804",
        "Nesterov on an MLP; orthogonal steps are not along the gradient",
        system(anchored, "rule: nesterov(lr=beta)", "init: learned", memory=MLP),
        system(anchored, "rule: muon(lr=beta)", "init: learned", memory=MLP),
    ),
    *pair(
        "NLC805",
        "momentum fades too; without beta < 1 it does not",
        system("rule: momentum(lr=0.1, decay=alpha)", "init: learned", memory=MLP),
        system("rule: momentum(lr=0.1, beta=1, decay=alpha)", "init: learned", memory=MLP),
    ),
    *pair(
        "NLC805",
        "retain before momentum; Adam's steps do not shrink with the gradient",
        system("retain: alpha", "rule: nesterov(lr=0.1)", "init: learned", memory=GATED),
        system("retain: alpha", "rule: adamw(lr=0.1)", "init: learned", memory=GATED),
    ),
    *pair(
        "NLC806",
        "what momentum remembers is 0 as well",
        system("rule: momentum(lr=0.1)", memory=MLP),
        system("rule: momentum(lr=0.1)"),
    ),
    *pair(
        "NLC801",
        "a slow level's mean, where all ticks of a period are alike",
        slow("mean", 2.1),
        slow("mean", 2),
    ),
    *pair("NLC801", "a slow level's sum", slow("sum", "2.1 / chunk"), slow("sum", "2 / chunk")),
    *pair(
        "NLC803",
        "a slow level's key; what its steps add does not erase",
        slow("mean", 0.1, key="linear(x, n)"),
        slow("mean", 0.1, key="linear(x, n)", objective=DOT),
    ),
    *pair("NLC807", "a slow level", optimizer(), optimizer("phase: start")),
    *pair(
        "NLC807",
        "through a let, by a power; another start",
        optimizer(step="g * r", let="r: (v + eps)**-0.5"),
        optimizer("init: normal(1)", step="g * r", let="r: (v + eps)**-0.5"),
    ),
    *pair(
        "NLC807",
        "the state before the tick; behind it",
        optimizer(clock="every step", step="g / (sqrt(prev(v)) + eps)"),
        optimizer(clock="every step"),
    ),
    *pair(
        "NLC807",
        "a divisor that bounds; what is 0 over it",
        optimizer(step="g / (0.5 * sqrt(v) + eps)"),
        optimizer(step="g / (sqrt(v) + 0.5) + tanh(v) / (sqrt(v) + eps)"),
    ),
    *pair(
        "NLC807",
        "where it is not passed over at the first steps",
        optimizer(step="where(t > k, g, g / (sqrt(v) + eps))"),
        optimizer(step="where(t <= k, g, g / (sqrt(v) + eps))"),
    ),
    *(
        pytest.param(
            optimizer(step=step, let="u: g / (sqrt(v) + eps)"), [], id=f"NLC807 not: in {step}"
        )
        for step in (
            "clip(u, -1, 1)",
            "newton_schulz(u)",
            "min(1, norm(u)) * g",
            "exp(-norm(u)) * g",
            "tanh(v) * u",
            "u / max(1, norm(u))",
            "u * min(1, 1 / norm(u))",
            "g / (1 + norm(u))",
        )
    ),
    *pair(
        "NLC807",
        "a root of a matrix",
        optimizer(memory="gram(W, left)", value="g @ g.T", step="inv_root(v, 4) @ g"),
        optimizer(memory="gram(W, left)", value="g @ g.T", step="inv_root(v + identity(v), 4) @ g"),
    ),
]


@pytest.mark.parametrize("text, codes", CASES)
def test_each_warning_has_a_spec_that_triggers_it_and_one_that_does_not(
    text: str, codes: list[str]
) -> None:
    assert said(text) == codes


@pytest.mark.parametrize("name", shipped())
def test_shipped_specs_are_sound(name: str) -> None:
    """But for the one that is shipped to show what it warns of."""
    expected = {"NLC805"} if name == "hope_literal" else set()
    assert {d.code for d in load(name).check().diagnostics} == expected


@pytest.mark.parametrize("name", ["mamba2", "adamw", "gated_delta_net"])
def test_specs_of_the_language_are_sound(name: str) -> None:
    assert said(SPECS[name]) == []


def hope(text: str) -> str:
    """Hope with its memories written inline."""
    inline = "{W1: [OUT, expand * IN], W2: [expand * IN, IN], read(z): W1 @ silu(W2 @ z)}"
    text = text.replace("mlp(n, expand, out=out)", inline.replace("IN", "n").replace("OUT", "out"))
    text = text.replace("mlp(d, expand)", inline.replace("IN", "d").replace("OUT", "d"))
    for gate in ("eta", "alpha"):
        text = text.replace(f"sigmoid(anchor(M[{gate}])(z)", f"sigmoid(sum(anchor(M[{gate}])(z))")
    return text


@pytest.mark.parametrize(
    "change, codes",
    [
        (("", ""), []),
        (("    toward: init ", "    # "), ["NLC805"]),  # the literal eq. 88
        (("lr=eta / size", "lr=eta"), ["NLC804"]),
        (("    init: learned\n    backprop", "    backprop"), ["NLC806"]),
    ],
)
def test_hope(change: tuple[str, str], codes: list[str]) -> None:
    assert said(hope(SPECS["hope"]).replace(*change)) == codes


def test_flows_that_the_caller_computes_are_the_callers() -> None:
    """An operator's inputs have no bounds that its spec could state; a spec is judged before it is cut."""
    text = system("rule: gd(lr=beta)", key="k").replace("{x: [d]}", "{x: [d], k: [n]}")
    assert said(text) == []
    for name in ("delta_net", "gated_delta_net"):
        assert not load(name, operator=True).check().diagnostics


# ------------------------------------------------------------------------------------------ against numbers

NUMBERS = """\
nlc: 1
system: numbers
context: tokens
hyper: {d: 8, n: 5}
<inputs>
levels:
  S:
    frequency: every token
    memory: matrix(n, n)
    key: <length> * k
    value: v
    objective: <half> * sqnorm(S(key) - value)
    <fields>
output: S(q)
"""
LETS = """\
inputs: {x: [d]}
outputs: {y: [n]}
let:
  q: linear(x, n)
  k: l2norm(linear(x, n))
  v: linear(x, n)
  b: sigmoid(sum(linear(x, n)))
  c: sigmoid(sum(linear(x, n)))
  a: sigmoid(linear(x, n))"""
OPERATOR = "inputs: {q: [n], k: [n], v: [n], b: [], c: [], a: [n]}"


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, str]:
    """A spec with gates of its own, and the same with its flows as inputs."""
    low = draw(st.sampled_from([0, 0.4, 0.8]))
    gate = draw(st.sampled_from(["<g>", "per_key(<a>)"]))
    where = draw(st.sampled_from(["none", "retain", "decay", "both"]))
    rule, scale = (
        draw(st.sampled_from(["gd", "dgd"])),
        draw(st.sampled_from([0.4, 0.7, 1, 1.3, 2.1])),
    )
    fields = [f"retain: {gate}"] if where in ("retain", "both") else []
    decay = {"decay": f", decay={gate}", "both": ", decay=0.9"}.get(where, "")
    fields.append(f"rule: {rule}(lr={scale} * b{decay})")
    text = NUMBERS.replace("<fields>", "\n    ".join(fields))
    text = text.replace("<g>", f"({low} + {1 - low} * c)").replace("<a>", f"{low} + {1 - low} * a")
    text = text.replace("<length>", str(draw(st.sampled_from([0.7, 1, 1.4]))))
    text = text.replace("<half>", str(draw(st.sampled_from([0.25, 0.5, 1]))))
    return text.replace("<inputs>", LETS), text.replace("<inputs>", OPERATOR)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps())
def test_a_step_is_warned_of_iff_its_norm_can_exceed_one(texts: tuple[str, str]) -> None:
    """The spectral norm of S -> S' by the generated module, gates and keys at the ends of their ranges."""
    import torch

    spec, operator = texts
    module = nlc.loads(operator, "numbers.yaml").compile()().double()
    n, generator = 5, torch.Generator().manual_seed(0)
    keys = torch.eye(n, dtype=torch.float64)[:2]
    keys = torch.cat([keys, torch.randn(4, n, generator=generator, dtype=torch.float64)])
    keys = keys / keys.norm(dim=-1, keepdim=True)
    worst = 0.0
    for k in keys:
        for b in (0.0, 1.0):
            for g in (0.0, 1.0):
                flows = {"q": k, "k": k, "v": 0 * k, "a": torch.full_like(k, g)}
                flows = {key: value.expand(1, 1, n) for key, value in flows.items()}
                gates = {"b": torch.full((1, 1), b).double(), "c": torch.full((1, 1), g).double()}
                start = {"S": torch.eye(n, dtype=torch.float64)[None]}
                _, state = module(**flows, **gates, state=start)
                worst = max(worst, float(torch.linalg.matrix_norm(state["S"][0].detach(), 2)))
    assume(abs(worst - 1) > 1e-6 or worst <= 1 + 1e-12)
    assert said(spec) == (["NLC801"] if worst > 1 + 1e-6 else []), worst


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_a_memory_at_zero_is_warned_of_iff_it_stays_there(rule: str) -> None:
    """Under every shipped rule that a level in context may have."""
    import torch

    spec = nlc.loads(system(f"rule: {rule}()", memory=MLP), "zero.yaml")
    if spec.check().has_errors:
        pytest.skip("no rule of a level in context")
    net = spec.compile("reference")(d=4, n=2)
    with torch.no_grad():
        _, state = net(torch.randn(1, 8, 4))
    moved = max(float(x.abs().max()) for n, x in state.items() if n in ("S.W1", "S.W2"))
    assert ("NLC806" in said(spec.source.text)) == (moved == 0)


@pytest.mark.parametrize("rate, grows", [(1.5, False), (3.7, False), (3.9, True)])
def test_a_long_step_that_momentum_holds_in_check(rate: float, grows: bool) -> None:
    """Why a bounded step is no NLC801 under momentum: the same key again and again, at factors from -0.5 to -2.9."""
    import torch

    text = NUMBERS.replace("<inputs>", LETS).replace("<length>", "1").replace("<half>", "0.5")
    text = text.replace("<fields>", f"rule: momentum(lr=1, rate={rate})")
    text = text.replace("  b: sigmoid(sum(linear(x, n)))\n  c: sigmoid(sum(linear(x, n)))\n", "")
    text = text.replace("\n  a: sigmoid(linear(x, n))", "")
    net = nlc.loads(text, "ball.yaml").compile("reference")().double()
    with torch.no_grad():
        x = torch.randn(1, 1, 8, dtype=torch.float64).expand(1, 400, 8)
        _, state = net(x)
    assert (float(state["S"].norm()) > 1e6) == grows
    assert said(text) == []


@pytest.mark.parametrize("rule", ["gd(lr=0.1)", "momentum(lr=0.1)", "nesterov(lr=0.1)"])
def test_a_long_key_makes_the_memory_grow_under_every_rule_that_is_warned_of(rule: str) -> None:
    import torch

    text = system(f"rule: {rule}", key="linear(x, n)")
    assert "NLC803" in said(text)
    net = nlc.loads(text, "long.yaml").compile("reference")(d=8, n=4).double()
    with torch.no_grad():
        net.S.key.linear.weight.mul_(50)
        _, state = net(torch.randn(1, 20, 8, dtype=torch.float64))
    assert float(state["S"].norm()) > 1e6


REACHED = {
    "sigmoid(linear(x))": (0, 1),
    "1 - 0.5 * sigmoid(linear(x))": (0.5, 1),
    "exp(-exp(linear(x)) * softplus(linear(x)))": (0, 1),
    "silu(linear(x))": (-0.2784645427610738, None),
    "tanh(linear(x)) * sigmoid(linear(x))": (-1, 1),
    "where(linear(x) > 0, 0.2, sigmoid(linear(x)))": (0, 1),
    "clip(linear(x), 0.1, 0.9)": (0.1, 0.9),
    "max(softplus(linear(x)), 2)": (2, None),
}
UNKNOWN = ["c * (1 - c)", "c / (1 + c)", "tanh(c) - c", "where(c > 2, c, 1)", "sum(l2norm(x))"]


def flow(expr: str) -> tuple[Reaches, object]:
    text = SPEC.replace("  free: linear(x)\n", f"  c: softplus(linear(x))\n  free: {expr}\n")
    text = (
        text.replace("MEMORY", "matrix(n, n)").replace("KEY", "q * free").replace("OBJECTIVE", DOT)
    )
    typed = nlc.loads(text.replace("FIELDS", "rule: gd(lr=1)")).system
    return Reaches(typed), typed.flows["free"].expr


@pytest.mark.parametrize("expr", REACHED)
def test_reached_bounds(expr: str) -> None:
    reaches, e = flow(expr)
    low, high = REACHED[expr]
    found = reaches.of(e)
    assert found.known
    assert found.range.low == pytest.approx(low, abs=1e-15)
    assert found.range.high == pytest.approx(float("inf") if high is None else high)


@pytest.mark.parametrize("expr", UNKNOWN)
def test_bounds_that_may_be_loose_are_not_taken_as_reached(expr: str) -> None:
    reaches, e = flow(expr)
    assert not reaches.of(e).known


def test_norms_that_are_reached() -> None:
    for expr, longest in {
        "l2norm(linear(x, n))": 1.0,
        "tanh(linear(x, n))": 2.0,
        "0.5 * beta * l2norm(silu(linear(x, n)))": 0.5,
        "rotary(l2norm(linear(x, n)), pos)": 1.0,
        "-l2norm(tanh(linear(x, n)), eps=12)": 0.5,
    }.items():
        text = system("rule: gd(lr=beta)", key=expr, objective=DOT)
        typed = nlc.loads(text).system
        found = Reaches(typed).norm(typed.flows["S.key"].expr)
        assert found.known and found.range.high == pytest.approx(longest), expr


# ------------------------------------------------------------------------------------------------ bounded work


def test_large_systems_are_checked_fast() -> None:
    members = ", ".join(map(str, range(60)))
    text = system("for: {i: [MEMBERS]}", "rule: gd(lr=beta, decay=alpha)").replace(
        "MEMBERS", members
    )
    text = text.replace("  S:\n", "  S[i]:\n").replace("S(key)", "S[i](key)")
    text = text.replace("linear(S(q))", "linear(sum(S[i](q) for i))")
    spec = nlc.loads(text)
    _ = spec.updates
    from nlc.passes.soundness import soundness

    start = time.process_time()
    soundness(spec.system, spec.updates, spec.report)
    assert time.process_time() - start < 2


def test_products_of_sums_are_not_multiplied_out() -> None:
    chain = "".join(f"      s{i}: s{i - 1} + s{i - 1}\n" for i in range(1, 12))
    text = system(
        "update: s11 + outer(value, key)\n    let:\n      s0: 0.001 * S\n" + chain.rstrip("\n")
    )
    start = time.process_time()
    assert said(text) == []
    assert time.process_time() - start < 5


UPHILL = "every step of level `S` adds at the key to what it holds"


@pytest.mark.parametrize(
    ("fields", "objective", "help"),
    [
        (["rule: gd(lr=-beta)"], SQUARE, "write `beta`"),
        (["rule: gd(lr=-1)"], SQUARE, "write `1`"),
        (["rule: momentum(lr=-1, beta=0.9, decay=beta)"], SQUARE, "write `1`"),
        (["rule: gd(lr=beta)"], f"-({SQUARE})", "turn the sign"),
        (["rule: gd(lr=beta)", "retain: alpha"], f"-({SQUARE})", "turn the sign"),
    ],
)
def test_a_step_of_the_wrong_sign(fields: list[str], objective: str, help: str) -> None:
    found = nlc.loads(system(*fields, objective=objective), "spec.yaml").check().diagnostics
    assert [(d.code, d.message) for d in found if d.code.startswith("NLC8")] == [("NLC802", UPHILL)]
    assert any(h.startswith(help) for d in found for h in d.helps)


def test_one_gate_without_bounds_is_one_warning() -> None:
    """What is erased is bounded, whatever is kept."""
    text = system("retain: dt", "rule: gd(lr=beta)")
    assert said(text.replace("dt: softplus", "dt: ")) == ["NLC802"]


def test_a_factor_that_is_never_positive_is_no_division_by_zero() -> None:
    assert said(system("retain: per_key(-dt * a)", "rule: gd(lr=beta)")) == ["NLC802"]
