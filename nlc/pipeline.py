"""The page to read first: text -> tree -> system -> types -> graph -> updates -> program -> source.

``STAGES`` lists the arrows in order; each is one function from one printable value to the next, and bears the name of
its file in ``passes/`` (the first and the last stand in ``syntax/`` and ``backends/``). A stage adds what is wrong to
the report and goes on; ``Spec`` runs them on demand and raises one ``SpecError`` with everything that was found. Those
behind ``soundness`` are imported when they are asked for, since a check is run at every save of a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nlc.answers import Answers
from nlc.backends import BACKENDS, EXACT, backend_module, known_tiles
from nlc.backends.words import free_names
from nlc.base.diagnostics import InternalError, Report, SpecError
from nlc.base.span import Source
from nlc.generated import Plans
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
from nlc.passes.limits import deep, few_states, limits
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
    from nlc.tools.notebook import LevelGraph

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


@dataclass(repr=False)
class Spec(Answers):
    """A spec and what the compiler makes of it, stage by stage, each computed when asked for.

    Attributes raise ``SpecError`` with every mistake of the text; ``report`` never does. What is made of the stages is
    in ``answers.py``.
    """

    source: Source
    as_operator: bool = False
    report: Report = field(default_factory=Report)
    _rules: dict[str, tuple[System, dict[str, Update]]] = field(default_factory=dict, init=False)
    _plans: dict[tuple, tuple[Program, tuple[Choice, ...]]] = field(
        default_factory=dict, init=False
    )
    files: dict[tuple, Printed] = field(default_factory=dict, init=False)
    _variants: dict[str, Spec] = field(default_factory=dict, init=False)

    def __repr__(self) -> str:
        return f"<nlc.Spec {self.source.name}{' as an operator' if self.as_operator else ''}>"

    def _repr_html_(self) -> str:
        from nlc.tools.notebook import spec_html

        with deep():
            return spec_html(self)

    def _repr_latex_(self) -> str | None:
        from nlc.tools.notebook import spec_latex

        with deep():
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
            with deep():
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
            with deep():
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
