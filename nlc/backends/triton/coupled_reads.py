"""Reads of coupled states as Triton kernels and their operators.

A read of the transpose of a state is one with the rows of its writes as keys: several flows of keys, one of rows.
"""

from __future__ import annotations

from itertools import product

from nlc.backends.triton.forms import worded

_READ = '''
@triton.jit
def NAME_out(
    q, k, rows, starts, kept, begun, out, <cut:packing, >T, <cut:N, >H, <grouped:group, >q_x, q_h, q_t, k_x, k_h, k_t, <turned:k_j, >
    r_x, r_h, r_t, <!turned:r_j, >s_n, s_s, s_v, s_d, w_n, b_n, o_x, o_h, o_t, <before:STATE: tl.constexpr, >
    STATES: tl.constexpr, ROWS: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """VALUE in a chunk: what it began with, and what was written since."""
    m, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DV, BV), tl.program_id(0) % tl.cdiv(DV, BV)
    i, d, v = tl.arange(0, C), tl.arange(0, BD), part * BV + tl.arange(0, BV)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    q += x * q_x + head<grouped: // group> * q_h
    k += x * k_x + head<grouped: // group> * k_h
    starts += m * s_n
    seen = i[:, None] ORDER i[None, :]
    at_kept = kept + m * w_n + WHERE[:, None] * C + i[None, :]
    lefts = ()
    for s in tl.static_range(STATES):
        left = tl.load(begun + m * b_n + s * C + i)  #? !before
        alone = 1.0 if s == STATE else 0.0  #? before
        left = token_before(begun + m * b_n + s * C, i, alone)  #? before
        lefts += (left[:, None],)
    A, Y = tl.zeros([C, C], tl.float32), tl.zeros([C, BV], tl.float32)
    for c in tl.static_range(PARTS):
        Q = taken(q + c * BD, t, d, q_t, stop, DK - c * BD).to(DOT)
        K = taken(k + c * BD, t, d, k_t, stop, DK - c * BD).to(DOT)  #? !turned
        A += tl.dot(Q, tl.trans(K), input_precision=PRECISION)  #? !turned
        for j in tl.static_range(ROWS):  #? turned
            S = tl.load(at_kept + j * C * C, mask=seen, other=0.0)  #? turned
            K = taken(k + j * k_j + c * BD, t, d, k_t, stop, DK - c * BD).to(DOT)  #? turned
            A += S * tl.dot(Q, tl.trans(K), input_precision=PRECISION)  #? turned
        for s in tl.static_range(STATES):
            at = starts + s * s_s + c * BD * s_d
            h = taken_block(at, d, v, s_v, s_d, DK - c * BD, DV).to(DOT)
            Y += lefts[s] * tl.dot(Q, h, input_precision=PRECISION)
    for j in tl.static_range(ROWS):  #? !turned
        S = tl.load(at_kept + j * C * C, mask=seen, other=0.0)  #? !turned
        at = rows + x * r_x + head * r_h + j * r_j  #? !turned
        R = taken(at, t, v, r_t, stop, DV).to(DOT)  #? !turned
        Y += tl.dot((A * S).to(DOT), R, input_precision=PRECISION)  #? !turned
    R = taken(rows + x * r_x + head * r_h, t, v, r_t, stop, DV).to(DOT)  #? turned
    Y += tl.dot(A.to(DOT), R, input_precision=PRECISION)  #? turned
    put(out + x * o_x + head * o_h, Y, t, v, o_t, stop, DV)
'''

_READ_BACK = '''
@triton.jit
def NAME_back(
    q, k, rows, starts, kept, begun, grad, dq, dk, d_rows, d_starts, d_kept, d_begun, <cut:packing, >T, <cut:N, >H, <grouped:group, >
    q_x, q_h, q_t, k_x, k_h, k_t, <turned:k_j, >r_x, r_h, r_t, <!turned:r_j, >s_n, s_s, s_v, s_d, w_n, b_n,
    g_x, g_h, g_t, <before:STATE: tl.constexpr, >
    STATES: tl.constexpr, ROWS: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    C: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """What a chunk's reads are worth to all that they are made of."""
    m, i, d = tl.program_id(0).to(tl.int64), tl.arange(0, C), tl.arange(0, BD)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    t = start + i  #? cut
    n, t = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C + i  #? !cut
    x, head = n // H, n % H
    q += x * q_x + head<grouped: // group> * q_h
    k += x * k_x + head<grouped: // group> * k_h
    starts += m * s_n
    seen, seen_t = i[:, None] ORDER i[None, :], i[None, :] ORDER i[:, None]
    at_kept = kept + m * w_n + WHERE[:, None] * C + i[None, :]
    at_kept_t = kept + m * w_n + WHERE[None, :] * C + i[:, None]
    A_t = tl.zeros([C, C], tl.float32)
    dA = tl.zeros([C, C], tl.float32)  #? turned
    dA_t = tl.zeros([C, C], tl.float32)  #? turned
    D, D_t, Oh, lefts = (), (), (), ()  #? !turned
    Oh, lefts = (), ()  #? turned
    for s in tl.static_range(STATES):
        left = tl.load(begun + m * b_n + s * C + i)  #? !before
        alone = 1.0 if s == STATE else 0.0  #? before
        left = token_before(begun + m * b_n + s * C, i, alone)  #? before
        lefts += (left,)
    for _ in tl.static_range(ROWS):  #? !turned
        D += (tl.zeros([C, C], tl.float32),)  #? !turned
        D_t += (tl.zeros([C, C], tl.float32),)  #? !turned
    for c in tl.static_range(PARTS):
        Q = taken(q + c * BD, t, d, q_t, stop, DK - c * BD).to(DOT)
        K = taken(k + c * BD, t, d, k_t, stop, DK - c * BD).to(DOT)  #? !turned
        A_t += tl.dot(K, tl.trans(Q), input_precision=PRECISION)  #? !turned
        for j in tl.static_range(ROWS):  #? turned
            S_t = tl.load(at_kept_t + j * C * C, mask=seen_t, other=0.0)  #? turned
            K = taken(k + j * k_j + c * BD, t, d, k_t, stop, DK - c * BD).to(DOT)  #? turned
            A_t += S_t * tl.dot(K, tl.trans(Q), input_precision=PRECISION)  #? turned
        for _ in tl.static_range(STATES):
            Oh += (tl.zeros([C, BD], tl.float32),)
    for first in range(0, DV, BV):
        v = first + tl.arange(0, BV)
        dO = taken(grad + x * g_x + head * g_h, t, v, g_t, stop, DV).to(DOT)
        R = taken(rows + x * r_x + head * r_h, t, v, r_t, stop, DV).to(DOT)  #? turned
        dA += tl.dot(dO, tl.trans(R), input_precision=PRECISION)  #? turned
        dA_t += tl.dot(R, tl.trans(dO), input_precision=PRECISION)  #? turned
        dR = tl.dot(A_t.to(DOT), dO, input_precision=PRECISION)  #? turned
        put(d_rows + n * T * DV, dR, t, v, DV, stop, DV)  #? turned
        E, E_t, reads = (), (), ()  #? !turned
        reads = ()  #? turned
        for c in tl.static_range(PARTS):
            Q = taken(q + c * BD, t, d, q_t, stop, DK - c * BD).to(DOT)
            for s in tl.static_range(STATES):
                at = starts + s * s_s + c * BD * s_d
                h = taken_block(at, d, v, s_v, s_d, DK - c * BD, DV).to(DOT)
                read = Oh[c * STATES + s] + tl.dot(dO, tl.trans(h), input_precision=PRECISION)
                reads += (read,)
                dh = (lefts[s][:, None] * dO.to(tl.float32)).to(DOT)
                dh = tl.dot(tl.trans(Q), dh, input_precision=PRECISION)
                at = d_starts + (m * STATES + s) * DK * DV + c * BD
                put_block(at, dh, d, v, DK, 1, DK - c * BD, DV)
        for j in tl.static_range(ROWS):  #? !turned
            at = rows + x * r_x + head * r_h + j * r_j  #? !turned
            R = taken(at, t, v, r_t, stop, DV).to(DOT)  #? !turned
            E += (D[j] + tl.dot(dO, tl.trans(R), input_precision=PRECISION),)  #? !turned
            E_t += (D_t[j] + tl.dot(R, tl.trans(dO), input_precision=PRECISION),)  #? !turned
            S_t = A_t * tl.load(at_kept_t + j * C * C, mask=seen_t, other=0.0)  #? !turned
            dR = tl.dot(S_t.to(DOT), dO, input_precision=PRECISION)  #? !turned
            put(d_rows + (n * T * ROWS + j) * DV, dR, t, v, ROWS * DV, stop, DV)  #? !turned
        D, D_t, Oh = E, E_t, reads  #? !turned
        Oh = reads  #? turned
    A = tl.zeros([C, C], tl.float32)  #? !turned
    row = (i + C - 1) % C  # the last token is before none  #? before
    for s in tl.static_range(STATES):
        d_left = tl.zeros([C], tl.float32)
        for c in tl.static_range(PARTS):
            Q = taken(q + c * BD, t, d, q_t, stop, DK - c * BD).to(tl.float32)
            d_left += tl.sum(Q * Oh[c * STATES + s], 1)
        d_left = tl.where(i > 0, d_left, 0.0)  #? before
        tl.store(d_begun + (m * STATES + s) * C + <before:row><!before:i>, d_left)
    for c in tl.static_range(PARTS):  #? !turned
        Q = taken(q + c * BD, t, d, q_t, stop, DK - c * BD).to(DOT)  #? !turned
        K = taken(k + c * BD, t, d, k_t, stop, DK - c * BD).to(DOT)  #? !turned
        A += tl.dot(Q, tl.trans(K), input_precision=PRECISION)  #? !turned
    dA, dA_t = tl.zeros([C, C], tl.float32), tl.zeros([C, C], tl.float32)  #? !turned
    at_slope = d_kept + m * ROWS * C * C + <before:row><!before:i>[:, None] * C + i[None, :]
    for j in tl.static_range(ROWS):
        dA += D[j] * tl.load(at_kept + j * C * C, mask=seen, other=0.0)  #? !turned
        dA_t += D_t[j] * tl.load(at_kept_t + j * C * C, mask=seen_t, other=0.0)  #? !turned
        A = tl.zeros([C, C], tl.float32)  #? turned
        for c in tl.static_range(PARTS):  #? turned
            Q = taken(q + c * BD, t, d, q_t, stop, DK - c * BD).to(DOT)  #? turned
            K = taken(k + j * k_j + c * BD, t, d, k_t, stop, DK - c * BD).to(DOT)  #? turned
            A += tl.dot(Q, tl.trans(K), input_precision=PRECISION)  #? turned
        tl.store(at_slope + j * C * C, tl.where(seen, <turned:dA><!turned:D[j]> * A, 0.0))
    for c in tl.static_range(PARTS):
        dQ = tl.zeros([C, BD], tl.float32)
        for s in tl.static_range(STATES):
            dQ += lefts[s][:, None] * Oh[c * STATES + s]
        Q = taken(q + c * BD, t, d, q_t, stop, DK - c * BD).to(DOT)
        for j in tl.static_range(ROWS):  #? turned
            S = tl.load(at_kept + j * C * C, mask=seen, other=0.0)  #? turned
            S_t = tl.load(at_kept_t + j * C * C, mask=seen_t, other=0.0)  #? turned
            K = taken(k + j * k_j + c * BD, t, d, k_t, stop, DK - c * BD).to(DOT)  #? turned
            dQ += tl.dot((dA * S).to(DOT), K, input_precision=PRECISION)  #? turned
            dK = tl.dot((dA_t * S_t).to(DOT), Q, input_precision=PRECISION)  #? turned
            put(dk + (n * T * ROWS + j) * DK + c * BD, dK, t, d, ROWS * DK, stop, DK - c * BD)  #? turned
        K = taken(k + c * BD, t, d, k_t, stop, DK - c * BD).to(DOT)  #? !turned
        dQ += tl.dot(dA.to(DOT), K, input_precision=PRECISION)  #? !turned
        dK = tl.dot(dA_t.to(DOT), Q, input_precision=PRECISION)  #? !turned
        put(dk + n * T * DK + c * BD, dK, t, d, DK, stop, DK - c * BD)  #? !turned
        put(dq + n * T * DK + c * BD, dQ, t, d, DK, stop, DK - c * BD)
'''

_READ_OPERATOR = '''
def NAME(
    q: Tensor, state: int, k: Tensor, rows: Tensor, starts: Tensor, *parts: Tensor, <cut:within: Packing | None = None,>
) -> Tensor:
    """VALUE for one of several states, from what their scan returns."""
    dtype = supported(k)
    kept, begun = parts[state], parts[starts.shape[-3] + state]
    lead = leading(
        <!grouped:q.shape[:-2], k.shape[:-2], >rows.shape[:-3], starts.shape[:-4], begun.shape[:-3],
    )
    q, k = (rows_of(dtype, x) for x in fitted(lead, 2, q, k))  #? !grouped
    q, k = (shared(dtype, lead, x) for x in (q, k))  #? grouped
    rows = rows_of(dtype, fitted(lead, 3, rows)[0])
    starts = fitted(lead, 4, starts)[0].flatten(0, 2)
    kept, begun = (fitted(lead, n, x)[0].flatten(0, 2) for n, x in ((4, kept), (3, begun)))
    packing = within and within.of(kept.shape[-1])  #? cut
    out = NAME_forward(
        q, <!turned:k, rows, starts><turned:rows, k, starts.mT>, kept, begun, <before:state, ><cut:packing>
    )
    return unfitted(lead, out)[0]


def NAME_meaning(
    q: Tensor, k: Tensor, rows: Tensor, starts: Tensor, kept: Tensor, begun: Tensor, <before:state: int, >
) -> tuple[Tensor, ...]:
    """Chunk by chunk."""
    q, k = (x.repeat_interleave(rows.shape[1] // x.shape[1], 1) for x in (q, k))  #? grouped
    C, out = kept.shape[-1], []
    kept, begun = one_earlier(kept, begun, state)  #? before
    kept = kept.tril()  #? !before
    parts = [x.unflatten(0, (*q.shape[:2], -1)).unbind(2) for x in (starts, kept, begun)]
    flows = q.split(C, -2), k.split(C, <turned:-3><!turned:-2>), rows.split(C, <turned:-2><!turned:-3>)
    for Q, K, R, X, seen, left in zip(*flows, *parts, strict=True):
        T = Q.shape[-2]
        A = torch.einsum("...td,...i<turned:j>d->...<turned:j>ti", Q, K)<!turned:.unsqueeze(-3)> * seen[..., :T, :T]
        Y = torch.einsum("...jti,...i<!turned:j>v->...tv", A, R)
        out.append(Y + torch.einsum("...lvd,...td,...lt->...tv", X, Q, left[..., :T]))
    return (torch.cat(out, -2),)


@Operator
def NAME_forward(
    q: Tensor, k: Tensor, rows: Tensor, starts: Tensor, kept: Tensor, begun: Tensor, <before:state: int, >
    <cut:packing: Tensor | None,>
) -> Tensor:
    """Over tensors [X, H, ...] and chunks [X * H * chunks, ...]<turned:, rows as keys and keys as rows>."""
    out = NAME_shapes(q, k, rows)
    (_, H, T, *_, dv), dk, (chunks, states, C) = rows.shape, q.shape[-1], begun.shape
    checked(
        NAME_forward, NAME_meaning, k, dv, C, <cut:packing is not None, ><turned:k="T written dk", ><!turned:rows="T written dv", >
        starts="all states dv dk", kept="all written C C", begun="all states C", states=states, written=kept.shape[1], C=C, <grouped:groups=4, >
    )
    args = [
        q, k, rows, starts, kept, begun, out, <cut:*tokens_of(packing, T, C)><!cut:T>, H, <grouped:H // k.shape[1], >*q.stride()[:3],
        <turned:*k.stride()[:4], *rows.stride()[:3], ><!turned:*k.stride()[:3], *rows.stride()[:4], >
        *starts.stride(), kept.stride(0), begun.stride(0), *out.stride()[:3],
    ]
    sizes = coupled_sizes("out", states, kept.shape[1], dk, dv, C)
    grid = (chunks * blocks_of(dv, sizes["BV"]),)
    launch(NAME_out, grid, args, k.dtype, <before:STATE=state, >**sizes)
    return out


@NAME_forward.register_fake
def NAME_shapes(q, k, rows, *_):
    """What the operator returns, but for its values."""
    N, H, T = rows.shape[:3]
    return q.new_empty(N, T, H, rows.shape[-1]).transpose(1, 2)


@Operator
def NAME_backward(
    q: Tensor, k: Tensor, rows: Tensor, starts: Tensor, kept: Tensor, begun: Tensor, grad: Tensor, <before:state: int, >
    <cut:packing: Tensor | None,>
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The slopes by all that goes in."""
    out = NAME_slopes(q, k, rows, starts, kept, begun)
    (_, H, T, *_, dv), dk, (chunks, states, C) = rows.shape, q.shape[-1], begun.shape
    args = [
        q, k, rows, starts, kept, begun, grad, *out, <cut:*tokens_of(packing, T, C)><!cut:T>, H, <grouped:H // k.shape[1], >*q.stride()[:3],
        <turned:*k.stride()[:4], *rows.stride()[:3], ><!turned:*k.stride()[:3], *rows.stride()[:4], >
        *starts.stride(), kept.stride(0), begun.stride(0), *grad.stride()[:3],
    ]
    sizes = coupled_sizes("out_back", states, kept.shape[1], dk, dv, C)
    launch(NAME_back, (chunks,), args, wider(k.dtype), <before:STATE=state, >**sizes)
    return out


@NAME_backward.register_fake
def NAME_slopes(q, k, rows, starts, kept, begun, *_):
    """The shapes of the slopes."""
    dtype = wider(k.dtype)
    return (
        q.new_empty(<grouped:*rows.shape[:3], q.shape[-1]><!grouped:q.shape>), k.new_empty(<grouped:*rows.shape[:3], k.shape[-1]><!grouped:k.shape><turned:, dtype=dtype>),
        rows.new_empty(rows.shape<!turned:, dtype=dtype>), starts.new_empty(starts.shape, dtype=dtype),
        kept.new_empty(kept.shape), begun.new_empty(begun.shape),
    )


def NAME_setup(ctx, inputs, output):
    *flows, <before:ctx.state, >packing = inputs  #? cut
    *flows, ctx.state = inputs  #? before !cut
    ctx.save_for_backward(*<cut:flows><!cut:<before:flows><!before:inputs>><cut:, packing>)


def NAME_slope(ctx, grad):
    q, k, rows, starts, kept, begun<cut:, packing> = ctx.saved_tensors
    grad = rows_of(wider(k.dtype), grad)
    d_q, d_k, d_rows, d_starts, d_kept, d_begun = NAME_backward(
        q, k, rows, starts, kept, begun, grad, <before:ctx.state, ><cut:packing>
    )
    d_starts = d_starts.to(starts.dtype)
    d_q, d_k = together(d_q, q), together(d_k, k)  #? grouped
    return d_q, d_k.to(k.dtype), d_rows.to(rows.dtype), d_starts, d_kept, d_begun<before:, None><cut:, None>


NAME_forward.register_autograd(
    NAME_slope, NAME_setup
)
'''


def _read(turned: bool, before: bool, grouped: bool, cut: bool) -> tuple[str, str]:
    name = f"coupled_{'turned_' * turned}read{'_before' * before}{'_grouped' * grouped}"
    words = {
        "VALUE": f"X_{'(t-1)' if before else 't'}[state]{'ᵀ' * turned} q_t",
        "WHERE": "(i - 1)" if before else "i",
        "ORDER": ">" if before else ">=",
        "NAME": name,
    }
    source = "\n".join([_READ, _READ_BACK, _READ_OPERATOR])
    return name, worded(source, words, cut, turned=turned, before=before, grouped=grouped)


def texts(cut: bool) -> dict[str, str]:
    """Every read; ``cut``: of packed sequences, too."""
    return dict(
        _read(turned, before, grouped, cut)
        for turned, before, grouped in product((False, True), repeat=3)
        if not (turned and grouped)
    )
