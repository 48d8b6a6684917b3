"""A mistake in how the lines of a YAML text fit together: indentation, brackets, lines without a key."""

from __future__ import annotations

import re

from nlc.base.diagnostics import Fix, Label, Report
from nlc.base.span import Span
from nlc.syntax.depth import shifted, spaces, sure_key
from nlc.syntax.yamlplace import (
    COMMENT,
    LONGEST,
    PAIRS,
    Place,
    balance,
    content,
    cut,
    cut_by_comment,
    entry_of,
    line_at,
)

_EQUALS = re.compile(r"(\w[\w\[\]]*) *= *(?!=)(\S.*)")
_NO_SPACE = re.compile(r"(\w[\w\[\]]*):(\S.*)")
_NO_COLON = re.compile(r"(\w[\w\[\]]*) +([\w\[{].*)")


def structure(place: Place, problem: str, report: Report) -> None:
    """A mistake in how the lines fit together."""
    if "mapping values" in problem or place.at == place.line_start + _indent(place.line):
        lines = (place.above_start, place.line_start)
        found = next((s for at in lines if (s := shifted(place.source, at)) is not None), None)
        if found is not None:
            found.report(report)
            return
    above = content(place.above)
    above_span = place.span(
        place.above_start + len(place.above) - len(place.above.lstrip()),
        place.above_start + len(place.above.rstrip()),
    )
    indent = place.line_start + len(place.line) - len(place.line.lstrip())
    here = place.span(indent, place.line_start + len(place.line.rstrip()))
    said = entry_of(place.above, place.above_start)
    lone = place.line.strip() in ("}", "]", ")")
    if lone and not (said and balance(said.value) > 0):
        report.add(
            "NLC003", f"`{place.line.strip()}` closes nothing", here, "no bracket is open here"
        )
    elif COMMENT.search(place.above) and said and balance(said.value) > 0:
        comment = place.above_start + place.above.index("#", said.end - place.above_start)
        cut_by_comment(place.span(said.start, said.end), comment, report)
    elif "could not find expected ':'" in problem or (
        "mapping values" in problem and not (said or above.endswith(":") or not above)
    ):
        span = above_span if "mapping values" in problem else here
        if place.context is not None and "could not" in problem:
            line_end = place.source.text.find("\n", place.context)
            span = place.span(place.context, line_end if line_end >= 0 else place.context + 1)
        no_key(span, report)
    elif "mapping values" in problem:
        report.add(
            "NLC003",
            "a key cannot stand here",
            here,
            "indented as part of the value above",
            related=[Label(above_span, "this already has a value")] if said else [],
            helps=["indent it like its neighbours, or quote the value above"],
        )
    elif place.line.lstrip().startswith("- ") and said and balance(said.value) > 0:
        report.add(
            "NLC005",
            "this expression needs quotes",
            here,
            "in YAML, a line with `- ` is an item of a list",
            related=[Label(place.span(said.start, said.end), "this has an open bracket")],
            helps=["write the expression on one line, or quote all of it"],
        )
    elif place.line.lstrip().startswith("- ") and place.at <= indent + 1:
        report.add(
            "NLC003",
            "a list item cannot stand here",
            here,
            "keys stand beside it",
            helps=["write `key: value`, or indent the list under its key"],
        )
    elif place.at == indent and place.context is not None:
        report.add(
            "NLC003",
            "the indentation of this line fits none above it",
            here,
            f"indented by {spaces(indent - place.line_start)}",
            helps=["keys of one mapping stand in one column"],
        )
    elif "document start" in problem:
        report.add(
            "NLC003",
            "text stands behind the end of the spec",
            here,
            "`...` on a line of its own ends it",
            helps=["remove the `...`, or what stands behind it"],
        )
    else:
        opened = place.context
        wanted = re.search(r"expected ',' or '(.)'", problem)
        related = []
        if (
            opened is not None
            and opened != place.at
            and place.source.text[opened : opened + 1] in "{["
        ):
            related = [Label(place.span(opened, opened + 1), "opened here")]
        report.add(
            "NLC003",
            "YAML cannot read this",
            place.rest,
            f"expected `,` or `{wanted[1]}` before this" if wanted else "",
            related=related,
            helps=["quote the expression, or write one `key: value` a line"],
        )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def without_colon(key: str) -> re.Match[str] | None:
    """``for {i`` of a line ``for {i: [1, 2]}``: the name, and what is its value."""
    return _NO_COLON.fullmatch(key) if balance(key) > 0 else None


def no_key(span: Span, report: Report) -> None:
    """A line without a key: written with `=`, or without the space or the colon that YAML wants."""
    text, fix = span.text.strip(), None
    if match := _EQUALS.fullmatch(text):
        label, fix = "YAML gives a value by `: `", f"{match[1]}: {match[2]}"
    elif match := _NO_SPACE.fullmatch(text):
        label, fix = "a space is missing behind the `:`", f"{match[1]}: {match[2]}"
    else:
        label = "expected a key"
    help = f"write `{cut(fix)}`" if fix else "write `key: value`"
    if fix is None and (match := _NO_COLON.fullmatch(text)):
        help = f"write `{match[1]}: {cut(match[2])}`"
        if (match[2][0] in PAIRS and balance(match[2]) == 0) or sure_key(span, match[1]):
            label, fix = f"a `:` is missing behind `{match[1]}`", f"{match[1]}: {match[2]}"
    elif fix is None and re.fullmatch(r"\w+", text):
        help = f"write `{text}:`"
    whole = Span(span.source, span.start, span.start + len(span.text.rstrip()))
    report.add(
        "NLC003",
        "this line is no `key: value`",
        span,
        label,
        helps=[help],
        fix=Fix(whole, fix) if fix else None,
    )


def _closed(text: str, opened: int) -> bool:
    """Whether the bracket at ``opened`` is closed somewhere."""
    depth = 0
    for ch in text[opened : opened + LONGEST]:
        depth += (ch in "([{") - (ch in ")]}")
        if depth == 0:
            return True
    return False


def never_closed(place: Place, opened: int, problem: str, report: Report) -> bool:
    """Says so if the line of an opening bracket ends before it is closed."""
    bracket = place.source.text[opened : opened + 1]
    if bracket not in PAIRS or f"or '{PAIRS[bracket]}'" not in problem:
        return False
    start = place.source.text.rfind("\n", 0, opened) + 1
    line = line_at(place.source.text, start)
    if start == place.line_start or balance(line) != 1 or _closed(place.source.text, opened):
        return False
    end = start + len(line.rstrip())
    comment = COMMENT.search(line)
    if comment:
        end = start + len(line[: comment.start()].rstrip())
    closing = PAIRS[bracket]
    report.add(
        "NLC003",
        f"`{bracket}` is never closed",
        place.span(opened, opened + 1),
        f"expected `{closing}` on this line",
        helps=[f"write `{cut(place.source.text[start:end].strip())}{closing}`"],
        fix=Fix(place.span(end, end), closing),
    )
    return True
