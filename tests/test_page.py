"""The level graph as a page, without a browser: its data, whose each generated line is, and that it is sealed."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import TIMES
from click.testing import CliRunner

from nlc import cli
from nlc.pipeline import load, loads
from nlc.tools.derivation import update_lines
from nlc.tools.page.build import build
from nlc.tools.page.model import Page


def test_the_command_writes_a_page(tmp_path: Path) -> None:
    runner = CliRunner()
    file = tmp_path / "hope.html"
    line = ["graph", "hope", "--optimizer", "m3", "--format", "html"]
    assert runner.invoke(cli.main, [*line, "-o", str(file)]).exit_code == 0
    printed = runner.invoke(cli.main, line)
    assert printed.exit_code == 0 and printed.stdout == file.read_text(encoding="utf-8")
    assert printed.stdout.startswith("<!doctype html>")


def test_a_page_is_the_same_bytes_in_every_process_and_needs_no_torch() -> None:
    script = (
        "import sys; from nlc.pipeline import load; "
        "text = load('titans').page(load('muon')); assert 'torch' not in sys.modules; "
        "sys.stdout.buffer.write(text.encode())"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in "01"
    }
    assert len(texts) == 1


def test_the_page_names_no_place_outside_itself() -> None:
    text = load("hope_attention").page(load("m3"))
    assert not re.search(r"""(?:src|href)\s*=|url\((?!#)|@import|\bfetch\(|XMLHttp""", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


@functools.cache
def built(name: str) -> Page:
    return build(load(name), None)


KINDS = "hope hope_slow hope_attention cms_nested attention gated_delta_net mamba2 ttt_mlp adamw lookahead m3 muon"


@pytest.mark.parametrize("name", KINDS.split())
def test_every_level_has_its_lines(name: str) -> None:
    """Every level that steps has lines of the generated file, among them one that names its state."""
    spec, page = load(name), built(name)
    assert [c.name for c in page.cards] == [
        n for level in spec.graph.graph["levels"] for n in level
    ]
    for card in page.cards:
        if card.name not in spec.updates:
            continue
        d = card.detail
        assert d.update == tuple(update_lines(spec.system, spec.updates[card.name]))
        assert d.derivation and d.notes and d.costs and d.spec_lines
        lines = page.files[d.code].lines
        runs = [lines[i - 1] for run in d.code_lines for i in range(run.first, run.last + 1)]
        names = {s.name.replace(".", "_") for s in spec.system.levels[card.name].states}
        keys = {f'"{s.name}"' for s in spec.system.levels[card.name].states}
        carried = re.compile(
            rf'"(?:[^"]* )?{re.escape(card.name)}(?:[, ][^"]*)?": "|{{name: "'
        )  # "M_k M_v, M_eta": "W1 W2"; {name: "W1 W2"} in a loop over levels
        assert any(re.search(rf"\b{n}\b", line) for n in names for line in runs) or any(
            carried.search(line) or key in line for key in keys for line in runs
        )


def lines_of(name: str, level: str) -> list[str]:
    page = built(name)
    d = next(c.detail for c in page.cards if c.name == level)
    return [
        page.files[d.code].lines[i - 1].strip()
        for run in d.code_lines
        for i in range(run.first, run.last + 1)
    ]


def test_a_level_has_the_lines_that_it_alone_needs() -> None:
    mine = lines_of("m3", "M2")
    assert "M2.add_(M2_sum, alpha=beta3)  # gd(lr=β₃); line 35" in mine
    assert "M2 = chosen(due1, M2 + c5 * M2_sum, M2)  # line 35" in mine
    assert "M2_sum.add_(g)  # over every f steps; line 34" in mine
    assert "if t % f == 0:" in mine
    assert not any(line.startswith(("M1", "V ", "V_", "V.", "W ", "W_", "W.")) for line in mine)
    mine = lines_of("hope", "cms.C_2")
    assert any(line.startswith("cms_C_value = ") for line in mine)  # in the loop over all three
    assert any(line.startswith("W1 = W1 - ") for line in mine)  # in the method of all three
    assert not any("M_k" in line for line in mine)
    mine = lines_of("hope", "M_eta")  # in a method beside those of M_k and M_v
    assert any(line.startswith("ea_W1_anchor, ea_W2_anchor = ea_W1, ea_W2") for line in mine)
    assert not any(line.startswith("kv_W1_anchor") for line in mine)
    mine = lines_of("cms_independent", "C_2")
    assert any(line.startswith("C_2_value = ") for line in mine)
    assert not any(line.startswith(("C_1_value", "C_3_value")) for line in mine)
    mine = lines_of("gated_delta_net", "S")
    assert any(line.startswith("S_write = ") for line in mine)
    assert not any(line.startswith(("S_q", "y", "q ", "dtype =")) for line in mine)


def test_lines_that_several_levels_share_say_so() -> None:
    page = built("hope")
    runs = next(c.detail.code_lines for c in page.cards if c.name == "cms.C_1")
    assert {r.others for r in runs} == {(), ("cms.C_2", "cms.C_3")}


def test_spec_lines_are_the_block_of_the_level() -> None:
    page = built("m3")
    for name, last in (("M1", "rule: gd(lr=beta1)"), ("V", "rule: gd(lr=beta2)")):
        d = next(c.detail for c in page.cards if c.name == name)
        (run,) = d.spec_lines
        lines = page.files[d.spec].lines[run.first - 1 : run.last]
        assert lines[0].strip() == f"{name}:" and lines[-1].strip() == last


def test_periods_are_the_hypers_that_clocks_count_with() -> None:
    page = build(loads(TIMES), None)
    assert {p.name: p.value for p in page.periods} == {"n": 4, "hop": 6, "era": 24}
    page = build(load("hope"), load("m3"))
    names = [p.name for p in page.periods]
    assert names == ["chunk", "memory_chunk", "periods[0]", "periods[1]", "periods[2]", "f"]
