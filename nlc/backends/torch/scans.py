"""The algebra of scans as text of the generated file: what a setting of the record does not need is not there.

    S_t = a_t S_{t−1} + (u_t − b_t S_{t−1} p_t) k_tᵀ        with c = log a, summed up to t in a chunk

Every exponent is a difference of such sums that is ≤ 0 where it counts, masked before ``exp``. The rows that a chunk
writes, r_t = u_t − b_t S_{t−1} p_t, solve one unit triangular system. With several states, or a decay that may be
negative, what is kept from token to token is a product of small matrices, which is a triangular solve as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nlc.backends.torch import coupled_texts as coupled
from nlc.backends.torch import scan_texts as plain
from nlc.backends.writer import select
from nlc.ir.expr import Expr
from nlc.ir.ops import neg
from nlc.ir.scan import Record


@dataclass(frozen=True, order=True)
class Form:
    """What of the algebra a record needs. ``kind`` is the record's, ``coupled`` also for one state whose decay has a
    sign."""

    kind: str
    erase: bool = False
    probe: bool = False
    end: bool = (
        False  # nothing reads the states on the way, and the writes are errors times the erase
    )
    toward: bool = False  # what it decays to is an argument

    @property
    def scan(self) -> str:
        """What the scan is called in the generated file."""
        if self.end:
            gated = "gated_" if self.kind == "scalar" else ""
            return f"{gated}delta{'_at' * self.probe}_end" + "_towards" * self.toward
        first = {"none": "", "scalar": "Gated", "channel": "Channel", "coupled": "Coupled"}[
            self.kind
        ]
        if self.kind in ("none", "scalar") and self.erase:
            return f"{first}Delta" + ("At" if self.probe else "")
        return f"{first.lower() or 'additive'}_" + ("delta_" if self.erase else "") + "scan"

    @property
    def call(self) -> str:
        """The text before its arguments."""
        return f"{self.scan}.apply" if self.scan[0].isupper() else self.scan

    @property
    def symmetric(self) -> bool:
        """Whether a read of Sᵀ is one of S with the keys for the rows and the rows for the keys."""
        return self.kind in ("none", "scalar")

    def read(self, when: str, turned: bool = False) -> str:
        """What reading its states is called, or their transposes."""
        first = {"none": "", "scalar": "gated_", "channel": "channel_", "coupled": "coupled_"}
        turned = turned and not self.symmetric
        return f"{first[self.kind]}{'turned_' * turned}read{'_before' * (when == 'before')}"


def form(r: Record, read: bool) -> Form:
    """The form of a record of matrices, whose states on the way are ``read`` or not."""
    kind = "coupled" if r.kind == "signed" else r.kind
    erase = r.source is not None
    plain = erase and kind in ("none", "scalar")
    end = plain and not read and error(r) is not None
    begun = bool(r.start) and r.start[0] is not None
    toward = end and begun and kind == "scalar"  # what does not decay tends to nothing
    return Form(kind, erase, plain and r.probe is not None, end, toward)


def error(r: Record) -> Expr | None:
    """e where a write is −b e, b the erase of one state; None where it is another."""
    write, b = r.write[0], r.erase[0]
    if write is None or b is None:
        return None
    minus = write.op == "neg"
    product = write.args[0] if minus else write
    if product.op != "mul" or b not in product.args:
        return None
    left, right = product.args
    e = right if left == b else left
    return e if minus else neg(e)


_BOTH = (False, True)
FORMS = (
    *(Form(kind, erase) for kind in ("none", "scalar", "channel", "coupled") for erase in _BOTH),
    *(Form(kind, True, True) for kind in ("none", "scalar")),
    *(
        Form(kind, True, probe, True, toward)
        for kind, toward in (("none", False), ("scalar", False), ("scalar", True))
        for probe in _BOTH
    ),
)


def _one_line(text: str) -> str:
    """A signature on one line, where it fits."""

    def joined(m: re.Match[str]) -> str:
        line = f"{m.group(1)}({m.group(2).strip()}) -> {m.group(3)}:"
        return line if len(line) <= 100 else m.group(0)

    return re.sub(r"(def \w+)\(\n    ([^\n]*)\n\) -> ([^\n]*):", joined, text)


def _texts() -> dict[str, str]:
    out = {
        "CHUNK": plain.CHUNK_TEXT,
        "chunks": plain.CHUNKS,
        "decays": plain.DECAYS,
        "as_batch": plain.AS_BATCH,
        "rejoined": plain.REJOINED,
        "CHANNEL_CHUNK": coupled.CHANNEL_CHUNK_TEXT,
        "channel_decays": coupled.CHANNEL_DECAYS,
        "channel_scores": coupled.CHANNEL_SCORES,
        "coupling": coupled.COUPLING,
        "propagation": coupled.PROPAGATION,
        "earlier": coupled.EARLIER,
    }
    sources = {
        "channel": (coupled.CHANNEL_SCAN, coupled.CHANNEL_READ),
        "coupled": (coupled.COUPLED_SCAN, coupled.COUPLED_READ),
    }
    for f in FORMS:
        decay = f.kind == "scalar"
        flags = {"decay": decay, "erase": f.erase, "probe": f.probe, "toward": f.toward}
        scan, read = sources.get(f.kind, (plain.DELTA if f.erase else plain.SCAN, plain.READ))
        text = lambda source: select(source, **flags).replace("PROBE", "p" if f.probe else "k")  # noqa: B023, E731
        if f.end:
            name = f"{'Gated' * decay}Delta{'At' * f.probe}End{'Towards' * f.toward}"
            given = 3 + f.probe + f.toward + 1
            words = {"GIVEN": given, "SAVED": given + 2 * decay, "TOLD": given + decay}
            words |= {"MINE": "S, k, e" + ", p" * f.probe + ", T" * f.toward}
            for at, source in ((name, plain.DELTA_END), (f.scan, plain.END)):
                out[at] = text(source)
                for word, stands in words.items():
                    out[at] = out[at].replace(word, str(stands))
            continue
        out[f.scan] = text(scan)
        for when in ("after", "before"):
            before = when == "before"
            out[f.read(when)] = select(read, decay=decay, before=before, turned=False)
            if not f.symmetric:
                read_ = coupled.CHANNEL_TURNED_READ if f.kind == "channel" else read
                out[f.read(when, True)] = select(read_, decay=decay, before=before, turned=True)
    out["running"] = select(plain.RUNNING, decay=False)
    out["gated_running"] = select(plain.RUNNING, decay=True)
    return {name: _one_line(text) for name, text in out.items()}


TEXTS: dict[str, str] = _texts()
