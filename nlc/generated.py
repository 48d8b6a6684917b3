"""What can be asked of a generated file, and the file: whether a backend has it, its header, its parts."""

from __future__ import annotations

import hashlib
import keyword
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

from nlc.backends import backend_module
from nlc.backends.features import known
from nlc.backends.printed import Printed
from nlc.backends.writer import Header
from nlc.base.diagnostics import BadHelpers, NotFused
from nlc.version import __version__

if TYPE_CHECKING:
    from nlc.pipeline import Spec

Plans = Mapping[str, str]  # by level: "sequential", "chunked", "anchored", "chunked(32)"


@dataclass(frozen=True)
class Asked:
    """A file as it is asked for, of what ``nlc.compile`` takes."""

    backend: str = "auto"
    plan: Plans | None = None
    without: Iterable[str] = ()
    fused: bool = False


def printed(spec: Spec, asked: Asked) -> Printed:
    """The parts of the file, which a spec prints once.

    SpecError where the backend has no form of the system, ValueError for what it cannot.
    """
    from nlc.passes.plan.made import with_gates

    name = spec.backend(asked.backend)
    made, tokens = backend_module(name), spec.system.context == "tokens"
    maker = f"the backend {name}" if tokens else "an optimizer"
    header = Header(
        __version__,
        1,
        name,
        Path(spec.source.name).name,
        hashlib.sha256(spec.source.text.encode()).hexdigest()[:16],
        known(maker, asked.without, made.LEAVES_OUT if tokens else ()),
        asked.fused,
    )
    program = spec.program(name, asked.plan)
    key = name, tuple(sorted((asked.plan or {}).items())), header.without, asked.fused
    if key in spec.files:
        return spec.files[key]
    if asked.fused and not tokens:
        raise NotFused("an optimizer is fused where it is made: by `fused=True`")
    if asked.fused and not made.FUSES:
        raise NotFused(f"the backend {name} fuses nothing; torch does")
    if asked.fused and not program.tiled:
        raise NotFused("nothing runs between boundaries; torch.compile(module) fuses all")
    if (why := made.refusal(program)) is not None:
        spec.refuse(name, why)
    if made.GATES:
        program = with_gates(program, made.RESERVED)
    spec.files[key] = made.emit(program, header)
    return spec.files[key]


def in_two(file: Printed, model: str, helpers: str) -> tuple[str, str]:
    """The model's file and that of its helpers, the module ``helpers`` to it. BadHelpers where there can be none."""
    module = helpers.removeprefix(".")
    if not module.isidentifier() or keyword.iskeyword(module) or module.startswith("__"):
        raise BadHelpers(f"{module!r} is no name of a module")
    if module == helpers and module in {*sys.stdlib_module_names, *packages_distributions()}:
        raise BadHelpers(f"a module {module!r} would hide the one that is installed")
    if not file.shared:
        raise BadHelpers(f"the file of {file.name or model} defines nothing beside its class")
    return file.split(model, helpers)
