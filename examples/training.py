"""A training run that may stop anywhere: resumed, it ends with the same model."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from corpus import Corpus, Windows, spread, windows
from language_model import LanguageModel, mixing
from threads import Crowding
from torch import Tensor, nn

import nlc

FORMAT = 1


class RunError(Exception):
    """The run cannot begin or go on; the message says why in one line."""


@dataclass(frozen=True)
class Settings:
    """What decides a run: with equal settings and text it gives the same model."""

    spec: str = "gated_delta_net"
    optimizer: str = "adamw"
    d: int = 128
    heads: int = 4
    layers: int = 2
    hidden: int = 512
    batch: int = 16
    length: int = 128
    steps: int = 1000
    lr: float | None = 4e-3  # None is the optimizer's own
    warmup: float = 0.05  # of the steps; a cosine to a tenth of lr follows
    clip: float = 1.0
    seed: int = 0
    hyper: dict[str, Any] = field(default_factory=dict)
    optimizer_hyper: dict[str, Any] = field(default_factory=dict)

    def rate(self, step: int) -> float:
        """The share of the learning rate that a step uses."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclass
class History:
    """What happened so far, a value a step: bits per byte and seconds; and the held-out looks."""

    bits: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    looks: list[tuple[int, float]] = field(default_factory=list)


class Descent:
    """The optimizer of a model: its rates rise and fall as the settings say, gradients are clipped."""

    def __init__(self, settings: Settings, model: nn.Module, groups: list[dict[str, Any]]) -> None:
        self.settings, self.model = settings, model
        rate = {} if settings.lr is None else {"lr": settings.lr}
        system = nlc.compile(settings.optimizer)
        self.optimizer = system(groups, **rate, **settings.optimizer_hyper)
        self.rates = [
            {name: value for name, value in group.items() if name == "lr" or name.endswith("_lr")}
            for group in self.optimizer.param_groups
        ]

    def step(self, number: int, loss: Tensor) -> bool:
        """One update against the gradient of the loss; none, and False, where that is not finite."""
        share = self.settings.rate(number)
        for group, rates in zip(self.optimizer.param_groups, self.rates, strict=True):
            group.update({name: rate * share for name, rate in rates.items()})
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        if finite := bool(norm.isfinite()):
            self.optimizer.step()
        return finite


class Run:
    """A model, its optimizer and how far they are; ``path`` is where its checkpoint lives."""

    def __init__(self, settings: Settings, corpus: Corpus, path: Path, device: str) -> None:
        corpus.require(settings.batch, settings.length)
        self.settings, self.corpus, self.path = settings, corpus, path
        self.device = torch.device(device)
        self.system, optimizer = nlc.compile(settings.spec), nlc.compile(settings.optimizer)
        torch.manual_seed(settings.seed)
        try:
            mix = mixing(self.system, settings.d, settings.heads, **settings.hyper)
            self.model = LanguageModel(mix, settings.d, settings.layers, settings.hidden)
            self.model.to(self.device)
            groups = self.model.param_groups(_rest(optimizer))
            self.descent = Descent(settings, self.model, groups)
        except (TypeError, ValueError) as error:
            raise RunError(str(error)) from error
        self.optimizer = self.descent.optimizer
        self.windows = Windows(corpus.train, settings.batch, settings.length, settings.seed)
        self.history = History()
        self.identity = {
            "settings": asdict(settings),
            "text": corpus.digest,
            "system": _source_digest(self.system),
            "rule": _source_digest(optimizer),
        }

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.history.bits)

    @property
    def finished(self) -> bool:
        return self.step >= self.settings.steps

    @property
    def seconds(self) -> float:
        return self.history.seconds[-1] if self.history.seconds else 0.0

    @property
    def tokens_a_step(self) -> int:
        return self.settings.batch * self.settings.length

    @property
    def tokens_a_second(self) -> float:
        return self.step * self.tokens_a_step / self.seconds if self.step else 0.0

    def save(self) -> None:
        """Writes the checkpoint; one that is there stays whole until the new one is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": FORMAT,
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": asdict(self.history),
            "rng": torch.get_rng_state(),
        }
        partial = self.path.with_name(self.path.name + ".partial")
        torch.save(content, partial)
        os.replace(partial, self.path)

    def resume(self) -> None:
        """Goes on from the checkpoint, if there is one."""
        if not self.path.exists():
            return
        try:
            content = torch.load(self.path, map_location=self.device, weights_only=True)
            identity = content["identity"] if content["format"] == FORMAT else None
        except Exception as error:
            raise RunError(f"{self.path} is not a checkpoint; --restart begins anew") from error
        if identity != self.identity:
            found = _difference(identity, self.identity)
            raise RunError(f"{self.path} is of another run, --restart begins anew: {found}")
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.history = History(**content["history"])
        torch.set_rng_state(content["rng"].cpu())

    def train_step(self) -> float:
        """One batch, one update; the loss in bits per byte."""
        begun = time.perf_counter()
        loss, _ = self._loss(*self.windows[self.step])
        self.descent.step(self.step, loss)
        bits = loss.item() / math.log(2)
        if not math.isfinite(bits):
            raise RunError(f"the loss is {bits} at step {self.step}: a smaller --lr may help")
        self.history.seconds.append(self.seconds + time.perf_counter() - begun)
        self.history.bits.append(bits)
        return bits

    @torch.no_grad()
    def held_out_bits(self, count: int, pieces: int = 1) -> float:
        """Bits per byte over stretches of the held-out text, each read from an empty state.

        A stretch of several ``pieces``, windows as long as those of the training, is read piece by
        piece, each from the state that the one before left.
        """
        length = self.settings.length
        starts = spread(self.corpus.held_out, count, pieces * length)
        total = 0.0
        for some in starts.split(2 * self.settings.batch):
            inputs, targets = windows(self.corpus.held_out, some, pieces * length)
            state = None
            for pair in zip(inputs.split(length, 1), targets.split(length, 1), strict=True):
                loss, state = self._loss(*pair, state)
                total += loss.item() * len(some)
        return total / pieces / len(starts) / math.log(2)

    def _loss(
        self, inputs: Tensor, targets: Tensor, state: list[Any] | None = None
    ) -> tuple[Tensor, list[Any]]:
        logits, state = self.model(inputs.to(self.device), state)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.to(self.device).flatten())
        return loss, state


def train(
    run: Run,
    on_step: Callable[[Run], None],
    tell: Callable[[str], None] = print,
    *,
    looks: int = 10,
    look_windows: int = 128,
) -> bool:
    """Trains to the last step, saving now and then; False when an interrupt ended it before."""
    every = max(1, run.settings.steps // looks)
    crowding = Crowding()
    with _interrupts() as interrupted:
        while not run.finished and not interrupted.is_set():
            before = run.seconds
            run.train_step()
            on_step(run)
            if run.device.type == "cpu" and crowding.relieve(run.seconds - before):
                tell("other programs hold the cores: going on with one thread")
            if run.step % every == 0 or run.finished:
                run.history.looks.append((run.step, run.held_out_bits(look_windows)))
                run.save()
    if not run.finished:
        run.save()
    return run.finished


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C or a polite kill sets, so that no step is cut in two; a second ends it."""
    asked = threading.Event()

    def ask(_signal: int, _frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rest(optimizer: type[torch.optim.Optimizer]) -> str | None:
    """``rest`` if the optimizer has a rule of that name: one that its ``applies_to`` gives."""
    rules = optimizer([nn.Parameter(torch.empty(0))]).rules
    return "rest" if "rest" in rules else None


def _source_digest(system: type) -> str:
    """Of the generated source: it changes when the spec or the compiler does."""
    return hashlib.sha256(Path(inspect.getfile(system)).read_bytes()).hexdigest()


def _difference(found: dict[str, Any] | None, wanted: dict[str, Any]) -> str:
    """Where two identities differ, in words."""
    if found is None:
        return "an older version wrote it"
    for key, value in wanted["settings"].items():
        if found["settings"].get(key) != value:
            return f"{key} was {found['settings'].get(key)}, now it is {value}"
    if found["text"] != wanted["text"]:
        return "its text was another"
    return "the generated source has changed since"
