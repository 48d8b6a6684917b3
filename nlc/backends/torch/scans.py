"""The algebra of scans as text of the generated file: what a setting of the record does not need is not there.

    S_t = a_t S_{t−1} + (u_t − b_t S_{t−1} p_t) k_tᵀ        with c = log a, summed up to t in a chunk

Every exponent is a difference of such sums that is ≤ 0 where it counts, masked before ``exp``. The rows that a chunk
writes, r_t = u_t − b_t S_{t−1} p_t, solve one unit triangular system. With several states, or a decay that may be
negative, what is kept from token to token is a product of small matrices, which is a triangular solve as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nlc.ir.scan import Record

CHUNK = 64  # tokens of a triangular solve
CHANNEL_CHUNK = (
    16  # where decays differ by channel: there scores are sums, not products of matrices
)


@dataclass(frozen=True, order=True)
class Form:
    """What of the algebra a record needs. ``kind`` is the record's, ``coupled`` also for one state whose decay has a
    sign."""

    kind: str
    erase: bool = False
    probe: bool = False
    end: bool = False  # nothing reads the states on the way
    toward: bool = False  # what it decays to is an argument

    @property
    def scan(self) -> str:
        """What the scan is called in the generated file."""
        if self.end:
            gated = "gated_" if self.kind == "scalar" else ""
            return f"{gated}delta{'_at' * self.probe}_end" + "_towards" * self.toward
        first = {"none": "", "scalar": "Gated", "channel": "Channel", "coupled": "Coupled"}[
            self.kind
        ]
        if self.kind in ("none", "scalar") and self.erase:
            return f"{first}Delta" + ("At" if self.probe else "")
        return f"{first.lower() or 'additive'}_" + ("delta_" if self.erase else "") + "scan"

    @property
    def call(self) -> str:
        """The text before its arguments."""
        return f"{self.scan}.apply" if self.scan[0].isupper() else self.scan

    @property
    def symmetric(self) -> bool:
        """Whether a read of Sᵀ is one of S with the keys for the rows and the rows for the keys."""
        return self.kind in ("none", "scalar")

    def read(self, when: str, turned: bool = False) -> str:
        """What reading its states is called, or their transposes."""
        first = {"none": "", "scalar": "gated_", "channel": "channel_", "coupled": "coupled_"}
        turned = turned and not self.symmetric
        return f"{first[self.kind]}{'turned_' * turned}read{'_before' * (when == 'before')}"


def form(r: Record, read: bool) -> Form:
    """The form of a record of matrices, whose states on the way are ``read`` or not."""
    kind = "coupled" if r.kind == "signed" else r.kind
    erase = r.source is not None
    plain = erase and kind in ("none", "scalar")
    begun = bool(r.start) and r.start[0] is not None
    return Form(
        kind, erase, plain and r.probe is not None, plain and not read, plain and not read and begun
    )


_BOTH = (False, True)
FORMS = (
    *(Form(kind, erase) for kind in ("none", "scalar", "channel", "coupled") for erase in _BOTH),
    *(Form(kind, True, True) for kind in ("none", "scalar")),
    *(
        Form(kind, True, probe, True, toward)
        for kind in ("none", "scalar")
        for probe in _BOTH
        for toward in _BOTH
    ),
)


def select(text: str, **flags: bool) -> str:
    """``<flag:text>`` stands where the flag is on, ``<!flag:text>`` where it is off; so does ``line  #? flag !flag``."""

    def inline(m: re.Match[str]) -> str:
        name, shown = m.group(1), m.group(2)
        return shown if flags[name.lstrip("!")] != name.startswith("!") else ""

    out = []
    for line in text.split("\n"):
        line, _, condition = line.partition("  #? ")
        if all(flags[c.lstrip("!")] != c.startswith("!") for c in condition.split()):
            while (shown := re.sub(r"<(!?\w+):([^<>]*)>", inline, line)) != line:
                line = shown
            out.append(line)
    return "\n".join(out)


_CHUNK = f"""
CHUNK = {CHUNK}  # tokens of one triangular solve
"""

_CHUNKS = '''
def chunks(x: Tensor, axis: int, most: int = CHUNK) -> Tensor:
    """The token axis as [chunks, tokens of a chunk], as even as they come, filled up with zeros."""
    count = -(-x.shape[axis] // most)
    if rest := -x.shape[axis] % count:
        x = F.pad(x, [0, 0] * (-1 - axis) + [0, rest])
    return x.unflatten(axis, (count, -1))
'''

_DECAYS = '''
def decays(rows: Tensor, columns: Tensor, diagonal: int) -> Tensor:
    """exp(rows_t - columns_i) on and below a diagonal, 0 above it, where it could overflow."""
    t = torch.arange(rows.shape[-1], device=rows.device)
    hidden = t > t[:, None] + diagonal
    distance = rows[..., :, None] - columns[..., None, :]
    return distance.masked_fill_(hidden, -torch.inf).exp_()
'''

_SCAN = '''
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

_REJOINED = '''
def rejoined(x: Tensor, axis: int, shape: torch.Size) -> Tensor:
    """Chunks in a row, cut and summed to a shape."""
    x = x.flatten(axis - 1, axis)
    return x.narrow(axis, 0, shape[axis]).sum_to_size(shape)
'''

_DELTA = '''
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

_DELTA_END = '''
class <decay:Gated>Delta<probe:At>End(torch.autograd.Function):
    """S_t = <decay:a_t >S_{t-1} + (u_t - b_t S_{t-1} PROBE_t) k_tᵀ: S behind a chunk.

    The gradient is written out. S [..., dv, dk], k<probe: and p> [..., C, dk], u [..., C, dv],
    <decay:log_a and >b [..., C].
    """

    @staticmethod
    def forward(ctx, S, k, u, b<decay:, log_a><probe:, p>):
        ctx.shapes = [x.shape for x in (S, k, u, b<decay:, log_a><probe:, p>)]
        b = b[..., None]
        c = log_a.cumsum(-1)  #? decay
        before, G = (c - log_a).exp()[..., None], decays(c - log_a, c, -1)  #? decay
        to_end, kept = (c[..., -1:] - c).exp()[..., None], c[..., -1, None, None].exp()  #? decay
        L = b * (PROBE @ k.mT) * G  #? decay
        L = (b * (PROBE @ k.mT)).tril_(-1)  #? !decay
        rows = u - (b<decay: * before> * PROBE) @ S.mT
        rows = torch.linalg.solve_triangular(L, rows, upper=False, unitriangular=True)
        ctx.save_for_backward(S, k, b<decay:, before, to_end, kept, G><probe:, p>, L, rows)
        return <decay:kept * >S + rows.mT @ <decay:(to_end * k)><!decay:k>

    @staticmethod
    def backward(ctx, dS):
        if torch.is_grad_enabled():
            raise RuntimeError("gradients of gradients need the backend `reference`")
        S, k, b<decay:, before, to_end, kept, G><probe:, p>, L, rows = ctx.saved_tensors
        du = <decay:(to_end * k)><!decay:k> @ dS.mT
        du = torch.linalg.solve_triangular(L.mT, du, upper=True, unitriangular=True)
        dL = (du @ rows.mT).<decay:mul_(G)><!decay:tril_(-1)>.neg_()
        d_probe = dL @ k - <decay:(du @ S).mul_(before)><!decay:du @ S>
        d_end = <decay:(rows @ dS).mul_(to_end)><!decay:rows @ dS>
        dk, db = d_end + dL.mul_(b).mT @ PROBE, (d_probe * PROBE).sum(-1)
        dc, d_before = -(k * dk).sum(-1), b[..., 0] * db  #? decay
        last = (kept * dS * S).sum((-2, -1)) + (k * d_end).sum((-2, -1))  #? decay
        dc = dc + d_before + F.pad(last[..., None], (dc.shape[-1] - 1, 0))  #? decay
        da = dc.flip(-1).cumsum(-1).flip(-1) - d_before  #? decay
        dk = dk.addcmul_(b, d_probe)  #? !probe
        dS = <decay:kept * >dS - du.mT @ (b<decay: * before> * PROBE)
        grads = dS, dk, du, db<decay:, da><probe:, b * d_probe>
        return tuple(x.sum_to_size(shape) for x, shape in zip(grads, ctx.shapes, strict=True))
'''

_END = '''
def <decay:gated_>delta<probe:_at>_end(
    S: Tensor, k: Tensor, u: Tensor, b: Tensor<decay:, log_a: Tensor><probe:, p: Tensor><toward:, T: Tensor>
) -> Tensor:
    """S behind all tokens<toward:, where it decays towards T>, chunk by chunk."""
    S, u = S - T, u - b[..., None] * (PROBE @ T.mT)  #? toward
    flows = (k, -2), (u, -2), (b, -1)<decay:, (log_a, -1)><probe:, (p, -2)>
    for chunk in zip(*(x.split(CHUNK, axis) for x, axis in flows), strict=True):
        S = <decay:Gated>Delta<probe:At>End.apply(S, *chunk)
    return <toward:T + >S
'''

_READ = '''
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

_CHANNEL_CHUNK = f"""
CHANNEL_CHUNK = {CHANNEL_CHUNK}  # shorter: scores are sums over channels, no products of matrices
"""

_CHANNEL_DECAYS = '''
def channel_decays(rows: Tensor, columns: Tensor, diagonal: int) -> Tensor:
    """exp(rows_td - columns_id) on and below a diagonal, 0 above it."""
    t = torch.arange(rows.shape[-2], device=rows.device)
    hidden = (t > t[:, None] + diagonal)[..., None]
    return (rows[..., :, None, :] - columns[..., None, :, :]).masked_fill(hidden, -torch.inf).exp()
'''

_CHANNEL_SCORES = '''
def channel_scores(q: Tensor, k: Tensor, rows: Tensor, columns: Tensor, diagonal: int) -> Tensor:
    """Σ_d q_td k_id exp(rows_td - columns_id) on and below a diagonal, 0 above it."""
    kept = channel_decays(rows, columns, diagonal) * k[..., None, :, :]
    return (kept @ q[..., None]).squeeze(-1)
'''

_CHANNEL_SCAN = '''
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

_CHANNEL_READ = '''
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

_CHANNEL_TURNED_READ = '''
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

_COUPLING = '''
def coupling(like: Tensor, *rows: tuple[Tensor | float, ...]) -> Tensor:
    """Coefficients [..., T] as matrices [..., T, p, p], ``like`` for its shape."""
    flat = [x if isinstance(x, Tensor) else like.new_full((), x) for row in rows for x in row]
    return torch.stack(torch.broadcast_tensors(like, *flat)[1:], -1).unflatten(-1, (len(rows), -1))
'''

_PROPAGATION = '''
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

_EARLIER = '''
def earlier(x: Tensor, axis: int, first: Tensor) -> Tensor:
    """One token earlier along an axis, after ``first``."""
    return torch.cat([first.unsqueeze(axis), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
'''

_COUPLED_SCAN = '''
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
        now = [x.select(axis, n) for x, axis in zip(parts, axes, strict=True)]
        g, e, key, row<erase:, erase, z_n, probe_n> = now
        z_n = z_n + (probe_n @ starts[-1].mT).sum(-3)  #? erase
        row = row - erase[..., None] * z_n[..., None, :]  #? erase
        rows.append(row)  #? erase
        new = (e @ row).movedim(-2, -3).mT @ key[..., None, :, :]
        old = g @ starts[-1].flatten(-2)
        starts.append(old.unflatten(-1, X.shape[-2:]) + new)
    X = starts.pop()
    rows = <!erase:u><erase:torch.stack(rows, -4)>
    return X, (k, rows, torch.stack([x.expand_as(X) for x in starts], -4), kept, first)
'''

_COUPLED_READ = '''
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

_RUNNING = '''
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


def _one_line(text: str) -> str:
    """A signature on one line, where it fits."""

    def joined(m: re.Match[str]) -> str:
        line = f"{m.group(1)}({m.group(2).strip()}) -> {m.group(3)}:"
        return line if len(line) <= 100 else m.group(0)

    return re.sub(r"(def \w+)\(\n    ([^\n]*)\n\) -> ([^\n]*):", joined, text)


def _texts() -> dict[str, str]:
    out = {
        "CHUNK": _CHUNK,
        "chunks": _CHUNKS,
        "decays": _DECAYS,
        "rejoined": _REJOINED,
        "CHANNEL_CHUNK": _CHANNEL_CHUNK,
        "channel_decays": _CHANNEL_DECAYS,
        "channel_scores": _CHANNEL_SCORES,
        "coupling": _COUPLING,
        "propagation": _PROPAGATION,
        "earlier": _EARLIER,
    }
    sources = {"channel": (_CHANNEL_SCAN, _CHANNEL_READ), "coupled": (_COUPLED_SCAN, _COUPLED_READ)}
    for f in FORMS:
        decay = f.kind == "scalar"
        flags = {"decay": decay, "erase": f.erase, "probe": f.probe, "toward": f.toward}
        scan, read = sources.get(f.kind, (_DELTA if f.erase else _SCAN, _READ))
        text = lambda source: select(source, **flags).replace("PROBE", "p" if f.probe else "k")  # noqa: B023, E731
        if f.end:
            out[f"{'Gated' * decay}Delta{'At' * f.probe}End"] = text(_DELTA_END)
            called = text(_END)
            out[f.scan] = called.replace("_end(", "_end_towards(") if f.toward else called
            continue
        out[f.scan] = text(scan)
        for when in ("after", "before"):
            before = when == "before"
            out[f.read(when)] = select(read, decay=decay, before=before, turned=False)
            if not f.symmetric:
                read_ = _CHANNEL_TURNED_READ if f.kind == "channel" else read
                out[f.read(when, True)] = select(read_, decay=decay, before=before, turned=True)
    out["running"] = select(_RUNNING, decay=False)
    out["gated_running"] = select(_RUNNING, decay=True)
    return {name: _one_line(text) for name, text in out.items()}


TEXTS: dict[str, str] = _texts()
