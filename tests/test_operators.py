"""The linear operators are the papers' recurrences: outputs, states and gradients, in one call or piece by piece."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import nlc
from nlc.ir.expr import Expr, walk

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # without a GPU it says so; the naive code needs none
    from fla.ops.delta_rule.naive import delta_rule_recurrence
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
    from fla.ops.gla.naive import naive_recurrent_gla
    from fla.ops.linear_attn.naive import naive_recurrent_linear_attn
    from fla.ops.retention.naive import naive_retention
    from fla.ops.simple_gla.naive import naive_recurrent_simple_gla
    from fla.ops.ttt.naive import chunk_ttt_linear_ref

H, DK, DV = 2, 4, 3
GATES = {
    "linear_attention": [],
    "delta_net": ["beta"],
    "gated_delta_net": ["alpha", "beta"],
    "retnet": [],
    "gla": ["alpha"],
}
every = pytest.mark.parametrize("name", GATES)


def _operator(name: str, dk: int = DK, dv: int = DV, backend: str = "auto") -> nn.Module:
    return nlc.compile(name, backend, operator=True)(heads=H, d=H * dk, dk=dk, dv=dv)


def _flows(
    name: str, batch: int, length: int, dtype: torch.dtype = torch.float64, dk: int = DK
) -> dict[str, Tensor]:
    """Keys of length one, gates within (0, 1)."""
    noise = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, length, H, *shape, generator=noise, dtype=torch.float64)

    flows = {"q": draw(dk), "k": F.normalize(draw(dk), dim=-1), "v": draw(DV)}
    gate = [dk] if name == "gla" else []  # one for each key channel, or for the head
    flows |= {name: draw(*gate).sigmoid() for name in GATES[name]}
    return {
        key: flow.to(dtype).requires_grad_(dtype == torch.float64) for key, flow in flows.items()
    }


def _start(batch: int, dk: int = DK) -> Tensor:
    noise = torch.Generator().manual_seed(2)
    return torch.randn(batch, H, DV, dk, generator=noise, dtype=torch.float64, requires_grad=True)


def _recurrence(
    name: str, S: Tensor, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor | None = None,
    beta: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The papers' lines, one token at a time: S [B, H, dv, dk] reads S q."""
    outputs = []
    for t in range(q.shape[1]):
        kk = torch.einsum("bhi,bhj->bhij", k[:, t], k[:, t])
        vk = torch.einsum("bhi,bhj->bhij", v[:, t], k[:, t])
        if name == "linear_attention":  # S + v kᵀ
            S = S + vk
        elif name == "retnet":  # γ S + v kᵀ, with 1 − 2⁻⁵ and 1 − 2⁻⁶ for two heads
            S = torch.tensor([31 / 32, 63 / 64], dtype=S.dtype)[:, None, None] * S + vk
        elif name == "gla":  # S Diag(α) + v kᵀ
            S = S @ torch.diag_embed(alpha[:, t]) + vk
        else:  # α S (I − β k kᵀ) + β v kᵀ
            b = beta[:, t, :, None, None]
            a = 1 if alpha is None else alpha[:, t, :, None, None]
            S = a * S @ (torch.eye(k.shape[-1], dtype=S.dtype) - b * kk) + b * vk
        outputs.append(torch.einsum("bhij,bhj->bhi", S, q[:, t]))
    return torch.stack(outputs, 1), S


def _close(a: Tensor, b: Tensor, to: float) -> bool:
    return bool((a - b).norm() <= to * b.norm()) and bool(b.norm() > 0)


@every
@pytest.mark.parametrize("length", [1, 37])
def test_outputs_states_and_gradients_equal_the_papers_recurrences(name: str, length: int) -> None:
    flows, start = _flows(name, 2, length), _start(2)
    y, state = _operator(name)(**flows, state={"S": start})
    expected, last = _recurrence(name, start, **flows)
    assert _close(y, expected, 1e-10) and _close(state["S"], last, 1e-10)

    leaves = [start, *flows.values()]
    mine = torch.autograd.grad(y.square().sum() + state["S"].sum(), leaves)
    theirs = torch.autograd.grad(expected.square().sum() + last.sum(), leaves)
    assert all(_close(a, b, 1e-10) for a, b in zip(mine, theirs, strict=True))


@every
def test_a_stream_starts_from_zero(name: str) -> None:
    flows = _flows(name, 2, 9)
    expected, _ = _recurrence(name, torch.zeros_like(_start(2)), **flows)
    assert _close(_operator(name)(**flows)[0], expected, 1e-10)


def _linear_attention(start: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return naive_recurrent_linear_attn(q, k, v, initial_state=start, output_final_state=True)


def _delta_rule(
    start: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    q, k, v, beta = (x.transpose(1, 2) for x in (q, k, v, beta))  # takes [B, H, T, *]
    y, last = delta_rule_recurrence(q, k, v, beta, start, True)
    return y.transpose(1, 2), last


def _gated_delta_rule(
    start: Tensor, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    return naive_recurrent_gated_delta_rule(q, k, v, beta, alpha.log(), None, start, True)


def _gla(start: Tensor, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    return naive_recurrent_gla(q, k, v, alpha.log(), start, True)


@pytest.mark.parametrize("theirs", [_linear_attention, _delta_rule, _gated_delta_rule, _gla])
def test_float32_equals_flash_linear_attention(
    theirs: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    """Their naive code holds S transposed and scales q by dk^-½."""
    names = {_linear_attention: "linear_attention", _delta_rule: "delta_net", _gla: "gla"}
    name = names.get(theirs, "gated_delta_net")
    flows, start = _flows(name, 2, 50, torch.float32), _start(2).detach().float()
    expected, last = theirs(start.mT, **flows)
    flows["q"] = flows["q"] * DK**-0.5
    y, state = _operator(name)(**flows, state={"S": start})
    assert y.dtype == torch.float32
    assert _close(y, expected, 1e-5) and _close(state["S"], last.mT, 1e-5)


def test_retention_equals_flash_linear_attention() -> None:
    """Their naive code is the parallel form, from an empty memory, for all of eight heads."""
    noise = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 50, 8, n, generator=noise) for n in (DK, DK, DV))
    expected = naive_retention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    operator = nlc.compile("retnet", operator=True)(heads=8, dk=DK, dv=DV)
    assert _close(operator(q=q * DK**-0.5, k=k, v=v)[0], expected, 1e-5)


def test_the_core_of_mamba2_equals_flash_linear_attention() -> None:
    """What its layer makes of them: B and C are the keys and queries of all heads, and every head has its decay."""
    noise = torch.Generator().manual_seed(1)
    B, C = (torch.randn(2, 50, DK, generator=noise) for _ in range(2))
    v, decay = (torch.randn(2, 50, H, *n, generator=noise) for n in ([DV], []))
    start = _start(2).detach().float()
    q, k = (x[:, :, None].expand(-1, -1, H, -1) for x in (C, B))
    expected, last = naive_recurrent_simple_gla(
        q, k, v, F.logsigmoid(decay), scale=1, initial_state=start.mT
    )
    operator = nlc.compile("mamba2", operator=True)(d=H * DV, expand=1, p=DV, n=DK)
    y, state = operator(k=B, v=v, decay=decay.sigmoid(), C=C, state={"S": start})
    assert _close(y, expected, 1e-5) and _close(state["S"], last.mT, 1e-5)


def test_the_steps_of_ttt_linear_equal_flash_linear_attention() -> None:
    """States at the end of three mini-batches of 16, rates alike for all tokens of one.

    Their code weighs a step by the token that reads it and adds what is read to W q + b instead of to q, so outputs
    are not compared.
    """
    noise = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 48, H, DK, generator=noise) for _ in range(3))
    eta = torch.rand(2, 3, H, generator=noise).repeat_interleave(16, 1)
    operator = nlc.compile("ttt_linear", operator=True)(heads=H, d=H * DK)
    scale, shift = operator.M.read.layernorm.parameters()
    for p in (scale, shift):
        torch.nn.init.normal_(p, generator=noise)
    W, b = torch.randn(2, H, DK, DK, generator=noise), torch.randn(2, H, DK, generator=noise)
    rate = eta[..., None] / (16 * DK)
    _, last, last_b = chunk_ttt_linear_ref(
        q, k, v, scale.detach(), shift.detach(), rate,
        scale=1, initial_state=W.mT, initial_state_bias=b[:, :, None], output_final_state=True,
    )  # fmt: skip
    begun = {"M.W": W, "M.b": b, "M.W.anchor": W, "M.b.anchor": b}
    _, state = operator(q=q, k=k, v=v, eta=eta, state=operator.initial_state(q) | begun)
    assert _close(state["M.W"], last.mT, 1e-5) and _close(state["M.b"], last_b[:, :, 0], 1e-5)


def _as_function(
    name: str, flows: dict[str, Tensor], backend: str = "auto"
) -> Callable[..., tuple[Tensor, Tensor]]:
    operator = _operator(name, dk=2, backend=backend)

    def call(start: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        y, state = operator(**dict(zip(flows, values, strict=True)), state={"S": start})
        return y, state["S"]

    return call


@every
def test_gradients_are_the_derivatives_initial_state_included(name: str) -> None:
    flows = _flows(name, 1, 3, dk=2)
    assert gradcheck(_as_function(name, flows), (_start(1, dk=2), *flows.values()))


@every
def test_gradients_have_gradients(name: str) -> None:
    """Those of the reference, of any order; a scan of ``torch`` writes its first out."""
    flows = _flows(name, 1, 2, dk=2)
    function = _as_function(name, flows, "reference")
    assert gradgradcheck(function, (_start(1, dk=2), *flows.values()))


@every
def test_a_stream_in_uneven_pieces_or_steps_equals_one_call(name: str) -> None:
    operator, flows, state = _operator(name), _flows(name, 2, 11), {"S": _start(2)}
    whole, end = operator(**flows, state=state)
    for sizes in ([1, 4, 6], [7, 3, 1], [1] * 11):
        outputs, now = [], state
        for piece in zip(*(flow.split(sizes, 1) for flow in flows.values()), strict=True):
            y, now = operator(**dict(zip(flows, piece, strict=True)), state=now)
            outputs.append(y)
        assert _close(torch.cat(outputs, 1), whole, 1e-14) and _close(now["S"], end["S"], 1e-14)
    outputs, now = [], state
    for t in range(11):
        y, now = operator.step(**{key: flow[:, t] for key, flow in flows.items()}, state=now)
        outputs.append(y)
    assert _close(torch.stack(outputs, 1), whole, 1e-14) and _close(now["S"], end["S"], 1e-14)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision_inputs_keep_a_float32_state(
    name: str, dtype: torch.dtype, autocast: bool
) -> None:
    """Only inputs and outputs are rounded, also under autocast: the rest agrees with float64."""
    flows = _flows(name, 2, 200, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, state = _operator(name)(**flows)
    expected, last = _recurrence(name, 0 * _start(2), **{k: f.double() for k, f in flows.items()})
    assert y.dtype == dtype and state["S"].dtype == torch.float32
    assert y.isfinite().all() and state["S"].isfinite().all()
    # sums of logarithms of decays, and their differences, round more often than a product a token
    room = (16 if dtype == torch.float32 else 4) * torch.finfo(dtype).eps
    assert _close(y.double(), expected, room)
    assert _close(state["S"].double(), last, 1e-5)


@every
def test_a_state_with_other_keys_is_refused_by_their_names(name: str) -> None:
    operator, flows = _operator(name), _flows(name, 2, 3)
    with pytest.raises(ValueError, match="Z"):
        operator(**flows, state={"Z": _start(2)})
    with pytest.raises(ValueError, match="extra"):
        operator(**flows, state={"S": _start(2), "extra": _start(2)})


@every
def test_an_input_of_another_shape_is_refused_by_name(name: str) -> None:
    operator, flows = _operator(name), _flows(name, 2, 3)
    for key, flow in flows.items():
        for wrong in (flow[..., :1], flow[0], flow[:, :0], flow[:1], flow[:, :2]):
            if key == "q" and wrong.shape[2:] == flow.shape[2:] and wrong.numel():
                continue  # q says what B and T are: the others are then wrong
            with pytest.raises(
                ValueError, match=f"^{key} .*must be .*{list(wrong.shape)}".replace("[", r"\[")
            ):
                operator(**{**flows, key: wrong})


INSIDE = """
nlc: 1
system: inside
context: tokens
hyper: {d: 4}
inputs: {x: [d]}
let:
  gate: sigmoid(linear(x, 1, bias=true))
  keep: exp(gate + prev(m) - m)
levels:
  m:
    frequency: every token
    memory: vector(1)
    init: -inf
    update: max(gate + m, 0)
  c:
    frequency: every token
    memory: vector(1)
    update: keep * c + gate
  A:
    frequency: infinite
    memory: cache
    key: concat(linear(x, 3), c)
    value: linear(x, d)
output: A(concat(linear(x, 3), gate))
"""


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_what_steps_and_keys_read_is_inside(backend: str) -> None:
    """A gate reads a state from before the first token, a key of a cache reads one: neither leaves the core."""
    spec = nlc.loads(INSIDE, operator=True)
    assert not any("m" in _states(e) for e in spec.system.output.values())
    net = spec.compile(backend)().double()
    flows = {
        n: torch.randn(2, 5, *(int(d.evaluate({"d": 4})) for d in i.dims), dtype=torch.float64)
        for n, i in spec.system.inputs.items()
    }
    y, _ = net(**flows)
    assert all(x.isfinite().all() for x in (y.values() if isinstance(y, dict) else [y]))


def _states(e: Expr) -> set[str]:
    return {n.attr[0] for n in walk(e) if n.op == "state"}
