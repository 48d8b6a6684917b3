"""A scan and its read as one: what launches the kernel that keeps nothing, where no slopes are wanted.

Two kernels write and read again the rows and the state before each chunk: of a gated delta rule of 128 channels in half
precision 184 KB a chunk, where one takes 88. But they read chunks side by side, and one has them behind each other, so
that it is the better one as soon as sequences, heads and blocks of values alone fill a GPU (`in_one`).

Where a checkpoint keeps states now and then, the first run needs no slopes either: the backward pass runs both anew, by
two kernels. Autograd must find there what it was told in the first run, so that is told of the two operators, which have
not run (`Finished`): of what they keep no more than its shape matters, so it has no memory (`unwritten`).
"""

from __future__ import annotations

from nlc.backends.triton.forms import KernelForm
from nlc.backends.triton.operators import (
    Text,
    fitted_flows,
    outputs,
    returns,
    states,
    strides_of,
    told_tokens,
    typed,
    within,
)
from nlc.backends.writer import WIDTH, wrap


def fused(f: KernelForm, before: bool) -> str:
    """The operator of a scan and its read."""
    when = "before" if before else "after"
    name, scan, read = f.fused(when), f.scan, f.read(when)
    decay, gates, decays = f.kind == "scalar", f.gates, f.decay_gates
    flags = dict(decay=decay, erase=f.erase, rate=f.rate, probe=f.probe, rows=f.rows, before=before)
    flags |= dict(unit=f.unit, grouped=f.grouped, raw=gates is not None, cut=f.cut)
    text = Text(name, flags, gates)
    numbers = gates.tensors if gates else ["b"] * f.erase + ["log_a"] * decay + ["w"] * f.rate
    eps, probes, packing = ["eps"] * f.unit, ["p"] * f.probe, ["packing"] * f.cut
    fixed = [*(gates.fixed if gates else []), *eps]
    own = ["S", "k", "u", *numbers, *probes]
    scanned = [*own, *fixed]
    given = [*own, "q", *fixed]
    decayed = decays.tensors if decays else ["log_a"] * decay
    more = [*decayed, *(decays.fixed if decays else []), *eps]

    text.call("def NAME(", typed([*given, *within(f)]), f") -> {returns(2)}:", 0)
    said = f"What `{scan}` has at the end, and what `{read}` reads at q: by one kernel that keeps"
    said += " nothing else, unless slopes are wanted"
    said += " and their backward pass does not run both anew." if f.cut else "."
    lines = wrap(f'"""{said}"""', WIDTH - 4)
    text("\n".join(f"    {x}" for x in lines))
    tensors = [n for n in given if n not in fixed]
    if f.cut:
        text.call("wanted = slopes_wanted(", tensors, ")")
        text("    if wanted and (within is None or not within.first()):")
    else:
        text.call("if slopes_wanted(", tensors, "):")
    text.call(f"S, rows, starts = {scan}(", [*scanned, *within(f)], ")", 2)
    text.call(f"return S, {read}(", ["q", "k", "rows", "starts", *more, *within(f)], ")", 2)
    fitted_flows(text, f, numbers, [*probes, "q"])
    if f.cut:
        text("    packing = packed(within, k, u)\n    if wanted:")
        _anew(text, f, scan, read, given, scanned, more)
        text("    else:")
        last = [*packing, "True", "None", "None"]
        text.call("end, out, _ = NAME_forward(", [*given, *last], ")", 2)
    else:
        text.call("end, out = NAME_forward(", [*given, "True"], ")")
    text("    return unfitted(lead, end, out)")

    text.call(
        "\n\ndef NAME_meaning(", [*typed(given), "*", "C: int"], ") -> tuple[Tensor, ...]:", 0
    )
    text('    """Token by token."""')
    rows = "rows" if f.rows else "u"
    made = ", ".join(n for n in outputs(f) if n != "inverse")
    text.call(f"{made} = {scan}_meaning(", [*scanned, "C=C"], ")")
    text.call(f"return end, *{read}_meaning(", ["q", "k", rows, "starts", *more, "C=C"], ")")

    text("\n\n@Operator")
    args = [*typed([*given, *packing]), "divided: bool | None"]
    args += ["table: Tensor | None", "places: Tensor | None"] * f.cut
    text.call("def NAME_forward(", args, f") -> {returns(3 if f.cut else 2)}:", 0)
    said = "S after the last token, and reads; ``divided``: by two kernels where that is faster."
    said += " Last S before stretches of a table, if there is one." * f.cut
    text("\n".join(f"    {x}" for x in wrap(f'"""{said}"""', WIDTH - 4)))
    text("""\
    (X, H, T, dv), dk = u.shape, k.shape[-1]
    if T == 1<cut: and packing is None and table is None>:""")
    text.check(2, "False")
    text("        end, out<cut:, _> = found = NAME_shapes(S, k, u<cut:, None, None>)")
    shared = ["H // k.shape[1]"] * f.grouped
    strides = [f"*{n}.stride()[:2]" for n in ("k", "u", *probes, "q", "out")]
    args = [*own, "q", "end", "out", "H", *shared, *strides]
    text.launch("step", "step", args, "k.dtype", "X * H", parted=True, depth=2)
    text("""\
        return found
    sizes = scan_sizes("scan_read", dk, dv, T, k.dtype)
    programs = <cut:S.shape[:-2].numel()><!cut:X * H> * blocks_of(dv, sizes["BV"])
    if divided and (T == 1 or not in_one(k.dtype, programs, k.device)):""")
    left = ", ".join(outputs(f, "_"))
    text.call(f"{left} = {scan}_forward(", [*scanned, *(["packing", "None"] * f.cut)], ")", 2)
    read_args = ["q", "k", rows, "starts", *more, *packing]
    behind = ", kept_of(starts, table)" * f.cut
    text.call(f"return end, {read}_forward(", read_args, f"){behind}", 2)
    text.check()
    text("    end, out<cut:, _> = NAME_shapes(S, k, u<cut:, None, None>)")
    text('    C = sizes["C"]')
    text(
        "    scores = k.new_empty(X, H, <cut:chunks_of(packing, T, C)><!cut:blocks_of(T, C)>, C, C)"
    )
    tokens, chunks = told_tokens(f), "scores.shape[:3].numel()"
    args = ["q", "k", *decayed, "scores", *tokens, *strides_of("q", "k")]
    text.launch("scores", "solve", args, "k.dtype", chunks)
    if f.erase:
        text("    inverse = torch.empty_like(scores)")
        solving = gates.only("b", "log_a").tensors if gates else [x for x in numbers if x != "w"]
        args = ["k", *solving, *probes, "inverse", *tokens, *strides_of("k", *probes)]
        text.launch("solve", "solve", args, "k.dtype", chunks, of=scan)
    text("""\
    count = 0 if table is None else len(table) - 1  #? cut
    kept = None if table is None else k.new_empty(X, H, count, dv, dk)  #? cut""")
    keeps = ["kept", "places", "count"] * f.cut
    args = [*own, "q", "scores", *["inverse"] * f.erase, "end", "out", *keeps, *tokens]
    args += strides_of("k", "u", *probes, "q", "out")
    text.launch("scan", "scan_read", args, "k.dtype", states(f), True)
    text('''\
    return end, out  #? !cut
    return end, out, k.new_empty(0) if kept is None else kept  #? cut


@NAME_forward.register_fake
def NAME_shapes(S, k, u, *<cut:rest><!cut:_>):
    """What the operator returns, but for its values."""
    end, out = torch.empty_like(S), tokens_first(u, dtype=k.dtype)  #? cut
    return torch.empty_like(S), tokens_first(u, dtype=k.dtype)  #? !cut
    (X, H, _, dv), table = u.shape, rest[-2]  #? cut
    shape = (0,) if table is None else (X, H, len(table) - 1, dv, k.shape[-1])  #? cut
    return end, out, k.new_empty(shape)  #? cut''')
    return text.text()


def _anew(
    text: Text,
    f: KernelForm,
    scan: str,
    read: str,
    given: list[str],
    scanned: list[str],
    more: list[str],
) -> None:
    """Where the backward pass runs both anew: one kernel computes what the two operators are said to have returned."""
    text("        with torch.no_grad():")
    args = [*given, "packing", "True", "*stretches(within, k, u)"]
    text.call("end, out, kept = NAME_forward(", args, ")", 3)
    text("        within.kept.append(kept)")
    made, rows = ", ".join(outputs(f)[1:]), "rows" if f.rows else "u"
    args = [f"{scan}_shapes", "S", "k", "u", "packing", "None"]
    text.call(f"_, {made} = unwritten(", args, ")", 2)
    text(f"        found = end, {made}")
    left = ", ".join(outputs(f, "_"))
    args = [f"{scan}_forward", "found", *scanned, "packing", "None"]
    text.call(f"{left} = Finished.apply(", args, ")", 2)
    args = [f"{read}_forward", "(out,)", "q", "k", rows, "starts", *more, "packing"]
    text.call("out = Finished.apply(", args, ")", 2)
