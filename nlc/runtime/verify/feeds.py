"""What comes to one trained tensor: gradients, or the samples of a linear layer that has it as its weight.

The same numbers go to the interpreter, as ``given``, and to a generated class: there a gradient is laid on the
parameter, and samples pass through an ``nn.Linear`` and back, so that the hooks of the class see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from nlc.ir.system import System

Given = dict[str, Tensor]  # ``g``; of a layer also ``x`` [N, in] and ``delta`` [N, out]
SAMPLES = 5
NOTHING: Mapping[str, Any] = MappingProxyType({})


def feed(system: System, shape: tuple[int, ...], steps: int, noise: torch.Generator) -> list[Given]:
    """Random input for so many steps."""
    if system.context != "layers":
        return [{"g": g} for g in _random((steps, *shape), noise)]
    return samples(shape, steps, noise)


def samples(shape: tuple[int, ...], steps: int, noise: torch.Generator) -> list[Given]:
    """Random samples of a layer with such a weight."""
    x = _random((steps, SAMPLES, shape[1]), noise)
    delta = _random((steps, SAMPLES, shape[0]), noise)
    return [of_samples(*pair) for pair in zip(x, delta, strict=True)]


def of_samples(x: Tensor, delta: Tensor) -> Given:
    """With the gradient by the weight, the mean of delta xᵀ."""
    return {"x": x, "delta": delta, "g": delta.mT @ x / len(x)}


def parts(given: Given, count: int) -> list[Given]:
    """So many gradients that add up to one; of a layer, its samples in as many batches."""
    if "x" not in given:
        shares = torch.arange(count, 0, -1, dtype=torch.float64)
        return [{"g": share * given["g"]} for share in shares / shares.sum()]
    x, delta = given["x"], given["delta"] / len(given["x"])
    pairs = zip(x.tensor_split(count), delta.tensor_split(count), strict=True)
    return [of_samples(x, delta * len(x)) for x, delta in pairs]


class Trained:
    """One tensor under a class of optimizers; ``layer``: it is the weight of a linear layer; ``group``: what its says.

    ``name``: what the tensor is called, where routes go by names.
    """

    def __init__(
        self,
        made: type,
        W: Tensor,
        layer: bool,
        hypers: Mapping[str, Any],
        group: Mapping[str, Any] = NOTHING,
        name: str = "",
    ):
        self.parameter, self.layer = nn.Parameter(W.clone()), None
        if layer:
            rows, columns = W.shape
            self.layer = nn.Linear(columns, rows, bias=False, dtype=W.dtype)
            self.layer.weight = self.parameter
        watched = [[self.layer] if layer else []] if hasattr(made, "watch") else []
        params = [(name, self.parameter) if name else self.parameter]
        self.optimizer = made([{**group, "params": params}], *watched, **hypers)

    def step(self, given: Given) -> Tensor:
        """The tensor after one step."""
        if self.layer is None:
            self.parameter.grad = given["g"].clone()
        else:
            self.optimizer.zero_grad()
            self.layer(given["x"]).backward(given["delta"] / len(given["x"]))
        self.optimizer.step()
        return self.parameter.detach().clone()


def _random(shape: tuple[int, ...], noise: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=noise, dtype=torch.float64)
