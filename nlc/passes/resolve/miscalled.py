"""What to say of a call that calls nothing of ours: a misspelt function, a method, a module of Python."""

from __future__ import annotations

from nlc.base.diagnostics import Fix, certain, nearest
from nlc.ir.expr import Expr, walk
from nlc.lib.functions import FUNCTIONS, REQUIRED, Function
from nlc.passes.resolve import names
from nlc.passes.resolve.scope import error
from nlc.passes.resolve.terms import Place, Terms, quoted
from nlc.syntax.foreign import AXES, MODULES, READS, WRITTEN, function, plain


def unknown_function(terms: Terms, target: Expr) -> Expr:
    """``l2nrm(x)``, ``norm2(x)``, ``matmul(a, b)``."""
    scope, name = terms.scope, str(target.attr)
    if scope.members(name):
        scope.not_defined(name, target.span, [])
        return error(target.span)
    unknown = ("unknown", name)
    if scope.report.again(target.span, unknown):
        return error(target.span)
    ours = function(name)
    callable = [*FUNCTIONS, *scope.levels, *scope.uses, *names.PAST, "grad"]
    written = WRITTEN.get(plain(name))
    close = ours or (None if written else nearest(name, callable))
    fix = certain(target.span, name, callable)
    if ours and target.span:
        fix = Fix(target.span, ours)
    helps = [written] if written else [] if close else ["`nlc list functions` shows all of them"]
    return terms.say(
        "NLC202",
        f"there is no function or level `{name}`",
        target,
        f"did you mean `{close}`?" if close else "not a function of the language",
        notes=[] if close or written or not scope.levels else [_levels(terms)],
        helps=helps,
        fix=fix,
        causes=[unknown],
    )


def _levels(terms: Terms) -> str:
    return f"levels: {', '.join(list(terms.scope.levels)[:8])}"


def not_called(terms: Terms, e: Expr, at: Place) -> Expr:
    """A call of something that is no name: ``torch.exp(x)``, ``x.sum()``, ``S.forward(q)``, ``linear(n)(x)``."""
    fn = e.args[0]
    if any(n.op == "error" for n in walk(fn)):
        return error(e.span)  # reported there
    past = fn.op == "call" and len(fn.args) == 2 and fn.args[0].attr in names.PAST
    member = fn.args[1] if past else fn
    if member.op == "index" and member.args[0].op == "name":
        name, fn = str(member.args[0].attr), member
        if terms.scope.is_lost(name):
            return error(e.span)
        if (meant := names.of_time(terms, member, at)) is not None:
            return meant
        close = nearest(name, {n.rpartition("_")[0] for n in terms.scope.levels} - {""})
        label = f"did you mean `{close}`?" if close else "no levels of this name"
        message = f"there is no family `{name}`"
        return terms.say("NLC205", message, fn, label, causes=[("unknown", name)])
    if fn.op == "attr":
        return _module(terms, fn) or _method(terms, e, fn)
    label, helps = "only functions and memories take arguments", []
    if fn.op == "call" and fn.args[0].op == "name" and not _known(terms, str(fn.args[0].attr)):
        return unknown_function(terms, fn.args[0])
    if fn.op == "call" and fn.args[0].op in ("name", "attr"):
        called = str(fn.args[0].attr)
        ours = _ours(called)
        if ours is not None:
            label = "a function takes what it is applied to first"
            inside = quoted(e.args[1]) if len(e.args) > 1 else "x"
            width = quoted(fn.args[-1]) if len(fn.args) > 1 else ""
            helps = [f"write `{ours}({inside}{', ' if width else ''}{width})`"]
    return terms.say("NLC202", f"`{quoted(fn)}` cannot be called", fn, label, helps=helps)


def axis(f: Function, e: Expr, key: str) -> str:
    """What to say of ``dim=-1``: functions have no axes, and sums over one are gradients."""
    if key not in AXES:
        return ""
    said = f"`{f.name}` is the {f.doc.partition(';')[0]}"
    if "all elements" not in f.doc or key.startswith("keep"):
        return said
    at = dict(zip(e.attr or (), e.args[len(e.args) - len(e.attr or ()) :])).get(key)
    rows = at is None or quoted(at).strip() in ("-1", "1")
    side, factor = ("row", "per_value") if rows else ("column", "per_key")
    return (
        f"{said}; of each {side}: the gradient of `sum({factor}(v) * x)` by `v`, in an `objective`"
    )


def _ours(name: str) -> str | None:
    """Our function of another language's name or class, ``LayerNorm`` and ``Linear``."""
    return function(name) or (name.lower() if name.lower() in FUNCTIONS else None)


def _known(terms: Terms, name: str) -> bool:
    return bool(_ours(name)) or name in terms.scope.spans or name in (*names.PAST, "grad")


def _module(terms: Terms, fn: Expr) -> Expr | None:
    """``np.exp``, ``torch.nn.functional.silu``: there are no modules, all functions are here."""
    root = fn
    while root.op == "attr":
        root = root.args[0]
    scope, name = terms.scope, str(fn.attr)
    if root.op != "name" or root.attr not in MODULES or root.attr in scope.spans:
        return None
    known = [*FUNCTIONS, *scope.levels]
    ours = name if name in known else _ours(name)
    written = WRITTEN.get(plain(name))
    return terms.say(
        "NLC202",
        f"there is no `{quoted(fn)}`",
        fn,
        f"did you mean `{ours}`?" if ours else "there are no modules, only functions",
        helps=[written] if written and not ours else [],
        fix=Fix(fn.span, ours) if ours and fn.span else None,
    )


def _method(terms: Terms, e: Expr, fn: Expr) -> Expr:
    """``x.sum()``: functions stand before what they take."""
    base, name = fn.args[0], str(fn.attr)
    ours = name if name in FUNCTIONS else function(name)
    label, helps, fix = "only functions and memories take arguments", [], None
    level = str(base.attr) if base.op == "name" and base.attr in terms.scope.levels else None
    if level and name in names.PAST:
        earlier = f"{name}({level})"
        label, fix = f"did you mean `{earlier}`?", Fix(fn.span, earlier) if fn.span else None
    elif level and name in READS:
        label, fix = f"did you mean `{level}`?", Fix(fn.span, level) if fn.span else None
    elif ours is not None:
        label = "a function stands before what it takes"
        new = _unchained(e)
        if new is not None and e.span is not None:
            needed = [k for k, default in FUNCTIONS[ours].params.items() if default is REQUIRED]
            helps = [f"write `{new}`"]
            fix = Fix(e.span, new) if len(e.args) == 1 == len(needed) else None
    elif (new := _unchained(e)) is not None:
        label, helps = "a power is written behind what it is of", [f"write `{new}`"]
    elif plain(name) in WRITTEN:
        helps = [WRITTEN[plain(name)]]
    return terms.say("NLC202", f"`{quoted(fn)}` cannot be called", fn, label, helps=helps, fix=fix)


def _unchained(e: Expr) -> str | None:
    """``(S(k) - v).square().sum()`` as ``sqnorm(S(k) - v)``: each method as a function, the innermost first."""
    methods, given = [], e
    while given.op == "call" and given.args[0].op == "attr":
        methods.append((str(given.args[0].attr), given.args[1:]))
        given = given.args[0].args[0]
    if given.span is None or "\n" in given.span.text:
        return None
    text, base = given.span.quote(), None  # what is squared, where that was the last
    loose = given.op not in ("name", "call", "index", "attr", "num")
    for name, args in reversed(methods):
        power = _power(name, args)
        if power is not None:
            base = text if power == "2" else None
            text, loose = f"{f'({text})' if loose else text}**{power}", True
            continue
        ours = name if name in FUNCTIONS else function(name)
        if ours is None:
            return None
        text = f"sqnorm({base})" if ours == "sum" and base is not None else f"{ours}({text})"
        base, loose = None, False
    return text


def _power(name: str, args: tuple[Expr, ...]) -> str | None:
    """The exponent of ``x.square()`` and ``x.pow(3)``."""
    if name == "square" and not args:
        return "2"
    return quoted(args[0]) if name in ("pow", "power") and len(args) == 1 else None
