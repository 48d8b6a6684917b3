"""Kernels in Triton's interpreter: on CPU tensors, in a process that says so before Triton is imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
sys.path.insert(0, str(Path(__file__).parent.parent))
torch.set_num_threads(1)
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]

if INTERPRETED:
    import interpreter

    interpreter.hasten()
