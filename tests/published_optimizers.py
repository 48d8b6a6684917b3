"""Published optimizers, written out step by step on one matrix in float64: what their specs must equal.

Each is given the weights, which it changes, and a function that gives the next gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import nlc

SEED = 5  # of what a rule draws
Steps = Iterator[None]


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


def quintic(X: Tensor, steps: int) -> Tensor:
    """Newton-Schulz in float32, on the wide side, as Muon's authors do it."""
    a, b, c = 3.4445, -4.7750, 2.0315
    X = X.float()
    X = X / (X.norm() + 1e-7)
    flat = X.shape[0] <= X.shape[1]
    X = X if flat else X.T
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return (X if flat else X.T).double()


def adamuon(
    W: Tensor, g: Callable, lr=1e-3, beta=0.95, eps=1e-8, steps=5, weight_decay=0.1, rest_lr=3e-4
) -> Steps:  # fmt: skip
    m, v = torch.zeros_like(W), torch.zeros_like(W)
    while True:
        m = beta * m + g()
        O = quintic(m.sign(), steps)
        v = beta * v + (1 - beta) * O**2
        step = O / (v.sqrt() + eps)
        W -= lr * (0.2 * math.sqrt(W.numel()) / max(step.norm(), eps) * step + weight_decay * W)
        yield


def root(A: Tensor, p: int, eps: float) -> Tensor:
    """A^(-1/p), eigenvalues at least eps times the largest."""
    values, vectors = torch.linalg.eigh(A)
    values = values.clamp(min=eps * values.max())
    return vectors @ torch.diag(values ** (-1 / p)) @ vectors.T


def shampoo(
    W: Tensor, g: Callable, lr=5e-2, eps=1e-4, f=10, weight_decay=0.0, rest_lr=3e-4
) -> Steps:  # fmt: skip
    L, R, t = torch.zeros_like(W @ W.T), torch.zeros_like(W.T @ W), 0
    while True:
        grad = g()
        L, R = L + grad @ grad.T, R + grad.T @ grad
        if t % f == 0:
            left, right = root(L, 4, eps), root(R, 4, eps)
        W *= 1 - lr * weight_decay
        W -= lr * left @ grad @ right
        t += 1
        yield


def delta_momentum(
    W: Tensor, g: Callable, lr=1e-2, eta=0.1, alpha=0.9, clip=1.0, rest_lr=3e-4
) -> Steps:
    m, one = torch.zeros_like(W), torch.eye(W.shape[1]).to(W)
    while True:
        key = g()
        key = key / max(key.norm() / clip, 1.0)
        m = m @ (alpha * one - eta * key.T @ key) + eta * key
        W -= lr * m
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


def deep_momentum(W: Tensor, g: Callable, lr=0.1, eta=1.0, alpha=0.99, rest_lr=3e-4) -> Steps:
    starts = [x.clone() for x in _first(W)]
    state = starts
    while True:
        grad = g()
        key = grad / max(grad.norm(), 1e-12)
        P = [x.detach().requires_grad_() for x in state]
        with torch.enable_grad():
            answer = torch.nn.functional.silu(key @ P[1].T) @ P[0].T
            slopes = torch.autograd.grad(0.5 * (answer + key).square().sum(), P)
        state = [s + alpha * (x - s) - eta * d for s, x, d in zip(starts, state, slopes)]
        W += lr * torch.nn.functional.silu(grad @ state[1].T) @ state[0].T
        yield


def _first(W: Tensor) -> list[Tensor]:
    """What the generated rule draws under the seed of the test."""
    torch.manual_seed(SEED)
    state = nlc.compile("deep_momentum").initial_state(W)
    return [state["m.W1"], state["m.W2"]]


PAPERS: dict[str, Callable[..., Steps]] = {
    f.__name__: f
    for f in (
        nesterov, adagrad, rmsprop, nadam, radam, adamax, adabelief, ademamix, adan, lamb, signum,
        adamuon, shampoo, delta_momentum, feature_momentum, preconditioned_momentum, deep_momentum,
    )
}  # fmt: skip
