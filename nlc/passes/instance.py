"""One system written out inside another: its names under a prefix, its hypers replaced by what they are given."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, is_dataclass, replace

from nlc.base.span import Span
from nlc.ir.expr import Expr, rewrite
from nlc.ir.system import Hyper, Level, Number, System
from nlc.ir.types import Clock, Dim, Dims


class Instance:
    """``args`` are the hypers given as expressions, ``sizes`` those given that the system fixes at construction;
    ``taken`` are names that are not free any more, ``outer`` the sizes of the caller at its defaults. All of it stands
    at ``span``, the place of the call: the system's own text may be one that the user has never seen."""

    def __init__(
        self,
        system: System,
        prefix: str,
        args: dict[str, Expr],
        sizes: dict[str, Dim],
        taken: Collection[str],
        outer: dict[str, Number],
        span: Span,
    ):
        self.system, self.args, self.outer, self.span = system, args, outer, span
        self.sizes = self._sizes(sizes)
        self.names = self._fresh(prefix, set(taken))
        self.hypers: dict[str, Expr] = {}

    # -------------------------------------------------------------------------------------------- names

    def own(self, name: str) -> str:
        """What a name is called after the prefix."""
        return name

    def _fresh(self, prefix: str, taken: set[str]) -> dict[str, str]:
        """A free name for every level, flow, module and weight of the system."""
        out: dict[str, str] = {}
        system = self.system
        for name in dict.fromkeys(
            (*system.levels, *system.flows, *system.modules, *system.weights, *system.inputs)
        ):
            wanted, n = f"{prefix}.{self.own(name)}", 2
            while wanted in taken:
                wanted, n = f"{prefix}.{self.own(name)}_{n}", n + 1
            taken.add(wanted)
            out[name] = wanted
        return out

    def state(self, name: str) -> str:
        """The name of a state of one of its levels."""
        level = self.system.states[name].level
        return self.names[level] + name.removeprefix(level)

    # -------------------------------------------------------------------------------------------- hypers

    def hyper(self, name: str) -> Expr:
        """What a hyper is here: its argument, else its default over the others."""
        base, _, index = name.partition("[")
        if base not in self.hypers:
            given, default = self.args.get(base), self.system.hypers[base].default
            self.hypers[base] = rewrite(default, self._default) if given is None else given
        value = self.hypers[base]
        return value.args[int(index[:-1])] if index else value

    def _default(self, n: Expr) -> Expr:
        return self.hyper(str(n.attr)) if n.op == "hyper" else n.at(self.span)

    def _sizes(self, given: dict[str, Dim]) -> dict[str, Dim]:
        """The same for hypers in sizes and periods."""
        out = dict(given)

        def settle(hyper: Hyper) -> None:
            if hyper.name in out or hyper.size is None:
                return
            for symbol in hyper.size.symbols:
                if symbol in self.system.hypers:
                    settle(self.system.hypers[symbol])
            out[hyper.name] = hyper.size.substitute(out)

        for hyper in self.system.hypers.values():
            if isinstance(hyper.value, list):
                for i, v in enumerate(hyper.value):
                    if isinstance(v, int):
                        out.setdefault(f"{hyper.name}[{i}]", Dim.of(v))
            elif hyper.static:
                settle(hyper)
        return out

    # -------------------------------------------------------------------------------------------- parts

    def expr(self, e: Expr) -> Expr:
        """An expression of the system in the caller's terms."""
        return rewrite(e, self._placed)

    def _placed(self, n: Expr) -> Expr:
        new = self.leaf(n)
        return new if new is not None and n.op == "hyper" else (new or n).at(self.span)

    def leaf(self, n: Expr) -> Expr | None:
        """One node over operands that are in the caller's terms already."""
        if n.op == "hyper":
            return self.hyper(str(n.attr))
        if n.op == "where" and n.args[0].op == "bool":  # a switch that is given
            return n.args[1 if n.args[0].attr else 2]
        if n.op == "flow":
            return replace(n, attr=self.names[n.attr])
        if n.op == "input":
            return replace(n, op="flow", attr=self.names[n.attr])
        if n.op == "state":
            name, time = n.attr
            return replace(n, attr=(self.state(name), time))
        if n.op in ("variable", "grad"):
            return replace(n, attr=self.state(str(n.attr)))
        if n.op == "initial":
            return replace(n, attr=self.names[n.attr])
        if n.op == "index" and n.attr[1] is not None:
            return replace(n, attr=(n.attr[0], self.names[n.attr[1]]))
        if n.op == "weight":
            path, _, tensor = str(n.attr).rpartition(".")
            new = self.names[n.attr] if n.attr in self.names else f"{self.names[path]}.{tensor}"
            return replace(n, attr=new)
        if isinstance(n.attr, str) and n.attr in self.system.modules:
            return replace(n, attr=self.names[n.attr])
        if n.op == "attend":
            level, window = n.attr
            return replace(n, attr=(self.names[level], self.sized(window)))
        return replace(n, attr=self.sized(n.attr)) if n.attr is not None else None

    def sized(self, attr: object) -> object:
        """The sizes that an operator carries, in the caller's terms."""
        if isinstance(attr, Dim):
            return attr.substitute(self.sizes)
        if isinstance(attr, tuple):
            return tuple(self.sized(a) for a in attr)
        if is_dataclass(attr):
            return replace(
                attr, **{f.name: self.sized(getattr(attr, f.name)) for f in fields(attr)}
            )
        return attr

    def dims(self, dims: Dims) -> Dims:
        return tuple(d.substitute(self.sizes) if isinstance(d, Dim) else d for d in dims)

    def clock(self, clock: Clock) -> Clock:
        """A clock with its period in the caller's terms."""
        count = clock.count.substitute(self.sizes)
        return replace(clock, count=count, default=count.evaluate(self.outer))

    def level(self, level: Level) -> Level:
        """A level of the system in the caller's terms."""
        name, mapped = self.names[level.name], level.map(self.expr)
        states = tuple(
            replace(s, name=self.state(s.name), level=name, dims=self.dims(s.dims), span=self.span)
            for s in mapped.states
        )
        memory = replace(
            level.memory,
            states=states,
            read=level.memory.read and self._read(level.memory.read),
            options={k: self._option(o) for k, o in level.memory.options.items()},
        )
        return replace(
            mapped,
            name=name,
            span=self.span,
            keys=dict.fromkeys(level.keys, self.span),
            clock=self.clock(level.clock),
            memory=memory,
            update=mapped.update and {self.state(k): e for k, e in mapped.update.items()},
            rule=mapped.rule
            and replace(
                mapped.rule,
                sizes={k: d.substitute(self.sizes) for k, d in mapped.rule.sizes.items()},
            ),
            anchor=level.anchor and self.clock(level.anchor),
            reset=mapped.reset
            and replace(mapped.reset, every=self.clock(mapped.reset.every), span=self.span),
        )

    def _read(self, read: Expr) -> Expr:
        own = {Expr("self", (), s): Expr("self", (), self.state(s)) for s in self.system.states}
        return rewrite(read, lambda n: own.get(n) or (None if n.op == "param" else self.leaf(n)))

    def _option(self, option: object) -> object:
        return self.expr(option) if isinstance(option, Expr) else self.sized(option)
