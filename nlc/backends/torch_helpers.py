"""Functions that a generated file defines for itself where an operator is more than an expression."""

from __future__ import annotations

import ast
from pathlib import Path

from nlc.backends.features import FEATURES
from nlc.backends.torch_steps import STEPS
from nlc.backends.writer import select
from nlc.ir.program import Program


def _quoted(path: Path) -> dict[str, str]:
    """The functions and classes of a module that is not loaded here, as it needs torch."""
    text = path.read_text(encoding="utf-8")
    named = [x for x in ast.parse(text).body if isinstance(x, ast.FunctionDef | ast.ClassDef)]
    return {x.name: f"\n{ast.get_source_segment(text, x)}\n" for x in named}


HELPERS: dict[str, str] = {
    **STEPS,
    **_quoted(Path(__file__).parents[1] / "runtime" / "views.py"),
    "Part": '''
class Part(nn.Module):
    """What holds weights, whose shapes it tells, or other parts."""

    def extra_repr(self) -> str:
        return ", ".join(f"{n} {[*p.shape]}" for n, p in self.named_parameters(recurse=False))
''',
    "place": '''
def place(module: nn.Module, path: str, value: nn.Module | Tensor) -> None:
    """Makes ``module.a.b`` a layer or a parameter, for the path a.b, with modules in between."""
    *outer, name = path.split(".")
    for part in outer:
        if not hasattr(module, part):
            setattr(module, part, Part())
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
    "concat": '''
def concat(a: Tensor, b: Tensor) -> Tensor:
    """The channels of a, then those of b."""
    lead = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*lead, -1), b.expand(*lead, -1)], -1)
''',
    "l2norm": '''
def l2norm(x: Tensor, eps: float) -> Tensor:
    """x / √(‖x‖² + eps) in float32 at least: float16 holds no large square, nor 1 / √eps."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)).to(x.dtype)
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
    """x over its root mean square, which is computed in float32 at least, times a weight."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    return (wide * scale).to(x.dtype) * weight
''',
    "layernorm": '''
def layernorm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x standardised, which is computed in float32 at least, times a weight, plus a bias."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide - wide.mean(-1, keepdim=True)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    return (wide * scale).to(x.dtype) * weight + bias
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
    shape = X.shape
    X = X.reshape(math.prod(shape[:-2]), *shape[-2:])
    for _ in range(steps):
        G = X @ X.mT
        G = torch.baddbmm(G, G, G, beta=b, alpha=c) if c else b * G
        X = torch.baddbmm(X, G, X, beta=a)
    X = X.view(shape)
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
    "eigh_basis": '''
def eigh_basis(A: Tensor) -> Tensor:
    """The eigenvectors of a symmetric A [..., m, m] as columns, the largest eigenvalue's first.

    The first element of each that is at least 0.9 of its largest size is positive.
    """
    V = torch.linalg.eigh(A.to(torch.promote_types(A.dtype, torch.float32)))[1].flip(-1)
    size = V.abs()
    first = (size >= 0.9 * size.amax(-2, keepdim=True)).to(torch.uint8).argmax(-2, keepdim=True)
    return (V * V.gather(-2, first).sign()).to(A.dtype)
''',
    "qr": '''
def qr(A: Tensor) -> Tensor:
    """Q of A = Q R for A [..., m, n], the diagonal of R at least 0; of a wide A, of A = L Q."""
    wide = A.shape[-2] < A.shape[-1]
    tall = A.to(torch.promote_types(A.dtype, torch.float32))
    Q, R = torch.linalg.qr(tall.mT if wide else tall)
    Q = Q * torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)
    return (Q.mT if wide else Q).to(A.dtype)
''',
    "identity": '''
def identity(A: Tensor) -> Tensor:
    """The identity matrix, as large as A."""
    return torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand_as(A)
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
    x = x.expand(len(last), *x.shape[1:])  # what only counts tokens has one batch for all
    before = torch.cat([last.unsqueeze(1).to(x.dtype), x[:, :-1]], 1)
    return before, x[:, -1].to(last.dtype)
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
    "declared": '''
def declared(owner: object, name: str) -> str:
    """``memory.yaml:24``: where the spec declares M, to which the state ``M.key.conv`` belongs."""
    lines = dict(entry.split() for entry in owner.LINES.split(", "))
    line = lines.get(name.split()[0].partition(".")[0])
    return f"{owner.SPEC}:{line}" if line else owner.SPEC
''',
    "whole_sizes": '''
def whole_sizes(owner: object, **sizes: int | tuple[int, ...] | None) -> None:
    """ValueError for a size that is no whole number or below 1; None is one to be computed."""
    for name, size in sizes.items():
        parts = size if isinstance(size, list | tuple) else [1 if size is None else size]
        if not all(hasattr(x, "__index__") and x >= 1 for x in parts):
            said = f"{name} = {size!r} must be a whole number, at least 1"
            raise ValueError(f"{said} ({declared(owner, name)})")
''',
    "plain_numbers": '''
def plain_numbers(owner: object, **numbers: float | Tensor) -> None:
    """TypeError for what is no number; a tensor of one element is one."""
    for name, x in numbers.items():
        if not hasattr(x, "__float__"):
            raise TypeError(f"{name} = {x!r} must be a number ({declared(owner, name)})")
''',
    "in_bounds": '''
def in_bounds(said: str, x: object, low: float | None, high: float | None, where: str) -> None:
    """ValueError for a number out of bounds; a tensor is not asked, lest a step waits for it."""
    if isinstance(x, Tensor) or ((low is None or low <= x) and (high is None or x <= high)):
        return
    wanted = f"at most {high}" if low is None else f"between {low} and {high}"
    wanted = f"at least {low}" if high is None else wanted
    raise ValueError(f"{said} = {x:g} must be {wanted} ({where})")
''',
    "takes_flow": '''
def takes_flow(module: nn.Module, flow: str, x: Tensor, first: Tensor, *sizes: int) -> None:  #? !indexed
    """TypeError or ValueError where an input is not ``flow``, as x [B, T, d], like the first."""  #? !indexed
def takes_flow(  #? indexed
    module: nn.Module, flow: str, x: Tensor, first: Tensor, *sizes: int, rows: int = 0  #? indexed
) -> None:  #? indexed
    """TypeError or ValueError where an input is not ``flow``, as x [B, T, d], like the first.  #? indexed
  #? indexed
    With ``rows`` it holds whole numbers below that, which are looked at on the CPU alone.  #? indexed
    """  #? indexed
    if not isinstance(x, Tensor) or not x.is_floating_point():  #? !indexed
    kinds = (torch.int32, torch.int64)  #? indexed
    fits = isinstance(x, Tensor) and (x.dtype in kinds if rows else x.is_floating_point())  #? indexed
    if not fits:  #? indexed
        found, where = getattr(x, "dtype", type(x).__name__), declared(module, flow)
        raise TypeError(f"{flow} must hold floating-point numbers, not {found} ({where})")  #? !indexed
        wanted = "int32 or int64" if rows else "floating-point numbers"  #? indexed
        raise TypeError(f"{flow} must hold {wanted}, not {found} ({where})")  #? indexed
    lead = flow.count(",") + 1 - len(sizes)  # B and T, of a single token B
    wanted = (*first.shape[:lead], *sizes)
    if x.shape != wanted or 0 in wanted[1:lead]:
        known = (*"BT"[:lead], *sizes) if x is first else wanted
        said = f"{flow} must be [{', '.join(map(str, known))}]{' with T > 0' * (lead > 1)}"
        raise ValueError(f"{said}, not {list(x.shape)} ({declared(module, flow)})")
    device = first.device
    if x is first and lead > 1 and not torch.compiler.is_compiling():
        home = next(module.parameters(), None)  # on meta: its owner brings it over when it is used
        device = device if home is None or home.is_meta else home.device
    if x.device != device:
        said = f"{flow} must be on {device}, not on {x.device}"
        raise ValueError(f"{said} ({declared(module, flow)})")
    seen = rows and x.device.type == "cpu" and not torch.compiler.is_compiling()  #? indexed
    if seen and x.numel() and not (0 <= x.min() and x.max() < rows):  #? indexed
        said = f"{flow} must be within 0 and {rows - 1}, not {x.min()} to {x.max()}"  #? indexed
        raise ValueError(f"{said} ({declared(module, flow)})")  #? indexed
''',
    "state_layout": '''
def state_layout(module: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shapes and dtypes of the state of a float16 stream of no sequences; caches are empty."""
    state = module.initial_state(torch.empty(0, dtype=torch.float16))
    return {key: (x.shape, x.dtype) for key, x in state.items()}
''',
    "started": '''
def started(module: nn.Module, state: dict | None, x: Tensor) -> dict:
    """What a stream like ``x`` goes on from, None: a new one. ValueError where it is another's."""
    if state is None:
        return module.initial_state(x)
    if not isinstance(state, dict):
        raise TypeError(f"state must be what a call returned, a dict, not {type(state).__name__}")
    batch, device, memory = x.shape[0], x.device, torch.promote_types(x.dtype, torch.float32)
    others = [f"has {key!r}" for key in state if key not in module.STATE]
    for key, (shape, dtype) in module.STATE.items():
        if not isinstance(value := state.get(key), Tensor):
            said = " and ".join([f"lacks the tensor {key!r}", *others[:1]])
            raise ValueError(f"state {said} ({declared(module, key)})")
        sizes = (batch, *shape[1:]) if shape else ()
        if 0 in shape[1:] and value.ndim == len(shape):  # the axis of a cache, which grows
            sizes = tuple(n or m for n, m in zip(sizes, value.shape, strict=True))
        dtype = {torch.float32: memory, torch.float16: value.dtype}.get(dtype, dtype)
        if value.shape != sizes or value.dtype != dtype or value.device != device:
            said = f"state[{key!r}] must be {list(sizes)}, {dtype}, {device}, not"
            said = f"{said} {list(value.shape)}, {value.dtype}, {value.device}"
            raise ValueError(f"{said} ({declared(module, key)})")
    if others:
        raise ValueError(f"state {others[0]}, it is not of this system ({module.SPEC})")
    return state
''',
    "expect_finite": '''
def expect_finite(module, state, flows, found: tuple, start: int, members: Sequence[int]) -> None:
    """FloatingPointError where a piece is not finite; halves, run anew, show from which token."""
    ins, outs = (names.split(", ") for names in module.FLOWS.split(" -> "))
    tensors = [*zip(ins, flows, strict=True), *found[1].items(), *zip(outs, found[0], strict=True)]
    bad = [(n, x) for n, x in tensors if x.is_floating_point() and not x.isfinite().all()]
    bad += [(n, x) for n, x in state.items() if x.isnan().any()]  # also where nothing reads it
    if not bad:
        return
    if half := flows[0].shape[1] // 2:
        first, rest = ([x[:, :half] for x in flows], [x[:, half:] for x in flows])
        found = module.piece(state, *first)
        expect_finite(module, state, first, found, start, members)
        state, found = found[1], module.piece(found[1], *rest)
        expect_finite(module, state, rest, found, start + half, members)
    name, x = bad[0]
    row = x.isfinite().reshape(len(x), -1).all(1).tolist().index(False)
    row = members[row] if members else row
    weights = [n for n, p in module.named_parameters() if not p.isfinite().all()]
    cause = f", nor is the weight {weights[0]}" if weights else ""
    said = f"{name} is not finite{cause}, from token {start} of sequence {row} on"
    raise FloatingPointError(f"{said} ({declared(module, name)})")
''',
    "all_finite": '''
def all_finite(rule: type, **tensors: Tensor | int) -> None:
    """FloatingPointError for the first tensor of a step that is not finite."""
    for name, x in tensors.items():
        if isinstance(x, Tensor) and not x.isfinite().all():
            shape, where = list(x.shape), declared(rule, name)
            raise FloatingPointError(f"{name}, of shape {shape}, is not finite ({where})")
''',
    "pieces": '''
def pieces(module, state: dict, *flows: Tensor, members: Sequence[int] = ()<counted:, seen: int>) -> tuple:
    """``module.piece`` over the flows, in pieces as ``truncate`` and ``checkpoint`` say."""
    if not (module.truncate or module.checkpoint or module.error_if_nonfinite):
        return module.piece(state, *flows<counted:, seen=seen>)
    outputs, done = [], 0
    for long in zip(*(x.split(module.truncate or x.shape[1], 1) for x in flows), strict=True):
        state = {key: x.detach() for key, x in state.items()} if outputs else state
        for short in zip(*(x.split(module.checkpoint or x.shape[1], 1) for x in long), strict=True):
            before = state
            if module.checkpoint:
                y, state = checkpoint(module.piece, state, *short, use_reentrant=False<counted:, seen=seen>)
            else:
                y, state = module.piece(state, *short<counted:, seen=seen>)
            if module.error_if_nonfinite:
                expect_finite(module, before, short, (y, state), done, members)
            outputs.append(y)
            done += short[0].shape[1]
            seen += short[0].shape[1]  #? counted
    return [torch.cat(y, 1) for y in zip(*outputs, strict=True)], state
''',
    "streams": '''
def streams(module: nn.Module, cu_seqlens: Tensor | None, states, *flows: Tensor) -> tuple:
    """Sequences packed in flows [1, T, ...] as streams of their own, those alike as one batch."""
    if cu_seqlens is None:
        return pieces(module, started(module, states, flows[0]), *flows)  #? !counted checks pieces
        return module.piece(started(module, states, flows[0]), *flows)  #? !counted checks !pieces
        state = started(module, states, flows[0])  #? counted checks
        state = module.initial_state(flows[0]) if states is None else states  #? !checks
        seen = 0 if states is None else int(state["pos"])  #? counted
        return <pieces:pieces(module, ><!pieces:module.piece(>state, *flows)  #? !counted !checks
        return <pieces:pieces(module, ><!pieces:module.piece(>state, *flows, seen=seen)  #? counted
    cuts, shape = torch.as_tensor(cu_seqlens), list(flows[0].shape[:2])  #? checks
    ends = cuts.tolist()  #? checks
    if cuts.ndim != 1 or ends[:1] != [0] or ends != sorted(ends) or shape != [1, ends[-1]]:  #? checks
        name = module.FLOWS.split(" -> ")[0].split(", ")[0]  #? checks
        said = f"cu_seqlens must rise from 0 to T of {name} [1, T, ...], not {ends} of {shape}"  #? checks
        raise ValueError(f"{said} ({declared(module, name)})")  #? checks
    sizes = cuts.diff().tolist()  #? checks
    sizes = torch.as_tensor(cu_seqlens).diff().tolist()  #? !checks
    states = [None] * len(sizes) if states is None else states
    if isinstance(states, dict) or len(states) != len(sizes):  #? checks
        raise ValueError(f"state must be a list of {len(sizes)}, one for each sequence")  #? checks
    states = [started(module, x or None, flows[0]) for x in states]  #? checks
    states = [x or module.initial_state(flows[0]) for x in states]  #? !checks
    outputs, groups = [None] * len(sizes), {}
    for i, parts in enumerate(zip(*(x.split(sizes, 1) for x in flows), strict=True)):
        if sizes[i]:  # what is alike has the same length, position and caches
            kind = str([(k, x.shape if x.ndim else int(x)) for k, x in states[i].items()])
            groups.setdefault((sizes[i], kind), []).append((i, states[i], *parts))
    for group in groups.values():
        members, old, *parts = zip(*group, strict=True)
        state = {k: torch.cat([s[k] for s in old]) if x.ndim else x for k, x in old[0].items()}
        found, state = pieces(module, state, *map(torch.cat, parts), members=members)  #? !counted pieces
        found, state = module.piece(state, *map(torch.cat, parts))  #? !counted !pieces
        parts, seen = map(torch.cat, parts), int(state["pos"])  #? counted
        found, state = pieces(module, state, *parts, members=members, seen=seen)  #? counted pieces
        found, state = module.piece(state, *parts, seen=seen)  #? counted !pieces
        for n, i in enumerate(members):
            outputs[i] = [y[n : n + 1] for y in found]
            states[i] = {k: x[n : n + 1] if x.ndim else x for k, x in state.items()}
    return [torch.cat(y, 1) for y in zip(*filter(None, outputs), strict=True)], states
''',
}


def for_program(
    texts: list[str], program: Program, without: frozenset[str] = frozenset()
) -> list[str]:
    """Texts as a program needs them: they know how many tokens came before, if it counts them, and of indices, and of
    what a stream carries beside memories; and that the file is ``without`` some features."""
    carried = {s.kind for s in program.slots}
    flags = {"counted": program.counted, "indexed": bool(program.indices)}
    flags |= {"windowed": bool(carried & {"window", "prev"}), "placed": "tick" in carried}
    flags |= {name: name not in without for name in FEATURES}
    return [select(t, **flags) if any(f"#? {f}" in t for f in flags) else t for t in texts]
