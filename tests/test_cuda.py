"""What the backend `torch` generates computes the same on a CUDA device. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from agreement import Both

import nlc
from nlc.pipeline import shipped

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

TOKENS = [n for n in shipped() if nlc.load(n).system.context == "tokens"]


@pytest.mark.parametrize("length, before", [(1, 0), (13, 3), (70, 5)])
@pytest.mark.parametrize("name", TOKENS)
def test_float64_on_cuda_is_the_reference_on_a_cpu(name: str, length: int, before: int) -> None:
    assert Both(nlc.load(name), device="cuda").apart(length, before) == {}


@pytest.mark.parametrize("name", TOKENS)
def test_autocast_trains_in_bfloat16(name: str) -> None:
    both = Both(nlc.load(name), width=16)
    net, (given, _, _) = both.torch.float().cuda(), both._expected(70, 0, 2)
    flows = {n.replace("'", "_"): x.float().cuda() for n, x in given.items()}
    with torch.autocast("cuda", torch.bfloat16):
        y, _ = net(**flows)
    outputs = list(y.values()) if isinstance(y, dict) else [y]
    sum(x.float().square().mean() for x in outputs).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert all(x.isfinite().all() for x in outputs)


def test_pieces_of_a_stream_stay_on_the_device() -> None:
    net = nlc.load("hope").compile("torch")(d=16, heads=1, chunk=8, memory_chunk=8).cuda()
    x = torch.randn(2, 40, 16, device="cuda")
    whole, _ = net(x)
    first, state = net(x[:, :24])
    second, last = net(x[:, 24:], state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-3, atol=1e-4)
    assert all(s.device == x.device for s in last.values())
