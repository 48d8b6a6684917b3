"""Newton-Schulz as optimizers have it: nearly all of Muon's step, so with the fewest multiplications.

Every product but the last by X is a polynomial of G = X Xᵀ and therefore symmetric, so that of each a half can be
mirrored. And since X' = Q X with Q = a + b G + c G² gives G' = Q² G, several iterations of a matrix that is much longer
than wide need X only at their end. What that costs is precision: small singular values stand in G squared. Three
iterations are as exact in float32 as the definition, five lose a digit and a half where singular values fall far
(``tests/test_polar.py``). In half precision that begins with two, so there it is one.
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
    if A.requires_grad or A.device.type != "cpu" or size <= 2 * ROWS:
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
        out[:, j:, i:j] = made[:, :, j - i :].mT
    return out
''',
    "newton_schulz": '''
TOGETHER = 3  # iterations of a long matrix between products with it; more would square away digits


def newton_schulz(
    A: Tensor,
    steps: int,
    coefficients: tuple[float, float, float],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A [..., m, n] towards its polar factor: X ← Q X, Q = a + b G + c G², G = X Xᵀ, from A / ‖A‖.

    A long X is multiplied once in ``TOGETHER`` iterations, by the product P of their Q, as G
    becomes Q² G. Not in half precision, nor where a graph is kept.
    """
    a, b, c = coefficients
    X = A / torch.linalg.matrix_norm(A, keepdim=True).clamp(min=1e-7)
    shape, X = X.shape, X.reshape(-1, *X.shape[-2:]).to(dtype or A.dtype)
    tall = shape[-2] > shape[-1]
    rows, columns = sorted(shape[-2:])
    exact = torch.finfo(X.dtype).bits >= 32 and not X.requires_grad
    together = TOGETHER if exact and 2 * columns > 3 * rows else 1
    for done in range(0, steps, together):
        G = symmetric(X.mT, X) if tall else symmetric(X, X.mT)  # the smaller of the two
        P = symmetric(G, G, G, b, c) if c else b * G
        if together == 1:
            terms = (X, P) if tall else (P, X)
            X = torch.baddbmm(X, *terms, beta=a)
            continue
        P.diagonal(dim1=-2, dim2=-1).add_(a)
        Q = P
        for _ in range(done + 1, min(done + together, steps)):
            G = symmetric(Q, symmetric(Q, G))
            Q = symmetric(G, G, G, b, c) if c else b * G
            Q.diagonal(dim1=-2, dim2=-1).add_(a)
            P = symmetric(Q, P)
        for x in X.split(rows, 1 if tall else 2):  # by way of G, as new memory takes time
            terms = (x, P) if tall else (P, x)
            x.copy_(torch.bmm(*terms, out=G[:, : x.shape[1], : x.shape[2]]))
    return X.view(shape).to(A.dtype)
''',
}
