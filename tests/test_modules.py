"""Every shipped token system as a module: streams, gradients, checkpoints, files; a new spec is covered by itself."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from grouped_specs import ADDED, AFTER, ERASED, GROUPED, MOMENTUM
from shipped_specs import TOKENS, load
from torch import Tensor, nn

import nlc
from nlc.pipeline import shipped

# Small, with periods that end within a test, and rates at which an untrained chain of MLPs stays bounded.
SIZES = {"d": 16, "heads": 2, "periods": [2, 4, 8], "chunk": 3, "memory_chunk": 2}
SIZES |= {"lr": 0.02, "cms_lr": 0.02, "p": 16}
NAMES = sorted(shipped())
every = pytest.mark.parametrize("name", TOKENS)


@functools.cache
def _made(name: str, operator: bool) -> type[nn.Module]:
    return load(name, operator=operator).compile()


def _module(name: str, operator: bool = False) -> nn.Module:
    """A small one in float64, its weights drawn from seed 0."""
    made = _made(name, operator)
    torch.manual_seed(0)
    sizes = {k: v for k, v in SIZES.items() if k in inspect.signature(made).parameters}
    return made(**sizes).double()


def _inputs(name: str, length: int, operator: bool = False) -> dict[str, Tensor]:
    """A batch of two for every input that the spec declares; gates of an operator within (0, 1)."""
    system, module = load(name, operator=operator).system, _module(name, operator)
    noise, out = torch.Generator().manual_seed(1), {}
    for key, given in system.inputs.items():
        shape = [int(dim.evaluate(vars(module))) for dim in given.dims]
        shape = [2, length, *([module.heads] if given.head else []), *shape]
        drawn = torch.randn(shape, generator=noise, dtype=torch.float64)
        out[key] = drawn.sigmoid() if given.range.low >= 0 or not given.dims else drawn
    return out


def _outputs(found: Tensor | tuple[Tensor, ...] | dict[str, Tensor]) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    return list(found.values() if isinstance(found, dict) else found)


def _same(a: list[Tensor] | dict, b: list[Tensor] | dict, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def _python(code: str, *arguments: str, cwd: Path, seed: str = "0", isolated: bool = False) -> str:
    """What a fresh process prints."""
    command = [sys.executable, *(["-I"] if isolated else []), "-c", code, *arguments]
    env = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# streams


@every
def test_pieces_and_steps_of_a_stream_equal_one_call(name: str) -> None:
    module, inputs = _module(name), _inputs(name, 13)
    whole, end = module(**inputs)
    for sizes in ([1, 5, 7], [9, 3, 1], [1] * 13):
        pieces, state = [], None
        for piece in zip(*(x.split(sizes, 1) for x in inputs.values()), strict=True):
            y, state = module(**dict(zip(inputs, piece, strict=True)), state=state)
            pieces.append(_outputs(y))
        _same([torch.cat(parts, 1) for parts in zip(*pieces, strict=True)], _outputs(whole))
        _same(state, end)
    ticks, state = [], None
    for t in range(13):
        y, state = module.step(**{key: x[:, t] for key, x in inputs.items()}, state=state)
        ticks.append(_outputs(y))
    _same([torch.stack(parts, 1) for parts in zip(*ticks, strict=True)], _outputs(whole))
    _same(state, end)


@every
def test_the_past_does_not_see_the_future(name: str) -> None:
    module, inputs = _module(name), _inputs(name, 9)
    changed = {key: torch.cat([x[:, :6], -x[:, 6:]], 1) for key, x in inputs.items()}
    for a, b in zip(_outputs(module(**inputs)[0]), _outputs(module(**changed)[0]), strict=True):
        _same([a[:, :6]], [b[:, :6]])
        assert (a[:, 6:] - b[:, 6:]).norm() > 1e-3 * a.norm()


@every
def test_a_state_survives_a_file(name: str) -> None:
    module, inputs = _module(name), _inputs(name, 8)
    _, state = module(**{key: x[:, :5] for key, x in inputs.items()})
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    rest = {key: x[:, 5:] for key, x in inputs.items()}
    _same(*(_outputs(module(**rest, state=s)[0]) for s in (torch.load(file), state)), 0)


@every
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_and_autocast_stay_finite_and_near(name: str, autocast: bool) -> None:
    exact, inputs = _module(name), _inputs(name, 64)
    dtype = torch.float32 if autocast else torch.bfloat16
    module = copy.deepcopy(exact).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, state = module(**{key: x.to(dtype) for key, x in inputs.items()})
    for a, b in zip(_outputs(y), _outputs(exact(**inputs)[0]), strict=True):
        assert a.isfinite().all() and (a.double() - b).norm() < 0.05 * b.norm()
    memories = load(name).system.states
    kept = [key for key, s in memories.items() if not s.passing]
    assert all(state[key].dtype == torch.float32 for key in kept)


# gradients


@every
def test_every_parameter_gets_a_gradient(name: str) -> None:
    module, inputs = _module(name), _inputs(name, 12)
    loss = sum(y.square().sum() for y in _outputs(module(**inputs)[0]))
    loss.backward()
    found = {key: p.grad for key, p in module.named_parameters()}
    assert all(g is not None and g.isfinite().all() and g.any() for g in found.values()), found
    assert sum(len(group["params"]) for group in module.param_groups()) == len(found)


LEARNED_START = """
nlc: 1
system: learned_start
context: tokens
hyper:
  d: 4
  n: d / heads
heads: 2
inputs:
  x: [d]
let:
  q: split(linear(x))
  beta: sigmoid(split(linear(x)))
levels:
  S:
    frequency: every token
    memory: matrix(n, n)
    key: split(linear(x))
    value: split(linear(x))
    objective: 0.5 * sqnorm(S(key) - value)
    rule: gd(lr=beta)
    init: learned
output:
  y: merge(S(q))
"""


def test_the_outer_gradient_passes_the_inner_updates_to_the_learned_start() -> None:
    """Reverse mode through every write equals finite differences, for the start and for all weights."""
    torch.manual_seed(0)
    module = nlc.loads(LEARNED_START).compile()().double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    names = [key for key, _ in module.named_parameters()]
    assert "S.init" in names
    values = [torch.randn_like(p).requires_grad_() for p in module.parameters()]

    def run(*values: Tensor) -> Tensor:
        weights = dict(zip(names, values, strict=True))
        return torch.func.functional_call(module, weights, (x,))[0]

    assert torch.autograd.gradcheck(run, values)
    (gradient,) = torch.autograd.grad(run(*values)[:, -1].sum(), values[names.index("S.init")])
    assert gradient.norm() > 1e-3


# checkpoints and processes


@every
def test_weights_round_trip_through_a_state_dict(name: str) -> None:
    module, inputs = _module(name), _inputs(name, 5)
    other = _module(name)
    other.reset_parameters()
    assert any((a != b).any() for a, b in zip(module.parameters(), other.parameters(), strict=True))
    other.load_state_dict(module.state_dict())
    _same(*(_outputs(m(**inputs)[0]) for m in (module, other)), 0)


def test_modules_unpickle_in_a_fresh_process_that_imports_nlc(tmp_path: Path) -> None:
    for name in TOKENS:
        module, inputs = _module(name), _inputs(name, 5)
        made = pickle.loads(pickle.dumps(type(module)))
        assert made is type(module)
        kept = (module, inputs, _outputs(module(**inputs)[0]))
        (tmp_path / name).write_bytes(pickle.dumps(kept))
    code = """
import pickle, sys, nlc, torch
for name in sys.argv[1:]:
    module, inputs, expected = pickle.load(open(name, "rb"))
    y = module(**inputs)[0]
    found = [y] if isinstance(y, torch.Tensor) else list(y.values() if isinstance(y, dict) else y)
    print(name, all(map(torch.equal, found, expected)))
"""
    assert _python(code, *TOKENS, cwd=tmp_path).splitlines() == [f"{n} True" for n in TOKENS]


SOME = TOKENS[::4]  # gradients take most of the time: some here, all in `make test-long`
COMPILED = [(name, name in SOME) for name in TOKENS]
LONG = [pytest.param(name, True, marks=pytest.mark.long) for name in TOKENS if name not in SOME]


@pytest.mark.parametrize(("name", "gradients"), [*COMPILED, *LONG])
def test_a_stream_s_first_call_compiles_without_graph_breaks(name: str, gradients: bool) -> None:
    """A later one looks at how many tokens came before, which a tensor holds, where periods are counted.

    ``aot_eager`` takes the gradient of ``F.softplus`` to lie in memory as a new tensor would, and fails where it does
    not; with the decompositions that inductor has, too, there is no such operation.
    """
    softplus = "F.softplus(" in load(name).source_text()
    backend = "aot_eager_decomp_partition" if softplus else "aot_eager"
    module, inputs = _module(name), _inputs(name, 3)
    found = []
    for run in (torch.compile(module, backend=backend, fullgraph=True), module):
        module.zero_grad()
        with torch.set_grad_enabled(gradients):
            y, state = run(**inputs)
        if gradients:
            sum(x.square().sum() for x in _outputs(y)).backward()
        # of what takes no part eager leaves no gradient, and a compiled graph zeros
        named = module.named_parameters()
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named}
        found.append((_outputs(y), state, grads))
    for got, expected in zip(*found, strict=True):
        _same(got, expected)


@pytest.mark.parametrize("name", ("gated_delta_net", "titans"))
def test_recomputed_pieces_compile_without_graph_breaks(name: str) -> None:
    module, inputs = _module(name), _inputs(name, 5)
    module.checkpoint, found = 2, []
    for run in (torch.compile(module, backend="aot_eager", fullgraph=True), module):
        module.zero_grad()
        y, state = run(**inputs)
        sum(x.square().sum() for x in _outputs(y)).backward()
        grads = {n: p.grad.clone() for n, p in module.named_parameters()}
        found.append((_outputs(y), state, grads))
    for got, expected in zip(*found, strict=True):
        _same(got, expected)


def test_what_holds_weights_tells_their_shapes() -> None:
    """Of a convolution channels and taps, as torch's own layers do; declared by `place` and by attributes."""
    placed = repr(load("gated_delta_net").compile()(d=16, heads=2))
    assert "(conv): Part(weight [2, 8, 4])" in placed and "(rmsnorm): Part(weight [2, 8])" in placed
    assert "(conv): Part(weight [64, 4], bias [64])" in repr(load("mamba").compile()(d=32))


TAKEN = """\
nlc: 1
system: taken
context: tokens
hyper: {d: 4}
inputs: {k: [d], update: [], state: [], lambda: [], lambda_: []}
levels:
  M:
    frequency: every token
    memory: matrix(d, d)
    key: k
    value: k
    objective: 0.5*sqnorm(M(key) - value)
    rule: gd(lr=sigmoid(update + state + lambda * lambda_))
output: M(k)
"""


@pytest.mark.parametrize("backend", ("reference", "torch", "triton"))
def test_inputs_are_arguments_under_their_own_names(backend: str) -> None:
    """Whatever a backend uses itself; what Python or the call has taken gets an underscore."""
    made = nlc.loads(TAKEN).compile(backend)
    expected = ["self", "k", "update", "state_", "lambda__", "lambda_"]
    assert list(inspect.signature(made.forward).parameters)[:6] == expected
    assert list(inspect.signature(made.step).parameters)[:6] == expected


def test_many_hypers_are_written_soon() -> None:
    """A file of a few hundred, each with a place in the constructor, within the second that a text may take."""
    hypers = "".join(f"  h{i}: {i}\n" for i in range(600))
    text = load("delta_net").source.text.replace("hyper:\n", f"hyper:\n{hypers}")
    started = time.process_time()
    assert "self.h599" in nlc.loads(text).source_text()
    assert time.process_time() - started < 3  # line by line it took ten times as long


# the generated files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated file of every shipped spec, and kernels of heads that share keys, whose names are longest."""
    folder = tmp_path_factory.mktemp("generated")
    for name in NAMES:
        (folder / f"made_{name}.py").write_text(load(name).source_text())
        if name in TOKENS:
            text = load(name, operator=True).source_text()
            (folder / f"made_{name}_operator.py").write_text(text)
            kernels = folder / "kernels"  # which need Triton, too
            kernels.mkdir(exist_ok=True)
            (kernels / f"made_{name}.py").write_text(load(name).source_text("triton"))
    for i, text in enumerate((GROUPED, ADDED, AFTER, ERASED, MOMENTUM)):
        (folder / "kernels" / f"made_{i}.py").write_text(nlc.loads(text).source_text("triton"))
    return folder


@pytest.mark.parametrize(
    ("seed", "names"),
    (("1", NAMES[::3]), pytest.param("2", NAMES, marks=pytest.mark.long)),
    ids=("some", "all"),
)
def test_the_text_does_not_depend_on_the_process(files: Path, seed: str, names: list[str]) -> None:
    """Nor on how Python hashes: this process has a seed of its own."""
    code = """
import json, sys, nlc
texts = {}
for name in sys.argv[1:]:
    spec = nlc.load(name)
    texts[f"made_{name}"] = spec.source_text()
    if spec.system.context == "tokens":
        texts[f"made_{name}_operator"] = nlc.load(name, operator=True).source_text()
print(json.dumps(texts))
assert "torch" not in sys.modules
"""
    stems = [stem for name in names for stem in (f"made_{name}", f"made_{name}_operator")]
    paths = [path for stem in stems if (path := files / f"{stem}.py").exists()]
    expected = {path.stem: path.read_text() for path in paths}
    assert json.loads(_python(code, *names, cwd=files, seed=seed)) == expected


def test_the_files_are_formatted_and_clean(files: Path) -> None:
    for command in (["format", "--check"], ["check", "--select", "E,F,I,B"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100", "."]
        done = subprocess.run(ruff, cwd=files, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_files_need_torch_alone(files: Path) -> None:
    assert all("import nlc" not in path.read_text() for path in files.glob("*.py"))
    code = """
import importlib, pathlib, sys
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
for path in sorted(folder.glob("made_*.py")):
    module = importlib.import_module(path.stem)
    print(path.stem, [getattr(module, name).__name__ for name in module.__all__] == module.__all__)
print([m for m in sys.modules if m.split(".")[0] == "nlc"])
"""
    lines = _python(code, str(files), cwd=files, isolated=True).splitlines()
    assert lines == [*(f"{p.stem} True" for p in sorted(files.glob("*.py"))), "[]"]


# independent transcriptions


def _rotary(x: Tensor) -> Tensor:
    """x [B, T, H, n]: the pair (i, i + n/2) of token t as a complex number, turned by t · 10000^(-2i/n)."""
    length, n = x.shape[1], x.shape[3]
    angle = torch.outer(
        torch.arange(length), 10000.0 ** (-torch.arange(0, n, 2, dtype=x.dtype) / n)
    )
    turned = torch.complex(x[..., : n // 2], x[..., n // 2 :])
    turned = turned * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([turned.real, turned.imag], -1)


def test_attention_is_torch_s() -> None:
    module, x = _module("attention"), _inputs("attention", 17)["x"]
    weights = dict(module.named_parameters())

    def heads(key: str) -> Tensor:
        return (x @ weights[f"{key}.linear.weight"].T).unflatten(-1, (2, 8))

    q, k, v = _rotary(heads("q")), _rotary(heads("A.key")), heads("A.value")
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    _same(module(x)[0], mixed @ weights["y.linear.weight"].T)


def test_the_gated_delta_net_layer_is_what_its_paper_says() -> None:
    """Projections, short convolutions, gates, recurrence, normed and gated output, in torch's own functions."""
    module, x = _module("gated_delta_net"), _inputs("gated_delta_net", 19)["x"]
    batch, length, d, heads = *x.shape, 2
    n = d // heads
    weights = dict(module.named_parameters())
    with torch.no_grad():
        weights["y.rmsnorm.weight"].uniform_(0.5, 1.5)  # ones would hide it

    def linear(key: str) -> Tensor:
        return F.linear(x, weights[f"{key}.linear.weight"])

    def mixed(key: str) -> Tensor:
        kernel = weights[f"{key}.conv.weight"].reshape(d, 1, 4)
        past = F.pad(linear(key).transpose(1, 2), (3, 0))
        return F.silu(F.conv1d(past, kernel, groups=d)).transpose(1, 2).unflatten(-1, (heads, n))

    def unit(z: Tensor) -> Tensor:
        return z / (z.square().sum(-1, keepdim=True) + 1e-6).sqrt()

    q, k, v = unit(mixed("q")), unit(mixed("S.key")), mixed("S.value")
    beta, alpha = linear("beta").sigmoid(), (linear("alpha") + 4).sigmoid()
    S, reads = torch.zeros(batch, heads, n, n, dtype=x.dtype), []
    for t in range(length):
        S = S * alpha[:, t, :, None, None]
        error = v[:, t] - torch.einsum("bhij,bhj->bhi", S, k[:, t])
        S = S + torch.einsum("bh,bhi,bhj->bhij", beta[:, t], error, k[:, t])
        reads.append(torch.einsum("bhij,bhj->bhi", S, q[:, t]))
    normed = F.rms_norm(torch.stack(reads, 2), (n,), eps=1e-6)
    normed = normed.transpose(1, 2) * weights["y.rmsnorm.weight"]
    gated = normed * F.silu(linear("y")).unflatten(-1, (heads, n))
    y, state = module(x)
    _same(y, F.linear(gated.flatten(2), weights["y.linear_2.weight"]))
    _same(state["S"], S)


def test_hypers_that_are_made_of_others() -> None:
    """Powers of signs and of powers, absolute values, quotients and lists mean in a file what they mean in a spec."""
    made = {
        "a": ("abs(0 - d) * 1", 3),
        "b": ("(-d)**2", 9),
        "c": ("-d**2", -9),
        "p": ("(2**3)**2", 64),
        "f": ("2**3**2", 512),
        "j": ("-(-d)", 3),
        "h": ("2**(-1)", 0.5),
        "o": ("-(d + 1) * 2", -8),
        "l": ("sqrt(d * d)", 3.0),
        "sizes": ("[d, 2 * d]", (3, 6)),
    }
    hypers = "".join(f"  {name}: {text}\n" for name, (text, _) in made.items())
    total = " + ".join(name for name in made if name != "sizes")
    spec = nlc.loads(
        f"""nlc: 1
system: made
context: tokens
hyper:
  d: 3
{hypers}inputs:
  x: [d]
levels:
  M[i]:
    for: {{i: [1, 2], n: sizes}}
    frequency: every token
    memory: matrix(n, d)
    objective: -dot(M[i](x), linear(x, n))
    rule: gd(lr={total})
output: linear(M[1](x), d) + linear(M[2](x), d)
"""
    )
    for backend in ("reference", "torch"):
        module = spec.compile(backend=backend)()
        assert {name: getattr(module, name) for name in made} == {
            name: value for name, (_, value) in made.items()
        }
        assert module(torch.ones(1, 2, 3))[0].shape == (1, 2, 3)


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter runs kernels here")
@pytest.mark.parametrize(
    "name", ["gated_delta_net", "gla", "titans", "hope"]
)  # every kind of gates
def test_kernels_say_that_they_need_a_gpu(name: str) -> None:
    module = nlc.load(name).compile("triton")(d=32)
    for tokens in (1, 8):
        with pytest.raises(TypeError, match="the kernels need a GPU, not cpu"):
            module(torch.randn(1, tokens, 32))
