"""The page to read first: text -> tree -> system -> types -> graph -> updates -> program -> source.

``STAGES`` lists the arrows in order; each is one function from one printable value to the next, and bears the name of
its file in ``passes/`` (the first and the last stand in ``syntax/`` and ``backends/``). A stage adds what is wrong to
the report and goes on; ``Spec`` runs them on demand and raises one ``SpecError`` with everything that was found. Those
behind ``soundness`` are imported when they are asked for, since a check is run at every save of a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlc.backends import BACKENDS, EXACT, backend_module, known_tiles
from nlc.backends.words import free_names
from nlc.base.diagnostics import InternalError, Report, SpecError
from nlc.base.span import Source
from nlc.generated import Asked, Plans, in_two, printed
from nlc.ir.notation import Notation
from nlc.ir.program import Program
from nlc.ir.system import System
from nlc.ir.update import Update
from nlc.library import Library, find, search, shipped
from nlc.passes.clocks import clocks
from nlc.passes.cycles import cycles
from nlc.passes.derive import derive
from nlc.passes.evaluated import evaluated
from nlc.passes.expand import expand
from nlc.passes.indices import indices
from nlc.passes.infer import infer
from nlc.passes.inline import inline
from nlc.passes.limits import DEEPEST, few_states, limits
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
from nlc.syntax.yamltree import read_source

if TYPE_CHECKING:
    from nlc.backends.printed import Printed
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
    "indices": "System -> System: inputs that count the rows of embeddings",
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

    def _repr_latex_(self) -> str | None:
        from nlc.tools.notebook import spec_latex

        with _deep():
            return spec_latex(self)

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
        free_names(system, self.report)
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
        limits(system, self.report)
        system = indices(use(system), self.report)
        system = inline(outer(substeps(system, self.report)), self.report)
        few_states(system, self.report)
        system = infer(clocks(system, self.report), self.report)
        self.report.raise_if_errors()
        system = evaluated(system, self.report)
        cycles(system, self.report)
        updates = derive(system, self.report)
        self.report.raise_if_errors()
        return system, updates

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
        reserved = backend_module(name).RESERVED
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
            reserved = backend_module(name).RESERVED
            with _deep():
                lowered = lower(system, updates, reserved)
                found = requested(lowered, reserved, plans or {}, name == "reference", self._said)
            known_tiles(name, found[0])
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
            if self.system.context not in backend_module(name).CONTEXTS:
                self.refuse(name)
            return name
        return "torch"

    def refuse(self, backend: str, why: str = "") -> None:
        """Raises SpecError: the backend has no form of such a system."""
        report, system = Report(), self.system
        report.add(
            "NLC702",
            f"the backend `{backend}` has no form of `{system.name}`",
            system.span,
            why or f"a system over {system.context}",
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
        """The derivation, from objective to update, as a ``str``: ``text``, ``latex`` or ``markdown``.

        ``level`` is a level or a family of them; all levels without it.
        """
        from nlc.tools.derivation import derivation
        from nlc.tools.notebook import Derivation

        with _deep():
            text = derivation(self.system, self.updates, level, format)
            return Derivation(text, derivation(self.system, self.updates, level, "latex"))

    def source_text(
        self,
        backend: str = "auto",
        plan: Plans | None = None,
        without: Iterable[str] = (),
        fused: bool = False,
    ) -> str:
        """The generated file; ``without`` are parts that it leaves out, ``fused`` as ``nlc.compile`` has it."""
        return self._printed(Asked(backend, plan, without, fused)).text

    def source_files(
        self,
        model: str,
        helpers: str,
        backend: str = "auto",
        plan: Plans | None = None,
        without: Iterable[str] = (),
        fused: bool = False,
    ) -> tuple[str, str]:
        """The generated file in two: the class, and the functions and constants that it imports.

        ``model`` is the name of the first file, ``helpers`` the module that it imports: ``.ops`` inside a package,
        ``ops`` of a folder that is on Python's path.
        """
        return in_two(self._printed(Asked(backend, plan, without, fused)), model, helpers)

    def _printed(self, asked: Asked) -> Printed:
        with _deep():
            return printed(self, asked)

    def places(self, backend: str = "auto", plan: Plans | None = None) -> Places:
        """Which lines of the generated file stem from which of the spec: ``places().of(line)``, ``.lines(place)``."""
        from nlc.runtime.places import Places

        return Places(self.source_text(backend, plan))

    def compile(
        self,
        backend: str = "auto",
        plan: Plans | None = None,
        without: Iterable[str] = (),
        fused: bool = False,
    ) -> Any:
        """The class that the generated file defines, ``without`` and ``fused`` as ``nlc.compile`` has them."""
        from nlc.runtime.loader import load_source

        system = self.system
        module = load_source(
            self.source_text(backend, plan, without, fused),
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
    "EXACT",
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
