"""Which kernels a record needs."""

from __future__ import annotations

from dataclasses import dataclass

from nlc.backends.torch.scans import Form, select
from nlc.backends.writer import WIDTH, filled


@dataclass(frozen=True, order=True)
class KernelForm(Form):
    """``rate``: each write has a factor of its own, so that no product of the two is stored."""

    rate: bool = False

    @property
    def scan(self) -> str:
        first = "gated_" if self.kind == "scalar" else ""
        if not self.erase:
            return f"{first or 'additive_'}memory"
        return f"{first}delta{'_at' * self.probe}{'_rated' * self.rate}"

    @property
    def call(self) -> str:
        return self.scan


def text(source: str, name: str, f: KernelForm) -> str:
    """The text of a scan's kernels under its name."""
    decay, probe = f.kind == "scalar", "p" if f.probe else "k"
    flags = dict(decay=decay, erase=f.erase, rate=f.rate, probe=f.probe, state=decay or f.erase)
    return select(source, **flags).replace("NAME", name).replace("PROBE", probe)


def chosen(source: str, *, decay: bool, before: bool) -> str:
    """The text of a read's kernels."""
    return select(source, decay=decay, before=before).replace("ORDER", ">" if before else ">=")


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


def signature(text: str) -> str:
    """A kernel's text with the parameters of each function on as few lines as they need."""
    out, lines = [], iter(text.split("\n"))
    for line in lines:
        if line.startswith("def ") and line.endswith("("):
            inner = []
            while (part := next(lines)) != "):":
                inner.append(part.strip())
            params = [x.strip() for x in " ".join(inner).split(",") if x.strip()]
            line = packed(line, params, "):")
        out.append(line)
    return "\n".join(out)
