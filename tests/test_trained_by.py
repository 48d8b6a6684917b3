"""The graph of a token system that a gradient system trains: memories are of the weights that it really takes."""

from __future__ import annotations

import pytest
from shipped_specs import load

import nlc
from nlc.passes.link import slow_weights

TOKENS = ("hope", "gated_delta_net", "hope_slow", "mamba2")
TRAINERS = ("m3", "muon", "adamw", "soap")
NAMED = """\
nlc: 1
system: by_name
context: gradients
doc: Trains what memories start from, and nothing of layers.
hyper:
  lr: 0.1
applies_to:
  starts: {names: "*.init", rule: self}
  rest: gd(lr=lr)
levels:
  m:
    frequency: every step
    memory: like(W)
    objective: -dot(m, g)
    rule: gd(lr=1, decay=0.9)
  W:
    frequency: every step
    objective: dot(W, m)
    rule: gd(lr=lr)
"""


@pytest.mark.parametrize("name", TOKENS)
def test_slow_weights_are_the_parameters_of_the_module(name: str) -> None:
    spec = load(name)
    made = {n: tuple(p.shape) for n, p in spec.compile()().named_parameters()}
    own = {s.name for level in spec.system.outer.values() for s in level.states}
    weights = {w.path: w.sizes for w in slow_weights(spec.system)}
    assert weights.items() <= made.items()
    assert {n.removesuffix(".weight") for n in made.keys() - weights.keys()} <= own


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("name", TOKENS[:2])  # without levels on the outer loss
def test_memories_have_the_size_of_what_they_are_of(name: str, trainer: str) -> None:
    spec, optimizer = load(name), load(trainer)
    graph, every = spec.combined(optimizer), list(spec.compile()().parameters())
    taken = [p for p in every if p.ndim == 2 or not optimizer.system.routes]
    nodes = [data for n, data in graph.nodes(data=True) if data["shape"] == "like(W)"]
    sizes = {
        kind: {x["size"] for x in nodes if x["kind"] == kind} for kind in ("memory", "trained")
    }
    assert sizes == {
        "memory": {sum(p.numel() for p in taken)},
        "trained": {sum(p.numel() for p in every)},
    }


def test_names_are_those_of_parameters() -> None:
    spec = nlc.load("hope")
    graph = spec.combined(nlc.loads(NAMED))
    starts = {n: p for n, p in spec.compile()().named_parameters() if n.endswith(".init")}
    assert graph.nodes["m"]["size"] == sum(p.numel() for p in starts.values())


def test_what_no_route_takes_is_nobodys() -> None:
    spec = nlc.load("hope")
    only = NAMED.replace("  rest: gd(lr=lr)\n", "")
    only = only.replace('starts: {names: "*.init", rule: self}', "matrices: self")
    graph = spec.combined(nlc.loads(only))
    taken = [p for p in spec.compile()().parameters() if p.ndim == 2]
    assert graph.nodes["m"]["size"] == sum(p.numel() for p in taken)


def test_what_hangs_on_modules_has_no_size() -> None:
    by_module = NAMED.replace('{names: "*.init", rule: self}', "{modules: Linear, rule: self}")
    graph = nlc.load("hope").combined(nlc.loads(by_module))
    assert graph.nodes["m"]["size"] is None
