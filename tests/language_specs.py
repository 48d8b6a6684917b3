"""The example specs of the definition of the language, as they are printed there."""

# ruff: noqa: E501

SPECS = {
    "hope": """\
nlc: 1
system: hope                                  # eqs. 86-97, CMS in context
context: tokens
hyper: {d: 256, n: d / heads, expand: 4, chunk: 64, memory_chunk: 16, periods: [64, 256, 1024], gate_bias: 4, cms_lr: 0.1}
heads: 4
inputs: {x: [d]}
outputs: {y: [d]}
let:
  u: conv(x, 4)
  z: split(u)
  q: l2norm(split(linear(u)))                 # the only fixed projection
  k: l2norm(anchor(M[k])(z))                  # eq. 90: everything from the boundary
  v: l2norm(anchor(M[v])(z))                  # normalised: without it correlated tokens overflow (checked)
  eta: sigmoid(anchor(M[eta])(z))
  alpha: sigmoid(anchor(M[alpha])(z) + gate_bias)
  h[0]: merge(anchor(M[memory])(q))           # read before write
  h[i]:
    for: {i: [1, 2, 3]}
    is: C[i](h[i-1])                          # held inside a period
levels:
  M[s]:
    for: {s: [k, v, eta, alpha, memory], out: [n, n, 1, 1, n], size: [chunk, chunk, chunk, chunk, memory_chunk]}
    frequency: every token
    anchor: every size tokens
    memory: mlp(n, expand, out=out)
    key: k
    value: anchor(M[s])(v)                    # its own target, eq. 84; a constant for the inner gradient
    objective: 0.5 * sqnorm(M[s](key) - value)
    rule: dgd(lr=eta / size, decay=alpha)     # the steps of a chunk add up to at most one
    toward: init                              # leave out for the literal eq. 88
    init: learned
    backprop: through
  C[i]:
    for: {i: [1, 2, 3], period: periods}
    frequency: every period tokens
    memory: mlp(d, expand)
    key: h[i-1]
    value: linear(h[i-1])                     # a choice: the paper leaves the local objective open
    objective: sum(0.5 * sqnorm(C[i](key) - value))
    rule: gd(lr=cms_lr / period)
    init: learned
output:
  y: h[3]
""",
    "titans": """\
nlc: 1
system: titans
context: tokens
hyper: {d: 256, n: d / heads, expand: 4, chunk: 16}
heads: 4
inputs: {x: [d]}
let:
  q: l2norm(silu(conv(split(linear(x)), 4)))
  theta: sigmoid(split(linear(x)) - 4) / chunk
  eta: sigmoid(split(linear(x)) + 2)
  alpha: sigmoid(split(linear(x)) - 4)
levels:
  M:
    frequency: every token
    anchor: every chunk tokens                # chunk: 1 is the exact recurrence
    memory: mlp(n, expand)
    key: l2norm(silu(conv(split(linear(x)), 4)))
    value: silu(conv(split(linear(x)), 4))
    objective: sqnorm(M(key) - value)         # no 1/2 in the paper
    rule: momentum(lr=1, rate=theta, beta=eta, decay=1 - alpha)
    init: learned
output:
  y: linear(merge(rmsnorm(M(q)) * silu(split(linear(x)))))    # bare M: after the write
""",
    "mamba2": """\
nlc: 1
system: mamba2
context: tokens
hyper: {d: 256, expand: 2, di: d * expand, p: 64, n: 128}
heads: di / p
inputs: {x: [d]}
weights:
  A_log: {shape: [], per: head, init: "log(uniform(1, 16))"}
  dt_bias: {shape: [], per: head, init: "inv_softplus(exp(uniform(log(0.001), log(0.1))))"}
  D: {shape: [], per: head, init: 1}
let:
  z: linear(x, di)
  u: split(silu(conv(linear(x, di), 4, bias=true)))
  B: silu(conv(linear(x, n), 4, bias=true))   # no head axis: broadcast
  C: silu(conv(linear(x, n), 4, bias=true))
  dt: softplus(split(linear(x, heads)) + dt_bias)
levels:
  S:
    frequency: every token
    memory: matrix(p, n)
    key: B
    value: dt * u
    objective: -dot(S(key), value)
    rule: gd(lr=1, decay=exp(-exp(A_log) * dt))
output:
  y: linear(rmsnorm(merge(S(C) + D * u) * silu(z)))
""",
    "lookahead": """\
nlc: 1
system: lookahead
context: gradients
hyper: {lr: 1e-3, a: 0.5, k: 5}
levels:
  W:
    frequency: every step
    objective: dot(W, g)
    rule: adamw(lr=lr)
    reset: {every: k steps, to: phi}          # written back; AdamW's states survive
  phi:
    frequency: every k steps
    memory: like(W)
    init: W
    objective: 0.5 * sqnorm(phi - last(W))
    rule: gd(lr=a)
""",
    "cms_nested": """\
nlc: 1
system: cms_nested                            # eq. 72, first order
context: tokens
hyper: {d: 256, expand: 4, lr: 0.1, meta_lr: 0.3}
inputs: {x: [d]}
let:
  target: linear(x)
levels:
  A:
    frequency: every 4096 tokens
    memory: mlp(d, expand)
    objective: 0.5 * sqnorm(A - last(B))
    rule: gd(lr=meta_lr)
    init: learned
  B:
    frequency: every 512 tokens
    reset: {every: 4096 tokens, to: A}
    memory: mlp(d, expand)
    objective: 0.5 * sqnorm(B - last(C))
    rule: gd(lr=meta_lr)
    init: A
  C:
    frequency: every 64 tokens
    reset: {every: 512 tokens, to: B}
    memory: mlp(d, expand)
    objective: sum(0.5 * sqnorm(C(x) - target))
    rule: gd(lr=lr / 64)
    init: B
output:
  y: C(x)
""",
    "adamw": """\
nlc: 1
system: adamw
context: gradients                        # g: the gradient of the loss at W, once a step
hyper: {lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01}
levels:
  m:
    frequency: every step
    memory: like(W)
    objective: -dot(m, g)                 # how well m stores the gradient
    rule: gd(lr=1 - beta1, decay=beta1)
  v:
    frequency: every step
    memory: like(W)
    objective: -dot(v, g * g)
    rule: gd(lr=1 - beta2, decay=beta2)
  W:
    frequency: every step
    let:
      m_hat: m / (1 - beta1**t)           # bare m: after this step's update, so m and v ≻ W, and m, v share a level
      v_hat: v / (1 - beta2**t)
    objective: dot(W, m_hat / (sqrt(v_hat) + eps))
    rule: gd(lr=lr, decay=1 - lr*weight_decay)
""",
    "gated_delta_net": """\
nlc: 1
system: gated_delta_net
context: tokens
hyper: {d: 256, dk: d / heads, dv: d / heads}
heads: 4
inputs: {x: [d]}
outputs: {y: [d]}
let:
  beta: sigmoid(split(linear(x)))         # a bare gate is a scalar, so this linear's width is one per head
  alpha: sigmoid(split(linear(x)) + 4)
  q: l2norm(silu(conv(split(linear(x)), 4)))
levels:
  S:
    frequency: every token
    memory: matrix(dv, dk)
    key: l2norm(silu(conv(split(linear(x)), 4)))
    value: silu(conv(split(linear(x)), 4))
    objective: 0.5 * sqnorm(S(key) - value)
    retain: alpha                         # the step starts from alpha * S
    rule: gd(lr=beta)
output:
  y: linear(merge(rmsnorm(S(q)) * silu(split(linear(x)))))
""",
}
