"""Optimizers over the samples of linear layers: the equations, what the hooks capture, torch's contract."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from shipped_specs import LAYERS, load
from torch import Tensor, nn

import nlc
from nlc.pipeline import EXACT

SPEC = """\
nlc: 1
system: rule_of_layers
context: layers
hyper:
  lr: 0.1
  c: 0.3
levels:
"""
W = """\
  W:
    frequency: every step
    objective: {}
    rule: {}
"""
MEAN = "mean(dot(W(x), delta))"
PLAIN = SPEC + W.format(MEAN, "gd(lr=lr)")


@pytest.fixture(autouse=True)
def float64() -> object:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def compiled(text: str, backend: str = "torch") -> type:
    return (nlc.loads(text) if "\n" in text else nlc.load(text)).compile(backend)


def linear(*sides: int, bias: bool = False) -> nn.Sequential:
    parts: list[nn.Module] = []
    for m, n in pairwise(sides):
        parts += [nn.Linear(m, n, bias=bias), nn.Tanh()]
    return nn.Sequential(*parts[:-1])


# ------------------------------------------------------------------------------------------ the equations


def exact_step(W: Tensor, x: Tensor, slopes: Tensor, lr: float) -> Tensor:
    """argmin_Φ mean(½‖Φ x‖² + ⟨Φ x, δ⟩) + ½‖Φ − W‖²/lr row by row, as least squares: δ is N times the slope."""
    n = len(x)
    delta, X = n * slopes, x / n**0.5
    rows = []
    for w, d in zip(W, delta.T, strict=True):
        A = torch.cat([X, torch.eye(X.shape[1]) / lr**0.5])
        b = torch.cat([-d / n**0.5, w / lr**0.5])
        rows.append(torch.linalg.lstsq(A, b[:, None], driver="gelsd").solution[:, 0])
    return torch.stack(rows)


@pytest.mark.parametrize("backend", EXACT)
def test_dgd_is_the_minimum_over_all_samples_of_every_layer(backend: str) -> None:
    """Sequences, two backward passes a step, biases under AdamW: eqs. 56-57 and 121."""
    net = linear(5, 7, 3, bias=True)
    mine = [p.detach().clone() for p in net.parameters()]
    optimizer = compiled("delta_gradient_descent", backend)(
        net.parameters(), net, lr=0.3, rest_lr=0.01
    )
    biases = [nn.Parameter(mine[1].clone()), nn.Parameter(mine[3].clone())]
    theirs = torch.optim.AdamW(biases, lr=0.01, weight_decay=0)
    for _ in range(4):
        optimizer.zero_grad()
        xs, ys = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 3)
        parts: list[list[tuple[Tensor, Tensor]]] = [[], []]
        for b in biases:
            b.grad = torch.zeros_like(b)
        for x, y in zip(xs, ys):
            (0.5 * (net(x) - y).square().mean()).backward()
            with torch.no_grad():  # forward and back by hand
                x = x.reshape(-1, 5)
                h = torch.tanh(x @ mine[0].T + biases[0])
                out = h @ mine[2].T + biases[1]
                top = (out - y.reshape(-1, 3)) / out.numel()
                low = (top @ mine[2]) * (1 - h**2)
                parts[0].append((x, low))
                parts[1].append((h, top))
                biases[0].grad += low.sum(0)
                biases[1].grad += top.sum(0)
        optimizer.step()
        theirs.step()
        for i, found in zip((0, 2), parts):
            x, slopes = (torch.cat(z) for z in zip(*found))
            mine[i] = exact_step(mine[i], x, slopes, 0.3)
        got = [p.detach() for p in net.parameters()]
        for a, b in zip(got, [mine[0], biases[0], mine[2], biases[1]]):
            torch.testing.assert_close(a, b.detach(), rtol=0, atol=1e-10)


def test_with_one_sample_it_is_the_formula_of_the_paper() -> None:
    """W (I − η' x xᵀ) − η' δ ⊗ x with η' = η / (1 + η ‖x‖²)."""
    layer, x, eta = nn.Linear(4, 3, bias=False), torch.randn(4), 0.7
    before = layer.weight.detach().clone()
    optimizer = compiled("delta_gradient_descent")(layer.parameters(), layer, lr=eta)
    layer(x).square().sum().backward()
    optimizer.step()
    delta, rate = 2 * before @ x, eta / (1 + eta * x @ x)
    expected = before @ (torch.eye(4) - rate * torch.outer(x, x)) - rate * torch.outer(delta, x)
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_mean_over_samples_is_the_gradient(backend: str, reduction: str) -> None:
    """``mean(dot(W(x), delta))`` under ``gd`` is SGD: sequences, accumulation, a layer used twice, any loss."""
    net = linear(6, 6, 6)
    other = copy.deepcopy(net)
    mine = compiled(PLAIN, backend)(net.parameters(), net, lr=0.02)
    peer = torch.optim.SGD(other.parameters(), lr=0.02)
    for _ in range(3):
        x = torch.randn(2, 5, 3, 6)
        for model, optimizer in ((net, mine), (other, peer)):
            optimizer.zero_grad()
            for part in x:
                nn.functional.mse_loss(model(model(part)), part, reduction=reduction).backward()
            optimizer.step()
    for a, b in zip(net.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-13)  # left as it was


def test_kfac_preconditions_from_both_sides() -> None:
    layer = nn.Linear(4, 3, bias=False)
    mine, A, S = layer.weight.detach().clone(), torch.zeros(4, 4), torch.zeros(3, 3)
    optimizer = compiled("kfac")(layer.parameters(), layer, lr=0.2, beta=0.9, damping=0.03)
    for t in range(1, 5):
        x, y = torch.randn(6, 4), torch.randn(6, 3)
        optimizer.zero_grad()
        (0.5 * (layer(x) - y).square().sum(1).mean()).backward()
        optimizer.step()
        errors = x @ mine.T - y  # the gradients of each sample's own loss
        A = 0.9 * A + 0.1 * x.T @ x / 6
        S = 0.9 * S + 0.1 * errors.T @ errors / 6
        left = torch.linalg.inv(S / (1 - 0.9**t) + 0.03 * torch.eye(3))
        right = torch.linalg.inv(A / (1 - 0.9**t) + 0.03 * torch.eye(4))
        mine = mine - 0.2 * left @ (errors.T @ x / 6) @ right
        torch.testing.assert_close(layer.weight.detach(), mine, rtol=0, atol=1e-10)


LET = "    let:\n      u: x / max(norm(x), 1e-6)\n      e: clip(delta, -c, c)\n"
MEMORY = """\
  C:
    frequency: {}
    memory: gram(W, right)
    objective: mean(0.5 * sqnorm(C - outer(x, x)))
    rule: gd(lr=c)
"""
SYSTEMS = {
    "plain": PLAIN,
    "summed": SPEC + W.format("sum(dot(W(x), delta))", "gd(lr=0.01)"),
    "erasing": SPEC + W.format(MEAN, "dgd(lr=lr, decay=1 - c * lr)"),
    "exact, with decay": SPEC + W.format(MEAN, "dgd(lr=lr, decay=1 - c * lr, exact=true)"),
    "exact, of sums": SPEC + W.format("sum(dot(W(x), delta))", "dgd(lr=lr, exact=true)"),
    "each sample normalised": (SPEC + W.format("mean(dot(W(u), e))", "dgd(lr=lr)")).replace(
        "    objective", LET + "    objective"
    ),
    "weighted": SPEC
    + W.format("mean(sigmoid(sqnorm(x)) * dot(W(x), delta) / (1 + c))", "gd(lr=lr)"),
    "centred": SPEC + W.format("mean(dot(W(x - mean(x)), delta))", "gd(lr=lr)"),
    "with a penalty": SPEC + W.format(f"{MEAN} + c * sqnorm(W)", "gd(lr=lr)"),
    "not linear": SPEC + W.format("mean(0.5 * sqnorm(tanh(W(x)) + delta))", "gd(lr=lr)"),
    "as an update": SPEC
    + "  W:\n    frequency: every step\n    update: W - lr * mean(outer(delta, x))\n",
    "under AdamW": SPEC + W.format(MEAN, "adamw(lr=lr)"),
    "under Muon": SPEC + W.format(MEAN, "muon(lr=lr)"),
    "with the gradient": SPEC + W.format("dot(W, g) + mean(c * sqnorm(W(x)))", "gd(lr=lr)"),
    "a memory": SPEC + MEMORY.format("every step") + W.format("dot(W, g @ C)", "gd(lr=lr)"),
    "a slow memory": SPEC + MEMORY.format("every 3 steps") + W.format("dot(W, g @ C)", "gd(lr=lr)"),
    "slow weights": SPEC
    + W.format("sum(dot(W(x), delta)) / 7", "gd(lr=lr)").replace("every step", "every 2 steps"),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_is_compiled_is_what_is_said(name: str) -> None:
    """By the interpreter, sample by sample, in all backends, in pieces and resumed."""
    found = nlc.loads(SYSTEMS[name]).verify()
    assert found.passed, str(found)


def test_no_matrix_is_made_for_a_sample() -> None:
    for name in ("erasing", "exact, with decay", "weighted", "with a penalty", "a slow memory"):
        text = nlc.loads(SYSTEMS[name]).source_text("reference")
        assert "outer(" not in text, name


# ------------------------------------------------------------------------------------------ what is captured


def stepped(layer: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    layer(x).square().mean().backward()
    optimizer.step()


def test_nothing_is_captured_in_eval_or_without_gradients() -> None:
    layer = nn.Linear(3, 2, bias=False)
    optimizer = compiled(PLAIN)(layer.parameters(), layer)
    layer.eval()
    layer(torch.randn(4, 3)).sum().backward()
    layer.train()
    with torch.no_grad():
        layer(torch.randn(4, 3))
    assert not any(optimizer.samples.values())
    before = layer.weight.detach().clone()
    with pytest.raises(
        RuntimeError, match=r"^weight has a gradient but no samples .*:8\): its layer"
    ):
        optimizer.step()
    assert torch.equal(layer.weight, before)


def test_a_layer_that_was_not_used_is_passed_over() -> None:
    net = nn.ModuleDict({"a": nn.Linear(3, 2, bias=False), "b": nn.Linear(3, 2, bias=False)})
    optimizer = compiled("kfac")(net.parameters(), net)
    before = net["b"].weight.detach().clone()
    net["b"].weight.grad = torch.zeros_like(before)  # as zero_grad(set_to_none=False) leaves it
    stepped(net["a"], optimizer, torch.randn(4, 3))
    assert torch.equal(net["b"].weight, before) and not optimizer.state[net["b"].weight]
    assert optimizer.state[net["a"].weight]["t"] == 1


def test_samples_go_with_the_gradients() -> None:
    layer = nn.Linear(3, 2, bias=False)
    optimizer = compiled(PLAIN)(layer.parameters(), layer)
    stepped(layer, optimizer, torch.randn(4, 3))
    with pytest.raises(RuntimeError, match="a step has used them up"):
        optimizer.step()
    layer(torch.randn(4, 3)).sum().backward()
    optimizer.zero_grad()
    assert not any(optimizer.samples.values()) and layer.weight.grad is None


def test_no_graph_is_kept() -> None:
    layer = nn.Linear(3, 2, bias=False)
    optimizer = compiled(PLAIN)(layer.parameters(), layer)
    y = layer(torch.randn(4, 3, requires_grad=True) * 2)
    node = weakref.ref(y)
    y.sum().backward()
    del y
    gc.collect()
    assert node() is None
    (((x, delta),),) = [found for found in optimizer.samples.values()]
    assert not x.requires_grad and not delta.requires_grad


def test_hooks_are_taken_away() -> None:
    layer = nn.Linear(3, 2, bias=False)
    optimizer = compiled(PLAIN)(layer.parameters(), layer)
    optimizer.unwatch()
    layer(torch.randn(4, 3)).sum().backward()
    assert not layer._forward_hooks and not any(optimizer.samples.values())
    optimizer.watch(layer)
    optimizer.watch(layer)
    assert len(layer._forward_hooks) == 1
    optimizer.zero_grad()
    stepped(layer, optimizer, torch.randn(4, 3))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_watches_anew(again: Callable) -> None:
    layer = nn.Linear(3, 2, bias=True)
    optimizer = compiled("kfac")(layer.parameters(), layer)
    x = torch.randn(5, 4, 3)
    stepped(layer, optimizer, x[0])
    layer.zero_grad()
    optimizer.unwatch()
    both = again((layer, optimizer))
    for net, own in ((layer, optimizer), both):
        with pytest.raises(RuntimeError, match="is not watched"):
            stepped(net, own, x[1])
        own.zero_grad()
        own.watch(net)
        stepped(net, own, x[2])
    for a, b in zip(layer.parameters(), both[0].parameters()):
        assert torch.equal(a, b)


def test_parameters_that_nothing_trains_are_named() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    message = "not 0.bias, 1.weight, 1.bias"
    with pytest.raises(ValueError, match=f"weights of linear layers that it watches, {message}$"):
        compiled(PLAIN)(net.parameters(), net)
    assert not net[0]._forward_hooks
    with pytest.raises(TypeError, match="must be a module, or several"):
        compiled(PLAIN)(net.parameters(), 0.1)
    compiled("delta_gradient_descent")(net.parameters(), net)  # which has a rule for the rest
    weights = [net[0].weight]
    with pytest.raises(ValueError, match="not one of shape"):
        compiled(PLAIN)(weights, nn.Linear(3, 3))


def test_groups_have_hypers_of_their_own_and_closures_compute_anew() -> None:
    net = linear(4, 4, 4)
    groups = [{"params": [net[0].weight], "lr": 0.0}, {"params": [net[2].weight]}]
    optimizer = compiled(PLAIN)(groups, [net[0], net[2]], lr=0.5)
    x, before = torch.randn(6, 4), [p.detach().clone() for p in net.parameters()]
    losses = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses.append(net(x).square().mean())
        losses[-1].backward()
        return losses[-1]

    assert optimizer.step(closure) is losses[0]
    assert torch.equal(net[0].weight, before[0]) and not torch.equal(net[2].weight, before[1])
    assert optimizer.step(closure) < losses[0]


shipped = pytest.mark.parametrize(
    ("name", "backend"), [(n, b) for n in LAYERS for b in ("reference", "torch")]
)


@shipped
def test_a_closure_computes_the_loss_and_the_gradients_stay(name: str, backend: str) -> None:
    """Also of what another rule trains; the loss of the step before comes back."""
    net, x = linear(4, 4, 4, bias=True), torch.randn(6, 4)
    optimizer = compiled(name, backend)(net.parameters(), net, lr=0.01)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        loss = closure()
        grads = [(p.grad, p.grad.clone()) for p in net.parameters()]
        assert optimizer.step() is None
        for p, (g, kept) in zip(net.parameters(), grads, strict=True):
            assert p.grad is g and torch.equal(g, kept)
    before = closure()
    assert torch.equal(optimizer.step(closure), before) and closure() < before < loss


@shipped
def test_what_a_layer_cannot_have_is_refused_clearly(name: str, backend: str) -> None:
    made = compiled(name, backend)
    layer = nn.Linear(3, 2, bias=False, dtype=torch.complex128)
    optimizer = made(layer.parameters(), layer)
    layer(torch.ones(4, 3, dtype=torch.complex128)).abs().sum().backward()
    with pytest.raises(RuntimeError, match=f"{made.__name__} does not take complex parameters"):
        optimizer.step()
    layer = nn.Linear(3, 2, bias=False)
    optimizer = made(layer.parameters(), layer)
    layer(torch.ones(4, 3)).sum().backward()
    layer.weight.grad = layer.weight.grad.to_sparse()
    with pytest.raises(RuntimeError, match=f"{made.__name__} does not take sparse gradients"):
        optimizer.step()
    for wrong, said in (
        ({"capturable": True, "rounding_seed": 0}, "not with capturable"),
        ({"differentiable": True, "capturable": True}, "differentiable goes with none"),
        ({"differentiable": True, "rounding_seed": 0}, "differentiable goes with none"),
    ):
        with pytest.raises(ValueError, match=said):
            made(layer.parameters(), layer, **wrong)


def test_climbing_is_the_opposite() -> None:
    a = nn.Linear(3, 2, bias=False)
    b = copy.deepcopy(a)
    x = torch.randn(4, 3)
    up = compiled("delta_gradient_descent")(a.parameters(), a, maximize=True)
    a(x).square().mean().backward()
    up.step()
    down = compiled("delta_gradient_descent")(b.parameters(), b)
    (-b(x).square().mean()).backward()
    down.step()
    torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=1e-15)


def test_a_scaled_loss_is_undone() -> None:
    a = nn.Linear(3, 2, bias=True)
    b, x = copy.deepcopy(a), torch.randn(4, 3)
    plain, scaled = (compiled("delta_gradient_descent")(m.parameters(), m) for m in (a, b))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    stepped(a, plain, x)
    scaler.scale(b(x).square().mean()).backward()
    scaler.step(scaled)
    scaler.update()
    for p, q in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-12)
    scaled.zero_grad()
    before = b.weight.detach().clone()
    scaler.scale(b(x * torch.inf).square().mean()).backward()
    scaler.step(scaled)  # is left out
    scaler.update()
    assert torch.equal(b.weight, before) and not any(scaled.samples.values())
    scaler.scale(b(x).square().mean()).backward()
    scaler.unscale_(scaled)
    with pytest.raises(RuntimeError, match="unscale_ leaves the samples scaled"):
        scaler.step(scaled)


def test_half_precision_is_widened() -> None:
    a = nn.Linear(8, 4, bias=False, dtype=torch.float32)
    b = copy.deepcopy(a)
    x = torch.randn(16, 8, dtype=torch.float32)
    for net, cast in ((a, False), (b, True)):
        optimizer = compiled("delta_gradient_descent")(net.parameters(), net)
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
    assert b.weight.dtype == torch.float32
    torch.testing.assert_close(a.weight, b.weight, rtol=0.02, atol=0.002)


@shipped
def test_a_step_can_be_differentiated(name: str, backend: str) -> None:
    """The slopes of a later loss by each number and by the start, against differences."""
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    start, made = torch.randn(2, 3), compiled(name, backend)
    usual = {n: float(load(name).system.hypers[n].value) for n in made.HYPERS}

    def after(W: Tensor, **given: Tensor | float) -> Tensor:
        """The loss after two steps from W."""
        layer = nn.Linear(3, 2, bias=False)
        layer.weight = W if isinstance(W, nn.Parameter) else nn.Parameter(W)
        optimizer = made([layer.weight], layer, differentiable=True, **{**usual, **given})
        for _ in range(2):
            (W,) = optimizer.param_groups[0]["params"]
            loss = (torch.func.functional_call(layer, {"weight": W}, x) - y).square().mean()
            (W.grad,) = torch.autograd.grad(loss, W, create_graph=True)
            optimizer.step()
        (W,) = optimizer.param_groups[0]["params"]
        return (x @ W.T - y).square().mean()

    h, moving = 1e-5, []
    for key, value in usual.items():
        number = torch.tensor(value, requires_grad=True)
        (slope,) = torch.autograd.grad(after(start, **{key: number}), number, allow_unused=True)
        up, down = (after(start, **{key: value + d}).item() for d in (h, -h))
        found = 0.0 if slope is None else slope.item()
        assert found == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-7), key
        moving += [key] * (found != 0)
    assert {*moving} == {*usual} - {"rest_lr"}  # there is nothing but a layer
    W, way = nn.Parameter(start), torch.randn(2, 3)
    (slope,) = torch.autograd.grad(after(W), W)
    up, down = (after(start + d * way).item() for d in (h, -h))
    assert (slope * way).sum().item() == pytest.approx((up - down) / (2 * h), rel=1e-5)


def test_a_finite_step_is_asked_for() -> None:
    layer = nn.Linear(3, 2, bias=False)
    made = compiled(PLAIN)
    optimizer = made(layer.parameters(), layer)
    made.error_if_nonfinite = True
    try:
        with pytest.raises(FloatingPointError, match="is not finite"):
            stepped(layer, optimizer, torch.full((2, 3), torch.nan))
    finally:
        made.error_if_nonfinite = False


def test_routes_take_layers_by_themselves() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    routed = nlc.route(net, nlc.Route(nlc.loads(PLAIN), lr=0.1), rest="adamw")
    assert [len(g["params"]) for g in routed.param_groups] == [1, 4]
    before = net[1].weight.detach().clone()
    tokens = torch.tensor([[0, 1, 2], [3, 4, 0]])
    net(tokens).square().mean().backward()
    expected = before - 0.1 * net[1].weight.grad
    routed.step()
    torch.testing.assert_close(net[1].weight.detach(), expected, rtol=0, atol=1e-13)
    net(tokens).sum().backward()
    routed.zero_grad()
    net(tokens).square().mean().backward()
    routed.step()
    with pytest.raises(ValueError, match="of which no view shows a part"):
        nlc.route(net, nlc.Route(nlc.loads(PLAIN), view="split(0, 3)"), rest="adamw")


# ------------------------------------------------------------------------------------------ what is shown


def test_the_derivation_names_the_minimum() -> None:
    text = str(nlc.load("delta_gradient_descent").derive())
    assert "argmin_Φ ⟨∇ℓ(W), Φ⟩ + ½mean(‖Φ x‖²) + ½‖Φ − W‖² / lr" in text
    assert "W ← W − lr (mean(δ xᵀ) + W mean(x xᵀ)) (I + lr·mean(x xᵀ))⁻¹" in text


def test_a_token_system_can_be_trained_by_a_layer_system() -> None:
    graph = nlc.load("gated_delta_net").combined(nlc.load("kfac"))
    assert {"S", "A", "W"} <= {*graph} | {n.rpartition(".")[2] for n in graph}
    assert any(
        data["transfer"] == ("backpropagation", "generation") for *_, data in graph.edges(data=True)
    )
