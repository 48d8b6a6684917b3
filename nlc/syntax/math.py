"""Mathematical text -> surface Expr with exact places; the grammar is ``math.lark``.

Operators: ``num`` ``bool`` ``name`` ``call`` ``index`` ``attr`` ``T`` ``list`` ``fold`` ``neg``
``add`` ``sub`` ``mul`` ``div`` ``matmul`` ``pow`` ``eq`` ``ne`` ``lt`` ``le`` ``gt`` ``ge``. A
``call`` has the callee, the positional and the keyword arguments as operands, and the names of the
keywords (``Placed``) as attribute. Unicode leaves no trace: ``‖x‖²`` is a call of ``sqnorm``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedToken

from nlc.base.diagnostics import Label, Report
from nlc.base.span import Placed, Source, Span
from nlc.ir.expr import Expr
from nlc.syntax import aliens, hints
from nlc.syntax.symbols import ascii_name, fraction, superscript
from nlc.syntax.yamlnodes import Scalar

TEXT = "<expression>"  # the source of what stands in no spec
MAX_LENGTH = 10_000
MAX_DEPTH = 100
MAX_NUMBER = 40
LARGEST_WHOLE = 2**63 - 1  # that torch can store

_CALLEES = ("name", "attr", "index", "call")


def parse_expr(scalar: Scalar, report: Report) -> Expr | None:
    """The expression of a scalar, or None if it has a mistake, which the report then says."""
    if scalar.broken or not _bounded(scalar, report) or aliens.foreign(scalar, report):
        return None
    try:
        tree = grammar().parse(scalar.text)
    except UnexpectedCharacters as error:
        aliens.stray(scalar, error.pos_in_stream, report)
        return None
    except UnexpectedToken as error:
        hints.unexpected(scalar, _tokens(scalar.text), error.token, report)
        return None
    return _Builder(scalar, report).build(tree)


@lru_cache(maxsize=1024)  # the texts are few, and read for every call
def parse_text(text: str) -> Expr:
    """The expression of a text of ours, such as a library entry; SpecError if it has a mistake."""
    report = Report()
    expr = parse_expr(Scalar(text, Span(Source(TEXT, text), 0, len(text))), report)
    report.raise_if_errors()
    assert expr is not None
    return expr


@cache
def grammar() -> Lark:
    """The parser of ``math.lark``; a tree of it keeps every token."""
    grammar = files("nlc.syntax").joinpath("math.lark").read_text(encoding="utf-8")
    return Lark(
        grammar, parser="lalr", lexer="basic", keep_all_tokens=True, maybe_placeholders=False
    )


def _tokens(text: str) -> list[Token]:
    """The tokens of a text, as far as there are any."""
    tokens: list[Token] = []
    with suppress(UnexpectedCharacters):
        tokens.extend(grammar().lex(text))
    return tokens


def _bounded(scalar: Scalar, report: Report) -> bool:
    text = scalar.text
    if scalar.style == ">":
        report.add(
            "NLC004",
            "an expression cannot be a folded block `>`",
            scalar.span,
            "folding loses the lines that messages point to",
            helps=["use `|` instead of `>`"],
        )
        return False
    if not text.strip():
        report.add("NLC010", "an expression is missing", scalar.span, "expected a value")
        return False
    if len(text) > MAX_LENGTH:
        report.add(
            "NLC007",
            f"this expression is longer than {MAX_LENGTH} characters",
            scalar.span,
            helps=["name its parts with `let`"],
        )
        return False
    depth = 0
    for i, ch in enumerate(text):
        depth += (ch in "([⟨") - (ch in ")]⟩")
        if depth > MAX_DEPTH:
            _too_deep(scalar.span_of(i, i + 1), report)
            return False
    return True


def _too_deep(span: Span, report: Report) -> None:
    report.add(
        "NLC007",
        f"this expression is more than {MAX_DEPTH} operations deep",
        span,
        helps=["name its parts with `let`"],
    )


# ----------------------------------------------------------------------------------------- building


class _Part(NamedTuple):
    """An expression, the range of the text it covers (its brackets included), and its depth."""

    expr: Expr
    start: int
    end: int
    depth: int


class _Keyword(NamedTuple):
    token: Token
    value: _Part


_Child = Token | _Part | _Keyword | list


@dataclass
class _Builder:
    """Turns a parse tree into an Expr, operands first, so that depth costs no recursion."""

    scalar: Scalar
    report: Report
    failed: bool = False
    _done: dict[int, _Child] = field(default_factory=dict)

    def build(self, tree: Tree) -> Expr | None:
        for node in tree.iter_subtrees():
            children = [c if isinstance(c, Token) else self._done[id(c)] for c in node.children]
            self._done[id(node)] = self._node(node.data, children)
        root = self._done[id(tree)]
        assert isinstance(root, _Part)
        if root.depth > MAX_DEPTH and not self.failed:
            _too_deep(root.expr.span, self.report)
            return None
        return None if self.failed else root.expr

    def _node(self, rule: str, children: list[_Child]) -> _Child:
        if rule in ("items", "arguments"):
            return [c for c in children if not isinstance(c, Token)]
        if rule == "keyword":
            return _Keyword(children[0], children[2])
        start, end = _start(children[0]), _end(children[-1])
        if rule == "group":
            inner = children[1]
            return inner._replace(start=start, end=end)
        op, args, attr = _RULES.get(rule, _Builder._operation)(self, rule, children)
        span = self.scalar.span_of(start, end)
        expr = Expr(op, tuple(a.expr for a in args), attr, None, span)
        return _Part(expr, start, end, 1 + max((a.depth for a in args), default=0))

    def _made(self, op: str, attr: Hashable, child: Token, *args: _Part) -> _Part:
        """A node that the text has no symbol of its own for, at the place of ``child``."""
        span = self.scalar.span_of(child.start_pos, child.end_pos)
        expr = Expr(op, tuple(a.expr for a in args), attr, None, span)
        depth = 1 + max((a.depth for a in args), default=0)
        return _Part(expr, child.start_pos, child.end_pos, depth)

    def _operation(self, rule: str, children: list[_Child]) -> _Built:
        return rule, [c for c in children if isinstance(c, _Part)], None

    def _number(self, rule: str, children: list[_Child]) -> _Built:
        text = str(children[0])
        whole = len(text) <= MAX_NUMBER and text.isdecimal() and int(text) > LARGEST_WHOLE
        if len(text) > MAX_NUMBER or whole or float(text) == math.inf:
            label = f"at most {MAX_NUMBER} characters, and below 1e308"
            label = "a whole number below 2^63; write it as `1e20`" if whole else label
            self._fail("NLC007", "this number is too large or too long", children[0], label)
            return "num", [], 0
        return "num", [], int(text) if text.isdecimal() else float(text)

    def _name(self, rule: str, children: list[_Child]) -> _Built:
        return "name", [], ascii_name(str(children[0]))

    def _attribute(self, rule: str, children: list[_Child]) -> _Built:
        base, _, name = children
        return ("T", [base], None) if name == "T" else ("attr", [base], ascii_name(str(name)))

    def _superscript(self, rule: str, children: list[_Child]) -> _Built:
        base, token = children
        if len(token) > MAX_NUMBER:
            self._fail("NLC007", "this number is too long", token, f"at most {MAX_NUMBER} digits")
            return "pow", [base], None
        value = superscript(token)
        exponent = self._made("num", abs(value), token)
        if token.startswith("⁻"):
            exponent = self._made("neg", None, token, exponent)
        return "pow", [base, exponent], None

    def _named_call(self, rule: str, children: list[_Child]) -> _Built:
        """``‖x‖`` and its like are calls of a function that the text does not name."""
        name = {"inner": "dot"}.get(rule, rule)
        function = self._made("name", name, children[0])
        return "call", [function, *(c for c in children if isinstance(c, _Part))], ()

    def _fold(self, rule: str, children: list[_Child]) -> _Built:
        function, _, body, _, index, _ = children
        if function.expr.op != "name":
            self._fail(
                "NLC011", "`for` stands only in a sum", children[3], "written `sum(e for i)`"
            )
        return "fold", [body], (function.expr.attr, ascii_name(str(index)))

    def _index(self, rule: str, children: list[_Child]) -> _Built:
        base, bracket, items, _ = children
        if base.expr.op not in _CALLEES:
            self._fail("NLC011", "only a name has an index", bracket, "a name must stand before it")
        return "index", [base, *items], None

    def _list(self, rule: str, children: list[_Child]) -> _Built:
        return "list", children[1] if len(children) == 3 else [], None

    def _call(self, rule: str, children: list[_Child]) -> _Built:
        function, bracket = children[:2]
        if function.expr.op not in _CALLEES:
            hints.unexpected(self.scalar, _tokens(self.scalar.text), bracket, self.report)
            self.failed = True
        arguments = children[2] if len(children) == 4 else []
        keywords: dict[str, _Keyword] = {}
        positional: list[_Part] = []
        behind: list[_Part] = []
        for argument in arguments:
            if isinstance(argument, _Keyword):
                name = ascii_name(str(argument.token))
                if name in keywords:
                    first = Label(self._span(keywords[name].token), "first given here")
                    self._fail(
                        "NLC011",
                        f"the argument `{name}` is given twice",
                        argument.token,
                        "given again here",
                        first,
                    )
                keywords[name] = argument
            elif keywords:
                behind.append(argument)
            else:
                positional.append(argument)
        if behind:
            self._fail(
                "NLC011",
                "an argument without a name stands behind one with a name",
                behind[0],
                "move it to the front, or name it",
            )
        values = [k.value for k in keywords.values()]
        names = (Placed(name, self._span(k.token)) for name, k in keywords.items())
        return "call", [function, *positional, *values], tuple(names)

    def _span(self, child: Token | _Part) -> Span:
        return self.scalar.span_of(_start(child), _end(child))

    def _fail(
        self, code: str, message: str, at: Token | _Part, label: str, *related: Label
    ) -> None:
        self.report.add(code, message, self._span(at), label, related=related)
        self.failed = True


_Built = tuple[str, list[_Part], Hashable]

_RULES: dict[str, Callable[[_Builder, str, list[_Child]], _Built]] = {
    "name": _Builder._name,
    "num": _Builder._number,
    "inf": lambda self, rule, children: ("num", [], math.inf),
    "fraction": lambda self, rule, children: ("num", [], fraction(children[0])),
    "true": lambda self, rule, children: ("bool", [], True),
    "false": lambda self, rule, children: ("bool", [], False),
    "list": _Builder._list,
    "norm": _Builder._named_call,
    "sqnorm": _Builder._named_call,
    "inner": _Builder._named_call,
    "call": _Builder._call,
    "fold": _Builder._fold,
    "index": _Builder._index,
    "attr": _Builder._attribute,
    "transpose": lambda self, rule, children: ("T", [children[0]], None),
    "superscript": _Builder._superscript,
}


def _start(child: Token | _Part) -> int:
    return child.start_pos if isinstance(child, Token) else child.start


def _end(child: Token | _Part) -> int:
    return child.end_pos if isinstance(child, Token) else child.end
