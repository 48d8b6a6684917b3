"""``nlc.route``: what goes where, that every route trains as its system alone would, and what is said of mistakes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from shipped_specs import LAYERS, TRAINERS
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

import nlc
from nlc.runtime.routes import view_of
from nlc.runtime.views import rejoined, shown

HEADS, EXPERTS = 2, 3


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, 4, 6))


class Net(nn.Module):
    """An embedding, a convolution, attention, experts, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.conv = nn.Conv1d(6, 4, 3)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"qkv": nn.Linear(6, 12), "out": nn.Linear(6, 6)}) for _ in range(2)
        )
        self.experts = Experts()
        self.head = nn.Linear(6, 7)
        self.scale = nn.Parameter(torch.ones(()))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def routes() -> list[Any]:
    return [
        nlc.Route("adamw", modules=nn.Embedding, names="embed.*", lr=0.01),
        nlc.Route("adamw", names="head.*", lr=0.02),
        nlc.Route("muon", modules=nn.Conv1d, view="flatten(1:)", lr=0.03),
        nlc.Route("muon", names="*.qkv.weight", view=f"split(0, {HEADS})", lr=0.04),
        nlc.Route("m3_ema", kinds="stacks", view="batch(:1)", f=2),
        "muon",
    ]


def made(model: Net, **more: Any) -> Optimizer:
    return nlc.route(model, *routes(), rest=nlc.Route("lion", lr=1e-3), tell=None, **more)


def slope(p: Tensor, tick: int, name: str) -> Tensor:
    noise = torch.Generator().manual_seed(97 * tick + len(name))
    return torch.randn(p.shape, generator=noise, dtype=torch.float64) + 0.3 * p.detach()


def train(model: nn.Module, opt: Optimizer, ticks: range, after: Callable = lambda: None) -> None:
    for tick in ticks:
        for n, p in model.named_parameters():
            p.grad = slope(p, tick, n)
        opt.step()
        after()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.parameters(), b.parameters()))


def test_what_goes_where() -> None:
    groups = made(net()).param_groups
    assert [(g["route"], g["lr"], g["param_names"]) for g in groups] == [
        ("adamw", 0.01, ["embed.weight"]),
        ("adamw-2", 0.02, ["head.weight", "head.bias"]),
        ("muon", 0.03, ["conv.weight"]),
        ("muon-2", 0.04, ["blocks.0.qkv.weight", "blocks.1.qkv.weight"]),
        ("m3_ema", 0.03, ["experts.weight"]),
        ("muon-3", 1e-3, ["blocks.0.out.weight", "blocks.1.out.weight"]),
        (
            "lion",
            1e-3,
            ["scale", "conv.bias", "blocks.0.qkv.bias", "blocks.0.out.bias", "blocks.1.qkv.bias", "blocks.1.out.bias"],
        ),
    ]  # fmt: skip


def test_every_route_trains_as_its_system_alone() -> None:
    """A convolution as one matrix, heads and experts one by one, each with memories of its own."""
    model, alone = net(), net()
    train(model, made(model), range(5))
    p = dict(alone.named_parameters())
    muon, adamw = nlc.compile("muon"), nlc.compile("adamw")
    parts: list[tuple[Any, dict, list[tuple[str, Callable]]]] = [
        (adamw, {"lr": 0.01}, [("embed.weight", lambda x: [x])]),
        (muon, {"lr": 0.03}, [("conv.weight", lambda x: [x.flatten(1)])]),
        (muon, {"lr": 0.04}, [("blocks.1.qkv.weight", lambda x: [x[:6], x[6:]])]),
        (nlc.compile("m3_ema"), {"f": 2}, [("experts.weight", lambda x: [x[0], x[1], x[2]])]),
        (muon, {}, [("blocks.0.out.weight", lambda x: [x])]),
        (nlc.compile("lion"), {"lr": 1e-3}, [("scale", lambda x: [x]), ("conv.bias", lambda x: [x])]),
    ]  # fmt: skip
    found = dict(model.named_parameters())
    for make, hypers, seen in parts:
        for name, view in seen:
            W = p[name].detach()
            pieces = [nn.Parameter(x.clone()) for x in view(W)]
            opt = make(pieces, **hypers)
            for tick in range(5):
                g = slope(W, tick, name)
                for piece, x in zip(pieces, view(g), strict=True):
                    piece.grad = x
                opt.step()
                for piece, x in zip(pieces, view(W), strict=True):
                    x.copy_(piece.detach())
            torch.testing.assert_close(found[name].detach(), W, rtol=1e-12, atol=1e-12)


def test_a_parameter_that_does_not_lie_in_a_row() -> None:
    model, other = net(), net()
    model.conv.weight.data = model.conv.weight.data.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not model.conv.weight.is_contiguous()
    for x in (model, other):
        train(x, made(x), range(3))
    torch.testing.assert_close(model.conv.weight, other.conv.weight)


def test_the_rates_of_all_routes_follow_a_schedule() -> None:
    model, other = net(), net()
    opt, by_hand = made(model), made(other)
    schedule = lr_scheduler.LambdaLR(opt, [lambda n, k=k: 1 / (1 + k * n) for k in range(7)])
    rates = []
    for tick in range(4):
        rates.append([g["lr"] for g in opt.param_groups])
        train(model, opt, range(tick, tick + 1))
        schedule.step()
    for tick, row in enumerate(rates):
        for group, rate in zip(by_hand.param_groups, row, strict=True):
            group["lr"] = rate
        train(other, by_hand, range(tick, tick + 1))
    assert same(model, other)
    assert rates[3][0] == 0.01 and rates[3][6] == pytest.approx(1e-3 / 19)


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_fresh_one_goes_on_bit_by_bit(cut: int) -> None:
    whole, parts = net(), net()
    train(whole, made(whole), range(5))
    first = made(parts)
    train(parts, first, range(cut))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = made(parts)
    second.param_groups[2]["lr"] = 99.0
    second.load_state_dict(torch.load(file, weights_only=True))
    train(parts, second, range(cut, 5))
    assert same(whole, parts)


def test_a_period_is_that_with_which_its_memories_began_in_every_route() -> None:
    """As of an optimizer alone: it may change until the first step, and is saved and loaded with what began."""
    model = nn.Linear(4, 3, bias=False)
    opt = nlc.route(model, "m3", rest="adamw")
    (group,) = opt.param_groups

    def step() -> None:
        model.weight.grad = torch.ones_like(model.weight)
        opt.step()

    group["f"] = 3
    for _ in range(4):
        step()
    saved = copy.deepcopy(opt.state_dict())
    opt.load_state_dict(saved)
    step()
    group["f"] = 4
    with pytest.raises(ValueError, match="f was 3"):
        step()
    with pytest.raises(ValueError, match="f was 3"):
        opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    opt = nlc.route(model, "m3", rest="adamw")
    opt.load_state_dict(saved)
    assert opt.param_groups[0]["f"] == 3
    step()


def test_copies_and_pickles_go_on() -> None:
    model = net()
    opt = made(model)
    train(model, opt, range(2))
    for again in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        other, copied = again((model, opt))
        train(other, copied, range(2, 4))
        assert not same(other, model)
        expected, kept = copy.deepcopy((model, opt))
        train(expected, kept, range(2, 4))
        assert same(other, expected)


def test_a_grad_scaler_a_closure_and_missing_gradients() -> None:
    """The scaler sees the model's own gradients, also behind views."""
    model, other = net(), net()
    scaled, plain = made(model), made(other)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)

    def loss(x: nn.Module) -> Tensor:
        return sum(p.square().sum() for n, p in x.named_parameters() if "blocks.0" not in n)

    for _ in range(3):
        scaled.zero_grad()
        scaler.scale(loss(model)).backward()
        scaler.step(scaled)
        scaler.update()

        def closure() -> Tensor:
            plain.zero_grad()
            value = loss(other)
            value.backward()
            return value

        before = loss(other).detach()
        assert torch.equal(plain.step(closure), before)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert torch.equal(model.blocks[0]["qkv"].weight, net().blocks[0]["qkv"].weight)
    plain.zero_grad()
    assert all(p.grad is None for p in other.parameters())


@pytest.mark.parametrize(
    "sees, rest", [*((LAYERS[0], n) for n in TRAINERS), *((n, "adamw") for n in LAYERS[1:])]
)
def test_a_grad_scaler_undoes_its_scale_in_samples_and_gradients(sees: str, rest: str) -> None:
    """A step in which any route found what is not finite is left out by all of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)).double()
    other, x = copy.deepcopy(model), torch.randn(6, 4, dtype=torch.float64)
    scaled, plain = (
        nlc.route(m, nlc.Route(sees, names="0.weight", lr=0.02), rest=rest, tell=None)
        for m in (model, other)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for tick in range(3):
        scaled.zero_grad()
        torch.manual_seed(tick)  # starts that are drawn
        factor = torch.inf if tick == 1 else 1
        scaler.scale((model(x) - x[:, :3]).square().mean() * factor).backward()
        assert scaler.step(scaled) is None
        scaler.update()
        if tick == 1:
            continue
        plain.zero_grad()
        torch.manual_seed(tick)
        (other(x) - x[:, :3]).square().mean().backward()
        plain.step()
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11)
    assert not hasattr(scaled.parts[0].optimizer, "found_inf")
    scaled.zero_grad()
    scaler.scale(model(x).square().mean()).backward()
    scaler.unscale_(scaled)
    with pytest.raises(RuntimeError, match="unscale_ leaves the samples scaled"):
        scaler.step(scaled)


def test_classes_of_torch_are_routes_too() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    other = copy.deepcopy(model)
    opt = nlc.route(
        model, nlc.Route(torch.optim.SGD, names="0.*", lr=0.1), rest=torch.optim.Adagrad, tell=None
    )
    ours = [
        torch.optim.SGD(other[0].parameters(), lr=0.1),
        torch.optim.Adagrad(other[1].parameters()),
    ]
    for tick in range(3):
        for x in (model, other):
            for n, p in x.named_parameters():
                p.grad = slope(p, tick, n)
        opt.step()
        for o in ours:
            o.step()
    assert same(model, other)


def test_a_parameter_can_join_a_route() -> None:
    model = net()
    opt = made(model)
    more = nn.Parameter(torch.ones(4, 4).double())
    opt.add_param_group({"params": [("more", more)], "route": "muon-2", "lr": 0.5})
    assert opt.param_groups[-1]["lr"] == 0.5 and opt.param_groups[-1]["route"] == "muon-2"
    more.grad = torch.eye(4).double()
    opt.step()
    assert not torch.equal(more.detach(), torch.ones(4, 4).double())
    with pytest.raises(ValueError, match="there is no route 'sgd'"):
        opt.add_param_group({"params": [("x", more)], "route": "sgd"})


def test_steps_on_the_device_and_steps_that_keep_their_graph() -> None:
    model, other = net(), net()
    asked = {"view": "flatten(1:)", "kinds": "stacks"}
    routes = [nlc.Route("muon", **asked, capturable=x) for x in (True, False)]
    captured = nlc.route(model, routes[0], rest=nlc.Route("adamw", capturable=True), tell=None)
    plain = nlc.route(other, routes[1], rest="adamw", tell=None)
    schedule = lr_scheduler.ExponentialLR(captured, 0.5)
    assert all(isinstance(g["lr"], Tensor) for g in captured.param_groups)
    for tick in range(4):
        train(model, captured, range(tick, tick + 1))
        train(other, plain, range(tick, tick + 1))
        schedule.step()
        for group in plain.param_groups:
            group["lr"] *= 0.5
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)

    small = nn.Linear(3, 2).double()
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    asked = [nlc.Route(x, lr=rate, differentiable=True) for x in ("m3_ema", "sgd")]
    opt = nlc.route(small, *asked, tell=None)
    for p in small.parameters():
        p.grad = torch.ones_like(p)
    opt.step()
    now = [p for group in opt.param_groups for p in group["params"]]
    assert sum(p.sum() for p in now).backward() is None and rate.grad.item() != 0
    assert all(a is not b for a, b in zip(now, small.parameters(), strict=True))


def test_a_rest_that_has_routes_of_its_own_keeps_them() -> None:
    model = nn.Sequential(nn.Linear(3, 4)).double()
    (opt,) = (nlc.route(model, rest="muon", tell=None),)
    train(model, opt, range(2))
    assert [(g["route"], g["lr"]) for g in opt.param_groups] == [
        ("muon", 1e-3),
        ("muon.rest", 3e-4),
    ]
    assert "v" in opt.state[model[0].bias] and "m" in opt.state[model[0].weight]
    together = nn.Sequential(nn.Linear(3, 4)).double()
    together.load_state_dict(nn.Sequential(nn.Linear(3, 4)).state_dict())
    alone = copy.deepcopy(together)
    train(together, nlc.route(together, rest="muon", tell=None), range(3))
    train(alone, nlc.compile("muon")(alone.parameters()), range(3))
    assert same(together, alone)


def test_the_table_says_what_went_where() -> None:
    said: list[str] = []
    model = net()
    model.scale.requires_grad_(False)
    opt = nlc.route(model, *routes(), rest="adamw", tell=said.append)
    assert said == [str(opt)]
    lines = [x.split() for x in said[0].splitlines()]
    assert said[0].splitlines()[0].split("  ")[0] == "tensors"
    row = "blocks.*.qkv.weight (2) [12, 6] 2 × [6, 6] muon-2 0.04 144"
    assert row.split() in lines
    assert "experts.weight [3, 4, 6] 3 × [4, 6] m3_ema 0.03 f=2 72".split() in lines
    assert lines[-1] == ["scale", "not", "trained"]


WRONG: dict[str, Callable[[Net], Any]] = {
    "the pattern 'heads.*' finds no parameter": lambda m: nlc.route(
        m, nlc.Route("adamw", names="heads.*"), rest="sgd"
    ),
    "no parameter belongs to a LSTM": lambda m: nlc.route(
        m, nlc.Route("adamw", modules=nn.LSTM), rest="sgd"
    ),
    "route 2, muon, takes nothing: embed.weight, blocks.*.qkv.weight (2), ": (
        lambda m: nlc.route(m, "muon", "muon", rest="sgd")
    ),
    "route 1, muon, takes nothing: it is not for scale": lambda m: nlc.route(
        m, nlc.Route("muon", names="scale"), rest="sgd"
    ),
    "no route takes scale [], conv.weight [4, 6, 3], conv.bias [4], ": lambda m: nlc.route(
        m, "muon"
    ),
    "adamw has no hyper 'lrr'; did you mean 'lr'?": lambda m: nlc.route(
        m, rest=nlc.Route("adamw", lrr=1)
    ),
    "there is no kind of tensors 'matrix'": lambda m: nlc.Route("adamw", kinds="matrix"),
    "the view 'flat' is none": lambda m: nlc.Route("adamw", view="flat"),
    "no route takes scale [], conv.bias [4], blocks": lambda m: nlc.route(
        m, rest=nlc.Route("adamw", view="flatten(1:)")
    ),
    "embed.weight: split(0, 5): a tensor of shape [7, 6], axis 0, is not divisible into 5 parts": lambda m: (
        nlc.route(m, nlc.Route("muon", names="embed.*", view="split(0, 5)"), rest="sgd")
    ),
    "adamw: a view shows values": lambda m: nlc.route(
        m, nlc.Route("adamw", view="flatten(0:)", differentiable=True), rest="sgd"
    ),
    "is a system over tokens": lambda m: nlc.route(m, "delta_net", rest="sgd"),
}


@pytest.mark.parametrize("said", WRONG)
def test_mistakes_are_said(said: str) -> None:
    with pytest.raises(ValueError) as caught:
        WRONG[said](net())
    assert said in str(caught.value)


def test_the_state_of_other_routes_is_refused() -> None:
    one, two = net(), net()
    saved = made(one).state_dict()
    with pytest.raises(ValueError, match="saved were 7 routes, here are 1"):
        nlc.route(two, rest="adamw", tell=None).load_state_dict(saved)
    other = nlc.route(two, *routes(), rest="adamw", tell=None)
    with pytest.raises(ValueError, match="saved were 6 tensors by lion, here are 6 by adamw"):
        other.load_state_dict(saved)


@pytest.mark.parametrize(
    "text, shape, expected",
    [
        ("flatten(1:)", (2, 3, 4), [(2, 12)]),
        ("flatten(:2)", (2, 3, 4), [(6, 4)]),
        ("flatten(:-1)", (2, 3, 4), [(6, 4)]),
        ("flatten(:)", (2, 3, 4), [(24,)]),
        ("split(1, 3)", (2, 6), [(2, 2)] * 3),
        ("batch(:1)", (3, 2, 4), [(2, 4)] * 3),
        ("batch(:1) split(-1, 2)", (2, 3, 4), [(3, 2)] * 4),
        ("batch(:-2)", (2, 3, 4, 5), [(4, 5)] * 6),
        ("batch(:-2)", (4, 5), [(4, 5)]),
        ("batch(1:)", (2, 3, 4), [(2,)] * 12),
        ("split(0, 2) batch(1:2) flatten(:)", (4, 3, 2), [(4,)] * 6),
        ("", (2, 3), [(2, 3)]),
    ],
)
def test_views(text: str, shape: tuple, expected: list) -> None:
    x = torch.arange(torch.Size(shape).numel()).view(shape)
    view = view_of(text).at({})
    found = shown(x, view)
    assert [tuple(y.shape) for y in found] == expected
    assert sorted(torch.cat([y.flatten() for y in found]).tolist()) == x.flatten().tolist()
    assert torch.equal(rejoined(iter(found), x, view), x)


def test_a_route_takes_the_module() -> None:
    with pytest.raises(
        TypeError, match=r"takes a torch\.nn\.Module, whose parameters it finds, not a"
    ):
        nlc.route(nn.Linear(2, 2).parameters(), rest="adamw")
