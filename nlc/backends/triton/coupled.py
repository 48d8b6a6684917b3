"""Several coupled states, or one whose decay has a sign: what their kernels share.

    X^s_t = Σ_l A_t[s, l] X^l_{t−1} + Σ_j w_t[s, j] r^j_t k_tᵀ

Rows r^j are vectors that are written, and last z_t = X^source_{t−1} p_t where that is erased. kept[s, j, t, i] is what of row
j at token i is in state s at token t of a chunk, begun[s, l, t] what of state l before it: one kernel makes them of A and
w, and these of what they are made of (coupled_weights.py). No other kernel of the memory knows its gates.
"""

from __future__ import annotations

_CHUNK = """
COUPLED_CHUNK = min(CHUNK, 32)  # tokens of a chunk of coupled states
"""

_CHUNK_OF = '''
def coupled_chunk(T: int) -> int:
    """Tokens of a chunk of coupled states."""
    return min(COUPLED_CHUNK, max(16, power_of_2(T)))
'''

_SIZES = '''
def coupled_sizes(kind: str, states: int, rows: int, dk: int, dv: int, C: int) -> dict[str, int]:
    """How a kernel of a kind runs at a size; with half the channels where states are many."""
    sizes = scan_sizes(f"coupled_{kind}", dk, dv, C, torch.float32)
    sizes |= dict(STATES=states, ROWS=rows, C=C)
    if max(states, rows) > 2:
        sizes["BV"] = max(min(16, sizes["BV"]), sizes["BV"] // 2)
    return sizes
'''

_TOKEN_BEFORE = '''
@triton.jit
def token_before(begun, i, alone):
    """What of a state before the chunk is in another, one token earlier."""
    return tl.where(i > 0, tl.load(begun + i - 1, mask=i > 0, other=0.0), alone)
'''

_EARLIER = '''
def one_earlier(kept: Tensor, begun: Tensor, state: int) -> tuple[Tensor, Tensor]:
    """What is in a state one token earlier; before the first token it is alone."""
    alone = torch.zeros_like(begun[..., :1])
    alone[..., state, :] = 1
    return F.pad(kept.tril(), (0, 0, 1, -1)), torch.cat([alone, begun[..., :-1]], -1)
'''


TEXTS: dict[str, str] = {
    "COUPLED_CHUNK": _CHUNK,
    "coupled_chunk": _CHUNK_OF,
    "coupled_sizes": _SIZES,
    "token_before": _TOKEN_BEFORE,
    "one_earlier": _EARLIER,
    "numbers_like": '''
def numbers_like(x: Tensor) -> Tensor:
    """Room for numbers [X, H, T] like x, tokens before heads in memory: as modules want them."""
    X, H, T = x.shape
    return x.new_empty(X, T, H).transpose(1, 2)
''',
    "weighed": '''
def weighed(A: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """kept and begun of decays A [X, H, T, states, states], weights w [X, H, T, states, rows]."""
    T, states, rows = w.shape[-3:]
    C, one = coupled_chunk(T), torch.eye(states, dtype=A.dtype, device=A.device)
    kept, begun, i = [], [], torch.arange(C, device=A.device)
    for first in range(0, T, C):
        v, b = w.new_zeros(*w.shape[:2], states, rows, C), one.expand(*A.shape[:2], -1, -1)
        for t in range(first, first + C):
            if t < T:
                v = torch.einsum("...sm,...mjc->...sjc", A[:, :, t], v)
                v, b = v + w[:, :, t, :, :, None] * (i == t - first), A[:, :, t] @ b
            kept.append(v)
            begun.append(b)
    kept, begun = (torch.stack(x, 2).unflatten(2, (-1, C)) for x in (kept, begun))
    return kept.movedim(3, -2).contiguous(), begun.movedim(3, -1).contiguous()
''',
}
