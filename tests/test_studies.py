"""The studies: words and streams that say what they should, fair choices, and a page at the end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import continual
import formal_languages
import pytest
import study
import torch
from click.testing import CliRunner
from language_model import parameter_count
from languages import DEPTH, KINDS, LANGUAGES, UNSCORED
from study import Job, Result
from training import Settings

import nlc


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# what is learned


def test_parity_counts_the_ones() -> None:
    bits, answers = LANGUAGES["parity"].sample(5, 30, _generator())
    for word, told in zip(bits.tolist(), answers.tolist(), strict=True):
        assert told == [2 + sum(word[: n + 1]) % 2 for n in range(30)]


def test_brackets_are_nested_and_the_answer_closes_the_last_one() -> None:
    tokens, answers = LANGUAGES[f"dyck-{KINDS}"].sample(20, 100, _generator())
    heights = set()
    for word, told in zip(tokens.tolist(), answers.tolist(), strict=True):
        stack: list[int] = []
        for token, answer in zip(word, told, strict=True):
            if token < KINDS:
                stack.append(token)
                assert answer == UNSCORED
            else:
                assert stack.pop() == token - KINDS
                assert answer == (KINDS + stack[-1] if stack else 2 * KINDS)
            heights.add(len(stack))
    assert heights == set(range(DEPTH + 1))


def test_a_round_shows_each_pair_of_its_task_once() -> None:
    plan = replace(continual.QUICK, noise=0.0)
    keys, told, values = continual.streams(plan, 3, seed=1)
    assert torch.equal(told, values)
    assert keys.shape == (3, plan.length, plan.d)
    rounds = torch.cat([keys, values], -1).unflatten(1, (-1, plan.pairs))
    a, b = plan.first - 1, plan.first
    for stream in rounds.tolist():
        shown = [sorted(pairs) for pairs in stream]
        assert shown[0] == shown[a] == shown[-1] != shown[b]
    assert torch.equal(keys, continual.streams(plan, 3, seed=1)[0])
    assert not torch.equal(keys, continual.streams(plan, 3, seed=1, step=1)[0])


@pytest.mark.parametrize("kind", continual.KINDS)
def test_an_answer_precedes_the_told_value(kind: str) -> None:
    settings = continual.QUICK.settings(kind, "3 levels: 4·16·64")
    memory = nlc.compile(settings.spec)(d=settings.d, **settings.hyper)
    keys, told, _ = continual.streams(continual.QUICK, 2, seed=0)
    told.requires_grad_()
    for at in 3, 4, 15:
        (grad,) = torch.autograd.grad(memory(keys, told)[0][:, at].square().sum(), told)
        sees = at - at % 4  # the tokens of the periods that have ended
        assert not grad[:, sees:].any() and (grad[:, :sees].any() or not sees)


# on equal terms


def _result(job: Job) -> Result:
    lr, seed = job.settings.lr or 0, job.settings.seed
    return Result(job, 1, study.finite(math.nan if lr > 1 else lr + seed), (lr,), 0.0, 0)


def test_the_rate_is_chosen_by_the_first_seed_and_kept_for_the_others() -> None:
    both = {"a": Settings(), "b": Settings()}
    results = study.tuned(both, (2.0, 0.3, 0.1, 0.2), 3, _result)
    assert len(results) == 2 * (4 + 2)
    for runs in study.chosen(results).values():
        assert [(one.job.settings.lr, one.job.settings.seed) for one in runs] == [
            (0.1, 0),
            (0.1, 1),
            (0.1, 2),
        ]


def test_memories_have_as_many_parameters() -> None:
    language = LANGUAGES["parity"]
    made = formal_languages.contenders(
        formal_languages.FULL, language, list(formal_languages.MEMORIES)
    )
    counts = [parameter_count(formal_languages.model_of(s, language)) for s in made.values()]
    assert max(counts) < 1.01 * min(counts)


def test_a_spread_says_the_mean_and_the_ends() -> None:
    assert study.spread([0.5, 0.7, 0.9]) == "0.70 (0.50–0.90)"
    assert study.spread([0.991, 0.992]) == "0.99"


# the commands


@pytest.mark.parametrize(
    "module, name, arguments, contenders",
    [
        (formal_languages, "formal_languages", "--only hope --only gated_delta_net_negative", 4),
        (continual, "continual", "--only levels", 4),
    ],
)
def test_a_quick_study_writes_a_page_and_a_picture(
    tmp_path: Path, module: object, name: str, arguments: str, contenders: int
) -> None:
    line = f"--quick --workers 1 {arguments} --out {tmp_path}"
    result = CliRunner().invoke(module.main, line.split())
    assert result.exit_code == 0, result.output
    page = (tmp_path / f"{name}.md").read_text()
    runs = page.partition("## Every run")[2].strip().splitlines()[2:]
    assert len(runs) == contenders * module.QUICK.seeds  # there is one rate
    assert f"![]({name}.svg)" in page and (tmp_path / f"{name}.svg").stat().st_size > 1000
