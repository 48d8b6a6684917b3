r"""LaTeX -> what is written here, as far as it has a form: ``\frac{1}{2} \|x\|^2`` is ``1 / 2 * sqnorm(x)``."""

from __future__ import annotations

import re

from nlc.base.diagnostics import Fix, Report
from nlc.syntax.operands import SHOWN
from nlc.syntax.symbols import NAMES_OF_LETTERS
from nlc.syntax.yamlnodes import Scalar

ADVICE = "write names (`alpha`) or letters (`α`) instead of LaTeX"
_COMMANDS = {
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
_SQUARED = r"(?P<square>\s*\^\s*(?:2|\{2\}))?"
_SIZES = (  # and faces of letters, which mean nothing
    (re.compile(r"\\(?:left|right|big|Big|,|;|!|quad)(?![A-Za-z])|\$"), r""),
    (re.compile(r"\\(?:mathbf|mathrm|boldsymbol|text|operatorname)\{(\w+)\}"), r"\1"),
)
_FORMS = (
    (re.compile(r"\^\s*(?:\{\s*)?(?:\\top\b|\\intercal\b|T\b|⊤)(?:\s*\})?"), r".T"),
    (re.compile(r"([A-Za-z]\w*)_\{\s*t\s*-\s*1\s*\}"), r"prev(\1)"),
    (re.compile(r"([A-Za-z]\w*)_\{\s*t\s*\}"), r"\1"),
    (re.compile(r"([A-Za-z]\w*)_\{\s*(\w+)\s*\}"), r"\1_\2"),
    (re.compile(r"\\sqrt\{([^{}]*)\}"), r"sqrt(\1)"),
    (re.compile(r"\^\s*\{([^{}]*)\}"), r"**(\1)"),
    (re.compile(r"\^"), r"**"),
    (re.compile(r"(prev\(\w+\)|\b[A-Z]\w*)\s+([a-z]\w*)\b"), r"\1(\2)"),  # a matrix and a vector
)
_NORM = re.compile(
    r"(?:\\\||\\lVert|\\Vert)\s*(?P<inside>.+?)\s*(?:\\\||\\rVert|\\Vert)" + _SQUARED
)
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_COMMAND = re.compile(r"\\([A-Za-z]+)")


def latex(scalar: Scalar, at: int, report: Report) -> None:
    """Reports a backslash: the command behind it, if it has a form here, is certainly meant."""
    command = _COMMAND.match(scalar.text, at)
    meant = _meant(command[1]) if command is not None else None
    span = scalar.span_of(at, command.end() if command else min(at + 2, len(scalar.text)))
    whole = written(scalar.text)
    report.add(
        "NLC013",
        f"`{span.text}` is LaTeX",
        span,
        f"written `{meant}`" if meant else ADVICE,
        helps=[f"write `{whole}`"] if whole and not meant else [],
        fix=Fix(span, meant) if meant else None,
    )


def _meant(command: str) -> str | None:
    letter = command.lower() in NAMES_OF_LETTERS
    if letter:
        return command if command[0].isupper() else command.lower()
    return _COMMANDS.get(command)


def written(text: str) -> str | None:
    """All of a text without LaTeX, if all of it has a form here; side by side stays what it is."""
    for form, ours in _SIZES:
        text = form.sub(ours, text)
    text = _NORM.sub(_norm, text)
    while (fraction := _FRACTION.search(text)) is not None:
        over, under = (
            _operand(part) for part in (fraction[1] or fraction[3], fraction[2] or fraction[4])
        )
        rest = text[fraction.end() :].lstrip()
        product = " * " if re.match(r"[\w(\\]", rest) else " " if rest else ""
        text = f"{text[: fraction.start()]}{over} / {under}{product}{rest}"
    for form, ours in _FORMS:
        text = form.sub(ours, text)
    text = _COMMAND.sub(lambda m: _meant(m[1]) or m[0], text)
    text = " ".join(text.split())
    return None if re.search(r"[\\{}]", text) or len(text) > SHOWN else text


def _norm(match: re.Match[str]) -> str:
    return f"{'sqnorm' if match['square'] else 'norm'}({match['inside']})"


def _operand(text: str) -> str:
    text = text.strip()
    return text if re.fullmatch(r"[\w.\\]+", text) else f"({text})"
