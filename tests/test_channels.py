"""Functions of channels and of rows, in steps and in reads; lets and gradients of memories of several states."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from test_custom_specs import HEAD, State, _check, _slope
from torch import Tensor

import nlc


def test_softmax_and_l2norm_of_a_matrix_work_on_its_rows() -> None:
    """Both in an update and inside an inner gradient, against autograd's."""
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], v: [dv], eta: [], alpha: []}
levels:
  S:
    frequency: every token
    memory: matrix(dv, dk)
    key: k
    update: softmax(alpha * log(S) - eta * grad(0.5 * sqnorm(l2norm(softmax(S)) @ key - v), S))
    init: 1 / dk
output: S(q)
"""
    )

    def loss(S: Tensor, f: SimpleNamespace) -> Tensor:
        rows = S.softmax(-1)
        rows = rows / (rows.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        return 0.5 * (rows @ f.k - f.v).square().sum()

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        S = s["S"] if s["S"].requires_grad else s["S"].clone().requires_grad_()
        S = (f.alpha * S.log() - f.eta * _slope(lambda P: loss(P, f), S)).softmax(-1)
        return {"S": S}, S @ f.q

    _check(text, tick, fresh=True)


def test_a_read_of_products_of_channels_learns_in_front_of_them_too() -> None:
    """concat, flatten and slice have gradients: the weights W2 stand behind them."""
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], v: [dv], eta: []}
levels:
  M:
    frequency: every token
    memory:
      W1: [dv, dv + dv * dv]
      W2: [dv, dk]
      read(z): W1 @ concat(slice(W2 @ z, 0, dv), flatten(outer(W2 @ z, slice(concat(z, W2 @ z), dk, dk + dv))))
    objective: 0.5 * sqnorm(M(k) - v)
    rule: gd(lr=0.002 * eta)
output: M(q)
"""
    )

    def read(W1: Tensor, W2: Tensor, z: Tensor) -> Tensor:
        h = W2 @ z
        return W1 @ torch.cat([h, torch.outer(h, h).flatten()])

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        W1, W2 = s["M.W1"], s["M.W2"]
        loss = 0.5 * (read(W1, W2, f.k) - f.v).square().sum()
        by1, by2 = torch.autograd.grad(loss, (W1, W2), create_graph=True)
        W1, W2 = W1 - 0.002 * f.eta * by1, W2 - 0.002 * f.eta * by2
        return {"M.W1": W1, "M.W2": W2}, read(W1, W2, f.q)

    _check(text, tick)


def test_a_let_of_several_states_is_read_and_differentiated_by() -> None:
    """P = A / ‖A‖ᵣ over all of A's weights; the gradient is that by P, and a let of P is one too."""
    text = (
        HEAD
        + """
inputs: {q: [dk], k: [dk], v: [dv], eta: [], alpha: []}
let:
  P: A / norm(A, p=4)**2
  half: 0.5 * P
levels:
  A:
    frequency: every token
    memory: {W1: [dv, 5], W2: [5, dk], read(z): W1 @ tanh(W2 @ z)}
    update: alpha * A - eta * grad(lp(P(k) - v, 3), P)
output: P(q) + half(k)
"""
    )

    def kept(A: list[Tensor]) -> list[Tensor]:
        size = sum((w.abs() ** 4).sum() for w in A) ** (2 / 4)
        return [w / size for w in A]

    def read(P: list[Tensor], z: Tensor) -> Tensor:
        return P[0] @ (P[1] @ z).tanh()

    def tick(s: State, f: SimpleNamespace) -> tuple[State, Tensor]:
        A = [s["A.W1"], s["A.W2"]]
        P = kept(A)
        loss = ((read(P, f.k) - f.v).abs() ** 3).sum()
        slopes = torch.autograd.grad(loss, P, create_graph=True)
        A = [f.alpha * w - f.eta * g for w, g in zip(A, slopes, strict=True)]
        P = kept(A)
        out = read(P, f.q) + read([w / 2 for w in P], f.k)
        return {"A.W1": A[0], "A.W2": A[1]}, out

    _check(text, tick)


@pytest.mark.parametrize("function", ["l2norm", "softmax"])
def test_a_matrix_of_queries_has_no_rows_inside_a_read(function: str) -> None:
    """A read works on columns there, so the rows would be others than those that are read."""
    text = f"""
nlc: 1
system: rows
context: tokens
hyper: {{d: 3}}
inputs: {{w: [d], k: [d]}}
levels:
  M:
    frequency: every token
    memory: {{W: [d, d], read(z): W @ {function}(z)}}
    objective: 0.5 * sqnorm(M(outer(w, k)))
    rule: gd(lr=0.1)
    init: 0.1
output: M(k)
"""
    assert [d.code for d in nlc.loads(text).check().diagnostics] == ["NLC301"]
