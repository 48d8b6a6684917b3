"""What of each row and each state is in coupled states at each token of a chunk: an operator of a kernel each way.

It is made once for all scans and reads that share gates, of what the gates are made of. A program has a chunk and goes
from token to token, with a lane for each token at which something was written:

    v_t[s, j] = Σ_m a_t[s, m] v_{t−1}[m, j], and w_t[s, j] in the lane of t;        b_t[s, l] = Σ_m a_t[s, m] b_{t−1}[m, l]

so that nothing is divided by, and a decay may be 0 or have a sign. Back it goes with g and e, the slopes by v and b.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count

from nlc.backends.triton.forms import told
from nlc.backends.triton.gates import meant_together, together
from nlc.backends.triton.lines import packed
from nlc.backends.writer import WIDTH, listed, wrap
from nlc.ir.coupled import Coupling
from nlc.ir.expr import Expr, substitute, walk
from nlc.ir.gates import NUMBER, Gates, variables
from nlc.ir.ops import leaf

_ZERO = "tl.zeros([C], tl.float32)"
_HEAD = """\
    m, i = tl.program_id(0).to(tl.int64), tl.arange(0, C)
    n, start, stop = piece(m, packing, T, N, C)  #? cut
    n, start = m // tl.cdiv(T, C), m % tl.cdiv(T, C) * C  #? !cut"""


def weights(name: str, gates: Gates, c: Coupling, cut: bool) -> str:
    """The text of an operator under its name; ``cut``: of packed sequences, too."""
    t = _Operator(name, gates, c, cut)
    parts = [
        t.values(),
        *[t.slopes()] * t.learns,
        t.called(),
        *[t.meaning()] * t.learns,
        t.forward(),
    ]
    return "\n" + "\n\n\n".join([*parts, *[t.backward()] * t.learns]) + "\n"


def _needed_for(lets: Iterable[tuple[str, Expr]], names: set[str]) -> list[tuple[str, Expr]]:
    """The statements that give some names."""
    live, found = set(names), []
    for name, e in reversed([*lets]):
        if name in live:
            found.append((name, e))
            live |= {str(n.attr) for n in walk(e) if n.op == "var"}
    return found[::-1]


def _product(entry: str, value: str) -> str:
    return {"1.0": value, "-1.0": f"-{value}"}.get(entry, f"{entry} * {value}")


def _sum(terms: Iterable[str]) -> str:
    return " + ".join(terms).replace("+ -", "- ")


def _plus(pointer: str, *offsets: str) -> str:
    return " + ".join([pointer, *(x for x in offsets if x and x != "0")])


def _times(count: int, size: str) -> str:
    return f"{count} * {size}" if count > 1 else size * count


def _block(lines: Iterable[str], depth: int = 1) -> str:
    """Lines, those that are too long over several."""
    out = []
    for line in lines:
        pad = "    " * depth
        if len(pad) + len(line) <= WIDTH or " = " not in line:
            out.append(f"{pad}{line}")
            continue
        name, _, value = line.partition(" = ")
        first, *rest = value.split(" + ")
        text = f"{pad}{name} = {first}"
        for term in rest:
            if len(text) + len(term) + 3 > WIDTH:
                out.append(text)
                text = f"{pad}{name} += {term}"
            else:
                text += f" + {term}"
        out.append(text)
    return "\n".join(out)


@dataclass
class _Operator:
    """The functions of one operator: of the states' decays ``A`` and the rows' weights ``W``, entry by entry."""

    name: str
    gates: Gates
    coupling: Coupling
    cut: bool

    def __post_init__(self) -> None:
        self.packing = ["packing"] * self.cut
        self.end = "stop" if self.cut else "T"
        self.told = ["*tokens_of(packing, T, C)" if self.cut else "T", "H"]  # of kernels
        self.A, self.W = self.coupling.decay, self.coupling.weights
        self.S, self.J = range(len(self.A)), range(len(self.W[0]))
        self.raw, self.heads, self.fixed = (self.gates.kind(x) for x in ("raw", "head", "fixed"))
        self.given = [*self.raw, *self.heads]
        self.learns = bool(self.given)  # whether there are slopes
        self.tensors = [*self.given, *["like"] * (not self.raw)]
        self.first = self.raw[0] if self.raw else "like"
        self.every = [*self.tensors, *self.fixed]
        self.written = [(s, j) for s in self.S for j in self.J]
        self.pairs = [(s, m) for s in self.S for m in self.S]

    def at(self, s: int, j: int) -> str:
        return f"{s + 1}{'_' * (max(len(self.S), len(self.J)) > 9)}{j + 1}"

    def v_at(self, s: int, j: int) -> str:
        """Where an entry's matrix begins."""
        return _times(s * len(self.J) + j, "C * C")

    def b_at(self, s: int, m: int) -> str:
        return _times(s * len(self.S) + m, "C")

    def typed(self, tensors: list[str]) -> list[str]:
        return [*(f"{n}: Tensor" for n in tensors), *(f"{n}: float" for n in self.fixed)]

    # -------------------------------------------------------------------------------------------- kernels

    def _signature(self, kind: str, tensors: list[str], said: str, used: set[str]) -> str:
        """What a kernel begins with that makes something of the ``used``."""
        raw, heads, fixed = (
            [n for n in x if n in used] for x in (self.raw, self.heads, self.fixed)
        )
        args = [*raw, *heads, *tensors, *(["packing", "T", "N"] if self.cut else ["T"]), "H"]
        args += [f"{n}_{x}" for n in raw for x in "xht"]
        args += [f"{n}: tl.constexpr" for n in (*fixed, "C")]
        head = packed(f"def {self.name}_{kind}(", args, "):")
        begin = [f"{n} += n // H * {n}_x + n % H * {n}_h" for n in raw]
        begin += [f"{n}_own = tl.load({n} + n % H)" for n in heads]
        doc = [f"    {x}" for x in wrap(f'"""{said}"""', WIDTH - 4)]
        head = "\n".join(["@triton.jit", head, *doc, told(_HEAD, self.cut)])
        return f"{head}\n{_block(begin)}".rstrip()

    def _gates(self, decays: bool = False) -> list[str]:
        """Lines that make the gates of token t, or of these what states decay by, and load what slopes need."""
        load = "{0}_now = tl.load({0} + t * {0}_t, mask=there, other=0.0).to(tl.float32)"
        lets, used = (
            (self._decays(), self.sloping) if decays else (self.gates.together, {*self.raw})
        )
        loads = [load.format(n) for n in self.raw if n in used]
        return [*loads, *together(self._now(lets))]

    @cached_property
    def sloping(self) -> set[str]:
        """What slopes are made of."""
        return {n for _, e in (*self._decays(), *self._slopes()) for n in variables(e)}

    def _decays(self) -> list[tuple[str, Expr]]:
        """The statements that give what states decay by."""
        live = {entry.removeprefix("-") for line in self.A for entry in line}
        return _needed_for(self.gates.together, live)

    def _slopes(self) -> list[tuple[str, Expr]]:
        """The statements that give the slopes, by the names of what decays are made of where that is there already."""
        known = {e: leaf("var", n, NUMBER) for n, e in self._decays() if e.args}
        taken, renamed = {str(v.attr) for v in known.values()}, {}
        found: list[tuple[str, Expr]] = []
        for name, e in self.gates.slopes:
            e = substitute(substitute(e, renamed), known)
            if e in known.values() and not name.startswith("slope_"):
                renamed[leaf("var", name, NUMBER)] = e
                continue
            free = chain([name], (f"x{i}" for i in count(1)))
            own = next(x for x in free if x not in taken)
            taken.add(own)
            renamed[leaf("var", name, NUMBER)] = leaf("var", own, NUMBER)
            found.append((own, e))
        return found

    def _now(self, lets: Iterable[tuple[str, Expr]]) -> list[tuple[str, Expr]]:
        """Statements over what the kernel has loaded."""
        loaded = {n: f"{n}_now" for n in self.raw} | {n: f"{n}_own" for n in self.heads}
        known = {leaf("var", n, NUMBER): leaf("var", x, NUMBER) for n, x in loaded.items()}
        return [(n, substitute(e, known)) for n, e in lets]

    def values(self) -> str:
        """The kernel that goes forward."""
        said = "What is in states: v of rows, b of states before a chunk; behind the last token it stays."
        sizes = _times(len(self.written), "C * C"), _times(len(self.pairs), "C")
        first = [f"kept += m * {sizes[0]} + i", f"begun += m * {sizes[1]} + i"]
        first += [f"v{self.at(*x)} = {_ZERO}" for x in self.written]
        first += [
            f"b{self.at(s, m)}, all_b{self.at(s, m)} = {float(s == m)}, {_ZERO}"
            for s, m in self.pairs
        ]
        loop = [f"t, here, there = start + j, i == j, start + j < {self.end}", *self._gates()]
        for s, j in self.written:
            terms = [_product(self.A[s][m], f"v{self.at(m, j)}") for m in self.S if self.A[s][m]]
            terms += [f"tl.where(here, {self.W[s][j]}, 0.0)"] if self.W[s][j] else []
            loop.append(f"new_v{self.at(s, j)} = {_sum(terms) or _ZERO}")
        for s, l in self.pairs:
            terms = [_product(self.A[s][m], f"b{self.at(m, l)}") for m in self.S if self.A[s][m]]
            loop.append(f"new_b{self.at(s, l)} = {_sum(terms) or '0.0'}")
        for s, j in self.written:
            v = f"v{self.at(s, j)}"
            loop.append(f"{v} = tl.where(there, new_{v}, {v})")
            loop.append(f"tl.store({_plus('kept', self.v_at(s, j), 'j * C')}, {v})")
        for s, m in self.pairs:
            b = f"b{self.at(s, m)}"
            loop.append(f"{b} = tl.where(there, new_{b}, {b})")
            loop.append(f"all_{b} = tl.where(here, {b}, all_{b})")
        last = [
            f"tl.store({_plus('begun', self.b_at(*x))}, all_b{self.at(*x)})" for x in self.pairs
        ]
        head = self._signature("values", ["kept", "begun"], said, {*self.given, *self.fixed})
        return "\n".join(
            [head, _block(first), "    for j in range(C):", _block(loop, 2), _block(last)]
        )

    def slopes(self) -> str:
        """The kernel that goes back."""
        said = "The slopes by what gates are made of, from the last token: g by v, e by b"
        said += "; by what is a head's, their sum." if self.heads else "."
        sizes = _times(len(self.written), "C * C"), _times(len(self.pairs), "C")
        first = [f"{x} += m * {sizes[0]} + i" for x in ("kept", "d_kept")]
        first += [f"{x} += m * {sizes[1]}" for x in ("begun", "d_begun")]
        first += [f"g{self.at(*x)} = {_ZERO}" for x in self.written]
        first += [f"e{self.at(*x)} = 0.0" for x in self.pairs]
        first += [f"sum_{n} = 0.0" for n in self.heads]
        loop = [
            "j = C - 1 - back",
            f"t, there = start + j, start + j < {self.end}",
            *self._gates(True),
        ]
        for x in self.written:
            at = _plus("d_kept", self.v_at(*x), "j * C")
            loop.append(f"g{self.at(*x)} += tl.load({at}, mask=i <= j, other=0.0)")
        loop += [
            f"e{self.at(*x)} += tl.load({_plus('d_begun', self.b_at(*x), 'j')})" for x in self.pairs
        ]
        loop += self._worth()
        loop += together(self._now(self._slopes()))
        loop += ["at = (n // H * T + t) * H + n % H"] * bool(self.raw)
        for n in self.raw:
            loop.append(f"tl.store(d_{n} + at, slope_{n}.to(d_{n}.dtype.element_ty), mask=there)")
        loop += [f"sum_{n} += tl.where(there, slope_{n}, 0.0)" for n in self.heads]
        carried = [("g", *x) for x in self.written] + [("e", *x) for x in self.pairs]
        for kind, s, j in carried:
            own = f"{kind}{self.at(s, j)}"
            terms = [
                _product(self.A[m][s], f"{kind}{self.at(m, j)}") for m in self.S if self.A[m][s]
            ]
            loop.append(f"new_{own} = {_sum(terms) or (_ZERO if kind == 'g' else '0.0')}")
        for kind, s, j in carried:
            own = f"{kind}{self.at(s, j)}"
            loop.append(f"{own} = tl.where(there, new_{own}, {own})")
        last = [f"tl.store(d_{n} + m, sum_{n})" for n in self.heads]
        tensors = ["kept", "begun", "d_kept", "d_begun", *(f"d_{n}" for n in self.given)]
        head = self._signature("slopes", tensors, said, self.sloping)
        return "\n".join(
            [head, _block(first), "    for back in range(C):", _block(loop, 2), _block(last)]
        ).rstrip()

    def _worth(self) -> list[str]:
        """Slopes by gates: of what is in states at the token, and what was in them a token before."""
        asked = {str(n.attr) for _, e in self.gates.slopes for n in walk(e) if n.op == "var"}
        gate = lambda entry: f"d_{entry.removeprefix('-')}"  # noqa: E731
        lines: list[str] = []
        sums: dict[str, list[str]] = {}
        for s, j in self.written:
            if gate(self.W[s][j]) in asked:
                minus = "-" * self.W[s][j].startswith("-")
                term = f"{minus}tl.sum(tl.where(i == j, g{self.at(s, j)}, 0.0), 0)"
                sums.setdefault(gate(self.W[s][j]), []).append(term)
        decays = [(s, m) for s, m in self.pairs if gate(self.A[s][m]) in asked]
        for m in dict.fromkeys(m for _, m in decays):
            for j in self.J:
                at = _plus("kept", self.v_at(m, j), "(j - 1) * C")
                lines.append(f"v{self.at(m, j)} = tl.load({at}, mask=i < j, other=0.0)")
            for l in self.S:
                at = _plus("begun", self.b_at(m, l), "j - 1")
                lines.append(f"b{self.at(m, l)} = tl.load({at}, mask=j > 0, other={float(m == l)})")
        for s, m in decays:
            inner = _sum(f"g{self.at(s, j)} * v{self.at(m, j)}" for j in self.J)
            outer = [f"e{self.at(s, l)} * b{self.at(m, l)}" for l in self.S]
            sums.setdefault(gate(self.A[s][m]), []).extend([f"tl.sum({inner}, 0)", *outer])
        return lines + [f"{n} = {_sum(terms)}" for n, terms in sums.items()]

    # -------------------------------------------------------------------------------------------- operator

    def called(self) -> str:
        """The function that the module calls."""
        lead = ["like.shape[:-3]", *(f"{n}.shape[:-1]" for n in self.raw)]
        args = [*self.typed(self.given), "like: Tensor"]
        args += ["within: Packing | None = None"] * self.cut
        S, J, of = len(self.S), len(self.J), [*self.given, *self.fixed]
        said = "What of rows and of states before a chunk is in coupled states at its tokens: kept"
        said += f" [..., chunks, {S}, {J}, C, C] and begun [..., chunks, {S}, {S}, C], in float32."
        said += f" They are made of {listed(of)}" + ", [..., T] where they are raw." if of else ""
        said += " The rows are like [..., T, rows, n]."
        doc = wrap(said, WIDTH - 8)
        lines = [packed(f"def {self.name}(", args, ") -> tuple[Tensor, Tensor]:")]
        lines += [f'    """{doc[0]}', *(f"    {x}" for x in doc[1:])]
        lines = [*lines[:-1], f'{lines[-1]}"""'] if len(doc) == 1 else [*lines, '    """']
        lines += ["    on_gpu(like)", packed("lead = leading(", lead, ")", 1)]
        if self.raw:
            left = ", ".join(self.raw) if len(self.raw) > 1 else f"({self.raw[0]},)"
            whole = [f"{n}.expand(*{n}.shape[:-1], T)" for n in self.raw]
            lines.append("    T = like.shape[-3]")
            lines.append(packed(f"{left} = fitted(", ["lead", "1", *whole], ")", 1))
        else:
            lines.append("    (like,) = fitted(lead, 1, like.detach()[..., 0, 0])")
        lines += [f"    {n} = {n}.float().expand(lead[-1]).contiguous()" for n in self.heads]
        given = [*self.every, *["within and within.of(coupled_chunk(like.shape[-3]))"] * self.cut]
        lines.append(packed(f"kept, begun = {self.name}_forward(", given, ")", 1))
        return "\n".join([*lines, "    return unfitted(lead, kept, begun)"])

    def meaning(self) -> str:
        """What the check of a first launch compares with."""
        head = packed(
            f"def {self.name}_meaning(", self.typed(self.tensors), ") -> tuple[Tensor, Tensor]:"
        )
        lines = [f"{n} = {n}[:, None]" for n in self.heads] + meant_together(self.gates)
        for name, table in (("A", self.A), ("w", self.W)):
            rows = [", ".join(x or "0.0" for x in line) for line in table]
            one = "," * (len(table[0]) == 1)
            call = packed(
                f"{name} = coupling(", [self.first, *(f"({r}{one})" for r in rows)], ")", 1
            )
            lines.append(call.removeprefix("    "))
        return "\n".join(
            [
                head,
                '    """Token by token."""',
                *(f"    {x}" for x in lines),
                "    return weighed(A, w)",
            ]
        )

    def forward(self) -> str:
        """The operator and what it returns."""
        axes = [f'{n}="T"' for n in (self.raw or ["like"])] + [f'{n}="heads"' for n in self.heads]
        axes += [f"{n}={n}" for n in self.fixed]
        name, first = self.name, self.first
        typed = [*self.typed(self.tensors), *["packing: Tensor | None"] * self.cut]
        checked = [f"{name}_forward", f"{name}_meaning", "begun", str(len(self.S)), "min(T, C)"]
        checked += [*["packing is not None"] * self.cut, *axes, "C=C"]
        args = [*self.given, "kept", "begun", *self.told]
        args += [f"*{n}.stride()" for n in self.raw]
        S, J = len(self.S), len(self.J)
        chunks = "chunks_of(packing, T, C)" if self.cut else "blocks_of(T, C)"
        sized = [*self.every, *self.packing] if self.cut else [first]
        faked = sized if self.cut else [first, *["*_"] * (len(self.every) > 1)]
        lines = [
            "@Operator",
            packed(f"def {name}_forward(", typed, ") -> tuple[Tensor, Tensor]:"),
            f'    """Over tensors [X, H, T]{" and [H]" * bool(self.heads)}."""',
            packed(f"kept, begun = out = {name}_shapes(", sized, ")", 1),
            f"    (X, H, T), C = {first}.shape, kept.shape[-1]",
            *[packed("checked(", checked, ")", 1)] * self.learns,  # numbers alone have no slopes
            packed("args = [", args, "]", 1),
            self._launch("values"),
            "    return out",
            "",
            "",
            f"@{name}_forward.register_fake",
            packed(f"def {name}_shapes(", faked, "):"),
            '    """What the operator returns, but for its values."""',
            f"    (X, H, T), C = {first}.shape, coupled_chunk({first}.shape[-1])",
            f"    shape = X, H, {chunks}, {S}, {J}, C, C",
            f"    kept = {first}.new_empty(shape, dtype=torch.float32)",
            f"    return kept, kept.new_empty(*shape[:3], {S}, {S}, C)",
        ]
        return "\n".join(lines)

    def _launch(self, kernel: str) -> str:
        known = [f"{n}={n}" for n in self.fixed]
        sizes = packed("sizes = dict(", [*known, "C=C", "num_warps=1", "num_stages=1"], ")", 1)
        grid = "(X * H * kept.shape[2],)"
        return f"{sizes}\n    launch({self.name}_{kernel}, {grid}, args, torch.float32, **sizes)"

    def backward(self) -> str:
        """Its slopes."""
        name, first = self.name, self.first
        kept = ["kept: Tensor", "begun: Tensor", "d_kept: Tensor", "d_begun: Tensor"]
        typed = [*self.typed(self.tensors), *kept, *["packing: Tensor | None"] * self.cut]
        sloped = [f"d_{n}" for n in self.given]
        used = [n for n in self.given if n in self.sloping]
        args = [*used, "kept", "begun", "d_kept", "d_begun", *sloped]
        strides = [f"*{n}.stride()" for n in self.raw if n in used]
        args += [*self.told, *strides]
        returns = f"tuple[{', '.join(['Tensor'] * len(sloped))}]" if sloped[1:] else "Tensor"
        said = (
            "The slopes by what gates are made of"
            + "; by what is a head's a sum for each chunk." * bool(self.heads)
        )
        empty = [f"numbers_like({n})" for n in self.raw]
        empty += [f"{n}.new_empty(kept.shape[:3])" for n in self.heads]
        sized = [*self.every, "kept"] if self.heads else self.raw  # what slopes have the shapes of
        contexts = [f"ctx.{n}" for n in self.fixed]
        sums = [*(f"d_{n}" for n in self.raw), *(f"d_{n}.sum((0, 2))" for n in self.heads)]
        sums += [
            *["torch.zeros_like(given[-1])"] * (not self.raw),
            *["None"] * len([*self.fixed, *self.packing]),
        ]
        back = [
            "*given",
            *contexts,
            "kept",
            "begun",
            "d_kept.contiguous()",
            "d_begun.contiguous()",
            *self.packing,
        ]
        inputs = [*self.tensors, *contexts, *self.packing]
        saved = ["*given", "kept", "begun", *self.packing]
        lines = [
            "@Operator",
            packed(f"def {name}_backward(", typed, f") -> {returns}:"),
            f'    """{said if self.heads else said + "."}"""',
            packed(f"{', '.join(sloped)} = out = {name}_sloped(", sized, ")", 1),
            f"    (X, H, T), C = {first}.shape, kept.shape[-1]",
            packed("args = [", args, "]", 1),
            self._launch("slopes"),
            "    return out",
            "",
            "",
            f"@{name}_backward.register_fake",
            packed(f"def {name}_sloped(", [*sized, "*_"], "):"),
            '    """The shapes of the slopes."""',
            f"    return {', '.join(empty)}",
            "",
            "",
            f"def {name}_setup(ctx, inputs, output):",
            f"    {', '.join(inputs)}{',' * (len(inputs) == 1)} = inputs",
            f"    ctx.save_for_backward({', '.join([*self.tensors, '*output', *self.packing])})",
            "",
            "",
            f"def {name}_slope(ctx, d_kept, d_begun):",
            f"    {', '.join(saved)} = ctx.saved_tensors",
            packed(f"{', '.join(sloped)} = {name}_backward(", back, ")", 1),
            f"    return {', '.join(sums)}",
            "",
            "",
            packed(f"{name}_forward.register_autograd(", [f"{name}_slope", f"{name}_setup"], ")"),
        ]
        return "\n".join(lines)
