"""Derived gradients equal autograd's on random expressions; the printed derivations are those of the papers."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from shipped_specs import load

import nlc
from nlc.ir.expr import Expr, substitute, walk
from nlc.ir.ops import OPS, leaf, make, num
from nlc.ir.shapes import ShapeError
from nlc.ir.types import TOKEN, Dim, Type
from nlc.passes.factors import factors, named, parts
from nlc.passes.gradient import gradient
from nlc.passes.simplify import simplify

M, N = Dim.of("m"), Dim.of("n")
SIZES = {"m": 3, "n": 4}
STATES = {"S": (M, N), "u": (N,), "c": ()}
FLOWS = {"k": (N,), "v": (M,), "A": (M, N), "a": ()}
VARIABLES = [leaf("var", name, Type(dims, True, TOKEN)) for name, dims in STATES.items()]
LEAVES = VARIABLES + [leaf("var", name, Type(dims, True, TOKEN)) for name, dims in FLOWS.items()]

# Smooth everywhere, and defined everywhere once their argument is squashed where it must be.
UNARY = ["neg", "sigmoid", "tanh", "silu", "gelu", "softplus", "erf", "abs", "relu", "sign"]
UNARY += ["slope"]
SLOPES = ["silu", "gelu"]
REDUCE = ["sum", "mean", "sqnorm", "amax", "amin"]
SHAPED = ["T", "softmax", "per_key", "per_value"]
BINARY = ["add", "sub", "mul", "maximum", "minimum", "matmul", "outer", "dot"]


def grow(draw: st.DrawFn, depth: int) -> Expr:
    """A random typed expression; operators whose operands do not fit are drawn again."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from([*LEAVES, num(0.5), num(-2.0)]))
    kind = draw(st.sampled_from(["unary", "reduce", "shaped", "binary", "binary", "special"]))
    a = grow(draw, depth - 1)
    try:
        if kind == "unary":
            op = draw(st.sampled_from(UNARY))
            if op == "slope" and not {*walk(a)} & {*LEAVES}:
                return a  # it is only of what a gradient is taken by
            return make(op, a, attr=draw(st.sampled_from(SLOPES)) if op == "slope" else None)
        if kind == "reduce":
            return make(draw(st.sampled_from(REDUCE)), a)
        if kind == "shaped":
            return make(draw(st.sampled_from(SHAPED)), a)
        if kind == "binary":
            return make(draw(st.sampled_from(BINARY)), a, grow(draw, depth - 1))
        return special(draw, a, depth)
    except ShapeError:
        return a


def special(draw: st.DrawFn, a: Expr, depth: int) -> Expr:
    """Functions with a domain or with arguments of their own."""
    safe = make("add", make("mul", a, a), num(0.5))
    choice = draw(st.integers(0, 11))
    if choice == 0:
        return make("log", safe)
    if choice == 1:
        return make("sqrt", safe)
    if choice == 2:
        return make(draw(st.sampled_from(["exp", "expm1"])), make("tanh", a))
    if choice == 3:
        return make("div", grow(draw, depth - 1), safe)
    if choice == 4:
        return make("pow", safe, num(draw(st.sampled_from([2, 3, 0.5, -1.5]))))
    if choice == 5:
        return make("l2norm", a, num(1e-6))
    if choice == 6:
        return make("norm", a, num(draw(st.sampled_from([2, 3]))))
    if choice == 7:
        return make("where", make("ge", a, num(0.1)), grow(draw, depth - 1), a)
    if choice == 8:
        return make("clip", a, num(-0.7), num(0.9))
    if choice == 9:
        return make("unflatten", make("flatten", a), attr=a.type.dims)
    if choice == 10:
        both = make("concat", a, grow(draw, depth - 1))
        return make("slice", both, attr=(Dim.of(1), both.type.dims[0] - 1))
    return (
        make("rmsnorm", a, LEAVES[3])
        if a.type.dims == (N,)
        else make("pow", safe, make("tanh", LEAVES[2]))
    )


@st.composite
def objectives(draw: st.DrawFn) -> Expr:
    e = grow(draw, draw(st.integers(2, 5)))
    return e if e.type.dims == () else make("sqnorm", make("tanh", e))


def evaluate(e: Expr, values: dict) -> object:
    """The expression as the reference backend prints it, run by torch."""
    import math

    import torch
    import torch.nn.functional as F

    from nlc.backends.torch_helpers import HELPERS
    from nlc.backends.torch_printer import TorchPrinter

    printer = TorchPrinter(None, lambda name: str(SIZES[name]), lambda path: path)  # type: ignore[arg-type]
    text = printer(e)
    scope: dict = {"torch": torch, "F": F, "math": math, "Tensor": torch.Tensor, "Iterator": object}
    for helper in printer.helpers:
        exec(
            re.sub(r"(: |-> )[^,)=]*Tensor[^,)=:]*", r"", HELPERS[helper])
            if False
            else "from __future__ import annotations\n" + HELPERS[helper],
            scope,
        )
    return eval(text, scope, values)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(objectives(), st.integers(0, 2**31))
@example(make("dot", make("matmul", VARIABLES[0], LEAVES[3]), LEAVES[4]), 0)
def test_derived_gradients_equal_autograd(objective: Expr, seed: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.randn(
            2, 2, *(SIZES[str(d)] for d in dims), generator=generator, dtype=torch.float64
        )
        for name, dims in {**STATES, **FLOWS}.items()
    }
    assume(objective.op != "num")
    for name in STATES:
        values[name].requires_grad_()
    found = gradient(objective, VARIABLES)
    out = evaluate(objective, values)
    assume(torch.is_tensor(out))
    out = out.expand(2, 2)
    assume(bool(torch.isfinite(out).all()) and out.abs().max() < 1e6)
    wanted = (
        torch.autograd.grad(out.sum(), [values[n] for n in STATES], allow_unused=True)
        if out.requires_grad
        else [None] * 3
    )
    for variable, expected in zip(VARIABLES, wanted):
        derived = found.get(variable)
        if derived is None:
            assert expected is None or expected.abs().max() == 0
            continue
        got = evaluate(derived, values)
        got = torch.as_tensor(got, dtype=torch.float64).detach().expand(values[variable.attr].shape)
        expected = torch.zeros_like(got) if expected is None else expected
        assume(bool(torch.isfinite(expected).all()))
        scale = max(1.0, float(expected.abs().max()))
        assert (got - expected).abs().max() <= 1e-9 * scale, (str(objective), str(derived))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(objectives(), st.integers(0, 2**31))
def test_simplifying_changes_no_value(objective: Expr, seed: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.randn(
            2, 2, *(SIZES[str(d)] for d in dims), generator=generator, dtype=torch.float64
        )
        for name, dims in {**STATES, **FLOWS}.items()
    }
    before, after = (
        torch.as_tensor(evaluate(e, values), dtype=torch.float64)
        for e in (objective, simplify(objective))
    )
    assume(bool(torch.isfinite(before).all()))
    assert torch.allclose(before, after, rtol=1e-10, atol=1e-10)
    assert simplify(objective).type.dims == objective.type.dims


X = leaf("var", "x", Type((), True, TOKEN))


def binary(op: str, a: Expr | float, b: Expr | float) -> Expr:
    return make(op, *(x if isinstance(x, Expr) else num(x) for x in (a, b)))


@pytest.mark.parametrize(
    "written", [("sub", 1, 0.9), ("add", 0.1, 0.2), ("mul", 3, 0.1), ("sub", 1, 0.999)]
)
def test_numbers_that_floats_would_show_stay_as_they_are_written(written: tuple) -> None:
    """``1 - 0.9`` is 0.09999999999999998 as a float, and computed at the same place it is the same number."""
    e = binary(*written)
    assert simplify(e) == e
    assert simplify(make("mul", e, X)) == make("mul", e, X)


def test_numbers_that_are_decimals_are_computed() -> None:
    assert simplify(binary("sub", 1, 0.75)) == num(0.25)
    assert simplify(binary("mul", 2, binary("mul", 0.5, X))) == X
    together = binary("mul", binary("mul", 3, 0.1), X)
    assert simplify(binary("mul", 3, binary("mul", 0.1, X))) == together
    assert simplify(binary("mul", X, binary("mul", 3, 0.1))) == together
    assert simplify(binary("pow", X, binary("sub", 2, 1))) == X
    assert simplify(binary("mul", 1e200, 1e200)) == num(float("inf"))


def test_called_rules_show_their_numbers_as_they_are_written() -> None:
    spec = nlc.load("lookahead")
    for text in (str(spec.derive()), spec.source_text("reference"), spec.source_text("torch")):
        assert "1 - 0.9" in text or "1 − 0.9" in text
        assert not re.search(r"0\.\d{15}", text)


def test_every_differentiable_operator_is_drawn_or_derived_elsewhere() -> None:
    """An operator that gains a gradient rule must be tested here."""
    drawn = {
        *UNARY,
        *REDUCE,
        *SHAPED,
        *BINARY,
        "log",
        "sqrt",
        "exp",
        "expm1",
        "div",
        "pow",
        "l2norm",
        "norm",
        "where",
        "clip",
        "rmsnorm",
        "concat",
        "slice",
        "flatten",
        "unflatten",
    }
    elsewhere = {
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "numel",
        "solve",
        "ones",
        "zeros",
        "stop",
        "sum_rows",
        "sum_cols",
        "layernorm",
        "rotary",
        "slice",  # tests/test_zoo.py: against recurrences written out, with gradients
        "concat",
        "flatten",
        "unflatten",
        "linear",
        "squeeze",
        "unsqueeze",
        "diag",  # tests/test_decompositions.py: against autograd
        "identity",  # a constant; tests/test_layer_systems.py has it in a rule
        "diagonal",
        "objective",  # tests/test_through.py
        "embedding",  # of a whole number, which no state is; tests/test_embedding.py
    }
    assert {name for name, op in OPS.items() if op.vjp} == drawn | elsewhere


def test_stop_lets_no_gradient_pass() -> None:
    S, k = VARIABLES[0], LEAVES[3]
    through = make("dot", make("matmul", S, k), make("stop", make("matmul", S, k)))
    assert list(gradient(through, VARIABLES)) == [S]
    assert gradient(make("sum", make("stop", S)), VARIABLES) == {}


SPEC = """
nlc: 1
system: derived
context: tokens
hyper: {d: 8}
inputs: {k: [d], v: [d], a: [], w: [d]}
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    key: k
    value: v
    objective: OBJECTIVE
    rule: RULE
output: {y: S(k)}
"""


@pytest.mark.parametrize(
    ("objective", "rule", "line"),
    [
        ("-dot(S(key), value)", "gd(lr=1)", "S ← S + v kᵀ"),
        ("-dot(S(key), value)", "gd(lr=a, decay=per_key(w))", "S ← S Diag(w) + a v kᵀ"),
        ("0.5*sqnorm(S(key) - value)", "gd(lr=a)", "S ← S(I − a k kᵀ) + a v kᵀ"),
        ("sqnorm(S(key) - value)", "gd(lr=a)", "S ← S(I − 2 a k kᵀ) + 2 a v kᵀ"),
        ("0.5*sqnorm(S(key) - value)", "dgd(lr=a)", "S ← S(I − 2 a k kᵀ) + a v kᵀ"),
        ("-dot(S(key), value) + 0.5*sqnorm(S.T @ value)", "gd(lr=a)", "S ← (I − a v vᵀ)S + a v kᵀ"),
        (
            "0.5*sqnorm(S(key) - value)",
            "prox(lr=a)",
            "S ← S(I − (a / (1 + a ‖k‖²)) k kᵀ) + (a / (1 + a ‖k‖²)) v kᵀ",
        ),
    ],
)
def test_the_update_is_the_papers(objective: str, rule: str, line: str) -> None:
    """The table of paper §3: objective × rule -> update, derived and collected."""
    spec = nlc.loads(SPEC.replace("OBJECTIVE", objective).replace("RULE", rule))
    assert spec.derive().split("\n")[-1].strip().startswith(line)


def test_a_gradient_by_a_level_is_also_taken_through_its_reads() -> None:
    """``grad(e, S)``: ``S(key)`` in e is what e is differentiated by, as ``S @ key`` is."""
    text = """\
nlc: 1
system: written_out
context: tokens
hyper: {d: 8}
inputs: {x: [d]}
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    key: l2norm(linear(x, d))
    value: linear(x, d)
    update: S - 0.1 * grad(sqnorm(S(key) - value), S)
output: S(x)
"""
    read, product = (nlc.loads(t) for t in (text, text.replace("S(key)", "S @ key")))
    assert read.derive("S") == product.derive("S")
    assert "S ← S(I − 0.2 k kᵀ) + 0.2 v kᵀ" in read.derive("S")


def test_a_free_weight_is_written_by_its_name() -> None:
    """Those that a function owns go without saying."""
    text = SPEC.replace("OBJECTIVE", "-dot(S(key), value)")
    text = text.replace("RULE", "gd(lr=sigmoid(A), decay=sigmoid(linear(k)))")
    spec = nlc.loads(f"{text}weights:\n  A: {{shape: [], init: 0}}\n")
    last = spec.derive().split("\n")[-1].strip()
    assert last.startswith("S ← sigmoid(linear(k)) S + sigmoid(A) v kᵀ")


def test_gated_delta_net_is_derived_in_steps() -> None:
    lines = [line.strip() for line in nlc.load("gated_delta_net").derive().split("\n")]
    assert lines[-1].startswith("S ← αS(I − β k kᵀ) + β v kᵀ")
    assert any(line.startswith("B = α S") for line in lines)
    assert any(line.startswith("∇ℓ(B) = (B k − v) kᵀ") for line in lines)


REMEMBERED = {
    "momentum(lr=1, rate=eta, beta=0.5, decay=0.9)": "S ← 0.9 S − (½m + η (S k − v) kᵀ)",
    "momentum(lr=1, rate=eta, beta=0.5)": "S ← S − (½m + η (S k − v) kᵀ)",
    "lion(lr=eta, beta1=0.5, beta2=0.5, weight_decay=0)": "S ← S − η sign(½m + ½(S k − v) kᵀ)",
    "sgd(lr=eta)": None,  # it remembers nothing
    "gd(lr=eta)": None,
}


@pytest.mark.parametrize("rule", REMEMBERED)
def test_a_rule_that_remembers_shows_where_the_gradient_goes(rule: str) -> None:
    text = f"""
nlc: 1
system: remembered
context: tokens
hyper: {{d: 4}}
inputs: {{x: [d], eta: []}}
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    key: x
    value: 2 * x
    objective: 0.5 * sqnorm(S(key) - value)
    rule: {rule}
output: S(x)
"""
    said = nlc.loads(text).derive("S").split("\n")
    found = [line for line in said if "remembers put in" in line]
    assert [x.split("  ")[2].strip() for x in found] == [x for x in [REMEMBERED[rule]] if x]


def test_a_memory_that_is_slower_than_its_rule_is_not_put_in() -> None:
    text = """
nlc: 1
system: held
context: tokens
hyper: {d: 4}
inputs: {x: [d]}
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    objective: -dot(S(x), x)
    rule: m3(lr=1)
output: S(x)
"""
    (put,) = [x for x in nlc.loads(text).derive("S").split("\n") if "remembers put in" in x]
    assert "NS₅(M₁ − 0.1 x xᵀ)" in put and "NS₅(M₂)" in put  # the second ticks every f tokens


def test_a_long_gradient_is_read_in_parts() -> None:
    lines = [line.strip().split("  ")[0] for line in nlc.load("ttt_linear").derive().split("\n")]
    assert lines[2:9] == [
        "u₁ = W_anchor k + b_anchor",
        "u₂ = (mean((u₁ − mean(u₁))²) + 10⁻⁶)⁻⁰·⁵",
        "u₃ = weight ⊙ (k + layernorm(u₁) − v)",
        "u₄ = (u₁ − mean(u₁)) u₂",
        "u₅ = u₃ − mean(u₃) − u₄ mean(u₄ ⊙ u₃)",
        "∇ℓ(W_anchor) = u₂ u₅ kᵀ",
        "W ← W − lr ∘ ∇ℓ(W_anchor)",
    ]
    assert "b ← b − (η / (chunk·n)) u₂ u₅" in lines


@pytest.mark.parametrize("name", ["ttt_linear", "ttt_mlp", "titans", "gated_delta_net"])
def test_names_in_a_derivation_stand_for_what_they_replace(name: str) -> None:
    for update in load(name).updates.values():
        names = parts(update, factors(update))
        for e in update.gradient.values():
            short = named(e, names)
            for x in reversed(names):
                short = substitute(short, {x.symbol: x.expr})
            assert short == e


def test_a_derivation_never_contains_what_the_program_does_not() -> None:
    """The gradient that is printed is the gradient that is compiled."""
    spec = nlc.load("gated_delta_net")
    compiled = {str(n) for let in spec.program("reference").lets() for n in walk(let.expr)}
    assert any("outer" in text for text in compiled)


def test_a_factor_that_stands_twice_in_one_term_is_taken_out_once() -> None:
    text = SPEC.replace("OBJECTIVE", "0.5*sqnorm(S(key) - value)").replace(
        "RULE", "gd(lr=0.5, decay=a)"
    )
    spec = nlc.loads(text.replace("    rule:", "    retain: a\n    rule:"))
    assert spec.derive().split("\n")[-1].strip().startswith("S ← aS(aI − ½ k kᵀ) + ½ v kᵀ")


def test_names_of_several_letters_do_not_run_together() -> None:
    """In the collected form a dot stands behind them, in LaTeX too; a Greek letter is one symbol."""
    text = nlc.load("gated_delta_net").source.text.replace("alpha", "forget")
    named = text.replace("gd(lr=beta)", "gd(lr=beta, decay=rate)")
    named = named.replace("  beta:", "  rate: 0.9\n  beta:", 1)
    plain, latex = (nlc.loads(named).derive("S", f).splitlines() for f in ("text", "latex"))
    assert plain[-1].strip().startswith("S ← forget·S(rate·I − β k kᵀ) + β v kᵀ  ")
    step = next(line for line in latex if "multiplied out" in line)
    assert r"\mathrm{forget}\cdot S\left(\mathrm{rate}\cdot I - \beta k k^\top\right)" in step
