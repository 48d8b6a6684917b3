"""Bases, diagonals and numbers as channels, against torch.linalg in float64: batched, per head, in half precision."""

from __future__ import annotations

import pytest
import torch
from test_matrices import GRADIENTS, _flows, _near, _run, _tokens
from torch import Tensor

import nlc
from nlc.base.diagnostics import SpecError
from nlc.pipeline import EXACT


def test_a_basis_of_eigenvectors_falls_with_the_eigenvalues() -> None:
    basis, _, S = _run("eigh_basis(S)", "[m, m]")
    _near(basis.mT @ basis, torch.eye(4).double().expand_as(S))
    values = (basis.mT @ S @ basis).diagonal(dim1=-2, dim2=-1)
    _near(values, torch.linalg.eigvalsh(S).flip(-1))
    _near(basis * values.unsqueeze(-2), S @ basis)


@pytest.mark.parametrize("backend", EXACT)
def test_the_sign_of_an_eigenvector_is_told(backend: str) -> None:
    """Also where two elements are of one size but for rounding, as in [[2, 1], [1, 2]]: the first is positive."""
    net = _tokens("eigh_basis(A @ A.T)", "[m, m]").compile(backend)().double()
    square, root = torch.diag(torch.tensor([2.0, 2, 5, 7]).double()), 0.5**0.5
    square[0, 1] = square[1, 0] = 1
    expected = torch.tensor(
        [[0, 0, root, root], [0, 0, root, -root], [0, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.float64
    )
    for turn in (0.0, 1e-15, -1e-15):
        A = torch.zeros(4, 6).double()
        A[:, :4] = torch.linalg.cholesky(square) * (1 + turn * torch.arange(4.0))
        y, _ = net(**{**_flows(1, 1), "A": A.expand(1, 1, 2, 4, 6)})
        _near(y[0, 0, 0], expected)


@pytest.mark.parametrize("tall", [True, False])
def test_a_factor_is_torch_s_with_a_positive_diagonal(tall: bool) -> None:
    """Of a wide matrix that of its transpose: A = L Q."""
    y, flows, _ = _run(f"qr({'A.T' if tall else 'A'})", "[n, m]" if tall else "[m, n]")
    A, Q = flows["A"].mT, y if tall else y.mT
    R = Q.mT @ A
    _near(Q.mT @ Q, torch.eye(4).double().expand_as(R))
    _near(Q @ R, A)
    assert R.tril(-1).abs().max() < 1e-12 and (R.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_half_precision_is_decomposed_in_single_precision() -> None:
    made = nlc.loads(GRADIENTS.replace("STEP", "eigh_basis(g @ g.T) @ g + qr(g)"))
    W = torch.zeros(3, 5, dtype=torch.bfloat16, requires_grad=True)
    W.grad = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).bfloat16()
    made.compile()([W]).step()
    assert W.dtype == torch.bfloat16 and W.isfinite().all() and W.any()


def test_the_outer_gradient_passes_through_a_basis() -> None:
    net = _tokens("eigh_basis(S) @ v + qr(S) @ q", "[m]").compile()().double()
    with torch.no_grad():
        net.S.init.copy_(torch.diag(torch.arange(1.0, 5)))
    flows = _flows(1, 2)
    A = flows["A"].requires_grad_()
    assert torch.autograd.gradcheck(lambda A: net(**{**flows, "A": A})[0], A, atol=1e-4)


@pytest.mark.parametrize("name", ["eigh_basis", "qr"])
def test_no_objective_is_differentiated_through_a_basis(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        _tokens("S", "[m, m]", f"sum({name}(S))").compile()
    assert [d.code for d in caught.value.report.diagnostics] == ["NLC501"]


@pytest.mark.parametrize(
    ("objective", "loss"),
    [
        ("sqnorm(S @ diag(v) + diag(q) - S)", lambda S, v, q: S @ torch.diag(v) + torch.diag(q) - S),
        ("sqnorm(diagonal(S) * v - q)", lambda S, v, q: S.diagonal() * v - q),
        ("sqnorm(diag(S @ v) @ S)", lambda S, v, q: torch.diag(S @ v) @ S),
        ("sqnorm(concat(S @ v, dot(v, S @ q)))", lambda S, v, q: torch.cat([S @ v, v[None] @ S @ q])),
        ("sqnorm(concat(2, S @ v) - concat(S @ q, 1))",
         lambda S, v, q: torch.cat([2 * torch.ones_like(v[:1]), S @ v]) - torch.cat([S @ q, torch.ones_like(v[:1])])),
    ],
)  # fmt: skip
@pytest.mark.parametrize("backend", EXACT)
def test_diagonals_and_numbers_have_autograd_s_gradient(
    objective: str, loss: object, backend: str
) -> None:
    net, flows = _tokens("S", "[m, m]", objective).compile(backend)().double(), _flows(1, 1)
    start = 3 * torch.eye(4).double() + torch.arange(16.0).reshape(4, 4).double() / 16
    with torch.no_grad():
        net.S.init.copy_(start)
    y, _ = net(**flows)
    for head in range(2):
        S = start.clone().requires_grad_()
        value = loss(S, *(flows[k][0, 0, head] for k in "vq")).square().sum()
        (slope,) = torch.autograd.grad(value, S)
        assert slope.norm() > 1e-3
        _near(y[0, 0, head], start - 0.1 * slope)


def test_a_number_is_one_channel_beside_a_vector() -> None:
    y, flows, _ = _run("concat(concat(p, v), concat(1, A.T @ q))", "[m + n + 2]")
    one = torch.ones_like(flows["p"])[..., None]
    read = (flows["A"].mT @ flows["q"][..., None]).squeeze(-1)
    _near(y, torch.cat([flows["p"][..., None], flows["v"], one, read], -1))


def test_two_numbers_are_no_vector() -> None:
    with pytest.raises(SpecError, match=r"a vector is needed, this is a scalar"):
        _tokens("sum(concat(p, 1))", "[]").compile()


@pytest.mark.parametrize("text", ["diag(S)", "diagonal(A)", "eigh_basis(A)", "diag(p)", "qr(v)"])
def test_shapes_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        _tokens(f"sum({text})", "[]").compile()
    assert {d.code for d in caught.value.report.diagnostics} == {"NLC301"}


def _span(Q: Tensor) -> Tensor:
    return Q @ Q.mT


def test_power_steps_find_the_leading_subspace() -> None:
    """Orthogonal iteration, Q ← qr(A Q), as a level: after many steps it spans the leading eigenvectors."""
    net = nlc.loads(
        "nlc: 1\nsystem: iteration\ncontext: tokens\nhyper: {m: 5, r: 2}\ninputs: {A: [m, m]}\n"
        "outputs: {y: [m, r]}\nlevels:\n  Q:\n    frequency: every token\n    memory: matrix(m, r)\n"
        "    init: learned\n    update: qr(A @ Q)\noutput:\n  y: Q\n"
    ).compile()()
    net.double()
    with torch.no_grad():
        net.Q.init.copy_(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))
    root = torch.randn(5, 5, generator=torch.Generator().manual_seed(1)).double()
    A = root @ root.mT
    y, _ = net(A.expand(1, 200, 5, 5))
    leading = torch.linalg.eigh(A).eigenvectors[:, -2:]
    _near(_span(y[0, -1]), _span(leading), 1e-8)
