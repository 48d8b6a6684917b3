"""A token system as an ``nn.Module``: forward over [B, T, ...], a streaming ``state``, and ``step`` for one token."""

from __future__ import annotations

from dataclasses import replace

from nlc.backends.printed import Printed
from nlc.backends.reference import hypers
from nlc.backends.reference.body import BodyWriter
from nlc.backends.reference.file import (
    PartNames,
    attribute_name,
    attribute_path,
    class_doc,
    class_name,
    closed,
    open_file,
    place,
    reference_helpers,
    write_let,
)
from nlc.backends.reference.rule import RuleWriter
from nlc.backends.reference.states import States
from nlc.backends.reference.weights import Weights
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.words import arguments
from nlc.backends.writer import Header, Writer
from nlc.base.diagnostics import InternalError
from nlc.ir.expr import Expr, rewrite
from nlc.ir.program import Let, Loop, Parallel, Program, Return
from nlc.ir.types import Dim, Type


def emit_module(program: Program, header: Header) -> Printed:
    """The file."""
    file, body = Writer(), Writer()
    open_file(file, program.system, header, program.about)
    emitter = ModuleWriter(program, header, body)
    emitter.write()
    texts = reference_helpers(emitter.printer, program, header.without)
    return closed(file, texts, body, header, class_name(program.system))


class ModuleWriter(BodyWriter):
    """Writes the class of a token system; a backend with statements of its own overrides ``statement``.

    ``forward`` calls ``STREAMS``; ``beside_flows`` is what ``piece`` takes beside flows. ``whole``: ``forward`` takes
    all tokens of a stream at once, so there is no ``piece``.
    """

    STREAMS = "streams"
    beside_flows: tuple[str, ...] = ()

    def __init__(self, program: Program, header: Header, w: Writer):
        self.program, self.header, self.w = program, header, w
        self.system = program.system
        self.hyper_names = {n: f"self.{attribute_name(n)}" for n in self.system.hypers}
        self.flows = program.inputs
        self.arguments = arguments(self.system.inputs)
        first = next(iter(self.flows.values()))
        self.printer = TorchPrinter(self.system, self._hyper, attribute_path, like=first)
        self.first = first
        if program.counted:
            self.beside_flows = ("seen: int | None = None",)
        self.carried = {
            s.var for s in program.slots if s.kind != "tick"
        }  # tensors from call to call
        self.weights = Weights(program, self.printer, w, header.has("checks"))
        self.states = States(program, self.printer, w, self._sizes, self.weights.starts)
        self.outputs: dict[str, str] = {}
        self.rules = {
            name: RuleWriter(rule, header, w, class_name(rule.system))
            for name, rule in program.rules.items()
        }
        self.parts = PartNames(program.names)
        self.whole = not header.has("packed") and not header.has("pieces")

    def constructed(self) -> list[str]:
        """What the constructor does with sizes that are set."""
        if not self.header.has("checks"):
            return []
        return [f"self.STATE = {self.printer.use('state_layout')}(self)"]

    def _hyper(self, name: str) -> str:
        base, bracket, index = name.partition("[")
        return self.hyper_names.get(base, base) + bracket + index

    def write(self) -> None:
        w, name = self.w, class_name(self.system)
        for rule in self.rules.values():
            rule.whole_class()
            self.printer.helpers |= rule.printer.helpers
            w()
            w()
        with w.block(f"class {name}(nn.Module):"):
            class_doc(w, self.program, self.header)
            w()
            self.weights.table()
            self.weights.init(self.constructed())
            if self.weights.any:
                w()
                self.weights.reset()
            w()
            self.states.initial_state()
            w()
            self._forward()
            self.beside_forward()
            w()
            self._step()
            if self.weights.any:
                w()
                self._param_groups()

    def _sizes(self, t: Type) -> list[str]:
        heads = [self._hyper("heads")] if t.head else []
        return heads + [self.printer.size(d) for d in t.dims if isinstance(d, Dim)]

    # -------------------------------------------------------------------------------------------- forward

    def _forward(self) -> None:
        """``forward`` for callers, and ``piece``, which it runs piece by piece and stream by stream."""
        w, names, outputs = self.w, list(self.flows.values()), list(self.system.output)
        taken = [f"{a}: Tensor" for a in self.arguments.values()]
        found = "Tensor" if len(outputs) == 1 else "dict[str, Tensor]"
        kept = "dict | list[dict]" if self.header.has("packed") else "dict"
        given = [f"state: {kept} | None = None"]
        given += ["cu_seqlens: Tensor | None = None"] if self.header.has("packed") else []
        w.define("forward", ["self", *taken, "*", *given], f"tuple[{found}, {kept}]")
        w.depth += 1
        w('"""All tokens of a piece of the stream; two pieces in turn equal one call on both."""')
        self._check_inputs("B", "T")
        self._embed()
        needed = [("started", "checks"), ("expect_finite", "pieces"), ("pieces", "pieces")]
        helpers = [helper for helper, feature in needed if self.header.has(feature)]
        for helper in (*(["declared"] if helpers else []), *helpers):
            self.printer.use(helper)
        target = "(y,), state" if len(outputs) == 1 else "outputs, state"
        if self.header.has("packed"):
            call = f"{target} = {self.printer.use(self.STREAMS)}("
            w.call(call, ["self", "cu_seqlens", "state", *self._given()], ")")
        else:
            self._one_stream(target)
        if self.whole:
            self._body()
            return
        if len(outputs) == 1:
            w("return y, state")
        else:
            items = [f'"{n}": outputs[{i}]' for i, n in enumerate(outputs)]
            w.collection("return {", items, "}, state")
        w.depth -= 1
        w()
        taken = [*(f"{a}: Tensor" for a in names), *self.beside_flows]
        w.define("piece", ["self", "state: dict", *taken], "tuple[list[Tensor], dict]")
        w.depth += 1
        w('"""The outputs of one piece, in the order of the spec, and the state behind it."""')
        self._body()

    def _body(self) -> None:
        self._open_state()
        for statement in self.program.body:
            self.statement(statement)
        self.w.depth -= 1

    def _one_stream(self, target: str) -> None:
        """What ``piece`` is called with, and the call, where sequences are never packed."""
        w, flows = self.w, self._given()
        if self.program.counted:
            w('seen = 0 if state is None else int(state["pos"])')
        if self.header.has("checks"):
            w(f"state = {self._going_on(f'started(self, state, {flows[0]})')}")
        else:
            new, old = f"self.initial_state({flows[0]})", self._going_on("state")
            w(f"state = {new} if state is None else {old}")
        if self.whole:
            return
        call = "pieces(self, " if self.header.has("pieces") else "self.piece("
        counted = ["seen=seen"] if self.program.counted else []
        w.call(f"{target} = {call}", ["state", *flows, *counted], ")")

    def _going_on(self, state: str) -> str:
        """The caller's state as what ``forward`` begins with."""
        return state

    def statement(self, s: Let | Loop | Parallel | Return) -> None:
        """One statement of the body of ``forward``."""
        if isinstance(s, Let):
            self._let(s)
        elif isinstance(s, Loop):
            self._loop(s)
        elif isinstance(s, Return):
            self._return(s)
        else:
            raise InternalError(f"`{type(self).__name__}` has no text for {type(s).__name__}")

    def beside_forward(self) -> None:
        """Methods that ``forward`` calls."""

    def _given(self) -> list[str]:
        """What ``piece`` is given: the inputs as ``forward`` and ``step`` call them, rows for indices."""
        return [self.arguments.get(n, variable) for n, variable in self.flows.items()]

    def _check_inputs(self, *lead: str) -> None:
        """Every input's shape, dtype and device, against the first's."""
        if not self.header.has("checks"):
            return
        first = next(iter(self.arguments.values()))
        for n, argument in self.arguments.items():
            item = self.system.inputs[n]
            t = Type(item.dims, item.head)
            shape = ", ".join([*lead, *(["heads"] if t.head else []), *map(str, t.dims)])
            args = ["self", f'"{n} [{shape}]"', argument, first, *self._sizes(t)]
            args += [f"rows={self.printer.size(item.rows)}"] if item.rows is not None else []
            self.w.call(f"{self.printer.use('takes_flow')}(", args, ")")

    def _embed(self) -> None:
        """The rows that indices count, which are flows from here on."""
        for path, index in self.program.embedded.items():
            layer, rows = attribute_path(path), self.flows[path]
            self.w.at(place(self.header, self.weights.span(f"{path}.weight")))
            number = "" if self.system.modules[path].outer is not None else ".squeeze(-1)"
            self.w(f"{rows} = {layer}({self.arguments[index]}){number}")

    def _open_state(self) -> None:
        w = self.w
        if not self.program.slots:
            w("state = {}")
        for s in self.program.slots:
            w(f'{s.var} = state["{s.key}"]')

    def _return(self, statement: Return) -> None:
        w, p = self.w, self.printer
        texts = {}
        for n, e in statement.outputs.items():
            write_let(w, Let((self._output_name(n, e),), e, "", e.span), p, self.header, self.parts)
            texts[n] = self._output_name(n, e)
        windows = {
            s.key: s for s in self.program.slots if s.kind == "cache" and s.window is not None
        }
        for s in windows.values():
            keep = self.printer.size(s.window)
            var = p.place(s.var)
            w(
                f"{var} = {var}[:, max(0, {var}.shape[1] - {keep} + 1) :]",
                "no later token sees further back",
            )
        self.close_state(statement)
        if not self.whole:
            w.collection("return [", list(texts.values()), "], state")
        elif len(texts) == 1:
            w(f"return {next(iter(texts.values()))}, state")
        else:
            w.collection("return {", [f'"{n}": {x}' for n, x in texts.items()], "}, state")

    def close_state(self, statement: Return) -> None:
        """What the stream carries to the next call."""
        pairs = [f'"{key}": {var}' for key, var in statement.slots.items()]
        if pairs:
            self.w.collection("state = {", pairs, "}")

    def _output_name(self, name: str, e: Expr) -> str:
        """The variable of an output: its own name, unless that is taken."""
        if e.op == "var":
            return str(e.attr)
        if name not in self.outputs:
            taken = {
                *self.parts.taken,
                *self.flows.values(),
                "self",
                "state",
                "torch",
                "nn",
                "F",
            }
            self.outputs[name] = f"{name}_out" if name in taken else name
        return self.outputs[name]

    # -------------------------------------------------------------------------------------------- step and the rest

    def _step(self) -> None:
        w = self.w
        names = self._given()
        one = len(self.system.output) == 1
        returns = f"tuple[{'Tensor' if one else 'dict[str, Tensor]'}, dict]"
        args = ["self", *(f"{a}: Tensor" for a in self.arguments.values())]
        args.append("state: dict | None = None")
        w.define("step", args, returns)
        w.depth += 1
        w('"""One token of each sequence, without the token axis."""')
        self._check_inputs("B")
        if not self.header.has("packed"):
            self._one_token()
            w.depth -= 1
            return
        self._embed()
        given = [f"{a}.unsqueeze(1)" for a in names]
        target = "(y,), state" if one else "outputs, state"
        w.call(f"{target} = streams(", ["self", "None", "state", *given], ")")
        if one:
            w("return y.squeeze(1), state")
        else:
            items = [f'"{n}": outputs[{i}].squeeze(1)' for i, n in enumerate(self.system.output)]
            w.collection("return {", items, "}, state")
        w.depth -= 1

    def _one_token(self) -> None:
        """``step`` as a call of ``forward``."""
        given = [f"{a}.unsqueeze(1)" for a in self.arguments.values()]
        one = len(self.system.output) == 1
        target = f"{'y' if one else 'outputs'}, state"
        self.w.call(f"{target} = self.forward(", [*given, "state=state"], ")")
        token = "y.squeeze(1)" if one else "{name: y.squeeze(1) for name, y in outputs.items()}"
        self.w(f"return {token}, state")

    def _param_groups(self) -> None:
        w = self.w
        groups = self.program.groups
        with w.block("def param_groups(self) -> list[dict]:"):
            if not groups:
                w('"""The slow weights as an optimizer takes them."""')
                w('return [{"params": list(self.parameters())}]')
                return
            w('"""The slow weights as an optimizer takes them.')
            w()
            w("Levels on the outer loss have a period and a rule of their own, which generated")
            w("optimizers honour; torch's own see the groups and their ``lr`` only.")
            w('"""')
            w("groups = [")
            w.depth += 1
            for group in groups:
                params = ", ".join(attribute_path(s) for s in group.states)
                items = [f'"params": [{params}]', f'"period": {self.printer.size(group.period)}']
                if group.rule is not None:
                    items.append(f'"rule": {self.rules[group.rule].name}')
                items += [f'"{k}": {self._constant(e)}' for k, e in group.hypers.items()]
                w.collection("{", items, "},")
            w.depth -= 1
            w("]")
            w('own = {id(p) for group in groups for p in group["params"]}')
            w("rest = [p for p in self.parameters() if id(p) not in own]")
            w('return [{"params": rest}, *groups] if rest else groups')

    def _constant(self, e: Expr) -> str:
        """The value of a hyper over the module's own."""
        mine = rewrite(
            e, lambda n: replace(n, attr=self._hyper(str(n.attr))) if n.op == "hyper" else None
        )
        return hypers.constant(mine, False)
