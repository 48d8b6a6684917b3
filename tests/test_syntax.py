"""From text to SpecTree: YAML's traps, expressions and their places, clocks, keys, messages."""

from __future__ import annotations

import ast
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from language_specs import SPECS

from nlc.base.diagnostics import Diagnostic, Report, SpecError
from nlc.base.render import render_report
from nlc.base.span import Source, Span
from nlc.ir.expr import Expr, walk
from nlc.ir.show import show
from nlc.syntax import yamltree
from nlc.syntax.clock import Known, parse_clock, parse_period
from nlc.syntax.math import parse_expr, parse_text
from nlc.syntax.parse import parse
from nlc.syntax.schema import Family, Level, Reset, Spec, Weight, json_schema, keys_of
from nlc.syntax.tree import ForTree, LevelTree, SpecTree
from nlc.syntax.yamlnodes import Mapping, Node, Scalar, Sequence
from nlc.syntax.yamltree import parse_yaml, read_source

HEAD = "nlc: 1\nsystem: s\ncontext: tokens\n"


def scalar(text: str) -> Scalar:
    return Scalar(text, Span(Source("s", text), 0, len(text)))


def mistakes(text: str) -> list[Diagnostic]:
    report = Report()
    assert parse_expr(scalar(text), report) is None or not report.diagnostics
    return report.ordered


def read(text: str) -> tuple[SpecTree | None, Report]:
    report = Report()
    return parse(Source("specs/s.yaml", text), report), report


def only(text: str) -> Diagnostic:
    """The one diagnostic of a spec that has one mistake."""
    _, report = read(text)
    assert len(report.diagnostics) == 1, render_report(report)
    return report.diagnostics[0]


def clean(text: str) -> SpecTree:
    tree, report = read(text)
    assert not report.diagnostics, render_report(report)
    assert tree is not None
    return tree


def name(text: str) -> Expr:
    return Expr("name", (), text)


def num(value: float) -> Expr:
    return Expr("num", (), value)


def call(function: str, *args: Expr) -> Expr:
    return Expr("call", (name(function), *args), ())


# -------------------------------------------------------------------------------------- expressions

x, y, z = name("x"), name("y"), name("z")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64", num(64)),
        ("0.5", num(0.5)),
        (".5", num(0.5)),
        ("1e-3", num(0.001)),
        ("1e+16", num(1e16)),
        ("inf", num(float("inf"))),
        ("-inf", Expr("neg", (num(float("inf")),))),
        ("information", name("information")),
        ("fortran", name("fortran")),
        ("true", Expr("bool", (), True)),
        ("false", Expr("bool", (), False)),
        ("-x**2", Expr("neg", (Expr("pow", (x, num(2))),))),
        ("2**-1", Expr("pow", (num(2), Expr("neg", (num(1),))))),
        ("x @ y * z", Expr("mul", (Expr("matmul", (x, y)), z))),
        ("x / y / z", Expr("div", (Expr("div", (x, y)), z))),
        ("x**y**z", Expr("pow", (x, Expr("pow", (y, z))))),
        ("x - y + z", Expr("add", (Expr("sub", (x, y)), z))),
        ("-x @ y", Expr("matmul", (Expr("neg", (x,)), y))),
        ("x + y <= z", Expr("le", (Expr("add", (x, y)), z))),
        ("x.T", Expr("T", (x,))),
        ("x.T.key", Expr("attr", (Expr("T", (x,)),), "key")),
        ("x[y]", Expr("index", (x, y))),
        ("x[y, 1]", Expr("index", (x, y, num(1)))),
        ("[64, x]", Expr("list", (num(64), x))),
        ("[]", Expr("list")),
        ("f()", call("f")),
        ("sum(x for i)", Expr("fold", (x,), ("sum", "i"))),
        ("f(x, lr=y, decay=z)", Expr("call", (name("f"), x, y, z), ("lr", "decay"))),
        (
            "anchor(M[k])(z)",
            Expr("call", (call("anchor", Expr("index", (name("M"), name("k")))), z), ()),
        ),
        ("linear[x](y)", Expr("call", (Expr("index", (name("linear"), x)), y), ())),
        ("S.key(x)", Expr("call", (Expr("attr", (name("S"),), "key"), x), ())),
    ],
)
def test_surface_operators(text: str, expected: Expr) -> None:
    assert parse_text(text) == expected


@pytest.mark.parametrize(
    ("text", "ascii"),
    [
        ("α + β₁ - η₂₀", "alpha + beta1 - eta20"),
        ("‖x‖²", "sqnorm(x)"),
        ("‖x‖", "norm(x)"),
        ("‖x‖³", "norm(x)**3"),
        ("‖x‖**2", "norm(x)**2"),
        ("‖x - ‖y‖ * z‖²", "sqnorm(x - norm(y) * z)"),
        ("⟨x, y - z⟩", "dot(x, y - z)"),
        ("½ * x + ¼", "0.5 * x + 0.25"),
        ("xᵀ @ y", "x.T @ y"),
        ("-x²", "-x**2"),
        ("x⁻¹ + x¹²", "x**-1 + x**12"),
        ("x − y", "x - y"),
        ("x ⊙ y", "x * y"),
        ("where(x ≤ y, ∞, z ≠ y)", "where(x <= y, inf, z != y)"),
        ("f(λ=ε)", "f(lambda=epsilon)"),
        ("sum(h[ι] for ι)", "sum(h[iota] for iota)"),
        ("x\u00a0+\u2009y", "x + y"),
        ("Φ_ω", "Phi_omega"),
    ],
)
def test_unicode_is_only_another_way_to_write(text: str, ascii: str) -> None:
    assert parse_text(text) == parse_text(ascii)
    assert show(parse_text(text)) == ascii


def test_every_greek_letter_has_its_name() -> None:
    letters = "αβγδεζηθικλμνξοπρστυφχψω"
    names = (
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
        "sigma tau upsilon phi chi psi omega"
    )
    assert [parse_text(ch).attr for ch in letters] == names.split()


def from_python(node: ast.AST) -> Expr:
    """What Python's own parser makes of an expression."""
    operators = {
        ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow",
        ast.MatMult: "matmul", ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le",
        ast.Gt: "gt", ast.GtE: "ge",
    }  # fmt: skip
    match node:
        case ast.BinOp(left, op, right):
            return Expr(operators[type(op)], (from_python(left), from_python(right)))
        case ast.Compare(left, [op], [right]):
            return Expr(operators[type(op)], (from_python(left), from_python(right)))
        case ast.UnaryOp(ast.USub(), operand):
            return Expr("neg", (from_python(operand),))
        case ast.Name(id):
            return name(id)
        case ast.Constant(value):
            return num(value)
        case ast.Call(func, args, keywords):
            parts = [func, *args, *(k.value for k in keywords)]
            names = tuple(k.arg for k in keywords)
            return Expr("call", tuple(map(from_python, parts)), names)
        case ast.Subscript(value, index):
            return Expr("index", (from_python(value), from_python(index)))
        case ast.Attribute(value, attr):
            base = (from_python(value),)
            return Expr("T", base) if attr == "T" else Expr("attr", base, attr)
    raise AssertionError(ast.dump(node))


@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_precedence_is_pythons(seed: int) -> None:
    rng = random.Random(seed)

    def atom() -> str:
        kind = rng.randrange(8)
        if kind == 0:
            return f"({flat()})"
        return ["x", "2", "0.5", "f(x, a=y)", "M[k]", "x.T", "S.key(z)"][kind - 1]

    def flat() -> str:
        text = "-" * rng.choice([0, 0, 0, 1, 2]) + atom()
        for _ in range(rng.randrange(4)):
            text += rng.choice([" + ", " - ", "*", " / ", "@", "**"])
            text += "-" * rng.choice([0, 0, 1]) + atom()
        return text

    text = flat()
    if rng.random() < 0.3:
        text += rng.choice([" < ", " == ", ">=", "!="]) + flat()
    assert parse_text(text) == from_python(ast.parse(text, mode="eval").body)


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,5}", fullmatch=True).filter(
    lambda n: n not in ("for", "true", "false", "inf")
)
ATTRIBUTES = NAMES.filter(lambda n: n != "T")
NUMBERS = st.one_of(
    st.integers(0, 2**63 - 1), st.floats(0, allow_nan=False), st.sampled_from([1.0, 0.1, 1e300])
)
BINARY = ["add", "sub", "mul", "div", "matmul", "pow", "eq", "ne", "lt", "le", "gt", "ge"]
CALLEES = ("name", "attr", "index", "call")


@st.composite
def _node(draw: st.DrawFn, inner: st.SearchStrategy[Expr]) -> Expr:
    kind = draw(st.sampled_from(["infix", "neg", "T", "attr", "index", "list", "call", "fold"]))
    if kind == "infix":
        return Expr(draw(st.sampled_from(BINARY)), (draw(inner), draw(inner)))
    if kind == "fold":
        return Expr("fold", (draw(inner),), (draw(NAMES), draw(NAMES)))
    some = tuple(draw(st.lists(inner, max_size=3)))
    if kind == "list":
        return Expr("list", some)
    base = draw(inner)
    if kind in ("call", "index") and base.op not in CALLEES:
        base = name(draw(NAMES))
    if kind == "call":
        keywords = tuple(draw(st.lists(NAMES, max_size=2, unique=True)))
        values = tuple(draw(inner) for _ in keywords)
        return Expr("call", (base, *some, *values), keywords)
    if kind == "index":
        return Expr("index", (base, *(some or (num(0),))))
    return Expr(kind, (base,), draw(ATTRIBUTES) if kind == "attr" else None)


SURFACE = st.recursive(
    st.one_of(NAMES.map(name), NUMBERS.map(num), st.booleans().map(lambda b: Expr("bool", (), b))),
    _node,
    max_leaves=25,
)


@given(SURFACE)
@settings(max_examples=500, deadline=None)
def test_show_reads_back(e: Expr) -> None:
    assert parse_text(show(e)) == e


@pytest.mark.parametrize(
    "text",
    [
        "x + y - z", "x - (y + z)", "x * (y @ z)", "-(x * y)", "-x * y", "(-x)**2", "-x**2",
        "x**-y", "(x**y)**z", "x**y**z", "(x + y).T @ z", "2 * x.T", "x / (y / z)", "--x",
        "(x < y) + 1", "f(x < y)", "(2).T", "sum(h[i] for i)", "anchor(M[k])(z)",
        "f(x, lr=0.001, n=[64, 256])", "1e-05", "1e+22", "1.0", "0.1", "inf", "x - -y", "S.key.T",
    ],
)  # fmt: skip
def test_canonical_form(text: str) -> None:
    assert show(parse_text(text)) == text


def test_operators_without_a_form_of_their_own_are_printed_as_calls() -> None:
    assert show(Expr("norm", (Expr("flow", (), "S.key"),))) == "norm(S.key)"
    assert show(Expr("sum", (x,), 3)) == "sum(x, 3)"
    assert show(Expr("let", (), ("h", 1))) == "('h', 1)"
    assert show(Expr("mul", (num(-2), x))) == "-2 * x"
    assert show(Expr("pow", (num(-2), num(2)))) == "(-2)**2"


def test_show_takes_any_depth() -> None:
    e = x
    for _ in range(5000):
        e = Expr("neg", (e,))
    assert show(e) == "-" * 5000 + "x"


# -------------------------------------------------------------------------- mistakes in expressions


@pytest.mark.parametrize(
    ("text", "code", "caret", "says"),
    [
        # text, code, (start, end) of the caret, what the message or its label says
        ("", "NLC010", (0, 0), "an expression is missing"),
        ("a +", "NLC010", (3, 3), "expected a value after `+`"),
        ("a + ", "NLC010", (3, 3), "expected a value after `+`"),
        ("f(a, b", "NLC010", (6, 6), "expected `)`"),
        ("M[k", "NLC010", (3, 3), "expected `]`"),
        ("‖x", "NLC010", (2, 2), "expected `‖`"),
        ("S.", "NLC010", (2, 2), "expected a name after `.`"),
        ("sum(e for", "NLC010", (9, 9), "the name of an index"),
        ("0.5 norm2(x)", "NLC012", (4, 9), "an operator is missing between `0.5` and `norm2`"),
        ("a b", "NLC012", (2, 3), "between `a` and `b`"),
        ("2 k", "NLC012", (2, 3), "between `2` and `k`"),
        ("2(x)", "NLC012", (1, 2), "between `2` and `(`"),
        ("(a + b)(c)", "NLC012", (7, 8), "between `)` and `(`"),
        ("½‖x‖²", "NLC012", (1, 2), "between `½` and `‖`"),
        ("(a]", "NLC011", (2, 3), "`]` cannot close `(`"),
        ("a)", "NLC011", (1, 2), "`)` closes nothing"),
        ("a * * b", "NLC011", (4, 5), "a value is missing before `*`"),
        ("* b", "NLC011", (0, 1), "a value is missing before `*`"),
        ("(a + ) * b", "NLC011", (5, 6), "a value is missing before `)`"),
        ("f(a,)", "NLC011", (4, 5), "a value is missing before `)`"),
        ("a, b", "NLC011", (1, 2), "an expression is one value"),
        ("(a, b)", "NLC011", (2, 3), "a bracket holds one value"),
        ("a < b < c", "NLC011", (6, 7), "comparisons do not chain"),
        ("f(lr=1, lr=2)", "NLC011", (8, 10), "the argument `lr` is given twice"),
        ("f(β=1, beta=2)", "NLC011", (7, 11), "the argument `beta` is given twice"),
        ("f(a=1, 2)", "NLC011", (7, 8), "without a name stands behind one with a name"),
        ("[1, 2][0]", "NLC011", (6, 7), "only a name has an index"),
        ("f(x)(e for i)", "NLC011", (7, 10), "`for` stands only in a sum"),
        ("x for i", "NLC011", (2, 5), "`for` stands only in a sum"),
        ("1.5.2", "NLC011", (3, 5), "`1.5.2` is not a number"),
        ("_a", "NLC011", (0, 1), "cannot start with `_`"),
        ("a § b", "NLC011", (2, 3), "`§` has no meaning"),
        ("x̂", "NLC011", (1, 2), "write `x_hat`"),
        ("a^2", "NLC013", (1, 2), "power is written `**`"),
        ("a^T", "NLC013", (1, 3), "the transpose is written `.T`"),
        ("a · b", "NLC013", (2, 3), "products are"),
        ("a × b", "NLC013", (2, 3), "products are"),
        ("a && b", "NLC013", (2, 4), "where(condition, a, b)"),
        ("||x||", "NLC013", (0, 2), "the norm is `norm(x)`"),
        ("|x|", "NLC013", (0, 1), "the absolute value is `abs(x)`"),
        ("x and y", "NLC013", (2, 5), "`and` is not an operator"),
        ("a = b", "NLC013", (2, 3), "equality is `==`"),
        ("a + b = c", "NLC013", (6, 7), "equality is `==`"),
        ("a // b", "NLC013", (2, 4), "division is written `/`"),
        ("x'", "NLC013", (1, 2), "the transpose is `.T`"),
        ("{x}", "NLC013", (0, 1), "brackets are"),
        ("1" * 41, "NLC007", (0, 41), "too large or too long"),
        ("1e999", "NLC007", (0, 5), "too large or too long"),
        ("a" * 10_001, "NLC007", (0, 10_001), "longer than 10000 characters"),
        ("(" * 101 + "x", "NLC007", (100, 101), "more than 100 operations deep"),
        ("-" * 200 + "x", "NLC007", (0, 201), "more than 100 operations deep"),
        ("+".join("x" * 200), "NLC007", (0, 399), "more than 100 operations deep"),
    ],
)
def test_mistake(text: str, code: str, caret: tuple[int, int], says: str) -> None:
    first = mistakes(text)[0]
    assert (first.code, first.span.start, first.span.end) == (code, *caret)
    assert says in f"{first.message} {first.label}"


def test_bounds_are_not_too_narrow() -> None:
    assert parse_text("(" * 99 + "x" + ")" * 99) == x
    assert parse_text(str(2**63 - 1)) == num(2**63 - 1)
    assert parse_text("+".join(["x"] * 99)).op == "add"


def test_all_wrong_symbols_are_reported_at_once() -> None:
    found = mistakes("a^2 + b^3 § {c}")
    assert [d.span.text for d in found] == ["^", "^", "§", "{"], "brackets are one mistake"
    assert [d.fix.replacement for d in found if d.fix] == ["**", "**"]


def test_no_fix_where_it_is_not_certain() -> None:
    for text in ("a · b", "a && b", "a b", "x'", "a = b"):
        assert mistakes(text)[0].fix is None


def test_parse_text_raises() -> None:
    with pytest.raises(SpecError, match="NLC010"):
        parse_text("a +")


SYMBOLS = "xyM01.+-*/@()[],=<>! ‖²⟨⟩ᵀ½αβ₁⁻for sum true^|&'\"_#:{}\n\t\u00a0\u0302é∞≤"


@given(st.text(SYMBOLS, max_size=40))
@settings(max_examples=600, deadline=None)
def test_any_text_gives_an_expression_or_a_mistake(text: str) -> None:
    report = Report()
    e = parse_expr(scalar(text), report)
    assert (e is None) == report.has_errors
    shown = render_report(report)
    for terminal in ("LPAR", "RSQB", "NAME", "NUMBER", "$END", "BAR_SQUARED", "SUPERSCRIPT"):
        assert terminal not in shown
    for d in report.diagnostics:
        assert 0 <= d.span.start <= d.span.end <= len(text)


# --------------------------------------------------------------------------------- exact messages

DELTA = """\
nlc: 1
system: delta
context: tokens
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    objective: 0.5 * sqnorm(S(key) - value)
    rule: gd(lr=0.1)
"""


def message(old: str, new: str) -> str:
    assert old in DELTA
    _, report = read(DELTA.replace(old, new))
    return render_report(report)


def test_message_tab() -> None:
    assert message("    rule", "\t  rule") == (
        """\
error[NLC001]: a tab cannot indent YAML
 --> specs/s.yaml:9:1
  |
9 | →  rule: gd(lr=0.1)
  | ^ this line starts with a tab
  |
  = help: replace it with spaces, as many as its neighbours have"""
    )


def test_message_missing_operator() -> None:
    assert message("0.5 * sqnorm", "0.5 sqnorm") == (
        """\
error[NLC012]: an operator is missing between `0.5` and `sqnorm`
 --> specs/s.yaml:8:20
  |
8 |     objective: 0.5 sqnorm(S(key) - value)
  |                    ^^^^^^ expected `+`, `-`, `*`, `/`, `@` or `**` before this
  |
  = help: write `0.5 * sqnorm(...)`; there is no implicit product"""
    )


def test_message_power() -> None:
    assert message("sqnorm(S(key) - value)", "sum((S(key) - value)^2)") == (
        """\
error[NLC013]: `^` is not an operator
 --> specs/s.yaml:8:42
  |
8 |     objective: 0.5 * sum((S(key) - value)^2)
  |                                          ^ power is written `**`
  |
  = help: write `0.5 * sum((S(key) - value)**2)`, or `sqnorm(S(key) - value)`"""
    )


def test_message_unknown_key() -> None:
    keys = ", ".join(keys_of(Level))
    assert message("objective", "objectve") == (
        f"""\
error[NLC101]: unknown key `objectve` in level `S`
 --> specs/s.yaml:8:5
  |
8 |     objectve: 0.5 * sqnorm(S(key) - value)
  |     ^^^^^^^^ did you mean `objective`?
  |
  = help: a level has: {keys}"""
    )


def test_message_unknown_key_tells_of_the_missing_one() -> None:
    text = message("system", "sytem")
    assert "error[NLC101]: unknown key `sytem` in the spec" in text
    assert "= note: the spec has no `system`, which is required" in text
    assert "NLC102" not in text


# ------------------------------------------------------------------------------------------ places


def marked(tree: Expr, text: str) -> dict[str, str]:
    """The source text of every name, by name."""
    return {e.attr: e.span.text for e in walk(tree) if e.op == "name"}


@pytest.mark.parametrize(
    "spec",
    [
        "a: alpha + beta[i] * f(gamma)\n",
        "a:    alpha + beta[i] *   f(gamma)   # a comment\n",
        "a: 'alpha + beta[i] * f(gamma)'\n",
        'a: "alpha + beta[i] * f(gamma)"\n',
        "a: alpha\n   + beta[i]\n\n   * f(gamma)\n",
        "a: 'alpha\n   + beta[i]\n\n   * f(gamma)'\n",
        'a: "alpha\\\n   + beta[i] \\x2a\\tf(\\u0067amma)"\n',
        "a: |\n  alpha +\n\n    beta[i]\n  * f(gamma)\n",
        "a: |-2  # text\n    alpha +\n  beta[i] * f(gamma)",
        "a: |\r\n  alpha +\r\n  beta[i]\r\n  * f(gamma)\r\nb: 1\r\n",
        "b: é ≻ 𝛼\na: alpha + beta[i] * f(gamma)\n",
        '{b: 1, a: "alpha + beta[i] * f(gamma)"}\n',
    ],
)
@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_every_name_stands_where_its_span_says(
    spec: str, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yamltree, "_LOADER", getattr(yaml, loader))
    report = Report()
    root = parse_yaml(Source("s", spec), report)
    assert root is not None
    value = next(v for k, v in root.entries if k.text == "a")
    e = parse_expr(value, report)
    assert not report.diagnostics, render_report(report)
    assert show(e) == "alpha + beta[i] * f(gamma)"
    places = {n: t.replace("\\u0067", "g") for n, t in marked(e, spec).items()}
    assert places == {n: n for n in ("alpha", "beta", "i", "f", "gamma")}
    whole = e.span.text
    assert whole.startswith("alpha") and whole.endswith(")")


def test_spans_of_operators_cover_their_brackets() -> None:
    e = parse_text("(x + y) * -(z)")
    assert [e.span.text, e.args[0].span.text, e.args[1].span.text] == [
        "(x + y) * -(z)",
        "x + y",
        "-(z)",
    ]


@pytest.mark.parametrize(
    ("value", "line", "column"),
    [
        ("x +\n    y ^ 2", 2, 7),
        ("'x ^ ''2'", 1, 7),
        ('"x \\x5e 2"', 1, 7),
        ("|\n  x\n  + y ^ 2\n", 3, 7),
    ],
)
def test_mistakes_are_shown_where_they_stand(value: str, line: int, column: int) -> None:
    report = Report()
    root = parse_yaml(Source("s", f"a: {value}"), report)
    assert root is not None
    assert parse_expr(root.entries[0][1], report) is None
    first = report.ordered[0]
    assert (first.span.line, first.span.column) == (line, column)


@given(
    st.lists(st.sampled_from(["ab", "'", '"', "\\", " ", "é", ":", "#", "x", "\n"]), max_size=12),
    st.sampled_from(["'", '"', "|"]),
)
@settings(max_examples=300, deadline=None)
def test_offsets_find_every_character(pieces: list[str], style: str) -> None:
    value = "x" + "".join(pieces) + "y"
    text = yaml.dump({"a": value}, default_style=style, allow_unicode=True, width=20)
    report = Report()
    root = parse_yaml(Source("s", text), report)
    assert root is not None and not report.diagnostics
    node = root.entries[0][1]
    assert node.text == value or node.text == value + "\n"
    for i, ch in enumerate(value):
        if not ch.isspace():
            found = node.span_of(i, i + 1).text
            assert found == ch or found == "''" or (found[0] == "\\" and node.style == '"')


def test_a_part_of_a_scalar_keeps_its_places() -> None:
    report = Report()
    root = parse_yaml(Source("s", "a: 'it''s [i + 1] x'"), report)
    node = root.entries[0][1]
    start = node.text.index("[")
    part = node.part(start + 1, start + 6)
    assert part.text == "i + 1" and part.span.text == "i + 1"
    assert part.part(4, 5).span_of(0, 1).text == "1"


# --------------------------------------------------------------------------------------------- YAML


def plain(node: Node) -> object:
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Sequence):
        return [plain(n) for n in node.items]
    return {k.text: plain(v) for k, v in node.entries}


def tree_of(text: str) -> tuple[object, Report]:
    report = Report()
    root = parse_yaml(Source("s", text), report)
    return None if root is None else plain(root), report


def test_scalars_stay_text() -> None:
    text = (
        "a: 1e-3\nb: on\ny: 12:30\nc: 1_000\nd: ~\ne: null\nf: 0x1F\ng: 2020-01-01\non: yes\nh:\n"
    )
    found, report = tree_of(text)
    assert not report.diagnostics
    assert found == {
        "a": "1e-3", "b": "on", "y": "12:30", "c": "1_000", "d": "~", "e": "null", "f": "0x1F",
        "g": "2020-01-01", "on": "yes", "h": "",
    }  # fmt: skip


def test_lists_and_maps_in_flow_and_block_style() -> None:
    found, report = tree_of(
        "x: [d]\nfor: {i: [1, 2, 3], period: periods}\nl:\n  - a\n  - [b, []]\n"
    )
    assert not report.diagnostics
    assert found == {
        "x": ["d"], "for": {"i": ["1", "2", "3"], "period": "periods"}, "l": ["a", ["b", []]],
    }  # fmt: skip


TRAPS = [
    # text, code, the text at the caret, what is said
    ("a: 1\n\tb: 2\n", "NLC001", "\t", "a tab cannot indent YAML"),
    ("a:\n  \tb: 2\n", "NLC001", "\t", "a tab in the indentation"),
    ("a: 1\na: 2\n", "NLC002", "a", "duplicate key `a`"),
    ("{a: 1, a: 2}\n", "NLC002", "a", "duplicate key `a`"),
    ("a: &b c\n", "NLC004", "&b", "anchor"),
    ("a: *b\n", "NLC004", "*b", "alias"),
    ("a: !!int 3\n", "NLC004", "!!int", "tag"),
    ("a: &b [c]\n", "NLC004", "&b", "anchor"),
    ("<<: {a: 1}\n", "NLC004", "<<", "merge keys"),
    ("? [a, b]\n: c\n", "NLC004", "[a, b]", "a key is a text"),
    ("{rule: gd(lr=1-b, decay=b)}", "NLC005", "gd(lr=1-b, decay=b)", "at its comma"),
    ("a: [f(x, y), z]\n", "NLC005", "f(x, y)", "at its comma"),
    ("a: {b: f(g(x, y), z), c: d}\n", "NLC005", "f(g(x, y), z)", "at its comma"),
    ("a: f(x # the input\n", "NLC005", "#", "cuts this expression at ` #`"),
    ("a: f(x, # the input\n   y)\n", "NLC005", "#", "cuts this expression at ` #`"),
    ("a: - dot(a, b)\n", "NLC005", "- dot(a, b)", "`- ` starts a list"),
    ("a: |M|\n", "NLC005", "|M|", "`|` starts a block"),
    ("a: || M k ||\n", "NLC005", "|| M k ||", "`|` starts a block"),
    ("a: > 3\n", "NLC005", "> 3", "`>` starts a block"),
    ("a: *M(k)\n", "NLC005", "*M(k)", "`*` names an alias"),
    ("a: @x\n", "NLC005", "@x", "`@` is reserved"),
    ("a: %b\n", "NLC005", "%b", "`%` starts a directive"),
    ("a: ? x\n", "NLC005", "? x", "`? ` starts a key"),
    ("a: {x} + 1  # c\n", "NLC005", "{x} + 1", "`{` starts a mapping"),
    ("a: [M, k] @ x\n", "NLC005", "[M, k] @ x", "`[` starts a list"),
    ("a: b: c\n", "NLC005", "b: c", "`: ` starts a value"),
    ("a: {x: M[k](z)}\n", "NLC005", "[", "inside `{ }` needs quotes"),
    ("a: 'it's'\n", "NLC003", "s'", "behind the closing quote"),
    ('a: "b\n', "NLC003", '"', "never closed"),
    ('a: "\\q"\n', "NLC003", "\\", "read `\\` as an escape"),
    ("a: 1\n  b: 2\n", "NLC003", "b: 2", "a key cannot stand here"),
    ("a:\n    b: 1\n  c: 2\n", "NLC003", "c: 2", "fits none above it"),
    ("a:b\nc: d\n", "NLC003", "a:b", "no `key: value`"),
    ("a: x\n- b\n", "NLC003", "- b", "a list item cannot stand here"),
    ("a: x\n---\nb: 1\n", "NLC003", "---", "one file holds one spec"),
    ("a: \x00\n", "NLC006", "\x00", "U+0000"),
    ("a: \x7f\n", "NLC006", "\x7f", "U+007F"),
    ("a: b\rc: d\n", "NLC006", "\r", "U+000D"),
    ("a: \ud800\n", "NLC006", "\ud800", "U+D800"),
    ("a: \u202ex\n", "NLC006", "\u202e", "U+202E"),
    ('a: "x\\0"\n', "NLC006", "\\0", "U+0000"),
    ("- a\n", "NLC103", "- a", "a spec is a mapping"),
    ("text\n", "NLC103", "text", "a spec is a mapping"),
    ("", "NLC103", "", "this file has no keys"),
    ("# only a comment\n", "NLC103", "", "this file has no keys"),
]


@pytest.mark.parametrize(("text", "code", "caret", "says"), TRAPS, ids=[repr(t[0]) for t in TRAPS])
@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_trap(
    text: str, code: str, caret: str, says: str, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yamltree, "_LOADER", getattr(yaml, loader))
    _, report = tree_of(text)
    assert [d.code for d in report.diagnostics] == [code], render_report(report)
    found = report.diagnostics[0]
    assert found.span.text.rstrip() == caret.rstrip() or found.span.text.startswith(caret)
    assert says in f"{found.message} {found.label}"
    assert says in f"{found.message} {found.label}"


def test_quotes_are_a_fix_that_can_be_applied() -> None:
    text = HEAD + "levels: {W: {rule: gd(lr=1-b, decay=b)}}\n"
    fix = only(text).fix
    assert fix is not None
    fixed = text[: fix.span.start] + fix.replacement + text[fix.span.end :]
    assert show(clean(fixed).levels[0].rule) == "gd(lr=1 - b, decay=b)"


def test_reading_goes_on_after_mistakes_of_yaml() -> None:
    text = HEAD + (
        "let:\n  a: - b\n  c: *M(k)\n  d: f(x ^ 2)\n  e: 'it's'\nhyper: {rate: f(1, 2), rate: 3}\n"
    )
    tree, report = read(text)
    codes = [d.code for d in report.ordered]
    assert codes == ["NLC005", "NLC005", "NLC013", "NLC003", "NLC005", "NLC002"]
    assert [let.name for let in tree.let] == ["a", "c", "d", "e"]
    assert [f.name for f in tree.hyper] == ["rate"]


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 5000,
        "a: " + "{" * 5000,
        "- " * 5000,
        "? " * 5000,
        "".join(" " * i + "a:\n" for i in range(500)),
        "".join(f"k{i}: v\n" for i in range(30_000)),
        "a: [" + "x, " * 30_000 + "]",
        "# " + "x" * (1 << 20),
    ],
    ids=lambda text: text[:8],
)
def test_bounds(text: str) -> None:
    _, report = tree_of(text)
    assert [d.code for d in report.diagnostics] == ["NLC007"]


@pytest.mark.parametrize(
    "text",
    [
        "a: {" + "f(a, " * 50_000 + "}",
        "a: 1\n" * 9000,
        "".join(f"frequen{i}: v\n" for i in range(9000)),
        "levels: {" + ", ".join(f"a{i}: !x y" for i in range(9000)) + "}",
        'levels: {A: {frequency: "every ' + " " * 100_000 + 'x"}}',
        'hyper: {a: "' + "x " * 4999 + '"}',
        '? "' + "frequency " * 100_000 + '"\n: 1\n',
        "a: x" + " " * 500_000 + "y: z",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n" * 1000,
    ],
    ids=lambda text: text[:12],
)
def test_nothing_takes_long(text: str) -> None:
    start = time.process_time()
    _, report = read(text)
    render_report(report)
    assert report.has_errors
    assert time.process_time() - start < 4


def test_read_source(tmp_path: Path) -> None:
    report = Report()
    (tmp_path / "a.yaml").write_bytes("\ufeffa: α\r\n".encode())
    source = read_source(tmp_path / "a.yaml", report)
    assert source is not None and source.text == "a: α\r\n" and not report.diagnostics
    (tmp_path / "b.yaml").write_bytes("a: α\nb: ".encode() + b"\xff\xfe\n")
    assert read_source(tmp_path / "b.yaml", report) is None
    found = report.diagnostics[-1]
    assert (found.code, found.span.line, found.span.column) == ("NLC006", 2, 4)
    assert "0xff" in found.label
    (tmp_path / "c.yaml").write_bytes(b"a: 1\nb: \x00")
    assert read_source(tmp_path / "c.yaml", report) is None
    assert (report.diagnostics[-1].code, report.diagnostics[-1].span.line) == ("NLC006", 2)
    (tmp_path / "d.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    assert read_source(tmp_path / "d.yaml", report) is None
    assert report.diagnostics[-1].code == "NLC007"
    with pytest.raises(OSError):
        read_source(tmp_path / "none.yaml", report)


def test_folded_blocks_hold_prose_but_no_expression() -> None:
    tree = clean(HEAD + "doc: >\n  two\n  lines\n")
    assert tree.doc is not None and tree.doc.text == "two lines"
    found = only(HEAD + "heads: >\n  2\n  + 2\n")
    assert found.code == "NLC004" and "use `|`" in found.helps[0]


# ------------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize(
    ("text", "kind", "count", "unit"),
    [
        ("every token", "every", None, "token"),
        ("every step", "every", None, "step"),
        ("every 16 tokens", "every", "16", "token"),
        ("every size tokens", "every", "size", "token"),
        ("every (2*k) steps", "every", "2 * k", "step"),
        ("every d / heads tokens", "every", "d / heads", "token"),
        ("every episode", "every", None, "episode"),
        ("every 2 episodes", "every", "2", "episodes"),
        ("2 per token", "per", "2", "token"),
        ("d/2 per token", "per", "d / 2", "token"),
        ("infinite", "infinite", None, None),
        ("never", "never", None, None),
    ],
)
def test_clock(text: str, kind: str, count: str | None, unit: str | None) -> None:
    report = Report()
    clock = parse_clock(scalar(text), report)
    assert clock is not None and not report.diagnostics
    assert (clock.kind, clock.count and show(clock.count), clock.unit) == (kind, count, unit)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("evry token", "did you mean `every token`?"),
        ("each token", "did you mean `every token`?"),
        ("token", "did you mean `every token`?"),
        ("16 tokens", "did you mean `every 16 tokens`?"),
        ("infinit", "did you mean `infinite`?"),
        ("every 16", "say of what: `every 16 tokens`"),
        ("Every 16tokens.", "did you mean `every 16 tokens`?"),
        ("once per token", "did you mean `every token`?"),
        ("every time step", "did you mean `every token`?"),
        ("every 4 batches", "did you mean `steps`?"),
        ("always", "a clock is `every token`"),
        ("", "expected a clock"),
        ("every 16 tokns", "did you mean `tokens`?"),
        ("every season", "expected `token`, `step` or a declared clock"),
    ],
)
def test_no_clock(text: str, says: str) -> None:
    report = Report()
    assert parse_clock(scalar(text), report, Known({"episode"}, (), "token")) is None
    assert [d.code for d in report.diagnostics] == ["NLC014"]
    assert says in render_report(report)


def test_count_of_a_clock_is_an_expression_with_its_place() -> None:
    report = Report()
    assert parse_clock(scalar("every 2^k steps"), report) is None
    assert [(d.code, d.span.start) for d in report.diagnostics] == [("NLC013", 7)]
    clock = parse_clock(scalar("every (2*k) steps"), Report())
    assert clock is not None and clock.count is not None and clock.count.span.text == "2*k"


def test_periods_leave_every_out() -> None:
    report = Report()
    for text, unit in [("4096 tokens", "token"), ("every k steps", "step"), ("episode", "episode")]:
        period = parse_period(scalar(text), report, Known({"episode"}, (), "token"))
        assert period is not None and period.unit == unit
    for text in ("2 per token", "infinite", "k"):
        assert parse_period(scalar(text), report, Known({"episode"}, (), "token")) is None
    assert [d.code for d in report.diagnostics] == ["NLC014"] * 3


# -------------------------------------------------------------------------------------------- specs


@pytest.mark.parametrize("system", SPECS)
def test_examples_parse(system: str) -> None:
    tree = clean(SPECS[system])
    assert tree.system.text == system
    Spec.model_validate(yaml.load(SPECS[system], Loader=yaml.BaseLoader))


def test_hope_is_read_whole() -> None:
    tree = clean(SPECS["hope"])
    assert [level.name for level in tree.levels] == ["M", "C"]
    M = tree.levels[0]
    assert M.index == name("s") and M.over is not None
    assert [f.name for f in M.over.names] == ["s", "out", "size"]
    assert show(M.over.names[0].expr) == "[k, v, eta, alpha, memory]"
    assert M.anchor is not None and show(M.anchor.count) == "size"
    assert M.memory is not None and show(M.memory.call) == "mlp(n, expand, out=out)"
    assert show(M.rule) == "dgd(lr=eta / size, decay=alpha)"
    assert show(M.toward) == "init" and M.backprop.text == "through"
    h = [let for let in tree.let if let.name == "h"]
    assert [show(let.index) for let in h] == ["0", "i"]
    assert isinstance(h[1].over, ForTree) and show(h[1].expr) == "C[i](h[i - 1])"
    assert [show(f.expr) for f in tree.hyper][5] == "[64, 256, 1024]"
    assert set(tree.keys) >= {"nlc", "system", "levels", "output"}
    assert M.keys["toward"].text == "toward"


def test_other_forms() -> None:
    lookahead = clean(SPECS["lookahead"]).levels[0]
    assert lookahead.reset is not None and show(lookahead.reset.to) == "phi"
    assert (lookahead.reset.every.kind, lookahead.reset.every.unit) == ("every", "step")
    weights = clean(SPECS["mamba2"]).weights
    assert [w.name for w in weights] == ["A_log", "dt_bias", "D"]
    assert weights[0].per is not None and show(weights[0].init) == "log(uniform(1, 16))"
    tree = clean(
        HEAD
        + """\
clocks: {episode: mask}
use: {mem: titans(d=d)}
levels:
  S:
    memory: {W: [n, n], b: [n], read(z): z + layernorm(W @ z + b), dtype: bfloat16}
    reset: {every: episode, to: A, rule: true}
    update: {W: W / 2, b: b}
    let: {P: "A / norm(A, p=r)**(r-2)"}
  A:
    reset: every 512 tokens
    update: S
output: mem(x)
"""
    )
    S = tree.levels[0]
    assert S.memory is not None and S.memory.call is None
    assert [f.name for f in S.memory.fields] == ["W", "b"] and S.memory.read_params == ("z",)
    assert show(S.memory.read) == "z + layernorm(W @ z + b)" and S.memory.dtype.text == "bfloat16"
    assert S.reset is not None and S.reset.rule and S.reset.every.unit == "episode"
    assert isinstance(S.update, tuple) and [f.name for f in S.update] == ["W", "b"]
    assert show(tree.levels[1].update) == "S" and show(tree.levels[1].reset.every.count) == "512"
    assert [f.name for f in tree.output] == [""]


LANGUAGE_9 = [
    "-dot(S(k), v)", "gd(lr=1, decay=1 - 2**(-5 - head))", "gd(lr=1, decay=per_key(a))",
    "max(f + m, i)", "-inf", "gd(lr=exp(i - m), decay=exp(f + prev(m) - m))",
    "C(q) / max(abs(dot(n, q)), exp(-m))", "where(substep == 0, alpha, 1)", "gd(lr=beta)",
    "S * per_key(w) - outer(S(kap), a * kap) + outer(v, kt)",
    "-dot(S(k), v) + 0.5*sqnorm(S.T @ v)", "gd(lr=eta, decay=alpha)",
    "sum(gamma * sqnorm(M(poly(k, 2)) - v), last=c)", "muon(lr=eta, beta=theta, decay=alpha)",
    "z + layernorm(W @ z + b)", "0.5*sqnorm(M(k) - v)", "A / norm(A, p=r)**(r-2)",
    "alpha*A - eta*grad(lp(P(key) - value, p), P)",
    "softmax(alpha*log(W) - eta*grad(0.5*sqnorm(W(k) - v), W), key)", "rotary(k, pos)",
    "A(rotary(q, pos))", "dot(W, sign(beta1*prev(m) + (1-beta1)*g))",
    "gd(lr=lr, decay=1-lr*wd)", "max(h, v)", "gram(W, left)", "-dot(L, g @ g.T)",
    "inv_root(last(L), 4)", "dot(W, Li @ g @ Ri)", "0.5*sqnorm(m @ g.T - P)", "dot(m(g), g)",
    "gd(lr=1)", "-dot(W, m(g))", "cache(window=none, scale=dk**-0.5)",
    "mean(dot(W(x), delta))", "dgd(lr=lr, exact=true)",
    "sum(gamma * 0.5*sqnorm(M(key) - value), last=c)",
    "sum(h[i] for i)", "linear[gate](x)",
]  # fmt: skip


@pytest.mark.parametrize("text", LANGUAGE_9)
def test_expressions_of_the_definition(text: str) -> None:
    e = parse_text(text)
    assert parse_text(show(e)) == e
    tree = clean(HEAD + f"levels:\n  S:\n    objective: {text}\n")
    assert tree.levels[0].objective == e


# --------------------------------------------------------------------------------------------- keys

LEVEL = HEAD + "levels:\n  S:\n    memory: matrix(2, 2)\n"


@pytest.mark.parametrize(
    ("text", "code", "caret", "says"),
    [
        (HEAD + "lvels: {}\n", "NLC101", "lvels", "did you mean `levels`?"),
        (HEAD + "params: {}\n", "NLC101", "params", "did you mean `weights`?"),
        (HEAD + "zzz: 1\n", "NLC101", "zzz", "unknown key `zzz` in the spec"),
        (LEVEL + "    every: token\n", "NLC101", "every", "did you mean `frequency`?"),
        (LEVEL + "    reset: {every: 2 tokens, too: S}\n", "NLC101", "too", "did you mean `to`?"),
        (HEAD + "weights: {A: {shape: [], pr: head}}\n", "NLC101", "pr", "did you mean `per`?"),
        ("nlc: 1\ncontext: tokens\n", "NLC102", "nlc", "the spec has no `system`"),
        ("nlc: 1\nsystem: s\n", "NLC102", "nlc", "the spec has no `context`"),
        ("system: s\ncontext: tokens\n", "NLC102", "system", "the spec has no `nlc`"),
        (LEVEL + "    reset: {to: S}\n", "NLC102", "reset", "has no `every`"),
        (HEAD + "weights: {A: {init: 1}}\n", "NLC102", "A", "has no `shape`"),
        (HEAD + "let: {h[i]: 1, k: {is: 2}}\n", "NLC005", "[", "needs quotes"),
        (HEAD + "let:\n  k: {is: 2}\n", "NLC102", "k", "has no `for`"),
        (HEAD + "levels: 3\n", "NLC103", "3", "takes a mapping of levels, not text"),
        (HEAD + "levels: [a]\n", "NLC103", "[a]", "takes a mapping of levels, not a list"),
        (HEAD + "levels: {W: }\n", "NLC103", "W", "has no value"),
        (HEAD + "heads:\n", "NLC103", "heads", "`heads` of the spec has no value"),
        (HEAD + "doc: [a]\n", "NLC103", "[a]", "takes text, not a list"),
        (HEAD + "inputs: {x: d}\n", "NLC103", "d", "a list of sizes"),
        (HEAD + "weights: {A: 3}\n", "NLC103", "3", "takes a mapping, not text"),
        (LEVEL + "    frequency: [1]\n", "NLC103", "[1]", "takes a clock, not a list"),
        (LEVEL + "    objective:\n      a: 1\n", "NLC103", "a: 1", "takes an expression"),
        (LEVEL + "    objective: {dot(a)}\n", "NLC005", "{dot(a)}", "`{` starts a mapping"),
        (LEVEL + "    objective: [a, b]\n", "NLC005", "[a, b]", "`[` starts a list"),
        (LEVEL + "    objective:\n      - dot(a)\n", "NLC005", "- dot(a)", "`- ` starts a list"),
        (
            HEAD + "levels:\n  S:\n    memory:\n      W: [2]\n      read(): W\n",
            "NLC103",
            "read()",
            "does not name what it is asked",
        ),
        (
            HEAD + "levels:\n  S:\n    memory:\n      W: [2]\n",
            "NLC102",
            "memory",
            "has no `read(z)`",
        ),
        (HEAD.replace("tokens", "tokns"), "NLC104", "tokns", "did you mean `tokens`?"),
        (HEAD.replace("tokens", "images"), "NLC104", "images", "cannot be `images`"),
        (HEAD.replace("nlc: 1", "nlc: 2"), "NLC104", "2", "no version `2`"),
        (LEVEL + "    phase: strt\n", "NLC104", "strt", "did you mean `start`?"),
        (LEVEL + "    backprop: throug\n", "NLC104", "throug", "did you mean `through`?"),
        (LEVEL + "    reset: {every: token, rule: yes}\n", "NLC104", "yes", "cannot be `yes`"),
        (LEVEL + "    rule: gd()\n    update: S\n", "NLC105", "update", "both `rule` and `update`"),
        (LEVEL + "    update: S\n    retain: 1\n", "NLC105", "retain", "both `retain` and"),
        (LEVEL + "    anchor: infinite\n", "NLC014", "infinite", "cannot be `infinite`"),
        (LEVEL + "    frequency: every tokn\n", "NLC014", "tokn", "did you mean `token`?"),
        (HEAD + "let: {g: 1}\n", "NLC106", "g", "`g` is a reserved name"),
        (HEAD + "hyper: {for: 1}\n", "NLC106", "for", "reserved"),
        (HEAD + "levels: {loss: {}}\n", "NLC106", "loss", "it means the outer loss"),
        (HEAD + "let: {my-x: 1}\n", "NLC106", "my-x", "`my-x` is not a name"),
        (HEAD + "let: {_x: 1}\n", "NLC106", "_x", "`_x` is not a name"),
        (HEAD + f"let: {{{'a' * 65}: 1}}\n", "NLC106", "a" * 65, "too long a name"),
        (HEAD + "hyper:\n  h[0]: 1\n", "NLC106", "h[0]", "only on levels and lets"),
        (HEAD.replace("system: s", "system: my net"), "NLC106", "my net", "is not a name"),
        (HEAD + "let:\n  h[i j]: 1\n", "NLC012", "j", "between `i` and `j`"),
        (HEAD + "let: {β: 1, beta: 2}\n", "NLC002", "beta", "duplicate key `beta`"),
        (HEAD + "let:\n  h[0]: 1\n  h[ 0 ]: 2\n", "NLC002", "h", "duplicate key"),
    ],
)
def test_key_mistake(text: str, code: str, caret: str, says: str) -> None:
    found = only(text)
    assert (found.code, found.span.text) == (code, caret)
    assert says in f"{found.message} {found.label}"
    assert says in f"{found.message} {found.label}"


def test_all_mistakes_in_one_run_and_a_partial_tree() -> None:
    tree, report = read(
        """\
nlc: 1
system: s
context: tokens
hyper: {d: 2 *, n: 4}
lett: {u: x}
levels:
  S:
    frequency: evry token
    memory: matrix(2, 2
    objectve: a b
    rule: gd(lr=0.1)
  M:
    phase: middle
"""
    )
    found = [(d.span.line, d.code) for d in report.ordered]
    assert found == [
        (4, "NLC010"), (5, "NLC101"), (8, "NLC014"), (9, "NLC010"), (10, "NLC101"),
        (10, "NLC012"), (13, "NLC104"),
    ], render_report(report)  # fmt: skip
    assert tree is not None
    assert [(f.name, f.expr.op) for f in tree.hyper] == [("d", "error"), ("n", "num")]
    assert [let.name for let in tree.let] == ["u"]  # under the misspelt key
    S = tree.levels[0]
    assert S.frequency is None and S.memory is None and S.objective is None
    assert show(S.rule) == "gd(lr=0.1)" and "objective" in S.keys


def test_greek_names() -> None:
    tree = clean(HEAD + "hyper: {β₁: 0.9}\nlevels:\n  Φ: {init: β₁}\n")
    assert tree.hyper[0].name == "beta1" and tree.hyper[0].span.text == "β₁"
    assert tree.levels[0].name == "Phi" and tree.levels[0].init == name("beta1")


def test_a_file_with_no_context_still_reports_the_rest() -> None:
    tree, report = read("nlc: 1\nsystem: s\nlet: {a: b c}\n")
    assert tree is None
    assert [d.code for d in report.ordered] == ["NLC102", "NLC012"]


MUTATIONS = "{}[]()&*!|>%@`?-:,#\"'\\ \n\t^=+.<>/aZ0_α²‖\u00a0\x00"


@given(st.sampled_from(sorted(SPECS)), st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_any_spec_gives_codes_and_never_a_traceback(system: str, seed: int) -> None:
    rng, text = random.Random(seed), SPECS[system]
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, symbol = rng.randrange(len(text)), rng.choice(MUTATIONS)
        cut = rng.choice([0, 0, 1, 4])
        text = text[:at] + symbol * rng.choice([0, 1]) + text[at + cut :]
    tree, report = read(text)
    assert tree is not None or report.has_errors
    render_report(report)


@pytest.mark.parametrize(
    "text",
    [
        "let:\n  b: # c[\n|\n  x\n",  # a comment where a value was due, with an open bracket
        'heads: "2\n  A: { init: "log(u(1,16))" }\n  *n"\n',  # a value left out within quotes
    ],
)
def test_mistakes_of_yaml_next_to_one_another(text: str) -> None:
    _, report = read("nlc: 1\nsystem: a\ncontext: tokens\n" + text)
    assert {"NLC003", "NLC005"} & {d.code for d in report.diagnostics}
    render_report(report)


# ------------------------------------------------------------------------------------------- schema


def test_the_tree_has_every_key_of_the_models() -> None:
    renamed = {"nlc": "version", "for": "over"}
    for model, tree in ((Spec, SpecTree), (Level, LevelTree)):
        fields = set(tree.__dataclass_fields__)
        assert {renamed.get(key, key) for key in keys_of(model)} <= fields


def test_every_key_of_a_level_is_read() -> None:
    text = {
        "frequency": "every token", "anchor": "every 2 tokens", "reset": "every 4 tokens",
        "phase": "start", "backprop": "none", "for": "{s: [a]}", "let": "{u: 1}", "doc": "text",
    }  # fmt: skip
    for key in keys_of(Level):
        level = clean(
            LEVEL.replace("    memory: matrix(2, 2)\n", f"    {key}: {text.get(key, 'x')}\n")
        )
        assert getattr(level.levels[0], {"for": "over"}.get(key, key)), key


def test_json_schema() -> None:
    schema = json_schema()
    assert list(schema["properties"]) == list(keys_of(Spec))
    assert schema["required"] == ["nlc", "system", "context"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["nlc"]["enum"] == [1, "1"]
    assert schema["properties"]["heads"]["type"] == ["string", "number", "boolean"]
    level = schema["definitions"]["Level"]
    assert level["properties"]["phase"]["enum"] == ["start", "end"]
    for block in (schema, *schema["definitions"].values()):
        for key, value in block.get("properties", {}).items():
            assert value.get("description"), key
            assert "default" not in value, key
    for model in (Level, Weight, Reset, Family):
        assert list(schema["definitions"][model.__name__]["properties"]) == list(keys_of(model))


def test_parsing_needs_no_torch() -> None:
    code = (
        "import sys; from nlc.syntax.parse import parse; from nlc.base.span import Source;"
        "from nlc.base.diagnostics import Report; parse(Source('s', 'nlc: 1'), Report());"
        "assert not {'torch', 'triton', 'sympy', 'numpy'} & set(sys.modules)"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_mapping_is_exported_for_its_type() -> None:
    assert isinstance(parse_yaml(Source("s", "a: 1"), Report()), Mapping)
