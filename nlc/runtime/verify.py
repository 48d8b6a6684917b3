"""Shows that what was compiled is what the spec says, on random inputs, by means that share little with the compiler.

The measure is ``runtime/interpreter``: the spec itself, tick by tick. Sizes are small and everything is float64, so
that a difference is a mistake and not rounding; memories are then watched over many tokens in float32, as users run them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nlc.backends.reference.file import attribute_path
from nlc.ir.expr import Expr, walk
from nlc.ir.system import Level, System
from nlc.ir.types import Dim
from nlc.runtime.interpreter import Interpreter, Place, States
from nlc.tools.sizes import Values, longest, settled, small

if TYPE_CHECKING:
    from nlc.pipeline import Spec

EXACT = 1e-10  # float64 against float64, another order of operations
SAME = 1e-12  # the same operations, in pieces
WIDTH = 8
BATCH = 2
MOST = 100  # ticks that are interpreted: a tick costs milliseconds


@dataclass(frozen=True)
class Check:
    """One line of the report. ``error`` is relative; ``passed`` None says a fact that is no verdict."""

    what: str
    error: float | None = None
    tolerance: float | None = None
    passed: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Verification:
    """What was checked, at which hypers, and how it came out."""

    system: str
    seed: int
    hypers: dict[str, Any]
    checks: tuple[Check, ...] = field(repr=False)

    @property
    def passed(self) -> bool:
        return all(c.passed is not False for c in self.checks)

    def __str__(self) -> str:
        from nlc.tools.verification import table

        return table(self)

    def asdict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}


def verify(
    spec: Spec,
    backends: Iterable[str],
    *,
    seed: int = 0,
    tokens: int = 2000,
    hypers: Mapping[str, Any] | None = None,
) -> Verification:
    """All checks of a spec.

    Raises SpecError for a spec with mistakes, UnknownHyper for a hyper that it has not, ValueError for hypers that its
    constructor refuses.
    """
    fixed = dict(hypers or {})
    chosen = small(spec.system, fixed, WIDTH)
    kind = _Tokens if spec.system.context == "tokens" else _Gradients
    checks = kind(spec, chosen, seed).checks(backends)
    if kind is _Tokens and spec.system.levels:
        from nlc.runtime.alive import alive

        checks += alive(spec, fixed, seed, tokens)
    return Verification(spec.system.name, seed, {**chosen}, tuple(checks))


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest relative error of any tensor; infinite where one is not finite or has another shape."""
    scale = max((x.abs().max().item() for x in expected.values() if x.numel()), default=0.0)
    worst = 0.0
    for name, b in expected.items():
        a = found[name]
        if a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
            return float("inf")
        size = max(b.abs().max().item(), 1e-4 * scale, 1e-30) if b.numel() else 1.0
        worst = max(worst, (a - b).abs().max().item() / size if b.numel() else 0.0)
    return worst


def compared(what: str, error: float, tolerance: float, note: str = "") -> Check:
    return Check(what, error, tolerance, error <= tolerance, note)


class _Gradients_of_levels:
    """Derived gradients beside the interpreter's, at the states and flows of its run."""

    def __init__(self, spec: Spec, interpreter: Interpreter):
        self.updates, self.interpreter = spec.updates, interpreter
        self.errors: dict[str, float] = {}
        self.levels = [
            n for n, u in spec.updates.items() if u.gradient
        ]
        interpreter.observe = self.observe

    def observe(self, level: Level, at: Place, slopes: States) -> None:
        run = self.interpreter
        found = {
            n: run.like(run.value(e, at), slopes[n])
            for n, e in self.updates[level.name].gradient.items()
        }
        zero = {n: torch.zeros_like(x) for n, x in slopes.items()}
        error = difference({**zero, **found}, slopes)
        self.errors[level.name] = max(error, self.errors.get(level.name, 0.0))

    def checks(self) -> list[Check]:
        out = []
        for n in self.levels:
            what = f"{n}: derived gradient = autograd of the objective"
            if n in self.errors:
                out.append(compared(what, self.errors[n], EXACT))
            else:
                out.append(Check(what, note=f"not reached in {MOST} ticks"))
        return out


class _Tokens:
    """A module against the interpreter, in pieces, and saved in between."""

    def __init__(self, spec: Spec, chosen: Values, seed: int):
        self.spec, self.system, self.chosen, self.seed = spec, spec.system, chosen, seed
        self.hypers = settled(spec.system, chosen)
        self.period = longest(self.system, self.hypers)
        self.length = min(max(2 * self.period + 3, 9), MOST)

    def checks(self, backends: Iterable[str]) -> list[Check]:
        out: list[Check] = []
        for name in backends:
            torch.manual_seed(self.seed)
            net = randomised(self.spec.compile(name)(**self.chosen))
            start = self._start(net)
            given = draw(self.system, self.hypers, BATCH, self.length)
            expected = self._interpreted(net, given, start, None)
            if not all(x.isfinite().all() for x in expected.values()):
                given = draw(self.system, self.hypers, BATCH, self.length, positive=True)
            gradients = None
            if not out:
                run = self._interpreter(net)
                gradients = _Gradients_of_levels(self.spec, run)
                self._interpreted(net, given, start, run)
                out += gradients.checks()
            out += self._against(net, given, start, name)
            out += self._pieces(net, given, start, name)
        return out

    # ---------------------------------------------------------------------------------------- what is run

    def _start(self, net: torch.nn.Module) -> States:
        """Random states for memories that start at zero, so that their first tick shows what it does."""
        first = draw(self.system, self.hypers, BATCH, 1)
        fresh = net.initial_state(next(iter(first.values())))
        return {
            s.name: torch.randn_like(fresh[s.name]).requires_grad_()
            for s in self.system.states.values()
            if s.init is None and not s.learned and s.name in fresh
        }

    def _interpreter(self, net: torch.nn.Module) -> Interpreter:
        named = {f"self.{n}": p for n, p in net.named_parameters()}
        return Interpreter(self.system, self.hypers, _Paths(named))

    def _interpreted(
        self, net: torch.nn.Module, given: States, start: States, run: Interpreter | None
    ) -> States:
        """Outputs ``y.…`` [B, T, …] and states at the end, one token at a time."""
        run = run or self._interpreter(net)
        heads = {n: i.head for n, i in self.system.inputs.items()}
        states = run.begin(BATCH)
        states |= {n: x if self._head(n) else x[:, None] for n, x in start.items()}
        collected: dict[str, list[Tensor]] = {n: [] for n in self.system.output}
        for t in range(self.length):
            now = {n: x[:, t] if heads[n] else x[:, t, None] for n, x in given.items()}
            outputs, states = run.tick(now, states)
            for n, y in outputs.items():
                collected[n].append(y if self.system.output[n].type.head else y[:, 0])
        out = {f"y.{n}": torch.stack(list(torch.broadcast_tensors(*y)), 1) for n, y in collected.items()}
        return out | {n: x if self._head(n) else x[:, 0] for n, x in states.items()}

    def _head(self, state: str) -> bool:
        return self.system.levels[self.system.states[state].level].head

    def _compiled(
        self, net: torch.nn.Module, given: States, state: dict[str, Tensor] | None
    ) -> tuple[States, dict[str, Tensor]]:
        y, state = net(**_arguments(given), state=state)
        outputs = y if isinstance(y, dict) else {next(iter(self.system.output)): y}
        return {f"y.{n}": x for n, x in outputs.items()}, state

    def _opened(self, net: torch.nn.Module, given: States, start: States) -> dict[str, Tensor] | None:
        first = next(iter(given.values()))
        return {**net.initial_state(first), **start}

    # ---------------------------------------------------------------------------------------- checks

    def _against(self, net: torch.nn.Module, given: States, start: States, name: str) -> list[Check]:
        leaves = {f"input {n}": x.requires_grad_() for n, x in given.items()}
        leaves |= {f"start {n}": x for n, x in start.items()}
        leaves |= dict(net.named_parameters())
        expected = self._interpreted(net, given, start, None)
        found, state = self._compiled(net, given, self._opened(net, given, start))
        found |= {n: state[n] for n in expected if n in state}
        outputs = [n for n in expected if n.startswith("y.")]
        noise = {n: torch.randn_like(expected[n]) for n in outputs}

        def slopes(of: States) -> States:
            loss = sum((noise[n] * of[n]).sum() for n in outputs)
            made = torch.autograd.grad(
                loss, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
            return dict(zip(leaves, made))

        mine, theirs = slopes(found), slopes(expected)
        pick = lambda of, names: {n: of[n] for n in names}  # noqa: E731
        states = [n for n in expected if n not in outputs]
        note = f"{self.length} tokens"
        out = [
            compared(f"{name}: outputs = the interpreter's", difference(pick(found, outputs), pick(expected, outputs)), EXACT, note),
            compared(f"{name}: states at the end = the interpreter's", difference(pick(found, states), pick(expected, states)), EXACT, note),
            compared(f"{name}: gradients of the outputs = the interpreter's", difference(mine, theirs), EXACT, f"{len(leaves)} tensors"),
        ]
        if not states:
            out.pop(1)
        return out + self._reached(mine, net, name)

    def _reached(self, slopes: States, net: torch.nn.Module, name: str) -> list[Check]:
        """The outer gradient arrives at every learned start."""
        weights = {n: slopes[n].norm().item() for n in dict(net.named_parameters())}
        most = max(weights.values(), default=0.0)
        out = []
        for s in self.system.states.values():
            if s.learned and self.system.levels[s.level].backprop:
                size = weights[attribute_path(f"{s.name}.init").removeprefix("self.")] / (most or 1.0)
                note = f"{size:.1e} of the largest gradient of a weight"
                out.append(Check(f"{name}: the loss reaches the start of {s.name}", None, None, size > 1e-6, note))
        return out

    def _pieces(self, net: torch.nn.Module, given: States, start: States, name: str) -> list[Check]:
        """One call, the same stream in pieces, token by token, and through files at every cut."""
        with torch.no_grad():
            whole, end = self._compiled(net, given, self._opened(net, given, start))
            cuts = sorted({0, 1, 2, self.length // 2, self.length // 2 + 1, self.length - 1, self.length})
            whole |= {f"state {n}": x for n, x in end.items() if x.is_floating_point()}
            pieces = self._stream(net, given, start, cuts, saved=False)
            single = self._stream(net, given, start, range(self.length + 1), saved=False)
            stored = self._stream(net, given, start, cuts, saved=True)
        where = ", ".join(map(str, cuts[1:-1]))
        return [
            compared(f"{name}: a stream in pieces = one call", difference(pieces, whole), SAME, f"cut after {where}"),
            compared(f"{name}: token by token = one call", difference(single, whole), SAME),
            compared(f"{name}: saved and loaded at every cut", difference(stored, pieces), 0.0),
        ]

    def _stream(self, net: torch.nn.Module, given: States, start: States, cuts: Iterable[int], saved: bool) -> States:
        cuts, parts, state = list(cuts), [], self._opened(net, given, start)
        for a, b in zip(cuts, cuts[1:]):
            if saved:
                weights, state = through_a_file((net.state_dict(), state))
                net = type(net)(**self.chosen).double()
                net.load_state_dict(weights)
            part, state = self._compiled(net, {n: x[:, a:b] for n, x in given.items()}, state)
            parts.append(part)
        out = {n: torch.cat([p[n] for p in parts], 1) for n in parts[0]}
        return out | {f"state {n}": x for n, x in state.items() if x.is_floating_point()}


class _Gradients:
    """An optimizer against the interpreter on tensors of several ranks, and resumed at every step."""

    def __init__(self, spec: Spec, chosen: Values, seed: int):
        self.spec, self.system, self.chosen, self.seed = spec, spec.system, chosen, seed
        self.hypers = settled(spec.system, chosen)
        self.steps = min(max(3 * longest(self.system, self.hypers), 7), MOST)
        self.trained = next(s.name for s in self.system.states.values() if s.trained)

    def checks(self, backends: Iterable[str]) -> list[Check]:
        out: list[Check] = []
        for name in backends:
            made = self.spec.compile(name)
            noise = torch.Generator().manual_seed(self.seed)
            worst = {"weights": 0.0, "memories": 0.0, "resumed": 0.0}
            gradients: dict[str, float] = {}
            for shape in _shapes(self.system):
                W = torch.randn(shape, generator=noise, dtype=torch.float64)
                g = torch.randn([self.steps, *shape], generator=noise, dtype=torch.float64)
                run = Interpreter(self.system, self.hypers, {}, _sides(self.trained, shape))
                seen = _Gradients_of_levels(self.spec, run)
                expected = self._interpreted(run, W, g)
                found = self._compiled(made, W, g)
                again = self._compiled(made, W, g, saved=True)
                for n, e in seen.errors.items():
                    gradients[n] = max(e, gradients.get(n, 0.0))
                kept = {n: x for n, x in expected.items() if n != "steps"}
                pairs = {
                    "weights": ({"W": found["steps"]}, {"W": expected["steps"]}),
                    "memories": ({n: found[n] for n in kept}, kept),
                    "resumed": (again, found),
                }
                for key, pair in pairs.items():
                    worst[key] = max(worst[key], difference(*pair))
            if not out:
                seen.errors = gradients
                out += seen.checks()
            shapes = " ".join(str(list(s)) for s in _shapes(self.system))
            note = f"{self.steps} steps of {shapes}"
            out.append(compared(f"{name}: weights = the interpreter's", worst["weights"], EXACT, note))
            if len(self.system.states) > 1:
                out.append(compared(f"{name}: memories = the interpreter's", worst["memories"], EXACT, note))
            out.append(compared(f"{name}: saved and loaded after every step", worst["resumed"], 0.0))
        return out

    def _interpreted(self, run: Interpreter, W: Tensor, g: Tensor) -> States:
        states, steps = run.begin(**{self.trained: W}), []
        for t in range(self.steps):
            _, states = run.tick({"g": g[t]}, states)
            states = {n: x.detach() for n, x in states.items()}  # no gradient passes from step to step
            steps.append(states[self.trained])
        rest = {n: x for n, x in states.items() if n != self.trained}
        return {"steps": torch.stack(steps), **rest}

    def _compiled(self, made: type, W: Tensor, g: Tensor, saved: bool = False) -> States:
        p = torch.nn.Parameter(W.clone())
        optimizer, steps = made([p], **self.chosen), []
        for t in range(self.steps):
            p.grad = g[t].clone()
            optimizer.step()
            steps.append(p.detach().clone())
            if saved:
                state = through_a_file(optimizer.state_dict())
                p = torch.nn.Parameter(p.detach().clone())
                optimizer = made([p], **self.chosen)
                optimizer.load_state_dict(state)
        rest = {n: x for n, x in optimizer.state[p].items() if n in self.system.states}
        return {"steps": torch.stack(steps), **rest}


# ---------------------------------------------------------------------------------------------- what both need


class _Paths(dict):
    """Parameters of a module by the paths of the spec."""

    def __missing__(self, path: str) -> Tensor:
        return self[attribute_path(path)] if not path.startswith("self.") else _absent(path)


def _absent(path: str) -> Tensor:
    raise KeyError(path)


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """In float64, with every weight moved, so that none is at a special value."""
    net = net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return net


def draw(system: System, hypers: Values, batch: int, length: int, positive: bool = False) -> States:
    """Random inputs; numbers are within (0, 1), as gates are, and with ``positive`` vectors are too."""
    sizes = {k: v for k, v in hypers.items() if not isinstance(v, list)}
    out = {}
    for n, i in system.inputs.items():
        heads = [int(system.heads.evaluate(sizes))] if i.head else []
        dims = [int(d.evaluate(sizes)) for d in i.dims if isinstance(d, Dim)]
        x = torch.randn(batch, length, *heads, *dims, dtype=torch.float64)
        out[n] = x.sigmoid() if positive or not dims else x
    return out


def _arguments(given: States) -> dict[str, Tensor]:
    return {attribute_path(n).removeprefix("self."): x for n, x in given.items()}


def through_a_file(x: Any) -> Any:
    """Saved and loaded as users do."""
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _shapes(system: System) -> list[tuple[int, ...]]:
    """Ranks that a gradient system takes: one that names rows and columns takes matrices alone."""
    exprs: list[Expr] = [f.expr for f in system.flows.values()]
    exprs += [e for level in system.levels.values() for e in level.expressions]
    dims = [d for s in system.states.values() for d in s.dims]
    dims += [d for e in exprs for n in walk(e) if n.type is not None for d in n.type.dims]
    matrix = any(isinstance(d, Dim) and "(" in s for d in dims if isinstance(d, Dim) for s in d.symbols)
    return [(4, 3), (3, 4)] if matrix else [(), (5,), (4, 3), (3, 4)]


def _sides(trained: str, shape: tuple[int, ...]) -> dict[str, int]:
    if len(shape) < 2:
        return {}
    return {f"rows({trained})": shape[-2], f"cols({trained})": shape[-1]}
