"""Which kernels a record needs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nlc.backends.torch.scans import Form
from nlc.backends.writer import WIDTH, filled, select

MOST_KEYS = 256  # channels


def chunk(kind: str, dk: int, dv: int, tokens: int, asked: int | None = None) -> int:
    """Tokens of a chunk of a record of a kind, as generated files choose them (`chunk_of`, `coupled_chunk`)."""
    most = asked or 64
    if max(dk, dv) > 128 or kind in ("coupled", "signed"):
        most = min(most, 32)
    return 16 if tokens <= 16 else most


@dataclass(frozen=True, order=True)
class KernelForm(Form):
    """``rate``: each write has a factor of its own, so that no product of the two is stored. ``unit``: keys and queries
    are brought to length one in the kernels. ``grouped``: they have fewer heads, each for several of the values'."""

    rate: bool = False
    unit: bool = False
    grouped: bool = False

    @property
    def scan(self) -> str:
        first, last = "gated_" if self.kind == "scalar" else "", self.keys
        if not self.erase:
            return f"{first or 'additive_'}memory{last}"
        return f"{first}delta{'_at' * self.probe}{'_rated' * self.rate}{last}"

    @property
    def keys(self) -> str:
        """What is done to keys and queries."""
        return "_unit" * self.unit + "_grouped" * self.grouped

    @property
    def call(self) -> str:
        return self.scan

    def read(self, when: str, turned: bool = False) -> str:
        return super().read(when, turned) + self.keys


def text(source: str, name: str, f: KernelForm) -> str:
    """The text of a scan's kernels under its name."""
    decay, probe = f.kind == "scalar", "p" if f.probe else "k"
    flags = dict(decay=decay, erase=f.erase, rate=f.rate, probe=f.probe)
    flags |= dict(unit=f.unit, grouped=f.grouped)
    flags |= dict(state=decay or f.erase, keyed=decay or f.erase or f.unit)
    return select(source, **flags).replace("NAME", name).replace("PROBE", probe)


def chosen(source: str, *, before: bool, **flags: bool) -> str:
    """The text of a read's kernels."""
    return select(source, before=before, **flags).replace("ORDER", ">" if before else ">=")


def packed(start: str, args: list[str], end: str, depth: int = 0) -> str:
    """A call or a signature on one line, or its arguments on as few as they need."""
    pad = "    " * depth
    one = f"{pad}{start}{', '.join(args)}{end}"
    if len(one) <= WIDTH:
        return one
    lines = filled([f"{a}," for a in args], WIDTH - 4 * depth - 4)
    return "\n".join(
        [f"{pad}{start}", *(f"{pad}    {x}" for x in lines), f"{pad}{end}  # fmt: skip"]
    )


def laid(text: str) -> str:
    """Calls, lists and signatures that the text has over lines, on as few as they need."""
    out, lines = [], iter(text.split("\n"))
    for line in lines:
        bare = line.lstrip()
        depth = (len(line) - len(bare)) // 4
        if bare.endswith(("(", "[")) and not bare.startswith(("#", '"')):
            inner, pad = [], "    " * depth
            while not (end := next(lines)).startswith((f"{pad})", f"{pad}]")):
                inner.append(end.strip())
            args = [x.strip() for x in " ".join(inner).split(",") if x.strip()]
            line = packed(bare, args, end.strip(), depth)
        elif len(line) > WIDTH and (call := re.fullmatch(r"(\w[\w., =]*\()(.*)\)", bare)):
            start, inner = call.groups()
            if 4 * depth + 4 + len(inner) > WIDTH:
                line = packed(start, inner.split(", "), ")", depth)
            else:
                pad = "    " * depth
                line = f"{pad}{start}\n{pad}    {inner}\n{pad})"
        out.append(line)
    return "\n".join(out)


def worded(source: str, words: dict[str, str], **flags: bool) -> str:
    """A text as its flags select it, with words for what it leaves open."""
    text = select(source, **flags)
    for word, meant in words.items():
        text = text.replace(word, meant)
    return laid(text)
