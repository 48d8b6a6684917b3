"""Whatever the text: coded diagnostics at places in it, or a sound system that compiles and runs.

``python tests/judge.py SEED`` shows a mutant and judges it; ``python tests/judge.py FIRST LAST`` judges a range of
them and prints what fails.
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

SECONDS = 1.0  # for one case; the slowest take a fifth of it


@dataclass
class Verdict:
    """``sound`` or the first code, what was loaded, and what every backend printed."""

    said: str
    spec: nlc.Spec | None = None
    sources: dict[str, str] = field(default_factory=dict)


def judge(text: str | bytes, name: str = "spec.yaml") -> str:
    """``sound`` or the first code; fails on anything else."""
    return verdict(text, name).said


def verdict(text: str | bytes, name: str = "spec.yaml", backends: tuple[str, ...] = ("torch",)) -> Verdict:
    """Checks a text, or a file of bytes, and prints what is sound by each of the backends."""
    started = time.process_time()
    try:
        spec = nlc.loads(text, name) if isinstance(text, str) else _loaded(text)
    except SpecError as error:
        check_report(error.report, error.report.ordered[0].span.source.name)
        return Verdict(error.report.ordered[0].code)
    report = spec.check()
    _within(SECONDS, started)
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
        _within(SECONDS, started)
    for source in found.sources.values():
        check_python(source)
    return found


def _within(seconds: float, started: float) -> None:
    took = time.process_time() - started
    assert took < seconds, f"{took:.2f} s"


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
        for span in (d.span, *(label.span for label in d.related), *([d.fix.span] if d.fix else [])):
            assert span.source.name == name, f"{d} points outside of the text"
            assert 0 <= span.start <= span.end <= len(span.source.text), d
    for rendered in (render_report(report), render_json(report), render_github(report)):
        assert isinstance(rendered, str)
        assert "\x1b" not in rendered and "\x00" not in rendered


def check_python(source: str) -> None:
    """It compiles, and has no more at its top level than such a file has: nothing broke out."""
    tree = ast.parse(source)
    compile(source, "generated.py", "exec")
    for node in tree.body:
        allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        known = docstring or _of_the_backend(node)
        assert isinstance(node, allowed) or known, ast.dump(node)[:200]
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    modules = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    known = {"__future__", "torch", "math", "collections", "functools", "typing"}
    kernels = {"triton", "inspect", "json", "pathlib", "warnings", "concurrent", "hashlib", "os", "re"}
    found = imported | modules
    assert found <= (known | kernels if "triton" in found else known), found


def _of_the_backend(node: ast.stmt) -> bool:
    """What files with kernels of their own do: slopes are registered, launch options added."""
    if isinstance(node, ast.AugAssign):
        return isinstance(node.target, ast.Name) and node.target.id == "CONFIG"
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
    """Runs a sound system, small: both backends against the interpreter; ``too large`` where it is not made small."""
    from nlc.tools.sizes import BadHyper

    if weight(spec) > 1e5:
        return "too large"
    try:
        result = spec.verify(tokens=2)
    except BadHyper:
        return "no hypers"
    wrong = [c for c in result.checks if c.passed is False and not c.life]
    unclear = [c for c in wrong if " stay " in c.what or "reaches the start" in c.what]
    assert len(wrong) == len(unclear), str(result)
    return "unclear" if unclear else "runs"


def weight(spec: nlc.Spec) -> float:
    """Elements of the largest tensor, and ticks of the longest period, at the hypers that ``verify`` takes."""
    from nlc.tools.sizes import _dims, settled, small
    from nlc.runtime.verify import WIDTH
    from nlc.tools.sizes import longest

    hypers = settled(spec.system, small(spec.system, {}, WIDTH))
    sizes = {k: v for k, v in hypers.items() if not isinstance(v, list)}
    dims = [float(d.evaluate(sizes)) for d in _dims(spec.system) if d.symbols <= sizes.keys()]
    ticks = longest(spec.system, hypers)
    return max([*dims, 1.0]) ** 2 * (1e9 if ticks > 64 else 1)


def campaign(first: int, last: int, full: bool) -> None:
    said: Counter[str] = Counter()
    seen: set[int] = set()
    for seed in range(first, last):
        try:
            said[case(seed, seen, full)] += 1
        except Exception as error:
            said["FAILED"] += 1
            lines = [x for x in str(error).splitlines() if "FAIL" in x] or [str(error)[:300]]
            print(f"--- {seed}: {type(error).__name__}: {' | '.join(lines)}")
            print("".join(traceback.format_tb(error.__traceback__)[-3:]), flush=True)
        if seed % 1000 == 999:
            print(f"at {seed}: {dict(said.most_common())}", flush=True)


def case(seed: int, seen: set[int], full: bool = True) -> str:
    """Judges one mutant; runs what it compiles to, unless the same was run before."""
    found = verdict(mutant(seed), backends=("torch", "reference", "triton"))
    if found.spec is not None:
        started = time.process_time()
        shown(found.spec)
        _within(SECONDS, started)
        digest = hash(found.sources["torch"].split("\n", 12)[-1])
        if full and digest not in seen:
            seen.add(digest)
            return runs(found.spec)
    return found.said


if __name__ == "__main__":
    if len(sys.argv) == 2:
        text = mutant(int(sys.argv[1]))
        print(text if isinstance(text, str) else repr(text))
        print(case(int(sys.argv[1]), set()))
    else:
        campaign(int(sys.argv[1]), int(sys.argv[2]), "static" not in sys.argv)
