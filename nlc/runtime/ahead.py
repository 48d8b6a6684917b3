"""Kernels compiled ahead of time, without a GPU: the registers, shared memory and spills of each on an architecture.

The generated module runs on CPU tensors with launches that are recorded instead of done, so that every kernel is
compiled for the arguments that it would get. What is computed on the way is noise and is thrown away.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nlc.runtime.trials import patched
from nlc.runtime.verify.draws import draw, named, numbers
from nlc.tools.sizes import BadHyper, settled

if TYPE_CHECKING:
    from nlc.pipeline import Spec

# Bytes of shared memory that one program can have.
LIMITS = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448}
_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}

_SAID = "assembler"  # the name of what it says in what Triton keeps of a kernel


class NotAhead(RuntimeError):
    """Kernels cannot be compiled here."""


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes at a size of keys and values (0 where it has none).

    Registers and bytes of spills of a thread, bytes of shared memory of a program. ``run`` is what launches it first:
    training, inference, a checkpoint, or one token; of an optimizer a step.
    """

    name: str
    run: str
    dk: int
    dv: int
    arch: str
    warps: int
    stages: int
    registers: int
    spills: int
    shared: int

    @property
    def fits(self) -> bool:
        return self.shared <= LIMITS[self.arch]

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {"limit": LIMITS[self.arch], "fits": self.fits}


@dataclass(frozen=True)
class _Launch:
    """What a kernel is compiled for; by ``run``, what launches it, no two differ."""

    name: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]
    options: tuple[tuple[str, int], ...]
    run: str = field(compare=False)


def ahead(
    spec: Spec,
    archs: Iterable[str] = ("sm_90",),
    *,
    hypers: Mapping[str, Any] | None = None,
    dtype: str = "bfloat16",
    tokens: int = 256,
    packed: bool = False,
    precision: str = "highest",
    wanted: Callable[[str], bool] | None = None,
) -> list[Kernel]:
    """Every kernel that a token system launches for so many tokens and for one, or an optimizer, for each of ``archs``.

    That is with gradients and without, and where ``checkpoint`` computes a part anew. ``packed``: as they are where
    ``cu_seqlens`` packs two sequences in the tokens. ``precision``: that of products of float32, as
    `torch.set_float32_matmul_precision` has it. ``wanted``: which, by their names.
    Raises SpecError for a spec with mistakes, BadHyper for a hyper that it cannot have, NotAhead where Triton is
    missing or interprets.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise NotAhead("TRITON_INTERPRET=1 interprets kernels, so that nothing is compiled")
    try:
        import triton  # noqa: F401
    except ImportError:
        raise NotAhead("Triton is not installed: `pip install triton`") from None
    made = spec.compile("triton")
    module = sys.modules[made.__module__]
    if not hasattr(module, "launch"):
        return []
    out = []
    for arch in archs:
        given = made, module, dict(hypers or {}), getattr(torch, dtype)
        if spec.system.context == "gradients":
            launches = _steps(*given)
        else:
            of = int(arch.removeprefix("sm_")) // 10
            names = {"generation": lambda: of} if hasattr(module, "generation") else {}  # noqa: B023
            with patched(module, **names), _precise(precision):
                launches = _recorded(spec, *given, tokens, packed)
        out += [_compiled(module, x, arch) for x in launches if wanted is None or wanted(x.name)]
    return out


@contextmanager
def _precise(precision: str) -> Iterator[None]:
    """Products of float32 in a precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _steps(made: type, module: Any, hypers: dict, dtype: torch.dtype) -> list[_Launch]:
    """The launches of steps of parameters of a dtype, as they are and with what the device keeps or draws."""
    found: dict[_Launch, None] = {}

    def launch(kernel: Any, grid: tuple, args: list, of: torch.dtype, **sizes: int) -> None:
        found[_launch(kernel, args, sizes, "step")] = None

    ways: list[dict[str, Any]] = [{}, {"capturable": True}]
    ways += [{"rounding_seed": 0}] if dtype != torch.float32 else []
    with patched(module, launch=launch, INTERPRETED=True):
        for way in ways:
            p = torch.nn.Parameter(torch.ones(64, 64, dtype=dtype))
            q = torch.nn.Parameter(torch.ones(64, dtype=dtype))
            try:
                opt = made([p, q], **hypers, **way)
            except (TypeError, ValueError) as error:
                raise BadHyper(str(error)) from None
            for _ in range(2):
                for x in (p, q):
                    x.grad = torch.ones_like(x)
                opt.step()
    return list(found)


def _recorded(
    spec: Spec,
    made: type,
    module: Any,
    hypers: dict,
    dtype: torch.dtype,
    tokens: int,
    packed: bool = False,
) -> list[_Launch]:
    """The launches of calls with gradients, without, with a checkpoint, and of one token, each kind once."""
    found: dict[_Launch, None] = {}
    run, again = "", max(16, tokens // 2)

    def launch(kernel: Any, grid: tuple, args: list, of: torch.dtype, **sizes: int) -> None:
        with patched(module, INTERPRETED=False):
            sizes |= module.arithmetic(of)
        found.setdefault(_launch(kernel, args, sizes, run))

    try:
        net = made(**hypers).to(dtype)
    except ValueError as error:
        raise BadHyper(str(error)) from None
    values = settled(spec.system, hypers)
    try:
        with patched(module, launch=launch, INTERPRETED=True):
            given = named(draw(spec.system, values, 1, tokens))
            given |= {n: x.to(dtype).requires_grad_() for n, x in numbers(given).items()}
            cuts = torch.tensor([0, tokens // 2, tokens]) if packed else None
            for run, net.checkpoint in (
                ("training", None),
                ("inference", None),
                ("checkpoint", again),
            ):
                with torch.set_grad_enabled(run != "inference"):
                    outputs, state = net(**given, cu_seqlens=cuts)
                outputs = outputs.values() if isinstance(outputs, dict) else [outputs]
                states = state if packed else [state]
                every = [*outputs, *(x for each in states for x in each.values())]
                if run != "inference":
                    sum(x.float().sum() for x in every if x.requires_grad).backward()
            run = "one token"
            with torch.no_grad():
                start = net.initial_state(next(iter(given.values())))
                net.step(**{n: x[:, 0] for n, x in given.items()}, state=start)
    except (TypeError, ValueError) as error:  # what the kernels do not take
        raise BadHyper(str(error)) from None
    return list(found)


def _launch(kernel: Any, args: list, sizes: Mapping[str, Any], run: str) -> _Launch:
    signature, constants, aligned = [], [], []
    for i, (name, value) in enumerate(zip(kernel.arg_names, args)):
        if isinstance(value, Tensor):
            signature.append((name, _POINTERS[value.dtype]))
            aligned.append(i)
        elif isinstance(value, float):
            signature.append((name, "fp32"))
        elif value is None or value == 1:  # as the compiler takes it at a launch
            signature.append((name, "constexpr"))
            constants.append((name, value))
        else:
            signature.append((name, "i32" if value < 2**31 else "i64"))
            aligned += [i] if value % 16 == 0 else []
    known = [(n, x) for n, x in sizes.items() if n in kernel.arg_names]
    launched = ("num_warps", "num_stages", "maxnreg")
    options = tuple((n, x) for n, x in sizes.items() if n in launched)
    signature += [(n, "constexpr") for n, _ in known]
    return _Launch(
        kernel.fn.__name__, tuple(signature), (*constants, *known), tuple(aligned), options, run
    )


def _compiled(module: Any, x: _Launch, arch: str) -> Kernel:
    """One kernel for one architecture, and what its assembler says of it."""
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # or Triton warns
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    target = GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    attributes = {(i,): [["tt.divisibility", 16]] for i in x.aligned}
    source = ASTSource(getattr(module, x.name), dict(x.signature), dict(x.constants), attributes)
    with knobs.runtime.scope(), knobs.compilation.scope():
        knobs.runtime.add_stages_inspection_hook = _heard
        made = triton.compile(source, target=target, options=dict(x.options))
        if not hasattr(made.metadata, _SAID):  # compiled before without this hook, and cached
            knobs.compilation.always_compile = True
            made = triton.compile(source, target=target, options=dict(x.options))
    said = getattr(made.metadata, _SAID)
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    if registers is None:
        raise NotAhead(f"the assembler says nothing of registers: {said[:200]}")
    options = dict(x.options)
    return Kernel(
        x.name,
        x.run,
        dict(x.constants).get("DK", 0),
        dict(x.constants).get("DV", 0),
        arch,
        options["num_warps"],
        options["num_stages"],
        int(registers[1]),
        sum(map(int, spills.groups())) if spills else 0,
        made.metadata.shared,
    )


def _heard(*given: Any) -> tuple[str, str] | None:
    """A hook of Triton's compiler that keeps what the assembler says beside the kernel, also in Triton's cache.

    It is Triton's own run of the assembler, whose options decide on registers and spills and differ by version.
    Without arguments: what the hook adds to the key of that cache.
    """
    if not given:
        return _SAID, _SAID
    from triton import knobs

    stages = given[1]
    assemble = stages["cubin"]

    def heard(text: str, metadata: dict[str, Any]) -> bytes:
        with knobs.nvidia.scope(), redirect_stdout(StringIO()) as said:
            knobs.nvidia.dump_ptxas_log = True
            made = assemble(text, metadata)
        metadata[_SAID] = said.getvalue()
        return made

    stages["cubin"] = heard
    return None


def table(kernels: list[Kernel]) -> str:
    """One line a kernel; what spills or does not fit is marked."""
    if not kernels:
        return "no kernels: no state of this system is a matrix that is scanned"
    head = (
        "kernel",
        "run",
        "dk",
        "dv",
        "arch",
        "warps",
        "stages",
        "registers",
        "spills",
        "shared memory",
        "",
    )
    rows = [head]
    for k in kernels:
        limit = LIMITS[k.arch]
        marks = ["spills"] * (k.spills > 0) + ["does not fit"] * (not k.fits)
        shared = f"{k.shared:,} of {limit:,}"
        numbers = (str(x) for x in (k.warps, k.stages, k.registers, k.spills))
        sizes = (str(x) if x else "" for x in (k.dk, k.dv))
        rows.append((k.name, k.run, *sizes, k.arch, *numbers, shared, ", ".join(marks)))
    wide = [max(len(r[i]) for r in rows) for i in range(len(head))]
    left = (0, 1, 4, 10)
    lines = [
        "  ".join(x.ljust(w) if i in left else x.rjust(w) for i, (x, w) in enumerate(zip(r, wide)))
        for r in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
