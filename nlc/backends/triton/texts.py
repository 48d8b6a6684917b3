"""Every helper of a generated Triton file by name, with what it needs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from nlc.backends.torch.helpers import TEXTS as ALGEBRA
from nlc.backends.triton import (
    access,
    channel,
    channel_reads,
    channel_scans,
    coupled,
    coupled_reads,
    coupled_scans,
    decays,
    gradients,
    kernels,
    operators,
    packing,
    read_operators,
)
from nlc.backends.triton.forms import KernelForm
from nlc.backends.triton.shared import SHARED

_CHUNK = """
CHUNK = 64  # tokens of a chunk
"""


def forms() -> list[KernelForm]:
    """Those that there are kernels for."""
    both, kinds = (False, True), ("none", "scalar")
    out = []
    for kind, grouped in product(kinds, both):
        for unit in both:
            out.append(KernelForm(kind, unit=unit, grouped=grouped))
            out += [KernelForm(kind, True, rate=x, unit=unit, grouped=grouped) for x in both]
        out += [KernelForm(kind, True, True, rate=x, grouped=grouped) for x in both]
    return out


def _joined(parts: Iterable[str]) -> str:
    return "\n" + "\n\n\n".join(p.strip("\n") for p in parts) + "\n"


def _texts() -> dict[str, str]:
    first = {
        n: SHARED[n] for n in ("CONFIG", "OPERATORS", "Operator")
    }  # read where operators are defined
    made: dict[str, str] = dict(kernels.SHARED)
    for f in forms():
        parts = kernels.texts(f.scan, f), gradients.texts(f.scan, f), operators.scan(f)
        made[f.scan] = _joined(parts)
    for decay, before, unit, grouped in product((False, True), repeat=4):
        f = KernelForm("scalar" if decay else "none", unit=unit, grouped=grouped)
        name = f.read("before" if before else "after")
        how = dict(decay=decay, before=before, unit=unit, grouped=grouped)
        parts = (
            kernels.read_text(**how),
            gradients.read_text(**how),
            read_operators.read(name, **how),
        )
        made[name] = _joined(parts)
    made |= packing.TEXTS | access.TEXTS | decays.TEXTS
    made |= channel.TEXTS | channel_scans.TEXTS | channel_reads.TEXTS
    made |= coupled.TEXTS | coupled_scans.TEXTS | coupled_reads.TEXTS
    rest = {n: text for n, text in ALGEBRA.items() if n not in made}
    return {**(rest | {"CHUNK": _CHUNK}), **first, **made, **SHARED}


TEXTS: dict[str, str] = _texts()
