"""An explanation as a table, fastest level first, and below it why each level runs as it does."""

from __future__ import annotations

from pathlib import Path

from nlc.tools.costs import Cost
from nlc.tools.explain.facts import Explanation, Fact
from nlc.tools.layout import cells, wrap
from nlc.tools.table import INDENT, WIDTH, table


def text(e: Explanation) -> str:
    """At most ``WIDTH`` columns wide."""
    shown = [f for level in e.levels for f in level]
    columns, sums = _columns(e), _sums(e)
    at = columns.index("flops")
    rows = [columns, *(_row(f, e) for f in shown), *sums]
    lines = table(rows, (2,) * (len(columns) - 1), set(range(at, len(columns))))
    head, body = lines[0], dict(zip((id(f) for f in shown), lines[1:]))
    out = [f"{e.system} by {e.backend}", *_scope(e), "", *head]
    for number, level in enumerate(e.levels, 1):
        title = f"{number:<2} {', '.join(dict.fromkeys(f.clock for f in level))} "
        out.append(title + "─" * max(WIDTH - cells(title), 0))
        out += [line for f in level for line in body[id(f)]]
    out.append("─" * WIDTH)
    out += [line for row in lines[1 + len(shown) :] for line in row]
    notes = _remarks(shown, e)
    out += ["", *notes] if notes else []
    return "\n".join(line.rstrip() for line in out)


def html(e: Explanation) -> str:
    """The same for a notebook."""
    from nlc.tools.html import pre
    from nlc.tools.html import table as markup

    shown = [f for level in e.levels for f in level]
    columns = ["clock", *_columns(e)]
    rows = [*([f.clock, *_row(f, e)] for f in shown), *(["", *row] for row in _sums(e))]
    right = range(columns.index("flops"), len(columns))
    caption = "\n".join([f"{e.system} by {e.backend}", *_scope(e)])
    return markup(columns, rows, right, caption) + pre("\n".join(_remarks(shown, e)))


def _remarks(shown: list[Fact], e: Explanation) -> list[str]:
    """What stands below the table: reasons, how streams run, and the steps of an optimizer."""
    streams = _hung("packed sequences and `checkpoint`: ", e.streams) if e.streams else []
    steps = [line for f in shown for u in f.updates for line in _hung("", u)]
    return [*_notes(shown, e), *streams, *steps]


def _columns(e: Explanation) -> list[str]:
    costs = ["flops", "bytes", "state"]
    return ["level", "class", *costs] if e.matrix else ["level", "class", "plan", *costs, "steps"]


def _sums(e: Explanation) -> list[list[str]]:
    """The rows below the levels."""
    sums = [
        ("projections", " ", e.projections),
        ("flows", e.flows_kind or " ", e.flows),
        ("total", " ", e.total),
    ]
    blank = [" "] * (_columns(e).index("flops") - 2)
    return [[name, kind, *blank, *_numbers(c, e)] for name, kind, c in sums if c.flops or c.moved]


def _scope(e: Explanation) -> list[str]:
    """What the numbers are of."""
    flops = "flops (a multiply-add is 2), bytes moved"
    if e.matrix:
        m, n = e.matrix
        step = (
            f"a step in float32 with {m:,} samples"
            if e.context == "layers"
            else "a step in float32"
        )
        what = f"{step}, for each weight of a matrix [{m:,}, {n:,}]: {flops}, bytes of state"
    else:
        what = f"T = {e.tokens:,} tokens, forward, in float32; for a token: {flops};"
        what += " for a sequence: bytes of state, steps that wait for one another"
    hypers = ", ".join(f"{k}={v}" for k, v in e.hypers.items())
    return [*wrap(what, WIDTH), *(wrap(f"at {hypers}", WIDTH) if hypers else [])]


# ------------------------------------------------------------------------------------------------ numbers


def _row(f: Fact, e: Explanation) -> list[str]:
    plan = f.plan if f.tile is None else f"{f.plan}({f.tile})"
    return [f.name, f.kind, *([] if e.matrix else [plan]), *_numbers(f.cost, e)]


def _numbers(c: Cost, e: Explanation) -> list[str]:
    if e.matrix:
        each = e.matrix[0] * e.matrix[1]
        return [count(x / each) for x in (c.flops, c.moved, c.state)]
    return [count(c.flops), size(c.moved), size(c.state), steps(c.steps, e.tokens)]


def count(x: float) -> str:
    """``281 k``, ``1.98 M``."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if x >= unit:
            return _three(x / unit) + name
    return _three(x) if x >= 0.01 else "<0.01" if x else "–"


def size(x: float) -> str:
    for unit, name in ((2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB")):
        if x >= unit:
            return _three(x / unit) + name
    return f"{x:.0f} B" if x else "–"


def _three(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}".removesuffix(".0") if x >= 10 else f"{x:.3g}"


def steps(steps: int, tokens: int) -> str:
    """How many of them wait for one another."""
    if steps <= 1:
        return str(steps) if steps else "–"
    if tokens % steps == 0:
        return "T" if steps == tokens else f"T/{tokens // steps}"
    return f"{steps:,}"


# ------------------------------------------------------------------------------------------------ notes


def _notes(shown: list[Fact], e: Explanation) -> list[str]:
    """Why, once for all levels of which the same is true."""
    groups: dict[tuple, list[Fact]] = {}
    for f in shown:
        if f.why:
            groups.setdefault((f.plan, f.why, f.periods, f.quote, f.faster), []).append(f)
    out = []
    for (plan, why, periods, quote, quicker), facts in groups.items():
        names = ", ".join(f.name for f in facts)
        between = f" between boundaries, every {', '.join(periods)} tokens" if periods else ""
        out += _hung(f"{names}: ", f"{plan}{between}; {why}")
        place = next((f.placed for f in facts if f.placed), "")
        if place and quote:
            out += _hung(INDENT, f"{Path(e.file).name}:{place}  {quote}")
        out += [line for q in quicker for line in _hung(f"{INDENT}faster: ", q)]
    return out


def _hung(head: str, said: str) -> list[str]:
    """Lines that hang behind the first one."""
    first, *more = wrap(said, WIDTH - cells(head)) if cells(head) < WIDTH // 2 else [""]
    if not first:
        return [*wrap(head, WIDTH), *(INDENT + line for line in wrap(said, WIDTH - 3))]
    rest = wrap(" ".join(more), WIDTH - len(INDENT) * 2) if more else []
    return [head + first, *(INDENT * 2 + line for line in rest)]
