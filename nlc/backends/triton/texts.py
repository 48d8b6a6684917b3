"""Every helper of a generated Triton file by name, with what it needs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from nlc.backends.torch.helpers import TEXTS as ALGEBRA
from nlc.backends.triton import channel, coupled, gradients, kernels, operators
from nlc.backends.triton.forms import KernelForm
from nlc.backends.triton.shared import SHARED

_CHUNK = """
CHUNK = 64  # tokens of a chunk
"""


def forms() -> list[KernelForm]:
    """Those that there are kernels for."""
    out = [KernelForm(kind) for kind in ("none", "scalar")]
    for kind, probe, rate in product(("none", "scalar"), (False, True), (False, True)):
        out.append(KernelForm(kind, True, probe, rate=rate))
    return out


def _joined(parts: Iterable[str]) -> str:
    return "\n" + "\n\n\n".join(p.strip("\n") for p in parts) + "\n"


def _texts() -> dict[str, str]:
    first = {n: SHARED[n] for n in ("CONFIG", "OPERATORS")}  # read where operators are defined
    made: dict[str, str] = dict(kernels.SHARED)
    for f in forms():
        parts = kernels.texts(f.scan, f), gradients.texts(f.scan, f), operators.scan(f)
        made[f.scan] = _joined(parts)
    for decay, before in product((False, True), (False, True)):
        name = f"{'gated_' * decay}read{'_before' * before}"
        parts = kernels.read_text(decay, before), gradients.read_text(decay, before)
        made[name] = _joined((*parts, operators.read(name, decay)))
    made |= channel.TEXTS | coupled.TEXTS
    rest = {n: text for n, text in ALGEBRA.items() if n not in made}
    return {**(rest | {"CHUNK": _CHUNK}), **first, **made, **SHARED}


TEXTS: dict[str, str] = _texts()
