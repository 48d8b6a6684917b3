"""Files whose tiles go through ``torch.compile``: the same text, and the same values as without."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from shipped_specs import TOKENS, load
from torch import Tensor, nn

import nlc
from nlc.base.diagnostics import NotFused
from nlc.runtime.loader import load_source

SIZES = {"d": 16, "heads": 2, "periods": [2, 4, 8], "chunk": 4, "memory_chunk": 2}
TILED = [name for name in TOKENS if load(name).program("torch").tiled]
MARK = "    @torch.compile  # once for all tiles, in the first call\n"


def made(name: str, backend: str = "") -> type[nn.Module]:
    """The class of a fused file, compiled by a backend of torch's, or of a plain one."""
    text = load(name).source_text("torch", fused=bool(backend))
    text = text.replace("@torch.compile ", f'@torch.compile(backend="{backend}") ')
    module = load_source(text, f"{name}_{backend or 'plain'}", load(name).source.text)
    return getattr(module, module.__all__[0])


def run(kind: type[nn.Module]) -> dict[str, Tensor]:
    """Outputs, state and gradients of pieces that end within tiles, in float64."""
    torch.manual_seed(0)
    sizes = {k: v for k, v in SIZES.items() if k in inspect.signature(kind).parameters}
    module = kind(**sizes).double()
    x = torch.randn(2, 19, module.d, dtype=torch.float64, requires_grad=True)
    y, state = module(x[:, :11])
    z, state = module(x[:, 11:], state=state)
    (y.square().sum() + z.square().sum()).backward()
    slopes = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return {"y": y, "z": z, "x": x.grad, **state, **slopes}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", TILED)
def test_what_runs_between_boundaries_is_marked_and_nothing_else_changes(name: str) -> None:
    plain, fused = (load(name).source_text("torch", fused=fused) for fused in (False, True))
    assert fused.replace(MARK, "") == plain
    tiles = re.findall(r"def \w+\([^)]*start: int, stop: int,[^)]*\) -> Tile:", plain)
    assert fused.count(MARK) == len(tiles) > 0


def test_fused_tiles_compute_the_same() -> None:
    torch.compiler.reset()
    same(run(made("cms_sequential", "aot_eager")), run(made("cms_sequential")))


@pytest.mark.long
@pytest.mark.parametrize("name", TILED)
def test_fused_tiles_of_every_system_compute_the_same(name: str) -> None:
    if load(name).system.inputs.keys() != {"x"}:
        pytest.skip("takes more than x")
    torch.compiler.reset()
    same(run(made(name, "aot_eager")), run(made(name)))


@pytest.mark.long
def test_fused_tiles_of_hope_compute_the_same_as_machine_code() -> None:
    torch.compiler.reset()
    same(run(made("hope", "inductor")), run(made("hope")))


@pytest.mark.parametrize(
    ("name", "backend", "said"),
    [
        ("adamw", "torch", "fused where it is made"),
        ("hope", "reference", "the backend reference fuses nothing; torch does"),
        ("delta_net", "torch", "nothing runs between boundaries"),
    ],
)
def test_what_has_nothing_to_fuse_says_what_does(name: str, backend: str, said: str) -> None:
    with pytest.raises(NotFused, match=said):
        nlc.compile(name, backend, fused=True)
