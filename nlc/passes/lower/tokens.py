"""A token system: what needs no state for all tokens at once, one loop over tokens, then the rest at once."""

from __future__ import annotations

from dataclasses import replace

from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.ops import add, num
from nlc.ir.program import Let, Loop, Program, Return, Slot
from nlc.ir.system import System
from nlc.ir.types import NEVER, TOKEN, Type
from nlc.ir.update import Update
from nlc.passes.lower.constants import Constants
from nlc.passes.lower.periods import state_type
from nlc.passes.lower.schedule import Item, schedule
from nlc.passes.lower.step import Lowering
from nlc.passes.lower.ticks import COUNTED
from nlc.passes.lower.windows import Windows
from nlc.passes.naming import describe
from nlc.passes.recurrence import Recurrence
from nlc.passes.share import share

COUNTS = ("t", "pos")  # what is counted from the start of the stream


class Tokens(Constants, Windows, Lowering):
    """Sorts every expression into before, in and after the loop."""

    def __init__(self, system: System, updates: dict[str, Update], reserved: frozenset[str]):
        super().__init__(system, updates, reserved)
        inner = [total.args[0] for total, _ in self.totals.values()]
        inner += [e for item in self.clock_items().values() for e in item.exprs]
        self.recurrence = Recurrence(system, self.updates, inner)
        self.before: list[Let] = []
        self.after: list[Let] = []
        self.items: dict[str, Item] = {}
        self.collects: dict[str, str] = {}
        self.hoisted: dict[Expr, Expr] = {}
        self.constants: dict[Expr, Expr] = {}
        self.delayed: dict[tuple[Expr, frozenset[str]], Expr] = {}
        self.ends: list[Let] = []
        self.carries: list[str] = []
        self.first: list[Let] = []
        self.written: set[str] = set()
        self.cache_vars: dict[tuple[str, str], tuple[str, str]] = {}
        self.wanted = {
            a: f"{level.name}_{key}"
            for level in system.levels.values()
            for key, a in [
                ("retain", level.retain),
                *(level.rule.args.items() if level.rule else ()),
            ]
            if a is not None
        }

    def program(self) -> Program:
        system = self.system
        self._ticks()
        self.items |= self.level_items() | self.clock_items()
        for key, (total, _) in self.totals.items():
            self.items[f"gather {key}"] = Item(
                f"gather {key}", [total.args[0]], total.args[0].type.clock
            )
        for name in self._needed():  # in the order of the spec
            if not self.recurrence.flow(name):
                self._flow(name)
        outputs = {name: self._after(e, name) for name, e in system.output.items()}
        loop = self._loop()
        loop = loop and self.without_copies(loop, [*outputs.values()])
        body: list[Let | Loop | Return] = list(share(self.before, self.names))
        body += [loop] if loop else []
        body += share(self.after, self.names, [e for e in outputs.values()])
        self._level_slots()
        end = Return(outputs, {s.key: s.var for s in self.slots})
        return Program(system, tuple(self.slots), (*body, end), self.inputs)

    # -------------------------------------------------------------------------------------------- state

    def _needed(self) -> list[str]:
        """Flows that the outputs and the steps read, directly or through others."""
        seen: set[str] = set()
        stack = [
            *self.system.output.values(),
            *(e for item in self.items.values() for e in item.exprs),
        ]
        while stack:
            for n in walk(stack.pop()):
                if n.op == "flow" and n.attr not in seen:
                    seen.add(n.attr)
                    stack.append(self.system.flows[n.attr].expr)
        return [name for name in self.system.flows if name in seen]

    def _owner(self, state: str) -> str:
        return self.system.states[state].level

    def _level_slots(self) -> None:
        levels = [
            Slot(s.name, self.state_vars[s.name], "level", state_type(s, level), s.init, s.learned)
            for level in self.system.levels.values()
            if level.name in self.updates
            for s in level.states
            if not s.passing
        ]
        self.slots = levels + self.timed + self.slots

    def _ticks(self) -> None:
        parts = [f.expr for f in self.system.flows.values()] + list(self.system.output.values())
        parts += [e for item in self.updates.values() for e in item.expressions]
        parts += [total.args[0] for total, _ in self.totals.values()]
        used = {n.attr for e in parts for n in walk(e) if n.op == "index" and n.attr[0] in COUNTS}
        own = {n.attr[0] for e in parts for n in walk(e) if n.op == "ticks"}
        own |= {level for what, level in used if what == "t" and level is not None}
        self.count = self.var(self.names("count"), COUNTED)
        self.counting(name for name in self.system.levels if name in own)
        if not used and not self.guarded:
            return
        whole = Type((), False, NEVER, dtype="int")
        end = Slot("pos", self.names("pos_end"), "tick", whole)
        self.slots.append(end)
        seen = self.var(end.var, whole)
        if used:
            kind = Type((), False, TOKEN, dtype="int")
            here = self.var(self.names("pos"), kind)
            now = Expr("positions", (seen,), None, kind)
            self.before.append(Let((str(here.attr),), now, "positions in the stream"))
            for what, level in used:
                read = here if what == "pos" else add(here, num(1))
                if level is not None and self.system.levels[level].clock.slow:
                    read = self.seen(self.system.levels[level], here)
                self.vars[Expr("index", (), (what, level))] = read
        self.after.append(Let((end.var,), Expr("advance", (seen,), None, whole)))

    # -------------------------------------------------------------------------------------------- before

    def _before(self, e: Expr, where: str) -> Expr:
        """A state-free expression for all tokens at once; operators that carry a window become statements."""
        return self._batched(e, where, self.before)

    def _batched(self, e: Expr, where: str, out: list[Let]) -> Expr:
        done: dict[int, Expr] = {}
        for node in walk(e):
            if node.op == "flow":
                self._flow(node.attr)
            new = node.with_args(tuple(done[id(a)] for a in node.args))
            if node.op in ("conv", "delay"):
                new = self._windowed(node, new, where, out)
            elif node.op == "attend":
                new = self._attend(node, new, out)
            else:
                new = self.hoisted.get(node) or (self.program_expr(new) if not new.args else new)
            done[id(node)] = new
        return done[id(e)]

    def _windowed(self, node: Expr, new: Expr, where: str, out: list[Let]) -> Expr:
        if node in self.hoisted:
            return self.hoisted[node]
        label = str(node.attr) if node.op == "conv" else f"{where}.prev"
        name, slot = self.names(label), self._window_slot(node, new, label)
        out.append(
            Let(
                (name, slot.var),
                new.with_args((*new.args, self.var(slot.var, slot.type))),
                "",
                node.span,
            )
        )
        self.hoisted[node] = self.var(name, node.type)
        return self.hoisted[node]

    def _window_slot(self, node: Expr, new: Expr, label: str) -> Slot:
        keys = {s.key for s in self.slots}
        key, n = label, 2
        while key in keys:
            key, n = f"{label}_{n}", n + 1
        value = new.args[0].type
        if node.op == "conv":
            taps = self.system.modules[node.attr].width
            slot = Slot(key, self.names(f"{key}_window"), "window", value, window=taps)
        else:
            init = new.args[1] if not (new.args[1].op == "num" and new.args[1].attr == 0) else None
            slot = Slot(key, self.names(f"{key}_last"), "prev", value, init)
        self.slots.append(slot)
        return slot

    def _attend(self, node: Expr, new: Expr, out: list[Let], step: str = "") -> Expr:
        """Keys and values join the cache, once a level; ``step``: one token at a time, in the loop."""
        level, window = node.attr
        if (level, step) not in self.cache_vars:
            names = []
            for key, arg in zip(("key", "value"), new.args[1:]):
                name = self.names(f"{level}_{key}s")
                slot = Slot(f"{level}.{key}{step}", name, "cache", arg.type, window=window)
                self.slots.append(slot)
                extended = Expr(f"extend{step}", (self.var(name, arg.type), arg), window, arg.type)
                out.append(Let((name,), extended))
                self.carries += [name] if step else []
                names.append(name)
            self.cache_vars[level, step] = (names[0], names[1])
        pair = zip(self.cache_vars[level, step], new.args[1:])
        keys, values = (self.var(n, a.type) for n, a in pair)
        return replace(new, op=f"attend{step}", args=(new.args[0], keys, values))

    def _flow(self, name: str) -> None:
        """Writes a flow where it belongs, once."""
        if name in self.written:
            return
        self.written.add(name)
        flow = self.system.flows[name]
        if not self.recurrence.flow(name):
            e = self._before(flow.expr, name)
            if e.op == "var":  # another name for the same thing
                self.flow_vars[name] = str(e.attr)
                return
            self.before.append(Let((self.flow_vars[name],), e, "", flow.span))
        elif name in self.recurrence.feedback:
            self.items[name] = Item(name, [flow.expr], TOKEN)
        else:
            e = self._after(flow.expr, name)
            self.after.append(Let((self.flow_vars[name],), e, "", flow.span))

    # -------------------------------------------------------------------------------------------- after

    def _after(self, e: Expr, where: str) -> Expr:
        """What can wait until after the loop; what reads a state is computed in it and collected."""
        r = self.recurrence
        if not r.recurrent(e):
            return self._batched(e, where, self.before if e.op not in ("num",) else self.after)
        done: dict[int, Expr] = {}
        cut: set[int] = set()
        for node in walk(e):
            in_loop = node.op != "flow" and r.recurrent(node) and r.reads_state(node)
            slow = node.args and r.recurrent(node) and TOKEN.faster(node.type.clock)
            if node.op == "state" or in_loop or slow:  # what is slow is held in the loop
                cut.add(id(node))
        above = _above(e, cut)
        for node in walk(e):
            if id(node) not in above:
                continue
            if id(node) in cut:
                done[id(node)] = node
                continue
            args = tuple(
                self._collect(a, where) if id(a) in cut else done[id(a)] for a in node.args
            )
            if node.op == "flow":
                done[id(node)] = self._read_flow(node)
                continue
            new = node.with_args(args)
            if node.op in ("conv", "delay"):
                new = self._windowed(
                    node, new, where, self.after if r.recurrent(node) else self.before
                )
            elif node.op == "attend":
                new = self._attend(node, new, self.after if r.recurrent(node) else self.before)
            elif not new.args:
                new = self.program_expr(new)
            done[id(node)] = new
        return self._collect(e, where) if id(e) in cut else done[id(e)]

    def _read_flow(self, node: Expr) -> Expr:
        self._flow(node.attr)
        if node.attr in self.recurrence.feedback and self.recurrence.flow(node.attr):
            inside = self.flow_vars[node.attr]
            outside = self._outside(inside)
            return self.var(outside, node.type)
        return self.program_expr(node)

    def _outside(self, inside: str) -> str:
        for outer, inner in self.collects.items():
            if inner == inside:
                return outer
        outer = self.names(f"{inside}_all")
        self.collects[outer] = inside
        return outer

    def _collect(self, e: Expr, where: str) -> Expr:
        """A value computed in the loop and gathered over its ticks."""
        if e not in self.hoisted:
            name = self.names(describe(self.program_expr(e), of=where.replace(".", "_")))
            self.items[f"collect:{name}"] = Item(f"collect:{name}", [self.inside(e)], TOKEN)
            inner = self.names(f"{name}_t")
            self.collects[name] = inner
            self.hoisted[e] = self.var(name, e.type.at(TOKEN))
            self.flow_vars[f"collect:{name}"] = inner
        return self.hoisted[e]

    # -------------------------------------------------------------------------------------------- the loop

    def _loop(self) -> Loop | None:
        if not self.items:
            return None
        for item in list(self.items.values()):
            self._pull(item)
        ordered, kept = schedule(self.items, self.system)
        body: list[Let] = []
        for state in sorted(kept):
            self.kept[state] = self.names(f"{state}_prev")
            s = self.system.states[state]
            body.append(
                Let(
                    (self.kept[state],),
                    self.var(self.state_vars[state], state_type(s, self.system.levels[s.level])),
                )
            )
        parts = [(item, self._in_loop(item)) for item in ordered]
        for item, lets in parts:
            body += lets
            if item.name.startswith("step "):
                body += self.renewed_by(self.system.levels[item.name[5:]])
        system = self.system
        kept = [
            (self.state_vars[s.name], state_type(s, system.levels[s.level]))
            for s in system.states.values()
        ]
        kept += [(s.var, s.type) for s in self.timed if s.kind != "tick"]
        kept += [(name, e.type) for e, name in self.holds.items()]
        body = [*self.opening(), *self.starts, *body, *self.ends, *self.closing()]
        body += self.settled(kept)
        body = self._without_aliases(share(body, self.names))
        inner: dict[str, str] = {}
        first = (*share(self.first, self.names), *self.holding())
        assigned = {n for x in (*first, *body) for n in x.names}
        carries = [
            v
            for n, v in self.state_vars.items()
            if self._owner(n) in self.updates and not system.states[n].passing
        ]
        carries += [*self.carries, *(s.var for s in self.timed)]
        for x in body:
            for n in walk(x.expr):
                if (
                    n.op == "var"
                    and n.type.clock.batched
                    and n.attr not in assigned
                    and n.attr not in carries
                ):
                    inner.setdefault(n.attr, self.names(f"{n.attr}_t"))
        body = [
            replace(
                x,
                expr=rewrite(
                    x.expr,
                    lambda n: (
                        replace(n, attr=inner[n.attr])
                        if n.op == "var" and n.attr in inner
                        else None
                    ),
                ),
            )
            for x in body
        ]
        counter = str(self.count.attr) if self.guarded else None
        return Loop(
            TOKEN,
            tuple(carries),
            inner,
            tuple(body),
            dict(self.collects),
            counter,
            first,
            bool(self.watching),
        )

    def _without_aliases(self, body: list[Let]) -> list[Let]:
        """A collected value that sharing has named already is collected under that name."""
        assigned = [n for x in body for n in x.names]
        for outer, inner in self.collects.items():
            alias = next((x for x in body if x.names == (inner,) and x.expr.op == "var"), None)
            if alias is None or assigned.count(alias.expr.attr) != 1:
                continue
            before = body[: body.index(alias)]  # what is assigned later has another value by then
            read = any(n.op == "var" and n.attr == inner for x in body for n in walk(x.expr))
            if not read and any(alias.expr.attr in x.names for x in before):
                body = [x for x in body if x is not alias]
                self.collects[outer] = alias.expr.attr
        return body

    def _pull(self, item: Item) -> None:
        """Flows that an item of the loop reads: recurrent ones join the loop, others are written before it."""
        for e in item.exprs:
            for node in walk(e):
                if node.op == "flow" and node.attr not in self.written:
                    self._flow(node.attr)
                    if node.attr in self.items:
                        self._pull(self.items[node.attr])

    def _in_loop(self, item: Item) -> list[Let]:
        if item.name.partition(" ")[0] in ("step", "gradient", "gather", "clock"):
            return self.statements(item)
        self.reader = self.base
        e, lets = item.exprs[0], []
        span = self.system.flows[item.name].span if item.name in self.system.flows else e.span
        value = self.translate(e, item.name, lets)
        name = self.flow_vars[item.name]
        asked = {n.attr for let in (*self.ends, *self.starts) for n in walk(let.expr)}
        wanted = name in asked or name in self.collects.values()  # by this name, already
        if e.op == "flow" and value.op == "var" and not wanted:  # another name for the same thing
            self.flow_vars[item.name] = str(value.attr)
            return lets
        return [*lets, Let((name,), value, "", span)]

    def translate(self, e: Expr, where: str, lets: list[Let]) -> Expr:
        """In the loop: what needs no state moves out of it, carried windows become carries of the loop."""
        recurrent = self.recurrence.recurrent
        if where in self.system.levels:
            e = self.recent(e, self.system.levels[where], lets)
        e = self.hold(e)
        if not recurrent(e):
            return self._free(e, where)
        done: dict[int, Expr] = {}
        for node in walk(e):
            if not recurrent(node):
                continue
            if node.op == "delay":
                done[id(node)] = self._delayed(node, where)
                continue
            args = tuple(done[id(a)] if recurrent(a) else self._free(a, where) for a in node.args)
            new = node.with_args(args)
            if node.op in ("conv", "attend"):
                new = self._carried(node, new, lets)
            elif not new.args:
                new = self.program_expr(new)
            done[id(node)] = new
        return done[id(e)]

    def _free(self, e: Expr, where: str) -> Expr:
        """A state-free operand: moved out, except matrices, of which T would not fit (``outer(v, k)``)."""
        if e.args and e.type.rank >= 2 and e.type.clock.batched:
            return e.with_args(tuple(self._free(a, where) for a in e.args))
        return self._outside_loop(e, where)

    def _outside_loop(self, e: Expr, where: str) -> Expr:
        """A state-free operand of a recurrent node: a leaf stays, anything else is computed before the loop."""
        if e in self.hoisted:
            return self.hoisted[e]
        if (whole := self.fixed(e)) is not None:
            return self.constant(e, whole, where)
        if not e.args:
            if e.op == "flow":
                self._flow(e.attr)
            return self.program_expr(e)
        if not any(
            n.op in ("flow", "input", "weight", "index", "var") and n.attr is not None
            for n in walk(e)
        ):
            return self.program_expr(e)  # a number
        new = self._before(e, where)
        if new.op == "var":
            return new
        name = self.names(self.wanted.get(e) or describe(new, of=where.replace(".", "_")))
        self.before.append(Let((name,), new, "", e.span))
        self.hoisted[e] = self.var(name, e.type)
        return self.hoisted[e]

    def _carried(self, node: Expr, new: Expr, lets: list[Let]) -> Expr:
        """conv and attention of a recurrent value: one token at a time, what they keep carried by the loop."""
        if node in self.hoisted:
            return self.hoisted[node]
        if node.op == "attend":
            return self._attend(node, new, lets, step="_step")
        label = str(node.attr)
        slot = self._window_slot(node, new, label)
        self.carries.append(slot.var)
        name, window = self.names(label), self.var(slot.var, slot.type)
        step = replace(new, op="conv_step", args=(*new.args, window))
        lets.append(Let((name, slot.var), step))
        self.hoisted[node] = self.var(name, node.type)
        return self.hoisted[node]

    def _delayed(self, node: Expr, where: str) -> Expr:
        """prev of a recurrent value: what it comes to when the tick is over is carried to the next."""
        inner, init = node.args
        inner = self.inside(inner)
        known = (node, self.seen_late(inner))
        if known not in self.delayed:
            first = node.with_args((inner, self.program_expr(init)))
            slot = self._window_slot(node, first, f"{where}.prev")
            self.carries.append(slot.var)
            self.delayed[known] = self.var(slot.var, node.type)
            lets: list[Let] = []
            value = self.translate(self.as_read(inner), where, lets)
            lets.append(Let((slot.var,), value, "for the next token"))
            self.ends += self.during(inner.type.clock, lets)
        return self.delayed[known]


def _above(e: Expr, cut: set[int]) -> set[int]:
    """The nodes of ``e`` down to the cut, but not below it."""
    seen: set[int] = set()
    stack = [e]
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            stack.extend(() if id(node) in cut else node.args)
    return seen
