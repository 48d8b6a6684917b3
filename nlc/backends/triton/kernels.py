"""The record of a scan as Triton kernels: forward. What a setting of the record does not need is not in the text.

    S_t = a_t S_{t−1} + (w_t u_t − b_t S_{t−1} p_t) k_tᵀ        with c = log₂ a, summed up to t in a chunk

A state lives in registers as Sᵀ [dk, a block of dv], so that no product takes the transpose of a product: some
versions of Triton compile that wrongly for Hopper. Exponents are differences that are ≤ 0 where they count, masked
before ``exp2``. The inverse of I + L is found by substitution in blocks of 16 and by merging blocks, which stays exact
where keys are alike; a series for all 64 tokens would not (kernels.md §0.7).
"""

from __future__ import annotations

from nlc.backends.triton.forms import KernelForm, chosen, text
from nlc.backends.triton.lines import laid

_FLOW = '''
@triton.jit
def flow(x, token, channel, at, T, size: tl.constexpr):
    """Where tokens and channels are, and which of them are there."""
    there = (token < T)[:, None] & (channel < size)[None, :]
    return x + token.to(tl.int64)[:, None] * at + channel[None, :], there
'''

_BLOCK = '''
@triton.jit
def block(x, d, v, at_v, at_d, DK: tl.constexpr, DV: tl.constexpr):
    """Where a block of the transpose of a state [dv, dk] is, and which of it is there."""
    return x + d[:, None] * at_d + v[None, :] * at_v, (d < DK)[:, None] & (v < DV)[None, :]
'''

_LOGS = '''
@triton.jit
def logs(log_a):
    """log2 of the decays of a chunk from their logarithms, and their sums."""
    a = log_a * 1.4426950408889634
    return a, tl.cumsum(a, 0)
'''

_UNIT = '''
@triton.jit
def squares(x):
    """The sums of squares of rows."""
    x = x.to(tl.float32)
    return tl.sum(x * x, 1)


@triton.jit
def to_unit(length):
    """What brings rows of a square length to length one; where that is 0, it is 0."""
    return tl.where(length > 0, tl.rsqrt(length), 0.0)


@triton.jit
def scaled(x, scale, DOT: tl.constexpr):
    """Rows times a number each."""
    return (x.to(tl.float32) * scale[:, None]).to(DOT)


@triton.jit
def unit(x, EPS: tl.constexpr, DOT: tl.constexpr):
    """Rows of length one, and what they were multiplied with."""
    scale = to_unit(squares(x) + EPS)
    return (x.to(tl.float32) * scale[:, None]).to(DOT), scale
'''

_INVERSE = '''
@triton.jit
def inverse_of(L, C: tl.constexpr, PRECISION: tl.constexpr):
    """(I + L)^-1 for L [C, C] below its diagonal: blocks of 16 by substitution, then merged."""
    n: tl.constexpr = C // 16
    i, part, t = tl.arange(0, 16), tl.arange(0, n), tl.arange(0, C)
    own = (part[:, None] == part[None, :])[:, None, :, None]
    X = -tl.sum(tl.where(own, tl.reshape(L, [n, 16, n, 16]), 0.0), 2)
    for r in tl.static_range(2, 16):
        row = tl.sum(tl.where((i == r)[None, :, None], X, 0.0), 1)
        row += tl.sum(row[:, :, None] * X, 1)
        X = tl.where((i == r)[None, :, None], row[:, None, :], X)
    X += tl.where(i[:, None] == i[None, :], 1.0, 0.0)[None, :, :]
    Y = tl.reshape(tl.where(own, X[:, :, None, :], 0.0), [C, C])
    for level in tl.static_range(4, 7):
        if (1 << level) < C:  # blocks that lie below each other in one twice as long
            below = (t[:, None] >> level) == (t[None, :] >> level) + 1
            below &= (t[:, None] >> (level + 1)) == (t[None, :] >> (level + 1))
            E = tl.dot(tl.where(below, L, 0.0), Y, input_precision=PRECISION)
            Y -= tl.dot(Y, E, input_precision=PRECISION)
    return Y
'''

_SOLVE = '''
@triton.jit
def NAME_solve(
    k, GIVEN_SOLVE<probe:p, >inverse, <cut:packing, >T, <cut:N, >H, <grouped:group, >k_x, k_h, k_t, <probe:p_x, p_h, p_t, >
    DK: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr, C: tl.constexpr,<unit: EPS: tl.constexpr,>FIXED DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """(I + L)^-1 of a chunk, L_ti = b_t <decay:a_{t-1} ... a_{i+1} >PROBE_t . k_i for i < t."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BD)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    k += n // H * k_x + n % H<grouped: // group> * k_h
    p += n // H * p_x + n % H<grouped: // group> * p_h  #? probe
    L = tl.zeros([C, C], tl.float32)
    length = tl.zeros([C], tl.float32) + EPS  #? unit
    for j in tl.static_range(PARTS):
        K = taken(k + j * BD, t, d, k_t, stop, DK - j * BD).to(DOT)
        length += squares(K)  #? unit
        P = taken(p + j * BD, t, d, p_t, stop, DK - j * BD).to(DOT)  #? probe
        L += tl.dot(<probe:P><!probe:K>, tl.trans(K), input_precision=PRECISION)
    scale = to_unit(length)  #? unit
    L *= <!probe:scale[:, None] * >scale[None, :]  #? unit
    L *= CHUNK_B[:, None]
    below = i[:, None] > i[None, :]
    a, c = logs(CHUNK_LOG_A)  #? decay
    L *= tl.exp2(tl.where(below, (c - a)[:, None] - c[None, :], -float("inf")))  #? decay
    L = tl.where(below, L, 0.0)  #? !decay
    X = inverse_of(L, C, PRECISION)
    at = inverse + m * C * C + i[:, None] * C + i[None, :]
    tl.store(at, X.to(inverse.dtype.element_ty))
'''

_SCAN = '''
@triton.jit
def NAME_scan(
    S, k, u, GIVEN<probe:p, ><read:q, scores, ><erase:inverse, >end, <read:out, ><!read:<rows:rows, >starts, ><read:<cut:resume, places, count, >><cut:packing, >T, <cut:N, >H, <!read:<cut:table, count, >><grouped:group, >
    k_x, k_h, k_t, u_x, u_h, u_t, <probe:p_x, p_h, p_t, ><read:q_x, q_h, q_t, o_x, o_h, o_t, >
    DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,<unit: EPS: tl.constexpr,>FIXED
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """Chunk after chunk for a block of dv: <read:SAID><!read:S before each, <rows:what it writes, >>S after the last.

    S is held in `PARTS` of its channels.<grouped: Of `group` heads in a row, keys are the same.>
    """
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, v = tl.arange(0, C), part * BV + tl.arange(0, BV)
    d, h = tl.arange(0, BD), ()
    for j in tl.static_range(PARTS):
        h += (taken_block(S + n * DK * DV + j * BD, d, v, DK, 1, DK - j * BD, DV),)
    end += n * DK * DV
    n, first, last = <read:sequence(n, packing, ><!read:stretch(n, packing, table, count, >T, N, H, C)  #? cut
    chunks = tl.cdiv(T, C)  #? !cut
    k += n // H * k_x + n % H<grouped: // group> * k_h
    u += n // H * u_x + n % H * u_h
    p += n // H * p_x + n % H<grouped: // group> * p_h  #? probe
    q += n // H * q_x + n % H<grouped: // group> * q_h  #? read
    out += n // H * o_x + n % H * o_h  #? read
    for chunk in range(<cut:first, last><!cut:chunks>):
        start, stop = span(chunk, packing, T, C)  #? cut
        m, t = n * (tl.cdiv(T, C) + N) + chunk, start + i  #? cut
        m, t = n * chunks + chunk, chunk * C + i  #? !cut
        R = taken(u, t, v, u_t, stop, DV)<!rate:.to(tl.float32)>
        R = R * CHUNK_W[:, None]  #? rate
        K = ()
        length = tl.zeros([C], tl.float32) + EPS  #? unit
        Z = tl.zeros([C, BV], tl.float32)  #? erase
        Y = tl.zeros([C, BV], tl.float32)  #? read
        keep(resume, places, count, n, chunk, h, d, v, DK, DV, PARTS, BD)  #? read cut
        length_q = tl.zeros([C], tl.float32) + EPS  #? read unit
        for j in tl.static_range(PARTS):
            put_block(starts + m * DK * DV + j * BD, h[j], d, v, DK, 1, DK - j * BD, DV)  #? !read
            K += (taken(k + j * BD, t, d, k_t, stop, DK - j * BD).to(DOT),)
            length += squares(K[j])  #? unit
            Q = taken(q + j * BD, t, d, q_t, stop, DK - j * BD).to(DOT)  #? read
            length_q += squares(Q)  #? read unit
            Y += tl.dot(Q, h[j].to(DOT), input_precision=PRECISION)  #? read
            P = taken(p + j * BD, t, d, p_t, stop, DK - j * BD).to(DOT)  #? probe
            Z += tl.dot(<probe:P><!probe:K[j]>, h[j].to(DOT), input_precision=PRECISION)  #? erase
        scale = to_unit(length)  #? unit
        a, c = logs(CHUNK_LOG_A)  #? decay
        total = tl.sum(a, 0)  #? decay
        erase = CHUNK_B<decay: * tl.exp2(c - a)>  #? erase
        erase *= scale  #? unit erase
        R -= erase[:, None] * Z  #? erase
        X = tl.load(inverse + m * C * C + i[:, None] * C + i[None, :]).to(DOT)  #? erase
        R = tl.dot(X, R.to(DOT), input_precision=PRECISION)  #? erase
        put(rows + n * T * DV, R, t, v, DV, stop, DV)  #? rows !read
        Y *= tl.exp2(<before:c - a><!before:c>)[:, None]  #? read decay
        Y *= to_unit(length_q)[:, None]  #? read unit
        A = tl.load(scores + m * C * C + i[:, None] * C + i[None, :]).to(DOT)  #? read
        Y += tl.dot(A, R.to(DOT), input_precision=PRECISION)  #? read
        put(out, Y, t, v, o_t, stop, DV)  #? read
        R *= scale[:, None]  #? unit
        R *= tl.exp2(total - c)[:, None]  #? decay
        new = ()
        for j in tl.static_range(PARTS):
            kept = h[j] * tl.exp2(total)  #? decay
            K_j = K[j] if PARTS == 1 else taken(k + j * BD, t, d, k_t, stop, DK - j * BD).to(DOT)
            new += (<decay:kept><!decay:h[j]> + tl.dot(tl.trans(K_j), R.to(DOT), input_precision=PRECISION),)
        h = new
    for j in tl.static_range(PARTS):
        put_block(end + j * BD, h[j], d, v, DK, 1, DK - j * BD, DV)
'''

_STEP = '''
@triton.jit
def NAME_step(
    S, k, u, GIVEN<probe:p, ><read:q, >end, <read:out, ><!read:<rows:rows, >starts, >H, <grouped:group, >
    k_x, k_h, u_x, u_h, <probe:p_x, p_h, ><read:q_x, q_h, o_x, o_h, >
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,<unit: EPS: tl.constexpr,>FIXED
):
    """<read:SAIDS behind one token><!read:One token>, for a block of dv."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    d, v = tl.arange(0, BK), part * BV + tl.arange(0, BV)
    at, held = n * DK * DV + v[:, None] * DK + d[None, :], (v < DV)[:, None] & (d < DK)[None, :]
    h = tl.load(S + at, mask=held, other=0.0)
    tl.store(starts + at, h.to(starts.dtype.element_ty), mask=held)  #? !read
    query = tl.load(q + n // H * q_x + n % H<grouped: // group> * q_h + d, mask=d < DK, other=0.0).to(tl.float32)  #? read
    query *= tl.rsqrt(tl.sum(query * query, 0) + EPS)  #? read unit
    value = tl.sum(h * query[None, :], 1)  #? read before
    key = tl.load(k + n // H * k_x + n % H<grouped: // group> * k_h + d, mask=d < DK, other=0.0).to(tl.float32)
    key *= tl.rsqrt(tl.sum(key * key, 0) + EPS)  #? unit
    row = tl.load(u + n // H * u_x + n % H * u_h + v, mask=v < DV, other=0.0).to(tl.float32)
    row *= ONE_W  #? rate
    probe = tl.load(p + n // H * p_x + n % H<grouped: // group> * p_h + d, mask=d < DK, other=0.0)  #? probe
    row -= ONE_B * tl.sum(h * <probe:probe.to(tl.float32)><!probe:key>[None, :], 1)  #? erase
    tl.store(rows + n * DV + v, row.to(rows.dtype.element_ty), mask=v < DV)  #? rows !read
    h *= tl.exp(ONE_LOG_A)  #? decay
    h += row[:, None] * key[None, :]
    tl.store(end + at, h, mask=held)
    value = tl.sum(h * query[None, :], 1)  #? read !before
    at = out + n // H * o_x + n % H * o_h + v  #? read
    tl.store(at, value.to(out.dtype.element_ty), mask=v < DV)  #? read
'''

_READ = '''
@triton.jit
def NAME_out(
    q, k, rows, starts, GIVENout, <cut:packing, >T, <cut:N, >H, <grouped:group, >q_x, q_h, q_t, k_x, k_h, k_t, r_x, r_h, r_t, s_n, s_v, s_d,
    o_x, o_h, o_t,
    DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,<unit: EPS: tl.constexpr,>FIXED
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """<!before:S_t q_t><before:S_{t-1} q_t> in a chunk for a block of dv: of what it began with, and what was written."""
    m, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, d, v = tl.arange(0, C), tl.arange(0, BD), part * BV + tl.arange(0, BV)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    q += x * q_x + head<grouped: // group> * q_h
    k += x * k_x + head<grouped: // group> * k_h
    starts += m * s_n
    A, value = tl.zeros([C, C], tl.float32), tl.zeros([C, BV], tl.float32)
    length_q, length = tl.zeros([C], tl.float32) + EPS, tl.zeros([C], tl.float32) + EPS  #? unit
    for j in tl.static_range(PARTS):
        Q = taken(q + j * BD, t, d, q_t, stop, DK - j * BD).to(DOT)
        K = taken(k + j * BD, t, d, k_t, stop, DK - j * BD).to(DOT)
        h = taken_block(starts + j * BD * s_d, d, v, s_v, s_d, DK - j * BD, DV).to(DOT)
        length_q += squares(Q)  #? unit
        length += squares(K)  #? unit
        A += tl.dot(Q, tl.trans(K), input_precision=PRECISION)
        value += tl.dot(Q, h, input_precision=PRECISION)
    scale = to_unit(length_q)[:, None]  #? unit
    A, value = A * scale * to_unit(length)[None, :], value * scale  #? unit
    R = taken(rows + x * r_x + head * r_h, t, v, r_t, stop, DV).to(DOT)
    seen = i[:, None] ORDER i[None, :]
    <before:a><!before:_>, c = logs(CHUNK_LOG_A)  #? decay
    A *= tl.exp2(tl.where(seen, <!before:c><before:(c - a)>[:, None] - c[None, :], -float("inf")))  #? decay
    A = tl.where(seen, A, 0.0)  #? !decay
    value *= tl.exp2(<!before:c><before:c - a>)[:, None]  #? decay
    value += tl.dot(A.to(DOT), R, input_precision=PRECISION)
    put(out + x * o_x + head * o_h, value, t, v, o_t, stop, DV)
'''

_SCORES = '''
@triton.jit
def NAME_scores(
    q, k, GIVEN_DECAYscores, <cut:packing, >T, <cut:N, >H, <grouped:group, >q_x, q_h, q_t, k_x, k_h, k_t,
    DK: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr, C: tl.constexpr,<unit: EPS: tl.constexpr,>FIXED DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What a chunk reads of what it writes: <decay:a_t ... a_{i+1} >q_t . k_i for i up to <before:t-1><!before:t>."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BD)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    q += n // H * q_x + n % H<grouped: // group> * q_h
    k += n // H * k_x + n % H<grouped: // group> * k_h
    A = tl.zeros([C, C], tl.float32)
    length_q, length = tl.zeros([C], tl.float32) + EPS, tl.zeros([C], tl.float32) + EPS  #? unit
    for j in tl.static_range(PARTS):
        Q = taken(q + j * BD, t, d, q_t, stop, DK - j * BD).to(DOT)
        K = taken(k + j * BD, t, d, k_t, stop, DK - j * BD).to(DOT)
        length_q += squares(Q)  #? unit
        length += squares(K)  #? unit
        A += tl.dot(Q, tl.trans(K), input_precision=PRECISION)
    A *= to_unit(length_q)[:, None] * to_unit(length)[None, :]  #? unit
    seen = i[:, None] ORDER i[None, :]
    <before:a><!before:_>, c = logs(CHUNK_LOG_A)  #? decay
    A *= tl.exp2(tl.where(seen, <!before:c><before:(c - a)>[:, None] - c[None, :], -float("inf")))  #? decay
    A = tl.where(seen, A, 0.0)  #? !decay
    tl.store(scores + m * C * C + i[:, None] * C + i[None, :], A.to(scores.dtype.element_ty))
'''

SHARED = {"flow": _FLOW, "block": _BLOCK, "logs": _LOGS, "unit": _UNIT, "inverse_of": _INVERSE}


def texts(name: str, f: KernelForm) -> str:
    """The kernels of a scan."""
    return laid(text("\n".join([*[_SOLVE] * f.erase, _SCAN, _STEP]), name, f))


def read_text(name: str, f: KernelForm, before: bool) -> str:
    """The kernel of a read."""
    return laid(chosen(_READ, name, f, before))


def fused_text(name: str, f: KernelForm, before: bool) -> str:
    """The kernels of a scan and its read in one."""
    return laid(text("\n".join([_SCORES, _SCAN, _STEP]), name, f, before))
