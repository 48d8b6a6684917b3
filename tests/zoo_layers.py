"""What layers of the zoo share, in plain torch: projections in heads, gates, norms, reads. Nothing here knows nlc.

Streams are [B, T, …], flows in heads [B, T, H, n], memories [B, H, m, n]. ``w`` are the slow weights by name.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transcriptions import MLP, short_conv

State = dict[str, Tensor]
Found = tuple[Tensor, State]
H = 2  # heads
EPS = 1e-6


def linear(w: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def in_heads(w: State, name: str, x: Tensor) -> Tensor:
    """A projection in heads: [B, T, H, n]."""
    return linear(w, f"{name}.linear", x).unflatten(-1, (H, -1))


def gate(w: State, name: str, x: Tensor) -> Tensor:
    """A projection to one number for each head: [B, T, H]."""
    return linear(w, f"{name}.linear", x)


def mixed(w: State, name: str, x: Tensor) -> Tensor:
    """A projection, its short convolution, silu; in heads."""
    z = short_conv(linear(w, f"{name}.linear", x), w[f"{name}.conv.weight"].flatten(0, 1))
    return F.silu(z).unflatten(-1, (H, -1))


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * weight


def closed(w: State, reads: list[Tensor], x: Tensor) -> Tensor:
    """The reads of all tokens, each head normalised, times a silu gate, projected."""
    y = normed(torch.stack(reads, 1), w["y.rmsnorm.weight"]) * F.silu(in_heads(w, "y", x))
    return linear(w, "y.linear_2", y.flatten(2))


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]


def read(S: Tensor, q: Tensor) -> Tensor:
    return (S * q[..., None, :]).sum(-1)


def each(a: Tensor) -> Tensor:
    """A number for each head, as a factor of memories."""
    return a[..., None, None]


def empty(x: Tensor, *shape: int) -> Tensor:
    return torch.zeros(x.shape[0], H, *shape, dtype=x.dtype)


def turned(x: Tensor) -> Tensor:
    """Rotary positions: the channels i and i + n/2 are one complex number."""
    real, imaginary = x.chunk(2, -1)
    half = real.shape[-1]
    theta = 10000.0 ** -(torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None, None] * theta
    z = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], -1)


def started(w: State, name: str, batch: int) -> MLP:
    return MLP(*(w[f"{name}.{part}.init"].expand(batch, -1, -1, -1) for part in ("W1", "W2")))
