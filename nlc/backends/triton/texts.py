"""Every helper of a generated Triton file by name, with what it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
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
    coupled_fused,
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
from nlc.backends.writer import select

_CHUNK = """
CHUNK = 64  # tokens of a chunk
"""


def forms(cut: bool = True, seen: bool = True) -> list[KernelForm]:
    """Those that there are kernels for; ``cut``: of packed sequences, too, ``seen``: with what reads need."""
    both, kinds = (False, True), ("none", "scalar")
    out = []
    for kind, grouped in product(kinds, both):
        for unit, erase in product(both, both):
            out += [KernelForm(kind, erase, rate=x, unit=unit, grouped=grouped) for x in both]
        out += [KernelForm(kind, True, True, rate=x, grouped=grouped) for x in both]
    return [replace(f, cut=cut, seen=seen) for f in out]


def _joined(parts: Iterable[str]) -> str:
    return "\n" + "\n\n\n".join(p.strip("\n") for p in parts) + "\n"


def of_form(f: KernelForm) -> dict[str, str]:
    """The scan of a form and its reads, by name, and each read with the scan in one."""
    name, gates = f.scan, f.gates
    parts = kernels.texts(name, f), gradients.texts(name, f), operators.scan(f)
    made = {name: _joined([*([gates_of.texts(gates, name, f.cut)] if gates else []), *parts])}
    if not f.seen:
        return made
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
        made[name] = _joined([*([gates_of.texts(gates, name, f.cut)] if gates else []), *parts])
    return made


@cache
def texts(cut: bool, seen: bool) -> dict[str, str]:
    """All that a file can have whose kernels read where packed sequences are ``cut``, and whose scans are ``seen`` by
    reads."""
    shared = {n: select(text, cut=cut) for n, text in SHARED.items()}
    first = configs.tables(configs.KINDS)
    first |= {n: shared[n] for n in ("OPERATORS", "Operator")}  # read where operators are defined
    made: dict[str, str] = dict(kernels.SHARED)
    for f in forms(cut, seen):
        made |= of_form(f)
    made |= FUNCTION_TEXTS | (packing.TEXTS | windows.TEXTS if cut else {})
    made |= access.TEXTS | decays.TEXTS | gate_operators.TEXTS | coupled.TEXTS
    made |= channel.texts(cut) | channel_scans.texts(cut, seen) | coupled_scans.texts(cut, seen)
    for part in (channel_reads, channel_fused, coupled_reads, coupled_fused) if seen else ():
        made |= part.texts(cut)
    rest = {n: text for n, text in ALGEBRA.items() if n not in made}
    return {**(rest | {"CHUNK": _CHUNK}), **first, **made, **shared}


TEXTS: dict[str, str] = texts(True, True)
