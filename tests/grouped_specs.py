"""Systems whose heads of values share keys."""

# Qwen3-Next's layer: a gated delta rule, whose keys and queries are those of a few heads.
GROUPED = """
nlc: 1
system: grouped_delta
context: tokens
hyper: {d: 64, key_heads: 2, dk: 16, dv: d / heads}
heads: 4
inputs: {x: [d]}
outputs: {y: [d]}
let:
  beta: sigmoid(split(linear(x)))
  alpha: sigmoid(split(linear(x)) + 4)
  q: l2norm(split(silu(conv(linear(x, key_heads * dk), 4)), key_heads))
levels:
  S:
    frequency: every token
    memory: matrix(dv, dk)
    key: l2norm(split(silu(conv(linear(x), 4)), key_heads))
    value: silu(conv(split(linear(x)), 4))
    objective: 0.5 * sqnorm(S(key) - value)
    retain: alpha
    rule: gd(lr=beta)
output:
  y: linear(merge(rmsnorm(S(q)) * silu(split(linear(x)))))
"""

# The same with a decay for each channel, without and with erasing: probes are of each head, but where what is erased
# has decayed before.
CHANNELS = GROUPED.replace("grouped_delta", "grouped_channels").replace(
    "alpha: sigmoid(split(linear(x)) + 4)", "alpha: sigmoid(split(linear(x, heads * dk)) + 4)"
)
CHANNELS = CHANNELS.replace("    retain: alpha\n", "").replace("rule: gd(lr=beta)", "RULE")
ADDED = CHANNELS.replace("0.5 * sqnorm(S(key) - value)", "-dot(S(key), value)").replace(
    "RULE", "rule: gd(lr=beta, decay=per_key(alpha))"
)
ERASED = CHANNELS.replace("    objective: 0.5 * sqnorm(S(key) - value)\n", "").replace(
    "RULE", "update: S * per_key(alpha) - outer(S(probe), key) + beta * outer(value, key)"
)
ERASED = ERASED.replace("let:\n", "let:\n  probe: l2norm(split(linear(x)))\n", 1)
AFTER = CHANNELS.replace("    key: l2norm", "    retain: per_key(alpha)\n    key: l2norm")
AFTER = AFTER.replace("RULE", "rule: gd(lr=beta)")

# With momentum: several states in one another.
MOMENTUM = GROUPED.replace("grouped_delta", "grouped_momentum").replace("    retain: alpha\n", "")
MOMENTUM = MOMENTUM.replace("gd(lr=beta)", "momentum(lr=1, rate=beta, beta=0.5, decay=alpha)")
