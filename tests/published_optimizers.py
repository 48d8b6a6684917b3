"""Published optimizers, written out step by step on one matrix in float64: what their specs must equal.

Each is given the weights, which it changes, and a function that gives the next gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from published_matrices import (
    Steps,
    adamuon,
    deep_momentum,
    delta_momentum,
    m3,
    m3_ema,
    muon,
    shampoo,
)
from published_variants import (
    adafactor,
    adafactor_unfactored,
    cautious_adamw,
    mars,
    normuon,
    schedule_free,
    soap,
)
from torch import Tensor


def sgd(W: Tensor, g: Callable, lr=1e-3, weight_decay=0.0) -> Steps:
    while True:
        W -= lr * (g() + weight_decay * W)
        yield


def momentum(W: Tensor, g: Callable, lr=1e-3, rate=1.0, beta=0.9, weight_decay=0.0) -> Steps:
    m = torch.zeros_like(W)
    while True:
        m = beta * m + rate * (g() + weight_decay * W)
        W -= lr * m
        yield


def adam(
    W: Tensor, g: Callable, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, most=False
) -> Steps:
    """With ``most`` the root is of the largest second moment so far."""
    m, v, largest, t = *(torch.zeros_like(W) for _ in range(3)), 0
    while True:
        grad, t = g() + weight_decay * W, t + 1
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        largest = torch.maximum(largest, v) if most else v
        W -= lr * (m / (1 - beta1**t)) / ((largest / (1 - beta2**t)).sqrt() + eps)
        yield


def adamw(W: Tensor, g: Callable, lr=1e-3, weight_decay=0.01, **hypers: float) -> Steps:
    """Adam's step beside a decay of the weights that the moments do not see."""

    def then_decayed() -> Tensor:
        grad = g()
        W.mul_(1 - lr * weight_decay)
        return grad

    return adam(W, then_decayed, lr, **hypers)


def lion(W: Tensor, g: Callable, lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0) -> Steps:
    m = torch.zeros_like(W)
    while True:
        grad = g()
        W -= lr * ((beta1 * m + (1 - beta1) * grad).sign() + weight_decay * W)
        m = beta2 * m + (1 - beta2) * grad
        yield


def lookahead(W: Tensor, g: Callable, lr=1e-3, a=0.5, k=5) -> Steps:
    slow = W.clone()
    for t, _ in enumerate(adamw(W, g, lr), 1):
        if t % k == 0:
            slow += a * (W - slow)
            W.copy_(slow)
        yield


def nesterov(W: Tensor, g: Callable, lr=1e-3, beta=0.9, weight_decay=0.0) -> Steps:
    m = torch.zeros_like(W)
    while True:
        grad = g() + weight_decay * W
        m = beta * m + grad
        W -= lr * (grad + beta * m)
        yield


def adagrad(
    W: Tensor, g: Callable, lr=1e-2, lr_decay=0.0, start=0.0, eps=1e-10, weight_decay=0.0
) -> Steps:
    v, t = torch.full_like(W, start), 0
    while True:
        grad, t = g() + weight_decay * W, t + 1
        v = v + grad**2
        W -= lr / (1 + (t - 1) * lr_decay) * grad / (v.sqrt() + eps)
        yield


def rmsprop(
    W: Tensor,
    g: Callable,
    lr=1e-2,
    alpha=0.99,
    beta=0.0,
    eps=1e-8,
    centered=False,
    weight_decay=0.0,
) -> Steps:
    v, a, m = (torch.zeros_like(W) for _ in range(3))
    while True:
        grad = g() + weight_decay * W
        v = alpha * v + (1 - alpha) * grad**2
        a = alpha * a + (1 - alpha) * grad
        m = beta * m + grad / ((v - a**2 if centered else v).sqrt() + eps)
        W -= lr * m
        yield


def nadam(
    W: Tensor, g: Callable, lr=2e-3, beta1=0.9, beta2=0.999, eps=1e-8, momentum_decay=4e-3, weight_decay=0.0
) -> Steps:  # fmt: skip
    m, v, product, t = torch.zeros_like(W), torch.zeros_like(W), 1.0, 0
    while True:
        grad, t = g() + weight_decay * W, t + 1
        now, following = (beta1 * (1 - 0.5 * 0.96 ** (s * momentum_decay)) for s in (t, t + 1))
        product *= now
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        ahead = following * m / (1 - product * following) + (1 - now) * grad / (1 - product)
        W -= lr * ahead / ((v / (1 - beta2**t)).sqrt() + eps)
        yield


def radam(
    W: Tensor, g: Callable, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0
) -> Steps:
    m, v, t = torch.zeros_like(W), torch.zeros_like(W), 0
    most = 2 / (1 - beta2) - 1
    while True:
        grad, t = g() + weight_decay * W, t + 1
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        rho = most - 2 * t * beta2**t / (1 - beta2**t)
        step = m / (1 - beta1**t)
        if rho > 5:
            top = (rho - 4) * (rho - 2) * most
            r = math.sqrt(top / ((most - 4) * (most - 2) * rho))
            step = r * step / ((v / (1 - beta2**t)).sqrt() + eps)
        W -= lr * step
        yield


def adamax(
    W: Tensor, g: Callable, lr=2e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0
) -> Steps:
    m, u, t = torch.zeros_like(W), torch.zeros_like(W), 0
    while True:
        grad, t = g() + weight_decay * W, t + 1
        m = beta1 * m + (1 - beta1) * grad
        u = torch.maximum(beta2 * u, grad.abs() + eps)
        W -= lr / (1 - beta1**t) * m / u
        yield


def adabelief(
    W: Tensor, g: Callable, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-16, weight_decay=0.0
) -> Steps:
    m, s, t = torch.zeros_like(W), torch.zeros_like(W), 0
    while True:
        grad, t = g(), t + 1
        m = beta1 * m + (1 - beta1) * grad
        s = beta2 * s + (1 - beta2) * (grad - m) ** 2 + eps
        W *= 1 - lr * weight_decay
        W -= lr * (m / (1 - beta1**t)) / ((s / (1 - beta2**t)).sqrt() + eps)
        yield


def ademamix(
    W: Tensor, g: Callable, lr=1e-3, beta1=0.9, beta2=0.999, beta3=0.9999, alpha=5.0, warm=1, eps=1e-8,
    weight_decay=0.0,
) -> Steps:  # fmt: skip
    m, n, v, t = *(torch.zeros_like(W) for _ in range(3)), 0
    while True:
        grad, t = g(), t + 1
        a = min(t * alpha / warm, alpha)
        log1, log3, part = math.log(beta1), math.log(beta3), t / warm
        b = beta3
        if part < 1:
            b = min(math.exp(log1 * log3 / ((1 - part) * log3 + part * log1)), beta3)
        m = beta1 * m + (1 - beta1) * grad
        n = b * n + (1 - b) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        step = (m / (1 - beta1**t) + a * n) / ((v / (1 - beta2**t)).sqrt() + eps)
        W -= lr * (step + weight_decay * W)
        yield


def adan(
    W: Tensor, g: Callable, lr=1e-3, beta1=0.98, beta2=0.92, beta3=0.99, eps=1e-8, weight_decay=0.0
) -> Steps:
    m, d, v, t, before = *(torch.zeros_like(W) for _ in range(3)), 0, None
    while True:
        grad, t = g(), t + 1
        change = torch.zeros_like(W) if before is None else grad - before
        m = beta1 * m + (1 - beta1) * grad
        d = beta2 * d + (1 - beta2) * change
        v = beta3 * v + (1 - beta3) * (grad + beta2 * change) ** 2
        step = m / (1 - beta1**t) + beta2 * d / (1 - beta2**t)
        W -= lr * step / ((v / (1 - beta3**t)).sqrt() + eps)
        W /= 1 + lr * weight_decay
        before = grad
        yield


def lamb(
    W: Tensor, g: Callable, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.01
) -> Steps:
    m, v, t = torch.zeros_like(W), torch.zeros_like(W), 0
    while True:
        grad, t = g(), t + 1
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        step = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps) + weight_decay * W
        size, length = W.norm(), step.norm()
        W -= lr * (size / length if size > 0 and length > 0 else 1.0) * step
        yield


def signum(W: Tensor, g: Callable, lr=1e-4, beta=0.9, weight_decay=0.0) -> Steps:
    m = torch.zeros_like(W)
    while True:
        m = beta * m + (1 - beta) * g()
        W -= lr * (m.sign() + weight_decay * W)
        yield


def feature_momentum(
    W: Tensor, g: Callable, lr=1e-3, beta=0.9, scale=1.0, weight_decay=0.0
) -> Steps:
    m = torch.zeros_like(W)
    while True:
        m = beta * m + (scale * g()).tanh() / scale
        W -= lr * (m + weight_decay * W)
        yield


def preconditioned_momentum(
    W: Tensor, g: Callable, lr=1e-3, alpha=0.9, beta=0.999, eps=1e-8, weight_decay=0.0
) -> Steps:  # fmt: skip
    m, v, t = torch.zeros_like(W), torch.zeros_like(W), 0
    while True:
        grad, t = g(), t + 1
        v = beta * v + (1 - beta) * grad**2
        m = alpha * m + (1 - alpha) * grad / ((v / (1 - beta**t)).sqrt() + eps)
        W -= lr * (m + weight_decay * W)
        yield


PAPERS: dict[str, Callable[..., Steps]] = {
    f.__name__: f
    for f in (
        sgd, momentum, adam, adamw, lion, lookahead, nesterov, adagrad, rmsprop, nadam, radam, adamax,
        adabelief, ademamix, adan, lamb, signum, feature_momentum, preconditioned_momentum, muon, adamuon,
        shampoo, m3, m3_ema, delta_momentum, deep_momentum,
        cautious_adamw, mars, adafactor, adafactor_unfactored, soap, normuon,
        schedule_free,
    )
}  # fmt: skip
PAPERS["amsgrad"] = partial(adam, most=True)
