"""``nlc.route``: one optimizer of several systems, each for the parameters that its route takes."""

from __future__ import annotations

import copy
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nlc.base.diagnostics import nearest
from nlc.ir.routes import View
from nlc.lib.rules import matches
from nlc.runtime.routes import Route, Trainer, owns
from nlc.runtime.views import rejoined, shown

APART = ("params", "param_names")  # of a group: what is no hyper


@dataclass
class Part:
    """What one route trains: its optimizer, over the parameters or over tensors that show them as its view says."""

    label: str
    made: type
    given: dict[str, Any]  # hypers, as the route says them
    view: View
    rule: str | None  # the route of the system's own that its groups name
    names: list[str]
    optimizer: Optimizer
    shown: list[list[nn.Parameter]]  # of each parameter, if there is a view

    @classmethod
    def of(
        cls,
        label: str,
        made: type,
        given: dict[str, Any],
        view: View,
        rule: str | None,
        named: list[tuple],
        layers: Sequence[nn.Module],
    ) -> Part:
        """ValueError for hypers that the class has not; ``layers`` are watched if it takes samples."""
        _known(label, made, given)
        if view and given.get("differentiable"):
            raise ValueError(f"{label}: a view shows values, so it is not differentiable")
        if view and hasattr(made, "eval"):
            raise ValueError(
                f"{label}: a view shows values, so nothing takes the place of a tensor"
            )
        names, params = [n for n, _ in named], [p for _, p in named]
        seen = [[nn.Parameter(x) for x in shown(p.detach(), view.at({}))] for p in params]
        group = {"params": [x for xs in seen for x in xs] if view else params}
        groups = [group if rule is None else {**group, "rule": rule}]
        watched = [layers] if hasattr(made, "watch") else []
        optimizer = made(groups, *watched, **given)
        return cls(label, made, given, view, rule, names, optimizer, seen if view else [])

    @property
    def watches(self) -> bool:
        """Whether it sees samples of layers."""
        return hasattr(self.made, "watch")

    @property
    def hypers(self) -> dict[str, Any]:
        (group,) = self.optimizer.param_groups
        return {key: x for key, x in group.items() if key not in APART}

    def follow(self, group: dict) -> None:
        """Takes over the hypers of the visible group, but not with what its memories began."""
        (own,) = self.optimizer.param_groups
        own.update({key: group[key] for key in own if key not in (*APART, "lasting")})

    def step(self, group: dict) -> None:
        """One step with the hypers of the visible group."""
        self.follow(group)
        (own,) = self.optimizer.param_groups
        if not self.shown:
            self.optimizer.step()
            group["params"][:] = own["params"]  # new ones, where steps are differentiable
            return
        steps = self.view.at({})
        for name, p, seen in zip(self.names, group["params"], self.shown, strict=True):
            if p.grad is not None and p.grad.is_sparse:
                raise RuntimeError(f"{name}: a view of a parameter needs a dense gradient")
            slopes = [None] * len(seen) if p.grad is None else shown(p.grad, steps)
            for x, data, slope in zip(seen, shown(p.detach(), steps), slopes, strict=True):
                x.data, x.grad = data, slope
        self.optimizer.step()
        for p, seen in zip(group["params"], self.shown, strict=True):
            for x in seen:
                x.grad = None
            if any(_storage(x) != _storage(p) for x in seen):
                p.copy_(rejoined((x.detach() for x in seen), p, steps))

    def state(self, params: list[Tensor]) -> Iterator[tuple[Tensor, dict]]:
        """The memories of every parameter that has some; those of a view by the number of the part."""
        for i, p in enumerate(params):
            if not self.shown:
                found = self.optimizer.state.get(p)
            else:
                states = [self.optimizer.state.get(x) for x in self.shown[i]]
                found = {str(k): x for k, x in enumerate(states) if x}
            if found:
                yield p, found

    def load(self, group: dict, states: dict) -> None:
        """Memories and hypers of a saved group."""
        (own,) = self.optimizer.param_groups
        if group.get("route") != self.label or len(group["params"]) != len(self.names):
            found = f"{len(group['params'])} tensors by {group.get('route')}"
            raise ValueError(f"saved were {found}, here are {len(self.names)} by {self.label}")
        kept: dict[int, dict] = {}
        for number, seen in zip(group["params"], self.shown or [[]] * len(self.names), strict=True):
            saved = states.get(number, {})
            for x in [saved.get(str(k), {}) for k in range(len(seen))] if self.shown else [saved]:
                kept[len(kept)] = x
        numbers = list(range(len(kept)))
        hypers = {key: group.get(key, x) for key, x in own.items() if key not in APART}
        kept = {number: x for number, x in kept.items() if x}
        self.optimizer.load_state_dict(
            {"state": kept, "param_groups": [{**hypers, "params": numbers}]}
        )


class Routed(Optimizer):
    """One group for each route, its hypers those of the route's system, under schedulers as any other's.

    ``str`` of it is the table of what went where.
    """

    def __init__(self, parts: list[Part], params: dict[str, Tensor], left: Sequence[str] = ()):
        self.parts, self.left = parts, tuple(left)
        groups = [
            {"params": [(n, params[n]) for n in x.names], **x.hypers, "route": x.label}
            for x in parts
        ]
        self._ready = False
        super().__init__(groups, {})
        self._ready = True

    def add_param_group(self, param_group: dict) -> None:
        """A group that ``route`` names, with named parameters. ValueError where there is no such route."""
        if not self._ready:  # those of the constructor
            super().add_param_group(param_group)
            return
        label, named = param_group.get("route"), list(param_group["params"])
        like = next((x for x in self.parts if x.label == label), None)
        if like is None:
            known = ", ".join(dict.fromkeys(x.label for x in self.parts))
            raise ValueError(f"there is no route {label!r}; there are {known}")
        given = {k: x for k, x in param_group.items() if k not in ("params", "route")}
        hypers, layers = {**like.given, **given}, [*getattr(like.optimizer, "hooks", ())]
        part = Part.of(label, like.made, hypers, like.view, like.rule, named, layers)
        super().add_param_group({"params": named, **part.hypers, "route": label})
        self.parts.append(part)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every route; ``closure`` computes the loss anew, once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf = getattr(self, "found_inf", None)  # GradScaler puts it here, and takes it away
        if found_inf is not None and not self._unscaled(found_inf):
            return loss
        for part, group in zip(self.parts, self.param_groups, strict=True):
            if found_inf is None or not part.watches:
                part.step(group)
                continue
            part.optimizer.grad_scale, part.optimizer.found_inf = self.grad_scale, found_inf
            try:
                part.step(group)
            finally:
                del part.optimizer.grad_scale, part.optimizer.found_inf
        self._link()
        return loss

    def _unscaled(self, found_inf: Tensor) -> bool:
        """Undoes a GradScaler's scale but of routes that see samples, which do so themselves.

        False where it found gradients that are not finite, of whichever route: then none makes a step.
        """
        if self.grad_scale is None:
            raise RuntimeError("unscale_ leaves the samples scaled: let GradScaler.step undo it")
        if found_inf.item():
            for part in self._watching:
                part.optimizer.forget()
            return False
        for part, group in zip(self.parts, self.param_groups, strict=True):
            for p in () if part.watches else group["params"]:
                if p.grad is not None:
                    p.grad.div_(self.grad_scale)
        return True

    def eval(self) -> None:
        """Puts what is evaluated in the place of what is trained, of the routes that know another tensor."""
        self._switch("eval")

    def train(self) -> None:
        """Puts back what ``eval()`` took away."""
        self._switch("train")

    def _switch(self, how: str) -> None:
        for part, group in zip(self.parts, self.param_groups, strict=True):
            if hasattr(part.made, how):
                part.follow(group)
                getattr(part.optimizer, how)()
        self._link()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's; samples of layers go with the gradients."""
        super().zero_grad(set_to_none)
        for part in self._watching:
            part.optimizer.forget()

    @property
    def _watching(self) -> list[Part]:
        return [x for x in self.parts if x.watches]

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """What GradScaler asks for: samples are scaled as well as gradients."""
        return bool(self._watching)

    def _link(self) -> None:
        self.state.clear()
        for part, group in zip(self.parts, self.param_groups, strict=True):
            self.state.update(part.state(group["params"]))
            group.update({k: x for k, x in part.hypers.items() if k == "lasting"})  # to be saved

    def load_state_dict(self, state_dict: dict) -> None:
        """ValueError for the state of other routes."""
        saved = state_dict["param_groups"]
        if len(saved) != len(self.parts):
            raise ValueError(f"saved were {len(saved)} routes, here are {len(self.parts)}")
        for part, group, old in zip(self.parts, self.param_groups, saved, strict=True):
            part.load(old, state_dict["state"])
            more = {key: copy.deepcopy(x) for key, x in old.items() if key not in APART}
            group.update({**more, **part.hypers})
        self._link()

    def __getstate__(self) -> dict:
        own = {"parts": self.parts, "left": self.left, "_ready": True}
        return {**super().__getstate__(), **own}

    def __str__(self) -> str:
        rows = [("tensors", "shape", "seen as", "system", "lr", "other hypers", "numbers")]
        for part, group in zip(self.parts, self.param_groups, strict=True):
            told = ", ".join(f"{k}={x}" for k, x in part.given.items() if k != "lr")
            lr = f"{float(group['lr']):g}" if "lr" in group else ""
            named = zip(part.names, group["params"], strict=True)
            shapes = {n: (str(list(p.shape)), _seen_as(p, part)) for n, p in named}
            numbers = dict(zip(part.names, (p.numel() for p in group["params"]), strict=True))
            for text, names in _alike(part.names, shapes):
                size = f"{sum(numbers[n] for n in names):,}"
                rows.append((text, *shapes[names[0]], part.label, lr, told, size))
        for text, _ in _alike(self.left, {}):
            rows.append((text, "", "", "not trained", "", "", ""))
        kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
        wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        align = lambda i, x: x.rjust(wide[i]) if i == len(wide) - 1 else x.ljust(wide[i])  # noqa: E731
        return "\n".join("  ".join(align(i, row[i]) for i in kept).rstrip() for row in rows)

    __repr__ = __str__


def _seen_as(p: Tensor, part: Part) -> str:
    """``split(0, 2): 2 × [6, 6]``; a view within the system's own route is that of its class."""
    rule = getattr(part.optimizer, "rules", {}).get(part.rule)
    own = rule.view(**part.hypers) if hasattr(rule, "view") else ()
    if not part.view and not own:
        return ""
    parts = shown(p.detach(), (*part.view.at({}), *own))
    shapes = dict.fromkeys(str(list(x.shape)) for x in parts)
    return f"{len(parts)} × {' '.join(shapes)}" if len(parts) > 1 else " ".join(shapes)


def _alike(names: Iterable[str], apart: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Names that differ in numbers as one, with their count; those with other values stand ``apart``."""
    found: dict[tuple, list[str]] = {}
    for n in names:
        text = re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", n)
        found.setdefault((text, apart.get(n)), []).append(n)
    return [(f"{t} ({len(x)})" if len(x) > 1 else x[0], x) for (t, _), x in found.items()]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(text for text, _ in _alike(names, {}))


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def routed(model: nn.Module, *routes: Any, rest: Any, tell: Callable[[str], None] | None) -> Routed:
    """``nlc.route``."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"nlc.route takes a torch.nn.Module, whose parameters it finds, not a {type(model).__name__}"
        )
    whole = dict(model.named_parameters())
    named = {n: p for n, p in whole.items() if p.requires_grad}
    left = [n for n in whole if n not in named]
    owners: dict[int, list[type]] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            owners.setdefault(id(p), []).append(type(module))
    linear = {f"{n}.weight" if n else "weight": m for n, m in model.named_modules()}
    layers = {n for n, m in linear.items() if isinstance(m, nn.Linear)}
    asked = [x if isinstance(x, Route) else Route(x) for x in (*routes, rest) if x is not None]
    trainers = [Trainer.of(x.system, x.hypers) for x in asked]
    taken: dict[str, tuple[int, str]] = {}
    for i, (x, trainer) in enumerate(zip(asked, trainers, strict=True)):
        _each_finds(x, named, owners)
        last = i == len(routes)
        meets = [n for n, p in named.items() if x.meets(n, p, owners[id(p)])]
        own = {n: owners[id(named[n])] for n in meets}
        fits = {n: _fits(n, named[n], x, trainer, own[n], last, n in layers) for n in meets}
        fits = {n: route for n, route in fits.items() if route is not None}
        mine = {n: (i, route) for n, route in fits.items() if n not in taken}
        if not mine and not last:
            why = "no parameter meets all that it asks for"
            why = f"it is not for {_listed(meets)}" if meets else why
            why = f"{_listed(fits)} went to an earlier one" if fits else why
            raise ValueError(f"route {i + 1}, {trainer.name}, takes nothing: {why}")
        taken |= mine
    lost = [f"{n} {list(p.shape)}" for n, p in named.items() if n not in taken]
    if lost:
        shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        raise ValueError(f"no route takes {shown}; `rest=` says what trains them")
    labels: Counter[str] = Counter()
    parts = []
    for i, own in _in_order(taken.values(), trainers):
        label, system, given, view, rule = trainers[i].trains(own)
        labels[label] += 1
        again = f"-{labels[label]}" if labels[label] > 1 else ""
        mine = [(n, p) for n, p in named.items() if taken[n] == (i, own)]
        both = View(f"{asked[i].view.text} {view.text}".strip(), asked[i].view.steps + view.steps)
        parts.append(Part.of(label + again, system, given, both, rule, mine, [model]))
    made = Routed(parts, named, left)
    if tell is not None:
        tell(str(made))
    return made


def _in_order(found: Iterable[tuple[int, str]], trainers: list[Trainer]) -> list[tuple[int, str]]:
    """Routes in the order of their asking, those of one system in the order of its spec."""
    order = {(i, own): n for i, t in enumerate(trainers) for n, own in enumerate(["", *t.routes])}
    return sorted({*found}, key=lambda x: (x[0], order[x]))


def _fits(
    name: str, p: Tensor, x: Route, trainer: Trainer, owners: list[type], last: bool, layer: bool
) -> str | None:
    """The route of its own by which a system takes all that it would see of a parameter.

    Samples are those of a weight as it is.
    """
    if trainer.watches and x.view:
        raise ValueError(f"{trainer.name} takes samples of layers, of which no view shows a part")
    try:
        return trainer.route_of(p.detach(), x.view, name, owners, whole=last, layer=layer)
    except IndexError:
        return None
    except ValueError as error:
        text = f"{x.view.text}: {error}" if x.view else str(error)
        raise ValueError(f"{name}: {text}") from None


def _each_finds(x: Route, named: dict[str, Tensor], owners: dict[int, list[type]]) -> None:
    """ValueError for a pattern or a class that finds no parameter."""
    for pattern in x.names:
        if not any(matches(pattern, n) for n in named):
            said = pattern if isinstance(pattern, str) else pattern.pattern
            close = nearest(said, named)
            hint = f"; did you mean {close!r}?" if close else ""
            raise ValueError(f"the pattern {said!r} finds no parameter{hint}")
    for kind in x.modules:
        if not any(owns(kind, t) for p in named.values() for t in owners[id(p)]):
            known = dict.fromkeys(t.__name__ for p in named.values() for t in owners[id(p)])
            said = kind if isinstance(kind, str) else kind.__name__
            raise ValueError(f"no parameter belongs to a {said}, but to {', '.join(known)}")


def _known(label: str, made: type, hypers: dict[str, Any]) -> None:
    known = [x for x in list(inspect.signature(made.__init__).parameters)[2:] if x != "layers"]
    for name in hypers:
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {close!r}?" if close else f"there are {', '.join(known)}"
            raise ValueError(f"{label} has no hyper {name!r}; {hint}")
