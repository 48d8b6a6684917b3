"""Program -> program whose records say what their gates are made of, where they can be made where they are used."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import reduce

from nlc.ir.coupled import factored, with_numbers
from nlc.ir.expr import Expr, rewrite, substitute, walk
from nlc.ir.gates import (
    ARITHMETIC,
    NUMBER,
    WEIGHED,
    Gates,
    inside,
    leaves,
    named,
    number,
    own,
    parts,
    rate,
)
from nlc.ir.ops import add, leaf, mul
from nlc.ir.program import Let, Loop, Parallel, Program
from nlc.ir.scan import Record, Scan
from nlc.passes.derive import gradient
from nlc.passes.naming import Names, describe
from nlc.passes.plan.answered import answered
from nlc.passes.plan.statements import assigned, needed, nodes, reads
from nlc.passes.share import share

MOST = 4  # values that the gates of a record are made of
COST = 12  # functions that it takes to make them


def with_gates(program: Program, reserved: frozenset[str]) -> Program:
    """The program with records that hold what their gates are made of: the gates' expressions, and their slopes.

    So for scans of matrices, in loops over boundaries, too, where what is kept anyway is not made anew. A decay by
    channel, which is used often, is made before, as a ``made`` node. Where a write that nothing else reads is a number
    times a vector, it stands in its scan.
    """
    at = next((i for i, x in enumerate(program.body) if isinstance(x, Parallel)), None)
    if at is None:
        return program
    return _Inlined(program, at, reserved).program()


class _Inlined:
    """Records of what takes the place of the loop over tokens, with definitions in the place of names."""

    def __init__(self, program: Program, at: int, reserved: frozenset[str]):
        self.whole, self.at = program, at
        self.parallel: Parallel = program.body[at]  # type: ignore[assignment]
        before = [x for x in program.body[:at] if isinstance(x, Let) and len(x.names) == 1]
        self.outer = {x.names[0]: x.expr for x in before if x.when is None}
        self.slices = dict(self.parallel.slices)
        self.inner: dict[str, Expr] = {}
        self.made: dict[Expr, tuple[str, str]] = {}  # flows' new names, and the lets behind them
        self.names = Names(reserved | program.names)
        several = Counter(n for x in self.parallel.body for n in assigned(x))
        self.once = {n for n, times in several.items() if times == 1}
        states = {n for x in self.parallel.body if isinstance(x, Scan) for n in x.record.states}
        self.moving = states | (several.keys() - self.once)
        found = (n for x in self.parallel.body for n in nodes(x))
        self.uses = Counter(str(n.attr) for n in found if n.op == "var")
        self.decays: dict[Expr, Expr] = {}  # by channel, that are made before
        self.tile: _Tile | None = None  # the loop over tiles whose body it is in
        self.body = tuple(y for x in self.parallel.body for y in self._statement(x))

    def _statement(self, x: Let | Scan | Loop) -> list[Let | Scan | Loop]:
        found = self._planned(x)
        self.inner = holding(self.inner, x)
        return found

    def _planned(self, x: Let | Scan | Loop) -> list[Let | Scan | Loop]:
        if isinstance(x, Let) and len(x.names) == 1 and x.when is None and x.names[0] in self.once:
            self.inner[x.names[0]] = x.expr
        if isinstance(x, Loop) and x.periods:
            return [self._tiles(x)]
        if isinstance(x, Scan) and x.record.kind in WEIGHED:
            return [replace(x, record=self._coupled(x.record))]
        if not isinstance(x, Scan):
            return [x]
        if x.record.kind == "channel":
            return self._decays_first(x) if x.record.rank == 2 else [x]
        return [self._made_of(x) if x.record.kind in ("none", "scalar") else x]

    def _made_of(self, x: Scan) -> Scan:
        """A scan whose gates are numbers, over what they are made of, if it is more than a product."""
        if x.product:
            return x
        x = replace(x, record=answered(x.record, self._definition))
        record = self._record(self._written_out(x.record)) if x.record.rank == 2 else None
        return replace(x, record=record or self._written_out(x.record, made=False))

    def _tiles(self, loop: Loop) -> Loop:
        """A loop over tiles: what is made of flows from outside of it takes them in."""
        self.tile = tile = _Tile(loop)
        body = []
        for x in loop.body:
            if isinstance(x, Scan) and x.record.kind in WEIGHED:
                x = replace(x, record=self._coupled(x.record))
            elif isinstance(x, Scan) and x.record.kind in ("none", "scalar"):
                x = self._made_of(x)
            body.append(x)
            tile.behind(x)
        self.tile = None
        body = needed(body, tile.kept)
        used = {n for x in body for n in reads(x)} | tile.kept
        slices = {o: i for o, i in tile.slices.items() if i in used}
        return replace(loop, body=tuple(body), slices=slices)

    def _coupled(self, r: Record) -> Record:
        """The record of coupled states over what its gates are made of, and the vectors that are written."""
        r = replace(r, write=tuple(e and self._product(e) for e in r.write))
        gates = parts(r)
        found = {n: self._expanded(e) for n, e in gates.items()}
        if self._refused([*found.values()]):
            found = gates
        known = {n: self._flow(n) for e in found.values() for n in leaves(e)}
        r = with_numbers(r, {n: substitute(e, known) for n, e in found.items()})
        values, _ = named(parts(r))
        return replace(r, gates=with_slopes(values, together=True))

    def _product(self, e: Expr) -> Expr:
        """A write as a number times a vector, as far as that is what it is defined as."""
        if e.op == "neg" or (e.op == "mul" and any(a.type.rank < e.type.rank for a in e.args)):
            return e.with_args(
                tuple(self._product(a) if a.type.rank == e.type.rank else a for a in e.args)
            )
        value = self._definition(e)
        if value is None and e.op == "var" and self._alone(str(e.attr)):
            value = self._scope[0].get(str(e.attr))
        if value is None:
            return e
        found = self._product(value)
        return e if factored(found)[1] == found else found

    def _alone(self, name: str) -> bool:
        """Whether what reads a value is one, so that it can stand there."""
        kept = self.tile.kept if self.tile else {*self.parallel.collects.values()}
        return self.uses[name] <= 1 and name not in kept

    def _definition(self, e: Expr) -> Expr | None:
        """What a variable stands for, if that has the same value still."""
        lets, moving = self._scope
        value = lets.get(str(e.attr)) if e.op == "var" else None
        moved = value is None or any(str(n.attr) in moving for n in walk(value) if n.op == "var")
        return None if moved else value

    @property
    def _scope(self) -> tuple[dict[str, Expr], set[str]]:
        """What names stand for where the next scan is, and those whose values change in the loop."""
        return (
            (self.inner, self.moving) if self.tile is None else (self.tile.lets, self.tile.moving)
        )

    def _written_out(self, r: Record, made: bool = True) -> Record:
        """The record with its write as a number times a vector, if that is what it is and nothing else reads it;
        where gates are not ``made``, of what stands before the loop alone: the rest is done where scans are printed."""
        name = str(r.write[0].attr) if r.write[0] is not None and r.write[0].op == "var" else ""
        value = self._scope[0].get(name)
        if not self._alone(name):
            return r
        if value is None:
            product = self._product_outside(name, made)
        else:
            product = mul(*factored(value)) if made else None
        whole = r if product is None else replace(r, write=(product,))
        return r if rate(whole) is None else whole

    def _product_outside(self, name: str, made: bool) -> Expr | None:
        """A number, which can be ``made`` of others, times a vector that a variable in the loop over tokens is, if only
        for that there is a statement before the loop."""
        outer = next((o for o, i in self.slices.items() if i == name), "")
        value = self.outer.get(outer) if self.tile is None else None
        others = (x for x in self.whole.body if x is not self.parallel)
        if value is None or any(outer in reads(x) for x in others):
            return None
        number, vector = factored(value)
        if number.op == "num":
            return None
        taken = lambda e: self._flow(Expr("flow", (), (outer, e), e.type))  # noqa: E731
        if made:
            number = self._expanded(number, outer)
        elif number.type.clock.batched:
            number = taken(number)
        return mul(number, taken(vector))

    def _after_decay(self, r: Record) -> Record:
        """The record with its probe as it is where the state has decayed, if it is that times the decay."""
        value = self._definition(r.probe) if r.probe is not None else None
        decay = r.decay[0][0]
        if value is None or value.op != "mul" or decay not in value.args:
            return r
        probe = value.args[1 - value.args.index(decay)]
        return r if probe.type.rank != 1 else replace(r, probe=probe, decayed=True)

    def _decays_first(self, x: Scan) -> list[Let | Scan | Loop]:
        """A scan behind the statement that makes its decays."""
        x = replace(x, record=self._after_decay(x.record))
        log: Expr = x.record.log  # type: ignore[assignment]
        if log in self.decays:
            return [replace(x, record=replace(x.record, log=self.decays[log]))]
        found = self._expanded(log)
        made_of = dict.fromkeys(leaves(found))
        if self._refused([found]) or not any(n.type.clock.batched for n in made_of):
            return [x]
        found = substitute(found, {n: self._flow(n) for n in made_of})
        gates, meant = named({"log_a": found})
        gates = with_slopes(gates)
        made = Expr("made", tuple(meant[n] for n in gates.given), gates, log.type)
        name = self.names(f"{x.name}_log_decay")
        self.decays[log] = Expr("var", (), name, log.type)
        let = Let((name,), made, "", x.span)
        return [let, replace(x, record=replace(x.record, log=self.decays[log]))]

    def _refused(self, gates: list[Expr]) -> bool:
        """Whether kernels had better take them as they are."""
        flows = {n for e in gates for n in leaves(e) if n.type.clock.batched}
        cost = sum(n.op not in ARITHMETIC and bool(n.args) for e in gates for n in own(e))
        return len(flows) > MOST or cost > COST or all(e in flows for e in gates)

    def _record(self, r: Record) -> Record | None:
        """The record with its gates written out; None where kernels had better take them as they are."""
        gates = {n: self._expanded(e) for n, e in parts(r).items()}
        toward = any(r.start)
        if not gates or (toward and r.erases and "w" not in gates):  # T is erased before
            return None
        if [*gates] == ["w"]:  # a number that several scans can have
            return None
        if self._refused([*gates.values()]) or all(map(number, gates.values())):
            return None
        known = {n: self._flow(n) for e in gates.values() for n in leaves(e)}
        gates = {n: substitute(e, known) for n, e in gates.items()}
        write = r.write
        if "w" in gates:
            _, value = rate(r) or (None, None)
            write = (Expr("mul", (gates["w"], value), None, r.write[0].type),)  # type: ignore[union-attr,arg-type]
        erase = (gates["b"],) if "b" in gates else r.erase
        r = replace(r, log=gates.get("log_a", r.log), erase=erase, write=write)
        found, _ = named(parts(r))
        decay = with_slopes(found.only("log_a")) if r.log is not None else None
        return replace(r, gates=replace(with_slopes(found), decay=decay))

    def _expanded(self, e: Expr, outside: str = "") -> Expr:
        """An expression over flows that have names, weights and numbers; ``outside``: the let before the loop that it
        is of. A flow without a name is marked with that let."""
        if e.op == "spread":
            return self._expanded(e.args[0], outside)
        if number(e):
            return e
        if e.op == "var" and outside:
            inner = self.outer.get(str(e.attr))
            if inner is not None and inside(inner):
                return self._expanded(inner, str(e.attr))
            return Expr("flow", (), ("", e), e.type)
        if e.op == "var":
            return self._variable(e)
        if inside(e):
            return e.with_args(tuple(self._expanded(a, outside) for a in e.args))
        if outside and e.type.clock.batched:
            return Expr("flow", (), (outside, e), e.type)
        return e

    def _variable(self, e: Expr) -> Expr:
        """What a variable within the loop stands for, if kernels can make it of what has names."""
        name = str(e.attr)
        lets, moving = self._scope
        if self.tile is not None and name in self.tile.kept:
            return e  # it is there anyway
        if (inner := lets.get(name)) is not None:
            found = self._expanded(inner)
            made_of = [x for x in leaves(found) if x.type.clock.batched]
            plain = all(x.op in ("var", "flow") and x.attr not in moving for x in made_of)
            return found if plain else e
        if self.tile is not None:
            return self._from_outside(e, self.tile)
        outer = next((o for o, i in self.slices.items() if i == name), None)
        inner = self.outer.get(outer or "")
        return self._expanded(inner, outer or "") if inner is not None and inside(inner) else e

    def _from_outside(self, e: Expr, tile: _Tile) -> Expr:
        """What a variable within a loop over tiles stands for, of what there is outside of it."""
        outer = next((o for o, i in tile.slices.items() if i == e.attr), None)
        if outer is None:
            return e
        self.tile = None
        found = self._variable(Expr("var", (), outer, e.type))
        self.tile = tile
        taken = lambda n: Expr("flow", (), (None, n), n.type)  # noqa: E731
        return rewrite(
            found, lambda n: taken(n) if n.op == "var" and n.type.clock.batched else None
        )

    def _flow(self, e: Expr) -> Expr:
        """A variable within the loop for a flow."""
        if e.op != "flow":
            return e
        of, value = e.attr  # type: ignore[misc]
        name = str(value.attr) if of is None else self._sliced(of, value)
        if self.tile is not None:
            name = self.tile.slices.setdefault(name, name)
        return Expr("var", (), name, value.type)

    def _sliced(self, of: str, value: Expr) -> str:
        """The variable within the loop for a flow that stands in a let before it."""
        if value.op == "var":
            outer = str(value.attr)
        else:
            if value not in self.made:
                bare = value.args[0] if value.op == "split" else value
                self.made[value] = self.names(describe(bare, of)), of
            outer = self.made[value][0]
        if outer not in self.slices:
            after = self.whole.body[self.at + 1 :]
            later = any(outer in reads(x) for x in after)
            self.slices[outer] = self.names(f"{outer}_rows") if later else outer
        return self.slices[outer]

    def program(self) -> Program:
        """The program, without what nothing reads any more."""
        after, first = self.whole.body[self.at + 1 :], self.parallel.first
        kept = {n for x in after for n in reads(x)} | {s.var for s in self.whole.slots}
        kept |= {*self.parallel.collects.values()} | {n for x in first for n in reads(x)}
        body = tuple(needed(self.body, kept))
        used = {n for x in body for n in reads(x)} | kept
        slices = {o: i for o, i in self.slices.items() if i in used}
        whole = replace(self.parallel, slices=slices, body=body)
        before: list = []
        for x in self.whole.body[: self.at]:
            if isinstance(x, Let):
                mine = {e: n for e, (n, of) in self.made.items() if of in x.names}
                before += [Let((n,), e, "", x.span) for e, n in mine.items()]
                known = {e: Expr("var", (), n, e.type) for e, n in mine.items()}
                x = replace(x, expr=substitute(x.expr, known))
            before.append(x)
        live = {n for x in (whole, *after) for n in reads(x)} | kept
        live.add(next(iter(self.whole.inputs.values())))
        return replace(self.whole, body=(*needed(before, live), whole, *after))


class _Tile:
    """The scope of a loop over tiles."""

    def __init__(self, loop: Loop):
        self.slices = dict(loop.slices)
        times = Counter(n for x in loop.body for n in assigned(x))
        states = {n for x in loop.body if isinstance(x, Scan) for n in x.record.states}
        self.moving = {*loop.carries, *states, *(n for n, count in times.items() if count > 1)}
        self.lets: dict[str, Expr] = {}
        self.kept = {*loop.carries, *loop.collects.values()}
        self.kept |= {n for names in loop.stacks.values() for n in names}

    def behind(self, x: Let | Scan) -> None:
        """What names stand for behind a statement."""
        self.lets = holding(self.lets, x)
        alone = isinstance(x, Let) and len(x.names) == 1 and x.when is None
        if alone and x.names[0] not in self.moving:
            self.lets[x.names[0]] = x.expr


def holding(lets: dict[str, Expr], x: Let | Scan | Loop) -> dict[str, Expr]:
    """What names stand for, as far as nothing that it is made of has another value behind a statement."""
    new = assigned(x)
    return {n: e for n, e in lets.items() if not new & {str(v.attr) for v in walk(e)}}


def with_slopes(gates: Gates, together: bool = False) -> Gates:
    """Gates with what gives the slopes by their variables, by nlc's own derivation."""
    if together:
        lets = [Let((n,), e) for n, e in gates.values]
        gates = replace(gates, together=_shared(lets, {*gates.given}))
    if not gates.tensors:
        return gates
    grads = [leaf("var", f"d_{g}", NUMBER) for g, _ in gates.values]
    loss = reduce(add, (mul(d, e) for d, (_, e) in zip(grads, gates.values, strict=True)))
    wanted = [leaf("var", n, NUMBER) for n in gates.tensors]
    found, zero = gradient(loss, wanted), leaf("num", 0.0, NUMBER)
    lets = [Let((f"slope_{x.attr}",), found.get(x, zero)) for x in wanted]
    return replace(gates, slopes=_shared(lets, {*gates.given, *(str(g.attr) for g in grads)}))


def _shared(lets: list[Let], taken: set[str]) -> tuple[tuple[str, Expr], ...]:
    """Statements in which nothing is made twice; parts that are not asked for have the names x1, x2 and so on."""
    kept = {x.names[0] for x in lets}
    made = share(lets, Names(frozenset(taken | kept)))
    others = [x.names[0] for x in made if x.names[0] not in kept]
    new: dict[str, str] = {}
    for x in made:  # what is nothing but a part gives it its name
        if x.names[0] in kept and x.expr.op == "var" and x.expr.attr in others:
            new.setdefault(str(x.expr.attr), x.names[0])
    made = [x for x in made if x.names[0] not in new.values()]
    new |= {n: f"x{i}" for i, n in enumerate((n for n in others if n not in new), 1)}
    known = {leaf("var", n, NUMBER): leaf("var", x, NUMBER) for n, x in new.items()}
    return tuple((new.get(x.names[0], x.names[0]), substitute(x.expr, known)) for x in made)
