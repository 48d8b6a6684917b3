"""Decays as logarithms: where a spec gives the decay itself, its logarithm is one pass over it, and its slope another."""

from __future__ import annotations

from dataclasses import dataclass, field

from nlc.backends.precedence import ATOM, SUM
from nlc.backends.torch.rows import RowPrinter
from nlc.backends.triton.gates import ending
from nlc.ir.expr import Expr
from nlc.ir.gates import Gates
from nlc.ir.logs import logged
from nlc.ir.types import TOKEN


@dataclass
class KernelPrinter(RowPrinter):
    """Values of tokens beside kernels. ``operators`` are those that make decays, by the texts of a file."""

    operators: dict[Gates, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)  # names of variables

    def write(self, e: Expr) -> tuple[str, int]:
        if e.op == "made":
            gates: Gates = e.attr  # type: ignore[assignment]
            behind = ending(len(self.operators), self.taken)
            name = self.operators.setdefault(gates, f"log_decay{behind}")
            args = [
                self(x) if n in gates.fixed else self.aligned(x, e.type, SUM)
                for n, x in zip(gates.given, e.args)
            ]
            return f"{self.use(name)}({', '.join(args)})", ATOM
        decays = logged(e) if e.type.clock == TOKEN else None
        if decays is not None:
            return f"{self.use('log_decay')}({self(decays)})", ATOM
        return super().write(e)


TEXTS: dict[str, str] = {
    "log_of": '''
@triton.jit
def log_of(x):
    """log x, at least -30; NaN, which shows, where x is negative and has no logarithm."""
    log = tl.where(x < 9.357622968840175e-14, -30.0, tl.log(x))
    return tl.where(x < 0, float("nan"), log)
''',
    "log_decay": '''
LEAST = 9.357622968840175e-14  # e^-30


@triton.jit
def log_decay_values(a, out, size, BLOCK: tl.constexpr):
    """The logarithms of decays."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(a + at, mask=at < size, other=1.0)
    tl.store(out + at, log_of(x), mask=at < size)


@triton.jit
def log_decay_slopes(a, grad, out, size, LEAST: tl.constexpr, BLOCK: tl.constexpr):
    """The slope by a decay, 0 where its logarithm is held at -30."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(a + at, mask=at < size, other=1.0)
    g = tl.load(grad + at, mask=at < size, other=0.0)
    tl.store(out + at, tl.where(x < LEAST, 0.0, g / x), mask=at < size)


def elementwise(kernel, *given: Tensor) -> Tensor:
    """A kernel over all elements of tensors of float32 as they lie in memory."""
    out = torch.empty_like(given[0], dtype=torch.float32)
    given = [
        x if x.stride() == out.stride() and x.dtype == out.dtype else torch.empty_like(out).copy_(x)
        for x in given
    ]
    if out.numel():
        sizes = dict(LEAST=LEAST, BLOCK=1024, num_warps=4, num_stages=1)
        grid = (blocks_of(out.numel(), 1024),)
        launch(kernel, grid, [*given, out, out.numel()], torch.float32, **sizes)
    return out


@Operator
def log_decay(a: Tensor) -> Tensor:
    """log a of decays a, at least -30."""
    return elementwise(log_decay_values, a)


@Operator
def log_decay_backward(a: Tensor, grad: Tensor) -> Tensor:
    """The slope by the decays."""
    return elementwise(log_decay_slopes, a, grad)


@log_decay.register_fake
@log_decay_backward.register_fake
def log_decay_shape(a, *_):
    """What the operators return, but for its values."""
    return torch.empty_like(a, dtype=torch.float32)


def log_decay_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def log_decay_slope(ctx, grad):
    (a,) = ctx.saved_tensors
    return log_decay_backward(a, grad).to(a.dtype)


log_decay.register_autograd(log_decay_slope, log_decay_setup)
''',
}
