"""Every helper of a generated Triton file by name, with what it needs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from nlc.backends.torch.helpers import TEXTS as ALGEBRA
from nlc.backends.triton import (
    access,
    channel,
    channel_fused,
    channel_reads,
    channel_scans,
    configs,
    coupled,
    coupled_reads,
    coupled_scans,
    decays,
    fused_operators,
    gate_operators,
    gradients,
    kernels,
    operators,
    packing,
    read_operators,
    windows,
)
from nlc.backends.triton import gates as gates_of
from nlc.backends.triton.elements import FUNCTION_TEXTS
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


def of_form(f: KernelForm) -> dict[str, str]:
    """The scan of a form and its reads, by name, and each read with the scan in one."""
    name, gates = f.scan, f.gates
    parts = kernels.texts(name, f), gradients.texts(name, f), operators.scan(f)
    made = {name: _joined([*([gates_of.texts(gates, name)] if gates else []), *parts])}
    for before in (False, True):
        when = "before" if before else "after"
        name, gates = f.fused(when), f.decay_gates
        made[name] = _joined(
            [kernels.fused_text(name, f, before), fused_operators.fused(f, before)]
        )
        name = f.read(when)
        parts = (
            kernels.read_text(name, f, before),
            gradients.read_text(name, f, before),
            read_operators.read(name, f, before),
        )
        made[name] = _joined([*([gates_of.texts(gates, name)] if gates else []), *parts])
    return made


def _texts() -> dict[str, str]:
    first = configs.tables(configs.KINDS)
    first |= {n: SHARED[n] for n in ("OPERATORS", "Operator")}  # read where operators are defined
    made: dict[str, str] = dict(kernels.SHARED)
    for f in forms():
        made |= of_form(f)
    made |= (
        FUNCTION_TEXTS
        | packing.TEXTS
        | windows.TEXTS
        | access.TEXTS
        | decays.TEXTS
        | gate_operators.TEXTS
    )
    made |= channel.TEXTS | channel_scans.TEXTS | channel_reads.TEXTS | channel_fused.TEXTS
    made |= coupled.TEXTS | coupled_scans.TEXTS | coupled_reads.TEXTS
    rest = {n: text for n, text in ALGEBRA.items() if n not in made}
    return {**(rest | {"CHUNK": _CHUNK}), **first, **made, **SHARED}


TEXTS: dict[str, str] = _texts()
