"""A tensor as others over the same numbers, and a rule for each of them.

A view is a tuple of steps, done one after the other: ``("flatten", a, b)`` joins the axes a to b - 1 (None: to the
last), ``("batch", a, b)`` makes a part of every index along them, ``("split", a, n)`` makes n parts of the axis a.

Generated files quote what stands here (``nlc/backends/torch_helpers.py``), so it needs torch alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def shown(x: Tensor, view: tuple) -> list[Tensor]:
    """What a view shows. IndexError where x has no such axis, ValueError where one does not divide."""
    if not view:
        return [x]
    (name, first, last), rest = view[0], view[1:]
    axes = [*range(x.ndim)[first:last]] if name != "split" else [*range(x.ndim)[first:]][:1]
    if name == "batch":
        order = [*axes, *(i for i in range(x.ndim) if i not in axes)]
        found = x.permute(order).flatten(0, len(axes) - 1).unbind() if axes else [x]
    elif not axes:
        raise IndexError(f"a tensor of shape {list(x.shape)} has no axis {first}")
    elif name == "flatten":
        found = [x.flatten(axes[0], axes[-1])]
    elif x.shape[axes[0]] % last:
        shape = f"{list(x.shape)}, axis {axes[0]}"
        raise ValueError(f"a tensor of shape {shape}, is not divisible into {last} parts")
    else:
        found = x.chunk(last, axes[0])
    return [part for y in found for part in shown(y, rest)]


def rejoined(parts: Iterator[Tensor], like: Tensor, view: tuple) -> Tensor:
    """The tensor of which a view shows these parts; ``like`` has its shape."""
    if not view:
        return next(parts)
    (name, first, last), rest = view[0], view[1:]
    new = [rejoined(parts, y, rest) for y in shown(like, view[:1])]
    if name == "flatten":
        return new[0].reshape(like.shape)
    if name == "split":
        return torch.cat(new, first)
    axes = [*range(like.ndim)[first:last]]
    order = [*axes, *(i for i in range(like.ndim) if i not in axes)]
    if not axes:
        return new[0]
    whole = torch.stack(new).reshape([like.shape[i] for i in order])
    return whole.permute([order.index(i) for i in range(like.ndim)])


def suits(x: Tensor, view: tuple, matrices: bool) -> bool:
    """Whether a view is for such a tensor, and shows matrices where these are wanted."""
    try:
        return all(part.ndim == 2 or not matrices for part in shown(x, view))
    except IndexError:
        return False


class Seen:
    """Does ``RULE`` to all that ``view`` shows of a tensor; each part has memories of its own."""

    RULE: type
    SMALL = 65536  # elements of a part, below which those of one shape make their step as a stack
    SMALL_ON_GPU = 1 << 22

    @staticmethod
    def view(**hypers: object) -> tuple:
        """The steps, one after the other."""
        raise NotImplementedError

    @classmethod
    def initial_state(cls, W: Tensor, **hypers: object) -> dict[str, Tensor | int]:
        """The memories of one tensor before its first step: ``m[0]`` is that of the first part."""
        parts = shown(W, cls.view(**hypers))
        begun = [cls.RULE.initial_state(part, **hypers) for part in parts]
        return {f"{key}[{i}]": x for i, state in enumerate(begun) for key, x in state.items()}

    @classmethod
    def update(cls, W: Tensor, g: Tensor, state: dict, **hypers: object) -> Tensor:
        """One tensor after one step with the gradient ``g``; ``state`` gets what it remembers."""
        view = cls.view(**hypers)
        parts, slopes = shown(W, view), shown(g, view)
        own = [cls.part_of(state, i) for i in range(len(parts))]
        if cls.together(parts):
            memory = {k: cls.stacked([x[k] for x in own]) for k in own[0]}
            new = cls.RULE.update(
                torch.stack(parts), torch.stack(slopes), memory, **hypers
            ).unbind()
            for i, x in enumerate(own):
                x.update({k: y[i] if cls.grown(y) else y for k, y in memory.items()})
        else:
            both = zip(parts, slopes, own, strict=True)
            new = [cls.RULE.update(part, slope, x, **hypers) for part, slope, x in both]
        for i, x in enumerate(own):
            state.update({f"{k}[{i}]": y for k, y in x.items()})
        return rejoined(iter(new), W, view)

    @staticmethod
    def part_of(state: dict, i: int) -> dict:
        """The memories of the i-th part, by the names that the rule has for them."""
        end = f"[{i}]"
        return {k.removesuffix(end): x for k, x in state.items() if k.endswith(end)}

    @classmethod
    def together(cls, parts: list[Tensor]) -> bool:
        """Whether parts, which all have one shape, make their step as a stack, whose products are batched."""
        small = parts[0].numel() < (cls.SMALL_ON_GPU if parts[0].is_cuda else cls.SMALL)
        return bool(getattr(cls.RULE, "STACKS", False)) and small and len(parts) > 1

    @staticmethod
    def grown(x: object) -> bool:
        """Whether it is a memory; counts are the same for all parts, also as tensors of one element."""
        return isinstance(x, Tensor) and x.ndim > 0

    @classmethod
    def stacked(cls, found: list) -> object:
        """What the parts remember, as one."""
        return torch.stack(found) if cls.grown(found[0]) else found[0]
