"""Calls in pieces: packed sequences, pieces that are recomputed or cut gradients, streams without an end."""

from __future__ import annotations

import functools
import gc
import inspect
import io
import re
import weakref
from itertools import pairwise
from pathlib import Path

import pytest
import test_through
import test_time
import torch
from shipped_specs import TOKENS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import nlc

# Small, with periods that end within a test, and rates at which an untrained chain of MLPs stays bounded.
SIZES = {"d": 16, "heads": 2, "periods": [2, 4, 8], "chunk": 3, "memory_chunk": 2}
SIZES |= {"lr": 0.02, "cms_lr": 0.02, "p": 16}
# No state but caches, one matrix, boundaries, periods, all of it, and several inputs and outputs.
SOME = ["attention", "gated_delta_net", "ttt_mlp", "cms_nested", "hope_attention", "timed"]
backends = pytest.mark.parametrize("backend", ["reference", "torch"])
some = pytest.mark.parametrize("name", SOME)


@functools.cache
def spec_of(name: str) -> nlc.Spec:
    return nlc.loads(test_time.CMS) if name == "timed" else nlc.load(name)


@functools.cache
def class_of(name: str, backend: str) -> type:
    return nlc.compile(spec_of(name), backend)


def module_of(name: str, backend: str) -> nn.Module:
    """A small one in float64, its weights drawn from seed 0."""
    made = class_of(name, backend)
    torch.manual_seed(0)
    sizes = {k: v for k, v in SIZES.items() if k in inspect.signature(made).parameters}
    net = (made() if name == "timed" else made(**sizes)).double()
    if name == "timed":
        for p in net.parameters():
            nn.init.normal_(p)
    return net


def inputs_of(name: str, module: nn.Module, length: int, batch: int = 1) -> list[Tensor]:
    noise, out = torch.Generator().manual_seed(1), []
    for given in spec_of(name).system.inputs.values():
        sizes = [int(dim.evaluate(vars(module))) for dim in given.dims]
        shape = [batch, length, *([module.heads] if given.head else []), *sizes]
        x = torch.randn(shape, generator=noise, dtype=torch.float64)
        out.append(x.requires_grad_())
    return out


def outputs_of(found: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found.values())


def joined(parts: list[Tensor | dict[str, Tensor]]) -> list[Tensor]:
    return [torch.cat(x, 1) for x in zip(*map(outputs_of, parts))]


def slopes(outputs: list[Tensor], states: list[dict], leaves: list[Tensor]) -> list[Tensor]:
    """The gradients of a loss that all outputs and all states that have gradients take part in."""
    values = [*outputs, *(x for state in states for x in state.values() if x.requires_grad)]
    loss = sum((x * x.detach().cos()).sum() for x in values)
    return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))


def same(a: object, b: object, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def bounds(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *sizes], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def saved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state that went through a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


# packed sequences


def alone(net: nn.Module, x: list[Tensor], sizes: list[int], states: list[dict | None]) -> tuple:
    """Every sequence in a call of its own."""
    outputs, ends = [], []
    for a, b, state in zip(bounds(sizes), bounds(sizes)[1:], states):
        state = net.initial_state(x[0]) if state is None else state
        if a < b:
            y, state = net(*(f[:, a:b] for f in x), state=state)
            outputs.append(y)
        ends.append(state)
    return joined(outputs), ends


@backends
@some
def test_packed_sequences_are_streams_of_their_own(name: str, backend: str) -> None:
    """Outputs, states and gradients; then all go on from where they are, one of them anew."""
    net = module_of(name, backend)
    states = expected = None
    for sizes in ([5, 0, 7, 5, 1], [3, 4, 3, 3, 0]):
        x = inputs_of(name, net, sum(sizes))
        leaves = [*x, *net.parameters()]
        y, ends = net(*x, cu_seqlens=bounds(sizes), state=states)
        z, others = alone(net, x, sizes, expected or [None] * len(sizes))
        same(outputs_of(y), z, 1e-10)
        same(ends, others, 1e-10)
        same(slopes(outputs_of(y), ends, leaves), slopes(z, others, leaves), 1e-10)
        states, expected = (
            [{k: x.detach() for k, x in s.items()} for s in e] for e in (ends, others)
        )
        states[3] = expected[3] = None


@backends
def test_sequences_that_are_alike_run_as_one_batch(backend: str) -> None:
    net, seen = module_of("hope_attention", backend), []
    run = net.piece
    net.piece = lambda state, x, **at: seen.append(x.shape[:2]) or run(state, x, **at)
    x = torch.randn(1, 14, 16, dtype=torch.float64)
    _, states = net(x, cu_seqlens=bounds([4, 6, 4, 0]))
    assert seen == [(2, 4), (1, 6)]
    seen.clear()
    net(x, cu_seqlens=bounds([4, 4, 4, 2]), state=states)  # the second stands elsewhere
    assert seen == [(2, 4), (1, 4), (1, 2)]


@backends
@pytest.mark.parametrize(
    ("bounds", "batch", "count", "message"),
    [
        ([0, 3, 6], 2, None, "cu_seqlens must rise from 0 to T .* not .0, 3, 6. of .2, 6."),
        ([1, 3, 6], 1, None, "cu_seqlens must rise"),
        ([0, 4, 3, 6], 1, None, "cu_seqlens must rise"),
        ([0, 3, 5], 1, None, "cu_seqlens must rise"),
        ([0, 3, 7], 1, None, "cu_seqlens must rise"),
        ([], 1, None, "cu_seqlens must rise"),
        ([[0, 6]], 1, None, "cu_seqlens must rise"),
        ([0, 3, 6], 1, 1, "state must be a list of 2, one for each sequence"),
        ([0, 3, 6], 1, 0, "state must be a list of 2"),
        ([0, 3, 6], 1, {}, "state must be a list of 2"),
    ],
)
def test_what_does_not_fit_is_said(
    backend: str, bounds: list, batch: int, count: int | dict | None, message: str
) -> None:
    net = module_of("gated_delta_net", backend)
    x = torch.randn(batch, 6, 16, dtype=torch.float64)
    state = [net.initial_state(x)] * count if isinstance(count, int) else count
    with pytest.raises(ValueError, match=message):
        net(x, cu_seqlens=torch.tensor(bounds, dtype=torch.int64), state=state)
    with pytest.raises(ValueError, match=r"must be .*gated_delta_net\.yaml"):
        net(x[:1], cu_seqlens=torch.tensor([0, 6]), state=[{"S": x}])


# pieces of a call


class Live(TorchDispatchMode):
    """The most bytes that tensors made inside take at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor) and (key := x.untyped_storage()._cdata) not in self.known:
                self.known.add(key)
                size = x.untyped_storage().nbytes()
                weakref.finalize(x.untyped_storage(), self._freed, key, size)
                self.now += size
                self.most = max(self.most, self.now)
        return out

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def run(net: nn.Module, x: list[Tensor], **given: object) -> tuple[list[Tensor], ...]:
    y, states = net(*x, **given)
    outputs, states = outputs_of(y), states if isinstance(states, list) else [states]
    return outputs, states, slopes(outputs, states, [*x, *net.parameters()])


@backends
@some
def test_recomputed_pieces_change_no_value_and_no_gradient(name: str, backend: str) -> None:
    net = module_of(name, backend)
    x = inputs_of(name, net, 13, batch=2)
    whole, packed = run(net, x), run(net, [f[:1] for f in x], cu_seqlens=bounds([6, 0, 7]))
    for net.checkpoint in (5, 13):
        same(run(net, x), whole, 1e-12)
    same(run(net, [f[:1] for f in x], cu_seqlens=bounds([6, 0, 7])), packed, 1e-12)


@backends
@pytest.mark.parametrize("name", ["gated_delta_net", "titans"])
def test_recomputed_pieces_take_less_memory(name: str, backend: str) -> None:
    net, most = module_of(name, backend), []
    x = inputs_of(name, net, 128)
    for net.checkpoint in (None, 16):
        with Live() as live:
            run(net, x)
        most.append(live.most)
    assert most[1] < 0.5 * most[0], most


def by_hand(net: nn.Module, x: list[Tensor], size: int) -> tuple[list[Tensor], ...]:
    outputs, state = [], None
    for start in range(0, x[0].shape[1], size):
        if state is not None:
            state = {key: value.detach() for key, value in state.items()}
        y, state = net(*(f[:, start : start + size] for f in x), state=state)
        outputs.append(y)
    found = joined(outputs)
    return found, [state], slopes(found, [state], [*x, *net.parameters()])


@backends
@some
def test_gradients_are_cut_as_a_loop_that_detaches_cuts_them(name: str, backend: str) -> None:
    net = module_of(name, backend)
    x = inputs_of(name, net, 13, batch=2)
    whole, cut = run(net, x), by_hand(net, x, 5)
    assert max((a - b).abs().max() for a, b in zip(cut[2], whole[2])) > 1e-6
    net.truncate = 5
    for net.checkpoint in (None, 2):
        found = run(net, x)
        same(found, cut, 1e-12)
        same(found[:2], whole[:2], 1e-12)
    parts = [run(net, [f[:1, a:b] for f in x]) for a, b in pairwise([0, 6, 13])]
    slope = [sum(p[2][i] for p in parts) for i in range(len(x), len(cut[2]))]
    packed = run(net, [f[:1] for f in x], cu_seqlens=bounds([6, 7]))
    same(packed[2][len(x) :], slope, 1e-10)


@backends
def test_a_period_whose_updates_a_gradient_passes_is_recomputed_but_not_cut(backend: str) -> None:
    net = nlc.compile(test_through.nested(), backend)().double()
    x = [f.requires_grad_() for f in test_through.flows(14).values()]
    whole = run(net, x)
    for net.checkpoint in (4, 6):
        same(run(net, x), whole, 1e-12)
    net.checkpoint, net.truncate = None, 6
    same(run(net, x), by_hand(module_like(net), x, 6), 1e-12)
    net.truncate = 4
    with pytest.raises(RuntimeError, match="neither detached nor saved"):
        net(*x)


def module_like(net: nn.Module) -> nn.Module:
    """The same without pieces."""
    other = type(net)().double()
    other.load_state_dict(net.state_dict())
    return other


NAMES = """
nlc: 1
system: streams
context: tokens
hyper: {d: 3, tiles: 2}
inputs: {cu_seqlens: [d], module: [d]}
let:
  pieces: linear(cu_seqlens)
  piece: linear(module)
levels:
  truncate:
    frequency: every token
    anchor: every tiles tokens
    memory: matrix(d, d)
    objective: 0.5 * sqnorm(truncate(pieces) - anchor(truncate)(piece))
    rule: gd(lr=0.1)
    init: learned(normal(1))
  checkpoint:
    frequency: every tiles tokens
    memory: matrix(d, d)
    objective: sum(0.5 * sqnorm(checkpoint(piece) - cu_seqlens))
    rule: gd(lr=0.1)
output: {outputs: truncate(pieces), states: checkpoint(pieces)}
"""


@backends
def test_a_spec_may_use_the_names_of_what_cuts(backend: str) -> None:
    net = nlc.loads(NAMES).compile(backend)().double()
    x = list(torch.randn(2, 2, 9, 3, dtype=torch.float64))
    y, end = net(*x)
    assert net.checkpoint is None and net.truncate is None and set(y) == {"outputs", "states"}
    net.checkpoint, net.truncate = 2, 5
    same(net(*x), (y, end), 1e-12)
    packed, _ = net(*(f[:1] for f in x), cu_seqlens=torch.tensor([0, 9]))
    same(packed, {key: value[:1] for key, value in y.items()}, 1e-12)


# streams


@pytest.mark.parametrize("name", TOKENS)
def test_backends_go_on_with_the_states_of_each_other(name: str) -> None:
    """Pieces that stop anywhere, a file in between, single tokens, from one backend to the other and back."""
    nets = [module_of(name, backend) for backend in ("reference", "torch")]
    same(*(dict(net.named_parameters()) for net in nets), 0)
    x = inputs_of(name, nets[0], 21, batch=2)
    stops = [0, 1, 4, 9, 11, 12, 18, 21]
    with torch.no_grad():
        whole, end = nets[0](*x)
        for turn in (lambda n: 1, lambda n: n % 2, lambda n: 1 - n % 2):
            state, parts = None, []
            for n, (a, b) in enumerate(pairwise(stops)):
                y, state = nets[turn(n)](*(f[:, a:b] for f in x), state=state)
                state = saved(state)
                parts.append(y)
            same(joined(parts), outputs_of(whole), 1e-10)
            same(state, end, 1e-10)
        state, ticks = None, []
        for t in range(21):
            y, state = nets[1].step(*(f[:, t] for f in x), state=state)
            ticks.append(outputs_of(y))
    same([torch.stack(y, 1) for y in zip(*ticks)], outputs_of(whole), 1e-10)
    same(state, end, 1e-10)


def resident() -> float:
    """MiB of this process that are in memory."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    gc.collect()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("tokens", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_a_stream_runs_in_constant_memory(tokens: int) -> None:
    torch.manual_seed(0)
    net = class_of("hope", "torch")(d=16, heads=2, memory_chunk=64)
    noise, state, start = torch.Generator().manual_seed(1), None, 0.0
    with torch.no_grad():
        for n in range(-(-tokens // 4096)):
            size = min(4096, tokens - n * 4096)
            y, state = net(torch.randn(1, size, 16, generator=noise), state=state)
            assert y.isfinite().all()
            if n < 3:
                start = resident()
    assert int(state["pos"]) == tokens and all(x.isfinite().all() for x in state.values())
    assert resident() - start < 8
