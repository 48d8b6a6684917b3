"""What every generated optimizer does for its groups and tensors, as text: ``torch.optim``'s contract.

Lines that begin with ``fused:`` are there only in files that have a compiled form, with ``joins:`` only where a rule
can take tensors together, with ``apart:`` where one takes matrices each in its place, with ``rows:`` where none does,
with ``kernels:`` only where one is a kernel, with ``asked:`` only where routes ask for more
than a tensor shows, with ``named:`` only where they go by names, with ``layers:`` only where samples of linear layers
are captured, with ``alone:`` where only their weights are trained, with ``plain:`` where none are, with ``evaluated:``
where another tensor is evaluated than is trained, with ``lasting:`` where hypers are sizes or periods of memories, with
``picky:`` where some tensors are taken by no rule, with ``bounded:`` where steps say what hypers must be; two such
words are both asked. CLASS is the name of the class.
"""

from __future__ import annotations

# Arguments of the constructor that are no hypers: type and default, and what the documentation says.
OPTIONS: dict[str, tuple[str, str]] = {
    "maximize": ("bool = False", "climb the loss instead of descending it."),
    "capturable": (
        "bool = False",
        "keep numbers and counts on the device: a step never waits for it, and a CUDA graph or a"
        " compiled step goes on under a schedule. Change a number by ``group[...].fill_``.",
    ),
    "differentiable": (
        "bool = False",
        "keep the graph: a step puts new tensors into ``param_groups``, functions of the old ones,"
        " of the gradients and of the numbers that are tensors.",
    ),
    "state_dtype": (
        "torch.dtype | None = None",
        "of the memories; None: that of the parameter, but float32 for half precision.",
    ),
    "rounding_seed": (
        "int | None = None",
        "parameters in half precision are rounded up or down by chance, right on average, from this"
        " seed; None: to the nearest number.",
    ),
}

MATRICES = (
    "torch.dtype | None = None",
    "in which ``newton_schulz`` multiplies, such as torch.bfloat16 on a GPU; None: as the spec says.",
)

WATCHED = (
    "nn.Module | Iterable[nn.Module]",
    "the model, or some of its modules: hooks on each ``nn.Linear`` in them capture what goes in and the gradient at"
    " what comes out. ``watch`` adds more, ``unwatch`` ends it.",
)

GROUPS = '''
def add_param_group(self, param_group: dict) -> None:
    """Adds a group. ValueError for an unknown rule, hypers that it lacks, a wrong period."""
    rule = param_group.get("rule")
    if isinstance(rule, type):
        name = f"{rule.__module__}.{rule.__qualname__}"  # state_dict holds names only
        self.rules[name] = rule
        param_group = {**param_group, "rule": name}
        missing = [key for key in rule.HYPERS if key not in {**self.defaults, **param_group}]
        if missing:
            raise ValueError(f"the rule {name} needs {missing} in its group")
    self.check_group({**self.defaults, **param_group})
bounded:    self.check_bounds({**self.defaults, **param_group})
    super().add_param_group(param_group)
guarded:    try:
asked:        self.check_routes(self.param_groups[-1])
picky:        self.check_shapes(self.param_groups[-1])
guarded:    except ValueError:
guarded:        self.param_groups.pop()
guarded:        raise
    self.settle(self.param_groups[-1])
alone:    self.find_rules(self.param_groups[-1])

def load_state_dict(self, state_dict: dict) -> None:
    """As torch's, but memories keep formats. ValueError for rules or memories not of here."""
    saved = state_dict["param_groups"]
    for group in saved:
        self.check_group({**self.defaults, **group})
    before = self.state, self.param_groups
    super().load_state_dict(state_dict)
    try:
        self.check_states()
    except ValueError:
        self.state, self.param_groups = before
        raise
    for group, old in zip(self.param_groups, saved, strict=True):
        self.settle(group)
asked:        self.check_routes(group)
        for W, i in zip(group["params"], old["params"], strict=True):
            for key, x in state_dict["state"].get(i, {}).items():
                if isinstance(x, Tensor):
                    self.state[W][key] = x.to(W.device, copy=True)

picky:def check_shapes(self, group: dict) -> None:
picky:    """ValueError for a tensor that no rule takes; a frozen one needs none."""
picky:    for i, W in enumerate(group["params"]):
picky:        if not W.requires_grad:
picky:            continue
picky:        rule = self.rule_of(i, group)
picky:        if W.ndim != 2 and getattr(rule, "MATRICES", False):
picky:            found = f"takes matrices, found a parameter of shape {list(W.shape)}"
picky:            raise ValueError(f"{rule.__name__} {found} ({declared(rule, 'W')})")
picky:
lasting:def check_lasting(self, group: dict) -> None:
lasting:    """ValueError for a size or a period that is another than when its memories began."""
lasting:    names = {n for rule in self.rules.values() for n in getattr(rule, "LASTING", ())}
lasting:    now = {name: group[name] for name in sorted(names) if name in group}
lasting:    begun = group.setdefault("lasting", now)
lasting:    if begun == now:
lasting:        return
lasting:    if any(self.state.get(W) for W in group["params"]):
lasting:        name = next(name for name in now if now[name] != begun.get(name))
lasting:        said = f"{name} was {begun.get(name)} when the memories of this group began"
lasting:        raise ValueError(f"{said}, not {now[name]} ({declared(self, name)})")
lasting:    group["lasting"] = now
lasting:
def check_states(self) -> None:
    """ValueError for memories that another optimizer keeps, or of tensors of other shapes."""
    for group in self.param_groups:
lasting:        self.check_lasting(group)
        for i, W in enumerate(group["params"]):
            kept = self.state.get(W)
            rule = self.rule_of(i, group) if kept else None
            if rule is None:
                continue
            given = {key: group[key] for key in rule.HYPERS}
            given = {k: x.to("meta") if isinstance(x, Tensor) else x for k, x in given.items()}
            for key, x in rule.initial_state(W.detach().to("meta"), **given).items():
                shape = list(getattr(kept.get(key), "shape", []))
                if key in kept and (not isinstance(x, Tensor) or list(x.shape) == shape):
                    continue
                found = f"lacks {key!r}, and has {', '.join(map(repr, kept))}"
                if key in kept:
                    found = f"has {key!r} of shape {shape}, not {list(x.shape)}"
                said = f"the state of a tensor {list(W.shape)} {found}"
                raise ValueError(f"{said}: it is of another optimizer ({declared(rule, key)})")

def check_group(self, group: dict) -> None:
    """ValueError for what this optimizer cannot do; TypeError for a hyper that is no number."""
    rule, period = group["rule"], group["period"]
    if rule is not None and rule not in self.rules:
        raise ValueError(f"there is no rule {rule!r} among {[*filter(None, self.rules)]}")
    if not isinstance(period, int) or period < 1:
        raise ValueError(f"period = {period} must be a whole number, at least 1")
sizes:    whole_sizes(self, **{k: group[k] for k, x in self.HYPERS.items() if x is int})
numbers:    plain_numbers(self, **{k: group[k] for k, x in self.HYPERS.items() if x is float})
numbers:    for k in self.HYPERS:
numbers:        if isinstance(group[k], float) and group[k] != group[k]:
numbers:            raise ValueError(f"{k} is not a number ({declared(self, k)})")
    if group["capturable"] and (period > 1 or group["rounding_seed"] is not None):
        raise ValueError("periods and roundings are counted in Python, so not with capturable")
    clash = group["capturable"] or group["rounding_seed"] is not None
fused:    clash = clash or group["fused"]
    if group["differentiable"] and clash:
        raise ValueError("differentiable goes with none of capturable, rounding_seed and fused")

bounded:def check_bounds(self, group: dict) -> None:
bounded:    """ValueError for given hypers; a state is loaded as a schedule left it."""
bounded:    rule = group["rule"]
bounded:    own = [x for name, x in self.rules.items() if "." not in str(name)]  # not of other systems
bounded:    for made in own if rule is None else [self.rules[rule]]:
bounded:        if hasattr(made, "check_hypers"):
bounded:            made.check_hypers(**{key: group[key] for key in made.HYPERS})
bounded:
def settle(self, group: dict) -> None:
    """Numbers on the device, where steps are captured."""
    brought = self.rules[group["rule"]].HYPERS if group["rule"] is not None else {}
    for key, kind in {**self.HYPERS, **brought}.items():
        if group["capturable"] and kind is float and group["params"]:
            number = torch.as_tensor(group[key], dtype=torch.float64)
            group[key] = number.to(group["params"][0].device)
lasting:    self.check_lasting(group)

def __getstate__(self) -> dict:
plain:    return {**super().__getstate__(), "rules": self.rules}
layers:    kept = {"rules": self.rules, "names": self.names, "hooks": {}}
layers:    return {**super().__getstate__(), **kept, "samples": {W: [] for W in self.samples}}

def __setstate__(self, state: dict) -> None:
    super().__setstate__(state)
    for group in self.param_groups:
        group.update({**self.defaults, **group})  # options that were not saved
'''

NAMES = '''
def check_routes(self, group: dict) -> None:
    """ValueError for parameters of which a route cannot be told."""
    if group["rule"] is not None:
        return
    if "param_names" not in group:
        where = "WHERE"
        raise ValueError(
            f"{where} goes by name, and these parameters have none: give model.named_parameters(),"
            " or let nlc.route(model, rest=...) take them from it"
        )
    group["routes"] = [self.route_in(i, group) for i in range(len(group["params"]))]

def unused(self) -> list[str]:
    """The routes by name that take no parameter, where not all groups name theirs."""
    taken = [group.get("routes", [group["rule"]]) for group in self.param_groups]
    if all(group["rule"] is not None for group in self.param_groups):
        return []
    return [route for route in ROUTES if all(route not in x for x in taken)]
'''

MODULES = '''
def check_routes(self, group: dict) -> None:
    """ValueError for parameters of which a route cannot be told."""
    if group["rule"] is None:
        where = "WHERE"
        raise ValueError(
            f"{where} goes by module, which a parameter does not know: let nlc.route(model,"
            " rest=...) take it from the model"
        )
'''

EVALUATION = '''
@torch.no_grad()
def eval(self) -> None:
    """Puts what is evaluated into every tensor that has made a step, until ``train()``."""
    for group in self.param_groups:
        for i, W in enumerate(group["params"]):
            state, rule = self.state.get(W, {}), self.rule_of(i, group)
            if "in training" in state or not state or not hasattr(rule, "evaluated"):
                continue
            given = {key: group[key] for key in rule.HYPERS}
            dtype = computed_in(W, group)
            memory = {key: widened(x, dtype) for key, x in state.items()}
            value = rule.evaluated(W.to(dtype), memory, **given)
            state["in training"] = W.detach().clone()
            W.copy_(value)

@torch.no_grad()
def train(self) -> None:
    """Puts the tensors back that ``eval()`` took away."""
    for W, state in self.state.items():
        if "in training" in state:
            W.copy_(state.pop("in training"))
'''

STEP = '''
@torch.no_grad()
fused:@in_passes
def step(self, closure: Callable[[], float] | None = None) -> float | None:
    """One step of every tensor that has a gradient; ``closure`` computes the loss anew."""
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
layers:    if getattr(self, "found_inf", None) is not None and not self.unscaled():
layers:        return loss
named:    if not self.state:
named:        for route in self.unused():
named:            warnings.warn(f"route {route} of CLASS takes no parameter", stacklevel=2)
    for group in self.param_groups:
lasting:        self.check_lasting(group)
joins:        together = {}
kernels:        launches = {}
        for i, W in enumerate(group["params"]):
            if W.grad is None:
                continue
            if W.is_complex() or W.grad.is_sparse:
                kind = "complex parameters" if W.is_complex() else "sparse gradients"
                where = declared(self, "W")
                raise RuntimeError(f"CLASS does not take {kind} ({where})")
evaluated:            if "in training" in self.state.get(W, ()):
evaluated:                said = "what is evaluated stands in the tensors"
evaluated:                raise RuntimeError(f"{said}: call train() before step()")
            rule = self.rule_of(i, group)
kernels:            key = self.launches(W, group, rule)
kernels:            if key is not None:
kernels:                launches.setdefault(key, []).append(W)
kernels:                continue
joins:            key = self.joins(W, group, rule)
joins:            if key is not None:
joins:                together.setdefault(key, []).append(W)
joins:                continue
            with torch.set_grad_enabled(group["differentiable"]):
                new = self.stepped(W, group, rule)
            if new is not W:
                group["params"][i] = new
                self.state[new] = self.state.pop(W)
layers:                self.samples[new] = self.samples.pop(W, [])
kernels:        for (rule, *_), tensors in launches.items():
kernels:            self.launched(rule, tensors, group)
joins:        for (rule, *_), tensors in together.items():
joins:            for some in portions(tensors):
joins:                if len(some) > 1:
joins:                    self.stepped_as_one(rule, some, group)
joins:                else:
joins:                    self.stepped(some[0], group, rule)
layers:    self.forget()
    return loss

joins:def joins(self, W: Tensor, group: dict, rule: type) -> tuple | None:
joins:    """What tensors have in common that make a step as one; None for one that makes its own."""
joins:    if not hasattr(rule, "STACKS") or self.error_if_nonfinite:
joins:        return None
joins:    if W.numel() >= (LARGE if rule.STACKS else SMALL):
joins:        return None
joins:    state = self.state.get(W)
joins:    started = state is not None and (state or not rule.KEEPS)
joins:    if not started:
joins:        return None
joins:    alone = group["capturable"] or group["differentiable"] or group["period"] > 1
joins:    alone = alone or bool(state.get("gradients"))
joins:    if alone or group["rounding_seed"] is not None or type(W) not in PLAIN:
joins:        return None
joins:    counts = [x for x in state.values() if not isinstance(x, Tensor)]
joins:    return rule, W.dtype, W.device, W.shape if rule.STACKS else None, *state, *counts
joins:
joins:def stepped_as_one(self, rule: type, tensors: list[Tensor], group: dict) -> None:
joins:    """A step of tensors that are joined for it, where calls would cost more than copies."""
joins:    given, states = {key: group[key] for key in rule.HYPERS}, [self.state[W] for W in tensors]
joins:    dtype, memory = computed_in(tensors[0], group), dict(states[0])
joins:    own = {key: [state[key] for state in states] for key in memory}
joins:    own = {key: x for key, x in own.items() if isinstance(x[0], Tensor)}  # not counts
joins:    own[None] = tensors
joins:apart:    apart = rule.STACKS and calls_are_cheap(tensors)
joins:apart:
joins:apart:    def together(key: str | None, some: list[Tensor]) -> Tensor | Matrices:
joins:apart:        if apart and key not in rule.WHOLE:
joins:apart:            return Matrices(widened(x, dtype) for x in some)
joins:apart:        return widened(joined(some, rule.STACKS), dtype)
joins:apart:
joins:    slopes = [-W.grad if group["maximize"] else W.grad for W in tensors]
joins:apart:    g = together("g", slopes)
joins:apart:    memory |= {key: together(key, x) for key, x in own.items()}
joins:rows:    g = widened(joined(slopes, rule.STACKS), dtype)
joins:rows:    memory |= {key: widened(joined(x, rule.STACKS), dtype) for key, x in own.items()}
joins:fused:    if group["fused"] and hasattr(rule, "advance") and sum(W.numel() for W in tensors) >= CALL:
joins:fused:        given["run"] = one_pass
joins:    new = rule.update(memory.pop(None), g, memory, **given)
joins:    for key, x in {None: new, **memory}.items():
joins:        if key in own:
joins:            parted(x, own[key])
joins:            continue
joins:        for state in states:
joins:            state[key] = x
joins:
fused:def runner(self, W: Tensor, group: dict, rule: type) -> Callable | None:
fused:    """What makes the step of one tensor; None where it is done in place, in blocks."""
fused:    if group["fused"] and W.numel() >= CALL:
fused:        formats = {x.dtype for x in (W, *self.state[W].values()) if isinstance(x, Tensor)}
fused:        whole = getattr(rule, "STACKS", None) is False  # one region, of which nothing is read
fused:        waits = whole and formats == {computed_in(W, group)} and not self.error_if_nonfinite
fused:        return self.passes if waits else one_pass
fused:    return out_of_place if group["capturable"] or group["differentiable"] else None
fused:
def stepped(self, W: Tensor, group: dict, rule: type) -> Tensor:
    """W after one step: W itself, or a new tensor where steps are differentiable."""
    state = self.state[W]
    given = {key: group[key] for key in rule.HYPERS}
    dtype = computed_in(W, group)
layers:    samples = self.samples_of(W, dtype) if rule is type(self) else {}
layers:    if samples is None:
layers:        return W
    if not state:
        state.update(rule.initial_state(W.to(dtype), **given))
        for key, x in state.items():
            if isinstance(x, Tensor):
                state[key] = x.to(group["state_dtype"] or x.dtype)
            elif group["capturable"]:
                state[key] = W.new_full((), x, dtype=torch.float64)
    g = (-W.grad if group["maximize"] else W.grad).to(dtype)
    if group["period"] > 1 or state.get("gradients"):
layers:        samples = so_far(samples, state, group["period"])
        g = gathered(g, state, group["period"])
        if g is None:
            return W
layers:    if samples:
layers:        count = len(samples["x"])
layers:        samples["delta"] = samples["delta"] * (-count if group["maximize"] else count)
    if self.error_if_nonfinite:
plain:        all_finite(rule, g=g)
layers:        all_finite(rule, g=g, **samples)
fused:    if hasattr(rule, "advance"):
fused:        given["run"] = self.runner(W, group, rule)
    memory = {key: widened(x, dtype) for key, x in state.items()}
plain:    new = rule.update(W.to(dtype), g, memory, **given)
layers:    new = rule.update(W.to(dtype), g, memory, **given, **samples)
    if self.error_if_nonfinite:
        all_finite(rule, **memory, W=new)
    for key, x in memory.items():
        old = state.get(key)
        if not isinstance(old, Tensor):
            state[key] = x
        elif x is not old:
            state[key] = old.copy_(x) if group["capturable"] else x.to(old.dtype)
    if group["differentiable"]:
        return new.to(W.dtype)
    if group["rounding_seed"] is not None and W.dtype != dtype:
        seed = state.get("seed", group["rounding_seed"] + len(self.state))
        state["seed"] = following(seed)
        new = rounded(new, W.dtype, seed)
    return W if new is W else W.copy_(new)
'''

LAYERS = '''
_step_supports_amp_scaling = True  # what GradScaler asks for: samples are scaled too

def watch(self, layers: nn.Module | Iterable[nn.Module]) -> None:
    """Hooks on every ``nn.Linear`` in these modules, which capture its samples."""
    for module in (m for root in several(layers) for m in root.modules()):
        if isinstance(module, nn.Linear) and module not in self.hooks:
            self.samples.setdefault(module.weight, [])
            self.hooks[module] = module.register_forward_hook(self.capture)

def unwatch(self) -> None:
    """Takes the hooks away, and the samples."""
    for hook in self.hooks.values():
        hook.remove()
    self.hooks.clear()
    self.forget()

alone:def find_rules(self, group: dict) -> None:
alone:    """ValueError for parameters that nothing here trains."""
alone:    params = group["params"]
alone:    lost = [W for i, W in enumerate(params) if self.rule_of(i, group) is None]
alone:    if lost:
alone:        self.param_groups.pop()
alone:        named = ", ".join(self.names.get(W, f"one of shape {list(W.shape)}") for W in lost)
alone:        raise ValueError(f"CLASS trains the weights of linear layers that it watches, not {named}")
alone:
def forget(self) -> None:
    """No samples, as before the forward pass."""
    for found in self.samples.values():
        found.clear()

def zero_grad(self, set_to_none: bool = True) -> None:
    """As torch's; samples go with the gradients."""
    super().zero_grad(set_to_none)
    self.forget()

def capture(self, module: nn.Linear, args: tuple[Tensor, ...], y: Tensor) -> None:
    """Keeps what goes in and, on the way back, the gradient of what comes out; not in eval."""
    if not module.training or not y.requires_grad or not module.weight.requires_grad:
        return
    (x,), found = args, self.samples.setdefault(module.weight, [])

    def keep(slope: Tensor) -> None:
        pair = (x, slope) if slope.requires_grad else (x.detach(), slope)
        found.append([z.reshape(-1, z.shape[-1]) for z in pair])

    y.register_hook(keep)

def samples_of(self, W: Tensor, dtype: torch.dtype) -> dict[str, Tensor] | None:
    """x [N, in] and delta [N, out] since the last step; None for a layer that was not used.

    A rule is given N times this delta, so that the mean of delta xᵀ is the gradient by W: where
    the loss is a mean over samples, that is the gradient of each one's own loss.
    """
    found = self.samples.get(W)
    if not found:
        if not W.grad.any():
            return None
        name = self.names.get(W, f"a weight of shape {list(W.shape)}")
        raise RuntimeError(
            f"{name} has a gradient but no samples ({declared(self, 'W')}): its layer is not"
            " watched, or was in eval(), or not called as a module; or a step has used them up"
        )
    x, delta = (torch.cat([z.to(dtype) for z in parts]) for parts in zip(*found, strict=True))
    if getattr(self, "grad_scale", None) is not None:
        delta = delta / self.grad_scale
    return {"x": x, "delta": delta}

def unscaled(self) -> bool:
    """Undoes a GradScaler's scale; False where it found gradients that are not finite."""
    if self.grad_scale is None:
        raise RuntimeError("unscale_ leaves the samples scaled: let GradScaler.step undo it")
    if self.found_inf.item():
        self.forget()
        return False
    for W in (W for group in self.param_groups for W in group["params"] if W.grad is not None):
        W.grad.div_(self.grad_scale)
    return True
'''
