"""The numbers of docs/hope.md: how Hope's memories fare without what its spec adds to eq. 88.

Each variant is the shipped spec with one piece of its text replaced, untrained, on two streams:
correlated tokens (one direction and a tenth of noise) and independent ones, N(0, 1) each.

    python benchmarks/hope_numbers.py            # some minutes on one core
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

import nlc
from nlc.pipeline import shipped

VARIANTS = {
    "as shipped": (),
    "v not normalised": (("v: l2norm(anchor(M[v])(z))", "v: anchor(M[v])(z)"),),
    "steps not divided by the chunk": (("lr=eta / size", "lr=eta"),),
    "both": (
        ("v: l2norm(anchor(M[v])(z))", "v: anchor(M[v])(z)"),
        ("lr=eta / size", "lr=eta"),
    ),
    "CMS rates not divided by 1 + ‖k‖²": ((" / (1 + sqnorm(key))", ""),),
}
MARKS = (1000, 4000, 8000, 16000)


def variant(name: str, replacements: Iterable[tuple[str, str]]) -> type[nn.Module]:
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


@torch.no_grad()
def fate(module: nn.Module, x: Tensor, stops: Iterable[int]) -> Iterator[tuple[int, Tensor, dict]]:
    """The stream in pieces: where each ends, its outputs, the state there."""
    state, start = None, 0
    for stop in stops:
        y, state = module(x[:, start:stop], state=state)
        yield stop, y, state
        start = stop


def overflow(module: nn.Module, x: Tensor, piece: int = 50) -> list[int | None]:
    """The first token of each stream whose output is not finite in float32, if any."""
    first: list[int | None] = [None] * len(x)
    length = x.shape[1]
    for stop, y, _ in fate(module, x, range(piece, length + 1, piece)):
        for b, bad in enumerate(~y.isfinite().all(-1)):
            if first[b] is None and bad.any():
                first[b] = stop - piece + int(bad.int().argmax()) + 1
        if None not in first:
            break
    return first


def decays(name: str, seed: int, **sizes: int) -> None:
    """The norm of all weights of the five memories against their start."""
    torch.manual_seed(seed)
    module = variant(name, ())(**sizes).double()
    x = streams(MARKS[-1], sizes["d"], seed)
    keys = [key for key in module.initial_state(x) if key[:2] == "M_" and key[-2:] in ("W1", "W2")]
    size = lambda state: torch.stack([state[k].flatten(1).norm(dim=1) for k in keys]).norm(dim=0)  # noqa: E731
    before = size(module.initial_state(x))
    for stop, _, state in fate(module, x, MARKS):
        ratio = (size(state) / before).tolist()
        least = min(
            (state[k].flatten(1).norm(dim=1) / w).min().item()
            for k, w in zip(keys, [module.initial_state(x)[k].flatten(1).norm(dim=1) for k in keys])
        )
        print(
            f"  {name:13} seed {seed} token {stop:6}: " + "  ".join(f"{r:8.2e}" for r in ratio),
            f" least {least:.2e}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("norm of the weights of M against their start: correlated, independent tokens")
    for name in ("hope", "hope_literal"):
        for seed in range(args.seeds):
            decays(name, seed, d=16, heads=2, expand=2)
    print("first token that overflows float32, of 1,500: correlated, independent tokens")
    for sizes in (dict(d=16, heads=2), dict(d=64, heads=4), dict(d=256, heads=32, expand=2)):
        for what, replacements in VARIANTS.items():
            made = variant("hope", replacements)
            for seed in range(args.seeds):
                torch.manual_seed(seed)
                length = 1500 if sizes["d"] < 256 else 300
                x = streams(length, sizes["d"], seed).float()
                found = overflow(made(**sizes), x)
                print(f"  {sizes} seed {seed} {what:36} {found}", flush=True)


if __name__ == "__main__":
    main()
