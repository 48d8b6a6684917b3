"""What memories of gradients do: on the landscape of Figure 4 of Nested Learning, and what share of the past they hold.

    python examples/gradient_memories.py
    python examples/gradient_memories.py --quick

Optimizers are compiled from their specs. Each is tried at every rate of one grid, from one start, and the
page has all of it. Shares are measured: a gradient of 1 comes once, at one step, and the memory is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import click
import study
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import nlc

TITLE = "Memories of gradients"
START = (-3.5, 2.0)  # r, θ: the paper's
NEAR = 1e-3  # ψ of a run that has arrived
SEED = 0  # of the start of a deep momentum

# Hypers beside the rate: all forget a tenth a step, but the MLP, which forgets a hundredth towards its start.
OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {},
    "momentum": {"beta": 0.9},
    "feature_momentum": {"beta": 0.9, "scale": 1.0},
    "delta_momentum": {"alpha": 0.9, "eta": 0.1, "clip": 1.0},
    "deep_momentum": {"alpha": 0.99, "eta": 1.0},
}
STYLES = {  # told apart in print too
    "sgd": ("#7f7f7f", ":"),
    "momentum": ("#0072b2", "-"),
    "feature_momentum": ("#009e73", "--"),
    "delta_momentum": ("#d55e00", "-"),
    "deep_momentum": ("#aa4499", "-."),
}
# What is looked at after impulses: the spec, its hypers, the state.
MEMORIES: dict[str, tuple[str, dict[str, float], str]] = {
    "momentum, β = 0.8": ("momentum", {"beta": 0.8}, "m"),
    "momentum, β = 0.9": ("momentum", {"beta": 0.9}, "m"),
    "momentum, β = 0.99": ("momentum", {"beta": 0.99}, "m"),
    "m3_ema, M2 (every 8 steps, β₃ = 0.5)": ("m3_ema", {"beta3": 0.5, "f": 8}, "M2"),
}
COLORS = (("#009e73", "--"), ("#0072b2", "-"), ("#d55e00", "-."), ("black", ":"))


@dataclass(frozen=True)
class Study:
    """The sizes of the study; each is an option of the command."""

    steps: int = field(default=200, metadata={"help": "Steps of a run."})
    rates: tuple[float, ...] = field(
        default=tuple(round(10 ** (e / 4), 6) for e in range(-16, 5)),
        metadata={"help": "Learning rates, by commas."},
    )
    a: float = field(default=1.0, metadata={"help": "Height of the waves of the valley."})
    omega: float = field(default=2.0, metadata={"help": "Their frequency."})
    kappa: float = field(default=4.0, metadata={"help": "How steep the valley of the picture is."})
    ages: int = field(default=1200, metadata={"help": "Steps back at which an impulse may come."})


FULL = Study()
QUICK = Study(steps=20, rates=(0.01, 0.1), ages=96)
STEEPNESS = (0.25, 1.0, 2.5)  # times the kappa of the picture: the tables have all


@dataclass(frozen=True)
class Descent:
    """A run: where it was, [steps + 1, 2], and ψ there, infinite from where it is no number."""

    name: str
    rate: float
    path: Tensor
    losses: tuple[float, ...]

    @property
    def arrived(self) -> int | None:
        """The first step from which on ψ stays below ``NEAR``."""
        above = [n for n, loss in enumerate(self.losses) if not loss < NEAR]
        at = above[-1] + 1 if above else 0
        return at if at < len(self.losses) else None


# what is run


def landscape(r: Tensor, theta: Tensor, plan: Study, kappa: float) -> Tensor:
    """Eq. 53: ψ = r² + κ (r − θ + a sin(ω r))², a curved valley whose floor falls towards 0."""
    return r.square() + kappa * (r - theta + plan.a * torch.sin(plan.omega * r)).square()


def descend(name: str, rate: float, plan: Study, kappa: float) -> Descent:
    """(r, θ) is a matrix of one row, so that memories of matrices take it as it is."""
    torch.manual_seed(SEED)
    point = nn.Parameter(torch.tensor([START], dtype=torch.float64))
    optimizer = nlc.compile(name)([point], lr=rate, **OPTIMIZERS[name])
    path, losses = [], []
    for step in range(plan.steps + 1):
        optimizer.zero_grad()
        loss = landscape(*point.unbind(-1), plan, kappa).sum()
        path.append(point.detach()[0].clone())
        losses.append(study.finite(loss.item()))
        if losses[-1] == math.inf:
            losses += [math.inf] * (plan.steps - step)
            break
        loss.backward()
        optimizer.step()
    return Descent(name, rate, torch.stack(path), tuple(losses))


def descents(plan: Study, kappa: float) -> dict[str, list[Descent]]:
    return {name: [descend(name, lr, plan, kappa) for lr in plan.rates] for name in OPTIMIZERS}


def best(runs: Iterable[Descent]) -> Descent:
    """That with the least ψ at the end."""
    return min(runs, key=lambda run: run.losses[-1])


def shares(spec: str, hypers: dict[str, float], state: str, ages: int) -> list[float]:
    """What share of a memory each past gradient has, the last one first.

    Entry s of the tensor has a gradient of 1 at step s and of 0 at all others, so one run holds every impulse.
    """
    tensor = nn.Parameter(torch.zeros(ages, 1, dtype=torch.float64))
    optimizer = nlc.compile(spec)([tensor], **hypers)
    for step in range(ages):
        tensor.grad = torch.zeros_like(tensor)
        tensor.grad[step] = 1.0
        optimizer.step()
    held = optimizer.state[tensor][state].flatten().flip(0)
    return (held / held.sum()).tolist()


def needed(parts: Sequence[float], share: float) -> int:
    """How many of the last gradients have so much of the memory together."""
    return next(n for n, total in enumerate(accumulate(parts), 1) if total >= share - 1e-9)


# what people read


def describe(plan: Study) -> str:
    return (
        "ψ(r, θ) = r² + κ (r − θ + a sin(ωr))², from "
        f"({START[0]:g}, {START[1]:g}) as in Figure 4 (eq. 53); a = {plan.a:g}, ω = {plan.omega:g} and three κ "
        "are our choice. "
        f"Every optimizer runs {plan.steps} steps in float64 at {len(plan.rates)} rates from "
        f"{min(plan.rates):g} to {max(plan.rates):g}; its own is the one with the least ψ at the end. "
        "The point is a matrix of one row. The other hypers are fixed, not tuned: "
        + "; ".join(
            f"`{name}` " + ", ".join(f"{k} {v:g}" for k, v in hypers.items())
            for name, hypers in OPTIMIZERS.items()
            if hypers
        )
        + f". Arrived is the first step from which on ψ stays below {NEAR:g}. "
        "In the picture each shade is √10 times the next lighter one."
    )


def table(runs: dict[str, list[Descent]], plan: Study) -> str:
    rows: list[list[object]] = [
        ["optimizer", "rate", f"ψ at {plan.steps // 4}", f"ψ at {plan.steps // 2}", f"ψ at {plan.steps}",
         "arrived", "rates that arrive"],
    ]  # fmt: skip
    for name, some in runs.items():
        one = best(some)
        at = [one.losses[n] for n in (plan.steps // 4, plan.steps // 2, plan.steps)]
        there = sum(run.arrived is not None for run in some)
        arrived = "–" if one.arrived is None else one.arrived
        rows.append([f"`{name}`", f"{one.rate:.3g}", *(f"{x:.1e}" for x in at), arrived, there])
    return study.markdown(rows)


def every_run(runs: dict[str, list[Descent]], plan: Study) -> str:
    rows = [["rate", *(f"`{name}`" for name in runs)]]
    for i, rate in enumerate(plan.rates):
        rows.append([f"{rate:.3g}", *(f"{some[i].losses[-1]:.1e}" for some in runs.values())])
    return study.markdown(rows)


def remembered(found: dict[str, list[float]]) -> str:
    rows: list[list[object]] = [
        ["memory", "the last 6 hold", "half is in", "the last 43 hold", "99 % is in"]
    ]
    for name, parts in found.items():
        six, most = sum(parts[:6]), sum(parts[:43])
        half, all_but = needed(parts, 0.5), needed(parts, 0.99)
        rows.append([name, f"{six:.1%}", half, f"{most:.1%}", all_but])
    return study.markdown(rows)


def picture(runs: dict[str, list[Descent]], plan: Study) -> Figure:
    """Paths at each optimizer's own rate, ψ along them, and ψ at the end by rate."""
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    paths, along, by_rate = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
    sides = [_side([best(some) for some in runs.values()], axis) for axis in (0, 1)]
    _valley(paths, plan, sides)
    for name, some in runs.items():
        color, line = STYLES[name]
        one, look = best(some), dict(color=color, linestyle=line, linewidth=1.6)
        r, theta = one.path.T.tolist()
        paths.plot(r, theta, **look)
        label = f"{name}, lr {one.rate:.2g}"
        along.plot(range(len(one.losses)), one.losses, label=label, **look)
        ends = [run.losses[-1] for run in some]
        by_rate.plot(plan.rates, ends, marker="o", markersize=3, label=name, **look)
    paths.plot(*START, "o", color="black", markersize=5)
    paths.plot(0, 0, "*", color="black", markersize=11)
    paths.annotate("start", START, (6, 6), textcoords="offset points", fontsize="small")
    paths.set(
        title=f"paths, κ = {plan.kappa:g}", xlabel="r", ylabel="θ", xlim=sides[0], ylim=sides[1]
    )
    along.set(title="along the paths", xlabel="step", ylabel="ψ", yscale="log")
    ends = [run.losses[-1] for some in runs.values() for run in some if run.losses[-1] < math.inf]
    by_rate.set(xscale="log", yscale="log", ylim=(min(ends) / 5, 5 * along.get_ylim()[1]))
    by_rate.set(title=f"after {plan.steps} steps", xlabel="learning rate", ylabel="ψ")
    for axes in (along, by_rate):
        axes.grid(alpha=0.3)
    along.legend(frameon=False, fontsize="small")
    return figure


def _side(shown: Sequence[Descent], axis: int) -> tuple[float, float]:
    """What the paths need of an axis, and some more."""
    at = torch.cat([one.path[:, axis] for one in shown])
    margin = 0.06 * (at.max() - at.min()).item()
    return at.min().item() - margin, at.max().item() + margin


def _valley(axes: Axes, plan: Study, sides: Sequence[tuple[float, float]]) -> None:
    """ψ in shades, each √10 times the next lighter one."""
    r, theta = torch.meshgrid(*(torch.linspace(*side, 140) for side in sides), indexing="xy")
    heights = landscape(r, theta, plan, plan.kappa).clamp(min=1e-3).log10()
    levels = [n / 2 for n in range(-3, 6)]
    axes.contourf(r, theta, heights, levels=levels, cmap="Greys", alpha=0.55, extend="both")


def memory_picture(found: dict[str, list[float]]) -> Figure:
    """The share of the last n gradients, by n."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for (name, parts), (color, line) in zip(found.items(), COLORS, strict=True):
        totals = list(accumulate(parts))
        axes.plot(range(1, len(parts) + 1), totals, color=color, linestyle=line, label=name)
        right = color == "black"  # beside what stands left of it
        for share in (0.5, 0.99):
            n = needed(parts, share)
            axes.plot(n, totals[n - 1], "o", color=color, markersize=4)
            place = (7 if right else -6, -4) if share < 0.9 else (2 if right else -2, 4)
            axes.annotate(
                str(n), (n, totals[n - 1]), place, textcoords="offset points", color=color,
                fontsize="small", ha="left" if right else "right",
            )  # fmt: skip
    for share, text in ((0.5, "half"), (0.99, "99 %")):
        axes.axhline(share, color="0.6", linewidth=0.7)
        axes.annotate(text, (1, share), (2, 3), textcoords="offset points", fontsize="small")
    axes.set(xscale="log", xlabel="the last n gradients", ylabel="their share of the memory")
    axes.set(ylim=(0, 1.08))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    return figure


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@study.options(FULL)
@click.option(
    "--out", type=click.Path(path_type=Path), default="runs/gradient_memories", show_default=True
)
@click.option("--quick", is_flag=True, help="Tiny sizes: shows that it runs.")
def main(out: Path, quick: bool, **sizes: object) -> None:
    """Momentum, delta momentum, a momentum of features and a deep one on one landscape; what momentum remembers."""
    torch.set_num_threads(1)
    plan = study.plan(QUICK if quick else FULL, sizes)
    kappas = [plan.kappa * times for times in STEEPNESS]
    runs = {kappa: descents(plan, kappa) for kappa in kappas}
    found = {name: shares(*what, plan.ages) for name, what in MEMORIES.items()}
    parts = [f"# {TITLE}", describe(plan), study.surroundings()]
    for kappa, some in runs.items():
        parts += [f"## κ = {kappa:g}", table(some, plan)]
    parts += [
        "## What a momentum holds",
        "![](shares.svg)",
        "Shares of a memory after impulses: a gradient of 1 that comes once. The paper has, for β = 0.9, half in the "
        "last 6 and 99 % in the last 43 gradients.",
        remembered(found),
        "## Every run",
    ]
    for kappa, some in runs.items():
        parts += [f"ψ at the end, κ = {kappa:g}:", every_run(some, plan)]
    study.write(out, "gradient_memories", parts, picture(runs[plan.kappa], plan))
    memory_picture(found).savefig(out / "shares.svg")
    for part in parts[: parts.index("## Every run")]:
        click.echo(f"\n{part}")
    click.echo(
        f"\nevery run: {out}/gradient_memories.md; pictures: gradient_memories.svg, shares.svg"
    )


if __name__ == "__main__":
    main()
