"""The gradients of scans of coupled states as Triton kernels.

With g_j the slopes by the rows r^j, y that by z and dS_j that by seen_j (coupled_scans.py): y = −Σ_j b^j g_j, g_j = what
comes from behind + seen_jᵀ y, dS_j = y r^jᵀ.
"""

from __future__ import annotations

SCAN_BACK = '''
@triton.jit
def NAME_scan_back(
    <erase:k, b, p, kept, >begun, <erase:inverse, >d_end, <erase:d_rows, >d_starts, ends, <erase:dz, >dX, packing, T, N, H,
    <erase:<grouped:group, >k_x, k_h, k_t, p_x, p_h, p_t, SOURCE: tl.constexpr, >
    STATES: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """For a block of dv, from the last chunk: what states behind it<erase:, and z in it,> are worth."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    v = part * BV + tl.arange(0, BV)
    i = tl.arange(0, C)  #? erase
    dh, d = (), ()
    for q in tl.static_range(PARTS):
        d += (q * BD + tl.arange(0, BD),)
    for s in tl.static_range(STATES):
        for q in tl.static_range(PARTS):
            dh += (taken_block(d_end + (n * STATES + s) * DK * DV, d[q], v, DK, 1, DK, DV),)
    dX += n * STATES * DK * DV
    n, first, last = sequence(n, packing, T, N, H, C)
    k += n // H * k_x + n % H<grouped: // group> * k_h  #? erase
    p += n // H * p_x + n % H<grouped: // group> * p_h  #? erase
    for back in range(last - first):
        m = n * (tl.cdiv(T, C) + N) + last - 1 - back
        left = begun + m * STATES * STATES * C
        for s in tl.static_range(STATES):
            for q in tl.static_range(PARTS):
                at = ends + (m * STATES + s) * DK * DV
                put_block(at, dh[s * PARTS + q], d[q], v, DK, 1, DK, DV)
        start, stop = span(last - 1 - back, packing, T, C)  #? erase
        t, since = start + i, kept + m * STATES * STATES * C * C  #? erase
        Y = tl.zeros([C, BV], tl.float32)  #? erase
        kept_at_end = ()  #? erase
        for s in tl.static_range(STATES):  #? erase
            w = tl.zeros([C], tl.float32)  #? erase
            for j in tl.static_range(STATES):  #? erase
                erase = tl.load(b + (n * T + t) * STATES + j, mask=t < stop, other=0.0)  #? erase
                w += erase * tl.load(since + ((s * STATES + j) * C + C - 1) * C + i)  #? erase
            kept_at_end += (w,)  #? erase
            erase = tl.load(b + (n * T + t) * STATES + s, mask=t < stop, other=0.0)[:, None]  #? erase
            slope = d_rows + (n * T * STATES + s) * DV  #? erase
            Y -= erase * taken(slope, t, v, STATES * DV, stop, DV)  #? erase
        for q in tl.static_range(PARTS):  #? erase
            K = taken(k, t, d[q], k_t, stop, DK).to(DOT)  #? erase
            for s in tl.static_range(STATES):  #? erase
                g = tl.dot(K, dh[s * PARTS + q].to(DOT), input_precision=PRECISION)  #? erase
                Y -= kept_at_end[s][:, None] * g  #? erase
        inv_t = tl.load(inverse + m * C * C + i[None, :] * C + i[:, None]).to(DOT)  #? erase
        Y = tl.dot(inv_t, Y.to(DOT), input_precision=PRECISION)  #? erase
        put(dz + n * T * DV, Y, t, v, DV, stop, DV)  #? erase
        new = ()
        for s in tl.static_range(STATES):
            alone = 1.0 if s == SOURCE else 0.0  #? erase
            seen = token_before(left + (SOURCE * STATES + s) * C, i, alone)[:, None]  #? erase
            for q in tl.static_range(PARTS):
                at = d_starts + (m * STATES + s) * DK * DV
                g = taken_block(at, d[q], v, DK, 1, DK, DV).to(tl.float32)
                for j in tl.static_range(STATES):
                    g += tl.load(left + (j * STATES + s) * C + C - 1) * dh[j * PARTS + q]
                P = taken(p, t, d[q], p_t, stop, DK).to(DOT)  #? erase
                g += tl.dot(tl.trans(P), (seen * Y).to(DOT), input_precision=PRECISION)  #? erase
                new += (g,)
        dh = new
    for s in tl.static_range(STATES):
        for q in tl.static_range(PARTS):
            put_block(dX + s * DK * DV, dh[s * PARTS + q], d[q], v, DK, 1, DK, DV)
'''

SCAN_GRADS = '''
@triton.jit
def NAME_scan_grads(
    k, kept, rows, starts, ends, <erase:d_rows, >dk, du, d_kept, d_begun, packing, T, N, H, <grouped:group, >k_x, k_h, k_t, r_x, r_h, r_t, r_j,
    STATES: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What a chunk's rows, keys and decays are worth at its end; tokens are columns."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, start, stop = piece(m, packing, T, N, C)
    t = start + i
    x, head = n // H, n % H
    K = taken_columns(k + x * k_x + head<grouped: // group> * k_h, d, t, k_t, stop, DK).to(DOT)
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
            R += (taken_columns(at, v, t, r_t, stop, DV).to(tl.float32),)
            at = d_rows + (n * T * STATES + j) * DV  #? erase
            G += (taken_columns(at, v, t, STATES * DV, stop, DV).to(tl.float32),)  #? erase
            G += (tl.zeros([BV, C], tl.float32),)  #? !erase
        since, left = (), ()
        for s in tl.static_range(STATES):
            at = ends + (m * STATES + s) * DK * DV
            g = taken_block(at, d, v, DK, 1, DK, DV).to(DOT)
            Y = tl.dot(tl.trans(g), K, input_precision=PRECISION)
            W = tl.zeros([BV, C], tl.float32)
            slopes = ()
            for j in tl.static_range(STATES):
                weight = tl.load(kept + (s * STATES + j) * C * C + last)[None, :]
                W += weight * R[j]
                slopes += (G[j] + weight * Y,)
                since += (d_since[s * STATES + j] + tl.sum(Y * R[j], 0),)
                at = starts + (m * STATES + j) * DK * DV
                h = g.to(tl.float32) * taken_block(at, d, v, DK, 1, DK, DV)
                left += (d_left[s * STATES + j] + tl.sum(tl.sum(h, 1), 0),)
            G = slopes
            dK += tl.dot(g, W.to(DOT), input_precision=PRECISION)
        d_since, d_left = since, left
        for j in tl.static_range(STATES):
            put_columns(du + (n * T * STATES + j) * DV, G[j], v, t, STATES * DV, stop, DV)
    for s in tl.static_range(STATES * STATES):
        tl.store(d_kept + s * C * C + last, d_since[s])
        tl.store(d_begun + (m * STATES * STATES + s) * C + C - 1, d_left[s])
    put_columns(dk + n * T * DK, dK, d, t, DK, stop, DK)
'''

ERASE_GRADS = '''
@triton.jit
def NAME_erase_grads(
    k, b, p, kept, begun, rows, starts, z, dz, k_end, u_end, dk, du, db, dp, d_kept, d_begun, packing, T, N, H, <grouped:group, >
    k_x, k_h, k_t, p_x, p_h, p_t,
    SOURCE: tl.constexpr, STATES: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What z in a chunk adds to that, from its rows, z, and what z is worth."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, start, stop = piece(m, packing, T, N, C)
    t = start + i
    x, head = n // H, n % H
    K = taken_columns(k + x * k_x + head<grouped: // group> * k_h, d, t, k_t, stop, DK).to(DOT)
    P = taken_columns(p + x * p_x + head<grouped: // group> * p_h, d, t, p_t, stop, DK).to(DOT)
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
        Y = taken_columns(dz + n * T * DV, v, t, DV, stop, DV).to(DOT)
        Z = taken_columns(z + n * T * DV, v, t, DV, stop, DV).to(tl.float32)
        E, E_t, reads, erased = (), (), (), ()
        for j in tl.static_range(STATES):
            at = (n * T * STATES + j) * DV
            R = taken_columns(rows + at, v, t, STATES * DV, stop, DV).to(DOT)
            E += (D[j] + tl.dot(tl.trans(Y), R, input_precision=PRECISION),)
            E_t += (D_t[j] + tl.dot(tl.trans(R), Y, input_precision=PRECISION),)
            g = taken_columns(u_end + at, v, t, STATES * DV, stop, DV).to(tl.float32)
            g += tl.dot(Y, S[j], input_precision=PRECISION)
            put_columns(du + at, g, v, t, STATES * DV, stop, DV)
            erased += (dB[j] - tl.sum(Z * g, 0),)
            at = starts + (m * STATES + j) * DK * DV
            h = taken_block(at, d, v, DK, 1, DK, DV).to(DOT)
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
        tl.store(db + (n * T + t) * STATES + j, dB[j], mask=t < stop)
    dP += tl.dot(K, dS_t.to(DOT), input_precision=PRECISION)
    put_columns(dp + n * T * DK, dP, d, t, DK, stop, DK)
    dK = taken_columns(k_end + n * T * DK, d, t, DK, stop, DK).to(tl.float32)
    dK += tl.dot(P, dS.to(DOT), input_precision=PRECISION)
    put_columns(dk + n * T * DK, dK, d, t, DK, stop, DK)
'''
