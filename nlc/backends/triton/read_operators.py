"""What launches the kernels of reads, as `operators.py` has it for scans."""

from __future__ import annotations

from nlc.backends.triton.forms import KernelForm
from nlc.backends.triton.operators import (
    CHUNKS,
    Text,
    returns,
    strides_of,
    told_tokens,
    typed,
    within,
)


def read(name: str, f: KernelForm, before: bool) -> str:
    """The operator of a read, forward and backward."""
    decay, unit, grouped, raw = f.kind == "scalar", f.unit, f.grouped, f.decay_gates
    flags = dict(decay=decay, before=before, unit=unit, grouped=grouped, raw=raw is not None)
    flags |= dict(cut=f.cut, leaves=f.cut or unit or bool(raw and raw.fixed))
    text, tokens = Text(name, flags, raw), told_tokens(f)
    numbers = raw.tensors if raw else ["log_a"] * decay
    tensors = ["q", "k", "rows", "starts", *numbers]
    fixed = [*(raw.fixed if raw else []), *["eps"] * unit]
    given, last = [*tensors, *fixed], ["packing"] * f.cut
    what = "S_{t-1} q_t" if before else "S_t q_t"
    what += " with q and k of length one" * unit
    text.call("def NAME(", typed([*given, *within(f)]), ") -> Tensor:", 0)
    text(f'''\
    """{what}: of q and k [..., T, dk] and what a scan returns."""
    dtype = supported(k)''')
    fronts = [*(f"{x}.shape[:-2]" for x in given[2 * grouped : 3]), "starts.shape[:-3]"]
    tokenwise = raw.kind("raw") if raw else numbers
    text.call("lead = leading(", [*fronts, *(f"{n}.shape[:-1]" for n in tokenwise)], ")")
    if grouped:
        text("    q, k = (shared(dtype, lead, x) for x in (q, k))")
        text("    rows = rows_of(dtype, fitted(lead, 2, rows)[0])")
    else:
        args = ["lead", "2", *given[:3]]
        text.call("q, k, rows = (rows_of(dtype, x) for x in fitted(", args, "))")
    text.raw_flows("lead")
    text("""\
    starts = in_a_row(*fitted(lead, 3, starts))
    log_a = fitted(lead, 1, log_a.float())[0].contiguous()  #? decay !raw
    packing = packed(within, k, rows)  #? cut""")
    text.call("out = NAME_forward(", [*given, *last], ")")
    text("    return unfitted(lead, out)[0]")
    text.call(
        "\n\ndef NAME_meaning(", [*typed(given), "*", "C: int"], ") -> tuple[Tensor, ...]:", 0
    )
    text('''\
    """Token by token."""
    q, k = (x.repeat_interleave(rows.shape[1] // x.shape[1], 1) for x in (q, k))  #? grouped
    q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps) for x in (q, k))  #? unit
    out = []''')
    text.meant("rows")
    text("""\
    for t in range(k.shape[-2]):
        if t % C == 0:
            S = starts[..., t // C, :, :]
        out.append((S @ q[..., t, :, None]).squeeze(-1))  #? before
        S = <decay:log_a[..., t, None, None].exp() * >S + rows[..., t, :, None] * k[..., t, None, :]
        out.append((S @ q[..., t, :, None]).squeeze(-1))  #? !before
    return (torch.stack(out, -2),)


@Operator""")
    text.call("def NAME_forward(", typed([*given, *last]), ") -> Tensor:", 0)
    text('''\
    """Over tensors [X, H, ...]; tokens before heads in memory, where modules want them."""
    (X, H, T, dv), dk = rows.shape, q.shape[-1]''')
    text.check()
    text("    out = NAME_shapes(q, k, rows)")
    strides = [*strides_of("q", "k", "rows"), "*starts.stride()[2:]"]
    text.launch(
        "out",
        "out",
        [*tensors, "out", *tokens, *strides, "*out.stride()[:3]"],
        "k.dtype",
        CHUNKS,
        True,
    )
    text('''\
    return out


@NAME_forward.register_fake
def NAME_shapes(q, k, rows, *_):
    """What the operator returns, but for its values."""
    return tokens_first(rows, dtype=q.dtype)


@Operator''')
    slopes = [f"d_{n}" for n in tensors]
    text.call(
        "def NAME_backward(",
        typed([*tensors, "grad", *fixed, *last]),
        f") -> {returns(len(slopes))}:",
        0,
    )
    text('''\
    """The slopes by all that goes in."""
    (X, H, T, dv), dk = rows.shape, q.shape[-1]''')
    text.call(f"{', '.join(slopes)} = out = NAME_slopes(", tensors, ")")
    args = [*tensors, "grad", *slopes, *tokens, *strides, *strides_of("grad", "d_rows")]
    text.launch("back", "out_back", args, "wider(k.dtype)", CHUNKS)
    text("""\
    return out


@NAME_backward.register_fake""")
    text.call("def NAME_slopes(", [*tensors, "*_"], "):", 0)
    heads = raw.kind("head") if raw else []
    shapes = ["torch.empty_like(log_a)"] * (decay and not raw)
    shapes += [
        f"{n}.new_empty(starts.shape[:3])" if n in heads else f"torch.empty_like({n})"
        for n in (raw.tensors if raw else [])
    ]
    summed = "\n    ".join(
        f"rest[{i}] = rest[{i}].sum((0, 2))" for i, n in enumerate(numbers) if n in heads
    )
    known = "".join(f", ctx.{n}" for n in fixed)
    source = '''\
    """The shapes of the slopes."""
    d_q, d_k, dtype = tokens_first(q), tokens_first(k), wider(k.dtype)  #? !grouped
    d_q, d_k = (tokens_first(rows, x.shape[-1]) for x in (q, k))  #? grouped
    dtype = wider(k.dtype)  #? grouped
    d_rows, d_starts = rows_like(rows, dtype), starts.new_empty(starts.shape, dtype=dtype)
    SLOPES


def NAME_setup(ctx, inputs, output):
    *flowsKNOWN<cut:, packing> = inputs  #? leaves
    ctx.save_for_backward(*<leaves:flows><!leaves:inputs><cut:, packing>)


def NAME_slope(ctx, grad):
    <cut:*>given<cut:, packing> = ctx.saved_tensors
    <grouped:q><!grouped:_>, k, rows, starts, *_ = given
    grad = rows_of(wider(k.dtype), grad)
    d_q, d_k, d_rows, d_starts, *rest = NAME_backward(*given, gradKNOWN<cut:, packing>)
    SUMMED  #? raw
    d_rows, d_starts = d_rows.to(rows.dtype), d_starts.to(starts.dtype)
    d_q, d_k = together(d_q, q), together(d_k, k)  #? grouped
    return d_q, d_k, d_rows, d_starts, *restNONES

'''
    source = source.replace("    SUMMED  #? raw\n", f"    {summed}\n" if summed else "")
    lines = [f"d_{n} = {x}" for n, x in zip(numbers, shapes, strict=True)] if raw else []
    back = slopes if raw else [*slopes[:4], *shapes]
    lines.append(f"return {', '.join(back)}")
    source = source.replace("SLOPES", "\n    ".join(lines))
    text(source.replace("KNOWN", known).replace("NONES", ", None" * len([*fixed, *last])))
    text("NAME_forward.register_autograd(NAME_slope, NAME_setup)")
    return text.text()
