"""The new statements: components of the loop in order, each as what it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nlc.base.diagnostics import InternalError
from nlc.base.span import Span
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.program import Let, Loop, Parallel, Program
from nlc.ir.scan import Record, Scan
from nlc.ir.types import TOKEN, Dim
from nlc.passes.naming import Names
from nlc.passes.plan.aliases import pulled, without_aliases, without_copies, without_numbers
from nlc.passes.plan.apart import apart
from nlc.passes.plan.blocks import Block, Stuck
from nlc.passes.plan.body import Body, Node
from nlc.passes.plan.joined import joined
from nlc.passes.plan.stack import stacked
from nlc.passes.plan.statements import (
    SLOW,
    Statement,
    expressions,
    mapped,
    needed,
    nodes,
    reads,
    renamed,
    shared,
    timed,
)
from nlc.passes.share import share


@dataclass(frozen=True)
class Choice:
    """What became of a level: its class and its plan, and why it is not a faster one.

    ``kind`` is the class of its step; ``record`` the scan that it became a part of. ``why`` and ``span`` say what
    stands against a plan without a loop over tokens, ``cause`` is the expression that does, ``beside`` the level
    whose it is where that is another, in one loop with this one.
    """

    level: str
    kind: str
    plan: str
    why: str = ""
    span: Span | None = None
    record: Record | None = None
    periods: tuple[Dim, ...] = ()
    cause: Expr | None = None
    beside: str = ""


@dataclass(eq=False)
class Piece:
    """A component and what becomes of it."""

    part: list[Node]
    body: list[Let | Scan] = field(default_factory=list)
    plan: str = ""
    periods: tuple[Dim, ...] = ()
    spread: list[Let] = field(default_factory=list)


class Builder:
    def __init__(
        self,
        program: Program,
        reserved: frozenset[str],
        plans: Mapping[str, str],
        stack: bool = True,
    ):
        self.program, self.plans, self.stack = program, plans, stack
        self.loop = next(s for s in program.body if isinstance(s, Loop))
        at = program.body.index(self.loop)
        self.before = list(program.body[:at])
        self.after, self.loop = pulled(list(program.body[at + 1 :]), self.loop)
        self.loop = without_numbers(self.before, self.loop)
        self.names = Names(reserved | frozenset(program.system.hypers))
        self.names.taken |= program.names
        whole = {n for x in self.loop.body for n in x.names}
        self.loop = apart(self.loop, self.names)
        self.apart = {n for x in self.loop.body for n in x.names} - whole
        self.levels = {s.var: s.key for s in program.slots if s.kind == "level"}
        self.records: dict[str, Scan] = {}
        self.plan: dict[str, str] = {}

    def build(self) -> tuple[Program, tuple[Choice, ...]]:
        body = Body(self.loop)
        self._asked(body)
        if self.loop.watched:
            for name in body.assigns:
                body.block(name, "a gradient passes the updates of a faster level")
        while True:
            before = set(self.names.taken)
            try:
                statements = self._statements(body)
                break
            except Stuck as stuck:
                self.names.taken = before
                for name in stuck.names:
                    if stuck.why:
                        body.block(name, stuck.why, stuck.expr, stuck.linear)
                    else:
                        body.together.add(name)
        return self._program(body, statements), self._choices(body)

    def _asked(self, body: Body) -> None:
        for var, key in self.levels.items():
            level = self.program.system.states[key].level
            if self.plans.get(level) == "sequential" and var in body.assigns:
                body.block(var, "it was asked for")

    # -------------------------------------------------------------------------------------------- components

    def _statements(self, body: Body) -> list[Statement]:
        self.records, self.plan, self.pieces = {}, {}, []
        self.looped: set[str] = set()  # what is carried from token to token
        body.collected.clear()
        body.shifted.clear()
        self.defined = {
            n: x.expr
            for x in (*self.before, *body.loop.first)
            if isinstance(x, Let)
            for n in x.names
            if len(x.names) == 1
        }
        self.assumed: set[str] = set()  # inputs that a decay is made of
        for name in (
            self.program.inputs.keys() - self.program.embedded.keys()
        ):  # of an operator: as in its system
            i = self.program.system.inputs[name]
            if i.range.low >= 0:
                self.defined[self.program.inputs[name]] = Expr("nonnegative", (), name)
        self.logs: dict[str, Let] = {}  # by the name inside: of what is computed before the loop
        for part in body.components():
            carried = {n for x in part for n in x.let.names if n in body.assigns}
            piece = Piece(part)
            self.pieces.append(piece)
            block = Block(self, body, piece)
            if any(n in body.blocked for n in carried):
                piece.plan = "sequential"
                self._loop_over_tokens(piece, body)
            elif any(x.guarded for x in part) or any(n not in body.steps for n in carried):
                piece.plan = "anchored"
                self._readers(part, carried, body)
                self._tiles(piece, block, body)
            else:
                piece.plan = "chunked" if carried else "parallel"
                block.statements(part)
            self.plan |= {n: piece.plan for n in carried}
        return [s for piece in self.pieces for s in self._placed(piece, body)]

    def _readers(self, part: list[Node], carried: set[str], body: Body) -> None:
        """What reads running states of a tile stands in the loop over tiles."""
        inside = {x.index for x in part}
        for name in carried:
            if name not in body.steps:
                continue
            for reader in body.kept:
                if reader.index not in inside and name in {c for c, _ in reader.carries()}:
                    raise Stuck([name])

    def _tiles(self, piece: Piece, block: Block, body: Body) -> None:
        part = piece.part
        starts = [x for x in part if x.guarded and x.let.when.phase == "start"]
        ends = [x for x in part if x.guarded and x.let.when.phase == "end"]
        free = [x for x in part if not x.guarded]
        made = {n for x in free for n in x.let.names if n not in body.assigns}
        for x in starts:
            if found := made & set(x.reads()):
                raise Stuck(
                    [n for y in part for n in y.let.names if n in body.assigns],
                    f"a boundary at the start of a period needs `{min(found)}`, which is computed in it",
                    x.let.expr,
                )
        piece.body += [self._at(x, "first_token", body) for x in starts]
        block.statements(free)
        piece.body += [self._at(x, "last_token", body) for x in ends]
        outside = body.read_outside(part)
        for x in (
            free
        ):  # what is the same for all tokens of a tile, for each of them where others read it
            for n in x.let.names:
                if n in outside and n not in body.assigns and not body.token[n]:
                    body.collected[n] = self.names(f"{n}_all")
                    body.token[body.collected[n]] = True
                    value = Expr("var", (), n, x.let.expr.type)
                    every = Expr("spread", (value,), None, value.type.at(TOKEN))
                    piece.spread.append(Let((body.collected[n],), every))
        piece.body[len(piece.body) - len(ends) : len(piece.body) - len(ends)] = piece.spread
        piece.periods = tuple(dict.fromkeys(x.let.when.period for x in part if x.guarded))

    def _at(self, x: Node, op: str, body: Body) -> Let:
        """A statement of a boundary: of what has a value for each token it sees that of the first or the last."""

        def rule(n: Expr) -> Expr | None:
            if n.op == "var" and body.token.get(n.attr) and n.attr not in body.assigns:
                return Expr(op, (n,), None, replace(n.type, clock=SLOW))
            return None

        return replace(x.let, expr=rewrite(x.let.expr, rule))

    def _loop_over_tokens(self, piece: Piece, body: Body) -> None:
        needed = {x.index for x in piece.part}
        stack = list(piece.part)
        by_name = {n: x for x in body.nodes for n in x.let.names if n in body.inlined}
        while stack:  # matrices that only this loop computes
            for n in walk(stack.pop().let.expr):
                if n.op == "var" and n.attr in by_name and by_name[n.attr].index not in needed:
                    needed.add(by_name[n.attr].index)
                    stack.append(by_name[n.attr])
        piece.part = [x for x in body.nodes if x.index in needed]
        mine = {n for x in piece.part for n in x.let.names}
        for x in piece.part:  # states of scans are not there token by token
            for n, when in x.carries():
                if (
                    n in body.steps
                    and n not in mine
                    and (n not in body.collected or when == "prev")
                ):
                    raise Stuck([n])
        every = {n: all_ for n, all_ in body.collected.items() if n not in mine}
        piece.body += [renamed(x.let, every) for x in piece.part]
        for x in piece.part:
            if not x.guarded and len(x.let.names) == 1 and x.let.names[0] not in body.assigns:
                self.defined[x.let.names[0]] = x.let.expr
        for n in (n for x in piece.part if not x.guarded for n in x.let.names):
            if n not in body.assigns:
                body.token[n] = True
        for n in (n for x in piece.part for n in x.let.names if n in body.steps):
            self.looped.add(n)
            read = n in body.carried  # an anchor of each token is not
            if read and body.carried[n].type.rank <= 1 and len(body.assigns[n]) == 1:
                body.collected[n] = self.names(f"{n}_all")
                body.token[body.collected[n]] = True

    def _placed(self, piece: Piece, body: Body) -> list[Statement]:
        """The statements of a component, in their loop."""
        own = {**dict.fromkeys(body.assigns, False), **dict.fromkeys(body.collected.values(), True)}
        moves = lambda n: own.get(n.attr, body.token.get(n.attr, n.type.clock == TOKEN))  # noqa: E731
        piece.body = [mapped(x, lambda e: timed(e, moves)) for x in piece.body]
        if piece.plan in ("chunked", "parallel"):
            return piece.body
        before = self._elsewhere(piece, body)
        mine = {n for x in piece.part for n in x.let.names}
        made = dict.fromkeys(n for x in piece.body if isinstance(x, Let) for n in x.names)
        wanted = {body.collected.get(n, n) for n in self.loop.collects.values()}
        for other in self.pieces:
            if other is not piece:
                wanted |= {name for x in other.body for name in reads(x)}
        piece.body = without_copies(piece.body, wanted | set(body.assigns))
        collects: dict[str, str] = {}
        for n in made:
            if n in wanted and body.token.get(n) and n not in body.assigns:
                collects[n] = n
            if n in body.collected and body.collected[n] in wanted:
                collects[body.collected[n]] = n
        slices: dict[str, str] = {}
        for n in (v.attr for x in piece.body for v in nodes(x) if v.op == "var"):
            if n not in made and n not in body.assigns and body.token.get(n):
                slices[n] = n
        read = {name for x in piece.body for name in reads(x)}
        fixed = {n for n in self.loop.carries if n in read and n not in body.assigns}
        carries = tuple(
            n for n in self.loop.carries if n in fixed or (n in mine and n in body.assigns)
        )
        firsts = [n for x in self.loop.first for n in x.names]
        held = [n for n in firsts if n in (read if n not in body.assigns else mine)]
        carries = (*dict.fromkeys(held), *carries)
        guarded = any(x.guarded or self.loop.counter in set(x.reads()) for x in piece.part)
        return [
            *before,
            Loop(
                TOKEN,
                carries,
                slices,
                tuple(piece.body),
                collects,
                self.loop.counter if guarded else None,
                periods=piece.periods,
            ),
        ]

    def _elsewhere(self, piece: Piece, body: Body) -> list[Let]:
        """Values of scans outside of a loop that stand by themselves in it have names before it."""
        own = {x.name for x in piece.body if isinstance(x, Scan)}
        named: dict[Expr, Expr] = {}

        def rule(n: Expr) -> Expr | None:
            if n.op != "read" or n.args or n.attr.scan in own:
                return None
            if n not in named:
                named[n] = Expr("var", (), self.names(f"{n.attr.scan}_t"), n.type)
                body.token[named[n].attr] = True
            return named[n]

        piece.body = [mapped(x, lambda e: rewrite(e, rule)) for x in piece.body]
        return [Let((x.attr,), n) for n, x in named.items()]

    def log(self, name: str, value: Expr, body: Body) -> str:
        """A variable for the logarithm of a variable, computed beside it."""
        inside = f"log_{name.removesuffix('_t')}"
        lets = (x for p in self.pieces for x in p.body if isinstance(x, Let))
        if inside in self.logs or any(inside in x.names for x in lets):
            return inside
        body.token[inside] = True
        outer = {i: o for o, i in self.loop.slices.items()}.get(name)
        if outer is not None:
            gate = next((x for x in self.before if isinstance(x, Let) and outer in x.names), None)
            self.logs[inside] = Let((f"log_{outer}",), value, "", gate and gate.span)
            return inside
        for piece in self.pieces:
            for i, x in enumerate(piece.body):
                if isinstance(x, Let) and name in x.names:
                    piece.body.insert(i + 1, Let((inside,), value, "", x.span))
                    return inside
        raise InternalError(f"nothing defines `{name}`")

    # -------------------------------------------------------------------------------------------- whole

    def _program(self, body: Body, statements: list[Statement]) -> Program:
        if all(p.plan in ("sequential", "parallel") for p in self.pieces):
            return self.program  # the loop over tokens says it best
        collected = {o: body.collected.get(i, i) for o, i in self.loop.collects.items()}
        fixed = {*self.program.system.flows, *collected.values()}
        statements = without_aliases(statements, fixed)
        statements = needed(statements, {*collected.values(), *self.loop.carries})
        statements = shared(statements, self.names)
        statements = [self._joined(s, statements, {*collected.values()}) for s in statements]
        used = {name for s in statements for name in reads(s)} | set(collected.values())
        later = {name for s in self.after for name in reads(s)}
        later.add(next(iter(self.program.inputs.values())))  # how many tokens there are
        plain: dict[str, str] = {}
        slices: dict[str, str] = {}
        for outer, inner in self.loop.slices.items():
            if inner in used:
                name = self.names(f"{outer}_rows") if outer in later else outer
                plain[inner] = slices[outer] = name
        for inner, let in self.logs.items():
            if inner in used:
                slices[let.names[0]] = inner
        collects = {o: plain.get(i, i) for o, i in collected.items()}
        inside = [renamed(s, plain) for s in statements]
        read = {n.attr.scan for s in inside for n in nodes(s) if n.op == "read"}
        marked = [_marked(s, read) for s in inside]
        whole = Parallel(slices, tuple(self._stacked(marked)), collects, self.loop.first)
        live = {name for s in (whole, *self.after) for name in reads(s)}
        live |= {s.var for s in self.program.slots}
        before = needed([*self.before, *self.logs.values()], live)
        return replace(
            self.program,
            body=(*share(before, self.names), whole, *self.after),
            nonnegative=tuple(n for n in self.program.system.inputs if n in self.assumed),
        )

    def _joined(self, s: Statement, around: list[Statement], wanted: set[str]) -> Statement:
        """A loop without what nothing reads; over tiles, what came apart is together again."""
        if not isinstance(s, Loop):
            return s
        elsewhere = {n for x in around if x is not s for n in reads(x)}
        kept = {*s.carries, *s.collects, *s.collects.values(), *elsewhere, *wanted}
        body = joined(s.body, self.apart, kept) if s.periods else s.body
        return replace(s, body=tuple(needed(body, kept)))

    def _stacked(self, statements: list[Statement]) -> list[Statement]:
        """Memories of a tile that step alike as one."""
        out: list[Statement] = []
        for s in statements:
            before: list[Let] = []
            if self.stack and isinstance(s, Loop) and s.periods:
                before, s = stacked(s, self.program, self.names)
            out += [*before, s]
        return out

    def _choices(self, body: Body) -> tuple[Choice, ...]:
        out = []
        system = self.program.system
        vars_of = {key: var for var, key in self.levels.items()}
        for level in system.levels.values():
            mine = [vars_of[s.name] for s in level.states if s.name in vars_of]
            mine = [v for v in mine if v in body.assigns]
            if not mine:
                continue
            plans = {self.plan[v] for v in mine}
            plan = next(p for p in ("sequential", "anchored", "chunked") if p in plans)
            at = next((v for v in mine if v in body.blocked), None)
            if plan == "sequential" and at is None:
                at = self._with(mine[0], body)
            blocked = body.blocked.get(at) if at else None
            other = self.program.system.states.get(self.levels.get(at, ""))
            beside = other.level if other and other.level != level.name else ""
            records = [self.records[v].record for v in mine if v in self.records]
            kind = records[0].name if records else "constant" if plan == "anchored" else "nonlinear"
            if kind == "nonlinear" and blocked is not None and blocked.linear:
                kind = "affine"
            span = blocked.expr.span if blocked and blocked.expr is not None else None
            periods = next(
                (
                    p.periods
                    for p in self.pieces
                    if p.plan == "anchored" and mine[0] in {n for x in p.part for n in x.let.names}
                ),
                (),
            )
            why = blocked.why if blocked and plan == "sequential" else ""
            found = records[0] if records else None
            cause = blocked.expr if blocked else None
            out.append(Choice(level.name, kind, plan, why, span, found, periods, cause, beside))
        return tuple(out) + self._between(out)

    def _between(self, found: list[Choice]) -> tuple[Choice, ...]:
        """Of a sub-step whose states pass to the next one, that of the level whose states are kept."""
        levels = self.program.system.levels
        choices = {c.level: c for c in found}
        owner = {s.name: s.level for s in self.program.system.states.values()}
        after = {
            owner[n.attr[0]]: level.name
            for level in levels.values()
            if level.source is not None
            for n in walk(level.source)
            if n.op == "state"
        }
        out = []
        for level in levels.values():
            name = level.name
            while name not in choices and name in after and levels[name].states[0].passing:
                name = after[name]
            if name != level.name and name in choices:
                out.append(replace(choices[name], level=level.name, beside=""))
        return tuple(out)

    def _with(self, state: str, body: Body) -> str | None:
        """The blocked variable that another one stands in a loop with."""
        mine = (p for p in self.pieces if state in {n for x in p.part for n in x.let.names})
        names = [n for p in mine for x in p.part for n in x.let.names]
        return next((n for n in (*names, *body.blocked) if n in body.blocked), None)


def _marked(s: Statement, read: set[str]) -> Statement:
    """A scan that nothing reads gives its last states alone."""
    if isinstance(s, Scan):
        return replace(s, read=s.name in read)
    if isinstance(s, Loop):
        return replace(s, body=tuple(_marked(x, read) for x in s.body))
    return s


__all__ = ["Builder", "Choice", "expressions"]
