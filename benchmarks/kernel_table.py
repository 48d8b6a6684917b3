"""The table of the benchmark of kernels: its cells, what was aimed at, and under what it was measured."""

from __future__ import annotations

import subprocess
from typing import Any

import torch
import triton
from chunked import Median, surroundings
from kernel_rules import CHUNK, RULES, Row, has_kernels

SIDES = ("triton", "fla", "torch")
CUDA = torch.cuda.is_available()
PEAK = 790e12  # flop/s in bfloat16 of an H200, stated and not measured
AIMS = {"forward": 0.45, "backward": 1.5}  # ms, the gated delta rule at the first shape
TUNING = dict(warmup=5, rep=20)  # ms of each configuration that fla tries
NONE = "not measured: no CUDA device"


def cell(found: dict[str, Any] | str) -> str:
    """One side of a row."""
    if isinstance(found, str):
        return found
    text = str(Median(found["seconds"], found["spread"]))
    return text + (f", backward {found['backward'] * 1e3:,.2f} ms" if found["backward"] else "")


def _ratio(found: dict[str, Any], of: str) -> float | None:
    ours, theirs = found.get("triton"), found.get(of)
    if isinstance(ours, str) or isinstance(theirs, str) or not ours or not theirs:
        return None
    return theirs["seconds"] / ours["seconds"]


def verdict(row: Row, found: dict[str, Any]) -> str:
    """Met, missed, or why there is no saying so."""
    out, ratio, ours = [], _ratio(found, "fla"), found.get("triton")
    if ratio is not None:
        out.append(f"≥ 1 × fla: {'met' if ratio >= 1 else 'missed'}")
    if (row.rule, row.length, row.n) == ("gated_delta", 4096, 128) and isinstance(ours, dict):
        name, key = ("backward", "backward") if ours["backward"] else ("forward", "seconds")
        if name in row.mode and not row.mode.startswith("step"):
            ms = ours[key] * 1e3
            out.append(f"{name} ≤ {AIMS[name]} ms: {'met' if ms <= AIMS[name] else 'missed'}")
    if not has_kernels(row.rule):
        out.append("`triton` has no kernel for it yet and does what `torch` does")
    return "; ".join([*out, *filter(None, [RULES[row.rule].note])])


def missed(found: dict[str, Any]) -> bool:
    """Whether fla is faster, or our side has no time at all where there is a device."""
    ratio, ours = _ratio(found, "fla"), found.get("triton", NONE)
    return (isinstance(ours, str) and ours != NONE) or (ratio is not None and ratio < 1)


def table(rows: list[Row], found: dict[Row, dict[str, Any]]) -> str:
    """Markdown, of what is known so far."""
    lines = [
        "| rule | shape | mode | `triton` | fla | `torch` | floor | fla / `triton` | `torch` / `triton` | aims |",
        "|---|---|---|---|---|---|---:|---:|---:|---|",
    ]
    unknown = {"sides": dict.fromkeys(SIDES, "not yet measured" if CUDA else NONE)}
    for row in rows:
        result = found.get(row, unknown)
        sides, cost = result["sides"], result.get("floor")
        least = "" if CUDA else NONE
        if cost:
            ms = cost[0] / result["bandwidth"] * 1e3
            least = f"{ms:.3f} ms, products {cost[1] / PEAK * 1e3:.3f} ms"
        cells = [RULES[row.rule].title, row.shape, row.mode, *(cell(sides[x]) for x in SIDES)]
        cells += [
            least,
            *("" if (r := _ratio(sides, x)) is None else f"{r:.2f}" for x in SIDES[1:]),
        ]
        lines.append(f"| {' | '.join([*cells, verdict(row, sides)])} |")
    return "\n".join(lines)


def where() -> str:
    """GPU, driver, versions and commit."""
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(ask, capture_output=True, text=True).stdout.strip()
    except OSError:
        driver = ""
    return f"{surroundings()}, Triton {triton.__version__}, driver {driver or 'none'}"


ABOUT = f"""\
bfloat16, decays in float32. Medians of {{rounds}} rounds in which all sides take turns, ± half of what lies between \
the quartiles; CUDA events around calls that are queued, caches emptied before each. A step is one token of each of B \
sequences that have a state; in a CUDA graph nothing is launched from Python. Forward alone wants no slopes, so that a \
scan and its read are one kernel where its programs fill the GPU. The floor is what inputs, outputs and their \
gradients take at the speed of a copy measured beside (states too in a step); the products of chunks of {CHUNK} at \
{PEAK / 1e12:.0f} TFLOP/s, a stated peak, are only noted.

fla chooses the configurations of its kernels by itself, from {TUNING["rep"]} ms of each.

Before it is timed, each side's outputs and gradients on 2 × 256 tokens are compared with `torch` in float32, by the \
RMS of the error relative to that of the values, within fla's own tolerances. fla refuses gated gradients with \
Triton ≥ 3.4 and < 3.7.1 on Hopper, where its kernel may be compiled wrongly; here `TRITON_ABOVE_3_7_1` of \
`fla.ops.common.chunk_o` is set to True, and the comparison decides. T 65,536 has B 1, twice the tokens of the \
other lengths."""
