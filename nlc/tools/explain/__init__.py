"""Spec -> why each level runs as it does, what it costs, and what would make it faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nlc.backends.triton import RESERVED
from nlc.backends.triton.forms import MOST_KEYS, chunk
from nlc.backends.triton.module import Kernels, in_kernels
from nlc.backends.writer import Header
from nlc.base.span import Span
from nlc.ir.expr import walk
from nlc.ir.program import Program
from nlc.ir.system import Level
from nlc.ir.types import Clock, Dim, Number
from nlc.passes.lower import lower
from nlc.passes.plan import Choice
from nlc.passes.plan.alone import alone
from nlc.passes.plan.asked import requested
from nlc.passes.plan.causes import cause
from nlc.passes.plan.made import with_gates
from nlc.tools.costs import Cost, Costs
from nlc.tools.costs.owners import SYSTEM, exprs
from nlc.tools.derivation import update_lines
from nlc.tools.explain import faster
from nlc.tools.explain.facts import Explanation, Fact
from nlc.tools.explain.text import size
from nlc.tools.sizes import settled

if TYPE_CHECKING:
    from nlc.pipeline import Spec

Said = tuple[
    str, str, str, Span | None, str, tuple[str, ...]
]  # class, plan, why, place, quote, faster
SIDE = 1024  # of the matrix that a gradient system is explained for
_MATRICES = frozenset(
    "matmul outer solve newton_schulz inv_root eigh_basis qr diag sum_rows sum_cols".split()
)
_ONE_KERNEL = (
    "without gradients one kernel scans and reads, if in half precision sequences × heads × "
    "blocks of values are as many as the GPU's multiprocessors; else one scans and another reads"
)
_AT_ONCE = "all at once, in one graph of `torch.compile`; kernels read where sequences are cut"
_APART = "sequences of one length as a batch, which reads on the CPU where they are cut, and piece after piece"
_SUMS = frozenset("sum mean amax amin dot sqnorm norm".split())


def explain(
    spec: Spec,
    backend: str = "auto",
    plans: Mapping[str, str] | None = None,
    hypers: Mapping[str, Any] | None = None,
    tokens: int = 2048,
) -> Explanation:
    """For streams of ``tokens`` at the hypers given, others at their defaults.

    Raises SpecError for a spec with mistakes and for a plan that does not hold, BadHyper and BadPlan for unknown names.
    """
    return _Explainer(spec, backend, dict(plans or {}), dict(hypers or {}), tokens).explain()


class _Explainer:
    def __init__(
        self, spec: Spec, backend: str, plans: dict[str, str], given: dict[str, Any], tokens: int
    ):
        self.spec, self.system, self.plans = spec, spec.system, plans
        self.backend, self.tokens = spec.backend(backend), tokens
        self.hypers = settled(self.system, given)
        self.sizes = {k: v for k, v in self.hypers.items() if not isinstance(v, list)}
        self.gradients = self.system.trains

    def explain(self) -> Explanation:
        spec, system = self.spec, self.system
        sizes: dict[str, Number] = dict(self.sizes)
        if self.gradients:
            trained = next(s.name for s in system.states.values() if s.trained)
            sizes |= {f"rows({trained})": SIDE, f"cols({trained})": SIDE, "samples": SIDE}
            self.choices, self.free = {}, {}
            program = spec.program("reference")
        else:
            self.choices = {c.level: c for c in spec.choices(self.backend, self.plans)}
            other = self.plans or self.backend != spec.backend()
            self.free = {c.level: c for c in spec.choices()} if other else self.choices
            program = self._program()
        chunks = chunk if self.backend == "triton" else None
        costs = Costs(program, sizes, 1 if self.gradients else self.tokens, chunks)
        facts = {}
        for name, cost in costs.levels.items():
            level = system.levels.get(name) or system.outer[name]
            facts[name] = self._fact(level, cost, costs)
        ranked = [[facts[n] for n in part if n in facts] for part in spec.graph.graph["levels"]]
        return Explanation(
            system.name,
            system.context,
            self.backend,
            system.source.name,
            {k: v for k, v in self.hypers.items() if "[" not in k},
            self.tokens,
            (SIDE, SIDE) if self.gradients else None,
            tuple(tuple(part) for part in ranked if part),
            costs.projections,
            costs.rest,
            costs.total,
            _kind_of_step(SYSTEM, costs) if self.gradients else "",
            self._streams(),
        )

    def _program(self) -> Program:
        """What the backend prints, but memories that step alike each by itself."""
        lowered = lower(self.system, self.spec.updates, frozenset())
        self.loop, loops = lowered, self.backend == "reference"
        return requested(lowered, frozenset(), self.plans, loops, stack=False)[0]

    # -------------------------------------------------------------------------------------------- levels

    def _fact(self, level: Level, cost: Cost, costs: Costs) -> Fact:
        clock = self._clock(level.clock)
        choice = self.choices.get(level.name)
        if choice is None:
            kind, how, why, place, quote, quicker = self._steady(level, costs)
            steps = self._updates(level.name)
            return Fact(
                level.name, clock, kind, how, why, place, quote, None, (), cost, quicker, steps
            )
        solve = costs.tiles.get(level.name) if choice.plan != "sequential" else None
        apart = _own_periods(level, choice)
        periods = tuple(map(self._valued, apart))
        if choice.plan == "sequential":
            kind, why, place, quicker = self._sequential(level, choice)
            key = place.text if place is not None and place.text in level.keys else None
            quote = _placed(level, key)[1] if key else place.quote() if place is not None else ""
        else:
            kind, why = choice.kind, _linear(choice) + self._kernels(choice, solve, cost)
            key = _boundary(level) if choice.plan == "anchored" else None
            place, quote = _placed(level, key)
            quicker = tuple(faster.chunked(choice, [self._number(p) for p in apart]))
        return Fact(
            level.name, clock, kind, choice.plan, why, place, quote, solve, periods, cost, quicker
        )

    def _kernels(self, choice: Choice, tile: int | None, cost: Cost) -> str:
        """Where there are kernels, whether it runs in them, and what they keep of its states."""
        if self.backend != "triton" or choice.record is None:
            return ""
        key = choice.record.key
        channels = self._number(key.type.dims[0]) if key is not None else 1
        if channels > MOST_KEYS:
            return f"; in kernels, which take keys of {MOST_KEYS} channels at most, not {channels}"
        said = "; in kernels"
        if tile is not None and choice.plan == "chunked":
            kept = f"{size(cost.state)} for each {tile} tokens, or each `checkpoint`"
            said += f", whose backward pass needs {kept}"
        if self._in_kernels.fused & {*choice.record.states}:
            return f"{said}; {_ONE_KERNEL}"
        return f"{said}; a kernel scans and another reads"

    @cached_property
    def _in_kernels(self) -> Kernels:
        """What the generated file does with kernels."""
        program = with_gates(self.spec.program(self.backend, self.plans), RESERVED)
        return in_kernels(program, Header("", 1, self.backend, "", ""))

    def _streams(self) -> str:
        """Where there are kernels, how packed sequences and ``checkpoint`` run."""
        if self.backend != "triton" or self.gradients:
            return ""
        why = self._in_kernels.apart
        return _AT_ONCE if why is None else f"{_APART}: {why}"

    def _updates(self, level: str) -> tuple[str, ...]:
        """An optimizer's steps are all that there is to say of it; a module's are many, and ``derive`` shows them."""
        updates = self.spec.updates
        return tuple(update_lines(self.system, updates[level])) if self.gradients else ()

    def _number(self, dim: Dim) -> int:
        return int(dim.evaluate(self.sizes))

    def _clock(self, clock: Clock) -> str:
        timed = clock.kind == "every" and not clock.name
        return (
            replace(clock, default=clock.count.evaluate(self.sizes)).valued if timed else str(clock)
        )

    def _valued(self, dim: Dim) -> str:
        return str(self._number(dim)) + (f" ({dim})" if dim.symbols else "")

    def _steady(self, level: Level, costs: Costs) -> Said:
        """What takes no step from token to token: caches, slow weights, and all of a gradient system."""
        if self.gradients:
            return _kind_of_step(level.name, costs), str(level.clock), "", None, "", ()
        if level.memory.kind == "cache":
            why = "it keeps every key and value, and attends to all before"
            place, quote = _placed(level, "memory")
            bounded = "window" in level.memory.options
            more = (
                () if bounded else ("`cache(window=…)` bounds what a token sees (another system)",)
            )
            return "non-parametric", "parallel", why, place, quote, more
        why = (
            "the outer loss trains it, and no token changes it"
            if level.outer
            else "nothing steps it"
        )
        return "constant", "held", why, *_placed(level, "objective"), ()

    def _sequential(
        self, level: Level, choice: Choice
    ) -> tuple[str, str, Span | None, tuple[str, ...]]:
        """Its class by itself, the reason, where that stands, and what would help."""
        free, name = self.free[level.name], level.name
        if free.plan != "sequential":
            return free.kind, *self._requested(choice, free.plan)
        found = cause(free, self.system)
        kind, why = found.kind, found.why
        if kind == "nonlinear" and (own := alone(self.loop, frozenset(), name)) is not None:
            kind = own.kind
        if free.beside:
            why = f"it stands in one loop with `{free.beside}`: {why}"
        elif found.function:
            why = f"{why}: `{found.function}`"
        return kind, why, found.place, tuple(faster.ways(self.spec, name))

    def _requested(self, choice: Choice, without: str) -> tuple[str, None, tuple[str, ...]]:
        """Why a level that need not be is sequential."""
        if self.backend == "reference":
            why = "`reference` takes one token at a time"
            return why, None, (f"the backend `torch` runs it {without}",)
        asked_for = choice.level in self.plans
        why = "it was asked for" if asked_for else f"it needs `{choice.beside}` token by token"
        return why, None, (f"without the request it is {without}",)


def _kind_of_step(owner: str, costs: Costs) -> str:
    """Whether the statements of a level, or of the system, take a tensor number by number."""
    mine = [x for p in costs.parts for x in p.body if costs.owners.of(x) == owner]
    ops = {n.op for x in mine for e in exprs(x) for n in walk(e)}
    if ops & _MATRICES:
        return "matrix"
    return "whole tensor" if ops & _SUMS else "elementwise"


def _linear(choice: Choice) -> str:
    """Why a level needs no loop over tokens."""
    r = choice.record
    if r is None:
        said = "it stands still between boundaries"
    elif r.kind == "coupled":
        said = f"{len(r.states)} states that are linear in one another, written at one key"
    elif r.erases:
        at = "one key" if r.probe is None else "one key and written at another"
        said = f"linear in itself, read and written at {at}".replace("written at one key and ", "")
    else:
        said = "what it adds does not depend on it"
    decay = {
        "scalar": "decays add up as logarithms",
        "channel": "decays add up as logarithms, channel by channel",
        "signed": "a decay that may be negative goes by products",
    }
    if r is not None and r.kind in decay:
        said += f"; {decay[r.kind]}"
    return said


def _own_periods(level: Level, choice: Choice) -> tuple[Dim, ...]:
    """Between which boundaries a level runs: those that its own keys set, else those of what it shares tiles with."""
    clocks = (level.clock, level.anchor, level.reset and level.reset.every)
    own = {c.count for c in clocks if c is not None}
    return tuple(p for p in choice.periods if p in own) or choice.periods


def _boundary(level: Level) -> str:
    """The key that gives it boundaries."""
    return next((k for k in ("anchor", "reset") if k in level.keys), "frequency")


def _placed(level: Level, key: str | None) -> tuple[Span | None, str]:
    """A key's place with its line; without a key what the step follows from."""
    if key is None:
        key = next((k for k in ("objective", "update", "frequency") if k in level.keys), None)
    span = level.keys.get(key) if key else None
    if span is None:
        return None, ""
    line = span.source.line(span.line).strip()
    whole = line.startswith(
        (key, span.text)
    )  # a level of a used system is placed where that is named
    return span, (line.split(" #")[0].strip() if whole else span.quote())


__all__ = ["Explanation", "Fact", "explain"]
