"""The examples of the library's tables, compiled: what a function gives, what a step becomes."""

from __future__ import annotations

import textwrap

from nlc.base.diagnostics import SpecError
from nlc.ir.expr import walk
from nlc.ir.types import Dim, Type
from nlc.lib.functions import Function
from nlc.pipeline import Spec, loads
from nlc.syntax.math import parse_text
from nlc.tools.derivation import update_lines

NAMES = {
    "x": "the input, d = heads · n channels",
    "k": "a key, n channels per head, of length 1",
    "v": "n channels per head, of any size",
    "a": "a number per head between 0 and 1",
    "b": "another",
    "u": "a number per head of any size",
    "S": "a memory, matrix(n, n), with boundaries",
    "M": "the level whose `update` it is",
    "i": "an input of whole numbers",
    "g": "the gradient at W, in a gradient system",
}
PER_HEAD = {"d": Dim.of("heads") * Dim.of("n")}  # as the hypers of the example say
_TOKENS = """\
nlc: 1
system: example
context: tokens
hyper: {{d: heads * n, n: 8}}
heads: 2
inputs:
  x: [d]{index}
weights:
  w: {{shape: [], init: "{init}"}}
let:
  k: l2norm(split(linear(x, d)))
  v: split(linear(x, d))
  a: sigmoid(split(linear(x, heads)))
  b: sigmoid(split(linear(x, heads)))
  u: split(linear(x, heads))
  example: "{flow}"
levels:
  S:
    frequency: every token
    anchor: every 4 tokens
    memory: matrix(n, n)
    objective: 0.5 * sqnorm(S(k) - v)
    rule: gd(lr=b / 4)
  C:
    frequency: every 4 tokens
    memory: vector(n)
    objective: -dot(C, {slow})
    rule: gd(lr=1)
{level}
outputs:
  y: [d]
  shown: []
output:
  y: x
  shown: u + sum(example)
"""
_GRADIENTS = """\
nlc: 1
system: example
context: gradients
levels:
{level}
  W:
    frequency: every step
    let:
      example: "{flow}"
    objective: dot(W, g)
    rule: gd(lr=sum(example))
"""
_SLOW = "last(k)"
_SEVERAL = """\
frequency: 2 per token
memory: matrix(n, d / 2)
let: {{each: "{flow}"}}
objective: -dot(M(l2norm(each)), v)
rule: gd(lr=a)"""
_UNUSED = "NLC210"  # the example does not read every name that it might


def _tokens(flow: str = "x", init: str = "0", slow: str = _SLOW, level: str = "") -> str:
    """The example of a token system; with an index, if the flow is what one counts."""
    index = "\n  i: []" if "embedding(" in flow else ""
    return _TOKENS.format(flow=flow, init=init, slow=slow, level=level, index=index)


def value(function: Function) -> Type | None:
    """The type of a function's example; None for what only draws where a weight starts.

    Raises SpecError where the example has a mistake, which is one of ours.
    """
    e = function.example
    if function.init_only:
        _checked(_tokens(init=e))
        return None
    if any(n.op == "name" and n.attr == "g" for n in walk(parse_text(e))):
        return _typed(_GRADIENTS.format(flow=e, level=""), "W.example")
    if function.name == "grad":
        update = f"update: M - b * {e}"
        spec = _with(f"frequency: every token\nmemory: matrix(n, n)\n{update}", False)
        return next(
            n.type for n in walk(spec.system.levels["M"].update["M"]) if n.op == function.name
        )
    if function.op == "substeps":  # it has a value for each sub-step of a level of several
        spec = _with(_SEVERAL.format(flow=e), False)
        return spec.system.flows["M.each"].expr.type
    if function.op == "total":  # it reads something faster than its own level
        spec = _checked(_tokens(slow=e))
        return next(n.type for n in walk(spec.system.levels["C"].objective) if n.op == function.op)
    return _typed(_tokens(e), "example")


def _typed(text: str, flow: str) -> Type:
    return _checked(text).system.flows[flow].expr.type


def step(level: str, gradients: bool = False) -> list[str]:
    """The derived step of a level M, given as its lines; empty if nothing updates it. Raises as ``value`` does."""
    spec = _with(level, gradients)
    return update_lines(spec.system, spec.updates["M"]) if "M" in spec.updates else []


def derived(level: str, gradients: bool = False) -> list[str]:
    """The lines of its derivation, without its head."""
    spec = _with(level, gradients)
    text = spec.derive("M").partition("\n")[2] if "M" in spec.updates else ""
    return textwrap.dedent(text).splitlines()


def _with(level: str, gradients: bool) -> Spec:
    lines = "  M:\n" + textwrap.indent(level, "    ")
    if gradients:
        return _checked(_GRADIENTS.format(flow="1", level=lines))
    return _checked(_tokens(level=lines))


def _checked(text: str) -> Spec:
    spec = loads(text, "<example>")
    report = spec.check()
    report.diagnostics[:] = [d for d in report.diagnostics if d.code != _UNUSED]
    if report.diagnostics:
        raise SpecError(report)
    return spec
