"""``nlc check --fix``: what is certain is repaired in the file, the rest of it stays as it is."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_errors import BAD, SPECS, checked
from test_slips import FIXED, slip

import nlc
from nlc.base.diagnostics import Fix, Report, certain, distance
from nlc.base.render import render_report
from nlc.base.span import Source, Span
from nlc.cli import main
from nlc.tools import fix

WRONG = """\
nlc: 1
system: wrong  # a name
context: tokens
hyper: {d: 8}
inputs:
  x: [d]
levels:
  S:
    every: token
    memory: martix(d, d)
    key: l2norm(linear(x, d))
    value: linear(x, d)
    objectve: 0.5 * norm2(S(kye) – value)^2
    rule: gd(eta=0.5)
output: S(x)
"""
RIGHT = """\
nlc: 1
system: wrong  # a name
context: tokens
hyper: {d: 8}
inputs:
  x: [d]
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    key: l2norm(linear(x, d))
    value: linear(x, d)
    objective: 0.5 * sqnorm(S(key) - value)**2
    rule: gd(lr=0.5)
output: S(x)
"""
SAID = [
    "9: every: token → frequency: every token",
    "10: martix → matrix",
    "13: objectve → objective",
    "13: – → -",
    "13: ^ → **",
    "14: eta → lr",
    "13: norm2 → sqnorm",
    "13: kye → key",
]


def run(*words: str, text: str | None = None):
    return CliRunner().invoke(main, ["check", "--fix", *words], input=text)


# ------------------------------------------------------------------------------------------- certainty


def test_a_fix_is_one_slip_away_from_one_name_alone() -> None:
    def meant(name: str, *known: str, written: str = "") -> str | None:
        text = written or name
        found = certain(Span(Source("s", text), 0, len(text)), name, known)
        return found.replacement if found else None

    assert meant("vlaue", "key", "value") == "value"
    assert meant("frequncy", "frequency") == "frequency"
    assert meant("SQNORM", "sqnorm") == "sqnorm"
    assert meant("objctve", "objective") == "objective"
    assert meant("obj", "objective") is None, "an abbreviation is asked about"
    assert meant("ggd", "gd", "dgd") is None, "one slip from both"
    assert meant("h1", "h2") is None, "a digit is no slip"
    assert meant("W11", "W12") is None
    assert meant("k", "v") is None and meant("dk", "dv") is None, "short names are all alike"
    assert meant("float8", "float64") is None
    assert meant("vlaue", "value", written="size") is None, "another name stands there for it"


def test_distance_counts_neighbours_that_changed_places_once() -> None:
    assert distance("vlaue", "value", 3) == 1
    assert distance("abc", "abc", 3) == 0
    assert distance("", "abc", 3) == 3
    assert distance("kitten", "sitting", 5) == 3
    assert distance("abcdef", "uvwxyz", 2) > 2


# ------------------------------------------------------------------------------------------- in files


def test_everything_certain_is_repaired_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(WRONG)
    result = run("wrong.yaml")
    assert result.exit_code == 0, result.output
    assert Path("wrong.yaml").read_text() == RIGHT
    lines = result.stdout.splitlines()
    assert sorted(lines[:-1]) == sorted(f"wrong.yaml:{line}" for line in SAID)
    assert lines[-1] == "wrong.yaml: wrong is a sound token system"
    assert [p.name for p in tmp_path.iterdir()] == ["wrong.yaml"], "nothing is left behind"
    again = run("wrong.yaml")
    assert again.stdout.splitlines() == lines[-1:]


def test_the_rest_of_a_file_is_kept_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    before = (
        b"\xef\xbb\xbf"
        + WRONG.replace("# a name", "# \u00e4 \u2211  ").replace("\n", "\r\n").encode()
    )
    path.write_bytes(before)
    path.chmod(0o640)
    assert run(str(path)).exit_code == 0
    after = (
        b"\xef\xbb\xbf"
        + RIGHT.replace("# a name", "# \u00e4 \u2211  ").replace("\n", "\r\n").encode()
    )
    assert path.read_bytes() == after
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_text(WRONG)
    link.symlink_to(real)
    assert run(str(link)).exit_code == 0
    assert link.is_symlink() and real.read_text() == RIGHT


def test_a_file_that_may_not_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    monkeypatch.setattr("os.access", lambda *_: False)  # so it is for users, not for root
    result = run(str(path))
    assert result.exit_code == 1 and "Permission denied" in result.stderr
    assert path.read_text() == WRONG


def test_a_file_without_certain_repairs_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(RIGHT.replace("S(x)", "S(x + nothing)"))
    os.utime(path, ns=(1, 1))
    result = run(str(path))
    assert result.exit_code == 1 and "NLC201" in result.stderr and not result.stdout
    assert path.stat().st_mtime_ns == 1


def test_what_is_left_is_reported_with_its_new_place(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG.replace("S(kye)", "S(nothing)"))
    result = run(str(path))
    assert result.exit_code == 1
    assert (
        "`nothing` is not defined" in result.stderr
        and "sqnorm(S(nothing) - value)**2" in result.stderr
    )


def test_standard_input_goes_repaired_to_standard_output() -> None:
    result = run("-", text=WRONG)
    assert (result.exit_code, result.stdout) == (0, RIGHT)
    assert sorted(result.stderr.splitlines()) == sorted(f"<stdin>:{line}" for line in SAID)
    result = run("-", "--format", "json", text=WRONG.replace("S(kye)", "S(nothing)"))
    assert result.exit_code == 1 and result.stdout == RIGHT.replace("S(key)", "S(nothing)")
    rows = [json.loads(line) for line in result.stderr.splitlines()]
    assert [row["code"] for row in rows if "fixed" not in row] == ["NLC201"]


def test_json_has_one_object_for_each_repair(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    result = run(str(path), "--format", "json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and not result.stderr
    assert all(list(row) == ["fixed", "file", "line", "code", "old", "new"] for row in rows)
    assert {
        "fixed": True,
        "file": str(path),
        "line": 10,
        "code": "NLC202",
        "old": "martix",
        "new": "matrix",
    } in rows


def test_a_spec_that_is_not_there_is_said() -> None:
    result = run("nothing_like_it.yaml")
    assert result.exit_code == 1 and "NLC207" in result.stderr


# ------------------------------------------------------------------------------------------- rounds


def test_repairs_over_one_another_are_made_one_after_the_other() -> None:
    source, report = Source("s", "0123456789"), Report()
    for start, end in ((2, 5), (4, 6), (5, 7), (5, 5), (8, 8), (8, 8)):
        report.add(
            "NLC011",
            f"{start} {end}",
            Span(source, start, end),
            fix=Fix(Span(source, start, end), "x"),
        )
    kept = [(f.span.start, f.span.end) for _, f in fix._apart(report.diagnostics)]
    assert kept == [(2, 5), (5, 7), (8, 8)]


def test_repairs_end_though_each_makes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        """A spec of which every repair is a mistake again."""

        def __init__(self, text: str):
            self.source = Source("s", text)

        def check(self) -> Report:
            report = Report()
            span = Span(self.source, 0, 1)
            report.add("NLC011", "m", span, fix=Fix(span, chr(ord(self.source.text[0]) + 1)))
            return report

    monkeypatch.setattr("nlc.pipeline.loads", lambda text, name: Endless(text))
    done = fix.repaired(Endless("a"))  # type: ignore[arg-type]
    assert len(done.edits) == fix.ROUNDS


# ------------------------------------------------------------------------------------------- every mistake


@pytest.mark.parametrize("name", SPECS)
def test_bad_specs_are_repaired_or_left_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the repairs the mistake is gone and no other is there; a spec without repairs is as before."""
    monkeypatch.chdir(BAD)
    monkeypatch.setenv("NLC_PATH", "beside")
    before = checked(name)
    try:
        done = fix.repaired(nlc.load(f"{name}.yaml"))
    except nlc.SpecError:
        return  # no text at all
    if not any(d.fix for d in before.diagnostics):
        assert not done.edits
        return
    report = done.spec.check()
    assert done.edits and not report.has_errors, render_report(report)


@pytest.mark.parametrize("text", FIXED)
def test_slips_that_are_certain_are_repaired(text: str) -> None:
    """Those of tests/test_slips.py that say so come out sound."""
    done = fix.repaired(nlc.loads(slip(text), "spec.yaml"))
    report = done.spec.check()
    assert done.edits and not report.has_errors, render_report(report)
