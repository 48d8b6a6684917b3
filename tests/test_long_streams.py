"""Systems with memories that slow levels or boundaries move: streams in pieces, and life after many tokens."""

from __future__ import annotations

import io

import pytest
import torch
from shipped_specs import load
from torch import Tensor, nn

import nlc
from nlc.pipeline import shipped

PERIODS = (8, 32, 128)
HOPE = dict(heads=2, expand=2, chunk=16, memory_chunk=4)
SIZES = {
    "hope": HOPE | dict(periods=PERIODS),
    "hope_slow": HOPE,
    "titans": dict(heads=2, expand=2, chunk=8),
    "ttt_mlp": dict(heads=2, expand=2, chunk=8),
    "ttt_linear": dict(heads=2, chunk=8),
    "cms_sequential": dict(expand=2, periods=PERIODS),
    "cms_independent": dict(expand=2, periods=PERIODS),
    "cms_nested": dict(expand=2, periods=PERIODS),
}
every = pytest.mark.parametrize("name", SIZES)


def tokens(length: int, d: int = 16) -> Tensor:
    """[2, length, d]: one direction with a tenth of noise, and independent tokens."""
    x = torch.randn(2, length, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.stack([x[0, :1] + 0.1 * x[0], x[1]])


def module_of(name: str, **sizes: int | tuple[int, ...]) -> nn.Module:
    made = nlc.compile(name)
    torch.manual_seed(0)
    return made(**{"d": 16, **SIZES[name], **sizes}).double()


def saved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state that went through a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


@every
def test_a_stream_may_stop_inside_a_chunk_and_inside_a_period(name: str) -> None:
    """Pieces of any length, saved and loaded in between, and single tokens, are one call on all of them."""
    small = {"periods": (2, 6, 12)} if "periods" in SIZES[name] and name != "hope_slow" else {}
    module, x = module_of(name, **small), tokens(41)
    whole, end = module(x)
    state, parts, start = None, [], 0
    for stop in (1, 3, 10, 11, 13, 30, 34):
        y, state = module(x[:, start:stop], state=state)
        state, start = saved(state), stop
        parts.append(y)
    for t in range(34, 41):
        y, state = module.step(x[:, t], state)
        state = saved(state)
        parts.append(y[:, None])
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, end, rtol=1e-12, atol=1e-12)


def sizes_of(state: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """The norm of each memory, for each stream."""
    return {key: state[key].flatten(1).norm(dim=1) for key in names}


@every
@pytest.mark.parametrize("length", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_an_untrained_system_is_alive_after_many_tokens(name: str, length: int) -> None:
    """Finite; every memory within a factor of ten of its start; the last output still depends on the
    token 1,000 back, by more than float32 would lose."""
    module, x = module_of(name), tokens(length)
    other = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    with torch.no_grad():
        state = module.initial_state(x)
        begun = sizes_of(state, list(load(name).system.states))
        for part in x[:, :-1001].split(1000, 1):
            y, state = module(part, state=state)
            assert y.isfinite().all()
        ends = []
        for first in (x[:, -1001:-1000], other):
            y, end = module(torch.cat([first, x[:, -1000:]], 1), state=state)
            ends.append(y[:, -1])
    learned = {key for key, size in begun.items() if size.min() > 0}
    assert learned
    for key, size in sizes_of(end, list(begun)).items():
        assert size.isfinite().all(), key
        if key in learned:
            assert (0.1 * begun[key] < size).all() and (size < 10 * begun[key]).all(), key
    change = (ends[0] - ends[1]).norm(dim=-1) / ends[0].norm(dim=-1)
    assert (change > 1e-6).all(), change


WIDE = ["cms_sequential", "cms_independent", "cms_nested"]


@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize("name", WIDE)
def test_wide_continuum_memories_stay_where_plain_rates_overflow(name: str, scale: int) -> None:
    """A rate that is right for 16 dims is not for 128, unless it is measured against the key."""
    text = shipped()[name].read_text()
    plain = text.replace(" / (1 + sqnorm(key))", "").replace(" / (1 + sqnorm(x))", "")
    assert plain != text
    x = scale * tokens(160, d=128)
    sizes = []
    for spec in (nlc.loads(text), nlc.loads(plain)):
        torch.manual_seed(0)
        module = spec.compile()(d=128, periods=(4, 8, 16)).double()
        with torch.no_grad():
            start = sizes_of(module.initial_state(x), list(spec.system.states))
            _, state = module(x)
        end = sizes_of(state, list(start))
        sizes.append(max(float((end[key] / start[key]).nan_to_num(1e9).max()) for key in end))
    assert sizes[0] < 2 and sizes[1] > 1e3, sizes
