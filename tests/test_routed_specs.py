"""``applies_to`` in full: conditions and views of a spec, alone and by ``nlc.route``, against steps by hand."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator

import pytest
import torch
from test_routes import EXPERTS, HEADS, Net, net, same, slope, train
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

import nlc

SPEC = """
nlc: 1
system: routed
context: gradients
hyper: {lr: 0.02, rest_lr: 1e-3, beta: 0.9, heads: 2, least: 40}
applies_to:
ROUTES
levels:
  m:
    frequency: every step
    memory: like(W)
    objective: -dot(m, g)
    rule: gd(lr=1 - beta, decay=beta)
  W:
    frequency: every step
    objective: dot(W, newton_schulz(m, 5))
    rule: gd(lr=lr)
"""
BY_NAME = """
  embeddings: {names: [embed.*, head.*], rule: adamw(lr=rest_lr)}
  qkv: {names: "*.qkv.weight", view: "split(0, heads)", rule: self}
  kernels: {names: conv.*, view: flatten(1:), rule: self}
  stacks: {view: batch(:-2), rule: self}
  small: {kinds: matrices, where: [numel(W) < least, ncols(W) > 1], rule: lion(lr=lr / 100)}
  matrices: self
  rest: adamw(lr=rest_lr)
"""
BY_MODULE = BY_NAME.replace("names: [embed.*, head.*]", "kinds: matrices, modules: Embedding")


def spec(routes: str = BY_NAME) -> nlc.Spec:
    return nlc.loads(SPEC.replace("ROUTES", routes.strip("\n")), "routed.yaml")


def test_a_rule_of_hypers_by_position_is_a_route_and_no_let() -> None:
    by_position, by_name = (
        spec(f"  matrices: self\n  rest: adamw({lr})") for lr in ("rest_lr", "lr=rest_lr")
    )
    assert not by_position.check().has_errors
    assert by_position.system.routes[1].rule.args == by_name.system.routes[1].rule.args


@pytest.fixture(params=["torch", "reference"])
def made(request: pytest.FixtureRequest) -> type[Optimizer]:
    return spec().compile(request.param)


# what the parts of the model are by hand: the system's own rule sees matrices, everything else is another's
VIEWS = {
    "conv.weight": lambda x: [x.flatten(1)],
    "blocks.0.qkv.weight": lambda x: list(x.chunk(HEADS)),
    "experts.weight": lambda x: list(x),
    "embed.weight": None,
    "blocks.1.out.bias": None,
}


def by_hand(model: Net, names: dict, ticks: range) -> Iterator[tuple[str, Tensor]]:
    """Some of the parameters after the steps of one system each."""
    alone = spec("  matrices: self").compile("reference")
    for name, view in names.items():
        W = dict(model.named_parameters())[name].detach().clone()
        pieces = [nn.Parameter(x.clone()) for x in (view(W) if view else [W])]
        opt = alone(pieces) if view else nlc.compile("adamw")(pieces, lr=1e-3)
        for tick in ticks:
            g = slope(W, tick, name)
            for piece, x in zip(pieces, view(g) if view else [g], strict=True):
                piece.grad = x.clone()
            opt.step()
            for piece, x in zip(pieces, view(W) if view else [W], strict=True):
                x.copy_(piece.detach())
        yield name, W


def test_each_part_trains_as_by_hand(made: type[Optimizer]) -> None:
    """A kernel as one matrix, heads and experts one by one, embeddings and biases by AdamW."""
    model = net()
    train(model, made(model.named_parameters()), range(5))
    found = dict(model.named_parameters())
    for name, W in by_hand(net(), VIEWS, range(5)):
        torch.testing.assert_close(found[name].detach(), W, rtol=1e-11, atol=1e-12)
    assert (
        spec().compile().route_of(nn.Linear(6, 6).weight, "a.out.weight", heads=2, least=40)
        == "small"
    )
    assert (
        spec().compile().route_of(nn.Linear(6, 7).weight, "a.out.weight", heads=2, least=40)
        == "matrices"
    )


def test_parts_of_a_view_make_their_step_as_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads and experts; large ones one by one, and to the same numbers."""
    made = spec().compile("torch")
    update = made.update
    shapes: list[tuple] = []
    monkeypatch.setattr(
        made,
        "update",
        staticmethod(lambda W, *a, **k: (shapes.append(W.shape), update(W, *a, **k))[1]),
    )
    found = []
    for small in (65536, 0):
        model = net()
        opt = made(model.named_parameters())
        for rule in opt.rules.values():
            if hasattr(rule, "together"):
                monkeypatch.setattr(rule, "SMALL", small)
        train(model, opt, range(3))
        buffer = io.BytesIO()
        torch.save(opt.state_dict(), buffer)
        buffer.seek(0)
        other = made(model.named_parameters())
        other.load_state_dict(torch.load(buffer))
        train(model, other, range(3, 6))
        found.append(model)
        stacks = [x for x in shapes if len(x) == 3]
        assert (stacks.count((HEADS, 6, 6)) > 6 and (EXPERTS, 4, 6) in stacks) == bool(small)
        shapes.clear()
    assert same(*found)


def test_the_model_gives_the_same_by_groups_of_their_own() -> None:
    """``nlc.route`` makes a group of each route, with the hypers of its own system."""
    alone, routed = net(), net()
    train(alone, spec().compile()(alone.named_parameters()), range(5))
    opt = nlc.route(routed, rest=spec(), tell=None)
    train(routed, opt, range(5))
    assert same(alone, routed)
    groups = {g["route"]: (g["lr"], len(g["params"])) for g in opt.param_groups}
    assert groups == {
        "routed.embeddings": (1e-3, 3),
        "routed.qkv": (0.02, 2),
        "routed.kernels": (0.02, 1),
        "routed.stacks": (0.02, 1),
        "routed.small": (2e-4, 2),
        "routed.rest": (1e-3, 6),
    }
    assert "blocks.*.qkv.weight (2)  [12, 6]    2 × [6, 6]  routed.qkv" in str(opt)


def test_schedules_reach_every_route_and_steps_go_on_bit_by_bit() -> None:
    """All rates halve; a saved optimizer goes on, alone and by groups."""
    runs = []
    for cut in (None, 3):
        for start in (
            lambda m: spec().compile()(m.named_parameters()),
            lambda m: nlc.route(m, rest=spec(), tell=None),
        ):
            model = net()
            opt = start(model)
            schedule = lr_scheduler.ExponentialLR(opt, 0.5)
            train(model, opt, range(cut or 6), schedule.step)
            if cut:
                file = io.BytesIO()
                torch.save([x.state_dict() for x in (model, opt, schedule)], file)
                file.seek(0)
                model = net()
                opt = start(model)
                schedule = lr_scheduler.ExponentialLR(opt, 0.5)
                for x, saved in zip((model, opt, schedule), torch.load(file), strict=True):
                    x.load_state_dict(saved)
                train(model, opt, range(cut, 6), schedule.step)
            runs.append((model, [g["lr"] for g in opt.param_groups]))
    (alone, _), (routed, rates), (alone_2, _), (routed_2, rates_2) = runs
    assert same(alone, alone_2) and same(routed, routed_2)
    assert rates == rates_2 == [x * 0.5**6 for x in (1e-3, 0.02, 0.02, 0.02, 2e-4, 1e-3)]


def test_classes_of_modules_decide_where_the_model_is_known() -> None:
    opt = nlc.route(net(), rest=spec(BY_MODULE), tell=None)
    trained = {g["route"]: g["param_names"] for g in opt.param_groups}
    assert trained["routed.embeddings"] == ["embed.weight"]
    assert trained["routed"] == ["head.weight"]
    with pytest.raises(
        ValueError,
        match=r"route embeddings of Routed \(routed.yaml:\d+\) goes by module.*nlc.route",
    ):
        spec(BY_MODULE).compile()(net().named_parameters())
    assert spec(BY_MODULE).compile()([{"params": net().parameters(), "rule": "rest"}])


def test_parameters_without_names_say_the_way_out(made: type[Optimizer]) -> None:
    with pytest.raises(
        ValueError,
        match=r"route embeddings of Routed \(routed.yaml:\d+\) goes by name.*named_parameters",
    ):
        made(net().parameters())
    opt = made([{"params": [net().scale], "rule": "rest"}])
    with pytest.raises(ValueError, match="goes by name"):
        opt.add_param_group({"params": [net().conv.weight]})
    assert len(opt.param_groups) == 1
    opt = made([("scale", net().scale)])
    opt.add_param_group({"params": [("conv.weight", net().conv.weight)], "lr": 0.5})
    assert [(g["lr"], g["routes"]) for g in opt.param_groups] == [
        (0.02, ["rest"]),
        (0.5, ["kernels"]),
    ]


def test_a_route_without_tensors_and_tensors_without_a_route() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight.grad = torch.ones(4, 4)
    opt = spec().compile()([("0.weight", model[0].weight)])
    with pytest.warns(UserWarning) as caught:
        opt.step()
    said = [str(w.message) for w in caught]
    assert said == [
        f"route {x} of Routed takes no parameter" for x in ("embeddings", "qkv", "kernels")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.step()
    only = spec("  qkv: {names: '*.qkv.*', rule: self}").compile()
    with pytest.raises(ValueError, match=r"takes qkv, found .* \[4, 4\]"):
        only([("0.weight", model[0].weight)])
    with pytest.raises(ValueError, match=r"no route takes 0.weight \[4, 4\]"):
        nlc.route(model, rest=spec("  qkv: {names: '*.qkv.*', rule: self}"))


def test_a_view_that_does_not_divide_names_the_parameter() -> None:
    p = nn.Parameter(torch.ones(5, 3))
    by_half = "  qkv: {names: q, view: 'split(0, heads)', rule: self}\n  rest: sgd(lr=lr)"
    made = spec(by_half).compile()
    with pytest.raises(
        ValueError, match=r"q: a tensor of shape \[5, 3\], axis 0, is not divisible into 2"
    ):
        made([("q", p)])


@pytest.mark.parametrize(
    "options", [{"capturable": True}, {"differentiable": True}, {"fused": True}, {"maximize": True}]
)
def test_views_keep_the_contract(options: dict) -> None:
    """The same steps on the device, with their graph, and compiled where rules are."""
    plain, other = net(), net()
    sign = -1 if options.get("maximize") else 1
    elements = "  scalars: lion(lr=lr)\n  rest: {view: flatten(:), rule: adamw(lr=lr)}"
    views = elements if options.get("fused") else BY_NAME
    for model, given in ((plain, {}), (other, options)):
        opt = spec(views).compile()(model.named_parameters(), **given)
        for tick in range(3):
            for (n, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
                p.grad = (sign if given else 1) * slope(q if not given else p, tick, n).detach()
            now = [p for g in opt.param_groups for p in g["params"]]
            for p, q in zip(now, model.parameters(), strict=True):
                p.grad = q.grad
            opt.step()
            if options.get("differentiable") and given:
                new = [p for g in opt.param_groups for p in g["params"]]
                for p, q in zip(model.parameters(), new, strict=True):
                    p.data = q.detach()
    for p, q in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-10, atol=1e-12)


def test_a_compiled_step_goes_by_name_too() -> None:
    plain, other = net(), net()
    one, two = (spec().compile()(m.named_parameters(), capturable=True) for m in (plain, other))
    step = torch.compile(two.step, backend="eager")
    for tick in range(3):
        for model, do in ((plain, one.step), (other, step)):
            for n, p in model.named_parameters():
                p.grad = (
                    slope(plain.get_parameter(n), tick, n) if model is other else slope(p, tick, n)
                )
            if model is plain:
                kept = {n: p.grad for n, p in model.named_parameters()}
            else:
                for n, p in model.named_parameters():
                    p.grad = kept[n].clone()
            do()
    assert same(plain, other)


def test_a_routed_spec_as_one_of_several_leaves_what_is_not_its_own() -> None:
    """Before the rest a system takes what its spec gives to itself; names and views of both hold."""
    opt = nlc.route(
        net(),
        nlc.Route(spec(), modules="Conv1d", view="split(0, 2)", lr=0.5),
        spec(),
        rest="sgd",
        tell=None,
    )
    trained = {g["route"]: (g["lr"], len(g["params"])) for g in opt.param_groups}
    assert trained["routed.kernels"] == (0.5, 1)
    assert trained["routed.qkv"] == (0.02, 2) and trained["sgd"][1] == 11
    assert "2 × [2, 18]" in str(opt)


def test_copies_of_a_routed_optimizer_go_on() -> None:
    model = net()
    opt = spec().compile()(model.named_parameters())
    train(model, opt, range(2))
    twin, other = copy.deepcopy((model, opt))
    train(model, opt, range(2, 4))
    train(twin, other, range(2, 4))
    assert same(model, twin)


# ------------------------------------------------------------------------------------ layer systems

LAYERED = """
nlc: 1
system: layered
context: layers
hyper: {lr: 0.1, slow: 0.01}
applies_to:
  first: {kinds: layers, names: "0.*", rule: gd(lr=slow)}
  layers: self
ROUTES
levels:
  W:
    frequency: every step
    objective: mean(dot(W(x), delta))
    rule: gd(lr=lr)
"""


def layered(rest: str = "  rest: gd(lr=slow)") -> nlc.Spec:
    return nlc.loads(LAYERED.replace("ROUTES", rest), "layered.yaml")


@pytest.mark.parametrize("by_route", [False, True])
def test_routes_of_layers_are_plain_descent_at_two_rates(by_route: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, beside = torch.randn(5, 3).double(), copy.deepcopy(model)
    if by_route:
        optimizer = nlc.route(model, rest=layered(), tell=None)
        assert [g["route"] for g in optimizer.param_groups] == [
            "layered.first",
            "layered",
            "layered.rest",
        ]
    else:
        optimizer = layered().compile()(model.named_parameters(), model)
    fast = [beside[2].weight]
    slow = [p for p in beside.parameters() if p is not fast[0]]
    by_hand = torch.optim.SGD([{"params": fast, "lr": 0.1}, {"params": slow, "lr": 0.01}])
    for _ in range(3):
        for trained, steps in ((model, optimizer), (beside, by_hand)):
            steps.zero_grad()
            trained(x).square().mean().backward()
            steps.step()
    for p, q in zip(model.parameters(), beside.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_layers_without_a_rest_refuse_biases() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    made = layered("").compile()
    with pytest.raises(ValueError, match="trains the weights of linear layers that it watches"):
        made(model.named_parameters(), model)
    made([("0.weight", model[0].weight)], model)


def test_no_view_shows_parts_of_a_layer_with_samples() -> None:
    with pytest.raises(ValueError, match="of which no view shows a part"):
        nlc.route(nn.Sequential(nn.Linear(4, 4)), rest=nlc.Route(layered(), view="split(0, 2)"))


def test_routed_layers_are_verified() -> None:
    report = layered().verify()
    assert report.passed, str(report)
