"""What looks a few tokens back, of sequences that are packed in one: windows of convolutions, previous values, positions.

Tokens are taken as one sequence; the first few of each, which looked into the one before, are then done anew beside
what that sequence carries. So flows are copied no more often than without, and nothing waits for where sequences end.
"""

from __future__ import annotations

TEXTS: dict[str, str] = {
    "Edges": '''
class Edges:
    """Where packed sequences begin and end: their first and last tokens, ``reach`` of each.

    What is done with tokens [1, T, ...] as if they were one sequence is done anew with the first of
    each, which look at what their own carried.
    """

    def __init__(self, within: Packing, reach: int):
        cuts, device = within.cuts.long(), within.cuts.device
        sizes, step = cuts.diff()[:, None], torch.arange(reach, device=device)
        self.shape, self.there = (len(sizes), reach), (step < sizes).flatten()
        self.first = torch.where(step < sizes, cuts[:-1, None] + step, 0).flatten()
        zero = ((cuts[:-1] == 0).sum() - 1).clamp(min=0)  # cuts are not checked here
        self.zero = zero.reshape(1) * reach  # of these the first of all
        self.last = (cuts[1:, None] - reach + step).clamp(min=0).flatten()
        # of what was carried and of the last tokens, side by side: what is carried on
        stays = torch.where(step + sizes < reach, sizes, reach) + step
        self.kept = (stays + torch.arange(len(sizes), device=device)[:, None] * 2 * reach).flatten()

    def begin(self, x: Tensor) -> Tensor:
        """The first tokens [N, reach, ...] of each sequence; where it has fewer, another."""
        return x[0].index_select(0, self.first).unflatten(0, self.shape)

    def begun(self, x: Tensor, rows: Tensor) -> Tensor:
        """x with the first tokens of each sequence from rows [N, reach, ...], in place."""
        rows = rows.flatten(0, 1)
        again = rows.detach().index_select(0, self.zero)  # for what is not there: once more
        rows = torch.where(self.there.view(-1, *[1] * (rows.ndim - 1)), rows, again)
        return x.index_copy_(1, self.first, rows[None])

    def ends(self, x: Tensor, carried: Tensor) -> Tensor:
        """What sequences carry on, where that was ``carried`` [N, reach, ...]."""
        last = x[0].index_select(0, self.last).unflatten(0, self.shape)
        both = torch.cat([carried.to(x.dtype), last], 1).flatten(0, 1)
        return both.index_select(0, self.kept).unflatten(0, self.shape)
''',
    "edges": '''
def edges(within: Packing, reach: int) -> Edges:
    """Where sequences begin and end, computed once for all that looks as far back."""
    if reach not in within.near:
        within.near[reach] = Edges(within, reach)
    return within.near[reach]
''',
    "causal_conv_within": '''
def causal_conv_within(x: Tensor, weight: Tensor, window: Tensor, within: Packing | None) -> tuple:
    """As `causal_conv`; of packed sequences [1, T, ...], each behind its own window."""
    if not cut(within):
        return causal_conv(x, weight, window)
    if not window.shape[1]:  # one tap looks at no other token
        return causal_conv(x, weight, window[:1])[0], window
    near = edges(within, window.shape[1])
    rows, _ = causal_conv(near.begin(x), weight, window)
    out, _ = causal_conv(x, weight, window[:1])
    return near.begun(out, rows), near.ends(x, window)
''',
    "shifted_within": '''
def shifted_within(x: Tensor, last: Tensor, within: Packing | None) -> tuple[Tensor, Tensor]:
    """As `shifted`; of packed sequences [1, T, ...], each behind its last value [N, ...]."""
    if not cut(within):
        return shifted(x, last)
    near, last = edges(within, 1), last.unsqueeze(1)
    before = torch.cat([x[:, :1], x[:, :-1]], 1)
    return near.begun(before, last.to(x.dtype)), near.ends(x, last)[:, 0].to(last.dtype)
''',
    "positions_within": '''
def positions_within(seen: Tensor, x: Tensor, within: Packing | None) -> Tensor:
    """As `positions`; of packed sequences, each behind as many tokens as ``seen`` [N] says."""
    if not cut(within):
        return positions(seen, x)
    cuts, count = within.cuts.long(), torch.arange(x.shape[1], device=x.device)
    own = (torch.searchsorted(cuts, count, right=True) - 1).clamp(max=len(seen) - 1)
    count = count + (seen - cuts[:-1])[own]
    return count[None].to(torch.promote_types(x.dtype, torch.float32))
''',
    "advanced_within": '''
def advanced_within(seen: Tensor, x: Tensor, within: Packing | None) -> Tensor:
    """How many tokens of each sequence there were, x included."""
    return seen + (within.cuts.diff() if cut(within) else x.shape[1])
''',
}
