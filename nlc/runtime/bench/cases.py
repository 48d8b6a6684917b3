"""One thing to measure: a generated module in one mode at one length, with random inputs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nlc.runtime.verify.draws import draw, named, numbers
from nlc.tools.sizes import settled

if TYPE_CHECKING:
    from nlc.pipeline import Spec

MODES = ("forward", "forward+backward", "step")
STEPS = 64  # of a run in the mode "step": a chunk's boundary is among them where it is no longer


@dataclass(frozen=True)
class Ask:
    """What all cells of a benchmark share. It pickles, so that a fresh process can be asked the same.

    ``text`` and ``name`` are the spec's source; ``hypers`` those that are not the spec's own defaults.
    """

    text: str
    name: str
    operator: bool
    hypers: dict[str, Any]
    batch: int
    dtype: str
    device: str
    threads: int
    seed: int

    def spec(self) -> Spec:
        from nlc.pipeline import loads

        return loads(self.text, self.name, operator=self.operator)


class Case:
    """``begin`` once, then ``seconds`` as often as wanted.

    forward: a call on [B, T, …] without gradients. forward+backward: the same, then the gradients of every input and
    weight. step: single tokens, one after the other, of a stream that has had T tokens.
    """

    def __init__(self, spec: Spec, made: type, ask: Ask, mode: str, length: int):
        torch.manual_seed(ask.seed)
        dtype = getattr(torch, ask.dtype)
        self.net = made(**ask.hypers).to(device=ask.device, dtype=dtype)
        self.mode, self.device = mode, torch.device(ask.device)
        hypers = settled(spec.system, ask.hypers)

        def drawn(tokens: int) -> dict[str, Tensor]:
            flows = named(draw(spec.system, hypers, ask.batch, tokens))
            flows |= {n: x.to(dtype) for n, x in numbers(flows).items()}
            return {n: x.to(ask.device) for n, x in flows.items()}

        self.inputs = drawn(length)
        self.stream: list[dict[str, Tensor]] = []
        self.state: dict[str, Tensor] | None = None
        if mode == "step":
            tokens = drawn(STEPS)
            self.stream = [{n: x[:, i] for n, x in tokens.items()} for i in range(STEPS)]
        if mode == "forward+backward":
            for x in numbers(self.inputs).values():
                x.requires_grad_()

    @property
    def parts(self) -> int:
        """How many calls a run is."""
        return len(self.stream) or 1

    @property
    def held(self) -> int:
        """Bytes of the state that a stream holds before it goes on."""
        states = (self.state or {}).values()
        return sum(x.numel() * x.element_size() for x in states)

    def begin(self) -> None:
        """The tokens that come before the first step."""
        if self.mode == "step":
            with torch.no_grad():
                _, self.state = self.net(**self.inputs)

    def run(self) -> list[Tensor]:
        """What is measured; the last outputs."""
        if self.mode == "forward+backward":
            outputs = _outputs(self.net(**self.inputs)[0])
            sum(y.square().mean() for y in outputs).backward()  # type: ignore[union-attr]
            return outputs
        with torch.no_grad():
            if self.mode == "forward":
                return _outputs(self.net(**self.inputs)[0])
            y, state = None, self.state
            for token in self.stream:
                y, state = self.net.step(**token, state=state)
            return _outputs(y)

    def finite(self) -> bool:
        """Runs once: whether what comes out are numbers."""
        return all(bool(y.isfinite().all()) for y in self.run())

    def seconds(self) -> float:
        """Wall time of a run. Gradients of the run before are dropped first, not added to."""
        self.net.zero_grad(set_to_none=True)
        for x in self.inputs.values():
            x.grad = None
        self._finish()
        start = time.perf_counter()
        self.run()
        self._finish()
        return time.perf_counter() - start

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _outputs(y: Any) -> list[Tensor]:
    return list(y.values()) if isinstance(y, dict) else [y]
