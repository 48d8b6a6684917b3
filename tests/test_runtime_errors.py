"""What goes wrong in generated code names the flow, the level or the hyper, and the spec's line that has it."""

from __future__ import annotations

import copy
import functools
import pickle
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from shipped_specs import load
from torch import Tensor, nn

import nlc
from nlc.pipeline import BACKENDS, EXACT, shipped
from nlc.runtime.places import Place, Places
from nlc.runtime.verify.draws import draw, named
from nlc.tools.sizes import settled, small

CONTEXTS = {name: load(name).system.context for name in shipped()}
TOKENS = [name for name, context in CONTEXTS.items() if context == "tokens"]
RULES = [name for name, context in CONTEXTS.items() if context == "gradients"]
WIDTH, TOKENS_OF_A_CALL = 8, 6

backends = pytest.mark.parametrize("backend", EXACT)
token_systems = pytest.mark.parametrize(  # one backend of each, the other with -m long
    ("made", "backend"),
    [
        pytest.param(name, backend, marks=[pytest.mark.long] * ((i + k) % 2))
        for i, name in enumerate(TOKENS)
        for k, backend in enumerate(EXACT)
    ],
    indirect=["made"],
)


class Made:
    """A small module of a spec, its inputs, and what a message must say."""

    def __init__(self, name: str, backend: str, operator: bool = False):
        self.spec = load(name, operator=operator)
        self.backend, self.system = backend, self.spec.system
        self.sizes = small(self.system, {}, WIDTH)
        self.type = self.spec.compile(backend)
        self.text = Path(self.type.__source_file__).read_text(encoding="utf-8")

    def net(self) -> nn.Module:
        torch.manual_seed(0)
        return self.type(**self.sizes)

    def inputs(self, tokens: int = TOKENS_OF_A_CALL) -> dict[str, Tensor]:
        drawn = draw(self.system, settled(self.system, self.sizes), 2, tokens)
        return {n: x.float() for n, x in named(drawn).items()}

    def declares(self, text: str, name: str) -> None:
        """The text names the spec's line that starts with a name, or with the family that it is of."""
        root = name.partition(".")[0]
        lines = self.spec.source.text.split("\n")
        places = re.findall(r"(\w+\.yaml):(\d+)", text)
        assert places, text
        file, line = places[0]
        assert file == Path(self.spec.source.name).name, text
        assert _starts(lines[int(line) - 1], root), (text, lines[int(line) - 1])


def _starts(line: str, root: str) -> bool:
    words = root.split("_")
    families = ["_".join(words[:i]) + "[" for i in range(1, len(words))]
    return line.strip().startswith((f"{root}:", *families))


@functools.cache
def _made(name: str, backend: str, operator: bool = False) -> Made:
    return Made(name, backend, operator)


@pytest.fixture
def made(request: pytest.FixtureRequest, backend: str) -> Made:
    return _made(request.param, backend)


def _said(error: BaseException) -> str:
    """The message with its notes, as a traceback ends."""
    return "".join(traceback.format_exception_only(error))


# ------------------------------------------------------------------------------------------------ inputs


@token_systems
def test_an_input_that_does_not_fit_is_named_with_its_line(made: Made) -> None:
    net, given = made.net(), made.inputs()
    first = next(iter(given))
    for name, x in given.items():
        wrong = {
            "rank": (ValueError, x[0]),
            "more rank": (ValueError, x.unsqueeze(1)),
            "integers": (TypeError, x.long()),
            "complex": (TypeError, x.to(torch.complex64)),
            "no tensor": (TypeError, x.tolist()),
            "device": (ValueError, x.to("meta")),
        }
        if x.ndim > 2:
            wrong["width"] = (ValueError, torch.cat([x, x[..., :1]], -1))
        wrong["tokens"] = (ValueError, x[:, :0] if name == first else x[:, 1:])
        for kind, (error, value) in wrong.items():
            with pytest.raises(error, match=rf"^{name} ") as caught:
                net(**{**given, name: value})
            made.declares(str(caught.value), name)
            if error is ValueError and kind != "device":
                assert f"not {list(value.shape)}" in str(caught.value), kind


@token_systems
def test_a_missing_and_an_unknown_flow_are_named(made: Made) -> None:
    net, given = made.net(), made.inputs()
    for name in given:
        with pytest.raises(TypeError, match=name) as caught:
            net(**{n: x for n, x in given.items() if n != name})
        assert f"the flow {name} [B, T" in _said(caught.value)
        made.declares(_said(caught.value), name)
    with pytest.raises(TypeError, match="nothing_like_it") as caught:
        net(**given, nothing_like_it=1)
    assert "there is no `nothing_like_it`" in _said(caught.value)


@token_systems
def test_a_step_says_what_a_token_is(made: Made) -> None:
    net, given = made.net(), made.inputs()
    for name in given:
        one = {n: x[:, 0] for n, x in given.items()} | {name: given[name]}
        with pytest.raises(ValueError, match=rf"^{name} \[B.* must be \[") as caught:
            net.step(**one)
        assert "[B, T" not in str(caught.value) and "T > 0" not in str(caught.value)
        made.declares(str(caught.value), name)


@pytest.mark.parametrize("name", TOKENS)
def test_inputs_of_an_operator_are_named_where_their_flows_stand(name: str) -> None:
    spec = load(name, operator=True)
    made = _made(name, "torch", True)
    given = made.inputs()
    net = made.net()
    for n, x in given.items():
        with pytest.raises(ValueError, match=rf"^{n} \[B.* must be") as caught:
            net(**{**given, n: x[0]})
        place = re.search(r":(\d+)\)$", str(caught.value))
        assert place and int(place[1]) > spec.system.span.line, str(caught.value)


# ------------------------------------------------------------------------------------------------ states


@token_systems
def test_a_state_that_does_not_fit_is_named_with_its_level(made: Made) -> None:
    net, given = made.net(), made.inputs()
    _, state = net(**given)
    if not state:
        pytest.skip("it has no state")
    key = next(k for k, x in state.items() if x.is_floating_point() and x.ndim)
    value = state[key]
    root = key.partition(".")[0]
    wrong: dict[str, tuple[type[Exception], object]] = {
        "batch": (ValueError, value[:1]),
        "rank": (ValueError, value[0]),
        "integers": (ValueError, value.long()),
        "device": (ValueError, value.to("meta")),
    }
    if key in made.system.states:
        wrong["dtype"] = (ValueError, value.double())
    for _, (error, x) in wrong.items():
        if "integers" in wrong and x is wrong["integers"][1] and key not in made.system.states:
            continue
        with pytest.raises(error, match=re.escape(f"state['{key}'] must be")) as caught:
            net(**given, state={**state, key: x})
        made.declares(str(caught.value), root)
    with pytest.raises(ValueError, match=f"state lacks the tensor '{re.escape(key)}'") as caught:
        net(**given, state={k: x for k, x in state.items() if k != key})
    made.declares(str(caught.value), root)
    with pytest.raises(ValueError, match="state has 'another', it is not of this system"):
        net(**given, state={**state, "another": value})
    with pytest.raises(TypeError, match="a dict, not tuple"):
        net(**given, state=(state,))


@token_systems
def test_wrong_bounds_of_packed_sequences(made: Made) -> None:
    net, given = made.net(), {n: x[:1] for n, x in made.inputs().items()}
    for bounds in ([0, 2], [1, TOKENS_OF_A_CALL], [0, 4, 2, TOKENS_OF_A_CALL], 3):
        with pytest.raises(ValueError, match=r"^cu_seqlens must rise from 0 to T") as caught:
            net(**given, cu_seqlens=torch.tensor(bounds))
        made.declares(str(caught.value), next(iter(given)))


# ------------------------------------------------------------------------------------------------ hypers


@token_systems
def test_a_hyper_that_cannot_be_is_named_with_its_line(made: Made) -> None:
    for name, hyper in made.system.hypers.items():
        if isinstance(hyper.value, list):
            wrong = [hyper.value[:-1], [0, *hyper.value[1:]]]
        elif isinstance(hyper.value, int) and hyper.static:
            wrong = [0, -1, 1.5, "2"]
        elif isinstance(hyper.value, bool):
            continue
        else:
            wrong = ["much", [1]]
        for value in wrong:
            with pytest.raises((ValueError, TypeError), match=rf"^{name} = ") as caught:
                made.type(**{**made.sizes, name: value})
            made.declares(str(caught.value), name)


def test_sizes_that_do_not_divide_name_a_line() -> None:
    made = _made("gated_delta_net", "torch")
    with pytest.raises(ValueError, match="d = 9 is not divisible by heads = 2") as caught:
        made.type(d=9, heads=2)
    made.declares(str(caught.value), "d")


def test_an_unknown_hyper_gets_a_note_with_those_that_there_are() -> None:
    with pytest.raises(TypeError, match="heds") as caught:
        _made("hope", "torch").type(heds=2)
    assert "did you mean `heads`?" in _said(caught.value)
    with pytest.raises(TypeError) as caught:
        _made("hope", "torch").type(256)
    assert "by keyword d, n, expand" in _said(caught.value)


# ------------------------------------------------------------------------------------------------ values


@token_systems
def test_what_is_not_finite_is_found_with_its_token(made: Made) -> None:
    net, given = made.net(), made.inputs()
    first = next(iter(given))
    bad = {n: x.clone() for n, x in given.items()}
    bad[first][1, 4] = torch.nan
    net(**bad)  # the test is off by default
    net.error_if_nonfinite = True
    net(**given)
    for pieces in ({}, {"checkpoint": 2}, {"truncate": 4, "checkpoint": 3}):
        if pieces and any(level.through for level in made.system.levels.values()):
            continue
        for key, value in pieces.items():
            setattr(net, key, value)
        match = rf"^{first} is not finite, from token 4 of sequence 1 on"
        with pytest.raises(FloatingPointError, match=match) as caught:
            net(**bad)
        made.declares(str(caught.value), first)


@token_systems
def test_a_memory_that_is_not_finite_is_named(made: Made) -> None:
    net, given = made.net(), made.inputs()
    _, state = net(**given)
    keys = [k for k, x in state.items() if k in made.system.states and x.is_floating_point()]
    if not keys or any(level.through for level in made.system.levels.values()):
        pytest.skip("it has no memory that can be set")
    net.error_if_nonfinite = True
    for key in keys:
        broken = {k: x.clone() for k, x in state.items()}
        broken[key][1] = torch.nan
        with pytest.raises(
            FloatingPointError, match="is not finite, from token 0 of seq"
        ) as caught:
            net(**given, state=broken)
        name = str(caught.value).split(" ")[0]
        made.declares(str(caught.value), name)


def test_a_weight_that_is_not_finite_and_the_first_variable_are_named() -> None:
    for backend in EXACT:
        made = _made("gated_delta_net", backend)
        net = made.net()
        net.error_if_nonfinite = True
        with torch.no_grad():
            net.S.value.linear.weight[0, 0] = torch.inf
        with pytest.raises(FloatingPointError) as caught:
            net(**made.inputs())
        said = _said(caught.value)
        assert "S is not finite, nor is the weight S.value.linear.weight, from token 0" in said
        assert "in the value of level S, gated_delta_net.yaml:24" in said
        assert "value: silu(conv(split(linear(x)), 4))" in said


def test_packed_sequences_are_counted_as_they_came() -> None:
    made = _made("gated_delta_net", "torch")
    net, x = made.net(), made.inputs()["x"][:1].clone()
    net.error_if_nonfinite = True
    x[0, 4] = torch.inf  # the second token of the third sequence
    with pytest.raises(FloatingPointError, match="from token 1 of sequence 2 on"):
        net(x, cu_seqlens=torch.tensor([0, 1, 3, 6]))


@backends
@pytest.mark.parametrize("name", RULES)
def test_a_step_that_is_not_finite_is_named(name: str, backend: str) -> None:
    spec = load(name)
    weight = nn.Parameter(torch.randn(3, 4))
    before = weight.detach().clone()
    optimizer = spec.compile(backend)([weight])
    weight.grad = torch.full_like(weight, torch.nan)
    optimizer.error_if_nonfinite = True
    with pytest.raises(FloatingPointError, match=r"^g, of shape \[3, 4\], is not finite") as caught:
        optimizer.step()
    torch.testing.assert_close(weight.detach(), before, rtol=0, atol=0)
    file, line = re.search(r"\((\w+\.yaml):(\d+)\)$", str(caught.value)).groups()
    assert shipped()[Path(file).stem].read_text().split("\n")[int(line) - 1].strip()
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    with torch.no_grad():
        weight[0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match="is not finite"):
        optimizer.step()


@backends
@pytest.mark.parametrize("name", RULES)
def test_mistakes_with_an_optimizer_are_named(name: str, backend: str) -> None:
    spec = load(name)
    made, weight = spec.compile(backend), nn.Parameter(torch.randn(3, 4))
    lines = spec.source.text.split("\n")
    for hyper, value in spec.system.hypers.items():
        if isinstance(value.value, (bool, list)):
            continue
        if isinstance(value.value, int) and value.static:
            for wrong in (0, 1.5):
                with pytest.raises(ValueError, match=rf"^{hyper} = {wrong} must be a whole number"):
                    made([{"params": [weight], hyper: wrong}])
            continue
        for wrong in ("much", None):
            with pytest.raises(TypeError, match=rf"^{hyper} = {wrong!r} must be a number"):
                made([{"params": [weight], hyper: wrong}])
        with pytest.raises(TypeError, match=rf"^{hyper} = 'much' must be a number") as caught:
            made([weight], **{hyper: "much"})
        line = int(re.search(r":(\d+)\)$", str(caught.value))[1])
        assert lines[line - 1].strip().startswith(f"{hyper}:") or "hyper:" in lines[line - 1]
    with pytest.raises(TypeError, match="nothing_like_it") as caught:
        made([weight], nothing_like_it=1)
    assert "there is no `nothing_like_it`" in _said(caught.value)
    weight.grad = torch.ones(3, 4).to_sparse()
    with pytest.raises(RuntimeError, match=r"sparse gradients \(\w+\.yaml:\d+\)$"):
        made([weight]).step()


# ------------------------------------------------------------------------------------------------ tracebacks


def _noted(made: Made, error: BaseException, head: str = "while computing") -> Place:
    """The place that a note names; the note quotes its line."""
    note = next(n for n in error.__notes__ if n.startswith(head))
    file, line = re.search(r"(\w+\.yaml):(\d+)", note).groups()
    text = shipped()[Path(file).stem].read_text().split("\n")[int(line) - 1].strip()
    if file == Path(made.spec.source.name).name:
        assert note.endswith(f"\n    {text}"), (note, text)
    return Place(file, int(line))


@token_systems
def test_an_error_inside_is_mapped_to_the_spec(made: Made) -> None:
    """A linear map of other inputs: torch itself complains, where the map is applied."""
    given, paths = made.inputs(), []
    for path, layer in made.net().named_modules():
        if isinstance(layer, nn.Linear):
            paths.append(path)
    for path in paths:
        net = made.net()
        layer = net.get_submodule(path)
        layer.weight = nn.Parameter(torch.randn(layer.out_features, layer.in_features + 1))
        with pytest.raises(RuntimeError) as caught:
            net(**given)
        place = _noted(made, caught.value)
        name = path.partition(".")[0].removesuffix("_")
        line = made.spec.source.line(place.line)
        own = next((s.span for s in made.system.levels.values() if s.name == name), None)
        block = made.spec.source.text.split("\n")[own.line - 1 : place.line] if own else [line]
        assert any(_starts(x, name) for x in block) or "output:" in "".join(
            made.spec.source.text.split("\n")[: place.line]
        ), (path, line)


@backends
def test_a_member_of_a_family_is_named(backend: str) -> None:
    made = _made("cms_sequential", backend)
    net = made.net()
    net.C_2.value.linear.weight = nn.Parameter(torch.randn(3, 3))
    with pytest.raises(RuntimeError) as caught:
        net(**made.inputs())
    assert "the value of level C_2, cms_sequential.yaml" in _said(caught.value)
    net = made.net()
    net.error_if_nonfinite = True
    with torch.no_grad():
        net.C_3.value.linear.weight.fill_(torch.inf)
    with pytest.raises(FloatingPointError) as caught:
        net(**made.inputs())
    assert "in the value of level C_3, cms_sequential.yaml" in _said(caught.value)


def test_an_error_of_a_hook_and_out_of_memory_are_mapped() -> None:
    made = _made("gated_delta_net", "torch")
    for error in (KeyError("of a user"), torch.OutOfMemoryError("no room")):
        net = made.net()

        def hook(*_: object, error: Exception = error) -> None:
            raise error

        net.q.linear.register_forward_hook(hook)
        with pytest.raises(type(error)) as caught:
            net(**made.inputs())
        assert "while computing flow q, gated_delta_net.yaml:18" in _said(caught.value)
        assert len(caught.value.__notes__) == 1


@pytest.mark.parametrize("name", TOKENS)
def test_an_error_in_the_backward_pass_is_mapped(name: str) -> None:
    """Scans refuse gradients of gradients, in their backward pass."""
    made = _made(name, "torch")
    if "gradients of gradients" not in made.text:
        pytest.skip("it has no backward pass of its own")
    net, given = made.net(), made.inputs()
    x = next(iter(given.values())).requires_grad_()
    y, _ = net(**given)
    y = y if isinstance(y, Tensor) else sum(v.sum() for v in y.values())
    with pytest.raises(RuntimeError, match="gradients of gradients") as caught:
        torch.autograd.grad(y.sum(), x, create_graph=True)
    note = next(n for n in caught.value.__notes__ if n.startswith("in the backward pass of"))
    for file, line in re.findall(r"(\w+\.yaml):(\d+)", note):
        assert file == f"{name}.yaml" and made.spec.source.line(int(line)).strip() in note


def test_checkpoints_compute_again_and_add_no_note() -> None:
    made = _made("gated_delta_net", "torch")
    net, given = made.net(), made.inputs()
    net.checkpoint = 2
    y, _ = net(**given)
    y.sum().backward()
    y, _ = net(**given)
    net.S.key.linear.weight.data = torch.randn(3, 3)
    with pytest.raises(RuntimeError) as caught:
        y.sum().backward()
    assert "the key of level S" in _said(caught.value)


def test_a_note_is_the_same_in_another_process(tmp_path: Path) -> None:
    made = _made("gated_delta_net", "torch")
    net = made.net()
    net.q.linear.weight = nn.Parameter(torch.randn(3, 3))
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(net))
    code = """
import pickle, torch, nlc
net = pickle.load(open("net.pickle", "rb"))
net(torch.randn(2, 3, net.d))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr.rstrip().endswith(
        f"while computing flow q, gated_delta_net.yaml:18\n    {made.spec.source.line(18).strip()}"
    )


def test_a_file_on_its_own_names_lines_too(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(_made("gated_delta_net", "torch").text)
    code = """
import sys, torch, alone
net = alone.GatedDeltaNet(d=8, heads=2)
assert "nlc" not in sys.modules
net(torch.randn(2, 3, 7))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    message = "ValueError: x [B, T, d] must be [B, T, 8] with T > 0, not [2, 3, 7]"
    assert done.stderr.rstrip().endswith(f"{message} (gated_delta_net.yaml:12)")


def test_subclasses_and_copies_work() -> None:
    made = _made("gated_delta_net", "torch")

    class Mine(made.type):
        def forward(self, x: Tensor, **rest: object) -> Tensor:
            return super().forward(x, **rest)[0]

    net = copy.deepcopy(Mine(**made.sizes))
    assert net(**made.inputs()).shape == made.inputs()["x"].shape
    net.q.linear.weight = nn.Parameter(torch.randn(3, 3))
    with pytest.raises(RuntimeError) as caught:
        net(**made.inputs())
    assert _said(caught.value).count("while computing flow q") == 1


def test_modules_export_and_compile_with_their_checks() -> None:
    made = _made("gated_delta_net", "torch")
    net, x = made.net(), made.inputs()["x"]
    y, _ = net(x)
    found, _ = torch.compile(net, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(found, y)
    program = torch.export.export(net, (x,), strict=False)
    torch.testing.assert_close(program.module()(x)[0], y)


# ------------------------------------------------------------------------------------------------ places


def _files() -> Iterator[tuple[str, str]]:
    for name, context in CONTEXTS.items():
        for backend in BACKENDS:
            if backend in EXACT or context == "tokens":
                yield name, backend


@pytest.mark.parametrize(
    ("name", "backend"),
    [pytest.param(*x, marks=[pytest.mark.long] * (i % 2)) for i, x in enumerate(_files())],
)
def test_every_line_that_a_spec_made_has_a_place(name: str, backend: str) -> None:
    spec = load(name)
    places: Places = spec.places(backend)
    assert places.spec[0] == f"{name}.yaml"
    texts = {n: path.read_text().split("\n") for n, path in shipped().items()}
    lines = places.text.split("\n")
    found: set[Place] = set()
    for number in range(1, len(lines) + 1):
        for place in places.of(number):
            text = texts[Path(place.file).stem][place.line - 1]
            assert text.strip() and not text.strip().startswith("#"), place
            found.add(place)
        direct = places.direct(number)
        assert direct is None or number in places.lines(direct)
    levels = [x for n, x in spec.system.levels.items() if "." not in n]
    for level in levels:  # what belongs to a level is somewhere in the file
        start = Place(Path(level.span.source.name).name, level.span.line)
        ends = [
            x.span.line
            for x in levels
            if x.span.source is level.span.source and x.span.line > start.line
        ]
        end = min(ends, default=10_000)
        own = [p for p in found if p.file == start.file and start.line <= p.line < end]
        assert own, level.name
    for method in ("piece", "update"):
        at = [i for i, x in enumerate(lines, 1) if x.startswith(f"    def {method}(")]
        assert not at or any(places.direct(i) for i in range(at[0], len(lines)))


@pytest.mark.parametrize("name", TOKENS)
def test_the_algebra_of_scans_stands_for_what_calls_it(name: str) -> None:
    places = load(name).places("torch")
    lines = places.text.split("\n")
    inside = [i for i, x in enumerate(lines, 1) if "ctx.saved_tensors" in x]
    for number in inside:
        assert places.direct(number) is None and places.of(number), lines[number - 1]


# ------------------------------------------------------------------------------------------------ Python


def test_mistakes_in_calls_of_nlc_itself() -> None:
    for call, error, said in (
        (lambda: nlc.compile("hop"), nlc.SpecError, "did you mean `hope`?"),
        (lambda: nlc.load("specs/hope.yaml"), nlc.SpecError, "did you mean `hope`?"),
        (lambda: nlc.compile(3), TypeError, "a spec is a name, a path or what nlc.load gave"),
        (lambda: nlc.load("nlc: 1\n"), nlc.SpecError, "`nlc.loads` takes the text of a spec"),
        (lambda: nlc.compile("hope", "tritn"), ValueError, "did you mean 'triton'?"),
        (lambda: nlc.compile("hope", None), TypeError, "a backend is a name"),
        (lambda: nlc.compile("delta_net", plan={"S": "chunkd"}), ValueError, "`chunked`?"),
        (lambda: nlc.compile("delta_net", plan="S=chunked"), TypeError, "a dict by level"),
        (lambda: nlc.compile("delta_net", plan={"R": "chunked"}), ValueError, "levels: S"),
    ):
        with pytest.raises(error) as caught:
            call()
        assert said in str(caught.value)
