"""Sequences packed in one: where chunks of them are, as kernels read it, and which systems run so.

Kernels have a chunk for each of a table that is computed on the device, so the CPU never waits for where sequences
end. What looks back a few tokens is in `windows.py`. All other systems run sequences of one length as a batch
(`streams`).
"""

from __future__ import annotations

from nlc.ir.expr import walk
from nlc.ir.program import Let, Parallel, Program, Return
from nlc.ir.scan import Scan


def unpackable(program: Program) -> str | None:
    """Why a system's packed sequences do not run as one, None if they do: all that its stream carries is states of
    scans that are kernels, and what looks a few tokens back or counts them."""
    held = {s.kind: s for s in reversed(program.slots)}
    if "cache" in held:
        return f"`{held['cache'].key}` has as many rows as its sequence has tokens"
    loops = [x for x in program.loops()]
    if tiles := [x for x in loops if x.periods]:
        return f"something changes every {tiles[0].periods[0]} tokens of a sequence"
    if loops:
        return "it takes one token after the other"
    if other := {*held} - {"level", "window", "prev", "tick"}:
        return f"`{held[min(other)].key}` is carried from token to token"
    states = {s.var: s.key for s in program.slots if s.kind == "level"}
    if not held:
        return "nothing goes from token to token"
    parallels = [x for x in program.body if isinstance(x, Parallel)]
    body = [x for p in parallels for x in (*p.first, *p.body)]
    scans = [x for x in body if isinstance(x, Scan)]
    spread = {x.names[0] for x in body if isinstance(x, Let) and x.expr.op == "spread"}
    for s in scans:
        if not s.read:
            return f"nothing reads `{states.get(s.name, s.name)}` from token to token"
        entering = (n for e in s.record.parts for n in walk(e) if n.op == "var")
        if all(str(n.attr) in spread for n in entering):
            return f"nothing of a token enters `{states.get(s.name, s.name)}`"
    exprs = [x.expr for x in (*program.body, *body) if isinstance(x, Let)]
    exprs += [e for s in scans for e in s.record.parts]
    exprs += [e for x in program.body if isinstance(x, Return) for e in x.outputs.values()]
    read = {str(n.attr) for e in exprs for n in walk(e) if n.op == "var"}
    for var, key in states.items():
        if var in read or not any(var in s.record.states for s in scans):
            return f"`{key}` is read as a whole"
    return None


TEXTS: dict[str, str] = {
    "span": '''
@triton.jit
def span(chunk, packing, T, C: tl.constexpr):
    """The first token of a chunk, and that behind its sequence."""
    start, stop = chunk * C, T
    if packing is not None:
        start, stop = tl.load(packing + 2 * chunk), tl.load(packing + 2 * chunk + 1)
    return start, stop
''',
    "piece": '''
@triton.jit
def piece(m, packing, T, N, C: tl.constexpr):
    """The head that a chunk is of, its first token, and that behind its sequence."""
    chunks = tl.cdiv(T, C) + N
    start, stop = span(m % chunks, packing, T, C)
    return m // chunks, start, stop
''',
    "sequence": '''
@triton.jit
def sequence(n, packing, T, N, H, C: tl.constexpr):
    """Of a state: the head that its flows are of, its first chunk, and that behind its last."""
    first, last = 0, tl.cdiv(T, C)
    if packing is not None:
        at = packing + 2 * (tl.cdiv(T, C) + N + n // H)
        n, first, last = n % H, tl.load(at), tl.load(at + 2)
    return n, first, last
''',
    "stretch": '''
@triton.jit
def stretch(n, packing, table, count, T, N, H, C: tl.constexpr):
    """As `sequence`, of a state that a scan begins with; with a table, `count` for each head."""
    if table is None:
        n, first, last = sequence(n, packing, T, N, H, C)
    else:
        first, last = tl.load(table + n % count), tl.load(table + n % count + 1)
        n = n // count
    return n, first, last
''',
    "keep": '''
@triton.jit
def keep(
    resume, places, count, n, chunk, h, d, v,
    DK: tl.constexpr, DV: tl.constexpr, PARTS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Sets the state before a chunk, in parts, if it is one that stays; ``places`` has its number.

    That is no branch but a mask, for a loop with branches is not run ahead.
    """
    if resume is not None:
        place = tl.load(places + chunk)
        own = tl.where(place < 0, DV, v)
        resume += (n * count + tl.maximum(place, 0)) * DK * DV
        for j in tl.static_range(PARTS):
            put_block(resume + j * BD, h[j], d, own, DK, 1, DK - j * BD, DV)
''',
    "Packing": '''
class Packing:
    """Sequences packed in one of T tokens, cut at cuts [N + 1]: where chunks of them are; and what
    scans keep where the backward pass runs them anew, a state for ``every`` so many tokens.

    It is computed on the device, and nothing waits for it: there is room for as many chunks as
    there can be, and those that there are not have no tokens.
    """

    def __init__(self, cuts: Tensor | None, tokens: int, every: int = 0):
        if cuts is not None:  # cut to what is there, or a kernel reads elsewhere
            cuts = cuts.to(torch.int32).clamp(0, tokens).cummax(0).values
        self.cuts, self.tokens, self.every = cuts, tokens, every
        self.found, self.tables, self.begun, self.kept, self.left = {}, {}, {}, [], None
        self.near = {}  #? windowed

    def again(self) -> None:
        """Before scans run: with what they kept when they did so before, if they did."""
        self.left = iter(self.kept) if self.kept else None

    def keep(self, starts: Tensor, C: int) -> None:
        """Of states before each chunk those that stay."""
        if self.first():
            self.kept.append(kept_of(starts.detach(), self.table(C, starts.device)))

    def first(self) -> bool:
        """Whether what runs is what the backward pass runs anew."""
        return self.every > 0 and self.left is None

    def places(self, C: int, device: torch.device) -> Tensor:
        """Of each chunk which stretch it begins, -1 if none."""
        if C not in self.begun:
            table = self.table(C, device)[:-1].long()
            room = -(-self.tokens // C) + (0 if self.cuts is None else len(self.cuts)) + 1
            one = torch.arange(len(table), dtype=torch.int32, device=device)
            none = torch.full((room,), -1, dtype=torch.int32, device=device)
            self.begun[C] = none.index_copy_(0, table, one)
        return self.begun[C]

    def table(self, C: int, device: torch.device) -> Tensor:
        """[count + 1]: the first chunk of each stretch between states that are kept, and that
        behind the last."""
        if C not in self.tables:
            m, chunks = max(1, self.every // C), -(-self.tokens // C)
            if self.cuts is None:
                table = torch.arange(0, chunks + m, m, dtype=torch.int32, device=device)
                self.tables[C] = table.clamp(max=chunks)
            else:
                N = len(self.cuts) - 1
                firsts = self.of(C)[chunks + N :, 0].contiguous()
                ends = F.pad((-(-firsts.diff() // m)).cumsum(0, dtype=torch.int32), (1, 0))
                one = torch.arange((chunks + N) // m + N + 1, dtype=torch.int32, device=device)
                own = (torch.searchsorted(ends, one, right=True) - 1).clamp(max=N - 1)
                table = firsts[own] + (one - ends[own]) * m
                self.tables[C] = torch.where(one < ends[-1], table, firsts[-1]).to(torch.int32)
        return self.tables[C]

    def of(self, C: int) -> Tensor | None:
        """[chunks + N + 1, 2]: of chunks the first token, and that behind its sequence; then of
        sequences the first chunk and token. None where there is but one."""
        if self.cuts is None:
            return None
        if C not in self.found:
            cuts, N = self.cuts, len(self.cuts) - 1
            firsts = F.pad((-(-cuts.diff() // C)).cumsum(0, dtype=torch.int32), (1, 0))
            chunk = torch.arange(-(-self.tokens // C) + N, dtype=torch.int32, device=cuts.device)
            own = (torch.searchsorted(firsts, chunk, right=True) - 1).clamp(max=N - 1)
            pieces = cuts[own] + (chunk - firsts[own]) * C, cuts[own + 1]
            ends = torch.stack([firsts, cuts], -1)
            self.found[C] = torch.cat([torch.stack(pieces, -1), ends]).contiguous()
        return self.found[C]
''',
    "packed": '''
def packed(within: Packing | None, k: Tensor, u: Tensor) -> Tensor | None:
    """Where chunks of keys k and values u are, if sequences are packed."""
    return within and within.of(chunk_of(k.shape[-1], u.shape[-1], k.shape[-2], k.dtype))
''',
    "cut": '''
def cut(within: Packing | None) -> bool:
    """Whether sequences are packed in one."""
    return within is not None and within.cuts is not None
''',
    "resumed": '''
def resumed(S: Tensor, within: Packing | None, C: int) -> tuple[Tensor, Tensor | None]:
    """What a scan begins with: S, or the states that it kept when it ran before, and where."""
    if within is None or within.left is None:
        return S, None
    return next(within.left).float(), within.table(C, S.device)
''',
    "kept_of": '''
def kept_of(starts: Tensor, table: Tensor | None) -> Tensor:
    """Of states before each chunk those before stretches of a table."""
    if table is None:
        return starts.new_empty(0)
    return starts.index_select(2, table[:-1].clamp(max=starts.shape[2] - 1))
''',
    "stretches": '''
def stretches(within: Packing | None, k: Tensor, u: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Where stretches begin whose states are kept, if any are, and which of them chunks begin."""
    if within is None or not within.first():
        return None, None
    C = chunk_of(k.shape[-1], u.shape[-1], k.shape[-2], k.dtype)
    return within.table(C, k.device), within.places(C, k.device)
''',
    "Finished": '''
class Finished(torch.autograd.Function):
    """A call of an operator whose output another kernel has computed, with the operator's slopes.

    So the backward pass of a checkpoint finds what it keeps when it calls the operator itself.
    """

    @staticmethod
    def forward(ctx, operator, output, *inputs):
        ctx.slopes, setup = operator.slopes
        output = output if output[1:] else output[0]
        setup(ctx, inputs, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        return None, None, *ctx.slopes(ctx, *grads)
''',
    "unwritten": '''
def unwritten(shapes, *inputs: Tensor | None) -> list[Tensor]:
    """What an operator would return, by its ``shapes``, without memory or values."""
    device = inputs[0].device
    like = shapes(*(x if x is None else torch.empty_like(x, device="meta") for x in inputs))
    return [torch.empty((), dtype=x.dtype, device=device).expand(x.shape) for x in like]
''',
    "counted": '''
def counted(table: Tensor | None) -> tuple[Tensor | None, int]:
    """A table of stretches, and how many there are."""
    return table, 0 if table is None else len(table) - 1
''',
    "tokens_of": '''
def tokens_of(packing: Tensor | None, T: int, C: int) -> tuple[Tensor | None, int, int]:
    """What kernels are told of tokens; last how many sequences are packed in one, 0 if none."""
    return packing, T, 0 if packing is None else (len(packing) - blocks_of(T, C)) // 2
''',
    "chunks_of": '''
def chunks_of(packing: Tensor | None, T: int, C: int) -> int:
    """How many chunks there can be."""
    return blocks_of(T, C) + tokens_of(packing, T, C)[2]
''',
    "front": '''
def front(S: Tensor, behind: int, within: Packing | None) -> torch.Size:
    """What states have in front in common with flows: where sequences are packed, heads alone."""
    return S.shape[cut(within) : -behind]
''',
    "states_for": '''
def states_for(lead: torch.Size, behind: int, S: Tensor, within: Packing | None) -> Tensor:
    """States [X, H, ...] for flows that have lead in front; of packed sequences one for each."""
    if cut(within):
        S = S if lead[1:] else S.unsqueeze(1)
        lead = (S.shape[0], *(lead[1:] or (1,)))
    return fitted(lead, behind, S)[0].contiguous()
''',
    "packed_streams": '''
def packed_streams(module: nn.Module, cu_seqlens: Tensor | None, states, *flows: Tensor) -> tuple:
    """As `streams`, but that kernels read where packed sequences are cut: nothing waits; and that
    ``checkpoint`` runs all at once, from the states that scans keep.

    Cuts that are there already are not looked at, nor those of a graph that is compiled; those on
    the CPU are, as those of `streams`.
    """
    tokens, every = flows[0].shape[1], torch.is_grad_enabled() and module.checkpoint or 0
    plain = module.truncate or module.error_if_nonfinite
    if plain or (cu_seqlens is None and not every):
        return streams(module, cu_seqlens, states, *flows)
    if cu_seqlens is None:
        state = started(module, states, flows[0])
        return at_once(module, state, Packing(None, tokens, every), *flows)
    cuts, x = torch.as_tensor(cu_seqlens), flows[0]
    N = len(cuts) - 1 if cuts.ndim == 1 else 0
    ends = [0, tokens] if cuts.is_cuda or torch.compiler.is_compiling() else cuts.tolist()
    sound = N > 0 and len(x) == 1 and [ends[0], ends[-1]] == [0, tokens]
    count = N if states is None else -1 if isinstance(states, dict) else len(states)
    if not sound or count != N or any(a > b for a, b in zip(ends, ends[1:], strict=False)):
        return streams(module, cu_seqlens, states, *flows)  # which says what is wrong
    if states is None:
        state = module.initial_state(x.expand(N, *x.shape[1:]))
        state = {key: v if v.ndim else v.expand(N) for key, v in state.items()}  #? placed
    else:
        given = [started(module, s or None, x) for s in states]
        state = {key: torch.cat([s[key] for s in given]) for key in given[0]}  #? !placed
        each = {key: [s[key] for s in given] for key in given[0]}  #? placed
        state = {k: torch.cat(v) if v[0].ndim else torch.stack(v) for k, v in each.items()}  #? placed
    within = Packing(cuts.to(x.device, non_blocking=True), tokens, every)
    outputs, state = at_once(module, state, within, *flows)
    parts = zip(*(v.split(1) for v in state.values()), strict=True)  #? !placed
    each = (v.split(1) if v.is_floating_point() else v.unbind() for v in state.values())  #? placed
    parts = zip(*each, strict=True)  #? placed
    return outputs, [dict(zip(state, each, strict=True)) for each in parts]


def at_once(module: nn.Module, state: dict, within: Packing, *flows: Tensor) -> tuple:
    """``module.piece``, which the backward pass computes anew where states are kept for that.

    A compiled graph computes anew what it computed, from the beginning, and keeps no states.
    """

    def piece(state: dict, *flows: Tensor) -> tuple:
        if within.every and torch.compiler.is_compiling():  # what is kept outside must not change
            own = Packing(within.cuts, within.tokens)
        else:
            own = within
            own.again()
        return module.piece(state, *flows, within=own)

    if not within.every:
        return piece(state, *flows)
    return checkpoint(piece, state, *flows, use_reentrant=False, preserve_rng_state=False)
''',
}
