"""What the compiler says of mistakes: a bad spec and the exact report for every code, none of it twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import nlc
from nlc.base.codes import CODES
from nlc.base.diagnostics import MANY, Report, SpecError, nearest
from nlc.base.render import render_github, render_json, render_report
from nlc.base.span import Source, Span
from nlc.cli import main
from nlc.syntax.values import RESERVED

BAD = Path(__file__).parent / "bad"
SPECS = sorted(path.stem for path in BAD.glob("*.yaml"))

# no spec makes `check` say these: what fmt would write is no mistake, bugs are ours
WITHOUT_SPEC = {"NLC015", "NLC901"}


ASKED = re.compile(r"^# plan (\w+)=(.+)$", re.M)  # what is asked for beside the spec
BACKEND = re.compile(r"^# backend (\w+)$", re.M)


def checked(name: str) -> Report:
    """The report on a bad spec, which is called as it is from its own folder."""
    try:
        spec = nlc.load(f"{name}.yaml")
        if plans := dict(ASKED.findall(spec.source.text)):
            spec.source_text(plan=plans)
        if backend := BACKEND.search(spec.source.text):
            spec.source_text(backend[1])
        return spec.check()
    except SpecError as error:
        return error.report


def report_of(text: str) -> Report:
    return nlc.loads(text, "spec.yaml").check()


@pytest.fixture
def in_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of the bad specs; what they use and have as rules stands in a folder of its own."""
    monkeypatch.chdir(BAD)
    monkeypatch.setenv("NLC_PATH", "beside")


def test_what_is_there_and_is_no_spec_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("")
    Path("folder").mkdir()
    for name, said in {
        "mine.py": "ends in no `.yaml`",
        ".": "is a folder",
        "folder": "is a folder",
    }.items():
        with pytest.raises(SpecError) as caught:
            nlc.load(name)
        (found,) = caught.value.report.diagnostics
        assert said in found.message and found.label == "not a spec"
    Path("folder.yaml").write_text("")
    with pytest.raises(SpecError) as caught:
        nlc.load("folder")
    assert caught.value.report.diagnostics[0].label == "did you mean `folder.yaml`?"


# ------------------------------------------------------------------------------------------ goldens


@pytest.mark.parametrize("name", SPECS)
def test_report(name: str, in_bad: None, golden: Callable[..., None]) -> None:
    report = checked(name)
    code = name[: len("NLC000")]
    assert [d.code for d in report.diagnostics] == [code], render_report(report)
    golden(f"{name}.txt", render_report(report) + "\n", folder=BAD)


def test_every_code_has_a_bad_spec() -> None:
    said = {name[: len("NLC000")] for name in SPECS}
    assert said <= CODES.keys()
    assert CODES.keys() - said == WITHOUT_SPEC


def test_every_golden_has_its_spec() -> None:
    assert sorted(path.stem for path in BAD.glob("*.txt")) == SPECS


@pytest.mark.parametrize("name", SPECS)
def test_form(name: str, in_bad: None) -> None:
    """What style asks of every message, whatever it says."""
    for d in checked(name).diagnostics:
        said = [d.message, d.label, *(r.text for r in d.related), *d.notes, *d.helps]
        for text in said:
            assert not text.endswith(".") and "\n" not in text, text
            assert text.count("`") % 2 == 0 or "…" in text, text
            assert not re.search(r"None|<[a-z]+ object|Traceback|Token\(|\('", text), text
            assert "a a" not in text.split() and "an t" not in text
        assert d.message[0].islower() or d.message[0] == "`" or d.message.startswith("YAML ")
        assert d.label or d.related or d.helps or d.notes
        assert d.span.source.name.startswith("NLC"), "the place is in the spec, not in the library"
        for label in d.related:
            assert label.span.source is d.span.source and label.span.text


@pytest.mark.parametrize("name", SPECS)
def test_a_fix_repairs_its_mistake(name: str, in_bad: None) -> None:
    for d in checked(name).diagnostics:
        if d.fix is None:
            continue
        text = d.span.source.text
        fixed = text[: d.fix.span.start] + d.fix.replacement + text[d.fix.span.end :]
        again = nlc.loads(fixed, "fixed.yaml").check()
        assert (d.code, d.message) not in [(e.code, e.message) for e in again.diagnostics]


def test_a_mistake_in_what_is_used_is_shown_where_it_stands(in_bad: None) -> None:
    spec = BAD.joinpath("NLC404_use_of_two_outputs.yaml").read_text()
    spec = spec.replace("two_outputs(d=d)", "circle(d=d)")
    (found,) = report_of(spec).diagnostics
    assert (found.code, found.span.source.name) == ("NLC212", "beside/circle.yaml")
    assert found.span.text == "circle" and found.span.line == 9


def test_spec_not_found() -> None:
    with pytest.raises(SpecError) as error:
        nlc.load("gated_delta_nett")
    (found,) = error.value.report.diagnostics
    assert (found.code, found.message) == ("NLC207", "there is no spec `gated_delta_nett`")
    assert found.label == "did you mean `gated_delta_net`?"


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("my_nte.yaml", "my_net.yaml"),
        ("my_net.yml", "my_net.yaml"),
        ("m_doesnotexist.yaml", None),
        ("m1.yaml", None),
    ],
)
def test_file_not_found(name: str, close: str | None, tmp_path: Path) -> None:
    """The suffix that all specs have brings no two names near."""
    (tmp_path / "my_net.yaml").touch()
    (tmp_path / "m_docs.yaml").touch()
    with pytest.raises(SpecError) as error:
        nlc.load(tmp_path / name)
    (found,) = error.value.report.diagnostics
    assert found.label == (f"did you mean `{tmp_path / close}`?" if close else "not found")


# ------------------------------------------------------------------------------------- several mistakes

EIGHT = """\
nlc: 1
system: eight
context: tokens
hyper:
  d: 64
  n: d /
  m: log(0)
inputs:
  x: [d]
let:
  q: l2nrm(linear(x, m))
  k: tanh(q) + n * vv
levels:
  S:
    frequency: evry token
    memory: matrx(d, d)
    key: k
    value: linear(x, d, bais=true)
    objective: 0.5 sqnorm(S(key) - value)
    rule: gd(lr=n)
output:
  y: S(q) + S.key
"""


def test_eight_mistakes_are_eight_messages() -> None:
    report = report_of(EIGHT)
    found = [(d.code, d.span.line, d.span.text) for d in report.ordered]
    assert found == [
        ("NLC010", 6, ""),
        ("NLC206", 7, "log(0)"),
        ("NLC202", 11, "l2nrm"),
        ("NLC201", 12, "vv"),
        ("NLC014", 15, "evry token"),
        ("NLC202", 16, "matrx"),
        ("NLC204", 18, "bais"),
        ("NLC012", 19, "sqnorm"),
    ], render_report(report)
    text = render_report(report)
    assert text.endswith("\n\n8 errors in spec.yaml")
    assert text.count("error[") == 8


CASCADES = {
    "a hyper with a mistake": ("d: 64", "d: 64 64", ["NLC012"]),
    "a hyper that is not there": ("  d: 64\n", "", ["NLC201"]),
    "a hyper of the wrong kind": ("  d: 64\n  e: 32\n", "  - 64\n", ["NLC103"]),
    "a block under another name": ("hyper:", "dims:", ["NLC101"]),
    "a hyper that is no size": ("d: 64", "d: 0.5", ["NLC305"]),
    "a size that a fraction makes whole": (
        "d: 64\n",
        "d: r * e\n  r: 0.5\n",
        ["NLC305"],
    ),
    "a let with a mistake": ("q: linear(x, d)", "q: linear(x d)", ["NLC012"]),
    "a let that reads nothing": ("q: linear(x, d)", "q: linear(xs, d)", ["NLC201"]),
    "a let with a refused name": ("u", "t", ["NLC106"]),
    "a level with an unknown memory": ("matrix(d, d)", "martix(d, d)", ["NLC202"]),
    "a level with an unreadable clock": ("every token", "ever token", ["NLC014"]),
    "a level that is a text": ("  S:\n", "  S: x\n  T:\n", ["NLC103"]),
    "an input with a mistake": ("x: [d]", "x: [d d]", ["NLC012"]),
    "a shape that is wrong everywhere": ("matrix(d, d)", "matrix(d, e)", ["NLC301"]),
    "a context that is misspelt": ("context: tokens", "context: tokenz", ["NLC104"]),
}

SOUND = """\
nlc: 1
system: sound
context: tokens
hyper:
  d: 64
  e: 32
inputs:
  x: [d]
let:
  q: linear(x, d)
  u: tanh(q) * e
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    key: linear(x, d)
    value: u
    objective: -dot(S(key), value)
    rule: gd(lr=0.1)
output:
  y: S(q) + S.value
"""


def test_the_spec_that_is_broken_below_is_sound() -> None:
    assert not report_of(SOUND).diagnostics


@pytest.mark.parametrize("what", CASCADES)
def test_one_mistake_is_one_message(what: str) -> None:
    old, new, codes = CASCADES[what]
    text = re.sub(r"\bu\b", new, SOUND) if old == "u" else SOUND.replace(old, new, 1)
    report = report_of(text)
    assert [d.code for d in report.ordered] == codes, render_report(report)


def test_mistakes_stand_in_the_order_of_the_text_and_once() -> None:
    report = Report()
    source = Source("s", "0123456789")
    for start in (7, 2, 5, 2):
        report.add("NLC011", "m", Span(source, start, start + 1), f"label {start}")
    assert [d.span.start for d in report.ordered] == [2, 5, 7]


def test_a_report_is_bounded_and_says_so() -> None:
    report, source = Report(), Source("s", "x" * 1000)
    for start in range(1000):
        report.add("NLC011", "m", Span(source, start, start + 1))
    assert len(report.diagnostics) == MANY
    assert render_report(report).endswith(f"{MANY} errors in s; more are not looked for")


def test_many_mistakes_do_not_take_long() -> None:
    lets = "".join(f"  a{i}: unknown_{i} + missing_{i}\n" for i in range(3000))
    report = report_of(SOUND.replace("let:\n", f"let:\n{lets}"))
    assert report.full


def test_nearest_takes_the_name_that_is_meant() -> None:
    names = ["key", "value", "frequency", "objective"]
    assert nearest("vlaue", names) == "value"
    assert nearest("objctive", names) == "objective"
    assert nearest("colour", names) is None
    assert nearest("alfa", ["alpha", "beta"]) == "alpha", "it sounds alike"
    assert nearest("beka", ["alpha", "beta_2", "becca", "gate"]) == "becca"
    assert nearest("lamp", ["alpha", "beta"]) is None
    assert nearest("key", names) is None


def test_words_of_the_language_are_no_names() -> None:
    for word in RESERVED:
        report = report_of(SOUND.replace("  u: tanh", f"  {word}: 1\n  u: tanh"))
        assert "NLC106" in [d.code for d in report.diagnostics], word


def test_sizes_written_as_decimal_numbers_are_whole() -> None:
    text = SOUND.replace("d: 64", "n: 6.4e1\n  d: 2 * n / 2").replace("e: 32", "e: 32.0")
    spec = nlc.loads(text)
    assert not spec.check().diagnostics
    values = {name: hyper.value for name, hyper in spec.system.hypers.items()}
    assert values == {"n": 64, "d": 64, "e": 32}
    assert [type(v) for v in values.values()] == [int, int, float]  # e is a factor, no size


# ------------------------------------------------------------------------------------------- programs

POSITION = {"line": int, "character": int}


@pytest.mark.parametrize("name", SPECS)
def test_json(name: str, in_bad: None) -> None:
    report = checked(name)
    lines = render_json(report).splitlines()
    assert len(lines) == len(report.diagnostics)
    for line, d in zip(lines, report.ordered, strict=True):
        found = json.loads(line)
        assert list(found) == [
            "code", "severity", "file", "range", "message", "related", "help", "fix",
        ]  # fmt: skip
        assert (found["code"], found["severity"]) == (d.code, CODES[d.code].severity)
        assert found["file"] == f"{name}.yaml"
        assert found["message"] == d.message and found["help"] == list(d.helps)
        places = [found["range"]["start"], found["range"]["end"]]
        start, end = ((p["line"], p["character"]) for p in places)
        assert start <= end
        assert start == (d.span.line - 1, d.span.column - 1)
        for r in found["related"]:
            assert list(r) == ["line", "character", "message"] and r["message"]
            places.append({k: r[k] for k in POSITION})
        if found["fix"] is not None:
            assert list(found["fix"]) == ["range", "replacement"]
            assert isinstance(found["fix"]["replacement"], str)
            places += found["fix"]["range"].values()
        for place in places:
            assert {k: type(v) for k, v in place.items()} == POSITION
            assert place["line"] >= 0 and place["character"] >= 0


@pytest.mark.parametrize("name", SPECS)
def test_github(name: str, in_bad: None) -> None:
    report = checked(name)
    lines = render_github(report).splitlines()
    assert len(lines) == len(report.diagnostics)
    for line, d in zip(lines, report.ordered, strict=True):
        form = (
            r"::(error|warning) file=(\S+?),line=(\d+),endLine=(\d+),col=(\d+)"
            r"(?:,endColumn=(\d+))?,title=(NLC\d+)::(.+)"
        )
        match = re.fullmatch(form, line)
        assert match is not None, line
        severity, file, first, last, column, end, code, text = match.groups()
        assert (severity, code) == (d.severity, d.code) and file == f"{name}.yaml"
        assert int(first) == d.span.line and int(column) == d.span.column
        assert int(last) >= int(first) and (end is None or int(end) > int(column))
        assert text.startswith(d.message.replace("%", "%25"))


@pytest.mark.parametrize("format", ["text", "json", "github"])
def test_command_line(format: str, in_bad: None) -> None:
    run = CliRunner().invoke(main, ["check", f"{SPECS[0]}.yaml", "--format", format])
    assert run.exit_code == 1
    expected = {"text": render_report, "json": render_json, "github": render_github}[format]
    where = run.stderr if format == "text" else run.stdout
    assert where == expected(checked(SPECS[0])) + "\n"
    assert "Traceback" not in run.output
