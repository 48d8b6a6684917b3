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
