"""A system whose names are settled: flows, memories and levels, with expressions over typed leaves.

Leaves of a resolved expression: ``num`` ``bool`` ``hyper(name)`` ``input(name)`` ``flow(name)`` ``weight(path)``
``index(what, level)`` ``g`` and ``state((name, time))``. A state's time is decided where it is read (language §2):
``now`` its new value of this tick, ``prev`` before the tick, ``anchor`` at its last boundary, ``var`` the variable of
its own objective, ``base`` the point B from which its step starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from nlc.base.span import Source, Span
from nlc.ir.expr import Expr, walk
from nlc.ir.routes import Route
from nlc.ir.types import ANY, ONE, Clock, Dim, Dims, Number, Range


@dataclass(frozen=True)
class Hyper:
    """``default`` is an expression over other hypers; ``value`` is what it comes to (a list for a family's hyper)."""

    name: str
    default: Expr
    value: Number | bool | list[Number] | None
    span: Span
    static: bool = False  # used in shapes, periods or step counts: fixed at construction

    @property
    def derived(self) -> bool:
        """Whether the default is computed from other hypers."""
        return any(node.op == "hyper" for node in walk(self.default))

    @property
    def symbol(self) -> Dim:
        """The hyper as a size."""
        return Dim.of(self.name)

    @property
    def size(self) -> Dim | None:
        """The default as a size over hypers, where it is one."""
        return _polynomial(self.default)


def _polynomial(e: Expr) -> Dim | None:
    if e.op == "num" and isinstance(e.attr, int):
        return Dim.of(e.attr)
    if e.op == "hyper":
        return Dim.of(e.attr)
    if e.op not in ("add", "sub", "mul", "div"):
        return None
    a, b = (_polynomial(x) for x in e.args)
    if a is None or b is None:
        return None
    try:
        return {"add": a.__add__, "sub": a.__sub__, "mul": a.__mul__, "div": a.__truediv__}[e.op](b)
    except (ValueError, ZeroDivisionError):
        return None


@dataclass(frozen=True)
class Input:
    """``head``: the tensor is [B, T, H, n], as for an operator. ``range``: of what it stands for in its system.

    ``rows``: it counts the rows of an embedding, and is a whole number below this.
    """

    name: str
    dims: Dims
    head: bool
    span: Span
    range: Range = ANY
    rows: Dim | None = None


@dataclass(frozen=True)
class Weight:
    """A free slow weight; ``init`` is an expression over ``uniform`` and ``normal``."""

    path: str
    span: Span
    dims: Dims
    head: bool = False
    init: Expr | None = None


@dataclass(frozen=True)
class Module:
    """The slow weights of one use of a function (``q.linear``), named by where it stands.

    ``width`` is the stated width of ``linear`` or the taps of ``conv``; inference fills ``inner`` and ``outer``, the
    channels that it takes and gives (``outer`` None: a scalar), and ``head``, whether there is one set a head.
    ``rows`` are those of an ``embedding``.
    """

    path: str
    function: str
    span: Span
    width: Dim | None = None
    bias: bool = False
    shared: bool = False
    rows: Dim | None = None
    inner: Dim | None = None
    outer: Dim | None = None
    head: bool = False

    @property
    def shapes(self) -> dict[str, Dims]:
        """Its tensors by name, without the head axis."""
        outer = self.outer if self.outer is not None else ONE
        if self.function == "layernorm":
            return {"weight": (self.inner,), "bias": (self.inner,)}
        if self.function == "rmsnorm":
            return {"weight": (self.inner,)}
        if self.function == "embedding":
            return {"weight": (self.rows, outer)}
        second = self.inner if self.function == "linear" else self.width
        return {"weight": (outer, second), **({"bias": (outer,)} if self.bias else {})}


@dataclass(frozen=True)
class Flow:
    """A named value of every tick of its clock. ``level`` is the level in whose scope it stands, if any.

    ``dims``: the shape that is declared of it, as of the inputs of a used system.
    """

    name: str
    expr: Expr
    span: Span
    level: str | None = None
    dims: Dims | None = None


@dataclass(frozen=True)
class State:
    """One tensor of a memory. ``init``: None for zeros, ``learned`` for a slow weight, else an expression."""

    name: str
    level: str
    dims: Dims
    span: Span
    init: Expr | None = None
    learned: bool = False
    dtype: str | None = None
    trained: bool = False  # the tensor that a gradient system trains
    given: bool = (
        False  # an operator's: what is learned of its start comes in with the stream's state
    )
    passing: bool = False  # between two sub-steps: the next token knows nothing of it

    @property
    def borrowed(self) -> bool:
        """Whether it starts from another tensor's value, which must be kept to be known later."""
        copied = self.init is not None and any(n.op == "state" for n in walk(self.init))
        return self.trained or self.given or copied or self.drawn

    @property
    def drawn(self) -> bool:
        """Whether it starts at random, once for each tensor that an optimizer trains."""
        random = self.init is not None and self.init.op in ("normal", "uniform")
        return random and not self.learned


@dataclass(frozen=True)
class Memory:
    """``read`` is the body of ``M(z)`` over the parameter leaf ``param(z)`` and ``self`` leaves, or None."""

    kind: str
    states: tuple[State, ...]
    params: tuple[str, ...] = ()
    read: Expr | None = None
    options: dict[str, Expr] = field(default_factory=dict, compare=False)
    text: str = ""


@dataclass(frozen=True)
class Rule:
    """A call of a step formula, or of a gradient system (``system``) that is the rule (language §3).

    ``args`` are the arguments given, over the caller's names; ``sizes`` are those of hypers that the system fixes at
    construction.
    """

    name: str
    args: dict[str, Expr]
    span: Span
    system: System | None = None
    sizes: dict[str, Dim] = field(default_factory=dict)


@dataclass(frozen=True)
class Reset:
    """At the end of every period of ``every`` the memory returns to ``to``, or to where it started.

    ``rule``: the states of its rule, where that is an optimizer, start over too.
    """

    every: Clock
    to: Expr | None
    span: Span
    rule: bool = False


@dataclass(frozen=True)
class Level:
    """A component with a state of its own. ``update`` maps state names to expressions where there is no ``rule``.

    ``inner``: where the rule is a gradient system, the step of that system's trained tensor for each state, as a level
    without a state of its own; ``gradient`` leaves of its name are the gradients of its objective.
    ``source``: the state that its step starts from, instead of its own before the tick.
    """

    name: str
    span: Span
    clock: Clock
    memory: Memory
    objective: Expr | None = None
    rule: Rule | None = None
    update: dict[str, Expr] | None = None
    retain: Expr | None = None
    toward: Expr | None = None
    source: Expr | None = None
    project: Expr | None = None
    anchor: Clock | None = None
    reset: Reset | None = None
    backprop: bool = True
    through: str | None = None  # the level through whose updates its gradient passes (eq. 72)
    outer: bool = False  # its objective is the outer loss: its states are slow weights
    inner: tuple[Level, ...] = ()
    doc: str = ""
    head: bool = False
    keys: dict[str, Span] = field(default_factory=dict, compare=False)

    @property
    def states(self) -> tuple[State, ...]:
        return self.memory.states

    @property
    def boundary(self) -> Clock | None:
        """When its anchor moves: as a period starts, or behind the tick of a declared clock."""
        if self.anchor is None or self.anchor.name:
            return self.anchor
        return replace(self.anchor, phase="start")

    @property
    def clocks(self) -> tuple[Clock, ...]:
        """Every clock that something of it follows."""
        found = (self.clock, self.anchor, self.reset.every if self.reset else None)
        return tuple(c for c in found if c is not None)

    def read_at(self, time: str) -> Clock:
        """How often a read of its state changes."""
        return self.boundary if time == "anchor" and self.boundary is not None else self.clock

    @property
    def expressions(self) -> Iterator[Expr]:
        """Everything that its tick evaluates, besides flows."""
        parts = [self.objective, self.retain, self.toward, self.source, self.project]
        parts += [self.reset.to] if self.reset else []
        parts += list(self.rule.args.values()) if self.rule else []
        parts += list(self.update.values()) if self.update else []
        parts += [e for level in self.inner for e in level.expressions]
        return (e for e in parts if e is not None)

    def map(self, rule: Callable[[Expr], Expr]) -> Level:
        """Every expression of the level rewritten."""

        def each(e: Expr | None) -> Expr | None:
            return None if e is None else rule(e)

        return replace(
            self,
            objective=each(self.objective),
            rule=self.rule
            and replace(self.rule, args={k: rule(e) for k, e in self.rule.args.items()}),
            update=self.update and {k: rule(e) for k, e in self.update.items()},
            retain=each(self.retain),
            toward=each(self.toward),
            source=each(self.source),
            project=each(self.project),
            reset=self.reset and replace(self.reset, to=each(self.reset.to)),
            memory=replace(
                self.memory, states=tuple(replace(s, init=each(s.init)) for s in self.states)
            ),
            inner=tuple(level.map(rule) for level in self.inner),
        )


@dataclass(frozen=True)
class Use:
    """Another token system that is used as a function: its hypers, and what stands for its inputs."""

    name: str
    system: System
    args: dict[str, Expr]
    sizes: dict[str, Dim]
    inputs: dict[str, Expr]
    span: Span


@dataclass(frozen=True)
class System:
    """A whole system. Dicts keep the order of the text."""

    source: Source
    name: str
    context: str
    span: Span
    hypers: dict[str, Hyper]
    heads: Dim | None
    inputs: dict[str, Input]
    outputs: dict[str, Dims | None]
    weights: dict[str, Weight]
    modules: dict[str, Module]
    flows: dict[str, Flow]
    levels: dict[str, Level]
    output: dict[str, Expr]
    eval_at: Expr | None = None  # what takes the place of the trained tensor in evaluation
    doc: str = ""
    ref: str = ""
    operator: bool = False
    routes: tuple[Route, ...] = ()  # the first that takes a tensor trains it
    outer: dict[str, Level] = field(default_factory=dict)  # the levels on the outer loss
    uses: dict[str, Use] = field(default_factory=dict)
    constraints: tuple[
        tuple[Dim, Dim, Span], ...
    ] = ()  # equal only at some hypers: checked at construction

    @property
    def states(self) -> dict[str, State]:
        return {s.name: s for level in self.levels.values() for s in level.states}

    @property
    def trains(self) -> bool:
        """Whether it trains a tensor: it is an optimizer, and its base clock is the step."""
        return self.context != "tokens"

    @property
    def trained(self) -> State | None:
        """The tensor that it trains."""
        return next((s for s in self.states.values() if s.trained), None)

    @property
    def gradients(self) -> dict[str, State]:
        """The states whose gradients have names: by state, or by the level inside a rule that takes one."""
        out = self.states
        stack = [inner for level in self.levels.values() for inner in level.inner]
        while stack:
            level = stack.pop()
            out[level.name] = level.states[0]
            stack += level.inner
        return out

    @property
    def declared(self) -> dict[str, Clock]:
        """The declared clocks that drive something, by name."""
        return {c.name: c for level in self.levels.values() for c in level.clocks if c.name}

    @property
    def sizes(self) -> dict[str, Number]:
        """The numeric hypers at their defaults, lists element by element (``periods[0]``)."""
        out: dict[str, Number] = {}
        for hyper in self.hypers.values():
            if isinstance(hyper.value, list):
                out.update({f"{hyper.name}[{i}]": v for i, v in enumerate(hyper.value)})
            elif hyper.value is not None:
                out[hyper.name] = hyper.value
        return out

    def map(self, rule) -> System:
        """Every expression of flows, levels and outputs rewritten by ``rule(expr) -> expr``."""

        def each(e: Expr | None) -> Expr | None:
            return None if e is None else rule(e)

        levels = {name: level.map(rule) for name, level in self.levels.items()}
        flows = {name: replace(f, expr=rule(f.expr)) for name, f in self.flows.items()}
        output = {name: rule(e) for name, e in self.output.items()}
        weights = {name: replace(w, init=each(w.init)) for name, w in self.weights.items()}
        return replace(
            self,
            levels=levels,
            flows=flows,
            output=output,
            weights=weights,
            eval_at=each(self.eval_at),
        )
