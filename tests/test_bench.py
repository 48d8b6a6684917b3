"""`nlc bench` measures what it says and says what it does not measure; how fast anything is, no test knows."""

from __future__ import annotations

import builtins
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import nlc
from nlc import answers, cli, pipeline
from nlc.base.diagnostics import Report, SpecError
from nlc.base.span import Span
from nlc.cli import options
from nlc.runtime.bench import Benchmark, Cell, peak
from nlc.runtime.bench.cases import MODES, STEPS, Ask, Case

SMALL = {"d": 16, "heads": 2}
LINE = "bench delta_net --set d=16 --set heads=2 --tokens 12,4 --seconds 0.3 --backend reference"
linux = pytest.mark.skipif(not peak.measurable(), reason="only Linux says how large a process was")


def run(line: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli.main, line.split(), input=text, prog_name="nlc")


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a fresh process for each cell, as where nothing says how large it was."""
    monkeypatch.setattr(peak, "measurable", lambda: False)


def made(cells: list[Cell], **changed: Any) -> Benchmark:
    fixed = dict(device="cpu", threads=2, seed=0, seconds=1.0, machine="a machine", notes=("so",))
    given = {"operator": False, "hypers": {"d": 4}, "batch": 2, "dtype": "float32", **fixed}
    return Benchmark("some", cells=tuple(cells), **{**given, **changed})


CELLS = [
    Cell("slow", "forward", 8, seconds=0.5, runs=3, spread=0.1, peak=2**20),
    Cell("fast", "forward", 8, seconds=0.1, runs=5, spread=0.1, peak=2**21, note="not finite"),
    Cell("slow", "forward", 1024, "skipped", note="a call would take too long"),
    Cell("fast", "forward", 1024, seconds=2.0, runs=1),
    Cell("slow", "step", 8, seconds=0.01, runs=3),
    Cell("fast", "step", 8, "failed", note="its process was ended by SIGKILL"),
]


# ---------------------------------------------------------------------------------------------- what is reported


def test_speeds_are_of_all_sequences_and_ratios_to_the_first_backend() -> None:
    result = made(CELLS)
    assert [result.speed(c) for c in CELLS] == [32, 160, None, 1024, 200, None]
    assert [result.ratio(c) for c in CELLS] == [1, 5, None, None, 1, None]
    assert result.failed and not made(CELLS[:5]).failed


def test_the_table_shows_what_there_is_and_why_there_is_no_more() -> None:
    text = str(made(CELLS))
    assert text.splitlines()[:2] == [
        "some at d=4; batch 2, float32 on cpu, 2 threads; seed 0",
        "a machine",
    ]
    rows = [line.split() for line in text.splitlines()]
    assert ["8", "slow", "32", "10%", "3", "1.0", "MiB"] in rows
    assert ["fast", "160", "5.00", "10%", "5", "2.0", "MiB", "not", "finite"] in rows
    assert ["1,024", "slow", *"skipped: a call would take too long".split()] in rows
    assert ["fast", *"failed: its process was ended by SIGKILL".split()] in rows
    assert text.endswith("\n\nso")


def test_the_same_rows_in_every_format() -> None:
    result = made(CELLS)
    rows = json.loads(json.dumps(result.asdict()))["cells"]
    lines = list(csv.DictReader(io.StringIO(result.csv())))
    assert len(rows) == len(lines) == len(CELLS)
    for row, line in zip(rows, lines):
        shown = {n: "" if x is None else str(x) for n, x in row.items()}
        assert {"system": "some", **shown} == line


# ---------------------------------------------------------------------------------------------- what is measured


@linux
def test_every_mode_at_every_length_with_its_memory() -> None:
    result = run(f"{LINE} --format json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["hypers"] == {"d": 16, "dk": 8, "dv": 8, "heads": 2}
    cells = found["cells"]
    assert [(c["mode"], c["tokens"]) for c in cells] == [(m, t) for m in MODES for t in (4, 12)]
    for c in cells:
        assert c["status"] == "measured" and c["runs"] >= 1 and c["note"] == ""
        assert c["seconds"] > 0 and c["tokens_per_second"] > 0 and c["ratio"] == 1
        assert isinstance(c["peak_bytes"], int) and 0 <= c["peak_bytes"] < 2**30


def test_without_memory_the_column_is_empty_and_the_table_says_so(no_memory: None) -> None:
    result = run(LINE)
    assert result.exit_code == 0 and "memory is not measured on this system" in result.stdout
    assert "MiB" not in result.stdout
    lines = run(f"{LINE} --format csv").stdout.splitlines()
    assert len(lines) == 1 + 2 * len(MODES)
    assert {row["peak_bytes"] for row in csv.DictReader(lines)} == {""}


def test_an_operator_from_standard_input(no_memory: None) -> None:
    text = pipeline.shipped()["delta_net"].read_text(encoding="utf-8")
    line = "bench - --operator --set d=16 --tokens 4 --seconds 0.3 --format json --batch 3"
    found = json.loads(run(line, text).stdout)
    assert (found["system"], found["operator"], found["batch"]) == ("delta_net", True, 3)


def test_a_periodic_memory_of_mlps_and_another_dtype(no_memory: None) -> None:
    spec = nlc.load("cms_sequential")
    hypers = {"d": 8, "periods": [2, 4, 8]}
    result = spec.bench(tokens=[3], hypers=hypers, dtype="float64", seconds=0.3)
    assert [c.status for c in result.cells] == ["measured"] * 3 * len(pipeline.EXACT)
    assert result.hypers["periods"] == [2, 4, 8]


def test_the_defaults_are_those_of_the_spec(no_memory: None) -> None:
    spec = nlc.load("linear_attention")
    result = spec.bench(tokens=[2], seconds=0.3)
    assert result.hypers == {n: h.value for n, h in spec.system.hypers.items()}


def test_what_takes_too_long_is_skipped_with_the_reason(no_memory: None) -> None:
    said: list[str] = []
    result = nlc.load("delta_net").bench(
        tokens=[4, 10**9], hypers=SMALL, seconds=0.3, progress=said.append
    )
    short, long = ([c for c in result.cells if c.tokens == n] for n in (4, 10**9))
    assert {c.status for c in short} == {"measured"} and {c.status for c in long} == {"skipped"}
    assert all(re.search(r"would take about \S+ s, and a cell has 0.3 s", c.note) for c in long)
    assert not result.failed and len(said) == 6 * len(pipeline.EXACT) + 1 and said[-1] == ""


def test_threads_are_given_back(no_memory: None) -> None:
    torch.set_num_threads(2)
    result = nlc.load("linear_attention").bench(tokens=[2], threads=1, seconds=0.3)
    assert result.threads == 1 and torch.get_num_threads() == 2


def test_no_gradient_but_where_it_is_asked_for() -> None:
    spec = nlc.load("delta_net")
    for mode in MODES:
        case = Case(spec, spec.compile(), _ask(spec), mode, 5)
        case.begin()
        assert case.seconds() > 0 and case.finite()
        assert case.parts == (STEPS if mode == "step" else 1)
        assert (case.held > 0) == (mode == "step")
        slopes = [x.grad for x in (*case.net.parameters(), *case.inputs.values())]
        assert all((g is not None) == (mode == "forward+backward") for g in slopes)


def _ask(spec: nlc.Spec) -> Ask:
    source = spec.source
    return Ask(source.text, source.name, False, SMALL, 2, "float32", "cpu", 1, 0)


@pytest.fixture
def fresh() -> Iterator[peak.Fresh]:
    process = peak.Fresh(replace(_ask(nlc.load("delta_net")), hypers={"d": 64, "heads": 1}))
    yield process
    process.close()


@linux
def test_more_tokens_hold_more_memory(fresh: peak.Fresh) -> None:
    few, many = (fresh.peak("reference", "forward+backward", n, 60) for n in (16, 256))
    assert many > 4 * few > 0


@linux
def test_a_process_that_fails_or_hangs_says_how_and_the_next_one_answers(fresh: peak.Fresh) -> None:
    with pytest.raises(peak.Lost, match=r"^RuntimeError: \w+"):
        fresh.peak("reference", "forward", 10**17, 60)
    with pytest.raises(peak.Lost, match="took more than 0 s"):
        fresh.peak("reference", "forward", 10**6, 0.2)
    with pytest.raises(peak.Lost, match="without a word"):
        fresh.peak("nosuch", "forward", 4, 60)
    assert fresh.peak("reference", "forward", 4, 60) >= 0


# ---------------------------------------------------------------------------------------------- several backends


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, no_memory: None) -> Callable[[Callable], None]:
    """A second backend `other`, compiled by the given function."""
    compile = pipeline.Spec.compile

    def install(other: Callable[[pipeline.Spec], type]) -> None:
        monkeypatch.setattr(answers, "EXACT", ("reference", "other"))
        monkeypatch.setattr(
            pipeline.Spec,
            "compile",
            lambda self, name="auto": other(self) if name == "other" else compile(self, name),
        )

    return install


def test_the_backends_of_a_length_stand_together(two: Callable) -> None:
    two(lambda spec: spec.compile("reference"))
    result = nlc.load("delta_net").bench(tokens=[3, 4], hypers=SMALL, seconds=0.3)
    assert [(c.tokens, c.backend) for c in result.cells if c.mode == "step"] == [
        (3, "reference"),
        (3, "other"),
        (4, "reference"),
        (4, "other"),
    ]
    assert "the ratio is to reference" in str(result)


def test_a_backend_that_refuses_the_spec_is_left_out_or_an_error(two: Callable) -> None:
    def refuse(spec: pipeline.Spec) -> type:
        report = Report()
        report.add("NLC701", "too new for `other`", Span(spec.source, 0, 1), "here")
        raise SpecError(report)

    two(refuse)
    spec, asked = nlc.load("delta_net"), dict(tokens=[3], hypers=SMALL, seconds=0.3)
    result = spec.bench(**asked)
    assert result.backends == ["reference"]
    assert "other cannot compile this: too new for `other` (NLC701)" in result.notes
    with pytest.raises(SpecError):
        spec.bench(backends=["reference", "other"], **asked)


def test_a_backend_that_runs_out_of_memory_fails_its_cells_alone(two: Callable) -> None:
    def hungry(spec: pipeline.Spec) -> type:
        class Hungry(spec.compile("reference")):  # type: ignore[misc]
            def forward(self, *args: Any, **flows: Any) -> Any:
                raise RuntimeError("can't allocate memory\nof any kind")

        return Hungry

    two(hungry)
    result = nlc.load("delta_net").bench(tokens=[3], hypers=SMALL, seconds=0.3)
    assert result.failed
    assert {(c.backend, c.status) for c in result.cells} == {
        ("reference", "measured"),
        ("other", "failed"),
    }
    assert result.cells[1].note == "RuntimeError: can't allocate memory"


# ---------------------------------------------------------------------------------------------- refusals, plots


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bench adamw", "measures token systems, and `adamw` has the context gradients"),
        ("bench delta_net --tokens 4,x", "not a list of lengths"),
        ("bench delta_net --tokens 0", "not a list of lengths"),
        ("bench delta_net --set nosuch=3", "has no hyper `nosuch`"),
        ("bench delta_net --set heads=3", "not divisible by heads = 3"),
        ("bench delta_net --backend nosuch", "nosuch"),
        ("bench delta_net --seconds 0", "0"),
        ("bench delta_net --dtype int8", "int8"),
    ],
)
def test_wrong_usage_ends_with_two(line: str, words: str) -> None:
    result = run(line)
    assert result.exit_code == 2 and result.stdout == ""
    assert words in result.stderr and "Usage: nlc bench" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there() -> None:
    result = run("bench delta_net --device cuda")
    assert result.exit_code == 2 and "no CUDA device" in result.stderr


def test_a_spec_with_mistakes_is_told_as_everywhere() -> None:
    result = run("bench - --format json", "nlc: 1\n")
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[0])["severity"] == "error"


def test_a_picture_of_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from nlc.runtime.bench import plot

    for cells in (CELLS, CELLS[2:3]):
        file = tmp_path / "deep" / f"{len(cells)}.svg"
        plot.ready(file)
        plot.plot(made(cells), file)
        assert "<svg" in file.read_text(encoding="utf-8")


def test_a_picture_of_no_known_kind_is_refused_before_anything_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run(f"bench delta_net --plot {tmp_path}/speed.nosuch")
    assert result.exit_code == 1 and "svg" in result.stderr and result.stdout == ""


def test_without_matplotlib_there_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def missing(name: str, *args: Any, **keywords: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return load(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", missing)
    result = run("bench delta_net --plot speed.svg")
    assert result.exit_code == 1 and result.stdout == ""
    assert "pip install matplotlib" in result.stderr and "--format csv" in result.stderr


def test_the_backends_are_those_of_the_pipeline() -> None:
    option = next(p for p in cli.main.commands["bench"].params if p.name == "backends")
    assert set(option.type.choices) == set(pipeline.BACKENDS)
    assert options.setting("periods=2,4") == ("periods", [2, 4])


def test_kernels_without_a_gpu_are_failed_cells_with_the_reason() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    result = nlc.load("delta_net").bench(backends=["triton"], tokens=[3], hypers=SMALL, seconds=0.1)
    assert {c.status for c in result.cells} == {"failed"}
    assert all("the kernels need a GPU, not cpu" in c.note for c in result.cells)
