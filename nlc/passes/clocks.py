"""System -> System: what a slow level gathers over its period, and whether periods fit (language §2).

``sum(e)`` of something that ticks faster than the level that reads it runs over time, not over elements;
only clocks can tell the two apart, so this comes before shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from nlc.base.diagnostics import Label, Report
from nlc.base.span import Span
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.system import Level, System
from nlc.ir.types import BASES, NEVER, SAMPLE, STEP, TOKEN, Clock, fastest


def clocks(system: System, report: Report) -> System:
    """The same system with every gathering marked ``total``; levels whose periods do not fit are reported."""
    return _Clocks(system, report).run()


_MISPLACED = {
    "recent": (
        "only a level sums over its last ticks",
        "this is a flow",
        "write it in an `objective`, a `rule`, a `retain` or an `update`",
    ),
    "total": (
        "`last` reads over the period of a slower level",
        "this is computed in every tick",
        "write the value itself, or `prev(…)` for the one before",
    ),
    "objective": (
        "another level's objective is summed over the period of a slower one",
        "this level ticks as often as the base clock",
        "give the level a longer period",
    ),
}


class _Clocks:
    def __init__(self, system: System, report: Report):
        self.system, self.report = system, report
        self.base = BASES[system.context]
        self.owner = {s.name: s.level for s in system.states.values()}
        self.gradients = {name: s.level for name, s in system.gradients.items()}
        self.flows: dict[str, Clock] = {}
        self.slow: dict[str, list[tuple[Expr, dict[str, Span], Level, bool]]] = {}

    def run(self) -> System:
        levels = {}
        for name, level in self.system.levels.items():
            levels[name] = self._gathered(level) if level.memory.kind != "cache" else level
            self._reset_fits(level)
            if not self.base.faster(level.clock):
                self._misplaced(levels[name].expressions, ("total", "objective"))
        for root, slow in self.slow.items():
            self._which(root, sorted(slow, key=lambda each: min(s.start for s in each[1].values())))
        read = self._read(levels.values())
        self._misplaced(read, ("total", "recent"))
        self._of_samples(read)
        return replace(self.system, levels=levels)

    def _read(self, levels: Iterable[Level]) -> list[Expr]:
        """The outputs and the flows that something reads: others are written out where they stand."""
        system = self.system
        out = list(system.output.values())
        stack = [*out, *(e for level in levels for e in level.expressions)]
        stack += [system.flows[c.marks].expr for c in system.declared.values()]
        seen: set[str] = set()
        while stack:
            for n in walk(stack.pop()):
                if n.op == "flow" and n.attr not in seen and n.attr in system.flows:
                    seen.add(n.attr)
                    stack.append(system.flows[n.attr].expr)
        return out + [system.flows[name].expr for name in seen]

    def _misplaced(self, exprs: Iterable[Expr], ops: tuple[str, ...]) -> None:
        """``last`` says which value of a period is meant; what ticks every time has one."""
        if self.report.has_errors:
            return  # a clock with a mistake may be why
        for node in (n for e in exprs for n in walk(e) if n.op in ops):
            message, label, help = _MISPLACED[node.op]
            span = node.span or self.system.span
            self.report.add("NLC404", message, span, label, helps=[help])

    def _of_samples(self, exprs: Iterable[Expr]) -> None:
        """A flow of a layer is one of each sample; what sums over them belongs to a level."""
        for n in (n for e in exprs for n in walk(e) if n.op in ("sum", "mean")):
            if self.base == SAMPLE and self.clock(n.args[0]) == SAMPLE:
                self.report.add(
                    "NLC404",
                    f"`{n.op}` in a flow of samples",
                    n.span or self.system.span,
                    "over the samples, or over the channels of one?",
                    helps=[
                        "over the samples: write it in an `objective`, a `rule` or an `update`",
                        "over the channels: `dot(x, y)` or `sqnorm(x)`",
                    ],
                )

    def clock(self, e: Expr) -> Clock:
        """The fastest of what an expression reads."""
        return fastest(self._leaf(n) for n in walk(e) if not n.args)

    def _leaf(self, n: Expr) -> Clock:
        if n.op == "flow":
            return self._flow(n.attr)
        if n.op == "objective" and n.attr in self.system.levels:
            return self.system.levels[n.attr].clock
        if n.op == "gradient":
            return self.system.levels[self.gradients[n.attr]].clock
        if n.op == "state" or (n.op == "index" and n.attr[1] is not None):
            name = self.owner.get(n.attr[0]) if n.op == "state" else n.attr[1]
            level = self.system.levels.get(name)
            if level is None:
                return NEVER  # it has a mistake that is reported
            return level.read_at(n.attr[1]) if n.op == "state" else level.clock  # its own ticks
        if n.op == "input":
            return self.base
        if n.op == "g" or (n.op == "index" and n.attr[0] != "head"):
            return STEP if self.system.trains else TOKEN
        return STEP if n.op == "weight" else NEVER

    def _flow(self, name: str) -> Clock:
        if name not in self.system.flows:
            return NEVER  # as above
        if name not in self.flows:
            self.flows[name] = NEVER  # while it is being looked at: a flow may read its own past
            self.flows[name] = self.clock(self.system.flows[name].expr)
        return self.flows[name]

    def _gathered(self, level: Level) -> Level:
        loose: list[tuple[Expr, dict[str, Span]]] = []

        def each(e: Expr) -> Expr:
            marked = rewrite(e, lambda n: self._window(n, level) or self._mark(n, level))
            if self.base.faster(level.clock) and level.clock != NEVER:
                loose.append((e, self._loose(marked, level)))
            return marked

        ticking = replace(level, memory=replace(level.memory, states=()), reset=None)
        marked = ticking.map(each)
        gathers = _gathers_gradient(marked.objective) or any(
            found and e is level.objective for e, found in loose
        )
        slow = [(e, found, level, gathers) for e, found in loose if found]
        root = level.name.partition(".")[0]  # the rule's own states are the level's
        if slow:
            self.slow.setdefault(root, []).extend(slow)
        self._too_late(level, marked.objective, marked.retain)
        return replace(marked, memory=level.memory, reset=level.reset)

    def _too_late(self, level: Level, objective: Expr | None, retain: Expr | None) -> None:
        """A gradient that is gathered is taken at B, which must be known before the period ends."""
        if retain is None or not _gathers_gradient(objective) or level.anchor is not None:
            return
        parts = {"retain": retain, "toward": level.toward}
        found = [(key, self._moving(e, level)) for key, e in parts.items() if e is not None]
        key, late = next(((k, n) for k, n in found if n is not None), ("", None))
        if late is None:
            return
        self.report.add(
            "NLC405",
            f"`{key}` of level `{level.name}` is not known until its period ends",
            late.span or level.span,
            "the gradient is gathered before",
            related=[
                Label(level.keys.get("objective", level.span), "at the state that `retain` leaves")
            ],
            helps=[_decay(level, _quoted(retain))],
        )

    def _moving(self, e: Expr, level: Level) -> Expr | None:
        """What may change within a period of a level: what is gathered, or the state of one that does not wait."""
        return self._moves(e, level, set())

    def _moves(self, e: Expr, level: Level, seen: set[str]) -> Expr | None:
        for n in walk(e):
            if n.op == "total":
                return n
            if n.op == "flow" and n.attr not in seen:
                seen.add(n.attr)  # flows may read each other's past
                if self._moves(self.system.flows[n.attr].expr, level, seen) is not None:
                    return n
            owner = self.owner.get(n.attr[0]) if n.op == "state" else None
            if owner in (None, level.name):  # None: its memory has an error of its own
                continue
            other = self.system.levels[owner].clock
            waits = level.clock.late and other.late and not level.clock.name and not other.name
            if not (waits and level.clock.faster(other) and _divides(level.clock, other)):
                return n
        return None

    def _window(self, n: Expr, level: Level) -> Expr | None:
        """A sum over the last ticks of this level: what reads its state is computed anew for each of them."""
        if n.op != "recent":
            return None
        own = {s.name for s in level.states}
        moves: dict[int, bool] = {}
        for node in walk(n.args[0]):
            moves[id(node)] = (node.op == "state" and node.attr[0] in own) or any(
                moves[id(a)] for a in node.args
            )
            if moves[id(node)] and node.op in ("total", "recent", "conv", "delay", "attend"):
                self.report.add(
                    "NLC404",
                    f"this mixes ticks in a sum over the last ticks of `{level.name}`",
                    node.span or n.span or level.span,
                    f"it reads `{level.name}`, and is computed for each of them",
                    helps=["move it out of the sum, or let it read something else"],
                )
        return Expr("recent", n.args, (n.attr[0], level.clock), None, n.span)

    def _mark(self, n: Expr, level: Level) -> Expr | None:
        """``sum`` and ``mean`` of something faster, and ``last``, run over the level's period."""
        if not self.base.faster(level.clock):
            return None
        kind = "last" if n.op == "total" else n.op
        if kind not in ("sum", "mean", "last") or (
            n.op != "total" and not self.clock(n.args[0]).faster(level.clock)
        ):
            return None
        if not self.clock(n.args[0]).faster(level.clock):
            if self.report.has_errors and NEVER in (level.clock, self.clock(n.args[0])):
                return None  # a clock with a mistake
            self.report.add(
                "NLC404",
                "`last` reads over the period of a slower level",
                n.span or level.span,
                f"this ticks {self.clock(n.args[0])}, `{level.name}` {level.clock}",
                helps=["write the value itself, or `prev(…)` for the one before"],
            )
            return None
        if kind == "last" and self.clock(n.args[0]) == SAMPLE:
            self.report.add(
                "NLC404",
                "samples have no last one",
                n.span or level.span,
                "they come together, in one step",
                helps=["write `mean(…)` or `sum(…)`"],
            )
            return None
        self._one_phase(level, n)
        for leaf in self._gathers(n.args[0]):
            name = self.owner.get(leaf.attr[0], "") if leaf.op == "state" else ""
            name = str(leaf.attr) if leaf.op == "objective" else name
            other = self.system.levels.get(name)
            if other is not None and other.name != level.name:
                self._fits(level, other, n)
        return Expr("total", n.args, (kind, level.clock), None, n.span)

    def _gathers(self, e: Expr) -> Iterator[Expr]:
        """The nodes of what is gathered; those of a slow flow are read as often as it changes."""
        rest, seen = [e], set()
        while rest:
            for n in walk(rest.pop()):
                yield n
                if n.op == "flow" and n.attr not in seen and self.base.faster(self._flow(n.attr)):
                    seen.add(n.attr)
                    rest.append(self.system.flows[n.attr].expr)

    def _one_phase(self, level: Level, n: Expr) -> None:
        """What is gathered ticks at one time in its period."""
        ticks = [(self._leaf(x), x) for x in walk(n.args[0]) if not x.args]
        first = fastest(c for c, _ in ticks)
        found = {(c.phase, c.name): x for c, x in ticks if c.slow and c.order == first.order}
        if len(found) > 1:
            (_, a), (_, b) = list(found.items())[:2]
            self.report.add(
                "NLC402",
                f"`{n.op}` gathers what ticks at two times in a period",
                n.span or level.span,
                f"for level `{level.name}`",
                related=[
                    Label(x.span or level.span, f"this ticks {self._leaf(x)}") for x in (a, b)
                ],
                helps=["gather them one by one"],
            )

    def _fits(self, level: Level, other: Level, n: Expr) -> None:
        """A level that gathers another has a multiple of its period."""
        if other.clock.kind != "every" or level.clock.name or other.clock.name:
            return  # a declared clock ends a period anywhere
        if not _divides(other.clock, level.clock):
            self.report.add(
                "NLC402",
                f"level `{level.name}` ({level.clock}) is not a multiple of `{other.name}` ({other.clock})",
                level.keys.get("frequency", level.span),
                f"{level.clock.default} is not a multiple of {other.clock.default}",
                related=[
                    Label(other.keys.get("frequency", other.span), "the faster level it gathers"),
                    Label(n.span or level.span, f"`{level.name}` gathers `{other.name}` here"),
                ],
                helps=[
                    f"use {' or '.join(map(str, _multiples(level.clock, other.clock)))} {level.clock.unit}s"
                ],
                notes=[f"`{level.name}` would tick in the middle of a period of `{other.name}`"],
                causes=[("slow", level.span), ("slow", other.span)],
            )

    def _reset_fits(self, level: Level) -> None:
        """A level is reset behind whole periods of its own."""
        every = level.reset.every if level.reset is not None else None
        if every is None or every.name or level.clock.name or level.clock.kind != "every":
            return
        if not _divides(level.clock, every):
            self.report.add(
                "NLC402",
                f"level `{level.name}` is reset {every}, in the middle of a period of its own",
                level.reset.span,
                f"{every.default} is not a multiple of {level.clock.default}",
                related=[Label(level.keys.get("frequency", level.span), f"it ticks {level.clock}")],
                helps=[
                    f"use {' or '.join(map(str, _multiples(every, level.clock)))} {every.unit}s"
                ],
                causes=[("slow", level.span)],
            )

    def _loose(self, e: Expr, level: Level) -> dict[str, Span]:
        """What an expression reads that is faster and not gathered, by name, and where it is read first."""
        found: dict[str, Span] = {}
        stack = [e]
        while stack:
            n = stack.pop()
            if n.op == "total":
                continue
            if (
                not n.args
                and n.op in ("flow", "input", "state", "g", "gradient", "index", "objective")
                and self._leaf(n).faster(level.clock)
            ):
                found.setdefault(_called(n), n.span or level.span)
            stack.extend(reversed(n.args))
        return found

    def _which(self, root: str, slow: list[tuple[Expr, dict[str, Span], Level, bool]]) -> None:
        """What is faster must be gathered: which of its values is meant? One message a level."""
        if self.report.again(None, ("unit", self.system.levels[root].span)):
            return  # it counts in what is not counted here: its period may not be meant
        found: dict[str, Span] = {}
        for _, names, _, _ in slow:
            found |= {n: at for n, at in names.items() if n not in found}
        (_, span), *others = found.items()
        *most, last = (f"`{n}`" for n in found)
        level, samples = self.system.levels[root], self.base == SAMPLE
        self.report.add(
            "NLC405",
            f"{', '.join(most)}{' and ' if most else ''}{last} {'tick' if others else 'ticks'} faster than"
            f" level `{root}` ({level.clock})",
            span,
            f"which of its values in a {'step' if samples else 'period'} is meant?",
            related=[Label(at, "and of this") for n, at in others if at.source is span.source],
            helps=dict.fromkeys(_way(*each, samples) for each in slow),
            causes=[("slow", level.span)],
        )


def _way(e: Expr, found: dict[str, Span], level: Level, gathers: bool, samples: bool) -> str:
    """How what is faster in one expression is gathered."""
    name, *others = found
    each = f"`mean({name})`" if samples else f"`last({name})`, `mean({name})`"
    if e is level.objective and others:
        around = "mean" if samples else "sum"
        return f"write `{around}(…)` around the whole objective, or {each}"
    if e is level.retain and gathers and level.anchor is None:
        gathered = any(n.op in ("sum", "mean", "last") for n in walk(e))
        return _decay(level, "…" if gathered else f"last({_quoted(e)})")
    return f"write {each}, or `sum(…)` around what is to be added up"


def _gathers_gradient(objective: Expr | None) -> bool:
    """Whether a gradient is added up over a period, so that what it starts from must be known before."""
    return objective is not None and any(
        n.op == "total" and any(x.op == "state" and x.attr[1] == "var" for x in walk(n))
        for n in walk(objective)
    )


def _decay(level: Level, kept: str) -> str:
    """What to write for a ``retain`` that is known only when the period ends."""
    why = "in place of `retain`: it acts beside the gradient"
    if level.rule is not None and "decay" in level.rule.args:
        return f"multiply `{kept}` into `decay=` of the rule {why}"
    return f"write `decay={kept}` as an argument of the rule {why}"


def _quoted(e: Expr) -> str:
    return (e.span.quote() if e.span is not None else "") or "…"


def _called(n: Expr) -> str:
    """What the user calls a leaf."""
    if n.op in ("g", "gradient"):
        return "g"
    if n.op == "objective":
        return f"{n.attr}.objective"
    if n.op == "state" and n.attr[1] == "prev":
        return f"prev({n.attr[0]})"
    return str(n.attr[0] if isinstance(n.attr, tuple) else n.attr)


def _divides(clock: Clock, other: Clock) -> bool:
    """Whether every period of ``other`` ends with one of ``clock``."""
    return (other.default / clock.default).denominator == 1


def _multiples(clock: Clock, other: Clock) -> list[int]:
    """Periods near ``clock``'s that are multiples of ``other``'s."""
    step = other.default
    below = int(clock.default / step)
    return [int(step * n) for n in (below, below + 1) if n > 0]
