"""The import direction of the compiler, read from the sources: no layer knows one above it."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "nlc"
FILES = sorted(ROOT.rglob("*.py"))

# A layer is a folder or file right under nlc/. It may import itself and those named here.
CORE = {"base", "ir", "syntax", "lib", "passes"}
DRIVERS = {"answers", "generated", "library", "pipeline", "runtime", "tools"}
MAY_IMPORT = {
    "version": set(),
    "base": {"version"},
    "ir": {"version", "base"},
    "syntax": {"version", "base", "ir"},
    "lib": {"version", "base", "ir", "syntax"},
    "passes": {"version", "base", "ir", "syntax", "lib"},
    "backends": {"version", "base", "ir", "lib"},
    **{driver: {"version", *CORE, "backends", *DRIVERS} for driver in DRIVERS},
    "cli": {"version", *CORE, "backends", *DRIVERS, "nlc"},
    "nlc": {"version", *CORE, "backends", *DRIVERS},
    "__main__": {"cli"},
}
HEAVY = {"torch", "triton"}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _layer(module: str) -> str:
    """``nlc.passes.derive`` belongs to ``passes``; the package's own file to ``nlc``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "nlc"


MODULES = {_module(path): path for path in FILES}


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@functools.cache
def _imports(path: Path, *, at_import: bool) -> tuple[tuple[str, int], ...]:
    """The modules that a file imports, with line numbers: all, or those loaded with the file."""
    package = _module(path) if path.name == "__init__.py" else _module(path).rpartition(".")[0]

    def walk(nodes: list[ast.stmt]) -> Iterator[tuple[str, int]]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*base, *filter(None, [node.module])])
                source = source if node.level else str(node.module)
                for alias in node.names:
                    inner = f"{source}.{alias.name}"
                    yield (inner if inner in MODULES else source), node.lineno
            elif at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            elif at_import and isinstance(node, ast.If) and _is_type_checking(node.test):
                yield from walk(node.orelse)
            else:
                for block in ("body", "orelse", "finalbody"):
                    yield from walk(getattr(node, block, []))
                for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
                    yield from walk(part.body)

    return tuple(walk(ast.parse(path.read_text(encoding="utf-8"), str(path)).body))


def _ours(module: str) -> bool:
    return module == "nlc" or module.startswith("nlc.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_layers_below(path: Path) -> None:
    layer = _layer(_module(path))
    assert layer in MAY_IMPORT, f"nlc/{layer} has no place among the layers: add it to MAY_IMPORT"
    upward = [
        f"{path.relative_to(ROOT.parent)}:{line}: {layer} imports {module}"
        for module, line in _imports(path, at_import=False)
        if _ours(module) and _layer(module) not in MAY_IMPORT[layer] | {layer}
    ]
    assert not upward, "\n".join(upward)


def _loaded_with(module: str) -> set[str]:
    """The modules that importing ``module`` imports: its packages, theirs, and so on."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in MODULES:
            todo.extend(name.rpartition(".")[:1] if "." in name else ())
            todo.extend(found for found, _ in _imports(MODULES[name], at_import=True))
    return seen


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_waits_until_something_runs(path: Path) -> None:
    """Only ``nlc/runtime`` needs torch; `nlc check` and `nlc graph` start without it."""
    if _layer(_module(path)) == "runtime":
        return
    loaded = [
        f"{path.relative_to(ROOT.parent)}:{line}: {module} loads {', '.join(sorted(heavy))}"
        for module, line in _imports(path, at_import=True)
        if (heavy := {name.split(".")[0] for name in _loaded_with(module)} & HEAVY)
    ]
    assert not loaded, "\n".join(loaded)


def test_no_module_needs_itself() -> None:
    """Modules load in some order: an import cycle has none."""
    needs = {
        name: {m for m, _ in _imports(path, at_import=True) if m in MODULES and m != name}
        for name, path in MODULES.items()
    }
    graphlib.TopologicalSorter(needs).prepare()
