"""What no token changes as key, value, query or gate: slow weights, with heads and without, beside positions."""

from __future__ import annotations

import pytest
import torch
from agreement import Both
from constant_specs import MLP, READS, STEPS, constant

import nlc

shared = pytest.mark.parametrize("per", ("", ", per: head"), ids=("shared", "each head its own"))


@shared
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("step", STEPS)
def test_it_means_the_same_in_chunks(step: str, read: str, per: str) -> None:
    found = Both(nlc.loads(constant(STEPS[step], READS[read], per)))
    assert found.plans["S"] in ("chunked", "anchored")
    assert not found.apart(23) and not found.apart(9, before=6)


@shared
def test_it_is_given_to_the_tiles_of_an_mlp(per: str) -> None:
    found = Both(nlc.loads(constant(MLP, "S(u)", per, "mlp(n, 2)")))
    assert found.plans["S"] == "anchored" and not found.apart(23)


def test_another_name_of_a_weight_is_as_precise_as_the_states() -> None:
    spec = nlc.loads(constant(STEPS["gated"], "S(u)"))
    for backend in ("reference", "torch"):
        net = spec.compile(backend)(dtype=torch.bfloat16)
        y, state = net(torch.randn(1, 5, 8, dtype=torch.bfloat16))
        assert (y.dtype, state["S"].dtype) == (torch.bfloat16, torch.float32)
