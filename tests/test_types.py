"""Sizes are exact, ranges are sound, clocks are ordered, widths and heads follow from uses."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_derive import SIZES, evaluate, grow

import nlc
from nlc.ir.expr import Expr, substitute, walk
from nlc.ir.ops import leaf
from nlc.ir.types import (
    INFINITE,
    NEVER,
    STEP,
    TOKEN,
    Clock,
    Dim,
    Dims,
    Range,
    Type,
    fastest,
    show_dims,
)

SYMBOLS = st.sampled_from(["d", "n", "heads"])
VALUES = {"d": 24, "n": 6, "heads": 2}


@st.composite
def dims(draw: st.DrawFn, depth: int = 3) -> Dim:
    if depth == 0 or draw(st.booleans()):
        return Dim.of(draw(SYMBOLS)) if draw(st.booleans()) else Dim.of(draw(st.integers(1, 9)))
    a, b = draw(dims(depth - 1)), draw(dims(depth - 1))
    kind = draw(st.sampled_from(["add", "sub", "mul", "div"]))
    if kind == "div":
        return a / b if len(b.terms) == 1 else a * b
    return {"add": a + b, "sub": a - b, "mul": a * b}[kind]


@given(dims(), dims(), dims())
def test_sizes_are_a_ring(a: Dim, b: Dim, c: Dim) -> None:
    assert a + b == b + a and a * b == b * a
    assert a * (b + c) == a * b + a * c and a - a == Dim.of(0)
    assert (a + b).evaluate(VALUES) == a.evaluate(VALUES) + b.evaluate(VALUES)
    assert (a * b).evaluate(VALUES) == a.evaluate(VALUES) * b.evaluate(VALUES)


@given(dims())
def test_sizes_print_as_what_they_are(a: Dim) -> None:
    """The Python text divides exactly, so it is compared where every division comes out whole."""
    assume(all(e >= 0 for m, _ in a.terms for _, e in m))
    assume(all(c.denominator == 1 for _, c in a.terms))
    assert eval(a.python, {}, dict(VALUES)) == a.evaluate(VALUES)
    assert eval(str(a), {}, dict(VALUES)) == a.evaluate(VALUES)


def test_division_undoes_multiplication() -> None:
    d, heads = Dim.of("d"), Dim.of("heads")
    assert d / heads * heads == d and str(d / heads) == "d/heads"
    with pytest.raises(ValueError, match="one term"):
        d / (d + heads)


def test_clocks_are_ordered_as_the_language_says() -> None:
    often = Clock("per", "token", Dim.of(2), Dim.of(2).constant)
    rarely = Clock("every", "token", Dim.of(16), Dim.of(16).constant)
    slow = Clock("every", "step", Dim.of(8), Dim.of(8).constant)
    ordered = [INFINITE, often, TOKEN, rarely, STEP, slow, NEVER]
    assert sorted(reversed(ordered), key=lambda c: c.order) == ordered
    assert all(a.faster(b) and not b.faster(a) for a, b in pairwise(ordered))
    assert fastest(ordered[2:]) == TOKEN and fastest([]) == NEVER
    assert [str(c) for c in ordered[:4]] == [
        "infinite",
        "2 per token",
        "every token",
        "every 16 tokens",
    ]


@st.composite
def bounded(draw: st.DrawFn) -> Expr:
    """A random expression whose leaves are known to lie within [-0.5, 0.75], and what follows of their norms."""
    e = grow(draw, draw(st.integers(1, 5)))

    def known(dims: Dims) -> Type:
        size = math.prod(SIZES[str(d)] for d in dims)
        return Type(dims, True, TOKEN, Range(-0.5, 0.75, 0.75 * math.sqrt(size)))

    inside = {n: leaf("var", n.attr, known(n.type.dims)) for n in walk(e) if n.op == "var"}
    return retyped(substitute(e, inside))


def retyped(e: Expr) -> Expr:
    """Types anew, bottom-up, for leaves that know more."""
    from nlc.ir.ops import make

    done: dict[int, Expr] = {}
    for n in walk(e):
        args = tuple(done[id(a)] for a in n.args)
        done[id(n)] = make(n.op, *args, attr=n.attr) if args else n
    return done[id(e)]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(bounded(), st.integers(0, 2**31))
def test_ranges_hold(e: Expr, seed: int) -> None:
    """Every value of every sub-expression lies within the bounds that its type states."""
    import torch
    from test_derive import FLOWS, STATES

    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.rand(
            2, 2, *(SIZES[str(d)] for d in shape), generator=generator, dtype=torch.float64
        )
        * 1.25
        - 0.5
        for name, shape in {**STATES, **FLOWS}.items()
    }
    for node in walk(e):
        value = torch.as_tensor(evaluate(node, values), dtype=torch.float64)
        if not torch.isfinite(value).all():
            continue
        bounds, slack = node.type.range, 1e-9 * max(1.0, float(value.abs().max()))
        assert bounds.low - slack <= float(value.min()), str(node)
        assert float(value.max()) <= bounds.high + slack, str(node)
        if math.isfinite(bounds.norm) and value.dim() == 2 + node.type.rank and node.type.rank:
            norms = value.flatten(2).norm(dim=-1)
            assert float(norms.max()) <= bounds.norm + slack, str(node)


def test_ranges_of_a_shipped_spec() -> None:
    flows = nlc.load("gated_delta_net").system.flows
    assert flows["beta"].expr.type.range.within(0.0, 1.0)
    assert flows["S.key"].expr.type.range.norm == 1.0
    assert flows["S.value"].expr.type.range.low > -0.3


def test_widths_follow_from_uses() -> None:
    system = nlc.load("gated_delta_net").system
    widths = {path: m.outer for path, m in system.modules.items() if m.function == "linear"}
    heads = Dim.of("heads")
    assert widths["beta.linear"] == heads  # a bare gate: one number a head
    assert widths["S.key.linear"] == heads * Dim.of("dk")
    assert widths["S.value.linear"] == widths["y.linear"] == heads * Dim.of("dv")
    assert widths["y.linear_2"] == Dim.of("d")


@pytest.mark.parametrize("decay", ["b", "exp(w * b)", "1 - exp(w * b)**2"])
def test_a_gate_beside_a_vector_is_as_wide(decay: str) -> None:
    """What only stands in a gate is a number; beside a vector of the memory's size it is such a vector."""
    spec = nlc.loads(
        "nlc: 1\nsystem: wide\ncontext: tokens\nhyper: {n: 6}\ninputs: {x: [n]}\nweights: {w: {shape: [n]}}\n"
        "let: {b: sigmoid(linear(x))}\nlevels:\n  h:\n    frequency: every token\n    memory: vector(n)\n"
        f"    objective: -dot(h, x)\n    rule: gd(lr=1, decay={decay})\noutput: h\n"
    )
    width = "a scalar" if decay == "b" else "[n]"
    assert show_dims(spec.system.flows["b"].expr.type.dims) == width


def test_a_flow_that_reads_its_past_through_others_has_their_width() -> None:
    """`h` is as wide as c, so o is, which h reads and which reads what h was."""
    spec = nlc.loads(
        "nlc: 1\nsystem: circle\ncontext: tokens\nhyper: {n: 6}\ninputs: {x: [n]}\n"
        "let: {o: sigmoid(linear(x) + linear(prev(h))), h: o * c}\nlevels:\n  c:\n"
        "    frequency: every token\n    memory: vector(n)\n    objective: -dot(c, x)\n    rule: gd(lr=1)\n"
        "output: h\n"
    )
    assert show_dims(spec.system.flows["o"].expr.type.dims) == "[n]"


def test_a_level_has_heads_iff_something_it_reads_has() -> None:
    text = """
nlc: 1
system: two
context: tokens
hyper: {d: 8, n: d / heads}
heads: 2
inputs: {x: [d]}
levels:
  flat:
    frequency: every token
    memory: matrix(d, d)
    key: x
    value: linear(x)
    objective: -dot(flat(key), value)
    rule: gd(lr=1)
  split_up:
    frequency: every token
    memory: matrix(n, n)
    key: split(x)
    value: linear(x, n)
    objective: -dot(split_up(key), value)
    rule: gd(lr=1)
output: flat(x) + merge(split_up(split(x)))
"""
    spec = nlc.loads(text)
    assert {n: level.head for n, level in spec.system.levels.items()} == {
        "flat": False,
        "split_up": True,
    }
    import torch

    y, state = spec.compile()(d=8, heads=4)(torch.randn(3, 5, 8))
    assert y.shape == (3, 5, 8) and state["split_up"].shape == (3, 4, 2, 2)
    with pytest.raises(ValueError, match=r"d = 8 and heads\*n = 6 must be equal"):
        spec.compile()(d=8, heads=2, n=3)
    with pytest.raises(ValueError, match="heads = 0 must be a whole number, at least 1"):
        spec.compile()(heads=0)


OPEN = """\
nlc: 1
system: open
context: tokens
hyper: {d: 6}
inputs: {x: [d]}
let:
  z: sigmoid(linear(x))
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    update: SUM
output: S(x)
"""


@pytest.mark.parametrize(
    "terms",
    [
        ("S", "z * z", "z * outer(x, x)"),
        ("(S + z) * z", "outer(x, x)"),
        ("(per_key(sigmoid(x)) - z) * S", "z * outer(x, x)"),
    ],
)
def test_a_gate_is_a_number_in_whatever_order_it_is_read(terms: tuple[str, ...]) -> None:
    for order in (terms, terms[::-1]):
        spec = nlc.loads(OPEN.replace("SUM", " + ".join(order)), "open.yaml")
        assert not spec.check().has_errors, order
        assert spec.system.flows["z"].expr.type.dims == ()


@pytest.mark.parametrize("terms", [("S", "z"), ("S", "outer(x, x)", "z * z")])
def test_a_term_beside_a_matrix_says_its_width(terms: tuple[str, ...]) -> None:
    for order in (terms, terms[::-1]):
        text = OPEN.replace("SUM", " + ".join(order))
        found = nlc.loads(text, "open.yaml").check().diagnostics
        assert [d.code for d in found if d.severity == "error"] == ["NLC301"], order
        text = text.replace("linear(x)", "linear(x, 1)")
        assert not nlc.loads(text, "open.yaml").check().has_errors, order
