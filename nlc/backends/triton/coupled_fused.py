"""Coupled states of one token: what is written and what is read as one kernel, where no slopes are wanted.

More tokens, and those that slopes are wanted of, are a scan and a read as elsewhere.
"""

from __future__ import annotations

from itertools import product

from nlc.backends.triton.coupled_scans import STEP
from nlc.backends.triton.forms import worded

_OPERATOR = '''
def NAME(
    X: Tensor, kept: Tensor, begun: Tensor, k: Tensor, u: Tensor, <erase:p: Tensor, source: int, >q: Tensor, state: int,
    <cut:within: Packing | None = None,>
) -> tuple[Tensor, Tensor]:
    """What `SCAN` has at the end, and what `READ` reads of a state at q: of one token that no slopes are wanted of by
    one kernel."""
    alone = k.shape[-2] == 1<cut: and within is None>
    if not alone or slopes_wanted(X, kept, begun, k, u, <erase:p, >q):
        X, seen = SCAN(X, kept, begun, k, u<erase:, p, source><cut:, within>)
        return X, READ(q, state, *seen<cut:, within=within>)
    dtype = supported(k)
    lead = leading(
        X.shape[:-3], kept.shape[:-5], <!grouped:k.shape[:-2], >u.shape[:-3], <!grouped:<erase:p.shape[:-2], >q.shape[:-2]>
    )
    X = state_of(X, begun.shape[-2], u.shape[-1], k.shape[-1])
    X = fitted(lead, 3, X)[0].contiguous()
    k, <erase:p, >q = (rows_of(dtype, x) for x in fitted(lead, 2, k, <erase:p, >q))  #? !grouped
    k, <erase:p, >q = (shared(dtype, lead, x) for x in (k, <erase:p, >q))  #? grouped
    u = rows_of(dtype, fitted(lead, 3, u)[0])
    kept, begun = fitted(lead, 5, kept)[0].contiguous(), fitted(lead, 4, begun)[0].contiguous()
    end, out = NAME_forward(X, k, u, <erase:p, >q, kept, begun, <erase:source, >state)
    return unfitted(lead, end, out)


def NAME_meaning(
    X: Tensor, k: Tensor, u: Tensor, <erase:p: Tensor, >q: Tensor, kept: Tensor, begun: Tensor, <erase:source: int, >state: int,
) -> tuple[Tensor, ...]:
    """One token."""
    end, *_ = SCAN_meaning(X, k, u, <erase:p, >kept, begun<erase:, source>)
    q = q.repeat_interleave(u.shape[1] // q.shape[1], 1)  #? grouped
    return end, (<before:X><!before:end>[..., state, :, :] @ q.mT).mT


@Operator
def NAME_forward(
    X: Tensor, k: Tensor, u: Tensor, <erase:p: Tensor, >q: Tensor, kept: Tensor, begun: Tensor, <erase:source: int, >state: int,
) -> tuple[Tensor, Tensor]:
    """States after the token, and the read: as [X, H, ...]."""
    end, out = found = NAME_shapes(X, k, u)
    (N, H, _, given, dv), dk, (states, written, C) = u.shape, k.shape[-1], kept.shape[3:6]
    checked(
        NAME_forward, NAME_meaning, k, dv, 1, <cut:False, >X="states dv dk", u="T given dv", kept="chunks states written C C",
        begun="chunks states states C", states=states, written=written, given=given, C=C, <grouped:groups=4, >
    )
    sizes = coupled_sizes("step", states, written, dk, dv, C)
    args = [
        X, k, u, <erase:p, >q, kept, begun, end, out, H, <grouped:H // k.shape[1], >*k.stride()[:2], *u.stride()[:2], u.stride(3),
        <erase:*p.stride()[:2], >*q.stride()[:2], *out.stride()[:2],
    ]
    grid = (N * H * blocks_of(dv, sizes["BV"]),)
    launch(NAME_step, grid, args, k.dtype, STATE=state, <erase:SOURCE=source, >**sizes)
    return found


@NAME_forward.register_fake
def NAME_shapes(X, k, u, *_):
    """What the operator returns, but for its values."""
    N, H, _, _, dv = u.shape
    return torch.empty_like(X), k.new_empty(N, 1, H, dv).transpose(1, 2)
'''


def _fused(erase: bool, before: bool, grouped: bool, cut: bool) -> tuple[str, str]:
    scan = f"coupled_{'delta_' * erase}scan{'_grouped' * grouped}"
    name = f"{scan}_read{'_before' * before}"
    words = {
        "VALUE": f"X_{'(t-1)' if before else 't'}[STATE] q_t",
        "SCAN": scan,
        "READ": f"coupled_read{'_before' * before}{'_grouped' * grouped}",
        "NAME": name,
    }
    flags = dict(erase=erase, before=before, grouped=grouped, read=True)
    return name, "\n".join(worded(x, words, cut, **flags) for x in (STEP, _OPERATOR))


def texts(cut: bool) -> dict[str, str]:
    """Every scan with its read; ``cut``: of packed sequences, too."""
    flags = product((False, True), repeat=3)
    return dict(_fused(erase, before, grouped, cut) for erase, before, grouped in flags)
