"""Random token systems of the kind that plans without a loop over tokens are for.

Memories whose step is linear in themselves, or becomes so between boundaries, with the gates, objectives, rules, reads
and clocks of the published ones in any combination. `check` refuses few of them. Keys `k`, `p`, `q` have dk channels,
values `v`, `c` dv; what a system writes stands in a line of its own, so that a failing one is read at a glance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

MATRIX, SQUARE = "matrix(dv, dk)", "matrix(dk, dk)"
MLPS = ("mlp(dk, 2)", "mlp(dk, 2, act=tanh, bias=true)", "mlp(dk, 1, residual=false)")
NUMBER_OF_KEY = "mlp(dk, 2, out=1)"
PAIRS = (
    "{W: [dv, dk], b: [dv], read(z): W @ z + b}",
    "{W: [dv, dk], b: [dv], read(z): tanh(W @ z) + b}",
)
VECTOR, SCALAR = "vector(dk)", "scalar"

GATES = (  # numbers: certainly positive, perhaps so, or of either sign
    "1", "0.9", "1 - 2**(-1 - head)", "sigmoid(s)", "exp(-softplus(s))", "exp(-a)", "a", "1 - 0.3 * a",
    "sigmoid(s) * 0.95", "a * b", "sigmoid(s) * exp(-a)", "1 - sigmoid(s)", "tanh(s)", "0.5 - a",
)  # fmt: skip
RATES = ("0.5", "0.3 * a", "sigmoid(s)", "b", "0.5 * sigmoid(s) * b", "0.2")
KEY_GATES = (
    "per_key(sigmoid(w))", "per_key(exp(-softplus(w)))", "per_key(exp(-softplus(w)) * a)",
    "per_key(1 - 0.3 * sigmoid(w))", "per_key(tanh(w))",
)  # fmt: skip
VALUE_GATES = ("per_value(sigmoid(u))", "per_value(exp(-softplus(u)))")
HEADS_ONLY = "head"


@dataclass
class Memory:
    """A level as it is written, and how it reads: from dk channels to ``out`` of them ("" a number).

    ``names`` are those that others read it by: two of a family, whose index is ``i``.
    """

    name: str
    kind: str
    out: str
    names: list[str]
    lines: list[str] = field(default_factory=list)

    @property
    def matrix(self) -> bool:
        return self.kind in (MATRIX, SQUARE)

    @property
    def read(self) -> bool:
        return self.kind not in (VECTOR, SCALAR)


class _System:
    def __init__(self, draw: st.DrawFn):
        self.draw = draw
        self.heads = self.chance(50)
        self.tokens = self.chance(35)  # one input x, and maps of it; else flows as of an operator
        self.period = self.of(2, 3, 4)
        self.lets: dict[str, str] = {}
        self.memories: list[Memory] = []
        self.keys, self.values = ["k", "p"], ["v", "c"]

    # -------------------------------------------------------------------------------------------- drawing

    def of(self, *items):
        return self.draw(st.sampled_from(items))

    def chance(self, percent: int) -> bool:
        return self.draw(st.integers(0, 99)) < percent

    def gate(self) -> str:
        gates = GATES if self.heads else tuple(g for g in GATES if HEADS_ONLY not in g)
        return self.of(*gates)

    def factor(self, memory: Memory) -> str:
        """What a state may be multiplied by."""
        if memory.matrix and self.chance(30):
            return self.of(*KEY_GATES, *VALUE_GATES)
        return self.gate()

    def boundary(self) -> str:
        sizes = (2, self.period, 2 * self.period, 5, 66) if self.chance(95) else (1,)
        return f"every {self.of(*sizes)} tokens"

    # -------------------------------------------------------------------------------------------- the text

    def text(self) -> str:
        self.flows()
        for name in "ABC"[: self.of(1, 1, 1, 2, 2, 3)]:
            self.memory(name)
        outputs = self.outputs()
        lines = ["nlc: 1", "system: linear", "context: tokens", "hyper:", "  dk: 3", "  dv: 2"]
        lines += ["  d: 4"] if self.tokens else []
        lines += ["  key_heads: 1"] if any("key_heads" in e for e in self.lets.values()) else []
        lines += ["heads: 2"] if self.heads else []
        lines += ["inputs:", *(f"  {n}: [{d}]" for n, d in self.inputs.items())]
        shapes = {"y": "dv", "z": "dk", "n": ""}
        if self.tokens and self.heads:
            shapes = {"y": "heads * dv", "z": "heads * dk", "n": "heads"}
        lines += ["outputs:", *(f"  {n}: [{shapes[n]}]" for n in outputs)]
        lines += ["let:", *(f"  {n}: {e}" for n, e in self.lets.items())] if self.lets else []
        lines += ["levels:"]
        for m in self.memories:
            lines += [f"  {m.name}:", *(f"    {line}" for line in m.lines)]
        merge = "merge({})" if self.tokens and self.heads else "{}"
        lines += ["output:", *(f"  {n}: {merge.format(e)}" for n, e in outputs.items())]
        return "\n".join([*lines, ""])

    def flows(self) -> None:
        """Keys of length one; some without a head axis where others have one."""
        self.inputs = {n: "dk" for n in "kpqw"} | {n: "dv" for n in "vcu"} | {n: "" for n in "abs"}
        if self.tokens:
            self.inputs = {"x": "d"}
            for n in "kpqw":
                alone = self.heads and not self.chance(40)
                wide = "split(linear(x, heads * dk))" if alone else "linear(x, dk)"
                if self.heads and not alone and self.chance(50):
                    wide = "split(linear(x, key_heads * dk), key_heads)"  # each for several heads
                self.lets[n] = f"l2norm({wide})" if n != "w" else wide
            for n in "vcu":
                self.lets[n] = "split(linear(x, heads * dv))" if self.heads else "linear(x, dv)"
            for n in "abs":
                wide = "split(linear(x, heads))" if self.heads else "sum(linear(x, 2))"
                self.lets[n] = wide if n == "s" else f"sigmoid({wide})"

    # -------------------------------------------------------------------------------------------- flows

    def key(self) -> str:
        """A flow of dk channels; of memories too, at any time."""
        made = []
        for m in self.memories:
            for n in m.names:
                if m.out == "dk" and m.read:
                    made += [f"l2norm({r}({self.of('k', 'p')}))" for r in self.times(n)]
                elif m.kind in (MATRIX, VECTOR):
                    made.append(f"l2norm({n}.T @ v)" if m.kind == MATRIX else f"l2norm({n})")
        if made and self.chance(50):
            name = f"f{len(self.lets)}"
            e = self.of(*made)
            if self.chance(25):
                e = self.of(f"conv({e}, 3)", f"prev({e})", f"prev({name}) * 0.5 + {e}")
            self.lets[name] = e
            self.keys.append(name)
        return self.of(*self.keys)

    def value(self, out: str) -> str:
        """A flow of as many channels as a memory answers."""
        if out == "":
            return self.of("a", "b", "s")
        if out == "dk":
            return self.of("p", self.key())
        reads = [n for m in self.memories if m.out == "dv" for n in m.names]
        made = [f"{r}({self.of(*self.keys)})" for n in reads for r in self.times(n)]
        return self.of(*made) if made and self.chance(30) else self.of(*self.values)

    def times(self, name: str) -> list[str]:
        return [name, f"prev({name})", f"anchor({name})"]

    # -------------------------------------------------------------------------------------------- levels

    def memory(self, name: str) -> None:
        kind = self.of(MATRIX, MATRIX, SQUARE, SQUARE, *MLPS, NUMBER_OF_KEY, *PAIRS, VECTOR, SCALAR)
        out = "dv" if kind == MATRIX or kind in PAIRS else "" if kind == NUMBER_OF_KEY else "dk"
        m = Memory(name, kind, out if kind not in (VECTOR, SCALAR) else "", [name])
        if not m.read:
            self.elements(m)
        elif self.chance(12):
            self.slow(m)
        else:
            if self.chance(15):
                m.name, m.names = f"{name}[i]", [f"{name}[e]", f"{name}[f]"]
                m.lines.append("for: {i: [e, f], share: [1, 2]}")
            self.fast(m)
        if self.chance(12):
            every = f"{self.of(2, 3) * self.period} tokens"
            to = self.of(f"every {every}", f"{{every: {every}, to: 0.1}}")
            m.lines.append(f"reset: {to}")
        if self.chance(4):
            m.lines.append("backprop: none")
        self.memories.append(m)

    def elements(self, m: Memory) -> None:
        """A vector or a number: sums, means, and what has an update of its own."""
        n, now = m.name, "k" if m.kind == VECTOR else "a"
        m.lines += ["frequency: every token", f"memory: {m.kind}"]
        if self.chance(35):
            channels = m.kind == VECTOR and self.chance(20)
            gate = "sigmoid(w)" if channels else f"({self.gate()})"
            m.lines.append(f"update: {gate} * {n} + {self.of(*RATES)} * {now}")
            return
        product = f"-dot({n}, {now})" if m.kind == VECTOR else f"-{n} * {now}"
        m.lines.append(f"objective: {self.of(product, f'0.5 * sqnorm({n} - {now})')}")
        m.lines.append(f"rule: {self.rule(m, False)}")

    def fast(self, m: Memory) -> None:
        n = m.name
        key = self.key()
        value = self.value(m.out)
        if m.out and self.chance(15):  # its own target (eq. 84)
            own = self.of("k", "p")
            value = f"{self.of('anchor', 'prev')}({n})({own})"
        m.lines += ["frequency: every token", f"memory: {m.kind}", f"key: {key}", f"value: {value}"]
        deep = not m.matrix
        if m.matrix and self.chance(25):
            m.lines.append(f"update: {self.update(m, key, value)}")
            return
        if self.chance(92 if deep else 30):
            m.lines.append(f"anchor: {self.boundary()}")
        m.lines.append(f"objective: {self.objective(m)}")
        m.lines.append(f"rule: {self.rule(m, True)}")
        if self.chance(25):
            m.lines.append(f"retain: {self.factor(m)}")
        if self.chance(70 if deep else 40):
            m.lines.append("init: learned")
        if self.chance(40):
            towards = ["init", "init"] if "init: learned" in m.lines else ["init"]
            towards += [f"outer({value}, {key})", "0.2"] if m.matrix else []
            towards += [n for x in self.memories if x.kind == m.kind for n in x.names]
            m.lines.append(f"toward: {self.of(*towards)}")

    def objective(self, m: Memory) -> str:
        n = m.name
        read = f"{n}(key)"
        squared = "sqnorm({})" if m.out else "({})**2"
        dot = f"dot({read}, value)" if m.out else f"{read} * value"
        error = squared.format(f"{read} - value")
        losses = [
            f"-{dot}", f"0.5 * {error}", f"0.5 * {error}", error, f"0.5 * a * {error}",
            f"0.5 * b * {squared.format(read)} - {dot}", f"0.5 * {error} - 0.5 * b * {dot}",
        ]  # fmt: skip
        if m.out:
            losses += [f"dot({read}, {r}(p) - value)" for r in (f"prev({n})", f"anchor({n})")]
            losses += [f"dot({read}, stop({n}(p)) - value)", f"huber({read} - value)"]
        if m.kind == MATRIX:
            losses += [f"0.5 * sqnorm({n}.T @ value) - {dot}"]
        if self.chance(5):
            losses = [f"sum({x}, last=3)" for x in losses[:4]]
        elif m.matrix:
            losses += [f"0.5 * {error} + 0.1 * sqnorm({n})", f"0.5 * {error} - dot({n}(p), value)"]
        return self.of(*losses)

    def rule(self, m: Memory, keyed: bool) -> str:
        lr = self.of(*RATES) + " / share" * (len(m.names) > 1)
        decay = f", decay={self.factor(m) if m.read else self.gate()}" if self.chance(70) else ""
        kinds = ["gd", "gd", "gd", "momentum"]
        kinds += ["dgd", "dgd", "exact"] if keyed else []
        kinds += ["prox"] if m.matrix else []
        kind = self.of(*kinds)
        if kind == "momentum":
            rates = f"lr={self.of('1', *RATES)}, rate={lr}, beta={self.gate()}"
            return f"momentum({rates}{decay})"
        if kind == "exact":
            return f"dgd(lr={lr}{decay}, exact=true)"
        if kind == "prox" and "per_" in decay:
            decay = ""
        return f"{kind}(lr={lr}{decay})"

    def update(self, m: Memory, key: str, value: str) -> str:
        """Steps that are the gradient of nothing: RWKV-7, GDN-2, Oja, a decay between two reads."""
        n, rate = m.name, self.of(*RATES)
        if "prev" in value or "anchor" in value:
            value = "v" if m.out == "dv" else "p"
            m.lines[-1] = f"value: {value}"
        gate = f"({self.gate()})"
        forms = [
            f"{n} * per_key(sigmoid(w)) - outer({n}(p), {rate} * p) + outer(value, key)",
            f"{n} * per_key(sigmoid(w)) - outer({n} @ (sigmoid(w) * key), b * key) + outer(a * value, key)",
            f"{gate} * {n} - {rate} * outer({n}(p), key) + outer(value, key)",
            f"{gate} * ({n} - {rate} * outer({n}(key), key)) + {rate} * outer(value, key)",
            f"{gate} * {n} + outer(value, key)",
            f"{n} - {rate} * outer({n}(key) - value, key)",
        ]
        if m.kind == MATRIX:
            forms += [
                f"{gate} * {n} + {rate} * outer(value, key - {n}.T @ value)",
                f"{n} * per_value(sigmoid(u)) - {rate} * outer(value, {n}.T @ value) + outer(value, key)",
            ]
        return self.of(*forms)

    def slow(self, m: Memory) -> None:
        """It ticks once in several tokens, from sums over them."""
        n = m.name
        key, value = self.key(), self.value(m.out)
        period = self.of(self.period, 2 * self.period)
        m.lines += [f"frequency: every {period} tokens", f"memory: {m.kind}"]
        m.lines += [f"key: {key}", f"value: {value}"]
        alike = [n for x in self.memories if x.kind == m.kind for n in x.names]
        squared = "sqnorm({})" if m.out else "({})**2"
        losses = [f"{self.of('sum', 'mean', 'last')}(0.5 * {squared.format(f'{n}(key) - value')})"]
        losses += [f"0.5 * sqnorm({n} - last({x}))" for x in alike if self.chance(50)]
        m.lines.append(f"objective: {self.of(*losses)}")
        m.lines += ["phase: start"] if self.chance(15) else []
        rate, decay = self.of("0.1", "0.1 * mean(a)"), self.of("", ", decay=0.9", ", decay=last(a)")
        m.lines.append(f"rule: {self.of('gd', 'gd', 'dgd')}(lr={rate}{decay})")
        m.lines += ["init: learned"] if self.chance(70) else []
        m.lines += ["toward: init"] if self.chance(30) else []

    # -------------------------------------------------------------------------------------------- outputs

    def outputs(self) -> dict[str, str]:
        """Each memory read once or more, at several times and places; sums of those of one width."""
        parts: dict[str, list[str]] = {"y": [], "z": [], "n": []}
        place = {"dv": "y", "dk": "z", "": "n"}
        for m in self.memories:
            if m.kind == VECTOR:
                parts["z"].append(self.of(m.name, f"{m.name} * q", f"prev({m.name})"))
                parts["n"].append(f"dot({m.name}, q)")
            elif m.kind == SCALAR:
                parts["n"].append(self.of(m.name, f"prev({m.name}) * a", f"a / (1 + {m.name}**2)"))
            else:
                for n in m.names:
                    parts[place[m.out]] += [self.output(n) for _ in range(self.of(1, 1, 2))]
                    if m.matrix and self.chance(20):
                        parts["z"].append(f"{n}.T @ {'v' if m.kind == MATRIX else 'p'}")
                    if m.matrix and self.chance(5):
                        parts[place[m.out]].append(f"tanh({n}) @ q")
        if self.chance(10) and parts["y"]:
            parts["y"] = [f"conv({e}, 2)" for e in parts["y"]]
        return {n: " + ".join(e) for n, e in parts.items() if e}

    def output(self, name: str) -> str:
        read = f"{self.of(name, name, *self.times(name))}({self.of('q', *self.keys)})"
        return f"prev({read})" if self.chance(10) else read


@st.composite
def linear_systems(draw: st.DrawFn) -> str:
    """The text of a spec."""
    return _System(draw).text()


@st.composite
def self_modifying_systems(draw: st.DrawFn) -> str:
    """Systems like eqs. 83-93: memories of one family generate keys, values and gates for one another."""
    return self_modifying(lambda *items: draw(st.sampled_from(items)))


def picked(*wanted: str) -> Callable[..., str]:
    """Instead of a draw: the first of the items that is wanted, else the first of all."""
    return lambda *items: next((x for x in items if x in wanted), items[0])


def self_modifying(of: Callable[..., str]) -> str:
    kind = of("mlp(n, 2, out=out)", "mlp(n, 1, out=out, act=tanh)", "matrix(out, n)")
    number = "n" if kind.startswith("matrix") else "1"  # what a gate is made of
    sizes = of("[2, 2, 2, 4]", "[3, 3, 3, 3]", "[4, 2, 2, 4]", "[66, 66, 66, 33]")
    generated = {s: of(*[f"anchor(M[{s}])"] * 7, f"prev(M[{s}])") for s in ("k", "v", "alpha")}
    decay = of("alpha", "0.95", "a")
    rule = of(
        f"dgd(lr=0.2 * a, decay={decay})",
        f"gd(lr=0.2 * a, decay={decay})",
        f"momentum(lr=1, rate=0.1 * a, beta=0.5, decay={decay})",
    )
    lines = [
        *["nlc: 1", "system: modifying", "context: tokens", "hyper: {n: 3}"],
        *[of("heads: 2", "")],
        *["inputs: {z: [n], q: [n], a: []}", "outputs: {y: [n]}", "let:"],
        f"  k: l2norm({generated['k']}(z))",
        f"  v: l2norm({generated['v']}(z))",
        f"  alpha: sigmoid(sum({generated['alpha']}(z)) + 2)",
        *["levels:", "  M[s]:"],
        f"    for: {{s: [k, v, alpha, memory], out: [n, n, {number}, n], size: {sizes}}}",
        *["    frequency: every token", "    anchor: every size tokens", f"    memory: {kind}"],
        *["    key: k", f"    value: {of(*['v', 'anchor(M[s])(v)'] * 4, 'prev(M[s])(v)')}"],
        f"    objective: {of('0.5 * ', '')}sqnorm(M[s](key) - value)",
        *[f"    rule: {rule}", "    init: learned", of("    toward: init", "")],
    ]
    read = f"{of('M[memory]', 'anchor(M[memory])', 'prev(M[memory])')}(q)"
    if of("", "slow") == "slow":
        lines += ["  C:", "    frequency: every 6 tokens", "    memory: mlp(n, 2)"]
        lines += ["    init: learned", "    objective: mean(0.5 * sqnorm(C(z) - q))"]
        lines += ["    rule: gd(lr=0.1)"]
        read = f"C({read})"
    return "\n".join([*filter(None, lines), f"output: {read}", ""])
