"""The surroundings of a measurement, in one line."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from nlc.version import __version__


def machine(device: str = "cpu") -> str:
    """Processor, how busy it is, and the versions of what runs."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    parts = f"{_processor()}, {os.cpu_count()} cores{load}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, nlc {__version__}"
    if torch.device(device).type == "cuda":
        parts = f"{torch.cuda.get_device_name(device)}; {parts}"
    return f"{parts}; {versions}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
