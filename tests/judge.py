"""Whatever the text: coded diagnostics at places in it, or a sound system that compiles and runs.

``python tests/judge.py SEED`` shows a mutant and judges it; ``python tests/judge.py FIRST LAST`` judges a range of
them, with ``static`` without running any, and prints what fails.
"""

from __future__ import annotations

import ast
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mutants import mutant

import nlc
from nlc.base.codes import CODES
from nlc.base.diagnostics import Report, SpecError
from nlc.base.render import render_github, render_json, render_report
from nlc.ir.expr import walk
from nlc.ir.types import Dim

SECONDS = 1.0  # for one case; the slowest take a fifth of it
USUAL = 0.05  # seconds of `_pace`'s sum where the slowest take that


class Slow(AssertionError):
    """It took longer than a case may."""


@dataclass
class Verdict:
    """``sound`` or the first code, what was loaded, and what every backend printed."""

    said: str
    spec: nlc.Spec | None = None
    sources: dict[str, str] = field(default_factory=dict)


def judge(text: str | bytes, name: str = "spec.yaml") -> str:
    """``sound`` or the first code; fails on anything else."""
    return verdict(text, name).said


def verdict(
    text: str | bytes, name: str = "spec.yaml", backends: tuple[str, ...] = ("torch",)
) -> Verdict:
    """Checks a text, or a file of bytes, and prints what is sound by each of the backends.

    What takes too long is tried again, in as many times a second as Python is slower here and now than usual: two
    processes on one core count for more than they take, and a core that is lent has hours of its own.
    """
    try:
        return _verdict(text, name, backends, SECONDS)
    except Slow:
        return _verdict(text, name, backends, SECONDS * _pace())


def _pace() -> float:
    started = time.process_time()
    sum(i * i for i in range(1_000_000))
    return max(1.0, (time.process_time() - started) / USUAL)


def _verdict(text: str | bytes, name: str, backends: tuple[str, ...], seconds: float) -> Verdict:
    started = time.process_time()
    try:
        spec = nlc.loads(text, name) if isinstance(text, str) else _loaded(text)
    except SpecError as error:
        check_report(error.report, error.report.ordered[0].span.source.name)
        return Verdict(error.report.ordered[0].code)
    report = spec.check()
    _within(seconds, started)
    check_report(report, spec.source.name)
    if report.has_errors:
        return Verdict(next(d.code for d in report.ordered if d.severity == "error"))
    found = Verdict("sound", spec)
    for backend in backends:
        started = time.process_time()
        try:
            found.sources[backend] = spec.source_text(backend)
        except SpecError as error:
            assert error.report.has_errors
            if backend == backends[0]:
                return Verdict(error.report.ordered[0].code)
        _within(seconds, started)
    for source in found.sources.values():
        check_python(source)
    return found


def _within(seconds: float, started: float) -> None:
    took = time.process_time() - started
    if took >= seconds:
        raise Slow(f"{took:.2f} s")


def _loaded(data: bytes) -> nlc.Spec:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.yaml"
        path.write_bytes(data)
        return nlc.load(path)


def check_report(report: Report, name: str) -> None:
    """Every diagnostic has a code of ours and stands in the text; every way to write it gives plain text."""
    for d in report.diagnostics:
        assert d.code in CODES and d.code != "NLC901", d
        assert d.message and d.span.source.text is not None
        assert d.span.source.name == name, f"{d} is not in the text"
        for span in (
            d.span,
            *(label.span for label in d.related),
            *([d.fix.span] if d.fix else []),
        ):
            assert span.source.name == name, f"{d} points outside of the text"
            assert 0 <= span.start <= span.end <= len(span.source.text), d
    for rendered in (render_report(report), render_json(report), render_github(report)):
        assert isinstance(rendered, str)
        assert "\x1b" not in rendered and "\x00" not in rendered


def check_python(source: str) -> None:
    """It compiles, and has no more at its top level than such a file has: nothing broke out."""
    tree = ast.parse(source)
    compile(tree, "generated.py", "exec")
    for node in tree.body:
        allowed = (
            ast.Import,
            ast.ImportFrom,
            ast.FunctionDef,
            ast.ClassDef,
            ast.Assign,
            ast.AnnAssign,
        )
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        known = docstring or _of_the_backend(node)
        assert isinstance(node, allowed) or known, ast.dump(node)[:200]
    imported: set[str] = set()
    statements: list[ast.AST] = [tree]
    while statements:  # no expression holds one
        node = statements.pop()
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            statements += getattr(node, block, ())
    known = {
        "__future__",
        "torch",
        "math",
        "collections",
        "functools",
        "typing",
        "fnmatch",
        "warnings",
    }
    kernels = {
        "triton",
        "inspect",
        "json",
        "pathlib",
        "warnings",
        "concurrent",
        "hashlib",
        "os",
        "re",
    }
    found = {name.split(".")[0] for name in imported}
    assert found <= (known | kernels if "triton" in found else known), found


def _of_the_backend(node: ast.stmt) -> bool:
    """What files with kernels of their own do: slopes are registered."""
    call = node.value if isinstance(node, ast.Expr) else None
    function = call.func if isinstance(call, ast.Call) else None
    return isinstance(function, ast.Attribute) and function.attr == "register_autograd"


# ------------------------------------------------------------------------------------------------ sound


def shown(spec: nlc.Spec) -> None:
    """What people read of a sound system, in every form."""
    from nlc.tools.draw import draw

    for form in ("text", "json", "mermaid", "dot", "svg"):
        assert draw(spec.graph, form)
    for form in ("text", "latex"):
        assert isinstance(spec.derive(format=form), str)
    for backend in ("reference", "torch"):
        made = spec.explain(backend)
        assert str(made) and made.asdict()


def runs(spec: nlc.Spec) -> str:
    """Runs a sound system, small: both backends against the interpreter, in pieces, saved and loaded.

    ``too large``: its sizes do not become small; ``unclear``: there are no finite numbers to compare.
    """
    from nlc.tools.sizes import BadHyper

    if too_large(spec):
        return "too large"
    try:
        result = spec.verify(tokens=2)
    except BadHyper:
        return "no hypers"
    wrong = [c for c in result.checks if c.passed is False and not c.life]
    words = [" stay ", " can be computed"]
    vague = any(w in c.what for c in wrong for w in words)  # then no trajectory has numbers either
    words += ["reaches the start", *(["trajectory"] if vague else [])]
    unclear = [c for c in wrong if any(word in c.what for word in words)]
    assert len(wrong) == len(unclear), str(result)
    return "unclear" if unclear else "runs"


def too_large(spec: nlc.Spec) -> bool:
    """Whether, small as it can be, a tensor has over 100,000 elements, a period over 64 ticks, an iteration as many."""
    from nlc.runtime.verify import WIDTH
    from nlc.tools.sizes import longest, settled, small

    system, hypers = spec.system, settled(spec.system, small(spec.system, {}, WIDTH))
    sizes = {k: v for k, v in hypers.items() if not isinstance(v, list)}
    dims = [d for s in system.states.values() for d in s.dims if isinstance(d, Dim)]
    dims += [d for m in system.modules.values() for shape in m.shapes.values() for d in shape]
    dims += [d for i in system.inputs.values() for d in i.dims]
    known = [float(d.evaluate(sizes)) for d in dims if d.symbols <= sizes.keys()]
    known.append(float(sizes.get("heads", 1)))
    exprs = [f.expr for f in system.flows.values()]
    exprs += [e for level in system.levels.values() for e in level.expressions]
    iterated = [
        n.attr for e in exprs for n in walk(e) if n.op in ("newton_schulz", "solve") and n.attr
    ]
    counts = [
        getattr(x, "steps", x) for x in iterated
    ]  # of a solution they are the attribute itself
    longer = [n for n in counts if n.symbols <= sizes.keys() and n.evaluate(sizes) > 64]
    return max(known, default=1.0) ** 2 > 1e5 or longest(system, hypers) > 64 or bool(longer)


def case(seed: int, full: bool = True, run: bool = True) -> str:
    """Judges one mutant; if it is sound, ``full`` prints it by every backend and shows it, ``run`` runs it."""
    backends = ("torch", "reference", "triton") if full else ("torch",)
    found = verdict(mutant(seed), backends=backends)
    if found.spec is None or not full:
        return found.said
    shown(found.spec)
    return runs(found.spec) if run else found.said


def campaign(first: int, last: int, run: bool) -> None:
    """Judges mutants and prints what fails, in a few lines each."""
    said: Counter[str] = Counter()
    for seed in range(first, last):
        try:
            said[case(seed, run=run)] += 1
        except Exception as error:
            said["FAILED"] += 1
            lines = [x for x in str(error).splitlines() if "FAIL" in x] or [str(error)[:300]]
            print(f"--- {seed}: {type(error).__name__}: {' | '.join(lines)}")
            print("".join(traceback.format_tb(error.__traceback__)[-3:]), flush=True)
        if (seed - first) % 1000 == 999:
            print(f"{seed + 1 - first} cases: {dict(said.most_common())}", flush=True)


if __name__ == "__main__":
    first, *last = [int(x) for x in sys.argv[1:] if x.isdecimal()]
    if last:
        campaign(first, last[0], "static" not in sys.argv)
    else:
        print(mutant(first))
        print(case(first))
