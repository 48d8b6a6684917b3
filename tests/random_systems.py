"""Random token systems of up to three memories that tick, gather, reset and read each other at different times."""

from __future__ import annotations

import random

MATRIX = "matrix(d, d)"
PAIR = "{W: [d, d], b: [d], read(z): W @ tanh(z) + b}"
MEMORIES = (MATRIX, MATRIX, MATRIX, "mlp(d, 2)", "mlp(d, 2, act=tanh, bias=true)", PAIR)
RULES = (  # systems that are rules: their arguments may read what the level reads
    "momentum(lr={lr}, rate={u}, beta=0.8{decay})",
    "adamw(lr=0.1, beta2=0.9, weight_decay={u}{decay})",
    "adam(lr={lr}, beta1=0.5, beta2=0.9, eps=0.1{decay})",
    "lookahead(lr=0.1, a=0.3, k=2{decay})",
)


def random_system(seed: int) -> str:
    """The text of a spec; many are unsound, and `check` refuses them."""
    return _System(random.Random(seed)).text()


class _System:
    def __init__(self, r: random.Random):
        self.r = r
        self.names = "ABC"[: r.randint(1, 3)]
        self.declared = r.random() < 0.25
        self.memory = {x: r.choice(MEMORIES) for x in self.names}
        self.period = {x: r.choice([1, 1, 2, 3, 4, 6, 12]) for x in self.names}
        self.marked = {x for x in self.names if self.declared and r.random() < 0.4}

    def text(self) -> str:
        r = self.r
        lines = ["nlc: 1", "system: random", "context: tokens", "hyper: {d: 3}"]
        lines += ["heads: 2"] if r.random() < 0.4 and not self.declared else []
        lines += ["inputs: {k: [d], v: [d], q: [d], a: [], b: []}"]
        lines += ["clocks: {episode: a - 0.6}"] if self.declared else []
        lines += ["let:", f"  f: {self.vector()}", f"  u: {self.number()}", "levels:"]
        for x in self.names:
            lines += [f"    {line}" if i else f"  {line}" for i, line in enumerate(self.level(x))]
        return "\n".join(
            [*lines, f"output: {' + '.join([*map(self.read, self.names), 'u * f'])}", ""]
        )

    def read(self, x: str) -> str:
        reads = ["{0}(q)", "prev({0})(q)", "anchor({0})(q)", "{0}(f)", "prev({0}(q))"]
        reads += (
            ["tanh({0}) @ q"] if self.memory[x] == MATRIX else ["{0}(q) / sqrt(1 + sqnorm({0}))"]
        )
        return self.r.choice(reads).format(x)

    def vector(self) -> str:
        r, (x, y) = self.r, self.r.choices(self.names, k=2)
        return r.choice(
            [
                "tanh(prev(k) + q)",
                "conv(k, 3)",
                "prev(f, 0.5) * a + k",
                "silu(linear(q))",
                "k * t / (t + 1)",
                f"{x}(q)",
                f"prev({x})(q) + k",
                f"{x}(tanh(prev({y})(k)))",
                f"prev({x}(q)) + k",
                f"{self.matrix(x)}",
                f"anchor({x})(q)",
            ]
        )

    def matrix(self, x: str) -> str:
        return f"tanh({x}) @ q" if self.memory[x] == MATRIX else f"{x}(k)"

    def number(self) -> str:
        x = self.r.choice(self.names)
        norm = f"sqrt(sqnorm({x}) + 1)"
        return self.r.choice(
            ["sigmoid(sum(f))", "a", "b", norm, f"1 / {norm}", "1 / (1 + a + prev(u))"]
        )

    def level(self, x: str) -> list[str]:
        r, p, others = self.r, self.period[x], [y for y in self.names if y != x]
        alike = [y for y in others if self.memory[y] == self.memory[x]]
        fast = p == 1 and x not in self.marked
        every = (
            "every episode" if x in self.marked else f"every {p} tokens" if p > 1 else "every token"
        )
        lines = [f"{x}:", f"frequency: {every}", f"memory: {self.memory[x]}"]
        lines += ["phase: start"] if not fast and r.random() < 0.25 else []
        lines += [f"key: {r.choice(['k', 'q', 'f', 'l2norm(f)', 'prev(f)'])}"]
        lines += [f"value: {r.choice(['v', 'f', 'v - k', f'anchor({x})(v)', f'prev({x})(v)'])}"]
        lines += [f"objective: {self.objective(x, fast, alike)}"]
        lines += [f"rule: {self.rule(x, fast)}"]
        if r.random() < 0.3:
            factors = ["a", "0.9", "1 / (1 + 0.1 * a)"] if fast else ["0.9", "1 / t"]
            if self.memory[x] == MATRIX and fast:
                factors += ["per_key(sigmoid(k))", "per_value(sigmoid(v))"]
            lines += [f"retain: {r.choice(factors)}"]
        if r.random() < 0.3:
            anchor = f"every {r.choice([1, 2, 3, 4]) * p} tokens"
            lines += [
                f"anchor: {'every episode' if self.declared and r.random() < 0.5 else anchor}"
            ]
        if r.random() < 0.5:
            lines += [f"init: {r.choice(['learned', '0.3', *(y for y in alike if y < x)])}"]
        if r.random() < 0.4:
            lines += [f"toward: {r.choice(['init', 'init', '0.2', *alike])}"]
        if r.random() < 0.3:
            lines += [self.reset(x, p, alike)]
        if r.random() < 0.15:
            lines += [f"project: {x} / max(norm({x}), 1)"]
        return [*lines, *(["backprop: none"] if r.random() < 0.1 else [])]

    def reset(self, x: str, p: int, alike: list[str]) -> str:
        r = self.r
        every = (
            "episode" if self.declared and r.random() < 0.6 else f"{p * r.choice([1, 2, 3])} tokens"
        )
        to = r.choice([*alike, f"0.5 * {x}", "0.1"])
        return r.choice(
            [
                f"reset: every {every}",
                f"reset: {{every: {every}, to: {to}}}",
                f"reset: {{every: {every}, rule: true}}",
            ]
        )

    def rule(self, x: str, fast: bool) -> str:
        r = self.r
        if fast:
            lr = r.choice(["0.1", "0.1 * a", "0.1 * u", "0.2 / t"])
            if self.memory[x] == MATRIX and r.random() < 0.2:
                lr = "0.1 * per_key(k)**2"
            gates = ["", ", decay=0.9", ", decay=u / (1 + u)"]
        else:
            lr = r.choice(["0.1", "0.1 * mean(a)", "0.1 * last(u)", "0.1 * mean(u)", "0.2 / t"])
            gates = ["", ", decay=0.9", ", decay=last(a)"]
        gates += [f", decay=1 / (1 + 0.1 * sqnorm({m}))" for m in (x, f"prev({x})")]
        decay = r.choice(gates)
        if r.random() < 0.3:
            u = r.choice(["0.5", "a", "0.1 * u", "1 / t"] if fast else ["0.5", "last(a)", "1 / t"])
            return r.choice(RULES).format(lr=lr, u=u, decay=decay)
        names = ["gd", "gd", "gd", "dgd"] + ["prox"] * (fast and self.memory[x] == MATRIX)
        return f"{r.choice(names)}(lr={lr}{decay})"

    def objective(self, x: str, fast: bool, alike: list[str]) -> str:
        r = self.r
        losses = [
            f"0.5 * sqnorm({x}(key) - value)",
            f"-dot({x}(key), value)",
            f"huber({x}(key) - value)",
        ]
        if self.memory[x] == MATRIX:
            losses += [
                f"0.5 * sqnorm(tanh({x}) @ key - value)",
                f"0.5 * sqnorm({x} - outer(value, key))",
            ]
        loss = r.choice(losses)
        if fast:
            windows = ["sum({}, last=3)", "mean({}, last=4)", "sum(a * 0.9**age * ({}), last=2)"]
            return r.choice(windows).format(loss) if r.random() < 0.25 else loss
        if alike and r.random() < 0.4:
            y = r.choice(alike)
            faster = self.period[y] < self.period[x] or x in self.marked
            read = f"{r.choice(['last', 'mean'])}({y})" if faster else y
            return f"0.5 * sqnorm({x} - {read})"
        sums = ["sum({})", "mean({})", "mean(a * ({}))", f"sum({{}}) + 0.1 * sqnorm({x})"]
        return r.choice(sums).format(loss)
