"""Published optimizers that take a gradient as a matrix, written out in float64: what their specs must equal.

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


def quintic(X: Tensor, steps: int) -> Tensor:
    """Newton-Schulz on the wide side, as Muon's authors do it."""
    a, b, c = 3.4445, -4.7750, 2.0315
    X = X / X.norm().clamp(min=1e-7)
    flat = X.shape[0] <= X.shape[1]
    X = X if flat else X.T
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X if flat else X.T


def muon(
    W: Tensor,
    g: Callable,
    lr=1e-3,
    beta=0.95,
    nesterov=True,
    steps=5,
    weight_decay=0.1,
    match_rms=False,
    rest_lr=3e-4,
) -> Steps:
    m, (rows, cols) = torch.zeros_like(W), W.shape
    scale = 0.2 * math.sqrt(max(rows, cols)) if match_rms else math.sqrt(max(1, rows / cols))
    while True:
        grad = g()
        m = beta * m + (1 - beta) * grad
        step = quintic(beta * m + (1 - beta) * grad if nesterov else m, steps)
        W *= 1 - lr * weight_decay
        W -= lr * scale * step
        yield


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


def m3(
    W: Tensor,
    g: Callable,
    lr=1e-5,
    beta1=0.1,
    beta2=0.01,
    beta3=0.1,
    alpha=0.5,
    eps=1e-8,
    eps_inside=True,
    f=8,
    steps=5,
    rest_lr=3e-4,
) -> Steps:
    """Algorithm 1 of Nested Learning, as printed."""
    M1, M2, V, O2, last = *(torch.zeros_like(W) for _ in range(4)), []
    while True:
        grad = g()
        last.append(grad)
        M1, V = M1 + beta1 * grad, V + beta2 * grad**2
        root = (V + eps).sqrt() if eps_inside else V.sqrt() + eps
        W -= lr * (quintic(M1, steps) + alpha * O2) / root
        if len(last) == f:
            M2, last = M2 + beta3 * sum(last), []
            O2 = quintic(M2, steps)
        yield


def m3_ema(
    W: Tensor,
    g: Callable,
    lr=0.03,
    beta1=0.8,
    beta2=0.99,
    beta3=0.5,
    alpha=0.5,
    f=8,
    steps=5,
    eps=1e-8,
    weight_decay=0.0,
    rest_lr=3e-3,
) -> Steps:
    """The same with momenta that decay, and V that of the orthogonal step, as the spec's doc says."""
    M1, M2, V, O2, last, t = *(torch.zeros_like(W) for _ in range(4)), [], 0
    while True:
        grad, t = g(), t + 1
        last.append(grad)
        M1 = beta1 * M1 + (1 - beta1) * grad
        O = quintic(beta1 * M1 + (1 - beta1) * grad, steps) + alpha * O2
        V = beta2 * V + (1 - beta2) * O**2
        step = O / ((V / (1 - beta2**t)).sqrt() + eps) / W.shape[1] ** 0.5
        W -= lr * weight_decay * W + lr * step
        if len(last) == f:
            M2, last = beta3 * M2 + (1 - beta3) * sum(last), []
            O2 = quintic(M2, steps)
        yield
