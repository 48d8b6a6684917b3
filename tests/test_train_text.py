"""The examples: what they learn from, that a stopped run goes on exactly, and what they say."""

from __future__ import annotations

import io
import re
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import demo
import pytest
import torch
import train_text
from click.testing import CliRunner, Result
from corpus import Corpus, CorpusError, Windows, from_file, spread, standard_library, windows
from generation import Stream
from language_model import LanguageModel, hidden_for, mixing, parameter_count
from rich.console import Console
from threads import Crowding
from training import Run, RunError, Settings, train

import nlc

TINY = Settings(d=16, heads=2, layers=2, hidden=24, batch=4, length=12, steps=6, lr=1e-2)
HOPE = {"expand": 1, "chunk": 2, "memory_chunk": 2, "periods": (2, 4, 6)}
HOPE_WITH_M3 = replace(TINY, layers=1, **{**demo.M3, "spec": "hope", "hyper": HOPE})
SIZES = "--d 16 --heads 2 --layers 1 --hidden 24 --batch 4 --length 12 --steps 4 --sample 8"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_text("".join(f"line {n} of the text, {n * n % 97}\n" for n in range(200)))
    return path


@pytest.fixture(scope="module")
def corpus(text: Path) -> Corpus:
    return from_file(text)


def _command(arguments: str, *more: str) -> Result:
    return CliRunner().invoke(train_text.main, [*arguments.split(), *more])


def _same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _ignore(_run: Run) -> None:
    pass


# the text


def test_held_out_text_begins_with_a_line(text: Path, corpus: Corpus) -> None:
    train_part, held_out = (bytes(part.tolist()) for part in (corpus.train, corpus.held_out))
    assert train_part + held_out == text.read_bytes()
    assert train_part.endswith(b"\n") and 0.03 < len(held_out) / len(train_part) < 0.06


def test_the_standard_library_is_text_without_tests() -> None:
    corpus = standard_library(limit=2_000_000)
    assert len(corpus.train) + len(corpus.held_out) <= 2_000_000
    assert len(corpus.train) > 3 * len(corpus.held_out) > 0
    assert corpus.digest == standard_library(limit=2_000_000).digest


def test_an_epoch_deals_each_window_once() -> None:
    data = torch.arange(200, dtype=torch.uint8)
    dealt = Windows(data, batch=3, length=8, seed=1)
    for epoch in range(2):
        first = epoch * dealt.steps_an_epoch
        inputs, targets = zip(*(dealt[first + n] for n in range(dealt.steps_an_epoch)), strict=True)
        seen = torch.cat(inputs).flatten()
        assert len(seen.unique()) == len(seen) == dealt.steps_an_epoch * 24
        assert torch.equal(torch.cat(targets).flatten(), seen + 1)
    assert not torch.equal(dealt[0][0], dealt[dealt.steps_an_epoch][0])
    assert torch.equal(dealt[5][0], Windows(data, batch=3, length=8, seed=1)[5][0])


def test_held_out_windows_do_not_overlap() -> None:
    data = torch.arange(100, dtype=torch.uint8)
    inputs, _ = windows(data, spread(data, 1000, 7), 7)
    assert len(inputs.flatten().unique()) == inputs.numel() == 98


@pytest.mark.parametrize("content", [b"", b"short\n", b"x" * 60])
def test_a_small_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "small"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match="too small"):
        from_file(path).require(batch=4, length=12)


# the model


@pytest.mark.parametrize(
    "spec, hyper",
    [("gated_delta_net", {}), ("attention", {}), ("mamba2", {"p": 8, "n": 4}), ("hope", HOPE)],
)
def test_a_stream_is_the_model_byte_by_byte(spec: str, hyper: dict) -> None:
    torch.manual_seed(0)
    mix = mixing(nlc.compile(spec), 16, 2, **hyper)
    model = LanguageModel(mix, d=16, layers=2, hidden=24).double()
    tokens = torch.randint(256, (3, 9))
    with torch.no_grad():
        expected, _ = model(tokens)
        first, state = model(tokens[:, :4])
        second, state = model(tokens[:, 4:6], state)
        rest = []
        for token in tokens[:, 6:].unbind(1):
            logits, state = model.step(token, state)
            rest.append(logits)
    torch.testing.assert_close(torch.cat([first, second, torch.stack(rest, 1)], 1), expected)


def test_a_memory_keeps_a_state_of_one_size() -> None:
    sizes = {}
    for spec in ("gated_delta_net", "attention"):
        model = LanguageModel(mixing(nlc.compile(spec), 16, 2), d=16, layers=1, hidden=24)
        stream = Stream(model, b"def ")
        before = stream.state_bytes
        assert len(stream.take(20)) == 20
        sizes[spec] = before, stream.state_bytes
    assert sizes["gated_delta_net"][0] == sizes["gated_delta_net"][1] > 0
    assert sizes["attention"][0] < sizes["attention"][1]


def test_samples_repeat_for_a_seed() -> None:
    model = LanguageModel(mixing(nlc.compile("attention"), 16, 2), d=16, layers=1, hidden=24)
    texts = [Stream(model, b"a", seed=seed).take(30) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_the_transformer_has_as_many_parameters() -> None:
    size = {"d": 64, "layers": 2}
    ours = LanguageModel(mixing(nlc.compile("gated_delta_net"), 64, 4), hidden=256, **size)
    mix = mixing(nlc.compile("attention"), 64, 4)
    hidden = hidden_for(parameter_count(ours), mix, **size)
    theirs = LanguageModel(mix, hidden=hidden, **size)
    assert parameter_count(theirs) == pytest.approx(parameter_count(ours), rel=0.01)


@pytest.mark.parametrize("rest", [None, "rest"])
def test_every_parameter_is_trained_once(rest: str | None) -> None:
    model = LanguageModel(mixing(nlc.compile("gated_delta_net"), 16, 2), 16, layers=2, hidden=24)
    given = [id(p) for group in model.param_groups(rest) for p in group["params"]]
    assert sorted(given) == sorted(id(p) for p in model.parameters())


def test_m3_trains_the_maps_and_adamw_what_is_none(corpus: Corpus, tmp_path: Path) -> None:
    run = Run(HOPE_WITH_M3, corpus, tmp_path / "run.pt", "cpu")
    run.train_step()
    memories = {n: set(run.optimizer.state[p]) for n, p in run.model.named_parameters()}
    m3 = {n for n, found in memories.items() if "W.M2" in found}
    adamw = {n for n, found in memories.items() if {"W.m", "W.v"} <= found}
    assert m3 | adamw == set(memories) and not m3 & adamw
    levels = [f"blocks.0.mix.cms.C_{i}.W{w}.init" for i in (1, 2, 3) for w in (1, 2)]
    assert m3 >= {"blocks.0.up.weight", "blocks.0.mix.q.linear.weight", *levels}
    assert adamw >= {"embedding.weight", "norm.weight", "blocks.0.mix.u.conv.weight"}
    assert {n for n in adamw if n.endswith("init")} == {
        f"blocks.0.mix.M_{s}.W{w}.init"
        for s in ("k", "v", "eta", "alpha", "memory")
        for w in (1, 2)
    }


def test_every_learning_rate_follows_the_schedule(corpus: Corpus, tmp_path: Path) -> None:
    run = Run(replace(HOPE_WITH_M3, steps=40), corpus, tmp_path / "run.pt", "cpu")
    run.train_step()  # the first of two steps that warm up
    assert [(g["lr"], g["rest_lr"]) for g in run.optimizer.param_groups] == [(0.025, 0.005)] * 2


# the run


@pytest.mark.parametrize("settings", [TINY, HOPE_WITH_M3], ids=["delta", "hope"])
def test_a_stopped_run_ends_with_the_same_model(
    settings: Settings, corpus: Corpus, tmp_path: Path
) -> None:
    whole = Run(settings, corpus, tmp_path / "whole.pt", "cpu")
    assert train(whole, _ignore, looks=3)

    def stop(run: Run) -> None:
        if run.step == 3:
            signal.raise_signal(signal.SIGINT)

    part = Run(settings, corpus, tmp_path / "part.pt", "cpu")
    assert not train(part, stop, looks=3) and part.step == 3
    torch.manual_seed(99)
    rest = Run(settings, corpus, tmp_path / "part.pt", "cpu")
    rest.resume()
    assert rest.step == 3 and train(rest, _ignore, looks=3)

    assert rest.history.bits == whole.history.bits
    assert [tuple(look) for look in rest.history.looks] == whole.history.looks
    assert _same(rest.model.state_dict(), whole.model.state_dict())


def test_a_stretch_is_read_in_one_stream(corpus: Corpus, tmp_path: Path) -> None:
    pieces = Run(TINY, corpus, tmp_path / "run.pt", "cpu")
    whole = Run(replace(TINY, length=36), corpus, tmp_path / "run.pt", "cpu")
    assert pieces.held_out_bits(4, 3) == pytest.approx(whole.held_out_bits(4), rel=1e-5)


@pytest.mark.parametrize("settings", [TINY, HOPE_WITH_M3], ids=["delta", "hope"])
def test_it_learns(settings: Settings, corpus: Corpus, tmp_path: Path) -> None:
    run = Run(replace(settings, steps=40), corpus, tmp_path / "run.pt", "cpu")
    before = run.held_out_bits(8)
    assert train(run, _ignore) and run.held_out_bits(8) < before - 1


def test_a_finished_run_does_nothing_more(corpus: Corpus, tmp_path: Path) -> None:
    settings = replace(TINY, steps=2)
    train(Run(settings, corpus, tmp_path / "run.pt", "cpu"), _ignore)
    again = Run(settings, corpus, tmp_path / "run.pt", "cpu")
    again.resume()
    assert again.finished and train(again, lambda _run: pytest.fail("it trained on"))


def test_a_checkpoint_of_another_run_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    Run(TINY, corpus, path, "cpu").save()
    with pytest.raises(RunError, match=r"lr was 0\.01, now"):
        Run(replace(TINY, lr=0.5), corpus, path, "cpu").resume()
    with pytest.raises(RunError, match="text was another"):
        Run(TINY, replace(corpus, train=corpus.train[1:]), path, "cpu").resume()
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(RunError, match="not a checkpoint"):
        Run(TINY, corpus, path, "cpu").resume()


def _threads_after(crowding: Crowding, seconds: float) -> tuple[bool, int]:
    return crowding.relieve(seconds), torch.get_num_threads()


def test_one_thread_where_the_cores_become_taken() -> None:
    torch.set_num_threads(2)
    crowding = Crowding(patience=10)
    assert _threads_after(crowding, 2.0) == (False, 2)
    assert _threads_after(crowding, 0.1) == (False, 1)  # the trial, which is slower
    assert _threads_after(crowding, 0.15) == (False, 2)
    assert [_threads_after(crowding, t) for t in (0.1, 5.0, 0.1)] == [(False, 2)] * 3
    assert _threads_after(crowding, 6.0) == (True, 1)
    assert _threads_after(crowding, 60.0) == (False, 1)


def test_one_thread_where_the_cores_are_taken_from_the_start() -> None:
    torch.set_num_threads(2)
    crowding = Crowding(patience=10)
    assert [_threads_after(crowding, t) for t in (60.0, 55.0)] == [(False, 2), (False, 1)]
    assert _threads_after(crowding, 2.0) == (True, 1)
    assert _threads_after(crowding, 2.0) == (False, 1)


def test_one_thread_stays_one() -> None:
    torch.set_num_threads(1)
    crowding = Crowding(patience=1)
    assert [_threads_after(crowding, t) for t in (9.0, 1.0, 9.0, 9.0)] == [(False, 1)] * 4


# the command


def test_the_command_trains_shows_and_goes_on(text: Path, tmp_path: Path) -> None:
    first = _command(SIZES, str(text), "--out", str(tmp_path))
    assert first.exit_code == 0, first.output
    assert "bits per byte on the held-out text" in first.output
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    saved = (tmp_path / "checkpoint.pt").read_bytes()
    assert _command(SIZES, str(text), "--out", str(tmp_path)).exit_code == 0
    assert (tmp_path / "checkpoint.pt").read_bytes() == saved


def test_other_specs_and_hypers(text: Path, tmp_path: Path) -> None:
    options = "--spec linear_attention --optimizer momentum --lr 0.01 --optimizer-hyper beta=0.8"
    result = _command(f"{SIZES} {options}", str(text), "--out", str(tmp_path))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "arguments, says",
    [
        ("{folder}/none.txt", "there is no file"),
        ("{folder}", "cannot be read"),
        ("{text} --length 5000", "is too small"),
        ("{text} --optimizer-hyper beta1", "not of the form NAME=VALUE"),
        ("{text} --optimizer-hyper no_such=1", "no_such"),
        ("{text} --hyper no_such=1", "no_such"),
        ("{text} --spec no_such_spec", "no_such_spec"),
        ("{text} --device no_such", "no_such"),
    ],
)
def test_mistakes_are_told_in_words(text: Path, tmp_path: Path, arguments: str, says: str) -> None:
    options = SIZES + " " + arguments.format(folder=tmp_path, text=text)
    result = _command(options, "--out", str(tmp_path / "o"))
    assert result.exit_code in (1, 2)
    assert "Error: " in result.output and says in result.output
    assert isinstance(result.exception, SystemExit), result.exception


# the demonstration


def test_contenders_differ_in_specs_alone(corpus: Corpus, tmp_path: Path) -> None:
    alike = {"batch": 4, "length": 12, "steps": 1}
    contenders = {name: replace(c, **alike) for name, c in demo.CONTENDERS.items()}
    runs = demo.contend(contenders, corpus, tmp_path, "cpu")
    counts = [parameter_count(run.model) for run in runs.values()]
    assert counts == pytest.approx([counts[0]] * len(counts), rel=0.01)
    batches = [torch.stack(run.windows[0]) for run in runs.values()]
    assert all(torch.equal(batches[0], batch) for batch in batches)


def test_each_level_of_the_demonstration_ticks_in_a_window_and_is_read_after() -> None:
    settings = demo.CONTENDERS["hope-m3"]
    assert 2 * max(settings.hyper["periods"]) <= settings.length


def test_results_have_a_row_for_each_run(corpus: Corpus, tmp_path: Path) -> None:
    contenders = {
        "hope-m3": replace(HOPE_WITH_M3, steps=2),
        "attention-adamw": replace(TINY, spec="attention", steps=2),
    }
    runs = demo.contend(contenders, corpus, tmp_path, "cpu")
    for run in runs.values():
        assert train(run, _ignore)
    console = Console(width=80, file=io.StringIO())
    console.print(demo.results(runs))
    lines = [re.split(r"  +", line.strip()) for line in console.file.getvalue().splitlines()]
    rows = {line[0]: [*line[1:], *after] for line, after in pairwise(lines) if "KiB" in line[-1]}
    assert [row[-1] for row in rows.values()] == ["by m3_with_adamw", "by adamw"]
    for spec, run in zip(("hope", "attention"), runs.values(), strict=True):
        assert float(rows[spec][1]) == pytest.approx(run.held_out_bits(1024), abs=1e-3)
        assert float(rows[spec][2]) == pytest.approx(run.held_out_bits(64, 8), abs=1e-3)
