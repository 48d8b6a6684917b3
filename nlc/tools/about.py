"""The levels of a system as the docstring of a generated file lists them: levels that are alike are said once.

Members of a family differ in their names, in the sizes they index and perhaps in an equation or two. What they share
is printed once over the family's name; where some differ, that is printed for them alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import networkx as nx

from nlc.ir.notation import Notation
from nlc.ir.program import About
from nlc.ir.system import System
from nlc.ir.update import Update
from nlc.tools.derivation import update_lines

_LONG = 180  # characters, about two lines
_WORD = re.compile(r"[^\Wᵀ]+(?:\[\w+\])?|.", re.S)
_SHAPE = re.compile(r"\[[^\]]*\]")
_CLOCK = re.compile(r"every (?:(\d+) )?(\w+?)s? \((.+)\)")


@dataclass(frozen=True)
class _Level:
    """One level as text. ``parts`` are its shapes and its equations, in this order."""

    number: int
    name: str
    clock: str
    shapes: tuple[str, ...]
    equations: tuple[str, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        return self.shapes + self.equations

    @property
    def family(self) -> str:
        """``M`` of ``M_k``, nothing for a name of one word."""
        return self.name.rpartition("_")[0]

    def written(self, rule) -> _Level:
        """The same with every text rewritten."""
        parts = [tuple(map(rule, x)) for x in (self.shapes, self.equations)]
        return replace(self, clock=rule(self.clock), shapes=parts[0], equations=parts[1])


def about(system: System, graph: nx.DiGraph, updates: dict[str, Update]) -> tuple[About, ...]:
    """A paragraph for each level, fastest first, or for neighbours of one family that are alike."""
    groups: list[list[_Level]] = []
    for level in _levels(system, graph, updates):
        if groups and _together(system, [*groups[-1], level]) is not None:
            groups[-1].append(level)
        else:
            groups.append([level])
    found = [(group[0].name, _together(system, group) or _alone(group[0])) for group in groups]
    return tuple(_bounded(x, f"nlc derive {system.name} {name}") for name, x in found)


def _bounded(x: About, command: str) -> About:
    """Definitions that would take many lines left to a command that prints them."""
    long = [e for e in x.equations if len(e) > _LONG and " = " in e and "←" not in e]
    if not long:
        return x
    kept = tuple(e for e in x.equations if e not in long)
    names = ", ".join(e.partition(" = ")[0] for e in long)
    return replace(x, equations=(*kept, f"{names} as `{command}` prints"))


def _levels(system: System, graph: nx.DiGraph, updates: dict[str, Update]) -> Iterator[_Level]:
    for number, members in enumerate(graph.graph["levels"], 1):
        for name in members:
            data = graph.nodes[name]
            shapes = tuple(_SHAPE.findall(data["shape"])) or (data["shape"],)
            said = (f"{data['objective']}, {data['rule']}",) if data["objective"] else ()
            lines = tuple(update_lines(system, updates[name])) if name in updates else said
            yield _Level(number, name, data["clock"], shapes, lines)


def _alone(level: _Level) -> About:
    head = f"{level.number}. {level.name}, {level.clock}, {', '.join(level.shapes)}"
    return About(head, level.equations)


def _together(system: System, group: list[_Level]) -> About | None:
    """One paragraph for members of a family; None where they are too different, or only one."""
    first, names = group[0], [level.name for level in group]
    if len(group) < 2 or not first.family or len({level.family for level in group}) > 1:
        return None
    clock = _clock([level.clock for level in group])
    same = [_general(system, level) for level in _indexed(group)]
    if clock is None:
        return None
    others: dict[str, list[str]] = {}
    for level in same[1:]:
        difference = _difference(same[0].parts, level.parts)
        if difference is None:
            return None
        if difference:
            others.setdefault(difference, []).append(level.name)
    numbers = (
        f"{first.number}-{group[-1].number}" if group[-1].number > first.number else first.number
    )
    head = f"{numbers}. {', '.join(names)}, {clock}, {', '.join(same[0].shapes)}"
    differing = tuple(f"{', '.join(x)}: {text}" for text, x in others.items())
    return About(head, same[0].equations, differing)


def _clock(clocks: list[str]) -> str | None:
    """``every 64, 256 tokens (periods[i])``; None where the clocks are not one family's."""
    if len(set(clocks)) == 1:
        return clocks[0]
    found = [_CLOCK.fullmatch(clock) for clock in clocks]
    if not all(found) or len({x[2] for x in found}) > 1:
        return None
    counts = dict.fromkeys(re.sub(r"\[\d+\]", "[i]", x[3]) for x in found)
    return f"every {', '.join(x[1] or '1' for x in found)} {found[0][2]}s ({', '.join(counts)})"


def _indexed(group: list[_Level]) -> list[_Level]:
    """Elements of a list that go with the members, ``periods[0]``, ``periods[1]``, …, as ``periods[i]``."""
    texts = [" ".join((level.clock, *level.parts)) for level in group]
    for name in dict.fromkeys(re.findall(r"(\w+)\[\d+\]", texts[0])):
        used = [{int(i) for i in re.findall(rf"\b{name}\[(\d+)\]", text)} for text in texts]
        if all(len(x) == 1 for x in used) and len(set.union(*used)) == len(group):
            group = [
                level.written(partial(re.sub, rf"\b{name}\[\d+\]", f"{name}[i]")) for level in group
            ]
    return group


def _general(system: System, level: _Level) -> _Level:
    """A level's texts with the family's name in place of its own."""
    notation = Notation(system)
    pairs = {level.name: level.family}
    own, family = level.name.rpartition(".")[2], level.family.rpartition(".")[2]
    pairs |= {own: family, notation.symbol(own): notation.symbol(family)}
    names = "|".join(sorted(map(re.escape, pairs), key=len, reverse=True))
    pattern = re.compile(rf"(?<![^\W_])({names})(?![^\Wᵀ])")
    return level.written(lambda text: pattern.sub(lambda found: pairs[found[1]], text))


def _difference(first: tuple[str, ...], other: tuple[str, ...]) -> str | None:
    """What of ``first`` to change: words for words, or the parts that are others. None where it is most of them."""
    if len(first) != len(other) or list(map(_left, first)) != list(map(_left, other)):
        return None
    differing = [(a, b) for a, b in zip(first, other) if a != b]
    words = _words(first, other)
    if words is not None:
        return ", ".join(f"{b} for {a}" for a, b in words.items())
    if sum(len(b) for _, b in differing) > sum(map(len, other)) / 2:
        return None
    return "; ".join(b for _, b in differing)


def _left(part: str) -> str:
    """What an equation defines."""
    found = re.match(r"\S+ [←=]", part)
    return found[0] if found else ""


def _words(first: tuple[str, ...], other: tuple[str, ...]) -> dict[str, str] | None:
    """At most two words that stand in ``other`` for words of ``first``, wherever these are."""
    a, b = (_WORD.findall("\n".join(parts)) for parts in (first, other))
    if len(a) != len(b):
        return None
    pairs = {(x, y) for x, y in zip(a, b) if x != y}
    words = {x: y for x, y in zip(a, b) if x != y}
    if len(pairs) > 2 or len(words) < len(pairs) or not all(x.isidentifier() for x in words):
        return None
    return words if [words.get(x, x) for x in a] == b else None
