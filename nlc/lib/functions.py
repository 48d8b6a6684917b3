"""The functions of the language: what may be called, with which arguments, and which operator that becomes.

To add one: a record here if it is an operator of ``ir/ops``, or one line of text in terms of the others (``is_``).
``docs/language.md`` and ``nlc explain NAME`` are written from these records.
"""

from __future__ import annotations

from dataclasses import dataclass

REQUIRED = object()


@dataclass(frozen=True)
class Function:
    """``params`` maps names to defaults (language text, ``REQUIRED`` or None for "not given").

    ``example`` is an expression over the names of ``tools/reference``, where it is compiled to say what comes out.
    ``static`` parameters are sizes or switches, fixed at construction, and are no operands. ``weights`` names the slow
    weights that the function owns. ``is_`` defines it in the language itself, over its parameters.
    """

    name: str
    params: dict[str, object]
    example: str
    doc: str
    op: str = ""
    static: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    is_: str = ""
    init_only: bool = False


def _function(name: str, params: str, example: str, doc: str, **kwargs: object) -> Function:
    table: dict[str, object] = {}
    for part in filter(None, params.split(", ")):
        key, _, default = part.partition("=")
        table[key] = REQUIRED if not default else None if default == "none" else default
    kwargs.setdefault("op", "" if kwargs.get("is_") else name)
    return Function(name, table, example, doc, **kwargs)  # type: ignore[arg-type]


_OVER = (
    "of all elements; with `last=c`, over the last c ticks of a level;"
    " in a slow level, of a scalar over the ticks of its period"
)

_TABLE = [
    # elementwise
    _function("exp", "x", "exp(u)", "e to the x"),
    _function("expm1", "x", "expm1(u)", "exp(x) - 1, precise near 0"),
    _function("log", "x", "log(a)", "natural logarithm"),
    _function("sqrt", "x", "sqrt(sqnorm(v))", "square root"),
    _function("abs", "x", "abs(v)", "absolute value"),
    _function("sign", "x", "sign(v)", "-1, 0 or 1"),
    _function("sigmoid", "x", "sigmoid(u)", "1 / (1 + exp(-x))"),
    _function("silu", "x", "silu(v)", "x * sigmoid(x)"),
    _function("gelu", "x", "gelu(v)", "x times the normal distribution function of x"),
    _function("relu", "x", "relu(v)", "max(x, 0)"),
    _function("tanh", "x", "tanh(v)", "hyperbolic tangent"),
    _function("softplus", "x", "softplus(u)", "log(1 + exp(x))"),
    _function("erf", "x", "erf(v)", "error function"),
    _function("clip", "x, low, high", "clip(u, 0, 1)", "x kept within [low, high]"),
    _function("where", "condition, a, b", "where(u > 0, k, v)", "a where the condition holds, else b"),
    _function("max", "x, y=none", "max(u, 1)", "the larger of two, elementwise; of one, its largest element",
              op="maximum"),
    _function("min", "x, y=none", "min(k, v)", "the smaller of two, elementwise; of one, its smallest element",
              op="minimum"),
    # reductions
    _function("sum", "x", "sum(v)", f"sum {_OVER}"),
    _function("mean", "x", "mean(v)", f"mean {_OVER}"),
    _function("dot", "x, y", "dot(k, v)", "inner product over all elements"),
    _function("sqnorm", "x", "sqnorm(k)", "squared Euclidean norm"),
    _function("norm", "x, p=2", "norm(v, p=1)", "p-norm over all elements"),
    _function("numel", "x", "sum(v) / numel(v)", "number of elements"),
    _function("huber", "x, delta=1", "huber(k - v, delta=0.1)", "Huber's loss, quadratic within delta, summed",
              is_="sum(where(abs(x) <= delta, 0.5 * x**2, delta * (abs(x) - 0.5 * delta)))"),
    _function("lp", "x, p", "lp(k - v, 3)", "sum of |x|**p", is_="sum(abs(x)**p)"),
    # vectors and matrices
    _function("outer", "x, y", "outer(v, k)", "x y', a matrix of x's size by y's"),
    _function("per_key", "x", "per_key(sigmoid(v))", "a factor for each key channel (column) of a memory"),
    _function("per_value", "x", "per_value(sigmoid(v))", "a factor for each value channel (row) of a memory"),
    _function("softmax", "x", "softmax(v)",
              "softmax over the channels; of a matrix, of each row over its key channels"),
    _function("l2norm", "x, eps=1e-6", "l2norm(v)", "x / sqrt(sqnorm(x) + eps); of a matrix, of each row"),
    _function("rotary", "x, position, base=10000", "rotary(k, pos)",
              "rotary position embedding of channel pairs (i, i + n/2)"),
    _function("slice", "x, start, stop", "slice(v, 0, n / 2)", "channels start to stop - 1", static=("start", "stop")),
    _function("concat", "x, y", "concat(k, v)", "the channels of x, then those of y; a number is one channel"),
    _function("flatten", "A", "flatten(outer(v, k))", "the elements of a matrix as one vector, row by row"),
    _function("diag", "x", "diag(v)", "the diagonal matrix that has x on its diagonal"),
    _function("diagonal", "A", "diagonal(outer(v, k))", "the diagonal of a square matrix, as a vector"),
    # functions of matrices
    _function("newton_schulz", "A, steps=5, coefficients=quintic, dtype=none", "newton_schulz(g, steps=3)",
              "the polar factor of A, approached from A / norm(A) by `steps` of `cubic`, `quintic` or [a, b, c]",
              static=("steps", "coefficients", "dtype")),
    _function("inv_root", "A, p, eps=1e-6", "inv_root(g @ g.T, 4)",
              "A**(-1/p) of a symmetric A, its eigenvalues at least eps times the largest"),
    _function("eigh_basis", "A", "eigh_basis(g @ g.T)",
              "the eigenvectors of a symmetric A as columns, the largest eigenvalue's first; of each, the first"
              " element of at least 0.9 of its largest size is positive"),
    _function("qr", "A", "qr(g)",
              "the orthonormal columns Q of A = Q R, R upper triangular with a diagonal of at least 0; if A is wider"
              " than high, the orthonormal rows Q of A = L Q, L lower triangular"),
    _function("solve", "A, b, steps=none", "solve(g @ g.T + diag(diagonal(g @ g.T)), g)",
              "x with A @ x = b; by `steps` of conjugate gradients if given, for a positive definite A",
              static=("steps",)),
    _function("identity", "A", "solve(g @ g.T + 0.1 * identity(g @ g.T), g)",
              "the identity matrix, as large as a square A"),
    _function("nrows", "A", "sqrt(nrows(g))", "number of rows of a matrix"),
    _function("ncols", "A", "sqrt(ncols(g))", "number of columns of a matrix"),
    # with slow weights of their own
    _function("linear", "x, width=none, bias=false, shared=false", "linear(x, 2 * d)",
              "an affine map to `width` channels (inferred where not given)",
              static=("width", "bias", "shared"), weights=("weight", "bias")),
    _function("conv", "x, width, bias=false, shared=false", "conv(x, 4)",
              "causal depthwise convolution over the last `width` tokens; the last tap of a weight is for the newest",
              static=("width", "bias", "shared"), weights=("weight", "bias")),
    _function("rmsnorm", "x, shared=false", "rmsnorm(x)",
              "x / sqrt(mean(x**2) + 1e-6), times a weight",
              static=("shared",), weights=("weight",)),
    _function("layernorm", "x, shared=false", "layernorm(x)",
              "x - mean(x) over the root of its mean square plus 1e-6, times a weight, plus a bias",
              static=("shared",), weights=("weight", "bias")),
    _function("embedding", "x, rows, width=none", "embedding(i, 256, d)",
              "row x of a table of `rows`, for an input x of whole numbers from 0 to rows - 1, one a token",
              static=("rows", "width"), weights=("weight",)),
    # heads, time
    _function("split", "x, groups=none", "split(x)",
              "[heads * n] channels to n per head: the first n are the first head's; of [groups * n] where groups of"
              " heads share theirs, the first `heads / groups` heads the first n",
              static=("groups",)),
    _function("merge", "x", "merge(v)", "n channels per head to [heads * n], head by head"),
    _function("substeps", "x", "substeps(x)",
              "for a level of `n per token`: the n equal parts of x, one for each sub-step"),
    _function("last", "x", "last(v)", "the newest value of something faster, for a level with a period", op="total"),
    _function("stop", "x", "stop(v)", "x as a constant: no gradient passes, inner or outer"),
    # where a weight or a state starts
    _function("uniform", "low, high", "uniform(1, 16)", "uniformly distributed", init_only=True),
    _function("normal", "std", "normal(0.02)", "normally distributed around 0", init_only=True),
    _function("inv_softplus", "x", "inv_softplus(0.1)", "the number whose softplus is x", is_="log(expm1(x))"),
]  # fmt: skip


def usage(name: str, params: dict[str, object]) -> str:
    """``linear(x, width=none, bias=false)``: a call with its defaults."""
    inside = (
        p if d is REQUIRED else f"{p}={'none' if d is None else d}" for p, d in params.items()
    )
    return f"{name}({', '.join(inside)})"


# Ways to read a name at another time, or to differentiate by it: they take the name itself, not its value.
_READS = [
    _function("prev", "f, init=0", "prev(k)",
              "a state before the tick; a flow one tick of its clock earlier, `init` before the first"),
    _function("anchor", "M", "anchor(S)",
              "the state of a level at its last boundary; without `anchor:` the same as prev(M)"),
    _function("grad", "e, P", "grad(0.5 * sqnorm(M(k) - v), M)",
              "in an `update`: the gradient of e by P, its level or a let made of the level's state"),
]  # fmt: skip

FUNCTIONS: dict[str, Function] = {f.name: f for f in _TABLE}
READS: dict[str, Function] = {f.name: f for f in _READS}
WEIGHTED = frozenset(f.op for f in _TABLE if f.weights)  # own slow weights
