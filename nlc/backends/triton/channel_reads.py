"""Reads where every channel of the keys decays at a rate of its own, as Triton kernels and their operators.

They are linear in q and v alike, v_tᵀ S_t q_t: one gradient serves the reads of S and of its transpose.
"""

from __future__ import annotations

from itertools import product

from nlc.backends.triton.channel import SPREAD, entry

_READ = '''
@triton.jit
def NAME_out(
    q, rows, starts, log_a, scores, out, <cut:packing, >T, <cut:N, >H, <grouped:group, >q_x, q_h, q_t, r_x, r_h, r_t, a_x, a_h, a_t, s_n, s_v, s_d,
    o_x, o_h, o_t,
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """SAID for a block of dv: what a chunk began with, and what was written since."""
    m, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, d, v = tl.arange(0, C), tl.arange(0, BK), part * BV + tl.arange(0, BV)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    <before:a><!before:_>, c, _ = rates(log_a + x * a_x + head * a_h, t, d, a_t, stop, DK)
    Q = taken(q + x * q_x + head<grouped: // group> * q_h, t, d, q_t, stop, DK).to(tl.float32)
    Q = (Q * tl.exp2(<!before:c><before:c - a>)).to(DOT)
    h = taken_block(starts + m * s_n, d, v, s_v, s_d, DK, DV).to(DOT)
    value = tl.dot(Q, h, input_precision=PRECISION)
    at = scores + m * C * C + i[:, None] * C + i[None, :]
    A = tl.load(at, mask=i[:, None] ORDER i[None, :], other=0.0).to(DOT)
    R = taken(rows + x * r_x + head * r_h, t, v, r_t, stop, DV).to(DOT)
    value += tl.dot(A, R, input_precision=PRECISION)
    put(out + x * o_x + head * o_h, value, t, v, o_t, stop, DV)
'''

_READ_STEP = '''
@triton.jit
def NAME_step(
    q, <!before:k, rows, >starts, <!before:log_a, >scores, out, H, <grouped:group, >q_x, q_h, <!before:k_x, k_h, r_x, r_h, a_x, a_h, >
    s_n, s_v, s_d, o_x, o_h, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
):
    """SAID of one token, for a block of dv."""
    n, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, d, v = tl.arange(0, C), tl.arange(0, BK), part * BV + tl.arange(0, BV)
    x, head = n // H, n % H
    Q = tl.load(q + x * q_x + head<grouped: // group> * q_h + d, mask=d < DK, other=0.0).to(tl.float32)
    h = taken_block(starts + n * s_n, d, v, s_v, s_d, DK, DV).to(tl.float32)
    score = 0.0  #? before
    value = tl.sum(h * Q[:, None], 0)  #? before
    a = tl.exp(tl.load(log_a + x * a_x + head * a_h + d, mask=d < DK, other=0.0))  #? !before
    K = tl.load(k + x * k_x + head<grouped: // group> * k_h + d, mask=d < DK, other=0.0).to(tl.float32)  #? !before
    score = tl.sum(Q * K, 0)  #? !before
    R = tl.load(rows + x * r_x + head * r_h + v, mask=v < DV, other=0.0).to(tl.float32)  #? !before
    value = tl.sum(h * (Q * a)[:, None], 0) + score * R  #? !before
    tl.store(out + x * o_x + head * o_h + v, value.to(out.dtype.element_ty), mask=v < DV)
    A = tl.where(i[:, None] + i[None, :] == 0, score, 0.0).to(scores.dtype.element_ty)
    tl.store(scores + n * C * C + i[:, None] * C + i[None, :], A)  # by each block
'''

_MEANING = '''
def NAME_meaning(
    QUERY: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor, *, C: int,
) -> tuple[Tensor, ...]:
    """Token by token."""
    QUERY, k = (x.repeat_interleave(rows.shape[1] // x.shape[1], 1) for x in (QUERY, k))  #? grouped
    out = []
    for t in range(k.shape[-2]):
        if t % C == 0:
            S = starts[..., t // C, :, :]
        out.append((S<turned:.mT> @ QUERY[..., t, :, None]).squeeze(-1))  #? before
        S = log_a[..., t, None, :].exp() * S + rows[..., t, :, None] * k[..., t, None, :]
        out.append((S<turned:.mT> @ QUERY[..., t, :, None]).squeeze(-1))  #? !before
    return (torch.stack(out, -2),)
'''

_READ_FORWARD = '''
@Operator
def NAME_forward(
    q: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor, <cut:packing: Tensor | None,>
) -> tuple[Tensor, Tensor]:
    """Over [X, H, ...], tokens before heads in memory, where modules want them; and scores."""
    out, scores = NAME_shapes(q, k, rows, starts, log_a)
    (X, H, T, dk), dv = log_a.shape, rows.shape[-1]
    checked(NAME_forward, NAME_meaning, k, dv, T, <cut:packing is not None, >log_a="T dk"<grouped:, groups=4>)
    if T == 1<cut: and packing is None>:
        sizes = scan_sizes("step", dk, dv, T, q.dtype)
        args = [
            q, <!before:k, rows, >starts, <!before:log_a, >scores, out, H, <grouped:H // k.shape[1], >*q.stride()[:2],
            <!before:*k.stride()[:2], *rows.stride()[:2], *log_a.stride()[:2], >*starts.stride()[2:], *out.stride()[:2],
        ]
        launch(NAME_step, (X * H * blocks_of(dv, sizes["BV"]),), args, q.dtype, **sizes)
        return out, scores
    channel_paired<before:_before><grouped:_grouped>(q, k, log_a, scores, dv<cut:, packing>)
    sizes = sizes_of("out", dk, dv, T, k.dtype)
    args = [
        q, rows, starts, log_a, scores, out, <cut:*tokens_of(packing, T, sizes["C"])><!cut:T>, H, <grouped:H // k.shape[1], >*q.stride()[:3], *rows.stride()[:3], *log_a.stride()[:3],
        *starts.stride()[2:], *out.stride()[:3],
    ]
    grid = (X * H * starts.shape[2] * blocks_of(dv, sizes["BV"]),)
    launch(NAME_out, grid, args, q.dtype, **sizes)
    return out, scores


@NAME_forward.register_fake
def NAME_shapes(q, k, rows, starts, log_a, *_):
    """What the operator returns, but for its values."""
    (X, H, T, dk), dv = log_a.shape, rows.shape[-1]
    C = chunk_of(dk, dv, T, k.dtype)
    return tokens_first(log_a, dv, q.dtype), q.new_empty(X, H, starts.shape[2], C, C)
'''

_READ_BACK = '''
@triton.jit
def NAME_grads(
    q, v, rows, starts, log_a, scores, dq, d_rows, d_starts, pairs, <cut:packing, >T, <cut:N, >H, <grouped:group, >
    q_x, q_h, q_t, v_x, v_h, v_t, r_x, r_h, r_t, a_x, a_h, a_t, s_n, s_v, s_d, w_x, w_h, w_t,
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What reads of a chunk are worth to rows, start and scores, and to q through the start."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BK)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    <before:a><!before:_>, c, _ = rates(log_a + x * a_x + head * a_h, t, d, a_t, stop, DK)
    read = tl.exp2(<!before:c><before:c - a>)
    Q = taken(q + x * q_x + head<grouped: // group> * q_h, t, d, q_t, stop, DK).to(tl.float32)
    Q = (Q * read).to(DOT)
    at = scores + m * C * C + i[None, :] * C + i[:, None]
    A_t = tl.load(at, mask=i[None, :] ORDER i[:, None], other=0.0).to(DOT)
    D = tl.zeros([C, C], tl.float32)
    dQ = tl.zeros([C, BK], tl.float32)
    for first in range(0, DV, BV):
        w = first + tl.arange(0, BV)
        V = taken(v + x * v_x + head * v_h, t, w, v_t, stop, DV).to(DOT)
        R = taken(rows + x * r_x + head * r_h, t, w, r_t, stop, DV).to(DOT)
        D += tl.dot(V, tl.trans(R), input_precision=PRECISION)
        h = taken_block(starts + m * s_n, d, w, s_v, s_d, DK, DV).to(DOT)
        dQ += tl.dot(V, tl.trans(h), input_precision=PRECISION)
        dR = tl.dot(A_t, V, input_precision=PRECISION)
        put(d_rows + x * w_x + head * w_h, dR, t, w, w_t, stop, DV)
        dh = tl.dot(tl.trans(Q), V, input_precision=PRECISION)
        put_block(d_starts + m * DK * DV, dh, d, w, DK, 1, DK, DV)
    tl.store(pairs + m * C * C + i[:, None] * C + i[None, :], D.to(pairs.dtype.element_ty))
    put(dq + (x * T * H + head) * DK, dQ * read, t, d, H * DK, stop, DK)
'''

_READ_BACKWARD = '''
@Operator
def NAME_backward(
    q: Tensor, v: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor, scores: Tensor,
    <cut:packing: Tensor | None,>
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The slopes of v_tᵀ <!before:S_t><before:S_{t-1}> q_t by all but v."""
    out = NAME_slopes(q, v, k, rows, starts, log_a)
    dq, dk_, d_rows, d_starts, da = out
    (X, H, T, dk), dv, dtype = log_a.shape, rows.shape[-1], wider(k.dtype)
    pairs, chunks = torch.empty_like(scores, dtype=dtype), X * H * starts.shape[2]
    sizes = sizes_of("out_back", dk, dv, T, dtype)
    args = [
        q, v, rows, starts, log_a, scores, dq, d_rows, d_starts, pairs, <cut:*tokens_of(packing, T, sizes["C"])><!cut:T>, H, <grouped:H // k.shape[1], >
        *q.stride()[:3], *v.stride()[:3], *rows.stride()[:3], *log_a.stride()[:3], *starts.stride()[2:],
        *d_rows.stride()[:3],
    ]
    launch(NAME_grads, (chunks,), args, dtype, **sizes)
    sizes = sizes_of("spread", dk, dv, T, dtype)
    args = [
        q, k, log_a, pairs, dq, dk_, da, <cut:*tokens_of(packing, T, sizes["C"])><!cut:T>, H, <grouped:H // k.shape[1], >*q.stride()[:3], *k.stride()[:3], *log_a.stride()[:3],
    ]
    launch(NAME_spread, (chunks * blocks_of(dk, sizes["BD"]),), args, dtype, **sizes)
    return out


@NAME_backward.register_fake
def NAME_slopes(q, v, k, rows, starts, log_a, *_):
    """The shapes of the slopes."""
    dq, dk, da = (tokens_first(log_a, dtype=x.dtype) for x in (q, k, log_a))
    d_rows = rows_like(rows, wider(k.dtype))
    d_starts = starts.new_empty(starts.shape, dtype=wider(k.dtype))
    return dq, dk, d_rows, d_starts, da
'''

_READ_OPERATOR = '''
def NAME(
    QUERY: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor, <cut:within: Packing | None = None,>
) -> Tensor:
    """SAID, where every channel of the keys decays at a rate of its own.

    From <!turned:q, >k and log_a [..., T, dk], <turned:v and >rows [..., T, dv], and S before each chunk.<grouped: Heads>
    <grouped:of q and k are fewer, each for as many in a row.>
    """
    dtype = supported(k)
    lead = leading(
        <!grouped:QUERY.shape[:-2], k.shape[:-2], >rows.shape[:-2], starts.shape[:-3], log_a.shape[:-2],
    )
    QUERY, k, rows = (rows_of(dtype, x) for x in fitted(lead, 2, QUERY, k, rows))  #? !grouped
    QUERY, k = (shared(dtype, lead, x) for x in (QUERY, k))  #? grouped
    rows = rows_of(dtype, *fitted(lead, 2, rows))  #? grouped
    starts = in_a_row(*fitted(lead, 3, starts))
    log_a = rows_of(torch.float32, *fitted(lead, 2, log_a))
    out<!turned:, _> = NAME_forward(QUERY, k, rows, starts, log_a<cut:, packed(within, k, rows)>)
    return unfitted(lead, out)[0]


'''

_READ_SLOPE = """
def NAME_setup(ctx, inputs, output):
    *flows, packing = inputs  #? cut
    ctx.save_for_backward(*<cut:flows><!cut:inputs>, output[1]<cut:, packing>)


def NAME_slope(ctx, grad, _):
    q, k, rows, starts, log_a, scores<cut:, packing> = ctx.saved_tensors
    v = rows_of(wider(k.dtype), grad)
    dq, dk, d_rows, d_starts, da = NAME_backward(q, v, k, rows, starts, log_a, scores<cut:, packing>)
    dq, dk = together(dq, q), together(dk, k)  #? grouped
    return dq, dk, d_rows.to(rows.dtype), d_starts.to(starts.dtype), da<cut:, None>


NAME_forward.register_autograd(NAME_slope, NAME_setup)
"""

_TURNED = '''
@triton.jit
def NAME_out(
    v, k, rows, starts, log_a, out, <cut:packing, >T, <cut:N, >H, v_x, v_h, v_t, k_x, k_h, k_t, r_x, r_h, r_t, a_x, a_h, a_t,
    s_n, s_v, s_d, o_x, o_h, o_t,
    DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """SAID for 16 tokens: what the chunk began with, and what was written since."""
    m, own = tl.program_id(0).to(tl.int64) // (C // 16), tl.program_id(0) % (C // 16)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    n, start = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C  #? !cut
    first, i, d = start + own * 16, tl.arange(0, 16), tl.arange(0, BK)
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
            V = taken(v, first + i, w, v_t, stop, DV).to(DOT)
            R = taken(rows, t, w, r_t, stop, DV).to(DOT)
            A += tl.dot(V, tl.trans(R), input_precision=PRECISION)
        K = taken(k, t, d, k_t, stop, DK).to(tl.float32)
        a, _, left = rates(log_a, t, d, a_t, stop, DK)
        K = (K * tl.exp2(left + past[None, :])).to(DOT)
        value += tl.dot(A.to(DOT), K, input_precision=PRECISION)
        past += tl.sum(a, 0)
    A = tl.zeros([16, 16], tl.float32)
    begun = tl.zeros([16, BK], tl.float32)
    for begin in range(0, DV, BV):
        w = begin + tl.arange(0, BV)
        V = taken(v, first + i, w, v_t, stop, DV).to(DOT)
        R = taken(rows, first + i, w, r_t, stop, DV).to(DOT)
        A += tl.dot(V, tl.trans(R), input_precision=PRECISION)
        h = taken_block(starts + m * s_n, d, w, s_v, s_d, DK, DV).to(DOT)
        begun += tl.dot(V, tl.trans(h), input_precision=PRECISION)
    <before:a><!before:_>, c, _ = rates(log_a, first + i, d, a_t, stop, DK)
    value = (value + begun * tl.exp2(past)[None, :]) * tl.exp2(<!before:c><before:c - a>)
    kept = tl.zeros([16, BK], tl.float32)
    for back in range(16):
        j = 15 - back
        seen = i ORDER j
        score = tl.sum(tl.where(seen[:, None] & (i == j)[None, :], A, 0.0), 1)
        K_j = one_token(k, first + j, d, k_t, stop, DK)
        value += score[:, None] * K_j[None, :] * tl.exp2(kept)
        a_j = one_token(log_a, first + j, d, a_t, stop, DK) * 1.4426950408889634
        kept += tl.where(seen[:, None], a_j[None, :], 0.0)
    put(out + x * o_x + head * o_h, value, first + i, d, o_t, stop, DK)
'''

_TURNED_OPERATOR = '''
@Operator
def NAME_forward(
    v: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor, <cut:packing: Tensor | None,>
) -> Tensor:
    """Over [X, H, ...], tokens before heads in memory, where modules want them."""
    out = NAME_shapes(v, k)
    (X, H, T, dk), dv = k.shape, rows.shape[-1]
    checked(NAME_forward, NAME_meaning, k, dv, T, <cut:packing is not None, >log_a="T dk")
    sizes = sizes_of("out", dk, dv, T, k.dtype)
    args = [
        v, k, rows, starts, log_a, out, <cut:*tokens_of(packing, T, sizes["C"])><!cut:T>, H, *v.stride()[:3], *k.stride()[:3], *rows.stride()[:3],
        *log_a.stride()[:3], *starts.stride()[2:], *out.stride()[:3],
    ]
    grid = (X * H * starts.shape[2] * (sizes["C"] // 16),)
    launch(NAME_out, grid, args, k.dtype, **sizes)
    return out


@NAME_forward.register_fake
def NAME_shapes(v, k, *_):
    """What the operator returns, but for its values."""
    return tokens_first(v, k.shape[-1])


def NAME_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def NAME_slope(ctx, grad):
    v, k, rows, starts, log_a<cut:, packing> = ctx.saved_tensors
    q = rows_of(wider(k.dtype), grad)
    dv, scores = PLAIN_forward(q, k, rows, starts, log_a<cut:, packing>)
    _, dk, d_rows, d_starts, da = PLAIN_backward(q, v, k, rows, starts, log_a, scores<cut:, packing>)
    return dv.to(v.dtype), dk, d_rows.to(rows.dtype), d_starts.to(starts.dtype), da<cut:, None>


NAME_forward.register_autograd(NAME_slope, NAME_setup)
'''


def texts(cut: bool) -> dict[str, str]:
    """Every read; ``cut``: of packed sequences, too."""
    out: dict[str, str] = {}
    for before, grouped in product((False, True), repeat=2):
        name, turned = (f"channel_{x}read{'_before' * before}" for x in ("", "turned_"))
        name, flags = name + "_grouped" * grouped, dict(before=before, grouped=grouped, cut=cut)
        forward, backward = (
            (_READ, _READ_STEP, _MEANING, _READ_FORWARD),
            (_READ_BACK, SPREAD, _READ_BACKWARD),
        )
        out[f"{name}_forward"] = entry(name, *forward, **flags)
        out[f"{name}_backward"] = entry(name, *backward, **flags)
        out[name] = entry(name, _READ_OPERATOR, _READ_SLOPE, **flags)
        if grouped:
            continue
        operator = _TURNED, _READ_OPERATOR, _MEANING, _TURNED_OPERATOR
        out[turned] = entry(turned, *operator, before=before, turned=True, cut=cut)
    return out
