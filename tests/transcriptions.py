"""What the papers write, in plain torch: deep memories with gradients worked out by hand, chains of them, streams.

Nothing here knows nlc. Memories are pairs (W1, W2) of tensors [..., out, h] and [..., h, in].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class MLP(NamedTuple):
    """Eq. 89: M(z) = z + W1 σ(W2 z), and W1 σ(W2 z) where the output is of another size."""

    W1: Tensor
    W2: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        pre = torch.einsum("...hi,...i->...h", self.W2, z)
        out = torch.einsum("...oh,...h->...o", self.W1, F.silu(pre))
        return out + z if out.shape[-1] == z.shape[-1] else out

    def keys(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The input of each weight: σ(W2 z), z."""
        return F.silu(torch.einsum("...hi,...i->...h", self.W2, z)), z

    def errors(self, z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """∂/∂(W1 x) and ∂/∂(W2 z) of ½‖M(z) − target‖², back-propagated by hand (eq. 29)."""
        pre = torch.einsum("...hi,...i->...h", self.W2, z)
        gate = torch.sigmoid(pre)
        error = self(z) - target
        back = torch.einsum("...oh,...o->...h", self.W1, error)
        return error, back * (gate + pre * gate * (1 - gate))

    def slopes(self, z: Tensor, target: Tensor) -> MLP:
        """The gradient of ½‖M(z) − target‖²: error ⊗ key for each weight."""
        errors, keys = self.errors(z, target), self.keys(z)
        return MLP(*(torch.einsum("...o,...i->...oi", e, x) for e, x in zip(errors, keys)))


def unit(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def short_conv(x: Tensor, weight: Tensor) -> Tensor:
    """x [B, T, c], weight [c, taps]: y_t = Σ_i weight_i ⊙ x_{t − taps + 1 + i}."""
    taps = weight.shape[-1]
    past = F.pad(x, (0, 0, taps - 1, 0))
    return sum(past[:, i : i + x.shape[1]] * weight[:, i] for i in range(taps))


def chunks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def period_of_steps(
    start: MLP, keys: Tensor, values: Tensor, period: int, lr: float
) -> tuple[Tensor, MLP, MLP]:
    """Eq. 71 with ½‖C(key) − value‖²: what C reads for keys [B, T, d], its end, and its half-gathered sum.

    The tokens of a period see one state, and move it at rates η_t = lr / (period · (1 + ‖key‖²)).
    """
    batch = keys.shape[0]
    C = MLP(*(w.expand(batch, *w.shape) for w in start))
    out, held = [], MLP(*(torch.zeros_like(w) for w in C))
    for part in chunks(keys.shape[1], period):
        seen = MLP(*(w[:, None] for w in C))
        out.append(seen(keys[:, part]))
        share = 1 / (1 + keys[:, part].square().sum(-1))[..., None, None]
        held = MLP(*((share * g).sum(1) for g in seen.slopes(keys[:, part], values[:, part])))
        if part.stop - part.start == period:
            C = MLP(*(w - lr / period * g for w, g in zip(C, held)))
            held = MLP(*(torch.zeros_like(w) for w in C))
    return torch.cat(out, 1), C, held


def chain(
    weights: dict[str, Tensor], h: Tensor, periods: tuple[int, ...], lr: float, prefix: str = ""
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eqs. 70, 73: C_3(C_2(C_1(h))), each trained in context on a linear map of what it reads."""
    state = {}
    for i, period in enumerate(periods, 1):
        name = f"{prefix}C_{i}"
        start = MLP(weights[f"{name}.W1.init"], weights[f"{name}.W2.init"])
        values = F.linear(h, weights[f"{name}.value.linear.weight"])
        h, end, held = period_of_steps(start, h, values, period, lr)
        state |= {f"{name}.W1": end.W1, f"{name}.W2": end.W2}
        state |= {f"{name}.sum": held.W1, f"{name}.sum_2": held.W2}
    return h, state


def drawn(module: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Draws every slow weight of a module in float64, at the size of its start; returns them by name."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.copy_(noise * p.shape[-1] ** -0.5)
    return dict(module.named_parameters())


Run = Callable[..., tuple[Tensor, dict[str, Tensor]]]
Pairs = dict[str, tuple[Tensor, Tensor]]


def compare(
    module: torch.nn.Module,
    written: Run,
    inputs: Tensor | dict[str, Tensor],
    tolerance: float = 1e-10,
) -> float:
    """A module against code written out: outputs, every state that the code gives, and all gradients.

    The loss weighs the outputs and the final states at random; its gradients are those with respect
    to the first input that is no index and every slow weight. Gives the largest error, relative to the largest
    entry of its tensor.
    """
    weights = dict(module.named_parameters())
    inputs = {"x": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    varied = [n for n, x in inputs.items() if x.is_floating_point()][:1]  # all but indices
    inputs |= {n: inputs[n].clone().requires_grad_() for n in varied}
    y, state = module(**inputs)
    expected, end = written(weights, *inputs.values())
    assert set(end) <= set(state)
    pairs = {"y": (y, expected), **{key: (state[key], end[key]) for key in end}}
    worst = near(pairs, tolerance)
    generator = torch.Generator().manual_seed(9)
    share = {
        key: torch.randn(a.shape, generator=generator, dtype=a.dtype)
        for key, (a, _) in pairs.items()
    }
    leaves = {**{n: inputs[n] for n in varied}, **weights}
    slopes = []
    for side in (0, 1):
        loss = sum((share[key] * pair[side]).sum() for key, pair in pairs.items())
        slopes.append(torch.autograd.grad(loss, list(leaves.values())))
    assert all(g.abs().max() > 0 for g in slopes[1])
    return max(worst, near({key: pair for key, *pair in zip(leaves, *slopes)}, tolerance))


def near(pairs: Pairs, tolerance: float) -> float:
    """Each pair differs by less than ``tolerance`` of the expected tensor's largest entry; by how much at most."""
    worst = {}
    for key, (found, expected) in pairs.items():
        assert found.shape == expected.shape, (key, found.shape, expected.shape)
        assert found.isfinite().all(), key
        size = expected.abs().max().clamp_min(1e-30)
        worst[key] = ((found - expected).abs().max() / size).item()
    assert max(worst.values()) < tolerance, worst
    return max(worst.values())
