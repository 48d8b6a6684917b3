"""A level's ``memory:`` to its states and its read."""

from __future__ import annotations

from nlc.base.diagnostics import nearest
from nlc.ir.expr import Expr
from nlc.ir.show import show
from nlc.ir.system import Memory, State
from nlc.ir.types import Dim, Dims, Like
from nlc.lib.memories import MEMORIES, MemoryKind
from nlc.passes.resolve.terms import Place, Terms
from nlc.syntax.math import parse_text
from nlc.syntax.tree import LevelTree, MemoryTree

TRAINED = "W"  # the trained tensor's level in a gradient system (language §7)


def resolve_memory(level: LevelTree, terms: Terms) -> Memory | None:
    """None after a mistake. Init expressions are not resolved here: they may read other levels."""
    scope = terms.scope
    if scope.gradients and level.name == TRAINED:
        if level.memory is not None:
            scope.report.add(
                "NLC105",
                f"level `{TRAINED}` is the trained tensor itself",
                level.keys.get("memory", level.span),
                "it takes no memory of its own",
            )
            return None
        return Memory(
            "trained",
            (State(TRAINED, TRAINED, (Like(TRAINED),), level.span),),
            text="the trained tensor",
        )
    tree = level.memory
    if tree is None:
        if "memory" not in level.keys:
            scope.report.add(
                "NLC102",
                f"level `{level.name}` has no `memory`",
                level.span,
                "required here",
                helps=["for example `memory: matrix(dv, dk)`"],
            )
        return None
    return _called(level, tree, terms) if tree.call is not None else _inline(level, tree, terms)


def _called(level: LevelTree, tree: MemoryTree, terms: Terms) -> Memory | None:
    scope, call = terms.scope, tree.call
    name = (
        call.args[0].attr
        if call.op == "call" and call.args[0].op == "name"
        else call.attr
        if call.op == "name"
        else None
    )
    if call.op == "error":
        return None
    kind = MEMORIES.get(name) if isinstance(name, str) else None
    if kind is None:
        if name in ("mlp", "gram"):
            scope.later(f"the memory `{name}`", call.span)
            return None
        close = nearest(str(name or show(call)), MEMORIES)
        scope.report.add(
            "NLC202",
            f"there is no memory `{show(call) if name is None else name}`",
            call.span,
            f"did you mean `{close}`?" if close else "not a memory of the language",
            notes=[f"memories: {', '.join(MEMORIES)}, or inline: {{W: [n, n], read(z): W @ z}}"],
        )
        return None
    if kind.context and (kind.context == "gradients") != scope.gradients:
        scope.report.add(
            "NLC404",
            f"`{name}` belongs to {kind.context} systems",
            call.span,
            f"this is a {scope.tree.context.text} system",
        )
        return None
    given = call.args[1:] if call.op == "call" else ()
    bound = terms.bind(
        kind.params, given, (call.attr or ()) if call.op == "call" else (), call, kind.name
    )
    if bound is None:
        return None
    if kind.name == "cache":
        return _cache(level, bound, terms, call)
    return _from_kind(level, kind, bound, terms, call, tree)


def _from_kind(
    level: LevelTree, kind: MemoryKind, bound, terms: Terms, call: Expr, tree: MemoryTree
) -> Memory | None:
    states = []
    for suffix, shape in kind.states.items():
        dims = _shape(parse_text(shape), bound, terms)
        if dims is None:
            return None
        name = f"{level.name}.{suffix}" if suffix else level.name
        states.append(
            State(name, level.name, dims, call.span, dtype=tree.dtype.text if tree.dtype else None)
        )
    read, params = None, ()
    if kind.read:
        params = ("z",)
        bounds = (("self", Expr("self", (), level.name)), ("z", Expr("param", (), "z")))
        read = terms.resolve(parse_text(kind.read), Place(f"{level.name}.read", bound=bounds))
    return Memory(kind.name, tuple(states), params, read, text=show(call))


def _shape(shape: Expr, bound: dict[str, Expr | None], terms: Terms) -> Dims | None:
    """A kind's shape text at the arguments of this call."""
    if shape.op == "list":
        out = []
        for e in shape.args:
            dim = terms.scope.size(bound.get(e.attr, e) if e.op == "name" else e, "a size")
            if dim is None:
                return None
            out.append(dim)
        return tuple(out)
    function, target = shape.args[0].attr, bound["W"]
    if target.op != "name" or target.attr != TRAINED:
        terms.scope.report.add(
            "NLC206",
            f"`{function}` takes the trained tensor",
            target.span,
            f"write `{function}({TRAINED})`",
        )
        return None
    return {
        "like": (Like(TRAINED),),
        "rows": (Dim.of(f"rows({TRAINED})"),),
        "cols": (Dim.of(f"cols({TRAINED})"),),
    }[function]


def _cache(level: LevelTree, bound, terms: Terms, call: Expr) -> Memory | None:
    options: dict[str, object] = {}
    window = bound.get("window")
    if window is not None and not (window.op == "name" and window.attr == "none"):
        options["window"] = terms.scope.size(window, "a window")
        if options["window"] is None:
            return None
    if bound.get("scale") is not None:
        options["scale"] = terms.resolve(bound["scale"], Place(f"{level.name}.scale"))
    for key in ("key", "value"):
        if getattr(level, key) is None and key not in level.keys:
            terms.scope.report.add(
                "NLC102",
                f"level `{level.name}` has no `{key}`",
                level.span,
                "a cache stores keys and values",
            )
            return None
    return Memory("cache", (), ("q",), None, options, show(call))


def _inline(level: LevelTree, tree: MemoryTree, terms: Terms) -> Memory | None:
    """``{W: [n, n], b: [n], read(z): z + layernorm(W @ z + b)}``"""
    scope, states = terms.scope, []
    for item in tree.fields:
        if item.expr.op != "list":
            scope.report.add(
                "NLC103",
                f"`{item.name}` needs a shape",
                item.expr.span or item.span,
                "write a list such as `[n, n]`",
            )
            return None
        dims = tuple(scope.size(e, "a size") for e in item.expr.args)
        if None in dims:
            return None
        states.append(
            State(
                f"{level.name}.{item.name}",
                level.name,
                dims,
                item.span,
                dtype=tree.dtype.text if tree.dtype else None,
            )
        )
    read = None
    if tree.read is not None:
        bounds = [(f.name, Expr("self", (), f"{level.name}.{f.name}")) for f in tree.fields]
        bounds += [(p, Expr("param", (), p)) for p in tree.read_params]
        read = terms.resolve(tree.read, Place(f"{level.name}.read", bound=tuple(bounds)))
        if any(n.op == "error" for n in (read, *read.args)):
            read = None
    text = ", ".join(f"{f.name}: {show(f.expr)}" for f in tree.fields)
    return Memory("inline", tuple(states), tree.read_params, read, text="{" + text + "}")
