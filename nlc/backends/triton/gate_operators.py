"""Decays by channel of what they are made of: an operator of a kernel each way.

Kernels of scans read such a decay tens of times, in parts of chunks, so that to make it anew each time would cost more
than to keep it. It is made once, element by element, from flows [rows, n] with all channels of a token side by side.
"""

from __future__ import annotations

from nlc.backends.triton.gates import lines_of, slopes_of
from nlc.backends.triton.lines import laid
from nlc.backends.writer import listed, select
from nlc.ir.gates import Gates

_KERNELS = '''
@triton.jit
def NAME_values(
    GIVENout, R, D, FIXEDBR: tl.constexpr, BD: tl.constexpr,
):
    """log a of some channels of some tokens."""
    token, channel, there = tile(R, D, BR, BD)
    at = token[:, None] * D + channel[None, :]
    LOADS
    VALUES
    tl.store(out + at, VALUE, mask=there)


@triton.jit
def NAME_slopes(
    GIVENd_log_a, SLOPESR, D, FIXEDBR: tl.constexpr, BD: tl.constexpr,
):
    """The slopes by what it is made of<heads:; by what is not a token's, sums over some tokens>."""
    token, channel, there = tile(R, D, BR, BD)
    at = token[:, None] * D + channel[None, :]
    LOADS
    d_log_a = tl.load(d_log_a + at, mask=there, other=0.0)
    SET_BACK
'''

_OPERATOR = '''
def NAME(
    TYPED
) -> Tensor:
    """log a [..., T, n] of what it is made of, MADE."""
    on_gpu(ONE)
    shape = torch.broadcast_shapes(SHAPES)
    RAW_LEFT = (as_table(x, shape) for x in RAW_TUPLE)
    HEADS_LEFT = (as_row(x, shape) for x in HEADS_TUPLE)  #? heads
    return from_table(NAME_forward(ALL), shape)


@Operator
def NAME_forward(
    TYPED
) -> Tensor:
    """Over tables [rows, n]<heads: and rows [n]>."""
    out = NAME_shape(ALL)
    (R, D), sizes = out.shape, dict(BR=16, BD=128, num_warps=4, num_stages=1)
    args = [TENSORS, out, R, D]
    launch(NAME_values, (blocks_of(R, 16) * blocks_of(D, 128),), args, torch.float32, **sizesKNOWN)
    return out


@NAME_forward.register_fake
def NAME_shape(FIRST, *_):
    """What the operator returns, but for its values."""
    return torch.empty_like(FIRST, dtype=torch.float32)


@Operator
def NAME_backward(
    TYPED_AND_GRAD
) -> RETURNS:
    """The slopes, in parts where they are sums."""
    SLOPED = out = NAME_sloped(ALL, grad)  #? heads
    SLOPED = out = NAME_sloped(RAW)  #? !heads
    (R, D), sizes = grad.shape, dict(BR=16, BD=128, num_warps=4, num_stages=1)
    args = [TENSORS, grad, SLOPED, R, D]
    launch(NAME_slopes, (blocks_of(R, 16) * blocks_of(D, 128),), args, torch.float32, **sizesKNOWN)
    return out


@NAME_backward.register_fake
def NAME_sloped(ALL, grad):  #? heads
def NAME_sloped(RAW, *_):  #? !heads
    """The shapes of the slopes."""
    EMPTY
    SUM_EMPTY  #? heads
    return SLOPED


def NAME_setup(ctx, inputs, output):
    SAVED = inputs
    ctx.save_for_backward(TENSORS)


def NAME_slope(ctx, grad):
    TENSORS = ctx.saved_tensors  #? several
    (TENSORS,) = ctx.saved_tensors  #? !several
    SLOPED = NAME_backward(BACKED, grad.contiguous())
    return SUMS


NAME_forward.register_autograd(NAME_slope, NAME_setup)
'''

TEXTS: dict[str, str] = {
    "tile": '''
@triton.jit
def tile(R, D, BR: tl.constexpr, BD: tl.constexpr):
    """Rows and columns of a program of a table [R, D], and which are there."""
    columns = tl.cdiv(D, BD)
    row = (tl.program_id(0) // columns).to(tl.int64) * BR + tl.arange(0, BR)
    column = tl.program_id(0) % columns * BD + tl.arange(0, BD)
    return row, column, (row < R)[:, None] & (column < D)[None, :]
''',
    "as_table": '''
def as_table(x: Tensor, shape: torch.Size) -> Tensor:
    """A flow [..., H, T, n] as rows with all heads of a token, as modules have them in memory."""
    x = x.expand(shape)
    x = x.transpose(-3, -2).flatten(-2) if len(shape) > 3 else x
    return x.reshape(-1, x.shape[-1]).contiguous()
''',
    "as_row": '''
def as_row(x: Tensor, shape: torch.Size) -> Tensor:
    """What is the same for all tokens, [H, 1, n] or less, as one row."""
    heads = shape[-3:-2] if len(shape) > 3 else ()
    return x.float().expand(*heads, 1, shape[-1]).flatten()
''',
    "from_table": '''
def from_table(x: Tensor, shape: torch.Size) -> Tensor:
    """Rows as the flow [..., H, T, n] that they are of."""
    if len(shape) < 4:
        return x.reshape(shape)
    return x.reshape(*shape[:-3], shape[-2], shape[-3], shape[-1]).transpose(-3, -2)
''',
}


def _left(names: list[str]) -> str:
    """Names that values are unpacked to."""
    return ", ".join(names) if len(names) > 1 else f"({''.join(names)},)"


def operator(name: str, gates: Gates) -> str:
    """The text of an operator that makes log a."""
    raw, heads, fixed = (gates.kind(x) for x in ("raw", "head", "fixed"))
    tensors = [*raw, *heads]
    loads = [f"{n} = tl.load({n} + at, mask=there, other=0.0).to(tl.float32)" for n in raw]
    loads += [f"{n} = tl.load({n} + channel, mask=channel < D, other=0.0)[None, :]" for n in heads]
    lets, value = lines_of(gates["log_a"], "log_a", 24)
    back = slopes_of(gates)
    back += [f"tl.store(d_{n} + at, slope_{n}.to(d_{n}.dtype.element_ty), mask=there)" for n in raw]
    if heads:
        back.append("part = tl.program_id(0) // tl.cdiv(D, BD) * D + channel")
    for n in heads:
        back.append(f"slope_{n} = tl.sum(tl.where(there, slope_{n}, 0.0), 0)")
        back.append(f"tl.store(d_{n} + part, slope_{n}, mask=channel < D)")
    typed = [*(f"{n}: Tensor" for n in tensors), *(f"{n}: float" for n in fixed)]
    empty = [f"d_{n} = torch.empty_like({n})" for n in raw]
    parts = [f"d_{n} = grad.new_empty(rows, grad.shape[1])" for n in heads]
    sums = [f"d_{n}" for n in raw] + [f"d_{n}.sum(0)" for n in heads] + ["None"] * len(fixed)
    block = "\n    ".join
    words = {
        "GIVEN": "".join(f"{n}, " for n in tensors),
        "FIXED": "".join(f"{n}: tl.constexpr, " for n in fixed),
        "LOADS": block(loads),
        "VALUES": block(lets),
        "VALUE": value,
        "SET_BACK": block(back),
        "TYPED_AND_GRAD": ", ".join([*typed, "grad: Tensor"]),
        "TYPED": ", ".join(typed),
        "MADE": listed([*tensors, *fixed]),
        "ONE": tensors[0],
        "SHAPES": ", ".join(f"{n}.shape" for n in tensors),
        "SLOPED": ", ".join(f"d_{n}" for n in tensors),
        "SLOPES": "".join(f"d_{n}, " for n in tensors),
        "SUM_EMPTY": block(["rows = blocks_of(grad.shape[0], 16)", *parts]),
        "EMPTY": block(empty),
        "SUMS": ", ".join(sums) if len(sums) > 1 else sums[0],
        "RETURNS": f"tuple[{', '.join(['Tensor'] * len(tensors))}]"
        if len(tensors) > 1
        else "Tensor",
        "KNOWN": "".join(f", {n}={n}" for n in fixed),
        "SAVED": _left([*tensors, *(f"ctx.{n}" for n in fixed)]),
        "BACKED": ", ".join([*tensors, *(f"ctx.{n}" for n in fixed)]),
        "ALL": ", ".join([*tensors, *fixed]),
        "TENSORS": ", ".join(tensors),
        "RAW_LEFT": _left(raw),
        "RAW_TUPLE": f"({', '.join(raw)}{',' * (len(raw) == 1)})",
        "RAW": ", ".join(raw),
        "HEADS_LEFT": _left(heads),
        "HEADS_TUPLE": f"({', '.join(heads)}{',' * (len(heads) == 1)})",
        "FIRST": raw[0],
        "NAME": name,
    }
    text = select(_KERNELS + "\n" + _OPERATOR, heads=bool(heads), several=len(tensors) > 1)
    for word, stands in words.items():
        text = text.replace(word, stands)
    return laid("\n".join(x for x in text.split("\n") if x.strip() or not x))
