"""Generated source -> an importable module, so that its classes pickle and survive ``spawn``.

Files are written once under a name that carries the hash of their content, atomically; a module found there is used as
it is. The cache folder is ``$NLC_CACHE_DIR``, else the user's own (``~/.cache/nlc``).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import stat
import sys
import tempfile
from pathlib import Path
from types import ModuleType

PREFIX = "nlc_generated_"


def cache_dir() -> Path:
    """Where generated files live; it is made on first use."""
    named = os.environ.get("NLC_CACHE_DIR")
    base = (
        Path(named)
        if named
        else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nlc"
    )
    return base / "generated"


def write_atomically(path: Path, text: str) -> None:
    """All of the file or nothing, also where several processes write it at once.

    A file that is there keeps its mode, and a link to it stays a link. What is no file (a pipe, a device such as
    ``/dev/null``) is written into, as to put a file in its place would take it from everybody.
    """
    if (
        path.exists() and not path.is_file()
    ):  # before links are followed: that of a pipe leads to no path
        path.write_text(text, encoding="utf-8", newline="")
        return
    path = path.resolve()
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def kept_spec(digest: str) -> Path:
    """Where the text of a spec is kept for messages, by the start of its sha256."""
    return cache_dir() / f"spec_{digest}.yaml"


def load_source(source: str, name: str, spec: str = "") -> ModuleType:
    """The module of a generated text, which stands in the cache folder for other processes to find; the same text
    gives the same module. ``spec`` is what it was generated from, which messages quote."""
    kept = kept_spec(hashlib.sha256(spec.encode()).hexdigest()[:16])
    if spec and not kept.exists():
        write_atomically(kept, spec)
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    full = f"{PREFIX}{name}_{digest}"
    path = cache_dir() / f"{full}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != source:
        write_atomically(path, source)
    if full in sys.modules:
        return sys.modules[full]
    importlib.invalidate_caches()
    return importlib.import_module(full)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds generated modules by name, so that unpickling in another process works once nlc is imported."""

    def find_spec(self, fullname: str, path: object = None, target: object = None):
        if not fullname.startswith(PREFIX):
            return None
        file = cache_dir() / f"{fullname}.py"
        if not file.exists():
            return None
        loader = _Loader(fullname, str(file))
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a generated module; exceptions out of it say where in the spec they come from."""

    def exec_module(self, module: ModuleType) -> None:
        from nlc.runtime.notes import annotate

        super().exec_module(module)
        annotate(module)


if not any(isinstance(f, _Finder) for f in sys.meta_path):
    sys.meta_path.append(_Finder())
