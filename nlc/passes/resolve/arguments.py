"""Arguments of a call to parameters, by position and by name."""

from __future__ import annotations

from collections.abc import Callable

from nlc.base.diagnostics import Fix, Label, Report, certain, nearest
from nlc.base.span import Placed, Span
from nlc.ir.expr import Expr, rewrite
from nlc.ir.show import show
from nlc.lib.functions import REQUIRED, usage
from nlc.syntax.foreign import ARGUMENTS, LIKE, NOTHING, parts
from nlc.syntax.math import parse_text

Bound = dict[str, Expr | None]


def bind(
    report: Report,
    params: dict[str, object],
    e: Expr,
    name: str,
    what: str = "",
    shown: dict[str, object] | None = None,
    elsewhere: Callable[[str], str] = lambda key: "",
) -> Bound | None:
    """Arguments of the call ``e`` by parameter, defaults parsed; None after a mistake.

    A parameter that is not given and has no default is None; ``none`` stands for it in the text. ``shown`` are the
    defaults that messages print, where those of ``params`` say nothing; ``elsewhere`` says what a name that is like no
    parameter is otherwise, or "".
    """
    given, keywords = (e.args[1:], e.attr or ()) if e.op == "call" else ((), ())
    positional = given[: len(given) - len(keywords)]
    named = dict(zip(keywords, given[len(positional) :]))
    called, notes = f"{what} `{name}`".strip(), [usage(name, shown or params)]
    sound = True
    if len(positional) > len(params):
        sound = False
        count = f"{len(params) or 'no'} argument{'s' * (len(params) != 1)}"
        extra = positional[len(params)]
        report.add(
            "NLC204", f"{called} takes {count}", extra.span or e.span, "one too many", notes=notes
        )
    out: Bound = dict(zip(params, positional))
    missing = [k for k, d in params.items() if d is REQUIRED and k not in out and k not in named]
    for key, value in named.items():
        span = key.span if isinstance(key, Placed) else value.span or e.span
        if key in out:
            sound = False
            first = out[key].span
            report.add(
                "NLC204",
                f"{called} gets `{key}` twice",
                span,
                "given by position too",
                related=[Label(first, f"this is `{key}`")] if first else [],
                notes=notes,
            )
        elif key in params:
            out[key] = value
        else:
            sound = False
            if not _several(report, key, value, span, called, params, notes):
                _unknown(report, key, span, called, params, missing, notes, elsewhere)
    for key in missing if sound else ():
        report.add(
            "NLC204",
            f"{called} needs `{key}`",
            e.span,
            "an argument is missing",
            notes=notes,
        )
    if not sound or missing or report.full:
        return None
    for key, default in params.items():
        if key not in out:
            out[key] = None if default is None else _default(str(default), e.span, out)
        elif default is None and out[key].op == "name" and out[key].attr in NOTHING:
            _none(report, out[key])
            out[key] = None
    return {key: out[key] for key in params}


def _none(report: Report, value: Expr) -> None:
    """``None`` for ``none``, which says that a parameter is left out."""
    if value.attr != "none" and value.span is not None:
        label, fix = "did you mean `none`?", Fix(value.span, "none")
        report.add("NLC201", f"`{value.attr}` is not defined", value.span, label, fix=fix)


def _several(
    report: Report,
    key: str,
    value: Expr,
    span: Span | None,
    called: str,
    params: dict[str, object],
    notes: list[str],
) -> bool:
    """``betas=[0.9, 0.95]``: one argument for several of ours; whether it is that."""
    values = [show(v) for v in value.args] if value.op == "list" else []
    new = parts(key, values)
    if new is None or not {n.partition("=")[0] for n in new.split(", ")} <= params.keys():
        return False
    message, whole = f"{called} has no argument `{key}`", None
    if span is not None and value.span is not None:
        whole = span.to(value.span)
    fix = Fix(whole, new) if whole else None
    report.add("NLC204", message, span, f"written `{new}`", notes=notes, fix=fix)
    return True


def _unknown(
    report: Report,
    key: str,
    span: Span | None,
    called: str,
    params: dict[str, object],
    missing: list[str],
    notes: list[str],
    elsewhere: Callable[[str], str],
) -> None:
    alien = next((k for k in ARGUMENTS.get(key, ()) if k in params), None)
    like, meaning = LIKE.get(key, ("", ""))
    close = alien or (like if like in params else nearest(key, params))
    if close in missing:
        missing.remove(close)  # it was meant, so it is not missing as well
    help = meaning if close and close == like else "" if close else elsewhere(key)
    report.add(
        "NLC204",
        f"{called} has no argument `{key}`",
        span,
        f"did you mean `{close}`?" if close else "not one of its arguments",
        notes=notes,
        helps=[help] if help else [],
        fix=Fix(span, alien) if alien and span else certain(span, key, params),
    )


def _default(text: str, span: Span | None, given: Bound) -> Expr:
    """A default's text, in which the parameters before it stand for their arguments."""

    def rule(n: Expr) -> Expr | None:
        argument = given.get(n.attr) if n.op == "name" else None
        return argument if argument is not None else n.at(span)

    return rewrite(parse_text(text), rule)
