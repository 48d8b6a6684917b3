"""A language model around any compiled token system, which mixes the tokens; of bytes by default.

The same model with the spec ``attention`` is a Transformer.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

BYTES = 256


class Block(nn.Module):
    """``x + mix(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, d: int, hidden: int, mix: nn.Module) -> None:
        super().__init__()
        self.norm_mix = nn.RMSNorm(d)
        self.mix = mix
        self.norm_mlp = nn.RMSNorm(d)
        self.up = nn.Linear(d, hidden, bias=False)
        self.down = nn.Linear(hidden, d, bias=False)

    def _mlp(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        mixed, state = self.mix(self.norm_mix(x), state=state)
        return self._mlp(x + mixed), state

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        mixed, state = self.mix.step(self.norm_mix(x), state)
        return self._mlp(x + mixed), state


class LanguageModel(nn.Module):
    """Embedding, blocks, and a head tied to the embedding.

    ``state`` is the list of the layers' states: a stream goes on where the last call ended.
    """

    def __init__(
        self,
        mix: Callable[[], nn.Module],
        d: int,
        layers: int,
        hidden: int,
        vocabulary: int = BYTES,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d)
        nn.init.normal_(self.embedding.weight, std=d**-0.5)
        self.blocks = nn.ModuleList(Block(d, hidden, mix()) for _ in range(layers))
        self.norm = nn.RMSNorm(d)

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.embedding.weight)

    def forward(self, tokens: Tensor, state: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """``[B, T]`` tokens to ``[B, T, vocabulary]`` logits of the next ones."""
        x, after = self.embedding(tokens), []
        for block, before in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            x, new = block(x, before)
            after.append(new)
        return self._logits(x), after

    def step(self, token: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """One token of each stream, ``[B]``, to ``[B, vocabulary]`` logits."""
        x, after = self.embedding(token), []
        for block, before in zip(self.blocks, state, strict=True):
            x, new = block.step(x, before)
            after.append(new)
        return self._logits(x), after

    def param_groups(self, rest: str | None = None) -> list[dict[str, Any]]:
        """Parameters for an optimizer; what a level says of its own training stays with them.

        ``rest`` names the rule for matrices that are no maps, where the optimizer has one.
        """
        special: list[dict[str, Any]] = []
        for block in self.blocks:
            groups = block.mix.param_groups() if hasattr(block.mix, "param_groups") else []
            special.extend(group for group in groups if set(group) > {"params"})
        listed = {id(p) for group in special for p in group["params"]}
        tables = [p for p in self._tables() if id(p) not in listed] if rest else []
        special += [{"params": tables, "rule": rest}] if tables else []
        listed |= {id(p) for p in tables}
        return [{"params": [p for p in self.parameters() if id(p) not in listed]}, *special]

    def _tables(self) -> list[nn.Parameter]:
        """Two axes, but rows that nothing adds up: of the embedding, and a channel's taps."""
        taps = re.compile(r"(^|\.)conv(_\d+)?\.weight$")
        return [self.embedding.weight, *(p for n, p in self.named_parameters() if taps.search(n))]


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def mixing(system: type[nn.Module], d: int, heads: int, **hyper: object) -> Callable[[], nn.Module]:
    """Makes layers of a compiled system; ``heads`` is left out for one without heads, or that derives their number."""
    accepted = inspect.signature(system).parameters
    if "heads" in accepted and accepted["heads"].default is not None:
        hyper = {"heads": heads, **hyper}
    return lambda: system(d=d, **hyper)


def hidden_for(
    count: int, mix: Callable[[], nn.Module], d: int, layers: int, vocabulary: int = BYTES
) -> int:
    """The width of the MLPs that brings a model nearest to ``count`` parameters."""
    narrowest = parameter_count(LanguageModel(mix, d, layers, 1, vocabulary))
    return max(1, 1 + round((count - narrowest) / (2 * d * layers)))
