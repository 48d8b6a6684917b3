"""Formal languages whose next answer needs all that was read so far, as tokens and answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

UNSCORED = -100  # the index that cross_entropy leaves out

Sample = Callable[[int, int, Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Language:
    """``sample(batch, length, generator)`` gives tokens and answers, each ``[batch, length]``.

    Answers are tokens of the same vocabulary; ``UNSCORED`` where there is nothing to be told.
    """

    name: str
    vocabulary: int
    sample: Sample
    doc: str


def parity(batch: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Random bits, the tokens 0 and 1; after each, whether the ones are even, 2, or odd, 3."""
    bits = torch.randint(2, (batch, length), generator=generator)
    return bits, 2 + bits.cumsum(1) % 2


def dyck(kinds: int, depth: int) -> Sample:
    """Well-nested brackets: token ``k`` opens kind ``k``, token ``kinds + k`` closes it.

    The answer after a closing bracket is what may close next, ``2 * kinds`` if nothing is open.
    After an opening bracket the answer stands in the token itself, and is not scored.
    """

    def sample(batch: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
        rows = torch.arange(batch)
        stack = torch.zeros(batch, depth, dtype=torch.long)
        height = torch.zeros(batch, dtype=torch.long)
        tokens, answers = torch.empty(2, batch, length, dtype=torch.long)
        for t in range(length):
            kind = torch.randint(kinds, (batch,), generator=generator)
            coin = torch.randint(2, (batch,), generator=generator).bool()
            opens = (height == 0) | (coin & (height < depth))
            top = stack[rows, (height - 1).clamp(min=0)]
            tokens[:, t] = torch.where(opens, kind, kinds + top)
            stack[rows[opens], height[opens]] = kind[opens]
            height += torch.where(opens, 1, -1)
            top = stack[rows, (height - 1).clamp(min=0)]
            closes = torch.where(height > 0, kinds + top, 2 * kinds)
            answers[:, t] = torch.where(opens, UNSCORED, closes)
        return tokens, answers

    return sample


KINDS, DEPTH = 2, 6

LANGUAGES = {
    language.name: language
    for language in (
        Language("parity", 4, parity, "whether the ones so far are even or odd, after every bit"),
        Language(
            f"dyck-{KINDS}",
            2 * KINDS + 1,
            dyck(KINDS, DEPTH),
            f"{KINDS} kinds of brackets, at most {DEPTH} open; after each closing bracket, "
            "the bracket that may close next, if any; words begin with nothing open, so early "
            "places are easier",
        ),
    )
}
