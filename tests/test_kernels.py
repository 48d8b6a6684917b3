"""The Triton backend without a GPU: kernels compiled ahead of time, and what it refuses.

What the kernels compute is tested in `tests/interpreted`, in processes that interpret them.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import nlc
from nlc.cli import main

LIMIT = 300  # seconds of a process that compiles
SPECS = ("gated_delta_net", "gla", "titans")  # scalar decay and erasing, by channel, coupled
ARCHS = ("sm_80", "sm_90", "sm_100")
SERIAL = ("_scan", "_step", "_back", "_chunks")  # ends of names: scans over chunks, and decoding
# Bytes that a thread may store and load. Triton 3.9 has its assembler allocate registers at a level of its own, for a
# bug of it; kernels that spill nothing at the usual level then spill up to 180, on sm_80 up to 8.
FEW = {"sm_80": 8, "sm_90": 192, "sm_100": 192}


def spills(kernel: dict[str, Any]) -> bool:
    return kernel["spills"] > FEW[kernel["arch"]]


def compiled(spec: str, *options: str) -> list[dict[str, Any]]:
    """What `nlc kernels` says, in a process of its own: a compiler can hang, and must not interpret."""
    free = {n: x for n, x in os.environ.items() if n != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "nlc", "kernels", spec, "--format", "json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=free)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return json.loads(done.stdout)


def serial(kernel: dict[str, Any]) -> bool:
    """Whether it goes from chunk to chunk, or is a step."""
    name = kernel["name"]
    reads = re.match(r"(gated_|channel_|coupled_)?(turned_)?read", name)
    return name.endswith(SERIAL) and not reads


MOMENTUM = """
nlc: 1
system: erased_momentum
context: tokens
hyper: {d: 256, n: d / heads}
heads: 4
inputs: {q: [n], k: [n], v: [n], rate: [], beta: []}
outputs: {y: [n]}
levels:
  M:
    frequency: every token
    memory: matrix(n, n)
    key: k
    value: v
    objective: 0.5 * sqnorm(M(key) - value)
    rule: momentum(lr=1, rate=sigmoid(rate), beta=sigmoid(beta), decay=0.9)
output: {y: M(q)}
"""


@pytest.mark.parametrize("spec", ("gated_delta_net", "gla", "momentum"))
def test_kernels_compile_for_hopper_and_fit(spec: str, tmp_path: Path) -> None:
    """The first with 128 channels, and with keys that kernels bring to length one; the last is float32 throughout."""
    sizes, options = ["--set", "d=256", "--set", "heads=4"], ["--operator"]
    if spec == "gated_delta_net":
        sizes, options = ["--set", "d=512", "--set", "heads=4"], []
    if spec == "momentum":
        spec, options = str(tmp_path / "erased_momentum.yaml"), []
        Path(spec).write_text(MOMENTUM)
    found = compiled(spec, *options, *sizes)
    assert found and all(k["fits"] for k in found)
    assert [k["name"] for k in found if serial(k)]
    assert [k for k in found if serial(k) and spills(k)] == []


@pytest.mark.long
def test_coupled_states_of_128_channels_do_not_spill(tmp_path: Path) -> None:
    """Their scans hold a state in parts, so that no product of float32 has all of its channels."""
    spec = tmp_path / "erased_momentum.yaml"
    spec.write_text(MOMENTUM)
    archs = ["--arch", "sm_80", "--arch", "sm_90"]
    found = compiled(str(spec), "--dtype", "float32", "--set", "d=512", *archs)
    assert {k["dk"] for k in found if serial(k)} == {128} and all(k["fits"] for k in found)
    assert [k for k in found if serial(k) and spills(k)] == []


def test_kernels_of_packed_sequences_compile() -> None:
    found = compiled("linear_attention", "--operator", "--packed", "--set", "heads=4")
    assert [k for k in found if serial(k)] and all(k["fits"] for k in found)
    assert [k for k in found if serial(k) and spills(k)] == []


@pytest.mark.long
@pytest.mark.parametrize("spec", SPECS[:2])
def test_all_kernels_of_packed_sequences_compile(spec: str) -> None:
    found = compiled(spec, "--operator", "--packed", "--set", "d=512", "--set", "heads=4")
    assert [k for k in found if spills(k)] == []


def test_kernels_of_a_small_spec_compile_for_other_gpus() -> None:
    found = compiled("linear_attention", "--operator", "--arch", "sm_80", "--arch", "sm_100")
    assert {k["arch"] for k in found} == {"sm_80", "sm_100"} and all(k["fits"] for k in found)
    assert [k for k in found if serial(k) and spills(k)] == []


@pytest.mark.long
@pytest.mark.parametrize("arch", ("sm_80", "sm_100"))
def test_kernels_compile_for_other_gpus(arch: str) -> None:
    found = compiled("gated_delta_net", "--operator", "--arch", arch, "--set", "d=512")
    assert {k["arch"] for k in found} == {arch} and all(k["fits"] for k in found)
    assert [k for k in found if serial(k) and spills(k)] == []
    # 704 for sm_80; the assembler once gave such a gradient 32 registers, and it spilled 24,792
    assert [k for k in found if k["spills"] > 1024] == []


EACH = """
import json, sys
import nlc
import test_kernels
from nlc.runtime.ahead import ahead
spec, hypers, dtype, archs, which = json.loads(sys.argv[1])
wanted = getattr(test_kernels, which)
found = ahead(
    nlc.load(spec), archs, hypers=hypers, dtype=dtype, tokens=128, wanted=lambda n: wanted(dict(name=n))
)
print(json.dumps([k.asdict() for k in found]))
"""


def each(
    spec: str, n: int, dtype: str, archs: tuple[str, ...] = ARCHS, which: str = "serial"
) -> list[dict[str, Any]]:
    """Kernels of a spec whose keys and values have n channels, in a process of its own."""
    system = nlc.load(spec).system
    hypers: dict[str, int] = {"d": 2 * n, "heads": 2, "expand": 1, "dk": n, "dv": n, "n": n, "p": n}
    hypers = {k: x for k, x in hypers.items() if k in system.hypers}
    if spec == "mamba2":  # whose heads are made of channels
        del hypers["heads"]
    free = {k: x for k, x in os.environ.items() if k != "TRITON_INTERPRET"}
    free["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", EACH, json.dumps([spec, hypers, dtype, archs, which])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=free)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# One for each form of scans: nothing is forgotten, one number, by channel, erased at the key or at another, coupled.
ONES = (
    *("linear_attention", "mlstm", "mamba2", "delta_net", "srwm", "gated_delta_net"),
    *("comba", "gla", "kda", "titans", "momentum"),
)


@pytest.mark.parametrize(
    ("spec", "n", "dtype"),
    [
        pytest.param(spec, n, dtype, marks=[pytest.mark.long] * (chosen != ONES[5]))
        for spec in ONES
        for n in (64, 128, 256)
        for dtype in ("float32", "bfloat16", "float16")
        for chosen in [spec if (n, dtype) == (128, "float32") else ""]
    ],
)
def test_scans_and_steps_do_not_spill(spec: str, n: int, dtype: str, tmp_path: Path) -> None:
    """On no GPU, with or without what they read."""
    if spec == "momentum":
        spec = str(tmp_path / "erased_momentum.yaml")
        Path(spec).write_text(MOMENTUM)
    found = each(spec, n, dtype)
    keys = {k["dk"] for k in found} - {1}  # of vectors and numbers, beside matrices
    assert keys == {n} and all(k["fits"] for k in found)
    assert [k for k in found if spills(k)] == []


def gradients(kernel: dict[str, Any]) -> bool:
    """Whether it makes the slopes by what a chunk of a scan is made of."""
    return kernel["name"].endswith("_scan_grads")


@pytest.mark.parametrize(
    ("spec", "archs"),
    (
        ("gated_delta_net", ("sm_90",)),
        *(pytest.param(n, ARCHS, marks=pytest.mark.long) for n in ("gated_delta_net", "comba")),
        pytest.param("mamba2", ARCHS, marks=pytest.mark.long),
    ),
)
def test_gradients_of_scans_in_float32_do_not_spill(spec: str, archs: tuple[str, ...]) -> None:
    for n in (64, 128):
        found = each(spec, n, "float32", archs, "gradients")
        assert {k["arch"] for k in found} == {*archs} and all(k["fits"] for k in found)
        assert [k for k in found if spills(k)] == []


WIDE = [
    (spec, d, dtype)
    for spec in ("linear_attention", "retnet", "delta_net", "mamba2", *SPECS[:2])
    for d, dtype in ((512, "bfloat16"), (1024, "bfloat16"), (512, "float32"))
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("spec", "d", "dtype"), [*WIDE, ("titans", 256, "bfloat16"), ("titans", 256, "float32")]
)
def test_all_kernels_compile_for_all_gpus(spec: str, d: int, dtype: str) -> None:
    archs = [x for arch in ("sm_80", "sm_90", "sm_100") for x in ("--arch", arch)]
    sizes = ["--set", f"d={d}"]
    if spec == "mamba2":  # whose heads are made of channels
        sizes += ["--set", "expand=1", "--set", f"p={d // 4}", "--set", f"n={d // 4}"]
    else:
        sizes += ["--set", "heads=4"]
    found = compiled(spec, "--operator", "--dtype", dtype, *sizes, *archs)
    assert all(k["fits"] for k in found)
    assert [k for k in found if serial(k) and spills(k)] == []


def kernels(text: str) -> dict[str, str]:
    """The kernels of a generated file, and what they call, by name."""
    found = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.decorator_list]
    jit = [n for n in found if ast.unparse(n.decorator_list[0]) == "triton.jit"]
    return {n.name: ast.unparse(n) for n in jit}


def test_an_mlp_memory_uses_the_kernels_of_a_matrix_for_each_weight() -> None:
    text = nlc.load("hope").source_text("triton")
    assert [n for n in kernels(text) if n.endswith("_scan")] == ["gated_delta_rated_raw_scan"]
    calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
    assert [ast.unparse(n.func) for n in calls].count(
        "gated_delta_rated_raw"
    ) == 6  # of stacked memories


@pytest.mark.parametrize(
    ("spec", "dtype"),
    (
        pytest.param("adamw", "float32", marks=pytest.mark.long),
        ("adamw", "bfloat16"),  # which is rounded by chance
        ("lookahead", "float32"),  # a slow memory, read and written in its period alone
        pytest.param("lookahead", "bfloat16", marks=pytest.mark.long),
    ),
)
def test_kernels_of_optimizers_compile_and_do_not_spill(spec: str, dtype: str) -> None:
    found = compiled(spec, "--dtype", dtype)
    assert {k["name"] for k in found} == {"elements"}
    assert [k for k in found if k["spills"] or not k["fits"]] == []


def test_an_optimizer_without_a_rule_by_elements_has_no_kernels() -> None:
    with pytest.raises(nlc.SpecError, match="NLC702"):
        nlc.load("lamb").source_text("triton")
    result = CliRunner().invoke(main, ["compile", "lamb", "--backend", "triton"])
    assert result.exit_code == 1 and "compile it with `torch`" in result.stderr


@pytest.mark.parametrize("tile", (8, 48, 128))
def test_a_tile_that_kernels_cannot_have_is_refused(tile: int) -> None:
    command = ["compile", "delta_net", "--backend", "triton", "--plan", f"S=chunked({tile})"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2 and "has tiles of 16, 32, 64 tokens" in result.stderr


def test_a_tile_that_they_can_have_is_the_chunk() -> None:
    text = nlc.load("delta_net").source_text("triton", {"S": "chunked(32)"})
    assert "\nCHUNK = 32  # tokens of a chunk\n" in text


def test_keys_that_are_too_long_are_refused_by_the_constructor() -> None:
    made = nlc.load("gated_delta_net").compile("triton")
    made(d=1024, heads=4)
    said = r"S take keys of 256 channels at most, not 257; .*`torch` .*\(gated_delta_net.yaml:20\)"
    with pytest.raises(ValueError, match=said):
        made(d=1028, heads=4)


def test_what_a_rule_does_not_need_is_not_in_its_kernels() -> None:
    specs = ("linear_attention", "retnet", "delta_net", "gated_delta_net")
    texts = [
        "\n".join(kernels(nlc.load(n, operator=True).source_text("triton")).values()) for n in specs
    ]
    assert ["exp2" in x for x in texts] == [False, True, False, True]
    assert ["inverse" in x for x in texts] == [False, False, True, True]


def launched(monkeypatch: pytest.MonkeyPatch, spec: str, **options: Any) -> list[Any]:
    """What would be compiled ahead of time."""
    from nlc.runtime import ahead

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(ahead, "_compiled", lambda module, launch, arch: launch)
    return ahead.ahead(nlc.load(spec, operator=True), **options)


@pytest.mark.parametrize("packed", (False, True))
def test_what_a_checkpoint_launches_is_compiled_too(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first run in one kernel, which keeps some states, and scans that go on from these."""
    found = launched(monkeypatch, "gated_delta_net", packed=packed)
    runs = [(x.run, x.name.rpartition("_raw")[2], dict(x.constants)) for x in found]
    scans = [(run, name) for run, name, _ in runs if name in ("_scan", "_read_scan")]
    assert scans == [
        *(("training", "_scan"), ("inference", "_read_scan")),
        *(("checkpoint", "_read_scan"), ("checkpoint", "_scan")),
    ]
    without = {(run, name): [n for n, x in known.items() if x is None] for run, name, known in runs}
    alone = ["packing"] * (not packed)
    assert without["inference", "_read_scan"] == ["resume", "places", *alone]
    assert without["training", "_scan"] == [*alone, "table"]
    assert without["checkpoint", "_scan"] == without["checkpoint", "_read_scan"] == alone


@pytest.mark.parametrize(("tokens", "chunk"), ((16, 16), (17, 64), (256, 64)))
def test_kernels_are_for_a_number_of_tokens(
    tokens: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside which there is that of one token, which has no chunk."""
    found = launched(monkeypatch, "linear_attention", tokens=tokens)
    one = [x for x in found if x.run == "one token"]
    assert [x.name.rpartition("_read")[2] for x in one] == ["_step"]
    assert {dict(x.constants)["C"] for x in found if x not in one} == {chunk}


@pytest.mark.parametrize(("precision", "products"), (("highest", "tf32x3"), ("high", "tf32")))
def test_products_of_float32_are_in_a_precision(
    precision: str, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_float32_matmul_precision()
    found = launched(monkeypatch, "linear_attention", dtype="float32", precision=precision)
    known = [dict(x.constants) for x in found]
    assert {x["PRECISION"] for x in known if "PRECISION" in x} == {products}
    assert torch.get_float32_matmul_precision() == before


def test_what_was_compiled_unheard_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions of Triton whose cache does not know of hooks give what a launch left there."""
    from nlc.runtime import ahead

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    heard = ahead._heard
    monkeypatch.setattr(ahead, "_heard", lambda *given: None if given else ("", ""))
    with pytest.raises(AttributeError, match=ahead._SAID):
        ahead.ahead(nlc.load("sgd"))
    monkeypatch.setattr(ahead, "_heard", lambda *given: heard(*given) if given else ("", ""))
    assert all(k.registers > 0 for k in ahead.ahead(nlc.load("sgd")))


def test_a_table_marks_what_spills() -> None:
    from nlc.runtime.ahead import Kernel, table

    lines = table([Kernel("scan", "training", 64, 64, "sm_90", 4, 2, 255, 8, 300000)]).splitlines()
    assert lines[1].endswith("300,000 of 232,448  spills, does not fit")
    assert table([]).startswith("no kernels")
