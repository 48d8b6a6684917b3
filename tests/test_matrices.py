"""Matrix functions against independent implementations, and the two shipped optimizers that are made of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import nlc
from nlc.base.diagnostics import SpecError

QUINTIC = (3.4445, -4.775, 2.0315)

TOKENS = """
nlc: 1
system: functions
context: tokens
hyper: {m: 4, n: 6, steps: 5}
heads: 2
inputs: {A: [m, n], v: [m], p: [], q: [m]}
outputs: {y: SHAPE}
levels:
  S:
    frequency: every token
    memory: matrix(m, m)
    init: learned
    objective: OBJECTIVE
    rule: gd(lr=0.1)
output:
  y: OUTPUT
"""
GRADIENTS = """
nlc: 1
system: stepper
context: gradients
hyper: {lr: 0.1, steps: 5}
levels:
  W:
    frequency: every step
    objective: dot(W, STEP)
    rule: gd(lr=lr)
"""


def _tokens(output: str, shape: str, objective: str = "-dot(S, A @ A.T)") -> nlc.Spec:
    text = TOKENS.replace("OUTPUT", output).replace("SHAPE", shape)
    return nlc.loads(text.replace("OBJECTIVE", objective))


def _flows(batch: int = 2, length: int = 3, dtype: torch.dtype = torch.float64) -> dict:
    noise = torch.Generator().manual_seed(0)
    shapes = {"A": (4, 6), "v": (4,), "p": (), "q": (4,)}
    drawn = {
        k: torch.randn(batch, length, 2, *s, generator=noise, dtype=torch.float64)
        for k, s in shapes.items()
    }
    drawn["p"] = 1 + drawn["p"].abs()
    return {k: x.to(dtype) for k, x in drawn.items()}


def _run(output: str, shape: str, **given: object) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The output, the flows and the states S after each token, S starting at 2 I."""
    spec = _tokens(output, shape)
    net, flows = spec.compile()(**given).double(), _flows()
    with torch.no_grad():
        net.S.init.copy_(2 * torch.eye(4))
    A = flows["A"]
    states = 2 * torch.eye(4).double() + 0.1 * (A @ A.mT).cumsum(1)
    return net(**flows)[0], flows, states


def _polar(A: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(A, full_matrices=False)
    return U @ Vh


def _iterated(A: Tensor, steps: int, coefficients: tuple[float, float, float]) -> Tensor:
    """The iteration on the singular values alone."""
    U, s, Vh = torch.linalg.svd(A, full_matrices=False)
    a, b, c = coefficients
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return (U * s.unsqueeze(-2)) @ Vh


def _near(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------ newton_schulz


@pytest.mark.parametrize(("wide", "shape"), [("A", "[m, n]"), ("A.T", "[n, m]")])
def test_many_cubic_steps_reach_the_polar_factor(wide: str, shape: str) -> None:
    y, flows, _ = _run(f"newton_schulz({wide}, steps, cubic)", shape, steps=60)
    expected = _polar(flows["A"])
    _near(y, expected if wide == "A" else expected.mT)


@pytest.mark.parametrize("name", ["cubic", "quintic", "[2, -1.5, 0.5]"])
@pytest.mark.parametrize(("wide", "shape"), [("A", "[m, n]"), ("A.T", "[n, m]"), ("S", "[m, m]")])
def test_each_step_maps_the_singular_values(name: str, wide: str, shape: str) -> None:
    """On batches, heads and tokens, on wide and tall matrices, and on the memory itself."""
    y, flows, S = _run(f"newton_schulz({wide}, steps, {name})", shape, steps=3)
    given = {"A": flows["A"], "A.T": flows["A"].mT, "S": S}[wide]
    named = {"cubic": (1.5, -0.5, 0.0), "quintic": QUINTIC}.get(name, (2.0, -1.5, 0.5))
    _near(y, _iterated(given, 3, named))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_iteration_runs_in_the_dtype_that_is_named(dtype: str) -> None:
    y, flows, _ = _run(f"newton_schulz(A, steps, quintic, {dtype})", "[m, n]")
    exact = _iterated(flows["A"], 5, QUINTIC)
    error = ((y - exact).norm() / exact.norm()).item()
    eps = torch.finfo(getattr(torch, dtype)).eps
    assert y.dtype == torch.float64 and eps / 100 < error < 50 * eps


def test_zero_and_large_matrices_stay_finite() -> None:
    module = _tokens("newton_schulz(A, steps, quintic, float16)", "[m, n]").compile()()
    flows = _flows(dtype=torch.float32)
    for scale in (0.0, 1e-20, 1e15):
        y, _ = module(**{**flows, "A": scale * flows["A"]})
        assert y.isfinite().all() and bool(y.any()) == (scale > 1e-6)


def test_the_outer_gradient_passes_through_the_iteration() -> None:
    net = _tokens("newton_schulz(S, steps) @ v", "[m]").compile()(steps=2).double()
    flows = _flows(1, 2)
    A, v = (flows[k].requires_grad_() for k in ("A", "v"))
    assert torch.autograd.gradcheck(lambda A, v: net(**{**flows, "A": A, "v": v})[0], (A, v))


# ------------------------------------------------------------------------------------------ inv_root, solve


@pytest.mark.parametrize("p", ["2", "4", "p"])
def test_a_root_is_the_root_of_the_eigenvalues(p: str) -> None:
    y, flows, S = _run(f"inv_root(S, {p})", "[m, m]")
    exponent = flows["p"] if p == "p" else torch.tensor(float(p)).double()
    values, vectors = torch.linalg.eigh(S)
    roots = values ** (-1 / exponent.unsqueeze(-1))
    _near(y, vectors @ torch.diag_embed(roots) @ vectors.mT)
    if p == "4":
        _near(torch.linalg.matrix_power(y, 4) @ S, torch.eye(4).double().expand_as(S))


def test_small_eigenvalues_are_raised_to_a_part_of_the_largest() -> None:
    net = _tokens("inv_root(A @ A.T, 2, 0.01)", "[m, m]").compile()().double()
    A = torch.diag_embed(torch.tensor([2.0, 1.0, 1e-3, 0.0]).double())
    A = torch.cat([A, torch.zeros(4, 2).double()], -1).expand(1, 1, 2, 4, 6)
    y, _ = net(**{**_flows(1, 1), "A": A})
    _near(y[0, 0, 0], torch.diag(torch.tensor([0.5, 1.0, 5.0, 5.0]).double()))
    assert net(**{**_flows(1, 1), "A": 0 * A})[0].isfinite().all()


@pytest.mark.parametrize(("b", "shape"), [("v", "[m]"), ("A", "[m, n]")])
@pytest.mark.parametrize("steps", ["", ", steps"])
def test_solve_is_the_inverse_s_product(b: str, shape: str, steps: str) -> None:
    """As many steps of conjugate gradients as there are rows solve exactly; more change nothing."""
    for count in (4, 9) if steps else (1,):
        y, flows, S = _run(f"solve(S, {b}{steps})", shape, steps=count)
        given = flows[b].unsqueeze(-1) if b == "v" else flows[b]
        expected = torch.linalg.inv(S) @ given
        _near(y, expected.squeeze(-1) if b == "v" else expected)


def test_one_step_of_conjugate_gradients_is_steepest_descent() -> None:
    y, flows, S = _run("solve(S, v, steps=1)", "[m]")
    v = flows["v"]
    Sv = (S @ v.unsqueeze(-1)).squeeze(-1)
    _near(y, (v.square().sum(-1) / (v * Sv).sum(-1)).unsqueeze(-1) * v)


@pytest.mark.parametrize("steps", ["", ", 4", ", 7"])
def test_the_outer_gradient_passes_through_solve(steps: str) -> None:
    net = _tokens(f"solve(S, v{steps})", "[m]").compile()().double()
    with torch.no_grad():
        net.S.init.copy_(2 * torch.eye(4))
    flows = _flows(1, 2)
    A, v = (flows[k].requires_grad_() for k in ("A", "v"))
    assert torch.autograd.gradcheck(
        lambda A, v: net(**{**flows, "A": A, "v": v})[0], (A, v), atol=1e-4
    )


@pytest.mark.parametrize(
    ("objective", "loss"),
    [
        ("dot(solve(S, v), q)", lambda S, A, v, q: torch.linalg.solve(S, v) @ q),
        ("dot(solve(B, S @ v), q)", lambda S, A, v, q: torch.linalg.solve(_spd(A), S @ v) @ q),
        (
            "sqnorm(solve(S + B, A))",
            lambda S, A, v, q: torch.linalg.solve(S + _spd(A), A).square().sum(),
        ),
    ],
)
def test_the_inner_gradient_of_solve_is_autograd_s(
    objective: str, loss: Callable[..., Tensor]
) -> None:
    objective = objective.replace("B", "(A @ A.T)")
    spec = _tokens("S", "[m, m]", objective)
    net, flows = spec.compile()().double(), _flows(1, 1)
    start = 3 * torch.eye(4).double() + torch.arange(16.0).reshape(4, 4).double() / 16
    with torch.no_grad():
        net.S.init.copy_(start)
    y, _ = net(**flows)
    for head in range(2):
        S = start.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(S, *(flows[k][0, 0, head] for k in "Avq")), S)
        assert slope.norm() > 1e-3
        _near(y[0, 0, head], start - 0.1 * slope)


def _spd(A: Tensor) -> Tensor:
    return A @ A.mT


def test_half_precision_is_solved_in_single_precision() -> None:
    made = nlc.loads(GRADIENTS.replace("STEP", "solve(g @ g.T, g) + inv_root(g @ g.T, 2) @ g"))
    W = torch.zeros(3, 5, dtype=torch.bfloat16, requires_grad=True)
    W.grad = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).bfloat16()
    made.compile()([W]).step()
    assert W.dtype == torch.bfloat16 and W.isfinite().all() and W.any()


# ------------------------------------------------------------------------------------------ sizes, matrices only


def test_sizes_are_python_numbers() -> None:
    made = nlc.loads(GRADIENTS.replace("STEP", "sqrt(max(1, nrows(W) / ncols(W))) * numel(W) * g"))
    said = {d.code for d in made.check().diagnostics}
    assert said == {"NLC210"}  # `steps` is not used; through a size nothing is differentiated
    source = made.source_text()
    assert "math.sqrt(max(1, W.shape[-2] / W.shape[-1]))" in source
    W = torch.zeros(6, 2, requires_grad=True)
    W.grad = torch.ones(6, 2)
    made.compile()([W], lr=1.0).step()
    _near(W.detach(), torch.full((6, 2), -12 * math.sqrt(3)), 1e-6)
    y, flows, _ = _run("p * (nrows(A.T) + 10 * ncols(S) + 100 * numel(A))", "[]")
    _near(y, flows["p"] * (6 + 40 + 2400))


@pytest.mark.parametrize(
    "step", ["newton_schulz(g)", "nrows(g) * g", "solve(g @ g.T, g)", "g @ g.T @ g"]
)
def test_an_optimizer_of_matrices_says_so_to_other_tensors(step: str) -> None:
    made = nlc.loads(GRADIENTS.replace("STEP", step)).compile()
    for shape in ((3,), (), (2, 3, 4)):
        W = torch.zeros(shape, requires_grad=True)
        W.grad = torch.ones(shape)
        with pytest.raises(ValueError) as caught:
            made([W])
        said = f"Stepper takes matrices, found a parameter of shape {list(shape)}"
        assert str(caught.value) == f"{said} (<text>:7)"
        opt = made([torch.zeros(2, 2)])
        with pytest.raises(ValueError, match="takes matrices"):
            opt.add_param_group({"params": [W]})
        assert len(opt.param_groups) == 1
        frozen = torch.zeros(shape)
        made([frozen]).step()  # it never has a gradient
        opt = made([frozen])
        frozen.requires_grad_().grad = torch.ones(shape)
        with pytest.raises(ValueError, match="takes matrices"):
            opt.step()


def test_an_optimizer_of_any_tensor_takes_any() -> None:
    made = nlc.loads(GRADIENTS.replace("STEP", "g / numel(g) + norm(g) * prev(W)"))
    assert "dim()" not in made.source_text()
    assert "not matrices" not in (made.compile().__doc__ or "")


@pytest.mark.parametrize("memory", ["rows(W)", "cols(W)"])
def test_memories_of_rows_and_columns_need_matrices_too(memory: str) -> None:
    text = GRADIENTS.replace("STEP", "g").replace(
        "levels:\n",
        f"levels:\n  s:\n    frequency: every step\n    memory: {memory}\n"
        "    objective: -dot(s, s)\n    rule: gd(lr=lr)\n",
    )
    W = torch.zeros(3, requires_grad=True)
    W.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"takes matrices.*\[3\]"):
        nlc.loads(text).compile()([W])


def test_steps_are_fixed_at_construction_and_at_least_one() -> None:
    made = nlc.compile("muon")
    with pytest.raises(ValueError, match="steps = 0 must be a whole number, at least 1"):
        made([torch.zeros(2, 2)], steps=0)
    with pytest.raises(SpecError, match="NLC305"):
        nlc.loads(GRADIENTS.replace("STEP", "newton_schulz(g, 0)")).compile()


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ("newton_schulz(g, steps)", "W ← W − lr·NSₛₜₑₚₛ(g)"),
        ("newton_schulz(g, 5)", "W ← W − lr·NS₅(g)"),
        ("inv_root(g @ g.T, 4) @ g", "W ← W − lr (g gᵀ)^(−1/4) g"),
        ("solve(g @ g.T, g)", "W ← W − lr (g gᵀ)⁻¹ g"),
    ],
)
def test_derivations_write_them_as_the_paper_does(step: str, line: str) -> None:
    spec = nlc.loads(GRADIENTS.replace("STEP", step))
    assert any(text.strip().startswith(line) for text in spec.derive().split("\n")), spec.derive()


# ------------------------------------------------------------------------------------------ muon

SHAPES = [(8, 3), (3, 8), (5, 5), (1, 4), (16, 2)]


def _descend(
    made: Callable[[list[Tensor]], Optimizer],
    steps: range,
    dtype: torch.dtype,
    params: list[Tensor] | None = None,
    optimizer: Optimizer | None = None,
) -> tuple[list[Tensor], Optimizer]:
    """Parameters after steps on gradients that depend on the tick and on the parameter."""
    noise = torch.Generator().manual_seed(0)
    drawn = [torch.randn(s, generator=noise, dtype=torch.float64) for s in SHAPES]
    params = params or [x.to(dtype).requires_grad_() for x in drawn]
    optimizer = optimizer or made(params)
    for tick in steps:
        for i, p in enumerate(params):
            noise = torch.Generator().manual_seed(100 * tick + i)
            g = torch.randn(p.shape, generator=noise, dtype=torch.float64)
            p.grad = g.to(dtype) + 0.3 * p.detach()
        optimizer.step()
    return params, optimizer


class _Muon(Optimizer):
    """torch.optim.Muon's algorithm, in the dtype of the parameters."""

    def __init__(self, params, lr=1e-3, weight_decay=0.1, momentum=0.95, nesterov=True, rms=False):
        super().__init__(params, {})
        self.given = lr, weight_decay, momentum, nesterov, rms

    @torch.no_grad()
    def step(self):
        lr, decay, momentum, nesterov, rms = self.given
        for p in self.param_groups[0]["params"]:
            g, state = p.grad, self.state[p]
            buffer = state.setdefault("buffer", torch.zeros_like(g))
            buffer.lerp_(g, 1 - momentum)
            X = g.lerp(buffer, momentum) if nesterov else buffer
            rows, cols = p.shape
            X = X.T if rows > cols else X
            X = X / X.norm().clamp(min=1e-7)
            a, b, c = QUINTIC
            for _ in range(5):
                gram = X @ X.T
                X = a * X + (b * gram + c * gram @ gram) @ X
            X = X.T if rows > cols else X
            scale = 0.2 * math.sqrt(max(rows, cols)) if rms else math.sqrt(max(1, rows / cols))
            p.mul_(1 - lr * decay)
            p.add_(X, alpha=-lr * scale)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("rms", [True, False])
def test_muon_is_torch_s_algorithm_in_float32(nesterov: bool, rms: bool) -> None:
    made, same = nlc.compile("muon"), dict(lr=0.02, nesterov=nesterov)
    mine, _ = _descend(lambda p: made(p, match_rms=rms, **same), range(30), torch.float32)
    theirs, _ = _descend(lambda p: _Muon(p, rms=rms, **same), range(30), torch.float32)
    for a, b in zip(mine, theirs, strict=True):
        _near(a.detach(), b.detach(), 2e-5)
    fn = "match_rms_adamw" if rms else "original"
    torchs, _ = _descend(
        lambda p: torch.optim.Muon(p, adjust_lr_fn=fn, **same), range(30), torch.float32
    )
    start, _ = _descend(lambda p: _Muon(p), range(0), torch.float32)
    for a, b, first in zip(mine, torchs, start, strict=True):  # torch iterates in bfloat16
        assert (a - b).norm() < 0.03 * (b - first).norm()


def test_muon_s_defaults_are_torch_s() -> None:
    mine, _ = _descend(nlc.compile("muon"), range(20), torch.float32)
    theirs, _ = _descend(_Muon, range(20), torch.float32)
    for a, b in zip(mine, theirs, strict=True):
        _near(a.detach(), b.detach(), 1e-6)
    given = torch.optim.Muon([torch.zeros(2, 2)]).defaults
    ours = nlc.compile("muon")([torch.zeros(2, 2)]).defaults
    pairs = {"lr": "lr", "beta": "momentum", "nesterov": "nesterov", "steps": "ns_steps"}
    pairs["weight_decay"] = "weight_decay"
    assert {k: ours[k] for k in pairs} == {k: given[v] for k, v in pairs.items()}


# ------------------------------------------------------------------------------------------ m3


class _M3(Optimizer):
    """Algorithm 1 of the paper, literally: for each slow period k, its f fast steps."""

    def __init__(self, params, lr, inside, f, beta1, beta2, beta3, alpha, eps, steps):
        super().__init__(params, {})
        self.given = lr, inside, f, beta1, beta2, beta3, alpha, eps, steps

    @torch.no_grad()
    def step(self):
        lr, inside, f, beta1, beta2, beta3, alpha, eps, steps = self.given
        for p in self.param_groups[0]["params"]:
            g, s = p.grad, self.state[p]
            if not s:
                zero = torch.zeros_like(p)
                s.update(M1=zero, M2=zero, V=zero, O2=zero, gradients=[])
            if len(s["gradients"]) == f:  # a slow iteration begins
                s["M2"] = s["M2"] + beta3 * sum(s["gradients"])
                s["O2"] = _iterated(s["M2"], steps, QUINTIC)
                s["gradients"] = []
            s["M1"] = s["M1"] + beta1 * g
            s["V"] = s["V"] + beta2 * g * g
            O1 = _iterated(s["M1"], steps, QUINTIC)
            root = (s["V"] + eps).sqrt() if inside else s["V"].sqrt() + eps
            p -= lr * (O1 + alpha * s["O2"]) / root
            s["gradients"].append(g.clone())


@pytest.mark.parametrize("inside", [True, False])
def test_m3_is_algorithm_1(inside: bool) -> None:
    made = nlc.compile("m3")
    more = dict(f=4, beta1=0.7, beta2=0.3, beta3=0.6, alpha=0.8, eps=1e-3, steps=3)
    mine, _ = _descend(
        lambda p: made(p, lr=0.02, eps_inside=inside, **more), range(35), torch.float64
    )
    theirs, _ = _descend(lambda p: _M3(p, 0.02, inside, **more), range(35), torch.float64)
    start, _ = _descend(lambda p: _M3(p, 0.02, inside, **more), range(0), torch.float64)
    for a, b, first in zip(mine, theirs, start, strict=True):
        assert (b - first).norm() > 0.1
        _near(a.detach(), b.detach(), 1e-10)


@pytest.mark.parametrize("stop", [1, 4, 6, 11])
def test_m3_goes_on_bit_by_bit_inside_a_period(stop: int) -> None:
    made = nlc.compile("m3")
    whole, _ = _descend(lambda p: made(p, lr=0.02, f=4), range(20), torch.float64)
    parts, first = _descend(lambda p: made(p, lr=0.02, f=4), range(stop), torch.float64)
    second = made(parts, lr=99.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    _descend(made, range(stop, 20), torch.float64, parts, second)
    assert all(map(torch.equal, parts, whole))


def test_m3_computes_its_slow_direction_once_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    made, calls = nlc.compile("m3"), []
    module = sys.modules[made.__module__]
    real = module.newton_schulz
    monkeypatch.setattr(module, "newton_schulz", lambda *a: calls.append(a) or real(*a))
    W = torch.randn(4, 3, requires_grad=True)
    optimizer = made([W], f=5)
    counts = []
    for _ in range(20):
        W.grad = torch.randn(4, 3)
        before = len(calls)
        optimizer.step()
        counts.append(len(calls) - before)
    # the first step also needs the direction of the empty memory
    assert counts == [2, 1, 1, 1, 2] + [1, 1, 1, 1, 2] * 3


def test_a_product_of_matrices_is_an_update_and_a_gate_of_a_tensor_like_it() -> None:
    """Both have the shape of the trained matrix, though they are no tensor of any rank."""
    text = GRADIENTS.replace("STEP", "s").replace(
        "levels:\n",
        "levels:\n  s:\n    frequency: every step\n    memory: like(W)\n"
        "    update: 0.5 * s + g @ g.T @ g\n",
    )
    spec = nlc.loads(text.replace("gd(lr=lr)", "gd(lr=lr, decay=0.01 * (g @ g.T @ g))"))
    assert "ones_like" not in spec.source_text()
    noise = torch.Generator().manual_seed(0)
    W = torch.randn(3, 4, generator=noise, requires_grad=True)
    expected, s = W.detach().clone(), torch.zeros(3, 4)
    optimizer = spec.compile()([W])
    for _ in range(5):
        W.grad = torch.randn(3, 4, generator=noise)
        cube = W.grad @ W.grad.T @ W.grad
        s = 0.5 * s + cube
        expected = 0.01 * cube * expected - 0.1 * s
        optimizer.step()
    _near(W.detach(), expected, 1e-5)
