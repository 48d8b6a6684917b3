"""How kernels run where nothing was tuned: channels that a program holds, warps and stages, by kind of kernel.

A file has the rows of the kinds that it launches, and of tables beside the first those that have such a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

Row = tuple[int, int, int]


@dataclass(frozen=True)
class _Kind:
    """``long`` and ``longest`` are for more than 64 and more than 128 channels, where values would spill; else the latter
    have half as many channels. ``by`` is for a generation of GPUs, up to 128 channels."""

    usual: Row
    long: Row | None = None
    longest: Row | None = None
    by: dict[int, Row] = field(default_factory=dict)
    of_keys: str = ""  # where it is channels of keys that a program holds


KINDS: dict[str, _Kind] = {
    "solve": _Kind((16, 4, 1)),
    "scan": _Kind((32, 4, 2), by={9: (64, 4, 2), 10: (32, 8, 2)}),
    "scan_float32": _Kind((32, 4, 1), longest=(8, 4, 1)),
    "scan_read": _Kind((32, 4, 2), by={8: (32, 8, 2)}),
    "out": _Kind((128, 4, 1)),
    "out_float32": _Kind((64, 8, 1), longest=(64, 8, 1)),
    "scan_back": _Kind((32, 4, 2), by={9: (64, 4, 2), 10: (32, 8, 2)}),
    "scan_back_float32": _Kind((32, 8, 1), long=(16, 8, 1), longest=(8, 4, 1)),
    # whose slopes are in bfloat16, to which its keys are converted
    "scan_back_float16": _Kind((32, 4, 2), by={9: (64, 8, 2), 10: (32, 8, 2)}),
    "out_back": _Kind((64, 8, 2), by={8: (32, 8, 1)}),
    "out_back_float32": _Kind((16, 8, 1), longest=(16, 8, 1)),
    "grads": _Kind((64, 8, 2)),
    "grads_float32": _Kind((16, 8, 2), longest=(16, 8, 2)),  # products take no fewer than 16
    "step": _Kind((32, 4, 1)),
    # decays by channel
    "paired": _Kind((16, 4, 1)),
    "spread": _Kind((32, 2, 1), of_keys="of dk"),
    "fade": _Kind((128, 8, 1), of_keys="of dk"),
    "channel_grads": _Kind((64, 4, 2), of_keys="of either"),
    "channel_delta_back": _Kind((16, 4, 2)),
    "channel_delta_back_float32": _Kind((32, 4, 2)),
    "channel_scan_read": _Kind((32, 4, 2), by={8: (16, 4, 2)}),
    # coupled states
    "coupled_solve": _Kind((64, 4, 1)),
    "coupled_scan": _Kind((16, 4, 2), long=(16, 4, 1)),
    "coupled_delta_scan": _Kind((16, 4, 2), long=(8, 4, 1), longest=(8, 8, 1)),
    "coupled_step": _Kind((32, 4, 1)),
    "coupled_out": _Kind((64, 8, 1)),
    "coupled_scan_back": _Kind((16, 4, 2), long=(16, 4, 2)),
    "coupled_delta_scan_back": _Kind((16, 4, 2), long=(8, 4, 1), longest=(8, 8, 1)),
    "coupled_out_back": _Kind((64, 8, 1)),
    "coupled_grads": _Kind((64, 8, 1)),
    "coupled_erase_grads": _Kind((64, 8, 1)),
}


def launched(texts: Iterable[str]) -> list[str]:
    """The kinds of kernels that texts launch, and those for keys of one dtype."""
    calls = re.findall(r'\b(scan|chunk|coupled|)_?sizes(?:_of)?\(\s*"(\w+)"', "\n".join(texts))
    asked = {f"coupled_{kind}" if of == "coupled" else kind for of, kind in calls}
    return [n for n in KINDS if re.sub(r"_float\d+$", "", n) in asked]


def tables(kinds: Iterable[str]) -> dict[str, str]:
    """The tables of a file that launches some kinds, and the function that looks them up."""
    mine = {n: KINDS[n] for n in kinds}
    by: dict[int, dict[str, Row]] = {}
    for n, k in mine.items():
        for generation, row in k.by.items():
            by.setdefault(generation, {})[n] = row
    long = {n: k.long for n, k in mine.items() if k.long}
    longest = {n: k.longest for n, k in mine.items() if k.longest}
    rows = [f'    "{n}": {k.usual},{f"  # {k.of_keys}" * bool(k.of_keys)}' for n, k in mine.items()]
    said = "# Of each kind of kernel: channels of dv that a program holds, warps, stages."
    made = {"CONFIG": _table(said, "CONFIG", rows)}
    if by:
        rows = [f"    {generation}: {_dict(by[generation])}," for generation in sorted(by)]
        said = "# The same up to 128 channels, on a generation of GPUs."
        made["BY_GENERATION"] = _table(said, "BY_GENERATION", rows)
    for name, table, said in (
        ("LONG", long, "# The same beyond 64 channels, where more values would spill."),
        ("LONGEST", longest, "# The same beyond 128 channels, where more values would spill."),
    ):
        if table:
            made[name] = _table(said, name, [f'    "{n}": {row},' for n, row in table.items()])
    return made | {"configured": _configured(*map(bool, (by, long, longest)))}


def _dict(rows: dict[str, Row]) -> str:
    return "{" + ", ".join(f'"{n}": {row}' for n, row in rows.items()) + "}"


def _table(said: str, name: str, rows: list[str]) -> str:
    return "\n".join(["", said, f"{name} = {{", *rows, "}", ""])


def _configured(by: bool, long: bool, longest: bool) -> str:
    lines = [
        "",
        "def configured(kind: str, dk: int, dv: int) -> tuple[int, int, int]:",
        '    """Channels of dv that a program holds, warps and stages: as tuned, else as in the tables."""',
        "    held, warps, stages = usual = CONFIG[kind]",
    ]
    cases = [("max(dk, dv) > 128 and kind in LONGEST", "LONGEST[kind]")] * longest
    cases += [("max(dk, dv) > 64 and kind in LONG", "LONG[kind]")] * long
    cases += [("max(dk, dv) > 128", "held // 2, warps, stages")]
    for i, (test, value) in enumerate(cases):
        lines += [f"    {'el' * (i > 0)}if {test}:", f"        usual = {value}"]
    if by:
        lines += ["    else:"]
        lines += ["        usual = BY_GENERATION.get(generation(), {}).get(kind, usual)"]
    last = "    return usual if INTERPRETED else tuned().get((kind, dk, dv), usual)"
    return "\n".join([*lines, last, ""])
