"""Parity and nested brackets, learned on short words and tried on words eight times as long.

    python examples/formal_languages.py
    python examples/formal_languages.py --quick

One layer of each memory, with as many parameters and the same words in the same order. What is asked
is a state of the language after each token, so a memory must hold a state that the words update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import click
import study
import torch
import torch.nn.functional as F
from language_model import LanguageModel, hidden_for, mixing, parameter_count
from languages import LANGUAGES, UNSCORED, Language
from matplotlib.figure import Figure
from study import Job, Result
from torch import Tensor, nn
from training import Descent, Settings

import nlc
from nlc.pipeline import shipped

TITLE = "Formal languages beyond the length of training"
STRETCHES = (1, 2, 4, 8)  # times the length of training
BLOCKS = 4  # points of a curve in the length of training
VALIDATION, TEST = 10**9, 10**9 + 1  # seeds that no training batch has

# Within a chunk Hope reads what its memories held at the chunk's start: a state that every token
# changes needs chunks of one token. Its chain learns along the word, and all its levels tick within
# the length of training; that of hope_slow learns in training only. Else the two are alike.
EXACT = {"expand": 1, "chunk": 1, "memory_chunk": 1, "gate_bias": 6}

# The first decides how many parameters all have. The negative one's gate is twice that of
# gated_delta_net: an erase of up to twice what is there gives the transition an eigenvalue below 0.
MEMORIES: dict[str, tuple[str, dict[str, object]]] = {
    "hope": ("hope", {**EXACT, "periods": (4, 8, 16)}),
    "hope_slow": ("hope_slow", {**EXACT, "periods": (1, 1, 1)}),
    "gated_delta_net": ("gated_delta_net", {}),
    "gated_delta_net_negative": (
        str(Path(__file__).with_name("gated_delta_net_negative.yaml")),
        {},
    ),
    "linear_attention": ("linear_attention", {}),
    "attention": ("attention", {}),
}


@dataclass(frozen=True)
class Study:
    """The sizes of the study; each is an option of the command."""

    d: int = field(default=32, metadata={"help": "Width of the model."})
    heads: int = field(default=4, metadata={"help": "Heads of a memory."})
    layers: int = field(default=1, metadata={"help": "Blocks, each a memory and an MLP."})
    batch: int = field(default=32, metadata={"help": "Words a step."})
    length: int = field(default=32, metadata={"help": "Tokens of a word in training."})
    steps: int = field(default=600, metadata={"help": "Steps of training."})
    rates: tuple[float, ...] = field(
        default=(1e-3, 3e-3, 1e-2), metadata={"help": "Learning rates to choose from."}
    )
    seeds: int = field(default=3, metadata={"help": "Seeds at the chosen rate."})
    tests: int = field(default=256, metadata={"help": "Words to try a model on."})


FULL = Study()
QUICK = Study(d=8, heads=2, batch=2, length=8, steps=1, rates=(1e-2,), seeds=2, tests=8)


def contenders(plan: Study, language: Language, names: Sequence[str]) -> dict[str, Settings]:
    """Settings of each; MLPs are widened or narrowed until all have the first memory's parameters."""
    size = Settings(
        d=plan.d,
        heads=plan.heads,
        layers=plan.layers,
        hidden=2 * plan.d,
        batch=plan.batch,
        length=plan.length,
        steps=plan.steps,
    )
    made, count = {}, 0
    for name, (spec, hyper) in MEMORIES.items():
        settings = replace(size, spec=spec, hyper=hyper)
        if not count:
            count = parameter_count(model_of(settings, language))
        mix = mixing(nlc.compile(spec), plan.d, plan.heads, **hyper)
        hidden = hidden_for(count, mix, plan.d, plan.layers, language.vocabulary)
        made[name] = replace(settings, hidden=hidden)
    return {name: made[name] for name in names}


def model_of(settings: Settings, language: Language) -> LanguageModel:
    mix = mixing(nlc.compile(settings.spec), settings.d, settings.heads, **settings.hyper)
    return LanguageModel(
        mix, settings.d, settings.layers, settings.hidden, vocabulary=language.vocabulary
    )


def run(name: str, tests: int, job: Job) -> Result:
    """Trains one model on words of the language ``name``, and tries it on longer ones."""
    language, settings, length = LANGUAGES[name], job.settings, job.settings.length
    torch.manual_seed(settings.seed)
    model = model_of(settings, language)

    def batch_loss(step: int) -> Tensor:
        words = generator(settings.seed, step)
        return loss(model, *language.sample(settings.batch, length, words))

    seconds, skipped = study.fit(Descent(settings, model, model.param_groups()), batch_loss)
    with torch.no_grad():
        validation = loss(model, *language.sample(tests, length, generator(VALIDATION))).item()
        tokens, answers = language.sample(tests, STRETCHES[-1] * length, generator(TEST))
        right = (model(tokens)[0].argmax(-1) == answers).double()
    curve = [right[:, at][answers[:, at] != UNSCORED].mean().item() for at in blocks(length)]
    return Result(
        job, parameter_count(model), study.finite(validation), tuple(curve), seconds, skipped
    )


def generator(seed: int, step: int = 0) -> torch.Generator:
    """The same for every memory: a seed and a step decide the words."""
    return torch.Generator().manual_seed(1_000_003 * seed + step)


def loss(model: nn.Module, tokens: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy over the answers that are scored."""
    logits = model(tokens)[0].flatten(0, 1)
    return F.cross_entropy(logits, answers.flatten(), ignore_index=UNSCORED)


def blocks(length: int) -> Iterator[slice]:
    """Places of a test word, a few blocks to each length of training."""
    edges = [i * length // BLOCKS for i in range(BLOCKS * STRETCHES[-1] + 1)]
    return (slice(*pair) for pair in pairwise(edges))


def by_stretch(result: Result) -> list[float]:
    """Accuracy up to the length of training, from there to twice it, and so on."""
    edges = [0, *(BLOCKS * stretch for stretch in STRETCHES)]
    return [sum(result.curve[a:b]) / (b - a) for a, b in pairwise(edges)]


def study_of(
    language: Language, plan: Study, names: Sequence[str], each: study.Each = map
) -> list[Result]:
    """All runs on one language; each is told as it ends."""
    return study.tuned(
        contenders(plan, language, names),
        plan.rates,
        plan.seeds,
        partial(run, language.name, plan.tests),
        each,
        lambda result: click.echo(f"{language.name:8} {study.told(result)}"),
    )


def guess(language: Language, plan: Study) -> float:
    """How often the most frequent answer is right."""
    _, answers = language.sample(plan.tests, STRETCHES[-1] * plan.length, generator(TEST))
    scored = answers[answers != UNSCORED]
    return (scored.bincount().max() / len(scored)).item()


def heads(plan: Study) -> list[str]:
    edges = [0, *(stretch * plan.length for stretch in STRETCHES)]
    return [f"{a + 1}–{b}" for a, b in pairwise(edges)]


def table(results: Sequence[Result], plan: Study) -> str:
    """A line for each memory at its best rate."""
    rows: list[list[object]] = [["memory", "parameters", "lr", *heads(plan), "CPU s a run"]]
    for name, runs in study.chosen(results).items():
        columns = zip(*(by_stretch(one) for one in runs), strict=True)
        rows.append(
            [
                f"`{name}`",
                f"{runs[0].parameters:,}",
                f"{runs[0].job.settings.lr:g}",
                *(study.spread(column) for column in columns),
                f"{sum(one.seconds for one in runs) / len(runs):.0f}",
            ]
        )
    return study.markdown(rows)


def every_run(results: dict[str, list[Result]], plan: Study) -> str:
    rows: list[list[object]] = [
        ["language", "memory", "lr", "seed", "validation loss", *heads(plan), "steps skipped"]
    ]
    for language, runs in results.items():
        for one in runs:
            s = one.job.settings
            scores = [f"{score:.3f}" for score in by_stretch(one)]
            row = [language, f"`{one.job.name}`", f"{s.lr:g}", s.seed, f"{one.validation:.4f}"]
            rows.append([*row, *scores, one.skipped])
    return study.markdown(rows)


def describe(plan: Study) -> str:
    return (
        f"Width {plan.d}, {plan.heads} heads, {plan.layers} layer{'s' * (plan.layers > 1)} of a "
        f"memory and an MLP; {plan.steps} steps of {plan.batch} words of {plan.length} tokens, "
        "AdamW, warm-up and cosine. MLPs are sized so that all have about the same parameters, and "
        "all see the same words in the same order. The rate is that of "
        f"{', '.join(f'{rate:g}' for rate in plan.rates)} with the least loss on {plan.tests} fresh "
        f"words of {plan.length} tokens with seed 0. Accuracy of the answers at the places of "
        f"{plan.tests} words of {STRETCHES[-1] * plan.length} tokens, mean over {plan.seeds} seeds "
        "(least–greatest). A step without a finite gradient is skipped. In the picture the dashed "
        "line is the length of training, the dotted one the most frequent answer."
    )


def hypers(names: Sequence[str]) -> str:
    """What each memory was told beside its size."""
    lines = []
    for name in names:
        spec, hyper = MEMORIES[name]
        told = ", ".join(f"{key} {value}" for key, value in hyper.items()) or "none"
        folder = "examples" if spec.endswith(".yaml") else f"specs/{shipped()[name].parent.name}"
        lines.append(f"- `{name}`: {folder}/{name}.yaml; {told}")
    return "\n".join(["Hypers beside the size:", "", *lines])


def picture(results: dict[str, list[Result]], plan: Study) -> Figure:
    """Accuracy along the test words."""
    figure = Figure(figsize=(5.5 * len(results), 4.2), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    xs = [(at.start + at.stop) / 2 for at in blocks(plan.length)]
    for axes, (name, some) in zip(panels, results.items(), strict=True):
        for number, (memory, runs) in enumerate(study.chosen(some).items()):
            study.band(axes, xs, runs, memory, f"C{number}")
        axes.axvline(plan.length, color="0.5", linestyle="--", linewidth=1)
        axes.axhline(guess(LANGUAGES[name], plan), color="0.5", linestyle=":", linewidth=1)
        axes.set(title=name, xlabel="place in the word", ylim=(0, 1.03))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy")
    panels[-1].legend(frameon=False, fontsize="small")
    return figure


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--language", "languages", multiple=True, type=click.Choice(list(LANGUAGES)))
@click.option("--only", multiple=True, type=click.Choice(list(MEMORIES)), help="Repeatable.")
@study.options(FULL)
@study.running("runs/formal_languages")
def main(
    languages: tuple[str, ...],
    only: tuple[str, ...],
    quick: bool,
    workers: int,
    out: Path,
    **sizes: object,
) -> None:
    """Hope, gated delta nets, linear attention and a Transformer on parity and nested brackets."""
    plan = study.plan(QUICK if quick else FULL, sizes)
    names = only or tuple(MEMORIES)
    with study.workers(workers) as each:
        results = {
            name: study_of(LANGUAGES[name], plan, names, each) for name in languages or LANGUAGES
        }
    parts = [f"# {TITLE}", describe(plan), hypers(names), study.surroundings()]
    for name, some in results.items():
        language = LANGUAGES[name]
        about = f"Asked is {language.doc}. The most frequent answer is right in "
        parts += [f"## {name}", f"{about}{guess(language, plan):.2f}.", table(some, plan)]
    parts += ["## Every run", every_run(results, plan)]
    study.write(out, "formal_languages", parts, picture(results, plan))
    for part in parts[:-2]:
        click.echo(f"\n{part}")
    click.echo(f"\nevery run: {out}/formal_languages.md; picture: {out}/formal_languages.svg")


if __name__ == "__main__":
    main()
