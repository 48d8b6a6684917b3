"""``# nlc: allow CODE``: warnings that the author of a spec knows of; what such a comment does in vain is said."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import nlc
from nlc.base.codes import CODES
from nlc.base.render import render_report
from nlc.cli import main

SPEC = """\
nlc: 1
system: noisy
context: tokens
hyper:
  d: 64
  n: 3
  m: 4
inputs:
  x: [d]
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    key: linear(x, d)
    value: linear(x, d)
    objective: 0.5 * sqnorm(S(key) - value)
    rule: gd(lr=0.5)
output: S(x)
"""
ALL = [("NLC210", 6), ("NLC210", 7), ("NLC803", 14)]


def found(text: str) -> list[tuple[str, int]]:
    return [(d.code, d.span.line) for d in nlc.loads(text, "noisy.yaml").check().ordered]


def at(line: str, comment: str) -> str:
    return SPEC.replace(line, f"{line}  {comment}")


def above(line: str, *comments: str) -> str:
    return SPEC.replace(f"{line}\n", "".join(f"{c}\n" for c in (*comments, line)))


def test_the_spec_warns_three_times() -> None:
    assert found(SPEC) == ALL
    assert all(CODES[code].severity == "warning" for code, _ in ALL)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (at("  n: 3", "# nlc: allow NLC210"), [("NLC210", 7), ("NLC803", 14)]),
        (at("  n: 3", "# nlc: allow NLC210 kept for the ablation, NLC803"), [("NLC210", 7), ("NLC803", 14)]),
        (at("  n: 3", "#nlc:allow NLC210"), [("NLC210", 7), ("NLC803", 14)]),
        (above("  n: 3", "  # nlc: allow NLC210"), [("NLC210", 8), ("NLC803", 15)]),
        (above("  n: 3", "# nlc: allow NLC210", "", "# both"), [("NLC210", 10), ("NLC803", 17)]),
        (f"# nlc: allow NLC210\n{SPEC}", [("NLC803", 15)]),
        (f"# nlc: allow NLC210, NLC803 a study of long keys\n\n{SPEC}", []),
        (f"# nlc: allow NLC210 NLC803\n{SPEC}", []),
        (f"# nlc: allow NLC803\n---\n{SPEC}", [("NLC210", 8), ("NLC210", 9)]),
        (at("  n: 3", "# nlc: allow NLC210").replace("\n", "\r\n"), [("NLC210", 7), ("NLC803", 14)]),
    ],
)  # fmt: skip
def test_a_comment_silences_its_line_the_next_or_the_file(text: str, left: list) -> None:
    assert found(text) == left


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (at("  d: 64", "# nlc: allow NLC210"), 5, "nothing on line 5 is warned of with NLC210"),
        (f"# nlc: allow NLC801\n{SPEC}", 1, "nothing in this file is warned of with NLC801"),
        (at("  n: 3", "# nlc: allow NLC803"), 6, "nothing on line 6 is warned of with NLC803"),
        (at("  n: 3", "# nlc: allow NLC301"), 6, "the error NLC301 cannot be silenced"),
        (at("  n: 3", "# nlc: allow NLC21O"), 6, "there is no code NLC21O"),
        (at("  n: 3", "# nlc: allow NLC219"), 6, "there is no code NLC219"),
        (at("  n: 3", "# nlc: allow"), 6, "this comment to nlc is not understood"),
        (at("  n: 3", "# nlc: disable NLC210"), 6, "this comment to nlc is not understood"),
    ],
)
def test_what_silences_nothing_is_said(text: str, line: int, says: str) -> None:
    report = nlc.loads(text, "noisy.yaml").check()
    vain = [d for d in report.diagnostics if d.code == "NLC008"]
    assert [(d.span.line, d.message) for d in vain] == [(line, says)]
    assert len(report.diagnostics) == 1 + len(ALL), render_report(report)


def test_what_only_looks_like_a_comment_is_none() -> None:
    quoted = SPEC.replace("system: noisy", 'system: noisy\ndoc: "a # nlc: allow NLC210"')
    assert found(quoted) == [(code, line + 1) for code, line in ALL]
    block = SPEC.replace("system: noisy", "system: noisy\ndoc: |\n  # nlc: allow NLC210")
    assert found(block) == [(code, line + 2) for code, line in ALL]
    assert found(SPEC.replace("noisy", "noisy  # see nlc: allow NLC210")) == ALL


def test_beside_errors_an_allow_is_not_called_vain() -> None:
    text = at("  d: 64", "# nlc: allow NLC803").replace("S(key)", "S(kye)")
    assert found(text) == [("NLC201", 16)]


def test_the_command_line_says_nothing_of_what_is_allowed() -> None:
    text = f"# nlc: allow NLC210, NLC803\n{SPEC}"
    for verb in ("check", "graph", "derive"):
        result = CliRunner().invoke(main, [verb, "-"], input=text)
        assert result.exit_code == 0 and not result.stderr, result.output
    assert "is a sound token system" in CliRunner().invoke(main, ["check", "-"], input=text).stdout
