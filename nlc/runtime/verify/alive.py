"""Whether the memories of a token system live: over many tokens, as users run it, before any training.

Widths are small, periods as the spec says. A memory that starts away from zero stays within a factor of ten of its
start. One that starts at zero holds what it is given: how far it grows and what it forgets are facts, unless it grows
without bound, or never holds anything although it has an objective. A norm that is no number never passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nlc.ir.system import State
from nlc.runtime.verify.draws import draw, named, numbers, unbroken
from nlc.runtime.verify.report import Check
from nlc.tools.sizes import Values, settled, small

if TYPE_CHECKING:
    from nlc.pipeline import Spec

WIDTH = 32
KINDS = ("random", "correlated")
COMMON = 0.9  # of a correlated token's variance: a direction that all tokens share
BACK = 1000  # how far back the last output must reach
DEPENDS = 1e-12  # relative, in float64: ten thousand times rounding, and far below what a gate of 0.98 leaves
KEPT = (0.1, 10.0)  # of a state's norm at its start
GROWS = 100.0  # what is summed or squared grows 2 or 4 times as a stream doubles; 100 times is exponential
HALF = 100  # the fewest ticks by whose end growth is judged: a start may be as small as it likes
PIECE = 500


def alive(spec: Spec, fixed: dict[str, Any], seed: int, tokens: int) -> list[Check]:
    """Finite, neither dead nor grown out of hand, and with a memory of what was long ago."""
    return _Life(spec, fixed, seed, tokens).checks()


class _Life:
    """One stream of random tokens and one of correlated tokens, through a fresh module."""

    def __init__(self, spec: Spec, fixed: dict[str, Any], seed: int, tokens: int):
        self.system, self.tokens = spec.system, tokens
        chosen = small(self.system, fixed, WIDTH, periods=False)
        self.hypers: Values = settled(self.system, chosen)
        torch.manual_seed(seed)
        self.net = spec.compile()(**chosen)
        self.common = draw(self.system, self.hypers, 1, 1)

    def checks(self) -> list[Check]:
        back = min(BACK, self.tokens // 2)
        back += (self.tokens - back) % unbroken(self.system, self.hypers)
        first = next(iter(self._piece(1).values()))
        start, finite, state = self.net.initial_state(first), True, None
        states = [s for s in self.system.states.values() if s.name in start]
        peaks: tuple[dict[str, Tensor], ...] = (
            {},
            {},
        )  # of the norms, in either half of the stream
        done, half = 0, self.tokens // 2
        for length in self._lengths(self.tokens - back):
            state, finite = self._run(self.net, length, state, finite)
            done += length
            _raise(peaks[done > half], states, state)
        before = dict(state) if state else {}
        pieces = [self._piece(n) for n in self._lengths(back)]
        for piece in pieces:
            y, state = self._call(self.net, piece, state)
            finite = finite and _finite(y, state)
            _raise(peaks[1], states, state)
        kinds = " and ".join(KINDS)
        out = [
            Check(
                f"{self.tokens:,} {kinds} tokens in float32 stay finite", passed=finite, life=True
            )
        ]
        for s in states:
            if _born(s, start):
                out.append(self._kept(s, start[s.name], state[s.name]))
            else:
                given = (p.get(s.name) for p in peaks)
                out.append(self._given(s, start[s.name], *given, state[s.name]))
        judged = any(_born(s, start) and self._ticks_within(s, back) for s in states)
        return [*out, self._depends(before, pieces, back, judged)]

    # ---------------------------------------------------------------------------------------- what is run

    def _lengths(self, tokens: int) -> Iterator[int]:
        return (min(PIECE, tokens - done) for done in range(0, tokens, PIECE))

    def _piece(self, length: int) -> dict[str, Tensor]:
        """Random tokens, and tokens that share a direction."""
        noise = draw(self.system, self.hypers, len(KINDS), length)
        for n, x in numbers(noise).items():
            x[1] = (1 - COMMON) ** 0.5 * x[1] + COMMON**0.5 * self.common[n][0]
        return {**noise, **{n: x.float() for n, x in numbers(noise).items()}}

    def _run(
        self, net: torch.nn.Module, length: int, state: dict | None, finite: bool
    ) -> tuple[dict, bool]:
        y, state = self._call(net, self._piece(length), state)
        return state, finite and _finite(y, state)

    def _call(
        self, net: torch.nn.Module, piece: dict[str, Tensor], state: dict | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        with torch.no_grad():
            y, state = net(**named(piece), state=state)
        return (y if isinstance(y, dict) else {"y": y}), state

    # ---------------------------------------------------------------------------------------- checks

    def _kept(self, s: State, start: Tensor, end: Tensor) -> Check:
        """The norm of every head's state, at the end of either stream, against its start."""
        ratio = _norms(s, end) / _norms(s, start)
        kept = bool((ratio >= KEPT[0]).all() and (ratio <= KEPT[1]).all())  # NaN is neither
        what = f"{s.name} keeps its norm within [{KEPT[0]:g}, {KEPT[1]:g}] of its start"
        return Check(what, passed=kept, note=f"{_span(ratio)} of its start", life=True)

    def _given(
        self, s: State, start: Tensor, early: Tensor | None, late: Tensor, end: Tensor
    ) -> Check:
        """Of a state that starts empty: ``early`` and ``late`` are the largest norms in either half."""
        norm = _norms(s, end)
        empty = "0" if start.isfinite().all() else "-inf"
        what = f"{s.name} starts at {empty}: its norm after {self.tokens:,} tokens"
        if not (norm.isfinite().all() and late.isfinite().all()):
            return Check(what, passed=False, note=f"{_span(norm)}: not finite", life=True)
        if self._fills(s) and not (late.any() or (early is not None and early.any())):
            note = "0: no token has changed it, although it has an objective"
            return Check(what, passed=False, note=note, life=True)
        if early is not None and self._often(s):
            growth = (late / early)[early > 0]
            if (growth > GROWS).any():
                much = f"{growth.max().item():.2g} times as large as in the first half"
                return Check(what, passed=False, note=f"{_span(norm)}, {much}", life=True)
        return Check(what, note=_span(norm), life=True)

    def _fills(self, s: State) -> bool:
        """Whether its level takes something in, at ticks that the stream certainly has, and keeps it.

        What starts at a learned 0 is moved from there by the outer loss, before or while it takes something in.
        """
        level = self.system.levels[s.level]
        sure = level.clock.kind != "never" and not level.clock.name
        ticks = sure and self._ticks_within(s, self.tokens)
        given = not (s.learned or s.borrowed or s.passing)
        return given and level.objective is not None and level.reset is None and ticks

    def _often(self, s: State) -> bool:
        """Whether it ticks often enough in half of the stream for its growth to be told from its start."""
        clock = self.system.levels[s.level].clock
        return not clock.name and self._ticks_within(s, self.tokens // 2 // HALF)

    def _ticks_within(self, s: State, tokens: int) -> bool:
        """Whether its level, where that has a period, ends one within so many tokens."""
        clock = self.system.levels[s.level].clock
        sizes = {n: v for n, v in self.hypers.items() if not isinstance(v, list)}
        return clock.kind != "every" or bool(clock.name) or clock.count.evaluate(sizes) <= tokens

    def _depends(self, before: dict, pieces: list[dict], back: int, judged: bool) -> Check:
        """Two streams that differ in one token, in float64.

        A memory from zero may forget it by its gates, and one with a longer period has not written it yet.
        """
        net = self.net.double()
        twice = lambda x: torch.cat([x, x]) if x.ndim else x  # noqa: E731
        wide = lambda x: x.double() if x.is_floating_point() else x  # noqa: E731
        state = {n: wide(twice(x)) for n, x in before.items()} or None
        for i, piece in enumerate(pieces):
            given = {n: wide(twice(x)) for n, x in piece.items()}
            if i == 0:
                other = {n: x.double() for n, x in self._piece(1).items()}
                for n, x in given.items():
                    x[len(KINDS) :, 0] = other[n][:, 0]
            y, state = self._call(net, given, state)
        last = torch.cat([x[:, -1].reshape(len(x), -1) for x in y.values()], 1)
        plain, changed = last.chunk(2)
        size = ((changed - plain).norm(dim=1) / plain.norm(dim=1)).min().item()
        passed = True if size > DEPENDS else False if judged else None
        what = f"the last output depends on the token {back:,} back"
        return Check(what, passed=passed, note=f"changes by {size:.0e} of itself", life=True)


def _finite(y: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    return all(bool(x.isfinite().all()) for x in (*y.values(), *state.values()))


def _raise(peaks: dict[str, Tensor], states: list[State], state: dict[str, Tensor]) -> None:
    """The largest norms yet: a reset may just have emptied a memory."""
    for s in states:
        norm = _norms(s, state[s.name])
        peaks[s.name] = torch.maximum(peaks[s.name], norm) if s.name in peaks else norm


def _norms(s: State, x: Tensor) -> Tensor:
    """One number a stream and head, in a format in which the square of what is finite is finite."""
    x = x.double()
    return x.flatten(x.ndim - len(s.dims)).norm(dim=-1) if s.dims else x.abs()


def _born(s: State, start: dict[str, Tensor]) -> bool:
    """Whether a memory starts with something in it: not at 0, nor at -inf, where a running maximum starts."""
    norms = _norms(s, start[s.name])
    return bool(norms.all() and norms.isfinite().all())


def _span(x: Tensor) -> str:
    low, high = f"{x.min().item():.2g}", f"{x.max().item():.2g}"
    return low if low == high else f"{low} to {high}"
