"""A key and its node -> the value that the key takes: an expression, sizes, a word, members.

Each reader reports what does not fit and returns None; what is reported once is not said again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass

from nlc.base.diagnostics import Fix, Label, Report, certain, nearest
from nlc.base.span import Span
from nlc.ir.expr import Expr
from nlc.ir.show import show
from nlc.syntax.letters import strange
from nlc.syntax.math import parse_expr
from nlc.syntax.symbols import ascii_name
from nlc.syntax.tree import Field, Word
from nlc.syntax.yamlnodes import Mapping, Node, Scalar, Sequence
from nlc.syntax.yamlplace import cut, quoted

MAX_NAME = 64

RESERVED = {
    "g": "the gradient at `W`",
    "t": "the number of the tick",
    "pos": "the position of the token",
    "head": "the index of the head",
    "substep": "the index of the sub-step",
    "age": "how long ago, in a sum over a window",
    "loss": "the outer loss",
    "prev": "the value before the tick",
    "anchor": "the value at the last boundary",
    "stop": "the value without its gradient",
    "inf": "infinity",
    "true": "a truth value",
    "false": "a truth value",
    "for": "the word of a sum over a family",
}

# Words that mean something where they stand; elsewhere they are names like any other.
PLACED = {
    "W": "in a gradient or layer system, the trained tensor: its level, which has no memory of its own",
    "learned": "behind `init`: a start that is trained as weights are; `learned(e)` begins at e",
    "zeros": "behind `init`: where a state starts if nothing is said",
    "none": "in a call: an argument is left out",
    "self": "in `applies_to`: this system trains what the route takes",
}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_PAIR = re.compile(r"\s*([A-Za-z]\w*)\s*(?:=\s*|:)([^\s=].*)")
_INDEXED = re.compile(r"\s*(?P<name>[^\[\]]*?)\s*\[(?P<index>.*)\]\s*", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """A key, what stands behind it, and the block that it belongs to, as messages call it."""

    key: Scalar
    node: Node
    where: str

    @property
    def called(self) -> str:
        return f"`{cut(self.key.text)}` of {self.where}"


@dataclass(frozen=True)
class Named:
    """A name that a spec gives, perhaps one of a family: ``M[s]``."""

    name: str
    index: Expr | None
    span: Span


def error(span: Span) -> Expr:
    """Stands for an expression with a mistake, so that its name is still known."""
    return Expr("error", (), None, None, span)


def is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and not node.text and not node.style and not node.broken


def is_map(entry: Entry) -> bool:
    """Whether a mapping is meant, not an expression that YAML reads as one (``{x}``)."""
    node = entry.node
    if not isinstance(node, Mapping):
        return False
    return not node.flow or not node.entries or any(not is_empty(v) for _, v in node.entries)


def is_broken(node: Node) -> bool:
    """Whether a mistake of YAML in it is already reported."""
    if isinstance(node, Mapping):
        return any(key.broken for key, _ in node.entries)
    return isinstance(node, Scalar) and node.broken


def wrong_kind(
    entry: Entry, expected: str, report: Report, help: str = "", fix: Fix | None = None
) -> None:
    """Reports that a value is of another form than its key takes."""
    if is_broken(entry.node):
        return
    helps = [help] if help else []
    if is_empty(entry.node):
        message, span = f"{entry.called} has no value", entry.key.span
        report.add("NLC103", message, span, f"expected {expected}", helps=helps)
        return
    if not helps and "mapping" in expected:
        helps = ["write one `name: value` a line, indented below the key"]
    kind = {Scalar: "text", Mapping: "a mapping", Sequence: "a list"}[type(entry.node)]
    message = f"{entry.called} takes {expected}, not {kind}"
    report.add("NLC103", message, entry.node.span, f"this is {kind}", helps=helps, fix=fix)


# ------------------------------------------------------------------------------------- expressions


def expression(entry: Entry, report: Report, lists: bool = False) -> Expr | None:
    """The expression behind a key; with ``lists`` it may be a list of YAML too."""
    node = entry.node
    if entry.key.text == "rule" and not isinstance(node, Scalar):
        wrong_kind(entry, "a rule", report, "a rule is written as a call, such as `gd(lr=0.1)`")
        return None
    if isinstance(node, Scalar) and not is_empty(node):
        return parse_expr(node, report)
    if isinstance(node, Sequence) and lists:
        return _list(entry, node, report)
    if isinstance(node, Scalar) or not (node.flow or isinstance(node, Sequence)):
        wrong_kind(entry, "an expression", report)
    elif not is_broken(node):
        start = "{" if isinstance(node, Mapping) else "[" if node.flow else "- "
        what = "a mapping" if isinstance(node, Mapping) else "a list"
        whole = node.span.text if node.flow and "\n" not in node.span.text else None
        meant = _unwrapped(node)
        message = "this expression needs quotes"
        help = f"quote this expression: `{entry.key.text}: {quoted(whole)}`" if whole else ""
        if meant is not None:
            message = f"an expression does not stand in {'a list' if start != '{' else '`{ }`'}"
            help = f"write `{entry.key.text}: {cut(meant)}`"
        report.add(
            "NLC005",
            message,
            node.span,
            f"in YAML, `{start}` starts {what}",
            helps=[help or "quote the whole expression"],
        )
    return None


def _unwrapped(node: Node) -> str | None:
    """The one expression in a mapping or a list of YAML: ``{learned}``, ``{default: 16}``, ``- S(q)``."""
    if isinstance(node, Mapping) and node.flow and len(node.entries) == 1:
        key, value = node.entries[0]
        inside, whole = key if is_empty(value) else value, "{%s}"
    elif isinstance(node, Sequence) and len(node.items) == 1:
        inside, whole = node.items[0], "[%s]" if node.flow else "- %s"
    else:
        return None
    if not isinstance(inside, Scalar) or is_empty(inside) or "\n" in inside.text:
        return None
    alone = node.span.text.replace(" ", "") == (whole % inside.text).replace(" ", "")
    return inside.text if alone or isinstance(node, Mapping) else None


def _list(entry: Entry, node: Sequence, report: Report) -> Expr | None:
    items = [expression(Entry(entry.key, n, entry.where), report, True) for n in node.items]
    if any(item is None for item in items):
        return None
    return Expr("list", tuple(items), None, None, node.span)


def dims(entry: Entry, report: Report) -> Expr | None:
    """Sizes: a list, or a call such as ``like(W)`` that gives one."""
    found = expression(entry, report, lists=True)
    if found is None or found.op in ("list", "call"):
        return found
    text = show(found)
    help = f"write `{entry.key.text}: [{text}]`; a scalar is `[]`"
    fix = None
    if entry.where == "`inputs`" and found.op == "name" and found.span is not None:
        fix = Fix(found.span, f"[{text}]") if _is_given(found.span, text) else None
    wrong_kind(entry, "a list of sizes", report, help, fix)
    return None


def _is_given(span: Span, name: str) -> bool:
    """Whether a name has a value somewhere in the text, as a hyper has."""
    return re.search(rf"(?m)(?:^\s+|[{{,]\s*){name}\s*:", span.source.text) is not None


# ------------------------------------------------------------------------------------------- words


def size(entry: Entry, given: Named, report: Report) -> Field:
    """A name with its sizes."""
    return Field(given.name, given.span, dims(entry, report) or error(given.span))


def word(entry: Entry, report: Report) -> Word | None:
    """A text that is no mathematics."""
    node = entry.node
    if isinstance(node, Scalar) and not is_empty(node):
        return None if node.broken else Word(node.text.strip(), node.span)
    wrong_kind(entry, "text", report)
    return None


def words(entry: Entry, report: Report) -> tuple[Word, ...]:
    """A text that is no mathematics, or a list of such."""
    items = entry.node.items if isinstance(entry.node, Sequence) else (entry.node,)
    if not items:
        without(entry, entry.node.span, "list", report)
    found = [word(Entry(entry.key, item, entry.where), report) for item in items]
    for x in found:
        if x is not None and not x.text:
            without(entry, x.span, "text", report)
    return tuple(x for x in found if x is not None and x.text)


def without(entry: Entry, span: Span, what: str, report: Report) -> None:
    """Reports a list or a text that has nothing in it."""
    message = f"{entry.called} names nothing"
    report.add("NLC103", message, span, f"an empty {what}", helps=["leave the key out"])


def choice(entry: Entry, choices: Items[str], report: Report) -> Word | None:
    """One of a few words; a word that is nearly one is reported and taken as meant."""
    found = word(entry, report)
    if found is None or found.text in choices:
        return found
    near = nearest(cut(found.text), choices)
    report.add(
        "NLC104",
        f"{entry.called} cannot be `{cut(found.text)}`",
        found.span,
        f"did you mean `{near}`?" if near else "",
        helps=[f"`{entry.key.text}` is one of: {', '.join(choices)}"],
        fix=certain(found.span, found.text, choices),
    )
    return Word(near, found.span) if near else None


# ------------------------------------------------------------------------------------------- names


def members(entry: Entry, expected: str, report: Report) -> list[Entry]:
    """The entries of a mapping of names."""
    if isinstance(entry.node, Mapping):
        where = f"`{entry.key.text}`"
        return [Entry(key, node, where) for key, node in entry.node.entries]
    wrong_kind(entry, expected, report)
    return []


def name(
    scalar: Scalar, report: Report, indexed: bool = False, reserved: bool = False
) -> Named | None:
    """The name that a key gives; ``indexed``: ``M[s]`` too, ``reserved``: words of ours too."""
    if scalar.broken:
        return None
    index = None
    if indexed and (match := _INDEXED.fullmatch(scalar.text)):
        index = parse_expr(scalar.part(match.start("index"), match.end("index")), report)
        if index is None:
            return None
        scalar = scalar.part(match.start("name"), match.end("name"))
    text = ascii_name(scalar.text.strip())
    if not _NAME.fullmatch(text) or len(text) > MAX_NAME:
        if pair := _PAIR.fullmatch(scalar.text):
            written = f"{pair[1]}: {pair[2]}"
            report.add(
                "NLC003",
                f"`{cut(scalar.text)}` is no `key: value`",
                scalar.span,
                "YAML wants `: ` between them",
                helps=[f"write `{cut(written)}`"],
                fix=None if scalar.style else Fix(scalar.span, written),
            )
            return None
        if (said := strange(scalar.text.strip())) is not None and _NAME.fullmatch(said[1]):
            fix = Fix(scalar.span, said[1]) if said[2] and not scalar.style else None
            report.add("NLC106", said[0], scalar.span, f"write `{cut(said[1])}`", fix=fix)
            return Named(said[1], index, scalar.span)
        message, label = _not_a_name(scalar, text, indexed)
        near = re.sub(r"\W+", "_", text).strip("_")[:MAX_NAME]
        helps = [f"for example `{near}`"] if _NAME.fullmatch(near) and "[" not in text else []
        report.add("NLC106", message, scalar.span, label, helps=helps)
        return None
    if text in RESERVED and not reserved:
        report.add(
            "NLC106",
            f"`{text}` is a reserved name",
            scalar.span,
            f"it means {RESERVED[text]}",
            helps=[f"choose another, such as `{text}_1`"],
        )
        return None
    return Named(text, index, scalar.span)


def _not_a_name(scalar: Scalar, text: str, indexed: bool) -> tuple[str, str]:
    shown = cut(text)
    if _NAME.fullmatch(text):
        return f"`{shown}` is too long a name", f"at most {MAX_NAME} characters"
    if "[" in text and not indexed:
        return f"`{shown}` is not a name", "an index stands only on levels and lets"
    return f"`{shown}` is not a name", "a name is a letter, then letters, digits, `_`"


ENTRIES = 1000  # that one block may have, so that any text is read within a second


def named(
    entries: list[Entry],
    report: Report,
    read: Callable[[Entry, Named], object],
    indexed: bool = False,
    reserved: bool = False,
) -> tuple:
    """``read(entry, name)`` of each entry whose key is a name that was not given before."""
    out, first = [], {}
    if len(entries) > ENTRIES:
        extra = entries[ENTRIES].key.span
        report.add(
            "NLC007", f"a block has at most {ENTRIES:,} entries", extra, f"{len(entries):,} here"
        )
    for entry in entries[:ENTRIES]:
        if report.full:
            break
        given = name(entry.key, report, indexed, reserved)
        if given is None:
            continue
        same = (given.name, given.index)
        if same in first:
            report.add(
                "NLC002",
                f"duplicate key `{cut(entry.key.text)}`",
                given.span,
                f"also reads as `{given.name}`",
                related=[Label(first[same], "first said here")],
                helps=["keep one of them; a Greek letter and its name are the same"],
            )
            continue
        first[same] = given.span
        if (item := read(entry, given)) is not None:
            out.append(item)
    return tuple(out)
