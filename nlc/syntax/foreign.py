"""What other languages call things: their keys, functions, arguments and names, and ours in their place.

A word that stands for one of ours is repaired by ``nlc check --fix``; where the form differs too there
is advice instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nlc.base.diagnostics import Report
from nlc.base.span import Span

# Keys of a mapping. ``every`` has a value of another form, which ``blocks`` rewrites.
KEYS = {
    "name": ("system",),
    "version": ("nlc",),
    "language": ("nlc",),
    "description": ("doc",),
    "paper": ("ref",),
    "reference": ("ref",),
    "dims": ("hyper", "shape"),
    "config": ("hyper",),
    "hparams": ("hyper",),
    "hypers": ("hyper",),
    "hyperparameters": ("hyper",),
    "constants": ("hyper",),
    "params": ("weights",),
    "parameters": ("weights",),
    "where": ("let",),
    "definitions": ("let",),
    "flows": ("let",),
    "layers": ("levels",),
    "memories": ("levels",),
    "blocks": ("levels",),
    "modules": ("levels",),
    "returns": ("output",),
    "return": ("output",),
    "every": ("frequency",),
    "clock": ("frequency", "every"),
    "period": ("frequency", "every"),
    "interval": ("frequency", "every"),
    "update_every": ("frequency", "every"),
    "update_frequency": ("frequency", "every"),
    "update_freq": ("frequency", "every"),
    "update_period": ("frequency", "every"),
    "state": ("memory",),
    "states": ("memory",),
    "store": ("memory",),
    "target": ("value",),
    "targets": ("value",),
    "loss": ("objective",),
    "criterion": ("objective",),
    "cost": ("objective",),
    "loss_fn": ("objective",),
    "optimizer": ("rule",),
    "optim": ("rule",),
    "learner": ("rule",),
    "initial": ("init",),
    "read": ("output",),
    "size": ("shape",),
    "sizes": ("shape",),
    "each": ("frequency", "every"),
    "from": ("to",),
    "foreach": ("for",),
    "over": ("for",),
    "n_heads": ("heads",),
    "num_heads": ("heads",),
}

# What is no key of a level, and where it belongs.
BELONGS = {
    "read": "a level is read where it is used: `output: {level}(q)`, or in a `let`",
    "query": "what a level is asked with stands where it is read: `output: {level}(q)`",
    "output": "a level has no output of its own; `output: {level}(q)` stands in the spec",
    "lr": "it is an argument of the rule: `rule: gd(lr=…)`",
    "learning_rate": "it is an argument of the rule: `rule: gd(lr=…)`",
    "eta": "it is an argument of the rule: `rule: gd(lr=…)`",
    "decay": "it is an argument of the rule, `rule: gd(lr=…, decay=…)`; `retain` acts before the gradient",
    "weight_decay": "it is an argument of the rule: `rule: gd(lr=…, decay=…)`",
    **dict.fromkeys(
        ("forget", "forget_gate", "forget_rate"),
        "what is kept is `retain`, before the gradient, or `decay` of the rule: of a rate f that is"
        " forgotten, `1 - f`",
    ),
    "momentum": "it is a rule: `rule: momentum(lr=…, beta=…)`",
    "shape": "the sizes are arguments of the memory: `memory: matrix(dv, dk)`",
    "heads": "it is a key of the spec, for all levels",
}

# Functions that take the same arguments under another name.
FUNCTIONS = {
    "norm2": "sqnorm",
    "norm_squared": "sqnorm",
    "squared_norm": "sqnorm",
    "square_norm": "sqnorm",
    "sq_norm": "sqnorm",
    "normalize": "l2norm",
    "l2_norm": "l2norm",
    "l2_normalize": "l2norm",
    "swish": "silu",
    "logistic": "sigmoid",
    "dense": "linear",
    "fc": "linear",
    "conv1d": "conv",
    "causal_conv1d": "conv",
    "rms_norm": "rmsnorm",
    "layer_norm": "layernorm",
    "rope": "rotary",
    "inner": "dot",
    "vdot": "dot",
    "ger": "outer",
    "outer_product": "outer",
    "ln": "log",
    "total": "sum",
    "average": "mean",
    "avg": "mean",
    "absolute": "abs",
    "maximum": "max",
    "minimum": "min",
    "detach": "stop",
    "stop_gradient": "stop",
    "stop_grad": "stop",
    "stopgrad": "stop",
    "sg": "stop",
    "newtonschulz": "newton_schulz",
    "eigenvectors": "eigh_basis",
    "diag_embed": "diag",
    "newtonschulz5": "newton_schulz",
    "zeropower_via_newtonschulz5": "newton_schulz",
}

# Functions for which something else is written.
WRITTEN = {
    **dict.fromkeys(("matmul", "mm", "bmm", "mv"), "a product of matrices is `A @ B`"),
    **dict.fromkeys(("transpose", "swapaxes", "permute", "t", "T"), "the transpose is `A.T`"),
    **dict.fromkeys(
        ("cat", "concatenate", "stack", "hstack"),
        "two vectors in a row are `concat(a, b)`",
    ),
    **dict.fromkeys(
        ("reshape", "view", "rearrange"),
        "heads are made by `split(z)` and joined by `merge(z)`",
    ),
    **dict.fromkeys(("float", "int", "to"), "values have one type; a size divides as `d / heads`"),
    **dict.fromkeys(("square", "pow", "power"), "a power is `x**2`"),
    **dict.fromkeys(("mse", "mse_loss"), "a squared error is `0.5 * sqnorm(S(key) - value)`"),
    "ones": "a number stands for all entries: `init: 1`",
    **dict.fromkeys(
        ("eye", "identity", "I"), "a diagonal matrix is `diag(x)`, of a vector x such as a weight"
    ),
    "eigh": "`eigh_basis(A)` gives the eigenvectors alone",
    "einsum": "products are `A @ B`, `outer(a, b)` and `dot(a, b)`",
    "multiply": "a product is `a * b`",
    "mul": "a product is `a * b`",
    "add": "a sum is `a + b`",
    "reciprocal": "write `1 / x`",
    "rsqrt": "write `1 / sqrt(x)`",
    "linalg": "matrix functions are `inv_root`, `solve`, `newton_schulz`, `eigh_basis`, `qr`",
    "attention": "attention is a level with `memory: cache`, read as `A(q)`",
    "gradient": "a gradient is `grad(e, M)`",
    "backward": "the objective is differentiated by the compiler",
}

# Memories for which something else is written.
MEMORIES = {
    **dict.fromkeys(("linear", "dense", "zeros", "tensor", "array", "param"), "matrix"),
    **dict.fromkeys(("zeros_like", "ones_like", "same"), "like"),
    **dict.fromkeys(("kv_cache", "kv", "attention"), "cache"),
    **dict.fromkeys(("ffn", "network", "feedforward"), "mlp"),
}

# Arguments of the same meaning; the first that a function has counts.
ARGUMENTS = {
    **dict.fromkeys(("eta", "learning_rate", "step_size"), ("lr",)),
    **dict.fromkeys(("wd", "weightdecay"), ("weight_decay",)),
    **dict.fromkeys(("momentum", "mu"), ("beta", "beta1")),
    **dict.fromkeys(("out", "dim", "features", "out_features", "out_dim"), ("width",)),
    **dict.fromkeys(("kernel", "kernel_size"), ("width",)),
    **dict.fromkeys(("iterations", "iters", "n_steps", "ns_steps"), ("steps",)),
    **dict.fromkeys(("epsilon",), ("eps",)),
    **dict.fromkeys(("activation", "nonlinearity"), ("act",)),
    **dict.fromkeys(("expansion", "mult"), ("expand",)),
}
AXES = frozenset("dim dims axis axes keepdim keepdims".split())  # there are none
# Arguments of a like meaning, and how ours is meant.
LIKE = {
    **dict.fromkeys(
        ("wd", "weight_decay"), ("decay", "`decay` multiplies what is kept: `decay=1 - lr * wd`")
    ),
    **dict.fromkeys(("retain", "alpha", "gamma"), ("decay", "`decay` is what is kept")),
    "forget": ("decay", "`decay` is what is kept: of a rate f that is forgotten, `1 - f`"),
}
# Arguments that hold several of ours, in this order.
PARTS = {"betas": ("beta1", "beta2", "beta3")}

# What a state may start from.
STARTS = {"ones": "1", "one": "1"}

# What the derivation and papers call a level's own flows.
FLOWS = {"k": "key", "v": "value", "keys": "key", "values": "value"}

NAMES = {"True": "true", "False": "false"}
NOTHING = frozenset(
    ("None", "none", "null", "nil")
)  # `none` stands for an argument that is left out
GRADIENTS = frozenset("G grad grads gradient gradients dW gW".split())  # they mean `g`

MODULES = frozenset(
    "torch np numpy jnp jax F nn functional math tf tl mx K linalg special self nlc".split()
)
READS = frozenset("forward read call apply query retrieve get".split())


LAMBDA = re.compile(r"(?<!\w)lambda\s+\w+(?:\s*,\s*\w+)*\s*:")  # `lambda` alone is a letter


def no_lambda(span: Span, report: Report) -> None:
    """Reports a function that is written where it is used."""
    report.add(
        "NLC013",
        "`lambda` is not an operator",
        span,
        "there are no functions but those of the language",
        helps=["name an expression with `let`, or write a memory with `read(z)`"],
    )


def plain(name: str) -> str:
    """``LayerNorm`` -> ``layer_norm``, as the tables spell it."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def parts(name: str, values: Sequence[str]) -> str | None:
    """``beta1=0.9, beta2=0.95`` for the name and the values of an argument that holds several of ours."""
    ours = PARTS.get(name, ())
    if not 1 < len(values) <= len(ours):
        return None
    return ", ".join(f"{part}={value}" for part, value in zip(ours, values))


def function(name: str) -> str | None:
    """Our function of another language's name, if it takes the same."""
    return FUNCTIONS.get(name) or FUNCTIONS.get(plain(name)) or FUNCTIONS.get(name.lower())
