"""Kernels in Triton's interpreter: on CPU tensors, in a process that says so before Triton is imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
sys.path.insert(0, str(Path(__file__).parent.parent))
torch.set_num_threads(1)
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]


def patched_once() -> None:
    """Keeps the interpreter from doing again what is done, which is 40 % of what kernels take.

    It patches Triton's language for a launch, and once more for every function that is called within: then it looks
    at all that the language has and finds it patched.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    patch = interpreter._patch_lang

    def patched(fn: Any) -> Any:
        seen = [x for x in fn.__globals__.values() if x is tl or x is tl.core]
        if seen and not any(tl.core.is_builtin(x.load) for x in seen):
            return SimpleNamespace(restore=lambda: None)  # by the launch, which restores it too
        return patch(fn)

    interpreter._patch_lang = patched


if INTERPRETED:
    patched_once()
