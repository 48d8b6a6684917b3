"""Newton-Schulz as optimizers have it: nearly all of a step that orthogonalises, so with the fewest multiplications.

Every product but the last by X is a polynomial of G = X Xᵀ and therefore symmetric, so that of each a half can be
mirrored. And since X' = Q X with Q = a + b G + c G² gives G' = Q² G, several iterations of a matrix that is much longer
than wide need X only at their end. What that costs is precision: small singular values stand in G squared, and an
error of G there grows by Q², by a² at most. It may take the bits that float32 has beyond bfloat16, in which such steps
are mostly computed; how much it takes is measured in ``tests/test_polar.py``. In half precision it is one iteration.
"""

from __future__ import annotations

TEXTS: dict[str, str] = {
    "symmetric": '''
ROWS = 128  # of a symmetric product at a time
APART = 16  # elements between rows, which a cache would keep in the same few places otherwise


def symmetric(
    A: Tensor, B: Tensor, C: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0
) -> Tensor:
    """β C + α A B of stacks of matrices, where that is symmetric: on a CPU half is mirrored."""
    count, size = A.shape[:2]
    plain = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")  # takes no out=
    if plain or A.requires_grad or A.device.type != "cpu" or size <= 2 * ROWS:
        return A @ B if C is None else torch.baddbmm(C, A, B, beta=beta, alpha=alpha)
    out = A.new_empty(count, size, size + APART)[:, :, :size]
    for i in range(0, size, ROWS):
        j = min(i + ROWS, size)
        part = out[:, i:j, i:]
        made = part if count == 1 else A.new_empty(part.shape)  # a batch is made in one piece
        if C is None:
            torch.bmm(A[:, i:j], B[:, :, i:], out=made)
        else:
            terms = C[:, i:j, i:], A[:, i:j], B[:, :, i:]
            torch.baddbmm(*terms, beta=beta, alpha=alpha, out=made)
        if made is not part:
            part.copy_(made)
        if j < size:
            out[:, j:, i:j] = made[:, :, j - i :].mT
    return out
''',
    "newton_schulz": '''
SPARE = 16  # bits of float32 beyond bfloat16's, which errors of G may take


def newton_schulz(
    A: Tensor<apart: | Matrices>,
    steps: int,
    coefficients: tuple[float, float, float],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A [..., m, n] towards its polar factor: X ← Q X, Q = a + b G + c G², G = X Xᵀ, from A / ‖A‖.

    A long X is multiplied once in several iterations, by the product P of their Q, as G becomes
    Q² G, so that its errors grow by a². Not in half precision, nor where a graph is kept.
    """
    A = A if isinstance(A, Tensor) else torch.stack(A)  #? apart
    a, b, c = coefficients
    dtype = dtype or A.dtype
    exact = torch.finfo(dtype).bits >= 32 and not A.requires_grad and steps > 0
    norm = torch.linalg.matrix_norm(A, keepdim=True).clamp(min=1e-7)
    X = A if exact else A / norm  # which G and P are divided by instead, as they are smaller
    shape = X.shape
    X = X.reshape(math.prod(shape[:-2]), *shape[-2:]).to(dtype)
    tall = shape[-2] > shape[-1]
    rows, columns = min(shape[-2:]), max(shape[-2:])
    most = 1 + int(SPARE / 2 / math.log2(max(a, 2.0)))
    together = most if exact and 2 * columns > 3 * rows else 1

    def polynomial(G: Tensor) -> Tensor:
        Q = symmetric(G, G, G, b, c) if c else b * G
        Q.diagonal(dim1=-2, dim2=-1).add_(a)
        return Q

    for done in range(0, steps, together):
        G = symmetric(X.mT, X) if tall else symmetric(X, X.mT)  # the smaller of the two
        scale = norm.reshape(-1, 1, 1).to(dtype) if exact and done == 0 else None
        P = Q = polynomial(G if scale is None else G.div_(scale * scale))
        for _ in range(done + 1, min(done + together, steps)):
            G = symmetric(Q, symmetric(Q, G))
            Q = polynomial(G)
            P = symmetric(Q, P)
        P = P if scale is None else P / scale
        X = X @ P if tall else P @ X
    return X.view(shape).to(A.dtype)
''',
}
