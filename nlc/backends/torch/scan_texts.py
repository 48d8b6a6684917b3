"""The algebra of one state that decays by one number or not at all, as text: what a setting does not need is not there.

``<flag:text>`` and ``line  #? flag`` are taken or left by ``scans.select``. PROBE is the key of the erase: p or k;
MINE what comes in for each state, GIVEN and SAVED how many tensors that and what is kept are; TOLD where the shape of
the first answer is.

The scans of ends alone take the error e that is written, not u = -b e: with y_t = S_{t-1} p_t + e_t all that is written
is -b_t y_t, so that one sum over channels is the slope by b, and, times b, that by the gates behind each write.
"""

CHUNK = 64  # tokens of a triangular solve

CHUNK_TEXT = f"""
CHUNK = {CHUNK}  # tokens of one triangular solve
"""

CHUNKS = '''
def chunks(x: Tensor, axis: int, most: int = CHUNK) -> Tensor:
    """The token axis as [chunks, tokens of a chunk], as even as they come, filled up with zeros."""
    count = -(-x.shape[axis] // most)
    if rest := -x.shape[axis] % count:
        x = F.pad(x, [0, 0] * (-1 - axis) + [0, rest])
    return x.unflatten(axis, (count, -1))
'''

DECAYS = '''
def decays(rows: Tensor, columns: Tensor, diagonal: int) -> Tensor:
    """exp(rows_t - columns_i) on and below a diagonal, 0 above it, where it could overflow."""
    distance = rows[..., :, None] - columns[..., None, :]
    return distance.tril_(diagonal).exp_().tril(diagonal)
'''

SCAN = '''
def <decay:gated><!decay:additive>_scan(
    S: Tensor, k: Tensor, u: Tensor<decay:, log_a: Tensor>
) -> tuple[Tensor, Tensor, Tensor]:
    """S_t = <decay:a_t >S_{t-1} + u_t k_tᵀ: S after the last token, u, and S before each chunk.

    S [..., dv, dk], k [..., T, dk], u [..., T, dv]<decay:, log_a [..., T]>.
    """
    key, write = chunks(k, -2), chunks(u, -2)
    c = chunks(log_a, -1).cumsum(-1)  #? decay
    key = (c[..., -1:] - c).exp()[..., None] * key  # as it is at the end of the chunk  #? decay
    parts = c[..., -1, None, None].exp(), write, key  #? decay
    starts = [S]
    for g, w, e in zip(*(x.unbind(-3) for x in parts), strict=True):  #? decay
        starts.append(torch.addcmul(w.mT @ e, g, starts[-1]))  #? decay
    for w, e in zip(write.unbind(-3), key.unbind(-3), strict=True):  #? !decay
        starts.append(starts[-1] + w.mT @ e)  #? !decay
    S = starts.pop()
    return S, u, torch.stack([x.expand_as(S) for x in starts], -3)
'''

REJOINED = '''
def rejoined(x: Tensor, axis: int, shape: torch.Size) -> Tensor:
    """Chunks in a row, cut and summed to a shape."""
    x = x.flatten(axis - 1, axis)
    return x.narrow(axis, 0, shape[axis]).sum_to_size(shape)
'''

DELTA = '''
class <decay:Gated>Delta<probe:At>(torch.autograd.Function):
    """S_t = <decay:a_t >S_{t-1} + (u_t - b_t S_{t-1} PROBE_t) k_tᵀ, in chunks; the gradient is written out.

    S [..., dv, dk], k<probe: and p> [..., T, dk], u [..., T, dv], <decay:log_a and >b [..., T]. Returns S after
    the last token, the rows r_t = u_t - b_t S_{t-1} PROBE_t, and S before each chunk.
    """

    @staticmethod
    def forward(ctx, S, k, u, b<decay:, log_a><probe:, p>):
        ctx.shapes = [x.shape for x in (S, k, u, b<decay:, log_a><probe:, p>)]
        ctx.set_materialize_grads(False)
        k, u, b<probe:, p> = chunks(k, -2), chunks(u, -2), chunks(b, -1)[..., None]<probe:, chunks(p, -2)>
        a = chunks(log_a, -1)  #? decay
        c = a.cumsum(-1)  #? decay
        before, G = (c - a).exp()[..., None], decays(c - a, c, -1)  #? decay
        to_end, kept = (c[..., -1:] - c).exp()[..., None], c[..., -1, None, None].exp()  #? decay
        L = b * (PROBE @ k.mT) * G  #? decay
        L = (b * (PROBE @ k.mT)).tril_(-1)  #? !decay
        one = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
        inverse = torch.linalg.solve_triangular(L, one, upper=False, unitriangular=True)
        parts = inverse @ u, inverse @ (b<decay: * before> * PROBE), <decay:to_end * >k<decay:, kept>
        rows, starts = [], [S]
        for r, w, e<decay:, g> in zip(*(x.unbind(-3) for x in parts), strict=True):
            rows.append(r - w @ starts[-1].mT)
            starts.append(<decay:torch.addcmul(rows[-1].mT @ e, g, starts[-1])><!decay:starts[-1] + rows[-1].mT @ e>)
        S, rows = starts.pop(), torch.stack(rows, -3)
        starts = torch.stack([x.expand_as(S) for x in starts], -3)
        ctx.save_for_backward(k, b<decay:, c, before, to_end, kept, G><probe:, p>, inverse, rows, starts)
        return S, rows.flatten(-3, -2)[..., : ctx.shapes[1][-2], :], starts

    @staticmethod
    def backward(ctx, dS, d_rows, d_starts):
        if torch.is_grad_enabled():
            raise RuntimeError("gradients of gradients need the backend `reference`")
        k, b<decay:, c, before, to_end, kept, G><probe:, p>, inverse, rows, starts = ctx.saved_tensors
        dS = torch.zeros_like(starts[..., 0, :, :]) if dS is None else dS
        parts = inverse.mT @ (<decay:to_end * >k), b<decay: * before> * PROBE<decay:, kept>
        reach, probe<decay:, kept> = (x.unbind(-3) for x in parts)
        if d_rows is not None:
            d_rows = (inverse.mT @ chunks(d_rows, -2)).unbind(-3)
        du, ends = [], []
        for n in reversed(range(len(reach))):  # from the end: what S behind a chunk is worth
            ends.append(dS)
            y = reach[n] @ dS.mT
            du.append(y if d_rows is None else y + d_rows[n])
            dS = <decay:torch.addcmul(-du[-1].mT @ probe[n], kept[n], dS)><!decay:dS - du[-1].mT @ probe[n]>
            if d_starts is not None:
                dS = dS + d_starts[..., n, :, :]
        du, ends = torch.stack(du[::-1], -3), torch.stack(ends[::-1], -3)
        dL = (du @ rows.mT).<decay:mul_(G)><!decay:tril_(-1)>.neg_()
        d_probe = dL @ k - <decay:(du @ starts).mul_(before)><!decay:du @ starts>
        d_end = <decay:(rows @ ends).mul_(to_end)><!decay:rows @ ends>
        dk = d_end + dL.mul_(b).mT @ PROBE
        db = (d_probe * PROBE).sum(-1)
        dc, d_before = -(k * dk).sum(-1), b[..., 0] * db  #? decay
        last = c[..., -1].exp() * (ends * starts).sum((-2, -1)) + (k * d_end).sum((-2, -1))  #? decay
        dc = dc + d_before + F.pad(last[..., None], (dc.shape[-1] - 1, 0))  #? decay
        da = dc.flip(-1).cumsum(-1).flip(-1) - d_before  #? decay
        dk = dk.addcmul_(b, d_probe)  #? !probe
        grads = (dk, -2), (du, -2), (db, -1)<decay:, (da, -1)><probe:, (b * d_probe, -2)>
        parts = zip(grads, ctx.shapes[1:], strict=True)
        rest = [rejoined(x, axis, shape) for (x, axis), shape in parts]
        return dS.sum_to_size(ctx.shapes[0]), *rest
'''

AS_BATCH = '''
def as_batch(lead: Sequence[int], *matrices: Tensor) -> list[Tensor]:
    """Matrices for all of ``lead``, whose axes are one, as bmm takes them."""
    return [x.expand(*lead, *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in matrices]
'''

DELTA_END = '''
class <decay:Gated>Delta<probe:At>End<toward:Towards>(torch.autograd.Function):
    """S_t = <toward:T + ><decay:a_t ><toward:(>S_{t-1}<toward: - T)> - b_t (S_{t-1} PROBE_t + e_t) k_tᵀ.

    Each S behind a chunk, for b<decay: and log_a> [..., C] of all; the gradient is written out.
    Of each, in a row: S [..., dv, dk], k [..., C, dk], e [..., C, dv]<probe:, p like k><toward:, T like S>,
    and S_0 PROBE_t like e, where it is known, or None.
    """

    @staticmethod
    def forward(ctx, b<decay:, log_a>, *given):
        ctx.shapes = [x if x is None else x.shape for x in (b<decay:, log_a>, *given)]
        b, log_a = torch.broadcast_tensors(b, log_a)  #? decay
        b, c = b[..., None], log_a.cumsum(-1)  #? decay
        b = b[..., None]  #? !decay
        before, G = (c - log_a).exp()[..., None], decays(c - log_a, c, -1)  #? decay
        to_end, kept = (c[..., -1:] - c).exp()[..., None], c[..., -1, None, None].exp()  #? decay
        one = torch.eye(b.shape[-2], dtype=b.dtype, device=b.device)
        gates = <decay:b, before, G, to_end, kept><!decay:(b,)>
        by_lead = {x: as_batch(x, *gates) for x in {S.shape[:-2] for S in given[::GIVEN]}}
        ends, saved = [], []
        for MINE, told in zip(*(given[i::GIVEN] for i in range(GIVEN)), strict=True):
            lead = S.shape[:-2]
            <decay:rate, since, mask, left, stays><!decay:(rate,)> = by_lead[lead]
            MINE = as_batch(lead, MINE)
            scores = torch.bmm(PROBE, k.mT).<decay:mul_(mask)><!decay:tril_(-1)>
            L = rate * scores
            inverse = torch.linalg.solve_triangular(L, one, upper=False, unitriangular=True)
            told = torch.bmm(PROBE, S.mT) if told is None else told.reshape(e.shape)
            known = torch.bmm(PROBE, T.mT)  # which no token forgets  #? toward
            told, e = (told - known).mul_(since), known.add_(e)  #? toward
            told = since * told  #? decay !toward
            error = told<decay:.add_(e)><!decay: + e>
            rows = torch.bmm(inverse, -rate * error)
            error.baddbmm_(scores, rows)  # what the chunk itself has written, too
            end = <toward:torch.lerp(T, S, stays)><!toward:(stays * S)>.baddbmm_(rows.mul_(left).mT, k)  #? decay
            end = torch.baddbmm(S, rows.mT, k)  #? !decay
            ends.append(end.view(*lead, *end.shape[-2:]))
            saved += [S, k, <probe:p, ><toward:T, ><decay:e, end, >error, inverse]
        ctx.save_for_backward(*gates, *saved)
        return tuple(ends)

    @staticmethod
    def backward(ctx, *ends):
        if torch.is_grad_enabled():
            raise RuntimeError("gradients of gradients need the backend `reference`")
        b, <decay:before, G, to_end, kept, >*saved = ctx.saved_tensors
        gates = <decay:b, before, G, to_end, kept><!decay:(b,)>
        by_lead = {x: as_batch(x, *gates) for x in {S.shape[:-2] for S in ends}}
        db = b.new_zeros(b.shape[:-1])  #? !decay
        db, d_e, d_end = b.new_zeros(3, *b.shape[:-1])  #? decay
        grads, sides = [], zip(*(saved[i::SAVED] for i in range(SAVED)), strict=True)
        for dS, told, side in zip(ends, ctx.shapes[TOLD::GIVEN], sides, strict=True):
            S, k, <probe:p, ><toward:T, ><decay:e, end, >error, inverse = side
            lead, dS = dS.shape[:-2], dS.reshape(S.shape)
            <decay:rate, since, mask, left, stays><!decay:(rate,)> = by_lead[lead]
            rows = -rate * error  # what each token has written
            d_rows = torch.bmm(k, dS.mT)<decay:.mul_(left)>
            de = torch.bmm(inverse.mT, d_rows)
            db -= (de * error).sum(-1).view(*lead, -1).sum_to_size(db.shape)
            de *= -rate
            d_e -= (de * e).sum(-1).view(*lead, -1).sum_to_size(db.shape)  #? decay
            last = (dS * <toward:(end - T)><!toward:end>).sum((-2, -1)).view(lead)  #? decay
            d_end[..., -1] += last.sum_to_size(db.shape[:-1])  #? decay
            d_told = <decay:since * de><!decay:de>
            d_scores = torch.bmm(de, rows.mT).<decay:mul_(mask)><!decay:tril_(-1)>
            d_start = <decay:stays * dS><!decay:dS.clone()>
            d_known = de - d_told  #? toward
            d_T = (dS - d_start).baddbmm_(d_known.mT, PROBE)  #? toward
            d_probe = torch.bmm(d_scores, k)<toward:.baddbmm_(d_known, T)>  #? probe
            dk = torch.bmm(d_scores.mT, p)  #? probe
            dk = torch.bmm(d_scores + d_scores.mT, k)<toward:.baddbmm_(d_known, T)>  #? !probe
            dk.baddbmm_(rows<decay:.mul_(left)>, dS)
            if told is None:
                <probe:d_probe><!probe:dk>.baddbmm_(d_told, S)
                d_start.baddbmm_(d_told.mT, PROBE)
            found = d_start, dk, de, <probe:d_probe, ><toward:d_T, >d_told
            grads += [x.view(*lead, *x.shape[-2:]) for x in found]
        da = (d_end + d_e).flip(-1).cumsum(-1).flip(-1) - b[..., 0] * db - d_e  #? decay
        pairs = zip((db, <decay:da, >*grads), ctx.shapes, strict=True)
        return tuple(shape and x.sum_to_size(shape) for x, shape in pairs)
'''

END = '''
def <decay:gated_>delta<probe:_at>_end<toward:_towards>(
    b: Tensor, <decay:log_a: Tensor, >*memories: tuple[Tensor, ...]
) -> Sequence[Tensor]:
    """Each S of (S, k, e<probe:, p><toward:, T>[, A, A PROBE]) behind at most CHUNK tokens; A may be S."""
    given = []
    for MINE, *known in memories:
        told = known[1] if known and known[0] is S else None
        # views, as torch.compile takes no tensor twice
        given += [x if x is None else x.view_as(x) for x in (MINE, told)]
    return <decay:Gated>Delta<probe:At>End<toward:Towards>.apply(b, <decay:log_a, >*given)
'''

READ = '''
def <decay:gated_>read<before:_before>(
    q: Tensor, k: Tensor, rows: Tensor, starts: Tensor<decay:, log_a: Tensor>
) -> Tensor:
    """<!before:S_t q_t><before:S_{t-1} q_t>: what its chunk started with, and what was written since."""
    tokens = q.shape[-2]
    q, k, rows = chunks(q, -2), chunks(k, -2), chunks(rows, -2)
    a = chunks(log_a, -1)  #? decay before
    c = <!before:chunks(log_a, -1)><before:a>.cumsum(-1)  #? decay
    seen = c - a  #? decay before
    scores = (q @ k.mT) * <!before:decays(c, c, 0)><before:decays(seen, c, -1)>  #? decay
    scores = (q @ k.mT).tril(<before:-1>)  #? !decay
    out = <decay:<!before:c><before:seen>.exp()[..., None] * >(q @ starts.mT) + scores @ rows
    return out.flatten(-3, -2)[..., :tokens, :]
'''

RUNNING = '''
def <decay:gated_>running(x: Tensor, u: Tensor<decay:, log_a: Tensor>) -> Tensor:
    """x_t = <decay:a_t >x_{t-1} + u_t for all t: x [..., n], u [..., T, n]<decay:, log_a [..., T]>."""
    return x[..., None, :] + u.cumsum(-2)  #? !decay
    tokens, c = u.shape[-2], chunks(log_a, -1).cumsum(-1)  #? decay
    parts = c.exp()[..., None], decays(c, c, 0) @ chunks(u, -2)  #? decay
    out = []  #? decay
    for kept, new in zip(*(part.unbind(-3) for part in parts), strict=True):  #? decay
        out.append(kept * x[..., None, :] + new)  #? decay
        x = out[-1][..., -1, :]  #? decay
    return torch.cat(out, -2)[..., :tokens, :]  #? decay
'''
