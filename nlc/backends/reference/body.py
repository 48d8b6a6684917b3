"""Statements of ``forward``: what is computed for all tokens, and the loop that takes one token after the other."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from nlc.backends.reference.file import (
    PartNames,
    attribute_path,
    first_span,
    place,
    ticks_now,
    write_let,
)
from nlc.backends.reference.weights import Weights
from nlc.backends.torch_printer import ATOM, TorchPrinter
from nlc.backends.writer import WIDTH, Header, Writer
from nlc.ir.expr import walk
from nlc.ir.program import Let, Loop, Program
from nlc.ir.system import System


class BodyWriter:
    """Writes lets and loops; ``carried`` are the tensors that go from call to call, ``first`` is the first input."""

    program: Program
    header: Header
    w: Writer
    system: System
    printer: TorchPrinter
    weights: Weights
    parts: PartNames
    carried: set[str]
    first: str
    whole: bool

    def _let(self, let: Let) -> None:
        if let.expr.op == "conv":
            self._conv(let)
            return
        if let.expr.op == "conv_step":
            self._conv_step(let)
            return
        if self.printer.is_number(let.expr) and let.names[0] in self.carried:
            old = replace(let.expr, op="var", args=(), attr=let.names[0])
            let = replace(let, expr=replace(let.expr, op="filled", args=(old, let.expr), attr=None))
        write_let(self.w, let, self.printer, self.header, self.parts)

    def _conv(self, let: Let) -> None:
        write_let(self.w, let, self.printer, self.header, self.parts)
        self._conv_bias(let)

    def _conv_bias(self, let: Let) -> None:
        if self.system.modules[let.expr.attr].bias:
            bias = self.printer(let.expr.args[2])
            scalar = let.expr.args[0].type.rank == 0
            name = self.printer.place(let.names[0])
            self.w(f"{name} = {name} + {bias}{'.squeeze(-1)' if scalar else ''}")

    def _conv_step(self, let: Let) -> None:
        p = self.printer
        name, window = map(p.place, let.names[:2])
        x, before = p.at(let.expr.args[0], ATOM), p(let.expr.args[-1])
        parts = f"{x}.unsqueeze(1), {p._conv_weight(let.expr)}, {before}"
        conv = f"{p.use('causal_conv')}({parts})"
        start, given = conv.split("(", 1)
        self.w.call(f"{name}, {window} = {start}(", [given.removesuffix(")")], ")")
        self.w(f"{name} = {name}.squeeze(1)")
        self._conv_bias(let)

    def _loop(self, loop: Loop) -> None:
        w = self.w
        w.at(place(self.header, first_span((*loop.first, *loop.body))))
        for outer in loop.collects:
            w(f"{outer} = []")
        if loop.counter:
            start = next(s for s in self.program.slots if s.kind == "tick")
            seen = "seen" if self.whole else f"int({start.var}) if seen is None else seen"
            w(f"{loop.counter} = {seen}", "tokens seen so far")
            self.printer.numbers.add(loop.counter)
        if loop.watched:
            w("graph = torch.is_grad_enabled()", "whether the caller differentiates")
        recorded = "torch.enable_grad(), " if loop.watched else ""
        with w.block(f"with {recorded}torch.autocast({self.first}.device.type, enabled=False):"):
            self.printer.cast, self.printer.dtype = self._cast(loop), self._dtype()
            for let in loop.first:
                self._let(let)
            self._loop_head(loop)
            w.depth += 1
            if loop.counter:
                w(f"{loop.counter} += 1")
            for when, lets in groupby(loop.body, key=lambda x: x.when):
                if when is None:
                    for let in lets:
                        self._let(let)
                    continue
                with w.block(f"if {ticks_now(when, loop.counter, self.printer)}:"):
                    for let in lets:
                        self._let(let)
            for outer, name in loop.collects.items():
                w(f"{outer}.append({name})")
            w.depth -= 1
            self.printer.cast = self.printer.dtype = None
        for outer in loop.collects:
            w(f"{outer} = torch.stack({outer}, 1).to({self.first}.dtype)")
            if loop.watched:
                w(f"{outer} = {outer} if graph else {outer}.detach()")

    def _cast(self, loop: Loop) -> dict[str, str]:
        """The weights that the loop applies, which may be stored in half precision, in the states' dtype."""
        out: dict[str, str] = {}
        lets = (*loop.first, *loop.body)
        for e in (n for let in lets for n in walk(let.expr) if n.op == "weight"):
            path = str(e.attr)
            if path not in out:
                out[path] = self.parts(path.replace(".", "_"), e)
                self.w.at(place(self.header, self.weights.span(path)))
                self.w(f"{out[path]} = {attribute_path(path)}.to({self._dtype()})")
        return out

    def _dtype(self) -> str:
        """What the loop computes in: the states' dtype."""
        held = next((s.var for s in self.program.slots if s.kind == "level"), None)
        return (
            f"{held}.dtype" if held else f"torch.promote_types({self.first}.dtype, torch.float32)"
        )

    def _loop_head(self, loop: Loop) -> None:
        """``for k_t, v_t in ticks(S.dtype, k, v):``, over as many lines as it needs."""
        w, inner = self.w, list(loop.slices.values())
        if not inner:
            w(f"for _ in range({self.first}.shape[1]):")
            return
        targets = ", ".join(inner) if len(inner) > 1 else f"({inner[0]},)"
        flows = [self._dtype(), *loop.slices]
        one = f"for {targets} in {self.printer.use('ticks')}({', '.join(flows)}):"
        if 4 * w.depth + len(one) <= WIDTH:
            w(one)
            return
        w.call("flows = ticks(", flows, ")")
        if 4 * w.depth + len(targets) + len("for  in flows:") <= WIDTH:
            w(f"for {targets} in flows:")
            return
        w("for (")
        for name in inner:
            w(f"    {name},")
        w(") in flows:")
