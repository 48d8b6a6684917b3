"""The chunk algebra of the torch backend by itself: every form of a scan against its recurrence, in float64.

The texts run as they stand in generated files. A scan must give what a loop over tokens gives: the states after the
last token, what is read of them after and before each write, as they are and transposed, and the slopes by all that
goes in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from agreement import SAME, SMALL, error
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from nlc.backends.torch.helpers import TEXTS, with_needed
from nlc.backends.torch.scans import FORMS, Form, form
from nlc.backends.torch.scans import error as read_off
from nlc.ir.ops import leaf, mul, neg, num
from nlc.ir.scan import Record
from nlc.ir.types import TOKEN, Dim, Type

BATCH, HEADS, DK, DV = 3, 2, 5, 4
LENGTHS = (1, 63, 64, 65, 150)
READS = [(when, turned) for when in ("after", "before") for turned in (False, True)]
HEAD = """
from __future__ import annotations
import torch
import torch.nn.functional as F
from collections.abc import Callable, Sequence
from torch import Tensor, nn
"""
Tensors = dict[str, Tensor]


def name(f: Form) -> str:
    return f.scan


@cache
def functions(names: frozenset[str], chunk: int | None = None) -> SimpleNamespace:
    """What a generated file would define, with chunks of ``chunk`` tokens if that is given."""
    text = HEAD + "\n".join(TEXTS[n] for n in with_needed(set(names)))
    if chunk is not None:
        text = re.sub(r"^((?:CHANNEL_)?CHUNK) = \d+", rf"\1 = {chunk}", text, flags=re.MULTILINE)
    scope: dict = {}
    exec(text, scope)
    return SimpleNamespace(**{n: scope[n] for n in names})


@dataclass
class Case:
    """One form with its inputs, as a function of them."""

    form: Form
    inputs: Tensors
    source: int = 0
    chunk: int | None = None
    memories: int = 1
    anchored: bool = False  # the first memory comes with what its state answers, the others with what they do not
    states: int = field(init=False)

    def __post_init__(self) -> None:
        self.states = self.inputs["A"].shape[-1] if "A" in self.inputs else 1

    @property
    def reads(self) -> list[tuple[str, bool]]:
        return [] if self.form.end else READS

    def found(self, **given: Tensor) -> Tensors:
        """By the texts of the generated file."""
        f, i = self.form, SimpleNamespace(**given)
        names = {f.scan, *(f.read(*how) for how in self.reads)}
        fn = functions(frozenset(names), self.chunk)
        scan = getattr(fn, f.scan)
        call: Callable = scan.apply if isinstance(scan, type) else scan
        if f.kind == "coupled":
            args = [i.S, i.A, i.k, i.u, *([i.b, i.p, self.source] if f.erase else [])]
            end, seen = call(*args)
            out = {"end": end}
            for how in self.reads:
                for j in range(self.states):
                    out[f"{how} {j}"] = getattr(fn, f.read(*how))(i.v if how[1] else i.q, j, *seen)
            return out
        probe = f.probe or (f.kind == "channel" and f.erase)
        args = [
            i.S,
            i.k,
            i.u,
            *([i.b] if f.erase else []),
            *([i.log_a] if "log_a" in given else []),
        ]
        args += [i.p] if probe else []
        if f.end:
            gates = [i.b, *([i.log_a] if "log_a" in given else [])]
            wrong = -i.u / i.b[..., None]  # what is written is an error times b
            memory = [i.k, wrong, *([i.p] if probe else []), *([i.T] if f.toward else [])]
            known = [i.S, (i.p if probe else i.k) @ i.S.mT] if self.anchored else []
            ends = call(*gates, *((S, *memory, *known) for S in (i.S, i.S + 1)[: self.memories]))
            return {"end": ends[0], **({"of the other": ends[1]} if ends[1:] else {})}
        end, rows, starts = call(*args)
        out, log = {"end": end}, [i.log_a] if "log_a" in given else []
        for how in self.reads:
            seen = [i.k, rows, starts]
            if how[1] and f.symmetric:
                seen = [rows, i.k, starts.mT]
            out[str(how)] = getattr(fn, f.read(*how))(i.v if how[1] else i.q, *seen, *log)
        return out

    def expected(self, **given: Tensor) -> Tensors:
        """By its recurrence, token by token."""
        f, i = self.form, SimpleNamespace(**given)
        coupled = f.kind == "coupled"
        S = i.S if coupled else i.S.unsqueeze(-3)  # [..., states, dv, dk]
        values: dict[str, list[Tensor]] = {}
        for t in range(i.u.shape[-3 if coupled else -2]):
            k, q, v = (x[..., t, :] for x in (i.k, i.q, i.v))
            u = i.u[..., t, :, :] if coupled else i.u[..., t, None, :]
            p = i.p[..., t, :] if "p" in given else k
            before = S
            if coupled:
                kept = torch.einsum("...jl,...lmn->...jmn", i.A[..., t, :, :], S)
            elif f.kind == "none":
                kept = S
            else:
                T = i.T.unsqueeze(-3) if f.toward else 0.0
                a = i.log_a[..., t, :] if f.kind == "channel" else i.log_a[..., t, None]
                kept = T + a.exp()[..., None, None, :] * (S - T)
            if f.erase:
                z = torch.einsum("...mn,...n->...m", S[..., self.source, :, :], p)
                b = i.b[..., t, :] if coupled else i.b[..., t, None]
                u = u - b[..., None] * z[..., None, :]
            S = kept + u[..., None] * k[..., None, None, :]
            for how in self.reads:
                at = S if how[0] == "after" else before
                at, x = (at.mT, v) if how[1] else (at, q)
                for j in range(self.states):
                    label = f"{how} {j}" if coupled else str(how)
                    read = torch.einsum("...mn,...n->...m", at[..., j, :, :], x)
                    values.setdefault(label, []).append(read)
        out = {n: torch.stack(x, -2) for n, x in values.items()}
        if self.memories > 1:
            other = replace(self, memories=1).expected(**{**given, "S": i.S + 1})
            out["of the other"] = other["end"]
        return {"end": S if coupled else S.squeeze(-3), **out}


def case(f: Form, length: int, seed: int = 0, flat: bool = False, **options: object) -> Case:
    """Keys of length one, gates within (0, 1), coefficients of coupled states of either sign.

    ``flat``: what a token gives is the same for all heads, or for all sequences, and has no axis for them.
    """
    noise = torch.Generator().manual_seed(seed)
    lead = {"": (BATCH, HEADS), "head": (BATCH, 1), "batch": (HEADS,), "both": ()}

    def draw(*shape: int, over: str = "") -> Tensor:
        axes = lead[over if flat else ""]
        return torch.randn(*axes, *shape, generator=noise, dtype=torch.float64)

    states = 3 if f.erase else 2
    coupled = (states,) if f.kind == "coupled" else ()
    inputs = {
        "S": torch.randn(BATCH, HEADS, *coupled, DV, DK, generator=noise, dtype=torch.float64),
        "k": torch.nn.functional.normalize(draw(length, DK, over="head"), dim=-1),
        "u": draw(length, *coupled, DV),
        "q": draw(length, DK),
        "v": draw(length, DV),
    }
    if f.kind == "scalar":
        inputs["log_a"] = -draw(length, over="batch").exp() / 4
    elif f.kind == "channel":
        inputs["log_a"] = -draw(length, DK, over="batch").exp() / 4
    elif coupled:
        mixed = 0.3 * draw(length, states, states, over="batch")
        inputs["A"] = mixed / (1 + mixed.abs().sum((-2, -1), keepdim=True)) + 0.4 * torch.eye(
            states
        )
    if f.erase:
        inputs["b"] = draw(length, *coupled, over="both").sigmoid()
        if f.probe or f.kind in ("channel", "coupled"):
            inputs["p"] = torch.nn.functional.normalize(draw(length, DK), dim=-1)
    if f.toward:
        inputs["T"] = torch.randn(HEADS, DV, DK, generator=noise, dtype=torch.float64)
    source = states - 1 if coupled and f.erase else 0
    return Case(f, {n: x.requires_grad_() for n, x in inputs.items()}, source, **options)


def apart(c: Case, alone: bool = False) -> dict[str, float]:
    """What differs, relative to the largest element: values, and the slopes of a random projection of them.

    ``alone``: of each of them too, as where a file reads nothing else. A slope that the others make small, as that by T
    where nothing is forgotten, is as exact as they are.
    """
    found, expected = c.found(**c.inputs), c.expected(**c.inputs)
    assert found.keys() == expected.keys()
    out = {n: error(found[n], x) for n, x in expected.items()}
    noise = torch.Generator().manual_seed(1)
    weights = {n: torch.randn(x.shape, generator=noise, dtype=x.dtype) for n, x in expected.items()}
    for names in ([*found], *([n] for n in found if alone)):
        mine, theirs = (
            torch.autograd.grad(
                sum((weights[n] * x[n]).sum() for n in names),
                list(c.inputs.values()),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for x in (found, expected)
        )
        least = SMALL * max(x.abs().max().item() for x in theirs)
        for n, a, b in zip(c.inputs, mine, theirs):
            out[f"slope of {', '.join(names)} by {n}"] = error(a, b, least)
    return {n: e for n, e in out.items() if not e <= SAME}


@pytest.mark.parametrize("f", FORMS, ids=name)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_scan_is_its_recurrence(f: Form, length: int) -> None:
    assert apart(case(f, length)) == {}


@pytest.mark.parametrize("f", FORMS, ids=name)
def test_what_is_the_same_for_heads_or_sequences_has_no_axis_for_them(f: Form) -> None:
    assert apart(case(f, 70, flat=True)) == {}


@pytest.mark.parametrize("f", FORMS, ids=name)
@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_the_size_of_chunks_changes_nothing(f: Form, chunk: int) -> None:
    assert apart(case(f, 9, chunk=chunk), alone=True) == {}


@pytest.mark.parametrize("f", [f for f in FORMS if f.end], ids=name)
def test_memories_with_the_same_gates_are_as_each_alone(f: Form) -> None:
    assert apart(case(f, 70, memories=2), alone=True) == {}


@pytest.mark.parametrize("f", [f for f in FORMS if f.end], ids=name)
@pytest.mark.parametrize("flat", [False, True])
def test_what_an_anchor_answers_counts_where_it_is_the_state(f: Form, flat: bool) -> None:
    assert apart(case(f, 70, flat=flat, memories=2, anchored=True)) == {}


@pytest.mark.parametrize("f", FORMS, ids=name)
def test_a_piece_with_a_scan_can_be_computed_anew(f: Form) -> None:
    """A checkpoint hands out what a backward pass keeps once."""
    c = case(f, 5)
    anew = checkpoint(lambda: c.found(**c.inputs)["end"], use_reentrant=False)
    ends = anew, c.found(**c.inputs)["end"]
    given = list(c.inputs.values())
    slopes = [torch.autograd.grad(x.sum(), given, materialize_grads=True) for x in ends]
    assert all(map(torch.equal, *slopes))


def test_a_scan_of_ends_alone_writes_an_error_times_what_it_erases_with() -> None:
    b, c = (leaf("var", n, Type((), False, TOKEN)) for n in "bc")
    e, k = (leaf("var", n, Type((Dim.of(4),), False, TOKEN)) for n in "ek")
    for write, wrong in {neg(mul(b, e)): e, mul(e, b): neg(e), mul(c, e): None, e: None}.items():
        r = Record(("S",), 2, k, ((num(1),),), (write,), (b,), source=0)
        assert read_off(r) == wrong
        assert form(r, read=False).end == (wrong is not None)
        assert not form(r, read=True).end


@pytest.mark.parametrize("f", FORMS, ids=name)
def test_slopes_are_those_of_finite_differences(f: Form) -> None:
    """Two chunks and one that is filled up."""
    c = case(f, 5, chunk=2)
    small = {
        n: x[:1, :1].detach().clone().requires_grad_() for n, x in c.inputs.items() if n != "T"
    }
    small |= {n: x[:1].detach().clone().requires_grad_() for n, x in c.inputs.items() if n == "T"}
    names = list(small)

    def values(*given: Tensor) -> tuple[Tensor, ...]:
        return tuple(c.found(**dict(zip(names, given))).values())

    assert gradcheck(values, tuple(small.values()), fast_mode=True)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_running_sum_is_its_recurrence(gated: bool, length: int) -> None:
    noise = torch.Generator().manual_seed(0)
    shapes = {"x": (DK,), "u": (length, DK), **({"log_a": (length,)} if gated else {})}
    given = {
        n: torch.randn(BATCH, *s, generator=noise, dtype=torch.float64) for n, s in shapes.items()
    }
    if gated:
        given["log_a"] = -given["log_a"].exp() / 4
    given = {n: x.requires_grad_() for n, x in given.items()}
    called = "gated_running" if gated else "running"
    found = getattr(functions(frozenset({called})), called)(**given)
    x, out = given["x"], []
    for t in range(length):
        x = x * (given["log_a"][:, t, None].exp() if gated else 1) + given["u"][:, t]
        out.append(x)
    expected = torch.stack(out, 1)
    assert error(found, expected) <= SAME
    weight = torch.randn(expected.shape, generator=noise, dtype=torch.float64)
    slopes = [
        torch.autograd.grad((weight * y).sum(), list(given.values())) for y in (found, expected)
    ]
    assert all(error(a, b) <= SAME for a, b in zip(*slopes))
