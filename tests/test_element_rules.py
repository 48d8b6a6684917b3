"""Optimizers of the backend `torch`: in place, in blocks, and compiled to one pass, beside the reference."""

from __future__ import annotations

import inspect
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from shipped_specs import GRADIENTS, load
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import nlc

ROUTED = [n for n in GRADIENTS if load(n).system.routes]  # what is no matrix by elements
# A norm of all elements, a mean of rows between regions.
BETWEEN = ["adafactor", "adafactor_unfactored", "cautious_adamw", "lamb", "mars"]
WHOLE = ["nadam", "schedule_free"]  # a memory that is a number
BY_ELEMENTS = [n for n in GRADIENTS if n not in (*ROUTED, *BETWEEN, *WHOLE)]
REGIONS = {"lookahead": 2, "adafactor": 5, "adafactor_unfactored": 2, "cautious_adamw": 2}
REGIONS |= {
    "lamb": 2,
    "mars": 2,
    "muon": 3,
}  # compiled functions, or ways to compile one; others have one
SHAPES = [(), (1,), (5,), (7, 3), (3, 4, 2), (400, 350)]  # the last in more than one block


def params(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[nn.Parameter]:
    noise = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=noise, dtype=dtype)) for s in shapes]


def trained(
    made: type, shapes: list, steps: int = 9, dtype: torch.dtype = torch.float64, **options: object
) -> tuple[list[Tensor], list[dict]]:
    """Parameters and states after some steps at random gradients."""
    ps = params(shapes, dtype)
    if "matrix_dtype" in made.HYPERS and dtype == torch.float64:
        options["matrix_dtype"] = dtype  # where a spec multiplies in float32
    opt = made(ps, **options)
    noise = torch.Generator().manual_seed(1)
    torch.manual_seed(2)  # starts that are drawn
    for i in range(steps):
        for p in ps:
            p.grad = torch.randn(p.shape, generator=noise, dtype=dtype)
        for group in opt.param_groups:
            group["lr"] = 0.01 / (1 + i)
        opt.step()
    return [p.detach() for p in ps], [opt.state[p] for p in ps]


def same(found: tuple, expected: tuple, tolerance: float) -> None:
    for x, y in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)
    for a, b in zip(found[1], expected[1], strict=True):
        assert a.keys() == b.keys()
        for key, x in a.items():
            if isinstance(x, Tensor):
                torch.testing.assert_close(x, b[key], rtol=tolerance, atol=tolerance)
            else:
                assert x == b[key], key


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_reference_goes_the_same_way(name: str) -> None:
    spec = load(name)
    shapes = [(7, 3), (4, 6), (1, 5)] if name == "m3" else SHAPES
    same(*(trained(spec.compile(b), shapes) for b in ("torch", "reference")), tolerance=1e-11)


def test_which_optimizers_are_done_by_elements() -> None:
    """Others have no `fused`, but routes to such rules do, and what has a region between other functions."""
    flagged = [n for n in GRADIENTS if "fused: bool" in load(n).source_text("torch")]
    assert flagged == [n for n in GRADIENTS if n not in WHOLE] and {*WHOLE} < {*GRADIENTS}
    text = """
    nlc: 1
    system: orthogonal
    context: gradients
    levels:
      W:
        frequency: every step
        update: newton_schulz(W, 5)
    """
    with pytest.raises(TypeError, match="fused"):
        nlc.loads(text).compile("torch")(params([(2, 2)], torch.float32), fused=True)


@pytest.fixture
def eagerly(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], CompileCounter]:
    """What is compiled runs as PyTorch, and is counted."""

    def patch(made: type) -> CompileCounter:
        counter = CompileCounter()
        compiled: dict = {}
        monkeypatch.setattr(
            sys.modules[made.__module__],
            "compiled",
            lambda f: compiled.setdefault(
                f, torch.compile(f, backend=counter, dynamic=True, fullgraph=True)
            ),
        )
        torch._dynamo.reset()
        return counter

    return patch


@pytest.mark.parametrize("name", [*BY_ELEMENTS, *BETWEEN, "muon"])
def test_one_pass_is_the_same(name: str, eagerly: Callable) -> None:
    """Under a schedule of the rate, and with one compilation for all shapes, one more where a period ends."""
    made = load(name).compile("torch")
    counter = eagerly(made)
    shapes = [*SHAPES, (70000,), (41, 7, 300)]
    found = trained(made, shapes, fused=True)
    same(found, trained(load(name).compile("reference"), shapes), tolerance=1e-11)
    assert counter.frame_count == REGIONS.get(name, 1)


@pytest.mark.parametrize("fused", (False, True))
def test_a_rate_may_be_a_tensor_that_a_schedule_changes(fused: bool, eagerly: Callable) -> None:
    made = nlc.load("momentum").compile("torch")
    counter = eagerly(made)
    weights = []
    for number in (torch.tensor, float):
        (p,) = params([(300, 300)], torch.float32)
        opt = made([p], lr=number(0.1), beta=number(0.5), fused=fused)
        schedule = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
        for _ in range(4):
            p.grad = torch.ones_like(p)
            opt.step()
            schedule.step()
        weights.append(p.detach())
    torch.testing.assert_close(*weights)
    assert counter.frame_count == 2 * fused  # tensors are a call of their own


@pytest.mark.parametrize("name", BY_ELEMENTS)
def test_a_grad_scaler_goes_with_it(name: str) -> None:
    """Steps with gradients that were scaled and are scaled back; one that is not finite is left out."""
    (p,), (q,) = params([(4, 3)], torch.float32), params([(4, 3)], torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled, plain = (load(name).compile("torch")([x], lr=0.1) for x in (p, q))
    for i in range(4):
        for x, opt, scale in ((p, scaled, scaler), (q, plain, None)):
            opt.zero_grad()
            loss = (x * (torch.inf if i == 2 else 1)).square().sum()
            if scale is not None:
                scale.scale(loss).backward()
                scale.step(opt)
                scale.update()
            elif i != 2:
                loss.backward()
                opt.step()
    torch.testing.assert_close(p, q)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_one_pass_compiles() -> None:
    made, shapes = nlc.load("adamw").compile("torch"), [(300, 300), (7, 3)]
    found = trained(made, shapes, dtype=torch.float32, fused=True)
    expected = trained(nlc.load("adamw").compile("reference"), shapes, dtype=torch.float32)
    same(found, expected, tolerance=1e-5)


@pytest.mark.parametrize("fused", (False, True))
def test_tensors_that_do_not_lie_in_a_row(fused: bool, eagerly: Callable) -> None:
    """A transposed parameter, and a gradient of one number spread out."""
    made = nlc.load("adamw").compile("torch")
    eagerly(made)
    results = []
    for make, options in ((made, {"fused": fused}), (nlc.load("adamw").compile("reference"), {})):
        W = nn.Parameter(torch.linspace(0, 1, 160000, dtype=torch.float64).reshape(400, 400).T)
        V = nn.Parameter(torch.ones(400, 400, dtype=torch.float64))
        opt = make([W, V], lr=0.1, **options)
        for _ in range(3):
            W.grad = torch.ones_like(W) * W.detach()
            V.grad = torch.tensor(0.5, dtype=torch.float64).expand(400, 400)
            opt.step()
        assert not W.is_contiguous()
        results.append([W.detach(), V.detach()])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_tensors_of_one_size_and_their_calls(eagerly: Callable) -> None:
    """Several tensors a call, of whatever sizes, more than one rate, an odd one left over: one compilation."""
    made, shapes = nlc.load("adamw").compile("torch"), [(70000,)] * 5 + [(400, 350), (300, 300)]
    counter = eagerly(made)
    results = []
    for make, options in ((made, {"fused": True}), (nlc.load("adamw").compile("reference"), {})):
        ps = params(shapes, torch.float64)
        opt = make([{"params": ps[:3]}, {"params": ps[3:], "lr": 0.1}], lr=0.01, **options)
        for i in range(3):
            for p in ps:
                p.grad = torch.cos(p.detach() + i)
            opt.step()
        results.append(([p.detach() for p in ps], [opt.state[p] for p in ps]))
    same(*results, tolerance=1e-12)
    assert counter.frame_count == 1


def test_what_waits_for_a_call_is_done_where_a_later_tensor_is_refused(eagerly: Callable) -> None:
    made = nlc.load("adamw").compile("torch")
    eagerly(made)
    p = nn.Parameter(torch.ones(70000))
    q = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    opt = made([p, q], lr=0.5, fused=True)
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    with pytest.raises(RuntimeError, match="complex"):
        opt.step()
    assert opt.state[p]["t"] == 1 and not (p == 1).any()


def test_a_step_that_fails_midway(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place a memory has its new value, which docs/optimizers.md says; the reference keeps all as it was."""
    for backend, kept in (("reference", True), ("torch", False)):
        made = nlc.load("muon").compile(backend)
        (p,) = params([(4, 3)], torch.float32)
        opt = made([p], lr=0.1)
        p.grad = torch.ones_like(p)
        opt.step()
        before, m = p.detach().clone(), opt.state[p]["m"].clone()

        def fails(*args: object) -> Tensor:
            raise RuntimeError("no convergence")

        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[made.__module__], "newton_schulz", fails)
            with pytest.raises(RuntimeError, match="convergence"):
                opt.step()
        assert torch.equal(p, before)
        assert torch.equal(opt.state[p]["m"], m) is kept


def test_states_go_from_one_backend_to_the_other() -> None:
    """Also into groups that know nothing of `fused`."""
    spec = nlc.load("adam")
    ps = params([(4, 3)], torch.float64)
    one = spec.compile("reference")(ps, lr=0.1)
    ps[0].grad = torch.ones_like(ps[0])
    one.step()
    other = spec.compile("torch")(params([(4, 3)], torch.float64))
    other.load_state_dict(one.state_dict())
    assert other.param_groups[0]["fused"] is False and other.param_groups[0]["lr"] == 0.1
    (p,) = other.param_groups[0]["params"]
    p.data.copy_(ps[0].data)
    p.grad = torch.ones_like(p)
    for opt in (one, other):
        opt.step()
    torch.testing.assert_close(p, ps[0], rtol=1e-12, atol=1e-12)


def test_rules_of_a_module_are_not_touched_by_fused() -> None:
    """A rule that a module brings has no such form, and is called as it is."""

    class Halved:
        HYPERS: ClassVar = {"lr": float}

        @staticmethod
        def initial_state(W: Tensor, **hypers: object) -> dict:
            return {"t": 0}

        @staticmethod
        def update(W: Tensor, g: Tensor, state: dict, *, lr: float) -> Tensor:
            return W * 0.5

    (p,) = params([(2,)], torch.float32)
    before = p.detach().clone()
    opt = nlc.load("sgd").compile("torch")([dict(params=[p], rule=Halved)], fused=True)
    p.grad = torch.ones_like(p)
    opt.step()
    assert torch.equal(p.detach(), before / 2)


def test_steps_read_as_if_written_by_hand() -> None:
    text = nlc.load("adamw").source_text("torch")
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines()]
    for line in (
        "m.mul_(beta1).add_(g, alpha=1 - beta1)",
        "v.mul_(beta2).addcmul_(g, g, value=1 - beta2)",
        "torch.mul(v, 1 / (1 - beta2**t), out=a).sqrt_().add_(eps)",
        "W.mul_(1 - lr * weight_decay).addcdiv_(m, a, value=-lr / (1 - beta1**t))",
        "W = c5 * W + c6 * m / (sqrt(c7 * v) + c8)",
    ):
        assert line in lines


# ------------------------------------------------------------------------------------------------ random rules

NUMBERS = ("0.5", "lr", "beta", "(1 - beta)", "2", "beta**t", "-0.3")
UNARY = (
    "sqrt(abs({}))",
    "tanh({})",
    "sign({1}) * {0}",
    "-{}",
    "abs({})",
    "sigmoid({})",
    "{}**2",
    "exp(-abs({}))",
)


def expression(draw: random.Random, leaves: tuple[str, ...], depth: int) -> str:
    """A value of the size of W, that rounding cannot make jump."""
    if depth == 0:
        return draw.choice(leaves)
    inner = lambda: expression(draw, leaves, depth - 1)  # noqa: E731
    sure = "last(g)" if "last(m)" in leaves else "g"
    match draw.randrange(8):
        case 0:
            return f"({inner()} + {inner()})"
        case 1:
            return f"({inner()} - {draw.choice(NUMBERS)} * {inner()})"
        case 2:
            return f"({inner()} * {inner()})"
        case 3:
            return f"({inner()} / (1 + abs({inner()})))"
        case 4:
            return f"max({inner()}, {draw.choice((inner(), '0.1'))})"
        case 5:
            return f"({draw.choice(NUMBERS)} * ({inner()} + {draw.choice(NUMBERS)}))"
        case 6:
            return f"where({sure} > 0, {inner()}, {inner()})"
    return draw.choice(UNARY).replace("{}", "{0}").format(inner(), sure)


def rule(seed: int) -> str:
    """Two memories and the trained tensor, with values that several of them read."""
    draw = random.Random(seed)
    lines = ["nlc: 1", "system: random", "context: gradients", "hyper: {lr: 0.01, beta: 0.9}"]
    lines += ["let:", f"  u: {expression(draw, ('g', 'prev(W)', 'prev(m)'), 2)}", "levels:"]
    every = "3 steps" if draw.random() < 0.3 else "step"
    slow = ("last(m)", "v") if every != "step" else ("m", "v", "u")
    for name, leaves, clock in (("m", ("g", "u", "m"), "step"), ("v", slow, every)):
        lines += [f"  {name}:", f"    frequency: every {clock}", "    memory: like(W)"]
        lines += [f"    update: tanh({expression(draw, leaves, 3)})"]
    lines += ["  W:", "    frequency: every step"]
    lines += [f"    update: W - lr * {expression(draw, ('m', 'v', 'u', 'W', 'g'), 3)}"]
    return "\n".join(lines) + "\n"


SEEDS = [*range(40), *(pytest.param(s, marks=pytest.mark.long) for s in range(40, 300))]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_rules_go_the_way_of_the_reference(seed: int, eagerly: Callable) -> None:
    spec = nlc.loads(rule(seed))
    assert not spec.check().has_errors, str(nlc.SpecError(spec.report)) + rule(seed)
    shapes = [(), (4, 3), (400, 350)]
    expected = trained(spec.compile("reference"), shapes, steps=5)
    same(trained(spec.compile("torch"), shapes, steps=5), expected, tolerance=1e-9)
    if seed % 8 == 0 and "advance" in vars(spec.compile("torch")):
        eagerly(spec.compile("torch"))
        found = trained(spec.compile("torch"), shapes, steps=5, fused=True)
        same(found, expected, tolerance=1e-9)


def between(seed: int) -> str:
    """The same with norms, products of matrices, views and sizes between what is done by elements."""
    draw, text = random.Random(seed), rule(seed)
    functions = (
        "(({0}) @ g.T) @ tanh({1})",
        "{0} / (1 + norm({1}))",
        "g / (1 + norm({0})) * sqrt(ncols(g))",
    )
    functions += (
        "tanh(newton_schulz({0}, 2)) + {1}",
        "max(norm({0}), 1) * tanh({1})",
        "numel(g)**-1 * {0}",
    )
    lines: list[str] = []
    for line in text.splitlines():
        key, found, value = line.partition(": ")
        slow = any("every 3 steps" in x for x in lines[-2:])
        if key.strip() in ("u", "update") and not slow and draw.random() < 0.7:
            value = f"tanh({draw.choice(functions).format(f'({value})', 'g')})"
        lines.append(f"{key}{found}{value}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "seed", (*range(16), *(pytest.param(s, marks=pytest.mark.long) for s in range(16, 100)))
)
def test_regions_between_functions_go_the_way_of_the_reference(seed: int) -> None:
    spec = nlc.loads(between(seed))
    assert not spec.check().has_errors, str(nlc.SpecError(spec.report)) + between(seed)
    shapes = [
        (4, 3),
        (260, 300),
    ]  # roots near 0 make more of rounding than in rules without products
    expected = trained(spec.compile("reference"), shapes, steps=4)
    made = spec.compile("torch")
    same(trained(made, shapes, steps=4), expected, tolerance=1e-4)
    if "fused" in inspect.signature(made).parameters:
        module = sys.modules[made.__module__]
        module.compiled = lambda run: run
        same(trained(made, shapes, steps=4, fused=True), expected, tolerance=1e-4)


def test_a_region_of_one_tensor_goes_the_way_of_the_reference() -> None:
    """It is scaled by itself, and nothing else is read."""
    text = (
        "nlc: 1\nsystem: alone\ncontext: gradients\nhyper: {lr: 0.01, beta: 0.9}\napplies_to: {matrices: self}\n"
        "levels:\n"
        "  m: {frequency: every step, memory: like(W), init: 1, update: (2 - beta) * m}\n"
        "  W: {frequency: every step, update: 'W - lr * newton_schulz(m, 2) @ g.T @ g'}\n"
    )
    spec = nlc.loads(text)
    assert not spec.check().has_errors, str(nlc.SpecError(spec.report))
    made = spec.compile("torch")
    assert "for (m,) in blocks(" in spec.source_text("torch")
    expected = trained(spec.compile("reference"), [(4, 3)], steps=4)
    same(trained(made, [(4, 3)], steps=4), expected, tolerance=1e-9)
    sys.modules[made.__module__].compiled = lambda run: run
    same(trained(made, [(4, 3)], steps=4, fused=True), expected, tolerance=1e-9)


@pytest.mark.parametrize("name", ("lookahead", "m3", "muon", "shampoo", "sgd", "soap"))
@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16))
def test_small_tensors_make_their_steps_as_one(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a stack or in a row, and to the same numbers as each by itself."""
    made = load(name).compile("torch")
    module = sys.modules[made.__module__]
    shapes = [(3, 4), (3, 4), (3, 4), (5,), (), (4, 3)]
    calls: list[int] = []
    joined = made.stepped_as_one
    monkeypatch.setattr(
        made,
        "stepped_as_one",
        lambda self, rule, ps, group: (calls.append(len(ps)), joined(self, rule, ps, group))[1],
    )
    found = trained(made, shapes, dtype=dtype)
    assert max(calls) == (3 if load(name).system.routes else 6)
    count = len(calls)
    for limit in ("SMALL", "LARGE"):
        monkeypatch.setattr(module, limit, 0)
    same(found, trained(made, shapes, dtype=dtype), 1e-12 if dtype == torch.float64 else 1e-6)
    assert len(calls) == count


def test_a_tensor_without_elements_changes_nothing() -> None:
    made = nlc.load("adamw").compile("torch")
    found = [x[1:] for x in trained(made, [(0, 3), (4, 3), (2,)])]
    same(found, trained(made, [(4, 3), (2,)]), 0)


READ_BOTH_WAYS = """\
nlc: 1
system: read_both_ways
context: gradients
hyper: {lr: 0.01}
applies_to: {matrices: self}
levels:
  m: {frequency: every step, memory: like(W), update: 0.9 * m + g}
  v: {frequency: every step, memory: like(W), init: 1, update: 0.9 * v + g * g}
  W: {frequency: every step, update: "W - lr * (newton_schulz(m, 2) @ g.T @ tanh(g)) / sqrt(v)"}
"""

READ_TURNED = READ_BOTH_WAYS.replace("read_both_ways", "read_turned").replace(
    "newton_schulz(m, 2) @ g.T @ tanh(g)", "newton_schulz(m.T, 2).T"
)


@pytest.mark.parametrize("options", ({}, {"maximize": True}, {"fused": True}), ids=str)
@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16))
@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize(
    ("name", "whole"),
    (
        *(("m3", 0), ("muon", 0), ("shampoo", 7), ("soap", 10)),
        *((READ_BOTH_WAYS, 1), (READ_TURNED, 1)),
    ),
    ids=("m3", "muon", "shampoo", "soap", "read both ways", "read turned"),
)
def test_matrices_make_a_step_together_one_for_each_thread(
    name: str,
    whole: int,
    threads: int,
    dtype: torch.dtype,
    options: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those between small and large ones, on a CPU, and to the same numbers as each by itself.

    Only ``whole`` of what they have is stacked before the step, as regions take each where it is.
    """
    made = (nlc.loads if "\n" in name else nlc.load)(name).compile("torch")
    assert len(made.WHOLE) == whole
    module, before = sys.modules[made.__module__], torch.get_num_threads()
    monkeypatch.setattr(module, "compiled", lambda run: run)
    calls: list[int] = []
    together, joined = made.stepped_as_one, module.joined
    stacked: list[int] = []
    monkeypatch.setattr(
        made,
        "stepped_as_one",
        lambda self, rule, ps, group: (calls.append(len(ps)), together(self, rule, ps, group))[1],
    )
    monkeypatch.setattr(module, "joined", lambda *x: (stacked.append(1), joined(*x))[1])
    monkeypatch.setattr(module, "SMALL", 10)
    monkeypatch.setattr(module, "CALL", 10)
    shapes = [(3, 4), (4, 3), (3, 4), (3, 4), (3, 4), (3, 4)]
    torch.set_num_threads(threads)
    try:
        found = trained(made, shapes, dtype=dtype, **options)
        assert {*calls} == ({2} if threads == 2 else set())
        assert len(stacked) == whole * len(calls)
        monkeypatch.setattr(module, "LARGE", 0)
        alone = trained(made, shapes, dtype=dtype, **options)
        same(found, alone, 1e-12 if dtype == torch.float64 else 1e-6)
    finally:
        torch.set_num_threads(before)


def test_generated_files_are_formatted(tmp_path: Path) -> None:
    """Long sums and long numbers, too, and kernels."""
    import subprocess

    for name in ("adamw", "lookahead", "adan", "muon"):
        (tmp_path / f"{name}.py").write_text(load(name).source_text("triton"))
    for name in ("adafactor", "lamb", "m3", "soap"):
        (tmp_path / f"{name}.py").write_text(load(name).source_text("torch"))
    for i in range(12):
        (tmp_path / f"r{i}.py").write_text(nlc.loads(rule(i)).source_text("torch"))
        (tmp_path / f"b{i}.py").write_text(nlc.loads(between(i)).source_text("torch"))
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["format", "--check"], ["check", "--select", "E,F,W"]):
        done = subprocess.run(
            [*ruff, *command, "--line-length", "100", "--isolated", str(tmp_path)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
