"""What launches the kernels: operators that autograd and ``torch.compile`` know, called as the chunk algebra is."""

from __future__ import annotations

from dataclasses import dataclass, field

from nlc.backends.triton.forms import KernelForm
from nlc.backends.triton.gates import meant
from nlc.backends.triton.lines import packed, shortened
from nlc.backends.writer import WIDTH, listed, select, wrap
from nlc.ir.gates import Gates


@dataclass
class Text:
    """Lines of a function under an operator's name, as its flags select them."""

    name: str
    flags: dict[str, bool]
    raw: Gates | None = None
    parts: list[str] = field(default_factory=list)
    sized: list[str] = field(default_factory=list)  # sizes and grid of the last launch

    def __call__(self, source: str) -> None:
        if chosen := select(source.replace("NAME", self.name), **self.flags):
            self.parts.append("\n".join(shortened(x) for x in chosen.split("\n")))

    def call(self, start: str, args: list[str], end: str, depth: int = 1) -> None:
        """A call or a signature, on as few lines as it needs."""
        start = start.replace("NAME", self.name)
        self.parts.append(packed(start, args, end, depth))

    def check(self, depth: int = 1, packed: str = "packing is not None") -> None:
        """The operator is compared with its meaning before its first launch."""
        given = [f"{self.name}_forward", f"{self.name}_meaning", "k", "dv", "T"]
        given += [packed] * self.flags["cut"]
        given += ["groups=4"] if self.flags.get("grouped") else []
        if self.raw:
            given += [f'{n}="{"heads" if n.startswith("head") else "T"}"' for n in self.raw.tensors]
            given += [f"{n}={n}" for n in self.raw.fixed]
        self.call("checked(", given, ")", depth)

    def raw_flows(self, lead: str) -> None:
        """What gates are made of as kernels take it."""
        raw, heads = (self.raw.kind(x) for x in ("raw", "head")) if self.raw else ([], [])
        if raw:
            left = ", ".join(raw) if len(raw) > 1 else f"({raw[0]},)"
            self.call(f"{left} = (as_numbers(x) for x in fitted(", [lead, "1", *raw], "))")
        for n in heads:
            self(f"    {n} = {n}.float().expand({lead}[-1]).contiguous()")

    def meant(self, like: str) -> None:
        """The gates of what they are made of, in the meaning of an operator."""
        for line in meant(self.raw, like) if self.raw else []:
            self(f"    {line}")

    def launch(
        self,
        kernel: str,
        kind: str,
        args: list[str],
        dtype: str,
        units: str,
        parted: bool = False,
        depth: int = 1,
        of: str = "",
    ) -> None:
        """Sizes, grid and launch of a kernel, ``of`` another operator than this.

        ``dtype`` is that of its products; its sizes are by that of the keys, which it may have to convert.
        """
        pad = "    " * depth
        function = "scan_sizes" if kind in SCANS else "sizes_of"
        function = "chunk_sizes" if kind in PARTED else function
        blocks = ' * blocks_of(dv, sizes["BV"])' if parted else ""
        sized = [f'{pad}sizes = {function}("{kind}", dk, dv, T, k.dtype)']
        sized.append(f"{pad}grid = ({units}{blocks},)")
        for line in sized if sized != self.sized else []:
            self(line)
        self.sized = sized
        self.call("args = [", args, "]", depth)
        length = ", EPS=eps" if self.flags["unit"] else ""
        length += "".join(f", {n}={n}" for n in (self.raw.fixed if self.raw else []))
        self(f"{pad}launch({of or 'NAME'}_{kernel}, grid, args, {dtype}, **sizes{length})")

    def text(self) -> str:
        return "\n".join(self.parts) + "\n"


SCANS = "scan", "scan_back", "scan_read", "step"  # kinds of kernels that hold a state
PARTED = "solve", "out", "out_back"  # of one chunk, that take channels of keys in parts
CHUNKS = "X * H * starts.shape[2]"


_KINDS = {
    "eps": "float",
    "fixed": "float",
    "packing": "Tensor | None",
    "table": "Tensor | None",
    "within": "Packing | None = None",
}


def told_tokens(f: KernelForm) -> list[str]:
    """Of kernels: T, where that is packed sequences, and H, and how many heads share keys."""
    shared = ["H // k.shape[1]"] if f.grouped else []
    return ['*tokens_of(packing, T, sizes["C"])' if f.cut else "T", "H", *shared]


def typed(names: list[str]) -> list[str]:
    return [f"{n}: {_KINDS.get(n.partition('_')[0], 'Tensor')}" for n in names]


def returns(count: int) -> str:
    return f"tuple[{', '.join(['Tensor'] * count)}]" if count > 1 else "Tensor"


def _solving(f: KernelForm, numbers: list[str]) -> list[str]:
    """Those that scores and their inverses are made of."""
    return f.gates.only("b", "log_a").tensors if f.gates else [x for x in numbers if x != "w"]


def within(f: KernelForm) -> list[str]:
    """What functions that modules call take last."""
    return ["within"] * f.cut


def cuts(f: KernelForm) -> list[str]:
    """What operators of scans take of it."""
    return ["packing", "table"] * f.cut


def states(f: KernelForm) -> str:
    """How many states there are: of packed sequences one for each."""
    return "S.shape[:-2].numel()" if f.cut else "X * H"


def strides_of(*names: str) -> list[str]:
    return [f"*{n}.stride()[:3]" for n in names]


def _given(names: list[str]) -> str:
    return f"({', '.join(names)}{',' * (len(names) == 1)})"


def outputs(f: KernelForm, inverse: str = "inverse") -> list[str]:
    """What the operator of a scan returns."""
    return ["end", *["rows"] * f.rows, "starts", *[inverse] * f.erase]


def scan(f: KernelForm) -> str:
    """The operator of a scan, forward and backward."""
    erase, decay, rate, probe = f.erase, f.kind == "scalar", f.rate, f.probe
    flags = dict(decay=decay, erase=erase, rate=rate, probe=probe, rows=f.rows)
    flags |= dict(unit=f.unit, grouped=f.grouped, raw=f.gates is not None, cut=f.cut, seen=f.seen)
    text = Text(f.scan, flags, f.gates)
    numbers = f.gates.tensors if f.gates else ["b"] * erase + ["log_a"] * decay + ["w"] * rate
    fixed = f.gates.fixed if f.gates else []
    probes = ["p"] * probe
    given = ["S", "k", "u", *numbers, *probes, *fixed, *["eps"] * f.unit]
    made = outputs(f)
    _scan_called(text, f, given, numbers, probes)
    _scan_meaning(text, given)
    _scan_forward(text, f, given, numbers, probes, made)
    _scan_backward(text, f, given, numbers, probes, made)
    return text.text()


def _scan_called(
    text: Text, f: KernelForm, given: list[str], numbers: list[str], probes: list[str]
) -> None:
    """The function that the module calls."""
    text.call("def NAME(", typed([*given, *within(f)]), f") -> {returns(3 if f.seen else 1)}:", 0)
    raw = f.gates.kind("raw") if f.gates else numbers
    each = f", {listed(raw)} [..., T]" if raw else ""
    at = "p" if f.probe else "k"
    keys = "k and p" if f.probe else "k"
    text(f'''\
    """S_t = <decay:a_t >S_{{t-1}} + <erase:(><rate:w_t >u_t<erase: - b_t S_{{t-1}} {at}_t)> k_tᵀ.
''')
    said = f"S is [..., dv, dk], {keys} [..., T, dk], u [..., T, dv]{each}."
    if f.gates:
        gates = [n.replace("_", " ") for n, _ in f.gates.values]
        verbs = ["are" if x[1:] else "is" for x in (f.gates.given, gates)]
        said += f" {listed(f.gates.given)} {verbs[0]} what {listed(gates)} {verbs[1]} made of."
    said += " The rows of k are brought to length one." * f.unit
    said += f" Heads of {keys} may be fewer, each for as many in a row." * f.grouped
    said += " Returns S after the last token"
    said += ", the rows that were written, and S before each chunk." if f.seen else "."
    if f.cut:
        said += " Where sequences are packed within one, S is [N, H, dv, dk], and there is one of those."
    said += " Products are in the dtype of k, sums and S in float32."
    said += " TypeError or ValueError for what the kernels do not take."
    text("\n".join(f"    {line}" for line in wrap(said, WIDTH - 4)))
    text('    """')
    fitted_flows(text, f, numbers, probes)
    text("""\
    packing, C = packed(within, k, u), chunk_of(k.shape[-1], u.shape[-1], k.shape[-2], k.dtype)  #? cut
    first, table = resumed(S, within, C)  #? cut""")
    found = ", ".join(outputs(f, "_")) if f.seen else "end, *_"
    text.call(f"{found} = NAME_forward(", ["first" if f.cut else "S", *given[1:], *cuts(f)], ")")
    text("""\
    end = end if table is None else S  # a second run's end is not asked for  #? cut
    rows = u  #? !rows seen
    if within is not None:  #? cut
        within.keep(starts, C)  #? cut
    return unfitted(lead, end, rows, starts)  #? seen
    return unfitted(lead, end)[0]  #? !seen
""")


def fitted_flows(text: Text, f: KernelForm, numbers: list[str], probes: list[str]) -> None:
    """What comes in as kernels take it; ``probes`` are all that comes as keys do."""
    raw = f.gates.kind("raw") if f.gates else numbers
    text("    dtype = supported(k)")
    fronts = [f"{x}.shape[:-2]" for x in (["u"] if f.grouped else ["k", "u", *probes])]
    fronts = [
        "front(S, 2, within)" if f.cut else "S.shape[:-2]",
        *fronts,
        *(f"{x}.shape[:-1]" for x in raw),
    ]
    text.call("lead = leading(", fronts, ")")
    text("    S = state_of(S, u.shape[-1], k.shape[-1])")
    text("    S = states_for(lead, 2, S, within)  #? cut")
    text("    S = fitted(lead, 2, S)[0].contiguous()  #? !cut")
    flows = ["k", "u", *probes]
    if f.grouped:
        text("    u = rows_of(dtype, fitted(lead, 2, u)[0])")
        if probes:
            keys = ", ".join(["k", *probes])
            text(f"    {keys} = (shared(dtype, lead, x) for x in ({keys}))")
        else:
            text("    k = shared(dtype, lead, k)")
    else:
        args = ["lead", "2", *flows]
        text.call(f"{', '.join(flows)} = (rows_of(dtype, x) for x in fitted(", args, "))")
    text.raw_flows("lead")
    if numbers and not f.gates:
        left = _given(numbers) if len(numbers) == 1 else ", ".join(numbers)
        args = ["lead", "1", *numbers]
        text.call(f"{left} = (x.float().contiguous() for x in fitted(", args, "))")


def _scan_meaning(text: Text, given: list[str]) -> None:
    """The recurrence, which the check of a first launch compares with."""
    returns = "tuple[Tensor, ...]"
    text.call(
        "\ndef NAME_meaning(",
        [*typed(given), *["*", "C: int"] * text.flags["seen"]],
        f") -> {returns}:",
        0,
    )
    at = "p" if text.flags["probe"] else "k"
    text('''\
    """Token by token."""
    k = k.repeat_interleave(u.shape[1] // k.shape[1], 1)  #? grouped
    p = p.repeat_interleave(u.shape[1] // p.shape[1], 1)  #? grouped probe
    k = k * torch.rsqrt(k.square().sum(-1, keepdim=True) + eps)  #? unit
    <rows:rows, >starts = <rows:[], >[]  #? seen''')
    text.meant("u")
    text(f"""\
    for t in range(k.shape[-2]):
        starts += [S] if t % C == 0 else []  #? seen
        row = <rate:w[..., t, None] * >u[..., t, :]
        row = row - b[..., t, None] * (S @ {at}[..., t, :, None]).squeeze(-1)  #? erase
        rows.append(row)  #? rows seen
        S = <decay:log_a[..., t, None, None].exp() * >S + row[..., :, None] * k[..., t, None, :]
    return S, <rows:torch.stack(rows, -2), >torch.stack(starts, -3)  #? seen
    return (S,)  #? !seen

""")


def _scan_forward(
    text: Text,
    f: KernelForm,
    given: list[str],
    numbers: list[str],
    probes: list[str],
    made: list[str],
) -> None:
    erase = f.erase
    text("@Operator")
    text.call("def NAME_forward(", typed([*given, *cuts(f)]), f") -> {returns(len(made))}:", 0)
    said = dict(end="S after the last token", starts="S before each chunk", inverse="inverses")
    text(f'''\
    """{", ".join(said.get(n, n) for n in made)}: [X, H, ...]."""
    (X, H, T, dv), dk = u.shape, k.shape[-1]''')
    text.check()
    text(f"    {', '.join(made)} = out = NAME_shapes(S, k, u<cut:, packing, table>)")
    tokens = told_tokens(f)
    small = ["S", "k", "u", *numbers, *probes, *(n for n in made if n != "inverse"), *tokens[1:]]
    text("    if T == 1<cut: and packing is None>:")
    args = [*small, *[f"*{n}.stride()[:2]" for n in ("k", "u", *probes)]]
    text.launch("step", "step", args, "k.dtype", "X * H", parted=True, depth=2)
    text("        return out")
    if erase:
        args = ["k", *_solving(f, numbers), *probes, "inverse", *tokens]
        text.launch("solve", "solve", [*args, *strides_of("k", *probes)], "k.dtype", CHUNKS)
    args = [
        "S",
        "k",
        "u",
        *numbers,
        *probes,
        *["inverse"] * erase,
        *(n for n in made if n != "inverse"),
    ]
    text.launch(
        "scan",
        "scan",
        [
            *[*args, *tokens[:2], *["*counted(table)"] * f.cut],
            *[*tokens[2:], *strides_of("k", "u", *probes)],
        ],
        "k.dtype",
        states(f),
        True,
    )
    text('''\
    return out


@NAME_forward.register_fake
def NAME_shapes(S, k, u, *<cut:rest><!cut:_>):
    """What the operator returns, but for its values."""
    (X, H, T, dv), dk<cut:, packing> = u.shape, k.shape[-1]<cut:, rest[-2]>
    C = chunk_of(dk, dv, T, k.dtype)
    starts = k.new_empty(X, H, <cut:chunks_of(packing, T, C)><!cut:blocks_of(T, C)>, dv, dk)
    inverse = inverses(u, <cut:packing, >starts.shape[2], C)  #? erase
    rows = k.new_empty(X, H, T, dv)  #? rows
    return torch.empty_like(S), <rows:rows, >starts<erase:, inverse>

''')


def _scan_backward(
    text: Text,
    f: KernelForm,
    given: list[str],
    numbers: list[str],
    probes: list[str],
    made: list[str],
) -> None:
    erase = f.erase
    kept = ["k", "u", *numbers, *probes, *made[1:]]
    grads = ["d_end", *[*["d_rows"] * f.rows, "d_starts"] * f.seen]
    fixed = [*(f.gates.fixed if f.gates else []), *["eps"] * f.unit]
    slopes = [f"d_{n}" for n in given if n not in fixed]
    eps = [*fixed, *["packing"] * f.cut]
    text("@Operator")
    text.call(
        "def NAME_backward(", typed([*kept, *grads, *eps]), f") -> {returns(len(slopes))}:", 0
    )
    call = f"{', '.join(slopes)} = out = NAME_slopes("
    text('''\
    """The slopes by all that goes in, from those of all that comes out."""
    (X, H, T, dv), dk, dtype = u.shape, k.shape[-1], wider(k.dtype)''')
    tokens = told_tokens(f)
    text.call(call, [*kept, "d_end"], ")")
    text("    inverse = all_inverses(inverse, chunk_of(dk, dv, T, k.dtype))  #? erase")
    text("    ends = starts.new_empty(starts.shape, dtype=dtype)")
    text("    worth = u.new_empty(u.shape, dtype=dtype)  # of rows  #? rate")
    worth = "worth" if f.rate else "d_u"
    args = ["k", *_solving(f, numbers), *probes, *["inverse"] * erase, *grads]
    args += ["ends", worth, "d_S", *tokens, *strides_of("k", *probes)]
    text.launch(
        "scan_back", "scan_back", args, "dtype", "d_S.shape[0] * H" if f.cut else "X * H", True
    )
    written = "rows" if f.rows else "u"
    state = erase or f.kind == "scalar"
    keyed = ["k"] * (state or f.unit)
    args = [*keyed, *["u"] * f.rate, *numbers, *probes, written, *["starts"] * state, "ends"]
    args += [*[worth] * f.rows, *["d_u"] * f.rate, "d_k", *(f"d_{n}" for n in (*numbers, *probes))]
    args += [
        *tokens[: None if keyed else 2],
        *strides_of(*keyed, written, *["u"] * f.rate, *probes),
    ]
    text.launch("scan_grads", "grads", args, "dtype", CHUNKS)
    text("""\
    return out


@NAME_backward.register_fake""")
    text.call("def NAME_slopes(", [*kept, "d_end", "*_"], "):", 0)
    text('''\
    """The shapes of the slopes."""
    d_k, dtype = tokens_first(<grouped:u, ><!grouped:k><grouped:k.shape[-1]>), wider(k.dtype)''')
    text("    d_u = u.new_empty(u.shape, dtype=dtype)  # of rows, too  #? erase !rate")
    text("    d_u = tokens_first(u, dtype=dtype)  #? " + ("rate" if f.rate else "!erase"))
    raw, heads = (f.gates.kind(x) for x in ("raw", "head")) if f.gates else ([], [])
    if numbers and not f.gates:
        text(f"    rest = [x.new_empty(x.shape) for x in {_given(numbers)}]")
    if f.gates and not raw:
        text("    rest = []")
    if raw:
        text(f"    rest = [torch.empty_like(x) for x in {_given(raw)}]")
    if heads:  # a sum a chunk
        text(f"    rest += [x.new_empty(starts.shape[:3]) for x in {_given(heads)}]  # by chunks")
    probed = "tokens_first(u, p.shape[-1])" if f.grouped else "tokens_first(p)"
    rest = ["*rest"] * bool(numbers) + [probed] * f.probe
    text(f"    return {', '.join(['torch.empty_like(d_end)', 'd_k', 'd_u', *rest])}")
    back = ""
    if f.grouped:
        back = "    d_k = together(d_k, kept[0])\n"
        back += "    rest[-1] = together(rest[-1], kept[0])\n" * f.probe
    for i, _ in enumerate(heads, len(raw)):
        back += f"    rest[{i}] = rest[{i}].sum((0, 2))\n"
    known = "".join(f", ctx.{n}" for n in fixed)
    made = "d_S, d_k, d_u" + ", *rest" * (len(slopes) > 3)
    text(f"""

def NAME_setup(ctx, inputs, output):
    _, *flows{known}<cut:, packing, _> = inputs
    ctx.save_for_backward(*flows, *output[1:]<cut:, packing>)
    ctx.set_materialize_grads(False)  # of what nothing else reads  #? !seen


def NAME_slope(ctx, {", ".join([*grads, *["_"] * (erase and f.seen), *["*_"] * (not f.seen)])}):
    if d_end is None:  # the state is not part of what is differentiated  #? !seen
        return (None,) * len(ctx.needs_input_grad)  #? !seen
    <cut:*>kept<cut:, packing> = ctx.saved_tensors
    grads = ({", ".join(f"{g}.contiguous()" for g in grads)})  #? seen
    {made} = NAME_backward(*kept, <seen:*grads><!seen:d_end.contiguous()>{known}<cut:, packing>)
{back}    return {made.replace("d_u", "d_u.to(d_k.dtype)")}{", None" * len(fixed)}<cut:, None, None>

""")
    text("NAME_forward.register_autograd(NAME_slope, NAME_setup)")
