"""Generated files: names never clash, nothing of a spec escapes into code, the same input gives the same bytes."""

from __future__ import annotations

import ast
import importlib

import pytest

import nlc
from nlc.backends.reference.file import MODULE_ATTRIBUTES
from nlc.backends.torch_helpers import HELPERS
from nlc.pipeline import BACKENDS

NASTY = """
nlc: 1
system: lambda_torch
context: tokens
doc: 'quotes \"\"\" and \\ and a newline
  {braces} %s'
ref: '\"\"\"; import os'
hyper: {d: 8, train: d / heads, scale: 0.5}
heads: 2
inputs: {x: [d], state: [train]}
weights:
  half: {shape: [], per: head, init: "log(uniform(1, 16))"}
let:
  self: linear(state)
  forward: sigmoid(linear(state) + half)
  torch: l2norm(conv(self, 3))
levels:
  F:
    frequency: every token
    memory: matrix(train, train)
    key: torch
    value: linear(state) * scale
    objective: 0.5 * sqnorm(F(key) - value)
    rule: gd(lr=forward)
    init: learned
output:
  y: F(torch)
"""


def test_module_attributes_cover_the_installed_torch() -> None:
    from torch import nn

    assert {name for name in dir(nn.Module) if not name.startswith("_")} <= MODULE_ATTRIBUTES


@pytest.mark.parametrize("backend", BACKENDS)
def test_reserved_names_cover_what_generated_files_define_and_import(backend: str) -> None:
    """A flow called ``matvec`` or ``torch`` must get another name."""
    reserved = importlib.import_module(f"nlc.backends.{backend}").RESERVED
    for spec in ("gated_delta_net", "attention", "titans", "adamw"):
        tree = ast.parse(nlc.load(spec).source_text(backend))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom | ast.Import):
                assert {(a.asname or a.name).split(".")[0] for a in node.names} <= reserved | {
                    "annotations"
                }
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert node.name in reserved | {"forward", "backward"}, node.name
    assert set(HELPERS) <= reserved


def test_names_that_python_and_torch_use_are_free_for_specs() -> None:
    import torch

    spec = nlc.loads(NASTY, "nasty.yaml")
    assert not spec.check().has_errors, str(nlc.SpecError(spec.report))
    net = spec.compile()(d=8)
    x, other = torch.randn(2, 5, 2, 8), torch.randn(2, 5, 2, 4)
    y, _ = net(x, other)
    assert y.shape == (2, 5, 2, 4)
    y.sum().backward()
    assert net.training and all(p.grad is not None for p in net.parameters())


def test_the_text_of_a_spec_stays_text() -> None:
    """Prose with quotes and backslashes ends up inside docstrings and nowhere else."""
    tree = ast.parse(nlc.loads(NASTY, 'na"""sty\\.yaml').source_text())
    assert not any(isinstance(n, ast.Import) and n.names[0].name == "os" for n in ast.walk(tree))


@pytest.mark.parametrize("spec", ["gated_delta_net", "attention", "adamw"])
def test_the_same_spec_gives_the_same_text(spec: str) -> None:
    assert nlc.load(spec).source_text() == nlc.load(spec).source_text()


def test_a_program_can_be_read() -> None:
    text = str(nlc.load("gated_delta_net").program("reference"))
    assert "loop every token carries S over" in text and "slot q.conv: window" in text
