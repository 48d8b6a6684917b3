"""Time: periods, what slow levels gather, boundaries, resets; in one call, in pieces, and saved in between.

The oracles are loops over tokens written out here, in float64.
"""

from __future__ import annotations

import io

import pytest

import nlc

CMS = """
nlc: 1
system: timed
context: tokens
hyper: {d: 3, lr: 0.1, chunk: 4, period: 4}
inputs: {k: [d], v: [d], q: [d]}
levels:
  A:
    frequency: every 12 tokens
    memory: matrix(d, d)
    objective: 0.5 * sqnorm(A - last(B)) + 0.5 * sqnorm(A - mean(S))
    rule: gd(lr=0.3)
    init: learned
  B:
    frequency: every period tokens
    reset: {every: 12 tokens, to: A}
    memory: matrix(d, d)
    key: k
    value: v
    objective: sum(0.5 * sqnorm(B(key) - value))
    rule: gd(lr=lr / period, decay=0.95)
    init: A
  S:
    frequency: every token
    anchor: every chunk tokens
    memory: matrix(d, d)
    key: k
    value: anchor(S)(v)
    objective: 0.5 * sqnorm(S(key) - value)
    rule: dgd(lr=0.2, decay=0.9)
    init: learned
output: {b: B(q), s: anchor(S)(q), a: A(q)}
"""


def flows(T: int, seed: int = 0):
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(2, T, 3, generator=generator, dtype=torch.float64) for n in "kvq"}


def loop(x: dict, A, S):
    """The spec, token by token, as language §2 orders a boundary."""
    import torch

    outer = lambda a, b: a[..., :, None] * b[..., None, :]  # noqa: E731
    read = lambda M, z: (M @ z[..., None])[..., 0]  # noqa: E731
    A, S = A.expand(2, 3, 3), S.expand(2, 3, 3)
    B, anchor = A, S
    held = torch.zeros_like(B)  # the gradient that B gathers
    mean = torch.zeros_like(A)
    out: dict[str, list] = {"b": [], "s": [], "a": []}
    for t in range(x["k"].shape[1]):
        k, v, q = (x[n][:, t] for n in "kvq")
        if t % 4 == 0:
            anchor = S
        target = read(anchor, v)
        out["b"].append(read(B, q))
        out["a"].append(read(A, q))
        out["s"].append(read(anchor, q))
        S = 0.9 * S - 0.2 * outer(read(anchor, k) - target, k) - 0.2 * outer(read(S, k), k)
        held = held + outer(read(B, k) - v, k)
        mean = mean + S / 12
        if (t + 1) % 4 == 0:
            B = 0.95 * B - 0.1 / 4 * held
            held = torch.zeros_like(held)
        if (t + 1) % 12 == 0:
            A = A - 0.3 * ((A - B) + (A - mean))
            mean = torch.zeros_like(mean)
            B = A
    return {n: torch.stack(o, 1) for n, o in out.items()}


@pytest.fixture(scope="module")
def net():
    import torch

    made = nlc.loads(CMS).compile()().double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return made


@pytest.mark.parametrize("T", [1, 4, 11, 12, 13, 40])
def test_periods_boundaries_and_resets_are_those_of_a_loop(net, T: int) -> None:
    import torch

    x = flows(T)
    y, _ = net(**x)
    expected = loop(x, net.A.init, net.S.init)
    for name in expected:
        torch.testing.assert_close(y[name], expected[name], rtol=0, atol=1e-10)


def test_gradients_pass_through_periods_and_boundaries(net) -> None:
    import torch

    x = flows(26)
    y, _ = net(**x)
    mine = torch.autograd.grad(sum(o.square().sum() for o in y.values()), list(net.parameters()))
    expected = loop(x, net.A.init, net.S.init)
    theirs = torch.autograd.grad(
        sum(o.square().sum() for o in expected.values()), [net.A.init, net.S.init]
    )
    for a, b in zip(mine, theirs):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_stream_may_stop_anywhere_in_a_period(net) -> None:
    """Counts, half-gathered sums and boundaries are state: pieces of any length, saved and loaded in between."""
    import torch

    x = flows(40, seed=3)
    whole, _ = net(**x)
    state, parts, start = None, [], 0
    for stop in (1, 3, 10, 11, 12, 25, 40):
        y, state = net(**{n: f[:, start:stop] for n, f in x.items()}, state=state)
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file)
        parts.append(y)
        start = stop
    for name in whole:
        pieces = torch.cat([p[name] for p in parts], 1)
        torch.testing.assert_close(pieces, whole[name], rtol=0, atol=1e-12)


def test_anchors_in_one_token_are_the_running_state() -> None:
    """C = 1: the boundary is every token, and anchor(M) is prev(M)."""
    import torch

    anchored = CMS.replace("chunk: 4", "chunk: 1")
    plain = anchored.replace("    anchor: every chunk tokens\n", "")
    x = flows(20)
    a, b = (nlc.loads(text).compile()().double() for text in (anchored, plain))
    a.load_state_dict({n: torch.ones_like(p) for n, p in a.state_dict().items()})
    b.load_state_dict(a.state_dict())
    for u, v in zip(a(**x)[0].values(), b(**x)[0].values()):
        torch.testing.assert_close(u, v, rtol=0, atol=1e-12)


SLOW = """
nlc: 1
system: slow
context: gradients
hyper: {lr: 0.1, beta: 0.9, k: 3, a: 0.5}
levels:
  fast:
    frequency: every step
    memory: like(W)
    objective: -dot(fast, g)
    rule: gd(lr=1, decay=beta)
  slow:
    frequency: every k steps
    memory: like(W)
    objective: -dot(slow, sum(g))
    rule: gd(lr=1 - beta, decay=beta)
  W:
    frequency: every step
    objective: dot(W, fast + a * slow)
    rule: gd(lr=lr)
    reset: {every: k steps, to: phi}
  phi:
    frequency: every k steps
    memory: like(W)
    init: W
    objective: 0.5 * sqnorm(phi - last(W))
    rule: gd(lr=a)
"""


def descend(make, saved: int | None = None):
    import torch

    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(4, 2, generator=generator, dtype=torch.float64))
    optimizer = make([p])
    for t in range(11):
        p.grad = torch.randn(4, 2, generator=generator, dtype=torch.float64) + p.detach()
        optimizer.step()
        if saved == t:
            state = optimizer.state_dict()
            optimizer = make([p])
            optimizer.load_state_dict(state)
    return p.detach()


def test_slow_levels_of_an_optimizer() -> None:
    """M3's slow momentum and Lookahead's slow weights, written out; resuming inside a period is exact."""
    import torch

    made = nlc.loads(SLOW).compile()

    class Written:
        def __init__(self, params):
            self.p = params[0]
            self.fast = self.slow = self.sum = torch.zeros_like(self.p)
            self.phi, self.t = self.p.detach().clone(), 0

        @torch.no_grad()
        def step(self):
            g, self.t = self.p.grad, self.t + 1
            self.fast = 0.9 * self.fast + g
            self.sum = self.sum + g
            self.p -= 0.1 * (self.fast + 0.5 * self.slow)
            if self.t % 3 == 0:
                self.slow = 0.9 * self.slow + 0.1 * self.sum
                self.sum = torch.zeros_like(self.sum)
                self.phi = self.phi - 0.5 * (self.phi - self.p)
                self.p.copy_(self.phi)

    expected = descend(Written)
    torch.testing.assert_close(descend(made), expected, rtol=0, atol=1e-12)
    for stop in (0, 1, 4):
        assert torch.equal(descend(made, saved=stop), descend(made))


def test_levels_are_ordered_by_period() -> None:
    graph = nlc.loads(CMS).graph
    assert graph.graph["levels"] == [["S"], ["B"], ["A"], ["weights"]]
    assert graph.edges["A", "B"]["reads"] == ("held",)
    assert graph.edges["B", "A"]["reads"] == ("same-tick",)
    assert nlc.loads(SLOW).graph.graph["levels"] == [["fast"], ["W"], ["slow", "phi"]]


HELD = """
nlc: 1
system: held
context: tokens
hyper: {d: 3}
inputs: {k: [d], v: [d]}
let:
  size: sqrt(sqnorm(B) + 1)
levels:
  B:
    frequency: every 4 tokens
    reset: every 12 tokens
    memory: matrix(d, d)
    key: k
    value: v
    objective: sum(0.5 * sqnorm(B(key) - value))
    rule: gd(lr=0.1)
    init: learned
output: B(k) / size + tanh(B) @ v
"""


def test_what_a_slow_state_comes_to_is_computed_once_a_period() -> None:
    """Functions of a slow state are held between its ticks, and renewed by its steps and resets."""
    import torch

    spec = nlc.loads(HELD)
    source = spec.source_text("reference")
    assert source.count("torch.tanh(") == 2  # before the first token, and where a period ends
    tick = source[source.index("for k_t") : source.index("% 4 == 0")]
    assert "tanh(" not in tick and "sqrt(" not in tick
    net = spec.compile()().double()
    with torch.no_grad():
        net.B.init.copy_(torch.arange(9.0).reshape(3, 3) / 9)
    x = flows(30, seed=5)
    k, v = x["k"], x["v"]
    y, _ = net(k=k, v=v)
    B = start = net.B.init.expand(2, 3, 3)
    total = torch.zeros_like(B)
    for t in range(30):
        size = (B.square().sum((-2, -1)) + 1).sqrt()[:, None]
        expected = (B @ k[:, t, :, None])[..., 0] / size + (B.tanh() @ v[:, t, :, None])[..., 0]
        torch.testing.assert_close(y[:, t], expected, rtol=0, atol=1e-12)
        error = (B @ k[:, t, :, None])[..., 0] - v[:, t]
        total = total + error[..., :, None] * k[:, t, None, :]
        if (t + 1) % 4 == 0:
            B, total = B - 0.1 * total, torch.zeros_like(total)
        if (t + 1) % 12 == 0:
            B = start
    state, parts = None, []
    for a, b in ((0, 3), (3, 11), (11, 12), (12, 30)):
        part, state = net(k=k[:, a:b], v=v[:, a:b], state=state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), y, rtol=0, atol=1e-12)


def test_an_optimizer_holds_what_its_slow_memory_comes_to() -> None:
    import torch

    text = SLOW.replace("a * slow)", "a * tanh(slow))")
    made = nlc.loads(text).compile()
    source = nlc.loads(text).source_text()
    assert (
        source.count("torch.tanh(") == 3 and "if t % k == 0:" in source
    )  # at the start, then once a period, in place or not

    class Written:
        def __init__(self, params):
            self.p = params[0]
            self.fast = self.slow = self.sum = torch.zeros_like(self.p)
            self.phi, self.t = self.p.detach().clone(), 0

        @torch.no_grad()
        def step(self):
            g, self.t = self.p.grad, self.t + 1
            self.fast = 0.9 * self.fast + g
            self.sum = self.sum + g
            self.p -= 0.1 * (self.fast + 0.5 * self.slow.tanh())
            if self.t % 3 == 0:
                self.slow = 0.9 * self.slow + 0.1 * self.sum
                self.sum = torch.zeros_like(self.sum)
                self.phi = self.phi - 0.5 * (self.phi - self.p)
                self.p.copy_(self.phi)

    torch.testing.assert_close(descend(made), descend(Written), rtol=0, atol=1e-12)
    for stop in (0, 1, 4):
        assert torch.equal(descend(made, saved=stop), descend(made))
