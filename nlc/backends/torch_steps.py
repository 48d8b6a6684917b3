"""Functions that the file of an optimizer defines for itself: what is done with the step of a rule."""

from __future__ import annotations

STEPS: dict[str, str] = {
    "of": '''
def of(name: str, *numbers: float | Tensor) -> float | Tensor:
    """A function of numbers, torch's where one is a tensor: on its device, and with its graph."""
    like = next((x for x in numbers if isinstance(x, Tensor)), None)
    if like is None:
        return {"max": max, "min": min, **math.__dict__}[name](*numbers)
    name = {"max": "maximum", "min": "minimum"}.get(name, name)
    return getattr(torch, name)(*(x + torch.zeros_like(like) for x in numbers))
''',
    "sqrt": '''
def sqrt(x: Tensor) -> Tensor:
    """√x. Its slope at 0 counts as 0: weights without gradients have roots of 0 in their steps."""
    if not x.requires_grad:
        return torch.sqrt(x)
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())
''',
    "either": '''
def either(condition: bool | Tensor, a: Callable, b: Callable) -> float | Tensor:
    """a() where the condition holds, b() otherwise; of both where the device decides."""
    if not isinstance(condition, Tensor):
        return a() if condition else b()
    a, b = (torch.as_tensor(x(), device=condition.device) for x in (a, b))
    return torch.where(condition, a, b)
''',
    "filled": '''
def filled(like: Tensor, x: float | Tensor) -> Tensor:
    """x in every element of a tensor like another."""
    return torch.zeros_like(like) + x
''',
    "chosen": '''
def chosen(condition: bool | Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where the condition holds, b otherwise; one on the device is not asked for."""
    if isinstance(condition, Tensor):
        return torch.where(condition, a, b)
    return a if condition else b
''',
    "gathered": '''
def gathered(g: Tensor, state: dict, period: int) -> Tensor | None:
    """The sum of the last ``period`` gradients once they are complete, None before."""
    total, count = state.get("sum of gradients"), state.get("gradients", 0) + 1
    total = g.clone() if total is None else total + g
    complete = count >= period  # it may have become shorter
    state["sum of gradients"] = None if complete else total
    state["gradients"] = 0 if complete else count
    return total if complete else None
''',
    "several": '''
def several(layers: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    """One module or more as a list. TypeError for what is neither."""
    roots = [layers] if isinstance(layers, nn.Module) else layers
    roots = [*roots] if isinstance(roots, Iterable) else [roots]
    if not all(isinstance(x, nn.Module) for x in roots):
        raise TypeError(f"layers = {layers!r} must be a module, or several")
    return roots
''',
    "so_far": '''
def so_far(samples: dict[str, Tensor], state: dict, period: int) -> dict[str, Tensor]:
    """The samples of a period so far, which are kept until it is complete."""
    complete, out = state.get("gradients", 0) + 1 >= period, {}
    for key, new in samples.items():
        old = state.get(f"samples of {key}")
        out[key] = new if old is None else torch.cat([old, new])
        state[f"samples of {key}"] = None if complete else out[key]
    return out
''',
    "computed_in": '''
def computed_in(W: Tensor, group: dict) -> torch.dtype:
    """The format of a step: that of the tensor or of its memories, and at least float32."""
    dtype = torch.promote_types(W.dtype, torch.float32)
    return torch.promote_types(dtype, group["state_dtype"] or dtype)
''',
    "widened": '''
def widened(x: object, dtype: torch.dtype) -> object:
    """A memory in a format at least as wide; counts as they are."""
    return x.to(torch.promote_types(x.dtype, dtype)) if isinstance(x, Tensor) else x
''',
    "following": '''
def following(seed: int) -> int:
    """The seed of the step after, by a linear congruence."""
    return (6364136223846793005 * seed + 1442695040888963407) % 2**63
''',
    "rounded": '''
def rounded(x: Tensor, dtype: torch.dtype, seed: int) -> Tensor:
    """x in a narrower format, up or down by chance, so that it is x on average."""
    info, chance = torch.finfo(dtype), torch.Generator(x.device).manual_seed(seed)
    quantum = torch.ldexp(torch.full_like(x, info.eps), torch.frexp(x).exponent - 1)
    exact = x / quantum.clamp_(min=info.smallest_normal * info.eps)  # a power of two
    low = exact.floor()
    up = torch.rand(x.shape, generator=chance, dtype=x.dtype, device=x.device) < exact - low
    return ((low + up) * quantum).to(dtype)
''',
    "joined": '''
SMALL = 65536  # elements: below, tensors are joined, as calls cost more than the copies
LARGE = 1 << 22  # of a matrix that is multiplied: it fills a GPU, or the cores of a CPU, by itself
PLAIN = Tensor, torch.nn.Parameter  # other kinds of tensors may be spread over devices


def joined(tensors: list[Tensor], stacked: bool) -> Tensor:
    """Tensors as one: a stack of matrices, or all their elements in a row."""
    if stacked:
        return torch.stack(tensors)
    return torch.cat([x if x.ndim == 1 else x.flatten() for x in tensors])


class Matrices(list[Tensor]):  #? apart
    """Matrices of one shape that make a step together, each in its place."""  #? apart
  #? apart
    @property  #? apart
    def shape(self) -> torch.Size:  #? apart
        """That of each."""  #? apart
        return self[0].shape  #? apart
  #? apart
  #? apart
def calls_are_cheap(tensors: list[Tensor]) -> bool:
    """Whether a call for each of some tensors of one shape costs less than copies of them."""
    return tensors[0].numel() >= SMALL and tensors[0].device.type == "cpu"


def parted(whole: Tensor<apart: | Matrices>, tensors: list[Tensor]) -> None:
    """Gives each tensor its own of what they were together."""
    parts = whole.flatten().split([x.numel() for x in tensors])  #? !apart
    sizes = [x.numel() for x in tensors]  #? apart
    parts = whole.flatten().split(sizes) if isinstance(whole, Tensor) else whole  #? apart
    both = zip(parts, tensors, strict=True)
    torch._foreach_copy_(tensors, [x if x.shape == y.shape else x.view_as(y) for x, y in both])


def portions(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors that are joined, no more at a time than copies are worth.

    On a CPU a matrix for each thread: threads that share one wait for each other in each product.
    """
    count = max(1, 8 * LARGE // max(1, tensors[0].numel()))
    if calls_are_cheap(tensors):
        count = min(count, torch.get_num_threads())
    yield from (tensors[i : i + count] for i in range(0, len(tensors), count))
''',
    "room_for": '''
def room_for(W: Tensor | Matrices) -> Tensor:
    """An empty tensor like W; a stack for several, as it is multiplied next."""
    return torch.empty_like(W) if isinstance(W, Tensor) else W[0].new_empty(len(W), *W.shape)
''',
    "blocks": '''
BLOCK = 131072  # elements: they and what is computed of them stay in a cache; calls cost more


def blocks(
    changed: tuple[Tensor, ...], read: tuple[Tensor, ...], rooms: int = 0
) -> Iterator[tuple[Tensor, ...]]:
    """The elements of tensors of one shape, some after the others, and room for as many."""
    if any(isinstance(x, Matrices) for x in (*changed, *read)):  #? apart
        for some in zip(*changed, *read, strict=True):  #? apart
            yield from blocks(some[: len(changed)], some[len(changed) :], rooms)  #? apart
        return  #? apart
    first = changed[0]
    block = BLOCK * torch.get_num_threads()  # each operation is shared out among all cores
    if first.numel() <= block or not all(x.is_contiguous() for x in changed):
        yield *changed, *read, *(torch.empty_like(first) for _ in range(rooms))
        return
    tensors = *changed, *(x.contiguous() for x in read)
    beside = [first.new_empty(block) for _ in range(rooms)]
    for pieces in zip(*(x.view(-1).split(block) for x in tensors), strict=True):
        yield *pieces, *(x[: len(pieces[0])] for x in beside)
''',
    "on_device": '''
def on_device(numbers: tuple[float | Tensor, ...], like: Tensor) -> tuple[Tensor, ...]:
    """Numbers as tensors beside another, without waiting for the device."""
    return tuple(
        x.to(like.dtype) if isinstance(x, Tensor) else like.new_full((), x) for x in numbers
    )
''',
    "one_pass": '''
CALL = 65536  # elements: below, a compiled call costs more than it saves
SETS = 12  # tensors with their memories in a compiled call; more take longer to compile


@functools.cache
def in_place(advance: Callable) -> Callable:
    """What changes the first tensors of each set to what ``advance`` makes of the whole set."""

    def run(sets: list[tuple[Tensor, ...]], numbers: Tensor, *due: bool | Tensor) -> None:
        given = numbers.unbind()
        for tensors in sets:
            made = advance(*tensors, *given, *due)
            for x, new in zip(tensors[: len(made)], made, strict=True):
                x.copy_(new)

    return run


@functools.cache
def compiled(run: Callable) -> Callable:
    """One for all shapes, and for any number of threads."""
    options = {"cpp.dynamic_threads": True}
    return torch.compile(run, dynamic=True, fullgraph=True, options=options)


@functools.lru_cache(16)
def as_tensor(numbers: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """Numbers of a step, which many tensors share: one tensor, as each costs a check at a call."""
    return torch.tensor(numbers, dtype=dtype)


def one_pass(
    advance: Callable, changed: tuple, read: tuple, numbers: tuple, *due: bool | Tensor
) -> tuple:
    """A compiled step of tensors of one shape, in place."""
    tensors = *changed, *read
    if any(isinstance(x, Matrices) for x in tensors):  #? apart
        for some in zip(*tensors, strict=True):  #? apart
            one_pass(advance, some[: len(changed)], some[len(changed) :], numbers, *due)  #? apart
        return changed  #? apart
    if all(x.is_contiguous() for x in tensors):
        tensors = tuple(x.view(-1).data for x in tensors)  # the shape behind a view would count
    if any(isinstance(x, Tensor) for x in numbers):
        together = torch.stack(on_device(numbers, changed[0]))
    else:
        together = as_tensor(numbers, changed[0].dtype)
    compiled(in_place(advance))([tensors], together, *due)
    return changed


@functools.lru_cache(16)
def spare(
    run: Callable, due: tuple, count: int, numbers: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[Tensor, ...]]:
    """Sets of ``count`` tensors that stand where there are none; ``run`` is compiled for these.

    No two are of one size: sizes that are equal when a function is compiled stay so.
    """
    sizes = range(64, 64 * SETS + 1, 64)
    sets = [tuple(torch.zeros(n, dtype=dtype, device=device) for _ in range(count)) for n in sizes]
    run(sets, torch.zeros(numbers, dtype=dtype), *due)
    return sets


class Passes:
    """Compiled steps that wait until ``SETS`` tensors make the same one, or for ``finish``."""

    def __init__(self) -> None:
        self.waiting: dict[tuple, list[tuple[Tensor, ...]]] = {}

    def __call__(
        self, advance: Callable, changed: tuple, read: tuple, numbers: tuple, *due: bool | Tensor
    ) -> tuple:
        """As ``one_pass``, but done by ``finish`` at the latest."""
        tensors = *changed, *read
        asked = any(isinstance(x, Tensor) for x in (*numbers, *due))
        if asked or not all(x.is_contiguous() for x in tensors):
            return one_pass(advance, changed, read, numbers, *due)
        run = compiled(in_place(advance))
        same = run, numbers, due, changed[0].dtype, changed[0].device
        sets = self.waiting.setdefault(same, [])
        sets.append(tuple(x.view(-1).data for x in tensors))
        if len(sets) == SETS:
            self.call(*same)
        return changed

    def call(self, run: Callable, numbers: tuple, due: tuple, *kind) -> None:
        """Steps of up to ``SETS`` tensors; ``kind`` is their format and device."""
        sets = self.waiting.pop((run, numbers, due, *kind))
        others = spare(run, due, len(sets[0]), len(numbers), *kind)
        run([*sets, *others[len(sets) :]], as_tensor(numbers, kind[0]), *due)

    def finish(self) -> None:
        """What still waits."""
        for same in [*self.waiting]:
            self.call(*same)


def in_passes(step: Callable) -> Callable:
    """A step of an optimizer that ends when its compiled parts are done, or with an error."""

    @functools.wraps(step)
    def run(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        self.passes = Passes()
        try:
            return step(self, closure)
        finally:
            self.passes.finish()

    return run
''',
    "out_of_place": '''
def out_of_place(
    advance: Callable, changed: tuple, read: tuple, numbers: tuple, *due: bool | Tensor
) -> tuple:
    """A step whose results are new tensors."""
    return advance(*changed, *read, *on_device(numbers, changed[0]), *due)
''',
}
