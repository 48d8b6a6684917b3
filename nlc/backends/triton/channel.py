"""Where every channel of the keys decays at a rate of its own: scores of a chunk as a Triton kernel, and its gradient.

    S_t = S_{t−1} Diag(a_t) + (u_t − b_t S_{t−1} p_t) k_tᵀ        with c = log₂ a by channel, summed up to t in a chunk

A score Σ_d q_td k_id 2^{c_td − c_id} is no product of matrices. In blocks of 16 x 16 it is: left of the diagonal, rows
decay from the end of the block before theirs, and columns up to there; on the diagonal it is a sum for each column.
Exponents are sums of logs between two tokens, never differences of long sums, so they are ≤ 0 and exact where decays
are strong.
"""

from __future__ import annotations

from nlc.backends.triton.forms import worded

_RATES = '''
CONFIG |= {
    "paired": (16, 4, 1),
    "spread": (16, 1, 1),  # channels of dk
    "channel_grads": (64, 4, 2),  # of either
}


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
    for back in tl.range(16, loop_unroll_factor=4):
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
    launch(NAME_block, grid, args, q.dtype, **sizes_of("paired", dk, dv, T))
'''

# The gradient of Σ_ti D_ti Σ_d q_td k_id 2^{c_td − c_id}; for a scan q is its probe, and D is still without b
SPREAD = '''
@triton.jit
def NAME_spread(
    q, k, log_a, <erase:b, >pairs, dq, dk, <erase:db, >da, T, H, q_x, q_h, q_t, k_x, k_h, k_t, a_x, a_h, a_t,
    DK: tl.constexpr, BD: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What the scores of a chunk are worth to some channels of all, the last 16 tokens first."""
    m, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DK, BD), tl.program_id(0) % tl.cdiv(DK, BD)
    i, d = tl.arange(0, 16), part * BD + tl.arange(0, BD)
    n, begin = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C
    base = (n // H * T * H + n % H) * DK
    q += n // H * q_x + n % H * q_h
    k += n // H * k_x + n % H * k_h
    log_a += n // H * a_x + n % H * a_h
    b += n * T  #? erase
    pairs += m * C * C
    later = tl.zeros([BD], tl.float32)
    for step in range(C // 16):
        own = C // 16 - 1 - step
        first, row, column = begin + own * 16, pairs + (own * 16 + i) * C, pairs + own * 16 + i
        dQ = tl.zeros([16, BD], tl.float32)
        past = tl.zeros([BD], tl.float32)
        for back in range(own):
            t = first - (back + 1) * 16 + i
            K = taken(k, t, d, k_t, T, DK).to(tl.float32)
            a, _, left = rates(log_a, t, d, a_t, T, DK)
            K = (K * tl.exp2(left + past[None, :])).to(DOT)
            D = tl.load(row[:, None] + (own - 1 - back) * 16 + i[None, :]).to(DOT)
            dQ += tl.dot(D, K, input_precision=PRECISION)
            past += tl.sum(a, 0)
        dK = tl.zeros([16, BD], tl.float32)
        past = tl.zeros([BD], tl.float32)
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
        kept = tl.zeros([16, BD], tl.float32)
        for back in tl.range(16, loop_unroll_factor=4):
            j = 15 - back
            seen = i ORDER j
            D_j = tl.load(row + own * 16 + j, mask=seen, other=0.0).to(tl.float32)
            K_j = one_token(k, first + j, d, k_t, T, DK)
            dQ += D_j[:, None] * K_j[None, :] * tl.exp2(kept)
            a_j = one_token(log_a, first + j, d, a_t, T, DK) * 1.4426950408889634
            kept += tl.where(seen[:, None], a_j[None, :], 0.0)
        kept = tl.zeros([16, BD], tl.float32)
        for j in tl.range(16, loop_unroll_factor=4):
            a_j = one_token(log_a, first + j, d, a_t, T, DK) * 1.4426950408889634
            kept += tl.where((i < j)[:, None], a_j[None, :], 0.0)  #? !before
            D_j = tl.load(column + (own * 16 + j) * C, mask=j ORDER i, other=0.0).to(tl.float32)
            D_j *= tl.load(b + first + j, mask=first + j < T, other=0.0)  #? erase
            Q_j = one_token(q, first + j, d, q_t, T, DK)
            dK += D_j[:, None] * Q_j[None, :] * tl.exp2(kept)
            kept += tl.where((i < j)[:, None], a_j[None, :], 0.0)  #? before
        Q = taken(q, t, d, q_t, T, DK).to(tl.float32)
        K = taken(k, t, d, k_t, T, DK).to(tl.float32)
        dQ += taken(dq + base, t, d, H * DK, T, DK).to(tl.float32)
        at = (n * T + t) * tl.cdiv(DK, BD) + part  #? erase
        tl.store(db + at, tl.sum(Q * dQ, 1), mask=t < T)  #? erase
        dQ *= tl.load(b + t, mask=t < T, other=0.0)[:, None]  #? erase
        put(dq + base, dQ, t, d, H * DK, T, DK)
        read = Q * dQ
        dc = read - K * dK
        dA = tl.cumsum(dc, 0, reverse=True) + later[None, :]<before: - read>
        later += tl.sum(dc, 0)
        dK += taken(dk + base, t, d, H * DK, T, DK).to(tl.float32)  #? erase
        put(dk + base, dK, t, d, H * DK, T, DK)
        dA += taken(da + base, t, d, H * DK, T, DK)  #? erase
        put(da + base, dA, t, d, H * DK, T, DK)
'''


def text(source: str, name: str, **flags: bool) -> str:
    """The text of kernels or of their operator under its name."""
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
    return worded(source, words, **flags)


def entry(name: str, *sources: str, **flags: bool) -> str:
    """Kernels and their operators as one text."""
    return "\n" + "\n\n\n".join(text(x, name, **flags).strip("\n") for x in sources) + "\n"


TEXTS: dict[str, str] = {
    "rates": _RATES,
    "one_token": _TOKEN,
    "channel_paired": entry("channel_paired", _SCORES),
    "channel_paired_before": entry("channel_paired_before", _SCORES, before=True),
}
