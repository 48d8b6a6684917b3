"""A generated module against the interpreter: outputs, states, gradients; in pieces; saved and loaded."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise, product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nlc.runtime.interpreter import Interpreter
from nlc.runtime.ticks import States
from nlc.runtime.verify.derived import MOST, Derived, through_a_file
from nlc.runtime.verify.draws import Weights, draw, named, numbers, randomised, unbroken
from nlc.runtime.verify.gradients import rule_checks
from nlc.runtime.verify.report import (
    EXACT,
    NO_NUMBERS,
    ROUNDED,
    SAME,
    Check,
    compared,
    difference,
    limit,
    refused,
)
from nlc.tools.sizes import Values, longest, settled

if TYPE_CHECKING:
    from nlc.pipeline import Spec

BATCH = 2
LEAST = 9  # tokens; two of the longest period and a little more where that is more
LARGE = 1e6  # values and gradients of a check stay below this
ENLARGED = 10.0  # times what rounding the weights and inputs does: rounding within adds to it
REACHED = 1e-6  # of the largest gradient of a weight


def module_checks(spec: Spec, backends: Iterable[str], chosen: Values, seed: int) -> list[Check]:
    """Each backend by itself, on the same weights and inputs; derivation comes before them all."""
    out: list[Check] = []
    first: _Module | None = None
    for name in backends:
        torch.manual_seed(seed)
        try:
            module = _Module(spec, spec.compile(name), chosen, name, first)
        except NO_NUMBERS as error:
            out.append(refused(f"{name}: the numbers of every tick can be computed", error))
            continue
        if module.scale is None:
            what = f"{name}: values and gradients of {module.length} random tokens stay below {LARGE:g}"
            out.append(Check(what, passed=False, note="too large, or no numbers, to be compared"))
            continue
        if first is None:
            first = module
            out += module.derived.checks()
        out += [*module.equals(), *module.pieces()]
        out += rule_checks(spec, module.net, name, seed)
    return out


class _Module:
    """One generated class with random weights, inputs and first states, or with those of another.

    ``expected`` and ``slopes`` are the interpreter's: outputs and states, and the gradients of outputs times ``noise``.
    ``derived`` watched it.
    """

    derived: Derived
    noise: States
    expected: States
    slopes: States

    def __init__(
        self, spec: Spec, made: type, chosen: Values, backend: str, like: _Module | None = None
    ):
        self.system, self.backend, self.chosen = spec.system, backend, chosen
        self.hypers = settled(spec.system, chosen)
        period = longest(self.system, self.hypers)
        self.length = min(max(2 * period + 3, LEAST), MOST)
        self.net = randomised(made(**chosen))
        self.given = draw(self.system, self.hypers, BATCH, self.length)
        self.fresh = self.net.initial_state(next(iter(self.given.values())))
        self.tolerance, self.why = limit([self.system])
        chunks = any(choice.plan != "sequential" for choice in spec.choices(backend))
        self.cut = self.tolerance if chunks else SAME  # pieces cut chunks elsewhere
        if like is None:
            self.scale = self._draw(spec)
            return
        self.net.load_state_dict(like.net.state_dict())
        self.scale, self.given, self.start = like.scale, like.given, like.start
        self.noise, self.expected, self.slopes = like.noise, like.expected, like.slopes

    def _draw(self, spec: Spec) -> float | None:
        """Inputs at which nothing grows out of hand, as drawn or scaled down; positive where a root asks for it.

        Rounding grows as the values do, so what is far away says nothing. The interpreter has the last word: a class
        leaves out what has no effect, a root among it. Returns the scale; None where there is none.
        """
        for scale, positive in product((1.0, 0.5, 0.25, 0.125), (False, True)):
            given = draw(self.system, self.hypers, BATCH, self.length, positive)
            drawn = {n: (scale * x).requires_grad_() for n, x in numbers(given).items()}
            self.given = {**given, **drawn}
            starts = {  # a memory from zero starts elsewhere, so that its first tick shows what it does
                s.name: torch.randn_like(self.fresh[s.name])
                for s in self.system.states.values()
                if s.init is None and not s.learned and not s.passing
            }
            starts = {n: x.abs() if positive else x for n, x in starts.items()}
            self.start = {n: x.requires_grad_() for n, x in starts.items()}
            outputs, state = self.compiled(self.given)
            _, soon = self.compiled({n: x[:, :1] for n, x in self.given.items()})
            values = [
                *outputs.values(),
                *state.values(),
                *soon.values(),
            ]  # a reset may hide the start
            leaves = [*drawn.values(), *self.start.values(), *self.net.parameters()]
            loss = sum(x.sum() for x in outputs.values())
            slopes = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
            if not all(bool((x.abs() < LARGE).all()) for x in (*values, *slopes)):
                continue
            self.derived = Derived(spec.updates)
            self._interpret()
            if all(x.isfinite().all() for x in (*self.expected.values(), *self.slopes.values())):
                return scale
        return None

    # ---------------------------------------------------------------------------------------- what is run

    def _interpret(self) -> None:
        """What the class must give, one token at a time: outputs, as ``output y`` [B, T, …], states, gradients.

        One sequence after the other where a declared clock ticks differently in each.
        """
        alone = bool(self.system.declared)
        parts = [range(n, n + 1) for n in range(BATCH)] if alone else [range(BATCH)]
        made = [self._interpreted(slice(p.start, p.stop)) for p in parts]
        self.expected = {n: torch.cat([run[n] for run in made]) for n in made[0]}
        outputs = {n: x for n, x in self.expected.items() if n.startswith("output ")}
        self.noise = {n: torch.randn_like(x) for n, x in outputs.items()}
        self.slopes = self._slopes(outputs)

    def _interpreted(self, part: slice) -> States:
        run = self.derived.watch(Interpreter(self.system, self.hypers, Weights(self.net)))
        given = {n: x[part] for n, x in self.given.items()}
        states = run.begin(part.stop - part.start)
        for n, x in self.start.items():
            states[n] = x[part] if self._headed(n) else x[part, None]
        collected: dict[str, list[Tensor]] = {n: [] for n in self.system.output}
        for t in range(self.length):
            token = {n: x[:, t] for n, x in given.items()}
            token = {n: x if self.system.inputs[n].head else x[:, None] for n, x in token.items()}
            outputs, states = run.tick(token, states)
            for n, y in outputs.items():
                collected[n].append(y if self.system.output[n].type.head else y[:, 0])
        ends = {n: x if self._headed(n) else x[:, 0] for n, x in states.items()}
        return {**{f"output {n}": torch.stack(y, 1) for n, y in collected.items()}, **ends}

    def compiled(
        self,
        given: States,
        state: dict[str, Tensor] | None = None,
        net: torch.nn.Module | None = None,
    ) -> tuple[States, dict[str, Tensor]]:
        state = self._first if state is None else state
        y, state = (net or self.net)(**named(given), state=state)
        outputs = y if isinstance(y, dict) else {next(iter(self.system.output)): y}
        return {f"output {n}": x for n, x in outputs.items()}, state

    @property
    def _first(self) -> dict[str, Tensor]:
        """The state before the first token; a declared boundary is first where the state starts."""
        anchors = {f"{n}.anchor": x for n, x in self.start.items()}
        fresh = self.net.initial_state(next(iter(self.given.values())))  # computed, so anew
        return {
            **fresh,
            **self.start,
            **{n: x for n, x in anchors.items() if n in self.fresh},
        }

    def _headed(self, state: str) -> bool:
        return self.system.levels[self.system.states[state].level].head

    # ---------------------------------------------------------------------------------------- checks

    def _slopes(self, outputs: States) -> States:
        """The gradients of a random projection of the outputs, by all that they depend on."""
        weights = dict(self.net.named_parameters())
        given = {f"input {n}": x for n, x in numbers(self.given).items()}
        leaves = {**given, **self.start, **weights}
        loss = sum((x * outputs[n]).sum() for n, x in self.noise.items())
        made = torch.autograd.grad(
            loss, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        return dict(zip(leaves, made))

    def equals(self) -> list[Check]:
        """Outputs, states, and the gradients of a random projection of the outputs."""
        found, state = self.compiled(self.given)
        kept = (n for n, s in self.system.states.items() if not s.passing)
        states = {n: self.expected[n] for n in kept}
        mine = self._slopes(found)
        allowed = [self.tolerance] * 3
        if self.tolerance > EXACT:
            allowed = self._allowed(found, state, mine)
        equal = "= the interpreter's"
        outputs = difference(found, {n: self.expected[n] for n in found})
        scaled = f", inputs times {self.scale:g}" * (self.scale != 1)
        note = f"{self.length} tokens{scaled}{self.why}"
        out = [self._compared(f"the outputs {equal}", outputs, allowed[0], note)]
        if states:
            ends = difference(state, states)
            out.append(self._compared(f"the states at the end {equal}", ends, allowed[1]))
        what, note = f"the gradients of the outputs {equal}", f"of {len(mine)} tensors"
        out.append(self._compared(what, difference(mine, self.slopes), allowed[2], note))
        return out + self._reached({n: mine[n] for n, _ in self.net.named_parameters()})

    def _allowed(self, outputs: States, state: States, slopes: States) -> list[float]:
        """How far each may be off where something is in a short format: as far as rounding what goes in moves it.

        Where a step is long or a norm is nearly 0, the same rounding is enlarged more.
        """
        eps = self.tolerance / ROUNDED
        given, start = self.given, self.start
        weights = {n: x.clone() for n, x in self.net.state_dict().items()}

        def rounded(x: Tensor) -> Tensor:
            return (x * (1 + eps * torch.randn_like(x))).detach().requires_grad_()

        try:
            self.given = {**given, **{n: rounded(x) for n, x in numbers(given).items()}}
            self.start = {n: rounded(x) for n, x in start.items()}
            self.net.load_state_dict({n: rounded(x).detach() for n, x in weights.items()})
            found, ends = self.compiled(self.given)
            moved = [(found, outputs), (ends, state), (self._slopes(found), slopes)]
        finally:
            self.given, self.start = given, start
            self.net.load_state_dict(weights)
        return [max(self.tolerance, ENLARGED * difference(a, b)) for a, b in moved]

    def _reached(self, slopes: States) -> list[Check]:
        """The outer gradient arrives at every learned start."""
        sizes = {n: x.norm().item() for n, x in slopes.items()}
        starts = Weights(self.net)
        paths = {id(p): n for n, p in self.net.named_parameters()}
        out = []
        for s in (s for s in self.system.states.values() if s.learned):
            size = sizes[paths[id(starts[f"{s.name}.init"])]] / (max(sizes.values()) or 1.0)
            if self.system.levels[s.level].backprop:
                note = f"{size:.0e} of the largest gradient, at least {REACHED:.0e}"
                what = f"{self.backend}: the outer gradient reaches the start of {s.name}"
                out.append(Check(what, passed=size > REACHED, note=note))
        return out

    def pieces(self) -> list[Check]:
        """One call, the stream cut in several places, token by token, and through a file at every cut."""
        n, half = self.length, self.length // 2
        cuts = sorted({0, 1, 2, half, half + 1, n - 1, n})
        with torch.no_grad():
            whole = self._stream([0, n])
            pieces, tokens = self._stream(cuts), self._stream(range(n + 1))
            stored = self._stream(self._whole_periods(cuts), saved=True)
        where = f"after {', '.join(map(str, cuts[1:-1]))}"
        return [
            self._compared(
                "a stream in pieces = one call", difference(pieces, whole), self.cut, where
            ),
            self._compared("token by token = one call", difference(tokens, whole), self.cut),
            self._compared("saved and loaded between pieces", difference(stored, pieces), 0.0),
        ]

    def _whole_periods(self, cuts: list[int]) -> list[int]:
        """Where a stream may be saved: anywhere, but between periods whose updates a gradient passes."""
        period = unbroken(self.system, self.hypers)
        whole = {0, *range(period, self.length, period), self.length}
        return sorted(whole) if period > 1 else cuts

    def _stream(self, cuts: Iterable[int], saved: bool = False) -> States:
        cuts, net = list(cuts), self.net
        parts, state = [], self._first
        for a, b in pairwise(cuts):
            if saved:
                weights, state = through_a_file((net.state_dict(), state))
                net = type(net)(**self.chosen).double()
                net.load_state_dict(weights)
            piece = {n: x[:, a:b] for n, x in self.given.items()}
            part, state = self.compiled(piece, state, net)
            parts.append(part)
        return {**{n: torch.cat([p[n] for p in parts], 1) for n in parts[0]}, **state}

    def _compared(self, what: str, error: float, tolerance: float, note: str = "") -> Check:
        return compared(f"{self.backend}: {what}", error, tolerance, note)
