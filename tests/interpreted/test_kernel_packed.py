"""Sequences packed in one, cut where kernels read it: the streams that they would be, each alone, in float64."""

from __future__ import annotations

import random
import sys

import pytest
import torch
from grouped_specs import GROUPED
from recurrences import error
from shipped_specs import load
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import nlc
from nlc.pipeline import Spec
from nlc.runtime.verify.draws import draw
from nlc.tools.sizes import Values, settled, small

LATER = pytest.mark.long
MOST = 3e-5  # of float32 against float64
MEMORY = """
nlc: 1
system: packed
context: tokens
hyper: {n: 8}
heads: 2
inputs: {q: [n], k: [n], v: [n], a: [n], b: []}
levels:
  S:
    frequency: every token
    memory: matrix(n, n)
    key: l2norm(k)
    value: v
    objective: 0.5 * sqnorm(S(key) - value)
    STEP
outputs: {y: [n], z: [n]}
output: {y: S(q), z: prev(S)(q)}
"""
COUPLED = MEMORY.replace("STEP", "rule: momentum(lr=0.5, beta=sigmoid(b))").replace("a: [n], ", "")
VECTORS = """
nlc: 1
system: vectors
context: tokens
hyper: {n: 6}
heads: 2
inputs: {k: [n], a: [], b: []}
levels:
  S: {frequency: every token, memory: vector(n), update: S * sigmoid(a) + k}
  c: {frequency: every token, memory: scalar, update: c + b}
  m: {frequency: every token, memory: vector(n), objective: "-dot(m, k)", rule: "momentum(lr=0.5, beta=sigmoid(a))"}
outputs: {y: [n], z: [n], w: [n]}
output: {y: S + prev(S), z: k * c, w: m * prev(c)}
"""
LAYER = """
nlc: 1
system: looks_back
context: tokens
hyper: {d: 12, n: d / heads}
heads: 2
inputs: {x: [d]}
let:
  z: conv(x, 3)
  q: conv(l2norm(rotary(split(linear(z)), pos)), 4, bias=true)
  b: sigmoid(split(linear(x)) + prev(split(linear(x)), 1))
  before: prev(prev(x))
levels:
  S:
    frequency: every token
    memory: matrix(n, n)
    key: l2norm(rotary(split(linear(z)), pos))
    value: conv(split(linear(before)), 2)
    objective: 0.5 * sqnorm(S(key) - value)
    retain: 1 - 0.1 * sigmoid(conv(split(linear(x)), 5))
    rule: gd(lr=b)
output:
  y: linear(merge(S(q))) + conv(before, 3) * (1 + t)
"""
SPECS = {
    "scalar": "gated_delta_net",
    "grouped": GROUPED,
    "channel": MEMORY.replace("STEP", "retain: per_key(sigmoid(a))\n    rule: gd(lr=sigmoid(b))"),
    "coupled": COUPLED,
    "layer": LAYER,
    "bare": MEMORY.replace("STEP", "retain: sigmoid(b)\n    rule: gd(lr=1)")
    .replace("a: [n], ", "")
    .replace("heads: 2\n", ""),
    "vectors": VECTORS,
    "towards": MEMORY.replace(
        "STEP",
        "retain: sigmoid(b)\n    rule: gd(lr=sigmoid(b))\n    toward: init\n    init: learned",
    ).replace("a: [n], ", ""),
    "towards_coupled": COUPLED.replace(
        "rule: momentum(lr=0.5, beta=sigmoid(b))",
        "rule: momentum(lr=0.5, beta=sigmoid(b), decay=0.9)\n    toward: init\n    init: learned",
    ),
    "bare_coupled": COUPLED.replace("heads: 2\n", ""),
}


PACKED = [0, 5, 5, 52]


def spec_of(kind: str) -> Spec:
    text = SPECS[kind]
    core = text == GROUPED
    return (
        nlc.loads(text, "packed.yaml", operator=core)
        if "\n" in text
        else nlc.load(text, operator=True)
    )


def both(spec: Spec, sizes: Values) -> tuple[nn.Module, nn.Module]:
    """What runs sequences one after the other, and kernels with the same weights."""
    exact, net = (
        spec.compile("torch")(**sizes),
        spec.compile("triton", {"S": "chunked(16)"})(**sizes),
    )
    net.load_state_dict(exact.state_dict())
    return exact, net


def cuts(sequences: int, tokens: int) -> list[int]:
    """Some of which cut nothing off."""
    ends = random.Random(sequences).choices(range(tokens + 1), k=sequences - 2)
    return sorted([0, *ends, *ends[:1], tokens])


def run(net: nn.Module, flows: dict[str, Tensor], at: list[int], dtype: torch.dtype) -> list:
    """Outputs, last states, and slopes by flows and by what streams go on from; the first starts anew."""
    leaves = {n: x.to(dtype).requires_grad_() for n, x in flows.items()}
    start = net.initial_state(next(iter(leaves.values())))
    noise = torch.Generator().manual_seed(0)
    draws = [
        {n: (3 * torch.randn(x.shape, generator=noise)).abs().to(x.dtype) for n, x in start.items()}
        for _ in at[2:]
    ]
    given = [x.requires_grad_() for each in draws for x in each.values() if x.is_floating_point()]
    if len(at) > 2:
        outputs, ends = net(**leaves, state=[None, *draws], cu_seqlens=torch.tensor(at))
    else:
        outputs, end = net(**leaves)
        ends = [end]
    outputs = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
    found = [*outputs, *(x for each in ends for x in each.values())]
    loss = sum(x.sin().sum() for x in found if x.requires_grad)
    slopes = torch.autograd.grad(loss, [*leaves.values(), *given, *net.parameters()])
    return [x.detach().to(dtype) for x in (*found, *slopes)]


@pytest.mark.parametrize("kind", SPECS)
def test_packed_sequences_are_streams_of_their_own(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(kind)
    sizes = small(spec.system, {}, 8)
    exact, net = both(spec, sizes)
    flows = draw(spec.system, settled(spec.system, sizes), 1, 24)
    flows = {n: x.detach().double() for n, x in flows.items()}
    made = sys.modules[type(net).__module__]
    monkeypatch.setattr(made, "streams", None)  # which would run them one length after the other
    at = cuts(4, 24)
    wanted = run(exact.double(), flows, at, torch.float64)
    for a, b in zip(run(net, flows, at, torch.float32), wanted, strict=True):
        assert error(a, b) < MOST
    cut, made.in_one = torch.tensor(at), lambda *_: True
    with torch.no_grad():  # by other kernels
        right, _ = exact(**flows, cu_seqlens=cut)
        found, _ = net(**{n: x.float() for n, x in flows.items()}, cu_seqlens=cut)
    if not isinstance(right, dict):
        right, found = {"y": right}, {"y": found}
    assert all(error(found[n], right[n]) < MOST for n in right)


@pytest.mark.parametrize(
    ("kind", "at"),
    (("scalar", PACKED), ("channel", [0, 40]), ("coupled", PACKED), ("layer", PACKED)),
)
def test_a_state_for_so_many_chunks_is_kept_and_the_rest_is_run_anew(
    kind: str, at: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one chunk and of three, two at a time."""
    spec = spec_of(kind)
    sizes = small(spec.system, {}, 8)
    exact, net = both(spec, sizes)
    flows = draw(spec.system, settled(spec.system, sizes), 1, at[-1])
    flows = {n: x.detach().double() for n, x in flows.items()}
    made, begun = sys.modules[type(net).__module__], []
    whole = made.resumed
    monkeypatch.setattr(made, "resumed", lambda *x: begun.append(whole(*x)) or begun[-1])
    monkeypatch.setattr(made, "pieces", None)  # which would run them one after the other
    net.checkpoint = 40
    wanted = run(exact.double(), flows, at, torch.float64)
    for a, b in zip(run(net, flows, at, torch.float32), wanted, strict=True):
        assert error(a, b) < MOST
    *first, (S, table) = begun
    assert len(first) == (kind in ("channel", "coupled"))  # others scan and read as one at first
    assert all(none is None for _, none in first) and S.shape[2] == len(table) - 1
    assert table.tolist() == ([0, 1, 3, 4, 4, 4, 4] if at == PACKED else [0, 2, 3])


TOWARDS = """
nlc: 1
system: towards
context: tokens
hyper: {d: 8}
heads: 2
inputs: {q: [d], k: [d], v: [d], a: []}
outputs: {y: [d]}
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    key: l2norm(k)
    value: v
    objective: 0.5 * sqnorm(S(key) - value)
    rule: RULE
    init: learned
    toward: init
output: S(q)
"""


@pytest.mark.parametrize("at", ([0, 50], [0, 5, 6, 50]))
@pytest.mark.parametrize(
    "rule",
    (
        "gd(lr=0.1, decay=sigmoid(a))",
        pytest.param("momentum(lr=0.1, beta=sigmoid(a), decay=0.9)", marks=LATER),
    ),
)
def test_what_decays_towards_its_start_is_run_anew(rule: str, at: list[int]) -> None:
    """The second run begins with more states than there are to end with, which what is added then would not fit."""
    spec = nlc.loads(TOWARDS.replace("RULE", rule))
    net = spec.compile("triton", {"S": "chunked(16)"})()
    flows = draw(spec.system, settled(spec.system, {}), 1, at[-1])
    flows = {n: x.detach() for n, x in flows.items()}
    wanted = run(net, flows, at, torch.float32)
    net.checkpoint = 16
    for a, b in zip(run(net, flows, at, torch.float32), wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("whole", (False, True))
@pytest.mark.parametrize("at", ([0, 70], PACKED))
@pytest.mark.parametrize("name", ("gated_delta_net", "gla", pytest.param("kda", marks=LATER)))
def test_a_first_run_with_a_checkpoint_is_one_kernel_where_that_is_faster(
    name: str, at: list[int], whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the states that the backward pass begins with, and only that has two kernels."""
    spec = load(name, operator=True)
    sizes = small(spec.system, {}, 8)
    exact = spec.compile("torch")(**sizes)
    net = spec.compile("triton", {"S": "chunked(16)"})(**sizes)
    net.load_state_dict(exact.state_dict())
    flows = draw(spec.system, settled(spec.system, sizes), 1, at[-1])
    flows = {n: x.detach().double() for n, x in flows.items()}
    made, launched = sys.modules[type(net).__module__], []
    launch = made.launch
    monkeypatch.setattr(
        made, "launch", lambda kernel, *x, **y: (launched.append(kernel), launch(kernel, *x, **y))
    )
    monkeypatch.setattr(made, "in_one", lambda *_: whole)
    finished, told = made.Finished.apply, []
    monkeypatch.setattr(
        made.Finished, "apply", lambda of, out, *x: (told.append(out), finished(of, out, *x))[1]
    )
    net.checkpoint = 40
    wanted = run(exact.double(), flows, at, torch.float64)
    for a, b in zip(run(net, flows, at, torch.float32), wanted, strict=True):
        assert error(a, b) < MOST
    names = [kernel.fn.__name__ for kernel in launched]
    ends = ("_scan", "_chunks")
    read, scan = (
        [n for n in names if n.endswith(ends) and ("_read" in n) == x] for x in (True, False)
    )
    assert (len(read), len(scan)) == ((1, 1) if whole else (0, 2))
    # the slopes of what has not run want to know shapes, which take no memory
    assert len(told) == 2 and told[0][1:] and all(x.numel() > 1 for x in told[0])
    unread = [x for out in told for x in out[1:]]
    assert all(x.untyped_storage().nbytes() == x.element_size() for x in unread)


@pytest.mark.parametrize(
    "kind", ("scalar", "coupled", pytest.param("channel", marks=pytest.mark.long), "layer")
)
def test_a_compiler_sees_one_graph_forward_and_backward(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of packed sequences, too, and with a checkpoint: of all tokens at once, which scans back run anew."""
    torch.compiler.reset()
    spec, at = spec_of(kind), PACKED
    sizes = small(spec.system, {}, 8)
    net = spec.compile("triton", {"S": "chunked(16)"})(**sizes)
    flows = draw(spec.system, settled(spec.system, sizes), 1, at[-1])
    flows = {n: x.detach() for n, x in flows.items()}
    wanted = run(net, flows, at, torch.float32)
    made = sys.modules[type(net).__module__]
    monkeypatch.setattr(made, "streams", None)
    launch, launched = made.launch, []
    monkeypatch.setattr(
        made, "launch", lambda kernel, *x, **y: (launched.append(kernel), launch(kernel, *x, **y))
    )
    net.checkpoint = 16
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    for a, b in zip(run(compiled, flows, at, torch.float32), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    names = [kernel.fn.__name__ for kernel in launched]
    scans = [n for n in names if "_scan" in n]
    assert {scans.count(n) for n in scans if n.endswith(("_scan", "_chunks"))} == {2}
    assert {scans.count(n) for n in scans if n.endswith("_back")} == {1}


def test_one_graph_is_for_any_number_of_tokens() -> None:
    """Which stands for a number in it, as it does in any that was compiled once more."""
    torch.compiler.reset()
    spec, counter = spec_of("scalar"), CompileCounter()
    sizes = small(spec.system, {}, 8)
    net = spec.compile("triton", {"S": "chunked(16)"})(**sizes)
    compiled = torch.compile(net, backend=counter, fullgraph=True, dynamic=True)
    for more in (0, 5):
        at = torch.tensor([*PACKED[:-1], PACKED[-1] + more])
        flows = draw(spec.system, settled(spec.system, sizes), 1, PACKED[-1] + more)
        flows = {n: x.detach().float() for n, x in flows.items()}
        with torch.no_grad():
            found, wanted = (f(**flows, cu_seqlens=at)[0] for f in (compiled, net))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert counter.frame_count == 1


class Waits(TorchDispatchMode):
    """Counts what a GPU would have to be waited for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")
        self.count += any(w in str(func) for w in waits)
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_where_sequences_are_cut() -> None:
    spec = spec_of("coupled")
    made = sys.modules[spec.compile("triton").__module__]
    with Waits() as mode:
        within = made.Packing(torch.tensor([0, 7, 7, 40]), 40)
        table, within.every = within.of(16), 32
        within.table(16, table.device)
    assert mode.count == 0
    assert table[:4].tolist() == [[0, 7], [7, 40], [23, 40], [39, 40]]


def test_nothing_in_a_layer_waits_for_where_sequences_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Convolutions, previous values and positions, forward and backward, of tensors that have no values to look at."""
    made = spec_of("layer").compile("triton")
    monkeypatch.setattr(sys.modules[made.__module__], "launch", lambda *_, **__: None)
    with FakeTensorMode():
        net = made()
        x, cuts = torch.randn(1, 40, net.d, requires_grad=True), torch.zeros(4, dtype=torch.int32)
        state = net.initial_state(x.expand(3, -1, -1)) | {"pos": torch.zeros(3, dtype=torch.int64)}
        within = sys.modules[made.__module__].Packing(cuts, 40)
        (y,), state = net.piece(state, x, within=within)
        y.sum().backward()
        assert state["pos"].shape == (3,) and x.grad.shape == x.shape
        with pytest.raises(DataDependentOutputException):
            net(x, cu_seqlens=cuts)  # on the CPU they are looked at


def test_cuts_that_do_not_fit_are_clipped_or_said() -> None:
    """On the CPU they are looked at; on a GPU no kernel reads beside the flows."""
    spec = spec_of("scalar")
    made = spec.compile("triton")
    within = sys.modules[made.__module__].Packing(torch.tensor([-3, 9, 4, 99]), 12)
    assert within.cuts.tolist() == [0, 9, 9, 12]
    sizes = small(spec.system, {}, 8)
    net, flows = made(**sizes), draw(spec.system, settled(spec.system, sizes), 1, 6)
    for at in ([0, 4, 3, 6], [0, 7], [1, 6], [[0, 6]]):
        with pytest.raises(ValueError, match="cu_seqlens must rise from 0 to T"):
            net(**flows, cu_seqlens=torch.tensor(at))


ONE_TAP = LAYER.replace("conv(x, 3)", "conv(x, 1)")
COUNTED = """
nlc: 1
system: counted
context: tokens
hyper: {d: 12}
inputs: {x: [d]}
levels:
  c:
    frequency: every token
    memory: scalar
    update: c * 0.9 + 1
output:
  y: x * c
"""


@pytest.mark.parametrize("text", [ONE_TAP, COUNTED])
def test_what_looks_nowhere_is_packed_too(text: str) -> None:
    """A convolution of one tap, and a state of which no token says anything, whose sequences run one by one."""
    spec = nlc.loads(text, "packed.yaml")
    if text == COUNTED:
        assert "nothing of a token enters `c`" in str(spec.explain("triton"))
    x, cuts = torch.randn(1, 9, 12), torch.tensor([0, 0, 1, 1, 6, 9, 9])
    net, exact = spec.compile("triton")(), spec.compile("torch")()
    exact.load_state_dict(net.state_dict())
    for found, expected in zip(*(m(x, cu_seqlens=cuts) for m in (net, exact)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
