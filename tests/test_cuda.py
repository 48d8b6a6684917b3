"""What the backends `torch` and `triton` generate, on a CUDA device. Skipped where there is none."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from agreement import Both
from shipped_specs import GRADIENTS, TOKENS

import nlc
from nlc.runtime.verify.draws import draw
from nlc.tools.sizes import settled

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


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


KERNELS = {  # by fla's measure: RMS of the error over that of what is right
    "linear_attention": 0.008,
    "retnet": 0.008,
    "mamba2": 0.02,
    "gla": 0.02,
    "delta_net": 0.008,
    "gated_delta_net": 0.02,
}


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the error, relative to what is right; errors below 1e-6 count as none, as fla has it."""
    away = a.double() - b
    if away.abs().max() < 1e-6:
        return 0.0
    return (away.square().mean().sqrt() / b.square().mean().sqrt()).item()


def sized(name: str, **sizes: int) -> dict[str, int]:
    """Those of the sizes that a system has."""
    return {n: x for n, x in sizes.items() if n in nlc.load(name).system.hypers}


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32))
@pytest.mark.parametrize(("length", "width"), ((300, 128), (130, 64), (1, 64)))
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compute_what_float64_does(
    name: str, length: int, width: int, dtype: torch.dtype
) -> None:
    """Outputs, states, and gradients by all inputs."""
    spec = nlc.load(name, operator=True)
    sizes = sized(name, d=2 * width, heads=2, expand=1, p=width, n=width)
    exact, kernels = (spec.compile(b)(**sizes) for b in ("torch", "triton"))
    torch.manual_seed(0)
    flows = draw(spec.system, settled(spec.system, sizes), 2, length)
    given = {n: x.detach().cuda().to(dtype) for n, x in flows.items()}
    given = {
        n: torch.nn.functional.normalize(x, dim=-1) if n in ("k", "q") else x
        for n, x in given.items()
    }

    def run(net: torch.nn.Module, of: torch.dtype) -> dict[str, torch.Tensor]:
        leaves = {n: x.to(of).requires_grad_() for n, x in given.items()}
        y, state = net(**leaves)
        out = {"y": y, **{n: x for n, x in state.items() if x.is_floating_point()}}
        noise = torch.Generator("cuda").manual_seed(1)
        loss = sum(
            (x.double() * torch.randn(x.shape, generator=noise, device="cuda")).sum()
            for x in out.values()
        )
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        return out | dict(zip(leaves, slopes, strict=True))

    wanted, found = run(exact, torch.float64), run(kernels, dtype)
    most = KERNELS[name] if dtype == torch.bfloat16 else 1e-3
    most *= 1 if length > 1 else 3  # a few numbers, sums that may cancel: no average
    assert {n: e for n in wanted if not (e := rms(found[n], wanted[n])) < most} == {}


@pytest.mark.parametrize("name", TOKENS)
def test_modules_with_kernels_are_those_without(name: str) -> None:
    sizes = sized(name, d=64, heads=2, chunk=16)
    torch.manual_seed(0)
    exact, kernels = (nlc.load(name).compile(b)(**sizes).cuda() for b in ("torch", "triton"))
    kernels.load_state_dict(exact.state_dict())
    x = torch.randn(2, 70, 64, device="cuda")
    wanted, found = ([], [])
    for net, out in ((exact, wanted), (kernels, found)):
        y, _ = net(x)
        y.square().mean().backward()
        out += [y.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]
    assert len(wanted) == len(found)
    assert all(rms(a, b.double()) < 1e-2 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", ("gated_delta_net", "rwkv6", "linear_transformer"))
def test_packed_sequences_of_a_layer_wait_for_nothing(name: str) -> None:
    """Behind convolutions, previous values and sums, forward and backward, where the cuts are on the device."""
    net = nlc.load(name).compile("triton")(d=64, heads=2).cuda()
    x = torch.randn(1, 200, 64, device="cuda", requires_grad=True)
    at = [0, 2, 2, 90, 200]
    cuts, found = torch.tensor(at, device="cuda", dtype=torch.int32), []

    def run() -> None:
        y, _ = net(x, cu_seqlens=cuts)
        found.append((y, *torch.autograd.grad(y.square().sum(), x)))

    run()  # what is checked before a first launch is looked at
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    alone = [net(x[:, a:b])[0] for a, b in pairwise(at) if a < b]
    y = torch.cat(alone, 1)
    slope = torch.autograd.grad(y.square().sum(), x)[0]
    assert rms(found[1][0], y) < 0.008 and rms(found[1][1], slope) < 0.008


def test_kernels_stand_in_a_compiled_graph() -> None:
    net = nlc.load("gated_delta_net").compile("triton")(d=64, heads=2).cuda()
    x = torch.randn(2, 70, 64, device="cuda")
    compiled = torch.compile(net, fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], net(x)[0], rtol=1e-2, atol=1e-3)


OPTIMIZERS = GRADIENTS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_captured_step_goes_on_under_a_schedule(name: str) -> None:
    """A CUDA graph of one step, replayed, beside plain steps: rates, counts and slow periods included."""
    made = nlc.compile(name)
    ends = []
    for captured in (True, False):
        noise = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.randn(6, 4, generator=noise, dtype=torch.float64).cuda())
        opt = made([p], lr=0.01, capturable=captured)
        p.grad = torch.empty_like(p)
        graph = torch.cuda.CUDAGraph()
        for tick in range(20):
            p.grad.copy_(torch.randn(6, 4, generator=noise, dtype=torch.float64))
            opt.param_groups[0]["lr"] *= 0.9
            if not captured or tick < 3:
                opt.step()
                continue
            if tick == 3:
                torch.cuda.synchronize()
                with torch.cuda.graph(graph):
                    opt.step()
            graph.replay()
        ends.append(p.detach().cpu())
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("capturable", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_launch_is_the_steps_of_all(name: str, dtype: torch.dtype, capturable: bool) -> None:
    """Kernels of optimizers beside the torch backend, with gradients that lie elsewhere in each step."""
    try:
        made = [nlc.load(name).compile(b) for b in ("triton", "torch")]
    except nlc.SpecError:
        pytest.skip("no rule of it treats all elements alike")
    ends = []
    for cls in made:
        noise = torch.Generator().manual_seed(0)
        shapes = [(70, 33), (4096,), (3,), ()]
        ps = [torch.nn.Parameter(torch.randn(s, generator=noise).to(dtype).cuda()) for s in shapes]
        opt = cls(ps, lr=0.01, capturable=capturable)
        opt.register_step_pre_hook(lambda *_: torch.manual_seed(0) and None)  # starts may be drawn
        for _ in range(6):
            for p in ps:
                p.grad = torch.randn(p.shape, generator=noise).to(dtype).cuda()
            opt.step()
        ends.append([p.detach().float() for p in ps])
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_a_launch_does_not_wait_for_the_device() -> None:
    p = torch.nn.Parameter(torch.ones(4096, device="cuda"))
    opt = nlc.load("adamw").compile("triton")([p])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            p.grad = torch.ones_like(p)
            opt.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_launches_are_captured_and_go_on_under_a_schedule() -> None:
    """Which kernel runs is compiled once; a graph of the step reads its numbers on the device."""
    p, q = (torch.nn.Parameter(torch.ones(4096, device="cuda")) for _ in range(2))
    opts = [nlc.load("adamw").compile("triton")([x], capturable=x is p, lr=0.1) for x in (p, q)]
    graph = torch.cuda.CUDAGraph()
    for x in (p, q):
        x.grad = torch.full_like(x, 0.5)
    for tick in range(8):
        for opt in opts:
            opt.param_groups[0]["lr"] *= 0.9
        opts[1].step()
        if tick < 3:
            opts[0].step()
            continue
        if tick == 3:
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                opts[0].step()
        graph.replay()
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
