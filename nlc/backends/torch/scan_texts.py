"""The algebra of one state that decays by one number or not at all, as text: what a setting does not need is not there.

``<flag:text>`` and ``line  #? flag`` are taken or left by ``scans.select``. PROBE is the key of the erase: p or k;
DIST the state, or its distance to what it decays to; GIVEN and SAVED how many tensors come in and are kept for each
state, ENDING where what is cut into chunks ends, SINCE what a chunk's tokens say of the state that it starts with.

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

DELTA_END = '''
class <decay:Gated>Delta<probe:At>End<toward:Towards>(torch.autograd.Function):
    """S_t = <toward:T + ><decay:a_t ><toward:(>S_{t-1}<toward: - T)> - b_t (S_{t-1} PROBE_t + e_t) k_tᵀ.

    Each S behind a chunk, for b<decay: and log_a> [..., C] of all; the gradient is written out.
    Of each, in a row: S [..., dv, dk], k [..., C, dk], e [..., C, dv]<probe:, p like k><toward:, T like S>.
    """

    @staticmethod
    def forward(ctx, b<decay:, log_a>, *given):
        ctx.shapes = [x.shape for x in (b<decay:, log_a>, *given)]
        b, log_a = torch.broadcast_tensors(b, log_a)  #? decay
        b, c = b[..., None], log_a.cumsum(-1)  #? decay
        b = b[..., None]  #? !decay
        before, G = (c - log_a).exp()[..., None], decays(c - log_a, c, -1)  #? decay
        to_end, kept = (c[..., -1:] - c).exp()[..., None], c[..., -1, None, None].exp()  #? decay
        one = torch.eye(b.shape[-2], dtype=b.dtype, device=b.device)
        ends, saved = [], []
        for S, k, e<probe:, p><toward:, T> in zip(*(given[i::GIVEN] for i in range(GIVEN)), strict=True):
            D = S - T  #? toward
            scores = <decay:PROBE @ k.mT * G><!decay:(PROBE @ k.mT).tril(-1)>
            L = b * scores
            inverse = torch.linalg.solve_triangular(L, one, upper=False, unitriangular=True)
            told = PROBE @ DIST.mT<decay: * before>
            e = e + PROBE @ T.mT  #? toward
            rows = inverse @ (-b * (told + e))
            told = told + scores @ rows  # what the chunk itself has written, too
            written = rows.mT @ <decay:(to_end * k)><!decay:k>
            ends.append(written.add_(<decay:torch.addcmul(T, kept, D)><!decay:S>))  #? toward
            ends.append(<decay:written.add_(kept * S)><!decay:written.add_(S)>)  #? !toward
            saved += [DIST, k, <probe:p, ><toward:T, ><decay:told, >told + e, inverse, rows]
        ctx.save_for_backward(b, <decay:before, G, to_end, kept, >*saved)
        return tuple(ends)

    @staticmethod
    def backward(ctx, *ends):
        if torch.is_grad_enabled():
            raise RuntimeError("gradients of gradients need the backend `reference`")
        b, <decay:before, G, to_end, kept, >*saved = ctx.saved_tensors
        db = b.new_zeros(b.shape[:-1])  #? !decay
        db, d_before, d_end = b.new_zeros(3, *b.shape[:-1])  #? decay
        sides = zip(*(saved[i::SAVED] for i in range(SAVED)), strict=True)
        grads = []
        for dS, (DIST, k, <probe:p, ><toward:T, ><decay:told, >error, inverse, rows) in zip(ends, sides, strict=True):
            d_rows = <decay:(to_end * k)><!decay:k> @ dS.mT
            de = inverse.mT @ d_rows
            db -= (de * error).sum(-1).sum_to_size(db.shape)
            de *= -b
            d_before += (de * told).sum(-1).sum_to_size(db.shape)  #? decay
            last = kept[..., 0, 0] * (dS * DIST).sum((-2, -1)) + (rows * d_rows).sum((-2, -1))  #? decay
            d_end[..., -1] += last.sum_to_size(db.shape[:-1])  #? decay
            since = before * de  #? decay
            d_scores = (de @ rows.mT).<decay:mul_(G)><!decay:tril_(-1)>
            d_probe = (d_scores @ k).add_(SINCE @ DIST)<toward:.add_(de @ T)>  #? probe
            dk = (d_scores.mT @ p).add_(<decay:(to_end * rows)><!decay:rows> @ dS)  #? probe
            dk = ((d_scores + d_scores.mT) @ k).add_(<decay:(to_end * rows)><!decay:rows> @ dS)  #? !probe
            dk = dk.add_(SINCE @ DIST)<toward:.add_(de @ T)>  #? !probe
            dD = <decay:kept * >dS + SINCE.mT @ PROBE
            grads += [dD, dk, de<probe:, d_probe><toward:, dS - dD + de.mT @ PROBE>]
        dc = d_before + d_end - b[..., 0] * db  #? decay
        da = dc.flip(-1).cumsum(-1).flip(-1) - d_before  #? decay
        grads = db, <decay:da, >*grads
        return tuple(x.sum_to_size(shape) for x, shape in zip(grads, ctx.shapes, strict=True))
'''

END = '''
def <decay:gated_>delta<probe:_at>_end<toward:_towards>(
    b: Tensor, <decay:log_a: Tensor, >*memories: tuple[Tensor, ...]
) -> Sequence[Tensor]:
    """Each S of (S, k, e<probe:, p><toward:, T>) behind all tokens, chunk by chunk."""

    def cut(x: Tensor, axis: int) -> Sequence[Tensor]:
        return x.split(CHUNK, axis) if b.shape[-1] > CHUNK else [x]  # its gradient is a copy

    states = [S for S, *_ in memories]
    flows = [list(zip(*(cut(x, -2) for x in m[1:ENDING]), strict=True)) for m in memories]
    for i, gates in enumerate(zip(cut(b, -1), <decay:cut(log_a, -1), >strict=True)):
        parts = [(S, *x[i]<toward:, m[-1]>) for S, x, m in zip(states, flows, memories, strict=True)]
        # views, as torch.compile takes no tensor twice
        given = (x.view_as(x) for part in parts for x in part)
        states = <decay:Gated>Delta<probe:At>End<toward:Towards>.apply(*gates, *given)
    return states
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
