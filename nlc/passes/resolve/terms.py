"""Expressions of the surface to expressions over operators: names, calls, reads of memories."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nlc.base.diagnostics import Fix, nearest
from nlc.base.span import Span
from nlc.ir.expr import Expr, substitute, walk
from nlc.ir.show import show
from nlc.ir.system import Memory, Module
from nlc.lib.functions import FUNCTIONS, REQUIRED, Function
from nlc.passes.resolve.scope import RESERVED, Scope, error
from nlc.syntax.math import parse_text

_PLAIN = {
    "add",
    "sub",
    "mul",
    "div",
    "matmul",
    "pow",
    "neg",
    "T",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
}
_OVER_TIME = ("last",)


@dataclass(frozen=True)
class Place:
    """Where an expression stands: ``path`` names the weights it owns, ``mode`` decides what the own name reads.

    Modes: ``objective`` (the variable), ``rule`` (the base), ``own`` (key and value: an error), ``flow``.
    """

    path: str
    level: str | None = None
    mode: str = "flow"
    bound: tuple[
        tuple[str, Expr], ...
    ] = ()  # parameters of a read or a function, variables of grad


@dataclass
class Terms:
    """Resolves expressions; collects the slow weights that their functions own."""

    scope: Scope
    memories: dict[str, Memory]
    modules: dict[str, Module] = field(default_factory=dict)
    _paths: dict[tuple[str, int], str] = field(default_factory=dict)
    _alive: list[Expr] = field(default_factory=list)  # ids in _paths stay unique while these live

    # -------------------------------------------------------------------------------------------- entry

    def resolve(self, e: Expr, at: Place) -> Expr:
        if e.op in ("num", "bool", "error"):
            return e
        if e.op == "name":
            return self._name(e, at)
        if e.op == "call":
            return self._call(e, at)
        if e.op == "attr":
            return self._attribute(e, at)
        if e.op == "index":
            return self._index(e, at)
        if e.op in _PLAIN:
            return Expr(e.op, tuple(self.resolve(a, at) for a in e.args), None, None, e.span)
        self.scope.report.add(
            "NLC208", f"`{show(e)}` is not a value", e.span, "no value of its own here"
        )
        return error(e.span)

    # -------------------------------------------------------------------------------------------- names

    def visible(self, at: Place) -> list[str]:
        scope, names = self.scope, [n for n, _ in at.bound]
        if at.level:
            level = scope.levels[at.level]
            names += [k for k in ("key", "value") if getattr(level, k) is not None]
            names += [let.name for let in level.let]
        return names + list(scope.spans)

    def _name(self, e: Expr, at: Place) -> Expr:
        name, scope = e.attr, self.scope
        for bound, value in at.bound:
            if bound == name:
                return value
        if at.level and (own := self._own(name, at)) is not None:
            return self._flow(f"{at.level}.{name}", own, e, at)
        scope.used.add(name)
        if name in scope.levels:
            return self._state(name, None, e.span, at)
        if name in scope.lets:
            return self._flow(name, scope.lets[name].expr, e, at)
        if name in scope.inputs:
            return Expr("input", (), name, None, e.span)
        if name in scope.hypers:
            if isinstance(scope.hypers[name].value, list):
                return self._wrong(e, f"`{name}` is a list; a family runs over it")
            return Expr("hyper", (), name, None, e.span)
        if name in scope.weights:
            return Expr("weight", (), name, None, e.span)
        if name in RESERVED:
            return self._reserved(e, at)
        scope.used.discard(name)
        if name in FUNCTIONS:
            return self._wrong(e, f"`{name}` is a function: call it, `{name}(…)`")
        scope.not_defined(name, e.span, self.visible(at))
        return error(e.span)

    def _own(self, name: str, at: Place) -> Expr | None:
        """The level's own flow of this name, as written."""
        level = self.scope.levels[at.level]
        if name in ("key", "value"):
            return getattr(level, name)
        return next((let.expr for let in level.let if let.name == name), None)

    def _flow(self, full: str, written: Expr, e: Expr, at: Place) -> Expr:
        """A named flow; one that reads the level's own bare name is written out, for its meaning depends on the reader."""
        if at.level and at.mode != "flow" and self.reads_bare(written, at.level, at.level):
            owner = full.split(".")[0] if "." in full else None
            inside = replace(at, path=full, level=at.level if owner in (None, at.level) else owner)
            return self.resolve(written, inside)
        return Expr("flow", (), full, None, e.span)

    def reads_bare(
        self, e: Expr, level: str, where: str | None, seen: frozenset[str] = frozenset()
    ) -> bool:
        """Whether ``e``, standing in level ``where``, reads the bare name of ``level``, through lets too."""
        stack, shielded = [e], ("prev", "anchor")
        while stack:
            node = stack.pop()
            if node.op == "call" and node.args[0].op == "name" and node.args[0].attr in shielded:
                stack.extend(node.args[2:])
                continue
            if node.op == "name":
                if node.attr == level:
                    return True
                tree = self.scope.levels.get(where) if where else None
                own = tree and next((x.expr for x in tree.let if x.name == node.attr), None)
                top = self.scope.lets.get(node.attr)
                inner = own or (top.expr if top else None)
                if inner is not None and node.attr not in seen:
                    if self.reads_bare(inner, level, where, seen | {node.attr}):
                        return True
            stack.extend(node.args)
        return False

    def _reserved(self, e: Expr, at: Place) -> Expr:
        if e.attr == "g":
            if self.scope.gradients:
                return Expr("g", (), None, None, e.span)
            return self._wrong(e, "`g` is the gradient at W: gradient systems only")
        if e.attr == "head" and self.scope.tree.heads is None:
            self.scope.report.add(
                "NLC304", "`head` needs a system with heads", e.span, "no `heads:` is declared"
            )
            return error(e.span)
        if e.attr in ("substep", "age"):
            self.scope.later(f"`{e.attr}`", e.span)
            return error(e.span)
        if e.attr in ("pos", "head") and self.scope.gradients:
            return self._wrong(e, f"`{e.attr}` counts tokens or heads: token systems only")
        return Expr("index", (), (e.attr, at.level if e.attr == "t" else None), None, e.span)

    def _wrong(self, e: Expr, label: str) -> Expr:
        self.scope.report.add("NLC208", f"`{show(e)}` is not a value here", e.span, label)
        return error(e.span)

    def _state(
        self, level: str, state: str | None, span: Span | None, at: Place, time: str | None = None
    ) -> Expr:
        memory = self.memories.get(level)
        if memory is None:
            return error(span)
        if memory.kind == "cache":
            self.scope.report.add(
                "NLC208",
                f"`{level}` is a cache, not a value",
                span,
                f"read it with a query: `{level}(q)`",
            )
            return error(span)
        names = [s.name for s in memory.states]
        if state is None and len(names) > 1:
            inner = ", ".join(n.split(".")[1] for n in names)
            self.scope.report.add(
                "NLC208",
                f"`{level}` has several states",
                span,
                f"name one of {inner}, or read it: `{level}(z)`",
            )
            return error(span)
        full = names[0] if state is None else f"{level}.{state}"
        time = time or self._time(level, span, at)
        return Expr("state", (), (full, time), None, span) if time else error(span)

    def _time(self, level: str, span: Span | None, at: Place) -> str | None:
        if at.level != level or at.mode == "flow":
            return "now"
        if at.mode == "own":
            self.scope.report.add(
                "NLC401",
                f"`{level}` is read by its own {at.path.split('.')[-1]}",
                span,
                "its new state is not there yet",
                helps=[
                    f"write `prev({level})` for the state before this tick, or `anchor({level})` for its last boundary"
                ],
            )
            return None
        return {"objective": "var", "rule": "base"}[at.mode]

    def _attribute(self, e: Expr, at: Place) -> Expr:
        base = e.args[0]
        if base.op == "name" and base.attr in self.scope.levels:
            level = self.scope.levels[base.attr]
            self.scope.used.add(base.attr)
            memory = self.memories.get(base.attr)
            if memory and any(s.name == f"{base.attr}.{e.attr}" for s in memory.states):
                return self._state(base.attr, e.attr, e.span, at)
            own = self._own(e.attr, replace(at, level=base.attr))
            if own is not None:
                return self._flow(f"{base.attr}.{e.attr}", own, e, at)
            if e.attr == "objective":
                self.scope.later("reading a level's objective", e.span)
                return error(e.span)
            names = [k for k in ("key", "value") if getattr(level, k) is not None] + [
                x.name for x in level.let
            ]
            names += [
                s.name.split(".")[1] for s in (memory.states if memory else ()) if "." in s.name
            ]
            close = nearest(e.attr, names)
            self.scope.report.add(
                "NLC201",
                f"level `{base.attr}` has no flow `{e.attr}`",
                e.span,
                f"did you mean `{base.attr}.{close}`?"
                if close
                else f"it has: {', '.join(names) or 'none'}",
            )
            return error(e.span)
        self.scope.report.add(
            "NLC208",
            f"`{show(e)}` is not a value",
            e.span,
            "only levels have named flows, as in `S.key`",
        )
        return error(e.span)

    def _index(self, e: Expr, at: Place) -> Expr:
        base, index = e.args[0], e.args[1]
        if base.op == "name" and base.attr in self.scope.hypers and index.op == "num":
            value = self.scope.hypers[base.attr].value
            self.scope.used.add(base.attr)
            if (
                isinstance(value, list)
                and isinstance(index.attr, int)
                and 0 <= index.attr < len(value)
            ):
                return Expr("hyper", (), f"{base.attr}[{index.attr}]", None, e.span)
        self.scope.report.add(
            "NLC205",
            f"`{show(e)}` is not a member of a family",
            e.span,
            "no family or list of this name has it",
        )
        return error(e.span)

    # -------------------------------------------------------------------------------------------- calls

    def _call(self, e: Expr, at: Place) -> Expr:
        fn, given = e.args[0], e.args[1:]
        keywords = e.attr or ()
        if fn.op == "name" and fn.attr in ("prev", "anchor"):
            return self._past(e, fn.attr, at)
        target, time = fn, None
        if fn.op == "call" and fn.args[0].op == "name" and fn.args[0].attr in ("prev", "anchor"):
            target, time = fn.args[1] if len(fn.args) == 2 else fn, fn.args[0].attr
        label = None
        if fn.op == "index" and fn.args[0].op == "name" and fn.args[0].attr in FUNCTIONS:
            target, label = fn.args[0], show(fn.args[1])
        if target.op == "name" and target.attr in self.scope.levels:
            self.scope.used.add(target.attr)
            return self._read(target.attr, given, keywords, time, e, at)
        if target.op == "name" and time is None and (through := self._let_of_state(target, at)):
            return self._read(through, given, keywords, None, e, at, held=self._name(target, at))
        if target.op != "name":
            self.scope.report.add(
                "NLC202",
                f"`{show(fn)}` cannot be called",
                fn.span,
                "only functions and memories take arguments",
            )
            return error(e.span)
        if target.attr == "grad":
            return self._grad(e, at)
        if target.attr in _OVER_TIME:
            self.scope.later(f"`{target.attr}`, reading over a period,", e.span)
            return error(e.span)
        function = FUNCTIONS.get(target.attr)
        if function is None or (function.init_only and not at.path.endswith(".init")):
            return self._unknown(target, at)
        return self._function(function, e, given, keywords, label, at)

    def _unknown(self, target: Expr, at: Place) -> Expr:
        names = [*FUNCTIONS, *self.scope.levels, "prev", "anchor", "grad"]
        if target.attr in self.scope.spans or target.attr in ("key", "value"):
            self.scope.report.add(
                "NLC202",
                f"`{target.attr}` is not a function",
                target.span,
                "a value takes no arguments",
                helps=["write `*` for a product"],
            )
            return error(target.span)
        if target.attr in FUNCTIONS:
            self.scope.report.add(
                "NLC202",
                f"`{target.attr}` is for initial values only",
                target.span,
                "nothing random happens in a tick",
            )
            return error(target.span)
        close = nearest(target.attr, names)
        self.scope.report.add(
            "NLC202",
            f"there is no function or level `{target.attr}`",
            target.span,
            f"did you mean `{close}`?" if close else "not a function of the language",
            helps=[] if close else ["`nlc list functions` shows all of them"],
            fix=Fix(target.span, close) if close else None,
        )
        return error(target.span)

    def _let_of_state(self, target: Expr, at: Place) -> str | None:
        """The level whose state a let is made of, so that ``P(q)`` reads through it (language §3)."""
        written = self._own(target.attr, at) if at.level else None
        if any(name == target.attr for name, _ in at.bound):
            return next(
                (v.attr for n, v in at.bound if n == target.attr and v.op == "variable"), None
            )
        let = self.scope.lets.get(target.attr)
        written = written if written is not None else let.expr if let else None
        if written is None:
            return None
        found = [n for n in self.scope.levels if self._made_of(written, n)]
        return found[0] if len(found) == 1 else None

    def _made_of(self, e: Expr, level: str) -> bool:
        return any(n.op == "name" and n.attr == level for n in walk(e)) and not any(
            n.op == "call" and n.args[0].op == "name" and n.args[0].attr == level for n in walk(e)
        )

    def _past(self, e: Expr, when: str, at: Place) -> Expr:
        given = e.args[1:]
        if (
            not given
            or len(given) > 2
            or (e.attr and e.attr != ("init",))
            or (when == "anchor" and len(given) > 1)
        ):
            usage = "`prev(M)` or `prev(f, init)`" if when == "prev" else "`anchor(M)`"
            self.scope.report.add(
                "NLC204", f"`{when}` takes a level or a flow", e.span, f"write {usage}"
            )
            return error(e.span)
        target = given[0]
        if (
            target.op == "name"
            and target.attr in self.scope.levels
            and not any(n == target.attr for n, _ in at.bound)
        ):
            self.scope.used.add(target.attr)
            return self._state(
                target.attr, None, e.span, at, time=self._past_time(target.attr, when)
            )
        if when == "anchor":
            self.scope.report.add(
                "NLC204", "`anchor` takes a level", target.span, "only a level has boundaries"
            )
            return error(e.span)
        init = self.resolve(given[1], at) if len(given) == 2 else Expr("num", (), 0.0, None, e.span)
        return Expr(
            "delay", (self.resolve(target, replace(at, mode="flow")), init), None, None, e.span
        )

    def _past_time(self, level: str, when: str) -> str:
        """Without an ``anchor:`` field, ``anchor(M)`` is ``prev(M)``."""
        return (
            "anchor" if when == "anchor" and self.scope.levels[level].anchor is not None else "prev"
        )

    def _read(
        self, level, given, keywords, when, e: Expr, at: Place, held: Expr | None = None
    ) -> Expr:
        memory = self.memories.get(level)
        args = [self.resolve(a, at) for a in given]
        if memory is None or any(a.op == "error" for a in args):
            return error(e.span)
        if memory.kind == "cache":
            if len(args) != 1 or keywords or when:
                self.scope.report.add(
                    "NLC204", f"`{level}` takes one query", e.span, f"write `{level}(q)`"
                )
                return error(e.span)
            window = memory.options.get("window")
            flows = [Expr("flow", (), f"{level}.{k}", None, e.span) for k in ("key", "value")]
            return Expr("attend", (args[0], *flows), (level, window), None, e.span)
        if memory.read is None:
            self.scope.report.add(
                "NLC202",
                f"`{level}` cannot be read with an argument",
                e.span,
                f"a {memory.kind} is a value: write `{level}`",
                related=[],
            )
            return error(e.span)
        if len(args) != len(memory.params) or keywords:
            self.scope.report.add(
                "NLC204",
                f"reading `{level}` takes {len(memory.params)} argument",
                e.span,
                f"its read is `read({', '.join(memory.params)})`",
            )
            return error(e.span)
        mapping: dict[Expr, Expr] = {Expr("param", (), p): a for p, a in zip(memory.params, args)}
        time = self._past_time(level, when) if when else None
        for state in memory.states:
            inner = state.name.split(".")[1] if "." in state.name else None
            mapping[Expr("self", (), state.name)] = (
                held if held is not None else self._state(level, inner, e.span, at, time)
            )
        if any(v.op == "error" for v in mapping.values()):
            return error(e.span)
        return substitute(memory.read, mapping).at(e.span)

    def _grad(self, e: Expr, at: Place) -> Expr:
        """``grad(e, P)``: P is a level or a let of a level's state, a variable inside e and a value outside."""
        if len(e.args) != 3 or e.attr or e.args[2].op != "name":
            self.scope.report.add(
                "NLC204", "`grad` takes an expression and a name", e.span, "write `grad(e, M)`"
            )
            return error(e.span)
        name = e.args[2].attr
        level = name if name in self.scope.levels else self._let_of_state(e.args[2], at)
        value = self.resolve(e.args[2], at)
        if level is None or value.op == "error":
            if value.op != "error":
                self.scope.report.add(
                    "NLC204",
                    f"`{name}` is not made of a level's state",
                    e.args[2].span,
                    "differentiate by a level, or a let of its state",
                )
            return error(e.span)
        variable = Expr("variable", (), level, None, e.args[2].span)
        inside = replace(at, bound=(*at.bound, (name, variable)))
        return Expr("grad", (self.resolve(e.args[1], inside), value), level, None, e.span)

    # -------------------------------------------------------------------------------------------- functions

    def bind(
        self, params: dict[str, object], given, keywords, e: Expr, name: str
    ) -> dict[str, Expr | None] | None:
        """Arguments by parameter, defaults parsed; None after a mistake."""
        positional = given[: len(given) - len(keywords)]
        named = dict(zip(keywords, given[len(positional) :]))
        usage = ", ".join(p if d is REQUIRED else f"{p}={d or 'none'}" for p, d in params.items())
        report, ok = self.scope.report, True
        for key in named:
            if key not in params:
                close = nearest(key, params)
                report.add(
                    "NLC204",
                    f"`{name}` has no argument `{key}`",
                    named[key].span or e.span,
                    f"did you mean `{close}`?" if close else "not one of its arguments",
                    notes=[f"{name}({usage})"],
                )
                ok = False
        if len(positional) > len(params):
            report.add(
                "NLC204",
                f"`{name}` takes {len(params)} argument{'s' * (len(params) != 1)}",
                positional[len(params)].span,
                "one too many",
                notes=[f"{name}({usage})"],
            )
            return None
        out: dict[str, Expr | None] = dict(zip(params, positional))
        for key, value in named.items():
            if key in out and key in params:
                report.add(
                    "NLC204", f"`{name}` gets `{key}` twice", value.span, "given by position too"
                )
                ok = False
            out[key] = value
        for key, default in params.items():
            if key not in out and default is REQUIRED:
                report.add(
                    "NLC204",
                    f"`{name}` needs `{key}`",
                    e.span,
                    "an argument is missing",
                    notes=[f"{name}({usage})"],
                )
                ok = False
            elif key not in out:
                out[key] = None if default is None else parse_text(str(default))
        return out if ok else None

    def _function(
        self, f: Function, e: Expr, given, keywords, label: str | None, at: Place
    ) -> Expr:
        bound = self.bind(f.params, given, keywords, e, f.name)
        if bound is None:
            return error(e.span)
        if f.is_:
            values = tuple((k, self.resolve(v, at)) for k, v in bound.items() if v is not None)
            body = self.resolve(parse_text(f.is_), Place(at.path, bound=values))
            return body.at(e.span)
        if f.name in ("split", "merge") and self.scope.tree.heads is None:
            self.scope.report.add(
                "NLC304",
                f"`{f.name}` needs a system with heads",
                e.span,
                "no `heads:` is declared",
                helps=["add `heads: 4` to the spec"],
            )
            return error(e.span)
        operands = [
            self.resolve(v, at) for k, v in bound.items() if k not in f.static and v is not None
        ]
        if f.name in ("max", "min") and len(operands) == 1:
            return Expr("a" + f.name, tuple(operands), None, None, e.span)
        attr: object = None
        if f.name == "slice":
            start, stop = (self._whole(bound[k]) for k in f.static)
            if start is None or stop is None:
                return error(e.span)
            attr = (start, stop)
        if f.weights:
            module = self._module(f, e, bound, label, at)
            if module is None:
                return error(e.span)
            attr = module.path
            names = [w for w in f.weights if w != "bias" or module.bias or "bias" not in f.params]
            operands += [Expr("weight", (), f"{module.path}.{w}", None, e.span) for w in names]
        return Expr(f.op, tuple(operands), attr, None, e.span)

    def _whole(self, e: Expr):
        from nlc.ir.types import Dim

        return Dim.of(0) if e.op == "num" and e.attr == 0 else self.scope.size(e, "a channel")

    def _module(self, f: Function, e: Expr, bound, label: str | None, at: Place) -> Module | None:
        width = None
        if bound.get("width") is not None:
            width = self.scope.size(bound["width"], "a width")
            if width is None:
                return None
        switches = {}
        for key in ("bias", "shared"):
            value = bound.get(key)
            if value is not None and value.op != "bool":
                self.scope.report.add(
                    "NLC204", f"`{key}` is true or false", value.span, "a switch is needed"
                )
                return None
            switches[key] = bool(value is not None and value.attr)
        path = label or self._path(at.path, f.name, e)
        module = Module(path, f.name, e.span, width, switches["bias"], switches["shared"])
        known = self.modules.setdefault(path, module)
        if (known.function, known.width, known.bias) != (f.name, width, switches["bias"]):
            self.scope.report.add(
                "NLC204",
                f"`{f.name}[{label}]` is used in two ways",
                e.span,
                "the same label is the same weights",
            )
            return None
        return known

    def _path(self, where: str, function: str, e: Expr) -> str:
        """``S.key.linear``, then ``S.key.linear_2``: one name for each place in the text."""
        key = (where, id(e))
        if key not in self._paths:
            self._alive.append(e)
            base, n = f"{where}.{function}", 1
            taken = set(self._paths.values())
            while (path := base if n == 1 else f"{base}_{n}") in taken:
                n += 1
            self._paths[key] = path
        return self._paths[key]
