"""Text from a trained model, byte by byte: all that it keeps of the past is the state."""

from __future__ import annotations

import torch
from language_model import LanguageModel
from torch import Tensor
from torch.utils import _pytree as pytree


def readable(text: bytes) -> str:
    """Bytes as a terminal may show them: what is no letter, mark or line break becomes a dot."""
    letters = text.decode(errors="replace").expandtabs(4)
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in letters)


class Stream:
    """An endless text that begins with ``prompt``; iterating gives the bytes after it."""

    def __init__(
        self, model: LanguageModel, prompt: bytes, *, temperature: float = 0.8, seed: int = 0
    ) -> None:
        self.model, self.temperature = model, temperature
        self.generator = torch.Generator().manual_seed(seed)
        self.device = model.embedding.weight.device
        with torch.no_grad():
            logits, self.state = model(torch.tensor([list(prompt)], device=self.device))
        self.logits = logits[:, -1]

    def __iter__(self) -> Stream:
        return self

    @torch.no_grad()
    def __next__(self) -> int:
        odds = torch.softmax(self.logits.float().cpu() / self.temperature, -1)
        byte = torch.multinomial(odds, 1, generator=self.generator)[:, 0]
        self.logits, self.state = self.model.step(byte.to(self.device), self.state)
        return int(byte)

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        return bytes(next(self) for _ in range(count))

    @property
    def state_bytes(self) -> int:
        """The memory that the state takes."""
        tensors = (leaf for leaf in pytree.tree_leaves(self.state) if isinstance(leaf, Tensor))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
