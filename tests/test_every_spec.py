"""What holds of every file in `specs/`, whatever is put there: it is sound, reads back, and has the right gradients.

More of what holds of all of them: streams, files, compiled graphs and every backend's text in `test_modules`, the
interpreter in `test_verify`, the plans in `test_chunked`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from shipped_specs import TOKENS, load
from torch import Tensor
from transcriptions import drawn

import nlc
from nlc.base.diagnostics import Report
from nlc.base.span import Source
from nlc.ir.expr import Expr
from nlc.ir.show import show
from nlc.pipeline import shipped
from nlc.runtime.verify.draws import draw, named
from nlc.syntax.parse import parse
from nlc.tools.sizes import settled, small

NAMES = sorted(shipped())
WARNED = {"hope_literal"}  # eq. 88 to the letter: it decays to 0, and its doc says so


@pytest.mark.parametrize("name", NAMES)
def test_it_is_sound_and_says_what_it_is(name: str) -> None:
    spec = load(name)
    assert bool(spec.check().diagnostics) == (name in WARNED), str(nlc.SpecError(spec.report))
    assert spec.tree.system.text == name
    assert spec.system.doc and spec.system.ref
    lines = spec.source.text.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 128
    assert spec.source.text.endswith("\n")
    assert sum(f"doc: {spec.system.doc}" == line for line in lines) == 1, "its doc is one line"


def _expressions(node: object) -> Iterator[Expr]:
    """Those of a tree, in the order of its fields."""
    if isinstance(node, Expr):
        yield node
    elif dataclasses.is_dataclass(node):
        for f in dataclasses.fields(node):
            yield from _expressions(getattr(node, f.name))
    elif isinstance(node, tuple | list):
        for item in node:
            yield from _expressions(item)


@pytest.mark.parametrize("name", NAMES)
def test_its_expressions_read_back_as_they_are_printed(name: str) -> None:
    text, report = shipped()[name].read_text(encoding="utf-8"), Report()
    tree = parse(Source(name, text), report)
    found, printed = list(_expressions(tree)), text
    for e in sorted(found, key=lambda e: e.span.start, reverse=True):
        if '"' not in printed[e.span.start : e.span.end]:  # what YAML would split is quoted
            printed = printed[: e.span.start] + show(e) + printed[e.span.end :]
    again = parse(Source(name, printed), report)
    assert not report.diagnostics, printed
    assert len(found) > 3 and list(_expressions(again)) == found


def exact(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nlc.Spec:
    """A shipped spec, but that a Muon inside it works in the precision of what it is given, not in float32."""
    muon = shipped()["muon"].read_text()
    assert muon.count(", quintic, float32)") == 1
    (folder / "muon.yaml").write_text(muon.replace(", quintic, float32)", ", quintic)"))
    monkeypatch.setenv("NLC_PATH", str(folder))
    return nlc.loads(shipped()[name].read_text())  # which has no specs beside it


@pytest.mark.parametrize("name", TOKENS)
def test_gradcheck(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outer gradient by inputs and slow weights, through every inner step, is that of finite differences."""
    spec = exact(name, tmp_path, monkeypatch)
    chosen = small(spec.system, {}, 2)
    module = spec.compile()(**chosen).double()
    weights = drawn(module)
    torch.manual_seed(0)
    given = draw(spec.system, settled(spec.system, chosen), 1, 5)
    values = [x.detach().clone().requires_grad_() for x in (*given.values(), *weights.values())]

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        inputs = named(dict(zip(given, values)))
        slow = dict(zip(weights, values[len(given) :], strict=True))
        y, _ = torch.func.functional_call(module, slow, (), inputs)
        return tuple(y.values()) if isinstance(y, dict) else (y,)

    assert torch.autograd.gradcheck(run, values, fast_mode=True, atol=1e-6, rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", ["gated_delta_net", "delta_product"])
def test_inductor_gives_what_eager_mode_gives(name: str) -> None:
    torch.manual_seed(0)
    module = nlc.compile(name)(d=16, heads=2)
    x = torch.randn(2, 9, 16)
    (y, state), (expected, end) = torch.compile(module)(x), module(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state, end, rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", TOKENS)
def test_its_memories_live_for_two_thousand_tokens(name: str) -> None:
    dead = [c.what for c in load(name).verify(tokens=2000).checks if c.passed is False]
    assert bool(dead) == (name in WARNED), dead
