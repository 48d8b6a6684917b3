"""A generated optimizer against the interpreter, on tensors of several ranks, and resumed after every step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nlc.ir.expr import Expr, walk
from nlc.ir.system import System
from nlc.ir.types import Dim
from nlc.runtime.expressions import States
from nlc.runtime.interpreter import Interpreter
from nlc.runtime.verify.derived import MOST, Derived, through_a_file
from nlc.runtime.verify.report import EXACT, Check, compared, difference
from nlc.tools.sizes import Values, longest, settled

if TYPE_CHECKING:
    from nlc.pipeline import Spec

SHAPES = ((), (5,), (4, 3), (3, 4))
LEAST = 7  # steps; three of the longest period where that is more


def optimizer_checks(spec: Spec, backends: Iterable[str], chosen: Values, seed: int) -> list[Check]:
    """Steps of random gradients, tensor by tensor."""
    hypers = settled(spec.system, chosen)
    steps = min(max(3 * longest(spec.system, hypers), LEAST), MOST)
    shapes = [s for s in SHAPES if len(s) == 2 or not _only_matrices(spec.system)]
    noise = torch.Generator().manual_seed(seed)
    runs, derived = [], Derived(spec.updates)
    for shape in shapes:
        W = torch.randn(shape, generator=noise, dtype=torch.float64)
        g = torch.randn([steps, *shape], generator=noise, dtype=torch.float64)
        run = Interpreter(spec.system, hypers, {}, _sides(spec.system, shape))
        runs.append((W, g, _interpreted(derived.watch(run), W, g)))
    out = derived.checks()
    for name in backends:
        made, errors = spec.compile(name), {"weights": 0.0, "memories": 0.0, "resumed": 0.0}
        for W, g, expected in runs:
            found, resumed = (_compiled(made, chosen, expected, W, g, saved) for saved in (0, 1))
            memories = {n: x for n, x in expected.items() if n != ""}
            for what, a, b in (
                ("weights", {"": found[""]}, {"": expected[""]}),
                ("memories", found, memories),
                ("resumed", resumed, found),
            ):
                errors[what] = max(errors[what], difference(a, b))
        note = f"{steps} steps of {' '.join(str(list(s)) for s in shapes)}"
        equal = "= the interpreter's"
        out.append(compared(f"{name}: the weights {equal}", errors["weights"], EXACT, note))
        if memories:
            out.append(compared(f"{name}: the memories {equal}", errors["memories"], EXACT))
        out.append(compared(f"{name}: saved and loaded after every step", errors["resumed"], 0.0))
    return out


def _interpreted(run: Interpreter, W: Tensor, g: Tensor) -> States:
    """The weights after every step, under "", and the memories after the last."""
    trained = next(s.name for s in run.system.states.values() if s.trained)
    states, steps = run.begin(**{trained: W}), []
    for slope in g:
        _, states = run.tick({"g": slope}, states)
        states = {n: x.detach() for n, x in states.items()}  # no gradient passes from step to step
        steps.append(states.pop(trained))
        states = {trained: steps[-1], **states}
    del states[trained]
    return {"": torch.stack(steps), **states}


def _compiled(
    made: type, chosen: Values, names: Iterable[str], W: Tensor, g: Tensor, saved: int
) -> States:
    p = torch.nn.Parameter(W.clone())
    optimizer, steps = made([p], **chosen), []
    for slope in g:
        p.grad = slope.clone()
        optimizer.step()
        steps.append(p.detach().clone())
        if saved:
            state = through_a_file(optimizer.state_dict())
            p = torch.nn.Parameter(steps[-1].clone())
            optimizer = made([p], **chosen)
            optimizer.load_state_dict(state)
    kept = optimizer.state[p]
    return {"": torch.stack(steps), **{n: kept[n] for n in names if n in kept}}


def _only_matrices(system: System) -> bool:
    """Whether a system speaks of the rows and columns of the trained tensor."""
    exprs: list[Expr] = [f.expr for f in system.flows.values()]
    exprs += [e for level in system.levels.values() for e in level.expressions]
    dims = [d for s in system.states.values() for d in s.dims]
    dims += [d for e in exprs for n in walk(e) if n.type is not None for d in n.type.dims]
    sides = _sides(system, SHAPES[-1]).keys()
    return any(isinstance(d, Dim) and d.symbols & sides for d in dims)


def _sides(system: System, shape: tuple[int, ...]) -> dict[str, int]:
    """The sizes that a trained matrix brings with it."""
    trained = next(s.name for s in system.states.values() if s.trained)
    sides = zip((f"rows({trained})", f"cols({trained})"), shape)
    return dict(sides) if len(shape) == 2 else {}
