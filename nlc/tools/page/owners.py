"""A generated file -> whose each of its lines is: a level's, if it makes the level's state or no other step needs it.

The program says which variable and which key of the state dict is whose; the file is read as Python, so that lines
follow from what they assign and who reads it, however a backend prints statements. A method belongs to the levels whose
lines call it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from nlc.backends.reference.file import class_name
from nlc.backends.reference.optimizer import rule_classes
from nlc.ir.program import Loop, Parallel, Program
from nlc.tools.page.model import Code

Levels = frozenset[str]
NOBODY: Levels = frozenset()
_RUNS = ("tiles", "tokens")  # what runs a method
_GIVEN = frozenset({"fixed", "carried", "flows"})  # names of what these are given
_STEP = re.compile(r"initial_state|update|advance(_\d+)?")  # what a rule does to one tensor


@dataclass(eq=False)
class _Part:
    """A statement, an entry of a dict that spans lines, or the head of a loop."""

    first: int
    last: int
    made: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    direct: Levels = NOBODY
    said: Levels = NOBODY  # of what it mentions
    owner: Levels = NOBODY
    calls: set[str] = field(default_factory=set)
    within: _Part | None = None  # the loop around it
    converts: bool = False  # names are made anew from themselves
    stores: bool = False  # it only puts away what others made


@dataclass(eq=False)
class _Function:
    node: ast.FunctionDef
    heading: int  # the line of its class
    fixed: Levels | None  # of a rule that trains some levels
    names: dict[str, Levels] = field(default_factory=dict)  # of what it is given by who calls it
    given: dict[str, ast.Assign] = field(
        default_factory=dict
    )  # names for what the next run is given
    parts: list[_Part] = field(default_factory=list)
    heads: list[tuple[int, int, int]] = field(default_factory=list)  # first, last, end of its body
    group: Levels = NOBODY


def owned(text: str, program: Program, reserved: frozenset[str]) -> dict[str, tuple[Code, ...]]:
    """By level its runs of lines, first to last; levels without a line of their own are left out.

    ``reserved`` are the names that the backend uses itself: what stands in them is nobody's.
    """
    reader = _Reader(text, program, reserved)
    whose = reader.lines()
    out: dict[str, list[Code]] = {}
    for line in sorted(whose):
        for level in whose[line]:
            frame = line in reader.frames
            others = () if frame else tuple(sorted(whose[line] - {level}))
            runs = out.setdefault(level, [])
            if runs and runs[-1].last == line - 1 and runs[-1].others == others:
                runs[-1] = Code(runs[-1].first, line, others)
            else:
                runs.append(Code(line, line, others))
    return {level: tuple(runs) for level, runs in out.items()}


class _Reader:
    def __init__(self, text: str, program: Program, reserved: frozenset[str]):
        self.text, self.program, self.system = text.splitlines(), program, program.system
        self.passing = reserved | set(self.system.hypers)
        self.frames: set[int] = set()  # conditions, and the first lines of methods
        self.levels = {*self.system.levels, *self.system.outer}
        self.names = self._names()
        tree = ast.parse(text)
        self.functions = [f for c in tree.body if isinstance(c, ast.ClassDef) for f in self._of(c)]
        given = {k: v for f in self.functions for k, v in self._given(f.node).items()}
        for f in self.functions:
            f.names = dict(zip(_taken(f.node), given.get(f.node.name, ())))
            self._read(f, f.node.body, None)

    # ---------------------------------------------------------------- what is known before

    def _names(self) -> dict[str, Levels]:
        """Variables: those that hold a level's state or what it carries, and flows in a level's scope."""
        out = {}
        for flow in self.system.flows.values():
            if flow.level in self.levels:
                out[re.sub(r"\W+", "_", flow.name)] = frozenset({flow.level})
        out |= {s.var: whose for s in self.program.slots if (whose := self._path(s.key))}
        todo: list[object] = list(self.program.body)
        while todo:
            x = todo.pop()
            if isinstance(x, Loop | Parallel):
                todo += x.body
            if isinstance(x, Loop):
                for name, members in x.stacks.items():
                    out[name] = NOBODY.union(*(out.get(m, NOBODY) for m in members))
        return out

    def _given(self, caller: ast.FunctionDef) -> dict[str, list[Levels]]:
        """By method whose each value is that it carries on, where ``tiles`` or ``tokens`` runs it."""
        out, said = {}, {}
        for x in ast.walk(caller):
            if isinstance(x, ast.Assign) and isinstance(x.targets[0], ast.Name):
                said[x.lineno, x.targets[0].id] = x.value
        for call in (x for x in ast.walk(caller) if isinstance(x, ast.Call)):
            if not _runs(call):
                continue
            body, carried = call.args[0], call.args[3]
            body = body.args[0] if isinstance(body, ast.Call) else body
            if isinstance(carried, ast.Name):
                before = [k for k in said if k[1] == carried.id and k[0] < call.lineno]
                carried = said[max(before)]
            out[_dotted(body).removeprefix("self.")] = self._whose(carried)
        return out

    def _whose(self, carried: ast.expr) -> list[Levels]:
        """Of ``{"M_k M_v, M_eta": "W1 W2"}`` or ``("S", "held:x")``, in order."""
        if not isinstance(carried, ast.Dict):
            return [self._path(str(x.value)) for x in getattr(carried, "elts", [])]
        out: list[Levels] = []
        for key, parts in zip(carried.keys, carried.values, strict=True):
            owners = key.value.split(", ") if isinstance(key, ast.Constant) else [""]
            for owner in owners:
                levels = NOBODY.union(*map(self._path, owner.split(" ")))
                out += [levels] * len(ast.literal_eval(parts).split())
        return out

    def _path(self, path: str) -> Levels:
        """``C_1.value.linear`` is what C_1 owns; of ``W`` and ``W.m`` the longer one counts."""
        words = path.split(".")
        for n in range(len(words), 0, -1):
            if (name := ".".join(words[:n])) in self.levels:
                return frozenset({name})
        return NOBODY

    def _of(self, c: ast.ClassDef) -> Iterator[_Function]:
        """The methods of a class that stands for the system or for a rule of it."""
        main, fixed = class_name(self.system), None
        if c.name != main:
            rules: dict[str, set[str]] = {}
            if self.system.trains:
                trained = {s.level for s in self.system.states.values() if s.trained}
                rules = dict.fromkeys(rule_classes(self.system), trained)
            else:
                for name, rule in self.program.rules.items():
                    mine = {g.level for g in self.program.groups if g.rule == name}
                    rules[class_name(rule.system)] = mine
            if c.name not in rules:
                return
            fixed = frozenset(rules[c.name])
        steps = self.system.trains or fixed is not None
        for f in c.body:
            if isinstance(f, ast.FunctionDef) and (not steps or _STEP.fullmatch(f.name)):
                yield _Function(f, c.lineno, fixed)

    # ---------------------------------------------------------------- reading

    def _read(self, f: _Function, body: list[ast.stmt], within: _Part | None) -> None:
        for s in body:
            if isinstance(s, ast.For):
                head = self._part(f, s.lineno, s.body[0].lineno - 1, [s.target], [s.iter], within)
                head.direct = head.direct or head.said
                f.parts.append(head)
                self._read(f, s.body, head)
            elif isinstance(s, ast.If | ast.With):
                f.heads.append((s.lineno, s.body[0].lineno - 1, s.body[-1].end_lineno or s.lineno))
                self._read(f, s.body, within)
                self._read(f, getattr(s, "orelse", []), within)
            elif isinstance(s, ast.Return) and _spread(s.value):
                self._entries(f, s.value, within)
            elif isinstance(s, ast.Assign):
                self._assigned(f, s, within)
            elif isinstance(s, ast.AugAssign):
                part = self._part(f, s.lineno, s.end_lineno, [s.target], [s.value], within)
                part.read |= part.made
                f.parts.append(part)
            elif isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant):
                continue  # a docstring
            else:
                f.parts.append(self._part(f, s.lineno, s.end_lineno, [], [s], within))

    def _assigned(self, f: _Function, s: ast.Assign, within: _Part | None) -> None:
        """An assignment; what a run of a method is given is part of the run, where it has a name for it, too."""
        named = s.targets[0].id if isinstance(s.targets[0], ast.Name) else ""
        if named in _GIVEN and not f.names:
            f.given[named] = s
            return
        given, f.given = [*f.given.values()] if _runs(s.value) else [], {}
        first = min(x.lineno for x in (s, *given))
        values = [s.value, *(x.value for x in given)]
        part = self._part(f, first, s.end_lineno, s.targets, values, within)
        part.read -= _GIVEN if given else set()
        f.parts.append(part)

    def _entries(self, f: _Function, d: ast.Dict, within: _Part | None) -> None:
        for key, value in zip(d.keys, d.values, strict=True):
            if isinstance(key, ast.Constant):
                part = self._part(f, key.lineno, value.end_lineno, [], [value], within)
                part.direct = self._path(str(key.value))
                f.parts.append(part)

    def _part(
        self,
        f: _Function,
        first: int,
        last: int | None,
        targets: list[ast.expr],
        values: list[ast.AST],
        within: _Part | None,
    ) -> _Part:
        part = _Part(first, max(first, last or first), within=within)
        made: Levels = NOBODY
        for t in (n for target in targets for n in ast.walk(target)):
            if isinstance(t, ast.Name) and isinstance(t.ctx, ast.Store):
                part.made.add(t.id)
            elif isinstance(t, ast.Subscript) and isinstance(t.slice, ast.Constant):
                made |= self._path(str(t.slice.value))
            elif isinstance(t, ast.Attribute) and isinstance(t.ctx, ast.Store):
                made |= self._path(_dotted(t).removeprefix("self."))
        said: Levels = NOBODY
        for n in (n for value in values for n in ast.walk(value)):
            if isinstance(n, ast.Name):
                part.read.add(n.id)
            elif isinstance(n, ast.Attribute) and _dotted(n).startswith("self."):
                path = _dotted(n).removeprefix("self.")
                part.calls |= {path} if path == n.attr else set()
                said |= self._path(path)
            elif isinstance(n, ast.Constant) and isinstance(n.value, str):
                said = said.union(*map(self._path, re.findall(r"[\w.]+", n.value)))
            elif isinstance(n, ast.keyword) and n.arg:
                part.made |= {x.id for x in [n.value] if n.arg == "out" and isinstance(x, ast.Name)}
                said |= frozenset({n.arg} & self.levels)
            elif isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute):
                changed = _changed(n.func)
                part.made |= {changed} if changed else set()
        known = self.names | f.names
        made |= NOBODY.union(*(known.get(n, NOBODY) for n in part.made))
        only_passing = bool(part.made) and part.made <= self.passing
        part.made -= self.passing
        part.stores = not part.made and any(isinstance(t, ast.Subscript) for t in targets)
        part.said = said
        part.direct = made or (NOBODY if only_passing else said)
        part.converts = len(part.made) > 1 and part.made <= part.read
        return part

    # ---------------------------------------------------------------- settling

    def lines(self) -> dict[int, Levels]:
        by_name = {f.node.name: f for f in self.functions if f.fixed is None}
        before = None
        while before != (before := self._groups(by_name)):
            for f in self.functions:
                self._settle(f)
                for part in f.parts:
                    for name in part.calls & by_name.keys():
                        by_name[name].group |= part.owner
        out: dict[int, Levels] = {}
        for f in self.functions:
            for part in f.parts:
                for line in range(self._start(part.first), part.last + 1):
                    if part.owner:
                        out[line] = out.get(line, NOBODY) | part.owner
            self._frame(f, out)
        return out

    @staticmethod
    def _groups(by_name: dict[str, _Function]) -> list[Levels]:
        return [f.group for f in by_name.values()]

    def _settle(self, f: _Function) -> None:
        """From states back to what they need; what more than one step needs is nobody's, or the whole method's."""
        if f.fixed is not None:
            for part in f.parts:
                part.owner = f.fixed
            return
        steps = {p.direct for p in f.parts if p.direct}
        for p in f.parts:
            p.owner = p.direct
        readers: dict[str, list[_Part]] = {}
        for p in f.parts:
            for name in p.read if not p.converts else ():
                readers.setdefault(name, []).append(p)
        changed = True
        while changed:
            changed = False
            for p in (p for p in f.parts if not p.direct):
                needed = p.owner.union(*(r.owner for n in p.made for r in readers.get(n, ())))
                changed |= needed != p.owner
                p.owner = needed
        for p in (p for p in f.parts if not p.direct):
            if not any(p.owner <= step for step in steps) or not p.owner:
                p.owner = f.group
            if not p.owner and p.within is not None:
                p.owner = p.within.direct
        for p in (p for p in f.parts if p.stores and not p.owner):
            makers = [m.owner for m in f.parts if m.made & p.read]
            p.owner = NOBODY.union(*makers)

    def _start(self, line: int) -> int:
        """A note that stands above its statement belongs to it."""
        above = self.text[line - 2] if line > 1 else ""
        return line - 1 if above.strip().startswith("# ") else line

    def _frame(self, f: _Function, out: dict[int, Levels]) -> None:
        """Conditions and the names of method and class above what stands in them."""
        for first, last, end in sorted(f.heads, reverse=True):
            inside = [out[i] for i in range(last + 1, end + 1) if i in out]
            if inside and self.text[first - 1].strip().startswith("if "):
                for line in range(first, last + 1):
                    out[line] = NOBODY.union(*inside)
                    self.frames.add(line)
        lines = range(f.node.lineno, (f.node.end_lineno or f.node.lineno) + 1)
        inside = [out[i] for i in lines if i in out]
        if inside:
            for line in (f.node.lineno, f.heading):
                out[line] = out.get(line, NOBODY).union(*inside)
                self.frames.add(line)


def _runs(call: ast.expr) -> bool:
    """Whether it runs a method over pieces or tokens."""
    return isinstance(call, ast.Call) and getattr(call.func, "id", "") in _RUNS


def _taken(f: ast.FunctionDef) -> list[str]:
    """The names that a method gives what is carried, in order."""
    out: list[str] = []
    for s in f.body:
        value = s.value if isinstance(s, ast.Assign) else None
        value = value.value if isinstance(value, ast.Subscript) else value
        if isinstance(value, ast.Name) and value.id == "carried":
            out += [n.id for n in ast.walk(s.targets[0]) if isinstance(n, ast.Name)]
    return out


def _dotted(node: ast.expr) -> str:
    """``self.C_1.value`` of its tree; "" for what is no path of names."""
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    return ".".join([node.id, *words[::-1]]) if isinstance(node, ast.Name) else ""


def _spread(value: ast.expr | None) -> bool:
    """Whether it is a dict over several lines, an entry each."""
    return isinstance(value, ast.Dict) and value.end_lineno != value.lineno


def _changed(method: ast.Attribute) -> str:
    """The variable that ``W.mul_(…).add_`` changes in place."""
    if not method.attr.endswith("_") or method.attr.endswith("__"):
        return ""
    node: ast.expr = method.value
    while isinstance(node, ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) and node.id not in ("torch", "self") else ""
