"""What a verification says: one check a line, and whether all of them passed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nlc.ir.expr import walk
from nlc.ir.system import System
from nlc.tools.html import pre, table

EXACT = 1e-10  # float64 against float64, in another order of operations
SAME = 1e-12  # the same operations in the same order
ROUNDED = 1e3  # times the rounding of a format that a function asks for: its iteration enlarges it
TURNED = 1e-6  # what is 0 in a basis is rounding there, 1e-16, and a step may divide it by 1e-8
KEPT = 4.0  # times the rounding of a memory's own format: one that lies between two numbers may go to either

# Python refuses to divide a number by 0, where a tensor becomes infinite; eigenvalues of what is not finite do not
# converge.
NO_NUMBERS = (ArithmeticError, torch.linalg.LinAlgError)


@dataclass(frozen=True)
class Check:
    """``error`` is relative. ``passed`` None: a fact about the system, which is no verdict.

    ``life``: of how the spec's memories live and its steps go, not of what was compiled.
    """

    what: str
    error: float | None = None
    tolerance: float | None = None
    passed: bool | None = None
    note: str = ""
    life: bool = False


@dataclass(frozen=True)
class Trajectory:
    """The weights of one kind of tensor at some steps of a fixed problem, as printed, and the digest of that text."""

    kind: str
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]
    digest: str

    def __str__(self) -> str:
        """A line a step; the numbers of W, the last axis running fastest."""
        of = f" of {self.kind}" if self.kind else ""
        wide = [max(map(len, column)) for column in zip(*self.rows)]
        lines = [f"trajectory{of}, W {list(self.shape)}, digest {self.digest}"]
        for step, row in zip(self.steps, self.rows, strict=True):
            numbers = "  ".join(x.rjust(w) for x, w in zip(row, wide, strict=True))
            lines.append(f"{step:>6}  {numbers}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Comparison:
    """What another optimizer does otherwise: in ``rows`` what was tried, and ``same`` or the difference.

    ``told``: the arguments that it got; ``alone``: hypers that it was not told of; ``own``: arguments at its defaults.
    """

    peer: str
    told: dict[str, Any]
    alone: tuple[str, ...]
    own: dict[str, Any]
    rows: dict[str, str]

    def __str__(self) -> str:
        """The arguments, then a table."""
        said = lambda x: ", ".join(f"{n}={v}" for n, v in x.items())  # noqa: E731
        lines = [f"differs from {self.peer}({said(self.told)}) in"]
        wide = max(map(len, self.rows))
        lines += [f"  {what:<{wide}}  {found}" for what, found in self.rows.items()]
        if self.alone:
            lines.append(f"it was not told of {', '.join(self.alone)}")
        if self.own:
            lines.append(f"its own: {said(self.own)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Verification:
    """What was checked, with which seed, at which hypers, and how it came out."""

    system: str
    seed: int
    hypers: dict[str, Any]
    checks: tuple[Check, ...]
    trajectories: tuple[Trajectory, ...] = ()
    peer: Comparison | None = None

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(c.passed is not False for c in self.checks)

    def asdict(self) -> dict[str, Any]:
        """For JSON."""
        return {"passed": self.passed, **asdict(self)}

    def __str__(self) -> str:
        """A table: the verdict and what was checked, then the error and its limit, or what was found."""
        rows = self._rows()
        wide = max((len(what) for _, what, _ in rows), default=0)
        lines = [f"{v}  {what:<{wide}}  {found}".rstrip() for v, what, found in rows]
        text = "\n".join([self._head(), *lines, self._end()])
        return "\n\n".join([text, *self._more()])

    def _more(self) -> list[str]:
        """How an optimizer goes, and what it does otherwise than another."""
        return [str(x) for x in (*self.trajectories, self.peer) if x is not None]

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return table(["", "check", "found"], self._rows(), caption=self._head()) + "".join(
            map(pre, [self._end(), *self._more()])
        )

    def _rows(self) -> list[tuple[str, str, str]]:
        return [(_verdict(c), c.what, _found(c)) for c in self.checks]

    def _head(self) -> str:
        at = ", ".join(f"{k}={v}" for k, v in self.hypers.items()) or "its default hypers"
        return f"{self.system} at {at}; seed {self.seed}"

    def _end(self) -> str:
        failed = [c for c in self.checks if c.passed is False]
        passed = sum(c.passed is True for c in self.checks)
        if not failed:
            return f"{passed} checks passed"
        end = f"{len(failed)} of {len(failed) + passed} checks failed"
        if all(c.life for c in failed):
            fate = (
                "its steps blow up what they train"
                if self.trajectories
                else "its memories do not live"
            )
            end += f": what was compiled is what the spec says, but {fate}"
        return end


def _verdict(c: Check) -> str:
    return {True: "pass", False: "FAIL", None: "    "}[c.passed]


def _found(c: Check) -> str:
    error = "" if c.error is None else f"off by {c.error:.0e}, at most {c.tolerance:.0e}"
    if c.error is not None and not c.tolerance:
        error = "equal" if c.error == 0 else f"off by {c.error:.0e}, must be equal"
    elif c.error == 0:
        error = "equal"
    return "; ".join(filter(None, [error, c.note]))


def compared(what: str, error: float, tolerance: float, note: str = "") -> Check:
    """A check of a relative error."""
    return Check(what, error, tolerance, error <= tolerance, note)


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest error of any tensor, relative to that tensor's largest element.

    Tensors that are smaller than a ten-thousandth of the largest count as that: what is left of them is cancellation.
    Infinite where something is missing, is not finite or has another shape.
    """
    scale = max((x.abs().max().item() for x in expected.values() if x.numel()), default=0.0)
    worst = 0.0
    for name, b in expected.items():
        a = found.get(name)
        if a is None or a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
            return float("inf")
        if b.numel():
            size = max(b.abs().max().item(), 1e-4 * scale)
            error = (a - b).abs().max().item()
            worst = max(worst, (error / size if size else float("inf")) if error else 0.0)
    return worst


def refused(what: str, error: Exception) -> Check:
    """A check for which there are no numbers."""
    where = next(iter(getattr(error, "__notes__", ())), "").partition("\n")[0]
    return Check(what, passed=False, note=", ".join(filter(None, (str(error), where))))


def limit(systems: Iterable[System]) -> tuple[float, str]:
    """How far two evaluations of a system may differ, and why it is so far where something is not in float64."""
    formats, kept, turned = set(), set(), False
    for system in systems:
        exprs = [f.expr for f in system.flows.values()]
        exprs += [e for level in system.levels.values() for e in level.expressions]
        nodes = [n for e in exprs for n in walk(e)]
        formats |= {n.attr.dtype for n in nodes if n.op == "newton_schulz"} - {None, "float64"}
        turned |= any(n.op == "eigh_basis" for n in nodes)
        if system.trains:
            kept |= {s.dtype for s in system.states.values()} - {None, "float64"}
    found = [(ROUNDED * _eps(x), f", newton_schulz in {x}") for x in formats]
    found += [(KEPT * _eps(x), f", memories in {x}") for x in kept]
    found += [(TURNED, ", in a basis of eigenvectors")] if turned else []
    return max(found, default=(EXACT, ""))


def _eps(dtype: str) -> float:
    return torch.finfo(getattr(torch, dtype)).eps
