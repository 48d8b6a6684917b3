"""The algebra of states that decay channel by channel, and of several coupled ones, as text; see ``scan_texts.py``."""

CHANNEL_CHUNK = 16  # where decays differ by channel: scores are sums, not products of matrices

CHANNEL_CHUNK_TEXT = f"""
CHANNEL_CHUNK = {CHANNEL_CHUNK}  # shorter: scores are sums over channels, no products of matrices
"""

CHANNEL_DECAYS = '''
def channel_decays(rows: Tensor, columns: Tensor, diagonal: int) -> Tensor:
    """exp(rows_td - columns_id) on and below a diagonal, 0 above it."""
    t = torch.arange(rows.shape[-2], device=rows.device)
    hidden = (t > t[:, None] + diagonal)[..., None]
    return (rows[..., :, None, :] - columns[..., None, :, :]).masked_fill(hidden, -torch.inf).exp()
'''

CHANNEL_SCORES = '''
def channel_scores(q: Tensor, k: Tensor, rows: Tensor, columns: Tensor, diagonal: int) -> Tensor:
    """Σ_d q_td k_id exp(rows_td - columns_id) on and below a diagonal, 0 above it."""
    kept = channel_decays(rows, columns, diagonal) * k[..., None, :, :]
    return (kept @ q[..., None]).squeeze(-1)
'''

CHANNEL_SCAN = '''
def channel_<erase:delta_>scan(
    S: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor<erase:, p: Tensor>
) -> tuple[Tensor, Tensor, Tensor]:
    """S_t = S_(t-1) Diag(a_t) + <!erase:u_t><erase:(u_t - b_t S_(t-1) p_t)> k_tᵀ.

    S [..., dv, dk], k<erase:, p> and log_a [..., T, dk], u [..., T, dv]<erase:, b [..., T]>. Returns S after the
    last token, <!erase:u><erase:the rows that were written> and S before each chunk.
    """
    tokens = u.shape[-2]  #? erase
    k, u<erase:, p>, a = (chunks(x, -2, CHANNEL_CHUNK) for x in (k, u<erase:, p>, log_a))
    c = a.cumsum(-2)
    b = chunks(b, -1, CHANNEL_CHUNK)[..., None]  #? erase
    L = b * channel_scores(p, k, c - a, c, -1)  #? erase
    one = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)  #? erase
    inverse = torch.linalg.solve_triangular(L, one, upper=False, unitriangular=True)  #? erase
    parts = inverse @ u, inverse @ (b * (c - a).exp() * p)  #? erase
    parts = (u,)  #? !erase
    parts = *parts, (c[..., -1:, :] - c).exp() * k, c[..., -1:, :].exp()
    starts = [S]
    rows = []  #? erase
    for r<erase:, w>, e, g in zip(*(x.unbind(-3) for x in parts), strict=True):
        rows.append(r - w @ starts[-1].mT)  #? erase
        starts.append(g * starts[-1] + <!erase:r><erase:rows[-1]>.mT @ e)
    S = starts.pop()
    rows = <!erase:u><erase:torch.stack(rows, -3)>.flatten(-3, -2)<erase:[..., :tokens, :]>
    return S, rows, torch.stack([x.expand_as(S) for x in starts], -3)
'''

CHANNEL_READ = '''
def channel_read<before:_before>(
    q: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor
) -> Tensor:
    """<!before:S_t q_t><before:S_{t-1} q_t>, where every channel of the keys decays at a rate of its own."""
    tokens = q.shape[-2]
    q, k, rows, a = (chunks(x[..., :tokens, :], -2, CHANNEL_CHUNK) for x in (q, k, rows, log_a))
    c = a.cumsum(-2)
    scores = channel_scores(q, k, <!before:c><before:c - a>, c, <!before:0><before:-1>)
    out = ((<!before:c><before:c - a>).exp() * q) @ starts.mT + scores @ rows
    return out.flatten(-3, -2)[..., :tokens, :]
'''

CHANNEL_TURNED_READ = '''
def channel_turned_read<before:_before>(
    v: Tensor, k: Tensor, rows: Tensor, starts: Tensor, log_a: Tensor
) -> Tensor:
    """<!before:S_tᵀ v_t><before:S_{t-1}ᵀ v_t>, where every channel of the keys decays at a rate of its own."""
    tokens = v.shape[-2]
    v, k, rows, a = (chunks(x[..., :tokens, :], -2, CHANNEL_CHUNK) for x in (v, k, rows, log_a))
    c = a.cumsum(-2)
    kept = channel_decays(<!before:c><before:c - a>, c, <!before:0><before:-1>) * k[..., None, :, :]
    out = (<!before:c><before:c - a>).exp() * (v @ starts) + ((v @ rows.mT)[..., None, :] @ kept).squeeze(-2)
    return out.flatten(-3, -2)[..., :tokens, :]
'''

COUPLING = '''
def coupling(like: Tensor, *rows: tuple[Tensor | float, ...]) -> Tensor:
    """Coefficients [..., T] as matrices [..., T, p, p], ``like`` for its shape."""
    flat = [x if isinstance(x, Tensor) else like.new_full((), x) for row in rows for x in row]
    return torch.stack(torch.broadcast_tensors(like, *flat)[1:], -1).unflatten(-1, (len(rows), -1))
'''

PROPAGATION = '''
def propagation(A: Tensor) -> tuple[Tensor, Tensor]:
    """A_t ... A_(i+1) for i <= t, as [..., C, p, C, p]; and from before the first, [..., C, p, p].

    These products solve X_t = A_t X_(t-1) for all i at once, so that nothing is divided by.
    """
    size, p = A.shape[-3:-1]
    below = torch.diag_embed(A[..., 1:, :, :].movedim(-3, -1), offset=-1)
    below = below.movedim((-2, -4, -1, -3), (-4, -3, -2, -1)).flatten(-2).flatten(-3, -2)
    one = torch.eye(size * p, dtype=A.dtype, device=A.device)
    kept = torch.linalg.solve_triangular(one - below, one, upper=False, unitriangular=True)
    kept = kept.unflatten(-1, (size, p)).unflatten(-3, (size, p))
    return kept, kept[..., 0, :] @ A[..., :1, :, :]
'''

EARLIER = '''
def earlier(x: Tensor, axis: int, first: Tensor) -> Tensor:
    """One token earlier along an axis, after ``first``."""
    return torch.cat([first.unsqueeze(axis), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
'''

COUPLED_SCAN = '''
def coupled_<erase:delta_>scan(
    X: Tensor, A: Tensor, k: Tensor, u: Tensor<erase:, b: Tensor, p: Tensor, source: int>
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """X_t = A_t X_(t-1) + <!erase:u_t><erase:(u_t - b_t z_t)> k_tᵀ<erase:, z_t = X_(t-1)[source] p_t>.

    X [..., states, dv, dk], A [..., T, states, states], k<erase: and p> [..., T, dk],
    u [..., T, states, dv]<erase:, b [..., T, states]>. Returns X after the last token, and what reads need.
    """
    alone = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    A, k, u = chunks(A - alone, -3) + alone, chunks(k, -2), chunks(u, -3)
    kept, first = propagation(A)
    at_end, to_end = first[..., -1, :, :], kept[..., -1, :, :, :].movedim(-3, -2)
    b, p = chunks(b, -2), chunks(p, -2)  #? erase
    seen = earlier(kept[..., source, :, :], -3, torch.zeros_like(kept[..., 0, source, :, :]))  #? erase
    begun = earlier(first[..., source, :], -2, alone[source].expand_as(first[..., 0, source, :]))  #? erase
    scores = (p @ k.mT)[..., None] * seen  #? erase
    L = (scores * b[..., None, :, :]).sum(-1)  #? erase
    one = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)  #? erase
    inverse = torch.linalg.solve_triangular(L, one, upper=False, unitriangular=True)  #? erase
    z = inverse @ (scores.flatten(-2) @ u.flatten(-3, -2))  #? erase
    probe = inverse[..., None, :, :] @ (begun.mT[..., None] * p[..., None, :, :])  #? erase
    starts = [X]
    rows = []  #? erase
    parts = at_end, to_end, k, u<erase:, b, z, probe>
    axes = -3, -4, -3, -4<erase:, -3, -3, -4>
    for n in range(k.shape[-3]):
        now = (x.select(axis, n) for x, axis in zip(parts, axes, strict=True))
        g, e, key, row<erase:, erase, z_n, probe_n> = now
        z_n = z_n + (probe_n @ starts[-1].mT).sum(-3)  #? erase
        row = row - erase[..., None] * z_n[..., None, :]  #? erase
        rows.append(row)  #? erase
        new = (e @ row).movedim(-2, -3).mT @ key[..., None, :, :]
        old = g @ starts[-1].flatten(-2)
        starts.append(old.unflatten(-1, X.shape[-2:]) + new)
    X = starts.pop()
    rows = torch.stack(rows, -4)  #? erase
    return X, (k, <erase:rows><!erase:u>, torch.stack([x.expand_as(X) for x in starts], -4), kept, first)
'''

COUPLED_READ = '''
def coupled_<turned:turned_>read<before:_before>(
    q: Tensor, state: int, k: Tensor, rows: Tensor, starts: Tensor, kept: Tensor, first: Tensor
) -> Tensor:
    """X_<!before:t><before:(t-1)>[state]<turned:ᵀ> q_t for one of several states."""
    tokens = q.shape[-2]
    q, seen, begun = chunks(q, -2), kept[..., state, :, :], first[..., state, :]
    seen = earlier(seen, -3, torch.zeros_like(seen[..., 0, :, :]))  #? before
    alone = torch.eye(begun.shape[-1], dtype=begun.dtype, device=begun.device)[state]  #? before
    begun = earlier(begun, -2, alone.expand_as(begun[..., 0, :]))  #? before
    out = (begun.mT[..., None] * (q[..., None, :, :] @ starts<!turned:.mT>)).sum(-3)
    scores = (q @ k.mT)[..., None] * seen  #? !turned
    out = out + scores.flatten(-2) @ rows.flatten(-3, -2)  #? !turned
    scores = (q @ rows.flatten(-3, -2).mT).unflatten(-1, rows.shape[-3:-1]) * seen  #? turned
    out = out + scores.sum(-1) @ k  #? turned
    return out.flatten(-3, -2)[..., :tokens, :]
'''
