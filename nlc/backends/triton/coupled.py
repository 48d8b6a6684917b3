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
}
