"""Which kernels a record needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from nlc.backends.torch.scans import Form
from nlc.backends.triton.gates import ONE, back, call
from nlc.backends.triton.lines import laid
from nlc.backends.writer import select
from nlc.ir.gates import Gates

MOST_KEYS = 256  # channels


def chunk(
    kind: str, dk: int, dv: int, tokens: int, asked: int | None = None, half: bool = True
) -> int:
    """Tokens of a chunk of a record of a kind, in half precision or not, as generated files choose them (`chunk_of`,
    `coupled_chunk`)."""
    most = asked or 64
    if max(dk, dv) > 128 or kind in ("coupled", "signed") or not half:
        most = min(most, 32)
    return 16 if tokens <= 16 else most


@dataclass(frozen=True, order=True)
class KernelForm(Form):
    """``rate``: each write has a factor of its own, so that no product of the two is stored. ``unit``: keys and queries
    are brought to length one in the kernels. ``grouped``: they have fewer heads, each for several of the values'.
    ``decayed``: what is erased is the answer of a state that has decayed, by channel.
    ``gates``: what the kernels make gates of, if that is not done before; ``raw`` and ``raw_decay`` are what scans and
    reads that do so have behind their names. ``cut``: kernels read where packed sequences are cut.
    ``seen``: something reads states on the way, not the last alone."""

    rate: bool = False
    unit: bool = False
    grouped: bool = False
    decayed: bool = False
    cut: bool = True
    seen: bool = True
    gates: Gates | None = field(default=None, compare=False)
    raw: str = ""
    raw_decay: str = ""

    @property
    def scan(self) -> str:
        if self.kind not in ("none", "scalar"):
            return f"{super().scan}{'_decayed' * self.decayed}{self.keys}"
        first, last = "gated_" if self.kind == "scalar" else "", self.keys + self.raw
        if not self.erase:
            return f"{first or 'additive_'}memory{'_rated' * self.rate}{last}"
        return f"{first}delta{'_at' * self.probe}{'_rated' * self.rate}{last}"

    @property
    def rows(self) -> bool:
        """Whether the rows that are written are others than those that are given."""
        return self.erase or self.rate

    @property
    def decay_gates(self) -> Gates | None:
        """What reads make decays of."""
        return self.gates.decay if self.gates else None

    @property
    def keys(self) -> str:
        """What is done to keys and queries."""
        return "_unit" * self.unit + "_grouped" * self.grouped

    @property
    def call(self) -> str:
        return self.scan

    def read(self, when: str, turned: bool = False) -> str:
        return super().read(when, turned) + self.keys + self.raw_decay

    def fused(self, when: str) -> str:
        """What a scan and its read in one are called."""
        return f"{self.scan}_read{'_before' * (when == 'before')}"


def text(source: str, name: str, f: KernelForm, before: bool | None = None) -> str:
    """The text of a scan's kernels under its name; with ``before`` of what also reads, before a write or after it."""
    decay, probe = f.kind == "scalar", "p" if f.probe else "k"
    flags = dict(decay=decay, erase=f.erase, rate=f.rate, probe=f.probe, rows=f.rows)
    flags |= dict(unit=f.unit, grouped=f.grouped, raw=f.gates is not None)
    flags |= dict(state=decay or f.erase, keyed=decay or f.erase or f.unit)
    flags |= dict(read=before is not None, before=bool(before), seen=f.seen)
    gates = ["b"] * f.erase + ["log_a"] * decay + ["w"] * f.rate
    source = _gated(told(source, f.cut, **flags), f.scan, gates, f.gates, f.cut)
    source = source.replace("NAME", name).replace("PROBE", probe)
    source = source.replace("SAID", "S_{t-1} q_t and " if before else "S_t q_t and ")
    return source.replace("ORDER", ">" if before else ">=")


def chosen(source: str, name: str, f: KernelForm, before: bool) -> str:
    """The text of a read's kernels under its name."""
    decay, gates = f.kind == "scalar", f.decay_gates
    flags = dict(decay=decay, unit=f.unit, grouped=f.grouped, before=before, raw=bool(gates))
    flags |= dict(sums=decay or f.unit)
    source = _gated(told(source, f.cut, **flags), name, ["log_a"] * decay, gates, f.cut)
    return source.replace("NAME", name).replace("ORDER", ">" if before else ">=")


def _gated(source: str, name: str, gates: list[str], raw: Gates | None, cut: bool) -> str:
    """The text with how its kernels get gates: as they are, or of what they are made of."""
    solve = [x for x in gates if x != "w"]
    decay = [x for x in gates if x == "log_a"]
    words = {"GIVEN_SOLVE": raw.only(*solve).tensors if raw else solve}
    words["GIVEN_DECAY"] = raw.only(*decay).tensors if raw else decay
    words["GIVEN"] = raw.tensors if raw else gates
    words["SLOPES"] = [f"d_{n}" for n in raw.tensors] if raw else [f"d{n[-1]}" for n in gates]
    for word, names in words.items():
        source = source.replace(word, "".join(f"{n}, " for n in names))
    fixed = "".join(f" {n}: tl.constexpr," for n in raw.fixed) if raw else ""
    source = source.replace("FIXED", fixed).replace("SET_BACK", back(raw, name, cut) if raw else "")
    for x in gates:
        end = "stop" if cut else "T"
        chunk, one = f"tl.load({x} + n * T + t, mask=t < {end}, other=0.0)", f"tl.load({x} + n)"
        if raw:
            chunk, one = (call(raw, name, x, cut, at) for at in (None, ONE))
        source = source.replace(f"CHUNK_{x.upper()}", chunk).replace(f"ONE_{x.upper()}", one)
    return "@triton.jit".join(
        _used(x, raw.fixed if raw else []) for x in source.split("@triton.jit")
    )


def _used(kernel: str, fixed: list[str]) -> str:
    """A kernel without what is fixed of gates that it does not make."""
    for n in fixed:
        if len(re.findall(rf"\b{n}\b", kernel)) == 1:
            kernel = kernel.replace(f" {n}: tl.constexpr,", "")
    return kernel


def told(source: str, cut: bool, **flags: bool) -> str:
    """A text as its flags select it; where no sequences are packed, what stops at the end of one stops at T."""
    text = select(source, cut=cut, **flags)
    return text if cut else re.sub(r"\bstop\b", "T", text)


def worded(source: str, words: dict[str, str], cut: bool, **flags: bool) -> str:
    """The same with words for what it leaves open."""
    text = told(source, cut, **flags)
    for word, meant in words.items():
        text = text.replace(word, meant)
    return laid(text)
