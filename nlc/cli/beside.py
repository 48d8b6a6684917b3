"""A generated file in two: the model's, and beside it that of the functions it imports."""

from __future__ import annotations

from pathlib import Path

from nlc.backends.printed import alike
from nlc.base.diagnostics import BadHelpers


def module(output: Path | None, helpers: Path) -> str:
    """What a model at ``output`` imports its helpers as: ``.ops`` inside a package, ``ops`` elsewhere.

    BadHelpers where it could not, or where there is no file to stand beside.
    """
    if output is None or str(output) == "-":
        raise BadHelpers("a model that imports a file needs one itself; give --output, too")
    if helpers.suffix != ".py":
        raise BadHelpers(f"{helpers} is no Python file")
    if helpers.resolve() == output.resolve():
        raise BadHelpers(f"{helpers} is the file of the model, too")
    folder = output.resolve().parent
    if helpers.resolve().parent != folder:
        raise BadHelpers(f"{helpers} does not stand beside {output}, which imports it")
    return f".{helpers.stem}" if (folder / "__init__.py").is_file() else helpers.stem


def free(path: Path, text: str) -> None:
    """BadHelpers where what ``path`` has is not the same model's."""
    if path.exists() and not alike(path.read_text(encoding="utf-8", errors="replace"), text):
        raise BadHelpers(f"{path} is there and was not made for this model; name another file")
