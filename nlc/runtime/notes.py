"""Exceptions out of generated code say where in the spec they come from.

The loader gives what a generated file defines to ``annotate``, so that the file itself stays as it would be by hand. An
exception gets a note (PEP 678) with the flow or the level that was being computed and the spec's line, whoever raised
it; a traced or compiled call passes by.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any

from nlc.base.diagnostics import Report, nearest
from nlc.base.span import Source
from nlc.runtime.places import Place, Places
from nlc.syntax.parse import parse
from nlc.syntax.tree import LevelTree, SpecTree
from nlc.syntax.yamltree import read_source

_METHODS = (
    "__init__",
    "initial_state",
    "reset_parameters",
    "param_groups",
    "piece",
    "forward",
    "step",
)
_MOST = 4  # places that a note lists


def annotate(module: ModuleType) -> None:
    """Lets exceptions out of the classes of a generated module carry notes, forward and backward."""
    import torch

    for made in [x for x in vars(module).values() if isinstance(x, type)]:
        if made.__module__ != module.__name__:
            continue
        for name in _METHODS:
            function = vars(made).get(name)
            if inspect.isfunction(function):
                setattr(made, name, _noted(function, made))
    for function in torch.autograd.Function.__subclasses__():
        if function.__module__ == module.__name__:
            function.backward = staticmethod(_noted(function.backward, function))


def _noted(function: Callable, owner: type) -> Callable:
    """The same function, whose exceptions get a note."""
    from torch.compiler import is_compiling

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            dynamo = sys.modules.get("torch._dynamo")  # which must not trace what is said
            say = dynamo.disable(_note) if dynamo is not None else _note
            say(error, function, owner, args, kwargs)
            raise

    # a code object of its own, since torch.compile counts by code how often it has compiled
    call.__code__ = call.__code__.replace(co_name=function.__name__)
    return call


def _note(error: Exception, function: Callable, owner: type, args: tuple, kwargs: dict) -> None:
    """Adds a note, once."""
    module = sys.modules.get(owner.__module__)
    if module is None or type(error).__name__.startswith(
        "_"
    ):  # checkpoint ends by an exception of its own
        return
    path, traceback = str(module.__file__), error.__traceback__
    if isinstance(error, FloatingPointError):
        said = _first_nonfinite(_places(path), path, traceback, owner)
    elif isinstance(error, TypeError) and traceback is not None and traceback.tb_next is None:
        said = _misfit(_places(path), function, owner, args, kwargs)
    else:
        said = _said(_places(path), path, traceback, owner)
    if said and said not in getattr(error, "__notes__", ()):
        error.add_note(said)


@functools.cache
def _places(path: str) -> Places:
    return Places(Path(path).read_text(encoding="utf-8"))


def _lines(path: str, traceback: TracebackType | None) -> Iterator[tuple[int, set[str]]]:
    """The lines of a generated file in a traceback, from the innermost one outwards, and the words in variables there.

    Of a loop over levels, these have the name of the one that it is at.
    """
    found = []
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == path:
            found.append((traceback.tb_lineno, _words(traceback.tb_frame)))
        traceback = traceback.tb_next
    return reversed(found)


def _words(frame: FrameType) -> set[str]:
    return {x for x in frame.f_locals.values() if isinstance(x, str)}


def _said(places: Places, path: str, traceback: TracebackType | None, owner: type) -> str:
    """``while computing …`` and the spec's line; of code that several levels share, all of theirs."""
    lines = list(_lines(path, traceback))
    numbers = [n for n, _ in lines]
    line = next((n for n in numbers if places.direct(n) is not None), numbers[-1] if lines else 0)
    words = {word for _, found in lines for word in found}
    found = places.of(line)
    if not found:
        return ""
    head = "while computing" if hasattr(owner, "LINES") else "in the backward pass of"
    targets = places.targets(line)
    shown = [_shown(place, places, targets, owner, words) for place in found[:_MOST]]
    if len(found) == 1:
        return f"{head} {shown[0]}"
    more = [f"and {len(found) - _MOST} more"] if len(found) > _MOST else []
    return "\n".join([f"{head} one of", *shown, *more])


def _first_nonfinite(
    places: Places, path: str, traceback: TracebackType | None, owner: type
) -> str:
    """The variable of the generated code that was the first without a finite value, by running the token anew."""
    replay: dict[str, Any] = {}
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename == path and code.co_name == "expect_finite":
            replay = dict(traceback.tb_frame.f_locals)
        traceback = traceback.tb_next
    if not replay:
        return ""
    watch = _Watch(places, path)
    before = sys.gettrace()
    sys.settrace(watch.called)
    try:
        replay["module"].piece(replay["state"], *replay["flows"])
    finally:
        sys.settrace(before)
    if watch.found is None:
        return ""
    name, line, words = watch.found
    place = places.of(line)[0]
    return f"first not finite is {name}, in {_shown(place, places, (name,), owner, words)}"


class _Watch:
    """Looks at the variables of generated code after each line, until one is not finite.

    A negative infinity does not count: it is the logarithm of a gate that is shut.
    """

    def __init__(self, places: Places, path: str):
        self.places, self.path = places, path
        self.found: tuple[str, int, set[str]] | None = None
        self.known: dict[
            FrameType, tuple[int, dict[str, int]]
        ] = {}  # last line, and what was there

    def called(self, frame: FrameType, event: str, arg: object) -> Callable | None:
        if self.found is not None or frame.f_code.co_filename != self.path:
            return None
        self.known[frame] = frame.f_lineno, {n: id(x) for n, x in frame.f_locals.items()}
        return self.stepped

    def stepped(self, frame: FrameType, event: str, arg: object) -> Callable | None:
        line, values = self.known[frame]
        if self.found is None and self.places.direct(line) is not None:
            for name, x in frame.f_locals.items():
                if values.get(name) != id(x) and _bad(x):
                    self.found = name, line, self.around(frame)
                    break
        self.known[frame] = frame.f_lineno, {n: id(x) for n, x in frame.f_locals.items()}
        return self.stepped

    def around(self, frame: FrameType | None) -> set[str]:
        """The words in variables of the generated code that is running."""
        words: set[str] = set()
        while frame is not None:
            words |= _words(frame) if frame.f_code.co_filename == self.path else set()
            frame = frame.f_back
        return words


def _bad(x: object) -> bool:
    import torch

    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        return False
    return bool((x.isnan() | (x == torch.inf)).any())


def _shown(
    place: Place,
    places: Places,
    targets: tuple[str, ...],
    owner: type,
    words: Collection[str] = (),
) -> str:
    """``the key of level S, titans.yaml:23`` and the text of the line, if it is to be had."""
    tree = _tree(*places.spec) if place.file == places.spec[0] else None
    if tree is None:
        return f"what {place} says"
    said, level = named(tree, place.line)
    entries = [entry.split() for entry in getattr(owner, "LINES", "").split(", ") if entry]
    if level is not None:  # one of a family by the name of what is computed, or that a loop is at
        members = [name for name, line in entries if int(line) == level.span.line]
        own = [n for n in members if any(f"{t}_".startswith(f"{n}_") for t in targets)]
        own = own or [n for n in members if n in words]
        found = max(own, key=len) if own else f"{level.span.text} ({', '.join(members)})"
        if len(members) > 1:
            said = said.replace(f"level {level.span.text}", f"level {found}")
    return f"{said}, {place}\n    {tree.source.line(place.line).strip()}"


def named(tree: SpecTree, line: int) -> tuple[str, LevelTree | None]:
    """What a line of a spec belongs to, as ``the key of level S``, ``flow q`` or ``output y``; and which level."""
    starts: list[tuple[int, str, LevelTree | None]] = []
    starts += [(span.line, f"`{key}`", None) for key, span in tree.keys.items()]
    for kind, fields in (("hyper", tree.hyper), ("input", tree.inputs), ("system", tree.use)):
        starts += [(x.span.line, f"{kind} {x.name}", None) for x in fields]
    starts += [(x.span.line, f"weight {x.name}", None) for x in tree.weights]
    starts += [(x.span.line, f"flow {x.span.text}", None) for x in tree.let]
    starts += [(x.span.line, f"output {x.name}".strip(), None) for x in tree.output]
    for level in tree.levels:
        own = f"level {level.span.text}"
        starts.append((level.span.line, own, level))
        keys = (x for x in level.keys.items() if x[0] != "let")
        starts += [(span.line, f"the {key} of {own}", level) for key, span in keys]
        starts += [(x.span.line, f"flow {x.span.text} of {own}", level) for x in level.let]
    before = [s for s in starts if s[0] <= line]
    return max(before, key=lambda s: s[0], default=(0, "the spec", None))[1:]


@functools.cache
def _tree(file: str, digest: str) -> SpecTree | None:
    """The spec that a generated file comes from, by its hash: kept beside the file, or where specs are searched."""
    from nlc.library import search
    from nlc.runtime.loader import kept_spec

    for path in (kept_spec(digest), search().get(Path(file).stem)):
        source = read_source(path, Report()) if path is not None and path.is_file() else None
        if source is not None and hashlib.sha256(source.text.encode()).hexdigest()[:16] == digest:
            return parse(Source(file, source.text), Report())
    return None


def _misfit(places: Places, function: Callable, owner: type, args: tuple, kwargs: dict) -> str:
    """What is said where the arguments of a call are not those of the function."""
    signature = inspect.signature(function)
    parameters = signature.parameters
    own = [n for n in parameters if n != "self"]
    try:
        known = {n: x for n, x in kwargs.items() if n in parameters}
        given = signature.bind_partial(*args, **known).arguments
    except TypeError:  # too many by position
        given = parameters
    needed = [n for n in own if parameters[n].default is inspect.Parameter.empty and n not in given]
    said = [_wanted(places, owner, n) for n in needed]
    for name in (n for n in kwargs if n not in parameters):
        near = nearest(name, own)
        said.append(f"there is no `{name}`" + (f"; did you mean `{near}`?" if near else ""))
    what = owner.__name__ if function.__name__ == "__init__" else function.__qualname__
    by_name = [n for n in own if parameters[n].kind is inspect.Parameter.KEYWORD_ONLY]
    lists = [", ".join(n for n in own if n not in by_name), ", ".join(by_name)]
    takes = ", and by keyword ".join(filter(None, lists)) if lists[0] else f"by keyword {lists[1]}"
    return "\n".join([*said, f"{what}, of {places.spec[0]}, takes {takes}"])


def _wanted(places: Places, owner: type, name: str) -> str:
    """``the flow k [B, T, heads, dk] is missing, delta_net.yaml:21``."""
    shape = re.search(rf'takes_flow\(\s*self, "{re.escape(name)} (\[[^"]*\])"', places.text)
    found = re.search(rf"\b{re.escape(name)} (\d+)", getattr(owner, "LINES", ""))
    at = f", {places.spec[0]}:{found[1]}" if found else ""
    return f"{f'the flow {name} {shape[1]}' if shape else f'`{name}`'} is missing{at}"


__all__ = ["annotate", "named"]
