"""What each operator means, written once more: in torch, for the interpreter, from the definition and nothing else.

A value is a tensor ``[*lead, *dims]``: the first ``lead`` axes (batch and head; none in a gradient system) broadcast,
the others are its own. Nothing here comes from the printers, the gradients or the shapes of ``ir/ops``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

EPS = 1e-6  # inside the root of rmsnorm and layernorm

Operation = Callable[..., Tensor]


def aligned(lead: int, *values: Tensor) -> list[Tensor]:
    """Values of one rank: a scalar stands for every element of a vector, a matrix or a trained tensor."""
    rank = max(v.ndim for v in values)
    return [v.reshape([*v.shape, *[1] * (rank - v.ndim)]) for v in values]


def own_axes(lead: int, x: Tensor) -> tuple[int, ...]:
    """The axes of the value itself, which reductions run over."""
    return tuple(range(lead, x.ndim))


def _elementwise(f: Callable[..., Tensor]) -> Operation:
    return lambda lead, *xs: f(*aligned(lead, *xs))


def _reduction(f: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Operation:
    return lambda lead, x: f(x, own_axes(lead, x)) if x.ndim > lead else f(x[..., None], (lead,))


def _sum(lead: int, x: Tensor) -> Tensor:
    return x.sum(own_axes(lead, x)) if x.ndim > lead else x


def _dot(lead: int, a: Tensor, b: Tensor) -> Tensor:
    return _sum(lead, a * b)


def _mean(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.mean(axes)


def _numel(lead: int, x: Tensor) -> Tensor:
    return x.new_full([1] * lead, float(math.prod(x.shape[lead:])))


def _norm(lead: int, x: Tensor, p: Tensor) -> Tensor:
    if x.ndim == lead:
        return x.abs()
    order = p.flatten()[0].item()
    return torch.linalg.vector_norm(x, order, own_axes(lead, x))


def matmul(lead: int, a: Tensor, b: Tensor) -> Tensor:
    left, right = a.ndim - lead, b.ndim - lead
    if right == 1:
        return (a * b[..., None, :]).sum(-1)
    if left == 1:
        return (a[..., :, None] * b).sum(-2)
    return a @ b


def _outer(lead: int, a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]


def _l2norm(lead: int, x: Tensor, eps: Tensor) -> Tensor:
    square, eps = aligned(lead, x.square().sum(-1, keepdim=True), eps)
    return x / (square + eps).sqrt()


def _concat(lead: int, *parts: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(*(x.shape[:lead] for x in parts))
    return torch.cat([x.expand(*shape, -1) for x in parts], -1)


def _rmsnorm(lead: int, x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()


def _layernorm(lead: int, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return weight * centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt() + bias


def _rotary(lead: int, x: Tensor, position: Tensor, base: Tensor) -> Tensor:
    """The pair (i, i + n/2) as a complex number, turned by position · base^(-2i/n)."""
    n = x.shape[-1]
    turn = base[..., None] ** (-2 * torch.arange(n // 2).to(x) / n)
    angle = position[..., None] * turn
    turned = torch.complex(x[..., : n // 2], x[..., n // 2 :]) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat([turned.real, turned.imag], -1)


def _linear(lead: int, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    return sum(bias, matmul(lead, weight, x))


def _inv_root(lead: int, A: Tensor, p: Tensor, eps: Tensor) -> Tensor:
    """V diag(λ^(-1/p)) Vᵀ of a symmetric A, its eigenvalues λ at least eps times the largest."""
    values, V = torch.linalg.eigh(A)
    kept = torch.maximum(values, eps[..., None] * values.amax(-1, keepdim=True))
    return V @ torch.diag_embed(kept ** (-1 / p[..., None])) @ V.mT


def _eigh_basis(lead: int, A: Tensor) -> Tensor:
    """Eigenvectors as columns, by falling eigenvalue, each turned so that its first large element is positive."""
    values, V = torch.linalg.eigh(A)
    V = V.take_along_dim(values.argsort(dim=-1, descending=True, stable=True)[..., None, :], -1)
    large = V.abs() >= 0.9 * V.abs().amax(-2, keepdim=True)
    first = large & (large.cumsum(-2) == 1)
    return V * torch.where(first, V, 0.0).sum(-2, keepdim=True).sign()


def _qr(lead: int, A: Tensor) -> Tensor:
    """Orthonormal columns (rows, if A is wide), each turned towards that of A: R's diagonal is Qᵀ A's."""
    wide = A.shape[-2] < A.shape[-1]
    A = A.mT if wide else A
    Q = torch.linalg.qr(A).Q
    Q = torch.where((Q * A).sum(-2, keepdim=True) < 0, -Q, Q)
    return Q.mT if wide else Q


OPERATIONS: dict[str, Operation] = {
    "neg": _elementwise(torch.neg),
    "add": _elementwise(torch.add),
    "sub": _elementwise(torch.sub),
    "mul": _elementwise(torch.mul),
    "div": _elementwise(torch.div),
    "pow": _elementwise(torch.pow),
    "exp": _elementwise(torch.exp),
    "expm1": _elementwise(torch.expm1),
    "log": _elementwise(torch.log),
    "sqrt": _elementwise(torch.sqrt),
    "abs": _elementwise(torch.abs),
    "sign": _elementwise(torch.sign),
    "tanh": _elementwise(torch.tanh),
    "erf": _elementwise(torch.erf),
    "sigmoid": _elementwise(torch.sigmoid),
    "silu": _elementwise(lambda x: x * torch.sigmoid(x)),
    "gelu": _elementwise(lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2),
    "relu": _elementwise(lambda x: x * (x > 0)),
    "softplus": _elementwise(lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "maximum": _elementwise(torch.maximum),
    "minimum": _elementwise(torch.minimum),
    "clip": _elementwise(lambda x, low, high: torch.minimum(torch.maximum(x, low), high)),
    "where": _elementwise(lambda c, a, b: torch.where(c != 0, a, b)),
    "eq": _elementwise(torch.eq),
    "ne": _elementwise(torch.ne),
    "lt": _elementwise(torch.lt),
    "le": _elementwise(torch.le),
    "gt": _elementwise(torch.gt),
    "ge": _elementwise(torch.ge),
    "sum": _sum,
    "mean": _reduction(_mean),
    "numel": _numel,
    "amax": _reduction(torch.amax),
    "amin": _reduction(torch.amin),
    "dot": _dot,
    "sqnorm": lambda lead, x: _dot(lead, x, x),
    "norm": _norm,
    "zeros": lambda lead, x: torch.zeros_like(x),
    "ones": lambda lead, x: torch.ones_like(x),
    "matmul": matmul,
    "T": lambda lead, x: x.mT,
    "outer": _outer,
    "per_key": lambda lead, x: x[..., None, :],
    "per_value": lambda lead, x: x[..., :, None],
    "sum_rows": lambda lead, x: x.sum(-2),
    "sum_cols": lambda lead, x: x.sum(-1),
    "squeeze": lambda lead, x: x[..., 0],
    "unsqueeze": lambda lead, x: x[..., None],
    "nrows": lambda lead, x: x.new_full([1] * lead, float(x.shape[-2])),
    "ncols": lambda lead, x: x.new_full([1] * lead, float(x.shape[-1])),
    "inv_root": _inv_root,
    "eigh_basis": _eigh_basis,
    "qr": _qr,
    "diag": lambda lead, x: x[..., :, None] * torch.eye(x.shape[-1]).to(x),
    "diagonal": lambda lead, x: (x * torch.eye(x.shape[-1]).to(x)).sum(-1),
    "identity": lambda lead, A: torch.eye(A.shape[-1], dtype=A.dtype).expand_as(A),
    "softmax": lambda lead, x: x.softmax(-1),
    "l2norm": _l2norm,
    "rmsnorm": _rmsnorm,
    "layernorm": _layernorm,
    "rotary": _rotary,
    "concat": _concat,
    "flatten": lambda lead, x: x.flatten(-2),
    "linear": _linear,
    "embedding": lambda lead, x, weight: weight.reshape(weight.shape[-2:])[x.long()],
    "stop": lambda lead, x: x.detach(),
}


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s + x * s * (1 - s)


def _gelu_slope(x: Tensor) -> Tensor:
    pdf = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return (1 + torch.erf(x / math.sqrt(2))) / 2 + x * pdf


SLOPES: dict[str, Callable[[Tensor], Tensor]] = {"silu": _silu_slope, "gelu": _gelu_slope}
