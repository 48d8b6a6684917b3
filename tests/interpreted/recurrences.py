"""What the kernels of scans and reads stand for, token by token in float64, and texts of generated files as modules."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from nlc.backends.torch.helpers import with_needed
from nlc.backends.triton.forms import KernelForm
from nlc.backends.triton.texts import forms, texts

HEAD = """from __future__ import annotations
import functools, hashlib, inspect, json, math, os, re, warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn
"""
Tensors = dict[str, Tensor]


def module(
    folder: Path,
    names: Iterable[str],
    chunk: int | None = None,
    cut: bool = True,
    seen: bool = True,
) -> ModuleType:
    """The named helpers of a generated file, and what they need, as a module."""
    known = texts(cut, seen)
    text = HEAD + "\n\n".join(known[n] for n in with_needed(set(names), known))
    if chunk is not None:
        text = re.sub(r"(?m)^CHUNK = \d+", f"CHUNK = {chunk}", text)
    name = (
        f"kernels_{'_'.join(sorted(names))}_{chunk}{'_uncut' * (not cut)}{'_unseen' * (not seen)}"
    )
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


# Of those with keys that heads share: they differ from the others in where keys are, and in nothing else.
SHARING = ("additive_memory", "gated_delta_at_rated", "gated_delta_rated_unit")
TESTED = [f for f in forms() if not f.grouped or f.scan.removesuffix("_grouped") in SHARING]


def inputs(f: KernelForm, T: int, dk: int, dv: int, lead: tuple[int, ...] = (1, 2)) -> Tensors:
    """Random arguments of a scan in float64, and q and v, which reads take."""
    torch.manual_seed(0)
    lead = (*lead[:-1], lead[-1] * 2) if f.grouped else lead
    draw = lambda *shape: torch.randn(*lead, *shape, dtype=torch.float64)  # noqa: E731
    each = lambda x: x[..., ::2, :, :] if f.grouped else x  # noqa: E731
    key = lambda: each(draw(T, dk))  # noqa: E731
    given = {"S": draw(dv, dk), "k": F.normalize(key(), dim=-1), "u": draw(T, dv)}
    if f.erase:
        given["b"] = draw(T).sigmoid()
    if f.kind == "scalar":
        given["log_a"] = -3 * torch.rand(*lead, T, dtype=torch.float64)
    if f.rate:
        given["w"] = draw(T)
    if f.probe:
        given["p"] = F.normalize(key(), dim=-1)
    if f.unit:  # of any length
        given["k"] = 3 * key()
    return given | {"q": key()} | ({"v": draw(T, dv)} if turns(f) else {})


def turns(f: KernelForm) -> bool:
    """Whether its kernels read transposes."""
    return not f.unit and not f.grouped


EPS = 1e-6  # of lengths


def expected(f: KernelForm, x: Tensors) -> Tensors:
    """S after the last token, and what is read after and before each write, as it is and transposed."""
    if f.unit:
        length = lambda y: (y.square().sum(-1, keepdim=True) + EPS).sqrt()  # noqa: E731
        x = x | {n: x[n] / length(x[n]) for n in ("k", "q")}
    if f.grouped:
        x = x | {n: x[n].repeat_interleave(2, -3) for n in ("k", "p", "q") if n in x}
    S, out = x["S"], {"after": [], "before": [], "turned": []}
    zero = torch.zeros_like(x["k"][..., 0])
    b, log_a, w = x.get("b", zero), x.get("log_a", zero), x.get("w", zero + 1)
    p = x.get("p", x["k"])
    for t in range(x["k"].shape[-2]):
        out["before"].append((S @ x["q"][..., t, :, None]).squeeze(-1))
        answer = (S @ p[..., t, :, None]).squeeze(-1)
        row = w[..., t, None] * x["u"][..., t, :] - b[..., t, None] * answer
        S = log_a[..., t, None, None].exp() * S + row[..., None] * x["k"][..., t, None, :]
        out["after"].append((S @ x["q"][..., t, :, None]).squeeze(-1))
        if turns(f):
            out["turned"].append((S.mT @ x["v"][..., t, :, None]).squeeze(-1))
    if not turns(f):
        del out["turned"]
    return {"end": S} | {n: torch.stack(each, -2) for n, each in out.items()}


def found(kernels: ModuleType, f: KernelForm, x: Tensors) -> Tensors:
    """The same by kernels."""
    args = [x[n] for n in ("S", "k", "u", "b", "log_a", "w", "p") if n in x]
    length = [EPS] if f.unit else []
    end, rows, starts = getattr(kernels, f.scan)(*args, *length)
    more = [*([x["log_a"]] if f.kind == "scalar" else []), *length]
    after, before = (getattr(kernels, f.read(when)) for when in ("after", "before"))
    out = {
        "end": end,
        "after": after(x["q"], x["k"], rows, starts, *more),
        "before": before(x["q"], x["k"], rows, starts, *more),
    }
    if turns(f):
        out["turned"] = after(x["v"], rows, x["k"], starts.mT, *more)
    return out


def slopes(out: Tensors, given: Tensors) -> Tensors:
    """By all that is given, of the outputs times fixed noise."""
    noise = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=torch.float64)
    for x in out.values():
        loss = loss + (x * torch.randn(x.shape, generator=noise).to(x.dtype)).sum()
    return dict(zip(given, torch.autograd.grad(loss, list(given.values())), strict=True))


def error(a: Tensor, b: Tensor) -> float:
    """Of a against b, relative to the size of b, or to 0.01 where that is less."""
    return ((a.double() - b).norm() / b.norm().clamp(min=0.01 * b.numel() ** 0.5)).item()


@cache
def names(f: KernelForm) -> frozenset[str]:
    """What is called for a form."""
    return frozenset({f.scan, f.read("after"), f.read("before")})
