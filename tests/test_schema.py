"""The JSON Schema that editors get: it is current, takes every sound spec and knows every key."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft7Validator
from language_specs import SPECS as LANGUAGE
from test_fmt import SPECS, form

from nlc import cli
from nlc.syntax import schema
from nlc.tools.scaffold import SCHEMA

ROOT = Path(__file__).parent.parent
ALL = {**LANGUAGE, **SPECS}
VALIDATOR = Draft7Validator(schema.json_schema())


def test_the_installed_schema_is_that_of_the_models(golden: Callable[..., None]) -> None:
    text = json.dumps(schema.json_schema(), ensure_ascii=False, indent=2) + "\n"
    golden(schema.FILE, text, folder=Path(schema.__file__).parent)


def test_it_is_in_the_wheel() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    path = Path(schema.__file__).with_name(schema.FILE).relative_to(ROOT)
    assert any(path.is_relative_to(kept) for kept in build["targets"]["wheel"]["only-include"])


def test_it_is_a_schema_of_draft_7() -> None:
    Draft7Validator.check_schema(VALIDATOR.schema)
    assert VALIDATOR.schema["$schema"] == Draft7Validator.META_SCHEMA["$schema"]
    for part in _parts(VALIDATOR.schema):
        assert "$ref" not in part or len(part) == 1, "draft 7 reads nothing beside a $ref"


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from _parts(part)


@pytest.mark.parametrize("name", ALL)
def test_every_sound_spec_is_taken(name: str) -> None:
    errors = VALIDATOR.iter_errors(yaml.safe_load(ALL[name]))
    assert [error.message for error in errors] == []


@pytest.mark.parametrize("name", ALL)
def test_so_is_what_fmt_writes(name: str) -> None:
    quoted = ALL[name].replace("nlc: 1", 'nlc: "1"')
    assert VALIDATOR.is_valid(yaml.safe_load(form(quoted)))


def _keys(value: Any, blocks: tuple[tuple[str, ...], ...], at: tuple = ()) -> Iterator[tuple]:
    """Where the keys of the language stand in a spec."""
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        here = (*at, key)
        path = tuple("*" if i % 2 and here[0] in ("levels", "weights") else k for i, k in enumerate(here))  # fmt: skip
        if path in blocks:
            yield here
        yield from _keys(inner, blocks, here)


BLOCKS = (
    *((key,) for key in schema.keys_of(schema.Spec)),
    *(("levels", "*", key) for key in schema.keys_of(schema.Level)),
    *(("weights", "*", key) for key in schema.keys_of(schema.Weight)),
    *(("levels", "*", "reset", "*", key) for key in schema.keys_of(schema.Reset)),
)


def test_a_misspelt_key_is_not_taken() -> None:
    seen = set()
    for text in ALL.values():
        spec = yaml.safe_load(text)
        for *path, key in _keys(spec, BLOCKS):
            wrong = copy.deepcopy(spec)
            block = wrong
            for step in path:
                block = block[step]
            block[f"{key}x"] = block.pop(key)
            assert not VALIDATOR.is_valid(wrong), (*path, key)
            seen.add((len(path), key))
    assert len(seen) > 25


@pytest.mark.parametrize(
    "text",
    ["context: token", "levels: {M: {phase: middle}}", "hyper: [1]", "hyper: {d: null}", "nlc: 2",
     "let: {h: {for: {i: [1]}}}", "weights: {A: {init: 0}}", "levels: {M: {reset: {to: M}}}"],
)  # fmt: skip
def test_values_of_another_kind_are_not_taken(text: str) -> None:
    spec = {"nlc": 1, "system": "a", "context": "tokens"}
    assert VALIDATOR.is_valid(spec)
    assert not VALIDATOR.is_valid({**spec, **yaml.safe_load(text)})


# ----------------------------------------------------------------------------------------- nlc new


def _new(line: str) -> None:
    result = CliRunner().invoke(cli.main, ["new", *line.split()])
    assert result.exit_code == 0, result.output


def test_a_new_spec_names_the_schema_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sub/one", "sub/two"):
        _new(name)
        text = Path(f"{name}.yaml").read_text()
        line = text.partition("\n")[0]
        assert line == f"# yaml-language-server: $schema={SCHEMA}"
        assert (
            tmp_path / "sub" / line.partition("$schema=")[2]
        ).read_text() == schema.schema_text()
        assert form(text) == text
    _new("sub/three --like sub/one.yaml")
    assert Path("sub/three.yaml").read_text().count("yaml-language-server") == 1


def test_an_old_copy_is_renewed_and_another_file_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(SCHEMA).write_text(json.dumps({"$comment": schema.MARK}))
    _new("one")
    assert Path(SCHEMA).read_text() == schema.schema_text()
    Path(SCHEMA).write_text("{}")
    _new("two")
    assert Path(SCHEMA).read_text() == "{}"
