"""Files that leave out what users may do without: every shipped token system computes the same as with all of it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from shipped_specs import TOKENS, load
from torch import Tensor, nn

import nlc
from nlc.backends.features import FEATURES
from nlc.cli import main

SIZES = {"d": 16, "heads": 2, "periods": [2, 4, 8], "chunk": 3, "memory_chunk": 2}
SIZES |= {"lr": 0.02, "cms_lr": 0.02, "p": 16}
CHOICES = [("checks",), ("pieces",), tuple(FEATURES)]
MORE = [("packed",), ("checks", "packed"), ("checks", "pieces")]  # for one of each plan
WORDS = {  # of each feature what no file without it has
    "checks": ("takes_flow", "whole_sizes", "started(", "STATE"),
    "packed": ("cu_seqlens", "streams", "| list[dict]"),
    "pieces": ("truncate", "error_if_nonfinite", "checkpoint"),
}


def _module(made: type[nn.Module]) -> nn.Module:
    """A small one in float64, its weights drawn from seed 0."""
    torch.manual_seed(0)
    sizes = {k: v for k, v in SIZES.items() if k in inspect.signature(made).parameters}
    return made(**sizes).double()


def _flows(name: str, module: nn.Module, length: int) -> dict[str, Tensor]:
    """A batch of two for every input that the spec declares."""
    noise, out = torch.Generator().manual_seed(1), {}
    for key, given in load(name).system.inputs.items():
        shape = [2, length, *([module.heads] if given.head else [])]
        shape += [int(dim.evaluate(vars(module))) for dim in given.dims]
        if given.rows is not None:
            rows = int(given.rows.evaluate(vars(module)))
            out[key] = torch.randint(rows, shape, generator=noise)
            continue
        drawn = torch.randn(shape, generator=noise, dtype=torch.float64)
        out[key] = drawn.sigmoid() if given.range.low >= 0 or not given.dims else drawn
    return out


def _listed(y: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [y] if isinstance(y, Tensor) else [*y.values()]


def _run(name: str, made: type[nn.Module]) -> tuple[list[Tensor], dict, list[Tensor]]:
    """Outputs and state of a stream of two pieces and a token, and all gradients."""
    module = _module(made)
    flows = _flows(name, module, 12)
    first, state = module(**{n: x[:, :5] for n, x in flows.items()})
    rest, state = module(**{n: x[:, 5:11] for n, x in flows.items()}, state=state)
    last, state = module.step(*(x[:, 11] for x in flows.values()), state=state)
    found = [y for part in (first, rest, last) for y in _listed(part)]
    sum(y.square().sum() for y in found).backward()
    return found, state, [p.grad for p in module.parameters()]


@pytest.mark.parametrize("name", TOKENS)
def test_the_rest_is_as_it_was(name: str) -> None:
    whole = _run(name, load(name).compile())
    more = MORE if name in ("attention", "gated_delta_net", "hope", "srwm") else []
    for without in [*CHOICES, *more]:
        part = _run(name, load(name).compile(without=without))
        torch.testing.assert_close(part, whole, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["titans", "gated_delta_net", "hope"])
def test_so_it_is_with_a_loop_over_tokens(name: str) -> None:
    whole, part = (_run(name, load(name).compile("reference", without=x)) for x in ((), FEATURES))
    torch.testing.assert_close(part, whole, rtol=0, atol=0)


@pytest.mark.parametrize("name", TOKENS)
def test_nothing_is_left_of_what_is_left_out(name: str) -> None:
    assert "Left out" not in load(name).source_text()
    for without in CHOICES:
        text = load(name).source_text(without=without)
        assert f"Left out: {', '.join(sorted(without))}." in text
        code = ast.unparse(ast.parse(text))
        assert not [w for n in without for w in WORDS[n] if w in code]
        tree = ast.parse(text)
        named = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        named |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        defined = [x.name for x in tree.body if isinstance(x, ast.FunctionDef | ast.ClassDef)]
        assert {*defined} <= named | {*_exported(tree)}


def _exported(tree: ast.Module) -> list[str]:
    (names,) = (
        x.value
        for x in tree.body
        if isinstance(x, ast.Assign) and ast.unparse(x.targets[0]) == "__all__"
    )
    return ast.literal_eval(names)


def test_the_files_are_formatted_and_clean(tmp_path: Path) -> None:
    for name in TOKENS:
        for i, without in enumerate(CHOICES):
            text = load(name).source_text(without=without)
            (tmp_path / f"made_{name}_{i}.py").write_text(text)
        text = load(name).source_text("reference", without=FEATURES)
        (tmp_path / f"loop_{name}.py").write_text(text)
    for command in (["format", "--check"], ["check", "--select", "E,F,I,B"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100", "."]
        done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_call_is_one_graph_without_them() -> None:
    module = _module(load("hope").compile(without=FEATURES)).float()
    x = torch.randn(2, 7, 16)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[0], module(x)[0])


def test_exceptions_still_name_the_spec() -> None:
    module = _module(load("gated_delta_net").compile(without=FEATURES))
    with pytest.raises(RuntimeError) as error:
        module(torch.randn(2, 7, 15, dtype=torch.float64))
    assert any("gated_delta_net.yaml:" in note for note in error.value.__notes__)


def test_what_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="did you mean 'checks'"):
        nlc.compile("delta_net", without=["check"])
    with pytest.raises(ValueError, match="the backend triton leaves out none of packed"):
        load("delta_net").source_text("triton", without=["packed"])
    with pytest.raises(ValueError, match="an optimizer"):
        nlc.compile("adamw", without=["checks"])
    with pytest.raises(TypeError, match="a list of names"):
        nlc.compile("delta_net", without="checks")


def test_the_command_line() -> None:
    wanted = load("delta_net").source_text(without=["packed", "checks"])
    for asked in (["checks", "--without", "packed"], ["checks,packed"], ["packed, checks"]):
        done = CliRunner().invoke(main, ["compile", "delta_net", "--without", *asked])
        assert done.output == wanted
    done = CliRunner().invoke(main, ["compile", "delta_net", "--without", "checks,pakced"])
    assert done.exit_code == 2 and "did you mean 'packed'" in done.output
    done = CliRunner().invoke(main, ["compile", "adamw", "--without", "checks"])
    assert done.exit_code == 2 and "an optimizer" in done.output
