"""Whatever the text: coded diagnostics at places in it, or a sound system whose generated file is Python."""

from __future__ import annotations

import ast
import random
import re
import time
from pathlib import Path

import pytest
from language_specs import SPECS as LANGUAGE

import nlc
from nlc.base.codes import CODES
from nlc.base.diagnostics import SpecError
from nlc.base.render import render_github, render_json, render_report

SHIPPED = {
    p.stem: p.read_text() for p in Path(__file__).parents[1].joinpath("specs").rglob("*.yaml")
}
BAD = {
    p.stem: p.read_text(errors="replace")
    for p in Path(__file__).parent.joinpath("bad").glob("*.yaml")
}
SEEDS = [*SHIPPED.items(), *LANGUAGE.items(), *BAD.items()]
SECONDS = 1.0  # for one case; the slowest take a fifth of it

_TOKENS = re.compile(r"\w+|[^\w\s]|\s+")
_WORDS = (
    "nlc system context doc ref hyper heads inputs outputs weights clocks use let levels output"
    " applies_to frequency memory key value objective rule update retain toward project anchor init"
    " reset through backprop for is every token tokens step steps per infinite never matrix vector"
    " scalar like cache W S M x d q k v g t pos head gd dgd prox lr decay exact true false linear"
    " conv split merge prev stop grad sum mean last max dot sqnorm norm outer per_key softmax none"
    " where slice rotary learned zeros shape uniform normal gradients layers lambda class self None"
).split()
_SYMBOLS = "{}[]()&*!|>%@`?-:,#\"'\\ \n\t^=+.<>/$;~aZ0179_α²‖⟨½\u00a0\u2028\x00\x1b\ufeff🦆"
_NUMBERS = ["0", "-1", "1e9", "1e400", "0.5", "inf", "99999999999999999999", "1e-320", "7"]


def mutate(rng: random.Random, text: str) -> str:
    """One edit: of a character, a token, a line, a piece, or of everything behind a place."""
    kind = rng.choice("eeeeeeeeeeennnncctllkksrx")
    at = rng.randrange(len(text) + 1)
    if kind == "c":
        cut = rng.choice([0, 0, 1, 1, 4])
        return text[:at] + rng.choice(_SYMBOLS) * rng.choice([0, 1, 1]) + text[at + cut :]
    if kind == "e":
        return _within(rng, text)
    if kind in "tn":
        tokens = _TOKENS.findall(text)
        if not tokens:
            return text
        i = rng.randrange(len(tokens))
        new = rng.choice(_NUMBERS if kind == "n" else [*_WORDS, *tokens])
        if kind == "n":
            numbers = [j for j, token in enumerate(tokens) if token.isdigit()]
            i = rng.choice(numbers) if numbers else i
        tokens[i] = rng.choice([new, new, new, "", f"{tokens[i]} {new}", f"{tokens[i]}({new})"])
        return "".join(tokens)
    lines = text.splitlines(keepends=True)
    if kind in "lk" and lines:
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        if kind == "k":
            del lines[i : i + rng.choice([1, 1, 3])]
        elif rng.random() < 0.5:
            lines[i], lines[j] = lines[j], lines[i]
        else:
            lines.insert(i, rng.choice([" ", "    ", ""]) + lines[j])
        return "".join(lines)
    if kind == "s":
        other = rng.choice(SEEDS)[1]
        start = rng.randrange(len(other))
        return text[:at] + other[start : start + rng.choice([5, 40, 400])] + text[at:]
    if kind == "x":
        return text[:at]
    noise = bytes(rng.randrange(256) for _ in range(rng.choice([1, 3, 20])))
    return text[:at] + noise.decode("latin-1") + text[at:]


_OPERATORS = (" + ", " - ", " * ", " / ", " @ ", "**", ", ", " == ", ".")
_NAME = re.compile(r"[A-Za-z_]\w*")
_OPERATOR = re.compile(r" [-+*/@] |\*\*|, | == ")


def _within(rng: random.Random, text: str) -> str:
    """An edit that YAML does not see: of a name, an operator or an argument on the right of a key."""
    places = [m.span() for m in re.finditer(r"(?<=: )[^\s#].*?(?=$| +#)", text, re.MULTILINE)]
    if not places:
        return text
    start, end = rng.choice(places)
    value = text[start:end]
    pattern, words = rng.choice(
        [(_NAME, _WORDS), (_NAME, _NAME.findall(text)), (_OPERATOR, _OPERATORS)]
    )
    found = list(pattern.finditer(value))
    if not found:
        return text
    old, new = rng.choice(found), rng.choice(words)
    forms = (
        [new]
        if pattern is _OPERATOR
        else [new] * 6 + [f"{new}({old[0]})", f"prev({old[0]})", f"{old[0]}.T"]
    )
    value = value[: old.start()] + rng.choice(forms) + value[old.end() :]
    return text[:start] + value + text[end:]


def judge(text: str, name: str = "spec.yaml") -> str:
    """``sound`` or the first code; fails on anything else."""
    started = time.process_time()
    spec = nlc.loads(text, name)
    report = spec.check()
    took = time.process_time() - started
    assert took < SECONDS, f"{took:.2f} s"
    for d in report.diagnostics:
        assert d.code in CODES and d.code != "NLC901", d
        assert d.message and d.span.source.text is not None
        assert d.span.source.name == name, f"{d} is not in the text"
        assert 0 <= d.span.start <= d.span.end <= len(d.span.source.text)
        for label in d.related:
            assert label.span.source.name == name, f"{d} points outside of the text"
    for rendered in (render_report(report), render_json(report), render_github(report)):
        assert isinstance(rendered, str)
        assert "\x1b" not in rendered and "\x00" not in rendered
    if not report.has_errors:
        try:
            source = spec.source_text()
        except SpecError as error:
            assert error.report.has_errors
            return error.report.ordered[0].code
        check_python(source)
        return "sound"
    return next(d.code for d in report.ordered if d.severity == "error")


def check_python(source: str) -> None:
    """It compiles, and has no more at its top level than such a file has: nothing broke out."""
    tree = ast.parse(source)
    compile(source, "generated.py", "exec")
    for node in tree.body:
        allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert isinstance(node, allowed) or docstring, ast.dump(node)[:200]
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    modules = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported | modules <= {
        "__future__",
        "torch",
        "math",
        "collections",
        "functools",
        "typing",
    }


def run(seed: int) -> str:
    rng = random.Random(seed)
    _, text = SEEDS[seed % len(SEEDS)] if seed % 3 else rng.choice([*SHIPPED.items()])
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        text = mutate(rng, text)
    try:
        return judge(text)
    except BaseException:
        print(f"seed {seed}:\n{text}")
        raise


@pytest.mark.parametrize("block", range(10))
def test_mutations(block: int) -> None:
    found = [run(seed) for seed in range(30 * block, 30 * (block + 1))]
    assert len(set(found)) > 3, "the mutations find too little"


@pytest.mark.long
@pytest.mark.parametrize("block", range(50))
def test_many_mutations(block: int) -> None:
    for seed in range(1000 + 100 * block, 1000 + 100 * (block + 1)):
        run(seed)


# --------------------------------------------------------------------------------- breaking out of the file

HOSTILE = [
    'a"""\nimport os\nos.abort()\n"""',
    "a'''\\\nimport os",
    '"); import os; os.abort() #',
    "\\",
    'ends with a backslash \\" and a quote "',
    "{d} {0} %s {x!r}",
    "\\N{DUCK} \\x00 \\u0000",
    "ünï¢ödé 🦆 \u202e\u2028",
    '"' * 7,
    "line\n\n    indented\n# comment\n",
    "\r\nx",
    "-->",
    "*/ // <!--",
]
PLAIN = """\
nlc: 1
system: NAME
context: tokens
doc: DOC
ref: REF
hyper:
  d: 8
inputs:
  x: [d]
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    key: linear(x, d)
    value: linear(x, d)
    objective: -dot(S(key), value)
    rule: gd(lr=0.1)
    doc: LEVELDOC
output:
  y: S(x)
"""


def quoted(text: str) -> str:
    """Double-quoted YAML, in which everything can be written."""
    escaped = "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}"
        for c in text
    )
    return f'"{escaped}"'


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("key", ["NAME", "DOC", "REF", "LEVELDOC"])
def test_prose_stays_prose(key: str, text: str) -> None:
    spec = PLAIN.replace(key, quoted(text))
    for other in ("NAME", "LEVELDOC", "DOC", "REF"):
        spec = spec.replace(f": {other}\n", ": plain\n")
    expected = (
        ("NLC106", "NLC006") if key == "NAME" and not text.strip().isidentifier() else ("sound",)
    )
    assert judge(spec) in (*expected, "NLC006")


@pytest.mark.parametrize("name", [*HOSTILE, "a/b.yaml", "a b", "'", "<text>"])
def test_the_name_of_the_file_stays_a_name(name: str) -> None:
    assert judge(PLAIN.replace("NAME", "plain"), name) == "sound"


@pytest.mark.parametrize(
    "name",
    "class lambda None True self torch nn F math init x y S state dtype device W g step params group"
    " closure loss lr forward training super print __init__ zip range len str key value heads".split(),
)
def test_words_of_python_and_torch_as_names(name: str) -> None:
    """As a hyper, a let, a level, a system, an input and an output each: refused by code, or harmless."""
    spec = PLAIN.replace("NAME", "plain")
    texts = [
        re.sub(r"\bd\b", name, spec.replace("gd", "GD")).replace("GD", "gd"),
        re.sub(r"\bS\b", name, spec),
        spec.replace("system: plain", f"system: {name}"),
        re.sub(r"\bx\b", name, spec),
        spec.replace("  y: S(x)", f"  {name}: S(x)"),
        spec.replace("levels:", f"let:\n  {name}: tanh(x)\nlevels:").replace("S(x)", f"S({name})"),
    ]
    for text in texts:
        judge(text)


# ----------------------------------------------------------------------------------------- large and deep


def test_chains_of_lets_of_any_length() -> None:
    for body in ("a{0} + x", "a{0} + S(x)", "a{0} * a{0} + S(x)"):
        lets = "".join(f"  a{i}: {body.format(i - 1)}\n" for i in range(1, 400))
        text = PLAIN.replace("NAME", "plain").replace("levels:", f"let:\n  a0: x\n{lets}levels:")
        judge(text.replace("S(key)", "a399"))
        backwards = "".join(f"  a{i}: {body.format(i + 1)}\n" for i in range(400))
        text = PLAIN.replace("NAME", "plain").replace(
            "levels:", f"let:\n{backwards}  a400: x\nlevels:"
        )
        judge(text.replace("S(key)", "a0"))


def test_chains_of_hypers_and_large_constants() -> None:
    text = PLAIN.replace("NAME", "plain")
    for body in ("h{0}", "h{0} * h{0}", "2**h{0}", "h{0} / 3", "[h{0}, 1]", "-h{0}"):
        hypers = "".join(f"  h{i}: {body.format(i + 1)}\n" for i in range(600))
        judge(text.replace("hyper:\n", f"hyper:\n{hypers}  h600: 3\n").replace("lr=0.1", "lr=h0"))
    sizes = " * ".join(f"(d + a{i})" for i in range(40))
    hypers = "".join(f"  a{i}: 1\n" for i in range(40))
    judge(
        text.replace("hyper:\n", f"hyper:\n{hypers}").replace("matrix(d, d)", f"matrix({sizes}, d)")
    )


def test_families_that_multiply() -> None:
    text = PLAIN.replace("NAME", "plain")
    members = ", ".join(map(str, range(50)))
    family = f"let:\n  h[i]:\n    for: {{i: [{members}]}}\n    is: x + i\nlevels:"
    for fold in ("sum(h[i] for i)", "sum(sum(sum(h[i] for i) * h[i] for i) * h[i] for i)"):
        judge(text.replace("levels:", family).replace("y: S(x)", f"y: S({fold})"))
