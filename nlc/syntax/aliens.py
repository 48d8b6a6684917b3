"""The symbols of other languages, looked for before the grammar is tried -> a message that says what to write."""

from __future__ import annotations

import re
import unicodedata

from nlc.base.diagnostics import Fix, Report
from nlc.syntax import operands
from nlc.syntax.foreign import LAMBDA, no_lambda
from nlc.syntax.latex import ADVICE, latex
from nlc.syntax.letters import strange, word_at
from nlc.syntax.yamlnodes import Scalar

LOGIC = "conditions are written `where(condition, a, b)`"
_PRODUCT = "products are `a * b`, `A @ B` and `dot(a, b)`"
_ASSIGN = "an expression is only the right-hand side; what it defines is the key"

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
    **dict.fromkeys(("&&", "&", "∧", "∨", "!", "~", "¬", "?"), (LOGIC, None)),
    "||": ("the norm is `norm(x)` or `‖x‖`; " + LOGIC, None),
    "|": ("the absolute value is `abs(x)`, the norm `norm(x)`", None),
    "%": ("there is no remainder and no per cent", None),
    **dict.fromkeys((":=", "+=", "-=", "*=", "/=", "←", "≔"), (_ASSIGN, None)),
    ":": (_ASSIGN, None),
    ";": ("a field holds one expression; name others with `let`", None),
    **dict.fromkeys("'’′", ("the transpose is `.T`; the state before is `prev(M)`", None)),
    **dict.fromkeys('"“”', ("expressions hold no text, only names and numbers", None)),
    **dict.fromkeys("{}", ("brackets are `( )`, lists are `[ ]`", None)),
    **dict.fromkeys(("$", "\\"), (ADVICE, None)),
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
_SUBSCRIPT = re.compile(r"(?P<name>[^\W\d]\w*?)_(?P<brace>\{)\s*t\s*[-−]\s*1\s*\}")
_TICKS = re.compile(r"(?<!\w)t\s*%\s*(?P<n>\w+)")
_NEW_AXIS = re.compile(r"\[\s*(?:(?P<rows>:\s*,\s*None)|None\s*,\s*:)\s*\]")
_KINDS = {"}": "{", "$": "\\", "”": '"', "“": '"'}  # symbols of one mistake
_IN_LATEX = {"{", "}", "^", "^T", "_", "$", "|", "||"}
_BARS = re.compile(
    r"(?P<bar>\|{1,2})(?P<inside>[^|]+)(?P=bar)(?P<square>\s*(?:\^|\*\*)\s*2|²)?(?!\w)"
)
_KEY = re.compile(r"\s*[A-Za-z_]\w*:(?=\S)")


def foreign(scalar: Scalar, report: Report) -> bool:
    """Reports the symbols that are no part of the language; says whether there are any."""
    text = scalar.text
    seen: set[str] = set()
    past = _bars(scalar, report) or _key(scalar, report)
    if past:
        seen.add("|")
    if (found := LAMBDA.search(text)) is not None:
        no_lambda(scalar.span_of(found.start(), found.start() + len("lambda")), report)
        return True
    for match in _LOOK.finditer(text, past):
        if match.start() < past:
            continue  # in a word that has a message
        symbol, span = match.group(), scalar.span_of(match.start(), match.end())
        know, meant = _FOREIGN.get(symbol, ("", None))
        kind = _KINDS.get(symbol, symbol)
        if (kind in seen and meant is None) or (_KINDS["$"] in seen and symbol in _IN_LATEX):
            continue
        seen.add(kind)
        if symbol == "\\":
            latex(scalar, match.start(), report)
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
            past = word_at(text, match.start())[1]
        else:
            product = _product(text, match) or _past(text, match)
            helps = [product[0]] if product and product[0] else _rewritten(text, symbol, meant)
            certain = meant is not None and (product is None or product[1])
            report.add(
                "NLC013",
                f"`{symbol}` is not an operator",
                span,
                know,
                helps=helps or _instead(text, match),
                fix=Fix(span, meant) if certain else None,
            )
    return bool(seen)


def _product(text: str, match: re.Match[str]) -> tuple[str, bool] | None:
    """What is written for a product of vectors or matrices, and whether the symbol alone may be replaced."""
    symbol, at, end = match.group(), match.start(), match.end()
    if symbol == "⊗":
        left, right = operands.before(text, at), operands.after(text, end)
        end = text.find(right, end) + len(right)
        return (operands.outer(text, at, end, left, right), False) if left and right else None
    if symbol not in ("^T", "^⊤"):
        return None
    return _transposed(text, at, end)


def _transposed(text: str, at: int, end: int) -> tuple[str, bool] | None:
    """``v k^T``, ``k^T v`` and ``S^T q``: small letters are vectors, as in papers, but for the gradient."""
    operand = operands.before(text, at)
    start = len(text[:at].rstrip()) - len(operand)
    left, right = (
        operands.before(text, _unsigned(text[:start])),
        operands.after(text, _signed(text, end)),
    )
    side_by_side = _signed(text, end) == end
    if not re.fullmatch(r"[^\W\d]\w*", operand):
        return None
    if not operand[0].islower() or operand == "g":
        new = f"{text[:at]}.T @ {text[end:].lstrip()}"
        return (_write(new), False) if right and side_by_side else None
    if left:
        new = operands.outer(text, start, end, left, operand)
        matrix = (
            f", or `{operand}.T` for a matrix"
            if _unsigned(text[:start]) < len(text[:start].rstrip())
            else ""
        )
        return f"{new}{matrix}", False
    if right:
        behind = text.index(right, end) + len(right)
        return _write(f"{text[:start]}dot({operand}, {operands.bare(right)}){text[behind:]}"), False
    return None


def _unsigned(text: str) -> int:
    """Where a text ends without the sign of a product."""
    text = text.rstrip()
    return len(text.removesuffix("@").removesuffix("*").rstrip() if text[-2:] != "**" else text)


def _signed(text: str, at: int) -> int:
    """Where what follows starts, behind the sign of a product."""
    rest = text[at:].lstrip()
    return len(text) - len(rest) + 1 if rest[:1] in ("@", "*") and rest[:2] != "**" else at


def _past(text: str, match: re.Match[str]) -> tuple[str, bool] | None:
    """``S_{t-1}(key)`` is the state before the tick."""
    found = (
        _SUBSCRIPT.search(text, 0, match.end() + operands.SHOWN) if match.group() == "{" else None
    )
    if found is None or found.start("brace") != match.start():
        return None
    return _write(_SUBSCRIPT.sub(r"prev(\g<name>)", text)), False


def _instead(text: str, match: re.Match[str]) -> list[str]:
    """What others do with a symbol is done here by something else than a symbol."""
    if match.group() == "%" and (every := _TICKS.search(text)) is not None:
        n = every["n"]
        return [
            f"what happens each {n} ticks is a level: `frequency: every {n} steps`, or `tokens`"
        ]
    if match.group() == ":" and (beside := _NEW_AXIS.search(text)) is not None:
        vector = operands.before(text, beside.start())
        factor = "per_value" if beside["rows"] else "per_key"
        side = "rows" if beside["rows"] else "columns"
        return [
            f"a vector that scales the {side} of a matrix is `{factor}({operands.bare(vector)})`"
        ]
    return []


def _write(text: str) -> str:
    new = " ".join(text.split())
    return f"write `{new}`" if len(new) <= operands.SHOWN else ""


def _bars(scalar: Scalar, report: Report) -> int:
    """``||x||^2`` and ``|x|`` are one mistake, whatever stands behind; gives where to look on."""
    match = _BARS.search(scalar.text)
    if match is None or not _balanced(match["inside"]) or "\\" in scalar.text[: match.end()]:
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
        helps=[advice] if len(inside) <= operands.SHOWN else [],
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


def stray(scalar: Scalar, at: int, report: Report) -> None:
    """Reports a character that belongs to no symbol."""
    ch, span = scalar.text[at], scalar.span_of(at, at + 1)
    word = word_at(scalar.text, at)
    if (said := strange(scalar.text[slice(*word)])) is not None:
        message, meant, sure = said
        fix = Fix(scalar.span_of(*word), meant) if sure else None
        report.add("NLC011", message, span, f"write `{meant}`", fix=fix)
        return
    message, label = f"`{ch}` has no meaning here", "remove this"
    if unicodedata.combining(ch):
        message = f"the mark U+{ord(ch):04X} has no meaning in a name"
    elif ch.isalpha():
        label = "names have Latin and Greek letters"
    report.add("NLC011", message, span, label)


def _rewritten(text: str, symbol: str, meant: str | None) -> list[str]:
    new = " ".join(text.replace(symbol, meant or "").split())
    if meant is None or len(new) > operands.SHOWN:
        return []
    squares = _SUM_OF_SQUARES.search(text.strip())
    if squares and symbol == "^":
        return [f"write `{new}`, or `sqnorm({squares[1]})`"]
    return [f"write `{new}`"]
