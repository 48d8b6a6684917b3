"""The names of a spec: who declares what, who reads it, and what to say of a name that nobody declares."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field

from nlc.base.diagnostics import SHOWN, Fix, Label, Report, certain, nearest
from nlc.base.span import Span
from nlc.ir.expr import Expr
from nlc.ir.system import Hyper
from nlc.ir.types import Dim
from nlc.syntax.foreign import FLOWS, GRADIENTS, NAMES, NOTHING
from nlc.syntax.tree import Field, LetTree, LevelTree, SpecTree, WeightTree

TRAINED = "W"  # the trained tensor's level in a gradient system (language §7)
CONTEXTS = {"tokens": "token", "gradients": "gradient", "layers": "layer"}
SIDES = (Dim.of(f"rows({TRAINED})"), Dim.of(f"cols({TRAINED})"))
# of a layer: what goes in, and the gradient of the loss at what comes out, one vector a sample
SAMPLES = {"x": SIDES[1], "delta": SIDES[0]}
_ADDED = 4  # members of a family whose sum is written out in a help
_AXES = frozenset("T L B seq seq_len seqlen time batch batch_size".split())


def error(span: Span | None) -> Expr:
    """What stands where a mistake was reported; later stages pass over it."""
    return Expr("error", (), None, None, span)


@dataclass
class Scope:
    """The tables that expressions are resolved against."""

    tree: SpecTree
    report: Report
    hypers: dict[str, Hyper] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    lets: dict[str, LetTree] = field(default_factory=dict)
    levels: dict[str, LevelTree] = field(default_factory=dict)
    weights: dict[str, WeightTree] = field(default_factory=dict)
    uses: set[str] = field(default_factory=set)
    clocks: dict[str, Field] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)  # flows of levels too: `S.key`
    readers: dict[str, set[str]] = field(default_factory=dict)  # name -> the places that read it
    static: set[str] = field(default_factory=set)  # hypers that are fixed at construction
    order: list[str] = field(default_factory=list)  # hypers, each after those that it reads
    circular: set[str] = field(default_factory=set)  # hypers that are defined by themselves
    twice: set[str] = field(default_factory=set)  # names that are defined again
    headless: bool = False  # whether that is said of a system without heads
    blamed: set[Dim] = field(default_factory=set)  # sizes that are reported to be none
    shapeless: set[str] = field(default_factory=set)  # weights of whose shapes it is reported

    def __post_init__(self) -> None:
        tree = self.tree
        if self.layers:
            for name in SAMPLES:
                if self._declare(name, tree.context.span):
                    self.inputs.add(name)
        for item in tree.hyper:
            self._declare(item.name, item.span)
        if tree.heads is not None:
            self._declare("heads", tree.keys.get("heads", tree.system.span))
        tables = (
            (tree.inputs, None),
            (tree.weights, self.weights),
            (tree.let, self.lets),
            (tree.levels, self.levels),
        )
        for items, table in tables:
            for item in items:
                if not self._declare(item.name, item.span):
                    continue
                if table is None:
                    self.inputs.add(item.name)
                else:
                    table[item.name] = item  # type: ignore[index]
        for item in tree.use:
            if self._declare(item.name, item.span):
                self.uses.add(item.name)
        for level in self.levels.values():
            self._flows(level)
        self.clocks = {item.name: item for item in tree.clocks}

    @property
    def gradients(self) -> bool:
        return self.tree.context.text != "tokens"

    @property
    def layers(self) -> bool:
        """Whether it trains the weights of linear layers, and sees every sample."""
        return self.tree.context.text == "layers"

    @property
    def context(self) -> str:
        """``a token system``, as messages call it."""
        return f"a {CONTEXTS[self.tree.context.text]} system"

    @property
    def trained(self) -> str | None:
        """The level of a gradient system that is the trained tensor, be it under another name."""
        if not self.gradients or TRAINED in self.levels:
            return TRAINED if self.gradients else None
        bare = [n for n, level in self.levels.items() if "memory" not in level.keys]
        near = [n for n in self.levels if n.upper() == TRAINED]
        return next(iter(near), bare[0] if len(bare) == 1 else None)

    def kind(self, name: str) -> str:
        tables = (
            (self.levels, "level"),
            (self.inputs, "input"),
            (self.weights, "weight"),
            (self.lets, "let"),
            (self.uses, "used system"),
        )
        return next((kind for table, kind in tables if name in table), "hyper")

    def members(self, family: str) -> list[str]:
        """The members of a family as they are written, ``C[1]``; none if there is no such family."""
        return [f"{family}[{p.name[len(family) + 1 :]}]" for p in self._parts(family)]

    def _parts(self, family: str) -> list[LevelTree | LetTree]:
        parts = [*self.levels.values(), *self.lets.values()]
        found = [p for p in parts if p.name.startswith(f"{family}_")]
        return [
            p
            for p in found
            if p.span.source.text[p.span.start : p.span.end + 1].startswith(f"{family}[")
        ]

    def _summed(self, family: str) -> list[str]:
        """How all members of a family are added up: by the name that runs, or one by one."""
        parts = self._parts(family)
        read = "(q)" if parts[0].name in self.levels else ""
        text = parts[0].span.source.text[parts[0].span.start + len(family) :]
        index = re.match(r"\[\s*([^\W\d]\w*)\s*\]", text)
        if index and len(parts) > 1 and len({p.span for p in parts}) == 1:
            return [f"a sum over all of them is `sum({family}[{index[1]}]{read} for {index[1]})`"]
        if not 1 < len(parts) <= _ADDED:
            return []
        return [f"a sum over all of them is `{' + '.join(m + read for m in self.members(family))}`"]

    def own(self, level: str, name: str) -> Expr | None:
        """A level's own flow of this name, as written."""
        tree = self.levels[level]
        if name in ("key", "value") and getattr(tree, name) is not None:
            return getattr(tree, name)
        return next((let.expr for let in tree.let if let.name == name), None)

    def flows(self, level: str) -> list[str]:
        """The names of a level's own flows."""
        tree = self.levels[level]
        named = [k for k in ("key", "value") if getattr(tree, k) is not None]
        return named + [let.name for let in tree.let if let.name not in named]

    def read(self, name: str, reader: str) -> None:
        self.readers.setdefault(name, set()).add(reader)

    # -------------------------------------------------------------------------------------------- declaring

    def _declare(self, name: str, span: Span) -> bool:
        if name not in self.spans:
            self.spans[name] = span
            return True
        if self.spans[name] != span:
            self.twice.add(name)
            self.report.add(
                "NLC203",
                f"`{name}` is defined twice",
                span,
                "defined again here",
                related=[Label(self.spans[name], f"`{name}` is defined here")],
                helps=["hypers, inputs, weights, lets and levels share one space of names"],
            )
        return False

    def _flows(self, level: LevelTree) -> None:
        """The names of a level: its key and value, its lets, the states of an inline memory."""
        for key in ("key", "value"):
            if key in level.keys:
                self.spans[f"{level.name}.{key}"] = level.keys[key]
        fields = level.memory.fields if level.memory is not None else ()
        for item in (*fields, *level.let):
            if item.name in ("key", "value", "objective", level.name):
                self.report.add(
                    "NLC203",
                    f"`{item.name}` has a meaning of its own in level `{level.name}`",
                    item.span,
                    "the level itself"
                    if item.name == level.name
                    else f"`{level.name}.{item.name}` is what the level says under this key",
                    helps=[f"choose another name, such as `{item.name}_1`"],
                )
            else:
                self._declare(f"{level.name}.{item.name}", item.span)

    # -------------------------------------------------------------------------------------------- messages

    def not_defined(
        self,
        name: str,
        span: Span | None,
        visible: list[str],
        level: str | None = None,
        sure: bool = True,
    ) -> None:
        """Says so, unless a mistake that is reported already is why; ``sure``: the nearest name would do."""
        if self.is_lost(name) or self.report.full:
            return
        unknown = ("unknown", name)
        if self.report.again(span, unknown):
            return
        if name == "heads":
            message = "`heads` is read in a system without heads"
            self.without_heads(message, span, "no `heads:` is declared")
            return
        if name in NOTHING:
            self._nothing(name, span, unknown)
            return
        alien = NAMES.get(name) or ("g" if self.gradients and name in GRADIENTS else None)
        if members := self.members(name):
            self.report.add(
                "NLC205",
                f"`{name}` is a family",
                span or self.tree.system.span,
                f"which of its members is meant, `{members[0]}`?",
                notes=[f"members: {', '.join(members[:12])}"],
                helps=self._summed(name),
                causes=[unknown],
            )
            return
        own = FLOWS.get(name, name) if level else ""
        close = alien or (own if own in visible else nearest(name, visible))
        where = f" in level `{level}`" if level else ""
        helps = []
        owners = [n for n in self.levels if f"{n}.{name}" in self.spans and n != level]
        if not close and owners and (span is None or span.text == name):
            helps = [f"a level's own names are read from outside as `{owners[0]}.{name}`"]
        elif not close and own in ("key", "value"):
            helps = [f"give level `{level}` a `{own}`, a named flow of its own"]
        elif close and close == own:
            flows = ", ".join(f"`{flow}`" for flow in ("key", "value") if flow in visible)
            helps = [f"in this level: {flows}"]
        seen = [*(["g"] if self.gradients and level else []), *visible]
        shown = ", ".join(seen[:SHOWN]) + (", …" if len(seen) > SHOWN else "")
        place = self.spans.get(f"{level}.{close}", self.spans.get(close or ""))
        helps += self._advice(name) if not close else []
        self.report.add(
            "NLC201",
            f"`{name}` is not defined{where}",
            span or self.tree.system.span,
            f"did you mean `{close}`?" if close else "nothing of this name is visible here",
            related=[Label(place, f"`{close}` is defined here")] if close and place else [],
            notes=[f"visible here: {shown}"] if seen else [],
            helps=helps,
            fix=Fix(span, alien)
            if alien and span
            else certain(span, name, visible)
            if sure and not self._is_list(close)
            else None,
            causes=[unknown, *(["axes"] if not close and name in _AXES else [])],
        )

    def _nothing(self, name: str, span: Span | None, unknown: Hashable) -> None:
        self.report.add(
            "NLC201",
            f"`{name}` is no value",
            span or self.tree.system.span,
            "a value is missing here",
            helps=["leave out an argument that has a default; a hyper has a number, `lr: 1e-3`"],
            causes=[unknown],
        )

    def _is_list(self, name: str | None) -> bool:
        return name in self.hypers and isinstance(self.hypers[name].value, list)

    def _advice(self, name: str) -> list[str]:
        """What is probably not known, where a name is like those of other languages."""
        if name in _AXES:
            return ["sizes are those of one token: leave out the axes of time and batch"]
        if not self.gradients and re.fullmatch(r"[WU]_?[a-zA-Z0-9]+", name):
            return ["slow weights are made where they are used, `linear(x, n)`, or under `weights`"]
        return []

    def without_heads(self, message: str, span: Span | None, label: str) -> None:
        """What needs heads in a system that has none: said once, with one way out for all."""
        if self.headless or self.is_lost("heads"):
            return
        self.headless = True
        at = span or self.tree.system.span
        self.report.add("NLC304", message, at, label, helps=["add `heads: 4` to the spec"])

    def is_lost(self, name: str) -> bool:
        """Whether a mistake elsewhere keeps a name from being known."""
        if self.gradients and TRAINED not in self.levels and name == TRAINED:
            return True
        if name == "heads" and "heads" in self.tree.keys and self.report.has_errors:
            return True  # what it says is no number
        without_inputs = not self.gradients and "inputs" not in self.tree.keys
        return self.tree.partial or without_inputs or name in self.tree.lost | self.twice

    def later(self, what: str, span: Span | None, help: str = "") -> None:
        """The language has it, this version of the compiler does not: said plainly, never half done."""
        self.report.add(
            "NLC701",
            f"{what} is not in this version of nlc",
            span or self.tree.system.span,
            "part of the language, not built yet",
            helps=[help] if help else [],
        )
