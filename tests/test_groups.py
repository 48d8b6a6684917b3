"""Which rule trains which tensor, and when: ``applies_to``, levels on the outer loss, groups with periods."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import nlc

ROUTED = """
nlc: 1
system: routed
context: gradients
hyper: {lr: 0.1, slow: 0.01}
applies_to: {ROUTES}
levels:
  W:
    frequency: every step
    objective: dot(W, sign(g))
    rule: gd(lr=lr)
"""
SHAPES = {"scalar": (), "vector": (3,), "square": (3, 3), "matrix": (2, 3), "stack": (2, 2, 3)}


def tensors(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(0)
    drawn = {n: torch.randn(s, generator=noise, dtype=torch.float64) for n, s in SHAPES.items()}
    return {n: x.to(dtype).requires_grad_() for n, x in drawn.items()}


def descend(optimizer: Optimizer, params: Iterable[Tensor], ticks: range) -> None:
    """Steps on gradients that depend on the tick and on the parameter itself."""
    for tick in ticks:
        for i, p in enumerate(params):
            noise = torch.Generator().manual_seed(100 * tick + i)
            g = torch.randn(p.shape, generator=noise, dtype=torch.float64).to(p.dtype)
            p.grad = g + 0.3 * p.detach()
        optimizer.step()


def same(found: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------ kinds of tensors


def trained(routes: str, **groups: object) -> dict[str, str]:
    """By tensor, what one step did: ``self`` (sign, 0.1), ``rest`` (gradient, 0.01) or that it is refused."""
    made = nlc.loads(ROUTED.replace("ROUTES", routes)).compile()
    out = {}
    for name, p in tensors().items():
        before, g = p.detach().clone(), 0.5 + p.detach().abs()
        p.grad = g.clone()
        try:
            made([{"params": [p], **groups}]).step()
        except ValueError:
            out[name] = "refused"
            assert torch.equal(p, before)
            continue
        moved = before - p.detach()
        steps = {"self": 0.1 * g.sign(), "rest": 0.01 * g}
        (out[name],) = [n for n, step in steps.items() if torch.allclose(moved, step)]
    return out


REST = "sgd(lr=slow)"
KINDS = {
    f"matrices: self, rest: {REST}": ["rest", "rest", "self", "self", "rest"],
    f"rest: self, vectors: {REST}": ["self", "rest", "self", "self", "self"],
    f"square: self, matrices: {REST}": ["refused", "refused", "self", "rest", "refused"],
    f"matrices: {REST}, square: self": ["refused", "refused", "self", "rest", "refused"],
    f"scalars: {REST}, stacks: self": ["rest", "refused", "refused", "refused", "self"],
    "rest: self": ["self"] * 5,
}


@pytest.mark.parametrize("routes", KINDS)
def test_each_kind_of_tensor_has_its_rule(routes: str) -> None:
    assert list(trained(routes).values()) == KINDS[routes]


def test_a_group_names_the_rule_of_another_kind() -> None:
    routes = f"matrices: self, rest: {REST}"
    assert trained(routes, rule="rest")["matrix"] == "rest"
    assert trained(routes, rule="matrices")["vector"] == "self"
    assert trained(routes, rule=None)["matrix"] == "self"


def test_what_is_refused_says_what_it_takes() -> None:
    made = nlc.loads(ROUTED.replace("ROUTES", f"square: self, vectors: {REST}")).compile()
    W = torch.zeros(2, 5, requires_grad=True)
    with pytest.raises(ValueError) as caught:
        made([W])
    said = "Routed takes vectors and square, found a parameter of shape [2, 5]"
    assert str(caught.value) == said


def test_muon_and_m3_train_whole_networks() -> None:
    """Matrices as before, the rest by AdamW at ``rest_lr``, an embedding by AdamW because its group says so."""
    for name, hypers in (("muon", {"weight_decay": 0.2}), ("m3", {})):
        made = nlc.compile(name)
        params, theirs = tensors(torch.float32), tensors(torch.float32)
        decay = hypers.get("weight_decay", 0.0)
        groups = [
            {"params": [params[n] for n in ("scalar", "vector", "stack", "matrix")]},
            {"params": [params["square"]], "rule": "rest"},
        ]
        mine = made(groups, lr=0.01, rest_lr=0.003, **hypers)
        rest = ["scalar", "vector", "stack", "square"]
        falling = LambdaLR(mine, lambda n: 0.9**n)
        adamw = torch.optim.AdamW([theirs[n] for n in rest], lr=0.003, weight_decay=decay)
        alone = tensors(torch.float32)["matrix"]
        matrices = made([alone], lr=0.01, **hypers)
        for tick in range(8):
            for p in (params, theirs, {"matrix": alone}):
                for n, x in p.items():
                    x.grad = torch.sin(x.detach() + tick + len(n))
            matrices.param_groups[0]["lr"] = mine.param_groups[0]["lr"]
            for optimizer in (mine, adamw, matrices):
                optimizer.step()
            falling.step()
        same([params[n] for n in rest], [theirs[n] for n in rest], 1e-6)
        assert torch.equal(params["matrix"], alone)
        assert not torch.allclose(alone, tensors(torch.float32)["matrix"], atol=1e-3)


def test_the_rate_of_the_rest_is_a_hyper_of_each_group() -> None:
    """It can be scheduled: a new value holds from the next step on."""
    p = tensors()["vector"]
    optimizer = nlc.compile("muon")([p], rest_lr=0.0, weight_decay=0.0)
    before = p.detach().clone()
    descend(optimizer, [p], range(3))
    assert torch.equal(p, before)
    optimizer.param_groups[0]["rest_lr"] = 0.01
    descend(optimizer, [p], range(1))
    assert (p - before).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------ levels on the loss

SLOW = """
nlc: 1
system: slow
context: tokens
hyper: {d: 4, period: 3, rate: 0.05}
inputs: {x: [d]}
outputs: {y: [d]}
levels:
  A:
    frequency: every period steps
    memory: mlp(d, 2)
    objective: loss
    rule: RULE
  B:
    frequency: every 2 steps
    memory: matrix(d, d)
    objective: loss
    init: learned(normal(0.5))
output:
  y: B(A(linear(x, d)))
"""


def slow(rule: str = "adamw(lr=rate, weight_decay=0.1)") -> torch.nn.Module:
    module = nlc.loads(SLOW.replace("RULE", rule)).compile()()
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=noise))
    return module.double()


def loss_of(module: torch.nn.Module, tick: int) -> Tensor:
    noise = torch.Generator().manual_seed(tick)
    x = torch.randn(2, 3, 4, generator=noise, dtype=torch.float64)
    return module(x)[0].square().mean()


def train(
    module: torch.nn.Module,
    optimizer: Optimizer,
    ticks: range,
    schedule: LambdaLR | None = None,
) -> None:
    for tick in ticks:
        optimizer.zero_grad()
        loss_of(module, tick).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()


class Periods:
    """The same in torch: an optimizer for each group, which steps on the sum of a period's gradients."""

    def __init__(self, parts: list[tuple[Optimizer, int]]):
        self.parts, self.sums, self.ticks = parts, {}, 0

    def zero_grad(self) -> None:
        for optimizer, _ in self.parts:
            optimizer.zero_grad()

    def step(self) -> None:
        self.ticks += 1
        for optimizer, period in self.parts:
            params = [p for group in optimizer.param_groups for p in group["params"]]
            for p in params:
                self.sums[p] = self.sums.get(p, 0) + p.grad
            if self.ticks % period == 0:
                for p in params:
                    p.grad = self.sums.pop(p)
                optimizer.step()


def test_levels_on_the_loss_are_slow_weights_with_groups_of_their_own() -> None:
    module = slow()
    names = {id(p): n for n, p in module.named_parameters()}
    groups = module.param_groups()
    found = [[names[id(p)] for p in group["params"]] for group in groups]
    assert found == [["y.linear.weight"], ["A.W1", "A.W2"], ["B"]]
    assert [group.get("period") for group in groups] == [None, 3, 2]
    assert groups[1]["lr"] == 0.05 and groups[1]["weight_decay"] == 0.1 and "rule" not in groups[2]
    assert [n for n, _ in module.initial_state(torch.zeros(1, 1, 4)).items()] == []


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_period_adds_up_gradients_for_one_step_of_the_group_s_rule(scheduled: bool) -> None:
    mine, theirs = slow(), slow()
    optimizer = nlc.compile("momentum")(mine.param_groups(), lr=0.02, beta=0.8)
    first = torch.optim.SGD(theirs.y.linear.parameters(), lr=0.02, momentum=0.8)
    second = torch.optim.AdamW([theirs.A.W1, theirs.A.W2], lr=0.05, weight_decay=0.1)
    third = torch.optim.SGD([theirs.B], lr=0.02, momentum=0.8)
    other = Periods([(first, 1), (second, 3), (third, 2)])
    schedule = LambdaLR(optimizer, [lambda n: 0.9**n] * 3) if scheduled else None
    for tick in range(14):
        if scheduled:
            for part, base in ((first, 0.02), (second, 0.05), (third, 0.02)):
                part.param_groups[0]["lr"] = base * 0.9**tick
        train(theirs, other, range(tick, tick + 1))  # type: ignore[arg-type]
        train(mine, optimizer, range(tick, tick + 1), schedule)
    same(mine.parameters(), theirs.parameters())
    same_as_first = [torch.allclose(a, b) for a, b in zip(mine.parameters(), slow().parameters())]
    assert not any(same_as_first)


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("how", ["state_dict", "file", "pickle", "deepcopy"])
def test_training_goes_on_inside_a_period(stop: int, how: str) -> None:
    whole = slow("momentum(lr=rate, beta=0.7)")
    optimizer = nlc.compile("adamw")(whole.param_groups(), lr=0.02)
    train(whole, optimizer, range(stop))
    if how in ("pickle", "deepcopy"):
        other, second = (
            pickle.loads(pickle.dumps((whole, optimizer)))
            if how == "pickle"
            else copy.deepcopy((whole, optimizer))
        )
    else:
        other = slow("momentum(lr=rate, beta=0.7)")
        other.load_state_dict(whole.state_dict())
        second = nlc.compile("adamw")(other.param_groups(), lr=99.0)
        kept = optimizer.state_dict()
        if how == "file":
            file = io.BytesIO()
            torch.save(kept, file)
            file.seek(0)
            kept = torch.load(file, weights_only=True)
        second.load_state_dict(copy.deepcopy(kept))
    train(whole, optimizer, range(stop, 12))
    train(other, second, range(stop, 12))
    assert all(map(torch.equal, whole.parameters(), other.parameters()))


def test_a_rule_may_be_a_step_formula_or_route_itself() -> None:
    for rule, step in (
        ("gd(lr=rate, decay=0.9)", lambda p, g: 0.9 * p - 0.05 * g),
        ("sgd(lr=2 * rate)", lambda p, g: p - 0.1 * g),
    ):
        module = slow(rule)
        before, total = module.A.W1.detach().clone(), 0
        optimizer = nlc.compile("sgd")(module.param_groups(), lr=0.0)
        for tick in range(3):
            optimizer.zero_grad()
            loss_of(module, tick).backward()
            total = total + module.A.W1.grad
            optimizer.step()
        same([module.A.W1], [step(before, total)])


def test_a_rule_with_routes_of_its_own_trains_each_tensor_by_its_kind() -> None:
    module = slow("muon(lr=rate, weight_decay=0)").float()
    optimizer = nlc.compile("sgd")(module.param_groups(), lr=0.0)
    other = slow("muon(lr=rate, weight_decay=0)").float()
    alone = nlc.compile("muon")([other.A.W1, other.A.W2], lr=0.05, weight_decay=0.0)
    sums: dict[str, Tensor] = {}
    for tick in range(3):
        optimizer.zero_grad()
        noise = torch.Generator().manual_seed(tick)
        module(torch.randn(2, 3, 4, generator=noise))[0].square().mean().backward()
        for n in ("W1", "W2"):
            sums[n] = sums.get(n, 0) + getattr(module.A, n).grad
        optimizer.step()
    other.A.W1.grad, other.A.W2.grad = sums["W1"], sums["W2"]
    alone.step()
    # sums of gradients in another order, whose rounding joined iterations of long matrices enlarge
    same([module.A.W1, module.A.W2], [other.A.W1, other.A.W2], 1e-5)


def test_torch_s_optimizers_take_the_groups() -> None:
    """They see the learning rates; periods and rules are for generated optimizers."""
    for made in (torch.optim.SGD, torch.optim.AdamW):
        module = slow()
        optimizer = made(module.param_groups(), lr=0.01)
        assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.05, 0.01]
        train(module, optimizer, range(3))
        assert not any(map(torch.equal, module.parameters(), slow().parameters()))


# ------------------------------------------------------------------------------------------ groups


@pytest.mark.parametrize("period", [1, 3])
def test_a_parameter_without_gradient_waits(period: int) -> None:
    """Its period goes by its own gradients."""
    a, b = (torch.zeros(2, requires_grad=True) for _ in "ab")
    optimizer = nlc.compile("sgd")([{"params": [a, b], "period": period}], lr=1.0)
    for tick in range(6):
        a.grad = torch.ones(2)
        b.grad = torch.ones(2) if tick % 2 else None
        optimizer.step()
    assert torch.equal(a.detach(), torch.full((2,), -6.0))
    assert torch.equal(b.detach(), torch.full((2,), -3.0))


def test_gradients_of_a_period_are_kept_apart_from_what_the_user_does_with_them() -> None:
    W = torch.zeros(2, requires_grad=True)
    optimizer = nlc.compile("sgd")([{"params": [W], "period": 2}], lr=1.0)
    W.grad = torch.ones(2)
    optimizer.step()
    W.grad.zero_()  # set_to_none=False
    W.grad += 5
    optimizer.step()
    assert torch.equal(W.detach(), torch.full((2,), -6.0))


@pytest.mark.parametrize("period", [1, 2])
def test_maximize_climbs(period: int) -> None:
    W = torch.zeros(2, requires_grad=True)
    made = nlc.compile("muon")
    optimizer = made([{"params": [W], "period": period}], rest_lr=0.1, maximize=True)
    for _ in range(2):
        W.grad = torch.ones(2)
        optimizer.step()
    assert (W > 0.05).all()


def test_closures_are_called_once_a_step_also_inside_a_period() -> None:
    module = slow()
    optimizer, calls = nlc.compile("adamw")(module.param_groups(), lr=0.02), []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(module, len(calls))
        loss.backward()
        calls.append(loss.item())
        return loss

    losses = [optimizer.step(closure).item() for _ in range(7)]
    assert losses == calls
    other = slow()
    train(other, nlc.compile("adamw")(other.param_groups(), lr=0.02), range(7))
    assert all(map(torch.equal, module.parameters(), other.parameters()))


def test_groups_can_join_later_with_a_rule_and_a_period() -> None:
    mine, theirs = slow(), slow()
    groups = mine.param_groups()
    optimizer = nlc.compile("adamw")(groups[:1], lr=0.02)
    optimizer.add_param_group(groups[1])
    optimizer.add_param_group(groups[2])
    other = nlc.compile("adamw")(theirs.param_groups(), lr=0.02)
    train(mine, optimizer, range(6))
    train(theirs, other, range(6))
    assert all(map(torch.equal, mine.parameters(), theirs.parameters()))


def _group(**more: object) -> Callable[[], object]:
    return lambda: nlc.compile("adamw")([{"params": [torch.zeros(2)], **more}])


WRONG = {
    "there is no rule 'muon' among []": _group(rule="muon"),
    "needs ['beta'": _group(rule=nlc.compile("muon")),
    "period = 0 must be a whole number, at least 1": _group(period=0),
    "period = 1.5 must be a whole number, at least 1": _group(period=1.5),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_with_a_group_is_said_when_it_is_added(said: str) -> None:
    with pytest.raises(ValueError) as caught:
        WRONG[said]()
    assert said in str(caught.value)


def test_a_rule_that_is_unknown_after_loading_is_named() -> None:
    module = slow()
    kept = nlc.compile("adamw")(module.param_groups(), lr=0.02).state_dict()
    plain = slow()
    groups = [{"params": group["params"]} for group in plain.param_groups()]
    optimizer = nlc.compile("adamw")(groups, lr=0.02)
    with pytest.raises(ValueError, match="there is no rule"):
        optimizer.load_state_dict(kept)
