"""The bytes to learn from: a file, or the sources of Python's own standard library."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

LEFT_OUT = {
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"),
    *("encodings", "pydoc_data"),  # tables, not prose
}


class CorpusError(Exception):
    """There is no text to learn from; the message says why in one line."""


@dataclass(frozen=True)
class Corpus:
    """Bytes for training and bytes held out, as uint8 tensors; ``name`` is for people."""

    name: str
    train: Tensor
    held_out: Tensor

    @cached_property
    def digest(self) -> str:
        """Tells whether a checkpoint was trained on this very text."""
        return hashlib.sha256(bytes(self.train.numpy()) + bytes(self.held_out.numpy())).hexdigest()

    def require(self, batch: int, length: int) -> None:
        """Raises unless the training part fills a batch and the held-out part a window."""
        parts = ("training", self.train, batch + 1), ("held-out", self.held_out, 1)
        for part, data, count in parts:
            needed = count * length + 1
            if len(data) < needed:
                raise CorpusError(
                    f"{self.name} is too small for {batch} windows of {length} bytes a step: "
                    f"its {part} part has {len(data):,} of the {needed:,} bytes needed"
                )


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()


def from_file(path: Path, held_out: float = 0.05) -> Corpus:
    """A text whose last part, from the start of a line on, is held out."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CorpusError(f"there is no file {path}") from None
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from None
    cut = int(len(data) * (1 - held_out))
    cut = data.find(b"\n", cut) + 1 or cut
    if cut == len(data):
        cut = int(len(data) * (1 - held_out))
    return Corpus(str(path), _tensor(data[:cut]), _tensor(data[cut:]))


def standard_library(limit: int = 12_000_000, held_out_every: int = 20) -> Corpus:
    """Python's own modules in the order of their names; every so many-th file is held out whole."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        file for file in root.rglob("*.py") if not LEFT_OUT & set(file.relative_to(root).parts)
    )
    train, held_out, size = bytearray(), bytearray(), 0
    for number, file in enumerate(files, 1):
        try:
            text = file.read_bytes()
        except OSError:
            continue
        size += len(text)
        if size > limit:
            break
        (train if number % held_out_every else held_out).extend(text)
    name = f"the standard library of Python {sysconfig.get_python_version()}"
    return Corpus(name, _tensor(bytes(train)), _tensor(bytes(held_out)))


class Windows:
    """Batches of windows by step number alone, so that a resumed run reads on exactly.

    An epoch cuts the text into windows at an offset of its own and deals each window once.
    """

    def __init__(self, data: Tensor, batch: int, length: int, seed: int) -> None:
        self.data, self.batch, self.length, self.seed = data, batch, length, seed
        self.steps_an_epoch = (len(data) - length - 1) // length // batch
        self._epoch, self._starts = -1, torch.empty(0, dtype=torch.long)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step, each ``[batch, length]``."""
        epoch, place = divmod(step, self.steps_an_epoch)
        if epoch != self._epoch:
            self._epoch, self._starts = epoch, self._deal(epoch)
        return windows(
            self.data, self._starts[place * self.batch : (place + 1) * self.batch], self.length
        )

    def _deal(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        offset = int(torch.randint(self.length, (), generator=generator))
        count = (len(self.data) - offset - 1) // self.length
        return offset + self.length * torch.randperm(count, generator=generator)


def windows(data: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The windows that begin at ``starts`` and, one byte on, what they are to predict."""
    places = starts[:, None] + torch.arange(length)
    return data[places].long(), data[places + 1].long()


def spread(data: Tensor, count: int, length: int) -> Tensor:
    """Starts of up to ``count`` windows that do not overlap, evenly over the text."""
    available = (len(data) - 1) // length
    return torch.linspace(0, available - 1, min(count, available)).long() * length
