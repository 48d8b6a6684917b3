"""Where every channel of the keys decays at a rate of its own: scores of a chunk as a Triton kernel, and its gradient.

    S_t = S_{t−1} Diag(a_t) + (u_t − b_t S_{t−1} p_t) k_tᵀ        with c = log₂ a by channel, summed up to t in a chunk

A score Σ_d q_td k_id 2^{c_td − c_id} is no product of matrices. In blocks of 16 x 16 it is: left of the diagonal, rows
decay from the end of the block before theirs, and columns up to there. On the diagonal the same holds for fours of
tokens, and what is left, three tokens back at most, is a sum for each distance.
Exponents are sums of logs between two tokens, never differences of long sums, so they are ≤ 0 and exact where decays
are strong.
"""

from __future__ import annotations

from nlc.backends.triton.forms import worded

_RATES = '''
@triton.jit
def rates(log_a, token, channel, at, T, size: tl.constexpr):
    """log2 of decays by channel, their sums up to each token, and from behind it to the last."""
    a = taken(log_a, token, channel, at, T, size) * 1.4426950408889634
    return a, tl.cumsum(a, 0), tl.cumsum(a, 0, reverse=True) - a
'''

_FOURS = '''
@triton.jit
def to_end(log_a, first, channel, at, T, size: tl.constexpr, BD: tl.constexpr):
    """log2 of what decays 16 tokens from behind each up to the end of its four."""
    i = tl.arange(0, 16)
    out = tl.zeros([16, BD], tl.float32)
    for by in range(1, 4):
        token = tl.where(i % 4 + by < 4, first + i + by, T)
        out += taken(log_a, token, channel, at, T, size)
    return out * 1.4426950408889634


@triton.jit
def one_four(log_a, first, four, channel, at, T, size: tl.constexpr):
    """log2 of what a four of 16 tokens decays those before it."""
    i = tl.arange(0, 16)
    token = tl.where(i // 4 == four, first + i, T)
    past = tl.sum(taken(log_a, token, channel, at, T, size), 0) * 1.4426950408889634
    return tl.where((i // 4 < four)[:, None], past[None, :], 0.0)
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
    q, k, log_a, out, <cut:packing, >T, <cut:N, >H, <grouped:group, >q_x, q_h, q_t, k_x, k_h, k_t, a_x, a_h, a_t,
    DK: tl.constexpr, BK: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """16 rows of the scores of a chunk: q_t . k_i, channels decayed from i to <!before:t><before:t-1>."""
    m, own = tl.program_id(0).to(tl.int64) // (C // 16), tl.program_id(0) % (C // 16)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    n, start = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C  #? !cut
    first, i, d = start + own * 16, tl.arange(0, 16), tl.arange(0, BK)
    q += n // H * q_x + n % H<query: // group> * q_h
    k += n // H * k_x + n % H<grouped: // group> * k_h
    log_a += n // H * a_x + n % H * a_h
    out += m * C * C + own * 16 * C + i[:, None] * C + i[None, :]
    Q = taken(q, first + i, d, q_t, stop, DK).to(tl.float32)
    <before:a><!before:_>, c, _ = rates(log_a, first + i, d, a_t, stop, DK)
    begun = (Q * tl.exp2(<!before:c><before:c - a>)).to(DOT)
    past = tl.zeros([BK], tl.float32)
    for back in range(own):
        t = first - (back + 1) * 16 + i
        K = taken(k, t, d, k_t, stop, DK).to(tl.float32)
        a, _, left = rates(log_a, t, d, a_t, stop, DK)
        K = (K * tl.exp2(left + past[None, :])).to(DOT)
        A = tl.dot(begun, tl.trans(K), input_precision=PRECISION)
        tl.store(out + (own - 1 - back) * 16, A.to(out.dtype.element_ty))
        past += tl.sum(a, 0)
    A = tl.zeros([16, 16], tl.float32)
    kept = tl.zeros([16, BK], tl.float32)  # from the start of its four
    for by in range(<!before:0><before:1>, 4):
        t = tl.where(i % 4 >= by, first + i - by, stop)
        score = tl.sum(Q * taken(k, t, d, k_t, stop, DK).to(tl.float32) * tl.exp2(kept), 1)
        A = tl.where((i[:, None] == i[None, :] + by), score[:, None], A)
        kept += taken(log_a, t, d, a_t, stop, DK) * 1.4426950408889634
    begun = (Q * tl.exp2(kept)).to(DOT)
    K = taken(k, first + i, d, k_t, stop, DK).to(tl.float32)
    ended = to_end(log_a, first, d, a_t, stop, DK, BK)
    for four in range(1, 4):
        score = tl.dot(begun, tl.trans((K * tl.exp2(ended)).to(DOT)), input_precision=PRECISION)
        A = tl.where((i // 4 == four)[:, None] & (i // 4 < four)[None, :], score, A)
        ended += one_four(log_a, first, four, d, a_t, stop, DK)
    tl.store(out + own * 16, A.to(out.dtype.element_ty))


def NAME(
    q: Tensor, k: Tensor, log_a: Tensor, out: Tensor, dv: int, <cut:packing: Tensor | None,>
) -> None:
    """Sets scores of chunks [X, H, chunks, C, C], but for blocks of 16 above the diagonal."""
    (_, H, T, _), sizes = log_a.shape, sizes_of("paired", q.shape[-1], dv, q.shape[2], q.dtype)
    args = [
        q, k, log_a, out, <cut:*tokens_of(packing, T, sizes["C"])><!cut:T>, H, <grouped:H // k.shape[1], >*q.stride()[:3], *k.stride()[:3], *log_a.stride()[:3],
    ]
    grid = (out.shape[:4].numel() // 16,)
    launch(NAME_block, grid, args, q.dtype, **sizes)
'''

# The gradient of Σ_ti D_ti Σ_d q_td k_id 2^{c_td − c_id}; for a scan q is its probe, and D is still without b
SPREAD = '''
@triton.jit
def NAME_spread(
    q, k, log_a, <erase:b, >pairs, dq, dk, <erase:db, >da, <cut:packing, >T, <cut:N, >H, <grouped:group, >q_x, q_h, q_t, k_x, k_h, k_t, a_x, a_h, a_t,
    DK: tl.constexpr, BD: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What the scores of a chunk are worth to some channels of all, the last 16 tokens first."""
    m, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DK, BD), tl.program_id(0) % tl.cdiv(DK, BD)
    i, d = tl.arange(0, 16), part * BD + tl.arange(0, BD)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    n, start = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C  #? !cut
    base = (n // H * T * H + n % H) * DK
    q += n // H * q_x + n % H<query: // group> * q_h
    k += n // H * k_x + n % H<grouped: // group> * k_h
    log_a += n // H * a_x + n % H * a_h
    b += n * T  #? erase
    pairs += m * C * C
    later = tl.zeros([BD], tl.float32)
    for step in range(C // 16):
        own = C // 16 - 1 - step
        first, row, column = start + own * 16, pairs + (own * 16 + i) * C, pairs + own * 16 + i
        dQ = tl.zeros([16, BD], tl.float32)
        past = tl.zeros([BD], tl.float32)
        for back in range(own):
            t = first - (back + 1) * 16 + i
            K = taken(k, t, d, k_t, stop, DK).to(tl.float32)
            a, _, left = rates(log_a, t, d, a_t, stop, DK)
            K = (K * tl.exp2(left + past[None, :])).to(DOT)
            D = tl.load(row[:, None] + (own - 1 - back) * 16 + i[None, :]).to(DOT)
            dQ += tl.dot(D, K, input_precision=PRECISION)
            past += tl.sum(a, 0)
        <before:a><!before:_>, c, _ = rates(log_a, first + i, d, a_t, stop, DK)
        dQ *= tl.exp2(<!before:c><before:c - a>)
        inner, kept = tl.zeros([16, BD], tl.float32), tl.zeros([16, BD], tl.float32)
        ended = to_end(log_a, first, d, a_t, stop, DK, BD)
        for four in range(1, 4):
            K = taken(k, first + i, d, k_t, stop, DK).to(tl.float32) * tl.exp2(ended)
            D = tl.load(row[:, None] + own * 16 + i[None, :])
            D = tl.where((i // 4 == four)[:, None] & (i // 4 < four)[None, :], D, 0.0).to(DOT)
            inner += tl.dot(D, K.to(DOT), input_precision=PRECISION)
            ended += one_four(log_a, first, four, d, a_t, stop, DK)
        for by in range(<!before:0><before:1>, 4):  # kept: from the start of its four
            t = tl.where(i % 4 >= by, first + i - by, stop)
            D_by = tl.load(row + own * 16 - by + i, mask=i % 4 >= by, other=0.0).to(tl.float32)
            dQ += D_by[:, None] * taken(k, t, d, k_t, stop, DK).to(tl.float32) * tl.exp2(kept)
            kept += taken(log_a, t, d, a_t, stop, DK) * 1.4426950408889634
        kept = tl.exp2(kept)
        dQ += inner * kept
        begun = taken(q, first + i, d, q_t, stop, DK).to(tl.float32) * kept
        begun *= tl.load(b + first + i, mask=first + i < stop, other=0.0)[:, None]  #? erase
        dK = tl.zeros([16, BD], tl.float32)
        past = tl.zeros([BD], tl.float32)
        for ahead in range(own + 1, C // 16):
            t = start + ahead * 16 + i
            Q = taken(q, t, d, q_t, stop, DK).to(tl.float32)
            Q *= tl.load(b + t, mask=t < stop, other=0.0)[:, None]  #? erase
            a, c, _ = rates(log_a, t, d, a_t, stop, DK)
            Q = (Q * tl.exp2(<!before:c><before:c - a> + past[None, :])).to(DOT)
            D_t = tl.load(column[:, None] + (ahead * 16 + i)[None, :] * C).to(DOT)
            dK += tl.dot(D_t, Q, input_precision=PRECISION)
            past += tl.sum(a, 0)
        _, _, left = rates(log_a, first + i, d, a_t, stop, DK)
        dK *= tl.exp2(left)
        ended = to_end(log_a, first, d, a_t, stop, DK, BD)
        for four in range(1, 4):
            D_t = tl.load(column[:, None] + (own * 16 + i)[None, :] * C)
            D_t = tl.where((i // 4 < four)[:, None] & (i // 4 == four)[None, :], D_t, 0.0).to(DOT)
            dK += tl.exp2(ended) * tl.dot(D_t, begun.to(DOT), input_precision=PRECISION)
            ended += one_four(log_a, first, four, d, a_t, stop, DK)
        kept = tl.zeros([16, BD], tl.float32)
        for by in range(<!before:0><before:1>, 4):
            there = i % 4 + by < 4
            t = tl.where(there, first + i + by, stop)
            a = taken(log_a, t, d, a_t, stop, DK) * 1.4426950408889634
            kept += tl.where(by > 0, a, 0.0)  #? !before
            D_by = tl.load(column + (own * 16 + by + i) * C, mask=there, other=0.0).to(tl.float32)
            D_by *= tl.load(b + t, mask=t < stop, other=0.0)  #? erase
            dK += D_by[:, None] * taken(q, t, d, q_t, stop, DK).to(tl.float32) * tl.exp2(kept)
            kept += a  #? before
        t = first + i
        Q = taken(q, t, d, q_t, stop, DK).to(tl.float32)
        K = taken(k, t, d, k_t, stop, DK).to(tl.float32)
        dQ += taken(dq + base, t, d, H * DK, stop, DK).to(tl.float32)
        at = (n * T + t) * tl.cdiv(DK, BD) + part  #? erase
        tl.store(db + at, tl.sum(Q * dQ, 1), mask=t < stop)  #? erase
        dQ *= tl.load(b + t, mask=t < stop, other=0.0)[:, None]  #? erase
        put(dq + base, dQ, t, d, H * DK, stop, DK)
        read = Q * dQ
        dc = read - K * dK
        dA = tl.cumsum(dc, 0, reverse=True) + later[None, :]<before: - read>
        later += tl.sum(dc, 0)
        dK += taken(dk + base, t, d, H * DK, stop, DK).to(tl.float32)  #? erase
        put(dk + base, dK, t, d, H * DK, stop, DK)
        dA += taken(da + base, t, d, H * DK, stop, DK)  #? erase
        put(da + base, dA, t, d, H * DK, stop, DK)
'''


def text(source: str, name: str, **flags: bool) -> str:
    """The text of kernels or of their operator under its name."""
    off = ("erase", "before", "turned", "grouped", "read", "decayed")
    flags = dict.fromkeys(off, False) | dict(seen=True) | flags
    flags = dict(query=flags["grouped"] and not flags["erase"]) | flags  # probes have all heads
    at = "t-1" if flags["before"] else "t"
    read = f"S_{{{at}}}ᵀ v_t" if flags["turned"] else f"S_{{{at}}} q_t"
    words = {
        "SAID": read if flags["before"] else read.replace("{t}", "t"),
        "ORDER": ">" if flags["before"] else ">=",
        "QUERY": "v" if flags["turned"] else "q",
        "PLAIN": name.replace("turned_", ""),
        "SCAN": name.partition("_read")[0],
        "READ": f"channel_read{'_before' * flags['before']}{'_grouped' * flags['grouped']}",
        "ROWS": "rows" if flags["erase"] else "u",
        "NAME": name,
    }
    return worded(source, words, **flags)


def entry(name: str, *sources: str, **flags: bool) -> str:
    """Kernels and their operators as one text."""
    return "\n" + "\n\n\n".join(text(x, name, **flags).strip("\n") for x in sources) + "\n"


def texts(cut: bool) -> dict[str, str]:
    """What kernels of decays by channel share; ``cut``: of packed sequences, too."""
    kinds = {
        "": dict(),
        "_before": dict(before=True),
        "_grouped": dict(grouped=True),
        "_before_grouped": dict(before=True, grouped=True),
        # only keys are shared, as by a scan whose probes are not
        "_before_keyed": dict(before=True, grouped=True, query=False),
    }
    scores = {f"channel_paired{n}": flags for n, flags in kinds.items()}
    made = {n: entry(n, _SCORES, cut=cut, **flags) for n, flags in scores.items()}
    return {"rates": _RATES, "to_end": _FOURS, "one_token": _TOKEN} | made
