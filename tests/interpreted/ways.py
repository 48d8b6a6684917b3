"""Ways to call a module that must not matter: in pieces, token by token, packed, without slopes, in half precision.

A call is how many tokens each sequence goes on by. What a sequence comes to is what it comes to alone and in one call,
but that gradients are cut (`truncate`) from where a call begins.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

LONGEST = 80  # tokens of a sequence: more than one chunk in any format
LENGTHS = (1, 2, 7, 16, 17, 33, 64, 70)  # of calls, about those of chunks: 16, 32 and 64
WIDTHS = (1, 3, 5, 16, 20)  # one, no powers of two, more than a block
HEADS = ({}, {"heads": 1}, {"heads": 3}, {"heads": 4, "key_heads": 2})
Flows = dict[str, Tensor]


@dataclass(frozen=True)
class Way:
    calls: Sequence[Sequence[int]]  # tokens of each sequence
    packed: bool = False
    checkpoint: int | None = None
    truncate: int | None = None
    slopes: bool = True
    in_one: bool = False  # a scan and its read by one kernel, where slopes do not keep them apart
    dtype: torch.dtype = torch.float32
    hypers: dict[str, int] = field(default_factory=dict)  # for those that a system has

    @property
    def lengths(self) -> list[int]:
        return [sum(each) for each in zip(*self.calls, strict=True)]


@st.composite
def ways(draw: st.DrawFn) -> Way:
    def of(*items):
        return draw(st.sampled_from(items))

    packed, left, calls = of(True, False), LONGEST, []
    sequences = of(1, 2, 4) if packed else 2
    for _ in range(of(1, 1, 2, 2, 3)):
        T = of(*[n for n in LENGTHS if n <= left])
        others = [of(T, T, 0, 1, T // 2) if packed else T for _ in range(sequences - 1)]
        calls.append(draw(st.permutations([T, *others])))
        left = max(left - T, 1)
    return Way(
        calls,
        packed,
        checkpoint=of(None, None, 8, 20, 32),
        truncate=of(*[None] * 4, 8, 20),
        slopes=of(True, True, False),
        in_one=of(True, False),
        dtype=of(*[torch.float32] * 3, torch.bfloat16, torch.float16),
        hypers=dict(dk=of(*WIDTHS), dv=of(*WIDTHS), n=of(*WIDTHS), **of(*HEADS)),
    )


def run(net: nn.Module, flows: Flows, way: Way, dtype: torch.dtype) -> Flows:
    """Outputs, states, and slopes by inputs and weights, 0 for those that do not matter."""
    net.checkpoint, net.truncate = way.checkpoint, way.truncate
    sys.modules[type(net).__module__].in_one = lambda *_: way.in_one
    leaves = _leaves(flows, way, dtype)
    with torch.set_grad_enabled(way.slopes):
        streams = Streams(net, leaves)
        for lengths in way.calls:
            streams.call(lengths, way.packed)
        return _found([streams], net, leaves)


def run_alone(net: nn.Module, flows: Flows, way: Way) -> Flows:
    """The same in float64, each sequence alone, in one call unless it matters where calls begin."""
    net.truncate = way.truncate
    leaves, alone = _leaves(flows, way, torch.float64), []
    with torch.set_grad_enabled(way.slopes):
        for i, lengths in enumerate(zip(*way.calls, strict=True)):
            alone.append(Streams(net, {n: x[i : i + 1] for n, x in leaves.items()}))
            for n in lengths if way.truncate else [sum(lengths)]:
                if n:
                    alone[-1].call([n], False)
        return _found(alone, net, leaves)


def _leaves(flows: Flows, way: Way, dtype: torch.dtype) -> Flows:
    """Flows as a way has them, in a format that holds them."""
    rounded = {n: (0.5 * x.detach()).to(way.dtype) for n, x in flows.items()}
    return {n: x.to(dtype).requires_grad_(way.slopes) for n, x in rounded.items()}


class Streams:
    """Sequences that go on, with what was returned of each."""

    def __init__(self, net: nn.Module, flows: Flows):
        self.net, self.flows = net, flows
        self.first = next(iter(flows.values()))
        self.done = [0 for _ in self.first]
        self.outputs: list[dict[str, list[Tensor]]] = [{} for _ in self.first]
        self.states: list[Flows | None] = [None for _ in self.first]

    def call(self, lengths: Sequence[int], packed: bool) -> None:
        ends = [a + n for a, n in zip(self.done, lengths, strict=True)]
        pieces = [slice(a, b) for a, b in zip(self.done, ends, strict=True)]
        flows = {n: [x[i, at] for i, at in enumerate(pieces)] for n, x in self.flows.items()}
        going, self.done = any(self.states), ends
        if packed:
            given = {n: torch.cat(each)[None] for n, each in flows.items()}
            state = self.states if going else None
            cuts = torch.tensor([0, *accumulate(lengths)])
            y, self.states = self.net(**given, state=state, cu_seqlens=cuts)
        else:
            given = {n: torch.stack(each) for n, each in flows.items()}
            state = _joined(self.states) if going else None
            if going and lengths[0] == 1:
                y, state = self.net.step(**{n: x[:, 0] for n, x in given.items()}, state=state)
                y = {n: out[:, None] for n, out in _named(y).items()}
            else:
                y, state = self.net(**given, state=state)
            self.states = [_part(state, i) for i in range(len(ends))]
        for n, out in _named(y).items():
            parts = out[0].split(list(lengths)) if packed else out.unbind()
            for known, part in zip(self.outputs, parts, strict=True):
                known.setdefault(n, []).append(part)


def _joined(states: Sequence[Flows]) -> Flows:
    """That of a batch of streams that are equally long."""
    return {n: torch.cat([s[n] for s in states]) if x.ndim else x for n, x in states[0].items()}


def _part(state: Flows, i: int) -> Flows:
    return {n: x[i : i + 1] if x.ndim else x for n, x in state.items()}


def _named(y: Tensor | Flows) -> Flows:
    return y if isinstance(y, dict) else {"y": y}


def _found(streams: Sequence[Streams], net: nn.Module, leaves: Flows) -> Flows:
    """What came of all sequences, in their order: what the calls were that made it does not show."""
    outputs = [y for s in streams for y in s.outputs]
    names = dict.fromkeys(n for y in outputs for n in y)
    found = {n: torch.cat([part for y in outputs for part in y.get(n, [])]) for n in names}
    new = net.initial_state(next(iter(leaves.values()))[:1])
    states = [state or new for s in streams for state in s.states]
    found |= {f"state {n}": torch.cat([s[n].flatten() for s in states]) for n in new}
    found = {n: x if x.is_floating_point() else x.double() for n, x in found.items()}
    by = leaves | dict(net.named_parameters())
    if sums := [x.sin().sum() for x in found.values() if x.requires_grad]:
        slopes = torch.autograd.grad(sum(sums), list(by.values()), allow_unused=True)
        none = torch.zeros(1)
        found |= {
            f"slope by {n}": none if s is None else s for n, s in zip(by, slopes, strict=True)
        }
    return {n: x.detach() for n, x in found.items()}
