"""How kernels load and set channels of tokens and blocks of states, only what is there."""

from __future__ import annotations

TEXTS: dict[str, str] = {
    "taken": '''
@triton.jit
def taken(x, token, channel, at, T, size: tl.constexpr):
    """Channels of tokens, 0 where there are none."""
    where, there = flow(x, token, channel, at, T, size)
    return tl.load(where, mask=there, other=0.0)
''',
    "put": '''
@triton.jit
def put(x, value, token, channel, at, T, size: tl.constexpr):
    """Sets channels of tokens, where there are any."""
    where, there = flow(x, token, channel, at, T, size)
    tl.store(where, value.to(x.dtype.element_ty), mask=there)
''',
    "taken_block": '''
@triton.jit
def taken_block(x, d, v, at_v, at_d, DK: tl.constexpr, DV: tl.constexpr):
    """A block of the transpose of a state [dv, dk]."""
    where, there = block(x, d, v, at_v, at_d, DK, DV)
    return tl.load(where, mask=there, other=0.0)
''',
    "put_block": '''
@triton.jit
def put_block(x, value, d, v, at_v, at_d, DK: tl.constexpr, DV: tl.constexpr):
    """Sets a block of the transpose of a state [dv, dk]."""
    where, there = block(x, d, v, at_v, at_d, DK, DV)
    tl.store(where, value.to(x.dtype.element_ty), mask=there)
''',
    "apart": '''
@triton.jit
def apart(PARTS: tl.constexpr):
    """Between parts of a state, if they are many: none is loaded before it is its turn."""
    if PARTS > 1:
        tl.debug_barrier()
''',
    "taken_columns": '''
@triton.jit
def taken_columns(x, channel, token, at, T, size: tl.constexpr):
    """Channels of tokens, each a column."""
    there = (channel < size)[:, None] & (token < T)[None, :]
    return tl.load(x + channel[:, None] + token[None, :] * at, mask=there, other=0.0)
''',
    "put_columns": '''
@triton.jit
def put_columns(x, value, channel, token, at, T, size: tl.constexpr):
    """Sets channels of tokens, each a column."""
    there = (channel < size)[:, None] & (token < T)[None, :]
    x += channel[:, None] + token[None, :] * at
    tl.store(x, value.to(x.dtype.element_ty), mask=there)
''',
}
