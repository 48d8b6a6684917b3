"""Modules with kernels against the backend `torch` in float64: all shipped token specs, streams, compilation."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from constant_specs import READS, STEPS, constant
from grouped_specs import ADDED, AFTER, ERASED, GROUPED, MOMENTUM
from recurrences import TESTED, error, inputs, module, names
from shipped_specs import TOKENS, load
from torch import Tensor, nn

import nlc
from nlc.backends.triton.texts import forms
from nlc.pipeline import Spec
from nlc.runtime.verify.draws import draw
from nlc.tools.sizes import settled, small

SHORT = {
    "chunk": 8,
    "memory_chunk": 4,
    "periods": [4, 8, 16],
}  # several boundaries in LENGTH tokens
LENGTH = 21
MOST = 1e-4  # of float32 against float64


def pair(spec: Spec) -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    """The module in float64, its twin with kernels in float32, and inputs."""
    sizes = small(spec.system, {}, 16)
    sizes |= {n: x for n, x in SHORT.items() if n in spec.system.hypers}
    torch.manual_seed(0)
    exact, kernels = (spec.compile(b)(**sizes) for b in ("torch", "triton"))
    exact = exact.double()
    kernels.load_state_dict(exact.state_dict())
    given = draw(spec.system, settled(spec.system, sizes), 2, LENGTH)
    return exact, kernels, {n: x.detach().double() for n, x in given.items()}


def run(net: nn.Module, given: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs, the state, and slopes by inputs and weights."""
    given = {n: x.to(dtype).requires_grad_() for n, x in given.items()}
    outputs, state = net(**given)
    outputs = outputs if isinstance(outputs, dict) else {"y": outputs}
    out = outputs | {n: x for n, x in state.items() if x.is_floating_point()}
    leaves = given | dict(net.named_parameters())
    loss = sum(x.square().sum() for x in out.values())
    slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {f"slope by {n}": s for n, s in zip(leaves, slopes, strict=True) if s is not None}
    return {n: x.detach() for n, x in (out | found).items()}


def forward(net: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs and the state where no slopes are wanted, each scan and its read by one kernel."""
    sys.modules[type(net).__module__].in_one = lambda *_: True
    with torch.no_grad():
        outputs, state = net(**{n: x.float() for n, x in given.items()})
    outputs = outputs if isinstance(outputs, dict) else {"y": outputs}
    return outputs | {n: x for n, x in state.items() if x.is_floating_point()}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor], most: float = MOST) -> None:
    assert found.keys() == wanted.keys()
    for n in wanted:
        assert error(found[n], wanted[n]) < most, n


# they have the levels of hope, whose kernels are the same
LIKE_HOPE = ("hope_literal", "hope_slow")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n in LIKE_HOPE)) for n in TOKENS]
)
def test_a_spec_with_kernels_is_the_spec(name: str) -> None:
    exact, kernels, given = pair(load(name))
    wanted = run(exact, given, torch.float64)
    same(run(kernels, given, torch.float32), wanted)
    found = forward(kernels, given)  # by other kernels
    same(found, {n: wanted[n] for n in found})


@pytest.mark.parametrize("name", ("gated_delta_net", "retnet", "linear_attention", "mamba2"))
def test_an_operator_with_kernels_is_the_operator(name: str) -> None:
    exact, kernels, given = pair(load(name, operator=True))
    same(run(kernels, given, torch.float32), run(exact, given, torch.float64))


SEEN = """
nlc: 1
system: seen
context: tokens
hyper: {d: 16, n: d / heads}
heads: 2
inputs: {x: [d]}
outputs: {y: [d], seen: [d]}
let:
  q: l2norm(split(linear(x, d)))
levels:
  S:
    frequency: every token
    memory: matrix(n, n)
    key: l2norm(split(linear(x, d)))
    value: split(linear(x, d))
    objective: 0.5 * sqnorm(S(key) - value)
    rule: gd(lr=0.5)
output:
  y: merge(S(q))
  seen: SEEN
"""


@pytest.mark.parametrize(
    ("seen", "fused"),
    (
        ("x", True),
        ("merge(q)", False),
        ("linear(merge(q))", False),
        ("merge(S.key)", False),
        ("merge(prev(q))", False),
    ),
)
def test_what_is_read_elsewhere_has_its_length_of_one(seen: str, fused: bool) -> None:
    spec = nlc.loads(SEEN.replace("SEEN", seen), "seen.yaml")
    exact, kernels, given = pair(spec)
    assert ("delta_unit(" in spec.source_text("triton")) == fused
    same(run(kernels, given, torch.float32), run(exact, given, torch.float64))


VECTORS = """
nlc: 1
system: vectors
context: tokens
hyper: {d: 16, n: d / heads, chunk: 8}
heads: 2
inputs: {x: [d]}
let:
  k: split(linear(x))
levels:
  m:
    frequency: every token
    anchor: every chunk tokens
    memory: vector(n)
    objective: 0.5 * sqnorm(m - k)
    rule: gd(lr=0.1, decay=sigmoid(sum(anchor(m))))
  c:
    frequency: every token
    anchor: every chunk tokens
    memory: scalar
    update: c + tanh(sum(k) * anchor(c))
output:
  y: merge(m * c)
"""


@pytest.mark.parametrize("per", ("", ", per: head"), ids=("shared", "each head its own"))
@pytest.mark.parametrize("step", ("key", "erased", "channels", "momentum", "anchored"))
def test_what_all_tokens_share_is_given_to_kernels_for_each(step: str, per: str) -> None:
    exact, kernels, given = pair(nlc.loads(constant(STEPS[step], READS["S(c)"], per)))
    wanted = run(exact, given, torch.float64)
    same(run(kernels, given, torch.float32), wanted)
    same(forward(kernels, given), {n: x for n, x in wanted.items() if "slope" not in n})


def test_vectors_between_boundaries_are_matrices_of_one_column() -> None:
    """As the methods have them that run from boundary to boundary."""
    spec = nlc.loads(VECTORS, "vectors.yaml")
    exact, kernels, given = pair(spec)
    assert "m_end, m_rows, m_starts = gated_memory(m.unsqueeze(-1)" in spec.source_text("triton")
    same(run(kernels, given, torch.float32), run(exact, given, torch.float64))


def test_pieces_and_steps_are_the_whole() -> None:
    _, net, given = pair(nlc.load("gated_delta_net"))
    x = given["x"].float()
    whole, end = net(x)
    first, state = net(x[:, :9])
    rest, state = net(x[:, 9:17], state=state)
    parts = [first, rest]
    for t in range(17, LENGTH):
        y, state = net.step(x[:, t], state)
        parts.append(y.unsqueeze(1))
    assert error(torch.cat(parts, 1), whole.double()) < MOST
    assert all(error(state[n], end[n].double()) < MOST for n in end)


def test_packed_sequences_are_streams_of_their_own() -> None:
    _, net, given = pair(nlc.load("delta_net"))
    x = given["x"][:1].float()
    y, states = net(x, cu_seqlens=torch.tensor([0, 5, 5, LENGTH]))
    alone, end = net(x[:, 5:])
    assert error(y[:, 5:], alone.double()) < MOST
    assert error(states[2]["S"], end["S"].double()) < MOST


def test_half_precision_stays_half_on_the_way_to_the_kernels() -> None:
    spec = nlc.load("gated_delta_net", operator=True)
    exact, net, given = pair(spec)
    y, state = net(**{n: x.bfloat16() for n, x in given.items()})
    assert (y.dtype, state["S"].dtype) == (torch.bfloat16, torch.float32)
    wanted, _ = exact(**{n: x.bfloat16().double() for n, x in given.items()})
    assert error(y, wanted) < 0.02
    assert ".to(dtype)" not in next(
        line for line in inspect.getsource(type(net)).split("\n") if " k = k" in line
    )


def test_a_gate_without_a_logarithm_shows() -> None:
    _, net, given = pair(nlc.load("gated_delta_net", operator=True))
    given = {n: x.float() for n, x in given.items()}
    given["alpha"][0, 3, 0] = -0.1
    y, _ = net(**given)
    assert y[0, 3:, 0].isnan().all() and not y[:, :, 1].isnan().any()


def test_it_compiles_without_a_break() -> None:
    _, net, given = pair(nlc.load("gated_delta_net"))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    same(run(compiled, given, torch.float32), named(run(net, given, torch.float32)))


def test_what_goes_wrong_names_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are not finite, and errors behind kernels, forward and backward."""
    _, net, given = pair(nlc.load("gated_delta_net"))
    x = given["x"].float()
    net.error_if_nonfinite = True
    y, state = net(x)
    bad = x.clone()
    bad[1, 9] = torch.inf
    with pytest.raises(
        FloatingPointError, match=r"^x is not finite, from token 9 of sequence 1 on"
    ):
        net(bad)
    broken = {**state, "S": torch.full_like(state["S"], torch.inf)}
    with pytest.raises(
        FloatingPointError, match=r"^S is not .* \(gated_delta_net.yaml:20\)"
    ) as caught:
        net(x, state=broken)
    assert "first not finite is" in caught.value.__notes__[0]

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sys.modules[type(net).__module__], "launch", full)
    with pytest.raises(MemoryError) as caught:
        net(x)
    assert caught.value.__notes__[0].startswith("while computing the rule of level S, gated_delta")
    with pytest.raises(MemoryError) as caught:
        y.sum().backward()
    assert caught.value.__notes__[0].startswith(
        "in the backward pass of the rule of level S, gated_delta"
    )


def named(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names that a compiled module gives its weights."""
    old = [n for n in found if n.startswith("slope by ") and n != "slope by x"]
    return {n.replace("by ", "by _orig_mod.") if n in old else n: x for n, x in found.items()}


@pytest.mark.parametrize("form", TESTED, ids=lambda f: f.scan)
def test_torch_knows_the_operators(form, tmp_path: Path) -> None:
    """Fakes, schemas and autograd as ``torch.library.opcheck`` wants them."""
    kernels, x = module(tmp_path, names(form)), inputs(form, 20, 16, 16)
    order = [n for n in ("S", "k", "u", "b", "log_a", "w", "p") if n in x]
    given = [x[n].float().requires_grad_() for n in order] + [1e-6] * form.unit + [None, None]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(getattr(kernels, f"{form.scan}_forward").known, given, test_utils=checks)


@pytest.mark.parametrize("scan", ("additive_memory", "gated_delta_rated"))
def test_a_compiler_sees_what_a_call_does(scan: str, tmp_path: Path) -> None:
    """The operator and the function behind it, with their slopes; neither has a second one."""
    form = next(f for f in forms() if f.scan == scan)
    kernels, x = module(tmp_path, names(form)), inputs(form, 20, 16, 16)
    given = [x[n].float() for n in ("S", "k", "u", "b", "log_a", "w", "p") if n in x]
    call = getattr(kernels, f"{scan}_forward")
    found = []
    for run in (call, call.known):
        leaves = [y.clone().requires_grad_() for y in given]
        out = run(*leaves, None, None)
        loss = sum(y.square().sum() for y in out[:-1])
        found.append([*out[:-1], *torch.autograd.grad(loss, leaves, create_graph=True)])
        with pytest.raises(RuntimeError):
            found[-1][-1].sum().backward()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def checks(
    folder: Path,
    broken: Iterable[str] = (),
    scan: str = "gated_delta_rated",
    packed: bool = False,
) -> str:
    """What the check of a first launch finds, with some kernels of a scan made to do nothing."""
    form = next(f for f in forms() if f.scan == scan)
    kernels = module(folder, names(form))
    for kernel in broken:
        setattr(kernels, kernel, kernels.chunk_of)  # not to be launched
    whole = kernels.launch
    kernels.launch = lambda kernel, *rest, **kw: (
        kernel is kernels.chunk_of or whole(kernel, *rest, **kw)
    )
    operator, meaning = (getattr(kernels, f"{scan}_{x}") for x in ("forward", "meaning"))
    axes = {"groups": 4} if form.grouped else {}
    return kernels.differs(operator, meaning, torch.zeros(1, 2, 20, 16), 16, 16, packed, **axes)


@pytest.mark.parametrize(
    "scan",
    [pytest.param(f.scan, marks=[pytest.mark.long] * (i % 2)) for i, f in enumerate(TESTED)],
)
def test_a_first_launch_finds_right_kernels_right(scan: str, tmp_path: Path) -> None:
    assert checks(tmp_path, scan=scan) == ""


@pytest.mark.parametrize(
    ("kernel", "packed"),
    (("scan", False), ("scan_back", False), ("scan_grads", False), ("scan", True), ("solve", True)),
)
def test_a_first_launch_finds_a_wrong_kernel(kernel: str, packed: bool, tmp_path: Path) -> None:
    found = checks(tmp_path, [f"gated_delta_rated_{kernel}"], packed=packed)
    assert "gated_delta_rated" in found


@pytest.mark.parametrize("scan", ("additive_memory", "gated_delta_at_rated_grouped"))
def test_a_first_launch_of_packed_sequences_finds_right_kernels_right(
    scan: str, tmp_path: Path
) -> None:
    assert checks(tmp_path, scan=scan, packed=True) == ""


def test_a_verdict_is_kept_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found once, it is an error in every process after, with a way out."""
    form = next(f for f in forms() if f.scan == "delta")
    kernels = module(tmp_path, names(form))
    monkeypatch.setenv("NLC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "some GPU")
    kernels.INTERPRETED, trials = False, []
    kernels.differs = lambda *_: trials.append(1) or "the kernels of delta are wrong"
    given = kernels.delta_forward, kernels.delta_meaning, torch.zeros(1, 2, 20, 16), 16, 20, False
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"wrong with Triton .* on some GPU; .*`torch`"):
            kernels.checked(*given)
        kernels.VERDICTS.clear()  # as another process
    assert len(trials) == 1


@pytest.mark.parametrize(
    "operator",
    (
        *("delta_scan", "delta_scan_decayed_grouped", "delta_scan_grouped", "read"),
        *(pytest.param(x, marks=pytest.mark.long) for x in ("scan", "turned_read_before")),
    ),
)
def test_a_first_launch_checks_decay_by_channel(operator: str, tmp_path: Path) -> None:
    name = f"channel_{operator}"
    kernels, k = module(tmp_path, [name]), torch.zeros(1, 2, 20, 16)
    forward, meaning = (getattr(kernels, f"{name}_{x}") for x in ("forward", "meaning"))
    axes: dict[str, str | int] = {"log_a": "T dk"}
    axes |= {"groups": 4} if operator.endswith("grouped") else {}
    axes |= {"p": "each T dk"} if operator == "delta_scan_grouped" else {}  # of each head
    asked: list[dict] = []
    kernels.checked = lambda *_, **given: asked.append(given)
    for packed in (False, True):
        assert kernels.differs(forward, meaning, k, 16, 16, packed, **axes) == ""
    assert asked and all(x == axes for x in asked)


def checks_coupled(
    operator: str, tokens: int, folder: Path, broken: str = "", packed: bool = False
) -> str:
    """What is found by the check that an operator asks for, with a kernel made to do nothing."""
    scan = operator if operator.endswith("scan") else "scan"
    kernels = module(folder, [f"coupled_{scan}", f"coupled_{operator}", "weighed"])
    whole, idle = kernels.launch, getattr(kernels, f"coupled_{operator}_{broken}", None)
    kernels.launch = lambda kernel, *rest, **kw: kernel is idle or whole(kernel, *rest, **kw)
    asked: list[tuple] = []
    kernels.checked = lambda *given, **axes: asked.append((given, axes))
    draw = lambda *shape: torch.randn(1, 2, *shape)  # noqa: E731
    erase = scan == "delta_scan"
    weights = kernels.weighed(draw(tokens, 2, 2), draw(tokens, 2, 1 + erase))
    x = [draw(2, 9, 20), *weights, draw(tokens, 20), draw(tokens, 1, 9)]
    x += [draw(tokens, 20), 1] if erase else []
    _, seen = getattr(kernels, f"coupled_{scan}")(*x)
    if scan != operator:
        flow = draw(tokens, 9 if operator.startswith("turned") else 20)
        getattr(kernels, f"coupled_{operator}")(flow, 1, *seen)
    (forward, meaning, k, dv, _, _), axes = asked[-1]
    assert forward is getattr(kernels, f"coupled_{operator}_forward")
    return kernels.differs(forward, meaning, k, dv, tokens, packed, **axes)


COUPLED = ("scan", "delta_scan", "read", "read_before", "turned_read", "turned_read_before")


@pytest.mark.parametrize(
    "operator",
    [pytest.param(x, marks=[pytest.mark.long] * (i % 2 == 0)) for i, x in enumerate(COUPLED)],
)
def test_a_first_launch_checks_coupled_states(operator: str, tmp_path: Path) -> None:
    assert checks_coupled(operator, 20, tmp_path, packed=operator in ("delta_scan", "read")) == ""


@pytest.mark.parametrize("packed", (False, True))
def test_a_first_launch_knows_whether_sequences_are_packed(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels that look where sequences are cut are others."""
    net = nlc.load("gated_delta_net", operator=True).compile("triton")(d=16, heads=1)
    kernels, asked = sys.modules[type(net).__module__], []
    monkeypatch.setattr(kernels, "checked", lambda *given, **_: asked.append(given[-1]))
    flows = {n: torch.randn(1, 4, 1, 16) for n in "qkv"}
    flows |= {n: torch.rand(1, 4, 1) for n in ("alpha", "beta")}
    cuts = torch.tensor([0, 1, 4]) if packed else None
    net(**flows, cu_seqlens=cuts)
    net(**flows | {"q": flows["q"].requires_grad_()}, cu_seqlens=cuts)
    assert {*asked} == {packed} and len(asked) >= 4


@pytest.mark.parametrize(
    ("operator", "kernel"),
    (
        ("scan", "grads"),
        ("delta_scan", "solve"),
        ("delta_scan", "back"),
        ("delta_scan", "erase_grads"),
        ("read_before", "out"),
        ("turned_read", "back"),
    ),
)
def test_a_first_launch_finds_a_wrong_kernel_of_coupled_states(
    operator: str, kernel: str, tmp_path: Path
) -> None:
    assert f"coupled_{operator}" in checks_coupled(operator, 16, tmp_path, kernel)


def test_where_verdicts_cannot_be_kept_they_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = module(tmp_path, ["delta"])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NLC_CACHE_DIR", str(tmp_path / "file"))  # which is no folder
    with pytest.warns(UserWarning, match="verdicts on kernels are not kept"):
        assert kernels.cached("key", "wrong") == "wrong"


@pytest.mark.parametrize(
    "name",
    (
        "coupled_delta_scan",
        *(pytest.param(n, marks=pytest.mark.long) for n in ("gated_delta_rated", "channel_read")),
    ),
)
def test_a_first_launch_checks_the_kernels_of_one_token(name: str, tmp_path: Path) -> None:
    """Which are others, and launched alone."""
    kernels, launched = module(tmp_path, [name]), []
    whole = kernels.launch
    kernels.launch = lambda kernel, *rest, **kw: (
        launched.append(kernel.fn.__name__) or whole(kernel, *rest, **kw)
    )
    forward, meaning = (getattr(kernels, f"{name}_{x}") for x in ("forward", "meaning"))
    axes: dict[str, str | int] = {"log_a": "T dk"} if name.startswith("channel") else {}
    if name.startswith("coupled"):
        axes |= dict(X="states dv dk", u="T given dv", states=2, given=1, written=2, C=16)
        axes |= dict(kept="chunks states written C C", begun="chunks states states C")
    assert kernels.differs(forward, meaning, torch.zeros(1, 2, 1, 20), 9, 1, **axes) == ""
    assert launched[0] == f"{name}_step" and not launched[1].endswith(("_scan", "_out", "_chunks"))


@pytest.mark.parametrize(
    ("text", "operator"),
    (
        *((GROUPED, False), (GROUPED, True), (ADDED, False), (ERASED, False), (AFTER, False)),
        (MOMENTUM, False),
    ),
)
def test_keys_that_heads_share_are_not_repeated(text: str, operator: bool) -> None:
    spec = nlc.loads(text, operator=operator)
    exact, kernels, given = pair(spec)
    made = set(dir(sys.modules[type(kernels).__module__]))
    assert [n for n in made if "_grouped" in n]
    same(run(kernels, given, torch.float32), run(exact, given, torch.float64))
    one = {n: x[:, 0].float() for n, x in given.items()}
    step, wanted = kernels.step(**one)[0], exact.step(**{n: x.double() for n, x in one.items()})[0]
    assert error(step.detach(), wanted.detach()) < MOST
