"""Generated files: names never clash, nothing of a spec escapes into code, the same input gives the same bytes."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
import torch
from shipped_specs import TOKENS, load

import nlc
from nlc.backends.reference import loops, weights
from nlc.backends.reference.file import MODULE_ATTRIBUTES, MODULE_INTERNALS, TAKEN
from nlc.backends.torch.helpers import TEXTS as ALGEBRA
from nlc.backends.torch_helpers import HELPERS
from nlc.backends.triton import packing, windows
from nlc.backends.triton.shared import SHARED
from nlc.backends.triton.texts import texts
from nlc.pipeline import BACKENDS

NASTY = """
nlc: 1
system: lambda_torch
context: tokens
doc: 'quotes \"\"\" and \\ and a newline
  {braces} %s'
ref: '\"\"\"; import os'
hyper: {d: 8, train: d / heads, scale: 0.5}
heads: 2
inputs: {x: [d], state: [train]}
weights:
  half: {shape: [], per: head, init: "log(uniform(1, 16))"}
let:
  self: linear(state)
  forward: sigmoid(linear(state) + half)
  torch: l2norm(conv(self, 3))
levels:
  F:
    frequency: every token
    memory: matrix(train, train)
    key: torch
    value: linear(state) * scale
    objective: 0.5 * sqnorm(F(key) - value)
    rule: gd(lr=forward)
    init: learned
output:
  y: F(torch)
"""


def test_module_attributes_cover_the_installed_torch() -> None:
    from torch import nn

    assert {name for name in dir(nn.Module) if not name.startswith("_")} <= MODULE_ATTRIBUTES
    private = {name for name in dir(nn.Module()) if re.match("_[^_]", name)}
    assert private <= MODULE_INTERNALS


@pytest.mark.parametrize("backend", BACKENDS)
def test_classes_keep_clear_of_what_generated_files_define_and_import(backend: str) -> None:
    reserved = importlib.import_module(f"nlc.backends.{backend}").RESERVED
    assert {name for name in reserved if name[:1].isupper()} <= TAKEN


@pytest.mark.parametrize("name", ["delta", "tensor", "f", "gated_delta", "delta_end", "tile"])
def test_a_system_may_be_called_like_a_class_of_its_file(name: str) -> None:
    text = nlc.load("delta_net").source.text.replace("system: delta_net", f"system: {name}")
    made, other = nlc.compile(nlc.loads(text)), nlc.compile("delta_net")
    assert made.__name__.endswith("_") and made.__name__ != other.__name__
    x, outputs = torch.randn(1, 70, 16), []
    for kind in (made, other):
        torch.manual_seed(0)
        outputs.append(kind(d=16, heads=2)(x)[0])
    assert torch.equal(*outputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reserved_names_cover_what_generated_files_define_and_import(backend: str) -> None:
    """A flow called ``matvec`` or ``torch`` must get another name. Nothing of a template's choices is left."""
    known = importlib.import_module(f"nlc.backends.{backend}")
    reserved = known.RESERVED
    for spec in ("gated_delta_net", "attention", "titans", "gla", "adamw"):
        if load(spec).system.context not in known.CONTEXTS:
            continue
        text = load(spec).source_text(backend)
        assert not re.search(r"<!?[a-z]+:|  #\?", text)
        tree = ast.parse(text)
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        methods = {node for made in classes for node in made.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom | ast.Import):
                assert {(a.asname or a.name).split(".")[0] for a in node.names} <= reserved | {
                    "annotations"
                }
            elif isinstance(node, ast.FunctionDef) and node not in methods:
                free = node.name.startswith("_") or re.search(r"_raw(_|$)", node.name)
                assert free or node.name in reserved, node.name
    assert set(HELPERS) <= reserved


def idle(text: str) -> list[str]:
    """What functions of a file take and never use; of kernels what they make, too.

    What stands for an operator without its values takes what that takes, up to the last that it needs; what autograd
    calls takes all that it is given.
    """
    found = []
    for f in (n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)):
        marks = " ".join(ast.unparse(x) for x in f.decorator_list)
        names = [n for n in ast.walk(f) if isinstance(n, ast.Name)]
        loaded = {n.id for n in names if isinstance(n.ctx, ast.Load)}
        taken = [a.arg for a in (*f.args.args, *f.args.kwonlyargs)]
        if "register_fake" in marks:
            used = [i for i, n in enumerate(taken) if n in loaded]
            taken = taken[used[-1] + 1 :] if used else taken
        if "triton.jit" in marks:
            taken += [n.id for n in names if isinstance(n.ctx, ast.Store)]
        taken = [] if f.name.endswith("_setup") else taken
        found += [f"{f.name}: {n}" for n in dict.fromkeys(taken) if {n} - loaded and n.strip("_")]
    return found


def unreached(text: str) -> list[str]:
    """What a file defines that nothing in it refers to; of operators without their values torch is told."""
    defined, named = [], set()
    for x in ast.parse(text).body:
        own = getattr(x, "name", "")
        if isinstance(x, ast.Assign | ast.AnnAssign):
            own = ast.unparse(x.targets[0] if isinstance(x, ast.Assign) else x.target)
        told = "register_fake" in " ".join(map(ast.unparse, getattr(x, "decorator_list", [])))
        defined += [own] if own and not told else []
        inner = {n.id for n in ast.walk(x) if isinstance(n, ast.Name)}
        inner |= {w for n in ast.walk(x) if isinstance(n, ast.arg) for w in [noted(n)]}
        named |= inner - {own}
    return [n for n in defined if n not in named and n != "__all__"]


def made_class(text: str) -> str:
    """The class that a file is for."""
    return re.search(r'__all__ = \["(\w+)"\]', text)[1]  # type: ignore[index]


def noted(a: ast.arg) -> str:
    """What is annotated, which the file does not evaluate."""
    return ast.unparse(a.annotation).partition(" ")[0] if a.annotation else ""


# Whether kernels read where packed sequences are cut, and whether anything reads states on the way.
FILES = ((True, True), (False, True), (False, False))


@pytest.mark.parametrize(("cut", "seen"), FILES)
def test_functions_of_kernels_take_nothing_that_they_do_not_use(cut: bool, seen: bool) -> None:
    """In every form that there is; what makes gates is written for a spec."""
    own = {n: idle(x) for n, x in texts(cut, seen).items() if "@triton.jit" in x}
    assert len(own) > (100 if seen else 40) and {n: x for n, x in own.items() if x} == {}


@pytest.mark.parametrize("operator", (False, True))
@pytest.mark.parametrize("name", TOKENS)
def test_files_of_kernels_have_nothing_that_they_do_not_use(name: str, operator: bool) -> None:
    spec = load(name, operator=operator)
    if operator and spec.check().has_errors:
        pytest.skip("it has no operator")
    text = spec.source_text("triton")
    assert idle(text) == [] and unreached(text) == [made_class(text)]


# What is there for packed sequences that run at once: kernels read where they are cut.
CUTS = {"packing", "within", *packing.TEXTS, *windows.TEXTS}


def words(text: str) -> set[str]:
    """The functions of a text, what they take, and the names in them; nothing of its prose."""
    tree = ast.parse(text)
    found = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    found |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    return found | {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}


@pytest.mark.parametrize(
    ("name", "cut"),
    (
        *((n, False) for n in ("hope", "hope_query", "titans", "ttt_linear", "ttt_mlp")),
        *((n, False) for n in ("forgetting_transformer", "mesa_net", "mlstm", "srwm")),
        *((n, True) for n in ("gated_delta_net", "gla", "mamba2", "retnet")),
    ),
)
def test_what_packed_sequences_need_is_where_they_run_at_once(name: str, cut: bool) -> None:
    """Neither a kernel nor a helper nor a branch knows of them where each runs by itself."""
    mine = words(load(name).source_text("triton")) & CUTS
    assert mine >= {"packing", "within", "Packing", "piece", "tokens_of"} if cut else mine == set()


@pytest.mark.parametrize("name", ("linear_attention", "titans", "hope"))
def test_slopes_by_states_on_the_way_are_where_something_reads_them(name: str) -> None:
    mine = words(load(name).source_text("triton")) & {"d_rows", "d_starts"}
    assert bool(mine) == (name != "hope")


def test_what_all_kernels_share_has_no_name_of_the_other_backend() -> None:
    """A file can have both: one of the two would be called in the place of the other."""
    assert len(SHARED) > 20 and [n for n in SHARED if ALGEBRA.get(n, SHARED[n]) != SHARED[n]] == []


@pytest.mark.parametrize(("cut", "seen"), FILES)
def test_no_text_has_what_another_file_needs(cut: bool, seen: bool) -> None:
    """Of all forms, beside the algebra of the backend `torch`, and what is left open for a program."""
    unlike = (set() if cut else CUTS) | (set() if seen else {"d_rows", "d_starts"})
    own = {n: x for n, x in texts(cut, seen).items() if x != ALGEBRA.get(n) and "  #? " not in x}
    mine = {n: words(x) for n, x in own.items()}
    assert len(mine) > 80 and {n: x & unlike for n, x in mine.items() if x & unlike} == {}


def test_what_is_not_used_is_found() -> None:
    kernel = "@triton.jit\ndef f(x, y):\n    z = x\n    x += 1\n"
    assert idle(kernel) == ["f: y", "f: z"]
    shapes = "@op.register_fake\ndef g(x, y, z):\n    return y\n"
    assert idle(shapes) == ["g: z"]
    assert unreached("A = 1\ndef f():\n    return f(A)\nclass B:\n    x: A\n") == ["f", "B"]


def test_functions_that_make_gates_are_called_like_no_variable() -> None:
    text = nlc.load("gated_delta_net").source.text
    for flow, gates in (("beta", "_raw"), ("x_raw_log_a", "_raw_2"), ("my_raw", "_raw_2")):
        made = nlc.loads(re.sub(r"\bbeta\b", flow, text)).source_text("triton")
        names = {n.name for n in ast.walk(ast.parse(made)) if isinstance(n, ast.FunctionDef)}
        ours = [n for n in names if n.startswith("gated_delta_") and n.endswith("_solve")]
        assert ours == [f"gated_delta_rated_unit{gates}_solve"]


def test_names_that_python_and_torch_use_are_free_for_specs() -> None:
    spec = nlc.loads(NASTY, "nasty.yaml")
    assert not spec.check().has_errors, str(nlc.SpecError(spec.report))
    net = spec.compile()(d=8)
    x, other = torch.randn(2, 5, 2, 8), torch.randn(2, 5, 2, 4)
    y, _ = net(x, other)
    assert y.shape == (2, 5, 2, 4)
    y.sum().backward()
    assert net.training and all(p.grad is not None for p in net.parameters())


def test_the_text_of_a_spec_stays_text() -> None:
    """Prose with quotes and backslashes ends up inside docstrings and nowhere else."""
    tree = ast.parse(nlc.loads(NASTY, 'na"""sty\\.yaml').source_text())
    assert not any(isinstance(n, ast.Import) and n.names[0].name == "os" for n in ast.walk(tree))


@pytest.mark.parametrize("spec", ["gated_delta_net", "attention", "adamw"])
def test_the_same_spec_gives_the_same_text(spec: str) -> None:
    assert nlc.load(spec).source_text() == nlc.load(spec).source_text()


def test_a_program_can_be_read() -> None:
    text = str(nlc.load("gated_delta_net").program("reference"))
    assert "loop every token carries S over" in text and "slot q.conv: window" in text


FAMILY = """
nlc: 1
system: family
context: tokens
hyper: {d: 8, n: d / heads, expand: 2, sizes: 3}
heads: 2
inputs: {x: [d]}
let:
  h[0]: x
  h[i]:
    for: {i: [1, 2, 3, 4]}
    is: merge(C[i](C[i].apply)) * sizes
levels:
  C[i]:
    for: {i: [1, 2, 3, 4], wide: [n, n, 1, n]}
    frequency: every token
    memory: mlp(n, expand, out=wide)
    let:
      apply: split(conv(linear(h[0], d), 3))
      type: rmsnorm(split(linear(h[0], d)))
    key: apply
    value: mean(type)
    objective: 0.5 * sqnorm(C[i](key) - value)
    rule: gd(lr=0.1)
    anchor: every expand tokens
    init: learned
output:
  y: h[1] + h[2] + h[4] + mean(h[3])
"""


def _flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement by itself, every submodule by its attribute, no table of names."""
    monkeypatch.setattr(loops, "_rolled", lambda said, strings, room: said)
    monkeypatch.setattr(weights, "_MANY", 1000)
    monkeypatch.setitem(HELPERS, "place", HELPERS["place"] + "\n" * 1000)


@pytest.mark.parametrize("name", ["family", *TOKENS])
def test_loops_and_tables_only_shorten(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters in their order, their first values, and the states are those of one statement for each."""
    spec, again = (nlc.loads(FAMILY) if name == "family" else nlc.load(name) for _ in "ab")
    assert not spec.check().has_errors, str(nlc.SpecError(spec.report))
    short = spec.compile("reference")
    _flat(monkeypatch)
    long = again.compile("reference")
    texts = [Path(made.__source_file__).read_text() for made in (short, long)]
    assert "place(" not in texts[1] and "LEARNED" not in texts[1]
    nets, sizes = [], {n: 16 for n in ("d", "p") if n in spec.system.hypers}
    for made in (short, long):
        torch.manual_seed(0)
        nets.append(made(**sizes))
    again = []
    for net in nets:
        torch.manual_seed(1)
        net.reset_parameters()
        again.append({key: p.clone() for key, p in net.state_dict().items()})
    states = [net.initial_state(torch.zeros(2, 1, 16, dtype=torch.bfloat16)) for net in nets]
    inputs = [torch.zeros(2, 1, *([16] if i.dims else [])) for i in spec.system.inputs.values()]
    for a, b in (again, states):
        assert list(a) == list(b)
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    with pytest.raises(ValueError, match="it is not of this system"):
        nets[0](*inputs, state={**states[0], "another": states[0][next(iter(a))]})


def test_learned_starts_may_be_tensors_of_a_functional_call() -> None:
    net = nlc.loads(FAMILY).compile("reference")()
    assert "LEARNED" in vars(type(net))
    x, weights = torch.randn(2, 4, 8), {key: p.detach() for key, p in net.named_parameters()}
    y, _ = torch.func.functional_call(net, weights, (x,))
    torch.testing.assert_close(y, net(x)[0], rtol=0, atol=0)


def test_a_family_is_one_loop_and_one_paragraph() -> None:
    text = nlc.loads(FAMILY).source_text("reference")
    assert "for name, size in dict(C_1=n, C_2=n, C_3=1, C_4=n).items():" in text
    assert 'place(self, f"{name}.apply_.conv.weight", torch.empty(d, 3, **factory))' in text
    assert "for part in (self.C_1, self.C_2, self.C_3, self.C_4):" in text
    assert "  1. C_1, C_2, C_3, C_4, every token, [heads, n, expand*n]" in text
    assert "whole_sizes(self, d=d, n=n, expand=expand, heads=heads)" in text
