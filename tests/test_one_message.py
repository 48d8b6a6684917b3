"""One mistake is one message: every single slip in shipped specs, of the kinds of ``single_slips``."""

from __future__ import annotations

import re

import pytest
from single_slips import slips

import nlc
from nlc.base.diagnostics import Diagnostic, Report
from nlc.pipeline import shipped

SPECS = (
    "adamw attention cms_nested delta_product gated_delta_net hope hope_slow lookahead m3 shampoo titans"
).split()
EVERY = 23  # one slip of so many is tried; tests/single_slips.py shows the others

# What is more than one message, by what was done and the codes; and why.
SEVERAL = (
    (r"block lost", r".*", "several declarations are gone, and each name that is read is one"),
    (
        r"objective: a shape",
        r"NLC302 NLC405",
        "it is no number, and reads what is faster: both are so without the other",
    ),
)


def errors(report: Report) -> list[Diagnostic]:
    return [d for d in report.diagnostics if d.severity == "error"]


def is_meant(what: str, codes: str) -> bool:
    return any(re.search(done, what) and re.fullmatch(said, codes) for done, said, _ in SEVERAL)


def tried(name: str, every: int) -> list[str]:
    """The slips of a spec that have more than one error, or more than one warning of a code.

    Warnings of two codes are two facts of a sound system. NLC210 marks each name that nothing reads where it stands.
    """
    path, out = shipped()[name], []
    for i, (what, text) in enumerate(slips(path.read_text(encoding="utf-8"))):
        if (i + len(name)) % every:
            continue
        report = nlc.loads(text, str(path)).check()
        codes = [d.code for d in report.diagnostics if d.code != "NLC210"]
        many = len(errors(report)) > 1 or len(codes) != len(set(codes))
        if many and not is_meant(what, said := " ".join(sorted(codes))):
            out.append(f"{name}.yaml:{what}: {said}")
    return out


@pytest.mark.parametrize("name", SPECS)
def test_a_slip_is_one_message(name: str) -> None:
    assert not tried(name, EVERY)


def test_there_are_many() -> None:
    found = [what for name in SPECS for what, _ in slips(shipped()[name].read_text("utf-8"))]
    assert len(found) > 4000 and len(set(found)) > 2000


@pytest.mark.long
def test_hardly_a_slip_in_any_shipped_spec_is_several() -> None:
    slipped = sum(1 for path in shipped().values() for _ in slips(path.read_text("utf-8")))
    several = [what for name in shipped() for what in tried(name, 1)]
    assert len(several) < slipped / 250, "\n".join(several)
