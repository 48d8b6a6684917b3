"""The numbers of docs/hope.md: how Hope fares without what its spec adds to the equations.

Each variant is the shipped spec with a piece of its text replaced, untrained, on two streams:
correlated tokens (one direction and a tenth of noise) and independent ones, N(0, 1) each.

    python benchmarks/hope_numbers.py --part decay
    python benchmarks/hope_numbers.py --part growth
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

import nlc
from nlc.pipeline import shipped

LONG_VALUE = ("v: l2norm(anchor(M[v])(z))", "v: anchor(M[v])(z)")
WHOLE_STEP = ("lr=eta / size", "lr=eta")
PLAIN_RATE = (" / (1 + sqnorm(key))", "")
VARIANTS = {
    "as shipped": (),
    "v of any length": (LONG_VALUE,),
    "η not divided by the chunk": (WHOLE_STEP,),
    "both": (LONG_VALUE, WHOLE_STEP),
    "CMS rates not divided by 1 + ‖k‖²": (PLAIN_RATE,),
}
SIZES = {  # how wide, and for how many tokens
    "16 dims, 2 heads": (dict(d=16, heads=2), 1500),
    "64 dims, 4 heads": (dict(d=64, heads=4), 1500),
    "256 dims, 32 heads": (dict(d=256, heads=32, expand=2), 300),
}
MARKS = (1000, 4000, 8000, 16000)


def variant(name: str, *replacements: tuple[str, str]) -> type[nn.Module]:
    """A shipped spec with other text. ValueError if it does not say what is to be replaced."""
    text = shipped()[name].read_text()
    for old, new in replacements:
        if old not in text:
            raise ValueError(f"{name} does not say {old!r}")
        text = text.replace(old, new)
    return nlc.loads(text).compile()


def streams(length: int, d: int, seed: int) -> Tensor:
    """[2, length, d]: correlated tokens, independent tokens."""
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(2, length, d, generator=generator, dtype=torch.float64)
    return torch.stack([x[0, :1] + 0.1 * x[0], x[1]])


def norms(state: dict[str, Tensor], prefixes: str) -> Tensor:
    """[memories, 2]: the norm of each weight of the memories whose names start so, for each stream."""
    named = {key: key.removeprefix("cms.") for key in state if key.split(".")[-1] in ("W1", "W2")}
    keys = [key for key, name in named.items() if name[0] in prefixes]
    return torch.stack([state[key].flatten(1).norm(dim=1) for key in keys])


@torch.no_grad()
def pieces(
    module: nn.Module, x: Tensor, stops: Iterable[int]
) -> Iterator[tuple[int, Tensor, dict]]:
    """A stream up to each stop in turn: its outputs there, and the state."""
    state, start = None, 0
    for stop in stops:
        y, state = module(x[:, start:stop], state=state)
        yield stop, y, state
        start = stop


def decay(seed: int) -> None:
    """All weights of the five memories together: their norm against the start, in float64."""
    for name in ("hope", "hope_literal"):
        made = variant(name)
        torch.manual_seed(seed)
        module = made(d=16, heads=2, expand=2).double()
        x = streams(MARKS[-1], 16, seed)
        begun = norms(module.initial_state(x), "M").norm(dim=0)
        for stop, _, state in pieces(module, x, MARKS):
            ratios = norms(state, "M").norm(dim=0) / begun
            cells = " | ".join(f"{ratio:.1e}" for ratio in ratios.tolist())
            print(f"| {name} | {seed} | {stop} | {cells} |", flush=True)


def growth(seed: int, piece: int = 50) -> None:
    """The first token whose output is not finite in float32; else the least and largest growth of a weight."""
    for size, (sizes, length) in SIZES.items():
        for what, replacements in VARIANTS.items():
            made = variant("hope", *replacements)
            torch.manual_seed(seed)
            module = made(**sizes)
            x = streams(length, sizes["d"], seed).float()
            begun, first = norms(module.initial_state(x), "MC"), [0, 0]
            for stop, y, state in pieces(module, x, range(piece, length + 1, piece)):
                for b, bad in enumerate(~y.isfinite().all(-1)):
                    if not first[b] and bad.any():
                        first[b] = stop - piece + 1 + int(bad.int().argmax())
                ratios = norms(state, "MC") / begun
            ends = zip(first, ratios.amin(0).tolist(), ratios.amax(0).tolist())
            cells = [f"token {t}" if t else f"{a:.2f} to {b:.2f}" for t, a, b in ends]
            print(f"| {size} | {what} | {seed} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=["decay", "growth"], required=True)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        {"decay": decay, "growth": growth}[args.part](seed)


if __name__ == "__main__":
    main()
