"""System -> System: a token system that is used as a function is written out under its name (language §4)."""

from __future__ import annotations

from dataclasses import replace

from nlc.ir.system import Flow, Input, Module, System, Use, Weight
from nlc.ir.types import Dims
from nlc.passes.indices import counted
from nlc.passes.instance import Instance


def use(system: System) -> System:
    """Levels, flows and weights of every used system, its inputs and its output as flows."""
    for name, used in system.uses.items():
        if used.inputs:
            system = _written_out(system, name, used)
    return replace(system, uses={})


def _written_out(system: System, name: str, used: Use) -> System:
    inner = use(used.system)
    taken = {*system.flows, *system.levels, *system.states, *system.modules, *system.weights}
    copy = Instance(inner, name, used.args, used.sizes, taken, system.sizes, used.span)
    flows: dict[str, Flow] = {}
    for item in inner.inputs.values():
        flows |= _input(item, used, copy)
    for flow in inner.flows.values():
        full, owner = copy.names[flow.name], flow.level and copy.names[flow.level]
        flows[full] = Flow(full, copy.expr(flow.expr), used.span, owner, _dims(flow.dims, copy))
    (label, output), first = next(iter(inner.output.items())), next(iter(inner.inputs.values()))
    declared = inner.outputs.get(label)
    if (
        declared is None
        and not inner.outputs
        and not first.head
        and first.name not in counted(inner)
    ):
        declared = first.dims
    flows[name] = Flow(name, copy.expr(output), used.span, None, _dims(declared, copy))
    levels = {copy.names[n]: copy.level(level) for n, level in inner.levels.items()}
    return replace(
        system,
        flows={**flows, **system.flows},
        levels={**system.levels, **levels},
        modules={
            **system.modules,
            **{copy.names[n]: _module(m, copy) for n, m in inner.modules.items()},
        },
        weights={
            **system.weights,
            **{copy.names[n]: _weight(w, copy) for n, w in inner.weights.items()},
        },
    )


def _input(item: Input, used: Use, copy: Instance) -> dict[str, Flow]:
    full = copy.names[item.name]
    return {full: Flow(full, used.inputs[item.name], used.span, None, _dims(item.dims, copy))}


def _dims(dims: Dims | None, copy: Instance) -> Dims | None:
    return None if dims is None else copy.dims(dims)


def _module(m: Module, copy: Instance) -> Module:
    width, rows = (d and d.substitute(copy.sizes) for d in (m.width, m.rows))
    return replace(m, path=copy.names[m.path], width=width, rows=rows, span=copy.span)


def _weight(w: Weight, copy: Instance) -> Weight:
    return replace(
        w,
        path=copy.names[w.path],
        dims=copy.dims(w.dims),
        init=w.init and copy.expr(w.init),
        span=copy.span,
    )
