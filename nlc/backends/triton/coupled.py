"""Several coupled states, or one whose decay has a sign, as Triton kernels: scans, reads, and what is behind them.

    X^s_t = Σ_l A_t[s, l] X^l_{t−1} + (u^s_t − b^s_t z_t) k_tᵀ,        z_t = X^source_{t−1} p_t

The products of A within a chunk are PyTorch's, and so is their gradient: kept[s, j, t, i] is what of write j at token i
is in state s at token t, begun[s, l, t] what of state l before the chunk. The rows r^j = u^j − b^j z that are written
make z = Σ_j seen_j r^j + what the chunk began with, seen_j[t, i] = p_t·k_i kept[source, j, t−1, i], so that with one
inverse of I + Σ_j seen_j Diag(b^j) a chunk is done. With g_j the slopes by the rows, y that by z and dS_j that by
seen_j: y = −Σ_j b^j g_j, g_j = what comes from behind + seen_jᵀ y, dS_j = y r^jᵀ.
"""

from __future__ import annotations

from itertools import product

from nlc.backends.torch.scans import select
from nlc.backends.triton.forms import packed

_CHUNK = """
COUPLED_CHUNK = 32  # tokens of a chunk of coupled states
"""

_CONFIG = """
# Of each kind of kernel of coupled states: channels of dv that a program holds, warps, stages.
COUPLED_CONFIG = {
    "solve": (64, 4, 1),
    "scan": (32, 8, 2),
    "out": (64, 4, 1),
    "scan_back": (32, 8, 2),
    "out_back": (64, 8, 1),
    "grads": (64, 8, 1),
    "erase_grads": (64, 8, 1),
}
"""

_PRODUCTS = '''
def products(A: Tensor) -> tuple[Tensor, Tensor]:
    """Products of decays [..., T, states, states] in chunks.

    What of write j at token i and of state l before the chunk is in state s at token t, as
    [..., chunks, s, j, t, i] and [..., chunks, s, l, t].
    """
    A, T, p = A.float(), A.shape[-3], A.shape[-1]
    C = min(COUPLED_CHUNK, max(16, triton.next_power_of_2(T)))
    one = torch.eye(p, dtype=A.dtype, device=A.device)
    A = torch.cat([A, one.expand(*A.shape[:-3], -T % C, p, p)], -3)
    kept, first = propagation(A.unflatten(-3, (-1, C)))
    kept = kept.movedim((-3, -1, -4, -2), (-4, -3, -2, -1))
    return kept.contiguous(), first.movedim(-3, -1).contiguous()
'''

_SIZES = '''
def coupled_sizes(kind: str, states: int, dk: int, dv: int, C: int) -> dict[str, int]:
    """How a kernel of a kind runs at a size."""
    held, warps, stages = COUPLED_CONFIG[kind]
    BK = width(dk, 256)
    if states * BK > 256 and kind in ("scan", "out", "scan_back"):
        held //= 2
    BV = width(dv, held)
    sizes = dict(STATES=states, DK=dk, DV=dv, BK=BK, BV=BV, C=C)
    return sizes | dict(num_warps=warps, num_stages=stages)
'''

_LOADS = {
    "load_flow": '''
@triton.jit
def load_flow(x, token, channel, at, T, size: tl.constexpr):
    """Rows of tokens."""
    x, there = flow(x, token, channel, at, T, size)
    return tl.load(x, mask=there, other=0.0)
''',
    "store_flow": '''
@triton.jit
def store_flow(x, value, token, channel, at, T, size: tl.constexpr):
    """Rows of tokens, written."""
    x, there = flow(x, token, channel, at, T, size)
    tl.store(x, value.to(x.dtype.element_ty), mask=there)
''',
    "load_columns": '''
@triton.jit
def load_columns(x, channel, token, at, T, size: tl.constexpr):
    """Tokens as columns."""
    there = (channel < size)[:, None] & (token < T)[None, :]
    return tl.load(x + channel[:, None] + token[None, :] * at, mask=there, other=0.0)
''',
    "store_columns": '''
@triton.jit
def store_columns(x, value, channel, token, at, T, size: tl.constexpr):
    """Tokens as columns, written."""
    there = (channel < size)[:, None] & (token < T)[None, :]
    x += channel[:, None] + token[None, :] * at
    tl.store(x, value.to(x.dtype.element_ty), mask=there)
''',
    "load_block": '''
@triton.jit
def load_block(x, d, v, at_v, at_d, DK: tl.constexpr, DV: tl.constexpr):
    """A block of the transpose of a state."""
    x, there = block(x, d, v, at_v, at_d, DK, DV)
    return tl.load(x, mask=there, other=0.0)
''',
    "store_block": '''
@triton.jit
def store_block(x, value, d, v, DK: tl.constexpr, DV: tl.constexpr):
    """A block of the transpose of a state, written."""
    x, there = block(x, d, v, DK, 1, DK, DV)
    tl.store(x, value.to(x.dtype.element_ty), mask=there)
''',
}

_TOKEN_BEFORE = '''
@triton.jit
def token_before(begun, i, alone):
    """What of a state before the chunk is in another, one token earlier."""
    return tl.where(i > 0, tl.load(begun + i - 1, mask=i > 0, other=0.0), alone)
'''

_SOLVE = '''
@triton.jit
def NAME_solve(
    k, u, b, p, kept, inverse, given, T, H, k_x, k_h, k_t, u_x, u_h, u_t, u_j, p_x, p_h, p_t,
    SOURCE: tl.constexpr, STATES: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """(I + L)^-1 of a chunk, L = Σ_j seen_j Diag(b_j), and z if the chunk began with zeros."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i
    x, head = n // H, n % H
    K = load_flow(k + x * k_x + head * k_h, t, d, k_t, T, DK).to(DOT)
    P = load_flow(p + x * p_x + head * p_h, t, d, p_t, T, DK).to(DOT)
    A = tl.dot(P, tl.trans(K), input_precision=PRECISION)
    below = i[:, None] > i[None, :]
    kept += (m * STATES + SOURCE) * STATES * C * C + (i[:, None] - 1) * C + i[None, :]
    L = tl.zeros([C, C], tl.float32)
    S = ()
    for j in tl.static_range(STATES):
        seen = A * tl.load(kept + j * C * C, mask=below, other=0.0)
        L += seen * tl.load(b + (n * T + t) * STATES + j, mask=t < T, other=0.0)[None, :]
        S += (seen.to(DOT),)
    X = inverse_of(L, C, PRECISION)
    at = inverse + m * C * C + i[:, None] * C + i[None, :]
    tl.store(at, X.to(inverse.dtype.element_ty))
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        Z = tl.zeros([C, BV], tl.float32)
        for j in tl.static_range(STATES):
            R = load_flow(u + x * u_x + head * u_h + j * u_j, t, v, u_t, T, DV).to(DOT)
            Z += tl.dot(S[j], R, input_precision=PRECISION)
        Z = tl.dot(X.to(DOT), Z.to(DOT), input_precision=PRECISION)
        store_flow(given + n * T * DV, Z, t, v, DV, T, DV)
'''

_SCAN = '''
@triton.jit
def NAME_scan(
    X, k, u, <erase:b, p, >kept, begun, <erase:inverse, given, >end, <erase:rows, >starts, <erase:z, >T, H,
    k_x, k_h, k_t, u_x, u_h, u_t, u_j, <erase:p_x, p_h, p_t, SOURCE: tl.constexpr, >
    STATES: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """For a block of dv, chunk by chunk: states before it, <erase:what is written, >those at the end."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, d, v = tl.arange(0, C), tl.arange(0, BK), part * BV + tl.arange(0, BV)
    h = ()
    for s in tl.static_range(STATES):
        h += (load_block(X + (n * STATES + s) * DK * DV, d, v, DK, 1, DK, DV),)
    k += n // H * k_x + n % H * k_h
    u += n // H * u_x + n % H * u_h
    p += n // H * p_x + n % H * p_h  #? erase
    for chunk in range(tl.cdiv(T, C)):
        m, t = n * tl.cdiv(T, C) + chunk, chunk * C + i
        left, since = begun + m * STATES * STATES * C, kept + m * STATES * STATES * C * C
        for s in tl.static_range(STATES):
            store_block(starts + (m * STATES + s) * DK * DV, h[s], d, v, DK, DV)
        P = load_flow(p, t, d, p_t, T, DK).to(DOT)  #? erase
        Z = tl.zeros([C, BV], tl.float32)  #? erase
        for s in tl.static_range(STATES):  #? erase
            alone = 1.0 if s == SOURCE else 0.0  #? erase
            seen = token_before(left + (SOURCE * STATES + s) * C, i, alone)[:, None]  #? erase
            Z += seen * tl.dot(P, h[s].to(DOT), input_precision=PRECISION)  #? erase
        inv = tl.load(inverse + m * C * C + i[:, None] * C + i[None, :]).to(DOT)  #? erase
        Z = tl.dot(inv, Z.to(DOT), input_precision=PRECISION)  #? erase
        Z += load_flow(given + n * T * DV, t, v, DV, T, DV)  #? erase
        store_flow(z + n * T * DV, Z, t, v, DV, T, DV)  #? erase
        R = ()
        for j in tl.static_range(STATES):
            row = load_flow(u + j * u_j, t, v, u_t, T, DV).to(tl.float32)
            row -= tl.load(b + (n * T + t) * STATES + j, mask=t < T, other=0.0)[:, None] * Z  #? erase
            store_flow(rows + (n * T * STATES + j) * DV, row, t, v, STATES * DV, T, DV)  #? erase
            R += (row,)
        K = load_flow(k, t, d, k_t, T, DK).to(DOT)
        new = ()
        for s in tl.static_range(STATES):
            W = tl.zeros([C, BV], tl.float32)
            H_s = tl.zeros([BK, BV], tl.float32)
            for j in tl.static_range(STATES):
                W += tl.load(since + ((s * STATES + j) * C + C - 1) * C + i)[:, None] * R[j]
                H_s += tl.load(left + (s * STATES + j) * C + C - 1) * h[j]
            H_s += tl.dot(tl.trans(K), W.to(DOT), input_precision=PRECISION)
            new += (H_s,)
        h = new
    for s in tl.static_range(STATES):
        store_block(end + (n * STATES + s) * DK * DV, h[s], d, v, DK, DV)
'''

_SCAN_BACK = '''
@triton.jit
def NAME_scan_back(
    <erase:k, b, p, kept, >begun, <erase:inverse, >d_end, <erase:d_rows, >d_starts, ends, <erase:dz, >dX, T,
    <erase:H, k_x, k_h, k_t, p_x, p_h, p_t, SOURCE: tl.constexpr, >
    STATES: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """For a block of dv, from the last chunk: what states behind it<erase:, and z in it,> are worth."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    d, v = tl.arange(0, BK), part * BV + tl.arange(0, BV)
    i = tl.arange(0, C)  #? erase
    dh = ()
    for s in tl.static_range(STATES):
        dh += (load_block(d_end + (n * STATES + s) * DK * DV, d, v, DK, 1, DK, DV),)
    k += n // H * k_x + n % H * k_h  #? erase
    p += n // H * p_x + n % H * p_h  #? erase
    chunks = tl.cdiv(T, C)
    for back in range(chunks):
        m = n * chunks + chunks - 1 - back
        left = begun + m * STATES * STATES * C
        for s in tl.static_range(STATES):
            store_block(ends + (m * STATES + s) * DK * DV, dh[s], d, v, DK, DV)
        t, since = (chunks - 1 - back) * C + i, kept + m * STATES * STATES * C * C  #? erase
        K = load_flow(k, t, d, k_t, T, DK).to(DOT)  #? erase
        Y = tl.zeros([C, BV], tl.float32)  #? erase
        for s in tl.static_range(STATES):  #? erase
            w = tl.zeros([C], tl.float32)  #? erase
            for j in tl.static_range(STATES):  #? erase
                erase = tl.load(b + (n * T + t) * STATES + j, mask=t < T, other=0.0)  #? erase
                w += erase * tl.load(since + ((s * STATES + j) * C + C - 1) * C + i)  #? erase
            Y -= w[:, None] * tl.dot(K, dh[s].to(DOT), input_precision=PRECISION)  #? erase
            erase = tl.load(b + (n * T + t) * STATES + s, mask=t < T, other=0.0)[:, None]  #? erase
            slope = d_rows + (n * T * STATES + s) * DV  #? erase
            Y -= erase * load_flow(slope, t, v, STATES * DV, T, DV)  #? erase
        inv_t = tl.load(inverse + m * C * C + i[None, :] * C + i[:, None]).to(DOT)  #? erase
        Y = tl.dot(inv_t, Y.to(DOT), input_precision=PRECISION)  #? erase
        store_flow(dz + n * T * DV, Y, t, v, DV, T, DV)  #? erase
        P = load_flow(p, t, d, p_t, T, DK).to(DOT)  #? erase
        new = ()
        for s in tl.static_range(STATES):
            at = d_starts + (m * STATES + s) * DK * DV
            g = load_block(at, d, v, DK, 1, DK, DV).to(tl.float32)
            for j in tl.static_range(STATES):
                g += tl.load(left + (j * STATES + s) * C + C - 1) * dh[j]
            alone = 1.0 if s == SOURCE else 0.0  #? erase
            seen = token_before(left + (SOURCE * STATES + s) * C, i, alone)[:, None]  #? erase
            g += tl.dot(tl.trans(P), (seen * Y).to(DOT), input_precision=PRECISION)  #? erase
            new += (g,)
        dh = new
    for s in tl.static_range(STATES):
        store_block(dX + (n * STATES + s) * DK * DV, dh[s], d, v, DK, DV)
'''

_SCAN_GRADS = '''
@triton.jit
def NAME_scan_grads(
    k, kept, rows, starts, ends, <erase:d_rows, >dk, du, d_kept, d_begun, T, H, k_x, k_h, k_t, r_x, r_h, r_t, r_j,
    STATES: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What a chunk's rows, keys and decays are worth at its end; tokens are columns."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i
    x, head = n // H, n % H
    K = load_columns(k + x * k_x + head * k_h, d, t, k_t, T, DK).to(DOT)
    last = m * STATES * STATES * C * C + (C - 1) * C + i
    dK, d_since, d_left = tl.zeros([BK, C], tl.float32), (), ()
    for _ in tl.static_range(STATES * STATES):
        d_since += (tl.zeros([C], tl.float32),)
        d_left += (0.0,)
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        R, G = (), ()
        for j in tl.static_range(STATES):
            at = rows + x * r_x + head * r_h + j * r_j
            R += (load_columns(at, v, t, r_t, T, DV).to(tl.float32),)
            at = d_rows + (n * T * STATES + j) * DV  #? erase
            G += (load_columns(at, v, t, STATES * DV, T, DV).to(tl.float32),)  #? erase
            G += (tl.zeros([BV, C], tl.float32),)  #? !erase
        since, left = (), ()
        for s in tl.static_range(STATES):
            at = ends + (m * STATES + s) * DK * DV
            g = load_block(at, d, v, DK, 1, DK, DV).to(DOT)
            Y = tl.dot(tl.trans(g), K, input_precision=PRECISION)
            W = tl.zeros([BV, C], tl.float32)
            slopes = ()
            for j in tl.static_range(STATES):
                weight = tl.load(kept + (s * STATES + j) * C * C + last)[None, :]
                W += weight * R[j]
                slopes += (G[j] + weight * Y,)
                since += (d_since[s * STATES + j] + tl.sum(Y * R[j], 0),)
                at = starts + (m * STATES + j) * DK * DV
                h = g.to(tl.float32) * load_block(at, d, v, DK, 1, DK, DV)
                left += (d_left[s * STATES + j] + tl.sum(tl.sum(h, 1), 0),)
            G = slopes
            dK += tl.dot(g, W.to(DOT), input_precision=PRECISION)
        d_since, d_left = since, left
        for j in tl.static_range(STATES):
            store_columns(du + (n * T * STATES + j) * DV, G[j], v, t, STATES * DV, T, DV)
    for s in tl.static_range(STATES * STATES):
        tl.store(d_kept + s * C * C + last, d_since[s])
        tl.store(d_begun + (m * STATES * STATES + s) * C + C - 1, d_left[s])
    store_columns(dk + n * T * DK, dK, d, t, DK, T, DK)
'''

_ERASE_GRADS = '''
@triton.jit
def NAME_erase_grads(
    k, b, p, kept, begun, rows, starts, z, dz, k_end, u_end, dk, du, db, dp, d_kept, d_begun, T, H,
    k_x, k_h, k_t, p_x, p_h, p_t,
    SOURCE: tl.constexpr, STATES: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What z in a chunk adds to that, from its rows, z, and what z is worth."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i
    x, head = n // H, n % H
    K = load_columns(k + x * k_x + head * k_h, d, t, k_t, T, DK).to(DOT)
    P = load_columns(p + x * p_x + head * p_h, d, t, p_t, T, DK).to(DOT)
    A = tl.dot(tl.trans(P), K, input_precision=PRECISION)
    below, below_t = i[:, None] > i[None, :], i[None, :] > i[:, None]
    own = (m * STATES + SOURCE) * STATES
    at_seen = own * C * C + (i[:, None] - 1) * C + i[None, :]
    at_seen_t = own * C * C + (i[None, :] - 1) * C + i[:, None]
    S, D, D_t, F, dB = (), (), (), (), ()
    for j in tl.static_range(STATES):
        seen = tl.load(kept + at_seen + j * C * C, mask=below, other=0.0)
        S += ((A * seen).to(DOT),)
        D += (tl.zeros([C, C], tl.float32),)
        D_t += (tl.zeros([C, C], tl.float32),)
        F += (tl.zeros([BK, C], tl.float32),)
        dB += (tl.zeros([C], tl.float32),)
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        Y = load_columns(dz + n * T * DV, v, t, DV, T, DV).to(DOT)
        Z = load_columns(z + n * T * DV, v, t, DV, T, DV).to(tl.float32)
        E, E_t, reads, erased = (), (), (), ()
        for j in tl.static_range(STATES):
            at = (n * T * STATES + j) * DV
            R = load_columns(rows + at, v, t, STATES * DV, T, DV).to(DOT)
            E += (D[j] + tl.dot(tl.trans(Y), R, input_precision=PRECISION),)
            E_t += (D_t[j] + tl.dot(tl.trans(R), Y, input_precision=PRECISION),)
            g = load_columns(u_end + at, v, t, STATES * DV, T, DV).to(tl.float32)
            g += tl.dot(Y, S[j], input_precision=PRECISION)
            store_columns(du + at, g, v, t, STATES * DV, T, DV)
            erased += (dB[j] - tl.sum(Z * g, 0),)
            at = starts + (m * STATES + j) * DK * DV
            h = load_block(at, d, v, DK, 1, DK, DV).to(DOT)
            reads += (F[j] + tl.dot(h, Y, input_precision=PRECISION),)
        D, D_t, F, dB = E, E_t, reads, erased
    dS, dS_t = tl.zeros([C, C], tl.float32), tl.zeros([C, C], tl.float32)
    dP = tl.zeros([BK, C], tl.float32)
    for j in tl.static_range(STATES):
        dS += D[j] * tl.load(kept + at_seen + j * C * C, mask=below, other=0.0)
        dS_t += D_t[j] * tl.load(kept + at_seen_t + j * C * C, mask=below_t, other=0.0)
        tl.store(d_kept + at_seen + j * C * C, D[j] * A, mask=below)
        left = token_before(begun + (own + j) * C, i, 1.0 if j == SOURCE else 0.0)
        dP += left[None, :] * F[j]
        d_left = tl.sum(P.to(tl.float32) * F[j], 0)
        tl.store(d_begun + (own + j) * C + i - 1, d_left, mask=i > 0)
        tl.store(db + (n * T + t) * STATES + j, dB[j], mask=t < T)
    dP += tl.dot(K, dS_t.to(DOT), input_precision=PRECISION)
    store_columns(dp + n * T * DK, dP, d, t, DK, T, DK)
    dK = load_columns(k_end + n * T * DK, d, t, DK, T, DK).to(tl.float32)
    dK += tl.dot(P, dS.to(DOT), input_precision=PRECISION)
    store_columns(dk + n * T * DK, dK, d, t, DK, T, DK)
'''

_READ = '''
@triton.jit
def NAME_out(
    q, k, rows, starts, kept, begun, out, T, H, q_x, q_h, q_t, k_x, k_h, k_t, <turned:k_j, >
    r_x, r_h, r_t, <!turned:r_j, >s_n, s_s, s_v, s_d, w_n, b_n, o_x, o_h, o_t, <before:STATE: tl.constexpr, >
    STATES: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """VALUE in a chunk: what it began with, and what was written since."""
    m, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, d, v = tl.arange(0, C), tl.arange(0, BK), part * BV + tl.arange(0, BV)
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i
    x, head = n // H, n % H
    Q = load_flow(q + x * q_x + head * q_h, t, d, q_t, T, DK).to(DOT)
    seen = i[:, None] ORDER i[None, :]
    at_kept = kept + m * w_n + ROW[:, None] * C + i[None, :]
    Y = tl.zeros([C, BV], tl.float32)
    A = tl.zeros([C, C], tl.float32)  #? turned
    K = load_flow(k + x * k_x + head * k_h, t, d, k_t, T, DK).to(DOT)  #? !turned
    A = tl.dot(Q, tl.trans(K), input_precision=PRECISION)  #? !turned
    for s in tl.static_range(STATES):
        h = load_block(starts + m * s_n + s * s_s, d, v, s_v, s_d, DK, DV).to(DOT)
        left = begun + m * b_n + s * C
        left = tl.load(left + i)  #? !before
        left = token_before(left, i, 1.0 if s == STATE else 0.0)  #? before
        Y += left[:, None] * tl.dot(Q, h, input_precision=PRECISION)
        S = tl.load(at_kept + s * C * C, mask=seen, other=0.0)
        at = rows + x * r_x + head * r_h + s * r_j  #? !turned
        R = load_flow(at, t, v, r_t, T, DV).to(DOT)  #? !turned
        Y += tl.dot((A * S).to(DOT), R, input_precision=PRECISION)  #? !turned
        K = load_flow(k + x * k_x + head * k_h + s * k_j, t, d, k_t, T, DK).to(DOT)  #? turned
        A += S * tl.dot(Q, tl.trans(K), input_precision=PRECISION)  #? turned
    R = load_flow(rows + x * r_x + head * r_h, t, v, r_t, T, DV).to(DOT)  #? turned
    Y += tl.dot(A.to(DOT), R, input_precision=PRECISION)  #? turned
    store_flow(out + x * o_x + head * o_h, Y, t, v, o_t, T, DV)
'''

_READ_BACK = '''
@triton.jit
def NAME_back(
    q, k, rows, starts, kept, begun, grad, dq, dk, d_rows, d_starts, d_kept, d_begun, T, H,
    q_x, q_h, q_t, k_x, k_h, k_t, <turned:k_j, >r_x, r_h, r_t, <!turned:r_j, >s_n, s_s, s_v, s_d, w_n, b_n,
    g_x, g_h, g_t, <before:STATE: tl.constexpr, >
    STATES: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What a chunk's reads are worth to all that they are made of."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i
    x, head = n // H, n % H
    Q = load_flow(q + x * q_x + head * q_h, t, d, q_t, T, DK).to(DOT)
    seen, seen_t = i[:, None] ORDER i[None, :], i[None, :] ORDER i[:, None]
    at_kept = kept + m * w_n + ROW[:, None] * C + i[None, :]
    at_kept_t = kept + m * w_n + ROW[None, :] * C + i[:, None]
    K = load_flow(k + x * k_x + head * k_h, t, d, k_t, T, DK).to(DOT)  #? !turned
    A_t = tl.dot(K, tl.trans(Q), input_precision=PRECISION)  #? !turned
    A_t = tl.zeros([C, C], tl.float32)  #? turned
    dA = tl.zeros([C, C], tl.float32)  #? turned
    dA_t = tl.zeros([C, C], tl.float32)  #? turned
    D, D_t = (), ()  #? !turned
    lefts, F = (), ()
    for s in tl.static_range(STATES):
        left = begun + m * b_n + s * C
        left = tl.load(left + i)  #? !before
        left = token_before(left, i, 1.0 if s == STATE else 0.0)  #? before
        lefts += (left,)
        F += (tl.zeros([C, BK], tl.float32),)
        D += (tl.zeros([C, C], tl.float32),)  #? !turned
        D_t += (tl.zeros([C, C], tl.float32),)  #? !turned
        S_t = tl.load(at_kept_t + s * C * C, mask=seen_t, other=0.0)  #? turned
        K = load_flow(k + x * k_x + head * k_h + s * k_j, t, d, k_t, T, DK).to(DOT)  #? turned
        A_t += S_t * tl.dot(K, tl.trans(Q), input_precision=PRECISION)  #? turned
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        dO = load_flow(grad + x * g_x + head * g_h, t, v, g_t, T, DV).to(DOT)
        R = load_flow(rows + x * r_x + head * r_h, t, v, r_t, T, DV).to(DOT)  #? turned
        dA += tl.dot(dO, tl.trans(R), input_precision=PRECISION)  #? turned
        dA_t += tl.dot(R, tl.trans(dO), input_precision=PRECISION)  #? turned
        dR = tl.dot(A_t.to(DOT), dO, input_precision=PRECISION)  #? turned
        store_flow(d_rows + n * T * DV, dR, t, v, DV, T, DV)  #? turned
        E, E_t = (), ()  #? !turned
        reads = ()
        for s in tl.static_range(STATES):
            h = load_block(starts + m * s_n + s * s_s, d, v, s_v, s_d, DK, DV).to(DOT)
            reads += (F[s] + tl.dot(dO, tl.trans(h), input_precision=PRECISION),)
            dh = (lefts[s][:, None] * dO.to(tl.float32)).to(DOT)
            dh = tl.dot(tl.trans(Q), dh, input_precision=PRECISION)
            store_block(d_starts + (m * STATES + s) * DK * DV, dh, d, v, DK, DV)
            at = rows + x * r_x + head * r_h + s * r_j  #? !turned
            R = load_flow(at, t, v, r_t, T, DV).to(DOT)  #? !turned
            E += (D[s] + tl.dot(dO, tl.trans(R), input_precision=PRECISION),)  #? !turned
            E_t += (D_t[s] + tl.dot(R, tl.trans(dO), input_precision=PRECISION),)  #? !turned
            S_t = A_t * tl.load(at_kept_t + s * C * C, mask=seen_t, other=0.0)  #? !turned
            dR = tl.dot(S_t.to(DOT), dO, input_precision=PRECISION)  #? !turned
            at = d_rows + (n * T * STATES + s) * DV  #? !turned
            store_flow(at, dR, t, v, STATES * DV, T, DV)  #? !turned
        F = reads
        D, D_t = E, E_t  #? !turned
    dQ = tl.zeros([C, BK], tl.float32)
    dA, dA_t = tl.zeros([C, C], tl.float32), tl.zeros([C, C], tl.float32)  #? !turned
    A = tl.dot(Q, tl.trans(K), input_precision=PRECISION)  #? !turned
    row = (i + C - 1) % C  # the last token is before none  #? before
    at_slope = d_kept + m * STATES * C * C + <before:row><!before:i>[:, None] * C + i[None, :]
    for s in tl.static_range(STATES):
        dQ += lefts[s][:, None] * F[s]
        d_left = tl.sum(Q.to(tl.float32) * F[s], 1)
        d_left = tl.where(i > 0, d_left, 0.0)  #? before
        tl.store(d_begun + (m * STATES + s) * C + <before:row><!before:i>, d_left)
        S = tl.load(at_kept + s * C * C, mask=seen, other=0.0)
        S_t = tl.load(at_kept_t + s * C * C, mask=seen_t, other=0.0)
        dA += D[s] * S  #? !turned
        dA_t += D_t[s] * S_t  #? !turned
        tl.store(at_slope + s * C * C, tl.where(seen, D[s] * A, 0.0))  #? !turned
        K = load_flow(k + x * k_x + head * k_h + s * k_j, t, d, k_t, T, DK).to(DOT)  #? turned
        A = tl.dot(Q, tl.trans(K), input_precision=PRECISION)  #? turned
        tl.store(at_slope + s * C * C, tl.where(seen, dA * A, 0.0))  #? turned
        dQ += tl.dot((dA * S).to(DOT), K, input_precision=PRECISION)  #? turned
        dK = tl.dot((dA_t * S_t).to(DOT), Q, input_precision=PRECISION)  #? turned
        store_flow(dk + (n * T * STATES + s) * DK, dK, t, d, STATES * DK, T, DK)  #? turned
    dQ += tl.dot(dA.to(DOT), K, input_precision=PRECISION)  #? !turned
    dK = tl.dot(dA_t.to(DOT), Q, input_precision=PRECISION)  #? !turned
    store_flow(dk + n * T * DK, dK, t, d, DK, T, DK)  #? !turned
    store_flow(dq + n * T * DK, dQ, t, d, DK, T, DK)
'''

_SCAN_OPERATOR = '''
def NAME(
    X: Tensor, A: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, p: Tensor, source: int, >
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """X_t = A_t X_(t-1) + <!erase:u_t><erase:(u_t - b_t z_t)> k_tᵀ<erase:, z_t = X_(t-1)[source] p_t>.

    X [..., states, dv, dk], A [..., T, states, states], k<erase: and p> [..., T, dk],
    u [..., T, states, dv]<erase:, b [..., T, states]>. Returns X after the last token, and what reads need.
    Products are computed in the dtype of k and summed in float32, which X and A are in. TypeError
    for another dtype or device.
    """
    dtype = supported(k)
    kept, begun = products(A)
    lead = torch.broadcast_shapes(
        X.shape[:-3], A.shape[:-3], k.shape[:-2], u.shape[:-3], <erase:b.shape[:-2], p.shape[:-2], >
    )
    X = fitted(lead, 3, X.float())[0].contiguous()
    key = rows_of(dtype, fitted(lead, 2, k)[0])  #? !erase
    key, p = (rows_of(dtype, x) for x in fitted(lead, 2, k, p))  #? erase
    write = rows_of(dtype, fitted(lead, 3, u)[0])
    b = fitted(lead, 2, b.float())[0].contiguous()  #? erase
    left = fitted(lead, 4, begun)[0].contiguous()
    since = fitted(lead, 5, kept)[0].contiguous()
    X, <erase:rows, >starts<erase:, *_> = NAME_forward(
        X, key, write, <erase:b, p, >since, left, <erase:source, >
    )
    X, <erase:rows, >starts = (x.reshape(*lead, *x.shape[2:]) for x in (X, <erase:rows, >starts))
    return X, (k, <erase:rows><!erase:u>, starts, *kept.unbind(-4), *begun.unbind(-3))


@torch.library.custom_op(f"{OPERATORS}::NAME", mutates_args=())
def NAME_forward(
    X: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, p: Tensor, >kept: Tensor, begun: Tensor, <erase:source: int, >
) -> tuple[<erase:Tensor, Tensor, Tensor, >Tensor, Tensor]:
    """States after the last token, <erase:rows, >states before each chunk<erase:, inverses, z>: as [X, H, ...]."""
    end, starts = out = NAME_shapes(X, k, u, kept)  #? !erase
    end, rows, starts, inverse, z = out = NAME_shapes(X, k, u, b, p, kept)  #? erase
    (N, H, T, dk), (states, dv), C = k.shape, u.shape[-2:], kept.shape[-1]
    given = torch.empty_like(z)  #? erase
    args = [  #? erase
        k, u, b, p, kept, inverse, given, T, H, *k.stride()[:3], *u.stride()[:4], *p.stride()[:3],  #? erase
    ]  #? erase
    sizes = coupled_sizes("solve", states, dk, dv, C)  #? erase
    grid = (N * H * kept.shape[2],)  #? erase
    launch(NAME_solve, grid, args, k.dtype, SOURCE=source, **sizes)  #? erase
    args = [
        X, k, u, <erase:b, p, >kept, begun, <erase:inverse, given, >end, <erase:rows, >starts, <erase:z, >T, H,
        *k.stride()[:3], *u.stride()[:4], <erase:*p.stride()[:3], >
    ]
    sizes = coupled_sizes("scan", states, dk, dv, C)
    grid = (N * H * triton.cdiv(dv, sizes["BV"]),)
    launch(NAME_scan, grid, args, k.dtype, <erase:SOURCE=source, >**sizes)
    return out


@NAME_forward.register_fake
def NAME_shapes(X, k, u, <erase:b, p, >kept, *_):
    """What the operator returns, but for its values."""
    N, H, chunks, C = *kept.shape[:3], kept.shape[-1]  #? erase
    end, starts = torch.empty_like(X), k.new_empty(*kept.shape[:3], *X.shape[2:])
    return end, starts  #? !erase
    inverse, z = k.new_empty(N, H, chunks, C, C), k.new_empty(*k.shape[:3], u.shape[-1])  #? erase
    return end, k.new_empty(u.shape), starts, inverse, z  #? erase


@torch.library.custom_op(f"{OPERATORS}::NAME_backward", mutates_args=())
def NAME_backward(
    k: Tensor, <erase:b: Tensor, p: Tensor, >kept: Tensor, begun: Tensor, rows: Tensor, starts: Tensor,
    <erase:inverse: Tensor, z: Tensor, >d_end: Tensor, <erase:d_rows: Tensor, >d_starts: Tensor, <erase:source: int, >
) -> tuple[<erase:Tensor, Tensor, >Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The slopes by all that goes in, from those of all that comes out."""
    out = NAME_slopes(k, <erase:b, p, >kept, begun, rows, starts, <erase:inverse, z, >d_end)
    d_X, d_k, d_u, <erase:d_b, d_p, >d_kept, d_begun = out
    (N, H, T, dk), (states, dv), C = k.shape, rows.shape[-2:], kept.shape[-1]
    dtype = wider(k.dtype)
    ends = starts.new_empty(starts.shape, dtype=dtype)
    d_z = z.new_empty(z.shape, dtype=dtype)  #? erase
    k_end, u_end = torch.empty_like(d_k), torch.empty_like(d_u)  #? erase
    args = [
        <erase:k, b, p, kept, >begun, <erase:inverse, >d_end, <erase:d_rows, >d_starts, ends, <erase:d_z, >d_X, T,
        <erase:H, *k.stride()[:3], *p.stride()[:3], >
    ]
    sizes = coupled_sizes("scan_back", states, dk, dv, C)
    grid = (N * H * triton.cdiv(dv, sizes["BV"]),)
    launch(NAME_scan_back, grid, args, dtype, <erase:SOURCE=source, >**sizes)
    args = [
        k, kept, rows, starts, ends, <erase:d_rows, k_end, u_end><!erase:d_k, d_u>, d_kept, d_begun, T, H,
        *k.stride()[:3], *rows.stride()[:4],
    ]
    sizes = coupled_sizes("grads", states, dk, dv, C)
    grid = (N * H * kept.shape[2],)
    launch(NAME_scan_grads, grid, args, dtype, **sizes)
    args = [  #? erase
        k, b, p, kept, begun, rows, starts, z, d_z, k_end, u_end, d_k, d_u, d_b, d_p, d_kept, d_begun, T, H,  #? erase
        *k.stride()[:3], *p.stride()[:3],  #? erase
    ]  #? erase
    sizes = coupled_sizes("erase_grads", states, dk, dv, C)  #? erase
    launch(NAME_erase_grads, grid, args, dtype, SOURCE=source, **sizes)  #? erase
    return out


@NAME_backward.register_fake
def NAME_slopes(k, <erase:b, p, >kept, begun, rows, starts, <erase:inverse, z, >d_end, *_):
    """The shapes of the slopes; those of products that no token has are zero."""
    d_X, d_k = torch.empty_like(d_end), k.new_empty(k.shape)
    d_u = rows.new_empty(rows.shape, dtype=wider(k.dtype))
    d_kept, d_begun = torch.zeros_like(kept), torch.zeros_like(begun)
    return d_X, d_k, d_u, <erase:torch.empty_like(b), p.new_empty(p.shape), >d_kept, d_begun


def NAME_setup(ctx, inputs, output):
    <!erase:_, k, u, kept, begun><erase:_, k, _, b, p, kept, begun, ctx.source> = inputs
    _, <!erase:starts><erase:rows, starts, inverse, z> = output
    ctx.save_for_backward(k, <erase:b, p, >kept, begun, <erase:rows, ><!erase:u, >starts<erase:, inverse, z>)


def NAME_slope(ctx, d_end, <erase:d_rows, >d_starts<erase:, *_>):
    grads = (x.contiguous() for x in (d_end, <erase:d_rows, >d_starts))
    out = NAME_backward(*ctx.saved_tensors, *grads<erase:, ctx.source>)
    d_X, d_k, d_u, *rest = out
    return d_X, d_k, d_u.to(d_k.dtype), *rest<erase:, None>


NAME_forward.register_autograd(
    NAME_slope, setup_context=NAME_setup
)
'''

_READ_OPERATOR = '''
def NAME(
    q: Tensor, state: int, k: Tensor, rows: Tensor, starts: Tensor, *parts: Tensor
) -> Tensor:
    """VALUE for one of several states, from what their scan returns."""
    dtype = supported(k)
    kept, begun = parts[state], parts[starts.shape[-3] + state]
    lead = torch.broadcast_shapes(
        q.shape[:-2], k.shape[:-2], rows.shape[:-3], starts.shape[:-4], begun.shape[:-3],
    )
    q, k = (rows_of(dtype, x) for x in fitted(lead, 2, q, k))
    rows = rows_of(dtype, fitted(lead, 3, rows)[0])
    starts = fitted(lead, 4, starts)[0].flatten(0, 2)
    kept, begun = (fitted(lead, n, x)[0].flatten(0, 2) for n, x in ((4, kept), (3, begun)))
    out = NAME_forward(q, <!turned:k, rows, starts><turned:rows, k, starts.mT>, kept, begun<before:, state>)
    return out.reshape(*lead, *out.shape[2:])


@torch.library.custom_op(f"{OPERATORS}::NAME", mutates_args=())
def NAME_forward(
    q: Tensor, k: Tensor, rows: Tensor, starts: Tensor, kept: Tensor, begun: Tensor, <before:state: int, >
) -> Tensor:
    """Over tensors [X, H, ...] and chunks [X * H * chunks, ...]<turned:, rows as keys and keys as rows>."""
    out = NAME_shapes(q, k, rows)
    (_, H, T, dk), dv, (chunks, states, C) = q.shape, rows.shape[-1], begun.shape
    args = [
        q, k, rows, starts, kept, begun, out, T, H, *q.stride()[:3],
        <turned:*k.stride()[:4], *rows.stride()[:3], ><!turned:*k.stride()[:3], *rows.stride()[:4], >
        *starts.stride(), kept.stride(0), begun.stride(0), *out.stride()[:3],
    ]
    sizes = coupled_sizes("out", states, dk, dv, C)
    grid = (chunks * triton.cdiv(dv, sizes["BV"]),)
    launch(NAME_out, grid, args, k.dtype, <before:STATE=state, >**sizes)
    return out


@NAME_forward.register_fake
def NAME_shapes(q, k, rows, *_):
    """What the operator returns, but for its values."""
    N, H, T, _ = q.shape
    return q.new_empty(N, T, H, rows.shape[-1]).transpose(1, 2)


@torch.library.custom_op(f"{OPERATORS}::NAME_backward", mutates_args=())
def NAME_backward(
    q: Tensor, k: Tensor, rows: Tensor, starts: Tensor, kept: Tensor, begun: Tensor, grad: Tensor, <before:state: int, >
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The slopes by all that goes in."""
    out = NAME_slopes(q, k, rows, starts, kept, begun)
    (_, H, T, dk), dv, (chunks, states, C) = q.shape, rows.shape[-1], begun.shape
    args = [
        q, k, rows, starts, kept, begun, grad, *out, T, H, *q.stride()[:3],
        <turned:*k.stride()[:4], *rows.stride()[:3], ><!turned:*k.stride()[:3], *rows.stride()[:4], >
        *starts.stride(), kept.stride(0), begun.stride(0), *grad.stride()[:3],
    ]
    sizes = coupled_sizes("out_back", states, dk, dv, C)
    launch(NAME_back, (chunks,), args, wider(k.dtype), <before:STATE=state, >**sizes)
    return out


@NAME_backward.register_fake
def NAME_slopes(q, k, rows, starts, kept, begun, *_):
    """The shapes of the slopes."""
    dtype = wider(k.dtype)
    return (
        q.new_empty(q.shape), k.new_empty(k.shape<turned:, dtype=dtype>),
        rows.new_empty(rows.shape<!turned:, dtype=dtype>), starts.new_empty(starts.shape, dtype=dtype),
        kept.new_empty(kept.shape), begun.new_empty(begun.shape),
    )


def NAME_setup(ctx, inputs, output):
    *tensors, ctx.state = inputs  #? before
    ctx.save_for_backward(<before:*tensors><!before:*inputs>)


def NAME_slope(ctx, grad):
    q, k, rows, starts, kept, begun = ctx.saved_tensors
    grad = rows_of(wider(k.dtype), grad)
    d_q, d_k, d_rows, d_starts, d_kept, d_begun = NAME_backward(
        q, k, rows, starts, kept, begun, grad, <before:ctx.state, >
    )
    d_starts = d_starts.to(starts.dtype)
    return d_q, d_k.to(k.dtype), d_rows.to(rows.dtype), d_starts, d_kept, d_begun<before:, None>


NAME_forward.register_autograd(
    NAME_slope, setup_context=NAME_setup
)
'''


def _laid_out(text: str) -> str:
    """Calls and signatures over several lines on as few as they need."""
    out, lines = [], iter(text.split("\n"))
    for line in lines:
        if line.endswith(("(", "[")):
            depth = (len(line) - len(line.lstrip())) // 4
            inner, end = [], "    " * depth + {"(": ")", "[": "]"}[line[-1]]
            while not (part := next(lines)).startswith(end):
                inner.append(part.strip())
            args = [x.strip(" ,") for x in " ".join(inner).split(", ") if x.strip(" ,")]
            line = packed(line.strip(), args, part.strip(), depth)
        out.append(line)
    return "\n".join(out)


def _scan(erase: bool) -> tuple[str, str]:
    name = f"coupled_{'delta_' * erase}scan"
    kernels = [_SOLVE] * erase + [_SCAN, _SCAN_BACK, _SCAN_GRADS] + [_ERASE_GRADS] * erase
    source = "\n".join([*kernels, _SCAN_OPERATOR])
    return name, _laid_out(select(source, erase=erase).replace("NAME", name))


def _read(turned: bool, before: bool) -> tuple[str, str]:
    name = f"coupled_{'turned_' * turned}read{'_before' * before}"
    source = "\n".join([_READ, _READ_BACK, _READ_OPERATOR])
    source = source.replace("VALUE", f"X_{'(t-1)' if before else 't'}[state]{'ᵀ' * turned} q_t")
    source = source.replace("ROW", "(i - 1)" if before else "i")
    source = source.replace("ORDER", ">" if before else ">=")
    return name, _laid_out(select(source, turned=turned, before=before).replace("NAME", name))


TEXTS: dict[str, str] = {
    "COUPLED_CHUNK": _CHUNK,
    "COUPLED_CONFIG": _CONFIG,
    "products": _PRODUCTS,
    "coupled_sizes": _SIZES,
    "token_before": _TOKEN_BEFORE,
    **_LOADS,
    **dict(map(_scan, (False, True))),
    **dict(_read(turned, before) for turned, before in product((False, True), (False, True))),
}
