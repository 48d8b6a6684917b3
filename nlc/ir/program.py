"""The program: what a backend prints. Straight-line statements, loops over a clock, a return.

Expressions are those of the IR over ``var(name)`` leaves, the program's own variables, whose types say
which axes they have. Nothing here knows a target language.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nlc.base.span import Span
from nlc.ir.expr import Expr, walk
from nlc.ir.ops import OPS
from nlc.ir.scan import Scan
from nlc.ir.shapes import MatrixUse
from nlc.ir.show import show
from nlc.ir.system import System
from nlc.ir.types import Clock, Dim, Type


@dataclass(frozen=True)
class Slot:
    """A tensor that the stream carries from call to call.

    ``kind``: ``level`` (a memory's state), ``anchor`` (that state at its last boundary), ``start`` (where
    it started), ``gathered`` (a sum over a period so far), ``window`` (the last tokens a convolution
    saw), ``recent`` (the last values of what a sum over a window reads), ``prev`` (a flow one tick
    earlier), ``cache`` (keys or values), ``tick`` (an integer count), ``held`` (a value of a slow state,
    ``init`` from the others where it is not there yet).
    ``key`` is its name in the state dict, ``var`` the program variable that holds it.
    """

    key: str
    var: str
    kind: str
    type: Type
    init: Expr | None = None
    learned: bool = False
    of: str = ""  # of an anchor: the state whose boundary value it is
    window: object = None  # of a window: its taps; of a cache or a sum: how many ticks (None: all)


@dataclass(frozen=True)
class Guard:
    """Only in ticks that end (or start) a period; periods count from the start of the stream."""

    period: Dim
    phase: str = "end"


@dataclass(frozen=True)
class Let:
    """``names = expr``; more than one name where the operator also returns its carried window or cache.

    ``when`` restricts it to some ticks of the loop; the names keep their values in the others.
    """

    names: tuple[str, ...]
    expr: Expr
    note: str = ""
    span: Span | None = None
    when: Guard | None = None


@dataclass(frozen=True)
class Loop:
    """One tick of ``clock`` after another: ``carries`` live from tick to tick, ``slices`` are taken one tick at a time,
    ``collects`` are gathered over the ticks. Each maps the name outside to the name inside.

    With ``periods`` a trip is a *tile*: as many tokens as no boundary of these periods cuts, all at once. ``stacks``
    are carries that are several variables with an axis in front.
    """

    clock: Clock
    carries: tuple[str, ...]
    slices: dict[str, str]
    body: tuple[Let | Scan, ...]
    collects: dict[str, str]
    counter: str | None = None  # this tick's number, from 1 at the stream's start, if a guard asks
    first: tuple[Let, ...] = ()  # before the first tick: what is held
    watched: bool = False  # a gradient is taken through updates, so they are recorded in any case
    periods: tuple[Dim, ...] = ()
    stacks: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Parallel:
    """What takes the place of the loop over tokens: statements for all tokens at once, in the states' dtype.

    ``slices`` and ``collects`` are what comes in and goes out, from the name outside to the name inside.
    """

    slices: dict[str, str]
    body: tuple[Let | Scan | Loop, ...]
    collects: dict[str, str]
    first: tuple[Let, ...] = ()


@dataclass(frozen=True)
class Return:
    """What the caller gets: outputs by name, and the slots' last values by key."""

    outputs: dict[str, Expr]
    slots: dict[str, str]


@dataclass(frozen=True)
class Group:
    """Slow weights that are trained in a rhythm of their own: the states of a level on the outer loss.

    ``rule`` names one of the program's rules, None for whatever trains the rest; ``hypers`` are its hypers' values,
    over the hypers of the system.
    """

    level: str
    states: tuple[str, ...]
    period: Dim
    rule: str | None
    hypers: dict[str, Expr]


@dataclass(frozen=True)
class Bound:
    """Hypers of an optimizer for which ``expr`` is not within ``low`` and ``high`` are refused."""

    expr: Expr
    low: float
    high: float
    span: Span | None


@dataclass(frozen=True)
class About:
    """What a generated file's docstring says of levels: which, their equations, and where some of them differ."""

    head: str
    equations: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """``body`` runs once a call (a module) or once a tensor and step (an optimizer)."""

    system: System
    slots: tuple[Slot, ...]
    body: tuple[Let | Loop | Parallel | Return, ...]
    inputs: dict[
        str, str
    ]  # the variable of each flow that comes in: an input, or what an embedding gives
    about: tuple[About, ...] = ()  # the levels and their updates, fastest first
    rules: dict[str, Program] = field(
        default_factory=dict
    )  # by kind of tensor, or by the rule's name
    groups: tuple[Group, ...] = ()
    bounds: tuple[Bound, ...] = ()
    eval_at: Expr | None = None  # what takes the place of the trained tensor in evaluation
    nonnegative: tuple[str, ...] = ()  # inputs whose logarithms it takes
    indices: dict[str, str] = field(default_factory=dict)  # the variables of inputs that are none
    embedded: dict[str, str] = field(default_factory=dict)  # whose rows an embedding gives, by path
    tile: int | None = None  # tokens of one triangular solve; None: the backend's own
    channel_tile: int | None = None  # the same where decays differ by key channel

    def lets(self) -> Iterator[Let]:
        stack: list[object] = list(reversed(self.body))
        while stack:
            s = stack.pop()
            if isinstance(s, Let):
                yield s
            elif isinstance(s, Loop | Parallel):
                stack += reversed((*s.first, *s.body))

    @property
    def names(self) -> set[str]:
        """Every name that it gives or takes, at any depth."""
        out = {s.var for s in self.slots} | {*self.inputs.values(), *self.indices.values()}
        stack: list[object] = list(self.body)
        while stack:
            s = stack.pop()
            if isinstance(s, Let):
                out |= set(s.names)
            elif isinstance(s, Scan):
                out |= {s.name, *s.record.states}
            elif isinstance(s, Loop | Parallel):
                stack += (*s.first, *s.body)
                out |= {*s.slices, *s.slices.values(), *s.collects, *s.collects.values()}
            if isinstance(s, Loop):
                out |= {*s.carries, *([s.counter] if s.counter else [])}
        return out

    @property
    def counted(self) -> bool:
        """Whether what is done depends on how many tokens came before: Python asks where a period ends."""
        return any(loop.counter or loop.periods for loop in self.loops())

    @property
    def tiled(self) -> bool:
        """Whether anything runs in tiles between boundaries."""
        return any(loop.periods for loop in self.loops())

    def loops(self) -> Iterator[Loop]:
        """All loops, also those within others."""
        stack: list[object] = list(self.body)
        while stack:
            s = stack.pop()
            if isinstance(s, Loop):
                yield s
            stack += s.body if isinstance(s, Loop | Parallel) else ()

    @property
    def matrices(self) -> bool:
        """Whether the trained tensor must be a matrix: it, or one like it, is taken as one somewhere."""
        use, nodes = MatrixUse(), [n for let in self.lets() for n in walk(let.expr)]
        for node in (n for n in nodes if n.args and n.op in OPS):
            OPS[node.op].shape(use, [a.type.dims for a in node.args], node)
        sizes = [n.attr for n in nodes if n.op == "size"]
        sizes += [d for slot in self.slots for d in slot.type.dims if isinstance(d, Dim)]
        sides = {symbol for size in sizes for symbol in size.symbols}
        return use.found or any(side.startswith(("rows(", "cols(")) for side in sides)

    def __str__(self) -> str:
        """The text that tests and ``--debug`` show."""
        out = [f"program {self.system.name}"]
        out += [f"  slot {s.key}: {s.kind} {s.type}" for s in self.slots]
        for s in self.body:
            out += _lines(s, "  ")
        return "\n".join(out)


def _lines(s: Let | Scan | Loop | Parallel | Return, pad: str) -> list[str]:
    if isinstance(s, Let):
        return [f"{pad}{_line(s)}"]
    if isinstance(s, Scan):
        return [f"{pad}scan {_scanned(s)}"]
    if isinstance(s, Return):
        return [f"{pad}return {', '.join(f'{k} = {show(e)}' for k, e in s.outputs.items())}"]
    inside = pad + "  "
    if isinstance(s, Parallel):
        out = [f"{pad}parallel over {', '.join(s.slices)}"]
    else:
        what = f"tiles of {', '.join(map(str, s.periods))}" if s.periods else f"loop {s.clock}"
        out = [f"{pad}{what} carries {', '.join(s.carries)} over {', '.join(s.slices)}"]
    out += [f"{inside}first {_line(x)}" for x in s.first]
    for x in s.body:
        out += _lines(x, inside)
    return [*out, f"{inside}collect {', '.join(f'{a} = {b}' for a, b in s.collects.items())}"]


def _scanned(s: Scan) -> str:
    """A record in a line: ``S ← A S + (u − c S p) kᵀ`` with what is absent left out."""
    r = s.record
    text = f"{s.name}: {', '.join(r.states)}"
    named = [("key", r.key), ("probe", r.probe), ("log", r.log)]
    for j, x in enumerate(r.states):
        label = f" {x}" if len(r.states) > 1 else ""
        named += [(f"decay{label}", a) for a in r.decay[j] if r.log is None]
        named += [(f"write{label}", r.write[j]), (f"erase{label}", r.erase[j])]
        named += [(f"start{label}", r.start[j] if r.start else None)]
    return text + "".join(f"; {k} {show(e)}" for k, e in named if e is not None)


def _line(let: Let) -> str:
    when = f" at the {let.when.phase} of every {let.when.period}" if let.when else ""
    return f"let {', '.join(let.names)} = {show(let.expr)}{when}"
