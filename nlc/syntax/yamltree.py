"""Source -> the tree of a YAML document: texts, mappings and sequences that know where they stand.

Nothing is resolved (``1e-3``, ``on`` and ``y`` stay text), and what YAML would misread in silence
is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import yaml

from nlc.base.diagnostics import Diagnostic, Label, Report, place
from nlc.base.span import Source, Span
from nlc.syntax.text import CONTROL, read_source, readable
from nlc.syntax.yamlerrors import explain
from nlc.syntax.yamlnodes import Mapping, Node, Scalar, Sequence
from nlc.syntax.yamlplace import balance, content, cut, cut_by_comment, line_at
from nlc.syntax.yamlsplit import in_brackets, one_call, rejoined
from nlc.syntax.yamlstructure import no_key, without_colon

__all__ = ["parse_yaml", "read_source"]

MAX_DEPTH = 100
MAX_NODES = 20_000
_ROUNDS = 10  # mistakes of YAML that one run goes on after
_NEAR = 32  # keys behind one that is said again which may belong to a name that is missing

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_COMMENT = re.compile(r"[ \t]+#")
_PROPERTY = re.compile(r"[&!*]\S*")


def parse_yaml(source: Source, report: Report) -> Mapping | None:
    """The mapping that the document is; a mistake of YAML in one value does not hide the rest."""
    if not readable(source, report):
        return None
    text, masked = source.text, set[int]()
    while True:
        attempt = Report()
        try:
            root = _Builder(source, text, masked, attempt).document()
        except yaml.MarkedYAMLError as error:
            said = Report()
            mask = explain(source, text, error, said)
            above = {d.span.line for d in said.diagnostics}  # a line that is no key spoils the next
            report.drop(lambda d, above=above: d.span.line - 1 in above)
            report.take(said, lambda d: not _follows(d.span, masked))
            if mask is None or mask[0] in masked or len(masked) == _ROUNDS:
                _merge(attempt, report, masked)
                return None
            start, end = mask
            masked.add(start)
            text = text[:start] + "x" * (end - start) + text[end:]
        else:
            _merge(attempt, report, masked)
            break
    if isinstance(root, Mapping):
        return root
    if not attempt.has_errors:
        span = Span(source, 0, 0) if root is None else root.span
        report.add(
            "NLC103",
            "a spec is a mapping of keys" if root else "this file has no keys",
            span,
            "" if root is None else "this is a list" if isinstance(root, Sequence) else "text",
            helps=[
                "start with `nlc: 1`, `system: NAME` and `context: tokens` on lines of their own"
            ],
        )
    return None


def _follows(span: Span, masked: set[int]) -> bool:
    """Whether a place is on a line that was masked, or on one that goes on with it: then YAML trips over the mask."""
    lines = {span.source.position(start)[0] for start in masked}
    return span.line in lines or (span.line - 1 in lines and _goes_on(span.source, span.line))


def _goes_on(source: Source, line: int) -> bool:
    """Whether a line belongs to the value above it: it stands deeper, or a bracket is open there."""
    above, own = source.line(line - 1), source.line(line)
    deeper = len(own) - len(own.lstrip()) > len(above) - len(above.lstrip())
    return deeper or balance(above) != 0


def _merge(attempt: Report, report: Report, masked: set[int]) -> None:
    known = {(d.code, d.span) for d in report.diagnostics}

    def new(d: Diagnostic) -> bool:
        said = (d.code, d.span) in known
        return not said and (d.code == "NLC002" or not _follows(d.span, masked))

    report.take(attempt, new)


class _Refused(Exception):
    """The document is over a bound; the report says which."""


@dataclass
class _Open:
    """A collection whose end has not been read."""

    event: yaml.CollectionStartEvent
    items: list[Node] = field(default_factory=list)


@dataclass
class _Builder:
    """Builds the nodes from the events of YAML, without recursion and within the bounds."""

    source: Source
    text: str
    masked: set[int]
    report: Report
    root: Node | None = None
    count: int = 0
    stack: list[_Open] = field(default_factory=list)

    def document(self) -> Node | None:
        documents = 0
        try:
            for event in yaml.parse(self.text, Loader=_LOADER):
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        self._several(event)
                        raise _Refused  # what the first one lacks may stand in the other
                    self._directives(event)
                elif isinstance(event, yaml.NodeEvent):
                    self._node(event)
                elif isinstance(event, yaml.CollectionEndEvent):
                    self._close(event)
        except _Refused:
            self.root = None
        return self.root

    # -------------------------------------------------------------------------------------- events

    def _node(self, event: yaml.NodeEvent) -> None:
        self.count += 1
        span = self._span(event)
        if self.report.full:
            raise _Refused
        if self.count > MAX_NODES:
            message = f"a spec has at most {MAX_NODES} keys and values"
            self.report.add("NLC007", message, span, "one too many")
            raise _Refused
        if isinstance(event, yaml.CollectionStartEvent):
            self._properties(event, span)
            if len(self.stack) == MAX_DEPTH:
                message = f"nested more than {MAX_DEPTH} levels deep"
                self.report.add("NLC007", message, span, "one level too many")
                raise _Refused
            self.stack.append(_Open(event))
        elif isinstance(event, yaml.AliasEvent):
            if not self._merges():
                self._refuse_property(span)
            self._add(Scalar("", span, broken=True))
        else:
            self._add(self._scalar(event, span))

    def _merges(self) -> bool:
        """Whether an alias stands behind `<<`, which is refused as a whole."""
        items = self.stack[-1].items if self.stack else []
        last = items[-1] if len(items) % 2 else None
        return isinstance(last, Scalar) and last.text == "<<" and not last.style

    def _scalar(self, event: yaml.ScalarEvent, span: Span) -> Scalar:
        style = event.style or ""
        masked = any(span.start <= at < max(span.end, span.start + 1) for at in self.masked)
        broken = self._properties(event, span) or masked  # what is masked has no places
        scalar = Scalar(event.value, span, style, broken)
        if broken:
            return scalar
        if style == '"' and (control := CONTROL.search(event.value)):
            at = control.start()
            self.report.add(
                "NLC006",
                f"the character U+{ord(event.value[at]):04X} cannot stand in a spec",
                scalar.span_of(at, at + 1),
                "an escape for a control character",
            )
            return replace(scalar, broken=True)
        if style == "" and balance(event.value) > 0 and _COMMENT.match(self.text, span.end):
            cut_by_comment(span, self.text.index("#", span.end), self.report)
            return replace(scalar, broken=True)
        return scalar

    def _close(self, event: yaml.CollectionEndEvent) -> None:
        opened = self.stack.pop()
        items, flow = opened.items, bool(opened.event.flow_style)
        start = opened.event.start_mark.index
        if flow:
            end = event.end_mark.index
        else:
            end = items[-1].span.end if items else start
        if items and not flow:
            start = min(start, items[0].span.start)
        span = Span(self.source, start, max(start, end))
        is_list = isinstance(opened.event, yaml.SequenceStartEvent)
        groups: list[tuple[Node, ...]]
        if is_list:
            groups = [(item,) for item in items]
        else:
            groups = list(zip(items[::2], items[1::2], strict=True))
        whole = one_call(groups) if flow and is_list else None
        if flow and not whole:
            groups = list(rejoined(groups, self.report))
        if whole:
            self._add(in_brackets(whole, span, self.report))
        elif is_list:
            self._add(Sequence(tuple(item for (item,) in groups), span, flow))
        else:
            again: list[tuple[Scalar, Node]] = []
            entries = tuple(self._checked(groups, again))
            self._add(Mapping(entries, span, flow, tuple(again)))

    def _add(self, node: Node) -> None:
        if self.stack:
            self.stack[-1].items.append(node)
        else:
            self.root = node

    def _span(self, event: yaml.Event) -> Span:
        return Span(self.source, event.start_mark.index, event.end_mark.index)

    # ------------------------------------------------------------------------------------- hygiene

    def _checked(
        self, pairs: list[tuple[Node, ...]], again: list[tuple[Scalar, Node]]
    ) -> Iterator[tuple[Scalar, Node]]:
        """The entries whose key is a text that was not said before; the others go to ``again``."""
        first: dict[str, Scalar] = {}
        entries: dict[str, tuple[Scalar, Node]] = {}
        keys = [key for key, _ in pairs if isinstance(key, Scalar)]
        where = {key.text: i for i, key in reversed([*enumerate(keys)])}  # where each is said first
        several = len(keys) - len(where) > 1
        doubled = next((i for i, key in enumerate(keys) if where[key.text] < i), len(keys))
        behind = [place(key.span) for key in keys[doubled : doubled + _NEAR]]
        for key, value in pairs:
            if self.report.full:
                raise _Refused
            if not isinstance(key, Scalar):
                self.report.add(
                    "NLC004",
                    "a key is a text",
                    key.span,
                    "a list or a mapping stands as a key",
                    helps=["if this is an expression, quote it"],
                )
            elif key.text == "<<" and not key.style:
                self.report.add(
                    "NLC004",
                    "merge keys `<<` are not used",
                    key.span,
                    helps=["write the keys out: a spec says what it means in place"],
                )
            elif key.text in first and not key.broken:
                self.report.add(
                    "NLC002",
                    f"duplicate key `{cut(key.text)}`",
                    key.span,
                    "said again here",
                    related=[Label(first[key.text].span, "first said here")],
                    helps=[
                        "keep one of them",
                        *(["or write the name above them that may be missing"] if several else []),
                    ],
                    causes=[("again", id(pairs), key.text == "outputs"), *behind],
                )
                again.append((key, value))
                if isinstance(value := entries[key.text][1], Scalar):  # which is meant is not known
                    entries[key.text] = (first[key.text], replace(value, broken=True))
            else:
                if written := without_colon(key.text):  # `for {i: [1, 2]}`
                    line = content(line_at(self.source.text, key.span.start))
                    if not isinstance(value, Scalar) or not value.broken:
                        at = key.span.start
                        no_key(Span(self.source, at, at + len(line)), self.report)
                    key, value = key.part(0, written.end(1)), Scalar("", value.span, broken=True)
                first[key.text] = key
                entries[key.text] = (key, value)
        yield from entries.values()

    def _properties(self, event: yaml.NodeEvent, span: Span) -> bool:
        """Refuses a tag or an anchor; says whether there was one."""
        if event.anchor is None and getattr(event, "tag", None) is None:
            return False
        self._refuse_property(span)
        return True

    def _refuse_property(self, span: Span) -> None:
        written = _PROPERTY.match(self.text, span.start)
        text = written.group() if written else "&"
        kind = {"&": "anchor", "*": "alias", "!": "tag"}[text[0]]
        self.report.add(
            "NLC004",
            f"`{cut(text)}` is a YAML {kind}, which nlc does not use",
            Span(self.source, span.start, span.start + len(text)),
            helps=["remove it; if it is part of an expression, quote the whole of that"],
        )

    def _directives(self, event: yaml.DocumentStartEvent) -> None:
        if event.tags:
            span = self._span(event)
            line = Span(self.source, span.start, span.start + len("%TAG"))
            self.report.add("NLC004", "`%TAG` is not used", line, "remove this line")

    def _several(self, event: yaml.DocumentStartEvent) -> None:
        start = event.start_mark.index
        self.report.add(
            "NLC003",
            "one file holds one spec",
            Span(self.source, start, start + 3),
            "a second document starts here",
            helps=["put it in a file of its own"],
        )
