"""``nlc explain CODE``: for every code a spec that makes the mistake, once, and one that does not; docs/errors.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import nlc
from nlc.base.codes import CODES
from nlc.cli import main
from nlc.tools import mistakes
from nlc.tools.examples import EXAMPLES, GRADIENTS, NAME, TOKENS

PAGE = Path(__file__).parent.parent / "docs" / "errors.md"


def printed(*words: str) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_code_that_a_spec_can_have_has_an_example() -> None:
    without = {"NLC015", "NLC901"}  # of a layout, by `nlc fmt --check` alone; of a bug
    assert CODES.keys() - EXAMPLES.keys() == without
    assert EXAMPLES.keys() <= CODES.keys()


@pytest.mark.parametrize("base", [TOKENS, GRADIENTS], ids=["tokens", "gradients"])
def test_the_specs_that_are_edited_are_sound(base: str) -> None:
    assert not nlc.loads(base).check().diagnostics


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_bad_one_makes_the_mistake_once_and_the_good_one_none(code: str) -> None:
    example = EXAMPLES[code]
    report, text = example.of_bad()
    assert [d.code for d in report.diagnostics] == [code], text
    report, text = example.of_good()
    assert not report.diagnostics, text
    assert example.bad or example.backends, "what is wrong with it?"


@pytest.mark.parametrize("code", CODES)
def test_explain(code: str) -> None:
    text, facts = (
        printed("explain", code.lower()),
        json.loads(printed("explain", code, "--format", "json")),
    )
    assert text.startswith(f"{CODES[code].severity}[{code}]: {CODES[code].title}\n\n")
    assert list(facts) == ["code", "severity", "title", "text", "asked", "bad", "message", "good"]
    assert (facts["code"], facts["text"]) == (code, CODES[code].text)
    if code not in EXAMPLES:
        assert (facts["bad"], facts["message"], facts["good"]) == (None, None, None)
        return
    assert facts["message"].startswith(f"{CODES[code].severity}[{code}]: ")
    assert f"--> {NAME}:" in facts["message"], "no path of this machine"
    assert facts["bad"] != facts["good"] or facts["asked"]
    for line in facts["message"].splitlines():
        assert line.strip() in text
    assert "Wrong" in text and "Right" in text


def test_a_spec_is_shown_by_the_lines_that_differ() -> None:
    right = mistakes.said("NLC405").partition("Right:\n\n")[2]
    assert right == (
        "    ...\n    levels:\n      S:\n        frequency: every 16 tokens\n        ...\n"
        "        objective: sum(0.5 * sqnorm(S(key) - value))\n        rule: gd(lr=0.5 / 16)"
    )


def test_the_page_of_codes_is_current(request: pytest.FixtureRequest) -> None:
    page = printed("list", "codes", "--format", "markdown")
    if request.config.getoption("--update-golden"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, (
        "nlc list codes --format markdown > docs/errors.md"
    )
    for code in CODES:
        assert f"\n### {code}\n" in page and f"(#{code.lower()})" in page


def test_other_lists_are_tables() -> None:
    lines = printed("list", "memories", "--format", "markdown").splitlines()
    assert lines[0].startswith("|") and lines[1].startswith("| --- |")
    assert lines[2].startswith("| `matrix(m, n)` |")
