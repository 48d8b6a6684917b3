"""Heads of values that share keys: `split(z, groups)` in every backend."""

from __future__ import annotations

import pytest
import torch
from agreement import Both
from grouped_specs import GROUPED

import nlc

SIZES = {"heads": 6, "key_heads": 2, "d": 24, "dk": 3}


@pytest.mark.parametrize("operator", (False, True))
def test_torch_is_the_reference(operator: bool) -> None:
    both = Both(nlc.loads(GROUPED, operator=operator), SIZES)
    assert both.plans["S"] == "chunked"
    assert both.apart(20, before=7) == {}


def test_the_reference_is_the_interpreter() -> None:
    assert nlc.loads(GROUPED).verify(tokens=100).passed


def test_an_operator_with_keys_of_groups_is_one_with_each_repeated() -> None:
    torch.manual_seed(0)
    draw = lambda *shape: torch.randn(2, 9, *shape, dtype=torch.float64)  # noqa: E731
    gates = {"alpha": draw(6).sigmoid(), "beta": draw(6).sigmoid()}
    q, k, v = draw(6), draw(6), draw(6, 4)
    grouped = nlc.loads(GROUPED, operator=True).compile("torch")(**SIZES)
    assert "k [B, T, dk*key_heads]" in grouped.__doc__
    y, state = grouped(q, k, v, **gates)
    each = nlc.load("gated_delta_net", operator=True).compile("reference")
    wide = (x.unflatten(-1, (2, 3)).repeat_interleave(3, 2) for x in (q, k))
    expected, end = each(heads=6, d=24, dk=3)(*wide, v, **gates)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(state["S"], end["S"], rtol=0, atol=1e-12)


def test_a_number_of_each_group_and_convolutions_of_each_head() -> None:
    """What has weights is of each head as ever; it stands inside `split` where heads are to share it."""
    text = GROUPED.replace(
        "alpha: sigmoid(split(linear(x)) + 4)", "alpha: sigmoid(split(linear(x), key_heads))"
    )
    text = text.replace(
        "silu(conv(linear(x, key_heads * dk), 4)), key_heads)",
        "linear(x, key_heads * dk), key_heads)",
    )
    text = text.replace("q: l2norm(split(", "q: l2norm(conv(split(").replace(
        "key_heads))\nlev", "key_heads), 4))\nlev"
    )
    both = Both(nlc.loads(text), SIZES)
    weights = dict(both.reference.named_parameters())
    assert (
        weights["q.conv.weight"].shape == (6, 3, 4) and weights["alpha.linear.weight"].shape[0] == 2
    )
    assert both.apart(9) == {}


def test_heads_that_groups_do_not_divide_are_refused() -> None:
    made = nlc.loads(GROUPED).compile("torch")
    with pytest.raises(ValueError, match="heads = 6 is not divisible by key_heads = 4"):
        made(heads=6, key_heads=4, d=24)
    text = GROUPED.replace("d: 64, ", "d: 64, groups_of: 2, ").replace(
        "heads: 4", "heads: groups_of * 2"
    )
    made = nlc.loads(text.replace("key_heads: 2", "key_heads: groups_of")).compile("torch")
    with pytest.raises(ValueError, match="heads = 6 is not divisible by key_heads = 4"):
        made(groups_of=3, key_heads=4, d=24)


def test_kernels_are_given_the_keys_of_groups_where_nothing_else_reads_them() -> None:
    text = nlc.loads(GROUPED).source_text("triton")
    assert (
        "gated_delta_rated_unit_grouped_raw(" in text
        and "repeat_interleave" not in text.split("\nclass ")[-1]
    )
    seen = GROUPED.replace("S(q)) *", "S(q) + prev(q, 0)) *").replace("{d: 64", "{d: 64, n: 16")
    text = nlc.loads(seen.replace("dv: d / heads", "dv: dk")).source_text("triton")
    assert "_grouped" not in text and "repeat_interleave" in text
