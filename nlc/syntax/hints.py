"""Where the grammar stopped -> a message that quotes it and says what to write.

From the two tokens around that place and the open brackets; ``aliens`` has looked for symbols that are none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lark import Token

from nlc.base.diagnostics import Fix, Label, Report
from nlc.base.span import Span
from nlc.syntax import operands
from nlc.syntax.aliens import LOGIC
from nlc.syntax.foreign import parts
from nlc.syntax.yamlnodes import Scalar
from nlc.syntax.yamlplace import content, line_at

_OPERANDS = {"NAME", "NUMBER", "FRACTION", "INF", "INFINITY", "TRUE", "FALSE"}
_ENDS = _OPERANDS | {"RPAR", "RSQB", "RANGLE", "TRANSPOSE", "SUPERSCRIPT", "BAR_SQUARED"}
_STARTS = _OPERANDS | {"LPAR", "LSQB", "LANGLE", "BAR"}
_COMPARISONS = {"EQ", "NE", "LT", "LE", "GT", "GE"}
_CLOSES = {"RPAR": "LPAR", "RSQB": "LSQB", "RANGLE": "LANGLE", "BAR_SQUARED": "BAR"}
_CLOSING = {"LPAR": ")", "LSQB": "]", "LANGLE": "⟩", "BAR": "‖"}
_CHOICE = re.compile(
    r"(?:\s*[^\W\d]\w*\s*=(?!=))?\s*(?P<a>\S(?:(?!\bif\b).)*?)\s*\bif\b\s*(?P<c>(?:(?!\b(?:if|else)\b).)+?)"
    r"\s*\belse\b\s*(?P<b>(?:(?!\b(?:if|else)\b).)*\S)\s*",
    re.DOTALL,
)
_WORDS = {"and", "or", "not", "if", "else", "in"}


@dataclass(frozen=True)
class _Open:
    token: Token
    call: bool  # a bracket behind a callee
    compared: bool = False


def unexpected(scalar: Scalar, tokens: list[Token], token: Token | None, report: Report) -> None:
    """Reports that the grammar stopped at ``token`` (None or ``$END``: at the end of the text)."""
    at = len(tokens)
    if token is not None and token.type != "$END":
        at = next(i for i, t in enumerate(tokens) if t.start_pos == token.start_pos)
    opened, ends = _before(tokens[:at])
    previous = tokens[at - 1] if at else None
    say = _Sayer(scalar, report)
    if at == len(tokens):
        _cut_short(say, tokens, opened, ends)
        return
    token = tokens[at]
    inside = opened[-1] if opened and opened[-1].token.type else None
    if previous is not None and previous.type == "DOT":
        say("NLC011", f"`{token}` cannot stand behind `.`", token, "expected a name")
    elif previous is not None and previous.type == "FOR":
        say(
            "NLC011", f"`{token}` cannot stand behind `for`", token, "expected the name of an index"
        )
    elif token.type in _CLOSES and ends and (inside is None or not _fits(inside, token)):
        _wrong_bracket(say, token, inside)
    elif token.type == "EQUALS":
        say(
            "NLC013",
            "`=` is not an operator",
            token,
            "equality is `==`; `name=value` stands only in a call",
        )
    elif ends and token.type in _STARTS:
        assert previous is not None
        apart = "arguments" if inside is not None and inside.call else ""
        if inside is None and say.in_a_list:
            apart = "members"
        _missing_operator(say, tokens, at, apart)
    elif ends and token.type in _COMPARISONS:
        say("NLC011", "comparisons do not chain", token, "compare two values at a time")
    elif ends and token.type == "COMMA" and (written := _parts(say, tokens, at)) is not None:
        name, whole, new = written
        message = f"`{name}` is no pair: each of its values is an argument"
        say("NLC204", message, whole, f"written `{new}`", fix=Fix(whole, new))
    elif ends and token.type == "COMMA":
        what = "a bracket holds one value" if inside else "an expression is one value"
        after = tokens[at + 1] if at + 1 < len(tokens) else None
        if _decimal_comma(previous, token, after):
            expected = "the decimal point is `.`, and a list is written `[a, b]`"
        elif any(t.type == "EQUALS" for t in tokens[at:]) and len(opened) > 1:
            expected = "expected `)` before this"
        else:
            expected = "a list is written `[a, b]`"
        say("NLC011", what, token, expected)
    elif ends and token.type == "FOR":
        say("NLC011", "`for` stands only in a sum", token, "written `sum(e for i)`")
    elif not ends:
        after = f"after `{previous}`" if previous is not None else "at the start"
        help = "the inner product is `dot(a, b)`" if token.type == "LT" else ""
        label = f"expected a value {after}"
        say("NLC011", f"a value is missing before `{token}`", token, label, help=help)
    else:
        say("NLC011", f"`{token}` cannot stand here", token, "")


def _parts(say: _Sayer, tokens: list[Token], comma: int) -> tuple[str, Span, str] | None:
    """``betas=(0.9, 0.95)``: the name, its place and that of its values, and what is written for both."""
    start = max((i for i in range(comma) if tokens[i].type == "EQUALS"), default=0)
    end = next((i for i in range(comma, len(tokens)) if tokens[i].type == "RPAR"), None)
    if start < 1 or end is None or tokens[start + 1].type != "LPAR":
        return None
    inside = say.scalar.text[tokens[start + 1].end_pos : tokens[end].start_pos]
    name = str(tokens[start - 1])
    new = parts(name, [value.strip() for value in inside.split(",")])
    whole = say.scalar.span_of(tokens[start - 1].start_pos, tokens[end].end_pos)
    return None if new is None else (name, whole, new)


def _decimal_comma(previous: Token | None, comma: Token, after: Token | None) -> bool:
    """``0,5`` without a space."""
    if previous is None or after is None or {previous.type, after.type} != {"NUMBER"}:
        return False
    return previous.end_pos == comma.start_pos and after.start_pos == comma.end_pos


def _before(tokens: list[Token]) -> tuple[list[_Open], bool]:
    """The brackets open after some tokens, and whether the last of them ends an operand."""
    opened: list[_Open] = []
    ends = False
    for token in tokens:
        if token.type == "BAR" and ends and opened and opened[-1].token.type == "BAR":
            opened.pop()
        elif token.type in _CLOSING:
            opened.append(_Open(token, call=ends))
            ends = False
        else:
            if token.type in _CLOSES and opened:
                opened.pop()
            ends = token.type in _ENDS
    return opened, ends


def _fits(inside: _Open, token: Token) -> bool:
    return inside.token.type == _CLOSES[token.type]


_NEAR = 100  # characters before a text in which the list is looked for that it is in


@dataclass(frozen=True)
class _Sayer:
    scalar: Scalar
    report: Report

    def span(self, token: Token) -> Span:
        return self.scalar.span_of(token.start_pos, token.end_pos)

    @property
    def in_a_list(self) -> bool:
        """Whether the text is a member of a list of YAML's."""
        at = self.scalar.span
        before = at.source.text[max(0, at.start - _NEAR) : at.start].rstrip()
        return not self.scalar.style and before[-1:] in ("[", ",")

    def __call__(
        self,
        code: str,
        message: str,
        at: Token | Span,
        label: str,
        *related: Label,
        help: str = "",
        fix: Fix | None = None,
    ) -> None:
        span, helps = self.span(at) if isinstance(at, Token) else at, [help] if help else []
        self.report.add(code, message, span, label, related=related, helps=helps, fix=fix)


def _cut_short(say: _Sayer, tokens: list[Token], opened: list[_Open], ends: bool) -> None:
    previous = tokens[-1]  # a blank text is refused before
    end = say.scalar.span_of(previous.end_pos, previous.end_pos)
    related, fix = [], None
    if ends and opened:
        bracket = opened[-1].token
        expected = f"expected `{_CLOSING[bracket.type]}`"
        related = [Label(say.span(bracket), f"`{bracket}` is opened here")]
        if _ends_a_line(end) and not _divided(tokens, opened):
            fix = Fix(end, "".join(_CLOSING[o.token.type] for o in reversed(opened)))
    elif previous.type == "FOR":
        expected = "expected the name of an index"
    elif previous.type == "DOT":
        expected = "expected a name after `.`"
    else:
        expected = f"expected a value after `{previous}`"
    say("NLC010", "this expression is cut short", end, expected, *related, fix=fix)


def _ends_a_line(at: Span) -> bool:
    """Whether nothing of YAML stands behind a place, which may have cut the text."""
    rest = line_at(at.source.text, at.start)
    return not content(rest)


def _divided(tokens: list[Token], opened: list[_Open]) -> bool:
    """Whether an operator stands in an open bracket, which might be closed before it as well as at the end."""
    if any(o.token.type not in ("LPAR", "LSQB") for o in opened):
        return True
    first = opened[0].token.start_pos
    depth, sides = 0, {"COMMA", "EQUALS", "DOT"}
    for token in reversed(tokens):
        if token.start_pos <= first:
            break
        depth += (token.type in _CLOSES) - (token.type in _CLOSING and depth > 0)
        if depth == 0 and token.type not in _ENDS | set(_CLOSING) | sides:
            return True
    return False


def _wrong_bracket(say: _Sayer, token: Token, inside: _Open | None) -> None:
    if inside is None:
        say("NLC011", f"`{token}` closes nothing", token, "no bracket is open here")
        return
    opener = Label(say.span(inside.token), f"`{inside.token}` is opened here")
    expected = f"expected `{_CLOSING[inside.token.type]}`"
    say("NLC011", f"`{token}` cannot close `{inside.token}`", token, expected, opener)


def _missing_operator(say: _Sayer, tokens: list[Token], at: int, apart: str) -> None:
    """Two values side by side; ``apart`` is what a comma would make of them: arguments, members or nothing."""
    previous, token, after = tokens[at - 1], tokens[at], tokens[at + 1 : at + 2]
    word = next((t for t in (token, previous) if t in _WORDS), None)
    if word == "in":
        say("NLC013", "`in` is not an operator", word, "a sum over a family is `sum(e for i)`")
        return
    if word is not None:
        _condition(say, word)
        return
    if previous.type == token.type == "NUMBER" and token.startswith("."):
        say("NLC011", f"`{previous}{token}` is not a number", token, "a second decimal point")
        return
    if (product := _of_a_transpose(say.scalar.text, tokens, at)) is not None:
        message = f"an operator is missing between `{previous}` and `{token}`"
        say("NLC012", message, token, "there is no implicit product", help=product)
        return
    call = after and after[0].type == "LPAR" and token.type == "NAME"
    shown = f"{token}{'(...)' if call else ''}"
    advice = f"write `{previous} * {shown}`; there is no implicit product"
    if previous.type not in _OPERANDS or token.type not in _OPERANDS | {"BAR", "LANGLE"}:
        advice = "there is no implicit product"
    elif token.type not in _OPERANDS:
        advice = f"write `{previous} * {token}…`; there is no implicit product"
    elif (
        apart == "arguments"
        and previous.type == token.type == "NAME"
        and previous[0].isupper()
        and not call
    ):
        advice = (
            f"write `{previous}({token})` for a call, `{previous}, {token}` for two arguments,"
            f" `{previous} * {token}` for a product"
        )
    elif apart:
        advice = (
            f"write `{previous}, {shown}` for two {apart}, `{previous} * {shown}` for a product"
        )
    elif previous.type == token.type == "NAME" and not call:
        advice = f"write `{previous} * {token}` for a product, `{previous}({token})` for a call"
    comma = " or `,`" if apart else ""
    say(
        "NLC012",
        f"an operator is missing between `{previous}` and `{token}`",
        token,
        f"expected `+`, `-`, `*`, `/`, `@`, `**`{comma} before this"
        if comma
        else "expected `+`, `-`, `*`, `/`, `@` or `**` before this",
        help=advice,
    )


def _of_a_transpose(text: str, tokens: list[Token], at: int) -> str | None:
    """``v key.T`` and ``S.T(key)``: what is written for a product with a transpose."""
    token, behind = tokens[at], tokens[at + 1 :]
    if token.type == "LPAR" and _is_transpose(tokens[:at]):
        matrix, inside = (
            operands.before(text, token.start_pos),
            operands.after(text, token.start_pos),
        )
        vector = operands.bare(inside)
        vector = vector if operands.after(vector, 0) == vector else inside
        return f"write `{matrix} @ {vector}`" if inside else None
    if token.type != "NAME" or not token[0].islower() or token == "g":
        return None  # capitals are matrices, as in papers, and so is the gradient
    ends = next((n for n in (1, 2) if _is_transpose([token, *behind[:n]])), None)
    left = operands.before(text, token.start_pos)
    if ends is None or not left:
        return None
    return operands.outer(text, token.start_pos, behind[ends - 1].end_pos, left, str(token))


def _is_transpose(tokens: list[Token]) -> bool:
    """Whether the last of some tokens are ``.T`` or ``ᵀ``."""
    last = [t.type for t in tokens[-2:]]
    return last[-1:] == ["TRANSPOSE"] or (last == ["DOT", "NAME"] and tokens[-1] == "T")


def _condition(say: _Sayer, word: Token) -> None:
    """``a if c else b`` has a form here; other words of logic have not."""
    text = say.scalar.text
    start, end = operands.around(text, word.start_pos)
    choice = _CHOICE.fullmatch(text, start, end)
    new = "where({c}, {a}, {b})".format(**choice.groupdict()) if choice else ""
    fix = Fix(say.scalar.span_of(choice.start("a"), choice.end("b")), new) if choice else None
    help = f"write `{new}`" if choice and len(new) <= operands.SHOWN else ""
    say("NLC013", f"`{word}` is not an operator", word, LOGIC, help=help, fix=fix)
