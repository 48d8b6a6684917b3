"""Phases, counts of ticks, declared clocks and what is held at a boundary, against loops written out in float64."""

from __future__ import annotations

import io

import pytest

import nlc


def outer(a, b):
    return a[..., :, None] * b[..., None, :]


def read(M, z):
    return (M @ z[..., None])[..., 0]


def flows(names: str, T: int, seed: int = 0):
    import torch

    generator = torch.Generator().manual_seed(seed)
    x = {n: torch.randn(2, T, 3, generator=generator, dtype=torch.float64) for n in names}
    mask = torch.rand(2, T, generator=generator) < 0.3
    return {**x, "mask": mask.double()}


def agree(text: str, loop, x: dict, stops=(1, 3, 4, 9, 10, 21)) -> None:
    """Outputs and gradients are the loop's, in one call and in pieces that are saved in between."""
    import torch

    net = nlc.loads(text).compile()().double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    whole, _ = net(**x)
    whole = whole if isinstance(whole, dict) else {"y": whole}
    expected = loop(x, net)
    assert whole.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(whole[name], expected[name], rtol=0, atol=1e-11)
    if list(net.parameters()):
        both = [
            torch.autograd.grad(sum(o.square().sum() for o in y.values()), list(net.parameters()))
            for y in (whole, expected)
        ]
        for a, b in zip(*both, strict=True):
            assert b.abs().max() > 0
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    state, parts, start = None, [], 0
    for stop in (*stops, next(iter(x.values())).shape[1]):
        y, state = net(**{n: f[:, start:stop] for n, f in x.items()}, state=state)
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file)
        parts.append(y if isinstance(y, dict) else {"y": y})
        start = stop
    for name, y in whole.items():
        pieces = torch.cat([p[name] for p in parts], 1)
        torch.testing.assert_close(pieces, y, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- phase

START = """
nlc: 1
system: start
context: tokens
hyper: {d: 3, n: 4}
inputs: {k: [d], v: [d], mask: []}
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    objective: 0.5 * sqnorm(S(k) - v)
    rule: gd(lr=0.1)
    init: learned
  B:
    frequency: every n tokens
    phase: start
    memory: matrix(d, d)
    update: 0.5 * B + tanh(last(S)) + 0.1 * mean(S) + 0.01 * sum(S * t) / t
    init: learned
  A:
    frequency: every 2 * n tokens
    memory: matrix(d, d)
    objective: 0.5 * sqnorm(A - last(B)) + 0.5 * sqnorm(A - mean(B) * t)
    rule: gd(lr=0.3 / t)
    init: learned
output: {b: B @ k, held: tanh(B) @ k, before: prev(B) @ k, before_held: tanh(prev(B)) @ k, a: A @ k, m: mask * k}
"""


def start(x, net):
    import torch

    S, B, A = (net.get_submodule(n).init.expand(2, 3, 3) for n in "SBA")
    out: dict[str, list] = {n: [] for n in ("b", "held", "before", "before_held", "a", "m")}
    sums, weighted, seen, mean = 0, 0, 0, 0
    for i in range(x["k"].shape[1]):
        k, v = x["k"][:, i], x["v"][:, i]
        S = S - 0.1 * outer(read(S, k) - v, k)
        coming = -(-i // 4) + 1  # the tick of B that this token is gathered for
        sums, weighted, seen = sums + S, weighted + S * coming, seen + 1
        out["before"].append(read(B, k))
        out["before_held"].append(read(B.tanh(), k))
        if i % 4 == 0:
            B = 0.5 * B + S.tanh() + 0.1 * sums / seen + 0.01 * weighted / coming
            sums, weighted, seen = 0, 0, 0
            mean = mean + B / 2
        out["b"].append(read(B, k))
        out["held"].append(read(B.tanh(), k))
        out["a"].append(read(A, k))
        out["m"].append(x["mask"][:, i, None] * k)
        if (i + 1) % 8 == 0:
            t = (i + 1) // 8
            A = A - 0.3 / t * ((A - B) + (A - mean * t))
            mean = 0
    return {n: torch.stack(o, 1) for n, o in out.items()}


@pytest.mark.parametrize("T", [22, 33])
def test_a_level_of_phase_start_is_read_in_the_tick_in_which_it_steps(T: int) -> None:
    agree(START, start, flows("kv", T))


def test_what_reads_a_level_of_phase_start_is_computed_once_a_period() -> None:
    source = nlc.loads(START).source_text()
    assert source.count("torch.tanh(B)") == 3  # before the loop, where B steps, and for prev(B)
    assert "if (count - 1) % self.n == 0:" in source


SHAMPOO = """
nlc: 1
system: roots
context: gradients
hyper: {lr: 0.1, beta: 0.9, f: 3}
levels:
  L:
    frequency: every step
    memory: like(W)
    objective: -dot(L, g * g)
    rule: gd(lr=1 - beta, decay=beta)
  Li:
    frequency: every f steps
    phase: start
    memory: like(W)
    update: tanh(last(L)) / t + mean(g) + sum(g * t)
  slow:
    frequency: every 2 * f steps
    let:
      hat: slow / (1 - beta**t)
    memory: like(W)
    objective: -dot(slow, mean(g))
    rule: gd(lr=1 - beta, decay=beta)
  W:
    frequency: every step
    objective: dot(W, sqrt(1 + Li * Li) * g + slow.hat)
    rule: gd(lr=lr)
"""


def descend(make, saved: int | None = None, steps: int = 17):
    import torch

    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(4, 2, generator=generator, dtype=torch.float64))
    optimizer = make([p])
    for t in range(steps):
        p.grad = torch.randn(4, 2, generator=generator, dtype=torch.float64) + p.detach()
        optimizer.step()
        if saved == t:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = make([p])
            optimizer.load_state_dict(torch.load(file))
    return p.detach()


def test_an_optimizer_with_roots_at_the_start_of_a_period() -> None:
    import torch

    class Written:
        def __init__(self, params):
            self.p, self.i = params[0], 0
            self.L = self.Li = self.slow = torch.zeros_like(self.p)
            self.gathered: list = []
            self.all: list = []
            self.hat = torch.zeros_like(self.p)

        @torch.no_grad()
        def step(self):
            g, i = self.p.grad, self.i
            self.L = 0.9 * self.L + 0.1 * g * g
            self.gathered.append(g)
            self.all.append(g)
            if i % 3 == 0:
                t, mean = i // 3 + 1, sum(self.gathered) / len(self.gathered)
                self.Li = self.L.tanh() / t + mean + t * sum(self.gathered)
                self.gathered = []
            self.p -= 0.1 * ((1 + self.Li.square()).sqrt() * g + self.hat)
            self.i += 1
            if self.i % 6 == 0:
                self.slow = 0.9 * self.slow + 0.1 * sum(self.all) / 6
                self.hat = self.slow / (1 - 0.9 ** (self.i // 6))
                self.all = []

    made = nlc.loads(SHAMPOO).compile()
    torch.testing.assert_close(descend(made), descend(Written), rtol=0, atol=1e-12)
    for stop in (0, 1, 4, 5, 6):
        assert torch.equal(descend(made, saved=stop), descend(made))


# ---------------------------------------------------------------------------------------------------- t

COUNTS = """
nlc: 1
system: counts
context: tokens
hyper: {d: 3}
inputs: {k: [d], v: [d], mask: []}
clocks: {episode: mask}
levels:
  B:
    frequency: every 4 tokens
    let:
      rate: 0.3 / t
      hat: B / (1 - 0.9**t)
    memory: matrix(d, d)
    objective: sum(0.5 * sqnorm(B(k) - v) * rate)
    rule: gd(lr=rate)
    init: learned
  E:
    frequency: every episode
    let:
      hat: E / (1 - 0.9**t)
    memory: matrix(d, d)
    objective: mean(0.5 * sqnorm(E(k) - v * t))
    rule: gd(lr=1 / t)
    init: learned
output: {b: B.hat @ k, e: E.hat @ k, top: t * k, rate: B.rate * k}
"""


def counts(x, net):
    import torch

    B, E = (net.get_submodule(n).init.expand(2, 3, 3) for n in "BE")
    out: dict[str, list] = {n: [] for n in ("b", "e", "top", "rate")}
    held, held_e = B / (1 - 0.9), E / (1 - 0.9)
    grad, gathered = 0, torch.zeros_like(E)
    ticks, seen = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for i in range(x["k"].shape[1]):
        k, v = x["k"][:, i], x["v"][:, i]
        out["b"].append(read(held, k))
        out["e"].append(read(held_e, k))
        out["top"].append((i + 1) * k)
        out["rate"].append(0.3 / max(i // 4, 1) * k)
        coming = i // 4 + 1
        grad = grad + 0.3 / coming * outer(read(B, k) - v, k)
        gathered = gathered + outer(read(E, k) - v * (ticks + 1)[:, None], k)
        seen = seen + 1
        if (i + 1) % 4 == 0:
            B, grad = B - 0.3 / coming * grad, 0
            held = B / (1 - 0.9**coming)
        on = x["mask"][:, i] > 0
        ticks = ticks + on
        stepped = E - (gathered / seen[:, None, None]) / ticks.clamp(min=1)[:, None, None]
        E = torch.where(on[:, None, None], stepped, E)
        held_e = torch.where(
            on[:, None, None], E / (1 - 0.9 ** ticks.clamp(min=1))[:, None, None], held_e
        )
        gathered = torch.where(on[:, None, None], 0, gathered)
        seen = torch.where(on, 0, seen)
    return {n: torch.stack(o, 1) for n, o in out.items()}


def test_a_level_counts_its_own_ticks() -> None:
    agree(COUNTS, counts, flows("kv", 26))


# ---------------------------------------------------------------------------------------------------- declared

EPISODES = """
nlc: 1
system: episodes
context: tokens
hyper: {d: 3}
inputs: {k: [d], v: [d], mask: []}
clocks: {episode: mask}
levels:
  S:
    frequency: every token
    anchor: every 4 tokens
    reset: every episode
    memory: matrix(d, d)
    objective: 0.5 * sqnorm(S(k) - v)
    rule: gd(lr=0.1)
    init: learned
  R:
    frequency: every token
    anchor: every episode
    reset: {every: episode, to: A}
    memory: matrix(d, d)
    objective: 0.5 * sqnorm(R(k) - v)
    rule: gd(lr=0.1)
    init: learned
  A:
    frequency: every episode
    memory: matrix(d, d)
    objective: 0.5 * sqnorm(A - last(R)) + sum(0.5 * sqnorm(A(k) - v)) - dot(A, mean(S))
    rule: gd(lr=0.1, decay=0.9)
    init: learned
  F:
    frequency: every episode
    phase: start
    memory: matrix(d, d)
    update: F / 2 + last(S)
    init: learned
output: {s: S @ k, sa: tanh(anchor(S)) @ k, r: R @ k, ra: anchor(R) @ k, a: tanh(A) @ k, f: tanh(F) @ k}
"""


def episodes(x, net):
    import torch

    S, R, A, F = (net.get_submodule(n).init.expand(2, 3, 3) for n in "SRAF")
    first, Sa, Ra = S, S, R
    zero = torch.zeros_like(A)
    gathered, mean, seen = zero, zero, torch.zeros(2, 1, 1, dtype=torch.float64)
    out: dict[str, list] = {n: [] for n in ("s", "sa", "r", "ra", "a", "f")}
    for i in range(x["k"].shape[1]):
        k, v, on = x["k"][:, i], x["v"][:, i], (x["mask"][:, i] > 0)[:, None, None]
        if i % 4 == 0:
            Sa = S
        out["sa"].append(read(Sa.tanh(), k))
        out["ra"].append(read(Ra, k))
        S = S - 0.1 * outer(read(Sa, k) - v, k)
        R = R - 0.1 * outer(read(Ra, k) - v, k)
        F = torch.where(on, F / 2 + S, F)
        out["s"].append(read(S, k))
        out["r"].append(read(R, k))
        out["a"].append(read(A.tanh(), k))
        out["f"].append(read(F.tanh(), k))
        gathered, mean, seen = gathered + outer(read(A, k) - v, k), mean + S, seen + 1
        A = torch.where(on, 0.9 * A - 0.1 * ((A - R) + gathered - mean / seen), A)
        gathered, mean, seen = (torch.where(on, 0, z) for z in (gathered, mean, seen))
        S, R = torch.where(on, first, S), torch.where(on, A, R)
        Sa, Ra = torch.where(on, S, Sa), torch.where(on, R, Ra)
    return {n: torch.stack(o, 1) for n, o in out.items()}


def test_declared_clocks_tick_sequence_by_sequence() -> None:
    x = flows("kv", 24)
    assert (x["mask"][0] != x["mask"][1]).any()
    agree(EPISODES, episodes, x)


def test_a_declared_clock_may_read_a_state() -> None:
    """An overflowing memory starts over: the clock is a flow like any other, in the loop."""
    import torch

    text = """
nlc: 1
system: overflow
context: tokens
hyper: {d: 3}
inputs: {k: [d], mask: []}
clocks: {full: sqnorm(S) - 20}
levels:
  S:
    frequency: every token
    reset: every full
    memory: matrix(d, d)
    update: S + outer(k, k) + mask
output: S @ k
"""

    def loop(x, net):
        S, out = torch.zeros(2, 3, 3, dtype=torch.float64), []
        for i in range(x["k"].shape[1]):
            k = x["k"][:, i]
            S = S + outer(k, k) + x["mask"][:, i, None, None]
            out.append(read(S, k))
            S = torch.where((S.square().sum((-2, -1)) > 20)[:, None, None], 0, S)
        return {"y": torch.stack(out, 1)}

    agree(text, loop, flows("k", 24))


def test_a_declared_clock_of_an_optimizer() -> None:
    """Restart of a momentum where a gradient is large, tensor by tensor."""
    import torch

    text = """
nlc: 1
system: restarted
context: gradients
hyper: {lr: 0.1, beta: 0.9, most: 3}
clocks: {spike: norm(g) - most}
levels:
  m:
    frequency: every step
    memory: like(W)
    objective: -dot(m, g)
    rule: gd(lr=1, decay=beta)
    reset: every spike
  slow:
    frequency: every spike
    memory: like(W)
    update: slow + mean(g) * t
  W:
    frequency: every step
    objective: dot(W, m + slow)
    rule: gd(lr=lr)
"""

    class Written:
        def __init__(self, params):
            self.p = params[0]
            self.m = self.slow = torch.zeros_like(self.p)
            self.g, self.t = [], 0

        @torch.no_grad()
        def step(self):
            g = self.p.grad
            self.m = 0.9 * self.m + g
            self.g.append(g)
            self.p -= 0.1 * (self.m + self.slow)
            if g.norm() > 3:
                self.t += 1
                self.slow = self.slow + sum(self.g) / len(self.g) * self.t
                self.m, self.g = torch.zeros_like(self.p), []

    made = nlc.loads(text).compile()
    torch.testing.assert_close(descend(made), descend(Written), rtol=0, atol=1e-11)
    for stop in (0, 1, 4):
        assert torch.equal(descend(made, saved=stop), descend(made))


# ---------------------------------------------------------------------------------------------------- the boundary

BOUNDARY = """
nlc: 1
system: boundary
context: tokens
hyper: {d: 3, chunk: 4}
inputs: {k: [d], v: [d], mask: []}
levels:
  S:
    frequency: every token
    anchor: every chunk tokens
    memory: {W: [d, d], U: [d, d], read(z): W @ tanh(U @ z)}
    objective: 0.5 * sqnorm(S(k) - v) + 0.1 * sqnorm(tanh(S.W))
    rule: gd(lr=0.1)
    init: learned
output: {y: anchor(S)(k) / sqrt(1 + mask), z: tanh(S.U) @ k}
"""


def boundary(x, net):
    import torch

    W, U = net.S.W.init.expand(2, 3, 3), net.S.U.init.expand(2, 3, 3)
    out: dict[str, list] = {"y": [], "z": []}
    for i in range(x["k"].shape[1]):
        k, v = x["k"][:, i], x["v"][:, i]
        if i % 4 == 0:
            Wa, Ua = W, U
        h = read(Ua, k).tanh()
        error = read(Wa, h) - v
        out["y"].append(read(Wa, h) / (1 + x["mask"][:, i, None]).sqrt())
        back = read(Wa.mT, error) * (1 - h.square())
        W = W - 0.1 * (outer(error, h) + 0.2 * Wa.tanh() * (1 - Wa.tanh().square()))
        U = U - 0.1 * outer(back, k)
        out["z"].append(read(U.tanh(), k))
    return {n: torch.stack(o, 1) for n, o in out.items()}


def test_what_reads_the_boundary_alone_is_computed_once_a_chunk() -> None:
    agree(BOUNDARY, boundary, flows("kv", 22))
    source = nlc.loads(BOUNDARY).source_text()
    loop = source[source.index("for k_t") :]
    inside = loop[: loop.index("matvec")]
    assert "torch.tanh(S_W_anchor)" in inside[inside.index("(count - 1) % self.chunk == 0") :]
    assert loop.count("torch.tanh(S_W_anchor)") == 1
    assert "mT_held" not in source and "T_S" not in source  # a view is not worth it


# ---------------------------------------------------------------------------------------------------- the rest


def test_a_convolution_of_a_declared_level_runs_over_its_ticks() -> None:
    import torch

    text = """
nlc: 1
system: convolved
context: tokens
hyper: {d: 3}
inputs: {k: [d], v: [d], mask: []}
clocks: {episode: mask}
levels:
  E:
    frequency: every episode
    memory: matrix(d, d)
    update: 0.5 * E + outer(conv(E(last(k)) + last(v), 3), last(k))
    init: learned
output: E(k)
"""

    def loop(x, net):
        E, out = net.E.init.expand(2, 3, 3), []
        taps = next(p for n, p in net.named_parameters() if n.endswith("conv.weight"))
        windows = [torch.zeros(2, 3, dtype=torch.float64) for _ in range(3)]
        for i in range(x["k"].shape[1]):
            k, v, on = x["k"][:, i], x["v"][:, i], (x["mask"][:, i] > 0)[:, None]
            out.append(read(E, k))
            moved = [*windows[1:], read(E, k) + v]
            windows = [torch.where(on, a, b) for a, b in zip(moved, windows, strict=True)]
            mixed = sum(w * taps[:, j] for j, w in enumerate(windows))
            E = torch.where(on[..., None], 0.5 * E + outer(mixed, k), E)
        return {"y": torch.stack(out, 1)}

    agree(text, loop, flows("kv", 24))


@pytest.mark.parametrize("text", [START, COUNTS, EPISODES, BOUNDARY])
def test_the_core_of_a_system_keeps_its_time(text: str) -> None:
    """The operator form starts from zeros; so does the module whose starts are zero."""
    import torch

    x = flows("kv", 19)
    whole, core = nlc.loads(text).compile()().double(), nlc.loads(text, operator=True).compile()()
    with torch.no_grad():
        for p in whole.parameters():
            p.zero_()
    _, state = whole(**x)
    names = nlc.loads(text, operator=True).system.inputs
    _, mine = core(**{n: x[n] for n in names})
    same = [n for n in state if n in mine]
    assert {n for n in same if "." not in n} >= set(nlc.loads(text).system.levels) - {"S"}
    for n in same:
        torch.testing.assert_close(mine[n], state[n], rtol=0, atol=1e-12)


def test_the_graph_tells_a_held_state_from_one_of_this_tick() -> None:
    start, declared = nlc.loads(START).graph, nlc.loads(EPISODES).graph
    assert start.graph["levels"] == [["S"], ["B"], ["A"], ["weights"]]
    assert start.edges["B", "A"]["reads"] == ("same-tick",)
    assert declared.graph["levels"] == [["S", "R"], ["A", "F"], ["weights"]]
    assert declared.edges["A", "R"]["reads"] == ("held",)
    slow, ordered = (START.replace("S(k) - v)", f"S(k) - {n} @ v)") for n in "AB")
    assert nlc.loads(slow).graph.edges["A", "S"]["reads"] == ("held",)
    assert "NLC403" in {d.code for d in nlc.loads(ordered).check().diagnostics}


def test_a_reset_may_take_its_rule_along() -> None:
    text = EPISODES.replace("reset: every episode", "reset: {every: episode, rule: true}")
    assert nlc.loads(text).system.levels["S"].reset.rule
    assert not nlc.loads(text).system.levels["R"].reset.rule


def test_prev_of_what_is_slow_is_one_tick_of_its_own_clock_earlier() -> None:
    import torch

    text = """
nlc: 1
system: earlier
context: tokens
hyper: {d: 3}
inputs: {k: [d], v: [d], mask: []}
levels:
  B:
    frequency: every 4 tokens
    memory: matrix(d, d)
    let:
      rate: 0.3 / t
    objective: 0.5 * sqnorm(B(last(k)) - last(v))
    rule: gd(lr=prev(rate) + 0.1)
    init: learned
  N:
    frequency: every 3 tokens
    memory: scalar
    update: t
output: (prev(sqnorm(B)) + N) * k
"""

    def loop(x, net):
        B, out, before, rate, N = net.B.init.expand(2, 3, 3), [], torch.zeros(2).double(), 0, 0
        for i in range(x["k"].shape[1]):
            k, v = x["k"][:, i], x["v"][:, i]
            out.append((before + N)[:, None] * k)
            if (i + 1) % 3 == 0:
                N = (i + 1) // 3
            if (i + 1) % 4 == 0:
                before = B.square().sum((-2, -1))
                B = B - (rate + 0.1) * outer(read(B, k) - v, k)
                rate = 0.3 / ((i + 1) // 4)
        return {"y": torch.stack(out, 1)}

    agree(text, loop, flows("kv", 24))


@pytest.mark.parametrize("every", ["episode", "3 tokens"])
def test_a_reset_to_a_number_fills_the_state(every: str) -> None:
    import torch

    text = EPISODES.replace("reset: every episode", f"reset: {{every: {every}, to: 2}}")
    net = nlc.loads(text).compile()()
    x = {n: f.float() for n, f in flows("kv", 6).items()}
    x["mask"] = torch.ones(2, 6)
    y, state = net(**x)
    assert torch.equal(state["S"], torch.full((2, 3, 3), 2.0))
    y, _ = net(**x, state=state)
    assert torch.isfinite(y["s"]).all()
