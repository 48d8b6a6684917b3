"""`nlc fmt`: one canonical text, which says the same; nothing that the user wrote for readers is lost."""

from __future__ import annotations

import difflib
import json
import os
import random
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mutants import SEEDS, edited
from test_docs import DOCUMENTS, _blocks

import nlc
from nlc import cli
from nlc.base.diagnostics import Report
from nlc.base.span import Source, Span
from nlc.pipeline import shipped
from nlc.syntax import fmt, pieces
from nlc.syntax.math import parse_text
from nlc.syntax.yamlnodes import Scalar

ROOT = Path(__file__).parent.parent
EXAMPLES = {p.stem: p.read_text() for p in sorted((ROOT / "examples").glob("*.yaml"))}
SHIPPED = {name: path.read_text(encoding="utf-8") for name, path in shipped().items()}
SPECS = {**SHIPPED, **EXAMPLES}
HEAD = "nlc: 1\nsystem: a\ncontext: tokens\n"


def form(text: str) -> str:
    """The canonical text of a spec that can be read."""
    report = Report()
    made = fmt.formatted(Source("spec.yaml", text), report)
    assert made is not None, [d.message for d in report.diagnostics]
    return made


def body(text: str) -> str:
    """The canonical text of what stands below the first three keys."""
    made = form(HEAD + text)
    assert made.startswith(HEAD)
    return made.removeprefix(HEAD)


# ------------------------------------------------------------------------------------ fixed points


@pytest.mark.parametrize("name", SPECS)
def test_our_specs_are_in_canonical_form(name: str) -> None:
    assert form(SPECS[name]) == SPECS[name]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_specs_of_the_documents_are_in_canonical_form(document: Path) -> None:
    for block in _blocks(document):
        if block.kind == "yaml" and block.text.startswith("nlc:"):
            assert form(block.text) == block.text, f"{document.name}:{block.line}"


# ----------------------------------------------------------------------------------- what it means

_VALUE = re.compile(
    r"^(?P<start>[ ]*(?:[\w\[\]-]+|read\(z\)): )(?P<value>[^\s|>\[{\"'#].*?)(?P<end>$|  +#.*$)"
)
_SPACED = re.compile(r" ([-+*/@]) ")


def untidy(rng: random.Random, text: str) -> str:
    """The same spec as someone in a hurry writes it: other quotes, spaces, indentation, Unicode."""
    factor, out = rng.choice([1, 2, 3]), []
    block = None  # the indentation of a block of text that we are in
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if block is not None and line.strip() and depth <= block:
            block = None
        line = " " * depth * factor + line.lstrip()
        if block is None and (found := _VALUE.match(line)):
            value = found["value"]
            if found["start"].strip() not in ("doc:", "ref:"):
                value = value.replace("alpha", rng.choice(["alpha", "α"]))
                value = value.replace("0.5 *", rng.choice(["0.5 *", "½*", "0.5*"]))
                value = _SPACED.sub(rng.choice([r" \1 ", r"\1", r"  \1 "]), value)
                value = value.replace(", ", rng.choice([",", " ,  "]))
            if rng.random() < 0.5 and "'" not in value:
                value = f"'{value}'"
            line = found["start"].replace(": ", rng.choice([": ", ":   "])) + value + found["end"]
            if rng.random() < 0.1 and not found["end"] and len(line) < 90:
                line = line.replace(":", ":\n" + " " * (depth * factor + 7), 1)
        if block is None and re.search(r": [|>]", line):
            block = depth
        out.append(line + rng.choice(["", "", "  ", "\t"]) * (block is None))
    return rng.choice(["\n", "\r\n"]).join(out) + rng.choice(["", "\n", "\n\n\n"])


@pytest.mark.parametrize("name", SPECS)
def test_however_it_is_laid_out_it_becomes_the_same(name: str) -> None:
    rng, tidy = random.Random(name), SPECS[name]
    for _ in range(4):
        other = untidy(rng, tidy)
        made = form(other)
        ends = made.count("\r\n"), made.count("\n")
        assert ends[0] in (0, ends[1])
        plain = [re.sub(r" +#", " #", line) for line in made.splitlines()]
        diff = difflib.ndiff([re.sub(r" +#", " #", line) for line in tidy.splitlines()], plain)
        assert not [line for line in diff if line[0] != " "], other


def test_mutants_are_formatted_once_and_for_all() -> None:
    """``formatted`` itself raises if the tree, a comment or the second time differs; here, all of it anew."""
    rng, changed = random.Random(6), 0
    for _ in range(500):
        text = rng.choice(SEEDS)
        for _ in range(rng.choice([1, 1, 2])):
            text = edited(rng, text)
        report = Report()
        made = fmt.formatted(Source("spec.yaml", text), report)
        assert (made is None) == report.has_errors
        if made is not None:
            changed += made != text
            assert form(made) == made
    assert changed > 10


def noisy(rng: random.Random, text: str) -> str:
    """With comments and blank lines where YAML lets them stand."""
    out: list[str] = []
    block = False
    for number, line in enumerate(text.splitlines()):
        block = (block and line.startswith("  ")) or bool(re.search(r": [|>]", line))
        out.append(line)
        if block:
            continue
        if rng.random() < 0.2 and "#" not in line:
            out[-1] += rng.choice([" ", "    ", "\t"]) + f"# end {number}"
        if rng.random() < 0.2:
            out.append(" " * rng.randrange(9) + f"#own {number}\t x ")
        if rng.random() < 0.2:
            out += [""] * rng.choice([1, 1, 4])
    return "\n".join(out) + "\n"


@pytest.mark.parametrize("name", SPECS)
def test_comments_and_blank_lines_stay_where_they_are(name: str) -> None:
    rng = random.Random(name)
    for _ in range(4):
        text = noisy(rng, SPECS[name])
        made = form(text)
        words = [" ".join(line.split()) for line in text.splitlines()]
        shorter = [w for i, w in enumerate(words) if w or (i and words[i - 1])]
        while not shorter[-1]:
            shorter.pop()
        assert [" ".join(line.split()) for line in made.splitlines()] == shorter
        assert all(line == line.rstrip() for line in made.splitlines())


def test_the_same_program_is_compiled() -> None:
    rng = random.Random(3)
    drop = re.compile(r"sha256 \w+|[\w<>.]+:\d+")
    for name in ("hope", "cms_nested", "m3", "mamba2"):
        text = SHIPPED[name]
        one, other = (nlc.loads(t, "a").source_text() for t in (text, form(untidy(rng, text))))
        assert drop.sub("", one) == drop.sub("", other)


# ------------------------------------------------------------------------------------- expressions

WRITTEN = {
    "½*‖M(k) -v‖²": "0.5 * sqnorm(M(k) - v)",
    "⟨a,b⟩+‖ x ‖": "dot(a, b) + norm(x)",
    "x²ᵀ": "(x**2).T",
    "2ᵀ": "(2).T",
    "x⁻¹": "x**-1",
    "x²**3": "(x**2)**3",
    "2 ** x²": "2**x**2",
    "‖x‖²²": "sqnorm(x)**2",
    "gd( lr = 1-β₁,decay=β₁ )": "gd(lr=1 - beta1, decay=beta1)",
    "C[i](h[ i - 1 ])": "C[i](h[i-1])",
    "h[f( a,b-1 )*2]": "h[f(a, b-1)*2]",
    "sum(C[i](x)for i)": "sum(C[i](x) for i)",
    "((a))*(b  +c)": "((a)) * (b + c)",
    "1e-3+.5-1.": "1e-3 + .5 - 1.",
    "- x - -y": "-x - -y",
    "a ≤ b": "a <= b",
    "M . T@ v": "M.T @ v",
    "[ 1,[ 2 ] ]": "[1, [2]]",
    "a ⊙ ∞": "a * inf",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_expressions(text: str) -> None:
    scalar = Scalar(text, Span(Source("e", text), 0, len(text)))
    made = pieces.joined(pieces.expression(scalar))
    assert made == WRITTEN[text]
    assert made.isascii() and parse_text(made) == parse_text(text)


@pytest.mark.parametrize("text", ["⅓", "⅛", "¾"])
def test_a_fraction_is_the_same_number(text: str) -> None:
    assert body(f"heads: {text}\n").isascii()  # formatted() compares the trees


# ------------------------------------------------------------------------------------------ layout

LAYOUTS = {
    "a flow mapping is a block": (
        "hyper: {d: 64,   β: 'd/2'}  # sizes\ninputs: {x: [ d ]}\n",
        "hyper:  # sizes\n  d: 64\n  beta: d / 2\ninputs:\n  x: [d]\n",
    ),
    "a small one may stay on its line": (
        "weights:\n  A: { shape: [],init: \"log(uniform(1,16))\" }\n",
        'weights:\n  A: {shape: [], init: "log(uniform(1, 16))"}\n',
    ),
    "or be a block, if it has several": (
        "levels: {M: {reset: {every: 64 tokens,\n to: N},\n  for: {s: [a,b]}}}\n",
        "levels:\n  M:\n    reset:\n      every: 64 tokens\n      to: N\n    for: {s: [a, b]}\n",
    ),
    "an empty one": ("hyper: { }\n", "hyper: {}\n"),
    "a family": (
        "let: {'h[ i ]': {for: {i: [1]}, is: 'h[i - 1]'}}\n",
        "let:\n  h[i]:\n    for: {i: [1]}\n    is: h[i-1]\n",
    ),
    "a memory": (
        'levels: {M: {memory: {W: [n,n], "read( z )": W@z}}}\n',
        "levels:\n  M:\n    memory:\n      W: [n, n]\n      read(z): W @ z\n",
    ),
    "quotes go where YAML needs none": (
        "doc: 'plain'\nref: \"it's\"\nhyper: {'d': \"1\"}\n",
        "doc: plain\nref: it's\nhyper:\n  d: 1\n",
    ),
    "and stay where it does": (
        "doc: 'a: b # c'\nref: '2024'\nheads: '[1]'\n",
        'doc: "a: b # c"\nref: "2024"\nheads: "[1]"\n',
    ),
    "lines of an expression": (
        "let:\n    a: x+\n       f(y,\n         z)\n    b: |\n         x\n           +y\n",
        "let:\n  a: x +\n     f(y,\n       z)\n  b: |\n    x\n      + y\n",
    ),
    "a block of one line is none": ("heads: |  # why\n  2*n\n", "heads: 2 * n  # why\n"),
    "an expression in quotes over two lines": (
        "heads: \"2\n     *n\"\n",
        "heads: 2\n     * n\n",
    ),
    "prose over several lines": (
        "doc: one  \n      two\n\n      three\nref: >-\n     a\n       b\n\n\nheads: 1\n",
        "doc: one\n  two\n\n  three\nref: >-\n  a\n    b\n\nheads: 1\n",
    ),
    "prose that starts with spaces": ("doc: |4\n     x\n    y\n", "doc: |2\n   x\n  y\n"),
    "blank lines that are text": ("doc: |+\n    x\n\n\nheads: 1\n", "doc: |+\n  x\n\n\nheads: 1\n"),
    "a no-break space is text": (
        "doc: >-\n     \u00a0 \n\n\n\nheads: 1\n",
        "doc: >-\n  \u00a0\n\nheads: 1\n",
    ),
    "escapes": ('doc: "a\\tb"\n', 'doc: "a\\tb"\n'),
    "a comment between a key and its value": (
        "heads:  # a\n  # b\n  1 # c\n",
        "# a\n# b\nheads: 1  # c\n",
    ),
    "comments within a flow mapping": (
        "hyper: {  # a\n  d: 1,  # b\n  # c\n  e: 2\n}  # d\n",
        "hyper:    # a\n  d: 1   # b\n  # c\n  e: 2\n  # d\n",
    ),
    "comments within a list": (
        "hyper:\n  p: [1, # a\n      # b\n      2]\n",
        "hyper:\n  p: [1,  # a\n    # b\n      2]\n",
    ),
    "lists of YAML": (
        "hyper:\n  p:\n  - 1 # a\n  -\n     - f( x )\n",
        "hyper:\n  p:\n    - 1  # a\n    -\n      - f(x)\n",
    ),
    "a list in the column of its key": (
        "hyper:\n  p:\n  - 1\n  # p\n # hyper\n# spec\nheads: 1\n",
        "hyper:\n  p:\n    - 1\n    # p\n# hyper\n# spec\nheads: 1\n",
    ),
    "comments go with the block that they are in": (
        "let:\n    a: 1\n    # of let\n\n  # of the spec\n\n\n\n# too\nheads: 1\n# end\n\n\n",
        "let:\n  a: 1\n  # of let\n\n# of the spec\n\n# too\nheads: 1\n# end\n",
    ),
    "comments keep their column": (
        "let:\n    a:    1      # one\n    b: x+y       # two\n",
        "let:\n  a: 1           # one\n  b: x + y       # two\n",
    ),
    "a column moves as one": (
        "let:\n  a: x+y+z   # one\n  b: x       # two\n",
        "let:\n  a: x + y + z  # one\n  b: x          # two\n",
    ),
    "an explicit key": ("? heads\n: 1\n", "heads: 1\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", LAYOUTS)
def test_layout(what: str) -> None:
    text, expected = LAYOUTS[what]
    assert body(text) == expected


_ODD = ["{", "}", "[", "]", "|", "'", '"', " - ", "? ", "#", ",", ": ", "½", "²", "‖", "\u00a0"]
_ODD += [" # c\n", "\n# c\n", "\n\n\n", "\n   "]


def test_layouts_together_with_something_odd_in_them() -> None:
    rng, made = random.Random(12), 0
    for _ in range(300):
        parts = {text.split(":")[0]: text for text, _ in rng.sample(list(LAYOUTS.values()), 3)}
        text = HEAD + "".join(parts.values())
        for _ in range(rng.choice([0, 1, 2])):
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(_ODD) + text[at + rng.choice([0, 1, 2]) :]
        report = Report()
        found = fmt.formatted(Source("spec.yaml", text), report)
        assert (found is None) == report.has_errors
        made += found is not None
    assert made > 50


def test_the_first_line_stays_for_editors_and_markers_of_a_document_go() -> None:
    line = "# yaml-language-server: $schema=nlc.schema.json\n"
    assert form(f"%YAML 1.1\n---\n{HEAD}...\n") == HEAD
    assert form(f"\n\n{line}\n\n---\n{HEAD}") == f"{line}\n{HEAD}"


def test_line_breaks_are_those_of_the_file() -> None:
    text = HEAD + "doc: |\n  a\n  b\nlet:\n  c: 1 +\n    2  # d\n"
    assert form(text) == text
    assert form(text.replace("\n", "\r\n")) == text.replace("\n", "\r\n")


# --------------------------------------------------------------------------------------- the verb


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(line: str, input: bytes | None = None) -> Result:
    result = CliRunner().invoke(cli.main, line.split(), input=input)
    assert result.exit_code in (0, 1, 2), result.output
    return result


UGLY = HEAD + "hyper: {d: 1}\n"
TIDY = HEAD + "hyper:\n  d: 1\n"


def test_in_place() -> None:
    Path("a.yaml").write_text(UGLY)
    Path("b.yaml").write_text(TIDY)
    old = os.stat("b.yaml").st_mtime_ns
    result = run("fmt a.yaml b.yaml")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "formatted a.yaml\n")
    assert Path("a.yaml").read_text() == Path("b.yaml").read_text() == TIDY
    assert os.stat("b.yaml").st_mtime_ns == old
    assert run("fmt a.yaml").output == ""


def test_check_writes_nothing_and_names_the_files() -> None:
    Path("a.yaml").write_text(UGLY)
    Path("b.yaml").write_text(TIDY)
    result = run("fmt --check a.yaml b.yaml")
    assert (result.exit_code, result.stdout) == (1, "a.yaml would change\n")
    assert Path("a.yaml").read_text() == UGLY
    assert run("fmt --check b.yaml").exit_code == 0
    assert run("fmt --check -", UGLY.encode()).exit_code == 1


def test_check_for_programs() -> None:
    Path("a.yaml").write_text(UGLY)
    said = json.loads(run("fmt --check --format json a.yaml").stdout)
    assert (said["code"], said["file"]) == ("NLC015", "a.yaml")
    fix, lines = said["fix"], UGLY.splitlines(keepends=True)
    start, end = (fix["range"][x]["line"] for x in ("start", "end"))
    assert "".join([*lines[:start], fix["replacement"], *lines[end:]]) == TIDY
    annotation = run("fmt --check --format github a.yaml").stdout
    assert annotation.startswith("::warning file=a.yaml,line=4,")
    Path("a.yaml").write_text(TIDY)
    assert run("fmt --check --format json a.yaml").output == ""


def test_diff_writes_nothing() -> None:
    Path("a.yaml").write_text(UGLY.rstrip("\n"))
    result = run("fmt --diff a.yaml")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-4:] == [
        "-hyper: {d: 1}", "\\ No newline at end of file", "+hyper:", "+  d: 1",
    ]  # fmt: skip
    assert Path("a.yaml").read_text() == UGLY.rstrip("\n")
    assert run("fmt --diff --check a.yaml").exit_code == 1


def test_standard_input() -> None:
    assert run("fmt -", UGLY.encode()).stdout == TIDY
    crlf = UGLY.replace("\n", "\r\n").encode()
    assert run("fmt -", crlf).stdout_bytes == TIDY.replace("\n", "\r\n").encode()


def test_a_byte_order_mark_goes() -> None:
    Path("a.yaml").write_bytes(b"\xef\xbb\xbf" + TIDY.encode())
    assert run("fmt --check a.yaml").exit_code == 1
    assert run("fmt a.yaml").exit_code == 0
    assert Path("a.yaml").read_bytes() == TIDY.encode()


@pytest.mark.parametrize("format", ["text", "json", "github"])
def test_a_spec_that_cannot_be_read_stays_as_it_is(format: str) -> None:
    broken = HEAD + "hyper: {d: 1 +}\n"
    Path("a.yaml").write_text(broken)
    Path("b.yaml").write_text(UGLY)
    result = run(f"fmt --format {format} a.yaml b.yaml")
    assert result.exit_code == 1 and "NLC010" in result.output
    assert Path("a.yaml").read_text() == broken and Path("b.yaml").read_text() == TIDY
    assert run("fmt -", broken.encode()).exit_code == 1
    Path("c.yaml").write_bytes(b"\xff\xfe")
    assert "NLC006" in run("fmt c.yaml").stderr


def test_what_a_spec_means_is_for_check() -> None:
    Path("a.yaml").write_text(UGLY + "heads: nobody\n")
    assert run("check a.yaml").exit_code == 1
    assert run("fmt a.yaml").exit_code == 0


def test_mode_and_links_stay() -> None:
    Path("real.yaml").write_text(UGLY)
    os.chmod("real.yaml", 0o640)
    os.symlink("real.yaml", "link.yaml")
    assert run("fmt link.yaml").exit_code == 0
    assert Path("link.yaml").is_symlink() and Path("real.yaml").read_text() == TIDY
    assert os.stat("real.yaml").st_mode & 0o777 == 0o640


def test_shipped_specs_are_not_the_users() -> None:
    result = run("fmt hope")
    assert result.exit_code == 2 and "give a path" in result.stderr
    assert "NLC207" in run("fmt nowhere.yaml").stderr


@pytest.mark.parametrize("why", ["change what", "lose a comment", "twice"])
def test_a_text_that_says_something_else_is_never_written(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    wrong = {
        "change what": lambda: TIDY.replace("d: 1", "d: 2") + "# c\n",
        "lose a comment": lambda: TIDY,
        "twice": lambda: TIDY + "\n" * len(calls) + "# c\n",
    }
    monkeypatch.setattr(fmt, "written", lambda source, root: calls.append(None) or wrong[why]())
    Path("a.yaml").write_text(UGLY + "# c\n")
    result = CliRunner().invoke(cli.main, ["fmt", "a.yaml"])
    assert result.exit_code == 3 and why in result.stderr
    assert Path("a.yaml").read_text() == UGLY + "# c\n"
