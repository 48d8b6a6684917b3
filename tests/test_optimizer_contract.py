"""The contract of ``torch.optim``, point by point, for every shipped gradient system and each way that it can run."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from shipped_specs import LAYERS, load
from shipped_specs import TRAINERS as NAMES
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode

import nlc
from nlc.ir.expr import walk

SHAPES = [(4, 3), (3, 5), (3,), ()]  # matrices, and what is none
PERIODS = {"f": 3, "k": 2}  # slow levels, as short as they can be and still be slow


@functools.cache
def made_by(name: str, backend: str) -> type:
    return load(name).compile(backend)


def forms(name: str) -> list[str]:
    """The backends of an optimizer, and ``fused`` where a part of it can be compiled."""
    options = inspect.signature(made_by(name, "torch")).parameters
    fused = "fused" in options and name not in LAYERS  # whose rest is another shipped one
    return ["reference", "torch", *(["fused"] if fused else [])]


def drawn_alike(opt: Optimizer) -> Optimizer:
    """Starts that are drawn at random are the same in every instance."""

    def seed(*_: Any) -> None:
        torch.default_generator.manual_seed(0)  # of the CPU alone: the rest takes a millisecond

    opt.register_step_pre_hook(seed)
    return opt


def layer_of(p: nn.Parameter) -> nn.Linear:
    """A linear layer with this weight."""
    layer = nn.Linear(p.shape[1], p.shape[0], bias=False, device="meta")
    layer.weight = p
    return layer


def passed(opt: Optimizer, layers: list[nn.Linear]) -> None:
    """The gradients of layers' weights as samples: x the identity, its slopes the gradient's columns."""
    opt.forget()
    for layer in layers:
        slope, layer.weight.grad = layer.weight.grad, None
        if slope is not None:
            x = torch.eye(slope.shape[1]).to(slope)
            with torch.enable_grad():
                layer(x).backward(slope.mT)


class Way:
    """One optimizer by one backend; ``fused`` runs the compiled form, uncompiled."""

    def __init__(self, name: str, backend: str, patch: pytest.MonkeyPatch):
        self.name, self.spec = name, load(name)
        self.made = made_by(name, "torch" if backend == "fused" else backend)
        self.options: dict[str, Any] = {"fused": True} if backend == "fused" else {}
        self.hypers = {n: PERIODS[n] for n in PERIODS if n in self.spec.system.hypers}
        if backend == "fused":
            module = sys.modules[self.made.__module__]
            patch.setattr(module, "compiled", lambda run: run)
            patch.setattr(module, "CALL", 1)
            patch.setattr(module, "BLOCK", 1, raising=False)

    def __call__(self, params: Any, **given: Any) -> Optimizer:
        given = {**self.hypers, **self.options, **given}
        if not hasattr(self.made, "watch"):
            return drawn_alike(self.made(params, **given))
        params = list(params)
        several = (
            [p for group in params for p in group["params"]]
            if isinstance(params[0], dict)
            else params
        )
        layers = [layer_of(p) for p in several if p.ndim == 2]
        opt = drawn_alike(self.made(params, layers, **given))
        opt.register_step_pre_hook(lambda opt, *_: passed(opt, layers))
        return opt

    def numbers(self) -> dict[str, float]:
        """The hypers that a schedule may change, at values that matter."""
        chosen = {"lr": 0.02, "rest_lr": 0.01, "eps": 1e-3, "weight_decay": 0.05, "start": 0.1}
        chosen["eps1"] = 1e-2
        chosen["warm"] = 2.5  # between steps: where a ramp ends it has no slope
        numbers = {n for n, kind in self.made.HYPERS.items() if kind is float}
        found = self.spec.system.hypers
        return {n: float(chosen.get(n, found[n].value)) for n in found if n in numbers}


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    return Way(*request.param, monkeypatch)


def ways(*backends: str, names: list[str] = NAMES) -> pytest.MarkDecorator:
    found = [(n, b) for n in names for b in backends or forms(n)]
    return pytest.mark.parametrize("way", found, ids=map("-".join, found), indirect=True)


every, plain = ways(), ways("reference", "torch")
# what lays gradients on the parameters itself, in closures or with graphs; tests/test_layer_systems.py has layers
BARE = [n for n in NAMES if n not in LAYERS]
every_bare, plain_bare = ways(names=BARE), ways("reference", "torch", names=BARE)
by_turns = (
    pytest.mark.parametrize(  # of what takes long: one backend of each, the other with -m long
        "way",
        [
            pytest.param((n, b), marks=[pytest.mark.long] * ((i + k) % 2), id=f"{n}-{b}")
            for i, n in enumerate(NAMES)
            for k, b in enumerate(("reference", "torch"))
        ],
        indirect=True,
    )
)


def covering() -> list[str]:
    """Optimizers that between them have every operator, period and kind of system: what a compiler can trip over."""

    def parts(name: str) -> set[object]:
        system, program = load(name).system, load(name).program("torch")
        programs = (program, *program.rules.values())
        lets = [x for p in programs for x in p.lets()]
        found: set[object] = {n.op for x in lets for n in walk(x.expr) if n.args}
        found |= {x.when.phase for x in lets if x.when is not None}
        return found | {system.context, ("evaluated", system.eval_at is not None)}

    of = {name: parts(name) for name in NAMES}
    left, chosen = set().union(*of.values()), []
    while left:
        chosen.append(max(NAMES, key=lambda n: (len(of[n] & left), -len(of[n]))))
        left -= of[chosen[-1]]
    return chosen


def sampled() -> pytest.MarkDecorator:
    """Those by one backend each, all others with -m long."""
    chosen = {(n, ("reference", "torch")[i % 2]) for i, n in enumerate(covering())}
    found = [(n, b) for n in NAMES for b in ("reference", "torch")]
    params = [
        pytest.param(x, marks=[pytest.mark.long] * (x not in chosen), id="-".join(x)) for x in found
    ]
    return pytest.mark.parametrize("way", params, indirect=True)


in_blocks = pytest.mark.parametrize(
    "way", [(n, "torch") for n in NAMES if "fused" in forms(n)], ids=lambda x: x[0], indirect=True
)


def tensors(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[nn.Parameter]:
    """The same parameters at every call."""
    noise = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(s, generator=noise, dtype=torch.float64) for s in SHAPES]
    return [nn.Parameter(x.to(dtype)) for x in drawn]


def determined(way: Way) -> list[nn.Parameter]:
    """Eigenvectors have no slope where eigenvalues coincide, as those do that a gradient of few columns leaves at 0."""
    if "eigh_basis" not in way.spec.source.text:
        return tensors()
    sides = [min(p.shape[-2:], default=0) for p in tensors()]
    return [
        nn.Parameter(p.detach()[..., :n, :n].clone()) if p.ndim > 1 else p
        for p, n in zip(tensors(), sides, strict=True)
    ]


def slope(p: Tensor, tick: int, i: int) -> Tensor:
    """A gradient that depends on the tick and on the parameter."""
    noise = torch.Generator().manual_seed(100 * tick + i)
    return (torch.randn(p.shape, generator=noise, dtype=torch.float64) + 0.3 * p.detach()).to(p)


def train(
    opt: Optimizer, params: list, ticks: range, before: Callable[[int], None] = lambda t: None
) -> list[Tensor]:
    for tick in ticks:
        for i, p in enumerate(params):
            p.grad = slope(p, tick, i)
        before(tick)
        opt.step()
    return [p.detach().clone() for p in params]


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(map(torch.equal, found, expected))


def close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def saved(opt: Optimizer) -> dict:
    """As it comes back from a file."""
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_there_are_optimizers_to_test() -> None:
    assert {"adamw", "lookahead", "m3", "muon", "sgd"} <= {*NAMES}


# ---------------------------------------------------------------------------------------------- groups and hypers


@every
def test_every_hyper_can_differ_by_group(way: Way) -> None:
    """A group's own value does what the constructor's would, and the other group keeps the default."""
    usual = way.numbers()
    other = {n: 0.5 * x for n, x in usual.items()}
    found = way.spec.system.hypers
    other |= {n: found[n].value + 1 for n in way.made.HYPERS if n in found and n not in usual}
    for name, value in other.items():
        value = not value if way.made.HYPERS[name] is bool else way.made.HYPERS[name](value)
        params, alone, changed = tensors(), tensors(), tensors()
        groups = [{"params": params[:1]}, {"params": params[1:], name: value}]
        found = train(way(groups, **usual), params, range(5))
        default = train(way(alone, **usual), alone, range(5))
        expected = train(way(changed, **{**usual, name: value}), changed, range(5))
        assert equal(found, [*default[:1], *expected[1:]]), name


@every
def test_every_number_can_be_scheduled(way: Way) -> None:
    """A value written into the group holds from the next step on, as if the optimizer had been made with it."""
    usual = way.numbers()
    for name, value in usual.items():
        params, others = tensors(), tensors()
        opt = way(params, **usual)

        def change(tick: int, opt: Optimizer = opt, name: str = name, value: float = value) -> None:
            opt.param_groups[0][name] = value * 0.9**tick

        found, kept = train(opt, params, range(6), change), None
        for tick in range(6):
            fresh = way(others, **{**usual, name: value * 0.9**tick})
            if kept is not None:
                state = {"state": kept, "param_groups": fresh.state_dict()["param_groups"]}
                fresh.load_state_dict(state)
            expected = train(fresh, others, range(tick, tick + 1))
            kept = fresh.state_dict()["state"]
        assert equal(found, expected), name


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda n: 0.9**n),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.8)], [3]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


@by_turns
@pytest.mark.parametrize("capturable", (False, True))
@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_schedulers_of_torch_go_with_it(way: Way, kind: str, capturable: bool) -> None:
    """The same steps as with the rates written into the group, and rates that do change."""
    params, others = tensors(), tensors()
    opt = way(params, lr=0.02, capturable=capturable)
    rates, schedule = [], SCHEDULES[kind](opt)
    for tick in range(6):
        rates.append(float(opt.param_groups[0]["lr"]))
        found = train(opt, params, range(tick, tick + 1))
        schedule.step(1.0) if kind == "ReduceLROnPlateau" else schedule.step()
    by_hand = way(others, lr=0.02)

    def change(tick: int) -> None:
        by_hand.param_groups[0]["lr"] = rates[tick]

    close(found, train(by_hand, others, range(6), change))
    assert len(set(rates)) > 1
    assert isinstance(opt.param_groups[0]["lr"], Tensor) == capturable


@pytest.mark.parametrize("backend", ("reference", "torch"))
def test_one_cycle_turns_a_momentum_that_is_called_so(backend: str) -> None:
    text = nlc.load("momentum").source.text.replace("beta", "momentum")
    (p,) = (nn.Parameter(torch.ones(3)),)
    opt = nlc.loads(text).compile(backend)([p], lr=0.1)
    schedule = lr_scheduler.OneCycleLR(opt, 0.1, total_steps=8, base_momentum=0.5, max_momentum=0.8)
    seen = []
    for _ in range(6):
        seen.append(opt.param_groups[0]["momentum"])
        p.grad = torch.ones(3)
        opt.step()
        schedule.step()
    assert seen[0] == 0.8 and min(seen) < 0.55


@every
def test_a_group_can_join_later(way: Way) -> None:
    params, first, rest = tensors(), tensors(), tensors()
    opt = way(params[:2], lr=0.02)
    train(opt, params[:2], range(3))
    opt.add_param_group({"params": params[2:], "lr": 0.01})
    for tick in range(3, 6):
        for i, p in enumerate(params):
            p.grad = slope(p, tick, i if i < 2 else i - 2)
        opt.step()
    expected = train(way(first[:2], lr=0.02), first[:2], range(6))
    expected += train(way(rest[2:], lr=0.01), rest[2:], range(3, 6))
    assert equal([p.detach() for p in params], expected)


# ---------------------------------------------------------------------------------------------- saving


@every
def test_a_fresh_instance_goes_on_bit_by_bit(way: Way) -> None:
    """After any number of steps, so also inside a slow period, through a file, the hypers saved with it."""
    whole = tensors()
    expected = train(way(whole, lr=0.02), whole, range(7))
    for cut in range(1, 7):
        parts = tensors()
        first = way(parts, lr=0.02)
        train(first, parts, range(cut))
        second = way(parts, lr=99.0)
        second.load_state_dict(saved(first))
        assert equal(train(second, parts, range(cut, 7)), expected), cut


@pytest.mark.parametrize("name", NAMES)
def test_states_of_others_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a memory, or with one of another shape; what refused is as it was."""
    way = Way(name, "torch", monkeypatch)
    params = tensors()
    opt = way(params)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    saved = copy.deepcopy(opt.state_dict())
    kept = [(n, k) for n, state in saved["state"].items() for k, x in state.items()]
    for number, key in kept[:4]:
        wrong = copy.deepcopy(saved)
        del wrong["state"][number][key]
        if wrong["state"][number]:  # what has no state at all starts anew
            with pytest.raises(ValueError, match=f"lacks '{key}'"):
                opt.load_state_dict(wrong)
        if isinstance(x := saved["state"][number][key], Tensor):
            wrong["state"][number][key] = torch.zeros(7, *x.shape)
            with pytest.raises(ValueError, match=f"has '{key}' of shape"):
                opt.load_state_dict(wrong)
    after = opt.state_dict()
    for number, state in saved["state"].items():
        assert state.keys() == after["state"][number].keys()
        assert all(
            torch.equal(*map(torch.as_tensor, (x, after["state"][number][k])))
            for k, x in state.items()
        )
    opt.load_state_dict(saved)


def test_a_state_is_that_of_the_rule_that_was_saved() -> None:
    made = made_by("muon", "torch")
    (p,) = (nn.Parameter(torch.ones(4, 3)),)
    first = made([{"params": [p], "rule": "rest"}])
    p.grad = torch.ones_like(p)
    first.step()
    second = made([p])
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["rule"] == "rest" and "W.m" in second.state[p]


def test_what_is_no_number_is_no_hyper() -> None:
    with pytest.raises(ValueError, match=r"lr is not a number \(adamw.yaml:7\)"):
        made_by("adamw", "torch")(tensors(), lr=float("nan"))


BOUNDED = {  # what is refused, and what is said
    "adamw": {"lr": -0.1, "beta1": 1.5, "beta2": -0.1, "weight_decay": -1.0},
    "momentum": {"lr": -0.1, "rate": -1.0, "beta": 1.01},
    "muon": {"lr": -0.1, "rest_lr": -0.1, "beta": 2.0},
    "lion": {"lr": -0.1, "beta2": 1.5},
    "lookahead": {"lr": -0.1, "a": -0.5},
    "shampoo": {"lr": -0.1},
}


@pytest.mark.parametrize("backend", ("reference", "torch"))
@pytest.mark.parametrize("name", BOUNDED)
def test_numbers_by_which_a_level_climbs_or_grows_are_refused(name: str, backend: str) -> None:
    made = made_by(name, backend)
    for hyper, value in BOUNDED[name].items():
        wanted = "at least 0|at most 1|between 0 and 1"
        said = rf"{hyper}.* = .* must be ({wanted}) \((in .*, )?{name}.yaml:\d+\)"
        with pytest.raises(ValueError, match=said):
            made(tensors(), **{hyper: value})
        opt = made(tensors())
        with pytest.raises(ValueError, match=said):
            opt.add_param_group({"params": tensors(), hyper: value})
        assert len(opt.param_groups) == 1
        made(tensors(), **{hyper: torch.tensor(value)})  # nobody waits for a tensor's value
    made(tensors(), lr=0.0)


@pytest.mark.parametrize(
    ("name", "given"), (("adamw", {"lr": 0.1, "weight_decay": 20.0}), ("lookahead", {"lr": 101.0}))
)
def test_a_decay_may_turn_weights_around_as_torchs_may(name: str, given: dict) -> None:
    made_by(name, "torch")(tensors(), **given)


def test_what_a_schedule_came_to_is_loaded() -> None:
    """Of numbers that are bounded when they are given; rounding leaves this rate below 0."""
    params = tensors()
    opt = made_by("adamw", "torch")(params, lr=0.02)
    schedule = lr_scheduler.LinearLR(opt, start_factor=0.03, end_factor=0.0, total_iters=10)
    for tick in range(10):
        train(opt, params, range(tick, tick + 1))
        schedule.step()
    (rate,) = (group["lr"] for group in opt.param_groups)
    assert rate < 0
    second = made_by("adamw", "torch")(params)
    second.load_state_dict(saved(opt))
    assert second.param_groups[0]["lr"] == rate


DECAYING = """
nlc: 1
system: decaying
context: gradients
hyper: {lr: 0.1, a: 1.0, tau: 10.0}
levels:
  m: {frequency: every step, memory: like(W), objective: "dot(m, g)", rule: "gd(decay=DECAY)"}
  W: {frequency: every step, objective: "dot(W, m)", rule: "gd(lr=RATE)"}
"""


@pytest.mark.parametrize(
    ("decay", "given"), (("exp(-a)", {"a": -1000.0}), ("1 - 1 / tau", {"tau": 0.0}))
)
def test_what_has_no_value_for_some_numbers_has_no_bounds(decay: str, given: dict) -> None:
    text = DECAYING.replace("DECAY", decay).replace("RATE", "lr")
    nlc.loads(text).compile()(tensors(), **given)


@pytest.mark.parametrize(
    ("rate", "hypers", "said"),
    (
        ("lr", "lr", ""),
        ("lr * a", "lr * a", ""),
        ("lr * sqrt(tau)", "lr", "in lr * sqrt(tau), "),
    ),
)
def test_messages_name_hypers_and_the_rate_that_the_spec_has(
    rate: str, hypers: str, said: str
) -> None:
    made = nlc.loads(DECAYING.replace("DECAY", "0.9").replace("RATE", rate)).compile()
    with pytest.raises(ValueError) as caught:
        made(tensors(), lr=-0.1)
    assert str(caught.value) == f"{hypers} = -0.1 must be at least 0 ({said}<text>:8)"


def test_a_rate_keeps_the_sign_that_its_default_has() -> None:
    text = """
nlc: 1
system: climbing
context: gradients
hyper: {lr: -0.1, free: 0.0, slow: 0.5, far: 2}
levels:
  m: {frequency: every step, memory: like(W), objective: "dot(m, g)", rule: "gd(lr=free, decay=far)"}
  W: {frequency: every step, objective: "-dot(W, g)", rule: "gd(lr=slow * lr / sqrt(1 + sqnorm(g)))"}
"""
    made = nlc.loads(text).compile()
    for given in ({}, {"free": 1.0}, {"free": -1.0}, {"far": -3.0}, {"lr": -2.0}):
        made(tensors(), **given)
    for given in ({"lr": 0.1}, {"slow": -0.5}):
        with pytest.raises(
            ValueError, match=r"^slow \* lr = 0.05 must be at most 0 \(in slow .*:8\)"
        ):
            made(tensors(), **given)


@every
@pytest.mark.parametrize("options", ({"rounding_seed": 3}, {}, {"state_dtype": torch.bfloat16}))
def test_half_precision_goes_on_bit_by_bit_too(way: Way, options: dict) -> None:
    whole, parts = tensors(torch.bfloat16), tensors(torch.bfloat16)
    expected = train(way(whole, lr=0.02, **options), whole, range(6))
    first = way(parts, lr=0.02, **options)
    train(first, parts, range(2))
    second = way(parts, **options)
    second.load_state_dict(saved(first))
    assert equal(train(second, parts, range(2, 6)), expected)


@every
def test_a_gathered_gradient_goes_on_bit_by_bit(way: Way) -> None:
    """A group's ``period`` of three: saved within one, and to what a step on the sum of three comes to."""

    def gathering(params: list, lr: float) -> Optimizer:
        return way([{"params": params, "period": 3}], lr=lr)

    whole = tensors()
    expected = train(gathering(whole, 0.02), whole, range(9))
    for cut in (1, 2, 4, 6):
        parts = tensors()
        first = gathering(parts, 0.02)
        train(first, parts, range(cut))
        second = gathering(parts, 99.0)
        second.load_state_dict(saved(first))
        assert equal(train(second, parts, range(cut, 9)), expected), cut
    if way.name in LAYERS:  # to which three gradients are other samples than their sum is
        return
    params = tensors()
    opt = way(params, lr=0.02)
    for first in range(0, 9, 3):
        for i, p in enumerate(params):
            p.grad = sum(slope(p, tick, i) for tick in range(first, first + 3))
        opt.step()
    assert equal([p.detach() for p in params], expected)


@plain
@pytest.mark.parametrize("cut", (1, 2, 3))
@pytest.mark.parametrize("now", (1, 2, 5))
def test_a_gathering_that_changes_loses_no_gradient(way: Way, now: int, cut: int) -> None:
    """Three gradients are added up for a step, then ``now``: a step comes as soon as so many are there."""
    if way.name in LAYERS:  # to which several gradients are other samples than their sum is
        return
    parts, sums, left, at = tensors(), tensors(), 0, []
    opt, plain = way([{"params": parts, "period": 3}], lr=0.02), way(sums, lr=0.02)
    for tick in range(9):
        opt.param_groups[0]["period"] = 3 if tick < cut else now
        train(opt, parts, range(tick, tick + 1))
        left, at = left + 1, [*at, tick]
        if left >= opt.param_groups[0]["period"]:
            for i, p in enumerate(sums):
                p.grad = sum(slope(p, t, i) for t in at)
            plain.step()
            left, at = 0, []
    assert equal([p.detach() for p in parts], [p.detach() for p in sums])


@pytest.mark.parametrize("backend", ("reference", "torch"))
@pytest.mark.parametrize(("name", "hyper"), (("m3", "f"), ("lookahead", "k"), ("shampoo", "f")))
def test_a_period_is_that_with_which_its_memories_began(
    name: str, hyper: str, backend: str
) -> None:
    """What is gathered over a period, or held in one, is of no use in another: ValueError, and nothing is changed."""
    params = tensors()[:2]
    opt = made_by(name, backend)(params, **{hyper: 3})
    (group,) = opt.param_groups
    group[hyper] = 2  # as if it had been made with it
    before = train(opt, params, range(3))
    group[hyper] = 4
    with pytest.raises(ValueError, match=rf"{hyper} was 2 when .* not 4 \({name}.yaml:\d+\)"):
        opt.step()
    assert equal([p.detach() for p in params], before)
    with pytest.raises(ValueError, match=f"{hyper} was 2"):
        opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    group[hyper] = 2
    other = made_by(name, backend)(params, **{hyper: 3})
    other.load_state_dict(opt.state_dict())
    assert other.param_groups[0][hyper] == 2
    train(other, params, range(3, 5))


@plain_bare
def test_a_copy_goes_its_own_way(way: Way) -> None:
    params = tensors()
    opt = way(params, lr=0.02)
    train(opt, params, range(3))
    other = copy.deepcopy(opt)
    copied = other.param_groups[0]["params"]
    expected = train(opt, params, range(3, 5))
    assert equal(train(other, copied, range(3, 5)), expected)


# ---------------------------------------------------------------------------------------------- the step


@every_bare
def test_the_closure_computes_the_loss_with_gradients(way: Way) -> None:
    params = tensors()
    opt = way(params, lr=1e-3)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        return loss

    before = closure().detach()
    assert torch.equal(opt.step(closure), before)
    assert closure() < before
    assert opt.step() is None


@every
def test_maximize_climbs(way: Way) -> None:
    up, down = tensors(), tensors()
    opt = way(up, lr=0.02, maximize=True)
    found = train(opt, up, range(5), lambda t: [p.grad.neg_() for p in up])
    assert equal(found, train(way(down, lr=0.02), down, range(5)))


@every
def test_what_has_no_gradient_stays_as_it_is(way: Way) -> None:
    """And counts its own steps: a tensor that is left out twice is where it would be two steps earlier."""
    params, others = tensors(), tensors()
    opt = way(params, lr=0.02)

    def skip(tick: int) -> None:
        if tick in (2, 3):
            params[0].grad = None

    kept = params[0].detach().clone()
    train(opt, params, range(2), skip)
    first = params[0].detach().clone()
    assert not torch.equal(first, kept)
    train(opt, params, range(2, 4), skip)
    assert torch.equal(params[0].detach(), first)
    found = train(opt, params, range(4, 7), skip)
    other = way(others[:1], lr=0.02)
    train(other, others[:1], range(2))
    assert torch.equal(found[0], train(other, others[:1], range(4, 7))[0])


@every_bare
def test_the_gradient_stays_as_it_was(way: Way) -> None:
    params = tensors()
    opt = way(params, lr=0.02, maximize=True)
    for tick in range(4):
        grads = [slope(p, tick, i) for i, p in enumerate(params)]
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        kept = [g.clone() for g in grads]
        opt.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True)) and equal(grads, kept)


@pytest.mark.parametrize("backend", ("reference", "torch"))
def test_a_memory_of_the_gradient_is_not_the_gradient(backend: str) -> None:
    """What stores ``g`` or W as they are stores their values: backward goes on adding to p.grad in place."""
    text = """
    nlc: 1
    system: last_gradient
    context: gradients
    levels:
      m: {frequency: every step, memory: like(W), update: g}
      n: {frequency: every step, memory: like(W), update: prev(m)}
      w: {frequency: every step, memory: like(W), update: prev(W)}
      W: {frequency: every step, objective: "dot(W, m)", rule: gd(lr=0.1)}
    """
    for capturable in (False, True):
        p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        opt = nlc.loads(text).compile(backend)([p], capturable=capturable)
        p.grad = torch.zeros(3, dtype=torch.float64)
        for tick in range(1, 4):
            p.grad.fill_(tick)
            opt.step()
            p.grad.zero_()
        state = opt.state[p]
        expected = {"m": 3, "n": 2, "w": -0.3}
        assert {k: state[k][0].item() for k in expected} == pytest.approx(expected)


@pytest.mark.parametrize("way", ("reference", "torch", "fused"))
def test_a_memory_can_have_the_size_of_a_hyper(way: str) -> None:
    text = """
nlc: 1
system: sized
context: gradients
hyper: {lr: 0.1, r: 3, twice: 2 * r, start: 0.5}
levels:
  m: {frequency: every step, memory: vector(r + 1), init: start, update: 0.5 * m + norm(g)}
  n: {frequency: every step, memory: "matrix(r, twice)", update: 0.5 * n + sum(m)}
  W: {frequency: every step, objective: "dot(W, g * (sum(m) + sum(n)))", rule: gd(lr=lr)}
"""
    made = nlc.loads(text).compile(way if way != "fused" else "torch")
    p = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    opt = made([p], r=2, **({"fused": True} if way == "fused" else {}))
    p.grad = torch.ones_like(p)
    opt.step()
    m, n = 0.5 * 0.5 + 2, 3 * (0.5 * 0.5 + 2)
    kept = opt.state[p]
    assert (kept["m"].shape, kept["n"].shape) == ((3,), (2, 4))
    close([p.detach()], [torch.full((2, 2), 1 - 0.1 * (3 * m + 8 * n), dtype=torch.float64)])


@plain_bare
def test_what_it_cannot_train_is_refused_clearly(way: Way) -> None:
    name = way.made.__name__
    p = nn.Parameter(torch.ones(3, 2, dtype=torch.complex128))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=f"{name} does not take complex parameters"):
        way([p]).step()
    p = nn.Parameter(torch.ones(3, 2))
    p.grad = torch.ones_like(p).to_sparse()
    with pytest.raises(RuntimeError, match=f"{name} does not take sparse gradients"):
        way([p]).step()
    for wrong, said in (
        ({"capturable": True, "rounding_seed": 0}, "not with capturable"),
        ({"differentiable": True, "capturable": True}, "differentiable goes with none"),
        ({"differentiable": True, "rounding_seed": 0}, "differentiable goes with none"),
    ):
        with pytest.raises(ValueError, match=said):
            way(tensors(), **wrong)
    with pytest.raises(ValueError, match="not with capturable"):
        way([{"params": tensors(), "period": 2}], capturable=True)


@every
def test_a_grad_scaler_goes_with_it(way: Way) -> None:
    """Scaled gradients are scaled back; a step whose gradients are not finite is left out."""
    found = []
    for scaler in (torch.amp.GradScaler("cpu", init_scale=1024.0), None):
        params = tensors(torch.float32)
        opt = way(params, lr=0.02)
        for tick in range(4):
            opt.zero_grad()
            loss = sum((p * (torch.inf if tick == 2 else 1)).square().sum() for p in params)
            if scaler is not None:
                scaler.scale(loss).backward()
                scaler.step(opt)
                scaler.update()
            elif tick != 2:
                loss.backward()
                opt.step()
        found.append([p.detach() for p in params])
    close(*found, tolerance=1e-5)


# ---------------------------------------------------------------------------------------------- number formats


@every
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision_has_memories_in_float32(way: Way, dtype: torch.dtype) -> None:
    """A step is the one of float32, rounded once."""
    params = tensors(dtype)
    opt = way(params, lr=0.02)
    wide = [nn.Parameter(p.detach().float()) for p in params]
    other = way(wide, lr=0.02)
    for tick in range(4):
        for i, (p, q) in enumerate(zip(params, wide, strict=True)):
            p.grad = slope(p, tick, i)
            q.data.copy_(p)
            q.grad = p.grad.float()
        opt.step()
        other.step()
        assert equal([p.detach() for p in params], [q.detach().to(dtype) for q in wide])
    for p, q in zip(params, wide, strict=True):
        for key, x in opt.state[p].items():
            if isinstance(x, Tensor):
                assert x.dtype == torch.float32 and torch.equal(x, other.state[q][key]), key


@every
def test_memories_can_have_another_format(way: Way) -> None:
    params, others = tensors(torch.float32), tensors(torch.float32)
    found = way(params, lr=0.02, state_dtype=torch.bfloat16)
    moved = train(found, params, range(4))
    kinds = {x.dtype for s in found.state.values() for x in s.values() if isinstance(x, Tensor)}
    held = "newton_schulz" in way.spec.source.text  # held values are no memories
    assert kinds <= {torch.bfloat16, *({torch.float32} if held else ())}
    close(moved, train(way(others, lr=0.02), others, range(4)), tolerance=0.1)
    wide = way(tensors(torch.float32), state_dtype=torch.float64)
    train(wide, wide.param_groups[0]["params"], range(2))
    kinds = {x.dtype for s in wide.state.values() for x in s.values() if isinstance(x, Tensor)}
    assert kinds <= {torch.float64}


@every
def test_rounding_by_chance_is_right_on_average(way: Way) -> None:
    """The mean of what rounding adds is within five standard errors of zero; and two seeds differ."""
    noise = torch.Generator().manual_seed(5)
    W, g = (torch.randn(64, 64, generator=noise).bfloat16() for _ in range(2))

    def stepped(p: nn.Parameter, **given: Any) -> None:
        """The second step from the same start: some systems do not move in their first."""
        start, opt = p.detach().clone(), way([p], lr=1e-3, **given)
        opt.step()
        p.data.copy_(start)
        opt.step()

    exact = nn.Parameter(W.float())
    exact.grad = g.float()
    stepped(exact)
    errors, results = [], []
    for seed in range(40):
        p = nn.Parameter(W.clone())
        p.grad = g.clone()
        stepped(p, rounding_seed=seed)
        errors.append((p.detach().double() - exact.detach().double()).flatten())
        results.append(p.detach())
    assert not torch.equal(results[0], results[1])
    found = torch.stack(errors)
    mean, spread = found.mean(), found.std() / found.numel() ** 0.5
    assert found.std() > 0 and mean.abs() < 5 * spread
    nearest = nn.Parameter(W.clone())
    nearest.grad = g.clone()
    stepped(nearest)
    low, high = torch.stack(results).float().aminmax(dim=0)
    assert ((low <= nearest.detach().float()) & (nearest.detach().float() <= high)).all()


def test_steps_below_half_of_a_bit_add_up_by_chance() -> None:
    """Rounded to the nearest number a weight would never move."""
    made = nlc.compile("sgd")
    for seed, moved in ((None, 0.0), (1, 0.01)):
        p = nn.Parameter(torch.ones(20000, dtype=torch.bfloat16))
        opt = made([p], lr=1e-4, rounding_seed=seed)
        for _ in range(100):
            p.grad = torch.ones_like(p)
            opt.step()
        assert (1 - p.detach().double()).mean().item() == pytest.approx(moved, abs=3e-4)


FORMATS = """
nlc: 1
system: formats
context: gradients
hyper: {lr: 0.01, beta: 0.9}
levels:
  m:
    frequency: every step
    memory: like(W, dtype=bfloat16)
    objective: -dot(m, g)
    rule: gd(lr=1 - beta, decay=beta)
  W:
    frequency: every step
    objective: dot(W, m)
    rule: gd(lr=lr)
"""


@pytest.mark.parametrize("backend", ("reference", "torch"))
def test_a_memory_can_say_its_format(backend: str) -> None:
    """It is rounded after every step; the option of the constructor goes before."""
    made = nlc.loads(FORMATS).compile(backend)
    params = tensors(torch.float32)
    opt = made(params)
    train(opt, params, range(3))
    m, before = torch.zeros(4, 3).bfloat16(), tensors(torch.float32)[0].detach()
    for tick in range(3):
        wide = 0.9 * m.float() + (1 - 0.9) * slope(before, tick, 0)
        m, before = wide.bfloat16(), before - 0.01 * wide
    torch.testing.assert_close(params[0].detach(), before)
    torch.testing.assert_close(opt.state[params[0]]["m"], m)
    other = made(tensors(torch.float32), state_dtype=torch.float32)
    train(other, other.param_groups[0]["params"], range(1))
    assert {s["m"].dtype for s in other.state.values()} == {torch.float32}
    assert nlc.loads(FORMATS).verify().passed


def test_a_format_that_is_none_is_said_to_be_wrong() -> None:
    with pytest.raises(nlc.SpecError, match="did you mean `bfloat16`"):
        nlc.loads(FORMATS.replace("bfloat16", "bflot16")).compile()


@plain
def test_the_format_of_matrix_products_can_be_chosen(way: Way) -> None:
    """Where there are some: half precision changes the step by its rounding; float64 by that of the spec's format."""
    if "newton_schulz" not in way.spec.source.text:
        with pytest.raises(TypeError, match="matrix_dtype"):
            way(tensors(), matrix_dtype=torch.bfloat16)
        return
    ends = {}
    for dtype in (None, torch.float64, torch.bfloat16):
        params = tensors()
        ends[dtype] = train(way(params, lr=0.02, matrix_dtype=dtype), params, range(4))[0]
    moved = (ends[None] - tensors()[0]).norm()
    share = {d: ((x - ends[torch.float64]).norm() / moved).item() for d, x in ends.items()}
    assert 1e-4 < share[torch.bfloat16] < 0.2 and share[None] < 1e-4
    params = tensors()
    kept = way(params, lr=0.02, matrix_dtype=torch.bfloat16)
    train(kept, params, range(2))
    other = way(params)
    other.load_state_dict(saved(kept))
    assert other.param_groups[0]["matrix_dtype"] is torch.bfloat16


# ---------------------------------------------------------------------------------------------- evaluation

EVALUATED = [n for n in NAMES if load(n).system.eval_at is not None]


@ways(names=EVALUATED)
def test_what_is_evaluated_stands_in_the_tensors_until_training_goes_on(way: Way) -> None:
    """In the format of the tensors, also while it is saved, and with what makes no step left alone."""
    for dtype, options in (
        (torch.float64, {}),
        (torch.bfloat16, {}),
        (torch.float64, {"capturable": True}),
    ):
        params, others = tensors(dtype), tensors(dtype)
        opt, plain = way(params, lr=0.02, **options), way(others, lr=0.02, **options)
        opt.eval()
        assert equal([p.detach() for p in params], tensors(dtype))  # no step has been made
        train(opt, params[1:], range(4))
        opt.eval()
        opt.eval()
        shown = [p.detach().clone() for p in params]
        assert equal(shown[:1], tensors(dtype)[:1])
        assert all(x.isfinite().all() and x.dtype == dtype for x in shown)
        with pytest.raises(RuntimeError, match=r"call train\(\) before step\(\)"):
            opt.step()
        again = tensors(dtype)
        second = way(again, lr=0.02, **options)
        for p, x in zip(again, shown, strict=True):
            p.data.copy_(x)
        second.load_state_dict(saved(opt))
        for one in (opt, second):
            one.train()
            one.train()
        train(plain, others[1:], range(4))
        trained = [p.detach().clone() for p in others]
        assert not equal(trained[1:], shown[1:])
        for found in (params, again):
            assert equal([p.detach() for p in found], trained)
        goes_on = [train(o, p[1:], range(4, 6)) for o, p in ((opt, params), (second, again))]
        assert equal(*goes_on)


@pytest.mark.parametrize("backend", ("reference", "torch"))
def test_what_another_rule_trains_is_evaluated_as_it_is(backend: str) -> None:
    text = load("schedule_free").source.text
    routes = "applies_to:\n  matrices: self\n  rest: gd(lr=lr)\n"
    spec = nlc.loads(text.replace("eval_at: x\n", f"eval_at: x + lr * t\n{routes}"))
    params = tensors()
    opt = spec.compile(backend)(params, lr=0.02)
    trained = train(opt, params, range(3))
    means = [opt.state[p]["x"] + 0.02 * 3 for p in params[:2]]
    opt.eval()
    assert equal([p.detach() for p in params], [*means, *trained[2:]])
    opt.train()
    assert equal([p.detach() for p in params], trained)


@pytest.mark.parametrize("name", EVALUATED)
def test_a_route_passes_evaluation_on(name: str) -> None:
    model = nn.Linear(3, 2)
    opt = nlc.route(model, nlc.Route(name, names="weight"), rest="sgd", tell=None)
    for _ in range(3):
        model(torch.ones(1, 3)).sum().backward()
        opt.step()
    weight, bias = (p.detach().clone() for p in (model.weight, model.bias))
    opt.eval()
    assert (model.weight != weight).any() and torch.equal(model.bias, bias)
    opt.train()
    assert torch.equal(model.weight, weight)
    with pytest.raises(ValueError, match="a view shows values"):
        nlc.route(model, nlc.Route(name, names="weight", view="split(0, 2)"), rest="sgd", tell=None)


# ---------------------------------------------------------------------------------------------- on the device


class NoSync(TorchDispatchMode):
    """Refuses to bring a number from the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a number was asked for")
        return func(*args, **(kwargs or {}))


@every
def test_capturable_steps_never_ask_the_device(way: Way) -> None:
    """The same trajectory, numbers and counts in tensors that stay where they are, as a CUDA graph needs."""
    params, others = tensors(), tensors()
    opt = way(params, capturable=True, **way.numbers())
    numbers = [opt.param_groups[0][n] for n in way.numbers()]
    assert all(isinstance(x, Tensor) for x in numbers)
    with NoSync():
        train(opt, params, range(1))
    places = {k: x.data_ptr() for s in opt.state.values() for k, x in s.items()}
    assert all(isinstance(x, Tensor) for s in opt.state.values() for x in s.values())

    def slower(tick: int) -> None:
        opt.param_groups[0]["lr"].mul_(0.9)

    with NoSync():
        found = train(opt, params, range(1, 8), slower)
    assert places == {k: x.data_ptr() for s in opt.state.values() for k, x in s.items()}
    plain = way(others, **way.numbers())
    train(plain, others, range(1))

    def by_hand(tick: int) -> None:
        plain.param_groups[0]["lr"] *= 0.9

    close(found, train(plain, others, range(1, 8), by_hand))
    second = way(params, capturable=True)
    second.load_state_dict(saved(opt))
    train(opt, params, range(8, 9))
    assert second.state[params[0]].keys() == opt.state[params[0]].keys()


@in_blocks
def test_a_plain_step_does_ask(way: Way) -> None:
    """So the test above can fail: in blocks, a rate that is a tensor is asked for."""
    params = tensors()[2:]  # what is no matrix: all of it is done element by element
    numbers = {n: torch.tensor(x) for n, x in way.numbers().items()}
    with pytest.raises(AssertionError, match="asked for"), NoSync():
        train(way(params, **numbers), params, range(1))


@sampled()
def test_a_compiled_step_is_not_compiled_anew_under_a_schedule(way: Way) -> None:
    """One graph, without breaks; the first step, which makes the memories, runs before."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    params, others = tensors(), tensors()
    opt = way(params, lr=0.02, capturable=True)
    before = [*opt._optimizer_step_pre_hooks.values()]  # are ours, and no part of a step
    opt._optimizer_step_pre_hooks.clear()
    step = torch.compile(opt.step, backend=counter, fullgraph=True)
    for tick in range(8):
        if tick == 3:
            settled = counter.frame_count
        run = step if tick else opt.step
        for i, p in enumerate(params):
            p.grad = slope(p, tick, i)
        opt.param_groups[0]["lr"].mul_(0.9)
        for hook in before:
            hook(opt, (), {})
        run()
    assert counter.frame_count == settled > 0
    other = way(others, lr=0.02)

    def slower(tick: int) -> None:
        other.param_groups[0]["lr"] *= 0.9

    close([p.detach() for p in params], train(other, others, range(8), slower))


RECTIFIED = """
nlc: 1
system: rectified
context: gradients
doc: A rate that is a function of the step, beyond arithmetic.
hyper: {lr: 0.02, beta1: 0.9, beta2: 0.8}
let:
  far: 2 / (1 - beta2) - 1
  rho: far - 2 * t * beta2**t / (1 - beta2**t)
  r: sqrt(max((rho - 4) * (rho - 2) * far, 1e-9) / ((far - 4) * (far - 2) * max(rho, 1)))
levels:
  m:
    frequency: every step
    memory: like(W)
    objective: -dot(m, g)
    rule: gd(lr=1 - beta1, decay=beta1)
  W:
    frequency: every step
    objective: dot(W, where(rho > 4.5, r * m, tanh(lr) * g))
    rule: gd(lr=lr)
"""


@pytest.mark.parametrize("backend", ("reference", "torch"))
def test_functions_of_numbers_stay_on_the_device_and_keep_the_graph(backend: str) -> None:
    made = nlc.loads(RECTIFIED).compile(backend)

    def after(**given: Any) -> list[Tensor]:
        opt = made([p.detach() if "differentiable" in given else p for p in tensors()], **given)
        for tick in range(8):
            for i, p in enumerate(opt.param_groups[0]["params"]):
                p.grad = slope(p, tick, i) if not i else torch.ones_like(p)
            opt.step()
        return opt.param_groups[0]["params"]

    plain = [p.detach() for p in after()]
    with NoSync():
        captured = after(capturable=True)
    close([p.detach() for p in captured], plain)
    rate = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
    kept = after(differentiable=True, lr=rate)
    close([p.detach() for p in kept], plain)
    (found,) = torch.autograd.grad(kept[1].sum(), rate)
    up, down = (after(lr=0.02 + h)[1].sum().item() for h in (1e-6, -1e-6))
    assert found.item() == pytest.approx((up - down) / 2e-6, rel=1e-5)


# ---------------------------------------------------------------------------------------------- gradients through it


def unrolled(opt: Optimizer, params: list[Tensor], steps: int, graph: bool) -> list[Tensor]:
    """Steps down a loss with a curvature; the tensors after the last."""
    for tick in range(steps):
        noise = torch.Generator().manual_seed(tick + 1)
        params = opt.param_groups[0]["params"]
        loss = sum(
            (p - torch.randn(p.shape, generator=noise, dtype=p.dtype)).pow(4).sum() for p in params
        )
        for p, g in zip(params, torch.autograd.grad(loss, params, create_graph=graph), strict=True):
            p.grad = g
        opt.step()
    return opt.param_groups[0]["params"]


@plain_bare
def test_gradients_pass_through_the_steps(way: Way) -> None:
    """To every number and to the start, as finite differences of the reference's plain steps say."""
    exact = nlc.loads(way.spec.source.text.replace("float32", "float64"))
    ours = exact.compile(
        "torch" if "blocks" in vars(sys.modules[way.made.__module__]) else "reference"
    )
    reference = exact.compile("reference")
    usual, steps = way.numbers(), 4
    weights = [slope(p, 77, i) for i, p in enumerate(determined(way))]

    def value(given: dict[str, float | Tensor], shift: float = 0.0) -> float:
        start = determined(way)
        params = [nn.Parameter(p.detach() + shift * (i + 1)) for i, p in enumerate(start)]
        opt = drawn_alike(reference(params, **{**way.hypers, **given}))
        after = unrolled(opt, params, steps, graph=False)
        return sum((w * p.detach()).sum() for w, p in zip(weights, after, strict=True)).item()

    numbers = {
        n: torch.tensor(x, dtype=torch.float64, requires_grad=True) for n, x in usual.items()
    }
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    params = [p.detach() + shift * (i + 1) for i, p in enumerate(determined(way))]
    opt = drawn_alike(ours(params, differentiable=True, **{**way.hypers, **numbers}))
    after = unrolled(opt, params, steps, graph=True)
    result = sum((w * p).sum() for w, p in zip(weights, after, strict=True))
    assert result.item() == pytest.approx(value(usual), rel=1e-9)
    slopes = torch.autograd.grad(result, [*numbers.values(), shift], allow_unused=True)
    sizes = [1e-5 * max(abs(x), 1e-2) for x in usual.values()]
    assert sum(x is not None for x in slopes) >= 2
    for name, found, h in zip([*usual, "the weights"], slopes, [*sizes, 1e-6], strict=True):
        if name == "the weights":
            up, down = value(usual, h), value(usual, -h)
        else:
            ends = (torch.tensor(usual[name] + x, dtype=torch.float64) for x in (h, -h))
            up, down = (value({**usual, name: x}) for x in ends)  # of tensors no bounds are asked
        expected = (up - down) / (2 * h)
        assert (0.0 if found is None else found.item()) == pytest.approx(
            expected, rel=2e-4, abs=1e-5
        ), name


@plain_bare
def test_a_gradient_of_zero_gives_gradients_that_are_finite(way: Way) -> None:
    """Roots of second moments are then roots of 0, whose slope is infinite."""
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    params = tensors()
    opt = way(params, differentiable=True, lr=rate)
    for _ in range(3):
        now = opt.param_groups[0]["params"]
        for p, g in zip(
            now,
            torch.autograd.grad(
                now[0].sum(), now, create_graph=True, allow_unused=True, materialize_grads=True
            ),
            strict=True,
        ):
            p.grad = g
        opt.step()
    total = sum(p.sum() for p in opt.param_groups[0]["params"])
    found = torch.autograd.grad(total, [rate, *params])
    assert all(x.isfinite().all() for x in found)


@plain_bare
def test_a_rate_is_learned_through_the_steps(way: Way) -> None:
    """Meta-learning: after some outer steps the loss at the end of the inner ones is lower."""
    log_rate = torch.tensor(-7.0, dtype=torch.float64, requires_grad=True)
    outer = torch.optim.Adam([log_rate], lr=0.3)
    target = [slope(p, 5, i) for i, p in enumerate(tensors())]
    losses = []
    for _ in range(8):
        named = {"lr": log_rate.exp()}
        if "rest_lr" in way.made.HYPERS:
            named["rest_lr"] = log_rate.exp()
        opt = way(tensors(), differentiable=True, **named)
        group = opt.param_groups[0]
        for _ in range(4):
            loss = sum((p - x).square().sum() for p, x in zip(group["params"], target, strict=True))
            grads = torch.autograd.grad(loss, group["params"], create_graph=True)
            for p, g in zip(group["params"], grads, strict=True):
                p.grad = g
            opt.step()
        loss = sum((p - x).square().sum() for p, x in zip(group["params"], target, strict=True))
        losses.append(loss.item())
        outer.zero_grad()
        loss.backward()
        outer.step()
    assert losses[-1] < losses[0] and log_rate.item() > -7.0


@plain_bare
def test_names_follow_the_tensors(way: Way) -> None:
    """``named_parameters`` and a functional call: the names stay where their tensors were."""
    net = nn.Linear(3, 2).double()
    opt = way(net.named_parameters(), differentiable=True, lr=0.1)
    before = dict(net.named_parameters())
    for name, p in before.items():
        p.grad = torch.ones_like(p) * (1 + len(name))
    opt.step()
    (group,) = opt.param_groups
    now = dict(zip(group["param_names"], group["params"], strict=True))
    assert {n: x.shape for n, x in now.items()} == {n: x.shape for n, x in before.items()}
    assert all(now[n] is not before[n] for n in before)
    assert torch.func.functional_call(net, now, torch.ones(1, 3).double()).requires_grad
