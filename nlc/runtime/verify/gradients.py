"""A generated optimizer against the interpreter, on tensors of several ranks, and resumed after every step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nlc.ir.program import Program
from nlc.ir.routes import Route
from nlc.ir.system import System
from nlc.ir.types import Dim
from nlc.ir.update import Update
from nlc.lib.rules import KINDS as TENSORS
from nlc.lib.rules import LAYERS
from nlc.runtime.interpreter import Interpreter
from nlc.runtime.ticks import States
from nlc.runtime.verify.derived import MOST, Derived, through_a_file
from nlc.runtime.verify.feeds import Given, Trained, feed, parts
from nlc.runtime.verify.report import NO_NUMBERS, SAME, Check, compared, difference, limit, refused
from nlc.runtime.views import rejoined, shown
from nlc.tools.sizes import Values, longest, settled

if TYPE_CHECKING:
    from nlc.pipeline import Spec

SHAPES = ((), (5,), (4, 3), (3, 4))
KINDS = ((3, 3), (2, 3, 2))  # more of them, where kinds of tensors have rules of their own
OF_CONVOLUTIONS = (4, 3, 2, 2)
LEAST = 7  # steps; three of the longest period where that is more
EVALUATED = "eval_at"  # among memories: what takes the place of the weights in evaluation
GATHERED = 3  # gradients for one step, in a group with a period


@dataclass
class _Kind:
    """Tensors that one system trains: all of them, or those of a route that ``applies_to`` has; ``view``: as these."""

    name: str
    system: System
    updates: dict[str, Update]
    program: Program
    shapes: list[tuple[int, ...]]
    view: tuple = ()
    group: dict[str, object] = field(
        default_factory=dict
    )  # names the route, where the shape does not tell it


def optimizer_checks(spec: Spec, backends: Iterable[str], chosen: Values, seed: int) -> list[Check]:
    """Steps of random gradients, tensor by tensor."""
    noise = torch.Generator().manual_seed(seed)
    runs, out, steps = [], [], LEAST
    for kind in kinds(spec, chosen=chosen):
        hypers, derived = settled(kind.system, chosen), Derived(kind.updates)
        steps = min(max(3 * longest(kind.system, hypers), LEAST), MOST)
        for shape in kind.shapes:
            W = torch.randn(shape, generator=noise, dtype=torch.float64)
            came = feed(kind.system, shape, steps, noise)
            what = f"{steps} steps of random gradients {list(shape)} stay finite"
            try:
                found = _parts(kind, hypers, derived, W, came)
            except NO_NUMBERS as error:
                return [refused(what, error)]
            if not all(bool(x.isfinite().all()) for x in found.values()):
                return [Check(what, passed=False, note="no numbers to be compared")]
            runs.append((kind, W, came, found))
        out += derived.checks(kind.name)
    for name in backends:
        try:
            out += _compiled_checks(spec.compile(name), chosen, runs, name)
        except NO_NUMBERS as error:
            out.append(refused(f"{name}: the numbers of every step can be computed", error))
    return out


def _parts(kind: _Kind, hypers: Values, derived: Derived, W: Tensor, came: list[Given]) -> States:
    """The weights after every step and the memories, of each part that the route's view shows."""
    each = [came] if not kind.view else [*zip(*(_seen(x, kind.view) for x in came), strict=True)]
    found = []
    for i, part in enumerate(shown(W, kind.view)):
        run = Interpreter(kind.system, hypers, {}, sides(kind.system, tuple(part.shape)))
        found.append(_interpreted(derived.watch(run), part, each[i]))
    if not kind.view:
        return found[0]
    steps = [rejoined((x[""][k] for x in found), W, kind.view) for k in range(len(came))]
    memories = {f"{n}[{i}]": x for i, all in enumerate(found) for n, x in all.items() if n != ""}
    return {"": torch.stack(steps), **memories}


def _seen(given: Given, view: tuple) -> list[Given]:
    return [{"g": x} for x in shown(given["g"], view)]


def kinds(
    spec: Spec, shapes: Iterable[tuple[int, ...]] = (), chosen: Values | None = None
) -> Iterator[_Kind]:
    """Which system trains which shapes; routes that ask for more than a kind are named by their groups."""
    program, routes = spec.program(), spec.system.routes
    if not routes:
        matrices = program.matrices or spec.system.context == "layers"
        shapes = [s for s in shapes or SHAPES if len(s) == 2 or not matrices]
        yield _Kind("", spec.system, spec.updates, program, shapes)
        return
    left = [*(shapes or (*SHAPES, *KINDS))]
    hypers, by_kind = settled(spec.system, chosen or {}), all(r.by_kind for r in routes)
    for route in routes:
        own = route.rule is None
        system, updates = (spec.system, spec.updates) if own else spec.rules[route.name]
        made = program if own else program.rules[route.name]
        layer = system.context == "layers"
        told = by_kind and (layer or LAYERS not in route.kinds)
        view, group = route.view.at(hypers), {} if told else {"rule": route.name}
        matrices = made.matrices or layer
        if route.by_kind:
            meets = [
                s for s in left if _takes(route, s) and (not view or _shows(view, s, matrices))
            ]
            left = [s for s in left if s not in meets]
        elif not shapes:
            parts = math.prod(n for name, _, n in view if name == "split")
            pool = (*SHAPES, *KINDS, (2 * parts, 3), (2 * parts, 2 * parts), OF_CONVOLUTIONS)
            meets = [s for s in pool if _takes(route, s)]
        else:
            meets = []
        meets = [s for s in meets if _shows(view, s, matrices)]
        if meets:
            yield _Kind(route.name, system, updates, made, meets, view, group)


def _takes(route: Route, shape: tuple[int, ...]) -> bool:
    dims = tuple(map(Dim.of, shape))
    return not route.kinds or any(TENSORS[kind].takes(dims) for kind in route.kinds)


def _shows(view: tuple, shape: tuple[int, ...], matrices: bool) -> bool:
    """Whether a view is for tensors of a shape, and shows matrices where the rule takes no others."""
    try:
        parts = shown(torch.empty(shape), view)
    except (IndexError, ValueError):
        return False
    return not matrices or all(part.ndim == 2 for part in parts)


def _compiled_checks(made: type, chosen: Values, runs: list, backend: str) -> list[Check]:
    errors = dict.fromkeys(("steps", "memories", "resumed", "gathered"), 0.0)
    anything, rounding = False, 0.0
    for kind, W, came, expected in runs:
        run = (made, chosen, expected, W)
        layer, group = kind.system.context == "layers", kind.group
        found, resumed = (_compiled(*run, came, saved, layer, group) for saved in (0, 1))
        memories = {n: x for n, x in expected.items() if n != ""}
        anything = anything or bool(memories)
        portions = [part for given in came for part in parts(given, GATHERED)]
        several = _compiled(*run, portions, 1, layer, {**group, "period": GATHERED})
        sums = [_sum(portions[i : i + GATHERED]) for i in range(0, len(portions), GATHERED)]
        once = found if layer else _compiled(*run, sums, 0, layer, group)
        held = torch.cat([W[None], once[""][:-1]]).repeat_interleave(GATHERED, 0)
        held[GATHERED - 1 :: GATHERED] = once[""]
        for what, a, b in (
            ("steps", {"": _changes(W, found)}, {"": _changes(W, expected)}),
            ("memories", found, memories),
            ("resumed", resumed, found),
            ("gathered", several, {**once, "": held}),
        ):
            errors[what] = max(errors[what], difference(a, b))
        rounding = max(rounding, _rounding(W, _changes(W, expected)))
    shapes = " ".join(str(list(W.shape)) for _, W, _, _ in runs)
    tolerance, why = limit(kind.system for kind, *_ in runs)
    note = f"{len(runs[0][2])} steps of {shapes}{why}"
    equal = "= the interpreter's"
    what = f"{backend}: the changes of the weights {equal}"
    out = [compared(what, errors["steps"], max(tolerance, rounding), note)]
    if anything:
        what = f"{backend}: the memories {equal}"
        out.append(compared(what, errors["memories"], tolerance))
    out.append(compared(f"{backend}: saved and loaded after every step", errors["resumed"], 0.0))
    what = f"{backend}: a period of {GATHERED} gradients = one of their sum"
    return [*out, compared(what, errors["gathered"], SAME)]


def rule_checks(spec: Spec, net: torch.nn.Module, backend: str, seed: int) -> list[Check]:
    """The rules that a module has for its levels on the outer loss, on random gradients."""
    noise = torch.Generator().manual_seed(seed)
    named = [g.rule for g in spec.program().groups if g.rule is not None]
    ruled = [g for g in net.param_groups() if g.get("rule")] if named else []
    out = []
    for name, group in zip(named, ruled, strict=True):
        rule, (system, updates) = group["rule"], spec.rules[name]
        hypers = {key: group[key] for key in rule.HYPERS}
        settled_hypers, derived = settled(system, hypers), Derived(updates)
        error = rounding = 0.0
        for p in group["params"]:
            start, W = p.detach(), p.detach().clone()
            g = torch.randn([LEAST, *W.shape], generator=noise, dtype=W.dtype)
            run = Interpreter(system, settled_hypers, {}, sides(system, tuple(W.shape)))
            expected = _interpreted(derived.watch(run), start, [{"g": slope} for slope in g])
            state, steps = rule.initial_state(W, **hypers), []
            for slope in g:
                W = rule.update(W.clone(), slope, state, **hypers)
                steps.append(W.clone())
            found = {"": _changes(start, {"": torch.stack(steps)})}
            error = max(error, difference(found, {"": _changes(start, expected)}))
            rounding = max(rounding, _rounding(start, _changes(start, expected)))
        tolerance, why = limit([system])
        what = f"{backend}: the rule {name} of a group = the interpreter's"
        out += [
            *derived.checks(name),
            compared(what, error, max(tolerance, rounding), f"{LEAST} steps{why}"),
        ]
    return out


def _changes(W: Tensor, states: States) -> Tensor:
    """What every step does to the weights: a small step is not hidden behind what it changes."""
    return states[""].diff(dim=0, prepend=W[None])


def _rounding(W: Tensor, changes: Tensor) -> float:
    """How exact the change of a weight can be that is stored in its own format."""
    size = changes.abs().max().item() if changes.numel() else 0.0
    return 16 * torch.finfo(W.dtype).eps * W.abs().max().item() / size if size else 0.0


def _sum(several: list[Given]) -> Given:
    """Gradients added up, in the order in which they come."""
    g = several[0]["g"]
    for given in several[1:]:
        g = g + given["g"]
    return {"g": g}


def _interpreted(run: Interpreter, W: Tensor, came: list[Given]) -> States:
    """The weights after every step, under "", and the memories after the last."""
    trained, states = begun(run, W)
    steps = []
    for given in came:
        states = interpreted_tick(run, states, given)
        steps.append(states[trained])
    if run.system.eval_at is not None:
        states[EVALUATED] = run.evaluated(states)
    del states[trained]
    return {"": torch.stack(steps), **states}


def begun(run: Interpreter, W: Tensor) -> tuple[str, States]:
    """The name of the trained tensor, and all states before the first step."""
    trained = next(s.name for s in run.system.states.values() if s.trained)
    with _same_draws():
        return trained, run.begin(**{trained: W})


def interpreted_tick(run: Interpreter, states: States, given: Given) -> States:
    """The states after a step; no gradient passes to the next, and memories are kept in the formats that they say."""
    _, states = run.tick(given, states)
    return {n: _kept(x.detach(), run.system.states[n].dtype) for n, x in states.items()}


def _kept(x: Tensor, dtype: str | None) -> Tensor:
    return x if dtype is None else x.to(getattr(torch, dtype)).to(x.dtype)


def _compiled(
    made: type,
    chosen: Values,
    names: Iterable[str],
    W: Tensor,
    came: list[Given],
    saved: int,
    layer: bool,
    group: dict[str, object],
) -> States:
    """The same of the generated class; ``saved``: into a new object after every gradient."""
    trained, steps = Trained(made, W, layer, chosen, group), []
    for given in came:
        with _same_draws():  # of the first step
            steps.append(trained.step(given))
        if saved:
            state = through_a_file(trained.optimizer.state_dict())
            trained = Trained(made, steps[-1], layer, chosen, group)
            trained.optimizer.load_state_dict(state)
    kept = {**trained.optimizer.state[trained.parameter]}
    if EVALUATED in names:
        trained.optimizer.eval()
        kept[EVALUATED] = trained.parameter.detach().clone()
        trained.optimizer.train()
        kept[EVALUATED] += trained.parameter.detach() - steps[-1]  # nothing, if it is put back
    return {"": torch.stack(steps), **{n: kept[n] for n in names if n in kept}}


@contextmanager
def _same_draws() -> Iterator[None]:
    """Random starts are the same for all; the caller's draws go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU alone draws
        yield


def sides(system: System, shape: tuple[int, ...]) -> dict[str, int]:
    """The sizes that a trained matrix brings with it."""
    trained = next(s.name for s in system.states.values() if s.trained)
    sides = zip((f"rows({trained})", f"cols({trained})"), shape)
    return dict(sides) if len(shape) == 2 else {}
