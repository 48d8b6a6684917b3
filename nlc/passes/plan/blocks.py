"""Statements of a tick as statements for many tokens, as long as nothing changes at a boundary in between."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.logs import log_at
from nlc.ir.ops import add, make
from nlc.ir.program import Let
from nlc.ir.scan import Read, Record, Scan
from nlc.ir.types import TOKEN, Type
from nlc.passes.naming import describe
from nlc.passes.plan.body import Body, Node, inner_components
from nlc.passes.plan.gates import log_of
from nlc.passes.plan.record import NotLinear, record
from nlc.passes.plan.statements import SLOW

if TYPE_CHECKING:
    from nlc.passes.plan.build import Builder, Piece


class Stuck(Exception):
    """Carried variables that need a loop over tokens, and why; without a reason: what reads them stands with them."""

    def __init__(
        self, names: Iterable[str], why: str = "", expr: Expr | None = None, linear: bool = False
    ):
        super().__init__(why)
        self.names, self.why, self.expr, self.linear = list(names), why, expr, linear


class Block:
    """One piece without boundaries: the whole sequence, or a tile."""

    def __init__(self, builder: Builder, body: Body, piece: Piece):
        self.builder, self.body, self.piece = builder, body, piece
        self.names = builder.names

    def statements(self, nodes: list[Node]) -> None:
        """Adds them to the piece."""
        out = self.piece.body
        for part in inner_components(nodes, self.body, self._whole_reads(nodes)):
            states = [n for x in part for n in x.let.names if n in self.body.assigns]
            if not states:
                (node,) = part
                out.append(self._let(node))
            elif len(part) == 1 and part[0].expr.op == "conv_step":
                out.append(self._conv(part[0]))
            elif len(part) == 1 and self._only_before(part[0], states[0]):
                out += self._delay(part[0], states[0])
            elif len(part) == 1 and self._only_last(part[0], states[0]):
                out.append(self._last(part[0]))
            else:
                self._scan(part, states)

    def _whole_reads(self, nodes: list[Node]) -> list[tuple[int, int]]:
        """Steps that read another running state as a whole, as weights read their momentum: one scan for both."""
        pairs = []
        for node in nodes:
            mine = [n for n in node.let.names if n in self.body.steps]
            for name in self.body.whole(node.expr):
                if not mine and self._feeds(node, self.body.steps[name], nodes):
                    continue  # a part of the step, which the record takes as a whole
                if not mine or self.body.steps[name] not in nodes:
                    raise Stuck([name], "its state is read as a whole, not at a key", node.let.expr)
                pairs.append((node.index, self.body.steps[name].index))
        return pairs

    def _feeds(self, node: Node, step: Node, nodes: list[Node]) -> bool:
        """Whether a step needs a value of its tick."""
        made = {n: x for x in nodes for n in x.let.names if n not in self.body.assigns}
        stack, seen = [step], {step.index}
        while stack:
            for x in (made[n] for n in stack.pop().reads() if n in made):
                if x is node:
                    return True
                if x.index not in seen:
                    seen.add(x.index)
                    stack.append(x)
        return False

    # -------------------------------------------------------------------------------------------- statements

    def _let(self, node: Node) -> Let:
        let = replace(node.let, expr=self.read(node.expr, node))
        if len(let.names) == 1:
            self.builder.defined[let.names[0]] = let.expr
        for n in let.names:
            self.body.derived.add(n)
        return let

    def _conv(self, node: Node) -> Let:
        e = self.read(node.expr, node, plain=frozenset(node.let.names))
        return replace(node.let, expr=replace(e, op="conv"))

    def _only_before(self, node: Node, name: str) -> bool:
        """Whether a carried variable is the value of a tick for the next, and no more."""
        own = any(c == name for c, _ in node.carries())
        readers = [w for x in self.body.kept for c, w in x.carries() if c == name]
        once = len(node.let.names) == len(self.body.assigns[name]) == 1
        return not own and all(w == "prev" for w in readers) and node.expr.type.rank <= 1 and once

    def _delay(self, node: Node, name: str) -> list[Let]:
        value = self.read(node.expr, node)
        lets = []
        if value.op != "var":
            now = self.names(f"{name}_now")
            lets.append(Let((now,), value, "", node.let.span))
            value = Expr("var", (), now, value.type.at(TOKEN))
            self.body.token[now] = True
        before = self.names(f"{name}_before")
        last = self.body.carried.get(name) or Expr("var", (), name, node.expr.type)
        self.body.shifted[name] = Expr("var", (), before, value.type)
        self.body.token[before] = True
        delayed = Expr("delay", (value, replace(last, op="var", attr=name)), None, value.type)
        return [*lets, Let((before, name), delayed, node.let.note, node.let.span)]

    def _only_last(self, node: Node, name: str) -> bool:
        """Whether a carried variable is made anew in each tick, for the end of a period alone."""
        own = any(c == name for c, _ in node.carries())
        readers = [x for x in self.body.kept for c, _ in x.carries() if c == name]
        late = all(x.guarded and x.let.when.phase == "end" for x in readers)
        return not own and late and len(node.let.names) == len(self.body.assigns[name]) == 1

    def _last(self, node: Node) -> Let:
        """What it is at the last token."""
        body = self.body

        def moves(n: Expr) -> bool:
            own = n.op == "var" and body.token.get(n.attr) and n.attr not in body.assigns
            return n.op == "read" or bool(own)

        done: dict[int, Expr] = {}
        for n in walk(self.read(node.expr, node)):
            new = n.with_args(tuple(done[id(a)] for a in n.args))
            last = Expr("last_token", (n,), None, replace(n.type, clock=SLOW))
            done[id(n)] = last if moves(n) else new
        return replace(node.let, expr=done[id(n)])

    def _scan(self, part: list[Node], states: list[str]) -> None:
        steps = self._steps(part, states)
        steady = self.body
        try:
            still = lambda e: not steady.moving(e)  # noqa: E731
            found = record(tuple(states), steps, still, self._inside())
        except NotLinear as error:
            raise Stuck(states, error.why, error.expr, error.linear) from None
        first = self.body.steps[states[-1]].let
        name = states[-1]
        found = self._named(self._logged(found), name, self.piece.body)
        scan = Scan(found, name, False, first.note, first.span)
        for s in states:
            self.builder.records[s] = scan
        self.piece.body.append(scan)
        wanted = self.body.read_outside(part)
        for node in reversed(part):
            if set(node.let.names) & wanted:
                wanted |= set(node.reads())
        for node in part:  # values on the way, from what was before the tick
            if not set(node.let.names) & {*states} and set(node.let.names) & wanted:
                self.piece.body.append(self._let(node))

    def _steps(self, part: list[Node], states: list[str]) -> dict[str, Expr]:
        """The new states over those before the tick, everything in between written out."""
        local: dict[str, Expr] = {}
        new: dict[str, Expr] = {}

        def rule(n: Expr) -> Expr | None:
            if n.op == "var":
                return local.get(n.attr)
            if n.op == "carry" and n.attr[1] == "new":
                return new.get(n.attr[0])
            return None

        for node in part:
            e = rewrite(node.expr, rule)
            if len(node.let.names) > 1:
                raise Stuck(
                    states, "it carries more than one value from token to token", node.let.expr
                )
            name = node.let.names[0]
            (new if name in states else local)[name] = e
        others = {}
        for name in states:
            others[name] = self.read(new[name], self.body.steps[name], inside=frozenset(states))
        return others

    # -------------------------------------------------------------------------------------------- records

    def _logged(self, r: Record) -> Record:
        """Decays that are positive whatever comes go by their logarithms."""
        a = r.decay[0][0]
        if len(r.states) > 1 or a is None or (a.op == "num" and a.attr == 1):
            if len(r.states) == 1 and a is None:
                raise Stuck(r.states, "it forgets everything in each tick", None)
            return r
        log = log_of(a, self._definitions(), self._named_log)
        if log is None and r.channel:
            raise Stuck(r.states, "a decay by channel that may be negative", a, linear=True)
        if log is not None:
            self.builder.assumed |= self._assumed(a)
        return replace(r, log=log)

    def _assumed(self, e: Expr) -> set[str]:
        """The inputs that a decay is made of."""
        defined, out, stack, seen = self._definitions(), set(), [e], set()
        while stack:
            for n in walk(stack.pop()):
                if n.op == "nonnegative":
                    out.add(str(n.attr))
                elif n.op == "var" and n.attr in defined and n.attr not in seen:
                    seen.add(n.attr)
                    stack.append(defined[n.attr])
        return out

    def _definitions(self) -> dict[str, Expr]:
        """Of variables here, and of those outside under the names that they have here."""
        outer = self.builder.defined
        named = {i: outer[o] for o, i in self.body.loop.slices.items() if o in outer}
        return {**outer, **named}

    def _inside(self) -> dict[str, Expr]:
        """Definitions of variables of the tick, those from outside by their names here."""
        slices = self.body.loop.slices
        inner = lambda n: (  # noqa: E731
            replace(n, attr=slices[n.attr]) if n.op == "var" and n.attr in slices else None
        )
        outer = {
            i: rewrite(self.builder.defined[o], inner)
            for o, i in slices.items()
            if o in self.builder.defined
        }
        return {**self.builder.defined, **outer}

    def _named_log(self, e: Expr) -> Expr | None:
        """The logarithm of a named gate is computed beside the gate."""
        defined = self.builder.defined
        if any(e.attr in x.names for x in self.body.loop.first):
            return log_at(e)  # the same for all tokens
        outer = {i: o for o, i in self.body.loop.slices.items()}.get(e.attr)
        if outer is not None:
            value = log_of(defined[outer], defined, lambda x: None)
        else:
            value = log_of(defined[e.attr], self._definitions(), self._named_log)
        return replace(e, attr=self.builder.log(e.attr, value, self.body))

    def _named(self, r: Record, of: str, lets: list[Let | Scan]) -> Record:
        """The parts of a record as variables, each with a value for every token."""

        def part(e: Expr | None, what: str, token: bool = True) -> Expr | None:
            if e is None or e.op == "var":
                return (
                    e
                    if e is None or not token or self.body.moving(e)
                    else self._spread(e, of, what, lets)
                )
            if token and not self.body.moving(e):
                return self._spread(e, of, what, lets)
            name = self.names(f"{of}_{what}" if what else describe(e, of))
            lets.append(Let((name,), e))
            self.body.token[name] = token
            self.body.derived.add(name)
            return Expr("var", (), name, e.type)

        several = len(r.states) > 1

        def label(what: str, j: int) -> str:
            return f"{what}_{j + 1}" if several else what

        def coefficient(e: Expr | None, what: str) -> Expr | None:
            return e if e is None or e.op == "num" else part(e, what)

        decay = r.decay
        if several or r.kind == "signed":
            decay = tuple(tuple(coefficient(a, "decay") for a in row) for row in r.decay)
        return replace(
            r,
            key=part(r.key, "key"),
            probe=part(r.probe, "probe"),
            log=part(r.log, "log_decay"),
            decay=decay,
            write=tuple(part(w, label("write", j)) for j, w in enumerate(r.write)),
            erase=tuple(part(c, label("erase", j)) for j, c in enumerate(r.erase)),
            start=r.start,
        )

    def _spread(self, e: Expr, of: str, what: str, lets: list[Let | Scan]) -> Expr:
        """A value that is the same for all tokens, for each of them."""
        name = self.names(f"{of}_{what}")
        lets.append(Let((name,), Expr("spread", (e,), None, e.type.at(TOKEN))))
        self.body.token[name] = True
        self.body.derived.add(name)
        return Expr("var", (), name, e.type.at(TOKEN))

    # -------------------------------------------------------------------------------------------- reads

    def read(
        self,
        e: Expr,
        node: Node,
        inside: frozenset[str] = frozenset(),
        plain: frozenset[str] = frozenset(),
    ) -> Expr:
        """``e`` with what it reads of running states as reads of their scans; ``inside``: states of this scan."""
        done: dict[int, Expr] = {}
        for n in walk(e):
            args = tuple(done[id(a)] for a in n.args)
            new = n.with_args(args)
            if n.op == "matmul" and (found := self._at_key(n, done, inside)) is not None:
                new = found
            elif n.op == "carry" and n.attr[0] not in inside:
                new = self._value(n, plain)
            elif n.op == "var" and n.attr in self.body.collected:
                new = replace(n, attr=self.body.collected[n.attr])
            done[id(n)] = new
        left = [n for n in walk(done[id(e)]) if n.op == "running"]
        if left:
            raise Stuck([left[0].attr], "its state is read as a whole, not at a key", node.let.expr)
        return done[id(e)]

    def _value(self, n: Expr, plain: frozenset[str]) -> Expr:
        """What a carried variable is where it stands by itself."""
        name, when = n.attr
        if name in self.body.shifted and when == "prev":
            return self.body.shifted[name]
        if name in self.body.collected:
            if when == "prev":
                raise Stuck([name])
            return replace(n, op="var", attr=self.body.collected[name])
        if name in self.builder.looped:
            raise Stuck([name])
        if name not in self.body.steps or name in plain:
            return replace(n, op="var", attr=name)
        if n.type.rank >= 2:
            return replace(n, op="running", attr=name)
        return self._read(n, None, False)

    def _at_key(self, n: Expr, done: dict[int, Expr], inside: frozenset[str]) -> Expr | None:
        """``S @ q``, ``S.T @ v`` or ``v @ S`` of a running state."""
        a, b = n.args
        for state, other, turned in ((a, b, False), (b, a, True)):
            if state.op == "T":
                state, turned = state.args[0], not turned
            running = state.op == "carry" and state.attr[0] in self.body.steps
            if running and state.type.rank == 2 and other.type.rank == 1:
                if state.attr[0] in inside or state.attr[0] in self.body.collected:
                    return None
                return self._read(state, done[id(other)], turned)
        return None

    def _read(self, state: Expr, query: Expr | None, turned: bool) -> Expr:
        name, when = state.attr
        scan = self.builder.records.get(name)
        if name in self.builder.looped:
            raise Stuck([name])
        if scan is None:
            raise Stuck([name], "it is read before it is written in the same tick", state)
        r = scan.record
        j = r.states.index(name)
        how = Read(scan.name, j, "after" if when == "new" else "before", turned != r.transposed)
        dims = state.type.dims if query is None else (state.type.dims[1 if turned else 0],)
        head = state.type.head or (query is not None and query.type.head)
        kind = Type(dims, head, TOKEN)
        value = Expr("read", () if query is None else (query,), how, kind)
        if r.start and r.start[j] is not None and query is not None:
            at = make("T", r.start[j]) if how.transposed else r.start[j]
            value = add(value, make("matmul", at, query))
        return value
