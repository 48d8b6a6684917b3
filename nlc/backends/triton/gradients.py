"""The gradients of scans and reads as Triton kernels (kernels.md §2): nothing is kept but rows, starts and inverses.

With R the rows that were written and Y what the next ones are worth, the slope by L is −Y Rᵀ; the slope by a decay is
a sum of q·dq and −k·dk from the end of the chunk. A product that is needed both ways is computed both ways, since the
transpose of a product as an operand is what some versions of Triton compile wrongly.
"""

from __future__ import annotations

from nlc.backends.triton.forms import KernelForm, chosen, text
from nlc.backends.triton.lines import laid

_READ_BACK = '''
@triton.jit
def NAME_back(
    q, k, rows, starts, GIVENgrad, dq, dk, d_rows, d_starts, SLOPES<cut:packing, >T, <cut:N, >H, <grouped:group, >
    q_x, q_h, q_t, k_x, k_h, k_t, r_x, r_h, r_t, s_n, s_v, s_d, g_x, g_h, g_t, w_x, w_h, w_t,
    DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,<unit: EPS: tl.constexpr,>FIXED
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What a chunk's reads are worth to all that they are made of."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BD)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    <before:a><!before:_>, c = logs(CHUNK_LOG_A)  #? decay
    read = c - a  #? decay before
    q += x * q_x + head<grouped: // group> * q_h
    k += x * k_x + head<grouped: // group> * k_h
    starts += m * s_n
    length_q, length = tl.zeros([C], tl.float32) + EPS, tl.zeros([C], tl.float32) + EPS  #? unit
    for j in tl.static_range(PARTS):  #? unit
        length_q += squares(taken(q + j * BD, t, d, q_t, stop, DK - j * BD))  #? unit
        length += squares(taken(k + j * BD, t, d, k_t, stop, DK - j * BD))  #? unit
    scale_q, scale_k = to_unit(length_q), to_unit(length)  #? unit
    QK_t = tl.zeros([C, C], tl.float32)
    Q, K, Oh = (), (), ()
    for j in tl.static_range(PARTS):
        Q += (<unit:scaled(>taken(q + j * BD, t, d, q_t, stop, DK - j * BD)<unit:, scale_q, DOT)><!unit:.to(DOT)>,)
        K += (<unit:scaled(>taken(k + j * BD, t, d, k_t, stop, DK - j * BD)<unit:, scale_k, DOT)><!unit:.to(DOT)>,)
        QK_t += tl.dot(K[j], tl.trans(Q[j]), input_precision=PRECISION)
        Oh += (tl.zeros([C, BD], tl.float32),)
    seen_t = i[None, :] ORDER i[:, None]
    G_t = tl.exp2(tl.where(seen_t, <before:read><!before:c>[None, :] - c[:, None], -float("inf")))  #? decay
    G_t = tl.where(seen_t, 1.0, 0.0)  #? !decay
    A_t = (QK_t * G_t).to(DOT)
    dA = tl.zeros([C, C], tl.float32)
    dA_t = tl.zeros([C, C], tl.float32)
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        dO = taken(grad + x * g_x + head * g_h, t, v, g_t, stop, DV).to(DOT)
        R = taken(rows + x * r_x + head * r_h, t, v, r_t, stop, DV).to(DOT)
        dA += tl.dot(dO, tl.trans(R), input_precision=PRECISION)
        dA_t += tl.dot(R, tl.trans(dO), input_precision=PRECISION)
        dR = tl.dot(A_t, dO, input_precision=PRECISION)
        put(d_rows + x * w_x + head * w_h, dR, t, v, w_t, stop, DV)
        worth = <!decay:dO><decay:(dO * tl.exp2(<before:read><!before:c>)[:, None]).to(DOT)>
        new = ()
        for j in tl.static_range(PARTS):
            h = taken_block(starts + j * BD * s_d, d, v, s_v, s_d, DK - j * BD, DV).to(DOT)
            new += (Oh[j] + tl.dot(dO, tl.trans(h), input_precision=PRECISION),)
            Q_j = Q[j]
            if PARTS > 1:
                Q_j = <unit:scaled(>taken(q + j * BD, t, d, q_t, stop, DK - j * BD)<unit:, scale_q, DOT)><!unit:.to(DOT)>
            dh = tl.dot(tl.trans(Q_j), worth, input_precision=PRECISION)
            put_block(d_starts + m * DK * DV + j * BD, dh, d, v, DK, 1, DK - j * BD, DV)
        Oh = new
    seen = i[:, None] ORDER i[None, :]
    G = tl.exp2(tl.where(seen, <before:read><!before:c>[:, None] - c[None, :], -float("inf")))  #? decay
    G = tl.where(seen, 1.0, 0.0)  #? !decay
    dA, dA_t = (dA * G).to(DOT), (dA_t * G_t).to(DOT)
    dQ, dK = (), ()  #? unit
    own, keyed = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)  #? sums
    for j in tl.static_range(PARTS):
        K_j = K[j]
        if PARTS > 1:
            K_j = <unit:scaled(>taken(k + j * BD, t, d, k_t, stop, DK - j * BD)<unit:, scale_k, DOT)><!unit:.to(DOT)>
        dQ_j = Oh[j]<decay: * tl.exp2(<before:read><!before:c>)[:, None]>
        dQ_j += tl.dot(dA, K_j, input_precision=PRECISION)
        Q_j = Q[j]
        if PARTS > 1:
            Q_j = <unit:scaled(>taken(q + j * BD, t, d, q_t, stop, DK - j * BD)<unit:, scale_q, DOT)><!unit:.to(DOT)>
        dK_j = tl.dot(dA_t, Q_j, input_precision=PRECISION)
        own += tl.sum(Q_j.to(tl.float32) * dQ_j, 1)  #? sums
        keyed += tl.sum(K_j.to(tl.float32) * dK_j, 1)  #? sums
        put(dq + (x * T * H + head) * DK + j * BD, dQ_j, t, d, H * DK, stop, DK - j * BD)  #? !unit
        put(dk + (x * T * H + head) * DK + j * BD, dK_j, t, d, H * DK, stop, DK - j * BD)  #? !unit
        dQ, dK = dQ + (dQ_j,), dK + (dK_j,)  #? unit
    dc = own - keyed  #? decay
    d_log_a = tl.cumsum(dc, 0, reverse=True)<before: - own>  #? decay
    tl.store(da + n * T + t, d_log_a, mask=t < stop)  #? decay !raw
    for j in tl.static_range(PARTS):  #? unit
        Q_j = Q[j]  #? unit
        if PARTS > 1:  #? unit
            Q_j = <unit:scaled(>taken(q + j * BD, t, d, q_t, stop, DK - j * BD)<unit:, scale_q, DOT)><!unit:.to(DOT)>  #? unit
        K_j = K[j]  #? unit
        if PARTS > 1:  #? unit
            K_j = <unit:scaled(>taken(k + j * BD, t, d, k_t, stop, DK - j * BD)<unit:, scale_k, DOT)><!unit:.to(DOT)>  #? unit
        dQ_j = scale_q[:, None] * (dQ[j] - Q_j * own[:, None])  #? unit
        dK_j = scale_k[:, None] * (dK[j] - K_j * keyed[:, None])  #? unit
        put(dq + (x * T * H + head) * DK + j * BD, dQ_j, t, d, H * DK, stop, DK - j * BD)  #? unit
        put(dk + (x * T * H + head) * DK + j * BD, dK_j, t, d, H * DK, stop, DK - j * BD)  #? unit
    SET_BACK  #? decay raw
'''

_SCAN_BACK = '''
@triton.jit
def NAME_scan_back(
    k, GIVEN_SOLVE<probe:p, ><erase:inverse, >d_end, <seen:<rows:d_rows, >d_starts, >ends, <rows:worth, ><!rows:d_u, >dS, <cut:packing, >T, <cut:N, >H, <grouped:group, >
    k_x, k_h, k_t, <probe:p_x, p_h, p_t, >
    DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,<unit: EPS: tl.constexpr,>FIXED
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """From the last chunk back, for a block of dv: what S behind each is worth, and its rows."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, v = tl.arange(0, C), part * BV + tl.arange(0, BV)
    d, g = tl.arange(0, BD), ()
    for j in tl.static_range(PARTS):
        g += (taken_block(d_end + n * DK * DV + j * BD, v, d, 1, DK, DV, DK - j * BD),)
    dS += n * DK * DV
    n, first, last = sequence(n, packing, T, N, H, C)  #? cut
    chunks = tl.cdiv(T, C)  #? !cut
    k += n // H * k_x + n % H<grouped: // group> * k_h
    p += n // H * p_x + n % H<grouped: // group> * p_h  #? probe
    for back in range(<cut:last - first><!cut:chunks>):
        chunk = <cut:last><!cut:chunks> - 1 - back
        start, stop = span(chunk, packing, T, C)  #? cut
        m, t = n * (tl.cdiv(T, C) + N) + chunk, start + i  #? cut
        m, t = n * chunks + chunk, chunk * C + i  #? !cut
        a, c = logs(CHUNK_LOG_A)  #? decay
        total = tl.sum(a, 0)  #? decay
        erase = CHUNK_B<decay: * tl.exp2(c - a)>  #? erase
        Y = tl.zeros([BV, C], tl.float32)
        K = ()
        length = tl.zeros([C], tl.float32) + EPS  #? unit
        for j in tl.static_range(PARTS):
            put_block(ends + m * DK * DV + j * BD, g[j], v, d, 1, DK, DV, DK - j * BD)
            K += (taken(k + j * BD, t, d, k_t, stop, DK - j * BD).to(DOT),)
            length += squares(K[j])  #? unit
            Y += tl.dot(g[j].to(DOT), tl.trans(K[j]), input_precision=PRECISION)
        scale = to_unit(length)  #? unit
        erase *= scale  #? unit erase
        since = tl.exp2(total - c)<unit: * scale>  #? decay
        Y *= since[None, :]  #? decay
        Y *= scale[None, :]  #? unit !decay
        Y += tl.trans(taken(d_rows + n * T * DV, t, v, DV, stop, DV))  #? rows seen
        X = tl.load(inverse + m * C * C + i[:, None] * C + i[None, :]).to(DOT)  #? erase
        Y = tl.dot(Y.to(DOT), X, input_precision=PRECISION)  #? erase
        put(worth + n * T * DV, tl.trans(Y), t, v, DV, stop, DV)  #? rows
        put(d_u + (n // H * T * H + n % H) * DV, tl.trans(Y), t, v, H * DV, stop, DV)  #? !rows
        Y = (Y * erase[None, :]).to(DOT)  #? erase
        new = ()
        for j in tl.static_range(PARTS):
            g_j = g[j]<decay: * tl.exp2(total)>
            g_j += taken_block(d_starts + m * DK * DV + j * BD, v, d, 1, DK, DV, DK - j * BD)  #? seen
            P = <!probe:K[j] if PARTS == 1 else taken(k + j * BD, t, d, k_t, stop, DK - j * BD).to(DOT)><probe:taken(p + j * BD, t, d, p_t, stop, DK - j * BD).to(DOT)>  #? erase
            g_j -= tl.dot(Y, P, input_precision=PRECISION)  #? erase
            new += (g_j,)
        g = new
    for j in tl.static_range(PARTS):
        put_block(dS + j * BD, g[j], v, d, 1, DK, DV, DK - j * BD)
'''

_SCAN_GRADS = '''
@triton.jit
def NAME_scan_grads(
    <keyed:k, ><rate:u, >GIVEN<probe:p, >rows, <state:starts, >ends, <rows:worth, >
    <rate:d_u, >dk, SLOPES<probe:dp, ><cut:packing, >T, <cut:N, >H, <grouped:<keyed:group, >>
    <keyed:k_x, k_h, k_t, >r_x, r_h, r_t, <rate:u_x, u_h, u_t, ><probe:p_x, p_h, p_t, >
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,<unit: EPS: tl.constexpr,>FIXED
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """The slopes by what a chunk is made of, from its rows, their worth, and S at both ends."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    Rg = tl.zeros([C, BK], tl.float32)
    Yh = tl.zeros([C, BK], tl.float32)  #? erase
    YR = tl.zeros([C, C], tl.float32)  #? erase
    YR_t = tl.zeros([C, C], tl.float32)  #? erase
    last = tl.zeros([BK], tl.float32)  #? decay
    d_w = tl.zeros([C], tl.float32)  #? rate
    W = CHUNK_W  #? rate
    a, c = logs(CHUNK_LOG_A)  #? decay
    total = tl.sum(a, 0)  #? decay
    erase = CHUNK_B  #? erase
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        at, there = flow(rows + x * r_x + head * r_h, t, v, r_t, stop, DV)
        R = tl.load(at, mask=there, other=0.0).to(DOT)
        at, held = block(ends + m * DK * DV, d, v, DK, 1, DK, DV)
        g = tl.load(at, mask=held, other=0.0).to(DOT)
        Rg += tl.dot(R, tl.trans(g), input_precision=PRECISION)
        at, _ = block(starts + m * DK * DV, d, v, DK, 1, DK, DV)  #? state
        h = tl.load(at, mask=held, other=0.0).to(DOT)  #? state
        last += tl.sum(g.to(tl.float32) * h, 1)  #? decay
        at, there = flow(worth + n * T * DV, t, v, DV, stop, DV)  #? rows
        Y = tl.load(at, mask=there, other=0.0)  #? rows
        YR += tl.dot(Y.to(DOT), tl.trans(R), input_precision=PRECISION)  #? erase
        YR_t += tl.dot(R, tl.trans(Y.to(DOT)), input_precision=PRECISION)  #? erase
        Yh += tl.dot(Y.to(DOT), tl.trans(h), input_precision=PRECISION)  #? erase
        given, written = flow(u + x * u_x + head * u_h, t, v, u_t, stop, DV)  #? rate
        U = tl.load(given, mask=written, other=0.0).to(tl.float32)  #? rate
        d_w += tl.sum(Y.to(tl.float32) * U, 1)  #? rate
        at, there = flow(d_u + (x * T * H + head) * DV, t, v, H * DV, stop, DV)  #? rate
        tl.store(at, (Y * W[:, None]).to(d_u.dtype.element_ty), mask=there)  #? rate
    at, there = flow(k + x * k_x + head<grouped: // group> * k_h, t, d, k_t, stop, DK)  #? keyed
    K = tl.load(at, mask=there, other=0.0).to(DOT)  #? keyed
    K, scale = unit(K, EPS, DOT)  #? unit
    Rg *= tl.exp2(total - c)[:, None]  #? decay
    below, below_t = i[:, None] > i[None, :], i[None, :] > i[:, None]  #? erase
    before = c - a  #? decay erase
    G = tl.exp2(tl.where(below, before[:, None] - c[None, :], -float("inf")))  #? decay erase
    G_t = tl.exp2(tl.where(below_t, before[None, :] - c[:, None], -float("inf")))  #? decay erase
    G = tl.where(below, 1.0, 0.0)  #? !decay erase
    G_t = tl.where(below_t, 1.0, 0.0)  #? !decay erase
    at, there = flow(p + x * p_x + head<grouped: // group> * p_h, t, d, p_t, stop, DK)  #? probe
    P = tl.load(at, mask=there, other=0.0).to(DOT)  #? probe
    dP = -tl.dot((YR * G).to(DOT), K, input_precision=PRECISION)<!decay: - Yh>  #? erase
    dP -= Yh * tl.exp2(before)[:, None]  #? decay erase
    YR_t = (YR_t * G_t * erase[None, :]).to(DOT)  #? erase
    dK = Rg<erase: - tl.dot(YR_t, <probe:P><!probe:K>, input_precision=PRECISION)>
    d_b = tl.sum(dP * <probe:P><!probe:K>.to(tl.float32), 1)  #? erase
    tl.store(db + n * T + t, d_b, mask=t < stop)  #? erase !raw
    dc = -tl.sum(K.to(tl.float32) * dK, 1)<erase: + erase * d_b>  #? decay
    end = tl.sum(last, 0) * tl.exp2(total) + tl.sum(tl.sum(K.to(tl.float32) * Rg, 1), 0)  #? decay
    d_log_a = tl.cumsum(dc, 0, reverse=True) + end<erase: - erase * d_b>  #? decay
    tl.store(da + n * T + t, d_log_a, mask=t < stop)  #? decay !raw
    dK += dP * erase[:, None]  #? erase !probe
    at, there = flow(dp + (x * T * H + head) * DK, t, d, H * DK, stop, DK)  #? probe
    tl.store(at, (dP * erase[:, None]).to(dp.dtype.element_ty), mask=there)  #? probe
    tl.store(dw + n * T + t, d_w, mask=t < stop)  #? rate !raw
    dK = scale[:, None] * (dK - K * tl.sum(dK * K, 1)[:, None])  #? unit
    at, there = flow(dk + (x * T * H + head) * DK, t, d, H * DK, stop, DK)
    tl.store(at, dK.to(dk.dtype.element_ty), mask=there)
    SET_BACK  #? raw
'''


def texts(name: str, f: KernelForm) -> str:
    """The kernels behind a scan's gradient."""
    return laid(text(_SCAN_BACK + "\n" + _SCAN_GRADS, name, f))


def read_text(name: str, f: KernelForm, before: bool) -> str:
    """The kernel behind a read's gradient."""
    return laid(chosen(_READ_BACK, name, f, before))
