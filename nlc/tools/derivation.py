"""Updates -> the derivation as text, LaTeX or Markdown: objective, gradient step by step, the rule, the update.

Every line is printed from the expressions that are compiled, so it cannot differ from what runs.
"""

from __future__ import annotations

from dataclasses import replace

from nlc.ir.expr import Expr, rewrite, walk
from nlc.ir.notation import Notation
from nlc.ir.system import Level, System
from nlc.ir.update import Named, Update
from nlc.lib.rules import RULES
from nlc.passes.collect import collect
from nlc.passes.factors import factors, named, parts
from nlc.passes.simplify import simplify

# What derivations write beside the names of the spec.
SIGNS = {
    "ℓ": "the objective, over the state that it judges",
    "∇ℓ": "its gradient, at the state in brackets",
    "∂ℓ/∂e": "what arrives at an expression e on the way back from the objective",
    "∇_S": "the gradient of S's objective, which a rule gives to its inner memories",
    "g": "the gradient of the outer loss, in a gradient system",
    "W⁻": "the state before the tick",
    "B": "the state from which the step starts, after `retain`",
    "T": "where `retain` and `decay` lead, `toward`",
    "W_anchor": "the state at the last boundary",
    "M₀": "the state at the start",
    "k_S": "the key of level S, where several levels have one; so `v_S` of values",
    "m̂": "a name that ends in `_hat`, here `m_hat`",
    "x₁": "what the first weight of a memory is multiplied with, its own key",
    "δ₁": "the error that arrives at the first weight; its gradient is δ₁ x₁ᵀ",
    "u₁": "a part that repeats, named to be read once",
    "I": "the identity matrix",
    "∘": "a factor of any kind: a number, one for each row or column, one for each entry",
    "⊙": "product, element by element",
    "·": "product, where a space would run words together",
    "Diag": "a diagonal matrix: a factor for each key channel (behind a matrix) or value channel (before it)",
    "silu′": "the derivative of a function",
    "sum_rows": "a row vector, the sum of all rows of a matrix; `sum_cols` a column, the sum of its columns",
    "Σ_t": "a sum over the ticks since the level last stepped",
    "Σ_s": "a sum over the samples of a layer",
    "NS₅": "`newton_schulz` of 5 steps",
    "CG₅": "`solve` by 5 steps of conjugate gradients",
}
FORMATS = ("text", "latex", "markdown")
Row = tuple[str, str, str, str]


def derivation(system: System, updates: dict[str, Update], level: str | None, format: str) -> str:
    """One level, the members of a family, or all. ValueError for one without an update, or an unknown format."""
    if format not in FORMATS:
        raise ValueError(f"there is no format {format!r}; formats: {', '.join(FORMATS)}")
    chosen = chosen_by(level, system, updates)
    if level is not None and not chosen:
        raise ValueError(
            f"no level {level!r} has an update; there are: {', '.join(updates) or 'none'}"
        )
    if not chosen:
        name = _prose(system.name) if format == "latex" else system.name
        return f"{name} has no level with an update: its memories are solved anew for every query"
    parts = [_level(system, updates, name, format) for name in chosen]
    return "\n\n".join(parts)


def chosen_by(level: str | None, system: System, updates: dict[str, Update]) -> list[str]:
    """The levels with an update that a name stands for: itself, or the members of a family; None for all."""
    if level is None or level in updates:
        return list(updates) if level is None else [level]
    written = {n: system.levels[n].span for n in updates if n.startswith(f"{level}_")}
    return [n for n, at in written.items() if at.source.text.startswith(f"{level}[", at.start)]


def update_lines(system: System, update: Update) -> list[str]:
    """``S ← αS(I − β k kᵀ) + β v kᵀ``: the whole step of each state, and what its names stand for."""
    return [" ".join(line) for line in equations(system, update)]


def equations(system: System, update: Update, latex: bool = False) -> list[tuple[str, str, str]]:
    """The same as left side, relation and right side, of which a column can be made."""
    n = Notation(system, latex=latex, own=update.level, plain_base=True, marked=False)
    names = parts(update, factors(update))
    arrow = r"\leftarrow" if latex else "←"
    steps = [(n.symbol(state), arrow, expanded(update, state, n, names)) for state in update.new]
    return steps + [(n.text(x.symbol), "=", n.text(x.expr)) for x in names]


def expanded(update: Update, state: str, n: Notation, names: list[Named]) -> str:
    """The step with every intermediate but keys and errors written out, collected where it is affine."""
    e = named(simplify(update.expanded(state)), _as_before(update, names))
    return collect(e, state, n) or n.text(e)


def _as_before(update: Update, names: list[Named]) -> list[Named]:
    """The names for expressions over the state before the tick, as ``Update.expanded`` writes them."""
    return [replace(x, expr=simplify(update.started(x.expr))) for x in names]


def rows(system: System, updates: dict[str, Update], name: str, latex: bool = False) -> list[Row]:
    """The derivation of a level, line by line: left, relation, right, and why."""
    level, update = system.levels[name], updates[name]
    out, names = [], parts(update, factors(update))
    for i, state in enumerate(update.new):
        out += _state(system, level, update, state, latex, first=i == 0, names=names)
        remembered = _through_rule(system, updates, name, state)
        if remembered is not None:
            n = Notation(system, latex=latex, own=name, plain_base=True, marked=False)
            whole = n.text(named(simplify(remembered), _as_before(update, names)))
            arrow = r"\leftarrow" if latex else "←"
            out.append(
                (
                    n.symbol(state),
                    arrow,
                    whole,
                    "what its rule remembers put in, from before the tick",
                )
            )
    return out


def _through_rule(system: System, updates: dict[str, Update], name: str, state: str) -> Expr | None:
    """A step by way of what its rule remembers, down to the gradient; None where that is as it stands already."""
    update, level = updates[name], system.levels[name]
    inside = [x for x in updates if x.startswith(f"{name}.") and level.inner]
    if not inside:
        return None
    remembers = {s for x in inside for s in updates[x].new}

    def fill(n: Expr) -> Expr | None:
        if n.op == "flow" and str(n.attr).startswith(f"{name}."):
            found = rewrite(system.flows[n.attr].expr, fill)
            return found if found != system.flows[n.attr].expr else None
        if n.op == "state" and n.attr[1] == "now" and n.attr[0] in remembers:
            owner = system.states[n.attr[0]].level
            if system.levels[owner].clock == level.clock:  # what is slower is held
                return rewrite(updates[owner].expanded(n.attr[0]), fill)
        if n.op == "gradient" and n.attr in update.gradient and n.attr not in remembers:
            return update.started(update.gradient[n.attr])
        return None

    plain = update.expanded(state)
    whole = rewrite(plain, fill)
    return whole if whole != plain else None


def _level(system: System, updates: dict[str, Update], name: str, format: str) -> str:
    latex = format != "text"
    level, said = system.levels[name], rows(system, updates, name, latex)
    head = f"{level.name}, {level.clock}, {level.memory.text}" + (
        f": {level.doc}" if level.doc else ""
    )
    if latex:
        body = " \\\\\n".join(
            f"  {left} &{rel} {right} && \\text{{{_prose(why)}}}" for left, rel, right, why in said
        )
        if format == "markdown":
            title = f"`{level.name}`, {level.clock}, `{level.memory.text}`"
            title += f": {level.doc}" if level.doc else ""
            return f"#### {title}\n\n$$\n\\begin{{aligned}}\n{body}\n\\end{{aligned}}\n$$"
        return f"% {head}\n\\begin{{align*}}\n{body}\n\\end{{align*}}"
    wide = max((len(f"{left} {rel} {right}") for left, rel, right, _ in said), default=0)
    wide = min(wide, 64)
    lines = [
        f"    {f'{left} {rel} {right}':<{wide}}   {why}".rstrip() for left, rel, right, why in said
    ]
    return "\n".join([head, *lines])


def _prose(text: str) -> str:
    """Text for ``\\text{…}``: what is not yet mathematics is escaped."""
    parts = text.split("$")
    marks = {"_": r"\_", "ᵀ": r"$^\top$", "ℓ": r"$\ell$", "∘": r"$\circ$", "Φ": r"$\Phi$"}
    for i in range(0, len(parts), 2):
        for mark, latex in marks.items():
            parts[i] = parts[i].replace(mark, latex)
    return "$".join(parts)


def _state(
    system: System,
    level: Level,
    update: Update,
    state: str,
    latex: bool,
    first: bool,
    names: list[Named],
) -> list[Row]:
    """The rows (left, relation, right, why) of one state's derivation."""
    bare = Notation(system, latex=latex, own=level.name, plain_base=True)
    base = update.base[state]
    plain = base.op == "state" and base.attr == (state, "prev")
    n = Notation(system, latex=latex, own=level.name, plain_base=plain)
    S, eq, arrow = n.symbol(state), "=", r"\leftarrow" if latex else "←"
    ell, nabla = (r"\ell", r"\nabla") if latex else ("ℓ", "∇")
    rows: list[Row] = []
    if level.rule is not None:
        objective = simplify(level.objective)
        if first:  # the sweep back from the objective is one for all states
            name = S if len(update.new) == 1 else bare.symbol(level.name)
            rows.append((f"{ell}({name})", eq, bare.text(objective), "objective"))
            rows += _chain(bare, update, state, latex) if not names else []
            for x in names:
                of = f"${n.symbol(x.state)}$" if latex else n.symbol(x.state)
                why = f"the {x.what} of {of}" if x.state else "a part that repeats"
                rows.append((n.text(x.symbol), eq, n.text(x.expr), why))
        B = n.state((state, "base"))
        if not plain:
            said = (
                "retain acts before the gradient is taken"
                if level.retain is not None
                else "where the step starts from"
            )
            rows.append((B, eq, replace(n, marked=False).text(base), said))
        if level.toward is not None and level.toward.op != "initial":
            rows.append(("T", eq, bare.text(level.toward), "what it decays towards"))
        at = n.state((state, "anchor")) if level.anchor is not None else B
        point = (f"${B}$" if latex else B) if plain else "B"
        if state in update.gradient:
            rows.append(
                (
                    f"{nabla}{ell}({at})",
                    eq,
                    n.text(named(update.gradient[state], names)),
                    f"gradient at {'the last boundary' if level.anchor else point}",
                )
            )
        stepped = named(simplify(_with_gradient(update, state)), names)
        said = n.text(update.new[state]) if level.inner else _formula(level, n, B, at, latex)
        rows.append((S, arrow, said, _rule(level, bare)))
        filled = replace(n, marked=False).text(stepped)
        if filled != said:
            rows.append((S, arrow, filled, "gradient put in"))
    plainly = Notation(system, latex=latex, own=level.name, plain_base=True, marked=False)
    whole = expanded(update, state, plainly, names)
    if not rows or rows[-1][2] != whole:
        rows.append((S, arrow, whole, "update" if level.rule is None else "multiplied out"))
    return rows


_SILENT = ("num", "state", "per_key", "per_value")


def _chain(n: Notation, update: Update, state: str, latex: bool) -> list[Row]:
    """The reverse sweep: each inner expression that leads to the state and the adjoint that arrives there."""
    partial, eq = (r"\partial\ell/\partial" if latex else "∂ℓ/∂"), "="
    rows = []
    for step in update.steps.get(state, ()):
        if step.left is None or step.right is None or step.left.op in _SILENT:
            continue
        inner = n.text(step.left)
        if (
            step.left.op in ("sqnorm", "dot", "mul", "neg", "sum", "mean")
            and step.left.type.dims == ()
        ):
            continue
        rows.append((f"{partial}({inner})", eq, n.text(step.right), "chain rule"))
    return rows


def _formula(level: Level, n: Notation, base: str, at: str, latex: bool) -> str:
    kind = RULES[level.rule.name]
    text = kind.latex if latex else kind.formula
    if (switch := level.rule.args.get("exact")) is not None and switch.attr is True:
        return _exact(level, n, base, at)
    if "decay" not in level.rule.args:
        text = text.replace(r"\mathrm{decay} \circ {B}", "{B}").replace("decay ∘ {B}", "{B}")
    target = ""
    if level.toward is not None:
        target = "T + "
        text = (
            text.replace("∘ {B}", "∘ ({B} − T)")
            if not latex
            else text.replace(r"\circ {B}", r"\circ ({B} - T)")
        )
    return text.replace("{T}", target).replace("{B}", base).replace("{P}", at)


def _exact(level: Level, n: Notation, base: str, at: str) -> str:
    """The minimum that an exact step leads to, over all samples where there are several."""
    kind, latex = RULES[level.rule.name], n.latex
    key = r"\lVert \Phi x \rVert^2" if latex else "‖Φ x‖²"
    totals = (e for e in walk(level.objective) if e.op == "total")
    over = next((e for e in totals if any(x.op == "state" for x in walk(e))), None)
    if over is not None:
        key = n.over(over, key)
    target = "" if level.toward is None else "T + "
    around = base if level.toward is None else f"({base} {n.minus} T)"
    decay = r"\mathrm{decay} \circ " if latex else "decay ∘ "
    decayed = f"{target}{decay}{around}" if "decay" in level.rule.args else ""
    text = kind.exact_latex if latex else kind.exact
    if not decayed:  # then Φ is the new state
        text = text.partition(r"\ \Phi = " if latex else "Φ = ")[2]
    said = {"{T}": "", "{D}": decayed, "{B}": base, "{P}": at, "{K}": key}
    for mark, value in said.items():
        text = text.replace(mark, value)
    return text


def _rule(level: Level, n: Notation) -> str:
    """The rule as it is called; in LaTeX the arguments are mathematics within the text."""
    dollar = "$" if n.latex else ""
    given = [(k, e) for k, e in level.rule.args.items() if k != "exact" or e.attr]
    args = ", ".join(f"{k} = {dollar}{n.text(e)}{dollar}" for k, e in given)
    return f"the rule {level.rule.name}({args})"


def _with_gradient(update: Update, state: str) -> Expr:
    return rewrite(
        update.new[state], lambda n: update.gradient.get(n.attr) if n.op == "gradient" else None
    )
