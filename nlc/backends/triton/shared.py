"""What every operator of a generated Triton file uses: sizes, launches, shapes, the check of a first launch."""

from __future__ import annotations

SHARED: dict[str, str] = {
    "OPERATORS": """
OPERATORS = re.sub(r"\\W", "_", f"nlc_{__name__}")  # where torch finds those of this file
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
""",
    "Operator": '''
class Operator:
    """What runs kernels: an operator of PyTorch where a compiler looks on, else as it is."""

    def __init__(self, function):
        name = f"{OPERATORS}::{function.__name__}"
        self.function, self.slope = function, None
        self.known = torch.library.custom_op(name, function, mutates_args=())
        self.register_fake = self.known.register_fake

    def register_autograd(self, slope, setup):
        """``slope`` of what ``setup`` keeps; kernels have no second one."""
        self.known.register_autograd(slope, setup_context=setup)
        self.slopes = slope, setup  #? cut

        class Slope(torch.autograd.Function):
            backward = staticmethod(torch.autograd.function.once_differentiable(slope))

            @staticmethod
            def forward(ctx, *inputs):  # faster than a context that PyTorch sets up
                output = self.function(*inputs)
                setup(ctx, inputs, output)
                return output

        self.slope = Slope

    def __call__(self, *inputs):
        kinds = {type(x) for x in inputs if isinstance(x, Tensor)}
        if torch.compiler.is_compiling() or not kinds <= {Tensor, nn.Parameter}:
            return self.known(*inputs)
        if self.slope is None or not torch.is_grad_enabled():
            return self.function(*inputs)
        return self.slope.apply(*inputs)

    def __str__(self):
        return self.function.__name__.removesuffix("_forward")
''',
    "chunk_of": '''
def chunk_of(dk: int, dv: int, tokens: int, dtype: torch.dtype) -> int:
    """Tokens of a chunk: fewer where they would take too many registers, or there are few."""
    most = min(CHUNK, 32) if max(dk, dv) > 128 or dtype == torch.float32 else CHUNK
    return 16 if tokens <= 16 else most
''',
    "blocks_of": '''
def blocks_of(size: int, block: int) -> int:
    """How many blocks a size has."""
    return -(-size // block)
''',
    "width": '''
def width(channels: int, most: int) -> int:
    """Channels of a block: a power of two."""
    return min(max(16, power_of_2(channels)), most)
''',
    "power_of_2": '''
def power_of_2(size: int) -> int:
    """The next one, or the size itself."""
    return 1 << (size - 1).bit_length()
''',
    "kernel_cache": '''
def kernel_cache() -> Path:
    """Where verdicts and tuned configurations are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("NLC_CACHE_DIR") or f"{base}/nlc") / "kernels"
''',
    "processors": '''
@functools.cache
def processors(device: torch.device) -> int:
    """How many programs a GPU runs at once, if each takes a multiprocessor."""
    there = device.type == "cuda"
    return torch.cuda.get_device_properties(device).multi_processor_count if there else 0
''',
    "in_one": '''
def in_one(dtype: torch.dtype, programs: int, device: torch.device) -> bool:
    """Whether a scan and its read are faster as one kernel, by its programs.

    They are as soon as these fill the GPU, for else chunks are read side by side by more. What is
    saved is memory, which products of float32 do not wait for.
    """
    return dtype != torch.float32 and programs >= processors(device)
''',
    "slopes_wanted": '''
def slopes_wanted(*given: Tensor) -> bool:
    """Whether autograd records what is computed."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in given)
''',
    "tuned": '''
@functools.cache
def tuned() -> dict[tuple[str, int, int], tuple[int, int, int]]:
    """By kind, dk and dv like CONFIG: what ``nlc tune`` found with this Triton on this GPU."""
    path, found = kernel_cache() / "tuned.json", {}
    try:
        by_gpu = json.loads(path.read_text()).get(triton.__version__, {})
        for key, (held, warps, stages) in by_gpu.get(torch.cuda.get_device_name(), {}).items():
            kind, dk, dv = key.split()
            found[kind, int(dk), int(dv)] = int(held), int(warps), int(stages)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        warnings.warn(f"{path} is not used, since it cannot be read: {error}", stacklevel=2)
        return {}
    return found
''',
    "generation": '''
@functools.cache
def generation() -> int:
    """Of the GPU: 8 Ampere, 9 Hopper, 10 Blackwell; 0 without one."""
    return torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0
''',
    "sizes_of": '''
def sizes_of(kind: str, dk: int, dv: int, tokens: int, dtype: torch.dtype) -> dict[str, int]:
    """How a kernel of a kind runs at a size."""
    held, warps, stages = configured(kind_of(kind, dtype), dk, dv)
    C, BK, BV = chunk_of(dk, dv, tokens, dtype), width(dk, 256), width(dv, held)
    sizes = dict(DK=dk, DV=dv, BK=BK, BV=BV, BD=width(dk, held), C=C)
    return sizes | dict(num_warps=warps, num_stages=stages)
''',
    "kind_of": '''
def kind_of(kind: str, dtype: torch.dtype) -> str:
    """The kind of a kernel for keys of a dtype, which can be one of their own."""
    own = f"{kind}_{str(dtype).removeprefix('torch.')}"
    return own if own in CONFIG else kind
''',
    "scan_sizes": '''
def scan_sizes(kind: str, dk: int, dv: int, tokens: int, dtype: torch.dtype) -> dict[str, int]:
    """As `sizes_of`, of a scan or a step. A state is held in parts of the channels of its keys:
    with all of them, products take too many registers. Of those, kernels in float32 or of more than
    128 channels may have all: the assembler would rather spill some and run more at once."""
    sizes = sizes_of(kind, dk, dv, tokens, dtype)
    most = dict(maxnreg=255) if dtype == torch.float32 or max(dk, dv) > 128 else {}
    return sizes | dict(BD=min(sizes["BK"], 64), PARTS=blocks_of(dk, 64)) | most
''',
    "chunk_sizes": '''
def chunk_sizes(kind: str, dk: int, dv: int, tokens: int, dtype: torch.dtype) -> dict[str, int]:
    """As `scan_sizes`, of a kernel of one chunk: in half precision 128 channels are one part."""
    sizes = scan_sizes(kind, dk, dv, tokens, dtype)
    whole = dtype != torch.float32 and sizes["BK"] <= 128
    return sizes | dict(BD=sizes["BK"], PARTS=1) if whole else sizes
''',
    "arithmetic": '''
def arithmetic(dtype: torch.dtype) -> dict:
    """How a kernel multiplies: float32 as torch does; beside bfloat16 float32 is tf32."""
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    dot = tl.float32 if INTERPRETED else getattr(tl, str(dtype).removeprefix("torch."))
    return dict(DOT=dot, PRECISION="tf32x3" if exact else "tf32")
''',
    "options": '''
@functools.cache
def options(function) -> frozenset[str]:
    """What a launch of a kernel can say by name."""
    names = inspect.signature(function).parameters
    return frozenset((*names, "num_warps", "num_stages", "maxnreg"))
''',
    "launch": '''
def launch(kernel, grid: tuple[int, ...], args: list, dtype: torch.dtype, **sizes) -> None:
    """Runs a kernel whose products are of operands of a dtype."""
    sizes |= arithmetic(dtype)
    names = options(kernel.fn)  # a kernel's own hash is slow
    known = {n: x for n, x in sizes.items() if n in names}
    device = args[0].get_device()
    if device < 0 or device == torch.cuda.current_device():
        kernel[grid](*args, **known)
        return
    with torch.cuda.device_of(args[0]):
        kernel[grid](*args, **known)
''',
    "leading": '''
def leading(*shapes: torch.Size) -> torch.Size:
    """What flows have in front in common."""
    alike = all(x == shapes[0] for x in shapes)
    return shapes[0] if alike else torch.broadcast_shapes(*shapes)
''',
    "unfitted": '''
def unfitted(lead: torch.Size, *flows: Tensor) -> tuple[Tensor, ...]:
    """What kernels return, with that in front again<cut:; of packed sequences there are more states>."""
    if len(lead) == 2:
        return flows
    lead = (-1, *lead[1:]) if lead else ()
    return tuple(x.reshape(*lead, *x.shape[2:]) for x in flows)
''',
    "fitted": '''
def fitted(lead: torch.Size, behind: int, *flows: Tensor) -> list[Tensor]:
    """Flows with what is in front of their last axes as two axes, sequences and heads."""
    lead = (1,) * (2 - len(lead)) + tuple(lead)
    flows = [
        x if x.shape[:-behind] == lead else x.expand(*lead, *x.shape[x.ndim - behind :])
        for x in flows
    ]
    return flows if len(lead) == 2 else [x.reshape(-1, *x.shape[len(lead) - 1 :]) for x in flows]
''',
    "shared": '''
def shared(dtype: torch.dtype, lead: torch.Size, x: Tensor) -> Tensor:
    """Rows [X, groups, T, n] that heads share, ``lead`` in front of those of each head."""
    return rows_of(dtype, fitted((*lead[:-1], x.shape[-3]), 2, x)[0])
''',
    "together": '''
def together(slopes: Tensor, x: Tensor) -> Tensor:
    """The slopes of all heads [X, H, T, n] by rows [X, groups, T, n] that they share."""
    return slopes.unflatten(1, (x.shape[1], -1)).sum(2)
''',
    "rows_of": '''
def rows_of(dtype: torch.dtype, x: Tensor) -> Tensor:
    """Rows [X, H, T, n] in a dtype, the channels of each side by side."""
    x = x.to(dtype)
    return x if x.stride(-1) == 1 else x.contiguous()
''',
    "as_numbers": '''
def as_numbers(x: Tensor) -> Tensor:
    """Numbers [X, H, T], tokens before heads in memory, as modules have them."""
    sizes, wanted = x.shape, (x.shape[1] * x.shape[2], 1, x.shape[1])
    alike = all(n == 1 or a == b for n, a, b in zip(sizes, x.stride(), wanted, strict=True))
    return x if alike else x.transpose(1, 2).contiguous().transpose(1, 2)
''',
    "tokens_first": '''
def tokens_first(x: Tensor, n: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Room for rows [X, H, T, n] like x, tokens before heads in memory: as modules want them."""
    X, H, T, channels = x.shape
    return x.new_empty(X, T, H, n or channels, dtype=dtype).transpose(1, 2)
''',
    "rows_like": '''
def rows_like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for the slopes of rows, which are added to others that lie as the rows do."""
    return x.new_empty(x.shape, dtype=dtype) if x.is_contiguous() else tokens_first(x, dtype=dtype)
''',
    "state_of": '''
def state_of(x: Tensor, *size: int) -> Tensor:
    """A state [..., *size] in float32; ValueError where it is another size: kernels do not look."""
    if x.shape[-len(size) :] != size:
        wanted = ", ".join(map(str, size))
        raise ValueError(f"the state must be [..., {wanted}], not {list(x.shape)}")
    return x.float()
''',
    "wider": '''
def wider(dtype: torch.dtype) -> torch.dtype:
    """What slopes are kept in: the range of float16 is too small for them."""
    return torch.bfloat16 if dtype == torch.float16 else dtype
''',
    "in_a_row": '''
def in_a_row(starts: Tensor) -> Tensor:
    """States [X, H, chunks, ...] that lie one behind the other."""
    _, H, chunks, m, n = starts.shape
    regular = starts.stride()[:3] == (H * chunks * m * n, chunks * m * n, m * n)
    return starts if regular else starts.contiguous()
''',
    "inverses": '''
def inverses(u: Tensor, <cut:packing: Tensor | None, >chunks: int, C: int) -> Tensor:
    """Room for inverses of chunks of u; that of a single token is 1 and is not kept."""
    C = 0 if u.shape[2] == 1<cut: and packing is None> else C
    return u.new_empty(*u.shape[:2], chunks, C, C)
''',
    "all_inverses": '''
def all_inverses(inverse: Tensor, C: int) -> Tensor:
    """Inverses of chunks of C tokens, also those that were not kept."""
    if inverse.shape[-1]:
        return inverse
    one = torch.eye(C, dtype=inverse.dtype, device=inverse.device)
    return one.expand(*inverse.shape[:3], C, C).contiguous()
''',
    "supported": '''
def supported(x: Tensor) -> torch.dtype:
    """The dtype of products with keys x; an error for what the kernels do not take."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"the kernels take float32, bfloat16 and float16, not {x.dtype}")
    on_gpu(x)
    if x.shape[-1] > 256:
        raise ValueError(f"the kernels take keys of 256 channels at most, not {x.shape[-1]}")
    return x.dtype
''',
    "on_gpu": '''
def on_gpu(x: Tensor) -> None:
    """TypeError for a tensor elsewhere."""
    if not (x.is_cuda or INTERPRETED):
        raise TypeError(f"the kernels need a GPU, not {x.device}; the backend `torch` does not")
''',
    "keys_fit": '''
def keys_fit(module: nn.Module, level: str, channels: int) -> None:
    """ValueError for keys that are too long for kernels."""
    if channels > 256:
        said = f"the kernels of {level} take keys of 256 channels at most, not {channels}"
        raise ValueError(f"{said}; the backend `torch` takes any ({declared(module, level)})")
''',
    "VERDICTS": """
VERDICTS: dict[tuple, str] = {}  # of what was checked: "" if right, else what is wrong
""",
    "cached": '''
def cached(key: str, verdict: str | None = None) -> str | None:
    """What was found of an operator in another process, None if nothing; or keeps a verdict."""
    path = kernel_cache() / hashlib.sha256(key.encode()).hexdigest()
    try:
        if verdict is None:
            return path.read_text() if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(f".{os.getpid()}")
        written.write_text(verdict)
        written.replace(path)
    except OSError as error:  # then the next process finds out again
        warnings.warn(f"verdicts on kernels are not kept: {error}", stacklevel=2)
    return verdict
''',
    "checked": '''
def checked(  #? cut
    operator, meaning, k: Tensor, dv: int, tokens: int, packed: bool, /, **axes: str | float  #? cut
) -> None:  #? cut
def checked(operator, meaning, k: Tensor, dv: int, tokens: int, /, **axes: str | float) -> None:  #? !cut
    """Before an operator first runs with this Triton, on this GPU, at these sizes: is it right?

    It and its slopes are compared with ``meaning``, in float64. RuntimeError where they differ:
    some versions of Triton compile right kernels to wrong code. What was tuned for these sizes is
    dropped if it is wrong, or does not run. ``axes`` are those of inputs, or how long an axis is,
    or a number that is given.
    """
    if INTERPRETED:
        return
    alone = tokens == 1<cut: and not packed>
    dk, C = k.shape[-1], 1 if alone else chunk_of(k.shape[-1], dv, tokens, k.dtype)
    precision = torch.get_float32_matmul_precision()
    case = meaning, k.dtype, k.device, dk, dv, C, precision, <cut:packed, >*axes.values()
    if VERDICTS.get(case) == "":
        return
    gpu, configs = torch.cuda.get_device_name(k.device), {n: configured(n, dk, dv) for n in CONFIG}
    file = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    key = f"{file} {operator} {triton.__version__} {gpu} {case[1:]} {configs}"
    mine = [x for x in tuned() if x[1:] == (dk, dv)]
    if case not in VERDICTS:
        VERDICTS[case] = ""  # the trial runs the operator, too
        if (found := cached(key)) is None:
            with ThreadPoolExecutor(1) as thread:  # inside an operator autograd is off
                trial = thread.submit(differs, operator, meaning, k, dv, C<cut:, packed>, **axes)
                error = trial.exception()
            if error is None:
                found = cached(key, trial.result())
            elif mine:
                found = f"the kernels of {operator} do not run: {error}"
            else:
                del VERDICTS[case]
                raise error
        VERDICTS[case] = found
    if VERDICTS[case] and mine:
        said = f"what was tuned for dk = {dk} and dv = {dv} is not used: {VERDICTS[case]}"
        warnings.warn(said, stacklevel=2)
        for x in mine:
            tuned().pop(x, None)
        del VERDICTS[case]
        checked(operator, meaning, k, dv, tokens<cut:, packed>, **axes)
    elif VERDICTS[case]:
        raise RuntimeError(
            f"{VERDICTS[case]} with Triton {triton.__version__} on {gpu}; take another version, "
            "or compile with the backend `torch`"
        )


def part_of(x: Tensor, axes: str, n: int, ends: list[int], C: int) -> Tensor:  #? cut
    """Of an input with some axes behind its heads, what the n-th of packed sequences has."""  #? cut
    if axes in ("sequence", "heads"):  #? cut
        return x[n : n + 1] if axes == "sequence" else x  #? cut
    first, size = ends[n], ends[n + 1] - ends[n]  #? cut
    axes = axes.split()  #? cut
    if "T" in axes:  #? cut
        return x.narrow(2 + axes.index("T"), first, size)  #? cut
    first = sum(blocks_of(b - a, C) for a, b in zip(ends[:n], ends[1:], strict=False))  #? cut
    size = blocks_of(size, C)  #? cut
    if "all" in axes:  #? cut
        return x.unflatten(0, (16, -1)).narrow(1, first, size).flatten(0, 1)  #? cut
    return x.narrow(2, first, size)  #? cut
  #? cut
  #? cut
def differs(  #? cut
    operator, meaning, k: Tensor, dv: int, chunk: int, packed: bool = False, /, **axes: str | float  #? cut
) -> str:  #? cut
def differs(operator, meaning, k: Tensor, dv: int, chunk: int, /, **axes: str | float) -> str:  #? !cut
    """What is wrong with an operator or its slopes at random inputs, of two sequences where they  #? cut
    are packed; "" if nothing is."""  #? cut
    """What is wrong with an operator or its slopes at random inputs; "" if nothing is."""  #? !cut
    dtype, device, dk = k.dtype, k.device, k.shape[-1]
    noise = torch.Generator(device).manual_seed(0)
    C = axes.get("C", chunk)
    T, chunks = (min(C, chunk), 1) if C <= 16 else (2 * C + 16, 3)
    ends, packing = [0, T], None  #? cut
    if packed:  #? cut
        ends = [0, C + 16 if T > C else 5, T]  #? cut
        packing = Packing(torch.tensor(ends, device=device), T).of(C)  #? cut
        chunks = chunks_of(packing, T, C)  #? cut
    size = {"dk": dk, "dv": dv, "T": T, "chunks": chunks, "all": 16 * chunks} | axes
    names = dict(S="dv dk", k="T dk", p="T dk", q="T dk", u="T dv", rows="T dv", b="T", log_a="T")
    names |= dict(w="T", starts="chunks dv dk", v="T dv") | axes
    inputs, of = [], []  #? cut
    inputs = []  #? !cut
    parameters = [*inspect.signature(meaning).parameters]
    last = {"C": chunk} if parameters[-1] == "C" else {}
    for name in parameters[: len(parameters) - len(last)]:
        if not isinstance(names.get(name), str):  # 0: which of the states
            inputs.append(axes.get(name, 1e-6 if name == "eps" else 0))
            continue
        each, alone = names[name].removeprefix("each "), names[name] == "heads"
        shape = [] if alone else [size[axis] for axis in each.split()]
        grouped = name in ("k", "p", "q") and each == names[name]
        heads = axes.get("groups", 16) if grouped else 16
        sequences = len(ends) - 1 if name in ("S", "X") else 1  #? cut
        shape = shape if "all" in each else [<cut:sequences><!cut:1>, heads, *shape][alone:]
        of.append("sequence" if name in ("S", "X") else each)  #? cut
        x = torch.randn(shape, generator=noise, device=device)
        if name in ("k", "p", "q"):
            x = F.normalize(x, dim=-1)
        elif name in ("b", "w") or name.startswith(("raw", "head")):
            x = x.sigmoid()
        elif name == "log_a":
            x = F.logsigmoid(x + 3)
        elif name == "kept":
            x = (x / 2).tril()
        given = name.startswith(("raw", "head"))
        full = given or name in ("S", "X", "b", "log_a", "w", "kept", "begun")
        x = as_numbers(x) if name.startswith("raw") else x
        inputs.append((x if full else x.to(dtype)).requires_grad_())
    with torch.enable_grad():
        more = [*inspect.signature(operator.function).parameters][len(inputs) :]
        found = operator(*inputs, *(packing if n == "packing" else None for n in more))  #? cut
        found = operator(*inputs, *[None] * len(more))  #? !cut
        given = [x for x in inputs if isinstance(x, Tensor)]
        wide = [x.detach().double().requires_grad_() for x in given]
        each = []  #? cut
        for n in range(len(ends) - 1):  #? cut
            parts = [part_of(x, axes, n, ends, C) for x, axes in zip(wide, of, strict=True)]  #? cut
            each.append(meaning(*parts, *inputs[len(given) :], **last))  #? cut
        found = (found,) if isinstance(found, Tensor) else found[: len(each[0])]  #? cut
        axis = [0 if len(x) > 1 else 2 for x in found]  # of sequences, or of tokens and chunks  #? cut
        expected = [torch.cat(x, n) for x, n in zip(zip(*each, strict=True), axis, strict=True)]  #? cut
        # behind the chunks that there are is room for others  #? cut
        found = [x[:, :, : y.shape[2]] for x, y in zip(found, expected, strict=True)]  #? cut
        expected = meaning(*wide, *inputs[len(given) :], **last)  #? !cut
        found = (found,) if isinstance(found, Tensor) else found[: len(expected)]  #? !cut
        worth = [torch.randn(x.shape, generator=noise, device=device) for x in expected]
        narrow = [w.to(x.dtype) for w, x in zip(worth, found, strict=True)]
        worth = [w.double() for w in worth]
        slopes = exact = []
        if operator.slope is not None:
            slopes = torch.autograd.grad(found, given, narrow)
            exact = torch.autograd.grad(expected, wide, worth, materialize_grads=True)
    # a slope of a chunk that does not exist can be anything: it goes nowhere  #? cut
    there = sum(blocks_of(b - a, C) for a, b in zip(ends[:-1], ends[1:], strict=True))  #? cut
    chunked = [axes.startswith("chunks") for axes in of[: len(slopes)]]  #? cut
    slopes, exact = (  #? cut
        [x[:, :, :there] if c else x for x, c in zip(xs, chunked, strict=True)]  #? cut
        for xs in (slopes, exact)  #? cut
    )  #? cut
    most = 3e-3 if dtype == torch.float32 else 3e-2
    for x, y in zip((*found, *slopes), (*expected, *exact), strict=True):
        if not (x.double() - y).norm() <= most * y.norm():
            return f"the kernels of {operator} are wrong"
    return ""
''',
}
