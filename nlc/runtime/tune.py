"""How kernels run fastest on this GPU: channels of dv, warps and stages of each kind at the sizes of a spec.

What is found goes to a file that generated files read at their first launch, and check before they use it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from nlc.runtime.bench.cases import Ask, Case
from nlc.runtime.loader import write_atomically
from nlc.runtime.trials import (
    Clock,
    Config,
    Events,
    Job,
    NotTunable,
    Target,
    apart,
    fitting,
    here,
    patched,
    saying,
    wall,
)
from nlc.tools.sizes import BadHyper, settled

if TYPE_CHECKING:
    from nlc.pipeline import Spec

GAIN = 0.98  # of the time before is what another configuration must stay below


@dataclass(frozen=True)
class Row:
    """What was found for a kind of kernel at a size; seconds are those of a launch, None where it did not run."""

    kind: str
    dk: int
    dv: int
    before: Config
    after: Config
    seconds_before: float | None
    seconds_after: float | None
    tried: int
    discarded: tuple[str, ...]  # candidates that do not count, and why

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


def tune(
    spec: Spec,
    *,
    hypers: Mapping[str, Any],
    dtype: str,
    tokens: int,
    batch: int,
    progress: Callable[[str], None] | None = None,
    clock: Clock | None = None,
    spawn: bool = True,
) -> list[Row]:
    """Tries every kind of kernel of a token system and keeps the best in the file that generated files read.

    With a ``clock`` it also runs without a GPU, in Triton's interpreter; ``spawn``: each kind in a process of its own.
    Raises NotTunable, SpecError for a spec with mistakes, BadHyper for a hyper that it cannot have.
    """
    cuda = torch.cuda.is_available()
    if spec.system.context != "tokens":
        said = f"`{spec.system.name}` has the context {spec.system.context}"
        raise NotTunable(f"`tune` is for token systems, and {said}")
    if not cuda and clock is None:
        raise NotTunable("this torch has no CUDA device")
    settled(spec.system, hypers)
    made = spec.compile("triton")
    module = sys.modules[made.__module__]
    if not hasattr(module, "configured"):
        return []
    text, name, threads = spec.source.text, spec.source.name, torch.get_num_threads()
    device = "cuda" if cuda else "cpu"
    ask = Ask(text, name, spec.as_operator, dict(hypers), batch, dtype, device, threads, 0)
    tell, rows = progress or (lambda _: None), []
    targets = _targets(spec, made, module, ask, tokens)
    for kind in dict.fromkeys(kind for kind, _, _ in targets):
        own = {t: x for t, x in targets.items() if t[0] == kind}
        grids = {t: candidates(module, t, parted) for t, (_, parted) in own.items()}
        work = [(t, c) for t, grid in grids.items() for c in (*grid, grid[0])]
        job = Job(ask, next(iter(own.values()))[0], tokens, clock or Events(), tuple(work))
        found: dict[Target, dict[Config, float | str]] = {t: {} for t in own}
        tell(f"{kind}: {len(work)} candidates")
        for i, (target, config, said) in enumerate((apart if spawn else here)(job), 1):
            mine = found[target]  # what is in force comes twice, since a GPU starts slowly
            mine[config] = min((mine.get(config, said), said), key=_badness)
            took = said if isinstance(said, str) else f"{_micro(said)} µs"
            tell(f"{kind}: {i} of {len(work)}, {_shown(config)}: {took}"[:60])
        new = [_row(t, found[t]) for t in own]
        _keep(tuned_file(module), "cpu" if not cuda else torch.cuda.get_device_name(), new)
        rows += new
    tell("")
    return rows


def _targets(
    spec: Spec, made: type, module: ModuleType, ask: Ask, tokens: int
) -> dict[Target, tuple[str, bool]]:
    """What is launched: in which mode, and whether it matters how many channels a program holds.

    On the CPU, by launches that do nothing.
    """
    found: dict[Target, tuple[str, bool]] = {}

    def launch(kernel: Any, *_: Any, KIND: Target | None = None, **sizes: Any) -> None:
        if KIND is not None:
            first, parted = found.get(KIND, (mode, False))
            found[KIND] = first, parted or "BV" in kernel.arg_names

    with patched(module, INTERPRETED=True, launch=launch, sizes_of=saying(module)):
        for mode in ("forward+backward", "forward", "step"):
            try:
                case = Case(spec, made, replace(ask, device="cpu"), mode, min(tokens, 256))
            except ValueError as error:
                raise BadHyper(str(error)) from None
            case.stream = case.stream[:1]
            case.begin()
            case.run()
    return found


def candidates(module: ModuleType, target: Target, parted: bool) -> list[Config]:
    """What is in force, then a small grid around the table of the file."""
    now = module.configured(*target)
    with patched(module, INTERPRETED=True):
        held, warps, stages = fitting(module, target, module.configured(*target))
    blocks = [b for b in (held, held // 2, 2 * held) if b >= min(16, held)] if parted else [held]
    grid = [(b, w, stages) for b in blocks for w in (warps, warps // 2, 2 * warps)]
    grid += [(held, warps, s) for s in (1, 2, 3) if stages > 1]  # without loops there are none
    grid = [x for x in grid if 1 <= x[1] <= 8]
    return list(dict.fromkeys(fitting(module, target, x) for x in (now, *grid)))


def _badness(said: float | str) -> tuple[bool, float]:
    """An error counts, whatever was measured before."""
    return (False, 0.0) if isinstance(said, str) else (True, said)


def _row(target: Target, found: dict[Config, float | str]) -> Row:
    """The fastest, or what was in force where that is about as fast."""
    times = {c: x for c, x in found.items() if not isinstance(x, str)}
    before = next(iter(found))
    best = min(times, key=times.__getitem__, default=before)
    if before in times and times[best] > GAIN * times[before]:
        best = before
    bad = tuple(f"{_shown(c)}: {x}" for c, x in found.items() if isinstance(x, str))
    return Row(*target, before, best, times.get(before), times.get(best), len(found), bad)


def tuned_file(module: ModuleType) -> Path:
    """Where a generated file looks."""
    return module.kernel_cache() / "tuned.json"


def _keep(path: Path, gpu: str, rows: list[Row]) -> None:
    """Adds to what is there: by version of Triton and GPU, ``"kind dk dv": [channels, warps, stages]``."""
    import triton

    try:
        known = json.loads(path.read_text())
        mine = known.setdefault(triton.__version__, {}).setdefault(gpu, {})
        mine.update()
    except (OSError, ValueError, AttributeError):  # none, or none that could be read
        mine, known = {}, {}
        known[triton.__version__] = {gpu: mine}
    mine |= {f"{r.kind} {r.dk} {r.dv}": list(r.after) for r in rows if r.seconds_after is not None}
    write_atomically(path, json.dumps(known, indent=1, sort_keys=True) + "\n")


def table(rows: list[Row]) -> str:
    """One line a kind and size, with the time of a launch; then what does not count."""
    if not rows:
        return "no kernels to tune: no state of this system is a matrix that is scanned alone"
    lines = [("kernel", "dk", "dv", "before", "after", "µs before", "µs after", "tried")]
    for r in rows:
        times = (_micro(r.seconds_before), _micro(r.seconds_after))
        configs = _shown(r.before), _shown(r.after)
        lines.append((r.kind, str(r.dk), str(r.dv), *configs, *times, str(r.tried)))
    wide = [max(map(len, column)) for column in zip(*lines)]
    text = [
        "  ".join(x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(line, wide)))
        for line in lines
    ]
    text += ["", "before and after: channels of dv that a program holds, warps, stages"]
    text += [
        f"left out, {r.kind} at dk = {r.dk}, dv = {r.dv}, {x}" for r in rows for x in r.discarded
    ]
    return "\n".join(text)


def _micro(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e6:,.1f}"


def _shown(config: Config) -> str:
    return "/".join(map(str, config))


__all__ = ["NotTunable", "Row", "table", "tune", "wall"]
