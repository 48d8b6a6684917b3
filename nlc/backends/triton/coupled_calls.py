"""How modules call the kernels of coupled states: weights first, once for all scans that have the same."""

from __future__ import annotations

from collections.abc import Callable, Collection

from nlc.backends.precedence import ATOM, SUM
from nlc.backends.reference.file import PartNames
from nlc.backends.torch.rows import of_tokens
from nlc.backends.torch.scanned import Scanned, Scans, alike
from nlc.backends.torch.scans import Form
from nlc.backends.triton.coupled_weights import weights
from nlc.backends.triton.decays import KernelPrinter
from nlc.backends.triton.gates import ending
from nlc.ir.coupled import Coupling, coupling
from nlc.ir.expr import Expr
from nlc.ir.gates import Gates, named
from nlc.ir.program import Let
from nlc.ir.scan import Scan


class CoupledCalls(Scans):
    """The part of the writer that prints scans of coupled states."""

    apart: str | None
    row: KernelPrinter
    parts: PartNames
    made: dict[str, str]
    coupled: dict[tuple, str]  # operators of weights, by what they compute
    # of a body: weights that are there, by call and by how many memories they are of
    weighed: tuple[object, dict[tuple[str, int], tuple[str, str]]]

    # the scan's statement and node that alone read it; the name of what that is
    _one_read: Callable[[Scan, Collection[str]], tuple[Let, Expr] | None]
    _read_as: Callable[[Scan, Let, Expr], str]

    def _coupled(self, s: Scan, states: list[str], at: Callable[..., str], f: Form) -> None:
        r, p, w = s.record, self.row, self.w
        c = coupling(r)
        X, u = (self.parts(f"{s.name}_{x}") for x in ("states", "writes"))
        up = {2: "", 1: ".unsqueeze(-1)", 0: "[..., None, None]"}[r.rank]
        begun = [self._begun(s, j, x) for j, x in enumerate(states)]
        begun = [f"({x}){up}" if " " in x and up else f"{x}{up}" for x in begun]
        w.call(f"{X} = torch.stack(", [f"[{', '.join(begun)}]", "-3"], ")")
        self._vectors(s, u, c, at)
        kept = self._weighed(s, u, c, at)
        found = Scanned(f, r, head=self._headed(s))
        if r.key is None:
            found.one = self.parts(f"{s.name}_one")
            w(f"{found.one} = torch.ones_like({u}[..., 0, :1])")
        args = [X, *kept, found.one or at(r.key), u]
        args += [at(r.probe or r.key), str(r.source)] if f.erase else []
        if alone := self._one_read(s, ["coupled"]):
            let, read = alone
            out = self._read_as(s, let, read)
            j, when = read.attr.state, read.attr.when  # type: ignore[attr-defined]
            args += [self._query(read.args[0], found.head), str(j), *self._within]
            self._call([X, p.place(out)], p.use(f.fused(when)), args, s)  # type: ignore[attr-defined]
            known = {j: p.place(out)}
            found = Scanned(None, r, values=known, starts=known)
        else:
            seen = self.parts(f"{s.name}_scan")
            args += self._within
            found.arguments = (f"*{seen}", *(f"{x}={x}" for x in self._within))
            self._call([X, *[seen if s.read else "_"] * self.several], p.use(f.scan), args, s)
        down = {2: "", 1: ".squeeze(-1)", 0: "[..., 0, 0]"}[r.rank]
        for j, x in enumerate(states):
            self._ended(s, j, x, f"{X}[..., {j}, :, :]{down}")
        self.scans[s.name] = found

    @property
    def _within(self) -> list[str]:
        """Where packed sequences are cut, if the module knows."""
        return ["within"] * (self.apart is None)

    def _vectors(self, s: Scan, u: str, c: Coupling, at: Callable[..., str]) -> None:
        """The vectors that are written, side by side."""
        r, row = s.record, "" if s.record.rank else ".unsqueeze(-1)"
        alone = len(c.vectors) == 1
        binds = ATOM if alone or row else SUM
        rows = []
        for e in c.vectors:
            if e is None:
                text = f"{at(r.probe or r.key)} @ {self._towards(s, r.source or 0)}.mT"
                text = f"({text})" if binds == ATOM else text
            else:
                text = at(of_tokens(e), binds)
            rows.append(f"{text}{row}")
        if alone:
            self.w(f"{u} = {rows[0]}.unsqueeze(-2)")
        else:
            self.w.call(f"{u} = torch.stack(", [alike(rows), "-2"], ")")

    def _weighed(self, s: Scan, u: str, c: Coupling, at: Callable[..., str]) -> tuple[str, str]:
        """The variables of weights, made here unless a scan before has the same."""
        r = s.record
        gates: Gates = r.gates  # type: ignore[assignment]
        meant = named(c.gates)[1]
        args = [
            self.row(meant[n]) if not n.startswith("raw") else at(meant[n]) for n in gates.given
        ]
        key = gates, c.decay, c.weights
        if key not in self.coupled:
            name = f"weights{ending(len(self.coupled), self.row.taken)}"
            self.coupled[key] = name
            self.made[name] = weights(name, gates, c, self.apart is None)
        call = self.row.use(self.coupled[key])
        if self.weighed[0] is not self.around:
            self.weighed = self.around, {}
        known = self.weighed[1]
        text = f"{call}({', '.join([*args, str(self._headed(s))])})"
        asked = text, len(self.stacks.get(r.states[0], ()))
        if asked not in known:
            known[asked] = tuple(self.parts(f"{s.name}_{x}") for x in ("kept", "begun"))
            self.w.call(f"{', '.join(known[asked])} = {call}(", [*args, u, *self._within], ")")
        return known[asked]
