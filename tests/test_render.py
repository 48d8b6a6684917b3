"""The text, JSON and GitHub forms of diagnostics."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest

from nlc.base.codes import CODES
from nlc.base.diagnostics import Diagnostic, Fix, Label, Report
from nlc.base.render import WIDTH, render_github, render_json, render_report, to_json
from nlc.base.span import Source, Span

DELTA = Source(
    "specs/delta.yaml",
    """\
nlc: 1
name: delta
dims: {d: 64, e: 32}
inputs:
  x: [T, d]
  y: [T, e]
params:
  Wq: [d, d]
  Wk: [d, d]
  Wv: [d, e]
levels:
  memory:
    every: 1 token
    state:
      M: [e, d]
    key: x @ Wk
    value: x @ Wv
    objective: 0.5 * norm2(key @ M - value)
    rule: sgd(lr=0.1)
""",
)


def place(text: str, source: Source = DELTA, after: str = "") -> Span:
    start = source.text.index(text, source.text.index(after))
    return Span(source, start, start + len(text))


def mismatch(report: Report) -> None:
    report.add(
        "NLC301",
        "shapes do not match in `key @ M`",
        place("key @ M"),
        "`@` needs d == e, but d = 64 and e = 32",
        related=[
            Label(place("[e, d]"), "`M` is [e, d] = [32, 64]"),
            Label(place("x @ Wk"), "`key` is [d] = [64] per token"),
        ],
        helps=["write `M @ key`, or declare `M: [d, e]`"],
    )


def test_excerpt_with_related_places() -> None:
    report = Report()
    mismatch(report)
    assert render_report(report) == (
        """\
error[NLC301]: shapes do not match in `key @ M`
  --> specs/delta.yaml:18:28
   |
15 |       M: [e, d]
   |          ------ `M` is [e, d] = [32, 64]
16 |     key: x @ Wk
   |          ------ `key` is [d] = [64] per token
...
18 |     objective: 0.5 * norm2(key @ M - value)
   |                            ^^^^^^^ `@` needs d == e, but d = 64 and e = 32
   |
   = help: write `M @ key`, or declare `M: [d, e]`"""
    )


def test_two_related_places_at_most() -> None:
    labels = [Label(place(text), text) for text in ("[T, d]", "[T, e]", "[d, d]")]
    report = Report()
    report.add("NLC301", "three", place("sgd"), related=labels)
    text = render_report(report)
    assert "[T, d]" in text and "[T, e]" in text and "[d, d]" not in text


def test_notes_stand_before_helps_and_the_footer_counts() -> None:
    report = Report()
    report.add("NLC101", "b", place("rule"), notes=["a fact"], helps=["do this", "or this"])
    report.add("NLC101", "a", place("key"))
    text = render_report(report)
    assert text.endswith("\n\n2 errors in specs/delta.yaml")
    assert text.index("]: a") < text.index("]: b")
    assert "   = note: a fact\n   = help: do this\n   = help: or this\n" in text


def test_one_diagnostic_has_no_footer() -> None:
    report = Report()
    report.add("NLC101", "a", place("key"))
    assert render_report(report).splitlines()[-1] == "   |     ^^^"


def test_footer_counts_warnings_apart() -> None:
    warning = next(code for code, c in CODES.items() if c.severity == "warning")
    report = Report()
    report.add("NLC101", "a", place("key"))
    report.add("NLC101", "a", place("value"))
    report.add(warning, "b", place("rule"))
    assert render_report(report).endswith("2 errors and 1 warning in specs/delta.yaml")
    assert f"warning[{warning}]: b" in render_report(report)


def test_two_labels_on_one_line_and_an_empty_span() -> None:
    source = Source("s", "f(lr=1, lr=2)")
    report = Report()
    end = Span(source, 13, 13)
    report.add("NLC011", "twice", end, "here", related=[Label(Span(source, 2, 4), "first")])
    assert render_report(report).splitlines()[2:] == [
        "  |",
        "1 | f(lr=1, lr=2)",
        "  |   -- first",
        "  |              ^ here",
    ]


def test_tabs_are_arrows_and_keep_the_caret_in_place() -> None:
    source = Source("s", "\tkey:\tx")
    report = Report()
    report.add("NLC001", "tab", Span(source, 6, 7))
    line, caret = render_report(report).splitlines()[3:5]
    assert line == "1 | →key:→x"
    assert line[caret.index("^")] == "x"


@pytest.mark.parametrize("before", ["日本", "x̂ ", "e\x1b[31m"])
def test_caret_stands_under_its_character(before: str) -> None:
    report = Report()
    source = Source("s", before + "!")
    report.add("NLC011", "m", Span(source, len(before), len(before) + 1))
    line, caret = render_report(report).splitlines()[3:5]
    wide = {"W": 2, "F": 2}
    columns = [
        0 if unicodedata.combining(ch) else wide.get(unicodedata.east_asian_width(ch), 1)
        for ch in line[: line.index("!")]
    ]
    assert sum(columns) == caret.index("^")


def test_control_characters_are_spelled_out_everywhere() -> None:
    source = Source("a\x1b", "a\x1b[31m\u202e")
    report = Report()
    report.add("NLC006", "see \x1b", Span(source, 0, 1), "\x07", notes=["\r\n"], helps=["\x00"])
    text = render_report(report)
    assert not {ch for ch in text if unicodedata.category(ch)[0] == "C"} - {"\n"}
    assert "\\x1b[31m\\u202e" in text


@pytest.mark.parametrize("at", [0, 100, 5000, 9999, 10_000])
def test_long_lines_are_cut_around_the_caret(at: int) -> None:
    text = "".join(chr(ord("a") + i % 26) for i in range(10_000))
    report = Report()
    report.add("NLC007", "long", Span(Source("s", text), at, at + 1))
    line, caret = render_report(report).splitlines()[3:5]
    assert len(line) <= WIDTH + len("1 | ") + 2
    column = caret.index("^")
    if at < len(text):
        assert line[column] == text[at]
        assert text[max(0, at - 20) : at + 1] in line
    else:
        assert column == len(line)


def test_span_over_several_lines_is_underlined_on_its_first() -> None:
    source = Source("s", "abc\ndef\n")
    report = Report()
    report.add("NLC011", "m", Span(source, 1, 6))
    assert render_report(report).splitlines()[3:] == ["1 | abc", "  |  ^^"]


def test_another_file_has_an_excerpt_of_its_own() -> None:
    other = Source("other.yaml", "a: 1\nb: 2\n")
    report = Report()
    report.add("NLC101", "m", place("rule"), related=[Label(Span(other, 5, 6), "there")])
    assert "\n  ::: other.yaml:2:1\n   |\n 2 | b: 2\n   | - there" in render_report(report)


def test_color_only_adds_color() -> None:
    report = Report()
    mismatch(report)
    colored = render_report(report, color=True)
    assert "\x1b[1;31m" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == render_report(report)


def test_windows_line_ends_are_not_shown() -> None:
    source = Source("s", "a: 1\r\nb: 2\r\n")
    report = Report()
    report.add("NLC101", "m", Span(source, 6, 7))
    assert "2 | b: 2\n" in render_report(report) + "\n"


def test_json_is_the_form_that_editors_read() -> None:
    report = Report()
    mismatch(report)
    assert render_json(report) == (
        '{"code":"NLC301","severity":"error","file":"specs/delta.yaml",'
        '"range":{"start":{"line":17,"character":27},"end":{"line":17,"character":34}},'
        '"message":"shapes do not match in `key @ M`",'
        '"related":[{"line":14,"character":9,"message":"`M` is [e, d] = [32, 64]"},'
        '{"line":15,"character":9,"message":"`key` is [d] = [64] per token"}],'
        '"help":["write `M @ key`, or declare `M: [d, e]`"],"fix":null}'
    )


def test_json_has_the_fix_and_one_line_each() -> None:
    report = Report()
    report.add("NLC013", "power", place("norm2"), fix=Fix(place("norm2"), "sqnorm"))
    report.add("NLC101", "two\nlines", place("key"))
    lines = render_json(report).splitlines()
    assert len(lines) == 2
    fixes = [json.loads(line)["fix"] for line in lines]
    assert {"range": to_json(report.diagnostics[0])["range"], "replacement": "sqnorm"} in fixes


def test_json_counts_utf16_units() -> None:
    source = Source("s", "𝛼𝛽x")
    found = to_json(Diagnostic("NLC011", "m", Span(source, 2, 3)))
    assert found["range"]["start"] == {"line": 0, "character": 4}


def test_github_escapes_what_it_reads_as_its_own() -> None:
    source = Source("a,b:c.yaml", "x\n")
    report = Report()
    report.add("NLC011", "50%\nof it", Span(source, 0, 1), "a label", helps=["help: this"])
    assert render_github(report) == (
        "::error file=a%2Cb%3Ac.yaml,line=1,endLine=1,col=1,endColumn=2,title=NLC011"
        "::50%25%0Aof it: a label%0Ahelp: help: this"
    )
