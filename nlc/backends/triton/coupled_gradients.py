"""The gradients of scans of coupled states as Triton kernels.

With y the slope by z, g_j those by the other rows r^j and dS_j those by seen_j (coupled_scans.py): g_j = what comes from
behind + seen_jᵀ y, as y itself is, so that it takes the transpose of the inverse; dS_j = y r^jᵀ.
"""

from __future__ import annotations

SCAN_BACK = '''
@triton.jit
def NAME_back(
    <erase:k, p, kept, >begun, <erase:inverse, >d_end, <seen:<erase:d_rows, >d_starts, >ends, <erase:dz, >dX, <cut:packing, >T, <cut:N, H, ><!cut:<erase:H, >>
    <erase:<grouped:group, >k_x, k_h, k_t, p_x, p_h, p_t, SOURCE: tl.constexpr, ROWS: tl.constexpr, >
    STATES: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr, <erase:DOT: tl.constexpr, PRECISION: tl.constexpr, >
):
    """For a block of dv, from the last chunk: what states behind it<erase:, and z in it,> are worth."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, v = tl.arange(0, C), part * BV + tl.arange(0, BV)  #? erase
    d, own, g = tl.arange(0, BD), tl.arange(0, BV), ()
    rest, first_value = DV - part * BV, part * BV * DK
    d_end += n * STATES * DK * DV + first_value
    for c in tl.static_range(PARTS):
        for s in tl.static_range(STATES):
            at = d_end + s * DK * DV + c * BD
            g += (taken_block(at, d, own, DK, 1, DK - c * BD, rest),)
    d_starts += first_value  #? seen
    ends += first_value
    n, first, last = sequence(n, packing, T, N, H, C)  #? cut
    chunks = tl.cdiv(T, C)  #? !cut
    k += n // H * k_x + n % H<grouped: // group> * k_h  #? erase
    p += n // H * p_x + n % H<grouped: // group> * p_h  #? erase
    for back in range(<cut:last - first><!cut:chunks>):
        chunk = <cut:last><!cut:chunks> - 1 - back
        m = n * <cut:(tl.cdiv(T, C) + N)><!cut:chunks> + chunk
        left = begun + m * STATES * STATES * C
        for c in tl.static_range(PARTS):
            for s in tl.static_range(STATES):
                at = ends + (m * STATES + s) * DK * DV
                put_block(at + c * BD, g[c * STATES + s], d, own, DK, 1, DK - c * BD, rest)
        start, stop = span(chunk, packing, T, C)  #? erase cut
        t = start + i  #? erase cut
        t = chunk * C + i  #? erase !cut
        erased = kept + m * STATES * ROWS * C * C + ((ROWS - 1) * C + C - 1) * C + i  #? erase
        slope = d_rows + (n * T * ROWS + ROWS - 1) * DV  #? erase seen
        Y = taken(slope, t, v, ROWS * DV, stop, DV).to(tl.float32)  #? erase seen
        Y = tl.zeros([C, BV], tl.float32)  #? erase !seen
        for c in tl.static_range(PARTS):  #? erase
            apart(PARTS)  #? erase
            K = taken(k + c * BD, t, d, k_t, stop, DK - c * BD).to(DOT)  #? erase
            for s in tl.static_range(STATES):  #? erase
                apart(PARTS)  #? erase
                g_s = tl.dot(K, g[c * STATES + s].to(DOT), input_precision=PRECISION)  #? erase
                Y += tl.load(erased + s * ROWS * C * C)[:, None] * g_s  #? erase
        inv_t = tl.load(inverse + m * C * C + i[None, :] * C + i[:, None]).to(DOT)  #? erase
        Y = tl.dot(inv_t, Y.to(DOT), input_precision=PRECISION)  #? erase
        put(dz + n * T * DV, Y, t, v, DV, stop, DV)  #? erase
        new = ()
        for c in tl.static_range(PARTS):
            apart(PARTS)  #? erase
            P = taken(p + c * BD, t, d, p_t, stop, DK - c * BD).to(DOT)  #? erase
            for s in tl.static_range(STATES):
                alone = 1.0 if s == SOURCE else 0.0  #? erase
                seen = token_before(left + (SOURCE * STATES + s) * C, i, alone)[:, None]  #? erase
                at = d_starts + (m * STATES + s) * DK * DV  #? seen
                g_s = taken_block(at + c * BD, d, own, DK, 1, DK - c * BD, rest).to(tl.float32)  #? seen
                g_s = tl.zeros([BD, BV], tl.float32)  #? !seen
                for e in tl.static_range(STATES):
                    g_s += tl.load(left + (e * STATES + s) * C + C - 1) * g[c * STATES + e]
                g_s += tl.dot(tl.trans(P), (seen * Y).to(DOT), input_precision=PRECISION)  #? erase
                new += (g_s,)
        g = new
    head = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV)  # found anew: kept, it would spill
    dX += (head * STATES * DV + part * BV) * DK
    for c in tl.static_range(PARTS):
        for s in tl.static_range(STATES):
            at = dX + s * DK * DV + c * BD
            put_block(at, g[c * STATES + s], d, own, DK, 1, DK - c * BD, rest)
'''

SCAN_GRADS = '''
@triton.jit
def NAME_grads(
    k, kept, rows, starts, ends, <erase:<seen:d_rows, >>dk, du, d_kept, d_begun, <cut:packing, >T, <cut:N, >H, <grouped:group, >k_x, k_h, k_t, r_x, r_h, r_t, r_j,
    STATES: tl.constexpr, ROWS: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What a chunk's rows, keys and decays are worth at its end; tokens are columns."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    K = taken_columns(k + x * k_x + head<grouped: // group> * k_h, d, t, k_t, stop, DK).to(DOT)
    last = m * STATES * ROWS * C * C + (C - 1) * C + i
    dK, d_since, d_left = tl.zeros([BK, C], tl.float32), (), ()
    for _ in tl.static_range(STATES * ROWS):
        d_since += (tl.zeros([C], tl.float32),)
    for _ in tl.static_range(STATES * STATES):
        d_left += (0.0,)
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        R, G = (), ()
        for j in tl.static_range(ROWS):
            at = rows + x * r_x + head * r_h + j * r_j
            R += (taken_columns(at, v, t, r_t, stop, DV).to(tl.float32),)
            at = d_rows + (n * T * ROWS + j) * DV  #? erase seen
            G += (taken_columns(at, v, t, ROWS * DV, stop, DV).to(tl.float32),)  #? erase seen
            G += (tl.zeros([BV, C], tl.float32),)  #? !erase
            G += (tl.zeros([BV, C], tl.float32),)  #? erase !seen
        since, left = (), ()
        for s in tl.static_range(STATES):
            at = ends + (m * STATES + s) * DK * DV
            g = taken_block(at, d, v, DK, 1, DK, DV).to(DOT)
            Y = tl.dot(tl.trans(g), K, input_precision=PRECISION)
            W = tl.zeros([BV, C], tl.float32)
            slopes = ()
            for j in tl.static_range(ROWS):
                weight = tl.load(kept + (s * ROWS + j) * C * C + last)[None, :]
                W += weight * R[j]
                slopes += (G[j] + weight * Y,)
                since += (d_since[s * ROWS + j] + tl.sum(Y * R[j], 0),)
            for e in tl.static_range(STATES):
                at = starts + (m * STATES + e) * DK * DV
                h = g.to(tl.float32) * taken_block(at, d, v, DK, 1, DK, DV)
                left += (d_left[s * STATES + e] + tl.sum(tl.sum(h, 1), 0),)
            G = slopes
            dK += tl.dot(g, W.to(DOT), input_precision=PRECISION)
        d_since, d_left = since, left
        for j in tl.static_range(ROWS<erase: - 1>):
            at = du + (n * T * <erase:(ROWS - 1)><!erase:ROWS> + j) * DV
            put_columns(at, G[j], v, t, <erase:(ROWS - 1)><!erase:ROWS> * DV, stop, DV)
    for s in tl.static_range(STATES * ROWS):
        tl.store(d_kept + s * C * C + last, d_since[s])
    for s in tl.static_range(STATES * STATES):
        tl.store(d_begun + (m * STATES * STATES + s) * C + C - 1, d_left[s])
    put_columns(dk + n * T * DK, dK, d, t, DK, stop, DK)
'''

ERASE_GRADS = '''
@triton.jit
def NAME_erase_grads(
    k, p, kept, begun, rows, starts, dz, k_end, u_end, dk, du, dp, d_kept, d_begun, <cut:packing, >T, <cut:N, >H, <grouped:group, >
    k_x, k_h, k_t, p_x, p_h, p_t,
    SOURCE: tl.constexpr, STATES: tl.constexpr, ROWS: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What z in a chunk adds to that, from its rows and what z is worth."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    K = taken_columns(k + x * k_x + head<grouped: // group> * k_h, d, t, k_t, stop, DK).to(DOT)
    P = taken_columns(p + x * p_x + head<grouped: // group> * p_h, d, t, p_t, stop, DK).to(DOT)
    A = tl.dot(tl.trans(P), K, input_precision=PRECISION)
    below, below_t = i[:, None] > i[None, :], i[None, :] > i[:, None]
    own = m * STATES + SOURCE
    at_seen = own * ROWS * C * C + (i[:, None] - 1) * C + i[None, :]
    at_seen_t = own * ROWS * C * C + (i[None, :] - 1) * C + i[:, None]
    S, D, D_t, F = (), (), (), ()
    for j in tl.static_range(ROWS):
        seen = tl.load(kept + at_seen + j * C * C, mask=below, other=0.0)
        S += ((A * seen).to(DOT),)
        D += (tl.zeros([C, C], tl.float32),)
        D_t += (tl.zeros([C, C], tl.float32),)
    for _ in tl.static_range(STATES):
        F += (tl.zeros([BK, C], tl.float32),)
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        Y = taken_columns(dz + n * T * DV, v, t, DV, stop, DV).to(DOT)
        E, E_t, reads = (), (), ()
        for j in tl.static_range(ROWS):
            R = taken_columns(rows + (n * T * ROWS + j) * DV, v, t, ROWS * DV, stop, DV).to(DOT)
            E += (D[j] + tl.dot(tl.trans(Y), R, input_precision=PRECISION),)
            E_t += (D_t[j] + tl.dot(tl.trans(R), Y, input_precision=PRECISION),)
        for j in tl.static_range(ROWS - 1):
            at = (n * T * (ROWS - 1) + j) * DV
            g = taken_columns(u_end + at, v, t, (ROWS - 1) * DV, stop, DV).to(tl.float32)
            g += tl.dot(Y, S[j], input_precision=PRECISION)
            put_columns(du + at, g, v, t, (ROWS - 1) * DV, stop, DV)
        for e in tl.static_range(STATES):
            at = starts + (m * STATES + e) * DK * DV
            h = taken_block(at, d, v, DK, 1, DK, DV).to(DOT)
            reads += (F[e] + tl.dot(h, Y, input_precision=PRECISION),)
        D, D_t, F = E, E_t, reads
    dS, dS_t = tl.zeros([C, C], tl.float32), tl.zeros([C, C], tl.float32)
    dP = tl.zeros([BK, C], tl.float32)
    for j in tl.static_range(ROWS):
        dS += D[j] * tl.load(kept + at_seen + j * C * C, mask=below, other=0.0)
        dS_t += D_t[j] * tl.load(kept + at_seen_t + j * C * C, mask=below_t, other=0.0)
        tl.store(d_kept + at_seen + j * C * C, D[j] * A, mask=below)
    for e in tl.static_range(STATES):
        left = token_before(begun + (own * STATES + e) * C, i, 1.0 if e == SOURCE else 0.0)
        dP += left[None, :] * F[e]
        d_left = tl.sum(P.to(tl.float32) * F[e], 0)
        tl.store(d_begun + (own * STATES + e) * C + i - 1, d_left, mask=i > 0)
    dP += tl.dot(K, dS_t.to(DOT), input_precision=PRECISION)
    put_columns(dp + n * T * DK, dP, d, t, DK, stop, DK)
    dK = taken_columns(k_end + n * T * DK, d, t, DK, stop, DK).to(tl.float32)
    dK += tl.dot(P, dS.to(DOT), input_precision=PRECISION)
    put_columns(dk + n * T * DK, dK, d, t, DK, stop, DK)
'''
