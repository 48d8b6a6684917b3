"""`m3_ema` takes no notice of the gradient's scale, and resumes inside a period."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

import nlc

SHAPES = [(6, 4), (4, 6), (5, 5)]
HYPERS = dict(lr=0.05, beta1=0.8, beta2=0.9, beta3=0.6, alpha=0.7, f=4, weight_decay=0.1)


def parameters() -> list[Tensor]:
    """The same at every call."""
    noise = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=noise, dtype=torch.float64).requires_grad_() for s in SHAPES]


def gradient(p: Tensor, tick: int) -> Tensor:
    """One that depends on the tick and on the parameter, so that errors do not stay where they are."""
    noise = torch.Generator().manual_seed(tick)
    return torch.randn(p.shape, generator=noise, dtype=p.dtype) + 0.3 * p.detach()


def train(optimizer: torch.optim.Optimizer, params: list[Tensor], ticks: range, scale=1.0) -> None:
    for tick in ticks:
        for p in params:
            p.grad = scale * gradient(p, tick)
        optimizer.step()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_m3_ema_takes_no_notice_of_the_gradient_s_scale(scale: float) -> None:
    made, plain, scaled = nlc.compile("m3_ema"), parameters(), parameters()
    train(made(plain, **HYPERS), plain, range(30))
    # the part of a gradient that is the parameter is scaled too, so the two may only differ by rounding
    train(made(scaled, **HYPERS), scaled, range(30), scale)
    for a, b in zip(plain, scaled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_m3_as_printed_steps_less_where_gradients_are_larger() -> None:
    """What `m3_ema` is for: Newton-Schulz forgets the scale and sqrt(V) does not."""
    lengths = []
    for scale in (1.0, 1e3):
        params = parameters()
        train(nlc.compile("m3")(params, lr=1e-3), params, range(5), scale)
        moved = [a.detach() - b.detach() for a, b in zip(params, parameters(), strict=True)]
        lengths.append(torch.stack([m.norm() for m in moved]))
    torch.testing.assert_close(
        lengths[0] / lengths[1], torch.full((3,), 1e3).double(), rtol=0.01, atol=0
    )


def test_the_first_step_of_m3_ema_has_one_size_everywhere() -> None:
    """V is then the square of what it divides: every entry moves by lr / sqrt(ncols)."""
    params = parameters()
    train(nlc.compile("m3_ema")(params, lr=0.1), params, range(1))
    for p, start in zip(params, parameters(), strict=True):
        size = torch.full_like(start, 0.1 / start.shape[1] ** 0.5)
        torch.testing.assert_close((p - start).abs(), size, rtol=1e-5, atol=0)


@pytest.mark.parametrize("saved", range(4, 9))
def test_m3_ema_resumes_anywhere_in_a_period(saved: int) -> None:
    made, whole, parts = nlc.compile("m3_ema"), parameters(), parameters()
    train(made(whole, **HYPERS), whole, range(20))
    first = made(parts, **HYPERS)
    train(first, parts, range(saved))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = made(parts)
    second.load_state_dict(torch.load(file, weights_only=True))
    train(second, parts, range(saved, 20))
    assert all(map(torch.equal, parts, whole))
