"""The page to read first: text -> tree -> system -> types -> graph -> updates -> program -> source.

``STAGES`` lists the arrows in order; each is one function from one printable value to the next, and bears the name of
its file in ``passes/`` (the first and the last stand in ``syntax/`` and ``backends/``). A stage adds what is wrong to
the report and goes on; ``Spec`` runs them on demand and raises one ``SpecError`` with everything that was found. Those
behind ``soundness`` are imported when they are asked for, since a check is run at every save of a file.
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

from nlc.base.diagnostics import BadPlan, InternalError, Report, SpecError, nearest
from nlc.base.span import Source, Span
from nlc.ir.expr import walk
from nlc.ir.notation import Notation
from nlc.ir.program import Program
from nlc.ir.system import Level, System
from nlc.ir.update import Update
from nlc.lib.rules import SYSTEM
from nlc.passes.clocks import clocks
from nlc.passes.cycles import cycles
from nlc.passes.derive import derive
from nlc.passes.expand import LEVELS, expand
from nlc.passes.infer import infer
from nlc.passes.inline import inline
from nlc.passes.outer import outer
from nlc.passes.resolve import resolve
from nlc.passes.rules import groups, rules
from nlc.passes.soundness import soundness
from nlc.passes.substeps import substeps
from nlc.passes.use import use
from nlc.syntax.allow import silenced
from nlc.syntax.parse import parse
from nlc.syntax.text import decoded
from nlc.syntax.tree import SpecTree
from nlc.syntax.yamlplace import cut
from nlc.syntax.yamltree import read_source
from nlc.version import __version__

if TYPE_CHECKING:
    from nlc.passes.plan import Choice
    from nlc.runtime.bench import Benchmark
    from nlc.runtime.places import Places
    from nlc.runtime.verify import Verification
    from nlc.tools.explain import Explanation
    from nlc.tools.notebook import Derivation, LevelGraph

STAGES = {
    "parse": "text -> SpecTree: YAML and mathematics, every key and expression with its place",
    "expand": "SpecTree -> SpecTree: families written out",
    "resolve": "SpecTree -> System: names, reads of states with their time, calls",
    "use": "System -> System: used systems written out",
    "substeps": "System -> System: levels of several sub-steps a token written out",
    "outer": "System -> System: levels on the outer loss become slow weights",
    "inline": "System -> System: rules that are systems become levels",
    "clocks": "System -> System: what slow levels gather over their periods",
    "infer": "System -> typed System: shapes, widths, heads, clocks, ranges",
    "cycles": "typed System: nothing waits for itself within a tick",
    "derive": "typed System -> Updates: gradients and steps",
    "soundness": "System, Updates -> warnings: steps that can grow without bound",
    "link": "System -> level graph: who reads whom, the order of levels",
    "lower": "System, Updates -> Program: statements and loops",
    "plan": "Program -> Program, Choices: loops over tokens taken apart into scans",
    "placed": "Program -> Program: every statement with its place in the spec",
    "emit": "Program -> source text, by a backend",
}
BACKENDS = tuple(
    sorted(p.parent.name for p in Path(__file__).parent.glob("backends/*/__init__.py"))
)
EXACT = ("reference", "torch")  # those that have float64 and need no device of their own
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
        self._read: dict[str, System] = {}  # those without mistakes

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.paths)

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
        return _not_found(text, f"there is no file `{cut(text)}`", meant)
    known = search()
    if text in known:
        return known[text]
    return _not_found(text, f"there is no spec `{cut(text)}`", nearest(text, known), sorted(known))


def _not_found(text: str, message: str, close: str | None, known: list[str] | None = None) -> Path:
    report, source = Report(), Source("<name>", text)
    report.add(
        "NLC207",
        message,
        Span(source, 0, len(text)),
        f"did you mean `{close}`?" if close else "not found",
        notes=[f"specs: {', '.join(known)}"] if known else [],
        helps=[
            "give a path to a YAML file, or a name that `nlc list` shows",
            *(["`nlc.loads` takes the text of a spec"] if ":" in text or "\n" in text else []),
        ],
    )
    raise SpecNotFound(report)


DEEPEST = 200  # operations inside one another
STATES = 200  # of a system


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
    _rules: dict[str, tuple[System, dict[str, Update]]] = field(default_factory=dict, init=False)
    _plans: dict[tuple, tuple[Program, tuple[Choice, ...]]] = field(
        default_factory=dict, init=False
    )
    _variants: dict[str, Spec] = field(default_factory=dict, init=False)

    def __repr__(self) -> str:
        return f"<nlc.Spec {self.source.name}{' as an operator' if self.as_operator else ''}>"

    def _repr_html_(self) -> str:
        from nlc.tools.notebook import spec_html

        with _deep():
            return spec_html(self)

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
    def _checked(self) -> tuple[System, dict[str, Update]]:
        """Through derivation; later stages pass over what earlier ones found wrong."""
        try:
            with _deep():
                return self._check()
        finally:
            if self.report.has_errors:  # what nothing reads may be so for a mistake
                self.report.drop(lambda d: d.code == "NLC210")
            silenced(self.source, self.report)

    def _check(self) -> tuple[System, dict[str, Update]]:
        system = self._resolved
        self._free_names(system)
        system, updates = self._analysed(system)
        soundness(system, updates, self.report)
        if self.as_operator:
            from nlc.passes.operator import operator

            system = operator(system, updates, self.report)
            self.report.raise_if_errors()
            cycles(system, self.report)
            updates = derive(system, self.report)
        for name, rule in rules(system).items():
            self._rules[name] = self._analysed(rule)
        return system, updates

    def _analysed(self, system: System) -> tuple[System, dict[str, Update]]:
        """From names to updates, for the system and for those beside it."""
        self._bounded(system)
        system = inline(outer(substeps(use(system), self.report)), self.report)
        self._few_states(system)
        system = infer(clocks(system, self.report), self.report)
        self.report.raise_if_errors()
        cycles(system, self.report)
        updates = derive(system, self.report)
        self.report.raise_if_errors()
        return system, updates

    def _bounded(self, system: System) -> None:
        """What lets within lets come to is bounded, as the depth of one expression is, and what used systems do."""
        if (count := _levels(system)) > LEVELS:
            self.report.add(
                "NLC007",
                f"a system has at most {LEVELS} levels",
                next((u.span for u in system.uses.values()), system.span),
                f"{count} with those of the systems that it uses",
            )
            self.report.raise_if_errors()
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

    def _few_states(self, system: System) -> None:
        """What the rules of levels remember counts too."""
        counts = {name: _states(level) for name, level in system.levels.items()}
        if sum(counts.values()) > STATES:
            largest = system.levels[max(counts, key=lambda name: counts[name])]
            self.report.add(
                "NLC007",
                f"a system has at most {STATES} states, those of the rules of its levels with them",
                largest.span,
                f"{counts[largest.name]} of {sum(counts.values())} are of this level",
            )
            self.report.raise_if_errors()

    def _free_names(self, system: System) -> None:
        """Hypers are arguments of the generated constructor, under their own names."""
        from nlc.backends.words import GROUP, RESERVED

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

    @cached_property
    def graph(self) -> LevelGraph:
        """The level graph, a ``networkx.DiGraph``; ``tools/draw`` documents its attributes."""
        from nlc.passes.link import link
        from nlc.tools.notebook import LevelGraph

        return LevelGraph(link(self.system))

    @property
    def updates(self) -> dict[str, Update]:
        """The derived update of every level."""
        return self._checked[1]

    @property
    def rules(self) -> dict[str, tuple[System, dict[str, Update]]]:
        """The gradient systems beside it, by kind of tensor or by the rule of levels on the outer loss."""
        _ = self._checked
        return dict(self._rules)

    def program(self, backend: str = "auto", plan: Plans | None = None) -> Program:
        """The statements that a backend prints."""
        from nlc.passes.lower import lower
        from nlc.passes.placed import placed
        from nlc.tools.about import about

        if plan is not None and not isinstance(plan, Mapping):
            kind = type(plan).__name__
            raise TypeError(f"plan is a dict by level, as {{'S': 'chunked'}}, not {kind}")
        system, updates = self._checked
        name = self.backend(backend)
        reserved = _backend(name).RESERVED
        if name == "reference" and not plan:
            program = lower(system, updates, reserved)
        else:
            program, _ = self._planned(name, plan)
        return replace(
            placed(program),
            about=about(system, self.graph, updates),
            rules={n: placed(lower(s, u, reserved)) for n, (s, u) in self._rules.items()},
            groups=groups(system),
        )

    def choices(self, backend: str = "auto", plan: Plans | None = None) -> tuple[Choice, ...]:
        """What becomes of each level of a token system, and why; empty where no token depends on the one before."""
        return self._planned(self.backend(backend), plan)[1]

    def _planned(self, name: str, plans: Plans | None) -> tuple[Program, tuple[Choice, ...]]:
        from nlc.passes.lower import lower
        from nlc.passes.plan.asked import requested

        asked = (name, tuple(sorted((plans or {}).items())))
        if asked not in self._plans:
            system, updates = self._checked
            reserved = _backend(name).RESERVED
            with _deep():
                lowered = lower(system, updates, reserved)
                found = requested(lowered, reserved, plans or {}, name == "reference", self._said)
            _known_tiles(name, found[0])
            self._plans[asked] = found
        return self._plans[asked]

    def variant(self, text: str) -> Spec:
        """The same spec with another text, read once."""
        if text not in self._variants:
            self._variants[text] = Spec(Source(self.source.name, text), self.as_operator)
        return self._variants[text]

    def _said(self, level: str) -> tuple[list[str], list[str]]:
        """What is to be known of a level whose plan does not hold: its steps, and other ways."""
        from nlc.tools.derivation import update_lines
        from nlc.tools.explain.faster import ways

        system, updates = self._checked
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

    def derive(self, level: str | None = None, format: str = "text") -> Derivation:
        """The derivation, from objective to update, as a ``str``: ``text``, ``latex`` or ``markdown``."""
        from nlc.tools.derivation import derivation
        from nlc.tools.notebook import Derivation

        with _deep():
            text = derivation(self.system, self.updates, level, format)
            return Derivation(text, derivation(self.system, self.updates, level, "latex"))

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

    def places(self, backend: str = "auto", plan: Plans | None = None) -> Places:
        """Which lines of the generated file stem from which of the spec: ``places().of(line)``, ``.lines(place)``."""
        from nlc.runtime.places import Places

        return Places(self.source_text(backend, plan))

    def compile(self, backend: str = "auto", plan: Plans | None = None) -> Any:
        """The class that the generated file defines."""
        from nlc.runtime.loader import load_source

        system = self.system
        module = load_source(
            self.source_text(backend, plan),
            system.name + ("_operator" if self.as_operator else ""),
            self.source.text,
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

    def combined(self, optimizer: Spec) -> LevelGraph:
        """The level graph of this system trained by a gradient system."""
        from nlc.passes.link import combine
        from nlc.tools.notebook import LevelGraph

        return LevelGraph(combine(self.graph, optimizer.graph))

    def page(self, optimizer: Spec | None = None) -> str:
        """The level graph as an HTML file that needs nothing else; with a gradient system, trained by it."""
        from nlc.tools.page import page

        with _deep():
            return page(self, optimizer)

    @property
    def _folder(self) -> Path | None:
        path = Path(self.source.name)
        return path.parent if path.is_file() else None


def _levels(system: System) -> int:
    """How many levels it has once those that it uses are written out."""
    return len(system.levels) + sum(_levels(u.system) for u in system.uses.values())


def _states(level: Level) -> int:
    return len(level.states) + sum(map(_states, level.inner))


def _backend(name: str):
    if not isinstance(name, str):
        raise TypeError(f"a backend is a name, as 'torch', not {type(name).__name__}")
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


def loads(text: str | bytes, name: str = "<text>", *, operator: bool = False) -> Spec:
    """A spec from its text. Raises SpecError if it is given as bytes that are no text."""
    if isinstance(text, str):
        return Spec(Source(name, text), operator)
    report = Report()
    source = decoded(text, name, report)
    report.raise_if_errors()
    assert source is not None
    return Spec(source, operator, report)


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
