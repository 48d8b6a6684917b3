"""``applies_to``: which rule trains which tensors, and as what it sees them."""

from __future__ import annotations

from nlc.base.diagnostics import Label, certain, nearest
from nlc.ir.expr import Expr
from nlc.ir.routes import Route, View
from nlc.ir.types import Dim
from nlc.lib.rules import KINDS, LAYERS, OF_MATRICES, SIZES, shapes_of
from nlc.passes.resolve.rule import rule_of
from nlc.passes.resolve.scope import TRAINED
from nlc.passes.resolve.sizes import size
from nlc.passes.resolve.terms import Place, Terms, quoted
from nlc.syntax.tree import RouteTree, ViewTree, Word

_COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
_NUMBERS = ("add", "sub", "mul", "div", "neg", "pow")
_MATRICES = shapes_of(["matrices"])


def resolve_routes(terms: Terms) -> tuple[Route, ...]:
    """The routes in their order; NLC215 for one that no tensor can reach.

    Kinds alone may be written in any order: the special ones come before those that contain them.
    """
    found = [_route(item, terms) for item in terms.scope.tree.applies_to]
    routes = [route for route in found if route is not None]
    alone = [i for i, r in enumerate(routes) if r.plain and r.kinds == (r.name,)]
    special = sorted((routes[i] for i in alone), key=lambda r: [*KINDS].index(r.name))
    for i, route in zip(alone, special, strict=True):
        routes[i] = route
    taken: dict[int, Route] = {}  # by shape: the route that takes all tensors of it
    for route in routes:
        shapes = shapes_of(route.kinds)
        if shapes <= taken.keys():
            first = next(iter({taken[x].name: taken[x] for x in shapes}.values()))
            terms.scope.report.add(
                "NLC215",
                f"route `{route.name}` takes nothing",
                route.span,
                f"`{first.name}` takes all that it asks for",
                related=[Label(first.span, "the first route that takes a tensor trains it")],
                helps=[f"write `{route.name}` before `{first.name}`"],
            )
        if route.plain:
            taken = {**dict.fromkeys(shapes, route), **taken}
    return tuple(routes)


def _route(item: RouteTree, terms: Terms) -> Route | None:
    asked, here = item.keys.keys() - {"rule", "view"}, _kinds(terms)
    if item.name not in here and not asked:
        _no_kind(Word(item.name, item.span), terms, alone=True)
        return None
    known = [word for word in item.kinds if word.text in here or _no_kind(word, terms)]
    kinds = ([item.name] if item.name in here else []) + [word.text for word in known]
    where = tuple(_condition(x, shapes_of(kinds), terms) for x in item.where)
    view = View() if item.view is None else _view(item.view, terms)
    is_self, rule = _rule(item, terms)
    if (rule is None and not is_self) or any(not getattr(item, key) for key in asked):
        return None  # a mistake is reported
    if rule is None and terms.scope.layers and len(known) == len(item.kinds):
        _samples(item, kinds, terms)
    if item.view is not None and is_self and terms.scope.tree.eval_at is not None:
        terms.scope.report.add(
            "NLC404",
            "what is evaluated takes the place of whole tensors",
            item.view.span,
            "a view shows parts of one",
            helps=["remove `view`, or train these tensors by a rule without `eval_at`"],
        )
    names, modules = (tuple(w.text for w in x) for x in (item.names, item.modules))
    return Route(item.name, item.span, rule, tuple(kinds), names, modules, where, view)


def _kinds(terms: Terms) -> list[str]:
    """The kinds of tensors that there are in the system's context."""
    return [n for n, kind in KINDS.items() if kind.context in ("", terms.scope.tree.context.text)]


def _samples(item: RouteTree, kinds: list[str], terms: Terms) -> None:
    """NLC404 where a layer system would train what has no samples, or parts of what has some."""
    if set(kinds) != {LAYERS}:
        alone = kinds == [item.name]
        way = f"`{LAYERS}: self`, and a rule for the others, such as `rest: gd(lr=1e-2)`"
        terms.say(
            "NLC404",
            f"a layer system does not train {item.name if alone else 'what is no layer'}",
            item.rule,
            f"only {LAYERS} have samples",
            helps=[f"write {way}" if alone else f"ask for them: `kinds: {LAYERS}`"],
        )
    elif item.view is not None:
        terms.scope.report.add(
            "NLC404",
            f"a layer system takes its {LAYERS} as they are",
            item.view.span,
            "no view shows a part of a sample",
            helps=["remove `view`"],
        )


def _no_kind(word: Word, terms: Terms, alone: bool = False) -> None:
    known = _kinds(terms)
    close = nearest(word.text, known)
    way = "a route of another name asks for something: `{names: …, rule: …}`"
    terms.scope.report.add(
        "NLC201",
        f"`{word.text}` is no kind of tensor",
        word.span,
        f"did you mean `{close}`?" if close else "not one of them",
        notes=[f"kinds: {', '.join(known)}"],
        helps=["`nlc list tensors` says which tensors they are", *([way] if alone else [])],
        fix=certain(word.span, word.text, known),
    )


def _rule(item: RouteTree, terms: Terms):
    """Whether it is the system itself, else its rule; neither after a mistake."""
    e = item.rule
    if e.op == "name" and e.attr == "self":
        return True, None
    if e.op == "name" and certain(e.span, str(e.attr), ["self"]):
        label, fix = "did you mean `self`?", certain(e.span, str(e.attr), ["self"])
        terms.say("NLC202", f"there is no rule `{e.attr}`", e, label, fix=fix)
    elif e.op != "error":
        place = Place(f"applies_to.{item.name}", None, "rule")
        return False, rule_of(e, terms, place, whole=True)
    return False, None


def _view(tree: ViewTree, terms: Terms) -> View:
    steps = []
    for (name, first, last), count in zip(tree.steps, tree.counts, strict=True):
        if name == "split":
            parts = size(terms.scope, count, "a part of the view") if count is not None else None
            steps.append((name, first, parts if parts is not None else Dim.of(1)))
        else:
            steps.append((name, first, last))
    return View(tree.text, tuple(steps))


def _condition(e: Expr, shapes: frozenset[int], terms: Terms) -> Expr:
    """A comparison of sizes of the tensor, numbers and hypers, which are then fixed at construction."""
    if e.op in _COMPARED:
        return _made(e, shapes, terms)
    return e if e.op == "error" else _no_condition(e, terms, f"it compares, as `{_EXAMPLE}` does")


_EXAMPLE = "numel(W) >= 1024"


def _made(e: Expr, shapes: frozenset[int], terms: Terms) -> Expr:
    """Of its operands; the first mistake in them is the only one that is said."""
    args = []
    for x in e.args:
        args.append(_number(x, shapes, terms))
        if args[-1].op == "error":
            return args[-1]
    return Expr(e.op, tuple(args), e.attr, None, e.span)


def _number(e: Expr, shapes: frozenset[int], terms: Terms) -> Expr:
    if e.op == "num":
        return e
    if e.op == "name" and e.attr in terms.scope.hypers:
        terms.scope.read(str(e.attr), "")
        terms.scope.static.add(str(e.attr))
        return Expr("hyper", (), e.attr, None, e.span)
    if e.op in _NUMBERS:
        return _made(e, shapes, terms)
    named = e.args[0] if e.op == "call" else e
    trained = e.op == "call" and [(a.op, a.attr) for a in e.args[1:]] == [("name", TRAINED)]
    if not trained or named.op != "name" or named.attr not in SIZES:
        known = ", ".join(f"`{name}({TRAINED})`" for name in SIZES)
        return _no_condition(e, terms, f"it reads {known}, numbers and hypers")
    if named.attr in OF_MATRICES and not shapes <= _MATRICES:
        return terms.say(
            "NLC216",
            f"`{quoted(e)}` is asked of what may be no matrix",
            e,
            "other tensors have no rows and columns",
            helps=["ask for matrices first: `kinds: matrices`"],
        )
    return Expr("sizeof", (), named.attr, None, e.span)


def _no_condition(e: Expr, terms: Terms, help: str) -> Expr:
    message = f"`{quoted(e)}` says nothing of a tensor's sizes"
    return terms.say("NLC216", message, e, "not a condition", helps=[help])
