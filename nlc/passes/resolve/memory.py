"""A level's ``memory:`` to its states and its read."""

from __future__ import annotations

import re

from nlc.base.diagnostics import Fix, certain, nearest
from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.matrices import DTYPES
from nlc.ir.ops import pointwise
from nlc.ir.show import show
from nlc.ir.system import Memory, State
from nlc.ir.types import ONE, Dim, Dims, Like
from nlc.lib.functions import FUNCTIONS
from nlc.lib.memories import MEMORIES, MemoryKind
from nlc.passes.resolve.arguments import Bound, bind
from nlc.passes.resolve.channels import any_channels, channels
from nlc.passes.resolve.choices import word
from nlc.passes.resolve.scope import CONTEXTS, TRAINED, Scope
from nlc.passes.resolve.scope import SIDES as ROWS_AND_COLUMNS
from nlc.passes.resolve.sizes import size
from nlc.passes.resolve.terms import Place, Terms, quoted
from nlc.syntax.foreign import MEMORIES as FOREIGN
from nlc.syntax.foreign import function
from nlc.syntax.math import parse_text
from nlc.syntax.tree import LevelTree, MemoryTree

SIDES = {"left": "rows", "right": "cols"}  # of a matrix, from where a square one is multiplied


def resolve_memory(level: LevelTree, terms: Terms) -> Memory | None:
    """None after a mistake. Init expressions are not resolved here: they may read other levels."""
    scope, tree = terms.scope, level.memory
    if scope.gradients and level.name == TRAINED:
        if "memory" in level.keys:
            scope.report.add(
                "NLC105",
                f"level `{TRAINED}` has no `memory`: it is the trained tensor itself",
                level.keys["memory"],
                "",
                helps=["remove this key"],
            )
            return None
        state = State(TRAINED, TRAINED, _trained(scope), level.span, trained=True)
        if not scope.layers:
            return Memory("trained", (state,), text="the trained tensor")
        read = Expr("matmul", (Expr("self", (), TRAINED), Expr("param", (), "z")))
        return Memory("trained", (state,), ("z",), read, text="the weight of a linear layer")
    if tree is None:
        if "memory" not in level.keys and level.name != scope.trained:
            example = f"like({TRAINED})" if scope.gradients else _matrix(level, scope)
            scope.report.add(
                "NLC102",
                f"level `{level.name}` has no `memory`, which is required",
                level.span,
                "what does it store?",
                helps=[f"for example `memory: {example}`"],
            )
        return None
    return _called(level, tree, terms) if tree.call is not None else _inline(level, tree, terms)


def _matrix(level: LevelTree, scope: Scope) -> str:
    """The matrix that takes the keys of a level to its values."""
    sizes = (channels(e, level.name, scope) for e in (level.value, level.key))
    rows, columns = (size or any_channels(scope) for size in sizes)
    return f"matrix({rows}, {columns})"


def _called(level: LevelTree, tree: MemoryTree, terms: Terms) -> Memory | None:
    scope, call = terms.scope, tree.call
    if call.op == "error":
        return None
    named = call.args[0] if call.op == "call" else call
    name = named.attr if named.op == "name" else None
    kind = MEMORIES.get(name) if isinstance(name, str) else None
    if kind is None:
        alien = FOREIGN.get(str(name))
        close = alien or nearest(str(name or ""), MEMORIES)
        if call.op == "index" and call.args[0].op == "name" and call.args[0].attr in MEMORIES:
            sizes = ", ".join(show(a) for a in call.args[1:])
            close = f"{call.args[0].attr}({sizes})"
        scope.report.add(
            "NLC202",
            f"there is no memory `{quoted(named)}`",
            named.span,
            f"did you mean `{close}`?" if close else "not a memory of the language",
            notes=[f"memories: {', '.join(MEMORIES)}"],
            helps=[] if close else ["or write it out: `{W: [n, n], read(z): W @ z}`"],
            fix=certain(named.span, name, MEMORIES) if isinstance(name, str) else None,
        )
        return None
    if kind.context and (kind.context == "gradients") != scope.gradients:
        scope.report.add(
            "NLC404",
            f"the memory `{name}` belongs to {CONTEXTS[kind.context]} systems",
            named.span,
            f"this is {scope.context}",
            helps=[f"memories that it may have: {', '.join(_fitting(scope.gradients))}"],
        )
        return None
    bound = bind(scope.report, kind.params, call, kind.name)
    if bound is None:
        return None
    if kind.name == "cache":
        return _cache(level, bound, terms, call)
    return _from_kind(level, kind, bound, terms, call)


def _fitting(gradients: bool) -> list[str]:
    context = "gradients" if gradients else "tokens"
    return [name for name, kind in MEMORIES.items() if kind.context in ("", context)]


def _from_kind(
    level: LevelTree, kind: MemoryKind, bound: Bound, terms: Terms, call: Expr
) -> Memory | None:
    named = bound.get("dtype")
    if named is not None and not word(terms, named, "dtype", DTYPES):
        return None
    dtype = None if named is None else str(named.attr)
    switches = {key: _switch(key, bound[key], terms) for key in kind.switches}
    if None in switches.values() or not all(_pointwise(k, bound[k], terms) for k in kind.functions):
        return None
    states = []
    for suffix, text in kind.states.items():
        if not (shape := _kept(text, switches)):
            continue
        dims = _shape(parse_text(shape), bound, terms, call)
        if dims is None:
            return None
        name = f"{level.name}.{suffix}" if suffix else level.name
        states.append(State(name, level.name, dims, call.span, dtype=dtype))
    if kind.factor is not None:
        _factor(kind.factor, bound, terms)
    read, params = None, ()
    if kind.read:
        params = ("z",)
        body = rewrite(
            parse_text(_kept(kind.read, switches)),
            lambda n: bound[n.attr] if n.op == "name" and n.attr in kind.functions else None,
        )
        bounds = [(_inner(s) or "self", Expr("self", (), s.name)) for s in states]
        bounds.append(("z", Expr("param", (), "z")))
        read = terms.resolve(body, Place(f"{level.name}.read", bound=tuple(bounds)))
        if kind.out and size(terms.scope, bound[kind.out], "a size") == ONE:
            read = Expr("squeeze", (read,))
    return Memory(kind.name, tuple(states), params, read, text=show(call))


def _factor(names: tuple[str, str], bound: Bound, terms: Terms) -> None:
    """Warns of a factor that has the size in it which it multiplies, as a width would."""
    (name, other), given = names, bound[names[0]]
    factor, of = (size(terms.scope, bound[n], "a size") for n in names)
    if factor is None or of is None or given.span is None or not {*factor.symbols} & {*of.symbols}:
        return
    times = factor / of
    terms.scope.report.add(
        "NLC308",
        f"`{name}` is a factor of `{other}`, and has that size in it",
        given.span,
        f"{factor * of} channels inside",
        helps=[f"write `{times}` for {factor} channels"] if not times.symbols else [],
    )


def _trained(scope: Scope) -> Dims:
    """The axes of the trained tensor: a layer's weight is a matrix, another may have any."""
    return ROWS_AND_COLUMNS if scope.layers else (Like(TRAINED),)


def _inner(s: State) -> str:
    return s.name.removeprefix(s.level).removeprefix(".")


def _kept(text: str, switches: dict[str, bool]) -> str:
    """Text of a kind with ``{switch: …}`` kept or left out."""
    return re.sub(r"\{(\w+): (.*?)\}", lambda m: m[2] if switches[m[1]] else "", text)


def _switch(key: str, e: Expr, terms: Terms) -> bool | None:
    """``true``, ``false`` or, as in a default, whether two sizes are equal."""
    if e.op == "bool":
        return bool(e.attr)
    if e.op == "eq":
        a, b = (size(terms.scope, x, "a size") for x in e.args)
        return None if a is None or b is None else a == b
    terms.not_a_switch(key, e)
    return None


def _pointwise(key: str, e: Expr, terms: Terms) -> bool:
    """Whether an argument names an elementwise function, which is reported otherwise."""
    names = [f.name for f in FUNCTIONS.values() if pointwise(f.op) and f.name != "stop"]
    if e.op == "name" and e.attr in names:
        return True
    alien = function(str(e.attr)) if e.op == "name" else None
    close = alien or (nearest(str(e.attr), names) if e.op == "name" else None)
    terms.say(
        "NLC204",
        f"`{key}` names an elementwise function",
        e,
        f"did you mean `{close}`?" if close else "not one of them",
        notes=[f"elementwise functions: {', '.join(names)}"],
        fix=Fix(e.span, alien)
        if alien in names and e.span
        else certain(e.span, str(e.attr), names),
    )
    return False


def _shape(shape: Expr, bound: Bound, terms: Terms, call: Expr) -> Dims | None:
    """A kind's shape text at the arguments of this call."""
    if shape.op == "list":
        given = rewrite(shape, lambda n: bound[n.attr] if n.op == "name" else n.at(call.span))
        return dims_of(terms, given.args)
    function, target = shape.args[0].attr, bound["W"]
    if target.op != "name" or target.attr != TRAINED:
        slip = target.op == "name" and str(target.attr).upper() == TRAINED
        terms.say(
            "NLC206",
            f"`{function}` takes the trained tensor, `{TRAINED}`",
            target,
            f"write `{function}({TRAINED})`",
            fix=Fix(target.span, TRAINED) if slip and target.span else None,
        )
        return None
    if function == "like":
        return _trained(terms.scope)
    if function != "gram":
        return (Dim.of(f"{function}({TRAINED})"),)
    side = bound["side"]
    axis = SIDES.get(side.attr) if side.op == "name" else None
    if axis is None:
        close = nearest(str(side.attr), SIDES) if side.op == "name" else None
        label = f"did you mean `{close}`?" if close else "not one of them"
        terms.say("NLC204", f"`side` is {' or '.join(f'`{s}`' for s in SIDES)}", side, label)
        return None
    return (Dim.of(f"{axis}({TRAINED})"),) * 2


def dims_of(terms: Terms, items: tuple[Expr, ...]) -> Dims | None:
    """Expressions as sizes; all of them are looked at before a mistake counts."""
    dims = [size(terms.scope, e, "a size") for e in items]
    return None if None in dims else tuple(dims)


def _cache(level: LevelTree, bound: Bound, terms: Terms, call: Expr) -> Memory | None:
    scope = terms.scope
    options: dict[str, object] = {}
    if bound["window"] is not None:
        options["window"] = size(scope, bound["window"], "a window")
    if bound["scale"] is not None:
        options["scale"] = terms.resolve(bound["scale"], Place(f"{level.name}.scale"))
    for key in ("key", "value"):
        if key not in level.keys and not level.of_a_state:
            scope.report.add(
                "NLC102",
                f"level `{level.name}` has no `{key}`, which a cache needs",
                level.span,
                "a cache stores keys and values",
                helps=[f"for example `{key}: linear(x)`"],
            )
        scope.read(f"{level.name}.{key}", "")
    if "key" not in level.keys or "value" not in level.keys or options.get("window", 0) is None:
        return None
    return Memory("cache", (), ("q",), None, options, show(call))


def _inline(level: LevelTree, tree: MemoryTree, terms: Terms) -> Memory | None:
    """``{W: [n, n], b: [n], read(z): z + layernorm(W @ z + b)}``"""
    dtype = tree.dtype.text if tree.dtype else None
    states, sound = [], tree.read is not None
    for item in tree.fields:
        dims = dims_of(terms, item.expr.args) if item.expr.op == "list" else None
        if item.expr.op not in ("list", "error"):
            label = "write a list such as `[n, n]`"
            terms.say("NLC103", f"state `{item.name}` needs a list of sizes", item.expr, label)
        sound = sound and dims is not None
        name = f"{level.name}.{item.name}"
        states.append(State(name, level.name, dims or (), item.span, dtype=dtype))
    if not tree.fields:
        return None
    read = None
    if tree.read is not None:
        bounds = [(f.name, Expr("self", (), f"{level.name}.{f.name}")) for f in tree.fields]
        bounds += [(p, Expr("param", (), p)) for p in tree.read_params]
        read = terms.resolve(tree.read, Place(f"{level.name}.read", bound=tuple(bounds)))
        sound = sound and all(n.op != "error" for n in walk(read))
    text = ", ".join(f"{f.name}: {show(f.expr)}" for f in tree.fields)
    if not sound:
        return None
    return Memory("inline", tuple(states), tree.read_params, read, text="{" + text + "}")
