"""Options of the command line that are many, or that several verbs parse alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from nlc.backends import BACKENDS
from nlc.backends.features import FEATURES
from nlc.base.diagnostics import nearest
from nlc.library import search


class Verbs(click.Group):
    """A group that knows which verb was meant."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, args)
        except click.UsageError:
            name, verbs = args[0], self.list_commands(context)
            close = nearest(name, verbs)
            if name in search() or Path(name).is_file():
                hint = f"did you mean `nlc check {name}`?"
            else:
                hint = f"did you mean `{close}`?" if close else f"verbs: {', '.join(verbs)}"
            raise click.UsageError(f"there is no verb `{name}`; {hint}", context) from None


# What `nlc list` lists, by name here, since `nlc check` should not wait for the tables themselves.
TABLES = (
    *("specs", "keys", "level-keys", "weight-keys", "reset-keys", "memory-keys", "family-keys"),
    "route-keys",
    *("functions", "memories", "rules", "tensors", "clocks", "classes", "plans"),
    *("reads", "transfers", "signs", "words", "operators", "letters"),
    *("names", "codes"),
)


def setting(text: str) -> tuple[str, Any]:
    """``d=32``; several numbers are a list, ``periods=2,4``."""
    name, equals, value = text.partition("=")
    try:
        numbers = [json.loads(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if not equals or not all(isinstance(x, int | float) for x in numbers) or not numbers:
        raise click.BadParameter(f"{text!r} is not HYPER=VALUE with a number", param_hint="--set")
    return name.strip(), numbers[0] if len(numbers) == 1 else numbers


def plan(text: str) -> tuple[str, str]:
    """``S=chunked(32)``."""
    level, equals, plan = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not LEVEL=PLAN", param_hint="--plan")
    return level.strip(), plan.strip()


def by_ending(format: str | None, output: Path | None, endings: Mapping[str, str]) -> str:
    """The format that is asked for, else that of the file's ending; text without a file."""
    ending = output.suffix.lower() if output is not None else ""
    if format is not None or not ending:
        return format or "text"
    if ending not in endings:
        known = ", ".join(endings)
        raise click.BadParameter(
            f"no format is written to *{ending}; give --format, or one of {known}",
            param_hint="--output",
        )
    return endings[ending]


def _together(*options: Callable) -> Callable[[Callable], Callable]:
    """One decorator for several options, which `--help` lists in this order."""

    def add(verb: Callable) -> Callable:
        for option in reversed(options):
            verb = option(verb)
        return verb

    return add


PLAN = click.option(
    "--plan",
    "plans",
    metavar="LEVEL=PLAN",
    multiple=True,
    help="How a level runs: sequential, chunked or anchored; chunked(32) has 32 tokens a solve.",
)
WITHOUT = click.option(
    "--without",
    metavar="NAME,…",
    multiple=True,
    callback=lambda _, __, given: tuple(n.strip() for names in given for n in names.split(",")),
    help=f"Left out of the file: {'; '.join(f'{n}, {x}' for n, x in FEATURES.items())}.",
)
OPERATOR = click.option(
    "--operator", is_flag=True, help="The recurrent core alone, its flows as inputs."
)
_SET = click.option(
    "--set", "settings", metavar="HYPER=VALUE", multiple=True, help="A hyper to change."
)
_DTYPE = click.option(  # of kernels
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="bfloat16",
    show_default=True,
    help="Of inputs and weights.",
)
AGAINST = click.option(
    "--against",
    metavar="CLASS",
    help="Say what an optimizer does otherwise than that class, such as torch.optim.AdamW.",
)
PEER = click.option(
    "--peer",
    "peers",
    metavar="NAME=VALUE",
    multiple=True,
    help="An argument of that class, where the spec has no hyper of that name.",
)
FORMAT = click.option(
    "--format",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="How it is written; github: mistakes as annotations.",
)
MISTAKES = click.option(
    "--format",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="How mistakes are said.",
)
# What `nlc check` takes beside the specs.
checked = _together(
    MISTAKES,
    click.option(
        "--fix",
        is_flag=True,
        help="Repair what is certain, in the file; - writes to standard output.",
    ),
)


# What `nlc explain` takes beside the spec.
explained = _together(
    click.option(
        "--backend",
        type=click.Choice(["auto", *BACKENDS]),
        default="auto",
        show_default=True,
        help="Who prints the program; auto: the fastest that can.",
    ),
    PLAN,
    _SET,
    click.option(
        "--tokens",
        type=click.IntRange(1),
        default=2048,
        show_default=True,
        help="How long the stream is that costs are for.",
    ),
    FORMAT,
)


def _lengths(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    """``256,1024``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{text!r} is not a list of lengths such as 256,1024")
    return tuple(map(int, parts))


# What `nlc kernels` takes beside the spec.
ahead = _together(
    OPERATOR,
    click.option(
        "--arch",
        "archs",
        type=click.Choice(["sm_80", "sm_90", "sm_100"]),
        multiple=True,
        default=["sm_90"],
        show_default=True,
        help="A GPU architecture, repeatable.",
    ),
    click.option("--packed", is_flag=True, help="Of sequences that cu_seqlens packs in one."),
    click.option(
        "--tokens",
        type=click.IntRange(1),
        default=256,
        show_default=True,
        help="How long a stream is: up to 16, and at 1, kernels are others.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["highest", "high"]),
        default="highest",
        show_default=True,
        help="Of products of float32, as torch.set_float32_matmul_precision has it.",
    ),
    _SET,
    _DTYPE,
    FORMAT,
)


# What `nlc tune` takes beside the spec.
tuned = _together(
    OPERATOR,
    _SET,
    _DTYPE,
    click.option(
        "--tokens",
        type=click.IntRange(1),
        default=2048,
        show_default=True,
        help="How long the stream is that is timed; what is found is used for every length.",
    ),
    click.option(
        "--batch", type=click.IntRange(1), default=8, show_default=True, help="Sequences at once."
    ),
    FORMAT,
)


# What `nlc bench` measures, and how the numbers are written.
measured = _together(
    click.option(
        "--backend",
        "backends",
        type=click.Choice(BACKENDS),
        multiple=True,
        help="One to measure, repeatable; without it all that can compile the spec.",
    ),
    OPERATOR,
    click.option(
        "--tokens",
        default="256,1024,4096",
        show_default=True,
        callback=_lengths,
        help="The lengths T.",
    ),
    click.option(
        "--batch", type=click.IntRange(1), default=1, show_default=True, help="Sequences at once."
    ),
    _SET,
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float64", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="Of weights and inputs.",
    ),
    click.option(
        "--device",
        type=click.Choice(["cpu", "cuda"]),
        default="cpu",
        show_default=True,
        help="Where it runs.",
    ),
    click.option(
        "--threads", type=click.IntRange(1), help="Of torch on a CPU; as torch chooses without it."
    ),
    click.option(
        "--seconds",
        type=click.FloatRange(0, min_open=True),
        default=5.0,
        show_default=True,
        help="Of timing for each backend, mode and T; what takes longer is skipped.",
    ),
    click.option("--seed", default=0, show_default=True, help="Of the random inputs and weights."),
    click.option(
        "--format",
        type=click.Choice(["text", "json", "csv", "github"]),
        default="text",
        show_default=True,
        help="How the numbers are written.",
    ),
    click.option(
        "--plot",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Also draw them; needs matplotlib.",
    ),
)
