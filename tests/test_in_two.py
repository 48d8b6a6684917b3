"""A generated file in two: the class, and beside it the functions that it imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from shipped_specs import load

import nlc
from nlc.backends import BACKENDS
from nlc.base.diagnostics import BadHelpers
from nlc.cli import main
from nlc.pipeline import shipped


def _pair(name: str, backend: str, helpers: str) -> tuple[str, str] | None:
    try:
        return load(name).source_files(f"{name}.py", helpers, backend)
    except nlc.SpecError as error:
        assert [d.code for d in error.report.diagnostics] == ["NLC702"]  # it has no such form
        return None


@pytest.fixture(
    scope="module",
    params=(pytest.param(3, id="some"), pytest.param(1, id="all", marks=pytest.mark.long)),
)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shipped specs, every third or all, by every backend; a folder each, one of which is a package."""
    folder = tmp_path_factory.mktemp("in_two")
    for backend in BACKENDS:
        made = folder / f"by_{backend}"
        made.mkdir()
        dot = "." if backend == "torch" else ""
        if dot:
            (made / "__init__.py").touch()
        for name in sorted(shipped())[:: request.param]:
            pair = _pair(name, backend, f"{dot}{name}_helpers")
            for end, text in zip(("", "_helpers"), pair or ()):
                (made / f"{name}{end}.py").write_text(text)
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_files_are_formatted_and_clean(files: Path, backend: str) -> None:
    for command in (["format", "--check"], ["check", "--select", "E,F,I,B"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100", "."]
        done = subprocess.run(ruff, cwd=files / f"by_{backend}", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_helper_is_used_and_every_name_imported_is_there(files: Path, backend: str) -> None:
    models = [x for x in (files / f"by_{backend}").glob("*.py") if _helpers(x).exists()]
    assert len(models) > 10
    for path in models:
        model, helpers = (ast.parse(x.read_text()) for x in (path, _helpers(path)))
        taken = [
            alias.name
            for x in model.body
            if isinstance(x, ast.ImportFrom) and x.module == f"{path.stem}_helpers"
            for alias in x.names
        ]
        assert taken and taken == _exported(helpers), path
        assert not any("nlc" in ast.unparse(x) for x in model.body + helpers.body if _imports(x))
        defined = {n for x in helpers.body for n in _defines(x)} - {"__all__"}
        read = {n for x in helpers.body for n in _reads(x) - _defines(x)}
        registered = {n for x in helpers.body if _registered(x) & defined for n in _defines(x)}
        assert not defined - {*taken} - read - registered, path


def _helpers(path: Path) -> Path:
    return path.with_name(f"{path.stem}_helpers.py")


def _registered(x: ast.stmt) -> set[str]:
    """What takes a function as its own: ``f`` of ``@f.register_fake``."""
    return {n for d in getattr(x, "decorator_list", []) for n in _reads(d)}


def _imports(x: ast.stmt) -> bool:
    return isinstance(x, ast.Import | ast.ImportFrom)


def _exported(tree: ast.Module) -> list[str]:
    (names,) = (x.value for x in tree.body if "__all__" in _defines(x))
    return ast.literal_eval(names)


def _defines(x: ast.stmt) -> set[str]:
    if isinstance(x, ast.FunctionDef | ast.ClassDef):
        return {x.name}
    stored = (n for n in ast.walk(x) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return {n.id for n in stored} if isinstance(x, ast.Assign | ast.AnnAssign) else set()


def _reads(x: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(x) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


@pytest.mark.parametrize("backend", ("reference", "torch"))
def test_they_import_with_torch_alone(files: Path, backend: str) -> None:
    code = """
import importlib, pathlib, sys
folder, package = sys.argv[1:]
sys.path.insert(0, folder)
for path in sorted(pathlib.Path(folder, package).glob("*.py")):
    module = importlib.import_module(f"{package}.{path.stem}" if package else path.stem)
    assert all(hasattr(module, name) for name in getattr(module, "__all__", []))
print([m for m in sys.modules if m.split(".")[0] in ("nlc", "triton")])
"""
    folder = files / f"by_{backend}"
    where = [str(files), folder.name] if (folder / "__init__.py").exists() else [str(folder), ""]
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *where], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "nlc" not in done.stdout


@pytest.mark.parametrize("backend", ("reference", "torch"))
def test_the_numbers_are_those_of_the_single_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    made = {}
    for name in ("hope", "adamw"):
        module = f"{name}_in_two_{backend}"
        pair = load(name).source_files(f"{module}.py", f"{module}_helpers", backend)
        for end, text in zip(("", "_helpers"), pair, strict=True):
            (tmp_path / f"{module}{end}.py").write_text(text)
        made[name] = __import__(module)
    found = []
    for Hope, AdamW in (
        (made["hope"].Hope, made["adamw"].Adamw),
        (load("hope").compile(backend), load("adamw").compile(backend)),
    ):
        torch.manual_seed(0)
        module = Hope(d=16, heads=2, chunk=4, memory_chunk=2, periods=[2, 4, 8]).double()
        optimizer = AdamW(module.param_groups(), lr=1e-2)
        x = torch.randn(3, 11, 16, dtype=torch.float64)
        y, state = module(x, state=module.step(x[:, 0])[1])
        y.square().sum().backward()
        optimizer.step()
        found.append([y, state, *module.parameters()])
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_the_model_of_hope_is_one_that_is_read() -> None:
    """With all that its users may ask of it; equations and lines of the spec beside what they are."""
    model, helpers = load("hope").source_files("hope.py", "hope_helpers")
    assert model.count("\n") < 300
    assert max(map(len, (model + helpers).splitlines())) <= 100
    assert "NotImplemented" not in model + helpers
    for feature in ("cu_seqlens", "checkpoint", "whole_sizes"):
        assert feature in model


def test_a_file_is_one_of_its_parts() -> None:
    """What the file that stands alone has, the two have together."""
    for name in ("hope", "adamw", "delta_net"):
        whole = ast.parse(load(name).source_text())
        pair = load(name).source_files("model.py", "ops")
        parts = [x for text in pair for x in ast.parse(text).body]
        own = [
            [ast.unparse(x) for x in body if not _imports(x) and "__all__" not in _defines(x)]
            for body in (parts, whole.body)
        ]
        assert {*own[0]} - {*own[1]} == {ast.unparse(ast.parse(pair[1]).body[0])}, name
        assert {*own[1]} <= {*own[0]}


def test_what_is_no_module_is_refused() -> None:
    spec = load("delta_net")
    for helpers, said in (
        ("a-b", "'a-b' is no name of a module"),
        ("a.b", "'a.b' is no name of a module"),
        ("class", "'class' is no name of a module"),
        ("__init__", "'__init__' is no name of a module"),
        (".__main__", "'__main__' is no name of a module"),
        ("torch", "a module 'torch' would hide the one that is installed"),
        ("numpy", "a module 'numpy' would hide the one that is installed"),
        ("math", "a module 'math' would hide the one that is installed"),
    ):
        with pytest.raises(BadHelpers) as error:
            spec.source_files("model.py", helpers)
        assert str(error.value) == said
    assert "from .math import" in spec.source_files("model.py", ".math")[0]


def test_what_is_asked_of_the_file_is_asked_of_both() -> None:
    spec = load("delta_net")
    asked = ("torch", {"S": "chunked(24)"}, ["checks"])
    model, helpers = spec.source_files("model.py", "ops", *asked)
    assert "CHUNK = 24 " in helpers
    assert all("Left out: checks." in text for text in (model, helpers))
    assert "whole_sizes" not in model + helpers


# the command


def _run(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["compile", *args])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_writes_both(here: Path) -> None:
    code, said = _run("delta_net", "-o", "net.py", "--helpers", "ops.py")
    counts = [len((here / n).read_text().splitlines()) for n in ("ops.py", "net.py")]
    assert (code, said.splitlines()) == (
        0,
        [
            f"wrote ops.py: what net.py imports, {counts[0]} lines",
            f"wrote net.py: delta_net, {counts[1]} lines",
        ],
    )
    assert "from ops import" in (here / "net.py").read_text()
    assert (
        _run("delta_net", "--backend", "reference", "-o", "net.py", "--helpers", "ops.py")[0] == 0
    )


def test_inside_a_package_it_is_imported_from_there(here: Path) -> None:
    (here / "models").mkdir()
    (here / "models" / "__init__.py").touch()
    assert _run("delta_net", "-o", "models/net.py", "--helpers", "models/ops.py")[0] == 0
    assert "from .ops import" in (here / "models" / "net.py").read_text()


def test_files_that_cannot_be_are_refused(here: Path) -> None:
    (here / "other").mkdir()
    assert _run("delta_net", "-o", "net.py", "--helpers", "ops.py")[0] == 0
    (here / "mine.py").write_text("x = 1\n")
    _run("delta_net", "-o", "alone.py")
    before = {x: x.read_bytes() for x in here.glob("*.py")}
    there = "is there and was not made for this model; name another file"
    for args, said in (
        (("--helpers", "o.py"), "a model that imports a file needs one itself; give --output, too"),
        (("-o", "-", "--helpers", "o.py"), "a model that imports a file needs one itself; give"),
        (("-o", "n.py", "--helpers", "n.py"), "n.py is the file of the model, too"),
        (("-o", "n.py", "--helpers", "o.txt"), "o.txt is no Python file"),
        (("-o", "n.py", "--helpers", "o-p.py"), "'o-p' is no name of a module"),
        (("-o", "n.py", "--helpers", "other/o.py"), "other/o.py does not stand beside n.py"),
        (("-o", "n.py", "--helpers", "mine.py"), f"mine.py {there}"),
        (("-o", "n.py", "--helpers", "alone.py"), f"alone.py {there}"),
        (("-o", "n.py", "--helpers", "ops.py"), f"ops.py {there}"),  # net.py imports it
    ):
        code, found = _run("delta_net", *args)
        assert (code, said in found and "Invalid value for --helpers: " in found) == (2, True), (
            found
        )
    assert f"ops.py {there}" in _run("gla", "-o", "net.py", "--helpers", "ops.py")[1]
    assert {x: x.read_bytes() for x in here.glob("*.py")} == before


def test_a_file_of_nothing_but_a_class_has_no_helpers() -> None:
    from nlc.backends.printed import Printed
    from nlc.generated import in_two

    with pytest.raises(BadHelpers, match="the file of Sum defines nothing beside its class"):
        in_two(Printed("class Sum: ...\n", '"""Sum."""\n', (), "Sum"), "sum.py", "ops")
