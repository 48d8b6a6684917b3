"""The step formulas of language §3: a state after one step of ``gd``, ``dgd`` or ``prox``.

B = T + retain ∘ (M_prev − T)        P = B, or the state at the last anchor boundary
gd    M = T + decay ∘ (B − T) − lr ∘ ∇ℓ(P)
dgd   for each weight w: as gd, and − lr (B_w x_w) x_wᵀ, x_w the weight's input at P (eqs. 56, 88, 113);
      exact: by the way from B to the minimum of ⟨∇ℓ(P), Φ⟩ + ½‖Φ x_w‖² + ½‖Φ − B‖²/lr, over all samples of a layer
prox  M = argmin_Φ ℓ(Φ) + ½‖(Φ − decay ∘ B)/√lr‖², in closed form where ℓ is quadratic in Φ
"""

from __future__ import annotations

from nlc.base.diagnostics import Label, Report
from nlc.ir.expr import Expr, part, rewrite, substitute, walk
from nlc.ir.ops import add, div, leaf, make, mul, num, sub
from nlc.ir.shapes import ShapeError
from nlc.ir.system import Level, State, System
from nlc.ir.types import SAMPLE, Clock, Type
from nlc.passes.affine import NotAffine, affine
from nlc.passes.gradient import gathered_as
from nlc.passes.simplify import simplify


class Terms:
    """What the steps of a level are made of; ``step``: of a rule's own step, whose gradient has the step's name."""

    def __init__(self, system: System, level: Level, report: Report, step: bool = False):
        self.system, self.level, self.report, self.step = system, level, report, step

    def _leaf(self, s: State, time: str) -> Expr:
        kind = Type(s.dims, self.level.head, self.level.read_at(time))
        return leaf("state", (s.name, time), kind)

    def _own(self, e: Expr, s: State) -> Expr:
        """A gate's or a target's part for one state."""
        return part(e, self.level.states.index(s))

    def _prev(self, s: State) -> Expr:
        source = self.level.source
        return self._leaf(s, "prev") if source is None else self._own(source, s)

    def _gradient(self, s: State) -> Expr:
        name = self.level.name if self.step else s.name
        return leaf("gradient", name, Type(s.dims, self.level.head, self.level.clock))

    def _target(self, s: State) -> Expr | None:
        """T of the step formula, None for 0."""
        if self.level.toward is None:
            return None
        toward = self._own(self.level.toward, s)
        if toward.op == "num" and toward.attr == 0:
            return None
        if toward.op == "initial":
            if not s.learned and not s.borrowed:
                return s.init
            return leaf("initial", s.name, Type(s.dims, self.level.head, self.level.clock))
        return toward

    def _base(self, s: State) -> Expr:
        previous, retain = self._prev(s), self.level.retain
        if retain is None:
            return previous
        return self._scaled(self._own(retain, s), previous, self._target(s))

    def _scaled(self, factor: Expr, e: Expr, target: Expr | None) -> Expr:
        return mul(factor, e) if target is None else add(target, mul(factor, sub(e, target)))

    def _decayed(self, s: State, base: Expr, previous: Expr) -> Expr:
        decay = self._arg("decay", s)
        return (
            base
            if decay is None
            else self._scaled(self._at_base(decay, {s.name: previous}), base, self._target(s))
        )

    def _at_base(self, e: Expr, values: dict[str, Expr]) -> Expr:
        return rewrite(
            e, lambda n: values.get(n.attr[0]) if n.op == "state" and n.attr[1] == "base" else None
        )

    def _arg(self, name: str, s: State) -> Expr | None:
        e = self.level.rule.args.get(name)
        return None if e is None else self._own(e, s)


class Formulas(Terms):
    """The rules by name; each gives a state's next value, None where it has said a mistake."""

    def _ruled(self, base: dict[str, Expr], gradients: dict[str, Expr]) -> dict[str, Expr] | None:
        """The states after the level's step formula; for ``prox``, whose point is decayed, ``base`` changes."""
        level = self.level
        rule = {"gd": self._gd, "dgd": self._dgd, "prox": self._prox}[level.rule.name]
        if level.rule.name == "prox":
            self.undecayed = dict(base)
            base.update(
                {s.name: self._decayed(s, base[s.name], base[s.name]) for s in level.states}
            )
        new = {}
        for s in level.states:
            e = rule(s, gradients.get(s.name))
            if e is None:
                return None
            new[s.name] = e
        return new

    def _gd(self, s: State, found: Expr | None, lr: Expr | None = None) -> Expr | None:
        kept = self._decayed(s, self._leaf(s, "base"), self._leaf(s, "base"))
        if found is None:
            return kept
        return sub(kept, mul(lr if lr is not None else self._arg("lr", s), self._gradient(s)))

    def _dgd(self, s: State, found: Expr | None) -> Expr | None:
        """Erases what the state holds at its key, beside the gradient."""
        key = self._key(s)
        if key is None:
            return None
        lr, exact = self._arg("lr", s), self._arg("exact", s)
        x = substitute(
            key,
            {
                self._leaf(o, "var"): self._leaf(o, "anchor" if self.level.anchor else "base")
                for o in self.level.states
            },
        )
        bias = s.dims == () or len(s.dims) == 1
        exactly = exact is not None and exact.attr is True
        if exactly and (several := self._keys(s)) is not None:
            return self._exactly(s, x, lr, several)
        if exactly:
            length = num(1.0) if bias else make("sqnorm", x)
            lr = div(lr, add(num(1.0), mul(lr, length)))
        base = self._leaf(s, "base")
        if bias:
            erased = base
        elif x.type.rank == 1 and not x.type.like:
            erased = make("outer", make("matmul", base, x), x)
        else:  # one key a column: each erases
            erased = make("matmul", make("matmul", base, x), make("T", x))
        stepped = self._gd(s, found, lr)
        return sub(stepped, mul(lr, self._gathered(s, erased)))

    def _keys(self, s: State) -> Clock | None:
        """The clock of a state's keys where its step has several; None where it has one."""
        one = num(1.0)
        gathered = self._gathered(s, one)
        if gathered is one:
            return None
        return next(n for n in walk(gathered) if n.op in ("total", "recent")).args[0].type.clock

    def _exactly(self, s: State, x: Expr, lr: Expr, keys: Clock) -> Expr | None:
        """The minimum for all samples at once, C their Σ x xᵀ: T + decay ∘ (B − T) − lr (∇ℓ + B C)(I + lr C)⁻¹."""
        wrong = None
        if keys != SAMPLE:
            wrong = ("one for each tick", "the exact step of several is no sum")
            help = "leave `exact` out, or let the level tick as often as its keys"
        elif lr.type.dims != ():
            wrong = ("one for each sample", "their exact step takes one `lr`, this has many")
            help = "leave `exact` out, or give it a scalar"
        if wrong is not None:
            self.report.add(
                "NLC503",
                f"`dgd(…, exact=true)` takes one key, and `{s.name}` has {wrong[0]}",
                self.level.rule.span,
                wrong[1],
                helps=[help],
            )
            return None
        base = self._leaf(s, "base")
        kept = self._decayed(s, base, base)
        if len(s.dims) < 2:
            count = self._gathered(s, num(1.0))
            slope = add(self._gradient(s), mul(count, base))
            return sub(kept, mul(div(lr, add(num(1.0), mul(lr, count))), slope))
        C = self._gathered(s, make("outer", x, x))
        slope = add(self._gradient(s), make("matmul", base, C))
        damped = add(make("identity", C), mul(lr, C))
        return sub(kept, mul(lr, make("T", make("solve", damped, make("T", slope)))))

    def _gathered(self, s: State, erased: Expr) -> Expr:
        """What is erased, over the same ticks as the objective: one term for each key (language §3)."""
        variable = self._leaf(s, "var")
        for node in walk(self.level.objective):
            counted = node.op == "div" and node.args[0].op == node.args[1].op == "recent"
            inner = node.args[0] if counted else node
            if inner.op in ("total", "recent") and variable in set(walk(inner)):
                summed = gathered_as(inner, erased)
                count = make("recent", num(1.0), attr=inner.attr) if inner.op == "recent" else None
                means = any(
                    n.op == "div" and n.args == (inner, count) for n in walk(self.level.objective)
                )
                return div(summed, count) if means else summed
        return erased

    def _key(self, s: State) -> Expr | None:
        """The input of a weight in the objective: what stands right of it in ``W @ z``; 1 for a bias."""
        variable = self._leaf(s, "var")
        uses = {node for node in walk(self.level.objective) if variable in node.args}
        keys = []
        for node in uses:
            if node.op == "matmul" and node.args[0] == variable:
                keys.append(node.args[1])
            elif len(s.dims) == 1 and node.op == "add":
                keys.append(num(1.0))
        if len(uses) == len(keys) == 1:
            return keys[0]
        self.report.add(
            "NLC503",
            f"`dgd` finds no key for `{s.name}`",
            self.level.rule.span,
            f"`{s.name}` is read in {len(uses)} ways in the objective"
            if len(uses) != 1
            else f"`{s.name}` is not read as `{s.name} @ z`",
            related=[Label(self.level.objective.span, "this objective")]
            if self.level.objective.span
            else [],
            helps=["each weight must occur once in the read, as `W @ z`; else use `gd`"],
        )
        return None

    def _prox(self, s: State, found: Expr | None) -> Expr | None:
        """(∇²ℓ + 1/lr) Δ = −∇ℓ(D) at D = decay ∘ B, for a Hessian λ I + c x xᵀ (Sherman–Morrison)."""
        base = self._leaf(s, "base")
        lr = self._at_base(self._arg("lr", s), self.undecayed)
        if found is None:
            return base
        try:
            hessian = self._hessian(s, found)
        except (NotAffine, ShapeError) as e:
            node = getattr(e, "node", self.level.objective)
            span = node.span or self.level.objective.span
            self.report.add(
                "NLC504",
                f"`prox` has no closed form for level `{self.level.name}`",
                self.level.rule.span,
                "the objective is not quadratic in the state with one key",
                related=[Label(span, "this is in the way")] if span else [],
                helps=[
                    "use `gd` with a step size, or an objective such as `0.5 * sqnorm(S(key) - value)`"
                ],
            )
            return None
        curvature, strength, x = hessian
        g, one = self._gradient(s), num(1.0)
        per_key = lr.op == "per_key"
        by_rows = (
            lr.op == "per_value" and len(s.dims) == 2
        )  # the Hessian acts on each row by itself
        by_keys = per_key and curvature is None and x is not None
        if lr.type.dims != () and not (by_rows or by_keys):
            self.report.add(
                "NLC504",
                f"`prox` has no closed form for this step in level `{self.level.name}`",
                lr.span or self.level.rule.span,
                "a factor for each key channel needs an objective with one term, of one key"
                if per_key
                else "a scalar or `per_value(…)` has one",
            )
            return None
        damp = one if curvature is None else add(one, mul(lr, curvature))
        if x is None:
            return sub(base, mul(div(lr, damp), g))
        if per_key:
            scaled = mul(lr.args[0], x)
            down = add(one, mul(strength, make("dot", x, scaled)))
            erase = make("outer", make("matmul", g, scaled), scaled)
            return sub(base, sub(mul(lr, g), mul(div(strength, down), erase)))
        reach = add(damp, mul(mul(lr, strength), make("sqnorm", x)))
        if curvature is None and self._along(found, x):
            return sub(base, mul(div(lr, reach), g))
        rank_one = (
            make("outer", make("matmul", g, x), x)
            if len(s.dims) == 2
            else mul(make("dot", g, x), x)
        )
        inner = sub(g, mul(div(mul(lr, strength), reach), rank_one))
        return sub(base, mul(div(lr, damp), inner))

    def _hessian(self, s: State, found: Expr) -> tuple[Expr | None, Expr | None, Expr | None]:
        """(λ, c, x) with ∇ℓ(Φ) = λ Φ + c Φ x xᵀ + constant; NotAffine otherwise."""
        is_state = lambda e: e.op == "state" and e.attr[0] == s.name  # noqa: E731
        flat, strength, key = None, None, None
        for word in affine(found, is_state):
            if not word.linear:
                continue
            coefficient = num(word.number)
            for factor in word.scalars:
                coefficient = mul(coefficient, factor)
            kinds = [f.kind for f in word.factors]
            if kinds == ["state"]:
                flat = coefficient if flat is None else add(flat, coefficient)
                continue
            shape = {("state", "column", "row"): (1, 2), ("column", "row", "state"): (0, 1)}.get(
                tuple(kinds)
            )
            if (
                shape is None
                or word.factors[shape[0]].expr != word.factors[shape[1]].expr
                or key is not None
            ):
                raise NotAffine(found)
            if (len(s.dims) == 1) != (kinds[0] == "column"):
                raise NotAffine(found)
            strength, key = coefficient, word.factors[shape[0]].expr
        return (
            simplify(flat) if flat is not None else None,
            simplify(strength) if strength is not None else None,
            key,
        )

    def _along(self, found: Expr, x: Expr) -> bool:
        """Whether the gradient is r xᵀ, so that its part along x is all of it."""
        words = affine(found, lambda e: False)
        return all(
            w.factors and w.factors[-1].kind == "row" and w.factors[-1].expr == x for w in words
        )
