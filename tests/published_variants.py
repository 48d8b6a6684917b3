"""Variants of Adam and Muon, written out step by step on one matrix in float64: see `published_optimizers`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from published_matrices import Steps
from torch import Tensor


def cautious_adamw(
    W: Tensor, g: Callable, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0
) -> Steps:
    m, v, t = torch.zeros_like(W), torch.zeros_like(W), 0
    while True:
        grad, t = g(), t + 1
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        u = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps)
        agree = (u * grad) > 0
        raised = W.numel() / (agree.sum().item() + 1)
        W *= 1 - lr * weight_decay
        W[agree] -= lr * raised * u[agree]
        yield


def mars(
    W: Tensor,
    g: Callable,
    lr=3e-3,
    beta1=0.95,
    beta2=0.99,
    gamma=0.025,
    eps=1e-8,
    weight_decay=0.0,
) -> Steps:
    m, v, last, t = torch.zeros_like(W), torch.zeros_like(W), torch.zeros_like(W), 0
    while True:
        grad, t = g(), t + 1
        c = grad + gamma * beta1 / (1 - beta1) * (grad - last)
        c, last = c / c.norm().clamp(min=1), grad
        m = beta1 * m + (1 - beta1) * c
        v = beta2 * v + (1 - beta2) * c**2
        u = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps)
        W -= lr * (u + weight_decay * W)
        yield


def adafactor(
    W: Tensor,
    g: Callable,
    lr=1e-2,
    decay=0.8,
    eps1=1e-30,
    eps2=1e-3,
    clip=1.0,
    weight_decay=0.0,
    factored=True,
) -> Steps:
    rows, cols, v, t = W.new_zeros(len(W)), W.new_zeros(W.shape[1]), torch.zeros_like(W), 0
    while True:
        square, t = (grad := g()) ** 2 + eps1, t + 1
        beta = 1 - t**-decay
        rows = beta * rows + (1 - beta) * square.sum(1)
        cols = beta * cols + (1 - beta) * square.sum(0)
        v = rows[:, None] * cols / rows.sum() if factored else beta * v + (1 - beta) * square
        u = grad / v.sqrt()
        u = u / max(1.0, u.square().mean().sqrt().item() / clip)
        size = max(eps2, W.square().mean().sqrt().item()) * min(lr, t**-0.5)
        W *= 1 - lr * weight_decay
        W -= size * u
        yield


def adafactor_unfactored(W: Tensor, g: Callable, **hypers: float) -> Steps:
    return adafactor(W, g, factored=False, **hypers)


def soap(
    W: Tensor,
    g: Callable,
    lr=3e-3,
    beta1=0.95,
    beta2=0.95,
    eps=1e-8,
    f=10,
    weight_decay=0.0,
    rest_lr=1e-3,
) -> Steps:
    """Bases are only known up to the signs of their vectors, and no step depends on those."""
    m, v = torch.zeros_like(W), torch.zeros_like(W)
    first = g()
    L, R = (1 - beta2) * first @ first.T, (1 - beta2) * first.T @ first
    P, Q = (torch.linalg.eigh(A).eigenvectors.flip(1) for A in (L, R))  # the largest first
    yield
    t = 1
    while True:
        if t % f == 0:
            P, Q = torch.linalg.qr(L @ P).Q, torch.linalg.qr(R @ Q).Q
        grad = g()
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * (P.T @ grad @ Q) ** 2
        turned = P.T @ m @ Q / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps)
        W -= lr * (P @ turned @ Q.T + weight_decay * W)
        L = beta2 * L + (1 - beta2) * grad @ grad.T
        R = beta2 * R + (1 - beta2) * grad.T @ grad
        t += 1
        yield


def schedule_free(
    W: Tensor, g: Callable, lr=2.5e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0
) -> Steps:
    """W is where gradients are taken; yields the mean x, which is evaluated."""
    z, x, v, weights, t = W.clone(), W.clone(), torch.zeros_like(W), 0.0, 0
    while True:
        grad, t, weights = g(), t + 1, weights + lr**2
        v = beta2 * v + (1 - beta2) * grad**2
        z = z - lr * (grad / ((v / (1 - beta2**t)).sqrt() + eps) + weight_decay * W)
        c = lr**2 / weights
        x = (1 - c) * x + c * z
        W.copy_((1 - beta1) * z + beta1 * x)
        yield x


def normuon(
    W: Tensor,
    g: Callable,
    lr=1e-3,
    beta1=0.95,
    beta2=0.95,
    eps=1e-8,
    steps=5,
    weight_decay=0.0,
    rest_lr=1e-3,
) -> Steps:
    m, v = torch.zeros_like(W), W.new_zeros(len(W), 1)
    while True:
        m = beta1 * m + (1 - beta1) * g()
        O = m / m.norm()
        for _ in range(steps):
            A = O @ O.T
            O = 3.4445 * O - 4.7750 * A @ O + 2.0315 * A @ A @ O
        v = beta2 * v + (1 - beta2) * O.square().mean(1, keepdim=True)
        u = O / (v.sqrt() + eps)
        W *= 1 - lr * weight_decay
        W -= 0.2 * lr * W.numel() ** 0.5 / u.norm().clamp(min=1e-12) * u
        yield
