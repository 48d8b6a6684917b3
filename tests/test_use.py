"""Used systems: what they are as a part is what they are alone, with the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import nlc

OUTER = """
nlc: 1
system: outer
context: tokens
hyper: {d: 8, rate: 0.05, widths: [2, 4, 8]}
heads: 2
inputs: {x: [d]}
outputs: {y: [d]}
use:
USE
let:
  u: linear(x, d)
output:
  y: OUTPUT
"""


def spec_of(use: str, output: str, heads: bool = True) -> nlc.Spec:
    """``use`` has a used system a line."""
    lines = "\n".join(f"  {line}" for line in use.splitlines())
    text = OUTER.replace("USE", lines).replace("OUTPUT", output)
    for name in ("rate", "widths"):  # hypers that nothing uses would be warned of
        if name not in use:
            text = text.replace(f", {name}: 0.05", "").replace(f", {name}: [2, 4, 8]", "")
    return nlc.loads(text if heads else text.replace("heads: 2\n", ""))


def drawn(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=noise))
    return module.double()


def inside(module: torch.nn.Module, name: str) -> dict[str, Tensor]:
    """The weights of one used system, under the names that they have alone."""
    found = module.state_dict()
    return {k.removeprefix(f"{name}."): v for k, v in found.items() if k.startswith(f"{name}.")}


def stream(T: int = 9, d: int = 8) -> Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.randn(2, T, d, generator=noise, dtype=torch.float64)


ALONE = {
    "linear_attention(d=d)": ("linear_attention", {}),
    "gated_delta_net(d=d)": ("gated_delta_net", {}),
    "attention(d=d)": ("attention", {}),
    "retnet(d=d)": ("retnet", {}),
    "gla(d=d)": ("gla", {}),
    "mamba2(d=d, p=2 * d / heads)": ("mamba2", {"p": 8}),
    "titans(d=d, chunk=3)": ("titans", {"chunk": 3}),
    "ttt_mlp(d=d, chunk=2, rate=rate)": ("ttt_mlp", {"chunk": 2, "rate": 0.05}),
    "ttt_linear(d=d, chunk=2)": ("ttt_linear", {"chunk": 2}),
    "hope(d=d, chunk=3, memory_chunk=2, periods=widths)": (
        "hope", {"chunk": 3, "memory_chunk": 2, "periods": [2, 4, 8]}
    ),
    "hope_attention(d=d, periods=[2, 3, 4])": ("hope_attention", {"periods": [2, 3, 4]}),
}  # fmt: skip


@pytest.mark.parametrize("use", ALONE)
def test_a_used_system_is_the_module_with_the_same_weights(use: str) -> None:
    name, hypers = ALONE[use]
    whole = drawn(spec_of(f"mem: {use}", "x + mem(u)").compile()())
    alone = nlc.compile(name)(d=8, heads=2, **hypers).double()
    alone.load_state_dict(inside(whole, "mem"))
    x = stream()
    y, _ = whole(x)
    expected, _ = alone(x @ whole.u.linear.weight.T)
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(y, x + expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("periods", ["widths", "[2, 4, 8]"])
def test_lists_go_in_as_hypers_or_written_out(periods: str) -> None:
    use = f"mem: cms_sequential(d=d, periods={periods}, lr=rate)"
    use = use if periods == "widths" else use.replace("rate", "0.05")
    made = spec_of(use, "mem(u)", heads=False).compile()
    whole = drawn(made())
    alone = nlc.compile("cms_sequential")(d=8, periods=[2, 4, 8], lr=0.05).double()
    alone.load_state_dict(inside(whole, "mem"))
    x = stream(17)
    expected, _ = alone(x @ whole.u.linear.weight.T)
    torch.testing.assert_close(whole(x)[0], expected, rtol=1e-10, atol=1e-12)
    if periods == "widths":  # and stay the user's to choose
        other = made(widths=[1, 3, 9]).double()
        other.load_state_dict(whole.state_dict())
        alone = nlc.compile("cms_sequential")(d=8, periods=[1, 3, 9], lr=0.05).double()
        alone.load_state_dict(inside(whole, "mem"))
        expected, _ = alone(x @ whole.u.linear.weight.T)
        torch.testing.assert_close(other(x)[0], expected, rtol=1e-10, atol=1e-12)
        assert (other(x)[0] - whole(x)[0]).abs().max() > 1e-6


def test_two_uses_of_one_spec_have_weights_and_memories_of_their_own() -> None:
    whole = drawn(
        spec_of("a: delta_net(d=d)\nb: delta_net(d=d)", "a(u) + b(tanh(a(u)))").compile()()
    )
    a, b = (nlc.compile("delta_net")(d=8, heads=2).double() for _ in "ab")
    a.load_state_dict(inside(whole, "a"))
    b.load_state_dict(inside(whole, "b"))
    x = stream()
    first, _ = a(x @ whole.u.linear.weight.T)
    y, state = whole(x)
    torch.testing.assert_close(y, first + b(first.tanh())[0], rtol=1e-10, atol=1e-12)
    assert {n for n in state if n.endswith(".S")} == {"a.S", "b.S"}
    assert (state["a.S"] - state["b.S"]).norm() > 1e-3


def test_uses_may_be_nested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hope_attention uses cms_sequential itself; a third system uses hope_attention."""
    middle = spec_of("mem: hope_attention(d=d, periods=[2, 3, 4])", "tanh(mem(u))").source.text
    (tmp_path / "middle.yaml").write_text(middle.replace("system: outer", "system: middle"))
    monkeypatch.setenv("NLC_PATH", str(tmp_path))
    whole = drawn(spec_of("deep: middle(d=d)", "deep(u)").compile()())
    names = dict(whole.named_parameters())
    assert "deep.mem.cms.C_1.W1.init" in names or any("deep.mem.cms." in n for n in names), names
    alone = nlc.load("middle").compile()(d=8, heads=2).double()
    alone.load_state_dict(inside(whole, "deep"))
    x = stream()
    expected, _ = alone(x @ whole.u.linear.weight.T)
    torch.testing.assert_close(whole(x)[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "use", ["titans(d=d, chunk=3)", "hope(d=d, chunk=3, memory_chunk=2, periods=widths)"]
)
def test_streams_go_on_inside_what_is_used(use: str) -> None:
    whole = drawn(spec_of(f"mem: {use}", "mem(u)").compile()())
    x = stream(13)
    expected, last = whole(x)
    state, out = None, []
    for piece in x.split((4, 1, 6, 2), 1):
        y, state = whole(piece, state=state)
        out.append(y)
    torch.testing.assert_close(torch.cat(out, 1), expected, rtol=1e-10, atol=1e-12)
    for key, value in last.items():
        torch.testing.assert_close(state[key], value, rtol=1e-10, atol=1e-12)
    stepped, state = [], None
    for t in range(13):
        y, state = whole.step(x[:, t], state)
        stepped.append(y)
    torch.testing.assert_close(torch.stack(stepped, 1), expected, rtol=1e-10, atol=1e-12)


def test_the_level_graph_has_the_levels_of_what_is_used() -> None:
    spec = spec_of("mem: hope_attention(d=d, periods=[2, 3, 4])", "mem(u)")
    alone = nlc.load("hope_attention").graph
    named = {f"mem.{n}" for n, data in alone.nodes(data=True) if data["kind"] != "weights"}
    assert named and named <= set(spec.graph.nodes)
    edges = {(f"mem.{a}", f"mem.{b}") for a, b in alone.edges if {f"mem.{a}", f"mem.{b}"} <= named}
    assert edges <= set(spec.graph.edges)
    order = [n.removeprefix("mem.") for members in spec.graph.graph["levels"] for n in members]
    before = [n for members in alone.graph["levels"] for n in members if n in order]
    assert [n for n in order if n in before] == before
    assert "mem.A" in spec.derive("mem.cms.C_1") or "C_1" in spec.derive("mem.cms.C_1")


def test_levels_on_the_outer_loss_stay_so_where_they_are_used() -> None:
    use = "mem: hope_slow(d=d, chunk=3, memory_chunk=2, periods=[1, 2, 4])"
    whole = drawn(spec_of(use, "mem(u)").compile()())
    alone = nlc.compile("hope_slow")(d=8, heads=2, chunk=3, memory_chunk=2, periods=[1, 2, 4])
    alone = alone.double()
    alone.load_state_dict(inside(whole, "mem"))
    x = stream()
    expected, _ = alone(x @ whole.u.linear.weight.T)
    torch.testing.assert_close(whole(x)[0], expected, rtol=1e-10, atol=1e-12)
    found = [group.get("period", 1) for group in whole.param_groups()]
    assert found == [group.get("period", 1) for group in alone.param_groups()] == [1, 1, 2, 4]
    names = {id(p): n for n, p in whole.named_parameters()}
    slow = [names[id(p)] for p in whole.param_groups()[-1]["params"]]
    assert slow == ["mem.C_3.W1", "mem.C_3.W2"]
