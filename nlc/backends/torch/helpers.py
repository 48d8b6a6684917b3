"""What generated files of this backend define for themselves beside the functions of the reference's."""

from __future__ import annotations

import re
from functools import cache

from nlc.backends.torch.scans import TEXTS as SCANS
from nlc.backends.torch_helpers import HELPERS, for_program
from nlc.ir.program import Program

_OWN = {
    "rows": '''
def rows(dtype: torch.dtype, *flows: Tensor) -> list[Tensor]:
    """Flows [B, T, H, ...] as [B, H, T, ...], in the states' dtype."""
    return [x.transpose(1, 2).to(dtype).contiguous() for x in flows]
''',
    "as_one": '''
def as_one(like: Tensor, *starts: Tensor) -> Tensor:
    """What several memories start from as one tensor, for each sequence as in ``like``."""
    return torch.stack([x.to(like.dtype).expand_as(like) for x in starts])
''',
    "spread": '''
def spread(x: Tensor, axis: int, tokens: int) -> Tensor:
    """One value for all tokens, for each of them."""
    x = x.unsqueeze(axis)
    return x.expand([tokens if i == x.ndim + axis else n for i, n in enumerate(x.shape)])
''',
    "through": '''
class Through(torch.autograd.Function):
    """x Wᵀ; its gradient by W lies in memory as W does, so that gradients add up fast."""

    @staticmethod
    def forward(ctx, x, W):
        ctx.save_for_backward(x, W)
        return x @ W.mT

    @staticmethod
    def backward(ctx, dy):
        x, W = ctx.saved_tensors
        return (dy @ W).sum_to_size(x.shape), (dy.mT @ x).sum_to_size(W.shape)


def through(x: Tensor, W: Tensor) -> Tensor:
    """x Wᵀ for a matrix that all tokens of a tile share."""
    return Through.apply(x, W)
''',
    "SiluBack": '''
class SiluBack(torch.autograd.Function):
    """g ⊙ silu′(x), in one pass."""

    @staticmethod
    def forward(ctx, g, x):
        ctx.save_for_backward(g, x)
        return torch.ops.aten.silu_backward(g, x)

    @staticmethod
    def backward(ctx, d):
        g, x = ctx.saved_tensors
        dg, s = SiluBack.apply(d, x), torch.sigmoid(x)
        dx = torch.addcmul(dg, s, d.sub(dg, alpha=2)).mul_(g)  # silu″ = σ + silu′ (1 - 2σ)
        return dg.sum_to_size(g.shape), dx.sum_to_size(x.shape)
''',
    "Tile": """
Tile = tuple[list[Tensor], list[tuple[Tensor, int]]]  # carried on; collected, with its token axis
""",
    "tiles": '''
def tiles(body, state, start, carried, periods, flows) -> list[Tensor]:
    """Runs ``body`` over pieces of the flows that no boundary of the periods cuts.

    ``body(start, stop, carried, *pieces)`` does tokens start + 1 to stop of the stream. Flows come
    with their axis of tokens. ``carried`` is what of ``state``, of several as one, by whose it is.
    """
    owners = [(x.split(" "), y.split()) for xs, y in carried.items() for x in xs.split(", ")]
    whose = [(names, part) for names, parts in owners for part in parts]
    keys = [[f"{name}.{part}".strip(".") for name in names] for names, part in whose]
    x, axis = flows[0]
    end = start + x.shape[axis]
    stops = sorted({e for p in periods for e in range(start - start % p + p, end, p)} | {end})
    sizes = [b - a for a, b in zip([start, *stops[:-1]], stops, strict=True)]
    carried = [torch.stack([state[k] for k in ks]) if ks[1:] else state[ks[0]] for ks in keys]
    collected = []
    for stop, *pieces in zip(stops, *(x.split(sizes, axis) for x, axis in flows), strict=True):
        carried, out = body(start, stop, carried, *pieces)
        collected.append(out)
        start = stop
    for ks, value in zip(keys, carried, strict=True):
        state.update(zip(ks, value if ks[1:] else [value], strict=True))
    found = (zip(*pairs, strict=True) for pairs in zip(*collected, strict=True))
    return [torch.cat(x, axes[0]) for x, axes in found]
''',
    "tokens": '''
def tokens(body, state, stop, carried, flows) -> list[Tensor]:
    """Runs ``body(stop, carried, *flows)`` for each token, the one after ``stop`` others first."""
    collected = []
    keys, carried = carried, [state[key] for key in carried]
    for pieces in zip(*(x.unbind(axis) for x, axis in flows), strict=True):
        stop += 1
        carried, out = body(stop, carried, *pieces)
        collected.append(out)
    state.update(zip(keys, carried, strict=True))
    found = (zip(*pairs, strict=True) for pairs in zip(*collected, strict=True))
    return [torch.stack(x, axes[0]) for x, axes in found]
''',
    "causal_attention": '''
def causal_attention(
    q: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None = None
) -> Tensor:
    """Softmax attention of q [B, T, H, dk], the last T of the cached tokens, over all of them."""
    q, keys, values = (x.transpose(1, 2) for x in (q, keys, values))
    new, total = q.shape[-2], keys.shape[-2]
    mask = None
    if window is not None or new < total:
        now = torch.arange(total - new, total, device=q.device).unsqueeze(-1)
        age = now - torch.arange(total, device=q.device)
        mask = age >= 0 if window is None else (age >= 0) & (age < window)
    out = F.scaled_dot_product_attention(
        q, keys, values, mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return out.transpose(1, 2)
''',
}

TEXTS: dict[str, str] = {**HELPERS, **_OWN, **SCANS}


def with_needed(names: set[str], texts: dict[str, str] = TEXTS) -> list[str]:
    """The named texts and those that they use, in the order in which they are defined."""
    out: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name not in out:
            out.add(name)
            stack += [n for n in _uses(texts[name], tuple(texts)) if n != name]
    return [n for n in texts if n in out]


@cache  # the texts are few and always the same
def _uses(text: str, names: tuple[str, ...]) -> list[str]:
    words = {*re.findall(r"\w+", text)}
    return [n for n in names if n in words and re.search(_use(n), text)]


def _use(name: str) -> str:
    """How a text is used: a constant by its name, a function by a call; a method of that name is another."""
    constant = name.isupper() or name in ("Tile", "Operator", "Packing", "Edges", "Finished")
    return rf"\b{name}\b" if constant else rf"(?<![\w.])(?<!def ){name}(\(|\.apply)"


def defined(
    names: set[str],
    program: Program,
    tiles: dict[str, int | None],
    texts: dict[str, str] = TEXTS,
    without: frozenset[str] = frozenset(),
) -> list[str]:
    """The texts of the named helpers, with the tiles that were asked for by the constants that have them."""
    mine = dict(zip(texts, for_program([*texts.values()], program, without), strict=True))
    found = [mine[n] for n in with_needed(names, mine)]
    for constant, asked in tiles.items():
        if asked is not None:
            found = [re.sub(rf"(?m)^{constant} = \d+", f"{constant} = {asked}", t) for t in found]
    return found
