"""Scans of coupled states as Triton kernels and their operators.

Rows r^j are what is written, and last z, where that is erased. z = Σ_j seen_j r^j + what the chunk began with, seen_j[t, i]
= p_t·k_i kept[source, j, t−1, i], so that with one inverse of I − seen_z a chunk is done.
"""

from __future__ import annotations

from itertools import product

from nlc.backends.triton.coupled_gradients import ERASE_GRADS, SCAN_BACK, SCAN_GRADS
from nlc.backends.triton.forms import worded

_SOLVE = '''
@triton.jit
def NAME_solve(
    k, u, p, kept, inverse, rows, <cut:packing, >T, <cut:N, >H, <grouped:group, >k_x, k_h, k_t, u_x, u_h, u_t, u_j, p_x, p_h, p_t,
    SOURCE: tl.constexpr, STATES: tl.constexpr, ROWS: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """(I + L)^-1 of a chunk, L = -seen_z, and as its last rows z if the chunk began with zeros."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    K = taken(k + x * k_x + head<grouped: // group> * k_h, t, d, k_t, stop, DK).to(DOT)
    P = taken(p + x * p_x + head<grouped: // group> * p_h, t, d, p_t, stop, DK).to(DOT)
    A = tl.dot(P, tl.trans(K), input_precision=PRECISION)
    below = i[:, None] > i[None, :]
    kept += m * STATES * ROWS * C * C + (SOURCE * ROWS) * C * C + (i[:, None] - 1) * C + i[None, :]
    S = ()
    for j in tl.static_range(ROWS - 1):
        S += ((A * tl.load(kept + j * C * C, mask=below, other=0.0)).to(DOT),)
    L = -A * tl.load(kept + (ROWS - 1) * C * C, mask=below, other=0.0)
    X = inverse_of(L, C, PRECISION)
    at = inverse + m * C * C + i[:, None] * C + i[None, :]
    tl.store(at, X.to(inverse.dtype.element_ty))
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        Z = tl.zeros([C, BV], tl.float32)
        for j in tl.static_range(ROWS - 1):
            R = taken(u + x * u_x + head * u_h + j * u_j, t, v, u_t, stop, DV).to(DOT)
            Z += tl.dot(S[j], R, input_precision=PRECISION)
        Z = tl.dot(X.to(DOT), Z.to(DOT), input_precision=PRECISION)
        put(rows + (n * T * ROWS + ROWS - 1) * DV, Z, t, v, ROWS * DV, stop, DV)
'''

_SCAN = '''
@triton.jit
def NAME_chunks(
    X, k, u, <erase:p, >kept, begun, <erase:inverse, >end, <erase:rows, >starts, <cut:packing, >T, <cut:N, >H, <cut:table, count, ><grouped:group, >
    k_x, k_h, k_t, u_x, u_h, u_t, u_j, <erase:p_x, p_h, p_t, SOURCE: tl.constexpr, >
    STATES: tl.constexpr, ROWS: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """For a block of dv, chunk by chunk: states before it, <erase:what is written, ><!erase:and >those at the end.

    A state is held in `PARTS` of its channels, so that no product has too many of them.
    """
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, v = tl.arange(0, C), part * BV + tl.arange(0, BV)
    d, own, h = tl.arange(0, BD), tl.arange(0, BV), ()
    rest, first_value = DV - part * BV, part * BV * DK
    X += n * STATES * DK * DV + first_value
    for c in tl.static_range(PARTS):
        for s in tl.static_range(STATES):
            at = X + s * DK * DV + c * BD
            h += (taken_block(at, d, own, DK, 1, DK - c * BD, rest),)
    starts += first_value
    n, first, last = stretch(n, packing, table, count, T, N, H, C)  #? cut
    chunks = tl.cdiv(T, C)  #? !cut
    k += n // H * k_x + n % H<grouped: // group> * k_h
    u += n // H * u_x + n % H * u_h
    p += n // H * p_x + n % H<grouped: // group> * p_h  #? erase
    for chunk in range(<cut:first, last><!cut:chunks>):
        start, stop = span(chunk, packing, T, C)  #? cut
        m, t = n * (tl.cdiv(T, C) + N) + chunk, start + i  #? cut
        m, t = n * chunks + chunk, chunk * C + i  #? !cut
        left, since = begun + m * STATES * STATES * C, kept + m * STATES * ROWS * C * C
        for c in tl.static_range(PARTS):
            for s in tl.static_range(STATES):
                at = starts + (m * STATES + s) * DK * DV
                put_block(at + c * BD, h[c * STATES + s], d, own, DK, 1, DK - c * BD, rest)
        Z = tl.zeros([C, BV], tl.float32)  #? erase
        for c in tl.static_range(PARTS):  #? erase
            apart(PARTS)  #? erase
            P = taken(p + c * BD, t, d, p_t, stop, DK - c * BD).to(DOT)  #? erase
            for s in tl.static_range(STATES):  #? erase
                apart(PARTS)  #? erase
                alone = 1.0 if s == SOURCE else 0.0  #? erase
                seen = token_before(left + (SOURCE * STATES + s) * C, i, alone)[:, None]  #? erase
                Z += seen * tl.dot(P, h[c * STATES + s].to(DOT), input_precision=PRECISION)  #? erase
        inv = tl.load(inverse + m * C * C + i[:, None] * C + i[None, :]).to(DOT)  #? erase
        Z = tl.dot(inv, Z.to(DOT), input_precision=PRECISION)  #? erase
        Z += taken(rows + (n * T * ROWS + ROWS - 1) * DV, t, v, ROWS * DV, stop, DV)  #? erase
        R = ()
        for j in tl.static_range(ROWS<erase: - 1>):
            R += (taken(u + j * u_j, t, v, u_t, stop, DV).to(tl.float32),)
        R += (Z,)  #? erase
        for j in tl.static_range(ROWS):  #? erase
            put(rows + (n * T * ROWS + j) * DV, R[j], t, v, ROWS * DV, stop, DV)  #? erase
        W, new = (), ()
        for s in tl.static_range(STATES):
            w = tl.zeros([C, BV], tl.float32)
            for j in tl.static_range(ROWS):
                w += tl.load(since + ((s * ROWS + j) * C + C - 1) * C + i)[:, None] * R[j]
            W += (w,)
        for c in tl.static_range(PARTS):
            apart(PARTS)
            K = taken(k + c * BD, t, d, k_t, stop, DK - c * BD).to(DOT)
            for s in tl.static_range(STATES):
                H_s = tl.zeros([BD, BV], tl.float32)
                for e in tl.static_range(STATES):
                    H_s += tl.load(left + (s * STATES + e) * C + C - 1) * h[c * STATES + e]
                H_s += tl.dot(tl.trans(K), W[s].to(DOT), input_precision=PRECISION)
                new += (H_s,)
        h = new
    head = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV)  # found anew: kept, it would spill
    end += (head * STATES * DV + part * BV) * DK
    for c in tl.static_range(PARTS):
        for s in tl.static_range(STATES):
            at = end + s * DK * DV + c * BD
            put_block(at, h[c * STATES + s], d, own, DK, 1, DK - c * BD, rest)
'''

STEP = '''
@triton.jit
def NAME_step(
    X, k, u, <erase:p, ><read:q, >kept, begun, end, <read:out, ><!read:<erase:rows, >starts, >H, <grouped:group, >
    k_x, k_h, u_x, u_h, u_j, <erase:p_x, p_h, ><read:q_x, q_h, o_x, o_h, STATE: tl.constexpr, >
    <erase:SOURCE: tl.constexpr, >STATES: tl.constexpr, ROWS: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr,
):
    """<read:VALUE and X behind one token><!read:One token>, for a block of dv."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    d, v = tl.arange(0, BK), part * BV + tl.arange(0, BV)
    at, held = v[:, None] * DK + d[None, :], (v < DV)[:, None] & (d < DK)[None, :]
    at += n * STATES * DK * DV
    key = tl.load(k + n // H * k_x + n % H<grouped: // group> * k_h + d, mask=d < DK, other=0.0).to(tl.float32)
    probe = tl.load(p + n // H * p_x + n % H<grouped: // group> * p_h + d, mask=d < DK, other=0.0).to(tl.float32)  #? erase
    query = tl.load(q + n // H * q_x + n % H<grouped: // group> * q_h + d, mask=d < DK, other=0.0).to(tl.float32)  #? read
    value = tl.zeros([BV], tl.float32)  #? read
    Z = tl.zeros([BV], tl.float32)  #? erase
    h, R = (), ()
    for s in tl.static_range(STATES):
        one = tl.load(X + at + s * DK * DV, mask=held, other=0.0)
        tl.store(starts + at + s * DK * DV, one.to(starts.dtype.element_ty), mask=held)  #? !read
        value += tl.sum(one * query[None, :], 1) if s == STATE else 0.0  #? read before
        Z += tl.sum(one * probe[None, :], 1) if s == SOURCE else 0.0  #? erase
        h += (one,)
    u += n // H * u_x + n % H * u_h
    for j in tl.static_range(ROWS<erase: - 1>):
        R += (tl.load(u + j * u_j + v, mask=v < DV, other=0.0).to(tl.float32),)
    R += (Z,)  #? erase
    for j in tl.static_range(ROWS):  #? erase !read
        at_row = rows + (n * ROWS + j) * DV + v  #? erase !read
        tl.store(at_row, R[j].to(rows.dtype.element_ty), mask=v < DV)  #? erase !read
    for s in tl.static_range(STATES):
        new = tl.zeros([BV, BK], tl.float32)
        for e in tl.static_range(STATES):
            new += tl.load(begun + ((n * STATES + s) * STATES + e) * C + C - 1) * h[e]
        for j in tl.static_range(ROWS):
            weight = tl.load(kept + (((n * STATES + s) * ROWS + j) * C + C - 1) * C)
            new += (weight * R[j])[:, None] * key[None, :]
        tl.store(end + at + s * DK * DV, new, mask=held)
        value += tl.sum(new * query[None, :], 1) if s == STATE else 0.0  #? read !before
    at_out = out + n // H * o_x + n % H * o_h + v  #? read
    tl.store(at_out, value.to(out.dtype.element_ty), mask=v < DV)  #? read
'''

_SCAN_OPERATOR = '''
def NAME(
    X: Tensor, kept: Tensor, begun: Tensor, k: Tensor, u: Tensor, <erase:p: Tensor, source: int, >
    <cut:within: Packing | None = None,>
) -> <seen:tuple[Tensor, tuple[Tensor, ...]]><!seen:Tensor>:
    """X_t = A_t X_(t-1) + w_t r_t k_tᵀ, r_t the rows u_t<erase: and, last, z_t = X_(t-1)[source] p_t>.

    X [..., states, dv, dk], k<erase: and p> [..., T, dk], u [..., T, rows, dv]. kept
    [..., chunks, states, rows<erase: + 1>, C, C] is what of a row of token i is in a state at token t,
    begun [..., chunks, states, states, C] what of a state before the chunk. Returns X after the
    last token<seen:, and what reads need>.
    Where sequences are packed within one, X is [N, H, states, dv, dk], and there is one of those.  #? cut
    Products are computed in the dtype of k and summed in float32, which X is in. TypeError for
    another dtype or device.<grouped: Heads of keys are fewer, each for as many in a row.>
    """
    dtype = supported(k)
    lead = leading(
        <cut:front(X, 3, within)><!cut:X.shape[:-3]>, kept.shape[:-5], <!grouped:k.shape[:-2], >u.shape[:-3], <erase:<!grouped:p.shape[:-2], >>
    )
    X = state_of(X, begun.shape[-2], u.shape[-1], k.shape[-1])
    X = <cut:states_for(lead, 3, X, within)><!cut:fitted(lead, 3, X)[0].contiguous()>
    key = rows_of(dtype, fitted(lead, 2, k)[0])  #? !erase !grouped
    key, p = (rows_of(dtype, x) for x in fitted(lead, 2, k, p))  #? erase !grouped
    key = shared(dtype, lead, k)  #? grouped
    p = shared(dtype, lead, p)  #? grouped erase
    write = rows_of(dtype, fitted(lead, 3, u)[0])
    left = fitted(lead, 4, begun)[0].contiguous()
    since = fitted(lead, 5, kept)[0].contiguous()
    C = kept.shape[-1]  #? cut
    first, table = resumed(X, within, C)  #? cut
    end, <seen:<erase:rows, >starts<erase:, _>><!seen:*_> = NAME_forward(
        <cut:first><!cut:X>, key, write, <erase:p, >since, left, <erase:source, ><cut:within and within.of(C), table,>
    )
    end = end if table is None else X  # a second run's end is not asked for  #? cut
    if within is not None:  #? cut
        within.keep(starts, C)  #? cut
    return unfitted(lead, end)[0]  #? !seen
    end, <erase:rows, >starts = unfitted(lead, end, <erase:rows, >starts)  #? seen
    return end, (k, <erase:rows><!erase:u>, starts, *kept.unbind(-4), *begun.unbind(-3))  #? seen


def NAME_meaning(
    X: Tensor, k: Tensor, u: Tensor, <erase:p: Tensor, >kept: Tensor, begun: Tensor, <erase:source: int, >
) -> tuple[Tensor, ...]:
    """Chunk by chunk."""
    k<erase:, p> = (x.repeat_interleave(u.shape[1] // x.shape[1], 1) for x in (k, <erase:p>))  #? grouped
    C<seen:, <erase:rows, >starts> = kept.shape[-1]<seen:, <erase:[], >[]>
    before = one_earlier(kept[..., source, :, :, :], begun[..., source, :, :], source)  #? erase
    flows = k.split(C, -2), u.split(C, -3)<erase:, p.split(C, -2)>
    for m, (K, R<erase:, P>) in enumerate(zip(*flows, strict=True)):
        starts.append(X)  #? seen
        T = K.shape[-2]
        seen, left = before[0][..., m, :, :T, :T], before[1][..., m, :, :T]  #? erase
        A = (P @ K.mT).unsqueeze(-3) * seen  #? erase
        z = torch.einsum("...lvd,...td,...lt->...tv", X, P, left)  #? erase
        z = z + torch.einsum("...jti,...ijv->...tv", A[..., :-1, :, :], R)  #? erase
        L = -A[..., -1, :, :]  #? erase
        z = torch.linalg.solve_triangular(L, z, upper=False, unitriangular=True)  #? erase
        R = torch.cat([R, z[..., None, :]], -2)  #? erase
        rows.append(R)  #? erase seen
        last = kept[..., m, :, :, -1, :T]
        X = torch.einsum("...sl,...lvd->...svd", begun[..., m, :, :, -1], X)
        X = X + torch.einsum("...sji,...ijv,...id->...svd", last, R, K)
    return X, <erase:torch.cat(rows, -3), >torch.stack(starts, -4)  #? seen
    return (X,)  #? !seen


@Operator
def NAME_forward(
    X: Tensor, k: Tensor, u: Tensor, <erase:p: Tensor, >kept: Tensor, begun: Tensor, <erase:source: int, >
    <cut:packing: Tensor | None, table: Tensor | None,>
) -> tuple[<erase:Tensor, Tensor, >Tensor, Tensor]:
    """States after the last token, <erase:rows, >states before each chunk<erase:, inverses>: as [X, H, ...]."""
    end, starts = out = NAME_shapes(X, k, u, kept)  #? !erase
    end, rows, starts, inverse = out = NAME_shapes(X, k, u, p, kept<cut:, packing, table>)  #? erase
    (N, H, T, _, dv), dk, (states, written, C) = u.shape, k.shape[-1], kept.shape[3:6]
    checked(
        NAME_forward, NAME_meaning, k, dv, min(T, C), <cut:packing is not None, >X="states dv dk", u="T given dv",
        kept="chunks states written C C", begun="chunks states states C", states=states, written=written, given=u.shape[3], C=C, <grouped:groups=4, >
    )
    if T == 1<cut: and packing is None>:
        sizes = coupled_sizes("step", states, written, dk, dv, C)
        args = [
            X, k, u, <erase:p, >kept, begun, end, <erase:rows, >starts, H, <grouped:H // k.shape[1], >*k.stride()[:2],
            *u.stride()[:2], u.stride(3), <erase:*p.stride()[:2], >
        ]
        grid = (N * H * blocks_of(dv, sizes["BV"]),)
        launch(NAME_step, grid, args, k.dtype, <erase:SOURCE=source, >**sizes)
        return out
    args = [  #? erase
        k, u, p, kept, inverse, rows, <cut:*tokens_of(packing, T, C)><!cut:T>, H, <grouped:H // k.shape[1], >*k.stride()[:3], *u.stride()[:4], *p.stride()[:3],  #? erase
    ]  #? erase
    sizes = coupled_sizes("solve", states, written, dk, dv, C)  #? erase
    grid = (N * H * kept.shape[2],)  #? erase
    launch(NAME_solve, grid, args, k.dtype, SOURCE=source, **sizes)  #? erase
    args = [
        X, k, u, <erase:p, >kept, begun, <erase:inverse, >end, <erase:rows, >starts, <cut:*tokens_of(packing, T, C)><!cut:T>, H,
        <cut:*counted(table), ><grouped:H // k.shape[1], >*k.stride()[:3], *u.stride()[:4], <erase:*p.stride()[:3], >
    ]
    sizes = coupled_sizes("<erase:delta_>scan", states, written, dk, dv, C)
    grid = (<cut:X.shape[:-3].numel()><!cut:N * H> * blocks_of(dv, sizes["BV"]),)
    launch(NAME_chunks, grid, args, k.dtype, <erase:SOURCE=source, >**sizes)
    return out


@NAME_forward.register_fake
def NAME_shapes(X, k, u, <erase:p, >kept, *<!erase:_><erase:<cut:rest><!cut:_>>):
    """What the operator returns, but for its values."""
    starts = k.new_empty(*kept.shape[:3], *X.shape[-3:])
    rows = k.new_empty(*u.shape[:3], kept.shape[4], u.shape[-1])  #? erase
    inverse = inverses(u, <cut:rest[-2], >kept.shape[2], kept.shape[-1])  #? erase
    return torch.empty_like(X), <erase:rows, >starts<erase:, inverse>


@Operator
def NAME_backward(
    k: Tensor, <erase:p: Tensor, >kept: Tensor, begun: Tensor, rows: Tensor, starts: Tensor,
    <erase:inverse: Tensor, >d_end: Tensor, <seen:<erase:d_rows: Tensor, >d_starts: Tensor, ><erase:source: int, >
    <cut:packing: Tensor | None,>
) -> tuple[<erase:Tensor, >Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The slopes by all that goes in, from those of all that comes out."""
    d_X, d_k, d_u, <erase:d_p, >d_kept, d_begun = out = NAME_slopes(
        k, <erase:p, >kept, begun, rows, starts, <erase:inverse, >d_end
    )
    (N, H, T, _, dv), dk, (states, written, C) = rows.shape, k.shape[-1], kept.shape[3:6]
    dtype = wider(k.dtype)
    ends = starts.new_empty(starts.shape, dtype=dtype)
    d_z = rows.new_empty(N, H, T, dv, dtype=dtype)  #? erase
    inverse = all_inverses(inverse, C)  #? erase
    k_end, u_end = torch.empty_like(d_k), torch.empty_like(d_u)  #? erase
    args = [
        <erase:k, p, kept, >begun, <erase:inverse, >d_end, <seen:<erase:d_rows, >d_starts, >ends, <erase:d_z, >d_X, <cut:*tokens_of(packing, T, C), H><!cut:T<erase:, H>>,
        <erase:<grouped:H // k.shape[1], >*k.stride()[:3], *p.stride()[:3], >
    ]
    sizes = coupled_sizes("<erase:delta_>scan_back", states, written, dk, dv, C)
    grid = (<cut:d_X.shape[0]><!cut:N> * H * blocks_of(dv, sizes["BV"]),)
    launch(NAME_back, grid, args, dtype, <erase:SOURCE=source, >**sizes)
    args = [
        k, kept, rows, starts, ends, <erase:<seen:d_rows, >k_end, u_end><!erase:d_k, d_u>, d_kept, d_begun, <cut:*tokens_of(packing, T, C)><!cut:T>, H, <grouped:H // k.shape[1], >
        *k.stride()[:3], *rows.stride()[:4],
    ]
    sizes = coupled_sizes("grads", states, written, dk, dv, C)
    grid = (N * H * kept.shape[2],)
    launch(NAME_grads, grid, args, dtype, **sizes)
    args = [  #? erase
        k, p, kept, begun, rows, starts, d_z, k_end, u_end, d_k, d_u, d_p, d_kept, d_begun, <cut:*tokens_of(packing, T, C)><!cut:T>, H, <grouped:H // k.shape[1], >  #? erase
        *k.stride()[:3], *p.stride()[:3],  #? erase
    ]  #? erase
    sizes = coupled_sizes("erase_grads", states, written, dk, dv, C)  #? erase
    launch(NAME_erase_grads, grid, args, dtype, SOURCE=source, **sizes)  #? erase
    return out


@NAME_backward.register_fake
def NAME_slopes(k, <erase:p, >kept, begun, rows, starts, <erase:inverse, >d_end, *_):
    """The shapes of the slopes; those of products that no token has are zero."""
    d_X, d_k = torch.empty_like(d_end), k.new_empty(*rows.shape[:3], k.shape[-1])
    d_u = rows<erase:[..., :-1, :]>.new_empty(rows<erase:[..., :-1, :]>.shape, dtype=wider(k.dtype))
    d_kept, d_begun = torch.zeros_like(kept), torch.zeros_like(begun)
    return d_X, d_k, d_u, <erase:torch.empty_like(d_k), >d_kept, d_begun


def NAME_setup(ctx, inputs, output):
    <!erase:_, k, u, kept, begun><erase:_, k, _, p, kept, begun, ctx.source><cut:, packing, _> = inputs
    _, <!erase:starts><erase:rows, starts, inverse> = output
    ctx.save_for_backward(
        k, <erase:p, >kept, begun, <erase:rows, ><!erase:u, >starts, <erase:inverse, ><cut:packing>
    )
    ctx.set_materialize_grads(False)  # of what nothing else reads  #? !seen


def NAME_slope(ctx, d_end, <seen:<erase:d_rows, >d_starts<erase:, _>><!seen:*_>):
    if d_end is None:  # the state is not part of what is differentiated  #? !seen
        return (None,) * len(ctx.needs_input_grad)  #? !seen
    grads = (x.contiguous() for x in (d_end, <erase:d_rows, >d_starts))  #? seen
    <cut:*>kept<cut:, packing> = ctx.saved_tensors
    d_X, d_k, d_u, *rest = NAME_backward(*kept, <seen:*grads><!seen:d_end.contiguous()><erase:, ctx.source><cut:, packing>)
    d_k = together(d_k, kept[0])  #? grouped
    rest[0] = together(rest[0], kept[0])  #? grouped erase
    return d_X, d_k, d_u.to(d_k.dtype), *rest<erase:, None><cut:, None, None>


NAME_forward.register_autograd(
    NAME_slope, NAME_setup
)
'''


def _scan(erase: bool, grouped: bool, cut: bool, seen: bool) -> tuple[str, str]:
    name = f"coupled_{'delta_' * erase}scan{'_grouped' * grouped}"
    kernels = [_SOLVE] * erase + [_SCAN, STEP, SCAN_BACK, SCAN_GRADS] + [ERASE_GRADS] * erase
    source = "\n".join([*kernels, _SCAN_OPERATOR])
    flags = dict(seen=seen, erase=erase, grouped=grouped, read=False, before=False)
    return name, worded(source, {"NAME": name}, cut, **flags)


def texts(cut: bool, seen: bool) -> dict[str, str]:
    """Every scan; ``cut``: of packed sequences, too, ``seen``: with what reads need."""
    return dict(
        _scan(erase, grouped, cut, seen) for erase, grouped in product((False, True), repeat=2)
    )
