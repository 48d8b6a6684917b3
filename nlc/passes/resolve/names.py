"""Names and reads of states: what a name means where it stands, and the time at which it reads (language §2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nlc.base.diagnostics import Fix, Label, certain, nearest
from nlc.ir.expr import Expr
from nlc.lib.functions import FUNCTIONS
from nlc.passes.resolve.bundles import bundle, each, maps
from nlc.passes.resolve.scope import error
from nlc.passes.resolve.sizes import no_member
from nlc.passes.resolve.terms import Place, Terms, quoted, unchanging
from nlc.syntax.foreign import STARTS
from nlc.syntax.values import RESERVED

PAST = ("prev", "anchor")


def visible(terms: Terms, at: Place) -> list[str]:
    scope, names = terms.scope, [n for n, _ in at.bound]
    if at.names:
        names += scope.flows(at.names)
    return names + [n for n in scope.spans if "." not in n]


def name(terms: Terms, e: Expr, at: Place) -> Expr:
    name, scope = e.attr, terms.scope
    for bound, value in at.bound:
        if bound == name:
            return value
    if at.names and scope.own(at.names, name) is not None:
        return flow(terms, f"{at.names}.{name}", e, at)
    if at.names and name in ("key", "value") and name in scope.levels[at.names].keys:
        return error(e.span)  # there, but with a mistake
    if name in scope.levels:
        if at.level == name and at.mode == "objective" and e.span:
            terms.bare.append(e.span)
        return state(terms, name, None, e, at)
    if name in scope.lets:
        return flow(terms, name, e, at)
    if name in scope.spans:
        scope.read(name, at.reader)
    if name in scope.inputs:
        return Expr("input", (), name, None, e.span)
    if name in scope.hypers:
        if isinstance(scope.hypers[name].value, list):
            if scope.is_lost(name):
                return error(e.span)
            label = f"`{name}` is a list; a family runs over it"
            return terms.wrong(e, label, causes=[("kind", name)])
        return Expr("hyper", (), name, None, e.span)
    if name in scope.weights:
        if name in scope.shapeless:
            return error(e.span)  # reported there
        return Expr("weight", (), name, None, e.span)
    if name in RESERVED and not scope.is_lost(name):
        return _reserved(terms, e, at)
    if name in FUNCTIONS:
        said = f"`{name}` is a function: call it, `{name}(…)`"
        return terms.wrong(e, said, causes=[("function", name)])
    if scope.report.full:  # who is told no more need not be guessed for
        return error(e.span)
    if at.key == "init" and name in STARTS and e.span and name not in visible(terms, at):
        meant = STARTS[name]
        label, fix = f"did you mean `{meant}`?", Fix(e.span, meant)
        return terms.say("NLC201", f"`{name}` is no start of a state", e, label, fix=fix)
    starts = {"init": ["zeros", "learned"], "toward": ["init"]}.get(at.key, [])
    scope.not_defined(name, e.span, [*starts, *visible(terms, at)], at.names)
    return error(e.span)


def _reserved(terms: Terms, e: Expr, at: Place) -> Expr:
    scope, name = terms.scope, e.attr
    if name == "g":
        if scope.gradients:
            return Expr("g", (), None, None, e.span)
        return terms.wrong(e, "`g` is the gradient at `W`: gradient systems only")
    if name in (*PAST, "stop"):
        said = f"`{name}` is a function: call it, `{name}(…)`"
        return terms.wrong(e, said, causes=[("function", name)])
    if name == "head" and scope.tree.heads is None:
        label = "no `heads:` is declared"
        scope.without_heads("`head` needs a system with heads", e.span, label)
        return error(e.span)
    if name == "age":
        helps = ["write it inside, as in `sum(gamma**age * e, last=4)`"]
        return terms.wrong(e, "only a sum over the last ticks has ages", helps=helps)
    if name == "loss":
        return terms.later(f"`{name}`", e)
    if name in ("pos", "head", "substep") and scope.gradients:
        return terms.wrong(e, f"{RESERVED[name]}: token systems only")
    if name not in ("t", "pos", "head", "substep"):
        return terms.wrong(e, f"`{name}` is a word of the language: {RESERVED[name]}")
    return Expr("index", (), (name, at.level if name == "t" else None), None, e.span)


# ---------------------------------------------------------------------------------------------------- flows


def flow(terms: Terms, full: str, e: Expr, at: Place) -> Expr:
    """A named flow. Where it reads the level's own bare name it is written out: the reader decides what that means."""
    terms.scope.read(full, at.reader)
    owner = full.partition(".")[0] if "." in full else None
    if at.mode == "flow" or owner not in (None, at.level) or full not in _bare(terms, at.level):
        parts = several(terms, full)
        leaves = tuple(Expr("flow", (), part, None, e.span) for part in parts or (full,))
        return bundle(leaves, e.span) if parts else leaves[0]
    key = (full, at.level, at.mode, at.bound)
    if key in terms.opened:
        return _circle(terms, full, e)
    for inner in _first(terms, full, at):  # so that a chain of lets costs no recursion
        key = (inner, at.level, at.mode, at.bound)
        if key not in terms.written:
            text = _text(terms, inner)
            terms.opened.append(key)
            inside = replace(at, path=inner, outside="." not in inner)
            terms.written[key] = terms.bounded(terms.resolve(text, inside), text)
            terms.opened.pop()
    return terms.written[full, at.level, at.mode, at.bound].at(e.span)


def several(terms: Terms, full: str) -> tuple[str, ...]:
    """The flows that a let of several states is, one for each state of the memory; empty where it is one value."""
    if full not in terms.several:
        terms.several[full] = ()  # what reads itself is no such let
        level, _, own = full.rpartition(".")
        if own not in ("key", "value") or not level:
            suffixes = _suffixes(terms, _text(terms, full), level or None)
            terms.several[full] = tuple(_unused(terms, f"{full}_{s}") for s in suffixes)
    return terms.several[full]


def _suffixes(terms: Terms, e: Expr, level: str | None) -> tuple[str, ...]:
    """The names of the states that an expression maps over, as they stand behind the name of their level."""
    scope = terms.scope
    if e.op == "name":
        if level is not None and scope.own(level, e.attr) is not None:
            return _behind(several(terms, f"{level}.{e.attr}"), f"{level}.{e.attr}")
        if e.attr in scope.levels and (memory := terms.memories.get(e.attr)) is not None:
            names = [s.name.rpartition(".")[2] for s in memory.states]
            return tuple(names) if len(names) > 1 else ()
        if e.attr in scope.lets:
            return _behind(several(terms, e.attr), e.attr)
        return ()
    args = e.args
    if e.op == "call":
        name = e.args[0].attr if e.args[0].op == "name" else None
        op = FUNCTIONS[name].op if name in FUNCTIONS else name
        if name == "grad":
            args = e.args[2:]
        elif name not in PAST and not maps(op):
            return ()
    elif not maps(e.op):
        return ()
    return next((found for a in args if (found := _suffixes(terms, a, level))), ())


def _behind(names: tuple[str, ...], full: str) -> tuple[str, ...]:
    return tuple(n.removeprefix(f"{full}_") for n in names)


def _unused(terms: Terms, name: str) -> str:
    while name in terms.scope.spans:
        name += "_"
    return name


def _text(terms: Terms, full: str) -> Expr:
    level, _, own = full.rpartition(".")
    return terms.scope.own(level, own) if level else terms.scope.lets[full].expr


def _first(terms: Terms, full: str, at: Place) -> list[str]:
    """The flows to write out, each after those that it reads, ``full`` last."""
    bare, order, seen = _bare(terms, at.level), [], set()
    stack = [(full, False)]
    while stack:
        name, ready = stack.pop()
        if ready:
            order.append(name)
        elif name not in seen and (name, at.level, at.mode, at.bound) not in terms.opened:
            seen.add(name)
            stack.append((name, True))
            stack += [(n, False) for n in sorted(_reads(terms, name) & bare)]
    return order


def _bare(terms: Terms, level: str | None) -> set[str]:
    """The flows that a level's own expressions write out: its own and the system's that read its bare name."""
    if level is None:
        return set()
    if level not in terms.bare_flows:
        scope = terms.scope
        mine = [*scope.lets, *(f"{level}.{n}" for n in scope.flows(level))]
        readers: dict[str, list[str]] = {}
        for full in mine:
            for read in _reads(terms, full):
                readers.setdefault(read, []).append(full)
        found: set[str] = set()
        stack = [level]
        while stack:
            for reader in readers.get(stack.pop(), ()):
                if reader not in found:
                    found.add(reader)
                    stack.append(reader)
        terms.bare_flows[level] = found
    return terms.bare_flows[level]


def _reads(terms: Terms, full: str) -> set[str]:
    """The levels and flows that a flow reads, but for what it reads through ``prev`` and ``anchor``."""
    if full not in terms.reads:
        level = full.rpartition(".")[0] or None
        terms.reads[full] = set(_leaves(terms, _text(terms, full), level))
    return terms.reads[full]


def _leaves(terms: Terms, e: Expr, level: str | None) -> Iterator[str]:
    scope, stack = terms.scope, [e]
    while stack:
        node = stack.pop()
        if node.op == "call" and node.args[0].op == "name" and node.args[0].attr in PAST:
            stack.extend(node.args[2:])
        elif node.op == "attr" and node.args[0].op == "name" and node.args[0].attr in scope.levels:
            owner = node.args[0].attr
            yield owner if scope.own(owner, node.attr) is None else f"{owner}.{node.attr}"
        elif node.op == "name":
            own = level is not None and scope.own(level, node.attr) is not None
            yield f"{level}.{node.attr}" if own else node.attr
        else:
            stack.extend(node.args)


def _circle(terms: Terms, full: str, e: Expr) -> Expr:
    names = [str(key[0]) for key in terms.opened]  # type: ignore[index]
    circle = [*names[names.index(full) :], full]
    unit = "step" if terms.scope.gradients else "token"
    return terms.say(
        "NLC403",
        f"flow `{full}` needs itself in the same {unit}",
        e,
        f"`{circle[-2]}` reads `{full}`",
        notes=[f"cycle: {' -> '.join(circle)}"],
        helps=[f"break the cycle by reading the value before this {unit}: `prev({full})`"],
    )


# ---------------------------------------------------------------------------------------------------- states


def state(
    terms: Terms, level: str, inner: str | None, e: Expr, at: Place, time: str | None = None
) -> Expr:
    """A state as a value; ``inner`` names one of several, ``time`` overrides when it is read."""
    scope = terms.scope
    if level != at.level:
        scope.read(level, at.reader)
    memory = terms.memories.get(level)
    if memory is None:
        return error(e.span)
    if memory.kind == "cache" and level == at.level and at.mode == "own":
        _time(terms, level, e, at)
        return error(e.span)
    if memory.kind == "cache" and terms.scope.levels[level].of_a_state:
        return error(e.span)  # reported there
    if memory.kind == "cache":
        label = f"read it with a query: `{level}(q)`"
        return terms.say("NLC208", f"`{level}` is a cache, not a value", e, label)
    names = [s.name for s in memory.states]
    time = time or _time(terms, level, e, at)
    if time is None:
        return error(e.span)
    wanted = names if inner is None else [f"{level}.{inner}"]
    leaves = tuple(Expr("state", (), (full, time), None, e.span) for full in wanted)
    return leaves[0] if len(leaves) == 1 else bundle(leaves, e.span)


def _time(terms: Terms, level: str, e: Expr, at: Place) -> str | None:
    if at.level != level or at.mode == "flow":
        return "now"
    if at.mode != "own":
        return {"objective": "var", "rule": "base"}[at.mode]
    through = at.path if at.path != f"{level}.{at.key}" else ""
    place = terms.scope.levels[level].keys.get(at.key)
    kind = terms.memories[level].kind
    past = (
        ""
        if at.key == "init" or kind == "cache"
        else f"write `prev({level})` for the state before this tick"
    )
    terms.say(
        "NLC401",
        f"`{level}` is read by its own `{at.key}`" + (f" through `{through}`" if through else ""),
        e,
        "its new state is not there yet",
        related=[Label(place, f"`{at.key}` reads `{through}`")] if through and place else [],
        helps=[f"{past}, or `anchor({level})` for its last boundary"] if past else [],
    )
    return None


def past_time(terms: Terms, level: str, when: str) -> str:
    """Without an ``anchor:`` field, ``anchor(M)`` is ``prev(M)``."""
    has_anchor = terms.scope.levels[level].anchor is not None
    return "anchor" if when == "anchor" and has_anchor else "prev"


def past(terms: Terms, e: Expr, when: str, at: Place) -> Expr:
    """``prev(M)``, ``prev(f, init)``, ``anchor(M)`` as values."""
    given, known = e.args[1:], e.attr or ()
    if not 1 <= len(given) <= (2 if when == "prev" else 1) or known not in ((), ("init",)):
        usage = "prev(M)` or `prev(f, init)" if when == "prev" else "anchor(M)"
        return terms.say("NLC204", f"`{when}` takes a level or a flow", e, f"write `{usage}`")
    target = given[0]
    bound = {n for n, _ in at.bound}
    if target.op == "name" and target.attr in terms.scope.levels and target.attr not in bound:
        time = past_time(terms, target.attr, when)
        return state(terms, target.attr, None, e, at, time)
    if when == "anchor":
        label = "only a level has boundaries"
        return terms.say("NLC204", "`anchor` takes a level", target, label)
    zero = Expr("num", (), 0.0, None, e.span)
    init = unchanging(terms, terms.resolve(given[1], at), given[1]) if len(given) == 2 else zero
    inside = terms.resolve(target, replace(at, mode="flow"))
    if "error" in (init.op, inside.op):
        return error(e.span)
    return each(terms, Expr("delay", (inside, init), None, None, e.span))


# ---------------------------------------------------------------------------------------------------- parts


def attribute(terms: Terms, e: Expr, at: Place) -> Expr:
    """``S.key``: a flow of a level, or one of its states."""
    base, scope = e.args[0], terms.scope
    if base.op != "name" or base.attr not in scope.levels:
        if base.op == "name" and (base.attr not in scope.spans or scope.is_lost(base.attr)):
            scope.not_defined(base.attr, base.span, list(scope.levels), at.level)
            return error(e.span)
        return terms.wrong(e, "only levels have named parts, as in `S.key`")
    level = base.attr
    if level != at.level:
        scope.read(level, at.reader)
    memory = terms.memories.get(level)
    states = [s.name.split(".")[1] for s in memory.states if "." in s.name] if memory else []
    if e.attr in states:
        return state(terms, level, e.attr, e, at)
    if scope.own(level, e.attr) is not None:
        return flow(terms, f"{level}.{e.attr}", e, at)
    if e.attr == "objective":
        return _objective(terms, level, e, at)
    if memory is None and scope.levels[level].memory is not None:
        return error(e.span)  # its states are not known
    names = [*scope.flows(level), *states]
    if e.attr in scope.levels[level].keys or e.attr in scope.tree.lost:
        return error(e.span)  # there, but with a mistake
    close = nearest(e.attr, names)
    meant = f"{level}.{close}" if close else ""
    fix = certain(e.span, e.attr, names, form=f"{level}.{{}}")
    if e.attr in PAST:
        meant = f"{e.attr}({level})"
        fix = Fix(e.span, meant) if e.span else None
    return terms.say(
        "NLC201",
        f"level `{level}` has no `{e.attr}`",
        e,
        f"did you mean `{meant}`?" if meant else "no flow or state of this name",
        notes=[f"`{level}` has: {', '.join(names)}"] if names else [],
        fix=fix,
    )


def _objective(terms: Terms, level: str, e: Expr, at: Place) -> Expr:
    """``B.objective``, which a slower level may take for its own: it learns where B should start (eq. 72)."""
    mine = at.mode == "objective" and at.level != level
    if mine and terms.scope.levels[level].objective is not None:
        return Expr("objective", (), level, None, e.span)
    return terms.say(
        "NLC208",
        f"the objective of level `{level}` is not a value here"
        if terms.scope.levels[level].objective is not None
        else f"level `{level}` has no objective",
        e,
        "the objective of a slower level may sum it: `sum(B.objective)`",
    )


def of_time(terms: Terms, e: Expr, at: Place) -> Expr | None:
    """``S[t-1]`` for the state before the tick, ``x[t]`` for the one of now; None for other members."""
    base, index = e.args[0], e.args[1]
    written = "".join(quoted(index).split())
    if len(e.args) != 2 or base.op != "name" or base.attr not in terms.scope.spans:
        return None
    name = str(base.attr)
    if written not in ("t-1", "t") or name in terms.scope.hypers or name in terms.scope.weights:
        return None
    label = f"the value before is written `prev({name})`"
    if written == "t":
        label = f"the value of now is written `{name}`"
    elif name == at.level and at.mode in ("objective", "rule"):
        label = f"the state that the step of `{name}` starts from is written `{name}` here"
    return terms.say("NLC205", "no name has an index of time", e, label)


def member(terms: Terms, e: Expr, at: Place) -> Expr:
    """``periods[0]`` of a list-valued hyper; families are written out before."""
    base, index = e.args[0], e.args[1]
    scope = terms.scope
    if base.op == "name" and base.attr in scope.hypers:
        scope.read(base.attr, at.reader)
        value = scope.hypers[base.attr].value
        number = index.attr if index.op == "num" and len(e.args) == 2 else None
        if value is None:
            return error(e.span)
        if isinstance(value, list) and isinstance(number, int) and number < len(value):
            return Expr("hyper", (), f"{base.attr}[{number}]", None, e.span)
        no_member(scope, e, base.attr)
        return error(e.span)
    if (meant := of_time(terms, e, at)) is not None:
        return meant
    if base.op == "name" and base.attr not in scope.spans and base.attr not in FUNCTIONS:
        scope.not_defined(base.attr, base.span, visible(terms, at), at.level, sure=False)
        return error(e.span)
    called = base.op == "name" and (base.attr in scope.levels or base.attr in FUNCTIONS)
    help = "channels a to b - 1 of a vector are `slice(x, a, b)`"
    if called and len(e.args) == 2:
        help = f"write `{base.attr}({quoted(index)})`: what is asked stands in round brackets"
    return terms.say(
        "NLC205", f"`{quoted(base)}` is no family", e, "only families have members", helps=[help]
    )
