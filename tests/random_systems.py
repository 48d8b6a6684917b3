"""Random token systems of up to three memories that tick, gather, reset and read each other at different times."""

from __future__ import annotations

import random


def random_system(seed: int) -> str:
    """The text of a spec; many are unsound, and `check` refuses them."""
    r = random.Random(seed)
    names = "ABC"[: r.randint(1, 3)]
    periods = {x: r.choice([1, 1, 2, 3, 4, 6, 12]) for x in names}
    lines = ["nlc: 1", "system: random", "context: tokens", "hyper: {d: 3}"]
    lines += ["heads: 2"] if r.random() < 0.4 else []
    lines += ["inputs: {k: [d], v: [d], q: [d], a: [], b: []}", "let:"]
    lines += [f"  f: {_vector(r, names)}", f"  u: {_number(r, names)}", "levels:"]
    for x in names:
        lines += [
            f"    {line}" if i else f"  {line}" for i, line in enumerate(_level(r, x, periods))
        ]
    reads = ("{0}(q)", "prev({0})(q)", "anchor({0})(q)", "{0}(f)", "prev({0}(q))", "tanh({0}) @ q")
    output = [r.choice(reads).format(x) for x in names]
    return "\n".join([*lines, f"output: {' + '.join([*output, 'u * f'])}", ""])


def _vector(r: random.Random, names: str) -> str:
    x, y = r.choice(names), r.choice(names)
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
            f"tanh({x}) @ q",
            f"anchor({x})(q)",
        ]
    )


def _number(r: random.Random, names: str) -> str:
    norm = f"sqrt(sqnorm({r.choice(names)}) + 1)"
    return r.choice(["sigmoid(sum(f))", "a", "b", norm, "1 / (1 + a + prev(u))"])


def _level(r: random.Random, x: str, periods: dict[str, int]) -> list[str]:
    p, others = periods[x], [y for y in periods if y != x]
    lines = [f"{x}:", f"frequency: {'every token' if p == 1 else f'every {p} tokens'}"]
    lines += ["memory: matrix(d, d)", f"key: {r.choice(['k', 'q', 'f', 'l2norm(f)', 'prev(f)'])}"]
    lines += [f"value: {r.choice(['v', 'f', 'v - k', f'anchor({x})(v)', f'prev({x})(v)'])}"]
    lines += [f"objective: {_objective(r, x, periods)}"]
    if p == 1:
        rule = r.choice(["gd", "gd", "gd", "dgd", "prox"])
        lr = r.choice(["0.1", "0.1 * a", "0.1 * u", "0.1 * per_key(k)**2", "0.2 / t"])
        gates = ["", ", decay=0.9", ", decay=u / (1 + u)"]
    else:
        rule = "gd"
        lr = r.choice(["0.1", "0.1 * mean(a)", "0.1 * last(u)", "0.1 * mean(u)"])
        gates = ["", ", decay=0.9", ", decay=last(a)"]
    gates += [f", decay=1 / (1 + 0.1 * sqnorm({m}))" for m in (x, f"prev({x})")]
    lines += [f"rule: {rule}(lr={lr}{r.choice(gates)})"]
    if p == 1 and r.random() < 0.3:
        factors = ["a", "0.9", "per_key(sigmoid(k))", "per_value(sigmoid(v))"]
        lines += [f"retain: {r.choice(factors)}"]
    if r.random() < 0.3:
        lines += [f"anchor: every {r.choice([1, 2, 3, 4]) * p} tokens"]
    if r.random() < 0.5:
        lines += [f"init: {r.choice(['learned', '0.3', *(y for y in others if y < x)])}"]
    if r.random() < 0.4:
        lines += [f"toward: {r.choice(['init', 'init', '0.2', *others])}"]
    if r.random() < 0.3:
        every = p * r.choice([1, 2, 3])
        to = r.choice([*others, f"0.5 * {x}", "0.1"])
        lines += [
            r.choice(
                [f"reset: every {every} tokens", f"reset: {{every: {every} tokens, to: {to}}}"]
            )
        ]
    if r.random() < 0.15:
        lines += [f"project: {x} / max(norm({x}), 1)"]
    return [*lines, *(["backprop: none"] if r.random() < 0.1 else [])]


def _objective(r: random.Random, x: str, periods: dict[str, int]) -> str:
    p = periods[x]
    loss = r.choice(
        [
            f"0.5 * sqnorm({x}(key) - value)",
            f"-dot({x}(key), value)",
            f"huber({x}(key) - value)",
            f"0.5 * sqnorm(tanh({x}) @ key - value)",
            f"0.5 * sqnorm({x} - outer(value, key))",
        ]
    )
    if p == 1:
        return loss
    others = [y for y in periods if y != x]
    if others and r.random() < 0.4:
        y = r.choice(others)
        read = f"{r.choice(['last', 'mean'])}({y})" if periods[y] < p else y
        return f"0.5 * sqnorm({x} - {read})"
    sums = ["sum({})", "mean({})", "mean(a * ({}))", f"sum({{}}) + 0.1 * sqnorm({x})"]
    return r.choice(sums).format(loss)
