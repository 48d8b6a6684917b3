"""The hooks for pre-commit: what they run is there, on the files that they say, with codes that stop a commit."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from nlc import cli

ROOT = Path(__file__).parent.parent
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
TIDY = "nlc: 1\nsystem: a\ncontext: tokens\ninputs:\n  x: [d]\nhyper:\n  d: 4\noutput: x\n"
FILES = {
    "specs/good.yaml": TIDY,
    "specs/sub/ugly.yml": TIDY.replace("hyper:\n  d: 4", "hyper: {d: 4}"),
    "specs/wrong.yaml": TIDY.replace("output: x", "output: nothing"),
    "specs/broken.yaml": TIDY.replace("output: x", "output: (x"),
}


def test_there_are_two_and_they_are_whole() -> None:
    assert set(HOOKS) == {"nlc-check", "nlc-fmt"}
    for hook in HOOKS.values():
        assert {"id", "name", "entry", "language", "types", "files"} <= set(hook)
        tool, verb = shlex.split(hook["entry"])
        assert tool == "nlc" and verb in cli.main.commands


@pytest.mark.parametrize("id", HOOKS)
def test_only_specs_are_theirs(id: str) -> None:
    files = re.compile(HOOKS[id]["files"])
    assert all(files.search(name) for name in FILES)
    others = [".github/workflows/ci.yaml", "mkdocs.yml", "docs/specs/a.yaml", "specs/a.json"]
    assert not any(files.search(name) for name in others)


@pytest.mark.parametrize(
    ("id", "names", "code"),
    [
        ("nlc-check", ["good.yaml", "sub/ugly.yml"], 0),
        ("nlc-check", ["good.yaml", "wrong.yaml"], 1),
        ("nlc-fmt", ["good.yaml", "wrong.yaml"], 0),
        ("nlc-fmt", ["good.yaml", "broken.yaml"], 1),
    ],
)
def test_they_run_on_lists_of_files(
    id: str, names: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    command = [*shlex.split(HOOKS[id]["entry"])[1:], *(f"specs/{name}" for name in names)]
    assert CliRunner().invoke(cli.main, command).exit_code == code
    assert Path("specs/good.yaml").read_text() == TIDY


def test_fmt_changes_the_file_which_stops_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ugly.yml").write_text(FILES["specs/sub/ugly.yml"])
    assert CliRunner().invoke(cli.main, ["fmt", "ugly.yml"]).exit_code == 0
    assert Path("ugly.yml").read_text() == TIDY
