"""Scans where every channel of the keys decays at a rate of its own, as Triton kernels and their operators.

What a chunk is made of is faded first, keys as they are at its end and probes as they are from its start: then it is a
chunk without decay, and S decays once, by all of it.
"""

from __future__ import annotations

from nlc.backends.triton.channel import SPREAD, entry

_FADE = '''
@triton.jit
def NAME_fade(
    k, <erase:p, >log_a, at_end, <erase:begun, >whole, <cut:packing, >T, <cut:N, >H, <grouped:group, >k_x, k_h, k_t, <erase:p_x, p_h, p_t, >a_x, a_h, a_t,
    DK: tl.constexpr, BD: tl.constexpr, C: tl.constexpr,
):
    """Keys as at the end of their chunk, <erase:probes as from its start, >and the decays of all of it."""
    m, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DK, BD), tl.program_id(0) % tl.cdiv(DK, BD)
    i, d = tl.arange(0, C), part * BD + tl.arange(0, BD)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    a, <erase:c><!erase:_>, left = rates(log_a + x * a_x + head * a_h, t, d, a_t, stop, DK)
    K = taken(k + x * k_x + head<grouped: // group> * k_h, t, d, k_t, stop, DK).to(tl.float32) * tl.exp2(left)
    put(at_end + n * T * DK, K, t, d, DK, stop, DK)
    P = taken(p + x * p_x + head<query: // group> * p_h, t, d, p_t, stop, DK).to(tl.float32)  #? erase
    P *= tl.exp2(<decayed:c><!decayed:c - a>)  #? erase
    put(begun + n * T * DK, P, t, d, DK, stop, DK)  #? erase
    tl.store(whole + m * DK + d, tl.exp2(tl.sum(a, 0)), mask=d < DK)


def NAME_faded(
    k: Tensor, <erase:p: Tensor, >log_a: Tensor, <cut:packing: Tensor | None, >dtype: torch.dtype, dv: int,
) -> tuple[<erase:Tensor, >Tensor, Tensor]:
    """Keys as at the end of their chunk, <erase:probes as from its start, >and the decays of chunks."""
    (X, H, T, dk), sizes = log_a.shape, sizes_of("fade", k.shape[-1], dv, k.shape[2], dtype)
    at_end = k.new_empty(log_a.shape, dtype=dtype)
    begun = p.new_empty(log_a.shape, dtype=dtype)  #? erase
    whole = log_a.new_empty(X, H, <cut:chunks_of(packing, T, sizes["C"])><!cut:blocks_of(T, sizes["C"])>, dk)
    args = [
        k, <erase:p, >log_a, at_end, <erase:begun, >whole, <cut:*tokens_of(packing, T, sizes["C"])><!cut:T>, H, <grouped:H // k.shape[1], >
        *k.stride()[:3], <erase:*p.stride()[:3], >*log_a.stride()[:3],
    ]
    grid = (whole.shape[:3].numel() * blocks_of(dk, sizes["BD"]),)
    launch(NAME_fade, grid, args, dtype, **sizes)
    return at_end, <erase:begun, >whole
'''

_SOLVE = '''
@triton.jit
def NAME_solve(
    scores, b, inverse, <cut:packing, >T, <cut:N, >C: tl.constexpr, PRECISION: tl.constexpr,
):
    """(I + L)^-1 of a chunk, L = b_t times its scores below the diagonal."""
    m, i = tl.program_id(0).to(tl.int64), tl.arange(0, C)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    at = m * C * C + i[:, None] * C + i[None, :]
    L = tl.load(scores + at, mask=i[:, None] > i[None, :], other=0.0)
    L *= tl.load(b + n * T + t, mask=t < stop, other=0.0)[:, None]
    X = inverse_of(L, C, PRECISION)
    tl.store(inverse + at, X.to(inverse.dtype.element_ty))
'''

SCAN = '''
@triton.jit
def NAME_chunks(
    S, k, u, <erase:b, p, inverse, >whole, <read:q, scores, >end, <!read:<erase:rows, >starts, ><read:out, ><read:<cut:resume, places, count, >><cut:packing, >T, <cut:N, >H, <!read:<cut:table, count, >>
    u_x, u_h, u_t, <read:o_x, o_h, o_t, >
    DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """Chunk after chunk for a block of dv: <read:SAID and ><!read:S before each, <erase:what it writes, >>S after the last."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, v = tl.arange(0, C), part * BV + tl.arange(0, BV)
    d, h = tl.arange(0, BD), ()
    for j in tl.static_range(PARTS):
        h += (taken_block(S + n * DK * DV + j * BD, d, v, DK, 1, DK - j * BD, DV),)
    end += n * DK * DV
    n, first, last = <read:sequence(n, packing, ><!read:stretch(n, packing, table, count, >T, N, H, C)  #? cut
    chunks = tl.cdiv(T, C)  #? !cut
    u += n // H * u_x + n % H * u_h
    out += n // H * o_x + n % H * o_h  #? read
    for chunk in range(<cut:first, last><!cut:chunks>):
        start, stop = span(chunk, packing, T, C)  #? cut
        m, t = n * (tl.cdiv(T, C) + N) + chunk, start + i  #? cut
        m, t = n * chunks + chunk, chunk * C + i  #? !cut
        R = taken(u, t, v, u_t, stop, DV)<erase:.to(tl.float32)><!erase:.to(DOT)>
        Z = tl.zeros([C, BV], tl.float32)  #? erase
        Y = tl.zeros([C, BV], tl.float32)  #? read
        keep(resume, places, count, n, chunk, h, d, v, DK, DV, PARTS, BD)  #? read cut
        for j in tl.static_range(PARTS):
            put_block(starts + m * DK * DV + j * BD, h[j], d, v, DK, 1, DK - j * BD, DV)  #? !read
            Q = taken(q + n * T * DK + j * BD, t, d, DK, stop, DK - j * BD).to(DOT)  #? read
            Y += tl.dot(Q, h[j].to(DOT), input_precision=PRECISION)  #? read
            P = taken(p + n * T * DK + j * BD, t, d, DK, stop, DK - j * BD).to(DOT)  #? erase
            Z += tl.dot(P, h[j].to(DOT), input_precision=PRECISION)  #? erase
        R -= tl.load(b + n * T + t, mask=t < stop, other=0.0)[:, None] * Z  #? erase
        X = tl.load(inverse + m * C * C + i[:, None] * C + i[None, :]).to(DOT)  #? erase
        R = tl.dot(X, R.to(DOT), input_precision=PRECISION)  #? erase
        put(rows + n * T * DV, R, t, v, DV, stop, DV)  #? erase !read
        at = scores + m * C * C + i[:, None] * C + i[None, :]  #? read
        A = tl.load(at, mask=i[:, None] ORDER i[None, :], other=0.0).to(DOT)  #? read
        Y += tl.dot(A, R<erase:.to(DOT)>, input_precision=PRECISION)  #? read
        put(out, Y, t, v, o_t, stop, DV)  #? read
        new = ()
        for j in tl.static_range(PARTS):
            fade = tl.load(whole + m * DK + j * BD + d, mask=d < DK - j * BD, other=0.0)
            kept = h[j] * fade[:, None]
            K = taken(k + n * T * DK + j * BD, t, d, DK, stop, DK - j * BD).to(DOT)
            new += (kept + tl.dot(tl.trans(K), R<erase:.to(DOT)>, input_precision=PRECISION),)
        h = new
    for j in tl.static_range(PARTS):
        put_block(end + j * BD, h[j], d, v, DK, 1, DK - j * BD, DV)
'''

STEP = '''
@triton.jit
def NAME_step(
    S, k, u, <erase:b, >log_a, <erase:p, ><read:q, >end, <read:out, ><!read:<erase:rows, >starts, >H, <grouped:group, >
    k_x, k_h, u_x, u_h, a_x, a_h, <erase:p_x, p_h, ><read:q_x, q_h, o_x, o_h, >
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):
    """<read:SAID and S behind one token><!read:One token>, for a block of dv."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    d, v = tl.arange(0, BK), part * BV + tl.arange(0, BV)
    at, held = n * DK * DV + v[:, None] * DK + d[None, :], (v < DV)[:, None] & (d < DK)[None, :]
    h = tl.load(S + at, mask=held, other=0.0)
    tl.store(starts + at, h.to(starts.dtype.element_ty), mask=held)  #? !read
    x, head = n // H, n % H
    query = tl.load(q + x * q_x + head<grouped: // group> * q_h + d, mask=d < DK, other=0.0).to(tl.float32)  #? read
    value = tl.sum(h * query[None, :], 1)  #? read before
    key = tl.load(k + x * k_x + head<grouped: // group> * k_h + d, mask=d < DK, other=0.0).to(tl.float32)
    row = tl.load(u + x * u_x + head * u_h + v, mask=v < DV, other=0.0).to(tl.float32)
    h *= tl.exp(tl.load(log_a + x * a_x + head * a_h + d, mask=d < DK, other=0.0))[None, :]  #? decayed
    probe = tl.load(p + x * p_x + head<query: // group> * p_h + d, mask=d < DK, other=0.0).to(tl.float32)  #? erase
    row -= tl.load(b + n) * tl.sum(h * probe[None, :], 1)  #? erase
    tl.store(rows + n * DV + v, row.to(rows.dtype.element_ty), mask=v < DV)  #? erase !read
    h *= tl.exp(tl.load(log_a + x * a_x + head * a_h + d, mask=d < DK, other=0.0))[None, :]  #? !decayed
    h += row[:, None] * key[None, :]
    tl.store(end + at, h, mask=held)
    value = tl.sum(h * query[None, :], 1)  #? read !before
    at = out + x * o_x + head * o_h + v  #? read
    tl.store(at, value.to(out.dtype.element_ty), mask=v < DV)  #? read
'''

_SCAN_BACK = '''
@triton.jit
def NAME_back(
    k, <erase:b, p, inverse, >whole, d_end, <seen:<erase:d_rows, >d_starts, >ends, du, dS, <cut:packing, >T, <cut:N, H, ><!cut:<!erase:H, >>
    DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """Backwards over chunks for a block of dv: what S behind each and its rows are worth."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, v = tl.arange(0, C), part * BV + tl.arange(0, BV)
    d, g = tl.arange(0, BD), ()
    for j in tl.static_range(PARTS):
        g += (taken_block(d_end + n * DK * DV + j * BD, d, v, DK, 1, DK - j * BD, DV),)
    dS += n * DK * DV
    n, first, last = sequence(n, packing, T, N, H, C)  #? cut
    chunks = tl.cdiv(T, C)  #? !cut
    for back in range(<cut:last - first><!cut:chunks>):
        chunk = <cut:last><!cut:chunks> - 1 - back
        start, stop = span(chunk, packing, T, C)  #? cut
        m, t = n * (tl.cdiv(T, C) + N) + chunk, start + i  #? cut
        m, t = n * chunks + chunk, chunk * C + i  #? !cut
        Y = tl.zeros([C, BV], tl.float32)
        for j in tl.static_range(PARTS):
            put_block(ends + m * DK * DV + j * BD, g[j], d, v, DK, 1, DK - j * BD, DV)
            K = taken(k + n * T * DK + j * BD, t, d, DK, stop, DK - j * BD).to(DOT)
            Y += tl.dot(K, g[j].to(DOT), input_precision=PRECISION)
        Y += taken(d_rows + n * T * DV, t, v, DV, stop, DV)  #? erase seen
        X_t = tl.load(inverse + m * C * C + i[None, :] * C + i[:, None]).to(DOT)  #? erase
        Y = tl.dot(X_t, Y.to(DOT), input_precision=PRECISION)  #? erase
        put(du + n * T * DV, Y, t, v, DV, stop, DV)  #? erase
        put(du + (n // H * T * H + n % H) * DV, Y, t, v, H * DV, stop, DV)  #? !erase
        Y = (Y * tl.load(b + n * T + t, mask=t < stop, other=0.0)[:, None]).to(DOT)  #? erase
        new = ()
        for j in tl.static_range(PARTS):
            fade = tl.load(whole + m * DK + j * BD + d, mask=d < DK - j * BD, other=0.0)
            g_j = g[j] * fade[:, None]
            P = taken(p + n * T * DK + j * BD, t, d, DK, stop, DK - j * BD).to(DOT)  #? erase
            g_j -= tl.dot(tl.trans(P), Y, input_precision=PRECISION)  #? erase
            g_j += taken_block(d_starts + m * DK * DV + j * BD, d, v, DK, 1, DK - j * BD, DV)  #? seen
            new += (g_j,)
        g = new
    for j in tl.static_range(PARTS):
        put_block(dS + j * BD, g[j], d, v, DK, 1, DK - j * BD, DV)
'''

_SCAN_GRADS = '''
@triton.jit
def NAME_grads(
    k, log_a, rows, starts, ends, <erase:du, pairs, >dk, <erase:dp, >da, <cut:packing, >T, <cut:N, >H, <grouped:group, >
    k_x, k_h, k_t, a_x, a_h, a_t, r_x, r_h, r_t,
    DK: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """The slopes by channels of a chunk's parts, from rows and S at both ends<erase:, but for scores>."""
    m, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DK, BD), tl.program_id(0) % tl.cdiv(DK, BD)
    i, d = tl.arange(0, C), part * BD + tl.arange(0, BD)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    dK = tl.zeros([C, BD], tl.float32)
    dP = tl.zeros([C, BD], tl.float32)  #? erase
    D = tl.zeros([C, C], tl.float32)  #? erase
    last = tl.zeros([BD], tl.float32)
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        R = taken(rows + x * r_x + head * r_h, t, v, r_t, stop, DV).to(DOT)
        g = taken_block(ends + m * DK * DV, d, v, DK, 1, DK, DV).to(DOT)
        dK += tl.dot(R, tl.trans(g), input_precision=PRECISION)
        h = taken_block(starts + m * DK * DV, d, v, DK, 1, DK, DV).to(DOT)
        last += tl.sum(g.to(tl.float32) * h.to(tl.float32), 1)
        Y = taken(du + n * T * DV, t, v, DV, stop, DV).to(DOT)  #? erase
        D -= tl.dot(Y, tl.trans(R), input_precision=PRECISION)  #? erase
        dP -= tl.dot(Y, tl.trans(h), input_precision=PRECISION)  #? erase
    D = tl.where(i[:, None] > i[None, :], D, 0.0)  #? decayed
    if part == 0:  # the same for all channels  #? erase
        tl.store(pairs + m * C * C + i[:, None] * C + i[None, :], D.to(pairs.dtype.element_ty))  #? erase
    a, <erase:c><!erase:_>, left = rates(log_a + x * a_x + head * a_h, t, d, a_t, stop, DK)
    dP *= tl.exp2(<decayed:c><!decayed:c - a>)  #? erase
    put(dp + (x * T * H + head) * DK, dP, t, d, H * DK, stop, DK)  #? erase
    dK *= tl.exp2(left)
    put(dk + (x * T * H + head) * DK, dK, t, d, H * DK, stop, DK)
    dK *= taken(k + x * k_x + head<grouped: // group> * k_h, t, d, k_t, stop, DK).to(tl.float32)
    last *= tl.exp2(tl.sum(a, 0))
    put(da + (x * T * H + head) * DK, tl.cumsum(dK, 0) - dK + last[None, :], t, d, H * DK, stop, DK)
'''

_SCAN_OPERATOR = '''
def NAME(
    S: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor, <erase:p: Tensor, >
    <cut:within: Packing | None = None,>
) -> <seen:tuple[Tensor, Tensor, Tensor]><!seen:Tensor>:
    """S_t = S_{t-1} Diag(a_t) + <erase:(>u_t<erase: - b_t S_{t-1} <decayed:Diag(a_t) >p_t)> k_tᵀ: S after the last
    token<seen:, <!erase:u, ><erase:the rows that were written, >S before each chunk>.

    S [..., dv, dk], k<erase:, p> and log_a [..., T, dk], u [..., T, dv]<erase:, b [..., T]>.<cut: Where sequences>
    <cut:are packed within one, S is [N, H, dv, dk], and there is one of those.> Products are computed in
    the dtype of k and summed in float32, which S and what decays it are in. TypeError for another
    dtype or device.<grouped: Heads of k <decayed:and p >are fewer, each for as many in a row.>
    """
    dtype = supported(k)
    lead = leading(
        <cut:front(S, 2, within)><!cut:S.shape[:-2]>, <!grouped:k.shape[:-2], >u.shape[:-2], <erase:b.shape[:-1], >log_a.shape[:-2], <erase:<!query:p.shape[:-2],>>
    )
    S = state_of(S, u.shape[-1], k.shape[-1])
    S = <cut:states_for(lead, 2, S, within)><!cut:fitted(lead, 2, S)[0].contiguous()>
    log_a = rows_of(torch.float32, *fitted(lead, 2, log_a))
    b = fitted(lead, 1, b.float())[0].contiguous()  #? erase
    k, u<erase:, p> = (rows_of(dtype, x) for x in fitted(lead, 2, k, u<erase:, p>))  #? !grouped
    k = shared(dtype, lead, k)  #? grouped !decayed
    k, p = (shared(dtype, lead, x) for x in (k, p))  #? grouped decayed
    u = rows_of(dtype, *fitted(lead, 2, u))  #? grouped !erase
    u = rows_of(dtype, *fitted(lead, 2, u))  #? grouped decayed
    u, p = (rows_of(dtype, x) for x in fitted(lead, 2, u, p))  #? grouped erase !decayed
    packing, C = packed(within, k, u), chunk_of(k.shape[-1], u.shape[-1], k.shape[-2], k.dtype)  #? cut
    first, table = resumed(S, within, C)  #? cut
    end, <seen:<erase:rows, >starts<erase:, _>><!seen:*_> = NAME_forward(
        <cut:first><!cut:S>, k, u, <erase:b, >log_a, <erase:p, ><cut:packing, table>
    )
    end = end if table is None else S  # a second run's end is not asked for  #? cut
    if within is not None:  #? cut
        within.keep(starts, C)  #? cut
    return unfitted(lead, end, <!erase:u><erase:rows>, starts)  #? seen
    return unfitted(lead, end)[0]  #? !seen


def NAME_meaning(
    S: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor, <erase:p: Tensor, ><seen:*, C: int,>
) -> tuple[Tensor, ...]:
    """Token by token."""
    k = k.repeat_interleave(u.shape[1] // k.shape[1], 1)  #? grouped !decayed
    k, p = (x.repeat_interleave(u.shape[1] // x.shape[1], 1) for x in (k, p))  #? grouped decayed
    <erase:rows, >starts = <erase:[], >[]  #? seen
    for t in range(k.shape[-2]):
        starts += [S] if t % C == 0 else []  #? seen
        row = u[..., t, :]
        kept = log_a[..., t, None, :].exp() * S
        row = row - b[..., t, None] * (<decayed:kept><!decayed:S> @ p[..., t, :, None]).squeeze(-1)  #? erase
        rows.append(row)  #? erase seen
        S = kept + row[..., :, None] * k[..., t, None, :]
    return S, <erase:torch.stack(rows, -2), >torch.stack(starts, -3)  #? seen
    return (S,)  #? !seen


@Operator
def NAME_forward(
    S: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor, <erase:p: Tensor, >
    <cut:packing: Tensor | None, table: Tensor | None,>
) -> tuple[<erase:Tensor, Tensor, >Tensor, Tensor]:
    """S after the last token, <erase:rows, >S before each chunk<erase:, inverses of chunks>: as [X, H, ...]."""
    end, <erase:rows, >starts<erase:, inverse> = out = NAME_shapes(S, k, u<cut:, packing, table>)
    (X, H, T, dk), dv = log_a.shape, u.shape[-1]
    checked(NAME_forward, NAME_meaning, k, dv, T, <cut:packing is not None, >log_a="T dk"<grouped:, groups=4<erase:<!decayed:, p="each T dk">>>)
    if T == 1<cut: and packing is None>:
        sizes = scan_sizes("step", dk, dv, T, k.dtype)
        args = [
            S, k, u, <erase:b, >log_a, <erase:p, >end, <erase:rows, >starts, H, <grouped:H // k.shape[1], >*k.stride()[:2], *u.stride()[:2],
            *log_a.stride()[:2], <erase:*p.stride()[:2], >
        ]
        launch(NAME_step, (X * H * blocks_of(dv, sizes["BV"]),), args, k.dtype, **sizes)
        return out
    at_end, <erase:begun, >whole = NAME_faded(k, <erase:p, >log_a, <cut:packing, >k.dtype, dv)
    scores = torch.empty_like(inverse, dtype=torch.float32)  #? erase
    channel_paired<!decayed:_before><grouped:<decayed:_grouped><!decayed:_keyed>>(p, k, log_a, scores, dv<cut:, packing>)  #? erase
    sizes = sizes_of("solve", dk, dv, T, k.dtype)  #? erase
    args = [scores, b, inverse, <cut:*tokens_of(packing, T, sizes["C"])><!cut:T>]  #? erase
    launch(NAME_solve, (X * H * starts.shape[2],), args, k.dtype, **sizes)  #? erase
    sizes = scan_sizes("scan", dk, dv, T, k.dtype)
    args = [
        S, at_end, u, <erase:b, begun, inverse, >whole, end, <erase:rows, >starts, <cut:*tokens_of(packing, T, sizes["C"])><!cut:T>, H,
        <cut:*counted(table), >*u.stride()[:3],
    ]
    grid = (<cut:S.shape[:-2].numel()><!cut:X * H> * blocks_of(dv, sizes["BV"]),)
    launch(NAME_chunks, grid, args, k.dtype, **sizes)
    return out


@NAME_forward.register_fake
def NAME_shapes(S, k, u, *<cut:rest><!cut:_>):
    """What the operator returns, but for its values."""
    (X, H, T, dv), dk<cut:, packing> = u.shape, k.shape[-1]<cut:, rest[-2]>
    C = chunk_of(dk, dv, T, k.dtype)
    chunks = <cut:chunks_of(packing, T, C)><!cut:blocks_of(T, C)>
    end, starts = torch.empty_like(S), k.new_empty(X, H, chunks, dv, dk)
    return end, starts  #? !erase
    return end, k.new_empty(X, H, T, dv), starts, inverses(u, <cut:packing, >chunks, C)  #? erase


@Operator
def NAME_backward(
    k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor, <erase:p: Tensor, rows: Tensor, >starts: Tensor,
    <erase:inverse: Tensor, >d_end: Tensor, <seen:<erase:d_rows: Tensor, >d_starts: Tensor, ><cut:packing: Tensor | None,>
) -> tuple[<erase:Tensor, Tensor, >Tensor, Tensor, Tensor, Tensor]:
    """The slopes by all that goes in, from those of all that comes out."""
    (X, H, T, dk), dv, dtype = log_a.shape, u.shape[-1], wider(k.dtype)
    at_end, <erase:begun, >whole = NAME_faded(k, <erase:p, >log_a, <cut:packing, >dtype, dv)
    inverse = all_inverses(inverse, chunk_of(dk, dv, T, k.dtype))  #? erase
    dS = torch.empty_like(d_end)
    sizes = scan_sizes("<erase:channel_delta_back><!erase:scan_back>", dk, dv, T, dtype)
    du = <erase:u.new_empty(u.shape, dtype=dtype)><!erase:tokens_first(u, dtype=dtype)>
    ends = starts.new_empty(starts.shape, dtype=dtype)
    args = [
        at_end, <erase:b, begun, inverse, >whole, d_end, <seen:<erase:d_rows, >d_starts, >ends, du, dS, <cut:*tokens_of(packing, T, sizes["C"]), H><!cut:T<!erase:, H>>,
    ]
    grid = (<cut:dS.shape[0]><!cut:X> * H * blocks_of(dv, sizes["BV"]),)
    launch(NAME_back, grid, args, dtype, **sizes)
    dk_, <erase:dp, >da = (tokens_first(log_a, dtype=x.dtype) for x in (k, <erase:p, >log_a))
    chunks, sizes = X * H * starts.shape[2], sizes_of("channel_grads", dk, dv, T, dtype)
    pairs, more = torch.empty_like(inverse, dtype=dtype), sizes_of("spread", dk, dv, T, dtype)  #? erase
    db = b.new_empty(*b.shape, blocks_of(dk, more["BD"]))  # by parts of the channels  #? erase
    args = [
        k, log_a, ROWS, starts, ends, <erase:du, pairs, >dk_, <erase:dp, >da, <cut:*tokens_of(packing, T, sizes["C"])><!cut:T>, H, <grouped:H // k.shape[1], >
        *k.stride()[:3], *log_a.stride()[:3], *ROWS.stride()[:3],
    ]
    launch(NAME_grads, (chunks * blocks_of(dk, sizes["BD"]),), args, dtype, **sizes)
    args = [  #? erase
        p, k, log_a, b, pairs, dp, dk_, db, da, <cut:*tokens_of(packing, T, sizes["C"])><!cut:T>, H, <grouped:H // k.shape[1], >*p.stride()[:3], *k.stride()[:3], *log_a.stride()[:3],  #? erase
    ]  #? erase
    launch(NAME_spread, (chunks * db.shape[-1],), args, dtype, **more)  #? erase
    return dS, dk_, du, <erase:db.sum(-1), >da<erase:, dp>


@NAME_backward.register_fake
def NAME_slopes(k, u, <erase:b, >log_a, <erase:p, rows, >starts, <erase:inverse, >d_end, *_):
    """The shapes of the slopes."""
    du = <erase:u.new_empty(u.shape, dtype=wider(k.dtype))><!erase:tokens_first(u, dtype=wider(k.dtype))>
    dk, da<erase:, dp> = (tokens_first(log_a, dtype=x.dtype) for x in (k, log_a<erase:, p>))
    return torch.empty_like(d_end), dk, du, <erase:torch.empty_like(b), >da<erase:, dp>


def NAME_setup(ctx, inputs, output):
    _, k, u, <erase:b, >log_a<erase:, p><cut:, packing, _> = inputs
    _, <erase:rows, >starts<erase:, inverse> = output
    ctx.save_for_backward(k, u, <erase:b, >log_a, <erase:p, rows, >starts<erase:, inverse><cut:, packing>)
    ctx.set_materialize_grads(False)  # of what nothing else reads  #? !seen


def NAME_slope(ctx, <seen:*grads><!seen:d_end, *_>):
    if d_end is None:  # the state is not part of what is differentiated  #? !seen
        return (None,) * len(ctx.needs_input_grad)  #? !seen
    grads = [x.contiguous() for x in grads<erase:[:3]>]  #? seen
    <cut:*>kept<cut:, packing> = ctx.saved_tensors
    dS, dk, du, <erase:db, >da<erase:, dp> = NAME_backward(*kept, <seen:*grads><!seen:d_end.contiguous()><cut:, packing>)
    dk = together(dk, kept[0])  #? grouped
    dp = together(dp, kept[4])  #? grouped decayed
    return dS, dk, du.to(kept[1].dtype), <erase:db, >da<erase:, dp><cut:, None, None>


NAME_forward.register_autograd(NAME_slope, NAME_setup)
'''


_KERNELS = SCAN, STEP, _SCAN_BACK, _SCAN_GRADS


def texts(cut: bool, seen: bool) -> dict[str, str]:
    """Every scan; ``cut``: of packed sequences, too, ``seen``: with what reads need."""
    out: dict[str, str] = {}
    for grouped in (False, True):
        name = f"channel_scan{'_grouped' * grouped}"
        out[name] = entry(
            name, _FADE, *_KERNELS, _SCAN_OPERATOR, grouped=grouped, cut=cut, seen=seen
        )
        for decayed in (False, True):
            name = f"channel_delta_scan{'_decayed' * decayed}{'_grouped' * grouped}"
            flags = dict(
                grouped=grouped, decayed=decayed, query=grouped and decayed, cut=cut, seen=seen
            )
            solved = _FADE, _SOLVE, *_KERNELS, SPREAD, _SCAN_OPERATOR
            out[name] = entry(name, *solved, erase=True, before=not decayed, **flags)
    return out
