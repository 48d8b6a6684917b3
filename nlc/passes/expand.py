"""SpecTree -> SpecTree without families: ``M[s]`` for s in [k, v] becomes the levels ``M_k`` and ``M_v``.

Indices are labels and integers, resolved here; what follows never sees one (language §5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from nlc.base.diagnostics import Label, Report, certain, nearest
from nlc.base.span import Span
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.show import show
from nlc.syntax.tree import Field, ForTree, LetTree, LevelTree, SpecTree

Env = dict[str, Expr]
Part = TypeVar("Part", LevelTree, LetTree)

MEMBERS = 256  # of one family
LEVELS = 64  # of a system, those of used systems with them
_LARGEST = 20_000  # operations of a sum written out
_ALL = 200_000  # operations of all families written out


def expand(tree: SpecTree, report: Report) -> SpecTree:
    """Families of levels and lets written out, folds unrolled, indexed names replaced by generated ones."""
    return _Expander(tree, report).run()


class _Expander:
    def __init__(self, tree: SpecTree, report: Report):
        self.tree, self.report = tree, report
        lists = [f for f in tree.hyper if f.expr.op == "list"]
        deep = {f.name for f in lists if any(e.op == "list" for e in f.expr.args)}  # no hyper
        self.lists = {f.name: len(f.expr.args) for f in lists if f.name not in deep}
        self.wrong = deep | {f.name for f in tree.hyper if _has_error(f.expr)}  # reported each
        self.runs: dict[tuple[str, str], tuple[Expr, ...]] = {}  # by family and index name
        self.families: dict[str, list[str]] = {}  # the labels of each
        self.lost = set(tree.lost)
        self.budget = _ALL

    def run(self) -> SpecTree:
        levels = [m for level in self.tree.levels for m in self._members(level)]
        if len(levels) > LEVELS:
            message = f"a system has at most {LEVELS} levels"
            self.report.add("NLC007", message, levels[LEVELS].span, f"{len(levels)} with families")
            self.lost |= {level.name for level in levels[LEVELS:]}
            levels = levels[:LEVELS]
        levels = [replace(level, let=self._all(level.let)) for level in levels]
        out = replace(self.tree, levels=tuple(levels), let=self._all(self.tree.let))
        for level in self.tree.levels:
            if self._lacks_a_for(level, out):
                self.lost.add(level.name)
                others = [m for m in out.levels if m.span != level.span]
                out = replace(out, levels=tuple(others))
        return replace(_map(out, self._settle), lost=frozenset(self.lost))

    def _all(self, lets: tuple[LetTree, ...]) -> tuple[LetTree, ...]:
        return tuple(m for let in lets for m in self._members(let))

    def _settle(self, e: Expr) -> Expr:
        return rewrite(rewrite(e, self._fold), self._indexed)

    # -------------------------------------------------------------------------------------------- members

    def _members(self, part: Part) -> list[Part]:
        """One part for each member of a family, its label in its name; the part itself if it is none."""
        if part.index is None and part.over is None:
            return [part]
        out: list[Part] = []
        labels: list[str] = []
        envs = self._envs(part)
        if not self._affordable(part, len(envs)):
            envs = []
        for env in envs:
            bound = _map(part, lambda e, env=env: _bind(e, env))
            label = _label(bound.index)
            if label is None:
                self._no_label(part, bound.index)
                break
            if label in labels:
                self.report.add(
                    "NLC205",
                    f"family `{part.name}` has two members `{label}`",
                    part.over.span,
                    f"`{show(part.index)}` is `{label}` twice",
                    helps=[
                        f"an index is a name that runs: `{part.name}[{part.over.names[0].name}]`"
                    ],
                )
                self.lost.add(part.name)
                break
            labels.append(label)
            out.append(replace(bound, name=f"{part.name}_{label}", index=None, over=None))
        if not out:
            self.lost.add(part.name)
        self.families.setdefault(part.name, []).extend(labels)
        return out

    def _lacks_a_for(self, level: LevelTree, tree: SpecTree) -> bool:
        """Whether ``M[s]`` is the one member of M, `s` is no member that is read, and others are."""
        index = level.index
        known = index is not None and index.op == "name" and level.name not in self.lost
        if level.over or not known or self.tree.partial:
            return False
        if len(self.families[level.name]) > 1 or "for" in level.keys:
            return "for" in level.keys  # a mistake in it is reported
        read: dict[str, Span | None] = {}
        reads: list[Expr] = []
        others = tuple(m for m in tree.levels if m.span != level.span)
        _map(replace(tree, levels=others), lambda e: reads.append(e) or e)
        runs = {n.attr[1] for e in reads for n in walk(e) if n.op == "fold"}
        for n in (n for e in reads for n in walk(e) if n.op == "index"):
            if n.args[0].op == "name" and n.args[0].attr == level.name:
                label = _label(n.args[1])
                read.setdefault("…" if label is None or label in runs else label, n.span)
        own = str(index.attr)
        if not read or own in read or nearest(own, read):
            return False
        members = ", ".join(read)
        self.report.add(
            "NLC205",
            f"level `{level.name}[{own}]` has no `for`",
            level.span,
            f"nothing says what `{own}` runs over",
            related=[Label(at, "as here") for at in list(read.values())[:1] if at],
            helps=[f"write `for: {{{own}: [{members}]}}`"],
        )
        return True

    def _affordable(self, part: Part, members: int) -> bool:
        """Whether a family may be written out: all of them together are bounded."""
        if members > 1:
            sizes: list[int] = []
            _map(part, lambda e: sizes.append(sum(1 for _ in walk(e))) or e)
            self.budget -= sum(sizes) * members
        if self.budget < 0:
            message = f"the families have more than {_ALL} operations written out"
            self.report.add("NLC007", message, part.span, "this one is too much")
        return self.budget >= 0

    def _no_label(self, part: Part, index: Expr | None) -> None:
        if index is None:
            first = part.over.names[0].name
            self.report.add(
                "NLC205",
                f"`{part.name}` has a `for` but no index",
                part.span,
                "all members would have this name",
                related=[Label(part.over.span, "the family is declared here")],
                helps=[f"write `{part.name}[{first}]:`"],
            )
        elif index.op != "error":
            self.report.add(
                "NLC205",
                f"`{show(index)}` is not a label or an integer",
                index.span or part.span,
                "an index is known when the spec is checked",
            )

    def _envs(self, part: Part) -> list[Env]:
        """One environment a member; the names of a ``for`` zip."""
        over = part.over
        if over is None:
            return [{}]
        table: Env = {}
        for item in over.names:
            items = self._items(item)
            if items is None:
                return []
            table[item.name] = self.runs[part.name, item.name] = items
        lengths = {name: len(items) for name, items in table.items()}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"`{name}` has {n}" for name, n in lengths.items())
            message = "the names of a `for` must have equally many members"
            self.report.add("NLC205", message, over.span, said)
            return []
        return [dict(zip(table, members)) for members in zip(*table.values())]

    def _items(self, item: Field) -> tuple[Expr, ...] | None:
        """What an index runs over: the elements of a list, or of a list-valued hyper."""
        e, items = item.expr, None
        if e.op == "list":
            items = e.args
        elif e.op == "name" and e.attr in self.lists:
            numbers = [Expr("num", (), i) for i in range(self.lists[e.attr])]
            items = tuple(Expr("index", (e, n), None, None, e.span) for n in numbers)
        if items and len(items) <= MEMBERS:
            return items
        named = e.op == "name"
        if e.op == "error" or (named and (e.attr in self.lost or e.attr in self.wrong)):
            return None
        if named and self.tree.partial and e.attr not in {h.name for h in self.tree.hyper}:
            return None
        close = nearest(str(e.attr), self.lists) if named else None
        span = e.span or item.span
        if items is None:
            self.report.add(
                "NLC205",
                f"`{item.name}` of a `for` needs a list",
                span,
                f"did you mean `{close}`?" if close else "neither a list nor a list-valued hyper",
                helps=[
                    f"write `{item.name}: [1, 2, 3]`, or name a hyper such as `periods: [64, 256]`"
                ],
                fix=certain(e.span, str(e.attr), self.lists) if named else None,
            )
        elif not items:
            self.report.add("NLC205", f"`{item.name}` runs over nothing", span, "an empty list")
        else:
            message = f"a family has at most {MEMBERS} members"
            self.report.add("NLC007", message, span, f"this has {len(items)}")
        return None

    # -------------------------------------------------------------------------------------------- uses

    def _fold(self, n: Expr) -> Expr | None:
        """``sum(e for i)`` written out over the members of the family that e indexes by i."""
        if n.op != "fold":
            return None
        kind, index = n.attr  # type: ignore[misc]
        if kind != "sum":
            message = f"`{kind}(e for {index})` is no fold"
            self.report.add("NLC202", message, n.span, "a family is folded by `sum`")
            return _error(n)
        families = {
            node.args[0].attr
            for node in walk(n.args[0])
            if node.op == "index"
            and any(x.op == "name" and x.attr == index for x in walk(node.args[1]))
        }
        found = {
            items
            for (family, name), items in self.runs.items()
            if name == index and family in families
        }
        if len(found) != 1:
            if not families & self.lost:
                self._no_run(n, index, many=len(found) > 1)
            return _error(n)
        items = found.pop()
        if _size(n.args[0]) * len(items) > _LARGEST:
            message = f"this sum has more than {_LARGEST} operations written out"
            self.report.add("NLC007", message, n.span, f"over {len(items)} members")
            return _error(n)
        total, *terms = [_bind(n.args[0], {index: item}) for item in items]
        for term in terms:
            total = Expr("add", (total, term), None, None, n.span)
        return total

    def _no_run(self, n: Expr, index: str, many: bool) -> None:
        if self.tree.partial and not many:
            return  # what the family runs over is not known
        message = f"no family here runs over `{index}`"
        if many:
            message = f"`{index}` runs over unlike families here"
        example = f"`for: {{{index}: [1, 2, 3]}}`, then `sum(S[{index}](q) for {index})`"
        self.report.add(
            "NLC205",
            message,
            n.span,
            "the families have other members" if many else "summed over nothing",
            helps=[f"index a family declared with {example}"],
        )

    def _indexed(self, n: Expr) -> Expr | None:
        if n.op != "index" or n.args[0].op != "name" or n.args[0].attr not in self.families:
            return None
        family, index = n.args[0].attr, n.args[1]
        label = _label(index)
        labels = self.families[family]
        if label in labels:
            return Expr("name", (), f"{family}_{label}", None, n.span)
        if family not in self.lost and not self.tree.partial and index.op != "error":
            known = ", ".join(f"{family}[{known}]" for known in labels[:12])
            close = nearest(label, labels) if label else None
            place = "not one of its members" if label else "an index is a label or an integer"
            self.report.add(
                "NLC205",
                f"family `{family}` has no member `{label or show(index)}`",
                n.span,
                f"did you mean `{family}[{close}]`?" if close else place,
                notes=[f"members: {known}{', …' if len(labels) > 12 else ''}"],
                fix=certain(index.span, label, labels) if label else None,
                causes=[("member", family)],
            )
        return _error(n)


def _has_error(e: Expr) -> bool:
    return any(n.op == "error" for n in walk(e))


def _error(n: Expr) -> Expr:
    return Expr("error", (), None, None, n.span)


def _size(e: Expr) -> int:
    """How many operations an expression has as text, parts that stand twice counted twice."""
    sizes: dict[int, int] = {}
    for node in walk(e):
        sizes[id(node)] = 1 + sum(sizes[id(a)] for a in node.args)
    return sizes[id(e)]


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


def _bind(e: Expr, env: Env) -> Expr:
    """The names of a ``for`` replaced; arithmetic of whole numbers that comes of it is done."""
    if not env:
        return e

    def rule(n: Expr) -> Expr | None:
        if n.op == "name" and n.attr in env:
            return env[n.attr].at(n.span)
        value = _integer(n) if n.args else None
        return None if value is None else Expr("num", (), value, None, n.span)

    return rewrite(e, rule)


def _label(index: Expr | None) -> str | None:
    """The text of an index: a label, or an integer once its arithmetic is done."""
    value = _integer(index)
    if value is not None:
        return str(value) if 0 <= value < 10**9 else None
    return str(index.attr) if index is not None and index.op == "name" else None


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
