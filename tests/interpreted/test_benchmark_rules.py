"""Our side of the benchmark of kernels: right by the comparison that is made before it is timed, for every rule."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import kernels
from kernel_rules import MODES, RULES

SOON = (  # the kernels of the others are in the files beside
    *(("kda", "forward"), ("kda", "step"), ("delta", "forward+backward")),
    ("gated_delta_packed", "forward+backward"),
)


@pytest.mark.parametrize(
    ("rule", "mode"),
    [
        pytest.param(rule, mode, marks=[pytest.mark.long] * ((rule, mode) not in SOON))
        for rule in RULES
        for mode in (MODES[:2] if RULES[rule].packed else MODES[:3])
    ],
)
def test_our_side_is_right(rule: str, mode: str) -> None:
    assert kernels.wrong("triton", kernels.Row(rule, 2, 2, 20, 8, mode)) == ""
