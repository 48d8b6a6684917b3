"""Texts and files made to hang the compiler, to crash it, or to say more in a generated file than they may."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from judge import judge

import nlc
from nlc import cli
from nlc.base.diagnostics import SpecError
from nlc.runtime.loader import write_atomically

N = 10**6
WALL = 30.0  # seconds, on a machine that does much else
PLAIN = """\
nlc: 1
system: plain
context: tokens
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
output:
  y: S(x)
"""


def output(e: str) -> str:
    return PLAIN.replace("y: S(x)", f"y: {e}")


def let(lines: str) -> str:
    return PLAIN.replace("levels:", f"let:\n{lines}levels:")


def family(members: int) -> str:
    run = ", ".join(map(str, range(members)))
    text = PLAIN.replace("  S:", f"  S[i]:\n    for: {{i: [{run}]}}")
    return text.replace("S(key)", "S[i](key)").replace("S(x)", "sum(S[i](x) for i)")


def levels(count: int, memory: str = "matrix(d, d)", rule: str = "gd(lr=0.1)") -> str:
    more = "".join(
        f"  S{i}:\n    frequency: every token\n    memory: {memory}\n    key: x\n    value: x\n"
        f"    objective: -dot(S{i}(key), value)\n    rule: {rule}\n"
        for i in range(count)
    )
    return PLAIN.replace("output:", f"{more}output:")


def bomb(depth: int) -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, depth)]
    return "\n".join(lines)


def product_of_families() -> str:
    run, text = ",".join(map(str, range(200))), ""
    for j in range(20):
        inner = "x" if not j else f"sum(h{j - 1}[i] for i)"
        text += f"  h{j}[i]:\n    for: {{i: [{run}]}}\n    is: {inner} + i\n"
    return let(text).replace("y: S(x)", "y: h19[3]")


LARGE = {
    # YAML
    "aliases": bomb(60),
    "merge keys": "a: &a {x: 1}\nb: {<<: *a}\n" * 1000,
    **{f"deep {b!r}": f"a: {b * N}" for b in "[{(\"'|>*&!%@-?"},
    "deep and closed": "a: " + "[" * (N // 2) + "]" * (N // 2),
    "deep pairs": "a: " + "{a: " * (N // 4),
    "deep dashes": "a:\n  " + "- " * (N // 2),
    "deep questions": "? " * (N // 2),
    "deep indentation": "".join(" " * i + f"a{i}:\n" for i in range(1400)),
    "commas": "a: [" + "," * N,
    "colons": "a: " * 300_000,
    "escapes": 'a: "' + "\\u0041" * 100_000 + '"',
    "documents": "---\n" * 200_000,
    "blank lines": "\n" * N,
    "carriage returns": "\r\n" * 400_000,
    "spaces": " " * N,
    "comments": "# x\n" * 250_000,
    "a line": "a" * N,
    "a comment": "#" + "x" * (N - 2) + "\n",
    "more than a megabyte": "a" * (2 * N),
    "keys": "".join(f"k{i}: {i}\n" for i in range(100_000)),
    "one key": "a: 1\n" * 19_000,
    "mistakes": "\n".join(f"a{i}: (((" for i in range(9000)),
    # names and texts
    "name of a system": PLAIN.replace("plain", "a" * N),
    "name of a level": PLAIN.replace("S", "S" * 20_000),
    "name of a hyper": PLAIN.replace("d: 8", "d: 8\n  " + "z" * 900_000 + ": 3"),
    "doc": PLAIN.replace("context", 'doc: "' + "x" * 900_000 + '"\ncontext'),
    # expressions
    **{f"brackets {b!r}": output('"' + b * 9000 + '"') for b in "([‖⟨{"},
    **{f"brackets by a million {b!r}": output('"' + b * N + '"') for b in "([‖"},
    "minus": output('"' + "-" * 9000 + 'x"'),
    "a million minus": output('"' + "-" * N + 'x"'),
    "powers": output("x" + "**2" * 3000),
    "powers of powers": output("x" + "**2" * 99),
    "calls": output("tanh(" * 1600 + "x" + ")" * 1600),
    "a million calls": output("tanh(" * 160_000 + "x" + ")" * 160_000),
    "as many calls as there may be": output("tanh(" * 98 + "x" + ")" * 98),
    "transposed": output("x" + ".T" * 4900),
    "transposed a million times": output("x" + ".T" * 400_000),
    "superscripts": output("x" + "²" * 9000),
    "one superscript": output("x" + "⁹" * 9000),
    "prev": output("prev(" * 1600 + "x" + ")" * 1600),
    "prev as deep as it may be": output("prev(" * 98 + "x" + ")" * 98),
    "indices": output("x" + "[0]" * 3000),
    "attributes": output("x" + ".a" * 3000),
    "sums": output(" + ".join(["x"] * 2400)),
    "comparisons": output(" < ".join(["x"] * 2000)),
    "arguments": output("linear(x, " + ", ".join(f"a{i}=1" for i in range(1200)) + ")"),
    "objective of many factors": PLAIN.replace("-dot(S(key), value)", "sqnorm(" + "*".join(["S(key)"] * 30) + ")"),
    "objective of reads of reads": PLAIN.replace("S(key)", "S(" * 40 + "key" + ")" * 40),
    # numbers
    **{f"number {x[:12]}": output(f"x * {x}") for x in ("1e400", "1" * 30, "1" * 10_000, "1" * N, "0." + "1" * 9000)},
    "period": PLAIN.replace("every token", f"every 1{'0' * 30} tokens"),
    "period of a million digits": PLAIN.replace("every token", f"every 1{'0' * N} tokens"),
    "heads by a tiny number": PLAIN.replace("d: 8", "d: 8\n  p: 1e-320")
    .replace("levels:", "heads: d / p\nlevels:")
    .replace("y: S(x)", "y: merge(merge(x))"),
    "heads": PLAIN.replace("levels:", "heads: 1000000000\nlevels:"),
    "matrix": PLAIN.replace("matrix(d, d)", "matrix(1000000000, 1000000000)"),
    **{f"d: {x}": PLAIN.replace("d: 8", f"d: {x}") for x in ("2**64", "2**2**2**2**2**2", "9**9**9")},
    "conv": output("conv(x, 1000000000)"),
    "window": PLAIN.replace("-dot(S(key), value)", "sum(-dot(S(key), value), last=1000000000)"),
    # many
    **{f"family of {n}": family(n) for n in (60, 65, 3000)},
    "family of lets": let("  h[i]:\n    for: {i: [" + ",".join(map(str, range(100_000))) + "]}\n    is: x + i\n"),
    "product of families": product_of_families(),
    **{f"{n} levels": levels(n) for n in (60, 1000, 2000)},
    "rules of levels": levels(60, "mlp(d, 2, bias=true)", "adamw(lr=0.1)"),
    "lets": let("".join(f"  h{i}: x + {i}\n" for i in range(9000))),
    "lets in a chain": let("  h0: x\n" + "".join(f"  h{i}: h{i - 1} * h{i - 1}\n" for i in range(1, 90))),
    "hypers": PLAIN.replace("d: 8", "d: 8\n" + "".join(f"  h{i}: {i}\n" for i in range(9000))),
    "inputs": PLAIN.replace("x: [d]", "x: [d]\n" + "".join(f"  x{i}: [d]\n" for i in range(5000))),
    "outputs": PLAIN.replace("y: S(x)", "\n  ".join(f"y{i}: S(x)" for i in range(3000))),
    "sizes": PLAIN.replace("x: [d]", "x: [" + ", ".join(["d"] * 5000) + "]"),
    "names that are not there": let("".join(f"  h{i}: y{i} + q\n" for i in range(9000))),
    "used systems": PLAIN.replace("levels:", "use:\n" + "  m0: cms_nested(d=d)\n" * 500 + "levels:"),
}  # fmt: skip


@pytest.mark.parametrize("what", LARGE)
def test_large_and_deep_texts_end_soon(what: str) -> None:
    started = time.monotonic()
    said = judge(LARGE[what])
    assert time.monotonic() - started < WALL
    assert said == "sound" or said.startswith("NLC")


SOUND = ("as many calls as there may be", "family of 60", "60 levels", "sums", "conv")


def test_bounds_leave_room() -> None:
    """What is large and no attack is compiled."""
    assert {judge(LARGE[what]) for what in SOUND if what != "sums"} == {"sound"}


# ------------------------------------------------------------------------------------------------ bytes and files

ODD = {
    "NUL": PLAIN + "\0",
    "escaped NUL": PLAIN.replace("plain", '"pl\\0ain"'),
    "BOM inside": PLAIN.replace("S:", "\ufeffS:"),
    "two BOMs": "\ufeff\ufeff" + PLAIN,
    "surrogate": PLAIN.replace("context", 'doc: "\ud800"\ncontext'),
    "escaped surrogate": PLAIN.replace("context", 'doc: "\\ud800"\ncontext'),
    "bidi": PLAIN.replace("context", 'doc: "\u202eabc"\ncontext'),
    "escaped bidi": PLAIN.replace("context", 'doc: "\\u202eabc"\ncontext'),
    "next line": PLAIN.replace("context", 'doc: "\x85"\ncontext'),
    "separator": PLAIN.replace("context", 'doc: "\u2028"\ncontext'),
    "escape of a terminal": PLAIN.replace("context", 'doc: "\x1b[31m"\ncontext'),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_characters_are_refused(what: str) -> None:
    assert judge(ODD[what]).startswith("NLC00"), what


DATA = {
    "nothing": b"",
    "blank": b"\n \n",
    "not UTF-8": PLAIN.encode().replace(b"plain", b"pl\xffain"),
    "cut": PLAIN.encode() + "é".encode()[:1],
    "overlong": b"doc: \xc0\xaf\n" + PLAIN.encode(),
    "surrogate": b"doc: \xed\xa0\x80\n" + PLAIN.encode(),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-32": PLAIN.encode("utf-32"),
    "NUL": PLAIN.encode() + b"\0",
    "a program": b"\x7fELF\x02\x01\x01\x00" + bytes(range(256)),
    "two megabytes": b"a" * 2 * N,
}


@pytest.mark.parametrize("what", DATA)
def test_files_of_other_bytes_are_refused(what: str) -> None:
    assert judge(DATA[what]).startswith("NLC")


def test_a_mark_of_utf8_is_no_mistake() -> None:
    assert judge(b"\xef\xbb\xbf" + PLAIN.encode()) == "sound"


def _special(folder: Path) -> dict[str, Path]:
    """Paths that are no file of text."""
    out = {
        "folder": folder / "folder.yaml",
        "none": folder / "none.yaml",
        "loop": folder / "loop.yaml",
    }
    out["folder"].mkdir()
    out["loop"].symlink_to(out["loop"])
    out["broken"] = folder / "broken.yaml"
    out["broken"].symlink_to(folder / "nowhere")
    out["pipe"] = folder / "pipe.yaml"
    os.mkfifo(out["pipe"])
    for name in ("null", "zero"):
        out[name] = folder / f"{name}.yaml"
        out[name].symlink_to(f"/dev/{name}")
    out["below a file"] = folder / "file" / "spec.yaml"
    (folder / "file").write_text("x")
    out["long"] = folder / ("x" * 5000 + ".yaml")
    return out


WHAT = ("folder", "none", "loop", "broken", "pipe", "null", "zero", "below a file", "long")


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no name on this system")
def test_paths_that_are_no_files(what: str, tmp_path: Path) -> None:
    path = _special(tmp_path)[what]
    if what in ("null", "zero") and not path.is_char_device():
        pytest.skip(f"/dev/{what} is no device here")
    with pytest.raises(SpecError):
        nlc.load(path)
    result = CliRunner().invoke(cli.main, ["check", str(path)])
    assert result.exit_code == 1 and "Traceback" not in result.output


@pytest.mark.parametrize(
    "name", ["", "\0", "a\0.yaml", "\n", "/", ".", "..", "~", "x" * N, "🦆", "\ud800.yaml"]
)
def test_names_of_no_spec(name: str) -> None:
    with pytest.raises(SpecError):
        nlc.load(name)


# -------------------------------------------------------------------------------------------- the command line

VERBS = (
    ["check"], ["check", "--format", "json"], ["check", "--format", "github"],
    *(["graph", "--format", f] for f in ("text", "mermaid", "dot", "svg", "json")),
    ["derive"], ["derive", "--format", "latex"],
    ["explain"], ["explain", "--format", "json"], ["explain", "--backend", "reference"],
    *(["compile", "--backend", b] for b in ("auto", "reference", "torch", "triton")),
    ["compile", "--operator"],
)  # fmt: skip
HOSTILE = [
    'a"""\nimport os\nos.abort()\n"""',
    "a'''\\\nimport os",
    '"); import os; os.abort() #',
    "\\",
    "{d} {0} %s {x!r} {__class__.__mro__}",
    "\\N{DUCK} \\x00 \\u0000",
    '"' * 7,
    "*/ // <!-- --> ]]> </svg><script>",
    "$\\input{/etc/passwd}$",
    "```\n::error::x\n%0A",
]
SPECS = {
    **{f"doc {i}": PLAIN.replace("context", f"doc: {text!r}\ncontext") for i, text in enumerate(HOSTILE)},
    **{f"quoted doc {i}": PLAIN.replace("context", "doc: '" + text.replace("'", "''").replace("\n", " ") + "'\ncontext")
       for i, text in enumerate(HOSTILE)},
    **{f"default {i}": PLAIN.replace("d: 8", "d: '" + text.replace("'", "''").replace("\n", " ") + "'")
       for i, text in enumerate(HOSTILE)},
    **{what: LARGE[what] for what in ("aliases", "deep '['", "calls", "family of 65", "1000 levels", "number 1e400")},
    **ODD,
    "sound": PLAIN,
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_ends_in_a_report(verb: list[str]) -> None:
    for what, text in SPECS.items():
        given = text.encode("utf-8", "surrogatepass")
        result = CliRunner().invoke(cli.main, [*verb, "-"], input=given)
        assert result.exit_code in (0, 1, 2), (what, result.output)
        assert "Traceback" not in result.output and "NLC901" not in result.output, what
        assert result.exception is None or isinstance(result.exception, SystemExit), what
        assert "\x1b" not in result.output and "\0" not in result.output, what
    assert result.exit_code == 0 or "--operator" in verb, "the last one is sound"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no name on this system")
def test_what_is_no_file_is_written_into(tmp_path: Path) -> None:
    """A file in the place of ``/dev/null`` would take it from everybody."""
    pipe = tmp_path / "pipe.py"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)
    try:
        write_atomically(pipe, "text\n")
        assert pipe.is_fifo() and os.read(end, 100) == b"text\n"
    finally:
        os.close(end)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="what is open has no path on this system")
def test_a_pipe_that_has_no_path_is_written_into() -> None:
    """As ``/dev/stdout`` is before a ``|``: the link leads nowhere."""
    out, into = os.pipe()
    try:
        write_atomically(Path(f"/dev/fd/{into}"), "text\n")
        assert os.read(out, 100) == b"text\n"
    finally:
        os.close(out)
        os.close(into)
