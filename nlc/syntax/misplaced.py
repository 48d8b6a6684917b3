"""Keys that stand a level too far left or right, or for their neighbour: a level's keys beside the levels, a level
beside ``levels``, expressions under ``outputs``, which takes sizes.

What they mean is plain, so they are reported once, put where they belong, and read as if they stood there.
"""

from __future__ import annotations

import re
from dataclasses import replace

from nlc.base.diagnostics import Fix, Label, Report
from nlc.base.span import Span
from nlc.syntax.schema import Level, Spec, keys_of
from nlc.syntax.values import is_empty
from nlc.syntax.yamlnodes import Mapping, Node, Scalar
from nlc.syntax.yamlplace import cut

Entries = list[tuple[Scalar, Node]]

_OF_A_LEVEL = frozenset(keys_of(Level))
_LEVELS = "levels"


def put_back(root: Mapping, report: Report) -> Mapping:
    """The document with such keys where they belong."""
    out: Entries = []
    strays: Entries = []
    at = next((i for i, (key, _) in enumerate(root.entries) if key.text == _LEVELS), None)
    for key, node in root.entries:
        behind = at is not None and len(out) > at
        if behind and key.text not in keys_of(Spec) and _is_stray(key, node):
            strays.append((key, node))
        else:
            out.append((key, node))
    if at is not None and isinstance(out[at][1], Mapping):
        levels = out[at][1]
        inside = _levels(replace(levels, entries=(*levels.entries, *strays)), out[at][0], report)
        out[at] = (out[at][0], inside)
    else:
        out += strays
    return _computed(replace(root, entries=tuple(out)), report)


def _computed(root: Mapping, report: Report) -> Mapping:
    """``outputs`` with expressions stands for ``output`` where there is none."""
    given = {key.text: node for key, node in root.entries}
    context = given.get("context")
    gives = isinstance(context, Scalar) and context.text == "tokens"
    if "output" in given or not gives:
        return root
    hypers = given.get("hyper")
    sizes = {key.text for key, _ in hypers.entries} if isinstance(hypers, Mapping) else set()
    for key, node in (*root.entries, *root.again):
        if key.text != "outputs" or not _is_computed(node, sizes):
            continue
        report.drop(lambda d, key=key: d.code == "NLC002" and d.span == key.span)
        report.add(
            "NLC103",
            "`outputs` takes the sizes of the outputs, not expressions",
            key.span,
            "did you mean `output`?",
            fix=Fix(key.span, "output"),
        )
        kept = (entry for entry in root.entries if entry[0] is not key)
        return replace(root, entries=(*kept, (replace(key, text="output"), node)))
    return root


def _is_computed(node: Node, sizes: set[str]) -> bool:
    """Whether what stands under ``outputs`` is an expression, or a mapping of expressions alone."""
    if isinstance(node, Mapping):
        return bool(node.entries) and all(_is_computed(n, sizes) for _, n in node.entries)
    if not isinstance(node, Scalar) or is_empty(node) or node.broken:
        return False
    words = set(re.findall(r"[^\W\d]\w*", node.text))
    return bool(words - sizes)


def _is_stray(key: Scalar, node: Node) -> bool:
    """Whether it is a key of a level or, by its keys, a level itself."""
    if key.text in _OF_A_LEVEL:
        return True
    return isinstance(node, Mapping) and len(_OF_A_LEVEL & {k.text for k, _ in node.entries}) > 1


def _levels(levels: Mapping, owner: Scalar, report: Report) -> Mapping:
    out: Entries = []
    run: Entries = []
    column = levels.entries[0][0].span.column if levels.entries else 0
    for key, node in levels.entries:
        name, above = out[-1] if out else (None, None)
        takes = isinstance(above, Mapping) or (above is not None and is_empty(above))
        takes = takes and (name.text not in _OF_A_LEVEL or _is_level(above))
        if key.text in _OF_A_LEVEL and not _is_level(node) and takes:
            run.append((key, node))
            continue
        _settle(out, run, report)
        run = []
        if key.span.column < column:
            _left_of(key, node, owner, column, report)
        out.append((key, node))
    _settle(out, run, report)
    return replace(levels, entries=tuple(out))


def _is_level(node: Node) -> bool:
    return isinstance(node, Mapping) and bool(_OF_A_LEVEL & {k.text for k, _ in node.entries})


def _settle(out: Entries, run: Entries, report: Report) -> None:
    """Puts a run of a level's keys into the level above it."""
    if not run:
        return
    level, node = out[-1]
    own = node.entries if isinstance(node, Mapping) else ()
    first, others = run[0][0], [key.text for key, _ in run[1:]]
    column = own[0][0].span.column if own else level.span.column + 2
    report.add(
        "NLC103",
        f"`{first.text}` is a key of a level, and stands beside the levels",
        first.span,
        f"indent it below `{cut(level.text)}`",
        related=[Label(level.span, "the level above it")],
        notes=[f"so do {', '.join(f'`{other}`' for other in others)}"] if others else [],
        fix=_indented(run, column),
    )
    known = {key.text for key, _ in own}
    added = [(key, value) for key, value in run if key.text not in known]
    end = max(node.span.end, run[-1][1].span.end)
    span = Span(level.span.source, own[0][0].span.start if own else first.span.start, end)
    out[-1] = (level, Mapping((*own, *added), span))


def _left_of(key: Scalar, node: Node, owner: Scalar, column: int, report: Report) -> None:
    report.add(
        "NLC103",
        f"level `{cut(key.text)}` stands beside `{owner.text}`",
        key.span,
        f"indent it below `{owner.text}`",
        related=[Label(owner.span, "the levels stand below this")],
        fix=_indented([(key, node)], column),
    )


def _indented(run: Entries, column: int) -> Fix | None:
    """The lines of some entries moved right, to a column."""
    source, first, last = run[0][0].span.source, run[0][0].span, run[-1]
    start = source.line_starts[first.line - 1]
    end = max(last[0].span.end, last[1].span.end)
    text = source.text[start:end]
    more = " " * (column - first.column)
    if not more or source.text[start : first.start].strip():
        return None
    moved = re.sub(r"^(?=[^\n\r])", more, text, flags=re.MULTILINE)
    return Fix(Span(source, start, end), moved)
