"""Source -> SpecTree: the keys of the language read one by one, every mistake reported.

What a key takes is in ``schema``, how a value is read in ``values``; here is what becomes of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from nlc.base.diagnostics import Fix, Report
from nlc.base.span import Source, Span
from nlc.ir.expr import Expr
from nlc.syntax.blocks import block
from nlc.syntax.clock import NOTHING, Known, parse_clock, parse_period
from nlc.syntax.memory import memory
from nlc.syntax.misplaced import put_back
from nlc.syntax.routes import route
from nlc.syntax.schema import (
    Family,
    Level,
    Reset,
    Spec,
    Weight,
    choices_of,
    keys_of,
)
from nlc.syntax.symbols import ascii_name
from nlc.syntax.tree import (
    ClockTree,
    Field,
    ForTree,
    LetTree,
    LevelTree,
    MemoryTree,
    ResetTree,
    SpecTree,
    WeightTree,
    Word,
)
from nlc.syntax.unheaded import headed
from nlc.syntax.values import (
    Entry,
    Named,
    choice,
    dims,
    error,
    expression,
    is_empty,
    is_map,
    members,
    name,
    named,
    size,
    word,
    wrong_kind,
)
from nlc.syntax.yamlnodes import Mapping, Node, Scalar, Sequence
from nlc.syntax.yamlplace import cut
from nlc.syntax.yamltree import parse_yaml

_DECLARE = ("hyper", "inputs", "weights", "let", "use", "levels")  # the blocks that give names
_WORD = re.compile(r"[^\W\d]\w*")
_KEYS = re.compile(r"(\w+): ")
_FOR = re.compile(r"for\s+\w+\s+in\b")


def parse(source: Source, report: Report) -> SpecTree | None:
    """The tree of a spec. What has a mistake is left out of it: a None, or an ``error`` expression
    where something else needs the name; None if not even the context is known."""
    root = parse_yaml(source, report)
    return None if root is None else _Parser(source, report).spec(root)


@dataclass
class _Parser:
    source: Source
    report: Report
    clocks: Known = NOTHING  # what a clock may be made of
    hidden: bool = False  # whether the names that run over a family are not known

    # ------------------------------------------------------------------------------------ the spec

    def spec(self, root: Mapping) -> SpecTree | None:
        report = self.report
        root = put_back(headed(root, report), report)
        start = root.entries[0][0].span if root.entries else root.span
        found = block(root, Spec, "the spec", "a spec", start, report)
        clocks = self._fields(found, "clocks", "a mapping of clocks")
        hyper = self._fields(found, "hyper", "a mapping of hyper-parameters")
        self._version(found)
        system = self._system(found)
        context = self._choice(found, Spec, "context")
        unit = "token" if context is None or context.text == "tokens" else "step"
        self.clocks = Known({c.name for c in clocks}, {h.name for h in hyper}, unit)
        tree = SpecTree(
            source=self.source,
            system=system or Word("unnamed", start),
            context=context or Word("", start),
            doc=self._word(found, "doc"),
            ref=self._word(found, "ref"),
            hyper=hyper,
            heads=self._expr(found, "heads"),
            inputs=self._dims(found, "inputs"),
            outputs=self._dims(found, "outputs"),
            weights=self._weights(found),
            clocks=clocks,
            use=self._fields(found, "use", "a mapping of systems"),
            let=self._lets(found),
            levels=self._levels(found),
            output=self._one_or_fields(found, "output"),
            applies_to=named(
                self._members(found, "applies_to", "a mapping of rules"),
                report,
                lambda entry, given: route(entry, given, report),
                reserved=True,
            ),
            grad_at=self._expr(found, "grad_at"),
            eval_at=self._expr(found, "eval_at"),
            keys={key: entry.key.span for key, entry in found.items()},
        )
        if context is None:
            return None
        return replace(tree, lost=_lost(found, tree), partial=self._partial(root, found))

    def _partial(self, root: Mapping, found: dict[str, Entry]) -> bool:
        """Whether a block that declares names could not be read, or a name in it was meant to be another."""
        read = {id(entry.node) for entry in found.values()}
        blocks = [found[key].node for key in _DECLARE if key in found]
        unread = [node for _, node in root.entries if id(node) not in read]
        return (
            self.report.full
            or self.hidden
            or any(not isinstance(node, Mapping) or node.again for node in blocks)
            or any(isinstance(node, Mapping) for node in unread)
        )

    def _version(self, found: dict[str, Entry]) -> None:
        if "nlc" not in found:
            return
        version = word(found["nlc"], self.report)
        if version is not None and version.text != "1":
            self.report.add(
                "NLC104",
                f"there is no version `{cut(version.text)}` of the language",
                version.span,
                "expected 1",
                helps=["write `nlc: 1`, or use a newer compiler"],
                fix=Fix(version.span, "1") if re.fullmatch(r"1(\.0+)+|v1", version.text) else None,
            )

    def _system(self, found: dict[str, Entry]) -> Word | None:
        node = found["system"].node if "system" in found else None
        if not isinstance(node, Scalar) or is_empty(node):
            return self._word(found, "system")
        given = name(node, self.report, reserved=True)
        return None if given is None else Word(given.name, node.span)

    def _weights(self, found: dict[str, Entry]) -> tuple[WeightTree, ...]:
        def read(entry: Entry, given: Named) -> WeightTree | None:
            if not isinstance(entry.node, Mapping):
                self._shape_alone(entry)
                return WeightTree(given.name, given.span, error(given.span))
            where = f"weight `{given.name}`"
            keys = block(entry.node, Weight, where, "a weight", given.span, self.report)
            shape = dims(keys["shape"], self.report) if "shape" in keys else None
            per = self._choice(keys, Weight, "per")
            init = self._expr(keys, "init")
            return WeightTree(given.name, given.span, shape or error(given.span), per, init)

        return named(self._members(found, "weights", "a mapping of weights"), self.report, read)

    def _shape_alone(self, entry: Entry) -> None:
        """``b: [d]`` under `weights`."""
        node = entry.node
        if not isinstance(node, Sequence) or not node.flow:
            help = "write `shape`, and perhaps `per` and `init`"
            wrong_kind(entry, "a mapping", self.report, help)
            return
        meant = f"{{shape: {node.span.text}}}"
        self.report.add(
            "NLC103",
            f"{entry.called} takes a mapping, not a list",
            node.span,
            f"did you mean `{cut(meant)}`?",
            helps=["a weight has `shape`, and perhaps `per` and `init`"],
            fix=Fix(node.span, meant),
        )

    # ---------------------------------------------------------------------------------- the levels

    def _levels(self, found: dict[str, Entry]) -> tuple[LevelTree, ...]:
        entries = self._placed(found, self._members(found, "levels", "a mapping of levels"))
        return named(entries, self.report, self._level, indexed=True)

    def _placed(self, found: dict[str, Entry], entries: list[Entry]) -> list[Entry]:
        """The entries of ``levels`` that are levels: without the line above them, others stand among them too."""
        texts = [e for e in entries if isinstance(e.node, Scalar) and not is_empty(e.node)]
        bare = [e for e in texts if e.key.text in keys_of(Level)]
        if bare:
            bare = [e for e in entries if e.key.text in keys_of(Level)]
        given = _entries(found["outputs"].node) if "outputs" in found else ()
        outputs = {key.text for key, _ in given} if "output" not in found else set()
        if not {"output", "outputs"} & found.keys():  # what stands behind all levels
            last = max((i for i, e in enumerate(entries) if e not in texts), default=-1)
            behind = {e.key.text for e in entries[last + 1 :]} if last >= 0 else set()
            outputs = behind - keys_of(Level).keys()
        computed = [e for e in texts if e.key.text in outputs]
        if bare:
            self.report.add(
                "NLC103",
                "keys of a level stand right under `levels`",
                bare[0].key.span,
                "of which level?",
                helps=["write the name of the level above them, such as `S:`, and them below it"],
            )
        for e in computed[:1]:
            self.report.add(
                "NLC102",
                "a token system has no `output`, which is required",
                e.key.span,
                f"`{e.key.text}` is an output: is `output:` missing above it?",
                causes=[("missing", "output")],
            )
        self.hidden = self.hidden or bool(bare or computed)
        return [e for e in entries if not any(e is x for x in (*bare, *computed))]

    def _level(self, entry: Entry, given: Named) -> LevelTree | None:
        where = f"level `{cut(entry.key.text)}`"
        if not isinstance(entry.node, Mapping):
            help = "write its keys below it: `frequency`, `memory`, `objective`, `rule`"
            wrong_kind(entry, "the keys of a level", self.report, help)
            return None
        found = block(entry.node, Level, where, "a level", given.span, self.report)
        hides = _is_two(entry.node) or any(_FOR.match(k.text) for k, _ in entry.node.entries)
        self.hidden = self.hidden or hides
        return LevelTree(
            name=given.name,
            index=given.index,
            span=given.span,
            over=self._over(found),
            frequency=self._clock(found, "frequency"),
            memory=self._memory(found),
            key=self._expr(found, "key"),
            value=self._expr(found, "value"),
            let=self._lets(found),
            objective=self._expr(found, "objective"),
            rule=self._expr(found, "rule"),
            update=self._update(found),
            retain=self._expr(found, "retain"),
            toward=self._expr(found, "toward"),
            project=self._expr(found, "project"),
            anchor=self._clock(found, "anchor", periodic=True),
            phase=self._choice(found, Level, "phase"),
            init=self._expr(found, "init"),
            reset=self._reset(found),
            through=self._expr(found, "through"),
            backprop=self._choice(found, Level, "backprop"),
            doc=self._word(found, "doc"),
            keys={key: e.key.span for key, e in found.items()},
        )

    def _memory(self, found: dict[str, Entry]) -> MemoryTree | None:
        return memory(found["memory"], self.report) if "memory" in found else None

    def _update(self, found: dict[str, Entry]) -> Expr | tuple[Field, ...] | None:
        if "update" in found and is_map(found["update"]):
            return self._fields(found, "update", "an expression or a mapping of states")
        return self._expr(found, "update")

    def _reset(self, found: dict[str, Entry]) -> ResetTree | None:
        if "reset" not in found:
            return None
        entry = found["reset"]
        if not is_map(entry):
            every = self._clock(found, "reset", periodic=True)
            return None if every is None else ResetTree(entry.node.span, every)
        where = f"the reset of {entry.where}"
        keys = block(entry.node, Reset, where, "a reset", entry.key.span, self.report)
        every = self._clock(keys, "every", periodic=True, bare=True)
        to = self._expr(keys, "to")
        rule = self._choice(keys, Reset, "rule")
        if every is None:
            return None
        return ResetTree(entry.node.span, every, to, rule is not None and rule.text == "true")

    # ------------------------------------------------------------------------------------- readers

    def _expr(self, found: dict[str, Entry], key: str) -> Expr | None:
        return expression(found[key], self.report) if key in found else None

    def _word(self, found: dict[str, Entry], key: str) -> Word | None:
        return word(found[key], self.report) if key in found else None

    def _choice(self, found: dict[str, Entry], model: type, key: str) -> Word | None:
        return choice(found[key], choices_of(model, key), self.report) if key in found else None

    def _clock(
        self, found: dict[str, Entry], key: str, periodic: bool = False, bare: bool = False
    ) -> ClockTree | None:
        """``periodic``: only ``every …`` makes sense; ``bare``: the key itself says `every`."""
        if key not in found:
            return None
        entry = found[key]
        if not isinstance(entry.node, Scalar) or is_empty(entry.node):
            wrong_kind(entry, "a clock", self.report)
            return None
        clock = (parse_period if bare else parse_clock)(entry.node, self.report, self.clocks)
        if clock is not None and periodic and clock.kind != "every":
            text = entry.node.text.strip()
            self.report.add(
                "NLC014",
                f"{entry.called} cannot be `{text}`",
                entry.node.span,
                "expected `every n tokens`, `every n steps` or a declared clock",
            )
            return None
        return clock

    def _members(self, found: dict[str, Entry], key: str, expected: str) -> list[Entry]:
        return members(found[key], expected, self.report) if key in found else []

    def _fields(
        self, found: dict[str, Entry], key: str, expected: str, reserved: bool = False
    ) -> tuple[Field, ...]:
        entries = self._members(found, key, expected)
        return named(entries, self.report, self._field, reserved=reserved)

    def _dims(self, found: dict[str, Entry], key: str) -> tuple[Field, ...]:
        entries = self._members(found, key, "a mapping of sizes")
        calls = [i for i, e in enumerate(entries) if _is_call(e.node)]
        wrong = (
            calls[0] if calls and calls[0] else len(entries)
        )  # behind what is right: another block
        for e in entries[wrong : wrong + 1]:
            self.report.add(
                "NLC103",
                f"`{cut(e.key.text)}` of `{key}` is an expression, not a list of sizes",
                e.node.span,
                "what is computed stands in `let`",
            )
        self.hidden = self.hidden or wrong < len(entries)
        return named(entries[:wrong], self.report, self._size)

    def _one_or_fields(self, found: dict[str, Entry], key: str) -> tuple[Field, ...]:
        if key not in found:
            return ()
        if is_map(found[key]):
            return self._fields(found, key, "an expression or a mapping", reserved=True)
        node = found[key].node
        if isinstance(node, Sequence) and not (node.flow and node.span.text[-1:] != "]"):
            helps = [
                f"give each its name: `y: {cut(item.text)}`"
                for item in node.items[:1]
                if isinstance(item, Scalar)
            ]
            wrong_kind(found[key], "an expression or a mapping", self.report, *helps)
            return ()
        expr = self._expr(found, key)
        return () if expr is None else (Field("", found[key].key.span, expr),)

    def _field(self, entry: Entry, given: Named) -> Field:
        expr = expression(entry, self.report, lists=True)
        return Field(given.name, given.span, expr or error(given.span))

    def _size(self, entry: Entry, given: Named) -> Field:
        return size(entry, given, self.report)

    def _over(self, found: dict[str, Entry]) -> ForTree | None:
        """``for: {i: [1, 2, 3], period: periods}``."""
        if "for" not in found:
            return None
        fields = self._fields(found, "for", "a mapping of the names that run")
        self.hidden = self.hidden or not fields
        return ForTree(found["for"].key.span, fields) if fields else None

    def _lets(self, found: dict[str, Entry]) -> tuple[LetTree, ...]:
        entries = self._members(found, "let", "a mapping of named expressions")
        unread = "let" in found and not isinstance(found["let"].node, Mapping)
        self.hidden = self.hidden or unread
        return named(entries, self.report, self._let, indexed=True)

    def _let(self, entry: Entry, given: Named) -> LetTree:
        node, over = entry.node, None
        keys = {key.text for key, _ in node.entries} if isinstance(node, Mapping) else set()
        if keys & {"for", "is"}:
            where = f"`{entry.key.text}`"
            found = block(node, Family, where, "a family", given.span, self.report)
            over, expr = self._over(found), self._expr(found, "is")
            self.hidden = self.hidden or over is None
        else:
            expr = expression(entry, self.report, lists=True)
        return LetTree(given.name, given.index, given.span, expr or error(_place(entry)), over)


def _is_two(level: Mapping) -> bool:
    """Whether a level without a name stands in it: it says its first key, or several, again."""
    first = next((key.text for key, _ in level.entries if key.text != "doc"), "")
    return len(level.again) > 1 or any(key.text == first for key, _ in level.again)


def _lost(found: dict[str, Entry], tree: SpecTree) -> frozenset[str]:
    """The words of names that were refused: what reads them is not to be blamed again."""
    named = [*tree.hyper, *tree.inputs, *tree.weights, *tree.let, *tree.levels, *tree.use]
    known = {item.name for item in named}
    known |= {let.name for level in tree.levels for let in level.let}
    blocks = [_entries(entry.node) for key, entry in found.items() if key in _DECLARE]
    for _, level in _entries(found["levels"].node) if "levels" in found else ():
        blocks += [_entries(node) for key, node in _entries(level) if key.text == "let"]
    keys = [key.text for block in blocks for key, _ in block]
    keys += [key for block in blocks for _, node in block for key in _swallowed(node)]
    refused = [
        key
        for key in keys
        if ascii_name(key.partition("[")[0].strip()) not in known or ("[" in key) != ("]" in key)
    ]
    words = {w for key in refused for w in (*_WORD.findall(key), re.sub(r"\W", "", key))}
    families = {ascii_name(key.partition("[")[0]) for key in refused if "[" in key}
    return frozenset({ascii_name(w) for w in words} - known | families)


def _is_call(node: Node) -> bool:
    """Whether a function is applied, as no size does."""
    return (
        isinstance(node, Scalar) and not node.style and re.match(r"-?\w+\(", node.text) is not None
    )


def _swallowed(node: Node) -> list[str]:
    """The keys in a text that YAML did not read: ``d: 64, n: 32`` on one line."""
    broken = isinstance(node, Scalar) and node.broken
    return _KEYS.findall(node.span.text) if broken else []


def _entries(node: Node) -> tuple[tuple[Scalar, Node], ...]:
    return node.entries if isinstance(node, Mapping) else ()


def _place(entry: Entry) -> Span:
    return entry.key.span if is_empty(entry.node) else entry.node.span
