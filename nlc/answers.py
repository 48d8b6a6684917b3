"""What users ask of a spec: its report and derivation, the generated file and its class, checks, costs, pictures.

Each is a function elsewhere, which is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nlc.backends import BACKENDS, EXACT
from nlc.base.diagnostics import Report, SpecError
from nlc.base.span import Source
from nlc.generated import Asked, Plans, in_two, printed
from nlc.ir.system import System
from nlc.ir.update import Update
from nlc.passes.limits import deep

if TYPE_CHECKING:
    from nlc.backends.printed import Printed
    from nlc.pipeline import Spec
    from nlc.runtime.bench import Benchmark
    from nlc.runtime.places import Places
    from nlc.runtime.verify import Verification
    from nlc.tools.explain import Explanation
    from nlc.tools.notebook import Derivation, LevelGraph


class Answers:
    """The part of ``Spec`` that does not know how its stages are made."""

    source: Source
    as_operator: bool
    report: Report
    system: System
    updates: dict[str, Update]
    graph: LevelGraph

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

        with deep():
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
        with deep():
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

        with deep():
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

        with deep():
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

        with deep():
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

        with deep():
            return page(self, optimizer)
