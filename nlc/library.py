"""The specs that a name can mean, and the systems that one spec names."""

from __future__ import annotations

import os
from collections.abc import KeysView
from functools import cached_property
from pathlib import Path

from nlc.base.diagnostics import Report, SpecError, nearest
from nlc.base.span import Source, Span
from nlc.ir.system import System
from nlc.lib.rules import SYSTEM
from nlc.passes.expand import expand
from nlc.passes.resolve import resolve
from nlc.syntax.parse import parse
from nlc.syntax.yamlplace import cut
from nlc.syntax.yamltree import read_source

_SUFFIX = ".yaml"


def spec_folders() -> list[Path]:
    """Where the shipped specs stand: inside the wheel, or beside the package in a checkout."""
    here = Path(__file__).parent
    return [p for p in (here / "specs", here.parent / "specs") if p.is_dir()][:1]


def shipped() -> dict[str, Path]:
    """The shipped specs by name."""
    return {p.stem: p for folder in spec_folders() for p in sorted(folder.rglob(f"*{_SUFFIX}"))}


def search(beside: Path | None = None) -> dict[str, Path]:
    """Specs that a name can mean: beside the given file, then in NLC_PATH, then the shipped ones."""
    found = dict(shipped())
    folders = [Path(p) for p in os.environ.get("NLC_PATH", "").split(os.pathsep) if p]
    for folder in [*reversed(folders), *([beside] if beside else [])]:
        if folder.is_dir():
            found.update(
                {
                    p.stem: p
                    for p in sorted(
                        folder.rglob(f"*{_SUFFIX}")
                        if folder != beside
                        else folder.glob(f"*{_SUFFIX}")
                    )
                }
            )
    return found


class Library:
    """The systems that one spec may name, resolved when asked for.

    ``within`` are the files that are being read: none of them may come again.
    """

    def __init__(self, beside: Path | None, within: tuple[str, ...]):
        self.beside, self.within = beside, within
        self._read: dict[str, System] = {}  # those without mistakes

    @cached_property
    def paths(self) -> dict[str, Path]:
        """What a name can mean; folders are read when the first is asked for."""
        return search(self.beside)

    @property
    def names(self) -> KeysView[str]:
        """In one order, the shipped first: of many names only the first are compared with a misspelt one."""
        return self.paths.keys()

    def system(self, name: str, span: Span, report: Report) -> System | None:
        """A system with its names resolved; its own warnings are not this spec's."""
        if name not in self._read:
            system = self._resolved(name, span, report)
            if system is None:
                return None
            self._read[name] = system
        return self._read[name]

    def _resolved(self, name: str, span: Span, report: Report) -> System | None:
        if name not in self.paths:  # a step formula
            source = Source(f"<{name}>", SYSTEM.format(name=name))
            return resolve(expand(parse(source, report), report), report, self)
        path = self.paths[name]
        if str(path.resolve()) in self.within:
            report.add("NLC212", f"`{name}` is made of itself", span, "it would never end")
            return None
        own = Report()
        source = read_source(path, own)
        tree = parse(source, own) if source is not None else None
        if tree is not None and not own.has_errors:
            inside = Library(path.parent, (*self.within, str(path.resolve())))
            system = resolve(expand(tree, own), own, inside)
            if not own.has_errors:
                return system
        for diagnostic in own.diagnostics:
            if diagnostic.severity == "error":
                report.take(Report([diagnostic]))
        return None


class SpecNotFound(SpecError):
    """No spec of this name or path."""


def find(name: str | os.PathLike[str]) -> Path:
    """The file of a spec, by path or by name; SpecNotFound with the nearest names otherwise."""
    if not isinstance(name, str | os.PathLike):
        raise TypeError(
            f"a spec is a name, a path or what nlc.load gave, not {type(name).__name__}"
        )
    text = os.fspath(name)
    path = Path(text)
    if path.suffix in (".yaml", ".yml") or os.sep in text:
        if os.path.isfile(path):  # of a name that no file can have too
            return path
        if os.path.isdir(path):
            return _not_found(text, f"`{cut(text)}` is a folder, not a spec", None)
        if os.path.exists(path):
            return _not_found(text, f"`{cut(text)}` is a device or a pipe, not a spec", None)
        beside = os.path.isdir(path.parent)
        near = [p.stem for p in path.parent.glob(f"*{_SUFFIX}")] if beside else []
        close = path.stem if path.stem in near else nearest(path.stem, near)  # the suffix is alike
        meant = str(path.parent / f"{close}{_SUFFIX}") if close else None
        if path.stem in search() and close != path.stem:
            meant = path.stem  # a spec that stands in another folder
        return _not_found(text, f"there is no file `{cut(text)}`", meant)
    known = search()
    if text in known:
        return known[text]
    here = next((f"{text}{s}" for s in (_SUFFIX, ".yml") if os.path.isfile(f"{text}{s}")), None)
    if here is None and os.path.exists(text):
        what = (
            "is a folder, not a spec"
            if os.path.isdir(text)
            else "ends in no `.yaml`: it is no spec"
        )
        return _not_found(text, f"`{cut(text)}` {what}", None)
    return _not_found(text, f"there is no spec `{cut(text)}`", here or nearest(text, known))


def _is_there(text: str) -> bool:
    return len(text) < 256 and os.path.exists(text)


def _not_found(text: str, message: str, close: str | None) -> Path:
    report, source = Report(), Source("", text)
    report.add(
        "NLC207",
        message,
        Span(source, 0, len(text)),
        f"did you mean `{close}`?" if close else "not a spec" if _is_there(text) else "not found",
        helps=[
            "give a path to a YAML file, or a name that `nlc list` shows",
            *(["`nlc.loads` takes the text of a spec"] if ":" in text or "\n" in text else []),
        ],
    )
    raise SpecNotFound(report)
