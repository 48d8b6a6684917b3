"""SpecTree -> SpecTree without families: ``M[s]`` for s in [k, v] becomes the levels ``M_k`` and ``M_v``.

Indices are labels and integers, resolved here; what follows never sees one (language §5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from nlc.base.diagnostics import Report
from nlc.base.span import Span
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.show import show
from nlc.syntax.tree import Field, ForTree, LetTree, LevelTree, SpecTree

Env = dict[str, Expr]


def expand(tree: SpecTree, report: Report) -> SpecTree:
    """Families of levels and lets written out, folds unrolled, indexed names replaced by generated ones."""
    lists = {f.name: len(f.expr.args) for f in tree.hyper if f.expr.op == "list"}
    families = {part.name for part in (*tree.levels, *tree.let) if part.index is not None}
    for level in tree.levels:
        families |= {let.name for let in level.let if let.index is not None}
    loops = _runs(tree, lists)

    def settle(e: Expr) -> Expr:
        return rewrite(_unfold(e, loops, report), lambda n: _indexed(n, families, report))

    levels = [
        _level(level, env, lists, report)
        for level in tree.levels
        for env in _envs(level.over, lists, report)
    ]
    lets = [_let(let, env) for let in tree.let for env in _envs(let.over, lists, report)]
    out = replace(tree, levels=tuple(levels), let=tuple(lets))
    return _map(out, settle)


def _level(level: LevelTree, env: Env, lists: dict[str, int], report: Report) -> LevelTree:
    level = _map(level, lambda e: _bind(e, env))
    lets = [_let(let, inner) for let in level.let for inner in _envs(let.over, lists, report)]
    name = f"{level.name}_{_label(level.index)}" if level.index is not None else level.name
    return replace(level, name=name, index=None, over=None, let=tuple(lets))


def _let(let: LetTree, env: Env) -> LetTree:
    bound = _map(let, lambda e: _bind(e, env))
    name = f"{let.name}_{_label(bound.index)}" if bound.index is not None else let.name
    return replace(bound, name=name, index=None, over=None)


def _map(part: Any, f: Callable[[Expr], Expr]) -> Any:
    """Every expression below a part of the tree rewritten; spans and words untouched."""
    if isinstance(part, Expr):
        return f(part)
    if isinstance(part, tuple):
        return tuple(_map(p, f) for p in part)
    if (
        is_dataclass(part)
        and not isinstance(part, Span | ForTree)
        and hasattr(part, "span") | isinstance(part, SpecTree)
    ):
        changes = {
            x.name: _map(getattr(part, x.name), f)
            for x in fields(part)
            if isinstance(getattr(part, x.name), Expr | tuple)
            or is_dataclass(getattr(part, x.name))
        }
        changes.pop("span", None)
        changes.pop("source", None)
        return replace(part, **changes)
    return part


def _runs(tree: SpecTree, lists: dict[str, int]) -> dict[tuple[str, str], list[Expr]]:
    """What an index runs over, by family and index name."""
    runs = {}
    for part in (*tree.let, *tree.levels, *(let for level in tree.levels for let in level.let)):
        if part.over is not None:
            for name, items in _by_name(part.over, lists).items():
                runs[part.name, name] = items
    return runs


def _items(item: Field, lists: dict[str, int]) -> list[Expr] | None:
    """What an index runs over: the elements of a list, or of a list-valued hyper."""
    if item.expr.op == "list":
        return list(item.expr.args)
    if item.expr.op == "name" and item.expr.attr in lists:
        return [
            Expr("index", (item.expr, Expr("num", (), i)), None, None, item.expr.span)
            for i in range(lists[item.expr.attr])
        ]
    return None


def _by_name(over: ForTree, lists: dict[str, int]) -> dict[str, list[Expr]]:
    return {f.name: items for f in over.names if (items := _items(f, lists)) is not None}


def _envs(over: ForTree | None, lists: dict[str, int], report: Report) -> list[Env]:
    """One environment a member; the names of a ``for`` zip."""
    if over is None:
        return [{}]
    table: dict[str, list[Expr]] = {}
    for item in over.names:
        items = _items(item, lists)
        if items is None:
            report.add(
                "NLC205",
                f"`for: {item.name}` needs a list",
                item.expr.span or item.span,
                "this is neither a list nor a list-valued hyper",
                helps=[
                    f"write `{item.name}: [1, 2, 3]`, or name a hyper such as `periods: [64, 256]`"
                ],
            )
            return []
        table[item.name] = items
    lengths = {name: len(items) for name, items in table.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        report.add("NLC205", "the names of a `for` must have equally many members", over.span, said)
        return []
    count = next(iter(lengths.values()), 0)
    return [{name: items[i] for name, items in table.items()} for i in range(count)]


def _bind(e: Expr, env: Env) -> Expr:
    if not env:
        return e
    return rewrite(
        e, lambda n: env[n.attr].at(n.span) if n.op == "name" and n.attr in env else None
    )


def _unfold(e: Expr, runs: dict[tuple[str, str], list[Expr]], report: Report) -> Expr:
    """``sum(e for i)`` written out over the members of the family that e indexes by i."""

    def rule(n: Expr) -> Expr | None:
        if n.op != "fold":
            return None
        kind, index = n.attr  # type: ignore[misc]
        indexed = {
            node.args[0].attr
            for node in walk(n.args[0])
            if node.op == "index"
            and any(x.op == "name" and x.attr == index for x in walk(node.args[1]))
        }
        found = {
            items for (family, name), items in _tuples(runs) if name == index and family in indexed
        }
        if kind != "sum" or len(found) != 1:
            many = len(found) > 1
            report.add(
                "NLC205",
                f"`{index}` runs over unlike families here"
                if many
                else f"no family here runs over `{index}`",
                n.span,
                "the families have other members" if many else "summed over nothing",
                helps=[
                    f"index a family declared with `for: {{{index}: [1, 2, 3]}}`, then `sum(S[{index}](q) for {index})`"
                ],
            )
            return Expr("error", (), None, None, n.span)
        terms = [_bind(n.args[0], {index: item}) for item in next(iter(found))]
        total = terms[0]
        for term in terms[1:]:
            total = Expr("add", (total, term), None, None, n.span)
        return total

    return rewrite(e, rule)


def _tuples(
    runs: dict[tuple[str, str], list[Expr]],
) -> list[tuple[tuple[str, str], tuple[Expr, ...]]]:
    return [(key, tuple(items)) for key, items in runs.items()]


def _label(index: Expr | None) -> str:
    """The text of an index: a label, or an integer once its arithmetic is done."""
    value = _integer(index)
    return str(value) if value is not None else show(index)


def _integer(e: Expr | None) -> int | None:
    if e is None or e.op not in ("num", "add", "sub", "neg", "mul"):
        return None
    if e.op == "num":
        return e.attr if isinstance(e.attr, int) else None
    args = [_integer(a) for a in e.args]
    if any(a is None for a in args):
        return None
    if e.op == "neg":
        return -args[0]
    return {"add": args[0] + args[1], "sub": args[0] - args[1], "mul": args[0] * args[1]}[e.op]


def _indexed(n: Expr, families: set[str], report: Report) -> Expr | None:
    if n.op != "index" or n.args[0].op != "name" or n.args[0].attr not in families:
        return None
    index = n.args[1]
    label = _label(index)
    if not label.isidentifier() and not label.isdecimal():
        report.add(
            "NLC205",
            f"`{show(index)}` is not a label or an integer",
            index.span,
            "an index is resolved when the spec is checked",
        )
        return Expr("error", (), None, None, n.span)
    return Expr("name", (), f"{n.args[0].attr}_{label}", None, n.span)
