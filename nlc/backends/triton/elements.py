"""A rule that treats all elements alike as one Triton kernel, and what launches it once for many tensors.

Which elements a program takes stands in a table on the device: a row a tensor, with the addresses of the tensor, of its
gradient and of its memories, how many elements they have, and the first program that has some of them. The numbers of a
step are arguments, or tensors where the device keeps them, so that neither a schedule nor a count compiles anew.
"""

from __future__ import annotations

# Functions of elements and of numbers, each operand an expression.
FUNCTIONS: dict[str, str] = {
    **{name: f"tl.{name}({{0}})" for name in ("exp", "log", "sqrt", "abs", "erf", "sigmoid")},
    "sign": "sign({0})",
    "tanh": "tanh({0})",
    "softplus": "softplus({0})",
    "maximum": "tl.maximum({0}, {1})",
    "minimum": "tl.minimum({0}, {1})",
    "clip": "tl.minimum(tl.maximum({0}, {1}), {2})",
    "relu": "tl.maximum({0}, 0.0)",
    "stop": "{0}",
    "zeros": "tl.zeros([CHUNK], tl.float32)",
}

FUNCTION_TEXTS: dict[str, str] = {
    "sign": '''
@triton.jit
def sign(x):
    """-1, 0 or 1."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))
''',
    "tanh": '''
@triton.jit
def tanh(x):
    """The hyperbolic tangent, to an absolute error of 2e-7."""
    return 2 * tl.sigmoid(2 * x) - 1
''',
    "softplus": '''
@triton.jit
def softplus(x):
    """log(1 + exp(x)), to the precision of what it is, however small."""
    y = tl.exp(-tl.abs(x))
    one = 1 + y
    log = tl.where(one == 1, y, tl.log(one) * (y / tl.where(one == 1, 1.0, one - 1)))
    return tl.maximum(x, 0.0) + log
''',
    "square": '''
@triton.jit
def square(x):
    """x times x."""
    return x * x
''',
}

TEXTS: dict[str, str] = FUNCTION_TEXTS | {
    "place": '''
@triton.jit
def place(table, owner, ROLES: tl.constexpr, CHUNK: tl.constexpr, ALIGNED: tl.constexpr):
    """Of a program: its tensor, the row of it, its elements, and which of them are there."""
    n = tl.load(owner + tl.program_id(0))
    row = table + n * (ROLES + 2)
    size = tl.load(row + ROLES)
    if ALIGNED:
        size = tl.multiple_of(size, 16)
    at = (tl.program_id(0) - tl.load(row + ROLES + 1)) * CHUNK + tl.arange(0, CHUNK)
    return n, row, at, at < size
''',
    "cells": '''
@triton.jit
def cells(row, ROLE: tl.constexpr, like, at, ALIGNED: tl.constexpr):
    """Where elements are of the tensor in a role, which has the format that ``like`` has."""
    first = tl.load(row + ROLE).to(like.dtype)
    if ALIGNED:
        first = tl.multiple_of(first, 16)
    return first + at
''',
    "number": '''
@triton.jit
def number(x, n, ON_DEVICE: tl.constexpr):
    """A number of the step, or that of the n-th tensor."""
    return tl.load(x + n) if ON_DEVICE else x
''',
    "by_chance": '''
@triton.jit
def by_chance(x, seed, CHUNK: tl.constexpr, MANTISSA: tl.constexpr, LEAST: tl.constexpr):
    """x up or down by chance to what a narrower format has, so that it is x on average.

    MANTISSA: bits of the format behind the point; LEAST: 127 more than log2 of its least step.
    """
    quantum = (x.to(tl.int32, bitcast=True) & 0x7F800000) - (MANTISSA << 23)
    exact = x / tl.maximum(quantum, LEAST << 23).to(tl.float32, bitcast=True)
    low = tl.floor(exact)
    at = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    up = (tl.rand(seed, at) < exact - low).to(tl.float32)
    return (low + up) * tl.maximum(quantum, LEAST << 23).to(tl.float32, bitcast=True)
''',
    "owners": '''
CHUNK = 1024  # elements that a program takes
NARROW = {torch.float32: (0, 0), torch.bfloat16: (7, 1), torch.float16: (10, 103)}  # by_chance
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@functools.lru_cache(16)
def owners(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """The tensor of each program."""
    chunks = torch.tensor([-(-n // CHUNK) for n in sizes])
    return on(device, torch.arange(len(sizes)).repeat_interleave(chunks))


@functools.lru_cache(16)
def table_of(rows: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """Addresses and a size a row, and the first program of each."""
    table = torch.tensor(rows)
    chunks = (table[:, -1] + CHUNK - 1) // CHUNK
    return on(device, torch.cat([table, (chunks.cumsum(0) - chunks)[:, None]], 1))


def on(device: torch.device, x: Tensor) -> Tensor:
    """A copy on the device, which is not waited for."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


CAPTURED = []  # tables that a CUDA graph reads


def launch(kernel, grid: tuple[int, ...], args: list, dtype: torch.dtype, **sizes) -> None:
    """Runs a kernel on the device of its first argument."""
    device = args[0].device
    if device.type != "cuda":
        kernel[grid](*args, **sizes)
        return
    if torch.cuda.is_current_stream_capturing():
        CAPTURED.append([x for x in args if isinstance(x, Tensor)])
    with torch.cuda.device(device):
        kernel[grid](*args, **sizes)


def step_of(
    kernel, tensors: list[tuple[Tensor, ...]], numbers: tuple, maximize: bool, seed: int | None
) -> None:
    """One launch for the step of tensors, each with its gradient and its memories, in place."""
    device, sizes = tensors[0][0].device, tuple(W.numel() for W, *_ in tensors)
    rows = tuple((*(x.data_ptr() for x in xs), n) for xs, n in zip(tensors, sizes, strict=True))
    owner, on_device = owners(sizes, device), any(isinstance(x, Tensor) for x in numbers)
    if on_device:
        numbers = [
            torch.as_tensor(x, dtype=torch.float32, device=device).expand(len(rows)).contiguous()
            if isinstance(x, Tensor)
            else torch.full((len(rows),), x, dtype=torch.float32, device=device)
            for x in numbers
        ]
    mantissa, least = NARROW[tensors[0][0].dtype] if seed is not None else (0, 0)
    args = [table_of(rows, device), owner, *tensors[0], *map(as_float, numbers), seed or 0]
    how = dict(ON_DEVICE=on_device, MAXIMIZE=maximize, MANTISSA=mantissa, LEAST=least)
    how |= dict(ALIGNED=all(aligned(xs) for xs in tensors), CHUNK=CHUNK)
    launch(kernel, (len(owner),), args, torch.float32, **how, num_warps=4, num_stages=1)


def as_float(x: float | Tensor) -> float | Tensor:
    """A number whose value is no part of what is compiled, as that of a whole number would be."""
    return x if isinstance(x, Tensor) else float(x)


def aligned(tensors: tuple[Tensor, ...]) -> bool:
    """Whether sixteen bytes of each can be read at once."""
    return tensors[0].numel() % 16 == 0 and all(x.data_ptr() % 16 == 0 for x in tensors)
''',
}

# What the class does beside the text that all optimizers share.
METHODS = '''def launches(self, W: Tensor, group: dict, rule: type) -> tuple | None:
    """What tensors have in common that one launch takes; None for one that goes alone."""
    state = self.state.get(W)
    started = state is not None and (state or not getattr(rule, "KEEPS", True))
    if not started or not hasattr(rule, "KERNEL") or self.error_if_nonfinite:
        return None
    gathers = group["period"] > 1 or state.get("gradients")
    if group["differentiable"] or gathers or type(W) not in PLAIN:
        return None
    tensors = W, W.grad, *(state[key] for key in rule.KEPT)
    if not all(x.is_contiguous() and x.dtype in NARROW for x in tensors):
        return None
    if not (W.is_cuda or INTERPRETED) or torch.compiler.is_compiling():
        return None
    counts = [x for key, x in state.items() if not isinstance(x, Tensor) and key != "seed"]
    return rule, W.device, aligned(tensors), *(x.dtype for x in tensors), *counts

def launched(self, rule: type, tensors: list[Tensor], group: dict) -> None:
    """One step of tensors by one launch. Counts and numbers, which are few, are the host's."""
    given, states = {key: group[key] for key in rule.HYPERS}, [self.state[W] for W in tensors]
    counts, numbers = {}, []
    for key, x in states[0].items():
        if key not in rule.KEPT and key != "seed":  # on the device, of each tensor its own
            counts[key] = torch.stack([s[key] for s in states]) if isinstance(x, Tensor) else x

    def noted(advance, changed: tuple, read: tuple, found: tuple, *due: bool | Tensor) -> tuple:
        numbers.extend([*found, *due])
        return changed

    W, memory = tensors[0], {**states[0], **counts}
    rule.update(W, W.grad, memory, **given, run=noted)
    for key in counts:
        if isinstance(counts[key], Tensor):
            torch._foreach_copy_([s[key] for s in states], list(memory[key].unbind()))
        else:
            for s in states:
                s[key] = memory[key]
    seed = None
    if group["rounding_seed"] is not None and W.dtype != torch.float32:
        seed = states[0].get("seed", group["rounding_seed"])
        for s in states:
            s["seed"] = following(s.get("seed", seed))
    rows = []
    for W, s in zip(tensors, states, strict=True):
        rows.append((W, W.grad, *(s[key] for key in rule.KEPT)))
    step_of(rule.KERNEL, rows, tuple(numbers), group["maximize"], seed)
'''
