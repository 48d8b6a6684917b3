"""Functions that a generated file defines for itself where an operator is more than an expression."""

from __future__ import annotations

from nlc.backends.torch_steps import STEPS

HELPERS: dict[str, str] = {
    **STEPS,
    "place": '''
def place(module: nn.Module, path: str, value: nn.Module | Tensor) -> None:
    """Makes ``module.a.b`` a layer or a parameter, for the path a.b, with modules in between."""
    *outer, name = path.split(".")
    for part in outer:
        if not hasattr(module, part):
            setattr(module, part, nn.Module())
        module = getattr(module, part)
    setattr(module, name, nn.Parameter(value) if isinstance(value, Tensor) else value)
''',
    "matvec": '''
def matvec(M: Tensor, z: Tensor) -> Tensor:
    """M z over the last axes."""
    return (M @ z.unsqueeze(-1)).squeeze(-1)
''',
    "outer": '''
def outer(a: Tensor, b: Tensor) -> Tensor:
    """a bᵀ over the last axis of each."""
    return a.unsqueeze(-1) * b.unsqueeze(-2)
''',
    "l2norm": '''
def l2norm(x: Tensor, eps: float) -> Tensor:
    """x / √(‖x‖² + eps)."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)
''',
    "silu_slope": '''
def silu_slope(x: Tensor) -> Tensor:
    """The derivative of silu."""
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))
''',
    "gelu_slope": '''
def gelu_slope(x: Tensor) -> Tensor:
    """The derivative of gelu."""
    density = (-0.5 * x.square()).exp() / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density
''',
    "rmsnorm": '''
def rmsnorm(x: Tensor, weight: Tensor) -> Tensor:
    """x over its root mean square, times a weight."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight
''',
    "layernorm": '''
def layernorm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x standardised, times a weight, plus a bias."""
    x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight + bias
''',
    "newton_schulz": '''
def newton_schulz(
    A: Tensor,
    steps: int,
    coefficients: tuple[float, float, float],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A [..., m, n] towards its polar factor: X ← a X + (b G + c G²) X, G = X Xᵀ, from A / ‖A‖."""
    a, b, c = coefficients
    tall = A.shape[-2] > A.shape[-1]
    X = A / torch.linalg.matrix_norm(A, keepdim=True).clamp(min=1e-7)
    X = (X.mT if tall else X).to(dtype or A.dtype)  # the smaller of the two products is formed
    for _ in range(steps):
        G = X @ X.mT
        X = a * X + (b * G + c * G @ G if c else b * G) @ X
    return (X.mT if tall else X).to(A.dtype)
''',
    "inv_root": '''
def inv_root(A: Tensor, p: float | Tensor, eps: float | Tensor) -> Tensor:
    """A^(-1/p) of a symmetric A [..., m, m], its eigenvalues at least eps times the largest.

    A gradient through it needs eigenvalues that differ from each other.
    """
    values, vectors = torch.linalg.eigh(A.to(torch.promote_types(A.dtype, torch.float32)))
    floor = (eps * values[..., -1:]).clamp(min=torch.finfo(values.dtype).tiny)
    roots = values.maximum(floor) ** (-1 / p)
    return ((vectors * roots.unsqueeze(-2)) @ vectors.mT).to(A.dtype)
''',
    "solve": '''
def solve(A: Tensor, b: Tensor) -> Tensor:
    """x with A x = b, for A [..., m, m] and b [..., m, k]."""
    dtype = torch.promote_types(b.dtype, torch.float32)
    batch = torch.broadcast_shapes(A.shape[:-2], b.shape[:-2])
    x = torch.linalg.solve(A.to(dtype), b.to(dtype).expand(*batch, *b.shape[-2:]))
    return x.to(b.dtype)
''',
    "conjugate_gradients": '''
def conjugate_gradients(A: Tensor, b: Tensor, steps: int) -> Tensor:
    """x near A x = b, for A [..., m, m] positive definite and b [..., m, k], each column from 0."""
    x, residual, direction = torch.zeros_like(b), b, b
    length = b.square().sum(-2, keepdim=True)
    exact = length * torch.finfo(b.dtype).eps ** 2
    for _ in range(steps):
        going = length > exact
        image = A @ direction
        curvature = (direction * image).sum(-2, keepdim=True)
        rate = torch.where(going, length / torch.where(going, curvature, 1.0), 0.0)
        x, residual = x + rate * direction, residual - rate * image
        before, length = length, residual.square().sum(-2, keepdim=True)
        kept = torch.where(going, length / torch.where(going, before, 1.0), 0.0)
        direction = residual + kept * direction
    return x
''',
    "rotary": '''
def rotary(x: Tensor, position: Tensor, base: float) -> Tensor:
    """Channel pairs (i, i + n/2) of x turned by angles position · base^(-2i/n)."""
    half = x.shape[-1] // 2
    index = torch.arange(half, device=x.device, dtype=position.dtype)
    angle = position * base ** (-index / half)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
''',
    "positions": '''
def positions(seen: Tensor, x: Tensor) -> Tensor:
    """[1, T]: where the tokens of x stand in the stream, as floating point numbers."""
    count = seen + torch.arange(x.shape[1], device=x.device)
    return count[None].to(torch.promote_types(x.dtype, torch.float32))
''',
    "causal_conv": '''
def causal_conv(x: Tensor, weight: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Depthwise over time: x [B, T, ...], weight [..., taps], window the taps - 1 tokens before."""
    taps, tokens = weight.shape[-1], x.shape[1]
    past = torch.cat([window.to(x.dtype), x], 1)
    out = past[:, :tokens] * weight[..., 0]
    for i in range(1, taps):
        out = torch.addcmul(out, past[:, i : i + tokens], weight[..., i])
    return out, past[:, tokens:]
''',
    "shifted": '''
def shifted(x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, T, ...] one token earlier, after ``last``; and its own last value."""
    return torch.cat([last.unsqueeze(1), x[:, :-1]], 1), x[:, -1]
''',
    "push": '''
def push(window: Tensor, x: Tensor) -> Tensor:
    """The window [B, c, ...] one tick later: x joins as the newest, the oldest leaves."""
    return torch.cat([window[:, 1:], x.expand_as(window[:, 0]).unsqueeze(1)], 1)
''',
    "recent": '''
def recent(x: Tensor, seen: Tensor) -> Tensor:
    """x [B, c, ...] summed over a window, what was before the start of the stream left out."""
    counts = seen.reshape(*seen.shape, *[1] * (x.ndim - 2)) > 0
    return torch.where(counts, x, 0).sum(1)
''',
    "causal_attention": '''
def causal_attention(
    q: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None = None
) -> Tensor:
    """Softmax attention of q [B, T, H, dk], the last T of the cached tokens, over all of them."""
    scores = (q.transpose(1, 2) @ keys.transpose(1, 2).mT) * scale
    new, total = scores.shape[-2:]
    now = torch.arange(total - new, total, device=q.device).unsqueeze(-1)
    age = now - torch.arange(total, device=q.device)
    hidden = age < 0 if window is None else (age < 0) | (age >= window)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return (weights @ values.transpose(1, 2)).transpose(1, 2)
''',
    "watched": '''
def watched(x: Tensor) -> Tensor:
    """x as a point of its own to take gradients at, still a part of the graph it comes from."""
    return x.clone() if x.requires_grad else x.detach().requires_grad_()
''',
    "slopes": '''
def slopes(total: Tensor, points: list[Tensor]) -> list[Tensor]:
    """How a sum depends on where it started. RuntimeError where the graph in between is gone."""
    found = [None]
    if total.requires_grad and all(point.requires_grad for point in points):
        found = torch.autograd.grad(total.sum(), points, create_graph=True, allow_unused=True)
    if any(slope is None for slope in found):
        raise RuntimeError(
            "inside a period whose updates a gradient passes, a stream goes on only with the state"
            " that forward returned, neither detached nor saved"
        )
    return list(found)
''',
    "ticks": '''
def ticks(dtype: torch.dtype, *flows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The flows [B, T, ...] one token at a time, in the states' dtype."""
    return zip(*(flow.to(dtype).unbind(1) for flow in flows), strict=True)
''',
    "pieces": '''
def pieces(module: nn.Module, state: dict | None, *flows: Tensor) -> tuple[list[Tensor], dict]:
    """``module.piece`` over the flows, in pieces as ``truncate`` and ``checkpoint`` say."""
    if not (module.truncate or module.checkpoint):
        return module.piece(state, *flows)
    outputs = []
    for long in zip(*(x.split(module.truncate or x.shape[1], 1) for x in flows), strict=True):
        state = {key: x.detach() for key, x in state.items()} if outputs else state
        for short in zip(*(x.split(module.checkpoint or x.shape[1], 1) for x in long), strict=True):
            if module.checkpoint:
                y, state = checkpoint(module.piece, state, *short, use_reentrant=False)
            else:
                y, state = module.piece(state, *short)
            outputs.append(y)
    return [torch.cat(y, 1) for y in zip(*outputs, strict=True)], state
''',
    "streams": '''
def streams(module: nn.Module, cu_seqlens: Tensor | None, states, *flows: Tensor) -> tuple:
    """Sequences packed in flows [1, T, ...] as streams of their own, those alike as one batch."""
    if cu_seqlens is None:
        return pieces(module, states, *flows)
    ends, sizes, shape = cu_seqlens.tolist(), cu_seqlens.diff().tolist(), list(flows[0].shape[:2])
    if ends[:1] != [0] or ends != sorted(ends) or shape != [1, ends[-1]]:
        raise ValueError(f"cu_seqlens must rise from 0 to T of [1, T, ...], not {ends} of {shape}")
    states = [None] * len(sizes) if states is None else states
    if isinstance(states, dict) or len(states) != len(sizes):
        raise ValueError(f"state must be a list of {len(sizes)}, one for each sequence")
    states = [x or module.initial_state(flows[0]) for x in states]
    outputs, groups = [None] * len(sizes), {}
    for i, parts in enumerate(zip(*(x.split(sizes, 1) for x in flows), strict=True)):
        if sizes[i]:  # what is alike has the same length, position and caches
            kind = str([(k, x.shape if x.ndim else int(x)) for k, x in states[i].items()])
            groups.setdefault((sizes[i], kind), []).append((i, states[i], *parts))
    for group in groups.values():
        members, old, *parts = zip(*group, strict=True)
        state = {k: torch.cat([s[k] for s in old]) if x.ndim else x for k, x in old[0].items()}
        found, state = pieces(module, state, *map(torch.cat, parts))
        for n, i in enumerate(members):
            outputs[i] = [y[n : n + 1] for y in found]
            states[i] = {k: x[n : n + 1] if x.ndim else x for k, x in state.items()}
    return [torch.cat(y, 1) for y in zip(*filter(None, outputs), strict=True)], states
''',
}
