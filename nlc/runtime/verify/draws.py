"""Random inputs and weights to try a generated module with."""

from __future__ import annotations

import torch
from torch import Tensor

from nlc.backends.reference.file import attribute_path
from nlc.backends.words import arguments
from nlc.ir.system import System
from nlc.tools.sizes import Values


def draw(
    system: System, hypers: Values, batch: int, length: int, positive: bool = False
) -> dict[str, Tensor]:
    """Inputs [batch, length, …] in float64.

    Numbers are within (0, 1), as gates are, and with ``positive`` vectors are too. Vectors are normal, of length one
    where there are several, as for an operator, whose keys come normalised. Indices are whole numbers.
    """
    sizes = {k: v for k, v in hypers.items() if not isinstance(v, list)}
    vectors = sum(bool(i.dims) for i in system.inputs.values())
    out = {}
    for n, i in system.inputs.items():
        if i.rows is not None:
            out[n] = torch.randint(int(i.rows.evaluate(sizes)), (batch, length))
            continue
        shape = [sizes["heads"]] if i.head else []
        shape += [int(d.evaluate(sizes)) for d in i.dims]
        x = torch.randn(batch, length, *shape, dtype=torch.float64)
        if positive or not i.dims or i.range.low >= 0:
            x = x.sigmoid()
        elif vectors > 1:
            x = x / x.norm(dim=-1, keepdim=True)
        out[n] = x
    return out


def numbers(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that have gradients and a format: all but indices."""
    return {n: x for n, x in given.items() if x.is_floating_point()}


def named(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs by the names of the arguments of the generated ``forward``."""
    names = arguments(given)
    return {names[n]: x for n, x in given.items()}


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """In float64, with every weight moved, so that none is at a special value."""
    net = net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return net


class Weights(dict):
    """The parameters of a module by the paths of the spec."""

    def __init__(self, net: torch.nn.Module):
        super().__init__({f"self.{n}": p for n, p in net.named_parameters()})

    def __missing__(self, path: str) -> Tensor:
        name = attribute_path(path)
        if name == path or name not in self:
            raise KeyError(path)
        return self[name]


def unbroken(system: System, hypers: Values) -> int:
    """The ticks between which a stream cannot be saved: a gradient passes the updates of a period (``through``)."""
    sizes = {n: v for n, v in hypers.items() if not isinstance(v, list)}
    watched = [level.clock.count for level in system.levels.values() if level.through]
    return max((int(count.evaluate(sizes)) for count in watched), default=1)
