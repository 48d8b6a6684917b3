"""What stands in the way of reading an expression -> a message that quotes it, says what to write.

``foreign`` looks for the symbols of other languages before the grammar is tried; ``unexpected``
explains where the grammar stopped, from the two tokens around that place and the open brackets.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from lark import Token

from nlc.base.diagnostics import Fix, Label, Report
from nlc.base.span import Span
from nlc.syntax.foreign import parts
from nlc.syntax.symbols import NAMES_OF_LETTERS
from nlc.syntax.yamlnodes import Scalar

_LOGIC = "conditions are written `where(condition, a, b)`"
_PRODUCT = "products are `a * b`, `A @ B` and `dot(a, b)`"
_ASSIGN = "an expression is only the right-hand side; what it defines is the key"

_LATEX = "write names (`alpha`) or letters (`α`) instead of LaTeX"
_COMMANDS = {  # of LaTeX
    **dict.fromkeys(("cdot", "times", "ast"), "*"),
    **dict.fromkeys(("top", "intercal"), ".T"),
    "le": "<=",
    "leq": "<=",
    "ge": ">=",
    "geq": ">=",
    "ne": "!=",
    "neq": "!=",
    "infty": "inf",
}

_SLICE = "part of a vector is `slice(x, a, b)`"

# symbol -> (what to know, what was certainly meant)
_FOREIGN: dict[str, tuple[str, str | None]] = {
    "^T": ("the transpose is written `.T`", ".T"),
    "^⊤": ("the transpose is written `.T`", ".T"),
    "^": ("power is written `**`", "**"),
    **dict.fromkeys("·⋅∙×•∘", (_PRODUCT, None)),
    "∗": ("the product is written `*`", "*"),
    "⊗": ("the outer product is `outer(a, b)`", None),
    **dict.fromkeys(("÷", "∕", "⁄", "//"), ("division is written `/`", "/")),
    **dict.fromkeys("–—‐‑", ("minus is written `-`", "-")),
    "<>": ("inequality is written `!=`", "!="),
    "=<": ("at most is written `<=`", "<="),
    "=>": ("at least is written `>=`", ">="),
    "===": ("equality is written `==`", "=="),
    **dict.fromkeys(("&&", "&", "∧", "∨", "!", "~", "¬", "?"), (_LOGIC, None)),
    "||": ("the norm is `norm(x)` or `‖x‖`; " + _LOGIC, None),
    "|": ("the absolute value is `abs(x)`, the norm `norm(x)`", None),
    "%": ("there is no remainder and no per cent", None),
    **dict.fromkeys((":=", "+=", "-=", "*=", "/=", "←", "≔"), (_ASSIGN, None)),
    ":": (_ASSIGN, None),
    ";": ("a field holds one expression; name others with `let`", None),
    **dict.fromkeys("'’′", ("the transpose is `.T`; the state before is `prev(M)`", None)),
    **dict.fromkeys('"“”', ("expressions hold no text, only names and numbers", None)),
    **dict.fromkeys("{}", ("brackets are `( )`, lists are `[ ]`", None)),
    **dict.fromkeys(("$", "\\"), (_LATEX, None)),
    "√": ("the square root is `sqrt(x)`", None),
    "∑": ("a sum is `sum(e)` or, over a family, `sum(e for i)`", None),
    "∇": ("a gradient is `grad(e, P)`", None),
    "∂": ("a gradient is `grad(e, P)`", None),
    "…": ("write the terms out", None),
    "#": ("comments belong to YAML, outside the quotes", None),
    "_": ("a name starts with a letter", None),
}
_KNOWN = (
    r"A-Za-z0-9_ \t\r\n\u00a0\u2009\u202f+\-*/@()\[\],.=<>≠≤≥−⊙‖⟨⟩ᵀ⊤½¼¾⅐-⅞∞⁻⁰¹²³⁴-⁹₀-₉"
    r"ΓΔΘΛΞΠΣΦΨΩα-ωϑϕϱϵµ"
)
_SYMBOLS = sorted(set(_FOREIGN) - {"!", "_"}, key=len, reverse=True)
_LOOK = re.compile(
    "|".join([*map(re.escape, _SYMBOLS), "!(?!=)", r"(?<!\w)_", f"(?P<other>[^{_KNOWN}!])"])
)
_SUM_OF_SQUARES = re.compile(r"sum\(\((.*)\)\s*\^\s*2\)$", re.DOTALL)
_KINDS = {"}": "{", "$": "\\", "”": '"', "“": '"'}  # symbols of one mistake
_IN_LATEX = {"{", "}", "^", "^T", "_", "$"}
_BARS = re.compile(
    r"(?P<bar>\|{1,2})(?P<inside>[^|]+)(?P=bar)(?P<square>\s*(?:\^|\*\*)\s*2|²)?(?!\w)"
)
_KEY = re.compile(r"\s*[A-Za-z_]\w*:(?=\S)")
_SHOWN = 72  # characters of a rewritten expression in a help


def foreign(scalar: Scalar, report: Report) -> bool:
    """Reports the symbols that are no part of the language; says whether there are any."""
    text = scalar.text
    seen: set[str] = set()
    past = _bars(scalar, report) or _key(scalar, report)
    if past:
        seen.add("|")
    for match in _LOOK.finditer(text, past):
        symbol, span = match.group(), scalar.span_of(match.start(), match.end())
        know, meant = _FOREIGN.get(symbol, ("", None))
        kind = _KINDS.get(symbol, symbol)
        if (kind in seen and meant is None) or (_KINDS["$"] in seen and symbol in _IN_LATEX):
            continue
        seen.add(kind)
        if symbol == "\\":
            _latex(scalar, match.start(), report)
            continue
        if symbol in "·⋅∙×•∘" and _scales(text, match):
            meant = "*"
        elif symbol in "'’′" and text.count(symbol) > 1:
            know = _FOREIGN['"'][0]
        elif symbol == ":":
            know = _SLICE if text.rfind("[", 0, match.start()) >= 0 else _ASSIGN
        if symbol == "_":
            report.add("NLC011", "a name cannot start with `_`", span, know)
        elif symbol not in _FOREIGN:
            stray(scalar, match.start(), report)
        else:
            report.add(
                "NLC013",
                f"`{symbol}` is not an operator",
                span,
                know,
                helps=_rewritten(text, symbol, meant),
                fix=None if meant is None else Fix(span, meant),
            )
    return bool(seen)


def _bars(scalar: Scalar, report: Report) -> int:
    """``||x||^2`` and ``|x|`` are one mistake, whatever stands behind; gives where to look on."""
    match = _BARS.search(scalar.text)
    if match is None or not _balanced(match["inside"]):
        return 0
    bar, inside = match["bar"], match["inside"].strip()
    function = "abs" if bar == "|" else "sqnorm" if match["square"] else "norm"
    advice = f"write `{function}({inside})`"
    if bar == "|":
        square = f"sqnorm({inside})" if match["square"] else f"norm({inside})"
        advice = f"write `{square}` for a vector, `abs({inside}){_square(match)}` for a number"
    span = scalar.span_of(*match.span())
    report.add(
        "NLC013",
        f"`{bar}` is not an operator",
        scalar.span_of(*match.span("bar")),
        "the norm is `norm(x)` or `‖x‖`"
        if bar == "||"
        else "the absolute value is `abs(x)`, the norm `norm(x)`",
        helps=[advice] if len(inside) <= _SHOWN else [],
        fix=Fix(span, f"{function}({inside})") if bar == "||" else None,
    )
    return match.end()


def _square(match: re.Match[str]) -> str:
    return "**2" if match["square"] else ""


def _balanced(text: str) -> bool:
    return text.count("(") == text.count(")") and text.count("[") == text.count("]")


def _key(scalar: Scalar, report: Report) -> int:
    """``y:S(q)`` on a line of its own is a key without the space that YAML wants."""
    match, span = _KEY.match(scalar.text), scalar.span
    line = span.source.line(span.line)
    if match is None or scalar.style or line[: span.column - 1].strip():
        return 0
    report.add(
        "NLC003",
        "this line is no `key: value`",
        span,
        "a space is missing behind the `:`",
        helps=[f"write `{match[0].strip()} {scalar.text[match.end() :]}`"],
        fix=Fix(scalar.span_of(match.start(), match.end()), match[0] + " "),
    )
    return len(scalar.text)


def _scales(text: str, match: re.Match[str]) -> bool:
    """Whether a product sign has a number at one side, so that only ``*`` can be meant."""
    before, after = text[: match.start()].rstrip(), text[match.end() :].lstrip()
    return bool(re.search(r"(?<![\w.])[\d.½¼]+$", before) or re.match(r"[\d.]+(?![\w.])", after))


def _latex(scalar: Scalar, at: int, report: Report) -> None:
    """A backslash: the command behind it, if it has a form here, is certainly meant."""
    command = re.match(r"\\([A-Za-z]+)", scalar.text[at:])
    meant = None
    if command is not None:
        word = command[1]
        meant = word.lower() if word.lower() in NAMES_OF_LETTERS else None
        meant = word if meant and word[0].isupper() else meant or _COMMANDS.get(word)
    span = scalar.span_of(at, at + (len(command[0]) if command else 1))
    report.add(
        "NLC013",
        f"`{command[0] if command else chr(92)}` is LaTeX",
        span,
        f"written `{meant}`" if meant else _LATEX,
        fix=Fix(span, meant) if meant else None,
    )


def stray(scalar: Scalar, at: int, report: Report) -> None:
    """Reports a character that belongs to no symbol."""
    ch, span = scalar.text[at], scalar.span_of(at, at + 1)
    if unicodedata.combining(ch):
        message, label = f"the mark U+{ord(ch):04X} has no meaning in a name", "write `x_hat`"
    else:
        message, label = f"`{ch}` has no meaning here", "remove this"
    report.add("NLC011", message, span, label)


def _rewritten(text: str, symbol: str, meant: str | None) -> list[str]:
    new = " ".join(text.replace(symbol, meant or "").split())
    if meant is None or len(new) > _SHOWN:
        return []
    squares = _SUM_OF_SQUARES.search(text.strip())
    if squares and symbol == "^":
        return [f"write `{new}`, or `sqnorm({squares[1]})`"]
    return [f"write `{new}`"]


# ------------------------------------------------------------------------------------------ grammar

_OPERANDS = {"NAME", "NUMBER", "FRACTION", "INF", "INFINITY", "TRUE", "FALSE"}
_ENDS = _OPERANDS | {"RPAR", "RSQB", "RANGLE", "TRANSPOSE", "SUPERSCRIPT", "BAR_SQUARED"}
_STARTS = _OPERANDS | {"LPAR", "LSQB", "LANGLE", "BAR"}
_COMPARISONS = {"EQ", "NE", "LT", "LE", "GT", "GE"}
_CLOSES = {"RPAR": "LPAR", "RSQB": "LSQB", "RANGLE": "LANGLE", "BAR_SQUARED": "BAR"}
_CLOSING = {"LPAR": ")", "LSQB": "]", "LANGLE": "⟩", "BAR": "‖"}
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
        _cut_short(say, previous, opened, ends)
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
        _missing_operator(say, previous, token, tokens[at + 1 : at + 2], apart)
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


def _cut_short(say: _Sayer, previous: Token | None, opened: list[_Open], ends: bool) -> None:
    assert previous is not None  # a blank text is refused before
    end = say.scalar.span_of(previous.end_pos, previous.end_pos)
    related = []
    if ends and opened:
        bracket = opened[-1].token
        expected = f"expected `{_CLOSING[bracket.type]}`"
        related = [Label(say.span(bracket), f"`{bracket}` is opened here")]
    elif previous.type == "FOR":
        expected = "expected the name of an index"
    elif previous.type == "DOT":
        expected = "expected a name after `.`"
    else:
        expected = f"expected a value after `{previous}`"
    say("NLC010", "this expression is cut short", end, expected, *related)


def _wrong_bracket(say: _Sayer, token: Token, inside: _Open | None) -> None:
    if inside is None:
        say("NLC011", f"`{token}` closes nothing", token, "no bracket is open here")
        return
    opener = Label(say.span(inside.token), f"`{inside.token}` is opened here")
    expected = f"expected `{_CLOSING[inside.token.type]}`"
    say("NLC011", f"`{token}` cannot close `{inside.token}`", token, expected, opener)


def _missing_operator(
    say: _Sayer, previous: Token, token: Token, after: list[Token], apart: str
) -> None:
    """Two values side by side; ``apart`` is what a comma would make of them: arguments, members or nothing."""
    word = next((t for t in (token, previous) if t in _WORDS), None)
    if word == "in":
        say("NLC013", "`in` is not an operator", word, "a sum over a family is `sum(e for i)`")
        return
    if word is not None:
        say("NLC013", f"`{word}` is not an operator", word, _LOGIC)
        return
    if previous.type == token.type == "NUMBER" and token.startswith("."):
        say("NLC011", f"`{previous}{token}` is not a number", token, "a second decimal point")
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
