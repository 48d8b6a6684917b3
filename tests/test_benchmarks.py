"""The scripts in benchmarks/ run, at sizes whose numbers say nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from nlc.pipeline import BACKENDS

ROOT = Path(__file__).parent.parent


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / words[0]), *words[1:]],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


def test_chunked_compares_backends_peers_and_lengths(tmp_path: Path) -> None:
    file = tmp_path / "made" / "chunked.md"
    made = _run("chunked.py", "--quick", "--rounds", "2", "--threads", "1", "--out", str(file))
    assert made.returncode == 0, made.stderr
    text = file.read_text(encoding="utf-8")
    assert text.strip() == made.stdout.strip()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert all(len(row) == 6 for row in rows) and len(rows) == 2 + 8
    for what, _, _, ratio, _, note in rows[2:]:
        assert re.fullmatch(r"\d+\.\d\d", ratio) or note, what  # what is missing is said
    assert [row[4] for row in rows[2:]] == ["≥ 10", "≥ 5", "≥ 0.65", "≥ 20", "≤ 18", "≤ 18", "", ""]
    assert not {"met", "missed"} & {row[5] for row in rows}
    assert re.search(r"torch \S+, nlc \S+; 1 thread, .*commit \w+", text)


def test_chunked_judges_nothing_without_the_backend() -> None:
    if "torch" not in BACKENDS:
        made = _run("chunked.py")
        assert made.returncode == 1 and "--quick" in made.stderr
