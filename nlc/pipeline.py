"""The page to read first: text -> tree -> system -> types -> graph -> updates -> program -> source.

``STAGES`` lists the arrows in order; each is one function from one printable value to the next. A stage
adds what is wrong to the report and goes on; ``Spec`` runs them on demand and raises one ``SpecError``
with everything that was found.
"""

from __future__ import annotations

import hashlib
import importlib
import keyword
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlc.base.diagnostics import InternalError, Report, SpecError, nearest
from nlc.base.span import Source, Span
from nlc.ir.expr import walk
from nlc.ir.notation import Notation
from nlc.ir.program import Program
from nlc.ir.system import System
from nlc.ir.update import Update
from nlc.lib.rules import SYSTEM
from nlc.passes.clocks import clocks
from nlc.passes.derive import derive
from nlc.passes.expand import expand
from nlc.passes.infer import infer
from nlc.passes.inline import inline
from nlc.passes.link import combine, link
from nlc.passes.lower import lower
from nlc.passes.operator import operator
from nlc.passes.outer import outer
from nlc.passes.plan import Choice, plan
from nlc.passes.plan.asked import BadPlan, requested
from nlc.passes.resolve import resolve
from nlc.passes.rules import groups, rules
from nlc.passes.soundness import soundness
from nlc.passes.use import use
from nlc.syntax.parse import parse
from nlc.syntax.tree import SpecTree
from nlc.syntax.yamltree import read_source
from nlc.version import __version__

if TYPE_CHECKING:
    import networkx as nx

    from nlc.runtime.bench import Benchmark
    from nlc.runtime.verify import Verification
    from nlc.tools.explain import Explanation

STAGES = (
    (
        "parse",
        parse,
        "text -> SpecTree: YAML and mathematics, every key and expression with its place",
    ),
    ("expand", expand, "SpecTree -> SpecTree: families written out"),
    ("resolve", resolve, "SpecTree -> System: names, reads of states with their time, calls"),
    ("use", use, "System -> System: used systems written out"),
    ("outer", outer, "System -> System: levels on the outer loss become slow weights"),
    ("inline", inline, "System -> System: rules that are systems become levels"),
    ("clocks", clocks, "System -> System: what slow levels gather over their periods"),
    ("infer", infer, "System -> typed System: shapes, widths, heads, clocks, ranges"),
    ("link", link, "typed System -> level graph: who reads whom, cycles, the order of levels"),
    ("derive", derive, "System -> Updates: gradients and steps"),
    ("soundness", soundness, "System, Updates -> warnings: steps that can grow without bound"),
    ("lower", lower, "System, Updates -> Program: statements and loops"),
    ("plan", plan, "Program -> Program, Choices: loops over tokens taken apart into scans"),
    ("emit", None, "Program -> source text, by a backend"),
)
BACKENDS = ("reference", "torch", "triton")
EXACT = BACKENDS[:2]  # those that have float64 and need no device of their own
Plans = Mapping[str, str]  # by level: "sequential", "chunked", "anchored", "chunked(32)"
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
        self.paths, self.within = search(beside), within

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.paths)

    def system(self, name: str, span: Span, report: Report) -> System | None:
        """A system with its names resolved; its own warnings are not this spec's."""
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
    text = os.fspath(name)
    path = Path(text)
    if path.suffix in (".yaml", ".yml") or os.sep in text:
        if path.is_file():
            return path
        if path.is_dir():
            return _not_found(text, f"`{text}` is a folder, not a spec", None)
        near = [p.name for p in path.parent.glob(f"*{_SUFFIX}")] if path.parent.is_dir() else []
        close = nearest(path.name, near)
        return _not_found(
            text, f"there is no file `{text}`", str(path.parent / close) if close else None
        )
    known = search()
    if text in known:
        return known[text]
    return _not_found(text, f"there is no spec `{text}`", nearest(text, known), sorted(known))


def _not_found(text: str, message: str, close: str | None, known: list[str] | None = None) -> Path:
    report, source = Report(), Source("<name>", text)
    report.add(
        "NLC207",
        message,
        Span(source, 0, len(text)),
        f"did you mean `{close}`?" if close else "not found",
        notes=[f"specs: {', '.join(known)}"] if known else [],
        helps=["give a path to a YAML file, or a name that `nlc list` shows"],
    )
    raise SpecNotFound(report)


DEEPEST = 200  # operations inside one another


@contextmanager
def _deep() -> Iterator[None]:
    """Room for recursion over expressions: derived gradients are deeper than what they derive from."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 100 * DEEPEST))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@dataclass(repr=False)
class Spec:
    """A spec and what the compiler makes of it, stage by stage, each computed when asked for.

    Attributes raise ``SpecError`` with every mistake of the text; ``report`` never does.
    """

    source: Source
    as_operator: bool = False
    report: Report = field(default_factory=Report)
    _rules: dict[str, tuple[System, nx.DiGraph, dict[str, Update]]] = field(
        default_factory=dict, init=False
    )

    def __repr__(self) -> str:
        return f"<nlc.Spec {self.source.name}{' as an operator' if self.as_operator else ''}>"

    # -------------------------------------------------------------------------------------------- stages

    @cached_property
    def tree(self) -> SpecTree:
        """The keys and expressions as written (families written out)."""
        tree = parse(self.source, self.report)
        if tree is None:
            self.report.raise_if_errors()
            raise InternalError("parse gave neither a tree nor a diagnostic")
        return expand(tree, self.report)

    @cached_property
    def _resolved(self) -> System:
        here = str(Path(self.source.name).resolve())
        return resolve(self.tree, self.report, Library(self._folder, (here,)))

    @cached_property
    def _checked(self) -> tuple[System, nx.DiGraph, dict[str, Update]]:
        """Through derivation; later stages pass over what earlier ones found wrong."""
        with _deep():
            return self._check()

    def _check(self) -> tuple[System, nx.DiGraph, dict[str, Update]]:
        system = self._resolved
        self._free_names(system)
        system, graph, updates = self._analysed(system)
        soundness(system, updates, self.report)
        if self.as_operator:
            system = operator(system, updates, self.report)
            self.report.raise_if_errors()
            graph, updates = link(system, self.report), derive(system, self.report)
        for name, rule in rules(system).items():
            self._rules[name] = self._analysed(rule)
        return system, graph, updates

    def _analysed(self, system: System) -> tuple[System, nx.DiGraph, dict[str, Update]]:
        """From names to updates, for the system and for those beside it."""
        self._shallow(system)
        system = outer(use(system))
        system = infer(clocks(inline(system, self.report), self.report), self.report)
        self.report.raise_if_errors()
        graph = link(system, self.report)
        updates = derive(system, self.report)
        self.report.raise_if_errors()
        return system, graph, updates

    def _shallow(self, system: System) -> None:
        """What lets within lets come to is bounded, as the depth of one expression is."""
        exprs = [e for level in system.levels.values() for e in level.expressions]
        for e in (*exprs, *(f.expr for f in system.flows.values()), *system.output.values()):
            depth: dict[int, int] = {}
            for node in walk(e):
                depth[id(node)] = 1 + max((depth[id(a)] for a in node.args), default=0)
            if depth[id(e)] > DEEPEST:
                self.report.add(
                    "NLC007",
                    f"this expression is more than {DEEPEST} operations deep",
                    e.span or system.span,
                    "with what it reads written out",
                    helps=["split it, with a level or a flow that stands on its own in between"],
                )

    def _free_names(self, system: System) -> None:
        """Hypers are arguments of the generated constructor, under their own names."""
        from nlc.backends.reference import GROUP, RESERVED

        taken = RESERVED | GROUP if system.context == "gradients" else RESERVED
        for hyper in system.hypers.values():
            if hyper.name in taken or keyword.iskeyword(hyper.name):
                self.report.add(
                    "NLC106",
                    f"`{hyper.name}` cannot be a hyper",
                    hyper.span,
                    "Python or the generated file uses this name itself",
                    helps=["choose another name"],
                )
        for flow in system.flows.values():
            start = flow.name.removesuffix(".init")
            if start != flow.name and any(
                s.learned for s in system.states.values() if s.level == start
            ):
                self.report.add(
                    "NLC106",
                    f"`init` cannot be a flow of level `{start}`",
                    flow.span,
                    f"`{start}.init` is the learned start",
                    helps=["choose another name"],
                )

    @property
    def system(self) -> System:
        """The typed system."""
        return self._checked[0]

    @property
    def graph(self) -> nx.DiGraph:
        """The level graph; ``tools/draw`` documents its attributes."""
        return self._checked[1]

    @property
    def updates(self) -> dict[str, Update]:
        """The derived update of every level."""
        return self._checked[2]

    @property
    def rules(self) -> dict[str, tuple[System, dict[str, Update]]]:
        """The gradient systems beside it, by kind of tensor or by the rule of levels on the outer loss."""
        _ = self._checked
        return {name: (system, updates) for name, (system, _, updates) in self._rules.items()}

    def program(self, backend: str = "auto", plan: Plans | None = None) -> Program:
        """The statements that a backend prints."""
        from nlc.tools.about import about

        system, graph, updates = self._checked
        name = self.backend(backend)
        reserved = _backend(name).RESERVED
        if name == "reference" and not plan:
            program = lower(system, updates, reserved)
        else:
            program, _ = self._planned(name, plan)
        return replace(
            program,
            about=about(system, graph, updates),
            rules={n: lower(s, u, reserved) for n, (s, _, u) in self._rules.items()},
            groups=groups(system),
        )

    def choices(self, backend: str = "auto", plan: Plans | None = None) -> tuple[Choice, ...]:
        """What becomes of each level of a token system, and why; empty where no token depends on the one before."""
        return self._planned(self.backend(backend), plan)[1]

    def _planned(self, name: str, plans: Plans | None) -> tuple[Program, tuple[Choice, ...]]:
        system, _, updates = self._checked
        reserved = _backend(name).RESERVED
        with _deep():
            lowered = lower(system, updates, reserved)
            found = requested(lowered, reserved, plans or {}, name == "reference", self._said)
        _known_tiles(name, found[0])
        return found

    def _said(self, level: str) -> tuple[list[str], list[str]]:
        """What is to be known of a level whose plan does not hold: its steps, and other ways."""
        from nlc.tools.derivation import update_lines
        from nlc.tools.explain.faster import ways

        system, _, updates = self._checked
        steps = update_lines(system, updates[level]) if level in updates else []
        return steps, ways(self, level)

    def backend(self, name: str = "auto") -> str:
        """Who prints the program; ``auto`` is ``torch``, which takes every system."""
        if name != "auto":
            if self.system.context not in _backend(name).CONTEXTS:
                self._without(name)
            return name
        return "torch"

    def _without(self, backend: str) -> None:
        """Raises SpecError: the backend has no form of such a system."""
        report, system = Report(), self.system
        report.add(
            "NLC702",
            f"the backend `{backend}` has no form of `{system.name}`",
            system.span,
            f"a system over {system.context}",
            helps=[f"compile it with `{self.backend()}`"],
        )
        report.raise_if_errors()

    # -------------------------------------------------------------------------------------------- what users ask for

    def check(self) -> Report:
        """Everything that is wrong with the text, as a report; never raises for a mistake of the user's."""
        with suppress(SpecError):
            _ = self._checked
        return self.report

    def derive(self, level: str | None = None, format: str = "text") -> str:
        """The derivation, from objective to update; ``format`` is ``text`` or ``latex``."""
        from nlc.tools.derivation import derivation

        with _deep():
            return derivation(self.system, self.updates, level, format)

    def source_text(self, backend: str = "auto", plan: Plans | None = None) -> str:
        """The generated file."""
        from nlc.backends.writer import Header

        name = self.backend(backend)
        header = Header(
            __version__,
            1,
            name,
            Path(self.source.name).name,
            hashlib.sha256(self.source.text.encode()).hexdigest()[:16],
        )
        with _deep():
            return _backend(name).emit(self.program(name, plan), header)

    def compile(self, backend: str = "auto", plan: Plans | None = None) -> Any:
        """The class that the generated file defines."""
        from nlc.runtime.loader import load_source

        system = self.system
        module = load_source(
            self.source_text(backend, plan), system.name + ("_operator" if self.as_operator else "")
        )
        made = getattr(module, module.__all__[0])
        made.__source_file__ = module.__file__
        return made

    def verify(
        self,
        *,
        seed: int = 0,
        tokens: int = 2000,
        hypers: dict[str, Any] | None = None,
        against: type | str | None = None,
        peer: dict[str, Any] | None = None,
    ) -> Verification:
        """What was compiled against the spec itself, on random inputs; ``runtime/verify`` says how.

        ``tokens``: how long memories are watched. ``hypers`` are kept as given, others made small. ``against``: a class
        of optimizers, or its path, that a gradient system is compared with, ``peer`` its other arguments.
        """
        from nlc.runtime.verify import verify

        with _deep():
            more = {"against": against, "peer": peer}
            return verify(self, EXACT, seed=seed, tokens=tokens, hypers=hypers, **more)

    def explain(
        self,
        backend: str = "auto",
        plan: Plans | None = None,
        *,
        hypers: dict[str, Any] | None = None,
        tokens: int = 2048,
    ) -> Explanation:
        """Class, plan, reason and cost of every level, at ``hypers`` and for streams of ``tokens``."""
        from nlc.tools.explain import explain

        with _deep():
            return explain(self, backend, plan, hypers, tokens)

    def bench(
        self,
        *,
        backends: Sequence[str] = (),
        tokens: Sequence[int] = (256, 1024, 4096),
        batch: int = 1,
        hypers: dict[str, Any] | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        threads: int | None = None,
        seconds: float = 5.0,
        seed: int = 0,
        progress: Callable[[str], None] | None = None,
    ) -> Benchmark:
        """Tokens a second and peak memory at each T of ``tokens``; ``runtime/bench`` says how.

        Args:
            backends: those to measure; without them, every one that can compile this.
            hypers: other than the spec's own.
            threads: of torch, None for as many as there are now.
            seconds: of timing for each backend, mode and T. What would take longer is skipped, and says so.
            progress: is told what is being measured.

        Raises SpecError, BadHyper as ``verify`` does, NotMeasurable for an optimizer or a device that is not there.
        """
        from nlc.runtime.bench import bench

        with _deep():
            return bench(
                self,
                backends or (EXACT if device == "cpu" else BACKENDS),
                every=bool(backends),
                tokens=tokens,
                batch=batch,
                hypers=hypers or {},
                dtype=dtype,
                device=device,
                threads=threads,
                seconds=seconds,
                seed=seed,
                progress=progress,
            )

    def combined(self, optimizer: Spec) -> nx.DiGraph:
        """The level graph of this system trained by a gradient system."""
        return combine(self.graph, optimizer.graph)

    @property
    def _folder(self) -> Path | None:
        path = Path(self.source.name)
        return path.parent if path.is_file() else None


def _backend(name: str):
    if name not in BACKENDS:
        close = nearest(name, BACKENDS)
        raise ValueError(
            f"there is no backend {name!r}"
            + (f"; did you mean {close!r}?" if close else f"; backends: {', '.join(BACKENDS)}")
        )
    return importlib.import_module(f"nlc.backends.{name}")


def _known_tiles(name: str, program: Program) -> None:
    """BadPlan for a tile that the backend cannot have."""
    tiles = _backend(name).TILES
    asked = {tile for tile in (program.tile, program.channel_tile) if tile is not None}
    if tiles is None:
        return
    for tile in asked.difference(tiles):
        known = ", ".join(map(str, tiles))
        raise BadPlan(f"the backend {name} has tiles of {known} tokens, not of {tile}")
    if len(asked) > 1:
        raise BadPlan(f"the backend {name} has one tile for all levels, not {sorted(asked)}")


def load(spec: str | os.PathLike[str], *, operator: bool = False) -> Spec:
    """A spec by name or path. Raises SpecError if there is none or it is not readable text."""
    path = find(spec)
    report = Report()
    source = read_source(path, report)
    report.raise_if_errors()
    assert source is not None
    return Spec(source, operator, report)


def loads(text: str, name: str = "<text>", *, operator: bool = False) -> Spec:
    """A spec from its text."""
    return Spec(Source(name, text), operator)


__all__ = [
    "BACKENDS",
    "STAGES",
    "Notation",
    "Spec",
    "SpecError",
    "find",
    "load",
    "loads",
    "search",
    "shipped",
]
