"""Several coupled states, or one whose decay has a sign: the products of decays in chunks, and what kernels share.

    X^s_t = Σ_l A_t[s, l] X^l_{t−1} + (u^s_t − b^s_t z_t) k_tᵀ,        z_t = X^source_{t−1} p_t

The products of A within a chunk are PyTorch's, and so is their gradient: kept[s, j, t, i] is what of write j at token i
is in state s at token t, begun[s, l, t] what of state l before the chunk.
"""

from __future__ import annotations

_CHUNK = """
COUPLED_CHUNK = min(CHUNK, 32)  # tokens of a chunk of coupled states
"""

_PRODUCTS = '''
def products(A: Tensor, within: Packing | None = None) -> tuple[Tensor, Tensor]:
    """Products of decays [..., T, states, states] in chunks.

    What of write j at token i and of state l before the chunk is in state s at token t, as
    [..., chunks, s, j, t, i] and [..., chunks, s, l, t].
    """
    A, T, p = A.float(), A.shape[-3], A.shape[-1]
    C = coupled_chunk(T)
    one = torch.eye(p, dtype=A.dtype, device=A.device)
    if T == 1 and not cut(within):  # which has no products
        kept = one[..., None, None].expand(*A.shape[:-3], 1, p, p, C, C)
        return kept.contiguous(), A.unsqueeze(-1).expand(*A.shape, C).contiguous()
    if not cut(within):
        A = torch.cat([A, one.expand(*A.shape[:-3], -T % C, p, p)], -3)
    else:  # of chunks that sequences cut
        packing, i = within.of(C), torch.arange(C, device=A.device)
        (start, stop) = packing[: chunks_of(packing, T, C), :, None].unbind(1)
        A = torch.cat([A, one.expand(*A.shape[:-3], 1, p, p)], -3)
        A = A[..., torch.where(start + i < stop, start + i, T).flatten(), :, :]
    kept, first = propagation(A.unflatten(-3, (-1, C)))
    kept = kept.movedim((-3, -1, -4, -2), (-4, -3, -2, -1))
    return kept.contiguous(), first.movedim(-3, -1).contiguous()
'''

_CHUNK_OF = '''
def coupled_chunk(T: int) -> int:
    """Tokens of a chunk of coupled states."""
    return min(COUPLED_CHUNK, max(16, power_of_2(T)))
'''

_SIZES = '''
CONFIG |= {
    "coupled_solve": (64, 4, 1),
    "coupled_scan": (16, 4, 2),
    "coupled_step": (32, 4, 1),
    "coupled_out": (64, 8, 1),
    "coupled_scan_back": (16, 4, 2),
    "coupled_out_back": (64, 8, 1),
    "coupled_grads": (64, 8, 1),
    "coupled_erase_grads": (64, 8, 1),
}
LONG |= {"coupled_scan": (16, 4, 1), "coupled_scan_back": (16, 4, 2)}


def coupled_sizes(kind: str, states: int, dk: int, dv: int, C: int) -> dict[str, int]:
    """How a kernel of a kind runs at a size; with half the channels where states are many."""
    sizes = sizes_of(f"coupled_{kind}", dk, dv, C) | dict(STATES=states, C=C)
    sizes |= dict(BD=min(sizes["BK"], 64), PARTS=blocks_of(sizes["BK"], 64))  # of keys
    if states > 2:
        sizes["BV"] = max(16, sizes["BV"] // 2)
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
    "products": _PRODUCTS,
    "coupled_sizes": _SIZES,
    "token_before": _TOKEN_BEFORE,
    "one_earlier": _EARLIER,
}
