"""Every place in the compiler that reports a mistake is reached by a bad spec, so its words are in a golden."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from test_errors import BAD, SPECS, checked

from nlc.base.diagnostics import Report

ROOT = Path(__file__).parent.parent / "nlc"
LAYERS = ("syntax", "passes", "pipeline.py")
SAYS = {"add", "say"}  # with a code as the first argument
HELPERS = {"wrong", "later", "wrong_kind", "not_a_switch", "cut_by_comment", "_misplaced"}
FRAMES = 4  # from `Report.add` up to the place that knows the words

# Messages without a bad spec of their own: by their words, and why.
WITHOUT = {
    "this one is too much": "families of many thousand operations",
    "over {len(items)} members": "a sum of many thousand operations",
    "operations deep": "a spec that is as deep as Python's own stack",
    "this file is larger than 1 MiB": "a spec of that size",
    "message, span, 'one too many'": "a spec of that size",
    "this expression is longer than": "a spec of that size",
    "has no operator form": "asked for beside the spec; tests/test_operators.py",
    "did you mean `{close}`?' if close else 'not a spec' if": "a spec that is not there; tests/test_errors.py",
    "is a word of the language: {RESERVED[name]}": "what the grammar lets through: none today",
    "`{token}` cannot stand here": "what no case before it explains: none known",
    "_misplaced(levels[name].expressions": "finds them; says so itself",
    "_misplaced(self._read(levels.values())": "finds them; says so itself",
}


def _sites() -> list[tuple[Path, int, int, str]]:
    """File, first and last line, and text of each call that reports."""
    paths = [
        p
        for layer in LAYERS
        for p in ([ROOT / layer] if "." in layer else (ROOT / layer).rglob("*.py"))
    ]
    out = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            f = node.func
            name = f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "")
            coded = bool(node.args) and "'NLC" in ast.unparse(node.args[0])
            if (name in SAYS and coded) or name in HELPERS:
                out.append((path.resolve(), node.lineno, node.end_lineno or 0, ast.unparse(node)))
    return out


def test_every_message_has_a_bad_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: set[tuple[str, int]] = set()
    add = Report.add

    def watched(self: Report, *args: object, **more: object) -> None:
        frame = sys._getframe(1)
        for _ in range(FRAMES):
            if frame is None:
                break
            reached.add((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        add(self, *args, **more)

    monkeypatch.setattr(Report, "add", watched)
    monkeypatch.chdir(BAD)
    monkeypatch.setenv("NLC_PATH", "beside")
    for name in SPECS:
        checked(name)
    lines: dict[str, set[int]] = {}
    for file, line in reached:
        lines.setdefault(str(Path(file).resolve()), set()).add(line)
    sites, missed = _sites(), []
    assert len(sites) > 200, "the calls that report are found by name"
    for path, first, last, text in sites:
        known = lines.get(str(path), set())
        if not any(first <= line <= last for line in known) and not any(w in text for w in WITHOUT):
            missed.append(f"{path.relative_to(ROOT.resolve())}:{first}: {text[:100]}")
    assert not missed, "\n".join(missed)
