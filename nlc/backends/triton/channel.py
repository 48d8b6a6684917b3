"""Scans and reads where every channel of the keys decays at a rate of its own, as Triton kernels and their operators.

    S_t = S_{t−1} Diag(a_t) + (u_t − b_t S_{t−1} p_t) k_tᵀ        with c = log₂ a by channel, summed up to t in a chunk

A score Σ_d q_td k_id 2^{c_td − c_id} is no product of matrices. In blocks of 16 x 16 it is: left of the diagonal, rows
decay from the end of the block before theirs, and columns up to there; on the diagonal it is a sum for each column.
Exponents are sums of logs between two tokens, never differences of long sums, so they are ≤ 0 and exact where decays
are strong. Reads are linear in q and v alike, v_tᵀ S_t q_t: one gradient serves the reads of S and of its transpose.
"""

from __future__ import annotations

import re

from nlc.backends.torch.scans import select
from nlc.backends.triton.forms import packed
from nlc.backends.writer import WIDTH

_ACCESS = {
    "taken": '''
@triton.jit
def taken(x, token, channel, at, T, size: tl.constexpr):
    """Channels of tokens, 0 where there are none."""
    where, there = flow(x, token, channel, at, T, size)
    return tl.load(where, mask=there, other=0.0)
''',
    "put": '''
@triton.jit
def put(x, value, token, channel, at, T, size: tl.constexpr):
    """Sets channels of tokens, where there are any."""
    where, there = flow(x, token, channel, at, T, size)
    tl.store(where, value.to(x.dtype.element_ty), mask=there)
''',
    "taken_block": '''
@triton.jit
def taken_block(x, d, v, at_v, at_d, DK: tl.constexpr, DV: tl.constexpr):
    """A block of the transpose of a state [dv, dk]."""
    where, there = block(x, d, v, at_v, at_d, DK, DV)
    return tl.load(where, mask=there, other=0.0)
''',
    "put_block": '''
@triton.jit
def put_block(x, value, d, v, at_v, at_d, DK: tl.constexpr, DV: tl.constexpr):
    """Sets a block of the transpose of a state [dv, dk]."""
    where, there = block(x, d, v, at_v, at_d, DK, DV)
    tl.store(where, value.to(x.dtype.element_ty), mask=there)
''',
}

_RATES = '''
@triton.jit
def rates(log_a, token, channel, at, T, size: tl.constexpr):
    """log2 of decays by channel, their sums up to each token, and from behind it to the last."""
    a = taken(log_a, token, channel, at, T, size) * 1.4426950408889634
    return a, tl.cumsum(a, 0), tl.cumsum(a, 0, reverse=True) - a
'''

_TOKEN = '''
@triton.jit
def one_token(x, token, channel, at, T, size: tl.constexpr):
    """The channels of one token."""
    there = channel < tl.where(token < T, size, 0)
    return tl.load(x + token * at + channel, mask=there, other=0.0).to(tl.float32)
'''

_SCORES = '''
@triton.jit
def NAME_block(
    q, k, log_a, out, T, H, q_x, q_h, q_t, k_x, k_h, k_t, a_x, a_h, a_t,
    DK: tl.constexpr, BK: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """16 rows of the scores of a chunk: q_t . k_i, channels decayed from i to <!before:t><before:t-1>."""
    m, own = tl.program_id(0).to(tl.int64) // (C // 16), tl.program_id(0) % (C // 16)
    n, i, d = m // tl.cdiv(T, C), tl.arange(0, 16), tl.arange(0, BK)
    first = m % tl.cdiv(T, C) * C + own * 16
    q += n // H * q_x + n % H * q_h
    k += n // H * k_x + n % H * k_h
    log_a += n // H * a_x + n % H * a_h
    out += m * C * C + own * 16 * C + i[:, None] * C + i[None, :]
    Q = taken(q, first + i, d, q_t, T, DK).to(tl.float32)
    a, c, _ = rates(log_a, first + i, d, a_t, T, DK)
    begun = (Q * tl.exp2(<!before:c><before:c - a>)).to(DOT)
    past = tl.zeros([BK], tl.float32)
    for back in range(own):
        t = first - (back + 1) * 16 + i
        K = taken(k, t, d, k_t, T, DK).to(tl.float32)
        a, _, left = rates(log_a, t, d, a_t, T, DK)
        K = (K * tl.exp2(left + past[None, :])).to(DOT)
        A = tl.dot(begun, tl.trans(K), input_precision=PRECISION)
        tl.store(out + (own - 1 - back) * 16, A.to(out.dtype.element_ty))
        past += tl.sum(a, 0)
    A = tl.zeros([16, 16], tl.float32)
    kept = tl.zeros([16, BK], tl.float32)
    for back in range(16):
        j = 15 - back
        K_j = one_token(k, first + j, d, k_t, T, DK)
        score = tl.sum(Q * K_j[None, :] * tl.exp2(kept), 1)
        seen = (i ORDER j)[:, None]
        A = tl.where(seen & (i == j)[None, :], score[:, None], A)
        a_j = one_token(log_a, first + j, d, a_t, T, DK) * 1.4426950408889634
        kept += tl.where(seen, a_j[None, :], 0.0)
    tl.store(out + own * 16, A.to(out.dtype.element_ty))


def NAME(q: Tensor, k: Tensor, log_a: Tensor, out: Tensor, dv: int) -> None:
    """Sets scores of chunks [X, H, chunks, C, C], but for blocks of 16 above the diagonal."""
    _, H, T, dk = q.shape
    args = [
        q, k, log_a, out, T, H, *q.stride()[:3], *k.stride()[:3], *log_a.stride()[:3],
    ]
    grid = (out.shape[:4].numel() // 16,)
    launch(NAME_block, grid, args, q.dtype, **sizes_of("out", dk, dv, T))
'''

# The gradient of Σ_ti D_ti Σ_d q_td k_id 2^{c_td − c_id}; for a scan q is its probe, and D is still without b
_SPREAD = '''
@triton.jit
def NAME_spread(
    q, k, log_a, <erase:b, >pairs, dq, dk, <erase:db, >da, T, H, q_x, q_h, q_t, k_x, k_h, k_t, a_x, a_h, a_t,
    DK: tl.constexpr, BK: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What the scores of a chunk are worth to what they are made of, the last 16 tokens first."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, 16), tl.arange(0, BK)
    n, begin = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C
    q += n // H * q_x + n % H * q_h
    k += n // H * k_x + n % H * k_h
    log_a += n // H * a_x + n % H * a_h
    b += n * T  #? erase
    pairs += m * C * C
    later = tl.zeros([BK], tl.float32)
    for step in range(C // 16):
        own = C // 16 - 1 - step
        first, row, column = begin + own * 16, pairs + (own * 16 + i) * C, pairs + own * 16 + i
        dQ = tl.zeros([16, BK], tl.float32)
        past = tl.zeros([BK], tl.float32)
        for back in range(own):
            t = first - (back + 1) * 16 + i
            K = taken(k, t, d, k_t, T, DK).to(tl.float32)
            a, _, left = rates(log_a, t, d, a_t, T, DK)
            K = (K * tl.exp2(left + past[None, :])).to(DOT)
            D = tl.load(row[:, None] + (own - 1 - back) * 16 + i[None, :]).to(DOT)
            dQ += tl.dot(D, K, input_precision=PRECISION)
            past += tl.sum(a, 0)
        dK = tl.zeros([16, BK], tl.float32)
        past = tl.zeros([BK], tl.float32)
        for ahead in range(own + 1, C // 16):
            t = begin + ahead * 16 + i
            Q = taken(q, t, d, q_t, T, DK).to(tl.float32)
            Q *= tl.load(b + t, mask=t < T, other=0.0)[:, None]  #? erase
            a, c, _ = rates(log_a, t, d, a_t, T, DK)
            Q = (Q * tl.exp2(<!before:c><before:c - a> + past[None, :])).to(DOT)
            D_t = tl.load(column[:, None] + (ahead * 16 + i)[None, :] * C).to(DOT)
            dK += tl.dot(D_t, Q, input_precision=PRECISION)
            past += tl.sum(a, 0)
        t = first + i
        a, c, left = rates(log_a, t, d, a_t, T, DK)
        dQ *= tl.exp2(<!before:c><before:c - a>)
        dK *= tl.exp2(left)
        kept = tl.zeros([16, BK], tl.float32)
        for back in range(16):
            j = 15 - back
            seen = i ORDER j
            D_j = tl.load(row + own * 16 + j, mask=seen, other=0.0).to(tl.float32)
            K_j = one_token(k, first + j, d, k_t, T, DK)
            dQ += D_j[:, None] * K_j[None, :] * tl.exp2(kept)
            a_j = one_token(log_a, first + j, d, a_t, T, DK) * 1.4426950408889634
            kept += tl.where(seen[:, None], a_j[None, :], 0.0)
        kept = tl.zeros([16, BK], tl.float32)
        for j in range(16):
            a_j = one_token(log_a, first + j, d, a_t, T, DK) * 1.4426950408889634
            kept += tl.where((i < j)[:, None], a_j[None, :], 0.0)  #? !before
            D_j = tl.load(column + (own * 16 + j) * C, mask=j ORDER i, other=0.0).to(tl.float32)
            D_j *= tl.load(b + first + j, mask=first + j < T, other=0.0)  #? erase
            Q_j = one_token(q, first + j, d, q_t, T, DK)
            dK += D_j[:, None] * Q_j[None, :] * tl.exp2(kept)
            kept += tl.where((i < j)[:, None], a_j[None, :], 0.0)  #? before
        Q = taken(q, t, d, q_t, T, DK).to(tl.float32)
        K = taken(k, t, d, k_t, T, DK).to(tl.float32)
        dQ += taken(dq + n * T * DK, t, d, DK, T, DK).to(tl.float32)
        tl.store(db + n * T + t, tl.sum(Q * dQ, 1), mask=t < T)  #? erase
        dQ *= tl.load(b + t, mask=t < T, other=0.0)[:, None]  #? erase
        put(dq + n * T * DK, dQ, t, d, DK, T, DK)
        read = Q * dQ
        dc = read - K * dK
        dA = tl.cumsum(dc, 0, reverse=True) + later[None, :]<before: - read>
        later += tl.sum(dc, 0)
        dK += taken(dk + n * T * DK, t, d, DK, T, DK).to(tl.float32)  #? erase
        put(dk + n * T * DK, dK, t, d, DK, T, DK)
        dA += taken(da + n * T * DK, t, d, DK, T, DK)  #? erase
        put(da + n * T * DK, dA, t, d, DK, T, DK)
'''

_FADE = '''
@triton.jit
def NAME_fade(
    k, <erase:p, >log_a, at_end, <erase:begun, >whole, T, H, k_x, k_h, k_t, <erase:p_x, p_h, p_t, >a_x, a_h, a_t,
    DK: tl.constexpr, BK: tl.constexpr, C: tl.constexpr,
):
    """Keys as at the end of their chunk, <erase:probes as from its start, >and the decays of all of it."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i
    x, head = n // H, n % H
    a, <erase:c><!erase:_>, left = rates(log_a + x * a_x + head * a_h, t, d, a_t, T, DK)
    K = taken(k + x * k_x + head * k_h, t, d, k_t, T, DK).to(tl.float32) * tl.exp2(left)
    put(at_end + n * T * DK, K, t, d, DK, T, DK)
    P = taken(p + x * p_x + head * p_h, t, d, p_t, T, DK).to(tl.float32) * tl.exp2(c - a)  #? erase
    put(begun + n * T * DK, P, t, d, DK, T, DK)  #? erase
    tl.store(whole + m * DK + d, tl.exp2(tl.sum(a, 0)), mask=d < DK)


def NAME_faded(
    k: Tensor, <erase:p: Tensor, >log_a: Tensor, dtype: torch.dtype, dv: int,
) -> tuple[<erase:Tensor, >Tensor, Tensor]:
    """Keys as at the end of their chunk, <erase:probes as from its start, >and the decays of chunks."""
    (X, H, T, dk), sizes = k.shape, sizes_of("grads", k.shape[-1], dv, k.shape[2])
    at_end = k.new_empty(k.shape, dtype=dtype)
    begun = p.new_empty(p.shape, dtype=dtype)  #? erase
    whole = log_a.new_empty(X, H, -(-T // sizes["C"]), dk)
    args = [
        k, <erase:p, >log_a, at_end, <erase:begun, >whole, T, H,
        *k.stride()[:3], <erase:*p.stride()[:3], >*log_a.stride()[:3],
    ]
    launch(NAME_fade, (whole.shape[:3].numel(),), args, dtype, **sizes)
    return at_end, <erase:begun, >whole
'''

_SOLVE = '''
@triton.jit
def NAME_solve(
    scores, b, inverse, T, C: tl.constexpr, PRECISION: tl.constexpr,
):
    """(I + L)^-1 of a chunk, L = b_t times its scores below the diagonal."""
    m, i = tl.program_id(0).to(tl.int64), tl.arange(0, C)
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i
    at = m * C * C + i[:, None] * C + i[None, :]
    L = tl.load(scores + at, mask=i[:, None] > i[None, :], other=0.0)
    L *= tl.load(b + n * T + t, mask=t < T, other=0.0)[:, None]
    X = inverse_of(L, C, PRECISION)
    tl.store(inverse + at, X.to(inverse.dtype.element_ty))
'''

_SCAN = '''
@triton.jit
def NAME_chunks(
    S, k, u, <erase:b, p, inverse, >whole, end, <erase:rows, >starts, T, H, u_x, u_h, u_t,
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """Chunk after chunk for a block of dv: S before each, <erase:what it writes, >S after the last."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, d, v = tl.arange(0, C), tl.arange(0, BK), part * BV + tl.arange(0, BV)
    h = taken_block(S + n * DK * DV, d, v, DK, 1, DK, DV)
    u += n // H * u_x + n % H * u_h
    for chunk in range(tl.cdiv(T, C)):
        m, t = n * tl.cdiv(T, C) + chunk, chunk * C + i
        put_block(starts + m * DK * DV, h, d, v, DK, 1, DK, DV)
        R = taken(u, t, v, u_t, T, DV)<erase:.to(tl.float32)><!erase:.to(DOT)>
        P = taken(p + n * T * DK, t, d, DK, T, DK).to(DOT)  #? erase
        erase = tl.load(b + n * T + t, mask=t < T, other=0.0)  #? erase
        R -= erase[:, None] * tl.dot(P, h.to(DOT), input_precision=PRECISION)  #? erase
        X = tl.load(inverse + m * C * C + i[:, None] * C + i[None, :]).to(DOT)  #? erase
        R = tl.dot(X, R.to(DOT), input_precision=PRECISION)  #? erase
        put(rows + n * T * DV, R, t, v, DV, T, DV)  #? erase
        h *= tl.load(whole + m * DK + d, mask=d < DK, other=0.0)[:, None]
        K = taken(k + n * T * DK, t, d, DK, T, DK).to(DOT)
        h += tl.dot(tl.trans(K), R<erase:.to(DOT)>, input_precision=PRECISION)
    put_block(end + n * DK * DV, h, d, v, DK, 1, DK, DV)
'''

_SCAN_BACK = '''
@triton.jit
def NAME_back(
    k, <erase:b, p, inverse, >whole, d_end, <erase:d_rows, >d_starts, ends, du, dS, T,
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """Backwards over chunks for a block of dv: what S behind each and its rows are worth."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, d, v = tl.arange(0, C), tl.arange(0, BK), part * BV + tl.arange(0, BV)
    dh = taken_block(d_end + n * DK * DV, d, v, DK, 1, DK, DV)
    chunks = tl.cdiv(T, C)
    for back in range(chunks):
        chunk = chunks - 1 - back
        m, t = n * chunks + chunk, chunk * C + i
        put_block(ends + m * DK * DV, dh, d, v, DK, 1, DK, DV)
        K = taken(k + n * T * DK, t, d, DK, T, DK).to(DOT)
        Y = tl.dot(K, dh.to(DOT), input_precision=PRECISION)
        Y += taken(d_rows + n * T * DV, t, v, DV, T, DV)  #? erase
        X_t = tl.load(inverse + m * C * C + i[None, :] * C + i[:, None]).to(DOT)  #? erase
        Y = tl.dot(X_t, Y.to(DOT), input_precision=PRECISION)  #? erase
        put(du + n * T * DV, Y, t, v, DV, T, DV)
        dh *= tl.load(whole + m * DK + d, mask=d < DK, other=0.0)[:, None]
        P = taken(p + n * T * DK, t, d, DK, T, DK).to(DOT)  #? erase
        Y = (Y * tl.load(b + n * T + t, mask=t < T, other=0.0)[:, None]).to(DOT)  #? erase
        dh -= tl.dot(tl.trans(P), Y, input_precision=PRECISION)  #? erase
        dh += taken_block(d_starts + m * DK * DV, d, v, DK, 1, DK, DV)
    put_block(dS + n * DK * DV, dh, d, v, DK, 1, DK, DV)
'''

_SCAN_GRADS = '''
@triton.jit
def NAME_grads(
    k, log_a, rows, starts, ends, <erase:du, pairs, >dk, <erase:dp, >da, T, H,
    k_x, k_h, k_t, a_x, a_h, a_t, r_x, r_h, r_t,
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """The slopes by what a chunk is made of, from rows and S at both ends<erase:, but for scores>."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i
    x, head = n // H, n % H
    dK = tl.zeros([C, BK], tl.float32)
    dP = tl.zeros([C, BK], tl.float32)  #? erase
    D = tl.zeros([C, C], tl.float32)  #? erase
    last = tl.zeros([BK], tl.float32)
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        R = taken(rows + x * r_x + head * r_h, t, v, r_t, T, DV).to(DOT)
        g = taken_block(ends + m * DK * DV, d, v, DK, 1, DK, DV).to(DOT)
        dK += tl.dot(R, tl.trans(g), input_precision=PRECISION)
        h = taken_block(starts + m * DK * DV, d, v, DK, 1, DK, DV).to(DOT)
        last += tl.sum(g.to(tl.float32) * h.to(tl.float32), 1)
        Y = taken(du + n * T * DV, t, v, DV, T, DV).to(DOT)  #? erase
        D -= tl.dot(Y, tl.trans(R), input_precision=PRECISION)  #? erase
        dP -= tl.dot(Y, tl.trans(h), input_precision=PRECISION)  #? erase
    tl.store(pairs + m * C * C + i[:, None] * C + i[None, :], D.to(pairs.dtype.element_ty))  #? erase
    a, <erase:c><!erase:_>, left = rates(log_a + x * a_x + head * a_h, t, d, a_t, T, DK)
    put(dp + n * T * DK, dP * tl.exp2(c - a), t, d, DK, T, DK)  #? erase
    dK *= tl.exp2(left)
    put(dk + n * T * DK, dK, t, d, DK, T, DK)
    dK *= taken(k + x * k_x + head * k_h, t, d, k_t, T, DK).to(tl.float32)
    last *= tl.exp2(tl.sum(a, 0))
    put(da + n * T * DK, tl.cumsum(dK, 0) - dK + last[None, :], t, d, DK, T, DK)
'''

_SCAN_OPERATOR = '''
def NAME(
    S: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor, <erase:p: Tensor,>
) -> tuple[Tensor, Tensor, Tensor]:
    """S_t = S_{t-1} Diag(a_t) + <erase:(>u_t<erase: - b_t S_{t-1} p_t)> k_tᵀ: S after the last token,
    <!erase:u, ><erase:the rows that were written, >S before each chunk.

    S [..., dv, dk], k<erase:, p> and log_a [..., T, dk], u [..., T, dv]<erase:, b [..., T]>. Products are
    computed in the dtype of k and summed in float32, which S and what decays it are in. TypeError
    for another dtype or device.
    """
    dtype = supported(k)
    lead = torch.broadcast_shapes(
        S.shape[:-2], k.shape[:-2], u.shape[:-2], <erase:b.shape[:-1], >log_a.shape[:-2], <erase:p.shape[:-2],>
    )
    S = fitted(lead, 2, S.float())[0].contiguous()
    log_a = rows_of(torch.float32, *fitted(lead, 2, log_a))
    b = fitted(lead, 1, b.float())[0].contiguous()  #? erase
    k, u<erase:, p> = (rows_of(dtype, x) for x in fitted(lead, 2, k, u<erase:, p>))
    end, <erase:rows, >starts<erase:, _> = NAME_forward(S, k, u, <erase:b, >log_a<erase:, p>)
    return tuple(x.reshape(*lead, *x.shape[2:]) for x in (end, <!erase:u><erase:rows>, starts))


def NAME_meaning(
    S: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor, <erase:p: Tensor,>
) -> tuple[Tensor, ...]:
    """Token by token."""
    C, <erase:rows, >starts = chunk_of(k.shape[-1], u.shape[-1], k.shape[-2]), <erase:[], >[]
    for t in range(k.shape[-2]):
        starts += [S] if t % C == 0 else []
        row = u[..., t, :]
        row = row - b[..., t, None] * (S @ p[..., t, :, None]).squeeze(-1)  #? erase
        rows.append(row)  #? erase
        S = log_a[..., t, None, :].exp() * S + row[..., :, None] * k[..., t, None, :]
    return S, <erase:torch.stack(rows, -2), >torch.stack(starts, -3)


@torch.library.custom_op(f"{OPERATORS}::NAME", mutates_args=())
def NAME_forward(
    S: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor, <erase:p: Tensor,>
) -> tuple[<erase:Tensor, Tensor, >Tensor, Tensor]:
    """S after the last token, <erase:rows, >S before each chunk<erase:, inverses of chunks>: as [X, H, ...]."""
    end, <erase:rows, >starts<erase:, inverse> = out = NAME_shapes(S, k, u)
    (X, H, T, dk), dv = k.shape, u.shape[-1]
    checked(NAME_forward, NAME_meaning, k, dv, T, log_a="T dk")
    at_end, <erase:begun, >whole = NAME_faded(k, <erase:p, >log_a, k.dtype, dv)
    scores = torch.empty_like(inverse, dtype=torch.float32)  #? erase
    channel_paired_before(p, k, log_a, scores, dv)  #? erase
    sizes, args = sizes_of("solve", dk, dv, T), [scores, b, inverse, T]  #? erase
    launch(NAME_solve, (X * H * starts.shape[2],), args, k.dtype, **sizes)  #? erase
    sizes = sizes_of("scan", dk, dv, T)
    args = [
        S, at_end, u, <erase:b, begun, inverse, >whole, end, <erase:rows, >starts, T, H, *u.stride()[:3],
    ]
    launch(NAME_chunks, (X * H * triton.cdiv(dv, sizes["BV"]),), args, k.dtype, **sizes)
    return out


@NAME_forward.register_fake
def NAME_shapes(S, k, u, *_):
    """What the operator returns, but for its values."""
    (X, H, T, dk), dv = k.shape, u.shape[-1]
    C = chunk_of(dk, dv, T)
    chunks = -(-T // C)
    end, starts = torch.empty_like(S), k.new_empty(X, H, chunks, dv, dk)
    return end, starts  #? !erase
    return end, k.new_empty(X, H, T, dv), starts, k.new_empty(X, H, chunks, C, C)  #? erase


@torch.library.custom_op(f"{OPERATORS}::NAME_backward", mutates_args=())
def NAME_backward(
    k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor, <erase:p: Tensor, rows: Tensor, >starts: Tensor,
    <erase:inverse: Tensor, >d_end: Tensor, <erase:d_rows: Tensor, >d_starts: Tensor,
) -> tuple[<erase:Tensor, Tensor, >Tensor, Tensor, Tensor, Tensor]:
    """The slopes by all that goes in, from those of all that comes out."""
    (X, H, T, dk), dv, dtype = k.shape, u.shape[-1], wider(k.dtype)
    at_end, <erase:begun, >whole = NAME_faded(k, <erase:p, >log_a, dtype, dv)
    dS, sizes = torch.empty_like(d_end), sizes_of("scan_back", dk, dv, T)
    sizes["BV"] = width(dv, 16)  # of S, probes and keys, what registers hold  #? erase
    du, ends = u.new_empty(u.shape, dtype=dtype), starts.new_empty(starts.shape, dtype=dtype)
    args = [
        at_end, <erase:b, begun, inverse, >whole, d_end, <erase:d_rows, >d_starts, ends, du, dS, T,
    ]
    launch(NAME_back, (X * H * triton.cdiv(dv, sizes["BV"]),), args, dtype, **sizes)
    dk_, <erase:dp, >da = (x.new_empty(x.shape) for x in (k, <erase:p, >log_a))
    db, pairs = torch.empty_like(b), torch.empty_like(inverse, dtype=dtype)  #? erase
    args = [
        k, log_a, ROWS, starts, ends, <erase:du, pairs, >dk_, <erase:dp, >da, T, H,
        *k.stride()[:3], *log_a.stride()[:3], *ROWS.stride()[:3],
    ]
    grid = (X * H * starts.shape[2],)
    launch(NAME_grads, grid, args, dtype, **sizes_of("grads", dk, dv, T))
    args = [  #? erase
        p, k, log_a, b, pairs, dp, dk_, db, da, T, H, *p.stride()[:3], *k.stride()[:3], *log_a.stride()[:3],  #? erase
    ]  #? erase
    launch(NAME_spread, grid, args, dtype, **sizes_of("out", dk, dv, T))  #? erase
    return dS, dk_, du, <erase:db, >da<erase:, dp>


@NAME_backward.register_fake
def NAME_slopes(k, u, <erase:b, >log_a, <erase:p, >*rest):
    """The shapes of the slopes."""
    du = u.new_empty(u.shape, dtype=wider(k.dtype))
    dk, <erase:db, >da<erase:, dp> = (x.new_empty(x.shape) for x in (k, <erase:b, >log_a<erase:, p>))
    return torch.empty_like(rest[<erase:-3><!erase:-2>]), dk, du, <erase:db, >da<erase:, dp>


def NAME_setup(ctx, inputs, output):
    _, k, u, <erase:b, >log_a<erase:, p> = inputs
    _, <erase:rows, >starts<erase:, inverse> = output
    ctx.save_for_backward(k, u, <erase:b, >log_a, <erase:p, rows, >starts<erase:, inverse>)


def NAME_slope(ctx, *grads):
    grads = [x.contiguous() for x in grads<erase:[:3]>]
    dS, dk, du, <erase:db, >da<erase:, dp> = NAME_backward(*ctx.saved_tensors, *grads)
    return dS, dk, du.to(ctx.saved_tensors[1].dtype), <erase:db, >da<erase:, dp>


NAME_forward.register_autograd(NAME_slope, setup_context=NAME_setup)
'''

_READ = '''
@triton.jit
def NAME_out(
    q, rows, starts, log_a, scores, out, T, H, q_x, q_h, q_t, r_x, r_h, r_t, a_x, a_h, a_t, s_n, s_v, s_d,
    o_x, o_h, o_t,
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """SAID for a block of dv: what a chunk began with, and what was written since."""
    m, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, d, v = tl.arange(0, C), tl.arange(0, BK), part * BV + tl.arange(0, BV)
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i
    x, head = n // H, n % H
    a, c, _ = rates(log_a + x * a_x + head * a_h, t, d, a_t, T, DK)
    Q = taken(q + x * q_x + head * q_h, t, d, q_t, T, DK).to(tl.float32)
    Q = (Q * tl.exp2(<!before:c><before:c - a>)).to(DOT)
    h = taken_block(starts + m * s_n, d, v, s_v, s_d, DK, DV).to(DOT)
    value = tl.dot(Q, h, input_precision=PRECISION)
    at = scores + m * C * C + i[:, None] * C + i[None, :]
    A = tl.load(at, mask=i[:, None] ORDER i[None, :], other=0.0).to(DOT)
    R = taken(rows + x * r_x + head * r_h, t, v, r_t, T, DV).to(DOT)
    value += tl.dot(A, R, input_precision=PRECISION)
    put(out + x * o_x + head * o_h, value, t, v, o_t, T, DV)


def NAME_meaning(
    QUERY: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor,
) -> tuple[Tensor, ...]:
    """Token by token."""
    C, out = chunk_of(k.shape[-1], rows.shape[-1], k.shape[-2]), []
    for t in range(k.shape[-2]):
        if t % C == 0:
            S = starts[..., t // C, :, :]
        out.append((S<turned:.mT> @ QUERY[..., t, :, None]).squeeze(-1))  #? before
        S = log_a[..., t, None, :].exp() * S + rows[..., t, :, None] * k[..., t, None, :]
        out.append((S<turned:.mT> @ QUERY[..., t, :, None]).squeeze(-1))  #? !before
    return (torch.stack(out, -2),)


@torch.library.custom_op(f"{OPERATORS}::NAME", mutates_args=())
def NAME_forward(
    q: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor,
) -> tuple[Tensor, Tensor]:
    """Over [X, H, ...], tokens before heads in memory, where modules want them; and scores."""
    out, scores = NAME_shapes(q, k, rows, starts, log_a)
    (X, H, T, dk), dv = q.shape, rows.shape[-1]
    checked(NAME_forward, NAME_meaning, k, dv, T, log_a="T dk")
    channel_paired<before:_before>(q, k, log_a, scores, dv)
    sizes = sizes_of("out", dk, dv, T)
    args = [
        q, rows, starts, log_a, scores, out, T, H, *q.stride()[:3], *rows.stride()[:3], *log_a.stride()[:3],
        *starts.stride()[2:], *out.stride()[:3],
    ]
    grid = (X * H * starts.shape[2] * triton.cdiv(dv, sizes["BV"]),)
    launch(NAME_out, grid, args, q.dtype, **sizes)
    return out, scores


@NAME_forward.register_fake
def NAME_shapes(q, k, rows, starts, log_a):
    """What the operator returns, but for its values."""
    (X, H, T, dk), dv = q.shape, rows.shape[-1]
    C = chunk_of(dk, dv, T)
    return q.new_empty(X, T, H, dv).transpose(1, 2), q.new_empty(X, H, starts.shape[2], C, C)
'''

_READ_BACK = '''
@triton.jit
def NAME_grads(
    q, v, rows, starts, log_a, scores, dq, d_rows, d_starts, pairs, T, H,
    q_x, q_h, q_t, v_x, v_h, v_t, r_x, r_h, r_t, a_x, a_h, a_t, s_n, s_v, s_d,
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What reads of a chunk are worth to rows, start and scores, and to q through the start."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i
    x, head = n // H, n % H
    a, c, _ = rates(log_a + x * a_x + head * a_h, t, d, a_t, T, DK)
    read = tl.exp2(<!before:c><before:c - a>)
    Q = (taken(q + x * q_x + head * q_h, t, d, q_t, T, DK).to(tl.float32) * read).to(DOT)
    at = scores + m * C * C + i[None, :] * C + i[:, None]
    A_t = tl.load(at, mask=i[None, :] ORDER i[:, None], other=0.0).to(DOT)
    D = tl.zeros([C, C], tl.float32)
    dQ = tl.zeros([C, BK], tl.float32)
    for first in range(0, DV, BV):
        w = first + tl.arange(0, BV)
        V = taken(v + x * v_x + head * v_h, t, w, v_t, T, DV).to(DOT)
        R = taken(rows + x * r_x + head * r_h, t, w, r_t, T, DV).to(DOT)
        D += tl.dot(V, tl.trans(R), input_precision=PRECISION)
        h = taken_block(starts + m * s_n, d, w, s_v, s_d, DK, DV).to(DOT)
        dQ += tl.dot(V, tl.trans(h), input_precision=PRECISION)
        dR = tl.dot(A_t, V, input_precision=PRECISION)
        put(d_rows + n * T * DV, dR, t, w, DV, T, DV)
        dh = tl.dot(tl.trans(Q), V, input_precision=PRECISION)
        put_block(d_starts + m * DK * DV, dh, d, w, DK, 1, DK, DV)
    tl.store(pairs + m * C * C + i[:, None] * C + i[None, :], D.to(pairs.dtype.element_ty))
    put(dq + n * T * DK, dQ * read, t, d, DK, T, DK)
'''

_READ_BACKWARD = '''
@torch.library.custom_op(f"{OPERATORS}::NAME_backward", mutates_args=())
def NAME_backward(
    q: Tensor, v: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor, scores: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The slopes of v_tᵀ <!before:S_t><before:S_{t-1}> q_t by all but v."""
    out = NAME_slopes(q, v, k, rows, starts, log_a, scores)
    dq, dk_, d_rows, d_starts, da = out
    (X, H, T, dk), dv, dtype = q.shape, rows.shape[-1], wider(k.dtype)
    pairs, grid = torch.empty_like(scores, dtype=dtype), (X * H * starts.shape[2],)
    args = [
        q, v, rows, starts, log_a, scores, dq, d_rows, d_starts, pairs, T, H,
        *q.stride()[:3], *v.stride()[:3], *rows.stride()[:3], *log_a.stride()[:3], *starts.stride()[2:],
    ]
    launch(NAME_grads, grid, args, dtype, **sizes_of("out_back", dk, dv, T))
    args = [
        q, k, log_a, pairs, dq, dk_, da, T, H, *q.stride()[:3], *k.stride()[:3], *log_a.stride()[:3],
    ]
    launch(NAME_spread, grid, args, dtype, **sizes_of("out", dk, dv, T))
    return out


@NAME_backward.register_fake
def NAME_slopes(q, v, k, rows, starts, log_a, scores):
    """The shapes of the slopes."""
    dq, dk, da = (x.new_empty(x.shape) for x in (q, k, log_a))
    d_rows, d_starts = (x.new_empty(x.shape, dtype=wider(k.dtype)) for x in (rows, starts))
    return dq, dk, d_rows, d_starts, da
'''

_READ_OPERATOR = '''
def NAME(
    QUERY: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor,
) -> Tensor:
    """SAID, where every channel of the keys decays at a rate of its own.

    From <!turned:q, >k and log_a [..., T, dk], <turned:v and >rows [..., T, dv], and S before each chunk.
    """
    dtype = supported(k)
    lead = torch.broadcast_shapes(
        QUERY.shape[:-2], k.shape[:-2], rows.shape[:-2], starts.shape[:-3], log_a.shape[:-2],
    )
    QUERY, k, rows = (rows_of(dtype, x) for x in fitted(lead, 2, QUERY, k, rows))
    starts = in_a_row(*fitted(lead, 3, starts))
    log_a = rows_of(torch.float32, *fitted(lead, 2, log_a))
    out<!turned:, _> = NAME_forward(QUERY, k, rows, starts, log_a)
    return out.reshape(*lead, *out.shape[2:])


'''

_READ_SLOPE = """
def NAME_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])


def NAME_slope(ctx, grad, _):
    q, k, rows, starts, log_a, scores = ctx.saved_tensors
    v = rows_of(wider(k.dtype), grad)
    dq, dk, d_rows, d_starts, da = NAME_backward(q, v, k, rows, starts, log_a, scores)
    return dq, dk, d_rows.to(rows.dtype), d_starts.to(starts.dtype), da


NAME_forward.register_autograd(NAME_slope, setup_context=NAME_setup)
"""

_TURNED = '''
@triton.jit
def NAME_out(
    v, k, rows, starts, log_a, out, T, H, v_x, v_h, v_t, k_x, k_h, k_t, r_x, r_h, r_t, a_x, a_h, a_t,
    s_n, s_v, s_d, o_x, o_h, o_t,
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """SAID for 16 tokens: what the chunk began with, and what was written since."""
    m, own = tl.program_id(0).to(tl.int64) // (C // 16), tl.program_id(0) % (C // 16)
    n, i, d = m // tl.cdiv(T, C), tl.arange(0, 16), tl.arange(0, BK)
    first = m % tl.cdiv(T, C) * C + own * 16
    x, head = n // H, n % H
    v += x * v_x + head * v_h
    k += x * k_x + head * k_h
    rows += x * r_x + head * r_h
    log_a += x * a_x + head * a_h
    value = tl.zeros([16, BK], tl.float32)
    past = tl.zeros([BK], tl.float32)
    for back in range(own):
        t = first - (back + 1) * 16 + i
        A = tl.zeros([16, 16], tl.float32)
        for begin in range(0, DV, BV):
            w = begin + tl.arange(0, BV)
            V = taken(v, first + i, w, v_t, T, DV).to(DOT)
            R = taken(rows, t, w, r_t, T, DV).to(DOT)
            A += tl.dot(V, tl.trans(R), input_precision=PRECISION)
        K = taken(k, t, d, k_t, T, DK).to(tl.float32)
        a, _, left = rates(log_a, t, d, a_t, T, DK)
        K = (K * tl.exp2(left + past[None, :])).to(DOT)
        value += tl.dot(A.to(DOT), K, input_precision=PRECISION)
        past += tl.sum(a, 0)
    A = tl.zeros([16, 16], tl.float32)
    begun = tl.zeros([16, BK], tl.float32)
    for begin in range(0, DV, BV):
        w = begin + tl.arange(0, BV)
        V = taken(v, first + i, w, v_t, T, DV).to(DOT)
        R = taken(rows, first + i, w, r_t, T, DV).to(DOT)
        A += tl.dot(V, tl.trans(R), input_precision=PRECISION)
        h = taken_block(starts + m * s_n, d, w, s_v, s_d, DK, DV).to(DOT)
        begun += tl.dot(V, tl.trans(h), input_precision=PRECISION)
    a, c, _ = rates(log_a, first + i, d, a_t, T, DK)
    value = (value + begun * tl.exp2(past)[None, :]) * tl.exp2(<!before:c><before:c - a>)
    kept = tl.zeros([16, BK], tl.float32)
    for back in range(16):
        j = 15 - back
        seen = i ORDER j
        score = tl.sum(tl.where(seen[:, None] & (i == j)[None, :], A, 0.0), 1)
        K_j = one_token(k, first + j, d, k_t, T, DK)
        value += score[:, None] * K_j[None, :] * tl.exp2(kept)
        a_j = one_token(log_a, first + j, d, a_t, T, DK) * 1.4426950408889634
        kept += tl.where(seen[:, None], a_j[None, :], 0.0)
    put(out + x * o_x + head * o_h, value, first + i, d, o_t, T, DK)
'''

_TURNED_OPERATOR = '''
def NAME_meaning(
    QUERY: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor,
) -> tuple[Tensor, ...]:
    """Token by token."""
    C, out = chunk_of(k.shape[-1], rows.shape[-1], k.shape[-2]), []
    for t in range(k.shape[-2]):
        if t % C == 0:
            S = starts[..., t // C, :, :]
        out.append((S<turned:.mT> @ QUERY[..., t, :, None]).squeeze(-1))  #? before
        S = log_a[..., t, None, :].exp() * S + rows[..., t, :, None] * k[..., t, None, :]
        out.append((S<turned:.mT> @ QUERY[..., t, :, None]).squeeze(-1))  #? !before
    return (torch.stack(out, -2),)


@torch.library.custom_op(f"{OPERATORS}::NAME", mutates_args=())
def NAME_forward(
    v: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor,
) -> Tensor:
    """Over [X, H, ...], tokens before heads in memory, where modules want them."""
    out = NAME_shapes(v, k)
    (X, H, T, dk), dv = k.shape, rows.shape[-1]
    checked(NAME_forward, NAME_meaning, k, dv, T, log_a="T dk")
    sizes = sizes_of("out", dk, dv, T)
    args = [
        v, k, rows, starts, log_a, out, T, H, *v.stride()[:3], *k.stride()[:3], *rows.stride()[:3],
        *log_a.stride()[:3], *starts.stride()[2:], *out.stride()[:3],
    ]
    grid = (X * H * starts.shape[2] * (sizes["C"] // 16),)
    launch(NAME_out, grid, args, k.dtype, **sizes)
    return out


@NAME_forward.register_fake
def NAME_shapes(v, k, *_):
    """What the operator returns, but for its values."""
    X, H, T, dk = k.shape
    return v.new_empty(X, T, H, dk).transpose(1, 2)


def NAME_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def NAME_slope(ctx, grad):
    v, k, rows, starts, log_a = ctx.saved_tensors
    q = rows_of(wider(k.dtype), grad)
    dv, scores = PLAIN_forward(q, k, rows, starts, log_a)
    _, dk, d_rows, d_starts, da = PLAIN_backward(q, v, k, rows, starts, log_a, scores)
    return dv.to(v.dtype), dk, d_rows.to(rows.dtype), d_starts.to(starts.dtype), da


NAME_forward.register_autograd(NAME_slope, setup_context=NAME_setup)
'''


def _laid(text: str) -> str:
    """Calls, lists and signatures that the text has over lines, on as few as they need."""
    out, lines = [], iter(text.split("\n"))
    for line in lines:
        bare = line.lstrip()
        depth = (len(line) - len(bare)) // 4
        if bare.endswith(("(", "[")) and not bare.startswith(("#", '"')):
            inner, pad = [], "    " * depth
            while not (end := next(lines)).startswith((f"{pad})", f"{pad}]")):
                inner.append(end.strip())
            args = [x.strip() for x in " ".join(inner).split(",") if x.strip()]
            line = packed(bare, args, end.strip(), depth)
        elif len(line) > WIDTH and (call := re.fullmatch(r"(\w[\w., =]*\()(.*)\)", bare)):
            start, inner = call.groups()
            if 4 * depth + 4 + len(inner) > WIDTH:
                line = packed(start, inner.split(", "), ")", depth)
            else:
                pad = "    " * depth
                line = f"{pad}{start}\n{pad}    {inner}\n{pad})"
        out.append(line)
    return "\n".join(out)


def _text(source: str, name: str, **flags: bool) -> str:
    flags = dict(erase=False, before=False, turned=False) | flags
    at = "t-1" if flags["before"] else "t"
    read = f"S_{{{at}}}ᵀ v_t" if flags["turned"] else f"S_{{{at}}} q_t"
    words = {
        "SAID": read if flags["before"] else read.replace("{t}", "t"),
        "ORDER": ">" if flags["before"] else ">=",
        "QUERY": "v" if flags["turned"] else "q",
        "PLAIN": name.replace("turned_", ""),
        "ROWS": "rows" if flags["erase"] else "u",
        "NAME": name,
    }
    text = select(source, **flags)
    for word, meant in words.items():
        text = text.replace(word, meant)
    return _laid(text)


def _entry(name: str, *sources: str, **flags: bool) -> str:
    """Kernels and their operators as one text."""
    return "\n" + "\n\n\n".join(_text(x, name, **flags).strip("\n") for x in sources) + "\n"


def _texts() -> dict[str, str]:
    out = {**_ACCESS, "rates": _RATES, "one_token": _TOKEN}
    for before in (False, True):
        out["channel_paired" + "_before" * before] = _entry(
            "channel_paired" + "_before" * before, _SCORES, before=before
        )
    out["channel_scan"] = _entry(
        "channel_scan", _FADE, _SCAN, _SCAN_BACK, _SCAN_GRADS, _SCAN_OPERATOR
    )
    kernels = _FADE, _SOLVE, _SCAN, _SCAN_BACK, _SCAN_GRADS, _SPREAD
    out["channel_delta_scan"] = _entry(
        "channel_delta_scan", *kernels, _SCAN_OPERATOR, erase=True, before=True
    )
    for before in (False, True):
        name, turned = (f"channel_{x}read{'_before' * before}" for x in ("", "turned_"))
        backward = _READ_BACK, _SPREAD, _READ_BACKWARD
        out[f"{name}_forward"] = _entry(name, _READ, before=before)
        out[f"{name}_backward"] = _entry(name, *backward, before=before)
        out[name] = _entry(name, _READ_OPERATOR, _READ_SLOPE, before=before)
        operator = _TURNED, _READ_OPERATOR, _TURNED_OPERATOR
        out[turned] = _entry(turned, *operator, before=before, turned=True)
    return out


TEXTS: dict[str, str] = _texts()
