"""A scan of decays by channel and its read as one, as `fused_operators.py` has it for other decays."""

from __future__ import annotations

from itertools import product

from nlc.backends.triton.channel import entry
from nlc.backends.triton.channel_scans import SCAN, STEP

_FADE = '''
@triton.jit
def NAME_fade(
    q, log_a, begun, <cut:packing, >T, <cut:N, >H, <grouped:group, >q_x, q_h, q_t, a_x, a_h, a_t,
    DK: tl.constexpr, BD: tl.constexpr, C: tl.constexpr,
):
    """Queries as from the start of their chunk."""
    m, part = tl.program_id(0).to(tl.int64) // tl.cdiv(DK, BD), tl.program_id(0) % tl.cdiv(DK, BD)
    i, d = tl.arange(0, C), part * BD + tl.arange(0, BD)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    n, start = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C  #? !cut
    t, x, head = start + i, n // H, n % H
    <before:a><!before:_>, c, _ = rates(log_a + x * a_x + head * a_h, t, d, a_t, stop, DK)
    Q = taken(q + x * q_x + head<grouped: // group> * q_h, t, d, q_t, stop, DK).to(tl.float32)
    put(begun + n * T * DK, Q * tl.exp2(<!before:c><before:c - a>), t, d, DK, stop, DK)
'''

_OPERATOR = '''
def NAME(
    S: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor, <erase:p: Tensor, >q: Tensor,
    <cut:within: Packing | None = None,>
) -> tuple[Tensor, Tensor]:
    """What `SCAN` has at the end, and what `READ` reads at q: by one
    kernel that keeps nothing else, unless slopes are wanted<cut: and their backward pass does not>
    <cut:run both anew>."""
    if slopes_wanted(S, k, u, <erase:b, >log_a, <erase:p, >q):  #? !cut
    wanted = slopes_wanted(S, k, u, <erase:b, >log_a, <erase:p, >q)  #? cut
    if wanted and (within is None or not within.first()):  #? cut
        S, <!erase:_><erase:rows>, starts = SCAN(S, k, u, <erase:b, >log_a<erase:, p><cut:, within>)
        return S, READ(q, k, <erase:rows><!erase:u>, starts, log_a<cut:, within>)
    dtype = supported(k)
    lead = leading(
        <cut:front(S, 2, within)><!cut:S.shape[:-2]>, <!grouped:k.shape[:-2], >u.shape[:-2], <erase:b.shape[:-1], >log_a.shape[:-2], <erase:<!decayed:p.shape[:-2], >><decayed:<!grouped:p.shape[:-2], >><!grouped:q.shape[:-2],>
    )
    S = state_of(S, u.shape[-1], k.shape[-1])
    S = <cut:states_for(lead, 2, S, within)><!cut:fitted(lead, 2, S)[0].contiguous()>
    log_a = rows_of(torch.float32, *fitted(lead, 2, log_a))
    b = fitted(lead, 1, b.float())[0].contiguous()  #? erase
    k, u, <erase:p, >q = (rows_of(dtype, x) for x in fitted(lead, 2, k, u, <erase:p, >q))  #? !grouped
    k, <decayed:p, >q = (shared(dtype, lead, x) for x in (k, <decayed:p, >q))  #? grouped
    u = rows_of(dtype, *fitted(lead, 2, u))  #? grouped !erase
    u = rows_of(dtype, *fitted(lead, 2, u))  #? grouped decayed
    u, p = (rows_of(dtype, x) for x in fitted(lead, 2, u, p))  #? grouped erase !decayed
    packing = packed(within, k, u)  #? cut
    if wanted:  #? cut
        with torch.no_grad():  #? cut
            end, out, kept = NAME_forward(  #? cut
                S, k, u, <erase:b, >log_a, <erase:p, >q, packing, True, *stretches(within, k, u)  #? cut
            )  #? cut
        within.kept.append(kept)  #? cut
        _, <erase:rows, >starts<erase:, inverse> = unwritten(SCAN_shapes, S, k, u, packing, None)  #? cut
        found = end, <erase:rows, >starts<erase:, inverse>  #? cut
        end, <erase:rows, >starts<erase:, _> = Finished.apply(  #? cut
            SCAN_forward, found, S, k, u, <erase:b, >log_a, <erase:p, >packing, None  #? cut
        )  #? cut
        _, scores = unwritten(READ_shapes, q, k, <erase:rows><!erase:u>, starts, log_a)  #? cut
        found = out, scores  #? cut
        out, _ = Finished.apply(READ_forward, found, q, k, <erase:rows><!erase:u>, starts, log_a, packing)  #? cut
    else:  #? cut
        end, out, _ = NAME_forward(  #? cut
            S, k, u, <erase:b, >log_a, <erase:p, >q, packing, True, None, None  #? cut
        )  #? cut
    end, out = NAME_forward(S, k, u, <erase:b, >log_a, <erase:p, >q, True)  #? !cut
    return unfitted(lead, end, out)


def NAME_meaning(
    S: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor, <erase:p: Tensor, >q: Tensor, *, C: int,
) -> tuple[Tensor, ...]:
    """Token by token."""
    end, <erase:rows, >starts = SCAN_meaning(S, k, u, <erase:b, >log_a, <erase:p, >C=C)
    return end, *READ_meaning(q, k, <erase:rows><!erase:u>, starts, log_a, C=C)


@Operator
def NAME_forward(
    S: Tensor, k: Tensor, u: Tensor, <erase:b: Tensor, >log_a: Tensor, <erase:p: Tensor, >q: Tensor,
    <cut:packing: Tensor | None, >divided: bool | None,<cut: table: Tensor | None, places: Tensor | None,>
) -> tuple[Tensor, <cut:Tensor, >Tensor]:
    """S after the last token, and reads; ``divided``: by two kernels where that is faster.<cut: Last>
    <cut:S before stretches of a table, if there is one.>"""
    (_, H, T, dk), dv = log_a.shape, u.shape[-1]
    if T == 1<cut: and packing is None and table is None>:
        checked(NAME_forward, NAME_meaning, k, dv, T, <cut:False, >log_a="T dk"<grouped:, groups=4<erase:<!decayed:, p="each T dk">>>)
        end, out<cut:, _> = found = NAME_shapes(S, k, u<cut:, None, None>)
        sizes = scan_sizes("step", dk, dv, T, k.dtype)
        args = [
            S, k, u, <erase:b, >log_a, <erase:p, >q, end, out, H, <grouped:H // k.shape[1], >*k.stride()[:2], *u.stride()[:2],
            *log_a.stride()[:2], <erase:*p.stride()[:2], >*q.stride()[:2], *out.stride()[:2],
        ]
        launch(NAME_step, (len(S) * H * blocks_of(dv, sizes["BV"]),), args, k.dtype, **sizes)
        return found
    sizes = scan_sizes("channel_scan_read", dk, dv, T, k.dtype)
    programs = S.shape[:-2].numel() * blocks_of(dv, sizes["BV"])
    if divided and (T == 1 or not in_one(k.dtype, programs, k.device)):
        end, <erase:rows, >starts<erase:, _> = SCAN_forward(S, k, u, <erase:b, >log_a<erase:, p><cut:, packing, None>)
        out, _ = READ_forward(q, k, <erase:rows><!erase:u>, starts, log_a, packing)  #? cut
        return end, out, kept_of(starts, table)  #? cut
        return end, READ_forward(q, k, <erase:rows><!erase:u>, starts, log_a)[0]  #? !cut
    checked(NAME_forward, NAME_meaning, k, dv, T, <cut:packing is not None, >log_a="T dk"<grouped:, groups=4<erase:<!decayed:, p="each T dk">>>)
    end, out<cut:, _> = NAME_shapes(S, k, u<cut:, None, None>)
    C = sizes["C"]
    at_end, <erase:begun, >whole = SCAN_faded(k, <erase:p, >log_a, <cut:packing, >k.dtype, dv)
    inverse = k.new_empty(*whole.shape[:3], C, C)  #? erase
    below = torch.empty_like(inverse, dtype=torch.float32)  #? erase
    channel_paired<!decayed:_before><grouped:<decayed:_grouped><!decayed:_keyed>>(p, k, log_a, below, dv<cut:, packing>)  #? erase
    solving = sizes_of("solve", dk, dv, T, k.dtype)  #? erase
    args = [below, b, inverse, <cut:*tokens_of(packing, T, C)><!cut:T>]  #? erase
    launch(SCAN_solve, (whole.shape[:3].numel(),), args, k.dtype, **solving)  #? erase
    scores = q.new_empty(*whole.shape[:3], C, C)
    channel_paired<before:_before><grouped:_grouped>(q, k, log_a, scores, dv<cut:, packing>)
    faded, fading = q.new_empty(log_a.shape), sizes_of("fade", dk, dv, T, q.dtype)
    args = [
        q, log_a, faded, <cut:*tokens_of(packing, T, C)><!cut:T>, H, <grouped:H // k.shape[1], >*q.stride()[:3], *log_a.stride()[:3],
    ]
    grid = (whole.shape[:3].numel() * blocks_of(dk, fading["BD"]),)
    launch(NAME_fade, grid, args, q.dtype, **fading)
    count = 0 if table is None else len(table) - 1  #? cut
    kept = None if table is None else k.new_empty(*log_a.shape[:2], count, dv, dk)  #? cut
    args = [
        S, at_end, u, <erase:b, begun, inverse, >whole, faded, scores, end, out, <cut:kept, places, count, *tokens_of(packing, T, C)><!cut:T>, H,
        *u.stride()[:3], *out.stride()[:3],
    ]
    launch(NAME_chunks, (programs,), args, k.dtype, **sizes)
    return end, out  #? !cut
    return end, out, k.new_empty(0) if kept is None else kept  #? cut


@NAME_forward.register_fake
def NAME_shapes(S, k, u, *<cut:rest><!cut:_>):
    """What the operator returns, but for its values."""
    end, out = torch.empty_like(S), tokens_first(u, dtype=k.dtype)  #? cut
    return torch.empty_like(S), tokens_first(u, dtype=k.dtype)  #? !cut
    (X, H, _, dv), table = u.shape, rest[-2]  #? cut
    shape = (0,) if table is None else (X, H, len(table) - 1, dv, k.shape[-1])  #? cut
    return end, out, k.new_empty(shape)  #? cut
'''


def texts(cut: bool) -> dict[str, str]:
    """Every scan with its read; ``cut``: of packed sequences, too."""
    out: dict[str, str] = {}
    for erase, decayed, before, grouped in product((False, True), repeat=4):
        if decayed and not erase:
            continue
        scan = f"channel_{'delta_' * erase}scan{'_decayed' * decayed}{'_grouped' * grouped}"
        name = f"{scan}_read{'_before' * before}"
        flags = dict(erase=erase, decayed=decayed, before=before, grouped=grouped, query=grouped)
        flags |= dict(cut=cut)
        out[name] = entry(name, _FADE, SCAN, STEP, _OPERATOR, read=True, **flags)
    return out
